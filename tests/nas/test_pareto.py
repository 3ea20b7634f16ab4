import random

from compress.nas.pareto import front, promoted, ranks, spread


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


def beaten_by(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Costs then score; written out, for test_ranks alone."""
    worse = [a < b for a, b in zip(one[:-1], other[:-1], strict=True)] + [one[-1] > other[-1]]
    better = [a > b for a, b in zip(one[:-1], other[:-1], strict=True)] + [one[-1] < other[-1]]
    return any(better) and not any(worse)


def depth(point: tuple[float, ...], points: list[tuple[float, ...]]) -> int:
    """The rank as the length of the longest chain of points each of which beats the one before (Dilworth's dual)."""
    return max((1 + depth(other, points) for other in points if beaten_by(point, other)), default=0)


def test_ranks_are_the_longest_chains_of_better_points() -> None:
    rng = random.Random(3)
    for size in (2, 3, 4):
        for _ in range(60):
            points = [tuple(float(rng.randint(1, 4)) for _ in range(size)) for _ in range(rng.randint(0, 9))]
            assert ranks(points) == [depth(point, points) for point in points]


def test_nothing_of_a_front_that_fits_is_left_out() -> None:
    """For random candidates, whose scores at three rungs have one order: as the best of all get better, so do they."""
    rng = random.Random(4)
    for _ in range(100):
        size, count = rng.choice((2, 3)), rng.randint(4, 24)
        final = [(*(rng.uniform(1, 9) for _ in range(size - 1)), rng.random()) for _ in range(count)]
        earlier = [(*(rng.uniform(1, 9) for _ in range(size - 1)), rng.random()) for _ in range(rng.randint(0, 5))]
        best = set(front([*final, *earlier])) & set(range(count))
        going = list(range(count))
        for learned, places in ((0.2, count // 2), (0.6, count // 4)):
            points = [(*final[index][:-1], learned * final[index][-1] ** 3) for index in going]
            others = [(*point[:-1], learned * point[-1] ** 3) for point in earlier]
            here = [going[place] for place in promoted(points, max(1, places), others)]
            assert len(here) == min(max(1, places), len(going))
            if len(best) <= places:
                assert best <= set(here)
            going = here
            if not best <= set(here):
                break


def test_of_a_rank_that_does_not_fit_the_crowded_are_left_out() -> None:
    """Seven points of one front; the logarithms of costs are 0, 1, 1.1, 2, 3, 3.1 and 4 tenths of a decade."""
    logs = (0.0, 1.0, 1.1, 2.0, 3.0, 3.1, 4.0)
    points = [(10 ** (at / 10), at / 10) for at in logs]
    assert promoted(points, 5) in ([0, 1, 3, 4, 6], [0, 2, 3, 4, 6], [0, 1, 3, 5, 6], [0, 2, 3, 5, 6])
    assert promoted(points, 2) == [0, 6]  # the cheapest and the most accurate
    assert promoted([*points, (20.0, 0.39)], 7) == list(range(7))  # of the second rank
    assert promoted([(1.0, 0.5)] * 3, 2) == [0, 1]
    assert promoted([(1.0, 0.1), (2.0, 0.9)], 1, others=[(0.5, 0.2)]) == [1]
