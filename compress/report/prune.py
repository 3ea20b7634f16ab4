"""What `compress prune` says: tables on a terminal, a page (report.md) and the sensitivity curves in the run folder."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
from rich.console import Console
from rich.text import Text

from compress.files import write_bytes, write_text
from compress.pose.scoring import Score
from compress.report.plots import png
from compress.report.terminal import number, percent, plain_table, printable, stdout_console

Data = Mapping[str, Any]

_ROWS = 30  # sections on a terminal; the page has all
_CURVES = 12  # curves in a picture, those of most loss


def print_pruned(result: Data, console: Console | None = None) -> None:
    """Both networks side by side, and what stays of each section."""
    console = console or stdout_console()
    console.print(Text(printable(f"Pruned {result['network']} → {result['folder']}"), style="bold"))
    if result["goal"]:
        console.print(
            Text(
                printable(goal_text(result["goal"])), style="bold red" if result["goal"]["met"] is not True else "bold"
            )
        )
    table = plain_table("", "given", "pruned", "pruned/given")
    for row in network_rows(result, "pruned"):
        table.add_row(*row)
    console.print(table)
    for line in remarks(result):
        console.print(Text(printable(line)))
    print_rows(console, ("section", "channels", "gone"), section_rows(result), "report.md")


def write_pruned(result: Data, folder: Path) -> None:
    """report.md: what print_pruned says, whole, and how it was obtained."""
    lines = [f"# {result['network']}, pruned", ""]
    if result["goal"]:
        lines += [f"**{goal_text(result['goal'])}**", ""]
    lines += markdown(("", "given", "pruned", "pruned/given"), network_rows(result, "pruned"))
    lines += ["", *(f"- {line}" for line in remarks(result)), ""]
    rows = section_rows(result)
    if rows:
        lines += ["## What went", "", *markdown(("section", "channels", "gone"), rows), ""]
    untouched = {name: why for choice in result["choices"] for name, why in choice.get("untouched", {}).items()}
    if untouched:
        lines += ["## What could not go", "", *markdown(("section", "why"), list(untouched.items())), ""]
    environment = result["environment"]
    lines += ["## How", "", f"`{' '.join(environment['command'])}`", ""]
    lines += [
        f"{name}: {described['version']} on {described['device']}" for name, described in result["engines"].items()
    ]
    write_text(folder / "report.md", "\n".join(lines) + "\n")


def network_rows(result: Data, changed: str) -> list[tuple[str, str, str, str]]:
    """Name, given, changed, changed over given: sizes, score, milliseconds per engine with their uncertainty.

    The first score and the milliseconds are of one procedure, the recipe's; then comes the score of the other one.
    """
    given, pruned = result["given"], result[changed]

    def row(name: str, one: float, other: float, form: str) -> tuple[str, str, str, str]:
        return name, format(one, form), format(other, form), f"{other / one:.3f}" if one else "–"

    rows = [
        row("params, M", given["params"] / 1e6, pruned["params"] / 1e6, ".3f"),
        row("MACs, M", given["macs"] / 1e6, pruned["macs"] / 1e6, ".1f"),
    ]
    if result["trained"]:
        figure = result["figure"]
        for kind, key in zip(result["procedures"], ("val", "other_val"), strict=True):
            first, second = (
                f"{number(one[key][figure], '.3f')} ± {number(one[key].get(f'{figure}_se'), '.3f')}"
                for one in (given, pruned)
            )
            rows.append((f"{figure}, validation, {kind}", first, second, score_text(figure, given[key], pruned[key])))
    for engine, speed_up in result["speed_up"].items():
        first, second = (timing_text(one["measured"][engine], result["passes"]) for one in (given, pruned))
        rows.append((f"{engine}, measured ms, {result['procedures'][0]}", first, second, speed_up_text(speed_up)))
        sizes = [one["exports"][engine]["size_bytes"] / 1e6 for one in (given, pruned)]
        rows.append(row(f"{engine}, file MB", sizes[0], sizes[1], ".2f"))
    return rows


def timing_text(timing: Data, passes: int) -> str:
    """'1.32 ± 0.02' of so many passes, on the clock of the reference; (?) where unreliable."""
    ms = passes * timing["normalised_ms"]
    return f"{ms:.2f} ± {ms * timing['uncertainty']:.2f}{'' if timing['reliable'] else ' (?)'}"


def speed_up_text(speed_up: Data) -> str:
    """What two times say of each other; a factor only where they say something."""
    factor, low, high = (speed_up[key] for key in ("factor", "low", "high"))
    match speed_up["verdict"]:
        case "faster" | "slower":
            return f"{1 / factor:.3f}, {factor:.2f}x as fast ({low:.2f}–{high:.2f})"
        case "no difference":
            return f"no difference within ±{100 * (high / factor - 1):.1f} %"
        case "unsteady":
            return "timing unsteady: no speed-up is claimed"
        case _:
            return "no speed-up counts: it scores like a constant answer"


def score_text(figure: str, given: Data, changed: Data) -> str:
    """The difference of two scores, and what it is worth."""
    if given[figure] is None or changed[figure] is None:
        return "no score: nothing to measure on"
    if all(Score.of_figures(figure, one).worthless for one in (given, changed)):
        return "both like a constant answer"
    difference = changed[figure] - given[figure]
    error = math.hypot(given.get(f"{figure}_se") or 0.0, changed.get(f"{figure}_se") or 0.0)
    return f"{difference:+.3f}{', may be chance' if abs(difference) < 2 * error else ''}"


def goal_text(goal: Data) -> str:
    """What was asked, what was reached, and whether that is the goal."""
    form = "{:.3f} ms a pass" if goal["of"] == "ms" else "{:.1%} of the " + goal["of"]
    asked, reached = form.format(goal["asked"]), form.format(goal["reached"])
    doubt = f" (± {100 * goal['uncertainty']:.1f} %)" if goal["uncertainty"] else ""
    how = {True: "Goal met", False: "GOAL MISSED", None: "GOAL NOT SHOWN TO BE MET, the timing is unsteady"}
    return f"{how[goal['met']]}: {asked} asked, {reached}{doubt} reached."


def remarks(result: Data) -> list[str]:
    """What must be known beside the figures."""
    found = []
    if not result["trained"]:
        found.append("No trained weights, or no data to judge them by: nothing was fine-tuned, no accuracy is claimed.")
    for step, choice in enumerate(result["choices"], 1):
        if "goal" in choice:
            said = (
                f"; the layers' model said {percent(choice['predicted_share'])}" if "predicted_share" in choice else ""
            )
            found.append(
                f"Step {step}, as it was chosen: {percent(choice['goal'])} of the {choice['of']} was asked to stay, "
                f"{percent(choice['share'])} did, after {choice['tries']} tries{said}."
            )
    found += uncounted_remarks(result, "pruned") + timing_remarks(result, "pruned")
    parity = max(export["parity"] for one in ("given", "pruned") for export in result[one]["exports"].values())
    found.append(f"Exports answer like torch within a relative error of {parity:.1e}.")
    return found


def uncounted_remarks(result: Data, changed: str) -> list[str]:
    """Which operators the table's MACs leave out."""
    names = {name for one in ("given", changed) for name in result[one].get("uncounted", ())}
    return [f"Not counted among the MACs: {', '.join(sorted(names))}."] if names else []


