"""Every benchmark can be imported: a name that moved is found here and not after an hour of measuring."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BENCHMARKS = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in (ROOT / "benchmarks").rglob("*.py")
)
IMPORT = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"


def test_every_benchmark_can_be_imported() -> None:
    assert "benchmarks.structure" in BENCHMARKS
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", IMPORT, *BENCHMARKS]  # a process of its own: they set the number of threads
    imported = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert imported.returncode == 0, imported.stderr


def test_the_best_of_each_way_within_a_budget() -> None:
    """Two percent above it still count, or as long as pruning to it takes; what has no score does not. All are of the
    same pictures."""
    from benchmarks.joint_search import within_budgets, within_cells
    from compress.pose.scoring import Score

    def row(how: str, budget: float | None, share: float, score: float | None) -> dict[str, object]:
        samples = () if score is None else (score, score + 0.01 * share, score - 0.01 * share)
        scored = Score("PCK", score, 0.1, "", "lsp", 3, {}, samples)
        return {"how": how, "budget": budget, "share": share, "score": score, "scored": scored}

    rows = [
        row("joint finalist_1", 0.6, 0.39, 0.2),
        row("joint finalist_2", 0.6, 0.611, 0.31),
        row("joint finalist_3", 0.6, 0.613, 0.4),
        row("joint finalist_4", 0.4, 0.3, None),
        row("joint finalist_5", 0.4, 0.45, 0.22),
        row("joint finalist_6", 0.4, 0.46, 0.23),
        row("prune", 0.6, 0.6, 0.25),
        row("prune", 0.4, 0.45, 0.21),
        row("rewrite", None, 0.5, 0.29),
    ]
    # samples differ by 0, ± 0.01 of the difference of shares: their spread is 0.01 of it
    assert [within_cells(line) for line in within_budgets(rows)] == [
        "60% | 0.310 at 61.1% | 0.250 at 60.0% | 0.290 at 50.0% | +0.060 ± 0.000 | +0.020 ± 0.001",
        "40% | 0.220 at 45.0% | 0.210 at 45.0% | – | +0.010 ± 0.000 | –",
    ]
