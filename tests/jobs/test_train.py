"""`compress train` for every approach, alone and in two processes, with and without a teacher."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from safetensors.torch import load_file

from compress.artefacts.artefact import load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.artefacts.records import from_plain, to_plain
from compress.artefacts.results import TrainResult, read_results
from compress.data.keypoints import COCO_PERSON, CROWDPOSE, LSP
from compress.data.synthetic import SyntheticPeople
from compress.errors import CompressError, DataError, NetworkError, RecipeError
from compress.jobs.evaluate import evaluate
from compress.jobs.predict import predict
from compress.jobs.train import train_network, with_joints
from compress.networks import NETWORKS, Architecture
from compress.networks.dir_bhrnet import DirBHRNet, equal_blocks
from compress.networks.lightweight_openpose import LightweightOpenPose
from compress.networks.rtmpose import RTMPose
from compress.progress import Silent
from compress.recipe import Data, EvaluateRecipe, PredictRecipe, TrainRecipe
from tests.recorded_progress import Recorded

NARROW = {"width": 8, "blocks": equal_blocks(0)}
SMALL: dict[str, Architecture] = {
    "bottom-up AE": DirBHRNet(**NARROW, head="single"),
    "top-down": DirBHRNet(**NARROW, head="heatmaps"),
    "PAF": LightweightOpenPose(refinements=1),
    "SimCC": RTMPose(width=0.125, tokens=32, gate=32, key=16, input_hw=(64, 64)),
}

STILL = {"rotation_deg": 0, "scale": 0, "flip": 0, "half_body": 0}
# Logits of bins start near 0, and four steps hardly move them.
TRAINING: dict[str, Any] = {"SimCC": {"epochs": 6, "learning_rate": 0.005, "person_augment": STILL}}


def recipe(**changes: Any) -> TrainRecipe:
    data = {
        "input_hw": [64, 64],
        "data": {"synthetic": {"train": 8, "val": 4}},
        "training": {"epochs": 2, "batch_size": 4, "warmup_steps": 0},
        "decoding": {"flip_test": True},
    }
    return TrainRecipe.model_validate({**data, **changes})


def start(architecture: Architecture, folder: Path, **metadata: Any) -> str:
    torch.manual_seed(0)
    save_artefact(folder, architecture, architecture.build(), Metadata((64, 64), data=Data(), **metadata))
    return str(folder)


@pytest.mark.parametrize("approach", list(SMALL))
def test_every_approach_trains_evaluates_and_predicts(approach: str, tmp_path: Path) -> None:
    training = {"epochs": 2, "batch_size": 4, "warmup_steps": 0, **TRAINING.get(approach, {})}
    epochs, settings = training["epochs"], recipe(training=training)
    begin = start(SMALL[approach], tmp_path / "start")
    progress = Recorded()
    result = train_network(begin, settings, tmp_path / "run", progress)
    assert progress.opened == progress.planned == ["training", "scoring"]
    assert result is not None
    assert len(result.loss) == epochs
    assert result.loss[-1] < result.loss[0]
    trained = result.trained
    assert trained.score is not None
    assert 0 <= (trained.score.value or 0) <= 1
    assert (trained.score.metric, trained.score.provenance, trained.score.pictures) == (
        "AP",
        f"training of {epochs} epochs",
        4,
    )
    assert (trained.exports, trained.latency) == ((), {})
    assert trained.params == sum(one.numel() for one in SMALL[approach].build().parameters())
    assert read_results(tmp_path / "run" / "results.json", "train", TrainResult) == result
    assert load_artefact(tmp_path / "run").metadata.score == trained.score
    assert from_plain(TrainResult, to_plain(result), "a file") == result
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    scored = evaluate(tmp_path / "run", EvaluateRecipe(decoding=settings.decoding), Silent())
    assert scored.score == trained.score
    assert scored.procedure == trained.evaluations[0].procedure == "two passes"
    picture = tmp_path / "picture.png"
    draw(picture)
    found = predict(tmp_path / "run", [picture], PredictRecipe(min_score=0), tmp_path / "drawn", Silent())
    if approach in ("top-down", "SimCC"):
        assert len(found.drawn[0].people) == 1


def draw(path: Path) -> None:
    cv2.imwrite(str(path), SyntheticPeople(1, (64, 64), 5).image(0))


def test_a_known_network_is_built_for_the_datas_joints(tmp_path: Path) -> None:
    assert with_joints(NETWORKS["lite_hrnet_18"], LSP).keypoints == 14
    assert with_joints(NETWORKS["lite_hrnet_18"], COCO_PERSON) is NETWORKS["lite_hrnet_18"]
    part_network = with_joints(NETWORKS["lightweight_openpose_1"], CROWDPOSE)
    assert (part_network.keypoints, part_network.limbs) == (14, 13)  # type: ignore[attr-defined]
    with pytest.raises(NetworkError, match="joints"):
        train_network(start(DirBHRNet(**NARROW, keypoints=14), tmp_path / "a"), recipe(), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_a_teacher_and_its_features(tmp_path: Path) -> None:
    wide = DirBHRNet(width=16, blocks=equal_blocks(0), head="single")
    teacher = start(wide, tmp_path / "teacher")
    before = load_file(Path(teacher) / "weights.safetensors")
    begin = start(SMALL["bottom-up AE"], tmp_path / "start")
    settings = recipe(distillation={"teacher": teacher, "share": 0.5, "features": {"stem": "stem", "head": "head"}})
    with pytest.raises(NetworkError, match=r"one \[B,C,h,w\] output"):
        train_network(begin, settings, tmp_path / "run", Silent())  # the head gives a tuple
    settings = recipe(distillation={"teacher": teacher, "share": 0.5, "features": {"stem": "stem"}})
    taught = train_network(begin, settings, tmp_path / "run2", Silent())
    alone = train_network(begin, recipe(), tmp_path / "run3", Silent())
    assert taught is not None
    assert alone is not None
    assert taught.loss != alone.loss
    after = load_file(Path(teacher) / "weights.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    other = start(DirBHRNet(**NARROW, head="higher"), tmp_path / "other")
    with pytest.raises(DataError, match="outputs of the same shapes"):
        train_network(begin, recipe(distillation={"teacher": other}), tmp_path / "run4", Silent())
    stranger = start(wide, tmp_path / "stranger", keypoints="lsp")
    with pytest.raises(DataError, match="know the data's joints"):
        train_network(begin, recipe(distillation={"teacher": stranger}), tmp_path / "run4", Silent())
    assert not (tmp_path / "run4").exists()


def test_a_network_of_vectors_teaches_another(tmp_path: Path) -> None:
    wide = RTMPose(width=0.25, tokens=32, gate=32, key=16, input_hw=(64, 64))
    teacher = start(wide, tmp_path / "teacher")
    begin = start(SMALL["SimCC"], tmp_path / "start")
    features = {"backbone.stage2": "backbone.stage2"}
    settings = recipe(distillation={"teacher": teacher, "share": 0.5, "features": features})
    taught = train_network(begin, settings, tmp_path / "run", Silent())
    alone = train_network(begin, recipe(), tmp_path / "run2", Silent())
    assert taught is not None
    assert alone is not None
    assert taught.loss != alone.loss
    finer = start(RTMPose(width=0.25, split=3, input_hw=(64, 64)), tmp_path / "finer")
    with pytest.raises(DataError, match="outputs of the same shapes"):
        train_network(begin, recipe(distillation={"teacher": finer}), tmp_path / "run3", Silent())
    assert not (tmp_path / "run3").exists()


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"training": {"batch_size": 9}}, {"training": {"batch_size": 8, "epochs": 1}}),
        ({"training": {"groups": [{"pattern": "nothing"}]}}, {"training": {"groups": [{"pattern": "^stem"}]}}),
        ({"distillation": {"teacher": "nowhere"}}, {}),
    ],
)
def test_what_cannot_be_trained_leaves_no_folder(wrong: Any, right: Any, tmp_path: Path) -> None:
    """So that the corrected command works with the same --run."""
    begin = start(SMALL["bottom-up AE"], tmp_path / "start")
    with pytest.raises(CompressError):
        train_network(begin, recipe(**wrong), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()
    training = {"epochs": 1, "batch_size": 4, **right.get("training", {})}
    train_network(begin, recipe(**{**right, "training": training}), tmp_path / "run", Silent())


def test_a_batch_that_cannot_be_shared(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of accumulate"):
        recipe(training={"batch_size": 4, "accumulate": 3})
    with pytest.raises(RecipeError, match="needs a GPU"):
        train_network(
            start(SMALL["top-down"], tmp_path / "a"),
            recipe(training={"precision": "float16"}),
            tmp_path / "r",
            Silent(),
        )


OWN = """
import torch
from torch import nn

