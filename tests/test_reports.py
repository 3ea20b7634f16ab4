"""Committed results: a job's open with today's reader, all others are a benchmark's and say which."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from compress.artefacts.results import PruneResult, RewriteResult, SearchResult, TrainResult, document, read_results

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "reports").rglob("results.json"))
KINDS = {"search": SearchResult, "prune": PruneResult, "rewrite": RewriteResult, "train": TrainResult}


def test_there_are_results() -> None:
    assert ROOT / "reports" / "bhrnet" / "results.json" in FILES


def lost(written: Any, read: Any, place: str = "") -> list[str]:
    """Where what was written is not what is read back. A record may have got fields since."""
    if isinstance(written, dict) and isinstance(read, dict):
        known = [
            name for key in written.keys() & read.keys() for name in lost(written[key], read[key], f"{place}.{key}")
        ]
        return [*known, *(f"{place}.{key}" for key in written.keys() - read.keys())]
    if isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        pairs = enumerate(zip(written, read, strict=True))
        return [name for number, (one, other) in pairs for name in lost(one, other, f"{place}[{number}]")]
    return [] if written == read else [place]


def test_what_is_lost_is_named() -> None:
    assert lost({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2, "new": None}], "c": 3}) == []
    assert lost({"a": [1, {"b": 2}], "c": 3}, {"a": [1, {"b": 4}]}) == [".a[1].b", ".c"]
    assert lost({"a": [1, 2]}, {"a": [1]}) == [".a"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.parent.relative_to(ROOT / "reports")))
def test_committed_results_open(file: Path) -> None:
    data = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(data, dict) and "job" in data:
        result = read_results(file, data["job"], KINDS[data["job"]])
        assert lost(data, json.loads(json.dumps(document(data["job"], result)))) == []
        return
    readme = (file.parent / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bbenchmarks[./]\w+\b(?:/run)?(?!/|\.yaml)", readme))
    assert named
    assert [name for name in named if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []
