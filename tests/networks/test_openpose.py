"""OpenPose: counts, order of the maps, what a refinement stage reads, and a start that does not fade away."""

import pytest
import torch
from test_counts import counted
from torch import nn

from compress.networks import Architecture
from compress.networks.lightweight_openpose import LightweightOpenPose
from compress.networks.mobile_openpose import MobileOpenPose
from compress.networks.openpose import HiddenConv, OpenPose, Vgg


def test_counts() -> None:
    c = counted("openpose", 368)
    assert c.params / 1e6 == pytest.approx(52.311, abs=0.001)
    assert c.macs / 1e9 == pytest.approx(135.93, rel=0.005)
    assert c.mmcv / 1e9 == pytest.approx(136.07, rel=0.005)
    assert counted("openpose", (368, 656)).macs / 1e9 == pytest.approx(242.3, rel=0.005)


def test_vgg_is_its_first_ten_layers_and_two_more() -> None:
    vgg = Vgg(64, 128)
    layers = [module.conv.out_channels if isinstance(module, HiddenConv) else "pool" for module in vgg]
    assert layers == [64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", 512, 512, 256, 128]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in vgg.modules())


def test_a_stage_gives_heatmaps_then_fields_and_the_next_reads_them_after_the_features() -> None:
    network = OpenPose(width=4, features=8, stages=3, keypoints=5, limbs=4).build()
    image = torch.randn(1, 3, 16, 24)
    features = network.features(image)
    stages = [network.initial, *network.refinements]
    read, expected = features, []
    for stage in stages:
        heatmaps, fields = stage.heatmaps(read), stage.fields(read)
        assert heatmaps.shape == (1, 6, 2, 3)
        assert fields.shape == (1, 8, 2, 3)
        expected.append(torch.cat((heatmaps, fields), 1))
        read = torch.cat((features, heatmaps, fields), 1)
    for found, wanted in zip(network(image), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_branch_parameters_are_the_formula() -> None:
    network = OpenPose(width=4, features=8, stages=2, keypoints=5, limbs=4).build()
    read, maps = 8 + 6 + 8, 6
    expected = 8 * 49 * read + 8 + 4 * (8 * 49 * 8 + 8) + 8 * 8 + 8 + 8 * maps + maps
    assert sum(p.numel() for p in network.refinements[0].heatmaps.parameters()) == expected


def test_a_fresh_network_carries_its_signal_through() -> None:
    # There is no batch norm: with 0.001 everywhere, nothing of the image would be left after 14 layers.
    torch.manual_seed(0)
    network = OpenPose(width=16, features=32, stages=2).build()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert 0.1 < float(network.features(image).std()) < 10
        assert 0 < float(network(image)[1].std((0, 2, 3)).max()) < 0.1


@pytest.mark.parametrize(
    "architecture",
    [
        OpenPose(width=16, features=32, stages=2, kernel=3),
        LightweightOpenPose(width=0.25, features=32, head=32),
        MobileOpenPose(blocks=(1, 1), width=8, features=32),
    ],
    ids=lambda architecture: architecture.family,
)
def test_a_fresh_network_answers_near_an_empty_picture(architecture: Architecture) -> None:
    torch.manual_seed(0)
    empty = torch.zeros(1, architecture.keypoints + 1 + 2 * 19, 8, 8)
    empty[:, architecture.keypoints] = 1  # the background
    with torch.no_grad():
        for output in architecture.build()(torch.randn(1, 3, 64, 64)):
            torch.testing.assert_close(output, empty, atol=0.2, rtol=0)


@pytest.mark.parametrize(
    "change", [{"width": 0}, {"features": 0}, {"stages": 0}, {"kernel": 4}, {"keypoints": 0}, {"limbs": 0}]
)
def test_range(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be .*, not"):
        OpenPose(**change)
