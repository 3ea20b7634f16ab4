"""Decoding of part affinity fields against a plain implementation of the same rules, written as loops."""

import math
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference_part_affinity import figures, plain_decode, plain_upsample, scene

from compress.data.keypoints import COCO_PERSON, KeypointSet
from compress.data.limbs import PartLayout, layout_for
from compress.data.part_affinity_targets import part_maps
from compress.errors import DataError
from compress.pose.decode import part_affinity
from compress.pose.decode.part_affinity import PartGrouping, decode, merge_outputs
from compress.pose.decode.poses import Poses

torch.set_num_threads(1)
cv2.setNumThreads(1)

Array = NDArray[Any]
COCO = layout_for(COCO_PERSON)
# Hands, shoulders and a head on a neck that is the mean of the shoulders; the last two limbs only complete people.
JOINTS = KeypointSet("brief", ("head", "l", "r", "lh", "rh"), ((1, 2), (3, 4)), (), (0.1,) * 5, tuple(range(5)))
BRIEF = PartLayout(
    JOINTS,
    ("head", "neck", "l", "r", "lh", "rh"),
    ((0,), (1, 2), (1,), (2,), (3,), (4,)),
    ((1, 2), (1, 3), (1, 0), (2, 4), (3, 5), (0, 4), (0, 5)),
    completing=(5, 6),
)
SIMPLE = layout_for(KeypointSet("simple", ("n", "l", "r"), ((1, 2),), ((0, 1), (0, 2)), (0.1,) * 3, (0, 1, 2)))
CODE = PartGrouping(upsample=8, locate="middle")  # as Lightweight OpenPose's code
EASY = replace(CODE, heat_threshold=0.01, point_threshold=0.0, success_ratio=0.3, min_parts=2, min_score=0.0)


def assert_same(
    heatmaps: Array, fields: Array, layout: PartLayout, grouping: PartGrouping, cells: float = 1e-5
) -> Poses:
    before = heatmaps.copy(), fields.copy()
    poses = decode(heatmaps, fields, layout, grouping)
    np.testing.assert_array_equal(heatmaps, before[0])
    np.testing.assert_array_equal(fields, before[1])
    joints, scores = plain_decode(heatmaps, fields, layout, grouping)
    assert poses.keypoints_pk3.dtype == poses.scores_p.dtype == np.float32
    np.testing.assert_allclose(poses.keypoints_pk3, joints, atol=cells)
    np.testing.assert_allclose(poses.scores_p, scores, rtol=1e-6 if cells <= 1e-5 else 1e-3, atol=1e-5)
    return poses


# --- the plain implementation agrees ---------------------------------------------------------------------------------


def random_grouping(rng: np.random.Generator) -> PartGrouping:
    return PartGrouping(
        upsample=int(rng.choice([1, 2, 3, 4, 8], p=[0.1, 0.3, 0.2, 0.3, 0.1])),
        heat_threshold=float(rng.choice([0.01, 0.1, 0.5])),
        suppression=float(rng.choice([0, 0.2, 0.75, 2])),
        locate="middle",  # of noise: elsewhere a place's last bit decides which pixel of the field is read
        points=int(rng.integers(2, 12)),
        point_threshold=float(rng.choice([0, 0.05, 0.3])),
        success_ratio=float(rng.choice([0, 0.3, 0.5, 0.8])),
        min_parts=int(rng.integers(2, 4)),
        min_score=float(rng.choice([0.0, 0.2, 0.6])),
        most=int(rng.choice([2, 5, 100])),
    )


def test_random_maps() -> None:
    """Noise, sparse bumps and smooth fields: candidates abound, limbs cross, people share parts."""
    people = 0
    for seed in range(600):
        rng = np.random.default_rng(seed)
        layout = (SIMPLE, BRIEF)[seed % 2]
        cells = (int(rng.integers(1, 8)), int(rng.integers(1, 8)))
        heatmaps = rng.random((len(layout.names), *cells)).astype(np.float32) ** int(rng.choice([1, 3, 9]))
        towards = rng.normal(0, 1, (2 * len(layout.limbs), 1, 1))
        fields = (towards + rng.normal(0, rng.choice([0.01, 0.3, 1]), (len(towards), *cells))).astype(np.float32)
        people += len(assert_same(heatmaps, fields, layout, random_grouping(rng)))
    assert people > 450


