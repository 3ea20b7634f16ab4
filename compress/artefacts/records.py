"""Frozen records as plain data and back: the one place where JSON becomes typed."""

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from compress.errors import CompressError, RunError

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
        field = ".".join(str(part) for part in first["loc"])
        rule = first["msg"].removeprefix("Value error, ")
        raise error_kind(
            f"{field}: {rule[:1].lower()}{rule[1:]}".removeprefix(": "),
            place=place,
            value=None if first["type"] == "value_error" else str(first["input"])[:80],
            remedy=remedy,
        ) from None
    return found
