"""What a network learns from, whatever its approach: the contract with training, and the terms that losses share.

Sources: Cheng et al., "HigherHRNet" (2020, arXiv:1908.10357) and its code (HeatmapLoss); Sun et al., "HRNet" (2019,
arXiv:1902.09212) and its code (JointsMSELoss).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from compress.data.loader import Batch
from compress.data.picture import PictureSet
from compress.data.samples import Samples
from compress.errors import DataError


class Objective(Protocol):
    """What training, fine-tuning and the supernet share."""

    def samples(self, pictures: PictureSet) -> Samples:
        """What the labelled people of these pictures teach."""
        ...

    def loss(self, outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        """On the labels; one number."""
        ...

    def distillation_loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """How far the student's maps are from the teacher's; one number of the loss's scale. See
        compress.pose.distillation."""
        ...


@dataclass(frozen=True)
class PoseLoss:
    """The weight of each term. heatmap: one per output scale, in the order of the outputs (coarse first).

    paper_tags: pull and push as the DIR-BHRNet paper writes them, not as the HigherHRNet code does.
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


def check_scales(outputs: Sequence[Tensor], maps: Sequence[Tensor], weights: PoseLoss) -> None:
    """Raises DataError unless outputs, targets and heatmap weights are equally many."""
    if not len(outputs) == len(maps) == len(weights.heatmap):
        raise DataError(
            "outputs, targets and heatmap weights must be for the same scales",
            place="loss",
            value=(len(outputs), len(maps), len(weights.heatmap)),
            remedy="build the targets at the network's strides and give one heatmap weight per output",
        )
