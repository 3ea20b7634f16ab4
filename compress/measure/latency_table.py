"""Times of kernels on one machine, measured once and kept, and predictions of whole networks from them.

A kernel is timed in context, in one of two ways. In situ: whole networks are run, and every node's own time is noted
(add_in_situ); this works for every engine. In a model made of kernels (fill), each behind a node that has just made its
input: this needs no network that contains the kernel, but an engine that can be given single nodes. Timed alone a
kernel would pay for reorderings and calls that a whole network pays once: sums of such times are 25-50 % too large.

A kernel that the table lacks is estimated from its neighbours, marked, and widens the prediction's interval.

A kernel whose time is uncertain, for it was timed in noise, is timed again by whoever comes by, a few times; the least
uncertain time stays, and what is uncertain even so is marked, and widens the interval too. A scale needs several
networks, and one that fits badly is not kept.
"""

import json
import math
import tempfile
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from math import ceil, exp, log, sqrt
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

from compress.engines import engine
from compress.engines.engine import CHANNEL_MULTIPLE, Description
from compress.engines.kernel import Kernel
from compress.errors import EngineError, TableError
from compress.files import write_text
from compress.measure.neighbours import HALF_INTERVAL, Neighbour, Neighbours
from compress.measure.profiling import ROUNDS, Profiled, time_nodes
from compress.measure.timing import Timing, other_load

FORMAT = 4
BATCH = 32
"""Kernels per model; the table is saved after each."""
UNCERTAIN = 0.10
"""Relative uncertainty from which a kernel's time is timed again."""
_TICK = 0.02
"""Ratio, some microseconds, under which it is the engine's clock that is coarse, and timing again does not help."""
TRIES = 3
"""Times that an uncertain kernel is timed before it stays as it is, marked."""
LEAST_NETWORKS = 2
"""That a scale is fitted on: of one network alone the error on others is not known."""
WORST_ERROR = 0.25
"""Mean relative error of a scale above which it is of no use: two candidates of a search seldom differ by so much."""
WORST_FACTOR = 2.0
"""Whole networks over the sum of their kernels, or the reverse: kernels timed alone, the worst way, come to 1.5."""
TOO_UNCERTAIN = 0.20
"""Expected relative error of an estimate from which the kernel should be timed on the device."""

Provenance = Literal["in situ", "in a model of kernels"]


@dataclass(frozen=True)
class Identity:
    """What a table's times are true for. device: Description.device."""

    engine: str
    version: str
    device: str
    threads: int = 1
    precision: str = "float32"

    def __str__(self) -> str:
        """As it is shown: `onnxruntime 1.20.1, 1 thread, a CPU, 2 cores`."""
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        precision = [] if self.precision == "float32" else [self.precision]
        return ", ".join([f"{self.engine} {self.version}", threads, *precision, self.device])

    @classmethod
    def of(cls, description: Description, threads: int = 1, precision: str = "float32") -> "Identity":
        """Of an engine on this machine."""
        return cls(description.engine, description.version, description.device, threads, precision)


@dataclass(frozen=True)
class Scale:
    """Whole networks over the sum of their kernels. networks: it was fitted on; error: mean relative error on these."""

    factor: float
    networks: int
    error: float


@dataclass(frozen=True)
class Entry:
    """A timed kernel. kind, macs, bytes: the kernel's. networks: it was seen in; 0 in a model of kernels. tries: times
    that it was timed for being uncertain, this one with them; the least uncertain time is kept."""

    timing: Timing
    kind: str
    macs: int
    bytes: int
    provenance: Provenance
    networks: int = 0
    tries: int = 1

    @property
    def uncertain(self) -> bool:
        """Whether noise may have made the time wrong by so much that it matters."""
        return self.timing.uncertainty > UNCERTAIN and self.timing.ratio > _TICK

    @classmethod
    def of(cls, kernel: Kernel, timing: Timing, provenance: Provenance, networks: int = 0) -> "Entry":
        """What a table keeps of the kernel."""
        return cls(timing, kernel.kind, kernel.macs, kernel.bytes, provenance, networks)


