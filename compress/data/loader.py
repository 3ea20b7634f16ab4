"""From a set of pictures to batches: for training shuffled and augmented, for evaluation in order and as they are.

Everything random about a training picture comes from (seed, epoch, index), so neither the number of worker processes
nor the order of reading changes a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from compress.data.picture import Mask, PictureSet
from compress.data.targets import gaussian_heatmaps, joint_locations
from compress.data.transforms import (
    Augmentation,
    Matrix,
    augment_matrix,
    fit_matrix,
    flip,
    mirrors,
    move_keypoints,
    normalise,
    warp,
)
from compress.errors import DataError

MAX_PEOPLE = 30  # HigherHRNet, cfg.DATASET.MAX_NUM_PEOPLE


@dataclass(frozen=True)
class Batch:
    """One training step's data; h and w are the input's divided by each stride, in the order of the strides.

    images: float32 [B, 3, H, W], normalised, channels_last. heatmaps: float32 [B, K, h, w] per stride. masks: float32
    [B, h, w] per stride, 0 where the loss must not look. joints: int64 [B, max_people, K, 2] at the first stride: flat
    index into the tag maps, and whether labelled.
    """

    images: torch.Tensor
    heatmaps: tuple[torch.Tensor, ...]
    masks: tuple[torch.Tensor, ...]
    joints: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)


def batches(
    pictures: PictureSet,
    *,
    input_hw: tuple[int, int],
    strides: tuple[int, ...],
    sigma: float,
    exact: bool = False,
    batch_size: int,
    epoch: int,
    seed: int,
    augmentation: Augmentation,
    workers: int = 0,
    limit: int | None = None,
) -> Iterator[Batch]:
    """One epoch of training batches, shuffled by (seed, epoch), the last incomplete one dropped.

    sigma in heatmap cells, the same at every stride.
    exact: Gaussians around joints, not around their cells. limit: at most so many pictures of the epoch's order.
    workers: processes that prepare batches beside this one; 0 prepares them here. Raises DataError when not even one
    batch comes together or the input cannot be divided by a stride.
    """
    for stride in strides:
        if input_hw[0] % stride or input_hw[1] % stride:
            raise DataError(
                f"the input must be divisible by stride {stride}",
                place="training input size",
                value=input_hw,
                remedy="choose a multiple of it",
            )
    order = np.random.default_rng([seed, epoch]).permutation(len(pictures))[:limit]
    if len(order) < batch_size:
        raise DataError(
            f"a batch needs {batch_size} pictures",
            place="training pictures",
            value=len(order),
            remedy="give more pictures or a smaller batch size",
        )
    recipe = _Recipe(input_hw, strides, sigma, exact, epoch, seed, augmentation)
    chunks = [order[start : start + batch_size] for start in range(0, len(order) - batch_size + 1, batch_size)]
    dataset = _Batches(pictures, recipe, chunks)
    if workers == 0:
        return _raising(dataset[number] for number in range(len(dataset)))
    loader: DataLoader[Batch | DataError] = DataLoader(
        dataset, batch_size=None, shuffle=False, num_workers=workers, worker_init_fn=_single_thread
    )
    return _raising(iter(loader))


def _raising(items: "Iterator[Batch | DataError]") -> Iterator[Batch]:
    # A worker sends its error as a value: torch would rebuild it from its message alone and fail.
    for item in items:
        if isinstance(item, DataError):
            raise item
        yield item


def eval_batches(
    pictures: PictureSet, *, input_hw: tuple[int, int], batch_size: int
) -> Iterator[tuple[torch.Tensor, list[Matrix], list[int]]]:
    """Every picture once, in order: images as in Batch, matrices from picture to input pixels, indices in the set."""
    for start in range(0, len(pictures), batch_size):
        indices = list(range(start, min(start + batch_size, len(pictures))))
        images = np.empty((len(indices), *input_hw, 3), np.uint8)
        matrices = []
        for row, index in enumerate(indices):
            image = pictures.image(index)
            matrix = fit_matrix((image.shape[0], image.shape[1]), input_hw)
            images[row] = warp(image, matrix, input_hw)
            matrices.append(matrix)
        yield normalise(images), matrices, indices


@dataclass(frozen=True)
class _Recipe:
    input_hw: tuple[int, int]
    strides: tuple[int, ...]
    sigma: float
    exact: bool
    epoch: int
    seed: int
    augmentation: Augmentation


class _Batches(Dataset["Batch | DataError"]):
    """Item n is the whole n-th batch: a worker then sends one object instead of one per picture."""

    def __init__(self, pictures: PictureSet, recipe: _Recipe, chunks: list[npt.NDArray[np.int64]]) -> None:
        self.pictures, self.recipe, self.chunks = pictures, recipe, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> "Batch | DataError":
        try:
            return _batch(self.pictures, self.recipe, self.chunks[number])
        except DataError as error:
            return error


def _batch(pictures: PictureSet, recipe: _Recipe, indices: npt.NDArray[np.int64]) -> Batch:
    size, (height, width), joints = len(indices), recipe.input_hw, len(pictures.keypoints)
    images = np.empty((size, height, width, 3), np.uint8)
    sizes = [(height // stride, width // stride) for stride in recipe.strides]
    heatmaps = [np.empty((size, joints, h, w), np.float32) for h, w in sizes]
    masks = [np.ones((size, h, w), np.float32) for h, w in sizes]
    locations = np.empty((size, MAX_PEOPLE, joints, 2), np.int64)
    flip_index = pictures.keypoints.flip_index
    for row, index in enumerate(indices.tolist()):
        rng = np.random.default_rng([recipe.seed, recipe.epoch, index])
        image = pictures.image(index)
        matrix = augment_matrix(rng, (image.shape[0], image.shape[1]), recipe.input_hw, recipe.augmentation)
        images[row] = warp(image, matrix, recipe.input_hw)
        keypoints = move_keypoints(pictures.people(index).keypoints_pk3, matrix, recipe.input_hw)
        if mirrors(matrix):
            keypoints = flip(keypoints, flip_index)
        ignored = pictures.ignore_mask(index)
        for level, stride in enumerate(recipe.strides):
            heatmaps[level][row] = gaussian_heatmaps(
                keypoints, recipe.input_hw, stride, recipe.sigma, exact=recipe.exact
            )
            if ignored is not None:
                masks[level][row] = ~_warp_mask(ignored, matrix, sizes[level], stride)
        locations[row] = joint_locations(keypoints, recipe.strides[0], *sizes[0], MAX_PEOPLE)
    return Batch(
        images=normalise(images),
        heatmaps=tuple(torch.from_numpy(maps) for maps in heatmaps),
        masks=tuple(torch.from_numpy(mask) for mask in masks),
        joints=torch.from_numpy(locations),
    )


def _warp_mask(ignored: Mask, matrix: Matrix, size_hw: tuple[int, int], stride: int) -> Mask:
    """The mask at heatmap resolution; outside the picture nothing is ignored, because nobody is there."""
    to_cells = matrix / stride
    to_cells[:, 2] += 0.5 / stride - 0.5  # both grids have their first pixel's centre at 0
    warped = cv2.warpAffine(ignored.astype(np.uint8) * 255, to_cells, (size_hw[1], size_hw[0]), flags=cv2.INTER_LINEAR)
    return np.asarray(warped > 127, np.bool_)


def _single_thread(worker: int) -> None:
    """Every worker is one thread: more would only fight over the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
