"""The time of each node of a model, corrected for what timing it costs.

Every engine's profiler adds time of its own to every node (onnxruntime's 2 us, more than many kernels of a small
network take). So the model is also timed whole, without it, and each node is corrected by the excess per node: the
corrected nodes add up to the whole.

Passes come in groups between runs of the reference, and the first of each group are dropped: after something else has
run, a network needs some passes until it is in its steady state (compress/measure/timing.py, PRIMING). Of the others
the faster half counts: what took the core away from the slower ones hit some nodes and not others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import fmean, median
from time import perf_counter

from compress.engines.engine import Profile, Profiler
from compress.engines.kernel import Kernel
from compress.measure.timing import GROUP, REFERENCES, Timing, reference_convolution, summarise, time_interleaved

ROUNDS = 40
"""Timed passes, the first of each group left out."""
DROPPED = 2
"""Of each group; fewer than PRIMING, for only the reference runs between groups, not thirty networks."""
_COUNTED = GROUP // 2  # passes of a group
LEAST_RATIO = 1e-3
"""No kernel takes less than this part of the reference (0.08 us): below, an engine's clock is too coarse."""


@dataclass(frozen=True)
class Nodes:
    """The nodes of an engine's own graph in the order they run. times: of each, all in one unit."""

    kernels: tuple[Kernel, ...]
    names: tuple[str, ...]
    times: tuple[float, ...]


@dataclass(frozen=True)
class Profiled:
    """A model's kernels in the order they run, and what each takes. whole: one pass. reference_ms: the median.

    The kernels' normalised times add up to the whole's.
    """

    kernels: tuple[Kernel, ...]
    names: tuple[str, ...]
    timings: tuple[Timing, ...]
    whole: Timing
    reference_ms: float

    @property
    def nodes(self) -> Nodes:
        """With the ratios of their times to the reference's."""
        return Nodes(self.kernels, self.names, tuple(timing.ratio for timing in self.timings))


def time_nodes(profiler: Profiler, rounds: int = ROUNDS) -> Profiled:
    """Times every node of the model in that profiler, which cannot be used afterwards."""
    reference = reference_convolution()
    whole = time_interleaved({"": profiler.run}, reference, rounds)[""]
    references: list[float] = []

    def time_reference() -> None:
        reference()
        for _ in range(REFERENCES):
            start = perf_counter()
            reference()
            references.append((perf_counter() - start) * 1000)

    for _ in range(ceil(rounds / GROUP)):
        time_reference()
        for _ in range(DROPPED + GROUP):
            profiler.run_timed()
    time_reference()
    return correct(profiler.finish(), references, whole)


def correct(profile: Profile, references_ms: Sequence[float], whole: Timing) -> Profiled:
    """The kernels' own times. references_ms: of the reference, REFERENCES before each group and after the last."""
    kept: list[Sequence[float]] = []
    beside: list[float] = []
    for number in range(len(profile.times_ms) // (DROPPED + GROUP)):
        start = number * (DROPPED + GROUP) + DROPPED
        kept += sorted(profile.times_ms[start : start + GROUP], key=sum)[:_COUNTED]
        beside += [median(references_ms[number * REFERENCES : (number + 2) * REFERENCES])] * _COUNTED
    overall = median(references_ms)
    ratios = [[ms / reference for ms in row] for row, reference in zip(kept, beside, strict=True)]
    # Some clocks tick in microseconds, so for small kernels the median is a step; the mean of the middle is not.
    seen = [_middle_mean([row[column] for row in ratios]) for column in range(len(profile.kernels))]
    timings = []
    for column, ratio in enumerate(without_excess(seen, whole.ratio)):
        timing = summarise([row[column] for row in kept], beside, overall, _COUNTED)
        timings.append(replace(timing, ratio=ratio, normalised_ms=ratio * overall))
    return Profiled(profile.kernels, profile.names, tuple(timings), whole, overall)


def without_excess(seen: Sequence[float], whole: float) -> list[float]:
    """The nodes' ratios so that they add up to the whole's: what is too much is taken from all alike, what is too
    little is given in proportion. None gets below LEAST_RATIO, so more small nodes than the whole has room for keep it.
    """
    if sum(seen) <= whole:
        return [ratio * whole / sum(seen) for ratio in seen]
    low, high = 0.0, max(seen)
    for _ in range(60):
        excess = (low + high) / 2
        left = sum(max(LEAST_RATIO, ratio - excess) for ratio in seen)
        low, high = (excess, high) if left > whole else (low, excess)
    return [max(LEAST_RATIO, ratio - low) for ratio in seen]


def _middle_mean(values: Sequence[float]) -> float:
    ordered = sorted(values)
    cut = len(ordered) // 4
    return fmean(ordered[cut : len(ordered) - cut])
