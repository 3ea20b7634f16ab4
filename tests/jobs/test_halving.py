"""Candidates trained alone and stopped early: which go on, what the run keeps, and a search that was killed."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from torch import nn

from compress.artefacts.artefact import load_artefact
from compress.artefacts.results import SearchResult, Trial, TrialTraining
from compress.artefacts.run import Run
from compress.errors import DivergedError, RecipeError, Stopped
from compress.jobs.search import alone
from compress.jobs.search import search as job
from compress.jobs.search.alone import Rung
from compress.jobs.search.halving import NOTHING_TOLD, Entrant, Known, halved
from compress.jobs.search.task import Task
from compress.jobs.search.trials import Limits, trial_checkpoint, with_front, within_budget
from compress.measure import whole_networks
from compress.measure.cost import Cost
from compress.measure.counting import count
from compress.measure.latency import Latency
from compress.measure.objective import DEFAULT_OBJECTIVES
from compress.measure.target import Target
from compress.measure.timing import Timing
from compress.nas.space import Pick, pick_key
from compress.pose.scoring import Score
from compress.progress import Silent
from compress.recipe import CandidateTraining, SearchRecipe, read_recipe
from compress.report.page import write_report
from compress.report.pages.search import search_page

SPACE = {
    "family": "mobile_openpose",
    "fixed": {"features": 8, "refinement": "one_7x7", "refinements": 1, "keypoints": 18, "limbs": 19},
    "choices": {"width": [4, 8], "blocks.0": [1, 2], "blocks.1": [1, 2]},
}
TRAINING = {"cohort": 3, "eta": 2, "first_epochs": 1, "epochs": 2, "batch_size": 4}


def recipe_data(space: Path, **search_keys: Any) -> dict[str, Any]:
    space.write_text(yaml.safe_dump(SPACE))
    return {
        "job": "search",
        "input_hw": [64, 64],
        "data": {"kind": "synthetic", "synthetic": {"train": 4, "search": 2, "val": 2}},
        "training": TRAINING,
        "search": {
            "space": str(space),
            "method": "train",
            "trials": 6,
            "population": 2,
            "sampler": "random",
            "calibration_pictures": 4,
            "zero_cost": {"proxy": "naswot"},
            **search_keys,
        },
        "finalists": {"count": 1, "training": {"epochs": 1, "batch_size": 4}},
        "baselines": {"hand": {"width": 8, "blocks": [2, 2]}},
        "measurement": {"rounds": 3, "parity_pictures": 1, "targets": ["onnxruntime"]},
    }


def task_of(folder: Path, training: Mapping[str, Any], progress: Any = None) -> Task:
    """What `halved` reads of a task."""
    search = SimpleNamespace(objectives=DEFAULT_OBJECTIVES)
    recipe = SimpleNamespace(training=CandidateTraining(**training), search=search)
    return cast(Task, SimpleNamespace(recipe=recipe, run=Run(folder), progress=progress or Silent()))


def entrant(number: int, ms: float, *, always: bool = False) -> Entrant:
    cost = Cost(1, 1, (), {"onnxruntime": Latency(ms, "onnxruntime, 1 thread", "predicted")}, memory_bytes=1)
    return Entrant(number, {"number": number}, cost, always)


def scores(candidates: Sequence[Entrant], values: Mapping[int, Sequence[float]], diverged: int = -1) -> Known:
    """values: epochs → one score of each."""
    known = {}
    for epochs, each in values.items():
        for one, value in zip(candidates, each, strict=True):
            score = Score("AP", value, None, f"trained alone for {epochs} epochs", "synthetic", 6, {})
            failure = "the loss was nan" if one.number == diverged else None
            known[pick_key(one.pick), epochs] = Rung(one.number, one.pick, epochs, score, failure)
    return known


def halve(task: Task, candidates: Sequence[Entrant], known: Known, before: Sequence[Trial] = ()) -> list[Trial]:
    for one in candidates:
        path = trial_checkpoint(task.run, one.number)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    return halved(task, nothing_to_train, candidates, before, known)


def nothing_to_train(candidates: Sequence[tuple[int, Pick]], epochs: int) -> Iterator[Rung]:
    assert not candidates
    return iter(())


def test_rungs_and_places() -> None:
    assert CandidateTraining().rungs == (5, 10, 20)
    assert [CandidateTraining().places(16, rung) for rung in (0, 1)] == [8, 4]
    assert CandidateTraining(epochs=9, eta=3, first_epochs=1).rungs == (1, 3, 9)
    assert CandidateTraining(epochs=10, eta=3, first_epochs=2).rungs == (4, 10)
    assert CandidateTraining(epochs=10, first_epochs=10).rungs == (10,)
    assert CandidateTraining(epochs=1, first_epochs=1).rungs == (1,)
    assert CandidateTraining().places(3, 1) == 1


def test_no_candidate_of_the_final_front_is_stopped_where_the_front_fits(tmp_path: Path) -> None:
    """Random candidates, whose scores come in one order at all rungs, and the front by comparing all pairs."""
    rng, fitted = random.Random(0), 0
    training = {"cohort": 16, "eta": 2, "first_epochs": 1, "epochs": 4}
    for _ in range(60):
        task = task_of(tmp_path, training)
        candidates = [entrant(number, rng.uniform(1, 9)) for number in range(16)]
        final = [0.1 + 0.6 * rng.random() / one.cost.predicted_ms**0.5 for one in candidates]
        early = {1: [value**2 + 0.02 for value in final], 2: [value / 2 for value in final]}
        known = scores(candidates, {**early, 4: final})
        trials = halve(task, candidates, known)
        points = [(one.cost.predicted_ms, value) for one, value in zip(candidates, final, strict=True)]
        best = {
            number
            for number, (ms, value) in enumerate(points)
            if not any(m <= ms and v >= value and (m, v) != (ms, value) for m, v in points)
        }
        reached = [sum(trial.training is not None and trial.training.epochs >= at for trial in trials) for at in (2, 4)]
        assert reached == [8, 4]
        if len(best) <= 4:
            fitted += 1
            assert best.isdisjoint(trial.number for trial in trials if trial.stopped)
        for trial in trials:
            assert trial_checkpoint(task.run, trial.number).exists() == (not trial.stopped)
            assert trial.training is not None
            assert trial.value == known[pick_key(trial.pick), trial.training.epochs].score.value
    assert fitted > 20


def test_a_small_network_is_not_stopped_for_scoring_less(tmp_path: Path) -> None:
    """By score alone the four slow ones would go on."""
    candidates = [entrant(number, ms) for number, ms in enumerate((1.0, 2.0, 4.0, 8.0, 8.5, 9.0, 9.5, 10.0))]
    values = [0.1, 0.2, 0.3, 0.6, 0.59, 0.58, 0.57, 0.56]
    task = task_of(tmp_path, {"cohort": 8, "epochs": 2, "first_epochs": 1})
    trials = halve(task, candidates, scores(candidates, {1: values, 2: values}))
    assert [trial.number for trial in trials if not trial.stopped] == [0, 1, 2, 3]
    assert [trial.training.epochs for trial in trials if trial.training] == [2, 2, 2, 2, 1, 1, 1, 1]


def test_earlier_cohorts_and_baselines_count_and_take_no_place(tmp_path: Path) -> None:
    task = task_of(tmp_path, {"cohort": 4, "epochs": 2, "first_epochs": 1})
    first = [entrant(0, 5.0, always=True), entrant(1, 1.0), entrant(2, 9.0)]
    one = halve(task, first, scores(first, {1: [0.1, 0.2, 0.5], 2: [0.1, 0.3, 0.7]}))
    assert [trial.stopped for trial in one] == [False, False, True]  # the baseline is dominated; of two one goes on
    # 3 and 4 alone are both of the first rank, and the ends of it; trial 1, of an earlier cohort, dominates 3.
    second = [entrant(3, 1.5), entrant(4, 4.0)]
    two = halve(task, second, scores(second, {1: [0.15, 0.3], 2: [0.2, 0.4]}), one)
    assert [trial.stopped for trial in two] == [True, False]


def test_a_rung_that_tells_nothing_stops_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress, said = Silent(), list[str]()
    monkeypatch.setattr(progress, "say", said.append)
    task = task_of(tmp_path, {"cohort": 4, "epochs": 4, "first_epochs": 1}, progress)
    candidates = [entrant(number, 1.0 + number) for number in range(4)]
    known = scores(candidates, {1: [0.0, 0.001, 0.0, 0.0], 2: [0.1, 0.2, 0.3, 0.4], 4: [0.1, 0.2, 0.3, 0.4]})
    trials = halve(task, candidates, known)
    assert [trial.training.epochs for trial in trials if trial.training] != [1, 1, 1, 4]
    assert sum(trial.stopped for trial in trials) == 3
    assert all(trial.training and trial.training.epochs >= 2 for trial in trials)
    assert said == [NOTHING_TOLD.format(1)]


def test_what_diverged_goes_no_further_even_as_a_baseline(tmp_path: Path) -> None:
    task = task_of(tmp_path, {"cohort": 4, "epochs": 2, "first_epochs": 1})
    candidates = [entrant(0, 1.0, always=True), entrant(1, 2.0), entrant(2, 3.0)]
    trials = halve(task, candidates, scores(candidates, {1: [0.0, 0.2, 0.1], 2: [0.0, 0.3, 0.2]}, diverged=0))
    assert [trial.stopped for trial in trials] == [True, False, True]
    assert trials[0].training == TrialTraining(trials[0].training.rungs[:1], stopped=True)  # type: ignore[union-attr]
    assert [trial.failure for trial in trials[:2]] == ["the loss was nan", None]


def test_stopped_trials_are_on_no_front_and_no_finalists(tmp_path: Path) -> None:
    task = task_of(tmp_path, {"cohort": 4, "epochs": 2, "first_epochs": 1})
    candidates = [entrant(number, 1.0 + number) for number in range(4)]
    trials = halve(task, candidates, scores(candidates, {1: [0.4, 0.1, 0.5, 0.6], 2: [0.5, 0.2, 0.6, 0.7]}))
    marked = with_front(trials, DEFAULT_OBJECTIVES)
    assert [one.number for one in marked if one.on_front] == [0, 3]
    assert [one.stopped for one in marked] == [False, True, True, False]
    assert [one.number for one in within_budget(marked, Limits({}), [])] == [0, 3]


# --- The whole job ----------------------------------------------------------------------------------------------------


class CountedModel:
    """Stands for a latency table: a millisecond for a million multiply-adds."""

    target = Target("onnxruntime")
    reference_ms = 1.0

    def latency(self, network: nn.Module, input_hw: tuple[int, int]) -> Latency:
        return Latency(count(network, input_hw).macs / 1e6, "onnxruntime, 1 thread", "predicted")


def timed(runners: Mapping[str, object], *_: object) -> dict[str, Timing]:
    return dict.fromkeys(runners, Timing(2.0, 2.0, 2.0, 2.0, 2.0, 0, 0.01, 9))


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_killed_search_goes_on_from_its_rungs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the second rung of the first cohort trains. Trial 2 diverges."""
    monkeypatch.setattr(job, "space_models", lambda task: {"onnxruntime": CountedModel()})
    monkeypatch.setattr(whole_networks, "time_runners", timed)
    trained, finished = alone.train, job.tune_and_finish
    calls: list[tuple[str, int]] = []
    killed_in: tuple[str, int] | None = None

    def watched(*arguments: Any, **settings: Any) -> Any:
        calls.append((settings["checkpoint"].stem, settings["until"]))
        if calls[-1] == killed_in:
            raise KeyboardInterrupt
        if calls[-1][0] == "trial_2":
            raise DivergedError("the loss must stay a number", place="here", remedy="none")
        return trained(*arguments, **settings)

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(alone, "train", watched)
    monkeypatch.setattr(job, "tune_and_finish", killed)
    recipe = SearchRecipe.model_validate(recipe_data(tmp_path / "space.yaml"))
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    with pytest.raises(Stopped):
        job.search(recipe, whole, Silent())
    undisturbed = list(calls)
    killed_in = [call for call in undisturbed if call[1] == 2][1]
    with pytest.raises(Stopped):
        job.search(recipe, folder, Silent())
    before = undisturbed[: undisturbed.index(killed_in)]
    calls.clear()
    killed_in = None
    monkeypatch.setattr(job, "tune_and_finish", finished)
    result = job.search(recipe, folder, Silent())
    read_again = {(f"trial_{number}", 2) for number in result.trial_numbers.values()}  # weights of what is finished
    assert not set(before) & set(calls) - read_again
    for name in ("trials.jsonl", "rungs.jsonl"):
        assert lines(folder / name) == lines(whole / name)
    check_trials(result, folder)
    page, _ = search_page(result, folder)
    assert "stopped early" in page.facts["Searched"]
    write_report("search", result, folder)
    assert result.zero_cost is not None
    assert (result.zero_cost.proposals, result.zero_cost.trials) == (6, sum(not one.stopped for one in result.trials))
    assert "in the search, own weights" in (folder / "report.html").read_text()


