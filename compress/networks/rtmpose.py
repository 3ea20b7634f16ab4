"""RTMPose: Real-Time Multi-Person Pose Estimation based on MMPose. Jiang et al., 2023, arXiv:2303.07399.

Top-down: the backbone CSPNeXt (RTMDet, arXiv:2212.07784) to 1/32, and a head that classifies x and y apart into bins of
half a pixel (SimCC, Li et al., ECCV 2022) after one gated attention unit over the joints (FLASH, Hua et al., ICML
2022). Our counts equal the published ones at 256x192 in mmcv's convention (t 3.34 M / 0.36 G, s 5.47 M / 0.68 G,
m 13.59 M / 1.93 G, l 27.66 M / 4.16 G). Modules have the names of the authors' code (mmpose 1.x), and batch norms the
epsilon of its configurations, 1e-5.

The head joins all places of the last map, so a network is for one input size.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.networks.architecture import check
from compress.networks.blocks import Activation, conv_bn, initialise

POOLS = (5, 9, 13)
"""Windows of the spatial pyramid pooling."""
_STRIDE = 32
_ZERO = 1e-5
"""Least root mean square that ScaleNorm divides by."""


# --- Backbone --------------------------------------------------------------------------------------------------------


class DepthwiseSeparable(nn.Module):
    """A depthwise and a 1x1 convolution, both with batch norm and activation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, act: Activation) -> None:
        super().__init__()
        self.depthwise_conv = conv_bn(inputs, inputs, kernel, groups=inputs, act=act)
        self.pointwise_conv = conv_bn(inputs, outputs, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] → [B,outputs,H,W]."""
        return self.pointwise_conv(self.depthwise_conv(x))  # type: ignore[no-any-return]


class CSPNeXtBlock(nn.Module):
    """A 3x3 convolution to `middle` channels and a depthwise separable one back; the input is added where `skip`."""

    def __init__(self, width: int, middle: int, kernel: int, act: Activation, *, skip: bool) -> None:
        super().__init__()
        self.conv1 = conv_bn(width, middle, 3, act=act)
        self.conv2 = DepthwiseSeparable(middle, width, kernel, act)
        self.skip = skip

    @property
    def last_norm(self) -> nn.BatchNorm2d | None:
        """The batch norm before the input is added (an activation lies between); None where it is not."""
        return self.conv2.pointwise_conv.bn if self.skip else None  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H,W]."""
        y: Tensor = self.conv2(self.conv1(x))
        return y + x if self.skip else y


class ChannelAttention(nn.Module):
    """One 1x1 convolution of the mean over the map, and a hard sigmoid, scale the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Conv2d(width, width, 1)
        self.act = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H,W]."""
        return x * self.act(self.fc(self.global_avgpool(x)))  # type: ignore[no-any-return]


class CSPLayer(nn.Module):
    """Half of the channels through blocks, half past them, joined again (Cross Stage Partial, Wang et al., 2020)."""

    def __init__(self, width: int, middle: int, blocks: int, kernel: int, act: Activation, *, skip: bool) -> None:
        super().__init__()
        half = width // 2
        self.main_conv = conv_bn(width, half, 1, act=act)
        self.short_conv = conv_bn(width, half, 1, act=act)
        self.final_conv = conv_bn(2 * half, width, 1, act=act)
        self.blocks = nn.Sequential(*(CSPNeXtBlock(half, middle, kernel, act, skip=skip) for _ in range(blocks)))
        self.attention = ChannelAttention(2 * half)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H,W]."""
        joined = torch.cat((self.blocks(self.main_conv(x)), self.short_conv(x)), 1)
        return self.final_conv(self.attention(joined))  # type: ignore[no-any-return]


class SpatialPyramidPooling(nn.Module):
    """Maxima over windows of several sizes beside the map itself (He et al., 2015, as in YOLO)."""

    def __init__(self, width: int, act: Activation) -> None:
        super().__init__()
        self.conv1 = conv_bn(width, width // 2, 1, act=act)
        self.poolings = nn.ModuleList(nn.MaxPool2d(window, 1, window // 2) for window in POOLS)
        self.conv2 = conv_bn((1 + len(POOLS)) * (width // 2), width, 1, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H,W]."""
        x = self.conv1(x)
        return self.conv2(torch.cat([x, *(pool(x) for pool in self.poolings)], 1))  # type: ignore[no-any-return]


