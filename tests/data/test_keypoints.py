"""The data sets' joints against one another and against the facts of NETWORKS.md's sources."""

import json
import os
from pathlib import Path

import pytest

from compress.data.keypoints import COCO_PERSON, CROWDPOSE, KEYPOINT_SETS, LSP, MPII, KeypointSet

REAL_DATA = Path(os.environ.get("COMPRESS_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
SETS = [pytest.param(keypoints, id=name) for name, keypoints in KEYPOINT_SETS.items()]


@pytest.mark.parametrize("keypoints", SETS)
def test_every_index_is_a_joint(keypoints: KeypointSet) -> None:
    joints = range(len(keypoints))
    assert len(set(keypoints.names)) == len(keypoints.sigmas) == len(keypoints)
    assert sorted(keypoints.grouping_order) == list(joints)
    assert all(start in joints and end in joints and start != end for start, end in keypoints.limbs)
    assert len({frozenset(limb) for limb in keypoints.limbs}) == len(keypoints.limbs)
    assert {joint for limb in keypoints.limbs for joint in limb} == set(joints)


@pytest.mark.parametrize("keypoints", SETS)
def test_left_and_right_change_places(keypoints: KeypointSet) -> None:
    swapped = [
        name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right") for name in keypoints.names
    ]
    assert [keypoints.names[joint] for joint in keypoints.flip_index] == swapped
    mirrored = {frozenset(keypoints.flip_index[joint] for joint in limb) for limb in keypoints.limbs}
    assert mirrored == {frozenset(limb) for limb in keypoints.limbs}
    assert [keypoints.sigmas[joint] for joint in keypoints.flip_index] == list(keypoints.sigmas)


@pytest.mark.parametrize("keypoints", SETS)
def test_the_same_joint_has_the_same_sigma_everywhere(keypoints: KeypointSet) -> None:
    known = dict(zip(COCO_PERSON.names, COCO_PERSON.sigmas, strict=True))
    known |= {"head": 0.079, "neck": 0.079, "head_top": 0.079, "upper_neck": 0.079, "thorax": 0.079, "pelvis": 0.107}
    assert dict(zip(keypoints.names, keypoints.sigmas, strict=True)) == {name: known[name] for name in keypoints.names}


def test_grouping_starts_at_the_trunk() -> None:
    for keypoints in (CROWDPOSE, MPII, LSP):
        order = [keypoints.names[joint].rpartition("_")[2] for joint in keypoints.grouping_order]
        limbs = [part for part in order if part in ("elbow", "wrist", "knee", "ankle")]
        assert order[-8:] == limbs == ["elbow"] * 2 + ["wrist"] * 2 + ["knee"] * 2 + ["ankle"] * 2


def test_order_of_mpii_is_that_of_its_evaluation() -> None:
    """Flip pairs of HRNet's code; dataset_joints of gt_valid.mat: rank rkne rhip lhip lkne ..."""
    short = "rank rkne rhip lhip lkne lank pelv thor neck head rwri relb rsho lsho lelb lwri"
    names = [name.replace("right_", "r").replace("left_", "l") for name in MPII.names]
    names = [name.replace("upper_neck", "neck").replace("head_top", "head") for name in names]
    assert " ".join(name[:4] for name in names) == short
    assert [list(pair) for pair in MPII.flip_pairs] == [[0, 5], [1, 4], [2, 3], [10, 15], [11, 14], [12, 13]]


@pytest.mark.skipif(not (REAL_DATA / "lspet").is_dir(), reason=f"no real data at {REAL_DATA}")
def test_names_are_those_of_the_files() -> None:
    for keypoints, file in ((CROWDPOSE, "formats/crowdpose/test_crowdpose.json"), (LSP, "lspet/val.json")):
        assert json.loads((REAL_DATA / file).read_text())["categories"][0]["keypoints"] == list(keypoints.names)
