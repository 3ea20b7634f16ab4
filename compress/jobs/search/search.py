"""`compress search`: from a recipe to the Pareto-best networks: tuned, exported, compared with torch and measured.

Read `search` from top to bottom: the order of lines is the order of events. Every step leaves its result in the run
folder, and a killed run that is started again goes on from there.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from compress.artefacts.artefact import load_artefact, save_artefact
from compress.artefacts.network import network_digest
from compress.artefacts.run import Run, environment, open_run
from compress.data.memory import settled_heap
from compress.data.samples import Sample, Samples
from compress.data.sets import Sets, notes_of, picture_sets
from compress.engines import engine
from compress.engines.export import export_and_check, sample_images
from compress.engines.onnxruntime_fusion import UnknownOperationError, kernels_by_part
from compress.errors import BudgetError, DivergedError, EngineError
from compress.files import append_line, read_lines, write_json
from compress.jobs.names import check_names
from compress.jobs.search.request import check_tuning, read_baselines, read_candidates, read_search_space, read_start
from compress.measure.comparison import Measured, differ, speed_up
from compress.measure.cost import Cost
from compress.measure.counting import count
from compress.measure.decoding import DecodingTime, decode_time
from compress.measure.kept_tables import complete_table
from compress.measure.kernels import Kernel, detect_kernels
from compress.measure.latency_table import LatencyTable, predict
from compress.measure.whole_networks import measure_exports
from compress.nas.batch_prediction import PartTable
from compress.nas.candidate import Candidate, Candidates
from compress.nas.pareto import front, spread
from compress.nas.sampler import Costs, Sampler
from compress.nas.sandwich import sandwich_step
from compress.nas.space import Pick, Space
from compress.nas.space_table import prepare_table
from compress.nas.supernet import Supernet
from compress.pose.approaches import check_joints, estimator_for, objective_for
from compress.pose.estimator import LabelledBoxes, PoseEstimator, first_inputs
from compress.pose.objective import Objective
from compress.pose.scoring import RESAMPLES, Score, procedure, score
from compress.progress import Progress, Stage
from compress.recipe import Budget, SearchRecipe, Training, to_data
from compress.training.loop import LossStep, batch_count, distilled_step, label_loss, label_step, train
from compress.training.processes import launch
from compress.training.recalibration import KEPT, PICTURES, recalibrate, recalibrate_unless_worse

PROVENANCE = "short training"
_FASTER = 1.23  # a fifth faster, and the few percent that a prediction may be off
_MUCH_FASTER = (2.0, 1.5)
_LEAST_SCORE = 0.5  # of the best baseline's, in the search: what is less accurate is no answer to anybody
NO_FINALIST = "no candidate reaches half of the best baseline's score"
_RECONSTRUCTION = 100  # steps for every replaced module of a finalist; the trials' are solved for in one
_EXPORT = 1500  # pictures that pass through a network while it is exported
_ASKS_PER_TRIAL = 20  # bound on picks that are over budget or known already, so that the loop ends


def search(recipe: SearchRecipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """Runs or resumes the whole job in `folder`; returns the results that also lie there as `results.json`.

    Raises a CompressError before any work if the recipe, its space, its baselines or its data cannot be used.
    """
    check_names(recipe)
    start = read_start(recipe)
    space = read_search_space(recipe, start)
    baselines = read_baselines(recipe, space)
    sets = picture_sets(recipe.data, recipe.input_hw, recipe.seed)
    for note in notes_of(sets.train, sets.search, sets.val):
        progress.say(note)
    candidates = read_candidates(recipe, space, start)
    check_tuning(recipe)
    check_joints(candidates.architecture(space.largest), sets.train.keypoints, recipe.search.space)

    begun = network_digest(start.architecture, start.network, start.edits, trained=True) if start else ""
    with open_run(folder, recipe, digest=begun) as run, settled_heap():
        read_trials(run), seconds_per_phase(run)  # a broken line is told before any work
        task = Task(recipe, candidates, sets, run, progress, launch("auto"))
        progress.plan(stages(task, len(baselines)))
        with task.clock("latency table"):
            table = prepare_table(
                run.path("latency_table.json"),
                recipe.measurement,
                space,
                candidates.build,
                recipe.input_hw,
                recipe.seed,
                progress,
            )
        budget = check_budget(task, table, baselines)
        weights, losses = trained_weights(task)
        with task.clock("search"):
            trials = search_loop(task, table, weights, list(baselines.values()), budget)
            decoding = run.once("decoding", lambda: decoding_of(task, table, weights, trials))
            passes = 1 + recipe.decoding.flip_test
            chosen = choose_finalists(
                trials, recipe.finalists.count, list(baselines.values()), decoding["median"] / passes
            )
            if not chosen:
                progress.say(NO_FINALIST)
            elif recipe.finalists.count < len(baselines):
                progress.say(
                    f"{recipe.finalists.count} finalist(s) for {len(baselines)} baselines: not every one "
                    "has a finalist aimed at its time; raise finalists.count"
                )
        networks = {**baselines, **{f"finalist_{n}": trial["pick"] for n, trial in enumerate(chosen, 1)}}
        with task.clock("fine-tuning"):
            tuned = run.once("tuned", lambda: tune_all(task, networks, weights, trials))
        refused = [f"{name}: {key}: {why}" for name, one in tuned.items() for key, why in one["refused"].items()]
        tuned = {name: one for name, one in tuned.items() if recipe.measurement.engine in one["exports"]}
        networks = {name: pick for name, pick in networks.items() if name in tuned}
        if not tuned:
            raise EngineError(
                f"all networks are saved, but {recipe.measurement.engine} takes none: {refused[0]}",
                place=str(run.path("finalists")),
                remedy="export them to another engine",
            )
        with task.clock("measuring"):
            measured = measure_all(task, tuned)
            decoded = run.once("decoded", lambda: decode_all(task, table, tuned))
        results = {
            **collect(task, table, losses, trials, networks, tuned, measured, decoded),
            "decoding": decoding,
            "failed_exports": refused,
            "no_finalist": None if chosen else NO_FINALIST,
        }
        write_json(run.path("results.json"), results)
    return results


@dataclass(frozen=True)
class Task:
    """What every step of one search needs to know."""

    recipe: SearchRecipe
    candidates: Candidates
    sets: Sets
    run: Run
    progress: Progress
    fabric: Fabric

    @property
    def space(self) -> Space:
        """What the candidates are picked from."""
        return self.candidates.space

    @property
    def learned_with(self) -> Training:
        """What the weights that trials are scored with were trained with; a given network as finalists are tuned."""
        return self.recipe.finalists.training if self.candidates.start else self.recipe.supernet

    def objective(self, settings: Training) -> Objective:
        """What all candidates learn: they have the same outputs."""
        largest = self.candidates.architecture(self.space.largest)
        return objective_for(largest, self.sets.train.keypoints, self.recipe.input_hw, settings, self.recipe.codec)

    def estimator(self, settings: Training, flip_test: bool) -> PoseEstimator:
        """How the people that candidates see are read; top-down candidates look at the labelled boxes."""
        return estimator_for(
            self.candidates.architecture(self.space.largest),
            self.sets.train.keypoints,
            self.recipe.input_hw,
            codec=self.recipe.codec,
            decoding=self.recipe.decoding.model_copy(update={"flip_test": flip_test}),
            boxes=LabelledBoxes(),
        )

    def inputs(self, settings: Training, wanted: int) -> Iterator[Tensor]:
        """About the first `wanted` training pictures as they are, in batches [B,3,H,W]."""
        return first_inputs(self.estimator(settings, False), self.sets.train, wanted, self.fabric.device)

    @contextmanager
    def clock(self, phase: str) -> Iterator[None]:
        """Notes how long a phase took in `seconds.jsonl`. What a SIGKILL cut off is not in it."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = round(time.monotonic() - start, 2)
            append_line(self.run.path("seconds.jsonl"), {"phase": phase, "seconds": seconds})


