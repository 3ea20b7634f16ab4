"""Counts against formulas written out here, against torchstat's published code, and against ptflops."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.measure.counting import Count, count, trace
from compress.networks.blocks import Bottleneck, conv_bn
from compress.networks.hrnet import Backbone, HRNetModule


class Functional(nn.Module):
    """What a user may write: kernels that are computed, products of tensors, parameters outside of any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(4, 8, 3, 3, 3))
        self.gate = nn.Linear(3, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.gate(x.mean((2, 3)))[0].softmax(0)
        y = F.conv2d(x, torch.einsum("n,nabcd->abcd", weight, self.kernels), padding=1)
        tokens = y.flatten(2)
        return (tokens @ tokens.transpose(1, 2)).softmax(-1) @ tokens


def test_one_convolution_is_the_formula() -> None:
    c = count(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()), (32, 16))
    outputs = 8 * 16 * 8
    macs, with_rest = 27 * outputs, 27 * outputs + outputs + 2 * outputs + outputs
    assert c == Count(8 * 27 + 8 + 16, macs, macs, with_rest, with_rest, with_rest, 8 * 27 + 8 + 16, ())


def test_functional_work_is_counted() -> None:
    c = count(Functional(), (16, 16))
    gate, mixing, convolution, products = 12, 4 * 8 * 27, 8 * 27 * 256, 2 * 8 * 8 * 256
    assert c.macs == gate + mixing + convolution + products
    assert c.hrsum == gate  # the papers' tools see modules only
    assert c.ts == gate + convolution  # except torchstat's extension for computed kernels
    assert (c.params, c.uncounted) == (4 * 8 * 27 + 12, ())
    assert sum(layer.params for layer in trace(Functional(), (16, 16)).layers) == c.params


def test_transposed_and_grouped_convolutions() -> None:
    c = count(nn.Sequential(nn.ConvTranspose2d(3, 8, 4, 2, 1)), (16, 16))
    weights = 3 * 8 * 16
    assert (c.macs, c.hrsum) == (weights * 16 * 16, weights * 32 * 32)
    assert c.mmcv == c.ts == c.macs + 8 * 32 * 32
    assert count(nn.Sequential(nn.Conv2d(3, 6, 5, padding=2, groups=3)), (8, 8)).macs == 2 * 3 * 25 * 64


def test_attention_is_counted() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            tokens = F.pad(x, (0, 0, 0, 0, 0, 1)).flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens)[0]

    n, width = 64, 4
    c = count(Attention(), (8, 8))
    assert c.macs == 4 * n * width * width + 2 * n * n * width  # four projections, two products
    assert c.uncounted == ()


ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU6(),
    nn.ELU(),
    nn.SiLU(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Sigmoid(),
    nn.GELU(),
    nn.LeakyReLU(),
    nn.PReLU(),
    nn.Mish(),
    nn.Softplus(),
    nn.Tanh(),
    nn.SELU(),
    nn.CELU(),
    nn.Hardtanh(),
    nn.Softmax(1),
    nn.Dropout(),
    nn.SiLU(inplace=True),
    nn.Hardswish(inplace=True),
]
OTHERS = [
    nn.GroupNorm(2, 8),
    nn.InstanceNorm2d(8),
    nn.MaxPool2d(2),
    nn.AvgPool2d(2),
    nn.AdaptiveAvgPool2d(3),
    nn.AdaptiveMaxPool2d(1),
    nn.Upsample(scale_factor=2),
    nn.Upsample(scale_factor=2, mode="bilinear"),
    nn.PixelShuffle(2),
    nn.ChannelShuffle(2),
    nn.ZeroPad2d(1),
    nn.ReflectionPad2d(1),
    nn.Unfold(3),
]


@pytest.mark.parametrize("module", ACTIVATIONS + OTHERS, ids=lambda m: type(m).__name__)
def test_nothing_ordinary_is_uncounted(module: nn.Module) -> None:
    c = count(nn.Sequential(nn.Conv2d(3, 8, 1), module), (8, 8))
    assert c.uncounted == ()
    assert c.macs == 24 * 64


