"""Trials of candidates that are each trained alone, and stopped early: successive halving for several objectives.

A cohort of candidates is trained for a few epochs and scored. A part of it is trained on to the next rung, and so on up
to all epochs (Jamieson and Talwalkar, AISTATS 2016). Which part is decided by the non-dominated rank of score at the
rung and costs, and by crowding within a rank (Schmucker et al., "Multi-objective asynchronous successive halving",
2021; here without its asynchrony): a small network is not stopped for scoring less than a large one. As long as the
front of a cohort fits the next rung, and a rung orders scores as the last one does, nothing of the front is stopped.

Every score is a line of `rungs.jsonl`, and weights lie in `steps/trial_N.pt` until their candidate is stopped: a
search that is started again repeats its decisions, and trains on from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from compress.artefacts.records import read_records, to_plain
from compress.artefacts.results import RungScore, Trial, TrialTraining
from compress.artefacts.run import Run
from compress.files import append_line
from compress.jobs.search.alone import Rung
from compress.jobs.search.prefilter import Prefilter
from compress.jobs.search.prior import kept
from compress.jobs.search.task import Calibration, Task
from compress.jobs.search.trainers import Scores, trainers
from compress.jobs.search.trials import (
    Limits,
    Models,
    Weights,
    all_costs,
    cost_of,
    costs_of,
    no_candidate,
    read_trials,
    trial_checkpoint,
    with_front,
)
from compress.measure.cost import Cost
from compress.nas.pareto import promoted
from compress.nas.sampler import Asked, Sampler, screens
from compress.nas.space import Pick, pick_key

_ASKS_PER_CANDIDATE = 20  # bound on picks that are over budget or known already, so that a cohort ends
NOTHING_TOLD = (
    "after {0} epochs no candidate scores beyond a constant answer: none is stopped there. "
    "A larger training.first_epochs saves scoring them"
)


@dataclass(frozen=True)
class Entrant:
    """A candidate of a cohort. always: it is trained to the end, as baselines are, and takes no other's place."""

    number: int
    pick: Pick
    cost: Cost
    always: bool


Known = dict[tuple[str, int], Rung]
"""Key of a pick and epochs → what is known already."""


def read_rungs(run: Run) -> Known:
    """The lines of `rungs.jsonl`. Raises RunError for a broken one."""
    return {(pick_key(one.pick), one.epochs): one for one in read_records(run.path("rungs.jsonl"), Rung)}


def run_halving(task: Task, models: Models, weights: Weights, budget: Limits) -> list[Trial]:
    """Asks the sampler for cohorts of candidates, trains and halves each, and tells what came of it, until
    recipe.search.trials are there.

    Baselines are in the first cohort, whatever they cost. The sampler is told the score at a candidate's last rung.
    Returns the trials in order.
    """
    recipe, settings, run = task.recipe, task.recipe.search, task.run
    objectives = settings.objectives
    baselines = list(task.baselines.values())
    sampler = Sampler(
        task.space,
        settings.sampler,
        population=settings.population,
        seed=recipe.seed,
        baselines=baselines,
        costs=[all_costs(task, models, one) if screens(settings.sampler) else None for one in objectives],
        most=[budget.of(one, next(iter(models))) for one in objectives],
        prior=kept(run, task.prior),
    )
    calibration = Calibration(task)
    prefilter = Prefilter(task, calibration)
    known, written = read_rungs(run), {pick_key(trial.pick) for trial in read_trials(run)}
    if known:
        task.progress.say(f"{len(known)} scores of candidates are taken from {run.path('rungs.jsonl')}")
    always = {pick_key(pick) for pick in baselines}
    trials: dict[str, Trial] = {}
    tightest: Cost | None = None
    with trainers(task, weights, calibration) as scores, task.progress.phase("search", settings.trials) as phase:
        while len(trials) < settings.trials:
            cohort: dict[str, Entrant] = {}
            asked_for: dict[str, list[Asked]] = {}
            size = min(settings.trials - len(trials), recipe.training.cohort + (0 if trials else len(baselines)))
            for _ in range(size * _ASKS_PER_CANDIDATE):
                asked, pick = sampler.ask()
                key = pick_key(pick)
                if key in trials:  # a repeated pick gets the same answer
                    one = trials[key]
                    sampler.tell(asked, costs_of(one, objectives), one.value, budget.excess(one.cost))
                    continue
                if key not in cohort:
                    cost = cost_of(task, pick, models, None if key in always else budget)
                    if key not in always and budget.exceeded(cost):
                        tightest = cost if tightest is None else min(tightest, cost, key=lambda c: c.predicted_ms)
                        sampler.refuse(asked, budget.excess(cost) or 0.0)
                        continue
                    if not prefilter.passes(pick, cost, always=key in always):
                        sampler.refuse(asked)
                        continue
                    cohort[key] = Entrant(len(trials) + len(cohort), pick, cost, key in always)
                asked_for.setdefault(key, []).append(asked)
                if len(cohort) == size:
                    break
            if not cohort:
                break
            for trial in halved(task, scores, list(cohort.values()), list(trials.values()), known):
                key = pick_key(trial.pick)
                trials[key] = trial
                if key not in written:
                    append_line(run.path("trials.jsonl"), to_plain(trial))
                for asked in asked_for[key]:
                    sampler.tell(asked, costs_of(trial, objectives), trial.value, budget.excess(trial.cost))
                phase.advance(1, f"{trial.score.metric} {trial.value:.3f} at {trial.cost.predicted_ms:.2f} ms")
    if always.issuperset(trials):
        raise no_candidate(tightest)
    if len(trials) < settings.trials:
        task.progress.say(f"the space and budget gave {len(trials)} different candidates, not {settings.trials}")
    return with_front(list(trials.values()), objectives)


