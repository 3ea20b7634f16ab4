"""A job that was killed goes on with the network it began with, and with no other that came to lie in its place."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from compress.artefacts.artefact import load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.errors import RunError
from compress.jobs import change, train
from compress.jobs.prune import prune
from compress.jobs.rewrite import rewrite
from compress.jobs.search import search
from compress.networks.mobile_openpose import MobileOpenPose
from compress.progress import Silent
from compress.recipe import Data, PruneRecipe, RewriteRecipe, SearchRecipe, TrainRecipe
from compress.rewriting.sites import Rewrite, rewrite_in_place

RECORD = MobileOpenPose(blocks=(1, 1), width=4, features=8, refinement="one_7x7")
DATA = {"synthetic": {"train": 4, "search": 2, "val": 2}}
LEARNING = {"epochs": 1, "batch_size": 2, "warmup_steps": 0}
CHANGE = {"data": DATA, "training": LEARNING}


def searched(start: Path, run: Path) -> None:
    space = start.parent / "space.yaml"
    edits = {"trunk": {"sites": "features", "channels": [0.5, 1.0]}}
    space.write_text(yaml.safe_dump({"family": "mobile_openpose", "edits": edits}))
    recipe: dict[str, Any] = {"job": "search", "input_hw": [64, 64], "data": DATA, "finalists": {"training": LEARNING}}
    recipe["search"] = {"space": str(space), "start": str(start)}
    search.search(SearchRecipe.model_validate(recipe), run, Silent())


def pruned(start: Path, run: Path) -> None:
    prune.prune(str(start), PruneRecipe.model_validate({**CHANGE, "pruning": {"ratio": 0.5}}), run, Silent())


def analysed(start: Path, run: Path) -> None:
    prune.analyse(str(start), PruneRecipe.model_validate(CHANGE), run, Silent())


def rewritten(start: Path, run: Path) -> None:
    rewrite.rewrite(str(start), RewriteRecipe.model_validate(CHANGE), run, Silent())


def trained(start: Path, run: Path) -> None:
    recipe = {"input_hw": [64, 64], "data": DATA, "training": LEARNING}
    train.train_network(str(start), TrainRecipe.model_validate(recipe), run, Silent())


def save(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    save_artefact(folder, RECORD, RECORD.build(), Metadata((64, 64), data=Data()))


@pytest.mark.parametrize(
    ("job", "module", "step"),
    [
        (searched, search, "space_models"),
        (pruned, change, "launch"),
        (analysed, change, "launch"),
        (rewritten, change, "launch"),
        (trained, train, "train"),
    ],
)
def test_another_network_in_its_place_is_refused(
    job: Callable[[Path, Path], None], module: ModuleType, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the first step inside the run folder."""

    def dying(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, dying)
    start, run = tmp_path / "start", tmp_path / "run"
    save(start, 0)
    for _ in range(2):  # the same network goes on
        with pytest.raises(KeyboardInterrupt):
            job(start, run)
        shutil.copytree(start, tmp_path / "copy", dirs_exist_ok=True)
        shutil.rmtree(start)
        (tmp_path / "copy").rename(start)
    save(start, 1)
    with pytest.raises(RunError, match="the very network it began with"):
        job(start, run)


def test_training_keeps_the_edits_of_what_it_starts_from(tmp_path: Path) -> None:
    edits = [Rewrite("conv_to_3x3", "refinements.0.0.trunk.0.conv")]
    network = RECORD.build()
    rewrite_in_place(network, edits)
    save_artefact(tmp_path / "start", RECORD, network, Metadata((64, 64), data=Data()), edits)
    trained(tmp_path / "start", tmp_path / "run")
    assert load_artefact(tmp_path / "run").edits == tuple(edits)
