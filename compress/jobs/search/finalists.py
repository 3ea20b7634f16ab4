"""The end of a search: finalists are chosen among the trials, finished as baselines are, and compared with them."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from torch import nn

from compress.artefacts.artefact import load_artefact
from compress.artefacts.network import Learning
from compress.artefacts.results import Comparison, Faster, Gain, NetworkResult, PredictionError, TableUsed, Trial
from compress.errors import EngineError
from compress.jobs.finalise import Finalist, Tail, end_to_end, finish, measure, time_decoding, tune
from compress.jobs.search.alone import candidate_of
from compress.jobs.search.task import Calibration, Task
from compress.jobs.search.trials import Models, Weights, costs_of, measured_limits, measured_times
from compress.measure.comparison import differ, speed_up
from compress.measure.decoding import decode_time
from compress.measure.latency import Latency
from compress.measure.latency_model import LatencyModel
from compress.measure.latency_table import grouped, predict
from compress.measure.limit import CLOSE
from compress.measure.objective import DEFAULT_OBJECTIVES, CostObjective
from compress.nas.candidate import SPARSITY, Candidate
from compress.nas.pareto import front, spread
from compress.nas.space import Pick, pick_key, size_text
from compress.pose.scoring import difference_error, main_figure
from compress.pruning.schedule import Sparsifier

PROVENANCE = "short training"
"""How the weights of finalists and baselines came about."""
_FASTER = 1.23  # a fifth faster, and the few percent that a prediction may be off
_MUCH_FASTER = (2.0, 1.5)
LEAST_SHARE = 0.5  # of the best baseline's, in the search: less accurate networks are of no use
_RIVAL = 0.9  # of the score of the best within the budget, from which on one of a single kind may overtake it
_CHECKS = 5  # times that finalists are measured and others chosen for those over the budget
_RECONSTRUCTION = 100  # steps for every replaced module of a finalist; a trial's are solved for in one


def choose_finalists(
    trials: Sequence[Trial],
    wanted: int,
    baselines: Sequence[Pick],
    decoding_ms: Callable[[Trial], float] = lambda trial: 0.0,
    objectives: Sequence[CostObjective] = DEFAULT_OBJECTIVES,
    least_share: float = LEAST_SHARE,
    most: Sequence[float] = (),
    kinds: Callable[[Trial], Collection[str]] = lambda trial: (),
) -> list[Trial]:
    """At most `wanted` trials, by the search's scores and predicted costs, cheapest by the first cost first.

    None scores below `least_share` of the best baseline, or 0 where that does not: the list may be empty. For every
    baseline the most accurate trial that costs no more, or the cheapest where all cost more; the most accurate ones
    with one kind of edits alone that score nearly as much; the most accurate of all;
    for every baseline the cheapest that scores no less, and the most accurate that costs at least a fifth less; then
    the second ones of these, for the search's order of close candidates is uncertain; then the most accurate at half
    and at two thirds of each one's cost; then an even spread over the front. Baselines take no place. Where there are
    several costs, none may be more than the baseline's and one must be so much less. A baseline over the budget stands
    for the budget.

    decoding_ms: of a trial, per pass of the network, on top of its own predicted time, in what is end to end. most: of
    every cost, that the budget allows, without the decoding; empty: any. kinds: of edits that a trial has. Trials are
    tuned little or not at all, so what does little harm at first is ahead in the search: around a DIR-BHRNet fewer
    channels alone had 0.152 where the best one had 0.165, and tuned as finalists 0.154 where it has 0.151.
    """
    known = {pick_key(pick) for pick in baselines}
    scored_baselines = [trial for trial in trials if pick_key(trial.pick) in known]
    best = max((trial.value for trial in scored_baselines), default=0.0)
    least = best * least_share
    found = [
        trial
        for trial in trials
        if pick_key(trial.pick) not in known and trial.value >= least and (trial.value or not best)
    ]
    if not found:
        return []
    costs = [costs_of(trial, objectives, decoding_ms(trial)) for trial in found]
    points = [(*own, trial.value) for own, trial in zip(costs, found, strict=True)]
    best_first = sorted(range(len(found)), key=lambda index: -found[index].value)

    def limits_of(baseline: Trial) -> list[float]:
        alone, whole = costs_of(baseline, objectives), costs_of(baseline, objectives, decoding_ms(baseline))
        over = [max(0.0, own - limit) for own, limit in zip(alone, most or alone, strict=True)]
        return [cost - more for cost, more in zip(whole, over, strict=True)]

    def meeting(baseline: Trial, factor: float) -> list[int]:
        """Of all that cost no more, and one cost so much less, the most accurate first."""
        limits = limits_of(baseline)

        def meets(own: Sequence[float]) -> bool:
            no_more = all(cost <= limit for cost, limit in zip(own, limits, strict=True))
            return no_more and any(cost <= limit / factor for cost, limit in zip(own, limits, strict=True))

        return [index for index in best_first if meets(costs[index])]

    def within(baseline: Trial, factor: float, rank: int) -> list[int]:
        return meeting(baseline, factor)[rank : rank + 1]

    def cheapest(baseline: Trial, at_least: float) -> list[int]:
        limits = limits_of(baseline)
        enough = [index for index, trial in enumerate(found) if trial.value >= at_least]
        return sorted(enough, key=lambda i: max(c / limit for c, limit in zip(costs[i], limits, strict=True)))[:1]

    def of_one_kind(baseline: Trial) -> list[int]:
        met = meeting(baseline, 1.0)
        rivals = [index for index in met if found[index].value >= _RIVAL * found[met[0]].value]
        alone: dict[str, int] = {}
        for index in rivals:
            if len(own := kinds(found[index])) == 1:
                alone.setdefault(next(iter(own)), index)
        return list(alone.values())

    order = [index for one in scored_baselines for index in within(one, 1.0, 0) or cheapest(one, least)]
    order += [index for one in scored_baselines for index in of_one_kind(one)]
    order.append(best_first[0])
    order += [index for one in scored_baselines for index in cheapest(one, one.value)]
    for rank, factors in ((0, (_FASTER,)), (1, (_FASTER, 1.0)), (0, _MUCH_FASTER)):
        order += [index for one in scored_baselines for factor in factors for index in within(one, factor, rank)]
    chosen = list(dict.fromkeys([*order, *spread(points, wanted), *front(points)]))[:wanted]
    return [found[index] for index in sorted(chosen, key=lambda index: points[index][0])]


def chosen_as_measured(
    task: Task, models: Models, trials: Sequence[Trial], choose: Callable[[Sequence[Trial]], list[Trial]]
) -> list[Trial]:
    """What `choose` makes of the trials; around a given network without those that take more time than the budget in
    fact, for candidates are told by predicted times. See measured_limits. What cannot be measured, as the engine does
    not take it, is told by its predicted time.

    If all that were measured take more, the choice by predicted time stays, and it is said.
    """
    limits = measured_limits(task, models)
    if not limits:
        return choose(trials)
    (given,) = task.baselines.values()

    def shares_of(chosen: Sequence[Trial]) -> list[float | None]:
        """Of every one the measured time as a share of the budget, on the target where it is met least; None of what
        no engine takes."""
        found = []
        for name, (limit, model) in limits.items():
            base, *times = measured_times(task, model, [given, *(trial.pick for trial in chosen)])
            if not all(reliable for _, reliable in filter(None, (base, *times))):
                task.progress.say(f"finalists were measured on {name} beside other programs: take it with care")
            if base or not limit.relative:
                most_ms = limit.absolute(dict.fromkeys(task.baselines, base[0] if base else math.inf))
                found.append([one[0] / most_ms if one else None for one in times])
        by_trial = zip(*found, strict=True) if found else [()] * len(chosen)
        return [max((one for one in own if one is not None), default=None) for own in by_trial]

    work = partial(measured_shares, trials, choose, shares_of)
    shares = task.run.once("finalists-measured", work, dict[str, float | None])
    over = {number: share for number, share in shares.items() if share and share > 1 + CLOSE}
    known = shares.keys() - over.keys()
    chosen = choose([one for one in trials if pick_key(one.pick) == pick_key(given) or str(one.number) in known])
    if over and not chosen:
        task.progress.say(
            f"all {len(over)} candidates that were measured take more time than the budget, the fastest "
            f"{min(over.values()):.1%} of it: the finalists are within it by predicted time only"
        )
        return choose(trials)
    if over:
        task.progress.say(
            f"{len(over)} candidate(s) within the budget by predicted time take up to {max(over.values()):.1%} of it "
            "as measured: they are no finalists"
        )
    return chosen


def measured_shares(
    trials: Sequence[Trial],
    choose: Callable[[Sequence[Trial]], list[Trial]],
    shares_of: Callable[[Sequence[Trial]], list[float | None]],
) -> dict[str, float | None]:
    """Trial's number → its measured share of the budget, of the chosen ones, and of those in place of what is over it.

    None where it is not known. Until all that are chosen are within the budget, or there were too many in vain.
    """
    shares = dict[str, float | None]()
    for _ in range(_CHECKS):
        chosen = choose([trial for trial in trials if (shares.get(str(trial.number)) or 0.0) <= 1 + CLOSE])
        new = [trial for trial in chosen if str(trial.number) not in shares]
        if not new:
            break
        shares |= {str(trial.number): share for trial, share in zip(new, shares_of(new), strict=True)}
    return shares


def trial_decoding(task: Task, models: Models, weights: Weights, trials: Sequence[Trial]) -> dict[str, Latency]:
    """What decoding a candidate's maps takes, by input size: measured with the one of the best score of that size, and
    taken for all of it.

    All of one size have maps of one size, but the noise of a half-trained one takes another time than the maps of a
    tuned one. Empty where the target that decides is another device, whose decoding time is not known here.
    """
    model = next(iter(models.values()))
    if model.target.foreign:
        return {}
    best: dict[str, Trial] = {}
    for trial in sorted((trial for trial in trials if not trial.stopped), key=lambda trial: -trial.value):
        best.setdefault(size_text(task.candidates.input_hw(trial.pick)), trial)

    def measured() -> dict[str, Latency]:
        found, calibration = {}, Calibration(task)
        for size, trial in best.items():
            network = candidate_of(task, weights, trial, calibration.images(trial.pick), steps=0).network
            estimator = task.estimator_at(task.candidates.input_hw(trial.pick))
            pictures, clock_ms, flip_test = task.sets.search, model.reference_ms, task.recipe.decoding.flip_test
            timed = decode_time(network, estimator, pictures, flip_test=flip_test, reference_ms=clock_ms)
            found[size] = timed.latency
        return found

    return task.run.once("decoding", measured, dict[str, Latency])


def named_trials(task: Task, trials: Sequence[Trial], chosen: Sequence[Trial]) -> dict[str, Trial]:
    """What is finished, by name: every baseline, then the chosen trials."""
    by_pick = {pick_key(trial.pick): trial for trial in trials}
    baselines = {name: by_pick[pick_key(pick)] for name, pick in task.baselines.items()}
    return {**baselines, **{f"finalist_{number}": trial for number, trial in enumerate(chosen, 1)}}


def tune_together(task: Task, weights: Weights, trials: Mapping[str, Trial]) -> dict[str, Candidate]:
    """Fine-tunes finalists and baselines alike, by name. trials: see named_trials. All processes of torchrun take part.

    The given network, else the one with the best score in the search, learns from the labels alone; tuned, it teaches
    all others of its input size, side by side but for those that keep zeros. Those of another size learn from the
    labels alone.
    """
    sizes = {name: task.candidates.input_hw(trial.pick) for name, trial in trials.items()}
    tails = {size: _tail(task, size) for size in set(sizes.values())}
    given = "given" if task.candidates.start else None  # which the user has trained, whatever a few pictures say
    best = given or max(trials, key=lambda name: trials[name].value)
    calibration = Calibration(task)
    candidates = {
        name: candidate_of(task, weights, trial, calibration.images(trial.pick), _RECONSTRUCTION)
        for name, trial in trials.items()
    }
    teacher, tail = candidates[best].network, tails[sizes[best]]
    students = {name: one.network for name, one in candidates.items() if name != best}
    tune(tail, {best: teacher}, None, title="fine-tuning: teacher", checkpoint="tuned_teacher")
    zeros = {name: task.candidates.sparsity(trials[name].pick, one) for name, one in students.items()}
    dense = {name: one for name, one in students.items() if not zeros[name] and sizes[name] == sizes[best]}
    if dense:
        tune(tail, dense, teacher, title="fine-tuning: finalists", checkpoint="tuned_finalists")
    for name in (name for name in students if name not in dense):
        hold = partial(_hold, ratios=zeros[name]) if zeros[name] else None  # what is zero stays zero
        of_size, teaches = tails[sizes[name]], teacher if sizes[name] == sizes[best] else None
        title, checkpoint = f"fine-tuning: {name}", f"tuned_{name}"
        tune(of_size, {name: students[name]}, teaches, title=title, checkpoint=checkpoint, sparsify=hold)
    return candidates


def tune_and_finish(task: Task, weights: Weights, trials: Mapping[str, Trial]) -> tuple[NetworkResult, ...]:
    """Fine-tunes, scores, saves and exports finalists and baselines alike; see tune_together."""

    def work() -> tuple[NetworkResult, ...]:
        candidates, results = tune_together(task, weights, trials), []
        with task.progress.phase("scoring and exporting", len(trials)) as phase:
            for name, candidate in candidates.items():
                finalist = Finalist(
                    name=name,
                    role="baseline" if name in task.baselines else "finalist",
                    network=candidate.network,
                    architecture=task.candidates.architecture(trials[name].pick),
                    edits=candidate.edits,
                    folder=f"finalists/{name}",
                    provenance=PROVENANCE,
                    for_engine=task.for_engine,
                )
                results.append(finish(_tail(task, task.candidates.input_hw(trials[name].pick)), finalist))
                phase.advance(1, name)
        return tuple(results)

    return task.run.once("tuned", work, tuple[NetworkResult, ...])


def measure_all(task: Task, models: Models, finished: Sequence[NetworkResult]) -> tuple[NetworkResult, ...]:
    """Those that the deciding target's engine takes, with measured and predicted latencies and decoding times on the
    clock of the target's table.

    Raises EngineError if it takes none.
    """
    target, model = task.recipe.measurement.targets[0], next(iter(models.values()))
    taken = [one for one in finished if target.engine not in one.refused]
    if not taken:
        raise EngineError(
            f"all networks are saved, but {target.engine} takes none: {failed_exports(finished)[0]}",
            place=str(task.run.path("finalists")),
            remedy="export them to another engine",
        )
    tail = _tail(task, task.recipe.input_hw)
    priced = []
    for one in taken:
        network = load_artefact(task.run.path(one.folder), tail.module).module
        predicted, times = dict(one.predicted), {}  # of other devices `finish` has the predictions
        for name, each in models.items():
            if not isinstance(each, LatencyModel) or each.target.engine in one.refused:
                continue
            size = one.input_hw or task.recipe.input_hw
            kernels = each.kernels(task.for_engine(network, each.target.engine), size)
            times[name] = grouped(each.table, kernels, size[0])
            if not each.target.foreign:
                predicted[name] = each.latency_of(predict(each.table, kernels))
        priced.append(replace(one, predicted=predicted, times=times))
    return tuple(time_decoding(tail, measure(tail, priced, model.reference_ms), model.reference_ms))


def failed_exports(finished: Sequence[NetworkResult]) -> tuple[str, ...]:
    """One line for every export that there is not."""
    return tuple(f"{one.name}: {name}: {why}" for one in finished for name, why in one.refused.items())


def _hold(network: nn.Module, steps: int, ratios: Mapping[str, float]) -> Sparsifier:
    """What keeps the candidate's zeros during the tuning."""
    return Sparsifier(network, SPARSITY, ratios, "one_shot", steps, 0.0)


