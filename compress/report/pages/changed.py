"""The reports of a pruning, a sensitivity analysis and a rewriting: a given network beside a changed one."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.artefacts.results import (
    NetworkResult,
    PruneResult,
    PruningChoice,
    RewriteResult,
    RunRecord,
    SensitivityResult,
)
from compress.measure.comparison import SpeedUp
from compress.pruning.sensitivity import DENSE
from compress.report.figures import Axis, Figure, Mark, Panel, Series
from compress.report.pages.networks import (
    Row,
    called,
    candidate_of,
    card_of,
    commands_for,
    detail_table,
    pictures_section,
    row_of,
    trade_off,
)
from compress.report.pages.published import NOTE, published_points
from compress.report.pages.trust import run_section, trust_section
from compress.report.parts import (
    Card,
    Cards,
    Cell,
    Chart,
    Lines,
    Page,
    Part,
    Recommendation,
    Section,
    Table,
    Text,
)
from compress.report.prune import dense_score, goal_text, network_rows, remarks, removed_rows, sensitivity_rows
from compress.report.rewrite import CHOICES, EXPLAINED, NETWORKS, choice_rows
from compress.report.rewrite import remarks as rewrite_remarks
from compress.report.terminal import percent
from compress.report.text import change_rows, score_change_text, speed_up_text

_CURVES = 6  # in one chart, those of most loss: more cannot be told apart
_SHAPES = ("circle", "diamond", "square", "triangle", "circle", "diamond")


# --- compress prune --------------------------------------------------------------------------------------------------


def prune_page(result: PruneResult, folder: Path) -> tuple[Page, list[Row]]:
    """The page and the lines of networks.csv: the given network, ours, and another pruner's."""
    other = result.torch_pruning
    networks = [result.given, result.pruned, *([other.network] if other and other.network else [])]
    head, rows = network_rows(result)
    sections = [
        Section("Side by side", (_side_by_side(head, rows), *detail_table(networks))),
        Section("What to know beside the figures", (Lines(tuple(remarks(result))),)),
        pictures_section(result.given, result.pruned, folder),
        Section("What was removed", tuple(_removed(result))),
        Section("The networks", (Cards(tuple(_pair(result.given, result.pruned, folder, result.run))),)),
        trust_section(networks, result.run, _how(result.given)),
        run_section(result.run),
    ]
    goal = (goal_text(result.goal),) if result.goal else ()
    advice = _advice(result.given, result.pruned, result.speed_up, folder, result.run, goal)
    if result.goal and result.goal.met is not True and advice.sure == "yes":
        advice = Recommendation(advice.sentence, "in part", advice.reasons, advice.commands)
    return _page("prune", f"{called(result.network)}, pruned", result.input_hw, advice, networks, sections, result.run)


def _removed(result: PruneResult) -> list[Part]:
    """Ratios per group or layer with a bar, and what keeps all its channels."""
    head, rows = removed_rows(result)
    parts: list[Part] = []
    if rows:
        table = []
        for name, of, removed in rows:
            share = float(removed.rstrip(" %")) / 100 if removed[0].isdigit() else 0.0
            table.append((name, of, Cell(removed, value=share, bar=share or None)))
        about = "Pruning groups" if isinstance(result.choices[0], PruningChoice) else "Layers"
        words = () if isinstance(result.choices[0], PruningChoice) else (1,)
        parts.append(Table(f"{about} and what was removed of each", head, tuple(table), words))
    untouched = {name: why for choice in result.choices for name, why in choice.untouched.items()}
    if untouched:
        parts.append(Text("What could not be removed, and why:"))
        parts.append(Table("What could not be removed", (head[0], "why"), tuple(untouched.items()), (1,)))
    return parts


# --- compress prune --analyse ----------------------------------------------------------------------------------------


def sensitivity_page(result: SensitivityResult, folder: Path) -> tuple[Page, list[Row]]:
    """The page; it has no networks."""
    head, rows = sensitivity_rows(result)
    cells: tuple[tuple[Cell | str, ...], ...] = tuple(
        (row[0], *(Cell(text, value=float(text) if text != "–" else None) for text in row[1:])) for row in rows
    )
    parts: list[Part] = [Chart(sensitivity_figure(result)), Table("Score at each ratio", head, cells)]
    sections = [Section("Each pruned alone, no fine-tuning", tuple(parts))]
    if result.untouched:
        kept = Table("What keeps all its channels", ("pruning group", "why"), tuple(result.untouched.items()), (1,))
        sections.append(Section("What cannot be pruned", (kept,)))
    worst = rows[0][0] if rows else "nothing"
    best = rows[-1][0] if rows else "nothing"
    sentence = (
        f"Prune {best} first and {worst} last: of all that was pruned alone, without fine-tuning, they lose least and "
        "most."
    )
    reasons = (f"{result.metric} of the network as it is: {dense_score(result):.3f}.",)
    advice = Recommendation(sentence, "in part", reasons)
    sections.append(run_section(result.run))
    title = f"Sensitivity of {called(result.network)}"
    return Page("compress prune --analyse", title, {}, advice, (), tuple(sections)), []


