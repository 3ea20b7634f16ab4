"""What bottom-up training minimises: masked heatmap error and associative embedding.

Sources: Newell, Huang, Deng, "Associative Embedding" (2017, arXiv:1611.05424); Cheng et al., "HigherHRNet" (2020,
arXiv:1908.10357) and its code (HeatmapLoss, AELoss); paper 000 (DIR-BHRNet), section III-C.

heatmap_mse            → one number for a scale
associative_embedding  → pull, push as the HigherHRNet code has them
associative_embedding_of_paper_000 → pull, push as eq. 4 is meant
bottom_up_loss         → the weighted sum that a training step goes back through
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from compress.errors import DataError


@dataclass(frozen=True)
class PoseLoss:
    """The weight of each term. heatmap: one per output scale, in the order of the outputs (coarse first)."""

    heatmap: tuple[float, ...]
    pull: float
    push: float

    @classmethod
    def higher_hrnet(cls) -> "PoseLoss":
        """Heatmaps 1 and 1, tags 1e-3 each (HigherHRNet, experiments/coco/higher_hrnet/*.yaml)."""
        return cls(heatmap=(1.0, 1.0), pull=1e-3, push=1e-3)

    @classmethod
    def paper_000(cls, scales: int = 1) -> "PoseLoss":
        """α = 0.99 for heatmaps, β = 0.01 for tags (paper 000 eq. 5); each scale of heatmaps weighs 0.99."""
        return cls(heatmap=(0.99,) * scales, pull=0.01, push=0.01)


class PoseTargets(Protocol):
    """What `bottom_up_loss` reads from a batch.

    heatmaps: [B,K,h,w] per scale, in 0..1. masks: [B,h,w] per scale, 0 where people are unlabelled (crowds).
    joints: int64 [B,P,K,2], flat index into [K,h,w] of the first scale, and 1 where the joint is visible, else 0.
    """

    @property
    def heatmaps(self) -> Sequence[Tensor]: ...
    @property
    def masks(self) -> Sequence[Tensor]: ...
    @property
    def joints(self) -> Tensor: ...


def heatmap_mse(predicted_bkhw: Tensor, target_bkhw: Tensor, mask_bhw: Tensor) -> Tensor:
    """Mean squared error over batch, joints and cells; masked cells count as right (HigherHRNet's HeatmapLoss).

    The mean is over all cells, masked ones too, so a picture with much crowd weighs less.
    """
    return ((predicted_bkhw - target_bkhw).square() * mask_bhw.unsqueeze(1)).mean()


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


def bottom_up_loss(
    outputs: Sequence[Tensor], batch: PoseTargets, weights: PoseLoss
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted total of a step and its unweighted terms ("heatmap_0", ..., "pull", "push"; detached scalars).

    outputs: first [B,2K,h,w] (K heatmaps, then K tags), then optionally finer [B,K,2h,2w] heatmaps.
    DataError if outputs, targets and weights are not for the same scales.
    """
    scales = len(outputs)
    if not scales == len(batch.heatmaps) == len(batch.masks) == len(weights.heatmap):
        raise DataError(
            "outputs, target heatmaps, masks and heatmap weights must be for the same scales",
            place="bottom_up_loss",
            value=(scales, len(batch.heatmaps), len(batch.masks), len(weights.heatmap)),
            remedy="build the targets at the network's strides and give one heatmap weight per output",
        )
    joints = batch.heatmaps[0].shape[1]
    if outputs[0].shape[1] != 2 * joints:
        raise DataError(
            f"the first output must hold {joints} heatmaps and {joints} tags",
            place="bottom_up_loss",
            value=tuple(outputs[0].shape),
            remedy="use a network with an associative-embedding head",
        )
    terms = {
        f"heatmap_{scale}": heatmap_mse(output[:, :joints], target, mask)
        for scale, (output, target, mask) in enumerate(zip(outputs, batch.heatmaps, batch.masks, strict=True))
    }
    terms["pull"], terms["push"] = associative_embedding(outputs[0][:, joints:], batch.joints)
    factors = (*weights.heatmap, weights.pull, weights.push)
    total = torch.stack([factor * term for factor, term in zip(factors, terms.values(), strict=True)]).sum()
    return total, {name: term.detach() for name, term in terms.items()}


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
