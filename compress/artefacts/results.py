"""What jobs return: frozen records, written and read as JSON here and nowhere else.

Every job returns one of the classes of this file. Terminal, reports, `networks.csv` and the Python API read these
records; none of them reads JSON. `results.json` and `--json` hold one record with its job's name and the schema's
version.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from compress.artefacts.records import from_plain, to_plain
from compress.artefacts.shown import Shown
from compress.data.normalisation import IMAGENET, Normalisation
from compress.engines import Availability
from compress.engines.export import Export
from compress.errors import RunError
from compress.files import write_json
from compress.measure.comparison import SpeedUp
from compress.measure.cost import Cost
from compress.measure.cross_check import CrossCheck
from compress.measure.latency import Latency
from compress.measure.latency_table import Identity, KernelGroup, Prediction, Scale
from compress.measure.objective import CostObjective
from compress.networks.checkpoints import Found
from compress.pose.codec import Codec
from compress.pose.scoring import Score
from compress.pruning.sensitivity import Point
from compress.rewriting.fitting import Fitted

T = TypeVar("T")

SCHEMA = 3
"""Version of results.json; a file of another version is refused by name."""

Role = Literal["given", "pruned", "rewritten", "trained", "finalist", "baseline", "compared"]


@dataclass(frozen=True)
class Evaluation(Shown):
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
class NetworkResult(Shown):
    """One network of a job: what it is, costs, scores, and takes.

    folder: of its artefact and exports, inside the run folder. architecture: as plain data, see compress.networks.
    edits: what was done to it since, as text. params: trainable parameters. macs: multiply-adds of one picture.
    uncounted: operators that compute and have no counting rule; their multiply-adds are not in macs. evaluations: the
    recipe's procedure first, then the other one. refused: engine → why it has no export. latency: target → one pass of
    the network, measured; of another device predicted, until what was measured there is unpacked. predicted: the same
    by the target's latency table, where the job has one. times: target → the parts of the predicted time. pictures:
    files in `folder` that show what the network finds in validation pictures, the same ones for all networks of a job.
    input_hw: None in results of older versions, where all networks of a job had its recipe's.
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
    predicted: Mapping[str, Latency] = field(default_factory=dict)
    times: Mapping[str, tuple[KernelGroup, ...]] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    input_hw: tuple[int, int] | None = None

    @property
    def score(self) -> Score | None:
        """In the recipe's procedure; None without trained weights."""
        return self.evaluations[0].score if self.evaluations else None

    def export(self, engine: str) -> Export:
        """To that engine. Raises KeyError where there is none."""
        return {one.engine: one for one in self.exports}[engine]

    def _columns(self) -> Mapping[str, Any]:
        """Of a table of networks: what it costs, scores and takes."""
        return {"name": self.name, "params": self.params, "macs": self.macs, "score": self.score, **self.latency}


@dataclass(frozen=True)
class TargetRecord:
    """What milliseconds are of. name: in tables, see compress.measure.target. version: of the engine. device: CPU,
    cores and system. table: of another device, from which its times are predicted; None is the machine of the run.
    """

    name: str
    engine: str
    version: str
    device: str
    threads: int
    precision: str
    table: str | None = None

    def __str__(self) -> str:
        """`onnxruntime 1.30.0, 1 thread`."""
        return str(Identity(self.engine, self.version, self.device, self.threads, self.precision))


@dataclass(frozen=True)
class RunRecord(Shown):
    """What any number of a run depends on. recipe: resolved, as plain data. environment: machine and versions.

    targets: that times are of, the one that decides first. seconds: phase → how long it took, where that was noted.
    """

    folder: str
    command: tuple[str, ...]
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    targets: tuple[TargetRecord, ...] = ()
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

    def __str__(self) -> str:
        """`0.588 of the multiply-adds, 0.6 requested: met`."""
        met = {True: "met", False: "missed", None: "too unsteady to tell"}[self.met]
        of = " ms" if self.of == "ms" else f" of the {self.of}"
        return f"{self.reached:.3g}{of}, {self.requested:.3g} requested: {met}"


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
class OtherPruner:
    """What another pruner makes of the same network for the same goal. pruner: its name and version.

    network: None where it failed; failure: why, in one line. speed_up: target → its network over the given one.
    """

    pruner: str
    network: NetworkResult | None
    speed_up: Mapping[str, SpeedUp] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True)
