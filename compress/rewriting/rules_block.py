"""Residual blocks, refinement stages, upsampling, shuffles and batch norms.

A residual block is recognised by what it does: with all weights zero it gives its input, or its input after a ReLU. It
is no plain chain of modules, and holds no other residual block.
"""

import copy
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from compress.networks.blocks import BlockKind, ChannelShuffle, InvertedResidual, inputs_of
from compress.networks.openpose import PreviousMaps, ReadsMaps
from compress.rewriting.rule import Convolution, Rule, alike, carry_nothing, in_eval_mode, make_identity

EXPANSION = 4
"""Of inverted residuals, if multiply-adds do not grow by it: DIR-HRNet's."""


# --- Residual blocks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Residual:
    """A block that adds to its input. channels: of the input. rectified: it ends in a ReLU."""

    channels: int
    rectified: bool


def residual(module: nn.Module) -> Residual | None:
    """What kind of residual block the module is; None if it is none (module docstring)."""
    found = _adds_to_input(module)
    parts = list(module.modules())[1:]
    return None if found is None or any(_adds_to_input(part) for part in parts) else found


def _adds_to_input(module: nn.Module) -> Residual | None:
    if is_chain(module) or not any(isinstance(part, nn.Conv2d) for part in module.modules()):
        return None
    channels = inputs_of(module)
    x = 10 * torch.randn(1, channels, 8, 8, generator=torch.Generator().manual_seed(0))  # beyond a ReLU6
    state = [*module.named_parameters(), *module.named_buffers()]
    zeros = {
        name: torch.zeros(tensor.shape, dtype=x.dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in state
    }
    try:
        with torch.no_grad():
            y = functional_call(in_eval_mode(module), zeros, x.clone())
    except Exception:  # what takes other inputs is no residual block, and a module of the user's may raise anything
        return None
    for rectified, expected in ((False, x), (True, functional.relu(x))):
        if isinstance(y, Tensor) and torch.equal(y, expected):
            return Residual(channels, rectified)
    return None


def is_chain(module: nn.Module) -> bool:
    """Whether it runs its children one after the other, and does nothing else."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _is_dense_residual(module: nn.Module) -> bool:
    """Its first convolution is dense and larger than 1x1; inverted residuals and bottlenecks begin with 1x1."""
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    return first is not None and first.groups == 1 and first.kernel_size > (1, 1) and residual(module) is not None


def _build_inverted(kind: BlockKind, module: nn.Module) -> nn.Module:
    """Ends in a ReLU where the given one does: what follows expects no negative values."""
    block = residual(module)
    assert block is not None
    c = block.channels
    macs = sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Conv2d))  # per cell
    depthwise = 2 if kind == "dir" else 1
    expansion = max(1, min(EXPANSION, macs // (2 * c * c + 9 * depthwise * c)))
    inverted = InvertedResidual(c, expansion, kind)
    return alike(nn.Sequential(inverted, nn.ReLU(inplace=True)) if block.rectified else inverted, module)


@torch.no_grad()
def _carry_inverted(given: nn.Module, replacement: nn.Module) -> None:
    """It starts as its input: the last convolution adds zero."""
    block = next(part for part in replacement.modules() if isinstance(part, InvertedResidual))
    make_identity(block)
    block.project.get_parameter("conv.weight").zero_()


def _is_residual(module: nn.Module) -> bool:
    return residual(module) is not None


def _build_without_block(module: nn.Module) -> nn.Module:
    block = residual(module)
    assert block is not None
    return alike(nn.ReLU() if block.rectified else nn.Identity(), module)  # not in place: others may read the input


# --- Refinement stages -----------------------------------------------------------------------------------------------


def _reads_maps(module: nn.Module) -> bool:
    return isinstance(module, ReadsMaps)


def _build_without_stage(module: nn.Module) -> nn.Module:
    assert isinstance(module, ReadsMaps)
    return alike(PreviousMaps(module.maps), module)


# --- Upsampling and shuffles -----------------------------------------------------------------------------------------


def _is_bilinear(module: nn.Module) -> bool:
    return isinstance(module, nn.Upsample) and module.mode == "bilinear"


def _build_nearest(module: nn.Module) -> nn.Module:
    assert isinstance(module, nn.Upsample)
    return alike(nn.Upsample(module.size, module.scale_factor, mode="nearest"), module)


class PointwiseShuffle(ChannelShuffle):
    """A channel shuffle as one 1x1 convolution, whose weights are the permutation; an export holds them as constants.

    They are found at every call, since a shuffle knows only its groups; nothing of it is trained.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[B,C,H,W] → [B,C,H,W], as ChannelShuffle."""
        inputs = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, :, None, None]
        return functional.conv2d(x, super().forward(inputs).transpose(0, 1))


def _is_shuffle(module: nn.Module) -> bool:
    return type(module) is ChannelShuffle


def _build_pointwise(module: nn.Module) -> nn.Module:
    assert isinstance(module, ChannelShuffle)
    new = PointwiseShuffle(module.groups)
    vars(new).update(copy.deepcopy(vars(module)))  # its order, if pruning gave it one, and the mode
    return new


# --- Batch norm ------------------------------------------------------------------------------------------------------


def _layers(chain: nn.Module) -> OrderedDict[str, nn.Module]:
    """By name, and a layer that stands there again once more: named_children leaves it out."""
    assert isinstance(chain, nn.Sequential)
    return OrderedDict(zip(chain._modules, chain, strict=True))


def _folds(conv: nn.Module, norm: nn.Module) -> bool:
    convolution = type(conv) in (nn.Conv2d, nn.ConvTranspose2d)
    return convolution and type(norm) is nn.BatchNorm2d and norm.track_running_stats


def _has_norm_to_fold(module: nn.Module) -> bool:
    """Not where a layer to fold stands in the chain again: it would become several."""
    if not is_chain(module):
        return False
    standing = [part for _, part in module.named_modules(remove_duplicate=False)]
    layers = _layers(module)
    folded = [layers[name] for pair in _pairs(module) for name in pair]
    return bool(folded) and all(standing.count(layer) == 1 for layer in folded)


def _pairs(module: nn.Module) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms behind them."""
    named = pairwise(_layers(module).items())
    return [(name, norm_name) for (name, layer), (norm_name, norm) in named if _folds(layer, norm)]


def _build_folded(module: nn.Module) -> nn.Module:
    """A chain of the same names; identities in the place of batch norms."""
    layers = _layers(copy.deepcopy(module))
    for name, norm_name in _pairs(module):
        conv = layers[name]
        assert isinstance(conv, Convolution)
        conv.weight = nn.Parameter(torch.empty_like(conv.weight))  # other layers may share the given one's
        conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
        conv.reset_parameters()
        layers[norm_name] = nn.Identity()
    return alike(nn.Sequential(layers), module)


@torch.no_grad()
def _carry_folded(given: nn.Module, replacement: nn.Module) -> None:
    """y = (w*x + b - mean)·scale + shift, scale = gain / √(variance + ε)."""
    for name, norm_name in _pairs(given):
        conv, norm, folded = (*map(given.get_submodule, (name, norm_name)), replacement.get_submodule(name))
        assert isinstance(conv, Convolution)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(folded, Convolution)
        assert norm.running_var is not None
        assert norm.running_mean is not None
        assert folded.bias is not None
        scale = (norm.running_var + norm.eps).rsqrt() * (norm.weight if norm.affine else 1)
        if isinstance(conv, nn.ConvTranspose2d):  # [I,O/groups,k,k]; every input belongs to one group
            by_input = scale.view(conv.groups, -1).repeat_interleave(conv.in_channels // conv.groups, 0)
            folded.weight.copy_(conv.weight * by_input[..., None, None])
        else:
            folded.weight.copy_(conv.weight * scale[:, None, None, None])
        bias = 0 if conv.bias is None else conv.bias
        folded.bias.copy_((bias - norm.running_mean) * scale + (norm.bias if norm.affine else 0))


BLOCK_RULES = (
    Rule(
        "residual_to_ir",
        "dense residual block → inverted residual (MobileNetV2's), of no more multiply-adds",
        "Sandler et al., CVPR 2018, Sec. 3.3",
        False,
        _is_dense_residual,
        partial(_build_inverted, "ir"),
        _carry_inverted,
    ),
    Rule(
        "residual_to_dir",
        "dense residual block → dense inverted residual (DIR), of no more multiply-adds",
        "DIR-BHRNet, Sec. III-A",
        False,
        _is_dense_residual,
        partial(_build_inverted, "dir"),
        _carry_inverted,
    ),
    Rule(
        "remove_block",
        "residual block of equal input and output → nothing, or a ReLU if it ends in one (depth)",
        "Huang et al., Stochastic Depth, ECCV 2016, Sec. 3",
        False,
        _is_residual,
        _build_without_block,
        carry_nothing,
    ),
    Rule(
        "remove_stage",
        "refinement stage → the maps of the stage before (depth)",
        "Cao et al., OpenPose, CVPR 2017, Sec. 2.1",
        False,
        _reads_maps,
        _build_without_stage,
        carry_nothing,
    ),
    Rule(
        "bilinear_to_nearest",
        "bilinear upsampling → nearest",
        "Sun et al., HRNet, CVPR 2019, Sec. 3 (nearest)",
        False,
        _is_bilinear,
        _build_nearest,
        carry_nothing,
    ),
    Rule(
        "shuffle_to_pointwise",
        "channel shuffle → the 1x1 convolution that is this permutation",
        "Zhang et al., ShuffleNet, CVPR 2018, Sec. 3.1",
        True,
        _is_shuffle,
        _build_pointwise,
        carry_nothing,
    ),
    Rule(
        "fold_batch_norm",
        "batch norm behind a convolution → its weights and bias",
        "Jacob et al., CVPR 2018, Sec. 3.2",
        True,
        _has_norm_to_fold,
        _build_folded,
        _carry_folded,
    ),
)
