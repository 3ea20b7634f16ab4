"""The report of a search: which network to take, what the search found on the way, and how far to trust it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress.artefacts.results import Comparison, NetworkResult, SearchResult, Trial
from compress.nas.space import INPUT_SIZE, KEEP, size_of
from compress.report.figures import Axis, Figure, Mark, Panel, Parallel, Series
from compress.report.pages.networks import (
    Row,
    candidate_of,
    card_of,
    commands_for,
    detail_table,
    latency_cell,
    ms_text,
    pictures_section,
    plain,
    row_of,
    score_cell,
    score_text,
    trade_off,
)
from compress.report.pages.published import NOTE, published_points
from compress.report.pages.trust import run_section, trust_section
from compress.report.parts import (
    Cards,
    Cell,
    Chart,
    Fold,
    Page,
    Part,
    Recommendation,
    Section,
    Table,
    Text,
    Threads,
)
from compress.report.search import (
    gain_text,
    objectives_text,
    procedure_of,
    proxy_text,
    searched,
    speed_text,
    table_doubts,
    value_of,
    waited_ms,
)
from compress.report.terminal import percent, short
from compress.report.text import score_change_text


def search_page(result: SearchResult, folder: Path) -> tuple[Page, list[Row]]:
    """The page and the lines of networks.csv: networks, then trials. folder: of the run, which may have moved."""
    rows = rows_of(result)
    networks, count = result.networks, len(result.networks)
    data, metric = result.data, result.data.metric
    title = f"{searched(result)}: {metric} against latency"
    listed = [candidate_of(one, row, i) for i, (one, row) in enumerate(zip(networks, rows, strict=False))]
    drawn = [row for row, trial in zip(rows[count:], result.trials, strict=True) if not trial.stopped]
    fields = networks[0].architecture if networks else {}
    published = published_points(result.run, data.kind, metric, data.val, fields)
    chart = trade_off(listed, drawn, result.run.targets, title, published)
    lead: list[Part] = [] if chart is None else [chart, Text(_chart_note(result), "note")]
    if published and chart:
        lead.append(Text(NOTE, "note"))
    advice = recommendation(result, folder)
    sections = [
        Section("Finalists and baselines", (*_verdicts(result), *_networks_table(result))),
        Section("What they are made of", (Cards(tuple(_cards(result, folder))),)),
        *_pictures(result, advice, folder),
        _search_section(result),
        trust_section(networks, result.run, _how(result), (*table_doubts(result), *result.caveats)),
        run_section(result.run),
    ]
    people = "" if data.people is None else f", {data.people:,} people"
    page = Page(
        kicker="compress search",
        title=title,
        facts={
            "Target": str(result.target) if result.run.targets else "–",
            "Data": f"{data.kind}: {data.train:,} train, {data.search:,} search, {data.val:,} validation pictures"
            + people,
            "Searched": f"{len(result.trials):,} candidates of a space of {big(result.space.size)}" + _stopped(result),
            "To be small in": objectives_text(result),
            "Budget": budget_text(result),
        },
        recommendation=advice,
        lead=tuple(lead),
        sections=tuple(one for one in sections if one.parts),
    )
    return page, rows


def _stopped(result: SearchResult) -> str:
    count = len(result.trials) - len(result.whole_trials)
    return f", {count:,} of them stopped early" if count else ""


def rows_of(result: SearchResult) -> list[Row]:
    """Networks, then trials."""
    found = []
    for network in result.networks:
        row = row_of(network, result.target)
        trial = result.trial_of(network)
        known = replace(row, search_score=value_of(trial.score), memory_bytes=trial.cost.memory_bytes)
        found.append(replace(known, on_front=network.name in result.best))
    return found + [_trial_row(result, trial) for trial in result.trials]


def _trial_row(result: SearchResult, trial: Trial) -> Row:
    """Its time is predicted, that of decoding taken from the candidate of its input size that scored best."""
    first = next(iter(result.networks), None)
    passes = first.evaluations[0].passes if first else 1
    predicted_ms = passes * trial.cost.predicted_ms
    one_size = next(iter(result.decoding), "")  # where the size is no choice
    decoding = result.decoding.get(trial.pick.get(INPUT_SIZE, one_size))
    decode_ms = decoding.ms if decoding else None
    return Row(
        run="",
        role="trial",
        name=f"trial {trial.number}",
        provenance=trial.score.provenance,
        metric=trial.score.metric,
        score=trial.score.value,
        standard_error=trial.score.standard_error,
        search_score=None,
        target=result.target.name,
        predicted_ms=predicted_ms,
        measured_ms=None,
        low_ms=None,
        high_ms=None,
        reliable=None,
        decode_ms=decode_ms,
        end_to_end_ms=None if decode_ms is None else predicted_ms + decode_ms,
        end_to_end_uncertainty=None,
        params=trial.cost.params,
        macs=trial.cost.macs,
        size_bytes=None,
        memory_bytes=trial.cost.memory_bytes,
        on_front=bool(trial.on_front),
    )


# --- What to do ------------------------------------------------------------------------------------------------------


def recommendation(result: SearchResult, folder: Path) -> Recommendation:
    """The network to take: the fastest that is no less accurate than a baseline, else the most accurate that is no
    slower; only what chance and unsteady timing do not explain counts. Else the best baseline within the budget, or,
    where all are beyond it, the most accurate finalist."""
    by_name = {one.name: one for one in result.networks}
    reasons = [f"Budget of the search: {budget_text(result)}."] if budget_text(result) != "none" else []
    if not result.networks:
        return Recommendation(result.no_finalist or "No network was finished.", "no")
    faster = [
        (one.at_its_accuracy.speed_up.factor, one)
        for one in result.comparisons
        if one.at_its_accuracy and one.at_its_accuracy.speed_up.verdict == "faster"
    ]
    gains = [
        (gain, one)
        for one in result.comparisons
        if gain_text(one, result.data.metric)[0]
        and one.at_its_latency
        and (gain := _difference(by_name, one.at_its_latency.network, one.baseline))
    ]
    if faster:
        _, comparison = max(faster, key=lambda one: one[0])
        side = comparison.at_its_accuracy
        assert side
        network, baseline, up = by_name[side.network], by_name[comparison.baseline], side.speed_up
        predicted = "" if up.provenance == "measured" else ", predicted and not measured,"
        sentence = (
            f"Take {network.name}: {up.factor:.2f}× as fast end to end as {baseline.name}{predicted} (95 % interval "
            f"{up.low:.2f}–{up.high:.2f}) at no less {_metric(network)} ({_value(network)} against "
            f"{score_text(value_of(baseline.score))}),"
            f"{_at(result, network)}."
        )
        sure = "yes" if up.provenance == "measured" else "in part"
        reasons.append(f"{_metric(network)} changes by {score_change_text(baseline.score, network.score)}.")
        commands = commands_for(network, folder, result.run)
        return Recommendation(sentence, sure, tuple(reasons), commands, network=network.name)  # type: ignore[arg-type]
    if gains:
        _, comparison = max(gains, key=lambda one: one[0])
        assert comparison.at_its_latency
        network, baseline = by_name[comparison.at_its_latency.network], by_name[comparison.baseline]
        head, rest = gain_text(comparison, result.data.metric)
        sentence = f"Take {network.name}: {head} over {baseline.name}{_at(result, network)}, {rest}"
        commands = commands_for(network, folder, result.run)
        return Recommendation(sentence, "yes", tuple(reasons), commands, network=network.name)
    baselines = [one for one in result.networks if one.role == "baseline"]
    within = [one for one in baselines if one.name not in result.over_budget]
    finalists = [one for one in result.networks if one.role == "finalist"]
    if baselines and not within and finalists:
        network, beyond = (max(of, key=lambda one: value_of(one.score) or 0.0) for of in (finalists, baselines))
        sentence = (
            f"Take {network.name}, {_own(network)}{_at(result, network)}: the most accurate finalist within the "
            f"budget, which {beyond.name}, {_own(beyond)}{_at(result, beyond)}, is beyond."
        )
        commands = commands_for(network, folder, result.run)
        return Recommendation(sentence, "in part", tuple(reasons), commands, network=network.name)
    best = max(within or baselines, key=lambda one: value_of(one.score) or 0.0, default=None)
    if best is None:
        front = result.front or result.networks
        best = max(front, key=lambda one: value_of(one.score) or 0.0)
        sentence = (
            f"{best.name} scores best, {_own(best)}{_at(result, best)}; no baseline was given to compare it with."
        )
        return Recommendation(sentence, "no", tuple(reasons), commands_for(best, folder, result.run))
    if result.no_finalist:
        sentence = f"Keep {best.name}: {result.no_finalist}."
    else:
        sentence = (
            f"Keep {best.name}, {_own(best)}{_at(result, best)}: no finalist is faster at no less {_metric(best)}, or "
            "scores more in no more time, by more than chance and unsteady timing explain."
        )
    return Recommendation(sentence, "no", tuple(reasons), commands_for(best, folder, result.run))


def _metric(network: NetworkResult) -> str:
    return network.score.metric if network.score else "score"


def _difference(by_name: Mapping[str, NetworkResult], name: str, baseline: str) -> float:
    return (value_of(by_name[name].score) or 0.0) - (value_of(by_name[baseline].score) or 0.0)


def _own(network: NetworkResult) -> str:
    """`AP 0.551 ± 0.011`."""
    return "without a score" if network.score is None else f"{_metric(network)} {_value(network)}"


def _value(network: NetworkResult) -> str:
    """`0.551 ± 0.011`."""
    error = network.score.standard_error if network.score else None
    return score_text(value_of(network.score)) + ("" if error is None else f" ± {error:.3f}")


def _at(result: SearchResult, network: NetworkResult) -> str:
    """` at 2.11 ms end to end on onnxruntime`."""
    ms = waited_ms(result, network)
    whole = "end to end" if network.evaluations and network.evaluations[0].end_to_end else "for the network alone"
    return "" if ms is None else f" at {ms_text(ms)} ms {whole} on {_target_name(result)}"


def _target_name(result: SearchResult) -> str:
    """`onnxruntime, 1 thread`; the device stands above."""
    target = result.target
    return f"{target.name}, {target.threads} thread{'s' if target.threads > 1 else ''}"


def budget_text(result: SearchResult) -> str:
    """The recipe's limits: `latency 120%, macs 300M`; a share is of the costliest baseline."""
    budget = (result.run.recipe.get("search") or {}).get("budget") or {}
    found = []
    for of, limit in budget.items():
        if isinstance(limit, Mapping):
            found += [f"{of} {value}" + (f" on {target}" if target else "") for target, value in limit.items()]
        elif limit is not None:
            found.append(f"{of} {limit}")
    return ", ".join(found) or "none"


