"""The report of a search: one page that opens anywhere, its main chart as a picture, and all numbers as a table.

The page is for a reader who does not believe it yet: every number comes with how it was obtained, on what, and with
what spread. Its text lies in templates/search.html; Jinja2 escapes whatever is filled in.
"""

import csv
import io
import json
import math
import shlex
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from compress.artefacts.results import NetworkResult, SearchResult, Trial
from compress.files import write_bytes, write_text
from compress.measure.latency import Latency
from compress.nas.space import KEEP
from compress.report import plots
from compress.report.plots import Row
from compress.report.search import (
    error_of,
    gain_text,
    ms_of,
    objectives_text,
    procedure_of,
    speed_text,
    value_of,
    waited_ms,
)
from compress.report.terminal import duration, file_size, number, percent, short

COLUMNS = (
    *("role", "name", "provenance", "metric", "score", "predicted_ms", "measured_ms"),
    *("low_ms", "high_ms", "decode_ms", "end_to_end_ms", "params", "macs", "on_front"),
)
"""Of `pareto.csv`. All milliseconds are on one clock; low_ms and high_ms: 95 % confidence interval of measured_ms."""


def write_report(result: SearchResult, folder: Path) -> None:
    """Writes report.html, pareto.png and pareto.csv from the result of a search, each as a whole or not at all."""
    rows = rows_of(result)
    picture = picture_of(result, rows)
    write_text(folder / "pareto.csv", table_text(rows))
    if picture is not None:
        write_bytes(folder / "pareto.png", picture)
    write_text(folder / "report.html", page(result, rows, picture))


# --- The numbers -----------------------------------------------------------------------------------------------------


def rows_of(result: SearchResult) -> list[Row]:
    """Networks, then trials, as they are shown everywhere."""
    return [
        *(_network_row(result, network) for network in result.networks),
        *(_trial_row(result, trial) for trial in result.trials),
    ]


def _network_row(result: SearchResult, network: NetworkResult) -> Row:
    first, latency = network.evaluations[0], result.latency_of(network)
    measured = latency if latency and latency.provenance == "measured" else None
    low, high = _interval(latency, first.passes)
    return Row(
        role=network.role,
        name=network.name,
        provenance=first.score.provenance if first.score else "random weights",
        metric=result.data.metric,
        score=value_of(first.score),
        predicted_ms=ms_of(network.predicted.get(result.target.name), first.passes),
        measured_ms=ms_of(measured, first.passes),
        low_ms=low,
        high_ms=high,
        decode_ms=ms_of(first.decoding),
        params=network.params,
        macs=network.macs,
        on_front=network.name in result.best,
        search_score=result.trial_of(network).score.value,
        standard_error=error_of(first.score),
        reliable=latency is None or latency.reliable is not False,
        end_to_end_uncertainty=first.end_to_end.uncertainty if first.end_to_end else None,
    )


def _interval(latency: Latency | None, passes: int) -> tuple[float | None, float | None]:
    """The ends of the 95 % interval of so many passes."""
    interval = latency.interval_ms if latency else None
    return (passes * interval[0], passes * interval[1]) if interval else (None, None)


def _trial_row(result: SearchResult, trial: Trial) -> Row:
    passes = result.networks[0].evaluations[0].passes if result.networks else 1
    return Row(
        role="trial",
        name=f"trial {trial.number}",
        provenance=trial.score.provenance,
        metric=trial.score.metric,
        score=trial.score.value,
        predicted_ms=passes * trial.cost.predicted_ms,
        measured_ms=None,
        low_ms=None,
        high_ms=None,
        decode_ms=ms_of(result.decoding),
        params=trial.cost.params,
        macs=trial.cost.macs,
        on_front=bool(trial.on_front),
    )


