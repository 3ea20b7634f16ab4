"""Vectors of bins: targets and loss by mmpose's formulas written as loops, and decoding joint by joint."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from compress.data.boxes import PersonAugmentation, cut_out, labelled_persons, person_bins, sigma_of_bins
from compress.data.keypoints import COCO_PERSON, KeypointSet
from compress.data.synthetic import SyntheticPeople
from compress.errors import DataError
from compress.networks.rtmpose import RTMPose
from compress.pose.approaches import objective_for
from compress.pose.approaches.sim_cc import bins_xy, sim_cc_loss
from compress.pose.codec import codec_named
from compress.pose.decode.sim_cc import decode, merge_outputs
from compress.recipe import Training

Floats = NDArray[np.float32]
HW, BINS = (256, 192), (384, 512)
SIM_CC = codec_named("simcc")
PAIR = KeypointSet("pair", ("left_eye", "right_eye"), ((0, 1),), (), (0.1, 0.1), (0, 1))


@dataclass(frozen=True)
class Batch:
    maps: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    joints: Tensor | None = None


def batch_of(joints_bk3: Floats) -> Batch:
    targets = [person_bins(joints_k3, HW, BINS, SIM_CC) for joints_k3 in joints_bk3]
    x, y, weights = (torch.from_numpy(np.stack(parts)) for parts in zip(*targets, strict=True))
    return Batch((x, y), (weights[:, :, None], weights[:, :, None]))


def mmposes(x: float, y: float) -> tuple[list[float], list[float], int]:
    """SimCCLabel._generate_gaussian, one joint."""
    mu, sizes, sigmas = (round(2 * x), round(2 * y)), (384, 512), (4.9, 5.66)
    vectors = [
        [math.exp(-((i - m) ** 2) / (2 * s**2)) for i in range(n)] for m, n, s in zip(mu, sizes, sigmas, strict=True)
    ]
    left = [m - 3 * s for m, s in zip(mu, sigmas, strict=True)]
    right = [m + 3 * s + 1 for m, s in zip(mu, sigmas, strict=True)]
    outside = any(a >= n for a, n in zip(left, sizes, strict=True)) or any(b < 0 for b in right)
    return ([0.0] * 384, [0.0] * 512, 0) if outside else (vectors[0], vectors[1], 1)


@pytest.mark.parametrize(
    ("x", "y", "weight"),
    [
        (50.3, 60.9, 1),
        (0.25, 255.75, 1),  # halves go to the even bin
        (0.75, 0, 1),
        (-3.0, 100, 1),  # slightly outside it still teaches
        (-7.7, 100, 1),  # bin -15 ≥ -(3 · 4.9 + 1)
        (-8.1, 100, 0),
        (199.2, 100, 1),  # bin 398 < 384 + 14.7
        (199.6, 100, 0),
        (100, 264.2, 1),
        (100, 264.4, 0),
    ],
)
def test_targets_are_mmposes(x: float, y: float, weight: int) -> None:
    joints = np.array([[x, y, 2], [0, 0, 0]], np.float32)
    x_kn, y_kn, weights = person_bins(joints, HW, BINS, SIM_CC)
    expected_x, expected_y, known = mmposes(x, y)
    assert known == weight
    assert weights.tolist() == [weight, 0]
    np.testing.assert_allclose(x_kn, [expected_x, [0] * 384], atol=1e-6)
    np.testing.assert_allclose(y_kn, [expected_y, [0] * 512], atol=1e-6)


def test_widths_are_those_of_the_published_configurations() -> None:
    assert [sigma_of_bins(n) for n in (384, 512, 576, 768)] == [4.9, 5.66, 6.0, 6.93]


def test_exact_targets_are_around_the_joint_itself() -> None:
    joints = np.array([[50.3, 60.9, 2]], np.float32)
    x_kn, _, _ = person_bins(joints, HW, BINS, codec_named("simcc", targets="joint"))
    expected = [math.exp(-((i - 100.6) ** 2) / (2 * 4.9**2)) for i in range(384)]
    np.testing.assert_allclose(x_kn[0], expected, atol=1e-5)


def test_bins_go_by_the_input_and_the_split() -> None:
    assert bins_xy(RTMPose(), HW) == BINS
    assert bins_xy(RTMPose(split=3, input_hw=(64, 96)), (64, 96)) == (288, 192)


def test_loss_of_flat_logits_is_the_published_one() -> None:
    """One person, one joint at (50.3, 60.9), all logits 0: mmpose's KLDiscretLoss gives 0.0182937."""
    batch = batch_of(np.array([[[50.3, 60.9, 2]]], np.float32))
    loss = sim_cc_loss([torch.zeros(1, 1, 384), torch.zeros(1, 1, 512)], batch)
    assert loss.item() == pytest.approx(0.0182937, abs=1e-7)


def test_loss_is_mmposes_over_the_batch() -> None:
    generator = np.random.default_rng(0)
    joints = generator.uniform(0, 190, (3, 2, 3)).astype(np.float32)
    joints[..., 2] = [[2, 2], [0, 1], [2, 0]]
    batch = batch_of(joints)
    outputs = [torch.randn(3, 2, 384), torch.randn(3, 2, 512)]
    published = 0.0
    for output, label, weight in zip(outputs, batch.maps, batch.weights, strict=True):
        for joint in range(2):
            log_p = functional.log_softmax(10 * output[:, joint], dim=1)
            target = functional.softmax(10 * label[:, joint], dim=1)
            term = functional.kl_div(log_p, target, reduction="none").mean(1) * weight[:, joint, 0]
            published += term.sum().item() / 2
    assert sim_cc_loss(outputs, batch).item() == pytest.approx(published / 3, rel=1e-5)
    assert sim_cc_loss(batch.maps, batch).item() == pytest.approx(0, abs=1e-9)


