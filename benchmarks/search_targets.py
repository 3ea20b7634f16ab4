"""One search for several targets: predicted and measured milliseconds on each, and how the front differs between them.

    python -m benchmarks.search_targets [--targets onnxruntime ncnn mnn openvino] [--run runs/search_targets]
        [--finalists 8] [--trials 200] [--out reports/search_targets]

`compress search bhrnet` with these targets, of which the first decides; the supernet is trained for one epoch and
finalists are not tuned long, since milliseconds and the order of candidates are the question here. Every candidate has
a predicted time on every target, every finalist and hand-made network a measured one, all of one interleaved run. A run
that is finished is not made again; OUT/README.md and OUT/results.json have the tables. To be run on an idle machine.
"""

import argparse
import itertools
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

import compress
from compress.artefacts.results import SearchResult, read_results
from compress.files import write_json, write_text
from compress.nas.pareto import front


def main() -> None:
    """Runs the search, or reads a finished one, and writes both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["onnxruntime", "ncnn", "mnn", "openvino"])
    parser.add_argument("--run", type=Path, default=Path("runs/search_targets"))
    parser.add_argument("--finalists", type=int, default=8)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("reports/search_targets"))
    arguments = parser.parse_args()
    file = arguments.run / "results.json"
    if not file.is_file():
        compress.search(
            recipe="bhrnet",
            target=arguments.targets,
            measurement={"predict_all": True},
            folder=arguments.run,
            trials=arguments.trials,
            data={"synthetic": {"val": 160}},
            supernet={"epochs": 1},
            finalists={"count": arguments.finalists, "training": {"epochs": 1}},
        )
    found = read_results(file, "search", SearchResult)
    results = {"device": found.run.environment, "times": times(found), "fronts": fronts(found, arguments.targets)}
    write_json(arguments.out / "results.json", results)
    write_text(arguments.out / "README.md", text(found, results))


def times(found: SearchResult) -> dict[str, list[dict[str, Any]]]:
    """Target → every network's predicted and measured milliseconds of one pass."""
    return {
        target: [
            {
                "network": network.name,
                "predicted_ms": network.predicted[target].ms,
                "measured_ms": latency.ms,
                "uncertainty": latency.uncertainty,
                "reliable": latency.reliable,
                "error": found.prediction_error(network, target),
            }
            for network in found.networks
            if (latency := network.latency[target]).provenance == "measured"
        ]
        for target in (one.name for one in found.run.targets)
    }


def fronts(found: SearchResult, targets: list[str]) -> dict[str, Any]:
    """By target, which trials nothing beats in score and predicted time; and how alike targets order all."""
    ms = {name: [trial.cost.latency[name].ms for trial in found.trials] for name in targets}
    on = {
        name: {
            found.trials[i].number
            for i in front([(t, trial.value) for t, trial in zip(ms[name], found.trials, strict=True)])
        }
        for name in targets
    }
    pairs = {}
    for one, other in itertools.combinations(targets, 2):
        pairs[f"{one}, {other}"] = {
            "tau": float(kendalltau(ms[one], ms[other]).statistic),
            "on both": len(on[one] & on[other]),
            "on the first alone": sorted(on[one] - on[other]),
            "on the second alone": sorted(on[other] - on[one]),
        }
    return {"trials": len(found.trials), "on": {name: sorted(numbers) for name, numbers in on.items()}, "pairs": pairs}


def text(found: SearchResult, results: dict[str, Any]) -> str:
    """The page."""
    lines = [
        "# One search, several targets",
        "",
        "`python -m benchmarks.search_targets`. All networks of one interleaved run, one pass, one thread, batch 1, "
        f"{found.target.device}. Predicted from each target's latency table; error: predicted over measured, "
        "less one. (?): the timing was unsteady.",
        "",
        "| network | " + " | ".join(f"{name}: measured (predicted), ms" for name in results["times"]) + " |",
        "|---|" + "---|" * len(results["times"]),
    ]
    for place, network in enumerate(found.networks):
        cells = [rows[place] for rows in results["times"].values()]
        shown = (f"{c['measured_ms']:.2f}{'' if c['reliable'] else ' (?)'} ({c['predicted_ms']:.2f})" for c in cells)
        lines.append(f"| {network.name} | " + " | ".join(shown) + " |")
    for what, figure in (("mean error", statistics.mean), ("largest error", max)):
        cells = (f"{figure([abs(row['error']) for row in rows]):.1%}" for rows in results["times"].values())
        lines.append(f"| **{what}** | " + " | ".join(cells) + " |")
    lines += [
        "",
        f"## How the front differs, of {results['fronts']['trials']} candidates",
        "",
        "Score of the supernet against predicted milliseconds. Kendall's tau of the milliseconds of all candidates.",
        "",
        "| targets | tau | on both fronts | on the first alone | on the second alone |",
        "|---|---|---|---|---|",
    ]
    for pair, row in results["fronts"]["pairs"].items():
        alone = (f"{len(row[f'on the {place} alone'])}" for place in ("first", "second"))
        lines.append(f"| {pair} | {row['tau']:.3f} | {row['on both']} | " + " | ".join(alone) + " |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
