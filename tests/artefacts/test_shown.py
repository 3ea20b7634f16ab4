"""Records show themselves as text and as HTML."""

from dataclasses import dataclass

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


def test_a_record_prints_a_line_per_figure_indented_below_what_it_belongs_to() -> None:
    assert str(WHOLE).splitlines() == [
        "Whole",
        "network        <b>&net",
        "goal met       yes",
        "parts",
        "  first",
        "    macs       1.235 M",
        "  second",
        "    macs       12",
        "best",
        "  name         second",
        "  macs         12",
        "times",
        "  onnxruntime  3.142",
    ]


def test_html_has_the_same_figures_and_escapes_names() -> None:
    html = WHOLE._repr_html_()
    assert html.startswith("<table>")
    assert html.count("<tr>") == html.count("</tr>") == len(str(WHOLE).splitlines()) - 1
    assert "&lt;b&gt;&amp;net" in html
    assert "<b>" not in html


def test_long_and_missing_values_are_short() -> None:
    assert short(None) == "–"
    assert short(()) == "none"
    assert short(list(range(100))) == "100 entries"
    assert short({}) == "none"
    assert short((256, 192)) == "256, 192"
    assert short(123_456, "size_bytes") == "123.5 kB"
    assert short(0.123456) == "0.1235"


def test_figures_say_their_spread_and_how_they_came_about() -> None:
    assert short(Latency(3.2149, "ncnn", "measured", uncertainty=0.021, reliable=True)) == "3.21 ms ± 2.1%, measured"
    assert short(Latency(3.2149, "ncnn", "predicted")) == "3.21 ms, predicted"
    assert (
        short(Latency(3.2, "ncnn", "measured", uncertainty=0.2, reliable=False)) == "3.2 ms ± 20.0%, measured, unsteady"
    )
    assert short(Score("AP", 0.5, 0.01, "training", "coco", 7, {})) == "AP 0.500 ± 0.010 on 7 coco pictures"
    assert short(Score("AP", None, None, "training", "coco", 7, {})) == "AP not measured on 7 coco pictures"
    assert short(SpeedUp(1.5, 1.4, 1.6, "faster")) == "1.50 times (1.40 to 1.60), faster"
