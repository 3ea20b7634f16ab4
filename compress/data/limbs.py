"""What a network with part affinity fields predicts for a data set's joints: parts, and limbs between them.

Sources: Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields" (2017, arXiv:1611.08050);
Osokin, "Lightweight OpenPose" (2018, arXiv:1811.12004) and its code (datasets/coco.py, modules/keypoints.py).
"""

from collections import deque
from dataclasses import dataclass

from compress.data.keypoints import COCO_PERSON, KeypointSet
from compress.errors import DataError


@dataclass(frozen=True)
class PartLayout:
    """The order of a network's maps: K part heatmaps, the background, then x and y of each of L limbs' fields.

    keypoints: the data set's joints. names: of the parts. sources: part i is the mean of these joints of the data set,
    there only when all of them are. limbs: pairs of parts, the field pointing from the first to the second; a tree,
    written from its root on. completing: indices of limbs beyond the tree, which only give people a missing part.
    DataError unless the limbs are such a tree, every joint has a part and the mirror image of a limb is a limb.
    """

    keypoints: KeypointSet
    names: tuple[str, ...]
    sources: tuple[tuple[int, ...], ...]
    limbs: tuple[tuple[int, int], ...]
    completing: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        rule = _broken_rule(self)
        if rule:
            place = f"parts of {self.keypoints.name}"
            remedy = "correct its limbs and flip pairs: one connected figure, the same on both sides"
            raise DataError(rule, place=place, value=self.limbs, remedy=remedy)

    @property
    def tree(self) -> tuple[int, ...]:
        """Indices of the limbs that start and extend people."""
        return tuple(limb for limb in range(len(self.limbs)) if limb not in self.completing)

    @property
    def channels(self) -> int:
        """Maps of one stage: K + 1 + 2L."""
        return len(self.names) + 1 + 2 * len(self.limbs)

    @property
    def joint_parts(self) -> tuple[int, ...]:
        """The way back: joint of the data set → the part that is that joint alone."""
        return tuple(self.sources.index((joint,)) for joint in range(len(self.keypoints)))

    @property
    def flip_index(self) -> tuple[int, ...]:
        """Part → the part that takes its place in a mirrored picture."""
        joint_flip = self.keypoints.flip_index
        sources = [sorted(source) for source in self.sources]
        return tuple(sources.index(sorted(joint_flip[joint] for joint in source)) for source in self.sources)

    @property
    def limb_flip_index(self) -> tuple[int, ...]:
        """Limb → the limb that takes its place, pointing the same way along the body, in a mirrored picture."""
        flip = self.flip_index
        return tuple(self.limbs.index((flip[a], flip[b])) for a, b in self.limbs)


def layout_for(keypoints: KeypointSet) -> PartLayout:
    """The parts and limbs for a data set's joints.

    COCO's joints: the 18 parts and 19 limbs of OpenPose and Lightweight OpenPose, in the order of their published
    weights. Other joints: each is a part; the limbs are the shortest ways along `keypoints.limbs` from a root, the
    unpaired joint with the most limbs (a neck). DataError if there is no such joint or the limbs do not reach all.
    """
    if keypoints.names == COCO_PERSON.names:
        return PartLayout(keypoints, _COCO_NAMES, _COCO_SOURCES, _COCO_LIMBS, completing=(9, 13))
    sources = tuple((joint,) for joint in range(len(keypoints)))
    return PartLayout(keypoints, keypoints.names, sources, _tree(keypoints))


_COCO_NAMES = (
    "nose",
    "neck",
    "right_shoulder",
    "right_elbow",
    "right_wrist",
    "left_shoulder",
    "left_elbow",
    "left_wrist",
    "right_hip",
    "right_knee",
    "right_ankle",
    "left_hip",
    "left_knee",
    "left_ankle",
    "right_eye",
    "left_eye",
    "right_ear",
    "left_ear",
)
_COCO_SOURCES = tuple(
    tuple(
        COCO_PERSON.names.index(joint) for joint in (("left_shoulder", "right_shoulder") if name == "neck" else (name,))
    )
    for name in _COCO_NAMES
)
# Hips and legs, right arm, left arm (each followed by its shoulder-ear limb, 9 and 13), head.
_COCO_LIMBS = (
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 2),
    (2, 3),
    (3, 4),
    (2, 16),
    (1, 5),
    (5, 6),
    (6, 7),
    (5, 17),
    (1, 0),
    (0, 14),
    (0, 15),
    (14, 16),
    (15, 17),
)


def _broken_rule(layout: PartLayout) -> str:
    """What the layout breaks; empty where all is well."""
    tree = [layout.limbs[limb] for limb in layout.tree]
    reached = [*(start for start, _ in tree[:1]), *(end for _, end in tree)]
    if len(layout.names) != len(layout.sources) or sorted(reached) != list(range(len(layout.names))):
        return "every part must have sources and be reached by one limb of the tree"
    if any(start not in reached[: 1 + limb] for limb, (start, _) in enumerate(tree)):
        return "the tree must be written from its root on"
    if not set(layout.sources) >= {(joint,) for joint in range(len(layout.keypoints))}:
        return "every joint must have a part of its own"
    flip = layout.flip_index
    if any((flip[a], flip[b]) not in layout.limbs for a, b in layout.limbs):
        return "the mirror image of every limb must be a limb"
    return ""


def _tree(keypoints: KeypointSet) -> tuple[tuple[int, int], ...]:
    """Breadth first from the root, as far as the limbs reach; empty where no joint is its own mirror image."""
    neighbours: dict[int, list[int]] = {joint: [] for joint in range(len(keypoints))}
    for a, b in keypoints.limbs:
        neighbours[a].append(b)
        neighbours[b].append(a)
    middle = [joint for joint, partner in enumerate(keypoints.flip_index) if joint == partner]
    if not middle:
        return ()
    root = max(middle, key=lambda joint: len(neighbours[joint]))
    limbs: list[tuple[int, int]] = []
    seen, waiting = {root}, deque([root])
    while waiting:
        start = waiting.popleft()
        for end in neighbours[start]:
            if end not in seen:
                seen.add(end)
                waiting.append(end)
                limbs.append((start, end))
    return tuple(limbs)
