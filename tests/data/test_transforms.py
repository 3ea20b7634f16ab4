import numpy as np
import pytest
import torch

from compress.data.keypoints import COCO_PERSON
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.transforms import (
    NO_AUGMENTATION,
    Augmentation,
    augment_matrix,
    fit_matrix,
    flip,
    mirrors,
    move_keypoints,
    normalise,
    renormalised,
    warp,
)


def apply(matrix, x, y):
    return matrix @ np.array([x, y, 1.0])


def test_fit_keeps_proportions_and_centres():
    matrix = fit_matrix((100, 200), (64, 64))  # factor 0.32: 200 → 64, 100 → 32, so 16 rows of border above and below
    # The outer edges of the first and last pixel: -0.5 and size - 0.5.
    assert apply(matrix, -0.5, -0.5) == pytest.approx([-0.5, 16 - 0.5])
    assert apply(matrix, 199.5, 99.5) == pytest.approx([63.5, 48 - 0.5])


def test_fit_of_the_same_size_is_the_identity():
    assert fit_matrix((96, 128), (96, 128)) == pytest.approx(np.array([[1, 0, 0], [0, 1, 0]]))


def test_no_augmentation_fills_the_short_side():
    matrix = augment_matrix(np.random.default_rng(0), (100, 200), (64, 64), NO_AUGMENTATION)
    assert matrix[:, :2] == pytest.approx(np.eye(2) * 64 / 100)
    assert apply(matrix, 99.5, 49.5) == pytest.approx([31.5, 31.5])


def test_augmentation_stays_in_its_ranges_and_reaches_their_ends():
    augmentation = Augmentation(rotation_deg=30, scale=(0.75, 1.5), translate_px=40, flip=0.5)
    rng = np.random.default_rng(0)
    matrices = [augment_matrix(rng, (100, 200), (128, 256), augmentation) for _ in range(2000)]
    linear = np.array([m[:, :2] for m in matrices])
    factor = np.sqrt(np.abs(np.linalg.det(linear))) / (128 / 100)
    assert 1 / 1.5 <= factor.min() < 0.68
    assert 1.31 < factor.max() <= 1 / 0.75 + 1e-9
    angle = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 1, 1]))
    assert -30 <= angle.min() < -29
    assert 29 < angle.max() <= 30
    shift = np.array([apply(m, 99.5, 49.5) - (127.5, 63.5) for m in matrices])
    assert np.abs(shift).max() == pytest.approx(40 * 128 / 512, rel=0.01)
    assert np.mean([mirrors(m) for m in matrices]) == pytest.approx(0.5, abs=0.04)


def test_mirroring_turns_the_picture_about_its_middle_column():
    matrix = augment_matrix(np.random.default_rng(0), (64, 64), (64, 64), Augmentation(0, (1, 1), 0, flip=1.0))
    assert mirrors(matrix)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert np.array_equal(warp(image, matrix, (64, 64)), image[:, ::-1])


@pytest.mark.parametrize("seed", range(5))
def test_keypoints_follow_the_picture(seed):
    image = np.zeros((120, 160, 3), np.uint8)
    keypoints = np.array([[[60, 50, 2], [90, 70, 1], [75, 45, 2]]], np.float32)
    for channel, (x, y, _) in enumerate(keypoints[0].astype(int)):
        image[y - 2 : y + 3, x - 2 : x + 3, channel] = 255
    matrix = augment_matrix(np.random.default_rng(seed), (120, 160), (128, 128), Augmentation())
    warped = warp(image, matrix, (128, 128)).astype(float)
    warped[(warped == IMAGENET.border_rgb).all(axis=2)] = 0
    moved = move_keypoints(keypoints, matrix, (128, 128))
    rows, columns = np.mgrid[:128, :128]
    for channel, (x, y, v) in enumerate(moved[0]):
        weight = warped[..., channel]
        near = np.hypot(rows - y, columns - x) < 12  # leaves out border pixels blended into the picture's edge
        weight = weight * near
        assert v == keypoints[0, channel, 2]
        assert (weight * columns).sum() / weight.sum() == pytest.approx(x, abs=0.15)
        assert (weight * rows).sum() / weight.sum() == pytest.approx(y, abs=0.15)


def test_joints_outside_the_input_lose_their_label():
    identity = fit_matrix((10, 20), (10, 20))
    keypoints = np.array([[[0, 0, 2], [19.9, 9.9, 1], [20, 5, 2], [5, 10, 2], [-0.1, 5, 2], [5, 5, 0]]], np.float32)
    moved = move_keypoints(keypoints, identity, (10, 20))
    assert moved[0, :2] == pytest.approx(keypoints[0, :2])
    assert not moved[0, 2:].any()


def test_flip_swaps_partners_and_undoes_itself():
    keypoints = np.random.default_rng(0).random((2, 17, 3)).astype(np.float32)
    once = flip(keypoints, COCO_PERSON.flip_index)
    left, right = COCO_PERSON.names.index("left_wrist"), COCO_PERSON.names.index("right_wrist")
    assert np.array_equal(once[:, left], keypoints[:, right])
    assert np.array_equal(once[:, 0], keypoints[:, 0])
    assert np.array_equal(flip(once, COCO_PERSON.flip_index), keypoints)


OPENPOSE = Normalisation((128 / 255,) * 3, (256 / 255,) * 3, "BGR")
BLUE_FIRST = Normalisation(channels="BGR")


def test_openposes_inputs_are_its_authors():
    """Blue first, (x - 128) / 256."""
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3)).astype(np.uint8)
    tensor = normalise(images, OPENPOSE)
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    expected = (images[1, 3, 2, ::-1].astype(float) - 128) / 256
    assert tensor[1, :, 3, 2].numpy() == pytest.approx(expected, abs=1e-6)


def test_constants_stand_in_the_order_of_the_channels():
    """SimpleBaseline's authors subtract the mean of red from blue."""
    images = np.random.default_rng(0).integers(0, 256, (1, 8, 6, 3)).astype(np.uint8)
    expected = (images[0, 3, 2, ::-1] / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    assert normalise(images, BLUE_FIRST)[0, :, 3, 2].numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("normalisation", [IMAGENET, OPENPOSE, BLUE_FIRST, Normalisation((0, 0, 0), (1, 1, 1))])
def test_outside_the_picture_the_input_is_about_0(normalisation):
    outside = warp(np.full((8, 8, 3), 255, np.uint8), np.array([[1.0, 0, 100], [0, 1, 0]]), (8, 8), normalisation)
    assert normalise(outside[None], normalisation).abs().max() < 0.5 / 255 / min(normalisation.std)


@pytest.mark.parametrize("given", [IMAGENET, OPENPOSE, BLUE_FIRST])
@pytest.mark.parametrize("wanted", [IMAGENET, OPENPOSE, BLUE_FIRST])
def test_renormalised_inputs_are_those_of_the_same_picture(given, wanted):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3)).astype(np.uint8)
    found = renormalised(normalise(images, given), given, wanted)
    assert torch.allclose(found, normalise(images, wanted), atol=1e-5)


def test_normalise_is_imagenets_and_channels_last():
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3)).astype(np.uint8)
    tensor = normalise(images)
    assert tensor.shape == (2, 3, 8, 6)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous(memory_format=torch.channels_last)
    expected = (images[1, 3, 2] / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    assert tensor[1, :, 3, 2].numpy() == pytest.approx(expected, abs=1e-5)
