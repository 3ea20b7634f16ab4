"""Charts as SVG text: of a page, where its style sheet colours them for light and dark, and as a PNG on white.

A chart is a record of panels over one horizontal axis. Everything is drawn here, labels placed where they meet nothing,
so that a page needs no script to show it; the only file that knows vl_convert.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Literal

import vl_convert

from compress.report.terminal import file_size, short

Unit = Literal["", "ms", "count", "bytes", "percent", "whole"]
Shape = Literal["circle", "diamond", "square", "triangle", "none"]

WIDE, NARROW = 900, 330
"""Widths that a page draws a chart in: it shows the one that fits."""

FONT = 13.0
_WIDTH = 0.6  # of a letter, over the font's size: about that of wide fonts
_COLOURS = ("#0072b2", "#c25100", "#00795a", "#8a4d83", "#6b7480", "#1d232a")  # told apart by colour-blind eyes
_PNG_STYLE = (
    "text{font:13px sans-serif;fill:#3d4650}.label{fill:#1d232a;stroke:#fff;stroke-width:3px;paint-order:stroke}"
    ".leader{stroke:#6b7480;stroke-width:.8}.title{font-size:17px;font-weight:bold;fill:#1d232a}"
    ".grid{stroke:#e3e7ec}.frame{stroke:#aab3bd;fill:none}.mark{stroke:#fff;stroke-width:1}"
    ".line{fill:none;stroke-width:1.8}.dashed{stroke-dasharray:5 4}.bar{stroke-width:1.6}.small{opacity:.65}"
    + "".join(
        f".c{n}{{fill:{colour}}}.line.c{n},.bar.c{n}{{fill:none;stroke:{colour}}}"
        f".hollow.c{n}{{fill:#fff;stroke:{colour};stroke-width:2}}"
        for n, colour in enumerate(_COLOURS)
    )
)


@dataclass(frozen=True)
class Axis:
    """title: with the unit. unit: how numbers on it are written. log: a logarithmic scale where values span enough."""

    title: str
    unit: Unit = ""
    log: bool = False


@dataclass(frozen=True)
class Mark:
    """A point, with the ends of its intervals where they are known.

    name: written beside the mark where it is labelled. tip: number of its text among the page's tips, None for none.
    link: id of the place in the page that tells more.
    """

    x: float
    y: float
    name: str = ""
    labelled: bool = False
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None
    tip: int | None = None
    link: str = ""


@dataclass(frozen=True)
class Series:
    """Marks of one kind. colour: number in the palette of six; from there on they come again, and lines dashed. hollow:
    predicted. line: joins them, or none.

    small: without a border, for hundreds of them. budget: whether the page's budget filter is about them. optional:
    whether the page has a switch that takes them away.
    """

    name: str
    marks: tuple[Mark, ...]
    colour: int = 0
    shape: Shape = "circle"
    hollow: bool = False
    small: bool = False
    line: Literal["", "line", "step", "dashed"] = ""
    budget: bool = False
    optional: bool = False

    @property
    def tone(self) -> str:
        """Class of its colour."""
        return f"c{self.colour % len(_COLOURS)}"

    @property
    def stroke(self) -> str:
        """Classes of its line."""
        dashed = self.line == "dashed" or self.colour >= len(_COLOURS)
        return f"line {self.tone}{' dashed' if dashed else ''}"


@dataclass(frozen=True)
class Panel:
    """One vertical axis. share: of the chart's height."""

    y: Axis
    series: tuple[Series, ...]
    share: float = 1.0


@dataclass(frozen=True)
class Figure:
    """A chart. about: what it shows, for who cannot see it. file: of its PNG; '' for none. height: of a wide one."""

    title: str
    about: str
    x: Axis
    panels: tuple[Panel, ...]
    height: int = 400
    file: str = ""

    @property
    def empty(self) -> bool:
        """Nothing to draw."""
        return not any(series.marks for panel in self.panels for series in panel.series)


# --- Scales ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """Values low to high on pixels start to end."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        """The pixel of a value; one beyond the ends is at the end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


_SPAN = 4  # times, from which a logarithmic scale is worth it


