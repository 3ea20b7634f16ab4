"""What a search around a given network tries first: what the single edits make of a budget.

Of every edit made alone it is known what share of the time stays and how far the network's maps move. The moves are
taken to add and the shares of time to multiply: a knapsack with one value of every choice, solved for several times,
for all kinds of choices together and for some of them. It is a guess; the latency model says what time a pick really
takes, and the time aimed at is corrected until the budget is met closely.
"""

import math
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from compress.artefacts.results import SingleEdit
from compress.nas.space import INPUT_SIZE, Pick, Space, pick_key, size_of
from compress.pruning.allocation import LayerChoice, allocate_ratios

_AIMS = 8
"""Times close below the budget that picks are allocated for; without one twice as many."""
_CLOSE = 0.75
"""Of the budget, that is still close to it."""
_ALONE = (1.0, 0.95, 0.9)
"""Of the budget, that picks of one kind of choices alone are allocated for: measured, one may be over it."""
_FAR = (0.75, 0.62, 0.5)
_TRIES = 4  # of corrections
_TOLERANCE = 0.02  # of the logarithm of time, by which a pick may stay below its aim
_UNIT = 0.005  # of the logarithm of time, that the knapsack counts in

Excess = Callable[[Pick], float | None]
"""A pick → the logarithm of its cost over the budget, for the limit that is met least; None without a budget."""
Options = dict[str, list[LayerChoice]]
"""Of every choice: its values by their place, the logarithm of the share of time that stays, the error of the maps."""


def single_edits(space: Space, given: Pick, most: int) -> list[tuple[str, Any]]:
    """(path, value) of at most so many edits that are made alone: of every choice first the value farthest from the
    given one, then one in the middle, then the nearest. What lies between is interpolated."""
    by_choice = []
    for path, values in space.choices.items():
        at = values.index(given[path])
        others = sorted((place for place in range(len(values)) if place != at), key=lambda place: -abs(place - at))
        if len(others) > 3 and _share(given[path]) is not None:
            others = [others[0], others[len(others) // 2], others[-1]]
        by_choice.append([(path, values[place]) for place in others])
    rounds = chain.from_iterable(zip_longest(*by_choice))
    return [edit for edit in rounds if edit is not None][:most]


def allocated(
    space: Space, given: Pick, singles: Sequence[SingleEdit], excess: Excess = lambda pick: None
) -> list[Pick]:
    """Picks of several edits that move the maps least for their time, the slowest of each set of choices first.

    With a budget those of all choices close below it, then some with one kind of choices only and without one kind,
    then some down to half of it. Without one from the given network's time down to the least.
    """
    options = options_of(space, given, singles)
    kinds = kinds_of(space)
    over = excess(given)
    start = 0.0 if over is None else min(0.0, -over)  # the logarithm of the share of time that the budget allows
    found: dict[str, Pick] = {}

    def add(aim: float, within: Options) -> None:
        """The pick for that logarithm of the share of time that stays."""
        wanted, best, least = aim, None, _least(within)
        for _ in range(_TRIES):
            aim = max(aim, least)
            pick = _solved(space, given, within, aim)
            off = excess(pick)
            if off is None:
                best = pick
                break
            off += start - wanted  # above 0: it takes longer than what this pick is for
            if off <= 0:
                best = pick
            if -_TOLERANCE <= off <= 0 or (off > 0 and aim == least):
                break
            aim -= off + _TOLERANCE / 2
        if best is not None:
            found.setdefault(pick_key(best), best)

    if over is not None:
        for aim in np.linspace(start, start + math.log(_CLOSE), _AIMS, endpoint=False):
            add(float(aim), options)
        if len(set(kinds.values())) > 1:
            for kind in dict.fromkeys(kinds.values()):
                for share in _ALONE:
                    add(start + math.log(share), {path: one for path, one in options.items() if kinds[path] == kind})
                add(start, {path: one for path, one in options.items() if kinds[path] != kind})
        for share in _FAR:
            add(start + math.log(share), options)
    else:
        for aim in np.linspace(0.0, _least(options), 2 * _AIMS + 1)[1:]:
            add(float(aim), options)
    found.pop(pick_key(given), None)
    return list(found.values())


def kinds_of(space: Space) -> dict[str, str]:
    """Path of a choice → what kind it is of: one of the edits, the input size, or a field of the architecture."""
    edits = {edit.path: str(edit.kind) for edit in space.edits}
    return {path: edits.get(path, INPUT_SIZE if path == INPUT_SIZE else "fields") for path in space.choices}


def kinds_changed(space: Space, given: Pick, pick: Pick) -> frozenset[str]:
    """The kinds of choices in which a pick is another than the given one."""
    return frozenset(kind for path, kind in kinds_of(space).items() if pick[path] != given[path])


def options_of(space: Space, given: Pick, singles: Sequence[SingleEdit]) -> Options:
    """Of every choice the given value and the others, where their single edits are known, or others of their choice.

    Between and beyond the known ones the logarithm of time is linear in the share removed, and the error quadratic: the
    least important go first.
    """
    alone = {(one.path, one.value): (math.log(one.share), one.error) for one in singles}
    found: Options = {}
    for path, values in space.choices.items():
        known = {value: alone[path, value] for value in values if (path, value) in alone}
        found[path] = [LayerChoice(float(values.index(given[path])), 0.0, 0.0)]
        for place, value in enumerate(values):
            if value in known:
                found[path].append(LayerChoice(float(place), *known[value]))
            elif value != given[path] and known and _share(value) is not None:
                found[path].append(LayerChoice(float(place), *_between(given[path], value, known)))
    return found


def _between(given: Any, value: Any, known: dict[Any, tuple[float, float]]) -> tuple[float, float]:
    """The logarithm of the share of time that stays, and the error, of a value that was not tried alone."""
    whole = _share(given) or 1.0
    removed = sorted((1 - (_share(one) or 0.0) / whole, *figures) for one, figures in known.items())
    shares, stays, lost = (np.array([0.0, *column]) for column in zip(*removed, strict=True))
    at = 1 - (_share(value) or 0.0) / whole
    beyond = max(1.0, at / shares[-1])
    time = float(np.interp(at, shares, stays)) * beyond
    return time, float(np.interp(at, shares, np.sqrt(lost)) * beyond) ** 2


def _share(value: Any) -> float | None:
    """Of numbers the number, of an input size its pixels, of others none."""
    if isinstance(value, int | float):
        return float(value)
    try:
        return float(math.prod(size_of(str(value))))
    except ValueError:
        return None


def _least(options: Options) -> float:
    """The logarithm of the least share of time that stays."""
    return sum(min(one.time_ms for one in several) for several in options.values())


def _solved(space: Space, given: Pick, options: Options, aim: float) -> Pick:
    """The pick of least error within that logarithm of the share of time that stays, no less than the least."""
    shifted: Options = {}
    for path, several in options.items():
        least = min(one.time_ms for one in several)
        shifted[path] = [LayerChoice(one.ratio, one.time_ms - least, one.loss) for one in several]
    room = aim - _least(options) + _UNIT * len(options)  # times are rounded up to units
    chosen = allocate_ratios(shifted, room, unit_ms=_UNIT)
    return {**given, **{path: space.choices[path][int(one.ratio)] for path, one in chosen.items()}}
