"""The steps of Shen et al. (IJCAI 2021) on an OpenPose-like network: replaced operators, cheaper decoding, pruning.

    python -m benchmarks.mobile_flow START [--latency 0.62] [--control-epochs 15] [--out reports/mobile_flow]

START is the run folder of a trained network with 7x7 convolutions, as `compress train NETWORK` writes it. Its maps are
decoded as in Lightweight OpenPose's code: upsampled 8 times, parts at whole pixels.
Steps: `compress rewrite START --recipe rewrite_openpose`; this toolkit's default decoding; `compress prune --recipe
prune_openpose` of the rewritten network, for onnxruntime. Every step's network is scored on the same validation
pictures and timed in one interleaved run on onnxruntime and in one on ncnn, one thread; decoding is timed on the same
pictures. As a control, START is trained for CONTROL_EPOCHS more without a teacher, which shows what training alone
gives. Runs lie in OUT/runs and are not made again.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from compress.artefacts.artefact import load_artefact
from compress.artefacts.metadata import input_size
from compress.data.sets import validation_set
from compress.engines import engine
from compress.errors import RecipeError
from compress.files import write_json, write_text
from compress.measure.counting import count
from compress.measure.decoding import decode_time
from compress.measure.timing import pinned
from compress.measure.whole_networks import time_runners
from compress.pose.approaches import estimator_for
from compress.pose.estimator import LabelledBoxes
from compress.pose.scoring import RESAMPLES, score
from compress.recipe import Decoding, Measurement, RewriteRecipe, find, noted_data, read_recipe

ENGINES = ("onnxruntime", "ncnn")
DECODINGS: dict[str, dict[str, Any]] = {"code": {"upsample": 8, "locate": "middle"}, "default": {}}
"""Changes of the artefact's codec."""

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", type=Path)
    parser.add_argument("--latency", type=float, default=0.62)
    parser.add_argument("--control-epochs", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("reports/mobile_flow"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = arguments.out / "runs"
    rewritten, pruned, control = runs / "rewritten", runs / "pruned", runs / "control"
    command(rewritten, "rewrite", str(arguments.start), "--recipe", "rewrite_openpose")
    if not (rewritten / "architecture.yaml").is_file():
        sys.exit(f"no replacement paid on this machine: see {rewritten / 'report.md'}")
    command(pruned, "prune", str(rewritten), "--recipe", "prune_openpose", "--latency", f"{arguments.latency:.0%}")
    if arguments.control_epochs:
        train_on(control, arguments.start, arguments.control_epochs)
    steps = [
        ("start", arguments.start, "code"),
        ("7x7 replaced", rewritten, "code"),
        ("default decoding", rewritten, "default"),
        ("pruned", pruned, "default"),
        ("for comparison: start, default decoding", arguments.start, "default"),
    ]
    if arguments.control_epochs:
        steps.append((f"for comparison: that, trained for {arguments.control_epochs} more epochs", control, "default"))
    results = {
        "command": ["python", "-m", "benchmarks.mobile_flow", *sys.argv[1:]],
        "rows": measured(steps),
        "device": engine("onnxruntime").describe().device,
    }
    write_json(arguments.out / "results.json", results)
    write_text(arguments.out / "README.md", text(results))


def command(run: Path, *arguments: str) -> None:
    """A `compress` command as a user gives it, unless it has ended before."""
    if not (run / "results.json").is_file():
        subprocess.run([sys.executable, "-m", "compress", *arguments, "--run", str(run)], check=True)


def train_on(run: Path, start: Path, epochs: int) -> None:
    """`compress train` from START's weights, as the rewritten network is tuned, but on the labels alone."""
    tuned = read_recipe(find("rewrite_openpose", "recipes", RecipeError), RewriteRecipe).training
    recipe = Path(tempfile.mkdtemp()) / "control.yaml"
    kept = ("batch_size", "learning_rate", "warmup_steps", "augment")
    facts = load_artefact(start).facts
    training = {key: tuned.model_dump(mode="json")[key] for key in kept} | {"epochs": epochs}
    write_json(
        recipe,
        {
            "job": "train",
            "seed": 3,
            "input_hw": facts["input_hw"],
            "data": facts["data"],
            "codec": facts["codec"],
            "decoding": {"flip_test": False},
            "training": training,
        },
    )
    if not (run / "architecture.yaml").is_file():
        subprocess.run(
            [sys.executable, "-m", "compress", "train", str(start), "--recipe", str(recipe), "--run", str(run)],
            check=True,
        )


def scored(folder: Path, changes: dict[str, Any]) -> Row:
    """AP on the validation pictures, one pass, and the time of decoding its maps."""
    loaded = load_artefact(folder)
    input_hw = input_size(loaded.facts, folder)
    pictures = validation_set(noted_data(loaded.facts["data"], str(folder)), input_hw, loaded.facts["seed"])
    estimator = estimator_for(
        loaded.architecture,
        pictures.keypoints,
        input_hw,
        codec=replace(loaded.metadata.codec, **changes),
        decoding=Decoding(flip_test=False),
        boxes=LabelledBoxes(),
    )
    val = score(
        loaded.network,
        estimator,
        pictures,
        kind="synthetic",
        provenance=str(loaded.facts["provenance"]),
        flip_test=False,
        resamples=RESAMPLES,
    )
    with pinned(1):
        decoded = decode_time(loaded.network, estimator, pictures, flip_test=False)
    counted = count(loaded.network, input_hw)
    return {
        "AP": val.value,
        "AP_se": val.standard_error,
        "decode_ms": asdict(decoded.latency),
        "macs": counted.macs,
        "params": counted.params,
        "pictures": len(pictures),
    }


def measured(steps: list[tuple[str, Path, str]]) -> list[Row]:
    """Every step scored, and all networks timed in one interleaved run per engine."""
    rows = [
        {"step": name, "decoding": decoding, **scored(folder, DECODINGS[decoding])} for name, folder, decoding in steps
    ]
    for row in rows:
        row["network_ms"] = {}
    for name in ENGINES:
        runtime, runners = engine(name), {}
        with tempfile.TemporaryDirectory() as files:
            for number, (_, folder, _) in enumerate(steps):
                loaded = load_artefact(folder)
                input_hw = input_size(loaded.facts, folder)
                exported = runtime.export(loaded.network, input_hw, Path(files), f"n{number}")
                runners[str(number)] = runtime.load(exported[0])
            timings = time_runners(runners, input_hw, Measurement())
        for number, row in enumerate(rows):
            row["network_ms"][name] = asdict(timings[str(number)])
    return rows


def text(results: Row) -> str:
    """The page."""
    rows = results["rows"]
    lines = [
        "# A mobile OpenPose, step by step",
        "",
        f"    {' '.join(results['command'])}",
        "",
        f"Measured: one thread, {results['device']}; medians, quartiles in brackets. {rows[0]['pictures']} synthetic",
        "validation pictures, one pass; ± is a bootstrap standard error over the pictures, one seed. Faster: end to",
        "end, network and decoding. The start's maps are decoded as in Lightweight OpenPose's code.",
        "",
        f"| step | MACs M | {' | '.join(f'{name} ms' for name in ENGINES)} | decoding ms | "
        f"{' | '.join(f'faster, {name}' for name in ENGINES)} | AP |",
        "|" + "---|" * (4 + 2 * len(ENGINES)),
    ]
    first = {name: end_to_end(rows[0], name) for name in ENGINES}
    for row in rows:
        networks = [quartiles(row["network_ms"][name], "median_ms", "q1_ms", "q3_ms") for name in ENGINES]
        faster = [f"{first[name] / end_to_end(row, name):.2f}" for name in ENGINES]
        lines.append(
            f"| {row['step']} | {row['macs'] / 1e6:.0f} | {' | '.join(networks)} "
            f"| {quartiles(row['decode_ms'], 'ms', 'q1_ms', 'q3_ms')} | {' | '.join(faster)} "
            f"| {row['AP']:.3f} ± {row['AP_se']:.3f} |"
        )
    return "\n".join(lines) + "\n"


def end_to_end(row: Row, name: str) -> float:
    """Milliseconds of the network on an engine and of decoding its maps."""
    return float(row["network_ms"][name]["median_ms"] + row["decode_ms"]["ms"])


def quartiles(timing: Row, middle: str, low: str, high: str) -> str:
    return f"{timing[middle]:.2f} ({timing[low]:.2f} to {timing[high]:.2f})"


if __name__ == "__main__":
    main()
