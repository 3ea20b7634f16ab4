"""Lightweight HRNet: A Lightweight Network for Bottom-Up Human Pose Estimation. Liao et al., Engineering Letters, 2024.

EfficientHRNet's layout with a plainer backbone (Lite Conv Modules), a stage of two branches and one of four, and a
channel exchange before the branches (`cem`). lightweight_hrnet_r0, _r1, _r2 are r = 0, -1, -2. No public code: a
reconstruction from Tables I to IV and the counts.

What was ambiguous and what we chose
- Table I: the stem's output is printed as 448x448 and the plain convolutions to 96 and 264 channels with stride 2;
  the other sizes say 224x224 and stride 1.
- The Lite Conv Module's convolutions are dense 3x3 by the counts. `separable`, after the ShuffleNet that the text
  names, has 2 to 3 % fewer parameters.
- Modules per stage (1 and 3), residual blocks (2 per branch, 2 in the head) and the 3x3 convolution before every
  branch of every stage are EfficientHRNet's. So the parameters are the published ones to the printed digit; the FLOPs
  are 0.5 % under them at r = 0 (15.52 for 15.6) and equal to the printed digit at r = -1 and -2.
- The channel exchange is given by its result (Table IV): `ChannelExchange` is the order that yields it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import ChannelShuffle, Rearrangement, conv_bn, initialise, inputs_of
from compress.networks.efficient_hrnet import Four, Seven, Stages, scaled_branch_widths, scaled_efficient_hrnet
from compress.networks.heads import HigherHead

LiteConvKind = Literal["dense", "separable"]

TAPS = (1, 2, 4, 6)
"""The layers after the stem's that give A_1 .. A_4, at 1/4, 1/8, 1/16 and 1/32."""


class LiteConvModule(nn.Module):
    """Halves the resolution and widens (Sec. III-C, Fig. 2).

    Two convolutions of stride 2 give `inputs` and `outputs - inputs` channels; these are concatenated and shuffled.
    Then one half of the channels passes a third convolution; concatenated and shuffled again.
    """

    def __init__(self, inputs: int, outputs: int, kind: LiteConvKind) -> None:
        super().__init__()
        half = outputs // 2
        if kind == "dense":
            self.keep: nn.Module = conv_bn(inputs, inputs, 3, 2)
            self.widen: nn.Module = conv_bn(inputs, outputs - inputs, 3, 2)
            self.deepen: nn.Module = conv_bn(half, half, 3)
        else:  # the paths of ShuffleNetV2's units
            self.keep = _separable(inputs, inputs, 2)
            self.widen = nn.Sequential(
                conv_bn(inputs, outputs - inputs, 1), _separable(outputs - inputs, outputs - inputs, 2)
            )
            self.deepen = nn.Sequential(conv_bn(half, half, 1), _separable(half, half, 1))
        self.shuffle, self.last_shuffle = ChannelShuffle(2), ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] → [B,outputs,H/2,W/2]."""
        widened = self.shuffle(torch.cat((self.keep(x), self.widen(x)), 1))
        changed = inputs_of(self.deepen)
        return self.last_shuffle(torch.cat((widened[:, :-changed], self.deepen(widened[:, -changed:])), 1))  # type: ignore[no-any-return]


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3 without activation, then 1x1."""
    return nn.Sequential(conv_bn(inputs, inputs, 3, stride, groups=inputs, act=None), conv_bn(inputs, outputs, 1))


