"""EfficientHRNet: Efficient Scaling for Lightweight High-Resolution Multi-Person Pose Estimation.

Neff, Sheth, Furgurson, Tabkhi, arXiv 2007.08090, 2020. H0 and its scaled versions H-1 .. H-4, named efficient_hrnet_h0
and efficient_hrnet_h1 .. efficient_hrnet_h4 here (h1 is H-1). An EfficientNet up to 1/32, then HRNet's branches, the
inputs of which are the EfficientNet's features at 1/4 to 1/32, then HigherHRNet's head.

What was ambiguous and what we chose (the authors' code is public; what follows is what reproduces its counts)
- Branch widths: the text says 1.25 per step, the code 1.2455. The widths of the EfficientNet are multiples of 8.
- Every stage passes its inputs, also those from the stage before, through a 3x3 convolution. The authors give these a
  bias, which the batch norm behind them removes again: ours have none (under 0.02 % of the parameters).
- Padding is symmetric; TensorFlow's EfficientNet pads stride-2 convolutions more at the right and bottom.
- The published FLOPs are met exactly by HigherHRNet's convention. The published parameters count every MBConv block
  twice, as a whole and layer by layer (23.3 M for H0, which has 19.7 M): met exactly when counted so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import Activation, SqueezeExcite, conv_bn, initialise
from compress.networks.heads import HigherHead
from compress.networks.hrnet import Module

BACKBONE_STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of the EfficientNet's seven groups, after a stem of stride 2."""

TAPS = (1, 2, 4, 6)
"""The last groups at 1/4, 1/8, 1/16 and 1/32: what the branches start from."""

Four = tuple[int, int, int, int]
Seven = tuple[int, int, int, int, int, int, int]


