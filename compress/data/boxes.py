"""From a person's box to the input of a top-down network, and what the network should answer.

HRNet's facts (Sun et al., arXiv:1902.09212, and its code, lib/dataset/JointsDataset.py), as Lite-HRNet's code has them:
the box is widened to the input's proportions and enlarged by 1.25 (its scale times pixel_std, 200). Then, by the
codec's crop, with f the factor of enlargement to the input and W the input's width:

`pixels`: pixel centres follow `picture`: the box's middle, x + (w - 1) / 2, lands on the input's middle, (W - 1) / 2.
`corners`: HRNet's affine map: x + w / 2 lands on W / 2. That is (f - 1) / 2 input pixels further right and down; joints
go the same way, so that alone moves nobody. HRNet's labelled boxes of COCO have lost a pixel before (w - 1), which
gives the middle of `pixels` again; a detector's have not.
`ends`: UDP's: x + w / 2 lands on (W - 1) / 2, and f is (W - 1) / w instead of W / w.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from compress.data.keypoints import KeypointSet
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.picture import Floats, Picture, PictureSet
from compress.data.targets import gaussian_heatmaps, joint_locations
from compress.data.transforms import Matrix, flip, mirrors, move_all_keypoints, turned_about, warp
from compress.errors import DataError
from compress.pose.codec import Codec, Crop

Box = Sequence[float] | npt.NDArray[np.floating]

_HALF_BODY_MORE_THAN = 8  # labelled joints; NUM_JOINTS_HALF_BODY
_HALF_BODY_ENLARGE = 1.5
_UPPER_CHANCE = 0.7  # HRNet draws randn() < 0.5, which is 0.69
_ROTATION_CHANCE = 0.6
# A joint is of the upper body if one of these words is in its name.
_UPPER_BODY = {"nose", "eye", "ear", "head", "neck", "thorax", "shoulder", "elbow", "wrist"}


@dataclass(frozen=True)
class Region:
    """The upright part of a picture that becomes the input, in pixels of the picture."""

    centre_xy: tuple[float, float]
    size_wh: tuple[float, float]


@dataclass(frozen=True)
class PersonAugmentation:
    """How far training cut-outs are moved. The defaults are HRNet's for COCO and MobilePoseNet's.

    rotation_deg: spread of a normal distribution, cut at twice that; six cut-outs in ten are turned. scale: spread of
    the size around 1, cut at 1 ± scale, so below 1. flip, half_body: probabilities, 0..1.
    """

    rotation_deg: float = 45.0
    scale: float = 0.35
    flip: float = 0.5
    half_body: float = 0.3

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("rotation_deg", self.rotation_deg >= 0, "must not be negative"),
            ("scale", 0 <= self.scale < 1, "must be at least 0 and below 1"),
            ("flip", 0 <= self.flip <= 1, "must be 0 to 1"),
            ("half_body", 0 <= self.half_body <= 1, "must be 0 to 1"),
        ):
            if not good:
                raise DataError(
                    f"{name} {rule}", place="person augmentation", value=getattr(self, name), remedy="change it"
                )


def box_region(box_xywh: Box, input_hw: tuple[int, int], enlarge: float = 1.25, crop: Crop = "pixels") -> Region:
    """The smallest region of the input's proportions around the box, enlarged about its middle.

    box_xywh: x, y, width, height in pixels, COCO's: width 3 at x 0 is the pixels 0, 1, 2, whose middle is 1 (by HRNet's
    and UDP's code 1.5). Sides below one pixel count as one. DataError if it is not finite or a side is negative.
    """
    x, y, width, height = (float(value) for value in box_xywh)
    if not np.isfinite([x, y, width, height]).all() or min(width, height) < 0:
        raise DataError(
            "a box must be finite, its sides not negative",
            place="person box",
            value=[x, y, width, height],
            remedy="correct it or leave the person out",
        )
    aspect = input_hw[1] / input_hw[0]
    wide = enlarge * max(max(width, 1.0), max(height, 1.0) * aspect)
    less = 1 if crop == "pixels" else 0
    return Region((x + (width - less) / 2, y + (height - less) / 2), (wide, wide / aspect))


def crop_matrix(
    region: Region,
    input_hw: tuple[int, int],
    angle_deg: float = 0.0,
    *,
    mirrored: bool = False,
    crop: Crop = "pixels",
) -> Matrix:
    """The matrix [2,3] from picture to input that puts the whole region in the input's middle, turned about it.

    A positive angle turns the picture clockwise. A mirrored matrix has a negative determinant: see `transforms`.
    """
    less = 1 if crop == "ends" else 0
    factor = min((input_hw[1] - less) / region.size_wh[0], (input_hw[0] - less) / region.size_wh[1])
    angle_rad = float(np.deg2rad(angle_deg))
    beside = 0.5 if crop == "corners" else 0.0
    return turned_about(
        region.centre_xy, input_hw, factor, angle_rad=angle_rad, mirrored=mirrored, shift_xy=(beside, beside)
    )


def half_body(keypoints_k3: Floats, keypoints: KeypointSet, rng: np.random.Generator) -> Floats | None:
    """The box [4] (x, y, width, height) around one half of the body; None if 8 joints or fewer are labelled.

    The upper half with probability 0.7, if more than two of its joints are labelled; else the lower, if more than two
    of its are; else the upper after all. As in HRNet's code the box lies around the mean of the half's joints, not in
    the middle between the outermost.
    """
    labelled_k = keypoints_k3[:, 2] > 0
    if labelled_k.sum() <= _HALF_BODY_MORE_THAN:
        return None
    upper_k = labelled_k & _upper_body(keypoints)
    lower_k = labelled_k & ~upper_k
    prefers_upper = rng.random() < _UPPER_CHANCE
    takes_upper = (prefers_upper and upper_k.sum() > 2) or lower_k.sum() <= 2
    joints_n2 = keypoints_k3[upper_k if takes_upper else lower_k, :2]
    size = np.ptp(joints_n2, axis=0)
    return np.concatenate([joints_n2.mean(axis=0) - (size - 1) / 2, size]).astype(np.float32)


def augment_person(
    rng: np.random.Generator,
    keypoints_k3: Floats,
    box_xywh: Box,
    keypoints: KeypointSet,
    input_hw: tuple[int, int],
    augmentation: PersonAugmentation,
    crop: Crop = "pixels",
) -> Matrix:
    """A random training matrix [2,3] from picture to input.

    keypoints_k3: the person's joints in pixels of the picture. DataError as for `box_region`.
    """
    half = half_body(keypoints_k3, keypoints, rng) if rng.random() < augmentation.half_body else None
    box, enlarge = (box_xywh, 1.25) if half is None else (half, _HALF_BODY_ENLARGE)
    region = box_region(box, input_hw, enlarge, crop)
    width, height = region.size_wh
    size = np.clip(rng.normal(1, augmentation.scale), 1 - augmentation.scale, 1 + augmentation.scale)
    reach_deg = 2 * augmentation.rotation_deg
    angle_deg = np.clip(rng.normal(0, augmentation.rotation_deg), -reach_deg, reach_deg)
    return crop_matrix(
        Region(region.centre_xy, (width * size, height * size)),
        input_hw,
        angle_deg if rng.random() < _ROTATION_CHANCE else 0.0,
        mirrored=bool(rng.random() < augmentation.flip),
        crop=crop,
    )


def labelled_persons(pictures: PictureSet) -> list[tuple[int, int]]:
    """(picture, person in it) of every labelled person, in the pictures' order."""
    return [(index, person) for index in range(len(pictures)) for person in range(len(pictures.people(index)))]