def test_maps_full_of_ties() -> None:
    """Few values, all exact in binary: plateaus, equal peaks and equal limbs, computed alike in any order.

    Limbs along an axis have unit vectors of 0 and 1; fields are constant so that others tie only with themselves.
    """
    people = 0
    for seed in range(500):
        rng = np.random.default_rng(seed)
        cells = (1, int(rng.integers(1, 9))) if seed % 2 else (int(rng.integers(1, 9)), 1)
        heatmaps = rng.choice([0, 0.25, 0.5, 1], (len(SIMPLE.names), *cells)).astype(np.float32)
        fields = np.broadcast_to(rng.choice([-1, 0.5, 1], (4, 1, 1)), (4, *cells)).astype(np.float32)
        people += len(
            assert_same(
                heatmaps,
                fields,
                SIMPLE,
                replace(EASY, upsample=int(rng.choice([1, 2, 4])), most=int(rng.choice([1, 2, 100]))),
            )
        )
    assert people > 330
    for value in (0.5, 1.0):
        flat = np.full((3, 4, 4), value, np.float32)
        assert_same(flat, np.ones((4, 4, 4), np.float32), SIMPLE, EASY)


def test_cells_that_are_no_numbers_count_as_zero() -> None:
    for seed in range(300):
        rng = np.random.default_rng(seed)
        heatmaps = rng.random((6, 5, 6)).astype(np.float32)
        fields = rng.normal(0.5, 0.3, (14, 5, 6)).astype(np.float32)
        holes = [maps.copy() for maps in (heatmaps, fields)]
        for maps, hole in zip((heatmaps, fields), holes, strict=True):
            bad = rng.random(maps.shape) < 0.1
            maps[bad] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -2e30], int(bad.sum()))
            hole[bad] = 0
        grouping = replace(EASY, upsample=4)
        poses = assert_same(heatmaps, fields, BRIEF, grouping)
        filled = decode(*holes, BRIEF, grouping)
        np.testing.assert_array_equal(poses.keypoints_pk3, filled.keypoints_pk3)
        np.testing.assert_array_equal(poses.scores_p, filled.scores_p)
    nothing = np.full((6, 5, 6), np.nan, np.float32)
    assert len(decode(nothing, np.full((14, 5, 6), np.nan), BRIEF, EASY)) == 0
    huge = np.full((6, 5, 6), 9e29) * (np.random.default_rng(0).random((6, 5, 6)) < 0.2)
    assert np.isfinite(decode(huge, np.full((14, 5, 6), 9e29), BRIEF, EASY).scores_p).all()


@pytest.mark.parametrize("people", [0, 1, 8, 35])
def test_coco_people_and_many_of_them(people: int) -> None:
    for seed in range(2):
        heatmaps, fields = scene(np.random.default_rng(seed), people, COCO, cells=(46 if people > 8 else 30))
        for grouping in (CODE, PartGrouping()):
            poses = assert_same(heatmaps, fields, COCO, grouping, cells=1e-4)
            assert poses.keypoints_pk3.shape[1:] == (17, 3)
            assert len(poses) >= 0.8 * people
            assert (len(poses) == 0) == (people == 0)


def test_more_pairs_than_are_looked_at_together() -> None:
    rng = np.random.default_rng(1)
    heatmaps = rng.random((3, 30, 30)).astype(np.float32)
    fields = rng.normal(0.4, 0.5, (4, 30, 30)).astype(np.float32)
    assert len(assert_same(heatmaps, fields, SIMPLE, replace(EASY, upsample=3, suppression=0))) > 20


@pytest.mark.parametrize("upsample", [1, 2, 3, 4, 5, 8, 16])
def test_every_factor(upsample: int) -> None:
    heatmaps, fields = scene(np.random.default_rng(0), 3, COCO, cells=24)
    for locate in ("middle", "quarter", "peak"):
        grouping = replace(CODE, upsample=upsample, locate=locate)
        assert len(assert_same(heatmaps, fields, COCO, grouping, cells=1e-4)) >= 2


@pytest.mark.parametrize("at_once", [1, 2000, 10000])
def test_maps_are_upsampled_in_any_number_at_a_time(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_affinity, "_PIXELS_AT_ONCE", at_once)
    rng = np.random.default_rng(3)
    heatmaps = rng.random((6, 5, 6)).astype(np.float32)
    assert len(assert_same(heatmaps, rng.normal(0.5, 0.3, (14, 5, 6)).astype(np.float32), BRIEF, EASY)) > 1


