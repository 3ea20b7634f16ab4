"""The reports of `compress latency check` and `show`, from what they print with --json."""

from pathlib import Path

from compress.artefacts.results import CheckedTable, ShownNetwork
from compress.measure.latency_table import Identity, Prediction
from compress.report.figures import Axis, Figure, Mark, Panel, Series
from compress.report.pages.networks import Row, ms_text
from compress.report.parts import Cell, Chart, Page, Part, Recommendation, Section, Table, Text
from compress.report.terminal import percent

_KERNELS = 200  # of a page; there may be thousands


def checked_page(result: CheckedTable, folder: Path) -> tuple[Page, list[Row]]:
    """Predicted against measured; it has no lines of networks.csv."""
    found = result.accuracy
    unsteady = [one.network for one in result.networks if one.measured.reliable is False]
    close = round(found.within_10 * found.count)
    near = "all" if close == found.count else f"{close} of {found.count}"
    networks = f"{found.count} networks were" if found.count > 1 else "1 network was"
    sentence = (
        f"Trust predictions of this table to {percent(found.mape)} in the mean: {networks} predicted and measured, the "
        f"worst is off by {percent(found.worst)}, and {near} are within 10 %."
    )
    reasons = [f"Order: Kendall's tau {found.tau:.3f} (1 is the same order)."] if found.tau is not None else []
    inside = [one.inside for one in result.networks if one.inside is not None]
    if inside:
        reasons.append(f"{sum(inside)} of {len(inside)} measured times are inside the predicted interval.")
    parts: list[Part] = []
    if len(unsteady) == len(result.networks) > 1:
        parts.append(Text("All timings are unsteady: check again on a quieter machine.", "bad"))
    elif unsteady:
        parts.append(Text(f"Timings too unsteady to judge by: {', '.join(unsteady)}.", "bad"))
    marks = tuple(
        Mark(
            one.predicted.ms,
            one.measured.ms,
            one.network,
            True,
            one.predicted.low_ms,
            one.predicted.high_ms,
            *(one.measured.interval_ms or (None, None)),
        )
        for one in result.networks
    )
    if marks:
        ends = [value for mark in marks for value in (mark.x, mark.y)]
        low, high = 0.95 * min(ends), 1.05 * max(ends)
        diagonal = Series("predicted = measured", (Mark(low, low), Mark(high, high)), 4, "none", line="dashed")
        panel = Panel(Axis("measured [ms]", "ms", log=True), (diagonal, Series("network", marks)))
        about = "Measured over predicted latency, one mark per network"
        x = Axis("predicted [ms], with the interval of nine in ten networks", "ms", log=True)
        parts.append(Chart(Figure("Predicted against measured", about, x, (panel,), 380, "trade_off.png")))
    rows = tuple(
        (
            one.network,
            Cell(ms_text(one.predicted.ms), _span(one.predicted), one.predicted.ms),
            Cell(ms_text(one.measured.ms), f"± {percent(one.measured.uncertainty)}", one.measured.ms),
            Cell(percent(one.error, sign=True), value=one.error),
            Cell(percent(one.predicted.coverage), value=one.predicted.coverage),
            Cell(percent(one.predicted.time_coverage), value=one.predicted.time_coverage),
        )
        for one in result.networks
    )
    head = ("network", "predicted ms", "measured ms", "error", "kernels\nin the table", "time\nin the table")
    parts.append(Table("Predicted against measured", head, rows))
    sections = [Section("Network by network", tuple(parts))]
    if result.worst_kernels:
        kernels = tuple(
            (
                one.kernel,
                Cell(str(one.times), value=one.times),
                Cell(f"{one.in_situ_ms:.4f}", value=one.in_situ_ms),
                Cell(f"{one.predicted_ms:.4f}", value=one.predicted_ms),
            )
            for one in result.worst_kernels
        )
        table = Table("Kernels of the worst networks", ("kernel", "times", "inside ms", "predicted ms"), kernels)
        sections.append(Section("Where predictions are off", (table,)))
    facts = {**_facts(result.identity, result.table), **_foreign(result.foreign)}
    advice = Recommendation(sentence, "no" if unsteady else "yes", tuple(reasons))
    return Page("compress latency check", "Predicted against measured latency", facts, advice, (), tuple(sections)), []


def shown_page(result: ShownNetwork, folder: Path) -> tuple[Page, list[Row]]:
    """A network's predicted latency, operator by operator and kernel by kernel."""
    whole = result.prediction
    sentence = (
        f"{result.network} is predicted to take {ms_text(whole.ms)} ms ({_span(whole) or 'interval unknown'}) on "
        f"{result.identity}; nothing was measured."
    )
    known = f"{percent(whole.coverage)} of its kernels and {percent(whole.time_coverage)} of the time are in the table."
    operators = tuple((name, Cell(percent(share), value=share, bar=share)) for name, share in result.operators.items())
    kernels = tuple(
        (
            one.kernel,
            Cell(str(one.times), value=one.times),
            Cell(f"{one.ms:.4f}", value=one.ms),
            Cell(percent(one.share), value=one.share, bar=one.share),
            one.provenance + (f", uncertain by {percent(one.uncertainty)}" if one.uncertain else ""),
        )
        for one in result.kernels[:_KERNELS]
    )
    sections = [
        Section("By operator", (Table("Operators", ("operator", "share of the time"), operators),)),
        Section(
            f"By kernel, the costliest {len(kernels)} of {len(result.kernels)}",
            (Table("Kernels", ("kernel", "times", "ms", "share of the time", "how"), kernels, (4,)),),
        ),
    ]
    facts = {
        **_facts(result.identity, result.table),
        "Input": "×".join(map(str, result.input_hw)),
        **_foreign(whole.foreign),
    }
    if result.scale:
        scale = result.scale
        facts["Scale"] = f"{scale.factor:.3f} by {scale.networks} networks, mean error {percent(scale.error)}"
    advice = Recommendation(sentence, "in part", (known,), heading="Result")
    return Page("compress latency show", f"{result.network}, kernel by kernel", facts, advice, (), tuple(sections)), []


def _facts(identity: Identity, table: str) -> dict[str, str]:
    return {"Target": str(identity), "Device": identity.device, "Table": table}


def _foreign(foreign: tuple[str, ...]) -> dict[str, str]:
    return {"The table is of something else": "; ".join(foreign)} if foreign else {}


def _span(predicted: Prediction) -> str:
    low, high = predicted.low_ms, predicted.high_ms
    return "" if low is None or high is None else f"{ms_text(low)} – {ms_text(high)}"
