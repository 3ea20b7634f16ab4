"""Frozen records as plain data and back: the one place where JSON becomes typed."""

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from compress.errors import RunError

T = TypeVar("T")


_ADAPTERS: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def to_plain(record: object, kind: Any = None) -> Any:
    """What JSON can hold. kind: the record's type where that is not its class, as of a list of records."""
    return _adapter(kind or type(record)).dump_python(record, mode="json")


def from_plain(kind: type[T], data: Any, place: str) -> T:
    """The record that to_plain gave. Raises RunError naming the first field that does not fit; place: of the data."""
    try:
        found: T = _adapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RunError(
            f"{field or 'the record'}: {first['msg'].lower()}",
            place=place,
            value=str(first["input"])[:80],
            remedy="it is damaged or of another version: run the job again",
        ) from None
    return found