def stages(task: Task, baselines: int) -> list[Stage]:
    """The phases that take their time, and how long: in pictures that pass through a network forwards, of which a
    training step has three. Phases are those that the functions below open, by name."""
    recipe, tuned = task.recipe, task.recipe.finalists
    networks = tuned.count + baselines
    pictures = tuned.training.epochs * len(task.sets.train)
    trial = recipe.search.calibration_pictures + len(task.sets.search) + 6 * recipe.search.tuning_samples
    finished = PICTURES + 3 * len(task.sets.val) + _EXPORT  # scored in one pass and in two
    supernet = recipe.supernet.epochs * len(task.sets.train) * 3 * (2 + recipe.supernet.randoms)
    return [
        *([] if task.candidates.start else [Stage("supernet", supernet)]),
        Stage("search", recipe.search.trials * trial),
        Stage("fine-tuning: teacher", 3 * pictures),
        Stage("fine-tuning: finalists", (1 + 3 * (networks - 1)) * pictures),
        Stage("scoring and exporting", networks * finished),
    ]


# --- The weights -----------------------------------------------------------------------------------------------------

Weights = Callable[[Pick], nn.Module]
"""A pick's unedited network with trained weights, a new copy every time."""


def trained_weights(task: Task) -> tuple[Weights, list[float]]:
    """The given network, or what is cut from a supernet trained here. Returns the supernet's losses as well.

    Edits have no part in the supernet: it holds the weights of the unedited operators, see carried_over.
    """
    start = task.candidates.start
    if start:
        return (lambda pick: copy.deepcopy(start.network).to(task.fabric.device)), []
    with task.clock("supernet"):
        supernet, losses = train_supernet(task)
    return supernet.cut, losses


