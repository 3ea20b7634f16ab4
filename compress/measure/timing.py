"""Times callables on a machine that other work disturbs.

The speed of a CPU drifts by 15 % over seconds, and no order statistic of one callable's times cures that (coefficient
of variation over windows of 50 runs: 8 % for medians, 1.7 % for ratios to a reference). So all callables run round
robin with a fixed reference in between, and a time is read as a ratio to the reference runs before and after it.

Where other programs take the core away, single calls take several times as long, and on many machines there is no
quiet moment to wait for. So the least time of a group of calls counts, over the median of the reference's runs beside
it: three networks of .4 to 2 ms, 600 groups each, on two cores that eight other programs kept busy:

| of a group, over the reference | spread of the groups' ratios | what 25 groups gave, standard deviation |
|---|---|---|
| median of 4 calls, mean of 1 + 1 runs | 19-64 % | 4.5-19 % |
| median of 4 calls, median of 4 + 4 runs | 15-35 % | 3.3-13 % |
| least of 4 calls, mean of 1 + 1 runs | 8-17 % | 2.3-3.8 % |
| **least of 4 calls, median of 4 + 4 runs** | **3-11 %** | **2.2-3.6 %** |
| least of 8 calls, median of 4 + 4 runs | 3-10 % | 2.0-2.9 % |

The uncertainty of the result decides how long to continue, not the spread of single ratios: a spread s leaves
the median of n groups an uncertainty of about 1.8 s / sqrt(n). Under 3 % are 5 % of spread after 9 groups (36 calls),
10 % after 36 (144) and 16 % after 100 (400), which is where the bound lies for 100 rounds.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, comb
from statistics import median, quantiles

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

UNCERTAINTY_LIMIT = 0.03
"""A timing that is less certain than this is unreliable (see Timing.uncertainty)."""

PRIMING = 6
"""Untimed calls after something else has run: caches, branch prediction and address translation settle. Candidates of
DIR-BHRNet in one run of thirty took, against each run by itself (its own drift of 10 % left out): after 2 untimed calls
networks of 0.2 ms 1.02, of 1.3 ms 1.17; after 6 calls 1.00 and 1.02, after 16 the same."""
GROUP = 4
"""Timed calls after that."""
REFERENCES = 4
"""Timed runs of the reference before and after a group."""
LONGEST = 4
"""Times the requested rounds, at most, that what is still uncertain after them is timed."""
_FEWEST = 6
"""Groups from which a confidence interval of their median exists: 1 - 2 / 2 ** 6 > 0.95."""


@dataclass(frozen=True)
class Timing:
    """The time of one callable.

    median_ms, q1_ms, q3_ms: of the raw times of single calls. ratio: median over the groups of a group's least time
    over the reference's time beside it; normalised_ms: ratio times the reference's overall median, so that callables
    timed together compare. spread: interquartile range of the groups' ratios over their median. uncertainty: half the
    95 % confidence interval of that median, over it; what more groups make smaller. count: timed calls.
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    ratio: float
    normalised_ms: float
    spread: float
    uncertainty: float
    count: int

    @property
    def reliable(self) -> bool:
        """Whether it is certain enough for differences of a few percent to mean anything."""
        return self.uncertainty <= UNCERTAINTY_LIMIT


