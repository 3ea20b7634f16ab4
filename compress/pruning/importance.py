"""How much each member of a pruning group matters, by the criteria of the field. The higher, the longer it stays.

A member has channels in many parameters, so each criterion gives a channel a value in every parameter, and joins them.
W is a weight; W[k] are its values at index k of the dimension that runs along the channels; "made" are weights whose
outputs the channels are (depthwise ones too), "read" those whose inputs they are.

Relative criteria. In each parameter a member has the mean over its indices, divided by the mean over the parameter's
members, so 1 is an average channel of that layer; its score is the mean over its parameters (group-wise mean, as
DepGraph: Fang et al., CVPR 2023). So layers of any scale can be compared.
- l1, l2 (Li et al., ICLR 2017): norm of W[k], over made weights.
- fpgm (He et al., CVPR 2019): sum over j of the distance of W[k] to W[j], over made weights: small near the layer's
  geometric median, which the other filters can stand in for.
- batch_norm (Liu et al., ICCV 2017): |gamma|, over the norms that the channels run through. Groups without one: l2.
- activation (Wanda: Sun et al., ICLR 2024, summed over the channel): root mean square of what a layer reads of the
  channel times the sum of |weights| it reads it with, over convolutions and linear layers. Groups that none of these
  reads: l2.
- lamp (Lee et al., ICLR 2021): with s the relative score of the squared l2 norms, s(c) over the sum of all s(j) >= s(c)
  of the group; made comparable between layers by that sum. Sorting by it never empties a layer first.

Absolute criteria: estimates of how the loss changes if nothing reads the member any more, over read weights w with
gradients g, in evaluation mode. Comparable between layers as they are.
- taylor (Molchanov et al., CVPR 2019, gates): mean over the batches of (sum of g w)^2.
- hessian (LeCun et al., 1990, with the empirical Fisher information as diagonal): mean over the batches of
  sum of g^2 w^2 / 2. The Fisher information is exact for batches of one picture.

random: uniform in 0..1.
"""

import copy
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import DataError, NetworkError
from compress.extensions import Extensible
from compress.pruning.channels import Channels, Use
from compress.pruning.groups import PruningGroup, layer_of

Batch = tuple[Tensor, Callable[[Any], Tensor]]
"""Pictures [B,3,H,W], and the loss, a scalar, of what the network gives for them."""

Views = Iterable[tuple[Use, Tensor]]
"""Uses, each with a value for every index along it, [N]."""


@dataclass(frozen=True)
class Importance:
    """scores: of all members that can be removed. substituted: group → the criterion used instead, and why."""

    scores: dict[int, float]
    substituted: dict[str, str]


@dataclass(frozen=True)
class Scored:
    """What a criterion goes by. channels: of the network, with all places where they are used. groups: whose members
    are to be scored. batches: for criteria that need data; may be empty."""

    network: nn.Module
    channels: Channels
    groups: Sequence[PruningGroup]
    batches: Iterable[Batch] = ()
    seed: int = 0


@dataclass(frozen=True)
class Criterion:
    """How much members of pruning groups matter. score: member → its score, the higher the longer it stays. A group
    with a member that has no score gets l2's. The network must be left as it was.

    needs_data: whether it reads batches. absolute: whether it estimates the loss, so that scores of several members add
    up; else scores are relative to a layer. lacking: what a group without scores lacks.
    """

    score: Callable[[Scored], Mapping[int, float]]
    needs_data: bool = False
    absolute: bool = False
    lacking: str = "the criterion gives it no score"


def criterion_named(named: object, place: str = "criterion") -> Criterion:
    """The criterion of that name, see compress.extensions. Raises RecipeError naming the nearest known one."""
    return _CRITERIA.find(named, place)


def importance(
    criterion: str,
    network: nn.Module,
    channels: Channels,
    parts: Sequence[PruningGroup],
    *,
    batches: Iterable[Batch] = (),
    seed: int = 0,
) -> Importance:
    """Scores all members of the groups. batches: for criteria that need data. The network is left as it was.

    Raises RecipeError for an unknown criterion, DataError if it needs batches and there are none, NetworkError if no
    group has what it looks at, or for a score that is not finite.
    """
    found = dict(criterion_named(criterion).score(Scored(network, channels, parts, batches, seed)))
    substituted = _substitute(criterion, found, network, channels, parts)
    scores = {member: found[member] for part in parts for member in part.members}
    for part in parts:
        if not all(math.isfinite(scores[member]) for member in part.members):
            raise NetworkError("scores must be finite", place=part.name, value=criterion, remedy="mend its weights")
    return Importance(scores, substituted)


