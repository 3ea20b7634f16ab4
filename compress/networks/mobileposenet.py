"""Designing Compact Convolutional Filters for Lightweight Human Pose Estimation (MobilePoseNet).

Niu et al., Wireless Communications and Mobile Computing, 2021. Top-down: MobileNetV3-Large's blocks to 1/16, two
lightweight upsampling blocks to 1/4, K heatmaps. No public code: a reconstruction from Table 1 and the counts.

What was ambiguous and what we chose
- Table 1 gives the backbone squeeze-and-excitation; with it (to a quarter) the network has 3.06 M parameters, without
  it 1.551 M: 1.5 M are published. Without is the default, `attention` puts it in. The upsampling blocks always have it.
- "First 13 layers of MobileNetV3" with three more blocks (Sec. 5.1): Table 1's stem and 15 blocks. The first block
  has no expansion, as in MobileNetV3: Table 1's 16 to 16.
- Table 6: V1 (mobileposenet_v1) goes to 1/32 with the stride at the 13th block, where MobileNetV3 has it, and three
  plain transposed convolutions of 160 channels; V2 has two of them at ours' 1/16. Parameters 2.537 M and 2.127 M:
  2.5 M and 2.1 M are published.
- torchstat's FLOPs (G = 2^30, M = 2^20): 0.551, 1.240 and 0.735 G at 256x192, 384x288 and 256x256; Tables 2 and 4
  print 0.55, 1.23 and 0.74, Table 6 prints 557 M, 1.4 % under ours. V1 605 M for 604 M, V2 696 M for 684 M.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import Activation, SqueezeExcite, conv_bn, initialise
from compress.networks.efficient_hrnet import MBConvBlock

Upsampling = Literal["light", "transposed"]

BLOCKS = 15
ATTENTION = frozenset({3, 4, 5, 10, 11, 12, 13, 14})
"""Table 1's blocks with squeeze-and-excitation, the first block being 0."""
FIRST_HARD_SWISH = 6
"""Table 1's first block with hard swish; those before have ReLU."""


class LightUpsampling(nn.Module):
    """The lightweight upsampling block (Sec. 3.1, Fig. 3b): twice the height and width.

    1x1 to `middle`, depthwise transposed 4x4 of stride 2, 1x1 to `outputs`; to that its own squeeze-excite is added.
    """

    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        self.expand = conv_bn(inputs, middle, 1)
        self.deconv = nn.Sequential(
            nn.ConvTranspose2d(middle, middle, 4, 2, 1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
        )
        self.project = conv_bn(middle, outputs, 1, act=None)
        self.attention = SqueezeExcite(outputs, 4)

    def initialise_deconv(self) -> None:
        """He's initialisation: every output sums 4 weights only, with 0.001 batch norm's epsilon would outweigh it."""
        nn.init.normal_(self.deconv[0].weight, std=math.sqrt(2 / 4))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] → [B,outputs,2H,2W]. Eq. 5."""
        y = self.project(self.deconv(self.expand(x)))
        return y + self.attention(y)  # type: ignore[no-any-return]


def _transposed(inputs: int, outputs: int) -> nn.Sequential:
    """SimpleBaseline's upsampling (Fig. 3a)."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class MobilePoseNetModule(nn.Module):
    """Encoder, upsampling to 1/4, one 1x1 convolution to K heatmaps."""

    def __init__(self, architecture: "MobilePoseNet") -> None:
        super().__init__()
        a = architecture
        self.stem = conv_bn(3, a.stem, 3, 2, act="hard_swish")
        self.blocks = nn.Sequential()
        inputs = a.stem
        for index, (middle, width, kernel, stride) in enumerate(
            zip(a.middles, a.widths, a.kernels, a.strides, strict=True)
        ):
            has_attention = a.attention and index in ATTENTION
            attention = SqueezeExcite(middle, 4, gate="hard_sigmoid") if has_attention else nn.Identity()
            act: Activation = "relu" if index < FIRST_HARD_SWISH else "hard_swish"
            self.blocks.append(MBConvBlock(inputs, middle, width, kernel, stride, act, attention))
            inputs = width
        self.upsampling = nn.Sequential()
        for _ in range(int(math.log2(a.stride // 4))):
            light = a.upsampling == "light"
            width = a.upsampled
            self.upsampling.append(
                LightUpsampling(inputs, a.expansion * inputs, width) if light else _transposed(inputs, width)
            )
            inputs = width
        self.maps = nn.Conv2d(inputs, a.keypoints, 1)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """[B,3,H,W] → ([B,K,H/4,W/4],)."""
        return (self.maps(self.upsampling(self.blocks(self.stem(images)))),)


@dataclass(frozen=True)
class MobilePoseNet:
    """MobilePoseNet; the defaults are Table 1's, without attention in the backbone (module docstring).

    middles, widths, kernels, strides: expanded and output channels and so on of the 15 blocks. upsampling: `light`
    blocks, which expand by `expansion`, or `transposed` convolutions, as many as lead to 1/4; `upsampled` channels.
    """

    family: ClassVar[str] = "mobileposenet"
    approach: ClassVar[str] = "top-down"
    output_strides: ClassVar[tuple[int, ...]] = (4,)

    stem: int = 16
    middles: tuple[int, ...] = (16, 64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960)
    widths: tuple[int, ...] = (16, 24, 24, 40, 40, 40, 80, 80, 80, 80, 112, 112, 160, 160, 160)
    kernels: tuple[int, ...] = (3, 3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5)
    strides: tuple[int, ...] = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 1)
    attention: bool = False
    upsampling: Upsampling = "light"
    upsampled: int = 160
    expansion: int = 2
    keypoints: int = 17

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        for name in ("middles", "widths", "kernels", "strides"):
            check(len(getattr(self, name)) == BLOCKS, f"{name} must be given for {BLOCKS} blocks", getattr(self, name))
        channels = (self.stem, self.upsampled, *self.middles, *self.widths)
        check(min(channels) >= 1, "channels must be at least 1", channels)
        check(min(self.kernels) >= 1 and all(k % 2 for k in self.kernels), "kernels must be odd", self.kernels)
        check(set(self.strides) <= {1, 2}, "strides must be 1 or 2", self.strides)
        check(4 <= self.stride <= 32, "strides must lead to 1/4, 1/8, 1/16 or 1/32", self.strides)
        check(self.expansion >= 1, "expansion must be at least 1", self.expansion)
        check(self.keypoints >= 1, "keypoints must be at least 1", self.keypoints)

    @property
    def stride(self) -> int:
        """Of the stem and the blocks together."""
        return 2 * math.prod(self.strides)

    def build(self) -> MobilePoseNetModule:
        """The network with random weights."""
        network = MobilePoseNetModule(self)
        initialise(network)
        for module in network.modules():
            if isinstance(module, LightUpsampling):
                module.initialise_deconv()
        return network


def mobileposenet_v1() -> MobilePoseNet:
    """V1 of Table 6."""
    return MobilePoseNet(strides=(1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1), upsampling="transposed")


def mobileposenet_v2() -> MobilePoseNet:
    """V2 of Table 6."""
    return MobilePoseNet(upsampling="transposed")
