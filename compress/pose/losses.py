"""What training minimises, for each approach.

Sources: Newell, Huang, Deng, "Associative Embedding" (2017, arXiv:1611.05424); Cheng et al., "HigherHRNet" (2020,
arXiv:1908.10357) and its code (HeatmapLoss, AELoss); paper 000 (DIR-BHRNet), section III-C; Sun et al., "HRNet" (2019,
arXiv:1902.09212) and its code (JointsMSELoss, JointsOHKMMSELoss); Osokin, "Lightweight OpenPose" (2018,
arXiv:1811.12004) and its code (l2_loss).

weighted_mse           → one number for a map
associative_embedding  → pull, push as the HigherHRNet code has them
associative_embedding_of_paper_000 → pull, push as eq. 4 is meant
bottom_up_loss, part_affinity_loss, top_down_loss → what a training step goes back through
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from compress.errors import DataError


@dataclass(frozen=True)
class PoseLoss:
    """The weight of each term. heatmap: one per output scale, in the order of the outputs (coarse first).

    paper_tags: pull and push as paper 000 writes them, not as the HigherHRNet code does.
    """

    heatmap: tuple[float, ...]
    pull: float = 0.0
    push: float = 0.0
    paper_tags: bool = False


class Targets(Protocol):
    """What a loss reads from a batch.

    maps: [B,C,h,w], in 0..1 (fields: -1..1). weights: of a shape that goes with the map's, 0 where people are
    unlabelled. joints: int64 [B,P,K,2], flat index into [K,h,w] of the first output's tags, and 1 where the joint is
    visible, else 0; None where nothing is tagged.
    """

    @property
    def maps(self) -> Sequence[Tensor]: ...
    @property
    def weights(self) -> Sequence[Tensor]: ...
    @property
    def joints(self) -> Tensor | None: ...


def weighted_mse(predicted_bchw: Tensor, target_bchw: Tensor, weight: Tensor) -> Tensor:
    """Mean of weight · squared error over batch, channels and cells (HigherHRNet's HeatmapLoss, HRNet's JointsMSELoss).

    The mean is over all cells, those of weight 0 too, so a picture with much crowd or few labels weighs less.
    """
    return ((predicted_bchw - target_bchw).square() * weight).mean()


def associative_embedding(tags_bkhw: Tensor, joints_bpk2: Tensor) -> tuple[Tensor, Tensor]:
    """Pull and push of a batch, each the mean over its pictures (HigherHRNet's AELoss, loss type "exp").

    With N people that show a joint, m_a the mean tag of person a over its visible joints:
    pull = mean over people of the mean over visible joints of (tag - m_a)²;
    push = 0.5 · Σ_{a≠b} exp(-(m_a - m_b)²) / (N(N-1)).
    N = 1: pull alone. N = 0: both 0, and the picture still counts in the mean.

    joints_bpk2: int64, flat index into [K,h,w] and visible 0/1; rows of padding are invisible everywhere.
    """
    tags_bpk, visible_bpk = _gather(tags_bkhw, joints_bpk2)
    mean_bp, spread_bp, present_bp = _people(tags_bpk, visible_bpk)
    people_b = present_bp.sum(1)
    pull = (spread_bp.sum(1) / people_b.clamp(min=1)).mean()
    distance_bpp = (mean_bp.unsqueeze(2) - mean_bp.unsqueeze(1)).square()
    near_bpp = (-distance_bpp).exp() * _pairs(present_bp)
    push = (0.5 * near_bpp.sum((1, 2)) / (people_b * (people_b - 1)).clamp(min=1)).mean()
    return pull, push


def associative_embedding_of_paper_000(
    tags_bkhw: Tensor, joints_bpk2: Tensor, sigma: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Pull and push as paper 000 eq. 4 means them, each the mean over the pictures.

    pull = 1/N · Σ_n Σ_k (tag - m_n)², a sum over joints; push = 1/N² · Σ_{a≠b} exp(-(m_a - m_b)² / 2σ).
    Corrected: the paper prints the exponent without its square, exp(-(m - m) / 2σ), which would grow without bound, and
    sums it over "n ≠ n". Read: m_n is the mean over the visible joints (the paper divides by K, as if all were). σ is
    the paper's only σ, "a constant that is 2" (eq. 1). N = 1: push 0; N = 0: both 0.

    joints_bpk2: as in `associative_embedding`.
    """
    tags_bpk, visible_bpk = _gather(tags_bkhw, joints_bpk2)
    mean_bp, spread_bp, present_bp = _people(tags_bpk, visible_bpk)
    people_b = present_bp.sum(1).clamp(min=1)
    pull = ((spread_bp * visible_bpk.sum(2)).sum(1) / people_b).mean()
    distance_bpp = (mean_bp.unsqueeze(2) - mean_bp.unsqueeze(1)).square()
    near_bpp = (-distance_bpp / (2 * sigma)).exp() * _pairs(present_bp)
    push = (near_bpp.sum((1, 2)) / people_b.square()).mean()
    return pull, push


def bottom_up_loss(outputs: Sequence[Tensor], batch: Targets, weights: PoseLoss) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted total of a step and its unweighted terms ("heatmap_0", ..., "pull", "push"; detached scalars).

    outputs: first [B,2K,h,w] (K heatmaps, then K tags), then optionally finer [B,K,2h,2w] heatmaps.
    DataError if outputs, targets and weights are not for the same scales.
    """
    _check_scales(outputs, batch.maps, weights)
    joints = batch.maps[0].shape[1]
    if outputs[0].shape[1] != 2 * joints or batch.joints is None:
        raise DataError(
            f"the first output must hold {joints} heatmaps and {joints} tags, and the batch say where tags are read",
            place="bottom_up_loss",
            value=tuple(outputs[0].shape),
            remedy="use a network with an associative-embedding head",
        )
    terms = {
        f"heatmap_{scale}": weighted_mse(output[:, :joints], target, weight)
        for scale, (output, target, weight) in enumerate(zip(outputs, batch.maps, batch.weights, strict=True))
    }
    tag_loss = associative_embedding_of_paper_000 if weights.paper_tags else associative_embedding
    terms["pull"], terms["push"] = tag_loss(outputs[0][:, joints:], batch.joints)
    factors = (*weights.heatmap, weights.pull, weights.push)
    total = torch.stack([factor * term for factor, term in zip(factors, terms.values(), strict=True)]).sum()
    return total, {name: term.detach() for name, term in terms.items()}


def part_affinity_loss(outputs: Sequence[Tensor], batch: Targets, weight: float = 1.0) -> Tensor:
    """Sum over the stages of the masked squared error of parts, background and fields, halved, per picture.

    outputs: [B,K+1+2L,h,w] of every stage; batch.maps: the one target of all of them. As Lightweight OpenPose has it:
    a sum over channels and cells, so the learning rate depends on the size of the maps.
    """
    if len(batch.maps) != 1 or any(output.shape != batch.maps[0].shape for output in outputs):
        raise DataError(
            "every stage must answer the maps of the targets",
            place="part_affinity_loss",
            value=([tuple(output.shape) for output in outputs], [tuple(target.shape) for target in batch.maps]),
            remedy="use a network with the part layout of the data's joints",
        )
    (target,), (mask,) = batch.maps, batch.weights
    errors = [((output - target).square() * mask).sum() for output in outputs]
    return weight * torch.stack(errors).sum() / 2 / len(target)


def top_down_loss(outputs: Sequence[Tensor], batch: Targets, weights: PoseLoss, hard_joints: int = 0) -> Tensor:
    """Weighted squared error of one person's heatmaps, summed over the outputs (HRNet's JointsMSELoss without its 0.5).

    hard_joints: only so many joints of every person count, those with the largest error; the mean is then over these
    (HRNet's JointsOHKMMSELoss; Chen et al., "Cascaded Pyramid Network", CVPR 2018). 0: all joints.
    DataError if outputs, targets and weights are not for the same scales.
    """
    _check_scales(outputs, batch.maps, weights)
    terms = []
    for factor, output, target, weight in zip(weights.heatmap, outputs, batch.maps, batch.weights, strict=True):
        error_bk = ((output - target).square() * weight).mean((2, 3))
        if hard_joints:
            error_bk = error_bk.topk(min(hard_joints, error_bk.shape[1]), dim=1).values
        terms.append(factor * error_bk.mean())
    return torch.stack(terms).sum()


def _check_scales(outputs: Sequence[Tensor], maps: Sequence[Tensor], weights: PoseLoss) -> None:
    if not len(outputs) == len(maps) == len(weights.heatmap):
        raise DataError(
            "outputs, targets and heatmap weights must be for the same scales",
            place="loss",
            value=(len(outputs), len(maps), len(weights.heatmap)),
            remedy="build the targets at the network's strides and give one heatmap weight per output",
        )


def _gather(tags_bkhw: Tensor, joints_bpk2: Tensor) -> tuple[Tensor, Tensor]:
    """Tag [B,P,K] of each joint (of cell 0 where invisible) and visible [B,P,K] as 0/1 in the tags' type."""
    batch, people, joints, _ = joints_bpk2.shape
    visible_bpk = joints_bpk2[..., 1] > 0
    index_bn = torch.where(visible_bpk, joints_bpk2[..., 0], 0).reshape(batch, people * joints)
    tags_bpk = tags_bkhw.flatten(1).gather(1, index_bn).view(batch, people, joints)
    return tags_bpk, visible_bpk.to(tags_bkhw.dtype)


def _people(tags_bpk: Tensor, visible_bpk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Per person [B,P]: mean tag, mean squared deviation from it (0 if unseen), and present as 0/1."""
    count_bp = visible_bpk.sum(2)
    divisor_bp = count_bp.clamp(min=1)
    mean_bp = (tags_bpk * visible_bpk).sum(2) / divisor_bp
    spread_bp = ((tags_bpk - mean_bp.unsqueeze(2)).square() * visible_bpk).sum(2) / divisor_bp
    return mean_bp, spread_bp, (count_bp > 0).to(tags_bpk.dtype)


def _pairs(present_bp: Tensor) -> Tensor:
    """[B,P,P]: 1 for each ordered pair of different present people."""
    different_pp = 1 - torch.eye(present_bp.shape[1], dtype=present_bp.dtype, device=present_bp.device)
    return present_bp.unsqueeze(2) * present_bp.unsqueeze(1) * different_pp
