"""What every report says of how far its figures can be trusted: how each came about, and what is not known."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from compress.artefacts.results import NetworkResult, RunRecord
from compress.report.figures import Axis, Figure, Mark, Panel, Series
from compress.report.pages.networks import ms_text, plain
from compress.report.parts import Cell, Chart, Code, Commands, Facts, Fold, Lines, Part, Section, Table, Text
from compress.report.terminal import duration, percent

_CLOCK = (
    "Measured milliseconds are ratios to a reference that ran beside the networks, on one clock, so that drift of the "
    "machine's speed is out of them; intervals hold 95 %."
)


def unsteady_line(networks: Sequence[NetworkResult]) -> str | None:
    """One sentence on all unsteady timings; None without any."""
    timed = [
        (one.name, name, latency)
        for one in networks
        for name, latency in one.latency.items()
        if latency.provenance == "measured"
    ]
    unsteady = [(name, target, latency.uncertainty) for name, target, latency in timed if latency.reliable is False]
    if not unsteady:
        return None
    shares = [share for _, _, share in unsteady if share is not None]
    by = f", by ± {min(shares):.0%} to ± {max(shares):.0%}" if shares else ""
    again = "time them again on a quieter machine before comparing a few percent."
    if len(unsteady) == len(timed):
        return f"All {len(timed)} timings are unsteady{by}: {again}"
    named = ", ".join(f"{name} on {target}" for name, target, _ in unsteady)
    return f"{len(unsteady)} of {len(timed)} timings are unsteady{by} ({named}): {again}"


def not_measured(networks: Sequence[NetworkResult], run: RunRecord) -> list[str]:
    """By name what no figure of the report says."""
    found = []
    for target in run.targets:
        lacking = [one.name for one in networks if not _measured(one, target.name)]
        if lacking:
            instead = " (predicted from another device's table)" if target.table else ""
            found.append(f"latency on {target.name}{instead}: {_names(lacking, networks)}")
    scores = [one.name for one in networks if one.score is None or one.score.value is None]
    if scores:
        found.append(f"score: {_names(scores, networks)}")
    errors = [one.name for one in networks if one.score and one.score.value and one.score.standard_error is None]
    if errors:
        found.append(f"standard error of the score: {_names(errors, networks)}")
    decoding = [one.name for one in networks if not any(e.decoding for e in one.evaluations)]
    if decoding and run.targets:
        found.append(f"time from maps to people: {_names(decoding, networks)}")
    uncounted = sorted({name for one in networks for name in one.uncounted})
    if uncounted:
        found.append(f"multiply-adds of operators without a counting rule: {', '.join(uncounted)}")
    found.append("memory while running, energy, and time layer by layer (`compress profile` has the last)")
    found.append("the spread between seeds: the run has one")
    return found


def _measured(network: NetworkResult, target: str) -> bool:
    latency = network.latency.get(target)
    return latency is not None and latency.provenance == "measured"


def _names(names: Sequence[str], networks: Sequence[NetworkResult]) -> str:
    return "all networks" if len(names) == len(networks) > 1 else ", ".join(names)


def prediction_parts(networks: Sequence[NetworkResult], run: RunRecord) -> list[Part]:
    """Predicted against measured time of one pass, per target; nothing where no network has both."""
    marks: dict[str, list[Mark]] = {}
    rows: list[tuple[Cell | str, ...]] = []
    for target in run.targets:
        for one in networks:
            predicted, measured = one.predicted.get(target.name), one.latency.get(target.name)
            if predicted is None and measured is None:
                continue
            both = predicted is not None and measured is not None and measured.provenance == "measured"
            if both:
                assert predicted
                assert measured
                low, high = measured.interval_ms or (None, None)
                x_low, x_high = predicted.interval_ms or (None, None)
                mark = Mark(predicted.ms, measured.ms, one.name, True, x_low, x_high, low, high)
                marks.setdefault(target.name, []).append(mark)
            if predicted is None:
                continue
            met = measured if measured and measured.provenance == "measured" else None
            error = predicted.ms / met.ms - 1 if met else None
            ends, promised = (met.interval_ms if met else None), predicted.interval_ms
            rows.append(
                (
                    one.name,
                    target.name,
                    Cell(ms_text(predicted.ms), _span(promised), predicted.ms),
                    Cell(ms_text(met.ms if met else None), _span(ends), met.ms if met else None),
                    Cell(percent(error, sign=True), value=error),
                    Cell(str(met.count) if met and met.count else "–", value=met.count if met else None),
                    Cell(percent(predicted.coverage), value=predicted.coverage),
                )
            )
    parts: list[Part] = []
    if marks:
        values = [v for listed in marks.values() for m in listed for v in (m.x, m.y)]
        least, most = 0.95 * min(values), 1.05 * max(values)
        diagonal = Series("predicted = measured", (Mark(least, least), Mark(most, most)), 4, "none", line="dashed")
        series = [
            Series(name, tuple(listed), colour, "square" if colour % 2 else "circle")
            for colour, (name, listed) in enumerate(marks.items())
        ]
        panel = Panel(Axis("measured [ms]", "ms", log=True), (diagonal, *series))
        title = "Predicted against measured latency of one pass"
        x = Axis("predicted [ms]", "ms", log=True)
        parts.append(Chart(Figure(title, f"{title}; the figures are in the table below.", x, (panel,), 340)))
    if rows:
        head = (
            "network",
            "target",
            "predicted ms\none pass",
            "measured ms\none pass, 95 % interval",
            "error",
            "timed calls",
            "in the table\nof the predicted time",
        )
        parts.append(Table("Predicted against measured latency", head, tuple(rows), (1,)))
    return parts


def _span(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ms_text(ends[0])} – {ms_text(ends[1])}"


def trust_section(
    networks: Sequence[NetworkResult],
    run: RunRecord,
    how: Mapping[str, str],
    caveats: Sequence[str] = (),
) -> Section:
    """How every figure came about, what was predicted and met, and what is not known. how: of the job's own figures."""
    parts: list[Part] = []
    unsteady = unsteady_line(networks)
    if unsteady:
        parts.append(Text(unsteady, "bad"))
    parts += prediction_parts(networks, run)
    targets = {
        f"Latency, {one.name}": f"{one}"
        + (f"; predicted from {one.table}" if one.table else "; measured on this machine")
        for one in run.targets
    }
    parts.append(Facts({**how, **targets}))
    if any(latency.provenance == "measured" for one in networks for latency in one.latency.values()):
        parts.append(Text(_CLOCK, "note"))
    if caveats:
        parts.append(Lines(tuple(caveats), "Read it with these in mind"))
    parts.append(Lines(tuple(not_measured(networks, run)), "Not measured"))
    return Section("How far to trust it", tuple(parts), "trust")


