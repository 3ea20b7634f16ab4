"""PoseNAS-Bench: networks of two search spaces, each trained alone, with score and costs.

On it samplers, predictors and supernets are judged in seconds.

    bench = compress.bench("lspet")
    best = max(bench.networks, key=lambda network: network.score)

    lspet      → DIR-BHRNet, top-down, on the LSPET photographs: PCK@0.2
    synthetic  → the space `bhrnet_small` on synthetic people: AP

The tables lie beside this file: which networks there are and what they cost (NAME_networks.csv), every training
(NAME_trainings.csv), and, once they are measured, times (NAME_latency.csv). `python -m benchmarks.pose_nas_bench` makes
them, under one fixed short recipe: they order networks as that recipe does, not as a long training would.
"""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy.stats import kendalltau

from compress.errors import DataError, nearest
from compress.nas.pareto import front
from compress.nas.space import Pick, Space, expand, read_space
from compress.networks import architecture_from_data, architecture_to_data
from compress.recipe import shipped_folder

FOLDER = Path(__file__).with_name("pose_nas_bench")

SPACES = {"lspet": "bhrnet_top_down", "synthetic": "bhrnet_small"}
"""The benches by name, and the spaces that their networks are of."""

METRICS = {"lspet": "PCK", "synthetic": "AP"}

COUNTED = ("params", "macs")
"""What networks cost everywhere."""


@dataclass(frozen=True)
class BenchNetwork:
    """One network of the space. number: its row in the table.

    scores: on the validation pictures, 0 to 1, by the seed of the training. costs: `params`, `macs`, and milliseconds
    by engine, those that were measured.
    """

    number: int
    pick: Pick
    scores: Mapping[int, float]
    costs: Mapping[str, float]

    @property
    def score(self) -> float:
        """Mean over the seeds."""
        return float(np.mean(list(self.scores.values())))


@dataclass(frozen=True)
class Bench:
    """The networks of a space that were trained, in the order of their numbers.

    metric: of the scores. space: that the networks are of; there are many more in it.
    """

    name: str
    metric: str
    space: Space
    networks: tuple[BenchNetwork, ...]

    @cached_property
    def cost_names(self) -> tuple[str, ...]:
        """What every network's cost is known by: `params`, `macs`, and engines on which all were measured."""
        names = dict.fromkeys(name for network in self.networks for name in network.costs)
        return tuple(name for name in names if all(name in network.costs for network in self.networks))

    def points(self, cost: str = "macs") -> list[tuple[float, float]]:
        """(cost, score) of every network. Raises DataError for a cost that is not known of all."""
        if cost not in self.cost_names:
            raise DataError(
                "no such cost in the table",
                place=f"bench {self.name}",
                value=cost,
                remedy=nearest(cost, self.cost_names),
            )
        return [(network.costs[cost], network.score) for network in self.networks]

    def front(self, cost: str = "macs") -> list[BenchNetwork]:
        """The networks that no other one beats in both cost and score, cheapest first."""
        return [self.networks[index] for index in front(self.points(cost))]

    @cached_property
    def seed_tau(self) -> float | None:
        """Kendall's tau between the scores of the first two seeds, of the networks trained twice: the most that any
        prediction of one training's order can be expected to reach. None for fewer than three of them."""
        twice = [list(network.scores.values())[:2] for network in self.networks if len(network.scores) > 1]
        return rank_correlation(*zip(*twice, strict=True)) if len(twice) > 2 else None


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b: 1 for the same order, 0 for none in common, -1 for the opposite; NaN where all are equal."""
    return float(kendalltau(one, other).statistic)


def beyond_cost(values: Sequence[float], costs: Sequence[float]) -> list[float]:
    """What a straight line over the logarithm of the costs does not explain of the values: larger networks score more,
    which no predictor is needed for."""
    along = np.log(costs)
    return [float(value) for value in np.asarray(values) - np.polyval(np.polyfit(along, values, 1), along)]


@dataclass(frozen=True)
class Training:
    """One line of a table of trainings.

    score: of the bench's metric. area: the mean of PCK over its thresholds, None for AP. loss: of the last epoch.
    cpu_s: seconds of processor time that training and scoring took.
    """

    network: int
    seed: int
    score: float
    area: float | None
    loss: float
    cpu_s: float


def bench(name: str = "lspet", folder: Path | None = None) -> Bench:
    """The bench of that name. folder: of the tables; None: those that come with the package.

    Networks that are not trained yet are left out. Raises DataError for an unknown name, and for a table that is
    missing or broken.
    """
    space = bench_space(name)
    folder = folder or FOLDER
    listed = read_networks(folder / f"{name}_networks.csv", space)
    scores: dict[int, dict[int, float]] = {}
    for training in read_trainings(folder / f"{name}_trainings.csv"):
        scores.setdefault(training.network, {})[training.seed] = training.score
    timed = folder / f"{name}_latency.csv"
    latencies = read_latencies(timed) if timed.is_file() else {}
    found = [
        replace(network, scores=scores[network.number], costs={**network.costs, **latencies.get(network.number, {})})
        for network in listed
        if network.number in scores
    ]
    return Bench(name, METRICS[name], space, tuple(found))


def bench_space(name: str) -> Space:
    """The space that a bench's networks are of. Raises DataError for an unknown name."""
    if name not in SPACES:
        raise DataError("no such bench", place="bench", value=name, remedy=nearest(name, SPACES))
    file = read_space(shipped_folder("search_spaces") / f"{SPACES[name]}.yaml")
    base = architecture_from_data({"family": file.family, **file.fixed}, str(file.path))
    return expand(file, architecture_to_data(base))


# --- The tables ------------------------------------------------------------------------------------------------------


def read_networks(path: Path, space: Space) -> list[BenchNetwork]:
    """All networks of a table, without scores. It has columns for the number, the counted costs and every choice."""
    values = {choice: {str(value): value for value in listed} for choice, listed in space.choices.items()}

    def network(row: Mapping[str, str]) -> BenchNetwork:
        pick = {choice: values[choice][row[choice]] for choice in space.choices}
        return BenchNetwork(int(row["network"]), pick, {}, {cost: int(row[cost]) for cost in COUNTED})

    return _read(path, network)


def read_trainings(path: Path) -> list[Training]:
    """All finished trainings of a table."""

    def training(row: Mapping[str, str]) -> Training:
        area = float(row["area"]) if row["area"] else None
        figures = (float(row[name]) for name in ("loss", "cpu_s"))
        return Training(int(row["network"]), int(row["seed"]), float(row["score"]), area, *figures)

    return _read(path, training)


def read_latencies(path: Path) -> dict[int, dict[str, float]]:
    """Network's number → engine → milliseconds."""
    found: dict[int, dict[str, float]] = {}
    for number, engine, ms in _read(path, lambda row: (int(row["network"]), row["engine"], float(row["latency_ms"]))):
        found.setdefault(number, {})[engine] = ms
    return found


T = TypeVar("T")


def _read(path: Path, parse: Callable[[Mapping[str, str]], T]) -> list[T]:
    """What `parse` makes of every line. Raises DataError for a missing file and a broken line."""
    if not path.is_file():
        raise DataError("no such table", place=str(path), remedy="make it: python -m benchmarks.pose_nas_bench")
    parsed = []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        for row in rows:
            try:
                parsed.append(parse(row))
            except (KeyError, ValueError, TypeError):
                raise DataError(
                    "a table has one whole line for each entry",
                    place=f"{path}: line {rows.line_num}",
                    value=",".join(str(value) for value in row.values()),
                    remedy="delete the line",
                ) from None
    return parsed
