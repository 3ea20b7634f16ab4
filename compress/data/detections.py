"""People that a detector found, as top-down networks need them at test time.

The file is a COCO detection file: https://cocodataset.org/#format-results (object detection).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.coco import are_finite, is_whole, read_json
from compress.data.picture import Floats, PictureSet
from compress.errors import DataError

PERSON = 1
"""The category that detectors of COCO's and CrowdPose's people write."""


@dataclass(frozen=True)
class Detections:
    """The people found in one picture, best first.

    boxes_d4: float32 [D, 4], x, y, width, height in pixels of the picture. scores_d: float32 [D].
    """

    boxes_d4: Floats
    scores_d: Floats

    def __len__(self) -> int:
        return len(self.scores_d)


def read_detections(file: Path, pictures: PictureSet, threshold: float = 0.0) -> list[Detections]:
    """The detections of every picture, by its index in the set; none for pictures that the file does not mention.

    Kept is category 1, "person", from the threshold upwards. Every entry is checked, those that are not kept too.
    Raises DataError for the first that cannot be used, and for a file without people.
    """
    entries = read_json(file)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(
            "the detections must be a list of objects", place=str(file), value=type(entries).__name__, remedy=_LAYOUT
        )
    found: dict[int, list[dict[str, Any]]] = {pictures.image_id(index): [] for index in range(len(pictures))}
    for number, entry in enumerate(entries):
        _check(entry, found, f"{file} detection {number} of image {entry.get('image_id')}")
    people = [entry for entry in entries if entry["category_id"] == PERSON]
    if not people:
        raise DataError(
            f"there must be people, that is detections of category {PERSON}",
            place=str(file),
            value=sorted({entry["category_id"] for entry in entries}),
            remedy="give the file of a detector of people",
        )
    for entry in sorted(people, key=lambda entry: -entry["score"]):
        if entry["score"] >= threshold:
            found[entry["image_id"]].append(entry)
    return [_detections(found[pictures.image_id(index)]) for index in range(len(pictures))]


_LAYOUT = "give a COCO detection file: a list of image_id, category_id, bbox, score"


def _detections(entries: list[dict[str, Any]]) -> Detections:
    boxes = [entry["bbox"] for entry in entries]
    scores = [entry["score"] for entry in entries]
    return Detections(np.asarray(boxes, np.float32).reshape(len(entries), 4), np.asarray(scores, np.float32))


def _check(entry: dict[str, Any], known: dict[int, Any], place: str) -> None:
    values: list[Any] = [entry.get(key) for key in ("image_id", "category_id", "bbox", "score")]
    image, category, box, score = values
    for holds, rule, value in (
        (is_whole(image) and image in known, "a detection must be of a picture of the set", image),
        (is_whole(category), "category_id must be a whole number", category),
        (
            are_finite(box, 4) and box[2] > 0 and box[3] > 0,
            "bbox must be x, y, width, height: finite, sizes above 0",
            box,
        ),
        (are_finite([score], 1), "score must be a finite number", score),
    ):
        if not holds:
            raise DataError(rule, place=place, value=value, remedy="correct or remove it")
