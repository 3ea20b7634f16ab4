"""Reports in a real browser, Chromium without a window and without a network, opened from the file system.

Skipped where there is no `chromium` and `chromedriver` (Debian's packages chromium and chromium-driver).
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from compress.artefacts.results import SearchResult, read_results
from compress.report.page import compare, report_of, write_report
from tests.report.records import analysed, checked, furnished, rewritten, shown, trained
from tests.report.test_prune_report import result as pruned

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="no browser: install Debian's packages chromium and chromium-driver",
)

REPORTS = Path(__file__).parents[2] / "reports"
PAGES = ("search", "prune", "analyse", "rewrite", "train", "check", "show", "compare", "unfinished")
WIDTHS = (360, 800, 1600)
RUN = "{resultTypes: ['violations'], runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'best-practice']}"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Name → the page. The search is the committed one; all others are small. `small` is a search with all parts."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    runs = []
    for name, place in (("search", "bhrnet"), ("second", "bhrnet_seeds/seed2")):
        (folder / name).mkdir()
        shutil.copy(REPORTS / place / "results.json", folder / name)
        runs.append(folder / name)
    found["search"] = report_of(folder / "search").page
    found["compare"] = compare(runs, folder / "compare.html").page
    written = {
        "prune": ("prune", pruned(scores=((0.5, 0.01), (0.49, 0.01)))),
        "analyse": ("analyse", analysed()),
        "rewrite": ("rewrite", rewritten()),
        "train": ("train", trained()),
        "check": ("latency check", checked()),
        "show": ("latency show", shown()),
    }
    for name, (job, result) in written.items():
        (folder / name).mkdir()
        found[name] = write_report(job, result, folder / name).page
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "recipe.yaml").write_text("job: search\n")
    shutil.copy(REPORTS / "bhrnet" / "trials.jsonl", folder / "unfinished")
    found["unfinished"] = report_of(folder / "unfinished").page
    small = read_results(Path(__file__).parent / "search" / "results.json", "search", SearchResult)
    (folder / "small").mkdir()
    found["small"] = write_report("search", furnished(small, folder / "small"), folder / "small").page
    assert set(found) == {*PAGES, "small"}
    return found


@pytest.fixture(scope="module")
def browser():
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_script_timeout(300)
    driver.execute_cdp_cmd("Network.enable", {})
    cut = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", cut)
    yield driver
    driver.quit()


def show(browser: Any, width: int, scheme: str = "light") -> None:
    """Sets the width of the page and its colours."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def opened(browser: Any, page: str, width: int = 1600) -> Any:
    show(browser, width)
    browser.get_log("browser")
    browser.get(Path(page).as_uri())
    return browser


# What is wrong with the places of things, a line each. Texts of one chart must not meet one another and must be inside
# it; nothing is wider than the page; a table that is wider than its place scrolls, and says so.
GEOMETRY = """
const wrong = [], seen = one => one.getClientRects().length > 0, box = one => one.getBoundingClientRect();
for (const svg of document.querySelectorAll("svg")) {
  if (!seen(svg)) continue;
  const whole = box(svg);
  const texts = [...svg.querySelectorAll("text")].filter(seen).map(one => [one.textContent, box(one)]);
  texts.forEach(([text, b], i) => {
    if (b.left < whole.left - 1 || b.right > whole.right + 1 || b.top < whole.top - 1 || b.bottom > whole.bottom + 1)
      wrong.push(`${text} leaves its chart ${svg.ariaLabel}`);
    for (const [other, o] of texts.slice(i + 1))
      if (b.left < o.right - 1 && o.left < b.right - 1 && b.top < o.bottom - 3 && o.top < b.bottom - 3)
        wrong.push(`${text} meets ${other} in ${svg.ariaLabel}`);
  });
}
const page = document.documentElement;
if (page.scrollWidth > page.clientWidth) wrong.push(`the page is ${page.scrollWidth} wide, not ${page.clientWidth}`);
for (const one of document.querySelectorAll("main *, header *"))
  if (seen(one) && !one.closest(".scroll table, svg") && box(one).right > page.clientWidth + 1)
    wrong.push(`${one.tagName} ${one.className} ends at ${box(one).right}`);
for (const one of document.querySelectorAll(".scroll"))
  if (seen(one) && one.scrollWidth > one.clientWidth + 1) {
    const cue = getComputedStyle(one.parentElement, "::before").content;
    if (getComputedStyle(one).overflowX !== "auto" || !cue.includes("scroll")) wrong.push(`${one.ariaLabel} is cut`);
  }
for (const text of document.querySelectorAll("main p, main dd, main li, main h2, main h3"))
  if (seen(text) && text.scrollWidth > text.clientWidth + 1 && getComputedStyle(text).overflowX !== "auto")
    wrong.push(`${text.textContent} is wider than its place`);
return wrong;
"""


