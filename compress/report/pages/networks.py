"""What every report says of a network: its figures as a row, its place in the trade-off, plan, files, commands."""

import hashlib
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from compress.artefacts.artefact import ARCHITECTURE, WEIGHTS
from compress.artefacts.results import NetworkResult, RunRecord, TargetRecord
from compress.measure.latency import Latency
from compress.measure.latency_table import KernelGroup
from compress.pose.scoring import Score
from compress.report.figures import Axis, Figure, Mark, Panel, Place, Plan, Series, Shape
from compress.report.pages.published import PublishedPoint
from compress.report.parts import (
    Card,
    Cell,
    Commands,
    Facts,
    Fold,
    Lines,
    Part,
    Picture,
    Pictures,
    Section,
    Table,
    Text,
    TradeOff,
)
from compress.report.terminal import file_size, number, percent, short

LOOKS: Mapping[str, tuple[int, Shape]] = {
    "baseline": (1, "diamond"),
    "given": (1, "diamond"),
    "compared": (3, "square"),
}
"""Role → colour and shape in the trade-off; (0, circle) of any other."""


@dataclass(frozen=True)
class Row:
    """One network or trial, a line of networks.csv; None is not known.

    run: its run, where a page has several. score: by the metric, 0..1; provenance: of the weights that it was scored
    with; standard_error: of it. search_score: of the trial that it was. predicted_ms, measured_ms: of the network's
    passes on the target that decides, with the ends of the 95 % interval of the measured one; reliable: the timing.
    decode_ms: from maps to people. end_to_end_ms: both, with half its 95 % interval as a share. size_bytes: of the
    export that the target runs. memory_bytes: peak of the activations of one pass in float32. on_front: beaten by no
    other network, or trial, in all objectives.
    """

    run: str
    role: str
    name: str
    provenance: str
    metric: str
    score: float | None
    standard_error: float | None
    search_score: float | None
    target: str
    predicted_ms: float | None
    measured_ms: float | None
    low_ms: float | None
    high_ms: float | None
    reliable: bool | None
    decode_ms: float | None
    end_to_end_ms: float | None
    end_to_end_uncertainty: float | None
    params: int | None
    macs: int | None
    size_bytes: int | None
    memory_bytes: int | None = None
    on_front: bool | None = None


def row_of(network: NetworkResult, target: TargetRecord | None, run: str = "") -> Row:
    """Its figures on one target, in the recipe's procedure."""
    first = network.evaluations[0] if network.evaluations else None
    passes, score = (first.passes, first.score) if first else (1, None)
    name = target.name if target else ""
    latency = network.latency.get(name)
    measured = latency if latency and latency.provenance == "measured" else None
    predicted = network.predicted.get(name) or (latency if latency and not measured else None)
    interval = measured.interval_ms if measured else None
    sizes = {one.engine: one.size_bytes for one in network.exports}
    whole = first.end_to_end if first else None
    return Row(
        run=run,
        role=network.role,
        name=network.name,
        provenance=score.provenance if score else "",
        metric=score.metric if score else "",
        score=score.value if score else None,
        standard_error=score.standard_error if score else None,
        search_score=None,
        target=name,
        predicted_ms=passes * predicted.ms if predicted else None,
        measured_ms=passes * measured.ms if measured else None,
        low_ms=passes * interval[0] if interval else None,
        high_ms=passes * interval[1] if interval else None,
        reliable=latency.reliable if latency else None,
        decode_ms=first.decoding.ms if first and first.decoding else None,
        end_to_end_ms=whole.ms if whole else None,
        end_to_end_uncertainty=whole.uncertainty if whole else None,
        params=network.params,
        macs=network.macs,
        size_bytes=sizes.get(target.engine) if target else None,
    )


# --- Small texts -----------------------------------------------------------------------------------------------------


def ms_text(ms: float | None) -> str:
    """Two decimals, three below 1 ms."""
    return number(ms, ".2f" if ms is None or ms >= 1 else ".3f")


