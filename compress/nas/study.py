"""Where processes share the trials of one search: an Optuna study in a database, or in a journal file.

Databases are any that SQLAlchemy knows, by their URL, and hold the study as Optuna writes it, so that
`optuna-dashboard` opens it. A process that works on a trial says so every few seconds; a trial of which nothing is
heard any more was left by a process that died.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from threading import Event, Thread
from warnings import catch_warnings, simplefilter

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from compress.errors import RecipeError, RunError

_DIGEST = "compress: recipe, network and tables"
"""Attribute of a study: what its trials are comparable by."""
_CONNECT_S = 10
_DRIVERS = {"psycopg": "compress-pose[storage]", "MySQLdb": "mysqlclient"}
"""Modules that are installed by another name."""


@dataclass(frozen=True)
class SharedStudy:
    """A study that several processes may work on.

    storage: URL of a database, or the path of a journal. name: of the study there. digest: of all that makes trials
    comparable; another one is an error. objectives: names of the costs, and last of the score. heartbeat_s: seconds
    between two signs of life. grace_s: seconds of silence after which a trial was left.
    """

    storage: str | Path
    name: str
    digest: str
    objectives: tuple[str, ...]
    heartbeat_s: int = 10
    grace_s: int = 60

    @property
    def place(self) -> str:
        """Of the storage, in errors; without a password."""
        return shown(self.storage)


def shown(storage: str | Path) -> str:
    """The storage without a password. Raises RecipeError unless it is a URL or a path."""
    if isinstance(storage, Path):
        return str(storage)
    try:
        return make_url(storage).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        raise _no_url() from None


JOURNAL = "study.journal"
"""In the run folder."""


class Journal(JournalStorage, BaseHeartbeat):
    """Optuna's journal file, with heartbeats: the times of files beside it, one for every trial at work."""

    def __init__(self, path: Path, grace_s: int) -> None:
        super().__init__(JournalFileBackend(str(path), _Lock(path)))
        self._beats, self._grace_s = path.with_name(f"{path.name}.heartbeats"), grace_s
        self._beats.mkdir(exist_ok=True)

    def record_heartbeat(self, trial_id: int) -> None:
        """See BaseHeartbeat."""
        (self._beats / str(trial_id)).touch()

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        now = self._beats / f"now-{os.getpid()}"
        now.touch()
        silent = now.stat().st_mtime - self._grace_s
        now.unlink()
        running = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
        beats = [(one._trial_id, self._beats / str(one._trial_id)) for one in running]
        return [number for number, file in beats if file.exists() and file.stat().st_mtime < silent]

    def get_heartbeat_interval(self) -> int | None:
        """See BaseHeartbeat."""
        return self._grace_s

    def get_heartbeat_stale_trial_callback(self) -> Callable[..., None] | None:
        """See BaseHeartbeat."""
        return None


Storage = RDBStorage | Journal


@contextmanager
def open_storage(shared: SharedStudy) -> Iterator[Storage]:
    """Connects to the storage while the block runs; what Optuna needs there is made. Its failures are RunErrors.

    Raises RunError where it cannot be reached, lacks a driver or was made by another version of Optuna, RecipeError
    where it is no storage.
    """
    with storage_errors(shared.place):
        if isinstance(shared.storage, Path):
            yield _open_journal(shared.storage, shared.grace_s)
            return
        storage = _open_database(shared, shared.storage)
        try:
            yield storage
        finally:
            storage.engine.dispose()


def _open_database(shared: SharedStudy, url: str) -> RDBStorage:
    place = shared.place
    with catch_warnings():
        simplefilter("ignore")  # Optuna's heartbeats are called experimental
        try:
            return RDBStorage(
                url,
                {
                    "pool_pre_ping": True,  # trials last long enough for a server to be started anew
                    "connect_args": {"connect_timeout": _CONNECT_S} if url.startswith("postgresql") else {},
                },
                heartbeat_interval=shared.heartbeat_s,
                grace_period=shared.grace_s,
            )
        except ImportError as error:
            missing = getattr(error.__cause__, "name", None) or "its driver"
            raise RunError(
                "the storage needs a driver that is not installed",
                place=place,
                value=missing,
                remedy=f"pip install '{_DRIVERS.get(missing, missing)}'",
            ) from None
        except (NoSuchModuleError, ArgumentError, KeyError, IndexError):
            raise _no_url() from None
        except RuntimeError as error:
            newer = "upgrade" not in str(error)
            raise RunError(
                "the storage was made by another version of Optuna",
                place=place,
                value=f"optuna {optuna.__version__} here",
                remedy="pip install -U optuna"
                if newer
                else "bring it up to date: optuna storage upgrade --storage URL, or use a new database",
            ) from None


