"""Top-down decoding against a plain implementation of the same rules, and from a person's box back to the person."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from compress.data.boxes import PersonAugmentation, augment_person, box_region, crop_matrix, person_targets
from compress.data.keypoints import COCO_PERSON, KeypointSet
from compress.data.transforms import mirrors, move_keypoints
from compress.errors import DataError
from compress.pose.codec import Locate, codec_named
from compress.pose.decode.top_down import decode, merge_outputs, person_scores, to_picture

torch.set_num_threads(1)

Array = NDArray[Any]
BRIEF = KeypointSet("brief", ("a", "b", "c", "d"), ((1, 2),), (), (0.1,) * 4, (2, 0, 3, 1))
SWAP = [0, 2, 1, 3]


# --- the plain implementation ----------------------------------------------------------------------------------------


def plain_joint(heat: Array, locate: Locate) -> tuple[float, float, float]:
    height, width = heat.shape
    best, y, x = -np.inf, 0, 0
    for row, column in itertools.product(range(height), range(width)):
        if np.isfinite(heat[row, column]) and heat[row, column] > best:
            best, y, x = heat[row, column], row, column
    if best == -np.inf:
        return 0.5, 0.5, 0.0
    heat = np.where(np.isfinite(heat), heat, -np.inf)
    px, py = x + 0.5, y + 0.5
    if locate == "quarter" and 1 < x < width - 1 and 1 < y < height - 1:
        px += plain_quarter(heat[y, x - 1], heat[y, x + 1])
        py += plain_quarter(heat[y - 1, x], heat[y + 1, x])
    if locate == "peak" and 0 < x < width - 1:
        px += plain_peak(heat[y, x - 1], best, heat[y, x + 1])
    if locate == "peak" and 0 < y < height - 1:
        py += plain_peak(heat[y - 1, x], best, heat[y + 1, x])
    return px, py, best


def plain_quarter(before: float, after: float) -> float:
    return 0.25 if after > before else -0.25 if after < before else 0


def plain_peak(*heats: float) -> float:
    """Top of the parabola through the logarithms."""
    floor = max(heats[1], 1e-6) * 1e-3
    before, centre, after = (np.log(max(heat, floor)) for heat in heats)
    bend = 2 * centre - before - after
    return min(0.5, max(-0.5, (after - before) / (2 * bend))) if bend > 1e-6 else 0.0


def assert_same(maps: Array) -> None:
    for locate in ("middle", "quarter", "peak"):
        before = maps.copy()
        found = decode(maps, locate)
        np.testing.assert_array_equal(maps, before)
        assert found.dtype == np.float32
        expected = np.array([[plain_joint(heat, locate) for heat in person] for person in maps])
        expected = expected.reshape(found.shape)
        # Logarithms of float32 heats: a flat top magnifies their rounding.
        np.testing.assert_allclose(found, expected, atol=2e-3 if locate == "peak" else 0)


def sizes(rng: np.random.Generator) -> tuple[int, int, int, int]:
    return int(rng.integers(0, 3)), 4, int(rng.integers(1, 10)), int(rng.integers(1, 10))


def test_noise() -> None:
    rng = np.random.default_rng(0)
    for _ in range(700):
        assert_same(rng.normal(rng.choice([0, 1, -5]), 1, sizes(rng)).astype(np.float32))


def test_ties_and_plateaus() -> None:
    """Few levels, as an int8 network gives; the first of equal cells counts."""
    rng = np.random.default_rng(1)
    for _ in range(700):
        assert_same(rng.integers(-1, 3, sizes(rng)).astype(np.float32) / 2)


def test_cells_that_are_not_finite_are_never_chosen() -> None:
    rng = np.random.default_rng(2)
    for _ in range(500):
        maps = rng.normal(-1, 1, sizes(rng)).astype(np.float32)
        broken = rng.random(maps.shape) < rng.choice([0.1, 0.5, 1.0])
        maps[broken] = rng.choice([np.nan, np.inf, -np.inf], int(broken.sum()))
        assert_same(maps)
        assert np.isfinite(decode(maps, "peak")).all()


def test_huge_heats_do_not_overflow() -> None:
    maps = np.full((1, 1, 5, 5), -3e38, np.float32)
    maps[0, 0, 2, 2:4] = 3e38
    assert decode(maps, "quarter")[0, 0].tolist() == pytest.approx([2.75, 2.5, 3e38])
    assert decode(maps.astype(np.float64) * 1e10, "quarter")[0, 0].tolist() == [0.5, 0.5, 0]


def test_one_pixel_maps_and_empty_batches() -> None:
    for locate in ("middle", "quarter", "peak"):
        assert decode(np.full((2, 3, 1, 1), 0.25), locate).tolist() == [[[0.5, 0.5, 0.25]] * 3] * 2
        assert decode(np.zeros((0, 3, 4, 4)), locate).shape == (0, 3, 3)


def test_quarter_leaves_the_two_first_and_the_last_rows_and_columns_alone() -> None:
    for y, x in itertools.product(range(6), range(7)):
        maps = np.zeros((1, 1, 6, 7), np.float32)
        maps[0, 0, y, x] = 1
        maps[0, 0, min(y + 1, 5), x] = maps[0, 0, y, min(x + 1, 6)] = 0.5
        maps[0, 0, y, x] = 1
        moved = 0.25 if 1 < x < 6 and 1 < y < 5 else 0
        assert decode(maps, "quarter")[0, 0].tolist() == [x + 0.5 + moved, y + 0.5 + moved, 1]


# --- two passes ------------------------------------------------------------------------------------------------------


def test_merging_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, mirrored = torch.randn(2, 3, 4, 5, 6, generator=generator)
    expected = np.empty((3, 4, 5, 6), np.float32)
    for b, k, y, x in itertools.product(range(3), range(4), range(5), range(6)):
        expected[b, k, y, x] = (outputs[b, k, y, x] + mirrored[b, SWAP[k], y, 5 - x]) / 2
    np.testing.assert_allclose(merge_outputs(outputs, mirrored, BRIEF), expected, rtol=1e-6)
    np.testing.assert_array_equal(merge_outputs(outputs, None, BRIEF), outputs.numpy())


def test_a_network_that_does_not_mind_mirrors_gives_the_same_heatmaps() -> None:
    outputs = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(merge_outputs(outputs, outputs[:, SWAP].flip(-1), BRIEF), outputs.numpy())


# --- back to the picture ---------------------------------------------------------------------------------------------


def test_to_picture_undoes_the_transforms_whatever_the_score() -> None:
    rng = np.random.default_rng(4)
    matrices = rng.normal(0, 1, (50, 2, 3)) * (1, 1, 100)
    matrices = matrices[np.abs(np.linalg.det(matrices[:, :, :2])) > 0.1]
    picture = rng.uniform(-100, 400, (len(matrices), 4, 2))
    cells = np.zeros((len(matrices), 4, 3), np.float32)
    cells[:, :, :2] = (picture @ matrices[:, :, :2].transpose(0, 2, 1) + matrices[:, None, :, 2]) / 4
    cells[:, 1:, 2] = 0.5
    moved = to_picture(cells, matrices, 4)
    np.testing.assert_allclose(moved[:, :, :2], picture, atol=5e-3)
    np.testing.assert_array_equal(moved[:, :, 2], cells[:, :, 2])
    assert to_picture(cells[:0], [], 4).shape == (0, 4, 3)


def test_person_scores_are_the_formula() -> None:
    rng = np.random.default_rng(5)
    scores = rng.choice([-0.1, 0.0, 0.1, np.float32(0.2), 0.3, 0.9], (500, 4)).astype(np.float32)
    keypoints = np.zeros((500, 4, 3), np.float32)
    keypoints[:, :, 2] = scores
    boxes = rng.random(500)
    for threshold in (0.1, 0.2):
        counted = [[s for s in row if s > np.float32(threshold)] for row in scores]
        expected = [box * (sum(row) / len(row) if row else 0) for box, row in zip(boxes, counted, strict=True)]
        np.testing.assert_allclose(person_scores(keypoints, boxes, threshold), expected, rtol=1e-6)
    assert person_scores(keypoints[:0], []).shape == (0,)


# --- refused ---------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused() -> None:
    outputs = torch.zeros(2, 4, 5, 6)
    with pytest.raises(DataError, match=r"\[batch, 17, height, width\]"):
        merge_outputs(outputs, None, COCO_PERSON)
    with pytest.raises(DataError, match=r"\[batch, 4, height, width\]"):
        merge_outputs(outputs[0], None, BRIEF)
    with pytest.raises(DataError, match="the same pictures"):
        merge_outputs(outputs, outputs[:1], BRIEF)
    for shape in ((4, 5, 6), (2, 4, 0, 6), (2, 4, 6, 0)):
        with pytest.raises(DataError, match="at least one cell"):
            decode(np.zeros(shape), "quarter")
    with pytest.raises(DataError, match="one matrix per person"):
        to_picture(np.zeros((2, 4, 3), np.float32), np.zeros((1, 2, 3)), 4)
    with pytest.raises(DataError, match="invertible"):
        to_picture(np.zeros((1, 4, 3), np.float32), np.zeros((1, 2, 3)), 4)


# --- from a person's box and back ------------------------------------------------------------------------------------


def random_person(rng: np.random.Generator) -> tuple[Array, Array]:
    """Joints [17,3], some unlabelled, and the box around the labelled."""
    joints = np.full((17, 3), 2, np.float32)
    joints[:, :2] = rng.uniform(20, 420, 2) + rng.uniform(0, (60, 160), (17, 2))
    joints[rng.random(17) < 0.2] = 0
    labelled = joints[joints[:, 2] > 0, :2]
    return joints, np.concatenate([labelled.min(axis=0), np.ptp(labelled, axis=0)])


@pytest.mark.parametrize(
    ("locate", "exact", "cells"), [("middle", False, 0.5), ("quarter", False, 0.5), ("peak", True, 1e-3)]
)
def test_from_box_to_targets_and_back(locate: Locate, exact: bool, cells: float) -> None:
    """Any augmentation: joints come back within half a cell, those of exact Gaussians where they were.

    Not compared: joints in the border cells, whose peak stays in the middle of the cell.
    """
    rng = np.random.default_rng(6)
    compared = 0
    for _ in range(250):
        input_hw = ((64, 48), (96, 96), (48, 64))[int(rng.integers(3))]
        joints, box = random_person(rng)
        matrix = augment_person(rng, joints, box, COCO_PERSON, input_hw, PersonAugmentation())
        swap = list(COCO_PERSON.flip_index) if mirrors(matrix) else list(range(17))
        moved = move_keypoints(joints[None], matrix, input_hw)[0]
        maps, weight = person_targets(moved[swap], input_hw, 4, codec_named("exact" if exact else "ours"))
        back = to_picture(decode(maps[None], locate), matrix[None], 4)[0, swap]
        counted = (weight[swap] > 0) & ((moved[:, :2] >= 4) & (moved[:, :2] < np.array(input_hw[::-1]) - 4)).all(axis=1)
        error_cells = (back - joints)[counted, :2] @ matrix[:, :2].T / 4
        assert np.abs(error_cells).max(initial=0) < cells + 1e-3
        compared += int(counted.sum())
    assert compared > 2000


def test_an_upright_box_is_the_whole_input() -> None:
    """The middle of the box is the middle of the input, and the cells' corner the region's."""
    region = box_region((10, 20, 30, 40), (64, 48))
    matrix = crop_matrix(region, (64, 48))
    corners = np.zeros((1, 2, 3), np.float32)
    corners[0, 1, :2] = 12, 16
    (left, top), (right, bottom) = to_picture(corners, matrix[None], 4)[0, :, :2]
    assert (right - left, bottom - top) == pytest.approx(region.size_wh, rel=1e-5)
