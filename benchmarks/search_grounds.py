"""What `benchmarks.search_quality` judges samplers on: the table of PoseNAS-Bench, or a model of it.

In the table a proposal stands for the nearest network, of which there are a few hundred: a hundred random ones are half
of it. The model has a score for every pick of the space, as NAS-Bench-301 has (Zela et al., ICLR 2022): extremely
randomised trees over what a network has on each branch and what it costs, fitted to the table. Samplers are told the
model's score and the noise of a training's seed; they are judged by the score without it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold, cross_val_predict

from compress.nas.bench import FOLDER, Bench, bench, bench_space, rank_correlation, read_networks
from compress.nas.pareto import front
from compress.nas.predictor import Encoding
from compress.nas.space import Pick, Space, pick_key

Array = NDArray[np.float64]
Point = tuple[float, float]
"""Cost and score."""
DRAWN = 20_000
"""Random picks whose front the model's front is bred from."""
GENERATIONS = 20


@dataclass(frozen=True)
class Evaluated:
    """pick: what was evaluated. told: cost and score that a sampler learns. true: those that it is judged by."""

    pick: Pick
    told: Point
    true: Point


class Ground(Protocol):
    """Where one search is made."""

    space: Space

    def drawn(self, rng: random.Random) -> Pick:
        """A random network that has not been evaluated."""

    def evaluate(self, pick: Pick) -> Evaluated:
        """That network, or the one that stands for it."""


@cache
def open_bench(name: str, folder: Path | None) -> Bench:
    """The bench. `formula` has made-up scores in place of trainings: it shows that all works, and nothing else."""
    if name != "formula":
        return bench(name, folder)
    space, rng = bench_space("lspet"), np.random.default_rng(0)
    networks = read_networks((folder or FOLDER) / "lspet_networks.csv", space)
    scored = [
        replace(one, scores={seed: formula(one.pick, rng.normal(0, 0.008)) for seed in (1, 2)}) for one in networks
    ]
    return Bench("formula", "score", space, tuple(scored))


def formula(pick: Pick, noise: float) -> float:
    """Made up: blocks are worth less the more there are, more so on lower branches; width and DIR blocks add."""
    kinds = {"ir": 1.0, "ir_shortcut": 1.05, "dir": 1.2}
    total = 0.0
    for branch in range(4):
        size = kinds[pick[f"kinds.{branch}"]] * pick[f"expansions.{branch}"] ** 0.5
        total += (0.5 + 0.2 * branch) * np.log1p(size * blocks_of(pick, branch))
    return float(0.03 * total * (pick["width"] / 16) ** 0.4 + 0.004 * pick["reach"] + noise)


def blocks_of(pick: Pick, branch: int) -> int:
    """On the branch, in all stages."""
    return int(sum(pick[f"blocks.{stage}.{branch}"] for stage in range(branch, 4)))


def cost_model(table: Bench, cost: str) -> Callable[[Sequence[Pick]], Array]:
    """What any pick of the space costs: the sum of its blocks and its fusions, fitted to the table.

    Exact for multiply-adds and parameters: a block has them by its branch, width, kind and expansion, the fusions by
    width and reach. Milliseconds are nearly so.
    """
    columns: dict[tuple[object, ...], int] = {}
    paths = [
        (f"kinds.{branch}", f"expansions.{branch}", [f"blocks.{stage}.{branch}" for stage in range(branch, 4)])
        for branch in range(4)
    ]

    def rows(picks: Sequence[Pick]) -> Array:
        found = np.zeros((len(picks), 64))
        for row, pick in enumerate(picks):
            width = pick["width"]
            found[row, columns.setdefault(("fusions", width, pick["reach"]), len(columns))] = 1.0
            for branch, (kind, expansion, blocks) in enumerate(paths):
                term = (branch, width, pick[kind], pick[expansion])
                found[row, columns.setdefault(term, len(columns))] = sum([pick[path] for path in blocks])
        return found

    known = np.array([value for value, _ in table.points(cost)])
    fitted, *_ = np.linalg.lstsq(rows([network.pick for network in table.networks]), known, rcond=None)
    least = float(known.min()) / 2  # a term that no network of the table has counts nothing
    return lambda picks: np.maximum(rows(picks) @ fitted, least)


# --- The table -------------------------------------------------------------------------------------------------------


