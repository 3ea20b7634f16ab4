"""Small top-down networks, one recipe, real photographs: accuracy beside parameters, multiply-adds and latency.

    python benchmarks/lspet/run.py --data ../shared/data/lspet [--epochs 10] [--seeds 3] [--jobs 2]
        [--searched runs/search_lsp] [--out DIR]

Trains five hand-made networks at 128x128, one of them at 96x96 too, and the finalists of `compress search search_lsp`
whose run folder is SEARCHED, with every seed from scratch (`recipes/train_lsp.yaml`, `compress train`, one thread
each); of a finalist its architecture and its input size are taken, and no weights. Measures all of them in one
interleaved run on onnxruntime and ncnn, and writes results.json, README.md and trade_off.png to DIR, by default
reports/lspet, beside the finalists' structures. Trainings lie in DIR/runs; a killed benchmark goes on from there.
`--jobs 0` trains nothing and reports the finished trainings.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import platform
import re
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
import yaml

import compress
from compress.data.sets import validation_set
from compress.engines import Runner, engine
from compress.files import write_bytes, write_json, write_text
from compress.measure.counting import count
from compress.measure.decoding import decode_time
from compress.measure.latency import Latency
from compress.measure.whole_networks import time_runners
from compress.networks import architecture_to_data
from compress.pose.approaches import estimator_for
from compress.pose.estimator import LabelledBoxes
from compress.recipe import Decoding
from compress.report.figures import Axis, Figure, Mark, Panel, Series, png
from compress.report.progress import Terminal

HERE = Path(__file__).parent
SIDE = 128
"""Of the hand-made networks' input."""
NETWORKS = {
    "SimpleBaseline (small)": (str(HERE / "simple_baseline.yaml"), (SIDE, SIDE)),
    "MobilePoseNet": ("mobileposenet", (SIDE, SIDE)),
    "Small HRNet-W16": ("small_hrnet_w16", (SIDE, SIDE)),
    "Lite-HRNet-18": ("lite_hrnet_18", (SIDE, SIDE)),
    "DIR-BHRNet-32 (n = 1)": (str(HERE / "dir_bhrnet.yaml"), (SIDE, SIDE)),
}
CONTROLS = {"DIR-BHRNet-32 (n = 1), 96x96": (str(HERE / "dir_bhrnet.yaml"), (96, 96))}
"""What a smaller input alone gives: not one of the five."""
ENGINES = ("onnxruntime", "ncnn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--searched", type=Path, help="run folder of a search")
    parser.add_argument("--out", type=Path, default=Path("reports/lspet"))
    arguments = parser.parse_args()
    known = {**NETWORKS, **(finalists(arguments.searched, arguments.out) if arguments.searched else {}), **CONTROLS}
    trainings = [
        Run(name, network, input_hw, seed, arguments.out / "runs" / f"{label(name)}_{arguments.epochs}_{seed}")
        for seed in range(1, arguments.seeds + 1)
        for name, (network, input_hw) in known.items()
    ]
    trainings.sort(key=lambda one: one.name in CONTROLS)  # last
    if arguments.jobs:
        with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(train, one, arguments.data.resolve(), arguments.epochs) for one in trainings]
            for one in waiting:
                one.result()
    results = {
        "command": ["python", "benchmarks/lspet/run.py", *sys.argv[1:]],
        "machine": f"{engine('onnxruntime').describe().device}",
        "torch device": "cpu",
        "python": platform.python_version(),
        "epochs": arguments.epochs,
        "not finished": [f"{one.name} seed {one.seed}" for one in trainings if not one.done],
        "networks": networks([one for one in trainings if one.done]),
    }
    write_json(arguments.out / "results.json", results)
    write_text(arguments.out / "README.md", text(results))
    write_bytes(arguments.out / "trade_off.png", trade_off(results))


@dataclass(frozen=True)
class Run:
    """One training. network: as `compress train` takes it."""

    name: str
    network: str
    input_hw: tuple[int, int]
    seed: int
    folder: Path

    @property
    def done(self) -> bool:
        return (self.folder / "architecture.yaml").is_file()