def score_text(value: float | None) -> str:
    """Three decimals."""
    return number(value, ".3f")


def plain(value: object) -> str:
    """Any plain value as a reader would write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(f"[{plain(item)}]" if isinstance(item, list | tuple) else plain(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
    return str(value)


def called(network: str) -> str:
    """What the user named, in a heading: of a file its name alone."""
    path = Path(network)
    return path.stem if path.suffix in (".yaml", ".yml", ".onnx") else network


def metric_of(networks: Iterable[NetworkResult]) -> str:
    """Of the first that has a score; `score` where none has."""
    return next((one.score.metric for one in networks if one.score), "score")


# --- Trade-off -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A network in the trade-off. group: of the legend. latency: target → of one pass; passes: of the procedure.

    link: id of its card.
    """

    row: Row
    group: str
    colour: int
    shape: Shape
    latency: Mapping[str, Latency]
    passes: int
    link: str = ""


def candidate_of(network: NetworkResult, row: Row, number_: int) -> Candidate:
    """Grouped by its role."""
    colour, shape = LOOKS.get(network.role, (0, "circle"))
    passes = network.evaluations[0].passes if network.evaluations else 1
    known = {**network.predicted, **network.latency}
    return Candidate(row, network.role, colour, shape, known, passes, f"network-{number_}")


Value = tuple[float | None, float | None, float | None, bool]
"""A cost, the ends of its interval, and whether it is predicted."""


def trade_off(
    candidates: Sequence[Candidate],
    trials: Sequence[Row],
    targets: Sequence[TargetRecord],
    title: str,
    published: Sequence[PublishedPoint] = (),
) -> TradeOff | None:
    """The score over every cost that is known; trials, if any, in a panel of their own, for their score is another.

    published: of the same pictures and metric; they have no time, and stand over what was counted alone. None if there
    is nothing to draw.
    """
    scored = [one for one in candidates if one.row.score is not None]
    if not scored and not any(trial.score is not None for trial in trials):
        return None
    tips = [*(_tip(one.row) for one in scored), *(_tip(row) for row in trials), *map(_published_tip, published)]
    metric = next((one.row.metric for one in scored), "score")
    decides = targets[0].name if targets else ""
    whole = any(one.row.end_to_end_ms for one in scored)
    costs: list[tuple[str, Axis, Callable[[Candidate], Value], Callable[[Row], float | None]]] = []
    if whole:
        axis = Axis("latency end to end [ms]", "ms", log=True)
        costs.append((f"end to end, {decides}", axis, _whole, _whole_trial))
    for target in targets:
        axis = Axis(f"latency of the network alone, {target.name} [ms]", "ms", log=True)
        costs.append(
            (f"network alone, {target.name}", axis, partial(_alone, target.name), partial(_trial, target.name))
        )
    costs += [
        (
            "multiply-adds",
            Axis("multiply-adds", "count", log=True),
            lambda one: (one.row.macs, None, None, False),
            lambda row: row.macs,
        ),
        (
            "parameters",
            Axis("parameters", "count", log=True),
            lambda one: (one.row.params, None, None, False),
            lambda row: row.params,
        ),
        (
            f"file size, {decides}",
            Axis("size of the exported file", "bytes", log=True),
            lambda one: (one.row.size_bytes, None, None, False),
            lambda row: None,
        ),
        (
            "memory of activations",
            Axis("peak memory of the activations", "bytes", log=True),
            lambda one: (one.row.memory_bytes, None, None, False),
            lambda row: row.memory_bytes,
        ),
    ]
    counted = {"multiply-adds": [one.macs for one in published], "parameters": [one.params for one in published]}
    axes: list[tuple[str, Figure]] = []
    for name, axis, cost, trial_cost in costs:
        top = _panel_series(scored, cost)
        if top and counted.get(name):
            first = len(scored) + len(trials)
            marks = (
                Mark(x, one.ap, one.name, tip=first + i)
                for i, (x, one) in enumerate(zip(counted[name], published, strict=True))
            )
            top.append(Series("published", tuple(marks), 5, "triangle", hollow=True, optional=True))
        panels = [Panel(Axis(f"{metric}, validation"), tuple(top), 2.0)] if top else []
        drawn = [(i, row, trial_cost(row)) for i, row in enumerate(trials, len(scored))]
        small = _trial_series([(i, row, x) for i, row, x in drawn if x and row.score is not None])
        if small:
            panels.append(Panel(Axis(f"{metric} in the search (a scale of its own)"), small, 1.15))
        if not panels:
            continue
        about = f"{title}: {metric} over {axis.title}. All figures are in the tables below."
        file = "" if axes else "trade_off.png"
        axes.append((name, Figure(title, about, axis, tuple(panels), 520 if small else 380, file)))
    return TradeOff(tuple(axes), tuple(tips), "published figures" if published else "") if axes else None


