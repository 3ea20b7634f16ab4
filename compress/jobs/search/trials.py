"""The trials of a search: the weights they share, which candidate is next, what it costs, how well it does.

Finished trials lie in `trials.jsonl`, one a line. A resumed search repeats them to its sampler and does not score them
again.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compress.artefacts.records import read_records, to_plain
from compress.artefacts.results import Trial
from compress.artefacts.run import Run
from compress.data.samples import Sample, Samples
from compress.engines import engine
from compress.errors import BudgetError, DivergedError
from compress.files import append_line
from compress.jobs.search.task import Task
from compress.measure.cost import Cost
from compress.measure.counting import count
from compress.measure.decoding import decode_time
from compress.measure.kept_tables import complete_table
from compress.measure.kernels import Kernel, detect_kernels
from compress.measure.latency import Latency
from compress.measure.latency_table import LatencyTable, predict
from compress.measure.whole_networks import target_text
from compress.nas.batch_prediction import PartTable
from compress.nas.candidate import Candidate
from compress.nas.pareto import front
from compress.nas.sampler import Costs, Sampler
from compress.nas.space import Pick, pick_key
from compress.nas.space_table import prepare_table
from compress.nas.supernet import Supernet, sandwich_step
from compress.normalisation import Normalisation
from compress.pose.scoring import Score, main_figure, score
from compress.recipe import Budget
from compress.training.loop import batch_count, distilled_step, train
from compress.training.recalibration import recalibrate

SUPERNET, GIVEN = "supernet", "given weights"
"""Provenance of the trials' scores: the weights that they were taken with."""
_ASKS_PER_TRIAL = 20  # bound on picks that are over budget or known already, so that the loop ends

Weights = Callable[[Pick], nn.Module]
"""A pick's unedited network with trained weights, a new copy every time."""


def space_table(task: Task) -> LatencyTable:
    """The run's latency table, with the kernels of the whole space; see prepare_table."""
    recipe, path = task.recipe, task.run.path("latency_table.json")
    build = task.candidates.build
    return prepare_table(path, recipe.measurement, task.space, build, recipe.input_hw, recipe.seed, task.progress)


def trained_weights(task: Task) -> tuple[Weights, list[float]]:
    """The given network, or a supernet trained here, of which candidates are extracted; its loss by epoch as well.

    Edits have no part in the supernet: it holds the weights of the unedited operators, see carried_over.
    """
    recipe, settings, start = task.recipe, task.recipe.supernet, task.candidates.start
    if start:
        return (lambda pick: copy.deepcopy(start.module).to(task.fabric.device)), []
    with task.timed("supernet"):
        torch.manual_seed(recipe.seed)
        supernet = Supernet(task.space.architectures).to(task.fabric.device)
        objective = task.objective(settings)
        samples = objective.samples(task.sets.train)
        with task.progress.phase("supernet", batch_count(settings, samples)) as phase:
            history = train(
                supernet,
                [supernet.parameters],
                sandwich_step(
                    supernet,
                    objective,
                    task.fabric,
                    pool=settings.pool,
                    randoms=settings.randoms,
                    distillation=settings.distillation,
                ),
                samples=samples,
                settings=settings,
                seed=recipe.seed,
                fabric=task.fabric,
                workers=recipe.data.workers,
                checkpoint=task.run.path("steps", "supernet.pt"),
                phase=phase,
            )
    return supernet.extract, [entry.loss for entry in history]


def run_trials(task: Task, table: LatencyTable, weights: Weights, budget: Budget) -> list[Trial]:
    """Asks the sampler for candidates, prices and scores them, and tells it, until recipe.search.trials are scored.

    Baselines are scored whatever they cost, as everything else is compared with them. Returns the trials in order.
    """
    recipe, settings, run = task.recipe, task.recipe.search, task.run
    finished = {pick_key(trial.pick): trial for trial in read_trials(run)}
    if finished:
        task.progress.say(f"{len(finished)} finished trials are taken from {run.path('trials.jsonl')}")
    baselines = list(task.baselines.values())
    sampler = Sampler(
        task.space,
        settings.sampler,
        population=settings.population,
        seed=recipe.seed,
        baselines=baselines,
        costs=all_costs(task, table) if settings.sampler == "guided" else None,
    )
    images = list(task.inputs(settings.calibration_pictures))
    within_any_budget = {pick_key(pick) for pick in baselines}
    trials: dict[str, Trial] = {}
    tightest: Cost | None = None
    with task.progress.phase("search", settings.trials) as phase:
        for _ in range(settings.trials * _ASKS_PER_TRIAL):
            asked, pick = sampler.ask()
            key = pick_key(pick)
            if key in trials:  # a repeated pick gets the same answer
                sampler.tell(asked, trials[key].cost.predicted_ms, trials[key].ap)
                continue
            if key not in finished:
                cost = cost_of(structure_of(task, pick), recipe.input_hw, table)
                if key not in within_any_budget and over_budget(cost, budget):
                    tightest = cost if tightest is None else min(tightest, cost, key=lambda c: c.predicted_ms)
                    sampler.refuse(asked)
                    continue
                number = len(trials)
                finished[key] = Trial(number, pick, cost, trial_score(task, weights, pick, number, images))
                append_line(run.path("trials.jsonl"), to_plain(finished[key]))
                trial_checkpoint(run, number).unlink(missing_ok=True)
            trial = trials[key] = finished[key]
            sampler.tell(asked, trial.cost.predicted_ms, trial.ap)
            phase.advance(1, f"AP {trial.ap:.3f} at {trial.cost.predicted_ms:.2f} ms")
            if len(trials) == settings.trials:
                break
    if not trials:
        raise no_candidate(tightest)
    if len(trials) < settings.trials:
        task.progress.say(f"the space and budget gave {len(trials)} different candidates, not {settings.trials}")
    found = list(trials.values())
    on_front = set(front([(trial.cost.predicted_ms, trial.ap) for trial in found]))
    return [replace(trial, on_front=index in on_front) for index, trial in enumerate(found)]


