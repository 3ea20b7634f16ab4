"""Ratios of the layers that meet a time budget with the least predicted loss.

Channels of neighbouring layers multiply in time, so allocate_channels is greedy, by what each move saves in the
network as it then is. Fine-grained sparsity leaves shapes alone, times of layers add: allocate_ratios solves that
knapsack exactly.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress.errors import BudgetError, DataError, RecipeError, nearest
from compress.pruning.groups import PruningGroup
from compress.pruning.importance import criterion_named
from compress.pruning.selection import Cost, Scores, check_ratio
from compress.pruning.sensitivity import Curve

Loss = Callable[[PruningGroup, tuple[int, ...]], float]
"""A group and its members removed → predicted loss of the score, of any unit; losses of groups add."""


@dataclass(frozen=True)
class Option:
    """One size of a group. removed: members. share: of its channels removed. loss: predicted."""

    removed: tuple[int, ...]
    share: float
    loss: float


@dataclass(frozen=True)
class Allocation:
    """picked: group → index of its option. removed: members of all. cost_ms, loss: as predicted without them."""

    picked: dict[str, int]
    removed: frozenset[int]
    cost_ms: float
    loss: float


def loss_by_curves(curves: Mapping[str, Curve]) -> Loss:
    """From the sensitivity of each group; raises DataError for a group without a curve."""

    def loss(part: PruningGroup, removed: tuple[int, ...]) -> float:
        if part.name not in curves:
            raise DataError(
                "every pruning group needs a sensitivity curve",
                place="sensitivity points",
                value=part.name,
                remedy=f"analyse it; {nearest(part.name, curves)}",
            )
        return curves[part.name].loss(part.share(removed))

    return loss


def loss_by_importance(criterion: str, scores: Scores) -> Loss:
    """The importance removed, where there are no curves: a ranking, not a loss in points of the score.

    The sum of scores that estimate the loss (taylor, hessian). Of relative ones, which are means over layers, the share
    of the group's importance times the number of its layers: a channel of a residual stream is lost to every block.
    """
    absolute = criterion_named(criterion).absolute

    def loss(part: PruningGroup, removed: tuple[int, ...]) -> float:
        lost = sum(scores[member] for member in removed)
        if absolute or not lost:
            return lost
        return part.layers * lost / sum(scores[member] for member in part.members)

    return loss


def options(
    parts: Sequence[PruningGroup], scores: Scores, ratios: Sequence[float], loss: Loss
) -> dict[str, tuple[Option, ...]]:
    """Of every group that can lose anything: dense, then the removals nearest to the ratios, each once.

    Losses are made rising. Raises RecipeError for a ratio outside 0..1.
    """
    for ratio in ratios:
        check_ratio(ratio)
    found = {}
    for part in parts:
        removals = dict.fromkeys(part.nearest_removal(scores, ratio) for ratio in (0.0, *sorted(ratios)))
        if len(removals) > 1:
            losses = np.maximum.accumulate([loss(part, removed) if removed else 0.0 for removed in removals]).tolist()
            found[part.name] = tuple(
                Option(removed, part.share(removed), lost) for removed, lost in zip(removals, losses, strict=True)
            )
    return found


def first_gains(choices: Mapping[str, Sequence[Option]], cost_ms: Cost, threshold: float) -> dict[str, int | None]:
    """High or not at all: of every group the first option that, taken alone, saves `threshold` of its time, or None.

    Its time is what its smallest option saves, divided by the share of channels that takes: where time is proportional
    to channels, the time of everything that makes or reads them. None, if even the smallest saves nothing.
    """
    dense = cost_ms(frozenset())

    def saved(option: Option) -> float:
        return dense - cost_ms(frozenset(option.removed))

    first: dict[str, int | None] = {}
    for name, sizes in choices.items():
        time = saved(sizes[-1]) / sizes[-1].share
        enough = (index for index, size in enumerate(sizes) if index and saved(size) >= threshold * time)
        first[name] = next(enough, None) if time > 0 else None
    return first


def allocate_channels(
    choices: Mapping[str, Sequence[Option]],
    cost_ms: Cost,
    budget_ms: float,
    first: Mapping[str, int | None],
) -> Allocation:
    """Moves groups to smaller options, each time by the least loss per millisecond saved, until the budget is met.

    first: of first_gains, the first option that may be taken; a move may skip options. At the end, options that the
    budget does not need are given back, dearest first. What a move saves is computed again only when it comes first
    (lazy greedy: Minoux, 1978): exact while moves of others only ever make it save less, as they do in a product of
    channels. Raises BudgetError naming the least it reaches.
    """
    state = dict.fromkeys(choices, 0)
    price = _price(choices, cost_ms)
    cost = price(state)
    moves = 0

    def rated(name: str, index: int) -> tuple[float, float, int, str, int]:
        """(loss per ms, -ms, moves before, group, option); infinite if it saves no time."""
        saved = cost - price({**state, name: index})
        lost = choices[name][index].loss - choices[name][state[name]].loss
        rate, most = (lost / saved, -saved) if saved > 0 else (float("inf"), 0.0)
        return rate, most, moves, name, index

    heap = [rated(name, index) for name, least in first.items() if least for index in range(least, len(choices[name]))]
    heapq.heapify(heap)
    while cost > budget_ms and heap:
        rate, _, rated_at, name, index = heap[0]
        if index <= state[name]:
            heapq.heappop(heap)
        elif rated_at < moves:
            heapq.heapreplace(heap, rated(name, index))
        elif rate < float("inf"):
            state[name] = index
            moves, cost = moves + 1, price(state)
        else:
            break  # no move saves time any more
    if cost > budget_ms:
        raise BudgetError(
            f"the least that allocation reaches is {cost:.4g} ms",
            place="latency budget",
            value=budget_ms,
            remedy="request no less, or allow higher ratios",
        )
    _give_back(choices, state, price, budget_ms, first)
    return Allocation(
        picked=state,
        removed=_removed(choices, state),
        cost_ms=price(state),
        loss=sum(choices[name][index].loss for name, index in state.items()),
    )


def _give_back(
    choices: Mapping[str, Sequence[Option]],
    state: dict[str, int],
    price: Callable[[Mapping[str, int]], float],
    budget_ms: float,
    first: Mapping[str, int | None],
) -> None:
    """Sets every group, the one of most loss first, to the largest of its options that keeps the budget."""
    for name in sorted(choices, key=lambda name: (-choices[name][state[name]].loss, name)):
        larger = [0, *range(first[name] or 0, state[name])] if state[name] else []
        state[name] = next((n for n in larger if price({**state, name: n}) <= budget_ms), state[name])


def _price(choices: Mapping[str, Sequence[Option]], cost_ms: Cost) -> Callable[[Mapping[str, int]], float]:
    """The cost of a state: group → index of its option. Each is computed once."""
    known: dict[tuple[int, ...], float] = {}

    def price(state: Mapping[str, int]) -> float:
        key = tuple(state.values())
        if key not in known:
            known[key] = cost_ms(_removed(choices, state))
        return known[key]

    return price


def _removed(choices: Mapping[str, Sequence[Option]], state: Mapping[str, int]) -> frozenset[int]:
    return frozenset(member for name, index in state.items() for member in choices[name][index].removed)


# --- Fine-grained ----------------------------------------------------------------------------------------------------

_EXACT = 1e-9
"""Units that a quotient may be off by the rounding of floats."""


@dataclass(frozen=True)
class LayerChoice:
    """One ratio of zeros of one layer, 0 being dense: its time, and the predicted loss of the score."""

    ratio: float
    time_ms: float
    loss: float


def allocate_ratios(
    layers: Mapping[str, Sequence[LayerChoice]], budget_ms: float, *, unit_ms: float
) -> dict[str, LayerChoice]:
    """The choice of every layer with the least sum of losses whose times sum to at most the budget.

    Dynamic programme over whole units of time. Times are rounded up to units, so the budget holds, and the loss is at
    most the least of a budget smaller by one unit per layer. A layer that sparsity makes slower stays dense by itself,
    as dense then is both faster and better. Raises BudgetError naming the least reachable time, RecipeError for a unit
    that is not positive.
    """
    if unit_ms <= 0:
        raise RecipeError("a unit of time must be positive", place="unit_ms", value=unit_ms, remedy="give 0.001")
    units = {name: [_units(choice.time_ms, unit_ms) for choice in choices] for name, choices in layers.items()}
    room = int(np.floor(budget_ms / unit_ms + _EXACT))
    least = sum(map(min, units.values()))
    if least > room:
        raise BudgetError(
            f"the least that these layers take is {least * unit_ms:.4g} ms, in whole units",
            place="latency budget",
            value=budget_ms,
            remedy="request no less, or give a smaller unit",
        )
    best = np.zeros(room + 1)  # [units]: the least loss of the layers so far within that many units
    picks = []
    for name, choices in layers.items():
        tried = np.full((len(choices), room + 1), np.inf)
        for row, choice, needed in zip(tried, choices, units[name], strict=True):
            if needed <= room:
                row[needed:] = best[: room + 1 - needed] + choice.loss
        picks.append(tried.argmin(0))
        best = tried.min(0)
    found = {}
    for name, picked in reversed(list(zip(layers, picks, strict=True))):
        found[name] = layers[name][picked[room]]
        room -= units[name][picked[room]]
    return {name: found[name] for name in layers}


def _units(time_ms: float, unit_ms: float) -> int:
    """Rounded up."""
    return int(np.ceil(time_ms / unit_ms - _EXACT))