def scale_of(values: Sequence[float], start: float, end: float, log: bool) -> Scale:
    """Around all values, with a margin at both ends."""
    low, high = min(values), max(values)
    if log and low > 0 and high / low >= _SPAN:
        margin = (high / low) ** 0.05
        return Scale(low / margin, high * margin, start, end, True)
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    positive = low >= 0
    return Scale(max(0.0, low - margin) if positive else low - margin, high + margin, start, end, False)


def ticks_of(scale: Scale, most: int, unit: Unit = "") -> list[float]:
    """Round values inside, at most about so many; whole ones of a unit that has no parts."""
    if scale.log:
        decades = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
        for of_decade in ((1, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1,)):
            ticks = [step * 10.0**decade for decade in decades for step in of_decade]
            inside = [tick for tick in ticks if scale.low <= tick <= scale.high]
            if 2 <= len(inside) <= most:
                return inside
    rough = (scale.high - scale.low) / max(2, most)
    if unit in ("whole", "count", "bytes"):
        rough = max(1.0, rough)
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [1, 2, 5, 10] if power == 1 and unit == "whole" else [1, 2, 2.5, 5, 10]
    step = next(one * power for one in steps if one * power >= rough * 0.999)
    first = math.ceil(scale.low / step - 1e-9)
    last = math.floor(scale.high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_texts(ticks: Sequence[float], unit: Unit) -> list[str]:
    """Values as they stand on an axis, with as many decimals as the one that needs most."""
    texts = [_tick_text(tick, unit) for tick in ticks]
    decimals = max((len(text.partition(".")[2]) for text in texts), default=0)
    spread = min(ticks, default=0) <= 0 or max(ticks) / min(ticks) < 10 * _SPAN
    if unit in ("", "ms") and spread and not any("e" in text for text in texts):
        return [f"{tick:.{decimals}f}" if tick else "0" for tick in ticks]
    return texts


def _tick_text(value: float, unit: Unit) -> str:
    value = float(f"{value:.6g}")
    if unit == "count":
        return short(round(value)) if abs(value) < 1000 else short(value).replace(".00 ", " ").replace(".0 ", " ")
    if unit == "bytes":
        return file_size(value).replace(".00 ", " ")
    if unit == "percent":
        return f"{100 * value:g} %"
    return f"{value:,.0f}" if unit == "whole" else f"{value:g}"


def text_width(text: str, size: float = FONT) -> float:
    """About how wide a text is, in the unit of its size."""
    return _WIDTH * size * len(text)


# --- Drawing ---------------------------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]  # left, top, right, bottom


def svg(figure: Figure, width: int, *, links: bool = True) -> str:
    """The chart, `width` units wide, as an SVG element. links: marks lead to places of the page."""
    narrow = width < 600
    height = figure.height * (0.86 if narrow else 1.0)
    legend, legend_height = _legend(figure, width)
    xs = [
        value
        for panel in figure.panels
        for series in panel.series
        for mark in series.marks
        for value in _ends(mark.x, mark.x_low, mark.x_high, figure.x.log)
    ]
    inner, y_scales = _panel_places(figure, legend_height, height), []
    for panel, (top, bottom) in zip(figure.panels, inner, strict=True):
        ys = [v for series in panel.series for m in series.marks for v in _ends(m.y, m.y_low, m.y_high, panel.y.log)]
        y_scales.append(scale_of(ys or [0.0, 1.0], bottom, top, panel.y.log))
    y_ticks = [
        ticks_of(scale, max(2, int((scale.start - scale.end) / 38)), panel.y.unit)
        for panel, scale in zip(figure.panels, y_scales, strict=True)
    ]
    widest = max(
        text_width(text)
        for panel, ticks in zip(figure.panels, y_ticks, strict=True)
        for text in tick_texts(ticks, panel.y.unit)
    )
    left, right = widest + 12, width - 14
    x_scale = scale_of(xs, left, right, figure.x.log)
    most = int((right - left) / (60 if narrow else 76))
    x_ticks = _fitting(ticks_of(x_scale, most, figure.x.unit), x_scale, figure.x.unit)
    parts = [*legend]
    for panel, y_scale, ticks in zip(figure.panels, y_scales, y_ticks, strict=True):
        parts += _frame(panel, x_scale, y_scale, x_ticks, ticks)
        parts += _marks(panel, x_scale, y_scale, links)
    bottom = inner[-1][1]
    for tick, text in zip(x_ticks, tick_texts(x_ticks, figure.x.unit), strict=True):
        parts.append(f'<text x="{x_scale(tick):.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{escape(text)}</text>')
    title = textwrap.wrap(figure.x.title, int(width / (_WIDTH * FONT)))
    for number, line in enumerate(title):
        y = bottom + 38 + 17 * number
        place = (left + right) / 2 if len(title) == 1 and text_width(line) < right - left else width / 2
        parts.append(f'<text x="{place:.1f}" y="{y:.1f}" text-anchor="middle">{escape(line)}</text>')
    whole = bottom + 29 + 17 * len(title)
    linked = links and any(m.link for p in figure.panels for s in p.series for m in s.marks)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {whole:.0f}" '
        f'role="{"group" if linked else "img"}" '
        f'aria-label="{escape(figure.about)}">{"".join(parts)}</svg>'
    )


