"""Networks that `compress export` and the jobs that export must not take."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from compress.artefacts.results import SCHEMA, PruneResult, read_results
from compress.cli import app

OWN = """
import torch
from torch import nn

class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 7, stride=4, padding=3), nn.Conv2d(64, 64, 7, padding=3)
        self.act, self.last = nn.SiLU(), nn.Conv2d(64, 17, 1)

    def forward(self, x):
        y = self.act(self.second(self.first(x)))
        if CONDITION:
            y = y * 2
        return self.last(y)

def network():
    torch.manual_seed(0)
    return Branching()
"""
EXPORT = ["--set", "input_hw=[64, 64]", "--set", "data={synthetic: {val: 2}}", "--out", "out"]
CHANGE = ["--set", "input_hw=[64, 64]", "--set", "rounds=3", "--run", "run"]
COMMANDS = {
    "export": ["export", "MODULE:network", *EXPORT],
    "rewrite": ["rewrite", "MODULE:network", *CHANGE],
    "prune": ["prune", "MODULE:network", *CHANGE, "--set", "pruning={ratio: 0.5}"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_branch_by_value_is_refused(command: str, folder: Path) -> None:
    module = f"branching_{command}"
    (folder / f"{module}.py").write_text(OWN.replace("CONDITION", "y.mean() > 0"))
    done = CliRunner().invoke(app, [part.replace("MODULE", module) for part in COMMANDS[command]])
    assert done.exit_code == 2, done.output
    said = " ".join(done.output.split())
    assert "Branching.forward" in said
    assert "the same steps for every picture" in said
    assert not list(folder.rglob("*.onnx"))


UNEVEN = """
import torch
from torch import nn

class Uneven(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.Conv2d(8, 17, 1)

    def forward(self, x):
        x = self.first(x)
        y = nn.functional.adaptive_avg_pool2d(x, (3, 5))
        return self.last(x + nn.functional.interpolate(y, size=x.shape[2:]))

def network():
    torch.manual_seed(0)
    return Uneven()

class TooLarge(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 17, 3, stride=4, padding=1)

    def forward(self, x):
        return self.first(x) * 1e38 * 1e38

def overflow():
    return TooLarge()
"""


def test_one_engine_refuses_the_others_export(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """ONNX has no adaptive pooling to sizes that do not divide; an earlier export of it stays as it is."""
    (folder / "uneven.py").write_text(UNEVEN)
    (folder / "out").mkdir()
    (folder / "out" / "model.onnx").write_bytes(b"an earlier export")
    done = CliRunner().invoke(app, ["export", "uneven:network", *EXPORT, "--json"])
    assert done.exit_code == 2
    result = json.loads(done.stdout)
    assert (result["schema"], result["job"]) == (SCHEMA, "export")
    assert [export["engine"] for export in result["result"]["exports"]] == ["ncnn"]
    assert list(result["result"]["refused"]) == ["onnxruntime"]
    assert "adaptive_avg_pool2d" in result["error"]["message"]
    assert [line for line in done.stderr.splitlines() if line.startswith("error: onnxruntime: ")]
    assert {path.name for path in (folder / "out").iterdir()} == {"model.onnx", "model.ncnn.param", "model.ncnn.bin"}
    assert (folder / "out" / "model.onnx").read_bytes() == b"an earlier export"
    plain = CliRunner().invoke(app, ["export", "uneven:network", *EXPORT])
    assert "Exported" in plain.stdout
    assert "model.ncnn.param" in plain.stdout
    assert capfd.readouterr() == ("", "")


def test_all_engines_refuse(folder: Path) -> None:
    """Outputs that overflow are the network's fault; nothing was exported, and no folder is made for it."""
    (folder / "broken.py").write_text(UNEVEN)
    done = CliRunner().invoke(app, ["export", "broken:overflow", *EXPORT, "--set", "engines=[ncnn, torch]"])
    assert done.exit_code == 2
    assert "Exported" not in done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert [line.split(":")[1].strip() for line in lines] == ["ncnn", "torch"]
    assert all("outputs must be finite" in line for line in lines)
    assert not (folder / "out").exists()


def test_an_export_to_no_engine_is_a_mistake(folder: Path) -> None:
    (folder / "to_none.py").write_text(UNEVEN)
    done = CliRunner().invoke(app, ["export", "to_none:network", *EXPORT, "--set", "engines=[]"])
    assert done.exit_code == 2
    assert "engines" in done.stderr
    assert not (folder / "out").exists()


@pytest.mark.parametrize("command", ["export", "evaluate"])
def test_a_run_folder_lists_its_networks(command: str, folder: Path) -> None:
    for name in ("finalist_1", "dir_bhrnet_25"):
        (folder / "run" / "finalists" / name).mkdir(parents=True)
        (folder / "run" / "finalists" / name / "architecture.yaml").touch()
    done = CliRunner().invoke(app, [command, "run"])
    assert done.exit_code == 2
    assert "run/finalists/dir_bhrnet_25, run/finalists/finalist_1; give one of them" in done.stderr


def test_a_job_refuses_what_an_engine_does_not_take_before_the_work(folder: Path) -> None:
    (folder / "uneven_job.py").write_text(UNEVEN)
    done = CliRunner().invoke(app, [part.replace("MODULE", "uneven_job") for part in COMMANDS["prune"]])
    assert done.exit_code == 2
    assert "onnxruntime" in done.stderr
    assert not list(folder.rglob("weights.safetensors"))


@pytest.mark.parametrize("refusing", ["ncnn", "onnxruntime"])
def test_a_changed_network_that_an_engine_refuses_is_not_lost(
    refusing: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times are told of onnxruntime; without ncnn the job has its results, and says at the end that ncnn is missing."""
    from compress.engines import export as deployment
    from compress.engines.engine import Runner
    from compress.errors import ParityError

    module = f"changed_{refusing}"
    (folder / f"{module}.py").write_text(OWN.replace("CONDITION", "False"))
    check = deployment.check_parity

    def fails_later(network: object, runner: Runner, *rest: object) -> float:
        given = (folder / "run" / "steps" / "given.json").exists()
        if given and refusing in type(runner).__module__:
            raise ParityError("made up", place="output 0", remedy="none")
        return check(network, runner, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(deployment, "check_parity", fails_later)
    done = CliRunner().invoke(app, [part.replace("MODULE", module) for part in COMMANDS["prune"]])
    assert done.exit_code == 2
    assert "made up" in done.stderr
    assert refusing in done.stderr
    assert (folder / "run" / "weights.safetensors").exists()
    assert (folder / "run" / "model.onnx").exists() == (refusing == "ncnn")
    if refusing == "ncnn":
        result = read_results(folder / "run" / "results.json", "prune", PruneResult)
        assert set(result.speed_up) == {"onnxruntime"}
        assert "ncnn: output 0: made up" in (folder / "run" / "report.md").read_text()
        assert not list((folder / "run").glob("model.ncnn.*"))


def test_a_branch_by_size_is_exported(folder: Path) -> None:
    (folder / "by_size.py").write_text(OWN.replace("CONDITION", "y.shape[2] % 2 == 0"))
    done = CliRunner().invoke(app, ["export", "by_size:network", *EXPORT, "--json", "-q"])
    assert done.exit_code == 0, done.output
    assert all(export["parity"] < 1e-4 for export in json.loads(done.output)["result"]["exports"])
