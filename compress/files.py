"""Files: read with errors that name them, written so that a kill never leaves half of one.

A file is written beside its place, flushed, and renamed into it.
"""

import json
import os
from pathlib import Path
from typing import Any

import yaml

from compress.errors import CompressError


def cache_folder() -> Path:
    """Where what was measured or scored once is kept between runs: $COMPRESS_CACHE, else $XDG_CACHE_HOME/compress, else
    ~/.cache/compress."""
    root = os.environ.get("COMPRESS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "compress")
    return Path(root).expanduser()


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
    path.parent.mkdir(parents=True, exist_ok=True)
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


def read_yaml_mapping(path: Path, error: type[CompressError], what: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `error` if it cannot be read, is no YAML, or holds something else.

    what: the file's part in the job, such as "a recipe".
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(
            f"{what} must be a readable file", place=str(path), value=problem.strerror, remedy="check the path"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise error("not valid YAML", place=str(path), value=str(problem), remedy="correct the file") from None
    if not isinstance(data, dict):
        raise error(f"{what} is a mapping", place=str(path), value=data, remedy="see the shipped ones for examples")
    return data
