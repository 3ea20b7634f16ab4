"""Towards Fast and Accurate Multi-Person Pose Estimation on Mobile Devices. Shen et al., IJCAI 2021 (demonstrations).

OpenPose with a narrow, deep ResNet cut at 1/8 and one refinement stage, its 7x7 convolutions replaced by three 3x3; and
one with an EfficientNet. No public code and few figures: reconstructions.

What was ambiguous and what we chose
- Layers: 1 + 3 per bottleneck + 2 projections gives 24, 36, 72 and 147 for 7, 11, 23 and 48 bottlenecks at 1/4 and 1/8.
  How they are divided is not said; our widths are those that meet the published G.
- Between backbone and stages: OpenPose's two 3x3, to 256 and 128. Stages: Lightweight OpenPose's, with the three 3x3 in
  place of its dilated pair.
- G are multiply-adds at 368x368. Ours and the published: 24 layers 14.24 / 13.68, 36 layers 16.09 / 16.05, 72 layers
  16.11 / 16.09 (6.73 M / 6.77 M), 147 layers 16.46 / 16.46.
- EfficientNet: only a pruned one is published (1.68 M, 4.7 G), 2.01 times smaller than a dense one of 3.38 M. B0 up to
  1/8 (40 channels) with the same stages has 3.40 M / 7.36 G. What replaces swish is not fixed ("e.g. hard-tanh"): hard
  swish.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import Activation, SqueezeExcite, conv_bn
from compress.networks.efficient_hrnet import MBConvBlock, multiple_of_8
from compress.networks.lightweight_openpose import InitialStage
from compress.networks.openpose import Heads, HiddenConv, PafNetwork, ReadsMaps, check_maps, initialise_paf
from compress.networks.simple_baseline import ResNetStage

BLOCKS = 5
"""Per refinement stage, as many as OpenPose has 7x7 convolutions."""

Refinement = Literal["one_7x7", "three_3x3"]


class RefinementBlock(nn.Module):
    """1x1, and one 7x7 or three 3x3 with batch norm added to it: both see 7x7.

    No `last_norm`: with a ReLU between the batch norm and the sum, a start at zero would never get a gradient.
    """

    def __init__(self, inputs: int, width: int, refinement: Refinement) -> None:
        super().__init__()
        self.align = HiddenConv(inputs, width, 1)
        kernels = (7,) if refinement == "one_7x7" else (3, 3, 3)
        self.trunk = nn.Sequential(*(conv_bn(width, width, kernel) for kernel in kernels))

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] → [B,width,h,w]."""
        x = self.align(x)
        return x + self.trunk(x)  # type: ignore[no-any-return]


class RefinementStage(nn.Sequential, ReadsMaps):
    """Refinement blocks and the heads."""

    def __init__(self, inputs: int, width: int, refinement: Refinement, keypoints: int, limbs: int) -> None:
        super().__init__(
            *(RefinementBlock(width if block else inputs, width, refinement) for block in range(BLOCKS)),
            Heads(width, width, keypoints, limbs),
        )
        self.maps = keypoints + 1 + 2 * limbs


def build_stages(
    backbone: nn.Sequential,
    inputs: int,
    features: int,
    refinements: int,
    refinement: Refinement,
    keypoints: int,
    limbs: int,
) -> PafNetwork:
    """The network behind a backbone at 1/8 of `inputs` channels, with random weights."""
    backbone.append(HiddenConv(inputs, 2 * features, 3))
    backbone.append(HiddenConv(2 * features, features, 3))
    reads = features + keypoints + 1 + 2 * limbs
    stages: list[nn.Module] = [
        RefinementStage(reads, features, refinement, keypoints, limbs) for _ in range(refinements)
    ]
    network = PafNetwork(backbone, InitialStage(features, 4 * features, keypoints, limbs), stages)
    initialise_paf(network)
    return network


