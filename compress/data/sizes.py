"""Which size an annotation file means: its pictures' as they are stored, or as they are shown.

A camera may store a picture lying on its side and note in EXIF how to turn it. Labels are of the one or the other, and
the file's sizes may be of either, or exchanged (CrowdPose's files had heights for widths). What labels cannot tell,
such as pictures turned by 180 degrees or mirrored, is taken as stored: COCO's labels are of the stored pixels, and
HRNet's code reads them so (cv2.IMREAD_IGNORE_ORIENTATION).
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from compress.data.picture import Picture
from compress.errors import DataError

_ORIENTATION = 0x0112  # EXIF's tag; of its values 1..8, 5..8 exchange height and width
_NO_SEGMENT = {0x01, *range(0xD0, 0xD8)}  # JPEG markers without a length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG markers that hold the size
_JPEG, _EXIF = b"\xff\xd8", b"Exif\0\0"


@dataclass(frozen=True)
class Stored:
    """hw: of the stored pixels. turned: EXIF exchanges height and width when the picture is shown."""

    hw: tuple[int, int]
    turned: bool


def decode(path: Path, *, upright: bool = False) -> Picture:
    """The picture in that file, RGB. Raises DataError if it cannot be read or is no picture.

    upright: as EXIF says it is shown; else as stored.
    """
    flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        data = np.fromfile(path, np.uint8)
        decoded = cv2.imdecode(data, flags) if len(data) else None
    except (OSError, cv2.error):
        decoded = None
    if decoded is None:
        raise DataError("the file must be a readable picture", place=str(path), remedy="download it again")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def stored(path: Path) -> Stored:
    """Size and orientation of the picture in that file, from its header where it is a JPEG. Raises DataError."""
    try:
        with path.open("rb") as file:
            found = _jpeg(file) if file.read(2) == _JPEG else None
    except (OSError, struct.error, IndexError):
        found = None
    if found is not None:
        return found
    height, width = decode(path).shape[:2]
    return Stored((height, width), decode(path, upright=True).shape[:2] != (height, width))


def _jpeg(file: BinaryIO) -> Stored | None:
    """Reads on after the start marker; None where the segments do not follow one another."""
    turned = False
    while True:
        mark, marker = struct.unpack("BB", file.read(2))
        if mark != 0xFF:
            return None
        if marker == 0xFF:  # fill byte
            file.seek(-1, 1)
            continue
        if marker in _NO_SEGMENT:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        content = file.read(length - 2)
        if marker in _FRAMES:
            height, width = struct.unpack(">HH", content[1:5])
            return Stored((height, width), turned)
        if marker == 0xE1 and content.startswith(_EXIF):
            turned = _orientation(content[len(_EXIF) :]) in (5, 6, 7, 8)


def _orientation(tiff: bytes) -> int:
    """The orientation in EXIF's first directory; 1 where there is none."""
    order = "<" if tiff[:2] == b"II" else ">"
    (start,) = struct.unpack(f"{order}I", tiff[4:8])
    (entries,) = struct.unpack(f"{order}H", tiff[start : start + 2])
    for number in range(entries):
        entry = tiff[start + 2 + 12 * number :][:12]
        tag, _, _, value = struct.unpack(f"{order}HHIH", entry[:10])
        if tag == _ORIENTATION:
            return int(value)
    return 1


def sizes_as_labelled(
    images: Sequence[dict[str, Any]],
    boxes: Mapping[int, Sequence[Sequence[float]]],
    fits: Callable[[Sequence[float], tuple[int, int]], bool],
    folder: Path,
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The images, height and width exchanged where the labels are of the exchanged size; and what was done, in words.

    boxes: of the labelled persons, by image id. fits: whether a box lies in a picture of that height and width.
    Pictures are looked at only if a box does not fit. Where one does not, but would fit the exchanged size, which is
    that of the stored or of the upright picture, all pictures of that kind are taken so, also those whose boxes fit
    both.
    """
    kinds = {kind for image in images if (kind := _misfit(image, boxes.get(image["id"], ()), fits, folder))}
    if not kinds:
        return list(images), ()
    changed = []
    count = dict.fromkeys(_KINDS, 0)
    for image in images:
        kind = _kind(image, folder) if image["height"] != image["width"] else None
        if kind in kinds:
            count[kind] += 1
            changed.append({**image, "height": image["width"], "width": image["height"]})
        else:
            changed.append(image)
    notes = tuple(f"{number} of {len(images)} pictures: {_KINDS[kind]}" for kind, number in count.items() if number)
    return changed, notes


_KINDS = {
    "exchanged": "height and width are exchanged in the annotation file; the pictures' own are used",
    "shown": "the labels are of the picture as EXIF says it is shown; it is turned so",
    "stored": "the labels are of the picture as it is stored, EXIF notwithstanding; it is not turned",
}


def _misfit(
    image: dict[str, Any],
    boxes: Sequence[Sequence[float]],
    fits: Callable[[Sequence[float], tuple[int, int]], bool],
    folder: Path,
) -> str | None:
    """The kind (see _KINDS) of a picture whose boxes fit the exchanged size only; None for others."""
    size, exchanged = (image["height"], image["width"]), (image["width"], image["height"])
    if all(fits(box, size) for box in boxes) or not all(fits(box, exchanged) for box in boxes):
        return None
    return _kind(image, folder)


def _kind(image: dict[str, Any], folder: Path) -> str | None:
    """What exchanging the image's size would make of it; None if no picture of the exchanged size lies there."""
    exchanged = (image["width"], image["height"])
    found = stored(folder / image["file_name"])
    if found.turned:
        return "stored" if found.hw == exchanged else ("shown" if found.hw == exchanged[::-1] else None)
    return "exchanged" if found.hw == exchanged else None
