"""`compress latency pack | unpack`: a folder that times networks on another device, and its results as a table.

The folder holds whole networks, not single kernels: what kernels an engine makes of a network depends on the device,
such as how many channels its vectors hold. Its `run.py` needs the engine and numpy only. For an engine with a
program of its own that times kernels (ncnn: benchncnn) there are models of single kernels too, which need no Python.
"""

import copy
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from secrets import token_hex
from statistics import median
from typing import Any, TypeVar

from torch import nn

from compress.artefacts.network import open_network
from compress.artefacts.records import from_plain, to_plain
from compress.artefacts.results import PackedFolder, UnpackedTable
from compress.engines import Engine, engine, packed_run
from compress.engines.engine import BenchRow, Profile, description_of
from compress.engines.onnxruntime_kernels import kernels_of_graph
from compress.errors import TableError
from compress.files import write_json
from compress.jobs.latency.latency import Candidate, candidates, covering_candidates, distinct, network_name
from compress.jobs.names import check_names
from compress.measure.in_network import kernels_of_file
from compress.measure.kept_tables import table_path
from compress.measure.latency_model import identity_of, runtime_of
from compress.measure.latency_table import LEAST_NETWORKS, Entry, Identity, LatencyTable, add_in_situ, fit_scale
from compress.measure.profiling import LEAST_RATIO, Profiled, correct
from compress.measure.target import Target
from compress.measure.timing import Timing, summarise
from compress.progress import Progress
from compress.pruning import sparsity
from compress.pruning.compact import without_transposed
from compress.pruning.groups import pruning_groups
from compress.pruning.importance import importance
from compress.pruning.selection import uniform
from compress.pruning.structured import prunable_channels, without_channels
from compress.recipe import LatencyRecipe, Pruning
from compress.rewriting.rules import RULES
from compress.rewriting.sites import Rewrite, rewritten, rule_named, sites

T = TypeVar("T")

MANIFEST, RESULTS = "manifest.json", "results.json"
_REFERENCE_HW = (32, 32)


@dataclass(frozen=True)
class PackedNetwork:
    """A network of the folder. file: its export, the one that the engine loads first."""

    name: str
    file: str
    input_hw: tuple[int, int]


@dataclass(frozen=True)
class Manifest:
    """manifest.json: what run.py times, and what its results are read with.

    folder: tells this folder's results from another's; a run's networks have its fingerprint in it. reference: a small
    network that is timed beside all others. kernels: in all networks together. bench: what the engine's own program
    needs, see KernelBench.write; None without one.
    """

    folder: str
    engine: str
    version: str
    reference: PackedNetwork
    networks: tuple[PackedNetwork, ...]
    kernels: int
    bench: tuple[BenchRow, ...] | None


@dataclass(frozen=True)
class NetworkTimes:
    """What run.py has measured of one network, in milliseconds.

    whole_ms: of passes, beside_ms: of the reference beside each; references_ms: beside the passes that were timed node
    by node. times_ms: of these, [pass][node]. names: of the nodes; onnxruntime has events instead, its profile of one
    pass, and graph, the file of the optimised model. other_load: of other programs meanwhile, see LatencyTable.
    """

    name: str
    whole_ms: list[float]
    beside_ms: list[float]
    references_ms: list[float]
    times_ms: list[list[float]]
    names: tuple[str, ...] | None = None
    graph: str | None = None
    events: list[dict[str, Any]] | None = None
    other_load: float | None = None


@dataclass(frozen=True)
class TimedRun:
    """With one number of threads. rounds: timed passes of each network."""

    threads: int
    precision: str
    rounds: int
    networks: tuple[NetworkTimes, ...]