def _substitute(
    criterion: str, found: dict[int, float], network: nn.Module, channels: Channels, parts: Sequence[PruningGroup]
) -> dict[str, str]:
    """Gives groups in which the criterion finds nothing l2's scores; returns which they are, and why."""
    some = [part for part in parts if part.members]
    missing = [part for part in some if not all(member in found for member in part.members)]
    why = criterion_named(criterion).lacking
    if missing and len(missing) == len(some):
        raise NetworkError(
            f"the criterion {criterion!r} must have something to look at",
            place=missing[0].name,
            value=why,
            remedy="choose l2",
        )
    if missing:
        norms = by_filters(_norms)(Scored(network, channels, parts))
        found.update({member: norms[member] for part in missing for member in part.members})
    return {part.name: f"l2: {why}" for part in missing}


# --- Relative criteria -----------------------------------------------------------------------------------------------


def by_filters(measure: Callable[[Tensor], Tensor]) -> Callable[[Scored], dict[int, float]]:
    """The criterion that sees every made weight as rows [N,M] and gives each of the N a number."""
    return lambda scored: relative(scored.channels, _filters(scored.network, scored.channels, measure))


def relative(channels: Channels, views: Views) -> dict[int, float]:
    """The mean over the parameters of a member's value in each, relative to the parameter's members."""
    seen: dict[int, list[float]] = defaultdict(list)
    for use, values in views:
        of_member: dict[int, list[float]] = defaultdict(list)
        for channel, value in zip(use.channels, values.tolist(), strict=True):
            of_member[channels.member_of(channel)].append(value)
        means = {member: sum(found) / len(found) for member, found in of_member.items()}
        average = sum(means.values()) / len(means)
        for member, mean in means.items():
            seen[member].append(mean / average if average else 0.0)
    return {member: sum(found) / len(found) for member, found in seen.items()}


def _filters(network: nn.Module, channels: Channels, measure: Callable[[Tensor], Tensor]) -> Views:
    """Every made weight, seen as its rows [N,M] by `measure`, in double precision."""
    parameters = dict(network.named_parameters())
    for use in channels.uses:
        if use.made and use.name in parameters and parameters[use.name].ndim > 1:
            yield use, measure(_rows(parameters[use.name].detach(), use.dim).double())


def _norms(rows: Tensor) -> Tensor:
    return rows.square().sum(1).sqrt()


