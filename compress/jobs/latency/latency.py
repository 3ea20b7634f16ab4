"""`compress latency build`, `show`, `check`, `merge`, `diff`: tables of kernels' times, and how well they predict.

SOURCES are search spaces (a shipped name or a .yaml file) and networks (any NETWORK of the other commands). A space
stands for random candidates of it.
"""

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from statistics import fmean, median

import numpy as np
from scipy.stats import kendalltau
from torch import nn

from compress.artefacts.metadata import RANDOM_WEIGHTS
from compress.artefacts.network import open_network
from compress.artefacts.results import (
    Accuracy,
    BuiltTable,
    CheckedKernel,
    CheckedNetwork,
    CheckedTable,
    ComparedTables,
    KernelShare,
    MergedTable,
    ShownNetwork,
)
from compress.engines import Engine
from compress.errors import SpaceError, TableError
from compress.files import check_writable
from compress.jobs.names import check_names
from compress.measure.in_network import kernels_of_file, profile_in_networks
from compress.measure.kept_tables import table_path
from compress.measure.kernels import Kernel, detect_kernels
from compress.measure.latency import Latency
from compress.measure.latency_model import identity_of, open_model, runtime_of
from compress.measure.latency_table import (
    LEAST_NETWORKS,
    LatencyTable,
    Prediction,
    difference,
    fit_scale,
    load_table,
    merge,
    open_table,
    predict,
)
from compress.measure.profiling import time_nodes
from compress.measure.timing import Timing, pinned, reference_convolution, time_interleaved
from compress.nas.space import Pick, Space, expand, read_space
from compress.nas.space_table import covering
from compress.networks import architecture_from_data, architecture_to_data, made_for
from compress.progress import Progress
from compress.recipe import DEFAULT_HW, LatencyRecipe, find, shipped_folder

_WORST = 2  # networks that `check` looks into
_ROWS = 12  # kernels that `check` lists


@dataclass(frozen=True)
class Candidate:
    """A network whose kernels are found, or that is exported or measured. build: makes it."""

    name: str
    input_hw: tuple[int, int]
    build: Callable[[], nn.Module]


def build(
    sources: Sequence[str], recipe: LatencyRecipe, path: Path | None, progress: Progress, again: bool = False
) -> BuiltTable:
    """Measures what the table does not know of the sources' kernels and fits its scale on whole networks.

    path: of the table; this machine's kept one if not given. again: times all of the sources' kernels anew. A killed
    build goes on where it was. One network alone fits no scale: the one that the table has stays. Raises TableError
    for a scale beyond use, see fit_scale; what was timed is kept even so.
    """
    check_names(recipe)
    check_local(recipe)
    runtime = runtime_of(recipe.target)
    if not runtime.has_kernels:
        runtime.profiler(Path())  # which says why not
    table = _open(recipe, path)
    check_writable(table.path.parent)
    if table.foreign:
        raise TableError(
            "a table of something else cannot be built on",
            place=str(table.path),
            value=table.foreign[0],
            remedy="name another file",
        )
    wholes = candidates(sources, recipe, recipe.networks, recipe.seed)
    covers = covering_candidates(sources, recipe, progress)
    before = dict(table.kernels)
    with pinned(recipe.target.local_threads), tempfile.TemporaryDirectory() as folder:
        measured = measure_whole(wholes, recipe, runtime, Path(folder), progress)
        files = {candidate.name: _exporting(candidate, runtime, Path(folder)) for candidate in covers}
        files |= {name: partial(_given, whole.file) for name, whole in measured.items()}
        with progress.phase("timing kernels in networks", len(files)) as phase:
            profile_in_networks(table, runtime, files, recipe.rounds, lambda name: phase.advance(1, name), again)
        assert table.reference_ms is not None
        samples = [(Counter(m.kernels), m.timing.ratio * table.reference_ms) for m in measured.values()]
        try:
            if len(samples) >= LEAST_NETWORKS:
                fit_scale(table, samples)
        finally:
            table.save()  # also without a scale
    return BuiltTable(
        identity=table.identity,
        table=str(table.path),
        kernels=len(table.kernels),
        measured=len(table.kernels.keys() - before.keys()),
        timed_again=sum(table.kernels[key] != entry for key, entry in before.items()),
        uncertain=sum(entry.uncertain for entry in table.kernels.values()),
        scale=table.scale,
        uncertainty=round(fmean(m.timing.uncertainty for m in measured.values()), 4),
        other_load=table.other_load,
    )


