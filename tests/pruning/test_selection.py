"""Which channels go, against brute force and formulas."""

import itertools
import random

import pytest

from compress.errors import BudgetError, RecipeError
from compress.pruning.groups import PruningGroup
from compress.pruning.selection import global_, to_budget, uniform


def parts_of(*counts: int, multiple: int = 1) -> list[PruningGroup]:
    """Sections of that many channels, one a class."""
    starts = [0, *itertools.accumulate(counts)]
    return [
        PruningGroup(f"l{n}", (f"l{n}.weight",), tuple(range(start, start + count)), (1,) * count, 0, "", multiple, 3)
        for n, (start, count) in enumerate(zip(starts, counts, strict=False))
    ]


def random_scores(parts: list[PruningGroup], seed: int) -> dict[int, float]:
    rng = random.Random(seed)
    return {member: rng.random() for part in parts for member in part.members}


def left(parts: list[PruningGroup], removed: frozenset[int]) -> list[int]:
    return [part.channels - len(removed & set(part.members)) for part in parts]


def macs(parts: list[PruningGroup], removed: frozenset[int]) -> float:
    """Of a chain of 1x1 convolutions 3 → l0 → l1 … → 5."""
    sizes = [3, *left(parts, removed), 5]
    return float(sum(a * b for a, b in itertools.pairwise(sizes)))


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.0, [32, 64, 25, 4]), (0.3, [24, 48, 16, 3]), (0.5, [16, 32, 16, 2]), (0.7, [8, 16, 8, 1]), (1.0, [8, 8, 8, 1])],
)
def test_uniform_takes_the_nearest_multiple_of_each_group(ratio: float, expected: list[int]) -> None:
    parts = parts_of(32, 64, 25, 4, multiple=8)
    scores = random_scores(parts, 0)
    removed = uniform(parts, scores, ratio)
    assert left(parts, removed) == expected
    for part in parts:
        stay = [scores[member] for member in part.members if member not in removed]
        assert all(scores[member] <= min(stay) for member in removed & set(part.members))


def test_global_takes_the_least_important_of_all() -> None:
    parts = parts_of(6, 10, 8)
    for seed in range(20):
        scores = random_scores(parts, seed)
        order = sorted(scores, key=lambda member: scores[member])
        expected = set(order[:9])
        for part in parts:  # a group keeps its most important member
            if set(part.members) <= expected:
                expected.remove(max(part.members, key=lambda member: scores[member]))
        assert global_(parts, scores, 9 / 24) == expected


def test_global_rounds_each_group() -> None:
    parts = parts_of(32, 64, multiple=8)
    scores = {member: float(member) for member in range(96)}  # all of the first layer before any of the second
    assert left(parts, global_(parts, scores, 0.25)) == [8, 64]
    assert left(parts, global_(parts, scores, 0.45)) == [8, 56]  # 32 and 11.2: nearest to 12 is 8


@pytest.mark.parametrize("how", ["uniform", "global"])
@pytest.mark.parametrize("multiple", [1, 8])
def test_a_budget_is_met_as_closely_as_groups_allow(how: str, multiple: int) -> None:
    parts = parts_of(32, 64, 48, 64, 32, multiple=multiple)
    dense = macs(parts, frozenset())
    for seed, share in itertools.product(range(3), (0.9, 0.5, 0.3)):
        scores = random_scores(parts, seed)
        asked: list[frozenset[int]] = []

        def cost(removed: frozenset[int], asked: list[frozenset[int]] = asked) -> float:
            asked.append(removed)
            return macs(parts, removed)

        choice = to_budget(parts, scores, how, cost, share * dense)  # type: ignore[arg-type]
        assert choice.cost == macs(parts, choice.removed) <= share * dense
        assert len(asked) == len(set(asked)) <= 12 + 3
        # One group back at its step before would break the budget: it is as close as one step of one group.
        assert choice.cost >= (share - (0.15 if multiple == 8 else 0.03)) * dense


def test_the_ratio_found_is_the_least_that_meets() -> None:
    parts = parts_of(16, 16)
    scores = random_scores(parts, 1)
    target = 300.0
    choice = to_budget(parts, scores, "uniform", lambda removed: macs(parts, removed), target)
    meets = [step for step in range(1001) if macs(parts, uniform(parts, scores, step / 1000)) <= target]
    assert choice.ratio == meets[0] / 1000


def test_a_budget_that_the_dense_network_meets_takes_nothing() -> None:
    parts = parts_of(16, 16)
    choice = to_budget(parts, random_scores(parts, 0), "global", lambda removed: macs(parts, removed), 1e9)
    assert (choice.removed, choice.ratio) == (frozenset(), 0.0)


def test_an_unreachable_budget_says_the_tightest() -> None:
    parts = parts_of(16, 16, multiple=8)
    with pytest.raises(BudgetError, match=r"the least that pruning reaches is 128 \(found 100\)"):
        to_budget(
            parts, random_scores(parts, 0), "uniform", lambda removed: macs(parts, removed), 100
        )  # 3·8 + 8·8 + 8·5


def test_a_cost_that_does_not_fall_steadily_is_met_still() -> None:
    parts = parts_of(40, 40)

    def staircase(removed: frozenset[int]) -> float:
        return sum(-(-count // 8) * 8 + (count % 8) / 4 for count in left(parts, removed))

    for seed in range(5):
        choice = to_budget(parts, random_scores(parts, seed), "global", staircase, 41.0)
        assert staircase(choice.removed) == choice.cost <= 41.0


@pytest.mark.parametrize("choose", [uniform, global_])
@pytest.mark.parametrize("ratio", [-0.1, 1.5])
def test_ratios_outside_0_to_1_are_refused(choose: object, ratio: float) -> None:
    with pytest.raises(RecipeError, match=r"in 0\.\.1"):
        choose(parts_of(4), {}, ratio)  # type: ignore[operator]
