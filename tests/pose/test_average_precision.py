"""Average precision against cases worked out by hand, and against the rules written as loops."""

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from compress.data.keypoints import COCO_PERSON, CROWDPOSE, KeypointSet
from compress.errors import DataError
from compress.pose.average_precision import crowd_pose_ap, oks_ap

MEDIUM, LARGE = 64.0**2, 128.0**2  # areas in pixels
TRIANGLE = KeypointSet("triangle", ("a", "b", "c"), (), (), (0.05, 0.1, 0.2), (0, 1, 2))


def person(number: int, image: int, x: float, area: float = LARGE, **extra: Any) -> dict[str, Any]:
    joints = [value for joint in range(17) for value in (x + 3 * joint, 50 + 5 * joint, 2)]
    side = math.sqrt(area)
    box = [x, 50, side, side]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "keypoints": joints,
        "num_keypoints": 17,
        "area": area,
        "bbox": box,
        "iscrowd": 0,
        **extra,
    }


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
    figures = oks_ap(dataset(*people), [detection(p) for p in people], COCO_PERSON).figures
    assert figures == pytest.approx(dict.fromkeys(("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75"), 1.0))
    assert capsys.readouterr() == ("", "")


def test_half_the_people_found() -> None:
    """Precision is 1 up to recall 0.5: 51 of the 101 recall points 0, .01, ..., 1."""
    people = [person(1, 1, 10), person(2, 2, 10)]
    figures = oks_ap(dataset(*people), [detection(people[0])], COCO_PERSON).figures
    assert figures["AP"] == pytest.approx(51 / 101)
    assert figures["AR"] == pytest.approx(0.5)


def test_a_false_person_that_scores_better_halves_the_precision() -> None:
    truth = person(1, 1, 10)
    figures = oks_ap(dataset(truth), [detection(truth, 0.5), detection(truth, 0.9, shift=1000)], COCO_PERSON).figures
    assert figures["AP"] == pytest.approx(0.5)
    assert figures["AR"] == pytest.approx(1.0)


@pytest.mark.parametrize(("oks", "thresholds"), [(0.97, 10), (0.93, 9), (0.77, 6), (0.73, 5), (0.51, 1), (0.49, 0)])
def test_a_shift_to_an_exact_oks(oks: float, thresholds: int) -> None:
    """All sigmas equal: every joint is equally near, so the person's OKS is that of one joint."""
    even = KeypointSet("even", COCO_PERSON.names, (), (), (0.08,) * 17, COCO_PERSON.grouping_order)
    truth = person(1, 1, 10)
    figures = oks_ap(dataset(truth), [detection(truth, shift=shift_for(oks, LARGE, 0.08))], even).figures
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
    figures = oks_ap(dataset(truth), [moved], TRIANGLE).figures
    assert figures["AR"] == pytest.approx(0.6)  # OKS 0.78: thresholds .50 to .75


def test_no_results_score_zero_and_empty_ranges_are_nan() -> None:
    figures = oks_ap(dataset(person(1, 1, 10, MEDIUM)), [], COCO_PERSON).figures
    assert math.isnan(figures.pop("APL"))
    assert set(figures.values()) == {0.0}
    assert all(math.isnan(value) for value in oks_ap(dataset(), [], COCO_PERSON).figures.values())


def test_pictures_without_detections_and_without_people_count() -> None:
    people = [person(1, 1, 10), person(2, 2, 10)]
    ghost = {**detection(people[0], 0.95), "image_id": 3}
    found = [detection(p) for p in people]
    assert oks_ap(dataset(*people, images=3), found[:1], COCO_PERSON).figures["AR"] == pytest.approx(0.5)
    # The ghost is first of three: precision 1/2 at the first hit, 2/3 at the second, made monotone: 2/3.
    assert oks_ap(dataset(*people, images=3), [*found, ghost], COCO_PERSON).figures["AP"] == pytest.approx(2 / 3)


def test_people_without_joints_and_crowds_are_ignored() -> None:
    bare = person(2, 1, 300, num_keypoints=0) | {"keypoints": [0] * 51}
    crowd = person(3, 1, 300, iscrowd=1)
    truth = person(1, 1, 10)
    figures = oks_ap(dataset(truth, bare, crowd), [detection(truth), detection(crowd)], COCO_PERSON).figures
    assert figures["AP"] == pytest.approx(1.0)


