import csv
import io
import json
import re
from html import escape
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from fake_results import fake_results

from compress.report.page import COLUMNS, order_agreement, page, picture_of, rows_of, table_text, write_report
from compress.report.plots import front_chart, javascript
from compress.report.terminal import gain_text, speed_text


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
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_report(fake_results(), folder)
    return folder


@pytest.fixture(scope="module")
def parsed(folder):
    return Resources((folder / "report.html").read_text(encoding="utf-8"))


def marks_of(chart, kind):
    """The points of every layer that draws this kind of mark."""
    spec = chart.to_dict()
    layers = [layer for layer in spec["layer"] if layer["mark"]["type"] == kind]
    return [spec["datasets"][layer["data"]["name"]] for layer in layers]


def html_of(results):
    return page(results, rows_of(results), None)


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


def test_page_shows_every_network_and_its_numbers(parsed):
    for network in fake_results()["networks"]:
        for shown in (
            network["name"],
            f"{network['val']['AP']:.3f}",
            f"{network['supernet_ap']:.3f}",
            f"{network['measured_ms']:.2f}",
            f"{network['cost']['predicted_ms']:.2f}",
            f"{100 * network['prediction_error']:+.1f} %",
        ):
            assert shown in parsed.text


def test_page_says_what_a_sceptic_asks(parsed):
    results = fake_results()
    for shown in (
        "onnxruntime 1.30.0, 1 thread",
        "AMD EPYC 7B13",
        "a sample of 500 synthetic validation pictures with 1,312 people",
        "Its standard error is 0.011",
        f"{100 * results['prediction']['mean_error']:.1f} %",
        f"{100 * results['prediction']['worst_error']:.1f} %",
        "Unreliable, for too great an uncertainty: finalist_2",
        "compress search recipes/bhrnet.yaml --out 'runs/bhrnet synthetic'",
        '"input_hw"',
        "23 min 32 s",  # 1412 s of supernet
        *results["caveats"],
    ):
        assert shown in parsed.text


def test_a_gain_is_a_headline_only_beyond_chance(parsed):
    # Two standard errors of a difference: 2 * sqrt(0.011² + 0.011²) = 0.031; the gains are 0.023 and 0.042.
    assert "(+0.023, within two standard errors, may be chance)" in parsed.text
    assert "+0.042 AP at no more time, beyond two standard errors" in parsed.text
    assert "1.34× as fast end to end (1.32–1.36)" in parsed.text


@pytest.mark.parametrize("verdict", ["worthless", "unsteady", "no difference", "slower", "faster"])
def test_a_speed_up_is_a_headline_only_where_it_is_one(verdict):
    side = {"network": "f", "speedup": 9.45, "low": 9.0, "high": 9.9, "verdict": verdict}
    head, rest = speed_text({"baseline": "b", "at_its_accuracy": side})
    assert head == ("9.45× as fast" if verdict == "faster" else "")
    assert "9.45" not in rest or verdict == "slower"


@pytest.mark.parametrize("verdict", ["worthless", "within chance", "beyond chance"])
@pytest.mark.parametrize("steady", [True, False])
@pytest.mark.parametrize("gain", [0.0, 0.04, -0.04])
def test_a_gain_is_a_headline_only_where_it_is_one(verdict, steady, gain):
    side = {"network": "f", "ap": 0.1 + gain, "baseline_ap": 0.1, "verdict": verdict, "steady": steady}
    head, _ = gain_text({"baseline": "b", "at_its_latency": side})
    assert bool(head) == (verdict == "beyond chance" and steady and gain > 0)


def test_text_is_escaped_everywhere():
    evil = "<script>alert('x')</script>"
    results = fake_results(trials=3)
    results["networks"][0] |= {"name": evil, "role": "finalist", "architecture": {"family": evil, evil: evil}}
    results["comparison"][0] |= {"baseline": evil}
    results["caveats"] = [evil]
    results["command"] = ["compress", evil]
    results["recipe"] = {evil: evil}
    results["environment"] = {evil: evil, "packages": {evil: evil}}
    results["seconds"] = {evil: 1.0}
    results["space"]["family"] = evil
    results["engine"]["device"] = evil
    results["data"]["kind"] = evil
    results["space"]["choices"] = {evil: [evil]}
    text = html_of(results)
    assert "<script>alert" not in text
    assert "</script>alert" not in text
    assert escape(evil) in text
    assert Resources(text).scripts == 3


