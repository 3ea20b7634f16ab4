import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from optuna.samplers import NSGAIISampler

from compress.nas.predictor_sampler import PredictorSampler
from compress.nas.sampler import Guide, Sampler, screens
from compress.nas.space import Pick, Space

SPACE = Space({"a": 0, "b": 0, "kind": "x"}, {"a": (0, 1, 2, 3), "b": (0, 1, 2, 3), "kind": ("x", "y")})
HAND = {"a": 1, "b": 2, "kind": "y"}


def asked(count: int, seed: int) -> list[dict[str, object]]:
    sampler = Sampler(SPACE, "nsga2", population=6, seed=seed, baselines=[HAND])
    picks = []
    for _ in range(count):
        trial, pick = sampler.ask()
        picks.append(dict(pick))
        sampler.tell(trial, [float(pick["a"] + pick["b"] + 1)], float(pick["a"]))
    return picks


def test_hand_made_smallest_and_largest_come_first() -> None:
    assert asked(3, 0) == [HAND, SPACE.smallest, SPACE.largest]


def test_then_hand_made_with_a_field_changed_as_a_whole() -> None:
    a_changed = [{**HAND, "a": value} for value in (0, 2, 3)]
    b_changed = [{**HAND, "b": value} for value in (0, 1, 3)]
    assert asked(10, 0)[3:] == [*a_changed, *b_changed, {**HAND, "kind": "x"}]


def test_the_same_seed_asks_the_same_and_another_does_not() -> None:
    assert asked(30, 1) == asked(30, 1) != asked(30, 2)


def test_nsga2_finds_the_front_of_a_plain_problem() -> None:
    # Cost a + b + 1, score a: on the front b is 0.
    picks = asked(150, 3)
    assert {pick["a"] for pick in picks if pick["b"] == 0} == {0, 1, 2, 3}


def test_the_first_picks_are_the_first_generation() -> None:
    sampler = Sampler(SPACE, "nsga2", population=12, seed=3, baselines=[HAND])
    first = []
    for number in range(14):
        trial, pick = sampler.ask()
        first += [dict(pick)] if number < 12 else []
        sampler.tell(trial, [float(pick["a"] + pick["b"] + 1)], float(pick["a"]))
    study = sampler.study
    assert isinstance(study.sampler, NSGAIISampler)
    assert [trial.params for trial in study.sampler.get_population(study, 0)] == first


def test_refused_picks_do_not_stop_the_search() -> None:
    sampler = Sampler(SPACE, "nsga2", population=4, seed=0, baselines=[])
    for _ in range(20):
        trial, pick = sampler.ask()
        if pick["a"] > 1:
            sampler.refuse(trial, 0.1)
        else:
            sampler.tell(trial, [1.0 + pick["b"]], float(pick["a"]))


WIDE = Space(
    {"blocks": [0] * 6, "kinds": ["x"] * 3},
    {**{f"blocks.{i}": (0, 1, 2) for i in range(6)}, **{f"kinds.{i}": ("x", "y", "z") for i in range(3)}},
)
KIND_COST, KIND_SCORE = {"x": 1.0, "y": 0.8, "z": 2.0}, {"x": 0.5, "y": 0.5, "z": 0.6}
MIDDLE = {path: values[1] if path.startswith("blocks") else "x" for path, values in WIDE.choices.items()}


def cost_and_score(pick: dict[str, Any]) -> tuple[float, float]:
    """Blocks cost alike and are worth 6, 5, 4 ... : the first ones should be taken; y is worth x and cheaper."""
    blocks = [pick[f"blocks.{i}"] for i in range(6)]
    kinds = [pick[f"kinds.{i}"] for i in range(3)]
    cost = 1 + sum(blocks) * 0.3 + sum(KIND_COST[kind] for kind in kinds)
    return cost, sum(n * (6 - i) for i, n in enumerate(blocks)) / 42 + sum(KIND_SCORE[kind] for kind in kinds)


@cache
def found(kind: str, seed: int) -> list[dict[str, Any]]:
    """Of a search that several tests look at."""
    return search(kind, seed)


