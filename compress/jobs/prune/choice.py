"""What one step of pruning removes: channels, or single weights that become zero.

Channels: from the goal to the pruning groups, and how much every group loses. Single weights: which share of every
layer's becomes zero, one for all, or by each layer's own times dense and sparse.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from compress.artefacts.artefact import CHANNELS_PRUNED, Edit
from compress.artefacts.network import Network
from compress.artefacts.results import GroupShare, PruningChoice, SparsityChoice
from compress.data.loader import Batch as LabelledBatch
from compress.data.loader import batches
from compress.engines import engine
from compress.files import append_line, cache_folder, read_lines
from compress.jobs.change import check_patterns, score_candidate
from compress.jobs.prune.goal import Task, Try, Unit, for_engine, meet, requested_share, time_share
from compress.measure.counting import count
from compress.networks.weights import check_unparametrized
from compress.pose.estimator import first_inputs
from compress.pose.objective import Objective
from compress.pruning import sparsity
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
from compress.pruning.groups import PruningGroup, layer_of, pruning_groups, whole
from compress.pruning.importance import Batch, criterion_named, importance
from compress.pruning.layer_costs import Known, LayerCosts, layer_times, mac_costs, weighted_layers
from compress.pruning.selection import Scores, global_, to_budget, uniform
from compress.pruning.sensitivity import Curve, Point, curves, functional_blocks, plan, sensitivity
from compress.pruning.structured import checked, prunable_channels, without_channels
from compress.recipe import PruneRecipe
from compress.training.recalibration import PICTURES, enough_pictures, recalibrate

_CALIBRATION = 64  # training pictures, at least, that a point's batch norms are recalibrated on
_DATA_BATCHES = 8  # of 8 pictures, for criteria that need data
_TIME_UNITS = 5000  # of the whole network's time, that the knapsack counts in


@dataclass(frozen=True)
class Removal:
    """The channels that one step removes, by their numbers in Channels, and what a report says of it."""

    channels: tuple[int, ...]
    choice: PruningChoice


@dataclass(frozen=True)
class Prunable:
    """A network's channels as they can be removed. scores: of each channel, the higher, the longer it stays."""

    network: nn.Module
    channels: Channels
    groups: list[PruningGroup]
    scores: Scores

    @property
    def untouched(self) -> dict[str, str]:
        """The groups that can lose nothing → why."""
        return whole(self.groups)

    @property
    def open(self) -> list[PruningGroup]:
        """The groups that can lose something."""
        untouched = self.untouched
        return [group for group in self.groups if group.name not in untouched]

    @property
    def blocks(self) -> dict[str, list[PruningGroup]]:
        """The groups of every functional block, by its name."""
        return {block: list(members) for block, members in functional_blocks(self.groups).items()}

    @property
    def most(self) -> frozenset[int]:
        """All channels that can be removed together."""
        return frozenset(member for group in self.groups for member in group.removals(self.scores)[-1])

    def without(self, removed: frozenset[int]) -> nn.Module:
        """A smaller network."""
        return without_channels(self.network, self.channels, removed)


def check_network(original: Network, recipe: PruneRecipe) -> None:
    """Raises NetworkError for parametrized layers, RecipeError where modules are protected that the network lacks."""
    check_unparametrized(original.module, original.name)
    check_patterns(original.module, recipe.pruning.protect, "a protected module", "pruning.protect")


def choose_channels(task: Task, network: nn.Module, number: int) -> Removal:
    """What step `number` removes, counted from 1."""
    pruning = task.recipe.pruning
    given = prunable(task, network)
    groups, scores = given.groups, given.scores
    ratio = 1 - (1 - (pruning.ratio or 0.0)) ** (1 / pruning.steps)  # of the network as it is now
    if pruning.ratio is not None and pruning.allocate in ("uniform", "global"):
        select_all = uniform if pruning.allocate == "uniform" else global_
        return removal(groups, select_all(groups, scores, ratio))
    costs, true_share, unit = costs_of(task, given, number)
    nothing = frozenset[int]()
    here = true_share(nothing)
    if pruning.ratio is not None:
        goal = here * costs(uniform(groups, scores, ratio)) / costs(nothing)
    else:
        goal = (pruning.macs or requested_share(task)) ** (number / pruning.steps)
    select = allocator(task, given, costs)
    start = Try(nothing, costs(nothing), here)
    removed, search = meet(task, goal, unit, start, select, given.most, true_share)
    found = removal(groups, removed)
    if pruning.macs is None or pruning.allocate != "latency":  # the goal is in the unit of the prediction
        search = replace(search, predicted_share=here * costs(removed) / costs(nothing))
    return replace(found, choice=replace(found.choice, search=search))


