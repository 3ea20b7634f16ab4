"""What one step of training learns from: an input, and what the network's maps should be for it.

Each approach has samples of its own (compress.pose.approaches); here is what they have in common.
"""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.picture import Floats, Mask, Picture, PictureSet
from compress.data.transforms import Augmentation, Matrix, augment_matrix, flip, mirrors, move_keypoints, warp

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

    @property
    def normalisation(self) -> Normalisation:
        """Of the inputs that their pictures become."""
        return IMAGENET

    def __len__(self) -> int: ...

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """One sample; equal for equal index and generator."""
        ...


@dataclass(frozen=True)
class SeveralSizes:
    """The same samples at several input sizes: those of a batch at one, those of the next batch at the next one.

    sizes: of each; on its own a sample is of the last.
    """

    sizes: tuple[Samples, ...]

    @property
    def normalisation(self) -> Normalisation:
        """See Samples."""
        return self.sizes[-1].normalisation

    def __len__(self) -> int:
        return len(self.sizes[-1])

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """See Samples."""
        return self.sizes[-1].sample(index, rng)

    def of_batch(self, number: int) -> Samples:
        """What the n-th batch of an epoch is drawn from."""
        return self.sizes[number % len(self.sizes)]


def moved_picture(
    pictures: PictureSet,
    index: int,
    input_hw: tuple[int, int],
    augmentation: Augmentation,
    normalisation: Normalisation,
    rng: np.random.Generator,
) -> tuple[Picture, Matrix, Floats]:
    """A whole picture as an input, augmented; the matrix from picture to input pixels; its people's joints [P,K,3] in
    the input."""
    image = pictures.image(index)
    matrix = augment_matrix(rng, (image.shape[0], image.shape[1]), input_hw, augmentation)
    keypoints = moved_joints(pictures.people(index).keypoints_pk3, matrix, input_hw, pictures)
    return warp(image, matrix, input_hw, normalisation), matrix, keypoints


def moved_joints(keypoints_pk3: Floats, matrix: Matrix, input_hw: tuple[int, int], pictures: PictureSet) -> Floats:
    """The joints in input pixels; in a mirrored input a left joint is a right one."""
    moved = move_keypoints(keypoints_pk3, matrix, input_hw)
    return flip(moved, pictures.keypoints.flip_index) if mirrors(matrix) else moved


def looked_at(pictures: PictureSet, index: int, matrix: Matrix, input_hw: tuple[int, int], stride: int) -> Floats:
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