def test_nothing_known_is_shown_as_dashes():
    results = fake_results(trials=2)
    for network in results["networks"]:
        network |= {
            "val": dict.fromkeys(network["val"]),
            "supernet_ap": None,
            "ap_standard_error": None,
            "ncnn_ms": None,
            "exports": {},
        }
    results |= {"comparison": [], "caveats": [], "supernet": {"loss": []}, "table": {"kernels": 3, "scale": None}}
    results["data"]["val_people"] = None
    text = html_of(results)
    assert "standard error was not estimated" in text
    assert "None" not in Resources(text).text
    assert ">nan" not in text
    assert 'id="charts">{"front"' in text


def test_no_trials_and_no_networks_is_still_a_page():
    results = fake_results(trials=0) | {"networks": [], "comparison": [], "prediction": {}}
    assert picture_of(results, rows_of(results)) is None
    assert "<h1>" in html_of(results)


def test_other_families_show_their_fields():
    results = fake_results(trials=1)
    results["networks"][0]["architecture"] = {"family": "hrnet", "blocks": 4, "modules": [1, 4, 3], "stem": None}
    text = Resources(html_of(results)).text
    assert "modules" in text
    assert "1, 4, 3" in text


def test_composition_shows_blocks_kinds_expansions_and_channels():
    results = fake_results(trials=1)
    results["networks"] = results["networks"][:1]
    architecture = {"width": 10, "blocks": [[7], [8, 9]], "kinds": ["dir", "basic"], "expansions": [2, 4]}
    results["networks"][0]["architecture"] = architecture
    text = html_of(results)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", re.search(r"<table class=blocks>.*?</table>", text, re.DOTALL).group())
    assert cells == ["7", "8", "dir", "2", "10", "", "9", "basic", "4", "20"]
    assert "24 blocks" in text


def test_csv_has_every_network_and_trial(folder):
    results = fake_results()
    lines = list(csv.DictReader(io.StringIO((folder / "pareto.csv").read_text())))
    assert tuple(lines[0]) == COLUMNS
    assert [line["role"] for line in lines].count("trial") == len(results["trials"]) == 60
    assert len(lines) == 60 + len(results["networks"])
    for line, network in zip(lines, results["networks"], strict=False):
        assert line["name"] == network["name"]
        assert float(line["ap"]) == network["val"]["AP"]
        assert float(line["measured_ms"]) == network["measured_ms"]
        assert float(line["predicted_ms"]) == network["cost"]["predicted_ms"]
        assert int(line["params"]) == network["cost"]["params"]
    trial = lines[-1]
    assert trial["provenance"] == "supernet"
    assert trial["measured_ms"] == trial["low_ms"] == ""
    assert float(trial["ap"]) == results["trials"][-1]["ap"]


def test_the_interval_is_that_of_the_measured_latency():
    results = fake_results(trials=0)
    for row, network in zip(rows_of(results), results["networks"], strict=True):
        share = network["latency"]["uncertainty"]
        assert row.low_ms == pytest.approx(row.measured_ms * (1 - share))
        assert row.high_ms == pytest.approx(row.measured_ms * (1 + share))


def test_the_front_goes_by_end_to_end_time():
    """A network of half the time whose maps take long to be read is behind one that is better and read at once."""
    results = fake_results(trials=0)
    quick, good = results["networks"][:2]
    quick |= {"measured_ms": 1.0, "decode_ms": {"median": 9.0}, "end_to_end_ms": 10.0, "val": {"AP": 0.4}}
    good |= {"measured_ms": 2.0, "decode_ms": {"median": 0.5}, "end_to_end_ms": 2.5, "val": {"AP": 0.5}}
    results["networks"] = [quick, good]
    assert [row.on_front for row in rows_of(results)] == [False, True]
    (line,) = marks_of(front_chart(rows_of(results)), "line")
    assert [point["ms"] for point in line] == [2.5]


def test_front_is_the_non_dominated_set_of_the_measured_networks():
    results = fake_results()
    networks = results["networks"]
    expected = {
        a["name"]
        for a in networks
        if not any(
            b["measured_ms"] <= a["measured_ms"] and b["val"]["AP"] >= a["val"]["AP"] and b is not a for b in networks
        )
    }
    rows = rows_of(results)
    assert {row.name for row in rows if row.on_front and row.role != "trial"} == expected
    (line,) = marks_of(front_chart(rows), "line")
    assert {point["name"] for point in line} == expected