@pytest.mark.parametrize("name", [*PAGES, "small"])
def test_nothing_meets_or_is_hidden_at_any_width(browser, pages, name):
    opened(browser, pages[name])
    browser.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    for width in WIDTHS:
        for scheme in ("light", "dark"):
            show(browser, width, scheme)
            # the observer of tables has run once a frame has been drawn
            browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
            assert browser.execute_script(GEOMETRY) == [], (width, scheme)
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("name", ["small", *PAGES[1:]])  # of the large search axe takes half a minute
def test_no_serious_fault_for_keyboard_and_screen_reader(browser, pages, name):
    script = Path(pytest.importorskip("axe_core_python", reason="axe is not installed").__file__).with_name(
        "axe.min.js"
    )
    opened(browser, pages[name], 800)
    browser.execute_script(script.read_text(encoding="utf-8"))
    for scheme in ("light", "dark"):
        show(browser, 800, scheme)
        found = browser.execute_async_script(f"axe.run(document, {RUN}).then(arguments[0])")
        assert "violations" in found
        faults = [
            (one["id"], node["html"][:200], node["failureSummary"])
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"][:2]
        ]
        assert faults == [], scheme


def test_charts_are_drawn_and_each_axis_shows_its_own(browser, pages):
    opened(browser, pages["search"])
    data = json.loads((Path(pages["search"]).parent / "results.json").read_text())["result"]
    marks = "return [...document.querySelectorAll('.trade-off .figure:not([hidden]) > .wide-only [data-x]')]"
    names = browser.execute_script("return [...document.querySelectorAll('.axis option')].map(one => one.textContent)")
    assert len(names) == 6
    for number, name in enumerate(names):
        browser.execute_script(
            "const axis = document.querySelector('.axis'); axis.value = arguments[0];"
            "axis.dispatchEvent(new Event('change'))",
            str(number),
        )
        drawn = browser.execute_script(f"{marks}.map(one => Number(one.dataset.x))")
        placed = browser.execute_script(f"{marks}.map(one => one.getBoundingClientRect().left)")
        trials = 0 if name.startswith(("network alone, ncnn", "file size")) else len(data["trials"])
        assert len(drawn) == trials + len(data["networks"])
        # further right on the page is more on the axis, among the marks of one kind
        kind = list(zip(drawn, placed, strict=True))[: len(data["networks"])]
        assert [x for x, _ in sorted(kind)] == [x for x, _ in sorted(kind, key=lambda one: one[1])]
    assert len(set(names)) == 6


