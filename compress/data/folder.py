"""Pictures that somebody gives, without labels."""

from collections.abc import Sequence
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

    Every picture is decoded once when this is made. Raises DataError for the first that is missing or broken.
    """

    def __init__(self, inputs: Sequence[Path], keypoints: KeypointSet = COCO_PERSON) -> None:
        self.keypoints = keypoints
        self.coco: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
        self.files = [file for path in inputs for file in _files(path)]
        for file in self.files:
            decode(file)

    def __len__(self) -> int:
        return len(self.files)

    def image_id(self, index: int) -> int:
        return index

    def image(self, index: int) -> Picture:
        """Upright: turned as EXIF says."""
        return decode(self.files[index], upright=True)

    def people(self, index: int) -> People:
        joints = len(self.keypoints)
        return People(np.zeros((0, joints, 3), np.float32), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def ignore_mask(self, index: int) -> Mask | None:
        return None


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
