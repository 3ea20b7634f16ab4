"""`compress prune`: a network without what it needs least; tuned, exported, compared with torch, and measured.

Read `prune` from top to bottom: that is the order things happen in. What goes is chosen in `compress.pruning`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from compress.artefact import CHANNELS_PRUNED, Edit
from compress.changing import both, finish, measure, state_of, tune
from compress.errors import DataError
from compress.evaluation import MAIN_FIGURE
from compress.files import write_json
from compress.processes import launch
from compress.progress import Progress
from compress.prune.schedule import Sparsifier
from compress.prune.sections import Section, whole
from compress.prune.sensitivity import functional_blocks
from compress.pruning import (
    Task,
    apply,
    channels_of,
    check_request,
    choose,
    for_engine,
    prunable,
    scheme_of,
    sensitivity_points,
    wanted_share,
)
from compress.recipe import PruneRecipe
from compress.run import open_run
from compress.subject import read_subject

OBTAINED = "pruned and fine-tuned"


def prune(name: str, recipe: PruneRecipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """Prunes, tunes, exports and measures NETWORK in `folder`; resumes a killed run. Returns results.json's content.

    Raises a CompressError before any work if the recipe, the network or the data cannot be used, BudgetError for a goal
    that pruning does not reach.
    """
    subject = read_subject(name, recipe, recipe.pruning.pictures, "pruning.pictures")
    check_request(subject, recipe)
    with open_run(folder, recipe, subject=name, digest=subject.digest) as run:
        task = Task(recipe, subject, run, progress, launch("auto"))
        if not subject.learning:
            progress.say(
                f"{name} has no trained weights, or no --data: it is pruned and measured, not tuned and not scored"
            )
        if recipe.pruning.latency_ms is not None:
            wanted_share(task)  # a goal that is met already is refused before any other work
        as_run = partial(for_engine, recipe=recipe)
        given = run.once("given", lambda: state_of(task, subject.network, run.path("given"), as_run))
        network, choices = subject.network, []
        for number in range(1, recipe.pruning.steps + 1):
            choices.append(run.once(f"choice_{number}", partial(choose, task, network, number)))
            network = apply(task, network, choices[-1])
            tune_pruned(task, network, choices[-1], number)
        pruned = run.once(
            "pruned", lambda: finish(task, network, subject.architecture, edits_of(task), OBTAINED, as_run)
        )
        timed = run.once("measured", lambda: measure(task, given, pruned, "pruned"))
        told = [{key: value for key, value in choice.items() if key != "gone"} for choice in choices]
        results = {"job": "prune", **both(task, given, pruned, timed, "pruned"), "choices": told}
        write_json(run.path("results.json"), results)
    return results


def analyse(name: str, recipe: PruneRecipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """The sensitivity of every section and functional block: accuracy against the share of channels gone.

    Points are kept as they come, and a killed analysis goes on. Raises DataError for a network without trained weights.
    """
    subject = read_subject(name, recipe, recipe.pruning.pictures, "pruning.pictures")
    if subject.learning is None:
        raise DataError("only a trained network has an accuracy to lose", place=name,
                        remedy="give an artefact, or your own network and --data")  # fmt: skip
    with open_run(folder, recipe, subject=name, digest=subject.digest) as run:
        task = Task(recipe, subject, run, progress, launch("auto"))
        channels, parts, scores = channels_of(task, subject.network)
        targets: dict[str, list[Section]] = {part.name: [part] for part in prunable(parts)}
        blocks = {block: list(members) for block, members in functional_blocks(parts).items()}
        points = sensitivity_points(task, subject.network, channels, {**blocks, **targets}, scores)
        widths = {part.name: part.channels for part in parts}
        results = {
            "job": "analyse",
            "network": name,
            "folder": str(folder),
            "figure": MAIN_FIGURE[subject.learning.data.kind],
            "points": [asdict(point) for point in points],
            "blocks": sorted(blocks),
            "channels": widths,
            "untouched": whole(parts),
        }
        write_json(run.path("sensitivity.json"), results)
    return results


# --- Steps -----------------------------------------------------------------------------------------------------------


def tune_pruned(task: Task, network: nn.Module, choice: Mapping[str, Any], number: int) -> None:
    """Fine-tunes; zeros stay. Changes the network."""
    asked = task.recipe.pruning

    def sparsify(network: nn.Module, steps: int) -> Sparsifier:
        return Sparsifier(network, scheme_of(task), choice.get("ratios", {}), asked.schedule, steps, asked.force)

    tune(task, network, f"tuned_{number}", f"fine-tuning, step {number}", sparsify)


def edits_of(task: Task) -> tuple[Edit, ...]:
    """What was done to the architecture, this pruning last."""
    given = task.subject.edits
    return given if task.recipe.pruning.scheme != "channel" or CHANNELS_PRUNED in given else (*given, CHANNELS_PRUNED)