def train_supernet(task: Task) -> tuple[Supernet, list[float]]:
    """Trains the shared weights, or takes the trained ones of the run folder. Returns every epoch's loss as well."""
    recipe, settings = task.recipe, task.recipe.supernet
    torch.manual_seed(recipe.seed)
    supernet = Supernet(task.space.architectures).to(task.fabric.device)
    objective = task.objective(settings)
    samples = objective.samples(task.sets.train)
    with task.progress.phase("supernet", batch_count(settings, samples)) as phase:
        history = train(
            supernet,
            [supernet.parameters],
            sandwich_step(supernet, objective, settings, task.fabric),
            samples=samples,
            settings=settings,
            seed=recipe.seed,
            fabric=task.fabric,
            workers=recipe.data.workers,
            checkpoint=task.run.path("steps", "supernet.pt"),
            phase=phase,
        )
    return supernet, [entry.loss for entry in history]


def carried_over(
    task: Task, weights: Weights, pick: Pick, images: list[Tensor], steps: int
) -> tuple[nn.Module, Candidate]:
    """A pick's network unedited and edited, with batch-norm statistics of training pictures."""
    unedited = weights(pick)
    recalibrate(unedited, images)
    candidate = task.candidates.edited(pick, unedited, images, steps, task.recipe.seed)
    if task.candidates.is_edited(pick):
        recalibrate(candidate.network, images)
    return unedited, candidate


# --- The search loop -------------------------------------------------------------------------------------------------


def search_loop(
    task: Task, table: LatencyTable, weights: Weights, hand_made: list[Pick], budget: Budget
) -> list[dict[str, Any]]:
    """Asks, prices, scores and tells until recipe.search.trials candidates are scored. Returns them in order.

    Hand-made networks are scored whatever they cost: all else is compared with them. Finished trials lie in
    `trials.jsonl`, one line each; they are told again on resuming, not scored again.
    """
    recipe, settings, run = task.recipe, task.recipe.search, task.run
    done = {key_of(trial["pick"]): trial for trial in read_trials(run)}
    if done:
        task.progress.say(f"{len(done)} finished trials are taken from {run.path('trials.jsonl')}")
    sampler = Sampler(
        task.space,
        settings.sampler,
        population=settings.population,
        seed=recipe.seed,
        hand_made=hand_made,
        costs=all_costs(task, table) if settings.sampler == "guided" else None,
    )
    images = list(task.inputs(task.learned_with, settings.calibration_pictures))
    always = {key_of(pick) for pick in hand_made}
    trials: dict[str, dict[str, Any]] = {}
    tightest: Cost | None = None
    with task.progress.phase("search", settings.trials) as phase:
        for _ in range(settings.trials * _ASKS_PER_TRIAL):
            trial, pick = sampler.ask()
            key = key_of(pick)
            if key in trials:  # asked before: the same answer
                sampler.tell(trial, trials[key]["cost"]["predicted_ms"], trials[key]["ap"])
                continue
            if key not in done:
                cost = cost_of(task, table, structure_of(task, pick))
                if key not in always and over_budget(cost, budget):
                    tightest = cost if tightest is None else min(tightest, cost, key=lambda c: c.predicted_ms)
                    sampler.refuse(trial)
                    continue
                ap = trial_score(task, weights, pick, len(trials), images)
                done[key] = {"number": len(trials), "pick": pick, "cost": cost.data(), "ap": ap}
                append_line(run.path("trials.jsonl"), done[key])
                trial_checkpoint(task, len(trials)).unlink(missing_ok=True)
            trials[key] = done[key]
            predicted_ms = trials[key]["cost"]["predicted_ms"]
            sampler.tell(trial, predicted_ms, trials[key]["ap"])
            phase.advance(1, f"AP {trials[key]['ap']:.3f} at {predicted_ms:.2f} ms")
            if len(trials) == settings.trials:
                break
    if not trials:
        raise no_candidate(tightest)
    if len(trials) < settings.trials:
        task.progress.say(f"the space and budget gave {len(trials)} different candidates, not {settings.trials}")
    return list(trials.values())


def read_trials(run: Run) -> list[dict[str, Any]]:
    """The finished trials. Raises RunError for a broken line."""

    def trial(line: Any) -> dict[str, Any]:
        cost = Cost(**line["cost"]).data()
        return {"number": int(line["number"]), "pick": dict(line["pick"]), "cost": cost, "ap": float(line["ap"])}

    return read_lines(run.path("trials.jsonl"), trial)


