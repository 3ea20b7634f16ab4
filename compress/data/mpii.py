"""MPII Human Pose from disk, in the JSON form that HRNet's and mmpose's downloads share.

Andriluka et al., "2D human pose estimation: new benchmark and state of the art analysis" (CVPR 2014),
http://human-pose.mpi-inf.mpg.de. The file is a list with an entry per person: image, center, scale, joints, joints_vis.
"""

import zlib
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from compress.data.coco import are_finite, read_json, require_pictures
from compress.data.keypoints import MPII, KeypointSet
from compress.data.picture import Mask, People, Picture, people_of
from compress.data.sizes import decode
from compress.data.synthetic import coco_category
from compress.errors import DataError

HEAD_SIZE = 0.6
"""Of the head box's diagonal: MPII's own evaluation (SC_BIAS)."""


class MpiiPeople:
    """A PictureSet over MPII's pictures and the entries of one annotation file.

    Pictures come in the order in which the file first names them and are numbered from 1, entries too. MPII counts
    pixels from 1; here the first is 0. A person's box is the square of 200 · scale pixels around its center, which is
    first moved down by 15 · scale pixels so that the feet are inside (HRNet, lib/dataset/mpii.py, before its margin of
    1.25); it often reaches beyond the picture. MPII annotates no area: it is the box's, and no figure of MPII uses it.
    The file does not tell hidden joints from visible ones: all labelled ones count as visible. Nothing is ignored.
    `coco` holds no picture sizes, which MPII does not give.
    """

    keypoints: KeypointSet = MPII

    def __init__(self, images: Path, annotations: Path, head_boxes: Path | None = None) -> None:
        """head_boxes: HRNet's gt_valid.mat (headboxes_src, one box per entry), which PCKh needs.

        Raises DataError, before any picture is read, for the first thing in either file that cannot be used.
        """
        self.folder, self._file = images, annotations
        entries = _read_entries(annotations)
        require_pictures([entry["image"] for entry in entries], images, annotations)
        sizes = None if head_boxes is None else _read_head_sizes(head_boxes, len(entries))
        ids: dict[str, int] = {}
        persons: list[dict[str, Any]] = []
        for number, entry in enumerate(entries, start=1):
            person = _person(entry, number, ids.setdefault(entry["image"], len(ids) + 1))
            persons.append(person if sizes is None else {**person, "head_size": float(sizes[number - 1])})
        self.coco: dict[str, Any] = {
            "images": [{"id": number, "file_name": name} for name, number in ids.items()],
            "annotations": persons,
            "categories": [coco_category(MPII)],
        }
        self._persons: dict[int, list[dict[str, Any]]] = {number: [] for number in ids.values()}
        for person in persons:
            self._persons[person["image_id"]].append(person)

    def __len__(self) -> int:
        return len(self.coco["images"])

    def subset(self, indices: Sequence[int]) -> "MpiiPeople":
        """The pictures at these indices, in this order, with a `coco` record of nothing else."""
        part = copy(self)
        images = [self.coco["images"][index] for index in indices]
        ids = {image["id"] for image in images}
        annotations = [person for person in self.coco["annotations"] if person["image_id"] in ids]
        part.coco = {**self.coco, "images": images, "annotations": annotations}
        return part

    def image_id(self, index: int) -> int:
        return int(self.coco["images"][index]["id"])

    def image(self, index: int) -> Picture:
        """uint8 [H, W, 3], RGB. Raises DataError if it cannot be read or a person's box lies outside it."""
        path = self.folder / self.coco["images"][index]["file_name"]
        picture = decode(path)
        height, width = picture.shape[:2]
        for person in self._persons[self.image_id(index)]:
            x, y, side, _ = person["bbox"]
            if not (x < width and y < height and x + side > 0 and y + side > 0):
                raise DataError(
                    f"a person's box must reach into the picture, {width}x{height}",
                    place=f"{self._file} entry {person['id']}, {path.name}",
                    value=person["bbox"],
                    remedy="restore the original picture or correct center and scale",
                )
        return picture

    def people(self, index: int) -> People:
        return people_of(self._persons[self.image_id(index)], len(MPII))

    def head_sizes(self, index: int) -> npt.NDArray[np.float64]:
        """float64 [P], 0.6 of the diagonal of each person's head box in pixels, in the order of `people`.

        Raises DataError if no head boxes were given.
        """
        labelled = [person for person in self._persons[self.image_id(index)] if person["num_keypoints"]]
        if not all("head_size" in person for person in labelled):
            raise DataError(
                "PCKh needs head boxes", place=str(self._file), remedy="give HRNet's gt_valid.mat, or score otherwise"
            )
        return np.asarray([person["head_size"] for person in labelled], np.float64)

    def ignore_mask(self, index: int) -> Mask | None:
        return None


