"""Reports of runs: report.html, one page that opens anywhere, report.md with pictures, and networks.csv.

    write_report(job, result, folder)      at the end of every job
    report_of(path)                        anew, from a run folder, whole or not, or from what --json printed
    compare(paths, file)                   several runs in one page

What a page says is put together by the job's file in compress/report/pages. Jinja2 escapes whatever is filled in.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from compress.artefacts.results import (
    CheckedTable,
    NetworkResult,
    PruneResult,
    RewriteResult,
    SearchResult,
    SensitivityResult,
    ShownNetwork,
    TrainResult,
    WrittenReport,
    read_results,
)
from compress.artefacts.run import ENVIRONMENT, RECIPE
from compress.errors import RunError
from compress.files import write_bytes, write_text
from compress.report.figures import NARROW, WIDE, Figure, Parallel, Plan, parallel_svg, plan_svg, png, svg
from compress.report.pages.changed import prune_page, rewrite_page, sensitivity_page
from compress.report.pages.compare import Compared, compare_page
from compress.report.pages.latency import checked_page, shown_page
from compress.report.pages.networks import Row
from compress.report.pages.search import search_page
from compress.report.pages.train import train_page
from compress.report.pages.unfinished import unfinished_page
from compress.report.parts import (
    Card,
    Cards,
    Cell,
    Chart,
    Code,
    Commands,
    Facts,
    Fold,
    Lines,
    Page,
    Part,
    Pictures,
    Table,
    Text,
    Threads,
    TradeOff,
)

PAGES: Mapping[str, tuple[type, Callable[[Any, Path], tuple[Page, list[Row]]]]] = {
    "search": (SearchResult, search_page),
    "prune": (PruneResult, prune_page),
    "analyse": (SensitivityResult, sensitivity_page),
    "rewrite": (RewriteResult, rewrite_page),
    "train": (TrainResult, train_page),
    "latency check": (CheckedTable, checked_page),
    "latency show": (ShownNetwork, shown_page),
}
"""Job → its record, and what makes its page and the lines of networks.csv. The job as results.json names it."""

COLUMNS = tuple(field.name for field in fields(Row))
"""Of networks.csv: see Row. All milliseconds are on one clock; what is not known is empty."""

RESULTS, SENSITIVITY, NETWORKS = "results.json", "sensitivity.json", "networks.csv"


def write_report(job: str, result: Any, folder: Path) -> WrittenReport:
    """Writes the report of a job's result into its run folder, every file as a whole or not at all."""
    page, rows = PAGES[job][1](result, folder)
    page = replace(page, missing=tuple(_missing(job, result, folder)))
    return _write(page, rows, folder / ("sensitivity" if job == "analyse" else "report"))


def report_of(path: Path) -> WrittenReport:
    """Writes the report anew of a run folder, or of a file that a command printed with --json, beside the file.

    A run folder without readable results gets a page that says what is missing. Raises RunError for what is neither.
    """
    if path.is_file():
        job, result = _document(path)
        page, rows = PAGES[job][1](result, path.parent)
        return _write(page, rows, path.with_suffix(""))
    files = [path / name for name in (RESULTS, SENSITIVITY) if (path / name).is_file()]
    if not files and not (path / RECIPE).is_file():
        raise RunError(
            "RUN is a run folder, or a file that a command printed with --json",
            place=str(path),
            value=f"no {RESULTS} and no {RECIPE}" if path.is_dir() else "no such file or folder",
            remedy="give a run's folder",
        )
    written = []
    try:
        for file in files or [path / RESULTS]:
            job, result = _document(file)
            written.append(write_report(job, result, path))
    except RunError as error:
        page, rows = unfinished_page(path, str(error))
        written.append(_write(page, rows, path / "report"))
    return replace(written[0], files=tuple(file for one in written for file in one.files))


