"""Searches over edits, small: beside an architecture's choices, and around a given network; killed and resumed."""

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from compress.artefacts.artefact import load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.artefacts.results import NetworkResult, SearchResult
from compress.errors import ArtefactError, CompressError, DivergedError, RecipeError, SpaceError
from compress.jobs.search import trials
from compress.jobs.search.search import search
from compress.jobs.search.task import read_baselines, read_search_space
from compress.networks import architecture_from_data
from compress.pose.codec import Codec
from compress.progress import Silent
from compress.recipe import Data, FineTuning, SearchRecipe
from compress.report.page import write_report
from compress.rewriting.sites import Rewrite, rewritten
from compress.training.loop import learning_rate

FIELDS = {"width": 4, "features": 8, "refinement": "one_7x7", "blocks": [1, 1], "keypoints": 18, "limbs": 19}
EDITS: dict[str, Any] = {
    "kernels": {"sites": "refinements", "rewrite": ["keep", "conv_to_3x3"]},
    "trunk": {"sites": "features", "channels": [0.5, 1.0]},
}
SPACE = {"family": "mobile_openpose", "fixed": FIELDS, "choices": {"blocks.0": [1, 2]}, "edits": EDITS}
TUNING = {"epochs": 1, "batch_size": 4, "warmup_steps": 0}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One latency table for all runs of this file, and none of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPRESS_CACHE", str(folder))
        yield folder


def recipe_data(folder: Path, space: dict[str, Any], **search_keys: Any) -> dict[str, Any]:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(space))
    return {
        "job": "search",
        "input_hw": [64, 64],
        "data": {"kind": "synthetic", "synthetic": {"train": 8, "search": 2, "val": 2}},
        "codec": {"sigma": 1.0},
        "supernet": {**TUNING, "pool": 2},
        "search": {
            "space": str(path),
            "sampler": "guided",
            "trials": 4,
            "population": 2,
            "calibration_pictures": 4,
            "tuning_samples": 4,
            **search_keys,
        },
        "finalists": {"count": 1, "training": TUNING},
        "measurement": {"rounds": 3, "parity_pictures": 1, "targets": ["onnxruntime"]},
    }


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact with an edit of its own."""
    folder = tmp_path_factory.mktemp("given")
    architecture = architecture_from_data({"family": "mobile_openpose", **FIELDS}, "test")
    torch.manual_seed(0)
    edits = [Rewrite("conv_to_3x3", "refinements.0.0.trunk.0.conv")]
    network = rewritten(architecture.build().eval(), edits)
    save_artefact(folder, architecture, network, Metadata((64, 64), codec=Codec(sigma=1.0), data=Data()), edits)
    return folder


def around(given: Path, folder: Path, **search_keys: Any) -> SearchRecipe:
    space = {"family": "mobile_openpose", "edits": EDITS}
    return SearchRecipe.model_validate(recipe_data(folder, space, start=str(given), **search_keys))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, SearchResult]:
    """Architectures and edits together."""
    folder = tmp_path_factory.mktemp("searched")
    recipe = SearchRecipe.model_validate(recipe_data(folder, SPACE))
    return folder / "run", search(recipe, folder / "run", Silent())


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, cache: Path, given: Path) -> tuple[Path, SearchResult]:
    """Edits of a given network, in a process of its own that is killed in the middle, then gone on with."""
    folder = tmp_path_factory.mktemp("started")
    space = {"family": "mobile_openpose", "edits": EDITS}
    data = recipe_data(folder, space, start=str(given))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data))
    command = [sys.executable, "-m", "compress", "search", str(folder / "recipe.yaml"), "--run", str(folder / "run")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    moment, deadline = folder / "run" / "trials.jsonl", time.monotonic() + 300
    while not moment.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert moment.exists()
    assert not (folder / "run" / "results.json").exists()
    before = trials_of(folder / "run")
    result = search(SearchRecipe.model_validate(data), folder / "run", Silent())
    assert trials_of(folder / "run")[: len(before)] == before
    return folder / "run", result


def trials_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "trials.jsonl").read_text().splitlines()]


def edits_of(result: SearchResult, network: NetworkResult) -> dict[str, object]:
    """What the network's pick edits, by the name of the group."""
    pick = {name: result.trial_of(network).pick[f"edits.{name}"] for name in EDITS}
    return {name: value for name, value in pick.items() if value not in ("keep", 1.0)}