def run_section(run: RunRecord) -> Section:
    """How to repeat the run: command, machine, versions, recipe, and where its time went."""
    environment = dict(run.environment)
    packages = environment.pop("packages", None) or {}
    environment.pop("command", None)
    seed = run.recipe.get("seed")
    facts = {"run folder": run.folder, **({} if seed is None else {"seed": plain(seed)})}
    facts |= {str(name): plain(value) for name, value in environment.items()}
    if isinstance(packages, Mapping):
        facts["packages"] = ", ".join(f"{name} {version}" for name, version in packages.items()) or "–"
    parts: list[Part] = []
    if run.command:
        parts.append(Commands({"Command": shlex.join(run.command)}))
    parts.append(Facts(facts))
    if run.seconds:
        parts.append(seconds_table(run.seconds))
    if run.recipe:
        parts.append(Fold("Recipe", (Code(recipe_text(run.recipe)),)))
    return Section("How to repeat it", tuple(parts), "repeat")


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """As recipes are written: YAML, short lists and mappings in one line."""
    return yaml.safe_dump(dict(recipe), sort_keys=False, default_flow_style=None, allow_unicode=True, width=100)


def seconds_table(seconds: Mapping[str, float]) -> Table:
    """Where the time went."""
    total = sum(seconds.values())
    rows = [
        (
            name,
            Cell(duration(value), value=value),
            Cell(percent(value / (total or 1)), value=value, bar=value / (total or 1)),
        )
        for name, value in seconds.items()
    ]
    rows.append(("all", Cell(duration(total), value=total), ""))  # type: ignore[arg-type]
    return Table("Time per phase", ("phase", "time", "share"), tuple(rows))
