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
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

import compress
from compress.engines import engine
from compress.errors import RecipeError
from compress.files import write_json, write_text
from compress.recipe import PruneRecipe, find, read_recipe

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
    torch.set_num_threads(1)
    rows: list[Row] = []
    for seed in range(1, arguments.seeds + 1):
        for budget in arguments.budgets:
            for allocation in ALLOCATIONS:
                rows.append(one(arguments, seed, budget, allocation))
                results = {"command": ["python", "-m", "benchmarks.prune_accuracy", *sys.argv[1:]], "rows": rows}
                write_json(arguments.out / "results.json", results)
                write_text(arguments.out / "README.md", text(results))


def one(arguments: argparse.Namespace, seed: int, budget: float, allocation: str) -> Row:
    """One pruning; a finished one is read from its run folder."""
    file = find(arguments.recipe, "recipes", RecipeError)
    small = compress.prune(
        arguments.given,
        recipe=read_recipe(file, PruneRecipe, arguments.overrides),
        folder=arguments.out / "runs" / f"{allocation}_{budget:g}_{seed}",
        progress=False,
        latency=budget,
        allocate=allocation,
        seed=seed,
        targets=["onnxruntime"],
        training={"epochs": arguments.epochs},
    )
    result = small.result
    assert result is not None
    given, pruned = result.given.score, result.pruned.score
    assert given is not None
    assert pruned is not None
    return {
        "seed": seed,
        "budget": budget,
        "allocation": allocation,
        "figure": given.metric,
        "time_share": 1 / result.speed_up["onnxruntime"].factor,
        "macs_share": result.pruned.macs / result.given.macs,
        "given": given.value,
        "pruned": pruned.value,
        "device": engine("onnxruntime").describe().device,
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