def _whole(one: Candidate) -> Value:
    """End-to-end time."""
    ms, share = one.row.end_to_end_ms, one.row.end_to_end_uncertainty
    low, high = (None, None) if ms is None or share is None else (ms * max(0.0, 1 - share), ms * (1 + share))
    return ms, low, high, one.row.measured_ms is None


def _whole_trial(row: Row) -> float | None:
    if row.predicted_ms is None:
        return None
    return row.predicted_ms + (row.decode_ms or 0.0)


def _alone(target: str, one: Candidate) -> Value:
    """The network's time on a target."""
    found = one.latency.get(target)
    if found is None:
        return None, None, None, False
    low, high = found.interval_ms or (None, None)
    low, high = (None if end is None else one.passes * end for end in (low, high))
    return one.passes * found.ms, low, high, found.provenance != "measured"


def _trial(target: str, row: Row) -> float | None:
    return row.predicted_ms if target == row.target else None


def _panel_series(candidates: Sequence[Candidate], cost: Callable[[Candidate], Value]) -> list[Series]:
    """The line of the front, then a series for each kind, measured and predicted apart."""
    series: dict[str, tuple[Series, list[Mark]]] = {}
    points = []
    for number_, one in enumerate(candidates):
        x, low, high, predicted = cost(one)
        if not x:
            continue
        score, error = one.row.score, one.row.standard_error
        assert score is not None
        name = one.row.name + (" (?)" if one.row.reliable is False else "")
        mark = Mark(
            x,
            score,
            name,
            labelled=True,
            x_low=low,
            x_high=high,
            y_low=None if error is None else score - error,
            y_high=None if error is None else score + error,
            tip=number_,
            link=one.link,
        )
        points.append(mark)
        title = one.group + (", predicted" if predicted else "")
        if title not in series:
            series[title] = (Series(title, (), one.colour, one.shape, hollow=predicted, budget=True), [])
        series[title][1].append(mark)
    if not points:
        return []
    front = [
        one
        for one in points
        if not any((o.x <= one.x and o.y >= one.y) and (o.x, o.y) != (one.x, one.y) for o in points)
    ]
    line = Series("beaten by none in both", tuple(replace(m, labelled=False) for m in front), 4, "none", line="step")
    return [line, *(replace(one, marks=tuple(marks)) for one, marks in series.values())]


def _published_tip(one: PublishedPoint) -> tuple[str, ...]:
    """What is told of a paper's network."""
    return (
        f"{one.name}, {'×'.join(map(str, one.input_hw))}",
        f"AP {one.ap:.3f}, published: {one.paper}",
        "on COCO val2017, after full training",
        f"{short(one.params)} parameters, {short(one.macs)} MACs, counted here",
    )