def test_chart_puts_trials_where_predicted_and_networks_where_measured():
    results = fake_results()
    small, large = marks_of(front_chart(rows_of(results)), "point")
    assert [(p["ms"], p["ap"]) for p in small] == [(t["cost"]["predicted_ms"], t["ap"]) for t in results["trials"]]
    expected = [(pytest.approx(n["end_to_end_ms"]), n["val"]["AP"]) for n in results["networks"]]
    assert [(p["ms"], p["ap"]) for p in large] == expected
    assert {p["kind"] for p in small}.isdisjoint(p["kind"] for p in large)
    assert not any("measured_ms" in p or "low_ms" in p for p in small)


def test_order_agreement_counts_pairs():
    def network(supernet, ap):
        return {"supernet_ap": supernet, "val": {"AP": ap}}

    networks = [network(1, 1), network(2, 3), network(3, 2), network(None, 9)]
    assert order_agreement(networks) == (2, 3)
    assert order_agreement([]) == (0, 0)


def test_picture_is_a_chart(folder):
    picture = cv2.imdecode(np.frombuffer((folder / "pareto.png").read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    height, width, _ = picture.shape
    assert height > 900
    assert width > 1600
    assert tuple(picture[2, 2]) == (255, 255, 255)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_csv_leaves_unknown_empty():
    results = fake_results(trials=0)
    results["networks"] = results["networks"][:1]
    results["networks"][0] |= {"val": {"AP": None}, "latency": None, "measured_ms": None}
    (line,) = csv.DictReader(io.StringIO(table_text(rows_of(results))))
    assert [line[key] for key in ("ap", "measured_ms", "low_ms", "high_ms", "on_front")] == ["", "", "", "", "False"]


def test_edits_are_shown_beside_the_architecture():
    results = fake_results(trials=1)
    results["networks"] = results["networks"][:1]
    results["networks"][0]["edits"] = {"large kernels": "conv_to_3x3", "trunk": 0.5}
    results["space"]["choices"]["edits.trunk"] = [0.5, 1.0]
    text = Resources(html_of(results)).text
    for shown in ("large kernels", "conv_to_3x3", "50.0 % of the channels", "carried over to what was edited"):
        assert shown in text


def test_a_search_around_a_given_network_has_no_supernet():
    results = fake_results(trials=2)
    results["recipe"]["search"] = {"start": "runs/given", "tuning_samples": 256}
    results["supernet"] = {"loss": []}
    text = Resources(html_of(results)).text
    assert "the weights of the given network, tuned on 256 samples" in text
    assert "Supernet" not in text
    assert "supernet score" not in text
    assert {row.provenance for row in rows_of(results) if row.role == "trial"} == {"given weights"}


def test_a_trial_stands_at_its_predicted_end_to_end_time():
    rows = rows_of(fake_results() | {"decoding": {"median": 1.5}})
    trials = [row for row in rows if row.role == "trial"]
    assert trials
    assert all(row.end_to_end_ms == pytest.approx(row.predicted_ms + 1.5) for row in trials)
    drawn = next(points for points in marks_of(front_chart(rows), "point") if len(points) == len(trials))
    assert sorted(point["ms"] for point in drawn) == pytest.approx(sorted(row.end_to_end_ms for row in trials))
    written = list(csv.DictReader(io.StringIO(table_text(rows))))
    assert all(line["end_to_end_ms"] for line in written if line["role"] == "trial")


def test_more_accuracy_in_as_much_time_is_not_told_as_in_less():
    side = {"network": "f", "ap": 0.2, "baseline_ap": 0.1, "verdict": "beyond chance", "steady": True}
    told = [
        " ".join(gain_text({"baseline": "b", "at_its_latency": {**side, "faster": faster}})) for faster in (True, False)
    ]
    assert "at no more time" in told[0]
    assert "in as much time, within the uncertainty" in told[1]


def test_what_an_engine_refused_and_that_there_is_no_finalist_stand_first():
    results = fake_results() | {"failed_exports": ["finalist_1: ncnn: no <such> layer"], "no_finalist": "none is good"}
    text = html_of(results)
    section = text[text.index("Against the hand-made networks") :]
    assert section.index("none is good") < section.index("class=card")
    assert "no &lt;such&gt; layer" in section


def test_all_milliseconds_are_of_the_procedures_passes():
    results = fake_results()
    for network in results["networks"]:
        network |= {"passes": 2, "ncnn_ms": 7.77, "ncnn_uncertainty": 0.2, "ncnn_reliable": False}
    text = html_of(results)
    assert "15.54" in text
    assert "7.77" not in text
    one = results["networks"][0]
    assert f"{2 * one['measured_ms']:.2f}" in text