def finalists(searched: Path, out: Path) -> dict[str, tuple[str, tuple[int, int]]]:
    """The architectures that a search found, without their weights and in files of OUT, and their input sizes."""
    found = {}
    for place, folder in enumerate(sorted(searched.glob("finalists/finalist_*")), 1):
        network, file = compress.load(folder), out / f"searched_{place}.yaml"
        write_text(file, yaml.safe_dump(architecture_to_data(network.architecture), sort_keys=False))
        found[f"searched {place}"] = (str(file), network.input_hw)
    return found


def label(name: str) -> str:
    """Of the folder of a network's trainings."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def train(run: Run, data: Path, epochs: int) -> None:
    """One training in a process of its own; its progress goes to a log beside its run folder."""
    if run.done:
        return
    torch.set_num_threads(1)
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    with run.folder.with_suffix(".log").open("a", encoding="utf-8") as log:
        compress.train(
            run.network,
            recipe="train_lsp",
            input_hw=list(run.input_hw),
            data={"disk": {"folder": data}},
            epochs=epochs,
            seed=run.seed,
            folder=run.folder,
            progress=Terminal(stream=log),
        )


def networks(finished: Sequence[Run]) -> list[dict[str, Any]]:
    """Per network: its scores over the seeds, and its cost, measured once (seeds do not change it)."""
    runners: dict[str, Runner] = {}
    sizes: dict[str, tuple[int, int]] = {}
    entries: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as exports:
        for name in dict.fromkeys(one.name for one in finished):
            folders = [one.folder for one in finished if one.name == name]
            first = compress.load(folders[0])
            size = first.input_hw
            counted = count(first.module, size)
            for each in ENGINES:
                files = engine(each).export(first.module, size, Path(exports), f"{each}_{len(runners)}")
                runners[f"{name}: {each}"] = engine(each).load(files[0])
                sizes[f"{name}: {each}"] = size
            assert first.metadata.data is not None
            pictures = validation_set(first.metadata.data, size, 1)
            estimator = estimator_for(
                first.architecture,
                first.keypoints,
                size,
                codec=first.metadata.codec,
                decoding=Decoding(flip_test=False),
                boxes=LabelledBoxes(),
            )
            scores = [compress.evaluate(folder).score.figures for folder in folders]
            entries[name] = {
                "name": name,
                "architecture": architecture_to_data(first.architecture),
                "input_hw": size,
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
        for key, timing in time_runners(runners, sizes, 1, 100).items():
            name, _, each = key.rpartition(": ")
            latency = Latency.of_timing(timing, each)
            entries[name].setdefault("latency", {})[each] = {
                "ms": latency.ms,
                "q1_ms": latency.q1_ms,
                "q3_ms": latency.q3_ms,
                "reliable": timing.reliable,
            }
    return list(entries.values())


def spread(values: list[float], digits: int = 3) -> str:
    """Mean ± standard deviation over the seeds."""
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{deviation}"


def row(network: dict[str, Any]) -> str:
    """One line of the table."""
    times = []
    for each in network["latency"].values():
        doubt = "" if each["reliable"] else " unreliable"
        times.append(f"{each['ms']:.2f} ({each['q1_ms']:.2f}-{each['q3_ms']:.2f}){doubt}")
    cells = [
        network["name"],
        "x".join(map(str, network["input_hw"])),
        f"{network['params'] / 1e6:.2f}",
        f"{network['macs'] / 1e6:.0f}",
        spread(network["PCK"]),
        f"{mean(network['PCK_se']):.3f}",
        spread(network["area"]),
        *times,
        f"{network['decode_ms']:.2f}",
        str(len(network["PCK"])),
    ]
    return f"| {' | '.join(cells)} |"


def verdicts(found: Sequence[dict[str, Any]]) -> str:
    """What each searched network has over each hand-made one: more PCK, mean over the seeds, in less time."""
    searched = [one for one in found if one["name"] not in NETWORKS and one["name"] not in CONTROLS]
    if not searched:
        return ""
    lines = ["", "| searched | against | PCK | " + " | ".join(f"{each}, times as fast" for each in ENGINES) + " | |"]
    lines.append(f"|{'---|' * (len(ENGINES) + 4)}")
    for one in searched:
        for other in (one for one in found if one not in searched):
            more = mean(one["PCK"]) - mean(other["PCK"])
            sure = 2 * (deviation(one["PCK"]) ** 2 + deviation(other["PCK"]) ** 2) ** 0.5
            faster = [other["latency"][each]["ms"] / one["latency"][each]["ms"] for each in ENGINES]
            verdict = "dominates" if more >= 0 and all(each >= 1 for each in faster) else ""
            cells = [one["name"], other["name"], f"{more:+.3f} ± {sure:.3f}", *(f"{each:.2f}" for each in faster)]
            lines.append(f"| {' | '.join([*cells, verdict])} |")
    lines += [
        "",
        "± here: two standard errors of the difference, from the seeds. Dominates: no less PCK in no more time",
    ]
    return "\n".join([*lines[:-1], lines[-1] + ", on both engines.", ""])


def deviation(values: Sequence[float]) -> float:
    """Standard error of the mean, from the seeds; 0 for a single one."""
    return float(stdev(values) / len(values) ** 0.5) if len(values) > 1 else 0.0


def text(results: dict[str, Any]) -> str:
    """The page for people."""
    rows = "\n".join(row(network) for network in results["networks"])
    times = " | ".join(f"{each} ms (quartiles)" for each in ENGINES)
    missing = f"\nNot finished: {', '.join(results['not finished'])}.\n" if results["not finished"] else ""
    return f"""# Small top-down networks on LSPET photographs

    {" ".join(results["command"])}

