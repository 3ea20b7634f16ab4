"""What `compress rewrite` prints, and the rows and remarks that its report has too."""

from collections.abc import Sequence

from rich.console import Console

from compress.artefacts.results import RewriteChoice, RewriteResult, RuleInfo
from compress.report.terminal import stdout_console
from compress.report.text import (
    change_remarks,
    change_rows,
    print_lines,
    print_rows,
    speed_up_text,
)

NETWORKS = ("", "given", "rewritten", "rewritten/given")
CHOICES = ("rule", "site", "sites", "MACs", "predicted ms", "saved ms", "gain", "output error", "score", "decision")
_SHORT = ("decision", "gain", "score", "rule", "site")  # of them, on a terminal
_NAMED = 3  # modules whose functions are no sites
EXPLAINED = (
    "predicted, saved: milliseconds saved with this choice alone, by the latency table, and measured beside the given "
    "network in one interleaved run; gain: the same as a share of the given network's time, and no more than predicted "
    "where the timing was unsteady. Output error: of the replaced modules on held-out pictures, with random, "
    "carried-over and reconstructed weights, over the variance of the modules' outputs; the mean of several sites. "
    "Score: change with this choice alone, before fine-tuning."
)


def print_rewritten(result: RewriteResult, console: Console | None = None) -> None:
    """Both networks side by side, then the choices."""
    console = console or stdout_console()
    print_lines(console, [f"Rewritten {result.network} → {result.run.folder}"], "bold")
    if result.given and result.rewritten:
        print_rows(console, NETWORKS, change_rows(result.given, result.rewritten, result.speed_up))
    print_lines(console, remarks(result))
    if result.choices:
        rows = [[row[CHOICES.index(name)] for name in _SHORT] for row in choice_rows(result)]
        print_rows(console, _SHORT, [["taken" if row[0] == "taken" else "no", *row[1:]] for row in rows], "report.md")


def print_rules(rules: Sequence[RuleInfo], console: Console | None = None) -> None:
    """Every rule: its name, what becomes what, and who says so."""
    console = console or stdout_console()
    for rule in rules:
        print_lines(console, [rule.rule], "bold")
        print_lines(console, [f"    {rule.does}"])
        print_lines(console, [f"    {rule.source}{'; exact' if rule.exact else ''}"], "dim")


def remarks(result: RewriteResult) -> list[str]:
    """What must be known beside the figures."""
    found = []
    given, rewritten, decision = result.given, result.rewritten, result.decision
    if given and rewritten:
        found = change_remarks(given, rewritten, result.speed_up)
    if result.depth:
        found.append(f"{result.depth.given} layers became {result.depth.rewritten}, from random weights.")
        if result.depth.edited:
            found.append("The given network's multiply-adds were kept, its edits (pruned, replaced) were not.")
        if given and given.score is None:
            found.append("No trained weights were given: the network is not trained, no accuracy is claimed.")
        return found
    siteless = [rule for rule in result.rules if all(choice.rule != rule for choice in result.choices)]
    if siteless or not result.choices:
        found.append(f"No module of the network is one that {' or '.join(siteless) or 'any rule'} replaces.")
    if result.choices and not rewritten:
        found.append("No replacement paid: the network stays as it is, and nothing was exported.")
    if any(choice.reliable is False for choice in result.choices):
        found.append(
            "(?) marks gains whose timing was unsteady, as beside other programs: no more than was predicted counts."
        )
    found += [
        f"{path} is no site: it shares its parameters with {other}, and would be untied."
        for path, other in result.tied.items()
    ]
    unread = list(result.unread.items())
    found += [f"Functions called in {path or 'the network'} are no sites: {why}." for path, why in unread[:_NAMED]]
    if len(unread) > _NAMED:
        found.append(f"Nor are those of {len(unread) - _NAMED} more modules, see results.json.")
    if given and given.score is None:
        found.append("No trained weights, or no data to judge them by: decided by time alone, no accuracy is claimed.")
    if decision and rewritten:
        alone = sum(result.choices[number].gain or 0.0 for number in decision.taken)
        faster = result.speed_up[result.target]
        claimed = faster.verdict in ("faster", "slower")
        together = f"{1 - 1 / faster.factor:.1%}" if claimed else speed_up_text(faster)
        found.append(
            f"Each alone, the accepted save {alone:.1%} of the time in all on {result.target}; together {together}."
        )
    if decision and decision.joint_loss is not None:
        loss, taken = decision.joint_loss, len(decision.taken)
        found.append(f"The {taken} accepted together lose {loss:.3f} of the score before fine-tuning.")
    if decision and decision.score_error is not None:
        found.append(
            f"Losses are of {decision.judged_on} pictures, on which the given network's score has a standard error of "
            f"{decision.score_error:.3f}: smaller ones may be chance."
        )
    return found


def choice_rows(result: RewriteResult) -> list[tuple[str, ...]]:
    """Choices in the order they were decided: taken ones first, then refused ones, each by time saved."""
    assert result.decision
    taken, refused = set(result.decision.taken), result.decision.refused

    def order(number: int) -> tuple[bool, float]:
        saved_ms = result.choices[number].saved_ms
        return number not in taken, 1e9 if saved_ms is None else -saved_ms

    return [
        _row(result.choices[number], "taken" if number in taken else refused[number])
        for number in sorted(range(len(result.choices)), key=order)
    ]


def _row(choice: RewriteChoice, decision: str) -> tuple[str, ...]:
    def shown(value: float | None, form: str) -> str:
        return "–" if value is None else format(value, form)

    errors = "–"
    if choice.errors:  # a replacement without weights has none
        of = list(choice.errors.values())
        sums = sum(one.random for one in of), sum(one.carried for one in of), sum(one.reconstructed for one in of)
        errors = " → ".join(f"{total / len(of):.3f}" for total in sums)
    unsteady = " (?)" if choice.reliable is False else ""
    return (
        choice.rule,
        choice.name + (f" (at {choice.places} places)" if choice.places > len(choice.at) else ""),
        str(choice.places),
        "–" if choice.macs is None else f"{choice.macs / 1e6:+.1f} M",
        shown(choice.predicted_saved_ms, "+.3f"),
        shown(choice.saved_ms, "+.3f") + unsteady,
        shown(choice.gain, ".1%") + unsteady,
        errors,
        "–" if choice.loss is None else f"{-choice.loss:+.3f}",
        decision,
    )
