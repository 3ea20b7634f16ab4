"""Times callables on a machine that other work disturbs.

The speed of a CPU drifts by 15 % over seconds, and no order statistic of one callable's times cures that (coefficient
of variation over windows of 50 runs: 8 % for medians, 1.7 % for ratios to a reference). So all callables run round
robin with a fixed reference in between, and a time is read as a ratio to the reference runs before and after it.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import median, quantiles

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

SPREAD_LIMIT = 0.10
"""A wider spread than this makes a timing unreliable: an undisturbed machine stays under 0.05 (see Timing.spread)."""

PRIMING = 6
"""Untimed calls after something else has run: caches, branch prediction and address translation settle. Candidates of
DIR-BHRNet in one run of thirty took, against each run by itself (its own drift of 10 % left out): after 2 untimed calls
networks of 0.2 ms 1.02, of 1.3 ms 1.17; after 6 calls 1.00 and 1.02, after 16 the same."""
GROUP = 4
"""Timed calls after that."""


@dataclass(frozen=True)
class Timing:
    """How long one callable takes.

    median_ms, q1_ms, q3_ms: of the raw times. ratio: median of the time over the reference's time next to it;
    normalised_ms: ratio times the reference's overall median, so that callables timed together compare.
    spread: interquartile range of the ratios over their median. count: timed calls.
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    ratio: float
    normalised_ms: float
    spread: float
    count: int

    @property
    def reliable(self) -> bool:
        """Whether the spread is small enough for differences of a few percent to mean anything."""
        return self.spread <= SPREAD_LIMIT


def time_interleaved(
    callables: Mapping[str, Callable[[], object]],
    reference: Callable[[], object] | None,
    rounds: int = 50,
    warmup: int = 3,
    priming: int = PRIMING,
    group: int = GROUP,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int], None] = lambda rounds: None,
) -> dict[str, Timing]:
    """Times every callable `rounds` times in its steady state, in groups with the reference before and after them.

    priming: untimed calls before each group; with 0, and groups of 1, it is the time after other work has emptied the
    caches. Without a reference, ratio is 1 and normalised_ms the median. clock: seconds. progress: told how many rounds
    were done since it was told last.
    """
    for _ in range(warmup):
        for call in (*callables.values(), *([reference] if reference else [])):
            call()
    times: dict[str, list[float]] = {name: [] for name in callables}
    beside: dict[str, list[float]] = {name: [] for name in callables}
    references: list[float] = []

    def timed(call: Callable[[], object]) -> float:
        start = clock()
        call()
        return (clock() - start) * 1000

    for first in range(0, rounds, group):
        last = min(first + group, rounds)
        for name, call in callables.items():
            if reference:
                reference()
                references.append(timed(reference))
            for _ in range(priming):
                call()
            times[name] += [timed(call) for _ in range(first, last)]
            if reference:
                reference()
                references.append(timed(reference))
                beside[name] += [(references[-2] + references[-1]) / 2] * (last - first)
        progress(last - first)
    overall = median(references) if references else None
    return {name: summarise(times[name], beside[name], overall) for name in callables}


def summarise(times_ms: list[float], references_ms: list[float], reference_ms: float | None) -> Timing:
    """One Timing from raw times and the reference's times beside them (one each, or none)."""
    ratios = [t / r for t, r in zip(times_ms, references_ms, strict=True)] if references_ms else times_ms
    middle = median(ratios)
    low, high = _quartiles(ratios)
    q1, q3 = _quartiles(times_ms)
    return Timing(
        median_ms=median(times_ms),
        q1_ms=q1,
        q3_ms=q3,
        ratio=middle if references_ms else 1.0,
        normalised_ms=middle * (reference_ms or 1.0),
        spread=(high - low) / middle if middle else float("inf"),
        count=len(times_ms),
    )


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = quantiles(values, n=4, method="inclusive")
    return first, third


@cache
def reference_convolution() -> Callable[[], object]:
    """A fixed 3x3 convolution, 32 to 32 channels at 32x32 (9.4 M multiply-adds), in onnxruntime on one thread.

    Long enough to time (about 0.1 ms), short enough to run between any two measurements.
    """
    size, channels = 32, 32
    weight = np.random.default_rng(0).standard_normal((channels, channels, 3, 3), dtype=np.float32)
    shape = (1, channels, size, size)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "reference",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.tobytes(), raw=True)],
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": np.random.default_rng(1).standard_normal(shape, dtype=np.float32)}
    return lambda: session.run(None, feed)


@contextlib.contextmanager
def pinned(threads: int = 1) -> Iterator[bool]:
    """Keeps this process on as many cores as threads while the block runs, where the system can; yields whether.

    Takes the last of the cores it may use: the first ones serve interrupts and other people's single threads. Threads
    that an engine has already started stay where they are.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, sorted(before)[-threads:])
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setaffinity(0, before)
