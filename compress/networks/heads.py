"""Heads that turn the highest-resolution features into heatmaps and tags."""

import torch
from torch import Tensor, nn

from compress.networks.blocks import ResidualBlock

_TAG_STD = 0.05
"""Standard deviation of the tags' random weights, fifty times the heatmaps'. At equal tags the push has no gradient,
and training from scratch stays there: with 0.001 the tags of all people were equal after 16,000 pictures."""


class HeatmapHead(nn.Module):
    """One 1x1 convolution to K heatmaps of one person: HRNet's head (Sun et al., CVPR 2019)."""

    def __init__(self, width: int, keypoints: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, keypoints, 1)

    def forward(self, features: Tensor) -> tuple[Tensor]:
        """[B,C,H/4,W/4] → ([B,K,H/4,W/4],)."""
        return (self.conv(features),)


class SingleHead(nn.Module):
    """One 1x1 convolution to K heatmaps and K tags: the `*` networks of the DIR-BHRNet paper.

    The paper's text says 3x3; its published counts are met exactly by 1x1.
    """

    def __init__(self, width: int, keypoints: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * keypoints, 1)
        self.keypoints = keypoints

    def initialise_tags(self) -> None:
        """See _TAG_STD."""
        nn.init.normal_(self.conv.weight[self.keypoints :], std=_TAG_STD)

    def forward(self, features: Tensor) -> tuple[Tensor]:
        """[B,C,H/4,W/4] → ([B,2K,H/4,W/4],)."""
        return (self.conv(features),)


class HigherHead(nn.Module):
    """HigherHRNet's head (Cheng et al., CVPR 2020): heatmaps and tags at 1/4, heatmaps again at 1/2.

    The second output sees the first output and the features, upsampled by a transposed convolution. The first output
    comes first (the authors' code has it last): so a narrower network's weights are the leading slice of a wider one's.
    """

    def __init__(self, width: int, keypoints: int, filters: int = 32, blocks: int = 4) -> None:
        super().__init__()
        self.quarter_maps = nn.Conv2d(width, 2 * keypoints, 1)
        self.keypoints = keypoints
        self.deconv = nn.Sequential(
            nn.ConvTranspose2d(width + 2 * keypoints, filters, 4, 2, 1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(inplace=True),
        )
        self.blocks = nn.Sequential(*(ResidualBlock(filters) for _ in range(blocks)))
        self.half_maps = nn.Conv2d(filters, keypoints, 1)

    def initialise_tags(self) -> None:
        """See _TAG_STD."""
        nn.init.normal_(self.quarter_maps.weight[self.keypoints :], std=_TAG_STD)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[B,C,H/4,W/4] → ([B,2K,H/4,W/4], [B,K,H/2,W/2])."""
        quarter = self.quarter_maps(features)
        upsampled = self.deconv(torch.cat((quarter, features), 1))
        return quarter, self.half_maps(self.blocks(upsampled))
