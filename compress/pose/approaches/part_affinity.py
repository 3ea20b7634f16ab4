"""Bottom-up with part affinity fields: heatmaps of all people's parts, and fields that point along their limbs.

Sources: Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields" (2017, arXiv:1611.08050);
Osokin, "Lightweight OpenPose" (2018, arXiv:1811.12004) and its code (l2_loss).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from compress.data.keypoints import KeypointSet
from compress.data.limbs import PartLayout, layout_for
from compress.data.loader import Batch
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.part_affinity_targets import part_maps
from compress.data.picture import Floats, PictureSet
from compress.data.samples import Sample, Samples, looked_at, moved_picture
from compress.data.transforms import Augmentation
from compress.errors import DataError
from compress.pose.approaches.approach import Approach, Setting, picture_augmentation
from compress.pose.codec import Codec
from compress.pose.decode import part_affinity
from compress.pose.decode.part_affinity import PartGrouping
from compress.pose.decode.poses import Poses, to_image
from compress.pose.distillation import map_distillation
from compress.pose.estimator import Boxes, Maps, NetworkInputs, PoseEstimator, whole_picture
from compress.pose.objective import Objective, Targets
from compress.recipe import Decoding, Training


class PartAffinity(Approach):
    """At every stage K+1 heatmaps (the last is the background), then x and y of each limb's field; the last stage is
    decoded."""

    name = "PAF"
    does = "all people of a picture at once; fields along the limbs connect their parts (OpenPose)"
    in_stages = True
    maps_are_of = "parts and limbs"
    unread = frozenset({"person_augment", "loss.pull", "loss.push", "loss.tags", "loss.hard_joints"})
    codecs = "use codec ours; its sigma, limb_width and upsample are free, and locate is middle, quarter or peak"

    def joints(self, keypoints: KeypointSet) -> dict[str, int]:
        """Parts, and limbs between them."""
        layout = layout_for(keypoints)
        return {"keypoints": len(layout.names), "limbs": len(layout.limbs)}

    def parts_of_output(self, channels: int, keypoints: int) -> set[int]:
        """Heatmaps with the background, and fields."""
        return {keypoints + 1, channels - (keypoints + 1)}

    def unfit_codec(self, codec: Codec) -> list[str]:
        """The maps have rules of their own, and read few of the codec's keys."""
        plain = Codec(
            sigma=codec.sigma,
            limb_width=codec.limb_width,
            upsample=codec.upsample,
            locate=None if codec.locate in ("dark", "udp") else codec.locate,
        )
        return [key for key in asdict(plain) if getattr(codec, key) != getattr(plain, key)]

    def objective(self, setting: Setting, training: Training) -> Objective:
        """Squared error of every stage's maps."""
        return PartAffinityObjective(setting, training)

    def estimator(self, setting: Setting, decoding: Decoding, boxes: Boxes) -> PoseEstimator:
        """The whole picture. A part lies at the peak of its upsampled pixel, unless the codec says otherwise."""
        grouping = PartGrouping(upsample=setting.codec.upsample, locate=setting.codec.locate or "peak")
        stride = setting.map_strides[-1]
        return PartAffinityEstimator(setting.keypoints, setting.input_hw, grouping, stride, setting.normalisation)

    def perfect_maps(self, setting: Setting, joints_pk3: Floats) -> list[Floats]:
        """The same at every stage."""
        layout, codec = layout_for(setting.keypoints), setting.codec
        return [
            part_maps(joints_pk3, layout, setting.input_hw, stride, codec.sigma * stride, codec.limb_width)
            for stride in setting.map_strides
        ]

    def decodings(self, codec: Codec, plain: Decoding) -> list[tuple[str, Codec, Decoding]]:
        """How far the maps are upsampled, and a second pass."""
        twice = replace(codec, upsample=2)
        return [
            ("upsampled 8 times, whole pixels", replace(codec, upsample=8, locate="middle"), plain),
            *((f"upsampled {times} times", replace(codec, upsample=times), plain) for times in (8, 4, 2, 1)),
            ("upsampled 2 times, mirrored pass", twice, plain.model_copy(update={"flip_test": True})),
        ]