def test_annotation_number_zero_is_a_person() -> None:
    """COCOeval marks unmatched detections with 0; numbers are given anew."""
    truth = person(0, 1, 10)
    assert oks_ap(dataset(truth), [detection(truth)], COCO_PERSON).figures["AP"] == pytest.approx(1.0)


def test_joint_count_is_found_where_it_is_not_given() -> None:
    truth = person(1, 1, 10)
    del truth["num_keypoints"]
    assert oks_ap(dataset(truth), [detection(truth)], COCO_PERSON).figures["AP"] == pytest.approx(1.0)


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


def test_a_person_without_a_crowd_flag_is_no_crowd() -> None:
    truth = person(1, 1, 10)
    for flag in ({}, {"iscrowd": None}):
        bare = {key: value for key, value in truth.items() if key != "iscrowd"} | flag
        assert oks_ap(dataset(bare), [detection(truth)], COCO_PERSON).figures["AP"] == pytest.approx(1.0)


def test_standard_error_of_a_coin() -> None:
    """Half of 100 pictures are found, no false ones: a sample's AP is the share of the 101 recalls it reaches."""
    people = [person(number, number, 10) for number in range(1, 101)]
    results = [detection(p) for p in people[::2]]
    found = oks_ap(dataset(*people, images=100), results, COCO_PERSON, resamples=100)
    assert found.figures["AP"] == pytest.approx(51 / 101)
    rng = np.random.default_rng(0)
    recalls = [sum(image % 2 == 0 for image in rng.integers(0, 100, 100)) / 100 for _ in range(100)]
    reached = [np.mean(np.linspace(0, 1, 101) <= recall) for recall in recalls]
    assert found.samples == pytest.approx(reached)
    assert found.standard_error == pytest.approx(np.std(reached, ddof=1))
    assert found.standard_error == pytest.approx(math.sqrt(0.5 * 0.5 / 100), rel=0.25)
    assert found == oks_ap(dataset(*people, images=100), results, COCO_PERSON, resamples=100)


# --- CrowdPose, and a plain implementation of the rules --------------------------------------------------------------


@dataclass
class Verdict:
    """One detection of one picture at one threshold."""

    score: float
    right: bool
    counts: bool


def plain_oks(truth: dict[str, Any], joints: list[float], sigmas: tuple[float, ...], area: float) -> float:
    """Mean of exp(-d² / (2 · area · (2σ)²)) over labelled joints; without any, d is the way into the box, doubled."""
    total, count = 0.0, 0
    x0, y0, width, height = truth["bbox"]
    nobody = not any(truth["keypoints"][2::3])
    for joint, sigma in enumerate(sigmas):
        x, y, label = truth["keypoints"][3 * joint : 3 * joint + 3]
        dx, dy = joints[3 * joint] - x, joints[3 * joint + 1] - y
        if nobody:
            dx = max(0, x0 - width - joints[3 * joint]) + max(0, joints[3 * joint] - x0 - 2 * width)
            dy = max(0, y0 - height - joints[3 * joint + 1]) + max(0, joints[3 * joint + 1] - y0 - 2 * height)
        elif label == 0:
            continue
        total += math.exp(-(dx**2 + dy**2) / (2 * area * (2 * sigma) ** 2))
        count += 1
    return total / count


def plain_match(people: list[dict[str, Any]], found: list[dict[str, Any]], threshold: float) -> list[Verdict]:
    """The best 20 detections choose in turn: the nearest free person, else the nearest that is ignored."""
    verdicts = []
    free = set(range(len(people)))
    for entry in sorted(found, key=lambda entry: -entry["score"])[:20]:
        best: dict[bool, tuple[float, int]] = {}
        for number in sorted(free):
            truth = people[number]
            ignored = bool(truth["iscrowd"]) or not any(truth["keypoints"][2::3])
            area = 0.53 * truth["bbox"][2] * truth["bbox"][3]
            oks = plain_oks(truth, entry["keypoints"], CROWDPOSE.sigmas, area)
            if oks >= min(threshold, 1 - 1e-10) and (ignored not in best or oks >= best[ignored][0]):
                best[ignored] = oks, number
        if best:
            _, number = best.get(False) or best[True]
            if not people[number]["iscrowd"]:
                free.remove(number)
        verdicts.append(Verdict(entry["score"], False in best, False in best or True not in best))
    return verdicts


