"""`compress search`: from a recipe to the Pareto-best networks: tuned, exported, compared with torch and measured.

Read `search` from top to bottom: the order of lines is the order of events. Every step leaves its result in the run
folder, and a killed run that is started again goes on from there.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from compress.artefacts.network import Named
from compress.artefacts.results import SearchedData, SearchedSpace, SearchResult, Trial, write_results
from compress.artefacts.run import open_run
from compress.data.memory import settled_heap
from compress.jobs.finalise import run_record
from compress.jobs.search.finalists import (
    LEAST_SHARE,
    caveats,
    choose_finalists,
    chosen_as_measured,
    compare,
    failed_exports,
    measure_all,
    measured_front,
    named_trials,
    tables_used,
    trial_decoding,
    tune_and_finish,
)
from compress.jobs.search.halving import read_rungs
from compress.jobs.search.lockstep import NAMED, announce_supernet, assist
from compress.jobs.search.prefilter import check_proxy, proxy_agreement, read_proxies
from compress.jobs.search.proposals import kinds_changed
from compress.jobs.search.sharing import check_sharing, scored_trials, shares, take_part
from compress.jobs.search.single_edits import read_single_edits
from compress.jobs.search.task import Task, digest_of, prepared, seconds_per_phase, show_space, stages
from compress.jobs.search.trials import (
    check_budget,
    read_trials,
    space_models,
    trained_weights,
    within_budget,
)
from compress.measure.latency import Latency
from compress.nas.space import size_text
from compress.pose.scoring import main_figure
from compress.progress import Progress
from compress.recipe import SearchRecipe
from compress.training.processes import is_first

NO_FINALIST = "no candidate reaches half of the best baseline's score"
NOTHING_FOUND = "no candidate finds any joint with the given weights: try search.tuning_samples=640"


def search(recipe: SearchRecipe, folder: Path, progress: Progress, network: Named | None = None) -> SearchResult:
    """Runs or resumes the whole job in `folder`; returns what it also writes there as `results.json`.

    network: to start from, in place of the recipe's `search.start`. Raises a CompressError before any work if the
    recipe, its space, its network, its baselines or its data cannot be used. Of several processes that torchrun started
    this is what the first one does, see compress.jobs.search.lockstep for the others.
    """
    task = prepared(recipe, folder, progress, network)
    check_sharing(task, network)
    recipe, start, space, sets = task.recipe, task.start, task.space, task.sets
    candidates, baselines = task.candidates, task.baselines
    beside = partial(take_part, task) if shares(recipe, folder) else None

    with open_run(folder, recipe, start.name if start else "", digest_of(start), beside) as run, settled_heap():
        show_space(run, recipe, space, progress)
        for read in (read_trials, read_rungs, read_proxies, read_single_edits, seconds_per_phase):
            read(run)  # a broken line is an error before any work
        check_proxy(task)
        progress.plan(stages(task))

        with task.timed("latency table"):
            models = space_models(task)
        budget = check_budget(task, models)

        announce_supernet(task)
        weights, losses = trained_weights(task)

        with task.timed("search"):
            trials = scored_trials(task.alone, models, weights, budget)
            zero_cost = proxy_agreement(task, trials)
            decoding = trial_decoding(task.alone, models, weights, trials)
            decoding_ms = partial(_decoding_ms, task, decoding)
            objectives = recipe.search.objectives
            within = within_budget(trials, budget, baselines.values())
            # With the given weights, untuned, half of the given network's score says nothing of what tuning brings.
            floor, lacking = (0.0, NOTHING_FOUND) if candidates.start else (LEAST_SHARE, NO_FINALIST)
            most = [budget.of(one, next(iter(models))) for one in objectives]
            hand_made = list(baselines.values())
            choose = partial(
                choose_finalists,
                wanted=recipe.finalists.count,
                baselines=hand_made,
                decoding_ms=decoding_ms,
                objectives=objectives,
                least_share=floor,
                most=most,
                kinds=partial(_kinds_of_edits, task),
            )
            chosen = chosen_as_measured(task, models, within, choose)
            if not chosen:
                progress.say(lacking)
            elif recipe.finalists.count < len(baselines):
                progress.say(
                    f"{recipe.finalists.count} finalist(s) for {len(baselines)} baselines: not every one "
                    "has a finalist aimed at its time; raise finalists.count"
                )
        named = run.once(NAMED, partial(named_trials, task, trials, chosen), dict[str, Trial])

        with task.timed("fine-tuning"):
            finished = tune_and_finish(task, weights, named)

        with task.timed("measuring"):
            networks = measure_all(task, models, finished)

        result = SearchResult(
            run=run_record(run, recipe, recipe.measurement.targets, seconds_per_phase(run)),
            data=SearchedData(
                kind=recipe.data.kind,
                metric=main_figure(recipe.data.kind),
                train=len(sets.train),
                search=len(sets.search),
                val=len(sets.val),
                people=sum(len(sets.val.people(index)) for index in range(len(sets.val))),
            ),
            space=SearchedSpace(space.base["family"], space.size, space.choices),
            start=start.name if candidates.start and start else None,
            tuning_samples=recipe.search.tuning_samples,
            objectives=objectives,
            tables=tables_used(models, networks),
            losses=tuple(losses),
            trials=tuple(trials),
            decoding=decoding,
            networks=networks,
            trial_numbers={network.name: named[network.name].number for network in networks},
            best=measured_front(networks, objectives, named),
            comparisons=tuple(compare(one, networks) for one in networks if one.role == "baseline"),
            failed_exports=failed_exports(finished),
            no_finalist=None if chosen else lacking,
            over_budget=tuple(name for name, trial in named.items() if budget.exceeded(trial.cost)),
            caveats=tuple(caveats(task, trials, networks)),
            zero_cost=zero_cost,
            single_edits=tuple(read_single_edits(run)),
        )
        write_results(run.path("results.json"), "search", result)
    return result


def _decoding_ms(task: Task, decoding: Mapping[str, Latency], trial: Trial) -> float:
    """Of a candidate's maps, per pass of the network; 0 where it is not known."""
    known = decoding.get(size_text(task.candidates.input_hw(trial.pick)))
    return known.ms / (1 + task.recipe.decoding.flip_test) if known else 0.0


def _kinds_of_edits(task: Task, trial: Trial) -> frozenset[str]:
    """Of a candidate of the given network; none of those of a family."""
    if not task.candidates.start:
        return frozenset()
    (given,) = task.baselines.values()
    return kinds_changed(task.space, given, trial.pick)


def search_together(
    recipe: SearchRecipe, folder: Path, progress: Progress, network: Named | None = None
) -> SearchResult | None:
    """`search`; in the other processes that torchrun started, if there are any, their part of it, and None."""
    if is_first():
        return search(recipe, folder, progress, network)
    assist(prepared(recipe, folder, progress, network))
    return None