def _person(entry: dict[str, Any], number: int, image: int) -> dict[str, Any]:
    """The entry as a COCO annotation."""
    visible_k = np.asarray(entry["joints_vis"]) > 0
    joints_k3 = np.column_stack([np.asarray(entry["joints"], np.float64) - 1, np.full(len(MPII), 2.0)])
    joints_k3[~visible_k] = 0
    side = 200 * entry["scale"]
    x, y = entry["center"][0] - 1 - side / 2, entry["center"][1] + 15 * entry["scale"] - 1 - side / 2
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [x, y, side, side],
        "area": side * side,
        "num_keypoints": int(visible_k.sum()),
        "keypoints": joints_k3.ravel().tolist(),
    }


# --- Checks ----------------------------------------------------------------------------------------------------------


def _read_entries(file: Path) -> list[dict[str, Any]]:
    entries = read_json(file)
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(
            "the annotations must be a list of persons, at least one",
            place=str(file),
            value=type(entries).__name__ if entries else entries,
            remedy="give MPII's annotations in HRNet's JSON form",
        )
    for number, entry in enumerate(entries, start=1):
        _check(entry, f"{file} entry {number}")
    if not any(any(entry["joints_vis"]) for entry in entries):
        raise DataError(
            "there must be labelled joints",
            place=str(file),
            remedy="give annotations of the training or validation part",
        )
    return entries


def _check(entry: dict[str, Any], place: str) -> None:
    values: list[Any] = [entry.get(key) for key in ("image", "center", "scale", "joints", "joints_vis")]
    image, center, scale, joints, visible = values
    count = len(MPII)
    for holds, rule, value in (
        (isinstance(image, str) and image, "image must be the name of a picture", image),
        (are_finite(center, 2), "center must be x, y: finite", center),
        (are_finite([scale], 1) and scale > 0, "scale must be a finite number above 0", scale),
        (
            isinstance(joints, list) and len(joints) == count and all(are_finite(joint, 2) for joint in joints),
            f"joints must be {count} times x, y: finite",
            f"{len(joints)} joints" if isinstance(joints, list) and len(joints) != count else joints,
        ),
        (
            isinstance(visible, list) and len(visible) == count and all(flag in (0, 1) for flag in visible),
            f"joints_vis must be {count} times 0 or 1",
            visible,
        ),
    ):
        if not holds:
            raise DataError(rule, place=f"{place}, {image}", value=value, remedy="correct or remove it")


# What loadmat raises for missing, cut off, foreign and newer files (MATLAB 7.3 writes HDF5).
_UNREADABLE = (OSError, LookupError, ValueError, TypeError, NotImplementedError, MatReadError, zlib.error)


def _read_head_sizes(file: Path, persons: int) -> npt.NDArray[np.float64]:
    """float64 [persons], from corner pairs [2 corners, x y, persons]."""
    try:
        boxes_22p = loadmat(file, variable_names=["headboxes_src"])["headboxes_src"]
    except _UNREADABLE as error:
        raise DataError(
            "the head boxes must be a MATLAB file with headboxes_src",
            place=str(file),
            value=str(error),
            remedy="give HRNet's gt_valid.mat",
        ) from error
    if boxes_22p.shape != (2, 2, persons) or boxes_22p.dtype.kind not in "iuf":
        raise DataError(
            f"headboxes_src must be numbers of shape [2, 2, {persons}], a box for each entry of the annotations",
            place=str(file),
            value=f"{boxes_22p.dtype} {list(boxes_22p.shape)}",
            remedy="give the head boxes of the same part of MPII",
        )
    corners_22p = boxes_22p.astype(np.float64)
    sizes_p = HEAD_SIZE * np.hypot(*(corners_22p[1] - corners_22p[0]))
    bad = np.flatnonzero(~(np.isfinite(sizes_p) & (sizes_p > 0)))
    if bad.size:
        raise DataError(
            "a head box must have finite corners and a size above 0",
            place=f"{file} headboxes_src, entry {bad[0] + 1}",
            value=boxes_22p[..., bad[0]].tolist(),
            remedy="correct it",
        )
    return np.asarray(sizes_p)
