"""A network with a site for every rule, and networks of the zoo that have one."""

import torch
from torch import Tensor, nn

from compress.networks.blocks import ChannelShuffle, conv_bn
from compress.networks.openpose import RefinementStage

ZOO = {
    "conv_to_3x3": "mobile_openpose_7x7",
    "dilated_to_3x3": "lightweight_openpose",
    "dilated_to_two_3x3": "lightweight_openpose",
    "conv_to_separable": "higher_hrnet",
    "transposed_to_separable": "mobileposenet_transposed",
    "transposed_to_upsample": "simple_baseline_two_deconvs",
    "swish_to_hard_swish": "mobile_openpose_swish",
    "swish_to_hard_tanh": "mobile_openpose_swish",
    "swish_to_relu": "mobile_openpose_swish",
    "sigmoid_to_hard_sigmoid": "mobile_openpose_efficientnet",
    "elu_to_relu": "lightweight_openpose",
    "se_to_none": "mobileposenet_attention",
    "se_to_hard_sigmoid": "mobile_openpose_swish",
    "se_to_eca": "mobilenet_v3",
    "residual_to_ir": "small_hrnet",
    "residual_to_dir": "small_hrnet",
    "remove_block": "hourglass",
    "remove_stage": "openpose",
    "bilinear_to_nearest": "lite_hrnet",
    "shuffle_to_pointwise": "shufflenet_v2",
    "fold_batch_norm": "mobileposenet",
}
"""Rule → a network of tests/networks/small.py with a site; no network has a GELU."""


class LinearAttention(nn.Module):
    """Squeeze-and-excitation with linear layers, its gate a module of its own, its ReLU none."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2, self.gate = nn.Linear(width, 4, bias=False), nn.Linear(4, width), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(torch.relu(self.fc1(x.mean((2, 3))))))[:, :, None, None]


class PreactBlock(nn.Module):
    """Batch norm and ReLU before the convolutions; nothing behind the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        self.convolutions = nn.Sequential(conv_bn(width, width, 3), nn.Conv2d(width, width, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolutions(self.relu(self.norm(x)))


def every_rule(width: int = 8) -> nn.Sequential:
    """[B,3,H,W] → [B,5,H,W], H and W even; a site for every rule."""
    return nn.Sequential(
        nn.Conv2d(3, width, 7, 2, 3),
        nn.SiLU(),
        nn.Conv2d(width, width, 5, padding="same", groups=width),
        nn.ELU(),
        nn.Conv2d(width, width, 3, padding=2, dilation=2),
        nn.GELU(),
        LinearAttention(width),
        PreactBlock(width),
        nn.Conv2d(width, 2 * width, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        ChannelShuffle(2),
        nn.Conv2d(2 * width, width, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(width, width, 4, 2, 1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Sequential(nn.Conv2d(width, width, 1), nn.Sigmoid()),
        RefinementStage(width - 5, 3, 2, 1),  # last, for its maps are never pruned
    )
