import random

from compress.nas.pareto import front, spread


def dominated(point: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    return any(o[0] <= point[0] and o[1] >= point[1] and o != point for o in others)


def test_front_is_what_nobody_dominates() -> None:
    rng = random.Random(0)
    for _ in range(300):
        points = [(rng.randint(1, 9) / 1.0, rng.randint(0, 9) / 1.0) for _ in range(rng.randint(0, 12))]
        kept = front(points)
        costs = [points[i][0] for i in kept]
        assert costs == sorted(costs)
        assert {points[i] for i in kept} == {p for p in points if not dominated(p, points)}
        assert len({points[i] for i in kept}) == len(kept)


def test_spread_keeps_the_ends_and_is_even_in_ratios() -> None:
    points = [(float(2**i), float(i)) for i in range(9)]
    assert spread(points, 3) == [0, 4, 8]
    assert spread(points, 1) == [8]
    assert spread(points, 20) == list(range(9))
