"""The report of a search: one page that opens anywhere, its main chart as a picture, and all numbers as a table.

The page is for a reader who does not believe it yet: every number says how it was provenance, on what, with what
spread.
"""

import csv
import io
import json
import math
import shlex
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from compress.files import write_bytes, write_text
from compress.report import plots
from compress.report.plots import Row
from compress.report.terminal import (
    ap_of,
    best_of,
    duration,
    file_size,
    gain_text,
    number,
    of_passes,
    percent,
    short,
    speed_text,
    waited_ms,
)

COLUMNS = (
    *("role", "name", "provenance", "ap", "predicted_ms", "measured_ms"),
    *("low_ms", "high_ms", "decode_ms", "end_to_end_ms", "params", "macs", "on_front"),
)
"""Of `pareto.csv`. All milliseconds are on one clock; low_ms and high_ms: 95 % confidence interval of measured_ms."""

Data = Mapping[str, Any]


def write_report(results: Data, folder: Path) -> None:
    """Writes report.html, pareto.png and pareto.csv from the results of a search, each as a whole or not at all."""
    rows = rows_of(results)
    picture = picture_of(results, rows)
    write_text(folder / "pareto.csv", table_text(rows))
    if picture is not None:
        write_bytes(folder / "pareto.png", picture)
    write_text(folder / "report.html", page(results, rows, picture))


# --- The numbers -----------------------------------------------------------------------------------------------------


def rows_of(results: Data) -> list[Row]:
    """Networks, then trials, as they are shown everywhere."""
    networks = list(results["networks"])
    best = best_of(networks)
    return [
        *(_network_row(network, network["name"] in best) for network in networks),
        *(_trial_row(trial, results) for trial in results["trials"]),
    ]


def _network_row(network: Data, on_front: bool) -> Row:
    cost, latency, passes = network["cost"], network.get("latency") or {}, network.get("passes", 1)

    def all_passes(milliseconds: float | None) -> float | None:
        return None if milliseconds is None else passes * milliseconds

    return Row(
        role=network["role"],
        name=network["name"],
        provenance=network["provenance"],
        ap=ap_of(network),
        predicted_ms=all_passes(cost.get("predicted_ms")),
        measured_ms=all_passes(network.get("measured_ms")),
        low_ms=all_passes(_bound(network, -1)),
        high_ms=all_passes(_bound(network, 1)),
        decode_ms=(network.get("decode_ms") or {}).get("median"),
        params=cost.get("params"),
        macs=cost.get("macs"),
        on_front=on_front,
        supernet_ap=network.get("supernet_ap"),
        standard_error=network.get("ap_standard_error"),
        reliable=bool(latency.get("reliable", True)),
        end_to_end_uncertainty=network.get("end_to_end_uncertainty"),
    )


def _trial_row(trial: Data, results: Data) -> Row:
    cost, passes = trial["cost"], (results["networks"] or [{}])[0].get("passes", 1)
    predicted = cost.get("predicted_ms")
    return Row(
        role="trial",
        name=f"trial {trial['number']}",
        provenance=_scored_with(results),
        ap=trial.get("ap"),
        predicted_ms=None if predicted is None else passes * predicted,
        measured_ms=None,
        low_ms=None,
        high_ms=None,
        decode_ms=(results.get("decoding") or {}).get("median"),
        params=cost.get("params"),
        macs=cost.get("macs"),
        on_front=bool(trial.get("on_front")),
    )


def _bound(network: Data, side: int) -> float | None:
    """An end of the 95 % confidence interval of measured_ms."""
    share, measured = (network.get("latency") or {}).get("uncertainty"), network.get("measured_ms")
    return None if share is None or measured is None else float(measured * (1 + side * share))


