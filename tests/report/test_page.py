import csv
import io
import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from compress.artefacts.results import Comparison, Faster, Gain, SearchResult, SingleEdit, TableUsed, document
from compress.measure.comparison import SpeedUp
from compress.report.figures import svg
from compress.report.page import COLUMNS, compare, html, markdown, report_of, table_text, write_report
from compress.report.pages.compare import Compared, compare_page
from compress.report.pages.search import (
    hypervolumes,
    importance_of,
    order_agreement,
    recommendation,
    rows_of,
    search_page,
)
from compress.report.parts import Chart, Fold, Table, Text, TradeOff
from compress.report.search import gain_text, speed_text
from tests.report.records import furnished

SMALL = Path(__file__).parent / "search"


class Resources(HTMLParser):
    """What a page would load, and its text outside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.text, self.scripts, self._inside = [], "", 0, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.scripts += tag == "script"
        self.loaded += [value for name, value in attrs if name in ("src", "srcset", "poster", "data")]
        self.loaded += [value for name, value in attrs if name == "href" and not value.startswith("#")]

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_report("search", result, folder)
    return folder


def html_of(result):
    return html(search_page(result, Path("runs/one"))[0])


def text_of(result):
    return " ".join(Resources(html_of(result)).text.split())


def axes_of(result):
    """Name of each axis of the trade-off → its figure."""
    page, _ = search_page(result, Path("runs/one"))
    (found,) = [part for part in page.lead if isinstance(part, TradeOff)]
    return dict(found.axes)


def marks_of(panel):
    """Name of each mark → the mark, of all series but lines; (?) marks an unsteady timing."""
    return {
        mark.name.removesuffix(" (?)"): mark
        for series in panel.series
        if series.shape != "none"
        for mark in series.marks
    }


def with_first(result, **changes):
    """The result of the first network alone, changed."""
    network = replace(result.networks[0], **changes)
    return replace(result, networks=(network,), best=(network.name,))


def with_evaluation(network, **changes):
    """The network with changes in the recipe's procedure."""
    first, *others = network.evaluations
    return replace(network, evaluations=(replace(first, **changes), *others))


def gain(**changes):
    return replace(Gain("f", 0.2, 0.1, "beyond chance", steady=True, faster=True), **changes)


def faster(verdict, factor=1.34, low=1.32, high=1.36, name="f"):
    return Faster(name, SpeedUp(factor, low, high, verdict))


def milliseconds(ms):
    return f"{ms:.2f}" if ms >= 1 else f"{ms:.3f}"


# --- Files -----------------------------------------------------------------------------------------------------------


def test_writes_page_text_picture_and_table_and_no_leftovers(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "networks.csv",
        "report.html",
        "report.md",
        "trade_off.png",
    ]


