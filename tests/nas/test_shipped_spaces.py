"""Every space that comes with the package: candidates build, run, are no larger than the largest, and share weights.

`python -m benchmarks.space_conformance` does the same with a hundred candidates of each, and counts multiply-adds.
"""

import random
from functools import cache

import pytest
import torch
from torch import nn

from compress.jobs.search.task import outputs_of
from compress.nas.candidate import Candidates
from compress.nas.space import Pick, Space, expand, read_space
from compress.nas.supernet import Supernet
from compress.networks import FAMILIES, NETWORKS, architecture_from_data, architecture_to_data, made_for
from compress.networks.architecture import without_values
from compress.recipe import shipped_folder

NAMES = sorted(path.stem for path in shipped_folder("search_spaces").glob("*.yaml"))


def input_hw(name: str) -> tuple[int, int]:
    """Small; an hourglass halves the map four times more."""
    return (64, 64) if name == "hourglass" else (64, 96)


@cache
def space_of(name: str) -> Space:
    file = read_space(shipped_folder("search_spaces") / f"{name}.yaml")
    base = made_for(architecture_from_data({"family": file.family, **file.fixed}, name), input_hw(name))
    return expand(file, architecture_to_data(base))


def built(space: Space, pick: Pick) -> nn.Module:
    with without_values():
        return architecture_from_data(space.apply(pick), "space").build()


def test_every_family_has_a_space() -> None:
    assert {space_of(name).base["family"] for name in NAMES} == set(FAMILIES)


def test_no_space_is_called_like_a_network() -> None:
    """Where spaces and networks may be named, as in `compress latency pack`, a name is one of them."""
    assert not set(NAMES) & set(NETWORKS)


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_alone_keeps_the_outputs(name: str) -> None:
    space = space_of(name).architectures
    for ends in (space.smallest, space.largest):
        changed = ({**ends, path: value} for path, values in space.choices.items() for value in values)
        architectures = [architecture_from_data(space.apply(pick), name) for pick in changed]
        assert len({outputs_of(one) for one in architectures}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_random_candidates_are_between_the_smallest_and_the_largest(name: str) -> None:
    space, rng = space_of(name).architectures, random.Random(0)
    random_pick = space.sample(rng)
    assert space.pick_of(space.apply(random_pick), "test") == random_pick
    smallest, some, largest = (parameters(built(space, pick)) for pick in (space.smallest, random_pick, space.largest))
    assert smallest < largest
    assert smallest <= some <= largest


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_candidate_computes_what_the_supernet_does(name: str) -> None:
    space = space_of(name).architectures
    supernet, image = random_supernet(space), torch.randn(1, 3, *input_hw(name))
    for pick in (space.smallest, space.sample(random.Random(1))):
        network = supernet.extract(pick).eval()
        with torch.no_grad():
            shared, own = supernet.forward(pick, image, training=False), network(image)
        assert [part.shape for part in shared] == [part.shape for part in own]
        for a, b in zip(shared, own, strict=True):  # weights of another memory layout are summed in another order
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
            assert b.isfinite().all()
            assert b.any()


def random_supernet(space: Space) -> Supernet:
    """With random weights of the right scale: to build every candidate for its initial weights takes long."""
    with without_values():
        supernet = Supernet(space)
    for name, parameter in supernet.parameters.items():
        fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
        value = torch.randn(parameter.shape) * fan_in**-0.5 if parameter.dim() > 1 else torch.ones(parameter.shape)
        supernet.parameters[name] = nn.Parameter(value)
    supernet.buffers = {
        name: torch.ones(one.shape, dtype=one.dtype)
        if name.endswith("running_var")
        else torch.zeros_like(one, device="cpu")
        for name, one in supernet.buffers.items()
    }
    return supernet


@pytest.mark.parametrize("name", [name for name in NAMES if space_of(name).edits])
def test_edits_have_their_sites(name: str) -> None:
    space = space_of(name)
    rewrites = Space(space.base, space.choices, tuple(one for one in space.edits if one.kind == "rewrite"))
    Candidates(rewrites, input_hw(name)).check(name)


def test_a_smaller_kernel_is_the_middle_of_the_larger_one() -> None:
    space = space_of("litepose")
    supernet = random_supernet(space)
    name = "backbone.stages.0.0.depthwise.conv.weight"
    small = dict(supernet.extract({**space.largest, "kernels.0": 3}).named_parameters())[name]
    assert torch.equal(small, supernet.parameters[name][:, :, 2:5, 2:5])
