"""ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design. Ma et al., ECCV 2018.

With SimpleBaseline's head: a baseline of the MobilePoseNet paper's tables. Our counts equal the tables' (7.55 M; 1.28 G
at 256x192, 2.87 G at 384x288, torchstat's).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from compress.networks.blocks import ChannelShuffle, conv_bn, inputs_of
from compress.networks.simple_baseline import MobileBackboneWithHead

STEM = 24
BLOCKS = (4, 8, 4)

# Table 5: channels of the first stage at the paper's four widths.
_FIRST_STAGE = {0.5: 48, 1.0: 116, 1.5: 176, 2.0: 244}


def _branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        conv_bn(inputs, outputs, 1),
        conv_bn(outputs, outputs, 3, stride, groups=outputs, act=None),
        conv_bn(outputs, outputs, 1),
    )


class ShuffleUnit(nn.Module):
    """Half of the channels pass, half go through 1x1, depthwise 3x3 (no ReLU), 1x1; then a shuffle (Fig. 3c)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        changed = width - width // 2
        self.branch = _branch(changed, changed, 1)
        self.shuffle = ChannelShuffle()

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H,W]."""
        changed = inputs_of(self.branch)
        return self.shuffle(torch.cat((x[:, :-changed], self.branch(x[:, -changed:])), 1))  # type: ignore[no-any-return]


class DownsampleUnit(nn.Module):
    """All channels go through both branches, each of stride 2 and half of the output; then a shuffle (Fig. 3d)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.left = nn.Sequential(conv_bn(inputs, inputs, 3, 2, groups=inputs, act=None), conv_bn(inputs, half, 1))
        self.right = _branch(inputs, half, 2)
        self.shuffle = ChannelShuffle()

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,outputs,H/2,W/2]."""
        return self.shuffle(torch.cat((self.left(x), self.right(x)), 1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class ShuffleNetV2(MobileBackboneWithHead):
    """ShuffleNetV2 with SimpleBaseline's head.

    width: 0.5, 1, 1.5 and 2 are the paper's; any other scales the stages of 1x. The stem is 24 and the features are
    1024 (from 2x: 2048) at every width, as in the paper.
    """

    family: ClassVar[str] = "shufflenet_v2"

    @property
    def stage_widths(self) -> tuple[int, int, int]:
        """Channels at 1/8, 1/16 and 1/32; even."""
        first = _FIRST_STAGE.get(self.width, max(2, 2 * round(_FIRST_STAGE[1.0] * self.width / 2)))
        return first, 2 * first, 4 * first

    def backbone(self) -> tuple[nn.Sequential, int]:
        """The backbone to 1/32 and its channels."""
        backbone = nn.Sequential(conv_bn(3, STEM, 3, 2), nn.MaxPool2d(3, 2, 1))
        inputs = STEM
        for width, blocks in zip(self.stage_widths, BLOCKS, strict=True):
            backbone.append(DownsampleUnit(inputs, width))
            backbone.extend(ShuffleUnit(width) for _ in range(blocks - 1))
            inputs = width
        features = 2048 if self.width >= 2 else 1024
        backbone.append(conv_bn(inputs, features, 1))
        return backbone, features