def show(name: str, recipe: LatencyRecipe, path: Path | None, progress: Progress) -> ShownNetwork:
    """Where a network's predicted time goes. path: of the table; this machine's kept one if not given."""
    check_names(recipe)
    runtime = runtime_of(recipe.target)
    table = _open(recipe, path)
    check_built(table)
    (candidate,) = candidates([name], recipe, 1, recipe.seed)
    with progress.phase("finding kernels", 1) as phase:
        kernels = detect_kernels(candidate.build(), candidate.input_hw, runtime)
        phase.advance(1)
    whole = predict(table, kernels)
    rows: list[KernelShare] = []
    for kernel, times in kernels.items():
        entry = table.kernels.get(kernel.key)
        ms = predict(table, {kernel: times}).ms
        rows.append(
            KernelShare(
                kernel=kernel.key,
                operator=kernel.operator,
                times=times,
                ms=ms,
                share=ms / whole.ms,
                macs=kernel.macs * times,
                provenance=entry.provenance if entry else "estimated",
                uncertainty=entry.timing.uncertainty if entry else None,
                uncertain=bool(entry and entry.uncertain),
            )
        )
    rows.sort(key=lambda row: -row.ms)
    operators: dict[str, float] = {}
    for row in rows:
        operators[row.operator] = operators.get(row.operator, 0.0) + row.share
    return ShownNetwork(
        network=candidate.name,
        input_hw=candidate.input_hw,
        identity=table.identity,
        table=str(table.path),
        prediction=whole,
        scale=table.scale,
        operators=dict(sorted(operators.items(), key=lambda item: -item[1])),
        kernels=tuple(rows),
    )


def check(sources: Sequence[str], recipe: LatencyRecipe, path: Path | None, progress: Progress) -> CheckedTable:
    """Measures networks that the table's scale was not fitted on, whole, and compares. The table stays as it is."""
    check_names(recipe)
    check_local(recipe)
    runtime = runtime_of(recipe.target)
    table = _open(recipe, path)
    check_built(table)
    # Another seed than that of the networks that the scale was fitted on.
    chosen = candidates(sources, recipe, recipe.networks, recipe.seed + 1)
    with pinned(recipe.target.local_threads), tempfile.TemporaryDirectory() as folder:
        wholes = measure_whole(chosen, recipe, runtime, Path(folder), progress)
        rows = []
        for name, whole in wholes.items():
            predicted = predict(table, Counter(whole.kernels))
            measured = Latency.of_timing(whole.timing, str(table.identity), table.reference_ms)
            error = predicted.ms / measured.ms - 1
            rows.append(CheckedNetwork(name, measured, predicted, error, inside(predicted, measured.ms)))
        worst = sorted(rows, key=lambda row: -abs(row.error))[:_WORST]
        worst_kernels = _worst_kernels(table, [wholes[row.network] for row in worst], recipe, runtime)
    return CheckedTable(
        identity=table.identity,
        table=str(table.path),
        foreign=table.foreign,
        accuracy=accuracy([(row.predicted, row.measured.ms) for row in rows]),
        networks=tuple(rows),
        worst_kernels=worst_kernels,
    )


def inside(predicted: Prediction, ms: float) -> bool | None:
    """Whether the measured time lies in the prediction's interval; None where it has none."""
    if predicted.low_ms is None or predicted.high_ms is None:
        return None
    return predicted.low_ms <= ms <= predicted.high_ms