def trial_score(task: Task, weights: Weights, pick: Pick, number: int, images: list[Tensor]) -> float:
    """AP on the search pictures; 0 for a candidate whose tuning diverges, as heavy edits may make it."""
    try:
        network = trial_network(task, weights, pick, number, images)
    except DivergedError as error:
        task.progress.say(f"candidate {number} counts as AP 0: {error}")
        return 0.0
    estimator = task.estimator(task.learned_with, False)
    found = score(
        network,
        estimator,
        task.sets.search,
        kind=task.recipe.data.kind,
        provenance="weights of the supernet",
        flip_test=False,
    )
    return found.value or 0.0


def trial_network(task: Task, weights: Weights, pick: Pick, number: int, images: list[Tensor]) -> nn.Module:
    """The candidate as it is scored; if the recipe says so, it has learned from labels and its unedited network."""
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
                checkpoint=trial_checkpoint(task, number),
                phase=phase,
            )
        recalibrate(network, images)
    return network


@dataclass(frozen=True)
class First:
    """The first `count` samples."""

    samples: Samples
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.samples))

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """See Samples."""
        return self.samples.sample(index, rng)


def trial_checkpoint(task: Task, number: int) -> Path:
    """Where a trial's tuned weights lie until it is scored."""
    return task.run.path("steps", f"trial_{number}.pt")


def all_costs(task: Task, table: LatencyTable) -> Costs | None:
    """Predicts the latency of many candidates at once; None if the space's networks have no fast way to be cut."""
    space, input_hw = task.space, task.recipe.input_hw

    def cut_pick(pick: Pick) -> Mapping[str, Mapping[Kernel, int]]:
        return kernels_by_part(structure_of(task, pick), input_hw)

    if space.edits:  # a pruned network's channels are followed through all of it
        return None
    try:
        cut_pick(space.largest)
    except UnknownOperationError:
        return None
    return PartTable(space, cut_pick, task.recipe.seed).predictor(table)


def structure_of(task: Task, pick: Pick) -> nn.Module:
    """The candidate's network without its weights, if it can do without."""
    with torch.device("meta"):
        return task.candidates.build(pick)


def cost_of(task: Task, table: LatencyTable, network: nn.Module) -> Cost:
    """Counted parameters and multiply-adds, and the latency predicted from the table."""
    counted = count(network, task.recipe.input_hw)
    kernels = detect_kernels(network, task.recipe.input_hw)
    complete_table(table, kernels)
    return Cost(counted.params, counted.macs, predict(table, kernels).ms, counted.uncounted)


def check_budget(task: Task, table: LatencyTable, baselines: Mapping[str, Pick]) -> Budget:
    """The recipe's budget with its latency in milliseconds, before the supernet is trained.

    Says which baselines are over it. Raises BudgetError if even the smallest candidates are.
    """
    space, costs = task.space, {}
    for name, pick in baselines.items():
        costs[name] = cost_of(task, table, structure_of(task, pick))
    budget = in_milliseconds(task.recipe.search.budget, [cost.predicted_ms for cost in costs.values()])
    for name, cost in costs.items():
        if over_budget(cost, budget):
            task.progress.say(
                f"baseline {name} is over the budget ({cost.predicted_ms:.2f} ms predicted, {cost.macs / 1e6:.0f} M "
                f"multiply-adds, {cost.params / 1e6:.2f} M parameters): it is scored all the same, but no candidate "
                "may cost as much. A budget such as search.budget.latency=120% goes by the baselines"
            )
    unsized = {path: values for path, values in space.choices.items() if not isinstance(values[0], int | float)}
    places = range(max((len(values) for values in unsized.values()), default=1))
    picks = [
        {**space.smallest, **{path: values[min(place, len(values) - 1)] for path, values in unsized.items()}}
        for place in places
    ]
    smallest = [cost_of(task, table, structure_of(task, pick)) for pick in picks]
    if all(over_budget(cost, budget) for cost in smallest):
        raise no_candidate(min(smallest, key=lambda cost: cost.predicted_ms))
    return budget


def in_milliseconds(budget: Budget, baselines_ms: Sequence[float]) -> Budget:
    """The budget with what its latency as a share of the slowest baseline's comes to; of two limits the lower counts.

    Without baselines the share is no limit (read_baselines refuses it).
    """
    limits = [] if budget.latency_ms is None else [budget.latency_ms]
    if budget.latency is not None and baselines_ms:
        limits.append(budget.latency * max(baselines_ms))
    return budget.model_copy(update={"latency": None, "latency_ms": min(limits, default=None)})


def no_candidate(tightest: Cost | None) -> BudgetError:
    """What to say when nothing is within the budget."""
    return BudgetError(
        "no candidate of the space was within the budget",
        place="recipe: search.budget",
        value=f"tightest seen: {tightest}",
        remedy="raise the budget or add smaller choices to the space",
    )


def over_budget(cost: Cost, budget: Budget) -> bool:
    """Whether a limit is exceeded; latencies are in milliseconds, see in_milliseconds."""
    return (
        (budget.latency_ms is not None and cost.predicted_ms > budget.latency_ms)
        or (budget.macs is not None and cost.macs > budget.macs)
        or (budget.params is not None and cost.params > budget.params)
    )


