"""Average precision against cases worked out by hand."""

import copy
import math
from typing import Any

import pytest

from compress.errors import DataError
from compress.keypoints import COCO_PERSON, KeypointSet
from compress.metrics import oks_ap

MEDIUM, LARGE = 64.0**2, 128.0**2  # areas in pixels
TRIANGLE = KeypointSet("triangle", ("a", "b", "c"), (), (), (0.05, 0.1, 0.2), (0, 1, 2))


def person(number: int, image: int, x: float, area: float = LARGE, **extra: Any) -> dict[str, Any]:
    joints = [value for joint in range(17) for value in (x + 3 * joint, 50 + 5 * joint, 2)]
    side = math.sqrt(area)
    box = [x, 50, side, side]
    return {
        "id": number, "image_id": image, "category_id": 1, "keypoints": joints, "num_keypoints": 17, "area": area,
        "bbox": box, "iscrowd": 0, **extra,
    }  # fmt: skip


def dataset(*people: dict[str, Any], images: int = 2) -> dict[str, Any]:
    return {
        "images": [{"id": image, "width": 640, "height": 480} for image in range(1, images + 1)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": list(people),
    }


def detection(of: dict[str, Any], score: float = 0.9, shift: float = 0.0) -> dict[str, Any]:
    joints = [
        value for x, y in zip(of["keypoints"][0::3], of["keypoints"][1::3], strict=True) for value in (x + shift, y, 1)
    ]
    return {"image_id": of["image_id"], "category_id": 1, "keypoints": joints, "score": score}


def shift_for(oks: float, area: float, sigma: float) -> float:
    """d with exp(-d² / (2 · area · (2σ)²)) = oks."""
    return math.sqrt(-math.log(oks) * 2 * area * (2 * sigma) ** 2)


def test_perfect_detections_score_one(capsys: pytest.CaptureFixture[str]) -> None:
    people = [person(1, 1, 10, MEDIUM), person(2, 1, 300, LARGE), person(3, 2, 100, LARGE)]
    figures = oks_ap(dataset(*people), [detection(p) for p in people], COCO_PERSON)
    assert figures == pytest.approx(dict.fromkeys(("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75"), 1.0))
    assert capsys.readouterr() == ("", "")


def test_half_the_people_found() -> None:
    """Precision is 1 up to recall 0.5: 51 of the 101 recall points 0, .01, ..., 1."""
    people = [person(1, 1, 10), person(2, 2, 10)]
    figures = oks_ap(dataset(*people), [detection(people[0])], COCO_PERSON)
    assert figures["AP"] == pytest.approx(51 / 101)
    assert figures["AR"] == pytest.approx(0.5)


def test_a_false_person_that_scores_better_halves_the_precision() -> None:
    truth = person(1, 1, 10)
    figures = oks_ap(dataset(truth), [detection(truth, 0.5), detection(truth, 0.9, shift=1000)], COCO_PERSON)
    assert figures["AP"] == pytest.approx(0.5)
    assert figures["AR"] == pytest.approx(1.0)


@pytest.mark.parametrize(("oks", "thresholds"), [(0.97, 10), (0.93, 9), (0.77, 6), (0.73, 5), (0.51, 1), (0.49, 0)])
def test_a_shift_to_an_exact_oks(oks: float, thresholds: int) -> None:
    """All sigmas equal: every joint is equally near, so the person's OKS is that of one joint."""
    even = KeypointSet("even", COCO_PERSON.names, (), (), (0.08,) * 17, COCO_PERSON.grouping_order)
    truth = person(1, 1, 10)
    figures = oks_ap(dataset(truth), [detection(truth, shift=shift_for(oks, LARGE, 0.08))], even)
    assert figures["AP"] == pytest.approx(thresholds / 10)
    assert figures["AR"] == pytest.approx(thresholds / 10)
    assert figures["AP50"] == pytest.approx(float(oks >= 0.5))
    assert figures["AP75"] == pytest.approx(float(oks >= 0.75))


def test_sigmas_and_number_of_joints_are_those_of_the_joints() -> None:
    """OKS = (1 + 1 + exp(-d² / (2 · area · (2 · 0.2)²))) / 3 with one joint of three moved so that the last is 0.34."""
    joints = [10.0, 10.0, 2, 60.0, 10.0, 2, 30.0, 60.0, 2]
    truth = {**person(1, 1, 10), "keypoints": joints, "num_keypoints": 3}
    moved = detection(truth)
    moved["keypoints"][6] += shift_for(0.34, LARGE, 0.2)
    figures = oks_ap(dataset(truth), [moved], TRIANGLE)
    assert figures["AR"] == pytest.approx(0.6)  # OKS 0.78: thresholds .50 to .75


def test_no_results_score_zero_and_empty_ranges_are_nan() -> None:
    figures = oks_ap(dataset(person(1, 1, 10, MEDIUM)), [], COCO_PERSON)
    assert math.isnan(figures.pop("APL"))
    assert set(figures.values()) == {0.0}
    assert all(math.isnan(value) for value in oks_ap(dataset(), [], COCO_PERSON).values())


def test_pictures_without_detections_and_without_people_count() -> None:
    people = [person(1, 1, 10), person(2, 2, 10)]
    ghost = {**detection(people[0], 0.95), "image_id": 3}
    found = [detection(p) for p in people]
    assert oks_ap(dataset(*people, images=3), found[:1], COCO_PERSON)["AR"] == pytest.approx(0.5)
    # The ghost is first of three: precision 1/2 at the first hit, 2/3 at the second, made monotone: 2/3.
    assert oks_ap(dataset(*people, images=3), [*found, ghost], COCO_PERSON)["AP"] == pytest.approx(2 / 3)


def test_people_without_joints_and_crowds_are_ignored() -> None:
    bare = person(2, 1, 300, num_keypoints=0) | {"keypoints": [0] * 51}
    crowd = person(3, 1, 300, iscrowd=1)
    truth = person(1, 1, 10)
    figures = oks_ap(dataset(truth, bare, crowd), [detection(truth), detection(crowd)], COCO_PERSON)
    assert figures["AP"] == pytest.approx(1.0)


def test_annotation_number_zero_is_a_person() -> None:
    """COCOeval marks unmatched detections with 0; numbers are given anew."""
    truth = person(0, 1, 10)
    assert oks_ap(dataset(truth), [detection(truth)], COCO_PERSON)["AP"] == pytest.approx(1.0)


def test_joint_count_is_found_where_it_is_not_given() -> None:
    truth = person(1, 1, 10)
    del truth["num_keypoints"]
    assert oks_ap(dataset(truth), [detection(truth)], COCO_PERSON)["AP"] == pytest.approx(1.0)


def test_arguments_are_not_changed() -> None:
    truth = dataset(person(1, 1, 10), person(2, 2, 10))
    results = [detection(entry) for entry in truth["annotations"]]
    before = copy.deepcopy((truth, results))
    oks_ap(truth, results, COCO_PERSON)
    assert (truth, results) == before


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"image_id": 9}, "picture of the ground truth"),
        ({"category_id": 9}, "category 1"),
        ({"keypoints": [1.0] * 6}, "51 numbers"),
        ({"keypoints": [math.nan] * 51}, "finite"),
        ({"score": math.inf}, "finite"),
    ],
)
def test_results_that_do_not_fit_are_refused(change: dict[str, Any], rule: str) -> None:
    truth = person(1, 1, 10)
    with pytest.raises(DataError, match=rule):
        oks_ap(dataset(truth), [{**detection(truth), **change}], COCO_PERSON)


def test_ground_truth_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="9 numbers"):
        oks_ap(dataset(person(1, 1, 10)), [], TRIANGLE)
    bare = person(7, 1, 10)
    del bare["area"]
    with pytest.raises(DataError, match=r"annotation 7.*missing \['area'\]"):
        oks_ap(dataset(bare), [], COCO_PERSON)
    two = dataset() | {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    with pytest.raises(DataError, match="one category"):
        oks_ap(two, [], COCO_PERSON)
