"""The front of accuracy against cost: which candidates no other one beats in both."""

from collections.abc import Sequence

Point = tuple[float, float]
"""(cost, score): lower cost is better, higher score is better."""


def front(points: Sequence[Point]) -> list[int]:
    """Indices of the non-dominated points, cheapest first. Of equal points the first one stays."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    best, kept = float("-inf"), []
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            kept.append(index)
    return kept


def spread(points: Sequence[Point], count: int) -> list[int]:
    """Indices of at most `count` points of the front, evenly spread over its cost range (log scale), ends included.

    Costs must be positive. Evenly in log cost, because a front is read in ratios ("twice as fast").
    """
    candidates = front(points)
    if len(candidates) <= count:
        return candidates
    if count == 1:
        return [candidates[-1]]
    low, high = points[candidates[0]][0], points[candidates[-1]][0]
    chosen: list[int] = []
    for step in range(count):
        target = low * (high / low) ** (step / (count - 1))
        free = [i for i in candidates if i not in chosen]
        chosen.append(min(free, key=lambda i: abs(points[i][0] / target - 1)))
    return sorted(chosen, key=lambda i: points[i][0])