def key_of(pick: Mapping[str, Any]) -> str:
    """Equal for equal picks."""
    return repr(sorted(pick.items()))


# --- The finalists ---------------------------------------------------------------------------------------------------


def choose_finalists(
    trials: list[dict[str, Any]], wanted: int, hand_made: list[Pick], decoding_ms: float = 0.0
) -> list[dict[str, Any]]:
    """At most `wanted` trials, by the search's scores and predicted end-to-end time, cheapest first.

    None scores below half of the best hand-made network: the list may be empty. For every hand-made network the most
    accurate trial that is no slower, or the fastest where all are; the most accurate of all; for every hand-made
    network the most accurate that is at least a fifth faster; then the second ones of these, for the search's order
    of close candidates is uncertain; then the most accurate in half and in two thirds of each one's time; then what
    lies evenly on the front. Hand-made networks are baselines and take no place.

    decoding_ms: what all candidates take to be read beside their own predicted time, per pass of the network.
    """
    known = {key_of(pick) for pick in hand_made}
    baselines = [trial for trial in trials if key_of(trial["pick"]) in known]
    least = max((trial["ap"] for trial in baselines), default=0.0) * _LEAST_SCORE
    found = [trial for trial in trials if key_of(trial["pick"]) not in known and trial["ap"] >= least]
    if not found:
        return []
    points = [(trial["cost"]["predicted_ms"] + decoding_ms, trial["ap"]) for trial in found]
    best_first = sorted(range(len(found)), key=lambda index: -points[index][1])
    fastest = min(range(len(found)), key=lambda index: points[index][0])

    def within(baseline: Mapping[str, Any], speed_up: float, rank: int) -> list[int]:
        limit_ms = (baseline["cost"]["predicted_ms"] + decoding_ms) / speed_up
        return [index for index in best_first if points[index][0] <= limit_ms][rank : rank + 1]

    order = [index for one in baselines for index in within(one, 1.0, 0) or [fastest]]
    order.append(best_first[0])
    for rank, speed_ups in ((0, (_FASTER,)), (1, (_FASTER, 1.0)), (0, _MUCH_FASTER)):
        order += [index for one in baselines for speed_up in speed_ups for index in within(one, speed_up, rank)]
    chosen = list(dict.fromkeys([*order, *spread(points, wanted), *front(points)]))[:wanted]
    return [found[index] for index in sorted(chosen, key=lambda index: points[index][0])]


def decoding_of(task: Task, table: LatencyTable, weights: Weights, trials: list[dict[str, Any]]) -> dict[str, float]:
    """What reading people from a candidate's maps takes, predicted for all alike: see decode_time.

    Measured with the candidate of the best score: all have the same outputs, and how long a half-trained one's noise
    takes says nothing of what it takes once it is tuned.
    """
    best = max(trials, key=lambda trial: trial["ap"])
    flip_test, learned = task.recipe.decoding.flip_test, task.learned_with
    images = list(task.inputs(learned, task.recipe.search.calibration_pictures))
    network = carried_over(task, weights, best["pick"], images, steps=0)[1].network
    estimator, clock_ms = task.estimator(learned, flip_test), table.reference_ms
    assert clock_ms is not None
    return decoding_figures(
        decode_time(network, estimator, task.sets.search, flip_test=flip_test, reference_ms=clock_ms)
    )


def decoding_figures(found: DecodingTime) -> dict[str, float]:
    """The time of decoding as plain data."""
    latency = found.latency
    assert latency.q1_ms is not None
    assert latency.q3_ms is not None
    assert latency.uncertainty is not None
    return {
        "median": latency.ms,
        "q1": latency.q1_ms,
        "q3": latency.q3_ms,
        "people": found.people,
        "uncertainty": latency.uncertainty,
    }


