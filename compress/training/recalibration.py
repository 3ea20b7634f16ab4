"""Batch-norm statistics computed again, once the weights no longer change.

Training leaves moving averages over its last batches. A channel that is dead on those pictures, as many are behind
depthwise convolutions, has variance 0 there, so evaluation multiplies it by 1/sqrt(eps) = 316: the first picture that
activates it floods the network. Seen on a searched DIR-BHRNet: 1 picture in 150 gave heatmaps of up to 1400, AP hardly
changed, and every student of this network was ruined.

The same happens with few pictures: a channel that one of them barely activates has a variance far below its true one
(in a trained DIR-BHRNet 8e-5 on 96 pictures instead of 7e-3 on 1024), and where such a channel feeds another one of its
kind, as in two depthwise convolutions in a row, the two errors multiply. So a variance is trusted only where enough of
the pictures contribute to it.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

PICTURES = 1024
"""Pictures that a finished network is recalibrated on: a channel that one in a hundred activates is active in some."""

KEPT = "{} keeps the batch-norm statistics of its training: new ones raise the loss"
"""Message where recalibration was taken back."""

_EFFECTIVE = 8  # pictures, in effect, that a variance must come from; it is then known to a third
_DEAD = 256  # pictures that show that a channel is dead: of those that 1 in 100 activates, 92 % are active once
_CANCELLED = 1e-3  # of the mean square: a variance below it has lost its digits in the subtraction
_POINT = 0.01  # by which a score may fall
_LOSS = 0.02  # by which the loss may grow, relatively, before recalibration is taken back


def recalibrate(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Sets every batch norm's mean and variance to those of its inputs over all given pictures, batches [B,3,H,W].

    Changes the network and leaves it in eval mode. Every picture weighs the same, whatever the sizes of the batches;
    within a batch each norm works with the batch's own statistics, so one batch of all pictures is exact. Everything
    else is in eval mode: dropout and branches for training alone do not disturb. Norms that no picture reaches, all of
    them without pictures, and norms without statistics of their own stay as they are.

    Where the variance comes from few of the pictures, the larger of this and the given one is taken: a channel is
    damped, not blown up, when a picture activates it. Channels that are constant on all pictures (variance below the
    norm's epsilon) stay at that constant from then on (weight 0) if the given variance is below epsilon too, or if
    there were at least 256 pictures.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.running_var is not None]
    given = {norm: _statistics(norm)[1].clone() for norm in norms}
    seen: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {norm: [] for norm in norms}

    def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean_bc, var_bc = _moments(inputs[0])
        seen[norm].append((mean_bc, var_bc))
        mean_c, squares_bc = _pooled(mean_bc, var_bc)
        _set(norm, mean_c, squares_bc.mean(0))

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    network.eval()
    try:
        with torch.no_grad():
            for batch in images:
                network(batch)
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        for norm in norms:
            if seen[norm]:
                mean_nc, var_nc = (torch.cat(parts) for parts in zip(*seen[norm], strict=True))
                _settle(norm, given[norm], *_pooled(mean_nc, var_nc))


def recalibrate_unless_worse(network: nn.Module, images: Iterable[Tensor], loss: Callable[[], float]) -> bool:
    """Recalibrates, and restores the old statistics if the loss grows by more than 2 %.

    Returns whether the new ones stay.

    loss: of the network as it is when called, 0 or more; NaN counts as worse than any number. Leaves the network in
    eval mode.
    """
    network.eval()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [{name: tensor.clone() for name, tensor in norm.state_dict().items()} for norm in norms]
    given = loss()
    recalibrate(network, images)
    if loss() <= given * (1 + _LOSS) or given != given:
        return True
    for norm, state in zip(norms, before, strict=True):
        norm.load_state_dict(state)
    return False


def enough_pictures(
    network: nn.Module, images: Iterable[Tensor], start: int, score: Callable[[nn.Module], float]
) -> list[Tensor]:
    """As many of these batches as recalibration needs to lose no accuracy; an empty list if it always loses.

    The first ones with `start` pictures, doubled until a copy of the given network that is recalibrated on them scores
    at most a point less than the given network does as it is. score: 0..1; the copies it gets are in eval mode.
    """
    given = score(copy.deepcopy(network).eval())
    taken: list[Tensor] = []
    known, tried, wanted = 0, 0, start

    def suffices() -> bool:
        again = copy.deepcopy(network)
        recalibrate(again, taken)
        return score(again) >= given - _POINT

    for batch in images:
        taken.append(batch)
        known += len(batch)
        if known >= wanted:
            if suffices():
                return taken
            tried, wanted = known, 2 * known
    return taken if known > tried and suffices() else []


def _moments(x_bchw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [B,C] of every picture's channels."""
    mean_bc = x_bchw.mean((2, 3))
    if x_bchw.is_contiguous():
        square_bc = torch.linalg.vector_norm(x_bchw, dim=(2, 3)).square() / x_bchw[0, 0].numel()
    else:  # channels last: the vector norm is slow there
        square_bc = x_bchw.square().mean((2, 3))
    var_bc = square_bc - mean_bc.square()
    if (var_bc < _CANCELLED * square_bc).any():
        return mean_bc, torch.var_mean(x_bchw, dim=(2, 3), correction=0)[0]
    return mean_bc, var_bc


def _pooled(mean_nc: Tensor, var_nc: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [C] over all pictures, and every picture's mean square about it [N,C]; their mean is the variance."""
    mean_c = mean_nc.mean(0)
    return mean_c, var_nc + (mean_nc - mean_c).square()


def _settle(norm: nn.BatchNorm2d, given_c: Tensor, mean_c: Tensor, squares_nc: Tensor) -> None:
    """The statistics that the norm keeps. squares_nc: of every picture, about the mean."""
    pictures, var_c = len(squares_nc), squares_nc.mean(0)
    # Effective sample size (sum v)² / sum v²: n where all pictures contribute alike, 1 where one contributes it all.
    effective_c = squares_nc.sum(0).square() / squares_nc.square().sum(0).clamp(min=1e-30)
    few_c = effective_c < min(_EFFECTIVE, pictures / 2)
    dead_c = (var_c < norm.eps) & ((given_c < norm.eps) | (pictures >= _DEAD))
    _set(norm, mean_c, torch.where(few_c & ~dead_c, torch.maximum(var_c, given_c), var_c))
    if norm.affine:
        norm.weight[dead_c] = 0.0


def _statistics(norm: nn.Module) -> tuple[Tensor, Tensor]:
    mean, var = norm.running_mean, norm.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(var, Tensor)
    return mean, var


def _set(norm: nn.Module, mean_c: Tensor, var_c: Tensor) -> None:
    for statistic, value in zip(_statistics(norm), (mean_c, var_c), strict=True):
        statistic.copy_(value)