def table_text(rows: Iterable[Row]) -> str:
    """The rows as CSV; what is not known is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([getattr(row, column) for column in COLUMNS] for row in rows)
    return text.getvalue()


def picture_of(results: Data, rows: Sequence[Row]) -> bytes | None:
    """The chart of the front as a PNG; None if there is nothing to draw."""
    chart = plots.front_chart(rows, width=820, height=480)
    if chart is None:
        return None
    return plots.png(chart, f"{_family(results)}: accuracy against latency", f"{_engine(results)} · {_sample(results)}")


def order_agreement(networks: Sequence[Data]) -> tuple[int, int]:
    """Pairs of networks that the supernet score orders as the validation AP does, and pairs that both order."""
    scores = [
        (n["supernet_ap"], ap_of(n)) for n in networks if n.get("supernet_ap") is not None and ap_of(n) is not None
    ]
    signs = [(a[0] - b[0]) * ((a[1] or 0.0) - (b[1] or 0.0)) for i, a in enumerate(scores) for b in scores[i + 1 :]]
    return sum(sign > 0 for sign in signs), sum(sign != 0 for sign in signs)


# --- The page --------------------------------------------------------------------------------------------------------


def page(results: Data, rows: Sequence[Row], picture: bytes | None) -> str:
    """The whole HTML page, script and charts included."""
    charts = {
        "front": plots.front_chart(rows),
        "prediction": plots.prediction_chart(rows),
        "loss": plots.loss_chart((results.get("supernet") or {}).get("loss") or []),
    }
    specifications = {name: plots.specification(chart) for name, chart in charts.items() if chart is not None}
    sections = [
        header(results),
        findings(results),
        front_section(results, rows, picture),
        networks_section(results, rows),
        composition_section(results),
        prediction_section(results),
        search_section(results, rows),
        method_section(results),
        caveats_section(results),
        reproduce_section(results),
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(_family(results))}: search report</title>",
            f"<style>{_CSS}</style>\n</head>\n<body>\n<main>",
            *sections,
            "</main>",
            f'<script type="application/json" id="charts">{_json_for_script(specifications)}</script>',
            f"<script>{plots.javascript()}</script>\n<script>{_DRAW}</script>\n</body>\n</html>\n",
        ]
    )


def header(results: Data) -> str:
    """Title and the facts that every number depends on."""
    data = results["data"]
    facts = {
        "Engine": _engine(results),
        "Device": _show(results["engine"].get("device")),
        "Data": f"{_show(data.get('kind'))}: {_count(data.get('train'))} train, {_count(data.get('search'))} search, "
        f"{_count(data.get('val'))} validation pictures",
        "Searched": f"{len(results['trials'])} candidates of a space of {_big(results['space'].get('size'))}",
    }
    title = f"<h1>{escape(_family(results))}: accuracy against latency</h1>"
    return f"<header><p class=kicker>compress {_html(results.get('job'))}</p>{title}{_facts(facts, 'facts')}</header>"


def findings(results: Data) -> str:
    """What the search gained over the hand-made networks, in sentences, with the doubt that the sample leaves."""
    comparison = results.get("comparison") or []
    cards = "".join(_finding(entry) for entry in comparison)
    nothing = "<p>No hand-made network was given, so there is nothing to compare with.</p>"
    compared = f"<div class=cards>{cards}</div>" if cards else nothing
    told = [*filter(None, [results.get("no_finalist")]), *results.get("failed_exports", ())]
    missing = "".join(f"<p class=bad>{_html(line)}</p>" for line in told)
    unknown = "<p class=note>Read it with <a href='#unknown'>what this report does not know</a>.</p>"
    return _section("Against the hand-made networks", missing + compared + unknown)


def _finding(entry: Data) -> str:
    """One baseline: what the search offers at its latency and at its accuracy; bold only where it means something."""
    gained, sped = gain_text(entry), speed_text(entry)
    lines = [
        f"<p><b class=big>{_html(head)}</b> {_html(rest)}</p>" if head else f"<p>{_html(rest)}</p>"
        for head, rest in (gained, sped)
    ]
    return f"<div class=card><h3>{_html(entry['baseline'])}</h3>{''.join(lines)}</div>"


def front_section(results: Data, rows: Sequence[Row], picture: bytes | None) -> str:
    """The main chart and how to read it."""
    fallback = ""
    if picture is not None:
        source = b64encode(picture).decode()
        fallback = f'<noscript><img alt="AP over latency" src="data:image/png;base64,{source}"></noscript>'
    trials = sum(row.role == "trial" for row in rows)
    return _section(
        "Accuracy against latency",
        f"<div class=chart id=chart-front style='--height:540px'>{fallback}</div>"
        "<p class=note>Latency is end to end: the network's passes and the reading of its maps, all that a person "
        "waits for. Large marks are networks after a short training, exported and <b>measured</b> on the engine; "
        "horizontal whiskers are the 95 % intervals of their latency, vertical ones one standard error of AP where it "
        "is known (hidden where smaller than the mark), and the line joins those that no other measured network beats "
        f"in both; (?) marks an unreliable timing. The {trials} small grey dots are trials: their latency is only "
        f"<b>predicted</b>, with one decoding time for all{_decoding_said(results)}, and "
        f"their AP is the <b>{_score(results)}</b>, which orders them but is not the AP they "
        "would reach. Grey and coloured heights must not be compared.</p>",
    )


def _decoding_said(results: Data) -> str:
    decoding = results.get("decoding")
    return f" ({_ms(decoding['median'])} ms, of the candidate that scored best)" if decoding else ""


def networks_section(results: Data, rows: Sequence[Row]) -> str:
    """Every finalist and baseline with all its numbers."""
    networks = sorted(results["networks"], key=lambda network: waited_ms(network) or math.inf)
    engines = sorted({engine for network in networks for engine in network.get("exports") or {}})
    ncnn = any(network.get("ncnn_ms") is not None for network in networks)
    others = [network["other"]["procedure"] for network in networks if network.get("other")]
    head = [
        ("network", ""),
        ("AP", "short training"),
        *((metric, "") for metric in ("AP50", "AP75", "AR")),
        ("AP", _scored_with(results)),
        ("latency ms", "measured, 95 % interval"),
        ("latency ms", "predicted, error"),
        ("decoding ms", "and end to end"),
        *([("AP, end to end ms", others[0])] if others else []),
        *([("ncnn ms", "measured, 95 % interval")] if ncnn else []),
        ("params", "MACs"),
        *((engine, "file, parity") for engine in engines),
    ]
    by_name = {row.name: row for row in rows if row.role != "trial"}

    def cells(network: Data) -> list[str]:
        row, val, exports = by_name[network["name"]], network.get("val") or {}, network.get("exports") or {}
        star = " <span class=star title='on the front of the measured networks'>●</span>" if row.on_front else ""
        doubt = "" if row.reliable else "<small class=bad>unreliable</small>"
        error = "" if row.standard_error is None else f"± {row.standard_error:.3f}"
        return [
            f"<b class={_html(row.role)}>{_html(row.name)}</b>{star}<small>{_html(row.role)}</small>",
            _two(f"<b>{_ap_text(row.ap)}</b>", error),
            *(_ap_text(val.get(metric)) for metric in ("AP50", "AP75", "AR")),
            _ap_text(row.supernet_ap),
            _two(f"<b>{_ms(row.measured_ms)}</b>", f"{_ms(row.low_ms)} – {_ms(row.high_ms)}") + doubt,
            _two(_ms(row.predicted_ms), percent(network.get("prediction_error"), sign=True)),
            _two(_ms(row.decode_ms), _ms(row.end_to_end_ms)),
            *([_other(network.get("other"))] if others else []),
            *([_ncnn(network)] if ncnn else []),
            _two(short(row.params), short(row.macs)),
            *(
                _two(file_size(export.get("size_bytes")), number(export.get("parity"), ".1e"))
                for export in (exports.get(engine) or {} for engine in engines)
            ),
        ]

    table = _table([_two(_html(name), _html(how)) for name, how in head], map(cells, networks))
    return _section(
        "Finalists and baselines",
        f"{table}<p class=note><span class=star>●</span> on the front of the measured networks. AP ± is one standard "
        f"error of the sample. AP and all milliseconds are of {_html(results.get('procedure', 'one pass'))}, but for "
        "the column that says otherwise. Decoding is the median time to decode the maps; end to end adds the "
        "network's latency. Parity is the largest difference between the outputs of the exported model and "
        "those of torch.</p>",
    )


def _other(other: Data | None) -> str:
    """AP and end-to-end time of the procedure that the rest of the table is not of."""
    if not other:
        return "–"
    return _two(_ap_text((other.get("val") or {}).get("AP")), _ms(other.get("end_to_end_ms")))


def _ncnn(network: Data) -> str:
    """A cell: the time of all passes, its interval, and whether it is to be relied on."""
    ms, share = of_passes(network, network.get("ncnn_ms")), network.get("ncnn_uncertainty")
    interval = "" if ms is None or share is None else f"{_ms(ms * (1 - share))} – {_ms(ms * (1 + share))}"
    doubt = "" if network.get("ncnn_reliable", True) else "<small class=bad>unreliable</small>"
    return _two(_ms(ms), interval) + doubt


def composition_section(results: Data) -> str:
    """What every network is made of."""
    cards = "".join(map(_composition, results["networks"]))
    return _section(
        "What they are made of",
        f"<div class=grids>{cards}</div><p class=note>Blocks per stage (columns) and branch (rows); branch 1 has the "
        "highest resolution, each next one half of it and twice the channels.</p>",
    )


def _composition(network: Data) -> str:
    """Blocks per branch and stage as a heat table where the family has branches; the other choices as a list."""
    architecture = dict(network.get("architecture") or {})
    blocks, grid, total = architecture.get("blocks"), "", ""
    if isinstance(blocks, (list, tuple)) and blocks and all(map(_is_counts, blocks)):
        branches, width = max(map(len, blocks)), architecture.get("width")
        per_branch = {
            title: architecture.pop(key)
            for title, key in (("kind", "kinds"), ("exp.", "expansions"))
            if isinstance(architecture.get(key), (list, tuple)) and len(architecture[key]) == branches
        }
        if isinstance(width, int):
            per_branch["ch."] = [width * 2**branch for branch in range(branches)]
        grid, total = _grid(blocks, per_branch), f" · {sum(map(sum, blocks))} blocks"
        del architecture["blocks"]
    title = f"{_html(network['name'])}<small>{_html(network['role'])}{total}</small>"
    edits = _facts({name: _edit(value) for name, value in (network.get("edits") or {}).items()}, "fields")
    edited = f"<p class=note>Edited</p>{edits}" if network.get("edits") else ""
    return f"<div class=card><h3>{title}</h3>{grid}{_facts(architecture, 'fields')}{edited}</div>"


def _edit(value: object) -> str:
    """A rule's name, or the share of the channels that is left."""
    return f"{percent(value)} of the channels" if isinstance(value, float) else _show(value)