def png(figure: Figure, subtitle: str = "") -> bytes:
    """The chart on white with its title, as a PNG of twice the wide width."""
    inside = svg(figure, WIDE, links=False)
    height = float(inside.split('viewBox="0 0 ', 1)[1].split('"', 1)[0].split()[1])
    head = 62 if subtitle else 42
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-20 0 {WIDE + 40} {height + head:.0f}" '
        f'width="{WIDE + 40}" height="{height + head:.0f}"><style>{_PNG_STYLE}</style>'
        f'<rect x="-20" width="{WIDE + 40}" height="{height + head:.0f}" fill="#fff"/>'
        f'<text class="title" x="0" y="28">{escape(figure.title)}</text>'
        f'<text x="0" y="48">{escape(subtitle)}</text><g transform="translate(0 {head})">'
        f"{inside[inside.index('>') + 1 : -len('</svg>')]}</g></svg>"
    )
    return bytes(vl_convert.svg_to_png(text, scale=2))


def _ends(value: float, low: float | None, high: float | None, log: bool) -> Iterable[float]:
    """What an axis must hold of a value: an interval down to nothing does not stretch a logarithmic one."""
    yield value
    if low is not None and not (log and low < value / 2):
        yield low
    if high is not None:
        yield high


def _panel_places(figure: Figure, legend_height: float, height: float) -> list[tuple[float, float]]:
    """Top and bottom of every panel; its axis's title stands above it."""
    whole = sum(panel.share for panel in figure.panels)
    places, top = [], legend_height
    for panel in figure.panels:
        size = height * panel.share / whole
        places.append((top + 24, top + size))
        top += size + 10
    return places


def _fitting(ticks: list[float], scale: Scale, unit: Unit) -> list[float]:
    """Every tick, or every second one and so on, so that their texts do not meet."""
    texts = tick_texts(ticks, unit)
    ticks = [t for t, text in zip(ticks, texts, strict=True) if scale(t) + text_width(text) / 2 < scale.end + 12]
    for step in range(1, len(ticks) + 1):
        shown = ticks[::step]
        places = zip(shown, tick_texts(shown, unit), strict=True)
        gaps = [
            scale(b) - scale(a) - (text_width(of_a) + text_width(of_b)) / 2 for (a, of_a), (b, of_b) in pairwise(places)
        ]
        if all(gap > 8 for gap in gaps):
            return shown
    return ticks[:1]


def _legend(figure: Figure, width: int) -> tuple[list[str], float]:
    """One entry per named series, in as many lines as it takes, and their height."""
    most = int((width - 34) / (_WIDTH * FONT))  # letters of a name; the tables have it whole
    names = {series.name: series for panel in figure.panels for series in panel.series if series.name}
    entries = {name if len(name) <= most else f"…{name[1 - most :]}": series for name, series in names.items()}
    if len(entries) < 2:
        return [], 0.0
    parts, x, y = [], 8.0, 12.0
    for name, series in entries.items():
        needed = 20 + text_width(name) + 18
        if x > 8 and x + needed > width:
            x, y = 8.0, y + 21
        if series.shape == "none":
            parts.append(f'<path class="{series.stroke}" d="M{x - 6:.1f} {y:.1f}h16"/>')
        else:
            parts.append(_shape(series, x, y))
        parts.append(f'<text x="{x + 14:.1f}" y="{y + 4.5:.1f}">{escape(name)}</text>')
        x += needed
    return parts, y + 10


