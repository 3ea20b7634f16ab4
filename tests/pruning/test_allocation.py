"""Allocation against brute force on small random instances."""

import itertools
import random
from collections.abc import Callable

import pytest

from compress.errors import BudgetError, DataError, RecipeError
from compress.pruning.allocation import (
    LayerChoice,
    Option,
    allocate_channels,
    allocate_ratios,
    first_gains,
    loss_by_curves,
    loss_by_importance,
    options,
)
from compress.pruning.groups import PruningGroup
from compress.pruning.sensitivity import Curve

Choices = dict[str, tuple[Option, ...]]


def instance(seed: int, layers: int, sizes: int) -> Choices:
    """Layers of `sizes` channels, one a class, with random rising losses."""
    rng = random.Random(seed)
    choices = {}
    for layer in range(layers):
        losses = [0.0, *itertools.accumulate(rng.random() for _ in range(sizes - 1))]
        choices[f"l{layer}"] = tuple(
            Option(tuple(range(layer * sizes, layer * sizes + removed)), removed / sizes, losses[removed])
            for removed in range(sizes)
        )
    return choices


def additive(seed: int, sizes: int) -> Callable[[frozenset[int]], float]:
    """Milliseconds that every class takes by itself."""
    rng = random.Random(100 + seed)
    times = [rng.uniform(0.2, 1) for _ in range(100 * sizes)]
    return lambda removed: 1.0 + sum(time for member, time in enumerate(times[: 4 * sizes]) if member not in removed)


def chain(layers: int, sizes: int) -> Callable[[frozenset[int]], float]:
    """Neighbours multiply: 1x1 convolutions one after another."""

    def cost(removed: frozenset[int]) -> float:
        left = [3, *(sum(m not in removed for m in range(n * sizes, (n + 1) * sizes)) for n in range(layers)), 5]
        return sum(a * b for a, b in itertools.pairwise(left)) / 100

    return cost


def best_loss(choices: Choices, cost: Callable[[frozenset[int]], float], budget: float) -> float:
    """By trying all."""
    return min(
        sum(option.loss for option in picked)
        for picked in itertools.product(*choices.values())
        if cost(frozenset(member for option in picked for member in option.removed)) <= budget
    )


def allowed(choices: Choices) -> dict[str, int | None]:
    """No threshold."""
    return dict.fromkeys(choices, 1)


@pytest.mark.parametrize("kind", ["additive", "chain"])
def test_budgets_are_met_near_the_least_loss(kind: str) -> None:
    excess = []
    for seed, share in itertools.product(range(8), (0.8, 0.6, 0.4)):
        choices = instance(seed, 4, 5)
        cost = additive(seed, 5) if kind == "additive" else chain(4, 5)
        budget = share * cost(frozenset())
        found = allocate_channels(choices, cost, budget, allowed(choices))
        assert found.cost_ms == cost(found.removed) <= budget
        assert found.loss == pytest.approx(sum(choices[name][index].loss for name, index in found.picked.items()))
        least = best_loss(choices, cost, budget)
        assert found.loss >= least - 1e-9
        excess.append(found.loss / least - 1 if least else 0.0)
    assert sum(excess) / len(excess) < 0.1
    assert max(excess) < 0.5


def test_it_is_exact_where_the_greedy_path_passes() -> None:
    """With times that add, every budget at which a move lands has the least loss of all: the lower convex hull."""
    for seed in range(6):
        choices, cost = instance(seed, 4, 4), additive(seed, 4)
        dense = cost(frozenset())
        hulls = []  # moves along each layer's lower convex hull: (loss per ms, ms)
        for sizes in choices.values():
            here = 0
            while here + 1 < len(sizes):
                rates = {
                    n: (sizes[n].loss - sizes[here].loss)
                    / (cost(frozenset(sizes[here].removed)) - cost(frozenset(sizes[n].removed)))
                    for n in range(here + 1, len(sizes))
                }
                following = min(rates, key=lambda n: rates[n])
                hulls.append(
                    (rates[following], cost(frozenset(sizes[here].removed)) - cost(frozenset(sizes[following].removed)))
                )
                here = following
        budget = dense
        for _, saved in sorted(hulls):
            budget -= saved
            found = allocate_channels(choices, cost, budget + 1e-9, allowed(choices))
            assert found.loss == pytest.approx(best_loss(choices, cost, budget + 1e-9))