@dataclass
class LatencyTable:
    """kernels: key → entry, on the clock of reference_ms: normalised_ms = ratio x reference_ms for every entry.

    foreign: how the table differs from what it is used for; empty unless that was allowed. other_load: other programs
    that wanted a core while kernels were timed, at the worst (see timing.other_load); None where that is not known.
    channel_block: of the engine on the table's device, see Engine; None where it has none or that is not known.
    """

    path: Path
    identity: Identity
    reference_ms: float | None = None
    scale: Scale | None = None
    kernels: dict[str, Entry] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    other_load: float | None = None
    channel_block: int | None = None
    _estimates: tuple[dict[str, Entry], Neighbours] | None = field(default=None, init=False, repr=False, compare=False)

    def neighbours(self) -> Neighbours:
        """The table's kernels, to estimate others from; made anew where they have changed.

        Raises TableError if the table is empty.
        """
        if not self.kernels:
            raise TableError(
                "nothing can be predicted from an empty table", place=str(self.path), remedy="build it first"
            )
        if self._estimates is None or self._estimates[0] != self.kernels:
            timed = [
                Neighbour(key, e.kind, e.macs, e.timing.ratio, e.timing.uncertainty) for key, e in self.kernels.items()
            ]
            self._estimates = dict(self.kernels), Neighbours(timed, channel_multiple(self))
        return self._estimates[1]

    def missing(self, kernels: Iterable[Kernel]) -> list[Kernel]:
        """Those of the kernels that the table does not hold, each once, in a stable order."""
        return sorted({kernel for kernel in kernels if kernel.key not in self.kernels})

    def known(self) -> set[str]:
        """Keys of the kernels that need not be timed: certain ones, and those that stayed uncertain all their tries."""
        return {key for key, entry in self.kernels.items() if not entry.uncertain or entry.tries >= TRIES}

    def save(self) -> None:
        """Writes the table in one step: a reader sees the old one or the new one."""
        data = {
            "format": FORMAT,
            **asdict(self.identity),
            "reference_ms": self.reference_ms,
            "scale": asdict(self.scale) if self.scale else None,
            "other_load": self.other_load,
            "channel_block": self.channel_block,
            "kernels": {key: _entry_data(self.kernels[key]) for key in sorted(self.kernels)},
        }
        write_text(self.path, _readable(data))


@dataclass(frozen=True)
class Prediction:
    """A whole network's latency. low_ms, high_ms: hold about nine in ten networks; None where the
    table has no scale, which takes several networks.

    coverage, time_coverage: share of the network's kernels, and of its time, that was measured. estimated: keys of the
    other kernels. uncertain: of those, the ones whose time is known too badly to go without timing them (see
    TOO_UNCERTAIN), the most doubtful milliseconds first. foreign: see LatencyTable; a report shows it.
    """

    ms: float
    low_ms: float | None
    high_ms: float | None
    coverage: float
    time_coverage: float
    estimated: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()


# --- Files -----------------------------------------------------------------------------------------------------------


def open_table(path: Path, identity: Identity, *, allow_foreign: bool = False) -> LatencyTable:
    """The table in that file, or an empty one if there is no such file.

    allow_foreign: a table of another version, device, number of threads or precision is used, and marked. Raises
    TableError if it is broken, of another engine, or foreign and not allowed to be.
    """
    if not path.exists():
        return LatencyTable(path, identity, channel_block=_channel_block(identity))
    table = load_table(path)
    foreign = []
    for name, wanted in asdict(identity).items():
        found = getattr(table.identity, name)
        if found == wanted:
            continue
        if name == "engine" or not allow_foreign:
            raise TableError(
                f"times are only true for one {name}, here {wanted!r}",
                place=f"{path}: {name}",
                value=found,
                remedy="name another file, and it will be measured here",
            )
        foreign.append(f"{name} {found!r} for {wanted!r}")
    table.foreign = tuple(foreign)
    return table


