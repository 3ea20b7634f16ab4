"""`compress measure pack | unpack`: the networks of a finished run, measured on the device that it was made for.

A run on a target of another device predicts every time. Its networks are packed into a folder that needs only the
engine, run there, and what was measured takes the place of the predictions in the run's results: promised and met.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from scipy.stats import kendalltau

from compress.artefacts.results import (
    MeasuredRun,
    NetworkResult,
    PackedFolder,
    PromisedNetwork,
    PruneResult,
    RewriteResult,
    SearchResult,
    read_results,
    write_results,
)
from compress.errors import RunError, TableError
from compress.jobs.change import speed_ups
from compress.jobs.finalise import with_decoding
from compress.jobs.latency.pack import (
    Manifest,
    PackedNetwork,
    check_packable,
    packed_folder,
    read_manifest,
    read_times,
    whole_of,
    write_manifest,
)
from compress.jobs.prune.goal import reached
from compress.jobs.search.finalists import compare, measured_front
from compress.measure.latency import Latency
from compress.measure.latency_model import identity_of, label
from compress.measure.latency_table import load_table
from compress.measure.target import Target, parse
from compress.recipe import PruneRecipe

Result = SearchResult | PruneResult | RewriteResult
JOBS: Mapping[str, type[Result]] = {"search": SearchResult, "prune": PruneResult, "rewrite": RewriteResult}


def pack_run(run: Path, folder: Path, name: str | None = None) -> PackedFolder:
    """Writes a folder with every network of the run, exported for the target's engine.

    name: of the target, one of the run's of another device; None takes the only one. Raises RunError for a run that has
    none, is not finished, or lacks a file; TableError for a folder that is there already.
    """
    _, result = read_run(run)
    target = foreign_target(run, result, name)
    check_packable(target, folder)
    packed = []
    for one in networks_of(result):
        if target.engine in one.refused:
            continue
        for number, file in enumerate(one.export(target.engine).files):
            source = run / one.folder / file
            if not source.is_file():
                raise RunError("an exported file is missing", place=str(source), remedy="run the job again")
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / f"{one.name}{_ending(file)}")
            if number == 0:
                packed.append(PackedNetwork(one.name, f"{one.name}{_ending(file)}", one.input_hw or input_of(result)))
    write_manifest(folder, target, fingerprint(result, target), packed)
    return packed_folder(folder, target, packed, 0)


def unpack_run(run: Path, folder: Path) -> tuple[str, Result, MeasuredRun]:
    """Puts what was measured in the folder into the run's results.json; returns the job, its results, and both times.

    Raises TableError for results of another run or device, of other threads or another precision, and where run.py has
    not measured everything.
    """
    job, result = read_run(run)
    manifest = read_manifest(folder)
    target = next((one for one in foreign_targets(result) if fingerprint(result, one) == manifest.folder), None)
    if target is None:
        raise TableError(
            "the packed folder must be of this run",
            place=str(folder),
            value=str(run),
            remedy="name the run that it was packed from",
        )
    measured = times_of(folder, manifest, target)
    promised = {one.name: one.predicted[target.name] for one in networks_of(result) if one.name in measured}
    changed = with_measured(result, target, measured)
    write_results(run / "results.json", job, changed)
    networks = tuple(PromisedNetwork(name, promised[name], met) for name, met in measured.items())
    errors = [abs(one.error) for one in networks]
    tau = float(kendalltau([one.promised.ms for one in networks], [one.met.ms for one in networks]).statistic)
    found = MeasuredRun(
        run=str(run),
        target=target.name,
        networks=networks,
        mean_error=fmean(errors),
        worst_error=max(errors),
        tau=tau if len(networks) > 1 else None,
        goal=changed.goal if isinstance(changed, PruneResult) else None,
    )
    return job, changed, found


def read_run(run: Path) -> tuple[str, Result]:
    """The job of a run folder and its results. Raises RunError."""
    path = run / "results.json"
    try:
        job = json.loads(path.read_text(encoding="utf-8")).get("job")
    except (OSError, ValueError, AttributeError):
        job = "search"  # reading it says what is wrong
    if job not in JOBS:
        raise RunError(
            "only the networks of a search, a pruning or a rewriting are packed",
            place=str(path),
            value=job,
            remedy="name another run",
        )
    return job, read_results(path, job, JOBS[job])


def foreign_targets(result: Result) -> list[Target]:
    """The run's targets of other devices."""
    recipe = result.run.recipe
    listed: Sequence[str] = (recipe.get("measurement") or recipe)["targets"]
    return [target for target in map(parse, listed) if target.foreign]


