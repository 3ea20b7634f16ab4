"""What onnxruntime makes of a model: its optimised graph's nodes as kernels, their times, and models made of kernels.

onnxruntime writes the graph it runs to a file and every node's time to a profile, which has the shapes too.
The nodes of that graph can be put into another model as they are, which is then run without optimising it again.
"""

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compress.engines.engine import Profile, missing_file
from compress.engines.kernel import Kernel, Operand, Value
from compress.errors import EngineError

OPTIMISED = "optimised"
"""Key of the metadata by which a model says that it is to run as it is."""
_DOMAINS = {"com.microsoft.nchwc": "nchwc.", "com.microsoft": "microsoft.", "": "", "ai.onnx.ml": "ml."}
_PREFIXES = {prefix: domain for domain, prefix in _DOMAINS.items() if prefix}
_DEFAULTS = {
    "auto_pad": "NOTSET",
    "group": 1,
    "channels_last": 0,
    "ceil_mode": 0,
    "storage_order": 0,
    "allowzero": 0,
    "cubic_coeff_a": -0.75,
    "exclude_outside": 0,
    "extrapolation_value": 0.0,
}
_WHOLE_LISTS = {"dilations": 1, "strides": 1, "pads": 0, "output_padding": 0}  # left out where all are that
_FLOAT_VALUES = {"Resize", "nchwc.Upsample", "Upsample", "Clip", "Pad"}  # floats steer the work of these
_MOST_VALUES = 16


class OnnxRuntimeProfiler:
    """A loaded model with random inputs; see Profiler."""

    def __init__(self, path: Path, options: onnxruntime.SessionOptions, profiled: onnxruntime.SessionOptions) -> None:
        """options: of the plain runs. profiled: equal ones, which are changed to profile."""
        folder = tempfile.mkdtemp()
        self._clean = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)  # also if never finished
        self._path, self._graph = path, Path(folder, "optimised.onnx")
        profiled.enable_profiling = True
        profiled.profile_file_prefix = str(Path(folder, "profile"))
        profiled.optimized_model_filepath = str(self._graph)
        try:
            self._plain, self._profiled = (
                onnxruntime.InferenceSession(str(path), o, providers=["CPUExecutionProvider"])
                for o in (options, profiled)
            )
        except Exception as error:  # onnxruntime's exceptions share no narrower base
            raise missing_file(path, "onnxruntime", str(error)) from error
        random = np.random.default_rng(0)
        self._feed = {i.name: _random(random, i.type, i.shape) for i in self._plain.get_inputs()}

    def run(self) -> None:
        """One pass."""
        self._plain.run(None, self._feed)

    def run_timed(self) -> None:
        """One pass with every node timed."""
        self._profiled.run(None, self._feed)

    def finish(self) -> Profile:
        """What was timed. Times are whole microseconds plus half of one, which the profile cuts off on average."""
        events = runs_of(json.loads(Path(self._profiled.end_profiling()).read_text()))
        kernels = kernels_of_graph(self._graph, events[0], self._path)
        self._clean()
        return Profile(kernels, [[(e["dur"] + 0.5) / 1000 for e in run] for run in events], _names(events[0]))


