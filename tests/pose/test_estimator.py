"""Perfect answers are read as the people they were made from, in every approach, and scored by every metric."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.artefacts.records import from_plain, to_plain
from compress.data.detections import Detections
from compress.data.keypoints import COCO_PERSON
from compress.data.synthetic import Difficulty, SyntheticPeople
from compress.errors import DataError, RecipeError
from compress.jobs.profile.decoding_costs import decode_table, perfect_answers
from compress.measure.decoding import decode_time
from compress.networks import Architecture, made_for
from compress.networks.dir_bhrnet import DirBHRNet, equal_blocks
from compress.networks.lightweight_openpose import LightweightOpenPose
from compress.networks.rtmpose import RTMPose
from compress.pose.approaches import Setting, approach_of, estimator_for, objective_for
from compress.pose.average_precision import oks_ap
from compress.pose.codec import Codec, codec_named
from compress.pose.decode.poses import coco_results
from compress.pose.estimator import (
    DetectedBoxes,
    LabelledBoxes,
    PoseEstimator,
    WholePictures,
    estimate_all_poses,
    estimate_poses,
    first_inputs,
)
from compress.pose.scoring import Score, score
from compress.recipe import Decoding, Training

NARROW: dict[str, Any] = {"width": 8, "blocks": equal_blocks(0)}
SIM_CC = RTMPose(width=0.0625, tokens=16, gate=16, key=8)
NETWORKS: dict[str, Architecture] = {
    "one scale": DirBHRNet(**NARROW, head="single"),
    "two scales": DirBHRNet(**NARROW, head="higher", head_filters=8),
    "PAF": LightweightOpenPose(width=0.25, features=16, head=16),
    "top-down": DirBHRNet(**NARROW, head="heatmaps"),
    "SimCC": SIM_CC,
}
HW = (256, 192)
EXACT = codec_named("exact", sigma=1.5)
PICTURES = SyntheticPeople(6, (240, 200), 2, difficulty=Difficulty(people=(1, 2), scale=(0.8, 0.95), truncation=0))


def estimator(architecture: Architecture, boxes: Any = None, upsample: int = 2, **decoding: Any) -> PoseEstimator:
    codec = replace(codec_for(architecture), upsample=upsample) if architecture.approach == "PAF" else None
    return estimator_for(
        architecture,
        COCO_PERSON,
        HW,
        codec=codec or codec_for(architecture),
        decoding=Decoding(**decoding),
        boxes=boxes or LabelledBoxes(),
    )


def codec_for(architecture: Architecture) -> Codec:
    """Exact, as far as the approach goes."""
    return {"PAF": Codec(sigma=1.5), "SimCC": Codec(targets="joint")}.get(architecture.approach, EXACT)


def setting(architecture: Architecture) -> Setting:
    return Setting(architecture, COCO_PERSON, HW, codec_for(architecture))


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("flip_test", [False, True])
def test_perfect_answers_are_the_people(name: str, flip_test: bool) -> None:
    reader = estimator(NETWORKS[name], flip_test=flip_test)
    results = []
    for index in range(len(PICTURES)):
        inputs = reader.inputs(PICTURES, index)
        answers, mirrored = perfect_answers(setting(NETWORKS[name]), PICTURES, index, inputs)
        expected = [(len(inputs.images), *shape) for shape in shapes(NETWORKS[name])]
        assert [tuple(part.shape) for part in answers] == expected
        poses = reader.decode(inputs, answers, mirrored if flip_test else None)
        results += coco_results(poses, PICTURES.image_id(index))
    assert oks_ap(PICTURES.coco, results, COCO_PERSON).figures["AP"] > 0.9


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("decoding", [{"flip_test": True}, {"upsample": 4}, {"upsample": 2}])
def test_no_reading_moves_people_aside(name: str, decoding: dict[str, Any]) -> None:
    """Answers made from the joints of the mirrored picture, and part maps read at other sizes than the network's."""
    reader = estimator(NETWORKS[name], **{"flip_test": False, **decoding})
    lonely = SyntheticPeople(8, (256, 192), 2, difficulty=Difficulty(people=(1, 1), truncation=0, occluder=0))
    away = []
    for index in range(len(lonely)):
        inputs = reader.inputs(lonely, index)
        answers, mirrored = perfect_answers(setting(NETWORKS[name]), lonely, index, inputs)
        poses = reader.decode(inputs, answers, mirrored if "flip_test" in decoding else None)
        truth = lonely.people(index).keypoints_pk3
        if len(poses) == len(truth) == 1:
            both = (poses.keypoints_pk3[0, :, 2] > 0) & (truth[0, :, 2] > 0)
            away.append((poses.keypoints_pk3[0] - truth[0])[both, :2] @ inputs.matrices[0][:, :2].T)
    assert len(away) >= 6
    tolerance_px = 0.2 if name == "PAF" else 0.05
    assert np.abs(np.concatenate(away).mean(axis=0)).max() < tolerance_px