def search(kind: Any, seed: int, trials: int = 60) -> list[dict[str, Any]]:
    sampler = Sampler(WIDE, kind, population=4, seed=seed, baselines=[MIDDLE])
    picks = []
    for _ in range(trials):
        trial, pick = sampler.ask()
        picks.append(dict(pick))
        cost, score = cost_and_score(pick)
        sampler.tell(trial, [cost], score)
    return picks


def best_within(picks: list[dict[str, Any]], limit: float) -> float:
    return max(score for cost, score in map(cost_and_score, picks) if cost <= limit)


@pytest.mark.parametrize(("share", "least"), [(1.0, 0.92), (0.8, 0.92)])
def test_guided_finds_more_than_chance_and_nearly_all_there_is(share: float, least: float) -> None:
    limit = cost_and_score(MIDDLE)[0] * share
    # What is possible: all kinds y, and blocks from the most worthy on as far as the cost goes.
    affordable = int((limit - 1 - 3 * KIND_COST["y"]) / 0.3 + 1e-9)
    possible = sum([6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1][:affordable]) / 42 + 3 * KIND_SCORE["y"]
    guided, by_chance = (
        sum(best_within(found(kind, seed), limit) for seed in range(3)) / 3 for kind in ("guided", "random")
    )
    assert by_chance < least * possible < guided <= possible


def test_predictor_is_told_the_space_its_costs_and_the_budget() -> None:
    """Of a budget nothing but the excess is told: what it proposes in the end is within it."""
    asked: list[int] = []

    def costs(picks: Sequence[Pick]) -> NDArray[np.float64]:
        asked.append(len(picks))
        return np.array([cost_and_score(dict(pick))[0] for pick in picks])

    limit = cost_and_score(MIDDLE)[0]
    kind = PredictorSampler(1, screened=150, startup=8)
    sampler = Sampler(WIDE, kind, population=4, seed=1, baselines=[MIDDLE], costs=[costs])
    within = []
    for _ in range(17):
        trial, pick = sampler.ask()
        cost, score = cost_and_score(dict(pick))
        within.append(cost <= limit)
        if cost > limit:
            sampler.refuse(trial, cost / limit - 1)
        else:
            sampler.tell(trial, [cost], score, cost / limit - 1)
    assert 150 in asked  # those that are screened, and the finished trials
    assert set(asked) <= {150, *range(8, 17)}
    assert sum(within[-4:]) >= 3


@pytest.mark.parametrize("kind", ["tpe", "gp", "optuna.samplers:TPESampler"])
def test_optunas_samplers_are_one_word_away(kind: str) -> None:
    assert len({tuple(pick.items()) for pick in search(kind, 0, trials=11)}) > 8
    assert not screens(kind)


def test_what_screens() -> None:
    assert screens("guided")
    assert screens("predictor")
    assert screens(PredictorSampler(3))
    assert not screens("random")


def test_guided_asks_the_same_with_the_same_history() -> None:
    assert search("guided", 1) == found("guided", 1) != found("guided", 2)


@pytest.mark.parametrize("kind", ["guided", "nsga2"])
def test_two_costs_are_followed_at_once(kind: str) -> None:
    """Cost b counts blocks, cost a kinds z; blocks and z add to the score: the front has all combinations."""
    sampler = Sampler(WIDE, kind, population=8, seed=0, baselines=[MIDDLE], costs=[None, None])
    found = set()
    for _ in range(20):
        trial, pick = sampler.ask()
        blocks = sum(pick[f"blocks.{i}"] for i in range(6))
        kinds = sum(pick[f"kinds.{i}"] == "z" for i in range(3))
        sampler.tell(trial, [1.0 + blocks, 1.0 + kinds], blocks + 2.0 * kinds)
        found.add((blocks, kinds))
    assert {(0, 0), (12, 3)} <= found
    assert len({blocks for blocks, kinds in found if kinds == 0}) > 1
    assert len({kinds for blocks, kinds in found if blocks >= 6}) > 1


