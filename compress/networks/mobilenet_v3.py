"""Searching for MobileNetV3. Howard et al., ICCV 2019.

MobileNetV3-Large with SimpleBaseline's head, as mmpose builds it: its plan differs from the paper's in the 13th and
14th block (the stride comes one block later, the 14th expands to 672, not 960), the first block has an expansion, and
the 960 channels of the last 1x1 are the features. Our counts equal the MobilePoseNet paper's 8.7 M / 1.82 G at 256x256
(torchstat's); MobileNetV3's own plan gives 9.0 M / 1.78 G. Squeeze-and-excitation: to a quarter, hard sigmoid (x+3)/6
as in the paper.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from compress.networks.blocks import Activation, SqueezeExcite, conv_bn
from compress.networks.efficient_hrnet import MBConvBlock, multiple_of_8
from compress.networks.simple_baseline import MobileBackboneWithHead

# kernel, expanded channels, channels, squeeze-and-excitation, activation, stride
PLAN: tuple[tuple[int, int, int, bool, Activation, int], ...] = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hard_swish", 2),
    (3, 200, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 480, 112, True, "hard_swish", 1),
    (3, 672, 112, True, "hard_swish", 1),
    (5, 672, 160, True, "hard_swish", 1),
    (5, 672, 160, True, "hard_swish", 2),
    (5, 960, 160, True, "hard_swish", 1),
)


@dataclass(frozen=True)
class MobileNetV3(MobileBackboneWithHead):
    """MobileNetV3-Large with all channels times `width`, and SimpleBaseline's head."""

    family: ClassVar[str] = "mobilenet_v3"

    def backbone(self) -> tuple[nn.Sequential, int]:
        """The backbone to 1/32 and its channels."""
        inputs = multiple_of_8(16 * self.width)
        backbone = nn.Sequential(conv_bn(3, inputs, 3, 2, act="hard_swish"))
        for kernel, middle, channels, attention, act, stride in PLAN:
            outputs, expanded = multiple_of_8(channels * self.width), multiple_of_8(middle * self.width)
            excite = SqueezeExcite(expanded, 4, gate="hard_sigmoid") if attention else nn.Identity()
            block = MBConvBlock(inputs, expanded, outputs, kernel, stride, act, excite)
            if expanded == inputs:  # mmpose's first block has an expansion all the same
                block.expand = conv_bn(inputs, expanded, 1, act=act)
            backbone.append(block)
            inputs = outputs
        features = multiple_of_8(960 * self.width)
        backbone.append(conv_bn(inputs, features, 1, act="hard_swish"))
        return backbone, features
