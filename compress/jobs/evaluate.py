"""`compress evaluate`: an artefact's score on a validation set, by the metric of the data."""

import copy

from compress.artefacts.network import Named, trained_network
from compress.artefacts.results import EvaluateResult
from compress.data.sets import data_of, notes_of, validation_set
from compress.jobs.names import check_names
from compress.pose.approaches import check_joints, estimator_for
from compress.pose.estimator import boxes_for
from compress.pose.scoring import RESAMPLES, check_metric, procedure, score
from compress.progress import Progress
from compress.recipe import Data, EvaluateRecipe
from compress.training.loop import best_device


def evaluate(named: Named, recipe: EvaluateRecipe, progress: Progress) -> EvaluateResult:
    """Scores every picture of the validation set once.

    Raises ArtefactError, NetworkError or DataError for a network or data that cannot be used.
    """
    check_names(recipe)
    network = trained_network(named, input_hw=recipe.input_hw, codec=recipe.codec)
    data = data_of(network.name, recipe.data, network.metadata.data) or Data()
    pictures = validation_set(data, network.input_hw, network.metadata.seed if recipe.seed is None else recipe.seed)
    notes = notes_of(pictures)
    for note in notes:
        progress.say(note)
    check_joints(network.architecture, pictures.keypoints, network.name)
    check_metric(network.architecture, data.kind, data.detections is not None)
    estimator = estimator_for(
        network.architecture,
        pictures.keypoints,
        network.input_hw,
        codec=network.metadata.codec,
        decoding=recipe.decoding,
        boxes=boxes_for(data.detections, pictures),
        normalisation=network.normalisation,
    )
    with progress.phase("evaluate", len(pictures)) as phase:
        found = score(
            copy.deepcopy(network.module).to(best_device()),
            estimator,
            pictures,
            kind=data.kind,
            provenance=network.metadata.provenance,
            flip_test=recipe.decoding.flip_test,
            resamples=RESAMPLES,
            phase=phase,
            finite=True,
        )
    return EvaluateResult(network.name, network.input_hw, procedure(recipe.decoding.flip_test), found, tuple(notes))
