"""Accuracy after pruning to a time: ratios chosen by measured latency, one ratio, or one threshold for all layers.

    python -m benchmarks.prune_accuracy GIVEN [--recipe prune_bhrnet] [--budgets 0.75 0.6 0.45] [--seeds 3]
        [--epochs 2] [--set KEY=VALUE ...] [--out reports/prune_accuracy]

GIVEN is a trained artefact, such as a finalist of `compress search recipes/bhrnet.yaml`, or, with `--recipe prune_lsp`,
one that `benchmarks/lspet/run.py` trained on photographs. Every budget is a share of its measured time, met within a
few percent by each of three allocations (`compress prune --latency B% --allocate uniform | global | latency`); then all
are fine-tuned alike, and scored on the same validation pictures. A seed changes the order of training and, of synthetic
people, the pictures; all allocations of one seed see the same. --set goes to `compress prune` as it is. Finished
runs lie in OUT/runs and are not made again; OUT/README.md and OUT/results.json have the results.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from compress.files import write_json, write_text

ALLOCATIONS = ("uniform", "global", "latency")

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("given", type=Path)
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.75, 0.6, 0.45])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--recipe", default="prune_bhrnet")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("reports/prune_accuracy"))
    arguments = parser.parse_args()
    rows: list[Row] = []
    for seed in range(1, arguments.seeds + 1):
        for budget in arguments.budgets:
            for allocation in ALLOCATIONS:
                rows.append(one(arguments, seed, budget, allocation))
                results = {"command": ["python", "-m", "benchmarks.prune_accuracy", *sys.argv[1:]], "rows": rows}
                write_json(arguments.out / "results.json", results)
                write_text(arguments.out / "README.md", text(results))


def one(arguments: argparse.Namespace, seed: int, budget: float, allocation: str) -> Row:
    """One run of `compress prune` as a user starts it."""
    run = arguments.out / "runs" / f"{allocation}_{budget:g}_{seed}"
    if not (run / "results.json").is_file():
        settings = [
            f"seed={seed}",
            f"training.epochs={arguments.epochs}",
            "exports=[onnxruntime]",
            f"pruning.latency={budget}",
            f"pruning.allocate={allocation}",
            *arguments.overrides,
        ]
        command = [sys.executable, "-m", "compress", "prune", str(arguments.given), "--recipe", arguments.recipe]
        command += ["--run", str(run), "--quiet"]
        command += [part for setting in settings for part in ("--set", setting)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    result = json.loads((run / "results.json").read_text(encoding="utf-8"))
    figure = result["figure"]
    given, pruned = result["given"], result["pruned"]
    return {
        "seed": seed,
        "budget": budget,
        "allocation": allocation,
        "figure": figure,
        "time_share": 1 / result["speed_up"]["onnxruntime"]["factor"],
        "macs_share": pruned["macs"] / given["macs"],
        "given": given["val"][figure],
        "pruned": pruned["val"][figure],
        "device": result["engines"]["onnxruntime"]["device"],
    }


def text(results: Row) -> str:
    """The page."""
    rows = results["rows"]
    figure = rows[0]["figure"]
    lines = [
        "# Allocation by latency, against uniform and global ratios",
        "",
        f"    {' '.join(results['command'])}",
        "",
        f"Mean over the seeds, ± their standard deviation; {figure} after fine-tuning; times measured beside the given",
        f"network's, onnxruntime, one thread, {rows[0]['device']}.",
        "",
        f"| target | allocation | seeds | measured time | MACs left | {figure} given | {figure} pruned | change |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for budget in dict.fromkeys(row["budget"] for row in rows):
        for allocation in ALLOCATIONS:
            found = [row for row in rows if (row["budget"], row["allocation"]) == (budget, allocation)]
            if found:
                change = spread([row["pruned"] - row["given"] for row in found], "+.3f")
                shares = [f"{mean(row[key] for row in found):.1%}" for key in ("time_share", "macs_share")]
                scores = [spread([row[key] for row in found], ".3f") for key in ("given", "pruned")]
                cells = [f"{budget:.0%}", allocation, str(len(found)), *shares, *scores, change]
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float], form: str) -> str:
    """Mean and, of several, standard deviation."""
    return f"{mean(values):{form}}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