def timing_remarks(result: Data, changed: str) -> list[str]:
    """What the times are told by, where the network became slower, and whether a timing is not to be relied on."""
    found = [
        "Milliseconds are of the network without decoding, on the clock of a reference that was timed "
        "beside both, which takes drift out; ± half the 95 % confidence interval."
    ]
    found += [f"No export: {line}" for line in result.get("failed_exports", ())]
    slower = [engine for engine, speed_up in result["speed_up"].items() if speed_up["verdict"] == "slower"]
    if slower:
        found.append(f"The network became slower on {', '.join(slower)}.")
    timings = [timing for one in ("given", changed) for timing in result[one]["measured"].values()]
    if not all(timing["reliable"] for timing in timings):
        found.append("(?) marks an unsteady timing: repeat it on a quieter machine.")
    return found


def section_rows(result: Data) -> list[tuple[str, str, str]]:
    """PruningGroup or layer, its channels in the given network, and the share that went in all steps together."""
    first = result["choices"][0]
    if "ratios" in first:
        return [(name, "weights", f"{ratio:.0%}") for name, ratio in first["ratios"].items()]
    stays: dict[str, float] = {}
    for choice in result["choices"]:
        for name, of in choice["sections"].items():
            stays[name] = stays.get(name, 1.0) * (1 - of["share"])
    return [
        (name, str(of["channels"]), f"{1 - stays[name]:.0%}" if stays[name] < 1 else "–")
        for name, of in first["sections"].items()
    ]


