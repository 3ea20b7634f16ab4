import os
import random
import threading
from collections.abc import Callable
from itertools import pairwise
from statistics import fmean, median, stdev

import pytest

from compress.measure.timing import (
    REFERENCES,
    UNCERTAINTY_LIMIT,
    median_uncertainty,
    pinned,
    reference_convolution,
    summarise,
    time_interleaved,
)


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
    timings = time_interleaved(
        calls, machine.work("r", 0.001), rounds=3, warmup=0, priming=1, group=2, clock=machine.clock
    )
    r = "r" * (1 + REFERENCES)
    assert "".join(machine.log) == f"{r}aaa{r}{r}bbb{r}" * 2
    assert timings["a"].median_ms == pytest.approx(3)
    assert timings["b"].ratio == pytest.approx(6)
    assert timings["b"].normalised_ms == pytest.approx(6)
    assert timings["a"].count == 4  # whole groups
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
    # The groups' least ratios are 1, 3, 5, 7, 9; the calls beside them do not count.
    timing = summarise([1.0, 6, 3, 3, 5, 9, 8, 7, 9, 9], [1.0] * 10, 2.0, group=2)
    assert (timing.ratio, timing.normalised_ms, timing.count) == (5, 10, 10)
    assert timing.median_ms == 6.5
    assert timing.spread == pytest.approx((7 - 3) / 5)
    assert not timing.reliable
    assert not summarise([1.0], [1.0], 1.0).reliable  # one call tells nothing of its uncertainty
    assert summarise([1.0, 1.0 + UNCERTAINTY_LIMIT], [1.0, 1.0], 1.0).reliable


def test_the_interval_of_a_median_holds_it_as_often_as_said() -> None:
    """Of skewed values too; a normal approximation is the independent check of its width."""
    rng = random.Random(0)
    middle = 2**0.5  # of exp(N(0, s)) times this
    held = 0
    widths = []
    for _ in range(400):
        values = [middle * rng.lognormvariate(0, 0.2) for _ in range(25)]
        half = median_uncertainty(values) * median(values)
        ordered = sorted(values)
        assert half == pytest.approx((ordered[17] - ordered[7]) / 2)  # ranks 8 and 18 of 25: 95.7 %
        held += ordered[7] <= middle <= ordered[17]
        widths.append(half / middle)
    assert held / 400 == pytest.approx(0.957, abs=0.025)
    assert fmean(widths) == pytest.approx(1.96 * 1.2533 * 0.2 / 5, rel=0.15)
    assert median_uncertainty([1.0, 1.2, 1.1]) == pytest.approx(0.1 / 1.1)
    assert median_uncertainty([2.0]) == 1
    assert median_uncertainty([0.0] * 9 + [1.0]) == 1