def _is_counts(stage: object) -> bool:
    return isinstance(stage, (list, tuple)) and len(stage) > 0 and all(isinstance(n, int) for n in stage)


def _grid(blocks: Sequence[Sequence[int]], per_branch: Mapping[str, Sequence[object]]) -> str:
    """A row per branch: its blocks in every stage, shaded by their number, then what is set per branch."""
    most = max(map(max, blocks)) or 1

    def line(branch: int) -> str:
        counts = [stage[branch] if branch < len(stage) else None for stage in blocks]
        heat = "".join(
            "<td></td>" if n is None else f"<td class=heat style='--heat:{n / most:.2f}'>{n}</td>" for n in counts
        )
        extra = "".join(f"<td class=extra>{_html(values[branch])}</td>" for values in per_branch.values())
        return f"<tr><th>branch {branch + 1}</th>{heat}{extra}</tr>"

    head = "".join(f"<th>{title}</th>" for title in ("stage", *range(1, len(blocks) + 1), *per_branch))
    lines = "".join(map(line, range(max(map(len, blocks)))))
    return f"<table class=blocks><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def prediction_section(results: Data) -> str:
    """How well the latency table predicted, and the raw times."""
    prediction = results.get("prediction") or {}
    errors = {"mean error": prediction.get("mean_error"), "worst error": prediction.get("worst_error")}
    cards = "".join(f"<div class=card><p><b class=big>{percent(e)}</b> {name}</p></div>" for name, e in errors.items())

    def cells(network: Data) -> list[str]:
        latency = network.get("latency") or {}
        reliable = {True: "yes", False: "<b class=bad>no</b>", None: "–"}[latency.get("reliable")]
        return [
            _html(network["name"]),
            _ms(of_passes(network, network["cost"].get("predicted_ms"))),
            _ms(of_passes(network, network.get("measured_ms"))),
            percent(network.get("prediction_error"), sign=True),
            percent(latency.get("uncertainty")),
            percent(latency.get("spread")),
            _count(latency.get("count")),
            reliable,
        ]

    head = (
        "network",
        "predicted ms",
        "measured ms",
        "error",
        "uncertainty",
        "spread",
        "calls",
        "reliable",
    )
    return _section(
        "Predicted against measured latency",
        "<div class=split><div class=chart id=chart-prediction style='--height:400px'></div>"
        f"<div><div class=cards>{cards}</div><p class=note>{_html(_prediction_method(results))} Dashed: equal; band: "
        "±5 %.</p><p class=note>The speed of a machine drifts: <i>measured</i> is the ratio to a reference that ran "
        "beside it, on the clock on which the latency table was filled, and so are all milliseconds of this page. The "
        "error is predicted over measured, less one. Uncertainty is half the 95 % confidence interval of the ratio, "
        f"spread the interquartile range of the groups of calls it is the median of, "
        f"both over it.</p></div></div>{_table(head, map(cells, results['networks']))}",
    )


