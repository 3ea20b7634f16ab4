"""`compress prune --compare torch-pruning`: networks that it prunes, and those on which it fails."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from compress.artefacts.artefact import CHANNELS_PRUNED, load_artefact
from compress.artefacts.results import PruneResult, read_results
from compress.cli import app
from compress.errors import NetworkError
from compress.jobs.prune import compare
from compress.jobs.prune.prune import prune
from compress.measure.counting import count
from compress.progress import Silent
from compress.pruning.structured import difference
from compress.recipe import PruneRecipe
from compress.report.page import write_report
from compress.report.prune import print_pruned

HW = (32, 32)


class Plain(nn.Module):
    """Two branches that are added, which a pruner must see; no rounding is in the way."""

    approach, keypoints = "top-down", 17

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 4, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.left = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 16, 1))
        self.maps = nn.Conv2d(16, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.maps(y + self.left(y))  # type: ignore[no-any-return]


class Sliced(Plain):
    """The halves change places at a fixed channel: torch-pruning raises IndexError."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.maps(torch.cat((y[:, 8:], y[:, :8]), 1) + self.left(y))  # type: ignore[no-any-return]


class Flipped(Plain):
    """The order of channels is reversed, which torch-pruning takes for an operation on single channels."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.maps(y + self.left(y.flip(1)))  # type: ignore[no-any-return]


def plain() -> nn.Module:
    """For `module:function`."""
    torch.manual_seed(0)
    return Plain()


def sliced() -> nn.Module:
    torch.manual_seed(0)
    return Sliced()


def flipped() -> nn.Module:
    torch.manual_seed(0)
    return Flipped()


def recipe(**pruning: Any) -> PruneRecipe:
    return PruneRecipe.model_validate(
        {
            "data": {"synthetic": {"train": 8, "val": 4}},
            "input_hw": HW,
            "training": {"epochs": 1, "batch_size": 4, "warmup_steps": 0},
            "targets": ["onnxruntime"],
            "rounds": 3,
            "pruning": {"multiple": 1, "compare": "torch-pruning", **pruning},
        }
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PruneResult]:
    folder = tmp_path_factory.mktemp("compared") / "run"
    return folder, prune(f"{__name__}:plain", recipe(macs=0.5), folder, Silent())


def test_both_come_to_the_goal_and_are_scored_and_timed_together(compared: tuple[Path, PruneResult]) -> None:
    folder, result = compared
    other = result.torch_pruning
    assert other is not None
    assert other.pruner.startswith("torch-pruning 1.")
    assert other.failure is None
    theirs = other.network
    assert theirs is not None
    assert (theirs.name, theirs.role) == ("torch_pruning", "compared")
    for one in (result.pruned, theirs):
        assert one.macs / result.given.macs == pytest.approx(0.5, abs=0.05)
        assert one.score is not None
        assert one.export("onnxruntime").parity < 1e-4
        assert one.latency.keys() == {"onnxruntime"}
    assert other.speed_up["onnxruntime"].factor == pytest.approx(
        result.given.latency["onnxruntime"].ms / theirs.latency["onnxruntime"].ms
    )
    artefact = load_artefact(folder / "torch_pruning")
    assert artefact.edits == (CHANNELS_PRUNED,)
    assert count(artefact.module, HW).macs == theirs.macs
    assert read_results(folder / "results.json", "prune", PruneResult) == result


def test_a_finished_run_keeps_the_comparison(compared: tuple[Path, PruneResult]) -> None:
    folder, result = compared
    assert prune(f"{__name__}:plain", recipe(macs=0.5), folder, Silent()).torch_pruning == result.torch_pruning


def test_it_is_a_further_column(
    compared: tuple[Path, PruneResult], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = compared[1]
    write_report("prune", result, tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "| given | pruned | pruned/given | torch-pruning | torch-pruning/given |" in page
    assert result.torch_pruning is not None
    assert result.torch_pruning.network is not None
    (row,) = [line for line in page.splitlines() if line.startswith("| MACs, M")]
    assert row.count("|") == 7
    assert f"{result.torch_pruning.network.macs / result.given.macs:.3f} |" in row
    print_pruned(result)
    assert "torch-pruning" in capsys.readouterr().out
    assert "torch_pruning" in str(result)


@pytest.mark.parametrize(("name", "why"), [("sliced", "IndexError"), ("flipped", "outputs differ by")])
def test_where_it_fails_our_network_is_there_all_the_same(name: str, why: str, tmp_path: Path) -> None:
    arguments = ["prune", f"{__name__}:{name}", "--ratio", "0.5", "--compare", "torch-pruning", "-q"]
    settings = ["input_hw=[32,32]", "rounds=3", "targets=[onnxruntime]"]
    sets = [part for one in settings for part in ("--set", one)]
    done = CliRunner().invoke(app, [*arguments, *sets, "--run", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    result = read_results(tmp_path / "run" / "results.json", "prune", PruneResult)
    other = result.torch_pruning
    assert other is not None
    assert other.network is None
    assert why in (other.failure or "")
    assert "\n" not in (other.failure or "")
    assert result.pruned.macs < result.given.macs
    assert result.pruned.latency
    assert why in str(result)
    page = (tmp_path / "run" / "report.md").read_text()
    assert "gives no network to compare with: " in page
    assert "torch-pruning/given" not in page


def test_a_ratio_is_its_own(compared: object) -> None:
    """Its pruner takes that share of every layer's channels; what makes the outputs stays."""
    pruned = compare.replayed(plain(), compare.removals_of(plain(), 0.25, HW), HW)
    assert [tuple(one.weight.shape) for one in pruned.modules() if isinstance(one, nn.Conv2d)] == [
        (12, 3, 3, 3),
        (12, 12, 3, 3),
        (12, 12, 1, 1),
        (17, 12, 1, 1),
    ]
    kept = compare.replayed(plain(), compare.removals_of(plain(), 0.25, HW, protected=["left.0"]), HW)
    assert kept.get_submodule("left.0").weight.shape == (16, 12, 3, 3)


