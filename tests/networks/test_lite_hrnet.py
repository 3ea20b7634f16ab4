"""Small, Lite-, Dite- and EDite-HRNet: counts, blocks and the authors' fusion, computed independently."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.measure.counting import count
from compress.networks import network_named
from compress.networks.architecture import without_values
from compress.networks.dir_bhrnet import DirHRNet
from compress.networks.dite_hrnet import DenseContext, DiteHRNet, DynamicConv, GlobalContext
from compress.networks.edite_hrnet import EDiteHRNet, EnhancedConv, LongRangeAttention
from compress.networks.higher_hrnet import HigherHRNet
from compress.networks.hrnet import HRNet
from compress.networks.lite_hrnet import ConditionalChannelWeighting, DoubledFusion, LiteHRNet, ToLowest


def with_statistics(network: nn.Module) -> nn.Module:
    """Norms that are not the identity and weights that are not near zero, in evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return network.eval()


# network, million parameters, torchstat's 2^20 at 256x192 as measured on the authors' code
MEASURED = [
    ("lite_hrnet_18_naive", 0.760, 194.76),
    ("lite_hrnet_18_wider_naive", 1.319, 311.05),
    ("lite_hrnet_18", 1.131, 205.23),
    ("lite_hrnet_30", 1.764, 319.20),
    ("dite_hrnet_18", 1.187, 209.80),
    ("dite_hrnet_30", 1.863, 329.82),
]
HIGHER_CELLS = (64 * 48 * 20, 32 * 24 * 40, 16 * 12 * 80)  # elements of half of branch 0, 1, 2


@pytest.mark.parametrize(("name", "params", "flops"), MEASURED)
def test_counts_are_those_of_the_authors_code(name: str, params: float, flops: float) -> None:
    architecture = network_named(name)
    assert isinstance(architecture, LiteHRNet | DiteHRNet)
    with without_values():
        c = count(architecture.build(), (256, 192))
    blocks = [modules * architecture.blocks for modules in architecture.modules]
    unused = 0
    pooled = 0.0  # to the lowest resolution: not counted by torchstat, because no module does it there
    if "naive" not in name:
        pooled = sum(n * sum(HIGHER_CELLS[: branches + 1]) for branches, n in enumerate(blocks))
    if "dite" in name:
        # Masks of the lowest branches, which the authors' code makes and does not use, and the others' biases.
        unused = sum(n * (half + 1) for n, half in zip(blocks, (40, 80, 160), strict=True))
        unused += 2 + sum(n * (2 * branches - 1) for n, branches in zip(blocks, (2, 3, 4), strict=True))
    assert (c.params + unused) / 1e6 == pytest.approx(params, abs=0.0006)
    assert (c.ts - pooled) / 2**20 == pytest.approx(flops, rel=0.002)
    assert c.uncounted == ()


SMALL_HRNET = [("small_hrnet_w16", 1.285, 0.5387, 1.2122), ("small_hrnet_w18", 1.601, 0.618, 1.390)]


@pytest.mark.parametrize(("name", "params", "low", "high"), SMALL_HRNET)
def test_small_hrnets_counts(name: str, params: float, low: float, high: float) -> None:
    with without_values():
        network = network_named(name).build()
    for input_hw, flops in (((256, 192), low), ((384, 288), high)):
        c = count(network, input_hw)
        assert c.params / 1e6 == pytest.approx(params, abs=0.0006)
        assert c.ts / 2**30 == pytest.approx(flops, rel=0.005)


GHOST = EDiteHRNet(mixing="none", stem="dynamic")
OWN_VARIANTS = [
    (GHOST, 1.284, 0.235, 0.02),
    (replace(GHOST, mixing="depthwise"), 1.366, 0.285, 0.015),
    (replace(GHOST, mixing="dense"), 7.208, 1.779, 0.005),
]


@pytest.mark.parametrize(("architecture", "params", "flops", "near"), OWN_VARIANTS)
def test_edites_variants_are_near_the_earlier_ones(
    architecture: EDiteHRNet, params: float, flops: float, near: float
) -> None:
    with without_values():
        c = count(architecture.build(), (256, 192))
    unused = 4 * 41 + 8 * 81 + 4 * 161 + 2 + 4 * 3 + 8 * 5 + 4 * 7  # Dite-HRNet's masks and biases were in those
    assert (c.params + unused) / 1e6 == pytest.approx(params, abs=0.001)
    pooled = sum(n * sum(HIGHER_CELLS[: branches + 1]) for branches, n in enumerate((4, 8, 4)))
    assert (c.ts - pooled) / 2**30 == pytest.approx(flops, rel=near)