def runs_of(profile: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The nodes' events of every pass in onnxruntime's profile."""
    runs: list[list[dict[str, Any]]] = [[]]
    for entry in profile:
        if entry["cat"] == "Node" and entry["name"].endswith("_kernel_time"):
            runs[-1].append(entry)
        elif entry["name"] == "model_run":
            runs.append([])
    return runs[:-1]


def kernels_of_graph(graph: Path, events: Sequence[Mapping[str, Any]], place: Path) -> tuple[Kernel, ...]:
    """The kernels of an optimised model's file in the order of one run's events, which tell the shapes.

    place: the model it was made from. Raises EngineError for a broken file, and for a node with a graph inside (If,
    Loop), whose work the profile does not tell apart.
    """
    try:
        model = onnx.load(graph)
    except Exception as error:  # protobuf's own
        raise missing_file(graph, "onnxruntime", "not an ONNX model") from error
    nodes = {node.name: node for node in model.graph.node if node.name}
    unnamed = [node for node in model.graph.node if not node.name]  # of operators run by their definition: hard swish
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    # Not the profile's own list of inputs: weights that a node has packed for itself are missing there.
    shapes = {value.name: _declared(value) for value in model.graph.input}
    kernels = []
    for event, name in zip(events, _names(events), strict=True):
        node = nodes.get(name)
        if node is None:
            ready = (n for n in unnamed if all(i in shapes or i in constants for i in n.input))
            node = next((n for n in ready if n.op_type == event["args"]["op_name"]), None)
            unnamed = [other for other in unnamed if other is not node]
        if node is None or any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
            raise EngineError(
                "a network with control flow cannot be cut into kernels",
                place=f"{place}: {name}",
                value=event["args"]["op_name"],
                remedy="export it without loops and branches",
            )
        operator = _DOMAINS.get(node.domain, f"{node.domain}.") + node.op_type
        inputs = [
            _constant_operand(operator, constants[i]) if i in constants else shapes[i] if i else Operand((), "none")
            for i in node.input
        ]
        outputs = [_shaped(shape) for shape in event["args"]["output_type_shape"]]
        shapes.update(zip(filter(None, node.output), outputs, strict=True))
        kernels.append(onnx_kernel(operator, inputs, outputs, {a.name: _value(a) for a in node.attribute}))
    return tuple(kernels)


def onnx_kernel(
    operator: str, inputs: Sequence[Operand], outputs: Sequence[Operand], attributes: Mapping[str, Value]
) -> Kernel:
    """The kernel of a node with these operands; attributes at their defaults may be given or left out."""
    weights = next((o for o in inputs if o.constant and len(o.shape) >= 2 and not o.values), None)
    if weights is None and "Conv" in operator:  # of convolutions whose weights are computed for every picture
        weights = inputs[1]
    kept = {
        name: value
        for name, value in sorted(attributes.items())
        if value not in ("", _DEFAULTS.get(name))
        and not (name in _WHOLE_LISTS and isinstance(value, tuple) and set(value) == {_WHOLE_LISTS[name]})
        and not (name == "kernel_shape" and weights is not None)
    }
    kind, macs = [operator, f"{sum(not o.constant for o in inputs)} in"], 0
    positions = outputs[0].shape[2:]
    if operator.endswith("ConvTranspose"):
        positions = inputs[0].shape[2:]
    if weights is not None and "Conv" in operator:
        macs = weights.elements * prod(positions)
        groups = kept.get("group", 1)
        kind += [
            "x".join(map(str, weights.shape[2:])),
            "" if groups == 1 else "depthwise" if groups == weights.shape[0] else "grouped",
        ]
        kind += [f"{name} {kept[name]}" for name in ("strides", "dilations") if name in kept]
    elif operator.endswith(("MatMul", "Gemm")):
        macs = outputs[0].elements * inputs[0].shape[-1]
    elif "kernel_shape" in kept:
        kind += [str(kept["kernel_shape"]), str(kept.get("strides", ""))]
    return Kernel(operator, tuple(inputs), tuple(outputs), tuple(kept.items()), " ".join(filter(None, kind)), macs)


def assemble(kernels: Sequence[Kernel], path: Path) -> None:
    """Writes one model in which each kernel reads what another node has just made; node `u<i>` is kernel i.

    Constants are random, and as small as weights are. Inputs are shared: one of each shape and type.
    """
    random = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    weights: list[TensorProto] = []
    inputs: dict[str, Operand] = {}
    for index, kernel in enumerate(kernels):
        names = []
        for position, operand in enumerate(kernel.inputs):
            name = f"u{index}.{position}"
            if operand.dtype == "none":
                names.append("")
            elif operand.constant:
                names.append(name)
                weights.append(numpy_helper.from_array(_constant(random, operand), name))
            else:
                names.append(name)
                inputs[f"image {operand}"] = operand
                fresh = "Identity" if operand.dtype == "bool" else "Neg"
                nodes.append(helper.make_node(fresh, [f"image {operand}"], [name], name=f"s{index}.{position}"))
        prefix, _, operator = kernel.operator.rpartition(".")
        made = [f"u{index}.out{n}" for n in range(len(kernel.outputs))]
        domain = _PREFIXES.get(f"{prefix}.", prefix)
        attributes: dict[str, Any] = dict(kernel.attributes)
        nodes.append(helper.make_node(operator, names, made, name=f"u{index}", domain=domain, **attributes))
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in _DOMAINS if domain)]
    declared = [helper.make_tensor_value_info(n, _onnx_type(o.dtype), o.shape) for n, o in inputs.items()]
    last = helper.make_tensor_value_info(f"u{len(kernels) - 1}.out0", _onnx_type(kernels[-1].outputs[0].dtype), None)
    model = helper.make_model(
        helper.make_graph(nodes, "kernels", declared, [last], weights), opset_imports=opsets, ir_version=10
    )
    helper.set_model_props(model, {OPTIMISED: "yes"})
    path.write_bytes(model.SerializeToString())


OPSET = 17
"""Of exported models, and of the kernels cut from them."""


def _names(events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(event["name"].removesuffix("_kernel_time") for event in events)


def _constant_operand(operator: str, tensor: TensorProto) -> Operand:
    shape, dtype = tuple(tensor.dims), str(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    steers = dtype.startswith(("int", "uint", "bool")) or operator in _FLOAT_VALUES
    if not steers or prod(shape) > _MOST_VALUES:
        return Operand(shape, dtype, constant=True)
    return Operand(shape, dtype, constant=True, values=tuple(numpy_helper.to_array(tensor).ravel().tolist()))


def _declared(value: onnx.ValueInfoProto) -> Operand:
    tensor = value.type.tensor_type
    dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return Operand(tuple(dimension.dim_value for dimension in tensor.shape.dim), dtype)


def _shaped(shape: Mapping[str, Sequence[int]]) -> Operand:
    ((dtype, sizes),) = shape.items()
    return Operand(tuple(sizes), _NUMPY.get(dtype, dtype))


_NUMPY = {"float": "float32", "double": "float64"}


def _value(attribute: onnx.AttributeProto) -> Value:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, int | float):
        return value
    if isinstance(value, onnx.TensorProto):
        return str(numpy_helper.to_array(value).tolist())
    return tuple(item.decode() if isinstance(item, bytes) else item for item in value)


def _onnx_type(dtype: str) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def _constant(random: np.random.Generator, operand: Operand) -> NDArray[Any]:
    if operand.values:
        return np.array(operand.values, operand.dtype).reshape(operand.shape)
    values = random.uniform(0.01, 0.1, operand.shape)
    return np.asarray(values if operand.dtype.startswith("float") else np.zeros(operand.shape), operand.dtype)


def _random(random: np.random.Generator, kind: str, shape: Sequence[int]) -> NDArray[Any]:
    """kind: as `tensor(float)`."""
    dtype = kind.removeprefix("tensor(").removesuffix(")")
    values = random.standard_normal(shape) if dtype in _NUMPY else np.zeros(shape)
    return np.asarray(values, _NUMPY.get(dtype, dtype))
