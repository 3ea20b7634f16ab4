"""`compress evaluate`: an artefact's score on a validation set, by the metric of the data."""

from pathlib import Path

from compress.artefacts.artefact import load_artefact
from compress.artefacts.metadata import input_size, validation_data
from compress.artefacts.results import EvaluateResult
from compress.data.sets import notes_of, validation_set
from compress.jobs.names import check_names
from compress.networks.architecture import check_input
from compress.pose.approaches import check_joints, estimator_for
from compress.pose.estimator import boxes_for
from compress.pose.scoring import RESAMPLES, check_metric, procedure, score
from compress.progress import Progress
from compress.recipe import EvaluateRecipe, noted_codec
from compress.training.loop import best_device


def evaluate(artefact: Path, recipe: EvaluateRecipe, progress: Progress) -> EvaluateResult:
    """Scores every picture of the validation set once.

    Raises ArtefactError, NetworkError or DataError for an artefact or data that cannot be used.
    """
    check_names(recipe)
    loaded = load_artefact(artefact)
    input_hw = recipe.input_hw or input_size(loaded.facts, artefact)
    check_input(loaded.architecture, input_hw, "input_hw")
    data, seed = validation_data(loaded.facts, recipe.data, recipe.seed)
    pictures = validation_set(data, input_hw, seed)
    notes = notes_of(pictures)
    for note in notes:
        progress.say(note)
    check_joints(loaded.architecture, pictures.keypoints, str(artefact))
    check_metric(loaded.architecture, data)
    estimator = estimator_for(
        loaded.architecture,
        pictures.keypoints,
        input_hw,
        codec=recipe.codec or noted_codec(loaded.facts),
        decoding=recipe.decoding,
        boxes=boxes_for(data, pictures),
    )
    with progress.phase("evaluate", len(pictures)) as phase:
        found = score(
            loaded.network.to(best_device()),
            estimator,
            pictures,
            kind=data.kind,
            provenance=str(loaded.facts.get("provenance", "the artefact's weights")),
            flip_test=recipe.decoding.flip_test,
            resamples=RESAMPLES,
            phase=phase,
            finite=True,
        )
    return EvaluateResult(str(artefact), input_hw, procedure(recipe.decoding.flip_test), found, tuple(notes))