def test_more_parts_than_opencv_has_channels() -> None:
    """A hub and 140 spokes on small maps."""
    names = ("hub", *(f"spoke{n}" for n in range(140)))
    spokes = tuple((0, n) for n in range(1, 141))
    wheel = layout_for(KeypointSet("wheel", names, ((1, 2),), spokes, (0.1,) * 141, tuple(range(141))))
    rng = np.random.default_rng(4)
    heatmaps = rng.random((141, 6, 6)).astype(np.float32) ** 3
    fields = rng.normal(0, 1, (280, 6, 6)).astype(np.float32)
    poses = assert_same(heatmaps, fields, wheel, replace(EASY, upsample=1, suppression=0))
    assert (poses.keypoints_pk3[:, -10:, 2] > 0).any()


def test_a_pixel_may_be_hotter_than_every_cell() -> None:
    """Cells signed as the kernel between them is: none has 0.06, the pixel in their middle has more than 0.1."""
    sign = np.array([-1, 1, 1, -1])
    heatmaps = np.zeros((3, 12, 12), np.float32)
    for part, x in ((0, 0), (1, 8)):
        heatmaps[part, 4:8, x : x + 4] = 0.059 * sign[:, None] * sign
        heatmaps[part, 5, x + 1] += 0.0005  # else four pixels are equal but for rounding
    poses = assert_same(heatmaps, everywhere((1, 0), (0, 0), size=12), SIMPLE, replace(CODE, min_parts=2))
    assert len(poses) == 1
    assert poses.keypoints_pk3[0, :2, 2].min() > 0.1


def test_the_upsampling_is_bicubic() -> None:
    """Keys' kernel with a = -0.75 between the middles of cells, the border repeated."""

    def weight(distance: float) -> float:
        t, a = abs(distance), -0.75
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    def matrix(size: int, factor: int) -> Array:
        weights = np.zeros((size * factor, size))
        for fine in range(size * factor):
            at = (fine + 0.5) / factor - 0.5
            for tap in range(math.floor(at) - 1, math.floor(at) + 3):
                weights[fine, min(max(tap, 0), size - 1)] += weight(at - tap)
        return weights

    rng = np.random.default_rng(0)
    for height, width, factor in ((1, 1, 8), (1, 5, 8), (7, 4, 8), (6, 6, 3), (46, 46, 8)):
        maps = rng.normal(0, 1, (height, width)).astype(np.float32)
        expected = matrix(height, factor) @ maps @ matrix(width, factor).T
        np.testing.assert_allclose(plain_upsample(maps, factor), expected, atol=1e-5)


# --- single rules ----------------------------------------------------------------------------------------------------

# Without upsampling a map's cell is a peak's place: the rules can be read off.
PLAIN = PartGrouping(upsample=1, locate="middle", suppression=6, min_parts=2)


def points(*cells: tuple[int, int, int, float], layout: PartLayout = SIMPLE, size: int = 24) -> Array:
    """Heatmaps that are zero except at cells (part, y, x, heat)."""
    heatmaps = np.zeros((len(layout.names), size, size), np.float32)
    for part, y, x, heat in cells:
        heatmaps[part, y, x] = heat
    return heatmaps


def everywhere(*vectors: tuple[float, float], size: int = 24) -> Array:
    """A constant field per limb."""
    return np.broadcast_to(np.array(vectors, np.float32).reshape(-1, 1, 1), (2 * len(vectors), size, size)).copy()


def test_places_are_pixels_of_the_input_over_the_stride() -> None:
    """A Gaussian around input pixel (83, 37), sampled at the cells' middles 8i + 3.5, comes back as (83, 37) / 8."""
    keypoints = np.array([[(83, 37, 2), (123, 37, 2), (0, 0, 0)]], np.float32)
    maps = part_maps(keypoints, SIMPLE, (160, 160), 8)
    poses = decode(maps[:3], maps[4:], SIMPLE, replace(CODE, min_parts=2))
    np.testing.assert_array_equal(poses.keypoints_pk3[0, :2, :2] * 8, keypoints[0, :2, :2])
    assert poses.keypoints_pk3[0, 2].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("upsample", "most_px"), [(1, 0.001), (2, 0.3), (4, 0.45), (8, 0.45)])
