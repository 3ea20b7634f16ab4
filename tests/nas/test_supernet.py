"""A candidate of the supernet is its own network with slices for parameters."""

import random
from pathlib import Path

import pytest
import torch

from compress.nas.space import Space, expand, read_space
from compress.nas.supernet import Pool, Supernet
from compress.networks import architecture_from_data, architecture_to_data

SPACE = """
family: dir_bhrnet
fixed: {head: HEAD, head_filters: 8, keypoints: 3}
choices:
  width: [4, 8]
  blocks.*.*: [0, 1, 2]
  kinds.*: [ir, ir_dw, ir_shortcut, dir, dir_se, residual]
  expansions.*: [1, 2, 4]
"""


def build_space(tmp_path: Path, head: str = "single") -> Space:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE.replace("HEAD", head))
    file = read_space(path)
    base = architecture_to_data(architecture_from_data({"family": file.family, **file.fixed}, "test"))
    return expand(file, base)


@pytest.mark.parametrize("head", ["single", "higher"])
@pytest.mark.parametrize("training", [True, False])
def test_an_extracted_candidate_has_the_supernet_s_outputs(tmp_path: Path, head: str, training: bool) -> None:
    torch.manual_seed(0)
    space = build_space(tmp_path, head)
    supernet = Supernet(space)
    rng = random.Random(0)
    images = torch.randn(2, 3, 32, 64)
    for pick in [space.smallest, space.largest, *(space.sample(rng) for _ in range(8))]:
        network = supernet.extract(pick).train(training)  # copies the statistics before training mode changes them
        expected = supernet.forward(pick, images, training=training)
        for ours, theirs in zip(network(images), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_candidates_parameters_are_the_leading_slices(tmp_path: Path) -> None:
    supernet = Supernet(build_space(tmp_path))
    pick = supernet.space.sample(random.Random(3))
    for name, parameter in supernet.extract(pick).named_parameters():
        shared = supernet.parameters[name]
        index = tuple(slice(0, n) for n in parameter.shape)
        assert torch.equal(parameter, shared[index])


def test_gradients_reach_the_slice_and_nothing_else(tmp_path: Path) -> None:
    supernet = Supernet(build_space(tmp_path))
    pick = {**supernet.space.largest, "width": 4}
    supernet.forward(pick, torch.randn(2, 3, 32, 32), training=True)[0].square().sum().backward()
    weight = supernet.parameters["stem.1.conv.weight"]
    assert weight.grad is not None
    assert weight.shape == (8, 4, 3, 3)
    assert weight.grad[:4, :2].abs().sum() > 0
    assert weight.grad[4:].abs().sum() == 0
    assert weight.grad[:, 2:].abs().sum() == 0


def test_an_extracted_candidate_is_independent(tmp_path: Path) -> None:
    supernet = Supernet(build_space(tmp_path))
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    network = supernet.extract(supernet.space.smallest)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    network.train()(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(before[name], value) for name, value in supernet.state_dict().items())


def test_state_goes_round(tmp_path: Path) -> None:
    space = build_space(tmp_path)
    first, second = Supernet(space), Supernet(space)
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(
        first.forward(space.largest, x, training=False)[0], second.forward(space.largest, x, training=False)[0]
    )


def test_sandwich_is_largest_smallest_and_randoms(tmp_path: Path) -> None:
    space = build_space(tmp_path)
    pool = Pool.draw(space, 12, random.Random(0))
    assert pool == Pool.draw(space, 12, random.Random(0))
    largest, smallest, *randoms = pool.sandwich(2, random.Random(1))
    sized = [path for path in space.choices if not path.startswith("kinds")]
    assert all(largest[path] == space.largest[path] and smallest[path] == space.smallest[path] for path in sized)
    assert {pick[f"kinds.{b}"] for pick in pool.largest for b in range(4)} > {"residual"}
    assert len(randoms) == 2
    assert all(pick in pool.randoms for pick in randoms)
