"""Lite Pose: Efficient Architecture Design for 2D Human Pose Estimation. Wang et al., CVPR 2022, arXiv:2205.01271.

Bottom-up with associative embedding as HigherHRNet, but one branch: inverted residuals with 7x7 depthwise kernels, and
a head of transposed convolutions that also read earlier maps (the fusion deconv head). The published sizes are found by
a search over widths and input sizes. Nothing ambiguous: the authors' code is public (mit-han-lab/litepose), and our
counts equal their old ptflops' (S 5.0 G, M 7.8 G), which counts transposed convolutions at their output positions: S is
3.62 GMACs at 448x448. Two transposed convolutions whose outputs are added are one on both inputs joined.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import conv_bn, initialise
from compress.networks.efficient_hrnet import MBConvBlock

STRIDES = (2, 2, 2, 1)
_STEM = 32
_TAG_STD = 0.05
"""Standard deviation of the tags' random weights, see compress.networks.heads."""


class LitePoseBackbone(nn.Module):
    """To 1/16 twice. Every stage is a list of inverted residuals, the first with the stride."""

    def __init__(self, architecture: "LitePose") -> None:
        super().__init__()
        a = architecture
        self.stem = nn.Sequential(
            conv_bn(3, _STEM, 3, 2, act="relu6"),
            conv_bn(_STEM, _STEM, 3, groups=_STEM, act="relu6"),
            conv_bn(_STEM, a.stem, 1, act=None),
        )
        self.stages = nn.ModuleList()
        inputs = a.stem
        for width, blocks, kernel, expansion, stride in zip(
            a.widths, a.blocks, a.kernels, a.expansions, STRIDES, strict=True
        ):
            stage = nn.Sequential()
            for step in [stride] + [1] * (blocks - 1):
                stage.append(MBConvBlock(inputs, expansion * inputs, width, kernel, step, "relu6", nn.Identity()))
                inputs = width
            self.stages.append(stage)

    def forward(self, images: Tensor) -> list[Tensor]:
        """[B,3,H,W] → maps at 1/2, 1/4, 1/8, 1/16 and 1/16."""
        maps = [self.stem(images)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps


def _answer(inputs: int, outputs: int) -> nn.Sequential:
    """A depthwise 5x5 convolution and a 1x1 to the maps."""
    return nn.Sequential(conv_bn(inputs, inputs, 5, groups=inputs), nn.Conv2d(inputs, outputs, 1, bias=False))


class FusionDeconvHead(nn.Module):
    """Three times twice the size, each from the head's own map and from one of the backbone's of the same size."""

    def __init__(self, architecture: "LitePose") -> None:
        super().__init__()
        a = architecture
        self.keypoints = a.keypoints
        earlier = (a.widths[2], a.widths[1], a.widths[0])  # at 1/16, 1/8, 1/4
        inputs = (a.widths[3], *a.deconvs[:2])
        self.deconvs, self.earlier_deconvs, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for own, other, filters in zip(inputs, earlier, a.deconvs, strict=True):
            self.deconvs.append(nn.ConvTranspose2d(own, filters, 4, 2, 1, bias=False))
            self.earlier_deconvs.append(nn.ConvTranspose2d(other, filters, 4, 2, 1, bias=False))
            self.norms.append(nn.Sequential(nn.BatchNorm2d(filters), nn.ReLU(inplace=True)))
        channels = (2 * a.keypoints, a.keypoints)
        self.maps = nn.ModuleList(_answer(*sizes) for sizes in zip(a.deconvs[1:], channels, strict=True))
        self.earlier_maps = nn.ModuleList(
            _answer(*sizes) for sizes in zip((a.widths[0], a.stem), channels, strict=True)
        )

    def initialise(self) -> None:
        """The answers begin near 0, tags less so."""
        for parts in (self.maps, self.earlier_maps):
            for number, part in enumerate(parts):
                answers = part.get_parameter("1.weight")
                nn.init.normal_(answers, std=0.001)
                if number == 0:
                    nn.init.normal_(answers[self.keypoints :], std=_TAG_STD)

    def forward(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The backbone's maps → ([B,2K,H/4,W/4], [B,K,H/2,W/2])."""
        half, quarter, eighth, sixteenth, last = maps
        y = self._step(0, last, sixteenth)
        y = self._step(1, y, eighth)
        first = self.maps[0](y) + self.earlier_maps[0](quarter)
        y = self._step(2, y, quarter)
        return first, self.maps[1](y) + self.earlier_maps[1](half)

    def _step(self, number: int, own: Tensor, earlier: Tensor) -> Tensor:
        """Twice the height and width."""
        joined = self.deconvs[number](own) + self.earlier_deconvs[number](earlier)
        return self.norms[number](joined)  # type: ignore[no-any-return]


class LitePoseModule(nn.Module):
    """Backbone and head."""

    def __init__(self, architecture: "LitePose") -> None:
        super().__init__()
        self.backbone = LitePoseBackbone(architecture)
        self.head = FusionDeconvHead(architecture)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] → ([B,2K,H/4,W/4], [B,K,H/2,W/2])."""
        return self.head(self.backbone(images))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LitePose:
    """LitePose-Auto-S by default. stem: channels at 1/2.

    widths, blocks, kernels, expansions: of the four stages, at 1/4, 1/8, 1/16 and 1/16. deconvs: channels of the head's
    maps at 1/8, 1/4 and 1/2.
    """

    family: ClassVar[str] = "litepose"
    approach: ClassVar[str] = "bottom-up AE"
    stride: ClassVar[int] = 16
    output_strides: ClassVar[tuple[int, ...]] = (4, 2)

    stem: int = 16
    widths: tuple[int, int, int, int] = (16, 32, 48, 120)
    blocks: tuple[int, int, int, int] = (6, 8, 10, 10)
    kernels: tuple[int, int, int, int] = (7, 7, 7, 7)
    expansions: tuple[int, int, int, int] = (6, 6, 6, 6)
    deconvs: tuple[int, int, int] = (32, 24, 32)
    keypoints: int = 17

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        channels = (self.stem, *self.widths, *self.deconvs)
        check(min(channels) >= 1, "channels must be at least 1", channels)
        check(min(self.blocks) >= 1, "every stage must have at least 1 block", self.blocks)
        check(min(self.kernels) >= 1 and all(k % 2 for k in self.kernels), "kernels must be odd", self.kernels)
        check(min(self.expansions) >= 1, "expansions must be at least 1", self.expansions)
        check(self.keypoints >= 1, "keypoints must be at least 1", self.keypoints)

    def build(self) -> LitePoseModule:
        """The network with random weights."""
        network = LitePoseModule(self)
        initialise(network)
        network.head.initialise()
        return network