def cut_out(
    pictures: PictureSet,
    person: tuple[int, int],
    input_hw: tuple[int, int],
    augmentation: PersonAugmentation,
    crop: Crop,
    rng: np.random.Generator,
    normalisation: Normalisation = IMAGENET,
) -> tuple[Picture, Floats]:
    """One of labelled_persons as an input uint8 [H,W,3], augmented, and the person's joints [K,3] in input pixels,
    those outside too. In a mirrored input a left joint is a right one. normalisation: says the colour of what lies
    outside the picture."""
    picture, number = person
    people = pictures.people(picture)
    joints_k3, box = people.keypoints_pk3[number], people.boxes_p4[number]
    matrix = augment_person(rng, joints_k3, box, pictures.keypoints, input_hw, augmentation, crop)
    moved = move_all_keypoints(joints_k3[None], matrix)
    seen = flip(moved, pictures.keypoints.flip_index) if mirrors(matrix) else moved
    return warp(pictures.image(picture), matrix, input_hw, normalisation), seen[0]


@dataclass(frozen=True)
class LabelledPersons:
    """One labelled person at a time, cut out by its box. codec: of the targets and of the cut-out."""

    pictures: PictureSet
    input_hw: tuple[int, int]
    codec: Codec
    augmentation: PersonAugmentation
    normalisation: Normalisation = IMAGENET

    @cached_property
    def persons(self) -> list[tuple[int, int]]:
        """See labelled_persons."""
        return labelled_persons(self.pictures)

    def __len__(self) -> int:
        return len(self.persons)

    def cut(self, index: int, rng: np.random.Generator) -> tuple[Picture, Floats]:
        """See cut_out."""
        return cut_out(
            self.pictures,
            self.persons[index],
            self.input_hw,
            self.augmentation,
            self.codec.crop,
            rng,
            self.normalisation,
        )


