"""COCO files as other tools write them: pycocotools' own figures, or a line that names file, annotation and remedy."""

import contextlib
import copy
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from compress.data.coco import CocoPeople
from compress.data.folder import Pictures
from compress.data.keypoints import COCO_PERSON, CROWDPOSE
from compress.data.sizes import stored
from compress.errors import DataError
from compress.pose.average_precision import oks_ap

Record = dict[str, Any]
HEIGHT, WIDTH, COUNT = 160, 224, 6


def drawing(number: int) -> np.ndarray:
    """Smooth, so that JPEG keeps it, and different at every corner and in every picture."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return np.stack([x * 255 / WIDTH, y * 255 / HEIGHT, np.full_like(x, 40 * number)], axis=2).astype(np.uint8)


def record() -> Record:
    rng = np.random.default_rng(5)
    images, annotations = [], []
    for number in range(1, COUNT + 1):
        images.append({"id": number, "file_name": f"{number}.png", "height": HEIGHT, "width": WIDTH})
        for left in (4, 150 if number > 1 else 60):  # the first picture's boxes fit the exchanged size too
            box = [left, 10, 60, 120]
            joints = np.concatenate(
                [rng.uniform((left, 10), (left + 60, 130), (17, 2)), rng.choice([0, 1, 2], (17, 1))], 1
            )
            joints[joints[:, 2] == 0] = 0
            joints[0, 2] = 2
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "iscrowd": 0,
                    "bbox": box,
                    "area": 60 * 120 * 0.5,
                    "num_keypoints": int((joints[:, 2] > 0).sum()),
                    "keypoints": joints.round(2).ravel().tolist(),
                }
            )
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


def results_of(truth: Record) -> list[Record]:
    """Every person, each joint about 4 pixels off."""
    rng = np.random.default_rng(6)
    found = []
    for person in truth["annotations"]:
        joints = np.reshape(person["keypoints"], (17, 3)) + np.c_[rng.normal(0, 4, (17, 2)), np.ones(17)]
        found.append(
            {
                "image_id": person["image_id"],
                "category_id": 1,
                "keypoints": joints.ravel().tolist(),
                "score": float(rng.random()),
            }
        )
    return found


def write(folder: Path, truth: Record, picture: Callable[[int], bytes] | None = None) -> tuple[Path, Path]:
    """The folder of pictures and the annotation file."""
    images = folder / "val"
    images.mkdir()
    for number, entry in enumerate(truth["images"]):
        content = picture(number) if picture else cv2.imencode(".png", drawing(number)[:, :, ::-1])[1].tobytes()
        (images / entry["file_name"]).write_bytes(content)
    file = folder / "person_keypoints_val.json"
    file.write_text(json.dumps(truth))
    return images, file


def by_pycocotools(file: Path, results: list[Record]) -> list[float]:
    """AP, AP50, AP75, APM, APL, AR, AR50, AR75 of what lies in the file, untouched."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        found = truth.loadRes(copy.deepcopy(results))
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:8]]


def each(change: Callable[[Record], object]) -> Callable[[Record], None]:
    def all_of(truth: Record) -> None:
        for annotation in truth["annotations"]:
            change(annotation)

    return all_of


def some(change: Callable[[Record], object]) -> Callable[[Record], None]:
    return lambda truth: each(change)({"annotations": truth["annotations"][::3]})


def to_category(number: int, name: str) -> Callable[[Record], None]:
    def change(truth: Record) -> None:
        truth["categories"] = [{"id": number, "name": name}]
        for annotation in truth["annotations"]:
            annotation["category_id"] = number

    return change


def hidden(a: Record) -> None:
    a["keypoints"] = [min(value, 1) if number % 3 == 2 else value for number, value in enumerate(a["keypoints"])]


ACCEPTED: dict[str, Callable[[Record], object]] = {
    "as they are": lambda truth: None,
    "area of the box": each(lambda a: a.update(area=a["bbox"][2] * a["bbox"][3])),
    "area as a whole number": each(lambda a: a.update(area=int(a["area"]))),
    "small areas": each(lambda a: a.update(area=2000)),
    "num_keypoints of some 0": some(lambda a: a.update(num_keypoints=0)),
    "num_keypoints of all 17": each(lambda a: a.update(num_keypoints=17)),
    "iscrowd false": each(lambda a: a.update(iscrowd=False)),
    "all joints hidden": each(hidden),
    "visibility as 2.0": each(lambda a: a.update(keypoints=[float(v) for v in a["keypoints"]])),
    "another name": to_category(1, "human"),
}


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_figures_are_those_of_pycocotools(tmp_path: Path, change: Callable[[Record], object]) -> None:
    truth = record()
    change(truth)
    images, file = write(tmp_path, truth)
    pictures = CocoPeople(images, file)
    wanted = by_pycocotools(file, results_of(record()))
    assert figures(pictures) == pytest.approx(wanted)
    assert 0 < wanted[0] < 1
    assert pictures.notes == ()


