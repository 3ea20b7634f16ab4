"""The joints of a person, as the data sets define them.

Sigmas are COCO's per-joint constants of the object keypoint similarity (cocoeval.py, kpt_oks_sigmas).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class KeypointSet:
    """The joints one data set labels, in its order.

    flip_pairs: indices of left/right partners. limbs: index pairs to draw. sigmas: OKS constants.
    grouping_order: joints from stable to unstable, the order in which associative embedding starts persons.
    """

    name: str
    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    grouping_order: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def flip_index(self) -> tuple[int, ...]:
        """Joint index → index of the joint that takes its place in a mirrored picture."""
        index = list(range(len(self)))
        for left, right in self.flip_pairs:
            index[left], index[right] = right, left
        return tuple(index)


COCO_PERSON = KeypointSet(
    name="coco_person",
    names=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    limbs=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
        (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
        0.089, 0.089,
    ),
    # HigherHRNet's order (its 1-based list: 1-7, 12, 13, 8-11, 14-17).
    grouping_order=(0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16),
)  # fmt: skip
