"""From samples to batches: for training shuffled and augmented, for evaluation in order and as they are.

Everything random about a sample comes from (seed, epoch, index), so neither the number of worker processes, nor the
number of training processes, nor the order of reading changes a batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.picture import PictureSet
from compress.data.samples import Samples, SeveralSizes
from compress.data.transforms import Matrix, fit_matrix, normalise, warp
from compress.errors import DataError


@dataclass(frozen=True)
class Batch:
    """One training step's data.

    images: float32 [B,3,H,W], normalised, channels_last. maps: float32 [B,C,h,w], what the outputs should be; weights:
    of a shape that goes with it, 0 where the loss must not look. joints: int64 [B,max_people,K,2] or None, where the
    first output's tags are read: flat index into the tag maps, and whether labelled.
    """

    images: torch.Tensor
    maps: tuple[torch.Tensor, ...]
    weights: tuple[torch.Tensor, ...]
    joints: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device; itself on the CPU."""
        if device.type == "cpu":
            return self
        return Batch(
            self.images.to(device, non_blocking=True),
            tuple(part.to(device, non_blocking=True) for part in self.maps),
            tuple(part.to(device, non_blocking=True) for part in self.weights),
            None if self.joints is None else self.joints.to(device, non_blocking=True),
        )

    def parts(self, count: int) -> "list[Batch]":
        """The batch cut into so many equal parts."""
        if count == 1:
            return [self]
        size = len(self) // count
        return [
            Batch(
                self.images[start : start + size],
                tuple(part[start : start + size] for part in self.maps),
                tuple(part[start : start + size] for part in self.weights),
                None if self.joints is None else self.joints[start : start + size],
            )
            for start in range(0, size * count, size)
        ]


def batches(
    samples: Samples,
    *,
    batch_size: int,
    epoch: int,
    seed: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """One epoch of training batches, shuffled by (seed, epoch), the last incomplete one dropped.

    workers: processes that prepare batches beside this one; 0 prepares them here. rank, world: of `world` training
    processes each takes its part of every batch. Raises DataError when not even one batch comes together.
    """
    check_batch(samples, batch_size)
    order = np.random.default_rng([seed, epoch]).permutation(len(samples))
    chunks = [
        order[start : start + batch_size][rank * batch_size // world : (rank + 1) * batch_size // world]
        for start in range(0, len(order) - batch_size + 1, batch_size)
    ]
    dataset = _Batches(samples, (seed, epoch), chunks)
    if workers == 0:
        return _raising(dataset[number] for number in range(len(dataset)))
    loader: DataLoader[Batch | DataError] = DataLoader(
        dataset, batch_size=None, shuffle=False, num_workers=workers, worker_init_fn=_single_thread
    )
    return _raising(iter(loader))


def check_batch(samples: Samples, batch_size: int) -> None:
    """Raises DataError when not even one batch comes together."""
    if len(samples) < batch_size:
        raise DataError(
            f"a batch needs {batch_size} pictures or persons",
            place="training pictures",
            value=len(samples),
            remedy="give more pictures or a smaller batch size",
        )


def _raising(items: "Iterator[Batch | DataError]") -> Iterator[Batch]:
    # A worker sends its error as a value: torch would rebuild it from its message alone and fail.
    for item in items:
        if isinstance(item, DataError):
            raise item
        yield item


def eval_batches(
    pictures: PictureSet, *, input_hw: tuple[int, int], batch_size: int, normalisation: Normalisation = IMAGENET
) -> Iterator[tuple[torch.Tensor, list[Matrix], list[int]]]:
    """Every picture once, in order: images as in Batch, matrices from picture to input pixels, indices in the set."""
    for start in range(0, len(pictures), batch_size):
        indices = list(range(start, min(start + batch_size, len(pictures))))
        images = np.empty((len(indices), *input_hw, 3), np.uint8)
        matrices = []
        for row, index in enumerate(indices):
            image = pictures.image(index)
            matrix = fit_matrix((image.shape[0], image.shape[1]), input_hw)
            images[row] = warp(image, matrix, input_hw, normalisation)
            matrices.append(matrix)
        yield normalise(images, normalisation), matrices, indices


class _Batches(Dataset["Batch | DataError"]):
    """Item n is the whole n-th batch: a worker then sends one object instead of one per sample."""

    def __init__(self, samples: Samples, seeds: tuple[int, int], chunks: Sequence[npt.NDArray[np.int64]]) -> None:
        self.samples, self.seeds, self.chunks = samples, seeds, chunks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, number: int) -> "Batch | DataError":
        samples = self.samples.of_batch(number) if isinstance(self.samples, SeveralSizes) else self.samples
        try:
            drawn = [
                samples.sample(index, np.random.default_rng([*self.seeds, index]))
                for index in self.chunks[number].tolist()
            ]
        except DataError as error:
            return error
        joints = [sample.joints for sample in drawn if sample.joints is not None]
        return Batch(
            images=normalise(np.stack([sample.image for sample in drawn]), self.samples.normalisation),
            maps=_stacked([sample.maps for sample in drawn]),
            weights=_stacked([sample.weights for sample in drawn]),
            joints=torch.from_numpy(np.stack(joints)) if joints else None,
        )


def _stacked(rows: list[tuple[npt.NDArray[np.float32], ...]]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.stack(parts)) for parts in zip(*rows, strict=True))


def _single_thread(worker: int) -> None:
    """Every worker is one thread: more would only fight over the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