def _prediction_method(results: Data) -> str:
    table = results.get("table") or {}
    scale = table.get("scale")
    how = f"Predicted: the sum over {_count(table.get('kernels'))} separately timed kernels"
    if not scale:
        return f"{how}."
    fit = f"fitted on {_count(scale['networks'])} whole networks (error of the fit {percent(scale.get('error'))})"
    return f"{how}, times {scale['factor']:.3f}, {fit}."


def search_section(results: Data, rows: Sequence[Row]) -> str:
    """Supernet, trials and whether its scores were worth something."""
    trials = [row for row in rows if row.role == "trial"]
    same, pairs = order_agreement(results["networks"])
    agreement = f"Of {pairs} pairs of trained networks, the {_score(results)} orders <b>{same}</b> as their AP does."
    choices, size = results["space"].get("choices") or {}, _big(results["space"].get("size"))
    lines = ([f"<code>{_html(path)}</code>", _html(values)] for path, values in choices.items())
    trained = not _starts_from(results)
    chart = "<div class=chart id=chart-loss style='--height:270px'></div>" if trained else ""
    return _section(
        "Supernet and search" if trained else "Search",
        f"{chart}{f'<p>{agreement}</p>' if pairs else ''}"
        f"<p>{len(trials)} candidates were scored; {sum(row.on_front for row in trials)} of them are on the front of "
        f"{_score(results)} against predicted latency.</p><details><summary>The space: {len(choices)} choices, {size} "
        f"candidates</summary>{_table(('choice', 'values'), lines)}</details>",
    )


