"""Stacked Hourglass Networks for Human Pose Estimation. Newell, Yang, Deng, ECCV 2016.

Top-down, one output per stack. The classic layout: one pre-activation residual per position, nearest upsampling, and
every convolution has a bias, also before batch norm, as Torch gave them.
Published counts disagree with each other (25.1 M / 14.3 G and 25.6 M / 26.2 G for the same network) and neither figure
of G is met: ours are 25.4 M / 20.6 G multiply-adds at 256x192 and 27.4 G at 256x256.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from compress.networks.architecture import check
from compress.networks.blocks import initialise


class Residual(nn.Module):
    """Batch norm, ReLU, convolution three times (1x1, 3x3, 1x1; half the width between), added to the input.

    A 1x1 projection of the input where the width changes.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = outputs // 2
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(inputs, middle, 1),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, middle, 3, padding=1),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, outputs, 1),
        )
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,outputs,H,W]."""
        return self.layers(x) + self.skip(x)  # type: ignore[no-any-return]


def _conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Hourglass(nn.Module):
    """Down `depth` times and up again; at every resolution a residual carries the features across."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.across = Residual(width, width)
        self.down = nn.Sequential(nn.MaxPool2d(2, 2), Residual(width, width))
        self.inner = Hourglass(width, depth - 1) if depth > 1 else Residual(width, width)
        self.up = nn.Sequential(Residual(width, width), nn.Upsample(scale_factor=2, mode="nearest"))

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H,W]; H and W multiples of 2^depth."""
        return self.across(x) + self.up(self.inner(self.down(x)))  # type: ignore[no-any-return]


class HourglassModule(nn.Module):
    """Stem to 1/4 and the stacks. A stack's features and heatmaps, through a 1x1 each, are added to the next input."""

    def __init__(self, architecture: "StackedHourglass") -> None:
        super().__init__()
        w, keypoints, stacks = architecture.width, architecture.keypoints, architecture.stacks
        self.stem = nn.Sequential(
            _conv_bn_relu(3, w // 4, 7, 2),
            Residual(w // 4, w // 2),
            nn.MaxPool2d(2, 2),
            Residual(w // 2, w // 2),
            Residual(w // 2, w),
        )
        self.hourglasses = nn.ModuleList(
            nn.Sequential(Hourglass(w, architecture.depth), Residual(w, w), _conv_bn_relu(w, w, 1))
            for _ in range(stacks)
        )
        self.maps = nn.ModuleList(nn.Conv2d(w, keypoints, 1) for _ in range(stacks))
        self.features_back = nn.ModuleList(nn.Conv2d(w, w, 1) for _ in range(stacks - 1))
        self.maps_back = nn.ModuleList(nn.Conv2d(keypoints, w, 1) for _ in range(stacks - 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """[B,3,H,W] → per stack [B,K,H/4,W/4]."""
        x = self.stem(images)
        outputs = []
        for stack, (hourglass, maps) in enumerate(zip(self.hourglasses, self.maps, strict=True)):
            features = hourglass(x)
            outputs.append(maps(features))
            if stack < len(self.features_back):
                x = x + self.features_back[stack](features) + self.maps_back[stack](outputs[-1])
        return tuple(outputs)


@dataclass(frozen=True)
class StackedHourglass:
    """`stacks` hourglasses of `depth` halvings at 1/4. width: channels inside; the stem has a quarter and a half."""

    family: ClassVar[str] = "hourglass"
    approach: ClassVar[str] = "top-down"

    stacks: int = 8
    depth: int = 4
    width: int = 256
    keypoints: int = 17

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check(self.stacks >= 1, "stacks must be at least 1", self.stacks)
        check(self.depth >= 1, "depth must be at least 1", self.depth)
        check(self.width >= 4 and self.width % 4 == 0, "width must be a positive multiple of 4", self.width)
        check(self.keypoints >= 1, "keypoints must be at least 1", self.keypoints)

    @property
    def stride(self) -> int:
        """1/4, then `depth` halvings."""
        return 4 << self.depth

    @property
    def output_strides(self) -> tuple[int, ...]:
        """4, once per stack."""
        return (4,) * self.stacks

    def build(self) -> HourglassModule:
        """The network with random weights: He's, but the maps and the ends of the residuals start near zero."""
        network = HourglassModule(self)
        initialise(network)  # takes a bias for the sign of a head: so every convolution starts near zero
        residuals = [module for module in network.modules() if isinstance(module, Residual)]
        near_zero = {*network.maps, *(residual.layers[-1] for residual in residuals)}
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module not in near_zero and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return network