def plain_figures(coco: dict[str, Any], results: list[dict[str, Any]], images: list[int]) -> tuple[Any, Any]:
    """Precision averaged over recall 0, .01, ..., 1, and recall: of each threshold .50, .55, ..., .95."""
    people = {image: [a for a in coco["annotations"] if a["image_id"] == image] for image in images}
    found = {image: [r for r in results if r["image_id"] == image] for image in images}
    total = sum(not a["iscrowd"] and any(a["keypoints"][2::3]) for image in images for a in people[image])
    if not total:
        return [math.nan] * 10, [math.nan] * 10
    precisions, recalls = [], []
    for threshold in np.linspace(0.5, 0.95, 10):
        verdicts = [v for image in sorted(images) for v in plain_match(people[image], found[image], threshold)]
        counted = [v for v in sorted(verdicts, key=lambda v: -v.score) if v.counts]
        points, right = [], 0
        for rank, verdict in enumerate(counted, start=1):
            right += verdict.right
            points.append((right / total, right / rank))
        levels = [
            max((precision for recall, precision in points if recall >= level), default=0.0)
            for level in np.linspace(0, 1, 101)
        ]
        precisions.append(sum(levels) / 101)
        recalls.append(right / total)
    return precisions, recalls


def plain_crowd_pose(coco: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    images = [image["id"] for image in coco["images"]]
    precisions, recalls = plain_figures(coco, results, images)
    figures = {
        "AP": sum(precisions) / 10,
        "AP50": precisions[0],
        "AP75": precisions[5],
        "AR": sum(recalls) / 10,
        "AR50": recalls[0],
        "AR75": recalls[5],
    }
    for name, kind in (("AP_easy", 0), ("AP_medium", 1), ("AP_hard", 2)):
        chosen = [i["id"] for i in coco["images"] if (i["crowdIndex"] >= 0.2) + (i["crowdIndex"] >= 0.8) == kind]
        figures[name] = sum(plain_figures(coco, results, chosen)[0]) / 10
    return figures


def crowd(rng: np.random.Generator) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A few pictures with people, some of them crowds, without joints or alike; good, bad and doubled detections."""
    ids = rng.permutation(100)[: rng.integers(1, 5)].tolist()
    images = [{"id": i, "crowdIndex": float(rng.choice([0, 0.1999, 0.2, 0.5, 0.7999, 0.8, 1]))} for i in ids]
    people: list[dict[str, Any]] = []
    results = []
    coarse = rng.random() < 0.5  # scores that tie
    for image in ids:
        for _ in range(rng.integers(0, 5)):
            joints = np.column_stack([rng.uniform(0, 100, (14, 2)), rng.choice([0, 1, 2], 14)])
            joints[joints[:, 2] == 0] = 0
            if rng.random() < 0.15:
                joints[:] = 0
            box = [*rng.uniform(0, 60, 2).tolist(), *rng.uniform(20, 100, 2).tolist()]
            if people and rng.random() < 0.1:
                joints, box = np.reshape(people[-1]["keypoints"], (14, 3)), people[-1]["bbox"]
            people.append(
                {
                    "id": len(people),
                    "image_id": image,
                    "category_id": 1,
                    "iscrowd": int(rng.random() < 0.1),
                    "keypoints": joints.ravel().tolist(),
                    "bbox": box,
                }
            )
        near = [p for p in people if p["image_id"] == image] or people[-1:]
        for _ in range(rng.choice([0, 1, 3, 6, 24], p=[0.2, 0.2, 0.3, 0.27, 0.03])):
            joints = rng.uniform(0, 100, (14, 3))
            if near and rng.random() < 0.8:
                origin = np.reshape(near[rng.integers(len(near))]["keypoints"], (14, 3))
                joints = origin + rng.normal(0, rng.choice([0, 1, 3, 6, 10]), (14, 1))
            score = float(rng.integers(1, 4)) if coarse else float(rng.random())
            results.append({"image_id": image, "category_id": 1, "keypoints": joints.ravel().tolist(), "score": score})
    return {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}, results


def test_crowd_pose_is_the_plain_one() -> None:
    rng = np.random.default_rng(0)
    known = dict.fromkeys(("AP_easy", "AP_medium", "AP_hard"), 0)
    for _ in range(300):
        coco, results = crowd(rng)
        wanted = plain_crowd_pose(coco, results)
        assert crowd_pose_ap(coco, results).figures == pytest.approx(wanted, nan_ok=True, abs=1e-9)
        for name in known:
            known[name] += 0 < wanted[name] < 1
    assert min(known.values()) > 60


def crowd_person(number: int, image: int, **extra: Any) -> dict[str, Any]:
    joints = [value for joint in range(14) for value in (20 + 3 * joint, 50 + 5 * joint, 2)]
    box = [10, 40, 60, 90]
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "keypoints": joints,
        "bbox": box,
        **extra,
    }


def crowd_dataset(*crowding: Any) -> dict[str, Any]:
    """One person on each picture."""
    return {
        "images": [{"id": image, "crowdIndex": value} for image, value in enumerate(crowding, start=1)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [crowd_person(image, image) for image in range(1, len(crowding) + 1)],
    }


def test_crowding_decides_the_kind_of_a_picture(capsys: pytest.CaptureFixture[str]) -> None:
    """Found are the people of the first, third and fifth picture, one of each kind: half of easy, medium and hard."""
    coco = crowd_dataset(0.0, 0.19, 0.2, 0.79, 0.8, 1.0)
    results = [detection(coco["annotations"][image]) for image in (0, 2, 4)]
    before = copy.deepcopy((coco, results))
    figures = crowd_pose_ap(coco, results).figures
    assert list(figures) == ["AP", "AP50", "AP75", "AR", "AR50", "AR75", "AP_easy", "AP_medium", "AP_hard"]
    assert [figures[name] for name in ("AP", "AP_easy", "AP_medium", "AP_hard")] == pytest.approx([51 / 101] * 4)
    assert (coco, results) == before
    assert capsys.readouterr() == ("", "")


def test_a_kind_without_people_is_nan() -> None:
    coco = crowd_dataset(0.5, 0.9)
    coco["annotations"].pop()
    found = crowd_pose_ap(coco, [detection(coco["annotations"][0])], resamples=5)
    figures = found.figures
    assert (figures["AP_medium"], figures["AP"]) == pytest.approx((1.0, 1.0))
    assert math.isnan(figures["AP_easy"])
    assert math.isnan(figures["AP_hard"])
    assert found.standard_error == pytest.approx(0.0)


def test_area_is_a_share_of_the_box() -> None:
    """A shift to OKS 0.77 of area 0.53 · 60 · 90 with equal sigmas passes .50 to .75; `area` in the file is nothing."""
    coco = crowd_dataset(0.5)
    coco["annotations"][0] |= {"keypoints": [50, 60, 2] + [0] * 39, "area": 1e9}
    moved = detection(coco["annotations"][0], shift=shift_for(0.77, 0.53 * 60 * 90, CROWDPOSE.sigmas[0]))
    figures = crowd_pose_ap(coco, [moved]).figures
    assert figures["AR"] == pytest.approx(0.6)
    assert oks_ap(coco, [moved], CROWDPOSE).figures["AR"] == pytest.approx(0.6)


@pytest.mark.parametrize("value", [None, "0.5", True, math.nan, math.inf, -0.1])
def test_a_picture_without_crowd_index_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="image 2: a CrowdPose picture must have a crowdIndex"):
        crowd_pose_ap(crowd_dataset(0.5, value), [])


def test_crowd_pose_ground_truth_that_does_not_fit_is_refused() -> None:
    coco = crowd_dataset(0.5)
    del coco["annotations"][0]["bbox"]
    with pytest.raises(DataError, match=r"annotation 1: a person must have bbox and 42 numbers.*missing \['bbox'\]"):
        crowd_pose_ap(coco, [])
    with pytest.raises(DataError, match="42 numbers"):
        crowd_pose_ap(crowd_dataset(0.5), [{"image_id": 1, "category_id": 1, "keypoints": [1.0] * 51, "score": 1.0}])
