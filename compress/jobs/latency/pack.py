"""`compress latency pack | unpack`: a folder that times networks on another device, and its results as a table.

The folder holds whole networks, not single kernels: what kernels an engine makes of a network depends on the device,
such as how many channels its vectors hold. Its `run.py` needs the engine and numpy only. For an engine with a
program of its own that times kernels (ncnn: benchncnn) there are models of single kernels too, which need no Python.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from compress.artefacts.results import PackedFolder, UnpackedTable
from compress.engines import Engine, engine, packed_run
from compress.engines.engine import Profile, description_of
from compress.engines.onnxruntime_kernels import kernels_of_graph
from compress.errors import TableError
from compress.files import write_json
from compress.jobs.latency.latency import at_own_size, candidates, covering_candidates
from compress.jobs.names import check_names
from compress.measure.in_network import kernels_of_file
from compress.measure.kept_tables import table_path
from compress.measure.latency_table import LEAST_NETWORKS, Entry, Identity, LatencyTable, add_in_situ, fit_scale
from compress.measure.profiling import LEAST_RATIO, Profiled, correct
from compress.measure.timing import summarise
from compress.progress import Progress
from compress.recipe import LatencyRecipe

MANIFEST, RESULTS = "manifest.json", "results.json"
_REFERENCE_HW = (32, 32)


def pack(sources: Sequence[str], recipe: LatencyRecipe, folder: Path, progress: Progress) -> PackedFolder:
    """Writes the folder. Raises TableError if it is there already."""
    check_names(recipe)
    if folder.exists() and any(folder.iterdir()):
        raise TableError("the folder must be new", place=str(folder), remedy="name another one")
    recipe = at_own_size(sources, recipe)
    runtime = engine(recipe.engine)
    chosen = [
        *covering_candidates(sources, recipe, progress),
        *candidates(sources, recipe, recipe.networks, recipe.seed),
    ]
    reference = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1))
    entries, kernels = [], set()
    with progress.phase("exporting", len(chosen)) as phase:
        for candidate in chosen:
            file = runtime.export(candidate.build(), recipe.input_hw, folder, candidate.name)[0]
            kernels |= set(kernels_of_file(runtime, file))
            entries.append(_entry(candidate.name, file, recipe.input_hw))
            phase.advance(1, candidate.name)
    first = runtime.export(reference, _REFERENCE_HW, folder, "reference")[0]
    manifest = {
        "engine": recipe.engine,
        "version": runtime.describe().version,
        "reference": _entry("reference", first, _REFERENCE_HW),
        "networks": entries,
        "kernels": len(kernels),
    }
    if (bench := runtime.kernel_bench) is not None:
        manifest[bench.program] = bench.write(kernels, folder / bench.program)
    write_json(folder / MANIFEST, manifest)
    shutil.copyfile(packed_run.__file__, folder / "run.py")
    return PackedFolder(
        folder=str(folder),
        engine=recipe.engine,
        networks=len(entries),
        kernels=len(kernels),
        size_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        run=f"python run.py --threads {recipe.threads}",
    )


def unpack(folder: Path, path: Path | None, device: str | None, progress: Progress) -> UnpackedTable:
    """The table of the device that the folder was run on; written to `path`, else where such tables are kept.

    device: its name, for results of the engine's own program, which do not name it. Raises TableError if the
    folder was not run or its results do not fit it.
    """
    manifest = _read(folder / MANIFEST, "a packed folder")
    if device is not None:
        table = _from_bench(folder, manifest, device, path)
    else:
        table = _from_results(folder, manifest, path, progress)
    table.save()
    return UnpackedTable(table.identity, str(table.path), len(table.kernels), table.scale)


def _entry(name: str, file: Path, input_hw: tuple[int, int]) -> dict[str, Any]:
    return {"name": name, "file": file.name, "input_hw": list(input_hw)}


# --- What run.py found -----------------------------------------------------------------------------------------------


def _from_results(folder: Path, manifest: Mapping[str, Any], path: Path | None, progress: Progress) -> LatencyTable:
    results = _read(folder / RESULTS, "the results of run.py")
    try:
        facts = {key: results[key] for key in ("engine", "version", "cpuinfo", "machine", "cores", "system")}
        identity = Identity.of(description_of(**facts), results["threads"])
        table = LatencyTable(path or table_path(identity), identity)
        runtime = engine(manifest["engine"])
        files = {entry["name"]: folder / Path(entry["file"]).name for entry in manifest["networks"]}
        networks = []
        with progress.phase("reading results", len(results["networks"])) as phase:
            for found in results["networks"]:
                networks.append(_profiled(runtime, folder, files[found["name"]], found))
                phase.advance(1, found["name"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise TableError(
            f"the results do not fit the folder: {error!r}", place=str(folder / RESULTS), remedy="run run.py again"
        ) from error
    add_in_situ(table, networks)
    assert table.reference_ms is not None
    if len(networks) >= LEAST_NETWORKS:
        fit_scale(table, [(Counter(n.kernels), n.whole.ratio * table.reference_ms) for n in networks])
    return table


def _profiled(runtime: Engine, folder: Path, file: Path, found: Mapping[str, Any]) -> Profiled:
    if "events" in found:  # onnxruntime: the device's own graph
        kernels = kernels_of_graph(folder / Path(found["graph"]).name, found["events"], file)
        names = tuple(event["name"].removesuffix("_kernel_time") for event in found["events"])
    else:
        profiler = runtime.profiler(file)
        profiler.run_timed()
        here = profiler.finish()
        kernels, names = here.kernels, here.names
        if list(names) != found["names"]:
            raise ValueError(f"{file.name} has other nodes there than here")
    references = found["references_ms"]
    whole = summarise(found["whole_ms"], found["beside_ms"], median(references))
    return correct(Profile(kernels, found["times_ms"], names), references, whole)


# --- What the engine's own program found -----------------------------------------------------------------------------


def _from_bench(folder: Path, manifest: Mapping[str, Any], device: str, path: Path | None) -> LatencyTable:
    runtime = engine(manifest["engine"])
    bench = runtime.kernel_bench
    if bench is None or bench.program not in manifest:
        raise TableError(
            f"{runtime.name} has no program that times single kernels, so its device is known from run.py",
            place=str(folder / MANIFEST),
            remedy="leave --device out",
        )
    kernels = {u.key: u for e in manifest["networks"] for u in kernels_of_file(runtime, folder / e["file"])}
    source = folder / bench.program / f"{bench.program}.txt"
    times_ms = bench.read(source, manifest[bench.program], kernels)
    identity = Identity(manifest["engine"], manifest["version"], device)
    table = LatencyTable(path or table_path(identity), identity, reference_ms=1.0)
    for key, ms in times_ms.items():
        timing = summarise([max(LEAST_RATIO, ms)], [1.0], 1.0)
        table.kernels[key] = Entry.of(kernels[key], timing, "in a model of kernels")
    return table


def _read(path: Path, what: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TableError(
            f"{what} must be readable", place=str(path), value=error.strerror, remedy="check the path, run it first"
        ) from None
    except ValueError as error:
        raise TableError(f"{what} must be JSON", place=str(path), value=str(error), remedy="run it again") from None