def figures(pictures: CocoPeople) -> list[float]:
    """Ours, -1 where there is nothing to measure on, as pycocotools writes it."""
    found = oks_ap(pictures.coco, results_of(record()), COCO_PERSON).figures
    return [-1 if value != value else value for value in found.values()]


def yolo_box(a: Record) -> None:
    x, y, w, h = a["bbox"]
    a["bbox"] = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]


def yolo_joints(a: Record) -> None:
    k = np.reshape(a["keypoints"], (17, 3)) / (WIDTH, HEIGHT, 1)
    a["keypoints"] = k.ravel().tolist()


REFUSED: dict[str, tuple[Callable[[Record], object], str]] = {
    "area 0": (each(lambda a: a.update(area=0)), r"annotation 1: .*area .*not 0: OKS .*square pixels|area in pixels"),
    "one area 0": (lambda t: t["annotations"][4].update(area=0.0), r"annotation 5: .*area .*not 0"),
    "normalised areas": (each(lambda a: a.update(area=a["area"] / HEIGHT / WIDTH)), r"annotation 1: .*shares of the"),
    "areas of larger pictures": (each(lambda a: a.update(area=a["area"] * 400)), r"annotation 1: .*beyond the pict"),
    "no area": (each(lambda a: a.pop("area")), r"annotation 1: area .*found 'no area'"),
    "num_keypoints 0": (each(lambda a: a.update(num_keypoints=0)), r"annotation 1: num_keypoints .*all 12 .*count"),
    "normalised boxes": (each(yolo_box), r"annotation 1: bbox must be in pixels.*multiply"),
    "normalised joints": (each(yolo_joints), r"annotation 1: keypoints must be in pixels.*multiply"),
    "corners for boxes": (
        each(lambda a: a.update(bbox=[*a["bbox"][:2], a["bbox"][0] + 60, a["bbox"][1] + 400])),
        r"annotation 1: at least half .*224x160.*give x, y, width, height",
    ),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_would_give_a_silent_zero_is_refused(
    tmp_path: Path, change: Callable[[Record], object], words: str
) -> None:
    truth = record()
    change(truth)
    images, file = write(tmp_path, truth)
    with pytest.raises(DataError, match=words) as caught:
        CocoPeople(images, file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_areas_do_not_matter_where_joints_go_by_the_box(tmp_path: Path) -> None:
    truth = record()
    for annotation in truth["annotations"]:
        annotation |= {"area": 0, "keypoints": annotation["keypoints"][: 3 * len(CROWDPOSE)]}
    images, file = write(tmp_path, truth)
    assert CocoPeople(images, file, CROWDPOSE).people(0).areas_p == pytest.approx([0.53 * 60 * 120] * 2)


# --- Sizes -----------------------------------------------------------------------------------------------------------

TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda shown: shown,
    2: lambda shown: shown[:, ::-1],
    3: lambda shown: shown[::-1, ::-1],
    4: lambda shown: shown[::-1],
    5: lambda shown: shown.transpose(1, 0, 2),
    6: lambda shown: np.rot90(shown, 1),
    7: lambda shown: shown[::-1, ::-1].transpose(1, 0, 2),
    8: lambda shown: np.rot90(shown, -1),
}
"""EXIF's orientations: what is shown → what is stored."""


def jpeg(shown: np.ndarray, orientation: int, order: str = "<") -> bytes:
    """A file that shows this, stored as the orientation says; EXIF 2.3, 4.6.4: tag 0x0112, a SHORT."""
    encoded, content = cv2.imencode(
        ".jpg", np.ascontiguousarray(TURNS[orientation](shown)[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 98]
    )
    assert encoded
    other = struct.pack(f"{order}HHII", 0x0100, 4, 1, 7)  # a tag before the one that matters
    tag = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, 2) + other + tag + bytes(4)
    segment = b"Exif\0\0" + tiff
    start, rest = content.tobytes()[:2], content.tobytes()[2:]
    return start + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + rest


def is_like(picture: np.ndarray, wanted: np.ndarray) -> bool:
    return picture.shape == wanted.shape and float(np.abs(picture.astype(float) - wanted).mean()) < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", "<>")
def test_headers_tell_size_and_turn(tmp_path: Path, orientation: int, order: str) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(jpeg(drawing(1), orientation, order))
    found = stored(file)
    assert found.turned == (orientation >= 5)
    assert found.hw == ((WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH))
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", drawing(1))[1].tobytes())
    assert (stored(tmp_path / "a.png").hw, stored(tmp_path / "a.png").turned) == ((HEIGHT, WIDTH), False)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_given_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(drawing(1), orientation))
    assert is_like(Pictures([tmp_path]).image(0), drawing(1))