def test_the_peak_of_a_gaussian_is_found_at_every_factor(upsample: int, most_px: float) -> None:
    """Places all over a cell. Cells as they are hold a Gaussian; a bicubic curve through them is none, but near it."""
    rng, away = np.random.default_rng(5), []
    grouping = replace(PartGrouping(), upsample=upsample, min_parts=2)
    for _ in range(50):
        x, y = rng.uniform(50, 60, 2)
        keypoints = np.array([[(x, y, 2), (x + 40, y, 2), (0, 0, 0)]], np.float32)
        maps = part_maps(keypoints, SIMPLE, (160, 160), 8)
        found = in_pixels(decode(maps[:3], maps[4:], SIMPLE, grouping), grouping)
        away.append(np.abs(found[0, :2] - keypoints[0, :2, :2]).max())
    assert max(away) < most_px


def test_score_is_heats_and_limbs_times_parts_without_the_neck() -> None:
    """Neck .9, right shoulder .8, left shoulder .7, head .6; limbs .5, .4, .3; the hand of a completing limb adds 0."""
    heatmaps = points(
        (1, 10, 10, 0.9), (3, 10, 15, 0.8), (2, 10, 5, 0.7), (0, 5, 10, 0.6), (4, 5, 5, 0.5), layout=BRIEF
    )
    fields = everywhere((-0.4, 0), (0.5, 0), (0, -0.3), (0, 0), (0, 0), (-1, 0), (0, 0))
    poses = decode(heatmaps, fields, BRIEF, PLAIN)
    total = 0.9 + 0.8 + 0.7 + 0.6 + 0.5 + 0.4 + 0.3
    assert poses.scores_p.tolist() == pytest.approx([total * (4 - 1)])
    expected = [(10, 5, 0.6), (5, 10, 0.7), (15, 10, 0.8), (5, 5, 0.5), (0, 0, 0)]  # head, l, r, left hand, right hand
    np.testing.assert_allclose(poses.keypoints_pk3[0], expected)


def test_joints_without_a_neck_count_all() -> None:
    heatmaps = points((0, 10, 10, 0.9), (1, 10, 15, 0.8))
    poses = decode(heatmaps, everywhere((0.5, 0), (0, 0)), SIMPLE, PLAIN)
    assert poses.scores_p.tolist() == pytest.approx([(0.9 + 0.8 + 0.5) * 2])


def test_least_parts_and_least_score() -> None:
    heatmaps = points((0, 10, 10, 0.25), (1, 10, 15, 0.25))
    fields = everywhere((0.5, 0), (0, 0))  # the person: 2 parts, score 1.0
    assert len(decode(heatmaps, fields, SIMPLE, PLAIN)) == 1
    assert len(decode(heatmaps, fields, SIMPLE, replace(PLAIN, min_parts=3))) == 0
    assert len(decode(heatmaps, fields, SIMPLE, replace(PLAIN, min_score=0.5))) == 1
    assert len(decode(heatmaps, fields, SIMPLE, replace(PLAIN, min_score=0.51))) == 0


def test_heat_at_the_threshold_is_enough_and_below_is_not() -> None:
    fields = everywhere((0.5, 0), (0, 0))
    for heat, found in ((0.1, 1), (np.nextafter(np.float32(0.1), np.float32(0)), 0)):
        heatmaps = points((0, 10, 10, 0.9), (1, 10, 15, float(heat)))
        assert len(decode(heatmaps, fields, SIMPLE, PLAIN)) == found


def test_a_point_must_be_above_the_threshold_and_a_limb_have_nine_of_ten() -> None:
    """Limb from column 5 to 14: its ten points are the ten columns. At the threshold, exact in binary, is not above."""
    heatmaps = points((0, 10, 5, 0.9), (1, 10, 14, 0.9))
    for failing, found in (((), 1), ((8,), 1), ((8, 9), 0)):
        fields = everywhere((0.5, 0), (0, 0))
        fields[0, 10, list(failing)] = 0.0625
        poses = decode(heatmaps, fields, SIMPLE, replace(PLAIN, point_threshold=0.0625))
        assert len(poses) == found
        if found:  # the mean is over the points that succeed
            assert poses.scores_p.tolist() == pytest.approx([(0.9 + 0.9 + 0.5) * 2])


