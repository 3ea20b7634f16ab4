"""`compress prune`: a network without what it needs least; tuned, exported, compared with torch, and measured.

Read `prune` from top to bottom: that is the order things happen in. What goes is chosen in
`compress.jobs.prune.choice`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from compress.artefacts.artefact import CHANNELS_PRUNED, Edit
from compress.artefacts.network import read_subject
from compress.artefacts.run import open_run
from compress.errors import BudgetError, DataError
from compress.files import write_json
from compress.jobs.finalise import both, finish, measure, state_of, time_of, tune
from compress.jobs.prune.choice import (
    CLOSE,
    Task,
    apply,
    channels_of,
    check_network,
    check_request,
    choose,
    for_engine,
    prunable,
    scheme_of,
    sensitivity_points,
    wanted_share,
)
from compress.measure.comparison import Measured, met
from compress.pose.scoring import MAIN_FIGURE
from compress.progress import Progress
from compress.pruning.groups import PruningGroup, whole
from compress.pruning.schedule import Sparsifier
from compress.pruning.sensitivity import functional_blocks
from compress.recipe import PruneRecipe
from compress.training.processes import launch

PROVENANCE = "pruned and fine-tuned"


def prune(name: str, recipe: PruneRecipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """Prunes, tunes, exports and measures NETWORK in `folder`; resumes a killed run. Returns results.json's content.

    Raises a CompressError before any work if the recipe, the network or the data cannot be used, BudgetError for a goal
    that pruning does not reach, and where nothing can go.
    """
    subject = read_subject(name, recipe, recipe.pruning.pictures, "pruning.pictures")
    check_request(subject, recipe)
    with open_run(folder, recipe, subject=name, digest=subject.digest) as run:
        task = Task(recipe, subject, run, progress, launch("auto"))
        if not subject.learning:
            progress.say(
                f"{name} has no trained weights, or no --data: it is pruned and measured, not tuned and not scored"
            )
        if recipe.pruning.latency_ms is not None:
            wanted_share(task)  # a goal that is met already is refused before any other work
        as_run = partial(for_engine, recipe=recipe)
        given = run.once("given", lambda: state_of(task, subject.network, run.path("given"), as_run))
        network, choices = subject.network, []
        for number in range(1, recipe.pruning.steps + 1):
            choices.append(run.once(f"choice_{number}", partial(choose, task, network, number)))
            if takes_nothing(choices[-1]):
                continue
            network = apply(task, network, choices[-1])
            tune_pruned(task, network, choices[-1], number)
        check_taken(choices)
        pruned = run.once(
            "pruned", lambda: finish(task, network, subject.architecture, edits_of(task), PROVENANCE, as_run)
        )
        timed = run.once("measured", lambda: measure(task, given, pruned, "pruned"))
        results = {"job": "prune", **both(task, given, pruned, timed, "pruned")}
        told = [{key: value for key, value in choice.items() if key != "gone"} for choice in choices]
        results |= {"choices": told, "goal": goal_of(recipe, results)}
        write_json(run.path("results.json"), results)
    return results


def analyse(name: str, recipe: PruneRecipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """The sensitivity of every section and functional block: accuracy against the share of channels gone.

    Points are kept as they come, and a killed analysis goes on. Raises DataError for a network without trained weights,
    and as check_network.
    """
    subject = read_subject(name, recipe, recipe.pruning.pictures, "pruning.pictures")
    if subject.learning is None:
        raise DataError(
            "only a trained network has an accuracy to lose",
            place=name,
            remedy="give an artefact, or your own network and --data",
        )
    check_network(subject, recipe)
    with open_run(folder, recipe, subject=name, digest=subject.digest) as run:
        task = Task(recipe, subject, run, progress, launch("auto"))
        channels, parts, scores = channels_of(task, subject.network)
        targets: dict[str, list[PruningGroup]] = {part.name: [part] for part in prunable(parts)}
        blocks = {block: list(members) for block, members in functional_blocks(parts).items()}
        points = sensitivity_points(task, subject.network, channels, {**blocks, **targets}, scores)
        widths = {part.name: part.channels for part in parts}
        results = {
            "job": "analyse",
            "network": name,
            "folder": str(folder),
            "figure": MAIN_FIGURE[subject.learning.data.kind],
            "points": [asdict(point) for point in points],
            "blocks": sorted(blocks),
            "channels": widths,
            "untouched": whole(parts),
        }
        write_json(run.path("sensitivity.json"), results)
    return results


def takes_nothing(choice: Mapping[str, Any]) -> bool:
    """Whether the network stays as it is with this choice."""
    return not choice["gone"] if "gone" in choice else not any(choice["ratios"].values())


def check_taken(choices: Sequence[Mapping[str, Any]]) -> None:
    """Raises BudgetError with the reasons if all steps together take nothing: an unchanged network is no success."""
    if not all(map(takes_nothing, choices)):
        return
    layers: dict[str, list[str]] = {}
    for name, why in choices[0]["untouched"].items():
        layers.setdefault(why, []).append(name)
    reasons = [
        f"{', '.join(of[:3])}{f' and {len(of) - 3} more' if len(of) > 3 else ''}: {why}"
        for why, of in sorted(layers.items(), key=lambda one: -len(one[1]))
    ]
    asked = "the ratio asked for takes nothing from any layer"
    raise BudgetError(
        f"nothing goes: {'; '.join(reasons[:4]) or asked}",
        place="compress prune",
        remedy="replace what keeps the channels, lower --set pruning.multiple, or ask for more",
    )


# --- Steps -----------------------------------------------------------------------------------------------------------


def tune_pruned(task: Task, network: nn.Module, choice: Mapping[str, Any], number: int) -> None:
    """Fine-tunes; zeros stay. Changes the network."""
    asked = task.recipe.pruning

    def sparsify(network: nn.Module, steps: int) -> Sparsifier:
        return Sparsifier(network, scheme_of(task), choice.get("ratios", {}), asked.schedule, steps, asked.force)

    tune(task, network, f"tuned_{number}", f"fine-tuning, step {number}", sparsify)


def goal_of(recipe: PruneRecipe, results: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was asked of the finished network and what it reached, counted or measured; None without such a goal.

    asked, reached: shares of the given network's, or milliseconds. met: None where the timing is too unsteady to tell.
    """
    asked, given, pruned = recipe.pruning, results["given"], results["pruned"]
    if asked.macs is not None:
        share = pruned["macs"] / given["macs"]
        met_it = met(share, asked.macs, 0.0, CLOSE)
        return {"of": "multiply-adds", "asked": asked.macs, "reached": share, "uncertainty": 0.0, "met": met_it}
    faster = results["speed_up"][recipe.engine]
    steady = all(one["measured"][recipe.engine]["reliable"] for one in (given, pruned))
    if asked.latency_ms is not None:
        time, goal = time_of(pruned["measured"][recipe.engine]), asked.latency_ms
    elif asked.latency is not None:
        time, goal = Measured(1 / faster["factor"], (faster["high"] / faster["factor"] - 1)), asked.latency
    else:
        return None
    return {
        "of": "ms" if asked.latency_ms is not None else "time",
        "asked": goal,
        "reached": time.ms,
        "uncertainty": time.uncertainty,
        "met": met(time.ms, goal, time.uncertainty, CLOSE) if steady else None,
    }


def edits_of(task: Task) -> tuple[Edit, ...]:
    """What was done to the architecture, this pruning last."""
    given = task.subject.edits
    return given if task.recipe.pruning.scheme != "channel" or CHANNELS_PRUNED in given else (*given, CHANNELS_PRUNED)
