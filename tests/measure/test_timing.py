import os
from collections.abc import Callable

import pytest

from compress.measure.timing import SPREAD_LIMIT, pinned, reference_convolution, summarise, time_interleaved


class Machine:
    """A clock that moves only when work is done, at a speed that may drift."""

    def __init__(self) -> None:
        self.now, self.speed = 0.0, 1.0
        self.log: list[str] = []

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.log.append(name)
            self.now += seconds / self.speed

        return call

    def clock(self) -> float:
        return self.now


def test_round_robin_with_the_reference_around_each() -> None:
    machine = Machine()
    calls = {"a": machine.work("a", 0.003), "b": machine.work("b", 0.006)}
    timings = time_interleaved(calls, machine.work("r", 0.001), rounds=3, warmup=0, priming=1, group=2,
                                clock=machine.clock)  # fmt: skip
    assert "".join(machine.log) == "rraaarrrrbbbrr" + "rraarrrrbbrr"
    assert timings["a"].median_ms == pytest.approx(3)
    assert timings["b"].ratio == pytest.approx(6)
    assert timings["b"].normalised_ms == pytest.approx(6)
    assert timings["a"].count == 3
    assert timings["a"].spread == pytest.approx(0)


def test_drift_cancels_in_the_ratio() -> None:
    machine = Machine()
    work = machine.work("a", 0.004)

    def drifting() -> None:
        machine.speed = 0.5 + (machine.speed + 0.3) % 1  # another speed in every round
        work()

    timing = time_interleaved(
        {"a": drifting}, machine.work("r", 0.001), rounds=9, warmup=0, priming=0, group=1, clock=machine.clock
    )["a"]
    constant = time_interleaved(
        {"a": work}, machine.work("r", 0.001), rounds=9, warmup=0, priming=0, group=1, clock=machine.clock
    )["a"]
    assert timing.q3_ms > 1.2 * timing.q1_ms
    assert constant.ratio == pytest.approx(4)
    assert timing.spread < (timing.q3_ms - timing.q1_ms) / timing.median_ms


def test_without_a_reference_the_normalised_time_is_the_median() -> None:
    machine = Machine()
    timing = time_interleaved({"a": machine.work("a", 0.002)}, None, rounds=3, clock=machine.clock)["a"]
    assert (timing.ratio, timing.normalised_ms, timing.median_ms) == pytest.approx((1, 2, 2))


def test_summary_and_verdict() -> None:
    timing = summarise([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5, 2.0)
    assert (timing.median_ms, timing.q1_ms, timing.q3_ms) == (3, 2, 4)
    assert timing.normalised_ms == 6
    assert timing.spread == pytest.approx((4 - 2) / 3)
    assert not timing.reliable
    assert summarise([1.0, 1.0 + SPREAD_LIMIT / 2], [1.0, 1.0], 1.0).reliable


def test_progress_counts_rounds() -> None:
    seen: list[int] = []
    time_interleaved({"a": lambda: None}, None, rounds=5, group=3, progress=seen.append)
    assert seen == [3, 2]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_pinning_ends_with_the_block() -> None:
    before = os.sched_getaffinity(0)
    with pinned() as worked:
        assert len(os.sched_getaffinity(0)) == (1 if worked else len(before))
    assert os.sched_getaffinity(0) == before


def test_the_reference_runs() -> None:
    (output,) = reference_convolution()()  # type: ignore[misc]
    assert output.shape == (1, 32, 32, 32)