def test_every_network_rebuilds_with_its_edits(searched: tuple[Path, SearchResult]) -> None:
    run, result = searched
    assert result.space.size == 2 * 2 * 2
    assert result.space.choices["edits.trunk"] == (0.5, 1.0)
    for network in result.networks:
        artefact = load_artefact(run / "finalists" / network.name)
        assert sum(p.numel() for p in artefact.module.parameters()) == network.params
        edits = edits_of(result, network)
        rewrites = [edit for edit in artefact.edits if isinstance(edit, Rewrite)]
        assert len(rewrites) == (5 if edits.get("kernels") == "conv_to_3x3" else 0)
        assert ("channels pruned" in artefact.edits) == (edits.get("trunk") == 0.5)
        assert len(network.edits) == len(artefact.edits)
        assert network.export("onnxruntime").parity <= 1e-4
    assert not list((run / "steps").glob("trial_*"))


def test_a_pick_s_cost_is_that_of_its_edited_network(searched: tuple[Path, SearchResult]) -> None:
    """Half the channels cost less than all of them, and three 3x3 less than a 7x7, of otherwise equal networks."""
    _, result = searched
    macs = {tuple(sorted(trial.pick.items())): trial.cost.macs for trial in result.trials}
    for pick, count in macs.items():
        for key, small in (("edits.trunk", 0.5), ("edits.kernels", "conv_to_3x3")):
            smaller = macs.get(tuple(sorted({**dict(pick), key: small}.items())))
            if dict(pick)[key] != small and smaller is not None:
                assert smaller < count


def test_one_seed_gives_the_same_trials(searched: tuple[Path, SearchResult], tmp_path: Path) -> None:
    run, _ = searched
    search(SearchRecipe.model_validate(recipe_data(tmp_path, SPACE)), tmp_path / "run", Silent())
    assert trials_of(tmp_path / "run") == trials_of(run)


@pytest.mark.parametrize(("warmup_steps", "samples"), [(50, 640), (50, 64), (0, 640), (3, 6400)])
def test_a_brief_tuning_reaches_its_learning_rate(warmup_steps: int, samples: int) -> None:
    settings = trials.brief(FineTuning(batch_size=32, warmup_steps=warmup_steps, epochs=5), samples)
    steps = samples // 32
    rates = [learning_rate(settings, step, steps) for step in range(steps)]
    assert settings.epochs == 1
    assert settings.warmup_steps <= warmup_steps
    assert max(rates) > 0.8 * settings.learning_rate


def test_a_candidate_that_diverges_counts_as_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = trials.trial_network

    def diverging(*arguments: Any) -> Any:
        if arguments[3] == 1:
            raise DivergedError("the loss must stay a number", place="training", value=math.nan, remedy="lower it")
        return real(*arguments)

    monkeypatch.setattr(trials, "trial_network", diverging)
    said: list[str] = []
    progress = Silent()
    monkeypatch.setattr(progress, "say", said.append)
    result = search(SearchRecipe.model_validate(recipe_data(tmp_path, SPACE)), tmp_path / "run", progress)
    assert [trial.score.value for trial in result.trials if trial.number == 1] == [0.0]
    assert len(result.trials) == 4
    (failed,) = result.failed_trials
    assert (failed.number, failed.failure) == (1, "training: the loss must stay a number (found nan); lower it")
    assert any("candidate 1 counts as AP 0" in line for line in said)


