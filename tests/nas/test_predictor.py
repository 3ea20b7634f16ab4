"""The predictor, and the sampler that proposes by it."""

import itertools
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.samplers import RandomSampler

from compress.nas import predictor_sampler
from compress.nas.predictor import Encoding, Predictor
from compress.nas.predictor_sampler import WITH_PRIOR, Columns, PredictorSampler, expected_hypervolume_gain
from compress.nas.space import Pick, Space, pick_key

SPACE = Space(
    {},
    {**{f"blocks.{i}": (0, 1, 2) for i in range(6)}, **{f"kinds.{i}": ("x", "y", "z") for i in range(3)}, "one": (7,)},
)
KIND_COST, KIND_SCORE = {"x": 1.0, "y": 0.8, "z": 2.0}, {"x": 0.5, "y": 0.5, "z": 0.6}


def cost_of(pick: Pick) -> float:
    return 1 + 0.3 * sum(pick[f"blocks.{i}"] for i in range(6)) + sum(KIND_COST[pick[f"kinds.{i}"]] for i in range(3))


def score_of(pick: Pick) -> float:
    """The first blocks are worth most."""
    blocks = sum(pick[f"blocks.{i}"] * (6 - i) for i in range(6)) / 42
    return blocks + sum(KIND_SCORE[pick[f"kinds.{i}"]] for i in range(3))


def costs_of(picks: Sequence[Pick]) -> NDArray[np.float64]:
    return np.array([cost_of(pick) for pick in picks])


def drawn(count: int, seed: int) -> list[Pick]:
    rng = random.Random(seed)
    return [SPACE.sample(rng) for _ in range(count)]


def test_encoding_orders_numbers_and_tells_other_values_apart() -> None:
    encoding = Encoding({"blocks": (0, 1, 4), "kind": ("a", "b"), "fixed": (3,)})
    rows = encoding([{"blocks": 1, "kind": "b", "fixed": 3}, {"blocks": 4, "kind": "a", "fixed": 3}])
    assert rows.tolist() == [[0.5, 0.0, 1.0], [1.0, 1.0, 0.0]]
    assert Encoding({"fixed": (3,)})([{"fixed": 3}]).shape == (1, 0)


def test_predicts_what_adds_up_from_few_trials_and_knows_how_sure_it_is() -> None:
    encoding, learned, unseen = Encoding(SPACE.choices), drawn(40, 1), drawn(200, 2)
    truth = np.array([score_of(pick) for pick in unseen])
    predictor = Predictor(encoding(learned), [score_of(pick) for pick in learned])
    means, deviations = predictor.predict(encoding(unseen))
    assert np.abs(means - truth).mean() < 0.25 * np.abs(truth - truth.mean()).mean()
    off = np.abs(means - truth) / deviations
    assert 0.8 < (off < 2).mean() <= 1.0  # of a normal distribution 0.95 lie within two deviations
    _, known = predictor.predict(encoding(learned))
    assert known.mean() < deviations.mean()


def test_one_trial_and_equal_trials_are_enough_to_predict_from() -> None:
    rows = Encoding(SPACE.choices)(drawn(3, 0))
    for count in (1, 3):
        means, deviations = Predictor(rows[:count], [0.4] * count).predict(rows)
        assert means == pytest.approx(0.4)
        assert (deviations > 0).all()


def area(points: Sequence[tuple[float, float]]) -> float:
    """Of the union of the rectangles from the origin, by inclusion and exclusion."""
    total = 0.0
    for size in range(1, len(points) + 1):
        for some in itertools.combinations(points, size):
            total += (-1) ** (size + 1) * min(x for x, _ in some) * min(y for _, y in some)
    return total