class PruneResult(Shown):
    """Of `compress prune`. speed_up: target → the pruned network over the given one, of one interleaved run.

    torch_pruning: timed in the same run; None where no comparison was requested.
    """

    network: str
    input_hw: tuple[int, int]
    given: NetworkResult
    pruned: NetworkResult
    speed_up: Mapping[str, SpeedUp]
    goal: Goal | None
    choices: tuple[PruningChoice | SparsityChoice, ...]
    run: RunRecord
    torch_pruning: OtherPruner | None = None

    @property
    def failed_exports(self) -> list[str]:
        """One line per engine that does not take the pruned network."""
        return [f"{engine}: {why}" for engine, why in self.pruned.refused.items()]

    def _entries(self) -> Mapping[str, Any]:
        """All networks in one table, another pruner's too, or why it gave none."""
        other = self.torch_pruning
        return {
            "network": self.network,
            "input_hw": self.input_hw,
            "goal": self.goal,
            "networks": (self.given, self.pruned, *((other.network,) if other and other.network else ())),
            "speed_up": self.speed_up,
            "refused": self.pruned.refused,
            **({other.pruner: other.failure} if other and other.failure else {}),
        }


@dataclass(frozen=True)
class SensitivityResult(Shown):
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
class RewriteChoice(Shown):
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

    def _columns(self) -> Mapping[str, Any]:
        """Of a table of replacements."""
        return {"rule": self.rule, "at": self.name, "saved_ms": self.saved_ms, "loss": self.loss}


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
class RewriteResult(Shown):
    """Of `compress rewrite`. given, rewritten: None where no replacement pays, for then nothing is done.

    target: that choices are priced on. rules: requested; none: all. unread: path → why functions called there are no
    sites. tied: path → the module that shares its parameters, for which it is no site. depth: instead of choices.
    """

    network: str
    input_hw: tuple[int, int]
    target: str
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

    def _entries(self) -> Mapping[str, Any]:
        """Both networks in one table, and the replacements that were made."""
        taken = self.decision.taken if self.decision else ()
        return {
            "network": self.network,
            "input_hw": self.input_hw,
            "considered": len(self.choices),
            "replaced": tuple(self.choices[number] for number in taken),
            "networks": tuple(one for one in (self.given, self.rewritten) if one),
            "speed_up": self.speed_up,
            "refused": self.rewritten.refused if self.rewritten else {},
        }


@dataclass(frozen=True)
class RuleInfo:
    """Of `compress rewrite --list`. exact: the outputs stay the same, up to rounding."""

    rule: str
    does: str
    source: str
    exact: bool


# --- compress train, evaluate, export, predict -----------------------------------------------------------------------


@dataclass(frozen=True)
class TrainResult(Shown):
    """`compress train`. trained: the network, scored on the validation set, without exports; the run folder holds it.

    loss: the mean of every epoch. samples_per_s, data_share: of the last epoch, the latter the part of its time that
    was spent waiting for data.
    """

    network: str
    input_hw: tuple[int, int]
    keypoints: str
    trained: NetworkResult
    loss: tuple[float, ...]
    samples_per_s: float
    data_share: float
    run: RunRecord

    @property
    def score(self) -> Score | None:
        """In the recipe's procedure."""
        return self.trained.score


@dataclass(frozen=True)
class EvaluateResult(Shown):
    """`compress evaluate`. procedure: see Evaluation. notes: what is worth knowing of the data."""

    artefact: str
    input_hw: tuple[int, int]
    procedure: str
    score: Score
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ImportResult(Shown):
    """`compress import`. found: in the file. folder: of the artefact. The others: what its metadata says."""

    found: Found
    folder: str
    approach: str
    keypoints: str
    input_hw: tuple[int, int]
    normalisation: Normalisation
    codec: Codec
    parameters: int


