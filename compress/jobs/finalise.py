"""What surrounds every change of a given network: its state before, fine-tuning, its state after, both measured.

The given network is the teacher and stays as it is. `compress prune` and `compress rewrite` differ in what they change.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from lightning_fabric import Fabric
from torch import nn

from compress.artefacts.artefact import Edit, save_artefact
from compress.artefacts.network import Subject
from compress.artefacts.run import Run, environment
from compress.data.loader import Batch
from compress.engines import engine
from compress.engines.export import ForEngine, as_it_is, export_and_check, sample_images
from compress.errors import EngineError, RecipeError, nearest
from compress.measure.comparison import Measured, speed_up
from compress.measure.counting import count
from compress.measure.whole_networks import measure_exports
from compress.networks import Architecture
from compress.pose.estimator import first_inputs
from compress.pose.scoring import MAIN_FIGURE, RESAMPLES, Score, procedure, score
from compress.progress import Progress
from compress.pruning.schedule import Sparsifier
from compress.recipe import ChangeRecipe, to_data
from compress.training.loop import batch_count, distilled_step, label_loss, train
from compress.training.recalibration import KEPT, PICTURES, recalibrate_unless_worse

AnyRecipe = TypeVar("AnyRecipe", bound=ChangeRecipe)


@dataclass(frozen=True)
class Task(Generic[AnyRecipe]):
    """What every step of one run needs to know."""

    recipe: AnyRecipe
    subject: Subject
    run: Run
    progress: Progress
    fabric: Fabric


Sparsify = Callable[[nn.Module, int], Sparsifier]
"""Network, number of steps → what makes zeros during fine-tuning and keeps them; its state is kept with the run."""


def check_patterns(network: nn.Module, patterns: Iterable[str], what: str, key: str) -> None:
    """Raises RecipeError for a pattern that no module of the network has. what: is named so; key: of the recipe."""
    modules = [path for path, _ in network.named_modules() if path]
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in modules):
            raise RecipeError(
                f"{what} must be one the network has",
                place=f"recipe: {key}",
                value=pattern,
                remedy=nearest(pattern, (path for path in modules if path.count(".") < 2)),
            )


def state_of(task: Task[Any], network: nn.Module, folder: Path, for_engine: ForEngine = as_it_is) -> dict[str, Any]:
    """Exports the given network to `folder`; what it costs and, if it is trained, its validation score.

    val: in the recipe's procedure; other_val: in the other one, with or without the mirrored pass.

    Raises EngineError where an engine does not take it, which is known before the work then.
    """
    exported = _exported(task, network, folder, for_engine)
    if exported["refused"]:
        raise EngineError(
            "every engine of `exports` must take the given network: "
            + "; ".join(f"{name}: {why}" for name, why in exported["refused"].items()),
            place=task.subject.name,
            remedy="leave engines that do not out of `exports`",
        )
    return _scored(task, network, "as given") | exported


def _exported(task: Task[Any], network: nn.Module, folder: Path, for_engine: ForEngine) -> dict[str, Any]:
    """`exports`: by engine; `refused`: engine → why there is none."""
    recipe, subject, learning = task.recipe, task.subject, task.subject.learning
    images = (
        sample_images(learning.sets.val, recipe.parity_pictures, subject.input_hw)
        if learning
        else [torch.randn(1, 3, *subject.input_hw, generator=torch.Generator().manual_seed(0)).numpy()]
    )
    network.cpu()
    exports, refused = export_and_check(network, recipe.exports, images, subject.input_hw, folder, for_engine)
    return {"exports": exports, "refused": refused}


def _scored(task: Task[Any], network: nn.Module, provenance: str) -> dict[str, Any]:
    """What the network costs and, if it is trained, its validation scores."""
    recipe, subject, learning = task.recipe, task.subject, task.subject.learning
    network.cpu()
    counted = count(network, subject.input_hw)
    vals: dict[bool, dict[str, Any] | None] = dict.fromkeys((False, True))
    if learning:
        with task.progress.phase("scoring", 2 * len(learning.sets.val)) as phase:
            for flip in vals:
                vals[flip] = score(
                    network.to(task.fabric.device),
                    learning.estimator,
                    learning.sets.val,
                    kind=learning.data.kind,
                    provenance=provenance,
                    flip_test=flip,
                    resamples=RESAMPLES,
                    phase=phase,
                ).figures
    flip = recipe.decoding.flip_test
    return {
        "params": counted.params,
        "macs": counted.macs,
        "uncounted": list(counted.uncounted),
        "val": vals[flip],
        "other_val": vals[not flip],
    }


def tune(task: Task[Any], network: nn.Module, checkpoint: str, title: str, sparsify: Sparsify | None = None) -> None:
    """Fine-tunes with the given network as teacher and recalibrates; does nothing without trained weights.

    Changes the network. checkpoint: name of the file under steps/. sparsify: see Sparsify.
    """
    learning, subject = task.subject.learning, task.subject
    if learning is None:
        return
    settings = task.recipe.training
    samples = learning.objective.samples(learning.sets.train)
    network.to(task.fabric.device)
    teacher = subject.network.to(task.fabric.device)
    steps = batch_count(settings, samples)
    follow = distilled_step([network], teacher, learning.objective, settings.distillation, task.fabric)
    zeros = sparsify(network, steps * settings.accumulate) if sparsify else None

    def step(batch: Batch, rng: random.Random) -> float:
        if zeros is None:
            return follow(batch, rng)
        zeros.begin_step()
        loss = follow(batch, rng)
        penalty = zeros.penalty()
        if penalty is not None:
            task.fabric.backward(penalty)
        return loss

    trained = nn.ModuleDict({"network": network})
    if zeros is not None:
        trained["zeros"] = zeros
    with task.progress.phase(title, steps) as phase:
        train(
            trained,
            [dict(network.named_parameters())],
            step,
            samples=samples,
            settings=settings,
            seed=subject.seed,
            fabric=task.fabric,
            workers=learning.data.workers,
            checkpoint=task.run.path("steps", f"{checkpoint}.pt"),
            phase=phase,
        )
    if zeros is not None:
        zeros.hold()
    inputs = first_inputs(learning.estimator, learning.sets.train, PICTURES, task.fabric.device)
    judged = partial(label_loss, network, learning.objective, samples, settings, subject.seed)
    if not recalibrate_unless_worse(network, inputs, judged):
        task.progress.say(KEPT.format("the tuned network"))
    for one in (network, teacher):  # what follows is done where the engines are
        one.cpu()


def finish(
    task: Task[Any],
    network: nn.Module,
    architecture: Architecture,
    edits: Sequence[Edit],
    provenance: str,
    for_engine: ForEngine = as_it_is,
) -> dict[str, Any]:
    """The changed network's state; its artefact and exports lie in the run folder, the artefact first.

    An engine that refuses it is named in the results, for all other work is done; one that times are told of raises
    EngineError.
    """
    subject, learning, folder = task.subject, task.subject.learning, task.run.folder
    state = _scored(task, network, provenance)
    facts: dict[str, Any] = {"network": subject.name, "input_hw": list(subject.input_hw), "seed": subject.seed}
    if learning:
        facts |= {
            "keypoints": learning.sets.train.keypoints.name,
            "codec": asdict(learning.codec),
            "provenance": provenance,
            "data": learning.data.model_dump(mode="json"),
            "flip_test": task.recipe.decoding.flip_test,
            "val": state["val"],
        }
    save_artefact(folder, architecture, network, facts, edits)
    state |= _exported(task, network, folder, for_engine)
    why = state["refused"].get(task.recipe.engine)
    if why:
        raise EngineError(
            f"the changed network is saved, but {task.recipe.engine} does not take it: {why}",
            place=str(folder),
            remedy="export it to another engine (compress export), or change it otherwise",
        )
    return state


def measure(task: Task[Any], given: Mapping[str, Any], changed: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Both networks on every engine, in one interleaved run; the changed one under `name`."""
    folders = {"given": task.run.path("given"), name: task.run.folder}
    exports = {"given": given["exports"], name: changed["exports"]}
    return measure_exports(folders, exports, task.recipe, task.subject.input_hw, task.progress)


