"""People as every decoder gives them, and the way back to the picture.

to_image      → people, in pixels of the original picture
coco_results  → entries of a COCO detection file

Coordinates are continuous: cell i of a map with stride s covers [i, i+1) in cells and [i·s, (i+1)·s) in pixels of the
network's input.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compress.errors import DataError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Poses:
    """The people of one picture, in the order in which they were started.

    keypoints_pk3: x, y and score; all zero where the joint is missing. x, y are in cells of the map out of `decode`,
    in pixels of the original picture out of `to_image`. scores_p: mean joint score over all K joints, missing ones
    counting 0, before refine.
    """

    keypoints_pk3: Floats
    scores_p: Floats

    def __len__(self) -> int:
        return len(self.scores_p)


def to_image(poses: Poses, matrix_23: ArrayLike, stride: float, offset_xy: tuple[float, float] = (0.0, 0.0)) -> Poses:
    """The poses in pixels of the original picture.

    matrix_23: affine that took a point of the picture to the network's input, in pixels. stride: input pixels per cell
    of the decoded map. offset_xy: added there, in input pixels. Missing joints stay all zero. DataError if the matrix
    cannot be inverted.
    """
    matrix = np.asarray(matrix_23, np.float64)
    try:
        inverse = np.linalg.inv(matrix[:, :2])
    except np.linalg.LinAlgError:
        raise DataError(
            "the picture's transform must be invertible", place="to_image", value=matrix.tolist(), remedy="check it"
        ) from None
    input_pk2 = poses.keypoints_pk3[:, :, :2].astype(np.float64) * stride + offset_xy
    image_pk2 = (input_pk2 - matrix[:, 2]) @ inverse.T
    moved = poses.keypoints_pk3.copy()
    moved[:, :, :2] = np.where(moved[:, :, 2:] > 0, image_pk2, 0)
    return Poses(moved, poses.scores_p)


def coco_results(poses: Poses, image_id: int, category_id: int = 1) -> list[dict[str, Any]]:
    """One entry of a COCO keypoint detection file per person: x, y, score for each joint in turn, and its score."""
    return [
        {
            "image_id": image_id,
            "category_id": category_id,
            "keypoints": joint_k3.ravel().tolist(),
            "score": float(score),
        }
        for joint_k3, score in zip(poses.keypoints_pk3, poses.scores_p, strict=True)
    ]
