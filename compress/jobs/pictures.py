"""What a network finds in a few validation pictures, drawn: files beside it, which a report shows side by side."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from torch import nn

from compress.artefacts.network import Learning
from compress.data.picture import PictureSet
from compress.errors import DataError
from compress.files import write_bytes
from compress.jobs.predict import people_of
from compress.pose.drawing import draw_people
from compress.pose.estimator import estimate_poses
from compress.recipe import PredictRecipe

COUNT = 4
"""Pictures of one network."""
_SIDE = 320  # pixels of the longer side: lines are fine enough, and a page can hold some of them as text
_QUALITY = 80


def draw_found(network: nn.Module, learning: Learning, folder: Path, *, flip_test: bool) -> tuple[str, ...]:
    """Writes JPEG files with the people that the network finds; returns their names in the folder.

    The pictures are the same for every network of the data. People are drawn from the score on that `compress predict`
    draws them from.
    """
    pictures, least = learning.sets.val, PredictRecipe().min_score
    files: list[str] = []
    chosen = list(chosen_pictures(pictures))
    for found in estimate_poses(network, learning.estimator, pictures, flip_test=flip_test, indices=chosen):
        image = pictures.image(found.index)
        scale = _SIDE / max(image.shape[:2])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=how), np.uint8)
        people = [one for one in people_of(found.poses, 0, 1) if one.score >= least]
        scaled = [np.reshape(one.keypoints, (-1, 3)) * (scale, scale, 1) for one in people]
        drawn = draw_people(image, [one.ravel().tolist() for one in scaled], pictures.keypoints)
        name = f"pictures/{len(files)}.jpg"
        encoded, content = cv2.imencode(".jpg", drawn[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        if not encoded:
            raise DataError("the picture could not be encoded", place=str(folder / name), remedy="check the disk")
        write_bytes(folder / name, content.tobytes())
        files.append(name)
    return tuple(files)


def chosen_pictures(pictures: PictureSet) -> Iterator[int]:
    """Indices of COUNT pictures with labelled people, or of fewer where there are no more, from all over the set."""
    ends = [number * len(pictures) // COUNT for number in range(COUNT + 1)]
    for start, end in pairwise(ends):
        index = next((one for one in range(start, end) if len(pictures.people(one))), None)
        if index is not None:
            yield index
