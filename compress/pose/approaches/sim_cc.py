"""SimCC: one person at a time, cut out by a box, gives two vectors of bins per joint, one along x and one along y.

Top-down as heatmaps are: the same cut-outs, augmentation and suppression; what the network answers, the loss and the
decoding are others. Sources: Li et al., "SimCC" (ECCV 2022, arXiv:2107.03332); Jiang et al., "RTMPose" (2023,
arXiv:2303.07399) and its code (mmpose, SimCCLabel, KLDiscretLoss).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from compress.data.boxes import LabelledPersons, person_bins
from compress.data.loader import Batch
from compress.data.picture import Floats, PictureSet
from compress.data.samples import Sample, Samples
from compress.errors import DataError
from compress.networks import Architecture
from compress.pose.approaches.approach import Approach, Setting, limb_keys
from compress.pose.approaches.top_down import TopDownEstimator, person_augmentation
from compress.pose.codec import Codec
from compress.pose.decode import sim_cc
from compress.pose.distillation import check_same_shapes
from compress.pose.estimator import Boxes, DetectedBoxes, Maps, PoseEstimator
from compress.pose.objective import Objective, Targets
from compress.recipe import Decoding, Training

SHARPNESS = 10.0
"""Factor on labels and logits before their softmax (KLDiscretLoss's beta)."""


class SimCC(Approach):
    """Two outputs: K vectors along x, and K along y. A bin is a cell of the codec."""

    name = "SimCC"
    does = "one person at a time, cut out by a box; vectors of bins along x and y per joint"
    per_person = True
    unread = frozenset({"augment", "loss.pull", "loss.push", "loss.tags", "loss.hard_joints"})
    codecs = "use codec simcc or ours, and locate middle or none: the largest bin is the joint's"

    def unfit_codec(self, codec: Codec) -> list[str]:
        """Bins are not looked into, and their targets have a width of their own; there are no limbs."""
        plain = Codec()
        unfit = [key for key in ("sigma", "blur", "shift_mirrored") if getattr(codec, key) != getattr(plain, key)]
        return [*unfit, *([] if codec.locate in (None, "middle") else ["locate"]), *limb_keys(codec)]

    def objective(self, setting: Setting, training: Training) -> Objective:
        """Divergence of the vectors of labelled people."""
        return SimCCObjective(setting, training)

    def estimator(self, setting: Setting, decoding: Decoding, boxes: Boxes) -> PoseEstimator:
        """As of heatmaps: the poses of a detector's boxes are suppressed."""
        suppressed = decoding if isinstance(boxes, DetectedBoxes) else None
        return SimCCEstimator(
            setting.keypoints, setting.input_hw, setting.codec, boxes, suppressed, setting.normalisation
        )

    def perfect_maps(self, setting: Setting, joints_pk3: Floats) -> list[Floats]:
        """Of the first person, who is the input's."""
        bins = bins_xy(setting.architecture, setting.input_hw)
        return list(person_bins(joints_pk3[0], setting.input_hw, bins, setting.codec)[:2])

    def decodings(self, codec: Codec, plain: Decoding) -> list[tuple[str, Codec, Decoding]]:
        """One pass or two, and what is done with poses that lie on one another."""
        kinds = ("hard", "soft", "parallel")
        return [
            ("largest bins", codec, plain),
            ("largest bins, mirrored pass", codec, plain.model_copy(update={"flip_test": True})),
            *((f"{kind} suppression", codec, plain.model_copy(update={"suppression": kind})) for kind in kinds),
        ]


def bins_xy(architecture: Architecture, input_hw: tuple[int, int]) -> tuple[int, int]:
    """Bins along x and along y."""
    stride_x, stride_y = architecture.output_strides
    return round(input_hw[1] / stride_x), round(input_hw[0] / stride_y)


# --- Training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PersonsInBins(LabelledPersons):
    """With vectors of so many bins along x and y."""

    bins_xy: tuple[int, int] = field(kw_only=True)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """One person."""
        image, joints_k3 = self.cut(index, rng)
        x_kn, y_kn, weights_k = person_bins(joints_k3, self.input_hw, self.bins_xy, self.codec)
        return Sample(image, (x_kn, y_kn), (weights_k[:, None], weights_k[:, None]))


@dataclass(frozen=True)
class SimCCObjective:
    """See Objective."""

    setting: Setting
    training: Training

    def samples(self, pictures: PictureSet) -> Samples:
        """Every labelled person."""
        setting = self.setting
        bins = bins_xy(setting.architecture, setting.input_hw)
        augmentation = person_augmentation(self.training)
        return PersonsInBins(
            pictures, setting.input_hw, setting.codec, augmentation, setting.normalisation, bins_xy=bins
        )

    def loss(self, outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        """See sim_cc_loss."""
        return self.training.loss.heatmap * sim_cc_loss(outputs, batch)

    def distillation_loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """As on labels, which the teacher's logits stand for; every joint counts."""
        check_same_shapes(student, teacher)
        return torch.stack([divergence(s, t.detach()).mean() for s, t in zip(student, teacher, strict=True)]).sum()


def sim_cc_loss(outputs: Sequence[Tensor], batch: Targets) -> Tensor:
    """Weighted divergence from the labels' distribution to the outputs', both axes added, mean over persons and joints.

    The published loss (KLDiscretLoss) is the sum over the batch's persons; the mean makes a batch's parts add up to the
    whole, and Adam's steps do not depend on the factor. DataError if there are not two outputs of the targets' shapes.
    """
    if [o.shape for o in outputs] != [t.shape for t in batch.maps] or len(outputs) != 2:
        raise DataError(
            "outputs and targets must be vectors of bins along x and along y",
            place="SimCC loss",
            value=([tuple(o.shape) for o in outputs], [tuple(t.shape) for t in batch.maps]),
            remedy="use a network with a SimCC head for the data's joints and the recipe's input size",
        )
    terms = [
        (divergence(output, label) * weight[:, :, 0]).mean()
        for output, label, weight in zip(outputs, batch.maps, batch.weights, strict=True)
    ]
    return torch.stack(terms).sum()


def divergence(logits_bkn: Tensor, labels_bkn: Tensor) -> Tensor:
    """[B,K]: Kullback-Leibler divergence of softmax(10·logits) from softmax(10·labels), as a mean over the bins."""
    log_target = (SHARPNESS * labels_bkn).log_softmax(2)
    log_found = (SHARPNESS * logits_bkn).log_softmax(2)
    return (log_target.exp() * (log_target - log_found)).mean(2)


# --- Finding people --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SimCCEstimator(TopDownEstimator):
    """See PoseEstimator."""

    def located(self, outputs: Maps, mirrored: Maps | None) -> tuple[Floats, tuple[int, int]]:
        """x, y and score [N,K,3] of every joint, in bins, and how many bins there are, along y and x."""
        x_bkn, y_bkn = sim_cc.merge_outputs(outputs, mirrored, self.keypoints)
        return sim_cc.decode(x_bkn, y_bkn), (y_bkn.shape[2], x_bkn.shape[2])
