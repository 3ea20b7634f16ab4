"""`compress evaluate`: an artefact's COCO AP on a validation set."""

from pathlib import Path
from typing import Any

from compress.artefact import load_artefact
from compress.data.sets import validation_set
from compress.evaluation import RESAMPLES, check_bottom_up, grouping_for, input_size, score, validation_data
from compress.networks.architecture import check_input
from compress.progress import Progress
from compress.recipe import EvaluateRecipe
from compress.training import best_device


def evaluate(artefact: Path, recipe: EvaluateRecipe, progress: Progress) -> dict[str, Any]:
    """Scores every picture of the validation set once. Returns AP, AR and their parts, and on what they were taken."""
    loaded = load_artefact(artefact)
    input_hw = recipe.input_hw or input_size(loaded.facts, artefact)
    check_input(loaded.architecture, input_hw, "input_hw")
    data, seed = validation_data(loaded.facts, recipe.data, recipe.seed)
    pictures = validation_set(data, input_hw, seed)
    check_bottom_up(loaded.architecture, pictures.keypoints, str(artefact))
    with progress.phase("evaluate", len(pictures)) as phase:
        metrics = score(
            loaded.network.to(best_device()),
            pictures,
            input_hw=input_hw,
            flip_test=recipe.flip_test,
            grouping=grouping_for(bool(loaded.facts.get("exact"))),
            resamples=RESAMPLES,
            phase=phase,
        )
    return {
        "artefact": str(artefact),
        "data": data.kind,
        "pictures": len(pictures),
        "flip_test": recipe.flip_test,
        "input_hw": list(input_hw),
        "metrics": metrics,
    }
