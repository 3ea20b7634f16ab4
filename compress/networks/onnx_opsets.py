"""Operators of any opset from 7 as opset 17 writes them: the newest that onnx2torch knows throughout.

Between opset 7 and 17 many attributes became inputs, and some operators got another name or meaning; every such change
is undone here, one function per operator, by the ONNX operator changelog. (onnx.version_converter refuses several:
BatchNormalization and Upsample before opset 9, Slice with attributes.) Operators of later opsets go the other way.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

OLDEST = 7
"""Before it, additions broadcast by an attribute; onnxruntime promises nothing for such files either."""
_OPSET = 17
_SOFTMAX = 13
_LOWEST = -3.4028234663852886e38
"""The lowest float32."""
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp")


def as_opset_17(model: Any) -> None:
    """Writes the operators as opset 17 has them; changes the model.

    Newer ones are left alone where an attribute says what opset 17 cannot; the converter then names the operator.
    Reshape loses `allowzero`, which only matters to tensors without elements. Raises ValueError for an older operator
    that opset 17 cannot say, and names it.
    """
    versions = {entry.domain or "": entry for entry in model.opset_import}
    version = versions[""].version
    ranks = _ranks(model) if version < _SOFTMAX else {}
    nodes = [new for node in model.graph.node for new in _raised(model, node, version, ranks)]
    nodes = [new for node in nodes for new in _plain(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.ir_version = max(model.ir_version, 8)
    if version > _OPSET:
        _lower(model)
    versions[""].version = _OPSET


def _plain(node: Any) -> Iterator[Any]:
    """What onnx2torch does not read: `allowzero`, and a Clip without a lower bound, which gets the lowest number."""
    if node.op_type == "Reshape":
        _pop(node, "allowzero")
    elif node.op_type == "Clip" and len(node.input) == 3 and not node.input[1]:
        highest = node.input.pop()
        node.input.pop()
        yield from _add_input(node, "min", _LOWEST)
        node.input.append(highest)
    yield node


# --- From older opsets -----------------------------------------------------------------------------------------------


def _raised(model: Any, node: Any, version: int, ranks: Mapping[str, int]) -> Iterator[Any]:
    """What opset 17 writes for the node of an older version: constants first, the node itself last."""
    before, rule = _CHANGED.get(node.op_type, (0, None))
    if node.op_type in ("Softmax", "LogSoftmax") and version < _SOFTMAX:
        yield from _softmax(node, ranks.get(node.input[0]))
    elif rule is not None and version < before:
        yield from rule(model, node)
    else:
        yield node


def _as_inputs(*names: str) -> Callable[[Any, Any], Iterator[Any]]:
    """For attributes that became inputs, in this order behind the first input. A later one may be missing."""

    def moved(model: Any, node: Any) -> Iterator[Any]:
        values = [_pop(node, name) for name in names]
        for name, value in zip(names, values, strict=True):
            yield from _add_input(node, name, value)
        while len(node.input) > 1 and not node.input[-1]:
            del node.input[-1]
        yield node

    return moved


def _add_input(node: Any, name: str, value: Any) -> Iterator[Any]:
    """The constant that becomes the node's next input; an empty input for None. Integers as int64, numbers as float."""
    import numpy as np
    from onnx import helper, numpy_helper

    if value is None:
        node.input.append("")
        return
    whole = isinstance(value, int) or (isinstance(value, list) and all(isinstance(one, int) for one in value))
    tensor = numpy_helper.from_array(np.array(value, dtype=np.int64 if whole else np.float32))
    constant = f"{node.output[0]}_{name}"
    node.input.append(constant)
    yield helper.make_node("Constant", [], [constant], value=tensor)