def _frame(panel: Panel, x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[str]:
    """Grid, frame, numbers and title of a panel."""
    parts = [f'<path class="grid" d="M{x(tick):.1f} {y.start:.1f}V{y.end:.1f}"/>' for tick in x_ticks]
    for tick, text in zip(y_ticks, tick_texts(y_ticks, panel.y.unit), strict=True):
        parts.append(f'<path class="grid" d="M{x.start:.1f} {y(tick):.1f}H{x.end:.1f}"/>')
        parts.append(f'<text x="{x.start - 8:.1f}" y="{y(tick) + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    parts.append(f'<path class="frame" d="M{x.start:.1f} {y.end:.1f}V{y.start:.1f}H{x.end:.1f}"/>')
    parts.append(f'<text x="4" y="{y.end - 9:.1f}">{escape(panel.y.title)}</text>')
    return parts


def _marks(panel: Panel, x: Scale, y: Scale, links: bool) -> list[str]:
    """Lines, then intervals, then marks, then the names that have room."""
    lines, bars, marks, taken = [], [], [], []
    for series in panel.series:
        for mark in series.marks:
            px, py = x(mark.x), y(mark.y)
            if _large(series):
                taken.append((px - 8, py - 8, px + 8, py + 8))
            if mark.x_low is not None and mark.x_high is not None:
                ends = x(mark.x_low), x(mark.x_high)
                bars.append(f'<path class="bar {series.tone}" d="M{ends[0]:.1f} {py:.1f}H{ends[1]:.1f}"/>')
                taken.append((ends[0], py - 2, ends[1], py + 2))
            if mark.y_low is not None and mark.y_high is not None:
                tops = y(mark.y_high), y(mark.y_low)
                bars.append(f'<path class="bar {series.tone}" d="M{px:.1f} {tops[0]:.1f}V{tops[1]:.1f}"/>')
                taken.append((px - 2, tops[0], px + 2, tops[1]))
        if series.line and series.marks:
            line, points = _line(series, x, y)
            lines.append(line)
            taken += _along(points)
        if series.shape != "none":
            marks += [_mark(series, mark, x(mark.x), y(mark.y), links) for mark in series.marks]
    centres = [(x(mark.x), y(mark.y)) for series in panel.series if _large(series) for mark in series.marks]
    frame = (x.start, y.end, x.end, y.start)
    leaders: list[str] = []
    labels: list[str] = []
    named: list[Box] = []
    for mark in (mark for series in panel.series for mark in series.marks if mark.labelled):
        own = x(mark.x), y(mark.y)
        found = _label_place(mark.name, own, taken, named, [one for one in centres if one != own], frame)
        if not found:
            continue
        place, leader = found
        taken.append(place)
        named.append(place)
        if leader:
            taken += _along([own, leader])
            leaders.append(f'<path class="leader" d="M{own[0]:.1f} {own[1]:.1f}L{leader[0]:.1f} {leader[1]:.1f}"/>')
        labels.append(
            f'<text class="label" x="{place[0]:.1f}" y="{place[3] - 4:.1f}" aria-hidden="true">'
            f"{escape(mark.name)}</text>"
        )
    return [*lines, *bars, *leaders, *marks, *labels]


def _large(series: Series) -> bool:
    """Whether its marks are large enough for a name beside one to be taken for its own."""
    return series.shape != "none" and not series.small


def _line(series: Series, x: Scale, y: Scale) -> tuple[str, list[tuple[float, float]]]:
    """The line, and the corners that it goes through."""
    ordered = sorted(series.marks, key=lambda mark: mark.x) if series.line == "step" else series.marks
    points = [(x(mark.x), y(mark.y)) for mark in ordered]
    if series.line == "step":
        points = [points[0], *(corner for one, other in pairwise(points) for corner in ((other[0], one[1]), other))]
    path = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
    return f'<path class="{series.stroke}" d="M{path}"/>', points


def _along(points: Sequence[tuple[float, float]]) -> Iterable[Box]:
    """Small boxes along a line, that no name should lie on."""
    for (x, y), (to_x, to_y) in pairwise(points):
        steps = max(1, int(math.hypot(to_x - x, to_y - y) / 6))
        for step in range(steps + 1):
            px, py = x + (to_x - x) * step / steps, y + (to_y - y) * step / steps
            yield px - 2, py - 2, px + 2, py + 2


def _mark(series: Series, mark: Mark, px: float, py: float, links: bool) -> str:
    """Its shape, with what the page's script needs: its tip, and its value for the budget."""
    shape = _shape(series, px, py)
    if not links:
        return shape
    data = "" if mark.tip is None else f' data-tip="{mark.tip}"'
    if series.budget:
        data += f' data-x="{mark.x:.6g}"'
    if series.optional:
        data += ' class="optional"'
    if not mark.link:
        return f"<g{data}>{shape}</g>" if data else shape
    area = f'<circle class="area" cx="{px:.1f}" cy="{py:.1f}" r="12"/>'
    return f'<a href="#{escape(mark.link)}" aria-label="{escape(mark.name)}"{data}>{area}{shape}</a>'


def _shape(series: Series, px: float, py: float) -> str:
    """A mark of the series at a pixel."""
    classes = f"mark {series.tone}" + (" hollow" if series.hollow else "") + (" small" if series.small else "")
    r = 3.2 if series.small else 6.0
    match series.shape:
        case "diamond":
            r *= 1.25
            return f'<path class="{classes}" d="M{px - r:.1f} {py:.1f}l{r} {-r}l{r} {r}l{-r} {r}z"/>'
        case "square":
            r *= 0.9
            return f'<path class="{classes}" d="M{px - r:.1f} {py - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z"/>'
        case "triangle":
            r *= 1.1
            return (
                f'<path class="{classes}" d="M{px - r:.1f} {py + 0.8 * r:.1f}h{2 * r:.1f}l{-r:.1f} {-1.8 * r:.1f}z"/>'
            )
        case _:
            return f'<circle class="{classes}" cx="{px:.1f}" cy="{py:.1f}" r="{r}"/>'


_Point = tuple[float, float]


def _label_place(
    name: str, own: _Point, taken: Sequence[Box], named: Sequence[Box], others: Sequence[_Point], frame: Box
) -> tuple[Box, _Point | None] | None:
    """Where a name meets nothing, and where a line from its mark meets it, if it needs one.

    Beside the mark, above or below, and nearer to it than to any of the other marks; else further out, with a line that
    passes none of them and none of the names. None where there is no room.
    """
    (px, py), width, height = own, text_width(name), FONT + 4
    for out in (0, 14, 30, 46):
        for left, top in (
            (px + 10 + out, py - height / 2),
            (px - width - 10 - out, py - height / 2),
            (px - width / 2, py - height - 9 - out),
            (px - width / 2, py + 9 + out),
            (px + 8, py - height - 7 - out),
            (px - width - 8, py - height - 7 - out),
            (px + 8, py + 7 + out),
            (px - width - 8, py + 7 + out),
        ):
            box = (left, top, left + width, top + height)
            inside = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] + 12 and box[3] <= frame[3]
            if not inside or any(_meet(box, other) for other in taken):
                continue
            end = _nearest(own, box)
            if not out:
                away = math.dist(own, end)
                if all(math.dist(other, _nearest(other, box)) > away for other in others):
                    return box, None
                continue
            line = list(_along([own, end]))
            apart = all(math.dist(other, _nearest(other, step)) > 8 for step in line for other in others)
            if apart and not any(_meet(step, other) for step in line for other in named):
                return box, end
    return None


def _nearest(point: _Point, box: Box) -> _Point:
    """The place of the box that is nearest to the point."""
    return min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3])


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


