"""Lite-HRNet: A Lightweight High-Resolution Network. Yu et al., CVPR 2021.

Top-down: HRNet's branches with ShuffleNet's blocks (naive) or conditional channel weighting, which replaces their 1x1
convolutions by weights computed from all resolutions; a head that joins the branches from the lowest to the highest.

What was ambiguous and what we chose
- Fusion: the authors' code adds branch 0 twice, and takes it for the lower outputs after its own fusion. The published
  scores were trained so and weights only fit so: we keep it, but run each downward path once and double it.
- Widths: 40 (the paper prints 30 for naive Lite-HRNet-18, and 40 for the wider one).
Our counts at 256x192 equal the published ones, convolution by convolution. The published FLOPs leave out the pooling to
the lowest resolution, which is a function in the authors' code: counted, ours are 0.7 % higher (naive: equal).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import ChannelShuffle, SqueezeExcite, conv_bn, initialise, inputs_of
from compress.networks.fusion import upward
from compress.networks.hrnet import check_layout

BRANCHES = 4

MakeBlock = Callable[[Sequence[int]], nn.Module]
"""Widths of the branches → a block from a list of maps, one per branch, to the same."""


def separable(inputs: int, outputs: int, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    """Depthwise 3x3 without activation, then 1x1."""
    return nn.Sequential(
        conv_bn(inputs, inputs, 3, stride, groups=inputs, act=None),
        conv_bn(inputs, outputs, 1, act="relu" if relu else None),
    )


class Stem(nn.Module):
    """A stride-2 convolution and a ShuffleNetV2 unit of stride 2: 3 → width channels at 1/4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        middle = width // 2
        self.conv = conv_bn(3, width, 3, 2)
        self.first = separable(middle, middle, 2)
        self.second = nn.Sequential(conv_bn(middle, width, 1), separable(width, middle, 2))
        self.shuffle = ChannelShuffle(2)

    def forward(self, images: Tensor) -> Tensor:
        """[B,3,H,W] → [B,width,H/4,W/4]."""
        x = self.conv(images)
        middle = inputs_of(self.first)
        halves = (self.first(x[:, :middle]), self.second(x[:, middle:]))
        return self.shuffle(torch.cat(halves, 1))  # type: ignore[no-any-return]


class ToLowest(nn.ModuleList):
    """Average pooling of every branch to the size of the lowest: branch i of n by 2^(n-1-i).

    The authors pool adaptively; sizes are exact powers of two apart, so that fixed windows give the same, and every
    engine has them.
    """

    def __init__(self, branches: int) -> None:
        super().__init__(nn.AvgPool2d(2 ** (branches - 1 - i)) for i in range(branches - 1))

    def forward(self, features: list[Tensor]) -> Tensor:
        """One map per branch → [B,sum of channels,h,w] of the lowest branch."""
        pooled = [pool(x) for pool, x in zip(self, features[:-1], strict=True)]
        return torch.cat([*pooled, features[-1]], 1)


class Spread(nn.ModuleList):
    """Multiplies every branch by its channels of a map of the lowest branch's size, enlarged to the branch's own."""

    def __init__(self, branches: int) -> None:
        steps = range(branches - 1, 0, -1)
        super().__init__([*(nn.Upsample(scale_factor=2**n, mode="nearest") for n in steps), nn.Identity()])

    def forward(self, features: list[Tensor], weights: Tensor, widths: Sequence[int]) -> list[Tensor]:
        """One map [B,widths[i],H,W] per branch and [B,sum of widths,h,w] → one map per branch."""
        starts = [sum(widths[:i]) for i in range(len(widths) + 1)]
        parts = [weights[:, a:b] for a, b in pairwise(starts)]
        return [x * enlarge(part) for enlarge, x, part in zip(self, features, parts, strict=True)]


