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
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

import compress
from compress.artefacts.artefact import Network
from compress.data.sets import validation_set
from compress.engines import engine
from compress.files import write_json, write_text
from compress.measure.counting import count
from compress.measure.decoding import decode_time
from compress.measure.timing import pinned
from compress.measure.whole_networks import time_runners
from compress.pose.approaches import estimator_for
from compress.pose.estimator import LabelledBoxes
from compress.recipe import Decoding

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
    start = compress.load(arguments.start)
    rewritten = compress.rewrite(start, recipe="rewrite_openpose", folder=runs / "rewritten")
    if rewritten.result is None or rewritten.result.rewritten is None:
        sys.exit(f"no replacement paid on this machine: see {runs / 'rewritten' / 'report.md'}")
    pruned = compress.prune(rewritten, recipe="prune_openpose", latency=arguments.latency, folder=runs / "pruned")
    steps: list[tuple[str, Network, str]] = [
        ("start", start, "code"),
        ("7x7 replaced", rewritten, "code"),
        ("default decoding", rewritten, "default"),
        ("pruned", pruned, "default"),
        ("for comparison: start, default decoding", start, "default"),
    ]
    if arguments.control_epochs:
        tuning = rewritten.result.run.recipe["training"]
        control = train_on(runs / "control", start, tuning, arguments.control_epochs)
        steps.append((f"for comparison: that, trained for {arguments.control_epochs} more epochs", control, "default"))
    results = {
        "command": ["python", "-m", "benchmarks.mobile_flow", *sys.argv[1:]],
        "rows": measured(steps),
        "device": engine("onnxruntime").describe().device,
    }
    write_json(arguments.out / "results.json", results)
    write_text(arguments.out / "README.md", text(results))


def train_on(run: Path, start: Network, tuning: Mapping[str, Any], epochs: int) -> Network:
    """START trained as the rewritten network was tuned, but on the labels alone."""
    if (run / "architecture.yaml").is_file():
        return compress.load(run)
    kept = ("batch_size", "learning_rate", "warmup_steps", "augment")
    return compress.train(
        start,
        folder=run,
        seed=3,
        input_hw=start.input_hw,
        data=start.metadata.data,
        codec=start.metadata.codec,
        decoding={"flip_test": False},
        training={**{key: tuning[key] for key in kept}, "epochs": epochs},
    )


def scored(network: Network, changes: dict[str, Any]) -> Row:
    """AP on the validation pictures, one pass, and the time of decoding its maps."""
    known = network.metadata
    assert known.data is not None
    codec = replace(known.codec, **changes)
    val = compress.evaluate(network, codec=codec, decoding={"flip_test": False}).score
    pictures = validation_set(known.data, network.input_hw, known.seed)
    estimator = estimator_for(
        network.architecture,
        pictures.keypoints,
        network.input_hw,
        codec=codec,
        decoding=Decoding(flip_test=False),
        boxes=LabelledBoxes(),
    )
    with pinned(1):
        decoded = decode_time(network.module, estimator, pictures, flip_test=False)
    counted = count(network.module, network.input_hw)
    return {
        "AP": val.value,
        "AP_se": val.standard_error,
        "decode_ms": asdict(decoded.latency),
        "macs": counted.macs,
        "params": counted.params,
        "pictures": len(pictures),
    }


def measured(steps: list[tuple[str, Network, str]]) -> list[Row]:
    """Every step scored, and all networks timed in one interleaved run per engine."""
    rows = [
        {"step": name, "decoding": decoding, **scored(network, DECODINGS[decoding])}
        for name, network, decoding in steps
    ]
    for row in rows:
        row["network_ms"] = {}
    for name in ENGINES:
        runtime, runners = engine(name), {}
        with tempfile.TemporaryDirectory() as files:
            for number, (_, network, _) in enumerate(steps):
                exported = runtime.export(network.module, network.input_hw, Path(files), f"n{number}")
                runners[str(number)] = runtime.load(exported[0])
            timings = time_runners(runners, steps[0][1].input_hw, 1, 100)
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
