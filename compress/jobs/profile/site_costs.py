"""`compress profile --target`: what the layers that mobile engines handle badly take on one, and what replaces them."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from compress.artefacts.results import ConcernTime, PassTime, SiteTime
from compress.measure.counting import Layer
from compress.measure.latency import Latency
from compress.measure.latency_model import identity_of, label, open_model, runtime_of
from compress.measure.layer_shares import layer_shares
from compress.measure.profiling import Nodes, time_nodes
from compress.measure.target import Target
from compress.measure.timing import pinned
from compress.rewriting.sites import rule_named, sites

RULES_AGAINST: dict[str, tuple[str, ...]] = {
    "exponential": (
        "swish_to_hard_swish",
        "swish_to_hard_tanh",
        "swish_to_relu",
        "sigmoid_to_hard_sigmoid",
        "elu_to_relu",
        "gelu_to_relu",
        "se_to_none",
    ),
    "large kernel": ("conv_to_3x3",),
    "dilation": ("dilated_to_3x3", "dilated_to_two_3x3"),
    "transposed convolution": ("transposed_to_separable", "transposed_to_upsample"),
    "channel shuffle": ("shuffle_to_pointwise",),
    "odd channels": (),  # nothing to replace: pruning leaves multiples of 8
}
"""Concern → rules of `compress rewrite` that replace such a layer."""


def time_sites(
    network: nn.Module,
    layers: Sequence[Layer],
    concerns: Mapping[str, Sequence[int]],
    input_hw: tuple[int, int],
    target: Target,
    rounds: int,
) -> tuple[PassTime, dict[str, ConcernTime]]:
    """Times the network node by node; on another device, what its table says. concerns: name → numbers of its layers.

    Returns the time of a whole pass, and of every concern. Raises EngineError, or TableError.
    """
    identity = identity_of(target)
    timed = _predicted(network, input_hw, target) if target.foreign else _timed(network, input_hw, target, rounds)
    nodes, latency = timed
    shares = layer_shares(network, layers, nodes)
    return PassTime(identity, latency, sum(shares.rest.values()), shares.rest), {
        concern: _costs([(layers[n].path, shares.layers[n]) for n in numbers], _rules(network, concern), latency.ms)
        for concern, numbers in concerns.items()
    }


def _predicted(network: nn.Module, input_hw: tuple[int, int], target: Target) -> tuple[Nodes, Latency]:
    model = open_model(target)
    return model.nodes(network, input_hw), model.latency(network, input_hw)


def _timed(network: nn.Module, input_hw: tuple[int, int], target: Target, rounds: int) -> tuple[Nodes, Latency]:
    runtime, threads = runtime_of(target), target.local_threads
    with tempfile.TemporaryDirectory() as folder, pinned(threads):
        file = runtime.export(network, input_hw, Path(folder), "network")[0]
        profiled = time_nodes(runtime.profiler(file, threads), rounds)
    whole = profiled.whole
    latency = Latency(
        ms=whole.median_ms,
        target=label(target, identity_of(target)),
        provenance="measured",
        clock="stopwatch",
        q1_ms=whole.q1_ms,
        q3_ms=whole.q3_ms,
        uncertainty=whole.uncertainty,
        reliable=whole.reliable,
    )
    return profiled.nodes, latency


def _rules(network: nn.Module, concern: str) -> dict[str, list[str]]:
    """Path of a module → rules that replace it, of those against the concern."""
    found: dict[str, list[str]] = {}
    for name in RULES_AGAINST[concern]:
        for site in sites(network, rule_named(name)):
            found.setdefault(site.at, []).append(name)
    return found


def _costs(
    members: Sequence[tuple[str, float | None]], rules: Mapping[str, Sequence[str]], whole_ms: float
) -> ConcernTime:
    """members: path and share of the time of each layer; several of one path are one site."""
    shares: dict[str, float | None] = {}
    for path, share in members:
        shares[path] = share if shares.get(path) is None else (shares[path] or 0.0) + (share or 0.0)
    costliest = sorted(shares.items(), key=lambda item: -(item[1] or 0.0))
    all_together = sum(share or 0.0 for share in shares.values())
    sites_of = tuple(
        SiteTime(
            path,
            None if share is None else share * whole_ms,
            share,
            tuple(rule for at, names in rules.items() if f"{path}.".startswith(f"{at}.") for rule in names),
        )
        for path, share in costliest
    )
    return ConcernTime(all_together * whole_ms, all_together, sites_of)
