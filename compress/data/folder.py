"""Pictures that somebody gives, without labels."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.keypoints import COCO_PERSON, KeypointSet
from compress.data.picture import Mask, People, Picture
from compress.data.sizes import decode
from compress.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


class Pictures:
    """A PictureSet without labels. inputs: picture files, or folders whose pictures are taken in order of their names.

    ids: by the file's name, as an annotation file numbers them; by default they count from 0. A name with folders is
    told from others of the same file name by these. Every picture is decoded once when this is made, and those that are
    broken are left out: skipped says which, and why. Raises DataError for a missing file, for one without an id or
    whose id is not clear, for two with one id, and where no picture is left.
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
        self._ids = list(range(len(self.files))) if ids is None else _ids_of(self.files, ids)

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


def _ids_of(files: Sequence[Path], ids: Mapping[str, int]) -> list[int]:
    named: dict[str, list[str]] = {}
    for name in ids:
        named.setdefault(Path(name).name, []).append(name)
    taken: dict[int, Path] = {}
    for file in files:
        number = ids[_entry_of(file, named.get(file.name, []))]
        if number in taken:
            raise DataError(
                "no two pictures may have one id",
                place=str(file),
                value=f"{number}, as {taken[number]}",
                remedy="leave one of them out, or give an annotation file that tells them apart",
            )
        taken[number] = file
    return list(taken)


def _entry_of(file: Path, names: Sequence[str]) -> str:
    """Of the names that end like the file's path, the one that agrees with it furthest. Raises DataError."""
    if not names:
        raise DataError(
            "every picture must have an id in the annotation file",
            place=str(file),
            value=file.name,
            remedy="give the pictures' own annotation file, or leave the picture out",
        )
    agreeing = {name: _common_end(file.absolute(), Path(name)) for name in names}
    best = [name for name in names if agreeing[name] == max(agreeing.values())]
    if len(best) > 1:
        raise DataError(
            "a picture's id must be clear from its path",
            place=str(file),
            value=f"it could be {' or '.join(best[:2])}",
            remedy="keep the picture in the folder that its file_name has",
        )
    return best[0]


def _common_end(one: Path, other: Path) -> int:
    """How many parts at the end both paths have in common."""
    pairs = zip(reversed(one.parts), reversed(other.parts), strict=False)
    return sum(1 for _ in takewhile(lambda parts: parts[0] == parts[1], pairs))


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
