"""The trials of a search: the weights they share, which candidate is next, what it costs, how well it does.

Finished trials lie in `trials.jsonl`, one a line. A resumed search repeats them to its sampler and does not score them
again. Where several processes score them, they are in the study that these share, see compress.jobs.search.sharing.
"""

import copy
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compress.artefacts.records import from_plain, read_records, to_plain
from compress.artefacts.results import Trial
from compress.artefacts.run import Run
from compress.data.normalisation import Normalisation
from compress.data.samples import Sample, Samples
from compress.errors import BudgetError, DivergedError, RunError
from compress.files import append_line, write_text
from compress.jobs.search.measured_budget import Correction, Timed, correction, measured, near
from compress.jobs.search.prefilter import Prefilter
from compress.jobs.search.prior import kept
from compress.jobs.search.task import Calibration, Task
from compress.measure.cost import Cost
from compress.measure.counting import total, trace
from compress.measure.kernels import Kernel
from compress.measure.latency_model import LatencyModel, Pricing, TimedModel, reference_time, runtime_of
from compress.measure.limit import Limit
from compress.measure.objective import CostObjective
from compress.measure.target import Target
from compress.nas.batch_prediction import PartTable
from compress.nas.candidate import Candidate
from compress.nas.pareto import front
from compress.nas.sampler import Costs, Sampler, screens
from compress.nas.space import Pick, pick_key
from compress.nas.space_table import prepare_table
from compress.nas.study import SharedStudy, Storage
from compress.nas.supernet import Supernet, sandwich_step
from compress.nas.trial_book import TRIES, TrialBook
from compress.networks.architecture import without_values
from compress.pose.scoring import Score, main_figure, score
from compress.pruning.sparsity import apply_masks, masks_of_zeros
from compress.recipe import Budget, FineTuning, SearchRecipe
from compress.training.loop import batch_count, distilled_step, train
from compress.training.recalibration import recalibrate

SUPERNET, GIVEN = "supernet", "given weights"
"""Provenance of the trials' scores: the weights that they were taken with."""
_NOTHING = 1e-6  # share of a limit, in place of 0, which has no logarithm
_MEASURED = 4  # times at most that candidates are measured, until all times are reliable

Weights = Callable[[Pick], nn.Module]
"""A pick's unedited network with trained weights, a new copy every time."""
Models = dict[str, Pricing]
"""Target's name → what prices a network there; the target that decides first."""


@dataclass(frozen=True)
class Limits:
    """Most that a candidate may cost.

    most: by quantity, `macs`, `params`, `size` and `memory` in bytes, or the name of a target, in milliseconds.
    """

    most: Mapping[str, float]

    def exceeded(self, cost: Cost) -> bool:
        """Whether a limit is."""
        return (self.excess(cost) or 0.0) > 0

    def excess(self, cost: Cost) -> float | None:
        """Logarithm of the cost over its limit, for the limit that is met least; None without limits."""
        shares = [value / self.most[name] for name, value in quantities(cost).items() if name in self.most]
        return math.log(max(_NOTHING, *shares)) if shares else None

    def of(self, objective: CostObjective, first: str) -> float:
        """The limit of what the objective is about; infinite without one. first: the target that decides."""
        time = objective.quantity in ("latency", "end_to_end")
        return self.most.get((objective.target or first) if time else objective.quantity, math.inf)


def priced_targets(recipe: SearchRecipe) -> list[Target]:
    """Those that candidates are priced on: the first, and what budgets and objectives name, or all."""
    first, *others = recipe.measurement.targets
    named = {*(recipe.search.budget.latency or {}), *(one.target for one in recipe.search.objectives)}
    return [first, *(one for one in others if recipe.measurement.predict_all or one.name in named)]


def space_models(task: Task) -> Models:
    """What prices candidates on each target, the one that decides first; see Measurement.predict_all, prepare_table.

    The run's tables lie in latency_table.json, and, of further targets, in latency_table-TARGET.json.
    """
    recipe, models = task.recipe, Models()
    for number, target in enumerate(priced_targets(recipe)):
        runtime, rounds = runtime_of(target), recipe.measurement.rounds
        if not runtime.has_kernels:
            clock_ms = task.run.once("clock", reference_time, float)
            models[target.name] = TimedModel(target, runtime, rounds, clock_ms)
            continue
        file = f"latency_table-{target.file_name}.json" if number else "latency_table.json"
        path = task.run.path(file)

        def build(pick: Pick, engine_name: str = target.engine) -> nn.Module:
            return task.for_engine(task.candidates.build(pick), engine_name)

        table = prepare_table(path, target, rounds, task.space, build, recipe.input_hw, recipe.seed, task.progress)
        models[target.name] = LatencyModel(target, runtime, table)
    return models