def compare(paths: Sequence[Path], file: Path) -> WrittenReport:
    """Writes one page of several runs. Raises RunError for a run without results or without networks."""
    runs = []
    for path, name in zip(paths, _short_names(paths), strict=True):
        job, result = _document(path if path.is_file() else path / RESULTS)
        _, rows = PAGES[job][1](result, path)
        run = getattr(result, "run", None)
        if run is None or not _networks(job, result):
            raise RunError(
                "runs that are compared have networks", place=str(path), value=job, remedy="leave this one out"
            )
        networks = _networks(job, result)
        kept = [row for row in rows if row.role != "trial"]
        runs.append(Compared(name, job, run, tuple(networks), tuple(replace(row, run=str(path)) for row in kept)))
    page, rows = compare_page(runs)
    return _write(page, rows, file.with_suffix(""))


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The paths without the folders that they all begin with."""
    parts, alike = [path.parts for path in paths], 0
    while all(len(one) > alike + 1 for one in parts) and len({one[alike] for one in parts}) == 1:
        alike += 1
    return [str(Path(*one[alike:])) for one in parts]


# --- Reading ---------------------------------------------------------------------------------------------------------


def _document(path: Path) -> tuple[str, Any]:
    """The job of a file of results, and its record. Raises RunError."""
    try:
        job = json.loads(path.read_text(encoding="utf-8")).get("job")
    except (OSError, ValueError, AttributeError):
        job = "search"  # reading it says what is wrong
    if job not in PAGES:
        raise RunError("no report is made of this job", place=str(path), value=job, remedy=f"known: {', '.join(PAGES)}")
    return job, read_results(path, job, PAGES[job][0])


def _networks(job: str, result: Any) -> list[NetworkResult]:
    """Whose files a run folder should hold, and that a comparison shows."""
    match job:
        case "search":
            return list(result.networks)
        case "train":
            return [result.trained]
        case "prune":
            return [result.given, result.pruned]
        case "rewrite":
            return [one for one in (result.given, result.rewritten) if one]
        case _:
            return []


def _missing(job: str, result: Any, folder: Path) -> Iterator[str]:
    """What the run folder lacks, a line each."""
    for name in (RECIPE, ENVIRONMENT):
        if not (folder / name).is_file():
            yield f"{name}: the report has what {RESULTS} says of it"
    networks = _networks(job, result)
    own = [one for one in networks if one.role != "given"]
    artefacts = [one.name for one in own if not (folder / one.folder / "weights.safetensors").is_file()]
    if artefacts:
        names = "all networks" if len(artefacts) == len(own) > 1 else ", ".join(artefacts)
        yield f"weights of {names}: the commands that name them cannot run here"
    exports = [
        f"{one.name} ({export.engine})"
        for one in networks
        for export in one.exports
        if not all((folder / one.folder / name).is_file() for name in export.files)
    ]
    if exports:
        of_all = len(exports) == sum(len(one.exports) for one in networks) > 1
        yield f"exported files of {'all networks' if of_all else ', '.join(exports)}: they have no checksums here"
    pictures = [
        one.name for one in networks if not all((folder / one.folder / name).is_file() for name in one.pictures)
    ]
    if pictures:
        names = "all networks" if len(pictures) == len(networks) > 1 else ", ".join(pictures)
        yield f"pictures of {names}: the page does not show what they find"


# --- Writing ---------------------------------------------------------------------------------------------------------


def _write(page: Page, rows: Sequence[Row], stem: Path) -> WrittenReport:
    """STEM.html, STEM.md with its pictures, and networks.csv where there are networks."""
    text, pictures = markdown(page)
    folder = stem.parent
    for name, picture in pictures.items():
        write_bytes(folder / name, picture)
    write_text(stem.with_name(f"{stem.name}.md"), text)
    if rows:
        write_text(folder / NETWORKS, table_text(rows))
    whole = stem.with_name(f"{stem.name}.html")
    write_text(whole, html(page))
    files = (str(whole), str(stem.with_name(f"{stem.name}.md")), *(str(folder / name) for name in pictures))
    return WrittenReport(str(whole), (*files, *((str(folder / NETWORKS),) if rows else ())), page.missing)


def table_text(rows: Sequence[Row]) -> str:
    """The rows as CSV; what is not known is empty."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([getattr(row, column) for column in COLUMNS] for row in rows)
    return text.getvalue()


def html(page: Page) -> str:
    """The whole page, style, charts and script included; it loads nothing."""
    return _TEMPLATES.get_template("page.html").render(page=page)


