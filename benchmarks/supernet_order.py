"""How well a supernet orders networks: its scores beside those of PoseNAS-Bench, which were trained alone.

    python -m benchmarks.supernet_order --bench lspet --data ../shared/data/lspet [--epochs 4] [--randoms 2] [--pool 64]
        [--distillation 0.5] [--calibration 256] [--networks 60] [--seed 1] [--tables FOLDER] [--device cuda]
        [--out reports/supernet_order]

The supernet of the bench's space is trained under the bench's recipe for EPOCHS; a step trains a largest network, a
smallest one and RANDOMS others of the POOL that an epoch draws (compress.nas.supernet.sandwich_step). Then the first
NETWORKS networks of the bench's table are cut from it, recalibrated on CALIBRATION training pictures, and scored on the
bench's validation pictures. Kendall's tau of these scores with the bench's, of multiply-adds with the bench's, and of
the bench's own seeds, which is the ceiling; then the same of what is left of the scores when a line through the
logarithm of the multiply-adds is taken off: larger networks score more, which needs no supernet to be known. Every
setting adds a line to OUT/results.json and to OUT/README.md; one that is there is not run again. The page also says
whether the supernets err alike, and in which choices.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import json

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray

from benchmarks.pose_nas_bench import RECIPES, architecture_of, estimator_of, pictures_of
from compress.files import write_json, write_text
from compress.nas.bench import METRICS, SPACES, Bench, BenchNetwork, bench, beyond_cost, rank_correlation
from compress.nas.predictor import are_numbers
from compress.nas.supernet import Supernet, sandwich_step
from compress.pose.approaches import objective_for
from compress.pose.estimator import first_inputs
from compress.pose.scoring import score
from compress.progress import Silent
from compress.training.loop import train
from compress.training.recalibration import recalibrate

Row = dict[str, Any]
Array = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", choices=list(SPACES), default="lspet")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--tables", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    for name, default in (("epochs", 4), ("randoms", 2), ("pool", 64), ("calibration", 256), ("networks", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--distillation", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("reports/supernet_order"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    file = given.out / "results.json"
    rows: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    setting = {key: getattr(given, key) for key in SETTING}
    if not any(all(row[key] == value for key, value in setting.items()) for row in rows):
        rows.append({**setting, **ordered(given)})
    rows = [{**row, **compared(row, bench(row["bench"], given.tables))} for row in rows]
    write_json(file, rows)
    write_text(given.out / "README.md", "\n".join([*text(rows), *why(rows, given.tables)]))


SETTING = ("bench", "epochs", "randoms", "pool", "distillation", "calibration", "networks", "seed")


HEAD = (
    *SETTING[:6],
    "networks",
    "tau",
    "tau of MACs",
    "ceiling",
    "tau beyond MACs",
    "ceiling",
    "mean",
    "alone",
    "CPU s",
)


def ordered(given: argparse.Namespace) -> Row:
    """Trains the supernet, scores the bench's networks in it, and compares the orders."""
    recipe, table = RECIPES[given.bench], bench(given.bench, given.tables)
    pictures, validation = pictures_of(given.bench, given.data)
    chosen = table.networks[: given.networks]
    architecture = architecture_of(given.bench, table.space.largest)
    settings = recipe.training.model_copy(update={"epochs": given.epochs})
    objective = objective_for(architecture, pictures.keypoints, recipe.input_hw, settings, recipe.codec)
    fabric = Fabric(accelerator=given.device, devices=1, precision="32-true")
    began = time.process_time()
    torch.manual_seed(given.seed)
    supernet = Supernet(table.space).to(fabric.device)
    step = sandwich_step(
        supernet,
        objective,
        fabric,
        pool=given.pool,
        randoms=given.randoms,
        distillation=given.distillation,
    )
    with tempfile.TemporaryDirectory() as kept:
        history = train(
            supernet,
            [supernet.parameters],
            step,
            samples=objective.samples(pictures),
            settings=settings,
            seed=given.seed,
            fabric=fabric,
            workers=0,
            checkpoint=Path(kept) / "supernet.pt",
            phase=Silent(),
        )
    trained_s = time.process_time() - began
    estimator = estimator_of(recipe, architecture, pictures)
    images = list(first_inputs(estimator, pictures, given.calibration, fabric.device))
    scores = []
    for one in chosen:
        network = supernet.extract(one.pick)
        recalibrate(network, images)
        found = score(
            network, estimator, validation, kind=recipe.data.kind, provenance="supernet", flip_test=recipe.flip_test
        )
        scores.append(found.value or 0.0)
        print(f"network {one.number}: {found.value:.3f} in the supernet, {one.score:.3f} alone", flush=True)
    return {
        "metric": METRICS[given.bench],
        "mean": float(np.mean(scores)),
        "loss": [round(epoch.loss, 4) for epoch in history],
        "training_cpu_s": round(trained_s),
        "cpu_s": round(time.process_time() - began),
        "scores": {str(one.number): round(value, 5) for one, value in zip(chosen, scores, strict=True)},
    }