def exchanged(truth: Record) -> Record:
    for entry in truth["images"]:
        entry["height"], entry["width"] = entry["width"], entry["height"]
    return truth


def test_exchanged_height_and_width_are_those_of_the_pictures(tmp_path: Path) -> None:
    """As CrowdPose's files had them. Also of the picture whose boxes lie in both."""
    truth = record()
    truth["annotations"].append({**truth["annotations"][0], "id": 99, "image_id": 2, "keypoints": [0] * 51})
    images, file = write(tmp_path, exchanged(truth))
    pictures = CocoPeople(images, file)
    assert [(entry["height"], entry["width"]) for entry in pictures.coco["images"]] == [(HEIGHT, WIDTH)] * COUNT
    assert all(is_like(pictures.image(index), drawing(index)) for index in range(COUNT))
    mask = pictures.ignore_mask(1)
    assert mask is not None
    assert mask.shape == (HEIGHT, WIDTH)
    assert "6 of 6 pictures: height and width are exchanged" in pictures.notes[0]
    assert figures(pictures) == pytest.approx(by_pycocotools(file, results_of(record())))


def test_one_exchanged_size_among_right_ones(tmp_path: Path) -> None:
    truth = record()
    truth["images"][3] |= {"height": WIDTH, "width": HEIGHT}
    pictures = CocoPeople(*write(tmp_path, truth))
    assert all(is_like(pictures.image(index), drawing(index)) for index in range(COUNT))
    assert "1 of 6" in pictures.notes[0]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("sizes", ["as shown", "of the header"])
def test_labels_of_upright_pictures(tmp_path: Path, orientation: int, sizes: str) -> None:
    """The labels are of what is shown; the file's sizes are of that, or of what is stored."""
    truth = record() if sizes == "as shown" else exchanged(record())
    for entry in truth["images"]:
        entry["file_name"] = entry["file_name"].replace("png", "jpg")
    images, file = write(tmp_path, truth, lambda number: jpeg(drawing(number), orientation))
    pictures = CocoPeople(images, file)
    assert all(is_like(pictures.image(index), drawing(index)) for index in range(COUNT))
    assert bool(pictures.notes) == (sizes == "of the header")
    assert figures(pictures) == pytest.approx(by_pycocotools(file, results_of(record())))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("sizes", ["as stored", "as shown"])
def test_labels_of_stored_pictures(tmp_path: Path, orientation: int, sizes: str) -> None:
    """The labels are of the stored pixels, as COCO's are; the file's sizes are of these, or of what is shown."""
    truth = record() if sizes == "as stored" else exchanged(record())
    for entry in truth["images"]:
        entry["file_name"] = entry["file_name"].replace("png", "jpg")
    back = {5: 5, 6: 8, 7: 7, 8: 6}[orientation]  # what is shown of a picture that is stored as the drawing
    images, file = write(
        tmp_path, truth, lambda number: jpeg(np.ascontiguousarray(TURNS[back](drawing(number))), orientation)
    )
    pictures = CocoPeople(images, file)
    assert all(is_like(pictures.image(index), drawing(index)) for index in range(COUNT))


def test_a_picture_of_another_size_is_still_refused(tmp_path: Path) -> None:
    truth = record()
    images, file = write(tmp_path, truth, lambda number: cv2.imencode(".png", drawing(1)[:-3])[1].tobytes())
    with pytest.raises(DataError, match="must have the size the annotations were made on, 224x160"):
        CocoPeople(images, file).image(0)
