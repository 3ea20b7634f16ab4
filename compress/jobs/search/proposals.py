"""What a search around a given network tries first: every edit alone, and what these scores make of a time budget.

Single edits say what each costs and saves, so they are scored whatever they take. Their losses are taken to add and
the shares of time that stay to multiply: a knapsack with one value of every choice, solved for several times. It is a
guess; what comes of it is priced and scored as every other candidate.
"""

import math
from collections.abc import Sequence
from itertools import chain, zip_longest

from compress.artefacts.results import Trial
from compress.errors import BudgetError
from compress.nas.space import Pick, Space, pick_key
from compress.pruning.allocation import LayerChoice, allocate_ratios

_AIMS = 16
"""Times that picks are allocated for, between the given network's and the least."""
_UNIT = 0.005  # of the logarithm of time, that the knapsack counts in


def single_edits(space: Space, given: Pick, most: int) -> list[Pick]:
    """At most so many picks with one edit each: of every choice first the value in the middle, then those around it."""
    by_choice = []
    for path, values in space.choices.items():
        others = [value for value in values if value != given[path]]
        middle = (len(others) - 1) / 2
        order = sorted(range(len(others)), key=lambda place: abs(place - middle))
        by_choice.append([{**given, path: others[place]} for place in order])
    rounds = chain.from_iterable(zip_longest(*by_choice))
    return [pick for pick in rounds if pick is not None][:most]


def allocated(space: Space, given: Trial, singles: Sequence[Trial]) -> list[Pick]:
    """Picks of several edits with the least loss for times between the given network's and the least, slowest first."""
    choices: dict[str, list[LayerChoice]] = {}
    for path, values in space.choices.items():
        options = [LayerChoice(float(values.index(given.pick[path])), 0.0, 0.0)]
        for trial in singles:
            if trial.pick[path] != given.pick[path]:
                stays = math.log(trial.cost.predicted_ms / given.cost.predicted_ms)
                lost = max(0.0, given.value - trial.value)
                options.append(LayerChoice(float(values.index(trial.pick[path])), stays, lost))
        least = min(option.time_ms for option in options)
        choices[path] = [LayerChoice(one.ratio, one.time_ms - least, one.loss) for one in options]
    whole = sum(options[0].time_ms for options in choices.values())
    found: dict[str, Pick] = {}
    for step in range(1, _AIMS + 1):
        try:
            chosen = allocate_ratios(choices, whole * (1 - step / _AIMS), unit_ms=_UNIT)
        except BudgetError:
            break
        pick = {path: space.choices[path][int(one.ratio)] for path, one in chosen.items()}
        found.setdefault(pick_key(pick), pick)
    known = {pick_key(trial.pick) for trial in (given, *singles)}
    return [pick for key, pick in found.items() if key not in known]