def test_removed_weights_are_found_again() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1))
    kept = compare._kept_weights(network, [("0", True, [1, 3])], HW)
    expected = torch.ones(4, 3, 1, 1), torch.ones(5, 4, 1, 1)
    expected[0][[1, 3]] = 0
    expected[1][:, [1, 3]] = 0
    assert torch.equal(kept["0.weight"], expected[0])
    assert torch.equal(kept["2.weight"], expected[1])
    silenced, image = compare.copy.deepcopy(network), torch.randn(1, 3, *HW)
    silenced[2].weight.data *= kept["2.weight"]
    assert difference(silenced, compare.checked(network, [("0", True, [1, 3])], HW), image) < 1e-5


def test_wrong_outputs_are_found() -> None:
    """Every layer of the pruned network fits the next, and its outputs are others."""
    removals = compare.removals_of(flipped(), 0.5, HW)
    assert compare.replayed(flipped(), removals, HW)(torch.randn(1, 3, *HW)).shape == (1, 17, 8, 8)
    with pytest.raises(NetworkError, match="outputs differ by"):
        compare.checked(flipped(), removals, HW)


def test_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> None:
        with compare._at_work():
            while True:
                pass

    monkeypatch.setattr(compare, "SECONDS", 0.05)
    with pytest.raises(NetworkError, match="must be pruned within"):
        endless()


def test_only_channels_can_be_compared() -> None:
    with pytest.raises(ValueError, match="belongs to scheme channel"):
        recipe(ratio=0.5, scheme="block")


def test_a_goal_in_time_is_met_by_the_timings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock by which a network takes the root of its share of multiply-adds."""
    given = count(plain(), HW).macs
    monkeypatch.setattr(compare, "time_share", lambda task, network: (count(network, HW).macs / given) ** 0.5)
    task = SimpleNamespace(
        recipe=recipe(latency=0.7), original=SimpleNamespace(module=plain(), input_hw=HW), progress=Silent()
    )
    removals = compare.choose_removals(task, plain(), 1)  # type: ignore[arg-type]
    share = (count(compare.replayed(plain(), removals, HW), HW).macs / given) ** 0.5
    assert share == pytest.approx(0.7, abs=0.03)
