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
