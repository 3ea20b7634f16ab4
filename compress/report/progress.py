"""Progress of a job on the terminal."""

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from compress.progress import Progress, Silent, Stage
from compress.report.terminal import duration, printable

_MEMORY, _MEMORY_SHARE = 10.0, 0.1  # steps over which the pace of a phase is averaged: ten, or a tenth of all
_HICCUP = 4.0  # times the mean, at most, that one slow step counts as; a lasting change shows in the next steps
_INSTANT_S = 1e-3  # quicker steps are those that a resumed run skips
_SHARE, _QUIET_S, _LONGEST_S = 0.10, 2.0, 60.0  # plain lines: every tenth of the steps, 2 s apart, 1 min at most


class PhaseState:
    """One phase: how far, since when, how fast. `changed` is called after every advance."""

    def __init__(
        self, name: str, total: int, clock: Callable[[], float], changed: Callable[["PhaseState"], None]
    ) -> None:
        self.name, self.total, self.done, self.note = printable(name), total, 0, ""
        self._clock, self._changed = clock, changed
        self.started = self._last = clock()
        self._step_s: float | None = None
        self.paced, self.paced_s = 0, 0.0  # steps that took time, unlike those a resumed run skips; their seconds

    def advance(self, steps: int = 1, note: str = "") -> None:
        """See Progress."""
        now = self._clock()
        if steps > 0:
            step_s = (now - self._last) / steps
            if step_s >= _INSTANT_S:
                self.paced, self.paced_s = self.paced + steps, self.paced_s + now - self._last
                # The plain mean of the first ones, then a running mean that forgets.
                memory = max(_MEMORY, _MEMORY_SHARE * self.total)
                keep = max(0.0, 1 - steps / min(memory, self.paced))
                if self._step_s is not None and self.paced > _MEMORY:
                    step_s = min(step_s, _HICCUP * self._step_s)
                self._step_s = step_s if self._step_s is None else keep * self._step_s + (1 - keep) * step_s
            self._last = now
        self.done += steps
        self.note = printable(note) or self.note
        self._changed(self)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the phase was opened."""
        return self._clock() - self.started

    @property
    def left_s(self) -> float | None:
        """Expected seconds until the last step is done; None before the first step."""
        if self._step_s is None:
            return None
        return max(0.0, self._step_s * (self.total - self.done) - (self._clock() - self._last))


class JobState:
    """The stages of a job and how much time is left for all of them."""

    def __init__(self, stages: Sequence[Stage] = ()) -> None:
        self._stages, self._current = list(stages), -1
        self._begun: list[tuple[Stage, PhaseState]] = []

    def open(self, phase: PhaseState) -> None:
        """A phase begins; it need not be a stage."""
        for index in range(self._current + 1, len(self._stages)):
            if printable(self._stages[index].name) == phase.name:
                self._current = index
                self._begun.append((self._stages[index], phase))
                break  # a later stage of the same name is another phase

    def left_s(self, phase: PhaseState) -> float | None:
        """Expected seconds until the last stage is done, as of this phase; None before a stage shows the pace, and
        where nothing was planned.

        Stages to come take what the ones before took for their work. The present one's own pace counts the more, the
        more of it was seen.
        """
        if not self._stages:
            return None
        present = [(stage, state) for stage, state in self._begun if state is phase]
        own = phase.left_s
        expected = self._pace([state for _, state in self._begun if state is not phase])
        left = own
        if present and expected is not None:
            seen = min(1.0, phase.paced / max(_MEMORY, _MEMORY_SHARE / 2 * phase.total))
            model = expected * present[0][0].work * max(0.0, 1 - phase.done / max(1, phase.total))
            left = model if own is None else seen * own + (1 - seen) * model
        to_come = sum(stage.work for stage in self._stages[self._current + 1 :])
        pace = self._pace([state for _, state in self._begun])
        if left is None or (to_come and pace is None):
            return None
        return left + to_come * (pace or 0.0)

    def _pace(self, states: Sequence[PhaseState]) -> float | None:
        """Seconds per work of these phases together."""
        work = {id(state): stage.work / max(1, state.total) * state.paced for stage, state in self._begun}
        done = sum(work[id(state)] for state in states)
        return sum(state.paced_s for state in states) / done if done else None


class Terminal:
    """Progress on stderr: bars on a terminal, else plain lines without control characters; nothing if quiet.

    console: shows bars wherever it draws, such as in a notebook.
    """

    def __init__(
        self,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self._quiet, self._stream, self._clock = quiet, stream or sys.stderr, clock
        self._bars: Bars | None = None
        self._job = JobState()
        self._console = console or (Console(file=self._stream) if not quiet and self._stream.isatty() else None)

    def plan(self, stages: Sequence[Stage]) -> None:
        """See Progress."""
        self._job = JobState(stages)

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[PhaseState]:
        """See Progress. Phases may be nested."""
        if self._quiet:
            yield PhaseState(name, total, self._clock, lambda state: None)
        elif self._console is None:
            with self._plain_phase(name, total) as state:
                yield state
        else:
            with self._bar_phase(self._console, name, total) as state:
                yield state

    def say(self, message: str) -> None:
        """See Progress."""
        if self._quiet:
            return
        if self._console is None:
            self._line(message)
        else:
            self._console.print(Text(printable(message)))  # rich moves its bars out of the way

    @contextmanager
    def _plain_phase(self, name: str, total: int) -> Iterator[PhaseState]:
        shown_at, shown_done = self._clock(), 0

        def changed(state: PhaseState) -> None:
            nonlocal shown_at, shown_done
            now = self._clock()
            due = state.done - shown_done >= _SHARE * state.total and now - shown_at >= _QUIET_S
            if state.done < state.total and (due or now - shown_at >= _LONGEST_S):
                shown_at, shown_done = now, state.done
                whole = whole_text(self._job.left_s(state))
                self._line(f"{state.name}: {progress_text(state)}{whole}{', ' + state.note if state.note else ''}")

        state = PhaseState(name, total, self._clock, changed)
        self._job.open(state)
        self._line(f"{state.name}: {total} step{'' if total == 1 else 's'}")
        outcome = "stopped"
        try:
            yield state
            outcome = "done"
        finally:
            note = f", {state.note}" if state.note else ""
            self._line(f"{state.name}: {outcome}, {state.done}/{state.total} in {duration(state.elapsed_s)}{note}")

    @contextmanager
    def _bar_phase(self, console: Console, name: str, total: int) -> Iterator[PhaseState]:
        outermost = self._bars is None
        if self._bars is None:
            self._bars = Bars(
                SpinnerColumn(finished_text="[green]✓"),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=28),
                MofNCompleteColumn(),
                _Times(self._job),
                _Note(),
                console=console,
            )
            self._bars.start()
        bars = self._bars
        state = PhaseState(name, total, self._clock, lambda state: bars.update(task, completed=state.done))
        self._job.open(state)
        task = bars.add_task(state.name, total=total, state=state)
        try:
            yield state
        finally:
            bars.stop_task(task)
            if outermost:
                bars.stop()
                self._bars = None

    def _line(self, text: str) -> None:
        self._stream.write(printable(text) + "\n")
        self._stream.flush()


def progress_in_python() -> Progress:
    """Where jobs that Python code calls report to: bars in a terminal and in a notebook, nowhere else.

    A notebook without ipywidgets, which draw the bars there, gets plain lines.
    """
    notebook = Console()
    if notebook.is_jupyter:
        drawn = importlib.util.find_spec("ipywidgets") is not None
        return Terminal(stream=sys.stdout, console=notebook if drawn else None)
    return Terminal() if sys.stderr.isatty() else Silent()


class _Times(ProgressColumn):
    """Elapsed, and left while there is something left, in the phase and in the whole job."""

    max_refresh = 0.5

    def __init__(self, job: JobState) -> None:
        self._job = job
        super().__init__()

    def render(self, task: Task) -> Text:
        state: PhaseState = task.fields["state"]
        if task.stop_time is not None:
            return Text(duration(state.elapsed_s if task.elapsed is None else task.elapsed), style="cyan")
        left = "–" if state.left_s is None else duration(state.left_s)
        whole = whole_text(self._job.left_s(state))
        return Text(f"{duration(state.elapsed_s)}, ETA {left}{whole}", style="cyan")


class _Note(ProgressColumn):
    """The last note of the phase."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["state"].note, style="dim", overflow="ellipsis", no_wrap=True)


def progress_text(state: PhaseState) -> str:
    """'3/30 (10 %), 12 s, ETA 1 min 48 s'."""
    share = f" ({100 * state.done / state.total:.0f} %)" if state.total else ""
    left = "–" if state.left_s is None else duration(state.left_s)
    return f"{state.done}/{state.total}{share}, {duration(state.elapsed_s)}, ETA {left}"


def whole_text(left_s: float | None) -> str:
    """', whole job 21 min': to the minute, for it is no better known; nothing if it is not known."""
    return "" if left_s is None else f", job {max(1, round(left_s / 60))} min"
