"""Upper limits: absolute, or a share of what another network takes.

Written `50%`, `80% of hand_balance`, `2.5 ms`, `300M`, `1.5 MB`. A bare number is in the quantity's own unit.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Quantity = Literal["latency", "macs", "params", "size", "memory"]

CLOSE = 0.02
"""The share of a limit that a cost may be beyond it and meets it all the same."""

_BYTES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_UNITS: dict[Quantity, dict[str, float]] = {
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "macs": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "params": {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9},
    "size": _BYTES,
    "memory": _BYTES,
}
_EXAMPLES: dict[Quantity, str] = {
    "latency": "2.5 ms",
    "macs": "300M",
    "params": "1.2M",
    "size": "1.5 MB",
    "memory": "4 MB",
}
_WRITTEN = re.compile(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*(%|[a-z]*)(?:\s+of\s+([A-Za-z0-9][A-Za-z0-9_-]*))?\s*", re.I)


@dataclass(frozen=True)
class Limit:
    """value: a share where it is relative; else milliseconds, multiply-adds, parameters or bytes.

    of: the network that the share is of, by name; None: the costliest baseline, or the given network.
    """

    value: float
    relative: bool = False
    of: str | None = None

    def __str__(self) -> str:
        """As `parse` reads it, but for the unit of an absolute limit."""
        share = f"{self.value:.12g}" if not self.relative else f"{100 * self.value:.12g}%"
        return f"{share} of {self.of}" if self.of else share

    def absolute(self, costs: Mapping[str, float]) -> float:
        """In the quantity's unit. costs: of the networks that it may be of, by name; a share needs at least one."""
        if not self.relative:
            return self.value
        return self.value * (costs[self.of] if self.of is not None else max(costs.values()))


def parse(given: Any, quantity: Quantity) -> Any:
    """The limit of text or a number. Raises ValueError. Others than these are left to pydantic."""
    if isinstance(given, int | float) and not isinstance(given, bool):
        if quantity == "latency":
            raise ValueError(f"a latency has a unit or is a share: write {given:g} ms, or {100 * given:g}%")
        given = repr(given)
    if not isinstance(given, str):
        return given
    match = _WRITTEN.fullmatch(given)
    units, example = _UNITS[quantity], _EXAMPLES[quantity]
    must = f"a limit of {quantity} is written 50%, 50% of NAME or {example}, not {given!r}"
    if not match:
        raise ValueError(must)
    number, unit, of = match.groups()
    try:
        value = float(number)
    except ValueError:
        raise ValueError(must) from None
    relative = unit == "%"
    if not relative and (of or unit.lower() not in units):
        raise ValueError(must)
    if not 0 < value < 1e18:
        raise ValueError(f"a limit must be above 0, not {given!r}")
    return Limit(value / 100, True, of) if relative else Limit(value * units[unit.lower()])
