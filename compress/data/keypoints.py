"""The joints of a person, as the data sets define them.

Sigmas are the per-joint constants of the object keypoint similarity (OKS): COCO's from cocoeval.py (kpt_oks_sigmas),
CrowdPose's from its fork of that file. MPII and LSP are scored without OKS and publish none; theirs serve pose
suppression only: COCO's constant of the same joint, its hip's for the pelvis, CrowdPose's neck and head for the rest.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class KeypointSet:
    """The joints one data set labels, in its order.

    flip_pairs: indices of left/right partners. limbs: index pairs to draw. sigmas: OKS constants.
    grouping_order: joints from stable to unstable, the order in which associative embedding starts persons.
    box_area_share: a person's area for OKS as a share of its box's; None: the area that is annotated.
    """

    name: str
    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...]
    grouping_order: tuple[int, ...]
    box_area_share: float | None = None

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
        (15, 13),
        (13, 11),
        (16, 14),
        (14, 12),
        (11, 12),
        (5, 11),
        (6, 12),
        (5, 6),
        (5, 7),
        (6, 8),
        (7, 9),
        (8, 10),
        (1, 2),
        (0, 1),
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (4, 6),
    ),
    sigmas=(
        0.026,
        0.025,
        0.025,
        0.035,
        0.035,
        0.079,
        0.079,
        0.072,
        0.072,
        0.062,
        0.062,
        0.107,
        0.107,
        0.087,
        0.087,
        0.089,
        0.089,
    ),
    # HigherHRNet's order (its 1-based list: 1-7, 12, 13, 8-11, 14-17).
    grouping_order=(0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16),
)

CROWDPOSE = KeypointSet(
    name="crowdpose",
    names=(
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
        "head",
        "neck",
    ),
    flip_pairs=((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11)),
    # Its files carry COCO's limbs, whose numbers mean nothing here.
    limbs=(
        (10, 8),
        (8, 6),
        (11, 9),
        (9, 7),
        (6, 7),
        (0, 6),
        (1, 7),
        (0, 2),
        (1, 3),
        (2, 4),
        (3, 5),
        (12, 13),
        (13, 0),
        (13, 1),
    ),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
    grouping_order=(12, 13, 0, 1, 6, 7, 2, 3, 4, 5, 8, 9, 10, 11),
    box_area_share=0.53,  # crowdposetools' cocoeval.py
)

MPII = KeypointSet(
    name="mpii",
    names=(
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "pelvis",
        "thorax",
        "upper_neck",
        "head_top",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (10, 15), (11, 14), (12, 13)),
    limbs=(
        (0, 1),
        (1, 2),
        (2, 6),
        (6, 3),
        (3, 4),
        (4, 5),
        (6, 7),
        (7, 8),
        (8, 9),
        (10, 11),
        (11, 12),
        (12, 7),
        (7, 13),
        (13, 14),
        (14, 15),
    ),
    sigmas=(
        0.089,
        0.087,
        0.107,
        0.107,
        0.087,
        0.089,
        0.107,
        0.079,
        0.079,
        0.079,
        0.062,
        0.072,
        0.079,
        0.079,
        0.072,
        0.062,
    ),
    grouping_order=(9, 8, 7, 12, 13, 6, 2, 3, 11, 14, 10, 15, 1, 4, 0, 5),
)

LSP = KeypointSet(
    name="lsp",
    names=(
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
        "neck",
        "head_top",
    ),
    flip_pairs=((0, 5), (1, 4), (2, 3), (6, 11), (7, 10), (8, 9)),
    limbs=(
        (0, 1),
        (1, 2),
        (2, 3),
        (3, 4),
        (4, 5),
        (6, 7),
        (7, 8),
        (8, 12),
        (12, 9),
        (9, 10),
        (10, 11),
        (12, 13),
        (8, 2),
        (9, 3),
    ),
    sigmas=(0.089, 0.087, 0.107, 0.107, 0.087, 0.089, 0.062, 0.072, 0.079, 0.079, 0.072, 0.062, 0.079, 0.079),
    grouping_order=(13, 12, 8, 9, 2, 3, 7, 10, 6, 11, 1, 4, 0, 5),
)

KEYPOINT_SETS = {keypoints.name: keypoints for keypoints in (COCO_PERSON, CROWDPOSE, MPII, LSP)}
