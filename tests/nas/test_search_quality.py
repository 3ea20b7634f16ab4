"""The benchmark of samplers: what it says of costs, hypervolumes and runs."""

import random

import numpy as np
import pytest

from benchmarks.pose_nas_bench import RECIPES, architecture_of
from benchmarks.search_quality import SAMPLERS, START, cost_model, hypervolume, hypervolumes, open_bench, searched
from compress.measure.counting import count
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


def test_the_whole_table_has_the_whole_hypervolume_and_it_never_shrinks() -> None:
    shares = hypervolumes(TABLE, "macs", range(len(TABLE.networks)))
    assert shares[-1] == pytest.approx(1)
    assert (np.diff(shares) >= 0).all()


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"gp", "predictor"}))
def test_samplers_start_alike_and_take_no_network_twice(sampler: str) -> None:
    numbers, _ = searched("formula", None, "macs", START + 4, sampler, 3)
    assert len(set(numbers)) == START + 4
    assert numbers[:START] == searched("formula", None, "macs", START, "random", 3)[0]
