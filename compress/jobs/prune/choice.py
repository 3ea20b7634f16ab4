"""What goes: from a recipe's goal to the classes of channels, or the zeros of each layer, and what they truly save."""

import copy
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from compress.artefacts.network import Subject
from compress.data.loader import Batch as LabelledBatch
from compress.data.loader import batches
from compress.engines import engine
from compress.errors import BudgetError, RecipeError
from compress.files import append_line, cache_folder, read_lines
from compress.jobs import finalise as changing
from compress.measure.counting import count
from compress.measure.timing import pinned
from compress.measure.whole_networks import time_runners
from compress.networks.weights import check_unparametrized
from compress.pose.estimator import first_inputs
from compress.pose.objective import Objective
from compress.pose.scoring import MAIN_FIGURE, score
from compress.pruning import sparsity as fine_grained
from compress.pruning.allocation import (
    LayerChoice,
    allocate_channels,
    allocate_ratios,
    first_gains,
    loss_by_curves,
    loss_by_importance,
    options,
)
from compress.pruning.channels import Channels
from compress.pruning.compact import compact, without_transposed
from compress.pruning.groups import PruningGroup, layer_of, pruning_groups, whole
from compress.pruning.importance import DATA_DRIVEN, Batch, importance
from compress.pruning.layer_costs import Known, LayerCosts, mac_costs, measured, weighted_layers
from compress.pruning.selection import Scores, global_, to_budget, uniform
from compress.pruning.sensitivity import Curve, Point, curves, plan, sensitivity
from compress.pruning.structured import checked, prunable_channels, without_channels
from compress.recipe import PruneRecipe
from compress.training.recalibration import PICTURES, enough_pictures, recalibrate

TRIES = 5
"""Times that a choice is made and its true cost found, until it meets the goal within CLOSE."""
CLOSE = 0.02
_TIMES_ROUNDS = 24
_CALIBRATION = 64  # training pictures, at least, that a point's batch norms are recalibrated on
_DATA_BATCHES = 8  # of 8 pictures, for criteria that need data
_TIME_UNITS = 5000  # of the whole network's time, that the knapsack counts in

T = TypeVar("T")


Task = changing.Task[PruneRecipe]


def check_request(subject: Subject, recipe: PruneRecipe) -> None:
    """Raises RecipeError unless the recipe says how much shall go; and as check_network."""
    asked = recipe.pruning
    if asked.ratio is None and asked.macs is None and asked.latency is None and asked.latency_ms is None:
        raise RecipeError(
            "there must be a goal", place="compress prune", remedy="give one of --ratio R, --macs R, --latency MS|R%"
        )
    check_network(subject, recipe)


def check_network(subject: Subject, recipe: PruneRecipe) -> None:
    """Raises NetworkError for parametrized layers, RecipeError where modules are protected that the network lacks."""
    check_unparametrized(subject.network, subject.name)
    changing.check_patterns(subject.network, recipe.pruning.protect, "a protected module", "pruning.protect")


# --- The goal --------------------------------------------------------------------------------------------------------


def channels_of(task: Task, network: nn.Module) -> tuple[Channels, list[PruningGroup], Scores]:
    """The network's channels, the parts they can be chosen in, and how much each matters."""
    asked, subject = task.recipe.pruning, task.subject
    with task.progress.phase("following channels", 2) as phase:
        channels = prunable_channels(network, subject.input_hw)
        phase.advance(1)
        parts = pruning_groups(
            channels, multiple=asked.multiple or engine(task.recipe.engine).channel_multiple, protected=asked.protect
        )
        found = importance(asked.criterion, network, channels, parts, batches=list(judged_on(task)), seed=subject.seed)
        phase.advance(1)
    for part, reason in found.substituted.items():
        task.progress.say(f"{part}: {reason}")
    return channels, parts, found.scores


def prunable(parts: list[PruningGroup]) -> list[PruningGroup]:
    """Those that can lose something."""
    untouched = whole(parts)
    return [part for part in parts if part.name not in untouched]


def judged_on(task: Task) -> list[Batch]:
    """Batches with their loss on the labels, for criteria that go by data."""
    learning = task.subject.learning
    if task.recipe.pruning.criterion not in DATA_DRIVEN or learning is None:
        return []
    found = batches(learning.objective.samples(learning.sets.train), batch_size=8, epoch=0, seed=task.subject.seed)
    return [(batch.images, partial(_loss_on, learning.objective, batch)) for batch in islice(found, _DATA_BATCHES)]