@pytest.mark.parametrize(
    ("module", "mmcv", "ts"),
    [
        (nn.ReLU6(), 512, 512),
        (nn.ELU(), 512, 512),
        (nn.SiLU(), 0, 0),
        (nn.Hardswish(), 0, 0),
        (nn.Sigmoid(), 0, 0),
        (nn.BatchNorm2d(8, affine=False), 512, 512),
        (nn.MaxPool2d(3, 2, 1), 512, 8 * 16 * 9),
        (nn.AvgPool2d(2), 512, 512),
        (nn.AdaptiveAvgPool2d(1), 512, 8 * 9 * 9),
        (nn.AdaptiveAvgPool2d(4), 512, 8 * 12 * 12),
        (nn.Upsample(scale_factor=2), 2048, 256),
    ],
)
def test_conventions_of_other_layers(module: nn.Module, mmcv: int, ts: int) -> None:
    c = count(nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), module), (8, 8))
    assert (c.mmcv - c.macs, c.ts - c.macs) == (mmcv, ts)


def test_torchstat_counts_a_module_once() -> None:
    relu = nn.ReLU()
    c = count(nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), relu, nn.Conv2d(8, 4, 1, bias=False), relu), (8, 8))
    assert c.ts - c.macs == 4 * 64  # its last call
    assert c.mmcv - c.macs == 12 * 64


def test_operators_without_a_rule_are_named() -> None:
    class Sampler(nn.Module):
        def forward(self, x: Tensor) -> Any:
            grid = torch.zeros(1, 4, 4, 2, device=x.device)
            return torch.fft.rfft2(F.grid_sample(x, grid, align_corners=False))

    assert count(Sampler(), (8, 8)).uncounted == ("_fft_r2c", "grid_sampler_2d")


def test_a_network_that_reads_values_is_counted_on_the_cpu() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return y if y.sum().item() > 1e9 else y + torch.ones(1)

    network = Reader().train()
    assert count(network, (8, 8)).macs == 12 * 64
    assert network.training
    assert not network.conv.weight.is_meta


def test_class_names_count_blocks_twice() -> None:
    class MBConvBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 4, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    c = count(nn.Sequential(MBConvBlock(), nn.Conv2d(4, 5, 1, bias=False)), (8, 8))
    assert (c.params, c.params_by_class_name) == (12 + 20, 2 * 12 + 20)


def test_layers_know_their_outputs() -> None:
    found = trace(nn.Sequential(conv_bn(3, 8, 3), nn.Flatten()), (8, 8))
    assert found.outputs == ((1, 512),)
    assert [(layer.path, layer.kind, layer.output_bytes) for layer in found.layers] == [
        ("0.conv", "Conv2d", 2048),
        ("0.bn", "BatchNorm2d", 2048),
        ("0.act", "ReLU", 2048),
        ("1", "Flatten", 0),
    ]


def small_hrnet_w16() -> nn.Module:
    """Small HRNet-W16 (Lite-HRNet paper, Table 3) as the repository has it, but for its shared ReLU modules."""
    backbone = Backbone(16, (1, 1, 1), 2)
    backbone.stage1 = nn.Sequential(Bottleneck(64, 32))
    backbone.first_branch = conv_bn(128, 16, 3)
    backbone.new_branches[0] = conv_bn(128, 32, 3, 2)
    return HRNetModule(backbone, 16, 17)