def test_gains_of_certain_picks_are_in_proportion_to_the_area_they_add() -> None:
    """The trials' worst is 0 and their range 1 in both objectives, so these are areas as they stand."""
    trials = [(1.0, 0.0), (0.7, 0.4), (0.2, 0.8), (0.0, 1.0)]
    picks = [(0.9, 0.5), (0.5, 0.7), (0.6, 0.3), (0.75, 0.45), (0.9, 0.9)]
    gained = np.array([area([*trials, pick]) - area(trials) for pick in picks])
    expected = np.mean(
        [
            expected_hypervolume_gain(
                np.array(picks),
                np.zeros((5, 2)),
                np.array(trials),
                np.ones(4, np.bool_),
                np.random.default_rng(seed),
                np.zeros(2),
                np.ones(2),
            )
            for seed in range(40)
        ],
        axis=0,
    )
    assert expected[2] == 0
    assert gained[2] == pytest.approx(0)
    # The factor between them, π/4 in two dimensions (Zhang and Golovin 2020, Lemma 5): c = π^(D/2) / (2^D Γ(D/2 + 1)).
    assert expected * np.pi / 4 == pytest.approx(gained, rel=0.1)


def test_of_equal_means_the_uncertain_pick_gains_more_and_without_a_feasible_trial_all_are_alike() -> None:
    gains, rng = np.array([[0.0, 1.0], [1.0, 0.0]]), np.random.default_rng(0)
    means, deviations = np.array([[0.5, 0.2], [0.5, 0.2]]), np.array([[0.0, 0.01], [0.0, 0.5]])
    ends = np.zeros(2), np.ones(2)
    sure, unsure = expected_hypervolume_gain(means, deviations, gains, np.array([True, True]), rng, *ends)
    assert unsure > sure > 0
    assert expected_hypervolume_gain(means, deviations, gains, np.zeros(2, np.bool_), rng, *ends).tolist() == [1, 1]


