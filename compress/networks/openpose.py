"""OpenPose: Realtime Multi-Person 2D Pose Estimation Using Part Affinity Fields. Cao et al., CVPR 2017.

The COCO network: the first ten layers of VGG-19 and six stages of two branches. Nothing ambiguous: the authors' model
is public and our counts equal the published ones (52.31 M; 136.07 G in mmcv's convention at 368x368, published 52.3
and 136.1).

The three PAF files (this one, lightweight_openpose, mobile_openpose) agree: a stage's output is one map, K+1 heatmaps
(the last is the background) and then 2L part affinity fields; a refinement stage reads features, heatmaps and fields,
concatenated in this order.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import Activation, activation, initialise


class HiddenConv(nn.Sequential):
    """Convolution with bias, batch norm if asked for, and an activation. Padding keeps H and W."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        norm: bool = False,
        act: Activation = "relu",
    ) -> None:
        padding = dilation * (kernel // 2)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(inputs, outputs, kernel, 1, padding, dilation, groups, bias)
        )
        if norm:
            layers["bn"] = nn.BatchNorm2d(outputs)
        layers["act"] = activation(act)
        super().__init__(layers)


class ReadsMaps:
    """What a refinement stage is beside a module: it reads features and, behind them, the maps of the stage before.

    maps: channels of these, and of what it makes.
    """

    maps: int


class PreviousMaps(nn.Module):
    """In place of a refinement stage: the maps that it would have read. A PafNetwork does not even join its input."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, x: Tensor) -> Tensor:
        """[B,C+maps,h,w] → [B,maps,h,w]."""
        return x[:, x.shape[1] - self.maps :]


def initialise_paf(network: nn.Module) -> None:
    """`initialise`, which takes a bias for the sign of a head; then the hidden convolutions as He et al. 2015.

    Scaled by the inputs, since most have no batch norm behind them. The background starts at its answer for an empty
    picture, 1: a start at 0 is wrong at every cell, which is most of the first loss, and its gradient makes the shared
    features uniform before they have learned anything.
    """
    initialise(network)
    for module in network.modules():
        if isinstance(module, HiddenConv):
            conv: nn.Conv2d = module.conv  # type: ignore[assignment]
            if not conv.weight.is_meta:
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        elif isinstance(module, (Heads, Stage)):
            bias: Tensor = module.heatmaps[-1].bias  # type: ignore[assignment]
            nn.init.ones_(bias[-1:])


class Heads(nn.Module):
    """Heatmaps and part affinity fields from shared features, each by 1x1 to `middle` channels and 1x1 to the maps."""

    def __init__(self, inputs: int, middle: int, keypoints: int, limbs: int) -> None:
        super().__init__()
        self.heatmaps = nn.Sequential(HiddenConv(inputs, middle, 1), nn.Conv2d(middle, keypoints + 1, 1))
        self.fields = nn.Sequential(HiddenConv(inputs, middle, 1), nn.Conv2d(middle, 2 * limbs, 1))

    def forward(self, features: Tensor) -> Tensor:
        """[B,C,h,w] → [B,K+1+2L,h,w]."""
        return torch.cat((self.heatmaps(features), self.fields(features)), 1)


class PafNetwork(nn.Module):
    """Features at 1/8, the initial stage, and refinement stages that see the features and the stage before."""

    def __init__(self, features: nn.Module, initial: nn.Module, refinements: list[nn.Module]) -> None:
        super().__init__()
        self.features = features
        self.initial = initial
        self.refinements = nn.ModuleList(refinements)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B,3,H,W] → per stage [B,K+1+2L,H/8,W/8]."""
        features = self.features(images)
        outputs = [self.initial(features)]
        for refinement in self.refinements:
            left_out = isinstance(refinement, PreviousMaps)
            outputs.append(outputs[-1] if left_out else refinement(torch.cat((features, outputs[-1]), 1)))
        return tuple(outputs)


def check_maps(keypoints: int, limbs: int) -> None:
    """Raises ValueError unless there is something to find."""
    check(keypoints >= 1, "keypoints must be at least 1", keypoints)
    check(limbs >= 1, "limbs must be at least 1", limbs)


class Vgg(nn.Sequential):
    """VGG-19 up to conv4_2 at 1/8, then two 3x3 convolutions to the features. width: of the first layers (VGG's 64)."""

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        inputs = 3
        for stage, layers in enumerate((2, 2, 4, 2)):
            if stage > 0:
                self.append(nn.MaxPool2d(2, 2))
            for _ in range(layers):
                self.append(HiddenConv(inputs, width * 2**stage, 3))
                inputs = width * 2**stage
        self.append(HiddenConv(inputs, 2 * features, 3))
        self.append(HiddenConv(2 * features, features, 3))


class Stage(nn.Module):
    """Two separate branches of `layers` convolutions, 1x1 to `middle` channels and 1x1 to the maps."""

    def __init__(
        self, inputs: int, width: int, layers: int, kernel: int, middle: int, keypoints: int, limbs: int
    ) -> None:
        super().__init__()

        def branch(maps: int) -> nn.Sequential:
            trunk = [HiddenConv(width if layer else inputs, width, kernel) for layer in range(layers)]
            return nn.Sequential(*trunk, HiddenConv(width, middle, 1), nn.Conv2d(middle, maps, 1))

        self.heatmaps = branch(keypoints + 1)
        self.fields = branch(2 * limbs)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,h,w] → [B,K+1+2L,h,w]."""
        return torch.cat((self.heatmaps(x), self.fields(x)), 1)


class RefinementStage(Stage, ReadsMaps):
    """A stage of five layers that reads the maps of the one before."""

    def __init__(self, features: int, kernel: int, keypoints: int, limbs: int) -> None:
        maps = keypoints + 1 + 2 * limbs
        super().__init__(features + maps, features, 5, kernel, features, keypoints, limbs)
        self.maps = maps


@dataclass(frozen=True)
class OpenPose:
    """OpenPose's COCO network. keypoints: COCO's 17 and the neck. limbs: with a field each.

    width: of VGG's first layers. features: channels that every stage reads and of every layer of a stage.
    stages: the initial one and the refinements. kernel: of the refinements' five layers.
    """

    family: ClassVar[str] = "openpose"
    approach: ClassVar[str] = "PAF"
    stride: ClassVar[int] = 8

    width: int = 64
    features: int = 128
    stages: int = 6
    kernel: int = 7
    keypoints: int = 18
    limbs: int = 19

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check(self.width >= 1, "width must be at least 1", self.width)
        check(self.features >= 1, "features must be at least 1", self.features)
        check(self.stages >= 1, "stages must be at least 1", self.stages)
        check(self.kernel >= 1 and self.kernel % 2 == 1, "kernel must be odd and positive", self.kernel)
        check_maps(self.keypoints, self.limbs)

    @property
    def output_strides(self) -> tuple[int, ...]:
        """8, once per stage."""
        return (8,) * self.stages

    def build(self) -> PafNetwork:
        """The network with random weights."""
        f, maps = self.features, (self.keypoints, self.limbs)
        refinements: list[nn.Module] = [RefinementStage(f, self.kernel, *maps) for _ in range(self.stages - 1)]
        network = PafNetwork(Vgg(self.width, f), Stage(f, f, 3, 3, 4 * f, *maps), refinements)
        initialise_paf(network)
        return network
