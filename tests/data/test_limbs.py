"""The parts of a data set's joints against the published lists, and the trees of other joints."""

from dataclasses import replace
from typing import Any

import pytest

from compress.data.keypoints import COCO_PERSON, KeypointSet
from compress.data.limbs import PartLayout, layout_for
from compress.errors import DataError

# Lightweight OpenPose's val.py: part → COCO joint (None: the neck); modules/keypoints.py: limbs in the order of
# assembly, and the maps that hold their fields.
TO_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
ASSEMBLY = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (0, 14),
    (14, 16),
    (0, 15),
    (15, 17),
    (2, 16),
    (5, 17),
)
FIELD_X = (12, 20, 14, 16, 22, 24, 0, 2, 4, 6, 8, 10, 28, 30, 34, 32, 36, 18, 26)


def person_set(name: str, names: str, limbs: tuple[tuple[int, int], ...]) -> KeypointSet:
    """Names with l_ and r_ are partners."""
    words = tuple(names.split())
    pairs = tuple((words.index(word), words.index("r" + word[1:])) for word in words if word.startswith("l_"))
    return KeypointSet(name, words, pairs, limbs, (0.1,) * len(words), tuple(range(len(words))))


CROWDPOSE = person_set(
    "crowdpose",
    "l_shoulder r_shoulder l_elbow r_elbow l_wrist r_wrist l_hip r_hip l_knee r_knee l_ankle r_ankle head neck",
    (
        (12, 13),
        (13, 0),
        (13, 1),
        (0, 2),
        (2, 4),
        (1, 3),
        (3, 5),
        (0, 6),
        (1, 7),
        (6, 7),
        (6, 8),
        (8, 10),
        (7, 9),
        (9, 11),
    ),
)
LSP = person_set(
    "lsp",
    "r_ankle r_knee r_hip l_hip l_knee l_ankle r_wrist r_elbow r_shoulder l_shoulder l_elbow l_wrist neck head",
    ((0, 1), (1, 2), (3, 4), (4, 5), (6, 7), (7, 8), (9, 10), (10, 11), (12, 8), (12, 9), (12, 13), (2, 12), (3, 12)),
)
MPII = person_set(
    "mpii",
    "r_ankle r_knee r_hip l_hip l_knee l_ankle pelvis thorax upper_neck head_top r_wrist r_elbow r_shoulder l_shoulder "
    "l_elbow l_wrist",
    (
        (0, 1),
        (1, 2),
        (2, 6),
        (3, 6),
        (3, 4),
        (4, 5),
        (6, 7),
        (7, 8),
        (8, 9),
        (10, 11),
        (11, 12),
        (12, 7),
        (13, 7),
        (13, 14),
        (14, 15),
    ),
)


def test_coco_has_the_published_parts_limbs_and_maps() -> None:
    layout = layout_for(COCO_PERSON)
    assert (len(layout.names), len(layout.limbs), layout.channels) == (18, 19, 57)
    for part, joint in enumerate(TO_COCO):
        assert layout.names[part] == ("neck" if joint is None else COCO_PERSON.names[joint])
        assert layout.sources[part] == ((5, 6) if joint is None else (joint,))
    for limb, x in zip(ASSEMBLY, FIELD_X, strict=True):
        assert layout.limbs[x // 2] == limb
    assert [layout.limbs[limb] for limb in layout.completing] == list(ASSEMBLY[-2:])
    assert sorted(layout.tree + layout.completing) == list(range(19))
    assert [layout.names[part] for part in layout.joint_parts] == list(COCO_PERSON.names)


def test_coco_by_its_names_whatever_the_set_is_called() -> None:
    mine = replace(COCO_PERSON, name="mine", limbs=())
    assert layout_for(mine) == replace(layout_for(COCO_PERSON), keypoints=mine)


@pytest.mark.parametrize("keypoints", [COCO_PERSON, CROWDPOSE, LSP, MPII], ids=lambda keypoints: keypoints.name)
def test_mirrored_limbs_point_the_same_way(keypoints: KeypointSet) -> None:
    layout = layout_for(keypoints)
    swap = {"left": "right", "right": "left", "l": "r", "r": "l"}

    def mirrored(name: str) -> str:
        side, _, rest = name.partition("_")
        return f"{swap[side]}_{rest}" if rest and side in swap else name

    for part, partner in enumerate(layout.flip_index):
        assert layout.names[partner] == mirrored(layout.names[part])
    for limb, partner in enumerate(layout.limb_flip_index):
        names, partners = ([layout.names[part] for part in layout.limbs[index]] for index in (limb, partner))
        assert partners == [mirrored(name) for name in names]


@pytest.mark.parametrize(
    ("keypoints", "root", "limbs"), [(CROWDPOSE, "neck", 13), (LSP, "neck", 13), (MPII, "thorax", 15)]
)
def test_other_joints_are_parts_in_a_tree(keypoints: KeypointSet, root: str, limbs: int) -> None:
    layout = layout_for(keypoints)
    assert layout.names == keypoints.names
    assert layout.joint_parts == tuple(range(len(keypoints)))
    assert layout.completing == ()
    assert len(layout.limbs) == limbs
    assert layout.names[layout.limbs[0][0]] == root
    known = {layout.limbs[0][0]}
    for start, end in layout.limbs:
        assert {(start, end), (end, start)} & set(keypoints.limbs)
        assert start in known
        assert end not in known
        known.add(end)
    assert len(known) == len(keypoints)


@pytest.mark.parametrize(
    ("names", "limbs"),
    [
        ("neck head l_hand r_hand", ((0, 2), (0, 3))),  # the head is on its own
        ("l_hand r_hand", ((0, 1),)),  # no middle
        ("neck l_hand r_hand", ((0, 1), (1, 2))),  # another figure in the mirror
        ("neck", ()),  # nothing to draw a field of
    ],
)
def test_joints_that_make_no_figure_are_refused(names: str, limbs: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(DataError, match="parts of odd"):
        layout_for(person_set("odd", names, limbs))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"sources": ((0,),)}, "every part must have sources"),
        ({"sources": ((0,), (1,), (1,))}, "every joint must have a part"),
        ({"limbs": ((0, 1),)}, "reached by one limb"),
        ({"limbs": ((0, 1), (0, 2), (1, 2))}, "reached by one limb"),
        ({"completing": (0, 1)}, "reached by one limb"),
        ({"limbs": ((0, 1), (1, 2))}, "mirror image"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(change: dict[str, Any], rule: str) -> None:
    good = layout_for(person_set("three", "neck l_hand r_hand", ((0, 1), (0, 2))))
    with pytest.raises(DataError, match=rule):
        replace(good, **change)


def test_limbs_start_at_the_root() -> None:
    chain = person_set("chain", "a b c d", ((0, 1), (1, 2), (2, 3)))
    sources = ((0,), (1,), (2,), (3,))
    assert PartLayout(chain, chain.names, sources, ((1, 0), (1, 2), (2, 3))).joint_parts == (0, 1, 2, 3)
    with pytest.raises(DataError, match="from its root"):
        PartLayout(chain, chain.names, sources, ((1, 0), (2, 3), (1, 2)))