def person_targets(keypoints_k3: Floats, input_hw: tuple[int, int], stride: int, codec: Codec) -> tuple[Floats, Floats]:
    """Heatmaps [K,h,w] of one person and weights [K]: 1 where the joint is labelled and in the maps, else 0.

    keypoints_k3: in input pixels. HRNet's weight is 1 up to 3σ + 1 cells outside
    too, where only the Gaussian's foot is in the map.
    """
    maps_khw = gaussian_heatmaps(keypoints_k3[None], input_hw, stride, codec)
    located_1k2 = joint_locations(keypoints_k3[None], input_hw, stride, codec, max_people=1)
    return maps_khw, located_1k2[0, :, 1].astype(np.float32)


def person_bins(
    keypoints_k3: Floats, input_hw: tuple[int, int], bins_xy: tuple[int, int], codec: Codec
) -> tuple[Floats, Floats, Floats]:
    """Vectors along x [K,X] and along y [K,Y] of one person, and weights [K]: SimCC's targets, as mmpose has them.

    keypoints_k3: in input pixels, those outside the input too. A vector is exp(-(i - µ)²/2σ²) over all bins i, with the
    joint at bin µ, the nearest one where the codec's targets are cells (of two as near ones the even), and σ as
    sigma_of_bins gives it. Weight 1: the joint is labelled, and the bins reach into µ ± 3σ along both axes: one that is
    slightly outside still teaches. Vectors of weight 0 are zeros.
    """
    strides_xy = codec.strides_xy(input_hw, (bins_xy[1], bins_xy[0]))
    weights_k = keypoints_k3[:, 2] > 0
    vectors = []
    for axis, bins in enumerate(bins_xy):
        centre_k = codec.to_cells(keypoints_k3[:, axis], strides_xy[axis])
        if codec.targets == "cell":
            centre_k = np.rint(centre_k)
        sigma = sigma_of_bins(bins)
        weights_k = weights_k & (centre_k + 3 * sigma + 1 >= 0) & (centre_k - 3 * sigma < bins)
        vectors.append(np.exp(-((np.arange(bins) - centre_k[:, None]) ** 2) / (2 * sigma**2)))
    x_kn, y_kn = ((vector * weights_k[:, None]).astype(np.float32) for vector in vectors)
    return x_kn, y_kn, weights_k.astype(np.float32)


def sigma_of_bins(bins: int) -> float:
    """Standard deviation of SimCC's targets in bins, of an axis of so many: √(bins/16), to two decimals.

    RTMPose's configurations have 4.9 and 5.66 for 384 and 512 bins, 6 and 6.93 for 576 and 768.
    """
    return round(math.sqrt(bins / 16), 2)


def _upper_body(keypoints: KeypointSet) -> npt.NDArray[np.bool_]:
    """bool [K]: whether the joint is of the upper body."""
    return np.array([not _UPPER_BODY.isdisjoint(name.split("_")) for name in keypoints.names])
