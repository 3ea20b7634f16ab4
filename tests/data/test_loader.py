from dataclasses import replace

import numpy as np
import pytest
import torch

from compress.data.boxes import PersonAugmentation, box_region, crop_matrix
from compress.data.keypoints import COCO_PERSON
from compress.data.limbs import layout_for
from compress.data.loader import batches, eval_batches
from compress.data.part_affinity_targets import part_maps
from compress.data.samples import MAX_PEOPLE
from compress.data.synthetic import Difficulty, SyntheticPeople
from compress.data.targets import gaussian_heatmaps
from compress.data.transforms import NO_AUGMENTATION, Augmentation, fit_matrix, move_keypoints
from compress.errors import DataError
from compress.pose.approaches.associative_embedding import TaggedPictures
from compress.pose.approaches.part_affinity import PartPictures
from compress.pose.approaches.top_down import PersonsInMaps
from compress.pose.codec import Codec

SAMPLES = {
    "input_hw": (64, 64),
    "strides": (4, 2),
    "codec": Codec(),
    "augmentation": Augmentation(),
}
SETTINGS = {"batch_size": 4, "epoch": 0, "seed": 3}


@pytest.fixture(scope="module")
def pictures():
    return SyntheticPeople(18, (64, 64), seed=1)


@pytest.fixture(scope="module")
def samples(pictures):
    return TaggedPictures(pictures, **SAMPLES)


def equal(one, other):
    tensors = [(one.images, other.images), (one.joints, other.joints)]
    tensors += [*zip(one.maps, other.maps, strict=True), *zip(one.weights, other.weights, strict=True)]
    return all(torch.equal(a, b) for a, b in tensors)


def test_shapes(samples):
    epoch = list(batches(samples, **SETTINGS))
    assert len(epoch) == 18 // 4
    batch = epoch[0]
    assert len(batch) == 4
    assert batch.images.shape == (4, 3, 64, 64)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert [m.shape for m in batch.maps] == [(4, 17, 16, 16), (4, 17, 32, 32)]
    assert [m.shape for m in batch.weights] == [(4, 1, 16, 16), (4, 1, 32, 32)]
    assert batch.joints.shape == (4, MAX_PEOPLE, 17, 2)


def test_joints_point_at_the_peaks(samples):
    for batch in batches(samples, **SETTINGS):
        flat = batch.maps[0].flatten(1)
        for row, joints in enumerate(batch.joints.reshape(len(batch), -1, 2)):
            labelled = joints[joints[:, 1] == 1, 0]
            assert (flat[row, labelled] == 1).all()
            assert len(labelled.unique()) == int((flat[row] == 1).sum())


def test_workers_change_nothing(samples):
    here = list(batches(samples, **SETTINGS))
    there = list(batches(samples, **SETTINGS, workers=2))
    assert len(here) == len(there)
    assert all(equal(a, b) for a, b in zip(here, there, strict=True))
    assert there[0].images.is_contiguous(memory_format=torch.channels_last)


def test_epochs_and_seeds_differ_and_repeat(samples):
    first = next(iter(batches(samples, **SETTINGS)))
    assert equal(first, next(iter(batches(samples, **SETTINGS))))
    assert not equal(first, next(iter(batches(samples, **{**SETTINGS, "epoch": 1}))))
    assert not equal(first, next(iter(batches(samples, **{**SETTINGS, "seed": 4}))))


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_every_batch(samples, world):
    whole = list(batches(samples, **SETTINGS))
    parts = [list(batches(samples, **SETTINGS, rank=rank, world=world)) for rank in range(world)]
    for number, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[number].images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part[number].maps[1] for part in parts]), batch.maps[1])


def test_a_batch_in_parts(samples):
    batch = next(batches(samples, **SETTINGS))
    parts = batch.parts(2)
    assert [len(part) for part in parts] == [2, 2]
    assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
    assert torch.equal(torch.cat([part.joints for part in parts]), batch.joints)
    assert torch.equal(torch.cat([part.weights[1] for part in parts]), batch.weights[1])


