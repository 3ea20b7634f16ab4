"""A process that scores picks of a shared study, for tests that kill it. It imports no torch."""

import os
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from compress.files import append_line
from compress.nas.sampler import Sampler
from compress.nas.space import Pick, Space
from compress.nas.study import SharedStudy, open_storage
from compress.nas.trial_book import TrialBook

SPACE = Space({"a": 0, "b": 0, "kind": "x"}, {"a": (0, 1, 2, 3), "b": (0, 1, 2, 3), "kind": ("x", "y")})
HAND = {"a": 1, "b": 2, "kind": "y"}
FIRST: list[Pick] = [HAND, SPACE.smallest, SPACE.largest]


def study_of(storage: str | Path, digest: str = "recipe inputs") -> SharedStudy:
    return SharedStudy(storage, "search", digest, ("latency", "AP"), heartbeat_s=1, grace_s=2)


@contextmanager
def opened(storage: str | Path, wanted: int, baselines: Sequence[Pick]) -> Iterator[tuple[Sampler, TrialBook]]:
    """The shared study, of which so many picks are wanted."""
    with open_storage(study_of(storage)) as found:
        shared = study_of(storage), found
        sampler = Sampler(SPACE, "nsga2", population=6, seed=1, baselines=baselines, shared=shared)
        with TrialBook(SPACE, sampler, wanted, shared) as book:
            yield sampler, book


def work(storage: str | Path, wanted: int, logs: Path, seconds: float, fatal: Pick | None = None) -> None:
    """Scores until so many picks are; what it begins and ends is a line of its own file in logs. fatal: a pick that
    ends it."""
    log = logs / f"{os.getpid()}.jsonl"
    rng = random.Random()
    with opened(storage, wanted, [HAND]) as (_, book):
        while asked := book.ask():
            trial, pick = asked
            line = {"number": trial.number, "pick": dict(pick)}
            append_line(log, {**line, "what": "begin"})
            if pick == fatal:
                os._exit(9)
            time.sleep(rng.uniform(0.5, 1.5) * seconds)
            book.tell(trial, [1.0 + pick["a"]], float(pick["b"]), None, {"pick": dict(pick), "score": pick["b"]})
            append_line(log, {**line, "what": "end"})
