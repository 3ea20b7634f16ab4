"""Pruning to a time by kernels' times from three tables: timed apart, timed in whole networks, and another device's.

    python -m benchmarks.prune_tables RUN[:RECIPE] ... [--latency 0.5] [--seeds 3] [--epochs 2] [--rounds 60]
        [--engine onnxruntime] [--out reports/prune_tables]

RUN is a trained artefact, RECIPE one of `compress prune` (any_network's settings without one). Every network is pruned
to the same share of its time by channels chosen by latency, with an empty cache each, whose layer times are

- kernels: of the engine's kernels timed apart, in models of kernels, as `compress prune` finds them on this machine;
- in situ: of the whole network and of its uniformly pruned ones, timed node by node, before the pruning begins;
- packed: of a table that `compress latency pack RUN --for prune` asked for, timed by its run.py, and taken as another
  device's: nothing is timed during the pruning, and what the table lacks is estimated.

All three are tuned alike; then they and the given network are timed in one interleaved run per seed. Finished runs lie
in OUT/runs and are not made again. To be run on an idle machine; OUT/README.md and OUT/results.json have the results.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

import compress
from compress.engines import engine
from compress.errors import RecipeError
from compress.files import write_json, write_text
from compress.jobs.latency.latency import Candidate
from compress.jobs.latency.pack import changed_candidates, pack, unpack
from compress.measure.in_network import profile_in_networks
from compress.measure.kept_tables import table_path
from compress.measure.latency_model import identity_of
from compress.measure.latency_table import open_table
from compress.measure.target import Target
from compress.measure.whole_networks import time_exports
from compress.progress import Silent
from compress.recipe import LatencyRecipe, PruneRecipe, find, read_recipe

ARMS = ("kernels", "in situ", "packed")

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="RUN[:RECIPE]")
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--out", type=Path, default=Path("reports/prune_tables"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for named in given.networks:
        for seed in range(1, given.seeds + 1):
            rows += pruned(given, named, seed)
            results = {
                "command": ["python", "-m", "benchmarks.prune_tables", *sys.argv[1:]],
                "device": engine(given.engine).describe().device,
                "latency": given.latency,
                "rows": rows,
            }
            write_json(given.out / "results.json", results)
            write_text(given.out / "README.md", text(results))


def pruned(given: argparse.Namespace, named: str, seed: int) -> list[Row]:
    """One network with one seed by all three tables."""
    run, _, recipe_name = named.partition(":")
    settings = read_recipe(find(recipe_name, "recipes", RecipeError), PruneRecipe, []) if recipe_name else None
    name, folder = Path(run).name, given.out / "runs" / f"{Path(run).name}_{seed}"
    networks, target = {"given": compress.load(run)}, Target(given.engine)
    for arm in ARMS:
        place = folder / arm.replace(" ", "_")
        os.environ["COMPRESS_CACHE"] = str(place / "cache")
        decides = f"{given.engine}@{packed(given, run, folder)}" if arm == "packed" else given.engine
        if arm == "in situ":
            time_in_situ(given, run)
        networks[arm] = compress.prune(
            run,
            recipe=settings,
            folder=place / "run",
            progress=False,
            target=decides,
            latency=given.latency,
            allocate="latency",
            seed=seed,
            training={"epochs": given.epochs},
        )
    first = networks["given"]
    with TemporaryDirectory() as exports:
        files = {
            arm: {target: engine(given.engine).export(one.module, first.input_hw, Path(exports), arm.split()[0])[0]}
            for arm, one in networks.items()
        }
        times = {
            arm: found[target.name]
            for arm, found in time_exports(files, given.rounds, first.input_hw, Silent()).items()
        }
    rows = []
    for arm in ARMS:
        result = networks[arm].result
        before, after = result.given.score, result.pruned.score
        rows.append(
            {
                "network": name,
                "seed": seed,
                "table": arm,
                "given_ms": times["given"].ms,
                "ms": times[arm].ms,
                "share": times[arm].ms / times["given"].ms,
                "reliable": bool(times[arm].reliable and times["given"].reliable),
                "metric": after.metric if after else None,
                "given": before.value if before else None,
                "score": after.value if after else None,
                "standard_error": after.standard_error if after else None,
            }
        )
    return rows


def candidates(given: argparse.Namespace, run: str) -> list[Candidate]:
    """The network and its uniformly pruned ones."""
    recipe = LatencyRecipe.model_validate({"target": given.engine, "purpose": "prune", "networks": 1})
    return [one for one in changed_candidates(run, recipe, engine(given.engine)) if "-random-" not in one.name]


def time_in_situ(given: argparse.Namespace, run: str) -> None:
    """Fills the cache's table with kernels timed in whole networks."""
    runtime, identity = engine(given.engine), identity_of(Target(given.engine))
    table = open_table(table_path(identity), identity)
    with TemporaryDirectory() as folder:

        def export(one: Candidate) -> Path:
            return runtime.export(one.build(), one.input_hw, Path(folder), one.name)[0]

        files = {one.name: partial(export, one) for one in candidates(given, run)}
        profile_in_networks(table, runtime, files)


def packed(given: argparse.Namespace, run: str, folder: Path) -> Path:
    """The table of a folder packed for this network and run here; the same for all of a seed's resumed runs."""
    table, there = folder / "packed.json", folder / "packed_folder"
    if not table.is_file():
        settings = {"target": given.engine, "purpose": "prune", "networks": 3}
        pack([run], LatencyRecipe.model_validate(settings), there, Silent())
        subprocess.run([sys.executable, "run.py"], cwd=there, check=True, stdout=subprocess.DEVNULL)
        unpack(there, table, None, Silent())
    return table


def text(results: Row) -> str:
    """The page."""
    rows = results["rows"]
    lines = [
        "# Pruning by three tables of the same machine",
        "",
        f"    {' '.join(results['command'])}",
        "",
        f"{results['device']}, one thread; {results['latency']:.0%} of the time was requested. Times of one "
        "interleaved run per network and seed; means over the seeds ± standard deviation. (?): a timing was unsteady.",
        "",
        "| network | layer times | seeds | measured share of the time | score given | score pruned, tuned |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["network"] for row in rows):
        for arm in ARMS:
            found = [row for row in rows if (row["network"], row["table"]) == (name, arm)]
            doubt = "" if all(row["reliable"] for row in found) else " (?)"
            share = spread([row["share"] for row in found], ".1%") + doubt
            scores = [spread([row[key] for row in found if row[key] is not None], ".3f") for key in ("given", "score")]
            metric = found[0]["metric"] or ""
            cells = [name, arm, str(len(found)), share, *(f"{metric} {score}" for score in scores)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float], form: str) -> str:
    """Mean and, of several, standard deviation."""
    if not values:
        return "-"
    return f"{mean(values):{form}}" + (f" ± {stdev(values):{form}}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