def test_published_figures_are_taken_away_and_put_back(browser, pages):
    opened(browser, pages["small"])
    script = """
    const axis = document.querySelector(".axis"), others = document.querySelector(".switch input");
    axis.value = [...axis.options].find(one => one.text.trim() === arguments[0]).value;
    axis.dispatchEvent(new Event("change"));
    const seen = () => [...document.querySelectorAll(".trade-off .figure:not([hidden]) > .wide-only .optional")]
        .filter(one => one.getClientRects().length).length;
    const counts = [seen()];
    for (const _ of "12") { others.click(); counts.push(seen()); }
    return [others.disabled, ...counts];
    """
    disabled, shown, off, again = browser.execute_script(script, "parameters")
    assert not disabled
    assert shown == again > 10
    assert off == 0
    latency = browser.execute_script("return document.querySelector('.axis').options[0].text.trim()")
    assert browser.execute_script(script, latency) == [True, 0, 0, 0]


def test_the_budget_dims_what_costs_more(browser, pages):
    opened(browser, pages["search"])
    script = """
    const budget = document.querySelector(".budget");
    budget.value = arguments[0];
    budget.dispatchEvent(new Event("input"));
    const marks = [...document.querySelectorAll(".trade-off .figure:not([hidden]) > .wide-only [data-x]")];
    return [document.querySelector(".within").textContent,
            marks.map(one => [Number(one.dataset.x), one.classList.contains("over")])];
    """
    text, marks = browser.execute_script(script, 1000)
    assert text == "no limit"
    assert not any(over for _, over in marks)
    text, marks = browser.execute_script(script, 500)
    inside, outside = ([x for x, over in marks if over is which] for which in (False, True))
    assert inside
    assert outside
    assert max(inside) < min(outside)
    assert text.endswith(f"ms: {len(inside)} of {len(marks)}")


def test_a_column_sorts_up_and_down_with_unknown_last(browser, pages):
    opened(browser, pages["search"])
    script = """
    const table = [...document.querySelectorAll("table")].find(one => one.caption.textContent === "Scores and times");
    table.querySelectorAll("thead button")[arguments[0]].click();
    return [...table.tBodies[0].rows].map(row =>
        [row.cells[0].firstChild.textContent, row.cells[arguments[0]].dataset.value]);
    """
    names, up, down = (browser.execute_script(script, column) for column in (0, 1, 1))
    assert [name for name, _ in names] == sorted(name for name, _ in names)
    scores = [float(value) for _, value in up]
    assert scores == sorted(scores)
    assert down == up[::-1]
    sort = browser.execute_script("return document.querySelectorAll('[aria-sort=descending]').length")
    assert sort == 1


def test_a_mark_tells_what_is_known_to_mouse_and_keyboard_alike(browser, pages):
    opened(browser, pages["search"])
    script = """
    const mark = document.querySelector(".figure:not([hidden]) > .wide-only a[data-tip]");
    if (arguments[0] === "focus") mark.focus();
    else mark.dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
    const tip = document.getElementById("tip"), text = tip.innerText, hidden = tip.hidden;
    document.activeElement.blur();
    return [mark.getAttribute("aria-label"), text, hidden, tip.hidden];
    """
    for how in ("focus", "hover"):
        name, text, hidden, after = browser.execute_script(script, how)
        assert text.split("\n")[0] == name
        assert "end to end" in text
        assert not hidden
        assert after or how == "hover"


def test_without_its_script_the_page_shows_the_first_chart_and_all_tables(browser, pages):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        opened(browser, pages["search"])
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    found = browser.execute_script(
        "return [[...document.querySelectorAll('.figure')].filter(one => one.getClientRects().length).length,"
        "document.querySelector('.controls').getClientRects().length, document.querySelectorAll('table').length]"
    )
    assert found[:2] == [1, 0]
    assert found[2] > 8


def test_on_paper_nothing_is_wider_than_the_page(browser, pages):
    """A4 with Chromium's margins of 1 cm is 718 CSS pixels wide."""
    opened(browser, pages["search"], 718)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        wide = browser.execute_script(
            "return [...document.querySelectorAll('section svg, section > p')].filter(one =>"
            "one.getClientRects().length && one.getBoundingClientRect().right > 719).length"
        )
        shown = browser.execute_script("return document.querySelector('.controls').getClientRects().length")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert wide == 0
    assert shown == 0
