"""A search whose processes are killed at random moments, against one that nobody disturbs.

    python -m benchmarks.search_kills [--kills 20] [--trials 20] [--seed 1] [--storage URL] [--out reports/search_kills]

Every search is a small one of `compress search`, on synthetic people. First one worker: undisturbed, and killed with
SIGKILL and started again, `--kills` times; trials, their front, and the scores of the finalists must be the same. Then
four workers on PostgreSQL, one of which is killed every time while they score, the first one too, with which the others
end; every candidate must have been scored once, and nothing that a killed process had begun may be missing. Without
`--storage` a PostgreSQL is started in a temporary folder. OUT/kills.csv has every kill, OUT/README.md what came of it.
Exit code 1: something was lost or doubled. About ten minutes on two cores.
"""

import argparse
import csv
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from compress.artefacts.results import SearchResult, read_results
from compress.files import write_text
from compress.nas.sampler import REFUSED
from compress.nas.space import pick_key

SPACE = Path(__file__).parent.parent / "tests" / "jobs" / "tiny_space.yaml"
SETTINGS = (
    f"search.space={SPACE}",
    "measurement.targets=[onnxruntime]",
    "measurement.rounds=5",
    "measurement.parity_pictures=2",
    "data.synthetic.train=64",
    "data.synthetic.search=64",
    "data.synthetic.val=16",
    "input_hw=[64, 64]",
    "supernet.epochs=2",
    "supernet.pool=4",
    "search.population=6",
    "search.calibration_pictures=32",
    "finalists.count=2",
    "finalists.training.epochs=1",
    "baselines={hand_balance: {width: 16, blocks: [[1], [1, 0], [1, 0, 0], [1, 0, 0, 2]]}}",
)
WORKERS = 4


