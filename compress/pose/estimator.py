"""From pictures to people, whatever the approach: pictures go through the network and its maps are decoded.

An approach says how a picture becomes inputs and how maps become people (`PoseEstimator`); here networks are run, the
mirrored pass too, and the decoding is timed.
"""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from compress.data.beside import beside
from compress.data.detections import Detections, read_detections
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.picture import Floats, Picture, PictureSet
from compress.data.transforms import Matrix, fit_matrix, normalise, warp
from compress.engines.engine import one_torch_thread
from compress.errors import NetworkError
from compress.pose.decode.poses import Poses

Maps = Sequence[Tensor]
"""The outputs of a network, [N,C,h,w] each, on the CPU and in float32."""


@dataclass(frozen=True)
class NetworkInputs:
    """What goes into a network for one picture.

    images: uint8 RGB [N,H,W,3]: the picture, or one per box. matrices: of each, from picture to input
    pixels. boxes_n4: x, y, width, height in the picture; scores_n: how sure each box is.
    """

    images: Picture
    matrices: list[Matrix]
    boxes_n4: Floats
    scores_n: Floats


@dataclass(frozen=True)
class PicturePoses:
    """The people of one picture, in its pixels. decode_ms: from the network's maps to the people, on one thread."""

    index: int
    poses: Poses
    decode_ms: float


class Boxes(Protocol):
    """Where a top-down network looks for persons."""

    def of(self, pictures: PictureSet, index: int) -> tuple[Floats, Floats]:
        """x, y, width, height [D,4] and scores [D] of one picture's persons."""
        ...


class LabelledBoxes:
    """The boxes of the labelled people, in the order of their labels, all of score 1."""

    def of(self, pictures: PictureSet, index: int) -> tuple[Floats, Floats]:
        """See Boxes."""
        boxes = pictures.people(index).boxes_p4
        return boxes, np.ones(len(boxes), np.float32)


class WholePictures:
    """One person who fills the picture."""

    def of(self, pictures: PictureSet, index: int) -> tuple[Floats, Floats]:
        """See Boxes."""
        height, width = pictures.image(index).shape[:2]
        return np.array([[0, 0, width, height]], np.float32), np.ones(1, np.float32)


@dataclass(frozen=True)
class DetectedBoxes:
    """What a detector found: boxes [D,4] and scores [D] of every picture."""

    found: Sequence[Detections]

    def of(self, pictures: PictureSet, index: int) -> tuple[Floats, Floats]:
        """See Boxes."""
        return self.found[index].boxes_d4, self.found[index].scores_d


def boxes_for(detections: Path | None, pictures: PictureSet) -> Boxes:
    """A detector's boxes if there is a file of them, else the labelled ones. Raises DataError."""
    return LabelledBoxes() if detections is None else DetectedBoxes(read_detections(detections, pictures))


def whole_picture(
    pictures: PictureSet, index: int, input_hw: tuple[int, int], normalisation: Normalisation = IMAGENET
) -> NetworkInputs:
    """The whole picture in one input, as bottom-up networks get it."""
    image = pictures.image(index)
    height, width = image.shape[:2]
    matrix = fit_matrix((height, width), input_hw)
    box = np.array([[0, 0, width, height]], np.float32)
    return NetworkInputs(warp(image, matrix, input_hw, normalisation)[None], [matrix], box, np.ones(1, np.float32))


class PoseEstimator(Protocol):
    """How one approach finds people: how pictures go into a network, and how the maps that come out are decoded."""

    @property
    def normalisation(self) -> Normalisation:
        """Of the network's inputs."""
        return IMAGENET

    def inputs(self, pictures: PictureSet, index: int) -> NetworkInputs:
        """What goes into the network for a picture."""
        ...

    def decode(self, inputs: NetworkInputs, outputs: Maps, mirrored: Maps | None) -> Poses:
        """The people in picture pixels. mirrored: the outputs for the mirrored inputs, as they came."""
        ...


