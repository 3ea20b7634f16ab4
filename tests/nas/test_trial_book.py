"""Several processes on one study, killed with SIGKILL; a real PostgreSQL, and a journal file."""

import json
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from compress.errors import RecipeError, RunError
from compress.nas.sampler import Sampler
from compress.nas.space import pick_key
from compress.nas.study import SharedStudy, open_storage, open_study, study_exists
from compress.nas.trial_book import TRIES, TrialBook
from tests.nas.shared_worker import FIRST, HAND, SPACE, opened, study_of, work
from tests.postgresql import postgresql

PROCESSES = get_context("forkserver")  # a process for every kill: none imports Optuna again


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    PROCESSES.set_forkserver_preload(["tests.nas.shared_worker"])


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(params=["postgresql", "journal"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str | Path:
    found: str | Path = tmp_path / "study.journal"
    return request.getfixturevalue("database") if request.param == "postgresql" else found


def start(*arguments: object) -> BaseProcess:
    process = PROCESSES.Process(target=work, args=arguments)
    process.start()
    return process


def lines(logs: Path, what: str) -> list[str]:
    """Keys of the picks that were begun or ended; a line that a kill has cut off is none."""
    found = []
    for file in logs.glob("*.jsonl"):
        for line in file.read_text().splitlines(keepends=True):
            if line.endswith("\n") and (entry := json.loads(line))["what"] == what:
                found.append(pick_key(entry["pick"]))
    return found


def test_killed_workers_lose_and_double_nothing(storage: str | Path, tmp_path: Path) -> None:
    """Three at a time; four are killed while they score, and others take their places."""
    wanted, logs = 12, tmp_path / "logs"
    logs.mkdir()
    workers = [start(storage, wanted, logs, 0.1) for _ in range(3)]
    deadline = time.monotonic() + 120
    for kill in range(4):
        before = 1 + 2 * kill
        while len(lines(logs, "begin")) <= before and time.monotonic() < deadline:
            time.sleep(0.01)
        victim = workers.pop(0)
        victim.kill()
        workers.append(start(storage, wanted, logs, 0.1))
    for worker in workers:
        worker.join(timeout=max(0, deadline - time.monotonic()))
        assert worker.exitcode == 0
    with opened(storage, wanted, [HAND]) as (sampler, book):
        records, trials, names = book.records(), sampler.study.trials, sampler.study.metric_names
    assert len(records) == wanted
    assert set(records) >= set(map(pick_key, FIRST))
    assert {pick_key(one["pick"]) for one in records.values()} == set(records)
    begun, ended = Counter(lines(logs, "begin")), Counter(lines(logs, "end"))
    assert set(ended) <= set(records) <= set(begun)
    assert set(begun) == set(records)  # what a killed process had begun, another one has scored
    assert sum(begun.values()) <= wanted + 4  # at most one trial for every kill was done again
    assert max(ended.values()) == 1
    assert names == ["latency", "AP"]
    scored = [one for one in trials if one.state == TrialState.COMPLETE and "score" in one.user_attrs]
    assert [one.values for one in scored] == [[1.0 + one.params["a"], float(one.params["b"])] for one in scored]
    assert len({pick_key(one.params) for one in scored}) == len(scored) == wanted


def test_a_pick_that_ends_every_process_is_left_out(tmp_path: Path) -> None:
    journal, logs = tmp_path / "study.journal", tmp_path / "logs"
    logs.mkdir()
    for attempt in range(TRIES):
        process = start(journal, 4, logs, 0.0, HAND)
        process.join(timeout=60)
        assert process.exitcode == 9
        assert lines(logs, "begin").count(pick_key(HAND)) == attempt + 1
    process = start(journal, 4, logs, 0.0, HAND)
    process.join(timeout=60)
    assert process.exitcode == 0
    with opened(journal, 4, [HAND]) as (_, book):
        assert [pick_key(pick) for pick in book.given_up()] == [pick_key(HAND)]
        assert len(book.records()) == 4


def test_the_answer_of_a_process_that_was_taken_for_dead_is_dropped(tmp_path: Path) -> None:
    with opened(tmp_path / "study.journal", 3, [HAND]) as (sampler, book):
        asked = book.ask()
        assert asked
        sampler.study.tell(asked[0].number, state=TrialState.FAIL)  # as another process does after the silence
        book.tell(asked[0], [1.0], 0.5, None, {"pick": dict(asked[1]), "score": 0.5})
        assert book.records() == {}
        again = book.ask()
        assert again
        assert again[1] != asked[1]  # what waited before is first
        waiting = [one for one in sampler.study.trials if one.state == TrialState.WAITING]
        assert dict(asked[1]) in [one.system_attrs["fixed_params"] for one in waiting]


def test_a_journal_that_a_kill_cut_off_is_gone_on_with(tmp_path: Path) -> None:
    shared = study_of(tmp_path / "study.journal")
    for pick in (HAND, SPACE.smallest):
        with open_storage(shared) as storage:
            open_study(shared, storage, RandomSampler()).enqueue_trial(dict(pick))
        with (tmp_path / "study.journal").open("ab") as file:
            file.write(b'{"op_code":4,"wor')
    with open_storage(shared) as storage:
        trials = open_study(shared, storage, RandomSampler()).trials
    assert [one.system_attrs["fixed_params"] for one in trials] == [HAND, SPACE.smallest]


def refused(storage: str | Path, digest: str = "recipe inputs") -> str:
    """The one line that opening gives."""
    shared = SharedStudy(storage, "search", digest, ("latency", "AP"))
    with pytest.raises((RunError, RecipeError)) as caught, open_storage(shared) as opened:
        open_study(shared, opened, RandomSampler())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_study_belongs_to_one_recipe_with_one_supernet(tmp_path: Path) -> None:
    shared = study_of(tmp_path / "study.journal")
    assert not study_exists(shared)
    with open_storage(shared) as storage:
        open_study(shared, storage, RandomSampler())
    assert study_exists(shared)
    assert "a study belongs to one recipe" in refused(shared.storage, "other inputs")
    assert "one supernet and one latency table" in refused(shared.storage, "recipe others")


def test_a_storage_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    line = refused("postgresql://me:secret@127.0.0.1:1/trials")
    assert line.startswith("postgresql://me:***@127.0.0.1:1/trials: the storage cannot be reached")
    assert "refused" in line
    assert "secret" not in line
    for wrong in ("trials", "nothing://me@host/trials", "postgresql://me@host/{trials}"):
        assert "postgresql://USER@HOST/DATABASE" in refused(wrong)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    assert "found 'psycopg'); pip install 'compress-pose[storage]'" in refused("postgresql://me@127.0.0.1:1/trials")
    (tmp_path / "study.journal").write_text('{"op_code": 99, "worker_id": "1"}\n')
    assert "the journal of the trials cannot be read" in refused(tmp_path / "study.journal")


def test_a_storage_of_another_version_of_optuna_is_one_line(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'trials.db'}"
    assert not study_exists(study_of(url))
    for version, remedy in (("v2.6.0.a", "optuna storage upgrade"), ("v99", "pip install -U optuna")):
        connection = sqlite3.connect(tmp_path / "trials.db")
        with connection:
            connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
        connection.close()
        line = refused(url)
        assert "made by another version of Optuna" in line
        assert remedy in line


def test_one_process_hands_out_a_pick_once_and_ends_in_a_small_space() -> None:
    sampler = Sampler(SPACE, "random", population=2, seed=1, baselines=[HAND, HAND])
    found = []
    with TrialBook(SPACE, sampler, SPACE.size) as book:
        while asked := book.ask():
            found.append(pick_key(asked[1]))
            if asked[1]["a"] == 3:
                book.refuse(asked[0], "over budget", 0.1)
            else:
                book.tell(asked[0], [1.0], 0.5, None, {"pick": dict(asked[1]), "score": 0.5})
        within = [key for key in found if "('a', 3)" not in key]
        assert len(within) == len(set(within)) == SPACE.size * 3 // 4
        assert list(book.records()) == within
