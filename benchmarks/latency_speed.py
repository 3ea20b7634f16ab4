"""How long a latency table of a space takes to build, on every engine, and how fast it then scores candidates.

    python -m benchmarks.latency_speed [--space bhrnet] [--engines onnxruntime ncnn mnn] [--candidates 100000]
        [--out reports/latency]

Builds every table anew (`compress latency build`, one thread). Then detects the kernels of the space's parts and
predicts random candidates, both on one core, with onnxruntime's table; the kernels of a hundred of them are also
detected one by one, and their predictions must be the same. Writes OUT/speed-SPACE.json.
"""

import argparse
import random
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from compress.engines import ENGINES, engine
from compress.engines.onnxruntime_fusion import kernels_by_part
from compress.files import write_json
from compress.jobs.latency.latency import build, space_named
from compress.measure.kernels import detect_kernels
from compress.measure.latency_table import load_table, predict
from compress.measure.target import Target
from compress.measure.timing import pinned
from compress.nas.batch_prediction import PartTable
from compress.nas.space import Pick
from compress.networks import architecture_from_data
from compress.recipe import LatencyRecipe
from compress.report.progress import Terminal

INPUT_HW = (128, 128)
COMPARED = 100
"""Candidates that are also predicted one by one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="bhrnet")
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "ncnn", "mnn"], choices=ENGINES)
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("reports/latency"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"space": arguments.space, "tables": {}}
    with tempfile.TemporaryDirectory() as folder, pinned():
        tables = {name: Path(folder, f"{name}.json") for name in arguments.engines}
        for name, path in tables.items():
            results["tables"][name] = built(arguments.space, name, path)
            write_json(arguments.out / f"speed-{arguments.space}.json", results)
        if "onnxruntime" in tables:
            results["batch"] = batch(arguments.space, tables["onnxruntime"], arguments.candidates)
            write_json(arguments.out / f"speed-{arguments.space}.json", results)


def built(space: str, name: str, path: Path) -> dict[str, Any]:
    """The table's size and the seconds it took."""
    start = time.perf_counter()
    summary = build([space], LatencyRecipe(target=Target(name), input_hw=INPUT_HW), path, Terminal())
    return {**asdict(summary), "table": path.name, "seconds": time.perf_counter() - start}


def batch(source: str, path: Path, count: int) -> dict[str, Any]:
    """Seconds of one core for learning the parts and for predicting; the largest relative difference from detecting the
    kernels of every candidate."""
    space = space_named(source, LatencyRecipe(input_hw=INPUT_HW))
    assert space is not None
    table, input_hw = load_table(path), INPUT_HW
    cuts = 0

    def network(pick: Pick) -> torch.nn.Module:
        with torch.device("meta"):
            return architecture_from_data(space.apply(pick), source).build()

    def cut_pick(pick: Pick) -> Any:
        nonlocal cuts
        cuts += 1
        return kernels_by_part(network(pick), input_hw)

    rng = random.Random(1)
    picks = [space.sample(rng) for _ in range(count)]
    start = time.perf_counter()
    parts = PartTable(space, cut_pick)
    learned = time.perf_counter()
    milliseconds = parts.predict(table, picks)
    done = time.perf_counter()
    alone = [predict(table, detect_kernels(network(pick), input_hw)).ms for pick in picks[:COMPARED]]
    differences = [abs(ms / one - 1) for ms, one in zip(milliseconds[:COMPARED], alone, strict=True)]
    return {
        "candidates": count,
        "learning_s": learned - start,
        "cuts": cuts,
        "predicting_s": done - learned,
        "one_by_one_s": (time.perf_counter() - done) / COMPARED,
        "largest_difference": max(differences),
        "device": engine("onnxruntime").describe().device,
    }


if __name__ == "__main__":
    main()
