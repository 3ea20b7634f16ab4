"""Accuracy and time of every way to decode a network's maps, on trained networks.

    python -m benchmarks.decoding_accuracy ARTEFACT [ARTEFACT ...] [--out reports/decoding_accuracy]

Every decoding of the network's approach that needs one pass and no detector's boxes. Scores are on the validation
pictures noted in the artefact; times are of at most 64 of them, one thread.
"""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

import compress
from compress.data.sets import validation_set
from compress.engines import engine
from compress.files import write_json, write_text
from compress.measure.decoding import decode_time
from compress.measure.timing import pinned
from compress.pose.approaches import approach_of, estimator_for
from compress.pose.estimator import LabelledBoxes
from compress.pose.scoring import main_figure
from compress.recipe import Decoding

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artefacts", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("reports/decoding_accuracy"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "command": ["python", "-m", "benchmarks.decoding_accuracy", *sys.argv[1:]],
        "device": engine("onnxruntime").describe().device,
        "networks": {},
    }
    for artefact in arguments.artefacts:
        results["networks"][str(artefact)] = score_decodings(artefact)
        write_json(arguments.out / "results.json", results)
        write_text(arguments.out / "README.md", text(results))


def score_decodings(artefact: Path) -> Row:
    """The network's family, its data, and a row per decoding: choice, main figure with its standard error, time."""
    network = compress.load(artefact)
    known = network.metadata
    assert known.data is not None
    pictures = validation_set(known.data, network.input_hw, known.seed)
    rows = []
    once = Decoding(flip_test=False, suppression="none")
    for name, codec, decoding in approach_of(network.architecture).decodings(known.codec, once):
        if decoding.flip_test or decoding.suppression != "none":
            continue
        estimator = estimator_for(
            network.architecture,
            pictures.keypoints,
            network.input_hw,
            codec=codec,
            decoding=decoding,
            boxes=LabelledBoxes(),
        )
        val = compress.evaluate(network, codec=codec, decoding=decoding).score
        with pinned(1):
            times = decode_time(network.module, estimator, pictures, flip_test=False)
        rows.append({"choice": name, "score": val.value, "se": val.standard_error, "decoding": asdict(times)})
        print(artefact, name, val.value, times.latency.ms, flush=True)
    return {
        "family": network.architecture.family,
        "input_hw": list(network.input_hw),
        "data": known.data.kind,
        "figure": main_figure(known.data.kind),
        "pictures": len(pictures),
        "rows": rows,
    }


def text(results: Row) -> str:
    """The page."""
    lines = [
        "# Ways to decode maps",
        "",
        f"    {' '.join(results['command'])}",
        "",
        f"Measured on one thread of {results['device']}; medians, quartiles in brackets. Scores on the validation",
        "pictures, one pass, ± the bootstrap standard error. All decodings of a network see the same maps, so that",
        "their differences are more certain than these errors.",
    ]
    for name, network in results["networks"].items():
        size = "x".join(map(str, network["input_hw"]))
        lines += [
            "",
            f"## {name}",
            "",
            f"{network['family']}, {size}, {network['pictures']} pictures ({network['data']})",
            "",
            f"| decoding | {network['figure']} | ms per picture | people found |",
            "|---|---|---|---|",
        ]
        for row in network["rows"]:
            times, people = row["decoding"]["latency"], row["decoding"]["people"]
            lines.append(
                f"| {row['choice']} | {row['score']:.3f} ± {row['se']:.3f} "
                f"| {times['ms']:.2f} ({times['q1_ms']:.2f} to {times['q3_ms']:.2f}) | {people:.2f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
