"""An ONNX file as a torch network of ordinary modules.

onnx2torch converts it: it gives a torch.fx graph of nn.Conv2d and the like, which can be traced, pruned and exported
again. (onnx2pytorch knows more operators, but its network is an interpreter that torch.fx cannot trace.) The file is
first simplified by onnxsim, which folds shape arithmetic, and operators of opset 18 and later are written as in opset
17, the newest that onnx2torch knows throughout.
"""

import hashlib
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.errors import NetworkError

_OPSET = 17
_TOLERANCE = 1e-4
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSumExp")


def read_onnx(path: Path) -> nn.Module:
    """The network with the file's weights, in eval mode; its attribute `input_hw` is the file's, if it names one.

    Raises NetworkError.
    """
    import onnx
    import onnxsim

    convert = _converter(path)
    _exists(path)
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's errors and the checker's have no common class
        raise NetworkError(
            "not a valid ONNX file", place=str(path), value=str(error).partition("\n")[0], remedy="export it again"
        ) from None
    try:
        simplified, same = onnxsim.simplify(model)
    except Exception:  # its errors have no common class; the converter may know what it cannot simplify
        same = False
    model = simplified if same else model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = _with_numbers(convert(as_opset_17(model)))
    except NotImplementedError as error:
        raise NetworkError(
            "onnx2torch lacks an operator", place=str(path), value=_operator(error),
            remedy="export the network without it, or give it as package.module:function",
        ) from None  # fmt: skip
    except Exception as error:
        raise NetworkError(
            f"onnx2torch cannot convert the file: {type(error).__name__}: {error}", place=str(path),
            remedy="give the network as package.module:function",
        ) from error  # fmt: skip
    sides = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    network.input_hw = tuple(sides[2:]) if len(sides) == 4 and all(sides[2:]) else None  # type: ignore[assignment]
    return network.eval()


def check_conversion(path: Path, network: nn.Module, input_hw: tuple[int, int]) -> None:
    """Compares the network with onnxruntime on one random picture. Raises NetworkError beyond a relative 1e-4."""
    import numpy as np
    import onnxruntime

    image = np.random.default_rng(0).standard_normal((1, 3, *input_hw), dtype=np.float32)
    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        expected = session.run(None, {session.get_inputs()[0].name: image})
    except Exception as error:  # onnxruntime's exceptions have no common class
        raise NetworkError(
            "onnxruntime cannot run the file", place=str(path), value=str(error).partition("\n")[0],
            remedy="export it again",
        ) from None  # fmt: skip
    with torch.no_grad():
        outputs = network(torch.from_numpy(image))
    found = outputs if isinstance(outputs, list | tuple) else (outputs,)
    for ours, theirs in zip(found, expected, strict=True):
        distance = float(np.abs(ours.numpy() - theirs).max() / max(np.abs(theirs).max(), 1e-12))
        if distance > _TOLERANCE:
            raise NetworkError(
                f"the converted network must answer as onnxruntime does, within a relative {_TOLERANCE:g}",
                place=str(path), value=f"{distance:.1e}", remedy="give the network as package.module:function",
            )  # fmt: skip