def compared(row: Row, table: Bench) -> Row:
    """The scores of a setting beside those that the table has by now."""
    chosen = [one for one in table.networks if str(one.number) in row["scores"]]
    scores, alone = [row["scores"][str(one.number)] for one in chosen], [one.score for one in chosen]
    return {
        "tau": rank_correlation(scores, alone),
        **beyond_macs(table, chosen, scores),
        "tau_macs": rank_correlation([one.costs["macs"] for one in chosen], alone),
        "seed_tau": table.seed_tau,
        "compared": len(chosen),
        "mean_alone": float(np.mean(alone)),
    }


def beyond_macs(table: Bench, chosen: Sequence[BenchNetwork], scores: Sequence[float]) -> Row:
    """The tau of scores less what multiply-adds explain, and that of two seeds."""
    alone = [one.score for one in chosen]
    twice = twice_trained(table)
    line = np.array([one.score for one in twice]) - rest(twice, [one.score for one in twice]) if twice else np.zeros(0)
    seeds = [list(np.array([list(one.scores.values())[seed] for one in twice]) - line) for seed in (0, 1)]
    return {
        "tau_beyond_macs": rank_correlation(rest(chosen, scores), rest(chosen, alone)),
        "seed_tau_beyond_macs": rank_correlation(*seeds) if len(twice) > 2 else None,
    }


def rest(networks: Sequence[BenchNetwork], values: Sequence[float]) -> list[float]:
    """What multiply-adds do not explain."""
    return beyond_cost(values, [one.costs["macs"] for one in networks])


def twice_trained(table: Bench) -> list[BenchNetwork]:
    """Networks that were trained with two seeds."""
    return [one for one in table.networks if len(one.scores) > 1]


def text(rows: list[Row]) -> list[str]:
    """The page's table."""
    lines = [
        "# How well a supernet orders networks",
        "",
        "`python -m benchmarks.supernet_order`, one line for every setting. Kendall's tau with the scores of networks",
        "that were trained alone (PoseNAS-Bench): of the supernet's scores, and of multiply-adds, which cost nothing.",
        "Beyond MACs: of scores less a line through log MACs. Ceiling: the tau between two seeds of single trainings,",
        "of all networks that were trained twice; where one was, its score here is the mean, so a tau may be above it.",
        "Mean: score in the supernet, and alone. CPU s: its training.",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
    ]
    for row in rows:
        ceiling, beyond = (
            "–" if row[key] is None else f"{row[key]:.2f}" for key in ("seed_tau", "seed_tau_beyond_macs")
        )
        cells = [row["bench"], row["epochs"], row["randoms"], row["pool"], row["distillation"]]
        cells += [row["calibration"], row["compared"], f"**{row['tau']:.2f}**", f"{row['tau_macs']:.2f}", ceiling]
        cells += [f"**{row['tau_beyond_macs']:.2f}**", beyond]
        cells += [f"{row['mean']:.3f}", f"{row['mean_alone']:.3f}", row["training_cpu_s"]]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, ""]


def why(rows: list[Row], tables: Path | None) -> list[str]:
    """Whether supernets err alike, and in which choices. Noise would differ between them, and a mean lessen it."""
    lines = ["## Noise or bias", ""]
    for name in dict.fromkeys(row["bench"] for row in rows):
        of_bench, table = [row for row in rows if row["bench"] == name], bench(name, tables)
        common = set.intersection(*(set(map(int, row["scores"])) for row in of_bench))
        networks = [one for one in table.networks if one.number in common]
        scores = [[row["scores"][str(one.number)] for one in networks] for row in of_bench]
        alone = rest(networks, [one.score for one in networks])
        rests = [rest(networks, values) for values in scores]
        pairs = [rank_correlation(one, other) for one, other in itertools.combinations(rests, 2)]
        mean = rank_correlation(rest(networks, list(np.mean(scores, axis=0))), alone)
        lines += [
            f"{name}, beyond MACs, {len(networks)} networks: tau between two of the supernets {np.mean(pairs):.2f}"
            f" ({min(pairs):.2f} to {max(pairs):.2f}),"
            if pairs
            else f"{name}: one supernet,",
            f"of the mean of all their scores with those of networks trained alone {mean:.2f}. Correlation of what is",
            "beyond MACs with a choice, its mean over stages and branches:",
            "",
            "| choice | trained alone | in the supernets |",
            "|---|---|---|",
        ]
        for choice, values in choices_of(table, networks).items():
            own = rest(networks, values)
            found = [float(np.corrcoef(own, one)[0, 1]) for one in (alone, *rests)]
            lines.append(f"| {choice} | {found[0]:+.2f} | {', '.join(f'{one:+.2f}' for one in found[1:])} |")
        lines.append("")
    return lines


def choices_of(table: Bench, networks: Sequence[BenchNetwork]) -> dict[str, list[float]]:
    """Field, or value of a field that is no number → its mean over the field's places, of every network."""
    fields: dict[str, list[str]] = {}
    for path in table.space.choices:
        fields.setdefault(path.split(".")[0], []).append(path)
    found: dict[str, list[float]] = {}
    for field, paths in fields.items():
        values = table.space.choices[paths[0]]
        if are_numbers(values):
            found[field] = [float(np.mean([one.pick[path] for path in paths])) for one in networks]
        else:
            for value in values:
                found[f"{field}: {value}"] = [
                    float(np.mean([one.pick[path] == value for path in paths])) for one in networks
                ]
    return found


if __name__ == "__main__":
    main()
