"""Dite-HRNet: Dynamic Lightweight High-Resolution Network for Human Pose Estimation. Li et al., IJCAI 2022.

Lite-HRNet's layout with two other blocks: dynamic multi-scale context in the branches, dynamic global context as stem.
Dynamic: a convolution mixes several kernels, with weights computed from its own input (dynamic kernel aggregation).

What was ambiguous and what we chose
- Dense context: the paper pools every branch over the cells of the lowest one (`cells: area`, the default). The
  authors' code cuts the tensor's memory instead of its area, so that a cell's value comes from other channels and
  places: only networks of `cells: memory` compute what their checkpoints were trained for. Counts are equal.
- Fusion: branch 0 counts twice, as in the authors' code (see DoubledFusion), here after its ReLU.
Our counts equal the published ones, convolution by convolution, but for parameters that have no effect in the authors'
code: masks of the lowest branches, never used, and the masks' biases, which softmax cancels: together 0.1 %. The
published FLOPs leave out the pooling to the lowest resolution, which is a matrix product in the authors' code: counted,
ours are 0.7 % higher.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import ChannelShuffle, conv_bn, initialise, inputs_of
from compress.networks.lite_hrnet import BRANCHES, LiteNetwork, Spread, check_lite_layout

Cells = Literal["area", "memory"]

_ATTENTION_REDUCTION = 4
"""Of the channels from which the mixture of kernels is computed (the authors' code; the paper gives none)."""


class MixedConv(nn.Module):
    """A convolution without bias whose kernel is a weighted sum of `kernels` kernels, other weights for every image."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int, kernels: int) -> None:
        super().__init__()
        self.kernel, self.stride, self.depthwise = kernel, stride, groups > 1
        self.weight = nn.Parameter(torch.empty(kernels, outputs, inputs // groups, kernel, kernel))
        for one in self.weight:
            nn.init.kaiming_normal_(one, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, mixture: Tensor) -> Tensor:
        """[B,C,H,W] and [B,kernels] → [B,outputs,H/stride,W/stride]."""
        batch, channels, height, width = x.shape
        outputs, inputs = self.weight.shape[1], self.weight.shape[2]
        flat = self.weight.reshape(self.weight.shape[0], -1)
        weight = torch.matmul(mixture, flat).reshape(batch * outputs, inputs, self.kernel, self.kernel)
        # The images become groups of one image's convolution, so that each meets its own kernel.
        one = x.reshape(1, batch * channels, height, width)
        groups = batch * (outputs if self.depthwise else 1)
        y = F.conv2d(one, weight, None, self.stride, self.kernel // 2, groups=groups)
        return y.reshape(batch, outputs, y.shape[2], y.shape[3])


class DynamicConv(nn.Module):
    """Dynamic kernel aggregation (Sec. 3.3): the mixture comes from the pooled input."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, kernels: int
    ) -> None:
        super().__init__()
        squeezed = max(1, inputs // _ATTENTION_REDUCTION)
        self.mixture = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), conv_bn(inputs, squeezed, 1), nn.Conv2d(squeezed, kernels, 1), nn.Sigmoid()
        )
        self.conv = MixedConv(inputs, outputs, kernel, stride, groups, kernels)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,outputs,H/stride,W/stride]."""
        return self.conv(x, self.mixture(x).flatten(1))  # type: ignore[no-any-return]


def dynamic_conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, kernels: int, relu: bool = False
) -> nn.Sequential:
    """conv_bn with a dynamic convolution; with one kernel it is conv_bn."""
    if kernels == 1:
        return conv_bn(inputs, outputs, kernel, stride, groups=groups, act="relu" if relu else None)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=DynamicConv(inputs, outputs, kernel, stride, groups=groups, kernels=kernels),
        bn=nn.BatchNorm2d(outputs),
    )
    if relu:
        layers["act"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def channel_weights(width: int, reduction: int) -> nn.Sequential:
    """From a context to the weights of its channels."""
    squeezed = max(1, width // reduction)
    return nn.Sequential(conv_bn(width, squeezed, 1), nn.Conv2d(squeezed, width, 1), nn.Sigmoid())


class SpatialSoftmax(nn.Module):
    """A 1x1 convolution to one map, whose softmax over all positions says where to look.

    The authors' has a bias, which softmax cancels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,HW,1], of sum 1."""
        return torch.softmax(self.conv(x).flatten(2).transpose(1, 2), 1)


