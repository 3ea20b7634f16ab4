"""Tables of `compress latency`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from compress.report.terminal import (
    busy,
    file_size,
    number,
    percent,
    plain_table,
    print_mapping,
    printable,
    stdout_console,
)

if TYPE_CHECKING:  # whose import takes seconds: it loads torch
    from compress.artefacts.results import (
        BuiltTable,
        CheckedTable,
        ComparedTables,
        MeasuredRun,
        MergedTable,
        PackedFolder,
        ShownNetwork,
        UnpackedTable,
    )
    from compress.measure.latency_table import Prediction, Scale

_ROWS = 20
_UNCERTAINTY_LIMIT = 0.03  # as in compress/measure/timing.py, which needs an engine
_KERNEL = 76  # characters of a kernel that are shown


def print_built(result: "BuiltTable", console: Console | None = None) -> None:
    """Where the table is and how well its scale fits."""
    noisy = "; measure again on a quieter machine" if result.uncertainty > _UNCERTAINTY_LIMIT else ""
    lines = {
        "table": result.table,
        "kernels": f"{result.kernels}, {result.measured} of them new, {result.timed_again} timed again",
        "scale": _scale(result.scale),
    }
    if result.uncertain:
        lines["uncertain"] = f"{result.uncertain} kernels: build again on a quieter machine, or with --again"
    lines["timings"] = f"± {percent(result.uncertainty)}{noisy}"
    if beside := busy(result.other_load):
        lines["load"] = f"timed {beside}: times may be too long"
    print_mapping(f"Latency table of {result.identity}", lines, console)


def print_shown(result: "ShownNetwork", console: Console | None = None) -> None:
    """A network's prediction, its operators, and its costliest kernels."""
    console = console or stdout_console()
    whole, size = result.prediction, "x".join(map(str, result.input_hw))
    title = f"{result.network} at {size} · predicted {whole.ms:.2f} ms ({_interval(whole, '.2f')}) · {result.identity}"
    console.print(Text(printable(title), style="bold"))
    _print_foreign(whole.foreign, console)
    known = f"{percent(whole.coverage)} of the kernels and {percent(whole.time_coverage)} of the time were measured"
    console.print(Text(f"{known}; the rest is estimated from similar kernels"))
    shares = ", ".join(f"{name} {percent(share)}" for name, share in list(result.operators.items())[:8])
    console.print(Text(printable(shares)))
    table = plain_table("kernel", "times", "ms", "share", "")
    for row in result.kernels[:_ROWS]:
        mark = "estimated" if row.provenance == "estimated" else ""
        mark = f"uncertain by {percent(row.uncertainty)}" if row.uncertain else mark
        table.add_row(Text(_kernel(row.kernel)), str(row.times), f"{row.ms:.4f}", percent(row.share), mark)
    console.print(table)
    if len(result.kernels) > _ROWS:
        console.print(Text(f"… and {len(result.kernels) - _ROWS} more kernels, see --json", style="dim"))


def print_checked(result: "CheckedTable", console: Console | None = None) -> None:
    """Predicted against measured."""
    console = console or stdout_console()
    console.print(Text(printable(f"Predicted against measured · {result.identity}"), style="bold"))
    _print_foreign(result.foreign, console)
    table = plain_table("network", "measured ms", "±", "predicted ms", "interval", "error", "in the table")
    for row in result.networks:
        table.add_row(
            Text(printable(row.network)),
            f"{row.measured.ms:.3f}",
            percent(row.measured.uncertainty),
            f"{row.predicted.ms:.3f}",
            _interval(row.predicted, ".3f"),
            percent(row.error, sign=True),
            percent(row.predicted.coverage),
        )
    console.print(table)
    found = result.accuracy
    console.print(
        Text(
            f"mean error {percent(found.mape)}, worst {percent(found.worst)}; {percent(found.within_5)} "
            f"within 5 %, {percent(found.within_10)} within 10 %; Kendall's tau {number(found.tau, '.3f')}; "
            f"{percent(found.coverage)} of kernels and {percent(found.time_coverage)} of time in the table"
        )
    )
    unsteady = [row.network for row in result.networks if not row.measured.reliable]
    if unsteady:
        console.print(Text(printable(f"timings too unsteady to judge by: {', '.join(unsteady)}"), style="yellow"))
    kernels = plain_table("kernel (of the worst networks)", "times", "in situ ms", "predicted ms")
    for kernel in result.worst_kernels:
        cells = (str(kernel.times), f"{kernel.in_situ_ms:.4f}", f"{kernel.predicted_ms:.4f}")
        kernels.add_row(Text(_kernel(kernel.kernel)), *cells)
    console.print(kernels)


