"""Whole networks timed side by side."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np

from compress.engines import Runner
from compress.engines.engine import Image
from compress.measure.latency import Latency
from compress.measure.latency_model import identity_of, label, load, runtime_of
from compress.measure.target import Target
from compress.measure.timing import Timing, pinned, reference_convolution, time_interleaved
from compress.progress import Progress


def time_runners(
    runners: Mapping[str, Runner],
    input_hw: tuple[int, int] | Mapping[str, tuple[int, int]],
    threads: int,
    rounds: int,
    progress: Callable[[int, str], None] = lambda rounds, note: None,
) -> dict[str, Timing]:
    """All networks in one interleaved run, on a random picture.

    input_hw: of all of them, or of each by its name. threads: that the runners were loaded with, and get as many cores.
    rounds: timings of each.
    """
    sizes = input_hw if isinstance(input_hw, Mapping) else dict.fromkeys(runners, input_hw)
    calls = {name: _call(runner, _picture(sizes[name])) for name, runner in runners.items()}
    with pinned(threads):
        return time_interleaved(calls, reference_convolution(), rounds=rounds, progress=progress)


def time_exports(
    files: Mapping[str, Mapping[Target, Path]],
    rounds: int,
    input_hw: tuple[int, int] | Mapping[str, tuple[int, int]],
    progress: Progress,
    reference_ms: float | None = None,
) -> dict[str, dict[str, Latency]]:
    """Times every network on every target of this machine: network → target's name → latency of one pass.

    All targets of as many threads in one interleaved run. files: network → target → the file that its engine loads.
    input_hw: of all networks, or of each by its name. reference_ms: see Latency.of_timing.
    """
    sizes = input_hw if isinstance(input_hw, Mapping) else dict.fromkeys(files, input_hw)
    pairs = [(name, target) for name, of_target in files.items() for target in of_target]
    groups: dict[int, list[tuple[str, Target]]] = {}
    for name, target in pairs:
        groups.setdefault(target.local_threads, []).append((name, target))
    timings: dict[tuple[str, str], Timing] = {}
    with progress.phase("measuring", rounds * max(1, len(groups))) as phase:
        for threads, members in groups.items():
            runners = {}
            of_runner = {f"{name} {target.name}": sizes[name] for name, target in members}
            for name, target in members:
                runners[f"{name} {target.name}"] = load(target, files[name][target])
                left = runtime_of(target).left_to_cpu(files[name][target])
                if left:
                    progress.say(f"{name} on {target.name}: {len(left)} nodes run on the CPU, such as {left[0]}")
            found = time_runners(runners, of_runner, threads, rounds, phase.advance)
            timings |= {(name, target.name): found[f"{name} {target.name}"] for name, target in members}
    latencies: dict[str, dict[str, Latency]] = {name: {} for name in files}
    for name, target in pairs:
        of = label(target, identity_of(target))
        latencies[name][target.name] = Latency.of_timing(timings[name, target.name], of, reference_ms)
    return latencies


@cache
def _picture(input_hw: tuple[int, int]) -> Image:
    return np.random.default_rng(0).standard_normal((1, 3, *input_hw), dtype=np.float32)


def _call(runner: Runner, image: Image) -> Callable[[], object]:
    return lambda: runner.run(image)
