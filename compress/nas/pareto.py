"""The front of accuracy against costs: which candidates no other one beats in everything."""

import math
from collections.abc import Sequence

import numpy as np

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


def ranks(points: Sequence[Point]) -> list[int]:
    """The non-dominated rank of every point: 0 for those that none dominates, 1 for those that only these do, ...

    Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002, Sec. III-A. Equal points have one
    rank.
    """
    own = np.array([(*point[:-1], -point[-1]) for point in points], dtype=np.float64)
    found = np.full(len(points), -1)
    if not len(points):
        return []
    dominates = np.asarray((own[:, None] <= own[None]).all(2) & (own[:, None] < own[None]).any(2))
    rank = 0
    while (left := found < 0).any():
        found[left & ~dominates[left].any(0)] = rank
        rank += 1
    return [int(one) for one in found]


def promoted(points: Sequence[Point], count: int, others: Sequence[Point] = ()) -> list[int]:
    """Indices of the `count` points that go on, in order: the lowest non-dominated ranks among all points first.

    Of a rank that does not fit whole, the points that crowd most are left out, one after the other: those of the least
    crowding distance (Sec. III-B of the same paper; costs, which must be positive, by their logarithm), of equal ones
    the later. The ends of the rank, its cheapest and its most accurate, go last. others: points that have no place to
    win, and count in the ranks all the same.
    """
    found = ranks([*points, *others])[: len(points)]
    chosen: list[int] = []
    for rank in sorted(set(found)):
        level = [index for index, one in enumerate(found) if one == rank]
        while len(chosen) + len(level) > count:
            distances = _crowding([points[index] for index in level])
            del level[min(range(len(level)), key=lambda place: (distances[place], -place))]
        chosen += level
    return sorted(chosen)


def _crowding(points: Sequence[Point]) -> list[float]:
    """The crowding distance of every point: how far its neighbours are apart, summed over costs and score."""
    found = [0.0] * len(points)
    for axis in range(len(points[0])):
        score = axis == len(points[0]) - 1
        values = [point[axis] if score else math.log(point[axis]) for point in points]
        order = sorted(range(len(points)), key=values.__getitem__)
        width = values[order[-1]] - values[order[0]]
        if not width:
            continue
        found[order[0]] = found[order[-1]] = math.inf
        for before, at, after in zip(order, order[1:], order[2:], strict=False):
            found[at] += (values[after] - values[before]) / width
    return found


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