def _trial_series(drawn: Sequence[tuple[int, Row, float]]) -> tuple[Series, ...]:
    """All trials, and those on the front of the search apart."""
    kinds = (("trial", 4, False), ("trial on the search's front", 2, True))
    found = []
    for name, colour, on_front in kinds:
        marks = [Mark(x, row.score or 0.0, row.name, tip=i) for i, row, x in drawn if bool(row.on_front) is on_front]
        if marks:
            found.append(Series(name, tuple(marks), colour, small=True, budget=True))
    return tuple(found)


def _tip(row: Row) -> tuple[str, ...]:
    """What is told of a mark, a line each."""
    error = "" if row.standard_error is None else f" ± {row.standard_error:.3f} (one standard error)"
    lines = [
        row.name if not row.run else f"{row.name}, {row.run}",
        f"{row.metric or 'score'} {score_text(row.score)}{error}",
    ]
    if row.provenance:
        lines.append(f"weights: {row.provenance}")
    if row.search_score is not None:
        lines.append(f"in the search {score_text(row.search_score)}")
    if row.end_to_end_ms is not None:
        share = row.end_to_end_uncertainty
        lines.append(f"end to end {ms_text(row.end_to_end_ms)} ms" + (f" ± {percent(share)}" if share else ""))
    if row.measured_ms is not None:
        unsteady = ", unsteady" if row.reliable is False else ""
        lines.append(f"network {ms_text(row.measured_ms)} ms measured{unsteady}")
    if row.predicted_ms is not None:
        lines.append(f"network {ms_text(row.predicted_ms)} ms predicted")
    lines.append(f"{short(row.params)} parameters, {short(row.macs)} MACs")
    return tuple(lines)


# --- One network, drawn and told -------------------------------------------------------------------------------------


def plan_of(fields: Mapping[str, Any], baseline: Mapping[str, Any] | None = None) -> Plan | None:
    """The blocks of a network as branches and stages; None of a family that has no such fields.

    baseline: fields of what it is compared with; a place that differs says by how many blocks.
    """
    grid = _grid(fields)
    if grid is None:
        return None
    counts, widths = grid
    other = _grid(baseline) if baseline else None
    same_form = other is not None and [len(row) for row in other[0]] == [len(row) for row in counts]
    places = []
    for branch, row in enumerate(counts):
        line: list[Place | None] = []
        for stage, blocks in enumerate(row):
            if blocks is None:
                line.append(None)
                continue
            before = other[0][branch][stage] if same_form and other else None
            width = widths[branch][stage]
            width_before = other[1][branch][stage] if same_form and other else width
            change = None if before is None else blocks - before
            line.append(Place(blocks, width, change, width != width_before))
        places.append(tuple(line))
    count = len(counts)
    told = _told(fields, count)
    rows = () if count == 1 else tuple(" ".join([f"branch {n}", *of]) for n, of in enumerate(told, 1))
    given = _told(baseline, count) if same_form and baseline else told
    rows_before = tuple(" ".join(was) if was != now else "" for was, now in zip(given, told, strict=True))
    total = sum(one.blocks for line in places for one in line if one)
    about = f"{total} blocks in {len(places)} branches and {len(counts[0])} stages"
    columns = tuple(f"stage {n + 1}" for n in range(len(counts[0])))
    return Plan(about, rows or ("",), columns, tuple(places), rows_before if any(rows_before) else ())


def _told(fields: Mapping[str, Any], branches: int) -> list[list[str]]:
    """Kind and expansion of the blocks of every branch, as far as the family has them."""
    kinds, expansions = _per_branch(fields, "kinds", branches), _per_branch(fields, "expansions", branches)
    return [
        [*([] if kind is None else [str(kind)]), *([f"×{times:g}"] if times else [])]
        for kind, times in zip(kinds, expansions, strict=True)
    ]


_Grid = tuple[list[list[int | None]], list[list[int | None]]]