def read_trials(run: Run) -> list[Trial]:
    """The finished trials of `trials.jsonl`. Raises RunError for a broken line, or one of another version."""
    return read_records(run.path("trials.jsonl"), Trial)


# --- What a candidate costs ------------------------------------------------------------------------------------------


def structure_of(task: Task, pick: Pick) -> nn.Module:
    """The candidate's network, on the meta device (without weights) where the candidate allows it."""
    with torch.device("meta"):
        return task.candidates.build(pick)


def cost_of(network: nn.Module, input_hw: tuple[int, int], table: LatencyTable) -> Cost:
    """Counted parameters and multiply-adds, and the latency predicted by the table, which gets kernels it lacks."""
    counted = count(network, input_hw)
    kernels = detect_kernels(network, input_hw, engine(table.identity.engine))
    complete_table(table, kernels)
    target = target_text(table.identity.engine, table.identity.threads)
    predicted = Latency(predict(table, kernels).ms, target, "predicted")
    return Cost(counted.params, counted.macs, tuple(counted.uncounted), predicted)


def all_costs(task: Task, table: LatencyTable) -> Costs | None:
    """Predicts the latency of many candidates at once; None for a space of edits or of unknown operators."""
    input_hw = task.recipe.input_hw

    runtime = engine(table.identity.engine)
    if task.space.edits:  # channels are pruned through the whole network, not part by part
        return None
    if runtime.kernels_by_part(structure_of(task, task.space.largest), input_hw) is None:
        return None

    def kernels_of(pick: Pick) -> Mapping[str, Mapping[Kernel, int]]:
        parts = runtime.kernels_by_part(structure_of(task, pick), input_hw)
        assert parts is not None  # candidates of one space consist of the same operations
        return parts

    return PartTable(task.space, kernels_of, task.recipe.seed).predictor(table)


def check_budget(task: Task, table: LatencyTable) -> Budget:
    """The recipe's budget with its latency in milliseconds, before the supernet is trained.

    Reports which baselines are over it. Raises BudgetError if even the smallest candidates are.
    """
    space, input_hw = task.space, task.recipe.input_hw
    costs = {name: cost_of(structure_of(task, pick), input_hw, table) for name, pick in task.baselines.items()}
    budget = in_milliseconds(task.recipe.search.budget, [cost.predicted_ms for cost in costs.values()])
    for name, cost in costs.items():
        if over_budget(cost, budget):
            task.progress.say(
                f"baseline {name} is over the budget ({cost.predicted_ms:.2f} ms predicted, {cost.macs / 1e6:.0f} M "
                f"multiply-adds, {cost.params / 1e6:.2f} M parameters): it is scored all the same, but no candidate "
                "may cost as much. A budget such as search.budget.latency=120% goes by the baselines"
            )
    unsized = {path: values for path, values in space.choices.items() if not isinstance(values[0], int | float)}
    picks = [
        {**space.smallest, **{path: values[min(place, len(values) - 1)] for path, values in unsized.items()}}
        for place in range(max((len(values) for values in unsized.values()), default=1))
    ]
    smallest = [cost_of(structure_of(task, pick), input_hw, table) for pick in picks]
    if all(over_budget(cost, budget) for cost in smallest):
        raise no_candidate(min(smallest, key=lambda cost: cost.predicted_ms))
    return budget


def in_milliseconds(budget: Budget, baselines_ms: Sequence[float]) -> Budget:
    """The budget with a share of the slowest baseline's latency in milliseconds; of two limits the lower counts.

    Without baselines the share is no limit (read_baselines refuses it).
    """
    limits = [] if budget.latency_ms is None else [budget.latency_ms]
    if budget.latency is not None and baselines_ms:
        limits.append(budget.latency * max(baselines_ms))
    return budget.model_copy(update={"latency": None, "latency_ms": min(limits, default=None)})


