"""HigherHRNet: Scale-Aware Representation Learning for Bottom-Up Human Pose Estimation. Cheng et al., CVPR 2020.

HRNet's backbone; heatmaps and tags (one tag per joint) at 1/4, heatmaps at 1/2. Our counts equal the authors'
(W32 28.6 M / 47.9 G at 512). Without the optional centre joint.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from compress.networks.blocks import initialise
from compress.networks.heads import HigherHead
from compress.networks.hrnet import Backbone, check_layout


class HigherHRNetModule(nn.Module):
    """HRNet backbone and the two-resolution head."""

    def __init__(self, backbone: Backbone, head: HigherHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] → ([B,2K,H/4,W/4], [B,K,H/2,W/2])."""
        return self.head(self.backbone(images))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class HigherHRNet:
    """HigherHRNet-W`width`. The head's transposed convolution has 32 filters for W32 and 48 for W48: the width."""

    family: ClassVar[str] = "higher_hrnet"
    approach: ClassVar[str] = "bottom-up AE"
    stride: ClassVar[int] = 32
    output_strides: ClassVar[tuple[int, ...]] = (4, 2)

    width: int = 32
    modules: tuple[int, int, int] = (1, 4, 3)
    blocks: int = 4
    keypoints: int = 17

    def __post_init__(self) -> None:
        """Raises ValueError for a choice outside the network's range."""
        check_layout(self.width, self.modules, self.blocks, self.keypoints)

    def build(self) -> HigherHRNetModule:
        """The network with random weights."""
        network = HigherHRNetModule(
            Backbone(self.width, self.modules, self.blocks), HigherHead(self.width, self.keypoints, self.width)
        )
        initialise(network)
        network.head.initialise_tags()
        return network
