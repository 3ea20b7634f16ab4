"""Which share of every layer's weights becomes zero: one for all, or by each layer's own times dense and sparse."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from compress.artefacts.results import SparsityChoice
from compress.engines import engine
from compress.jobs.prune.goal import Task, Try, for_engine, meet, requested_share, time_share
from compress.pruning import sparsity
from compress.pruning.allocation import LayerChoice, allocate_ratios
from compress.pruning.groups import layer_of
from compress.pruning.layer_costs import LayerTiming, measure_layers

_TIME_UNITS = 5000  # of the whole network's time, that the knapsack counts in

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
    """Times of every layer, dense first, then with each of the recipe's ratios everywhere."""
    recipe, scheme = task.recipe, scheme_of(task)
    ratios = (0.0, *sorted(recipe.pruning.ratios))
    how = LayerTiming({layer_of(name) for name in names}, task.original.input_hw, engine(recipe.engine), recipe.threads)

    def sparse(ratio: float) -> nn.Module:
        return for_engine(with_sparsity(network, scheme, dict.fromkeys(names, ratio)), recipe.engine, recipe)

    with task.progress.phase("timing layers", len(ratios)) as phase:
        networks = ((frozenset[int](), sparse(ratio)) for ratio in ratios)
        known = measure_layers(how, networks, lambda one: phase.advance(1))
    return [
        LayerTimes(ratio, {f"{path}.weight": ms for path, ms in one.layers.items()}, one.whole)
        for ratio, one in zip(ratios, known, strict=True)
    ]


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
