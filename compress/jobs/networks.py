"""`compress networks`: our counts beside the papers', each in the paper's own convention."""

from collections.abc import Sequence
from typing import Any

import torch

from compress.measure.counting import count
from compress.networks import network_named
from compress.networks.published import PUBLISHED
from compress.progress import Progress


def list_networks(names: Sequence[str], progress: Progress) -> list[dict[str, Any]]:
    """One row per published figure: name, approach, input_hw, params, macs, flops_g, and what the paper prints.

    names: of the networks to list; all if empty. Raises NetworkError for an unknown one.
    """
    for name in names:
        network_named(name)
    wanted = [row for row in PUBLISHED if not names or row.network in names]
    rows = []
    with progress.phase("counting", len(wanted)) as phase:
        for row in wanted:
            architecture = network_named(row.network)
            with torch.device("meta"):
                network = architecture.build()
            counted = count(network, row.input_hw)
            flops = getattr(counted, row.convention) / (2**30 if row.gib else 1e9)
            rows.append(
                {
                    "name": row.network,
                    "family": architecture.approach,
                    "input_hw": list(row.input_hw),
                    "params": counted.params,
                    "macs": counted.macs,
                    "paper": row.paper,
                    "convention": row.convention,
                    "flops_g": round(flops, 4),
                    "published_params_m": row.params_m,
                    "published_flops_g": row.flops_g,
                    "published_ap": row.ap,
                    "mark": row.mark,
                    "note": row.note,
                    "uncounted": list(counted.uncounted),
                }
            )
            phase.advance(1, row.network)
    return rows
