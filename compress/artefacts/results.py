"""What jobs return: frozen records, written and read as JSON here and nowhere else.

Every job returns one of the classes at the end of this file. Terminal, pages, `pareto.csv` and the Python API read
these records; none of them reads JSON. `results.json` holds one record with its job's name and the schema's version.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from compress.artefacts.records import from_plain, to_plain
from compress.errors import RunError
from compress.files import write_json
from compress.measure.cost import Cost
from compress.measure.latency import Latency
from compress.pose.scoring import Score

T = TypeVar("T")

SCHEMA = 1
"""Version of results.json; a file of another version is refused by name."""

Role = Literal["given", "pruned", "rewritten", "trained", "finalist", "baseline"]


@dataclass(frozen=True)
class Export:
    """A network in an engine's format. files: beside the artefact, the one that the engine loads first.

    parity: largest relative error of its outputs against torch's.
    """

    engine: str
    files: tuple[str, ...]
    size_bytes: int
    parity: float


@dataclass(frozen=True)
class Evaluation:
    """Score and time of one procedure: the picture alone, or its mirror image too.

    passes: of the network, 1 or 2. decoding: from maps to people. end_to_end: passes of the network, then decoding.
    None: not scored, as without trained weights, or not timed.
    """

    procedure: str
    passes: int
    score: Score | None
    decoding: Latency | None = None
    end_to_end: Latency | None = None


@dataclass(frozen=True)
class NetworkResult:
    """One network of a job: what it is, costs, scores, and takes.

    architecture: as plain data, see compress.networks. edits: what was done to it since, as text. latency: engine →
    one pass of the network. evaluations: the recipe's procedure first, then the other one. refused: engine → why it
    has no export.
    """

    name: str
    role: Role
    architecture: Mapping[str, Any]
    edits: tuple[str, ...]
    cost: Cost
    latency: Mapping[str, Latency]
    evaluations: tuple[Evaluation, ...]
    exports: tuple[Export, ...]
    refused: Mapping[str, str]


@dataclass(frozen=True)
class RunRecord:
    """What any number of a run depends on. recipe: resolved, as plain data. environment: machine and versions."""

    folder: str
    command: tuple[str, ...]
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    seconds: Mapping[str, float]


def write_results(path: Path, job: str, result: object) -> None:
    """Writes results.json."""
    write_json(path, {"schema": SCHEMA, "job": job, "result": to_plain(result)})


def read_results(path: Path, job: str, kind: type[T]) -> T:
    """Reads results.json. Raises RunError for a file that is missing, damaged, another job's or another version's."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError("no results", place=str(path), value=error.strerror, remedy="finish the run first") from None
    except ValueError as error:
        raise RunError("not JSON", place=str(path), value=str(error), remedy="run the job again") from None
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != SCHEMA:
        raise RunError(f"results must be of schema {SCHEMA}", place=str(path), value=schema, remedy="run the job again")
    if data.get("job") != job:
        raise RunError(f"results of {job} are asked for", place=str(path), value=data.get("job"), remedy="give its run")
    return from_plain(kind, data.get("result"), str(path))
