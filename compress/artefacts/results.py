"""What jobs return: frozen records, written and read as JSON here and nowhere else.

Every job returns one of the classes at the end of this file. Terminal, pages, `pareto.csv` and the Python API read
these records; none of them reads JSON. `results.json` holds one record with its job's name and the schema's version.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from compress.artefacts.records import from_plain, to_plain
from compress.errors import RunError
from compress.files import write_json
from compress.measure.comparison import SpeedUp
from compress.measure.latency import Latency
from compress.pose.scoring import Score
from compress.pruning.sensitivity import Point
from compress.rewriting.fitting import Fitted

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

    folder: of its artefact and exports, inside the run folder. architecture: as plain data, see compress.networks.
    edits: what was done to it since, as text. params: trainable parameters. macs: multiply-adds of one picture.
    uncounted: operators that compute and have no counting rule; their multiply-adds are not in macs. evaluations: the
    recipe's procedure first, then the other one. refused: engine → why it has no export. latency: engine → one pass
    of the network. predicted: the same from a latency table, where the job has one.
    """

    name: str
    role: Role
    folder: str
    architecture: Mapping[str, Any]
    edits: tuple[str, ...]
    params: int
    macs: int
    uncounted: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    exports: tuple[Export, ...]
    refused: Mapping[str, str]
    latency: Mapping[str, Latency] = field(default_factory=dict)
    predicted: Latency | None = None

    @property
    def score(self) -> Score | None:
        """In the recipe's procedure; None without trained weights."""
        return self.evaluations[0].score if self.evaluations else None

    def export(self, engine: str) -> Export:
        """To that engine. Raises KeyError where there is none."""
        return {one.engine: one for one in self.exports}[engine]


@dataclass(frozen=True)
class RunRecord:
    """What any number of a run depends on. recipe: resolved, as plain data. environment: machine and versions.

    engines: that times are of → version and device. seconds: phase → how long it took, where that was noted.
    """

    folder: str
    command: tuple[str, ...]
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    engines: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


# --- compress prune --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """What was requested of a changed network, and what it reached.

    of: of `multiply-adds` and `time` the figures are shares of the given network's, of `ms` milliseconds of one pass.
    uncertainty: of `reached`, relative. met: None where the timing is too unsteady to tell.
    """

    of: Literal["multiply-adds", "time", "ms"]
    requested: float
    reached: float
    uncertainty: float
    met: bool | None


@dataclass(frozen=True)
class GoalSearch:
    """How one step found what meets its goal. Shares are of the given network's cost.

    goal: the share that should stay. share: that stays, counted or measured. predicted_share: by the model of the
    layers' costs; None where that is in another unit. tries: choices whose true cost was found.
    """

    of: Literal["multiply-adds", "time"]
    goal: float
    share: float
    tries: int
    predicted_share: float | None = None


@dataclass(frozen=True)
class GroupShare:
    """Of one pruning group. channels: before this step. removed: the share of them that this step removes."""

    channels: int
    removed: float


@dataclass(frozen=True)
class PruningChoice:
    """What one step removes. groups: by name. untouched: group → why it keeps all its channels.

    search: None where a ratio was requested, which needs no search.
    """

    groups: Mapping[str, GroupShare]
    untouched: Mapping[str, str]
    search: GoalSearch | None


@dataclass(frozen=True)
class SparsityChoice:
    """Which share of each weight tensor is set to zero. untouched: layer → why it stays dense. search: see above."""

    ratios: Mapping[str, float]
    untouched: Mapping[str, str]
    search: GoalSearch | None


@dataclass(frozen=True)
class PruneResult:
    """Of `compress prune`. speed_up: engine → the pruned network over the given one, of one interleaved run."""

    network: str
    input_hw: tuple[int, int]
    given: NetworkResult
    pruned: NetworkResult
    speed_up: Mapping[str, SpeedUp]
    goal: Goal | None
    choices: tuple[PruningChoice | SparsityChoice, ...]
    run: RunRecord

    @property
    def failed_exports(self) -> list[str]:
        """One line per engine that does not take the pruned network."""
        return [f"{engine}: {why}" for engine, why in self.pruned.refused.items()]


@dataclass(frozen=True)
class SensitivityResult:
    """Of `compress prune --analyse`. points: scored, the dense one too. blocks: functional blocks among their targets.

    channels: pruning group → how many it has. untouched: group → why it keeps all of them.
    """

    network: str
    metric: str
    points: tuple[Point, ...]
    blocks: tuple[str, ...]
    channels: Mapping[str, int]
    untouched: Mapping[str, str]
    run: RunRecord


# --- compress rewrite ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RewriteChoice:
    """One replacement that was considered: a rule, and the modules that it would replace together.

    at: paths of the modules. places: at which they stand, for one module may be used at several. macs: what it adds.
    predicted_saved_ms: by the latency table. saved_ms: measured with this replacement alone, on the table's clock;
    gain: the same as a share of the given network's time, and no more than predicted where the timing was unsteady
    twice; reliable: it was not. errors: of the replaced modules' outputs, by path. loss: of the score, with this
    replacement alone, before fine-tuning. failure: why it cannot be used. None: not known, as it was not worth finding.
    """

    rule: str
    name: str
    at: tuple[str, ...]
    places: int
    macs: int | None = None
    predicted_saved_ms: float | None = None
    saved_ms: float | None = None
    reliable: bool | None = None
    gain: float | None = None
    errors: Mapping[str, Fitted] = field(default_factory=dict)
    loss: float | None = None
    failure: str | None = None


@dataclass(frozen=True)
class Decision:
    """Which choices are made, by their numbers. refused: number → why.

    joint_loss: of the score with all of them, before fine-tuning; None without trained weights, or where none is made.
    score_error: the standard error of the given network's score, on judged_on pictures; None without trained weights.
    """

    taken: tuple[int, ...]
    refused: Mapping[int, str]
    joint_loss: float | None
    score_error: float | None
    judged_on: int


@dataclass(frozen=True)
class DepthChange:
    """Layers of both networks. edited: the given network's edits were not kept, only its multiply-adds."""

    given: int
    rewritten: int
    edited: bool


@dataclass(frozen=True)
class RewriteResult:
    """Of `compress rewrite`. given, rewritten: None where no replacement pays, for then nothing is done.

    engine: that choices are priced on. rules: requested; none: all. unread: path → why functions called there are no
    sites. tied: path → the module that shares its parameters, for which it is no site. depth: instead of choices.
    """

    network: str
    input_hw: tuple[int, int]
    engine: str
    rules: tuple[str, ...]
    given: NetworkResult | None
    rewritten: NetworkResult | None
    speed_up: Mapping[str, SpeedUp]
    choices: tuple[RewriteChoice, ...]
    decision: Decision | None
    unread: Mapping[str, str]
    tied: Mapping[str, str]
    depth: DepthChange | None
    run: RunRecord

    @property
    def failed_exports(self) -> list[str]:
        """One line per engine that does not take the rewritten network."""
        return [f"{engine}: {why}" for engine, why in self.rewritten.refused.items()] if self.rewritten else []


@dataclass(frozen=True)
class RuleInfo:
    """Of `compress rewrite --list`. exact: the outputs stay the same, up to rounding."""

    rule: str
    does: str
    source: str
    exact: bool


# --- The file --------------------------------------------------------------------------------------------------------


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
