"""COCO person keypoints from disk: https://cocodataset.org/#format-data (keypoint detection).

Other data sets in the same layout (CrowdPose, LSP) work too, with their own KeypointSet. The whole record is checked
when the set is made.
"""

import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, ValidationError

from compress.data.keypoints import COCO_PERSON, KeypointSet
from compress.data.picture import Mask, People, Picture, people_of
from compress.data.sizes import decode, sizes_as_labelled
from compress.errors import DataError


class CocoPeople:
    """A PictureSet over a folder of pictures and a COCO annotation file; all pictures of the file, in its order.

    Where the file names a category "person", other categories are left out. Pictures are decoded at every call.
    Regions to ignore come from `segmentation` (polygons or run lengths), and from the box where there is none.
    Areas are those annotated, or the share of the box that the keypoints' OKS takes (`box_area_share`). notes: what a
    user should know of how the file was read. person_category: the file's id of persons; in `coco` it is 1.
    Raises DataError, before any picture is read, for the first thing in the file that cannot be used.
    """

    def __init__(self, images: Path, annotations: Path, keypoints: KeypointSet = COCO_PERSON) -> None:
        self.keypoints = keypoints
        self.coco: dict[str, Any] = _read_record(annotations)
        self.folder, self.file = images, annotations
        self._images: list[dict[str, Any]] = self.coco["images"]
        _check_images(self._images, images, annotations)
        persons = _persons(self.coco, keypoints, annotations)
        _check_entries(persons, self._images, keypoints, annotations)
        self.person_category = category_of_persons(self.coco)
        self._images, self.notes = sizes_as_labelled(self._images, _labelled_boxes(persons), _shows, images)
        _check_places(persons, self._images, keypoints, annotations)
        self._annotations: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self._images}
        # Scoring wants one category and, of crowds too, a full row of joints.
        blank = [0] * (3 * len(keypoints))
        persons = [
            {"keypoints": blank, **person, "area": _area(person, keypoints), "category_id": 1} for person in persons
        ]
        self.coco = {
            **self.coco,
            "images": self._images,
            "annotations": persons,
            "categories": [_category(self.coco)],
        }
        for person in persons:
            self._annotations[person["image_id"]].append(person)

    def __len__(self) -> int:
        return len(self._images)

    def subset(self, indices: Sequence[int]) -> "CocoPeople":
        """The pictures at these indices, in this order, with a `coco` record of nothing else."""
        part = copy(self)
        part._images = [self._images[index] for index in indices]
        ids = {image["id"] for image in part._images}
        part._annotations = {number: self._annotations[number] for number in ids}
        annotations = [a for a in self.coco["annotations"] if a.get("image_id") in ids]
        part.coco = {**self.coco, "images": part._images, "annotations": annotations}
        return part

    def image_id(self, index: int) -> int:
        return int(self._images[index]["id"])

    def path(self, index: int) -> Path:
        """The picture's file."""
        return self.folder / str(self._images[index]["file_name"])

    def image(self, index: int) -> Picture:
        """uint8 [H, W, 3], RGB, grey pictures too; of the size in the annotation file: as stored if that has it, else
        turned as EXIF says (see compress.data.sizes)."""
        entry = self._images[index]
        path, size = self.folder / entry["file_name"], (entry["height"], entry["width"])
        picture = decode(path)
        if picture.shape[:2] != size:
            picture = decode(path, upright=True)
        if picture.shape[:2] != size:
            exchanged = "exchange height and width in" if picture.shape[1::-1] == size else "correct"
            raise DataError(
                f"the picture must have the size the annotations were made on, {entry['width']}x{entry['height']}",
                place=str(path),
                value=f"{picture.shape[1]}x{picture.shape[0]}",
                remedy=f"restore the original picture or {exchanged} {self.file}",
            )
        return picture

    def people(self, index: int) -> People:
        return people_of(self._annotations[self.image_id(index)], len(self.keypoints))

    def ignore_mask(self, index: int) -> Mask | None:
        entry = self._images[index]
        ignored = [a for a in self._annotations[entry["id"]] if _ignored(a)]
        if not ignored:
            return None
        mask = np.zeros((entry["height"], entry["width"]), np.bool_)
        for annotation in ignored:
            mask |= _region(annotation, entry["height"], entry["width"])
        return mask


