"""`compress prune`: a network without what it needs least; tuned, exported, compared with torch, and measured.

Read `prune` from top to bottom: that is the order things happen in. What goes is chosen in `compress.pruning`.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.artefact import CHANNELS_PRUNED, save_artefact
from compress.data.loader import Batch as LabelledBatch
from compress.deployment import export_and_check, measure_exports, sample_images
from compress.engines import engine
from compress.errors import DataError
from compress.evaluation import MAIN_FIGURE, RESAMPLES, score
from compress.files import write_json
from compress.measure.counting import count
from compress.people import first_inputs
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
)
from compress.recalibration import PICTURES, recalibrate
from compress.recipe import PruneRecipe, to_data
from compress.run import environment, open_run
from compress.subject import read_subject
from compress.training import batch_count, distilled_step, train

OBTAINED = "pruned and fine-tuned"


def prune(name: str, recipe: PruneRecipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """Prunes, tunes, exports and measures NETWORK in `folder`; resumes a killed run. Returns results.json's content.

    Raises a CompressError before any work if the recipe, the network or the data cannot be used, BudgetError for a goal
    that pruning does not reach.
    """
    subject = read_subject(name, recipe)
    check_request(subject, recipe)
    with open_run(folder, recipe, subject=name) as run:
        task = Task(recipe, subject, run, progress, launch("auto"))
        if not subject.learning:
            progress.say(
                f"{name} has no trained weights, or no --data: it is pruned and measured, not tuned and not scored"
            )
        given = run.once("given", partial(export_given, task))
        network, choices = subject.network, []
        for number in range(1, recipe.pruning.steps + 1):
            choices.append(run.once(f"choice_{number}", partial(choose, task, network, number)))
            network = apply(task, network, choices[-1])
            tune(task, network, choices[-1], number)
        pruned = run.once("pruned", partial(finish, task, network))
        timed = run.once("measured", partial(measure, task, given, pruned))
        results = collect(task, given, pruned, timed, choices)
        write_json(run.path("results.json"), results)
    return results


def analyse(name: str, recipe: PruneRecipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """The sensitivity of every section and functional block: accuracy against the share of channels gone.

    Points are kept as they come, and a killed analysis goes on. Raises DataError for a network without trained weights.
    """
    subject = read_subject(name, recipe)
    if subject.learning is None:
        raise DataError("only a trained network has an accuracy to lose", place=name,
                        remedy="give an artefact, or your own network and --data")  # fmt: skip
    with open_run(folder, recipe, subject=name) as run:
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


def export_given(task: Task) -> dict[str, Any]:
    """The given network's exports, counts, and score."""
    return state_of(task, task.subject.network, task.run.path("given"))


def state_of(task: Task, network: nn.Module, folder: Path) -> dict[str, Any]:
    """Exports the network to `folder`; what it costs and, if it is trained, its validation score."""
    recipe, subject, learning = task.recipe, task.subject, task.subject.learning
    counted = count(network, subject.input_hw)
    images = (
        sample_images(learning.sets.val, recipe.parity_pictures, subject.input_hw)
        if learning
        else [torch.randn(1, 3, *subject.input_hw, generator=torch.Generator().manual_seed(0)).numpy()]
    )
    network.cpu()
    exports: dict[str, Any] = {}
    for name in recipe.exports:
        exports |= export_and_check(for_engine(network, name, recipe), [name], images, subject.input_hw, folder)
    val = None
    if learning:
        with task.progress.phase("scoring", len(learning.sets.val)) as phase:
            val = score(
                network.to(task.fabric.device), learning.finder, learning.sets.val, kind=learning.data.kind,
                flip_test=recipe.decoding.flip_test, resamples=RESAMPLES, phase=phase,
            )  # fmt: skip
    return {"params": counted.params, "macs": counted.macs, "val": val, "exports": exports}