def test_a_given_network_is_the_baseline(started: tuple[Path, SearchResult], given: Path, tmp_path: Path) -> None:
    run, result = started
    baseline, *finalists = result.networks
    assert (baseline.name, baseline.role) == ("given", "baseline")
    assert result.losses == ()
    assert result.start == str(given)
    assert {trial.score.provenance for trial in result.trials} == {"given weights"}
    assert "supernet" not in result.run.seconds
    own = load_artefact(given)
    unedited = load_artefact(run / "finalists" / "given")
    assert unedited.edits == own.edits
    assert {n: t.shape for n, t in unedited.module.state_dict().items()} == {
        n: t.shape for n, t in own.module.state_dict().items()
    }
    for network in finalists:
        edits = load_artefact(run / "finalists" / network.name).edits
        assert edits[: len(own.edits)] == own.edits
        if edits_of(result, network).get("kernels"):
            assert sum(isinstance(edit, Rewrite) for edit in edits) == 5  # one is the given network's own
    write_report("search", result, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "given weights" in page
    assert "Supernet" not in page


def test_a_given_network_s_search_is_the_same_undisturbed(
    started: tuple[Path, SearchResult], given: Path, tmp_path: Path
) -> None:
    run, result = started
    again = search(around(given, tmp_path), tmp_path / "run", Silent())
    assert trials_of(tmp_path / "run") == trials_of(run)
    assert [network.score for network in again.networks] == [network.score for network in result.networks]


def test_start_that_cannot_be_used(given: Path, tmp_path: Path) -> None:
    edits = {"edits": EDITS}
    cases: list[tuple[type[CompressError], dict[str, Any], dict[str, Any], str]] = [
        (ArtefactError, {"family": "mobile_openpose", **edits}, {"start": str(tmp_path)}, "an artefact's folder"),
        (SpaceError, {"family": "openpose", **edits}, {}, "must be of one family"),
        (SpaceError, SPACE, {}, "no other choices"),
        (
            SpaceError,
            {"family": "mobile_openpose", "fixed": {}, "choices": {}},
            {},
            "edits and input sizes to choose",
        ),
        (SpaceError, {"family": "mobile_openpose", "fixed": {"width": 8}, **edits}, {}, "fixed.width"),
        (RecipeError, {"family": "mobile_openpose", **edits}, {"trials": 1}, "more trials than baselines"),
        (RecipeError, {"family": "mobile_openpose", **edits}, {"tuning_samples": 3}, "at least one batch"),
    ]
    for kind, space, keys, part in cases:
        recipe = SearchRecipe.model_validate(recipe_data(tmp_path, space, **{"start": str(given), **keys}))
        with pytest.raises(kind) as caught:
            search(recipe, tmp_path / "run", Silent())
        assert part in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_a_given_network_has_no_other_baselines(given: Path, tmp_path: Path) -> None:
    data = recipe_data(tmp_path, {"family": "mobile_openpose", "edits": EDITS}, start=str(given))
    recipe = SearchRecipe.model_validate({**data, "baselines": {"mine": {}}})
    start = load_artefact(given)
    with pytest.raises(RecipeError, match="the only baseline"):
        read_baselines(recipe, read_search_space(recipe, start), start)
    exact = SearchRecipe.model_validate({**data, "codec": {"sigma": 1.5}})
    with pytest.raises(RecipeError, match="as it was trained"):
        search(exact, tmp_path / "run", Silent())


@pytest.mark.parametrize(
    ("name", "group", "part"),
    [
        ("rule", {"sites": "refinements", "rewrite": ["keep", "conv_to_3x33"]}, "did you mean 'conv_to_3x3'"),
        ("glob", {"sites": "refinement.*", "rewrite": ["keep", "conv_to_3x3"]}, "did you mean 'refinements"),
        ("share", {"sites": "features", "channels": [0.5, 2.0]}, "at most 1"),
    ],
)
def test_wrong_edits_are_named_before_any_work(name: str, group: dict[str, Any], part: str, tmp_path: Path) -> None:
    recipe = SearchRecipe.model_validate(recipe_data(tmp_path, {**SPACE, "edits": {name: group}}))
    with pytest.raises(SpaceError) as caught:
        search(recipe, tmp_path / "run", Silent())
    assert part in str(caught.value)
    assert f"edits.{name}" in str(caught.value)
    assert not (tmp_path / "run").exists()