3000 training and 400 validation photographs (one labelled person each, 14 joints), cut-outs of the labelled boxes,
trained from scratch with one recipe (`recipes/train_lsp.yaml`) for {results["epochs"]} epochs: a reduced
schedule on a CPU, far from the 210 epochs that papers train. {results["machine"]}.

| network | input | params M | MACs M | PCK@0.2 | sampling error | mean PCK | {times} | decoding ms | seeds |
|{"---|" * (9 + len(ENGINES))}
{rows}
{missing}{verdicts(results["networks"])}
PCK@0.2: share of labelled joints within 0.2 torso diameters (left shoulder to right hip) of their label, mirrored pass
averaged; ± is the standard deviation over the seeds. Sampling error: one standard error over bootstrap samples of the
persons. Mean PCK: over thresholds from 0 to 0.5, the area under the curve. Milliseconds: one thread,
measured in one interleaved run, without the mirrored pass. Decoding: maps to joints, one thread, measured. All
numbers are measured here; none is published or predicted.

These figures say nothing about the order after a long training (small and shallow networks learn faster), nor about
pictures with several people. LSPET's labels are crowd-sourced and noisy; another network of the same form may differ.

![PCK against latency](trade_off.png)
"""


def trade_off(results: dict[str, Any]) -> bytes:
    """PCK, mean and standard deviation over the seeds, beside the milliseconds of the first engine."""
    kinds: dict[str, list[Mark]] = {"hand-made": [], "searched": []}
    for network in results["networks"]:
        latency, pck = network["latency"][ENGINES[0]], network["PCK"]
        middle, aside = mean(pck), stdev(pck) if len(pck) > 1 else 0.0
        by_hand = network["name"] in NETWORKS or network["name"] in CONTROLS
        kinds["hand-made" if by_hand else "searched"].append(
            Mark(
                latency["ms"],
                middle,
                network["name"],
                True,
                latency["q1_ms"],
                latency["q3_ms"],
                middle - aside,
                middle + aside,
            )
        )
    series = tuple(
        Series(kind, tuple(marks), colour, shape)  # type: ignore[arg-type]
        for (kind, marks), colour, shape in zip(kinds.items(), (1, 0), ("diamond", "circle"), strict=True)
    )
    title = "PCK against latency on 400 LSPET photographs"
    x = Axis(f"{ENGINES[0]}, one thread, ms", "ms")
    figure = Figure(title, title, x, (Panel(Axis("PCK@0.2"), series),))
    return png(figure, f"{results['epochs']} epochs from scratch, mean and standard deviation over the seeds")


if __name__ == "__main__":
    main()