def sha256_of(path: Path) -> str:
    """Of the file's content. Raises NetworkError if there is none."""
    _exists(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def as_opset_17(model: Any) -> Any:
    """Writes reductions, Split, Resize and Pad of opset 18 and later as opset 17 has them; others are the same.

    Left alone where an attribute says what opset 17 cannot; the converter then names the operator. Reshape loses
    `allowzero`, which only matters to tensors without elements.
    """
    from onnx import helper, numpy_helper

    versions = {entry.domain: entry for entry in model.opset_import}
    for node in model.graph.node:
        if node.op_type == "Reshape":
            _drop(node, "allowzero")
    if versions[""].version <= _OPSET:
        return model
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type in _REDUCTIONS and len(node.input) == 2 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
            del node.input[1]
            node.attribute.append(helper.make_attribute("axes", axes))
        elif node.op_type == "Split":
            _drop(node, "num_outputs")  # opset 17 splits evenly by the number of outputs
        elif node.op_type == "Resize" and not attributes.get("antialias") and not attributes.get("axes"):
            for name in ("antialias", "axes", "keep_aspect_ratio_policy"):
                _drop(node, name)
        elif node.op_type == "Pad" and len(node.input) == 4 and not node.input[3]:
            del node.input[3]
    versions[""].version = _OPSET
    return model


class FixedSlice(nn.Module):
    """A slice by numbers. onnx2torch's reads them from tensors at every call, in a way that torch will give up."""

    def __init__(self, starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> None:
        super().__init__()
        self.slices = {
            axis: slice(start, end, step) for start, end, axis, step in zip(starts, ends, axes, steps, strict=True)
        }

    def forward(self, x: Tensor) -> Tensor:
        """The part of x between the numbers."""
        slices = {axis % x.dim(): one for axis, one in self.slices.items()}
        return x[tuple(slices.get(axis, slice(None)) for axis in range(x.dim()))]


class FixedSplit(nn.Module):
    """A split into `parts` equal ones (the last may be smaller), or into sizes."""

    def __init__(self, parts: int, axis: int, sizes: list[int] | None) -> None:
        super().__init__()
        self.parts, self.axis, self.sizes = parts, axis, sizes

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parts of x."""
        return (
            x.chunk(self.parts, self.axis) if self.sizes is None else torch.split_with_sizes(x, self.sizes, self.axis)
        )


class FixedReshape(nn.Module):
    """A reshape by numbers; 0 keeps the input's size."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """x with another shape."""
        return x.reshape([size or x.shape[axis] for axis, size in enumerate(self.shape)])


def _with_numbers(network: nn.Module) -> nn.Module:
    """Slices, splits, reshapes and resizings whose numbers are constants of the graph get them as numbers.

    Those of onnx2torch read tensors at every call, which the meta device and tracing do not like.
    """
    assert isinstance(network, fx.GraphModule)
    for node in network.graph.nodes:
        module = network.get_submodule(node.target) if node.op == "call_module" else None
        names, build = _WITH_NUMBERS.get(type(module).__name__, ((), None))
        if build is None:
            continue
        given = dict(zip(names, node.args[1:], strict=False)) | node.kwargs
        numbers = {name: _constant(network, argument) for name, argument in given.items() if argument is not None}
        replacement = build(module, **numbers) if None not in numbers.values() else None
        if replacement is not None:
            network.add_submodule(node.target, replacement)
            node.args, node.kwargs = node.args[:1], {}
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()
    return network


def _slice(
    module: Any, starts: list[int], ends: list[int], axes: list[int] | None = None, steps: list[int] | None = None
) -> nn.Module | None:
    axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
    return FixedSlice(starts, ends, axes, steps) if min(steps) > 0 else None


def _split(module: Any, split: list[int] | None = None) -> nn.Module | None:
    return FixedSplit(module.num_splits, module.axis, split)


def _reshape(module: Any, shape: list[int]) -> nn.Module | None:
    return FixedReshape(shape)


def _upsample(
    module: Any, roi: object = None, scales: list[float] | None = None, sizes: list[int] | None = None
) -> nn.Module | None:
    mode = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}.get(module.onnx_mode)
    if mode is None or len(scales or sizes or ()) != 4 or (scales and scales[:2] != [1, 1]):
        return None
    if scales:
        return nn.Upsample(scale_factor=tuple(scales[2:]), mode=mode, align_corners=module.align_corners)
    assert sizes is not None
    return nn.Upsample(size=tuple(sizes[2:]), mode=mode, align_corners=module.align_corners)


_WITH_NUMBERS: dict[str, tuple[tuple[str, ...], Callable[..., nn.Module | None]]] = {
    "OnnxSlice": (("starts", "ends", "axes", "steps"), _slice),
    "OnnxSplit13": (("split",), _split),
    "OnnxReshape": (("shape",), _reshape),
    "OnnxResize": (("roi", "scales", "sizes"), _upsample),
}


def _constant(network: fx.GraphModule, argument: Any) -> Any:
    """The numbers of a constant tensor of the graph; None if it is computed."""
    if not isinstance(argument, fx.Node):
        return None
    if argument.op == "get_attr":
        owner, _, name = str(argument.target).rpartition(".")
        value = getattr(network.get_submodule(owner), name)
    elif argument.op == "call_module" and not argument.args:
        value = getattr(network.get_submodule(str(argument.target)), "value", None)
    else:
        return None
    return value.tolist() if isinstance(value, Tensor) and value.dim() == 1 else None


def _drop(node: Any, name: str) -> None:
    for attribute in [attribute for attribute in node.attribute if attribute.name == name]:
        node.attribute.remove(attribute)


def _exists(path: Path) -> None:
    if not path.is_file():
        raise NetworkError("no such file", place=str(path), remedy="give the path of an ONNX file")


def _converter(path: Path) -> Callable[[Any], nn.Module]:
    try:
        with _torchvision():
            from onnx2torch import convert
    except ImportError as error:
        raise NetworkError(
            "reading an ONNX network needs onnx2torch", place=str(path), value=str(error),
            remedy="pip install 'compress-pose[onnx]'",
        ) from None  # fmt: skip
    return convert  # type: ignore[no-any-return]


def torchvision_works() -> bool:
    """Whether torchvision can be imported. The one on the package index fails beside a CPU build of torch."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        return False
    return True


@contextmanager
def _torchvision() -> Iterator[None]:
    """An empty torchvision during onnx2torch's import, where the real one is missing or fails.

    onnx2torch imports it for two operators that pose networks do not have: NonMaxSuppression and RoiAlign.
    """
    if torchvision_works():
        yield
        return
    empty, operators = types.ModuleType("torchvision"), types.ModuleType("torchvision.ops")
    for module in (empty, operators):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    empty.ops, operators.roi_align = operators, None  # type: ignore[attr-defined]
    sys.modules.update({"torchvision": empty, "torchvision.ops": operators})
    try:
        yield
    finally:
        del sys.modules["torchvision"], sys.modules["torchvision.ops"]


def _operator(error: NotImplementedError) -> str:
    """`HardSwish (opset 14)` from onnx2torch's description of an operation."""
    text = str(error)
    kind, version = (text.partition(f"{key}=")[2].split(",")[0].strip("')") for key in ("operation_type", "version"))
    return f"{kind} (opset {version})" if kind else text
