"""Five small top-down networks, one recipe, real photographs: accuracy beside parameters, multiply-adds and latency.

    python benchmarks/lspet/run.py --data ../shared/data/lspet [--epochs 10] [--seeds 2] [--jobs 2] [--out DIR]

Trains every network with every seed from scratch (`recipes/train_lsp.yaml`, `compress train`, one thread each),
measures all of them in one interleaved run on onnxruntime, and writes results.json, README.md and curve.png to DIR, by
default reports/lspet. Trainings lie in DIR/runs; a killed benchmark goes on from there. `--jobs 0` trains nothing and
reports the finished trainings.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import platform
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch

import compress
from compress.data.sets import validation_set
from compress.engines import engine
from compress.files import write_bytes, write_json, write_text
from compress.measure.counting import count
from compress.measure.decoding import decode_time
from compress.measure.whole_networks import time_runners
from compress.pose.approaches import estimator_for
from compress.pose.estimator import LabelledBoxes
from compress.pose.percent_correct import THRESHOLDS
from compress.recipe import Decoding
from compress.report.figures import Axis, Figure, Mark, Panel, Series, png
from compress.report.progress import Terminal

HERE = Path(__file__).parent
NETWORKS = {
    "SimpleBaseline (small)": str(HERE / "simple_baseline.yaml"),
    "MobilePoseNet": "mobileposenet",
    "Small HRNet-W16": "small_hrnet_w16",
    "Lite-HRNet-18": "lite_hrnet_18",
    "DIR-BHRNet-32 (n = 1)": str(HERE / "dir_bhrnet.yaml"),
}
INPUT_HW = (128, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("reports/lspet"))
    arguments = parser.parse_args()
    trainings = [(name, seed) for seed in range(1, arguments.seeds + 1) for name in NETWORKS]
    if arguments.jobs:
        with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(train, *one, arguments) for one in trainings]
            for one in waiting:
                one.result()
    finished = {one: folder_of(*one, arguments) for one in trainings if done(folder_of(*one, arguments))}
    missing = [f"{name} seed {seed}" for name, seed in trainings if (name, seed) not in finished]
    results = {
        "command": ["python", "benchmarks/lspet/run.py", *sys.argv[1:]],
        "machine": f"{engine('onnxruntime').describe().device}",
        "torch device": "cpu",
        "python": platform.python_version(),
        "epochs": arguments.epochs,
        "not finished": missing,
        "networks": networks(finished),
    }
    write_json(arguments.out / "results.json", results)
    write_text(arguments.out / "README.md", text(results))
    write_bytes(arguments.out / "curve.png", curve(results))


def train(name: str, seed: int, arguments: argparse.Namespace) -> None:
    """One training in a process of its own; its progress goes to a log beside its run folder."""
    folder = folder_of(name, seed, arguments)
    if done(folder):
        return
    torch.set_num_threads(1)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("a", encoding="utf-8") as log:
        compress.train(
            NETWORKS[name],
            recipe="train_lsp",
            data={"disk": {"folder": arguments.data.resolve()}},
            epochs=arguments.epochs,
            seed=seed,
            folder=folder,
            progress=Terminal(stream=log),
        )


def folder_of(name: str, seed: int, arguments: argparse.Namespace) -> Path:
    return Path(arguments.out) / "runs" / f"{Path(NETWORKS[name]).stem}_{arguments.epochs}_{seed}"


def done(folder: Path) -> bool:
    return (folder / "architecture.yaml").is_file()


def networks(finished: dict[tuple[str, int], Path]) -> list[dict[str, Any]]:
    """Per network: its scores over the seeds, and its cost, measured once (seeds do not change it)."""
    runners, entries = {}, {}
    with tempfile.TemporaryDirectory() as exports:
        for name in NETWORKS:
            folders = [folder for (trained, _), folder in sorted(finished.items()) if trained == name]
            if not folders:
                continue
            first = compress.load(folders[0])
            counted = count(first.module, INPUT_HW)
            files = engine("onnxruntime").export(first.module, INPUT_HW, Path(exports), Path(NETWORKS[name]).stem)
            runners[name] = engine("onnxruntime").load(files[0])
            assert first.metadata.data is not None
            pictures = validation_set(first.metadata.data, INPUT_HW, 1)
            estimator = estimator_for(
                first.architecture,
                first.keypoints,
                INPUT_HW,
                codec=first.metadata.codec,
                decoding=Decoding(flip_test=False),
                boxes=LabelledBoxes(),
            )
            scores = [compress.evaluate(folder).score.figures for folder in folders]
            entries[name] = {
                "name": name,
                "network": Path(NETWORKS[name]).name,
                "params": counted.params,
                "macs": counted.macs,
                "PCK": [score["PCK"] for score in scores],
                "PCK_se": [score["PCK_se"] for score in scores],
                "area": [score["area"] for score in scores],
                "curve": np.mean([score["curve"] for score in scores], axis=0).round(5).tolist(),
                "joints": {
                    key: round(mean(score["joints"][key] for score in scores), 4) for key in scores[0]["joints"]
                },
                "persons": scores[0]["persons"],
                "left_out": scores[0]["left_out"],
                "decode_ms": decode_time(first.module, estimator, pictures, flip_test=False).latency.ms,
            }
        for name, timing in time_runners(runners, INPUT_HW, 1, 100).items():
            entries[name]["latency"] = {
                "median_ms": timing.median_ms,
                "q1_ms": timing.q1_ms,
                "q3_ms": timing.q3_ms,
                "spread": timing.spread,
                "reliable": timing.reliable,
            }
    return list(entries.values())


def spread(values: list[float], digits: int = 3) -> str:
    """Mean ± standard deviation over the seeds."""
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def row(network: dict[str, Any]) -> str:
    """One line of the table."""
    latency = network["latency"]
    doubt = "" if latency["reliable"] else " unreliable"
    cells = [
        network["name"],
        f"{network['params'] / 1e6:.2f}",
        f"{network['macs'] / 1e6:.0f}",
        spread(network["PCK"]),
        f"{mean(network['PCK_se']):.3f}",
        spread(network["area"]),
        f"{latency['median_ms']:.2f} ({latency['q1_ms']:.2f}-{latency['q3_ms']:.2f}){doubt}",
        f"{network['decode_ms']:.2f}",
        str(len(network["PCK"])),
    ]
    return f"| {' | '.join(cells)} |"


def text(results: dict[str, Any]) -> str:
    """The page for people."""
    rows = "\n".join(row(network) for network in results["networks"])
    missing = f"\nNot finished: {', '.join(results['not finished'])}.\n" if results["not finished"] else ""
    return f"""# Small top-down networks on LSPET photographs

    {" ".join(results["command"])}