def _grid(fields: Mapping[str, Any]) -> _Grid | None:
    """Blocks and channels of every branch (row) and stage."""
    blocks, modules, width = fields.get("blocks"), fields.get("modules"), fields.get("width")
    if isinstance(blocks, list | tuple) and blocks and all(_counts(one) for one in blocks):
        stages = [list(stage) for stage in blocks]
    elif _counts(modules) and isinstance(blocks, int):  # HRNet: a stage of n modules has one branch more than the last
        stages = [[count * blocks] * (n + 2) for n, count in enumerate(modules)]  # type: ignore[arg-type]
    elif _counts(blocks):
        widths = fields.get("widths")
        known = _counts(widths) and len(widths) == len(blocks)  # type: ignore[arg-type]
        return [list(blocks)], [list(widths) if known else [None] * len(blocks)]  # type: ignore[arg-type]
    else:
        return None
    branches = max(map(len, stages))
    given = fields.get("branch_widths")
    if _counts(given) and len(given) == branches:  # type: ignore[arg-type]
        of_branch: list[int | None] = list(given)  # type: ignore[arg-type]
    else:
        of_branch = [width * 2**branch if isinstance(width, int) else None for branch in range(branches)]
    counts = [[stage[branch] if branch < len(stage) else None for stage in stages] for branch in range(branches)]
    return counts, [[of_branch[branch]] * len(stages) for branch in range(branches)]


def _counts(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(n, int) for n in value)


def _per_branch(fields: Mapping[str, Any], key: str, branches: int) -> list[Any]:
    values = fields.get(key)
    return list(values) if isinstance(values, list | tuple) and len(values) == branches else [None] * branches


_DRAWN = ("family", "blocks", "kinds", "expansions", "modules", "branch_widths", "widths")


def card_of(
    network: NetworkResult,
    number_: int,
    folder: Path,
    run: RunRecord,
    baseline: NetworkResult | None = None,
    edits: Sequence[str] = (),
    memory_bytes: int | None = None,
) -> Card:
    """What one network is, what was done to it, where its time goes, its files, and how to go on with it.

    baseline: what it is compared with. folder: of the run, whose files are looked at. memory_bytes: see Row.
    """
    fields, given = network.architecture, baseline.architecture if baseline else {}
    plan = plan_of(fields, given or None)
    facts = {"family": plain(fields.get("family"))} if "family" in fields else {}
    if network.input_hw:
        facts["input"] = "x".join(map(str, network.input_hw))
    facts["parameters"], facts["MACs"] = short(network.params), short(network.macs)
    if memory_bytes is not None:
        facts["memory"] = f"{file_size(memory_bytes)}, peak of the activations"
    for name, value in fields.items():
        if name in _DRAWN and (plan or name == "family"):
            continue
        changed = name in given and given[name] != value
        facts[name.replace("_", " ")] = plain(value) + (f" (was {plain(given[name])})" if changed else "")
    parts: list[Part] = [Facts(facts)]
    if plan and baseline and plan.differs:
        parts.append(Text(f"Framed, or with what it was: not as in {baseline.name}; in brackets, blocks more.", "note"))
    done = (*network.edits, *edits)
    if done:
        parts.append(Fold(f"Edits ({len(done)})", (Lines(tuple(done)),)) if len(done) > 4 else Lines(done, "Edits"))
    parts += _time_parts(network, baseline, run)
    files = _files(network, folder)
    if files.rows:
        parts.append(files)
    if network.role != "given":
        parts.append(Fold("Go on with it", (Commands(commands_for(network, folder, run)),)))
    return Card(f"network-{number_}", network.name, network.role, plan, tuple(parts))