class CSPNeXt(nn.Module):
    """The backbone to 1/32. The last stage has pyramid pooling, and blocks without additions."""

    def __init__(self, architecture: "RTMPose") -> None:
        super().__init__()
        a = architecture
        stem, half = a.scaled(a.stem), a.scaled(a.stem / 2)
        widths = [a.scaled(width) for width in a.widths]
        self.stem = nn.Sequential(
            conv_bn(3, half, 3, 2, act=a.act), conv_bn(half, half, 3, act=a.act), conv_bn(half, stem, 3, act=a.act)
        )
        inputs = stem
        for number, (width, blocks) in enumerate(zip(widths, a.blocks, strict=True)):
            last = number == len(widths) - 1
            stage = nn.Sequential(conv_bn(inputs, width, 3, 2, act=a.act))
            if last:
                stage.append(SpatialPyramidPooling(width, a.act))
            middle = max(1, round(width // 2 * a.expansions[number]))
            depth = max(1, round(blocks * a.depth))
            stage.append(CSPLayer(width, middle, depth, a.kernels[number], a.act, skip=not last))
            self.add_module(f"stage{number + 1}", stage)
            inputs = width
        self.width = inputs

    @property
    def stages(self) -> list[nn.Module]:
        """From 1/4 to 1/32."""
        return [self.get_submodule(f"stage{number}") for number in range(1, 5)]

    def forward(self, images: Tensor) -> Tensor:
        """[B,3,H,W] → [B,C,H/32,W/32]."""
        x: Tensor = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return x


# --- Head ------------------------------------------------------------------------------------------------------------


class ScaleNorm(nn.Module):
    """v → g · v / root mean square of v, over the last axis (Nguyen and Salazar, 2019). One number g is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """[...,D] → [...,D]."""
        size = torch.mean(x * x, -1, keepdim=True).sqrt().clamp(min=_ZERO)
        return x / size * self.g


class Scale(nn.Module):
    """A factor for every channel of the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[...,D] → [...,D]."""
        return x * self.scale


class GatedAttention(nn.Module):
    """The gated attention unit over tokens (FLASH, Sec. 3.1), without position bias; its weights are squared ReLUs.

    width: of a token. gate: of the two gated parts. key: of queries and keys.
    """

    def __init__(self, width: int, gate: int, key: int, act: nn.Module) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(2, key))
        self.beta = nn.Parameter(torch.rand(2, key))
        self.o = nn.Linear(gate, width, bias=False)
        self.uv = nn.Linear(width, 2 * gate + key, bias=False)
        self.ln = ScaleNorm()
        self.act_fn = act
        self.res_scale = Scale(width)
        self.sqrt_s = math.sqrt(key)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B,N,width] → [B,N,width]."""
        gate = self.o.in_features
        mixed = self.act_fn(self.uv(self.ln(tokens)))
        u, v, base = torch.split(mixed, [gate, gate, self.gamma.shape[1]], 2)
        queries = base * self.gamma[0] + self.beta[0]
        keys = base * self.gamma[1] + self.beta[1]
        attention = functional.relu(torch.matmul(queries, keys.transpose(1, 2)) / self.sqrt_s)
        gated = u * torch.matmul(attention * attention, v)
        return self.res_scale(tokens) + self.o(gated)  # type: ignore[no-any-return]


class SimCCHead(nn.Module):
    """A map per joint, made a token; attention over the joints; bins along x, and along y, for each."""

    def __init__(self, inputs: int, architecture: "RTMPose") -> None:
        super().__init__()
        a = architecture
        rows, columns = (side // _STRIDE for side in a.input_hw)
        width_bins, height_bins = a.split * a.input_hw[1], a.split * a.input_hw[0]
        self.final_layer = nn.Conv2d(inputs, a.keypoints, 7, padding=3)
        self.mlp = nn.Sequential(ScaleNorm(), nn.Linear(rows * columns, a.tokens, bias=False))
        self.gau = GatedAttention(a.tokens, a.gate, a.key, nn.SiLU())
        self.cls_x = nn.Linear(a.tokens, width_bins, bias=False)
        self.cls_y = nn.Linear(a.tokens, height_bins, bias=False)

    def initialise(self) -> None:
        """The authors': linear layers normal with standard deviation 0.01."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[B,C,H/32,W/32] → ([B,K,split·W], [B,K,split·H])."""
        tokens = self.gau(self.mlp(self.final_layer(features).flatten(2)))
        return self.cls_x(tokens), self.cls_y(tokens)


class RTMPoseModule(nn.Module):
    """CSPNeXt and the head."""

    def __init__(self, architecture: "RTMPose") -> None:
        super().__init__()
        self.backbone = CSPNeXt(architecture)
        self.head = SimCCHead(self.backbone.width, architecture)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] → ([B,K,split·W], [B,K,split·H])."""
        return self.head(self.backbone(images))  # type: ignore[no-any-return]


# --- Record ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RTMPose:
    """RTMPose-s by default. depth, width: factors on `blocks`, and on `stem` and `widths`, which are at factor 1.

    kernels: of the depthwise convolutions, and expansions: of the blocks' channels in them, of stages 1/4 to 1/32.
    tokens, gate, key: channels of the head's tokens, of the attention unit's gated parts, and of its queries and keys.
    split: bins per pixel. input_hw: the one size of its input.
    """

    family: ClassVar[str] = "rtmpose"
    approach: ClassVar[str] = "SimCC"
    stride: ClassVar[int] = _STRIDE

    depth: float = 0.33
    width: float = 0.5
    stem: int = 64
    widths: tuple[int, int, int, int] = (128, 256, 512, 1024)
    blocks: tuple[int, int, int, int] = (3, 6, 6, 3)
    kernels: tuple[int, int, int, int] = (5, 5, 5, 5)
    expansions: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    act: Activation = "swish"
    tokens: int = 256
    gate: int = 512
    key: int = 128
    split: int = 2
    keypoints: int = 17
    input_hw: tuple[int, int] = (256, 192)

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check(0 < self.depth < math.inf, "depth must be above 0", self.depth)
        check(0 < self.width < math.inf, "width must be above 0", self.width)
        check(min(self.blocks) >= 1, "every stage must have at least 1 block", self.blocks)
        narrowest = min(self.scaled(self.stem / 2), *(self.scaled(width) // 2 for width in self.widths))
        check(narrowest >= 1, "half of the stem and of every stage must have at least 1 channel", narrowest)
        check(min(self.kernels) >= 1 and all(k % 2 for k in self.kernels), "kernels must be odd", self.kernels)
        check(all(0 < e < math.inf for e in self.expansions), "expansions must be above 0", self.expansions)
        head = (self.tokens, self.gate, self.key, self.split)
        check(min(head) >= 1, "tokens, gate, key and split must be at least 1", head)
        check(self.keypoints >= 1, "keypoints must be at least 1", self.keypoints)
        fits = all(side > 0 and side % self.stride == 0 for side in self.input_hw)
        check(fits, f"input_hw must be positive multiples of {self.stride}", self.input_hw)

    @property
    def output_strides(self) -> tuple[float, ...]:
        """Pixels per bin."""
        return (1 / self.split, 1 / self.split)

    def scaled(self, channels: float) -> int:
        """That many at factor 1, with the width's factor."""
        return int(channels * self.width)

    def build(self) -> RTMPoseModule:
        """The network with random weights."""
        network = RTMPoseModule(self)
        initialise(network)
        network.head.initialise()
        return network
