"""`compress latency pack | unpack`: a folder that times networks on another device, and its results as a table.

The folder holds whole networks, not single kernels: what kernels an engine makes of a network depends on the device,
such as how many channels its vectors hold. Its `run.py` needs the engine and numpy only. For an engine with a
program of its own that times kernels (ncnn: benchncnn) there are models of single kernels too, which need no Python.
"""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from torch import nn

from compress.artefacts.records import from_plain, to_plain
from compress.artefacts.results import PackedFolder, UnpackedTable
from compress.engines import Engine, engine, packed_run
from compress.engines.engine import Profile, description_of
from compress.engines.onnxruntime_kernels import kernels_of_graph
from compress.errors import TableError
from compress.files import write_json
from compress.jobs.latency.latency import candidates, covering_candidates
from compress.jobs.names import check_names
from compress.measure.in_network import kernels_of_file
from compress.measure.kept_tables import table_path
from compress.measure.latency_table import LEAST_NETWORKS, Entry, Identity, LatencyTable, add_in_situ, fit_scale
from compress.measure.profiling import LEAST_RATIO, Profiled, correct
from compress.measure.timing import summarise
from compress.progress import Progress
from compress.recipe import LatencyRecipe

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

    reference: a small network that is timed beside all others. kernels: in all networks together. bench: what the
    engine's own program needs, see KernelBench.write; None without one.
    """

    engine: str
    version: str
    reference: PackedNetwork
    networks: tuple[PackedNetwork, ...]
    kernels: int
    bench: list[dict[str, Any]] | None


@dataclass(frozen=True)
class NetworkTimes:
    """What run.py has measured of one network, in milliseconds.

    whole_ms: of passes, beside_ms: of the reference beside each; references_ms: beside the passes that were timed node
    by node. times_ms: of these, [pass][node]. names: of the nodes; onnxruntime has events instead, its profile of one
    pass, and graph, the file of the optimised model.
    """

    name: str
    whole_ms: list[float]
    beside_ms: list[float]
    references_ms: list[float]
    times_ms: list[list[float]]
    names: tuple[str, ...] | None = None
    graph: str | None = None
    events: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class DeviceTimes:
    """results.json: what run.py has measured, and where. cpuinfo, machine, cores, system: see description_of."""

    engine: str
    version: str
    threads: int
    cpuinfo: str
    machine: str
    cores: int
    system: str
    networks: tuple[NetworkTimes, ...]


def pack(sources: Sequence[str], recipe: LatencyRecipe, folder: Path, progress: Progress) -> PackedFolder:
    """Writes the folder. Raises TableError if it is there already."""
    check_names(recipe)
    if folder.exists() and any(folder.iterdir()):
        raise TableError("the folder must be new", place=str(folder), remedy="name another one")
    runtime = engine(recipe.engine)
    chosen = [
        *covering_candidates(sources, recipe, progress),
        *candidates(sources, recipe, recipe.networks, recipe.seed),
    ]
    reference = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1))
    packed, kernels = [], set()
    with progress.phase("exporting", len(chosen)) as phase:
        for candidate in chosen:
            file = runtime.export(candidate.build(), candidate.input_hw, folder, candidate.name)[0]
            kernels |= set(kernels_of_file(runtime, file))
            packed.append(PackedNetwork(candidate.name, file.name, candidate.input_hw))
            phase.advance(1, candidate.name)
    first = runtime.export(reference, _REFERENCE_HW, folder, "reference")[0]
    bench = runtime.kernel_bench
    manifest = Manifest(
        engine=recipe.engine,
        version=runtime.describe().version,
        reference=PackedNetwork("reference", first.name, _REFERENCE_HW),
        networks=tuple(packed),
        kernels=len(kernels),
        bench=bench.write(kernels, folder / bench.program) if bench else None,
    )
    write_json(folder / MANIFEST, to_plain(manifest))
    shutil.copyfile(packed_run.__file__, folder / "run.py")
    return PackedFolder(
        folder=str(folder),
        engine=recipe.engine,
        networks=len(packed),
        kernels=len(kernels),
        size_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        run=f"python run.py --threads {recipe.threads}",
    )


def unpack(folder: Path, path: Path | None, device: str | None, progress: Progress) -> UnpackedTable:
    """The table of the device that the folder was run on; written to `path`, else where such tables are kept.

    device: its name, for results of the engine's own program, which do not name it; there is a table of every number
    of threads that this ran with. Raises TableError if the folder was not run or its results do not fit it.
    """
    manifest = _read(folder / MANIFEST, Manifest, "a packed folder")
    if device is not None:
        tables = _from_bench(folder, manifest, device, path)
    else:
        tables = [_from_results(folder, manifest, path, progress)]
    for table in tables:
        table.save()
    first, others = tables[0], tuple(str(table.path) for table in tables[1:])
    return UnpackedTable(first.identity, str(first.path), len(first.kernels), first.scale, others)


# --- What run.py found -----------------------------------------------------------------------------------------------


def _from_results(folder: Path, manifest: Manifest, path: Path | None, progress: Progress) -> LatencyTable:
    results = _read(folder / RESULTS, DeviceTimes, "the results of run.py")
    try:
        description = description_of(
            results.engine, results.version, results.cpuinfo, results.machine, results.cores, results.system
        )
        identity = Identity.of(description, results.threads)
        table = LatencyTable(path or table_path(identity), identity)
        runtime = engine(manifest.engine)
        files = {one.name: folder / Path(one.file).name for one in manifest.networks}
        networks = []
        with progress.phase("reading results", len(results.networks)) as phase:
            for found in results.networks:
                networks.append(_profiled(runtime, folder, files[found.name], found))
                phase.advance(1, found.name)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise TableError(
            f"the results do not fit the folder: {error!r}", place=str(folder / RESULTS), remedy="run run.py again"
        ) from error
    add_in_situ(table, networks)
    assert table.reference_ms is not None
    if len(networks) >= LEAST_NETWORKS:
        fit_scale(table, [(Counter(n.kernels), n.whole.ratio * table.reference_ms) for n in networks])
    return table


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
    whole = summarise(found.whole_ms, found.beside_ms, median(found.references_ms))
    return correct(Profile(kernels, found.times_ms, names), found.references_ms, whole)


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
        raise TableError(
            "a file holds the table of one number of threads",
            place=str(source),
            value=", ".join(str(times.threads) for times in found),
            remedy="leave --table out, or run it with one",
        )
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
