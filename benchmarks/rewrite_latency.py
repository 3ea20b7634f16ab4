"""Measured time that replacing operators saves: 7x7 convolutions in OpenPose, Swish in EfficientHRNet.

    python -m benchmarks.rewrite_latency [--groups refinement ...] [--engines onnxruntime ncnn] [--rounds 60]
        [--size H W] [--out reports/rewrite_latency]

Random weights, one thread, one interleaved run per group and engine, multiply-adds beside milliseconds. Accuracy is not
measured. Groups:
- refinement: the ResNet OpenPose of 24 layers with one refinement stage, whose five blocks have one 7x7, Lightweight
  OpenPose's two 3x3, the second dilated (behind the 1x1 that all three have), or three 3x3;
- openpose: the original, and with its fifty 7x7 rewritten by the rule conv_to_3x3;
- activation: EfficientHRNet H-2 with Swish in its EfficientNet, hard swish, the form with a hard tanh (the rule
  swish_to_hard_tanh) and ReLU. The attention's sigmoid stays in all four.
Finished groups are kept in OUT/results.json; OUT/README.md has the tables.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import nn

from compress.engines import engine
from compress.errors import EngineError
from compress.files import write_json, write_text
from compress.measure.counting import count
from compress.measure.whole_networks import time_runners
from compress.networks.efficient_hrnet import scaled_efficient_hrnet
from compress.networks.lightweight_openpose import RefinementBlock as DilatedBlock
from compress.networks.mobile_openpose import MobileOpenPose, RefinementBlock
from compress.networks.openpose import OpenPose
from compress.rewriting.sites import rewritten, rule_named, sites

Row = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Networks that are timed together; the first is what the others are compared with."""

    title: str
    input_hw: tuple[int, int]
    variants: Mapping[str, Callable[[], nn.Module]]


def with_dilation() -> nn.Module:
    """The ResNet OpenPose with the blocks of Lightweight OpenPose's refinement stage."""
    network = MobileOpenPose(refinement="one_7x7").build()
    for stage in network.refinements:
        for name, block in list(stage.named_children()):
            if isinstance(block, RefinementBlock):
                conv: nn.Conv2d = block.align.conv  # type: ignore[assignment]
                setattr(stage, name, DilatedBlock(conv.in_channels, conv.out_channels, dilation=2))
    return network


def by_rule(build: Callable[[], nn.Module], rule: str) -> nn.Module:
    """With the rule applied wherever it matches."""
    network = build()
    return rewritten(network, sites(network, rule_named(rule)))


_H2 = scaled_efficient_hrnet(-2)
GROUPS: dict[str, Group] = {
    "refinement": Group(
        "OpenPose with a ResNet, 24 layers, one refinement stage",
        (256, 256),
        {
            "one 7x7": MobileOpenPose(refinement="one_7x7").build,
            "1x1, 3x3, dilated 3x3": with_dilation,
            "three 3x3": MobileOpenPose(refinement="three_3x3").build,
        },
    ),
    "openpose": Group(
        "OpenPose",
        (256, 256),
        {
            "7x7": OpenPose().build,
            "7x7 → three 3x3 (rule)": lambda: by_rule(OpenPose().build, "conv_to_3x3"),
        },
    ),
    "activation": Group(
        "EfficientHRNet H-2",
        (448, 448),
        {
            "Swish": _H2.build,
            "hard swish": replace(_H2, act="hard_swish").build,
            "hard tanh form (rule)": lambda: by_rule(_H2.build, "swish_to_hard_tanh"),
            "ReLU": replace(_H2, act="relu").build,
        },
    ),
}


def compare(group: Group, input_hw: tuple[int, int], engine_name: str, rounds: int, folder: Path) -> dict[str, Row]:
    """Per variant: multiply-adds, parameters, measured milliseconds, speed-up over the first; or why it has none."""
    runtime, rows, runners = engine(engine_name), {}, {}
    for number, (title, build) in enumerate(group.variants.items()):
        torch.manual_seed(1)
        network = build().eval()
        counted = count(network, input_hw)
        rows[title] = {"macs": counted.macs, "params": counted.params}
        try:
            runners[title] = runtime.load(runtime.export(network, input_hw, folder, f"net{number}")[0])
        except EngineError as error:
            rows[title]["failure"] = str(error)
    timings = time_runners(runners, input_hw, 1, rounds)
    first = timings.get(next(iter(group.variants)))
    for title, timing in timings.items():
        rows[title] |= {
            "ms": timing.median_ms,
            "q1_ms": timing.q1_ms,
            "q3_ms": timing.q3_ms,
            "reliable": timing.reliable,
            "speed_up": first.ratio / timing.ratio if first else None,
        }
    return rows


def text(results: Mapping[str, Mapping[str, Any]], device: str) -> str:
    """The page."""
    lines = [
        "# Measured time that replacing operators saves",
        "",
        "    python -m benchmarks.rewrite_latency",
        "",
        "Random weights, one thread, one interleaved run per group and engine: medians and quartiles; speed-ups are of "
        f"times relative to a reference run in between. Accuracy was not measured. {device}.",
    ]
    for result in results.values():
        side = "x".join(map(str, result["input_hw"]))
        lines += [
            "",
            f"## {result['title']} at {side}, {result['engine']} {result['version']}",
            "",
            "| variant | MACs | parameters | ms | quartiles | speed-up |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_line(title, row) for title, row in result["rows"].items()]
    return "\n".join(lines) + "\n"


def _line(title: str, row: Row) -> str:
    counts = f"| {title} | {row['macs'] / 1e9:.2f} G | {row['params'] / 1e6:.2f} M |"
    if "failure" in row:
        return f"{counts} – | – | {row['failure']} |"
    doubt = "" if row["reliable"] else " (unreliable)"
    faster = "–" if row["speed_up"] is None else f"{row['speed_up']:.2f}"
    return f"{counts} {row['ms']:.1f}{doubt} | {row['q1_ms']:.1f} – {row['q3_ms']:.1f} | {faster} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "ncnn"])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="instead of each group's own")
    parser.add_argument("--out", type=Path, default=Path("reports/rewrite_latency"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = arguments.out / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for name in arguments.groups:
        group = GROUPS[name]
        input_hw = tuple(arguments.size or group.input_hw)
        for engine_name in arguments.engines:
            key = f"{name} at {input_hw[0]}x{input_hw[1]} on {engine_name}"
            if key in results:
                continue
            with tempfile.TemporaryDirectory() as folder:
                rows = compare(group, input_hw, engine_name, arguments.rounds, Path(folder))
            version = engine(engine_name).describe().version
            results[key] = {
                "title": group.title,
                "input_hw": input_hw,
                "engine": engine_name,
                "version": version,
                "rounds": arguments.rounds,
                "rows": rows,
            }
            write_json(file, results)
            write_text(arguments.out / "README.md", text(results, engine(engine_name).describe().device))


if __name__ == "__main__":
    main()
