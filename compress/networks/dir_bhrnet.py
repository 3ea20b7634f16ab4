"""DIR-BHRNet: A Lightweight Network for Real-time Vision-based Multi-person Pose Estimation on Smartphones.

Lan, Wu, Hao. DIR-BHRNet follows the authors' public backbone and reproduces the published counts exactly; DIR-HRNet has
no public code and is a reconstruction.

What was ambiguous and what we chose
- Widths of DIR-BHRNet: Table I shows 128 channels in every branch of stage 4; the code and the counts say k·2^i.
- Head: the text says three residual blocks, the counts fit four; the `*` head is 1x1, not 3x3, by the counts.
- DIR-BHRNet*-25 is width 24 by its counts; DIR-BHRNet-25 is width 25, and its 4.7 M looks like a misprint of 3.78 M.
- DIR-HRNet: variant B (branches are fused only at the end, "in the end stage") is within 0.3 % of the published
  parameters and 5.3 % under the FLOPs; variant A (fused after stages 2, 3 and 4, as HRNet) +7.2 % and -1.9 %.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import BLOCK_KINDS, BlockKind, build_block, conv_bn, initialise
from compress.networks.fusion import Fusion
from compress.networks.heads import HeatmapHead, HigherHead, SingleHead

BRANCHES = 4

Blocks = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
Head = Literal["single", "higher", "heatmaps"]


def balanced_blocks(n: int) -> Blocks:
    """The paper's hand balance (Sec. III-B): branch i has n·i blocks in every stage, 1-based."""
    return tuple(tuple(n * (branch + 1) for branch in range(stage + 1)) for stage in range(BRANCHES))  # type: ignore[return-value]


def equal_blocks(n: int) -> Blocks:
    """HRNet's layout: n blocks on every branch in every stage."""
    return tuple((n,) * (stage + 1) for stage in range(BRANCHES))  # type: ignore[return-value]


def build_head(head: Head, width: int, keypoints: int, filters: int) -> SingleHead | HigherHead | HeatmapHead:
    """`single` is the paper's `*` networks; `higher` is HigherHRNet's head with four residual blocks; `heatmaps` makes
    the network a top-down one, as HRNet's head does, which is ours."""
    match head:
        case "single":
            return SingleHead(width, keypoints)
        case "higher":
            return HigherHead(width, keypoints, filters)
        case "heatmaps":
            return HeatmapHead(width, keypoints)


def approach_of(head: Head) -> str:
    """What the head's maps are for."""
    return "top-down" if head == "heatmaps" else "bottom-up AE"


def strides_of(head: Head) -> tuple[int, ...]:
    """4, and 2 for the second output of the higher head."""
    return (4, 2) if head == "higher" else (4,)


