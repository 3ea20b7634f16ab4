"""What a candidate costs."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Cost:
    """params: trainable parameters. macs: multiply-adds of one picture. predicted_ms: latency from the table.

    uncounted: operators that compute and have no counting rule; their multiply-adds are not in macs.
    """

    params: int
    macs: int
    predicted_ms: float
    uncounted: tuple[str, ...] = ()

    def data(self) -> dict[str, Any]:
        """As plain data, equal before and after JSON."""
        return {**asdict(self), "uncounted": list(self.uncounted)}
