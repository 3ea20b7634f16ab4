"""What a network would cost without some of its channels, layer by layer: multiply-adds exactly, times by the table.

A layer's cost follows from the share of its weights that stay: multiply-adds are in proportion, times are not, so they
are taken from the target's latency table for a few smaller networks of the same graph and interpolated. What belongs to
no layer with weights (sums, resizing, pooling) is interpolated over the share of all layers' cost that stays.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import nn

from compress.measure.counting import trace
from compress.measure.latency_model import LatencyModel
from compress.measure.layer_shares import layer_shares
from compress.pruning.channels import Channels
from compress.pruning.groups import layer_of


@dataclass(frozen=True)
class Known:
    """A network without the members `removed`. layers: path → cost. whole: of all, those of no layer among them."""

    removed: frozenset[int]
    layers: Mapping[str, float]
    whole: float

    @property
    def attributed(self) -> float:
        """Share of the cost that belongs to layers with weights."""
        return sum(self.layers.values()) / self.whole


class LayerCosts:
    """Cost of the network without any members, from networks whose costs are known, the whole one first.

    A layer whose cost is not known of each of them counts with what belongs to no layer.
    """

    def __init__(self, channels: Channels, known: Sequence[Known], *, proportional: bool = False) -> None:
        """proportional: a layer without weights costs nothing, as of multiply-adds; else as the least that is known."""
        dense = known[0]
        self._names = [name for name in dense.layers if all(name in one.layers for one in known)]
        self._shares = _Shares(channels, self._names)
        self._dense = np.array([dense.layers[name] for name in self._names])
        shares = [self._shares(one.removed) for one in known]
        rest = [one.whole - sum(one.layers[name] for name in self._names) for one in known]
        layers = [[one.layers[name] for one in known] for name in self._names]
        if proportional:
            shares.append(np.zeros(len(self._names)))
            layers = [[*costs, 0.0] for costs in layers]
            rest.append(rest[-1])
        columns = [[row[n] for row in shares] for n in range(len(self._names))]
        self._curves = [_curve(column, costs) for column, costs in zip(columns, layers, strict=True)]
        self._rest = _curve([self._overall(row) for row in shares], rest)

    def __call__(self, removed: frozenset[int]) -> float:
        """The predicted cost, in the unit of what is known."""
        shares = self._shares(removed)
        layers = sum(float(np.interp(x, *curve)) for x, curve in zip(shares, self._curves, strict=True))
        return layers + float(np.interp(self._overall(shares), *self._rest))

    def _overall(self, shares: NDArray[np.float64]) -> float:
        return float(shares @ self._dense / self._dense.sum())


def mac_costs(network: nn.Module, channels: Channels, input_hw: tuple[int, int]) -> LayerCosts:
    """Multiply-adds. Those of matrix products without weights stay as they are, so such a network costs less."""
    layers: dict[str, float] = defaultdict(float)
    total = 0.0
    weights = weighted_layers(channels)
    for layer in trace(network, input_hw).layers:
        total += layer.macs
        if layer.macs and layer.path in weights:
            layers[layer.path] += layer.macs
    return LayerCosts(channels, [Known(frozenset(), layers, total)], proportional=True)


def layer_times(model: LatencyModel, network: nn.Module, input_hw: tuple[int, int], weighted: Collection[str]) -> Known:
    """Milliseconds of a network that is already without the members of `Known.removed`, here none; see LatencyModel.

    weighted: paths of the layers that get a time each. The others' times belong to the rest, and so does the time of a
    node that is not known to be a layer's. Raises EngineError.
    """
    nodes = model.nodes(network, input_hw)
    whole_ms = sum(nodes.times)
    traced = trace(network, input_hw).layers
    layers: dict[str, float] = defaultdict(float)
    for layer, share in zip(traced, layer_shares(network, traced, nodes).layers, strict=True):
        if layer.macs and layer.path in weighted and share is not None:
            layers[layer.path] += share * whole_ms
    return Known(frozenset(), layers, whole_ms)


def weighted_layers(channels: Channels) -> set[str]:
    """Layers that have weights which channels run along."""
    return {layer_of(use.name) for use in channels.uses if use.name.rpartition(".")[2] == "weight"}


class _Shares:
    """Of every layer, the share of its weights that stay."""

    def __init__(self, channels: Channels, layers: Sequence[str]) -> None:
        place = {name: number for number, name in enumerate(layers)}
        uses = [use for use in channels.uses if use.name.rpartition(".")[2] == "weight" and layer_of(use.name) in place]
        members = [[channels.member_of(channel) for channel in use.channels] for use in uses]
        self._column = {member: n for n, member in enumerate(sorted({m for of_use in members for m in of_use}))}
        rows = [number for number, of_use in enumerate(members) for _ in of_use]
        columns = [self._column[member] for of_use in members for member in of_use]
        parts = [1 / len(of_use) for of_use in members for _ in of_use]
        self._lost = csr_array((parts, (rows, columns)), shape=(len(uses), len(self._column)))
        self._layers = np.array([place[layer_of(use.name)] for use in uses], dtype=np.int64)
        self._count = len(layers)

    def __call__(self, removed: frozenset[int]) -> NDArray[np.float64]:
        """[layer]: 1 for a layer that loses nothing."""
        marked = np.zeros(len(self._column))
        marked[[self._column[member] for member in removed if member in self._column]] = 1.0
        shares = np.ones(self._count)
        lost: NDArray[np.float64] = self._lost @ marked  # type: ignore[assignment]
        np.multiply.at(shares, self._layers, 1 - lost)
        return shares


def _curve(shares: Sequence[float], costs: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares, rising, each once, and their mean costs."""
    known: dict[float, list[float]] = defaultdict(list)
    for share, cost in zip(shares, costs, strict=True):
        known[round(float(share), 9)].append(cost)
    rising = sorted(known)
    return np.array(rising), np.array([float(np.mean(known[share])) for share in rising])