def trained_weights(task: Task) -> tuple[Weights, list[float]]:
    """The given network, or a supernet trained here, of which candidates are extracted; its loss by epoch as well.

    Edits have no part in the supernet: it holds the weights of the unedited operators, see carried_over. Architectures
    that are trained alone begin with random weights, the same every time.
    """
    recipe, settings, start = task.recipe, task.recipe.supernet, task.candidates.start
    if start:
        return (lambda pick: copy.deepcopy(start.module).to(task.fabric.device)), []
    if recipe.search.method == "train":
        return partial(_untrained, task), []
    with task.timed("supernet"):
        torch.manual_seed(recipe.seed)
        supernet = Supernet(task.space.architectures).to(task.fabric.device)
        objective, samples = task.objective(settings), task.samples(settings)
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


def _untrained(task: Task, pick: Pick) -> nn.Module:
    torch.manual_seed(task.recipe.seed)
    return task.candidates.architecture(pick).build().to(task.fabric.device)


def run_trials(
    task: Task,
    models: Models,
    weights: Weights,
    budget: Limits,
    first: Sequence[Pick] = (),
    shared: tuple[SharedStudy, Storage] | None = None,
) -> list[Trial]:
    """Asks the sampler for candidates, prices and scores them, and tells it, until recipe.search.trials are scored.

    Baselines are scored whatever they cost, as everything else is compared with them. first: picks that are asked for
    next, see compress.jobs.search.single_edits. shared: a study that other processes work on too, whose trials
    count like those of this one. Returns the trials in the order in which they were asked for; of several processes the
    one that has the run folder leaves them in `trials.jsonl` in that order.
    """
    recipe, settings, run = task.recipe, task.recipe.search, task.run
    objectives, file = settings.objectives, run.path("trials.jsonl")
    finished = {} if task.beside else {pick_key(trial.pick): trial for trial in read_trials(run)}
    if finished:
        task.progress.say(f"{len(finished)} finished trials are taken from {file}")
    written = set(finished)
    baselines = list(task.baselines.values())
    sampler = Sampler(
        task.space,
        settings.sampler,
        population=settings.population,
        seed=recipe.seed,
        baselines=baselines,
        costs=[all_costs(task, models, one) if screens(settings.sampler) else None for one in objectives],
        first=first,
        most=[budget.of(one, next(iter(models))) for one in objectives],
        prior=kept(run, task.prior),
        shared=shared,
    )
    if shared:
        sampler.suggest([trial.pick for trial in finished.values()])  # of one process, before there were several
    calibration = Calibration(task)
    prefilter = Prefilter(task, calibration)
    within_any_budget = {pick_key(pick) for pick in baselines}
    trials: dict[str, Trial] = {}
    tightest: Cost | None = None
    book = TrialBook(task.space, sampler, settings.trials, shared)

    with task.progress.phase("search", settings.trials) as phase, book:

        def take_in() -> list[str]:
            """The scored picks, in order, those that other processes have scored since among them."""
            records = book.records()
            for key, record in records.items():
                if key not in trials:
                    trial = trials[key] = from_plain(Trial, record, "the study")
                    phase.advance(1, f"{trial.score.metric} {trial.value:.3f} at {trial.cost.predicted_ms:.2f} ms")
                    if not task.beside and key not in written:
                        append_line(file, to_plain(trial))
            return list(records)

        while True:
            take_in()
            if (asked := book.ask()) is None:
                break
            answer, pick = asked
            key = pick_key(pick)
            known, always = key in finished, key in within_any_budget
            cost = finished[key].cost if known else cost_of(task, pick, models, None if always else budget)
            if not known and not always and budget.exceeded(cost):
                tightest = cost if tightest is None else min(tightest, cost, key=lambda c: c.predicted_ms)
                book.refuse(answer, "over budget", budget.excess(cost) or 0.0)
                continue
            if not prefilter.passes(pick, cost, always=always or known):
                book.refuse(answer, "passed over by the zero-cost filter")
                continue
            if not known:
                number = answer.number if shared else len(trials)
                scored, failure = trial_score(task, weights, pick, number, calibration.images(pick))
                finished[key] = Trial(number, pick, cost, scored, failure=failure)
            trial = finished[key]
            values = costs_of(trial, objectives), trial.value, budget.excess(trial.cost)
            book.tell(answer, *values, to_plain(trial))
            trial_checkpoint(run, trial.number).unlink(missing_ok=True)
        order = take_in()  # the last ones may be another process's
    _check_left(task, book, trials)
    within = [trial for key, trial in trials.items() if key not in within_any_budget or not budget.exceeded(trial.cost)]
    if not within or (tightest and all(pick_key(trial.pick) in map(pick_key, baselines) for trial in within)):
        raise no_candidate(tightest)
    if len(trials) < settings.trials:
        task.progress.say(f"the space and budget gave {len(trials)} different candidates, not {settings.trials}")
    found = [replace(trials[key], number=number) for number, key in enumerate(order)]
    if shared and not task.beside:
        write_text(file, "".join(json.dumps(to_plain(trial)) + "\n" for trial in found))
        for left in run.path("steps").glob("trial_*.pt"):  # of processes that were killed
            left.unlink()
    return with_front(found, objectives)


