"""Whole networks timed side by side."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from compress.engines import Runner, engine
from compress.engines.engine import Image
from compress.measure.latency import Latency
from compress.measure.timing import Timing, pinned, reference_convolution, time_interleaved
from compress.progress import Progress


class HowTimed(Protocol):
    """The keys of a recipe for timing. threads: of the engine. rounds: interleaved timings per network."""

    @property
    def threads(self) -> int: ...
    @property
    def rounds(self) -> int: ...


def time_runners(
    runners: Mapping[str, Runner],
    input_hw: tuple[int, int],
    settings: HowTimed,
    progress: Callable[[int, str], None] = lambda rounds, note: None,
) -> dict[str, Timing]:
    """All networks in one interleaved run on the recipe's number of threads, on one random picture."""
    image: Image = np.random.default_rng(0).standard_normal((1, 3, *input_hw), dtype=np.float32)
    calls = {name: _call(runner, image) for name, runner in runners.items()}
    with pinned(settings.threads):
        return time_interleaved(calls, reference_convolution(), rounds=settings.rounds, progress=progress)


def time_exports(
    files: Mapping[str, Mapping[str, Path]],
    settings: HowTimed,
    input_hw: tuple[int, int],
    progress: Progress,
    reference_ms: float | None = None,
) -> dict[str, dict[str, Latency]]:
    """Times every network on every engine in one interleaved run: network → engine → latency of one pass.

    files: network → engine → the file that the engine loads. reference_ms: see Latency.of_timing.
    """
    runners = {
        (name, key): engine(key).load(file, settings.threads)
        for name, of_engine in files.items()
        for key, file in of_engine.items()
    }
    with progress.phase("measuring", settings.rounds) as phase:
        timings = time_runners(
            {f"{name} {key}": runner for (name, key), runner in runners.items()},
            input_hw,
            settings,
            phase.advance,
        )
    found: dict[str, dict[str, Latency]] = {}
    for name, key in runners:
        target = target_text(key, settings.threads)
        found.setdefault(name, {})[key] = Latency.of_timing(timings[f"{name} {key}"], target, reference_ms)
    return found


def target_text(engine_name: str, threads: int) -> str:
    """What a latency is of."""
    return f"{engine_name}, {threads} thread{'' if threads == 1 else 's'}"


def _call(runner: Runner, image: Image) -> Callable[[], object]:
    return lambda: runner.run(image)