def load_table(path: Path) -> LatencyTable:
    """The table in that file, wherever it was measured. Raises TableError if it cannot be read."""
    try:
        data = json.loads(path.read_text())
        if (found := data.pop("format")) != FORMAT:
            raise ValueError(f"format {found!r} is of another version of compress")
        kernels = {key: _entry(value) for key, value in data.pop("kernels").items()}
        scale = data.pop("scale")
        return LatencyTable(
            path,
            reference_ms=data.pop("reference_ms"),
            scale=Scale(**scale) if scale else None,
            other_load=data.pop("other_load", None),
            channel_block=data.pop("channel_block", None),
            kernels=kernels,
            identity=Identity(**{one.name: data[one.name] for one in fields(Identity)}),
        )
    except FileNotFoundError:
        raise TableError("no such latency table", place=str(path), remedy="measure it first") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(
            f"not a latency table of format {FORMAT}: {error}",
            place=str(path),
            remedy="give another file, or delete it and measure again",
        ) from error


def merge(tables: Sequence[LatencyTable], path: Path) -> LatencyTable:
    """All kernels of these tables, on the clock of the first; the caller saves it.

    A kernel in several tables has the mean of its ratios, weighted by how often it was timed. The scale is the tables'
    scales' geometric mean, weighted by the networks they were fitted on; none if a table has none. Raises TableError
    unless they are of one identity.
    """
    first = tables[0]
    for table in tables[1:]:
        for name, found in asdict(table.identity).items():
            wanted = getattr(first.identity, name)
            if found != wanted:
                raise TableError(
                    f"only tables of one {name} can be merged, here {wanted!r}",
                    place=f"{table.path}: {name}",
                    value=found,
                    remedy="keep them apart",
                )
    merged = LatencyTable(path, first.identity, first.reference_ms, channel_block=first.channel_block)
    for key in sorted(set().union(*(table.kernels for table in tables))):
        entries = [table.kernels[key] for table in tables if key in table.kernels]
        timing = _on_clock(_pooled([entry.timing for entry in entries]), merged.reference_ms)
        merged.kernels[key] = replace(entries[0], timing=timing, networks=sum(entry.networks for entry in entries))
    merged.other_load = most_load(table.other_load for table in tables)
    merged.scale = _common_scale([table.scale for table in tables])
    return merged