def table_text(rows: Iterable[Row]) -> str:
    """The rows as CSV; what is not known is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([getattr(row, column) for column in COLUMNS] for row in rows)
    return text.getvalue()


def picture_of(result: SearchResult, rows: Sequence[Row]) -> bytes | None:
    """The chart of the front as a PNG; None if there is nothing to draw."""
    chart = plots.front_chart(rows, width=820, height=480)
    if chart is None:
        return None
    title = f"{result.space.family}: accuracy against latency"
    return plots.png(chart, title, f"{result.target} · {_sample(result)}")


def order_agreement(scores: Sequence[tuple[float | None, float | None]]) -> tuple[int, int]:
    """Of scores in the search and on validation pictures, one pair per network: how many pairs of networks both
    order alike, and how many pairs both order at all."""
    known = [(one, other) for one, other in scores if one is not None and other is not None]
    signs = [(a[0] - b[0]) * (a[1] - b[1]) for i, a in enumerate(known) for b in known[i + 1 :]]
    return sum(sign > 0 for sign in signs), sum(sign != 0 for sign in signs)


# --- The page --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkView:
    """One network as the page's tables and cards show it."""

    network: NetworkResult
    row: Row
    error: float | None
    blocks: "BlockGrid | None"
    fields: Mapping[str, object]
    edits: Mapping[str, str]

    def predicted(self, target: str) -> str:
        """Predicted milliseconds of all passes, and the error against what was measured, as two lines."""
        found, measured = self.network.predicted.get(target), self.network.latency.get(target)
        both = found is not None and measured is not None and measured.provenance == "measured"
        error = found.ms / measured.ms - 1 if both else None  # type: ignore[union-attr]
        return _two(_ms(ms_of(found, self.network.evaluations[0].passes)), percent(error, sign=True))

    def export(self, engine: str) -> str:
        """Size and parity of an export, as two lines; a dash for each that is not there."""
        found = next((one for one in self.network.exports if one.engine == engine), None)
        return _two(file_size(found.size_bytes), number(found.parity, ".1e")) if found else _two("–", "–")

    def latency(self, target: str) -> str:
        """Milliseconds of all passes with their interval, as two lines."""
        found, passes = self.network.latency.get(target), self.network.evaluations[0].passes
        low, high = _interval(found, passes)
        bounds = "" if low is None else f"{_ms(low)} – {_ms(high)}"
        doubt = Markup("<small class=bad>unreliable</small>") if found and found.reliable is False else ""
        return _two(_ms(ms_of(found, passes)), bounds) + doubt


@dataclass(frozen=True)
class BlockGrid:
    """Blocks per branch (row) and stage (column). counts: None where a stage has no such branch. extras: title → one
    value per branch. most: blocks of the fullest place; total: of all."""

    counts: Sequence[Sequence[int | None]]
    extras: Mapping[str, Sequence[object]]
    most: int
    total: int


def page(result: SearchResult, rows: Sequence[Row], picture: bytes | None) -> str:
    """The whole HTML page, script and charts included."""
    charts = {
        "front": plots.front_chart(rows),
        "prediction": plots.prediction_chart(rows),
        "loss": plots.loss_chart(result.losses),
    }
    specifications = {name: plots.specification(chart) for name, chart in charts.items() if chart is not None}
    views = [_view(result, network, row) for network, row in zip(result.networks, rows, strict=False)]
    scores = [(view.row.search_score, view.row.score) for view in views]
    environment = dict(result.run.environment)
    packages = environment.pop("packages", {})
    environment.pop("command", None)  # shown by itself
    errors = sorted({f"{row.standard_error:.3f}" for row in rows if row.standard_error is not None})
    latencies = [latency for network in result.networks if (latency := result.latency_of(network))]
    return _TEMPLATES.get_template("search.html").render(
        result=result,
        views=views,
        by_time=sorted(views, key=lambda view: waited_ms(result, view.network) or math.inf),
        trials=result.trials,
        engines=sorted({export.engine for network in result.networks for export in network.exports}),
        other_targets=[target for target in result.run.targets if target.name != result.target.name],
        timed="predicted" if result.target.table and not any(row.measured_ms for row in rows) else "measured",
        other_procedure=result.networks[0].evaluations[1].procedure
        if result.networks and len(result.networks[0].evaluations) > 1
        else None,
        procedure=procedure_of(result),
        metric=result.data.metric,
        metric_text=_METRICS[result.data.metric],
        details=_DETAILS[result.data.metric],
        objectives=objectives_text(result),
        sample=_sample(result),
        findings=[
            (one.baseline, (gain_text(one, result.data.metric), speed_text(one, result.data.metric)))
            for one in result.comparisons
        ],
        agreement=order_agreement(scores),
        weights="given weights" if result.start else "supernet",
        search_score=f"{'search' if result.start else 'supernet'} score",
        weights_text=_weights(result),
        prediction_method=_prediction_method(result),
        standard_errors=" to ".join(dict.fromkeys((errors[0], errors[-1]))) if errors else None,
        provenances=", ".join(sorted({view.row.provenance for view in views})) or "–",
        calls=" or ".join(sorted({str(one.count) for one in latencies if one.count})) or "an unknown number of",
        doubted=", ".join(view.network.name for view in views if not view.row.reliable),
        command=shlex.join(result.run.command),
        recipe=json.dumps(result.run.recipe, indent=2, ensure_ascii=False),
        environment={
            **environment,
            "packages": ", ".join(f"{name} {version}" for name, version in packages.items()) or None,
        },
        total_seconds=sum(result.run.seconds.values()),
        picture=None if picture is None else b64encode(picture).decode(),
        specifications=Markup(_json_for_script(specifications)),
        bundle=Markup(plots.javascript()),
    )


