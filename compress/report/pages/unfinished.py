"""The report of a run folder without readable results: what is missing, and what is there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from compress.artefacts.records import from_plain
from compress.artefacts.results import Trial
from compress.artefacts.run import ENVIRONMENT, RECIPE
from compress.errors import RunError
from compress.report.figures import Axis, Figure, Mark, Panel, Series
from compress.report.pages.networks import Row, ms_text, plain, score_text
from compress.report.pages.trust import seconds_table
from compress.report.parts import Cell, Chart, Code, Facts, Fold, Page, Part, Section, Table
from compress.report.terminal import short

_SHOWN = 200  # trials


def unfinished_page(folder: Path, reason: str) -> tuple[Page, list[Row]]:
    """The page; it has no lines of networks.csv. reason: why the results cannot be read."""
    missing = [f"{reason}. The run's own command, given again, goes on where it stopped."]
    sections: list[Section] = []
    trials, broken = _lines(folder / "trials.jsonl")
    found = [one for one in map(_trial, trials) if one]
    if broken or len(found) < len(trials):
        missing.append(f"trials.jsonl: {broken + len(trials) - len(found)} lines cannot be read")
    if found:
        sections.append(Section(f"{len(found):,} trials so far", tuple(_trials(found))))
    steps = sorted(str(path.relative_to(folder / "steps")) for path in folder.glob("steps/**/*") if path.is_file())
    if steps:
        sections.append(
            Section("Finished steps", (Table("Files of finished steps", ("file",), tuple((s,) for s in steps)),))
        )
    seconds, _ = _lines(folder / "seconds.jsonl")
    total: dict[str, float] = {}
    for one in seconds:
        if isinstance(one, dict) and isinstance(one.get("seconds"), int | float):
            phase = str(one.get("phase"))
            total[phase] = total.get(phase, 0.0) + one["seconds"]
    if total:
        sections.append(Section("Time so far", (seconds_table(total),)))
    made: list[Part] = []
    environment = _json(folder / ENVIRONMENT)
    if isinstance(environment, dict):
        made.append(Facts({str(name): plain(value) for name, value in environment.items()}))
    else:
        missing.append(f"{ENVIRONMENT}: not there, or no JSON")
    job = None
    try:
        text = (folder / RECIPE).read_text(encoding="utf-8")
        recipe = yaml.safe_load(text)
        job = recipe.get("job") if isinstance(recipe, dict) else None
        made.append(Fold("Recipe", (Code(text),)))
    except (OSError, ValueError, yaml.YAMLError) as error:
        missing.append(f"{RECIPE}: {type(error).__name__}")
    if made:
        sections.append(Section("The run", tuple(made)))
    return Page(
        f"compress {job or 'report'}", f"{folder.name}: not finished", {}, None, (), tuple(sections), tuple(missing)
    ), []


def _lines(path: Path) -> tuple[list[Any], int]:
    """Records of a file of JSON lines, and how many lines are none. The file is left as it is."""
    if not path.is_file():
        return [], 0
    found, broken = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            broken += 1
    return found, broken


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _trial(data: Any) -> Trial | None:
    try:
        return from_plain(Trial, data, "trials.jsonl")
    except RunError:
        return None


def _trials(trials: list[Trial]) -> Iterator[Part]:
    """Their scores over predicted latency, and the best of them."""
    points = [(next(iter(one.cost.latency.values()), None), one) for one in trials]
    marks = tuple(Mark(ms.ms, one.score.value) for ms, one in points if ms and one.score.value is not None)
    if marks:
        metric = trials[0].score.metric
        panel = Panel(Axis(f"{metric} in the search"), (Series("", marks, small=True),))
        about = f"{metric} in the search over predicted latency, one mark per trial"
        x = Axis("predicted latency of one pass [ms]", "ms", log=True)
        yield Chart(Figure("Score in the search against predicted latency", about, x, (panel,), 340))
    table = _trials_table(trials)
    yield Fold(table.about, (table,))


def _trials_table(trials: list[Trial]) -> Table:
    def rows() -> Iterator[tuple[Cell | str, ...]]:
        for one in sorted(trials, key=lambda trial: -(trial.score.value or 0.0))[:_SHOWN]:
            first = next(iter(one.cost.latency.values()), None)
            ms = first.ms if first else None
            yield (
                Cell(f"trial {one.number}", value=one.number),
                Cell(score_text(one.score.value), value=one.score.value),
                Cell(ms_text(ms), value=ms),
                Cell(short(one.cost.params), value=one.cost.params),
                Cell(short(one.cost.macs), value=one.cost.macs),
            )

    head = ("trial", "score", "predicted ms\none pass", "parameters", "MACs")
    return Table(f"The best {min(_SHOWN, len(trials))} trials so far", head, tuple(rows()))
