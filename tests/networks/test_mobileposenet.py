"""MobilePoseNet: counts, Table 1's sizes, and the lightweight upsampling block."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from compress.measure.counting import Count, count
from compress.networks import network_named
from compress.networks.architecture import without_values
from compress.networks.mobileposenet import LightUpsampling, MobilePoseNet


def named(name: str) -> MobilePoseNet:
    architecture = network_named(name)
    assert isinstance(architecture, MobilePoseNet)
    return architecture


def counted(architecture: MobilePoseNet, input_hw: tuple[int, int]) -> Count:
    with without_values():
        network = architecture.build()
    return count(network, input_hw)


# network, backbone attention, million parameters
PARAMS = [
    ("mobileposenet", False, 1.551),
    ("mobileposenet", True, 3.062),
    ("mobileposenet_v1", False, 2.537),
    ("mobileposenet_v2", False, 2.127),
]
# network, input, GiFLOPs in torchstat's convention
FLOPS = [
    ("mobileposenet", (256, 192), 0.553),
    ("mobileposenet", (384, 288), 1.245),
    ("mobileposenet", (256, 256), 0.737),
    ("mobileposenet_v1", (256, 192), 0.593),
    ("mobileposenet_v1", (384, 288), 1.333),
    ("mobileposenet_v2", (256, 192), 0.682),
    ("mobileposenet_v2", (384, 288), 1.534),
]


@pytest.mark.parametrize(("name", "attention", "params"), PARAMS)
def test_parameters_are_the_measured_ones(name: str, attention: bool, params: float) -> None:
    c = counted(replace(named(name), attention=attention), (64, 64))
    assert round(c.params / 1e6, 3) == params


@pytest.mark.parametrize(("name", "input_hw", "flops"), FLOPS)
def test_flops_are_the_measured_ones(name: str, input_hw: tuple[int, int], flops: float) -> None:
    assert counted(named(name), input_hw).ts / 2**30 == pytest.approx(flops, rel=0.005)


def test_flops_in_hrnets_convention_are_the_measured_ones() -> None:
    assert counted(named("mobileposenet"), (256, 192)).hrsum / 2**30 == pytest.approx(0.548, abs=0.0005)
    assert counted(named("mobileposenet"), (384, 288)).hrsum / 2**30 == pytest.approx(1.232, abs=0.0005)


# Input size of each row of Table 1 after the first, for 256x192: channels, height, width.
TABLE_1 = [
    (16, 128, 96),
    (16, 128, 96),
    (24, 64, 48),
    (24, 64, 48),
    *[(40, 32, 24)] * 3,
    *[(80, 16, 12)] * 4,
    *[(112, 16, 12)] * 2,
    *[(160, 16, 12)] * 3,
    (160, 32, 24),
    (160, 64, 48),
]


def test_table_1() -> None:
    sizes = []
    with without_values():
        network = MobilePoseNet(attention=True).build().eval()
        for layer in (network.stem, *network.blocks, *network.upsampling):
            layer.register_forward_hook(lambda module, args, y: sizes.append(tuple(y.shape[1:])))
        network(torch.empty(1, 3, 256, 192))
    assert sizes == TABLE_1
    attention = [not isinstance(block.attention, nn.Identity) for block in network.blocks]
    assert attention == [False] * 3 + [True] * 3 + [False] * 4 + [True] * 5
    hard = [isinstance(block.depthwise.act, nn.Hardswish) for block in network.blocks]  # type: ignore[union-attr]
    assert hard == [False] * 6 + [True] * 9
    middles = [block.depthwise.conv.groups for block in network.blocks]  # type: ignore[union-attr]
    assert middles == [16, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960]


def test_variants_have_the_papers_encoders() -> None:
    assert [named(n).stride for n in ("mobileposenet", "mobileposenet_v1", "mobileposenet_v2")] == [16, 32, 16]
    for name, upsamplings in (("mobileposenet_v1", 3), ("mobileposenet_v2", 2)):
        with without_values():
            network = named(name).build()
        deconvs = [m for m in network.modules() if isinstance(m, nn.ConvTranspose2d)]
        assert [(d.in_channels, d.out_channels, d.groups) for d in deconvs] == [(160, 160, 1)] * upsamplings


def test_upsampling_block_parameters_are_equation_4_and_its_norms() -> None:
    inputs, middle, outputs, kernel = 160, 320, 160, 4
    equation_4 = middle * (kernel**2 + inputs + outputs)
    norms = 2 * (middle + middle + outputs)
    squeezed = outputs // 4
    attention = 2 * outputs * squeezed + squeezed + outputs
    block = LightUpsampling(inputs, middle, outputs)
    assert sum(p.numel() for p in block.parameters()) == equation_4 + norms + attention


def test_upsampling_block_computes_equation_5() -> None:
    block = LightUpsampling(8, 16, 12).eval()
    x = torch.randn(2, 8, 5, 7)
    y = block.project(block.deconv(block.expand(x)))
    assert y.shape == (2, 12, 10, 14)
    weights = torch.sigmoid(block.attention.excite(torch.relu(block.attention.squeeze(y.mean((2, 3), keepdim=True)))))
    torch.testing.assert_close(block(x), y + y * weights)


def test_fresh_upsampling_keeps_the_signal_above_batch_norms_epsilon() -> None:
    torch.manual_seed(0)
    network = MobilePoseNet().build()
    block = network.upsampling[0]
    assert isinstance(block, LightUpsampling)
    spread = block.deconv[0](torch.randn(1, 320, 32, 32)).detach().var()
    assert float(spread) == pytest.approx(2, rel=0.1)  # He: the ReLU behind halves it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (16,) * 14}, "widths must be given for 15 blocks"),
        ({"middles": (0,) * 15}, "channels must be at least 1"),
        ({"kernels": (2,) * 15}, "kernels must be odd"),
        ({"strides": (3,) * 15}, "strides must be 1 or 2"),
        ({"strides": (1,) * 15}, "strides must lead to"),
        ({"strides": (2,) * 15}, "strides must lead to"),
        ({"expansion": 0}, "expansion must be at least 1"),
        ({"keypoints": 0}, "keypoints must be at least 1"),
    ],
)
def test_choices_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(MobilePoseNet(), **change)  # type: ignore[arg-type]
