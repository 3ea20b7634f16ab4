"""Lightweight HRNet: counts, the Lite Conv Module, and the channel exchange against the paper's Table IV."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from compress.measure.counting import Count, count
from compress.networks import network_named
from compress.networks.architecture import without_values
from compress.networks.lightweight_hrnet import ChannelExchange, LightweightHRNet, LiteConvModule


def counted(architecture: LightweightHRNet, side: int) -> Count:
    with without_values():
        network = architecture.build()
    return count(network, (side, side))


def named(r: int) -> LightweightHRNet:
    architecture = network_named(f"lightweight_hrnet_r{-r}")
    assert isinstance(architecture, LightweightHRNet)
    return architecture


# r, input, kind, million parameters, G in HigherHRNet's convention: of a build without the 3x3 convolutions on the two
# branches that go on from stage 1 to stage 2, and with a bias in those before new branches.
MEASURED = [
    (0, 512, "dense", 13.144, 15.22),
    (0, 512, "separable", 12.871, 15.05),
    (-1, 480, "dense", 8.794, 9.10),
    (-1, 480, "separable", 8.559, 8.95),
    (-2, 448, "dense", 5.922, 5.37),
    (-2, 448, "separable", 5.729, 5.27),
]


@pytest.mark.parametrize(("r", "side", "kind", "params", "hrsum"), MEASURED)
def test_counts_are_the_measured_ones(r: int, side: int, kind: str, params: float, hrsum: float) -> None:
    architecture = replace(named(r), lite_conv=kind)  # type: ignore[arg-type]
    c = counted(architecture, side)
    first, second = architecture.branch_widths[:2]
    going_on = 9 * first**2 + 9 * second**2
    going_on_macs = 9 * first**2 * (side // 4) ** 2 + 9 * second**2 * (side // 8) ** 2
    biases = sum(architecture.branch_widths)
    assert (c.params - going_on - 2 * (first + second) + biases) / 1e6 == pytest.approx(params, abs=0.00051)
    assert (c.hrsum - going_on_macs) / 1e9 == pytest.approx(hrsum, abs=0.01)


@pytest.mark.parametrize(
    ("r", "side", "params", "flops"), [(0, 512, 13.2, 15.6), (-1, 480, 8.8, 9.3), (-2, 448, 5.9, 5.5)]
)
def test_counts_are_as_near_to_the_paper_as_the_docstring_says(r: int, side: int, params: float, flops: float) -> None:
    c = counted(named(r), side)
    assert round(c.params / 1e6, 1) == params
    if r == 0:
        assert c.hrsum / 1e9 == pytest.approx(15.52, abs=0.005)
    else:
        assert round(c.hrsum / 1e9, 1) == flops


def test_the_exchange_costs_no_parameters_and_no_flops() -> None:
    for r, side in ((0, 512), (-1, 480), (-2, 448)):
        with_exchange = network_named(f"lightweight_hrnet_r{-r}_cem")
        assert with_exchange == replace(named(r), exchange=True)
        assert isinstance(with_exchange, LightweightHRNet)
        a, b = counted(named(r), side), counted(with_exchange, side)
        assert (a.params, a.macs, a.hrsum) == (b.params, b.macs, b.hrsum)


TABLE_IV = [[12, 0, 12, 0], [0, 20, 0, 12], [3, 4, 60, 29], [9, 8, 24, 223]]


def test_channels_are_exchanged_as_in_table_iv() -> None:
    widths = (24, 32, 96, 264)
    numbers = torch.arange(sum(widths)).float()
    features = [
        part.view(1, -1, 1, 1).expand(1, -1, 16 // 2**i, 24 // 2**i)
        for i, part in enumerate(torch.split(numbers, widths))
    ]
    exchanged = ChannelExchange(widths)(features)
    assert [tuple(x.shape) for x in exchanged] == [(1, width, 16, 24) for width in widths]
    edges = torch.tensor([0, *torch.tensor(widths).cumsum(0).tolist()])
    channels = [x[0, :, 0, 0] for x in exchanged]
    found = [[int(((c >= low) & (c < high)).sum()) for low, high in pairwise(edges)] for c in channels]
    assert found == TABLE_IV
    assert torch.equal(torch.cat(channels).sort().values, numbers)  # every channel goes to one place


def test_exchange_keeps_each_features_place_in_the_picture() -> None:
    widths = (8, 8, 8, 8)
    features = [torch.randn(1, 8, 16 // 2**i, 8 // 2**i) for i in range(4)]
    upsampled = [x.repeat_interleave(2**i, 2).repeat_interleave(2**i, 3) for i, x in enumerate(features)]
    exchanged = torch.cat(ChannelExchange(widths)(features), 1)
    for channel in torch.cat(upsampled, 1)[0]:
        assert sum(torch.equal(channel, other) for other in exchanged[0]) == 1


def test_first_stage_sees_the_low_resolutions_only_with_the_exchange() -> None:
    small = LightweightHRNet((4, 8, 16, 20, 24, 28, 32), (4, 6, 8, 10), modules=(1, 1), blocks=1)
    for exchange in (False, True):
        network = replace(small, exchange=exchange).build().eval()
        features = network.backbone(torch.randn(1, 3, 64, 64))
        changed = [*features[:3], features[3] + 1]
        first_stage = [
            [entry(x) for entry, x in zip(network.stages.entries[0], network.exchange(given), strict=False)]  # type: ignore[arg-type]
            for given in (features, changed)
        ]
        assert all(torch.equal(a, b) for a, b in zip(*first_stage, strict=True)) != exchange


def test_lite_conv_parameters_are_the_formula() -> None:
    inputs, outputs = 16, 24
    new, half = outputs - inputs, outputs // 2

    def conv(i: int, o: int, kernel: int) -> int:
        return kernel**2 * i * o + 2 * o

    def separable(i: int, o: int) -> int:
        return 9 * i + 2 * i + conv(i, o, 1)

    expected = {
        "dense": conv(inputs, inputs, 3) + conv(inputs, new, 3) + conv(half, half, 3),
        "separable": separable(inputs, inputs)
        + conv(inputs, new, 1)
        + separable(new, new)
        + conv(half, half, 1)
        + separable(half, half),
    }
    for kind, parameters in expected.items():
        module = LiteConvModule(inputs, outputs, kind)  # type: ignore[arg-type]
        assert sum(p.numel() for p in module.parameters()) == parameters


@pytest.mark.parametrize("kind", ["dense", "separable"])
def test_lite_conv_computes_what_its_docstring_says(kind: str) -> None:
    module = LiteConvModule(6, 10, kind).eval()  # type: ignore[arg-type]
    x = torch.randn(2, 6, 8, 12)
    interleaved = [0, 5, 1, 6, 2, 7, 3, 8, 4, 9]
    y = torch.cat((module.keep(x), module.widen(x)), 1)[:, interleaved]
    y = torch.cat((y[:, :5], module.deepen(y[:, 5:])), 1)[:, interleaved]
    assert y.shape == (2, 10, 4, 6)
    torch.testing.assert_close(module(x), y)
    assert module.keep(x).shape[1] == 6  # Sec. III-C: C11 keeps the channels


def test_table_i() -> None:
    # Layer by layer for r = -2 and 448x448, with the two printed sizes that cannot be corrected.
    with without_values():
        backbone = named(-2).build().eval().backbone
        shapes = []
        for layer in (backbone.stem, *backbone.layers):
            layer.register_forward_hook(lambda module, args, y: shapes.append(tuple(y.shape[1:])))  # type: ignore[union-attr]
        backbone(torch.empty(1, 3, 448, 448))
    assert shapes == [
        (16, 224, 224),
        (24, 112, 112),
        (32, 56, 56),
        (64, 28, 28),
        (96, 28, 28),
        (160, 14, 14),
        (264, 14, 14),
    ]
    assert [isinstance(layer, LiteConvModule) for layer in backbone.layers] == [True, True, True, False, True, False]
    assert isinstance(backbone.layers, nn.ModuleList)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone_widths": (16, 25, 40, 80, 112, 192, 320)}, "width must be even"),
        ({"backbone_widths": (24, 24, 40, 80, 112, 192, 320)}, "must widen its input"),
        ({"backbone_widths": (16, 20, 40, 80, 112, 192, 320), "exchange": True}, "multiples of 8"),
        ({"branch_widths": (32, 64, 0, 256)}, "widths must be at least 1"),
        ({"modules": (0, 3)}, "every stage must have a module"),
        ({"blocks": -1}, "blocks must not be negative"),
        ({"head_blocks": -1}, "head_blocks must not be negative"),
        ({"keypoints": 0}, "keypoints must be at least 1"),
    ],
)
def test_choices_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LightweightHRNet(), **change)  # type: ignore[arg-type]