NARROW = Space(
    {"width": 16, "blocks": [0] * 6},
    {"width": (16, 24), **{f"blocks.{i}": (0, 1, 2) for i in range(6)}},
)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("worth", [-0.2, 0.2])
def test_guided_judges_a_width_at_which_the_baseline_is_over_budget(worth: float, seed: int) -> None:
    """Width 24 costs twice as much, and is worth more than the blocks that it takes, or less than none."""

    def cost(pick: Pick) -> float:
        return float((1 + sum(pick[f"blocks.{i}"] for i in range(6))) * (2 if pick["width"] == 24 else 1))

    def score(pick: Pick) -> float:
        return sum(pick[f"blocks.{i}"] for i in range(6)) * 0.02 + worth * (pick["width"] == 24)

    hand = {"width": 16, **{f"blocks.{i}": 2 if i < 3 else 1 for i in range(6)}}  # 24 would take 20, and at most 11 may
    sampler = Sampler(
        NARROW,
        "guided",
        population=4,
        seed=seed,
        baselines=[hand],
        costs=[lambda picks: np.array([cost(pick) for pick in picks])],
        most=[11.0],
    )
    scored = []
    for _ in range(60):
        trial, pick = sampler.ask()
        if cost(pick) > 11:
            sampler.refuse(trial, 0.1)
        else:
            sampler.tell(trial, [cost(pick)], score(pick), -0.1)
            scored.append(pick)
    wide = [pick for pick in scored if pick["width"] == 24]
    assert len(wide) >= 3
    best = max(scored, key=score)
    assert best["width"] == (24 if worth > 0 else 16)
    assert len(wide) > 10 or worth < 0


def test_guided_gives_up_a_value_that_no_budget_allows() -> None:
    def cost(pick: Pick) -> float:
        return float(1 + sum(pick[f"blocks.{i}"] for i in range(6))) * (100 if pick["width"] == 24 else 1)

    asked = []
    sampler = Sampler(
        NARROW,
        "guided",
        population=4,
        seed=0,
        baselines=[NARROW.smallest],
        costs=[lambda picks: np.array([cost(pick) for pick in picks])],
        most=[5.0],
    )
    for _ in range(80):
        trial, pick = sampler.ask()
        asked.append(pick)
        if cost(pick) > 5:
            sampler.refuse(trial, 0.1)
        else:
            sampler.tell(trial, [cost(pick)], cost(pick), -0.1)
    assert 0 < sum(pick["width"] == 24 for pick in asked) <= 8


def test_guide_proposes_nothing_that_it_knows() -> None:
    guide = Guide(SPACE, [HAND], random.Random(0))
    seen = []
    for _ in range(25):  # of 32 picks
        pick = guide.propose()
        guide.learn(pick, [1.0 + pick["a"]], float(pick["b"]))
        seen.append(tuple(pick.items()))
    assert len(set(seen)) >= 20


def test_guide_asks_for_costs_where_it_can() -> None:
    """Costs no additive model can follow: it still proposes nothing over the cost it aims at, where it has a choice."""
    rng = random.Random(0)

    def cost(pick: Pick) -> float:
        places = [values.index(pick[path]) for path, values in WIDE.choices.items()]
        return 1.0 + 10.0 * (sum((n + 3) * (n + place) ** 2 for n, place in enumerate(places)) % 7)

    asked = []

    def costs(picks: Sequence[Pick]) -> NDArray[np.float64]:
        asked.append(len(picks))
        return np.array([cost(pick) for pick in picks])

    guide = Guide(WIDE, [MIDDLE], rng, [costs])
    for pick in (MIDDLE, WIDE.smallest, WIDE.largest):
        guide.learn(pick, [cost(pick)], 0.1)
    told = [cost(pick) for pick in (MIDDLE, WIDE.smallest, WIDE.largest)]
    for _ in range(20):
        pick = guide.propose()
        assert cost(pick) <= max(told)
        guide.learn(pick, [cost(pick)], cost_and_score(pick)[1])
    assert len(asked) == 20


def test_children_of_a_space() -> None:
    rng = random.Random(0)
    low, high = WIDE.smallest, WIDE.largest
    for _ in range(50):
        crossed = WIDE.cross(low, high, rng)
        for field in ("blocks", "kinds"):
            whole = {path: value for path, value in crossed.items() if path.startswith(field)}
            assert whole in ({p: low[p] for p in whole}, {p: high[p] for p in whole})
        stepped = WIDE.step(MIDDLE, rng)
        ((path, value),) = [(p, v) for p, v in stepped.items() if v != MIDDLE[p]]
        assert value in (0, 2) if path.startswith("blocks") else value in ("y", "z")
