"""Bottom-up with associative embedding: heatmaps of all people of a picture, and tags that tell whose a joint is.

Sources: Newell, Huang, Deng, "Associative Embedding" (2017, arXiv:1611.05424); Cheng et al., "HigherHRNet" (2020,
arXiv:1908.10357) and its code (HeatmapLoss, AELoss); the DIR-BHRNet paper, section III-C.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from compress.data.keypoints import KeypointSet
from compress.data.loader import Batch
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.picture import Floats, PictureSet
from compress.data.samples import MAX_PEOPLE, Sample, Samples, looked_at, moved_picture
from compress.data.targets import gaussian_heatmaps, joint_locations
from compress.data.transforms import Augmentation
from compress.errors import DataError
from compress.pose.approaches.approach import Approach, Setting, limb_keys, loss_weights, picture_augmentation
from compress.pose.codec import Codec
from compress.pose.decode import associative_embedding
from compress.pose.decode.associative_embedding import Grouping
from compress.pose.decode.poses import Poses, to_image
from compress.pose.distillation import map_distillation
from compress.pose.estimator import Boxes, Maps, NetworkInputs, PoseEstimator, whole_picture
from compress.pose.objective import (
    Objective,
    PoseLoss,
    Targets,
    check_scales,
    weighted_mse,
)
from compress.recipe import Decoding, Training

_TAG_STEP = 2.0  # between the tags of two people in perfect maps; below 1 grouping takes them for one


class AssociativeEmbedding(Approach):
    """K heatmaps and K tags of all people, first at 1/4 of the input; further outputs are finer heatmaps."""

    name = "bottom-up AE"
    does = "all people of a picture at once; joints with equal tags are one person's"
    unread = frozenset({"person_augment", "loss.hard_joints"})
    codecs = "use codec ours or exact"

    def unfit_codec(self, codec: Codec) -> list[str]:
        """Maps of several sizes, turned back and resized, are decoded by the middles of their cells."""
        plain = Codec()
        unfit = [key for key in ("cells", "shift_mirrored", "crop") if getattr(codec, key) != getattr(plain, key)]
        return [*unfit, *(["locate"] if codec.locate in ("dark", "udp") else []), *limb_keys(codec)]

    def objective(self, setting: Setting, training: Training) -> Objective:
        """Squared error of the heatmaps; tags of a person are pulled together, those of different people apart."""
        return AssociativeEmbeddingObjective(setting, training)

    def estimator(self, setting: Setting, decoding: Decoding, boxes: Boxes) -> PoseEstimator:
        """The whole picture."""
        grouping = Grouping(locate=setting.codec.locate or "quarter", refine=decoding.refine)
        return AssociativeEmbeddingEstimator(
            setting.keypoints, setting.input_hw, grouping, setting.codec, setting.normalisation
        )

    def perfect_maps(self, setting: Setting, joints_pk3: Floats) -> list[Floats]:
        """Each cell has the tag of the person whose joint is nearest."""
        strides = setting.map_strides
        heatmaps = [gaussian_heatmaps(joints_pk3, setting.input_hw, stride, setting.codec) for stride in strides]
        return [np.concatenate([heatmaps[0], _tags(joints_pk3, heatmaps[0].shape, strides[0])]), *heatmaps[1:]]

    def decodings(self, codec: Codec, plain: Decoding) -> list[tuple[str, Codec, Decoding]]:
        """From grouping alone to all that HigherHRNet does."""
        adjusted = replace(codec, locate="quarter")
        grouped, refined = (plain.model_copy(update={"refine": refine}) for refine in (False, True))
        return [
            ("grouping", replace(codec, locate="middle"), grouped),
            ("grouping, adjust", adjusted, grouped),
            ("grouping, adjust, refine", adjusted, refined),
            ("grouping, adjust, refine, mirrored pass", adjusted, refined.model_copy(update={"flip_test": True})),
        ]


def _tags(joints_pk3: Floats, shape_khw: tuple[int, ...], stride: int) -> Floats:
    """[K,h,w]: each cell has the tag of the person whose joint is nearest."""
    joints, height, width = shape_khw
    x_w, y_h = np.arange(width) + 0.5, np.arange(height) + 0.5
    tags = np.zeros(shape_khw, np.float32)
    for joint in range(joints):
        shown = np.flatnonzero(joints_pk3[:, joint, 2] > 0)
        if len(shown):
            x_p, y_p = joints_pk3[shown, joint, 0] / stride, joints_pk3[shown, joint, 1] / stride
            far_phw = (x_w - x_p[:, None])[:, None, :] ** 2 + ((y_h - y_p[:, None]) ** 2)[:, :, None]
            tags[joint] = _TAG_STEP * shown[far_phw.argmin(axis=0)]
    return tags


# --- Training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TaggedPictures:
    """Whole pictures: heatmaps of all people at every stride, and the places of their tags.

    codec: of the heatmaps at every stride.
    """

    pictures: PictureSet
    input_hw: tuple[int, int]
    strides: tuple[int, ...]
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
        heatmaps = tuple(gaussian_heatmaps(keypoints, self.input_hw, stride, self.codec) for stride in self.strides)
        weights = tuple(looked_at(self.pictures, index, matrix, self.input_hw, stride) for stride in self.strides)
        joints = joint_locations(keypoints, self.input_hw, self.strides[0], self.codec, MAX_PEOPLE)
        return Sample(image, heatmaps, weights, joints)


@dataclass(frozen=True)
class AssociativeEmbeddingObjective:
    """See Objective."""

    setting: Setting
    training: Training

    def samples(self, pictures: PictureSet) -> Samples:
        """Every picture."""
        setting = self.setting
        return TaggedPictures(
            pictures,
            setting.input_hw,
            setting.map_strides,
            setting.codec,
            picture_augmentation(self.training.augment),
            setting.normalisation,
        )

    def loss(self, outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        """See bottom_up_loss."""
        return bottom_up_loss(outputs, batch, loss_weights(self.training.loss, len(outputs)))[0]

    def distillation_loss(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Of the heatmaps; see compress.pose.distillation for why not of the tags."""
        weights = (self.training.loss.heatmap,) * len(student)
        return map_distillation(student, teacher, weights, len(self.setting.keypoints))