def with_front(trials: Sequence[Trial], objectives: Sequence[CostObjective]) -> list[Trial]:
    """The same with the front marked; what was stopped early has no part in it, as it may have scored more later."""
    whole = [index for index, trial in enumerate(trials) if not trial.stopped]
    points = [(*costs_of(trials[index], objectives), trials[index].value) for index in whole]
    on_front = {whole[place] for place in front(points)}
    return [replace(trial, on_front=index in on_front) for index, trial in enumerate(trials)]


def _check_left(task: Task, book: TrialBook, trials: Mapping[str, Trial]) -> None:
    """Says which candidates ended the processes that scored them. Raises RunError for a baseline."""
    for pick in book.given_up():
        task.progress.say(f"{TRIES} processes ended while they scored this candidate, which is left out: {dict(pick)}")
    for name, pick in task.baselines.items():
        if pick_key(pick) not in trials:
            raise RunError(
                "a baseline must be scored",
                place=f"recipe: baselines.{name}",
                value=f"{TRIES} processes ended while they scored it",
                remedy="look at the machine's memory, or use fewer workers",
            )


def costs_of(trial: Trial, objectives: Sequence[CostObjective], decoding_ms: float = 0.0) -> list[float]:
    """Predicted costs, one for every objective. decoding_ms: per pass of the network, part of what is end to end."""
    whole = {"end_to_end": decoding_ms}
    return [trial.cost.of(one) + whole.get(one.quantity, 0.0) for one in objectives]


def within_budget(trials: Iterable[Trial], budget: Limits, baselines: Iterable[Pick]) -> list[Trial]:
    """Those that may become finalists, and the baselines: not what was stopped."""
    always = {pick_key(pick) for pick in baselines}
    return [
        trial
        for trial in trials
        if pick_key(trial.pick) in always or not (trial.stopped or budget.exceeded(trial.cost))
    ]


def read_trials(run: Run) -> list[Trial]:
    """The finished trials of `trials.jsonl`. Raises RunError for a broken line, or one of another version."""
    return read_records(run.path("trials.jsonl"), Trial)


# --- What a candidate costs ------------------------------------------------------------------------------------------


def structure_of(task: Task, pick: Pick) -> nn.Module:
    """The candidate's network, on the meta device (without weights) where the candidate allows it."""
    with without_values():
        return task.candidates.build(pick)


def cost_of(task: Task, pick: Pick, models: Models, most: Limits | None = None) -> Cost:
    """Counted parameters and multiply-adds, and the latency on every target.

    most: beyond a limit, times on further targets than the first are not looked for, as some engines need an export.
    """
    network, input_hw = structure_of(task, pick), task.candidates.input_hw(pick)
    traced = trace(network, input_hw)
    counted = total(network, traced.layers)
    cost = Cost(counted.params, counted.macs, tuple(counted.uncounted), {}, traced.peak_bytes)
    for name, model in models.items():
        if cost.latency and most and most.exceeded(cost):
            break
        ms = model.latency(task.for_engine(network, model.target.engine), input_hw)
        cost = replace(cost, latency={**cost.latency, name: ms})
    return cost


