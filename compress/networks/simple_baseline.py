"""Simple Baselines for Human Pose Estimation and Tracking. Xiao, Wu, Wei, ECCV 2018.

Top-down: a ResNet (He et al., CVPR 2016) to 1/32, three transposed convolutions to 1/4, K heatmaps. Nothing ambiguous:
the authors' code is public (stride in the bottleneck's 3x3) and our counts equal theirs (R50 34.0 M / 8.99 G, R101
53.0 M / 12.4 G, R152 68.6 M / 15.8 G at 256x192 in their convention; they cut to 8.9 and 15.7).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import Bottleneck, conv_bn, initialise


class ResNetStage(nn.Sequential):
    """`blocks` bottlenecks of the given planes; the first one has the stride."""

    def __init__(self, inputs: int, planes: int, blocks: int, stride: int) -> None:
        super().__init__(
            Bottleneck(inputs, planes, stride), *(Bottleneck(4 * planes, planes) for _ in range(blocks - 1))
        )


class DeconvHead(nn.Module):
    """Per entry of `filters` a transposed convolution 4x4 of stride 2, batch norm and ReLU; then 1x1 to K maps."""

    def __init__(self, inputs: int, filters: Sequence[int], keypoints: int) -> None:
        super().__init__()
        self.deconvs = nn.Sequential()
        for outputs in filters:
            self.deconvs.append(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False))
            self.deconvs.append(nn.BatchNorm2d(outputs))
            self.deconvs.append(nn.ReLU(inplace=True))
            inputs = outputs
        self.maps = nn.Conv2d(inputs, keypoints, 1)

    def forward(self, features: Tensor) -> tuple[Tensor]:
        """[B,C,h,w] → ([B,K,2^n·h,2^n·w],), n transposed convolutions."""
        return (self.maps(self.deconvs(features)),)


class BackboneAndHead(nn.Module):
    """A classification backbone to 1/32 and the deconvolution head."""

    def __init__(self, backbone: nn.Module, head: DeconvHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """[B,3,H,W] → ([B,K,2^n·H/32,2^n·W/32],)."""
        return self.head(self.backbone(images))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SimpleBaseline:
    """ResNet and deconvolution head. blocks: per stage of 1/4 .. 1/32. width: of the stem, and planes of 1/4.

    filters: of each transposed convolution; each doubles the resolution.
    """

    family: ClassVar[str] = "simple_baseline"
    approach: ClassVar[str] = "top-down"
    stride: ClassVar[int] = 32

    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    filters: tuple[int, ...] = (256, 256, 256)
    keypoints: int = 17

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check(min(self.blocks) >= 1, "every stage must have at least 1 block", self.blocks)
        check(self.width >= 1, "width must be at least 1", self.width)
        check_head(self.filters, self.keypoints)

    @property
    def output_strides(self) -> tuple[int, ...]:
        """4 with three transposed convolutions."""
        return (head_stride(self.filters),)

    def build(self) -> BackboneAndHead:
        """The network with random weights."""
        planes = [self.width * 2**i for i in range(4)]
        backbone = nn.Sequential(conv_bn(3, self.width, 7, 2), nn.MaxPool2d(3, 2, 1))
        inputs = self.width
        for stage, (width, blocks) in enumerate(zip(planes, self.blocks, strict=True)):
            backbone.append(ResNetStage(inputs, width, blocks, 1 if stage == 0 else 2))
            inputs = 4 * width
        network = BackboneAndHead(backbone, DeconvHead(inputs, self.filters, self.keypoints))
        initialise(network)
        return network


def check_head(filters: Sequence[int], keypoints: int) -> None:
    """Raises ValueError unless a backbone at 1/32 can have this head."""
    check(len(filters) <= 5 and min(filters, default=1) >= 1, "filters must be at most 5 positive numbers", filters)
    check(keypoints >= 1, "keypoints must be at least 1", keypoints)


def head_stride(filters: Sequence[int]) -> int:
    """Input pixels per cell of the heatmaps behind a backbone at 1/32."""
    return 32 >> len(filters)


@dataclass(frozen=True)
class MobileBackboneWithHead:
    """What MobileNetV2, MobileNetV3 and ShuffleNetV2 records share. width: factor on the channels.

    filters: of each transposed convolution; each doubles the resolution.
    """

    approach: ClassVar[str] = "top-down"
    stride: ClassVar[int] = 32

    width: float = 1.0
    filters: tuple[int, ...] = (256, 256, 256)
    keypoints: int = 17

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check(0 < self.width < math.inf, "width must be above 0", self.width)
        check_head(self.filters, self.keypoints)

    @property
    def output_strides(self) -> tuple[int, ...]:
        """4 with three transposed convolutions."""
        return (head_stride(self.filters),)

    def backbone(self) -> tuple[nn.Sequential, int]:
        """The backbone to 1/32 and its channels."""
        raise NotImplementedError

    def build(self) -> BackboneAndHead:
        """The network with random weights."""
        backbone, features = self.backbone()
        network = BackboneAndHead(backbone, DeconvHead(features, self.filters, self.keypoints))
        initialise(network)
        return network
