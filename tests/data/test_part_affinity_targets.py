"""Targets of part affinity fields against the formulas, written as loops."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.data.keypoints import COCO_PERSON, KeypointSet
from compress.data.limbs import PartLayout, layout_for
from compress.data.part_affinity_targets import part_maps
from compress.data.transforms import flip

Array = NDArray[Any]
COCO = layout_for(COCO_PERSON)
HANDS = KeypointSet("hands", ("neck", "left", "right"), ((1, 2),), ((0, 1), (0, 2)), (0.1,) * 3, (0, 1, 2))
BRIEF = layout_for(HANDS)


def plain_maps(
    keypoints: Array, layout: PartLayout, size: tuple[int, int], stride: int, sigma: float, half_width: float
) -> Array:
    height, width = size[0] // stride, size[1] // stride
    parts, limbs = len(layout.names), len(layout.limbs)
    maps = np.zeros((parts + 1 + 2 * limbs, height, width))
    people = [plain_parts(person, layout) for person in keypoints]
    for i, j in itertools.product(range(height), range(width)):
        x, y = j * stride + stride / 2 - 0.5, i * stride + stride / 2 - 0.5
        for person in people:
            for part, (px, py) in person.items():
                heat = math.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2))
                if heat >= 0.01:
                    maps[part, i, j] = max(maps[part, i, j], heat)
        maps[parts, i, j] = 1 - maps[:parts, i, j].max()
        for limb, (a, b) in enumerate(layout.limbs):
            units = [
                unit
                for person in people
                if a in person and b in person and (unit := plain_unit(person[a], person[b], x, y, half_width * stride))
            ]
            if units:
                maps[parts + 1 + 2 * limb : parts + 3 + 2 * limb, i, j] = np.mean(units, axis=0)
    return maps


def plain_parts(person: Array, layout: PartLayout) -> dict[int, tuple[float, float]]:
    return {
        part: (float(np.mean(person[list(sources), 0])), float(np.mean(person[list(sources), 1])))
        for part, sources in enumerate(layout.sources)
        if all(person[joint, 2] > 0 for joint in sources)
    }


def plain_unit(
    a: tuple[float, float], b: tuple[float, float], x: float, y: float, reach: float
) -> tuple[float, float] | None:
    """The limb's direction if the cell at (x, y) is on it."""
    length = math.dist(a, b)
    if length < 1e-6:
        return None
    unit = (b[0] - a[0]) / length, (b[1] - a[1]) / length
    inside = all(min(p, q) - reach <= at <= max(p, q) + reach for p, q, at in zip(a, b, (x, y), strict=True))
    away = abs((x - a[0]) * unit[1] - (y - a[1]) * unit[0])
    return unit if inside and away <= reach else None


def people_at_random(rng: np.random.Generator, people: int, joints: int, size: tuple[int, int]) -> Array:
    """Joints [P,K,3] anywhere, some at whole pixels, some unlabelled (0, 0, 0), some hidden."""
    keypoints = np.zeros((people, joints, 3), np.float32)
    keypoints[..., :2] = rng.uniform(0, 1, (people, joints, 2)) * (size[1] - 1, size[0] - 1)
    whole = rng.random((people, joints)) < 0.3
    keypoints[whole] = np.round(keypoints[whole])
    keypoints[..., 2] = rng.integers(1, 3, (people, joints))
    keypoints[rng.random((people, joints)) < 0.2] = 0
    return keypoints


@pytest.mark.parametrize("seed", range(200))
def test_the_maps_are_the_formulas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    layout = COCO if seed % 6 == 0 else BRIEF
    stride = int(rng.choice([4, 8]))
    size = (stride * int(rng.integers(1, 9)), stride * int(rng.integers(1, 9)))
    sigma, half_width = float(rng.choice([3.0, 7.0])), float(rng.choice([0.5, 1.0, 1.6]))
    people = int(rng.integers(0, 5))
    keypoints = people_at_random(rng, people, len(layout.keypoints), size)
    if people > 1:
        keypoints[1] = keypoints[0, ::-1] if seed % 2 else keypoints[0]  # who share limbs, there and back
    maps = part_maps(keypoints, layout, size, stride, sigma, half_width)
    expected = plain_maps(keypoints.astype(np.float64), layout, size, stride, sigma, half_width)
    assert maps.dtype == np.float32
    assert maps.shape == expected.shape
    # A cell just at the rim of a limb or at 0.01 may fall to either side by rounding.
    different = np.abs(maps - expected) > 1e-5
    assert different.mean() < 2e-4
    assert not np.any(different & ~near_a_rim(keypoints, layout, size, stride, sigma, half_width, expected))