class MBConvBlock(nn.Module):
    """Inverted bottleneck: 1x1 to `middle` (left out if that is the input), depthwise, attention, 1x1 to `outputs`.

    The input is added where the shape stays. The class has the authors' name: their parameter count goes by names.
    """

    def __init__(
        self, inputs: int, middle: int, outputs: int, kernel: int, stride: int, act: Activation, attention: nn.Module
    ) -> None:
        super().__init__()
        self.expand = nn.Identity() if middle == inputs else conv_bn(inputs, middle, 1, act=act)
        self.depthwise = conv_bn(middle, middle, kernel, stride, groups=middle, act=act)
        self.attention = attention
        self.project = conv_bn(middle, outputs, 1, act=None)
        self.skip = stride == 1 and inputs == outputs

    @property
    def last_norm(self) -> nn.BatchNorm2d | None:
        """The batch norm before the input is added; None where it is not."""
        return self.project.bn if self.skip else None  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,outputs,H/stride,W/stride]."""
        y: Tensor = self.project(self.attention(self.depthwise(self.expand(x))))
        return y + x if self.skip else y


class Backbone(nn.Module):
    """EfficientNet without its last 1x1 convolution. A block squeezes to a quarter of its input's channels."""

    def __init__(self, architecture: "EfficientHRNet") -> None:
        super().__init__()
        a = architecture
        self.stem = conv_bn(3, a.stem, 3, 2, act=a.act)
        self.groups = nn.ModuleList()
        inputs = a.stem
        for width, repeats, kernel, expansion, stride in zip(
            a.backbone_widths, a.repeats, a.kernels, a.expansions, BACKBONE_STRIDES, strict=True
        ):
            group = nn.Sequential()
            for step in [stride] + [1] * (repeats - 1):
                middle = inputs * expansion
                attention = SqueezeExcite(middle, squeezed=max(1, inputs // 4), act=a.act)
                group.append(MBConvBlock(inputs, middle, width, kernel, step, a.act, attention))
                inputs = width
            self.groups.append(group)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B,3,H,W] → the features at 1/4, 1/8, 1/16 and 1/32."""
        x = self.stem(images)
        features = []
        for group in self.groups:
            x = group(x)
            features.append(x)
        return [features[tap] for tap in TAPS]


class Stages(nn.Module):
    """HRNet's branches, fed by a backbone; the last stage drops to the highest resolution.

    inputs: channels of the backbone's four features. branches, modules: per stage. A new branch starts from its feature
    through a 3x3 convolution of stride input_strides[branch]; one that goes on passes a 3x3 convolution, too.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        widths: Sequence[int],
        branches: Sequence[int],
        modules: Sequence[int],
        blocks: int,
        input_strides: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        self.entries = nn.ModuleList()
        self.stages = nn.ModuleList()
        before = 0
        for stage, (now, count) in enumerate(zip(branches, modules, strict=True)):
            going_on = [conv_bn(widths[i], widths[i], 3) for i in range(before)]
            new = [conv_bn(inputs[i], widths[i], 3, input_strides[i]) for i in range(before, now)]
            self.entries.append(nn.ModuleList(going_on + new))
            outputs = [now] * (count - 1) + [1 if stage == len(branches) - 1 else now]
            self.stages.append(nn.Sequential(*(Module(widths[:now], blocks, n) for n in outputs)))
            before = now

    def forward(self, inputs: list[Tensor]) -> Tensor:
        """The backbone's features → [B,widths[0],H/4,W/4]."""
        features: list[Tensor] = []
        for entries, stage in zip(self.entries, self.stages, strict=True):
            assert isinstance(entries, nn.ModuleList)
            features += inputs[len(features) : len(entries)]
            features = stage([entry(x) for entry, x in zip(entries, features, strict=True)])
        return features[0]


class EfficientHRNetModule(nn.Module):
    """Backbone, branches, head."""

    def __init__(self, architecture: "EfficientHRNet") -> None:
        super().__init__()
        a = architecture
        self.backbone = Backbone(a)
        inputs = [a.backbone_widths[tap] for tap in TAPS]
        self.stages = Stages(inputs, a.branch_widths, (2, 3, 4), a.modules, a.blocks)
        self.head = HigherHead(a.branch_widths[0], a.keypoints, a.branch_widths[0], a.head_blocks)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] → ([B,2K,H/4,W/4], [B,K,H/2,W/2])."""
        return self.head(self.stages(self.backbone(images)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class EfficientHRNet:
    """EfficientHRNet; the defaults are H0.

    stem, backbone_widths, repeats, kernels, expansions, act: of the EfficientNet and its seven groups. branch_widths:
    per resolution. modules: of the stages of 2, 3 and 4 branches. blocks: residual blocks per branch and module.
    """

    family: ClassVar[str] = "efficient_hrnet"
    approach: ClassVar[str] = "bottom-up AE"
    stride: ClassVar[int] = 32
    output_strides: ClassVar[tuple[int, ...]] = (4, 2)

    stem: int = 32
    backbone_widths: Seven = (16, 24, 40, 80, 112, 192, 320)
    repeats: Seven = (1, 2, 2, 3, 3, 4, 1)
    kernels: Seven = (3, 3, 5, 3, 5, 5, 3)
    expansions: Seven = (1, 6, 6, 6, 6, 6, 6)
    act: Activation = "swish"
    branch_widths: Four = (32, 64, 128, 256)
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 2
    head_blocks: int = 2
    keypoints: int = 17

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        widths = (self.stem, *self.backbone_widths, *self.branch_widths)
        check(min(widths) >= 1, "widths must be at least 1", widths)
        check(min(self.repeats) >= 1, "repeats must be at least 1", self.repeats)
        check(min(self.kernels) >= 1 and all(k % 2 for k in self.kernels), "kernels must be odd", self.kernels)
        check(min(self.expansions) >= 1, "expansions must be at least 1", self.expansions)
        check(min(self.modules) >= 1, "every stage must have a module", self.modules)
        check(self.blocks >= 0, "blocks must not be negative", self.blocks)
        check(self.head_blocks >= 0, "head_blocks must not be negative", self.head_blocks)
        check(self.keypoints >= 1, "keypoints must be at least 1", self.keypoints)

    def build(self) -> EfficientHRNetModule:
        """The network with random weights."""
        network = EfficientHRNetModule(self)
        initialise(network)
        network.head.initialise_tags()
        return network


_SCALING = {
    0: (1.0, 1.0, (1, 4, 3)),
    -1: (0.909, 0.833, (1, 3, 3)),
    -2: (0.826, 0.694, (1, 2, 3)),
    -3: (0.751, 0.578, (1, 1, 3)),
    -4: (0.684, 0.483, (1, 1, 2)),
}
"""Per phi: the EfficientNet's width and depth relative to B0 (Table 1 of the paper), modules per stage."""


def scaled_efficient_hrnet(phi: int) -> EfficientHRNet:
    """H0 .. H-4: compound scaling with phi in 0 .. -4."""
    width, depth, modules = _SCALING[phi]
    b0 = EfficientHRNet()
    return EfficientHRNet(
        stem=multiple_of_8(width * b0.stem),
        backbone_widths=tuple(multiple_of_8(width * w) for w in b0.backbone_widths),  # type: ignore[arg-type]
        repeats=tuple(math.ceil(depth * n) for n in b0.repeats),  # type: ignore[arg-type]
        branch_widths=scaled_branch_widths(phi),
        modules=modules,
    )


def scaled_branch_widths(phi: int) -> Four:
    """32·2^i per branch, times 1.2455 per step of phi, rounded up."""
    return tuple(math.ceil(32 * 2**i * 1.2455**phi) for i in range(4))


def multiple_of_8(width: float) -> int:
    """The nearest multiple of 8 that is at least 8 and at least nine tenths of the width (EfficientNet's rule)."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded
