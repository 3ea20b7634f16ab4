"""`compress import`, and a public checkpoint wherever a network is named."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import compress
from compress.api import load
from compress.artefacts.artefact import load_artefact, save_artefact
from compress.artefacts.network import learning_of, open_network
from compress.cli import app
from compress.data.keypoints import CROWDPOSE, MPII
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.transforms import normalise, renormalised
from compress.errors import DataError, NetworkError, RecipeError
from compress.jobs.train import train_network
from compress.pose.codec import codec_named
from compress.pose.distillation import OtherInputs
from compress.progress import Silent
from compress.recipe import PruneRecipe, TrainRecipe
from tests.networks.checkpoints.small_file import SMALL, random_state, small_file
from tests.networks.checkpoints.test_checkpoints import Leaves

BLUE_FIRST = Normalisation(channels="BGR")
FEW = {"synthetic": {"train": 4, "val": 2}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save(small_file(), tmp_path / "pose_resnet_64x64.pth")
    return tmp_path / "pose_resnet_64x64.pth"


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_checkpoint_becomes_an_artefact(file: Path, tmp_path: Path) -> None:
    done = command("import", file, "--run", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)["result"]
    assert (result["found"]["source"], result["found"]["unknown"], result["found"]["unfilled"]) == (
        "SimpleBaseline",
        [],
        [],
    )
    opened = load_artefact(tmp_path / "run")
    assert (opened.architecture, opened.input_hw, opened.normalisation) == (SMALL, (64, 64), BLUE_FIRST)
    assert (opened.metadata.codec, opened.metadata.keypoints, opened.trained) == (
        codec_named("hrnet"),
        "coco_person",
        True,
    )
    assert torch.equal(opened.module.backbone[0].conv.weight, small_file()["conv1.weight"])  # type: ignore[index, union-attr]


def test_a_checkpoint_is_a_network_wherever_one_is_named(file: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text("family: simple_baseline\nblocks: [1, 1, 1, 1]\nwidth: 4\n", encoding="utf-8")
    whole, named = open_network(str(file)), open_network(f"{tmp_path / 'small.yaml'}@{file}")
    assert whole.digest == named.digest
    assert named.name == f"{tmp_path / 'small.yaml'}@{file}"
    loaded = load(file, input_hw=(96, 64))
    assert (loaded.input_hw, loaded.normalisation) == ((96, 64), BLUE_FIRST)
    assert loaded.result is not None
    assert loaded.result.source == "SimpleBaseline"
    shown = command("profile", file, "--json")
    assert shown.exit_code == 0, shown.output
    with pytest.raises(NetworkError, match="must have the shapes of simple_baseline_r50"):
        compress.load(file, network="simple_baseline_r50")
    with pytest.raises(RecipeError, match="said of a public checkpoint"):
        compress.load("hrnet_w32", network="hrnet_w48")


def test_a_backbone_alone_finds_nobody_and_can_be_trained(file: Path, tmp_path: Path) -> None:
    state = {name: one for name, one in small_file().items() if not name.startswith(("deconv", "final"))}
    torch.save({**state, "fc.weight": torch.zeros(3, 128), "fc.bias": torch.zeros(3)}, tmp_path / "resnet.pth")
    refused = command("import", tmp_path / "resnet.pth", "--run", tmp_path / "run")
    assert refused.exit_code == 2
    assert "--backbone" in refused.output
    assert not (tmp_path / "run").exists()
    assert command("import", tmp_path / "resnet.pth", "--backbone", "--run", tmp_path / "run").exit_code == 0
    opened = load_artefact(tmp_path / "run")
    assert not opened.trained
    blind = command("predict", tmp_path / "run", tmp_path, "--out", tmp_path / "out")
    assert blind.exit_code == 2
    assert "finds nobody" in " ".join(blind.output.split())


def test_training_starts_from_a_backbone(file: Path, tmp_path: Path) -> None:
    state = {name: one for name, one in small_file().items() if not name.startswith(("deconv", "final"))}
    torch.save(state, tmp_path / "resnet.pth")
    settings: dict[str, Any] = {
        "input_hw": [64, 64],
        "data": FEW,
        "training": {
            "epochs": 1,
            "batch_size": 4,
            "learning_rate": 1e-9,
            "warmup_steps": 0,
            "backbone": str(tmp_path / "resnet.pth"),
        },
    }
    result = train_network(SMALL, TrainRecipe.model_validate(settings), tmp_path / "run", Silent())
    assert result is not None
    opened = load_artefact(tmp_path / "run")
    found = opened.module.backbone[0].conv.weight  # type: ignore[index, union-attr]
    assert torch.allclose(found, state["conv1.weight"], atol=1e-6)
    assert opened.normalisation == IMAGENET  # an ImageNet file's, though the names are also SimpleBaseline's
    with pytest.raises(RecipeError, match="starts a known network of random weights"):
        train_network(str(file), TrainRecipe.model_validate(settings), tmp_path / "other", Silent())
    assert not (tmp_path / "other").exists()


def test_training_goes_on_with_the_normalisation_and_codec_of_the_checkpoint(file: Path, tmp_path: Path) -> None:
    settings = {"data": FEW, "training": {"epochs": 1, "batch_size": 4}}
    assert train_network(str(file), TrainRecipe.model_validate(settings), tmp_path / "run", Silent()) is not None
    metadata = load_artefact(tmp_path / "run").metadata
    assert (metadata.normalisation, metadata.codec) == (BLUE_FIRST, codec_named("hrnet"))
    assert metadata.imported is not None
    assert metadata.imported.source == "SimpleBaseline"


def test_what_a_network_learns_and_is_scored_from_is_normalised_as_it_was_trained(file: Path) -> None:
    opened = open_network(str(file))
    recipe = PruneRecipe.model_validate({"data": FEW, "pruning": {"ratio": 0.5}})
    learning = learning_of(opened, recipe, 2)
    assert learning is not None
    samples = learning.objective.samples(learning.sets.train)
    assert samples.normalisation == learning.estimator.normalisation == learning.normalisation == BLUE_FIRST
    image = samples.sample(0, np.random.default_rng(0)).image
    assert not torch.allclose(normalise(image[None], BLUE_FIRST), normalise(image[None]))


def test_pruning_keeps_what_belongs_to_the_checkpoint(file: Path, tmp_path: Path) -> None:
    done = command(
        "prune", file, "--ratio", "0.3", "--run", tmp_path / "run",
        "--set", "rounds=3", "--set", "targets=[onnxruntime]",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    pruned = load_artefact(tmp_path / "run")
    assert pruned.metadata.normalisation == BLUE_FIRST
    assert pruned.metadata.codec == codec_named("hrnet")
    assert pruned.trained
    assert pruned.edits == ("channels pruned",)


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_an_export_can_take_the_normalisation_into_its_graph(where: str, file: Path, tmp_path: Path) -> None:
    done = command(
        "export", file, "--normalisation", where, "--out", tmp_path / "out", "--set", "engines=[onnxruntime, ncnn]",
        "--set", "data={synthetic: {val: 2}}", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    picture = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3)).astype(np.uint8)
    wanted = normalise(picture, BLUE_FIRST).contiguous()
    given = picture.transpose(0, 3, 1, 2).astype(np.float32) if where == "inside" else wanted.numpy()
    (found,) = session.run(None, {session.get_inputs()[0].name: given})
    with torch.no_grad():
        expected = open_network(str(file)).module(wanted)[0].numpy()
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    assert json.loads(done.stdout)["result"]["inputs"]["channels"] == ("RGB" if where == "inside" else "BGR")


def test_a_teacher_gets_inputs_of_its_own_normalisation(tmp_path: Path) -> None:
    """Blue first for the teacher, red first for the network."""

    class First(nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
            return (images,)

    picture = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)).astype(np.uint8)
    (seen,) = OtherInputs(First(), IMAGENET, BLUE_FIRST)(normalise(picture))
    assert torch.allclose(seen, normalise(picture, BLUE_FIRST), atol=1e-5)
    assert torch.equal(seen, renormalised(normalise(picture), IMAGENET, BLUE_FIRST))


def test_a_teacher_of_other_cells_is_refused(file: Path, tmp_path: Path) -> None:
    teacher = open_network(str(file))
    save_artefact(tmp_path / "teacher", teacher.architecture, teacher.module, teacher.metadata)
    settings = {
        "input_hw": [64, 64],
        "data": FEW,
        "training": {"epochs": 1, "batch_size": 4},
        "distillation": {"teacher": str(tmp_path / "teacher")},
    }
    with pytest.raises(DataError, match=r"maps must be for the same cells.*set codec to hrnet"):
        train_network(SMALL, TrainRecipe.model_validate(settings), tmp_path / "run", Silent())
    assert train_network(SMALL, TrainRecipe.model_validate({**settings, "codec": "hrnet"}), tmp_path / "run", Silent())


@pytest.mark.parametrize(("joints", "known"), [(16, MPII), (14, CROWDPOSE)])
def test_joints_are_those_of_the_first_set_that_has_as_many(joints: int, known: Any, tmp_path: Path) -> None:
    torch.save(small_file(replace(SMALL, keypoints=joints)), tmp_path / "file.pth")
    opened = open_network(str(tmp_path / "file.pth"))
    assert opened.keypoints == known
    assert opened.input_hw == (256, 256)


# --- Bad input: one line, exit code 2, nothing written, nothing run --------------------------------------------------


def bad_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.pth" for name in ("cut", "model", "optimizer", "joints", "hostile", "other")}
    torch.save(small_file(), files["cut"])
    files["cut"].write_bytes(files["cut"].read_bytes()[:3000])
    torch.save(SMALL.build(), files["model"])
    torch.save({"optimizer": {"state": {}, "param_groups": []}, "epoch": 3}, files["optimizer"])
    torch.save(small_file(replace(SMALL, keypoints=21)), files["joints"])
    files["hostile"].write_bytes(pickle.dumps(Leaves(folder / "trace")))
    torch.save(random_state(nn.Linear(2, 2)), files["other"])
    (folder / "folder").mkdir()
    return {**files, "folder": folder / "folder", "missing": folder / "missing.pth"}


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        ("cut", "cut off"),
        ("model", "objects of other code, which is not run"),
        ("optimizer", "an optimizer's state"),
        ("joints", "21 joints"),
        ("hostile", "cannot be read as a checkpoint|which is not run"),
        ("other", "must be of a known project"),
        ("folder", "a checkpoint is a file"),
        ("missing", "no such file"),
    ],
)
def test_a_bad_file_is_one_line(kind: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.chdir(tmp_path)
    done = command("import", bad_files(tmp_path)[kind], "--json")
    assert done.exit_code == 2, done.output
    message = json.loads(done.stdout)["error"]["message"]
    assert "\n" not in message
    assert any(part in message for part in rule.split("|")), message
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "runs").exists()


def test_a_file_of_half_precision_says_that_it_was(tmp_path: Path) -> None:
    torch.save(
        {name: one.half() if one.is_floating_point() else one for name, one in small_file().items()}, tmp_path / "f.pth"
    )
    done = command("import", tmp_path / "f.pth", "--run", tmp_path / "run", "--json")
    assert json.loads(done.stdout)["result"]["found"]["converted"] == ["float16"]
    assert load_artefact(tmp_path / "run").module.head.maps.weight.dtype == torch.float32  # type: ignore[union-attr]


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    state = small_file()
    state["conv1.weight"][0] = float("nan")
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(NetworkError, match="weights must be finite"):
        open_network(str(tmp_path / "file.pth"))