def test_the_best_limb_takes_both_ends() -> None:
    """Two necks, two hands, all four limbs: the best is .8, so the other two peaks are left with each other."""
    heatmaps = points((0, 4, 4, 0.9), (0, 20, 4, 0.5), (1, 4, 20, 0.9), (1, 20, 20, 0.5))
    fields = everywhere((0.3, 0), (0, 0))
    fields[0, 4] = 0.8
    poses = decode(heatmaps, fields, SIMPLE, PLAIN)
    assert poses.keypoints_pk3[:, :2, 1].tolist() == [[4, 4], [20, 20]]
    fields[0, 4], fields[0, 20] = 0.3, 0.8
    assert decode(heatmaps, fields, SIMPLE, PLAIN).keypoints_pk3[:, :2, 1].tolist() == [[20, 20], [4, 4]]


def test_of_equally_good_limbs_the_first_start_and_end_count() -> None:
    """One neck between two hands of the same kind, equally far along the same row of an even field."""
    heatmaps = points((0, 4, 2, 0.5), (0, 4, 10, 0.5), (1, 4, 18, 0.5))
    poses = decode(heatmaps, everywhere((0.5, 0), (0, 0)), SIMPLE, PLAIN)
    assert poses.keypoints_pk3[0, :, 0].tolist() == [2, 18, 0]
    heatmaps = points((0, 4, 2, 0.5), (1, 4, 10, 0.5), (1, 4, 18, 0.5))
    poses = decode(heatmaps, everywhere((0.5, 0), (0, 0)), SIMPLE, PLAIN)
    assert poses.keypoints_pk3[0, :, 0].tolist() == [2, 10, 0]


def test_peaks_at_one_place_are_no_limb() -> None:
    heatmaps = points((0, 4, 4, 0.9), (1, 4, 4, 0.9))
    assert len(decode(heatmaps, everywhere((1, 1), (1, 1)), SIMPLE, replace(EASY, upsample=1))) == 0


@pytest.mark.parametrize(
    ("cells", "peak"),
    [
        ([(10, 10), (10, 11)], (10, 10)),  # y, x
        ([(10, 10), (11, 10)], (10, 10)),
        ([(10, 10), (10, 11), (11, 10), (11, 11)], (10, 10)),
        ([(0, 0)], (0, 0)),
        ([(23, 23)], (23, 23)),
        ([(0, 22), (0, 23)], (0, 22)),
    ],
)
def test_of_equal_neighbours_the_upper_left_is_the_peak_also_at_the_border(
    cells: list[tuple[int, int]], peak: tuple[int, int]
) -> None:
    heatmaps = points((1, 5, 5, 0.9), *((0, y, x, 0.5) for y, x in cells))
    fields = everywhere((5 - peak[1], 5 - peak[0]), (0, 0))
    poses = decode(heatmaps, fields, SIMPLE, PLAIN)
    assert len(poses) == 1
    assert poses.keypoints_pk3[0, 0].tolist() == [peak[1], peak[0], 0.5]


def test_a_single_hot_cell_is_found() -> None:
    """Its peak lies between two upsampled pixels, which are equal: the code would drop both."""
    heatmaps = points((0, 3, 3, 1.0), (1, 3, 9, 1.0), size=12)
    for locate, x_and_y in (("middle", [[27, 27], [75, 27]]), ("peak", [[27.5, 27.5], [75.5, 27.5]])):
        grouping = replace(CODE, locate=locate, min_parts=2)
        poses = decode(heatmaps, everywhere((1, 0), (0, 0), size=12), SIMPLE, grouping)
        assert (poses.keypoints_pk3[0, :2, :2] * 8).tolist() == x_and_y


@pytest.mark.parametrize(("columns", "left"), [((4, 9, 14), [4, 14]), ((4, 9), [4]), ((4, 10), [4, 10])])
def test_of_near_peaks_the_left_stays_and_only_who_stays_suppresses(columns: tuple[int, ...], left: list[int]) -> None:
    """Nearer than 6, whatever the heat; a hand straight below each neck shows which necks there are."""
    heatmaps = points(*((part, y, x, 0.3 + x / 50) for part, y in ((0, 5), (1, 20)) for x in columns))
    poses = decode(heatmaps, everywhere((0, 1), (0, 0)), SIMPLE, PLAIN)
    assert poses.keypoints_pk3[:, 0, 0].tolist() == left


