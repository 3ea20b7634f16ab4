"""The round trip over another device: packed, run there, and what was promised beside what was met.

The other device is this machine with two threads, of which nothing is known but what its packed folders bring back.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from compress.artefacts.results import PruneResult, read_results
from compress.cli import app
from compress.errors import RunError, TableError
from compress.jobs.latency.pack import pack, unpack
from compress.jobs.measure import pack_run, unpack_run
from compress.jobs.prune.prune import prune
from compress.jobs.rewrite.rewrite import rewrite
from compress.measure.latency_table import load_table
from compress.progress import Silent
from compress.recipe import LatencyRecipe, PruneRecipe, RewriteRecipe

HW = [64, 64]


class Plain(nn.Module):
    approach, keypoints = "top-down", 17

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1), nn.SiLU()]
        for _ in range(3):
            layers += [nn.Conv2d(32, 32, 7, padding=3, bias=False), nn.BatchNorm2d(32), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(32, 17, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return Plain()


NETWORK = f"{__name__}:plain"


def run_there(folder: Path, *options: str) -> str:
    command = [sys.executable, "-I", "run.py", "--rounds", "8", "--threads", "2", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of what pruning and rewriting of the network will need."""
    folder = tmp_path_factory.mktemp("round")
    merged = folder / "device.json"
    tables = []
    for purpose in ("prune", "rewrite"):
        recipe = LatencyRecipe.model_validate({"input_hw": HW, "networks": 2, "purpose": purpose})
        packed = pack([NETWORK], recipe, folder / purpose, Silent())
        assert packed.networks > 3
        run_there(folder / purpose)
        unpack(folder / purpose, folder / f"{purpose}.json", None, Silent())
        tables.append(load_table(folder / f"{purpose}.json"))
    both = replace(tables[0], path=merged, kernels={**tables[1].kernels, **tables[0].kernels})
    both.save()
    return merged


def settings(table: Path, **more: Any) -> dict[str, Any]:
    return {"input_hw": HW, "targets": f"onnxruntime@{table}", "rounds": 4, "parity_pictures": 1, **more}


@pytest.fixture(scope="module")
def pruned(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pruned") / "run"
    recipe = PruneRecipe.model_validate(settings(table, pruning={"latency": 0.6, "allocate": "latency"}))
    prune(NETWORK, recipe, run, Silent())
    return run


def test_a_pruning_for_another_device_predicts_every_time(pruned: Path, table: Path) -> None:
    result = read_results(pruned / "results.json", "prune", PruneResult)
    name = f"onnxruntime@{table.stem}"
    assert list(result.speed_up) == [name]
    assert result.speed_up[name].provenance == "predicted"
    for one in (result.given, result.pruned):
        assert one.latency[name].provenance == "predicted"
        assert one.latency[name] == one.predicted[name]
    assert result.goal is not None
    assert result.goal.met
    assert result.goal.reached == pytest.approx(result.pruned.latency[name].ms / result.given.latency[name].ms)
    assert result.run.targets[0].threads == 2
    assert result.run.targets[0].table == str(table)
    page = (pruned / "results.json").read_text()
    assert '"measured"' not in page


def test_promised_and_met(pruned: Path, tmp_path: Path) -> None:
    run, folder = shutil.copytree(pruned, tmp_path / "run"), tmp_path / "packed"
    packed = pack_run(run, folder)
    assert packed.networks == 2
    assert packed.run == "python run.py --threads 2"  # as the table, whatever the target's name says
    with pytest.raises(TableError, match="must be new"):
        pack_run(run, folder)
    with pytest.raises(TableError, match=r"results\.json.*run it first"):
        unpack_run(run, folder)
    assert "2 threads, 1/2 given" in run_there(folder)
    assert run_there(folder) == ""  # nothing is measured twice
    job, changed, found = unpack_run(run, folder)
    assert job == "prune"
    assert isinstance(changed, PruneResult)
    assert read_results(run / "results.json", "prune", PruneResult) == changed
    assert [one.name for one in found.networks] == ["given", "pruned"]
    (name,) = changed.speed_up
    for one, network in zip(found.networks, (changed.given, changed.pruned), strict=True):
        assert network.latency[name] == one.met
        assert (one.met.provenance, one.promised.provenance) == ("measured", "predicted")
        assert network.predicted[name] == one.promised
        assert one.error == pytest.approx(one.promised.ms / one.met.ms - 1)
    assert changed.speed_up[name].provenance == "measured"
    assert changed.speed_up[name].factor == pytest.approx(found.networks[0].met.ms / found.networks[1].met.ms)
    assert found.worst_error == max(abs(one.error) for one in found.networks)
    assert changed.goal is not None
    assert changed.goal.reached == pytest.approx(1 / changed.speed_up[name].factor)
    # From the command line, the report too; doing it twice changes nothing.
    shown = CliRunner().invoke(app, ["measure", "unpack", str(run), str(folder)])
    assert shown.exit_code == 0, shown.output
    assert "promised ms" in shown.stdout
    assert "measured ms" in (run / "report.md").read_text()
    assert read_results(run / "results.json", "prune", PruneResult) == changed


def test_what_does_not_belong_together_is_refused(pruned: Path, table: Path, tmp_path: Path) -> None:
    run, folder = shutil.copytree(pruned, tmp_path / "run"), tmp_path / "packed"
    pack_run(run, folder)
    done = subprocess.run(
        [sys.executable, "-I", "run.py", "--rounds", "4", "--threads", "1"],
        cwd=folder,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    with pytest.raises(TableError, match=r"the results must be of onnxruntime.*2 threads"):
        unpack_run(run, folder)
    data = json.loads((run / "results.json").read_text())
    data["result"]["pruned"]["params"] += 1
    (run / "results.json").write_text(json.dumps(data))
    with pytest.raises(TableError, match="must be of this run"):
        unpack_run(run, folder)
    with pytest.raises(RunError, match="no results"):
        pack_run(tmp_path / "nowhere", tmp_path / "other")
    done = subprocess.run(
        [sys.executable, "-I", "run.py", "--precision", "float16"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "float32 only" in done.stderr) == (2, True)


def test_rewriting_for_another_device(table: Path, tmp_path: Path) -> None:
    """Savings are predicted; nothing is called measured."""
    rewriting = {"rules": ["conv_to_3x3", "swish_to_hard_swish"], "min_gain": 0.001}
    recipe = RewriteRecipe.model_validate(settings(table, rewriting=rewriting))
    result = rewrite(NETWORK, recipe, tmp_path / "run", Silent())
    assert result.decision is not None
    assert all(choice.saved_ms is None for choice in result.choices)
    for number in result.decision.taken:
        choice = result.choices[number]
        assert choice.gain == pytest.approx((choice.predicted_saved_ms or 0) / result.given.latency[result.target].ms)
    if result.rewritten:
        assert {one.provenance for one in result.rewritten.latency.values()} == {"predicted"}
