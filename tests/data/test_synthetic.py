import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from compress.data.coco import CocoPeople
from compress.data.keypoints import COCO_PERSON
from compress.data.synthetic import Difficulty, SyntheticPeople, write_coco
from compress.errors import DataError


@pytest.fixture(scope="module")
def pictures():
    return SyntheticPeople(120, (96, 128), seed=7)


def same_people(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in one.__dataclass_fields__)


def test_a_picture_depends_on_seed_and_index_only(pictures):
    backwards = SyntheticPeople(500, (96, 128), seed=7, cache_bytes=0)
    for index in (40, 3, 17, 3):
        assert np.array_equal(backwards.image(index), pictures.image(index))
        assert same_people(backwards.people(index), pictures.people(index))
    assert not np.array_equal(SyntheticPeople(1, (96, 128), seed=8).image(0), pictures.image(0))


@pytest.mark.parametrize("size_hw", [(96, 96), (128, 128), (64, 200), (256, 192), (600, 700)])
def test_sizes(size_hw):
    image = SyntheticPeople(1, size_hw).image(0)
    assert image.shape == (*size_hw, 3)
    assert image.dtype == np.uint8


def test_labels_fit_the_drawing(pictures):
    height, width = pictures.size_hw
    persons = 0
    for index in range(len(pictures)):
        people = pictures.people(index)
        persons += len(people)
        for joints, (x, y, w, h), area in zip(people.keypoints_pk3, people.boxes_p4, people.areas_p, strict=True):
            assert 0 < area <= w * h
            assert x >= 0
            assert y >= 0
            assert x + w <= width
            assert y + h <= height
            seen = joints[joints[:, 2] == 2]
            assert (seen[:, 0] >= x - 0.5).all()
            assert (seen[:, 0] < x + w).all()
            assert (seen[:, 1] >= y - 0.5).all()
            assert (seen[:, 1] < y + h).all()
            assert not joints[joints[:, 2] == 0].any()
            labelled = joints[joints[:, 2] > 0]
            assert len(labelled)
            assert (labelled[:, 0] < width).all()
            assert (labelled[:, 1] < height).all()
    assert persons > len(pictures)


def test_joints_lie_where_they_are_drawn():
    """Eyes are white discs with a dark middle: around each labelled eye it is brighter than in it."""
    plain = Difficulty(
        (1, 1), (0.9, 0.9), pose_spread=0, tilt_deg=0, tumble=0, truncation=0, occluder=0, clutter=0, noise=0, blur=0
    )
    pictures = SyntheticPeople(60, (400, 400), seed=1, difficulty=plain)
    right = []
    for index in range(len(pictures)):
        image = pictures.image(index).astype(int)
        for x, y, v in pictures.people(index).keypoints_pk3[0, 1:3]:
            if v == 2:
                middle, (row, column) = image[round(y), round(x)], (round(y), round(x))
                ring = [image[row + dy, column + dx].sum() for dx, dy in ((5, 0), (-5, 0), (0, 5), (0, -5))]
                right.append(max(ring) > middle.sum() + 200)
    assert len(right) > 30
    assert np.mean(right) > 0.9  # in profile the nose may cover an eye


def test_left_is_left_of_the_person():
    """Seen from the front a person's left shoulder is on the picture's right, from behind on its left."""
    upright = Difficulty(people=(1, 1), tilt_deg=0, tumble=0, truncation=0, occluder=0)
    pictures = SyntheticPeople(100, (96, 96), seed=2, difficulty=upright)
    names = COCO_PERSON.names
    front = back = 0
    for index in range(len(pictures)):
        joints = pictures.people(index).keypoints_pk3[0]
        nose, left, right = (joints[names.index(n)] for n in ("nose", "left_shoulder", "right_shoulder"))
        eyes = joints[1:3, 2]
        if eyes.all() and abs(left[0] - right[0]) > 12:
            front += left[0] > right[0]
        elif not nose[2] and not eyes.any() and abs(left[0] - right[0]) > 12:
            back += 1
            assert left[0] < right[0]
    assert front > 30
    assert back > 5


def test_persons_overlap_little():
    pictures = SyntheticPeople(100, (128, 128), seed=3, people=(2, 2))
    ious = []
    for index in range(len(pictures)):
        boxes = pictures.people(index).boxes_p4
        if len(boxes) == 2:
            (x, y, w, h), (x2, y2, w2, h2) = boxes
            common = max(0, min(x + w, x2 + w2) - max(x, x2)) * max(0, min(y + h, y2 + h2) - max(y, y2))
            ious.append(common / (w * h + w2 * h2 - common))
    assert np.mean(np.array(ious) < 0.3) > 0.95


def test_hidden_persons_are_to_be_ignored():
    crowd = Difficulty(people=(6, 6), scale=(0.7, 0.9), overlap=1.0)
    pictures = SyntheticPeople(40, (96, 96), seed=0, difficulty=crowd)
    hidden = [i for i in range(len(pictures)) if pictures.ignore_mask(i) is not None]
    assert hidden
    for index in hidden:
        mask = pictures.ignore_mask(index)
        assert mask.shape == (96, 96)
        assert mask.any()
    assert sum(len(pictures.people(i)) for i in range(40)) < 40 * 6


def test_pycocotools_reads_the_record(pictures, capsys):
    index = COCO()
    index.dataset = pictures.coco
    index.createIndex()
    capsys.readouterr()
    annotations = index.loadAnns(index.getAnnIds(imgIds=[pictures.image_id(5)], catIds=index.getCatIds(["person"])))
    labelled = [a for a in annotations if a["num_keypoints"]]
    assert len(labelled) == len(pictures.people(5))
    assert np.allclose([a["area"] for a in labelled], pictures.people(5).areas_p)
    assert index.loadCats(1)[0]["keypoints"] == list(COCO_PERSON.names)
    assert index.loadCats(1)[0]["skeleton"][0] == [16, 14]


def test_round_trip_on_disk(tmp_path):
    drawn = SyntheticPeople(40, (96, 96), difficulty=Difficulty(people=(6, 6), scale=(0.7, 0.9), overlap=1.0))
    write_coco(drawn, tmp_path / "set")
    read = CocoPeople(tmp_path / "set" / "images", tmp_path / "set" / "annotations.json")
    assert len(read) == len(drawn)
    masks = 0
    for index in range(len(drawn)):
        assert read.image_id(index) == drawn.image_id(index)
        assert np.array_equal(read.image(index), drawn.image(index))
        assert same_people(read.people(index), drawn.people(index))
        mask = drawn.ignore_mask(index)
        masks += mask is not None
        assert np.array_equal(read.ignore_mask(index), mask)
    assert masks
    assert read.coco == json.loads(json.dumps(drawn.coco))
    with pytest.raises(DataError, match="choose a new folder"):
        write_coco(drawn, tmp_path / "set")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "count must be"),
        ({"count": 1, "size_hw": (16, 64)}, "at least 32 pixels"),
        ({"count": 1, "people": (3, 1)}, "people must be a range"),
        ({"count": 1, "people": (1, 40)}, "people must be a range"),
        ({"count": 1, "difficulty": Difficulty(scale=(0.0, 1.0))}, "scale must be a range"),
    ],
)
def test_what_cannot_be_drawn(arguments, words):
    with pytest.raises(DataError, match=words):
        SyntheticPeople(**arguments)
