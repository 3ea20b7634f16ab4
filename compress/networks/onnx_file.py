"""An ONNX file as a torch network of ordinary modules.

onnx2torch converts it: it gives a torch.fx graph of nn.Conv2d and the like, which can be traced, pruned and exported
again. (onnx2pytorch knows more operators, but its network is an interpreter that torch.fx cannot trace.) Before that,
operators of any opset from 7 are written as in opset 17 (`onnx_opsets`), and onnxsim folds shape arithmetic; after it,
activations and blocks are found in the graph (`onnx_patterns`).
"""

import hashlib
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from compress.errors import NetworkError
from compress.networks.onnx_opsets import OLDEST, as_opset_17
from compress.networks.onnx_patterns import with_blocks

_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Picture:
    """What the file says of its input: name and shape [B,3,H,W]; None where it leaves a size open."""

    name: str
    batch: int | None
    height: int | None
    width: int | None

    @property
    def input_hw(self) -> tuple[int, int] | None:
        """Height and width, where the file fixes both."""
        return (self.height, self.width) if self.height and self.width else None


def read_onnx(path: Path) -> nn.Module:
    """The network with the file's weights, in eval mode; `input_hw` and `batch` of it are the file's, if it names them.

    Raises NetworkError that says what is wrong with this file.
    """
    import onnxsim

    convert = _converter(path)
    model = _loaded(path)
    picture = _picture(model, path)
    _check_outputs(model, path)
    _check_mode(model, path)
    version = next((entry.version for entry in model.opset_import if not entry.domain), 1)
    if version < OLDEST:
        raise NetworkError(
            f"an ONNX file has opset {OLDEST} or later",
            place=str(path),
            value=version,
            remedy="convert it with onnx.version_converter, or export it again",
        )
    _lift_constants(model)  # axes that opset 18 and later read are known then
    try:
        as_opset_17(model)
    except ValueError as error:
        raise NetworkError(
            "the file has an operator of an older opset that later ones do not have",
            place=str(path),
            value=str(error),
            remedy="export it again with opset 11 or later",
        ) from None
    try:
        simplified, same = onnxsim.simplify(model)
    except Exception:  # its errors have no common class; the converter may know what it cannot simplify
        same = False
    model = simplified if same else model
    as_opset_17(model)  # onnxsim may write a newer one, and has made axes constants that newer opsets compute
    _lift_constants(model)
    _check_weights(model, path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = with_blocks(_with_numbers(_converted(convert, model), picture.batch or 1))
    except NotImplementedError as error:
        raise NetworkError(
            "onnx2torch lacks an operator",
            place=str(path),
            value=_operator(error),
            remedy="export the network without it, or give it as package.module:function",
        ) from None
    except NetworkError:
        raise
    except Exception as error:
        raise NetworkError(
            f"onnx2torch cannot convert the file: {type(error).__name__}: {error}",
            place=str(path),
            remedy="give the network as package.module:function",
        ) from error
    network.input_hw = picture.input_hw  # type: ignore[assignment]
    network.batch = picture.batch  # type: ignore[assignment]
    return network.eval()


def _loaded(path: Path) -> Any:
    """The model; ONNX's own domain is "", and no initialiser is an input."""
    import onnx

    _exists(path)
    try:
        model = onnx.load(path)
        for one in (*model.opset_import, *model.graph.node):
            one.domain = "" if one.domain == "ai.onnx" else one.domain
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's errors and the checker's have no common class
        raise NetworkError(
            "not a valid ONNX file", place=str(path), value=str(error).partition("\n")[0], remedy="export it again"
        ) from None
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)  # before, every constant had to be an input
    return model