def _tail(task: Task, input_hw: tuple[int, int]) -> Tail:
    """How finalists and baselines of this input size are finished."""
    recipe, settings, start = task.recipe, task.recipe.finalists.training, task.candidates.start
    return Tail(
        run=task.run,
        progress=task.progress,
        fabric=task.fabric,
        learning=Learning(
            task.data_at(input_hw),
            task.sets,
            task.objective(settings, input_hw),
            task.estimator_at(input_hw),
            recipe.codec,
            task.normalisation,
        ),
        input_hw=input_hw,
        estimator_at=task.estimator_at,
        seed=recipe.seed,
        training=settings,
        decoding=recipe.decoding,
        measuring=recipe.measurement,
        given=start.metadata if start else None,
        module=getattr(start.architecture, "module", None) if start else None,
    )


# --- What it gained --------------------------------------------------------------------------------------------------


def end_to_end_of(network: NetworkResult) -> Latency:
    """The end-to-end time of the recipe's procedure."""
    latency = network.evaluations[0].end_to_end
    assert latency is not None
    return latency


def value_of(network: NetworkResult) -> float:
    """Validation score in the recipe's procedure; 0 where there was nothing to measure on."""
    return (network.score.value if network.score else None) or 0.0


def measured_front(
    networks: Sequence[NetworkResult], objectives: Sequence[CostObjective], trials: Mapping[str, Trial]
) -> tuple[str, ...]:
    """Names of the networks that no other one beats in score and all costs, cheapest by the first one first.

    A network that the engine of an objective does not take is not among them. trials: by name, see named_trials.
    """
    costs = {one.name: [measured_cost(one, each, trials) for each in objectives] for one in networks}
    known = [one for one in networks if all(cost is not None for cost in costs[one.name])]
    points = [(*(cost for cost in costs[one.name] if cost is not None), value_of(one)) for one in known]
    return tuple(known[index].name for index in front(points))


