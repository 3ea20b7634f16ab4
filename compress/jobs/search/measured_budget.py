"""A time budget around a given network, corrected by what it and some candidates take in fact.

A share of the given network's time is to be met in measured time, but candidates are told by predicted ones. A latency
table may be several percent off for one network and right for others. What all have in common does no harm, the
difference moves every candidate away from its budget. So the given network and some candidates of about the budget are
measured whole before the trials, side by side, for one network takes up to a tenth longer in one run than in another.
"""

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from compress.measure.latency_model import LatencyModel, load
from compress.measure.limit import Limit
from compress.measure.whole_networks import time_runners
from compress.nas.space import Pick, Space

PROBES = 5
"""Candidates of about the budget that are measured."""
_DRAWS = 4 * PROBES
_REPEATS = 3  # of the measurement
_NEAR = 0.25  # of the budget, that a probe may be away from it
_MOST = 1.25  # that a budget is corrected by


@dataclass(frozen=True)
class Timed:
    """predicted_ms, measured_ms: of one network, on the clock of the target's table."""

    predicted_ms: float
    measured_ms: float

    @property
    def off(self) -> float:
        """How many times the prediction it takes."""
        return self.measured_ms / self.predicted_ms


@dataclass(frozen=True)
class Correction:
    """given, probes: the given network and candidates of about the budget. factor: of the budget in predicted time."""

    given: Timed
    probes: tuple[Timed, ...]
    factor: float


def correction(limit: Limit, given: Timed, probes: tuple[Timed, ...]) -> Correction:
    """What the budget in predicted time is multiplied by, so that candidates meet it in measured time.

    A share is of the given network's measured time; an absolute budget goes by the candidates alone. At most a quarter
    either way; 1 without probes.
    """
    if not probes:
        return Correction(given, (), 1.0)
    factor = (given.off if limit.relative else 1.0) / median(one.off for one in probes)
    return Correction(given, probes, min(_MOST, max(1 / _MOST, factor)))


def near(space: Space, given: Pick, predicted_ms: Callable[[Pick], float], limit_ms: float, seed: int) -> list[Pick]:
    """At most PROBES picks of about the limit's time: the given one with so many changes as that takes, one after the
    other, to random values and then to the smallest."""
    rng, found = random.Random(seed), list[Pick]()
    for _ in range(_DRAWS):
        order = list(space.choices)
        rng.shuffle(order)
        changes = [(path, value[path]) for value in (space.sample(rng), space.smallest) for path in order]

        def changed(count: int, changes: Sequence[tuple[str, Any]] = changes) -> Pick:
            return {**given, **dict(changes[:count])}

        few, many = 0, len(changes)
        while many - few > 1:  # as if the time fell with every change
            middle = (few + many) // 2
            few, many = (middle, many) if predicted_ms(changed(middle)) > limit_ms else (few, middle)
        away = {count: abs(predicted_ms(changed(count)) / limit_ms - 1) for count in (few, many)}
        nearest = min(away, key=away.__getitem__)
        if nearest and away[nearest] <= _NEAR and changed(nearest) not in found:
            found.append(changed(nearest))
        if len(found) == PROBES:
            break
    return found


def measured_ms(
    model: LatencyModel, rounds: int, networks: Mapping[str, tuple[nn.Module, tuple[int, int]]]
) -> dict[str, float]:
    """Of every network at its input size, on the model's target and the clock of its table, side by side; the median
    of several times, as a network lies otherwise in memory each time that it is loaded."""
    target, sizes = model.target, {name: size for name, (_, size) in networks.items()}
    with tempfile.TemporaryDirectory() as folder:
        files = {
            name: model.runtime.export(network, size, Path(folder), name)[0]
            for name, (network, size) in networks.items()
        }
        timings = [
            time_runners(
                {name: load(target, file) for name, file in files.items()}, sizes, target.local_threads, rounds
            )
            for _ in range(_REPEATS)
        ]
    return {name: median(one[name].ratio for one in timings) * model.reference_ms for name in networks}
