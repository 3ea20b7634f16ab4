"""What a rule is. A rule replaces one module by another of the same input and output shapes.

Whether a rule matches goes by what modules are, not by how many channels they have: an artefact builds its network,
applies its rewrites and only then gives layers the channels that pruning left them.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)
Convolution = nn.Conv2d | nn.ConvTranspose2d


@dataclass(frozen=True)
class Rule:
    """One replacement.

    does: one line for the user. source: paper and section. exact: with `carry` the outputs in eval mode stay the same,
    up to rounding. matches: by structure alone, also on the meta device. build: a module with random weights, on the
    device, of the dtype and in the mode of the given one, which is not changed. carry(given, replacement): gives the
    replacement the best weights that are known without data; not for the meta device.
    """

    name: str
    does: str
    source: str
    exact: bool
    matches: Callable[[nn.Module], bool]
    build: Callable[[nn.Module], nn.Module]
    carry: Callable[[nn.Module, nn.Module], None]


def alike(new: M, given: nn.Module) -> M:
    """The new module on the device, of the dtype and in the mode of the given one."""
    parameter = next(given.parameters(), None)
    if parameter is not None:
        new.to(parameter.device, parameter.dtype)
    return new.train(given.training)


def in_eval_mode(module: nn.Module) -> nn.Module:
    """The module if it is in eval mode, else a copy that is and shares its parameters and buffers."""
    if not any(part.training for part in module.modules()):
        return module
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, shared).eval()


def carry_nothing(given: nn.Module, replacement: nn.Module) -> None:
    """For replacements without weights, and for those that start best from random ones."""


def carry_state(given: nn.Module, replacement: nn.Module) -> None:
    """For replacements of the same parameters."""
    replacement.load_state_dict(given.state_dict())


def carry_bias(given: Convolution, last: Convolution) -> None:
    """The last layer's bias, where it has one, becomes the given one's; 0 if that has none."""
    if last.bias is not None:
        last.bias.zero_() if given.bias is None else last.bias.copy_(given.bias)


def make_identity(replacement: nn.Module) -> None:
    """Its new batch norms give their inputs in eval mode; without this, a 200,000th less."""
    for norm in replacement.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
            norm.running_var.fill_(1 - norm.eps)
