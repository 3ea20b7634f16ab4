"""Suppression of poses against a plain implementation of the same rules, written as loops."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from reference_pose_nms import plain_hard, plain_oks, plain_parallel, plain_soft

from compress.data.keypoints import COCO_PERSON
from compress.errors import DataError
from compress.pose.decode.pose_nms import hard_nms, oks_matrix, parallel_nms, soft_nms
from compress.pose.decode.poses import Poses

Array = NDArray[Any]
SIGMAS = (0.03, 0.08, 0.06, 0.1)


# --- scenes ----------------------------------------------------------------------------------------------------------


def scene(rng: np.random.Generator, people: int, poses: int) -> tuple[Poses, Array]:
    """Poses strewn around people: some equal, some joints missing, some boxes without area, some scores 0 or equal."""
    bodies = rng.uniform(0, 200, (max(people, 1), 1, 2)) + rng.normal(0, 30, (max(people, 1), len(SIGMAS), 2))
    who = rng.integers(0, max(people, 1), poses)
    spread = rng.choice([0.0, 0.5, 3.0, 15.0], (poses, 1, 1))
    keypoints = np.empty((poses, len(SIGMAS), 3), np.float32)
    keypoints[:, :, :2] = bodies[who] + spread * rng.normal(0, 1, (poses, len(SIGMAS), 2))
    keypoints[:, :, 2] = rng.uniform(0, 1, (poses, len(SIGMAS)))
    keypoints[rng.random((poses, len(SIGMAS))) < 0.1] = 0
    areas = rng.choice([0.0, 900.0, 4000.0], poses, p=[0.1, 0.3, 0.6]) * rng.choice([1.0, 1.3], poses)
    scores = rng.random(poses) * (rng.random(poses) < 0.95)
    return Poses(keypoints, scores.astype(np.float32)), areas.astype(np.float32)


def plain_matrix(poses: Poses, areas: Array) -> Array:
    joints = poses.keypoints_pk3
    rows = range(len(areas))
    return np.array([[plain_oks(joints[i], joints[j], areas[i], areas[j], SIGMAS) for j in rows] for i in rows])


def scenes(seed: int, count: int) -> Any:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng, *scene(rng, int(rng.integers(1, 5)), int(rng.integers(0, 13)))


def assert_same(found: tuple[Array, Array], expected: tuple[list[int], list[float]]) -> None:
    assert found[0].tolist() == expected[0]
    assert found[1].dtype == np.float32
    np.testing.assert_allclose(found[1], np.array(expected[1]), atol=2e-6)


# --- against the plain implementation --------------------------------------------------------------------------------


def test_oks_is_the_formula() -> None:
    for _, poses, areas in scenes(0, 300):
        oks = oks_matrix(poses.keypoints_pk3, areas, SIGMAS)
        assert oks.dtype == np.float32
        np.testing.assert_allclose(oks, plain_matrix(poses, areas).reshape(oks.shape), atol=2e-6)
        np.testing.assert_array_equal(oks, oks.T)
        np.testing.assert_array_equal(np.diag(oks), np.ones(len(areas)))


def test_oks_of_small_people_in_a_large_picture() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        keypoints = (8000 + rng.normal(0, 1, (3, 4, 3))).astype(np.float32)
        areas = np.full(3, 100, np.float32)
        found = oks_matrix(keypoints, areas, SIGMAS)
        np.testing.assert_allclose(found, plain_matrix(Poses(keypoints, areas), areas), atol=2e-6)


def test_hard_is_the_loop() -> None:
    for rng, poses, areas in scenes(2, 1500):
        threshold = float(rng.choice([0.3, 0.5, 0.9]))
        if np.abs(plain_matrix(poses, areas) - threshold).min(initial=1) > 1e-5:  # float32 decides like double
            expected = plain_hard(poses.keypoints_pk3, poses.scores_p, areas, SIGMAS, threshold)
            assert_same(hard_nms(poses, areas, SIGMAS, threshold), expected)


@pytest.mark.parametrize("kind", ["gaussian", "linear"])
def test_soft_is_the_loop(kind: Any) -> None:
    for rng, poses, areas in scenes(3, 1200):
        threshold, people = float(rng.choice([0.3, 0.9])), int(rng.integers(1, 15))
        expected = plain_soft(poses.keypoints_pk3, poses.scores_p, areas, SIGMAS, threshold, kind, people)
        assert_same(soft_nms(poses, areas, SIGMAS, threshold, kind, people), expected)


def test_parallel_is_the_loop() -> None:
    for rng, poses, areas in scenes(4, 1500):
        people = int(rng.integers(1, 15))
        expected = plain_parallel(poses.keypoints_pk3, poses.scores_p, areas, SIGMAS, people)
        assert_same(parallel_nms(poses, areas, SIGMAS, people), expected)


def test_ties_of_scores_and_poses() -> None:
    """Poses are equal or infinitely far apart: what is equal by the rules is equal in every arithmetic."""
    rng = np.random.default_rng(5)
    sigmas = (0.08,) * 4
    for _ in range(700):
        count = int(rng.integers(1, 10))
        keypoints = np.zeros((count, 4, 3), np.float32)
        keypoints[:, :, 0] = rng.integers(0, 3, (count, 1)) * 1000
        scores = rng.choice([0.0, 0.25, 0.5], count).astype(np.float32)
        areas = np.full(count, rng.choice([0, 1024]), np.float32)
        poses = Poses(keypoints, scores)
        soft = soft_nms(poses, areas, sigmas, 0.5, max_people=5)
        assert_same(soft, plain_soft(keypoints, scores, areas, sigmas, 0.5, "gaussian", 5))
        soft = soft_nms(poses, areas, sigmas, 0.5, "linear", 5)
        assert_same(soft, plain_soft(keypoints, scores, areas, sigmas, 0.5, "linear", 5))
        assert_same(hard_nms(poses, areas, sigmas, 0.5), plain_hard(keypoints, scores, areas, sigmas, 0.5))
        assert_same(parallel_nms(poses, areas, sigmas, 5), plain_parallel(keypoints, scores, areas, sigmas, 5))


def test_more_poses_than_a_block_holds() -> None:
    rng = np.random.default_rng(6)
    bodies = rng.uniform(0, 600, (30, 1, 2)) + rng.normal(0, 30, (30, 17, 2))
    keypoints = np.ones((330, 17, 3), np.float32)
    keypoints[:, :, :2] = bodies[rng.integers(0, 30, 330)] + rng.normal(0, 4, (330, 17, 2))
    poses = Poses(keypoints, rng.random(330).astype(np.float32))
    areas = rng.uniform(2000, 9000, 330).astype(np.float32)
    sigmas = COCO_PERSON.sigmas
    assert_same(hard_nms(poses, areas, sigmas, 0.7), plain_hard(keypoints, poses.scores_p, areas, sigmas, 0.7))
    assert_same(
        soft_nms(poses, areas, sigmas), plain_soft(keypoints, poses.scores_p, areas, sigmas, 0.9, "gaussian", 20)
    )
    assert_same(parallel_nms(poses, areas, sigmas, 60), plain_parallel(keypoints, poses.scores_p, areas, sigmas, 60))


# --- single rules ----------------------------------------------------------------------------------------------------

Nms = Callable[..., tuple[Array, Array]]
EVERY_NMS = pytest.mark.parametrize("nms", [hard_nms, soft_nms, parallel_nms])


def along(*places: float, score: float = 0.5) -> Poses:
    """Poses whose joints all lie at (place, 0); falling scores."""
    keypoints = np.zeros((len(places), 4, 3), np.float32)
    keypoints[:, :, 0] = np.array(places)[:, None]
    return Poses(keypoints, np.array([score / (1 + number) for number in range(len(places))], np.float32))


def half_alike() -> Poses:
    """Two joints in the same place, two infinitely far apart: OKS is exactly 0.5."""
    poses = along(0, 0)
    poses.keypoints_pk3[1, 2:, 0] = 1e30
    return poses


@EVERY_NMS
def test_nobody_and_one(nms: Nms) -> None:
    assert [len(part) for part in nms(along(), [], SIGMAS)] == [0, 0]
    index, scores = nms(along(7), [100], SIGMAS)
    assert (index.tolist(), scores.tolist()) == ([0], [0.5])


@EVERY_NMS
def test_arguments_are_not_changed(nms: Nms) -> None:
    poses, areas = scene(np.random.default_rng(7), 2, 9)
    before = poses.keypoints_pk3.copy(), poses.scores_p.copy(), areas.copy()
    nms(poses, areas, SIGMAS)
    for now, then in zip((poses.keypoints_pk3, poses.scores_p, areas), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_boxes_without_area_are_alike_only_where_the_poses_are_equal() -> None:
    assert oks_matrix(along(3, 3, 3.001).keypoints_pk3, [0, 0, 0], SIGMAS).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]


def test_thresholds_are_exclusive_for_hard_and_inclusive_for_linear() -> None:
    poses = half_alike()
    assert hard_nms(poses, [100, 100], SIGMAS, 0.5)[0].tolist() == [0, 1]
    assert hard_nms(poses, [100, 100], SIGMAS, 0.499)[0].tolist() == [0]
    assert soft_nms(poses, [100, 100], SIGMAS, 0.5, "linear")[1].tolist() == [0.5, 0.125]
    assert soft_nms(poses, [100, 100], SIGMAS, 0.501, "linear")[1].tolist() == [0.5, 0.25]


def test_gaussian_decay_by_hand() -> None:
    _, scores = soft_nms(half_alike(), [100, 100], SIGMAS, 0.9)
    assert scores.tolist() == pytest.approx([0.5, 0.25 * math.exp(-0.25 / 0.9)])


def test_a_dropped_pose_drops_no_other() -> None:
    """In a row, each is like its neighbour but not like the next but one."""
    poses, areas, sigmas = along(0, 2, 4), [100] * 3, (0.1,) * 4
    assert oks_matrix(poses.keypoints_pk3, areas, sigmas)[0].tolist() == pytest.approx(
        [math.exp(-(d**2) / (0.04 * 200)) for d in (0, 2, 4)]
    )
    assert hard_nms(poses, areas, sigmas, 0.5)[0].tolist() == [0, 2]


def test_what_is_suppressed_hardly_suppresses_in_parallel() -> None:
    """Equation 10 for the row above: near = exp(-1/2), far = exp(-2)."""
    near, far = math.exp(-0.5), math.exp(-2)
    index, scores = parallel_nms(along(0, 2, 4), [100] * 3, (0.1,) * 4)
    decayed = [0.5, 0.25 * (1 - near), 0.5 / 3 * min(1 - far, (1 - near) / (1 - near))]
    assert index.tolist() == [0, 2, 1]
    assert scores.tolist() == pytest.approx([decayed[0], decayed[2], decayed[1]])


def test_of_equal_poses_one_keeps_its_score_in_parallel() -> None:
    index, scores = parallel_nms(along(5, 5, 5, 900), [100] * 4, SIGMAS)
    assert index.tolist() == [0, 3, 1, 2]
    assert scores.tolist() == [0.5, 0.125, 0, 0]


def test_at_most_max_people_stay() -> None:
    poses = along(*range(0, 2000, 50))
    assert soft_nms(poses, [100] * 40, SIGMAS)[0].tolist() == list(range(20))
    assert parallel_nms(poses, [100] * 40, SIGMAS)[0].tolist() == list(range(20))
    assert len(hard_nms(poses, [100] * 40, SIGMAS)[0]) == 40


@EVERY_NMS
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(nms: Nms, value: float) -> None:
    for change in range(3):
        poses, areas = along(1, 2), np.full(2, 100, np.float32)
        (poses.keypoints_pk3[0, 1], poses.scores_p, areas)[change][1] = value
        with pytest.raises(DataError, match="finite"):
            nms(poses, areas, SIGMAS)


@EVERY_NMS
def test_what_does_not_fit_is_refused(nms: Nms) -> None:
    with pytest.raises(DataError, match="one area per pose"):
        nms(along(1, 2), [100], SIGMAS)
    with pytest.raises(DataError, match="K sigmas"):
        nms(along(1, 2), [100, 100], SIGMAS[:3])
    with pytest.raises(DataError, match="areas not negative"):
        nms(along(1, 2), [100, -1], SIGMAS)
    with pytest.raises(DataError, match="scores must be finite and not negative"):
        nms(along(1, 2, score=-1), [100, 100], SIGMAS)


@pytest.mark.parametrize(
    ("nms", "change"),
    [
        (hard_nms, {"threshold": 0.0}),
        (hard_nms, {"threshold": math.nan}),
        (soft_nms, {"threshold": 1.1}),
        (soft_nms, {"kind": "linaer"}),
        (soft_nms, {"max_people": 0}),
        (parallel_nms, {"max_people": 0}),
    ],
)
def test_settings_out_of_range_are_refused(nms: Nms, change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(change))):
        nms(along(1, 2), [100, 100], SIGMAS, **change)