def all_costs(task: Task, models: Models, objective: CostObjective) -> Costs | None:
    """Predicts the latency of many candidates at once.

    None for other costs, for a space of edits, for unknown operators, and for an engine whose kernels are known from
    exports only.
    """
    if objective.quantity not in ("latency", "end_to_end"):
        return None
    model = models[objective.target or next(iter(models))]
    if isinstance(model, TimedModel) or task.space.edits:  # channels are pruned through the whole network, not by part
        return None
    if model.runtime.kernels_by_part(structure_of(task, task.space.largest), task.recipe.input_hw) is None:
        return None

    def kernels_of(pick: Pick) -> Mapping[str, Mapping[Kernel, int]]:
        found = model.runtime.kernels_by_part(structure_of(task, pick), task.candidates.input_hw(pick))
        assert found is not None
        return found

    return PartTable(task.space, kernels_of, task.recipe.seed).predictor(model.table)


def quantities(cost: Cost) -> dict[str, float]:
    """What limits are of: multiply-adds, parameters, bytes, and milliseconds by target."""
    latencies = {name: latency.ms for name, latency in cost.latency.items()}
    counted = {"macs": cost.macs, "params": cost.params, "size": cost.size_bytes, "memory": memory_of(cost)}
    return {**counted, **latencies}


def memory_of(cost: Cost) -> int:
    """Peak bytes of the activations, of a candidate that was counted here."""
    assert cost.memory_bytes is not None
    return cost.memory_bytes


def check_budget(task: Task, models: Models) -> Limits:
    """The recipe's budget in absolute figures, before the supernet is trained.

    Reports which baselines are over it. Raises BudgetError if even the smallest candidates are.
    """
    space = task.space
    costs = {name: cost_of(task, pick, models) for name, pick in task.baselines.items()}
    limits = absolute(task.recipe.search.budget, costs, next(iter(models)))
    limits = _as_measured(task, models, limits)
    over = [name for name, cost in costs.items() if limits.exceeded(cost)]
    for name in over:
        cost = costs[name]
        task.progress.say(
            f"baseline {name} is over the budget ({cost_text(cost)}): it is scored all the same, but no candidate "
            "may cost as much. A budget such as search.budget.latency=120% goes by the baselines"
        )
    unsized = {path: values for path, values in space.choices.items() if not isinstance(values[0], int | float)}
    picks = [
        {**space.smallest, **{path: values[min(place, len(values) - 1)] for path, values in unsized.items()}}
        for place in range(max((len(values) for values in unsized.values()), default=1))
    ]
    smallest = [cost_of(task, pick, models) for pick in picks]
    if all(limits.exceeded(cost) for cost in smallest):
        raise no_candidate(min(smallest, key=lambda cost: cost.predicted_ms))
    return limits


def measured_limits(task: Task, models: Models) -> dict[str, tuple[Limit, LatencyModel]]:
    """Target's name → a limit of the time there that is to be met as measured, and what prices candidates there.

    Around a given network with its weights, on targets of this machine. What is not predicted needs no such care.
    """
    wanted, found = task.recipe.search.budget.latency or {}, dict[str, tuple[Limit, LatencyModel]]()
    for number, (name, model) in enumerate(models.items() if task.candidates.start else ()):
        limit = wanted.get(name) or (None if number else wanted.get(""))
        if limit is not None and isinstance(model, LatencyModel) and not model.target.foreign:
            found[name] = limit, model
    return found


def measured_times(task: Task, model: LatencyModel, picks: Sequence[Pick]) -> list[tuple[float, bool] | None]:
    """Of the candidates on the model's target; see compress.jobs.search.measured_budget.measured. What other programs
    disturbed is measured again, some times: budget and finalists go by it."""
    candidates, engine = task.candidates, model.target.engine
    networks = [(task.for_engine(candidates.build(pick), engine), candidates.input_hw(pick)) for pick in picks]
    for _ in range(_MEASURED):
        found = measured(model, task.recipe.measurement.rounds, networks, task.progress)
        if all(reliable for _, reliable in filter(None, found)):
            break
    return found


def _as_measured(task: Task, models: Models, limits: Limits) -> Limits:
    """The limits of times that are measured here, corrected by what networks take: see measured_budget."""
    most = dict(limits.most)
    for name, (limit, model) in measured_limits(task, models).items():
        work = partial(_correction, task, name, model, limit, most[name])
        found = task.run.once(f"budget-{model.target.file_name}", work, Correction)
        task.progress.say(found.said(limit, most[name], name))
        most[name] *= found.factor
    return Limits(most)


