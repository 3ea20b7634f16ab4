"""Zero-cost proxies: figures of an untrained network that may order candidates as their scores do.

    synflow   log Σ |θ · ∂R/∂θ| over the weights, R the sum of what a network of absolute weights makes of a picture of
              ones, without batch norms (Tanaka et al., NeurIPS 2020; as a proxy: Abdelfattah et al., ICLR 2021)
    naswot    log det of how many activations two pictures have in common, on or off, over all pairs of pictures (Mellor
              et al., ICML 2021)

They cost a forward pass, or that and a backward pass. Larger is better. Both grow with a network's size, and on many
spaces neither orders networks better than multiply-adds do (White et al., "A deeper look at zero-cost proxies for
lightweight NAS", ICLR Blog Track 2022): compare them before they are trusted.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import NetworkError

Proxy = Callable[[nn.Module, Tensor], float]
"""A network, which is left as it is, and pictures [B,3,H,W] → its figure."""

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Hardswish)


def synflow(network: nn.Module, images: Tensor) -> float:
    """See the module's docstring; in float64. Raises NetworkError if it is beyond float64, as in very deep networks.

    images: of which only the shape counts.
    """
    copied = copy.deepcopy(network).double().eval()
    for name, module in list(copied.named_modules()):
        if isinstance(module, _NORMS):
            copied.set_submodule(name, nn.Identity())
    weights = [parameter for parameter in copied.parameters() if parameter.ndim > 1]
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.abs_()
            parameter.requires_grad_(True)
    outputs = copied(torch.ones(1, *images.shape[1:], dtype=torch.float64))
    total = sum(output.sum() for output in _tensors(outputs))
    assert isinstance(total, Tensor)
    gradients = torch.autograd.grad(total, weights, allow_unused=True)
    flow = sum(
        float((weight * gradient).abs().sum().detach())
        for weight, gradient in zip(weights, gradients, strict=True)
        if gradient is not None
    )
    if not math.isfinite(flow) or flow <= 0:
        raise NetworkError(
            "synflow must be a positive number", place="zero-cost proxy", value=flow, remedy="use naswot"
        )
    return math.log(flow)


def naswot(network: nn.Module, images: Tensor) -> float:
    """See the module's docstring; batch norms by the pictures' own statistics. One is added to the diagonal, so that
    pictures of equal codes have a finite figure. Raises NetworkError for a network without activation modules."""
    copied = copy.deepcopy(network).eval()
    for module in copied.modules():
        if isinstance(module, _NORMS):
            module.train()
    kernel = torch.eye(len(images), dtype=torch.float64)

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        codes = (inputs[0].detach() > 0).flatten(1).double()
        kernel.add_(codes @ codes.T + (1 - codes) @ (1 - codes).T)

    found = [module for module in copied.modules() if isinstance(module, _RECTIFIERS)]
    if not found:
        raise NetworkError(
            "naswot counts activations, and the network has none as modules",
            place="zero-cost proxy",
            remedy="use synflow",
        )
    for module in found:
        module.register_forward_pre_hook(count)
    with torch.no_grad():
        copied(images)
    return float(torch.linalg.slogdet(kernel).logabsdet)


def _tensors(outputs: Any) -> list[Tensor]:
    """All tensors of what a network returns."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for one in outputs for tensor in _tensors(one)] if isinstance(outputs, Sequence) else []


PROXIES: dict[str, Proxy] = {"synflow": synflow, "naswot": naswot}