def _area(annotation: dict[str, Any], keypoints: KeypointSet) -> float:
    """The area that OKS divides by, in square pixels."""
    if keypoints.box_area_share is None:
        return float(annotation["area"])
    return float(keypoints.box_area_share * annotation["bbox"][2] * annotation["bbox"][3])


def _ignored(annotation: dict[str, Any]) -> bool:
    """Crowds, and persons without a labelled joint."""
    return bool(annotation.get("iscrowd")) or not any(annotation["keypoints"][2::3])


def _region(annotation: dict[str, Any], height: int, width: int) -> Mask:
    """The annotation's pixels, bool [height, width]: its segmentation, or its box where it has none."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        mask = np.zeros((height, width), np.bool_)
        x, y, w, h = annotation["bbox"]
        mask[max(0, math.floor(y)) : max(0, math.ceil(y + h)), max(0, math.floor(x)) : max(0, math.ceil(x + w))] = True
        return mask
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        encoded = segmentation
    else:
        encoded = coco_mask.frPyObjects(segmentation, height, width)
    return np.asarray(_unpacked(encoded).reshape(height, width, -1).any(axis=2), np.bool_)  # one layer per polygon


def _unpacked(encoded: Any) -> npt.NDArray[np.uint8]:
    """pycocotools' run lengths to pixels; its 2.0 releases warn under NumPy 2 about something of their own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*__array__ implementation", category=DeprecationWarning)
        return np.asarray(coco_mask.decode(encoded), np.uint8)


# --- What a file must hold -------------------------------------------------------------------------------------------

_LARGEST = float(np.finfo(np.float32).max)
Finite = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
"""A number that float32 can hold."""
NotNegative = Annotated[Finite, Field(ge=0)]


class Entry(BaseModel):
    """An object of a list in a file; what else it holds is not looked at. The description of a field is its rule."""

    model_config = ConfigDict(strict=True)


class ImageEntry(Entry):
    """A picture."""

    id: int = Field(description="an image's id must be a whole number")
    file_name: str = Field(min_length=1, description="an image needs a file_name")
    height: int = Field(ge=1, description="an image's height must be a whole number above 0")
    width: int = Field(ge=1, description="an image's width must be a whole number above 0")


class PersonEntry(Entry):
    """A person; joints depend on the data set, and a crowd need not have any."""

    bbox: tuple[Finite, Finite, NotNegative, NotNegative] = Field(
        strict=False, description="bbox must be x, y, width, height: finite, sizes not negative"
    )
    area: Any = None
    image_id: int = Field(description="image_id must be a whole number")
    iscrowd: Literal[0, 1] | None = Field(default=None, description="iscrowd must be 0 or 1")


class PersonWithArea(PersonEntry):
    """A person of a data set whose scores divide by the annotated area."""

    area: NotNegative = Field(description="area must be a finite number, not negative")


def check_entries(
    kind: type[Entry], entries: Sequence[dict[str, Any]], place: Callable[[int], str], remedy: str
) -> None:
    """Raises DataError for the first field of an entry that breaks its rule. place: of an entry, by its number."""
    try:
        TypeAdapter(Annotated[list[kind], FailFast()]).validate_python(entries)  # type: ignore[arg-type, valid-type]
    except ValidationError as error:
        number, key = error.errors(include_url=False)[0]["loc"][:2]
        assert isinstance(number, int)
        value = entries[number].get(str(key), f"no {key}")
        rule = str(kind.model_fields[str(key)].description)
        raise DataError(rule, place=place(number), value=value, remedy=remedy) from None


