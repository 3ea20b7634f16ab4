"""The run folder: a job's recipe, where it ran, and every step it has finished so far.

A run belongs to one resolved recipe. Finished steps leave a file that is written as a whole or not at all, so a job
does each step through `run.once` and goes on where it was killed.
"""

import fcntl
import hashlib
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import yaml

from compress import __version__
from compress.artefacts.records import from_plain, to_plain
from compress.errors import RunError, Stopped
from compress.files import write_json, write_text
from compress.recipe import Settings, fingerprint, to_data

T = TypeVar("T")

RECIPE, ENVIRONMENT = "recipe.yaml", "environment.json"
_NETWORK = "# network "

_PACKAGES = ("torch", "optuna", "onnx", "onnxruntime", "onnxsim", "ncnn", "pnnx", "pycocotools", "numpy")


@dataclass(frozen=True)
class Run:
    """An open run folder."""

    folder: Path

    def path(self, *parts: str) -> Path:
        """A place inside the folder."""
        return self.folder.joinpath(*parts)

    def once(self, step: str, work: Callable[[], T], kind: type[T] | None = None) -> T:
        """The step's result: read from `steps/STEP.json` if it is finished, else worked out and written there.

        kind: the result's type, a frozen record or a container of such; without it the result must be plain data. What
        comes back is what JSON makes of it, on the first run too.
        """
        path = self.path("steps", f"{step}.json")
        if not path.exists():
            made = work()
            result = json.loads(json.dumps(to_plain(made, kind) if kind else made, allow_nan=False))
            write_json(path, {"sha256": _digest(result), "result": result})
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["sha256"] == _digest(kept["result"]):
                return from_plain(kind, kept["result"], str(path)) if kind else kept["result"]
            found = "another result than was written"
        except (ValueError, TypeError, KeyError) as error:  # no JSON, no UTF-8, or something else
            found = f"{type(error).__name__}: {error}"
        raise RunError(
            "a step's result is what the run has written",
            place=str(path),
            value=found,
            remedy="delete the file: the step is done again",
        )


def _digest(result: Any) -> str:
    return hashlib.sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


@contextmanager
def open_run(
    folder: Path, recipe: Settings, network: str = "", digest: str = "", beside: Callable[[], None] | None = None
) -> Iterator[Run]:
    """Makes the folder or goes on in it, and keeps other processes out while it is open.

    network: name of what the recipe is applied to, if the recipe does not say.
    digest: of the network that the run starts from, if it does; another network may come to lie where it lay.
    beside: what is done while another process has the folder, which is waited for afterwards; None: that is an error.

    Ctrl-C leaves it as Stopped.

    Raises RunError if it cannot be written, belongs to another recipe or network, holds something else, or is in use.
    """
    existing = folder / RECIPE
    first_line = f"# fingerprint {fingerprint(recipe)} {network}".rstrip()
    resumed = existing.is_file()
    if not resumed and folder.exists() and not _untouched(folder):
        raise RunError(
            "a run folder is new, empty, or one that a run left",
            place=str(folder),
            remedy="choose another --run folder",
        )
    if resumed:
        _check_made_from(existing, first_line, digest)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise RunError(
            "the run folder must be writable",
            place=str(folder),
            value=error.strerror,
            remedy="choose another --run folder",
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if beside is None:
                raise RunError(
                    "a run folder is used by one process at a time",
                    place=str(folder),
                    remedy="wait for the other run or choose another --run folder",
                ) from None
            beside()
            fcntl.flock(lock, fcntl.LOCK_EX)
            if resumed := existing.is_file():
                _check_made_from(existing, first_line, digest)
        if not resumed:
            write_json(folder / ENVIRONMENT, environment())
            text = yaml.safe_dump(to_data(recipe), sort_keys=False, default_flow_style=None, width=120)
            network = f"{_NETWORK}{digest}\n" if digest else ""
            write_text(existing, f"{first_line}\n{network}{text}")
        try:
            yield Run(folder)
        except KeyboardInterrupt:
            raise Stopped(folder) from None


def in_use(folder: Path) -> bool:
    """Whether a process has the run folder open."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _untouched(folder: Path) -> bool:
    """Empty, or holding no more than a run leaves that was killed before it had written its recipe."""
    return folder.is_dir() and all(path.name == ENVIRONMENT or path.name.startswith(".") for path in folder.iterdir())


def environment() -> dict[str, Any]:
    """What a number in a report depends on besides the recipe."""
    program = Path(sys.argv[0]).name
    return {
        "compress": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "command": ["compress" if program == "__main__.py" else program, *map(_without_password, sys.argv[1:])],
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }


def _without_password(argument: str) -> str:
    """Of a database's URL."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", argument)


def cpu_name() -> str:
    """As the kernel tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _check_made_from(path: Path, first_line: str, digest: str) -> None:
    recipe, network = [*path.read_text(encoding="utf-8", errors="replace").splitlines(), "", ""][:2]
    if recipe != first_line:
        raise RunError(
            "a run folder belongs to one recipe, and this one is another's",
            place=str(path),
            remedy="choose another --run folder, or run the recipe that lies in it",
        )
    if digest and network != _NETWORK + digest:
        raise RunError(
            "a run continues with the very network it began with, and this is another one",
            place=str(path),
            value=f"digest {digest}, not {network.removeprefix(_NETWORK)}",
            remedy="put the first one back, or choose another --run folder",
        )