@dataclass(frozen=True)
class DeviceTimes:
    """results.json: what run.py has measured, and where. cpuinfo, machine, cores, system: see description_of.

    folder: the manifest's.
    """

    engine: str
    version: str
    cpuinfo: str
    machine: str
    cores: int
    system: str
    folder: str
    runs: tuple[TimedRun, ...]

    def identity(self, run: TimedRun) -> Identity:
        """What a run's times are true for."""
        found = description_of(self.engine, self.version, self.cpuinfo, self.machine, self.cores, self.system)
        return Identity.of(found, run.threads, run.precision)


def pack(sources: Sequence[str], recipe: LatencyRecipe, folder: Path, progress: Progress) -> PackedFolder:
    """Writes the folder with what decisions of recipe.purpose will need. Raises TableError if it is there already."""
    check_names(recipe)
    check_packable(recipe.target, folder)
    runtime = runtime_of(recipe.target)
    if recipe.purpose == "search":
        chosen = [
            *covering_candidates(sources, recipe, progress),
            *candidates(sources, recipe, recipe.networks, recipe.seed),
        ]
    else:
        chosen = [one for source in sources for one in changed_candidates(source, recipe, runtime)]
    packed, kernels = [], set()
    with progress.phase("exporting", len(chosen)) as phase:
        for candidate in distinct(chosen):
            file = runtime.export(candidate.build(), candidate.input_hw, folder, candidate.name)[0]
            kernels |= set(kernels_of_file(runtime, file))
            packed.append(PackedNetwork(candidate.name, file.name, candidate.input_hw))
            phase.advance(1, candidate.name)
    bench = runtime.kernel_bench
    written = bench.write(kernels, folder / bench.program) if bench else None
    write_manifest(folder, recipe.target, token_hex(8), packed, len(kernels), written)
    return packed_folder(folder, recipe.target, packed, len(kernels))


def check_packable(target: Target, folder: Path) -> None:
    """Raises TableError for a folder that is there, and for an engine that run.py has no code for."""
    if folder.exists() and any(folder.iterdir()):
        raise TableError("the folder must be new", place=str(folder), remedy="name another one")
    if target.engine not in packed_run.OPEN:
        raise TableError(
            f"run.py does not run {target.engine} on another device",
            place="target",
            value=str(target),
            remedy=f"take one of {', '.join(packed_run.OPEN)}",
        )


def write_manifest(
    folder: Path,
    target: Target,
    fingerprint: str,
    networks: Sequence[PackedNetwork],
    kernels: int = 0,
    bench: tuple[BenchRow, ...] | None = None,
) -> None:
    """Writes manifest.json, run.py and the reference network. See Manifest."""
    runtime = engine(target.engine)
    reference = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1))
    first = runtime.export(reference, _REFERENCE_HW, folder, "reference")[0]
    runtime.write_layout_probe(folder)
    manifest = Manifest(
        folder=fingerprint,
        engine=target.engine,
        version=runtime.describe().version,
        reference=PackedNetwork("reference", first.name, _REFERENCE_HW),
        networks=tuple(networks),
        kernels=kernels,
        bench=bench,
    )
    write_json(folder / MANIFEST, to_plain(manifest))
    shutil.copyfile(packed_run.__file__, folder / "run.py")


def packed_folder(folder: Path, target: Target, networks: Sequence[PackedNetwork], kernels: int) -> PackedFolder:
    """What a packed folder holds, for the user."""
    identity = identity_of(target)  # another device's threads and precision are its table's
    half = "" if identity.precision == "float32" else f" --precision {identity.precision}"
    return PackedFolder(
        folder=str(folder),
        engine=target.engine,
        networks=len(networks),
        kernels=kernels,
        size_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        run=f"python run.py --threads {identity.threads}{half}",
    )


