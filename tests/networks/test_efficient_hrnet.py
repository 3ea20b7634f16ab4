"""EfficientHRNet: counts of an independent build, scaling rules, and the structure of its block and stages."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from compress.measure.counting import count
from compress.networks import network_named
from compress.networks.architecture import without_values
from compress.networks.blocks import SqueezeExcite, initialise
from compress.networks.efficient_hrnet import EfficientHRNet, MBConvBlock, Stages, scaled_efficient_hrnet

# phi, input, million parameters, the same counted by class names, G multiply-adds, G in HigherHRNet's convention
MEASURED = [
    (0, 512, 19.725, 23.320, 23.958, 25.619),
    (-1, 480, 13.004, 16.054, 13.130, 14.208),
    (-2, 448, 8.264, 10.389, 7.030, 7.725),
    (-3, 416, 5.360, 6.962, 3.759, 4.209),
    (-4, 384, 2.765, 3.757, 1.808, 2.105),
]


@pytest.mark.parametrize(("phi", "side", "params", "by_name", "macs", "hrsum"), MEASURED)
def test_counts_are_the_measured_ones(
    phi: int, side: int, params: float, by_name: float, macs: float, hrsum: float
) -> None:
    architecture = network_named(f"efficient_hrnet_h{-phi}")
    with without_values():
        c = count(architecture.build(), (side, side))
    assert isinstance(architecture, EfficientHRNet)
    first, second, third, fourth = architecture.branch_widths
    biases = 3 * first + 3 * second + 2 * third + fourth  # of the authors' convolutions before the branches
    assert (c.params + biases) / 1e6 == pytest.approx(params, abs=0.00051)
    assert (c.params_by_class_name + biases) / 1e6 == pytest.approx(by_name, abs=0.00051)
    assert c.macs / 1e9 == pytest.approx(macs, rel=0.001)
    assert c.hrsum / 1e9 == pytest.approx(hrsum, rel=0.001)


# Taps at 1/4 .. 1/32 and branch widths, as the authors' configuration files have them.
WIDTHS = {
    0: ([24, 40, 112, 320], (32, 64, 128, 256)),
    -1: ([24, 40, 104, 288], (26, 52, 103, 206)),
    -2: ([24, 32, 96, 264], (21, 42, 83, 166)),
    -3: ([24, 32, 88, 240], (17, 34, 67, 133)),
    -4: ([16, 32, 80, 216], (14, 27, 54, 107)),
}


@pytest.mark.parametrize("phi", WIDTHS)
def test_widths_are_scaled_as_published(phi: int) -> None:
    taps, branch_widths = WIDTHS[phi]
    architecture = scaled_efficient_hrnet(phi)
    assert [architecture.backbone_widths[i] for i in (1, 2, 4, 6)] == taps
    assert architecture.branch_widths == branch_widths


def test_backbone_gives_its_four_resolutions() -> None:
    architecture = EfficientHRNet()
    with without_values():
        features = architecture.build().eval().backbone(torch.empty(1, 3, 64, 96))
    assert [tuple(f.shape) for f in features] == [(1, 24, 16, 24), (1, 40, 8, 12), (1, 112, 4, 6), (1, 320, 2, 3)]


def test_block_parameters_are_the_formula() -> None:
    inputs, middle, outputs, kernel, squeezed = 16, 96, 24, 5, 4
    block = MBConvBlock(inputs, middle, outputs, kernel, 2, "swish", SqueezeExcite(middle, squeezed=squeezed))
    norms = 2 * (middle + middle + outputs)
    attention = 2 * middle * squeezed + squeezed + middle
    expected = inputs * middle + kernel**2 * middle + middle * outputs + norms + attention
    assert sum(p.numel() for p in block.parameters()) == expected


@pytest.mark.parametrize("act", ["swish", "hard_swish", "relu"])
def test_block_computes_what_its_docstring_says(act: str) -> None:
    block = MBConvBlock(8, 32, 8, 3, 1, act, SqueezeExcite(32, squeezed=2, act=act)).eval()  # type: ignore[arg-type]
    function = {"swish": nn.functional.silu, "hard_swish": nn.functional.hardswish, "relu": torch.relu}[act]
    x = torch.randn(2, 8, 6, 6)
    conv = nn.functional.conv2d
    scale = 1 / (1 + 1e-5) ** 0.5  # fresh batch norms in evaluation
    y = function(conv(x, block.expand.conv.weight) * scale)
    y = function(conv(y, block.depthwise.conv.weight, padding=1, groups=32) * scale)
    squeezed = function(block.attention.squeeze(y.mean((2, 3), keepdim=True)))
    y = y * torch.sigmoid(block.attention.excite(squeezed))
    torch.testing.assert_close(block(x), conv(y, block.project.conv.weight) * scale + x)


def test_only_blocks_that_keep_the_shape_have_a_skip() -> None:
    same = MBConvBlock(8, 8, 8, 3, 1, "swish", nn.Identity())
    initialise(same)
    x = torch.randn(1, 8, 6, 6)
    assert torch.equal(same.eval()(x), x)
    assert isinstance(same.expand, nn.Identity)
    for outputs, stride in ((12, 1), (8, 2)):
        block = MBConvBlock(8, 16, outputs, 3, stride, "swish", nn.Identity())
        initialise(block)
        assert block.last_norm is None
        assert block.eval()(x).abs().max() > 0


def test_new_branches_start_from_the_backbone() -> None:
    stages = Stages((2, 3, 5, 7), (4, 6, 8, 10), (2, 3, 4), (1, 2, 1), 1)
    convolutions = [[entry.conv for entry in entries] for entries in stages.entries]  # type: ignore[union-attr]
    shapes = [[(c.in_channels, c.out_channels, c.stride) for c in row] for row in convolutions]
    assert shapes == [
        [(2, 4, (1, 1)), (3, 6, (1, 1))],
        [(4, 4, (1, 1)), (6, 6, (1, 1)), (5, 8, (1, 1))],
        [(4, 4, (1, 1)), (6, 6, (1, 1)), (8, 8, (1, 1)), (7, 10, (1, 1))],
    ]
    assert [len(stage) for stage in stages.stages] == [1, 2, 1]  # type: ignore[arg-type]
    # The lowest feature reaches the output: it enters the last stage, which drops to the highest resolution.
    stages.eval()
    for module in stages.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, 0.5)
    features = [torch.randn(1, c, 16 // 2**i, 16 // 2**i) for i, c in enumerate((2, 3, 5, 7))]
    changed = [*features[:3], features[3] + 1]
    assert not torch.equal(stages(features), stages(changed))


def test_the_activation_is_the_backbones() -> None:
    network = replace(EfficientHRNet(), act="hard_swish").build()
    assert not any(isinstance(m, nn.SiLU) for m in network.modules())
    assert any(isinstance(m, nn.Hardswish) for m in network.backbone.modules())
    assert not any(isinstance(m, nn.Hardswish) for m in network.stages.modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repeats": (0, 2, 2, 3, 3, 4, 1)}, "repeats must be at least 1"),
        ({"kernels": (3, 4, 5, 3, 5, 5, 3)}, "kernels must be odd"),
        ({"expansions": (0,) * 7}, "expansions must be at least 1"),
        ({"branch_widths": (0, 1, 1, 1)}, "widths must be at least 1"),
        ({"modules": (1, 0, 1)}, "every stage must have a module"),
        ({"blocks": -1}, "blocks must not be negative"),
        ({"head_blocks": -1}, "head_blocks must not be negative"),
        ({"keypoints": 0}, "keypoints must be at least 1"),
    ],
)
def test_choices_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(EfficientHRNet(), **change)  # type: ignore[arg-type]