def test_torchstat_of_small_hrnet() -> None:
    network = small_hrnet_w16()
    c = count(network, (256, 192))
    assert c.params / 1e6 == pytest.approx(1.285, abs=0.0005)
    assert c.macs / 1e9 == pytest.approx(0.571, abs=0.0005)
    # The repository shares one ReLU per block, and torchstat counts only its last call.
    shared = 64 * 128 * 96 + 2 * 32 * 64 * 48 + 2 * sum(16 * 64 * 48 // 2**b for t in (2, 3, 4) for b in range(t))
    assert (c.ts - shared) / 2**30 == pytest.approx(0.5387, abs=0.00005)


def test_torchstat_of_mobilenet_v2_with_the_deconvolution_head() -> None:
    def inverted(inputs: int, outputs: int, stride: int, expansion: int) -> nn.Module:
        middle = inputs * expansion
        expand = [] if expansion == 1 else [conv_bn(inputs, middle, 1, act="relu6")]
        depthwise = conv_bn(middle, middle, 3, stride, groups=middle, act="relu6")
        return nn.Sequential(*expand, depthwise, conv_bn(middle, outputs, 1, act=None))

    parts: list[nn.Module] = [conv_bn(3, 32, 3, 2, act="relu6")]
    width = 32
    for expansion, outputs, repeats, stride in [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]:
        for index in range(repeats):
            parts.append(inverted(width, outputs, stride if index == 0 else 1, expansion))
            width = outputs
    parts.append(conv_bn(320, 1280, 1, act="relu6"))
    for inputs in (1280, 256, 256):
        parts += [nn.ConvTranspose2d(inputs, 256, 4, 2, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU()]
    c = count(nn.Sequential(*parts, nn.Conv2d(256, 17, 1)), (256, 192))
    assert c.params / 1e6 == pytest.approx(9.570, abs=0.0005)
    assert c.ts / 2**30 == pytest.approx(1.478, abs=0.0005)


class Attention(nn.Module):
    """Self-attention of n cells of c channels in h heads, written in several ways; `table`: made in forward."""

    def __init__(self, how: str, table: bool, c: int, heads: int) -> None:
        super().__init__()
        self.how, self.table, self.heads = how, table, heads
        self.stem = nn.Conv2d(3, c, 8, 8)
        self.mha = nn.MultiheadAttention(c, heads, batch_first=True)
        self.layer = nn.TransformerEncoderLayer(c, heads, 2 * c, batch_first=True)
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        t = self.stem(x).flatten(2).transpose(1, 2)
        b, n, c = t.shape
        if self.table:
            t = t + torch.arange(n, dtype=torch.float32)[:, None] * torch.tensor([0.1] * c)
        if self.how == "table of values":
            t = t * float(t[0, 0, 0])
        if self.how == "encoder":
            return self.layer(t)  # type: ignore[no-any-return]
        if self.how == "mha":
            return self.mha(t, t, t, need_weights=False)[0]  # type: ignore[no-any-return]
        q, k, v = self.qkv(t).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.how in ("sdpa", "table of values"):
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.how == "einsum":
            y = torch.einsum("bhij,bhjd->bhid", torch.einsum("bhid,bhjd->bhij", q, k).softmax(-1), v)
        elif self.how == "baddbmm":
            q, k, v = (one.flatten(0, 1) for one in (q, k, v))
            y = torch.baddbmm(torch.zeros(1, 1, 1, device=q.device), q, k.mT).softmax(-1).bmm(v)
            y = y.unflatten(0, (b, self.heads))
        else:
            y = (q @ k.mT).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, c))  # type: ignore[no-any-return]


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("how", ["matmul", "einsum", "baddbmm", "sdpa", "mha", "encoder", "table of values"])
def test_attention_counts_the_same_however_it_is_written(how: str, table: bool) -> None:
    c, heads, n = 32, 4, 8 * 6
    c_, fast = count(Attention(how, table, c, heads), (64, 48)), torch.backends.mha.get_fastpath_enabled()
    stem, projections, products = n * c * 3 * 64, n * c * 4 * c, 2 * heads * n * n * (c // heads)
    feed_forward = 2 * n * c * 2 * c if how == "encoder" else 0
    assert c_.macs == stem + projections + products + feed_forward
    assert c_.uncounted == ()
    assert fast


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], table: bool) -> None:
        super().__init__()
        self.stem, self.table = nn.Conv2d(3, 8, 8, 8), table
        self.rnn = kind(8, 16, batch_first=True)  # type: ignore[call-arg]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        if self.table:
            x = x * float(x[0, 0, 0])  # so that it runs on the CPU
        return self.rnn(x)[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_are_counted_or_named(kind: type[nn.RNNBase], gates: int, table: bool) -> None:
    c, n = count(Recurrent(kind, table), (64, 48)), 8 * 6
    assert c.macs == n * 8 * 3 * 64 + n * gates * 16 * (8 + 16)
    assert c.uncounted == ()
