"""From pictures to people, for every approach: what the network is asked, and how its answers are read."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from compress.data.beside import beside
from compress.data.boxes import box_region, crop_matrix
from compress.data.detections import Detections, read_detections
from compress.data.keypoints import KeypointSet
from compress.data.limbs import layout_for
from compress.data.picture import Floats, Picture, PictureSet
from compress.data.transforms import Matrix, fit_matrix, normalise, warp
from compress.engines.engine import one_torch_thread
from compress.errors import NetworkError, RecipeError
from compress.networks import Architecture
from compress.pose.codec import Codec, Locate
from compress.pose.decode import associative_embedding, part_affinity, top_down
from compress.pose.decode.associative_embedding import Grouping
from compress.pose.decode.part_affinity import PartGrouping
from compress.pose.decode.pose_nms import hard_nms, parallel_nms, soft_nms
from compress.pose.decode.poses import Poses, to_image
from compress.recipe import Data, Decoding

Maps = Sequence[Tensor]
"""The outputs of a network, [N,C,h,w] each, on the CPU and in float32."""


@dataclass(frozen=True)
class NetworkInputs:
    """What a network is asked about one picture.

    images: uint8 RGB [N,H,W,3], the inputs: the picture, or one per box. matrices: of each, from picture to input
    pixels. boxes_n4: x, y, width, height in the picture; scores_n: how sure each box is.
    """

    images: Picture
    matrices: list[Matrix]
    boxes_n4: Floats
    scores_n: Floats


@dataclass(frozen=True)
class Found:
    """The people of one picture, in its pixels. decode_ms: from the network's answers to the people, on one thread."""

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


def boxes_for(data: Data, pictures: PictureSet) -> Boxes:
    """A detector's boxes if the recipe names them, else the labelled ones. Raises DataError."""
    if data.kind == "synthetic" or data.disk.detections is None:
        return LabelledBoxes()
    return DetectedBoxes(read_detections(data.disk.detections, pictures))


class PoseEstimator(Protocol):
    """How one approach finds people."""

    def ask(self, pictures: PictureSet, index: int) -> NetworkInputs:
        """What the network is asked about a picture."""
        ...

    def read(self, asked_inputs: NetworkInputs, outputs: Maps, mirrored: Maps | None) -> Poses:
        """The people in picture pixels. mirrored: the answers to the mirrored inputs, as they came."""
        ...


def estimator_for(
    architecture: Architecture,
    keypoints: KeypointSet,
    input_hw: tuple[int, int],
    *,
    codec: Codec,
    decoding: Decoding,
    boxes: Boxes,
) -> PoseEstimator:
    """The estimator of the network's approach. codec: that it was trained with. boxes: for top-down.

    Other people's labels are no detector's boxes: where boxes are labelled ones, nothing is suppressed.
    """
    check_codec(architecture.approach, codec)
    locate = decoding.locate or codec.locate
    match architecture.approach:
        case "bottom-up AE":
            return _AssociativeEmbeddingEstimator(
                keypoints, input_hw, Grouping(locate=locate, refine=decoding.refine), codec
            )
        case "PAF":
            stride = architecture.output_strides[-1]
            grouping = PartGrouping(upsample=decoding.upsample, locate=decoding.locate or "peak")
            return _PartAffinityEstimator(keypoints, input_hw, grouping, stride)
        case _:
            suppressed = decoding if isinstance(boxes, DetectedBoxes) else None
            return _TopDownEstimator(keypoints, input_hw, codec, locate, boxes, suppressed)


def check_codec(approach: str, codec: Codec) -> None:
    """Raises RecipeError for a codec that networks of this approach cannot be trained with or read by.

    Associative embedding reads maps of several sizes, turned back and resized, by the middles of their cells; part
    affinity fields have rules of their own and read sigma alone.
    """
    plain = Codec()
    if approach == "bottom-up AE":
        wrong = [key for key in ("cells", "shift_mirrored", "crop") if getattr(codec, key) != getattr(plain, key)]
        if codec.locate in ("dark", "udp"):
            wrong.append("locate")
    elif approach == "PAF":
        wrong = [key for key in asdict(plain) if key != "sigma" and getattr(codec, key) != getattr(plain, key)]
    else:
        wrong = []
    if wrong:
        raise RecipeError(
            f"a network of the approach {approach} has no such codec",
            place=f"recipe: codec.{wrong[0]}",
            value=getattr(codec, wrong[0]),
            remedy="use codec ours" + (" or exact" if approach == "bottom-up AE" else "; its sigma is free"),
        )


