"""Top-down: one person at a time, cut out by a box, gives a heatmap per joint.

Sources: Xiao, Wu, Wei, "Simple Baselines" (2018, arXiv:1804.06208); Sun et al., "HRNet" (2019, arXiv:1902.09212) and
its code (JointsMSELoss, JointsOHKMMSELoss); Chen et al., "Cascaded Pyramid Network" (CVPR 2018); MobilePoseNet for the
parallel suppression of people.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from compress.data.boxes import (
    LabelledPersons,
    PersonAugmentation,
    box_region,
    crop_matrix,
    person_targets,
)
from compress.data.keypoints import KeypointSet
from compress.data.loader import Batch
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.picture import Floats, PictureSet
from compress.data.samples import Sample, Samples
from compress.data.transforms import warp, without_joints_outside
from compress.pose.approaches.approach import Approach, Setting, limb_keys, loss_weights
from compress.pose.codec import Codec
from compress.pose.decode import top_down
from compress.pose.decode.pose_nms import hard_nms, parallel_nms, soft_nms
from compress.pose.decode.poses import Poses
from compress.pose.distillation import map_distillation
from compress.pose.estimator import Boxes, DetectedBoxes, Maps, NetworkInputs, PoseEstimator
from compress.pose.objective import Objective, PoseLoss, Targets, check_scales
from compress.recipe import Decoding, Training


class TopDown(Approach):
    """K heatmaps of one person; of several outputs the last is decoded."""

    name = "top-down"
    does = "one person at a time, cut out by a box; a heatmap per joint"
    per_person = True
    unread = frozenset({"augment", "loss.pull", "loss.push", "loss.tags"})
    codecs = "use a codec of heatmaps, without the keys for part affinity fields"

    def unfit_codec(self, codec: Codec) -> list[str]:
        """There are no limbs, and a cell is no bin."""
        return [*(["name"] if codec.name == "simcc" else []), *limb_keys(codec)]

    def objective(self, setting: Setting, training: Training) -> Objective:
        """Squared error of the heatmaps of labelled people."""
        return TopDownObjective(setting, training)

    def estimator(self, setting: Setting, decoding: Decoding, boxes: Boxes) -> PoseEstimator:
        """A detector may find one person twice: of its poses the less certain ones are suppressed. Other people's
        labels are no detector's boxes."""
        suppressed = decoding if isinstance(boxes, DetectedBoxes) else None
        return TopDownEstimator(
            setting.keypoints, setting.input_hw, setting.codec, boxes, suppressed, setting.normalisation
        )

    def perfect_maps(self, setting: Setting, joints_pk3: Floats) -> list[Floats]:
        """Of the first person, who is the input's."""
        strides = setting.map_strides
        return [person_targets(joints_pk3[0], setting.input_hw, stride, setting.codec)[0] for stride in strides]

    def decodings(self, codec: Codec, plain: Decoding) -> list[tuple[str, Codec, Decoding]]:
        """Where a joint lies in its cell, a second pass, and what is done with poses that lie on one another."""
        quarter, peak = replace(codec, locate="quarter"), replace(codec, locate="peak")
        kinds = ("hard", "soft", "parallel")
        return [
            ("joints at the quarter", quarter, plain),
            ("joints at the peak", peak, plain),
            ("joints at the quarter, mirrored pass", quarter, plain.model_copy(update={"flip_test": True})),
            *((f"{kind} suppression", codec, plain.model_copy(update={"suppression": kind})) for kind in kinds),
        ]


# --- Training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PersonsInMaps(LabelledPersons):
    """With heatmaps of these strides. Unlabelled joints have weight 0."""

    strides: tuple[int, ...] = field(kw_only=True)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """One person."""
        image, joints_k3 = self.cut(index, rng)
        joints_k3 = without_joints_outside(joints_k3, self.input_hw)
        targets = [person_targets(joints_k3, self.input_hw, stride, self.codec) for stride in self.strides]
        return Sample(
            image,
            tuple(maps for maps, _ in targets),
            tuple(weight[:, None, None] for _, weight in targets),
        )


