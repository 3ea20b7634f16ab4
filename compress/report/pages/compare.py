"""Several runs in one page: their networks over one another's costs, and what differs between the runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compress.artefacts.results import NetworkResult, RunRecord, TargetRecord
from compress.pose.scoring import difference_error
from compress.report.figures import Shape
from compress.report.pages.networks import Candidate, Row, latency_cell, metric_of, plain, score_cell, trade_off
from compress.report.pages.trust import seconds_table, trust_section
from compress.report.parts import Cell, Fold, Page, Part, Recommendation, Section, Table, Text
from compress.report.terminal import short

_LOOKS: tuple[tuple[int, Shape], ...] = (
    (0, "circle"),
    (1, "diamond"),
    (2, "square"),
    (3, "triangle"),
    (5, "circle"),
    (4, "square"),
)


@dataclass(frozen=True)
class Compared:
    """One run. name: its folder, as far as it is not that of all. rows: of its networks, in their order."""

    name: str
    job: str
    run: RunRecord
    networks: tuple[NetworkResult, ...]
    rows: tuple[Row, ...]


def compare_page(runs: Sequence[Compared]) -> tuple[Page, list[Row]]:
    """The page and the lines of networks.csv."""
    rows = [row for one in runs for row in one.rows]
    networks = [replace(network, name=f"{network.name} of {one.name}") for one in runs for network in one.networks]
    targets: dict[str, TargetRecord] = {}
    for one in runs:
        for target in one.run.targets:
            targets.setdefault(target.name, target)
    candidates = []
    for number, one in enumerate(runs):
        colour, shape = _LOOKS[number % len(_LOOKS)]
        for network, row in zip(one.networks, one.rows, strict=False):
            passes = network.evaluations[0].passes if network.evaluations else 1
            known = {**network.predicted, **network.latency}
            candidates.append(Candidate(replace(row, run=one.name), one.name, colour, shape, known, passes))
    chart = trade_off(candidates, (), tuple(targets.values()), "Runs compared")
    differences = _differences(runs)
    metrics = {row.metric for row in rows if row.metric}
    lead: list[Part] = []
    if len(metrics) > 1:
        lead.append(
            Text(
                f"The runs are scored by different metrics ({', '.join(sorted(metrics))}): do not compare them.", "bad"
            )
        )
    lead += [Text(one, "bad") for one in _other_devices(runs)]
    if chart:
        lead.append(chart)
    metric = metric_of(networks)
    head = (
        "network",
        "run",
        metric,
        "end to end ms",
        *(f"{name} ms\nnetwork alone" for name in targets),
        "parameters",
        "MACs",
    )
    lines = []
    for one in runs:
        for network in one.networks:
            first = network.evaluations[0] if network.evaluations else None
            cells: list[Cell | str] = [
                Cell(network.name, network.role),
                one.name,
                score_cell(network.score),
                latency_cell(first.end_to_end if first else None, 1),
                *(latency_cell(network.latency.get(name), first.passes if first else 1) for name in targets),
                Cell(short(network.params), value=network.params),
                Cell(short(network.macs), value=network.macs),
            ]
            lines.append(tuple(cells))
    sections = [Section("All networks", (Table("Networks of all runs", head, tuple(lines), (1,)),))]
    if differences:
        table = Table("What differs", ("", *(one.name for one in runs)), differences, tuple(range(1, len(runs) + 1)))
        note = "Times of different machines, versions or runs are on different clocks; small differences mean nothing."
        sections.append(Section("What differs between the runs", (table, Text(note, "note"))))
    sections.append(trust_section(networks, RunRecord("", (), {}, {}, tuple(targets.values())), {}))
    timed = [Fold(one.name, (seconds_table(one.run.seconds),)) for one in runs if one.run.seconds]
    if timed:
        sections.append(Section("Where the time went", tuple(timed)))
    best = [
        (network.score, replace(row, run=one.name))
        for one in runs
        for network, row in zip(one.networks, one.rows, strict=False)
        if network.score and network.score.value is not None
    ]
    sentence = "No network of these runs has a score."
    if best:
        highest, top = max(best, key=lambda one: one[1].score or 0.0)
        error = "" if top.standard_error is None else f" ± {top.standard_error:.3f}"
        close = [
            row
            for score, row in best
            if row is not top and (top.score or 0) - (row.score or 0) < 2 * difference_error(highest, score)
        ]
        sentence = f"{top.name} of {top.run} scores best, {top.metric} {top.score:.3f}{error}"
        sentence += (
            f"; {len(close)} of the other {len(best) - 1} are within two standard errors of it." if close else "."
        )
    names = [name for name, *_ in differences]
    more = f" and {len(names) - 4} more" if len(names) > 5 else ""
    reasons = (f"The runs differ in {', '.join(names[: 4 if more else 5])}{more}, see below.",) if names else ()
    advice = Recommendation(sentence, "in part", reasons, heading="Result")
    facts = {"Runs": ", ".join(f"{one.name} ({one.job})" for one in runs)}
    return Page("compress report", f"{len(runs)} runs compared", facts, advice, tuple(lead), tuple(sections)), rows


def _other_devices(runs: Sequence[Compared]) -> list[str]:
    """A sentence for each target that is another engine or device in another run: its times do not compare."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in runs:
        for target in one.run.targets:
            found.setdefault(target.name, {}).setdefault(str(target), []).append(one.name)
    return [
        f"Milliseconds of {name} are not of one device or version: "
        + "; ".join(f"{identity} ({', '.join(names)})" for identity, names in of.items())
        + ". Compare times, and the front, within a run only."
        for name, of in found.items()
        if len(of) > 1
    ]


def _differences(runs: Sequence[Compared]) -> tuple[tuple[str, ...], ...]:
    """Settings, machine and versions that are not the same in all runs."""
    known = [
        {**_flat(one.run.recipe), **_flat({k: v for k, v in one.run.environment.items() if k != "command"})}
        for one in runs
    ]
    names = dict.fromkeys(name for one in known for name in one)
    found = []
    for name in names:
        values = [one.get(name, "–") for one in known]
        if len(set(values)) > 1:
            found.append((name, *values))
    return tuple(found)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested keys with dots → values as text."""
    found: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = plain(value)
    return found