def accuracy(pairs: Sequence[tuple[Prediction, float]]) -> Accuracy:
    """Of predictions, each with the measured milliseconds."""
    errors = [abs(predicted.ms / ms - 1) for predicted, ms in pairs]
    tau = kendalltau(*zip(*((p.ms, ms) for p, ms in pairs), strict=True)).statistic if len(pairs) > 1 else None
    return Accuracy(
        count=len(pairs),
        mape=fmean(errors),
        worst=max(errors),
        within_5=fmean(error <= 0.05 for error in errors),
        within_10=fmean(error <= 0.10 for error in errors),
        tau=None if tau is None else float(tau),
        coverage=fmean(predicted.coverage for predicted, _ in pairs),
        time_coverage=fmean(predicted.time_coverage for predicted, _ in pairs),
    )


def merge_files(files: Sequence[Path], out: Path) -> MergedTable:
    """Writes one table with all kernels of several. Raises TableError, also if `out` exists."""
    if out.exists():
        raise TableError("the merged table must be a new file", place=str(out), remedy="name another one")
    merged = merge([load_table(file) for file in files], out)
    merged.save()
    return MergedTable(merged.identity, str(out), len(merged.kernels))


def compare_files(first: Path, second: Path) -> ComparedTables:
    """What tells two tables apart. Raises TableError."""
    found = difference(load_table(first), load_table(second))
    changes = sorted(found.change.items(), key=lambda item: -abs(item[1]))
    return ComparedTables(
        identity=found.identity,
        only_first=found.only_first,
        only_second=found.only_second,
        common=len(changes),
        median_change=median(abs(change) for _, change in changes) if changes else None,
        changes=dict(changes),
    )


# --- Networks --------------------------------------------------------------------------------------------------------


def candidates(sources: Sequence[str], recipe: LatencyRecipe, count: int, seed: int) -> list[Candidate]:
    """`count` random candidates of every space, and the networks themselves."""
    found = []
    for source in sources:
        space = space_named(source, recipe)
        if space is None:
            found.append(_network(source, recipe))
            continue
        rng = random.Random(seed)
        picks = [space.sample(rng) for _ in range(count)]
        found += [_of_space(f"{Path(source).stem}-{n}", space, pick, recipe) for n, pick in enumerate(picks)]
    return distinct(found)