def sensitivity_figure(result: SensitivityResult) -> Figure:
    """The curves of the blocks, or without any of the groups, that lose most."""
    _, rows = sensitivity_rows(result)
    of_blocks = [row[0] for row in rows if row[0] in result.blocks]
    shown = (of_blocks or [row[0] for row in rows])[:_CURVES]
    dense = dense_score(result)
    series = []
    for colour, name in enumerate(shown):
        points = sorted((one.share, one.score) for one in result.points if one.target == name != DENSE)
        marks = tuple(Mark(x, y) for x, y in [(0.0, dense), *points])
        series.append(Series(name, marks, colour, _SHAPES[colour], line="line"))  # type: ignore[arg-type]
    panel = Panel(Axis(f"{result.metric}, no fine-tuning"), tuple(series))
    about = f"{result.metric} over the share of channels removed, one line for each of the {len(shown)} that lose most"
    x = Axis("share of its channels removed", "percent")
    return Figure(f"Sensitivity of {called(result.network)}", about, x, (panel,), 380, "sensitivity.png")


# --- compress rewrite ------------------------------------------------------------------------------------------------


def rewrite_page(result: RewriteResult, folder: Path) -> tuple[Page, list[Row]]:
    """The page and the lines of networks.csv; without any network where no replacement pays."""
    networks = [one for one in (result.given, result.rewritten) if one]
    sections = []
    if result.given and result.rewritten:
        rows = change_rows(result.given, result.rewritten, result.speed_up)
        sections.append(Section("Side by side", (_side_by_side(NETWORKS, rows), *detail_table(networks))))
    said = tuple(rewrite_remarks(result))
    if said:
        sections.append(Section("What to know beside the figures", (Lines(said),)))
    if result.choices:
        sections.append(Section("Site by site", tuple(_sites(result))))
    if result.given and result.rewritten:
        cards = _pair(result.given, result.rewritten, folder, result.run)
        sections.append(Section("The networks", (Cards(tuple(cards)),)))
        sections.append(pictures_section(result.given, result.rewritten, folder))
    sections += [trust_section(networks, result.run, _how(result.given)), run_section(result.run)]
    if result.given and result.rewritten:
        advice = _advice(result.given, result.rewritten, result.speed_up, folder, result.run)
    else:
        advice = Recommendation("Keep the network as it is: no replacement pays on the target.", "yes")
    return _page(
        "rewrite", f"{called(result.network)}, rewritten", result.input_hw, advice, networks, sections, result.run
    )


def _sites(result: RewriteResult) -> list[Part]:
    """Gain and loss of every choice, and why it was made or not."""
    assert result.decision
    taken = set(result.decision.taken)
    parts: list[Part] = []
    series = []
    for name, colour, shape, inside in (("taken", 2, "circle", True), ("refused", 1, "diamond", False)):
        marks = tuple(
            Mark(one.gain, -one.loss, one.name, labelled=number in taken)
            for number, one in enumerate(result.choices)
            if one.gain is not None and one.loss is not None and (number in taken) is inside
        )
        if marks:
            series.append(Series(name, marks, colour, shape))  # type: ignore[arg-type]
    if series:
        panel = Panel(Axis("change of the score, before fine-tuning"), tuple(series))
        x = Axis("share of the time saved", "percent")
        about = "Change of the score over the share of the time saved, one mark per choice"
        parts.append(Chart(Figure("Gain and loss of each choice", about, x, (panel,), 320)))
    rows = tuple(
        tuple(Cell(text, tone="good" if text == "taken" else "") for text in row) for row in choice_rows(result)
    )
    parts.append(Table("Choices: taken ones first", CHOICES, rows, (1, len(CHOICES) - 1)))
    parts.append(Text(EXPLAINED, "note"))
    return parts


