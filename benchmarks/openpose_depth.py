"""Depth against width and the number of refinement stages, measured: the Fast multi-person pose paper's Table 1.

    python -m benchmarks.openpose_depth [--tables depth refinement] [--engines onnxruntime ncnn] [--rounds 40]
        [--size 368] [--out reports/openpose_depth]

The ResNet OpenPose of 24, 36, 72 and 147 layers at the multiply-adds of the one of 36 (compress.rewriting.depth),
beside the paper's figures; and Lightweight OpenPose with 0 to 3 refinement stages. Random weights, one thread, one
interleaved run per table and engine. Accuracies are the papers' (COCO val2017): training these networks on COCO takes
days. Finished tables are kept in OUT/results.json; OUT/README.md has the tables.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from compress.engines import engine
from compress.files import write_json, write_text
from compress.measure.counting import count
from compress.measure.whole_networks import time_runners
from compress.networks import NETWORKS, Architecture
from compress.networks.mobile_openpose import MobileOpenPose
from compress.networks.published import PUBLISHED, Published
from compress.rewriting.depth import at_depth

LAYERS = (24, 36, 72, 147)
STAGES = (0, 1, 2, 3)

Row = dict[str, Any]


def depths(input_hw: tuple[int, int]) -> dict[str, Architecture]:
    """Of every number of layers the network at equal multiply-adds, by the name of the paper's."""

    def macs_of(architecture: Architecture) -> int:
        with torch.device("meta"):
            return count(architecture.build(), input_hw).macs

    return {f"mobile_openpose_{n}": at_depth(NETWORKS["mobile_openpose_36"], n, macs_of) for n in LAYERS}


def stages(input_hw: tuple[int, int]) -> dict[str, Architecture]:
    """Lightweight OpenPose with every number of refinement stages; the same at every input size."""
    return {name: NETWORKS[name] for name in (f"lightweight_openpose_{n}" for n in STAGES)}


TABLES: dict[str, Callable[[tuple[int, int]], dict[str, Architecture]]] = {"depth": depths, "refinement": stages}


def measure(architectures: Mapping[str, Architecture], input_hw: tuple[int, int], name: str, rounds: int) -> list[Row]:
    """One row per network: structure, counts, measured milliseconds, and the published figures of its name."""
    runtime, runners, rows = engine(name), {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for title, architecture in architectures.items():
            torch.manual_seed(1)
            network = architecture.build().eval()
            counted = count(network, input_hw)
            rows[title] = {"macs": counted.macs, "params": counted.params, **_structure(architecture), **_paper(title)}
            runners[title] = runtime.load(runtime.export(network, input_hw, Path(folder), title)[0])
        timings = time_runners(runners, input_hw, 1, rounds)
    for title, timing in timings.items():
        rows[title] |= {
            "ms": timing.median_ms,
            "q1_ms": timing.q1_ms,
            "q3_ms": timing.q3_ms,
            "reliable": timing.reliable,
            "ratio": timing.ratio,
        }
    return list(rows.values())


def _structure(architecture: Architecture) -> Row:
    if isinstance(architecture, MobileOpenPose):
        return {"choice": f"{architecture.layers} layers: blocks {architecture.blocks}, width {architecture.width}"}
    return {"choice": f"refinement stages: {len(architecture.output_strides) - 1}"}


def _paper(name: str) -> Row:
    published: Published = next(row for row in PUBLISHED if row.network == name)
    return {"published_flops_g": published.flops_g, "published_ap": published.ap}


def text(results: Mapping[str, Mapping[str, Any]], device: str) -> str:
    """The page."""
    lines = [
        "# Depth against width, and the number of refinement stages",
        "",
        "    python -m benchmarks.openpose_depth",
        "",
        "MACs, parameters and milliseconds are ours (random weights, one thread, one interleaved run per table and "
        "engine: medians and quartiles; time: over the first row, drift taken out). G and AP are the papers' (COCO "
        "val2017, 368x368): nothing was trained here. The paper's network of 24 layers has fewer multiply-adds than "
        "its others; of refinement stages it says that accuracy saturates after the first or second, and prints no "
        "figures. "
        f"{device}.",
    ]
    for result in results.values():
        side = "x".join(map(str, result["input_hw"]))
        lines += [
            "",
            f"## {result['table'].capitalize()} at {side}, {result['engine']} {result['version']}",
            "",
            "| network | MACs | parameters | ms | quartiles | time | published G | published AP |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(row, result["rows"][0]["ratio"]) for row in result["rows"]]
    return "\n".join(lines) + "\n"


def _line(row: Row, first: float) -> str:
    doubt = "" if row["reliable"] else " (unreliable)"
    paper = " | ".join("–" if row[key] is None else f"{row[key]:g}" for key in ("published_flops_g", "published_ap"))
    return (
        f"| {row['choice']} | {row['macs'] / 1e9:.2f} G | {row['params'] / 1e6:.2f} M | {row['ms']:.1f}{doubt} | "
        f"{row['q1_ms']:.1f} – {row['q3_ms']:.1f} | {row['ratio'] / first:.2f} | {paper} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=TABLES)
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "ncnn"])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--size", type=int, default=368, help="height and width, a multiple of 8")
    parser.add_argument("--out", type=Path, default=Path("reports/openpose_depth"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    input_hw = (arguments.size, arguments.size)
    file = arguments.out / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for table in arguments.tables:
        for name in arguments.engines:
            key = f"{table} at {arguments.size} on {name}"
            if key in results:
                continue
            rows = measure(TABLES[table](input_hw), input_hw, name, arguments.rounds)
            description = engine(name).describe()
            results[key] = {
                "table": table,
                "input_hw": input_hw,
                "engine": name,
                "version": description.version,
                "rounds": arguments.rounds,
                "rows": rows,
            }
            write_json(file, results)
            write_text(arguments.out / "README.md", text(results, description.device))


if __name__ == "__main__":
    main()