def tune(task: Task, network: nn.Module, choice: Mapping[str, Any], number: int) -> None:
    """Fine-tunes with the given network as teacher and recalibrates; zeros stay. Changes the network."""
    learning, asked, subject = task.subject.learning, task.recipe.pruning, task.subject
    if learning is None:
        return
    settings = task.recipe.training.model_copy(update={"exact": learning.exact})
    samples = learning.objective.samples(learning.sets.train)
    network.to(task.fabric.device)
    teacher = subject.network.to(task.fabric.device)
    steps = batch_count(settings, samples)
    zeros = Sparsifier(
        network, scheme_of(task), choice.get("ratios", {}), asked.schedule, steps * settings.accumulate, asked.force
    )  # fmt: skip
    follow = distilled_step([network], teacher, learning.objective, settings.distillation, task.fabric)

    def step(batch: LabelledBatch, rng: random.Random) -> float:
        zeros.begin_step()
        loss = follow(batch, rng)
        penalty = zeros.penalty()
        if penalty is not None:
            task.fabric.backward(penalty)
        return loss

    with task.progress.phase(f"fine-tuning, step {number}", steps) as phase:
        train(
            nn.ModuleDict({"network": network, "zeros": zeros}),
            [dict(network.named_parameters())],
            step,
            samples=samples,
            settings=settings,
            seed=subject.seed,
            fabric=task.fabric,
            workers=learning.data.workers,
            checkpoint=task.run.path("steps", f"tuned_{number}.pt"),
            phase=phase,
        )
    zeros.hold()
    recalibrate(network, inputs(task))
    for one in (network, teacher):  # what follows is done where the engines are
        one.cpu()


def inputs(task: Task) -> Iterator[Tensor]:
    """Training pictures as evaluation sees them."""
    learning = task.subject.learning
    assert learning is not None
    return first_inputs(learning.finder, learning.sets.train, PICTURES, task.fabric.device)


# --- What came out ---------------------------------------------------------------------------------------------------


def finish(task: Task, network: nn.Module) -> dict[str, Any]:
    """The pruned network's state; its artefact and exports lie in the run folder."""
    subject, learning, folder = task.subject, task.subject.learning, task.run.folder
    state = state_of(task, network, folder)
    edits = subject.edits
    if task.recipe.pruning.scheme == "channel" and CHANNELS_PRUNED not in edits:
        edits = (*edits, CHANNELS_PRUNED)
    facts: dict[str, Any] = {"network": subject.name, "input_hw": list(subject.input_hw), "seed": subject.seed}
    if learning:
        facts |= {
            "keypoints": learning.sets.train.keypoints.name,
            "exact": learning.exact,
            "obtained": OBTAINED,
            "data": learning.data.model_dump(mode="json"),
            "val": state["val"],
        }
    save_artefact(folder, subject.architecture, network, facts, edits)
    return state


def measure(task: Task, given: Mapping[str, Any], pruned: Mapping[str, Any]) -> dict[str, Any]:
    """Both networks on every engine, in one interleaved run."""
    folders = {"given": task.run.path("given"), "pruned": task.run.folder}
    exports = {"given": given["exports"], "pruned": pruned["exports"]}
    return measure_exports(folders, exports, task.recipe, task.subject.input_hw, task.progress)


def collect(
    task: Task, given: Mapping[str, Any], pruned: Mapping[str, Any], timed: Mapping[str, Any], choices: list[Any]
) -> dict[str, Any]:
    """Everything the report shows, as plain data. speed_up: per engine, of the measured ratios."""
    learning = task.subject.learning
    return {
        "job": "prune",
        "network": task.subject.name,
        "folder": str(task.run.folder),
        "input_hw": list(task.subject.input_hw),
        "recipe": to_data(task.recipe),
        "environment": environment(),
        "engines": {name: engine_facts(name) for name in task.recipe.exports},
        "trained": learning is not None,
        "figure": MAIN_FIGURE[learning.data.kind] if learning else None,
        "given": {**given, "measured": timed["given"]},
        "pruned": {**pruned, "measured": timed["pruned"]},
        "speed_up": {
            name: timed["given"][name]["ratio"] / timed["pruned"][name]["ratio"] for name in task.recipe.exports
        },
        "choices": [{key: value for key, value in choice.items() if key != "gone"} for choice in choices],
    }


def engine_facts(name: str) -> dict[str, str]:
    """The engine's version and the device."""
    described = engine(name).describe()
    return {"version": described.version, "device": described.device}
