"""What `compress search` prints, and the sentences that its page says too."""

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from compress.report.terminal import (
    BUSY,
    add_row,
    file_size,
    number,
    percent,
    plain_table,
    print_mapping,
    printable,
    short,
    stdout_console,
)
from compress.report.text import latency_text, score_text

if TYPE_CHECKING:  # whose import takes seconds: it loads torch
    from compress.artefacts.results import Comparison, NetworkResult, ProxyAgreement, SearchResult
    from compress.measure.latency import Latency
    from compress.pose.scoring import Score

_LATENCY = ("measured ms", "predicted ms", "error")
_SIZE = ("decoding ms", "params", "MACs", "files")
_FAR_OFF = 0.1  # mean error of predictions from which on they mislead a search
_WIDE = 120  # columns of a terminal from which accuracy and latency stand side by side


def print_search(result: "SearchResult", console: Console | None = None) -> None:
    """The closing tables of a search: the measured networks, fastest first, and where everything lies."""
    console = console or stdout_console()
    networks = sorted(result.networks, key=lambda network: waited_ms(result, network) or math.inf)
    if result.no_finalist:
        console.print(Text(printable(f"NO FINALIST: {result.no_finalist}"), style="bold red"))
    data = result.data
    metric, accuracy = data.metric, ("role", f"{data.metric} val", f"{data.metric} search")
    title = f"{searched(result)} · {result.target} · {metric} and milliseconds of {procedure_of(result)}"
    console.print(Text(printable(f"{title} · {metric} on {data.val} {data.kind} pictures"), style="bold"))
    for columns in ([*accuracy, *_LATENCY], _SIZE) if console.width >= _WIDE else (accuracy, _LATENCY, _SIZE):
        table = plain_table("network", *columns)
        for network in networks:
            mark, cells = "* " if network.name in result.best else "  ", _cells(result, network)
            add_row(table, mark + network.name, *(cells[column] for column in columns))
        console.print(table)
        console.print()
    _print_procedures(metric, networks, console)
    for comparison in result.comparisons:
        both_texts = (gain_text(comparison, metric), speed_text(comparison, metric))
        sentences = "; ".join(" ".join(filter(None, text)) for text in both_texts)
        console.print(Text(printable(f"Against {comparison.baseline}: {sentences}")))
    if result.zero_cost:
        console.print(Text(printable(proxy_text(result.zero_cost))))
    for doubt in table_doubts(result):
        console.print(Text(printable(doubt), style="yellow"))
    for trial in result.failed_trials:
        console.print(Text(printable(f"Failed, and counted as 0: trial {trial.number}: {trial.failure}")))
    console.print(
        Text(
            f"* on the front of the measured networks by {objectives_text(result)}. {metric} val: after short "
            "training, ± one standard error. All ms are on one clock. measured: ± half the 95 % interval, (?) "
            "unreliable; predicted: from the latency table; decoding: from maps to people, measured; in all: ms of "
            "network and decoding; two passes: of the picture and its mirror.",
            style="dim",
        )
    )
    folder = result.run.folder
    places = {
        "run folder": folder,
        "report": f"{folder}/report.html",
        "chart": f"{folder}/trade_off.png",
        "numbers": f"{folder}/networks.csv, {folder}/results.json",
        "networks": f"{folder}/finalists/",
    }
    print_mapping("Where everything lies", places, console)


def _print_procedures(metric: str, networks: "list[NetworkResult]", console: Console) -> None:
    """Score and end-to-end time of one pass and of two, side by side."""
    if not networks or not all(len(network.evaluations) == 2 for network in networks):
        return
    by_passes = [sorted(network.evaluations, key=lambda one: one.passes) for network in networks]
    procedures = [evaluation.procedure for evaluation in by_passes[0]]
    table = plain_table("network", *(column for name in procedures for column in (f"{name}: {metric}", "in all")))
    for network, evaluations in zip(networks, by_passes, strict=True):
        cells = []
        for one in evaluations:
            cells += [number(value_of(one.score), ".3f"), number(ms_of(one.end_to_end), ".2f")]
        add_row(table, "  " + network.name, *cells)
    console.print(table)
    console.print()


def _cells(result: "SearchResult", network: "NetworkResult") -> dict[str, str]:
    """What the closing tables say of one network, by column."""
    first, latency, metric = network.evaluations[0], result.latency_of(network), result.data.metric
    measured = latency if latency and latency.provenance == "measured" else None
    return {
        "role": network.role,
        f"{metric} val": score_text(first.score),
        f"{metric} search": number(value_of(result.trial_of(network).score), ".3f"),
        "measured ms": latency_text(measured, first.passes) if measured else "–",
        "predicted ms": number(ms_of(network.predicted.get(result.target.name), first.passes), ".2f"),
        "error": percent(result.prediction_error(network), sign=True),
        "decoding ms": number(ms_of(first.decoding), ".2f"),
        "params": short(network.params),
        "MACs": short(network.macs),
        "files": ", ".join(f"{one.engine} {file_size(one.size_bytes)}" for one in network.exports) or "–",
    }