def _verdicts(result: SearchResult) -> list[Part]:
    """What finalists are against every baseline, in sentences, and what failed."""
    found: list[Part] = [Text(line, "bad") for line in (result.no_finalist, *result.failed_exports) if line]
    if not result.comparisons:
        return [*found, Text("No hand-made network was given, so there is nothing to compare with.")]
    rows: list[tuple[Cell | str, ...]] = [
        (
            one.baseline,
            *(
                Cell(" ".join(filter(None, said)), tone="strong" if said[0] else "")
                for said in _said(one, result.data.metric)
            ),
        )
        for one in result.comparisons
    ]
    head = ("against", "at no more time", f"at no less {result.data.metric}")
    return [*found, Table("Finalists against each baseline", head, tuple(rows), (1, 2))]


def _said(comparison: Comparison, metric: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return gain_text(comparison, metric), speed_text(comparison, metric)


# --- Networks --------------------------------------------------------------------------------------------------------


def _networks_table(result: SearchResult) -> list[Part]:
    if not result.networks:
        return []
    metric = result.data.metric
    others = [one.procedure for one in result.networks[0].evaluations[1:]]
    targets = result.run.targets
    several = len({one.input_hw for one in result.networks}) > 1
    head = (
        "network",
        f"{metric}\n{_training(result)}",
        f"{metric}\n{search_score_name(result)}",
        "end to end ms",
        "decoding ms",
        *(f"{one.name} ms\nnetwork alone" for one in targets),
        *(f"{metric}\n{name}" for name in others),
        *(f"end to end ms\n{name}" for name in others),
        *(("input",) if several else ()),
        "parameters",
        "MACs",
    )
    rows = []
    for number_, one in enumerate(result.networks):
        first = one.evaluations[0]
        role = f"{one.role} ●" if one.name in result.best else one.role
        search_score = value_of(result.trial_of(one).score)
        cells: list[Cell | str] = [
            Cell(one.name, role, link=f"network-{number_}"),
            score_cell(first.score),
            Cell(score_text(search_score), value=search_score),
            latency_cell(first.end_to_end, 1),
            latency_cell(first.decoding, 1),
            *(latency_cell(one.latency.get(target.name), first.passes) for target in targets),
            *(score_cell(other.score) for other in one.evaluations[1:]),
            *(latency_cell(other.end_to_end, 1) for other in one.evaluations[1:]),
            *(("x".join(map(str, one.input_hw or ())),) if several else ()),
            Cell(short(one.params), value=one.params),
            Cell(short(one.macs), value=one.macs),
        ]
        rows.append((waited_ms(result, one) or math.inf, tuple(cells)))
    note = (
        "● beaten by no other measured network in all objectives. ± one standard error of the sample. Scores and "
        f"milliseconds are of {procedure_of(result)} where nothing else is said; end to end is the network and the "
        "decoding of its maps."
    )
    table = Table("Scores and times", head, tuple(cells for _, cells in sorted(rows, key=lambda row: row[0])))
    detail = detail_table(result.networks)
    return [table, Text(note, "note"), *([Fold("Scores in detail", tuple(detail))] if detail else [])]


def _pictures(result: SearchResult, advice: Recommendation, folder: Path) -> list[Section]:
    """Before and after: the best baseline, and the recommended network, or the finalist that scores best."""
    finalists = [one for one in result.networks if one.role == "finalist"]
    if not finalists:
        return []
    baselines = [one for one in result.networks if one.role == "baseline"]
    before = max(baselines, key=lambda one: value_of(one.score) or 0.0, default=None)
    best = max(finalists, key=lambda one: value_of(one.score) or 0.0)
    after = next((one for one in finalists if one.name == advice.network), best)
    return [pictures_section(before, after, folder)]


def _training(result: SearchResult) -> str:
    """How the networks' weights came about, in words."""
    found = sorted({one.score.provenance for one in result.networks if one.score})
    return ", ".join(found) or "not scored"


def _cards(result: SearchResult, folder: Path) -> list[Any]:
    """One per network; a finalist beside the baseline it is nearest to in time."""
    baselines = [one for one in result.networks if one.role == "baseline"]
    found = []
    for number_, one in enumerate(result.networks):
        own = waited_ms(result, one) or 0.0
        near = min(baselines, key=lambda other: abs((waited_ms(result, other) or 0.0) - own), default=None)
        trial = result.trial_of(one)
        choices = trial.pick
        edits = [
            f"{path.removeprefix('edits.')}: " + (f"{percent(v)} of the channels" if isinstance(v, float) else str(v))
            for path, v in choices.items()
            if path.startswith("edits.") and v not in (KEEP, 1.0)
        ]
        other = None if one.role == "baseline" else near
        found.append(card_of(one, number_, folder, result.run, other, edits, trial.cost.memory_bytes))
    return found


# --- The search itself -----------------------------------------------------------------------------------------------


def search_score_name(result: SearchResult) -> str:
    """Of the score that trials are compared by."""
    weights = "own" if result.trained_alone else "given" if result.start else "supernet"
    return f"in the search, {weights} weights"


def _chart_note(result: SearchResult) -> str:
    times = [
        f"{ms_text(one.ms)} ms at {size}"
        for size, one in sorted(result.decoding.items(), key=lambda item: size_of(item[0]))
    ]
    decoding = (
        f"with one decoding time for all of an input size ({', '.join(times)}), of the candidate that scored best"
        if times
        else "without decoding"
    )
    return (
        "Above: networks after a short training, on validation pictures; bars are 95 % intervals of the latency and "
        "one standard error of the score; hollow is predicted, (?) an unsteady timing. Below, on a scale of its own: "
        f"{len(result.whole_trials):,} trials at their predicted latency, {decoding}, with the score they were ordered "
        "by, which is not the score they would reach."
    )


def _search_section(result: SearchResult) -> Section:
    scored = [trial for trial in result.whole_trials if trial.score.value is not None]
    parts: list[Part] = []
    if result.losses:
        marks = tuple(Mark(epoch, loss) for epoch, loss in enumerate(result.losses, 1) if math.isfinite(loss))
        panel = Panel(Axis("loss"), (Series("", marks, 0, "circle", line="line"),))
        figure = Figure("Loss of the supernet", "Loss of the supernet by epoch", Axis("epoch", "whole"), (panel,), 230)
        if not figure.empty:
            parts.append(Chart(figure))
    if len(scored) > 1:
        parts += [Chart(_hypervolume_figure(scored)), Text(_HYPERVOLUME, "note")]
    parts += _order_parts(result)
    if result.zero_cost:
        parts.append(Text(proxy_text(result.zero_cost)))
    importance = importance_of(scored, result.space.choices)
    if importance:
        rows = tuple(
            (path, Cell(percent(score), value=score, bar=score), Cell(percent(time), value=time, bar=time))
            for path, score, time in importance
        )
        parts.append(Table("Importance of choices", ("choice", "of the score", "of predicted latency"), rows))
        parts.append(Text(_IMPORTANCE, "note"))
        parts.append(Fold("Candidates and their choices", (Threads(_parallel(result)), Text(_THREADS, "note"))))
    if result.single_edits:
        edits = tuple(
            (
                one.path,
                plain(one.value),
                Cell(percent(1 - one.share), value=1 - one.share),
                Cell(f"{100 * one.error:.2f} %", value=one.error),
            )
            for one in result.single_edits
        )
        alone = Table("Edits made alone", ("choice", "value", "predicted time saved", "maps moved"), edits)
        parts.append(Fold(f"What {len(edits):,} edits do alone", (alone, Text(_ALONE, "note"))))
    if result.space.choices:
        space = tuple((path, plain(values)) for path, values in result.space.choices.items())
        title = f"The space: {len(space)} choices, {big(result.space.size)} candidates"
        parts.append(Fold(title, (Table("Choices of the space", ("choice", "values"), space, (1,)),)))
    if failed := result.failed_trials:
        causes = tuple((f"trial {one.number}", str(one.failure)) for one in failed)
        why = Table("Why trials failed", ("trial", "why"), causes, (1,))
        parts.append(Fold(f"{len(failed):,} failed trials, counted as 0", (why,)))
    if result.trials:
        parts.append(Fold(f"All {len(result.trials):,} trials", (_trials_table(result),)))
    return Section("The search", tuple(parts), "search")


_HYPERVOLUME = (
    "Hypervolume: the area of score times predicted latency that the trials so far dominate, over the box from no "
    "score at the slowest trial's latency to the best score at no latency. A curve that still rises at its end says "
    "that more trials may find more."
)
_IMPORTANCE = (
    "The share of the variance over all trials that one choice alone explains (between its values, over the whole). "
    "Trials are not drawn at random, so that shares need not add up to 100 %, and small ones mean nothing."
)
_ALONE = (
    "Each edit of the given network without the others, recalibrated and not tuned: the share of the predicted time "
    "that it saves, and the squared difference of the network's maps over their squared value. The first candidates "
    "were allocated by these."
)
_THREADS = "A line is a candidate, through the value of each choice; those on the front of the search stand out."


def hypervolumes(points: Sequence[tuple[float, float]]) -> list[float]:
    """After each point (milliseconds, score) the share of the box (slowest, best score) that all so far dominate."""
    slowest, best = max(ms for ms, _ in points), max(score for _, score in points)
    if slowest <= 0 or best <= 0:
        return [0.0] * len(points)
    found: list[float] = []
    front: list[tuple[float, float]] = []
    for point in points:
        if not any(ms <= point[0] and score >= point[1] for ms, score in front):
            front = sorted([one for one in front if one[0] < point[0] or one[1] > point[1]] + [point])
        ends = [*(ms for ms, _ in front[1:]), slowest]
        area = sum((end - ms) * score for (ms, score), end in zip(front, ends, strict=True))
        found.append(area / (slowest * best))
    return found


def _hypervolume_figure(trials: Sequence[Trial]) -> Figure:
    points = [(one.cost.predicted_ms, one.score.value or 0.0) for one in trials]
    marks = tuple(Mark(number_, area) for number_, area in enumerate(hypervolumes(points), 1))
    panel = Panel(Axis("hypervolume", "percent"), (Series("", marks, 2, "none", line="step"),))
    about = "Share of the trade-off that the trials so far dominate, over the number of trials"
    return Figure("Hypervolume over evaluations", about, Axis("evaluations", "whole"), (panel,), 240)


def importance_of(trials: Sequence[Trial], choices: Mapping[str, Sequence[Any]]) -> list[tuple[str, float, float]]:
    """Choice, share of the variance of score and of predicted latency between its values; the most important first."""
    found = []
    for path in choices:
        groups: dict[str, list[Trial]] = {}
        for one in trials:
            if path in one.pick:
                groups.setdefault(repr(one.pick[path]), []).append(one)
        if len(groups) < 2:
            continue
        scores = [[one.score.value or 0.0 for one in group] for group in groups.values()]
        times = [[one.cost.predicted_ms for one in group] for group in groups.values()]
        found.append((path, _between(scores), _between(times)))
    return sorted(found, key=lambda one: -one[1])


def _between(groups: Sequence[Sequence[float]]) -> float:
    """Variance of the groups' means, each weighted by its size, over the whole variance; 0 where there is none."""
    values = [value for group in groups for value in group]
    mean = sum(values) / len(values)
    whole = sum((value - mean) ** 2 for value in values)
    between = sum(len(group) * (sum(group) / len(group) - mean) ** 2 for group in groups)
    return between / whole if whole else 0.0


def order_agreement(scores: Sequence[tuple[float | None, float | None]]) -> tuple[int, int]:
    """Of scores in the search and on validation pictures, one pair per network: how many pairs of networks both order
    alike, and how many pairs both order at all."""
    known = [(one, other) for one, other in scores if one is not None and other is not None]
    signs = [(a[0] - b[0]) * (a[1] - b[1]) for i, a in enumerate(known) for b in known[i + 1 :]]
    return sum(sign > 0 for sign in signs), sum(sign != 0 for sign in signs)


def _order_parts(result: SearchResult) -> list[Part]:
    """Scores in the search beside the final ones."""
    marks: dict[str, list[Mark]] = {}
    pairs = []
    for one in result.networks:
        x, y = value_of(result.trial_of(one).score), value_of(one.score)
        pairs.append((x, y))
        if x is None or y is None:
            continue
        error = one.score.standard_error if one.score else None
        ends = (None, None) if error is None else (y - error, y + error)
        marks.setdefault(one.role, []).append(Mark(x, y, one.name, True, None, None, *ends))
    agreed, all_pairs = order_agreement(pairs)
    if not all_pairs:
        return []
    metric = result.data.metric
    looks = {"baseline": (1, "diamond")}
    series = []
    for role, listed in marks.items():
        colour, shape = looks.get(role, (0, "circle"))
        series.append(Series(role, tuple(listed), colour, shape))  # type: ignore[arg-type]
    panel = Panel(Axis(f"{metric}, validation"), tuple(series))
    about = f"Final {metric} over the {metric} in the search, one mark per network"
    x_axis = Axis(f"{metric}, {search_score_name(result)}")
    text = f"The score in the search orders {agreed} of {all_pairs} pairs of networks as their final {metric} does."
    return [Chart(Figure("Scores in the search and final ones", about, x_axis, (panel,), 300)), Text(text)]


def _parallel(result: SearchResult) -> Parallel:
    taken = {path: {repr(one.pick.get(path)) for one in result.trials} for path in result.space.choices}
    rows = [(path, values) for path, values in result.space.choices.items() if len(taken[path]) > 1]
    lines = []
    for trial in result.trials:
        numbers = [next((n for n, v in enumerate(values) if v == trial.pick.get(path)), 0) for path, values in rows]
        lines.append((tuple(numbers), bool(trial.on_front)))
    shown = tuple((path, tuple(plain(value) for value in values)) for path, values in rows)
    return Parallel("Candidates as lines through their choices", shown, tuple(lines))


def _trials_table(result: SearchResult) -> Table:
    rows = tuple(
        (
            Cell(f"trial {one.number}" + (" ●" if one.on_front else ""), value=one.number),
            Cell(score_text(one.score.value), value=one.score.value),
            Cell(ms_text(one.cost.predicted_ms), value=one.cost.predicted_ms),
            Cell(short(one.cost.params), value=one.cost.params),
            Cell(short(one.cost.macs), value=one.cost.macs),
            *([_epochs_cell(one)] if result.trained_alone else []),
        )
        for one in result.trials
    )
    epochs = ("epochs",) if result.trained_alone else ()
    head = ("trial", "score", "predicted ms\none pass", "parameters", "MACs", *epochs)
    return Table("Trials; ● on the front of score against predicted latency", head, rows)


def _epochs_cell(trial: Trial) -> Cell:
    """At how many epochs the score was taken."""
    if trial.training is None:
        return Cell("–")
    epochs = trial.training.epochs
    return Cell(f"{epochs}, stopped" if trial.stopped else str(epochs), value=epochs)


# --- How it came about -----------------------------------------------------------------------------------------------


def _how(result: SearchResult) -> dict[str, str]:
    """Each kind of figure, and how it was obtained."""
    metric, data = result.data.metric, result.data
    people = "" if data.people is None else f" with {data.people:,} people"
    found = {
        f"{metric}, validation": f"on {data.val:,} {data.kind} validation pictures{people}; weights: "
        + _training(result),
        f"{metric}, {search_score_name(result)}": f"on {data.search:,} search pictures, {_weights(result)}; orders "
        "candidates, is not what they reach",
        "Latency, predicted": _prediction_method(result),
        "Parameters, MACs": "counted on the network; a MAC is one multiply-add, FLOPs of papers may be twice as many",
    }
    for name, used in result.tables.items():
        shares = [
            share
            for one in result.trials
            if (latency := one.cost.latency.get(name)) and (share := latency.coverage) is not None
        ]
        if shares:
            found[f"Coverage of the table, {name}"] = coverage_text(shares)
        if used.error:
            found[f"Error of the prediction, {name}"] = (
                f"{percent(used.error.mean)} in the mean, {percent(used.error.worst)} at worst"
            )
    return found


def coverage_text(shares: Sequence[float]) -> str:
    """shares: of every trial's predicted time, what is of kernels that were timed."""
    if min(shares) >= 1:
        return "all kernels of all trials were timed"
    mean = sum(shares) / len(shares)
    return (
        f"{percent(mean)} of a trial's time in the mean, {percent(min(shares))} at least, is of kernels that were "
        "timed; the rest is estimated from kernels of neighbouring sizes"
    )


def _weights(result: SearchResult) -> str:
    """What the weights of trials are, in words."""
    if result.trained_alone:
        return "each trained alone, some stopped early"
    weights = "with the weights of the given network" if result.start else "with weights that all candidates share"
    edited = any(path.startswith("edits.") for path in result.space.choices)
    tuned = f", tuned on {result.tuning_samples:,} samples" if result.tuning_samples else ""
    return weights + (", carried over to what was edited" if edited else "") + tuned


def _prediction_method(result: SearchResult) -> str:
    used = result.tables.get(result.target.name) if result.run.targets else None
    if not used:
        return "each measured whole, for the engine does not tell the time of kernels"
    how, scale = f"the sum over the times of kernels, of which the table has {used.kernels:,}", used.scale
    if not scale:
        return how
    fit = f"fitted on {scale.networks:,} whole networks (error of the fit {percent(scale.error)})"
    return f"{how}, times {scale.factor:.3f}, {fit}"


def big(size: int) -> str:
    """1234 as '1,234', 3482851737 as '3.5×10⁹'."""
    if size < 10_000_000:
        return f"{size:,}"
    mantissa, power = f"{size:.1e}".split("e+")
    return f"{mantissa}×10{power.lstrip('0').translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
