"""A search around the trained hand balance of DIR-BHRNet: how much faster at equal accuracy.

    python -m benchmarks.hand_balance [--seeds 1 2 3] [--width 16] [--epochs 10] [--budget 75%] [--trials 25]
        [--finalists 3] [--tuning 5] [--runs runs/hand_balance] [--out reports/hand_balance]

For every seed the paper's balance (n, 2n, 3n, 4n blocks on the branches, n = 1, DIR blocks of expansion 2) of that
width is trained for EPOCHS on synthetic people, 128x128. `compress search` around it, on onnxruntime with one thread,
tunes its finalists for TUNING epochs, with the trained one as teacher, which is tuned for as long. AP is on 400
validation pictures of the seed. Finished runs lie in RUNS and are not made again. To be run on an idle machine.
"""

import argparse
import os
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

import compress
from compress.artefacts.results import NetworkResult, SearchResult, read_results
from compress.files import write_json, write_text
from compress.networks.architecture import Architecture
from compress.networks.dir_bhrnet import DirBHRNet, balanced_blocks
from compress.pose.scoring import difference_error

Row = dict[str, Any]

DATA = {"kind": "synthetic", "synthetic": {"train": 3200, "search": 400, "val": 400, "people": [1, 2]}}
TUNING = {
    "batch_size": 16,
    "learning_rate": 0.003,
    "warmup_steps": 50,
    "distillation": 0.5,
    "loss": {"heatmap": 1.0, "pull": 0.0005, "push": 0.003},
    "augment": {"rotation_deg": 5, "scale": [0.95, 1.1], "translate_px": 10, "flip": 0.5},
}
TARGET = "onnxruntime"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    for name, default in (("width", 16), ("epochs", 10), ("trials", 25), ("finalists", 3), ("tuning", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--budget", default="75%", help="share of the trained network's time, or milliseconds")
    parser.add_argument("--runs", type=Path, default=Path("runs/hand_balance"))
    parser.add_argument("--out", type=Path, default=Path("reports/hand_balance"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in arguments.seeds:
        rows += rows_of(searched(arguments, trained(arguments, seed), seed), seed)
        write_json(arguments.out / "results.json", rows)
        write_text(arguments.out / "README.md", text(rows, arguments))


def hand_balance(width: int) -> Architecture:
    """The paper's, for people in all pictures together."""
    return DirBHRNet(
        width=width, blocks=balanced_blocks(1), kinds=("dir",) * 4, expansions=(2,) * 4, head="single", keypoints=17
    )


def trained(arguments: argparse.Namespace, seed: int) -> Path:
    """The artefact of the network that the search starts from."""
    folder: Path = arguments.runs / f"given-{arguments.width}-{seed}"
    if not (folder / "results.json").is_file():
        compress.train(
            hand_balance(arguments.width),
            recipe="train_synthetic",
            folder=folder,
            seed=seed,
            training={"epochs": arguments.epochs},
            data=DATA,
        )
    return folder


def searched(arguments: argparse.Namespace, given: Path, seed: int) -> SearchResult:
    """What the search around it found."""
    folder: Path = arguments.runs / f"search-{arguments.width}-{seed}-{arguments.budget}"
    if not (folder / "results.json").is_file():
        compress.search(
            given,
            target=TARGET,
            budget=arguments.budget,
            folder=folder,
            seed=seed,
            trials=arguments.trials,
            tuning_samples=640,
            finalists={"count": arguments.finalists, "training": {**TUNING, "epochs": arguments.tuning}},
        )
    return read_results(folder / "results.json", "search", SearchResult)


def rows_of(found: SearchResult, seed: int) -> list[Row]:
    """The given network and the finalists, each beside the given one."""
    given = next(one for one in found.networks if one.name == "given")
    return [_row(one, given, seed) for one in found.networks]


def _row(network: NetworkResult, given: NetworkResult, seed: int) -> Row:
    assert network.score is not None
    assert given.score is not None
    ms, of_given = network.latency[TARGET], given.latency[TARGET]
    return {
        "seed": seed,
        "network": network.name,
        "params": network.params,
        "score": network.score.value,
        "standard_error": network.score.standard_error,
        "ahead": (network.score.value or 0.0) - (given.score.value or 0.0),
        "error": difference_error(network.score, given.score),
        "ms": ms.ms,
        "faster": of_given.ms / ms.ms,
        "reliable": ms.reliable and of_given.reliable,
    }


def text(rows: list[Row], arguments: argparse.Namespace) -> str:
    """The page."""
    names = ("seeds", "width", "epochs", "budget", "trials", "finalists", "tuning")
    given = {name: getattr(arguments, name) for name in names}
    words = [f"--{name} {' '.join(map(str, one)) if isinstance(one, list) else one}" for name, one in given.items()]
    best = [
        max((one for one in rows if one["seed"] == seed and one["network"] != "given"), key=lambda one: one["score"])
        for seed in dict.fromkeys(one["seed"] for one in rows)
    ]
    ahead, faster = (median(one[name] for one in best) for name in ("ahead", "faster"))
    lines = [
        "# A search around the trained hand balance",
        "",
        f"    python -m benchmarks.hand_balance {' '.join(words)}",
        "",
        "AP on 400 validation pictures of synthetic people, ± one standard error. Milliseconds: one pass, onnxruntime,",
        "one thread; all networks of a seed timed in one interleaved run; (?) an unsteady timing. Ahead: AP less the",
        "given network's, which is tuned for as long, ± one standard error of the difference, of the same pictures.",
        "",
        "| seed | network | M parameters | AP | ahead of the given one | ms | times as fast |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in rows:
        beside = "" if one["network"] == "given" else f"{one['ahead']:+.3f} ± {one['error']:.3f}"
        unsteady = "" if one["reliable"] else " (?)"
        lines.append(
            f"| {one['seed']} | {one['network']} | {one['params'] / 1e6:.3f} "
            f"| {one['score']:.3f} ± {one['standard_error']:.3f} | {beside} | {one['ms']:.3f}{unsteady} "
            f"| {one['faster']:.2f} |"
        )
    lines += [
        "",
        f"Most accurate finalists, medians of {len(best)} seed(s): {ahead:+.3f} AP at {faster:.2f} times the speed.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