class OfTable:
    """Networks of the table that are taken one after the other, each once; a pick stands for the nearest one left."""

    def __init__(self, table: Bench, cost: str) -> None:
        self.space, self._networks, self._points = table.space, table.networks, table.points(cost)
        self._encoding = Encoding(table.space.choices)
        self._rows = self._encoding([network.pick for network in table.networks])
        self.taken: list[int] = []

    def drawn(self, rng: random.Random) -> Pick:
        """One that has not been taken."""
        left = sorted(set(range(len(self._networks))) - set(self.taken))
        return self._networks[rng.choice(left)].pick

    def evaluate(self, pick: Pick) -> Evaluated:
        """The nearest one that is left, by Euclid."""
        distances = np.linalg.norm(self._rows - self._encoding([pick]), axis=1)
        distances[self.taken] = np.inf
        place = int(np.argmin(distances))
        self.taken.append(place)
        return Evaluated(self._networks[place].pick, self._points[place], self._points[place])


# --- A model of it ---------------------------------------------------------------------------------------------------


class Model:
    """Scores and costs of all picks of a bench's space, fitted to its table.

    noise: standard deviation between two seeds of one network, in the table.
    """

    def __init__(self, table: Bench, cost: str) -> None:
        self.space, self._costs, self._macs = table.space, cost_model(table, cost), cost_model(table, "macs")
        self._picks = [network.pick for network in table.networks]
        self._scores = np.array([network.score for network in table.networks])
        self._trees = ExtraTreesRegressor(300, min_samples_leaf=2, random_state=0).fit(
            self._rows(self._picks), self._scores
        )
        twice = np.array([list(one.scores.values())[:2] for one in table.networks if len(one.scores) > 1])
        self.noise = float(np.sqrt(np.mean((twice[:, 0] - twice[:, 1]) ** 2) / 2)) if len(twice) else 0.0

    def __call__(self, picks: Sequence[Pick]) -> Array:
        """[N,2]: cost and score of each."""
        return np.column_stack([self._costs(picks), self._trees.predict(self._rows(picks))])

    def _rows(self, picks: Sequence[Pick]) -> Array:
        found = []
        for pick in picks:
            row = [float(pick["width"]), float(pick["reach"])]
            for branch in range(4):
                blocks, kind = blocks_of(pick, branch), pick[f"kinds.{branch}"]
                row += [blocks, np.log1p(blocks * pick[f"expansions.{branch}"])]
                row += [blocks * (kind == one) for one in ("dir", "ir_shortcut")]
            found.append(row)
        return np.column_stack([np.array(found, np.float64), np.log(self._macs(picks))])

    @property
    def hand(self) -> Point:
        """Of the table's first network, the hand balance."""
        cost, score = self(self._picks[:1])[0]
        return float(cost), float(score)

    @cached_property
    def agreement(self) -> tuple[float, float]:
        """Of networks that it was not fitted to, eight parts of the table in turn: R² and Kendall's tau."""
        parts = KFold(8, shuffle=True, random_state=0)
        found = cross_val_predict(self._trees, self._rows(self._picks), self._scores, cv=parts)
        left = ((found - self._scores) ** 2).sum() / ((self._scores - self._scores.mean()) ** 2).sum()
        return float(1 - left), rank_correlation(list(found), list(self._scores))

    @cached_property
    def best(self) -> list[Point]:
        """Its front, as far as random picks and generations of steps from their front find it."""
        rng = random.Random(0)
        picks: list[Pick] = [self.space.sample(rng) for _ in range(DRAWN)]
        for _ in range(GENERATIONS):
            points = [(float(cost), float(score)) for cost, score in self(picks)]
            kept = front(points)
            parents = [picks[place] for place in kept]
            picks = [*parents, *(self.space.step(rng.choice(parents), rng) for _ in range(DRAWN // GENERATIONS))]
        return [points[place] for place in kept]


class OfModel:
    """Any pick of the space. Its seed's noise is the same each time."""

    def __init__(self, model: Model, seed: int) -> None:
        self.space, self._model, self._seed = model.space, model, seed

    def drawn(self, rng: random.Random) -> Pick:
        """A random one of the space."""
        return self.space.sample(rng)

    def evaluate(self, pick: Pick) -> Evaluated:
        """The pick itself."""
        cost, score = (float(value) for value in self._model([pick])[0])
        noise = random.Random(f"{self._seed} {pick_key(pick)}").gauss(0, self._model.noise)
        return Evaluated(pick, (cost, score + noise), (cost, score))
