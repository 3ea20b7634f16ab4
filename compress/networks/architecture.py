"""What every architecture record offers. A record is frozen, goes to YAML and back, and builds its network."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compress.errors import NetworkError


class Architecture(Protocol):
    """Every structural choice of one network. Implementations are frozen dataclasses, one per family."""

    @property
    def family(self) -> str:
        """Name of the family in FAMILIES."""
        ...

    @property
    def approach(self) -> str:
        """How people are found.

        `bottom-up AE`: K heatmaps and K tags of all people at 1/4; further outputs are heatmaps. `PAF`: at every stage
        K+1 heatmaps (the last is the background) and then the part affinity fields, x and y of each limb; the last
        stage is decoded. `top-down`: K heatmaps of one person; of several outputs the last is decoded. `SimCC`: of one
        person, K vectors of bins along x, and K along y.
        """
        ...

    @property
    def keypoints(self) -> int:
        """Number of joints K."""
        ...

    @property
    def stride(self) -> int:
        """Input height and width must be multiples of this."""
        ...

    @property
    def output_strides(self) -> tuple[float, ...]:
        """Input pixels per cell of each output map, a whole number; per bin of an output of vectors."""
        ...

    def build(self) -> nn.Module:
        """The network with random weights: [B,3,H,W] → tuple of [B,C,H/s,W/s], one per output stride.

        Vectors of bins are [B,K,bins]. A network for one input size has it as its record's `input_hw`.
        """
        ...


def check_input(architecture: Architecture, input_hw: tuple[int, int], place: str) -> None:
    """Raises NetworkError unless the network takes this input size: that it is made for, or its strides allow."""
    only = getattr(architecture, "input_hw", None)
    if only and tuple(input_hw) != tuple(only):
        raise NetworkError(
            "the network takes one input size only",
            place=place,
            value=tuple(input_hw),
            remedy=f"use {only[0]}x{only[1]}",
        )
    check_strides(architecture, input_hw, place)


def check_strides(architecture: Architecture, input_hw: tuple[int, int], place: str) -> None:
    """Raises NetworkError unless the strides of networks of this kind allow this input size."""
    stride = architecture.stride
    if any(side <= 0 or side % stride for side in input_hw):
        nearest = tuple(max(stride, round(side / stride) * stride) for side in input_hw)
        raise NetworkError(
            f"height and width must be positive multiples of {stride} for {architecture.family}",
            place=place,
            value=tuple(input_hw),
            remedy=f"use {nearest[0]}x{nearest[1]}",
        )


def check(holds: bool, rule: str, value: object) -> None:
    """Raises ValueError with the rule and the value unless it holds."""
    if not holds:
        raise ValueError(f"{rule}, not {value}")


@contextmanager
def without_values() -> Iterator[None]:
    """Networks built inside have shapes alone: they lie on the meta device, and random numbers are not drawn for them.

    torch derives in Python what drawing gives on that device, and for normal numbers imports its compiler first, which
    takes seconds.
    """
    with torch.device("meta"), _NoDrawing():
        yield


_DRAWING = frozenset(
    {
        Tensor.normal_,
        Tensor.uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
    }
)


class _NoDrawing(TorchFunctionMode):
    """Tensors on the meta device stay as they are where random numbers would be drawn."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the function, or leaves the tensor."""
        kwargs = kwargs or {}
        if func in _DRAWING:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)
