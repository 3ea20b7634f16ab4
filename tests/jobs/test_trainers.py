"""Candidates that several processes train: their scores, processes that end, errors, and a search that is stopped."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from compress.artefacts.records import to_plain
from compress.errors import RecipeError, RunError
from compress.jobs.search import trainers as crew
from compress.jobs.search.alone import Rung, scored_alone
from compress.jobs.search.sharing import check_sharing, shares
from compress.jobs.search.task import Calibration, Task, prepared
from compress.jobs.search.trainers import trainers
from compress.jobs.search.trials import trained_weights, trial_checkpoint
from compress.nas.space import Pick
from compress.pose.scoring import Score
from compress.progress import Progress, Silent
from compress.recipe import SearchRecipe, to_data
from tests.jobs.test_halving import recipe_data

Answer = Callable[[Any], Any]


class Hearing(Silent):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def searching(folder: Path, workers: int, progress: Progress, **search_keys: Any) -> Task:
    """A task whose run folder holds its recipe, as `open_run` writes it."""
    folder.mkdir()
    data = recipe_data(folder.parent / "space.yaml", workers=workers, zero_cost={}, **search_keys)
    recipe = SearchRecipe.model_validate(data)
    (folder / "recipe.yaml").write_text(json.dumps(to_data(recipe)))
    return prepared(recipe, folder, progress, None)


def weights_of(task: Task, number: int) -> dict[str, torch.Tensor]:
    kept = torch.load(trial_checkpoint(task.run, number), weights_only=True)
    return {name: value for name, value in kept["trained"].items() if value.is_floating_point()}


def test_processes_train_what_one_does_and_one_that_is_killed_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process is killed before it has read what it is to do, another one while it trains."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    heard = Hearing()
    task = searching(tmp_path / "several", 2, heard)
    opened, started = crew.worker, list[Any]()

    @contextmanager
    def watched(*given: Any, **settings: Any) -> Iterator[Any]:
        with opened(*given, **settings) as one:
            started.append(one)
            if len(started) == 1:
                one.process.kill()
            if len(started) == 2:
                threading.Thread(target=kill_at_first_checkpoint, args=(task, one), daemon=True).start()
            yield one

    monkeypatch.setattr(crew, "worker", watched)
    picks = list(enumerate([task.space.smallest, task.space.largest, *task.baselines.values()]))[:2]
    found: dict[tuple[int, int], Rung] = {}
    with trainers(task, trained_weights(task)[0], Calibration(task)) as scores:
        for epochs in (1, 2):
            for rung in scores(picks, epochs):
                found[rung.number, rung.epochs] = rung
    assert len(started) == 4  # two places, two replaced
    assert len(heard.said) == 2
    assert all("signal 9" in text for text in heard.said)
    assert all(one.process.poll() is not None for one in started)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        by_itself = searching(tmp_path / "one", 1, Silent())
        weights, calibration = trained_weights(by_itself)[0], Calibration(by_itself)
        for (number, epochs), rung in sorted(found.items(), key=lambda each: each[0][1]):
            alone = scored_alone(by_itself, weights, rung.pick, number, epochs, calibration)
            assert replace(rung, score=alone.score) == alone
            assert rung.score.value == pytest.approx(alone.score.value, abs=1e-4)
    finally:
        torch.set_num_threads(before)
    for number, _ in picks:
        trained, expected = weights_of(task, number), weights_of(by_itself, number)
        assert trained.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(trained[name], value, rtol=1e-3, atol=1e-4)


def kill_at_first_checkpoint(task: Task, one: Any) -> None:
    while one.process.poll() is None:
        if any(task.run.path("steps").glob("trial_*.pt")):
            one.process.kill()
            return


# --- Processes that answer as they are told --------------------------------------------------------------------------


def rung(job: Any) -> Any:
    return to_plain(Rung(job["number"], job["pick"], job["epochs"], Score("AP", 0.5, None, "made up", "lsp", 2, {})))


class Talker:
    """In place of a process."""

    def __init__(self, answer: Answer) -> None:
        self._answer, self.killed = answer, threading.Event()

    def ask(self, job: Any) -> Any:
        return self._answer(job)

    def ended(self) -> str:
        return "signal 9"


def talking(monkeypatch: pytest.MonkeyPatch, answer: Answer, workers: int = 2) -> tuple[Task, list[Talker]]:
    opened: list[Talker] = []

    @contextmanager
    def worker(task: Task, module: str, number: int, *, threads: int) -> Iterator[Talker]:
        one = Talker(answer)
        opened.append(one)
        try:
            yield one
        finally:
            one.killed.set()

    monkeypatch.setattr(crew, "worker", worker)
    recipe = SimpleNamespace(search=SimpleNamespace(workers=workers))
    return cast(Task, SimpleNamespace(recipe=recipe, progress=Hearing())), opened


def scored(task: Task, candidates: list[tuple[int, Pick]]) -> list[Rung]:
    with trainers(task, cast(Any, None), cast(Any, None)) as scores:
        return list(scores(candidates, 3))


def stopped_at_the_first(task: Task) -> None:
    with trainers(task, cast(Any, None), cast(Any, None)) as scores:
        for _ in scores(CANDIDATES, 1):
            raise KeyboardInterrupt


CANDIDATES: list[tuple[int, Pick]] = [(number, {"width": number}) for number in range(9)]


def test_every_candidate_is_scored_once_by_no_more_processes_than_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    task, opened = talking(monkeypatch, rung, workers=3)
    found = scored(task, CANDIDATES)
    assert sorted((one.number, one.pick["width"], one.epochs) for one in found) == [(n, n, 3) for n in range(9)]
    assert 1 <= len(opened) <= 3
    assert all(one.killed.is_set() for one in opened)


def test_what_a_process_finds_wrong_stops_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(job: Any) -> Any:
        return {"error": "no space left on the disk"} if job["number"] == 4 else rung(job)

    task, opened = talking(monkeypatch, answer)
    with pytest.raises(RunError, match=r"candidate 4.*no space left on the disk"):
        scored(task, CANDIDATES)
    assert all(one.killed.is_set() for one in opened)


def test_a_candidate_that_ends_process_after_process_stops_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(job: Any) -> Any:
        if job["number"] == 2:
            raise EOFError
        return rung(job)

    task, opened = talking(monkeypatch, answer)
    with pytest.raises(RunError, match=r"3 processes ended while they trained it \(signal 9\).*fewer workers"):
        scored(task, CANDIDATES)
    assert len(cast(Hearing, task.progress).said) == 3
    assert all(one.killed.is_set() for one in opened)


def test_a_search_that_is_stopped_does_not_wait_for_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Talker] = []

    def answer(job: Any) -> Any:
        if job["number"] == 0:
            return rung(job)
        while not all(one.killed.is_set() for one in opened):  # at work until they are killed
            time.sleep(0.01)
        raise EOFError

    task, opened = talking(monkeypatch, answer)
    with pytest.raises(KeyboardInterrupt):
        stopped_at_the_first(task)
    assert all(one.killed.is_set() for one in opened)


def test_storage_is_for_trials_that_share_weights(tmp_path: Path) -> None:
    task = searching(tmp_path / "run", 2, Silent())
    assert not shares(task.recipe, task.run.folder)
    check_sharing(task, None)
    stored = searching(tmp_path / "stored", 2, Silent(), storage="sqlite:///studies.db")
    with pytest.raises(RecipeError, match=r"compared in one process.*workers of this machine"):
        check_sharing(stored, None)
    with pytest.raises(RecipeError, match="opens the network itself"):
        check_sharing(task, torch.nn.Identity())