def most_load(loads: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    return max((load for load in loads if load is not None), default=None)


def _common_scale(scales: Sequence[Scale | None]) -> Scale | None:
    known = [scale for scale in scales if scale is not None]
    if len(known) < len(scales):
        return None
    networks = sum(scale.networks for scale in known)
    factor = exp(sum(scale.networks * log(scale.factor) for scale in known) / networks)
    return Scale(factor, networks, sum(scale.networks * scale.error for scale in known) / networks)


@dataclass(frozen=True)
class Difference:
    """Two tables. only_first, only_second: keys. change: key → second over first, minus 1, of the ratios.

    identity: name of a field → what it is in each, where they differ.
    """

    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    change: dict[str, float]
    identity: dict[str, tuple[str | int, str | int]]


def difference(first: LatencyTable, second: LatencyTable) -> Difference:
    """What differs between the tables."""
    common = sorted(first.kernels.keys() & second.kernels.keys())
    fields = asdict(first.identity)
    return Difference(
        tuple(sorted(first.kernels.keys() - second.kernels.keys())),
        tuple(sorted(second.kernels.keys() - first.kernels.keys())),
        {key: second.kernels[key].timing.ratio / first.kernels[key].timing.ratio - 1 for key in common},
        {
            name: (value, getattr(second.identity, name))
            for name, value in fields.items()
            if value != getattr(second.identity, name)
        },
    )


# --- Predicting ------------------------------------------------------------------------------------------------------


def predict(table: LatencyTable, kernels: Mapping[Kernel, int]) -> Prediction:
    """A whole network of these kernels: their sum times the fitted scale (1 before fit_scale).

    The interval is the sum of what the scale, the noise of timings and the estimates leave open. Estimates of one kind
    are off together, those of different kinds independently. Raises TableError if the table is empty.
    """
    factor = table.scale.factor if table.scale else 1.0
    measured_ms = estimated_ms = noise_ms = 0.0
    doubts_ms: dict[str, float] = {}  # of estimated kernels, by their keys
    by_kind_ms: dict[str, float] = {}
    uncertain = []
    for kernel in sorted(kernels):
        entry = table.kernels.get(kernel.key)
        if entry is not None:
            ms = kernels[kernel] * entry.timing.normalised_ms * factor
            measured_ms += ms
            noise_ms += entry.timing.uncertainty * ms if entry.uncertain else 0.0
            continue
        ratio, error = table.neighbours().estimate(kernel)
        assert table.reference_ms is not None
        ms = kernels[kernel] * ratio * table.reference_ms * factor
        estimated_ms += ms
        doubts_ms[kernel.key] = HALF_INTERVAL * error * ms
        by_kind_ms[kernel.kind] = by_kind_ms.get(kernel.kind, 0.0) + HALF_INTERVAL * error * ms
        if error > TOO_UNCERTAIN:
            uncertain.append(kernel.key)
    ms = measured_ms + estimated_ms
    low = high = None
    if table.scale:
        half = HALF_INTERVAL * table.scale.error * ms + noise_ms + sqrt(sum(d**2 for d in by_kind_ms.values()))
        low, high = max(0.0, ms - half), ms + half
    total = sum(kernels.values())
    known = sum(times for kernel, times in kernels.items() if kernel.key in table.kernels)
    return Prediction(
        ms,
        low,
        high,
        known / total if total else 1.0,
        measured_ms / ms if ms else 1.0,
        tuple(doubts_ms),
        table.foreign,
        tuple(sorted(uncertain, key=lambda key: -doubts_ms[key])),
    )


@dataclass(frozen=True)
class KernelGroup:
    """Kernels of one operator whose outputs have one height: a part of a network's predicted time.

    stride: height of the network's input over that of the outputs, rounded; 0 for outputs without a height. kernels:
    how many run in one pass. ms: what they take together; estimated_ms: of that, what the table lacks.
    """

    stride: int
    operator: str
    kernels: int
    ms: float
    estimated_ms: float


def grouped(table: LatencyTable, kernels: Mapping[Kernel, int], input_h: int) -> tuple[KernelGroup, ...]:
    """Where the time that `predict` gives goes, the finest outputs first. input_h: height of the network's input."""
    found: dict[tuple[int, str], KernelGroup] = {}
    for kernel, times in kernels.items():
        shape = kernel.outputs[0].shape if kernel.outputs else ()
        stride = round(input_h / shape[-2]) if len(shape) > 2 and shape[-2] else 0
        prediction = predict(table, {kernel: times})
        estimated_ms = prediction.ms if prediction.estimated else 0.0
        old = found.get((stride, kernel.operator), KernelGroup(stride, kernel.operator, 0, 0.0, 0.0))
        found[stride, kernel.operator] = replace(
            old,
            kernels=old.kernels + times,
            ms=old.ms + prediction.ms,
            estimated_ms=old.estimated_ms + estimated_ms,
        )
    return tuple(sorted(found.values(), key=lambda one: (one.stride or math.inf, -one.ms)))


def _channel_block(identity: Identity) -> int | None:
    """Of the engine on this machine."""
    try:
        return engine(identity.engine).channel_block
    except EngineError:
        return None


def channel_multiple(table: LatencyTable) -> int:
    """Channels that the engine computes at a time: as it says of the table's device, else what most do."""
    try:
        runtime = engine(table.identity.engine)
        here = runtime.describe().device == table.identity.device
    except EngineError:  # not installed here, which a device's table need not be
        return CHANNEL_MULTIPLE
    if table.channel_block:
        return runtime.laid_out(table.channel_block).channel_multiple
    return runtime.channel_multiple if here else CHANNEL_MULTIPLE


def fit_scale(table: LatencyTable, samples: Sequence[tuple[Mapping[Kernel, int], float]]) -> Scale:
    """Fits and stores the factor between whole networks and the sum of their kernels; the caller saves the table.

    samples: kernels and measured milliseconds, on the table's clock (Timing.ratio x table.reference_ms). The factor is
    the geometric mean of measured over summed, so that every network counts the same. Test it on other networks.

    Raises TableError for fewer than LEAST_NETWORKS, and for a fit beyond WORST_ERROR or WORST_FACTOR; the table then
    has no scale.
    """
    if len(samples) < LEAST_NETWORKS:
        raise TableError(
            f"a scale needs {LEAST_NETWORKS} measured networks or more",
            place=str(table.path),
            value=len(samples),
            remedy="measure more",
        )
    table.scale = None
    factors = [measured / predict(table, kernels).ms for kernels, measured in samples]
    factor = exp(fmean(map(log, factors)))
    scale = Scale(factor, len(samples), fmean(abs(factor / f - 1) for f in factors))
    if scale.error > WORST_ERROR or not 1 / WORST_FACTOR <= factor <= WORST_FACTOR:
        raise TableError(
            f"whole networks must take what their kernels add up to, within {WORST_ERROR:.0%} and a common factor of "
            f"{1 / WORST_FACTOR:g} to {WORST_FACTOR:g}; no prediction is made from this table",
            place=str(table.path),
            value=f"a mean error of {scale.error:.0%} around a factor of {factor:.2f}",
            remedy="build again on a quieter machine; `compress latency build --again` times all kernels again",
        )
    table.scale = scale
    return scale


# --- Filling ---------------------------------------------------------------------------------------------------------

Measure = Callable[[Sequence[Kernel], int], tuple[dict[Kernel, Timing], float]]
"""Kernels and threads → their timings and the reference's median in milliseconds."""


def fill(
    table: LatencyTable,
    kernels: Iterable[Kernel],
    progress: Callable[[int, int], None] = lambda done, total: None,
    measure: Measure | None = None,
    batch: int = BATCH,
) -> None:
    """Measures what the table lacks of these kernels in models of kernels; saves after each, so a killed build resumes.

    What is uncertain is measured again, up to TRIES times.

    progress: kernels done, of how many. measure: `measure_kernels` on the table's engine if not given. Raises
    EngineError if the engine makes no models of kernels, TableError if the table is foreign.
    """
    measure = measure or partial(measure_kernels, table.identity.engine)
    missing = table.missing(kernels)
    done, batches = 0, ceil(len(missing) / batch)
    for number in range(batches):
        # Every so-many-th kernel: a batch is then a mixture of small and large ones, like a network.
        chosen = missing[number::batches]
        again: Sequence[Kernel] = chosen
        for _ in range(TRIES):
            timings, reference_ms = measure(again, table.identity.threads)
            entries = {kernel: Entry.of(kernel, timing, "in a model of kernels") for kernel, timing in timings.items()}
            _note(table, entries, reference_ms, other_load(table.identity.threads))
            again = [kernel for kernel in again if table.kernels[kernel.key].uncertain]
            if not again:
                break
        table.save()
        done += len(chosen)
        progress(done, len(missing))


def measure_kernels(
    engine_name: str, kernels: Sequence[Kernel], threads: int = 1, rounds: int = ROUNDS
) -> tuple[dict[Kernel, Timing], float]:
    """Times each kernel inside one model that holds them all; also the reference's median in milliseconds."""
    runtime = engine(engine_name)
    with tempfile.TemporaryDirectory() as folder:
        path = runtime.assemble(kernels, Path(folder), "kernels")[0]
        found = time_nodes(runtime.profiler(path, threads), rounds)
    timings = dict(zip(found.names, found.timings, strict=True))
    return {kernel: timings[f"u{index}"] for index, kernel in enumerate(kernels)}, found.reference_ms


def add_in_situ(
    table: LatencyTable, networks: Sequence[Profiled], again: Container[str] = (), load: float | None = None
) -> None:
    """Notes the kernels of whole networks that were timed node by node; the caller saves the table.

    A kernel's ratio is the mean over its places in a network, and the median over networks. What the table knows (see
    LatencyTable.known) stays, but the keys in `again` are noted whatever the table has. load: of other programs
    meanwhile, see LatencyTable.other_load. Raises TableError if the table is foreign.
    """
    found: dict[Kernel, list[Timing]] = {}
    for network in networks:
        places: dict[Kernel, list[Timing]] = {}
        for kernel, timing in zip(network.kernels, network.timings, strict=True):
            places.setdefault(kernel, []).append(timing)
        for kernel, timings in places.items():
            found.setdefault(kernel, []).append(_pooled(timings))
    entries, known = {}, table.known()
    for kernel, timings in found.items():
        if kernel.key in again:
            table.kernels.pop(kernel.key, None)
        elif kernel.key in known:
            continue
        together = sqrt(sum(timing.uncertainty**2 for timing in timings)) / len(timings)
        pooled = replace(_pooled(timings), ratio=median(timing.ratio for timing in timings), uncertainty=together)
        entries[kernel] = Entry.of(kernel, pooled, "in situ", len(timings))
    _note(table, entries, median(network.reference_ms for network in networks), load)


def _note(table: LatencyTable, entries: Mapping[Kernel, Entry], reference_ms: float, load: float | None) -> None:
    if table.foreign:
        raise TableError(
            "times measured here do not belong into a table of something else",
            place=str(table.path),
            value=table.foreign[0],
            remedy="name another file",
        )
    table.reference_ms = table.reference_ms or reference_ms
    if entries:
        table.other_load = most_load((table.other_load, load))
    for kernel, entry in entries.items():
        old = table.kernels.get(kernel.key)
        tries = old.tries + 1 if old else 1
        if old and old.timing.uncertainty <= entry.timing.uncertainty:
            entry = old
        table.kernels[kernel.key] = replace(entry, timing=_on_clock(entry.timing, table.reference_ms), tries=tries)


def _on_clock(timing: Timing, reference_ms: float | None) -> Timing:
    """On the table's clock, and as it will be read back."""
    return Timing(**_rounded(asdict(replace(timing, normalised_ms=timing.ratio * (reference_ms or 0.0)))))


_MEANS = ("median_ms", "q1_ms", "q3_ms", "ratio", "normalised_ms", "spread", "uncertainty")


def _pooled(timings: Sequence[Timing]) -> Timing:
    """One timing from several of the same thing, weighted by how often each was timed."""
    count = sum(timing.count for timing in timings)

    def mean(name: str) -> float:
        return float(sum(getattr(timing, name) * timing.count for timing in timings) / count)

    means = {name: mean(name) for name in _MEANS}
    return Timing(**means, count=count)


# --- One line per kernel ---------------------------------------------------------------------------------------------


def _entry_data(entry: Entry) -> dict[str, Any]:
    data = asdict(entry)
    return {**_rounded(data.pop("timing")), **data}


def _entry(data: dict[str, Any]) -> Entry:
    timing = Timing(**{name: data.pop(name) for name in Timing.__dataclass_fields__})
    return Entry(timing, **data)


def _readable(data: dict[str, Any]) -> str:
    """JSON with one line per kernel, so that two tables can be compared line by line; six significant digits."""
    kernels = data.pop("kernels")
    head = json.dumps(data, indent=1)[:-2]
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in kernels.items())
    return f'{head},\n "kernels": {{\n{lines}\n }}\n}}\n'


def _rounded(timing: dict[str, Any]) -> dict[str, Any]:
    return {key: value if isinstance(value, int) else float(f"{value:.6g}") for key, value in timing.items()}


__all__ = [
    "Difference",
    "Entry",
    "Identity",
    "KernelGroup",
    "LatencyTable",
    "Prediction",
    "Scale",
    "add_in_situ",
    "difference",
    "fill",
    "fit_scale",
    "grouped",
    "load_table",
    "measure_kernels",
    "merge",
    "most_load",
    "open_table",
    "predict",
]
