"""The mobile OpenPose of Shen et al.: counts, the layers that name the networks, the replaced 7x7."""

import pytest
import torch
from test_counts import counted
from test_lightweight_openpose import seen
from torch import nn

from compress.networks import NETWORKS
from compress.networks.architecture import without_values
from compress.networks.blocks import SqueezeExcite
from compress.networks.efficient_hrnet import MBConvBlock
from compress.networks.mobile_openpose import MobileOpenPose, MobileOpenPoseEfficientNet, Refinement, RefinementBlock

# layers, million parameters, multiply-adds at 368x368
COUNTS = [(24, 5.870, 14.24), (36, 6.796, 16.09), (72, 6.730, 16.11), (147, 6.829, 16.46)]


@pytest.mark.parametrize(("layers", "params", "macs"), COUNTS)
def test_counts(layers: int, params: float, macs: float) -> None:
    c = counted(f"mobile_openpose_{layers}", 368)
    assert c.params / 1e6 == pytest.approx(params, abs=0.001)
    assert c.macs / 1e9 == pytest.approx(macs, rel=0.005)


def test_efficientnet_is_near_what_the_pruned_one_says() -> None:
    assert counted("mobile_openpose_efficientnet", 368).params / 1e6 == pytest.approx(2.01 * 1.68, rel=0.01)


@pytest.mark.parametrize("layers", [24, 36, 72, 147])
def test_layers_are_the_backbones_convolutions(layers: int) -> None:
    architecture = NETWORKS[f"mobile_openpose_{layers}"]
    assert isinstance(architecture, MobileOpenPose)
    with without_values():
        backbone = architecture.build().features[:-2]  # the last two lead to the stages
    assert sum(isinstance(module, nn.Conv2d) for module in backbone.modules()) == layers == architecture.layers


@pytest.mark.parametrize("refinement", ["one_7x7", "three_3x3"])
def test_both_refinements_see_7x7(refinement: Refinement) -> None:
    assert seen(RefinementBlock(1, 8, refinement)) == 7


@pytest.mark.parametrize("refinement", ["one_7x7", "three_3x3"])
def test_refinement_block_by_hand(refinement: Refinement) -> None:
    block = RefinementBlock(6, 4, refinement).eval()
    x = torch.randn(1, 6, 9, 9)
    y = aligned = block.align.conv(x).relu()
    for layer in block.trunk:
        y = layer.bn(layer.conv(y)).relu()
    torch.testing.assert_close(block(x), aligned + y)
    weights = {"one_7x7": 49, "three_3x3": 27}[refinement] * 16
    norms = {"one_7x7": 1, "three_3x3": 3}[refinement] * 8
    assert sum(p.numel() for p in block.parameters()) == 6 * 4 + 4 + weights + norms


@pytest.mark.parametrize(("act", "kind"), [("swish", nn.SiLU), ("hard_swish", nn.Hardswish)])
def test_the_activation_is_everywhere_in_the_efficientnet(act: str, kind: type[nn.Module]) -> None:
    network = MobileOpenPoseEfficientNet(act=act).build()  # type: ignore[arg-type]
    backbone = network.features[:-2]
    assert sum(isinstance(module, kind) for module in backbone.modules()) == 1 + (1 + 1) + 4 * (2 + 1)
    assert not any(isinstance(module, nn.ReLU) for module in backbone.modules())
    blocks = [module for module in backbone if isinstance(module, MBConvBlock)]
    squeezed = [block.attention.squeeze.out_channels for block in blocks if isinstance(block.attention, SqueezeExcite)]
    assert squeezed == [8, 4, 6, 6, 10]


@pytest.mark.parametrize(
    "change",
    [
        *({"blocks": (0, 1)}, {"width": 0}, {"features": 0}, {"refinements": -1}, {"refinement": "5x5"}),
        *({"keypoints": 0}, {"limbs": 0}),
    ],
)
def test_range(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must .*, not"):
        MobileOpenPose(**change)  # type: ignore[arg-type]
    if "blocks" not in change:
        with pytest.raises(ValueError, match=r"must .*, not"):
            MobileOpenPoseEfficientNet(**change)  # type: ignore[arg-type]
