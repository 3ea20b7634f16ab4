"""`compress rewrite` on networks of a few milliseconds; their times are said by hand, so nothing depends on a clock."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from compress.artefacts.artefact import CHANNELS_PRUNED, FUNCTIONS_AS_MODULES, load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.artefacts.results import RewriteResult, read_results
from compress.cli import app
from compress.engines import check_parity, engine
from compress.errors import NetworkError, RecipeError
from compress.files import write_json
from compress.jobs.evaluate import evaluate
from compress.jobs.prune.prune import prune
from compress.jobs.rewrite import decision as rewriting
from compress.jobs.rewrite.choice import at_other_depth, list_rules
from compress.jobs.rewrite.rewrite import rewrite
from compress.measure.counting import count
from compress.measure.latency import Latency
from compress.measure.timing import Timing
from compress.networks.mobile_openpose import MobileOpenPose
from compress.progress import Silent
from compress.recipe import Data, EvaluateRecipe, PruneRecipe, RewriteRecipe
from compress.report.page import write_report
from compress.report.rewrite import print_rewritten, print_rules
from compress.rewriting import fitting as carry
from compress.rewriting.depth import layers_of
from compress.rewriting.rules import RULES
from compress.rewriting.sites import Rewrite
from tests.recorded_progress import Recorded

HW = (64, 64)
NETWORK = MobileOpenPose(blocks=(1, 1), width=4, features=8, refinement="one_7x7")
SEVENS = [f"refinements.0.{n}.trunk.0.conv" for n in range(5)]


class Block(nn.Module):
    """What other code bases write: activations as functions."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return x * torch.sigmoid(x)


class Functional(nn.Module):
    """Top-down, 17 joints."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.maps = nn.Sequential(Block(3, 16), Block(16, 16)), nn.Conv2d(16, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(F.interpolate(F.silu(self.layers(x)), scale_factor=2, mode="bilinear"))


def functional() -> nn.Module:
    torch.manual_seed(0)
    return Functional()


class Unsure(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x if x.shape[2] > 8 else -x))


class Lying(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(super().forward(x))
        return y if isinstance(y, Tensor) else y + 1


def unsure() -> nn.Module:
    return nn.Sequential(Unsure(3, 17, 3, 2, 1))


def lying() -> nn.Module:
    return Lying(3, 17, 3, 2, 1)


def recipe(asked: Mapping[str, Any], **changes: Any) -> RewriteRecipe:
    data = {
        "data": {"synthetic": {"train": 8, "val": 4}},
        "training": {"epochs": 1, "batch_size": 4, "warmup_steps": 0},
        "targets": ["onnxruntime"],
        "rounds": 4,
        "rewriting": {"pictures": 2, "calibration": 4, "steps": 2, "max_loss": 1.0, **asked},
    }
    return RewriteRecipe.model_validate({**data, **changes})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("rewrite") / "start"
    torch.manual_seed(0)
    save_artefact(folder, NETWORK, NETWORK.build(), Metadata(HW, data=Data()))
    return str(folder)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large kernel or a swish takes a millisecond in every network, all else one together."""

    def large(network: nn.Module) -> int:
        kernels = sum(isinstance(m, nn.Conv2d) and m.kernel_size[0] > 3 for m in network.modules())
        return kernels + sum(isinstance(m, nn.SiLU) for m in network.modules())

    def timed(runners: Mapping[str, Any], hw: tuple[int, int], threads: int, rounds: int) -> dict[str, Any]:
        return {name: SimpleNamespace(ratio=1.0 + large(networks[name]), reliable=True) for name in runners}

    networks: dict[str, nn.Module] = {}
    real = rewriting.engine

    def noting(name: str) -> Any:
        runtime = real(name)

        def export(network: nn.Module, hw: tuple[int, int], folder: Path, file: str) -> list[Path]:
            networks[file.removeprefix("net")] = network
            return [folder / file]

        return SimpleNamespace(export=export, describe=runtime.describe, name=name)

    model = SimpleNamespace(
        reference_ms=1.0, latency=lambda network, input_hw: Latency(1.0 + large(network), "", "predicted")
    )
    monkeypatch.setattr(rewriting, "engine", noting)
    monkeypatch.setattr(rewriting, "load", lambda target, file: file)
    monkeypatch.setattr(rewriting, "model_for", lambda task, choices: model)
    monkeypatch.setattr(rewriting, "time_runners", timed)


