"""Spaces of whole families: candidates build, run, and cost no more than the largest; weights are shared."""

import random

import pytest
import torch

from compress.measure.counting import count
from compress.nas.space import Space, expand, read_space
from compress.nas.supernet import Supernet
from compress.networks import Architecture, architecture_from_data, architecture_to_data, made_for
from compress.recipe import shipped_folder

HW = (64, 96)


def space_of(name: str) -> Space:
    file = read_space(shipped_folder("search_spaces") / f"{name}.yaml")
    base = made_for(architecture_from_data({"family": file.family, **file.fixed}, name), HW)
    return expand(file, architecture_to_data(base))


def architecture_of(space: Space, pick: object) -> Architecture:
    return architecture_from_data(space.apply(pick), "space")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["rtmpose", "litepose"])
def test_random_candidates_run_and_cost_no_more_than_the_largest(name: str) -> None:
    space, rng = space_of(name), random.Random(0)
    costs = []
    for pick in (space.smallest, *(space.sample(rng) for _ in range(4)), space.largest):
        architecture = architecture_of(space, pick)
        with torch.device("meta"):
            network = architecture.build()
        assert space.pick_of(architecture_to_data(architecture), "test") == pick
        costs.append(count(network, HW).macs)
    assert costs[0] == min(costs)
    assert costs[-1] == max(costs)
    assert len(set(costs)) > 4


@pytest.mark.parametrize("name", ["rtmpose", "litepose"])
def test_candidates_share_weights(name: str) -> None:
    space = space_of(name)
    supernet, image = Supernet(space), torch.zeros(1, 3, *HW)
    for pick in (space.smallest, space.sample(random.Random(1))):
        network = supernet.extract(pick).eval()
        with torch.no_grad():
            shared, own = supernet.forward(pick, image, training=False), network(image)
        assert [part.shape for part in shared] == [part.shape for part in own]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(shared, own, strict=True))


def test_a_smaller_kernel_is_the_middle_of_the_larger_one() -> None:
    space = space_of("litepose")
    supernet = Supernet(space)
    name = "backbone.stages.0.0.depthwise.conv.weight"
    small = dict(supernet.extract({**space.largest, "kernels.0": 3}).named_parameters())[name]
    assert torch.equal(small, supernet.parameters[name][:, :, 2:5, 2:5])