def test_completing_limbs_go_both_ways_and_share_parts() -> None:
    """Person A: neck and shoulder; the other piece: shoulder and hand of a second person with that hand.

    The head-hand limb gives A's head the hand that already belongs to B, and B, which has no head, A's head.
    """
    heatmaps = points((1, 5, 5, 0.9), (3, 5, 12, 0.9), (0, 2, 5, 0.9), (2, 15, 5, 0.9), (4, 15, 15, 0.9), layout=BRIEF)
    fields = everywhere((0, 0), (1, 0), (0, -1), (1, 0), (0, 0), (10 / 16.4, 13 / 16.4), (0, 0))
    poses = decode(heatmaps, fields, BRIEF, PLAIN)
    assert (poses.keypoints_pk3[:, :, 2] > 0).tolist() == [
        [True, False, True, True, False],
        [True, True, False, True, False],
    ]
    np.testing.assert_array_equal(poses.keypoints_pk3[0, [0, 3]], poses.keypoints_pk3[1, [0, 3]])
    assert_same(heatmaps, fields, BRIEF, PLAIN)


@pytest.mark.parametrize(
    "change",
    [
        {"upsample": 0},
        {"heat_threshold": 0.0},
        {"suppression": -1.0},
        {"points": 1},
        {"point_threshold": -0.1},
        {"success_ratio": 1.0},
        {"success_ratio": -0.1},
        {"min_parts": 1},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(change))):
        replace(PartGrouping(), **change)


def test_shapes_that_do_not_fit_are_refused() -> None:
    heatmaps, fields = points(), everywhere((0, 0), (0, 0))
    for wrong in ((heatmaps[:2], fields), (heatmaps, fields[:3]), (heatmaps[:, :5], fields), (heatmaps[0], fields)):
        with pytest.raises(DataError, match=r"heatmaps must be \[3,h,w\] and fields \[4,h,w\]"):
            decode(*wrong, SIMPLE, PLAIN)
    with pytest.raises(DataError, match="heatmaps must be"):
        decode(heatmaps[:, :0], fields[:, :0], SIMPLE, PLAIN)


# --- there and back --------------------------------------------------------------------------------------------------


def in_pixels(poses: Poses, grouping: PartGrouping) -> Array:
    """Places [P,K,2] in the input of a network of stride 8."""
    beside = (8 / grouping.upsample - 1) / 2  # from the first input pixel to the middle of the first upsampled one
    return np.asarray(poses.keypoints_pk3[:, :, :2] * 8 + beside)


def crowd(rng: np.random.Generator, rows: int, columns: int, room: int) -> Array:
    """Figures [P,17,3], each alone in its own square of the input, ten pixels inside it."""
    corners = [(column * room + 10, row * room + 10, 0) for row in range(rows) for column in range(columns)]
    people = [figures(rng, 1, (room - 20, room - 20), (room - 70, room - 24))[0] for _ in corners]
    return np.array(people) + np.array(corners, np.float32)[:, None]


@pytest.mark.parametrize("grouping", [CODE, PartGrouping()])
def test_people_come_back_from_their_targets_without_a_shift(grouping: PartGrouping) -> None:
    rng = np.random.default_rng(11)
    away = []
    for _ in range(40):
        keypoints = crowd(rng, 2, 2, 184)
        maps = part_maps(keypoints, COCO, (368, 368), 8)
        poses = decode(maps[:18], maps[19:], COCO, grouping)
        assert len(poses) == len(keypoints)
        away_qpk2 = in_pixels(poses, grouping)[:, None] - keypoints[..., :2]
        nearest = np.abs(away_qpk2).max(axis=(2, 3)).argmin(axis=0)
        assert sorted(nearest) == list(range(len(keypoints)))
        away.append(away_qpk2[nearest, range(len(keypoints))])
    assert np.abs(away).max() < 1
    assert np.abs(np.mean(away, axis=(0, 1, 2))).max() < 0.05  # of 2720 joints with a spread of 0.3 px


def test_a_missing_neck_leaves_the_rest_of_the_body_in_pieces() -> None:
    """Without a left shoulder there is no neck: arm, legs and head are people of their own, from three parts on."""
    keypoints = crowd(np.random.default_rng(13), 1, 1, 184)
    keypoints[0, 5] = 0
    maps = part_maps(keypoints, COCO, (184, 184), 8)
    poses = decode(maps[:18], maps[19:], COCO, PartGrouping())
    pieces = sorted(tuple(np.flatnonzero(person)) for person in poses.keypoints_pk3[:, :, 2] > 0)
    head, right_arm, left_leg, right_leg = (0, 1, 2, 3, 4), (6, 8, 10), (11, 13, 15), (12, 14, 16)
    # The right arm and the head complete each other over right shoulder and right ear.
    assert pieces == sorted([tuple(sorted({*head, 6})), (4, *right_arm), left_leg, right_leg])


