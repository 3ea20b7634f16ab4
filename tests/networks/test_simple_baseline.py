"""SimpleBaseline: counts of the authors' code, and the ResNet and the head computed by hand."""

import pytest
import torch
import torch.nn.functional as F
from test_counts import counted
from torch import nn

from compress.networks.blocks import Bottleneck, initialise
from compress.networks.simple_baseline import DeconvHead, SimpleBaseline

# network, million parameters, multiply-adds and the authors' count (2^30) at 256x192 and 384x288
COUNTS = [
    ("simple_baseline_r50", 34.000, (5.426, 12.209), (8.991, 20.230)),
    ("simple_baseline_r101", 52.992, (9.063, 20.391), (12.378, 27.850)),
    ("simple_baseline_r152", 68.636, (12.699, 28.573), (15.765, 35.471)),
]


@pytest.mark.parametrize(("name", "params", "macs", "flops"), COUNTS)
def test_counts(name: str, params: float, macs: tuple[float, float], flops: tuple[float, float]) -> None:
    for index, size in enumerate([(256, 192), (384, 288)]):
        c = counted(name, size)
        assert c.params / 1e6 == pytest.approx(params, abs=0.001)
        assert c.macs / 1e9 == pytest.approx(macs[index], rel=0.005)
        assert c.hrsum / 2**30 == pytest.approx(flops[index], rel=0.005)


def conv(x: torch.Tensor, layer: nn.Sequential, stride: int = 1) -> torch.Tensor:
    """Convolution and batch norm of a `conv_bn`."""
    weight = layer.conv.weight
    y = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
    return F.batch_norm(y, layer.bn.running_mean, layer.bn.running_var, layer.bn.weight, layer.bn.bias)


@pytest.mark.parametrize(("inputs", "planes", "stride"), [(16, 4, 1), (8, 4, 1), (16, 4, 2), (8, 4, 2)])
def test_bottleneck_has_its_stride_in_the_3x3(inputs: int, planes: int, stride: int) -> None:
    block = Bottleneck(inputs, planes, stride).eval()
    x = torch.randn(1, inputs, 8, 6)
    y = conv(conv(conv(x, block.conv1).relu(), block.conv2, stride).relu(), block.conv3)
    same = inputs == 4 * planes and stride == 1
    skip = x if same else conv(x, block.skip, stride)  # type: ignore[arg-type]
    torch.testing.assert_close(block(x), (y + skip).relu())


def test_only_the_first_block_of_a_stage_has_a_projection() -> None:
    network = SimpleBaseline(blocks=(3, 4, 6, 3), width=4, filters=(4,)).build()
    blocks = [module for module in network.modules() if isinstance(module, Bottleneck)]
    projected = [not isinstance(block.skip, nn.Identity) for block in blocks]
    assert [index for index, is_projected in enumerate(projected) if is_projected] == [0, 3, 7, 13]
    assert [block.conv2.conv.stride[0] for block in blocks if block.conv2.conv.stride[0] == 2] == [2, 2, 2]


def test_head_parameters_are_the_formula_and_it_doubles_every_time() -> None:
    head = DeconvHead(12, (8, 6), 5)
    assert sum(p.numel() for p in head.parameters()) == 12 * 8 * 16 + 16 + 8 * 6 * 16 + 12 + 6 * 5 + 5
    assert head(torch.randn(1, 12, 3, 2))[0].shape == (1, 5, 12, 8)
    assert SimpleBaseline(filters=(8,)).output_strides == (16,)
    assert SimpleBaseline(filters=()).output_strides == (32,)


def test_blocks_without_a_projection_start_as_the_identity() -> None:
    block = Bottleneck(16, 4)
    initialise(block)
    x = torch.rand(2, 16, 4, 4)
    assert torch.equal(block.eval()(x), x)


@pytest.mark.parametrize(
    "change", [{"blocks": (1, 0, 1, 1)}, {"width": 0}, {"filters": (8, 0)}, {"filters": (8,) * 6}, {"keypoints": 0}]
)
def test_range(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must .*, not"):
        SimpleBaseline(**change)  # type: ignore[arg-type]