def _open_journal(path: Path, grace_s: int) -> "Journal":
    try:
        return Journal(path, grace_s)
    except (ValueError, KeyError, AssertionError) as error:  # of a line that it does not know
        raise RunError(
            "the journal of the trials cannot be read",
            place=str(path),
            value=f"{type(error).__name__}: {error}",
            remedy="it is damaged or of another version of Optuna: delete it, and the run goes on from trials.jsonl",
        ) from None


def study_exists(shared: SharedStudy) -> bool:
    """Whether a process has begun it."""
    if isinstance(shared.storage, Path) and not shared.storage.is_file():
        return False
    with open_storage(shared) as storage:
        return any(one.study_name == shared.name for one in storage.get_all_studies())


def open_study(shared: SharedStudy, storage: Storage, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    """The study, which is begun if it is not there. Raises RunError if it belongs to another recipe, or its candidates
    had other weights or were priced with other tables."""
    costs = [StudyDirection.MINIMIZE] * (len(shared.objectives) - 1)
    with catch_warnings():
        simplefilter("ignore")
        study = optuna.create_study(
            storage=storage,
            sampler=sampler,
            study_name=shared.name,
            directions=[*costs, StudyDirection.MAXIMIZE],
            load_if_exists=True,
        )
        if _DIGEST not in study.user_attrs:
            study.set_user_attr(_DIGEST, shared.digest)
            study.set_metric_names(list(shared.objectives))
        found = study.user_attrs[_DIGEST]
    if found != shared.digest:
        same_recipe = str(found).split(" ")[0] == shared.digest.split(" ")[0]
        raise RunError(
            "the trials of a study have one supernet and one latency table"
            if same_recipe
            else "a study belongs to one recipe, and this one is another's",
            place=f"{shared.place}: study {shared.name}",
            value=f"{found}, not {shared.digest}",
            remedy="join with the run folder of the first process, or a copy of it with its supernet and tables"
            if same_recipe
            else "choose a --run folder of another name, which is the study's",
        )
    return study


@contextmanager
def storage_errors(place: str) -> Iterator[None]:
    """A storage that fails is a RunError; what was stored stays."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        found: BaseException = error
        while not isinstance(found, SQLAlchemyError) and found.__cause__:
            found = found.__cause__
        reason = str(getattr(found, "orig", None) or found).strip().partition("\n")[0]
        raise RunError(
            "the storage cannot be reached or used",
            place=place,
            value=reason,
            remedy="check that it runs and lets you in; the same command goes on with the trials that it has",
        ) from None


class _Lock(BaseJournalFileLock):
    """Of a journal. What a killed process held is free at once, and half a line that it left is cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: TextIOWrapper | None = None

    def acquire(self) -> bool:
        """Waits for it."""
        held = self._path.with_name(f"{self._path.name}.lock").open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
        self._held = held
        with self._path.open("rb+") as journal:
            end = journal.seek(0, os.SEEK_END)
            if end and (journal.seek(end - 1), journal.read(1))[1] != b"\n":
                journal.seek(0)
                journal.truncate(journal.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """For others."""
        if self._held:
            self._held.close()


class SignsOfLife:
    """Says every few seconds that a trial is worked on, until another one is or none."""

    def __init__(self, storage: Storage, every_s: float) -> None:
        self._storage, self._every_s = storage, every_s
        self._stop = Event()
        self._thread: Thread | None = None

    def follow(self, trial_id: int) -> None:
        """This trial from now on."""
        self.end()
        self._storage.record_heartbeat(trial_id)
        self._stop = Event()
        self._thread = Thread(target=self._say, args=(trial_id, self._stop), daemon=True)
        self._thread.start()

    def end(self) -> None:
        """None."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _say(self, trial_id: int, stop: Event) -> None:
        while not stop.wait(self._every_s):
            try:
                self._storage.record_heartbeat(trial_id)
            except (OSError, SQLAlchemyError, StorageInternalError):
                continue  # the next one may be heard again


def _no_url() -> RecipeError:
    return RecipeError(
        "a storage is the URL of a database that SQLAlchemy knows",
        place="--storage",
        remedy="write it as postgresql://USER@HOST/DATABASE",
    )
