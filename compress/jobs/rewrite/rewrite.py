"""`compress rewrite`: operators replaced where it pays; tuned, exported, compared with torch, and measured.

Read `rewrite` from top to bottom: that is the order things happen in. What is replaced is decided in
`compress.jobs.rewrite.choice`.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch

from compress.artefacts.network import Subject, read_subject
from compress.artefacts.run import open_run
from compress.errors import RecipeError
from compress.files import write_json
from compress.jobs.finalise import both, finish, measure, state_of, tune
from compress.jobs.rewrite.choice import (
    Task,
    check_request,
    choices_of,
    decide,
    functions_as_modules,
    price,
    tied_sites,
    together,
    weigh,
)
from compress.measure.counting import count
from compress.networks import Architecture, architecture_to_data
from compress.progress import Progress
from compress.recipe import RewriteRecipe
from compress.rewriting.depth import at_depth, layers_of
from compress.rewriting.rules import RULES
from compress.training.processes import launch

PROVENANCE = "rewritten and fine-tuned"


def rewrite(name: str, recipe: RewriteRecipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """Rewrites, tunes, exports and measures NETWORK in `folder`; resumes a killed run. Returns results.json's content.

    Raises a CompressError before any work if the recipe, the network or the data cannot be used. Without a site, or
    where no replacement pays, the result says so and there is nothing to export: `rewritten` is None.
    """
    subject, unread = functions_as_modules(
        read_subject(name, recipe, recipe.rewriting.pictures, "rewriting.pictures"), recipe
    )
    check_request(subject, recipe)
    other_depth = None if recipe.rewriting.depth is None else at_other_depth(subject, recipe.rewriting.depth)
    with open_run(folder, recipe, subject=name, digest=subject.digest) as run:
        task: Task = Task(recipe, subject, run, progress, launch("auto"))
        if not subject.learning:
            progress.say(f"{name} has no trained weights, or no --data: replacements are judged by their time alone")
        if other_depth:
            return write(task, change_depth(task, other_depth))
        choices = choices_of(subject.network, recipe)
        rows = run.once("prices", partial(price, task, choices)) if choices else []
        if subject.learning:
            rows = weigh(task, choices, rows)
        decision = run.once("decision", partial(decide, task, choices, rows))
        asked = {"engine": recipe.engine, "rules": recipe.rewriting.rules}
        tied = tied_sites(subject.network, recipe)
        told = {"job": "rewrite", **asked, "choices": rows, "unread": unread, "tied": tied, **decision}
        taken = [choices[number] for number in decision["taken"]]
        if not taken:
            return write(task, {**told, "network": name, "folder": str(folder), "rewritten": None})
        given = run.once("given", lambda: state_of(task, subject.network, run.path("given")))
        network = together(task, taken)
        tune(task, network, "tuned", "fine-tuning")
        edits = (*subject.edits, *(one for choice in taken for one in choice.rewrites))
        rewritten = run.once("rewritten", lambda: finish(task, network, subject.architecture, edits, PROVENANCE))
        timed = run.once("measured", lambda: measure(task, given, rewritten, "rewritten"))
        return write(task, {**told, **both(task, given, rewritten, timed, "rewritten")})


def at_other_depth(subject: Subject, layers: int) -> Architecture:
    """The architecture of so many layers, and of the width that keeps the multiply-adds of the network as it is given.

    Raises NetworkError for a family that has no depth to change, RecipeError where there is nothing to do.
    """
    if not subject.edits and layers == layers_of(subject.architecture):
        raise RecipeError(
            "the network has that many layers", place="--depth", value=layers, remedy="ask for another number"
        )

    def macs_of(architecture: Architecture) -> int:
        with torch.device("meta"):
            network = architecture.build()
        return count(network, subject.input_hw).macs

    kept = count(subject.network, subject.input_hw).macs if subject.edits else None
    return at_depth(subject.architecture, layers, macs_of, kept)


def change_depth(task: Task, architecture: Architecture) -> dict[str, Any]:
    """That architecture from random weights, trained with the given network as teacher if that is trained."""
    subject, run = task.subject, task.run
    given = run.once("given", lambda: state_of(task, subject.network, run.path("given")))
    torch.manual_seed(subject.seed)
    network = architecture.build().eval()
    tune(task, network, "tuned", "training from random weights")
    rewritten = run.once(
        "rewritten", lambda: finish(task, network, architecture, (), "trained with the given as teacher")
    )
    timed = run.once("measured", lambda: measure(task, given, rewritten, "rewritten"))
    depth = {
        "layers": {"given": layers_of(subject.architecture), "rewritten": layers_of(architecture)},
        "architecture": architecture_to_data(architecture),
        "edited": bool(subject.edits),
    }
    return {"job": "rewrite", "depth": depth, **both(task, given, rewritten, timed, "rewritten")}


def write(task: Task, results: dict[str, Any]) -> dict[str, Any]:
    """Keeps the results in the run folder."""
    write_json(task.run.path("results.json"), results)
    return results


def list_rules() -> list[dict[str, Any]]:
    """Every rule: name, what it does, its source, and whether the network's answers stay exactly the same."""
    return [{"rule": r.name, "does": r.does, "source": r.source, "exact": r.exact} for r in RULES.values()]
