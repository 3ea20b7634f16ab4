"""Which picks are still to be scored: each once, until enough are, by one process or by all that share a study.

Nothing but the study is gone by, so that a process may die at any moment. Of several trials with one pick the first one
counts; the others wait for its answer. A trial whose process has died is failed by another one, and its pick is queued
again, three times at most: a candidate that takes more memory than there is would otherwise end every process.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from warnings import catch_warnings, simplefilter

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from compress.nas.sampler import REFUSED, Asked, Sampler
from compress.nas.space import Pick, Space, pick_key
from compress.nas.study import SharedStudy, SignsOfLife, Storage

TRIES = 3
"""Of a pick whose process dies."""
_ASKS_PER_TRIAL = 20  # bound on picks that are over budget or known already, so that a search ends
_POLL_S = 0.5
_SCORED = "score"
"""The attribute of a trial that only records have."""


@dataclass
class _Page:
    """The study's trials at one moment, by their pick's key where they have a whole one. left: by processes that
    died."""

    scored: dict[str, FrozenTrial]
    left: dict[str, list[FrozenTrial]]
    waiting: dict[str, int] = field(default_factory=dict)
    running: list[tuple[FrozenTrial, str | None]] = field(default_factory=list)


class TrialBook:
    """Asks the sampler, and keeps what it is told, with a record of every scored pick.

    wanted: picks to score. shared: see Sampler; such a book is closed in the end, by leaving its `with` block. Records
    are plain data with a field `score`.
    """

    def __init__(
        self, space: Space, sampler: Sampler, wanted: int, shared: tuple[SharedStudy, Storage] | None = None
    ) -> None:
        self._space, self._sampler, self._wanted = space, sampler, wanted
        self._asks = wanted * _ASKS_PER_TRIAL
        self._storage = shared[1] if shared else None
        self._life = SignsOfLife(shared[1], shared[0].heartbeat_s) if shared else None
        self._met: set[int] = set()
        self._scored: dict[str, FrozenTrial] = {}
        self._left: dict[str, list[FrozenTrial]] = {}
        self._ended: set[int] = set()
        self._first_open = 0

    def __enter__(self) -> "TrialBook":
        return self

    def __exit__(self, *error: object) -> None:
        if self._life:
            self._life.end()

    def ask(self) -> tuple[Asked, Pick] | None:
        """A pick that is to be scored or refused here, and the trial to answer for it.

        None when enough are scored, or when asking 20 times for each gave no more different ones. Waits while only
        picks are missing that other processes work on.
        """
        if self._life:
            self._life.end()
        while self._asks:
            page = self._looked_after()
            if len(page.scored) >= self._wanted:
                break
            if self._storage and len(page.scored) + len(page.running) >= self._wanted:
                time.sleep(_POLL_S)
                continue
            self._asks -= 1
            trial, pick = self._sampler.ask()
            if self._life:
                self._life.follow(trial._trial_id)
            with self._dropped_if_left(trial):
                if self._is_to_score(trial, pick):
                    return trial, pick
        return None

    def tell(
        self, trial: Asked, costs: Sequence[float], score: float, excess: float | None, record: Mapping[str, Any]
    ) -> None:
        """What came of the pick, see Sampler.tell."""
        with self._dropped_if_left(trial):
            for name, value in record.items():
                trial.set_user_attr(name, value)
            self._sampler.tell(trial, costs, score, excess)

    def refuse(self, trial: Asked, why: str, excess: float | None = None) -> None:
        """The pick was not scored, see Sampler.refuse."""
        with self._dropped_if_left(trial):
            self._sampler.refuse(trial, excess, why)

    def records(self) -> dict[str, Mapping[str, Any]]:
        """Of the scored picks, by their key, in the order of their trials."""
        scored = sorted(self._page().scored.items(), key=lambda item: item[1].number)
        return {key: one.user_attrs for key, one in scored}

    def given_up(self) -> list[Pick]:
        """Picks that ended every process that tried them."""
        return [pick_of_any(several[0], self._space) for several in self._page().left.values() if len(several) >= TRIES]

    def _is_to_score(self, trial: Asked, pick: Pick) -> bool:
        """Whether this trial is the first one of its pick, and wanted. Else it is answered or given back."""
        key = pick_key(pick)
        while True:
            page = self._looked_after() if self._storage else self._page()
            if known := page.scored.get(key):
                assert known.values is not None
                for name, excess in known.constraints.items():
                    trial.set_constraint(name, excess)
                self._sampler.study.tell(trial, known.values)
                return False
            if not self._storage:
                return True
            ahead = [other for one, other in page.running if one.number < trial.number]
            if page.waiting.get(key, trial.number) < trial.number:
                return self._give_back(trial, "waits already")
            if key not in ahead and None not in ahead:
                break
            time.sleep(_POLL_S)
        left_to_others = [] if key in page.left else page.waiting.keys() & page.left.keys()
        if len(page.scored) + len(ahead) + len(left_to_others) < self._wanted:
            return True
        self._give_back(trial, "enough are scored")
        self._sampler.study.enqueue_trial(dict(pick))  # for the case that one of those is left
        return False

    def _give_back(self, trial: Asked, why: str) -> bool:
        self._sampler.refuse(trial, None, why)
        return False

    def _looked_after(self) -> _Page:
        """The trials, when those of dead processes are failed and their picks queued again."""
        while True:
            page = self._page()
            if not self._storage:
                return page
            with catch_warnings():
                simplefilter("ignore")
                fail_stale_trials(self._sampler.study)
            for one, _ in page.running:  # its process may have died before its first sign of life
                if one.number not in self._met:
                    self._met.add(one.number)
                    self._storage.record_heartbeat(one._trial_id)
            at_work = {*page.scored, *page.waiting, *(key for _, key in page.running)}
            lost = [several[0] for key, several in page.left.items() if key not in at_work and len(several) < TRIES]
            if not lost:
                return page
            for one in lost:
                self._sampler.study.enqueue_trial(dict(pick_of_any(one, self._space)))

    def _page(self) -> _Page:
        page = _Page(self._scored, self._left)
        trials = self._sampler.study.get_trials(deepcopy=False)
        for one in trials[self._first_open :]:
            if one.number in self._ended:
                continue
            pick = pick_of_any(one, self._space)
            key = pick_key(pick) if pick else None
            if one.state == TrialState.RUNNING:
                page.running.append((one, key))
            elif one.state == TrialState.WAITING:
                page.waiting.setdefault(key or "", one.number)
            else:
                self._ended.add(one.number)
                if key and one.state == TrialState.COMPLETE and _SCORED in one.user_attrs:
                    self._scored.setdefault(key, one)
                elif key and one.state == TrialState.FAIL and REFUSED not in one.user_attrs:
                    self._left.setdefault(key, []).append(one)
        while self._first_open in self._ended:
            self._first_open += 1
        return page

    @contextmanager
    def _dropped_if_left(self, trial: Asked) -> Iterator[None]:
        """An answer that comes when this process was taken for dead is dropped: the pick is another's by now."""
        try:
            yield
        except (UpdateFinishedTrialError, ValueError):
            if self._sampler.study.get_trials(deepcopy=False)[trial.number].state != TrialState.FAIL:
                raise


def pick_of_any(trial: FrozenTrial, space: Space) -> Pick:
    """The pick of a trial that waits, runs or has ended; empty where it was left before it had one."""
    found = trial.system_attrs.get("fixed_params", trial.params)
    return {path: found[path] for path in space.choices} if space.choices.keys() <= found.keys() else {}