def _view(result: SearchResult, network: NetworkResult, row: Row) -> NetworkView:
    fields = dict(network.architecture)
    grid = _block_grid(fields)
    choices = result.trial_of(network).pick
    edits = {path.removeprefix("edits."): value for path, value in choices.items() if path.startswith("edits.")}
    return NetworkView(
        network=network,
        row=row,
        error=result.prediction_error(network),
        blocks=grid,
        fields=fields,
        edits={
            name: f"{percent(value)} of the channels" if isinstance(value, float) else str(value)
            for name, value in edits.items()
            if value not in (KEEP, 1.0)
        },
    )


def _block_grid(fields: dict[str, object]) -> BlockGrid | None:
    """The blocks of a family with branches, None of others; takes what it shows out of the architecture's fields."""
    blocks = fields.get("blocks")
    if not (isinstance(blocks, list | tuple) and blocks and all(map(_is_counts, blocks))):
        return None
    branches, width = max(map(len, blocks)), fields.get("width")
    extras: dict[str, Sequence[object]] = {}
    for title, key in (("kind", "kinds"), ("exp.", "expansions")):
        values = fields.get(key)
        if isinstance(values, list | tuple) and len(values) == branches:
            extras[title] = values
            del fields[key]
    if isinstance(width, int):
        extras["ch."] = [width * 2**branch for branch in range(branches)]
    del fields["blocks"]
    counts = [[stage[branch] if branch < len(stage) else None for stage in blocks] for branch in range(branches)]
    return BlockGrid(counts, extras, max(map(max, blocks)) or 1, sum(map(sum, blocks)))


def _is_counts(stage: object) -> bool:
    return isinstance(stage, list | tuple) and len(stage) > 0 and all(isinstance(n, int) for n in stage)


# --- Small texts -----------------------------------------------------------------------------------------------------


def _two(first: str, second: str) -> Markup:
    """A cell of two lines, the second one small."""
    return Markup("{}<small>{}</small>").format(first, second)


def _show(value: object) -> str:
    """Any plain value as a reader would write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(f"[{_show(item)}]" if isinstance(item, list | tuple) else _show(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_show(item)}" for key, item in value.items())
    return str(value)


def _prediction_method(result: SearchResult) -> str:
    used = result.tables.get(result.target.name)
    if not used:
        return "each measured whole, for the engine does not tell the time of kernels."
    how, scale = f"the sum over the times of kernels, of which the table has {used.kernels:,}", used.scale
    if not scale:
        return f"{how}."
    fit = f"fitted on {scale.networks:,} whole networks (error of the fit {percent(scale.error)})"
    return f"{how}, times {scale.factor:.3f}, {fit}."


def _weights(result: SearchResult) -> str:
    """What the weights of trials are, in words."""
    weights = "the weights of the given network" if result.start else "weights that all candidates share"
    edited = any(path.startswith("edits.") for path in result.space.choices)
    tuned = f", tuned on {result.tuning_samples:,} samples" if result.tuning_samples else ""
    return weights + (", carried over to what was edited" if edited else "") + tuned


def _sample(result: SearchResult) -> str:
    people = "" if result.data.people is None else f" with {result.data.people:,} people"
    return f"a sample of {result.data.val:,} {result.data.kind} validation pictures{people}"


def _score(score: float | None) -> str:
    return number(score, ".3f")


_METRICS = {
    "AP": "COCO average precision (OKS)",
    "PCKh": "share of joints within half of the head's size of the label (PCKh@0.5)",
    "PCK": "share of joints within a fifth of the torso's size of the label (PCK@0.2)",
}
_DETAILS = {"AP": ("AP50", "AP75", "AR"), "PCKh": ("area",), "PCK": ("area",)}
"""Further figures of a metric that the page has columns for."""


def _count(count: int | None) -> str:
    return number(count, ",")


def _ms(ms: float | None) -> str:
    return number(ms, ".2f" if ms is None or ms >= 1 else ".3f")


def _big(size: int) -> str:
    """1234 as '1,234', 3482851737 as '3.5×10⁹'."""
    if size < 10_000_000:
        return _count(size)
    mantissa, power = f"{size:.1e}".split("e+")
    return f"{mantissa}×10{power.lstrip('0').translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _json_for_script(data: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "big": _big,
    "count": _count,
    "duration": duration,
    "ms": _ms,
    "percent": percent,
    "score": _score,
    "short": short,
    "show": _show,
    "two": _two,
}
