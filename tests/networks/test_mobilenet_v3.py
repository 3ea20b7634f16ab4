"""MobileNetV3-Large with SimpleBaseline's head: counts of the MobilePoseNet table and mmpose's plan."""

import pytest
from test_counts import counted
from torch import nn

from compress.networks.blocks import SqueezeExcite
from compress.networks.efficient_hrnet import MBConvBlock
from compress.networks.mobilenet_v3 import MobileNetV3


@pytest.mark.parametrize(("size", "flops"), [((256, 192), 1.363), ((384, 288), 3.065), ((256, 256), 1.816)])
def test_counts(size: tuple[int, int], flops: float) -> None:
    c = counted("mobilenet_v3_large", size)
    assert c.params / 1e6 == pytest.approx(8.670, abs=0.001)
    assert c.ts / 2**30 == pytest.approx(flops, rel=0.005)


def test_plan_is_mmposes() -> None:
    blocks = [module for module in MobileNetV3().build().modules() if isinstance(module, MBConvBlock)]
    assert [block.depthwise.conv.kernel_size[0] for block in blocks] == [3] * 3 + [5] * 3 + [3] * 6 + [5] * 3
    middles = [16, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 672, 960]
    assert [block.depthwise.conv.groups for block in blocks] == middles
    outputs = [16] + [24] * 2 + [40] * 3 + [80] * 4 + [112] * 2 + [160] * 3
    assert [block.project.conv.out_channels for block in blocks] == outputs
    assert [i for i, block in enumerate(blocks) if block.depthwise.conv.stride == (2, 2)] == [1, 3, 6, 13]
    assert [i for i, block in enumerate(blocks) if isinstance(block.expand, nn.Identity)] == []
    kinds = [type(block.depthwise.act) for block in blocks]
    assert kinds == [nn.ReLU] * 6 + [nn.Hardswish] * 9
    attention = {i: block.attention for i, block in enumerate(blocks) if isinstance(block.attention, SqueezeExcite)}
    assert list(attention) == [3, 4, 5, 10, 11, 12, 13, 14]
    for index, module in attention.items():
        assert module.squeeze.out_channels == middles[index] // 4
        assert isinstance(module.gate, nn.Hardsigmoid)


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf")])
def test_range(width: float) -> None:
    with pytest.raises(ValueError, match="width must be above 0, not"):
        MobileNetV3(width)