class GlobalContext(nn.Module):
    """Global context modelling: weights the channels by a softmax-pooled context; batch norm."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.mask = SpatialSoftmax(width)
        self.weigh = channel_weights(width, reduction)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H,W]."""
        context = torch.matmul(x.flatten(2), self.mask(x)).unsqueeze(3)  # [B,C,1,1]
        return self.bn(x * self.weigh(context))  # type: ignore[no-any-return]


class DenseContext(nn.Module):
    """Dense context modelling: the same over all branches, with one context per cell of the lowest branch.

    cells: `area`, a branch's places that a cell of the lowest branch covers; `memory`, as in the authors' code: the
    branch [C,H,W] is cut into as many equal runs as there are cells, each taken for [C,n]; its mask [H,W] likewise.
    """

    def __init__(self, widths: Sequence[int], reduction: int, cells: Cells = "area") -> None:
        super().__init__()
        self.cells = cells
        self.sides = [2 ** (len(widths) - 1 - i) for i in range(len(widths) - 1)]
        self.masks = nn.ModuleList(SpatialSoftmax(width) for width in widths[:-1])
        self.pools = nn.ModuleList(nn.AvgPool2d(side) for side in self.sides)
        self.weigh = channel_weights(sum(widths), reduction)
        self.spread = Spread(len(widths))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """One map per branch → the same."""
        contexts = []
        widths = [inputs_of(mask) for mask in self.masks]
        widths.append(inputs_of(self.weigh) - sum(widths))
        for side, mask, pool, x in zip(self.sides, self.masks, self.pools, features[:-1], strict=True):
            batch, channels, height, width = x.shape
            if self.cells == "memory":
                lowest = features[-1].shape[2:]
                runs = x.reshape(batch, lowest.numel(), channels, side**2)
                weights = mask(x).reshape(batch, lowest.numel(), side**2, 1)
                contexts.append(torch.matmul(runs, weights).transpose(1, 2).reshape(batch, channels, *lowest))
                continue
            # side² turns the mean over a cell into the sum.
            contexts.append(pool(x * (side**2 * mask(x).reshape(batch, 1, height, width))))
        return self.spread(features, self.weigh(torch.cat([*contexts, features[-1]], 1)), widths)  # type: ignore[no-any-return]