def read_json(file: Path) -> Any:
    """What the JSON file holds. Raises DataError if it cannot be read or is no JSON."""
    place = str(file)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"the annotations must be JSON: {error.msg} at line {error.lineno} column {error.colno}",
            place=place,
            remedy="download or write the file again",
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            "the annotations must be UTF-8 text", place=place, remedy="give the data set's JSON file"
        ) from error
    except OSError as error:
        raise DataError(
            "the annotation file must be readable", place=place, value=error.strerror, remedy="correct the path"
        ) from error


def require_pictures(names: Iterable[str], folder: Path, file: Path) -> None:
    """Raises DataError unless every picture that `file` names is in the folder."""
    if not folder.is_dir():
        raise DataError("the folder of pictures must exist", place=str(folder), remedy="correct the path")
    names = list(names)
    present = {path.name for path in folder.iterdir()}
    missing = [name for name in names if name not in present and not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"every image of {file} must be in the folder: {len(missing)} of {len(names)} are missing",
            place=str(folder),
            value=missing[0],
            remedy="complete the download or give the folder that belongs to these annotations",
        )


def is_whole(value: Any) -> bool:
    """Whether a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def are_finite(values: Any, count: int) -> bool:
    """Whether a JSON value is a list of so many numbers that float32 can hold."""
    try:
        return len(_NUMBERS.validate_python(values)) == count
    except ValidationError:
        return False


_NUMBERS = TypeAdapter(Annotated[list[Finite], FailFast()], config=ConfigDict(strict=True))


def _read_record(file: Path) -> dict[str, Any]:
    place = str(file)
    record = read_json(file)
    if not isinstance(record, dict):
        raise DataError(
            "the annotations must be one JSON object", place=place, value=type(record).__name__, remedy=_LAYOUT
        )
    for key in ("images", "annotations"):
        entries = record.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            found = "nothing" if key not in record else type(entries).__name__
            raise DataError(f"'{key}' must be a list of objects", place=place, value=found, remedy=_LAYOUT)
    return record


_LAYOUT = "give a file in COCO's person-keypoints layout"


def _check_images(images: list[dict[str, Any]], folder: Path, file: Path) -> None:
    if not images:
        raise DataError("there must be at least one image", place=str(file), remedy=_LAYOUT)
    check_entries(ImageEntry, images, lambda number: f"{file} image {images[number].get('id')}", _LAYOUT)
    seen: set[int] = set()
    for entry in images:
        if entry["id"] in seen:
            place = f"{file} image {entry['id']}"
            raise DataError("image ids must be unique", place=place, value=entry["id"], remedy="remove the duplicate")
        seen.add(entry["id"])
    require_pictures([entry["file_name"] for entry in images], folder, file)


def category_of_persons(record: dict[str, Any]) -> int:
    """The id that the record gives persons; 1 where it does not say."""
    named = [c for c in record.get("categories") or [] if isinstance(c, dict) and c.get("name") == "person"]
    used = [a.get("category_id") for a in record.get("annotations") or []]
    number = named[0].get("id") if named else (used[0] if used else 1)
    return int(number) if is_whole(number) else 1  # type: ignore[arg-type]


def _category(record: dict[str, Any]) -> dict[str, Any]:
    """The record's category of persons, or a bare one, as number 1."""
    named = [c for c in record.get("categories") or [] if isinstance(c, dict) and c.get("name") == "person"]
    return {**(named[0] if named else {"name": "person"}), "id": 1}


def _persons(record: dict[str, Any], keypoints: KeypointSet, file: Path) -> list[dict[str, Any]]:
    """The annotations of persons; all of them where the file names no category "person"."""
    categories = record.get("categories") or []
    persons = [c for c in categories if isinstance(c, dict) and c.get("name") == "person"]
    if persons:
        ids = [category.get("id") for category in persons]
        annotations = [a for a in record["annotations"] if a.get("category_id") in ids]
        for category in persons:
            names = category.get("keypoints")
            if names and names != list(keypoints.names):
                raise DataError(
                    f"the joints must be those of {keypoints.name}, in its order",
                    place=f"{file} category {category.get('id')}",
                    value=names,
                    remedy="give the data set's own joints or other annotations",
                )
    else:
        annotations = list(record["annotations"])
    if not any(a.get("keypoints") for a in annotations):
        raise DataError(
            "there must be persons with keypoints",
            place=str(file),
            value=f"{len(annotations)} person annotations, none with keypoints",
            remedy="give the person_keypoints file, not the instances file",
        )
    return annotations