def _loss_on(objective: Objective, batch: LabelledBatch, outputs: Any) -> Tensor:
    return objective.loss(outputs, batch)


def choose(task: Task, network: nn.Module, number: int) -> dict[str, Any]:
    """Which classes of channels go in this step, or which share of each layer's weights, as plain data."""
    asked = task.recipe.pruning
    if asked.scheme != "channel":
        return choose_sparsity(task, network)
    channels, parts, scores = channels_of(task, network)
    ratio = 1 - (1 - (asked.ratio or 0.0)) ** (1 / asked.steps)  # of the network as it is now
    if asked.ratio is not None and asked.allocate in ("uniform", "global"):
        select_all = uniform if asked.allocate == "uniform" else global_
        return chosen(parts, select_all(parts, scores, ratio), {})
    costs, true_share, unit = costs_of(task, network, channels, parts, scores, number)
    nothing = frozenset[int]()
    here = true_share(nothing)
    if asked.ratio is not None:
        goal = here * costs(uniform(parts, scores, ratio)) / costs(nothing)
    else:
        goal = (asked.macs or wanted_share(task)) ** (number / asked.steps)
    select = allocator(task, parts, scores, costs, curves_of(task, network, channels, parts, scores))
    gone, found = meet(task, goal, Try(nothing, costs(nothing), here), select, most(parts, scores), true_share)
    if asked.macs is None or asked.allocate != "latency":  # the goal is in the unit of the prediction
        found["predicted_share"] = here * costs(gone) / costs(nothing)
    return chosen(parts, gone, {**found, "of": unit})


def chosen(parts: list[PruningGroup], gone: frozenset[int], found: Mapping[str, Any]) -> dict[str, Any]:
    """A choice as plain data: the classes, and per section what stays of how many channels."""
    return {
        "gone": sorted(gone),
        "sections": {part.name: {"channels": part.channels, "share": round(part.share(gone), 4)} for part in parts},
        "untouched": whole(parts),
        **found,
    }


TrueShare = Callable[[frozenset[int]], float]
"""Classes that go → the share of the given network's cost that truly stays, counted or measured."""


def costs_of(
    task: Task, network: nn.Module, channels: Channels, parts: list[PruningGroup], scores: Scores, number: int
) -> tuple[LayerCosts, TrueShare, str]:
    """How cost is predicted, how the goal's is found out, and what that is: multiply-adds counted or time measured.

    Moves are priced in milliseconds where they are allocated by latency, whatever the goal is in.
    """
    asked, subject = task.recipe.pruning, task.subject
    in_time = asked.latency is not None or asked.latency_ms is not None
    by_time = asked.allocate == "latency"
    given = count(subject.network, subject.input_hw).macs

    def counted(gone: frozenset[int]) -> float:
        return count(without_channels(network, channels, gone), subject.input_hw).macs / given

    def timed(gone: frozenset[int]) -> float:
        return time_share(task, without_channels(network, channels, gone))

    if not (in_time or by_time):
        return mac_costs(network, channels, subject.input_hw), counted, "multiply-adds"
    known = [
        Known(frozenset(one["gone"]), one["layers"], one["whole"])
        for one in task.run.once(f"times_{number}", partial(time_layers, task, network, channels, parts, scores))
    ]
    costs = LayerCosts(channels, known)
    return (costs, counted, "multiply-adds") if asked.macs is not None else (costs, timed, "time")


def time_layers(
    task: Task, network: nn.Module, channels: Channels, parts: list[PruningGroup], scores: Scores
) -> list[dict[str, Any]]:
    """Times every layer in the network and in uniformly pruned ones."""
    recipe, subject = task.recipe, task.subject
    removals = [frozenset[int](), *(uniform(parts, scores, ratio) for ratio in sorted(recipe.pruning.ratios))]
    weighted = weighted_layers(channels)
    found, clock = [], None
    with (
        tempfile.TemporaryDirectory() as folder,
        pinned(recipe.threads),
        task.progress.phase("timing layers", len(removals)) as phase,
    ):
        for gone in dict.fromkeys(removals):
            smaller = without_channels(network, channels, gone)
            one, clock = measured(
                smaller,
                weighted,
                gone,
                subject.input_hw,
                engine(recipe.engine),
                Path(folder),
                recipe.threads,
                _TIMES_ROUNDS,
                clock,
            )
            found.append({"gone": sorted(gone), "layers": dict(one.layers), "whole": one.whole})
            phase.advance(1, f"{one.attributed:.0%} of the time is of layers with weights")
    return found


