"""The latency tables of this machine, cached between runs."""

import re
from collections.abc import Iterable
from pathlib import Path

from compress.engines import engine
from compress.files import cache_folder
from compress.measure.kernels import Kernel
from compress.measure.latency_table import FORMAT, Identity, LatencyTable, fill, most_load, open_table
from compress.measure.timing import pinned


def table_path(identity: Identity) -> Path:
    """Where the table of these is kept between runs, see cache_folder."""
    precision = "" if identity.precision == "float32" else f"-{identity.precision}"
    name = f"{identity.engine}-{identity.version}-{identity.threads}{precision}-{identity.device}"
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", name)
    return cache_folder() / "latency" / f"{readable}-{FORMAT}.json"


def complete_table(table: LatencyTable, kernels: Iterable[Kernel]) -> None:
    """Measures kernels that the covering networks lack, in models of kernels; adds them to the run's table and to the
    cached one. Of an engine that makes no such models they stay missing, and are estimated."""
    if table.missing(kernels) and engine(table.identity.engine).assembles_kernels:
        with pinned(table.identity.threads):
            fill(table, kernels)
        keep(table)


def keep(table: LatencyTable, again: bool = False) -> None:
    """Adds the table's kernels to this machine's cached table, whose own entries stay, unless they are less certain or
    all were timed again."""
    kept = open_table(table_path(table.identity), table.identity)
    if kept.reference_ms is None:
        kept.reference_ms = table.reference_ms
    # Both are on the clock of the first reference, which a run's table has from the kept one.
    new = {
        key: entry
        for key, entry in table.kernels.items()
        if again
        or key not in kept.kernels
        or (kept.kernels[key].uncertain and entry.timing.uncertainty < kept.kernels[key].timing.uncertainty)
    }
    if new and kept.reference_ms == table.reference_ms:
        kept.kernels.update(new)
        kept.other_load = most_load((kept.other_load, table.other_load))
        kept.save()


def top_up(table: LatencyTable, kept: Path) -> None:
    """Adds what other runs have measured since this one began; nothing from a table on another clock."""
    others = open_table(kept, table.identity)
    if others.reference_ms == table.reference_ms:
        table.kernels = {**others.kernels, **table.kernels}
        table.other_load = most_load((table.other_load, others.other_load))
