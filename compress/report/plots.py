"""The charts of a report: as Vega-Lite specifications for the page and as a PNG. The only file that knows altair.

Every chart keeps what was predicted and what was measured apart, in position, in shape and in the legend.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import vl_convert

TRIAL, FINALIST, BASELINE, PREDICTED_FINALIST, PREDICTED_BASELINE = (
    "trial: predicted, supernet score",
    "finalist: measured, short training",
    "baseline: measured, short training",
    "finalist: predicted, short training",
    "baseline: predicted, short training",
)
_KINDS = {"finalist": FINALIST, "baseline": BASELINE}
_PREDICTED_KINDS = {"trial": TRIAL, "finalist": PREDICTED_FINALIST, "baseline": PREDICTED_BASELINE}
_COLOURS = {
    TRIAL: "#9aa3af",
    FINALIST: "#2f7fd8",
    BASELINE: "#e07b28",
    PREDICTED_FINALIST: "#7fb2ec",
    PREDICTED_BASELINE: "#eeb183",
}
_SHAPES = {
    TRIAL: "circle",
    FINALIST: "circle",
    BASELINE: "diamond",
    PREDICTED_FINALIST: "circle",
    PREDICTED_BASELINE: "diamond",
}
_BAND = 0.05  # half width of the band around predicted = measured
_STEPS = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)  # labels of a decade on a log axis

Width = int | Literal["container"]


@dataclass(frozen=True)
class Row:
    """One network or trial as the tables and charts show it; None is "not known".

    metric: such as AP; score: in it, 0..1, of this provenance. measured_ms, predicted_ms: of as many passes of the
    network as the score, on one clock;
    low_ms, high_ms: 95 % interval of measured_ms. on_front: among the trials or among the measured networks, never
    across. standard_error: of the score. reliable: the timing. decode_ms: from the maps to the people of a picture.
    end_to_end_uncertainty: half the 95 % interval of both, a share.
    """

    role: str
    name: str
    provenance: str
    metric: str
    score: float | None
    predicted_ms: float | None
    measured_ms: float | None
    low_ms: float | None
    high_ms: float | None
    decode_ms: float | None
    params: int | None
    macs: int | None
    on_front: bool
    search_score: float | None = None
    standard_error: float | None = None
    reliable: bool = True
    end_to_end_uncertainty: float | None = None

    @property
    def end_to_end_ms(self) -> float | None:
        """Network and decoding together, the network's time predicted where none was measured; None where either is not
        known."""
        network_ms = self.predicted_ms if self.measured_ms is None else self.measured_ms
        return None if network_ms is None or self.decode_ms is None else network_ms + self.decode_ms


def front_chart(rows: Sequence[Row], width: Width = "container", height: int = 430) -> alt.LayerChart | None:
    """Score over latency: trials where predicted, networks where measured, or predicted for another device.

    None if there is nothing to draw.
    """
    trials = [_waited(r) for r in rows if r.role == "trial" and r.predicted_ms and r.score is not None]
    networks = [
        _waited(r) for r in rows if r.role != "trial" and (r.measured_ms or r.predicted_ms) and r.score is not None
    ]
    if not trials and not networks:
        return None
    metric = rows[0].metric
    kinds = [kind for kind in _COLOURS if any(p["kind"] == kind for p in (*trials, *networks))]
    times = [p[k] for p in (*trials, *networks) for k in ("ms", "low_ms", "high_ms") if p.get(k)]
    low, high = min(times) / 1.12, max(times) * 1.12
    # an interval that reaches down to no time at all ends at the axis
    networks = [{**p, "low_ms": max(low, p["low_ms"])} if "low_ms" in p else p for p in networks]
    x = alt.X(
        "ms:Q", title="latency end to end [ms], log scale", scale=alt.Scale(type="log", domain=[low, high], nice=False)
    )
    x = x.axis(values=_log_ticks(low, high), format="~g", grid=True)
    y = alt.Y("score:Q", title=metric, scale=alt.Scale(zero=False, nice=True, padding=18)).axis(format=".3~f")
    legend = alt.Legend(title=None, orient="top", direction="vertical", symbolOpacity=1, symbolSize=90, labelLimit=420)
    colour = alt.Color("kind:N", scale=_scale(kinds, _COLOURS), legend=legend)
    shape = alt.Shape("kind:N", scale=_scale(kinds, _SHAPES), legend=legend)

    line = alt.Chart(_data([p for p in networks if p["on_front"]])).mark_line(
        interpolate="step-after", color=_COLOURS[FINALIST], strokeWidth=1.5, opacity=0.65
    )
    layers = [
        alt.Chart(_data(trials))
        .mark_point(filled=True, size=28, opacity=0.6)
        .encode(x, y, colour, shape, tooltip=_tooltip("trial", metric)),
        line.encode(x, y, order=alt.Order("ms:Q")),
        *_whiskers(networks, x, y, colour),
        alt.Chart(_data(networks))
        .mark_point(filled=True, opacity=1, stroke="white", strokeWidth=1)
        .encode(
            x,
            y,
            colour,
            shape,
            tooltip=_tooltip("network", metric),
            size=alt.condition("datum.on_front", alt.value(170), alt.value(95)),
        ),
        *_labels(networks, x, y, low, high),
    ]
    return alt.LayerChart(layer=layers).properties(width=width, height=height)


def prediction_chart(rows: Sequence[Row], width: Width = "container", height: int = 340) -> alt.LayerChart | None:
    """Measured over predicted latency, with equality and ±5 %. None if nothing was measured."""
    points = [_point(r, r.measured_ms) for r in rows if r.role != "trial" and r.measured_ms and r.predicted_ms]
    if not points:
        return None
    values = [p[k] for p in points for k in ("ms", "predicted_ms", "low_ms", "high_ms") if p.get(k)]
    low, high = min(values) * 0.9, max(values) * 1.1
    ends = [{"x": v, "low": v * (1 - _BAND), "high": v * (1 + _BAND)} for v in (low, high)]
    scale = alt.Scale(domain=[low, high], nice=False, zero=False)
    x = alt.X("predicted_ms:Q", title="predicted latency [ms]", scale=scale).axis(tickCount=6)
    y = alt.Y("ms:Q", title="measured latency [ms]", scale=scale).axis(tickCount=6)
    kinds = [kind for kind in _COLOURS if any(p["kind"] == kind for p in points)]
    names = {FINALIST: "finalist", BASELINE: "baseline"}
    label = "{" + ", ".join(f"'{kind}': '{name}'" for kind, name in names.items()) + "}[datum.label]"
    legend = alt.Legend(title=None, orient="top", labelExpr=label, symbolOpacity=1, symbolSize=90)
    colour = alt.Color("kind:N", scale=_scale(kinds, _COLOURS), legend=legend)
    shape = alt.Shape("kind:N", scale=_scale(kinds, _SHAPES), legend=legend)
    ground = alt.Chart(_data(ends)).encode(alt.X("x:Q", scale=scale))
    spread = [p for p in points if p.get("low_ms") and p.get("high_ms")]
    layers = [
        ground.mark_area(color="#8a94a3", opacity=0.2, clip=True).encode(alt.Y("low:Q"), alt.Y2("high:Q")),
        ground.mark_line(color="#8a94a3", strokeDash=[5, 4], strokeWidth=1.3).encode(alt.Y("x:Q")),
        alt.Chart(_data(spread)).mark_rule(strokeWidth=1.6).encode(x, alt.Y("low_ms:Q"), alt.Y2("high_ms:Q"), colour),
        alt.Chart(_data(points))
        .mark_point(filled=True, size=110, opacity=1, stroke="white", strokeWidth=1)
        .encode(x, y, colour, shape, tooltip=_tooltip("network", rows[0].metric)),
    ]
    return alt.LayerChart(layer=layers).properties(width=width, height=height)


def loss_chart(losses: Sequence[float | None], width: Width = "container", height: int = 220) -> alt.Chart | None:
    """Supernet loss over epochs. None if there is none."""
    points = [{"epoch": n, "loss": loss} for n, loss in enumerate(losses, 1) if loss is not None]
    if not points:
        return None
    chart: alt.Chart = (
        alt.Chart(_data(points))
        .mark_line(point=alt.OverlayMarkDef(size=24), color=_COLOURS[FINALIST], strokeWidth=1.8)
        .encode(
            alt.X("epoch:Q", title="epoch", scale=alt.Scale(nice=False, padding=8)).axis(tickMinStep=1, format="d"),
            alt.Y("loss:Q", title="loss", scale=alt.Scale(zero=False)).axis(format="~g"),
            alt.Tooltip(["epoch:Q", "loss:Q"]),
        )
        .properties(width=width, height=height)
    )
    return chart


def specification(chart: alt.LayerChart | alt.Chart) -> dict[str, Any]:
    """The chart as a Vega-Lite specification without colours of the page: the page sets them for light and dark."""
    chart = chart.configure(background="transparent").configure_view(stroke=None)
    chart = chart.configure_axis(labelFontSize=12, titleFontSize=12, titleFontWeight="normal", gridOpacity=0.5)
    spec: dict[str, Any] = chart.configure_legend(labelFontSize=12).configure_text(fontSize=12).to_dict()
    return spec


def png(chart: alt.LayerChart | alt.Chart, title: str, subtitle: str) -> bytes:
    """The chart on white, as a PNG at scale 2. Needs a chart of fixed width."""
    text = alt.TitleParams(title, subtitle=[subtitle], anchor="start", fontSize=16, subtitleFontSize=12, offset=12)
    spec = specification(chart.properties(title=text, padding=18))
    spec["config"]["background"] = "white"
    return bytes(vl_convert.vegalite_to_png(spec, vl_version=_vega_lite(), scale=2))


def javascript() -> str:
    """Vega, Vega-Lite and vegaEmbed as one script for a page that opens without a network (about 0.9 MB)."""
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_vega_lite()))


def _vega_lite() -> str | None:
    """The version altair writes, as vl-convert names it; None, its newest, if it lacks that one."""
    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    return version if version in vl_convert.get_vegalite_versions() else None


def _point(row: Row, ms: float | None) -> dict[str, Any]:
    """What a mark needs and what its tooltip shows."""
    point: dict[str, Any] = {
        "name": row.name,
        "label": row.name if row.reliable else f"{row.name} (?)",
        "kind": (_PREDICTED_KINDS if row.measured_ms is None else _KINDS)[row.role],
        "ms": ms,
        "score": row.score,
        "provenance": row.provenance,
        "predicted_ms": row.predicted_ms,
        "low_ms": row.low_ms,
        "high_ms": row.high_ms,
        "search_score": row.search_score,
        "params": row.params,
        "macs": row.macs,
        "on_front": row.on_front,
        "reliable": "yes" if row.reliable else "NO",
    }
    if row.standard_error is not None and row.score is not None:
        point |= {"score_low": row.score - row.standard_error, "score_high": row.score + row.standard_error}
        point["standard_error"] = row.standard_error
    return {key: value for key, value in point.items() if value is not None}


def _waited(row: Row) -> dict[str, Any]:
    """The mark at its end-to-end time, or at the network's where decoding was not timed."""
    total_ms, share = row.end_to_end_ms, row.end_to_end_uncertainty
    point = _point(row, total_ms or row.measured_ms or row.predicted_ms)
    if total_ms is None or share is None:
        return point
    return {**point, "low_ms": total_ms * max(0.0, 1 - share), "high_ms": total_ms * (1 + share)}