def searched(sampler: optuna.samplers.BaseSampler, trials: int) -> list[dict[str, Any]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    for _ in range(trials):
        trial = study.ask()
        pick = {path: trial.suggest_categorical(path, values) for path, values in SPACE.choices.items()}
        study.tell(trial, [cost_of(pick), score_of(pick)])
    return [trial.params for trial in study.trials]


def best_within(picks: Sequence[Pick], limit: float) -> float:
    return max(score_of(pick) for pick in picks if cost_of(pick) <= limit)


def test_finds_more_than_chance_with_a_known_cost_and_nothing_twice() -> None:
    limit = 6.0
    affordable = int((limit - 1 - 3 * KIND_COST["y"]) / 0.3 + 1e-9)
    possible = sum([6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1][:affordable]) / 42 + 3 * KIND_SCORE["y"]
    picks = searched(PredictorSampler(1, space=SPACE, known={0: costs_of}, screened=200, startup=8), 18)
    by_chance = best_within(searched(RandomSampler(seed=1), 18), limit)
    assert by_chance < best_within(picks, limit)
    assert best_within(picks, limit) > 0.95 * possible
    assert len({pick_key(pick) for pick in picks}) == 18


def test_columns_have_what_the_choices_of_one_name_save_together() -> None:
    """By hand: part 1 of this pick is one block and kind z, which without them is no block and kind x."""
    pick = {**{f"blocks.{i}": 0 for i in range(6)}, "blocks.1": 1, "kinds.0": "y", "kinds.1": "z", "kinds.2": "x"}
    columns = Columns(SPACE, {0: costs_of}, logs=[0])
    row = columns([{**pick, "one": 7}])[0]
    parts = [-(0.2**0.5), 1.3**0.5, 0.0, 0.0, 0.0, 0.0]  # kind y costs 0.2 less than x, z 1 more
    assert row[:15] == pytest.approx(Encoding(SPACE.choices)([{**pick, "one": 7}])[0])
    assert row[15:] == pytest.approx([*parts, np.log(1 + 0.3 + 0.8 + 2 + 1)])
    by_parts, by_choices = columns.weights
    assert len(by_parts) == len(by_choices) == len(row)
    assert by_choices[15:21].tolist() == [0.0] * 6
    assert [one.tolist() for one in Columns(SPACE, {}, logs=[]).weights] == [[1.0] * 15]


def test_a_prior_finds_more_in_few_trials_though_its_scores_are_of_another_scale() -> None:
    """Its scores are noisy and of another range; the study's own show what they are worth. Medians over seeds."""
    noise = random.Random(3)
    prior = [(pick, 0.1 + 0.2 * score_of(pick) + noise.gauss(0, 0.01)) for pick in drawn(60, 7)]
    known = {0: costs_of}

    def found(seed: int, prior: Sequence[tuple[Pick, float]]) -> float:
        of_score = {1: prior} if prior else None
        sampler = PredictorSampler(seed, space=SPACE, known=known, prior=of_score, screened=200, startup=6)
        return best_within(searched(sampler, 10), 6.0)

    with_prior, without = ([found(seed, one) for seed in range(7)] for one in (prior, []))
    assert np.median(with_prior) > np.median(without)


def test_gains_are_measured_over_what_is_predicted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trials of the cheapest picks span little of the front that is predicted behind them."""
    ranges = []

    def expected(means: Any, deviations: Any, gains: Any, feasible: Any, rng: Any, low: Any, high: Any) -> Any:
        assert (low <= np.minimum(means.min(0), gains.min(0))).all()
        assert (high >= np.maximum(means.max(0), gains.max(0))).all()
        ranges.append(((high - low) / np.ptp(gains, axis=0)).tolist())
        return np.zeros(len(means))

    monkeypatch.setattr(predictor_sampler, "expected_hypervolume_gain", expected)
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.sampler = PredictorSampler(0, space=SPACE, known={0: costs_of}, screened=50, startup=2)
    cheapest = {**SPACE.smallest, **{f"kinds.{i}": "y" for i in range(3)}}
    for pick in (cheapest, {**cheapest, "blocks.0": 1}):
        study.enqueue_trial(pick)
    for _ in range(3):
        trial = study.ask()
        pick = {path: trial.suggest_categorical(path, values) for path, values in SPACE.choices.items()}
        study.tell(trial, [cost_of(pick), score_of(pick)])
    assert len(ranges) == 1
    assert ranges[0][0] > 2


def test_a_prior_replaces_the_random_trials_but_for_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted_after = []

    def expected(self: PredictorSampler, study: Any, space: Space, trials: Any, finished: Any, picks: Any, rng: Any):
        predicted_after.append(len(finished))
        return np.zeros(len(picks))

    monkeypatch.setattr(PredictorSampler, "_expected_gains", expected)
    prior = {1: [(pick, score_of(pick)) for pick in drawn(12, 0)]}
    searched(PredictorSampler(0, space=SPACE, known={0: costs_of}, prior=prior, screened=20), 5)
    assert predicted_after == [WITH_PRIOR, WITH_PRIOR + 1]


def test_works_in_plain_optuna_with_numbers_constraints_and_failed_trials() -> None:
    """x + y is to be large and at most 8; z is drawn at random. Nothing but the study tells the sampler so."""
    study = optuna.create_study(direction="maximize", sampler=PredictorSampler(3, screened=100, startup=6))

    def objective(trial: optuna.Trial) -> float:
        x, y = trial.suggest_int("x", 0, 9), trial.suggest_categorical("y", [0, 2, 4, 6, 8])
        z = trial.suggest_float("z", 0, 1)
        trial.set_constraint("sum", x + y - 8.0)
        if x + y > 12:
            raise optuna.TrialPruned
        return x + y + 0 * z

    study.optimize(objective, n_trials=16)
    later = [trial for trial in study.trials[10:] if trial.values]
    assert max(trial.values[0] for trial in later if trial.constraints["sum"] <= 0) == 8
    assert sum(trial.constraints["sum"] <= 0 for trial in later) > 4  # by chance 43 in 100 are
    assert len({trial.params["z"] for trial in study.trials}) == 16


def test_the_same_seed_and_trials_give_the_same_proposals() -> None:
    def run(seed: int) -> list[dict[str, Any]]:
        return searched(PredictorSampler(seed, space=SPACE, screened=30, startup=4), 6)

    assert run(1) == run(1) != run(2)


def test_a_small_space_is_tried_whole_and_then_again() -> None:
    study = optuna.create_study(direction="minimize", sampler=PredictorSampler(0, startup=2, screened=20))
    study.optimize(lambda trial: trial.suggest_int("x", 0, 3), n_trials=6)
    assert {trial.params["x"] for trial in study.trials[:4]} == {0, 1, 2, 3}


def test_proposes_only_among_the_given_picks() -> None:
    among = drawn(9, 5)
    picks = searched(PredictorSampler(0, space=SPACE, known={0: costs_of}, startup=3, among=among), 9)
    assert sorted(map(pick_key, picks)) == sorted(map(pick_key, among))
