"""Boxes to inputs: against the formulas, and random cut-outs against the recipe's distributions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.data.boxes import (
    PersonAugmentation,
    Region,
    augment_person,
    box_region,
    crop_matrix,
    half_body,
    person_targets,
)
from compress.data.keypoints import COCO_PERSON, KeypointSet
from compress.data.targets import gaussian_heatmaps
from compress.data.transforms import fit_matrix, mirrors
from compress.errors import DataError
from compress.pose.codec import Name, codec_named

Array = NDArray[Any]
STILL = PersonAugmentation(rotation_deg=0, scale=0, flip=0, half_body=0)
UPPER = range(11)  # COCO: nose to wrists


def set_of(*names: str) -> KeypointSet:
    return KeypointSet("set", names, (), (), (0.1,) * len(names), tuple(range(len(names))))


def person(*labelled: int, joints: int = 17, seed: int = 0) -> Array:
    """Joints [K,3] at random places, labelled where named."""
    keypoints = np.zeros((joints, 3), np.float32)
    keypoints[list(labelled), :2] = np.random.default_rng(seed).uniform(50, 250, (len(labelled), 2))
    keypoints[list(labelled), 2] = 2
    return keypoints


def moved(matrix: Array, *points: tuple[float, float]) -> Array:
    return np.array(points) @ matrix[:, :2].T + matrix[:, 2]


# --- region and matrix -----------------------------------------------------------------------------------------------


def test_region_is_the_box_in_the_inputs_proportions_and_enlarged() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        box, enlarge = rng.uniform(1, 300, 4), rng.uniform(1, 2)
        input_hw = int(rng.integers(32, 400)), int(rng.integers(32, 400))
        region = box_region(box, input_hw, enlarge)
        x, y, width, height = box
        assert region.centre_xy == pytest.approx((x + width / 2 - 0.5, y + height / 2 - 0.5))
        if width / height > input_hw[1] / input_hw[0]:
            expected = width, width * input_hw[0] / input_hw[1]
        else:
            expected = height * input_hw[1] / input_hw[0], height
        assert region.size_wh == pytest.approx((enlarge * expected[0], enlarge * expected[1]))


def test_enlarged_by_a_quarter_unless_told() -> None:
    assert box_region((0, 0, 48, 64), (256, 192)) == Region((23.5, 31.5), (60.0, 80.0))


def test_a_box_of_nothing_is_one_pixel() -> None:
    assert box_region((5, 6, 0, 0), (64, 64), 1) == Region((4.5, 5.5), (1.0, 1.0))
    assert box_region((5, 6, 0.5, 20), (64, 64), 1).size_wh == (20.0, 20.0)
    assert box_region((5, 6, 0, 0), (64, 32), 2).size_wh == (2.0, 4.0)
    assert box_region((5, 6, 0, 0), (32, 64), 2).size_wh == (4.0, 2.0)


@pytest.mark.parametrize("box", [(0, 0, np.nan, 4), (np.inf, 0, 4, 4), (0, 0, -1, 4), (0, 0, 4, -1)])
def test_boxes_that_are_none_are_refused(box: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="a box must be finite"):
        box_region(box, (64, 48))


@pytest.mark.parametrize("image_hw", [(64, 48), (100, 333), (333, 100)])
def test_the_whole_picture_as_a_box_is_the_whole_picture(image_hw: tuple[int, int]) -> None:
    """Boxes and pictures share one convention of pixel centres."""
    height, width = image_hw
    matrix = crop_matrix(box_region((0, 0, width, height), (64, 48), enlarge=1), (64, 48))
    np.testing.assert_allclose(matrix, fit_matrix(image_hw, (64, 48)), atol=1e-9)


def test_edges_land_on_edges() -> None:
    """Pixels reach half a pixel beyond their centres: the region's left edge is the input's, at -0.5."""
    region = Region((100.0, 50.0), (30.0, 40.0))
    matrix = crop_matrix(region, (64, 48))
    np.testing.assert_allclose(moved(matrix, (85, 30), (115, 70)), [(-0.5, -0.5), (47.5, 63.5)], atol=1e-9)


def test_turned_clockwise_and_mirrored_about_the_middle() -> None:
    region = Region((100.0, 50.0), (48.0, 64.0))
    turned = crop_matrix(region, (64, 48), 90)
    np.testing.assert_allclose(moved(turned, (100, 50), (110, 50)), [(23.5, 31.5), (23.5, 41.5)], atol=1e-9)
    mirrored = crop_matrix(region, (64, 48), mirrored=True)
    np.testing.assert_allclose(moved(mirrored, (100, 50), (110, 53)), [(23.5, 31.5), (13.5, 34.5)], atol=1e-9)
    assert (mirrors(turned), mirrors(mirrored)) == (False, True)
    for angle in np.linspace(-180, 180, 13):
        np.testing.assert_allclose(moved(crop_matrix(region, (64, 48), angle), (100, 50)), [(23.5, 31.5)], atol=1e-9)


# --- half a body -----------------------------------------------------------------------------------------------------


def box_around(joints_n2: Array) -> Array:
    """HRNet's: the extent of the joints about their mean."""
    size = joints_n2.max(axis=0) - joints_n2.min(axis=0)
    return np.concatenate([joints_n2.mean(axis=0) - size / 2 + 0.5, size])