def estimate_poses(
    network: nn.Module,
    estimator: PoseEstimator,
    pictures: PictureSet,
    *,
    flip_test: bool,
    indices: Sequence[int] | None = None,
    batch_size: int = 32,
    finite: bool = False,
) -> Iterator[Found]:
    """The people of every picture, in order. The network is set to eval mode.

    flip_test: the mirrored inputs are asked too. indices: of the pictures to look at; None: all. finite: raises
    NetworkError for answers that are not; a search goes on, with a candidate that finds nobody.
    """
    network.eval()
    device = next(network.parameters()).device
    for asked in _gathered(estimator, pictures, range(len(pictures)) if indices is None else indices, batch_size):
        images = np.concatenate([asked_inputs.images for _, asked_inputs in asked])
        outputs = _answers(network, images, device, finite=finite)
        mirrored = _answers(network, images[:, :, ::-1], device, finite=finite) if flip_test else None
        start = 0
        for index, asked_inputs in asked:
            rows = slice(start, start + len(asked_inputs.images))
            start = rows.stop
            mine = [part[rows] for part in outputs]
            theirs = [part[rows] for part in mirrored] if mirrored is not None else None
            with one_torch_thread():
                begin = time.perf_counter()
                poses = estimator.read(asked_inputs, mine, theirs)
                elapsed = time.perf_counter() - begin
            yield Found(index, poses, elapsed * 1000)


def estimate_all_poses(
    network: nn.Module,
    estimator: PoseEstimator,
    pictures: PictureSet,
    *,
    flip_test: bool,
    batch_size: int = 32,
    finite: bool = False,
) -> Iterator[Found]:
    """As estimate_poses, of all pictures; on a CPU where torch has several threads, two processes share the pictures.

    Most of the time goes where only one thread works. The answers are those of one thread.
    """
    half = len(pictures) // 2 // batch_size * batch_size

    def found(indices: Sequence[int]) -> Iterator[Found]:
        return estimate_poses(
            network, estimator, pictures, flip_test=flip_test, indices=indices, batch_size=batch_size, finite=finite
        )

    def second_half() -> list[Found]:
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
    for asked in _gathered(estimator, pictures, range(len(pictures)), 32):
        images = np.concatenate([asked_inputs.images for _, asked_inputs in asked])
        yield normalise(images).to(device)
        given += len(images)
        if given >= wanted:
            break


def _gathered(
    estimator: PoseEstimator, pictures: PictureSet, indices: Sequence[int], batch_size: int
) -> Iterator[list[tuple[int, NetworkInputs]]]:
    """(index, asked_inputs) of pictures that follow one another, with at least batch_size inputs together."""
    asked = []
    for index in indices:
        asked.append((index, estimator.ask(pictures, index)))
        if sum(len(asked_inputs.images) for _, asked_inputs in asked) >= batch_size:
            yield asked
            asked = []
    if asked:
        yield asked


def _answers(
    network: nn.Module, images: Picture, device: torch.device, *, finite: bool, at_once: int = 64
) -> list[Tensor]:
    """The network's outputs for uint8 inputs [N,H,W,3]; none of them if there are no inputs.

    finite: raises NetworkError for outputs that are not.
    """
    parts = []
    with torch.no_grad():
        for start in range(0, len(images), at_once):
            inputs = normalise(np.ascontiguousarray(images[start : start + at_once])).to(device)
            parts.append([output.float().cpu() for output in network(inputs)])
            if finite and not all(output.isfinite().all() for output in parts[-1]):
                raise NetworkError(
                    "the network's answers must be finite numbers; its weights are",
                    place="a picture's maps",
                    value="NaN or infinity",
                    remedy="some layer's values overflow: look for a norm of variance near 0, or a division by 0",
                )
    return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def _whole(pictures: PictureSet, index: int, input_hw: tuple[int, int]) -> NetworkInputs:
    """The whole picture in one input."""
    image = pictures.image(index)
    height, width = image.shape[:2]
    matrix = fit_matrix((height, width), input_hw)
    box = np.array([[0, 0, width, height]], np.float32)
    return NetworkInputs(warp(image, matrix, input_hw)[None], [matrix], box, np.ones(1, np.float32))