def _tooltip(role: Literal["trial", "network"], metric: str) -> list[alt.Tooltip]:
    """Everything known about a point, each number with how it was obtained."""
    name, params, macs = ("name:N", None), ("params:Q", ",d"), ("macs:Q", ",d")
    predicted = ("predicted_ms:Q", ".3f", "predicted latency [ms]")
    if role == "trial":
        lines: list[tuple[Any, ...]] = [
            name,
            ("score:Q", ".4f", f"{metric}, supernet weights"),
            predicted,
            params,
            macs,
        ]
    else:
        lines = [
            name,
            ("score:Q", ".4f", f"{metric}, validation"),
            ("provenance:N", None, "weights from"),
            ("standard_error:Q", ".4f", f"standard error of {metric}"),
            ("search_score:Q", ".4f", f"{metric}, supernet weights"),
            ("ms:Q", ".3f", "end to end [ms]"),
            ("low_ms:Q", ".3f", "from [ms]"),
            ("high_ms:Q", ".3f", "to [ms]"),
            ("reliable:N", None, "reliable timing"),
            predicted,
            params,
            macs,
        ]
    return [
        alt.Tooltip(field, title=title[0] if title else field[:-2], **({"format": form} if form else {}))
        for field, form, *title in lines
    ]


def _whiskers(networks: list[dict[str, Any]], x: alt.X, y: alt.Y, colour: alt.Color) -> list[alt.Chart]:
    """The 95 % interval of the latency, and one standard error of the score where it is known."""
    timed = [p for p in networks if "low_ms" in p and "high_ms" in p]
    sampled = [p for p in networks if "score_low" in p]
    return [
        alt.Chart(_data(timed)).mark_rule(strokeWidth=2).encode(alt.X("low_ms:Q"), alt.X2("high_ms:Q"), y, colour),
        alt.Chart(_data(sampled))
        .mark_rule(strokeWidth=1, opacity=0.6)
        .encode(x, alt.Y("score_low:Q"), alt.Y2("score_high:Q"), colour),
    ]