def shapes(architecture: Architecture) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(output.shape[1:]) for output in architecture.build().eval()(torch.zeros(1, 3, *HW))]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_perfect_answers_have_no_loss_but_tags(name: str) -> None:
    """The targets of training and the maps that decoding understands are the same."""
    architecture = NETWORKS[name]
    still: dict[str, Any] = {}
    architecture, codec = made_for(architecture, (192, 192)), codec_for(architecture)
    if approach_of(architecture).per_person:
        still["person_augment"] = {"rotation_deg": 0, "scale": 0, "flip": 0, "half_body": 0}
    else:
        still["augment"] = {"rotation_deg": 0, "scale": [1, 1], "translate_px": 0, "flip": 0}
    square = SyntheticPeople(3, (192, 192), 4)
    objective = objective_for(architecture, COCO_PERSON, (192, 192), Training.model_validate(still), codec)
    samples = objective.samples(square)
    reader = estimator_for(
        architecture, COCO_PERSON, (192, 192), codec=codec, decoding=Decoding(), boxes=LabelledBoxes()
    )
    inputs = reader.inputs(square, 0)
    answers, _ = perfect_answers(Setting(architecture, COCO_PERSON, (192, 192), codec), square, 0, inputs)
    sample = samples.sample(0, np.random.default_rng(0))
    assert np.array_equal(sample.image, inputs.images[0])
    for answer, target in zip(answers, sample.maps, strict=False):
        assert np.array_equal(answer[0, : len(target)].numpy(), target)


