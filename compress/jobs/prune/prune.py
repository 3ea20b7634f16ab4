"""`compress prune`: a smaller network of the same kind; tuned, exported, compared with torch, and measured.

Read `prune` from top to bottom: that is the order things happen in. What is removed is chosen in `choice`, until it
meets the goal, in `goal`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from compress.artefacts.network import Named, learning_of, open_network
from compress.artefacts.results import OtherPruner, PruneResult, SensitivityResult, write_results
from compress.artefacts.run import open_run
from compress.errors import BudgetError, DataError
from compress.jobs.change import (
    finish_changed,
    finish_given,
    scoring_stages,
    speed_ups,
    timing_stages,
    tune_changed,
    tuning_stages,
)
from compress.jobs.finalise import measure, run_record
from compress.jobs.names import check_names
from compress.jobs.prune.choice import (
    Chosen,
    Removal,
    apply,
    check_network,
    choose,
    edits_of,
    prunable,
    removes_nothing,
    scheme_of,
    sensitivity_points,
)
from compress.jobs.prune.goal import Task, check_goal, for_engine, reached, requested_share
from compress.progress import Progress, Stage
from compress.pruning.schedule import Sparsifier
from compress.recipe import PruneRecipe

PROVENANCE = "pruned and fine-tuned"


def prune(named: Named, recipe: PruneRecipe, folder: Path, progress: Progress) -> PruneResult:
    """Prunes, tunes, exports and measures NETWORK in `folder`; resumes a killed run. The result is in results.json too.

    Raises a CompressError before any work if the recipe, the network or the data cannot be used, BudgetError for a goal
    that pruning does not reach, and where nothing can be removed.
    """
    check_names(recipe)
    original = open_network(named, recipe.input_hw, seed=recipe.seed, codec=recipe.codec)
    learning = learning_of(original, recipe, recipe.pruning.pictures, "pruning.pictures")
    check_goal(recipe)
    check_network(original, recipe)
    with open_run(folder, recipe, network=original.name, digest=original.digest) as run:
        task = Task(recipe, original, learning, run, progress)
        if not learning:
            progress.say(
                f"{original.name} has no trained weights, or no data: it is pruned and measured, not tuned, not scored"
            )
        progress.plan(stages(task))
        if recipe.pruning.latency_ms is not None:
            requested_share(task)  # a goal that is met already is refused before any other work
        as_run = partial(for_engine, recipe=recipe)
        given = finish_given(task, as_run)
        network = original.module
        chosen: list[Chosen] = []
        for number in range(1, recipe.pruning.steps + 1):
            one = choose(task, network, number)
            chosen.append(one)
            if not removes_nothing(one):
                network = apply(task, network, one)
                tune_pruned(task, network, one, number)
        check_removed(chosen)
        pruned = finish_changed(
            task, "pruned", network, original.architecture, edits_of(task), PROVENANCE, for_engine=as_run
        )
        other = run.once("compared", partial(compared, task), OtherPruner) if recipe.pruning.compare else None
        theirs = [other.network] if other and other.network else []
        given, pruned, *theirs = measure(task.tail, [given, pruned, *theirs])
        if other and theirs:
            other = replace(other, network=theirs[0], speed_up=speed_ups(given, theirs[0]))
        speed_up = speed_ups(given, pruned)
        result = PruneResult(
            network=original.name,
            input_hw=original.input_hw,
            given=given,
            pruned=pruned,
            speed_up=speed_up,
            goal=reached(recipe, given, pruned, speed_up),
            choices=tuple(one.choice if isinstance(one, Removal) else one for one in chosen),
            run=run_record(run, recipe, recipe.targets),
            torch_pruning=other,
        )
        write_results(run.path("results.json"), "prune", result)
    return result


def analyse(named: Named, recipe: PruneRecipe, folder: Path, progress: Progress) -> SensitivityResult:
    """The sensitivity of every pruning group and functional block: score against the share of channels removed.

    Points are kept as they come, and a killed analysis goes on. The result is in sensitivity.json too. Raises DataError
    for a network without trained weights, and as check_network.
    """
    check_names(recipe)
    original = open_network(named, recipe.input_hw, seed=recipe.seed, codec=recipe.codec)
    learning = learning_of(original, recipe, recipe.pruning.pictures, "pruning.pictures")
    if learning is None:
        raise DataError(
            "only a trained network has an accuracy to lose",
            place=original.name,
            remedy="give an artefact, or your own network with --data",
        )
    check_network(original, recipe)
    with open_run(folder, recipe, network=original.name, digest=original.digest) as run:
        task = Task(recipe, original, learning, run, progress)
        given = prunable(task, original.module)
        alone = {group.name: [group] for group in given.open}
        points = sensitivity_points(task, given, {**given.blocks, **alone})
        result = SensitivityResult(
            network=original.name,
            metric=learning.metric,
            points=tuple(points),
            blocks=tuple(sorted(given.blocks)),
            channels={group.name: group.channels for group in given.groups},
            untouched=given.untouched,
            run=run_record(run, recipe),
        )
        write_results(run.path("sensitivity.json"), "analyse", result)
    return result


# --- Steps -----------------------------------------------------------------------------------------------------------


def stages(task: Task) -> list[Stage]:
    """The phases that take their time; see `scoring_stages`."""
    pruning = task.recipe.pruning
    planned = scoring_stages(task)
    for number in range(1, pruning.steps + 1):
        if task.learning and pruning.allocate in ("sensitivity", "latency"):
            layers = sum(isinstance(module, nn.Conv2d) for module in task.original.module.modules())
            planned.append(Stage("sensitivity", layers * len(pruning.ratios) * pruning.pictures))
        planned += tuning_stages(task, f"fine-tuning, step {number}")
    return [*planned, *scoring_stages(task), *timing_stages(task)]


def compared(task: Task) -> OtherPruner:
    """torch-pruning's network for the same goal, or why there is none."""
    from compress.jobs.prune.compare import prune_by_torch_pruning  # here: the library is imported only where requested

    return prune_by_torch_pruning(task)


def tune_pruned(task: Task, network: nn.Module, chosen: Chosen, number: int) -> None:
    """Fine-tunes; what is zero stays zero. Changes the network."""
    pruning = task.recipe.pruning
    ratios = {} if isinstance(chosen, Removal) else chosen.ratios

    def sparsify(network: nn.Module, steps: int) -> Sparsifier:
        return Sparsifier(network, scheme_of(task), ratios, pruning.schedule, steps, pruning.force)

    tune_changed(task, network, f"tuned_{number}", f"fine-tuning, step {number}", sparsify)


def check_removed(chosen: Sequence[Chosen]) -> None:
    """Raises BudgetError with the reasons if all steps together remove nothing: an unchanged network is no success."""
    if not all(map(removes_nothing, chosen)):
        return
    first = chosen[0].choice if isinstance(chosen[0], Removal) else chosen[0]
    layers: dict[str, list[str]] = {}
    for name, why in first.untouched.items():
        layers.setdefault(why, []).append(name)
    reasons = [
        f"{', '.join(of[:3])}{f' and {len(of) - 3} more' if len(of) > 3 else ''}: {why}"
        for why, of in sorted(layers.items(), key=lambda one: -len(one[1]))
    ]
    too_low = "the requested ratio removes nothing from any layer"
    raise BudgetError(
        f"nothing can be removed: {'; '.join(reasons[:4]) or too_low}",
        place="compress prune",
        remedy="replace what keeps the channels, lower --set pruning.multiple, or request more",
    )
