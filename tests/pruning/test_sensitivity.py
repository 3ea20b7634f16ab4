"""Curves of the score against the ratio, and the blocks they are of."""

import pytest
import torch
from torch import nn

from compress.errors import DataError, RecipeError
from compress.pruning.channels import follow_channels
from compress.pruning.groups import pruning_groups
from compress.pruning.sensitivity import DENSE, Curve, Plan, Point, curves, functional_blocks, plan, sensitivity
from tests.networks.small import SMALL


def small(name: str) -> tuple:
    network = SMALL[name].build().eval()
    channels = follow_channels(network, (64, 64))
    parts = [part for part in pruning_groups(channels, multiple=1) if part.members]
    scores = {member: float(member) for part in parts for member in part.members}
    return network, channels, parts, scores


def alive(network: nn.Module) -> float:
    """A score that is known without pictures: the share of convolution weights that are not 0."""
    weights = torch.cat([p.flatten() for n, p in network.named_parameters() if p.ndim == 4])
    return float((weights != 0).float().mean())


def test_every_point_is_scored_on_the_masked_network() -> None:
    network, channels, parts, scores = small("openpose")
    targets = {part.name: [part] for part in parts[:3]}
    planned = plan(targets, scores, [0.5, 0.25])
    points = list(sensitivity(network, channels, planned, alive))
    assert [(point.target, point.ratio) for point in points] == [
        (DENSE, 0.0),
        *((part.name, ratio) for part in parts[:3] for ratio in (0.25, 0.5)),
    ]
    dense = alive(network)
    total = sum(p.numel() for p in network.parameters() if p.ndim == 4)
    readers = [part.made_by[0] for part in parts[1:4]]
    for part, reader in zip(parts[:3], readers, strict=True):
        weight = dict(network.named_parameters())[reader]
        for point in points:
            if point.target == part.name:
                assert point.share == point.ratio
                assert point.score == pytest.approx(dense - point.ratio * weight.numel() / total, abs=1e-6)
    assert alive(network) == dense


def test_known_points_are_not_scored_again() -> None:
    network, channels, parts, scores = small("openpose")
    planned = plan({part.name: [part] for part in parts[:2]}, scores, [0.25, 0.5])
    points = list(sensitivity(network, channels, planned, alive))
    again = list(sensitivity(network, channels, planned, alive, known=points[:3]))
    assert [*points[:3], *again] == points
    assert not list(sensitivity(network, channels, planned, pytest.fail, known=points))


def test_ratios_that_round_to_the_same_removal_are_one_point() -> None:
    _, channels, _, _ = small("openpose")
    parts = [part for part in pruning_groups(channels, multiple=8) if part.members and part.channels == 16][:1]
    scores = dict.fromkeys(parts[0].members, 0.0)
    planned = plan({"block": parts}, scores, [0.1, 0.4, 0.5, 0.6, 0.9])
    assert [(point.ratio, point.share) for point in planned[1:]] == [(0.4, 0.5)]
    assert planned[0] == Plan(DENSE, 0.0, 0.0, frozenset())
    with pytest.raises(RecipeError, match=r"found 1\.2"):
        plan({"block": parts}, scores, [1.2])


def test_curves_rise_from_0_to_the_dense_score() -> None:
    points = [
        Point(DENSE, 0, 0, 0.8),
        Point("a", 0.6, 0.5, 0.5),
        Point("a", 0.3, 0.25, 0.7),
        Point("a", 0.8, 0.75, 0.55),
        Point("b", 0.5, 0.5, 0.9),
    ]
    found = curves(points)
    assert found["a"].shares == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert found["a"].losses == pytest.approx((0.0, 0.1, 0.3, 0.3, 0.8))
    assert found["a"].loss(0.375) == pytest.approx(0.2)
    assert found["a"].loss(1.0) == pytest.approx(0.8)
    assert found["b"] == Curve((0.0, 0.5, 1.0), (0.0, 0.0, 0.8))


def test_curves_need_the_dense_score() -> None:
    with pytest.raises(DataError, match="dense"):
        curves([Point("a", 0.5, 0.5, 0.5)])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openpose", {"backbone", "heatmap branch", "field branch"}),
        ("mobile_openpose", {"backbone", "initial stage", "refinement 0", "heatmap branch", "field branch"}),
        ("simple_baseline", {"backbone", "head"}),
        ("mobileposenet", {"backbone", "head"}),
        (
            "higher_hrnet",
            {
                "backbone",
                "head",
                "stage1",
                "stages.0",
                "stages.1",
                "stages.2",
                "branch 1",
                "branch 2",
                "branch 3",
                "branch 4",
            },
        ),
        (
            "dir_bhrnet",
            {
                "backbone",
                "head",
                "stages.0",
                "stages.1",
                "stages.2",
                "stages.3",
                "branch 1",
                "branch 2",
                "branch 3",
                "branch 4",
            },
        ),
        (
            "efficient_hrnet",
            {"backbone", "head", "stages.0", "stages.1", "stages.2", "branch 1", "branch 2", "branch 3", "branch 4"},
        ),
        (
            "lite_hrnet",
            {"backbone", "head", "stages.0", "stages.1", "stages.2", "branch 1", "branch 2", "branch 3", "branch 4"},
        ),
    ],
)
def test_blocks_are_named_after_what_they_are(name: str, expected: set[str]) -> None:
    _, _, parts, _ = small(name)
    assert set(functional_blocks(parts)) == expected


def test_a_block_holds_what_its_layers_make() -> None:
    _, _, parts, _ = small("higher_hrnet")
    blocks = {name: [part.name for part in found] for name, found in functional_blocks(parts).items()}
    assert blocks["head"] == [part.name for part in parts if part.name.startswith("head.")]
    assert len(blocks["backbone"]) + len(blocks["head"]) == len(parts)
    assert "backbone.stages.1.0.branches.1.0.conv1.conv" in blocks["stages.1"]
    assert "backbone.stages.1.0.branches.1.0.conv1.conv" in blocks["branch 2"]
    # The residual stream of the highest resolution runs through all stages.
    assert "backbone.first_branch.conv" in blocks["branch 1"]
    assert not any("backbone.first_branch.conv" in blocks[f"stages.{n}"] for n in range(3))


def test_blocks_of_an_unknown_network_are_its_first_parts() -> None:
    network = nn.Sequential()
    network.add_module("trunk", nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)))
    network.add_module("arms", nn.Conv2d(8, 8, 1))
    network.add_module("out", nn.Conv2d(8, 2, 1))
    parts = pruning_groups(follow_channels(network, (16, 16)), multiple=1)
    assert {name: [part.name for part in found] for name, found in functional_blocks(parts).items()} == {
        "trunk": ["trunk.0", "trunk.2"],
        "arms": ["arms"],
    }
