"""What a network learns, by its approach: from which samples, with which loss, and how it follows a teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from compress.data.boxes import PersonAugmentation
from compress.data.keypoints import KeypointSet
from compress.data.limbs import layout_for
from compress.data.loader import Batch
from compress.data.picture import PictureSet
from compress.data.samples import CutOutPersons, PartPictures, Samples, TaggedPictures
from compress.data.transforms import Augmentation
from compress.errors import NetworkError, RecipeError
from compress.networks import Architecture
from compress.pose.codec import Codec
from compress.pose.distillation import map_distillation
from compress.pose.estimator import check_codec
from compress.pose.losses import PoseLoss, bottom_up_loss, part_affinity_loss, top_down_loss
from compress.recipe import Augment, Training, changed


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


def objective_for(
    architecture: Architecture, keypoints: KeypointSet, input_hw: tuple[int, int], settings: Training, codec: Codec
) -> Objective:
    """The objective of the network's approach.

    Raises NetworkError unless the network has the data's joints, RecipeError for settings of another approach.
    """
    check_joints(architecture, keypoints, architecture.family)
    _check_read(architecture.approach, settings)
    check_codec(architecture.approach, codec)
    return _OBJECTIVES[architecture.approach](architecture, keypoints, input_hw, settings, codec)


def check_joints(architecture: Architecture, keypoints: KeypointSet, place: str) -> None:
    """Raises NetworkError unless the network answers for the data's joints (with PAF: parts and limbs)."""
    found: object = architecture.keypoints
    wanted: object = len(keypoints)
    if architecture.approach == "PAF":
        layout = layout_for(keypoints)
        found = (architecture.keypoints, getattr(architecture, "limbs", None))
        wanted = (len(layout.names), len(layout.limbs))
    if found != wanted:
        what = "parts and limbs" if architecture.approach == "PAF" else "joints"
        raise NetworkError(
            f"the network must have the data's {what}, {wanted}",
            place=place,
            value=found,
            remedy="build it with these, or take it by its name to train it from random weights",
        )


@dataclass(frozen=True)
class _Objective:
    architecture: Architecture
    keypoints: KeypointSet
    input_hw: tuple[int, int]
    settings: Training
    codec: Codec


class _AssociativeEmbedding(_Objective):
    def samples(self, pictures: PictureSet) -> Samples:
        settings = self.settings
        return TaggedPictures(
            pictures,
            self.input_hw,
            self.architecture.output_strides,
            self.codec,
            _augmentation(settings.augment),
        )

    def loss(self, outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        return bottom_up_loss(outputs, batch, _weights(self.settings, len(outputs)))[0]

    def distillation_loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return map_distillation(student, teacher, (self.settings.loss.heatmap,) * len(student), len(self.keypoints))


class _PartAffinity(_Objective):
    def samples(self, pictures: PictureSet) -> Samples:
        settings = self.settings
        return PartPictures(
            pictures,
            self.input_hw,
            self.architecture.output_strides[-1],
            layout_for(self.keypoints),
            self.codec.sigma,
            settings.limb_width,
            _augmentation(settings.augment),
        )

    def loss(self, outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        return part_affinity_loss(outputs, batch, self.settings.loss.heatmap)

    def distillation_loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        # As in the loss: the stages' sums over channels and cells, halved, per picture. Stages are counted from the
        # last, which is decoded; those that the teacher has not follow its first.
        per_picture = [self.settings.loss.heatmap * output[0].numel() / 2 for output in student]
        answers = [teacher[max(0, stage)] for stage in range(len(teacher) - len(student), len(teacher))]
        return map_distillation(student, answers, per_picture)


class _TopDown(_Objective):
    def samples(self, pictures: PictureSet) -> Samples:
        augment = self.settings.person_augment
        return CutOutPersons(
            pictures,
            self.input_hw,
            self.architecture.output_strides,
            self.codec,
            PersonAugmentation(augment.rotation_deg, augment.scale, augment.flip, augment.half_body),
        )

    def loss(self, outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        return top_down_loss(outputs, batch, _weights(self.settings, len(outputs)), self.settings.loss.hard_joints)

    def distillation_loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        return map_distillation(student, teacher, (self.settings.loss.heatmap,) * len(student))


_UNREAD: dict[str, tuple[set[str], set[str]]] = {
    "bottom-up AE": ({"limb_width", "person_augment"}, {"hard_joints"}),
    "PAF": ({"person_augment"}, {"pull", "push", "tags", "hard_joints"}),
    "top-down": ({"augment", "limb_width"}, {"pull", "push", "tags"}),
}
"""By approach: keys of `training`, and of `training.loss`, that are for other approaches."""


def _check_read(approach: str, settings: Training) -> None:
    """Raises RecipeError for a key that the recipe changes and that networks of this approach do not read."""
    keys, loss_keys = _UNREAD[approach]
    unread = [
        *(keys & changed(settings)),
        *(f"loss.{key}" for key in loss_keys & changed(settings.loss)),
    ]
    if unread:
        raise RecipeError(
            f"a network of the approach {approach} does not read this key",
            place=f"recipe: training.{min(unread)}",
            remedy="leave it out",
        )


_OBJECTIVES: dict[str, type[_AssociativeEmbedding] | type[_PartAffinity] | type[_TopDown]] = {
    "bottom-up AE": _AssociativeEmbedding,
    "PAF": _PartAffinity,
    "top-down": _TopDown,
}


def _weights(settings: Training, outputs: int) -> PoseLoss:
    loss = settings.loss
    return PoseLoss((loss.heatmap,) * outputs, loss.pull, loss.push, paper_tags=loss.tags == "dir_bhrnet")


def _augmentation(augment: Augment) -> Augmentation:
    return Augmentation(augment.rotation_deg, augment.scale, augment.translate_px, augment.flip)
