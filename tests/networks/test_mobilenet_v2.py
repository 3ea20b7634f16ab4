"""MobileNetV2 with SimpleBaseline's head: counts of the MobilePoseNet paper's tables and the paper's plan."""

import pytest
from test_counts import counted
from torch import nn

from compress.networks.efficient_hrnet import MBConvBlock
from compress.networks.mobilenet_v2 import MobileNetV2


@pytest.mark.parametrize(("size", "flops"), [((256, 192), 1.478), ((384, 288), 3.326), ((256, 256), 1.970)])
def test_counts(size: tuple[int, int], flops: float) -> None:
    c = counted("mobilenet_v2", size)
    assert c.params / 1e6 == pytest.approx(9.570, abs=0.001)
    assert c.ts / 2**30 == pytest.approx(flops, rel=0.005)


def blocks(width: float) -> list[MBConvBlock]:
    return [module for module in MobileNetV2(width).build().modules() if isinstance(module, MBConvBlock)]


def test_plan_is_the_papers() -> None:
    outputs = [16] + [24] * 2 + [32] * 3 + [64] * 4 + [96] * 3 + [160] * 3 + [320]
    found = blocks(1.0)
    assert [block.project.conv.out_channels for block in found] == outputs
    inputs = [32, *outputs[:-1]]
    assert [block.depthwise.conv.groups for block in found] == [32] + [6 * i for i in inputs[1:]]
    strided = [index for index, block in enumerate(found) if block.depthwise.conv.stride == (2, 2)]
    assert strided == [1, 3, 6, 13]
    assert isinstance(found[0].expand, nn.Identity)
    added = [index for index, block in enumerate(found) if block.last_norm is not None]
    assert added == [2, 4, 5, 7, 8, 9, 11, 12, 14, 15]


def test_activations_are_relu6_in_the_backbone_and_relu_in_the_head() -> None:
    network = MobileNetV2(0.2).build()
    assert sum(isinstance(module, nn.ReLU6) for module in network.backbone.modules()) == 1 + 1 + 16 * 2 + 1
    assert not any(type(module) is nn.ReLU for module in network.backbone.modules())
    assert sum(type(module) is nn.ReLU for module in network.head.modules()) == 3


def test_width_gives_the_authors_channels_and_never_fewer_features() -> None:
    # 0.75 of 16, 24, 32, 64, 96, 160, 320 in the authors' checkpoints.
    first = [0, 1, 3, 6, 10, 13, 16]
    assert [blocks(0.75)[i].project.conv.out_channels for i in first] == [16, 24, 24, 48, 72, 120, 240]
    assert MobileNetV2(0.5).build().backbone[-1].conv.out_channels == 1280
    assert MobileNetV2(1.4, filters=()).build().backbone[-1].conv.out_channels == 1792


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf")])
def test_range(width: float) -> None:
    with pytest.raises(ValueError, match="width must be above 0, not"):
        MobileNetV2(width)