@dataclass(frozen=True)
class _AssociativeEmbeddingEstimator:
    keypoints: KeypointSet
    input_hw: tuple[int, int]
    grouping: Grouping
    codec: Codec

    def ask(self, pictures: PictureSet, index: int) -> NetworkInputs:
        return _whole(pictures, index, self.input_hw)

    def read(self, asked_inputs: NetworkInputs, outputs: Maps, mirrored: Maps | None) -> Poses:
        heatmaps, tags = associative_embedding.merge_outputs(outputs, mirrored, self.keypoints)
        poses = associative_embedding.decode(heatmaps, tags, self.keypoints, self.grouping)
        stride = self.input_hw[0] / heatmaps.shape[1]
        offset = self.codec.offset_xy((stride, stride), mirrored=mirrored is not None)
        return to_image(poses, asked_inputs.matrices[0], stride, offset)


@dataclass(frozen=True)
class _PartAffinityEstimator:
    keypoints: KeypointSet
    input_hw: tuple[int, int]
    grouping: PartGrouping
    stride: int

    def ask(self, pictures: PictureSet, index: int) -> NetworkInputs:
        return _whole(pictures, index, self.input_hw)

    def read(self, asked_inputs: NetworkInputs, outputs: Maps, mirrored: Maps | None) -> Poses:
        layout = layout_for(self.keypoints)
        last = None if mirrored is None else mirrored[-1]
        heatmaps, fields = part_affinity.merge_outputs(outputs[-1], last, layout)
        poses = part_affinity.decode(heatmaps, fields, layout, self.grouping)
        beside = (self.stride / self.grouping.upsample - 1) / 2  # middle of an upsampled pixel, in input pixels
        return to_image(poses, asked_inputs.matrices[0], self.stride, (beside, beside))


@dataclass(frozen=True)
class _TopDownEstimator:
    keypoints: KeypointSet
    input_hw: tuple[int, int]
    codec: Codec
    locate: Locate
    boxes: Boxes
    suppressed: Decoding | None

    @property
    def counted(self) -> float:
        """Least score of a joint that counts in its person's: MobilePoseNet's for parallel suppression, or HRNet's."""
        return 0.1 if self.suppressed and self.suppressed.suppression == "parallel" else 0.2

    def ask(self, pictures: PictureSet, index: int) -> NetworkInputs:
        boxes, scores = self.boxes.of(pictures, index)
        image = pictures.image(index)
        crop = self.codec.crop
        matrices = [crop_matrix(box_region(box, self.input_hw, crop=crop), self.input_hw, crop=crop) for box in boxes]
        inputs = [warp(image, matrix, self.input_hw) for matrix in matrices]
        images = np.stack(inputs) if inputs else np.zeros((0, *self.input_hw, 3), np.uint8)
        return NetworkInputs(images, matrices, boxes, scores)

    def read(self, asked_inputs: NetworkInputs, outputs: Maps, mirrored: Maps | None) -> Poses:
        if not len(asked_inputs.images):
            return Poses(np.zeros((0, len(self.keypoints), 3), np.float32), np.zeros(0, np.float32))
        last = None if mirrored is None else mirrored[-1]
        maps = top_down.merge_outputs(outputs[-1], last, self.keypoints, shift=self.codec.shift_mirrored)
        cells = top_down.decode(maps, self.locate, self.codec.blur)
        strides = self.codec.strides_xy(self.input_hw, (maps.shape[2], maps.shape[3]))
        offset = self.codec.offset_xy(strides, mirrored=mirrored is not None)
        joints = top_down.to_picture(cells, np.stack(asked_inputs.matrices), strides, offset)
        poses = Poses(joints, top_down.person_scores(cells, asked_inputs.scores_n, self.counted))
        return poses if self.suppressed is None else _suppressed(poses, asked_inputs, self.keypoints, self.suppressed)


def _suppressed(poses: Poses, asked_inputs: NetworkInputs, keypoints: KeypointSet, decoding: Decoding) -> Poses:
    areas: npt.NDArray[np.float32] = asked_inputs.boxes_n4[:, 2] * asked_inputs.boxes_n4[:, 3]
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
