"""Which channels are removed: by a ratio for every group, by one threshold for all, or as few as meet a budget.

Each gives the members to remove at once; a caller that prunes in several steps calls it once a step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from compress.errors import BudgetError, RecipeError
from compress.pruning.groups import PruningGroup

Scores = Mapping[int, float]
"""Member → importance; the higher, the longer it stays."""

Cost = Callable[[frozenset[int]], float]
"""The members removed → MACs, milliseconds or bytes of the network without them."""

_STEPS = 1000
"""Ratios that a budget is met with are of 1/1000."""


@dataclass(frozen=True)
class Choice:
    """removed: members. ratio: that was requested of the groups to get there. cost: without them."""

    removed: frozenset[int]
    ratio: float
    cost: float


def uniform(parts: Sequence[PruningGroup], scores: Scores, ratio: float) -> frozenset[int]:
    """The ratio, as nearly as rounding allows, of every group. Raises RecipeError for a ratio outside 0..1."""
    check_ratio(ratio)
    return frozenset(member for part in parts for member in part.nearest_removal(scores, ratio))


def global_(parts: Sequence[PruningGroup], scores: Scores, ratio: float) -> frozenset[int]:
    """The least important channels of all groups together, up to the ratio of those that can be removed; then rounded.

    Raises RecipeError for a ratio outside 0..1.
    """
    check_ratio(ratio)
    width = {member: size for part in parts for member, size in zip(part.members, part.widths, strict=True)}
    still = ratio * sum(width.values())
    below: set[int] = set()
    for member in sorted(width, key=lambda member: (scores[member], member)):
        if still < width[member] / 2:
            break
        below.add(member)
        still -= width[member]
    return frozenset(member for part in parts for member in part.nearest_removal(scores, part.share(below)))


def to_budget(
    parts: Sequence[PruningGroup],
    scores: Scores,
    how: Literal["uniform", "global"],
    cost: Cost,
    target: float,
) -> Choice:
    """The least ratio that meets the target; of the groups that its last step changed, only as many as are needed.

    At most 12 + log2(groups) costs are computed. A cost that does not fall with every channel makes the choice meet
    the target still, but not necessarily at the least ratio. Raises BudgetError naming the least reachable cost.
    """
    choose = uniform if how == "uniform" else global_
    known: dict[frozenset[int], float] = {}

    def price(removed: frozenset[int]) -> float:
        if removed not in known:
            known[removed] = cost(removed)
        return known[removed]

    def at(step: int) -> frozenset[int]:
        return choose(parts, scores, step / _STEPS)

    if price(at(0)) <= target:
        return Choice(at(0), 0.0, price(at(0)))
    if price(at(_STEPS)) > target:
        raise BudgetError(
            f"the least that pruning reaches is {price(at(_STEPS)):.6g}",
            place="budget",
            value=target,
            remedy="request no less, protect fewer layers or round to a smaller multiple",
        )
    step = _least(lambda step: price(at(step)) <= target, 0, _STEPS)
    before, after = at(step - 1), at(step)
    changed = [part for part in parts if before & set(part.members) != after & set(part.members)]

    def partly(count: int) -> frozenset[int]:
        members = {member for part in changed[:count] for member in part.members}
        return (before - members) | (after & members)

    removed = partly(_least(lambda count: price(partly(count)) <= target, 0, len(changed)))
    return Choice(removed, step / _STEPS, price(removed))


def check_ratio(ratio: float) -> None:
    """Raises RecipeError for a ratio outside 0..1."""
    if not 0 <= ratio <= 1:
        raise RecipeError(
            "a ratio is the share of the channels that is removed, in 0..1",
            place="ratio",
            value=ratio,
            remedy="correct it",
        )


def _least(meets: Callable[[int], bool], low: int, high: int) -> int:
    """The least number that meets, given that low does not and high does."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if meets(middle) else (middle, high)
    return high
