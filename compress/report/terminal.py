"""What a person at a terminal sees: progress with the time left on stderr, results as tables on stdout.

Loaded by every command, so it imports nothing but rich.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress.nas.pareto import front

_ACCURACY, _LATENCY = ("role", "AP val", "AP supernet"), ("measured ms", "predicted ms", "error")
_SIZE = ("decoding ms", "params", "MACs", "files")  # the columns of a search's closing tables
_WIDE = 120  # columns of a terminal from which accuracy and latency stand side by side
_NARROW = 100  # columns that every table fits
_FEW, _MANY = 12, 24  # rows of a short table, and of one that is cut to its costliest
_SITES = 6  # of a concern that are listed
_PATH = 44  # longest path of a module that is shown whole
_MARKS = {"exact": "=", "reconstruction": "~", "reference only": "ref"}
_PLAIN_WIDTH = 160  # of tables that go to a file or a pipe


# --- Results ---------------------------------------------------------------------------------------------------------


def print_search(results: Mapping[str, Any], console: Console | None = None) -> None:
    """The closing tables of a search: the measured networks, fastest first, and where everything lies."""
    console = console or stdout_console()
    networks = sorted(results["networks"], key=lambda n: waited_ms(n) or math.inf)
    best = best_of(networks)
    if results.get("no_finalist"):
        console.print(Text(printable(f"NO FINALIST: {results['no_finalist']}"), style="bold red"))
    engine, data = results["engine"], results["data"]

    threads = engine.get("threads")
    console.print(
        Text(
            printable(
                f"{results['space'].get('family')} · {engine.get('name')} {engine.get('version')}, "
                f"{threads} thread{'' if threads == 1 else 's'}, {engine.get('device')} · AP and milliseconds of "
                f"{results.get('procedure', 'one pass')} · AP on {data.get('val')} {data.get('kind')} pictures"
            ),
            style="bold",
        )
    )
    for columns in ([*_ACCURACY, *_LATENCY], _SIZE) if console.width >= _WIDE else (_ACCURACY, _LATENCY, _SIZE):
        table = plain_table("network", *columns)
        for network in networks:
            name, cells = ("* " if network["name"] in best else "  ") + network["name"], _search_cells(network)
            _add(table, name, *(cells[column] for column in columns))
        console.print(table)
        console.print()
    _print_procedures(networks, console)
    for entry in results.get("comparison") or []:
        said = "; ".join(" ".join(filter(None, text)) for text in (gain_text(entry), speed_text(entry)))
        console.print(Text(printable(f"Against {entry['baseline']}: {said}")))
    console.print(
        Text(
            "* on the front of the measured networks by end-to-end time. AP val: after short training, ± one standard "
            "error. All ms are on one clock. measured: ± half the 95 % interval; predicted: from the latency table; "
            "decoding: from maps to people, measured; in all: ms of network and decoding; two passes: of the picture "
            "and its mirror.",
            style="dim",
        )
    )
    places = {
        "run folder": results["folder"],
        "report": f"{results['folder']}/report.html",
        "chart": f"{results['folder']}/pareto.png",
        "numbers": f"{results['folder']}/pareto.csv, {results['folder']}/results.json",
        "networks": f"{results['folder']}/finalists/",
    }
    print_mapping("Where everything lies", places, console)


def _print_procedures(networks: Sequence[Mapping[str, Any]], console: Console) -> None:
    """AP and end-to-end time of one pass and of two, side by side."""
    if not networks or not all(network.get("other") for network in networks):
        return
    kinds = sorted((networks[0]["procedure"], networks[0]["other"]["procedure"]))
    table = plain_table("network", *(column for kind in kinds for column in (f"{kind}: AP", "in all")))
    for network in networks:
        by_kind = {one["procedure"]: one for one in (network, network["other"])}
        cells = [
            cell
            for kind in kinds
            for cell in (
                number((by_kind[kind]["val"] or {}).get("AP"), ".3f"),
                number(by_kind[kind]["end_to_end_ms"], ".2f"),
            )
        ]
        _add(table, "  " + network["name"], *cells)
    console.print(table)
    console.print()


def _search_cells(network: Mapping[str, Any]) -> dict[str, str]:
    """What the closing tables say of one network, by column."""
    latency, cost, error = network.get("latency") or {}, network["cost"], network.get("ap_standard_error")
    unreliable = "" if latency.get("reliable", True) else " unreliable"
    files = [f"{engine} {file_size(e.get('size_bytes'))}" for engine, e in (network.get("exports") or {}).items()]
    return {
        "role": network["role"],
        "AP val": number(ap_of(network), ".3f") + ("" if error is None else f" ± {error:.3f}"),
        "AP supernet": number(network.get("supernet_ap"), ".3f"),
        "measured ms": number(of_passes(network, network.get("measured_ms")), ".2f")
        + half_interval(network)
        + unreliable,
        "decoding ms": number((network.get("decode_ms") or {}).get("median"), ".2f"),
        "predicted ms": number(of_passes(network, cost.get("predicted_ms")), ".2f"),
        "error": percent(network.get("prediction_error"), sign=True),
        "params": short(cost.get("params")),
        "MACs": short(cost.get("macs")),
        "files": ", ".join(files) or "–",
    }


def of_passes(network: Mapping[str, Any], milliseconds: float | None) -> float | None:
    """The time of as many passes as the network's AP is of."""
    return None if milliseconds is None else milliseconds * network.get("passes", 1)


