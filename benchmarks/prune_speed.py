"""Measured speed-up at half the multiply-adds, ours beside torch-pruning's defaults; and at `--latency 50%`.

    python -m benchmarks.prune_speed [--networks hrnet_w32 ...] [--engines onnxruntime ncnn] [--rounds 100]
                                     [--out reports/prune_speed]

Random weights, one thread, one interleaved run per network and engine: the network as it is; pruned by `compress prune
--macs 0.5` (l2, uniform, and `--allocate latency`); by torch-pruning 1.6 (GroupMagnitudeImportance, one ratio for all
layers, no rounding, the output layers left out), its ratio chosen for the same multiply-adds; and by `compress prune
--latency 50% --allocate latency`. Finished networks are kept in OUT/results.json; OUT/README.md has the table.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import nn

import compress
from compress.engines import engine
from compress.errors import CompressError
from compress.files import write_json, write_text
from compress.jobs.prune.compare import removals_of, replayed
from compress.measure.counting import count
from compress.measure.whole_networks import time_runners
from compress.networks import network_named

NETWORKS: dict[str, tuple[int, int]] = {
    "mobileposenet": (256, 192),
    "lightweight_openpose_1": (256, 256),
    "dir_bhrnet_32": (256, 256),
    "simple_baseline_r50": (256, 192),
    "hrnet_w32": (256, 192),
    "rtmpose_s": (256, 192),
}
"""Name → input size. Smaller than some papers': the time of a run counts."""
HALF = 0.5
_STEPS = 12  # bisections of torch-pruning's ratio
OURS: dict[str, dict[str, Any]] = {
    "ours, uniform, half the MACs": {"macs": HALF},
    "ours, by latency, half the MACs": {"macs": HALF, "allocate": "latency"},
    "ours, --latency 50%": {"latency": 0.5, "allocate": "latency"},
}

Row = dict[str, Any]


PUBLISHED = {
    "rtmpose_s": "MMRazor's group Fisher pruning of RTMPose-s to 0.35 of 0.68 GFLOPs (69.4 AP on COCO) is published as "
    "1.37 times as fast.",
}
"""What others say of the same."""


def compare(name: str, engine_name: str, folder: Path, rounds: int) -> dict[str, Row]:
    """Per variant: MACs, measured ratio to the given network, or why there is none."""
    input_hw = NETWORKS[name]
    torch.manual_seed(1)
    given = network_named(name).build().eval()
    variants: dict[str, Callable[[], nn.Module]] = {
        "given": lambda: given,
        "torch-pruning, half the MACs": lambda: by_torch_pruning(given, input_hw),
        **{title: partial(ours, name, engine_name, settings, input_hw, rounds) for title, settings in OURS.items()},
    }
    rows: dict[str, Row] = {}
    runners = {}
    for title, build in variants.items():
        try:
            network = build()
            file = engine(engine_name).export(network, input_hw, folder, f"net{len(rows)}")[0]
        except (CompressError, RuntimeError, AssertionError, KeyError, IndexError, ValueError) as error:
            rows[title] = {"failure": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
            continue
        runners[title] = engine(engine_name).load(file)
        rows[title] = {"macs": count(network, input_hw).macs, "params": count(network, input_hw).params}
    timings = time_runners(runners, input_hw, 1, rounds)
    for title, timing in timings.items():
        rows[title] |= {
            "ms": timing.median_ms,
            "q1_ms": timing.q1_ms,
            "q3_ms": timing.q3_ms,
            "spread": timing.spread,
            "speed_up": timings["given"].ratio / timing.ratio,
        }
    return rows


def ours(name: str, engine_name: str, settings: Mapping[str, Any], input_hw: tuple[int, int], rounds: int) -> nn.Module:
    """Pruned with these settings; the seed gives the same random weights."""
    small = compress.prune(
        name,
        input_hw=input_hw,
        target=engine_name,
        seed=1,
        rounds=min(24, rounds),
        progress=False,
        **settings,
    )
    return small.module


def by_torch_pruning(given: nn.Module, input_hw: tuple[int, int]) -> nn.Module:
    """Its group magnitude pruner at the ratio that leaves half the multiply-adds."""
    wanted = HALF * count(given, input_hw).macs
    low, high = 0.0, 0.9
    best = given
    for _ in range(_STEPS):
        ratio = (low + high) / 2
        best = replayed(given, removals_of(given, ratio, input_hw), input_hw)
        low, high = (ratio, high) if count(best, input_hw).macs > wanted else (low, ratio)
    return best


def text(results: Mapping[str, Mapping[str, Row]], device: str) -> str:
    """The page."""
    lines = [
        "# Measured speed-up at half the multiply-adds",
        "",
        "    python -m benchmarks.prune_speed",
        "",
        f"Random weights, one thread, one interleaved run per network and engine; quartiles in brackets. {device}.",
        "",
        "| network | engine | pruned by | MACs left | ms | speed-up |",
        "|---|---|---|---|---|---|",
    ]
    for key, rows in results.items():
        name, engine_name = key.split(" on ")
        macs = rows["given"]["macs"]
        for title, row in rows.items():
            if "failure" in row:
                lines.append(f"| {name} | {engine_name} | {title} | – | – | {row['failure'][:100]} |")
                continue
            ms = f"{row['ms']:.1f} ({row['q1_ms']:.1f} to {row['q3_ms']:.1f})"
            lines.append(
                f"| {name} | {engine_name} | {title} | {row['macs'] / macs:.1%} | {ms} | {row['speed_up']:.2f} |"
            )
    said = [PUBLISHED[name] for name in PUBLISHED if any(key.startswith(f"{name} on ") for key in results)]
    return "\n".join([*lines, *(["", *said] if said else [])]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "ncnn"])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("reports/prune_speed"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = arguments.out / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in arguments.networks:
        for engine_name in arguments.engines:
            key = f"{name} on {engine_name}"
            if key not in results:
                with tempfile.TemporaryDirectory() as folder:
                    results[key] = compare(name, engine_name, Path(folder), arguments.rounds)
                write_json(file, results)
                write_text(arguments.out / "README.md", text(results, engine("onnxruntime").describe().device))


if __name__ == "__main__":
    main()