class Blind(nn.Module):
    """Answers zeros."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = nn.Parameter(torch.zeros(channels))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        size = (images.shape[2] // 4, images.shape[3] // 4)
        return (self.channels.view(1, -1, 1, 1).expand(len(images), -1, *size),)


def test_every_picture_is_asked_once_and_in_order_whatever_the_batches() -> None:
    reader = estimator(NETWORKS["top-down"])
    for batch_size in (1, 3, 100):
        found = list(estimate_poses(Blind(17), reader, PICTURES, flip_test=True, batch_size=batch_size))
        assert [one.index for one in found] == list(range(6))
        assert [len(one.poses) for one in found] == [len(PICTURES.people(i)) for i in range(6)]
        assert all(one.decode_ms > 0 for one in found)
    some = estimate_poses(Blind(17), reader, PICTURES, flip_test=False, indices=[4, 1])
    assert [one.index for one in some] == [4, 1]


@pytest.mark.parametrize("fails", [False, True])
def test_two_processes_find_what_one_finds(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the second one fails: the first does its work."""
    torch.manual_seed(0)
    network, reader = NETWORKS["one scale"].build(), estimator(NETWORKS["one scale"], flip_test=True)
    if fails:
        monkeypatch.setattr(type(reader), "decode", dying_outside(os.getpid(), type(reader).decode))
    alone = list(estimate_poses(network, reader, PICTURES, flip_test=True, batch_size=2))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shared = list(estimate_all_poses(network, reader, PICTURES, flip_test=True, batch_size=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert [one.index for one in shared] == list(range(6))
    for one, other in zip(alone, shared, strict=True):
        np.testing.assert_allclose(one.poses.keypoints_pk3, other.poses.keypoints_pk3, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(one.poses.scores_p, other.poses.scores_p, rtol=1e-4)


def dying_outside(process: int, read: Any) -> Any:
    def reading(*arguments: Any) -> Any:
        if os.getpid() != process:
            raise ValueError
        return read(*arguments)

    return reading


def test_a_picture_without_boxes_has_no_people() -> None:
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    reader = estimator(NETWORKS["top-down"], DetectedBoxes([empty] * 6))
    found = list(estimate_poses(Blind(17), reader, PICTURES, flip_test=True))
    assert [len(one.poses) for one in found] == [0] * 6
    found = score(Blind(17), reader, PICTURES, kind="coco", provenance="random weights", flip_test=False)
    assert found.value == 0
    assert found.worthless
    assert found.standard_error is None
    assert (found.metric, found.provenance, found.data, found.pictures) == ("AP", "random weights", "coco", 6)
    assert {"AP50", "AR"} <= found.details.keys()


def test_twice_detected_people_are_suppressed_but_labelled_ones_never() -> None:
    twice = [
        Detections(np.repeat(PICTURES.people(i).boxes_p4[:1], 2, 0), np.array([0.9, 0.8], np.float32)) for i in range(6)
    ]
    network = Blind(17)
    with torch.no_grad():
        network.channels += 1  # every joint in the first cell, so both poses are equal
    counts = {}
    for kind in ("none", "hard", "soft", "parallel"):
        reader = estimator(NETWORKS["top-down"], DetectedBoxes(twice), suppression=kind)
        counts[kind] = [len(one.poses) for one in estimate_poses(network, reader, PICTURES, flip_test=False)]
    assert counts["none"] == [2] * 6
    assert counts["hard"] == [1] * 6
    assert counts["soft"] == [2] * 6  # scored down, not dropped
    reader = estimator(NETWORKS["top-down"], suppression="hard")
    found = estimate_poses(network, reader, PICTURES, flip_test=False)
    assert [len(one.poses) for one in found] == [len(PICTURES.people(i)) for i in range(6)]


def test_whole_pictures_hold_one_person() -> None:
    reader = estimator(NETWORKS["top-down"], WholePictures())
    assert [len(one.poses) for one in estimate_poses(Blind(17), reader, PICTURES, flip_test=False)] == [1] * 6


def test_first_inputs_are_those_of_evaluation() -> None:
    reader = estimator(NETWORKS["one scale"])
    inputs = torch.cat(list(first_inputs(reader, PICTURES, 4, torch.device("cpu"))))
    assert inputs.shape == (6, 3, *HW)  # whole batches of pictures


def test_joints_are_compared_person_by_person() -> None:
    reader = estimator(NETWORKS["one scale"])
    with pytest.raises(DataError, match="every labelled box must give one pose"):
        score(Blind(34), reader, PICTURES, kind="lsp", provenance="random weights", flip_test=False)
    found = score(
        Blind(17),
        estimator(NETWORKS["top-down"]),
        PICTURES,
        kind="lsp",
        provenance="random weights",
        flip_test=False,
        resamples=5,
    )
    people = sum(len(PICTURES.people(i)) for i in range(6))
    figures = found.details
    assert isinstance(figures["persons"], int)
    assert isinstance(figures["left_out"], int)
    assert figures["persons"] + figures["left_out"] == people
    assert found.metric == "PCK"
    assert found.value is not None
    assert 0 <= found.value < 0.3
    assert found.standard_error is not None
    assert isinstance(figures["curve"], list)
    assert len(figures["curve"]) == 51
    assert from_plain(Score, to_plain(found), "a file") == found


@pytest.mark.parametrize("name", list(NETWORKS))
def test_decoding_is_timed(name: str) -> None:
    rows = decode_table(NETWORKS[name], None, PICTURES, HW, codec=Codec(), wanted=2)
    assert len(rows) >= 4
    for row in rows:
        assert row.latency.q1_ms is not None
        assert row.latency.q3_ms is not None
        assert 0 < row.latency.q1_ms <= row.latency.ms <= row.latency.q3_ms
    assert {row.passes for row in rows} == {1, 2}
    labelled = np.mean([len(PICTURES.people(i)) for i in (0, 5)])
    assert all(row.people == labelled for row in rows if "suppression" not in row.choice)
    times = decode_time(
        NETWORKS[name].build(), estimator(NETWORKS[name]), PICTURES, flip_test=False, reference_ms=1.0, wanted=2
    )
    latency = times.latency
    assert latency.q1_ms is not None
    assert latency.q3_ms is not None
    assert 0 < latency.q1_ms <= latency.ms <= latency.q3_ms
    assert (latency.provenance, latency.clock) == ("measured", "reference")
    twice = decode_time(NETWORKS[name].build(), estimator(NETWORKS[name]), PICTURES, flip_test=False, wanted=2)
    assert twice.latency.ms > 0  # on the clock of the reference beside it


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("one scale", {"person_augment": {"flip": 0}}, "training.person_augment"),
        ("one scale", {"loss": {"hard_joints": 8}}, "training.loss.hard_joints"),
        ("PAF", {"loss": {"push": 1}}, "training.loss.push"),
        ("top-down", {"augment": {"flip": 0}}, "training.augment"),
        ("SimCC", {"augment": {"flip": 0}}, "training.augment"),
        ("SimCC", {"loss": {"hard_joints": 8}}, "training.loss.hard_joints"),
    ],
)
def test_a_key_of_another_approach_is_refused(name: str, settings: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeError, match=key):
        objective_for(NETWORKS[name], COCO_PERSON, HW, Training.model_validate(settings), Codec())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"milestones": [0.5]}, "milestones belongs to schedule: step"),
        ({"gamma": 0.5}, "gamma belongs to schedule: step"),
        ({"momentum": 0.5}, "momentum belongs to optimizer: sgd"),
        ({"warmup_from": 0.5, "warmup_steps": 0}, "warmup_from belongs to"),
    ],
)
def test_a_key_that_nothing_reads_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Training.model_validate(settings)
    with pytest.raises(ValueError, match="belongs to hard and soft"):
        Decoding(suppression="parallel", overlap=0.5)
