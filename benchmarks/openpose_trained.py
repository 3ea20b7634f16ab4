"""Accuracy and time over depth at equal multiply-adds, and over refinement stages, trained on synthetic people.

    python -m benchmarks.openpose_trained [--tables refinement depth] [--epochs 6] [--seed 1] [--out DIR]

A narrow ResNet OpenPose at 192x192, trained from scratch by `recipes/train_openpose.yaml` for EPOCHS: with 0 to 3
refinement stages; and with one stage at four depths, as wide as keeps the multiply-adds (compress.rewriting.depth).
Scores are on the validation pictures, one pass; all networks are timed in one interleaved run on onnxruntime, one
thread. Runs lie in OUT/runs and are not made again. OUT, by default reports/openpose_trained, gets results.json,
README.md and curve.png.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

import compress
from compress.engines import engine
from compress.files import write_bytes, write_json, write_text
from compress.measure.counting import count
from compress.measure.whole_networks import time_runners
from compress.networks import Architecture, architecture_to_data
from compress.networks.mobile_openpose import MobileOpenPose
from compress.report.figures import Axis, Figure, Mark, Panel, Series, png
from compress.rewriting.depth import at_depth

BASE = MobileOpenPose(blocks=(2, 3), width=16, features=32, refinements=1, refinement="three_3x3")
LAYERS = (12, 18, 30, 57)
STAGES = (0, 1, 2, 3)
INPUT_HW = (192, 192)

Row = dict[str, Any]


def macs_of(architecture: Architecture) -> int:
    with torch.device("meta"):
        return count(architecture.build(), INPUT_HW).macs


TABLES: Mapping[str, Mapping[int, Architecture]] = {
    "refinement": {stages: replace(BASE, refinements=stages) for stages in STAGES},
    "depth": {layers: at_depth(BASE, layers, macs_of) for layers in LAYERS},
}
"""Table → refinement stages or layers → network."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("reports/openpose_trained"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = arguments.out / "runs"
    wanted = {name: TABLES[name] for name in arguments.tables}
    for networks in wanted.values():
        for network in networks.values():
            train(network, run_of(runs, network, arguments), arguments.epochs, arguments.seed)
    rows = {
        table: [scored(choice, network, run_of(runs, network, arguments)) for choice, network in networks.items()]
        for table, networks in wanted.items()
    }
    time_all(rows)
    results = {
        "command": ["python", "-m", "benchmarks.openpose_trained", *sys.argv[1:]],
        "device": engine("onnxruntime").describe().device,
        "epochs": arguments.epochs,
        "seed": arguments.seed,
        "tables": rows,
    }
    write_json(arguments.out / "results.json", results)
    write_text(arguments.out / "README.md", text(results))
    write_bytes(arguments.out / "curve.png", curve(rows))


def run_of(runs: Path, network: Architecture, arguments: argparse.Namespace) -> Path:
    """The folder of one training; one network of both tables is trained once."""
    assert isinstance(network, MobileOpenPose)
    structure = f"{network.layers}_layers_{network.refinements}_stages"
    return runs / f"{structure}_{arguments.epochs}_epochs_seed_{arguments.seed}"


def train(network: Architecture, run: Path, epochs: int, seed: int) -> None:
    """Trains the network in its run folder, unless it has been done."""
    if not (run / "architecture.yaml").is_file():
        compress.train(network, recipe="train_openpose", folder=run, epochs=epochs, seed=seed)


def scored(choice: int, network: Architecture, run: Path) -> Row:
    """Counts and AP on the validation pictures."""
    score = compress.evaluate(run, decoding={"flip_test": False}).score
    counted = count(compress.load(run).module, INPUT_HW)
    return {
        "choice": choice,
        "architecture": architecture_to_data(network),
        "run": str(run),
        "macs": counted.macs,
        "params": counted.params,
        "AP": score.value,
        "AP_se": score.standard_error,
    }


def time_all(tables: Mapping[str, list[Row]]) -> None:
    """Adds every row's timing; networks of one run folder are one runner."""
    runtime = engine("onnxruntime")
    rows = [row for table in tables.values() for row in table]
    with tempfile.TemporaryDirectory() as folder:
        runners = {}
        for number, run in enumerate(dict.fromkeys(row["run"] for row in rows)):
            files = runtime.export(compress.load(run).module, INPUT_HW, Path(folder), f"n{number}")
            runners[run] = runtime.load(files[0])
        timings = time_runners(runners, INPUT_HW, 1, 100)
    for row in rows:
        row["network_ms"] = asdict(timings[row["run"]])


TITLES = {
    "refinement": ("Refinement stages", "stages"),
    "depth": ("Depth at equal multiply-adds, one refinement stage", "layers"),
}


def text(results: Row) -> str:
    """The page."""
    lines = [
        "# Refinement stages and depth, trained",
        "",
        f"    {' '.join(results['command'])}",
        "",
        f"A narrow ResNet OpenPose at 192x192 on synthetic people, trained from scratch for {results['epochs']} epochs",
        "of 4096 pictures (`recipes/train_openpose.yaml`), 400 validation pictures, one pass; ± is the bootstrap",
        "standard error over the pictures, one seed each. Times: onnxruntime, one thread, one interleaved run, medians",
        f"with quartiles, {results['device']}. A short training favours shallow networks; COCO may differ.",
        "",
        "![AP over time](curve.png)",
    ]
    for name, rows in results["tables"].items():
        title, what = TITLES[name]
        lines += [
            "",
            f"## {title}",
            "",
            f"| {what} | blocks | width | MACs M | parameters k | ms | AP |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            record, ms = row["architecture"], row["network_ms"]
            lines.append(
                f"| {row['choice']} | {tuple(record['blocks'])} | {record['width']} | {row['macs'] / 1e6:.0f} "
                f"| {row['params'] / 1e3:.0f} | {ms['median_ms']:.2f} ({ms['q1_ms']:.2f} to {ms['q3_ms']:.2f}) "
                f"| {row['AP']:.3f} ± {row['AP_se']:.3f} |"
            )
    return "\n".join(lines) + "\n"


def curve(tables: Mapping[str, list[Row]]) -> bytes:
    """AP over measured time, a line per table, a standard error to either side."""
    series = []
    for colour, (name, rows) in enumerate(tables.items()):
        title, choice = TITLES[name]
        marks = [
            Mark(
                row["network_ms"]["median_ms"],
                row["AP"],
                f"{row['choice']} {choice}",
                labelled=True,
                y_low=row["AP"] - row["AP_se"],
                y_high=row["AP"] + row["AP_se"],
            )
            for row in rows
        ]
        series.append(Series(title, tuple(sorted(marks, key=lambda mark: mark.x)), colour, line="line"))
    title = "Refinement stages and depth, trained"
    panel = Panel(Axis("AP, validation"), tuple(series))
    x = Axis("network, measured ms", "ms")
    return png(Figure(title, title, x, (panel,)), "synthetic people, 192x192, onnxruntime")


if __name__ == "__main__":
    main()
