"""`compress train`: one network on the labels, from random weights or from an artefact's, with or without a teacher.

Under torchrun every process runs this function; the first one writes and scores.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from tensorboardX import SummaryWriter
from torch import nn

from compress.artefacts.artefact import Network, load_artefact
from compress.artefacts.metadata import OWN_WEIGHTS, RANDOM_WEIGHTS
from compress.artefacts.network import Learning, Named, network_digest, open_network
from compress.artefacts.results import TrainResult, write_results
from compress.artefacts.run import Run, open_run
from compress.data.keypoints import KeypointSet
from compress.data.normalisation import Normalisation
from compress.data.sets import Sets, notes_of, train_and_val
from compress.errors import DataError, NetworkError, RecipeError
from compress.jobs.finalise import Finalist, Tail, finish, recalibrate_tuned, run_record
from compress.jobs.names import check_names
from compress.networks import Architecture
from compress.networks.architecture import check_input
from compress.networks.checkpoints import Checkpoint, read_checkpoint
from compress.networks.own import OWN_FAMILIES, check_learns
from compress.networks.weights import check_memory
from compress.pose.approaches import approach_of, estimator_for, objective_for
from compress.pose.codec import Codec
from compress.pose.distillation import FeatureDistillation, OtherInputs
from compress.pose.estimator import LabelledBoxes, boxes_for
from compress.pose.objective import Objective
from compress.pose.scoring import check_metric
from compress.progress import Progress, Stage
from compress.recipe import Distillation, TrainRecipe, changed
from compress.training.loop import (
    EpochLoss,
    LossStep,
    batch_count,
    check_training,
    distilled_step,
    label_step,
    placed,
    train,
)
from compress.training.processes import is_first, launch, whole_batch_norm


def train_network(named: Named, recipe: TrainRecipe, folder: Path, progress: Progress) -> TrainResult | None:
    """Trains, saves the artefact in `folder`, and scores it on the validation set. Resumes a killed run.

    A known network, which has no weights yet, is built for the data's joints. Of several processes the first one writes
    and scores; the others return None.
    """
    check_names(recipe)
    opened = open_network(named, recipe.input_hw, seed=recipe.seed, weights=False)
    input_hw = opened.input_hw
    fresh = opened.metadata.provenance in (RANDOM_WEIGHTS, OWN_WEIGHTS) and not opened.edits
    train_pictures, val_pictures = train_and_val(recipe.data, input_hw, recipe.seed)
    for note in notes_of(train_pictures, val_pictures):
        progress.say(note)
    keypoints = train_pictures.keypoints
    architecture = with_joints(opened.architecture, keypoints) if fresh else opened.architecture
    check_metric(architecture, recipe.data.kind, recipe.data.detections is not None)
    start = None if recipe.training.backbone is None else start_of(recipe, architecture, fresh=fresh)
    normalisation = start.facts.normalisation if start else opened.normalisation
    codec = recipe.codec if fresh or "codec" in changed(recipe) else opened.metadata.codec
    objective = objective_for(architecture, keypoints, input_hw, recipe.training, codec, normalisation)
    boxes = boxes_for(recipe.data.detections, val_pictures)
    fabric = launch(recipe.training.precision)
    torch.manual_seed(recipe.seed)
    built = fresh and not (isinstance(named, Network) and architecture == opened.architecture)
    network = architecture.build() if built else copy.deepcopy(opened.module)
    if start:
        network.load_state_dict(start.tensors, strict=False)  # the head stays random
        progress.say(f"starts from {start.found.source}; {len(start.found.unfilled)} tensors stay random")
    check_memory(network, opened.name)
    if architecture.family in OWN_FAMILIES:
        check_learns(network, input_hw, opened.name)
    network = placed(network, fabric.device)
    learner = whole_batch_norm(network, fabric)
    samples = objective.samples(train_pictures)
    step, features = learning_step(
        recipe.distillation, learner, objective, keypoints, input_hw, fabric, codec, normalisation
    )
    trained = nn.ModuleDict({"network": learner, **({"features": features} if features else {})})
    parameters = {path.removeprefix("network."): parameter for path, parameter in trained.named_parameters()}
    check_training([parameters], samples, recipe.training, fabric)

    begun = network_digest(architecture, network, opened.edits, trained=not built or start is not None)
    recorded = open_run(folder, recipe, network=opened.name, digest=begun) if is_first() else nullcontext(Run(folder))
    progress.plan(
        [
            Stage("training", 3 * recipe.training.epochs * len(samples)),
            Stage("scoring", (1 + recipe.decoding.flip_test) * len(val_pictures)),
        ]
    )
    with recorded as run:
        with progress.phase("training", batch_count(recipe.training, samples)) as phase, log(folder) as observe:
            history = train(
                trained,
                [parameters],
                step,
                samples=samples,
                settings=recipe.training,
                seed=recipe.seed,
                fabric=fabric,
                workers=recipe.data.workers,
                checkpoint=folder / "training.pt",
                phase=phase,
                observe=observe,
            )
        if features:
            features.stop()
        if not is_first():
            return None
        network.load_state_dict(learner.state_dict())
        estimator_with = partial(
            estimator_for,
            architecture,
            keypoints,
            input_hw,
            codec=codec,
            decoding=recipe.decoding,
            normalisation=normalisation,
        )
        sets = Sets(train_pictures, val_pictures, val_pictures)  # no pictures to choose by: nothing is chosen here
        labelled = estimator_with(boxes=LabelledBoxes())
        learning = Learning(recipe.data, sets, objective, labelled, codec, normalisation)
        tail = Tail(
            run=run,
            progress=progress,
            fabric=fabric,
            learning=learning,
            input_hw=input_hw,
            seed=recipe.seed,
            training=recipe.training,
            decoding=recipe.decoding,
            measuring=None,
            other_procedure=False,
            given=opened.metadata,
        )
        recalibrate_tuned(tail, network, "the network")
        scoring = replace(tail, learning=replace(learning, estimator=estimator_with(boxes=boxes)))
        how = f"training of {recipe.training.epochs} epoch{'s' if recipe.training.epochs > 1 else ''}"
        finalist = Finalist("trained", "trained", network, architecture, opened.edits, ".", how, made_from=opened.name)
        result = TrainResult(
            network=opened.name,
            input_hw=input_hw,
            keypoints=keypoints.name,
            trained=finish(scoring, finalist),
            loss=tuple(epoch.loss for epoch in history),
            samples_per_s=history[-1].samples_per_s,
            data_share=history[-1].data_share,
            run=run_record(run, recipe),
        )
        write_results(run.path("results.json"), "train", result)
    return result


def with_joints(architecture: Architecture, keypoints: KeypointSet) -> Architecture:
    """The architecture for the data's joints. Raises NetworkError for an own network."""
    wanted = approach_of(architecture).joints(keypoints)
    if all(getattr(architecture, name, None) == value for name, value in wanted.items()):
        return architecture
    if architecture.family in OWN_FAMILIES or not {f.name for f in fields(architecture)} >= set(wanted):  # type: ignore[arg-type]
        raise NetworkError(
            f"the network must be made for the data's joints ({keypoints.name})",
            place=architecture.family,
            value=architecture.keypoints,
            remedy=f"have it made with {', '.join(f'{name} {value}' for name, value in wanted.items())}",
        )
    return replace(architecture, **wanted)  # type: ignore[type-var]


