"""Several processes on the trials of one search: on one machine, or on several that have one storage.

A process that finds the run folder in use by another one takes part: what came before the trials lies in the folder.
The other processes of one machine, `--workers`, are started here and take part like that, too; they end when the one
does that started them.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from compress.artefacts.artefact import network_digest
from compress.artefacts.network import Named
from compress.artefacts.results import Trial
from compress.artefacts.run import in_use
from compress.data.memory import settled_heap
from compress.errors import CompressError, RecipeError, RunError
from compress.jobs.search.halving import run_halving
from compress.jobs.search.single_edits import first_picks
from compress.jobs.search.task import Task
from compress.jobs.search.trials import (
    Limits,
    Models,
    Weights,
    check_budget,
    priced_targets,
    run_trials,
    space_models,
    trained_weights,
)
from compress.jobs.search.workers import Told, threads_of_each, worker
from compress.measure.latency_model import LatencyModel, runtime_of
from compress.nas.space import Pick
from compress.nas.study import JOURNAL, SharedStudy, open_storage, study_exists
from compress.pose.scoring import main_figure
from compress.recipe import SearchRecipe, fingerprint
from compress.training.processes import world_size

_POLL_S = 1.0
_ENDING_S = 5.0  # for the others to see that there are enough trials


def shares(recipe: SearchRecipe, folder: Path) -> bool:
    """Whether the trials are those of a study that other processes can join. Those of candidates that are trained alone
    are not: cohorts are compared in one process, whose workers train them (compress.jobs.search.trainers)."""
    search = recipe.search
    together = search.workers > 1 and search.method != "train"
    return together or search.storage is not None or (folder / JOURNAL).is_file()


def check_sharing(task: Task, named: Named | None) -> None:
    """Before any work. Raises RecipeError for what several processes cannot do, and what compress.nas.study does for a
    storage that cannot be used. named: the network as it was given, beside the recipe."""
    recipe, folder = task.recipe, task.run.folder
    if world_size() > 1 and recipe.search.workers > 1:
        raise RecipeError(
            "torchrun's processes train together, and start no workers",
            place=recipe.place("search.workers"),
            value=recipe.search.workers,
            remedy="use one worker, or search without torchrun",
        )
    if recipe.search.workers == 1 and not shares(recipe, folder):
        return
    asked = recipe.place("search.storage" if recipe.search.storage else "search.workers")
    if named is not None and not isinstance(named, str | Path):
        raise RecipeError(
            "every process opens the network itself, by its name",
            place=asked,
            value=f"a {type(named).__name__}",
            remedy="save it and give the folder, or use one worker and no storage",
        )
    if recipe.search.method == "train":
        if recipe.search.storage is not None:
            raise RecipeError(
                "cohorts of candidates that are trained alone are compared in one process",
                place=asked,
                remedy="use workers of this machine, and no storage",
            )
        return
    if recipe.search.zero_cost.proxy:
        raise RecipeError(
            "a zero-cost filter compares proposals in one process", place=asked, remedy="use one worker and no storage"
        )
    for target in priced_targets(recipe):
        if not runtime_of(target).has_kernels:
            raise RecipeError(
                "candidates of this engine are timed whole, which other processes would disturb",
                place=asked,
                value=target.engine,
                remedy="use one worker and no storage, or another target",
            )
    if recipe.search.storage is not None:
        with open_storage(_study(recipe, folder, "")):
            pass


def scored_trials(task: Task, models: Models, weights: Weights, budget: Limits) -> list[Trial]:
    """All trials of the search, scored by this process and the others that take part; see run_trials, run_halving."""

    def work() -> list[Trial]:
        if task.recipe.search.method == "train":
            return run_halving(task, models, weights, budget)
        first = first_picks(task, models, weights, budget)  # before the others begin, who find it in the folder
        with workers(task):
            return _run(task, models, weights, budget, first)

    return task.run.once("trials", work, list[Trial])


def take_part(task: Task, alone: bool = False) -> None:
    """Scores trials beside the process that has the run folder, from where its trials begin until there are enough.

    alone: starts no other processes.
    """
    task = replace(task, beside=True)
    study = _study(task.recipe, task.run.folder, "")
    task.progress.say(f"{task.run.folder} is in use: this process takes part in its trials")
    while not study_exists(study):
        if not in_use(task.run.folder):
            return
        time.sleep(_POLL_S)
    models = space_models(task)
    budget = check_budget(task, models)
    weights, _ = trained_weights(task)
    first = first_picks(task, models, weights, budget)
    with nullcontext() if alone else workers(task):
        _run(task, models, weights, budget, first)


def _run(task: Task, models: Models, weights: Weights, budget: Limits, first: Sequence[Pick]) -> list[Trial]:
    study = shared_study(task, models, weights, budget)
    if study is None:
        return run_trials(task, models, weights, budget, first)
    with open_storage(study) as storage:
        return run_trials(task, models, weights, budget, first, (study, storage))


def shared_study(task: Task, models: Models, weights: Weights, budget: Limits) -> SharedStudy | None:
    """The study of the trials; None where one process does them all, without a storage.

    Raises RunError where the trials of this run are in a storage, and none is given.
    """
    recipe, run = task.recipe, task.run
    if run.path("steps", "storage.json").is_file() and recipe.search.storage is None:
        raise RunError(
            "the trials of this run are in a storage",
            place=str(run.folder),
            value=run.once("storage", str, str),
            remedy="give it with --storage",
        )
    if not shares(recipe, run.folder):
        return None
    found = hashlib.sha256()
    found.update(network_digest(task.architecture, weights(task.space.largest), trained=True).encode())
    for model in models.values():
        assert isinstance(model, LatencyModel)
        found.update(model.table.path.read_bytes())
    found.update(json.dumps(sorted(budget.most.items())).encode())
    study = _study(recipe, run.folder, f"{fingerprint(recipe)} {found.hexdigest()[:16]}")
    if recipe.search.storage is not None:
        run.once("storage", lambda: study.place, str)
    return study


def _study(recipe: SearchRecipe, folder: Path, digest: str) -> SharedStudy:
    """Named as the run folder."""
    objectives = (*map(str, recipe.search.objectives), main_figure(recipe.data.kind))
    storage = recipe.search.storage or folder / JOURNAL
    return SharedStudy(storage, folder.resolve().name, digest, objectives)


# --- The other processes of this machine -----------------------------------------------------------------------------


@contextmanager
def workers(task: Task) -> Iterator[None]:
    """search.workers - 1 processes that take part while the block runs; all have their part of the cores."""
    count = task.recipe.search.workers
    if count == 1:
        yield
        return
    threads, before = threads_of_each(count), torch.get_num_threads()
    with ExitStack() as stack:
        torch.set_num_threads(threads)
        stack.callback(torch.set_num_threads, before)
        others = [
            stack.enter_context(worker(task, __name__, number, threads=threads)) for number in range(2, count + 1)
        ]
        yield
        until = time.monotonic() + _ENDING_S
        while any(one.process.poll() is None for one in others) and time.monotonic() < until:
            time.sleep(0.1)
        for one in others:
            if how := one.ended():
                task.progress.say(f"worker {one.number} ended early ({how}); the others did its trials")


def main() -> None:
    """What such a process does: takes part in the run folder that it is told."""
    try:
        with settled_heap():
            take_part(Told().task, alone=True)
    except CompressError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