def _norm_scales(network: nn.Module, channels: Channels) -> Views:
    norms = {f"{path}.weight": norm for path, norm in network.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    for use in channels.uses:
        if use.name in norms:
            yield use, norms[use.name].weight.detach().abs().double()


def _lamp(squares: dict[int, float], parts: Sequence[PruningGroup]) -> dict[int, float]:
    found = {}
    for part in parts:
        at_least = 0.0
        for member in sorted(part.members, key=lambda member: (-squares[member], member)):
            at_least += squares[member]
            found[member] = squares[member] / at_least if at_least else 0.0
    return found


def _activations(network: nn.Module, channels: Channels, batches: Iterable[Batch]) -> Views:
    """Every read weight of a convolution or linear layer: root mean square of what it reads · sum of |weights|."""
    copied = copy.deepcopy(network).eval()
    layers = dict(copied.named_modules())
    reading = {
        use: layers[layer_of(use.name)]
        for use in channels.uses
        if not use.made
        and use.name.endswith(".weight")
        and isinstance(layers[layer_of(use.name)], nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    }
    squares: dict[nn.Module, Tensor] = {}
    values: dict[nn.Module, int] = defaultdict(int)

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = _rows(inputs[0], -1 if isinstance(layer, nn.Linear) else 1).double()
        squares[layer] = squares.get(layer, 0) + rows.square().sum(1)
        values[layer] += rows.shape[1]

    for layer in reading.values():
        layer.register_forward_pre_hook(note)
    with torch.no_grad():
        for images, _ in _needed(batches):
            copied(images)
    for use, layer in reading.items():
        if layer not in squares:
            continue  # its weight is used past it: what was not seen is scored by the substitute, and said
        weight = copied.get_parameter(use.name).detach()
        read = (squares[layer] / values[layer]).sqrt().view(-1, len(use.channels)).T  # [N,G]: of each group of a conv
        weights = _rows(weight.abs().double(), use.dim).view(*read.shape, -1).sum(2)
        yield use, (read * weights).sum(1)


# --- Absolute criteria -----------------------------------------------------------------------------------------------


def _loss_changes(scored: Scored, estimate: Callable[[Tensor, Tensor], Tensor]) -> dict[int, float]:
    """The mean over the batches of estimate(sum of g·w, sum of (g·w)²), the sums over all that reads a member."""
    channels = scored.channels
    copied = copy.deepcopy(scored.network).eval().requires_grad_(True)
    parameters = dict(copied.named_parameters())
    read = [use for use in channels.uses if not use.made and use.name in parameters]
    members = sorted({channels.member_of(channel) for use in channels.uses for channel in use.channels})
    position = {member: n for n, member in enumerate(members)}
    places = [torch.tensor([position[channels.member_of(channel)] for channel in use.channels]) for use in read]
    weights = [parameters[use.name] for use in read]
    total, count = torch.zeros(len(members), dtype=torch.double), 0
    for images, loss in _needed(scored.batches):
        gradients = torch.autograd.grad(loss(copied(images)), weights, allow_unused=True)
        joint, squares = torch.zeros_like(total), torch.zeros_like(total)
        for use, place, weight, gradient in zip(read, places, weights, gradients, strict=True):
            if gradient is not None:  # the loss does not depend on a weight whose outputs it leaves out
                products = _rows(weight.detach() * gradient, use.dim).double().cpu()
                joint.index_add_(0, place, products.sum(1))
                squares.index_add_(0, place, products.square().sum(1))
        total += estimate(joint, squares)
        count += 1
    return dict(zip(members, (total / count).tolist(), strict=True))


def _needed(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches. Raises DataError if there are none."""
    empty = True
    for batch in batches:
        empty = False
        yield batch
    if empty:
        raise DataError("this criterion needs pictures", place="criterion", remedy="give data or choose l2")


def _rows(tensor: Tensor, dim: int) -> Tensor:
    """[N,M]: what lies at each index of the dimension."""
    return tensor.movedim(dim, 0).flatten(1)


# --- All criteria ----------------------------------------------------------------------------------------------------


def _by_norms(scored: Scored) -> dict[int, float]:
    return relative(scored.channels, _norm_scales(scored.network, scored.channels))


def _lamp_scores(scored: Scored) -> dict[int, float]:
    return _lamp(by_filters(lambda rows: rows.square().sum(1))(scored), scored.groups)


def _by_activations(scored: Scored) -> dict[int, float]:
    return relative(scored.channels, _activations(scored.network, scored.channels, scored.batches))


def _by_gates(scored: Scored) -> dict[int, float]:
    return _loss_changes(scored, lambda joint, _: joint.square())


def _by_fisher(scored: Scored) -> dict[int, float]:
    return _loss_changes(scored, lambda _, squares: squares / 2)


def _random(scored: Scored) -> dict[int, float]:
    rng = random.Random(scored.seed)
    return {member: rng.random() for part in scored.groups for member in part.members}


_UNREAD = "no convolution or linear layer reads it"

CRITERIA: dict[str, Criterion] = {
    "l1": Criterion(by_filters(lambda rows: rows.abs().sum(1)), lacking=_UNREAD),
    "l2": Criterion(by_filters(_norms), lacking=_UNREAD),
    "fpgm": Criterion(by_filters(lambda rows: torch.cdist(rows, rows).sum(1)), lacking=_UNREAD),
    "batch_norm": Criterion(_by_norms, lacking="no batch norm"),
    "lamp": Criterion(_lamp_scores, lacking=_UNREAD),
    "activation": Criterion(_by_activations, needs_data=True, lacking=_UNREAD),
    "taylor": Criterion(_by_gates, needs_data=True, absolute=True, lacking=_UNREAD),
    "hessian": Criterion(_by_fisher, needs_data=True, absolute=True, lacking=_UNREAD),
    "random": Criterion(_random, lacking=_UNREAD),
}


def _accept(given: Any) -> Criterion | None:
    """A criterion, or a function of what it goes by."""
    return given if isinstance(given, Criterion) else Criterion(given) if callable(given) else None


_CRITERIA = Extensible(
    "criterion",
    "compress.criteria",
    CRITERIA,
    _accept,
    "a function of a Scored (see compress.pruning.importance), or a Criterion",
)