def time_share(task: Task, network: nn.Module) -> float:
    """The network's measured time over the given network's, both in one interleaved run."""
    recipe, subject = task.recipe, task.subject
    runtime = engine(recipe.engine)
    with tempfile.TemporaryDirectory() as folder:
        runners = {
            name: runtime.load(runtime.export(one, subject.input_hw, Path(folder), name)[0], recipe.threads)
            for name, one in (("given", subject.network), ("pruned", for_engine(network, recipe.engine, recipe)))
        }
        timings = time_runners(runners, subject.input_hw, task.recipe)
    return timings["pruned"].ratio / timings["given"].ratio


def wanted_share(task: Task) -> float:
    """The goal in time as a share of the given network's. Raises RecipeError where that is as fast already."""
    asked = task.recipe.pruning
    if asked.latency is not None:
        return asked.latency
    given_ms = task.run.once("given_ms", partial(time_given, task))
    assert asked.latency_ms is not None
    if asked.latency_ms >= given_ms:
        share = f", or did you mean {asked.latency_ms:g}% of its time?" if 1 < asked.latency_ms < 100 else ""
        raise RecipeError(
            "the network meets the goal as it is",
            place="--latency (pruning.latency_ms)",
            value=f"{asked.latency_ms:g} ms",
            remedy=f"it takes {given_ms:.3f} ms here: ask for less{share}",
        )
    return asked.latency_ms / given_ms


def time_given(task: Task) -> float:
    """Milliseconds of the given network on the recipe's engine, on the clock of the reference that ran beside it."""
    recipe, subject = task.recipe, task.subject
    runtime = engine(recipe.engine)
    with tempfile.TemporaryDirectory() as folder:
        file = runtime.export(subject.network, subject.input_hw, Path(folder), "given")[0]
        runners = {"given": runtime.load(file, recipe.threads)}
        return time_runners(runners, subject.input_hw, task.recipe)["given"].normalised_ms


@dataclass(frozen=True)
class Try(Generic[T]):
    """What went, the predicted cost it was chosen for, and the share of the given network's true cost that stays."""

    choice: T
    aim: float
    share: float

    def off(self, goal: float) -> float:
        """Relative distance from the goal."""
        return abs(self.share / goal - 1)


def meet(
    task: Task,
    goal: float,
    start: Try[T],
    select: Callable[[float], T],
    all_that_can: T,
    true_share: Callable[[T], float],
) -> tuple[T, dict[str, Any]]:
    """Chooses for a predicted cost, finds out the true one, and corrects the prediction, until the goal is met.

    goal: of the given network's cost, the share that stays. start: nothing gone yet in this step. select: predicted
    cost → choice. Of several tries the nearest counts. Where the prediction says that the goal is out of reach, all
    that can go is tried. Raises BudgetError if that is not enough.
    """
    tries = [start]
    with task.progress.phase("meeting the goal", TRIES) as phase:
        while len(tries) == 1 or (len(tries) <= TRIES and tries[-1].off(goal) > CLOSE):
            aim = next_aim(tries, goal)
            try:
                choice, beyond = select(aim), None
            except BudgetError as error:
                choice, beyond = all_that_can, error
            tries.append(Try(choice, aim, true_share(choice)))
            if beyond and tries[-1].share > goal * (1 + CLOSE):
                raise beyond
            phase.advance(1, f"{tries[-1].share:.1%} of the cost stays, asked {goal:.1%}")
    best = min(tries[1:], key=lambda one: one.off(goal))
    return best.choice, {"goal": goal, "share": best.share, "tries": len(tries) - 1, "off": best.off(goal)}


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


def most(parts: list[PruningGroup], scores: Scores) -> frozenset[int]:
    """All that can go."""
    return frozenset(member for part in parts for member in part.removals(scores)[-1])


def allocator(
    task: Task, parts: list[PruningGroup], scores: Scores, costs: LayerCosts, known: Mapping[str, Curve] | None
) -> Callable[[float], frozenset[int]]:
    """Predicted cost → the classes that go."""
    asked = task.recipe.pruning
    if asked.allocate in ("uniform", "global"):
        how = "uniform" if asked.allocate == "uniform" else "global"
        return lambda aim: to_budget(parts, scores, how, costs, aim).gone  # type: ignore[arg-type]
    loss = loss_by_curves(known) if known else loss_by_importance(asked.criterion, scores)
    sizes = options(prunable(parts), scores, asked.ratios, loss)
    threshold = asked.threshold if asked.allocate == "latency" else 0.0
    first = first_gains(sizes, costs, threshold)
    return lambda aim: allocate_channels(sizes, costs, aim, first).gone