def stem(width: int) -> nn.Sequential:
    """Two stride-2 convolutions: 3 → width/2 → width."""
    return nn.Sequential(conv_bn(3, width // 2, 3, 2), conv_bn(width // 2, width, 3, 2))


_PAPERS_BLOCKS = balanced_blocks(3)


class Branches(nn.ModuleList):
    """One stage's branches: a sequence of blocks per resolution."""

    def __init__(
        self, widths: Sequence[int], counts: Sequence[int], kinds: Sequence[BlockKind], expansions: Sequence[int]
    ) -> None:
        super().__init__(
            nn.Sequential(*(build_block(kind, width, expansion) for _ in range(count)))
            for width, count, kind, expansion in zip(widths, counts, kinds, expansions, strict=False)
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """One map per branch → the same."""
        return [branch(x) for branch, x in zip(self, features, strict=True)]


class BHRNetModule(nn.Module):
    """Four stages of t = 1..4 branches; the fusion after stage t gives t + 1 branches, the last one a single one.

    A new lower branch is made by the fusion from every branch: there is no separate transition layer.
    """

    def __init__(self, architecture: "DirBHRNet") -> None:
        super().__init__()
        a = architecture
        widths = [a.width * 2**i for i in range(BRANCHES)]
        self.stem = stem(a.width)
        self.stages = nn.ModuleList(Branches(widths, counts, a.kinds, a.expansions) for counts in a.blocks)
        self.fusions = nn.ModuleList(
            Fusion(widths, t, t + 1 if t < BRANCHES else 1, a.reach) for t in range(1, BRANCHES + 1)
        )
        self.head = build_head(a.head, a.width, a.keypoints, a.head_filters)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B,3,H,W] → ([B,2K,H/4,W/4],) or, with the higher head, also [B,K,H/2,W/2]."""
        features = [self.stem(images)]
        for stage, fusion in zip(self.stages, self.fusions, strict=True):
            features = fusion(stage(features))
        return self.head(features[0])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class DirBHRNet:
    """DIR-BHRNet-`width`. Defaults are the authors' code: n = 3, expansion 2, DIR blocks.

    blocks: per stage, per branch; 0 is allowed. kinds and expansions: per branch, the same in every stage. reach: how
    many resolutions down a branch sends in a fusion, the paper's 3 being all; fewer is a choice of ours for searching.
    """

    family: ClassVar[str] = "dir_bhrnet"
    stride: ClassVar[int] = 32

    width: int = 32
    blocks: Blocks = _PAPERS_BLOCKS
    kinds: tuple[BlockKind, BlockKind, BlockKind, BlockKind] = ("dir",) * 4
    expansions: tuple[int, int, int, int] = (2,) * 4
    head: Head = "higher"
    head_filters: int = 32
    keypoints: int = 17
    reach: int = 3

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check(self.width >= 2, "width must be at least 2", self.width)
        shape = tuple(len(counts) for counts in self.blocks)
        check(shape == (1, 2, 3, 4), "blocks must be given for 1, 2, 3 and 4 branches of the four stages", self.blocks)
        check(min(map(min, self.blocks)) >= 0, "block counts must not be negative", self.blocks)
        check(min(self.expansions) >= 1, "expansions must be at least 1", self.expansions)
        check(1 <= self.reach <= 3, "reach must be 1, 2 or 3", self.reach)
        check(set(self.kinds) <= set(BLOCK_KINDS), f"block kinds must be of {', '.join(BLOCK_KINDS)}", self.kinds)
        check(self.head_filters >= 1, "head_filters must be at least 1", self.head_filters)
        check(self.keypoints >= 1, "keypoints must be at least 1", self.keypoints)

    @property
    def approach(self) -> str:
        """Bottom-up, or top-down with the head `heatmaps`."""
        return approach_of(self.head)

    @property
    def output_strides(self) -> tuple[int, ...]:
        """4, and 2 for the second output of the higher head."""
        return strides_of(self.head)

    def build(self) -> BHRNetModule:
        """The network with random weights."""
        network = BHRNetModule(self)
        initialise(network)
        if not isinstance(network.head, HeatmapHead):
            network.head.initialise_tags()
        return network


class DirHRNetModule(nn.Module):
    """HRNet's layout with DIR blocks, one module per stage, and a stride-2 convolution for every new branch."""

    def __init__(self, architecture: "DirHRNet") -> None:
        super().__init__()
        a = architecture
        widths = [a.width * 2**i for i in range(BRANCHES)]
        self.stem = stem(a.width)
        self.stages = nn.ModuleList(
            Branches(widths, (a.blocks,) * t, (a.kind,) * t, (a.expansion,) * t) for t in range(1, BRANCHES + 1)
        )
        self.new_branches = nn.ModuleList(conv_bn(widths[t - 1], widths[t], 3, 2) for t in range(1, BRANCHES))
        fused = (2, 3) if a.variant == "A" else ()
        self.fusions = nn.ModuleDict({str(t): Fusion(widths, t, t) for t in fused})
        self.last_fusion = Fusion(widths, BRANCHES, 1)
        self.head = build_head(a.head, a.width, a.keypoints, a.head_filters)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B,3,H,W] → ([B,2K,H/4,W/4],) or, with the higher head, also [B,K,H/2,W/2]."""
        features = [self.stem(images)]
        for t, stage in enumerate(self.stages, start=1):
            features = stage(features)
            if str(t) in self.fusions:
                features = self.fusions[str(t)](features)
            if t < BRANCHES:
                features = [*features, self.new_branches[t - 1](features[-1])]
        return self.head(self.last_fusion(features)[0])  # type: ignore[no-any-return]


@dataclass(frozen=True)
class DirHRNet:
    """DIR-HRNet-`width`: a reconstruction (module docstring). blocks: per branch and stage."""

    family: ClassVar[str] = "dir_hrnet"
    stride: ClassVar[int] = 32

    width: int = 32
    blocks: int = 2
    kind: BlockKind = "dir"
    expansion: int = 4
    variant: Literal["A", "B"] = "B"
    head: Head = "higher"
    head_filters: int = 32
    keypoints: int = 17

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check(self.width >= 2, "width must be at least 2", self.width)
        check(self.blocks >= 0, "blocks must not be negative", self.blocks)
        check(self.kind in BLOCK_KINDS, f"block kind must be of {', '.join(BLOCK_KINDS)}", self.kind)
        check(self.expansion >= 1, "expansion must be at least 1", self.expansion)
        check(self.variant in ("A", "B"), "variant must be A or B", self.variant)
        check(self.head_filters >= 1, "head_filters must be at least 1", self.head_filters)
        check(self.keypoints >= 1, "keypoints must be at least 1", self.keypoints)

    @property
    def approach(self) -> str:
        """Bottom-up, or top-down with the head `heatmaps`."""
        return approach_of(self.head)

    @property
    def output_strides(self) -> tuple[int, ...]:
        """4, and 2 for the second output of the higher head."""
        return strides_of(self.head)

    def build(self) -> DirHRNetModule:
        """The network with random weights."""
        network = DirHRNetModule(self)
        initialise(network)
        if not isinstance(network.head, HeatmapHead):
            network.head.initialise_tags()
        return network
