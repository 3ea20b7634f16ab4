import copy
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from compress.data.coco import CocoPeople
from compress.data.keypoints import COCO_PERSON, CROWDPOSE, LSP
from compress.errors import DataError

REAL_DATA = Path(os.environ.get("COMPRESS_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
JOINTS = [12, 8, 2, 20, 9, 1] + [0] * 45
NO_JOINTS = [0] * 51


def person(number, **changes):
    return {
        "id": number,
        "image_id": 7,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [4, 5, 10, 8],
        "area": 50.5,
        "num_keypoints": 2,
        "keypoints": JOINTS,
        **changes,
    }


RECORD = {
    "images": [{"id": 7, "file_name": "a.png", "height": 30, "width": 40}],
    "annotations": [person(1)],
    "categories": [{"id": 1, "name": "person", "keypoints": list(COCO_PERSON.names), "skeleton": []}],
}


def make(folder, record=RECORD, picture=None):
    """Writes the record and one picture, and opens both."""
    (folder / "images").mkdir(exist_ok=True)
    picture = np.zeros((30, 40, 3), np.uint8) if picture is None else picture
    cv2.imwrite(str(folder / "images" / "a.png"), picture)
    file = folder / "persons.json"
    file.write_text(record if isinstance(record, str) else json.dumps(record))
    return CocoPeople(folder / "images", file)


def with_annotations(*annotations):
    return {**RECORD, "annotations": list(annotations)}


def test_a_person(tmp_path):
    pictures = make(tmp_path)
    assert len(pictures) == 1
    assert pictures.image_id(0) == 7
    people = pictures.people(0)
    assert people.keypoints_pk3.shape == (1, 17, 3)
    assert people.keypoints_pk3[0, :2].tolist() == [[12, 8, 2], [20, 9, 1]]
    assert people.boxes_p4.tolist() == [[4, 5, 10, 8]]
    assert people.areas_p.tolist() == [50.5]
    assert pictures.ignore_mask(0) is None
    assert pictures.coco == RECORD


def test_pictures_are_rgb_and_grey_ones_become_rgb(tmp_path):
    bgr = np.zeros((30, 40, 3), np.uint8)
    bgr[..., 2] = 200
    assert make(tmp_path, picture=bgr).image(0)[0, 0].tolist() == [200, 0, 0]
    grey = np.full((30, 40), 90, np.uint8)
    assert make(tmp_path, picture=grey).image(0)[0, 0].tolist() == [90, 90, 90]


def test_what_is_to_be_ignored(tmp_path):
    drawn = np.zeros((30, 40), np.uint8, order="F")
    drawn[2:5, 30:36] = 1
    run_lengths = coco_mask.encode(drawn)
    compressed = {"size": [30, 40], "counts": run_lengths["counts"].decode()}
    flat = drawn.flatten(order="F")
    ends = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    uncompressed = {"size": [30, 40], "counts": np.diff(ends).tolist()}
    for crowd in (compressed, uncompressed):
        mask = make(tmp_path, with_annotations(person(1), person(2, iscrowd=1, segmentation=crowd))).ignore_mask(0)
        assert np.array_equal(mask, drawn)

    square = [[10, 10, 20, 10, 20, 20, 10, 20], [0, 0, 4, 0, 4, 4, 0, 4]]
    pictures = make(tmp_path, with_annotations(person(1), person(2, keypoints=NO_JOINTS, segmentation=square)))
    assert len(pictures.people(0)) == 1
    mask = pictures.ignore_mask(0)
    assert mask[10:20, 10:20].all()
    assert mask[0:4, 0:4].all()
    assert mask.sum() == 10 * 10 + 4 * 4


def test_without_segmentation_the_box_is_ignored(tmp_path):
    boxed = person(2, keypoints=NO_JOINTS, bbox=[4.5, -3, 10, 8])
    mask = make(tmp_path, with_annotations(person(1), boxed)).ignore_mask(0)
    assert mask[0:5, 4:15].all()
    assert mask.sum() == 5 * 11


def test_boxes_may_stick_out_a_little(tmp_path):
    """40x30 pixels: sub-pixel overshoot as in COCO, and a hand-made box with half of it outside."""
    for box in ([-0.3, -0.2, 40.5, 30.4], [35, 5, 10, 8]):
        assert (
            make(tmp_path, with_annotations(person(1, bbox=box))).people(0).boxes_p4.tolist()
            == np.float32([box]).tolist()
        )


def test_a_person_without_joints_may_have_a_box_without_height(tmp_path):
    """COCO's train2017 has one."""
    flat = person(2, keypoints=NO_JOINTS, bbox=[4, 5, 3, 0])
    assert not make(tmp_path, with_annotations(person(1), flat)).ignore_mask(0).any()


def test_other_categories_are_left_out(tmp_path):
    record = with_annotations(person(1), {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0, 0, 1, 1], "area": 1})
    record["categories"] = [*RECORD["categories"], {"id": 5, "name": "horse"}]
    pictures = make(tmp_path, record)
    assert len(pictures.people(0)) == 1
    assert pictures.ignore_mask(0) is None


def test_a_subset_holds_its_pictures_and_nothing_else(tmp_path):
    record = copy.deepcopy(RECORD)
    record["images"] += [{**RECORD["images"][0], "id": 8}, {**RECORD["images"][0], "id": 9}]
    record["annotations"] += [person(2, image_id=9, bbox=[1, 1, 2, 2]), person(3, image_id=8)]
    whole = make(tmp_path, record)
    part = whole.subset([2, 0])
    assert [part.image_id(index) for index in range(len(part))] == [9, 7]
    assert part.people(0).boxes_p4.tolist() == [[1, 1, 2, 2]]
    assert [a["id"] for a in part.coco["annotations"]] == [1, 2]
    assert [image["id"] for image in part.coco["images"]] == [9, 7]
    assert len(whole) == 3
    assert whole.coco == record


def changed(path, value):
    record = copy.deepcopy(RECORD)
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return record


ANNOTATION = ("annotations", 0)
BAD = {
    "broken json": ('{"images": [\n1,]}', r"must be JSON: .* at line 2 column"),
    "not an object": ([1], "must be one JSON object"),
    "no images": (changed(("images",), []), "at least one image"),
    "no annotations": ({"images": RECORD["images"]}, "'annotations' must be a list of objects"),
    "annotations are numbers": (changed(("annotations",), [1]), "'annotations' must be a list of objects"),
    "no persons": (with_annotations(), "persons with keypoints"),
    "instances file": (with_annotations({"id": 1, "image_id": 7, "category_id": 1}), "give the person_keypoints file"),
    "joints": (changed((*ANNOTATION, "keypoints"), [1] * 42), r"annotation 1: .*17 joints.*\(found '42 numbers'\)"),
    "infinite joint": (changed((*ANNOTATION, "keypoints", 3), math.inf), "annotation 1: joints must be finite"),
    "nan joint": (changed((*ANNOTATION, "keypoints", 3), math.nan), "annotation 1: joints must be finite"),
    "text joint": (changed((*ANNOTATION, "keypoints", 3), "x"), "annotation 1: joints must be finite"),
    "visibility": (changed((*ANNOTATION, "keypoints", 2), 3), "annotation 1: visibility must be 0, 1 or 2"),
    "nan box": (changed((*ANNOTATION, "bbox"), [0, 0, math.nan, 1]), "annotation 1: bbox"),
    "negative box": (changed((*ANNOTATION, "bbox"), [0, 0, -3, 1]), "annotation 1: bbox"),
    "no box": (changed((*ANNOTATION, "bbox"), None), "annotation 1: bbox"),
    "flat box": (changed((*ANNOTATION, "bbox"), [4, 5, 10, 0]), "annotation 1: .*width and a height above 0"),
    "no area": (changed((*ANNOTATION, "area"), None), "annotation 1: area"),
    "box elsewhere": (changed((*ANNOTATION, "bbox"), [50, 5, 10, 8]), "annotation 1: at least half .* 40x30"),
    "box mostly elsewhere": (changed((*ANNOTATION, "bbox"), [4, 26, 10, 9]), "annotation 1: at least half"),
    "endless number": (changed((*ANNOTATION, "bbox", 0), 10**400), "annotation 1: bbox"),
    "number beyond float32": (changed((*ANNOTATION, "keypoints", 0), 1e300), "annotation 1: joints must be finite"),
    "negative area": (changed((*ANNOTATION, "area"), -1), "annotation 1: area"),
    "crowd flag": (changed((*ANNOTATION, "iscrowd"), 2), "annotation 1: iscrowd"),
    "unknown image": (changed((*ANNOTATION, "image_id"), 8), "annotation 1: .*image must be in the file.*image_id 8"),
    "double annotation": (with_annotations(person(1), person(1)), "annotation 1: annotation ids must be unique"),
    "double image": (changed(("images",), RECORD["images"] * 2), "image 7: image ids must be unique"),
    "image id": (changed(("images", 0, "id"), "seven"), "id must be a whole number"),
    "image size": (changed(("images", 0, "width"), 0), "image 7: an image's width"),
    "file name": (changed(("images", 0, "file_name"), None), "image 7: an image needs a file_name"),
    "missing picture": (changed(("images", 0, "file_name"), "b.png"), r"1 of 1 are missing \(found 'b.png'\)"),
    "joint names": (changed(("categories", 0, "keypoints", 0), "beak"), "joints must be those of coco_person"),
    "run lengths": (
        with_annotations(person(1), person(2, iscrowd=1, segmentation={"size": [30, 40], "counts": [5]})),
        "annotation 2: a segmentation must be",
    ),
    "polygon": (
        with_annotations(person(1), person(2, keypoints=NO_JOINTS, segmentation=[[1, 2, 3]])),
        "annotation 2: a segmentation must be",
    ),
}


@pytest.mark.parametrize(("record", "words"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_used_is_said_in_one_line(tmp_path, record, words):
    with pytest.raises(DataError, match=words) as caught:
        make(tmp_path, record)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_missing_places(tmp_path):
    make(tmp_path)
    with pytest.raises(DataError, match="annotation file must be readable"):
        CocoPeople(tmp_path / "images", tmp_path / "none.json")
    with pytest.raises(DataError, match="folder of pictures must exist"):
        CocoPeople(tmp_path / "none", tmp_path / "persons.json")


def test_pictures_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: the picture must have the size .*40x30 \(found '20x10'\)"):
        make(tmp_path, picture=np.zeros((10, 20, 3), np.uint8)).image(0)
    pictures = make(tmp_path)
    for content in (b"", b"no picture"):
        (tmp_path / "images" / "a.png").write_bytes(content)
        with pytest.raises(DataError, match=r"a\.png: the file must be a readable picture"):
            pictures.image(0)


def test_other_joints(tmp_path):
    four = replace(COCO_PERSON, name="four", names=("a", "b", "c", "d"), flip_pairs=((0, 1),), sigmas=(0.1,) * 4)
    record = with_annotations(person(1, keypoints=[1, 2, 2] * 4))
    del record["categories"]
    make(tmp_path)
    (tmp_path / "four.json").write_text(json.dumps(record))
    pictures = CocoPeople(tmp_path / "images", tmp_path / "four.json", four)
    assert pictures.people(0).keypoints_pk3.shape == (1, 4, 3)


def test_areas_are_a_share_of_the_box_where_the_joints_say_so(tmp_path):
    """CrowdPose gives none, and what a file gives all the same does not count."""
    record = with_annotations(
        person(1, keypoints=[9, 8, 2] * 14), {**person(2, keypoints=[9, 8, 2] * 14), "area": "no number"}
    )
    del record["annotations"][0]["area"], record["categories"]
    make(tmp_path)
    (tmp_path / "crowd.json").write_text(json.dumps(record))
    pictures = CocoPeople(tmp_path / "images", tmp_path / "crowd.json", CROWDPOSE)
    assert pictures.people(0).areas_p == pytest.approx([0.53 * 10 * 8] * 2)
    assert [annotation["area"] for annotation in pictures.coco["annotations"]] == pytest.approx([0.53 * 10 * 8] * 2)


def needs(*parts):
    return pytest.mark.skipif(not REAL_DATA.joinpath(*parts).is_dir(), reason=f"no real data at {REAL_DATA}")


@needs("coco")
@pytest.mark.parametrize(("split", "persons"), [("train", 134), ("val", 122)])
def test_real_coco(split, persons):
    pictures = CocoPeople(REAL_DATA / "coco" / split, REAL_DATA / "coco" / f"person_keypoints_{split}.json")
    assert len(pictures) == 46
    assert sum(len(pictures.people(index)) for index in range(46)) == persons
    assert any(pictures.ignore_mask(index) is not None for index in range(46))
    for index in range(46):
        height, width, _ = pictures.image(index).shape
        joints = pictures.people(index).keypoints_pk3
        x, y = joints[joints[..., 2] > 0][:, :2].T
        assert ((x >= 0) & (x < width) & (y >= 0) & (y < height)).all()


@needs("formats", "crowdpose")
def test_real_crowdpose():
    """Two pictures; the second of five persons has no joints. Boxes and joints are those of the file."""
    folder = REAL_DATA / "formats" / "crowdpose"
    pictures = CocoPeople(folder, folder / "test_crowdpose.json", CROWDPOSE)
    assert [pictures.image_id(index) for index in range(len(pictures))] == [106848, 103319]
    assert [len(pictures.people(index)) for index in range(2)] == [2, 2]
    first = pictures.people(0)
    assert first.areas_p == pytest.approx([0.53 * 273.15 * 352.42, 0.53 * 244.5 * 349.72])
    left_hip = CROWDPOSE.names.index("left_hip")
    assert first.keypoints_pk3[1, left_hip].tolist() == [440, 308, 2]
    ignored = pictures.ignore_mask(0)
    assert ignored[97:127, 109:143].all()
    assert ignored.sum() == 32 * 36  # the box [108.5, 96.78, 35.46, 30.23]: rows 96 to 127, columns 108 to 143
    assert pictures.image(0).shape == (425, 640, 3)
    assert [image["crowdIndex"] for image in pictures.coco["images"]] == [0.33, 0.39]


@needs("lspet")
def test_real_lsp():
    pictures = CocoPeople(REAL_DATA / "lspet" / "val", REAL_DATA / "lspet" / "val.json", LSP)
    assert len(pictures) == 400
    assert all(len(pictures.people(index)) == 1 for index in range(400))
    assert pictures.image(0).shape == (144, 144, 3)
    head = pictures.people(0).keypoints_pk3[0, LSP.names.index("head_top")]
    assert head.tolist() == pytest.approx([67.59, 24.36, 2])
