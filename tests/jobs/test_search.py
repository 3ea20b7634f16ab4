"""The whole job, small: twice with one seed, killed and resumed, and on real pictures."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.artefact import load_artefact
from compress.errors import BudgetError, RunError
from compress.jobs.search import choose_finalists, search
from compress.progress import Silent
from compress.recipe import RecipeError, SearchRecipe, find, read_recipe

SMALL = [
    "data.synthetic.train=32",
    "data.synthetic.search=6",
    "data.synthetic.val=6",
    "input_hw=[64, 64]",
    "supernet.epochs=2",
    "supernet.pool=4",
    "search.trials=8",
    "search.population=4",
    "search.calibration_pictures=16",
    "finalists.count=2",
    "finalists.training.epochs=1",
    "measurement.rounds=5",
    "measurement.parity_pictures=2",
    "baselines={hand_balance: {width: 16, blocks: [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]}}",
]


def small_recipe(*overrides: str) -> SearchRecipe:
    return read_recipe(find("bhrnet", "recipes", RecipeError), SearchRecipe, [*SMALL, *overrides])


def command(run: Path, *overrides: str) -> list[str]:
    sets = [part for override in (*SMALL, *overrides) for part in ("--set", override)]
    return [sys.executable, "-m", "compress", "search", "bhrnet", "--run", str(run), *sets]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One latency table for all runs of this file, and none of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    previous = os.environ.get("COMPRESS_CACHE")
    os.environ["COMPRESS_CACHE"] = str(folder)
    yield folder
    if previous is None:
        del os.environ["COMPRESS_CACHE"]
    else:
        os.environ["COMPRESS_CACHE"] = previous


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return folder, search(small_recipe(), folder, Silent())


def trials_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def test_everything_lies_in_the_run_folder(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, results = undisturbed
    assert json.loads((folder / "results.json").read_text()) == results
    assert {"recipe.yaml", "environment.json", "trials.jsonl", "latency_table.json", "finalists"} <= {
        path.name for path in folder.iterdir()
    }
    assert len(trials_of(folder)) == 8
    assert len(results["supernet"]["loss"]) == 2
    names = [network["name"] for network in results["networks"]]
    assert names[0] == "hand_balance"
    assert 2 <= len(names) <= 3  # the front of a moment's training may be a single network
    for network in results["networks"]:
        files = {path.name for path in (folder / "finalists" / network["name"]).iterdir()}
        expected = {"architecture.yaml", "weights.safetensors", "model.onnx", "model.ncnn.param", "model.ncnn.bin"}
        assert files == expected
        assert all(export["parity"] <= 1e-4 for export in network["exports"].values())
        assert network["obtained"] == "short training"
        predicted, measured = network["cost"]["predicted_ms"], network["measured_ms"]
        assert network["prediction_error"] == pytest.approx(predicted / measured - 1)


def test_finalists_rebuild_as_what_was_searched(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, results = undisturbed
    for network in results["networks"]:
        artefact = load_artefact(folder / "finalists" / network["name"])
        assert sum(p.numel() for p in artefact.network.parameters()) == network["cost"]["params"]
        assert artefact.network(torch.zeros(1, 3, 64, 64))[0].shape == (1, 34, 16, 16)


def test_the_front_is_marked_among_the_trials(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    _, results = undisturbed
    points = [(t["cost"]["predicted_ms"], t["ap"], t["on_front"]) for t in results["trials"]]
    for ms, ap, on_front in points:
        beaten = any(m <= ms and a >= ap and (m, a) != (ms, ap) for m, a, _ in points)
        assert on_front != beaten


def scored(*points: tuple[str, float, float]) -> list[dict[str, Any]]:
    return [{"pick": {"name": name}, "cost": {"predicted_ms": ms}, "ap": ap} for name, ms, ap in points]


HAND = ("hand", 1.0, 0.5)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (1, ["best"]),
        (2, ["faster", "best"]),  # at least a fifth faster than the hand-made one
        (3, ["faster", "level", "best"]),  # no slower
        (4, ["faster_2", "faster", "level", "best"]),  # then the second of each
        (5, ["faster_2", "faster", "level_2", "level", "best"]),
        (6, ["half", "faster_2", "faster", "level_2", "level", "best"]),  # of the hand-made one's time
        (7, ["half", "two_thirds", "faster_2", "faster", "level_2", "level", "best"]),
        (8, ["tiny", "half", "two_thirds", "faster_2", "faster", "level_2", "level", "best"]),  # then the front
    ],
)
def test_finalists_are_chosen_around_the_hand_made_networks(wanted: int, names: list[str]) -> None:
    trials = scored(
        HAND, ("tiny", 0.2, 0.1), ("half", 0.5, 0.3), ("two_thirds", 0.66, 0.35), ("faster", 0.8, 0.45),
        ("faster_2", 0.7, 0.4), ("level", 0.95, 0.49), ("level_2", 0.9, 0.48), ("best", 2.0, 0.6), ("slow", 1.9, 0.3),
    )  # fmt: skip
    chosen = choose_finalists(trials, wanted, [{"name": "hand"}])
    assert [trial["pick"]["name"] for trial in chosen] == names


def test_without_hand_made_networks_the_finalists_spread_over_the_front() -> None:
    trials = scored(("a", 1.0, 0.1), ("b", 1.1, 0.2), ("c", 2.0, 0.3), ("d", 4.0, 0.4), ("worse", 3.0, 0.2))
    assert [trial["pick"]["name"] for trial in choose_finalists(trials, 3, [])] == ["a", "c", "d"]


def test_hand_made_networks_alone_give_no_finalist() -> None:
    assert choose_finalists(scored(HAND), 3, [{"name": "hand"}]) == []


def test_one_seed_gives_the_same_candidates_and_scores(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, results = undisturbed
    again = search(small_recipe(), tmp_path / "again", Silent())
    assert trials_of(tmp_path / "again") == trials_of(folder)
    assert again["supernet"] == results["supernet"]
    assert [n["val"] for n in again["networks"]] == [n["val"] for n in results["networks"]]


@pytest.mark.parametrize(
    "moment", ["steps/supernet.pt", "trials.jsonl", "steps/tuned_teacher.pt", "steps/tuned_hand_balance.json"]
)
def test_killed_and_resumed(undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path, moment: str) -> None:
    folder, results = undisturbed
    run = tmp_path / "run"
    process = subprocess.Popen(command(run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not (run / moment).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (run / moment).exists()
    assert not (run / "results.json").exists()
    before = trials_of(run) if (run / "trials.jsonl").exists() else []
    resumed = search(small_recipe(), run, Silent())
    after = trials_of(run)
    assert after[: len(before)] == before
    assert after == trials_of(folder)
    assert [n["val"] for n in resumed["networks"]] == [n["val"] for n in results["networks"]]


def test_a_finished_run_is_not_run_again(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, results = undisturbed
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "finalists").rglob("*") if path.is_file()}
    again = search(small_recipe(), folder, Silent())
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert again["networks"] == results["networks"]


@pytest.mark.parametrize("name", ["trials.jsonl", "seconds.jsonl"])
def test_a_broken_line_is_told_before_any_work(
    undisturbed: tuple[Path, dict[str, Any]], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[0], folder)
    first, *rest = (folder / name).read_text().splitlines()
    (folder / name).write_text("\n".join([first, "{broken", *rest]) + "\n")
    with pytest.raises(RunError, match=rf"{name}, line 2: .*delete this line"):
        search(small_recipe(), folder, Silent())


def test_run_folder_of_another_recipe(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = undisturbed
    before = (folder / "recipe.yaml").read_text()
    with pytest.raises(RunError, match="belongs to one recipe"):
        search(small_recipe("seed=2"), folder, Silent())
    assert (folder / "recipe.yaml").read_text() == before


def test_budget_that_nothing_meets(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"tightest seen.*predicted_ms") as caught:
        search(small_recipe("search.budget.macs=1000", "search.trials=2"), tmp_path / "run", Silent())
    assert "\n" not in str(caught.value)


def test_budget_is_kept(tmp_path: Path) -> None:
    results = search(small_recipe("search.budget.macs=5000000", "baselines={}"), tmp_path / "run", Silent())
    assert all(trial["cost"]["macs"] <= 5_000_000 for trial in results["trials"])
    assert results["comparison"] == []


REAL = Path(os.environ.get("COMPRESS_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.mark.skipif(not (REAL / "coco").is_dir(), reason="real COCO pictures are not on this machine")
def test_on_real_coco_pictures(tmp_path: Path) -> None:
    overrides = ["data.kind=coco", f"data.disk.folder={REAL / 'coco'}", "data.disk.search=8", "search.trials=4"]
    results = search(small_recipe(*overrides), tmp_path / "run", Silent())
    assert results["data"] == {"kind": "coco", "train": 38, "search": 8, "val": 46, "val_people": 122}
    assert all(0 <= network["val"]["AP"] <= 1 for network in results["networks"])