@dataclass(frozen=True)
class TopDownObjective:
    """See Objective."""

    setting: Setting
    training: Training

    def samples(self, pictures: PictureSet) -> Samples:
        """Every labelled person."""
        setting, augmentation = self.setting, person_augmentation(self.training)
        return PersonsInMaps(
            pictures,
            setting.input_hw,
            setting.codec,
            augmentation,
            setting.normalisation,
            strides=setting.map_strides,
        )

    def loss(self, outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        """See top_down_loss."""
        loss = self.training.loss
        return top_down_loss(outputs, batch, loss_weights(loss, len(outputs)), loss.hard_joints)

    def distillation_loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Of all heatmaps."""
        return map_distillation(student, teacher, (self.training.loss.heatmap,) * len(student))


def person_augmentation(training: Training) -> PersonAugmentation:
    """A recipe's augmentation of persons."""
    augment = training.person_augment
    return PersonAugmentation(augment.rotation_deg, augment.scale, augment.flip, augment.half_body)


def top_down_loss(outputs: Sequence[Tensor], batch: Targets, weights: PoseLoss, hard_joints: int = 0) -> Tensor:
    """Weighted squared error of one person's heatmaps, summed over the outputs (HRNet's JointsMSELoss without its 0.5).

    hard_joints: only so many joints of every person count, those with the largest error; the mean is then over these
    (HRNet's JointsOHKMMSELoss; Chen et al., "Cascaded Pyramid Network", CVPR 2018). 0: all joints.
    DataError if outputs, targets and weights are not for the same scales.
    """
    check_scales(outputs, batch.maps, weights)
    terms = []
    for factor, output, target, weight in zip(weights.heatmap, outputs, batch.maps, batch.weights, strict=True):
        error_bk = ((output - target).square() * weight).mean((2, 3))
        if hard_joints:
            error_bk = error_bk.topk(min(hard_joints, error_bk.shape[1]), dim=1).values
        terms.append(factor * error_bk.mean())
    return torch.stack(terms).sum()


# --- Finding people --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TopDownEstimator:
    """See PoseEstimator. suppressed: how duplicates among the poses are suppressed; None: not at all."""

    keypoints: KeypointSet
    input_hw: tuple[int, int]
    codec: Codec
    boxes: Boxes
    suppressed: Decoding | None
    normalisation: Normalisation = IMAGENET

    def inputs(self, pictures: PictureSet, index: int) -> NetworkInputs:
        """One input per box."""
        boxes, scores = self.boxes.of(pictures, index)
        image = pictures.image(index)
        crop = self.codec.crop
        matrices = [crop_matrix(box_region(box, self.input_hw, crop=crop), self.input_hw, crop=crop) for box in boxes]
        inputs = [warp(image, matrix, self.input_hw, self.normalisation) for matrix in matrices]
        images = np.stack(inputs) if inputs else np.zeros((0, *self.input_hw, 3), np.uint8)
        return NetworkInputs(images, matrices, boxes, scores)

    def decode(self, inputs: NetworkInputs, outputs: Maps, mirrored: Maps | None) -> Poses:
        """One pose per box, less those that are suppressed."""
        if not len(inputs.images):
            return Poses(np.zeros((0, len(self.keypoints), 3), np.float32), np.zeros(0, np.float32))
        cells, map_hw = self.located(outputs, mirrored)
        strides = self.codec.strides_xy(self.input_hw, map_hw)
        offset = self.codec.offset_xy(strides, mirrored=mirrored is not None)
        joints = top_down.to_picture(cells, np.stack(inputs.matrices), strides, offset)
        # Least score of a joint that counts in its person's: MobilePoseNet's for parallel suppression, or HRNet's.
        counted = 0.1 if self.suppressed and self.suppressed.suppression == "parallel" else 0.2
        poses = Poses(joints, top_down.person_scores(cells, inputs.scores_n, counted))
        return poses if self.suppressed is None else _suppressed(poses, inputs, self.keypoints, self.suppressed)

    def located(self, outputs: Maps, mirrored: Maps | None) -> tuple[Floats, tuple[int, int]]:
        """x, y and score [N,K,3] of every joint, in cells, and how many cells there are, in y and x."""
        last = None if mirrored is None else mirrored[-1]
        maps = top_down.merge_outputs(outputs[-1], last, self.keypoints, shift=self.codec.shift_mirrored)
        cells = top_down.decode(maps, self.codec.locate or "quarter", self.codec.blur)
        return cells, (maps.shape[2], maps.shape[3])


def _suppressed(poses: Poses, inputs: NetworkInputs, keypoints: KeypointSet, decoding: Decoding) -> Poses:
    areas: npt.NDArray[np.float32] = inputs.boxes_n4[:, 2] * inputs.boxes_n4[:, 3]
    match decoding.suppression:
        case "none":
            return poses
        case "hard":
            kept, scores = hard_nms(poses, areas, keypoints.sigmas, decoding.overlap)
        case "soft":
            kept, scores = soft_nms(poses, areas, keypoints.sigmas, decoding.overlap)
        case "parallel":
            kept, scores = parallel_nms(poses, areas, keypoints.sigmas)
    return Poses(poses.keypoints_pk3[kept], scores)
