"""`compress profile --engine`: what the layers that mobile engines handle badly take on one, and what replaces them."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from compress.engines import engine
from compress.measure.counting import Layer
from compress.measure.layer_shares import layer_shares
from compress.measure.profiling import time_nodes
from compress.measure.timing import pinned
from compress.recipe import EngineName
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
    engine_name: EngineName,
    threads: int,
    rounds: int,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Times the network node by node. concerns: name → numbers of its layers.

    Returns the whole pass (ms, the median, and quartiles; unattributed: share of the time that is no layer's; rest: its
    operators' shares), and per concern ms, time_share and sites, costliest first: path, ms, time_share, rules that
    replace it. ms is None where no node is the layer's own. Raises EngineError.
    """
    runtime = engine(engine_name)
    with tempfile.TemporaryDirectory() as folder, pinned(threads):
        file = runtime.export(network, input_hw, Path(folder), "network")[0]
        profiled = time_nodes(runtime.profiler(file, threads), rounds)
    shares, whole, description = layer_shares(network, layers, profiled), profiled.whole, runtime.describe()
    timing = {
        "engine": engine_name,
        "version": description.version,
        "device": description.device,
        "threads": threads,
        "ms": whole.median_ms,
        "q1_ms": whole.q1_ms,
        "q3_ms": whole.q3_ms,
        "reliable": whole.reliable,
        "unattributed": sum(shares.rest.values()),
        "rest": shares.rest,
    }
    return timing, {
        concern: _costs(
            [(layers[n].path, shares.layers[n]) for n in numbers], _rules(network, concern), whole.median_ms
        )
        for concern, numbers in concerns.items()
    }


def _rules(network: nn.Module, concern: str) -> dict[str, list[str]]:
    """Path of a module → rules that replace it, of those against the concern."""
    found: dict[str, list[str]] = {}
    for name in RULES_AGAINST[concern]:
        for site in sites(network, rule_named(name)):
            found.setdefault(site.at, []).append(name)
    return found


def _costs(
    members: Sequence[tuple[str, float | None]], rules: Mapping[str, Sequence[str]], whole_ms: float
) -> dict[str, Any]:
    """members: path and share of the time of each layer; several of one path are one site."""
    shares: dict[str, float | None] = {}
    for path, share in members:
        shares[path] = share if shares.get(path) is None else (shares[path] or 0.0) + (share or 0.0)
    costliest = sorted(shares.items(), key=lambda item: -(item[1] or 0.0))
    all_together = sum(share or 0.0 for share in shares.values())
    return {
        "ms": all_together * whole_ms,
        "time_share": all_together,
        "sites": [
            {
                "path": path,
                "ms": None if share is None else share * whole_ms,
                "time_share": share,
                "rules": [rule for at, names in rules.items() if f"{path}.".startswith(f"{at}.") for rule in names],
            }
            for path, share in costliest
        ],
    }
