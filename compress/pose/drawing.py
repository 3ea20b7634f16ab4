"""People drawn over a picture."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from compress.data.keypoints import KeypointSet

# Left, right and middle of the body, RGB: told apart by people with any colour vision (Okabe and Ito's palette).
_LEFT, _RIGHT, _MIDDLE = (0, 158, 255), (255, 140, 0), (0, 200, 120)


def draw_people(
    image: NDArray[np.uint8], people: Sequence[Sequence[float]], keypoints: KeypointSet
) -> NDArray[np.uint8]:
    """A copy of the RGB picture [H,W,3] with each person's limbs and joints.

    people: x, y, score of each joint in turn, in pixels; joints of score 0 are not drawn. The body's own left is blue,
    its right orange.
    """
    canvas = image.copy()
    thickness = max(1, round(min(image.shape[:2]) / 160))
    for person in people:
        joints = np.asarray(person, np.float64).reshape(len(keypoints), 3)
        for first, second in keypoints.limbs:
            if joints[first, 2] > 0 and joints[second, 2] > 0:
                colour = _colour(keypoints.names[first], keypoints.names[second])
                cv2.line(canvas, _point(joints[first]), _point(joints[second]), colour, thickness, cv2.LINE_AA)
        for name, joint in zip(keypoints.names, joints, strict=True):
            if joint[2] > 0:
                cv2.circle(canvas, _point(joint), thickness + 1, _colour(name, name), -1, cv2.LINE_AA)
    return canvas


def _point(joint: NDArray[np.float64]) -> tuple[int, int]:
    return round(float(joint[0])), round(float(joint[1]))


def _colour(first: str, second: str) -> tuple[int, int, int]:
    if first.startswith("left") and second.startswith("left"):
        return _LEFT
    if first.startswith("right") and second.startswith("right"):
        return _RIGHT
    return _MIDDLE
