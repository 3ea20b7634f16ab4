"""What a search's candidates are to be small in, beside the score that is to be large.

Written `end_to_end`, `latency`, `latency on ncnn`, `macs`, `params`, `size` or `memory`.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from compress.errors import nearest

Objected = Literal["end_to_end", "latency", "macs", "params", "size", "memory"]
_TIMES = ("end_to_end", "latency")


@dataclass(frozen=True)
class CostObjective:
    """quantity: end_to_end, all passes of the network and the decoding of its maps; latency, one pass; macs,
    multiply-adds; params, parameters; size, bytes of weights in float32; memory, peak bytes of the activations.

    target: of a time, by its name; None: the one that decides.
    """

    quantity: Objected
    target: str | None = None

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.quantity} on {self.target}" if self.target else self.quantity


DEFAULT_OBJECTIVES = (CostObjective("end_to_end"),)


def parse(given: Any) -> Any:
    """The objective of a text. Raises ValueError. Others than text are left to pydantic."""
    if not isinstance(given, str):
        return given
    quantity, on, target = given.strip().partition(" on ")
    if quantity not in get_args(Objected):
        extra = "the score is always one; " if quantity == "score" else ""
        raise ValueError(f"no such objective, {given!r}: {extra}{nearest(quantity, get_args(Objected))}")
    if on and quantity not in _TIMES:
        raise ValueError(f"{quantity} is the same on every target: write {quantity!r}, not {given!r}")
    return CostObjective(quantity, target.strip() or None)  # type: ignore[arg-type]
