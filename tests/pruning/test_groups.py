"""Sections: what may be chosen of a network's channels, so that no layer is emptied."""

import math
import random

import pytest
import torch
from torch import nn

from compress.errors import NetworkError, RecipeError
from compress.pruning.channels import Channels, follow_channels
from compress.pruning.groups import PruningGroup, pruning_groups, whole
from compress.pruning.structured import difference, masked, without_channels
from tests.networks.small import SMALL


def grouped() -> nn.Sequential:
    """Eight channels read by a convolution of two groups, which makes six: pairs of channels are coupled."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1, groups=2), nn.Conv2d(6, 4, 1)
    )


def of(network: nn.Module, **settings: object) -> tuple[Channels, list[PruningGroup]]:
    channels = follow_channels(network, (64, 64))
    return channels, pruning_groups(channels, **settings)  # type: ignore[arg-type]


def group_of(count: int, multiple: int, *, width: int = 1, fixed: int = 0) -> PruningGroup:
    return PruningGroup("layer", ("layer.weight",), tuple(range(count)), (width,) * count, fixed, "", multiple, 3)


def test_a_grouped_convolution_loses_as_many_of_each_group() -> None:
    channels, parts = of(grouped(), multiple=1)
    assert [(part.name, len(part.members), part.channels, part.fixed) for part in parts] == [
        ("0", 4, 8, 0),
        ("3", 3, 6, 0),
        ("4", 0, 4, 4),
    ]
    assert [part.layers for part in parts] == [3, 2, 1]  # 0, 1 and 3; 3 and 4; 4
    for part in parts[:2]:
        for member in part.members:
            for use in channels.uses:
                places = [n for n, channel in enumerate(use.channels) if channels.member_of(channel) == member]
                if use.made and places:
                    half = len(use.channels) // 2
                    assert [place % half for place in places] == [places[0]] * 2


@pytest.mark.parametrize(
    ("part", "left"),
    [
        (group_of(32, 8), [32, 24, 16, 8]),
        (group_of(25, 8), [25, 24, 16, 8]),
        (group_of(8, 8), [8, 7, 6, 5, 4, 3, 2, 1]),
        (group_of(3, 8), [3, 2, 1]),
        (group_of(9, 4, width=2), [18, 16, 12, 8, 4]),
        (group_of(16, 8, fixed=8), [24, 16, 8]),
        (group_of(4, 8, fixed=1), [5, 4, 3, 2, 1]),
        (group_of(1, 8, width=40), [40]),
        (group_of(2, 8, width=20), [40]),
    ],
)
def test_removals_leave_multiples_and_at_least_one_channel(part: PruningGroup, left: list[int]) -> None:
    removals = part.removals(dict.fromkeys(part.members, 0.0))
    assert [round(part.channels * (1 - part.share(removed))) for removed in removals] == left


def test_the_least_important_go_first() -> None:
    part = group_of(4, 1)
    assert part.removals({0: 3.0, 1: 1.0, 2: 2.0, 3: 1.0}) == [(), (1,), (1, 3), (1, 3, 2)]
    assert part.nearest_removal({0: 3.0, 1: 1.0, 2: 2.0, 3: 1.0}, 0.3) == (1,)


@pytest.mark.parametrize(
    "name", ["hrnet", "dir_bhrnet", "openpose", "mobilenet_v3", "lite_hrnet", "shufflenet_v2", "dite_hrnet"]
)
@pytest.mark.parametrize("multiple", [1, 4])
def test_whatever_goes_no_layer_loses_all_its_channels(name: str, multiple: int) -> None:
    channels, parts = of(SMALL[name].build(), multiple=multiple)
    rng = random.Random(0)
    scores = {member: rng.random() for part in parts for member in part.members}
    removed = {member for part in parts for member in part.removals(scores)[-1]}
    assert removed
    assert not removed & set(channels.kept)
    assert channels.allowed(removed) == removed  # of every layer, and of every slice of a map, something stays
    members = [member for part in parts for member in part.members]
    assert len(members) == len(set(members))


@pytest.mark.parametrize("name", ["hrnet", "dir_bhrnet", "openpose", "mobilenet_v3"])
def test_what_is_chosen_can_be_taken_out(name: str) -> None:
    network = SMALL[name].build().eval()
    channels, parts = of(network, multiple=4)
    scores = {member: float(member) for part in parts for member in part.members}
    removed = {member for part in parts for member in part.nearest_removal(scores, 0.5)}
    image = torch.randn(1, 3, 64, 64)
    assert difference(masked(network, channels, removed), without_channels(network, channels, removed), image) < 1e-4


def test_protected_layers_keep_what_they_make() -> None:
    _, parts = of(grouped(), multiple=1, protected=["3"])
    assert [(part.name, part.channels, part.fixed, part.why) for part in parts][1] == ("3", 6, 6, "protected by '3'")
    _, parts = of(SMALL["hrnet"].build(), multiple=1, protected=["backbone.stage1", "*.stem.0"])
    spared = {part.name for part in parts if part.why.startswith("protected")}
    assert {"backbone.stem.0.conv", "backbone.stage1.0.conv1.conv"} <= spared
    assert "backbone.stem.1.conv" not in spared


def test_an_unknown_pattern_names_the_nearest_layer() -> None:
    with pytest.raises(NetworkError, match=r"found 'backbone.stemm'.*did you mean 'backbone.stem'"):
        of(SMALL["hrnet"].build(), protected=["backbone.stemm"])


def test_a_multiple_below_one_is_refused() -> None:
    with pytest.raises(RecipeError, match="found 0"):
        pruning_groups(Channels(), multiple=0)


def test_groups_that_stay_whole_are_named_with_the_reason() -> None:
    kept = PruningGroup("head", ("head.weight",), (), (), 17, "output 0 of the network", 8, 2)
    parts = [group_of(32, 8), kept, group_of(1, 8, width=40), group_of(2, 8, width=20)]
    named = [PruningGroup(**{**vars(part), "name": f"{n} {part.name}"}) for n, part in enumerate(parts)]
    assert whole(named) == {
        "1 head": "output 0 of the network",
        "2 layer": "its 40 channels can only be removed together",
        "3 layer": "nothing that could be removed of its 40 leaves a multiple of 8",
    }


def test_shares_are_of_channels_not_of_members() -> None:
    part = PruningGroup("layer", ("layer.weight",), (1, 2, 3), (4, 2, 2), 2, "", 1, 3)
    assert math.isclose(part.share([1]), 4 / 10)