def test_steps_that_gain_nothing_are_skipped() -> None:
    """A staircase: time falls at every fourth channel only, so no group stops between."""
    choices = instance(0, 3, 13)

    def staircase(removed: frozenset[int]) -> float:
        left = [sum(m not in removed for m in range(n * 13, (n + 1) * 13)) for n in range(3)]
        return sum(-(-count // 4) * 4.0 for count in left)

    for share in (0.9, 0.7, 0.5):
        found = allocate_channels(choices, staircase, share * staircase(frozenset()), allowed(choices))
        assert all((13 - index) % 4 == 0 for index in found.picked.values() if index)


def test_high_or_not_at_all() -> None:
    choices = instance(1, 3, 10)

    def cost(removed: frozenset[int]) -> float:
        """l0: in proportion. l1: nothing up to half, then all at once. l2: slower."""
        lost = [sum(m in removed for m in range(n * 10, (n + 1) * 10)) for n in range(3)]
        return 30 - lost[0] - (9 if lost[1] > 5 else 0) + lost[2]

    assert first_gains(choices, cost, 0.25) == {"l0": 3, "l1": 6, "l2": None}
    assert first_gains(choices, cost, 0.0) == {"l0": 1, "l1": 1, "l2": None}
    assert first_gains(choices, cost, 0.95)["l0"] is None
    found = allocate_channels(choices, cost, 15, first_gains(choices, cost, 0.25))
    assert found.picked["l0"] == 0 or found.picked["l0"] >= 3
    assert found.picked["l1"] == 0 or found.picked["l1"] >= 6
    assert found.picked["l2"] == 0


def test_an_unreachable_budget_says_what_is_reachable() -> None:
    choices = instance(0, 3, 5)
    with pytest.raises(BudgetError, match=r"the least that allocation reaches is 0.1 ms \(found 0.05\)"):
        allocate_channels(choices, chain(3, 5), 0.05, allowed(choices))  # 3·1 + 1·1 + 1·1 + 1·5 = 10


def test_moves_that_save_nothing_at_first_are_asked_again() -> None:
    choices = instance(0, 3, 5)

    def cost(removed: frozenset[int]) -> float:
        """l1 is slower by channels lost while l0 is whole, faster once it is at its smallest; l2 never changes."""
        lost = [sum(m in removed for m in range(n * 5, (n + 1) * 5)) for n in range(3)]
        return 20 - lost[0] + (-lost[1] if lost[0] == 4 else lost[1])

    found = allocate_channels(choices, cost, 12, allowed(choices))
    assert found.picked == {"l0": 4, "l1": 4, "l2": 0}
    with pytest.raises(BudgetError, match="reaches is 12 ms"):
        allocate_channels(choices, cost, 11, allowed(choices))


def test_a_budget_that_is_met_already_prunes_nothing() -> None:
    choices = instance(0, 3, 5)
    found = allocate_channels(choices, chain(3, 5), 1e9, allowed(choices))
    assert (found.removed, found.loss, set(found.picked.values())) == (frozenset(), 0.0, {0})


def test_savings_are_asked_for_lazily() -> None:
    choices, cost = instance(0, 20, 5), chain(20, 5)
    asked: list[frozenset[int]] = []

    def counted(removed: frozenset[int]) -> float:
        asked.append(removed)
        return cost(removed)

    found = allocate_channels(choices, counted, 0.4 * cost(frozenset()), allowed(choices))
    moves = sum(map(bool, found.picked.values()))
    assert len(asked) == len(set(asked))
    assert len(asked) < moves * 20 * 4 / 2  # all groups anew at every move would be at least twice that


def test_options_are_dense_and_the_nearest_removals() -> None:
    part = PruningGroup("l", ("l.weight",), tuple(range(32)), (1,) * 32, 0, "", 8, 3)
    narrow = PruningGroup("n", ("n.weight",), (40,), (1,), 0, "", 8, 3)
    scores = {**{member: float(member) for member in range(32)}, 40: 1.0}
    found = options([part, narrow], scores, [0.7, 0.3, 0.35], loss_by_importance("taylor", scores))
    assert list(found) == ["l"]
    assert [option.share for option in found["l"]] == [0.0, 0.25, 0.75]
    assert [option.loss for option in found["l"]] == [0.0, sum(range(8)), sum(range(24))]
    curves = {"l": Curve((0.0, 0.5, 1.0), (0.0, 0.1, 0.5))}
    assert [
        option.loss for option in options([part], scores, [0.3, 0.7], loss_by_curves(curves))["l"]
    ] == pytest.approx([0.0, 0.05, 0.3])
    with pytest.raises(DataError, match=r"curve.*found 'n2'"):
        loss_by_curves(curves)(PruningGroup("n2", (), (1,), (1,), 0, "", 1, 3), (1,))
    with pytest.raises(RecipeError, match="found 2"):
        options([part], scores, [2], loss_by_importance("taylor", scores))


def test_importance_of_a_stream_is_lost_to_all_its_layers() -> None:
    scores = {0: 1.0, 1: 2.0, 2: 5.0}
    layer = PruningGroup("layer", ("layer.weight",), (0, 1, 2), (1, 1, 1), 0, "", 1, 3)
    stream = PruningGroup("stream", ("stream.weight",), (0, 1, 2), (1, 1, 1), 0, "", 1, 30)
    assert loss_by_importance("l2", scores)(layer, (0, 1)) == pytest.approx(3 * 3 / 8)
    assert loss_by_importance("l2", scores)(stream, (0, 1)) == pytest.approx(30 * 3 / 8)
    assert loss_by_importance("hessian", scores)(stream, (0, 1)) == 3.0
    assert loss_by_importance("l1", dict.fromkeys(scores, 0.0))(stream, (0, 1)) == 0.0


# --- Fine-grained ----------------------------------------------------------------------------------------------------


def layers(seed: int, count: int) -> dict[str, list[LayerChoice]]:
    rng = random.Random(seed)
    found = {}
    for layer in range(count):
        dense, steep = rng.uniform(1, 5), rng.uniform(0.1, 3)
        found[f"l{layer}"] = [
            LayerChoice(ratio, dense * rng.uniform(0.9, 1.2) * (1.3 - ratio) if ratio else dense, steep * ratio**2)
            for ratio in (0, 0.5, 0.7, 0.9)
        ]
    return found


def least_loss(of: dict[str, list[LayerChoice]], budget: float) -> float:
    return min(
        (
            sum(choice.loss for choice in picked)
            for picked in itertools.product(*of.values())
            if sum(choice.time_ms for choice in picked) <= budget
        ),
        default=float("inf"),
    )


@pytest.mark.parametrize("unit", [0.001, 0.05])
def test_the_knapsack_is_within_its_bound_of_brute_force(unit: float) -> None:
    for seed, share in itertools.product(range(10), (0.9, 0.7, 0.55)):
        of = layers(seed, 5)
        budget = share * sum(choices[0].time_ms for choices in of.values())
        found = allocate_ratios(of, budget, unit_ms=unit)
        assert list(found) == list(of)
        assert sum(choice.time_ms for choice in found.values()) <= budget + 1e-6
        loss = sum(choice.loss for choice in found.values())
        assert least_loss(of, budget) - 1e-9 <= loss <= least_loss(of, budget - 5 * unit) + 1e-9


def test_times_in_whole_units_are_exact() -> None:
    for seed in range(10):
        rng = random.Random(seed)
        of = {
            f"l{n}": [LayerChoice(r, rng.randint(1, 30) / 10, rng.random()) for r in (0, 0.5, 0.6, 0.7)]
            for n in range(5)
        }
        budget = sum(sorted(choice.time_ms for choice in choices)[1] for choices in of.values())
        found = allocate_ratios(of, budget, unit_ms=0.1)
        assert sum(choice.loss for choice in found.values()) == pytest.approx(least_loss(of, budget + 1e-9))


def test_a_layer_that_sparsity_slows_stays_dense() -> None:
    of = {
        "slow": [LayerChoice(0, 2.0, 0.0), LayerChoice(0.5, 2.6, 0.1), LayerChoice(0.9, 2.1, 0.4)],
        "fast": [LayerChoice(0, 2.0, 0.0), LayerChoice(0.9, 0.5, 0.4)],
    }
    found = allocate_ratios(of, 3.0, unit_ms=0.01)
    assert {name: choice.ratio for name, choice in found.items()} == {"slow": 0, "fast": 0.9}


def test_an_unreachable_knapsack_says_what_is_reachable() -> None:
    of = {"a": [LayerChoice(0, 2.0, 0.0), LayerChoice(0.9, 0.5, 0.4)], "b": [LayerChoice(0, 1.0, 0.0)]}
    for budget in (1.4, -1.0):
        with pytest.raises(BudgetError, match=r"the least that these layers take is 1.5 ms"):
            allocate_ratios(of, budget, unit_ms=0.1)
    with pytest.raises(RecipeError, match="positive"):
        allocate_ratios(of, 2.0, unit_ms=0.0)


def test_without_layers_there_is_nothing_to_choose() -> None:
    assert allocate_ratios({}, 1.0, unit_ms=0.1) == {}
