"""Frozen records as plain data and back: the one place where JSON becomes typed."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from compress.errors import CompressError, RunError
from compress.files import read_lines

T = TypeVar("T")


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def to_plain(record: object, kind: Any = None) -> Any:
    """What JSON can hold. kind: the record's type where that is not its class, as of a list of records."""
    return _adapter(kind or type(record)).dump_python(record, mode="json")


def from_plain(
    kind: type[T],
    data: Any,
    place: str,
    error_kind: type[CompressError] = RunError,
    remedy: str = "it is damaged or of another version: run the job again",
) -> T:
    """The record that to_plain gave. Raises `error_kind` naming the first field that does not fit; place: of the
    data."""
    try:
        found: T = _adapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise error_kind(
            _first_mistake(error),
            place=place,
            value=None if first["type"] == "value_error" else str(first["input"])[:80],
            remedy=remedy,
        ) from None
    return found


def read_records(path: Path, kind: type[T]) -> list[T]:
    """The records in a file of JSON lines, see compress.files.read_lines. Raises RunError naming the first line that
    holds none."""

    def parse(line: Any) -> T:
        try:
            found: T = _adapter(kind).validate_python(line)
        except ValidationError as error:
            raise ValueError(_first_mistake(error)) from None
        return found

    return read_lines(path, parse)


def _first_mistake(error: ValidationError) -> str:
    """`cost.macs: field required`."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    rule = first["msg"].removeprefix("Value error, ")
    return f"{field}: {rule[:1].lower()}{rule[1:]}".removeprefix(": ")
