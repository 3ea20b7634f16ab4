"""Real-time 2D Multi-Person Pose Estimation on CPU: Lightweight OpenPose. Osokin, arXiv 1811.12004, 2018.

MobileNetV1 to 1/8 with a dilated last part, and stages whose two outputs share their layers. The structure follows the
author's code, where every convolution outside MobileNet has a bias, also before batch norm. Counts at 368x368 in mmcv's
convention: 4.092 M / 8.97 G with one refinement stage, published 4.1 M / 9.0 G.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import Activation, conv_bn
from compress.networks.openpose import Heads, HiddenConv, PafNetwork, ReadsMaps, check_maps, initialise_paf

# The depthwise-separable blocks behind the stem: output channels, stride, dilation. conv4_2 .. conv5_5 stay at 1/8.
MOBILENET = (
    (64, 1, 1),
    (128, 2, 1),
    (128, 1, 1),
    (256, 2, 1),
    (256, 1, 1),
    (512, 1, 1),
    (512, 1, 2),
    (512, 1, 1),
    (512, 1, 1),
    (512, 1, 1),
    (512, 1, 1),
)


class MobileNet(nn.Sequential):
    """MobileNetV1 at 1/8, all channels times `width`."""

    def __init__(self, width: float) -> None:
        channels = round(32 * width)
        super().__init__(conv_bn(3, channels, 3, 2))
        for plan, stride, dilation in MOBILENET:
            self.append(conv_bn(channels, channels, 3, stride, groups=channels, dilation=dilation))
            self.append(conv_bn(channels, round(plan * width), 1))
            channels = round(plan * width)


class Cpm(nn.Module):
    """1x1 to the features' width, three depthwise-separable layers without batch norm added to it, 3x3."""

    def __init__(self, inputs: int, width: int, act: Activation) -> None:
        super().__init__()
        self.align = HiddenConv(inputs, width, 1)
        self.trunk = nn.Sequential()
        for _ in range(3):
            self.trunk.append(HiddenConv(width, width, 3, groups=width, bias=False, act=act))
            self.trunk.append(HiddenConv(width, width, 1, bias=False, act=act))
        self.conv = HiddenConv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] → [B,width,h,w]."""
        x = self.align(x)
        return self.conv(x + self.trunk(x))  # type: ignore[no-any-return]


class InitialStage(nn.Sequential):
    """Three 3x3 convolutions and the heads."""

    def __init__(self, width: int, middle: int, keypoints: int, limbs: int) -> None:
        super().__init__(*(HiddenConv(width, width, 3) for _ in range(3)), Heads(width, middle, keypoints, limbs))


class RefinementBlock(nn.Module):
    """1x1, then two 3x3 with batch norm, the second dilated, added to it: sees as far as one 7x7.

    No `last_norm`: with a ReLU between the batch norm and the sum, a start at zero would never get a gradient.
    """

    def __init__(self, inputs: int, width: int, dilation: int) -> None:
        super().__init__()
        self.align = HiddenConv(inputs, width, 1)
        self.trunk = nn.Sequential(
            HiddenConv(width, width, 3, norm=True), HiddenConv(width, width, 3, dilation=dilation, norm=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] → [B,width,h,w]."""
        x = self.align(x)
        return x + self.trunk(x)  # type: ignore[no-any-return]


class RefinementStage(nn.Sequential, ReadsMaps):
    """Refinement blocks and the heads."""

    def __init__(self, inputs: int, width: int, blocks: int, dilation: int, keypoints: int, limbs: int) -> None:
        super().__init__(
            *(RefinementBlock(width if block else inputs, width, dilation) for block in range(blocks)),
            Heads(width, width, keypoints, limbs),
        )
        self.maps = keypoints + 1 + 2 * limbs


@dataclass(frozen=True)
class LightweightOpenPose:
    """Lightweight OpenPose. keypoints: COCO's 17 and the neck. limbs: with a field each.

    width: multiplies MobileNet's channels. features: channels of all that follows. head: of the initial stage's 1x1.
    refinements: stages; 1 is the published network. blocks: per refinement stage. dilation: of a block's second 3x3.
    act: of the layers between MobileNet and the initial stage.
    """

    family: ClassVar[str] = "lightweight_openpose"
    approach: ClassVar[str] = "PAF"
    stride: ClassVar[int] = 8

    width: float = 1.0
    features: int = 128
    head: int = 512
    refinements: int = 1
    blocks: int = 5
    dilation: int = 2
    act: Activation = "elu"
    keypoints: int = 18
    limbs: int = 19

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check(0.5 / 32 < self.width < math.inf, "width must leave a channel of the stem's 32", self.width)
        check(self.features >= 1, "features must be at least 1", self.features)
        check(self.head >= 1, "head must be at least 1", self.head)
        check(self.refinements >= 0, "refinements must not be negative", self.refinements)
        check(self.blocks >= 1, "blocks must be at least 1", self.blocks)
        check(self.dilation >= 1, "dilation must be at least 1", self.dilation)
        check_maps(self.keypoints, self.limbs)

    @property
    def output_strides(self) -> tuple[int, ...]:
        """8, once per stage."""
        return (8,) * (1 + self.refinements)

    def build(self) -> PafNetwork:
        """The network with random weights."""
        f, maps = self.features, (self.keypoints, self.limbs)
        reads = f + self.keypoints + 1 + 2 * self.limbs
        features = nn.Sequential(MobileNet(self.width), Cpm(round(512 * self.width), f, self.act))
        refinements: list[nn.Module] = [
            RefinementStage(reads, f, self.blocks, self.dilation, *maps) for _ in range(self.refinements)
        ]
        network = PafNetwork(features, InitialStage(f, self.head, *maps), refinements)
        initialise_paf(network)
        return network