def measured_cost(network: NetworkResult, objective: CostObjective, trials: Mapping[str, Trial]) -> float | None:
    """What a finished network costs: measured times, and counts, which are those of the trial that it was.

    None where there is no time on the objective's target.
    """
    if objective.quantity not in ("end_to_end", "latency"):
        return trials[network.name].cost.of(objective)
    latency = network.latency.get(objective.target) if objective.target else next(iter(network.latency.values()), None)
    if latency is None or objective.quantity == "latency":
        return latency.ms if latency else None
    first = network.evaluations[0]
    return end_to_end(first.passes, latency, first.decoding).ms


def tables_used(models: Models, networks: Sequence[NetworkResult]) -> dict[str, TableUsed]:
    """Target → what its table holds, and how far its predictions are from what was measured there, if anything was."""
    return {name: _table_used(model, networks) for name, model in models.items() if isinstance(model, LatencyModel)}


def _table_used(model: LatencyModel, networks: Sequence[NetworkResult]) -> TableUsed:
    name = model.target.name
    errors = [
        abs(one.predicted[name].ms / one.latency[name].ms - 1)
        for one in networks
        if name in one.predicted and name in one.latency and one.latency[name].provenance == "measured"
    ]
    error = PredictionError(sum(errors) / len(errors), max(errors)) if errors else None
    return TableUsed(len(model.table.kernels), model.table.scale, error, model.table.other_load)


