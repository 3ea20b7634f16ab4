"""What a candidate costs and earns, and how each number was obtained."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Obtained = Literal["supernet", "short training", "full training"]


@dataclass(frozen=True)
class Cost:
    """params: trainable parameters. macs: multiply-adds of one picture. predicted_ms: latency from the table."""

    params: int
    macs: int
    predicted_ms: float


@dataclass(frozen=True)
class Measured:
    """A latency measured on the whole network: median and quartiles in milliseconds over `rounds` interleaved runs."""

    median_ms: float
    q1_ms: float
    q3_ms: float
    rounds: int
    engine: str
    threads: int


@dataclass(frozen=True)
class Score:
    """COCO average precision, 0..1, and how the weights it was measured on were obtained."""

    ap: float
    obtained: Obtained


def to_data(record: Cost | Measured | Score) -> dict[str, Any]:
    """Plain data for JSON."""
    return asdict(record)