def test_parts_of_a_batch_add_up_to_its_loss() -> None:
    joints = np.random.default_rng(1).uniform(1, 190, (4, 2, 3)).astype(np.float32)
    batch, outputs = batch_of(joints), [torch.randn(4, 2, 384), torch.randn(4, 2, 512)]
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        part = Batch(tuple(m[rows] for m in batch.maps), tuple(w[rows] for w in batch.weights))
        parts.append(sim_cc_loss([output[rows] for output in outputs], part).item())
    assert sim_cc_loss(outputs, batch).item() == pytest.approx(sum(parts) / 2)


def test_outputs_of_other_shapes_are_refused() -> None:
    batch = batch_of(np.ones((1, 2, 3), np.float32))
    for outputs in ([torch.zeros(1, 2, 384)], [torch.zeros(1, 2, 384), torch.zeros(1, 2, 384)]):
        with pytest.raises(DataError, match="vectors of bins"):
            sim_cc_loss(outputs, batch)


def test_distillation_is_the_loss_on_the_teachers_logits() -> None:
    network = RTMPose(width=0.0625, keypoints=17)
    objective = objective_for(network, COCO_PERSON, HW, Training(), SIM_CC)
    student = [torch.randn(2, 17, 384, requires_grad=True), torch.randn(2, 17, 512, requires_grad=True)]
    teacher = [torch.randn(2, 17, 384, requires_grad=True), torch.randn(2, 17, 512, requires_grad=True)]
    found = objective.distillation_loss(student, teacher)
    expected = sum(
        functional.kl_div((10 * s).log_softmax(2), (10 * t).softmax(2), reduction="none").mean()
        for s, t in zip(student, teacher, strict=True)
    )
    assert found.item() == pytest.approx(torch.as_tensor(expected).item(), rel=1e-5)
    found.backward()  # type: ignore[no-untyped-call]
    assert student[0].grad is not None
    assert teacher[0].grad is None
    assert objective.distillation_loss(student, student).item() == pytest.approx(0, abs=1e-9)
    with pytest.raises(DataError, match="same shapes"):
        objective.distillation_loss(student, teacher[:1])


def test_joints_are_at_the_largest_bins() -> None:
    x, y = np.full((1, 3, 10), -1, np.float32), np.full((1, 3, 12), -1, np.float32)
    x[0, 0, [3, 7]], y[0, 0, 11] = (0.9, 0.9), 0.7
    x[0, 1, 2], y[0, 1, 4] = 0.5, -0.5
    x[0, 2, :], y[0, 2, :] = np.nan, np.inf
    x[0, 1, 5] = np.nan
    assert decode(x, y)[0].tolist() == [
        [3.5, 11.5, pytest.approx(0.7)],
        [2.5, 4.5, -0.5],
        [0.5, 0.5, 0],
    ]


def test_the_mirrored_pass_is_reversed_along_x_and_its_sides_change() -> None:
    x, y = torch.randn(1, 2, 6), torch.randn(1, 2, 4)
    other_x, other_y = torch.randn(1, 2, 6), torch.randn(1, 2, 4)
    found_x, found_y = merge_outputs([x, y], [other_x, other_y], PAIR)
    for joint, twin in ((0, 1), (1, 0)):
        expected_x = [(x[0, joint, i] + other_x[0, twin, 5 - i]).item() / 2 for i in range(6)]
        np.testing.assert_allclose(found_x[0, joint], expected_x, rtol=1e-6)
        np.testing.assert_allclose(found_y[0, joint], (y[0, joint] + other_y[0, twin]) / 2, rtol=1e-6)
    alone_x, alone_y = merge_outputs([x, y], None, PAIR)
    assert np.array_equal(alone_x, x.numpy())
    assert np.array_equal(alone_y, y.numpy())


def test_outputs_of_another_head_are_refused() -> None:
    for outputs in ([torch.zeros(1, 2, 4, 4)], [torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)]):
        with pytest.raises(DataError, match="two of"):
            merge_outputs(outputs, None, PAIR)
    pair = [torch.zeros(1, 2, 4), torch.zeros(1, 2, 4)]
    with pytest.raises(DataError, match="both passes"):
        merge_outputs(pair, [torch.zeros(2, 2, 4), torch.zeros(2, 2, 4)], PAIR)


def test_samples_keep_joints_that_left_the_cut_out() -> None:
    """Heatmaps have nothing of them; here the foot of the bell teaches."""
    pictures = SyntheticPeople(12, (240, 200), 3)
    shifted = PersonAugmentation(rotation_deg=0, scale=0.35, flip=0.5, half_body=1)
    outside = 0
    for number, person in enumerate(labelled_persons(pictures)):
        image, joints = cut_out(pictures, person, HW, shifted, SIM_CC.crop, np.random.default_rng(number))
        assert image.shape == (256, 192, 3)
        _, _, weights = person_bins(joints, HW, BINS, SIM_CC)
        beyond = (joints[:, 2] > 0) & ((joints[:, 0] < 0) | (joints[:, 0] >= 192) | (joints[:, 1] < 0))
        outside += int((weights[beyond] == 1).sum())
    assert outside > 0