def compare(baseline: NetworkResult, networks: Sequence[NetworkResult]) -> Comparison:
    """The most accurate finalist that is no slower than the baseline, and the fastest that is no less accurate.

    Times are end to end. See Gain for the verdict on accuracy, compress.measure.comparison for that on time.
    """
    finalists = [network for network in networks if network.role == "finalist"]
    limit_ms, least = end_to_end_of(baseline).ms, value_of(baseline)
    no_slower = [network for network in finalists if end_to_end_of(network).ms <= limit_ms]
    no_worse = [network for network in finalists if value_of(network) >= least]
    best = max(no_slower, key=value_of, default=None)
    fastest = min(no_worse, key=lambda network: end_to_end_of(network).ms, default=None)
    return Comparison(
        baseline.name,
        at_its_latency=gain_over(baseline, best) if best else None,
        at_its_accuracy=speed_up_over(baseline, fastest) if fastest else None,
    )


def gain_over(baseline: NetworkResult, finalist: NetworkResult) -> Gain:
    """A finalist's score beside a baseline's, and whether the difference means anything."""
    assert baseline.score is not None
    assert finalist.score is not None
    error = difference_error(finalist.score, baseline.score)
    beyond = abs(value_of(finalist) - value_of(baseline)) > 2 * error
    verdict: Literal["beyond chance", "within chance", "worthless"] = "beyond chance" if beyond else "within chance"
    if finalist.score.worthless:
        verdict = "worthless"
    times = [end_to_end_of(finalist), end_to_end_of(baseline)]
    faster = differ(*times) and times[0].ms < times[1].ms
    steady = all(one.reliable for one in times)
    return Gain(finalist.name, value_of(finalist), value_of(baseline), verdict, steady, faster, error)