def changed_candidates(source: str, recipe: LatencyRecipe, runtime: Engine) -> list[Candidate]:
    """A network as it is, and as pruning or rewriting will try it.

    prune: with every pruning group at each of the usual ratios, with random ones, and, on an engine that skips zeros,
    with each ratio of its weights zero. rewrite: with each rule applied everywhere.
    """
    opened = open_network(source, recipe.input_hw, seed=recipe.seed)
    name, network, input_hw = network_name(source), opened.module, opened.input_hw
    found: dict[str, Callable[[], nn.Module]] = {"given": lambda: network}
    if recipe.purpose == "rewrite":
        for rule in RULES:
            at = [Rewrite(rule, site.at) for site in sites(network, rule_named(rule))]
            if at:
                found[rule] = partial(rewritten, network, at, carry=False)
    else:
        channels = prunable_channels(network, input_hw)
        groups = pruning_groups(channels, multiple=runtime.channel_multiple)
        scores = importance("l2", network, channels, groups).scores
        ratios = Pruning().ratios
        removals = {f"pruned-{ratio:g}": uniform(groups, scores, ratio) for ratio in ratios}
        rng = random.Random(recipe.seed)
        for number in range(recipe.networks):
            removals[f"random-{number}"] = frozenset(
                member for group in groups for member in rng.choice(group.removals(scores))
            )
        for title, removed in removals.items():
            found[title] = partial(without_channels, network, channels, removed)
        if runtime.skips_zeros:
            prunable = sparsity.prunable(network, sparsity.Block()).layers
            for ratio in ratios:
                found[f"sparse-{ratio:g}"] = partial(_sparse, network, dict.fromkeys(prunable, ratio))
    return [Candidate(f"{name}-{title}", input_hw, build) for title, build in found.items()]


def _sparse(network: nn.Module, ratios: Mapping[str, float]) -> nn.Module:
    changed = copy.deepcopy(network)
    sparsity.apply_masks(changed, sparsity.masks(changed, sparsity.Block(), ratios))
    return without_transposed(changed)[0]


def unpack(folder: Path, path: Path | None, device: str | None, progress: Progress) -> UnpackedTable:
    """The table of the device that the folder was run on; written to `path`, else where such tables are kept.

    There is a table of every number of threads that it ran with. device: its name, for results of the engine's own
    program, which do not name it. Raises TableError if the folder was not run or its results do not fit it.
    """
    manifest = read_manifest(folder)
    if device is not None:
        tables = _from_bench(folder, manifest, device, path)
    else:
        results = read_times(folder, manifest)
        if path is not None and len(results.runs) > 1:
            raise several(folder / RESULTS, [run.threads for run in results.runs])
        tables = [_from_run(folder, manifest, results, run, path, progress) for run in results.runs]
    for table in tables:
        table.save()
    first, others = tables[0], tuple(str(table.path) for table in tables[1:])
    return UnpackedTable(first.identity, str(first.path), len(first.kernels), first.scale, others)


def several(source: Path, threads: Sequence[int]) -> TableError:
    """The error for one file and times of several numbers of threads."""
    return TableError(
        "a file holds the table of one number of threads",
        place=str(source),
        value=", ".join(map(str, threads)),
        remedy="leave --table out, or run it with one",
    )


# --- What run.py found -----------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """Of a packed folder. Raises TableError."""
    return _read(folder / MANIFEST, Manifest, "a packed folder")


def read_times(folder: Path, manifest: Manifest) -> DeviceTimes:
    """What run.py measured in that folder. Raises TableError for results of another folder, or of no network."""
    results = _read(folder / RESULTS, DeviceTimes, "the results of run.py")
    if results.folder != manifest.folder or results.engine != manifest.engine:
        raise TableError(
            "the results must be of this packed folder",
            place=str(folder / RESULTS),
            value=f"{results.engine}, folder {results.folder}",
            remedy="copy back what its own run.py wrote",
        )
    names = [one.name for one in manifest.networks]
    for run in results.runs:
        if [one.name for one in run.networks] != names:
            raise TableError(
                "run.py has not measured every network",
                place=str(folder / RESULTS),
                value=f"{len(run.networks)} of {len(names)}, {run.threads} threads",
                remedy="run it again: it goes on where it was",
            )
    if not results.runs:
        raise TableError("run.py has measured nothing", place=str(folder / RESULTS), remedy="run it again")
    return results