# --- Training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartPictures:
    """Whole pictures: parts, background and fields, one map for all stages (see part_maps)."""

    pictures: PictureSet
    input_hw: tuple[int, int]
    stride: int
    layout: PartLayout
    codec: Codec
    augmentation: Augmentation
    normalisation: Normalisation = IMAGENET

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """One picture."""
        image, matrix, keypoints = moved_picture(
            self.pictures, index, self.input_hw, self.augmentation, self.normalisation, rng
        )
        sigma_px = self.codec.sigma * self.stride
        maps = part_maps(keypoints, self.layout, self.input_hw, self.stride, sigma_px, self.codec.limb_width)
        return Sample(image, (maps,), (looked_at(self.pictures, index, matrix, self.input_hw, self.stride),))


@dataclass(frozen=True)
class PartAffinityObjective:
    """See Objective."""

    setting: Setting
    training: Training

    def samples(self, pictures: PictureSet) -> Samples:
        """Every picture."""
        setting = self.setting
        return PartPictures(
            pictures,
            setting.input_hw,
            setting.map_strides[-1],
            layout_for(setting.keypoints),
            setting.codec,
            picture_augmentation(self.training.augment),
            setting.normalisation,
        )

    def loss(self, outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        """See part_affinity_loss."""
        return part_affinity_loss(outputs, batch, self.training.loss.heatmap)

    def distillation_loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """As in the loss: the stages' sums over channels and cells, halved, per picture. Stages are counted from the
        last, which is decoded; those that the teacher has not follow its first."""
        per_picture = [self.training.loss.heatmap * output[0].numel() / 2 for output in student]
        followed = [teacher[max(0, stage)] for stage in range(len(teacher) - len(student), len(teacher))]
        return map_distillation(student, followed, per_picture)


def part_affinity_loss(outputs: Sequence[Tensor], batch: Targets, weight: float = 1.0) -> Tensor:
    """Sum over the stages of the masked squared error of parts, background and fields, halved, per picture.

    outputs: [B,K+1+2L,h,w] of every stage; batch.maps: the one target of all of them. As Lightweight OpenPose has it:
    a sum over channels and cells, so the learning rate depends on the size of the maps.
    """
    if len(batch.maps) != 1 or any(output.shape != batch.maps[0].shape for output in outputs):
        raise DataError(
            "every stage must give maps of the targets' shape",
            place="part_affinity_loss",
            value=([tuple(output.shape) for output in outputs], [tuple(target.shape) for target in batch.maps]),
            remedy="use a network with the part layout of the data's joints",
        )
    (target,), (mask,) = batch.maps, batch.weights
    errors = [((output - target).square() * mask).sum() for output in outputs]
    return weight * torch.stack(errors).sum() / 2 / len(target)


# --- Finding people --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartAffinityEstimator:
    """See PoseEstimator. stride: of the last stage."""

    keypoints: KeypointSet
    input_hw: tuple[int, int]
    grouping: PartGrouping
    stride: int
    normalisation: Normalisation = IMAGENET

    def inputs(self, pictures: PictureSet, index: int) -> NetworkInputs:
        """The whole picture."""
        return whole_picture(pictures, index, self.input_hw, self.normalisation)

    def decode(self, inputs: NetworkInputs, outputs: Maps, mirrored: Maps | None) -> Poses:
        """Parts that are the largest around them, put together along the fields between them."""
        layout = layout_for(self.keypoints)
        last = None if mirrored is None else mirrored[-1]
        heatmaps, fields = part_affinity.merge_outputs(outputs[-1], last, layout)
        poses = part_affinity.decode(heatmaps, fields, layout, self.grouping)
        middle = (self.stride / self.grouping.upsample - 1) / 2  # of an upsampled pixel, in input pixels
        return to_image(poses, inputs.matrices[0], self.stride, (middle, middle))
