"""`compress targets`: the engines of this machine, and the devices whose latency tables are known."""

from pathlib import Path

from compress.artefacts.results import KnownTable, TargetsResult
from compress.engines import available
from compress.engines.engine import describe_machine
from compress.errors import TableError
from compress.files import cache_folder
from compress.measure.latency_table import load_table


def list_targets(folder: Path | None = None) -> TargetsResult:
    """Every engine, installed or not, and the latency tables kept on this machine, those of other devices marked.

    folder: with more tables; None takes `tables` in the current folder. A file that is no table is left out.
    """
    here = describe_machine("", "")
    found = []
    for place in (cache_folder() / "latency", folder or Path("tables")):
        for file in sorted(place.glob("*.json")):
            try:
                table = load_table(file)
            except TableError:
                continue
            foreign = not table.identity.device.startswith(here.device)
            found.append(KnownTable(str(file), table.identity, len(table.kernels), foreign, table.other_load))
    return TargetsResult(available(), here.device, tuple(found))
