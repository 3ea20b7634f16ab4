"""`compress prune` on networks of a few milliseconds; nothing here depends on how fast they are."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from compress.artefacts.artefact import CHANNELS_PRUNED, load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.artefacts.results import PruneResult, SensitivityResult, read_results
from compress.cli import app, latency_goal
from compress.errors import ArtefactError, BudgetError, DataError, NetworkError, RecipeError
from compress.jobs.evaluate import evaluate
from compress.jobs.prune import choice as pruning
from compress.jobs.prune import prune as jobs_prune
from compress.jobs.prune.prune import analyse, prune
from compress.measure.counting import count, trace
from compress.networks.dir_bhrnet import DirBHRNet, equal_blocks
from compress.progress import Silent
from compress.pruning.layer_costs import Known
from compress.pruning.sensitivity import Point
from compress.recipe import Data, EvaluateRecipe, PruneRecipe
from compress.report.page import write_report
from compress.report.prune import print_analysed, print_pruned
from tests.recorded_progress import Recorded

HW = (64, 64)
NETWORK = DirBHRNet(width=16, blocks=equal_blocks(0), head="single")


def recipe(pruning: dict[str, Any], **changes: Any) -> PruneRecipe:
    data = {
        "data": {"synthetic": {"train": 8, "val": 4}},
        "training": {"epochs": 1, "batch_size": 4, "warmup_steps": 0},
        "targets": ["onnxruntime"],
        "rounds": 4,
        "pruning": {"multiple": 2, "pictures": 2, "ratios": [0.5], **pruning},
    }
    return PruneRecipe.model_validate({**data, **changes})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("prune") / "start"
    torch.manual_seed(0)
    save_artefact(folder, NETWORK, NETWORK.build(), Metadata(HW, data=Data()))
    return str(folder)


def test_prune_tune_export_measure_and_go_on_from_the_result(artefact: str, tmp_path: Path) -> None:
    before = load_file(Path(artefact) / "weights.safetensors")
    result = prune(artefact, recipe({"macs": 0.5}), tmp_path / "run", Silent())
    loaded = load_artefact(tmp_path / "run")
    assert loaded.edits == (CHANNELS_PRUNED,)
    assert count(loaded.module, HW).macs == result.pruned.macs
    assert result.pruned.macs / result.given.macs == pytest.approx(0.5, abs=0.03)
    assert result.choices[0].search.share == pytest.approx(result.pruned.macs / result.given.macs)
    assert result.pruned.export("onnxruntime").parity < 1e-4
    assert result.given.score is not None
    assert result.speed_up["onnxruntime"].factor > 0
    assert result.goal.met
    assert result.goal.reached == result.pruned.macs / result.given.macs
    after = load_file(Path(artefact) / "weights.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    scored = evaluate(tmp_path / "run", EvaluateRecipe(), Silent())
    assert scored.score.value == result.pruned.score.value
    assert scored.procedure == result.pruned.evaluations[0].procedure == "one pass"
    twice = evaluate(tmp_path / "run", EvaluateRecipe(decoding={"flip_test": True}), Silent())
    assert twice.score.value == result.pruned.evaluations[1].score.value
    again = prune(str(tmp_path / "run"), recipe({"macs": 0.8}), tmp_path / "again", Silent())
    assert again.pruned.macs < result.pruned.macs
    assert load_artefact(tmp_path / "again").edits == (CHANNELS_PRUNED,)
    assert read_results(tmp_path / "run" / "results.json", "prune", PruneResult) == result
    write_report("prune", result, tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "onnxruntime, measured ms, one pass" in page
    assert "AP, validation, one pass" in page
    assert "AP, validation, two passes" in page
    print_pruned(result)


@pytest.mark.parametrize("criterion", ["taylor", "batch_norm"])
@pytest.mark.parametrize("allocate", ["global", "sensitivity"])
def test_every_allocation_meets_its_goal(artefact: str, tmp_path: Path, allocate: str, criterion: str) -> None:
    settings = recipe({"macs": 0.7, "allocate": allocate, "criterion": criterion})
    result = prune(artefact, settings, tmp_path / "run", Silent())
    assert result.pruned.macs / result.given.macs == pytest.approx(0.7, abs=0.06)


def test_the_goal_in_time_is_measured_and_corrected(
    artefact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = count(NETWORK.build(), HW).macs

    def by_macs(model: Any, network: nn.Module, input_hw: Any, weighted: Collection[str]) -> Known:
        layers: dict[str, float] = {}
        for layer in trace(network, HW).layers:
            layers[layer.path] = layers.get(layer.path, 0.0) + layer.macs
        return Known(frozenset(), {path: layers[path] for path in layers if path in weighted}, sum(layers.values()))

    # Layers' times say multiply-adds; the whole network's is their share squared, which no layer's time tells.
    monkeypatch.setattr("compress.jobs.prune.choice.layer_times", by_macs)
    monkeypatch.setattr(pruning, "time_share", lambda task, network: (count(network, HW).macs / given) ** 2)
    settings = recipe(
        {"latency": 0.5, "allocate": "latency", "threshold": 0.0, "ratios": [n / 16 for n in range(1, 16)]}
    )
    result = prune(artefact, settings, tmp_path / "run", Silent())
    assert (result.pruned.macs / given) ** 2 == pytest.approx(0.5, abs=0.06)
    assert result.choices[0].search.goal == 0.5


def test_a_goal_in_multiply_adds_is_met_in_them_when_moves_are_priced_in_time(artefact: str, tmp_path: Path) -> None:
    result = prune(artefact, recipe({"macs": 0.6, "allocate": "latency", "threshold": 0.0}), tmp_path / "run", Silent())
    search = result.choices[0].search
    assert search.of == "multiply-adds"
    assert search.share == pytest.approx(result.pruned.macs / result.given.macs)
    assert search.predicted_share is None


def test_in_steps(artefact: str, tmp_path: Path) -> None:
    progress = Recorded()
    result = prune(artefact, recipe({"ratio": 0.5, "steps": 2}), tmp_path / "run", progress)
    assert progress.opened == progress.planned
    assert progress.planned[1:3] == ["fine-tuning, step 1", "fine-tuning, step 2"]
    assert len(result.choices) == 2
    shares = [choice.groups["stem.0.conv"].removed for choice in result.choices]
    assert 0.2 < shares[0] < 0.45
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    assert (
        weights["stem.0.conv.weight"].shape[0]
        < load_artefact(Path(artefact)).module.state_dict()["stem.0.conv.weight"].shape[0]
    )


@pytest.mark.parametrize(
    ("scheme", "schedule"),
    [
        ("block", "one_shot"),
        ("pattern", "one_shot"),
        ("nm", "one_shot"),
        ("unstructured", "gradual"),
        ("block", "admm"),
        ("block", "reweighted"),
    ],
)
def test_fine_grained_zeros_survive_tuning(artefact: str, tmp_path: Path, scheme: str, schedule: str) -> None:
    settings = recipe({"ratio": 0.6, "scheme": scheme, "schedule": schedule})
    result = prune(artefact, settings, tmp_path / "run", Silent())
    ratios = result.choices[0].ratios
    weights = load_file(tmp_path / "run" / "weights.safetensors")
    before = load_file(Path(artefact) / "weights.safetensors")
    assert ratios
    for name in ratios:
        zeros = float((weights[name] == 0).float().mean())
        assert 0.3 < zeros < 0.8
        assert weights[name].shape == before[name].shape
        assert not torch.equal(weights[name], before[name])
    assert load_artefact(tmp_path / "run").edits == ()


def test_zeros_are_allocated_by_time(artefact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock by which zeros of 3x3 convolutions save their multiply-adds, those of others nothing."""
    given = load_artefact(Path(artefact)).module

    def time_of(network: nn.Module) -> dict[str, float]:
        times: dict[str, float] = {}
        for layer in trace(network, HW).layers:
            if layer.macs:
                weight = network.get_submodule(layer.path).weight
                left = float((weight != 0).float().mean()) if weight.shape[-1] == 3 else 1.0
                times[layer.path] = times.get(layer.path, 0.0) + layer.macs * left
        return times

    def measured(model: Any, network: nn.Module, input_hw: Any, weighted: Collection[str]) -> Known:
        times = time_of(network)
        return Known(frozenset(), {p: t for p, t in times.items() if p in weighted}, sum(times.values()))

    monkeypatch.setattr(pruning, "layer_times", measured)
    monkeypatch.setattr(pruning, "for_engine", lambda network, name, recipe: network)
    monkeypatch.setattr(
        pruning, "time_share", lambda task, network: sum(time_of(network).values()) / sum(time_of(given).values())
    )
    ratios = [0.5, 0.6, 0.7, 0.8, 0.9]
    settings = recipe({"latency": 0.9, "scheme": "block", "allocate": "latency", "ratios": ratios})
    choice = prune(artefact, settings, tmp_path / "run", Silent()).choices[0]
    assert choice.search.share == pytest.approx(0.9, abs=0.02)
    sparse = {name for name, ratio in choice.ratios.items() if ratio}
    assert sparse
    assert all(given.get_parameter(name).shape[-1] == 3 for name in sparse)