3000 training and 400 validation photographs (one labelled person each, 14 joints), 128x128 cut-outs of the labelled
boxes, trained from scratch with one recipe (`recipes/train_lsp.yaml`) for {results["epochs"]} epochs: a reduced
schedule on a CPU, far from the 210 epochs that papers train. {results["machine"]}.

| network | params M | MACs M | PCK@0.2 | sampling error | mean PCK | latency ms (quartiles) | decoding ms | seeds |
|---|---|---|---|---|---|---|---|---|
{rows}
{missing}
PCK@0.2: share of labelled joints within 0.2 torso diameters (left shoulder to right hip) of their label, mirrored pass
averaged; ± is the standard deviation over the seeds. Sampling error: one standard error over bootstrap samples of the
persons. Mean PCK: over thresholds from 0 to 0.5, the area under the curve in `curve.png`. Latency: onnxruntime, one
thread, measured in one interleaved run, without the mirrored pass. Decoding: maps to joints, one thread, measured. All
numbers are measured here; none is published or predicted.

These figures say nothing about the order after a long training (small and shallow networks learn faster), nor about
pictures with several people. LSPET's labels are crowd-sourced and noisy; another network of the same form may differ.

![PCK over threshold](curve.png)
"""


def curve(results: dict[str, Any]) -> bytes:
    """PCK over the threshold, a line per network."""
    series = tuple(
        Series(
            network["name"],
            tuple(Mark(x, y) for x, y in zip(THRESHOLDS, network["curve"], strict=True)),
            colour,
            shape="none",
            line="line",
        )
        for colour, network in enumerate(results["networks"])
    )
    title = "PCK on 400 LSPET photographs"
    x = Axis("threshold, in torso diameters")
    figure = Figure(title, title, x, (Panel(Axis("share of joints found"), series),))
    return png(figure, f"{results['epochs']} epochs from scratch, mean over the seeds")


if __name__ == "__main__":
    main()
