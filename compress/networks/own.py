"""Networks that nobody here wrote: a Python function that returns one, an ONNX file, or a module given in memory.

They become architecture records, so they go to YAML and back like the others. What a record must know of its network
(joints, strides, how people are found) is read from the module's attributes `keypoints` and `approach` if it has them;
else it is inferred from the outputs on small inputs:

- one map, or several of equally many channels: top-down, a channel per joint;
- two maps, the first with twice the channels of the second: bottom-up with associative embedding, as HigherHRNet.

A network that runs at one input size only says so by the attribute `input_hw`. An ONNX file that fixes height and width
takes these only.
A single map of a bottom-up network looks like a top-down one's, and so do part affinity fields: set the attributes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, fx, nn

from compress.errors import NetworkError
from compress.extensions import imported_module, offered
from compress.networks.architecture import Architecture
from compress.networks.onnx_file import check_conversion, read_onnx, sha256_of
from compress.networks.weights import check_finite, check_plain, separate_elements

_APPROACHES = "compress.approaches"  # group of entry points, see compress.pose.approaches
_STRIDES = (1, 2, 4, 8, 16, 32, 64, 128)
_SMALL = 64
"""Least side of the inputs that a network is tried on."""


class Maps(nn.Module):
    """A network whose outputs are always a tuple of maps, whatever it returns them in.

    input_hw: the size it was made for, if it names one.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.input_hw: tuple[int, int] | None = getattr(network, "input_hw", None)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B,3,H,W] → one or more [B,C,h,w]."""
        return tuple(_tensors(self.network(images)))


@dataclass(frozen=True)
class PythonNetwork:
    """What `package.module:function` returns, imported with the current folder on the path.

    input_hw: the only size it takes; None for every multiple of the stride.
    """

    family: ClassVar[str] = "python"

    function: str
    approach: str
    keypoints: int
    stride: int
    output_strides: tuple[int, ...]
    input_hw: tuple[int, int] | None = None

    def build(self) -> nn.Module:
        """The network with the weights the function gives it. Raises NetworkError."""
        return Maps(_call(self.function))


@dataclass(frozen=True)
class OnnxNetwork:
    """An ONNX file. sha256: of the file that the record was made of; another one is refused. input_hw: as above."""

    family: ClassVar[str] = "onnx"

    file: str
    sha256: str
    approach: str
    keypoints: int
    stride: int
    output_strides: tuple[int, ...]
    input_hw: tuple[int, int] | None = None

    def build(self) -> nn.Module:
        """The network with the file's weights. Raises NetworkError."""
        found = sha256_of(Path(self.file))
        if found != self.sha256:
            raise NetworkError(
                "the ONNX file must be the one the architecture was made of",
                place=self.file,
                value=found[:12],
                remedy=f"restore the file with sha256 {self.sha256[:12]}…",
            )
        return Maps(_read(Path(self.file)))


@dataclass(frozen=True)
class GivenModule:
    """A module given in memory. Its record goes to YAML without the module, and comes back where the module is given
    again. name: of its class. input_hw: as above."""

    family: ClassVar[str] = "module"

    name: str
    approach: str
    keypoints: int
    stride: int
    output_strides: tuple[int, ...]
    input_hw: tuple[int, int] | None
    module: nn.Module = field(compare=False, repr=False)

    def build(self) -> nn.Module:
        """A copy of the module, with its weights."""
        return Maps(copy.deepcopy(self.module))


