"""`compress train`: one network on the labels, from fresh weights or from an artefact's."""

from pathlib import Path
from typing import Any

import torch

from compress.artefact import Artefact, artefact_or_network, save_artefact
from compress.data.sets import picture_sets
from compress.evaluation import RESAMPLES, check_bottom_up, grouping_for, score
from compress.networks.architecture import check_input
from compress.progress import Progress
from compress.recalibration import PICTURES, recalibrate
from compress.recipe import TrainRecipe
from compress.run import open_run
from compress.training import batch_count, best_device, first_pictures, label_step, pose_loss, train


def train_network(name: str, recipe: TrainRecipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """Trains, saves the artefact in `folder`, and scores it on the validation set. Resumes a killed run."""
    source = artefact_or_network(name)
    architecture = source.architecture if isinstance(source, Artefact) else source
    check_input(architecture, recipe.input_hw, "recipe: input_hw")
    sets = picture_sets(recipe.data, recipe.input_hw, recipe.seed)
    check_bottom_up(architecture, sets.train.keypoints, name)

    with open_run(folder, recipe, subject=name) as run:
        torch.manual_seed(recipe.seed)
        network = source.network if isinstance(source, Artefact) else architecture.build()
        network = network.to(best_device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
        with progress.phase("training", batch_count(recipe.training, sets.train)) as phase:
            history = train(
                network,
                [list(network.parameters())],
                label_step(network, pose_loss(recipe.training.loss, len(architecture.output_strides))),
                pictures=sets.train,
                settings=recipe.training,
                input_hw=recipe.input_hw,
                strides=architecture.output_strides,
                seed=recipe.seed,
                workers=recipe.data.workers,
                checkpoint=run.path("training.pt"),
                phase=phase,
            )
        recalibrate(network, first_pictures(sets.train, recipe.input_hw, PICTURES))
        with progress.phase("evaluate", len(sets.val)) as phase:
            metrics = score(
                network,
                sets.val,
                input_hw=recipe.input_hw,
                flip_test=True,
                grouping=grouping_for(recipe.training.exact),
                resamples=RESAMPLES,
                phase=phase,
            )
        facts = {
            "network": name,
            "input_hw": list(recipe.input_hw),
            "exact": recipe.training.exact,
            "obtained": f"training of {recipe.training.epochs} epochs",
            "data": recipe.data.model_dump(mode="json"),
            "seed": recipe.seed,
            "val": metrics,
        }
        save_artefact(folder, architecture, network, facts)
    return {"artefact": str(folder), **facts, "epochs": len(history), "loss": [entry.loss for entry in history]}
