"""MobileNetV2: Inverted Residuals and Linear Bottlenecks. Sandler et al., CVPR 2018.

With SimpleBaseline's head: a baseline of the MobilePoseNet paper's tables, as mmpose builds it (features of all 1280
channels). ReLU6. Our counts equal the tables' (9.57 M; 1.48 G at 256x192, 3.33 G at 384x288, torchstat's).
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from compress.networks.blocks import conv_bn
from compress.networks.efficient_hrnet import MBConvBlock, multiple_of_8
from compress.networks.simple_baseline import MobileBackboneWithHead

# Table 2: expansion, channels, blocks, stride of the first block.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass(frozen=True)
class MobileNetV2(MobileBackboneWithHead):
    """MobileNetV2 with all channels times `width` (the last 1280 not below), and SimpleBaseline's head."""

    family: ClassVar[str] = "mobilenet_v2"

    def backbone(self) -> tuple[nn.Sequential, int]:
        """The backbone to 1/32 and its channels."""
        inputs = multiple_of_8(32 * self.width)
        backbone = nn.Sequential(conv_bn(3, inputs, 3, 2, act="relu6"))
        for expansion, channels, blocks, stride in STAGES:
            outputs = multiple_of_8(channels * self.width)
            for step in [stride] + [1] * (blocks - 1):
                middle = inputs * expansion
                backbone.append(MBConvBlock(inputs, middle, outputs, 3, step, "relu6", nn.Identity()))
                inputs = outputs
        features = multiple_of_8(1280 * max(1.0, self.width))
        backbone.append(conv_bn(inputs, features, 1, act="relu6"))
        return backbone, features