def distinct(chosen: Sequence[Candidate]) -> list[Candidate]:
    """The same, a number behind names that others before have: files and results are kept by name."""
    taken: set[str] = set()
    named = []
    for candidate in chosen:
        names = chain([candidate.name], (f"{candidate.name}-{number}" for number in count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        named.append(replace(candidate, name=name))
    return named


def space_named(source: str, recipe: LatencyRecipe) -> Space | None:
    """The search space of that file or shipped name, for the recipe's input size; None if it names no space."""
    if (
        Path(source).suffix not in (".yaml", ".yml")
        and not (shipped_folder("search_spaces") / f"{source}.yaml").is_file()
    ):
        return None
    file = read_space(find(source, "search_spaces", SpaceError))
    place = f"{file.path}: fixed"
    base = architecture_from_data({"family": file.family, **file.fixed}, place)
    return expand(file, architecture_to_data(made_for(base, recipe.input_hw or DEFAULT_HW)))


def covering_candidates(sources: Sequence[str], recipe: LatencyRecipe, progress: Progress) -> list[Candidate]:
    """Of every space, few that together have its kernels several times."""
    runtime = runtime_of(recipe.target)
    found = [
        _of_space(f"{Path(source).stem}-cover-{number}", space, pick, recipe)
        for source in sources
        if (space := space_named(source, recipe)) is not None
        for number, pick in enumerate(covering(space, recipe.input_hw or DEFAULT_HW, recipe.seed, progress, runtime))
    ]
    return distinct(found)


def _of_space(name: str, space: Space, pick: Pick, recipe: LatencyRecipe) -> Candidate:
    architecture = architecture_from_data(space.apply(pick), "search space")
    return Candidate(name, space.input_hw(pick, recipe.input_hw or DEFAULT_HW), architecture.build)


def network_name(source: str) -> str:
    """What a network is called here: a file's or folder's name, or the function's with its module."""
    name = Path(source).name
    return name.replace(":", "-") if ":" in name else Path(name).stem


def _network(source: str, recipe: LatencyRecipe) -> Candidate:
    """Random weights are made when they are needed: many networks fit no memory."""
    opened = open_network(source, recipe.input_hw, seed=recipe.seed, weights=False)
    random_weights = opened.metadata.provenance == RANDOM_WEIGHTS
    build = opened.architecture.build if random_weights else lambda: opened.module
    return Candidate(network_name(source), opened.input_hw, build)


# --- Measuring -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Whole:
    """A measured network. file: its export."""

    file: Path
    kernels: tuple[Kernel, ...]
    timing: Timing


def measure_whole(
    chosen: Sequence[Candidate], recipe: LatencyRecipe, runtime: Engine, folder: Path, progress: Progress
) -> dict[str, Whole]:
    """Exports the networks, finds their kernels as the engine fuses them, and times them in one round robin."""
    files, kernels, calls = {}, {}, {}
    with progress.phase("exporting", len(chosen)) as phase:
        for number, candidate in enumerate(chosen):
            files[candidate.name] = runtime.export(candidate.build(), candidate.input_hw, folder, f"whole{number}")[0]
            kernels[candidate.name] = kernels_of_file(runtime, files[candidate.name])
            runner = runtime.load(files[candidate.name], recipe.target.local_threads)
            image = np.random.default_rng(0).standard_normal((1, 3, *candidate.input_hw), dtype=np.float32)
            calls[candidate.name] = partial(runner.run, image)
            phase.advance(1, candidate.name)
    with progress.phase("measuring networks", recipe.rounds) as phase:
        timings = time_interleaved(calls, reference_convolution(), recipe.rounds, progress=phase.advance)
    return {name: Whole(files[name], kernels[name], timings[name]) for name in files}


def _exporting(candidate: Candidate, runtime: Engine, folder: Path) -> Callable[[], Path]:
    return lambda: runtime.export(candidate.build(), candidate.input_hw, folder, "network")[0]


def _given(file: Path) -> Path:
    return file


def _worst_kernels(
    table: LatencyTable, wholes: Sequence[Whole], recipe: LatencyRecipe, runtime: Engine
) -> tuple[CheckedKernel, ...]:
    """The kernels whose times in situ and in the table differ most, over all their places."""
    rows: dict[str, CheckedKernel] = {}
    for whole in wholes:
        found = time_nodes(runtime.profiler(whole.file, recipe.target.local_threads), recipe.rounds)
        assert table.reference_ms is not None
        for kernel, timing in zip(found.kernels, found.timings, strict=True):
            row = rows.get(kernel.key, CheckedKernel(kernel.key, 0, 0.0, 0.0))
            rows[kernel.key] = CheckedKernel(
                kernel.key,
                row.times + 1,
                row.in_situ_ms + timing.ratio * table.reference_ms,
                row.predicted_ms + predict(table, {kernel: 1}).ms,
            )
    return tuple(sorted(rows.values(), key=lambda row: -abs(row.predicted_ms - row.in_situ_ms))[:_ROWS])


def _open(recipe: LatencyRecipe, path: Path | None) -> LatencyTable:
    """The target's table. path: of one on this machine; None takes the kept one."""
    target = recipe.target
    if target.foreign:
        if path is not None:
            raise TableError(
                "a target of another device brings its table",
                place="--table",
                value=str(path),
                remedy="leave it out, or name the target without @",
            )
        return open_model(target).table
    identity = identity_of(target)
    return open_table(path or table_path(identity), identity, allow_foreign=recipe.allow_foreign)


def check_built(table: LatencyTable) -> None:
    """Raises TableError for a table that is not there."""
    if not table.path.is_file():
        raise TableError("no such latency table", place=str(table.path), remedy="`compress latency build` makes it")


def check_local(recipe: LatencyRecipe) -> None:
    """Raises TableError for a target of another device, on which nothing can be measured here."""
    if recipe.target.foreign:
        raise TableError(
            "kernels of another device cannot be timed here",
            place="target",
            value=str(recipe.target),
            remedy="pack a folder for it: compress latency pack",
        )