def method_section(results: Data) -> str:
    """How every kind of number was provenance, and how far it can be trusted."""
    data, engine, networks = results["data"], results["engine"], results["networks"]
    errors = [n["ap_standard_error"] for n in networks if n.get("ap_standard_error") is not None]
    doubt = "Its standard error was not estimated: small differences between networks are no evidence."
    if errors:
        between = " to ".join(sorted({f"{error:.3f}" for error in (min(errors), max(errors))}))
        doubt = (
            f"Its standard error is {between}. That of a difference is taken as if the two networks had seen different "
            "samples, which is cautious: they saw the same one."
        )
    weights = ", ".join(sorted({str(network["provenance"]) for network in networks}))
    calls = sorted({n["latency"]["count"] for n in networks if (n.get("latency") or {}).get("count")})
    doubted = ", ".join(_unreliable(networks))
    timing = f"Unreliable, for too great an uncertainty: {doubted}." if doubted else "No timing was marked unreliable."
    methods = {
        "AP, validation": f"COCO average precision (OKS) on {_sample(results)}; it is an estimate from this sample. "
        f"Weights: {weights or '–'}. {doubt}",
        f"AP, {_scored_with(results)}": f"the same measure with {_weights(results)}, on "
        f"{_count(data.get('search'))} search pictures. Good for ordering candidates only.",
        "Latency, measured": f"{_engine(results)} on {_show(engine.get('device'))}: the whole exported network, one "
        f"picture, {' or '.join(map(str, calls)) or 'an unknown number of'} timed calls per network. {timing}",
        "Latency, predicted": _prediction_method(results).removeprefix("Predicted: "),
        "params, MACs": "counted on the network. A MAC is one multiply-add; the FLOPs of papers may be twice as many.",
    }
    return _section("How each number was obtained", _facts(methods, "method"))