def _labels(networks: list[dict[str, Any]], x: alt.X, y: alt.Y, low: float, high: float) -> list[alt.Chart]:
    """Names: above what is on the front, below the rest; towards the middle near the sides, so that none is cut off.

    Where names would meet, each goes a line further out than the one before. low, high: ends of the latency axis.
    """
    layers = []
    for on_front in (True, False):
        outwards = -1 if on_front else 1
        line, last_share = 0, -math.inf
        for point in sorted((p for p in networks if p["on_front"] is on_front), key=lambda p: p["ms"]):
            share = math.log(point["ms"] / low) / math.log(high / low)
            line = line + 1 if share - last_share < _NAME_SHARE else 0
            last_share = share
            align = "left" if share < 0.3 else "right" if on_front or share >= 0.72 else "center"
            dx = {"left": 2, "center": 0, "right": -9}[align]
            dy = outwards * (19 if align == "center" else 13) + outwards * 15 * line
            marks = alt.Chart(_data([point])).mark_text(fontSize=12, align=align, dx=dx, dy=dy)  # type: ignore[arg-type]
            layers.append(marks.encode(x, y, text="label:N"))
    return layers


_NAME_SHARE = 0.1  # of the axis: about the length of a name


def _scale(kinds: list[str], values: dict[str, str]) -> alt.Scale:
    return alt.Scale(domain=kinds, range=[values[kind] for kind in kinds])


def _data(points: Sequence[dict[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=list(points))


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range, at most about ten."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [round(step * 10.0**decade, 10) for decade in decades for step in _STEPS]
    inside = [tick for tick in ticks if low <= tick <= high]
    return inside if len(inside) <= 10 else [t for t in inside if f"{t:e}"[0] in "125" and f"{t:e}"[2] == "0"]