@dataclass(frozen=True)
class ExportResult(Shown):
    """`compress export`. folder: of the exports' files. refused: engine → why it has no export. inputs: how those of
    the exports must be normalised.
    """

    network: str
    folder: str
    input_hw: tuple[int, int]
    exports: tuple[Export, ...]
    refused: Mapping[str, str]
    inputs: Normalisation = IMAGENET

    @property
    def failed_exports(self) -> list[str]:
        """One line per engine that does not take the network."""
        return [f"{engine}: {why}" for engine, why in self.refused.items()]


@dataclass(frozen=True)
class Person:
    """One person found, as an entry of a COCO results file.

    keypoints: x, y, score of each joint in turn, in pixels of the picture. bbox: x, y, width, height of what is around
    the joints.
    """

    image_id: int
    category_id: int
    keypoints: tuple[float, ...]
    score: float
    bbox: tuple[float, float, float, float]


@dataclass(frozen=True)
class DrawnPicture(Shown):
    """file: the given picture. drawn: the name of the one with skeletons, in the result's folder."""

    file: str
    drawn: str
    people: tuple[Person, ...]


@dataclass(frozen=True)
class PredictResult(Shown):
    """`compress predict`. pictures, people: how many. drawn: the pictures with skeletons, none in the format `coco`.

    results: the name of the COCO results file in the folder; None in the format `drawn`. skipped: pictures that were
    left out, and why. notes: what is worth knowing of the data and of the network.
    """

    artefact: str
    folder: str
    pictures: int
    people: int
    drawn: tuple[DrawnPicture, ...]
    results: str | None
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


# --- compress networks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NetworkRow:
    """One published figure of a network beside ours.

    mark: exact, reconstruction or reference only. params, macs: ours, each parameter and multiply-add once. params_m,
    flops_g: ours in millions and billions, counted as the paper does (convention, params_convention, see
    compress.measure.counting). published_*: the paper's; published_ap in percent. None: not known, or not built here.
    """

    name: str
    approach: str
    input_hw: tuple[int, int] | None
    keypoints: int
    params: int | None
    macs: int | None
    paper: str
    convention: str
    params_convention: str
    params_m: float | None
    flops_g: float | None
    published_params_m: float | None
    published_flops_g: float | None
    published_ap: float | None
    mark: str
    note: str
    uncounted: tuple[str, ...]


# --- compress profile ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part(Shown):
    """Layers of a network that belong together: a stage, or a resolution such as `1/4`.

    share: of the network's multiply-adds, 0..1. activation_bytes: of the layers' outputs, in float32.
    """

    name: str
    params: int
    macs: int
    share: float
    activation_bytes: int


@dataclass(frozen=True)
class LayerRow:
    """One layer, as compress.measure.counting.Layer, and where it belongs. output: its shape. share: see Part."""

    path: str
    kind: str
    stage: str
    resolution: str
    output: tuple[int, ...]
    params: int
    macs: int
    share: float
    activation_bytes: int


@dataclass(frozen=True)
class SiteTime:
    """A module that an engine handles badly, and what it takes. rules: of `compress rewrite`, that replace it.

    ms, time_share: None where the engine has fused it into another layer.
    """

    path: str
    ms: float | None
    time_share: float | None
    rules: tuple[str, ...]


@dataclass(frozen=True)
class ConcernTime:
    """What all sites of one concern take together. time_share: of one pass, 0..1. sites: the costliest first."""

    ms: float
    time_share: float
    sites: tuple[SiteTime, ...]


@dataclass(frozen=True)
class Concern(Shown):
    """A kind of operator that mobile engines handle badly. layers: paths. share: see Part. time: with an engine."""

    operator: str
    reason: str
    layers: tuple[str, ...]
    share: float
    activation_bytes: int
    time: ConcernTime | None = None


@dataclass(frozen=True)
class PassTime(Shown):
    """One pass of the network on an engine. unattributed: share of the time that is no layer's.

    rest: operator → its share of the time, of what is no layer's, the largest first.
    """

    engine: Identity
    latency: Latency
    unattributed: float
    rest: Mapping[str, float]