class Shared(Machine):
    """A core that drifts, and that another program takes for `burst_s` at a time, `share` of the time."""

    def __init__(self, seed: int, share: float = 0.0, burst_s: float = 0.004, drift: float = 0.15) -> None:
        super().__init__()
        self.rng, self.share, self.burst_s, self.drift = random.Random(seed), share, burst_s, drift
        self.next = self._gap()

    def _gap(self) -> float:
        return self.rng.expovariate(self.share / (self.burst_s * (1 - self.share))) if self.share else float("inf")

    def work(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            left = seconds * self.rng.lognormvariate(0, 0.01)
            self.speed = 1 + self.drift * (self.now % 7 < 3.5)
            while left > 0:
                ran = min(left / self.speed, self.next)
                left, self.now, self.next = left - ran * self.speed, self.now + ran, self.next - ran
                if self.next <= 0:
                    self.now, self.next = self.now + self.rng.expovariate(1 / self.burst_s), self._gap()

        return call


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_a_core_that_others_take_gives_the_same_ratio(share: float) -> None:
    """Networks of 1 and 2 ms beside a reference of .1 ms; 4 ms at a time the core is another program's."""
    found = []
    for seed in range(8):
        machine = Shared(seed, share)
        calls = {"a": machine.work("a", 0.001), "b": machine.work("b", 0.002)}
        found.append(time_interleaved(calls, machine.work("r", 0.0001), rounds=100, clock=machine.clock))
    for name, ratio in (("a", 10.0), ("b", 20.0)):
        ratios = [timings[name].ratio for timings in found]
        assert fmean(ratios) == pytest.approx(ratio, rel=0.02)
        assert stdev(ratios) < 0.02 * ratio
        assert all(timings[name].reliable for timings in found)
        # What single calls tell here: the core's loss, not the network.
        assert share < 0.5 or any(timings[name].q3_ms > 1.3 * timings[name].q1_ms for timings in found)


def test_what_is_uncertain_is_timed_on_within_a_bound() -> None:
    machine = Machine()
    rng = random.Random(1)
    calls = {
        "steady": machine.work("s", 0.002),
        "noisy": lambda: machine.work("n", 0.001 * rng.uniform(1, 1.15))(),
        "wild": lambda: machine.work("w", 0.001 * rng.uniform(1, 9))(),
    }
    seen: list[tuple[int, str]] = []
    timings = time_interleaved(
        calls,
        machine.work("r", 0.001),
        rounds=8,
        group=1,
        longest=20,
        priming=0,
        clock=machine.clock,
        progress=lambda rounds, note: seen.append((rounds, note)),
    )
    assert timings["steady"].count == 8
    assert 8 < timings["noisy"].count < timings["wild"].count == 160
    assert timings["noisy"].reliable
    assert not timings["wild"].reliable
    assert sum(rounds for rounds, _ in seen) == 8
    assert seen[8:][0] == (0, "still timing 2 of 3")


def test_groups_stay_whole_where_more_are_timed() -> None:
    """Every fourth call is quick: the least of four is the same in every group of four, not in one of any other."""
    machine = Machine()
    calls = 0

    def work() -> None:
        nonlocal calls
        machine.now += 0.001 if calls % 4 == 0 else 0.002 + 0.001 * (calls % 3)
        calls += 1

    seen: list[tuple[int, str]] = []
    for rounds in (1, 3, 5, 22, 24):
        calls, seen[:] = 0, []
        timing = time_interleaved(
            {"a": work},
            machine.work("r", 0.001),
            rounds,
            warmup=0,
            priming=0,
            clock=machine.clock,
            progress=lambda n, note: seen.append((n, note)),
        )["a"]
        assert timing.count % 4 == 0
        assert timing.count >= rounds
        assert timing.ratio == pytest.approx(1)
        assert sum(n for n, _ in seen) == rounds
        if rounds > 20:  # six groups: certain, without a group more
            assert (timing.count, timing.reliable) == (24, True)
            assert all(note == "" for _, note in seen)


def test_uncertainty_falls_with_the_root_of_the_groups() -> None:
    rng = random.Random(2)
    values = [rng.gauss(1, 0.1) for _ in range(1600)]
    found = [median_uncertainty(values[:count]) for count in (25, 100, 400, 1600)]
    assert all(1.4 < one / other < 2.9 for one, other in pairwise(found))


def test_progress_counts_rounds() -> None:
    seen: list[int] = []
    time_interleaved({"a": lambda: None}, None, rounds=5, group=3, longest=1, progress=lambda n, note: seen.append(n))
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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_threads_started_while_pinned_are_freed_too() -> None:
    """As torch's are, which would else share one core for the rest of the job."""
    before, stop = os.sched_getaffinity(0), threading.Event()
    early, late = (threading.Thread(target=stop.wait) for _ in range(2))
    early.start()
    try:
        with pinned():
            late.start()
            inside = os.sched_getaffinity(late.native_id)
        assert len(inside) == 1
        assert os.sched_getaffinity(late.native_id) == os.sched_getaffinity(early.native_id) == before
        assert os.sched_getaffinity(0) == before
    finally:
        stop.set()
        early.join()
        late.join()