def speed_up_over(baseline: NetworkResult, finalist: NetworkResult) -> Faster:
    """How many times as fast a finalist is as a baseline, end to end, and whether that means anything."""
    assert finalist.score is not None
    found = speed_up(end_to_end_of(baseline), end_to_end_of(finalist), worthless=finalist.score.worthless)
    return Faster(finalist.name, found)


def caveats(task: Task, trials: Sequence[Trial], networks: Sequence[NetworkResult]) -> list[str]:
    """What the numbers do not say."""
    recipe = task.recipe
    samples = recipe.search.tuning_samples
    found = [
        f"Fine-tuning was short ({recipe.finalists.training.epochs} epochs): the order of close networks may change "
        "after full training.",
        f"Latencies hold for {_sizes_text(networks)} inputs on the targets named; decoding the maps "
        "takes the time given beside it, in this toolkit's decoder, and depends on how many people a picture shows.",
        f"One seed: the spread of {main_figure(recipe.data.kind)} between seeds was not measured, and standard errors, "
        "which are of the pictures, leave it out: the same networks trained again may differ by more.",
        "Against a baseline stands the best of several finalists, chosen on the pictures it is reported on: a gain "
        "within two standard errors may be chance.",
    ]
    stopped = [trial for trial in trials if trial.stopped]
    if recipe.search.method == "train":
        found.append(
            f"Trials were trained alone for {recipe.training.epochs} epochs at most; {len(stopped)} of {len(trials)} "
            "were stopped earlier, by rank in score and costs. Their scores are of fewer epochs, so they are on no "
            "front; one that learns slowly may be among them."
        )
    elif task.space.edits:
        how = f"after a tuning on {samples} samples" if samples else "untuned"
        found.append(
            f"Edits are scored {how}: what a full fine-tuning would win back is not known to the search, so it favours "
            "edits that do little harm at first."
        )
    uncounted = sorted({name for network in networks for name in network.uncounted})
    if uncounted:
        found.append(f"MACs leave out operators without a counting rule: {', '.join(uncounted)}.")
    if len(task.space.input_sizes) > 1:
        found.append(
            "Finalists of another input size than the teacher's were tuned on the labels alone; the search took "
            "decoding to be as slow at all sizes."
        )
    if recipe.data.kind == "synthetic":
        found.append(
            "Synthetic people are not photographs: accuracy ranks networks here, it does not transfer as a number."
        )
    target = recipe.measurement.targets[0]
    if target.foreign:
        found.append(
            f"Nothing was measured on {target.name}: its latencies are predicted, decoding is not in them, and "
            "`compress measure pack` makes a folder that measures the networks there."
        )
    return found


def _sizes_text(networks: Sequence[NetworkResult]) -> str:
    """`96x96 and 128x128`, or one of them."""
    sizes = sorted({one.input_hw for one in networks if one.input_hw})
    return " and ".join(map(size_text, sizes))
