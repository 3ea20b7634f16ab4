"""Pictures that somebody gives, without labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.picture import Mask, People, Picture
from compress.data.sizes import decode
from compress.errors import DataError
from compress.keypoints import COCO_PERSON, KeypointSet

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class Pictures:
    """A PictureSet without labels. inputs: picture files, or folders whose pictures are taken in order of their names.

    ids: by the file's name, as an annotation file numbers them; by default they count from 0. Every picture is decoded
    once when this is made, and those that are broken are left out: skipped says which, and why. Raises DataError for a
    missing file, for one without an id, and where no picture is left.
    """

    def __init__(
        self, inputs: Sequence[Path], keypoints: KeypointSet = COCO_PERSON, ids: Mapping[str, int] | None = None
    ) -> None:
        self.keypoints = keypoints
        self.coco: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        self.files: list[Path] = []
        self.skipped: list[DataError] = []
        for file in [file for path in inputs for file in _files(path)]:
            try:
                decode(file, upright=True)
                self.files.append(file)
            except DataError as error:
                self.skipped.append(error)
        if not self.files:
            raise self.skipped[0]
        self._ids = list(range(len(self.files))) if ids is None else [_id_of(file, ids) for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def image_id(self, index: int) -> int:
        return self._ids[index]

    def path(self, index: int) -> Path:
        """The picture's file."""
        return self.files[index]

    def image(self, index: int) -> Picture:
        """Upright: turned as EXIF says."""
        return decode(self.files[index], upright=True)

    def people(self, index: int) -> People:
        joints = len(self.keypoints)
        return People(np.zeros((0, joints, 3), np.float32), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def ignore_mask(self, index: int) -> Mask | None:
        return None


def _id_of(file: Path, ids: Mapping[str, int]) -> int:
    if file.name not in ids:
        raise DataError(
            "every picture must have an id in the annotation file",
            place=str(file),
            value=file.name,
            remedy="give the pictures' own annotation file, or leave the picture out",
        )
    return ids[file.name]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if files:
            return files
        raise DataError(
            "the folder must hold pictures", place=str(path), remedy=f"known: {', '.join(sorted(SUFFIXES))}"
        )
    if not path.is_file():
        raise DataError("no such picture or folder", place=str(path), remedy="check the path")
    return [path]
