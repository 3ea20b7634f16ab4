"""MPII's entries against the facts of HRNet's code (lib/dataset/mpii.py), worked out by hand."""

import json
import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from compress.data.keypoints import MPII
from compress.data.mpii import MpiiPeople
from compress.errors import DataError

REAL_DATA = Path(os.environ.get("COMPRESS_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def entry(image: str = "a.png", **changes: Any) -> dict[str, Any]:
    return {
        "image": image,
        "center": [21.0, 11.0],
        "scale": 0.1,
        "joints": [[k + 1.5, 2 * k + 1] for k in range(16)],
        "joints_vis": [1] * 16,
        **changes,
    }


def make(folder: Path, entries: Any, heads: Any = None) -> MpiiPeople:
    """Writes two pictures of 40x30, the entries and head boxes, and opens them."""
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), np.full((30, 40, 3), (0, 0, 200), np.uint8))
    file = folder / "train.json"
    file.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    if heads is None:
        return MpiiPeople(folder, file)
    savemat(folder / "gt.mat", {"headboxes_src": heads, "jnt_missing": np.zeros(3)})
    return MpiiPeople(folder, file, folder / "gt.mat")


def test_a_person(tmp_path: Path) -> None:
    """scale 0.1: a square of 20 pixels around (21, 11 + 1.5), counted from 1."""
    pictures = make(tmp_path, [entry(joints_vis=[1, 0] + [1] * 14)])
    people = pictures.people(0)
    assert people.boxes_p4 == pytest.approx(np.array([[21 - 1 - 10, 11 + 1.5 - 1 - 10, 20, 20]]))
    assert people.areas_p == pytest.approx([400])
    assert people.keypoints_pk3[0, 0].tolist() == [0.5, 0, 2]
    assert people.keypoints_pk3[0, 1].tolist() == [0, 0, 0]
    assert people.keypoints_pk3[0, 15].tolist() == [15.5, 30, 2]
    assert pictures.ignore_mask(0) is None
    assert pictures.image(0)[0, 0].tolist() == [200, 0, 0]
    assert pictures.keypoints is MPII


def test_persons_of_one_picture_come_together(tmp_path: Path) -> None:
    entries = [entry("b.png"), entry("a.png", scale=0.2), entry("b.png", scale=0.3)]
    pictures = make(tmp_path, entries)
    assert len(pictures) == 2
    assert [pictures.image_id(index) for index in range(2)] == [1, 2]
    assert [image["file_name"] for image in pictures.coco["images"]] == ["b.png", "a.png"]
    assert pictures.people(0).boxes_p4[:, 2] == pytest.approx([20, 60])
    assert pictures.people(1).boxes_p4[:, 2] == pytest.approx([40])
    assert [(a["id"], a["image_id"]) for a in pictures.coco["annotations"]] == [(1, 1), (2, 2), (3, 1)]
    assert pictures.coco["categories"][0]["keypoints"] == list(MPII.names)


def test_head_sizes_follow_the_people(tmp_path: Path) -> None:
    """0.6 · √(30² + 40²) = 30. The second person has no joint and is nobody, so its head is left out too."""
    entries = [entry("b.png"), entry("b.png", joints_vis=[0] * 16), entry("a.png"), entry("b.png")]
    corners = np.array([[[10, 0, 5, 106], [20, 0, 5, 100]], [[40, 9, 8, 100], [60, 9, 9, 108]]], np.uint8)
    pictures = make(tmp_path, entries, corners)
    assert len(pictures.people(0)) == 2
    assert pictures.head_sizes(0).tolist() == pytest.approx([30, 6])
    assert pictures.head_sizes(1).tolist() == pytest.approx([3])
    assert pictures.subset([1]).head_sizes(0).tolist() == pytest.approx([3])


def test_without_head_boxes_there_are_no_head_sizes(tmp_path: Path) -> None:
    pictures = make(tmp_path, [entry()])
    with pytest.raises(DataError, match=r"train\.json: PCKh needs head boxes"):
        pictures.head_sizes(0)


def test_a_subset_holds_its_pictures_and_nothing_else(tmp_path: Path) -> None:
    whole = make(tmp_path, [entry("b.png"), entry("a.png", scale=0.2), entry("b.png", scale=0.3)])
    part = whole.subset([1])
    assert (len(part), part.image_id(0)) == (1, 2)
    assert part.people(0).boxes_p4[:, 2] == pytest.approx([40])
    assert [a["id"] for a in part.coco["annotations"]] == [2]
    assert part.image(0).shape == (30, 40, 3)
    assert len(whole) == 2