def print_networks(rows: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """One line per row of `compress networks`: ours, then ours/the paper's as the paper counts. Fits 100 columns."""
    console = console or stdout_console()
    table = plain_table("network", "input", "params", "MACs", "params M", "FLOPs G", "as", "AP", "")
    table.collapse_padding = True
    family = None
    for row in rows:
        if row["family"] != family:
            family = row["family"]
            table.add_section()
            table.add_row(Text(printable(family), style="bold"))
        _add(
            table,
            str(row["name"]),
            "–" if row["input_hw"] is None else "x".join(str(side) for side in row["input_hw"]),
            short(row["params"]),
            short(row["macs"]),
            _beside(row["params_m"], row["published_params_m"]),
            _beside(row["flops_g"], row["published_flops_g"]),
            str(row["convention"]),
            number(row["published_ap"], "g"),
            _MARKS.get(row["mark"], row["mark"]),
        )
    console.print(table)
    lines = [
        "params, MACs: ours, each parameter and multiply-add once. params M, FLOPs G: ours/the paper's, counted as the "
        "paper does (see compress/measure/counting.py). AP: the paper's, COCO val2017, %.",
        "Last column: = our counts equal the paper's; ~ reconstruction; ref only listed, not built.",
    ]
    notes = list(dict.fromkeys(f"{row['name']}: {row['note']}" for row in rows if row["note"]))
    if len(notes) > _FEW:
        lines += ["Notes on a network: compress networks --set 'names=[NAME]', or --json."]
        notes = []
    for line in [*lines, *notes]:
        console.print(Text(printable(line), style="dim"), width=min(console.width, _NARROW))


def print_profile(result: Mapping[str, Any], console: Console | None = None) -> None:
    """The tables of `compress profile`: stages, resolutions, costliest layers, concerns, ptflops. 100 columns wide."""
    console = console or stdout_console()
    size = "x".join(str(side) for side in result["input_hw"])
    whole = f"{short(result['params'])} parameters · {short(result['macs'])} MACs"
    memory = f"{file_size(result['activation_bytes'])} of activations"
    console.print(Text(printable(f"{result['network']} at {size} · {whole} · {memory}"), style="bold"))
    layers = sorted(result["layers"], key=lambda layer: -layer["macs"])
    parts = [
        ("stage", "stage", result["stages"]),
        ("branch", "resolution", result["branches"]),
        (f"layer (the costliest {min(_FEW, len(layers))} of {len(layers)})", "path", layers[:_FEW]),
    ]
    for title, key, rows in parts:
        table = plain_table(title, "params", "MACs", "share", "activations")
        table.collapse_padding = True
        shown = sorted(rows, key=lambda row: -row["macs"])[:_MANY] if len(rows) > _MANY else rows
        for row in shown:
            cells = short(row["params"]), short(row["macs"]), percent(row["share"]), file_size(row["activation_bytes"])
            _add(table, _path(row[key]), *cells)
        if len(rows) > len(shown):
            _add(table, f"… and {len(rows) - len(shown)} more, see --json", "", "", "", "")
        console.print(table)
        console.print()
    if result["balance"]:
        console.print(Text("MACs of the stages' blocks by resolution (BHRNet paper, Table I)", style="bold"))
        shares = "   ".join(f"{resolution}: {percent(share)}" for resolution, share in result["balance"].items())
        console.print(Text(f"  {shares}\n"))
    _print_concerns(result, console)
    _print_ptflops(result, console)
    if "decoding" in result:
        _print_decoding(result["decoding"], console)
    for row in result["uncounted"]:
        operators = ", ".join(row["operators"])
        console.print(Text(printable(f"not counted: {operators} in {row['path'] or 'the network'} ({row['kind']})")))


def _print_decoding(decoding: Mapping[str, Any], console: Console) -> None:
    title = f"decoding ({decoding['maps']} maps)"
    table = plain_table(title, "ms", "quartiles", "people", "passes")
    for row in decoding["rows"]:
        quartiles = f"{number(row['q1'], '.2f')} – {number(row['q3'], '.2f')}"
        people, passes = number(row["people"], ".1f"), "2" if row["mirrored"] else "1"
        _add(table, row["choice"], number(row["median"], ".2f"), quartiles, people, passes)
    console.print(table)
    note = "From maps to people, per picture, one thread, measured. Passes: of the network, whose time comes on top."
    console.print(Text(note, style="dim"))
    if not any(row["people"] for row in decoding["rows"]):
        console.print(Text("Nobody was found: with people to read, decoding takes longer."))


def _print_concerns(result: Mapping[str, Any], console: Console) -> None:
    console.print(Text("What mobile engines handle badly", style="bold"))
    for row in result["concerns"]:
        names = ", ".join(map(_path, row["layers"][:2])) + (", …" if row["count"] > 2 else "")
        layers = f"{row['count']} layer{'' if row['count'] == 1 else 's'}"
        time = f", {row['ms']:.2f} ms or {percent(row['time_share'])} of the time" if "ms" in row else f" ({names})"
        console.print(Text(printable(f"  {row['operator']}: {layers}, {percent(row['share'])} of the MACs{time}")))
        console.print(Text(printable(f"    {row['reason']}"), style="dim"))
        if "sites" in row:
            _print_sites(row["sites"], console)
    if not result["concerns"]:
        console.print("  nothing found")
    if "timing" in result:
        _print_timing(result["timing"], console)
    console.print()


def _print_sites(sites: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The costliest, and what replaces each."""
    for site in sites[:_SITES]:
        cost = f"{number(site['ms'], '.2f'):>8} ms {percent(site['time_share']):>7}"
        rules = f": {', '.join(site['rules'])}" if site["rules"] else ""
        console.print(Text(printable(f"    {cost}  {_path(site['path'])}{rules}")), width=min(console.width, _NARROW))
    if len(sites) > _SITES:
        console.print(f"    … and {len(sites) - _SITES} more, see --json")


def _print_timing(timing: Mapping[str, Any], console: Console) -> None:
    threads = f"{timing['threads']} thread{'' if timing['threads'] == 1 else 's'}"
    rest = ", ".join(f"{operator} {percent(share)}" for operator, share in list(timing["rest"].items())[:3])
    lines = [
        f"{timing['ms']:.2f} ms a pass (quartiles {timing['q1_ms']:.2f} – {timing['q3_ms']:.2f}"
        f"{'' if timing['reliable'] else ', unreliable'}), measured on {timing['engine']} {timing['version']}, "
        f"{threads}, {timing['device']}.",
        "A layer's time has in it what the engine fuses into it; – is what it fuses into another layer.",
        f"No layer's: {percent(timing['unattributed'])} of the time{f' ({rest})' if rest else ''}.",
        "After the colon: what `compress rewrite --rule` has against it.",
    ]
    for line in lines:
        console.print(Text(printable(line), style="dim"), width=min(console.width, _NARROW))


def _print_ptflops(result: Mapping[str, Any], console: Console) -> None:
    theirs = result["ptflops"]
    if theirs["macs"] is None:
        console.print(Text(printable(f"ptflops cannot count this network: {theirs['failure']}")))
        return
    share = percent((theirs["macs"] - result["macs"]) / max(1, result["macs"]), sign=True)
    console.print(Text(f"ptflops counts {short(theirs['macs'])}, {share} against ours", style="bold"))
    if theirs["failure"]:
        console.print(Text(printable(f"modules only, as it fails on a function: {theirs['failure']}"), style="dim"))
    table = plain_table("operator", "ptflops", "ours", "note")
    table.collapse_padding = True
    for row in theirs["differences"]:
        _add(table, row["operator"], short(row["ptflops"]), short(row["ours"]), row["cause"])
    console.print(table)


def _path(path: str) -> str:
    """A module's path, its middle left out if it is long."""
    return path or "(the network)" if len(path) <= _PATH else f"{path[: _PATH // 2 - 1]}…{path[-_PATH // 2 :]}"


def _beside(ours: float | None, paper: float | None) -> str:
    """'23.32/23.3': ours and the paper's, a dash for none; three decimals below 1."""
    decimals = ".3f" if ours is not None and ours < 1 else ".2f"
    return f"{number(ours, decimals)}/{number(paper, '.3g' if paper is not None and paper < 1 else '.4g')}"


def print_mapping(title: str, data: Mapping[str, Any], console: Console | None = None) -> None:
    """A title and one line per entry; entries of entries are indented."""
    console = console or stdout_console()
    console.print(Text(printable(title), style="bold"))
    for line in _mapping_lines(data, 1):
        console.print(line, soft_wrap=True)


def print_error(message: object) -> None:
    """One line on stderr."""
    print(f"error: {printable(str(message))}", file=sys.stderr)


def print_note(message: str) -> None:
    """One line on stderr that is no mistake."""
    print(printable(message), file=sys.stderr)


def stdout_console() -> Console:
    """Where results go: as wide as the terminal; wide enough for every column into a file or a pipe."""
    return Console() if sys.stdout.isatty() else Console(width=_PLAIN_WIDTH, force_terminal=False, color_system=None)


def _mapping_lines(data: Mapping[str, Any], depth: int) -> Iterator[Text]:
    widest = max((len(str(key)) for key in data), default=0)
    for key, value in data.items():
        word = str(key).replace("_", " ") if str(key).isidentifier() else str(key)  # a path keeps its own
        name = "  " * depth + printable(word).ljust(widest)
        if isinstance(value, Mapping):
            yield Text(name.rstrip(), style="dim")
            yield from _mapping_lines(value, depth + 1)
        else:
            yield Text.assemble((name + "  ", "dim"), value_text(value))


def plain_table(*columns: str) -> Table:
    """Words to the left, numbers to the right, no frame."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number_, column in enumerate(columns):
        left = number_ == 0 or column in ("role", "files", "name", "note")
        table.add_column(Text(printable(column)), justify="left" if left else "right", no_wrap=column != "files")
    return table


def _add(table: Table, *cells: str) -> None:
    table.add_row(*(Text(printable(cell)) for cell in cells))


# --- Small texts -----------------------------------------------------------------------------------------------------


def ap_of(network: Mapping[str, Any]) -> float | None:
    """Validation AP, None if there is none."""
    ap: float | None = (network.get("val") or {}).get("AP")
    return ap


def half_interval(network: Mapping[str, Any]) -> str:
    """Half the 95 % confidence interval of the measured time in ms, as ' ± 0.04'; nothing if not known."""
    share, measured = (network.get("latency") or {}).get("uncertainty"), network.get("measured_ms")
    passes = network.get("passes", 1)
    return "" if share is None or measured is None else f" ± {passes * measured * share:.2f}"


def waited_ms(network: Mapping[str, Any]) -> float | None:
    """What a person waits for: end-to-end time, or the network's alone where decoding was not timed."""
    ms: float | None = network.get("end_to_end_ms") or network.get("measured_ms")
    return ms


def best_of(networks: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of the measured networks that no other one beats in both AP and the time a person waits."""
    timed = [n for n in networks if waited_ms(n) and ap_of(n) is not None]
    return {timed[i]["name"] for i in front([(waited_ms(n) or 0.0, ap_of(n) or 0.0) for n in timed])}


def gain_text(entry: Mapping[str, Any]) -> tuple[str, str]:
    """A headline, empty where nothing may be claimed, and the rest: AP at no more end-to-end time than a baseline's."""
    found = entry.get("at_its_latency")
    if not found:
        return "", "No finalist is as fast as this one."
    aps = f"{found['network']} {found['ap']:.3f}, {entry['baseline']} {found['baseline_ap']:.3f}"
    verdict = found.get("verdict")
    gain = found["ap"] - found["baseline_ap"]
    if verdict == "worthless":
        return "", f"At no more time nothing is gained: {aps}, which is near a constant answer."
    when = "at no more time" if found.get("faster") else "in as much time, within the uncertainty"
    if verdict == "beyond chance" and found.get("steady") and gain > 0:
        return f"{gain:+.3f} AP", f"{when}, beyond two standard errors: {aps}."
    why = "within two standard errors, may be chance" if verdict != "beyond chance" else "beyond two standard errors"
    doubt = "" if found.get("steady", True) else "; the timing is unsteady"
    return "", f"AP {when}: {aps} ({gain:+.3f}, {why}{doubt})."


def speed_text(entry: Mapping[str, Any]) -> tuple[str, str]:
    """A headline, empty where nothing may be claimed, and the rest: the time for no less AP than a baseline's."""
    found = entry.get("at_its_accuracy")
    if not found:
        return "", "No finalist reaches the AP of this one."
    name, verdict = found["network"], found.get("verdict")
    if verdict == "faster":
        interval = f"({found['low']:.2f}–{found['high']:.2f})"
        return f"{found['speedup']:.2f}× as fast", f"end to end {interval} at no less AP: {name}."
    if verdict == "slower":
        return "", f"No less AP, but slower: {name}, {found['speedup']:.2f}× as fast."
    if verdict == "no difference":
        return "", f"No less AP in as much time, within the uncertainty: {name}."
    if verdict == "worthless":
        return "", f"No speed-up is told: the AP of {name} is near that of a constant answer."
    return "", f"No speed-up is told: the timing of {name} or of {entry['baseline']} is unsteady."


def duration(seconds: float) -> str:
    """Seconds as '12 s', '3 min 05 s' or '2 h 07 min'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def value_text(value: object) -> str:
    """Any plain value; None is a dash, floats have four digits."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(value_text, value))
    return str(value)


def number(value: float | None, form: str) -> str:
    """A formatted number, or a dash."""
    return "–" if value is None else format(value, form)


def percent(ratio: float | None, sign: bool = False) -> str:
    """A ratio as percent, or a dash."""
    return "–" if ratio is None else f"{100 * ratio:{'+' if sign else ''}.1f} %"


def short(count: float | None) -> str:
    """1234567 as '1.23 M', three digits; or a dash."""
    if count is None:
        return "–"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            value = count / limit
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"
    return str(count)


def file_size(size_bytes: float | None) -> str:
    """Bytes as '4.91 MB', or a dash."""
    if size_bytes is None:
        return "–"
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"


def printable(text: str) -> str:
    """The text on one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text)
