"""What a report is made of: sections of a few kinds of parts, from which page.py makes HTML and Markdown alike.

Every job's report is built of these by a function in compress/report/pages; none of them knows HTML.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from compress.report.figures import Figure, Parallel, Plan


@dataclass(frozen=True)
class Text:
    """A paragraph. tone: bad is a warning, note is small print."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Literal["", "bad", "note"] = ""


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    items: Mapping[str, str]


@dataclass(frozen=True)
class Lines:
    """A list. title: '' for none."""

    kind: ClassVar[str] = "lines"
    lines: tuple[str, ...]
    title: str = ""


@dataclass(frozen=True)
class Cell:
    """Of a table. small: a second line. value: that the column is sorted by; None sorts by the text. bar: 0..1, drawn
    behind. link: id of a place in the page."""

    text: str
    small: str = ""
    value: float | None = None
    tone: Literal["", "bad", "good", "strong"] = ""
    bar: float | None = None
    link: str = ""


_LONG = 44  # letters of a name, such as of a kernel, that leave no room for figures beside it on a phone


@dataclass(frozen=True)
class Table:
    """head: a column's title, with a second line after a line break. about: its caption for who cannot see it.

    words: columns of text, by number; the others are numbers and stand right. The first column is always text.
    """

    kind: ClassVar[str] = "table"
    about: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    words: tuple[int, ...] = ()

    @property
    def wordy(self) -> bool:
        """Whether it is mostly text, so that cells stand one below the other where there is little room."""
        if len(self.words) == len(self.head) - 1 > 0:
            return True
        return max((len(row[0].text) for row in self.cells), default=0) > _LONG

    @property
    def slim(self) -> bool:
        """Whether it has so few columns that they would stand far apart in a wide page."""
        return len(self.head) < 4 and not self.words

    @property
    def cells(self) -> tuple[tuple[Cell, ...], ...]:
        """The rows, of cells alone."""
        return tuple(tuple(one if isinstance(one, Cell) else Cell(one) for one in row) for row in self.rows)


@dataclass(frozen=True)
class Chart:
    """One figure."""

    kind: ClassVar[str] = "chart"
    figure: Figure


@dataclass(frozen=True)
class TradeOff:
    """Figures of the same marks over several horizontal axes; one is shown at a time, the first one first.

    tips: what is told of a mark, a line each, by the mark's number. optional: what the switch that takes marks away is
    called; '' for none.
    """

    kind: ClassVar[str] = "trade_off"
    axes: tuple[tuple[str, Figure], ...]
    tips: tuple[tuple[str, ...], ...]
    optional: str = ""


@dataclass(frozen=True)
class Picture:
    """One picture with what is said of it. jpeg: its file; path: in the run folder."""

    title: str
    jpeg: bytes
    path: str

    @property
    def uri(self) -> str:
        """The file itself, as an address."""
        return f"data:image/jpeg;base64,{b64encode(self.jpeg).decode()}"


@dataclass(frozen=True)
class Pictures:
    """Rows of pictures to compare, side by side."""

    kind: ClassVar[str] = "pictures"
    rows: tuple[tuple[Picture, ...], ...]


@dataclass(frozen=True)
class Threads:
    """Candidates as lines through their choices."""

    kind: ClassVar[str] = "threads"
    chart: Parallel


@dataclass(frozen=True)
class Commands:
    """What for → what to type."""

    kind: ClassVar[str] = "commands"
    items: Mapping[str, str]


@dataclass(frozen=True)
class Code:
    """Text as it is."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Card:
    """One network. id: of the place in the page."""

    id: str
    title: str
    subtitle: str
    plan: Plan | None
    parts: "tuple[Part, ...]"


@dataclass(frozen=True)
class Cards:
    """Networks side by side."""

    kind: ClassVar[str] = "cards"
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Fold:
    """Parts behind a title that opens them."""

    kind: ClassVar[str] = "fold"
    title: str
    parts: "tuple[Part, ...]"


Part = Text | Facts | Lines | Table | Chart | TradeOff | Pictures | Threads | Commands | Code | Cards | Fold


@dataclass(frozen=True)
class Section:
    """Under one heading. id: of the place in the page."""

    title: str
    parts: tuple[Part, ...]
    id: str = ""


@dataclass(frozen=True)
class Recommendation:
    """What to do, in one sentence. sure: whether the figures bear it out. reasons: of how sure, a line each.

    commands: to try it. heading: above it, for a report that recommends nothing. network: that is recommended.
    """

    sentence: str
    sure: Literal["yes", "in part", "no"]
    reasons: tuple[str, ...] = ()
    commands: Mapping[str, str] = field(default_factory=dict)
    heading: Literal["Recommendation", "Result"] = "Recommendation"
    network: str = ""


@dataclass(frozen=True)
class Page:
    """A report. kicker: the command that it is of. lead: parts beside the recommendation, on the first screen.

    missing: what a run folder lacks, a line each.
    """

    kicker: str
    title: str
    facts: Mapping[str, str]
    recommendation: Recommendation | None
    lead: tuple[Part, ...]
    sections: tuple[Section, ...]
    missing: tuple[str, ...] = ()
