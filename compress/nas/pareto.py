"""The front of accuracy against costs: which candidates no other one beats in everything."""

import math
from collections.abc import Sequence

Point = Sequence[float]
"""Costs, then the score: lower costs are better, a higher score is better."""


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the non-dominated points, cheapest first, by the first cost. Of equal points the first one stays."""
    kept: list[int] = []
    # Whatever dominates a point comes before it in this order.
    for index in sorted(range(len(points)), key=lambda i: (*points[i][:-1], -points[i][-1], i)):
        if not any(_no_worse(points[one], points[index]) for one in kept):
            kept.append(index)
    return kept


def _no_worse(one: Point, other: Point) -> bool:
    """Whether a point is at least as good as the other in everything."""
    return one[-1] >= other[-1] and all(a <= b for a, b in zip(one[:-1], other[:-1], strict=True))


def spread(points: Sequence[Point], count: int) -> list[int]:
    """Indices of at most `count` points of the front, evenly spread over its costs (log scale), ends included.

    Costs must be positive. Evenly in log cost, because a front is read in ratios ("twice as fast"). With several costs
    first the best score, then the cheapest by each cost, then always the one that is farthest from those.
    """
    candidates = front(points)
    if len(candidates) <= count:
        return candidates
    best = max(candidates, key=lambda i: points[i][-1])
    if count == 1:
        return [best]
    if len(points[best]) == 2:
        return _evenly(points, candidates, count)
    costs = range(len(points[best]) - 1)
    scales = []
    for cost in costs:
        values = [math.log(points[i][cost]) for i in candidates]
        scales.append(max(values) - min(values) or 1.0)

    def apart(one: int, other: int) -> float:
        return math.hypot(*(math.log(points[one][cost] / points[other][cost]) / scales[cost] for cost in costs))

    chosen = list(dict.fromkeys([best, *(min(candidates, key=lambda i: points[i][cost]) for cost in costs)]))[:count]
    while len(chosen) < count:
        free = [i for i in candidates if i not in chosen]
        chosen.append(max(free, key=lambda i: min(apart(i, one) for one in chosen)))
    return sorted(chosen, key=candidates.index)


def _evenly(points: Sequence[Point], candidates: Sequence[int], count: int) -> list[int]:
    """Those of a front of one cost that are nearest to even steps of its logarithm."""
    low, high = points[candidates[0]][0], points[candidates[-1]][0]
    chosen: list[int] = []
    for step in range(count):
        target = low * (high / low) ** (step / (count - 1))
        free = [i for i in candidates if i not in chosen]
        chosen.append(min(free, key=lambda i: abs(points[i][0] / target - 1)))
    return sorted(chosen, key=lambda i: points[i][0])