def foreign_target(run: Path, result: Result, name: str | None) -> Target:
    """The named one, or the only one. Raises RunError."""
    targets = {target.name: target for target in foreign_targets(result)}
    if name is None and len(targets) == 1:
        return next(iter(targets.values()))
    if name in targets:
        return targets[name]
    raise RunError(
        "the run must have a target of another device"
        if not targets
        else "name one of the run's targets with --target",
        place=str(run),
        value=name,
        remedy=", ".join(targets) or "its networks were measured on this machine",
    )


def networks_of(result: Result) -> list[NetworkResult]:
    """All networks of the run."""
    if isinstance(result, SearchResult):
        return list(result.networks)
    pair = (result.given, result.pruned if isinstance(result, PruneResult) else result.rewritten)
    return [one for one in pair if one]


def input_of(result: Result) -> tuple[int, int]:
    """The input size of networks that do not say their own."""
    if isinstance(result, SearchResult):
        height, width = result.run.recipe["input_hw"]
        return height, width
    return result.input_hw


def fingerprint(result: Result, target: Target) -> str:
    """Tells the folder of this run and target from others: of the recipe and of the networks."""
    parts = [str(target), result.run.recipe, [[one.name, one.params, one.macs] for one in networks_of(result)]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def times_of(folder: Path, manifest: Manifest, target: Target) -> dict[str, Latency]:
    """Network → the time of one pass there, on the clock of the target's table. Raises TableError."""
    results, identity = read_times(folder, manifest), identity_of(target)
    run = next((one for one in results.runs if results.identity(one) == identity), None)
    if run is None:
        raise TableError(
            f"the results must be of {identity}",
            place=str(folder),
            value="; ".join(str(results.identity(one)) for one in results.runs),
            remedy=f"run it there with --threads {identity.threads} --precision {identity.precision}",
        )
    assert target.table is not None
    clock_ms, of = load_table(target.table).reference_ms, label(target, identity)
    return {one.name: Latency.of_timing(whole_of(one), of, clock_ms) for one in run.networks}


def with_measured(result: Result, target: Target, measured: Mapping[str, Latency]) -> Result:
    """The same with these latencies on the target in place of predicted ones, and with what follows from them."""

    def met(one: NetworkResult) -> NetworkResult:
        if one.name not in measured:
            return one
        changed = replace(one, latency={**one.latency, target.name: measured[one.name]})
        if isinstance(result, SearchResult) and result.target.name == target.name:
            return with_decoding(changed, target, [evaluation.decoding for evaluation in one.evaluations])
        return changed

    if isinstance(result, SearchResult):
        networks = tuple(map(met, result.networks))
        comparisons = tuple(compare(one, networks) for one in networks if one.role == "baseline")
        best = measured_front(networks, result.objectives, {one.name: result.trial_of(one) for one in networks})
        return replace(result, networks=networks, best=best, comparisons=comparisons)
    given = met(result.given) if result.given else None
    if isinstance(result, PruneResult):
        assert given is not None
        pruned = met(result.pruned)
        faster = speed_ups(given, pruned)
        recipe = PruneRecipe.model_validate(result.run.recipe)
        goal = reached(recipe, given, pruned, faster)
        return replace(result, given=given, pruned=pruned, speed_up=faster, goal=goal)
    if given is None or result.rewritten is None:
        return result
    rewritten = met(result.rewritten)
    return replace(result, given=given, rewritten=rewritten, speed_up=speed_ups(given, rewritten))


def _ending(file: str) -> str:
    """`.ncnn.param` of `model.ncnn.param`."""
    return file[file.index(".") :]