def test_page_loads_nothing_and_is_small(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert Resources(text).loaded == []
    assert len(text.encode()) < 4e6


def test_text_has_the_picture_and_what_the_page_says(result, folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "(trade_off.png)" in text
    for network in result.networks:
        assert f"{network.score.value:.3f}" in text
        assert network.name in text


def test_picture_is_large_and_on_white(folder):
    picture = cv2.imdecode(np.frombuffer((folder / "trade_off.png").read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    height, width, _ = picture.shape
    assert height > 900
    assert width > 1600
    assert tuple(picture[2, 2]) == (255, 255, 255)
    assert len(np.unique(picture[::7, ::7].reshape(-1, 3), axis=0)) > 20


def test_table_of_networks_has_every_network_and_trial(result, folder):
    lines = list(csv.DictReader(io.StringIO((folder / "networks.csv").read_text())))
    assert tuple(lines[0]) == COLUMNS
    assert [line["role"] for line in lines].count("trial") == len(result.trials)
    assert len(lines) == len(result.trials) + len(result.networks)
    for line, network in zip(lines, result.networks, strict=False):
        assert line["name"] == network.name
        assert float(line["score"]) == network.score.value
        assert float(line["measured_ms"]) == network.latency["onnxruntime"].ms
        assert float(line["predicted_ms"]) == network.predicted["onnxruntime"].ms
        assert float(line["end_to_end_ms"]) == network.evaluations[0].end_to_end.ms
        assert int(line["params"]) == network.params
        assert int(line["size_bytes"]) == network.export("onnxruntime").size_bytes
    trial = lines[-1]
    assert trial["provenance"] == "supernet"
    assert trial["measured_ms"] == trial["low_ms"] == ""
    assert float(trial["score"]) == result.trials[-1].score.value


def test_table_of_networks_leaves_unknown_empty(result):
    network = with_evaluation(result.networks[0], score=replace(result.networks[0].score, value=None))
    changed = replace(result, networks=(replace(network, latency={}),), best=())
    line = next(csv.DictReader(io.StringIO(table_text(rows_of(changed)))))
    assert [line[key] for key in ("score", "measured_ms", "low_ms", "high_ms", "on_front")] == ["", "", "", "", "False"]


def test_the_interval_is_that_of_the_measured_latency(result):
    for row, network in zip(rows_of(result), result.networks, strict=False):
        share = network.latency["onnxruntime"].uncertainty
        assert row.low_ms == pytest.approx(row.measured_ms * max(0, 1 - share))
        assert row.high_ms == pytest.approx(row.measured_ms * (1 + share))


# --- What the page says ----------------------------------------------------------------------------------------------


def test_page_shows_every_network_and_its_numbers(result, folder):
    text = Resources((folder / "report.html").read_text(encoding="utf-8")).text
    for network in result.networks:
        passes, ncnn = network.evaluations[0].passes, network.latency["ncnn"].ms
        for shown in (
            network.name,
            f"{network.score.value:.3f}",
            f"± {network.score.standard_error:.3f}",
            f"{result.trial_of(network).score.value:.3f}",
            milliseconds(passes * network.latency["onnxruntime"].ms),
            milliseconds(passes * network.predicted["onnxruntime"].ms),
            milliseconds(passes * ncnn),
            milliseconds(network.evaluations[0].end_to_end.ms),
            milliseconds(network.evaluations[1].end_to_end.ms),
            f"{100 * (network.predicted['onnxruntime'].ms / network.latency['onnxruntime'].ms - 1):+.1f} %",
            *(f"{export.parity:.1e}" for export in network.exports),
        ):
            assert shown in text


def test_page_says_what_a_sceptic_asks(result):
    text = text_of(replace(result, run=replace(result.run, command=("compress", "search", "bhrnet", "--run", "a b"))))
    predictions = [abs(result.prediction_error(network)) for network in result.networks]
    decoding_ms = result.decoding["64x64"].ms
    for shown in (
        f"onnxruntime {result.target.version}, 1 thread",
        result.target.device,
        f"on {result.data.val} synthetic validation pictures with {result.data.people} people",
        f"{100 * sum(predictions) / len(predictions):.1f} % in the mean",
        f"{100 * max(predictions):.1f} % at worst",
        "compress search bhrnet --run 'a b'",
        "input_hw: [64, 64]",
        f"with one decoding time for all of an input size ({milliseconds(decoding_ms)} ms at 64x64)",
        *result.caveats,
    ):
        assert shown in text


def test_trials_of_each_input_size_have_its_decoding_time(result):
    small, large = (replace(result.decoding["64x64"], ms=ms) for ms in (0.5, 2.0))
    trials = tuple(
        replace(trial, pick={**trial.pick, "input_hw": "64x64" if trial.number % 2 else "96x96"})
        for trial in result.trials
    )
    changed = replace(result, trials=trials, decoding={"96x96": large, "64x64": small})
    found = marks_of(axes_of(changed)["end to end, onnxruntime"].panels[1])
    for trial in trials:
        expected = trial.cost.predicted_ms + (0.5 if trial.number % 2 else 2.0)
        assert found[f"trial {trial.number}"].x == pytest.approx(expected)
    assert f"({milliseconds(0.5)} ms at 64x64, {milliseconds(2.0)} ms at 96x96)" in text_of(changed)
    # A size whose decoding is not known, as where all its trials were stopped early, does not get another size's.
    partly = marks_of(axes_of(replace(changed, decoding={"64x64": small}))["end to end, onnxruntime"].panels[1])
    for trial in trials:
        expected = trial.cost.predicted_ms + (0.5 if trial.number % 2 else 0.0)
        assert partly[f"trial {trial.number}"].x == pytest.approx(expected)


def with_unsteady(result, names):
    """The same, with these networks' timings unsteady and all others' steady."""
    networks = tuple(
        replace(
            network,
            latency={
                target: replace(latency, reliable=network.name not in names, uncertainty=0.25)
                for target, latency in network.latency.items()
            },
        )
        for network in result.networks
    )
    return replace(result, networks=networks)


def test_unsteady_timings_are_one_sentence(result):
    result = replace(result, trials=tuple(result.trial_of(network) for network in result.networks))
    names = [network.name for network in result.networks]
    text = text_of(with_unsteady(result, names))
    assert f"All {2 * len(names)} timings are unsteady, by ± 25% to ± 25%" in text
    text = text_of(with_unsteady(result, names[:1]))
    assert f"2 of {2 * len(names)} timings are unsteady" in text
    assert f"({names[0]} on onnxruntime, {names[0]} on ncnn)" in text
    assert "timings are unsteady" not in text_of(with_unsteady(result, ()))


def test_what_was_not_measured_is_named(result):
    networks = (replace(result.networks[0], latency={}, uncounted=("aten::foo",)), *result.networks[1:])
    text = text_of(replace(result, networks=networks))
    assert f"latency on onnxruntime: {networks[0].name}" in text
    assert "multiply-adds of operators without a counting rule: aten::foo" in text


def test_time_is_told_in_minutes(result):
    seconds = {"latency table": 12.0, "supernet": 1412.0}
    text = text_of(replace(result, run=replace(result.run, seconds=seconds)))
    assert "23 min 32 s" in text
    assert "23 min 44 s" in text


def test_nothing_known_is_shown_as_dashes(result):
    unknown = tuple(
        replace(
            with_evaluation(network, score=replace(network.score, value=None, standard_error=None, details={})),
            latency={},
            exports=(),
        )
        for network in result.networks
    )
    trials = tuple(replace(trial, score=replace(trial.score, value=None)) for trial in result.trials)
    changed = replace(result, networks=unknown, trials=trials, comparisons=(), caveats=(), losses=())
    changed = replace(changed, data=replace(result.data, people=None), tables={"onnxruntime": TableUsed(3, None, None)})
    words = text_of(changed)
    assert "score: all networks" in words
    assert "the sum over the times of kernels, of which the table has 3" in words
    assert "None" not in words
    assert ">nan" not in html_of(changed)


def test_no_trials_and_no_networks_is_still_a_page(result):
    empty = replace(result, trials=(), networks=(), comparisons=(), best=(), no_finalist="none is good")
    text, pictures = markdown(search_page(empty, Path("runs/one"))[0])
    assert pictures == {}
    assert "**none is good**" in text
    assert "<h1>" in html_of(empty)


def test_text_is_escaped_everywhere(result):
    evil = "<script>alert('x')</script>|`"
    changed = with_first(
        result, name=evil, architecture={"family": evil, evil: evil}, edits=(evil,), refused={evil: evil}
    )
    changed = replace(
        changed,
        trial_numbers={evil: 0},
        comparisons=(Comparison(evil, None, None),),
        caveats=(evil,),
        failed_exports=(evil,),
        no_finalist=evil,
        space=replace(result.space, family=evil, choices={evil: (evil,), **result.space.choices}),
        data=replace(result.data, kind=evil),
        run=replace(
            result.run,
            folder=evil,
            command=("compress", evil),
            targets=(replace(result.target, version=evil, device=evil), replace(result.target, name=evil, table=evil)),
            recipe={evil: evil, "data": {"kind": evil}},
            environment={evil: evil, "packages": {evil: evil}},
            seconds={evil: 1.0},
        ),
    )
    page, rows = search_page(changed, Path("runs") / "<b>")
    text = html(page)
    assert "<script>alert" not in text
    assert "</script>|" not in text
    assert escape(evil).replace("&#x27;", "&#39;") in text  # two ways to write an apostrophe
    assert Resources(text).scripts == 2  # tips, and the page's own
    written, _ = markdown(page)
    inside, outside = written.split("```")[1::2], written.split("```")[::2]
    assert inside
    assert not any("<script" in part for part in outside)
    assert "\\|" in written
    assert list(csv.reader(io.StringIO(table_text(rows))))[1][2] == evil


def test_what_an_engine_refused_and_that_there_is_no_finalist_are_told(result):
    changed = replace(result, failed_exports=("finalist_1: ncnn: no <such> layer",), no_finalist="none is good")
    text = html_of(changed)
    assert "none is good" in text
    assert "no &lt;such&gt; layer" in text


def test_all_milliseconds_are_of_the_procedures_passes(result):
    ncnn = replace(result.networks[0].latency["ncnn"], ms=7.77, uncertainty=0.2, reliable=False)
    networks = tuple(
        replace(with_evaluation(network, passes=2), latency={**network.latency, "ncnn": ncnn})
        for network in result.networks
    )
    text = text_of(replace(result, networks=networks))
    assert "15.54unsteady, 12.43 – 18.65" in text  # 2 x 7.77, ± 20 %
    assert milliseconds(2 * networks[0].latency["onnxruntime"].ms) in text


def test_edits_are_shown_beside_the_architecture(result):
    own = result.trial_of(result.networks[0])
    edits = {"edits.large kernels": "conv_to_3x3", "edits.trunk": 0.5, "edits.head": "keep", "edits.all": 1.0}
    space = replace(result.space, choices={**result.space.choices, "edits.trunk": (0.5, 1.0)})
    changed = replace(with_first(result), trials=(replace(own, pick={**own.pick, **edits}),), space=space)
    text = text_of(changed)
    for shown in ("large kernels: conv_to_3x3", "trunk: 50.0 % of the channels", "carried over to what was edited"):
        assert shown in text
    assert "100.0 % of the channels" not in text
    assert "head: keep" not in text


def test_a_search_around_a_given_network_has_no_supernet(result):
    trials = tuple(replace(trial, score=replace(trial.score, provenance="given weights")) for trial in result.trials)
    changed = replace(result, start="runs/given", tuning_samples=256, losses=(), trials=trials)
    changed = replace(changed, run=replace(result.run, recipe={}, seconds={}))
    text = text_of(changed)
    assert "the weights of the given network, tuned on 256 samples" in text
    assert "upernet" not in text
    assert {row.provenance for row in rows_of(changed) if row.role == "trial"} == {"given weights"}


# --- The recommendation ----------------------------------------------------------------------------------------------


def advice(result, *comparisons, **changes):
    return recommendation(replace(result, comparisons=comparisons, **changes), Path("runs/one"))


def test_the_fastest_that_is_no_less_accurate_is_recommended(result):
    slow = Comparison("b1", None, faster("faster", 1.1, 1.05, 1.15, name="f1"))
    fast = Comparison("b2", None, faster("faster", name="f2"))
    names = iter(("b1", "b2", "f1", "f2"))
    networks = tuple(replace(one, name=next(names)) for one in result.networks[:4])
    found = advice(result, slow, fast, networks=networks, best=())
    score = networks[3].score
    assert "Take f2: 1.34× as fast end to end as b2 (95 % interval 1.32–1.36)" in found.sentence
    assert (
        f"AP ({score.value:.3f} ± {score.standard_error:.3f} against {networks[1].score.value:.3f})" in found.sentence
    )
    assert f"{milliseconds(networks[3].evaluations[0].end_to_end.ms)} ms end to end on onnxruntime" in found.sentence
    assert found.sure == "yes"
    assert any(f"runs/one/{networks[3].folder}" in command for command in found.commands.values())


def test_a_predicted_speed_up_says_so(result):
    side = faster("faster", name=result.networks[1].name)
    side = replace(side, speed_up=replace(side.speed_up, provenance="predicted"))
    found = advice(result, Comparison(result.networks[0].name, None, side))
    assert "predicted and not measured" in found.sentence
    assert found.sure == "in part"


def test_more_accuracy_counts_only_beyond_chance(result):
    one, other = (network.name for network in result.networks[:2])
    beyond = Comparison(one, gain(network=other), None)
    assert advice(result, beyond).sentence.startswith(f"Take {other}: +0.100 AP over {one}")
    within = Comparison(one, gain(network=other, verdict="within chance"), None)
    found = advice(result, within)
    assert found.sentence.startswith("Keep ")
    assert found.sure == "no"


@pytest.mark.parametrize("verdict", ["worthless", "unsteady", "no difference", "slower"])
def test_without_a_proven_gain_the_best_baseline_is_kept(result, verdict):
    baseline = max((n for n in result.networks if n.role == "baseline"), key=lambda n: n.score.value)
    found = advice(result, Comparison(baseline.name, None, faster(verdict, name=result.networks[-1].name)))
    assert found.sentence.startswith(f"Keep {baseline.name}, AP {baseline.score.value:.3f}")


def test_beyond_the_budget_no_baseline_is_kept(result):
    """A search for half of a network's time answers with a finalist, not with the network."""
    baselines = [network for network in result.networks if network.role == "baseline"]
    finalist = max((n for n in result.networks if n.role == "finalist"), key=lambda n: n.score.value)
    best, *others = sorted(baselines, key=lambda n: -n.score.value)
    slower = Comparison(best.name, None, faster("slower", name=finalist.name))
    over = replace(result, over_budget=tuple(one.name for one in baselines))
    found = advice(over, slower)
    assert found.sentence.startswith(f"Take {finalist.name}, AP {finalist.score.value:.3f}")
    assert f"which {best.name}, AP {best.score.value:.3f}" in found.sentence
    assert (found.network, found.sure) == (finalist.name, "in part")
    one_within = advice(replace(result, over_budget=(best.name,)), slower)
    assert one_within.sentence.startswith(f"Keep {others[0].name}")


def test_a_gain_is_a_headline_only_beyond_chance(result):
    within = Comparison(
        "hand balance", gain(network="finalist_3", score=0.521, baseline_score=0.498, verdict="within chance"), None
    )
    text = text_of(replace(result, comparisons=(within,)))
    assert "(+0.023, within two standard errors, may be chance)" in text


@pytest.mark.parametrize("verdict", ["worthless", "unsteady", "no difference", "slower", "faster"])
def test_a_speed_up_is_a_headline_only_where_it_is_one(verdict):
    head, rest = speed_text(Comparison("b", None, faster(verdict, 9.45, 9.0, 9.9)), "AP")
    assert head == ("9.45× as fast" if verdict == "faster" else "")
    assert "9.45" not in rest or verdict == "slower"


@pytest.mark.parametrize("verdict", ["worthless", "within chance", "beyond chance"])
@pytest.mark.parametrize("steady", [True, False])
@pytest.mark.parametrize("difference", [0.0, 0.04, -0.04])
def test_a_gain_is_a_headline_only_where_it_is_a_gain(verdict, steady, difference):
    side = gain(score=0.1 + difference, baseline_score=0.1, verdict=verdict, steady=steady)
    head, _ = gain_text(Comparison("b", side, None), "AP")
    assert bool(head) == (verdict == "beyond chance" and steady and difference > 0)


def test_more_accuracy_in_as_much_time_is_not_called_less_time():
    texts = [" ".join(gain_text(Comparison("b", gain(faster=value), None), "AP")) for value in (True, False)]
    assert "at no more time" in texts[0]
    assert "in as much time, within the uncertainty" in texts[1]


# --- Charts ----------------------------------------------------------------------------------------------------------


def test_trials_and_networks_do_not_share_an_axis_of_scores(result):
    for name, figure in axes_of(result).items():
        networks = marks_of(figure.panels[0])
        assert set(networks) == {network.name for network in result.networks}
        if len(figure.panels) > 1:
            trials = marks_of(figure.panels[1])
            assert set(trials) == {f"trial {trial.number}" for trial in result.trials}
            assert figure.panels[0].y != figure.panels[1].y
        else:
            assert name.startswith(("network alone, ncnn", "file size"))


def test_marks_stand_where_they_were_measured_and_predicted(result):
    figures = axes_of(result)
    for network in result.networks:
        whole = network.evaluations[0].end_to_end
        mark = marks_of(figures["end to end, onnxruntime"].panels[0])[network.name]
        assert (mark.x, mark.y) == (whole.ms, network.score.value)
        assert mark.x_high == pytest.approx(whole.ms * (1 + whole.uncertainty))
        assert mark.y_low == pytest.approx(network.score.value - network.score.standard_error)
        assert marks_of(figures["network alone, ncnn"].panels[0])[network.name].x == network.latency["ncnn"].ms
        assert marks_of(figures["multiply-adds"].panels[0])[network.name].x == network.macs
        assert marks_of(figures["parameters"].panels[0])[network.name].x == network.params
    for trial in result.trials:
        decoding_ms = result.decoding["64x64"].ms
        mark = marks_of(figures["end to end, onnxruntime"].panels[1])[f"trial {trial.number}"]
        assert mark.x == pytest.approx(trial.cost.predicted_ms + decoding_ms)
        assert mark.y == trial.score.value


def test_what_is_predicted_is_hollow(result):
    networks = tuple(
        replace(one, latency={**one.latency, "ncnn": replace(one.latency["ncnn"], provenance="predicted")})
        for one in result.networks
    )
    figures = axes_of(replace(result, networks=networks))
    for name, hollow in (("network alone, ncnn", True), ("network alone, onnxruntime", False)):
        series = [one for one in figures[name].panels[0].series if one.shape != "none"]
        assert {one.hollow for one in series} == {hollow}
        assert all(one.name.endswith(", predicted") is hollow for one in series)


def test_the_line_is_what_nothing_beats_in_both(result):
    points = {network.name: (network.evaluations[0].end_to_end.ms, network.score.value) for network in result.networks}
    expected = {
        name
        for name, (ms, ap) in points.items()
        if not any(other <= ms and score >= ap for one, (other, score) in points.items() if one != name)
    }
    (line,) = [s for s in axes_of(result)["end to end, onnxruntime"].panels[0].series if s.line == "step"]
    assert {mark.name.removesuffix(" (?)") for mark in line.marks} == expected
    assert {row.name for row in rows_of(result) if row.on_front and row.role != "trial"} == expected


def test_every_figure_is_drawn_at_both_widths(result):
    page, _ = search_page(result, Path("runs/one"))
    figures = [part.figure for section in page.sections for part in section.parts if isinstance(part, Chart)]
    assert [figure.title for figure in figures] == [
        "Loss of the supernet",
        "Hypervolume over evaluations",
        "Scores in the search and final ones",
        "Predicted against measured latency of one pass",
    ]
    for figure in [*figures, *axes_of(result).values()]:
        for width in (330, 900):
            assert svg(figure, width).startswith("<svg")


# --- The search ------------------------------------------------------------------------------------------------------


def test_hypervolume_is_the_area_that_is_dominated():
    # a box of 4 ms x 0.8: first 0.4 from 2 ms on, 2 x 0.4; then 0.8 from 3 ms on; a dominated one adds nothing
    points = [(2.0, 0.4), (3.0, 0.8), (4.0, 0.3)]
    assert hypervolumes(points) == pytest.approx([0.8 / 3.2, 1.2 / 3.2, 1.2 / 3.2])


def test_hypervolume_never_falls_and_does_not_mind_the_order():
    points = [(float(x), float(y)) for x, y in np.random.default_rng(0).uniform(0.1, 1, (40, 2))]
    found = hypervolumes(points)
    assert found == sorted(found)
    assert hypervolumes(points[::-1])[-1] == pytest.approx(found[-1])


def test_importance_is_the_variance_between_a_choices_values(result):
    """By an independent formula: one less the variance within the groups."""
    path = "blocks.3.3"
    trials = result.trials
    scores = np.array([trial.score.value for trial in trials])
    groups = np.array([trial.pick[path] for trial in trials])
    within = sum(((scores[groups == value] - scores[groups == value].mean()) ** 2).sum() for value in set(groups))
    expected = 1 - within / ((scores - scores.mean()) ** 2).sum()
    (found,) = [score for name, score, _ in importance_of(trials, result.space.choices) if name == path]
    assert found == pytest.approx(expected)


def test_single_edits_are_shown_with_what_they_save_and_move(result):
    edits = (SingleEdit("edits.trunk", 0.5, 0.8, 0.0123), SingleEdit("input_hw", "64x64", 0.25, 1.5))
    text = html_of(replace(result, single_edits=edits))
    assert "What 2 edits do alone" in text
    text = " ".join(Resources(text).text.split())
    assert all(cell in text for cell in ("edits.trunk", "20.0 %", "1.23 %", "64x64", "75.0 %", "150.00 %"))
    assert "edits do alone" not in html_of(result)


def test_order_agreement_counts_pairs():
    scores = [(0.1, 0.5), (0.2, 0.6), (0.3, 0.4), (None, 0.9), (0.3, 0.7)]
    # (1,2) alike, (1,3) not, (1,5) alike, (2,3) not, (2,5) alike, (3,5) tied
    assert order_agreement(scores) == (3, 5)


# --- What a network is made of ---------------------------------------------------------------------------------------


def test_plan_shows_blocks_kinds_expansions_channels_and_what_differs(result):
    given = {"width": 10, "blocks": [[7], [8, 9]], "kinds": ["dir", "basic"], "expansions": [2, 4]}
    changed = {**given, "blocks": [[7], [6, 9]], "head": "single"}
    baseline = replace(result.networks[0], name="b", role="baseline", architecture=given)
    finalist = replace(result.networks[1], name="f", role="finalist", architecture=changed)
    numbers = {"b": 0, "f": 1}
    text = html_of(replace(result, networks=(baseline, finalist), trial_numbers=numbers, best=(), comparisons=()))
    plans = re.findall(r'<div class="plan">(.*?)</div>', text, re.DOTALL)
    words = [re.findall(r"<text[^>]*>([^<]*)</text>", plan) for plan in plans]
    assert words[0][2:] == ["branch 1 dir ×2", "7", "10 ch", "8", "10 ch", "branch 2 basic ×4", "9", "20 ch"]
    assert words[1][2:] == ["branch 1 dir ×2", "7", "10 ch", "6 (-2)", "10 ch", "branch 2 basic ×4", "9", "20 ch"]
    assert [plan.count("differs") for plan in plans] == [0, 1]
    assert 'aria-label="22 blocks in 2 branches and 2 stages"' in plans[1]


def test_other_families_show_their_stages_and_fields(result):
    # HRNet: three stages of 1, 4, 3 modules with 4 blocks on every one of 2, 3, 4 branches
    hrnet = {"family": "hrnet", "width": 32, "blocks": 4, "modules": [1, 4, 3], "stem": None}
    text = html_of(with_first(result, architecture=hrnet))
    (plan,) = re.findall(r'<div class="plan">(.*?)</div>', text, re.DOTALL)
    assert re.findall(r'class="label">(\d+)<', plan) == ["4", "16", "12", "4", "16", "12", "16", "12", "12"]
    assert re.findall(r"(\d+) ch", plan)[-1] == "256"
    other = Resources(html_of(with_first(result, architecture={"family": "own", "depth": [1, 2], "stem": None}))).text
    assert "1, 2" in other


def test_files_have_checksums_or_say_that_they_are_not_there(result, tmp_path):
    """The checksum of `abc`, from FIPS 180-2, appendix B.1."""
    network = result.networks[0]
    (tmp_path / network.folder).mkdir(parents=True)
    export = replace(network.exports[0], size_bytes=3, files=("model.onnx",))
    (tmp_path / network.folder / "model.onnx").write_bytes(b"abc")
    changed = replace(network, exports=(export, *network.exports[1:]))
    page, _ = search_page(replace(result, networks=(changed, *result.networks[1:])), tmp_path)
    text = html(page)
    assert "sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" in text
    assert "not in the folder" in text
    (tmp_path / network.folder / "model.onnx").write_bytes(b"abcd")
    page, _ = search_page(replace(result, networks=(changed, *result.networks[1:])), tmp_path)
    assert "changed since: 4 bytes, not 3" in html(page)


# --- compress report -------------------------------------------------------------------------------------------------


def test_the_report_is_written_anew_from_a_run_folder(result, tmp_path):
    (tmp_path / "results.json").write_text((SMALL / "results.json").read_text())
    written = report_of(tmp_path)
    assert written.page == str(tmp_path / "report.html")
    assert {Path(file).name for file in written.files} == {"report.html", "report.md", "trade_off.png", "networks.csv"}
    assert {line.split(":")[0] for line in written.missing} == {
        "recipe.yaml",
        "environment.json",
        "weights of all networks",
        "exported files of all networks",
    }
    text = (tmp_path / "report.html").read_text()
    assert "What this run folder lacks" in text
    assert "weights of all networks" in text


@pytest.mark.parametrize("damage", ["cut", "not there", "another version"])
def test_a_damaged_run_gets_a_page_that_says_what_is_missing(result, tmp_path, damage):
    whole = (SMALL / "results.json").read_text()
    data = json.loads(whole)
    (tmp_path / "recipe.yaml").write_text("# fingerprint\njob: search\nseed: 1\n")
    trials = [json.dumps(trial) for trial in data["result"]["trials"]]
    lines = "\n".join([*trials[:3], '{"number": 3, "pi'])
    (tmp_path / "trials.jsonl").write_text(lines)
    (tmp_path / "seconds.jsonl").write_text('{"phase": "supernet", "seconds": 61}\nno json\n')
    if damage == "cut":
        (tmp_path / "results.json").write_text(whole[: len(whole) // 2])
    elif damage == "another version":
        (tmp_path / "results.json").write_text(json.dumps({**data, "schema": 1}))
    written = report_of(tmp_path)
    text = " ".join(Resources((tmp_path / "report.html").read_text()).text.split())
    assert "results.json" in text
    assert "trials.jsonl: 1 lines cannot be read" in text
    assert "environment.json" in text
    assert "3 trials so far" in text
    assert "1 min 01 s" in text
    assert "compress search" in text
    assert len(written.missing) == 3
    assert (tmp_path / "trials.jsonl").read_text() == lines  # which another process may be writing


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(Exception, match="RUN is a run folder"):
        report_of(tmp_path)
    with pytest.raises(Exception, match="no such file or folder"):
        report_of(tmp_path / "nothing")
    (tmp_path / "a.json").write_text(json.dumps(document("targets", {})))
    with pytest.raises(Exception, match="no report is made of this job"):
        report_of(tmp_path / "a.json")


def test_times_of_other_devices_are_said_not_to_compare(result):
    """In one page only where a target of one name is another device, engine's version, or number of threads."""
    target = result.run.targets[0]
    there = replace(result, run=replace(result.run, targets=(replace(target, device="another CPU"),)))

    def sentences(*results):
        runs = [Compared(f"run{n}", "search", one.run, one.networks, ()) for n, one in enumerate(results)]
        return [part.text for part in compare_page(runs)[0].lead if isinstance(part, Text)]

    assert sentences(result, result) == []
    (said,) = sentences(result, there)
    assert "another CPU (run1)" in said
    assert f"{target.device} (run0)" in said


def test_runs_are_compared_in_one_page(result, tmp_path):
    for name, seed in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        data = json.loads((SMALL / "results.json").read_text())
        data["result"]["run"]["recipe"]["seed"] = seed
        (tmp_path / name / "results.json").write_text(json.dumps(data))
    written = compare([tmp_path / "one", tmp_path / "two"], tmp_path / "compare.html")
    text = " ".join(Resources((tmp_path / "compare.html").read_text()).text.split())
    assert written.page == str(tmp_path / "compare.html")
    assert "seed12" in text.replace(" ", "")
    assert "The runs differ in seed, see below." in text
    assert "finalist_1 of one" in text
    assert str(tmp_path) not in text
    lines = list(csv.DictReader(io.StringIO((tmp_path / "networks.csv").read_text())))
    assert {line["run"] for line in lines} == {str(tmp_path / "one"), str(tmp_path / "two")}
    assert len(lines) == 2 * len(result.networks)
    assert isinstance(result, SearchResult)


def test_tables_have_as_many_cells_as_columns(result):
    page, _ = search_page(result, Path("runs/one"))

    def tables(parts):
        for part in parts:
            if isinstance(part, Table):
                yield part
            for name in ("parts", "cards"):
                yield from tables(getattr(part, name, ()))

    found = [table for section in page.sections for table in tables(section.parts)]
    assert len(found) > 8
    for table in found:
        assert {len(row) for row in table.cells} == {len(table.head)}, table.about


def test_a_name_may_be_broken_and_a_number_may_not(result):
    text = html_of(with_first(result, name="hand_balance"))
    assert "hand_<wbr>balance" in text
    assert not re.search(r"\d\.<wbr>", text)


# --- What a job leaves in its run folder ------------------------------------------------------------------------------


def test_published_figures_stand_beside_those_of_all_of_val2017_alone(result, tmp_path):
    assert not [s for f in axes_of(result).values() for p in f.panels for s in p.series if s.optional]  # synthetic
    full = furnished(result, tmp_path)
    of_coco = {name: f.panels[0].series[-1] for name, f in axes_of(full).items() if f.panels[0].series[-1].optional}
    assert set(of_coco) == {"multiply-adds", "parameters"}
    # AP 50.5 at 384x384: DIR-BHRNet, table V, and 48.6: OpenPose at 368x368; neither is a top-down network
    named = [(mark.name, mark.y) for mark in of_coco["parameters"].marks]
    assert ("dir_bhrnet_32", 0.505) in named
    assert ("openpose", 0.486) in named
    assert not {name for name, _ in named} & {"hrnet_w32", "lite_hrnet_18"}
    assert "published figures" in text_of(full)
    part = replace(full, data=replace(full.data, val=400))
    assert "published" not in text_of(part)
    other = {"data": {"disk": {"val": "minival"}}}
    assert "published" not in text_of(replace(full, run=replace(full.run, recipe=other)))


def test_where_time_goes_stands_beside_the_baselines(result, tmp_path):
    page, _ = search_page(furnished(result, tmp_path), tmp_path)
    cards = {card.title: card for part in page.sections[1].parts for card in part.cards}
    tables = {
        title: [p for p in card.parts if isinstance(p, Fold) and "time goes" in p.title]
        for title, card in cards.items()
    }
    number = next(i for i, one in enumerate(result.networks) if one.role == "finalist")
    name = result.networks[number].name
    (fold,) = tables[name]
    by_resolution, by_operator = fold.parts
    assert [row[0].text for row in by_resolution.cells] == ["1/2", "1/4", "none", "all"]
    assert [row[0].text for row in by_operator.cells] == ["conv", "reshape", "all"]
    baseline = by_resolution.head[2].removesuffix(" ms")
    before = next(i for i, one in enumerate(result.networks) if one.name == baseline)
    assert by_resolution.cells[1][3].text == f"{-(number - before) / 10:+.3f}"  # 0.1 ms less for every number
    assert by_resolution.cells[1][1].small == f"{0.125 / (0.5 - number / 10):.1%}".replace("%", " % estimated")
    assert by_resolution.cells[0][4].small == f"{number - before:+d}"
    first = next(one.name for one in result.networks if one.role == "baseline")
    assert tables[first][0].parts[0].head == ("resolution", "ms", "share", "kernels")


def test_coverage_is_told_of_all_trials(result, tmp_path):
    full = furnished(result, tmp_path)  # one trial 0.75, the others 0.5
    mean = (0.75 + 0.5 * (len(result.trials) - 1)) / len(result.trials)
    said = f"{100 * mean:.1f} % of a trial's time in the mean, 50.0 % at least, is of kernels that were timed"
    assert said in text_of(full)
    assert "Coverage" not in text_of(result)  # not known


def test_pictures_of_before_and_after_are_in_the_page(result, tmp_path):
    full = furnished(result, tmp_path)
    page, _ = search_page(full, tmp_path)
    (section,) = [one for one in page.sections if one.title == "What they find"]
    rows = section.parts[0].rows
    assert [len(row) for row in rows] == [2, 2]
    by_name = {one.name: one for one in full.networks}
    for shown, role in zip(rows[0], ("baseline", "finalist"), strict=True):
        name = shown.title.removesuffix(", picture 1")
        assert by_name[name].role == role
        assert shown.jpeg == (tmp_path / by_name[name].folder / "pictures/0.jpg").read_bytes()
    loaded = Resources(html(page)).loaded
    assert len(loaded) == 4
    assert all(one.startswith("data:image/jpeg;base64,") for one in loaded)
    assert f"]({rows[0][0].path})" in markdown(page)[0]
    (tmp_path / rows[0][0].path).unlink()
    page, _ = search_page(full, tmp_path)
    (section,) = [one for one in page.sections if one.title == "What they find"]
    assert len(section.parts[0].rows) == 1


def test_the_files_of_the_artefact_are_listed_with_their_checksums(result, tmp_path):
    network = result.networks[0]
    (tmp_path / network.folder).mkdir(parents=True)
    (tmp_path / network.folder / "weights.safetensors").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    page, _ = search_page(result, tmp_path)
    assert "sha256 ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" in html(page)
