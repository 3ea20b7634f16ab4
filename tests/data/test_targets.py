from math import exp

import numpy as np
import pytest

from compress.data.targets import gaussian_heatmaps, joint_locations
from compress.pose.codec import Codec, codec_named


def joints(*rows):
    """[1, K, 3]"""
    return np.array([rows], np.float32)


def test_gaussian_values():
    maps = gaussian_heatmaps(joints((41, 22.9, 2)), (128, 96), 4, Codec())
    assert maps.shape == (1, 32, 24)
    row, column = 22 // 4, 41 // 4
    assert maps[0, row, column] == 1
    assert maps[0, row, column + 3] == pytest.approx(exp(-(3**2) / (2 * 2**2)))
    assert maps[0, row + 2, column - 1] == pytest.approx(exp(-(2**2 + 1**2) / (2 * 2**2)))


def test_gaussian_patch_has_6_sigma_plus_3_cells():
    maps = gaussian_heatmaps(joints((64, 64, 2)), (128, 128), 2, Codec())
    assert np.count_nonzero(maps) == (6 * 2 + 3) ** 2


def test_against_higherhrnets_loop():
    """The same as writing each patch by hand, as HeatmapGenerator of the official code does."""
    rng = np.random.default_rng(0)
    keypoints = np.concatenate([rng.uniform(0, 64, (4, 5, 2)), rng.integers(0, 3, (4, 5, 1))], axis=2)
    sigma, size = 2, 16
    expected = np.zeros((5, size, size))
    for person in keypoints:
        for joint, (x, y, v) in enumerate(person):
            if v > 0:
                for row in range(size):
                    for column in range(size):
                        dx, dy = column - int(x / 4), row - int(y / 4)
                        if max(abs(dx), abs(dy)) <= 3 * sigma + 1:
                            value = exp(-(dx**2 + dy**2) / (2 * sigma**2))
                            expected[joint, row, column] = max(expected[joint, row, column], value)
    maps = gaussian_heatmaps(keypoints.astype(np.float32), (64, 64), 4, Codec(sigma=sigma))
    assert maps == pytest.approx(expected, abs=1e-6)


def test_persons_meet_in_their_maximum():
    one, other = joints((20, 20, 2)), joints((28, 20, 1))
    alone = [gaussian_heatmaps(k, (64, 64), 4, Codec()) for k in (one, other)]
    both = gaussian_heatmaps(np.concatenate([one, other]), (64, 64), 4, Codec())
    assert np.array_equal(both, np.maximum(*alone))


def test_unlabelled_joints_and_no_persons_leave_no_trace():
    assert not gaussian_heatmaps(joints((20, 20, 0)), (64, 64), 4, Codec()).any()
    assert gaussian_heatmaps(np.zeros((0, 17, 3), np.float32), (64, 64), 4, Codec()).shape == (17, 16, 16)
    assert not joint_locations(np.zeros((0, 17, 3), np.float32), (64, 64), 4, Codec()).any()


def test_locations_are_flat_indices_into_the_tag_maps():
    locations = joint_locations(joints((41, 22, 2), (0, 0, 0), (63, 63, 1)), (64, 64), 4, Codec(), max_people=2)
    assert locations.dtype == np.int64
    assert locations[0].tolist() == [[(0 * 16 + 5) * 16 + 10, 1], [0, 0], [(2 * 16 + 15) * 16 + 15, 1]]
    assert not locations[1].any()


def test_persons_without_joints_take_no_row_and_too_many_are_left_out():
    people = np.array([[[0, 0, 0]], [[4, 0, 2]], [[8, 0, 2]], [[12, 0, 2]]], np.float32)
    assert joint_locations(people, (16, 16), 4, Codec(), max_people=2)[:, 0].tolist() == [[1, 1], [2, 1]]


def test_exact_gaussian_is_centred_on_the_joint() -> None:
    sigma, stride, x, y = 1.5, 4, 33.0, 18.5
    people = np.array([[[x, y, 2.0]]], np.float32)
    heat = gaussian_heatmaps(people, (64, 96), stride, codec_named("exact", sigma=sigma))[0]
    for row in range(16):
        for column in range(24):
            dx, dy = column + 0.5 - x / stride, row + 0.5 - y / stride
            near = max(abs(column - int(x / stride)), abs(row - int(y / stride))) <= int(3 * sigma + 1)
            expected = np.exp(-(dx**2 + dy**2) / (2 * sigma**2)) if near else 0.0
            assert abs(heat[row, column] - expected) < 1e-6
