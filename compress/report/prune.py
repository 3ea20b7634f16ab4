"""What `compress prune` prints, and the rows and remarks that its report has too."""

from rich.console import Console

from compress.artefacts.results import Goal, PruneResult, PruningChoice, SensitivityResult, SparsityChoice
from compress.pruning.sensitivity import DENSE
from compress.report.terminal import percent, stdout_console
from compress.report.text import change_remarks, change_rows, print_lines, print_rows

_GROUPS = ("pruning group", "channels", "removed")
_LAYERS = ("layer", "", "set to zero")


def print_pruned(result: PruneResult, console: Console | None = None) -> None:
    """Both networks side by side, and what was removed of each pruning group."""
    console = console or stdout_console()
    print_lines(console, [f"Pruned {result.network} → {result.run.folder}"], "bold")
    if result.goal:
        print_lines(console, [goal_text(result.goal)], "bold" if result.goal.met else "bold red")
    print_rows(console, *network_rows(result))
    print_lines(console, remarks(result))
    print_rows(console, *removed_rows(result), "report.md")


def network_rows(result: PruneResult) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: the given network, ours, and another pruner's where one was requested and gave any."""
    head = ("", "given", "pruned", "pruned/given")
    rows = change_rows(result.given, result.pruned, result.speed_up)
    other = result.torch_pruning
    if other is None or other.network is None:
        return head, list(rows)
    theirs = {name: cells for name, _, *cells in change_rows(result.given, other.network, other.speed_up)}
    added = [theirs.get(row[0], ("–", "–")) for row in rows]
    return (*head, "torch-pruning", "torch-pruning/given"), [
        (*row, *more) for row, more in zip(rows, added, strict=True)
    ]


def goal_text(goal: Goal) -> str:
    """What was requested, what was reached, and whether that is the goal."""
    form = "{:.3f} ms a pass" if goal.of == "ms" else "{:.1%} of the " + goal.of
    requested, reached = form.format(goal.requested), form.format(goal.reached)
    doubt = f" (± {100 * goal.uncertainty:.1f} %)" if goal.uncertainty else ""
    verdict = {True: "Goal met", False: "GOAL MISSED", None: "GOAL NOT SHOWN TO BE MET, the timing is unsteady"}
    return f"{verdict[goal.met]}: {requested} requested, {reached}{doubt} reached."


def remarks(result: PruneResult) -> list[str]:
    """What must be known beside the figures."""
    found = []
    if result.given.score is None:
        found.append("No trained weights, or no data to judge them by: nothing was fine-tuned, no accuracy is claimed.")
    for step, choice in enumerate(result.choices, 1):
        search = choice.search
        if search:
            model = (
                "" if search.predicted_share is None else f"; the layers' model said {percent(search.predicted_share)}"
            )
            found.append(
                f"Step {step}, as it was chosen: {percent(search.goal)} of the {search.of} should stay, "
                f"{percent(search.share)} did, after {search.tries} tries{model}."
            )
    found += change_remarks(result.given, result.pruned, result.speed_up)
    exported = [result.given, result.pruned]
    if other := result.torch_pruning:
        if other.network is None:
            found.append(f"{other.pruner} gives no network to compare with: {other.failure}")
        else:
            exported.append(other.network)
            theirs = change_remarks(result.given, other.network, other.speed_up)
            found += [f"{other.pruner}: {line}" for line in theirs if line not in found]
    parity = max(export.parity for one in exported for export in one.exports)
    found.append(f"Exports answer like torch within a relative error of {parity:.1e}.")
    return found


def removed_rows(result: PruneResult) -> tuple[tuple[str, str, str], list[tuple[str, str, str]]]:
    """Head and rows: pruning group, its channels in the given network, the share removed in all steps together.

    Or layer, and the share of its weights that is zero.
    """
    first = result.choices[0]
    if isinstance(first, SparsityChoice):
        return _LAYERS, [(name, "weights", f"{ratio:.0%}") for name, ratio in first.ratios.items()]
    stays = dict.fromkeys(first.groups, 1.0)
    for choice in result.choices:
        assert isinstance(choice, PruningChoice)
        for name, of in choice.groups.items():
            stays[name] = stays.get(name, 1.0) * (1 - of.removed)
    return _GROUPS, [
        (name, str(of.channels), f"{1 - stays[name]:.0%}" if stays[name] < 1 else "–")
        for name, of in first.groups.items()
    ]


# --- Sensitivity -----------------------------------------------------------------------------------------------------


def print_analysed(result: SensitivityResult, console: Console | None = None) -> None:
    """One row per functional block and pruning group: the score at every ratio."""
    console = console or stdout_console()
    print_lines(console, [f"Sensitivity of {result.network}, no fine-tuning → {result.run.folder}"], "bold")
    print_rows(console, *sensitivity_rows(result), "report.md")


def sensitivity_rows(result: SensitivityResult) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: blocks first, then pruning groups, each by what it loses at its highest ratio."""
    dense = dense_score(result)
    scores: dict[str, dict[float, float]] = {}
    for point in result.points:
        if point.target != DENSE:
            scores.setdefault(point.target, {})[point.ratio] = point.score
    ratios = sorted({ratio for of_target in scores.values() for ratio in of_target})
    order = sorted(scores, key=lambda name: (name not in result.blocks, scores[name][max(scores[name])]))
    head = ("pruned alone", f"{result.metric} dense", *(f"{ratio:.0%}" for ratio in ratios))
    rows = [
        (name, f"{dense:.3f}", *(f"{scores[name][r]:.3f}" if r in scores[name] else "–" for r in ratios))
        for name in order
    ]
    return head, rows


def dense_score(result: SensitivityResult) -> float:
    """Of the network as it is."""
    return next(point.score for point in result.points if point.target == DENSE)
