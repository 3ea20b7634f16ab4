"""Records as text: the cells and remarks that terminal and pages share, and tables for a terminal."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from compress.artefacts.results import NetworkResult
from compress.measure.comparison import SpeedUp
from compress.measure.latency import Latency
from compress.pose.scoring import Score, difference_error
from compress.report.terminal import number, plain_table, printable

_ROWS = 30  # of a long table on a terminal; the page has all


# --- Cells -----------------------------------------------------------------------------------------------------------


def latency_text(latency: Latency, passes: int = 1) -> str:
    """`1.32 ± 0.02` of so many passes, half the 95 % interval; (?) where unreliable."""
    ms = passes * latency.ms
    error = "" if latency.uncertainty is None else f" ± {ms * latency.uncertainty:.2f}"
    return f"{ms:.2f}{error}{' (?)' if latency.reliable is False else ''}"


def score_text(score: Score | None) -> str:
    """`0.532 ± 0.014`, one standard error if one was drawn."""
    if score is None:
        return "–"
    error = "" if score.standard_error is None else f" ± {score.standard_error:.3f}"
    return f"{number(score.value, '.3f')}{error}"


def speed_up_text(speed_up: SpeedUp) -> str:
    """What two times say of each other; a factor only where they say something."""
    match speed_up.verdict:
        case "faster" | "slower":
            factor = f"{speed_up.factor:.2f}x as fast ({speed_up.low:.2f}–{speed_up.high:.2f})"
            return f"{1 / speed_up.factor:.3f}, {factor}"
        case "no difference":
            return f"no difference within ±{100 * (speed_up.high / speed_up.factor - 1):.1f} %"
        case "unsteady":
            return "timing unsteady: no speed-up is claimed"
        case _:
            return "no speed-up counts: it scores like a constant answer"


def score_change_text(given: Score | None, changed: Score | None) -> str:
    """`+0.020 ± 0.013, may be chance`: the difference of two scores, one standard error, and what it is worth."""
    if given is None or changed is None or given.value is None or changed.value is None:
        return "no score: nothing to measure on"
    if given.worthless and changed.worthless:
        return "both like a constant answer"
    difference = changed.value - given.value
    error = difference_error(given, changed)
    known = f" ± {error:.3f}" if error else ""
    return f"{difference:+.3f}{known}{', may be chance' if abs(difference) < 2 * error else ''}"


# --- A given network and a changed one -------------------------------------------------------------------------------


def change_rows(
    given: NetworkResult, changed: NetworkResult, speed_up: Mapping[str, SpeedUp]
) -> list[tuple[str, str, str, str]]:
    """Name, given, changed, changed over given: sizes, score, milliseconds per engine with their uncertainty.

    The first score and the milliseconds are of one procedure, the recipe's; then comes the score of the other one.
    """

    def row(name: str, one: float, other: float, form: str) -> tuple[str, str, str, str]:
        return name, format(one, form), format(other, form), f"{other / one:.3f}" if one else "–"

    rows = [
        row("params, M", given.params / 1e6, changed.params / 1e6, ".3f"),
        row("MACs, M", given.macs / 1e6, changed.macs / 1e6, ".1f"),
    ]
    for before, after in zip(given.evaluations, changed.evaluations, strict=True):
        if after.score:
            name = f"{after.score.metric}, validation, {after.procedure}"
            change = score_change_text(before.score, after.score)
            rows.append((name, score_text(before.score), score_text(after.score), change))
    used = changed.evaluations[0]
    for target, faster in speed_up.items():
        first, second = (latency_text(one.latency[target], used.passes) for one in (given, changed))
        how = changed.latency[target].provenance
        rows.append((f"{target}, {how} ms, {used.procedure}", first, second, speed_up_text(faster)))
    exported = {export.engine: export.size_bytes for export in changed.exports}
    for export in given.exports:
        if export.engine in exported:
            sizes = (export.size_bytes / 1e6, exported[export.engine] / 1e6)
            rows.append(row(f"{export.engine}, file MB", *sizes, ".2f"))
    return rows


def change_remarks(given: NetworkResult, changed: NetworkResult, speed_up: Mapping[str, SpeedUp]) -> list[str]:
    """What the table leaves out: operators without a count, the clock, refusals, slower engines, unsteady timings."""
    found = []
    names = {name for one in (given, changed) for name in one.uncounted}
    if names:
        found.append(f"Not counted among the MACs: {', '.join(sorted(names))}.")
    latencies = [latency for one in (given, changed) for latency in one.latency.values()]
    if any(one.provenance == "measured" for one in latencies):
        found.append(
            "Measured milliseconds are of the network without decoding, on the clock of a reference that was timed "
            "beside both, which takes drift out; ± half the 95 % confidence interval."
        )
    if any(one.provenance == "predicted" for one in latencies):
        found.append(
            "Predicted milliseconds are from the latency table of another device, ± what nine in ten networks are "
            "within; nothing was measured there."
        )
    found += [f"No export: {name}: {why}" for name, why in changed.refused.items()]
    slower = [engine for engine, one in speed_up.items() if one.verdict == "slower"]
    if slower:
        found.append(f"The network became slower on {', '.join(slower)}.")
    if any(latency.reliable is False for one in (given, changed) for latency in one.latency.values()):
        found.append("(?) marks an unsteady timing: repeat it on a quieter machine.")
    return found


# --- Tables ----------------------------------------------------------------------------------------------------------


def print_rows(console: Console, head: Sequence[str], rows: Sequence[Sequence[str]], whole: str = "") -> None:
    """A table on the terminal. whole: the file that has all rows; only the first ones are printed then."""
    table = plain_table(*head)
    shown = rows[:_ROWS] if whole else rows
    for row in shown:
        table.add_row(*row)
    console.print(table)
    if len(rows) > len(shown):
        console.print(Text(f"… and {len(rows) - len(shown)} more, see {whole}", style="dim"))


def print_lines(console: Console, lines: Iterable[str], style: str = "") -> None:
    """Each as one line of text, whatever names stand in it."""
    for line in lines:
        console.print(Text(printable(line), style=style))
