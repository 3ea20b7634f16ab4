"""Records show themselves as text and as HTML."""

from dataclasses import dataclass

from compress.artefacts.results import Goal, NetworkResult, PruneResult, RunRecord
from compress.artefacts.shown import Shown, short
from compress.measure.comparison import SpeedUp
from compress.measure.latency import Latency
from compress.pose.scoring import Score


@dataclass(frozen=True)
class Part(Shown):
    name: str
    macs: int


@dataclass(frozen=True)
class Whole(Shown):
    network: str
    goal_met: bool
    parts: tuple[Part, ...]
    best: Part
    times: dict[str, float]


WHOLE = Whole(
    "<b>&net", True, (Part("first", 1_234_567), Part("second", 12)), Part("second", 12), {"onnxruntime": 3.14159}
)


def test_a_record_prints_lines_and_a_table_of_those_inside_it() -> None:
    assert str(WHOLE).splitlines() == [
        "Whole",
        "network        <b>&net",
        "goal met       yes",
        "parts",
        "  name    macs",
        "  first   1.235 M",
        "  second  12",
        "best",
        "  name         second",
        "  macs         12",
        "times",
        "  onnxruntime  3.142",
    ]


def test_html_has_the_same_figures_and_escapes_names() -> None:
    html = WHOLE._repr_html_()
    assert html.startswith("<table>")
    assert html.count("<tr>") == html.count("</tr>") == len(str(WHOLE).splitlines())  # the table inside is a row too
    assert html.count("<table>") == html.count("</table>") == 2
    assert "&lt;b&gt;&amp;net" in html
    assert "<b>" not in html


def test_what_is_empty_is_left_out_and_what_is_long_is_counted() -> None:
    many = Whole("net", False, tuple(Part(str(n), n) for n in range(20)), Part("best", 0), {})
    lines = str(many).splitlines()
    assert "  and 12 more" in lines
    assert "times" not in lines


def test_long_and_missing_values_are_short() -> None:
    assert short(None) == "–"
    assert short(()) == "none"
    assert short(list(range(100))) == "100"
    assert short({}) == "none"
    assert short((256, 192), "input_hw") == "256x192"
    assert short(("a", "b")) == "a, b"
    assert short(123_456, "size_bytes") == "123.5 kB"
    assert short(0.123456) == "0.1235"


def test_two_networks_stand_in_one_table() -> None:
    networks = [
        NetworkResult(name, role, ".", {}, (), 10, macs, (), (), (), {}, {"ncnn": Latency(1.5, "ncnn", "measured")})
        for name, role, macs in (("given", "given", 50_000), ("pruned", "pruned", 20_000))
    ]
    run = RunRecord("runs/a", ("compress",), {}, {})
    goal = Goal("multiply-adds", 0.4, 0.4, 0.0, True)
    result = PruneResult("net", (64, 64), *networks, {"ncnn": SpeedUp(2, 1.9, 2.1, "faster")}, goal, (), run)
    assert str(result).splitlines() == [
        "PruneResult",
        "network   net",
        "input hw  64x64",
        "goal      0.4 of the multiply-adds, 0.4 requested: met",
        "networks",
        "  name    params  macs  ncnn",
        "  given   10      50 k  1.5 ms, measured",
        "  pruned  10      20 k  1.5 ms, measured",
        "speed up",
        "  ncnn    2.00 times (1.90 to 2.10), faster",
    ]


def test_figures_say_their_spread_and_how_they_came_about() -> None:
    assert short(Latency(3.2149, "ncnn", "measured", uncertainty=0.021, reliable=True)) == "3.21 ms ± 2.1%, measured"
    assert short(Latency(3.2149, "ncnn", "predicted")) == "3.21 ms, predicted"
    assert (
        short(Latency(3.2, "ncnn", "measured", uncertainty=0.2, reliable=False)) == "3.2 ms ± 20.0%, measured, unsteady"
    )
    assert short(Score("AP", 0.5, 0.01, "training", "coco", 7, {})) == "AP 0.500 ± 0.010 on 7 coco pictures"
    assert short(Score("AP", None, None, "training", "coco", 7, {})) == "AP not measured on 7 coco pictures"
    assert short(SpeedUp(1.5, 1.4, 1.6, "faster")) == "1.50 times (1.40 to 1.60), faster"