def near_a_rim(
    keypoints: Array,
    layout: PartLayout,
    size: tuple[int, int],
    stride: int,
    sigma: float,
    half_width: float,
    expected: Array,
) -> Array:
    """Where a rim a ten-thousandth further in or out makes a difference."""
    near = np.abs(expected - 0.01) < 1e-4
    for factor in (1 - 1e-4, 1 + 1e-4):
        near |= plain_maps(keypoints.astype(np.float64), layout, size, stride, sigma, half_width * factor) != expected
    return near


def test_one_limb_by_hand() -> None:
    """Stride 8: cell middles at 3.5, 11.5, ...; the limb runs along the middles of row 1 from column 1 to column 3."""
    keypoints = np.array([[(11.5, 11.5, 2), (27.5, 11.5, 1), (0, 0, 0)]], np.float32)
    maps = part_maps(keypoints, BRIEF, (32, 48), 8)
    assert maps.shape == (3 + 1 + 4, 4, 6)
    assert maps[0, 1, 1] == maps[1, 1, 3] == 1
    assert maps[0, 1, 2] == pytest.approx(math.exp(-64 / 98))
    assert not maps[2].any()
    np.testing.assert_allclose(maps[3], 1 - np.maximum(maps[0], maps[1]))
    field = np.zeros((4, 6))
    field[0:3, 0:5] = 1  # a cell further on every side
    np.testing.assert_array_equal(maps[4], field)
    assert not maps[5:].any()


def test_the_neck_needs_both_shoulders() -> None:
    keypoints = np.zeros((1, 17, 3), np.float32)
    keypoints[0, 5], keypoints[0, 6] = (20, 30, 2), (40, 34, 1)
    both = part_maps(keypoints, COCO, (64, 64), 8)
    assert np.unravel_index(both[1].argmax(), (8, 8)) == (4, 3)  # (30, 32) is in the cell whose middle is (27.5, 35.5)
    keypoints[0, 6] = 0
    one = part_maps(keypoints, COCO, (64, 64), 8)
    assert not one[1].any()
    assert not one[19:].any()
    assert one[5].any()


def test_nobody_is_background() -> None:
    maps = part_maps(np.zeros((0, 17, 3), np.float32), COCO, (64, 48), 8)
    assert maps.shape == (57, 8, 6)
    assert (maps[18] == 1).all()
    assert not np.delete(maps, 18, axis=0).any()


def test_opposite_fields_cancel_and_a_limb_without_length_has_none() -> None:
    there = np.array([[(8, 16, 2), (40, 16, 2), (0, 0, 0)], [(40, 16, 2), (8, 16, 2), (0, 0, 0)]], np.float32)
    maps = part_maps(there, BRIEF, (32, 48), 8)
    assert not maps[4:].any()
    point = np.array([[(20, 20, 2), (20, 20, 2), (0, 0, 0)]], np.float32)
    maps = part_maps(point, BRIEF, (32, 48), 8)
    assert np.isfinite(maps).all()
    assert not maps[4:].any()


def test_a_mirrored_picture_has_the_mirrored_maps() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        keypoints = people_at_random(rng, 3, 17, (64, 80))
        mirrored = keypoints.copy()
        mirrored[..., 0] = np.where(keypoints[..., 2] > 0, 79 - keypoints[..., 0], 0)
        maps, back = (
            part_maps(points, COCO, (64, 80), 8) for points in (keypoints, flip(mirrored, COCO_PERSON.flip_index))
        )
        back = back[:, :, ::-1]
        fields, turned = maps[19:].reshape(19, 2, 8, 10), back[19:].reshape(19, 2, 8, 10)[list(COCO.limb_flip_index)]
        np.testing.assert_allclose(back[list(COCO.flip_index)], maps[:18], atol=1e-5)
        np.testing.assert_allclose(back[18], maps[18], atol=1e-5)
        off = np.abs(turned * np.array([-1, 1])[:, None, None] - fields) > 1e-5
        assert off.mean() < 1e-3  # a cell just at a limb's rim