def _files(network: NetworkResult, folder: Path) -> Table:
    """Artefact and exports with their files; a file that is not there, or not of the size it was, says so."""
    rows: list[tuple[Cell | str, ...]] = []
    for path in (folder / network.folder / name for name in (ARCHITECTURE, WEIGHTS)):
        if path.is_file() and network.role != "given":
            whole = Cell(file_size(path.stat().st_size), value=path.stat().st_size)
            rows.append((Cell(path.name, f"sha256 {_sha256(path)}"), "artefact", whole, ""))
    for export in network.exports:
        paths = [folder / network.folder / name for name in export.files]
        there = all(path.is_file() for path in paths)
        size = sum(path.stat().st_size for path in paths) if there else None
        for number_, path in enumerate(paths):
            if not path.is_file():
                state = "not in the folder"
            elif size != export.size_bytes:
                state = f"changed since: {size} bytes, not {export.size_bytes}"
            else:
                state = f"sha256 {_sha256(path)}"
            first = number_ == 0
            rows.append(
                (
                    Cell(path.name, state),
                    export.engine,
                    Cell(file_size(export.size_bytes), value=export.size_bytes) if first else "",
                    Cell(f"{export.parity:.1e}", value=export.parity) if first else "",
                )
            )
    rows += [(Cell("none", why, tone="bad"), engine, "", "") for engine, why in network.refused.items()]
    head = ("file", "for", "size", "error\nagainst torch")
    return Table(f"Files of {network.name}", head, tuple(rows), (1,))


def _time_parts(network: NetworkResult, baseline: NetworkResult | None, run: RunRecord) -> list[Part]:
    """The predicted time of one pass by resolution and by operator, beside the baseline's: what was kept and cut."""
    found: list[Part] = []
    for target in run.targets:
        own = network.times.get(target.name)
        if not own:
            continue
        given = (baseline.times.get(target.name) or ()) if baseline else ()
        tables = tuple(
            _time_table(
                f"Predicted time of {network.name} on {target.name}, by {title}", title, own, given, baseline, key
            )
            for title, key in (("resolution", _resolution), ("operator", lambda one: one.operator))
        )
        found.append(Fold(f"Where its time goes, {target.name}", tables))
    return found


def _resolution(group: KernelGroup) -> str:
    """`1/4` of the input's height."""
    return f"1/{group.stride}" if group.stride else "none"


def _time_table(
    about: str,
    title: str,
    own: Sequence[KernelGroup],
    given: Sequence[KernelGroup],
    baseline: NetworkResult | None,
    key: Callable[[KernelGroup], str],
) -> Table:
    """given: of the baseline; without any there is a share in place of the change."""
    names = dict.fromkeys(map(key, (*given, *own)))
    whole = sum(one.ms for one in own)
    rows: list[tuple[Cell | str, ...]] = []
    for name in (*names, "all"):
        mine, theirs = ([one for one in groups if name in ("all", key(one))] for groups in (own, given))
        ms, before_ms = sum(one.ms for one in mine), sum(one.ms for one in theirs)
        count, before = sum(one.kernels for one in mine), sum(one.kernels for one in theirs)
        estimated = sum(one.estimated_ms for one in mine)
        note = f"{percent(estimated / ms)} estimated" if estimated else ""
        cells: list[Cell | str] = [name, Cell(f"{ms:.3f}", note, ms)]
        if given:
            change = ms - before_ms
            tone: Literal["good", "bad", ""] = "good" if change < -0.0005 else "bad" if change > 0.0005 else ""
            cells += [Cell(f"{before_ms:.3f}", value=before_ms), Cell(f"{change:+.3f}", value=change, tone=tone)]
            cells.append(Cell(str(count), f"{count - before:+d}" if count != before else "", count))
        else:
            cells += [Cell(percent(ms / whole), value=ms / whole, bar=ms / whole), Cell(str(count), value=count)]
        rows.append(tuple(cells))
    middle = (f"{baseline.name} ms", "change") if given and baseline else ("share",)
    return Table(about, (title, "ms", *middle, "kernels"), tuple(rows))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pictures_section(before: NetworkResult | None, after: NetworkResult, folder: Path) -> Section:
    """What both networks find in the same validation pictures; nothing where no file is there. folder: of the run."""
    shown = [one for one in (before, after) if one]
    rows = []
    for index in range(min(len(one.pictures) for one in shown)):
        paths = [Path(one.folder) / one.pictures[index] for one in shown]
        if all((folder / path).is_file() for path in paths):
            found = zip(shown, paths, strict=True)
            rows.append(
                tuple(
                    Picture(f"{one.name}, picture {index + 1}", (folder / p).read_bytes(), str(p)) for one, p in found
                )
            )
    if not rows:
        return Section("What they find", ())
    note = "Validation pictures and the people found in them; blue is a body's own left side, orange its right."
    return Section("What they find" if before else "What it finds", (Pictures(tuple(rows)), Text(note, "note")))


