"""The comparison of two times, and when it allows no claim.

Every sentence about a speed-up comes from here, and from the same two figures that the table beside it shows: times of
one interleaved run on one clock, with their uncertainties (see Latency).
"""

import math
from dataclasses import dataclass
from typing import Literal

from compress.measure.latency import Latency, Provenance

Verdict = Literal["faster", "slower", "no difference", "unsteady", "worthless"]
"""no difference: within the uncertainty of the two times. unsteady: one of them is unreliable. worthless:
the changed network scores no better than a constant answer, however fast it is."""


@dataclass(frozen=True)
class SpeedUp:
    """How many times as fast the second network is. low, high: 95 % confidence interval of the factor.

    provenance: predicted where one of the times is.
    """

    factor: float
    low: float
    high: float
    verdict: Verdict
    provenance: Provenance = "measured"

    def __str__(self) -> str:
        """`1.62 times (1.58 to 1.66), faster`; a predicted one says so."""
        predicted = "" if self.provenance == "measured" else f", {self.provenance}"
        return f"{self.factor:.2f} times ({self.low:.2f} to {self.high:.2f}), {self.verdict}{predicted}"

    @property
    def uncertainty(self) -> float:
        """Half the interval, as a share of the factor."""
        return (self.high - self.low) / 2 / self.factor


def speed_up(given: Latency, changed: Latency, *, worthless: bool = False) -> SpeedUp:
    """Compares two times on one clock. worthless: see Verdict; it overrides the times."""
    factor = given.ms / changed.ms
    share = math.hypot(given.uncertainty or 0.0, changed.uncertainty or 0.0)
    if worthless:
        verdict: Verdict = "worthless"
    elif not (given.reliable and changed.reliable):
        verdict = "unsteady"
    elif not differ(given, changed):
        verdict = "no difference"
    else:
        verdict = "faster" if factor > 1 else "slower"
    provenance: Provenance = "measured" if {given.provenance, changed.provenance} == {"measured"} else "predicted"
    return SpeedUp(factor, factor * max(0.0, 1 - share), factor * (1 + share), verdict, provenance)


def differ(one: Latency, other: Latency) -> bool:
    """Whether two times differ by more than their uncertainties together."""
    errors_ms = (latency.ms * (latency.uncertainty or 0.0) for latency in (one, other))
    return abs(one.ms - other.ms) > math.hypot(*errors_ms)


def met(share: float, goal: float, uncertainty: float, tolerance: float) -> bool:
    """Whether a measured share of the cost is not above the goal by more than uncertainty and tolerance, relatively."""
    return share * (1 - uncertainty) <= goal * (1 + tolerance)