def _batch_norm(model: Any, node: Any) -> Iterator[Any]:
    """`spatial` says whether there is one mean per channel, which is all that later opsets have.

    With spatial=0 there is one per cell; files have it with one per channel as well, which is meant then. Per cell it
    is x·scale + shift.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    spatial = _pop(node, "spatial")
    parameters = _constants(model, node.input[1:5])
    if spatial == 0 and parameters is None:
        raise ValueError("BatchNormalization with spatial=0 and computed parameters")
    if spatial != 0 or parameters is None or parameters[0].ndim == 1:
        yield node
        return
    gain, bias, mean, variance = parameters
    scale = gain / np.sqrt(variance + (_pop(node, "epsilon") or 1e-5))
    name = node.output[0]
    for suffix, array in (("scale", scale), ("shift", bias - mean * scale)):
        tensor = numpy_helper.from_array(array.astype(np.float32))
        yield helper.make_node("Constant", [], [f"{name}_{suffix}"], value=tensor)
    yield helper.make_node("Mul", [node.input[0], f"{name}_scale"], [f"{name}_scaled"])
    yield helper.make_node("Add", [f"{name}_scaled", f"{name}_shift"], [name])


def _upsample(model: Any, node: Any) -> Iterator[Any]:
    """Resize reads cell i at i / scale, as Upsample and Resize did before opset 11."""
    from onnx import helper

    scales = _pop(node, "scales")
    x, sizes = node.input[0], list(node.input[1:])
    resize = helper.make_node(
        "Resize",
        [x, ""],
        [node.output[0]],
        node.name,
        mode=_pop(node, "mode") or "nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    if scales is None:
        resize.input.extend(sizes)
    else:
        yield from _add_input(resize, "scales", [float(scale) for scale in scales])
    yield resize


def _pad(model: Any, node: Any) -> Iterator[Any]:
    value = _pop(node, "value")
    yield from _add_input(node, "pads", _pop(node, "pads"))
    if value:
        yield from _add_input(node, "value", float(value))
    yield node


def _clip(model: Any, node: Any) -> Iterator[Any]:
    bounds = {name: _pop(node, name) for name in ("min", "max")}
    for name, value in bounds.items():
        yield from _add_input(node, name, None if value is None else float(value))
    yield node


def _dropout(model: Any, node: Any) -> Iterator[Any]:
    """Nothing at inference. Raises ValueError if its mask is read."""
    from onnx import helper

    masks = set(node.output[1:])
    read = {name for other in model.graph.node for name in other.input} | {one.name for one in model.graph.output}
    if masks & read:
        raise ValueError("Dropout whose mask is an output")
    yield helper.make_node("Identity", [node.input[0]], [node.output[0]], node.name)


def _softmax(node: Any, rank: int | None) -> Iterator[Any]:
    """It saw a matrix, all axes from `axis` (1 unless given) on as one. Of the last axis alone it is the same today."""
    from onnx import helper

    axis = _pop(node, "axis")
    axis = 1 if axis is None else axis
    if axis == -1 or (rank is not None and axis % rank == rank - 1):
        node.attribute.append(helper.make_attribute("axis", -1))
        yield node
        return
    x, y = node.input[0], node.output[0]
    kind = node.op_type
    if axis < 0:
        if rank is None:
            raise ValueError(f"{kind} along axis {axis} of a tensor of unknown rank")
        axis %= rank
    yield helper.make_node("Shape", [x], [f"{y}_shape"])
    yield helper.make_node("Flatten", [x], [f"{y}_flat"], axis=axis)
    yield helper.make_node(kind, [f"{y}_flat"], [f"{y}_matrix"], node.name, axis=-1)
    yield helper.make_node("Reshape", [f"{y}_matrix", f"{y}_shape"], [y])


_CHANGED: dict[str, tuple[int, Callable[[Any, Any], Iterator[Any]]]] = {
    "BatchNormalization": (9, _batch_norm),
    "Upsample": (10, _upsample),
    "Resize": (11, _upsample),
    "Slice": (10, _as_inputs("starts", "ends", "axes")),
    "TopK": (10, _as_inputs("k")),
    "Clip": (11, _clip),
    "Pad": (11, _pad),
    "Dropout": (12, _dropout),
    "Split": (13, _as_inputs("split")),
    "Squeeze": (13, _as_inputs("axes")),
    "Unsqueeze": (13, _as_inputs("axes")),
    "ReduceSum": (13, _as_inputs("axes")),
}
"""Operator → the opset that changed it, and how the older form is written today; but Softmax, which needs ranks."""


# --- From newer opsets -----------------------------------------------------------------------------------------------


def _lower(model: Any) -> None:
    """Reductions, Split, Resize and Pad of opset 18 and later."""
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type in _REDUCTIONS and len(node.input) == 2 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
            del node.input[1]
            node.attribute.append(helper.make_attribute("axes", axes))
        elif node.op_type == "Split":
            _pop(node, "num_outputs")  # opset 17 splits evenly by the number of outputs
        elif node.op_type == "Resize" and not attributes.get("antialias") and not attributes.get("axes"):
            for name in ("antialias", "axes", "keep_aspect_ratio_policy"):
                _pop(node, name)
        elif node.op_type == "Pad" and len(node.input) == 4 and not node.input[3]:
            del node.input[3]


# --- Parts of a model ------------------------------------------------------------------------------------------------


def _pop(node: Any, name: str) -> Any:
    """The attribute's value, which the node loses; None if it has none. Text as str, several numbers as a list."""
    from onnx import helper

    for attribute in node.attribute:
        if attribute.name == name:
            value = helper.get_attribute_value(attribute)
            node.attribute.remove(attribute)
            return (
                value.decode() if isinstance(value, bytes) else value if isinstance(value, int | float) else list(value)
            )
    return None


def _constants(model: Any, names: Sequence[str]) -> list[Any] | None:
    """The arrays of these constants; None if one is computed."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    known = all(name in tensors for name in names)
    return [numpy_helper.to_array(tensors[name]) for name in names] if known else None


def _ranks(model: Any) -> dict[str, int]:
    """Number of axes of every tensor, as far as shape inference knows."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:  # its errors have no common class; then only what the file names is known
        graph = model.graph
    typed = ((one.name, one.type.tensor_type) for one in (*graph.value_info, *graph.input, *graph.output))
    return {name: len(of.shape.dim) for name, of in typed if of.HasField("shape")}