# --- Other drawings --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parallel:
    """Choices, one a row, and candidates as lines through the values they took.

    rows: choice → its values in order, as text. lines: per candidate the number of its value in every row, and whether
    it is one to stand out.
    """

    about: str
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    lines: tuple[tuple[tuple[int, ...], bool], ...]


def parallel_svg(chart: Parallel, width: int) -> str:
    """The chart, `width` units wide; candidates that stand out are drawn last."""
    left = max(text_width(name, 12) for name, _ in chart.rows) + 14
    right, step = width - 30, 34
    parts: list[str] = []

    def place(row: int, value: int) -> tuple[float, float]:
        count = len(chart.rows[row][1])
        share = value / (count - 1) if count > 1 else 0.5
        return left + 12 + share * (right - left - 12), 14 + row * step

    for numbers, standing_out in sorted(chart.lines, key=lambda line: line[1]):
        path = "L".join("{:.0f} {:.0f}".format(*place(row, value)) for row, value in enumerate(numbers))
        parts.append(f'<path class="{"thread out" if standing_out else "thread"}" d="M{path}"/>')
    for row, (name, values) in enumerate(chart.rows):
        (start, y), (end, _) = place(row, 0), place(row, len(values) - 1)
        parts.append(f'<path class="frame" d="M{start:.0f} {y}H{end:.0f}"/>')
        parts.append(f'<text x="4" y="{y + 4}" style="font-size:12px">{escape(name)}</text>')
        last = -math.inf
        for number, value in enumerate(values):
            px, _ = place(row, number)
            half = text_width(value, 12) / 2
            parts.append(f'<circle class="stop" cx="{px:.0f}" cy="{y}" r="2.5"/>')
            if px - half > last + 4 and px + half <= width:
                last = px + half
                parts.append(
                    f'<text class="label" x="{px:.0f}" y="{y + 17}" text-anchor="middle" style="font-size:11px">'
                    f"{escape(value)}</text>"
                )
    height = 14 + step * len(chart.rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(chart.about)}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class Place:
    """Blocks of one stage on one branch. width: channels, None where not known. change: blocks more than the
    baseline's; None where there is none to compare with."""

    blocks: int
    width: int | None
    change: int | None = None
    width_changed: bool = False