@dataclass(frozen=True)
class DecodingRow(Shown):
    """One way to decode a network's maps. passes: of the network, that it needs. people: found per picture, the mean.

    latency: per picture, from maps to people.
    """

    choice: str
    passes: int
    latency: Latency
    people: float


@dataclass(frozen=True)
class DecodingTable(Shown):
    """maps: `the network's`, or `perfect`, those of training targets. joints: the set of keypoints."""

    maps: str
    joints: str
    rows: tuple[DecodingRow, ...]


@dataclass(frozen=True)
class Uncounted:
    """A layer with operators that have no counting rule."""

    path: str
    kind: str
    operators: tuple[str, ...]


@dataclass(frozen=True)
class ProfileResult(Shown):
    """`compress profile`: one forward pass of one picture.

    balance: resolution → share of the multiply-adds of the stages' blocks (BHRNet paper, Table I). concerns: the
    costliest first where an engine has timed them. timing, decoding: None unless requested.
    """

    network: str
    family: str
    approach: str
    input_hw: tuple[int, int]
    params: int
    macs: int
    activation_bytes: int
    stages: tuple[Part, ...]
    resolutions: tuple[Part, ...]
    balance: Mapping[str, float]
    layers: tuple[LayerRow, ...]
    concerns: tuple[Concern, ...]
    ptflops: CrossCheck
    uncounted: tuple[Uncounted, ...]
    decoding: DecodingTable | None = None
    timing: PassTime | None = None


# --- compress latency ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuiltTable(Shown):
    """`compress latency build`. kernels: in the table; measured, timed_again: by this build. uncertain: kernels that
    stayed so.

    scale: None where none is known. uncertainty: of the whole networks' timings, the mean. other_load: see
    LatencyTable.
    """

    identity: Identity
    table: str
    kernels: int
    measured: int
    timed_again: int
    uncertain: int
    scale: Scale | None
    uncertainty: float
    other_load: float | None = None


@dataclass(frozen=True)
class KernelShare:
    """A kernel's part of a predicted latency. times: it occurs. share: of the network's time. macs: of all its places.

    provenance: how its time came about, `estimated` where the table lacks it. uncertainty: of its timing.
    """

    kernel: str
    operator: str
    times: int
    ms: float
    share: float
    macs: int
    provenance: str
    uncertainty: float | None
    uncertain: bool


@dataclass(frozen=True)
class ShownNetwork(Shown):
    """`compress latency show`. operators: name → share of the time. kernels: the costliest first."""

    network: str
    input_hw: tuple[int, int]
    identity: Identity
    table: str
    prediction: Prediction
    scale: Scale | None
    operators: Mapping[str, float]
    kernels: tuple[KernelShare, ...]


@dataclass(frozen=True)
class CheckedNetwork:
    """A measured network. error: predicted over measured, minus 1. inside: whether the prediction's interval holds the
    measured time; None where it has none."""

    network: str
    measured: Latency
    predicted: Prediction
    error: float
    inside: bool | None


@dataclass(frozen=True)
class Accuracy:
    """Of predicted latencies. mape, worst: mean and largest relative error. within_5, within_10: share of networks
    whose error is not above 5 and 10 percent.

    tau: Kendall's, of the order; None of fewer than two networks. coverage, time_coverage: shares of kernels and of
    time that were in the table, the mean.
    """

    count: int
    mape: float
    worst: float
    within_5: float
    within_10: float
    tau: float | None
    coverage: float
    time_coverage: float


@dataclass(frozen=True)
class CheckedKernel:
    """A kernel timed inside networks, and what the table says; both over all its places there."""

    kernel: str
    times: int
    in_situ_ms: float
    predicted_ms: float


@dataclass(frozen=True)
class CheckedTable(Shown):
    """`compress latency check`. foreign: how the table differs from what it is used for. worst_kernels: of the networks
    that are predicted worst, those whose times differ most."""

    identity: Identity
    table: str
    foreign: tuple[str, ...]
    accuracy: Accuracy
    networks: tuple[CheckedNetwork, ...]
    worst_kernels: tuple[CheckedKernel, ...]