def halved(task: Task, scores: Scores, cohort: Sequence[Entrant], before: Sequence[Trial], known: Known) -> list[Trial]:
    """The cohort's trials, in its order. Checkpoints of those that are stopped are deleted.

    scores: what trains candidates, see compress.jobs.search.trainers. before: trials of earlier cohorts, which count in
    the ranks of every rung that they reached. known: scores that need no training; new ones are added here and to the
    run.
    """
    settings, objectives = task.recipe.training, task.recipe.search.objectives
    found: dict[int, list[Rung]] = {one.number: [] for one in cohort}
    going = list(cohort)
    for place, epochs in enumerate(settings.rungs):
        _score(task, scores, going, epochs, known)
        for one in going:
            found[one.number].append(known[pick_key(one.pick), epochs])
        if epochs == settings.epochs:
            break
        diverged = [one for one in going if found[one.number][-1].diverged]
        stays = [one for one in going if one.always and one not in diverged]
        contest = [one for one in going if one not in stays and one not in diverged]
        if contest and all(found[one.number][-1].score.worthless for one in contest):
            task.progress.say(NOTHING_TOLD.format(epochs))
            stays += contest
        else:
            points = [
                (*(one.cost.of(each) for each in objectives), found[one.number][-1].score.value or 0.0)
                for one in contest
            ]
            others = [
                (*costs_of(trial, objectives), trial.training.rungs[place].value)
                for trial in before
                if trial.training and len(trial.training.rungs) > place
            ]
            others += [
                (*(one.cost.of(each) for each in objectives), found[one.number][-1].score.value or 0.0) for one in stays
            ]
            wanted = settings.places(sum(not one.always for one in cohort), place)
            stays += [contest[index] for index in promoted(points, wanted, others)]
        for one in going:
            if one not in stays:
                trial_checkpoint(task.run, one.number).unlink(missing_ok=True)
        going = sorted(stays, key=lambda one: one.number)
    return [_trial(one, found[one.number], settings.epochs) for one in cohort]


def _score(task: Task, scores: Scores, going: Sequence[Entrant], epochs: int, known: Known) -> None:
    """Adds what is not known yet of the candidates after so many epochs, as it comes."""
    waiting = [(one.number, one.pick) for one in going if (pick_key(one.pick), epochs) not in known]
    for rung in scores(waiting, epochs):
        known[pick_key(rung.pick), epochs] = rung
        append_line(task.run.path("rungs.jsonl"), to_plain(rung))
        if rung.failure is not None:
            task.progress.say(f"candidate {rung.number} counts as {rung.score.metric} 0: {rung.failure}")


def _trial(one: Entrant, rungs: Sequence[Rung], epochs: int) -> Trial:
    last = rungs[-1]
    scores = tuple(RungScore(rung.epochs, rung.score.value or 0.0) for rung in rungs)
    training = TrialTraining(scores, stopped=last.diverged or last.epochs < epochs)
    return Trial(one.number, one.pick, one.cost, last.score, training=training, failure=last.failure)
