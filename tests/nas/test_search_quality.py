"""The benchmark of samplers: what it says of costs, hypervolumes and runs."""

import random

import numpy as np
import pytest

from benchmarks.pose_nas_bench import RECIPES, architecture_of
from benchmarks.search_grounds import Model, OfModel, cost_model, open_bench
from benchmarks.search_quality import PRIOR, SAMPLERS, START, Measure, hypervolume, searched
from compress.measure.counting import count
from compress.nas.predictor_sampler import WITH_PRIOR
from compress.networks.architecture import without_values

TABLE = open_bench("formula", None)


def test_costs_of_picks_that_are_not_in_the_table_are_exact() -> None:
    picks = [TABLE.space.sample(random.Random(seed)) for seed in (101,)]
    for pick, macs, params in zip(
        picks, cost_model(TABLE, "macs")(picks), cost_model(TABLE, "params")(picks), strict=True
    ):
        with without_values():
            counted = count(architecture_of("lspet", pick).build(), RECIPES["lspet"].input_hw)
        assert macs == pytest.approx(counted.macs, rel=1e-6)
        assert params == pytest.approx(counted.params, rel=1e-6)


def test_hypervolume_is_the_dominated_area() -> None:
    points = np.random.default_rng(0).random((6, 2))
    x, y = np.meshgrid((np.arange(400) + 0.5) / 400, (np.arange(400) + 0.5) / 400)
    dominated = np.any([(x >= cost) & (y <= score) for cost, score in points], axis=0)
    assert hypervolume(points) == pytest.approx(dominated.mean(), abs=0.005)


def test_what_lies_beyond_the_reference_adds_nothing() -> None:
    inside = np.array([[0.2, 0.4]])
    assert hypervolume(np.array([[0.2, 0.4], [1.3, 0.9], [0.1, -0.2]])) == pytest.approx(hypervolume(inside))
    assert hypervolume(np.array([[-0.5, 0.4]])) == pytest.approx(0.4)


def test_the_whole_table_has_the_whole_hypervolume_and_it_never_shrinks() -> None:
    shares = Measure.of_table(TABLE, "macs")(TABLE.points("macs"))
    assert shares[-1] == pytest.approx(1)
    assert (np.diff(shares) >= 0).all()


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"gp", "predictor"}))
def test_samplers_start_alike_and_take_no_network_of_the_table_twice(sampler: str) -> None:
    points, _ = searched("formula", None, "table", "macs", START + 4, sampler, 3)
    assert len(set(points)) == START + 4
    alike = WITH_PRIOR if sampler == PRIOR else START
    assert points[:alike] == searched("formula", None, "table", "macs", alike, "random", 3)[0]


def test_samplers_are_told_noise_and_judged_without(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(TABLE, "macs")
    ground = OfModel(model, seed=1)
    picks = [TABLE.space.sample(random.Random(seed)) for seed in range(40)]
    found = [ground.evaluate(pick) for pick in picks]
    assert [one.pick for one in found] == picks
    assert np.array([one.true for one in found]) == pytest.approx(model(picks))
    noise = np.array([one.told[1] - one.true[1] for one in found])
    assert 0.5 < noise.std() / model.noise < 1.5
    assert [one.told for one in found] == [ground.evaluate(pick).told for pick in picks]
    fit, tau = model.agreement
    assert 0.5 < fit < 1
    assert 0.5 < tau < 1


def test_the_models_front_is_beaten_by_no_random_pick() -> None:
    model = Model(TABLE, "macs")
    measure = Measure.of_model(model)
    best = [(float(cost), float(score)) for cost, score in model.best]
    assert measure(best)[-1] == pytest.approx(1)
    drawn = model([TABLE.space.sample(random.Random(seed)) for seed in range(1000, 1300)])
    assert measure([*best, *((float(cost), float(score)) for cost, score in drawn)])[-1] < 1.005
