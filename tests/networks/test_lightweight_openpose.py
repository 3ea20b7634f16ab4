"""Lightweight OpenPose: counts, and its parts computed by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_counts import counted

from compress.networks.lightweight_openpose import Cpm, LightweightOpenPose, MobileNet, RefinementBlock

# refinement stages, million parameters, multiply-adds and mmcv's count at 368x368
COUNTS = [(0, 2.483, 5.488, 5.564), (1, 4.092, 8.882, 8.973), (2, 5.700, 12.275, 12.381), (3, 7.309, 15.669, 15.790)]


@pytest.mark.parametrize(("refinements", "params", "macs", "mmcv"), COUNTS)
def test_counts(refinements: int, params: float, macs: float, mmcv: float) -> None:
    c = counted(f"lightweight_openpose_{refinements}", 368)
    assert c.params / 1e6 == pytest.approx(params, abs=0.001)
    assert c.macs / 1e9 == pytest.approx(macs, rel=0.005)
    assert c.mmcv / 1e9 == pytest.approx(mmcv, rel=0.005)


def test_counts_of_a_wide_image() -> None:
    assert counted("lightweight_openpose_1", (368, 656)).macs / 1e9 == pytest.approx(15.83, rel=0.005)


def test_mobilenet_is_dilated_once_and_ends_at_an_eighth() -> None:
    network = MobileNet(0.25)
    assert network(torch.randn(1, 3, 16, 24)).shape == (1, 128, 2, 3)
    depthwise = [layer.conv for layer in network if layer.conv.groups > 1]
    assert [conv.dilation[0] for conv in depthwise] == [1] * 6 + [2] + [1] * 4
    assert [layer.conv.out_channels for layer in MobileNet(1)] == [
        *(32, 32, 64, 64, 128, 128, 128, 128, 256, 256, 256, 256, 512),
        *[512] * 10,
    ]


def test_cpm_by_hand() -> None:
    cpm = Cpm(6, 4, "elu")
    x = torch.randn(1, 6, 5, 7)
    y = aligned = cpm.align.conv(x).relu()
    for layer in cpm.trunk:
        assert layer.conv.bias is None
        y = F.elu(layer.conv(y))
    torch.testing.assert_close(cpm(x), cpm.conv.conv(aligned + y).relu())


def test_refinement_block_by_hand() -> None:
    block = RefinementBlock(6, 4, 2).eval()
    x = torch.randn(1, 6, 9, 9)
    aligned = block.align.conv(x).relu()
    y = aligned
    for layer, dilation in zip(block.trunk, (1, 2), strict=True):
        convolved = F.conv2d(y, layer.conv.weight, layer.conv.bias, padding=dilation, dilation=dilation)
        y = layer.bn(convolved).relu()
    torch.testing.assert_close(block(x), aligned + y)


@pytest.mark.parametrize(("dilation", "side"), [(1, 5), (2, 7)])
def test_refinement_block_sees_7x7_with_dilation_2(dilation: int, side: int) -> None:
    assert seen(RefinementBlock(1, 8, dilation)) == side


def seen(block: torch.nn.Module) -> int:
    """Side of the square of inputs that the middle of a 15x15 output depends on."""
    torch.manual_seed(0)
    x = torch.rand(1, 1, 15, 15, requires_grad=True)
    block.eval()(x)[:, :, 7, 7].sum().backward()
    assert x.grad is not None
    touched = x.grad[0, 0].nonzero()
    sides = (touched.max(0).values - touched.min(0).values + 1).tolist()
    assert sides[0] == sides[1]
    return int(math.prod(sides) ** 0.5)


def test_a_fresh_block_still_learns() -> None:
    # A last batch norm that started at zero would stay there: its ReLU lets no gradient through.
    network = LightweightOpenPose(width=0.25, features=8, head=8, blocks=1).build()
    sum(output.square().sum() for output in network(torch.randn(2, 3, 16, 16))).backward()
    for layer in network.refinements[0][0].trunk:
        assert layer.bn.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "change",
    [
        *({"width": 0.01}, {"width": float("nan")}, {"features": 0}, {"head": 0}, {"refinements": -1}),
        *({"blocks": 0}, {"dilation": 0}, {"keypoints": 0}, {"limbs": 0}),
    ],
)
def test_range(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must .*, not"):
        LightweightOpenPose(**change)  # type: ignore[arg-type]