def caveats_section(results: Data) -> str:
    """What this report does not know."""
    items = "".join(f"<li>{_html(caveat)}</li>" for caveat in results.get("caveats") or [])
    content = f"<ul>{items}</ul>" if items else "<p>Nothing was listed.</p>"
    return _section("What this report does not know", f"<div id=unknown>{content}</div>")


def reproduce_section(results: Data) -> str:
    """Command, recipe, environment and time."""
    environment = dict(results.get("environment") or {})
    packages = environment.pop("packages", None) or {}
    environment.pop("command", None)  # shown by itself
    facts = {**environment, "packages": ", ".join(f"{name} {version}" for name, version in packages.items()) or None}
    seconds = {phase: spent for phase, spent in (results.get("seconds") or {}).items() if spent is not None}
    total = sum(seconds.values())
    lines = (
        [_html(phase), duration(spent), f"<i class=bar style='width:{100 * spent / (total or 1):.1f}%'></i>"]
        for phase, spent in seconds.items()
    )
    command = shlex.join(map(str, results.get("command") or []))
    recipe = json.dumps(results.get("recipe"), indent=2, ensure_ascii=False)
    return _section(
        "How to repeat it",
        f"<pre><code>{_html(command)}</code></pre><p>Run folder: <code>{_html(results.get('folder'))}</code></p>"
        f"{_facts(facts, 'fields')}<details><summary>Recipe</summary><pre><code>{_html(recipe)}</code></pre></details>"
        f"<details open><summary>Time: {duration(total)}</summary><div class=time>"
        f"{_table(('phase', 'time', ''), lines)}</div></details>",
    )


# --- Small texts. What ends in _html or takes cells is HTML already; everything else is escaped here ------------------


def _section(title: str, content_html: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content_html}</section>"