def estimate_poses(
    network: nn.Module,
    estimator: PoseEstimator,
    pictures: PictureSet,
    *,
    flip_test: bool,
    indices: Sequence[int] | None = None,
    batch_size: int = 32,
    finite: bool = False,
) -> Iterator[PicturePoses]:
    """The people of every picture, in order. The network is set to eval mode.

    flip_test: the mirrored inputs go through the network too. indices: of the pictures to look at; None: all. finite:
    raises NetworkError for outputs that are not; a search goes on: such a candidate finds no people.
    """
    network.eval()
    device = next(network.parameters()).device
    for batch in _batches(estimator, pictures, range(len(pictures)) if indices is None else indices, batch_size):
        images = np.concatenate([inputs.images for _, inputs in batch])
        outputs = _outputs(network, images, estimator.normalisation, device, finite=finite)
        mirrored = None
        if flip_test:
            mirrored = _outputs(network, images[:, :, ::-1], estimator.normalisation, device, finite=finite)
        start = 0
        for index, inputs in batch:
            rows = slice(start, start + len(inputs.images))
            start = rows.stop
            own = [part[rows] for part in outputs]
            own_mirrored = [part[rows] for part in mirrored] if mirrored is not None else None
            with one_torch_thread():
                begin = time.perf_counter()
                poses = estimator.decode(inputs, own, own_mirrored)
                elapsed = time.perf_counter() - begin
            yield PicturePoses(index, poses, elapsed * 1000)


def estimate_all_poses(
    network: nn.Module,
    estimator: PoseEstimator,
    pictures: PictureSet,
    *,
    flip_test: bool,
    batch_size: int = 32,
    finite: bool = False,
) -> Iterator[PicturePoses]:
    """As estimate_poses, of all pictures; on a CPU where torch has several threads, two processes share the pictures.

    Most of the time goes where only one thread works. The poses are those of one thread.
    """
    half = len(pictures) // 2 // batch_size * batch_size

    def found(indices: Sequence[int]) -> Iterator[PicturePoses]:
        return estimate_poses(
            network, estimator, pictures, flip_test=flip_test, indices=indices, batch_size=batch_size, finite=finite
        )

    def second_half() -> list[PicturePoses]:
        cv2.setNumThreads(0)  # its threads are not copied
        return list(found(range(half, len(pictures))))

    on_cpu = next(network.parameters()).device.type == "cpu"
    if not (half and on_cpu and torch.get_num_threads() > 1 and hasattr(os, "fork")):
        yield from found(range(len(pictures)))
        return
    with one_torch_thread(), beside(second_half) as result:
        yield from found(range(half))
        rest = result()
        yield from found(range(half, len(pictures))) if rest is None else rest


def first_inputs(estimator: PoseEstimator, pictures: PictureSet, wanted: int, device: torch.device) -> Iterator[Tensor]:
    """About the first `wanted` inputs as evaluation sees them, in batches [B,3,H,W] on the device."""
    given = 0
    for batch in _batches(estimator, pictures, range(len(pictures)), 32):
        images = np.concatenate([inputs.images for _, inputs in batch])
        yield normalise(images, estimator.normalisation).to(device)
        given += len(images)
        if given >= wanted:
            break


def _batches(
    estimator: PoseEstimator, pictures: PictureSet, indices: Sequence[int], batch_size: int
) -> Iterator[list[tuple[int, NetworkInputs]]]:
    """(index, inputs) of pictures that follow one another, with at least batch_size inputs together."""
    batch = []
    for index in indices:
        batch.append((index, estimator.inputs(pictures, index)))
        if sum(len(inputs.images) for _, inputs in batch) >= batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _outputs(
    network: nn.Module,
    images: Picture,
    normalisation: Normalisation,
    device: torch.device,
    *,
    finite: bool,
    at_once: int = 64,
) -> list[Tensor]:
    """The network's outputs for uint8 inputs [N,H,W,3]; none of them if there are no inputs.

    finite: raises NetworkError for outputs that are not.
    """
    parts = []
    with torch.no_grad():
        for start in range(0, len(images), at_once):
            part = np.ascontiguousarray(images[start : start + at_once])
            inputs = normalise(part, normalisation).to(device)
            parts.append([output.float().cpu() for output in network(inputs)])
            if finite and not all(output.isfinite().all() for output in parts[-1]):
                raise NetworkError(
                    "the network's outputs must be finite numbers; its weights are",
                    place="a picture's maps",
                    value="NaN or infinity",
                    remedy="some layer's values overflow: look for a norm of variance near 0, or a division by 0",
                )
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]