# --- Sensitivity -----------------------------------------------------------------------------------------------------


def print_analysed(result: Data, console: Console | None = None) -> None:
    """One row per functional block and section: the score at every ratio."""
    console = console or stdout_console()
    console.print(
        Text(printable(f"Sensitivity of {result['network']}, no fine-tuning → {result['folder']}"), style="bold")
    )
    head, rows = sensitivity_rows(result)
    print_rows(console, head, rows, "sensitivity.md")


def write_analysed(result: Data, folder: Path) -> None:
    """sensitivity.md, a table, and sensitivity.png, the curves of the blocks or, without any, of the worst sections."""
    head, rows = sensitivity_rows(result)
    lines = [f"# Sensitivity of {result['network']}", "", f"{result['figure']} on search pictures, no fine-tuning.", ""]
    write_text(folder / "sensitivity.md", "\n".join([*lines, *markdown(head, rows)]) + "\n")
    write_bytes(
        folder / "sensitivity.png",
        png(_curves_chart(result), f"Sensitivity of {result['network']}", "each pruned alone, no fine-tuning"),
    )


def sensitivity_rows(result: Data) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: blocks first, then sections, each by what it loses at its highest ratio."""
    points = [point for point in result["points"] if point["ratio"] > 0]
    dense = next(point["score"] for point in result["points"] if point["ratio"] == 0)
    ratios = sorted({point["ratio"] for point in points})
    scores: dict[str, dict[float, float]] = {}
    for point in points:
        scores.setdefault(point["target"], {})[point["ratio"]] = point["score"]
    order = sorted(scores, key=lambda name: (name not in result["blocks"], scores[name][max(scores[name])]))
    head = ("pruned alone", f"{result['figure']} dense", *(f"{ratio:.0%}" for ratio in ratios))
    rows = [
        (name, f"{dense:.3f}", *(f"{scores[name][r]:.3f}" if r in scores[name] else "–" for r in ratios))
        for name in order
    ]
    return head, rows


def _curves_chart(result: Data) -> alt.Chart:
    _, rows = sensitivity_rows(result)
    shown = set(result["blocks"]) or {row[0] for row in rows[:_CURVES]}
    dense = next(point["score"] for point in result["points"] if point["ratio"] == 0)
    values = [
        {"of": point["target"], "gone": point["share"], "score": point["score"]}
        for point in result["points"]
        if point["target"] in shown
    ]
    values += [{"of": name, "gone": 0.0, "score": dense} for name in shown]
    chart: alt.Chart = (
        alt.Chart(alt.InlineData(values=values), width=620, height=360)
        .mark_line(point=True)
        .encode(
            x=alt.X("gone:Q", title="share of its channels gone", axis=alt.Axis(format="%")),
            y=alt.Y("score:Q", title=result["figure"]),
            color=alt.Color("of:N", title=None),
        )
    )
    return chart


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A Markdown table's lines."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(str(cell) for cell in row)} |" for row in rows)]


def print_rows(console: Console, head: tuple[str, ...], rows: Sequence[tuple[str, ...]], whole: str) -> None:
    """The first rows, and which file has all of them."""
    table = plain_table(*head)
    for row in rows[:_ROWS]:
        table.add_row(*row)
    console.print(table)
    if len(rows) > _ROWS:
        console.print(Text(f"… and {len(rows) - _ROWS} more, see {whole}", style="dim"))