class ChannelExchange(Rearrangement):
    """The channel exchange module (Sec. III-D) up to its convolutions, which are those before the branches.

    All features are upsampled to the highest resolution. Half of each one's channels stay. The other halves are cut
    into quarters; the first quarters of A_3, A_2, A_4, A_1 in this order, then the second ones and so on make one long
    map, of which A_1', A_2', A_3', A_4' take as many channels as they gave. This gives Table IV.
    """

    ORDER = (2, 1, 3, 0)

    def __init__(self, widths: Four) -> None:
        super().__init__()
        self.widths = widths
        self.upsample = nn.ModuleList(
            nn.Identity() if i == 0 else nn.Upsample(scale_factor=2**i, mode="nearest") for i in range(4)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """A list of [B,widths[i],H/2^i,W/2^i] → a list of [B,widths[i],H,W]."""
        enlarged = [upsample(x) for upsample, x in zip(self.upsample, features, strict=True)]
        if self.order is not None:
            return self.rearranged(torch.cat(enlarged, 1))
        parts = [  # per feature four quarters of one half, and the other half
            torch.split(x, [width // 8] * 4 + [width // 2], 1) for x, width in zip(enlarged, self.widths, strict=True)
        ]
        mixed = torch.cat([parts[i][quarter] for quarter in range(4) for i in self.ORDER], 1)
        taken = torch.split(mixed, [width // 2 for width in self.widths], 1)
        return [torch.cat((new, part[4]), 1) for new, part in zip(taken, parts, strict=True)]


class Backbone(nn.Module):
    """Table I: the stem, four Lite Conv Modules and two plain convolutions."""

    def __init__(self, widths: Seven, kind: LiteConvKind) -> None:
        super().__init__()
        stem, *rest = widths
        self.stem = conv_bn(3, stem, 3, 2)
        self.layers = nn.ModuleList()
        inputs = stem
        for index, width in enumerate(rest, start=1):
            plain = index in (4, 6)
            self.layers.append(conv_bn(inputs, width, 3) if plain else LiteConvModule(inputs, width, kind))
            inputs = width

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B,3,H,W] → A_1 .. A_4 at 1/4, 1/8, 1/16 and 1/32."""
        features = [self.stem(images)]
        for layer in self.layers:
            features.append(layer(features[-1]))
        return [features[tap] for tap in TAPS]


class LightweightHRNetModule(nn.Module):
    """Backbone, channel exchange if any, branches, head."""

    def __init__(self, architecture: "LightweightHRNet") -> None:
        super().__init__()
        a = architecture
        inputs = (a.backbone_widths[1], a.backbone_widths[2], a.backbone_widths[4], a.backbone_widths[6])
        self.backbone = Backbone(a.backbone_widths, a.lite_conv)
        self.exchange = ChannelExchange(inputs) if a.exchange else nn.Identity()
        # The exchanged features have the highest resolution: the convolutions before the branches bring it down.
        strides = (1, 2, 4, 8) if a.exchange else (1, 1, 1, 1)
        self.stages = Stages(inputs, a.branch_widths, (2, 4), a.modules, a.blocks, strides)
        self.head = HigherHead(a.branch_widths[0], a.keypoints, a.branch_widths[0], a.head_blocks)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] → ([B,2K,H/4,W/4], [B,K,H/2,W/2])."""
        return self.head(self.stages(self.exchange(self.backbone(images))))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LightweightHRNet:
    """Lightweight HRNet; the defaults are r = 0 without the channel exchange.

    backbone_widths: of Table I's seven layers. branch_widths: per resolution. modules: of the stages of 2 and 4
    branches. blocks: residual blocks per branch and module. exchange: the channel exchange module.
    """

    family: ClassVar[str] = "lightweight_hrnet"
    approach: ClassVar[str] = "bottom-up AE"
    stride: ClassVar[int] = 32
    output_strides: ClassVar[tuple[int, ...]] = (4, 2)

    backbone_widths: Seven = (16, 24, 40, 80, 112, 192, 320)
    branch_widths: Four = (32, 64, 128, 256)
    lite_conv: LiteConvKind = "dense"
    exchange: bool = False
    modules: tuple[int, int] = (1, 3)
    blocks: int = 2
    head_blocks: int = 2
    keypoints: int = 17

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        widths = self.backbone_widths
        check(min(widths + self.branch_widths) >= 1, "widths must be at least 1", widths + self.branch_widths)
        for layer in (1, 2, 3, 5):
            check(widths[layer] % 2 == 0, "a Lite Conv Module's width must be even", widths[layer])
            check(widths[layer] > widths[layer - 1], "a Lite Conv Module must widen its input", widths)
        if self.exchange:
            check(
                all(widths[tap] % 8 == 0 for tap in TAPS), "exchanged features' widths must be multiples of 8", widths
            )
        check(min(self.modules) >= 1, "every stage must have a module", self.modules)
        check(self.blocks >= 0, "blocks must not be negative", self.blocks)
        check(self.head_blocks >= 0, "head_blocks must not be negative", self.head_blocks)
        check(self.keypoints >= 1, "keypoints must be at least 1", self.keypoints)

    def build(self) -> LightweightHRNetModule:
        """The network with random weights."""
        network = LightweightHRNetModule(self)
        initialise(network)
        network.head.initialise_tags()
        return network


def scaled_lightweight_hrnet(r: int, exchange: bool = False) -> LightweightHRNet:
    """r in 0, -1, -2 (eq. 2 and 3): the widths are EfficientHRNet's."""
    return LightweightHRNet(scaled_efficient_hrnet(r).backbone_widths, scaled_branch_widths(r), exchange=exchange)