def both(
    task: Task[Any], given: Mapping[str, Any], changed: Mapping[str, Any], timed: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """What a report shows of both networks, as plain data. speed_up: per engine, see compress.measure.comparison."""
    learning, recipe = task.subject.learning, task.recipe
    figure = MAIN_FIGURE[learning.data.kind] if learning else None
    no_use = figure is not None and Score.of_figures(figure, changed["val"]).worthless
    speed_ups = {
        key: speed_up(*(time_of(timed[one][key]) for one in ("given", name)), worthless=no_use) for key in timed[name]
    }
    return {
        "network": task.subject.name,
        "folder": str(task.run.folder),
        "input_hw": list(task.subject.input_hw),
        "recipe": to_data(recipe),
        "environment": environment(),
        "engines": {engine_name: engine_facts(engine_name) for engine_name in recipe.exports},
        "trained": learning is not None,
        "procedures": [procedure(flip) for flip in (recipe.decoding.flip_test, not recipe.decoding.flip_test)],
        "passes": 1 + recipe.decoding.flip_test,
        "figure": figure,
        "given": {**given, "measured": timed["given"]},
        name: {**changed, "measured": timed[name]},
        "speed_up": {key: asdict(one) for key, one in speed_ups.items()},
        "failed_exports": [f"{engine_name}: {why}" for engine_name, why in changed["refused"].items()],
    }


def time_of(timing: Mapping[str, Any]) -> Measured:
    """A timing of measure_exports as it is compared and shown."""
    return Measured(timing["normalised_ms"], timing["uncertainty"])


def engine_facts(name: str) -> dict[str, str]:
    """The engine's version and the device."""
    described = engine(name).describe()
    return {"version": described.version, "device": described.device}