@dataclass(frozen=True)
class MergedTable(Shown):
    """`compress latency merge`. kernels: how many are in the new table."""

    identity: Identity
    table: str
    kernels: int


@dataclass(frozen=True)
class ComparedTables(Shown):
    """`compress latency diff`. identity: field → what it is in each table, where they differ.

    only_first, only_second: kernels of one table. common: kernels of both tables; median_change: of their times, None
    without any. changes: kernel → time of the second over the first, minus 1, the largest first.
    """

    identity: Mapping[str, tuple[str | int, str | int]]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    common: int
    median_change: float | None
    changes: Mapping[str, float]


@dataclass(frozen=True)
class PackedFolder(Shown):
    """`compress latency pack`. run: the command to type in the folder on the device."""

    folder: str
    engine: str
    networks: int
    kernels: int
    size_bytes: int
    run: str


@dataclass(frozen=True)
class UnpackedTable(Shown):
    """`compress latency unpack`. scale: None where the folder had too few networks for one. others: files of tables of
    more numbers of threads."""

    identity: Identity
    table: str
    kernels: int
    scale: Scale | None
    others: tuple[str, ...] = ()


# --- compress measure ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PromisedNetwork:
    """One network of a run on another device: what its table predicted, and what was measured there."""

    name: str
    promised: Latency
    met: Latency

    @property
    def error(self) -> float:
        """Promised over met, less one."""
        return self.promised.ms / self.met.ms - 1


@dataclass(frozen=True)
class MeasuredRun(Shown):
    """`compress measure unpack`. mean_error, worst_error: of the promises, without sign. tau: Kendall's, of the order;
    None of fewer than two networks. goal: of a pruning, with what was measured."""

    run: str
    target: str
    networks: tuple[PromisedNetwork, ...]
    mean_error: float
    worst_error: float
    tau: float | None
    goal: Goal | None = None


# --- compress targets ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KnownTable:
    """A latency table. foreign: it is of another device; `ENGINE@FILE` is that target then. other_load: see
    LatencyTable."""

    file: str
    identity: Identity
    kernels: int
    foreign: bool
    other_load: float | None = None


@dataclass(frozen=True)
class TargetsResult(Shown):
    """`compress targets`. device: this machine."""

    engines: tuple[Availability, ...]
    device: str
    tables: tuple[KnownTable, ...]


# --- compress doctor -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch computes on."""

    name: str
    memory_bytes: int


@dataclass(frozen=True)
class DiskSpace:
    """What is free on the disk of a folder, which need not be there yet."""

    folder: str
    free_bytes: int


@dataclass(frozen=True)
class FoundData:
    """A data set on this machine. `--data KIND:FOLDER` names it."""

    kind: str
    folder: str


@dataclass(frozen=True)
class MissingPart:
    """Something optional that is not here. purpose: what needs it. install: the command, or what else to do."""

    name: str
    purpose: str
    install: str


@dataclass(frozen=True)
class DoctorResult(Shown):
    """`compress doctor`.

    targets: engines and latency tables. version: of compress. cores: logical ones that this process may use.
    torch_threads: that torch trains with. load: programs that computed in the last minute, on average; None where the
    system does not say, as of memory. disk: of the current folder and of the cache. cache: the folder that tables and
    scores are kept in, cache_bytes what it holds.
    """

    targets: TargetsResult
    version: str
    python: str
    torch: str
    cores: int
    torch_threads: int
    load: float | None
    memory_bytes: int | None
    available_bytes: int | None
    gpus: tuple[Gpu, ...]
    disk: tuple[DiskSpace, ...]
    cache: str
    cache_bytes: int
    data: tuple[FoundData, ...]
    missing: tuple[MissingPart, ...]


# --- compress search -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RungScore:
    """What a candidate that is trained alone scored after so many epochs."""

    epochs: int
    value: float