@pytest.mark.usefixtures("clock")
def test_an_unsteady_timing_is_believed_no_further_than_the_prediction(
    artefact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first site is measured as slower, the second as far faster than predicted; only the others are steady."""

    def timed(runners: Mapping[str, Any], hw: tuple[int, int], threads: int, rounds: int) -> dict[str, Any]:
        ratios = {"given": 6.0, "0": 6.5, "1": 1.0}
        return {name: SimpleNamespace(ratio=ratios.get(name, 4.5), reliable=name not in ("0", "1")) for name in runners}

    monkeypatch.setattr(rewriting, "time_runners", timed)
    asked_for = {"rules": ["conv_to_3x3"], "sites": ["refinements.*"]}
    result = rewrite(artefact, recipe(asked_for), tmp_path / "run", Silent())
    gains = [choice.gain for choice in result.choices]
    assert gains == pytest.approx([-0.5 / 6, 1 / 7, 1.5 / 6, 1.5 / 6, 1.5 / 6])
    assert [choice.reliable for choice in result.choices] == [False, False, True, True, True]
    assert "saves -8.3% of the time" in result.decision.refused[0]
    write_report("rewrite", result, tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "+5.000 (?) | 14.3% (?)" in page
    assert "(?) marks gains whose timing was unsteady" in page
    assert "Each alone, the accepted save 89.3% of the time in all on onnxruntime; together" in page


class Reading(nn.Module):
    """Reads what a replacement of `up` does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 8, 4, 2, 1)
        self.act, self.maps = nn.SiLU(), nn.Conv2d(8, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.maps(self.act(self.up(self.down(x)) / self.up.weight.shape[0]))


def reading() -> nn.Module:
    torch.manual_seed(0)
    return Reading()


@pytest.mark.parametrize("name", ["onnxruntime", "ncnn"])
def test_a_replacement_that_the_network_cannot_run_with_is_refused(name: str, tmp_path: Path) -> None:
    """By the engine itself, whatever it measures: the network fails wherever it is exported with it."""
    asked = {"rules": ["transposed_to_upsample", "swish_to_relu"]}
    settings = recipe(asked, input_hw=HW, targets=[name])
    result = rewrite(f"{__name__}:reading", settings, tmp_path / "run", Silent())
    assert result.choices[1].failure is None
    assert (
        "transposed_to_upsample at network.up: the network must run with the replacement" in result.decision.refused[0]
    )


def test_depth_keeps_the_multiply_adds_of_the_network_as_it_is_given() -> None:
    """Of one that was pruned: those of what is left."""
    whole, left = replace(NETWORK, width=64), replace(NETWORK, width=40).build()
    original: Any = SimpleNamespace(architecture=whole, module=left, edits=(CHANNELS_PRUNED,), input_hw=HW)
    found = at_other_depth(original, 14)
    wanted = count(left, HW).macs
    assert layers_of(found) > layers_of(whole)
    assert count(found.build(), HW).macs == pytest.approx(wanted, rel=0.3)  # widths are whole numbers
    assert count(whole.build(), HW).macs > 2 * wanted
    same: Any = SimpleNamespace(architecture=whole, module=left, edits=(), input_hw=HW)
    with pytest.raises(RecipeError, match="has that many layers"):
        at_other_depth(same, layers_of(whole))


def test_an_engine_that_prices_nothing_is_refused_before_any_work(artefact: str, tmp_path: Path) -> None:
    wrong = recipe({"rules": ["conv_to_3x3"]}, targets=["torch"])
    with pytest.raises(RecipeError, match="this one has none"):
        rewrite(artefact, wrong, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("clock")
def test_rewrite_tune_export_measure_and_go_on_from_the_result(artefact: str, tmp_path: Path) -> None:
    before = load_file(Path(artefact) / "weights.safetensors")
    progress = Recorded()
    result = rewrite(
        artefact, recipe({"rules": ["conv_to_3x3"], "sites": ["refinements.*"]}), tmp_path / "run", progress
    )
    assert progress.opened == progress.planned
    assert [choice.at for choice in result.choices] == [(path,) for path in SEVENS]
    assert all(choice.saved_ms == 1.0 for choice in result.choices)
    assert result.choices[0].gain == pytest.approx(1 / 7)  # the stem's 7x7 stays, and one millisecond for the rest
    assert result.decision.taken == (0, 1, 2, 3, 4)
    for choice in result.choices:
        (errors,) = choice.errors.values()
        assert errors.reconstructed <= errors.carried
    loaded = load_artefact(tmp_path / "run")
    assert loaded.edits == tuple(Rewrite("conv_to_3x3", path) for path in SEVENS)
    assert result.rewritten.macs < result.given.macs
    assert result.rewritten.export("onnxruntime").parity < 1e-4
    after = load_file(Path(artefact) / "weights.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    scored = evaluate(tmp_path / "run", EvaluateRecipe(), Silent())
    assert scored.score.value == result.rewritten.score.value
    assert read_results(tmp_path / "run" / "results.json", "rewrite", RewriteResult) == result
    write_report("rewrite", result, tmp_path)
    assert "conv_to_3x3" in (tmp_path / "report.md").read_text()
    print_rewritten(result)
    pruned = prune(
        str(tmp_path / "run"),
        PruneRecipe.model_validate(
            {
                "data": {"synthetic": {"train": 8, "val": 4}},
                "targets": ["onnxruntime"],
                "rounds": 4,
                "training": {"epochs": 1, "batch_size": 4, "warmup_steps": 0},
                "pruning": {"ratio": 0.5, "multiple": 1},
            }
        ),
        tmp_path / "pruned",
        Silent(),
    )
    assert pruned.pruned.macs < result.rewritten.macs
    assert load_artefact(tmp_path / "pruned").edits[:5] == loaded.edits


@pytest.mark.usefixtures("clock")
def test_a_killed_run_goes_on_and_ends_the_same(artefact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe({"rules": ["conv_to_3x3"], "sites": ["refinements.0.[01].*"]})
    whole = rewrite(artefact, asked, tmp_path / "whole", Silent())
    real = carry.fit
    calls = 0

    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(carry, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        rewrite(artefact, asked, tmp_path / "run", Silent())
    again = rewrite(artefact, asked, tmp_path / "run", Silent())
    assert calls == 1 + 1 + 1 + 2  # the first alone, the second dies, alone again, then both together
    assert again.choices == whole.choices
    assert again.rewritten.evaluations == whole.rewritten.evaluations


@pytest.mark.usefixtures("clock")
def test_networks_and_savings_are_on_the_latency_tables_clock(
    artefact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table's reference takes a millisecond; beside the networks it took a tenth, on a faster core."""

    def timed(runners: Mapping[str, Any], *others: Any) -> dict[str, Timing]:
        ratios = {"given onnxruntime": 7.0, "rewritten onnxruntime": 2.0}
        return {name: Timing(1.0, 1.0, 1.0, ratios[name], 0.1 * ratios[name], 0.0, 0.01, 9) for name in runners}

    monkeypatch.setattr("compress.measure.whole_networks.time_runners", timed)
    asked = recipe({"rules": ["conv_to_3x3"], "sites": ["refinements.*"]})
    result = rewrite(artefact, asked, tmp_path / "run", Silent())
    assert result.given.latency["onnxruntime"].ms == pytest.approx(7.0)
    assert result.rewritten.latency["onnxruntime"].ms == pytest.approx(2.0)
    assert sum(choice.saved_ms for choice in result.choices) == pytest.approx(5.0)


@pytest.mark.usefixtures("clock")
def test_nothing_is_taken_beyond_the_limits(artefact: str, tmp_path: Path) -> None:
    result = rewrite(artefact, recipe({"rules": ["conv_to_3x3"], "min_gain": 0.9}), tmp_path / "run", Silent())
    assert result.decision.taken == ()
    assert result.rewritten is None
    assert len(result.decision.refused) == len(result.choices) > 0
    assert read_results(tmp_path / "run" / "results.json", "rewrite", RewriteResult) == result
    write_report("rewrite", result, tmp_path)
    print_rewritten(result)
    left, given = load_artefact(tmp_path / "run"), load_artefact(Path(artefact))  # for the next command
    assert (left.edits, left.metadata.provenance) == (given.edits, given.metadata.provenance)
    assert all(torch.equal(left.module.state_dict()[name], one) for name, one in given.module.state_dict().items())


def test_a_rule_without_a_site_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["rewrite", "mobilenet_v2", "--rule", "swish_to_relu", "--run", str(tmp_path / "run"), "--json"]
    )
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)["result"]
    assert result["choices"] == []
    assert result["rewritten"] is None
    assert "No module" in (tmp_path / "run" / "report.md").read_text()


SWISHES = ["network.layers.0.silu", "network.layers.1.silu", "network.silu"]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("pruned_first", [False, True])
def test_functions_of_an_own_network_are_sites(pruned_first: bool, tmp_path: Path) -> None:
    data = {
        "data": {"synthetic": {"train": 8, "val": 4}},
        "targets": ["onnxruntime"],
        "rounds": 4,
        "input_hw": HW,
        "training": {"epochs": 1, "batch_size": 4, "warmup_steps": 0},
    }
    pruning = PruneRecipe.model_validate({**data, "pruning": {"ratio": 0.5, "multiple": 1}})
    start = f"{__name__}:functional"
    if pruned_first:
        prune(start, pruning, tmp_path / "start", Silent())
        start = str(tmp_path / "start")
    asked = recipe({"rules": ["swish_to_hard_swish"]}, input_hw=HW)
    result = rewrite(start, asked, tmp_path / "run", Silent())
    assert [choice.at for choice in result.choices] == [(path,) for path in SWISHES]
    assert result.decision.taken == (0, 1, 2)
    assert result.unread == {}
    loaded = load_artefact(tmp_path / "run")
    before = (CHANNELS_PRUNED,) if pruned_first else ()
    assert loaded.edits == (FUNCTIONS_AS_MODULES, *before, *(Rewrite("swish_to_hard_swish", at) for at in SWISHES))
    assert not any(isinstance(part, nn.SiLU) for part in loaded.module.modules())
    exported = engine("onnxruntime").load(tmp_path / "run" / "model.onnx", 1)
    assert check_parity(loaded.module, exported, [torch.randn(1, 3, *HW).numpy()], 1e-4) < 1e-4
    scored = evaluate(tmp_path / "run", EvaluateRecipe(), Silent())
    assert scored.score.value == result.rewritten.score.value
    again = rewrite(str(tmp_path / "run"), recipe({"rules": ["bilinear_to_nearest"]}), tmp_path / "again", Silent())
    assert [choice.at for choice in again.choices] == [("network.interpolate",)]
    prune(str(tmp_path / "run"), pruning, tmp_path / "pruned", Silent())
    last = load_artefact(tmp_path / "pruned")
    assert last.edits == (loaded.edits if pruned_first else (*loaded.edits, CHANNELS_PRUNED))
    assert last.module.get_submodule("network.layers.0.conv").weight.shape[0] < 16


@pytest.mark.usefixtures("clock")
def test_an_own_network_whose_functions_are_not_asked_for_stays_as_it_is(tmp_path: Path) -> None:
    asked = recipe({"rules": ["conv_to_separable"]}, data=None, input_hw=HW)
    result = rewrite(f"{__name__}:functional", asked, tmp_path / "run", Silent())
    assert {choice.rule for choice in result.choices} == {"conv_to_separable"}
    text = (tmp_path / "run" / "architecture.yaml").read_text() if result.rewritten else ""
    assert FUNCTIONS_AS_MODULES not in text


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("unsure", "Functions called in network.0 are no sites: test_rewrite.py, line "),
        ("lying", "Functions called in the network are no sites: as modules they would change the outputs by "),
    ],
)
def test_functions_that_cannot_be_sites_say_why(function: str, said: str, tmp_path: Path) -> None:
    asked = recipe({"rules": ["swish_to_relu"]}, data=None, input_hw=HW)
    result = rewrite(f"{__name__}:{function}", asked, tmp_path / "run", Silent())
    assert result.choices == ()
    write_report("rewrite", result, tmp_path)
    assert said in (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("clock")
def test_fresh_weights_are_judged_by_time_alone(tmp_path: Path) -> None:
    write_json(
        tmp_path / "net.yaml",
        {"family": "mobile_openpose", "blocks": [1, 1], "width": 4, "features": 8, "refinement": "one_7x7"},
    )
    asked = recipe({"rules": ["conv_to_3x3"]}, data=None, input_hw=HW)
    result = rewrite(str(tmp_path / "net.yaml"), asked, tmp_path / "run", Silent())
    assert result.given.score is None
    assert result.decision.joint_loss is None
    assert "conv_to_3x3" in {result.choices[n].rule for n in result.decision.taken}
    write_report("rewrite", result, tmp_path)
    assert "no accuracy is claimed" in (tmp_path / "report.md").read_text()


def test_another_depth(tmp_path: Path) -> None:
    write_json(tmp_path / "net.yaml", {"family": "mobile_openpose", "blocks": [1, 1], "width": 16, "features": 8})
    result = rewrite(
        str(tmp_path / "net.yaml"), recipe({"depth": 15}, data=None, input_hw=HW), tmp_path / "run", Silent()
    )
    assert (result.depth.given, result.depth.rewritten) == (9, 15)
    assert result.rewritten.macs == pytest.approx(result.given.macs, rel=0.1)
    print_rewritten(result)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mobilenet_v2", "--rule", "swish_to_rely"], "swish_to_relu"),
        (["mobilenet_v2", "--set", "rewriting.sites=[nothing.*]"], "pattern of sites"),
        (["mobilenet_v2", "--max-loss", "2"], "--max-loss"),
        (["mobilenet_v2", "--depth", "24", "--rule", "swish_to_relu"], "depth"),
        ([], "a network must be given"),
        (["edite_hrnet_s", "--depth", "24"], "edite_hrnet"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["rewrite", *arguments, "--run", str(tmp_path / "run")])
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_unknown_rule_and_module_are_named(artefact: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="conv_to_3x3"):
        rewrite(artefact, recipe({"rules": ["conv_to_3x4"]}), tmp_path / "run", Silent())
    with pytest.raises(NetworkError, match="nowhere"):
        rewriting.rewritten(NETWORK.build(), [Rewrite("conv_to_3x3", "nowhere")])


def test_every_rule_is_listed() -> None:
    done = CliRunner().invoke(app, ["rewrite", "--list", "--json"])
    assert {row["rule"] for row in json.loads(done.stdout)["result"]} == set(RULES)
    print_rules(list_rules())
