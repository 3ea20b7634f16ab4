"""Committed results: a job's open with today's reader, all others are a benchmark's and say which."""

import json
import re
from pathlib import Path

import pytest

from compress.artefacts.results import PruneResult, RewriteResult, SearchResult, TrainResult, document, read_results

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "reports").rglob("results.json"))
KINDS = {"search": SearchResult, "prune": PruneResult, "rewrite": RewriteResult, "train": TrainResult}


def test_there_are_results() -> None:
    assert ROOT / "reports" / "bhrnet" / "results.json" in FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.parent.relative_to(ROOT / "reports")))
def test_committed_results_open(file: Path) -> None:
    data = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(data, dict) and "job" in data:
        result = read_results(file, data["job"], KINDS[data["job"]])
        assert json.loads(json.dumps(document(data["job"], result))) == data  # nothing of the file is lost
        return
    readme = (file.parent / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bbenchmarks[./]\w+\b(?:/run)?(?!/|\.yaml)", readme))
    assert named
    assert [name for name in named if not (ROOT / f"{name.replace('.', '/')}.py").exists()] == []
