"""Writing files so that a kill never leaves half of one: written beside, flushed, then renamed into place."""

import json
import os
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces the file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def write_text(path: Path, content: str) -> None:
    """Replaces the file as a whole or not at all. UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Replaces the file as a whole or not at all. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: Path, data: Any) -> None:
    """Adds one JSON line and waits until it is on disk. A last line cut off by a kill is removed first."""
    read_lines(path)
    with path.open("ab") as file:
        file.write((json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[Any]:
    """The JSON lines of a file; none if it does not exist. A last line cut off by a kill is removed from the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        write_bytes(path, whole)
    return [json.loads(line) for line in whole.splitlines()]