class CrossResolutionWeighting(nn.Module):
    """Weights for every channel and lowest-resolution cell, computed from all branches together (Sec. 3.2)."""

    def __init__(self, widths: Sequence[int], reduction: int) -> None:
        super().__init__()
        total = sum(widths)
        squeezed = max(1, total // reduction)
        self.pool = ToLowest(len(widths))
        self.weigh = nn.Sequential(conv_bn(total, squeezed, 1), conv_bn(squeezed, total, 1, act="sigmoid"))
        self.spread = Spread(len(widths))

    def forward(self, features: list[Tensor], widths: Sequence[int]) -> list[Tensor]:
        """One map [B,widths[i],H,W] per branch → the same."""
        return self.spread(features, self.weigh(self.pool(features)), widths)  # type: ignore[no-any-return]


class ConditionalChannelWeighting(nn.Module):
    """The paper's block, on all branches: the second half of the channels is weighted, the first passes.

    Cross-resolution weights, depthwise 3x3, weights per channel (the paper's spatial weighting).
    """

    def __init__(self, widths: Sequence[int], reduction: int, spatial_reduction: int) -> None:
        super().__init__()
        halves = [width // 2 for width in widths]
        self.cross = CrossResolutionWeighting(halves, reduction)
        self.depthwise = nn.ModuleList(conv_bn(half, half, 3, groups=half, act=None) for half in halves)
        self.spatial = nn.ModuleList(SqueezeExcite(half, spatial_reduction) for half in halves)
        self.shuffle = nn.ModuleList(ChannelShuffle(2) for _ in halves)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """One map per branch → the same."""
        halves = [inputs_of(depthwise) for depthwise in self.depthwise]
        weighted = self.cross([x[:, -half:] for x, half in zip(features, halves, strict=True)], halves)
        outputs = []
        for i, half in enumerate(halves):
            changed = self.spatial[i](self.depthwise[i](weighted[i]))
            outputs.append(self.shuffle[i](torch.cat((features[i][:, :-half], changed), 1)))
        return outputs


class ShuffleUnits(nn.Module):
    """ShuffleNetV2's unit of stride 1 on every branch: the naive networks' block."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        halves = [width // 2 for width in widths]
        self.convolutions = nn.ModuleList(nn.Sequential(conv_bn(h, h, 1), separable(h, h)) for h in halves)
        self.shuffle = nn.ModuleList(ChannelShuffle(2) for _ in halves)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """One map per branch → the same."""
        outputs = []
        for x, convolutions, shuffle in zip(features, self.convolutions, self.shuffle, strict=True):
            half = inputs_of(convolutions)
            outputs.append(shuffle(torch.cat((x[:, :-half], convolutions(x[:, -half:])), 1)))
        return outputs


class DoubledFusion(nn.Module):
    """HRNet's exchange with separable downward paths, and branch 0 counted twice as in the authors' code.

    fused_0 = 2·x_0 + Σ up_j(x_j); for i ≥ 1, fused_i = 2·down_i0(fused_0) + x_i + Σ path_ij(x_j) over other j ≥ 1;
    ReLU on every output. rectified: down_i0 reads fused_0 after its ReLU (Dite-HRNet) instead of before (Lite-HRNet).
    """

    def __init__(self, widths: Sequence[int], rectified: bool) -> None:
        super().__init__()
        self.rectified = rectified
        branches = range(len(widths))
        self.paths = nn.ModuleList(
            nn.ModuleList(_path(widths, source, target) for source in branches) for target in branches
        )
        self.relu = nn.ReLU()  # not in place: the downward paths may read what it reads

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        """One map per branch → the same."""
        sources = list(branches)
        fused = []
        for target, paths in enumerate(self.paths):
            total = 2 * paths[0](sources[0])  # type: ignore[index]
            for path, source in zip(paths[1:], sources[1:], strict=True):  # type: ignore[index]
                total = total + path(source)
            fused.append(self.relu(total))
            if target == 0:
                sources[0] = fused[0] if self.rectified else total
        return fused


def _path(widths: Sequence[int], source: int, target: int) -> nn.Module:
    if source == target:
        return nn.Identity()
    if source > target:
        return upward(widths[source], widths[target], source - target)
    between = [separable(widths[source], widths[source], 2) for _ in range(target - source - 1)]
    return nn.Sequential(*between, separable(widths[source], widths[target], 2, relu=False))


class IterativeHead(nn.Module):
    """From the lowest branch up: to the next width, enlarged (bilinear) and added; K heatmaps from the highest."""

    def __init__(self, widths: Sequence[int], keypoints: int) -> None:
        super().__init__()
        lower = [separable(widths[i], widths[i - 1]) for i in range(len(widths) - 1, 0, -1)]
        self.lower = nn.ModuleList(lower)
        self.up = nn.ModuleList(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True) for _ in lower)
        self.highest = separable(widths[0], widths[0])
        self.maps = nn.Conv2d(widths[0], keypoints, 1)

    def forward(self, branches: list[Tensor]) -> tuple[Tensor]:
        """One map per branch → ([B,K,H/4,W/4],)."""
        x = branches[-1]
        for project, up, higher in zip(self.lower, self.up, reversed(branches[:-1]), strict=True):
            x = higher + up(project(x))
        return (self.maps(self.highest(x)),)


class LiteNetwork(nn.Module):
    """The layout that Lite-, Dite- and EDite-HRNet share: stages of 2, 3 and 4 branches, each of modules.

    A module is `blocks` blocks over all branches and their fusion. New branches start from the lowest one.
    """

    def __init__(
        self,
        stem: nn.Module,
        stem_width: int,
        make_block: MakeBlock,
        width: int,
        modules: tuple[int, int, int],
        blocks: int,
        keypoints: int,
        *,
        rectified: bool,
    ) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(BRANCHES)]
        self.stem = stem
        self.first_branch = nn.Identity() if stem_width == width else separable(stem_width, width)
        starts = [stem_width, *widths[1:]]
        self.new_branches = nn.ModuleList(separable(starts[i], widths[i + 1], 2) for i in range(BRANCHES - 1))
        self.stages = nn.ModuleList()
        for branches, count in enumerate(modules, start=2):
            stage = nn.Sequential()
            for _ in range(count):
                stage.extend(make_block(widths[:branches]) for _ in range(blocks))
                stage.append(DoubledFusion(widths[:branches], rectified))
            self.stages.append(stage)
        self.head = IterativeHead(widths, keypoints)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """[B,3,H,W] → ([B,K,H/4,W/4],)."""
        x = self.stem(images)
        features = [self.first_branch(x)]
        for new_branch, stage in zip(self.new_branches, self.stages, strict=True):
            # The first new branch starts from the stem, the later ones from the lowest branch.
            lowest = x if len(features) == 1 else features[-1]
            features = stage([*features, new_branch(lowest)])
        return self.head(features)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LiteHRNet:
    """Lite-HRNet-18; -30 has modules (3, 8, 3). width: of branch 0; blocks: per module; modules: per stage 2, 3, 4.

    block: `weighting` is conditional channel weighting, `shuffle` the naive networks' unit, which has no reductions.
    reduction, spatial_reduction: of the cross-resolution and the per-channel weights.
    """

    family: ClassVar[str] = "lite_hrnet"
    approach: ClassVar[str] = "top-down"
    stride: ClassVar[int] = 32
    output_strides: ClassVar[tuple[int, ...]] = (4,)

    width: int = 40
    modules: tuple[int, int, int] = (2, 4, 2)
    blocks: int = 2
    block: Literal["weighting", "shuffle"] = "weighting"
    reduction: int = 8
    spatial_reduction: int = 4
    stem_width: int = 32
    keypoints: int = 17

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check_lite_layout(self.width, self.modules, self.blocks, self.stem_width, self.keypoints)
        check(self.block in ("weighting", "shuffle"), "block must be weighting or shuffle", self.block)
        reductions = (self.reduction, self.spatial_reduction)
        check(min(reductions) >= 1, "reductions must be at least 1", reductions)

    def build(self) -> LiteNetwork:
        """The network with random weights."""

        def make_block(widths: Sequence[int]) -> nn.Module:
            if self.block == "shuffle":
                return ShuffleUnits(widths)
            return ConditionalChannelWeighting(widths, self.reduction, self.spatial_reduction)

        network = LiteNetwork(
            Stem(self.stem_width),
            self.stem_width,
            make_block,
            self.width,
            self.modules,
            self.blocks,
            self.keypoints,
            rectified=False,
        )
        initialise(network)
        return network


def check_lite_layout(width: int, modules: tuple[int, ...], blocks: int, stem_width: int, keypoints: int) -> None:
    """Raises ValueError unless a LiteNetwork of this layout can be built: its blocks halve the channels."""
    check_layout(width, modules, blocks, keypoints)
    check(width % 2 == 0, "width must be even", width)
    check(stem_width >= 2 and stem_width % 2 == 0, "stem_width must be even and at least 2", stem_width)
