import random
from time import perf_counter

import pytest

from compress.engines.engine import Profile
from compress.engines.kernel import Kernel, Operand
from compress.measure.profiling import DROPPED, GROUP, LEAST_RATIO, correct, time_nodes, without_excess
from compress.measure.timing import REFERENCES, summarise

TENSOR = (Operand((1, 8, 4, 4)),)
KERNELS = (Kernel("Slow", TENSOR, TENSOR), Kernel("Fast", TENSOR, TENSOR), Kernel("Nothing", TENSOR, TENSOR))


class Fixed:
    """Nodes of 2 ms, 1 ms and nothing, each of which a timed pass finds `own_ms` longer; the first passes of a group
    are three times slower."""

    def __init__(self, own_ms: float, whole_ms: float) -> None:
        self.own_ms, self.whole_s, self.passes = own_ms, whole_ms / 1000, 0

    def run(self) -> None:
        end = perf_counter() + self.whole_s
        while perf_counter() < end:
            pass

    def run_timed(self) -> None:
        self.passes += 1

    def finish(self) -> Profile:
        rows = []
        for number in range(self.passes):
            slow = 3 if number % (DROPPED + GROUP) < DROPPED else 1
            rows.append([slow * (ms + self.own_ms) for ms in (2.0, 1.0, 0.0)])
        return Profile(KERNELS, rows, ("a", "b", "c"))


def test_nodes_add_up_to_the_whole_and_the_first_passes_do_not_count() -> None:
    found = time_nodes(Fixed(own_ms=0.5, whole_ms=3.0), rounds=10)
    slow, fast, nothing = (timing.ratio for timing in found.timings)
    assert slow + fast + nothing == pytest.approx(found.whole.ratio, rel=0.05)
    assert slow - fast == pytest.approx(1.0 / found.reference_ms, rel=0.5)
    assert nothing >= LEAST_RATIO
    assert {timing.count for timing in found.timings} == {6}  # the faster half of whole groups
    assert found.kernels == KERNELS
    assert found.names == ("a", "b", "c")


def test_passes_that_lost_the_core_do_not_count() -> None:
    """In a third of the passes another program takes 9 ms of one node, in a third of the runs 1 ms of the reference."""
    rng, rows, references = random.Random(0), [], []
    for _ in range(10 * (DROPPED + GROUP)):
        row = [2.0, 1.0, 0.5]
        row[rng.randrange(3)] += 9.0 * (rng.random() < 0.33)
        rows.append(row)
    for _ in range(11 * REFERENCES):
        references.append(0.1 + (rng.random() < 0.33))
    whole = summarise([3.5] * 40, [0.1] * 40, 0.1)
    found = correct(Profile(KERNELS, rows, ("a", "b", "c")), references, whole)
    assert [timing.ratio for timing in found.timings] == pytest.approx([20, 10, 5], rel=0.1)


def test_nodes_add_up_exactly_whatever_timing_them_cost() -> None:
    too_much = without_excess([5.0, 2.0, 0.5, 0.001], 4.0)
    assert sum(too_much) == pytest.approx(4.0)
    assert too_much == pytest.approx([3.499, 0.499, LEAST_RATIO, LEAST_RATIO], abs=1e-6)
    assert without_excess([3.0, 1.0], 5.0) == pytest.approx(
        [3.75, 1.25]
    )  # spikes that the middle of a node's times drops
    assert without_excess([0.002, 0.002], LEAST_RATIO) == pytest.approx([LEAST_RATIO, LEAST_RATIO])