def markdown(page: Page) -> tuple[str, dict[str, bytes]]:
    """The page as Markdown, and the pictures that it shows by their files' names."""
    pictures: dict[str, bytes] = {}
    lines = [f"# {_escaped(page.title)}", ""]
    advice = page.recommendation
    if advice:
        lines += [f"**{_escaped(advice.sentence)}**", "", *(f"- {_escaped(line)}" for line in advice.reasons), ""]
    lines += [f"- {name}: {_escaped(value)}" for name, value in page.facts.items()]
    lines.append("")
    for part in page.lead:
        lines += _markdown(part, pictures)
    if advice and advice.commands:
        lines += _markdown(Commands(advice.commands), pictures)
    if page.missing:
        lines += ["**What this run folder lacks**", "", *(f"- {_escaped(line)}" for line in page.missing), ""]
    for section in page.sections:
        lines += [f"## {_escaped(section.title)}", ""]
        for part in section.parts:
            lines += _markdown(part, pictures)
    return "\n".join(lines).rstrip() + "\n", pictures


def _markdown(part: Part | Card, pictures: dict[str, bytes]) -> list[str]:
    """A part's lines, with an empty one at the end; its pictures are added."""
    match part:
        case Text():
            return [_escaped(part.text), ""]
        case Facts():
            return [*(f"- {_escaped(name)}: {_escaped(value)}" for name, value in part.items.items()), ""]
        case Lines():
            heading = [f"{_escaped(part.title)}:", ""] if part.title else []
            return [*heading, *(f"- {_escaped(line)}" for line in part.lines), ""]
        case Table():
            return [*_markdown_table(part), ""]
        case Chart():
            return _picture(part.figure, pictures)
        case TradeOff():
            return _picture(part.axes[0][1], pictures)
        case Commands():
            typed = (line for what, command in part.items.items() for line in (f"# {what}", command))
            return ["```sh", *(line.replace("```", "` ` `") for line in typed), "```", ""]
        case Card():
            title = f"**{_escaped(part.title)}** ({_escaped(part.subtitle)})"
            return [title, "", *(line for one in part.parts for line in _markdown(one, pictures))]
        case Cards():
            return [line for card in part.cards for line in _markdown(card, pictures)]
        case Fold():
            return [line for one in part.parts for line in _markdown(one, pictures)]
        case Pictures():
            titles = (f"![{_escaped(one.title)}]({quote(one.path)})" for row in part.rows for one in row)
            return [*titles, ""]
        case Threads() | Code():  # the page has them, and results.json
            return []


def _picture(figure: Figure, pictures: dict[str, bytes]) -> list[str]:
    """The figure, where it has a file's name."""
    if not figure.file:
        return []
    pictures[figure.file] = png(figure)
    return [f"![{_escaped(figure.title)}]({figure.file})", ""]


def _markdown_table(table: Table) -> list[str]:
    head = (title.replace("\n", ", ") for title in table.head)
    rows = (" | ".join(_escaped(_one_line(cell)) for cell in row) for row in table.cells)
    return [f"| {' | '.join(map(_escaped, head))} |", f"|{'---|' * len(table.head)}", *(f"| {row} |" for row in rows)]


def _one_line(cell: Cell) -> str:
    """`0.500 ± 0.010`, `finalist_1 (finalist)`."""
    if not cell.small or cell.small.startswith("±"):
        return f"{cell.text} {cell.small}".rstrip()
    return f"{cell.text} ({cell.small})"


def _escaped(text: str) -> str:
    """Text of names, in Markdown: no HTML, no new column, no new line."""
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").split())


# --- Filters of the template -----------------------------------------------------------------------------------------


def _json(data: object) -> Markup:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, ensure_ascii=False)
    for char in "<\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _soft(text: str) -> Markup:
    """Text of names, which may go on in the next line behind a dot, a slash or an underscore; not inside a number."""
    return Markup(re.sub(r"(?<=\w)([/_]|\.(?!\d))(?=\w)", r"\1<wbr>", str(escape(text))))  # & of entities stays whole


def _coded(text: str) -> Markup:
    """Text, what stands between backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _words(command: str) -> Markup:
    """A command that goes on in the next line between its words, or inside a long name."""
    return Markup(" ").join(Markup("<span>{}</span>").format(_soft(word)) for word in command.split(" "))


def _svg(figure: Figure, width: int) -> Markup:
    return Markup(svg(figure, width))


def _threads(chart: Parallel, width: int) -> Markup:
    return Markup(parallel_svg(chart, width))


def _plan(plan: Plan) -> Markup:
    return Markup(plan_svg(plan))


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {"json": _json, "svg": _svg, "threads": _threads, "plan": _plan}
_TEMPLATES.filters |= {"soft": _soft, "coded": _coded, "words": _words}
_TEMPLATES.globals |= {"WIDE": WIDE, "NARROW": NARROW}
