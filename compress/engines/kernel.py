"""Kernels: the nodes that an engine really runs, with everything that decides how long they take."""

import math
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

Value = int | float | str | tuple[int | float | str, ...]
"""Of an attribute."""


@dataclass(frozen=True)
class Operand:
    """A tensor that a kernel reads or makes.

    constant: part of the model, such as weights. values: of a small constant that steers the work, such as sizes;
    other constants are known by their shape. dtype: numpy's name; `none` stands for an optional input left out.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    constant: bool = False
    values: tuple[int | float, ...] = ()

    def __str__(self) -> str:
        """`1x16x8x8`; `*16x3x3x3` for a constant; `int64:2=[8,8]` for one with its values."""
        if self.dtype == "none":
            return "-"
        name = "x".join(map(str, self.shape)) or "scalar"
        if self.dtype != "float32":
            name = f"{self.dtype}:{name}"
        if self.values:
            return f"{name}=[{','.join(f'{value:g}' for value in self.values)}]"
        return f"*{name}" if self.constant else name

    @property
    def elements(self) -> int:
        """How many numbers."""
        return 0 if self.dtype == "none" else math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """In memory."""
        return self.elements * np.dtype(self.dtype).itemsize if self.elements else 0


@dataclass(frozen=True)
class Kernel:
    """One node of an engine's own optimised graph, for one picture.

    operator: the engine's name of it; onnxruntime's own domains in front, as in `nchwc.Conv`. attributes: by name,
    without those at their defaults. Shapes are as the engine computes, so padded channels are in them. macs: so too.
    kind: kernels of one kind differ in sizes only. What engine, version, threads and device, is the table's to know.
    """

    operator: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    attributes: tuple[tuple[str, Value], ...] = ()
    kind: str = field(default="", compare=False)
    macs: int = field(default=0, compare=False)

    @cached_property
    def key(self) -> str:
        """Equal keys if and only if equal kernels: `nchwc.Conv 1x16x8x8,*16x16x3x3 > 1x16x8x8 pads=[1,1,1,1]`."""
        parts = [self.operator, ",".join(map(str, self.inputs)), ">", ",".join(map(str, self.outputs))]
        return " ".join([*parts, *(f"{name}={_text(value)}" for name, value in self.attributes)])

    @cached_property
    def bytes(self) -> int:
        """Read and written, constants too."""
        return sum(operand.bytes for operand in (*self.inputs, *self.outputs))

    def __hash__(self) -> int:
        return hash(self.key)

    def __lt__(self, other: "Kernel") -> bool:
        return self.key < other.key


def _text(value: Value) -> str:
    if isinstance(value, tuple):
        return f"[{','.join(map(_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