def time_interleaved(
    callables: Mapping[str, Callable[[], object]],
    reference: Callable[[], object] | None,
    rounds: int = 50,
    warmup: int = 3,
    priming: int = PRIMING,
    group: int = GROUP,
    longest: int = LONGEST,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int, str], None] = lambda rounds, note: None,
) -> dict[str, Timing]:
    """Times every callable `rounds` times in its steady state, in groups with the reference before and after them.

    The last group is a whole one too: rounds are rounded up to a multiple of `group`. What is not reliable then is
    timed on, up to `longest` times as often. priming: untimed calls before each group; with 0, and groups of 1, it is
    the time after other work has emptied the caches. Without a reference, ratio is 1 and normalised_ms the median of
    the groups' least times. clock: seconds. progress: called with the rounds done since its last call (none of those
    beyond `rounds`), and a note of what is still timed.
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

    def timed_references() -> list[float]:
        if reference is None:
            return []
        reference()
        found = [timed(reference) for _ in range(REFERENCES)]
        references.extend(found)
        return found

    def time_group(name: str) -> None:
        call = callables[name]
        before = timed_references()
        for _ in range(priming):
            call()
        times[name] += [timed(call) for _ in range(group)]
        if found := before + timed_references():
            beside[name] += [median(found)] * group

    def found(name: str) -> Timing:
        return summarise(times[name], beside[name], median(references) if references else None, group)

    for first in range(0, rounds, group):
        for name in callables:
            time_group(name)
        progress(min(group, rounds - first), "")
    whole = ceil(rounds / group) * group
    for _ in range(whole, longest * whole, group):
        unreliable = [name for name in callables if not found(name).reliable]
        if not unreliable:
            break
        progress(0, f"still timing {len(unreliable)} of {len(callables)}")
        for name in unreliable:
            time_group(name)
    return {name: found(name) for name in callables}


def summarise(
    times_ms: Sequence[float], references_ms: Sequence[float], reference_ms: float | None, group: int = GROUP
) -> Timing:
    """One Timing from raw times, `group` after `group`, and the reference's times beside them (one each, or none)."""
    ratios = [t / r for t, r in zip(times_ms, references_ms, strict=True)] if references_ms else list(times_ms)
    least = [min(ratios[first : first + group]) for first in range(0, len(ratios), group)]
    middle = median(least)
    low, high = _quartiles(least)
    q1, q3 = _quartiles(times_ms)
    # Too few groups have no interval of their own: that of their calls is better than none.
    return Timing(
        median_ms=median(times_ms),
        q1_ms=q1,
        q3_ms=q3,
        ratio=middle if references_ms else 1.0,
        normalised_ms=middle * (reference_ms or 1.0),
        spread=(high - low) / middle if middle else float("inf"),
        uncertainty=median_uncertainty(least if len(least) >= _FEWEST else ratios),
        count=len(times_ms),
    )


def median_uncertainty(values: Sequence[float]) -> float:
    """Half the 95 % confidence interval of the values' median, over it; by order statistics, whatever they come from.

    Of fewer than six values half their range, which holds the median less often; 1 of one value, which has no spread,
    and where the median is 0 (an engine's clock that is too coarse).
    """
    if len(values) < 2:
        return 1.0
    ordered, left_out = sorted(values), _left_out(len(values))
    low, high, middle = ordered[left_out], ordered[-1 - left_out], median(ordered)
    return (high - low) / 2 / middle if middle else 1.0


@cache
def _left_out(count: int) -> int:
    """How many of so many ordered values lie beyond either end of their median's 95 % interval."""
    left_out, tail = 0, 1 + count  # of 2 ** count ways to lie below and above the median
    while tail * 40 <= 2**count:
        left_out += 1
        tail += comb(count, left_out + 1)
    return left_out


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
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


def reference_time(clock: Callable[[], float] = time.perf_counter) -> float:
    """Milliseconds that the reference takes now: the median of REFERENCES runs after an untimed one."""
    call = reference_convolution()
    call()
    found = []
    for _ in range(REFERENCES):
        start = clock()
        call()
        found.append((clock() - start) * 1000)
    return median(found)


def other_load(threads: int = 1) -> float | None:
    """Other programs that wanted a core in the last minute, on average, beside that many threads of ours; None where
    the system does not say."""
    return max(0.0, os.getloadavg()[0] - threads) if hasattr(os, "getloadavg") else None


@contextlib.contextmanager
def pinned(threads: int = 1) -> Iterator[bool]:
    """Keeps this process on as many cores as threads while the block runs, where the system can; yields whether.

    Takes the last of the cores it may use: the first ones serve interrupts and other people's single threads. Threads
    that an engine has already started stay where they are. Those that are started meanwhile inherit the cores; they are
    freed with this one: torch's would else do the rest of the job's training on one core.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    before, running = os.sched_getaffinity(0), _threads()
    try:
        os.sched_setaffinity(0, sorted(before)[-threads:])
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        for thread in {0, *(_threads() - running)}:
            with contextlib.suppress(ProcessLookupError):  # ended just now
                os.sched_setaffinity(thread, before)


def _threads() -> set[int]:
    """The threads of this process where the system lists them, with those of libraries, which Python does not know."""
    with contextlib.suppress(OSError):
        return set(map(int, os.listdir("/proc/self/task")))
    return set()