def pull_and_push(tags_bkhw: Tensor, joints_bpk2: Tensor) -> tuple[Tensor, Tensor]:
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


def pull_and_push_of_dir_bhrnet(tags_bkhw: Tensor, joints_bpk2: Tensor, sigma: float = 2.0) -> tuple[Tensor, Tensor]:
    """Pull and push as eq. 4 of the DIR-BHRNet paper means them, each the mean over the pictures.

    pull = 1/N · Σ_n Σ_k (tag - m_n)², a sum over joints; push = 1/N² · Σ_{a≠b} exp(-(m_a - m_b)² / 2σ).
    Corrected: the paper prints the exponent without its square, exp(-(m - m) / 2σ), which would grow without bound, and
    sums it over "n ≠ n". Read: m_n is the mean over the visible joints (the paper divides by K, as if all were). σ is
    the paper's only σ, "a constant that is 2" (eq. 1). N = 1: push 0; N = 0: both 0.

    joints_bpk2: as in `pull_and_push`.
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
    check_scales(outputs, batch.maps, weights)
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
    tag_loss = pull_and_push_of_dir_bhrnet if weights.paper_tags else pull_and_push
    terms["pull"], terms["push"] = tag_loss(outputs[0][:, joints:], batch.joints)
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


# --- Finding people --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AssociativeEmbeddingEstimator:
    """See PoseEstimator."""

    keypoints: KeypointSet
    input_hw: tuple[int, int]
    grouping: Grouping
    codec: Codec
    normalisation: Normalisation = IMAGENET

    def inputs(self, pictures: PictureSet, index: int) -> NetworkInputs:
        """The whole picture."""
        return whole_picture(pictures, index, self.input_hw, self.normalisation)

    def decode(self, inputs: NetworkInputs, outputs: Maps, mirrored: Maps | None) -> Poses:
        """Joints that are the largest around them, put together by their tags."""
        heatmaps, tags = associative_embedding.merge_outputs(outputs, mirrored, self.keypoints)
        poses = associative_embedding.decode(heatmaps, tags, self.keypoints, self.grouping)
        stride = self.input_hw[0] / heatmaps.shape[1]
        offset = self.codec.offset_xy((stride, stride), mirrored=mirrored is not None)
        return to_image(poses, inputs.matrices[0], stride, offset)