def check_trials(result: SearchResult, folder: Path) -> None:
    assert len(result.trials) == 6
    assert result.losses == ()
    assert [one.number for one in result.trials] == list(range(6))
    assert not result.trials[0].stopped  # the baseline
    assert result.trials[2].stopped  # diverged
    for trial in result.trials:
        assert trial.training is not None
        assert trial.score.provenance == f"trained alone for {trial.training.epochs} epochs"
        epochs = [rung.epochs for rung in trial.training.rungs]
        assert epochs == [1, 2][: len(epochs)]
        assert trial_checkpoint(Run(folder), trial.number).exists() == (not trial.stopped)
        assert not (trial.stopped and trial.on_front)
    for network in result.networks:
        assert not result.trial_of(network).stopped
        load_artefact(folder / network.folder)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"search.method": "shared"}, "the training section belongs to search.method=train"),
        ({"search.tuning_samples": 4}, "search.tuning_samples belongs to search.method=shared"),
        ({"training.first_epochs": 5}, "first_epochs must be no more than epochs, 2, not 5"),
    ],
)
def test_settings_of_another_method_are_one_line(tmp_path: Path, change: Mapping[str, Any], part: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_data(tmp_path / "space.yaml")))
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, SearchRecipe, [f"{key}={value}" for key, value in change.items()])
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_that_the_networks_do_not_read_are_one_line(tmp_path: Path) -> None:
    data = recipe_data(tmp_path / "space.yaml")
    recipe = SearchRecipe.model_validate(data | {"training": {**TRAINING, "person_augment": {"half_body": 0.5}}})
    with pytest.raises(RecipeError, match=r"recipe: training\.person_augment"):
        job.search(recipe, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()