def _tensors(outputs: Any) -> list[Tensor]:
    """The maps among what a network returns, in their order; numbers and names beside them are left out."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple):
        return [tensor for output in outputs for tensor in _tensors(output)]
    return [outputs] if isinstance(outputs, Tensor) else []


OWN_FAMILIES: dict[str, type[Any]] = {one.family: one for one in (PythonNetwork, OnnxNetwork, GivenModule)}


def is_own(name: str) -> bool:
    """Whether NETWORK names an own network: FILE.onnx, package.module:function or package.module:RECORD."""
    return name.endswith(".onnx") or ":" in name


def own_network(name: str) -> Architecture:
    """The record of such a NETWORK, whose network is built and run once; or the record that package.module:attribute
    is. Raises NetworkError.
    """
    if name.endswith(".onnx"):
        path = Path(name).resolve()
        sha256 = sha256_of(path)
        network = _read(path)
        record = OnnxNetwork(str(path), sha256, *_facts(network, name))
        check_conversion(path, network, record.input_hw or _sizes()[record.stride])
        return record
    module_name, _, attribute = name.partition(":")
    found = getattr(imported_module(module_name, name, NetworkError), attribute, None)
    if is_dataclass(found) and not isinstance(found, type) and hasattr(found, "family"):
        return cast(Architecture, found)
    return PythonNetwork(name, *_facts(_call(name), name))


def given_module(module: nn.Module) -> GivenModule:
    """The record of a copy of the module, which is run once on the CPU. Raises NetworkError."""
    name = type(module).__name__
    check_plain(module, name)  # else it cannot be copied
    copied = _checked(copy.deepcopy(module).cpu(), name)
    return GivenModule(name, *_facts(copied, name), copied)


def _read(path: Path) -> nn.Module:
    network = read_onnx(path)
    check_finite(network, str(path))
    return network


def _call(name: str) -> nn.Module:
    module_name, _, function_name = name.partition(":")
    module = imported_module(module_name, name, NetworkError)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise NetworkError(
            f"{module_name} has no such function",
            place=name,
            value=function_name,
            remedy="write package.module:function",
        )
    try:
        network = function()
    except Exception as error:
        raise NetworkError(
            f"the function fails: {type(error).__name__}: {error}",
            place=name,
            remedy="it takes no arguments and returns the network",
        ) from error
    if not isinstance(network, nn.Module):
        raise NetworkError(
            "the function must return a torch.nn.Module",
            place=name,
            value=type(network).__name__,
            remedy="return the network itself",
        )
    return _checked(network, name)


def _checked(network: nn.Module, name: str) -> nn.Module:
    """The network, whose input_hw becomes a tuple. Raises NetworkError for weights that cannot be saved or changed."""
    named = getattr(network, "input_hw", None)
    if named is not None and _size(named, name) is not named:
        network.input_hw = _size(named, name)  # type: ignore[assignment]
    check_plain(network, name)
    separate_elements(network, name)
    check_finite(network, name)
    return network


def _size(named: object, place: str) -> tuple[int, int]:
    """A network's input_hw as height and width. Raises NetworkError."""
    sides = tuple(named) if isinstance(named, list | tuple) else ()
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise NetworkError(
            "the module's attribute input_hw must be two positive integers, height and width",
            place=place,
            value=" ".join(repr(named).split())[:60],
            remedy="set it to (H, W), or leave it out",
        )
    return sides


def _facts(network: nn.Module, place: str) -> tuple[str, int, int, tuple[int, ...], tuple[int, int] | None]:
    """approach, keypoints, stride, output_strides and input_hw of a network (module docstring).

    An ONNX file that names its size is run at that size alone, and takes no other.
    """
    named: tuple[int, int] | None = getattr(network, "input_hw", None)
    if named and isinstance(network, fx.GraphModule):
        shapes = _shapes_or_reason(network, named)
        if not isinstance(shapes, str):
            approach, keypoints = _approach(network, [shape[1] for shape in shapes], place)
            return approach, keypoints, _stride_of(network, named), _output_strides(shapes, named), named
        raise NetworkError(
            "the file's outputs are maps [B,C,H/s,W/s] of its pictures",
            place=place,
            value=shapes,
            remedy="export it so that they are, each a whole number of times smaller than the picture",
        )
    failure = ""
    sizes = [(stride, input_hw, None) for stride, input_hw in _sizes().items()]
    for stride, input_hw, only in [*sizes, *([(1, named, named)] if named else [])]:
        shapes = _shapes_or_reason(network, input_hw)
        if not isinstance(shapes, str):
            approach, keypoints = _approach(network, [shape[1] for shape in shapes], place)
            return approach, keypoints, stride, _output_strides(shapes, input_hw), only
        failure = shapes
    kinds = {parameter.dtype for parameter in network.parameters()} - {torch.float32}
    if kinds:
        raise NetworkError(
            "the weights must be float32, or the network turn its input into what they are",
            place=place,
            value=", ".join(sorted(map(str, kinds))),
            remedy="return network.float()",
        )
    raise NetworkError(
        "the network takes [B,3,H,W] and returns a map [B,C,H/s,W/s] or several",
        place=place,
        value=failure,
        remedy="wrap it so that it does, for every H and W that are multiples of a stride up to 128",
    )


def _shapes_or_reason(network: nn.Module, input_hw: tuple[int, int]) -> list[tuple[int, ...]] | str:
    """Shapes of the maps for one such picture, or why there are none."""
    picture = f"{input_hw[0]}x{input_hw[1]} picture"
    try:
        shapes = _output_shapes(network, input_hw)
    except Exception as error:  # a forward may raise anything
        batch = getattr(network, "batch", None) or 1
        picture += f", being made for {batch} at once" if batch > 1 else ""
        return f"it fails on a {picture}: {str(error).partition(chr(10))[0]}"
    if _output_strides(shapes, input_hw):
        return shapes
    odd = next((number for number, shape in enumerate(shapes) if not _output_strides([shape], input_hw)), None)
    return "it has no outputs" if odd is None else f"for a {picture} output {odd} is {list(shapes[odd])}"