def test_edite_is_as_near_as_its_docstring_says() -> None:
    for name, params, low, high in (("edite_hrnet_s", 1.37, 0.29, 0.66), ("edite_hrnet_l", 8.48, 1.84, 4.13)):
        with without_values():
            network = network_named(name).build()
        for input_hw, flops in (((256, 192), low), ((384, 288), high)):
            c = count(network, input_hw)
            assert c.params / 1e6 == pytest.approx(params, abs=0.005)
            assert c.ts / 2**30 == pytest.approx(flops, abs=0.006)


@pytest.mark.parametrize("rectified", [False, True])
def test_fusion_is_the_authors_loop(rectified: bool) -> None:
    fusion = with_statistics(DoubledFusion([4, 6, 8, 10], rectified))
    assert isinstance(fusion, DoubledFusion)
    features = [torch.randn(1, c, 16 // 2**i, 8 // 2**i) for i, c in enumerate((4, 6, 8, 10))]
    given = [x.clone() for x in features]
    found = fusion(features)
    assert all(torch.equal(a, b) for a, b in zip(features, given, strict=True))
    # As the authors write it: y is out[0] itself and is added to in place, and the inner loop adds j = 0 again.
    out, expected = given, []
    for i in range(4):
        row = fusion.paths[i]
        assert isinstance(row, nn.ModuleList)
        y = out[0] if i == 0 else row[0](out[0])
        for j in range(4):
            y += out[j] if i == j else row[j](out[j])
        expected.append(y.relu_() if rectified else y.relu())
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_pooling_to_the_lowest_is_adaptive_pooling() -> None:
    features = [torch.randn(2, 3, 24 // 2**i, 8 // 2**i) for i in range(4)]
    expected = torch.cat([F.adaptive_avg_pool2d(x, (3, 1)) for x in features], 1)
    torch.testing.assert_close(ToLowest(4)(features), expected)


def test_conditional_channel_weighting() -> None:
    block = with_statistics(ConditionalChannelWeighting([8, 16], 4, 2))
    assert isinstance(block, ConditionalChannelWeighting)
    first, second = torch.randn(1, 8, 8, 4), torch.randn(1, 16, 4, 2)
    weights = block.cross.weigh(torch.cat((F.avg_pool2d(first[:, 4:], 2), second[:, 8:]), 1))
    halves = (
        first[:, 4:] * F.interpolate(weights[:, :4], scale_factor=2, mode="nearest"),
        second[:, 8:] * weights[:, 4:],
    )
    for i, (x, half, found) in enumerate(zip((first, second), halves, block([first, second]), strict=True)):
        y = block.depthwise[i](half)
        attention = block.spatial[i]
        y = y * torch.sigmoid(attention.excite(torch.relu(attention.squeeze(y.mean((2, 3), keepdim=True)))))  # type: ignore[operator, union-attr]
        # Shuffled: channels of the two halves alternate.
        torch.testing.assert_close(found[:, 0::2], x[:, : x.shape[1] // 2])
        torch.testing.assert_close(found[:, 1::2], y)


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (8, 2)])
def test_dynamic_convolution_gives_every_image_its_own_kernel(groups: int, stride: int) -> None:
    torch.manual_seed(0)
    conv = with_statistics(DynamicConv(8, 8, 3, stride, groups=groups, kernels=3))
    x = torch.randn(2, 8, 6, 4) + 3 * torch.randn(2, 8, 1, 1)  # the mixture goes by the channels' means
    mixture = conv.mixture(x).flatten(1)  # type: ignore[operator]
    kernels = conv.conv.weight  # type: ignore[union-attr]
    expected: list[Tensor] = []
    for image, weights in zip(x, mixture, strict=True):
        mixed = sum(w * kernel for w, kernel in zip(weights, kernels, strict=True))  # type: ignore[arg-type]
        expected.append(F.conv2d(image[None], mixed, None, stride, 1, groups=groups))  # type: ignore[arg-type]
    torch.testing.assert_close(conv(x), torch.cat(expected))
    assert not torch.allclose(mixture[0], mixture[1])


def test_global_context_pools_where_its_mask_looks() -> None:
    context = with_statistics(GlobalContext(8, 4))
    assert isinstance(context, GlobalContext)
    x = torch.randn(2, 8, 6, 4)
    mask = torch.softmax(context.mask.conv(x).reshape(2, 1, 24), 2).reshape(2, 1, 6, 4)
    torch.testing.assert_close(mask.sum((1, 2, 3)), torch.ones(2))
    pooled = (x * mask).sum((2, 3), keepdim=True)
    torch.testing.assert_close(context(x), context.bn(x * context.weigh(pooled)))


def test_dense_context_has_one_context_per_cell_of_the_lowest_branch() -> None:
    context = with_statistics(DenseContext([4, 8], 4))
    assert isinstance(context, DenseContext)
    high, low = torch.randn(1, 4, 8, 4), torch.randn(1, 8, 4, 2)
    mask = context.masks[0]
    looked = high * torch.softmax(mask.conv(high).reshape(1, 1, 32), 2).reshape(1, 1, 8, 4)  # type: ignore[operator, union-attr]
    cells = looked.reshape(1, 4, 4, 2, 2, 2).sum((3, 5))
    weights = context.weigh(torch.cat((cells, low), 1))
    found = context([high, low])
    torch.testing.assert_close(found[0], high * weights[:, :4].repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(found[1], low * weights[:, 4:])


@pytest.mark.parametrize("channels_last", [False, True])
def test_dense_context_of_the_authors_code_cuts_the_memory(channels_last: bool) -> None:
    """Their views, number by number: run m of the C·H·W numbers, taken for C rows of n."""
    context = with_statistics(DenseContext([4, 8], 4, "memory"))
    assert isinstance(context, DenseContext)
    high, low = torch.randn(2, 4, 8, 4), torch.randn(2, 8, 4, 2)
    contexts = torch.empty(2, 4, 4, 2)
    for image in range(2):
        numbers = high[image].reshape(-1)
        looked = torch.softmax(context.masks[0].conv(high[image : image + 1]).reshape(-1), 0)  # type: ignore[operator, union-attr]
        n = 4  # of the 32 places, per cell
        for cell in range(8):
            for channel in range(4):
                row = numbers[cell * 4 * n + channel * n :][:n]
                contexts[image, channel, cell // 2, cell % 2] = (row * looked[cell * n :][:n]).sum()
    weights = context.weigh(torch.cat((contexts, low), 1))
    given = high.to(memory_format=torch.channels_last) if channels_last else high
    found = context([given, low])
    torch.testing.assert_close(found[0], high * weights[:, :4].repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(found[1], low * weights[:, 4:])
    assert not torch.allclose(DenseContext([4, 8], 4)([high, low])[0], found[0])


@pytest.mark.parametrize("hw", [(8, 6), (9, 5), (1, 1)])
def test_attention_rounds_odd_sides_up(hw: tuple[int, int]) -> None:
    attention = with_statistics(LongRangeAttention(4, 4, enlarged=True))
    assert isinstance(attention, LongRangeAttention)
    x = torch.randn(1, 4, *hw)
    pooled = F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
    small = torch.sigmoid(attention.columns(attention.rows(attention.conv(pooled))))
    expected = small.repeat_interleave(2, 2).repeat_interleave(2, 3)[:, :, : hw[0], : hw[1]]
    torch.testing.assert_close(attention(x), expected)


# Width C and kernel K: primary, cheap and attention with a batch norm (2 per channel) each.
C, K = 8, 5
GHOST_PARAMETERS = C * C // 2 + C // 2 * K * K + 2 * C + C * C + 5 * C + 5 * C + 3 * 2 * C
DENSE_PARAMETERS = C * C * K * K + 2 * C + C * C + 5 * C * C + 5 * C * C + 3 * 2 * C


def test_enhanced_convolutions_parameters_are_the_formula() -> None:
    for split, expected in (("ghost", GHOST_PARAMETERS), ("dense", DENSE_PARAMETERS)):
        conv = EnhancedConv(C, K, split)  # type: ignore[arg-type]
        assert sum(p.numel() for p in conv.parameters()) == expected
        assert conv(torch.randn(2, C, 7, 5)).shape == (2, C, 7, 5)
    assert EnhancedConv(C, 3, "ghost", stride=2)(torch.randn(2, C, 8, 6)).shape == (2, C, 4, 3)


def test_fx_can_trace_them() -> None:
    for architecture in (LiteHRNet(8, (1, 1, 1), 1), DiteHRNet(8, (1, 1, 1), 1), EDiteHRNet(8, (1, 1, 1), 1)):
        torch.fx.symbolic_trace(architecture.build())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HRNet(width=0), "width must be at least 1, not 0"),
        (lambda: HRNet(modules=(1, 0, 1)), "at least 1 module"),
        (lambda: HRNet(bottlenecks=0), "bottlenecks"),
        (lambda: HRNet(planes=0), "planes"),
        (lambda: HigherHRNet(blocks=-1), "blocks must not be negative, not -1"),
        (lambda: HigherHRNet(keypoints=0), "keypoints"),
        (lambda: DirHRNet(width=1), "width must be at least 2"),
        (lambda: DirHRNet(expansion=0), "expansion"),
        (lambda: LiteHRNet(width=9), "width must be even, not 9"),
        (lambda: LiteHRNet(reduction=0), "reductions"),
        (lambda: DiteHRNet(groups=(3, 1, 1, 1)), "divide into the groups"),
        (lambda: DiteHRNet(stem_width=8), "stem_width must be at least 16"),
        (lambda: DiteHRNet(kernels=(0, 1, 1, 1)), "kernels"),
        (lambda: EDiteHRNet(mixing="sparse"), "mixing must be"),  # type: ignore[arg-type]
    ],
)
def test_choices_out_of_range_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