def _correction(task: Task, name: str, model: LatencyModel, limit: Limit, limit_ms: float) -> Correction:
    """Of a limit of the time on one target."""
    (given,) = task.baselines.values()
    known: dict[str, float] = {}

    def predicted(pick: Pick) -> float:
        key = pick_key(pick)
        if key not in known:
            known[key] = cost_of(task, pick, {name: model}).predicted_ms
        return known[key]

    picks = [given, *near(task.space, given, predicted, limit_ms, task.recipe.seed)]
    found = measured_times(task, model, picks)
    base, *times = [Timed(predicted(pick), *one) if one else None for pick, one in zip(picks, found, strict=True)]
    probes = tuple(one for one in times if one) if base or not limit.relative else ()
    return correction(limit, base or Timed(predicted(given), predicted(given)), probes)


def absolute(budget: Budget, baselines: Mapping[str, Cost], first: str) -> Limits:
    """The budget with shares of baselines' costs worked out. first: the target that a latency without a name is of."""
    given: dict[str, Limit | None] = {name: getattr(budget, name) for name in ("macs", "params", "size", "memory")}
    given |= {name or first: limit for name, limit in (budget.latency or {}).items()}
    costs = {name: quantities(cost) for name, cost in baselines.items()}
    return Limits(
        {
            name: limit.absolute({baseline: found[name] for baseline, found in costs.items()})
            for name, limit in given.items()
            if limit is not None
        }
    )


def cost_text(cost: Cost) -> str:
    """`2.31 ms on onnxruntime, 41.2 M multiply-adds, 0.52 M parameters, 1.3 MB of activations`."""
    latencies = [f"{latency.ms:.3g} ms on {name}" for name, latency in cost.latency.items()]
    counted = [f"{cost.macs / 1e6:.4g} M multiply-adds", f"{cost.params / 1e6:.4g} M parameters"]
    return ", ".join([*latencies, *counted, f"{memory_of(cost) / 1e6:.3g} MB of activations"])


def no_candidate(tightest: Cost | None) -> BudgetError:
    """The error where nothing is within the budget. tightest: the cheapest candidate seen."""
    return BudgetError(
        "no candidate of the space was within the budget",
        place="recipe: search.budget",
        value=f"tightest seen: {cost_text(tightest) if tightest else 'none'}",
        remedy="raise the budget or add smaller choices to the space",
    )


# --- How well it does ------------------------------------------------------------------------------------------------


def trial_score(
    task: Task, weights: Weights, pick: Pick, number: int, images: list[Tensor]
) -> tuple[Score, str | None]:
    """On the search pictures, one pass each; 0, and why, where the tuning diverges, as heavy edits may make it."""
    kind, provenance = task.recipe.data.kind, GIVEN if task.candidates.start else SUPERNET
    try:
        network = trial_network(task, weights, pick, number, images)
    except DivergedError as error:
        task.progress.say(f"candidate {number} counts as {main_figure(kind)} 0: {error}")
        return Score(main_figure(kind), 0.0, None, provenance, kind, len(task.sets.search), {}), str(error)
    estimator = task.estimator_at(task.candidates.input_hw(pick))
    found = score(network, estimator, task.sets.search, kind=kind, provenance=provenance, flip_test=False)
    return replace(found, value=found.value or 0.0, details={}), None


def trial_network(task: Task, weights: Weights, pick: Pick, number: int, images: list[Tensor]) -> nn.Module:
    """The candidate as it is scored: tuned on search.tuning_samples with its unedited network as teacher, if any."""
    recipe, settings = task.recipe, brief(task.recipe.finalists.training, task.recipe.search.tuning_samples)
    unedited, candidate = carried_over(task, weights, pick, images, steps=0)
    network = candidate.network
    if recipe.search.tuning_samples:
        zeros = masks_of_zeros(network) if task.candidates.sets_zeros else {}
        objective = task.objective(settings, task.candidates.input_hw(pick))
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
        apply_masks(network, zeros)
        recalibrate(network, images)
    return network


def brief(settings: FineTuning, samples: int) -> FineTuning:
    """The finalists' training for one epoch of so many samples. Of its steps a fifth at most is a warm-up: the
    finalists' own may be longer than all of them, and the learning rate would never be reached."""
    steps = samples // settings.batch_size
    return settings.model_copy(update={"epochs": 1, "warmup_steps": min(settings.warmup_steps, steps // 5)})


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
