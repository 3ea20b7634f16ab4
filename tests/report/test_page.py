import csv
import io
import json
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from compress.artefacts.results import Comparison, Faster, Gain, TableUsed
from compress.measure.comparison import SpeedUp
from compress.report.page import COLUMNS, order_agreement, page, picture_of, rows_of, table_text, write_report
from compress.report.plots import front_chart, javascript
from compress.report.search import gain_text, speed_text


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
        self.loaded += [value for name, value in attrs if name == "href" and tag != "a"]

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_report(result, folder)
    return folder


@pytest.fixture(scope="module")
def parsed(folder):
    return Resources((folder / "report.html").read_text(encoding="utf-8"))


def marks_of(chart, kind):
    """The points of every layer that draws this kind of mark."""
    spec = chart.to_dict()
    layers = [layer for layer in spec["layer"] if layer["mark"]["type"] == kind]
    return [spec["datasets"][layer["data"]["name"]] for layer in layers]


def html_of(result):
    return page(result, rows_of(result), None)


def text_of(result):
    return " ".join(Resources(html_of(result)).text.split())


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


def faster(verdict, factor=1.34, low=1.32, high=1.36):
    return Faster("f", SpeedUp(factor, low, high, verdict))


def test_writes_three_files_and_no_leftovers(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["pareto.csv", "pareto.png", "report.html"]


def test_page_loads_nothing(parsed):
    assert all(source.startswith("data:image/png;base64,") for source in parsed.loaded)
    assert parsed.scripts == 3  # specifications, bundle, drawing


def test_script_bundle_is_embedded_once_and_cannot_end_early(folder):
    bundle = javascript()
    assert "</script" not in bundle.lower()
    assert "<!--" not in bundle
    assert (folder / "report.html").read_text(encoding="utf-8").count(bundle) == 1


def test_charts_of_the_page_are_three_specifications(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', text, re.DOTALL).group(1))
    assert set(charts) == {"front", "prediction", "loss"}
    assert all(f"id=chart-{name}" in text for name in charts)


def test_page_shows_every_network_and_its_numbers(result, parsed):
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
            assert shown in parsed.text


def milliseconds(ms):
    return f"{ms:.2f}" if ms >= 1 else f"{ms:.3f}"


def test_page_says_what_a_sceptic_asks(result):
    doubted = with_unreliable(result, "finalist_1")
    doubted = replace(doubted, run=replace(result.run, command=("compress", "search", "bhrnet", "--run", "a folder")))
    text = text_of(doubted)
    errors = sorted(network.score.standard_error for network in result.networks)
    predictions = [abs(result.prediction_error(network)) for network in result.networks]
    for shown in (
        f"onnxruntime {result.target.version}, 1 thread",
        result.target.device,
        f"a sample of {result.data.val} synthetic validation pictures with {result.data.people} people",
        f"Its standard error is {errors[0]:.3f} to {errors[-1]:.3f}",
        f"{100 * sum(predictions) / len(predictions):.1f} % mean error on onnxruntime",
        f"{100 * max(predictions):.1f} % worst error on onnxruntime",
        "Unreliable, for too great an uncertainty: finalist_1",
        "compress search bhrnet --run 'a folder'",
        '"input_hw"',
        *(f"{network.latency['onnxruntime'].count} timed calls" for network in result.networks[:1]),
        f"one decoding time for all ({milliseconds(result.decoding.ms)} ms",
        *result.caveats,
    ):
        assert shown in text


def with_unreliable(result, name):
    """The same, with one network's timing unreliable and all others' reliable."""
    networks = tuple(
        replace(
            network,
            latency={
                **network.latency,
                "onnxruntime": replace(network.latency["onnxruntime"], reliable=network.name != name),
            },
        )
        for network in result.networks
    )
    return replace(result, networks=networks)


def test_time_is_told_in_minutes(result):
    seconds = {"latency table": 12.0, "supernet": 1412.0}
    text = text_of(replace(result, run=replace(result.run, seconds=seconds)))
    assert "23 min 32 s" in text
    assert "Time: 23 min 44 s" in text


def test_a_gain_is_a_headline_only_beyond_chance(result):
    within = Comparison(
        "hand balance", gain(network="finalist_3", score=0.521, baseline_score=0.498, verdict="within chance"), None
    )
    beyond = Comparison("hrnet layout", gain(network="finalist_4", score=0.549, baseline_score=0.507), faster("faster"))
    text = text_of(replace(result, comparisons=(within, beyond)))
    assert "(+0.023, within two standard errors, may be chance)" in text
    assert "+0.042 AP at no more time, beyond two standard errors" in text
    assert "1.34× as fast end to end (1.32–1.36)" in text


@pytest.mark.parametrize("verdict", ["worthless", "unsteady", "no difference", "slower", "faster"])
def test_a_speed_up_is_a_headline_only_where_it_is_one(verdict):
    head, rest = speed_text(Comparison("b", None, faster(verdict, 9.45, 9.0, 9.9)), "AP")
    assert head == ("9.45× as fast" if verdict == "faster" else "")
    assert "9.45" not in rest or verdict == "slower"


@pytest.mark.parametrize("verdict", ["worthless", "within chance", "beyond chance"])
@pytest.mark.parametrize("steady", [True, False])
@pytest.mark.parametrize("difference", [0.0, 0.04, -0.04])
def test_a_gain_is_a_headline_only_where_it_is_one(verdict, steady, difference):
    side = gain(score=0.1 + difference, baseline_score=0.1, verdict=verdict, steady=steady)
    head, _ = gain_text(Comparison("b", side, None), "AP")
    assert bool(head) == (verdict == "beyond chance" and steady and difference > 0)


def test_text_is_escaped_everywhere(result):
    evil = "<script>alert('x')</script>"
    changed = with_first(result, name=evil, architecture={"family": evil, evil: evil})
    changed = replace(
        changed,
        trial_numbers={evil: 0},
        comparisons=(Comparison(evil, None, None),),
        caveats=(evil,),
        failed_exports=(evil,),
        no_finalist=evil,
        space=replace(result.space, family=evil, choices={evil: (evil,)}),
        data=replace(result.data, kind=evil),
        run=replace(
            result.run,
            folder=evil,
            command=("compress", evil),
            targets=(replace(result.target, version=evil, device=evil), replace(result.target, name=evil, table=evil)),
            recipe={evil: evil},
            environment={evil: evil, "packages": {evil: evil}},
            seconds={evil: 1.0},
        ),
    )
    text = html_of(changed)
    assert "<script>alert" not in text
    assert "</script>alert" not in text
    assert escape(evil).replace("&#x27;", "&#39;") in text  # two ways to write an apostrophe
    assert Resources(text).scripts == 3


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
    used = {"onnxruntime": TableUsed(3, None, None)}
    changed = replace(changed, data=replace(result.data, people=None), tables=used)
    text = html_of(changed)
    words = " ".join(Resources(text).text.split())
    assert "standard error was not estimated" in words
    assert "the sum over the times of kernels, of which the table has 3." in words
    assert "None" not in Resources(text).text
    assert ">nan" not in text
    assert 'id="charts">{}' in text


def test_no_trials_and_no_networks_is_still_a_page(result):
    empty = replace(result, trials=(), networks=(), comparisons=(), best=())
    assert picture_of(empty, rows_of(empty)) is None
    assert "<h1>" in html_of(empty)


def test_other_families_show_their_fields(result):
    architecture = {"family": "hrnet", "blocks": 4, "modules": [1, 4, 3], "stem": None}
    text = Resources(html_of(with_first(result, architecture=architecture))).text
    assert "modules" in text
    assert "1, 4, 3" in text


def test_composition_shows_blocks_kinds_expansions_and_channels(result):
    architecture = {"width": 10, "blocks": [[7], [8, 9]], "kinds": ["dir", "basic"], "expansions": [2, 4]}
    text = html_of(with_first(result, architecture=architecture))
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", re.search(r"<table class=blocks>.*?</table>", text, re.DOTALL).group())
    assert cells == ["7", "8", "dir", "2", "10", "", "9", "basic", "4", "20"]
    assert "24 blocks" in text


def test_csv_has_every_network_and_trial(result, folder):
    lines = list(csv.DictReader(io.StringIO((folder / "pareto.csv").read_text())))
    assert tuple(lines[0]) == COLUMNS
    assert [line["role"] for line in lines].count("trial") == len(result.trials)
    assert len(lines) == len(result.trials) + len(result.networks)
    for line, network in zip(lines, result.networks, strict=False):
        assert line["name"] == network.name
        assert float(line["score"]) == network.score.value
        assert float(line["measured_ms"]) == network.latency["onnxruntime"].ms
        assert float(line["predicted_ms"]) == network.predicted["onnxruntime"].ms
        assert int(line["params"]) == network.params
    trial = lines[-1]
    assert trial["provenance"] == "supernet"
    assert trial["measured_ms"] == trial["low_ms"] == ""
    assert float(trial["score"]) == result.trials[-1].score.value


def test_the_interval_is_that_of_the_measured_latency(result):
    for row, network in zip(rows_of(result), result.networks, strict=False):
        share = network.latency["onnxruntime"].uncertainty
        assert row.low_ms == pytest.approx(row.measured_ms * max(0, 1 - share))
        assert row.high_ms == pytest.approx(row.measured_ms * (1 + share))


def test_the_front_of_chart_and_table_is_that_of_end_to_end_times(result):
    """What no other measured network beats in both; see the search's tests for how it is found."""
    points = {network.name: (network.evaluations[0].end_to_end.ms, network.score.value) for network in result.networks}
    expected = {
        name
        for name, (ms, ap) in points.items()
        if not any(other <= ms and score >= ap for one, (other, score) in points.items() if one != name)
    }
    rows = rows_of(result)
    assert {row.name for row in rows if row.on_front and row.role != "trial"} == expected
    (line,) = marks_of(front_chart(rows), "line")
    assert {point["name"] for point in line} == expected
    assert {point["name"]: point["ms"] for point in line} == pytest.approx({name: points[name][0] for name in expected})
    assert [network.name for network in result.front] == sorted(expected, key=lambda name: points[name])


def test_chart_puts_trials_where_predicted_and_networks_where_measured(result):
    small, large = marks_of(front_chart(rows_of(result)), "point")
    assert [(p["predicted_ms"], p["score"]) for p in small] == [
        (t.cost.predicted_ms, t.score.value) for t in result.trials
    ]
    expected = [(pytest.approx(n.evaluations[0].end_to_end.ms), n.score.value) for n in result.networks]
    assert [(p["ms"], p["score"]) for p in large] == expected
    assert {p["kind"] for p in small}.isdisjoint(p["kind"] for p in large)
    assert not any("measured_ms" in p or "low_ms" in p for p in small)


def test_a_time_that_is_hardly_known_has_an_interval_from_the_axis_on(result):
    """Half the interval of an end-to-end time may be more than all of it, on a busy machine."""
    network = result.networks[0]
    whole = replace(network.evaluations[0].end_to_end, uncertainty=3.0)
    changed = replace(result, networks=(with_evaluation(network, end_to_end=whole), *result.networks[1:]))
    spec = front_chart(rows_of(changed)).to_dict()
    (low, high) = spec["layer"][0]["encoding"]["x"]["scale"]["domain"]
    _, points = marks_of(front_chart(rows_of(changed)), "point")
    assert 0 < low == points[0]["low_ms"]
    assert points[0]["high_ms"] == pytest.approx(4 * whole.ms)
    assert points[0]["high_ms"] < high


def test_order_agreement_counts_pairs():
    assert order_agreement([(1, 1), (2, 3), (3, 2), (None, 9)]) == (2, 3)
    assert order_agreement([]) == (0, 0)


def test_picture_is_a_chart(folder):
    picture = cv2.imdecode(np.frombuffer((folder / "pareto.png").read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    height, width, _ = picture.shape
    assert height > 900
    assert width > 1600
    assert tuple(picture[2, 2]) == (255, 255, 255)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_csv_leaves_unknown_empty(result):
    network = with_evaluation(result.networks[0], score=replace(result.networks[0].score, value=None))
    changed = replace(result, networks=(replace(network, latency={}),), best=(), trials=result.trials)
    line = next(csv.DictReader(io.StringIO(table_text(rows_of(changed)))))
    assert [line[key] for key in ("score", "measured_ms", "low_ms", "high_ms", "on_front")] == ["", "", "", "", "False"]


def test_edits_are_shown_beside_the_architecture(result):
    own = result.trial_of(result.networks[0])
    pick = {
        **own.pick,
        "edits.large kernels": "conv_to_3x3",
        "edits.trunk": 0.5,
        "edits.head": "keep",
        "edits.all": 1.0,
    }
    space = replace(result.space, choices={**result.space.choices, "edits.trunk": (0.5, 1.0)})
    changed = replace(with_first(result), trials=(replace(own, pick=pick),), space=space)
    text = text_of(changed)
    for shown in ("large kernels", "conv_to_3x3", "50.0 % of the channels", "carried over to what was edited"):
        assert shown in text
    assert "100.0 % of the channels" not in text
    assert "keep" not in text


def test_a_search_around_a_given_network_has_no_supernet(result):
    trials = tuple(replace(trial, score=replace(trial.score, provenance="given weights")) for trial in result.trials)
    changed = replace(result, start="runs/given", tuning_samples=256, losses=(), trials=trials)
    changed = replace(changed, run=replace(result.run, recipe={}, seconds={}))
    text = text_of(changed)
    assert "the weights of the given network, tuned on 256 samples" in text
    assert "Supernet" not in text
    assert "supernet score" not in text
    assert {row.provenance for row in rows_of(changed) if row.role == "trial"} == {"given weights"}


def test_a_trial_stands_at_its_predicted_end_to_end_time(result):
    rows = rows_of(replace(result, decoding=replace(result.decoding, ms=1.5)))
    trials = [row for row in rows if row.role == "trial"]
    assert trials
    assert all(row.end_to_end_ms == pytest.approx(row.predicted_ms + 1.5) for row in trials)
    drawn = next(points for points in marks_of(front_chart(rows), "point") if len(points) == len(trials))
    assert sorted(point["ms"] for point in drawn) == pytest.approx(sorted(row.end_to_end_ms for row in trials))
    written = list(csv.DictReader(io.StringIO(table_text(rows))))
    assert all(line["end_to_end_ms"] for line in written if line["role"] == "trial")


def test_more_accuracy_in_as_much_time_is_not_called_less_time():
    texts = [" ".join(gain_text(Comparison("b", gain(faster=value), None), "AP")) for value in (True, False)]
    assert "at no more time" in texts[0]
    assert "in as much time, within the uncertainty" in texts[1]


def test_what_an_engine_refused_and_that_there_is_no_finalist_stand_first(result):
    refused = ("finalist_1: ncnn: no <such> layer",)
    text = html_of(replace(result, failed_exports=refused, no_finalist="none is good"))
    section = text[text.index("Against the hand-made networks") :]
    assert section.index("none is good") < section.index("class=card")
    assert "no &lt;such&gt; layer" in section


def test_all_milliseconds_are_of_the_procedures_passes(result):
    ncnn = replace(result.networks[0].latency["ncnn"], ms=7.77, uncertainty=0.2, reliable=False)
    networks = tuple(
        replace(with_evaluation(network, passes=2), latency={**network.latency, "ncnn": ncnn})
        for network in result.networks
    )
    text = html_of(replace(result, networks=networks))
    assert "15.54" in text
    assert "12.43 – 18.65" in text  # 2 x 7.77, ± 20 %
    assert "7.77" not in text
    assert milliseconds(2 * networks[0].latency["onnxruntime"].ms) in text