class Plain(nn.Module):
    approach, keypoints = "top-down", 17

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.last = nn.Conv2d(8, 17, 1)

    def forward(self, images):
        return self.last(torch.tanh(self.first(images)))

def network():
    torch.manual_seed(0)
    return Plain()
"""
SETTINGS = [
    "input_hw=[64, 64]",
    "data={synthetic: {train: 12, val: 4}}",
    "training={epochs: 3, batch_size: 4, warmup_steps: 0, clip_norm: 0.1, ema: 0.9}",
]


def command(folder: Path, processes: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "--"]
    overrides = [part for override in SETTINGS for part in ("--set", override)]
    train = ["compress", "train", "own:network", "--run", str(folder), "--json", "-q", *overrides]
    return [sys.executable, *(launcher if processes > 1 else ["-m"]), *train]


def trained(folder: Path, processes: int = 1) -> dict[str, Any]:
    """What the command prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command(folder, processes), cwd=folder.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["result"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run in one process, and what it prints; its parent holds own.py."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "own.py").write_text(OWN)
    return folder / "one", trained(folder / "one")


def test_two_processes_take_the_steps_of_one(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    """Without batch norm, whose statistics on CPUs are those of each process's part of the batch."""
    folder, one = undisturbed
    two = trained(folder.parent / "two", processes=2)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert two["trained"]["evaluations"] == one["trained"]["evaluations"]
    weights = load_file(folder.parent / "two" / "weights.safetensors")
    for name, value in load_file(folder / "weights.safetensors").items():
        torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_killed_and_started_again_ends_like_an_undisturbed_run(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, whole = undisturbed
    killed = folder.parent / "killed"
    process = subprocess.Popen(command(killed), cwd=folder.parent, env={**os.environ, "OMP_NUM_THREADS": "1"})
    checkpoint = killed / "training.pt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # else it had ended, and nothing is resumed below
    again = trained(killed)
    assert again["loss"] == whole["loss"]
    assert again["trained"]["evaluations"] == whole["trained"]["evaluations"]
    ends = [load_file(one / "weights.safetensors") for one in (folder, killed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