def shares(keypoints: Array, keypoint_set: KeypointSet = COCO_PERSON, upper: Any = UPPER) -> tuple[float, float]:
    """How often the upper and the lower half are chosen."""
    rng, counts = np.random.default_rng(1), [0, 0]
    labelled = np.flatnonzero(keypoints[:, 2])
    halves = [[k for k in labelled if k in upper], [k for k in labelled if k not in upper]]
    for _ in range(1000):
        box = half_body(keypoints, keypoint_set, rng)
        assert box is not None
        for half, members in enumerate(halves):
            counts[half] += bool(members) and np.allclose(box, box_around(keypoints[members, :2]), atol=1e-3)
    return counts[0] / 1000, counts[1] / 1000


def test_more_than_eight_joints_must_be_labelled() -> None:
    assert half_body(person(*range(8)), COCO_PERSON, np.random.default_rng(0)) is None
    assert half_body(person(), COCO_PERSON, np.random.default_rng(0)) is None
    assert half_body(person(*range(9)), COCO_PERSON, np.random.default_rng(0)) is not None


def test_the_upper_half_in_seven_of_ten() -> None:
    assert shares(person(*range(17))) == (pytest.approx(0.7, abs=0.05), pytest.approx(0.3, abs=0.05))


def test_a_half_of_two_joints_is_never_chosen() -> None:
    assert shares(person(*range(9), 11, 12)) == (1, 0)
    assert shares(person(*range(9))) == (1, 0)


def test_only_the_lower_half_where_two_upper_joints_are_labelled() -> None:
    names = ("nose", "head_top", *(f"knee_{number}" for number in range(8)))
    assert shares(person(*range(10), joints=10), set_of(*names), range(2)) == (0, 1)


def test_the_upper_joints_of_mpii_and_crowdpose() -> None:
    """MPII: 7 to 15 of HRNet's code; CrowdPose: head and neck, shoulders, elbows, wrists."""
    mpii = set_of(
        "right_ankle",
        "right_knee",
        "right_hip",
        "left_hip",
        "left_knee",
        "left_ankle",
        "pelvis",
        "thorax",
        "upper_neck",
        "head_top",
        "right_wrist",
        "right_elbow",
        "right_shoulder",
        "left_shoulder",
        "left_elbow",
        "left_wrist",
    )
    assert sum(shares(person(*range(16), joints=16), mpii, range(7, 16))) == 1
    crowd = set_of(
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
        "head",
        "neck",
    )
    assert sum(shares(person(*range(14), joints=14), crowd, (0, 1, 2, 3, 4, 5, 12, 13))) == 1


def test_a_half_all_in_one_place_still_gives_an_input() -> None:
    keypoints = person(*range(17))
    keypoints[:, :2] = 70, 80
    matrix = augment_person(
        np.random.default_rng(0), keypoints, (0, 0, 9, 9), COCO_PERSON, (64, 48), replace(STILL, half_body=1)
    )
    np.testing.assert_allclose(moved(matrix, (70, 80)), [(23.5, 31.5)], atol=1e-4)


# --- random cut-outs -------------------------------------------------------------------------------------------------


def draws(settings: PersonAugmentation, keypoints: Array, count: int = 3000) -> tuple[Array, Array, Array]:
    """Size against the box's own region, angle in degrees and mirrored, [count] each."""
    rng, box = np.random.default_rng(2), (30, 40, 60, 80)
    matrices = np.array([augment_person(rng, keypoints, box, COCO_PERSON, (64, 48), settings) for _ in range(count)])
    middle = matrices @ np.array([59.5, 79.5, 1])
    if settings.half_body == 0:
        np.testing.assert_allclose(middle, np.tile((23.5, 31.5), (count, 1)), atol=1e-9)
    determinant = np.linalg.det(matrices[:, :, :2])
    factor = np.sqrt(np.abs(determinant))
    angle_deg = np.rad2deg(np.arctan2(matrices[:, 1, 0], matrices[:, 1, 1]))
    return (48 / 75) / factor, angle_deg, determinant < 0


