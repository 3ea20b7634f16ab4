"""EDite-HRNet: Enhanced Dynamic Lightweight High-Resolution Network for Human Pose Estimation. Rui, Gao, Ren.

Dite-HRNet-18 with two changes: depthwise convolutions become GhostNetV2 modules (enhanced ConvBN), and the half of the
channels that Dite-HRNet passes on unchanged takes in what the other half becomes (enhanced multi-scale context).

No public code; a reconstruction. What was ambiguous and what we chose
- Enhanced ConvBN: GhostNetV2's module without ReLU, 1x1 as primary and the replaced depthwise kernel as cheap
  operation. Its kernels are not dynamic. Where the stem's convolution has stride 2, the primary is 3x3 of that stride.
- Mix: a 3x3 convolution of the three concatenated maps and batch norm; the cheap operation is 1x1 and batch norm.
- S "uses a depth-wise convolution": mix and cheap operation are depthwise, each channel's three maps together.
- L "adopts a normal convolution": mix and cheap operation are dense; that alone gives 7.2 M of the published 8.8 M. We
  take the rest where it costs least: in the lowest branch the enhanced ConvBN is dense too, with the attention.
How near: S 1.37 M and 0.29 / 0.66 G at 256x192 / 384x288 (published 1.3 M, 0.2 / 0.6 G; the papers of this family
truncate); L 8.48 M and 1.84 / 4.13 G (8.8 M, 1.8 / 4.14 G): parameters 3.6 % below, FLOPs within 0.5 %. For MPII the
paper prints L with 9.1 M: its L is not one network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import ChannelShuffle, conv_bn, inputs_of
from compress.networks.dite_hrnet import (
    DenseContext,
    DynamicGlobalContextStem,
    DynamicMultiScaleContext,
    GlobalContext,
    check_dynamic,
    dynamic_conv_bn,
    in_parts,
    initialise_dynamic,
)
from compress.networks.lite_hrnet import LiteNetwork, check_lite_layout

Split = Literal["ghost", "dense"]
Mixing = Literal["none", "depthwise", "dense"]


class LongRangeAttention(nn.Module):
    """GhostNetV2's DFC attention (Tang et al., NeurIPS 2022): at half resolution, 1x1, then along rows, then columns.

    enlarged: back to the input's size; else to that of a convolution of stride 2. groups: of the last two.
    """

    def __init__(self, width: int, groups: int, enlarged: bool) -> None:
        super().__init__()
        self.enlarged = enlarged
        self.pool = nn.AvgPool2d(2)
        self.conv = conv_bn(width, width, 1, act=None)
        self.rows = nn.Sequential(
            nn.Conv2d(width, width, (1, 5), padding=(0, 2), groups=groups, bias=False), nn.BatchNorm2d(width)
        )
        self.columns = nn.Sequential(
            nn.Conv2d(width, width, (5, 1), padding=(2, 0), groups=groups, bias=False), nn.BatchNorm2d(width)
        )
        self.sigmoid = nn.Sigmoid()
        self.up = nn.Upsample(scale_factor=2, mode="nearest") if enlarged else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H,W], or [B,C,H/2,W/2] rounded up, in 0..1."""
        # Repeating the last row and column rounds an odd side up as ceil_mode does, which ncnn lacks for a side of 1.
        padded = torch.cat((x, x[:, :, -1:]), 2)
        padded = torch.cat((padded, padded[:, :, :, -1:]), 3)
        weights = self.up(self.sigmoid(self.columns(self.rows(self.conv(self.pool(padded))))))
        return weights[:, :, : x.shape[2], : x.shape[3]] if self.enlarged else weights  # type: ignore[no-any-return]


class EnhancedConv(nn.Module):
    """The paper's enhanced ConvBN: features times long-range attention, width → width.

    ghost: a primary convolution to half of the channels, and depthwise of those for the other half. dense: a normal
    convolution, and normal ones in the attention.
    """

    def __init__(self, width: int, kernel: int, split: Split, stride: int = 1) -> None:
        super().__init__()
        made = (width + 1) // 2
        self.attention = LongRangeAttention(width, width if split == "ghost" else 1, enlarged=stride == 1)
        if split == "dense":
            self.primary = conv_bn(width, width, kernel, stride, act=None)
            self.cheap = None
        else:
            self.primary = conv_bn(width, made, 1 if stride == 1 else kernel, stride, act=None)
            self.cheap = conv_bn(made, made, kernel, groups=made, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H/stride,W/stride]."""
        features = self.primary(x)
        if self.cheap is not None:
            features = torch.cat((features, self.cheap(features)), 1)[:, : inputs_of(self.attention.rows)]
        return features * self.attention(x)  # type: ignore[no-any-return]


class EnhancedSplitConv(nn.Module):
    """Equal groups of channels through enhanced ConvBNs of 3x3, 5x5, 7x7, ..."""

    def __init__(self, width: int, groups: int, split: Split) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(EnhancedConv(width // groups, 2 * i + 3, split) for i in range(groups))
        self.shuffle = nn.Identity() if groups == 1 else ChannelShuffle(groups)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H,W]."""
        return self.shuffle(torch.cat(in_parts(self.convolutions, x), 1))  # type: ignore[no-any-return]


