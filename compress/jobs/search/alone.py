"""One candidate of a search that is trained alone: its training, up to some epochs, and its score."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from compress.artefacts.results import Trial
from compress.data.samples import Samples
from compress.errors import DivergedError
from compress.jobs.search.task import Calibration, Task
from compress.jobs.search.trials import Weights, carried_over, trial_checkpoint
from compress.nas.candidate import Candidate
from compress.nas.space import Pick
from compress.pose.scoring import Score, main_figure, score
from compress.pruning.sparsity import apply_masks, masks_of_zeros
from compress.training.loop import label_step, train
from compress.training.recalibration import recalibrate


@dataclass(frozen=True)
class Rung:
    """A line of `rungs.jsonl`: what a candidate scored after so many epochs. failure: where its loss was no number any
    more, so that it goes no further, that line."""

    number: int
    pick: Mapping[str, object]
    epochs: int
    score: Score
    failure: str | None = None

    @property
    def diverged(self) -> bool:
        """Whether its loss was no number any more."""
        return self.failure is not None


def scored_alone(task: Task, weights: Weights, pick: Pick, number: int, epochs: int, calibration: Calibration) -> Rung:
    """What the candidate scores after so many epochs on the search pictures, one pass each; 0 where its loss is no
    longer a number."""
    kind, provenance = task.recipe.data.kind, f"trained alone for {epochs} epochs"
    try:
        network = trained_alone(task, weights, pick, number, epochs, calibration.images(pick)).network
        estimator = task.estimator_at(task.candidates.input_hw(pick))
        found = score(network, estimator, task.sets.search, kind=kind, provenance=provenance, flip_test=False)
        return Rung(number, pick, epochs, replace(found, value=found.value or 0.0, details={}))
    except DivergedError as error:
        found = Score(main_figure(kind), 0.0, None, provenance, kind, len(task.sets.search), {})
        return Rung(number, pick, epochs, found, str(error))


def trained_alone(
    task: Task, weights: Weights, pick: Pick, number: int, epochs: int, images: list[Tensor]
) -> Candidate:
    """The candidate after so many epochs on the labels, from its checkpoint on; zeros stay zero at the end.

    Raises DivergedError when the loss is no longer a number.
    """
    settings = task.recipe.training
    objective = task.objective(settings, task.candidates.input_hw(pick))
    _, candidate = carried_over(task, weights, pick, images, steps=0)
    network = candidate.network
    zeros = masks_of_zeros(network) if task.candidates.sets_zeros else {}
    samples: Samples = objective.samples(task.sets.train)
    steps = epochs * (len(samples) // settings.batch_size)
    with task.progress.phase(f"training candidate {number}, {epochs} epochs", steps) as phase:
        train(
            network,
            [dict(network.named_parameters())],
            label_step(network, objective, task.fabric),
            samples=samples,
            settings=settings,
            seed=task.recipe.seed,
            fabric=task.fabric,
            workers=task.recipe.data.workers,
            checkpoint=trial_checkpoint(task.run, number),
            phase=phase,
            until=epochs,
        )
    apply_masks(network, zeros)
    recalibrate(network, images)
    return candidate


def candidate_of(task: Task, weights: Weights, trial: Trial, images: list[Tensor], steps: int) -> Candidate:
    """The trial's network as it goes on: with the weights of its own training, if it had one to the end, else as it is
    carried over. steps: see compress.jobs.search.trials.carried_over."""
    if trial.training and not trial.stopped:
        return trained_alone(task, weights, trial.pick, trial.number, trial.training.epochs, images)
    return carried_over(task, weights, trial.pick, images, steps)[1]
