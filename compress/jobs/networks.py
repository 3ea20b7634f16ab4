"""`compress networks`: our counts beside the papers', each in the paper's own convention."""

from collections.abc import Sequence
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import nn

from compress.measure.counting import count
from compress.networks import network_named
from compress.networks.published import PUBLISHED, Published
from compress.progress import Progress


def list_networks(names: Sequence[str], progress: Progress) -> list[dict[str, Any]]:
    """One row per published figure, networks of one way to find people together.

    name, family (the way), input_hw, params, macs: ours. params_m, flops_g: ours, counted as the paper does;
    published_params_m, published_flops_g, published_ap: the paper's. None: a reference-only row has nothing there.
    names: of the networks to list; all if empty. Raises NetworkError for an unknown one.
    """
    references = {row.network for row in PUBLISHED if row.mark == "reference only"}
    for name in names:
        if name not in references:
            network_named(name)
    wanted = [row for row in PUBLISHED if not names or row.network in names]
    rows = []
    built: dict[tuple[str, int], nn.Module] = {}
    with progress.phase("counting", len(wanted)) as phase:
        for row in wanted:
            rows.append(_reference(row) if row.mark == "reference only" else _counted(row, built))
            phase.advance(1, row.network)
    order = list(dict.fromkeys(str(row["family"]) for row in rows))
    return sorted(rows, key=lambda row: order.index(str(row["family"])))


def _counted(row: Published, built: dict[tuple[str, int], nn.Module]) -> dict[str, Any]:
    assert row.input_hw is not None
    architecture = network_named(row.network)
    key = (row.network, row.keypoints)
    if key not in built:
        assert is_dataclass(architecture)
        with torch.device("meta"):
            built[key] = replace(architecture, keypoints=row.keypoints).build()
    counted = count(built[key], row.input_hw)
    params = counted.params if row.params_convention == "plain" else counted.params_by_class_name
    flops = counted.flops(row.convention) / (2**30 if row.gib else 1e9)
    return {
        **_reference(row),
        "family": architecture.approach,
        "params": counted.params,
        "macs": counted.macs,
        "params_m": round(params / 1e6, 4),
        "flops_g": round(flops, 4),
        "uncounted": list(counted.uncounted),
    }


def _reference(row: Published) -> dict[str, Any]:
    """What the paper says, ours empty."""
    return {
        "name": row.network,
        "family": row.approach,
        "input_hw": None if row.input_hw is None else list(row.input_hw),
        "keypoints": row.keypoints,
        "params": None,
        "macs": None,
        "paper": row.paper,
        "convention": row.convention,
        "params_convention": row.params_convention,
        "params_m": None,
        "flops_g": None,
        "published_params_m": row.params_m,
        "published_flops_g": row.flops_g,
        "published_ap": row.ap,
        "mark": row.mark,
        "note": row.note,
        "uncounted": [],
    }
