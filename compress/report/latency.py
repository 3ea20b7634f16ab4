"""Tables of `compress latency` on a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from compress.report.terminal import number, percent, plain_table, print_mapping, printable, stdout_console

_ROWS = 20
_UNCERTAINTY_LIMIT = 0.03  # as in compress/measure/timing.py, which needs an engine
_KERNEL = 76  # characters of a kernel that are shown


def print_built(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Where the table is and how well its scale fits."""
    scale, uncertain = result["scale"], result["uncertain"]
    print_mapping(
        f"Latency table of {_identity(result)}",
        {
            "table": result["table"],
            "kernels": f"{result['kernels']}, {result['measured']} of them new, {result['timed_again']} timed again",
            "scale": "unknown: it needs several networks, and so does an interval"
            if scale is None
            else f"{scale['factor']:.3f} by {scale['networks']} networks, mean error {percent(scale['error'])}",
            **(
                {"uncertain": f"{uncertain} kernels: build again on a quieter machine, or with --again"}
                if uncertain
                else {}
            ),
            "timings": f"± {percent(result['uncertainty'])}{_noisy(result['uncertainty'])}",
        },
        console,
    )


def print_shown(result: Mapping[str, Any], console: Console | None = None) -> None:
    """A network's prediction, its operators, and its dearest kernels."""
    console = console or stdout_console()
    said, size = result["prediction"], "x".join(map(str, result["input_hw"]))
    console.print(
        Text(
            printable(
                f"{result['network']} at {size} · predicted {said['ms']:.2f} ms "
                f"({_interval(said, '.2f')}) · {_identity(result)}"
            ),
            style="bold",
        )
    )
    _print_foreign(said["foreign"], console)
    known = f"{percent(said['coverage'])} of the kernels and {percent(said['time_coverage'])} of the time were measured"
    console.print(Text(f"{known}; the rest is estimated from similar kernels"))
    shares = ", ".join(f"{name} {percent(share)}" for name, share in list(result["operators"].items())[:8])
    console.print(Text(printable(shares)))
    table = plain_table("kernel", "times", "ms", "share", "")
    for row in result["kernels"][:_ROWS]:
        mark = "estimated" if row["provenance"] == "estimated" else ""
        mark = f"uncertain by {percent(row['uncertainty'])}" if row["uncertain"] else mark
        cells = (str(row["times"]), f"{row['ms']:.4f}", percent(row["share"]), mark)
        table.add_row(Text(_kernel(row["kernel"])), *cells)
    console.print(table)
    if len(result["kernels"]) > _ROWS:
        console.print(Text(f"… and {len(result['kernels']) - _ROWS} more kernels, see --json", style="dim"))


def print_checked(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Predicted against measured."""
    console = console or stdout_console()
    console.print(Text(printable(f"Predicted against measured · {_identity(result)}"), style="bold"))
    _print_foreign(result["foreign"], console)
    table = plain_table("network", "measured ms", "±", "predicted ms", "interval", "error", "in the table")
    for row in result["networks"]:
        table.add_row(
            Text(printable(row["network"])),
            f"{row['measured_ms']:.3f}",
            percent(row["uncertainty"]),
            f"{row['ms']:.3f}",
            _interval(row, ".3f"),
            percent(row["error"], sign=True),
            percent(row["coverage"]),
        )
    console.print(table)
    console.print(
        Text(
            f"mean error {percent(result['mape'])}, worst {percent(result['worst'])}; {percent(result['within_5'])} "
            f"within 5 %, {percent(result['within_10'])} within 10 %; Kendall's tau {number(result['tau'], '.3f')}; "
            f"{percent(result['coverage'])} of kernels and {percent(result['time_coverage'])} of time in the table"
        )
    )
    unsteady = [row["network"] for row in result["networks"] if not row["reliable"]]
    if unsteady:
        console.print(Text(printable(f"timings too unsteady to judge by: {', '.join(unsteady)}"), style="yellow"))
    kernels = plain_table("kernel (of the worst networks)", "times", "in situ ms", "predicted ms")
    for row in result["worst_kernels"]:
        cells = (str(row["times"]), f"{row['in_situ_ms']:.4f}", f"{row['predicted_ms']:.4f}")
        kernels.add_row(Text(_kernel(row["kernel"])), *cells)
    console.print(kernels)


def print_compared(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Two tables; of the common kernels those whose times changed most."""
    console = console or stdout_console()
    for name, (one, other) in result["identity"].items():
        console.print(Text(printable(f"{name}: {one} and {other}"), style="yellow"))
    alone = f"{len(result['only_first'])} kernels only in the first, {len(result['only_second'])} only in the second"
    console.print(Text(f"{alone}, {result['common']} in both"))
    if not result["common"]:
        return
    console.print(Text(f"their times differ by {percent(result['median_change'])} in the median"))
    table = plain_table("kernel", "second against first")
    for key, change in list(result["changes"].items())[:_ROWS]:
        table.add_row(Text(_kernel(key)), percent(change, sign=True))
    console.print(table)


def _interval(predicted: Mapping[str, Any], digits: str) -> str:
    low, high = predicted["low_ms"], predicted["high_ms"]
    return "interval unknown" if low is None else f"{low:{digits}} to {high:{digits}}"


def _identity(result: Mapping[str, Any]) -> str:
    threads = f"{result['threads']} thread{'' if result['threads'] == 1 else 's'}"
    return f"{result['engine']} {result['version']}, {threads}, {result['device']}"


def _print_foreign(foreign: list[str], console: Console) -> None:
    if foreign:
        console.print(Text(printable(f"The table is of something else: {'; '.join(foreign)}"), style="yellow"))


def _noisy(uncertainty: float) -> str:
    return "; measure again on a quieter machine" if uncertainty > _UNCERTAINTY_LIMIT else ""


def _kernel(key: str) -> str:
    key = printable(key)
    return key if len(key) <= _KERNEL else key[: _KERNEL - 1] + "…"