def start_of(recipe: TrainRecipe, architecture: Architecture, *, fresh: bool) -> Checkpoint:
    """The checkpoint that a network of random weights starts from.

    Raises RecipeError for a network that has weights, NetworkError for a file that does not fit.
    """
    place = recipe.place("training.backbone")
    assert recipe.training.backbone is not None
    if not fresh or architecture.family in OWN_FAMILIES:
        raise RecipeError(
            "a backbone starts a known network of random weights",
            place=place,
            value=str(recipe.training.backbone),
            remedy="leave it out, or give the network by its name",
        )
    return read_checkpoint(recipe.training.backbone, architecture, backbone=True)


def learning_step(
    settings: Distillation | None,
    network: nn.Module,
    objective: Objective,
    keypoints: KeypointSet,
    input_hw: tuple[int, int],
    fabric: Fabric,
    codec: Codec,
    normalisation: Normalisation,
) -> tuple[LossStep, FeatureDistillation | None]:
    """What one step does: learn from the labels, and from the recipe's teacher if it names one.

    codec, normalisation: of the network's maps and inputs. A teacher of another normalisation gets its own inputs.

    Raises DataError or NetworkError for a teacher that cannot teach this network.
    """
    if settings is None:
        return label_step(network, objective, fabric), None
    loaded = load_artefact(settings.teacher)
    check_input(loaded.architecture, input_hw, "recipe: input_hw, for the teacher")
    taught = loaded.keypoints
    if taught != keypoints:
        raise DataError(
            f"the teacher must know the data's joints, {keypoints.name}",
            place=str(settings.teacher),
            value=taught.name,
            remedy="choose a teacher trained on such data",
        )
    if loaded.metadata.codec.cells != codec.cells:
        raise DataError(
            "the teacher's maps must be for the same cells as the network's",
            place=str(settings.teacher),
            value=f"codec {loaded.metadata.codec.name}, the network's is {codec.name}",
            remedy=f"set codec to {loaded.metadata.codec.name}, or choose another teacher",
        )
    teacher: nn.Module = loaded.module.to(fabric.device)
    if loaded.normalisation != normalisation:
        teacher = OtherInputs(teacher, normalisation, loaded.normalisation)
    with torch.no_grad():
        zeros = torch.zeros(1, 3, *input_hw, device=fabric.device)
        objective.distillation_loss(network.eval()(zeros), teacher(zeros))  # fails now if their outputs differ
    features = None
    if settings.features:
        features = FeatureDistillation(loaded.module, network, settings.features, input_hw)
    step = distilled_step([network], teacher, objective, settings.share, fabric, features, settings.feature_weight)
    return step, features


@contextmanager
def log(folder: Path) -> Iterator[Callable[[EpochLoss], None]]:
    """Writes every epoch to TensorBoard's files in `folder/tensorboard`; nothing in all but the first process."""
    if not is_first():
        yield lambda epoch: None
        return
    with SummaryWriter(str(folder / "tensorboard")) as writer:

        def observe(epoch: EpochLoss) -> None:
            writer.add_scalar("loss", epoch.loss, epoch.epoch)
            writer.add_scalar("samples_per_s", epoch.samples_per_s, epoch.epoch)
            writer.add_scalar("data_share", epoch.data_share, epoch.epoch)
            writer.flush()

        yield observe