# --- What page and terminal say alike --------------------------------------------------------------------------------


def ms_of(latency: "Latency | None", passes: int = 1) -> float | None:
    """Milliseconds of so many passes."""
    return None if latency is None else passes * latency.ms


def value_of(score: "Score | None") -> float | None:
    """0 to 1."""
    return None if score is None else score.value


def waited_ms(result: "SearchResult", network: "NetworkResult") -> float | None:
    """End-to-end time in the recipe's procedure, or the network's alone where decoding was not timed."""
    return ms_of(network.evaluations[0].end_to_end or result.latency_of(network))


def procedure_of(result: "SearchResult") -> str:
    """What scores and milliseconds are of: one pass of the network, or two."""
    return result.networks[0].evaluations[0].procedure if result.networks else "one pass"


OBJECTIVES = {
    "end_to_end": "end-to-end time",
    "latency": "the network's latency",
    "macs": "multiply-adds",
    "params": "parameters",
    "size": "size of the weights",
    "memory": "memory of the activations",
}
"""How a reader is told of what networks are to be small in."""


def proxy_text(found: "ProxyAgreement") -> str:
    """What the zero-cost proxy did, and whether it, or multiply-adds alone, order networks as their scores do."""
    return (
        f"Zero-cost proxy {found.proxy}: {found.passed_over} of {found.proposals} proposals were passed over. "
        f"Kendall's tau with the scores of the {found.trials} trials that were evaluated: {number(found.tau, '.2f')}; "
        f"of multiply-adds: {number(found.tau_macs, '.2f')} (1 is the same order, 0 none in common)."
    )


def table_doubts(result: "SearchResult") -> list[str]:
    """Why predictions, and with them the choice of candidates, are not to be trusted; empty where nothing speaks
    against them."""
    found = []
    for name, used in result.tables.items():
        if used.other_load is not None and used.other_load >= BUSY:
            found.append(
                f"Predictions on {name} are doubtful: its table was measured beside other programs "
                f"(load {used.other_load:.1f}); time it again on a quiet one (compress latency build --again, or pack)."
            )
        if used.error and used.error.mean > _FAR_OFF:
            found.append(
                f"Predictions on {name} are off by {percent(used.error.mean)} on average, so that the candidates that "
                "were chosen by them may not be the best."
            )
    return found


def objectives_text(result: "SearchResult") -> str:
    """`end-to-end time and parameters`."""
    names = [OBJECTIVES[one.quantity] + (f" on {one.target}" if one.target else "") for one in result.objectives]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def searched(result: "SearchResult") -> str:
    """What was searched: the family, and the given network, which says more where the family is an own network's."""
    return result.space.family + (f" around {result.start}" if result.start else "")


def gain_text(comparison: "Comparison", metric: str) -> tuple[str, str]:
    """A headline, empty where nothing may be claimed, and the rest: score at no more end-to-end time than a baseline's.

    metric: of the scores, such as AP.
    """
    found = comparison.at_its_latency
    if not found:
        return "", "No finalist is as fast as this one."
    scores = f"{found.network} {found.score:.3f}, {comparison.baseline} {found.baseline_score:.3f}"
    gain = found.score - found.baseline_score
    error = "" if found.standard_error is None else f" ± {found.standard_error:.3f}"
    if found.verdict == "worthless":
        return "", f"At no more time nothing is gained: {scores}, which is near a constant answer."
    when = "at no more time" if found.faster else "in as much time, within the uncertainty"
    if found.verdict == "beyond chance" and found.steady and gain > 0:
        return f"{gain:+.3f}{error} {metric}", f"{when}, beyond two standard errors: {scores}."
    why = (
        "within two standard errors, may be chance"
        if found.verdict != "beyond chance"
        else "beyond two standard errors"
    )
    doubt = "" if found.steady else "; the timing is unsteady"
    return "", f"{metric} {when}: {scores} ({gain:+.3f}{error}, {why}{doubt})."


def speed_text(comparison: "Comparison", metric: str) -> tuple[str, str]:
    """A headline, empty where nothing may be claimed, and the rest: the time for no smaller score than a baseline's.

    metric: of the scores, such as AP.
    """
    found = comparison.at_its_accuracy
    if not found:
        return "", f"No finalist reaches the {metric} of this one."
    name, speed_up = found.network, found.speed_up
    match speed_up.verdict:
        case "faster":
            interval = f"({speed_up.low:.2f}–{speed_up.high:.2f})"
            return f"{speed_up.factor:.2f}× as fast", f"end to end {interval} at no less {metric}: {name}."
        case "slower":
            return "", f"No less {metric}, but slower: {name}, {speed_up.factor:.2f}× as fast."
        case "no difference":
            return "", f"No less {metric} in as much time, within the uncertainty: {name}."
        case "worthless":
            return "", f"No speed-up is claimed: the {metric} of {name} is near that of a constant answer."
        case _:
            return "", f"No speed-up is claimed: the timing of {name} or of {comparison.baseline} is unsteady."
