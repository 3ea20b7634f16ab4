"""Records that show themselves: a short table as text, and as HTML where a notebook asks for it.

A record's own fields are lines of the table; records among them are lines within lines, and a sequence of records of
one kind is a table with a column per field. What is long is counted, not listed. Nothing but the standard library.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from html import escape
from typing import Any

_LISTED = 8  # entries of a mapping or a sequence that are shown one by one
_PREFIXES = ((1e9, " G"), (1e6, " M"), (1e3, " k"))


class Shown:
    """A frozen record, mixed into a dataclass: `print(record)` gives a short table, a notebook an HTML one."""

    def _entries(self) -> Mapping[str, Any]:
        """Name → value of what is shown: the fields that hold something, unless a record says otherwise."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if value is not None and value != () and value != {}}

    def __str__(self) -> str:
        """One line per figure, indented below what it belongs to."""
        lines = [(depth, name, value) for depth, name, value in _lines(self, 0)]
        width = max((2 * depth + len(name) for depth, name, _ in lines), default=0)
        body = [f"{'  ' * depth + name:<{width}}  {value}".rstrip() for depth, name, value in lines]
        return "\n".join([type(self).__name__, *body])

    def _repr_html_(self) -> str:
        """The same as a table of HTML; names and values are escaped."""
        rows = "".join(
            f'<tr><th style="text-align:left;padding-left:{depth + 0.3:g}em">{escape(name)}</th>'
            f'<td style="text-align:left">{escape(value)}</td></tr>'
            for depth, name, value in _lines(self, 0)
        )
        return f"<table><caption>{escape(type(self).__name__)}</caption>{rows}</table>"


def _lines(record: Shown, depth: int) -> Iterator[tuple[int, str, str]]:
    """Depth, name and value of every line."""
    for name, value in record._entries().items():
        yield from _entry(name, value, depth)


def _entry(name: str, value: Any, depth: int) -> Iterator[tuple[int, str, str]]:
    title = name.replace("_", " ")
    if isinstance(value, Shown):
        yield depth, title, ""
        yield from _lines(value, depth + 1)
    elif isinstance(value, Mapping) and 0 < len(value) <= _LISTED:
        yield depth, title, ""
        for key, one in value.items():
            yield from _entry(str(key), one, depth + 1)
    elif isinstance(value, Sequence) and 0 < len(value) <= _LISTED and any(isinstance(one, Shown) for one in value):
        yield depth, title, ""
        for number, one in enumerate(value, start=1):
            yield depth + 1, str(getattr(one, "name", number)), ""
            yield from (line for line in _lines(one, depth + 2) if line[1] != "name" or line[0] > depth + 2)
    else:
        yield depth, title, short(value, name)


def short(value: Any, name: str = "") -> str:
    """A value in a few words. name: of its field; counts and sizes get a prefix."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return _number(value, " B" if name.endswith("_bytes") else "")
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return f"{len(value)} entries" if value else "none"
    if isinstance(value, Sequence):
        if len(value) > _LISTED:
            return f"{len(value)} entries"
        if name.endswith("input_hw"):
            return "x".join(map(str, value))
        return ", ".join(short(one) for one in value) or "none"
    if is_dataclass(value) and type(value).__str__ is object.__str__:
        return ", ".join(f"{field.name} {short(getattr(value, field.name))}" for field in fields(value))
    return str(value)


def _number(value: int | float, unit: str) -> str:
    for size, prefix in _PREFIXES:
        if abs(value) >= size and (isinstance(value, int) and value >= 10_000):
            return f"{value / size:.4g}{prefix}{unit.strip()}"
    return (f"{value:.4g}" if isinstance(value, float) else str(value)) + unit