def tune_all(
    task: Task, networks: Mapping[str, Pick], weights: Weights, trials: list[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Fine-tunes, saves, scores and exports finalists and baselines alike. Returns name → what came of it.

    The network with the best score in the search learns from the labels alone; tuned, it teaches all others side by
    side.
    """
    scores = {key_of(trial["pick"]): float(trial["ap"]) for trial in trials}
    best = max(networks, key=lambda name: scores.get(key_of(networks[name]), 0.0))
    recipe, settings = task.recipe, task.recipe.finalists.training
    images = list(task.inputs(settings, recipe.search.calibration_pictures))
    chosen = {name: carried_over(task, weights, pick, images, _RECONSTRUCTION)[1] for name, pick in networks.items()}
    teacher, students = chosen[best].network, {name: one.network for name, one in chosen.items() if name != best}
    objective, fabric = task.objective(settings), task.fabric
    tune(task, "teacher", {best: teacher}, objective, label_step(teacher, objective, fabric))
    if students:
        step = distilled_step(list(students.values()), teacher, objective, settings.distillation, fabric)
        tune(task, "finalists", students, objective, step)
    tuned = {}
    with task.progress.phase("scoring and exporting", len(networks)) as phase:
        for name, candidate in chosen.items():
            tuned[name] = task.run.once(f"tuned_{name}", partial(finish, task, name, networks[name], candidate))
            phase.advance(1, name)
    return tuned


def tune(task: Task, title: str, networks: Mapping[str, nn.Module], objective: Objective, loss_step: LossStep) -> None:
    """Trains the networks on the same batches, each as if it were alone, and recalibrates them."""
    recipe, settings = task.recipe, task.recipe.finalists.training
    samples = objective.samples(task.sets.train)
    with task.progress.phase(f"fine-tuning: {title}", batch_count(settings, samples)) as phase:
        train(
            nn.ModuleDict(networks),
            [dict(network.named_parameters()) for network in networks.values()],
            loss_step,
            samples=samples,
            settings=settings,
            seed=recipe.seed,
            fabric=task.fabric,
            workers=recipe.data.workers,
            checkpoint=task.run.path("steps", f"tuned_{title}.pt"),
            phase=phase,
        )
    with task.progress.phase(f"recalibrating: {title}", len(networks)) as phase:
        for name, network in networks.items():
            judged = partial(label_loss, network, objective, samples, settings, recipe.seed)
            if not recalibrate_unless_worse(network, task.inputs(settings, PICTURES), judged):
                task.progress.say(KEPT.format(name))
            phase.advance(1, name)


def finish(task: Task, name: str, pick: Pick, candidate: Candidate) -> dict[str, Any]:
    """A tuned network's validation score, also of the other procedure, its artefact and its checked exports."""
    network, recipe, settings = candidate.network, task.recipe, task.recipe.finalists.training
    folder = task.run.path("finalists", name)
    flip_test = recipe.decoding.flip_test
    vals = {
        flip: score(
            network,
            task.estimator(settings, flip),
            task.sets.val,
            kind=recipe.data.kind,
            provenance=PROVENANCE,
            flip_test=flip,
            resamples=RESAMPLES,
        ).figures
        for flip in (flip_test, not flip_test)
    }
    facts = {
        "input_hw": list(recipe.input_hw),
        "keypoints": task.sets.val.keypoints.name,
        "codec": asdict(recipe.codec),
        "provenance": PROVENANCE,
        "data": recipe.data.model_dump(mode="json"),
        "seed": recipe.seed,
        "flip_test": flip_test,
        "val": vals[flip_test],
    }
    save_artefact(folder, task.candidates.architecture(pick), network, facts, candidate.edits)
    images = sample_images(task.sets.val, recipe.measurement.parity_pictures, recipe.input_hw)
    exports, refused = export_and_check(network.cpu(), recipe.measurement.exports, images, recipe.input_hw, folder)
    return {
        "val": vals[flip_test],
        "other_val": vals[not flip_test],
        "provenance": PROVENANCE,
        "exports": exports,
        "refused": refused,
    }


def measure_all(task: Task, tuned: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Latency of every exported network on every engine, in one interleaved run."""
    folders = {name: task.run.path("finalists", name) for name in tuned}
    exports = {name: result["exports"] for name, result in tuned.items()}
    recipe = task.recipe
    return task.run.once(
        "measured",
        lambda: measure_exports(folders, exports, recipe.measurement, recipe.input_hw, task.progress),
    )


def decode_all(
    task: Task, table: LatencyTable, tuned: Mapping[str, dict[str, Any]]
) -> dict[str, list[dict[str, float]]]:
    """How long every network's answers take to be read, in the recipe's procedure and in the other one.

    Returns name → quartiles of both on the table's clock, see decode_time.
    """
    assert table.reference_ms is not None
    flip_test = task.recipe.decoding.flip_test
    estimators = {flip: task.estimator(task.recipe.finalists.training, flip) for flip in (flip_test, not flip_test)}
    times = {}
    with task.progress.phase("decoding", len(tuned)) as phase:
        for name in tuned:
            network = load_artefact(task.run.path("finalists", name)).network
            times[name] = [
                decoding_figures(
                    decode_time(network, estimator, task.sets.val, flip_test=flip, reference_ms=table.reference_ms)
                )
                for flip, estimator in estimators.items()
            ]
            phase.advance(1, name)
    return times


# --- The results -----------------------------------------------------------------------------------------------------


def collect(
    task: Task,
    table: LatencyTable,
    losses: list[float],
    trials: list[dict[str, Any]],
    networks: Mapping[str, Pick],
    tuned: Mapping[str, dict[str, Any]],
    measured: Mapping[str, dict[str, Any]],
    decoded: Mapping[str, list[dict[str, float]]],
) -> dict[str, Any]:
    """Everything the report shows, as plain data."""
    recipe, run = task.recipe, task.run
    on_front = set(front([(trial["cost"]["predicted_ms"], trial["ap"]) for trial in trials]))
    entries = [
        network_entry(task, table, trials, name, pick, tuned[name], measured[name], decoded[name])
        for name, pick in networks.items()
    ]
    errors = [abs(entry["prediction_error"]) for entry in entries]
    return {
        "job": "search",
        "folder": str(run.folder),
        "command": environment()["command"],
        "recipe": to_data(recipe),
        "environment": environment(),
        "procedure": procedure(recipe.decoding.flip_test),
        "data": data_facts(task),
        "engine": engine_facts(recipe),
        "space": {
            "family": task.space.base["family"],
            "size": task.space.size,
            "choices": {path: list(values) for path, values in task.space.choices.items()},
        },
        "table": {"kernels": len(table.kernels), "scale": asdict(table.scale) if table.scale else None},
        "supernet": {"loss": losses},
        "trials": [{**trial, "on_front": index in on_front} for index, trial in enumerate(trials)],
        "networks": entries,
        "comparison": [compare(entry, entries) for entry in entries if entry["role"] == "baseline"],
        "prediction": {"mean_error": sum(errors) / len(errors), "worst_error": max(errors)},
        "seconds": seconds_per_phase(run),
        "caveats": caveats(task, entries),
    }


def network_entry(
    task: Task,
    table: LatencyTable,
    trials: list[dict[str, Any]],
    name: str,
    pick: Pick,
    tuned: dict[str, Any],
    measured: dict[str, Any],
    decode_ms: list[dict[str, float]],
) -> dict[str, Any]:
    """One finalist or baseline. measured_ms and prediction_error are on the latency table's clock (drift taken out).

    measured_ms: of one pass of the network. val, decode_ms, end_to_end_ms: of the recipe's procedure, `passes` of the
    network; other: of the other one.
    """
    latency = measured[task.recipe.measurement.engine]
    assert table.reference_ms is not None
    measured_ms = latency["ratio"] * table.reference_ms
    known = {key_of(trial["pick"]): trial["ap"] for trial in trials}
    cost = cost_of(task, table, load_artefact(task.run.path("finalists", name)).network)
    ncnn = measured.get("ncnn")
    flip_test = task.recipe.decoding.flip_test
    own, other = (
        {
            "procedure": procedure(flip),
            "passes": 1 + flip,
            "val": val,
            "decode_ms": reading,
            **end_to_end(1 + flip, Measured(measured_ms, latency["uncertainty"]), reading),
        }
        for flip, val, reading in zip(
            (flip_test, not flip_test), (tuned["val"], tuned["other_val"]), decode_ms, strict=True
        )
    )
    return {
        **own,
        "other": other,
        "name": name,
        "role": "finalist" if name.startswith("finalist_") else "baseline",
        "architecture": task.space.apply(pick),
        "pick": pick,
        "edits": {edit.name: pick[edit.path] for edit in task.space.edits if pick[edit.path] != edit.nothing},
        "cost": cost.data(),
        "supernet_ap": known.get(key_of(pick)),
        "provenance": tuned["provenance"],
        "ap_standard_error": tuned["val"]["AP_se"],
        "latency": latency,
        "measured_ms": measured_ms,
        "prediction_error": cost.predicted_ms / measured_ms - 1,
        "ncnn_ms": ncnn["ratio"] * table.reference_ms if ncnn else None,
        "ncnn_uncertainty": ncnn["uncertainty"] if ncnn else None,
        "ncnn_reliable": ncnn["reliable"] if ncnn else None,
        "exports": {
            key: {**export, "file": f"finalists/{name}/{export['file']}"} for key, export in tuned["exports"].items()
        },
    }


def end_to_end(passes: int, network: Measured, reading: Mapping[str, float]) -> dict[str, float]:
    """What a person waits for: so many passes of the network, then the reading of its maps; and how certain that is."""
    total_ms = passes * network.ms + reading["median"]
    error_ms = math.hypot(passes * network.ms * network.uncertainty, reading["median"] * reading["uncertainty"])
    return {"end_to_end_ms": total_ms, "end_to_end_uncertainty": error_ms / total_ms}


def compare(baseline: dict[str, Any], entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The most accurate finalist that is no slower than the baseline, and the fastest that is no less accurate.

    Times are end to end. Each with a verdict: of a gain `beyond chance`, `within chance` or `worthless`, of a speed-up
    see compress.measure.comparison.
    """
    finalists = [entry for entry in entries if entry["role"] == "finalist"]
    ap, ms = baseline["val"]["AP"] or 0.0, baseline["end_to_end_ms"]
    no_slower = [entry for entry in finalists if entry["end_to_end_ms"] <= ms]
    no_worse = [entry for entry in finalists if (entry["val"]["AP"] or 0.0) >= ap]
    best = max(no_slower, key=lambda entry: entry["val"]["AP"] or 0.0, default=None)
    fastest = min(no_worse, key=lambda entry: entry["end_to_end_ms"], default=None)
    return {
        "baseline": baseline["name"],
        "at_its_latency": best and gain_over(baseline, best),
        "at_its_accuracy": fastest and speed_up_over(baseline, fastest),
    }


def gain_over(baseline: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """A finalist's AP beside a baseline's, and whether the difference means anything.

    faster: by more than both times are uncertain.
    """
    aps = [one["val"]["AP"] or 0.0 for one in (entry, baseline)]
    beyond = abs(aps[0] - aps[1]) > 2 * math.hypot(*(one["ap_standard_error"] or 0.0 for one in (entry, baseline)))
    nothing = Score.of_figures("AP", entry["val"]).worthless
    verdict = "worthless" if nothing else "beyond chance" if beyond else "within chance"
    steady = baseline["latency"]["reliable"] and entry["latency"]["reliable"]
    times = [Measured(one["end_to_end_ms"], one["end_to_end_uncertainty"]) for one in (entry, baseline)]
    faster = differ(*times) and times[0].ms < times[1].ms
    return {
        "network": entry["name"],
        "ap": aps[0],
        "baseline_ap": aps[1],
        "verdict": verdict,
        "steady": steady,
        "faster": faster,
    }


def speed_up_over(baseline: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """How many times as fast a finalist is as a baseline, end to end, and whether that means anything."""
    times = [Measured(one["end_to_end_ms"], one["end_to_end_uncertainty"]) for one in (baseline, entry)]
    steady = baseline["latency"]["reliable"] and entry["latency"]["reliable"]
    found = speed_up(*times, steady=steady, worthless=Score.of_figures("AP", entry["val"]).worthless)
    return {"network": entry["name"], "speedup": found.factor, **asdict(found)}


def engine_facts(recipe: SearchRecipe) -> dict[str, Any]:
    """What the latencies were measured on."""
    described = engine(recipe.measurement.engine).describe()
    return {
        "name": described.engine,
        "version": described.version,
        "device": f"{described.cpu}, {described.cores} cores, {described.system}",
        "threads": recipe.measurement.threads,
    }


def data_facts(task: Task) -> dict[str, Any]:
    """What the scores were taken on."""
    sets = task.sets
    people = sum(len(sets.val.people(index)) for index in range(len(sets.val)))
    return {
        "kind": task.recipe.data.kind,
        "train": len(sets.train),
        "search": len(sets.search),
        "val": len(sets.val),
        "val_people": people,
    }


def seconds_per_phase(run: Run) -> dict[str, float]:
    """Wall-clock seconds, over all the times a run was resumed."""
    seconds: dict[str, float] = {}
    spent = read_lines(run.path("seconds.jsonl"), lambda line: (str(line["phase"]), float(line["seconds"])))
    for phase, lasted in spent:
        seconds[phase] = round(seconds.get(phase, 0.0) + lasted, 2)
    return seconds


def caveats(task: Task, entries: list[dict[str, Any]]) -> list[str]:
    """What the numbers do not tell."""
    recipe = task.recipe
    tuned = recipe.search.tuning_samples
    said = [
        f"Fine-tuning was short ({recipe.finalists.training.epochs} epochs): the order of close networks may change "
        "after full training.",
        f"Latency holds for {recipe.measurement.engine} on {recipe.measurement.threads} thread(s) of this machine and "
        f"for {recipe.input_hw[0]}x{recipe.input_hw[1]} inputs; decoding the maps takes the time given "
        "beside it, in this toolkit's decoder, and depends on how many people a picture shows.",
        "One seed: the spread of AP between seeds was not measured.",
        "Against a baseline stands the best of several finalists, chosen on the pictures it is reported on: a gain "
        "within two standard errors may be chance.",
    ]
    if task.space.edits:
        how = f"after a tuning on {tuned} samples" if tuned else "untuned"
        said.append(
            f"Edits are scored {how}: what a full fine-tuning would win back is not known to the search, so it favours "
            "edits that do little harm at first."
        )
    uncounted = sorted({name for entry in entries for name in entry["cost"]["uncounted"]})
    if uncounted:
        said.append(f"MACs leave out operators without a counting rule: {', '.join(uncounted)}.")
    if recipe.data.kind == "synthetic":
        said.append(
            "Synthetic people are not photographs: accuracy ranks networks here, it does not transfer as a number."
        )
    said += [
        f"The timing of {entry['name']} is uncertain by ± {entry['latency']['uncertainty']:.0%}: "
        "repeat it on a quieter machine."
        for entry in entries
        if not entry["latency"]["reliable"]
    ]
    return said
