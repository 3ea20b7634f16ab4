"""What `compress rewrite` says: both networks, every choice with its gain and loss, and why it was taken or not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from compress.files import write_text
from compress.report.prune import markdown, network_rows, print_rows, speed_up_text, timing_remarks, uncounted_remarks
from compress.report.terminal import plain_table, printable, stdout_console

Data = Mapping[str, Any]

_HEAD = ("rule", "site", "sites", "MACs", "predicted ms", "measured ms", "gain", "output error", "score", "decision")
_NAMED = 3  # modules whose functions are no sites


def print_rewritten(result: Data, console: Console | None = None) -> None:
    """Both networks side by side, then the choices."""
    console = console or stdout_console()
    console.print(Text(printable(f"Rewritten {result['network']} → {result['folder']}"), style="bold"))
    if result["rewritten"]:
        table = plain_table("", "given", "rewritten", "rewritten/given")
        for row in network_rows(result, "rewritten"):
            table.add_row(*row)
        console.print(table)
    for line in remarks(result):
        console.print(Text(printable(line)))
    if result.get("choices"):
        short = ("decision", "gain", "score", "rule", "site")
        rows = [tuple(row[_HEAD.index(name)] for name in short) for row in choice_rows(result)]
        print_rows(console, short, [("taken" if row[0] == "taken" else "no", *row[1:]) for row in rows], "report.md")


def print_rules(rules: Sequence[Data], console: Console | None = None) -> None:
    """Every rule: its name, what becomes what, and who says so."""
    console = console or stdout_console()
    for rule in rules:
        console.print(Text(rule["rule"], style="bold"))
        console.print(Text(f"    {rule['does']}"))
        console.print(Text(f"    {rule['source']}{'; exact' if rule['exact'] else ''}", style="dim"))


def write_rewritten(result: Data, folder: Path) -> None:
    """report.md: what print_rewritten says, whole, and how it was obtained."""
    lines = [f"# {result['network']}, rewritten", ""]
    if result["rewritten"]:
        lines += [*markdown(("", "given", "rewritten", "rewritten/given"), network_rows(result, "rewritten")), ""]
    lines += [*(f"- {line}" for line in remarks(result)), ""]
    if result.get("choices"):
        lines += ["## Site by site", "", *markdown(_HEAD, choice_rows(result)), ""]
        lines += [
            "predicted: saved milliseconds by the latency table; measured: with this choice alone, beside the given "
            "network in one interleaved run; gain: of the given network's time, measured, and no more than predicted "
            "where the timing was unsteady twice. Output error: of the replaced modules on held-out pictures, with "
            "fresh, carried-over and reconstructed weights, over the variance of what the module answered; the mean of "
            "several sites. Score: change with this choice alone, before fine-tuning.",
            "",
        ]
    if "environment" in result:
        lines += ["## How", "", f"`{' '.join(result['environment']['command'])}`", ""]
        lines += [f"{name}: {about['version']} on {about['device']}" for name, about in result["engines"].items()]
    write_text(folder / "report.md", "\n".join(lines) + "\n")


def remarks(result: Data) -> list[str]:
    """What must be known beside the figures."""
    found = []
    if result["rewritten"]:
        found = uncounted_remarks(result, "rewritten") + timing_remarks(result, "rewritten")
    if "depth" in result:
        layers = result["depth"]["layers"]
        found.append(f"{layers['given']} layers became {layers['rewritten']}, from random weights.")
        if result["depth"]["edited"]:
            found.append("The given network's multiply-adds were kept, its edits (pruned, replaced) were not.")
        if not result["trained"]:
            found.append("No trained weights were given: the network is not trained, no accuracy is claimed.")
        return found
    siteless = [rule for rule in result["rules"] if all(choice["rule"] != rule for choice in result["choices"])]
    if siteless or not result["choices"]:
        found.append(f"No module of the network is one that {' or '.join(siteless) or 'any rule'} replaces.")
    if result["choices"] and not result["rewritten"]:
        found.append("No replacement paid: the network stays as it is, and nothing was exported.")
    found += [
        f"{path} is no site: it shares its parameters with {other}, and would be untied."
        for path, other in result["tied"].items()
    ]
    unread = list(result["unread"].items())
    found += [f"Functions called in {path or 'the network'} are no sites: {why}." for path, why in unread[:_NAMED]]
    if len(unread) > _NAMED:
        found.append(f"Nor are those of {len(unread) - _NAMED} more modules, see results.json.")
    if result["rewritten"] and not result["trained"]:
        found.append("No trained weights, or no data to judge them by: decided by time alone, no accuracy is claimed.")
    if result["rewritten"]:
        engine, alone = result["engine"], sum(result["choices"][number]["gain"] for number in result["taken"])
        faster = result["speed_up"][engine]
        told = faster["verdict"] in ("faster", "slower")
        together = f"{1 - 1 / faster['factor']:.1%}" if told else speed_up_text(faster)
        found.append(f"Each alone, the accepted save {alone:.1%} of the time in all on {engine}; together {together}.")
    if result["joint_loss"] is not None:
        taken = len(result["taken"])
        found.append(f"The {taken} accepted together lose {result['joint_loss']:.3f} of the score before fine-tuning.")
    if result["score_error"] is not None:
        found.append(
            f"Losses are told on {result['judged_on']} pictures, on which the given network's score has a standard "
            f"error of {result['score_error']:.3f}: smaller ones may be chance."
        )
    return found


def choice_rows(result: Data) -> list[tuple[str, ...]]:
    """Choices in the order they were decided: taken ones first, then refused ones, each by gain."""
    taken, refused = set(result["taken"]), result["refused"]
    numbered = sorted(
        enumerate(result["choices"]), key=lambda item: (item[0] not in taken, -item[1].get("measured_ms", -1e9))
    )
    return [_row(choice, "taken" if number in taken else refused[str(number)]) for number, choice in numbered]


def _row(choice: Data, decision: str) -> tuple[str, ...]:
    def shown(key: str, form: str) -> str:
        return format(choice[key], form) if key in choice else "–"

    errors = "–"
    if choice.get("errors"):  # a replacement without weights has none
        means = [
            sum(one[key] for one in choice["errors"]) / len(choice["errors"])
            for key in ("naive", "carried", "reconstructed")
        ]
        errors = " → ".join(f"{mean:.3f}" for mean in means)
    macs = f"{choice['macs'] / 1e6:+.1f} M" if "macs" in choice else "–"
    score = f"{-choice['loss']:+.3f}" if "loss" in choice else "–"
    unsteady = "" if choice.get("reliable", True) else " (?)"
    times = (shown("predicted_ms", "+.3f"), shown("measured_ms", "+.3f") + unsteady, shown("gain", ".1%") + unsteady)
    places = choice.get("places", len(choice["at"]))
    name = choice["name"] + (f" (at {places} places)" if places > len(choice["at"]) else "")
    return choice["rule"], name, str(places), macs, *times, errors, score, decision
