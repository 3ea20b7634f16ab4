"""Files: read with errors that name them, written so that a kill never leaves half of one.

A file is written beside its place, flushed, and renamed into it.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from compress.errors import CompressError, RunError

T = TypeVar("T")


def cache_folder() -> Path:
    """Where what was measured or scored once is kept between runs: $COMPRESS_CACHE, else $XDG_CACHE_HOME/compress, else
    ~/.cache/compress."""
    root = os.environ.get("COMPRESS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "compress")
    return Path(root).expanduser()


def check_writable(folder: Path) -> None:
    """Raises RunError unless files can be written to that folder, or it can be made. Leaves nothing there."""
    place = folder.absolute()
    nearest_there = next(one for one in (place, *place.parents) if one.exists() or one.is_symlink())
    try:
        with tempfile.TemporaryFile(dir=nearest_there):
            return
    except OSError as error:
        raise RunError(
            "the output folder must be writable", place=str(folder), value=error.strerror, remedy="choose another one"
        ) from None


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces the file as a whole or not at all. Raises OSError that names the file; nothing is left beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(
            error, OSError
        ):  # a write on a full disk names no file, and the one beside means nothing to a user
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def write_text(path: Path, content: str) -> None:
    """Replaces the file as a whole or not at all. UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, data: Any) -> None:
    """Replaces the file as a whole or not at all. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


CHECKPOINT_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".safetensors")
"""Of the files that weights are published in."""


@dataclass(frozen=True)
class NamedCheckpoint:
    """A public checkpoint as a user names it: FILE, or NETWORK@FILE. network: None where it is to be recognised."""

    name: str
    network: str | None
    file: Path


def named_checkpoint(name: str) -> NamedCheckpoint | None:
    """What the name stands for if it ends like a checkpoint's file; else None. The file need not be there."""
    if not name.endswith(CHECKPOINT_SUFFIXES):
        return None
    network, at, file = name.partition("@")
    if not at or Path(name).exists():  # a file's own name may have an @
        return NamedCheckpoint(name, None, Path(name))
    return NamedCheckpoint(name, network, Path(file))


_ASIDE = ".aside-"


@contextlib.contextmanager
def replaced_together(folder: Path) -> Iterator[Path]:
    """A new temporary folder; its files take their places in `folder`, all of them or none, when the block has ended.

    An error, Ctrl-C too, leaves `folder` as it was, or not there. What a kill left half-done is put right by the next
    call. Files are moved in the order of their names. Raises OSError that names the folder.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(f"{_ASIDE}*"):
            _put_right(left, folder)
        work = Path(tempfile.mkdtemp(dir=folder, prefix=_ASIDE))
        with _locked(work):
            new, old, moved = work / "new", work / "old", []
            try:
                new.mkdir()
                old.mkdir()
                yield new
                names = sorted(file.name for file in new.iterdir())
                for name in names:
                    if (folder / name).exists():
                        (folder / name).replace(old / name)
                for name in names:
                    (new / name).replace(folder / name)
                    moved.append(name)
                old.rename(work / "done")  # from here on the new files count
            except BaseException:
                for name in moved:
                    (folder / name).unlink(missing_ok=True)
                raise
            finally:
                _take_back(work, folder)
    except OSError as error:
        inside = not error.filename or str(error.filename).startswith(str(folder))
        raise OSError(error.errno, error.strerror, str(folder) if inside else error.filename) from None
    finally:
        for one in made:
            with contextlib.suppress(OSError):  # something lies there
                one.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Tells others that this folder is in use. Raises BlockingIOError if it is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _put_right(left: Path, folder: Path) -> None:
    """Undoes what a kill left; does nothing where another process is at work."""
    with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(left):
        _take_back(left, folder)


def _take_back(work: Path, folder: Path) -> None:
    """Files that were to be replaced, and were not, get back to their places; the temporary folder goes."""
    for file in (work / "old").glob("*"):
        file.replace(folder / file.name)
    shutil.rmtree(work)


def append_line(path: Path, data: Any) -> None:
    """Adds one JSON line and waits until it is on disk. A last line cut off by a kill is removed first.

    Raises OSError that names the file, which then is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _cut_to_whole_lines(path)
    length = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write((json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if path.exists():
            os.truncate(path, length)
        raise OSError(error.errno, error.strerror, str(path)) from None


def read_lines(path: Path, parse: Callable[[Any], T]) -> list[T]:
    """What `parse` makes of the JSON lines of a file; nothing if it does not exist. A last line cut off by a kill is
    removed.

    parse: raises ValueError, KeyError, TypeError or AttributeError for what it cannot use. Raises RunError naming the
    file and the first line that is no JSON or cannot be used.
    """
    records = []
    for number, line in enumerate(_cut_to_whole_lines(path).splitlines(), start=1):
        try:
            records.append(parse(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunError(
                f"the line cannot be used: {type(error).__name__}: {error}",
                place=f"{path}, line {number}",
                value=line.decode("utf-8", "replace"),
                remedy="delete this line: what it held is done again",
            ) from None
    return records


def _cut_to_whole_lines(path: Path) -> bytes:
    """The file's whole lines. A last line without an end is removed from the file."""
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        write_bytes(path, whole)
    return whole


class _UniqueKeys(yaml.SafeLoader):
    """yaml.SafeLoader takes the last of several equal keys; here they are an error that names both lines."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See SafeLoader. Keys that `<<` merges in may be repeated: that is how they are overridden."""
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key!r} is given twice, in line {seen[key]} and in line {line}"
                )
            if isinstance(key, Hashable):
                seen[key] = line
        return super().construct_mapping(node, deep)


def read_yaml(text: str) -> Any:
    """Plain data of YAML text. Raises yaml.YAMLError, also where a mapping has a key twice."""
    return yaml.load(text, _UniqueKeys)


def read_yaml_mapping(path: Path, error: type[CompressError], what: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `error` if it cannot be read, is no YAML, or holds something else.

    what: the file's part in the job, such as "a recipe".
    """
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(
            f"{what} must be a readable file", place=str(path), value=problem.strerror, remedy="check the path"
        ) from None
    except UnicodeDecodeError:
        raise error(f"{what} is text in UTF-8", place=str(path), value="other bytes", remedy="check the path") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        place = f"{path}, line {mark.line + 1}" if mark else str(path)
        reason = getattr(problem, "problem", None) or str(problem)
        raise error("not valid YAML", place=place, value=reason, remedy="correct the file") from None
    if not isinstance(data, dict):
        raise error(f"{what} is a mapping", place=str(path), value=data, remedy="see the shipped ones for examples")
    return data
