"""A narrow SimpleBaseline as the file that its authors' code would write."""

import re

import torch
from torch import Tensor, nn

from compress.networks.simple_baseline import SimpleBaseline

SMALL = SimpleBaseline(blocks=(1, 1, 1, 1), width=4)


def small_file(architecture: SimpleBaseline = SMALL) -> dict[str, Tensor]:
    """A small network's tensors by the names of SimpleBaseline's authors."""
    found = {}
    for name, tensor in random_state(architecture.build()).items():
        if match := re.fullmatch(r"backbone\.0\.(conv|bn)\.(\w+)", name):
            theirs = f"{match[1]}1.{match[2]}"
        elif match := re.fullmatch(r"backbone\.(\d)\.(\d+)\.conv(\d)\.(conv|bn)\.(\w+)", name):
            theirs = f"layer{int(match[1]) - 1}.{match[2]}.{match[4]}{match[3]}.{match[5]}"
        elif match := re.fullmatch(r"backbone\.(\d)\.(\d+)\.skip\.(conv|bn)\.(\w+)", name):
            theirs = f"layer{int(match[1]) - 1}.{match[2]}.downsample.{int(match[3] == 'bn')}.{match[4]}"
        else:
            theirs = name.replace("head.deconvs", "deconv_layers").replace("head.maps", "final_layer")
        found[theirs] = tensor
    return found


def random_state(module: nn.Module) -> dict[str, Tensor]:
    """Weights of which none is like another, and statistics that norms can have."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(one.shape, generator=generator) + 0.5
        if name.endswith("running_var")
        else torch.randn(one.shape, generator=generator) * 0.2
        if one.is_floating_point()
        else one
        for name, one in module.state_dict().items()
    }