def prunable(task: Task, network: nn.Module) -> Prunable:
    """The network's channels, the groups they can be chosen in, and how much each matters."""
    pruning, original = task.recipe.pruning, task.original
    with task.progress.phase("following channels", 2) as phase:
        channels = prunable_channels(network, original.input_hw)
        phase.advance(1)
        groups = pruning_groups(channels, multiple=multiple_of(task.recipe), protected=pruning.protect)
        data = list(judged_on(task))
        found = importance(pruning.criterion, network, channels, groups, batches=data, seed=original.seed)
        phase.advance(1)
    for group, reason in found.substituted.items():
        task.progress.say(f"{group}: {reason}")
    return Prunable(network, channels, groups, found.scores)


def multiple_of(recipe: PruneRecipe) -> int:
    """What the number of channels that stay divides by: what the engine computes at a time, if the recipe is silent."""
    return recipe.pruning.multiple or engine(recipe.targets[0].engine).channel_multiple


def judged_on(task: Task) -> list[Batch]:
    """Batches with their loss on the labels, for criteria that go by data."""
    learning = task.learning
    if not criterion_named(task.recipe.pruning.criterion).needs_data or learning is None:
        return []
    found = batches(learning.objective.samples(learning.sets.train), batch_size=8, epoch=0, seed=task.original.seed)
    return [(batch.images, partial(_loss_on, learning.objective, batch)) for batch in islice(found, _DATA_BATCHES)]


def _loss_on(objective: Objective, batch: LabelledBatch, outputs: Any) -> Tensor:
    return objective.loss(outputs, batch)


def removal(groups: list[PruningGroup], removed: frozenset[int]) -> Removal:
    """With every group's share of it."""
    shares = {group.name: GroupShare(group.channels, round(group.share(removed), 4)) for group in groups}
    return Removal(tuple(sorted(removed)), PruningChoice(shares, whole(groups), None))


# --- What it saves ---------------------------------------------------------------------------------------------------


TrueShare = Callable[[frozenset[int]], float]
"""Channels removed → the share of the given network's cost that truly stays, counted or measured."""


def costs_of(task: Task, given: Prunable, number: int) -> tuple[LayerCosts, TrueShare, Unit]:
    """How cost is predicted, how the goal's is found out, and what that is: multiply-adds counted or time measured.

    Moves are priced in milliseconds where they are allocated by latency, whatever the goal is in.
    """
    pruning, original = task.recipe.pruning, task.original
    in_time = pruning.latency is not None or pruning.latency_ms is not None
    by_time = pruning.allocate == "latency"
    macs = count(original.module, original.input_hw).macs

    def counted(removed: frozenset[int]) -> float:
        return count(given.without(removed), original.input_hw).macs / macs

    def timed(removed: frozenset[int]) -> float:
        return time_share(task, given.without(removed))

    if not (in_time or by_time):
        return mac_costs(given.network, given.channels, original.input_hw), counted, "multiply-adds"
    known = task.run.once(f"times_{number}", partial(time_layers, task, given), list[Known])
    costs = LayerCosts(given.channels, known)
    return (costs, counted, "multiply-adds") if pruning.macs is not None else (costs, timed, "time")


def time_layers(task: Task, given: Prunable) -> list[Known]:
    """What every layer takes in the network and in uniformly pruned ones, by the target's latency table."""
    recipe = task.recipe
    ratios = sorted(recipe.pruning.ratios)
    removals = [frozenset[int](), *(uniform(given.groups, given.scores, ratio) for ratio in ratios)]
    model, weighted = task.model, weighted_layers(given.channels)
    found = []
    with task.progress.phase("latency table", len(set(removals))) as phase:
        for removed in dict.fromkeys(removals):
            known = layer_times(model, given.without(removed), task.original.input_hw, weighted)
            found.append(replace(known, removed=removed))
            phase.advance(1, f"{known.attributed:.0%} of the time is of layers with weights")
    return found