BAD = {
    "broken json": ('[{"image": ]', "must be JSON: .* at line 1"),
    "an object": ({"images": []}, "list of persons"),
    "nothing": ([], "list of persons, at least one"),
    "numbers": ([1], "list of persons"),
    "no joints": ([{"image": "a.png", "center": [1, 1], "scale": 1}], r"entry 1, a\.png: joints must be 16 times"),
    "14 joints": ([entry(), entry(joints=[[1, 1]] * 14)], r"entry 2, a\.png: joints .*\(found '14 joints'\)"),
    "nan joint": ([entry(joints=[[1, math.nan]] * 16)], "joints must be 16 times x, y: finite"),
    "endless joint": ([entry(joints=[[1, math.inf]] * 16)], "joints must be"),
    "flat joints": ([entry(joints=[1.0] * 16)], "joints must be"),
    "visibility": ([entry(joints_vis=[2] * 16)], "joints_vis must be 16 times 0 or 1"),
    "15 visibilities": ([entry(joints_vis=[1] * 15)], "joints_vis must be 16 times"),
    "nobody is labelled": ([entry(joints_vis=[0] * 16)], "there must be labelled joints"),
    "nan center": ([entry(center=[math.nan, 1])], "center"),
    "one center": ([entry(center=3)], "center"),
    "no scale": ([entry(scale=None)], "scale"),
    "zero scale": ([entry(scale=0)], "scale must be a finite number above 0"),
    "MPII's mark for missing": ([entry(center=[-1, -1], scale=-1)], "scale"),
    "no name": ([entry(image=None)], "image must be the name of a picture"),
    "missing picture": ([entry(), entry("c.png")], r"1 of 2 are missing \(found 'c.png'\)"),
}


@pytest.mark.parametrize(("entries", "words"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, entries: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        make(tmp_path, entries)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "train.json") in str(caught.value)


def test_a_box_beyond_the_picture_is_found_with_the_picture(tmp_path: Path) -> None:
    for center in ([60.0, 11.0], [-20.0, 11.0], [21.0, 60.0], [21.0, -30.0]):
        pictures = make(tmp_path, [entry(), entry(center=center)])
        with pytest.raises(DataError, match=r"train\.json entry 2, a\.png: .* reach into the picture, 40x30"):
            pictures.image(0)


def test_broken_and_missing_pictures(tmp_path: Path) -> None:
    pictures = make(tmp_path, [entry()])
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.png: the file must be a readable picture"):
        pictures.image(0)
    with pytest.raises(DataError, match="folder of pictures must exist"):
        MpiiPeople(tmp_path / "none", tmp_path / "train.json")
    with pytest.raises(DataError, match="must be readable"):
        MpiiPeople(tmp_path, tmp_path / "none.json")


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        (np.ones((2, 2, 2)), r"shape \[2, 2, 1\]"),
        (np.array([["a", "b"]]), "must be numbers"),
        (np.zeros((2, 2, 1)), "entry 1: .* size above 0"),
        (np.full((2, 2, 1), math.nan), "finite corners"),
        (np.array([[[0], [0]], [[math.inf], [0]]]), "finite corners"),
    ],
)
def test_head_boxes_that_do_not_fit(tmp_path: Path, heads: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        make(tmp_path, [entry()], heads)
    assert "gt.mat" in str(caught.value)


def test_head_box_files_that_are_none(tmp_path: Path) -> None:
    """Missing, empty, text, a picture, MATLAB 7.3, cut off anywhere, and without the boxes."""
    make(tmp_path, [entry()], np.ones((2, 2, 1)) * [[[1]], [[2]]])
    whole = (tmp_path / "gt.mat").read_bytes()
    newer = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF"
    bad = tmp_path / "bad.mat"
    # savemat's first variable: a header of 128 bytes, a tag of 8, and as many bytes as the tag's second half says.
    end = 136 + int.from_bytes(whole[132:136], "little")
    cut_off = [whole[:length] for length in range(end)]
    for content in (None, b"", b"hello" * 99, (tmp_path / "a.png").read_bytes(), newer, *cut_off):
        if content is not None:
            bad.write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.mat: the head boxes must be a MATLAB file with headboxes_src"):
            MpiiPeople(tmp_path, tmp_path / "train.json", bad)
    savemat(bad, {"pos_gt_src": np.ones(3)})
    with pytest.raises(DataError, match="headboxes_src"):
        MpiiPeople(tmp_path, tmp_path / "train.json", bad)


@pytest.mark.skipif(not (REAL_DATA / "formats" / "mpii").is_dir(), reason=f"no real data at {REAL_DATA}")
def test_real_mpii() -> None:
    folder = REAL_DATA / "formats" / "mpii"
    pictures = MpiiPeople(folder, folder / "test_mpii.json")
    assert len(pictures) == 5
    assert [len(pictures.people(index)) for index in range(5)] == [1] * 5
    assert pictures.image(1).shape == (480, 854, 3)
    first = pictures.people(0)
    assert first.keypoints_pk3[0, 0].tolist() == [803, 710, 2]
    side = 200 * 4.718488
    assert first.boxes_p4[0] == pytest.approx(
        [966 - 1 - side / 2, 340 + 15 * 4.718488 - 1 - side / 2, side, side], rel=1e-6
    )
    unlabelled = [MPII.names.index("right_ankle"), MPII.names.index("left_ankle")]
    assert not pictures.people(2).keypoints_pk3[0, unlabelled].any()
    assert (np.delete(pictures.people(2).keypoints_pk3[0, :, 2], unlabelled) == 2).all()
    for index in range(5):
        height, width, _ = pictures.image(index).shape
        joints = pictures.people(index).keypoints_pk3[0]
        x, y = joints[joints[:, 2] > 0][:, :2].T
        assert ((x >= 0) & (x < width) & (y >= 0) & (y < height)).all()
