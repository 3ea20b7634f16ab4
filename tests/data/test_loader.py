import numpy as np
import pytest
import torch

from compress.data.loader import MAX_PEOPLE, batches, eval_batches
from compress.data.synthetic import Difficulty, SyntheticPeople
from compress.data.targets import gaussian_heatmaps
from compress.data.transforms import NO_AUGMENTATION, Augmentation, fit_matrix
from compress.errors import DataError

SETTINGS = {
    "input_hw": (64, 64),
    "strides": (4, 2),
    "sigma": 2.0,
    "batch_size": 4,
    "epoch": 0,
    "seed": 3,
    "augmentation": Augmentation(),
}


@pytest.fixture(scope="module")
def pictures():
    return SyntheticPeople(18, (64, 64), seed=1)


def equal(one, other):
    tensors = [(one.images, other.images), (one.joints, other.joints)]
    tensors += [*zip(one.heatmaps, other.heatmaps, strict=True), *zip(one.masks, other.masks, strict=True)]
    return all(torch.equal(a, b) for a, b in tensors)


def test_shapes(pictures):
    epoch = list(batches(pictures, **SETTINGS))
    assert len(epoch) == 18 // 4
    batch = epoch[0]
    assert len(batch) == 4
    assert batch.images.shape == (4, 3, 64, 64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert [m.shape for m in batch.heatmaps] == [(4, 17, 16, 16), (4, 17, 32, 32)]
    assert [m.shape for m in batch.masks] == [(4, 16, 16), (4, 32, 32)]
    assert batch.joints.shape == (4, MAX_PEOPLE, 17, 2)


def test_joints_point_at_the_peaks(pictures):
    for batch in batches(pictures, **SETTINGS):
        flat = batch.heatmaps[0].flatten(1)
        for row, joints in enumerate(batch.joints.reshape(len(batch), -1, 2)):
            labelled = joints[joints[:, 1] == 1, 0]
            assert (flat[row, labelled] == 1).all()
            assert len(labelled.unique()) == int((flat[row] == 1).sum())


def test_workers_change_nothing(pictures):
    here = list(batches(pictures, **SETTINGS))
    there = list(batches(pictures, **SETTINGS, workers=2))
    assert len(here) == len(there)
    assert all(equal(a, b) for a, b in zip(here, there, strict=True))
    assert there[0].images.is_contiguous(memory_format=torch.channels_last)


def test_epochs_and_seeds_differ_and_repeat(pictures):
    first = next(iter(batches(pictures, **SETTINGS)))
    assert equal(first, next(iter(batches(pictures, **SETTINGS))))
    assert not equal(first, next(iter(batches(pictures, **{**SETTINGS, "epoch": 1}))))
    assert not equal(first, next(iter(batches(pictures, **{**SETTINGS, "seed": 4}))))


def test_limit(pictures):
    assert len(list(batches(pictures, **SETTINGS, limit=9))) == 2


def test_flipped_pictures_have_flipped_joints(pictures):
    """Mirrored input: heatmaps are mirrored too, and left maps hold what right maps held."""
    still = {**SETTINGS, "augmentation": NO_AUGMENTATION, "strides": (1,)}
    mirrored = {**still, "augmentation": Augmentation(0, (1, 1), 0, flip=1.0)}
    for plain, flipped in zip(batches(pictures, **still), batches(pictures, **mirrored), strict=True):
        assert torch.equal(flipped.images, plain.images.flip(3))
        swapped = plain.heatmaps[0][:, list(pictures.keypoints.flip_index)].flip(3)
        # int(x) and int(63 - x) add up to 62 or 63: compare the peaks to a cell.
        for a, b in zip(swapped.flatten(0, 1), flipped.heatmaps[0].flatten(0, 1), strict=True):
            assert a.any() == b.any()
            near = torch.nn.functional.max_pool2d(b[None], 3, 1, 1)[0]
            assert (near[a == 1] == 1).all() or a.flatten().max() == 0


def test_ignored_regions_become_zeros_in_the_masks():
    crowd = Difficulty(people=(6, 6), scale=(0.7, 0.9), overlap=1.0)
    pictures = SyntheticPeople(8, (64, 64), seed=0, difficulty=crowd)
    settings = {**SETTINGS, "augmentation": NO_AUGMENTATION, "strides": (1, 4), "batch_size": 8}
    order = np.random.default_rng([3, 0]).permutation(8)
    (batch,) = batches(pictures, **settings)
    found = 0
    for row, index in enumerate(order):
        ignored = pictures.ignore_mask(index)
        expected = np.ones((64, 64)) if ignored is None else 1 - ignored
        assert np.array_equal(batch.masks[0][row].numpy(), expected)
        found += ignored is not None
        assert batch.masks[1][row].mean().item() == pytest.approx(expected.mean(), abs=0.06)
    assert found


def test_evaluation_is_in_order_and_complete(pictures):
    seen = []
    for images, matrices, indices in eval_batches(pictures, input_hw=(96, 128), batch_size=5):
        assert images.shape == (len(indices), 3, 96, 128)
        assert matrices[0] == pytest.approx(fit_matrix((64, 64), (96, 128)))
        seen += indices
    assert seen == list(range(18))


@pytest.mark.parametrize(
    ("change", "words"), [({"input_hw": (66, 64)}, "divisible by stride 4"), ({"batch_size": 19}, "needs 19 pictures")]
)
def test_settings_that_cannot_work(pictures, change, words):
    with pytest.raises(DataError, match=words):
        batches(pictures, **{**SETTINGS, **change})


def test_targets_are_those_of_the_moved_joints(pictures):
    settings = {**SETTINGS, "augmentation": NO_AUGMENTATION, "batch_size": 18}
    (batch,) = batches(pictures, **settings)
    for row, index in enumerate(np.random.default_rng([3, 0]).permutation(18)):
        expected = gaussian_heatmaps(pictures.people(index).keypoints_pk3, (64, 64), 2, 2.0)
        assert np.array_equal(batch.heatmaps[1][row].numpy(), expected)