def test_a_killed_run_goes_on(artefact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = recipe({"ratio": 0.5})
    whole = prune(artefact, settings, tmp_path / "whole", Silent())
    real = jobs_prune.finish_changed

    def dying(*args: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs_prune, "finish_changed", dying)
    with pytest.raises(KeyboardInterrupt):
        prune(artefact, settings, tmp_path / "run", Silent())
    monkeypatch.setattr(jobs_prune, "finish_changed", real)
    resumed = prune(artefact, settings, tmp_path / "run", Silent())
    assert resumed.pruned.evaluations == whole.pruned.evaluations
    one, other = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_without_trained_weights_it_says_so(tmp_path: Path) -> None:
    architecture = tmp_path / "net.yaml"
    architecture.write_text("{family: dir_bhrnet, width: 16, blocks: [[0], [0, 0], [0, 0, 0], [0, 0, 0, 0]]}")
    settings = recipe({"ratio": 0.5}, data=None, input_hw=HW)
    result = prune(str(architecture), settings, tmp_path / "run", Silent())
    assert result.given.score is None
    assert result.pruned.score is None
    with pytest.raises(DataError, match="nothing to score"):
        prune(str(architecture), recipe({"ratio": 0.5}, input_hw=HW), tmp_path / "other", Silent())
    with pytest.raises(DataError, match="trained network"):
        analyse(str(architecture), settings, tmp_path / "third", Silent())


class EvenAndOdd(nn.Module):
    """Even and odd channels go different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.maps = nn.Conv2d(16, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x).relu()
        return self.maps(torch.cat((self.left(y[:, ::2]), self.right(y[:, 1::2])), 1))  # type: ignore[no-any-return]


def even_and_odd() -> nn.Module:
    """For `module:function`."""
    torch.manual_seed(0)
    return EvenAndOdd()


def test_a_wrongly_pruned_network_never_gets_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, asked = f"{__name__}:even_and_odd", recipe({"ratio": 0.5}, data=None, input_hw=(32, 32))
    result = prune(name, asked, tmp_path / "right", Silent())
    assert result.choices[0].groups["network.stem"].removed == 0.5
    monkeypatch.setattr("compress.pruning.channels._Follower._stride", lambda *_: None)
    kept = prune(name, asked, tmp_path / "kept", Silent()).choices[0].untouched
    assert kept["network.stem"].startswith("the network fails without them: ")
    monkeypatch.setattr("compress.pruning.structured._fails", lambda *_: None)
    with pytest.raises(NetworkError, match="must do what the given one does"):
        prune(name, asked, tmp_path / "wrong", Silent())
    assert not list((tmp_path / "wrong").glob("*.onnx"))


def test_sensitivity_is_kept_and_shown(artefact: str, tmp_path: Path) -> None:
    settings = recipe({"ratios": [0.5, 0.75]})
    with pytest.raises(RecipeError, match="protected module"):
        analyse(artefact, recipe({"protect": ["nowhere"]}), tmp_path / "refused", Silent())
    assert not (tmp_path / "refused").exists()
    result = analyse(artefact, settings, tmp_path / "run", Silent())
    assert {"backbone", "branch 4"} <= set(result.blocks)
    (file,) = (tmp_path / "cache" / "sensitivity").iterdir()
    kept = file.read_text().splitlines()
    assert tuple(Point(**json.loads(line)) for line in kept) == result.points
    file.write_text("\n".join(kept[:3]) + "\n")
    assert analyse(artefact, settings, tmp_path / "run", Silent()).points == result.points
    assert read_results(tmp_path / "run" / "sensitivity.json", "analyse", SensitivityResult) == result
    write_report("analyse", result, tmp_path)
    assert (tmp_path / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    assert "branch 4" in (tmp_path / "sensitivity.md").read_text()
    print_analysed(result)


def test_mistakes(artefact: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--ratio"):
        prune(artefact, recipe({}), tmp_path / "a", Silent())
    with pytest.raises(RecipeError, match="did you mean 'head'"):
        prune(artefact, recipe({"ratio": 0.5, "protect": ["haed"]}), tmp_path / "b", Silent())
    assert not (tmp_path / "b").exists()
    with pytest.raises(BudgetError, match="least that pruning reaches"):
        prune(artefact, recipe({"macs": 0.001}), tmp_path / "c", Silent())
    with pytest.raises(ValueError, match="one goal"):
        recipe({"ratio": 0.5, "macs": 0.5})
    with pytest.raises(ValueError, match="in one step"):
        recipe({"macs": 0.5, "scheme": "block"})
    with pytest.raises(RecipeError, match="--latency"):
        latency_goal("fast")
    assert (latency_goal("50%"), latency_goal("2.5")) == ("pruning.latency=0.5", "pruning.latency_ms=2.5")
    found = CliRunner().invoke(app, ["prune", artefact, "--run", str(tmp_path / "d")])
    assert found.exit_code == 2
    assert "give one of --ratio" in found.stderr
    found = CliRunner().invoke(
        app,
        [
            "prune",
            artefact,
            "--macs",
            "0.001",
            "--run",
            str(tmp_path / "e"),
            "--quiet",
            "--set",
            "targets=[onnxruntime]",
            "--set",
            "data.synthetic.val=4",
            "--set",
            "data.synthetic.train=8",
        ],
    )
    assert found.exit_code == 3
    assert "least that pruning reaches" in found.stderr


def test_an_unknown_edit_is_refused(artefact: str, tmp_path: Path) -> None:
    text = (Path(artefact) / "architecture.yaml").read_text()
    (tmp_path / "architecture.yaml").write_text(text + "edits: [melted]\n")
    with pytest.raises(ArtefactError, match="newer version"):
        load_artefact(tmp_path)
