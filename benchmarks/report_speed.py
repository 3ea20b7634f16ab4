"""How long the page of a large search takes to write and to open.

python -m benchmarks.report_speed [TRIALS]

The committed run in reports/bhrnet, its trials repeated with small changes until there are as many. Opened in a
headless Chromium (Debian's packages chromium and chromium-driver; selenium from the extra `test`) from the file
system: from the start of the navigation until the charts of the first screen are on it, the middle of RUNS. Run it on
an idle machine.
"""

import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from compress.report.page import report_of

RUN = Path(__file__).parent.parent / "reports" / "bhrnet"
RUNS = 5
DRAWN = """
const done = arguments[0], start = performance.timeOrigin;
const wait = () => document.querySelector(".trade-off svg .mark") && document.readyState === "complete"
    ? requestAnimationFrame(() => requestAnimationFrame(() => done(performance.timeOrigin + performance.now() - start)))
    : setTimeout(wait, 1);
wait();
"""


def main(trials: int) -> None:
    """Prints what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder), trials)
        start = time.perf_counter()
        page = Path(report_of(Path(folder)).page)
        written = time.perf_counter() - start
        opened = [open_ms(page) for _ in range(RUNS)]
        size = page.stat().st_size / 1e6
    print(
        f"{trials} trials: written in {written:.2f} s, {size:.2f} MB, charts on the screen in {median(opened):.0f} ms"
    )
    print(f"of {RUNS}: {', '.join(f'{one:.0f}' for one in sorted(opened))} ms")


def write_run(folder: Path, count: int) -> None:
    """results.json with so many trials: the committed ones, then copies with score, time and counts up to 3 % off."""
    data = json.loads((RUN / "results.json").read_text(encoding="utf-8"))
    rng = random.Random(1)
    trials = data["result"]["trials"]
    known = len(trials)
    for number in range(known, count):
        trial = json.loads(json.dumps(trials[number % known]))
        factor = rng.uniform(0.97, 1.03)
        trial |= {"number": number, "on_front": False}
        trial["score"]["value"] *= factor
        trial["cost"] |= {name: round(trial["cost"][name] * factor) for name in ("params", "macs")}
        for latency in trial["cost"]["latency"].values():
            latency["ms"] *= factor
        trials.append(trial)
    (folder / "results.json").write_text(json.dumps(data), encoding="utf-8")


def open_ms(page: Path) -> float:
    """In a new browser, whose own start is not counted."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.get(page.as_uri())
        return float(driver.execute_async_script(DRAWN))
    finally:
        driver.quit()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
