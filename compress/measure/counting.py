"""Parameters and multiply-adds of a network, in plain MACs and in each paper family's own convention.

Counted by forward hooks on leaf modules while the network runs on the meta device, so nothing is computed. What has
no counting rule is listed in `uncounted`, never taken as zero in silence.

Conventions
mac    convolution, linear: multiply-adds; a transposed convolution at its input positions.
hrsum  (HRNet and HigherHRNet repositories) every convolution, transposed too, = weights x output positions.
mmcv   (mmcv and old ptflops; DIR-BHRNet) mac + biases, batch norm 2 per element, ReLU 1, pooling 1 per input element,
       upsampling 1 per output element.
"""

import copy
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Convention = Literal["mac", "hrsum", "mmcv"]

# Modules that cost no multiply-adds in any convention here.
_FREE = (nn.Sequential, nn.Identity, nn.Sigmoid, nn.Dropout, nn.Flatten)


@dataclass(frozen=True)
class Count:
    """params: trainable parameters. macs, hrsum, mmcv: one forward pass of a batch of one. uncounted: module types."""

    params: int
    macs: int
    hrsum: int
    mmcv: int
    uncounted: tuple[str, ...]


def count(network: nn.Module, input_hw: tuple[int, int]) -> Count:
    """Counts one forward pass on a [1,3,H,W] input. The given network is left exactly as it was."""
    shadow = copy.deepcopy(network).to("meta").eval()
    totals: Counter[str] = Counter()
    uncounted: set[str] = set()

    def record(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        formulas = _formulas(module, args[0], output)
        if formulas is None:
            uncounted.add(type(module).__name__)
        else:
            totals.update(formulas)

    hooks = [m.register_forward_hook(record) for m in shadow.modules() if not list(m.children()) and not _is_list(m)]
    with torch.no_grad():
        shadow(torch.empty(1, 3, *input_hw, device="meta"))
    for hook in hooks:
        hook.remove()
    params = sum(p.numel() for p in network.parameters())
    return Count(params, totals["mac"], totals["hrsum"], totals["mmcv"], tuple(sorted(uncounted)))


def _formulas(module: nn.Module, x: Tensor, y: Any) -> dict[str, int] | None:
    if isinstance(module, nn.Conv2d):
        weights = module.weight.numel()
        macs = weights * (y.numel() // y.shape[1])
        bias = y.numel() if module.bias is not None else 0
        return {"mac": macs, "hrsum": macs, "mmcv": macs + bias}
    if isinstance(module, nn.ConvTranspose2d):
        weights = module.weight.numel()
        macs = weights * (x.numel() // x.shape[1])
        bias = y.numel() if module.bias is not None else 0
        return {"mac": macs, "hrsum": weights * (y.numel() // y.shape[1]), "mmcv": macs + bias}
    if isinstance(module, nn.Linear):
        macs = module.weight.numel() * (y.numel() // y.shape[-1])
        return {"mac": macs, "hrsum": macs, "mmcv": macs + (y.numel() if module.bias is not None else 0)}
    if isinstance(module, nn.BatchNorm2d):
        return {"mmcv": 2 * x.numel()}
    if isinstance(module, nn.ReLU):
        return {"mmcv": x.numel()}
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.MaxPool2d | nn.AvgPool2d):
        return {"mmcv": x.numel()}
    if isinstance(module, nn.Upsample):
        return {"mmcv": y.numel()}
    return {} if isinstance(module, _FREE) else None


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, nn.ModuleList | nn.ModuleDict)