def over_budget(cost: Cost, budget: Budget) -> bool:
    """Whether a limit is exceeded; latencies are in milliseconds, see in_milliseconds."""
    return (
        (budget.latency_ms is not None and cost.predicted_ms > budget.latency_ms)
        or (budget.macs is not None and cost.macs > budget.macs)
        or (budget.params is not None and cost.params > budget.params)
    )


def no_candidate(tightest: Cost | None) -> BudgetError:
    """The error where nothing is within the budget. tightest: the cheapest candidate seen."""
    seen = tightest and f"{tightest.predicted_ms:.4g} ms predicted, {tightest.macs} MACs, {tightest.params} parameters"
    return BudgetError(
        "no candidate of the space was within the budget",
        place="recipe: search.budget",
        value=f"tightest seen: {seen}",
        remedy="raise the budget or add smaller choices to the space",
    )


# --- How well it does ------------------------------------------------------------------------------------------------


def trial_score(task: Task, weights: Weights, pick: Pick, number: int, images: list[Tensor]) -> Score:
    """On the search pictures, one pass each; 0 for a candidate whose tuning diverges, as heavy edits may make it."""
    kind, provenance = task.recipe.data.kind, GIVEN if task.candidates.start else SUPERNET
    try:
        network = trial_network(task, weights, pick, number, images)
    except DivergedError as error:
        task.progress.say(f"candidate {number} counts as AP 0: {error}")
        return Score(main_figure(kind), 0.0, None, provenance, kind, len(task.sets.search), {})
    found = score(network, task.estimator, task.sets.search, kind=kind, provenance=provenance, flip_test=False)
    return replace(found, value=found.value or 0.0, details={})


def trial_network(task: Task, weights: Weights, pick: Pick, number: int, images: list[Tensor]) -> nn.Module:
    """The candidate as it is scored: tuned on search.tuning_samples with its unedited network as teacher, if any."""
    recipe, settings = task.recipe, task.recipe.finalists.training.model_copy(update={"epochs": 1})
    unedited, candidate = carried_over(task, weights, pick, images, steps=0)
    network = candidate.network
    if recipe.search.tuning_samples:
        objective = task.objective(settings)
        samples = First(objective.samples(task.sets.train), recipe.search.tuning_samples)
        with task.progress.phase(f"tuning candidate {number}", batch_count(settings, samples)) as phase:
            train(
                network,
                [dict(network.named_parameters())],
                distilled_step([network], unedited, objective, settings.distillation, task.fabric),
                samples=samples,
                settings=settings,
                seed=recipe.seed,
                fabric=task.fabric,
                workers=recipe.data.workers,
                checkpoint=trial_checkpoint(task.run, number),
                phase=phase,
            )
        recalibrate(network, images)
    return network


def carried_over(
    task: Task, weights: Weights, pick: Pick, images: list[Tensor], steps: int
) -> tuple[nn.Module, Candidate]:
    """A pick's network, unedited and edited, with batch-norm statistics of the images.

    images: training pictures, batches [B,3,H,W]. steps: for reconstructing each replaced module; 0 solves for it once.
    """
    unedited = weights(pick)
    recalibrate(unedited, images)
    candidate = task.candidates.edited(pick, unedited, images, steps, task.recipe.seed)
    if task.candidates.is_edited(pick):
        recalibrate(candidate.network, images)
    return unedited, candidate


def trial_decoding(task: Task, table: LatencyTable, weights: Weights, trials: Iterable[Trial]) -> Latency:
    """What decoding a candidate's maps takes, predicted for all alike: measured with the one of the best score.

    All have the same outputs, but the noise of a half-trained one takes another time than the maps of a tuned one.
    """
    best = max(trials, key=lambda trial: trial.ap)
    flip_test = task.recipe.decoding.flip_test

    def measured() -> Latency:
        images = list(task.inputs(task.recipe.search.calibration_pictures))
        network = carried_over(task, weights, best.pick, images, steps=0)[1].network
        pictures, clock_ms = task.sets.search, table.reference_ms
        return decode_time(network, task.estimator, pictures, flip_test=flip_test, reference_ms=clock_ms).latency

    return task.run.once("decoding", measured, Latency)


def trial_checkpoint(run: Run, number: int) -> Path:
    """Where a trial's tuned weights lie until it is scored."""
    return run.path("steps", f"trial_{number}.pt")


@dataclass(frozen=True)
class First:
    """The first `count` samples."""

    samples: Samples
    count: int

    @property
    def normalisation(self) -> Normalisation:
        """See Samples."""
        return self.samples.normalisation

    def __len__(self) -> int:
        return min(self.count, len(self.samples))

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """See Samples."""
        return self.samples.sample(index, rng)