def _from_run(
    folder: Path, manifest: Manifest, results: DeviceTimes, run: TimedRun, path: Path | None, progress: Progress
) -> LatencyTable:
    identity = results.identity(run)
    table = LatencyTable(path or table_path(identity), identity)
    runtime = engine(manifest.engine)
    files = {one.name: folder / Path(one.file).name for one in manifest.networks}
    networks = []
    try:
        with progress.phase("reading results", len(run.networks)) as phase:
            for found in run.networks:
                networks.append(_profiled(runtime, folder, files[found.name], found))
                phase.advance(1, found.name)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise TableError(
            f"the results do not fit the folder: {error!r}", place=str(folder / RESULTS), remedy="run run.py again"
        ) from error
    loads = [found.other_load for found in run.networks if found.other_load is not None]
    add_in_situ(table, networks, load=max(loads, default=None))
    table.channel_block = runtime.read_layout_probe(folder)
    assert table.reference_ms is not None
    if len(networks) >= LEAST_NETWORKS:
        fit_scale(table, [(Counter(n.kernels), n.whole.ratio * table.reference_ms) for n in networks])
    return table


def whole_of(found: NetworkTimes) -> Timing:
    """The time of one pass."""
    return summarise(found.whole_ms, found.beside_ms, median(found.references_ms))


def _profiled(runtime: Engine, folder: Path, file: Path, found: NetworkTimes) -> Profiled:
    if found.events is not None and found.graph is not None:  # onnxruntime: the device's own graph
        kernels = kernels_of_graph(folder / Path(found.graph).name, found.events, file)
        names = tuple(event["name"].removesuffix("_kernel_time") for event in found.events)
    else:
        profiler = runtime.profiler(file)
        profiler.run_timed()
        here = profiler.finish()
        kernels, names = here.kernels, here.names
        if names != found.names:
            raise ValueError(f"{file.name} has other nodes there than here")
    return correct(Profile(kernels, found.times_ms, names), found.references_ms, whole_of(found))


# --- What the engine's own program found -----------------------------------------------------------------------------


def _from_bench(folder: Path, manifest: Manifest, device: str, path: Path | None) -> list[LatencyTable]:
    runtime = engine(manifest.engine)
    bench = runtime.kernel_bench
    if bench is None or manifest.bench is None:
        raise TableError(
            f"{runtime.name} has no program that times single kernels, so its device is known from run.py",
            place=str(folder / MANIFEST),
            remedy="leave --device out",
        )
    kernels = {u.key: u for one in manifest.networks for u in kernels_of_file(runtime, folder / one.file)}
    source = folder / bench.program / f"{bench.program}.txt"
    found = bench.read(source, manifest.bench, kernels)
    if path is not None and len(found) > 1:
        raise several(source, [times.threads for times in found])
    tables = []
    for times in found:
        identity = Identity(manifest.engine, manifest.version, device, times.threads, times.precision)
        table = LatencyTable(path or table_path(identity), identity, reference_ms=1.0)
        for key, ms in times.times_ms.items():
            timing = summarise([max(LEAST_RATIO, ms)], [1.0], 1.0)
            table.kernels[key] = Entry.of(kernels[key], timing, "in a model of kernels")
        tables.append(table)
    return tables


def _read(path: Path, kind: type[T], what: str) -> T:
    """The file's record. Raises TableError for a file that is missing, no JSON, or something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TableError(
            f"{what} must be readable", place=str(path), value=error.strerror, remedy="check the path, run it first"
        ) from None
    except ValueError as error:
        raise TableError(f"{what} must be JSON", place=str(path), value=str(error), remedy="run it again") from None
    return from_plain(kind, data, str(path), TableError, f"it must be {what}: pack and run it again")
