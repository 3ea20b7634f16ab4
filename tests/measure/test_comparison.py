"""What two timings may be said to say; times are drawn, nothing is measured here."""

import math
import random

import numpy as np
import pytest

from compress.measure.comparison import met, speed_up
from compress.measure.latency import Latency
from compress.measure.timing import UNCERTAINTY_LIMIT, summarise

STEADY = 0.01


def timed(ms: float, uncertainty: float) -> Latency:
    return Latency(
        ms, "onnxruntime, 1 thread", "measured", uncertainty=uncertainty, reliable=uncertainty <= UNCERTAINTY_LIMIT
    )


def drawn(rng: random.Random) -> tuple[Latency, Latency]:
    return tuple(timed(math.exp(rng.uniform(-3, 4)), rng.uniform(0, 0.06)) for _ in range(2))  # type: ignore[return-value]


def test_a_factor_is_claimed_only_of_steady_times_that_differ_beyond_their_intervals() -> None:
    rng, seen = random.Random(1), set()
    for _ in range(3000):
        one, other = drawn(rng)
        if rng.random() < 0.5:  # close ones too
            other = timed(one.ms * rng.uniform(0.9, 1.1), other.uncertainty)
        found = speed_up(one, other)
        seen.add(found.verdict)
        assert found.factor == pytest.approx(one.ms / other.ms)
        assert 0 <= found.low <= found.factor <= found.high
        if max(one.uncertainty, other.uncertainty) > 0.03:
            assert found.verdict == "unsteady"
        elif abs(one.ms - other.ms) ** 2 <= (one.ms * one.uncertainty) ** 2 + (other.ms * other.uncertainty) ** 2:
            assert found.verdict == "no difference"
        else:
            assert found.verdict == ("faster" if other.ms < one.ms else "slower")
    assert seen == {"unsteady", "no difference", "faster", "slower"}


def test_nothing_is_claimed_of_a_worthless_network_whatever_the_times_say() -> None:
    rng = random.Random(2)
    for _ in range(100):
        assert speed_up(*drawn(rng), worthless=True).verdict == "worthless"


def test_two_timings_of_the_same_speed_are_seldom_told_apart() -> None:
    """Of timings with noise and bursts, as `summarise` reads them, about one pair in twenty may be."""
    rng = np.random.default_rng(3)

    def noisy() -> Latency:
        times = rng.normal(1, 0.03, 100) + rng.exponential(0.5, 100) * (rng.random(100) < 0.1)
        one = summarise(times.tolist(), [], None)
        return timed(one.normalised_ms, one.uncertainty)

    told = [speed_up(noisy(), noisy()).verdict in ("faster", "slower") for _ in range(400)]
    assert np.mean(told) < 0.1


@pytest.mark.parametrize(
    ("share", "goal", "uncertainty", "expected"),
    [
        (0.5, 0.5, 0, True),
        (0.509, 0.5, 0, True),
        (0.511, 0.5, 0, False),
        (0.53, 0.5, 0.05, True),
        (0.3, 0.5, 0, True),
        (0.689, 0.5, 0.03, False),
    ],
)
def test_a_goal_is_met_within_what_measuring_and_choosing_allow(
    share: float, goal: float, uncertainty: float, expected: bool
) -> None:
    assert met(share, goal, uncertainty, tolerance=0.02) is expected
