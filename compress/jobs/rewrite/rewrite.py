"""`compress rewrite`: operators replaced where it pays; tuned, exported, compared with torch, and measured.

Read `rewrite` from top to bottom: that is the order things happen in. What can be replaced is found in `choice`,
which of it is, by gain and loss, in `decision`.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from compress.artefacts.artefact import save_artefact
from compress.artefacts.network import Named, learning_of, open_network
from compress.artefacts.results import Decision, DepthChange, RewriteResult, write_results
from compress.artefacts.run import open_run
from compress.jobs.change import (
    finish_changed,
    finish_given,
    measure_both,
    scoring_stages,
    timing_stages,
    tune_changed,
    tuning_stages,
)
from compress.jobs.finalise import run_record
from compress.jobs.names import check_names
from compress.jobs.rewrite.choice import (
    Task,
    at_other_depth,
    check_request,
    choices_of,
    functions_as_modules,
    rewrites_of,
    tied_sites,
)
from compress.jobs.rewrite.decision import Priced, decide, price, together, weigh
from compress.measure.comparison import SpeedUp
from compress.networks import Architecture
from compress.progress import Progress, Stage
from compress.recipe import RewriteRecipe
from compress.rewriting.depth import layers_of

PROVENANCE = "rewritten and fine-tuned"


def rewrite(named: Named, recipe: RewriteRecipe, folder: Path, progress: Progress) -> RewriteResult:
    """Rewrites, tunes, exports and measures NETWORK in `folder`; resumes a killed run. The result is in results.json
    too.

    Raises a CompressError before any work if the recipe, the network or the data cannot be used. Without a site, or
    where no replacement pays, the result says so: `rewritten` is None, and the folder holds the given network.
    """
    check_names(recipe)
    original = open_network(named, recipe.input_hw, seed=recipe.seed, codec=recipe.codec)
    learning = learning_of(original, recipe, recipe.rewriting.pictures, "rewriting.pictures")
    original, unread = functions_as_modules(original, recipe)
    check_request(original, recipe)
    other_depth = None if recipe.rewriting.depth is None else at_other_depth(original, recipe.rewriting.depth)
    with open_run(folder, recipe, network=original.name, digest=original.digest) as run:
        task: Task = Task(recipe, original, learning, run, progress)
        if not learning:
            progress.say(f"{original.name} has no trained weights, or no data: replacements are judged by time alone")
        if other_depth:
            progress.plan([*scoring_stages(task), *ending(task, "training from random weights")])
            return change_depth(task, other_depth)
        choices = choices_of(original.module, recipe)
        progress.plan(stages(task, len(choices)))
        reference_ms = None
        if choices:
            priced = run.once("prices", partial(price, task, choices), Priced)
            choices, reference_ms = list(priced.choices), priced.reference_ms
        if learning:
            choices = weigh(task, choices)
        decision = run.once("decision", partial(decide, task, choices), Decision)
        taken = [choices[number] for number in decision.taken]
        given = rewritten = None
        speed_up: dict[str, SpeedUp] = {}
        if taken:
            given = finish_given(task)
            network = together(task, taken)
            tune_changed(task, network, "tuned", "fine-tuning")
            edits = (*original.edits, *rewrites_of(taken))
            rewritten = finish_changed(task, "rewritten", network, original.architecture, edits, PROVENANCE)
            given, rewritten, speed_up = measure_both(task, given, rewritten, reference_ms)
        else:  # so that the run is a NETWORK for the next command, whatever was found
            metadata = replace(original.metadata, origin=original.name)
            save_artefact(run.folder, original.architecture, original.module, metadata, original.edits)
            progress.say("no replacement pays: the run folder holds the network as it was given")
        result = RewriteResult(
            network=original.name,
            input_hw=original.input_hw,
            target=recipe.targets[0].name,
            rules=recipe.rewriting.rules,
            given=given,
            rewritten=rewritten,
            speed_up=speed_up,
            choices=tuple(choices),
            decision=decision,
            unread=unread,
            tied=tied_sites(original.module, recipe),
            depth=None,
            run=run_record(run, recipe, recipe.targets),
        )
        write_results(run.path("results.json"), "rewrite", result)
    return result


def stages(task: Task, choices: int) -> list[Stage]:
    """The phases that take their time; see `scoring_stages`. choices: how many replacements there are."""
    settings = task.recipe.rewriting
    timed = Stage("timing replacements", choices * task.recipe.rounds)
    fitted = Stage("fitting replacements", choices * (settings.calibration + 3 * settings.steps + settings.pictures))
    return [timed, *([fitted] if task.learning else []), *scoring_stages(task), *ending(task, "fine-tuning")]


def ending(task: Task, title: str) -> list[Stage]:
    """Tuning, of that title, and what follows it."""
    return [*tuning_stages(task, title), *scoring_stages(task), *timing_stages(task)]


def change_depth(task: Task, architecture: Architecture) -> RewriteResult:
    """That architecture from random weights, trained with the given network as teacher if that is trained."""
    original, recipe = task.original, task.recipe
    given = finish_given(task)
    torch.manual_seed(original.seed)
    network = architecture.build().eval()
    tune_changed(task, network, "tuned", "training from random weights")
    provenance = "trained with the given network as teacher"
    rewritten = finish_changed(task, "rewritten", network, architecture, (), provenance)
    given, rewritten, speed_up = measure_both(task, given, rewritten)
    result = RewriteResult(
        network=original.name,
        input_hw=original.input_hw,
        target=recipe.targets[0].name,
        rules=(),
        given=given,
        rewritten=rewritten,
        speed_up=speed_up,
        choices=(),
        decision=None,
        unread={},
        tied={},
        depth=DepthChange(layers_of(original.architecture), layers_of(architecture), bool(original.edits)),
        run=run_record(task.run, recipe, recipe.targets),
    )
    write_results(task.run.path("results.json"), "rewrite", result)
    return result