# --- Both ------------------------------------------------------------------------------------------------------------


def _page(
    command: str,
    title: str,
    input_hw: tuple[int, int],
    advice: Recommendation,
    networks: Sequence[NetworkResult],
    sections: Sequence[Section],
    run: RunRecord,
) -> tuple[Page, list[Row]]:
    target = run.targets[0] if run.targets else None
    rows = [row_of(one, target) for one in networks]
    listed = [candidate_of(one, row, i) for i, (one, row) in enumerate(zip(networks, rows, strict=True))]
    score = next((one.score for one in networks if one.score), None)
    published = (
        published_points(run, score.data, score.metric, score.pictures, networks[0].architecture) if score else ()
    )
    chart = trade_off(listed, (), run.targets, f"{title}: score against cost", published)
    facts = {"Input": "×".join(map(str, input_hw)), "Target": "; ".join(map(str, run.targets)) or "–"}
    if score:
        facts["Data"] = f"{score.pictures:,} {score.data} pictures"
    note = (Text(NOTE, "note"),) if published else ()
    lead: tuple[Part, ...] = () if chart is None else (chart, *note)
    kept = tuple(one for one in sections if one.parts)
    return Page(f"compress {command}", title, facts, advice, lead, kept), rows


def _side_by_side(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    cells: tuple[tuple[Cell | str, ...], ...] = tuple((row[0], *map(_two_lines, row[1:])) for row in rows)
    return Table("The networks side by side", tuple(head), cells)


def _two_lines(text: str) -> Cell:
    """`0.500 ± 0.010` and `0.600, 1.67x as fast`: the figure, and below it what is said of it."""
    figure, comma, said = text.partition(", ")
    figure, sign, error = figure.partition(" ± ")
    return Cell(figure, f"± {error}" if sign else said if comma else "")


def _pair(given: NetworkResult, changed: NetworkResult, folder: Path, run: RunRecord) -> list[Card]:
    return [card_of(given, 0, folder, run), card_of(changed, 1, folder, run, given)]


def _how(given: NetworkResult | None) -> Mapping[str, str]:
    score = given.score if given else None
    if score is None:
        return {"Score": "not measured: there are no trained weights, or no data"}
    return {
        score.metric: f"on {score.pictures:,} {score.data} validation pictures; ± one standard error of the sample",
        "MACs": "counted on the network; a MAC is one multiply-add, FLOPs of papers may be twice as many",
    }


def _advice(
    given: NetworkResult,
    changed: NetworkResult,
    speed_up: Mapping[str, SpeedUp],
    folder: Path,
    run: RunRecord,
    reasons: tuple[str, ...] = (),
) -> Recommendation:
    """Take the changed network where it is faster on the target that decides, and its score is worth something."""
    name = changed.role
    target, up = next(iter(speed_up.items()), ("", None))
    cost = score_change_text(given.score, changed.score)
    metric = changed.score.metric if changed.score else "score"
    known = given.score is not None and changed.score is not None
    change = f"{metric} changes by {cost}" if cost[0] in "+-" else f"{metric}: {cost}"
    at_cost = change if known else "what it costs in accuracy is not known"
    others = [f"On {other}: {speed_up_text(found)}." for other, found in speed_up.items() if other != target]
    said = (*reasons, *others)
    commands = commands_for(changed, folder, run)
    if up is None:
        macs = changed.macs / given.macs if given.macs else 1.0
        sentence = f"The {name} network keeps {percent(macs)} of the multiply-adds; it was not timed, and {at_cost}."
        return Recommendation(sentence, "no", said, commands)
    if up.verdict == "faster":
        predicted = "" if up.provenance == "measured" else ", predicted and not measured"
        sentence = (
            f"Take the {name} network: {up.factor:.2f}× as fast on {target}{predicted} (95 % interval {up.low:.2f}–"
            f"{up.high:.2f}); {at_cost}."
        )
        sure = "yes" if known and up.provenance == "measured" else "in part"
        return Recommendation(sentence, sure, said, commands)  # type: ignore[arg-type]
    why = {
        "slower": f"the {name} one is slower on {target}: {speed_up_text(up)}",
        "no difference": f"the {name} one is no faster on {target}: {speed_up_text(up)}",
        "unsteady": f"the timing on {target} is too unsteady to say that the {name} one is faster",
        "worthless": f"the {name} one scores like a constant answer",
    }[up.verdict]
    return Recommendation(f"Keep the given network: {why}; {at_cost}.", "no", said, commands)