def _picture(model: Any, path: Path) -> Picture:
    """Raises NetworkError unless the file's one input is pictures of float32, [B,3,H,W]."""
    from onnx import TensorProto

    inputs = list(model.graph.input)
    if len(inputs) != 1:
        raise NetworkError(
            "an ONNX network has one input, the pictures",
            place=str(path),
            value=", ".join(_described(one) for one in inputs) or "none",
            remedy="export it with the others as constants",
        )
    given = inputs[0].type.tensor_type
    if given.elem_type != TensorProto.FLOAT:
        raise NetworkError(
            "an ONNX network takes float32 pictures",
            place=str(path),
            value=_described(inputs[0]),
            remedy="export it in float32, without the conversion of the pictures",
        )
    sides = [side.dim_value or None for side in given.shape.dim]
    last = len(sides) == 4 and sides[1] != 3 and sides[3] == 3
    if len(sides) != 4 or last or sides[1] not in (3, None):
        raise NetworkError(
            "an ONNX network takes pictures [B,3,H,W]",
            place=str(path),
            value=f"{_described(inputs[0])}{', channels last' if last else ''}",
            remedy="export it with channels first" if last else "export it for pictures of three channels",
        )
    return Picture(inputs[0].name, sides[0], sides[2], sides[3])


def _check_outputs(model: Any, path: Path) -> None:
    """Raises NetworkError naming an output that is no map [B,C,h,w], where the file tells."""
    import onnx

    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except Exception:  # its errors have no common class; then running tells
        return
    for output in inferred.graph.output:
        if output.type.tensor_type.HasField("shape") and len(output.type.tensor_type.shape.dim) != 4:
            others = len(inferred.graph.output) > 1
            raise NetworkError(
                "every output of the network is a map [B,C,h,w]",
                place=str(path),
                value=_described(output),
                remedy="cut it off (onnx.utils.extract_model)" if others else "cut the file where its maps are",
            )


def _check_mode(model: Any, path: Path) -> None:
    """Raises NetworkError for batch norms that go by the pictures' own statistics."""
    for node in model.graph.node:
        training = any(one.name == "training_mode" and one.i for one in node.attribute)
        if node.op_type == "BatchNormalization" and (training or any(node.output[1:])):
            raise NetworkError(
                "an ONNX network is exported for inference",
                place=str(path),
                value=f"{node.name or node.output[0]}: BatchNormalization in training mode",
                remedy="export it again, after network.eval()",
            )


def _described(one: Any) -> str:
    """`name uint8 [1,3,64,64]`."""
    from onnx import helper

    given = one.type.tensor_type
    sides = ",".join(str(side.dim_value or side.dim_param or "?") for side in given.shape.dim)
    kind = helper.tensor_dtype_to_np_dtype(given.elem_type).name if given.elem_type else "?"
    return f"{one.name}: {kind} [{sides}]"