def _check_entries(
    annotations: list[dict[str, Any]], images: list[dict[str, Any]], keypoints: KeypointSet, file: Path
) -> None:
    """What every annotation must hold, whatever the size of its picture."""
    known = {entry["id"] for entry in images}
    places = [f"{file} annotation {annotation.get('id')}" for annotation in annotations]
    seen: set[int] = set()
    for annotation, place in zip(annotations, places, strict=True):
        number = annotation.get("id")
        if number is None or not is_whole(number) or number in seen:
            raise DataError(
                "annotation ids must be unique whole numbers",
                place=place,
                value=number,
                remedy="number the annotations anew",
            )
        seen.add(number)
    kind = PersonWithArea if keypoints.box_area_share is None else PersonEntry
    check_entries(kind, annotations, places.__getitem__, "correct or remove it")
    for annotation, place in zip(annotations, places, strict=True):
        if annotation["image_id"] not in known:
            raise DataError(
                "an annotation's image must be in the file",
                place=place,
                value=f"image_id {annotation['image_id']}",
                remedy="add the image or remove the annotation",
            )
        if not annotation.get("iscrowd"):
            _check_joints(annotation, keypoints, place)
    _check_counts([a for a in annotations if not _ignored(a)], file)


def _check_counts(labelled: list[dict[str, Any]], file: Path) -> None:
    """COCOeval leaves out persons of num_keypoints 0: some may be meant so, but not all that have visible joints."""
    if labelled and all(annotation.get("num_keypoints") == 0 for annotation in labelled):
        first = labelled[0]
        count = sum(visibility > 0 for visibility in first["keypoints"][2::3])
        raise DataError(
            "num_keypoints must be the number of labelled joints: COCO's evaluation leaves out persons with 0, "
            f"and all {len(labelled)} labelled ones have 0",
            place=f"{file} annotation {first['id']}",
            value=f"num_keypoints 0, {count} joints of visibility 1 or 2",
            remedy="count them, or remove the key: it is counted then",
        )


def _check_places(
    annotations: list[dict[str, Any]], images: list[dict[str, Any]], keypoints: KeypointSet, file: Path
) -> None:
    """Where things lie in their pictures, and how large they are."""
    sizes = {entry["id"]: (entry["height"], entry["width"]) for entry in images}
    for annotation in annotations:
        size, place = sizes[annotation["image_id"]], f"{file} annotation {annotation['id']}"
        if _ignored(annotation):
            _check_region(annotation, size, place)
            continue
        _check_units(annotation, place)
        _check_box(annotation["bbox"], size, place)
        if keypoints.box_area_share is None:
            _check_area(annotation, size, place)


def _labelled_boxes(annotations: list[dict[str, Any]]) -> dict[int, list[list[float]]]:
    """Boxes of persons with labelled joints, by image."""
    boxes: dict[int, list[list[float]]] = {}
    for annotation in annotations:
        if not _ignored(annotation):
            boxes.setdefault(annotation["image_id"], []).append(annotation["bbox"])
    return boxes


def _check_joints(annotation: dict[str, Any], keypoints: KeypointSet, place: str) -> None:
    joints = annotation.get("keypoints")
    if not isinstance(joints, list) or len(joints) != 3 * len(keypoints):
        raise DataError(
            f"a person needs {len(keypoints)} joints of x, y, visibility ({3 * len(keypoints)} numbers)",
            place=place,
            value=f"{len(joints)} numbers" if isinstance(joints, list) else joints,
            remedy=f"give annotations of {keypoints.name} joints",
        )
    if not are_finite(joints, len(joints)):
        raise DataError("joints must be finite numbers", place=place, value=joints, remedy="correct or remove it")
    if any(v not in (0, 1, 2) for v in joints[2::3]):
        raise DataError("visibility must be 0, 1 or 2", place=place, value=joints[2::3], remedy="correct or remove it")


