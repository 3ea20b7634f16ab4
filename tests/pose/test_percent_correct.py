"""PCKh and PCK against the same rules written as loops."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.data.keypoints import COCO_PERSON, LSP, MPII, KeypointSet
from compress.errors import DataError
from compress.pose.percent_correct import THRESHOLDS, PercentCorrect, pck, pckh, torso_lengths

Array = NDArray[Any]


# --- the plain implementation ----------------------------------------------------------------------------------------


def plain_share(
    predicted: Array, truth: Array, labelled: Array, lengths: Array, joints: list[int], threshold: float
) -> float:
    """Found labels of these joints as a share of all of them."""
    found = labels = 0
    for person, length in enumerate(lengths):
        if not (math.isfinite(length) and length > 0):
            continue
        for joint in joints:
            if labelled[person, joint] > 0:
                labels += 1
                distance = math.dist(predicted[person, joint], truth[person, joint])
                found += distance / length <= threshold
    return found / labels if labels else math.nan


def plain(
    predicted: Array, truth: Array, labelled: Array, lengths: Array, keypoints: KeypointSet, threshold: float
) -> dict[str, Any]:
    joints = [k for k, name in enumerate(keypoints.names) if name not in ("pelvis", "thorax")]
    curve = [plain_share(predicted, truth, labelled, lengths, joints, t / 100) for t in range(51)]
    usable = [math.isfinite(length) and length > 0 for length in lengths]
    return {
        "mean": plain_share(predicted, truth, labelled, lengths, joints, threshold),
        "joints": {
            name: plain_share(predicted, truth, labelled, lengths, [k], threshold)
            for k, name in enumerate(keypoints.names)
        },
        "curve": curve,
        "area": sum(curve) / 51,
        "persons": sum(usable),
        "left_out": len(lengths) - sum(usable),
    }


def check(found: PercentCorrect, wanted: dict[str, Any]) -> None:
    same = {"nan_ok": True, "rel": 1e-12, "abs": 1e-12}
    assert found.mean == pytest.approx(wanted["mean"], **same)
    assert list(found.joints) == list(wanted["joints"])
    assert list(found.joints.values()) == pytest.approx(list(wanted["joints"].values()), **same)
    assert found.curve == pytest.approx(wanted["curve"], **same)
    assert found.area == pytest.approx(wanted["area"], **same)
    assert (found.persons, found.left_out) == (wanted["persons"], wanted["left_out"])
    assert math.isnan(found.standard_error)


def scene(rng: np.random.Generator, keypoints: KeypointSet) -> tuple[Array, Array, Array, Array]:
    """Predicted, truth, labelled, lengths: whole pixels and round lengths half of the time, so that ties happen."""
    people, joints = int(rng.integers(0, 5)), len(keypoints)
    truth = rng.uniform(0, 100, (people, joints, 2))
    predicted = truth + rng.normal(0, rng.choice([0, 1, 10]), truth.shape)
    lengths = rng.uniform(1, 50, people)
    if rng.random() < 0.5:
        truth, predicted, lengths = truth.round(), predicted.round(), rng.choice([5.0, 10.0, 20.0], people)
    labelled = rng.choice([0, 1, 2], (people, joints), p=[0.3, 0.3, 0.4])
    labelled[:, rng.random(joints) < 0.2] = 0
    truth[labelled == 0] = rng.choice([-1, 0, np.nan, np.inf, 1e300])
    predicted[rng.random((people, joints)) < 0.1] = np.nan
    return predicted, truth, labelled, lengths


def test_pckh_is_the_plain_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        predicted, truth, labelled, lengths = scene(rng, MPII)
        threshold = float(rng.choice([0.1, 0.5]))
        check(
            pckh(predicted, truth, labelled, lengths, threshold=threshold),
            plain(predicted, truth, labelled, lengths, MPII, threshold),
        )


def test_pck_is_the_plain_one() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        predicted, truth, labelled, lengths = scene(rng, LSP)
        lengths[rng.random(len(lengths)) < 0.2] = rng.choice([0, -3, np.nan, np.inf])
        threshold = float(rng.choice([0.1, 0.2]))
        check(
            pck(predicted, truth, labelled, LSP, lengths, threshold=threshold),
            plain(predicted, truth, labelled, lengths, LSP, threshold),
        )


def test_pck_measures_in_torsos() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        predicted, truth, labelled, _ = scene(rng, LSP)
        lengths = np.full(len(truth), math.nan)
        for person in range(len(truth)):
            shoulder, hip = LSP.names.index("left_shoulder"), LSP.names.index("right_hip")
            if labelled[person, shoulder] and labelled[person, hip]:
                if rng.random() < 0.1:
                    truth[person, shoulder] = truth[person, hip]
                lengths[person] = math.dist(truth[person, shoulder], truth[person, hip])
        assert torso_lengths(truth, labelled, LSP) == pytest.approx(lengths, nan_ok=True)
        check(pck(predicted, truth, labelled, LSP), plain(predicted, truth, labelled, lengths, LSP, 0.2))


# --- cases worked out by hand ----------------------------------------------------------------------------------------


def perfect(people: int, keypoints: KeypointSet) -> tuple[Array, Array]:
    truth = np.random.default_rng(3).uniform(0, 100, (people, len(keypoints), 2))
    return truth, np.ones((people, len(keypoints)))


def test_the_threshold_belongs_to_the_found() -> None:
    """HRNet: scaled error <= threshold. 5 of 10 pixels is found at 0.5, 5.001 is not."""
    truth, visible = perfect(2, MPII)
    truth = truth.round()
    moved = truth + np.array([[[5.0, 0.0]], [[0.0, 5.001]]])
    assert pckh(moved, truth, visible, [10, 10]).mean == 0.5
    assert pckh(moved, truth, visible, [10, 10], threshold=0.51).mean == 1.0
    assert pckh(truth, truth, visible, [10, 10]).curve == (1.0,) * len(THRESHOLDS)


def test_pelvis_and_thorax_have_figures_but_no_weight() -> None:
    truth, visible = perfect(4, MPII)
    moved = truth.copy()
    moved[:, [MPII.names.index("pelvis"), MPII.names.index("thorax")]] += 1000
    found = pckh(moved, truth, visible, np.full(4, 10.0), resamples=20)
    assert (found.mean, found.area, found.standard_error) == (1.0, 1.0, 0.0)
    assert (found.joints["pelvis"], found.joints["thorax"], found.joints["left_hip"]) == (0.0, 0.0, 1.0)


def test_the_mean_weighs_joints_by_their_labels() -> None:
    """Ankle: 3 labels, 0 found. Head: 1 label, found. 1/4, not (0 + 1)/2."""
    truth, _ = perfect(3, LSP)
    labelled = np.zeros((3, 14))
    labelled[:, 0], labelled[0, 13] = 1, 1
    moved = truth.copy()
    moved[:, 0] += 100
    found = pck(moved, truth, labelled, LSP, np.full(3, 10.0))
    assert found.mean == 0.25
    assert (found.joints["right_ankle"], found.joints["head_top"]) == (0.0, 1.0)
    assert math.isnan(found.joints["neck"])


def test_the_curve_and_its_area() -> None:
    """Every joint is 0.255 lengths away: 0 at 0 to 0.25, 1 at 0.26 to 0.50, which is 25 of 51 points."""
    truth, labelled = perfect(2, LSP)
    found = pck(truth + np.array([2.55, 0.0]), truth, labelled, LSP, [10.0, 10.0])
    assert found.curve == (0.0,) * 26 + (1.0,) * 25
    assert found.area == pytest.approx(25 / 51)
    assert found.mean == 0.0


def test_who_has_no_torso_is_counted() -> None:
    truth, labelled = perfect(4, LSP)
    shoulder, hip = LSP.names.index("left_shoulder"), LSP.names.index("right_hip")
    labelled[0, shoulder] = 0
    labelled[1, hip] = 0
    truth[2, hip] = truth[2, shoulder]
    found = pck(truth, truth, labelled, LSP)
    assert (found.mean, found.persons, found.left_out) == (1.0, 1, 3)
    nobody = pck(truth[:3], truth[:3], labelled[:3], LSP, resamples=10)
    assert (nobody.persons, nobody.left_out) == (0, 3)
    assert math.isnan(nobody.mean)
    assert math.isnan(nobody.area)
    assert math.isnan(nobody.standard_error)


def test_the_standard_error_is_that_of_a_share() -> None:
    """One label each, half of the persons found: √(p(1-p)/n) = 0.025, to within a bootstrap of 400."""
    truth, _ = perfect(400, LSP)
    labelled = np.zeros((400, 14))
    labelled[:, 3] = 1
    moved = truth.copy()
    moved[::2] += 1000
    lengths = np.full(400, 10.0)
    found = pck(moved, truth, labelled, LSP, lengths, resamples=400)
    assert found.mean == 0.5
    assert found.standard_error == pytest.approx(0.025, rel=0.15)
    assert found.standard_error == pck(moved, truth, labelled, LSP, lengths, resamples=400).standard_error


def test_the_standard_error_is_that_of_the_mean() -> None:
    """Of the samples' means, each over joints that weigh by their labels. Pelvis and person 2, without a label, do not
    count; samples of nobody else have no mean."""
    rng = np.random.default_rng(6)
    predicted, truth = rng.uniform(0, 10, (2, 3, 16, 2))
    visible = rng.integers(0, 2, (3, 16))
    visible[2] = 0
    visible[:, MPII.names.index("pelvis")] = 1
    scored = [k for k, name in enumerate(MPII.names) if name not in ("pelvis", "thorax")]
    draws = np.random.default_rng(0)
    means = []
    for _ in range(60):
        people = draws.integers(0, 3, 3)
        means.append(plain_share(predicted[people], truth[people], visible[people], np.full(3, 9.0), scored, 0.5))
    assert any(math.isnan(mean) for mean in means)
    wanted = np.std([mean for mean in means if not math.isnan(mean)], ddof=1)
    found = pckh(predicted, truth, visible, np.full(3, 9.0), resamples=60)
    assert found.standard_error == pytest.approx(wanted)
    assert math.isnan(pckh(predicted, truth, visible, np.full(3, 9.0), resamples=1).standard_error)


def test_arguments_are_not_changed_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    predicted, truth, labelled, lengths = scene(np.random.default_rng(5), MPII)
    arguments = (predicted, truth, labelled, lengths)
    before = [array.copy() for array in arguments]
    pckh(predicted, truth, labelled, lengths, resamples=5)
    pck(predicted[:, :14], truth[:, :14], labelled[:, :14], LSP, resamples=5)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, arguments, strict=True))
    assert capsys.readouterr() == ("", "")


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.0, -1.0, math.nan, math.inf])
def test_a_head_size_must_be_one(size: float) -> None:
    truth, visible = perfect(2, MPII)
    with pytest.raises(DataError, match="PCKh, person 1: a head size must be finite and above 0"):
        pckh(truth, truth, visible, [10.0, size])


def test_shapes_must_fit() -> None:
    truth, labelled = perfect(2, LSP)
    for arguments, words in (
        ((truth[:1], truth, labelled, [1, 1]), r"predicted joints must have the shape \[2, 14, 2\].*\[1, 14, 2\]"),
        ((truth, truth, labelled[:, :3], [1, 1]), r"labels must have the shape \[2, 14\]"),
        ((truth, truth, labelled, [1, 1, 1]), r"reference lengths must have the shape \[2\] \(found \[3\]\)"),
        ((truth, truth[:, :5], labelled, [1, 1]), r"labelled joints must have the shape \[2, 14, 2\]"),
        ((truth, 3.0, labelled, [1, 1]), "labelled joints must have the shape"),
    ):
        predicted, true, labels, lengths = arguments
        with pytest.raises(DataError, match=words):
            pck(predicted, true, labels, LSP, lengths)


def test_joints_must_be_numbers() -> None:
    truth, labelled = perfect(2, LSP)
    broken = truth.copy()
    broken[1, 13, 0] = math.nan
    with pytest.raises(DataError, match="person 1, head_top: a labelled joint must be finite"):
        pck(truth, broken, labelled, LSP)
    broken[1, 13, 0] = -math.inf
    with pytest.raises(DataError, match="predicted joints must be finite"):
        pck(broken, truth, labelled, LSP)


def test_a_torso_needs_its_joints() -> None:
    head = KeypointSet("head", ("a", "b"), (), (), (0.1, 0.1), (0, 1))
    joints, labelled = np.zeros((1, 2, 2)), np.ones((1, 2))
    with pytest.raises(DataError, match="joints of head: a torso diameter needs"):
        pck(joints, joints, labelled, head)
    assert pck(joints, joints, labelled, head, [1.0]).mean == 1.0
    truth, labelled = perfect(1, COCO_PERSON)
    assert pck(truth, truth, labelled, COCO_PERSON).persons == 1