def mix(width: int, mixing: Mixing) -> nn.Sequential:
    """3x3 from three concatenated maps to one. depthwise: the shuffle brings each channel's three maps together."""
    if mixing == "dense":
        return conv_bn(3 * width, width, 3, act=None)
    return nn.Sequential(ChannelShuffle(3), conv_bn(3 * width, width, 3, groups=width, act=None))


class EnhancedMultiScaleContext(nn.Module):
    """The paper's block, on all branches (Sec. III-C). Half of the channels goes as in Dite-HRNet, in three steps.

    The other half, instead of passing, becomes cheap(itself) + mix(the results of the three steps).
    """

    def __init__(
        self,
        widths: Sequence[int],
        splits: Sequence[nn.Module],
        reductions: Sequence[int],
        dense_reduction: int,
        mixing: Mixing,
    ) -> None:
        super().__init__()
        halves = [width // 2 for width in widths]
        self.dense = DenseContext(halves, dense_reduction)
        self.splits = nn.ModuleList(splits)
        self.contexts = nn.ModuleList(
            GlobalContext(half, reduction) for half, reduction in zip(halves, reductions, strict=False)
        )
        self.cheap = nn.ModuleList(
            conv_bn(half, half, 1, groups=half if mixing == "depthwise" else 1, act=None) for half in halves
        )
        self.mix = nn.ModuleList(mix(half, mixing) for half in halves)
        self.shuffle = nn.ModuleList(ChannelShuffle(2) for _ in halves)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """One map per branch → the same."""
        passing = [inputs_of(cheap) for cheap in self.cheap]
        weighted = self.dense([x[:, start:] for x, start in zip(features, passing, strict=True)])
        outputs = []
        for i, start in enumerate(passing):
            convolved = self.splits[i](weighted[i])
            complete = self.contexts[i](convolved)
            steps = torch.cat((weighted[i], convolved, complete), 1)
            simple = self.cheap[i](features[i][:, :start]) + self.mix[i](steps)
            outputs.append(self.shuffle[i](torch.cat((simple, complete), 1)))
        return outputs


@dataclass(frozen=True)
class EDiteHRNet:
    """EDite-HRNet-S. width: of branch 0; blocks: per module; modules: per stage 2, 3, 4.

    Per branch: groups and splits (kind of enhanced ConvBN) of the split convolution, reductions of the global context.
    dense_reduction: of the dense context. mixing: kind of mix and cheap operation; `none` is Dite-HRNet's block with
    enhanced ConvBNs (the paper's ablation). stem: with enhanced ConvBNs or Dite-HRNet's dynamic ones; its other
    convolutions mix stem_kernels kernels.
    """

    family: ClassVar[str] = "edite_hrnet"
    approach: ClassVar[str] = "top-down"
    stride: ClassVar[int] = 32
    output_strides: ClassVar[tuple[int, ...]] = (4,)

    width: int = 40
    modules: tuple[int, int, int] = (2, 4, 2)
    blocks: int = 2
    groups: tuple[int, int, int, int] = (1, 1, 2, 4)
    splits: tuple[Split, Split, Split, Split] = ("ghost",) * 4
    reductions: tuple[int, int, int, int] = (4, 4, 8, 8)
    dense_reduction: int = 8
    mixing: Mixing = "depthwise"
    stem: Literal["enhanced", "dynamic"] = "enhanced"
    stem_width: int = 32
    stem_kernels: int = 4
    keypoints: int = 17

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check_lite_layout(self.width, self.modules, self.blocks, self.stem_width, self.keypoints)
        check_dynamic(self.width, self.groups, self.stem_width)
        check(set(self.splits) <= {"ghost", "dense"}, "splits must be ghost or dense", self.splits)
        check(self.mixing in ("none", "depthwise", "dense"), "mixing must be none, depthwise or dense", self.mixing)
        check(self.stem in ("enhanced", "dynamic"), "stem must be enhanced or dynamic", self.stem)
        check(self.stem_kernels >= 1, "stem_kernels must be at least 1", self.stem_kernels)
        reductions = (*self.reductions, self.dense_reduction)
        check(min(reductions) >= 1, "reductions must be at least 1", reductions)

    def build(self) -> LiteNetwork:
        """The network with random weights."""

        def make_block(widths: Sequence[int]) -> nn.Module:
            choices = zip(widths, self.groups, self.splits, strict=False)
            splits = [EnhancedSplitConv(width // 2, groups, split) for width, groups, split in choices]
            if self.mixing == "none":
                return DynamicMultiScaleContext(widths, splits, self.reductions, self.dense_reduction)
            return EnhancedMultiScaleContext(widths, splits, self.reductions, self.dense_reduction, self.mixing)

        def depthwise(width: int, stride: int) -> nn.Module:
            if self.stem == "enhanced":
                return EnhancedConv(width, 3, "ghost", stride)
            return dynamic_conv_bn(width, width, 3, stride, groups=width, kernels=self.stem_kernels)

        stem = DynamicGlobalContextStem(self.stem_width, self.stem_kernels, self.reductions[0], depthwise)
        network = LiteNetwork(
            stem, self.stem_width, make_block, self.width, self.modules, self.blocks, self.keypoints, rectified=True
        )
        initialise_dynamic(network)
        return network