def curves_of(
    task: Task, network: nn.Module, channels: Channels, parts: list[PruningGroup], scores: Scores
) -> dict[str, Curve] | None:
    """Sensitivity of every section, if the allocation asks for it and the network is trained."""
    if task.recipe.pruning.allocate not in ("sensitivity", "latency") or task.subject.learning is None:
        return None
    targets = {part.name: [part] for part in prunable(parts)}
    return curves(sensitivity_points(task, network, channels, targets, scores))


def sensitivity_points(
    task: Task,
    network: nn.Module,
    channels: Channels,
    targets: Mapping[str, list[PruningGroup]],
    scores: Scores,
) -> list[Point]:
    """Scores every target at every ratio on the search pictures; each point is kept as soon as it is known.

    Batch norms are recalibrated first, the dense network's alike: their old statistics would be blamed on the channels.
    On so many pictures that the dense network loses nothing by it; if none are enough, all keep the given statistics.
    """
    learning = task.subject.learning
    assert learning is not None
    file = points_file(task, network)
    planned = plan(targets, scores, task.recipe.pruning.ratios)
    asked = {(one.target, one.ratio) for one in planned}
    points = [point for point in read_lines(file, lambda line: Point(**line)) if (point.target, point.ratio) in asked]

    def scored(one: nn.Module) -> float:
        one.to(task.fabric.device)
        found = score(
            one,
            learning.estimator,
            learning.sets.search,
            kind=learning.data.kind,
            provenance="pruned, not tuned",
            flip_test=False,
        )
        return found.value or 0.0

    def judge(smaller: nn.Module) -> float:
        smaller.to(task.fabric.device)
        recalibrate(smaller, calibration)
        return scored(smaller)

    calibration: list[Tensor] = []
    if len(points) < len(planned):
        inputs = first_inputs(learning.estimator, learning.sets.train, PICTURES, task.fabric.device)
        calibration = enough_pictures(network.to(task.fabric.device), inputs, _CALIBRATION, scored)
        if not calibration:
            task.progress.say(
                f"batch norms keep the given statistics: those of {PICTURES} training pictures cost more than a point"
            )
    with task.progress.phase("sensitivity", len(planned)) as phase:
        phase.advance(len(points))
        for point in sensitivity(network, channels, planned, judge, points):
            append_line(file, asdict(point))
            points.append(point)
            phase.advance(
                1, f"{point.target} at {point.ratio:.0%}: {MAIN_FIGURE[learning.data.kind]} {point.score:.3f}"
            )
    return points


