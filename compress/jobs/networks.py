"""`compress networks`: our counts beside the papers', each in the paper's own convention.

The counts are kept, see compress.measure.kept_counts; `python -m compress.jobs.networks` writes them anew.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass, replace
from typing import Any

from compress.artefacts.results import NetworkRow
from compress.files import write_text
from compress.measure.counting import Count, count
from compress.measure.kept_counts import COUNTS, kept_counts, size_key
from compress.networks import NETWORKS, made_for, network_named
from compress.networks.architecture import without_values
from compress.networks.published import PUBLISHED, Published


def list_networks(names: Sequence[str]) -> tuple[NetworkRow, ...]:
    """One row per published figure, networks of one approach together.

    names: of the networks to list; all if empty. Raises NetworkError for an unknown one.
    """
    references = {row.network for row in PUBLISHED if row.mark == "reference only"}
    for name in names:
        if name not in references:
            network_named(name)
    wanted = [row for row in PUBLISHED if not names or row.network in names]
    kept = kept_counts()
    rows = [_reference(row) if row.mark == "reference only" else _counted(row, kept) for row in wanted]
    order = list(dict.fromkeys(row.approach for row in rows))
    return tuple(sorted(rows, key=lambda row: order.index(row.approach)))


def counted_anew(row: Published) -> Count:
    """The count of the row's network, which is built for it."""
    assert row.input_hw is not None
    architecture = made_for(network_named(row.network), row.input_hw)
    assert is_dataclass(architecture)
    with without_values():
        network = replace(architecture, keypoints=row.keypoints).build()
    return count(network, row.input_hw)


def write_counts() -> None:
    """Counts every published network again and writes `networks/counts.json`."""
    counts: dict[str, dict[str, Any]] = {name: {} for name in NETWORKS}
    for row in PUBLISHED:
        if row.mark != "reference only":
            counts[row.network].setdefault(size_key(row), asdict(counted_anew(row)))
    write_text(COUNTS, json.dumps(counts, indent=1) + "\n")


def _counted(row: Published, kept: dict[str, dict[str, Count]]) -> NetworkRow:
    counted = kept[row.network][size_key(row)]
    params = counted.params if row.params_convention == "plain" else counted.params_by_class_name
    flops = counted.flops(row.convention) / (2**30 if row.gib else 1e9)
    return replace(
        _reference(row),
        approach=network_named(row.network).approach,
        params=counted.params,
        macs=counted.macs,
        params_m=round(params / 1e6, 4),
        flops_g=round(flops, 4),
        uncounted=counted.uncounted,
    )


def _reference(row: Published) -> NetworkRow:
    """What the paper says, ours empty."""
    return NetworkRow(
        name=row.network,
        approach=row.approach,
        input_hw=row.input_hw,
        keypoints=row.keypoints,
        params=None,
        macs=None,
        paper=row.paper,
        convention=row.convention,
        params_convention=row.params_convention,
        params_m=None,
        flops_g=None,
        published_params_m=row.params_m,
        published_flops_g=row.flops_g,
        published_ap=row.ap,
        mark=row.mark,
        note=row.note,
        uncounted=(),
    )


if __name__ == "__main__":
    write_counts()
