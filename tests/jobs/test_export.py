"""Networks that `compress export` and the jobs that export must not take."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

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


def test_a_branch_by_size_is_exported(folder: Path) -> None:
    (folder / "by_size.py").write_text(OWN.replace("CONDITION", "y.shape[2] % 2 == 0"))
    done = CliRunner().invoke(app, ["export", "by_size:network", *EXPORT, "--json", "-q"])
    assert done.exit_code == 0, done.output
    assert all(export["parity"] < 1e-4 for export in json.loads(done.output)["exports"].values())