def points_file(task: Task, network: nn.Module) -> Path:
    """Where the points of this network, data and choice of channels are kept, for other runs too."""
    recipe, learning = task.recipe, task.subject.learning
    assert learning is not None
    pruning = recipe.pruning
    asked = [
        learning.data.model_dump(mode="json"),
        list(task.subject.input_hw),
        task.subject.seed,
        asdict(learning.codec),
        recipe.decoding.model_dump(mode="json"),
        pruning.criterion,
        pruning.pictures,
        pruning.multiple or engine(recipe.engine).channel_multiple,
        list(pruning.protect),
        recipe.training.model_dump(mode="json") if pruning.criterion in DATA_DRIVEN else None,
        _CALIBRATION,
        PICTURES,
    ]
    digest = hashlib.sha256(json.dumps(asked).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return cache_folder() / "sensitivity" / f"{digest.hexdigest()[:24]}.jsonl"


# --- Without it ------------------------------------------------------------------------------------------------------


Ratios = dict[str, float]
"""Weight's name → share of it that goes."""


def choose_sparsity(task: Task, network: nn.Module) -> dict[str, Any]:
    """The ratio of every layer's zeros: one for all, or by each layer's own times with and without zeros."""
    asked, scheme = task.recipe.pruning, scheme_of(task)
    found = fine_grained.prunable(network, scheme)
    if asked.allocate == "uniform":
        return {"ratios": dict.fromkeys(found.layers, asked.ratio), "untouched": found.refused}
    times = task.run.once("times_of_zeros", partial(time_sparsity, task, network, list(found.layers)))
    layers = layer_choices(network, scheme, times)
    rest = times["dense"]["whole"] - sum(choices[0].time_ms for choices in layers.values())
    unit = times["dense"]["whole"] / _TIME_UNITS

    def select(aim: float) -> Ratios:
        return {name: one.ratio for name, one in allocate_ratios(layers, aim - rest, unit_ms=unit).items()}

    def true_share(ratios: Ratios) -> float:
        return time_share(task, with_sparsity(network, scheme, ratios))

    nothing: Ratios = dict.fromkeys(layers, 0.0)
    fastest = {name: min(choices, key=lambda one: one.time_ms).ratio for name, choices in layers.items()}
    start = Try(nothing, times["dense"]["whole"], true_share(nothing))
    ratios, met = meet(task, wanted_share(task), start, select, fastest, true_share)
    predicted = rest + sum(one.time_ms for n, choices in layers.items() for one in choices if one.ratio == ratios[n])
    unseen = {name: "no time of its own is known" for name in found.layers if name not in layers}
    return {
        "ratios": ratios,
        "untouched": {**found.refused, **unseen},
        **met,
        "of": "time",
        "predicted_share": start.share * predicted / times["dense"]["whole"],
    }


def time_sparsity(task: Task, network: nn.Module, names: list[str]) -> dict[str, Any]:
    """Times of every layer, dense and with each of the ratios everywhere: name of the ratio → layers, whole."""
    recipe, scheme = task.recipe, scheme_of(task)
    weighted = {layer_of(name) for name in names}
    found: dict[str, Any] = {}
    clock = None
    with (
        tempfile.TemporaryDirectory() as folder,
        pinned(recipe.threads),
        task.progress.phase("timing layers", 1 + len(recipe.pruning.ratios)) as phase,
    ):
        for ratio in (0.0, *sorted(recipe.pruning.ratios)):
            smaller = for_engine(with_sparsity(network, scheme, dict.fromkeys(names, ratio)), recipe.engine, recipe)
            one, clock = measured(
                smaller,
                weighted,
                frozenset(),
                task.subject.input_hw,
                engine(recipe.engine),
                Path(folder),
                recipe.threads,
                _TIMES_ROUNDS,
                clock,
            )
            layers = {f"{path}.weight": ms for path, ms in one.layers.items()}
            found[str(ratio) if ratio else "dense"] = {"layers": layers, "whole": one.whole}
            phase.advance(1)
    return found


def layer_choices(
    network: nn.Module, scheme: fine_grained.Scheme, times: Mapping[str, Any]
) -> dict[str, list[LayerChoice]]:
    """Of every layer of known times: dense, then each ratio; its loss is the share of squared weights that go."""
    dense = times["dense"]["layers"]
    ratios = [float(name) for name in times if name != "dense"]
    known = [name for name in dense if all(name in one["layers"] for one in times.values())]
    found = {}
    for name in known:
        weight = network.get_parameter(name).detach()
        choices = [LayerChoice(0.0, dense[name], 0.0)]
        for ratio in ratios:
            mask = fine_grained.masks(network, scheme, {name: ratio})[name]
            lost = float(weight[~mask].square().sum() / weight.square().sum().clamp(min=1e-12))
            choices.append(LayerChoice(ratio, times[str(ratio)]["layers"][name], lost))
        found[name] = choices
    return found


def with_sparsity(network: nn.Module, scheme: fine_grained.Scheme, ratios: Ratios) -> nn.Module:
    """A copy of the network with these shares of its weights zero."""
    smaller = copy.deepcopy(network)
    given = {name: ratio for name, ratio in ratios.items() if ratio}
    fine_grained.apply_masks(smaller, fine_grained.masks(smaller, scheme, given))
    return smaller


def scheme_of(task: Task) -> fine_grained.Scheme:
    """The fine-grained scheme the recipe names."""
    match task.recipe.pruning.scheme:
        case "block":
            return fine_grained.Block()
        case "pattern":
            return fine_grained.common_patterns(task.subject.network)
        case "nm":
            return fine_grained.NOfM(4)
        case _:
            return fine_grained.Unstructured()


def apply(task: Task, network: nn.Module, choice: Mapping[str, Any]) -> nn.Module:
    """A new network without what the choice names. Raises NetworkError unless it does what the masked one does."""
    if "gone" in choice:
        channels = prunable_channels(network, task.subject.input_hw)
        return checked(network, channels, choice["gone"], task.subject.input_hw)
    if task.subject.learning is not None:  # zeros come with the tuning
        return copy.deepcopy(network)
    return with_sparsity(network, scheme_of(task), choice["ratios"])


def for_engine(network: nn.Module, name: str, recipe: PruneRecipe) -> nn.Module:
    """The same network in the form in which this engine gains most from zeros: one that skips them has only ordinary
    convolutions, others have smaller kernels."""
    if recipe.pruning.scheme == "channel":
        return network
    return (without_transposed if engine(name).skips_zeros else compact)(network)[0]
