"""What one step of training learns from: a picture made ready, and what the network should answer to it.

Each approach has its own samples.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from compress.data.boxes import PersonAugmentation, augment_person, person_targets
from compress.data.limbs import PartLayout
from compress.data.part_affinity_targets import part_maps
from compress.data.picture import Floats, Mask, Picture, PictureSet
from compress.data.targets import gaussian_heatmaps, joint_locations
from compress.data.transforms import Augmentation, Matrix, augment_matrix, flip, mirrors, move_keypoints, warp
from compress.pose.codec import Codec

MAX_PEOPLE = 30  # HigherHRNet, cfg.DATASET.MAX_NUM_PEOPLE


@dataclass(frozen=True)
class Sample:
    """image: uint8 RGB [H,W,3]. maps: float32 [C,h,w], one per output, or one for all outputs. weights: float32, 0
    where the loss must not look, of a shape that goes with the map's. joints: int64 [MAX_PEOPLE,K,2], where tags are
    read (see joint_locations), or None."""

    image: Picture
    maps: tuple[Floats, ...]
    weights: tuple[Floats, ...]
    joints: npt.NDArray[np.int64] | None = None


class Samples(Protocol):
    """Samples by number, drawn anew at every call from the generator given."""

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """One sample; equal for equal index and generator."""
        ...


@dataclass(frozen=True)
class TaggedPictures:
    """Whole pictures for associative embedding: heatmaps of all people at every stride, and the places of their tags.

    codec: of the heatmaps at every stride.
    """

    pictures: PictureSet
    input_hw: tuple[int, int]
    strides: tuple[int, ...]
    codec: Codec
    augmentation: Augmentation

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """One picture."""
        image, matrix, keypoints = _moved_picture(self.pictures, index, self.input_hw, self.augmentation, rng)
        heatmaps = tuple(gaussian_heatmaps(keypoints, self.input_hw, stride, self.codec) for stride in self.strides)
        weights = tuple(_not_ignored(self.pictures, index, matrix, self.input_hw, stride) for stride in self.strides)
        joints = joint_locations(keypoints, self.input_hw, self.strides[0], self.codec, MAX_PEOPLE)
        return Sample(image, heatmaps, weights, joints)


@dataclass(frozen=True)
class PartPictures:
    """Whole pictures for part affinity fields: parts, background and fields, one map for all stages.

    sigma, limb_width in cells (see part_maps).
    """

    pictures: PictureSet
    input_hw: tuple[int, int]
    stride: int
    layout: PartLayout
    sigma: float
    limb_width: float
    augmentation: Augmentation

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """One picture."""
        image, matrix, keypoints = _moved_picture(self.pictures, index, self.input_hw, self.augmentation, rng)
        sigma_px = self.sigma * self.stride
        maps = part_maps(keypoints, self.layout, self.input_hw, self.stride, sigma_px, self.limb_width)
        return Sample(image, (maps,), (_not_ignored(self.pictures, index, matrix, self.input_hw, self.stride),))


@dataclass(frozen=True)
class CutOutPersons:
    """One labelled person at a time, cut out by its box, for top-down networks.

    codec: of the heatmaps and of the cut-out. Unlabelled joints have weight 0.
    """

    pictures: PictureSet
    input_hw: tuple[int, int]
    strides: tuple[int, ...]
    codec: Codec
    augmentation: PersonAugmentation

    @cached_property
    def persons(self) -> list[tuple[int, int]]:
        """(picture, person in it), in the pictures' order."""
        return [(i, person) for i in range(len(self.pictures)) for person in range(len(self.pictures.people(i)))]

    def __len__(self) -> int:
        return len(self.persons)

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """One person."""
        picture, person = self.persons[index]
        people = self.pictures.people(picture)
        joints_k3, box = people.keypoints_pk3[person], people.boxes_p4[person]
        matrix = augment_person(
            rng, joints_k3, box, self.pictures.keypoints, self.input_hw, self.augmentation, self.codec.crop
        )
        moved = _moved(joints_k3[None], matrix, self.input_hw, self.pictures)[0]
        answers = [person_targets(moved, self.input_hw, stride, self.codec) for stride in self.strides]
        return Sample(
            warp(self.pictures.image(picture), matrix, self.input_hw),
            tuple(maps for maps, _ in answers),
            tuple(weight[:, None, None] for _, weight in answers),
        )


def _moved_picture(
    pictures: PictureSet,
    index: int,
    input_hw: tuple[int, int],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> tuple[Picture, Matrix, Floats]:
    """A whole picture as the network sees it, the matrix that took it there, and its people's joints [P,K,3] there."""
    image = pictures.image(index)
    matrix = augment_matrix(rng, (image.shape[0], image.shape[1]), input_hw, augmentation)
    keypoints = _moved(pictures.people(index).keypoints_pk3, matrix, input_hw, pictures)
    return warp(image, matrix, input_hw), matrix, keypoints


def _moved(keypoints_pk3: Floats, matrix: Matrix, input_hw: tuple[int, int], pictures: PictureSet) -> Floats:
    """The joints in input pixels; in a mirrored input a left joint is a right one."""
    moved = move_keypoints(keypoints_pk3, matrix, input_hw)
    return flip(moved, pictures.keypoints.flip_index) if mirrors(matrix) else moved


def _not_ignored(pictures: PictureSet, index: int, matrix: Matrix, input_hw: tuple[int, int], stride: int) -> Floats:
    """float32 [1,h,w]: 0 where the picture's ignore mask is; beyond the picture nobody is, and the loss looks."""
    height, width = input_hw[0] // stride, input_hw[1] // stride
    ignored = pictures.ignore_mask(index)
    if ignored is None:
        return np.ones((1, height, width), np.float32)
    return (~_warp_mask(ignored, matrix, (height, width), stride))[None].astype(np.float32)


def _warp_mask(ignored: Mask, matrix: Matrix, size_hw: tuple[int, int], stride: int) -> Mask:
    """The mask at heatmap resolution."""
    to_cells = matrix / stride
    to_cells[:, 2] += 0.5 / stride - 0.5  # both grids have their first pixel's centre at 0
    warped = cv2.warpAffine(ignored.astype(np.uint8) * 255, to_cells, (size_hw[1], size_hw[0]), flags=cv2.INTER_LINEAR)
    return np.asarray(warped > 127, np.bool_)