def _check_weights(model: Any, path: Path) -> None:
    """Raises NetworkError for a convolution whose weights are computed, which is no module."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1] not in constants:
            raise NetworkError(
                "a convolution's weights are constants",
                place=str(path),
                value=f"{node.name or node.output[0]}",
                remedy="give the network as package.module:function",
            )


def check_conversion(path: Path, network: nn.Module, input_hw: tuple[int, int]) -> None:
    """Compares the network with onnxruntime, running the file as it is, on random pictures.

    As many pictures as the file fixes, together and one by one; else one, and of three together each must be answered
    as it is alone. Raises NetworkError beyond a relative 1e-4.
    """
    import numpy as np
    import onnxruntime

    fixed = _picture(_loaded(path), path).batch
    batch = fixed or 1
    images = np.random.default_rng(0).standard_normal((batch, 3, *input_hw), dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        expected = session.run(None, {session.get_inputs()[0].name: images})
    except Exception as error:  # onnxruntime's exceptions have no common class
        raise NetworkError(
            f"onnxruntime cannot run the file on {'a picture' if batch == 1 else f'{batch} pictures'} of "
            f"{input_hw[0]}x{input_hw[1]}",
            place=str(path),
            value=str(error).partition("\n")[0],
            remedy="export it again",
        ) from None
    for first in {batch, 1}:
        distance = _distance(path, network, images[:first], [one[:first] for one in expected], batch)
        if not distance <= _TOLERANCE:
            raise NetworkError(
                f"the converted network must answer as onnxruntime does, within a relative {_TOLERANCE:g}",
                place=str(path),
                value=f"{distance:.1e}",
                remedy="give the network as package.module:function",
            )
    if fixed is None:
        _check_batches(path, network, input_hw)


def _check_batches(path: Path, network: nn.Module, input_hw: tuple[int, int]) -> None:
    """Raises NetworkError unless each of three different pictures is answered together as alone."""
    images = torch.randn((3, 3, *input_hw), generator=torch.Generator().manual_seed(1))
    images = images + torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
    found = []
    try:
        with torch.no_grad():
            for several in (images, *(image[None] for image in images)):
                outputs = network(several)
                found.append(outputs if isinstance(outputs, list | tuple) else (outputs,))
        together = found[0]
        alone = [torch.cat(maps) for maps in zip(*found[1:], strict=True)]
        differs = [tuple(one.shape) for one in together] != [tuple(one.shape) for one in alone] or not all(
            float((one - other).abs().max()) <= _TOLERANCE * max(float(other.abs().max()), 1e-12)
            for one, other in zip(together, alone, strict=True)
        )
        value = "three pictures together give other maps than one by one" if differs else ""
    except Exception as error:  # a forward may raise anything
        value = f"it fails on three: {str(error).partition(chr(10))[0]}"
    if value:
        raise NetworkError(
            "a file with an open batch answers every picture on its own",
            place=str(path),
            value=value,
            remedy="export it with a reshape or the like that keeps the number of pictures (-1, or x.shape[0])",
        )


def _distance(path: Path, network: nn.Module, images: Any, expected: list[Any], batch: int) -> float:
    """Between the network's outputs and onnxruntime's, relative to the largest of these."""
    import numpy as np

    try:
        with torch.no_grad():
            outputs = network(torch.from_numpy(images))
    except Exception as error:
        raise NetworkError(
            f"the file's steps must work for any number of pictures, not only for {batch}"
            if len(images) < batch
            else "the converted network fails where onnxruntime does not",
            place=str(path),
            value=str(error).partition("\n")[0],
            remedy="export it with a batch of any size",
        ) from None
    found = outputs if isinstance(outputs, list | tuple) else (outputs,)
    if [tuple(one.shape) for one in found] != [one.shape for one in expected]:
        raise NetworkError(
            f"the file's steps must work for any number of pictures, not only for {batch}"
            if len(images) < batch
            else "the converted network must give what onnxruntime gives",
            place=str(path),
            value=", ".join(str(list(one.shape)) for one in found),
            remedy=f"give the network as package.module:function; onnxruntime gives "
            f"{', '.join(str(list(one.shape)) for one in expected)}",
        )
    return max(
        float(np.abs(ours.numpy() - theirs).max() / max(np.abs(theirs).max(), 1e-12))
        for ours, theirs in zip(found, expected, strict=True)
    )


def sha256_of(path: Path) -> str:
    """Of the file's content. Raises NetworkError if there is none."""
    _exists(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


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


class AsymmetricUpsample(nn.Module):
    """Bilinear resizing that reads cell i of the outputs at i / scale, as Upsample does before opset 11.

    torch aligns centres or corners. With one more row and column, copies of the last, the corners of these are where
    the first and the cell behind the last are read. scales: whole numbers, or size: of the outputs.
    """

    def __init__(self, scales: tuple[int, int] | None, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.scales, self.size = scales, size

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H',W']."""
        height, width = self.size or (x.shape[2] * self.scales[0], x.shape[3] * self.scales[1])  # type: ignore[index]
        padded = F.pad(x, (0, 1, 0, 1), mode="replicate")
        resized = F.interpolate(padded, size=(height + 1, width + 1), mode="bilinear", align_corners=True)
        return resized[:, :, :height, :width]


def _converted(convert: Callable[..., Any], model: Any) -> fx.GraphModule:
    """onnx2torch's graph; its resizings know the file's attributes, its reshapes the first side of what they read."""
    import onnx
    from onnx import helper

    network = convert(model, attach_onnx_mapping=True)
    assert isinstance(network, fx.GraphModule)
    nodes = {node.output[0]: node for node in model.graph.node}
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {one.name: one.type.tensor_type.shape.dim for one in (*graph.input, *graph.value_info)}
    for module in network.modules():
        mapping = vars(module).pop("onnx_mapping", None)
        if type(module).__name__ == "OnnxResize":
            attributes = nodes[mapping.outputs[0]].attribute
            module.attributes = {one.name: helper.get_attribute_value(one) for one in attributes}  # type: ignore[assignment]
        elif type(module).__name__ == "OnnxReshape":
            sides = shapes.get(mapping.inputs[0], ())
            module.first_side = sides[0].dim_value if len(sides) > 1 else None  # type: ignore[assignment]
    return network


def _lift_constants(model: Any) -> None:
    """Constant nodes become initialisers: onnx2torch takes weights from nowhere else."""
    import numpy as np
    from onnx import helper, numpy_helper

    for node in [node for node in model.graph.node if node.op_type == "Constant"]:
        kind, value = node.attribute[0].name, helper.get_attribute_value(node.attribute[0])
        if kind in ("value_int", "value_ints", "value_float", "value_floats"):
            value = numpy_helper.from_array(np.array(value, dtype=np.int64 if "int" in kind else np.float32))
        elif kind != "value":
            continue
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        model.graph.node.remove(node)


def _with_numbers(network: fx.GraphModule, batch: int) -> fx.GraphModule:
    """Slices, splits, reshapes and resizings whose numbers are constants of the graph get them as numbers.

    Those of onnx2torch read tensors at every call, which the meta device and tracing do not like. batch: the file's; a
    reshape from as many to as many keeps as many pictures as there are.
    """
    for node in network.graph.nodes:
        module: Any = network.get_submodule(node.target) if node.op == "call_module" else None
        names, build = _WITH_NUMBERS.get(type(module).__name__, ((), None))
        if build is None:
            continue
        given = dict(zip(names, node.args[1:], strict=False)) | node.kwargs
        numbers = {name: _constant(network, argument) for name, argument in given.items() if argument is not None}
        replacement = build(module, **numbers) if None not in numbers.values() else None
        if isinstance(replacement, FixedReshape) and replacement.shape[:1] == [batch] == [module.first_side]:
            replacement.shape = [0, *replacement.shape[1:]]
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
    size = None if scales else tuple((sizes or ())[2:])
    factors = tuple(scales[2:]) if scales else None
    if _attribute(module.attributes, "coordinate_transformation_mode") == "asymmetric" and mode == "bilinear":
        whole = None if factors is None else tuple(round(one) for one in factors)
        return AsymmetricUpsample(whole, size) if whole == factors else None  # type: ignore[arg-type]
    return nn.Upsample(size, factors, mode, align_corners=module.align_corners)


def _attribute(attributes: Mapping[str, Any], name: str) -> str:
    value = attributes.get(name, b"")
    return value.decode() if isinstance(value, bytes) else str(value)


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


def _exists(path: Path) -> None:
    if not path.is_file():
        raise NetworkError("no such file", place=str(path), remedy="give the path of an ONNX file")


def _converter(path: Path) -> Callable[[Any], nn.Module]:
    try:
        with _torchvision():
            from onnx2torch import convert
    except ImportError as error:
        raise NetworkError(
            "reading an ONNX network needs onnx2torch",
            place=str(path),
            value=str(error),
            remedy="pip install 'compress-pose[onnx]'",
        ) from None
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
