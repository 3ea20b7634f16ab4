"""What every command prints with: errors and notes on stderr, tables on stdout, numbers as text.

Loaded by every command, so it imports nothing but rich.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

BUSY = 0.5  # load of other programs from which on they disturb timings
NARROW = 100  # columns that every table fits
_PLAIN_WIDTH = 160  # of tables that go to a file or a pipe


# --- Results ---------------------------------------------------------------------------------------------------------


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


def busy(other_load: float | None) -> str:
    """`beside other programs (load 3.2)`; empty where less than one wanted a core, or nobody knows."""
    return f"beside other programs (load {other_load:.1f})" if other_load is not None and other_load >= 1 else ""


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