def in_parts(modules: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """Every module on as many channels as it reads, one after the other."""
    ends = list(accumulate(inputs_of(module) for module in modules))
    return [module(x[:, a:b]) for module, a, b in zip(modules, [0, *ends], ends, strict=False)]


class DynamicSplitConv(nn.Module):
    """Equal groups of channels through depthwise convolutions of 3x3, 5x5, 7x7, ... with `kernels` kernels each."""

    def __init__(self, width: int, groups: int, kernels: int) -> None:
        super().__init__()
        width //= groups
        self.convolutions = nn.ModuleList(
            dynamic_conv_bn(width, width, 2 * i + 3, groups=width, kernels=kernels) for i in range(groups)
        )
        self.shuffle = nn.Identity() if groups == 1 else ChannelShuffle(groups)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H,W]."""
        return self.shuffle(torch.cat(in_parts(self.convolutions, x), 1))  # type: ignore[no-any-return]


class DynamicMultiScaleContext(nn.Module):
    """The paper's block, on all branches: dense context, split convolution and global context on half of the channels.

    splits: one module per branch, from half its width to the same.
    """

    def __init__(
        self,
        widths: Sequence[int],
        splits: Sequence[nn.Module],
        reductions: Sequence[int],
        dense_reduction: int,
        cells: Cells = "area",
    ) -> None:
        super().__init__()
        halves = [width // 2 for width in widths]
        self.dense = DenseContext(halves, dense_reduction, cells)
        self.splits = nn.ModuleList(splits)
        self.contexts = nn.ModuleList(
            GlobalContext(half, reduction) for half, reduction in zip(halves, reductions, strict=False)
        )
        self.shuffle = nn.ModuleList(ChannelShuffle(2) for _ in halves)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """One map per branch → the same."""
        halves = [sum(inputs_of(conv) for conv in split.convolutions) for split in self.splits]  # type: ignore[misc, union-attr]
        weighted = self.dense([x[:, -half:] for x, half in zip(features, halves, strict=True)])
        outputs = []
        for i, half in enumerate(halves):
            changed = self.contexts[i](self.splits[i](weighted[i]))
            outputs.append(self.shuffle[i](torch.cat((features[i][:, :-half], changed), 1)))
        return outputs


class DynamicGlobalContextStem(nn.Module):
    """The paper's stem: 3 → width channels at 1/4.

    depthwise: makes the depthwise 3x3 convolution and batch norm, from width and stride. kernels: of the other dynamic
    convolutions.
    """

    def __init__(self, width: int, kernels: int, reduction: int, depthwise: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        half = width // 2
        narrow = max(1, half // 4)
        self.conv = conv_bn(3, width, 3, 2)
        self.first = nn.Sequential(
            depthwise(half, 2),
            GlobalContext(half, reduction),
            dynamic_conv_bn(half, half, 1, kernels=kernels, relu=True),
        )
        self.second = nn.Sequential(
            depthwise(half, 1),
            GlobalContext(half, reduction),
            dynamic_conv_bn(half, narrow, 1, kernels=kernels, relu=True),
            dynamic_conv_bn(narrow, half, 1, kernels=kernels),
            dynamic_conv_bn(half, half, 3, 2, groups=half, kernels=kernels, relu=True),
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, images: Tensor) -> Tensor:
        """[B,3,H,W] → [B,width,H/4,W/4]."""
        x = self.conv(images)
        return self.shuffle(torch.cat(in_parts(nn.ModuleList((self.first, self.second)), x), 1))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class DiteHRNet:
    """Dite-HRNet-18; -30 has modules (3, 8, 3). width: of branch 0; blocks: per module; modules: per stage 2, 3, 4.

    Per branch: groups and kernels of the split convolution, and the reduction of the global context. dense_reduction:
    of the dense context; cells: how it cuts a branch, see DenseContext. The stem has the first branch's kernels and
    reduction.
    """

    family: ClassVar[str] = "dite_hrnet"
    approach: ClassVar[str] = "top-down"
    stride: ClassVar[int] = 32
    output_strides: ClassVar[tuple[int, ...]] = (4,)

    width: int = 40
    modules: tuple[int, int, int] = (2, 4, 2)
    blocks: int = 2
    groups: tuple[int, int, int, int] = (1, 1, 2, 4)
    kernels: tuple[int, int, int, int] = (4, 4, 2, 1)
    reductions: tuple[int, int, int, int] = (4, 4, 8, 8)
    dense_reduction: int = 8
    stem_width: int = 32
    keypoints: int = 17
    cells: Cells = "area"

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check_lite_layout(self.width, self.modules, self.blocks, self.stem_width, self.keypoints)
        check_dynamic(self.width, self.groups, self.stem_width)
        check(min(self.kernels) >= 1, "kernels must be at least 1", self.kernels)
        reductions = (*self.reductions, self.dense_reduction)
        check(min(reductions) >= 1, "reductions must be at least 1", reductions)
        check(self.cells in get_args(Cells), "cells must be area or memory", self.cells)

    def build(self) -> LiteNetwork:
        """The network with random weights."""

        def make_block(widths: Sequence[int]) -> nn.Module:
            choices = zip(widths, self.groups, self.kernels, strict=False)
            splits = [DynamicSplitConv(width // 2, groups, kernels) for width, groups, kernels in choices]
            return DynamicMultiScaleContext(widths, splits, self.reductions, self.dense_reduction, self.cells)

        def depthwise(width: int, stride: int) -> nn.Module:
            return dynamic_conv_bn(width, width, 3, stride, groups=width, kernels=self.kernels[0])

        stem = DynamicGlobalContextStem(self.stem_width, self.kernels[0], self.reductions[0], depthwise)
        network = LiteNetwork(
            stem, self.stem_width, make_block, self.width, self.modules, self.blocks, self.keypoints, rectified=True
        )
        initialise_dynamic(network)
        return network


def initialise_dynamic(network: nn.Module) -> None:
    """As for every network, but all masks look everywhere alike at first: He's weights would look at one point."""
    initialise(network)
    for module in network.modules():
        if isinstance(module, SpatialSoftmax):
            nn.init.normal_(module.conv.weight, std=0.001)


def check_dynamic(width: int, groups: tuple[int, int, int, int], stem_width: int) -> None:
    """Raises ValueError unless half of every branch's channels splits into equal groups, and the stem is wide enough.

    Below 16 the stem has a dynamic convolution of one filter, whose kernel ncnn reads wrongly.
    """
    check(stem_width >= 16, "stem_width must be at least 16", stem_width)
    check(min(groups) >= 1, "groups must be at least 1", groups)
    halves = [width * 2**i // 2 for i in range(BRANCHES)]
    even = all(half % count == 0 for half, count in zip(halves, groups, strict=True))
    check(even, f"half of the branches' channels {halves} must divide into the groups", groups)
