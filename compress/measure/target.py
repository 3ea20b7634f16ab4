"""What milliseconds are of: an engine with a number of threads and a precision, on a device.

A target is written `ENGINE[:KEY=VALUE,...][@TABLE]`:

    onnxruntime                       one thread, float32, on this machine
    ncnn:threads=4,precision=float16
    onnxruntime:provider=cuda
    ncnn@tables/pi5.json              the device that this latency table was measured on
"""

import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from compress.errors import nearest
from compress.extensions import name_of

Precision = Literal["float32", "float16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
MOST_THREADS = 1024


@dataclass(frozen=True)
class Target:
    """engine: its name, see compress.engines. provider: of the engine's implementations the one that runs the network,
    such as onnxruntime's `cuda`; None takes the engine's usual one.

    table: file of the latency table of another device, which times are then predicted from; None is this machine.
    threads, precision: None, of another device, are those of its table; on this machine 1 and float32.
    """

    engine: str
    threads: int | None = None
    precision: Precision | None = None
    provider: str | None = None
    table: Path | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be."""
        if self.precision not in (None, *PRECISIONS):
            raise ValueError(f"no such precision, {self.precision!r} ({nearest(str(self.precision), PRECISIONS)})")
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise ValueError(f"threads must be 1 to {MOST_THREADS}, not {self.threads}")
        if self.table is None:
            object.__setattr__(self, "threads", self.threads or 1)
            object.__setattr__(self, "precision", self.precision or "float32")
            cores = len(os.sched_getaffinity(0))
            if self.threads is not None and self.threads > cores:
                raise ValueError(
                    f"this machine gives {cores} cores: times of {self.threads} threads would be of their waiting"
                )

    @property
    def foreign(self) -> bool:
        """Whether times on it can only be predicted, not measured."""
        return self.table is not None

    @property
    def local_threads(self) -> int:
        """Of a target on this machine."""
        assert not self.foreign
        assert self.threads is not None
        return self.threads

    @property
    def name(self) -> str:
        """How tables and options name it: what differs from one thread in float32 on this machine, and the table by its
        file's stem."""
        return self._written(self.table.stem if self.table else None)

    @property
    def file_name(self) -> str:
        """`name` as a part of a file's name."""
        return re.sub(r"[^A-Za-z0-9.]+", "-", self.name)

    def __str__(self) -> str:
        """As `parse` reads it."""
        return self._written(str(self.table) if self.table else None)

    def _written(self, device: str | None) -> str:
        usual = Target(self.engine, table=self.table)
        given = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name in ("threads", "precision", "provider")
            and getattr(self, field.name) != getattr(usual, field.name)
        }
        options = ",".join(f"{key}={value}" for key, value in given.items())
        return self.engine + (f":{options}" if options else "") + (f"@{device}" if device else "")


def parse(given: Any) -> Target:
    """The target of text as in the module's docstring, of a mapping with the record's keys, or of an engine's object.

    Raises ValueError.
    """
    if isinstance(given, Target):
        return given
    if isinstance(given, str):
        given = dict(_options(given))
    if not isinstance(given, dict):
        if not callable(getattr(given, "export", None)):
            raise ValueError(f"a target is ENGINE[:KEY=VALUE,...][@TABLE], not {given!r}")
        given = {"engine": given}
    keys = [field.name for field in fields(Target)]
    for key in given:
        if key not in keys:
            raise ValueError(f"a target has no {key!r} ({nearest(str(key), keys)})")
    if not given.get("engine"):
        raise ValueError("a target names its engine first, such as ncnn:threads=4")
    values = {**given, "engine": name_of(given["engine"])}
    if values.get("threads") is not None:
        values["threads"] = _whole(values["threads"])
    if values.get("table") is not None:
        values["table"] = Path(values["table"])
    return Target(**values)


def _options(text: str) -> dict[str, str]:
    """Of `ENGINE[:KEY=VALUE,...][@TABLE]`.

    An engine may be `package.module:attribute`, for options have an equals sign, or end in `@1`, which is no file.
    """
    rest, at, table = text.partition("@")
    if table.isdecimal():
        rest, at, table = text, "", ""
    engine, _, options = rest.rpartition(":") if "=" in rest.rpartition(":")[2] else (rest, "", "")
    found = {"engine": engine}
    if (last := rest.rpartition(":")[2]) in ("threads", "precision", "provider"):
        raise ValueError(f"an option of a target is KEY=VALUE, not {last!r}")
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not equals or not value:
            raise ValueError(f"an option of a target is KEY=VALUE, not {option!r}")
        found[key] = value
    if at and not table:
        raise ValueError("after @ stands the file of a latency table")
    return {**found, "table": table} if table else found


def _whole(value: Any) -> int:
    try:
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"threads must be a whole number, not {value!r}") from None
