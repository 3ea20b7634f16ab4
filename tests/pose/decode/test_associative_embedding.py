"""Decoding against a plain implementation of the same rules, written as loops."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from reference_associative_embedding import plain_decode

from compress.data.keypoints import COCO_PERSON, KeypointSet
from compress.errors import DataError
from compress.pose.decode import associative_embedding
from compress.pose.decode.associative_embedding import Grouping, _best_cells, decode, merge_outputs
from compress.pose.decode.poses import Poses, coco_results, to_image

torch.set_num_threads(1)

Array = NDArray[Any]
BRIEF = KeypointSet("brief", ("a", "b", "c", "d"), ((1, 2),), (), (0.1,) * 4, (2, 0, 3, 1))


def assert_same(heat: Array, tags: Array, keypoints: KeypointSet, grouping: Grouping) -> Poses:
    before = heat.copy(), tags.copy()
    poses = decode(heat, tags, keypoints, grouping)
    np.testing.assert_array_equal(heat, before[0])
    np.testing.assert_array_equal(tags, before[1])
    joint_pk3, scores = plain_decode(heat, tags, keypoints, grouping)
    assert poses.keypoints_pk3.dtype == poses.scores_p.dtype == np.float32
    np.testing.assert_array_equal(poses.keypoints_pk3, joint_pk3)
    np.testing.assert_allclose(poses.scores_p, scores, rtol=1e-6)
    return poses


# --- scenes ----------------------------------------------------------------------------------------------------------


def scene(
    rng: np.random.Generator, people: int, size: tuple[int, int], dimensions: int, keypoints: KeypointSet = BRIEF
) -> tuple[Array, Array]:
    """Synthetic people: Gaussians at whole cells, tags near the person's number, some joints missing, any may
    overlap."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    heat = (rng.random((len(keypoints), height, width)) * 0.05).astype(np.float32)
    tags = rng.normal(0, 1, (*heat.shape, dimensions)).astype(np.float32)
    for person, joint in itertools.product(range(people), range(len(keypoints))):
        if rng.random() < 0.75:
            cy, cx = rng.integers(height), rng.integers(width)
            blob = rng.uniform(0.2, 1) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 3)
            own = blob > heat[joint]
            heat[joint][own] = blob[own]
            tags[joint][own] = person * rng.choice([0.4, 1.0, 2.0]) + rng.normal(0, 0.2, dimensions)
    return heat, tags


def sizes(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(1, 14)), int(rng.integers(1, 14))