def allocator(task: Task, given: Prunable, costs: LayerCosts) -> Callable[[float], frozenset[int]]:
    """Predicted cost → the channels removed."""
    pruning = task.recipe.pruning
    groups, scores = given.groups, given.scores
    if pruning.allocate in ("uniform", "global"):
        how = "uniform" if pruning.allocate == "uniform" else "global"
        return lambda aim: to_budget(groups, scores, how, costs, aim).removed  # type: ignore[arg-type]
    known = curves_of(task, given)
    loss = loss_by_curves(known) if known else loss_by_importance(pruning.criterion, scores)
    sizes = options(given.open, scores, pruning.ratios, loss)
    threshold = pruning.threshold if pruning.allocate == "latency" else 0.0
    first = first_gains(sizes, costs, threshold)
    return lambda aim: allocate_channels(sizes, costs, aim, first).removed


# --- What it loses ---------------------------------------------------------------------------------------------------


def curves_of(task: Task, given: Prunable) -> dict[str, Curve] | None:
    """Sensitivity of every group, if the allocation goes by it and the network is trained."""
    if task.recipe.pruning.allocate not in ("sensitivity", "latency") or task.learning is None:
        return None
    return curves(sensitivity_points(task, given, {group.name: [group] for group in given.open}))


def sensitivity_points(task: Task, given: Prunable, targets: Mapping[str, list[PruningGroup]]) -> list[Point]:
    """Scores every target at every ratio on the search pictures; each point is kept as soon as it is known.

    Batch norms are recalibrated first, the dense network's alike: their old statistics would be blamed on the channels.
    On so many pictures that the dense network loses nothing by it; if none are enough, all keep the given statistics.
    """
    learning, network = task.learning, given.network
    assert learning is not None
    file = points_file(task, network)
    planned = plan(targets, given.scores, task.recipe.pruning.ratios)
    wanted = {(one.target, one.ratio) for one in planned}
    points = [point for point in read_lines(file, lambda line: Point(**line)) if (point.target, point.ratio) in wanted]
    metric = learning.metric

    def scored(one: nn.Module) -> float:
        return score_candidate(task, one, "pruned, not tuned").value or 0.0

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
        for point in sensitivity(network, given.channels, planned, judge, points):
            append_line(file, asdict(point))
            points.append(point)
            phase.advance(1, f"{point.target} at {point.ratio:.0%}: {metric} {point.score:.3f}")
    return points


