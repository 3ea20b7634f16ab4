"""A detector's boxes against the pictures they belong to."""

import json
import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from compress.data.coco import CocoPeople
from compress.data.detections import Detections, read_detections
from compress.data.keypoints import CROWDPOSE
from compress.errors import DataError

REAL_DATA = Path(os.environ.get("COMPRESS_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture
def pictures(tmp_path: Path) -> CocoPeople:
    """Pictures 7, 5 and 9, in this order."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((30, 40, 3), np.uint8))
    record = {
        "images": [{"id": number, "file_name": "a.png", "height": 30, "width": 40} for number in (7, 5, 9)],
        "annotations": [{"id": 1, "image_id": 7, "keypoints": [9, 8, 2] * 17, "bbox": [1, 2, 9, 9], "area": 81}],
    }
    (tmp_path / "persons.json").write_text(json.dumps(record))
    return CocoPeople(tmp_path, tmp_path / "persons.json")


def detection(image: Any, score: Any, box: Any = (1, 2, 3, 4), category: Any = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def read(folder: Path, pictures: CocoPeople, entries: Any, threshold: float = 0.0) -> list[Detections]:
    file = folder / "detections.json"
    file.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return read_detections(file, pictures, threshold)


def test_boxes_come_by_picture_and_best_first(tmp_path: Path, pictures: CocoPeople) -> None:
    entries = [
        detection(5, 0.3, (1, 1, 5, 5)),
        detection(9, 0.5, (-0.5, 2, 8, 9)),
        detection(5, 0.9, (2, 2, 6, 6)),
        detection(5, 0.3, (3, 3, 7, 7)),
        detection(5, 0.99, category=18),
    ]
    found = read(tmp_path, pictures, entries)
    assert [len(detections) for detections in found] == [0, 3, 1]
    assert found[0].boxes_d4.shape == (0, 4)
    assert found[1].boxes_d4.tolist() == [[2, 2, 6, 6], [1, 1, 5, 5], [3, 3, 7, 7]]
    assert found[1].scores_d == pytest.approx([0.9, 0.3, 0.3])
    assert found[2].boxes_d4.tolist() == [[-0.5, 2, 8, 9]]
    assert {array.dtype for f in found for array in (f.boxes_d4, f.scores_d)} == {np.dtype(np.float32)}


def test_the_threshold_is_kept(tmp_path: Path, pictures: CocoPeople) -> None:
    entries = [detection(7, score) for score in (0.19, 0.2, 0.21, -1.5)]
    assert read(tmp_path, pictures, entries, 0.2)[0].scores_d == pytest.approx([0.21, 0.2])
    assert len(read(tmp_path, pictures, entries)[0]) == 3
    assert [len(f) for f in read(tmp_path, pictures, entries, 2.0)] == [0, 0, 0]


GOOD = detection(7, 0.5)
BAD = {
    "broken json": ("[", "must be JSON"),
    "an object": ({"annotations": [GOOD]}, r"a list of objects \(found 'dict'\)"),
    "numbers": ([1], "a list of objects"),
    "nothing": ([], "there must be people"),
    "no people": ([{**GOOD, "category_id": 18}], r"there must be people.*\[18\]"),
    "unknown picture": ([GOOD, {**GOOD, "image_id": 8}], "detection 1 of image 8: .*picture of the set"),
    "no picture": ([{"category_id": 1}], "detection 0 of image None: .*picture of the set"),
    "picture by name": ([{**GOOD, "image_id": "7"}], "picture of the set"),
    "no category": ([{**GOOD, "category_id": None}], "category_id"),
    "nan score": ([{**GOOD, "score": math.nan}], "detection 0 of image 7: score"),
    "endless score": ([{**GOOD, "score": math.inf}], "score"),
    "no score": ([{**GOOD, "score": None}], "score"),
    "nan box": ([{**GOOD, "bbox": [0, math.nan, 1, 1]}], "detection 0 of image 7: bbox"),
    "flat box": ([{**GOOD, "bbox": [0, 0, 1, 0]}], "bbox"),
    "negative box": ([{**GOOD, "bbox": [0, 0, -1, 1]}], "bbox"),
    "five numbers": ([{**GOOD, "bbox": [0, 0, 1, 1, 1]}], "bbox"),
    "another category's box": ([GOOD, {**GOOD, "category_id": 2, "bbox": None}], "detection 1 of image 7: bbox"),
}


@pytest.mark.parametrize(("entries", "words"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_used_is_said_in_one_line(
    tmp_path: Path, pictures: CocoPeople, entries: Any, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path, pictures, entries)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "detections.json") in str(caught.value)


def test_a_missing_file(tmp_path: Path, pictures: CocoPeople) -> None:
    with pytest.raises(DataError, match="must be readable"):
        read_detections(tmp_path / "none.json", pictures)


@pytest.mark.skipif(not (REAL_DATA / "formats" / "crowdpose").is_dir(), reason=f"no real data at {REAL_DATA}")
def test_real_detections() -> None:
    folder = REAL_DATA / "formats" / "crowdpose"
    crowd = CocoPeople(folder, folder / "test_crowdpose.json", CROWDPOSE)
    found = read_detections(folder / "test_crowdpose_det_AP_40.json", crowd)
    assert [len(detections) for detections in found] == [3, 3]
    assert found[0].boxes_d4[0] == pytest.approx([120.36584, 30.52151, 244.14288, 328.94458])
    assert found[1].scores_d == pytest.approx([0.99983454, 0.99980217, 0.96738887])
    assert [len(f) for f in read_detections(folder / "test_crowdpose_det_AP_40.json", crowd, 0.9998)] == [1, 2]