def check_stages(features: int, refinements: int, refinement: str, keypoints: int, limbs: int) -> None:
    """Raises ValueError unless these stages can be built."""
    check(features >= 1, "features must be at least 1", features)
    check(refinements >= 0, "refinements must not be negative", refinements)
    check(refinement in get_args(Refinement), f"refinement must be of {', '.join(get_args(Refinement))}", refinement)
    check_maps(keypoints, limbs)


@dataclass(frozen=True)
class MobileOpenPose:
    """OpenPose with a ResNet. blocks: bottlenecks at 1/4 and 1/8. width: of the stem, and planes of 1/4; twice at 1/8.

    features: channels that every stage reads. refinements: stages after the initial one. refinement: the convolutions
    of their blocks. keypoints: COCO's 17 and the neck. limbs: with a field each.
    """

    family: ClassVar[str] = "mobile_openpose"
    approach: ClassVar[str] = "PAF"
    stride: ClassVar[int] = 8

    blocks: tuple[int, int] = (3, 4)
    width: int = 64
    features: int = 128
    refinements: int = 1
    refinement: Refinement = "three_3x3"
    keypoints: int = 18
    limbs: int = 19

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check(min(self.blocks) >= 1, "both resolutions must have at least 1 block", self.blocks)
        check(self.width >= 1, "width must be at least 1", self.width)
        check_stages(self.features, self.refinements, self.refinement, self.keypoints, self.limbs)

    @property
    def layers(self) -> int:
        """The backbone's convolutions, which name the network."""
        return 1 + 3 * sum(self.blocks) + len(self.blocks)

    @property
    def output_strides(self) -> tuple[int, ...]:
        """8, once per stage."""
        return (8,) * (1 + self.refinements)

    def build(self) -> PafNetwork:
        """The network with random weights."""
        backbone = nn.Sequential(
            conv_bn(3, self.width, 7, 2),
            nn.MaxPool2d(3, 2, 1),
            ResNetStage(self.width, self.width, self.blocks[0], 1),
            ResNetStage(4 * self.width, 2 * self.width, self.blocks[1], 2),
        )
        return build_stages(
            backbone, 8 * self.width, self.features, self.refinements, self.refinement, self.keypoints, self.limbs
        )


EFFICIENTNET = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5))
"""EfficientNet-B0's groups to 1/8: expansion, channels, blocks, stride, kernel."""


@dataclass(frozen=True)
class MobileOpenPoseEfficientNet:
    """OpenPose with EfficientNet-B0 to 1/8, its channels times `width`. act: of the EfficientNet.

    features: channels that every stage reads. refinements: stages after the initial one. refinement: the convolutions
    of their blocks. keypoints: COCO's 17 and the neck. limbs: with a field each.
    """

    family: ClassVar[str] = "mobile_openpose_efficientnet"
    approach: ClassVar[str] = "PAF"
    stride: ClassVar[int] = 8

    width: float = 1.0
    act: Activation = "hard_swish"
    features: int = 128
    refinements: int = 1
    refinement: Refinement = "three_3x3"
    keypoints: int = 18
    limbs: int = 19

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check(0 < self.width < math.inf, "width must be above 0", self.width)
        check_stages(self.features, self.refinements, self.refinement, self.keypoints, self.limbs)

    @property
    def output_strides(self) -> tuple[int, ...]:
        """8, once per stage."""
        return (8,) * (1 + self.refinements)

    def build(self) -> PafNetwork:
        """The network with random weights."""
        inputs = multiple_of_8(32 * self.width)
        backbone = nn.Sequential(conv_bn(3, inputs, 3, 2, act=self.act))
        for expansion, channels, blocks, stride, kernel in EFFICIENTNET:
            outputs = multiple_of_8(channels * self.width)
            for step in [stride] + [1] * (blocks - 1):
                middle = inputs * expansion
                excite = SqueezeExcite(middle, squeezed=max(1, inputs // 4), act=self.act)
                backbone.append(MBConvBlock(inputs, middle, outputs, kernel, step, self.act, excite))
                inputs = outputs
        return build_stages(
            backbone, inputs, self.features, self.refinements, self.refinement, self.keypoints, self.limbs
        )