def test_flipped_pictures_have_flipped_joints(pictures):
    """Mirrored input: heatmaps are mirrored too, and left maps hold what right maps held."""
    still = TaggedPictures(pictures, **{**SAMPLES, "augmentation": NO_AUGMENTATION, "strides": (1,)})
    mirrored = replace(still, augmentation=Augmentation(0, (1, 1), 0, flip=1.0))
    for plain, flipped in zip(batches(still, **SETTINGS), batches(mirrored, **SETTINGS), strict=True):
        assert torch.equal(flipped.images, plain.images.flip(3))
        swapped = plain.maps[0][:, list(pictures.keypoints.flip_index)].flip(3)
        # int(x) and int(63 - x) add up to 62 or 63: compare the peaks to a cell.
        for a, b in zip(swapped.flatten(0, 1), flipped.maps[0].flatten(0, 1), strict=True):
            assert a.any() == b.any()
            near = torch.nn.functional.max_pool2d(b[None], 3, 1, 1)[0]
            assert (near[a == 1] == 1).all() or a.flatten().max() == 0


def test_ignored_regions_become_zeros_in_the_masks():
    crowd = Difficulty(people=(6, 6), scale=(0.7, 0.9), overlap=1.0)
    pictures = SyntheticPeople(8, (64, 64), seed=0, difficulty=crowd)
    samples = TaggedPictures(pictures, **{**SAMPLES, "augmentation": NO_AUGMENTATION, "strides": (1, 4)})
    order = np.random.default_rng([3, 0]).permutation(8)
    (batch,) = batches(samples, **{**SETTINGS, "batch_size": 8})
    found = 0
    for row, index in enumerate(order):
        ignored = pictures.ignore_mask(index)
        expected = np.ones((64, 64)) if ignored is None else 1 - ignored
        assert np.array_equal(batch.weights[0][row, 0].numpy(), expected)
        found += ignored is not None
        assert batch.weights[1][row].mean().item() == pytest.approx(expected.mean(), abs=0.06)
    assert found


def test_evaluation_is_in_order_and_complete(pictures):
    seen = []
    for images, matrices, indices in eval_batches(pictures, input_hw=(96, 128), batch_size=5):
        assert images.shape == (len(indices), 3, 96, 128)
        assert matrices[0] == pytest.approx(fit_matrix((64, 64), (96, 128)))
        seen += indices
    assert seen == list(range(18))


def test_a_batch_that_cannot_be_filled(samples):
    with pytest.raises(DataError, match="needs 19 pictures"):
        batches(samples, **{**SETTINGS, "batch_size": 19})


def test_targets_are_those_of_the_moved_joints(pictures):
    still = TaggedPictures(pictures, **{**SAMPLES, "augmentation": NO_AUGMENTATION})
    (batch,) = batches(still, **{**SETTINGS, "batch_size": 18})
    for row, index in enumerate(np.random.default_rng([3, 0]).permutation(18)):
        expected = gaussian_heatmaps(pictures.people(index).keypoints_pk3, (64, 64), 2, Codec())
        assert np.array_equal(batch.maps[1][row].numpy(), expected)


def test_part_pictures_give_one_map_for_all_stages(pictures):
    layout = layout_for(COCO_PERSON)
    samples = PartPictures(pictures, (64, 64), 8, layout, Codec(sigma=0.875), NO_AUGMENTATION)
    (batch,) = batches(samples, **{**SETTINGS, "batch_size": 18})
    assert [m.shape for m in batch.maps] == [(18, layout.channels, 8, 8)]
    assert [m.shape for m in batch.weights] == [(18, 1, 8, 8)]
    assert batch.joints is None
    for row, index in enumerate(np.random.default_rng([3, 0]).permutation(18)):
        expected = part_maps(pictures.people(index).keypoints_pk3, layout, (64, 64), 8, 7.0, 1.0)
        assert np.array_equal(batch.maps[0][row].numpy(), expected)


def test_every_labelled_person_is_cut_out_once(pictures):
    samples = PersonsInMaps(pictures, (64, 48), Codec(), PersonAugmentation(0, 0, 0, 0), strides=(4,))
    people = sum(len(pictures.people(index)) for index in range(18))
    assert len(samples) == people
    assert samples.persons[0] == (0, 0)
    (batch,) = batches(samples, **{**SETTINGS, "batch_size": people})
    assert batch.images.shape == (people, 3, 64, 48)
    for row, number in enumerate(np.random.default_rng([3, 0]).permutation(people)):
        picture, person = samples.persons[number]
        labels, box = pictures.people(picture).keypoints_pk3[person], pictures.people(picture).boxes_p4[person]
        matrix = crop_matrix(box_region(box, (64, 48)), (64, 48))
        moved = move_keypoints(labels[None], matrix, (64, 48))
        assert np.array_equal(batch.weights[0][row, :, 0, 0].numpy(), (moved[0, :, 2] > 0).astype(np.float32))
        assert np.array_equal(batch.maps[0][row].numpy(), gaussian_heatmaps(moved, (64, 48), 4, Codec()))
