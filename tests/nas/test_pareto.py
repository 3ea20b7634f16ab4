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


def test_front_of_several_costs_is_what_nobody_dominates() -> None:
    rng = random.Random(1)
    for _ in range(100):
        points = [tuple(float(rng.randint(1, 5)) for _ in range(4)) for _ in range(rng.randint(0, 15))]
        kept = front(points)
        beaten = {
            p
            for p in points
            for o in points
            if o != p and o[3] >= p[3] and all(a <= b for a, b in zip(o[:3], p[:3], strict=True))
        }
        assert {points[i] for i in kept} == set(points) - beaten
        assert [points[i][0] for i in kept] == sorted(points[i][0] for i in kept)


def test_spread_over_several_costs_has_the_best_and_the_cheapest_by_each() -> None:
    points = [(1.0, 8.0, 0.3), (8.0, 1.0, 0.3), (4.0, 4.0, 0.4), (7.9, 1.1, 0.35), (9.0, 9.0, 0.9)]
    assert spread(points, 1) == [4]
    assert spread(points, 3) == [0, 1, 4]
    assert spread(points, 4) == [0, 2, 1, 4]  # the middle, far from all, and not the neighbour of another
