"""What every command prints with: errors and notes on stderr, tables on stdout, numbers as text.

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
NARROW = 100  # columns that every table fits
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
            add_row(table, name, *(cells[column] for column in columns))
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
        add_row(table, "  " + network["name"], *cells)
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


def add_row(table: Table, *cells: str) -> None:
    """A row of text without control characters."""
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