@dataclass(frozen=True)
class Kill:
    """workers: of the search. victim: `first`, or one of the processes that it started. after_s: since it was started.
    trials: in the run folder at that moment."""

    workers: int
    number: int
    victim: str
    after_s: float
    trials: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--storage")
    parser.add_argument("--out", type=Path, default=Path("reports/search_kills"))
    given = parser.parse_args()
    rng, began = random.Random(given.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        os.environ["COMPRESS_CACHE"] = str(Path(work) / "cache")  # one latency table for all
        undisturbed = Path(work) / "undisturbed"
        start(undisturbed, given.trials).wait()
        lines = [json.loads(line) for line in (undisturbed / "seconds.jsonl").read_text().splitlines()]
        tables = sum(line["seconds"] for line in lines if line["phase"] == "latency table")  # others find them
        whole_s = time.monotonic() - began - tables
        kills, one, four = [], [], []
        while len(kills) < given.kills:  # a search that ends before all of them is followed by another one
            folder = Path(work) / f"alone_{len(kills)}"
            kills += disturbed(folder, len(kills), given.kills, given.trials, rng, whole_s)
            one += compared(undisturbed, folder)
        with nullcontext(given.storage) if given.storage else own_postgresql() as url:
            shared: list[Kill] = []
            while len(shared) < given.kills:
                folder = Path(work) / f"search_kills_{os.getpid()}_{len(shared)}"
                now = disturbed(folder, len(shared), given.kills, given.trials, rng, whole_s, url)
                four += counted(folder, given.trials, url, now)
                shared += now
            kills += shared
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([field.name for field in fields(Kill)])
    writer.writerows(map(astuple, kills))
    write_text(given.out / "kills.csv", table.getvalue())
    good = all(passed for passed, _ in (*one, *four))
    searches = len(one) // 2, len(four) // 5
    page = [
        "# Searches that are killed",
        "",
        f"`python -m benchmarks.search_kills --kills {given.kills} --trials {given.trials} --seed {given.seed}`, "
        f"{time.monotonic() - began:.0f} s on {len(os.sched_getaffinity(0))} cores. An undisturbed search takes "
        f"{whole_s:.0f} s. Every kill is a line of `kills.csv`.",
        "",
        *[
            f"## {title}\n\n" + "".join(f"- {'yes' if passed else 'NO'}: {text}\n" for passed, text in checks)
            for title, checks in (
                (f"One worker, searches: {searches[0]}", one),
                (f"{WORKERS} workers on PostgreSQL, searches: {searches[1]}", four),
            )
        ],
    ]
    write_text(given.out / "README.md", "\n".join(page))
    print("\n".join(page))
    return 0 if good else 1


def own_postgresql() -> Any:
    """Of the tests."""
    from tests.postgresql import postgresql

    return postgresql()


def start(folder: Path, trials: int, url: str | None = None) -> subprocess.Popen[bytes]:
    """A search, or what goes on with it."""
    command = [sys.executable, "-m", "compress", "search", "bhrnet", "--run", str(folder), "--quiet"]
    sets = [part for one in (*SETTINGS, f"search.trials={trials}") for part in ("--set", one)]
    sharing = ["--workers", str(WORKERS), "--storage", url] if url else []
    return subprocess.Popen([*command, *sets, *sharing], stdout=subprocess.DEVNULL)


def disturbed(
    folder: Path, before: int, wanted: int, trials: int, rng: random.Random, whole_s: float, url: str | None = None
) -> list[Kill]:
    """Kills it until there are as many kills as wanted, or nothing is left to score for several workers, and then lets
    it end. before: kills of earlier searches."""
    kills: list[Kill] = []
    process, began = start(folder, trials, url), time.monotonic()
    for number in range(before + 1, wanted + 1):
        if url:
            wait_for_work(folder, url, process)
        until = time.monotonic() + (rng.uniform(0, 2) if url else rng.uniform(0.1, 0.5) * whole_s)
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        if process.poll() is not None or (url and not running(folder, url)):
            break
        others = children(process.pid)
        victim = rng.choice([process.pid, *others])
        os.kill(victim, signal.SIGKILL)
        who = "first" if victim == process.pid else "other"
        file = folder / "trials.jsonl"
        finished = len(file.read_bytes().splitlines()) if file.is_file() else 0
        kills.append(Kill(WORKERS if url else 1, number, who, round(time.monotonic() - began, 2), finished))
        print(kills[-1], flush=True)
        if who == "first":
            process.wait()
            process, began = start(folder, trials, url), time.monotonic()
    if not kills:
        sys.exit(f"the search in {folder} ends before it is killed: give it more --trials")
    if process.wait() not in (0, 3):
        sys.exit(f"the search in {folder} ended with {process.returncode}")
    return kills


def wait_for_work(folder: Path, url: str, process: subprocess.Popen[bytes]) -> None:
    """Until candidates are being scored, by processes that have begun since, or the search ends."""
    before = {one.number for one in running(folder, url)}
    while process.poll() is None and not {one.number for one in running(folder, url)} - before:
        if (folder / "results.json").exists() or (folder / "steps" / "trials.json").exists():
            return
        time.sleep(0.05)


def running(folder: Path, url: str) -> list[optuna.trial.FrozenTrial]:
    """Trials that a process works on, or was killed over."""
    try:
        return optuna.load_study(study_name=folder.name, storage=url).get_trials(False, (TrialState.RUNNING,))
    except KeyError:  # there is no such study yet
        return []


def children(process: int) -> list[int]:
    """Processes that it started and that run."""
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def compared(undisturbed: Path, killed: Path) -> list[tuple[bool, str]]:
    """Of one worker: whether both are alike."""
    one, other = (read_results(folder / "results.json", "search", SearchResult) for folder in (undisturbed, killed))
    picks = [[(dict(trial.pick), trial.score, trial.on_front) for trial in each.trials] for each in (one, other)]
    scores = [[(network.name, network.score) for network in each.networks] for each in (one, other)]
    front = sum(trial.on_front or False for trial in one.trials)
    return [
        (picks[0] == picks[1], f"the same {len(one.trials)} trials with the same scores, {front} of them on the front"),
        (scores[0] == scores[1], "the same finalists with the same scores"),
    ]


def counted(folder: Path, wanted: int, url: str, kills: list[Kill]) -> list[tuple[bool, str]]:
    """Of several workers: whether anything is missing or there twice."""
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    picks = [pick_key(line["pick"]) for line in lines]
    study = optuna.load_study(study_name=folder.name, storage=url)
    scored = Counter(
        pick_key(one.params) for one in study.trials if one.state == TrialState.COMPLETE and "score" in one.user_attrs
    )
    left = [one for one in study.trials if one.state == TrialState.FAIL and REFUSED not in one.user_attrs]
    begun = {pick_key(one.params) for one in left if one.params.keys() == study.trials[0].params.keys()}
    most = sum(WORKERS if kill.victim == "first" else 1 for kill in kills)
    return [
        (len(picks) == len(set(picks)) == wanted, f"{len(picks)} trials for {wanted} wanted, none twice"),
        (max(scored.values()) == 1, "every candidate was scored once in the study"),
        (set(picks) == set(scored), "what the study has is in trials.jsonl"),
        (begun <= set(picks), f"all {len(begun)} candidates that killed processes had begun were scored by others"),
        (len(left) <= most, f"{len(left)} trials were left behind by at most {most} processes that ended"),
    ]


if __name__ == "__main__":
    sys.exit(main())