@pytest.mark.parametrize(("little", "cells"), [(0, 300), (10**9, 300), (10**9, 10**9)])
def test_drawn_people(little: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing joints are looked for one joint after the other, in pieces of all, and all at once."""
    monkeypatch.setattr(associative_embedding, "_LITTLE", little)
    monkeypatch.setattr(associative_embedding, "_REFINE_CELLS", cells)
    rng = np.random.default_rng(0)
    for _ in range(500):
        heat, tags = scene(rng, int(rng.integers(0, 6)), sizes(rng), int(rng.integers(1, 4)))
        grouping = Grouping(locate="quarter" if rng.integers(2) else "middle", refine=bool(rng.integers(2)))
        assert_same(heat, tags, BRIEF, grouping)


def test_random_settings_on_noise() -> None:
    rng = np.random.default_rng(1)
    for _ in range(500):
        heat = rng.normal(0, 1, (4, *sizes(rng))).astype(np.float32)
        tags = rng.normal(0, 1.5, (*heat.shape, int(rng.integers(1, 3)))).astype(np.float32)
        grouping = Grouping(
            max_people=int(rng.integers(1, 8)),
            detection_threshold=float(rng.uniform(0, 1)),
            tag_threshold=float(rng.uniform(0.2, 3)),
            nms_kernel=int(rng.choice([1, 3, 5, 7])),
        )
        assert len(assert_same(heat, tags, BRIEF, grouping)) <= grouping.max_people


def test_ties_in_heat_and_tags() -> None:
    """Few levels, as an int8 network gives: plateaus, equal scores, equal tags, distances of exactly 0.5 and 1."""
    rng = np.random.default_rng(2)
    for _ in range(400):
        heat = rng.integers(0, 4, (4, *sizes(rng))).astype(np.float32) / 4
        tags = rng.integers(0, 4, (*heat.shape, int(rng.integers(1, 3)))).astype(np.float32) / 2
        assert_same(heat, tags, BRIEF, Grouping(max_people=int(rng.integers(1, 31))))


@pytest.mark.parametrize("levels", [0, 3, 40])
@pytest.mark.parametrize("spread", [0.1, 1.5, 40.0])
def test_refinement_looks_at_every_cell_that_can_win(levels: int, spread: float) -> None:
    """Maps of more cells than the hottest that are looked at first: the first best cell of all, ties included."""
    rng = np.random.default_rng(12)
    for shape in ((7, 9), (8, 8), (5, 13), (20, 30), (40, 45)):
        for dimensions, people in ((1, 0), (2, 1), (1, 40)):
            heat = (rng.random(shape[0] * shape[1]) ** rng.choice([1, 6]) * rng.choice([0.2, 3])).astype(np.float32)
            tags = rng.normal(0, spread, (dimensions, heat.size)).astype(np.float32)
            mean = rng.normal(0, 2 * spread, (people, dimensions)).astype(np.float32)
            if levels:
                heat, tags, mean = (np.round(part * levels) / np.float32(levels) for part in (heat, tags, mean))
            expected = [
                int((heat - np.rint(np.sqrt(np.square(tags - one[:, None]).sum(axis=0)))).argmax()) for one in mean
            ]
            assert _best_cells(heat, tags, mean).tolist() == expected


def test_flat_maps_and_equal_tags() -> None:
    for level in (0.0, 0.05, 0.5):
        poses = assert_same(np.full((4, 8, 8), level, np.float32), np.ones((4, 8, 8, 1), np.float32), BRIEF, Grouping())
        assert len(poses) == (30 if level > 0.1 else 0)


def test_one_pixel_maps() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        poses = assert_same(
            rng.random((4, 1, 1)).astype(np.float32),
            rng.normal(0, 1, (4, 1, 1, 1)).astype(np.float32),
            BRIEF,
            Grouping(),
        )
        assert set(poses.keypoints_pk3[..., :2].ravel().tolist()) <= {0.0, 0.5}


def test_cells_that_are_not_finite_hold_no_detection() -> None:
    rng = np.random.default_rng(4)
    for _ in range(300):
        heat, tags = scene(rng, int(rng.integers(0, 4)), sizes(rng), 2)
        for maps in (heat, tags):
            broken = rng.random(maps.shape) < rng.choice([0.0, 0.05, 1.0], p=[0.3, 0.6, 0.1])
            maps[broken] = rng.choice([np.nan, np.inf, -np.inf], int(broken.sum()))
        poses = assert_same(heat, tags, BRIEF, Grouping())
        assert np.isfinite(poses.keypoints_pk3).all()
    nothing = np.full((4, 9, 9), np.nan, np.float32)
    assert len(decode(nothing, nothing[..., None], BRIEF, Grouping())) == 0


def test_huge_tags_do_not_overflow() -> None:
    rng = np.random.default_rng(5)
    for scale in (1e19, 3e38):
        heat, tags = scene(rng, 3, (12, 12), 2)
        poses = decode(heat, (np.sign(tags) * scale).astype(np.float32), BRIEF, Grouping())
        assert np.isfinite(poses.keypoints_pk3).all()


@pytest.mark.parametrize("dimensions", [1, 2])
@pytest.mark.parametrize("people", [0, 1, 10, 45])
def test_coco_people_and_too_many_of_them(people: int, dimensions: int) -> None:
    for seed in range(3):
        rng = np.random.default_rng(people + 100 * seed)
        heat, tags = scene(rng, people, (48, 40), dimensions, COCO_PERSON)
        poses = assert_same(heat, tags, COCO_PERSON, Grouping())
        assert len(poses) <= 30
        assert (len(poses) == 0) == (people == 0)


# --- single rules ----------------------------------------------------------------------------------------------------


def points(
    *cells: tuple[int, int, int, float, float], shape: tuple[int, int, int] = (4, 16, 16)
) -> tuple[Array, Array]:
    """Maps that are zero except at cells (joint, y, x, heat, tag)."""
    heat, tags = np.zeros(shape, np.float32), np.zeros((*shape, 1), np.float32)
    for joint, y, x, value, tag in cells:
        heat[joint, y, x], tags[joint, y, x, 0] = value, tag
    return heat, tags


def test_people_with_the_same_tag_stay_two() -> None:
    heat, tags = points((2, 3, 3, 0.9, 5.0), (2, 9, 9, 0.8, 5.0))
    assert len(decode(heat, tags, BRIEF, Grouping())) == 2


def test_tag_threshold_is_exclusive_and_detection_threshold_too() -> None:
    heat, tags = points((2, 3, 3, 0.9, 0.0), (0, 3, 3, 0.9, 1.0))
    assert len(decode(heat, tags, BRIEF, Grouping(refine=False))) == 2
    assert len(decode(heat, tags, BRIEF, Grouping(refine=False, tag_threshold=1.01))) == 1
    assert len(decode(heat, tags, BRIEF, Grouping(detection_threshold=float(np.float32(0.9))))) == 0


def test_the_assignment_is_the_cheapest() -> None:
    """Each candidate of joint 0 goes where the sum of rounded distances is least, against all permutations."""
    rng = np.random.default_rng(6)
    for _ in range(100):
        people = int(rng.integers(2, 6))
        known, new = rng.uniform(-3, 3, people), rng.uniform(-3, 3, people)
        cells = [(2, 1, 3 * i, 0.9 - 0.01 * i, known[i]) for i in range(people)]
        cells += [(0, 5, 3 * i, rng.uniform(0.2, 0.9), new[i]) for i in range(people)]
        heat, tags = points(*cells)
        poses = decode(heat, tags, BRIEF, Grouping(tag_threshold=100, refine=False, locate="middle"))
        column = [int(x) // 3 for x in poses.keypoints_pk3[:, 0, 0]]
        cost = np.round(np.abs(known[:, None] - new))
        best = min(sum(cost[i, order[i]] for i in range(people)) for order in itertools.permutations(range(people)))
        assert sum(cost[i, column[i]] for i in range(people)) == best


def test_score_is_the_mean_over_all_joints_before_refine() -> None:
    heat, tags = points((2, 3, 3, 0.8, 0.0), (0, 3, 3, 0.4, 0.0), (1, 7, 7, 0.05, 0.0))
    poses = decode(heat, tags, BRIEF, Grouping())
    assert poses.scores_p.tolist() == pytest.approx([(0.8 + 0.4) / 4])
    np.testing.assert_allclose(poses.keypoints_pk3[0, 1], (7.5, 7.5, 0.05))  # found by refine
    assert poses.keypoints_pk3[0, 3].tolist() == [0, 0, 0]  # nowhere positive


def test_of_too_many_people_the_best_stay_in_their_order() -> None:
    cells = [(2, 1, 3 * i, value, 10.0 * i) for i, value in enumerate((0.9, 0.3))]
    cells += [(0, 8, 3 * i, value, 100 + 10.0 * i) for i, value in enumerate((0.5, 0.6))]
    heat, tags = points(*cells)
    poses = decode(heat, tags, BRIEF, Grouping(max_people=2, refine=False))
    assert poses.scores_p.tolist() == pytest.approx([0.9 / 4, 0.6 / 4])
    assert poses.keypoints_pk3[0, 2, 2] > 0
    assert poses.keypoints_pk3[1, 0, 2] > 0


@pytest.mark.parametrize(
    "change", [{"max_people": 0}, {"nms_kernel": 4}, {"detection_threshold": -0.1}, {"tag_threshold": 0.0}]
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(change))):
        replace(Grouping(), **change)


def test_shapes_that_do_not_fit_are_refused() -> None:
    heat, tags = points()
    for wrong_heat, wrong_tags in ((heat[:3], tags), (heat, tags[..., 0]), (heat[:, :5], tags), (heat[:3], tags[:3])):
        with pytest.raises(DataError, match=r"heatmaps must be \[4,H,W\]"):
            decode(wrong_heat, wrong_tags, BRIEF, Grouping())


# --- where it lands --------------------------------------------------------------------------------------------------


def encoded(x: float, y: float, stride: float, *, whole_cell: bool, size: int = 32) -> tuple[Array, Array]:
    """Target of a person whose joints are all at input pixel (x, y): exp(-d² / 2σ²), σ = 2.

    whole_cell: at cell int(x / stride), as training targets are; else at the true place, the middle of cell i at
    i + 0.5, as a network that had learnt the fraction too.
    """
    cx, cy = (int(x / stride), int(y / stride)) if whole_cell else (x / stride - 0.5, y / stride - 0.5)
    row, column = np.mgrid[:size, :size]
    heat = np.exp(-((column - cx) ** 2 + (row - cy) ** 2) / 8).astype(np.float32)
    return np.tile(heat, (4, 1, 1)), np.zeros((4, size, size, 1), np.float32)


def errors(*, whole_cell: bool, adjust: bool, stride: float = 4.0) -> Array:
    rng = np.random.default_rng(7)
    found = []
    for x, y in rng.uniform(3 * stride, 29 * stride, (1500, 2)):
        heat, tags = encoded(x, y, stride, whole_cell=whole_cell)
        poses = to_image(
            decode(heat, tags, BRIEF, Grouping(locate="quarter" if adjust else "middle")),
            [[1, 0, 0], [0, 1, 0]],
            stride,
        )
        assert len(poses) == 1
        found.append(poses.keypoints_pk3[0, 0, :2] - (x, y))
    return np.array(found)


@pytest.mark.parametrize("whole_cell", [True, False])
@pytest.mark.parametrize("adjust", [True, False])
def test_there_is_no_systematic_shift(whole_cell: bool, adjust: bool) -> None:
    """Error within a cell of 4 px is uniform in ±2: its mean over 1500 draws has a spread of 0.03 px."""
    assert np.abs(errors(whole_cell=whole_cell, adjust=adjust).mean(axis=0)).max() < 0.12


def test_adjust_halves_the_error_where_the_map_knows_the_fraction() -> None:
    coarse, fine = errors(whole_cell=False, adjust=False), errors(whole_cell=False, adjust=True)
    assert np.abs(coarse).mean() == pytest.approx(1.0, abs=0.06)  # uniform in ±2 px
    assert np.abs(fine).mean() == pytest.approx(0.5, abs=0.03)  # uniform in ±1 px


def test_to_image_undoes_the_transform() -> None:
    rng = np.random.default_rng(8)
    matrix = np.array([[0.6, -0.3, 12.0], [0.2, 0.7, -5.0]])
    image_pk2 = rng.uniform(0, 400, (3, 4, 2))
    cells_pk2 = (image_pk2 @ matrix[:, :2].T + matrix[:, 2]) / 4
    joint_pk3 = np.concatenate([cells_pk2, np.full((3, 4, 1), 0.5)], axis=2).astype(np.float32)
    joint_pk3[1, 2] = 0
    moved = to_image(Poses(joint_pk3, np.ones(3, np.float32)), matrix, 4)
    assert moved.keypoints_pk3[1, 2].tolist() == [0, 0, 0]
    image_pk2[1, 2] = 0
    np.testing.assert_allclose(moved.keypoints_pk3[..., :2], image_pk2, atol=1e-3)
    np.testing.assert_array_equal(moved.keypoints_pk3[..., 2], joint_pk3[..., 2])
    with pytest.raises(DataError, match="invertible"):
        to_image(moved, np.zeros((2, 3)), 4)


def test_coco_entries() -> None:
    joint_pk3 = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    entries = coco_results(Poses(joint_pk3, np.array([0.25], np.float32)), image_id=7)
    assert entries == [{"image_id": 7, "category_id": 1, "keypoints": [float(i) for i in range(12)], "score": 0.25}]
    assert all(type(value) is float for value in entries[0]["keypoints"])
    assert coco_results(decode(*points(), BRIEF, Grouping()), image_id=7) == []


# --- merging ---------------------------------------------------------------------------------------------------------


def plain_resize(maps: Array, size: tuple[int, int]) -> Array:
    """Bilinear between the middles of cells, edges repeated."""
    out = np.zeros((len(maps), *size))
    height, width = maps.shape[1:]
    for i, j in itertools.product(range(size[0]), range(size[1])):
        y = max(0.0, (i + 0.5) * height / size[0] - 0.5)
        x = max(0.0, (j + 0.5) * width / size[1] - 0.5)
        y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        top = maps[:, y0, x0] * (1 - (x - x0)) + maps[:, y0, x1] * (x - x0)
        bottom = maps[:, y1, x0] * (1 - (x - x0)) + maps[:, y1, x1] * (x - x0)
        out[:, i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return out


def network_outputs(seed: int, scales: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(8, 5, 6, generator=generator), torch.randn(4, 10, 12, generator=generator)][:scales]


@pytest.mark.parametrize("scales", [1, 2])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("out_hw", [None, (20, 24)])
def test_merging_is_the_formula(scales: int, flip: bool, out_hw: tuple[int, int] | None) -> None:
    outputs, mirrored = network_outputs(0, scales), network_outputs(1, scales) if flip else None
    heatmaps, tags = merge_outputs(outputs, mirrored, BRIEF, out_hw)
    finest = tuple(outputs[-1].shape[1:])
    size = out_hw or finest
    heat_passes, tag_passes = [], []
    for number, parts in enumerate(filter(None, (outputs, mirrored))):
        arrays = [part.numpy()[:, :, ::-1] if number else part.numpy() for part in parts]
        swap = [0, 2, 1, 3] if number else [0, 1, 2, 3]
        heat_passes.append(np.mean([plain_resize(array[:4], finest) for array in arrays], axis=0)[swap])
        tag_passes.append(plain_resize(arrays[0][4:], size)[swap])
    np.testing.assert_allclose(heatmaps, plain_resize(np.mean(heat_passes, axis=0), size), atol=1e-5)
    np.testing.assert_allclose(tags, np.stack(tag_passes, axis=-1) / np.sqrt(len(tag_passes)), atol=1e-5)
    assert heatmaps.dtype == tags.dtype == np.float32


def mirror(outputs: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    for output in outputs:
        yield torch.cat([part[[0, 2, 1, 3]] for part in output.split(4)]).flip(-1)


def test_a_network_that_does_not_mind_mirrors_gives_the_same_heatmaps() -> None:
    outputs = network_outputs(2, 2)
    once, _ = merge_outputs(outputs, None, BRIEF)
    twice, tags = merge_outputs(outputs, list(mirror(outputs)), BRIEF)
    np.testing.assert_allclose(once, twice, atol=1e-6)
    np.testing.assert_array_equal(tags[..., 0], tags[..., 1])


def test_a_mirrored_pass_that_says_the_same_changes_nobody() -> None:
    """Loose tags, as small networks give: joints up to 1.2 from their person's mean, near the threshold of 1."""
    rng = np.random.default_rng(11)
    counts = set()
    for _ in range(60):
        heat, _ = scene(rng, 2, (12, 14), 1)
        tags = np.round(rng.uniform(-0.9, 0.9, heat.shape), 2).astype(np.float32)
        outputs = [torch.from_numpy(np.concatenate([heat, tags]))]
        once = decode(*merge_outputs(outputs, None, BRIEF), BRIEF, Grouping())
        twice = decode(*merge_outputs(outputs, list(mirror(outputs)), BRIEF), BRIEF, Grouping())
        counts.add(len(once))
        assert len(once) == len(twice)
        np.testing.assert_allclose(twice.keypoints_pk3, once.keypoints_pk3, atol=1e-6)
    assert len(counts) > 2


def test_a_batch_of_one_is_a_picture_and_more_are_refused() -> None:
    outputs = network_outputs(3, 2)
    heatmaps, tags = merge_outputs(outputs, None, BRIEF)
    again, same = merge_outputs([output[None] for output in outputs], None, BRIEF)
    np.testing.assert_array_equal(heatmaps, again)
    np.testing.assert_array_equal(tags, same)
    with pytest.raises(DataError, match="one picture"):
        merge_outputs([torch.stack([outputs[0], outputs[0]])], None, BRIEF)
    with pytest.raises(DataError, match="17 heatmaps and 17 tags"):
        merge_outputs(outputs, None, COCO_PERSON)
    with pytest.raises(DataError, match="4 heatmaps and 4 tags"):
        merge_outputs([], None, BRIEF)


def test_peak_finds_exact_gaussians_exactly() -> None:
    rng = np.random.default_rng(5)
    sigma, worst = 1.25, 0.0
    for _ in range(200):
        u, v = rng.uniform(3, 13, 2)  # in cells; the middle of cell i is at i + 0.5
        rows, columns = np.arange(16)[:, None] + 0.5, np.arange(16)[None, :] + 0.5
        bell = np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * sigma**2)).astype(np.float32)
        heat = np.zeros((len(BRIEF), 16, 16), np.float32)
        heat[0] = bell
        poses = decode(
            heat, np.zeros((len(BRIEF), 16, 16, 1), np.float32), BRIEF, Grouping(locate="peak", refine=False)
        )
        assert len(poses) == 1
        worst = max(worst, float(np.abs(poses.keypoints_pk3[0, 0, :2] - (u, v)).max()))
    assert worst < 1e-3


def test_peak_stays_within_half_a_cell_and_in_the_middle_at_the_border() -> None:
    rng = np.random.default_rng(6)
    for _ in range(300):
        heat = rng.uniform(0, 1, (len(BRIEF), 7, 9)).astype(np.float32) ** 4
        tags = np.zeros((len(BRIEF), 7, 9, 1), np.float32)
        middle = decode(heat, tags, BRIEF, Grouping(locate="middle", refine=False))
        peak = decode(heat, tags, BRIEF, Grouping(locate="peak", refine=False))
        moved = peak.keypoints_pk3[:, :, :2] - middle.keypoints_pk3[:, :, :2]
        assert np.abs(moved).max() <= 0.5
        x, y = middle.keypoints_pk3[:, :, 0], middle.keypoints_pk3[:, :, 1]
        assert np.all(moved[(x == 0.5) | (x == 8.5)][:, 0] == 0)
        assert np.all(moved[(y == 0.5) | (y == 6.5)][:, 1] == 0)