def data_option(run: RunRecord) -> str:
    """`--data` of the run's data."""
    data = run.recipe.get("data") or {}
    kind, place = data.get("kind", "synthetic"), (data.get("disk") or {}).get("folder")
    return f"{kind}:{place}" if place else str(kind)


def commands_for(network: NetworkResult, folder: Path, run: RunRecord) -> dict[str, str]:
    """What a reader types next."""
    artefact, data = str(folder / network.folder), data_option(run)
    engines = [one.engine for one in network.exports] or list(network.refused)
    out = ["--set", f"engines=[{','.join(engines)}]"] if engines else []
    lines = {
        "Train it for longer": ["train", artefact, "--data", data, "--run", "runs/tuned"],
        "Score it": ["evaluate", artefact, "--data", data],
        "Find people in pictures": ["predict", artefact, "PICTURES", "--out", "drawn"],
        "Export it": ["export", artefact, "--out", "exports", *out],
    }
    return {what: shlex.join(["compress", *words]) for what, words in lines.items()}


# --- Tables ----------------------------------------------------------------------------------------------------------


def score_cell(score: Score | None) -> Cell:
    """The value, and its standard error below."""
    if score is None or score.value is None:
        return Cell("–")
    error = "" if score.standard_error is None else f"± {score.standard_error:.3f}"
    return Cell(score_text(score.value), error, score.value)


def latency_cell(latency: Latency | None, passes: int) -> Cell:
    """Milliseconds of all passes; below how they came about, with their 95 % interval."""
    if latency is None:
        return Cell("–", "not measured")
    ends = latency.interval_ms
    interval = "" if ends is None else f"{ms_text(passes * ends[0])} – {ms_text(passes * ends[1])}"
    how = "unsteady, " if latency.reliable is False else ""
    how += latency.provenance if latency.provenance != "measured" else ""
    small = ", ".join(filter(None, (how.strip(", "), interval)))
    tone = "bad" if latency.reliable is False else ""
    return Cell(ms_text(passes * latency.ms), small, passes * latency.ms, tone)  # type: ignore[arg-type]


def detail_table(networks: Sequence[NetworkResult]) -> list[Part]:
    """Scores by size and by joint, as far as the metric has them."""
    scored = [one for one in networks if one.score]
    if not scored:
        return []
    names: dict[str, None] = {}
    for one in scored:
        assert one.score
        for name, value in one.score.details.items():
            if isinstance(value, Mapping):
                names |= {f"{name}: {joint}": None for joint in value}
            elif isinstance(value, float) or value is None:
                names |= {name: None}
    if not names:
        return []

    def figure(score: Score, name: str) -> Cell:
        whole, _, joint = name.partition(": ")
        found = score.details.get(whole)
        value = found.get(joint) if joint and isinstance(found, Mapping) else found
        return Cell("–") if not isinstance(value, float | int) else Cell(f"{value:.3f}", value=float(value))

    rows: tuple[tuple[Cell | str, ...], ...] = tuple(
        (name, *(figure(one.score, name) for one in scored if one.score)) for name in names
    )
    metric = metric_of(scored)
    return [Table(f"{metric} in detail: by size, by joint, at thresholds", ("", *(one.name for one in scored)), rows)]
