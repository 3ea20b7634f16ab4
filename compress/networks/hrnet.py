"""Deep High-Resolution Representation Learning for Human Pose Estimation (HRNet). Sun et al., CVPR 2019.

Top-down: one person per picture, K heatmaps at 1/4. Nothing ambiguous: the authors' code is public and our counts
equal theirs (W32 28.5 M / 7.10 G, W48 63.6 M / 14.6 G at 256x192 in their convention).

Small HRNet (Wang et al., TPAMI 2020; the baseline of the Lite-HRNet paper) is the same network with one narrow
bottleneck in stage 1, one module per stage and two basic blocks per branch. What the papers call W18 counts as W16:
1.3 M / 0.54 G at 256x192, which W16 meets (1.285 M / 0.539 G) and W18 does not (1.601 M / 0.618 G).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import Bottleneck, ResidualBlock, conv_bn, initialise
from compress.networks.fusion import Fusion


class Module(nn.Module):
    """One HRNet module: `blocks` basic blocks on every branch, then the exchange."""

    def __init__(self, widths: Sequence[int], blocks: int, outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*(ResidualBlock(width) for _ in range(blocks))) for width in widths)
        self.fusion = Fusion(widths, len(widths), outputs)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """One map per branch → one per output."""
        return self.fusion([branch(x) for branch, x in zip(self.branches, features, strict=True)])  # type: ignore[no-any-return]


class Backbone(nn.Module):
    """HRNet up to the features of the highest resolution. modules: per stage 2, 3, 4."""

    def __init__(
        self, width: int, modules: tuple[int, int, int], blocks: int, bottlenecks: int = 4, planes: int = 64
    ) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(4)]
        wide = 4 * planes
        self.stem = nn.Sequential(conv_bn(3, 64, 3, 2), conv_bn(64, 64, 3, 2))
        self.stage1 = nn.Sequential(Bottleneck(64, planes), *(Bottleneck(wide, planes) for _ in range(bottlenecks - 1)))
        self.first_branch = conv_bn(wide, widths[0], 3)
        self.new_branches = nn.ModuleList(
            [conv_bn(wide, widths[1], 3, 2), conv_bn(widths[1], widths[2], 3, 2), conv_bn(widths[2], widths[3], 3, 2)]
        )
        self.stages = nn.ModuleList()
        for stage, count in enumerate(modules):
            branches = stage + 2
            # Only the last module of the last stage drops to one output.
            outputs = [branches] * (count - 1) + [1 if stage == 2 else branches]
            self.stages.append(nn.Sequential(*(Module(widths[:branches], blocks, n) for n in outputs)))

    def forward(self, images: Tensor) -> Tensor:
        """[B,3,H,W] → [B,width,H/4,W/4]."""
        x = self.stage1(self.stem(images))
        features = [self.first_branch(x)]
        for new_branch, stage in zip(self.new_branches, self.stages, strict=True):
            # The first new branch starts from stage 1's wide output, the later ones from the lowest branch.
            lowest = x if len(features) == 1 else features[-1]
            features = stage([*features, new_branch(lowest)])
        highest: Tensor = features[0]
        return highest


class HRNetModule(nn.Module):
    """Backbone and one 1x1 convolution to K heatmaps."""

    def __init__(self, backbone: Backbone, width: int, keypoints: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(width, keypoints, 1)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """[B,3,H,W] → ([B,K,H/4,W/4],)."""
        return (self.head(self.backbone(images)),)


@dataclass(frozen=True)
class HRNet:
    """HRNet-W`width`. blocks: basic blocks per branch and module. modules: per stage 2, 3 and 4.

    bottlenecks, planes: number and inner width of stage 1's bottlenecks; its output has 4·planes channels.
    """

    family: ClassVar[str] = "hrnet"
    approach: ClassVar[str] = "top-down"
    stride: ClassVar[int] = 32
    output_strides: ClassVar[tuple[int, ...]] = (4,)

    width: int = 32
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    keypoints: int = 17
    bottlenecks: int = 4
    planes: int = 64

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check_layout(self.width, self.modules, self.blocks, self.keypoints)
        check(self.bottlenecks >= 1, "bottlenecks must be at least 1", self.bottlenecks)
        check(self.planes >= 1, "planes must be at least 1", self.planes)

    def build(self) -> HRNetModule:
        """The network with random weights."""
        backbone = Backbone(self.width, self.modules, self.blocks, self.bottlenecks, self.planes)
        network = HRNetModule(backbone, self.width, self.keypoints)
        initialise(network)
        return network


def check_layout(width: int, modules: tuple[int, ...], blocks: int, keypoints: int) -> None:
    """Raises ValueError unless an HRNet of this layout can be built. blocks: 0 is allowed."""
    check(width >= 1, "width must be at least 1", width)
    check(min(modules) >= 1, "every stage must have at least 1 module", modules)
    check(blocks >= 0, "blocks must not be negative", blocks)
    check(keypoints >= 1, "keypoints must be at least 1", keypoints)