def _check_units(annotation: dict[str, Any], place: str) -> None:
    """Shares of the picture's size, as YOLO's labels are, would all lie in its first pixel."""
    rows = list(zip(*[iter(annotation["keypoints"])] * 3, strict=True))
    labelled = [value for x, y, visibility in rows if visibility for value in (x, y)]
    for name, values in (("bbox", annotation["bbox"]), ("keypoints", labelled)):
        if len(values) >= 4 and any(values) and all(0 <= value <= 1 for value in values):
            raise DataError(
                f"{name} must be in pixels; these look like shares of the picture's width and height",
                place=place,
                value=values,
                remedy="multiply them by the width and the height",
            )


def _check_box(box: list[float], size_hw: tuple[int, int], place: str) -> None:
    """A box to crop by. Boxes that stick out a little are left as they are: hand-made ones do."""
    if not (box[2] > 0 and box[3] > 0):
        raise DataError(
            "a labelled person's box must have a width and a height above 0",
            place=place,
            value=box,
            remedy="correct or remove it",
        )
    if not _shows(box, size_hw):
        raise DataError(
            f"at least half of a labelled person's box must lie in the picture, {size_hw[1]}x{size_hw[0]}",
            place=place,
            value=box,
            remedy="give x, y, width, height in pixels of this picture",
        )


def _shows(box: Sequence[float], size_hw: tuple[int, int]) -> bool:
    """Whether at least half of the box lies in a picture of that height and width."""
    x, y, width, height = box
    shown = max(0, min(x + width, size_hw[1]) - max(x, 0)) * max(0, min(y + height, size_hw[0]) - max(y, 0))
    return 2 * shown >= width * height


def _check_area(annotation: dict[str, Any], size_hw: tuple[int, int], place: str) -> None:
    """OKS divides by the area: with 0, or a share of the picture's, every joint would be too far off, and AP 0."""
    area, (_, _, width, height) = annotation["area"], annotation["bbox"]
    if area < 1 <= _LEAST_SHARE * width * height:
        found = "shares of the picture's area" if area else "0"
        raise DataError(
            f"a labelled person's area must be that of the person in square pixels, not {found}: OKS divides by it",
            place=place,
            value=f"area {area}, box {width}x{height}",
            remedy="write the segmentation's area in pixels, or about half of the box's",
        )
    if area > 2 * size_hw[0] * size_hw[1]:
        raise DataError(
            f"a labelled person's area must not be beyond the picture's, {size_hw[1]}x{size_hw[0]}",
            place=place,
            value=f"area {area}",
            remedy="write the segmentation's area in square pixels of this picture",
        )


_LEAST_SHARE = 0.01
"""Of a box that a person can be expected to fill: who is hidden but for a hand fills little."""


def _check_region(annotation: dict[str, Any], size_hw: tuple[int, int], place: str) -> None:
    """A segmentation that will be made into a mask must decode to the picture's size; the file is whole or refused."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return
    try:
        if isinstance(segmentation, list):
            fits = all(len(p) >= 6 and len(p) % 2 == 0 and are_finite(p, len(p)) for p in segmentation)
        else:
            counts = segmentation["counts"]
            fits = tuple(segmentation["size"]) == size_hw and (
                sum(counts) == size_hw[0] * size_hw[1]
                if isinstance(counts, list)
                else _unpacked(segmentation).shape == size_hw
            )
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise DataError(
            "a segmentation must be polygons of 3 or more points, or run lengths of the picture's size",
            place=place,
            value=segmentation,
            remedy="correct it or remove it (the box is then ignored instead)",
        )
