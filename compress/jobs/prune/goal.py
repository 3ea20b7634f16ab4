"""What is requested of the pruned network, and the search for a choice that meets it.

A choice is made for a predicted cost. Its true cost is counted or measured, which corrects the prediction, until the
goal is met.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Literal, TypeVar

from torch import nn

from compress.artefacts.results import Goal, GoalSearch, NetworkResult
from compress.errors import BudgetError, RecipeError
from compress.jobs import change
from compress.measure.comparison import SpeedUp, met
from compress.measure.latency_model import load, runtime_of
from compress.measure.limit import CLOSE
from compress.measure.timing import Timing
from compress.measure.whole_networks import time_runners
from compress.recipe import PruneRecipe

TRIES = 5
"""Times that a choice is made and its true cost found, until it meets the goal within CLOSE."""

T = TypeVar("T")

Task = change.Task[PruneRecipe]

Unit = Literal["multiply-adds", "time"]
"""What a goal is in."""


def check_goal(recipe: PruneRecipe) -> None:
    """Raises RecipeError unless the recipe says how much shall be removed."""
    pruning = recipe.pruning
    if pruning.ratio is None and pruning.macs is None and pruning.latency is None and pruning.latency_ms is None:
        raise RecipeError(
            "there must be a goal", place="compress prune", remedy="give one of --ratio R, --macs R, --latency MS|R%"
        )


def requested_share(task: Task) -> float:
    """The goal in time as a share of the given network's. Raises RecipeError where that is as fast already."""
    pruning = task.recipe.pruning
    if pruning.latency is not None:
        return pruning.latency
    given_ms = task.run.once("given_ms", partial(time_given, task))
    assert pruning.latency_ms is not None
    if pruning.latency_ms >= given_ms:
        share = f", or did you mean {pruning.latency_ms:g}% of its time?" if 1 < pruning.latency_ms < 100 else ""
        raise RecipeError(
            "the network meets the goal as it is",
            place="--latency (pruning.latency_ms)",
            value=f"{pruning.latency_ms:g} ms",
            remedy=f"it takes {given_ms:.3f} ms on {task.target.name}: ask for less{share}",
        )
    return pruning.latency_ms / given_ms


def time_given(task: Task) -> float:
    """Milliseconds of the given network on the target, on the clock of the reference that ran beside it; of another
    device predicted."""
    target, original = task.target, task.original
    if target.foreign:
        return task.model.latency(original.module, original.input_hw).ms
    return times(task, {"given": original.module})["given"].normalised_ms


def time_share(task: Task, network: nn.Module) -> float:
    """The network's time over the given network's: measured in one interleaved run, of another device predicted."""
    target, original = task.target, task.original
    pruned = for_engine(network, target.engine, task.recipe)
    if target.foreign:
        return task.model.latency(pruned, original.input_hw).ms / time_given(task)
    timings = times(task, {"given": original.module, "pruned": pruned})
    return timings["pruned"].ratio / timings["given"].ratio


def times(task: Task, networks: Mapping[str, nn.Module]) -> dict[str, Timing]:
    """Of networks on the target, which is this machine, in one interleaved run."""
    target, original = task.target, task.original
    runtime = runtime_of(target)
    with tempfile.TemporaryDirectory() as folder:
        runners = {
            name: load(target, runtime.export(network, original.input_hw, Path(folder), name)[0])
            for name, network in networks.items()
        }
        return time_runners(runners, original.input_hw, target.local_threads, task.recipe.rounds)


def for_engine(network: nn.Module, name: str, recipe: PruneRecipe) -> nn.Module:
    """The same network in the form in which this engine gains most from what the scheme sets to zero."""
    return network if recipe.pruning.scheme == "channel" else change.where_zeros_count(network, name)


@dataclass(frozen=True)
class Try(Generic[T]):
    """A choice, the predicted cost it was made for, and the share of the given network's true cost that stays."""

    choice: T
    aim: float
    share: float

    def off(self, goal: float) -> float:
        """Relative distance from the goal."""
        return abs(self.share / goal - 1)


def meet(
    task: Task,
    goal: float,
    of: Unit,
    start: Try[T],
    select: Callable[[float], T],
    most: T,
    true_share: Callable[[T], float],
) -> tuple[T, GoalSearch]:
    """Chooses for a predicted cost, finds out the true one, and corrects the prediction, until the goal is met.

    goal: of the given network's cost, the share that stays. start: nothing removed yet in this step. select: predicted
    cost → choice. Of several tries the nearest counts. Where the prediction says that the goal is out of reach, `most`
    is tried: all that can be removed. Raises BudgetError if that is not enough.
    """
    tries = [start]
    with task.progress.phase("meeting the goal", TRIES) as phase:
        while len(tries) == 1 or (len(tries) <= TRIES and tries[-1].off(goal) > CLOSE):
            aim = next_aim(tries, goal)
            try:
                choice, beyond = select(aim), None
            except BudgetError as error:
                choice, beyond = most, error
            tries.append(Try(choice, aim, true_share(choice)))
            if beyond and tries[-1].share > goal * (1 + CLOSE):
                raise beyond
            phase.advance(1, f"{tries[-1].share:.1%} of the cost stays, goal {goal:.1%}")
    best = min(tries[1:], key=lambda one: one.off(goal))
    return best.choice, GoalSearch(of, goal, best.share, len(tries) - 1)


def next_aim(tries: Sequence[Try[T]], goal: float) -> float:
    """Predicted cost that should come to the goal: between the nearest tries on both sides, in logarithms, or from the
    nearest one in proportion."""
    above = [one for one in tries if one.share > goal]
    below = [one for one in tries if one.share <= goal]
    if not (above and below):
        nearest = min(tries, key=lambda one: one.off(goal))
        return nearest.aim * goal / nearest.share
    more, less = min(above, key=lambda one: one.share), max(below, key=lambda one: one.share)
    part = math.log(goal / less.share) / math.log(more.share / less.share)
    return float(less.aim * (more.aim / less.aim) ** part)


def reached(
    recipe: PruneRecipe, given: NetworkResult, pruned: NetworkResult, speed_up: Mapping[str, SpeedUp]
) -> Goal | None:
    """The goal beside what the finished network reached, counted or measured; None if only a ratio was requested."""
    pruning, name = recipe.pruning, recipe.targets[0].name
    if pruning.macs is not None:
        share = pruned.macs / given.macs
        return Goal("multiply-adds", pruning.macs, share, 0.0, met(share, pruning.macs, 0.0, CLOSE))
    if pruning.latency_ms is not None:
        of: Literal["ms", "time"] = "ms"
        goal, latency = pruning.latency_ms, pruned.latency[name]
        found, uncertainty = latency.ms, latency.uncertainty or 0.0
    elif pruning.latency is not None:
        of, faster = "time", speed_up[name]
        goal, found, uncertainty = pruning.latency, 1 / faster.factor, faster.high / faster.factor - 1
    else:
        return None
    steady = given.latency[name].reliable and pruned.latency[name].reliable
    return Goal(of, goal, found, uncertainty, met(found, goal, uncertainty, CLOSE) if steady else None)
