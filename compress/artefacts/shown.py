"""Records that show themselves: a short table as text, and as HTML where a notebook asks for it.

A record's figures are lines, those of a record inside it are indented below its name, and several records of one kind
are a table with a line each. What is empty or long is left out or counted; the record itself has all of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from html import escape
from typing import Any

_LISTED = 8  # entries of a mapping or a sequence that are shown one by one
_PREFIXES = ((1e9, " G"), (1e6, " M"), (1e3, " k"))
_UNSHOWN = ("run", "architecture", "ptflops")


@dataclass(frozen=True)
class _Line:
    """One figure. depth: of its indentation."""

    depth: int
    name: str
    value: str


@dataclass(frozen=True)
class _Table:
    """One record a row; the first row has the columns' names."""

    depth: int
    rows: tuple[tuple[str, ...], ...]


class Shown:
    """A frozen record, mixed into a dataclass: `print(record)` gives a short table, a notebook an HTML one."""

    def _entries(self) -> Mapping[str, Any]:
        """Name → value of what is shown of the record; its fields, but for what any run has."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if name not in _UNSHOWN}

    def _columns(self) -> Mapping[str, Any]:
        """Name → value in a table of such records; the entries that fit a cell."""
        return {name: value for name, value in self._entries().items() if not _holds_more(value)}

    def __str__(self) -> str:
        """One line per figure, indented below what it belongs to."""
        parts = list(_parts(self, 0))
        width = max((2 * one.depth + len(one.name) for one in parts if isinstance(one, _Line) and one.value), default=0)
        lines = [type(self).__name__]
        for one in parts:
            if isinstance(one, _Line):
                lines.append(f"{'  ' * one.depth + one.name:<{width}}  {one.value}".rstrip())
                continue
            widths = [max(map(len, column)) for column in zip(*one.rows, strict=True)]
            for row in one.rows:
                cells = (f"{cell:<{size}}" for cell, size in zip(row, widths, strict=True))
                lines.append(f"{'  ' * one.depth}{'  '.join(cells)}".rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same as a table of HTML; names and values are escaped."""
        return f"<table><caption>{escape(type(self).__name__)}</caption>{''.join(map(_html, _parts(self, 0)))}</table>"


def _html(part: _Line | _Table) -> str:
    """Rows of a table of two columns."""
    indent = f"text-align:left;padding-left:{part.depth + 0.3:g}em"
    if isinstance(part, _Line):
        value = f'<td style="text-align:left">{escape(part.value)}</td>'
        return f'<tr><th style="{indent}">{escape(part.name)}</th>{value}</tr>'
    rows = "".join(
        "<tr>" + "".join(f'<{tag} style="text-align:left">{escape(cell)}</{tag}>' for cell in row) + "</tr>"
        for number, row in enumerate(part.rows)
        for tag in ("td" if number else "th",)
    )
    return f'<tr><td colspan="2" style="{indent}"><table>{rows}</table></td></tr>'


def _parts(record: Shown, depth: int) -> Iterator[_Line | _Table]:
    """Lines and tables of a record."""
    for name, value in record._entries().items():
        yield from _part(name, value, depth)


def _part(name: str, value: Any, depth: int) -> Iterator[_Line | _Table]:
    title = name.replace("_", " ")
    if value is None or (isinstance(value, Mapping | Sequence) and not value):
        return
    if isinstance(value, Shown):
        yield _Line(depth, title, "")
        yield from _parts(value, depth + 1)
    elif isinstance(value, Mapping) and len(value) <= _LISTED:
        yield _Line(depth, title, "")
        for key, one in value.items():
            yield from _part(str(key), one, depth + 1)
    elif isinstance(value, Sequence) and isinstance(value[0], Shown):
        yield _Line(depth, title, "")
        yield _Table(depth + 1, _rows(value[:_LISTED]))
        if len(value) > _LISTED:
            yield _Line(depth + 1, f"and {len(value) - _LISTED} more", "")
    else:
        yield _Line(depth, title, short(value, name))


def _rows(records: Sequence[Shown]) -> tuple[tuple[str, ...], ...]:
    """Column names, and a row per record."""
    found = [one._columns() for one in records]
    names = dict.fromkeys(name for one in found for name in one)
    full = [name for name in names if any(one.get(name) not in (None, (), "") for one in found)]
    cells = (tuple(short(one.get(name), name) for name in full) for one in found)
    return tuple(name.replace("_", " ") for name in full), *cells


def _holds_more(value: Any) -> bool:
    """Whether a value has parts that a cell cannot show."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return any(is_dataclass(one) for one in value)
    return isinstance(value, Mapping | Shown)


def short(value: Any, name: str = "") -> str:
    """A value in a few words. name: of its field; large counts and sizes get a prefix."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(value, " B" if name.endswith("_bytes") else "")
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        return _sequence(value, name)
    if is_dataclass(value) and type(value).__str__ is object.__str__:
        return ", ".join(f"{field.name} {short(getattr(value, field.name))}" for field in fields(value))
    return str(value)


def _sequence(value: Mapping[Any, Any] | Sequence[Any], name: str) -> str:
    if not value:
        return "none"
    if len(value) > _LISTED or isinstance(value, Mapping) or is_dataclass(value[0]):
        return f"{len(value)}"
    if name.endswith("input_hw"):
        return "x".join(map(str, value))
    return ", ".join(map(short, value))


def _number(value: int | float, unit: str) -> str:
    for size, prefix in _PREFIXES:
        if isinstance(value, int) and abs(value) >= max(size, 10_000):
            return f"{value / size:.4g}{prefix}{unit.strip()}"
    return (f"{value:.4g}" if isinstance(value, float) else str(value)) + unit