def _facts(facts: Mapping[str, object], style: str) -> str:
    items = "".join(f"<div><dt>{_html(name)}</dt><dd>{_html(value)}</dd></div>" for name, value in facts.items())
    return f"<dl class={style}>{items}</dl>"


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A table that scrolls sideways on narrow screens, of cells that are HTML."""
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for cells in lines)
    return f"<div class=scroll><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"


def _two(first_html: str, second: str) -> str:
    """A cell of two lines, the second one small."""
    return f"{first_html}<small>{second}</small>"


def _html(value: object) -> str:
    return escape(_show(value))


def _show(value: object) -> str:
    """Any plain value as a reader would write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(f"[{_show(item)}]" if isinstance(item, (list, tuple)) else _show(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_show(item)}" for key, item in value.items())
    return str(value)


def _unreliable(networks: Iterable[Data]) -> list[str]:
    return [network["name"] for network in networks if (network.get("latency") or {}).get("reliable") is False]


def _starts_from(results: Data) -> str | None:
    """The network that was given to the search, if it trained no supernet."""
    return ((results.get("recipe") or {}).get("search") or {}).get("start")


def _scored_with(results: Data) -> str:
    """Which weights trials have."""
    return "given weights" if _starts_from(results) else "supernet"


def _score(results: Data) -> str:
    return f"{'search' if _starts_from(results) else 'supernet'} score"


def _weights(results: Data) -> str:
    """What the weights of trials are, in words."""
    weights = "the weights of the given network" if _starts_from(results) else "weights that all candidates share"
    edited = any(path.startswith("edits.") for path in results["space"].get("choices") or {})
    samples = ((results.get("recipe") or {}).get("search") or {}).get("tuning_samples")
    tuned = f", tuned on {_count(samples)} samples" if samples else ""
    return weights + (", carried over to what was edited" if edited else "") + tuned


def _family(results: Data) -> str:
    return _show(results["space"].get("family"))


def _engine(results: Data) -> str:
    engine = results["engine"]
    threads = engine.get("threads")
    return f"{_show(engine.get('name'))} {_show(engine.get('version'))}, {threads} thread{'' if threads == 1 else 's'}"


def _sample(results: Data) -> str:
    data = results["data"]
    people = "" if data.get("val_people") is None else f" with {_count(data['val_people'])} people"
    return f"a sample of {_count(data.get('val'))} {_show(data.get('kind'))} validation pictures{people}"


def _ap_text(ap: float | None) -> str:
    return number(ap, ".3f")


def _count(count: int | None) -> str:
    return number(count, ",")


def _ms(ms: float | None) -> str:
    return number(ms, ".2f" if ms is None or ms >= 1 else ".3f")


def _big(size: int | None) -> str:
    """1234 as '1,234', 3482851737 as '3.5×10⁹'."""
    if size is None or size < 10_000_000:
        return _count(size)
    mantissa, power = f"{size:.1e}".split("e+")
    return f"{mantissa}×10{power.lstrip('0').translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _json_for_script(data: object) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


_DRAW = """
const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const ink = dark.matches ? "#d5dae1" : "#2b3138", faint = dark.matches ? "#39424d" : "#dde2e8";
  const axis = {labelColor: ink, titleColor: ink, gridColor: faint, domainColor: faint, tickColor: faint};
  const config = {axis: axis, legend: {labelColor: ink}, text: {color: ink}, font: "system-ui, sans-serif"};
  for (const [name, spec] of Object.entries(charts))
    vegaEmbed("#chart-" + name, spec, {config: config, actions: false, renderer: "svg"});
}
dark.addEventListener("change", draw);
draw();
"""

_CSS = """
:root {
  --ground:#f4f6f8; --card:#fff; --ink:#1d232a; --soft:#5d6875; --line:#dfe4ea;
  --accent:47 127 216; --hand:#c2651a; --bad:#c4321c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground:#12161b; --card:#1a2027; --ink:#e4e8ed; --soft:#98a4b2; --line:#2c343e;
    --accent:90 160 240; --hand:#f09a52; --bad:#ff8a70;
  }
}
* { box-sizing:border-box; }
body {
  margin:0; background:var(--ground); color:var(--ink);
  font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;
}
main { max-width:1160px; margin:0 auto; padding:28px 20px 60px; }
h1 { font-size:28px; line-height:1.2; margin:2px 0 18px; letter-spacing:-.01em; }
h2 { font-size:19px; margin:0 0 14px; letter-spacing:-.005em; }
h3 { font-size:15px; margin:0 0 8px; }
h3 small { font-weight:400; color:var(--soft); margin-left:8px; }
.kicker { margin:0; color:var(--soft); font-size:13px; }
section {
  background:var(--card); border:1px solid var(--line); border-radius:10px; padding:20px 22px; margin-top:18px;
}
dl, dd, dt { margin:0; }
dt { color:var(--soft); font-size:12.5px; }
.facts { display:grid; grid-template-columns:repeat(auto-fit,minmax(215px,1fr)); gap:12px 26px; }
.cards { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,230px),1fr)); gap:14px; }
.grids { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,310px),1fr)); gap:14px; }
.card { border:1px solid var(--line); border-radius:8px; padding:13px 15px; min-width:0; }
.card p { margin:6px 0; }
.card p small { display:block; color:var(--soft); }
.big { font-size:22px; font-variant-numeric:tabular-nums; margin-right:4px; }
.note { color:var(--soft); font-size:13.5px; margin:12px 0 0; max-width:100ch; }
.note b { color:var(--ink); }
.chart { width:100%; min-height:var(--height); }
.chart img { max-width:100%; background:#fff; }
.split {
  display:grid; grid-template-columns:minmax(280px,1.2fr) minmax(0,1fr); gap:24px;
  align-items:start; margin-bottom:14px;
}
.scroll { overflow-x:auto; }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; font-size:13.5px; width:100%; }
th, td {
  padding:6px 7px; text-align:right; border-bottom:1px solid var(--line); white-space:nowrap; vertical-align:top;
}
thead th { color:var(--soft); font-weight:500; }
th:first-child, td:first-child { text-align:left; padding-left:0; }
tbody tr:last-child td { border-bottom:0; }
th small, td small { display:block; font-size:11.5px; font-weight:400; color:var(--soft); }
.baseline { color:var(--hand); }
.star { color:rgb(var(--accent)); }
.bad, td small.bad { color:var(--bad); }
.blocks { font-size:13px; }
.blocks th, .blocks td { text-align:center; padding:4px 5px; border:2px solid var(--card); }
.blocks th { font-weight:400; color:var(--soft); }
.blocks .heat { background:rgb(var(--accent) / calc(.08 + .5 * var(--heat))); border-radius:5px; }
.blocks .extra { color:var(--soft); font-size:12px; }
.fields { display:grid; grid-template-columns:repeat(auto-fit,minmax(130px,1fr)); gap:6px 16px; margin-top:10px; }
.fields dd { overflow-wrap:anywhere; font-size:13.5px; }
.method { display:grid; gap:12px; max-width:100ch; }
.method dt { font-size:13.5px; font-weight:600; color:var(--ink); }
ul { margin:0; padding-left:20px; }
pre {
  background:var(--ground); border-radius:7px; padding:11px 13px; margin:0 0 12px;
  overflow:auto; max-height:480px; font-size:13px;
}
code { font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace; font-size:.93em; overflow-wrap:anywhere; }
details { margin:12px 0 0; }
a { color:rgb(var(--accent)); }
summary { cursor:pointer; color:rgb(var(--accent)); margin-bottom:8px; }
details td:last-child { text-align:left; white-space:normal; width:55%; }
.time { max-width:680px; }
.bar { display:block; height:10px; margin-top:6px; border-radius:3px; background:rgb(var(--accent) / .6); }
#vg-tooltip-element { font-size:12.5px; }
@media (max-width:760px) {
  main { padding:18px 10px 40px; }
  section { padding:15px 13px; }
  h1 { font-size:23px; }
  .split { grid-template-columns:minmax(0,1fr); }
}
@media print { section { break-inside:avoid; } }
"""