def test_without_augmentation_it_is_the_region() -> None:
    expected = crop_matrix(box_region((30, 40, 60, 80), (64, 48)), (64, 48))
    found = augment_person(np.random.default_rng(0), person(), (30, 40, 60, 80), COCO_PERSON, (64, 48), STILL)
    np.testing.assert_array_equal(found, expected)


def test_scale_is_normal_about_one_and_cut_at_one_spread() -> None:
    size, angle_deg, mirrored = draws(replace(STILL, scale=0.35), person())
    assert size.min() == pytest.approx(0.65)
    assert size.max() == pytest.approx(1.35)
    assert np.median(size) == pytest.approx(1, abs=0.03)
    assert np.mean(np.isclose(size, 0.65) | np.isclose(size, 1.35)) == pytest.approx(0.317, abs=0.03)  # beyond 1 σ
    assert not angle_deg.any()
    assert not mirrored.any()


def test_six_in_ten_are_turned_normally_up_to_two_spreads() -> None:
    size, angle_deg, _ = draws(replace(STILL, rotation_deg=40), person())
    assert np.mean(angle_deg != 0) == pytest.approx(0.6, abs=0.03)
    assert (angle_deg.min(), angle_deg.max()) == (pytest.approx(-80), pytest.approx(80))
    turned = angle_deg[angle_deg != 0]
    assert np.mean(np.abs(turned) < 40) == pytest.approx(0.683, abs=0.03)
    assert np.mean(turned > 0) == pytest.approx(0.5, abs=0.04)
    np.testing.assert_allclose(size, 1)


def test_half_are_mirrored_and_three_in_ten_are_half_a_body() -> None:
    *_, mirrored = draws(replace(STILL, flip=0.5), person())
    assert mirrored.mean() == pytest.approx(0.5, abs=0.03)
    size, _, _ = draws(replace(STILL, half_body=0.3), person(*range(17)))
    assert np.mean(~np.isclose(size, 1)) == pytest.approx(0.3, abs=0.03)
    size, _, _ = draws(replace(STILL, half_body=1), person(*range(8)))
    np.testing.assert_allclose(size, 1)


def test_half_a_body_is_enlarged_by_half() -> None:
    keypoints = person(*UPPER)
    found = augment_person(
        np.random.default_rng(0), keypoints, (0, 0, 9, 9), COCO_PERSON, (64, 48), replace(STILL, half_body=1)
    )
    expected = crop_matrix(box_region(box_around(keypoints[:11, :2]), (64, 48), 1.5), (64, 48))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_same_generator_gives_the_same_cut_out() -> None:
    settings, keypoints = PersonAugmentation(), person(*range(17))
    one, other = (
        augment_person(np.random.default_rng(7), keypoints, (1, 2, 30, 40), COCO_PERSON, (64, 48), settings)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "change", [{"rotation_deg": -1}, {"scale": 1.0}, {"scale": -0.1}, {"flip": 1.1}, {"half_body": -0.1}]
)
def test_settings_out_of_range_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(DataError, match=next(iter(change))):
        replace(PersonAugmentation(), **change)


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ours", "exact"])
def test_targets_are_the_heatmaps_of_one_person_and_weigh_what_is_labelled_and_inside(name: Name) -> None:
    places = [
        (0, 0, 2),
        (47.9, 63.9, 1),
        (20, 30, 0),
        (48, 10, 2),
        (10, 64, 2),
        (-0.1, 10, 2),
        (10, 20, 2),
        (10, -9, 1),
    ]
    keypoints = np.array(places, np.float32)
    maps, weight = person_targets(keypoints, (64, 48), 4, codec_named(name))
    assert (maps.shape, maps.dtype, weight.dtype) == ((8, 16, 12), np.float32, np.float32)
    assert weight.tolist() == [1, 1, 0, 0, 0, 0, 1, 0]
    np.testing.assert_array_equal(maps, gaussian_heatmaps(keypoints[None], (64, 48), 4, codec_named(name)))
    assert (maps.max(axis=(1, 2)) > 0.8).tolist() == (weight > 0).tolist()


def test_a_person_without_joints_in_the_input_weighs_nothing() -> None:
    maps, weight = person_targets(np.zeros((5, 3), np.float32), (64, 48), 4, codec_named("ours"))
    assert not maps.any()
    assert weight.tolist() == [0] * 5
