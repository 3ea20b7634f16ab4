"""Batch-norm statistics taken anew, once the weights no longer change.

Training leaves moving averages over its last batches. A channel that is dead on those pictures, as many are behind
depthwise convolutions, has variance 0 there, so evaluation multiplies it by 1/sqrt(eps) = 316: the first picture that
wakes it floods the network. Seen on a searched DIR-BHRNet: 1 picture in 150 gave heatmaps of up to 1400, AP hardly
changed, and every network taught by it was ruined.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

PICTURES = 1024
"""That a finished network is recalibrated on: what one picture in a hundred wakes is among them."""


def recalibrate(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Sets every batch norm's statistics to the plain average over the given batches [B,3,H,W]. Changes the network.

    Channels that are constant over all of them (variance below the norm's epsilon) stay at that constant from then on.
    Leaves the network in eval mode.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    network.train()
    with torch.no_grad():
        for batch in images:
            network(batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.affine and norm.running_var is not None:
                norm.weight[norm.running_var < norm.eps] = 0.0
    network.eval()
