"""A time of a network, and everything that must be known to compare it with another one."""

from dataclasses import dataclass
from typing import Literal

from compress.measure.timing import Timing

Provenance = Literal["measured", "predicted", "published"]
"""How a figure came about; a table never mixes them without saying so."""

Clock = Literal["reference", "stopwatch"]
"""reference: a ratio to a fixed convolution timed beside it, times that convolution's own time, so that drift of the
CPU's speed is out of it (compress.measure.timing). stopwatch: raw milliseconds of single calls."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one picture.

    target: what they are of, such as `onnxruntime, 1 thread`. q1_ms, q3_ms: quartiles of single timings. uncertainty:
    half the 95 % confidence interval of `ms`, over `ms`. reliable: certain enough for differences of a few percent to
    mean anything. spread: interquartile range of groups of calls over their median; count: timed calls (see
    compress.measure.timing). coverage: of a predicted time the share of the kernels that were timed; the rest is
    estimated. None: not known, as of a predicted time's quartiles.
    """

    ms: float
    target: str
    provenance: Provenance
    clock: Clock = "reference"
    q1_ms: float | None = None
    q3_ms: float | None = None
    uncertainty: float | None = None
    reliable: bool | None = None
    spread: float | None = None
    count: int | None = None
    coverage: float | None = None

    @property
    def interval_ms(self) -> tuple[float, float] | None:
        """The ends of the 95 % confidence interval of `ms`; no time is below 0."""
        if self.uncertainty is None:
            return None
        return self.ms * max(0.0, 1 - self.uncertainty), self.ms * (1 + self.uncertainty)

    def __str__(self) -> str:
        """`3.21 ms ± 2.0%, measured`: half the 95 % confidence interval; `unsteady`: too wide to compare."""
        interval = "" if self.uncertainty is None else f" ± {self.uncertainty:.1%}"
        return f"{self.ms:.3g} ms{interval}, {self.provenance}{', unsteady' if self.reliable is False else ''}"

    @staticmethod
    def of_timing(timing: Timing, target: str, reference_ms: float | None = None) -> "Latency":
        """A measured latency on the clock of a reference that takes `reference_ms`.

        None: on the clock of the reference that ran beside it. All times of one table take the same reference_ms.
        """
        scale = timing.normalised_ms / timing.ratio if reference_ms is None else reference_ms
        ms = timing.ratio * scale
        drift = ms / timing.median_ms
        return Latency(
            ms,
            target,
            "measured",
            "reference",
            timing.q1_ms * drift,
            timing.q3_ms * drift,
            timing.uncertainty,
            timing.reliable,
            timing.spread,
            timing.count,
        )