def _stride_of(network: nn.Module, input_hw: tuple[int, int]) -> int:
    """The smallest stride at which it takes other sizes, of those that divide its own; 1 if there is none."""
    fitting = [stride for stride in _STRIDES if not any(side % stride for side in input_hw)]
    return next((one for one in fitting if not isinstance(_shapes_or_reason(network, _sizes()[one]), str)), 1)


def check_learns(network: nn.Module, input_hw: tuple[int, int], place: str) -> None:
    """Raises NetworkError unless the network runs in training, and gives the same maps as in evaluation.

    Maps for deep supervision that only training returns have no targets here. The network is left as it was.
    """
    shapes = []
    for training in (False, True):
        tried = copy.deepcopy(network).train(training)
        device = next((parameter.device for parameter in tried.parameters()), torch.device("cpu"))
        try:
            with torch.no_grad():
                outputs = tried(torch.zeros(2, 3, *input_hw, device=device))
        except Exception as error:  # a forward may raise anything
            mode = "training" if training else "evaluation"
            raise NetworkError(
                f"the network must run in {mode} mode on pictures alone",
                place=place,
                value=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
                remedy="let its forward take a batch of pictures in this mode, and nothing else",
            ) from error
        shapes.append([tuple(output.shape[1:]) for output in outputs])
    if shapes[0] != shapes[1]:
        raise NetworkError(
            "a network that is trained returns the same maps in training as in evaluation",
            place=place,
            value=f"{shapes[1]} in training, {shapes[0]} in evaluation",
            remedy="return the extra maps in both modes, before the one that is decoded, or in neither",
        )


def _sizes() -> dict[int, tuple[int, int]]:
    """Stride → the input size a network is tried on: odd multiples, so that one that needs twice the stride fails."""
    cells = {stride: -(-_SMALL // stride) | 1 for stride in _STRIDES}
    return {stride: (n * stride, (n + 2) * stride) for stride, n in cells.items()}


def _output_shapes(network: nn.Module, input_hw: tuple[int, int]) -> list[tuple[int, ...]]:
    """Shapes of the maps; computed without values where the network allows it."""
    try:
        shadow = Maps(copy.deepcopy(network).to("meta")).eval()
        with torch.no_grad():
            return [tuple(output.shape) for output in shadow(torch.empty(1, 3, *input_hw, device="meta"))]
    except Exception:  # it makes tensors on the CPU, or reads a tensor's values
        shadow = Maps(copy.deepcopy(network)).eval()
        with torch.no_grad():
            return [tuple(output.shape) for output in shadow(torch.zeros(1, 3, *input_hw))]


def _output_strides(shapes: Sequence[tuple[int, ...]], input_hw: tuple[int, int]) -> tuple[int, ...]:
    """Empty unless every output is a map of the input's proportions."""
    strides = []
    for shape in shapes:
        if (
            len(shape) != 4
            or input_hw[0] % shape[2]
            or (shape[2], shape[3]) != tuple(side // (input_hw[0] // shape[2]) for side in input_hw)
        ):
            return ()
        strides.append(input_hw[0] // shape[2])
    return tuple(strides)


def _approach(network: nn.Module, channels: list[int], place: str) -> tuple[str, int]:
    approach: str | None = getattr(network, "approach", None)
    if approach is None:
        approach = "bottom-up AE" if len(channels) == 2 and channels[0] == 2 * channels[1] else "top-down"
    inferred = {"bottom-up AE": channels[0] // 2, "top-down": channels[-1], "PAF": channels[0] - 1}
    # Of another package's approach only that package knows what its maps are.
    others = approach not in inferred and (":" in str(approach) or approach in offered(_APPROACHES))
    if approach not in inferred and not others:
        raise NetworkError(
            f"the module's attribute approach must be one of {', '.join(inferred)}, or one of another package",
            place=place,
            value=approach,
            remedy="correct it",
        )
    keypoints = getattr(network, "keypoints", inferred.get(approach))
    if not isinstance(keypoints, int) or keypoints < 1:
        raise NetworkError(
            "the number of joints must be a positive integer",
            place=place,
            value=keypoints,
            remedy="set the module's attribute keypoints",
        )
    return approach, keypoints