@pytest.mark.parametrize("grouping", [CODE, PartGrouping()])
@pytest.mark.parametrize("edge", [0, 1, 3.5, 5, 6.5, 8, 9])
def test_people_at_the_border_are_found_near_it(edge: float, grouping: PartGrouping) -> None:
    """Necks and hands in the outermost cell of each side: each found once, at most 6 px off across the border."""
    for along in (30.0, 77.3):
        for across in (edge, 127 - edge):
            for x, y, dx, dy in ((across, along, 0, 30), (along, across, 30, 0)):
                keypoints = np.array([[(x, y, 2), (x + dx, y + dy, 2), (0, 0, 0)]], np.float32)
                maps = part_maps(keypoints, SIMPLE, (128, 128), 8)
                poses = decode(maps[:3], maps[4:], SIMPLE, replace(grouping, min_parts=2))
                assert len(poses) == 1
                assert np.abs(in_pixels(poses, grouping)[0, :2] - keypoints[0, :2, :2]).max() < 6


# --- merging ---------------------------------------------------------------------------------------------------------


def mirrored_people(keypoints: Array, width: int) -> Array:
    mirrored = keypoints.copy()
    mirrored[..., 0] = width - 1 - mirrored[..., 0]
    return mirrored[:, list(COCO_PERSON.flip_index)]


def test_the_flipped_pass_is_turned_back() -> None:
    """A network that is right on both passes: the mean is the plain pass; and the flipped pass alone gives its half."""
    rng = np.random.default_rng(12)
    for _ in range(10):
        keypoints = figures(rng, 2, (200, 200), (90, 160))
        maps, back = (
            torch.from_numpy(part_maps(people, COCO, (200, 200), 8))
            for people in (keypoints, mirrored_people(keypoints, 200))
        )
        heatmaps, fields = merge_outputs(maps, None, COCO)
        np.testing.assert_array_equal(heatmaps, maps[:18])
        np.testing.assert_array_equal(fields, maps[19:])
        for merged, factor in ((merge_outputs(maps, back, COCO), 1), (merge_outputs(0 * maps, back, COCO), 2)):
            np.testing.assert_allclose(merged[0] * factor, heatmaps, atol=1e-5)
            np.testing.assert_allclose(merged[1] * factor, fields, atol=1e-5)
            assert merged[0].dtype == merged[1].dtype == np.float32


def test_merging_by_hand() -> None:
    """Neck, left, right, background, and the fields neck-left and neck-right of two cells."""
    output = torch.arange(16.0).reshape(8, 1, 2)
    flipped = 100 + output
    heatmaps, fields = merge_outputs(output, flipped, SIMPLE)
    # neck ← neck, left ← right, right ← left; neck-left ← neck-right and back, x negated; all with the cells swapped.
    np.testing.assert_array_equal(heatmaps[:, 0] * 2, [(0 + 101, 1 + 100), (2 + 105, 3 + 104), (4 + 103, 5 + 102)])
    np.testing.assert_array_equal(
        fields[:, 0] * 2, [(8 - 113, 9 - 112), (10 + 115, 11 + 114), (12 - 109, 13 - 108), (14 + 111, 15 + 110)]
    )


def test_a_batch_of_one_is_a_picture_and_other_shapes_are_refused() -> None:
    output = torch.randn(8, 3, 4, requires_grad=True)
    for merged, same in zip(
        merge_outputs(output, None, SIMPLE), merge_outputs(output[None], None, SIMPLE), strict=True
    ):
        np.testing.assert_array_equal(merged, same)
    for wrong in (output[:7], output[None].expand(2, -1, -1, -1), output[0]):
        with pytest.raises(DataError, match=r"an output must be \[8, height, width\]"):
            merge_outputs(wrong, None, SIMPLE)
        with pytest.raises(DataError, match=r"an output must be \[8, height, width\]"):
            merge_outputs(output, wrong, SIMPLE)
    with pytest.raises(DataError, match="same size"):
        merge_outputs(output, output[..., :3], SIMPLE)