def print_merged(result: "MergedTable", console: Console | None = None) -> None:
    """Where the new table is, and its size."""
    lines = {"table": result.table, "kernels": result.kernels, "of": str(result.identity)}
    print_mapping("Merged", lines, console)


def print_compared(result: "ComparedTables", console: Console | None = None) -> None:
    """Two tables; of the common kernels those whose times changed most."""
    console = console or stdout_console()
    for name, (first, second) in result.identity.items():
        console.print(Text(printable(f"{name}: {first} and {second}"), style="yellow"))
    alone = f"{len(result.only_first)} kernels only in the first, {len(result.only_second)} only in the second"
    console.print(Text(f"{alone}, {result.common} in both"))
    if not result.common:
        return
    console.print(Text(f"their times differ by {percent(result.median_change)} in the median"))
    table = plain_table("kernel", "second against first")
    for key, change in list(result.changes.items())[:_ROWS]:
        table.add_row(Text(_kernel(key)), percent(change, sign=True))
    console.print(table)


def print_packed(result: "PackedFolder", console: Console | None = None) -> None:
    """What is in the folder, and what to type on the device."""
    lines = {
        "folder": result.folder,
        "engine": result.engine,
        "networks": result.networks,
        "kernels": result.kernels,
        "size": file_size(result.size_bytes),
        "run there": result.run,
    }
    print_mapping("Packed", lines, console)


def print_unpacked(result: "UnpackedTable", console: Console | None = None) -> None:
    """Where the device's table is, and how well its scale fits."""
    lines = {"table": result.table, "kernels": result.kernels, "scale": _scale(result.scale)}
    if result.others:
        lines["other numbers of threads"] = ", ".join(result.others)
    print_mapping(f"Latency table of {result.identity}", lines, console)


def _scale(scale: "Scale | None") -> str:
    if scale is None:
        return "unknown: it needs several networks, and so does an interval"
    return f"{scale.factor:.3f} by {scale.networks} networks, mean error {percent(scale.error)}"


def _interval(predicted: "Prediction", digits: str) -> str:
    low, high = predicted.low_ms, predicted.high_ms
    return "interval unknown" if low is None else f"{low:{digits}} to {high:{digits}}"


def _print_foreign(foreign: Sequence[str], console: Console) -> None:
    if foreign:
        console.print(Text(printable(f"The table is of something else: {'; '.join(foreign)}"), style="yellow"))


def _kernel(key: str) -> str:
    key = printable(key)
    return key if len(key) <= _KERNEL else key[: _KERNEL - 1] + "…"


def print_measured(found: "MeasuredRun", console: Console | None = None) -> None:
    """What was promised and what was met, network by network."""
    from compress.report.text import latency_text  # whose import takes seconds

    console = console or stdout_console()
    console.print(Text(printable(f"{found.run} on {found.target}"), style="bold"))
    table = plain_table("network", "promised ms", "met ms", "error")
    for one in found.networks:
        table.add_row(
            Text(printable(one.name)), latency_text(one.promised), latency_text(one.met), percent(one.error, sign=True)
        )
    console.print(table)
    tau = "" if found.tau is None else f", order tau {found.tau:.2f}"
    console.print(Text(f"mean error {percent(found.mean_error)}, worst {percent(found.worst_error)}{tau}"))
    if found.goal:
        console.print(Text(f"goal: {found.goal}"))
