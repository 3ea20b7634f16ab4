"""Squeeze-and-excitation, cheaper or removed.

Such a module is recognised by its parts and by what it does. Its parts: two 1x1 convolutions or linear layers, C to S
and S to C, at most one sigmoid or hard sigmoid module, otherwise only modules without weights. What it does: every
channel is multiplied by one number, which is 1/2 where all weights are zero.
"""

import copy
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compress.rewriting.rule import Rule, alike, carry_nothing, carry_state, in_eval_mode

KERNEL = 5
"""Channels that ECA sees. Its Eq. 12 gives 3 below 128 channels and 5 up to 1024; here one size, so that the module's
shape does not go by the channels, which pruning may change."""


class EfficientChannelAttention(nn.Module):
    """ECA-Net's attention: a convolution over neighbouring channels of the pooled features, and a sigmoid, scale them.

    With a bias, which the paper's has not: so it can start at the mean of the gates that it replaces.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, KERNEL, padding=KERNEL // 2)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H,W]."""
        pooled = self.pool(x).flatten(2).transpose(1, 2)  # [B,1,C]
        return x * self.gate(self.conv(pooled)).transpose(1, 2).unsqueeze(3)  # type: ignore[no-any-return]


def attention_layers(module: nn.Module) -> tuple[nn.Conv2d | nn.Linear, nn.Conv2d | nn.Linear] | None:
    """The squeezing and the exciting layer; None for what is no squeeze-and-excitation (module docstring)."""
    holders = [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]
    layers = [part for part in holders if isinstance(part, nn.Linear) or _is_pointwise(part)]
    if len(layers) != 2 or len(holders) != 2 or len(_gates(module)) > 1:
        return None
    squeeze, excite = layers
    (squeezed, width), (outputs, inputs) = squeeze.weight.shape[:2], excite.weight.shape[:2]
    return (squeeze, excite) if (width, squeezed) == (outputs, inputs) and _scales(module, width) else None


def _is_pointwise(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1


def _gates(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, nn.Sigmoid | nn.Hardsigmoid)]


def _scales(module: nn.Module, width: int) -> bool:
    """Whether it multiplies channels as the module docstring says; tried with zeros and with random weights."""
    generator = torch.Generator().manual_seed(0)
    shell = in_eval_mode(module)
    x = torch.rand(1, width, 3, 4, generator=generator) + 0.5
    zeros = {name: torch.zeros(tensor.shape) for name, tensor in module.named_parameters()}
    weights = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in module.named_parameters()}
    try:
        with torch.no_grad():
            halved, scaled = (functional_call(shell, values, x.clone()) for values in (zeros, weights))
    except Exception:  # what takes other inputs is no attention, and a module of the user's may raise anything
        return False
    if not all(isinstance(y, Tensor) and y.shape == x.shape for y in (halved, scaled)):
        return False
    gates = scaled / x
    return torch.allclose(halved, x / 2) and torch.allclose(gates, gates[:, :, :1, :1].expand_as(gates), atol=1e-6)


def _is_attention(module: nn.Module) -> bool:
    return attention_layers(module) is not None


def _has_sigmoid(module: nn.Module) -> bool:
    return any(isinstance(gate, nn.Sigmoid) for gate in _gates(module)) and _is_attention(module)


def _build_nothing(module: nn.Module) -> nn.Module:
    return alike(nn.Identity(), module)


def _build_hard_sigmoid(module: nn.Module) -> nn.Module:
    new = copy.deepcopy(module)
    for part in list(new.modules()):
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.reset_parameters()
        for name, child in part._modules.items():  # named_children leaves out what comes again
            if isinstance(child, nn.Sigmoid):
                setattr(part, name, alike(nn.Hardsigmoid(), module))
    return new


def _build_eca(module: nn.Module) -> nn.Module:
    return alike(EfficientChannelAttention(), module)


@torch.no_grad()
def _carry_eca(given: nn.Module, replacement: nn.Module) -> None:
    """The two layers in a row, as if no activation lay between, are a matrix [C,C]: its diagonals' means and the bias.

    The bias is the mean gate of features that are zero.
    """
    layers = attention_layers(given)
    assert layers is not None
    assert isinstance(replacement, EfficientChannelAttention)
    squeeze, excite = (layer.weight.flatten(1) for layer in layers)
    width = len(excite)
    reach = min(KERNEL // 2, width - 1)
    replacement.conv.weight.zero_()
    for shift in range(-reach, reach + 1):
        diagonal = (excite @ squeeze).diagonal(shift)  # of how channel c + shift counts for c
        replacement.conv.weight[0, 0, KERNEL // 2 + shift] = diagonal.mean()
    assert replacement.conv.bias is not None
    replacement.conv.bias.fill_(_mean_logit(given, width))


def _mean_logit(given: nn.Module, width: int) -> float:
    """Of the gates of features that are nearly zero, as a sigmoid's input."""
    weight = next(given.parameters())
    x = torch.full((1, width, 1, 1), 1e-3, dtype=weight.dtype, device=weight.device)
    gates = in_eval_mode(given)(x.clone()) / x
    return float(torch.logit(gates.clamp(1e-3, 1 - 1e-3)).mean())


ATTENTION_RULES = (
    Rule(
        "se_to_none",
        "squeeze-and-excitation → nothing",
        "Liu, EfficientNet-Lite, TensorFlow blog, 2020",
        False,
        _is_attention,
        _build_nothing,
        carry_nothing,
    ),
    Rule(
        "se_to_hard_sigmoid",
        "squeeze-and-excitation with sigmoid → with hard sigmoid",
        "Howard et al., ICCV 2019, Sec. 5.3",
        False,
        _has_sigmoid,
        _build_hard_sigmoid,
        carry_state,
    ),
    Rule(
        "se_to_eca",
        "squeeze-and-excitation → a convolution over neighbouring channels (ECA)",
        "Wang et al., ECA-Net, CVPR 2020, Sec. 3.2",
        False,
        _is_attention,
        _build_eca,
        _carry_eca,
    ),
)
