"""Candidates that are trained alone, side by side in several processes of this machine."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from queue import SimpleQueue
from threading import Lock
from typing import Any

from compress.artefacts.records import from_plain, to_plain
from compress.data.memory import settled_heap
from compress.errors import CompressError, RunError
from compress.jobs.search.alone import Rung, scored_alone
from compress.jobs.search.task import Calibration, Task
from compress.jobs.search.trials import Weights, trained_weights
from compress.jobs.search.workers import Told, Worker, threads_of_each, worker
from compress.nas.space import Pick

_ATTEMPTS = 3  # of processes at one candidate, before the search gives up

Candidates = Sequence[tuple[int, Pick]]
"""Numbers and picks."""
Scores = Callable[[Candidates, int], Iterator[Rung]]
"""Candidates and epochs → what each scores after so many, as they are done."""


@contextmanager
def trainers(task: Task, weights: Weights, calibration: Calibration) -> Iterator[Scores]:
    """What trains candidates: this process, or `search.workers` others, each on its part of the cores."""
    if task.recipe.search.workers == 1:
        yield lambda candidates, epochs: (
            scored_alone(task, weights, pick, number, epochs, calibration) for number, pick in candidates
        )
        return
    crew = _Crew(task)
    try:
        yield crew.scores
    finally:
        crew.close()


class _Crew:
    """The processes. One that ends is replaced, and the candidate that it was at trained on from its checkpoint."""

    def __init__(self, task: Task) -> None:
        self._task, self._count = task, task.recipe.search.workers
        self._free: SimpleQueue[_Place] = SimpleQueue()
        self._places = [_Place(task, number, threads_of_each(self._count)) for number in range(2, self._count + 2)]
        for place in self._places:
            self._free.put(place)

    def scores(self, candidates: Candidates, epochs: int) -> Iterator[Rung]:
        """Raises what a process raised, and RunError for a candidate at which one after the other ends."""
        if not candidates:
            return
        title = f"training {len(candidates)} candidates, {epochs} epochs"
        with ThreadPoolExecutor(self._count) as pool, self._task.progress.phase(title, len(candidates)) as phase:
            try:
                for one in as_completed([pool.submit(self._score, *each, epochs) for each in candidates]):
                    found = one.result()
                    yield found
                    score = found.score
                    phase.advance(1, f"candidate {found.number}: {score.metric} {score.value or 0.0:.3f}")
            except BaseException:
                self.close()  # so that the threads end
                pool.shutdown(cancel_futures=True)
                raise

    def close(self) -> None:
        """Ends all processes."""
        for place in self._places:
            place.close()

    def _score(self, number: int, pick: Pick, epochs: int) -> Rung:
        place = self._free.get()
        try:
            for _ in range(_ATTEMPTS):
                try:
                    answer = place.ask({"number": number, "pick": dict(pick), "epochs": epochs})
                except EOFError:
                    continue
                if "error" in answer:
                    raise RunError(answer["error"], place=f"candidate {number}", remedy="mend it, and start again")
                return from_plain(Rung, answer, f"candidate {number}")
        finally:
            self._free.put(place)
        raise RunError(
            f"{_ATTEMPTS} processes ended while they trained it ({place.ended})",
            place=f"candidate {number}",
            remedy="use fewer workers or a smaller batch, and start again",
        )


class _Place:
    """One process at a time, started when it is first asked."""

    def __init__(self, task: Task, number: int, threads: int) -> None:
        self._task, self._number, self._threads = task, number, threads
        self._open: AbstractContextManager[Worker] | None = None
        self._worker: Worker | None = None
        self._closed, self._changes = False, Lock()
        self.ended = ""

    def ask(self, job: Any) -> Any:
        """Raises EOFError if the process ends; the next one is another."""
        with self._changes:
            if self._closed:
                raise RunError("the search ends", place="worker", remedy="start it again")
            if self._worker is None:
                self._open = worker(self._task, __name__, self._number, threads=self._threads)
                self._worker = self._open.__enter__()
            one = self._worker
        try:
            return one.ask(job)
        except EOFError:
            with self._changes:
                if not self._closed:
                    self.ended = one.ended() or "without a word"
                    self._task.progress.say(f"worker {self._number} ended ({self.ended}); another one goes on")
                    self._leave()
            raise

    def close(self) -> None:
        """Ends the process, also one that is at work."""
        with self._changes:
            self._closed = True
            self._leave()

    def _leave(self) -> None:
        opened, self._open, self._worker = self._open, None, None
        if opened:
            opened.__exit__(None, None, None)


def main() -> None:
    """What such a process does: trains and scores each candidate that it is asked for."""
    try:
        told = Told()
        task = replace(told.task, beside=True)
        weights, _ = trained_weights(task)
        calibration = Calibration(task)
    except CompressError as error:
        sys.exit(str(error))
    with settled_heap():
        for job in told.jobs():
            try:
                told.answer(to_plain(scored_alone(task, weights, **job, calibration=calibration)))
            except (CompressError, OSError, RuntimeError) as error:
                told.answer({"error": str(error)})


if __name__ == "__main__":
    main()