@dataclass(frozen=True)
class TrialTraining:
    """How a trial was trained alone. rungs: its scores on the way, the last of which is the trial's. stopped: whether
    it was left there, for others that went on or because its loss was no longer a number."""

    rungs: tuple[RungScore, ...]
    stopped: bool

    @property
    def epochs(self) -> int:
        """At which the trial's score was taken."""
        return self.rungs[-1].epochs


@dataclass(frozen=True)
class Trial:
    """A candidate that a search scored.

    pick: its choices, see compress.nas.space. cost: with the predicted latency of one pass. score: on the search
    pictures, with the weights that candidates are compared by. on_front: whether no other trial beats it in all of the
    search's objectives; None while the search goes on. training: None where candidates share weights. failure: why it
    counts as 0 where its weights were no longer numbers; None where it was scored.
    """

    number: int
    pick: Mapping[str, Any]
    cost: Cost
    score: Score
    on_front: bool | None = None
    training: TrialTraining | None = None
    failure: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether its training was stopped early, so that its score stands beside those of longer trainings."""
        return self.training is not None and self.training.stopped

    @property
    def value(self) -> float:
        """The score as a number; 0 where there was nothing to measure on."""
        return self.score.value or 0.0


@dataclass(frozen=True)
class SingleEdit:
    """One choice of a space around a given network made otherwise, alone.

    path, value: see compress.nas.space. share: of the given network's predicted time on the first target. error: of
    the maps, recalibrated and not tuned: squared difference over squared value of the given network's, mean of all.
    """

    path: str
    value: float | str
    share: float
    error: float


@dataclass(frozen=True)
class ProxyAgreement:
    """A zero-cost proxy that proposals were filtered by, and whether it orders networks as their scores do.

    proposals: different ones that it looked at; passed_over: of them not evaluated. tau, tau_macs: Kendall's, of the
    proxy and of multiply-adds, with the scores of so many `trials`, those that were evaluated and not stopped early;
    None where there is no order. What was passed over is not among them.
    """

    proxy: str
    proposals: int
    passed_over: int
    trials: int
    tau: float | None
    tau_macs: float | None


@dataclass(frozen=True)
class SearchedSpace:
    """size: number of candidates. choices: path of a choice → its values."""

    family: str
    size: int
    choices: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class SearchedData:
    """kind: of the data. metric: what networks are compared by on it, AP, PCKh or PCK. train, search, val: number of
    pictures. people: labelled ones in the validation pictures."""

    kind: str
    metric: str
    train: int
    search: int
    val: int
    people: int | None


@dataclass(frozen=True)
class Gain:
    """Accuracy of a finalist that is no slower, end to end, than a baseline: validation scores, in the data's metric.

    verdict: beyond chance: by more than two standard errors of the difference; worthless: near a constant answer.
    steady: whether both timings are reliable. faster: by more than both times are uncertain. standard_error: of the
    difference, see compress.pose.scoring.difference_error; None in results of earlier versions, which took the two
    scores for independent.
    """

    network: str
    score: float
    baseline_score: float
    verdict: Literal["beyond chance", "within chance", "worthless"]
    steady: bool
    faster: bool
    standard_error: float | None = None


@dataclass(frozen=True)
class Faster:
    """How much faster, end to end, a finalist is that is no less accurate than a baseline."""

    network: str
    speed_up: SpeedUp


@dataclass(frozen=True)
class Comparison:
    """A baseline against the finalists; None where no finalist is as fast, or as accurate."""

    baseline: str
    at_its_latency: Gain | None
    at_its_accuracy: Faster | None


@dataclass(frozen=True)
class PredictionError:
    """Of the latency table on the measured networks, as shares of the measured time, without sign."""

    mean: float
    worst: float


@dataclass(frozen=True)
class TableUsed:
    """A target's latency table. kernels: how many it has. error: of its predictions; None without measured times.
    other_load: of other programs while it was measured, see compress.measure.timing.other_load."""

    kernels: int
    scale: Scale | None
    error: PredictionError | None
    other_load: float | None = None


@dataclass(frozen=True)
class SearchResult(Shown):
    """What a search found. All milliseconds are on the clock of the deciding target's latency table.

    start: the network that was given instead of a supernet; tuning_samples: that every trial was tuned on. objectives:
    what candidates and networks are to be small in, beside the score that is to be large. tables: by target. losses: of
    the supernet, by epoch. decoding: by input size (`128x128`), of the candidate that scored best in it, taken for
    every trial of that size; empty where it is not known. networks: baselines and finalists, exported and measured;
    trial_numbers: the trial that each was; best: names of those that no other one beats in all objectives.
    failed_exports: one line each. no_finalist: why there is none. caveats: what the figures do not say. zero_cost: None
    where no proxy filtered proposals. over_budget: names of the baselines that cost more than the search's limits, by
    prediction. single_edits: around a given network, what the first trials were allocated by.
    """

    run: RunRecord
    data: SearchedData
    space: SearchedSpace
    start: str | None
    tuning_samples: int
    objectives: tuple[CostObjective, ...]
    tables: Mapping[str, TableUsed]
    losses: tuple[float, ...]
    trials: tuple[Trial, ...]
    decoding: Mapping[str, Latency]
    networks: tuple[NetworkResult, ...]
    trial_numbers: Mapping[str, int]
    best: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    failed_exports: tuple[str, ...]
    no_finalist: str | None
    caveats: tuple[str, ...]
    zero_cost: ProxyAgreement | None = None
    over_budget: tuple[str, ...] = ()
    single_edits: tuple[SingleEdit, ...] = ()

    @property
    def front(self) -> tuple[NetworkResult, ...]:
        """The networks of `best`, fastest first."""
        by_name = {network.name: network for network in self.networks}
        return tuple(by_name[name] for name in self.best)

    def _entries(self) -> Mapping[str, Any]:
        """The front as a table."""
        return {
            "space": self.space.family,
            "candidates": self.space.size,
            "trials": len(self.trials),
            "target": self.target.name,
            "front": self.front,
            "no_finalist": self.no_finalist,
            "failed_exports": self.failed_exports,
        }

    @property
    def whole_trials(self) -> tuple[Trial, ...]:
        """Those that were not stopped early, whose scores may be compared."""
        return tuple(trial for trial in self.trials if not trial.stopped)

    @property
    def failed_trials(self) -> tuple[Trial, ...]:
        """Those whose weights were no longer numbers."""
        return tuple(trial for trial in self.trials if trial.failure)

    @property
    def trained_alone(self) -> bool:
        """Whether trials have weights of their own."""
        return any(trial.training for trial in self.trials)

    def trial_of(self, network: NetworkResult) -> Trial:
        """The trial that the network was in the search."""
        number = self.trial_numbers[network.name]
        return next(trial for trial in self.trials if trial.number == number)

    @property
    def target(self) -> TargetRecord:
        """The one that decides."""
        return self.run.targets[0]

    def latency_of(self, network: NetworkResult) -> Latency | None:
        """Of one pass on the target that decides."""
        return network.latency.get(self.target.name)

    def prediction_error(self, network: NetworkResult, target: str | None = None) -> float | None:
        """Predicted over measured, less one; None unless both are known. target: None is the one that decides."""
        name = target or self.target.name
        measured, predicted = network.latency.get(name), network.predicted.get(name)
        both = measured is not None and measured.provenance == "measured" and predicted is not None
        return predicted.ms / measured.ms - 1 if both else None  # type: ignore[union-attr]


# --- compress report -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WrittenReport(Shown):
    """`compress report`. page: the HTML file. files: all that were written. missing: what the run folder lacks."""

    page: str
    files: tuple[str, ...]
    missing: tuple[str, ...]


# --- The edge --------------------------------------------------------------------------------------------------------


def document(job: str, result: object) -> dict[str, Any]:
    """What `results.json` and `--json` hold: the result as plain data, with its job's name and the schema's version."""
    return {"schema": SCHEMA, "job": job, "result": to_plain(result)}


def write_results(path: Path, job: str, result: object) -> None:
    """Writes results.json."""
    write_json(path, document(job, result))


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
        raise RunError(f"it must be a result of {job}", place=str(path), value=data.get("job"), remedy="give its run")
    return from_plain(kind, data.get("result"), str(path))