def points_file(task: Task, network: nn.Module) -> Path:
    """Where the points of this network, data and choice of channels are kept, for other runs too."""
    recipe, learning = task.recipe, task.learning
    assert learning is not None
    pruning = recipe.pruning
    depends_on = [
        learning.data.model_dump(mode="json"),
        list(task.original.input_hw),
        task.original.seed,
        asdict(learning.codec),
        recipe.decoding.model_dump(mode="json"),
        pruning.criterion,
        pruning.pictures,
        multiple_of(recipe),
        list(pruning.protect),
        recipe.training.model_dump(mode="json") if criterion_named(pruning.criterion).needs_data else None,
        _CALIBRATION,
        PICTURES,
    ]
    digest = hashlib.sha256(json.dumps(depends_on).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return cache_folder() / "sensitivity" / f"{digest.hexdigest()[:24]}.jsonl"


# --- Single weights ---------------------------------------------------------------------------------------------------


Ratios = dict[str, float]
"""Weight's name → share of it that is zero."""


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds of a network with one ratio of zeros everywhere. layers: weight's name → its layer's time."""

    ratio: float
    layers: Mapping[str, float]
    whole: float


def choose_sparsity(task: Task, network: nn.Module) -> SparsityChoice:
    """The ratio of every layer's zeros."""
    pruning, scheme = task.recipe.pruning, scheme_of(task)
    found = sparsity.prunable(network, scheme)
    if pruning.allocate == "uniform":
        assert pruning.ratio is not None
        return SparsityChoice(dict.fromkeys(found.layers, pruning.ratio), found.refused, None)
    work = partial(time_sparsity, task, network, list(found.layers))
    dense, *sparse = task.run.once("times_of_sparsity", work, list[LayerTimes])
    layers = layer_choices(network, scheme, dense, sparse)
    rest = dense.whole - sum(choices[0].time_ms for choices in layers.values())
    unit = dense.whole / _TIME_UNITS

    def select(aim: float) -> Ratios:
        return {name: one.ratio for name, one in allocate_ratios(layers, aim - rest, unit_ms=unit).items()}

    def true_share(ratios: Ratios) -> float:
        return time_share(task, with_sparsity(network, scheme, ratios))

    nothing: Ratios = dict.fromkeys(layers, 0.0)
    fastest = {name: min(choices, key=lambda one: one.time_ms).ratio for name, choices in layers.items()}
    start = Try(nothing, dense.whole, true_share(nothing))
    ratios, search = meet(task, requested_share(task), "time", start, select, fastest, true_share)
    predicted = rest + sum(one.time_ms for n, choices in layers.items() for one in choices if one.ratio == ratios[n])
    untimed = {name: "no time of its own is known" for name in found.layers if name not in layers}
    return SparsityChoice(
        ratios,
        {**found.refused, **untimed},
        replace(search, predicted_share=start.share * predicted / dense.whole),
    )


def time_sparsity(task: Task, network: nn.Module, names: list[str]) -> list[LayerTimes]:
    """What every layer takes by the target's latency table, dense first, then with each ratio everywhere."""
    scheme, model, weighted = scheme_of(task), task.model, {layer_of(name) for name in names}
    ratios, found = (0.0, *sorted(task.recipe.pruning.ratios)), []
    with task.progress.phase("latency table", len(ratios)) as phase:
        for ratio in ratios:
            sparse = with_sparsity(network, scheme, dict.fromkeys(names, ratio))
            form = for_engine(sparse, task.target.engine, task.recipe)
            one = layer_times(model, form, task.original.input_hw, weighted)
            found.append(LayerTimes(ratio, {f"{path}.weight": ms for path, ms in one.layers.items()}, one.whole))
            phase.advance(1)
    return found


def layer_choices(
    network: nn.Module, scheme: sparsity.Scheme, dense: LayerTimes, sparse: list[LayerTimes]
) -> dict[str, list[LayerChoice]]:
    """Of every layer of known times: dense, then each ratio; its loss is the share of squared weights set to zero."""
    found = {}
    for name in dense.layers:
        if not all(name in one.layers for one in sparse):
            continue
        weight = network.get_parameter(name).detach()
        choices = [LayerChoice(0.0, dense.layers[name], 0.0)]
        for one in sparse:
            mask = sparsity.masks(network, scheme, {name: one.ratio})[name]
            lost = float(weight[~mask].square().sum() / weight.square().sum().clamp(min=1e-12))
            choices.append(LayerChoice(one.ratio, one.layers[name], lost))
        found[name] = choices
    return found


def with_sparsity(network: nn.Module, scheme: sparsity.Scheme, ratios: Mapping[str, float]) -> nn.Module:
    """A copy of the network with these shares of its weights zero."""
    smaller = copy.deepcopy(network)
    given = {name: ratio for name, ratio in ratios.items() if ratio}
    sparsity.apply_masks(smaller, sparsity.masks(smaller, scheme, given))
    return smaller


def scheme_of(task: Task) -> sparsity.Scheme:
    """The fine-grained scheme the recipe names."""
    match task.recipe.pruning.scheme:
        case "block":
            return sparsity.Block()
        case "pattern":
            return sparsity.common_patterns(task.original.module)
        case "nm":
            return sparsity.NOfM(4)
        case _:
            return sparsity.Unstructured()


# --- One step, whatever it removes ------------------------------------------------------------------------------------


Chosen = Removal | SparsityChoice
"""Of one step."""


def choose(task: Task, network: nn.Module, number: int) -> Chosen:
    """What step `number` removes, or sets to zero; kept with the run."""
    step = f"choice_{number}"
    if task.recipe.pruning.scheme == "channel":
        return task.run.once(step, partial(choose_channels, task, network, number), Removal)
    return task.run.once(step, partial(choose_sparsity, task, network), SparsityChoice)


def removes_nothing(chosen: Chosen) -> bool:
    """Whether the network stays as it is."""
    return not (chosen.channels if isinstance(chosen, Removal) else any(chosen.ratios.values()))


def apply(task: Task, network: nn.Module, chosen: Chosen) -> nn.Module:
    """A new network without what was chosen. Raises NetworkError unless it does what the masked one does."""
    if isinstance(chosen, Removal):
        channels = prunable_channels(network, task.original.input_hw)
        return checked(network, channels, chosen.channels, task.original.input_hw)
    if task.learning is not None:  # the tuning sets the weights to zero
        return copy.deepcopy(network)
    return with_sparsity(network, scheme_of(task), chosen.ratios)


def edits_of(task: Task) -> tuple[Edit, ...]:
    """What was done to the architecture, this pruning last."""
    given = task.original.edits
    return given if task.recipe.pruning.scheme != "channel" or CHANNELS_PRUNED in given else (*given, CHANNELS_PRUNED)
