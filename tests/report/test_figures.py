"""Names in a chart: beside their own marks, or joined to them by a line."""

import math
import re

import pytest

from compress.report.figures import FONT, Axis, Figure, Mark, Panel, Series, svg, text_width

LABEL = re.compile(r'<text class="label" x="([\d.-]+)" y="([\d.-]+)"[^>]*>(\w+)</text>')
CIRCLE = re.compile(r'<circle class="mark[^"]*" cx="([\d.-]+)" cy="([\d.-]+)"')
LEADER = re.compile(r'<path class="leader" d="M([\d.-]+) ([\d.-]+)L')


def chart(places):
    marks = tuple(Mark(x, y, f"name_{number}", labelled=True) for number, (x, y) in enumerate(places))
    return Figure("", "", Axis("x"), (Panel(Axis("y"), (Series("", marks),)),))


def away(point, box):
    """From a point to a box (left, top, right, bottom)."""
    return math.hypot(max(box[0] - point[0], 0.0, point[0] - box[2]), max(box[1] - point[1], 0.0, point[1] - box[3]))


@pytest.mark.parametrize("width", [330, 900])
@pytest.mark.parametrize("apart", [0.4, 0.12, 0.03])
def test_a_name_is_nearest_to_its_own_mark_or_has_a_line_from_it(width, apart):
    places = [(0.0, 0.0), (1.0, 1.0), *((0.5 + apart * (n % 3), 0.5 + apart * (n // 3)) for n in range(6))]
    drawn = svg(chart(places), width)
    centres = [(float(x), float(y)) for x, y in CIRCLE.findall(drawn)]
    joined = {(float(x), float(y)) for x, y in LEADER.findall(drawn)}
    assert len(centres) == len(places)
    found = LABEL.findall(drawn)
    assert len(found) >= 2
    for left, base, name in found:
        own = centres[int(name.removeprefix("name_"))]
        box = (float(left), float(base) - FONT, float(left) + text_width(name), float(base) + 4)
        if own not in joined:
            assert min(centres, key=lambda centre: away(centre, box)) == own, name


def test_more_series_than_colours_are_all_drawn_and_told_apart() -> None:
    """The seventh line has the first one's colour, and is dashed."""
    marks = (Mark(0, 0), Mark(1, 1))
    series = tuple(Series(f"line {n}", marks, n, "none", line="line") for n in range(8))
    drawn = svg(Figure("t", "t", Axis("x"), (Panel(Axis("y"), series),)), 900)
    classes = re.findall(r'class="(line [^"]*)"', drawn)
    assert set(classes) == {*(f"line c{n}" for n in range(6)), "line c0 dashed", "line c1 dashed"}