@dataclass(frozen=True)
class Plan:
    """A network as branches (rows) and stages (columns); None where a stage lacks a branch. rows: what is said of each
    branch; rows_before: the same of the baseline, '' where it is no other."""

    about: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    places: tuple[tuple[Place | None, ...], ...]
    rows_before: tuple[str, ...] = ()

    @property
    def differs(self) -> bool:
        """From the baseline, where there is one."""
        return any(self.rows_before) or any(
            one and (one.change or one.width_changed) for row in self.places for one in row
        )


def plan_svg(plan: Plan) -> str:
    """Boxes with the number of blocks and channels; what differs from the baseline is framed and says by how much."""
    before = [f"was {row}" if row else "" for row in plan.rows_before] or [""] * len(plan.rows)
    left = max((text_width(row, 12) for row in (*plan.rows, *before)), default=0) + 12
    box, high, gap, top = 52, 40, 8, 22
    width = max(left + len(plan.columns) * (box + gap), 120)
    most = max((one.blocks for row in plan.places for one in row if one), default=1) or 1
    parts = [
        f'<text x="{left + n * (box + gap) + box / 2:.0f}" y="13" text-anchor="middle" class="soft">'
        f"{escape(name)}</text>"
        for n, name in enumerate(plan.columns)
    ]
    for r, row in enumerate(plan.places):
        y = top + r * (high + gap)
        middle = y + high / 2 + (-3 if before[r] else 4)
        parts.append(f'<text x="2" y="{middle:.0f}" class="soft">{escape(plan.rows[r])}</text>')
        if before[r]:
            parts.append(f'<text x="2" y="{middle + 16:.0f}" class="soft other">{escape(before[r])}</text>')
        for c, one in enumerate(row):
            if one is None:
                continue
            x = left + c * (box + gap)
            differs = bool(one.change) or one.width_changed
            fill = 0.06 + 0.26 * one.blocks / most if one.blocks else 0.0
            parts.append(
                f'<rect class="{"place differs" if differs else "place"}" x="{x:.0f}" y="{y}" width="{box}" '
                f'height="{high}" rx="5" style="fill-opacity:{fill:.2f}"/>'
            )
            change = f" ({one.change:+d})" if one.change else ""
            parts.append(
                f'<text x="{x + box / 2:.0f}" y="{y + 17}" text-anchor="middle" class="label">'
                f"{one.blocks}{change}</text>"
            )
            if one.width is not None:
                parts.append(
                    f'<text x="{x + box / 2:.0f}" y="{y + 33}" text-anchor="middle" class="label thin">'
                    f"{one.width} ch</text>"
                )
    height = top + len(plan.places) * (high + gap)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" role="img" '
        f'aria-label="{escape(plan.about)}">{"".join(parts)}</svg>'
    )
