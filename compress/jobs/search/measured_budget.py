"""A time budget around a given network, corrected by what it and some candidates take in fact.

A share of the given network's time is to be met in measured time, but candidates are told by predicted ones. A latency
table may be several percent off for one network and right for others. What all have in common does no harm, the
difference moves every candidate away from its budget. So the given network and some candidates of about the budget are
measured whole before the trials, side by side, for one network takes up to a tenth longer in one run than in another.
"""

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from compress.errors import CompressError
from compress.measure.latency_model import LatencyModel, load
from compress.measure.limit import Limit
from compress.measure.target import Target
from compress.measure.whole_networks import time_exports
from compress.nas.space import Pick, Space
from compress.progress import Progress

PROBES = 5
"""Candidates of about the budget that are measured."""
_DRAWS = 4 * PROBES
_REPEATS = 3  # of the measurement
_NEAR = 0.25  # of the budget, that a probe may be away from it
_MOST = 1.25  # that a budget is corrected by


@dataclass(frozen=True)
class Timed:
    """predicted_ms, measured_ms: of one network, on the clock of the target's table. reliable: see Timing."""

    predicted_ms: float
    measured_ms: float
    reliable: bool = True

    @property
    def off(self) -> float:
        """How many times the prediction it takes."""
        return self.measured_ms / self.predicted_ms


@dataclass(frozen=True)
class Correction:
    """given, probes: the given network and candidates of about the budget. factor: of the budget in predicted time.
    wanted: the same before it was limited."""

    given: Timed
    probes: tuple[Timed, ...]
    factor: float
    wanted: float

    def said(self, limit: Limit, limit_ms: float, name: str) -> str:
        """What was found, for people. limit_ms: in predicted time, before the correction. name: of the target."""
        if not self.probes:
            return f"no candidate of about the budget on {name} was found to measure: it is met as predicted"
        share = f"{limit} of the given network's time" if limit.relative else f"{limit} ms"
        given, whose = "", f"their predicted time on {name}"
        if limit.relative:
            given, whose = (
                f"the given network takes {self.given.off:.2f} times its predicted time on {name}, ",
                "theirs",
            )
        more = [] if self.factor == self.wanted else [f"more than {_MOST:g} times is not corrected"]
        if not all(one.reliable for one in (self.given, *self.probes)):
            more.append("measured beside other programs: take it with care")
        return (
            f"{given}candidates of about the budget take {median(one.off for one in self.probes):.2f} times {whose}: "
            f"{share} are {limit_ms * self.factor:.3g} ms of predicted time, not {limit_ms:.3g}"
            f"{''.join(f' ({one})' for one in more)}"
        )


def correction(limit: Limit, given: Timed, probes: tuple[Timed, ...]) -> Correction:
    """What the budget in predicted time is multiplied by, so that candidates meet it in measured time.

    A share is of the given network's measured time; an absolute budget goes by the candidates alone. At most 1.25 times
    either way; 1 without probes.
    """
    if not probes:
        return Correction(given, (), 1.0, 1.0)
    factor = (given.off if limit.relative else 1.0) / median(one.off for one in probes)
    return Correction(given, probes, min(_MOST, max(1 / _MOST, factor)), factor)


def near(space: Space, given: Pick, predicted_ms: Callable[[Pick], float], limit_ms: float, seed: int) -> list[Pick]:
    """At most PROBES picks of about the limit's time: the given one with so many changes as that takes, one after the
    other, to random values and then to the smallest. The given one alone where it is within the limit."""
    if predicted_ms(given) <= limit_ms:
        return [given]
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
        if away[nearest] <= _NEAR and changed(nearest) not in (given, *found):
            found.append(changed(nearest))
        if len(found) == PROBES:
            break
    return found


def measured(
    model: LatencyModel, rounds: int, networks: Sequence[tuple[nn.Module, tuple[int, int]]], progress: Progress
) -> list[tuple[float, bool] | None]:
    """Milliseconds of every network at its input size, on the model's target and the clock of its table, and whether
    they are reliable. Side by side; the median of several times, as a network lies otherwise in memory each time that
    it is loaded. None of a network that the engine does not take."""
    target, sizes = model.target, {str(place): size for place, (_, size) in enumerate(networks)}
    with tempfile.TemporaryDirectory() as folder:
        files = dict[str, dict[Target, Path]]()
        for place, (network, size) in enumerate(networks):
            try:
                file = model.runtime.export(network, size, Path(folder), str(place))[0]
                load(target, file)
            except CompressError as error:
                progress.say(f"a network cannot be measured on {target.name}: {error}")
                continue
            files[str(place)] = {target: file}
        runs = [time_exports(files, rounds, sizes, progress, model.reference_ms) for _ in range(_REPEATS)]
    found = list[tuple[float, bool] | None]()
    for name in map(str, range(len(networks))):
        own = [run[name][target.name] for run in runs if name in run]
        found.append((median(one.ms for one in own), all(one.reliable for one in own)) if own else None)
    return found
