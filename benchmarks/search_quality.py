"""Samplers on PoseNAS-Bench: hypervolume over evaluations, regret to the table's front, rank correlation of predictors.

    python -m benchmarks.search_quality [--bench lspet] [--cost macs] [--seeds 30] [--evaluations 100] [--workers N]
        [--samplers random nsga2 tpe gp guided predictor predictor_among] [--out reports/search_quality]

Every sampler starts from the same ten random networks of a seed. What it proposes need not be in the table: the nearest
network that it has not had (Euclidean, see compress.nas.predictor.Encoding) is evaluated in its place, and that one it
is told. `predictor_among` alone chooses among the table's networks themselves. The guided sampler and both predictors
know costs beforehand, as they do in a search. Finished runs lie in OUT/runs.jsonl, and a killed benchmark goes on
from there; OUT/README.md and OUT/hypervolume.png are the page. `--bench formula` runs on a made-up score in place of
trainings: it shows that everything works, and nothing else.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseGASampler, BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import TrialState

from compress.files import append_line, write_bytes, write_text
from compress.nas.bench import FOLDER, Bench, bench, bench_space, rank_correlation, read_networks
from compress.nas.pareto import front
from compress.nas.predictor import Encoding, Predictor
from compress.nas.predictor_sampler import KNOWN_WEIGHT, PredictorSampler
from compress.nas.sampler import Guide
from compress.nas.space import Pick
from compress.report.figures import Axis, Figure, Mark, Panel, Series, png

Array = NDArray[np.float64]
Run = tuple[str, int]
"""Sampler and seed."""

START = 10
"""Random networks that every sampler starts from."""
TRIALS = (20, 40, 80)
"""That predictors learn from."""
SPLITS = 10
"""Of the table, into networks that predictors learn from and those they order."""
AT = (10, 20, 30, 50, 70, 100)
"""Evaluations that the table has columns for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="lspet", choices=["lspet", "synthetic", "formula"])
    parser.add_argument("--tables", type=Path, help="folder of the tables; the package's by default")
    parser.add_argument("--cost", default="macs")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("reports/search_quality"))
    given = parser.parse_args()
    table = open_bench(given.bench, given.tables)
    file, length = given.out / "runs.jsonl", min(given.evaluations, len(table.networks))
    known = read_runs(file)
    waiting = [(name, seed) for seed in range(given.seeds) for name in given.samplers if (name, seed) not in known]
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(searched, given.bench, given.tables, given.cost, length, *one): one for one in waiting}
        for future in as_completed(futures):
            (name, seed), (numbers, seconds) = futures[future], future.result()
            append_line(file, {"sampler": name, "seed": seed, "numbers": numbers, "seconds": seconds})
            print(f"{name} seed {seed}: {seconds:.1f} s", flush=True)
    runs = {run: numbers for run, numbers in read_runs(file).items() if run[0] in given.samplers}
    curves = {
        name: np.array([hypervolumes(table, given.cost, numbers) for (one, _), numbers in runs.items() if one == name])
        for name in given.samplers
    }
    write_text(given.out / "README.md", page(table, given, curves))
    write_bytes(given.out / "hypervolume.png", chart(curves))


def read_runs(file: Path) -> dict[Run, list[int]]:
    """The networks' numbers of every finished run, in the order of their evaluation."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {(entry["sampler"], entry["seed"]): entry["numbers"] for entry in map(json.loads, lines)}


# --- Tables ----------------------------------------------------------------------------------------------------------


@cache
def open_bench(name: str, folder: Path | None) -> Bench:
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
        blocks = sum(pick[f"blocks.{stage}.{branch}"] for stage in range(branch, 4))
        size = kinds[pick[f"kinds.{branch}"]] * pick[f"expansions.{branch}"] ** 0.5
        total += (0.5 + 0.2 * branch) * np.log1p(size * blocks)
    return float(0.03 * total * (pick["width"] / 16) ** 0.4 + 0.004 * pick["reach"] + noise)


def cost_model(table: Bench, cost: str) -> Callable[[Sequence[Pick]], Array]:
    """What any pick of the space costs: the sum of its blocks and its fusions, fitted to the table.

    Exact for multiply-adds and parameters: a block has them by its branch, width, kind and expansion, the fusions by
    width and reach. Milliseconds are nearly so.
    """
    columns: dict[tuple[object, ...], int] = {}

    def rows(picks: Sequence[Pick]) -> Array:
        found = np.zeros((len(picks), 64))
        for row, pick in enumerate(picks):
            terms: dict[tuple[object, ...], float] = {("fusions", pick["width"], pick["reach"]): 1.0}
            for branch in range(4):
                key = (branch, pick["width"], pick[f"kinds.{branch}"], pick[f"expansions.{branch}"])
                terms[key] = sum(pick[f"blocks.{stage}.{branch}"] for stage in range(branch, 4))
            for term, value in terms.items():
                found[row, columns.setdefault(term, len(columns))] = value
        return found

    known = np.array([value for value, _ in table.points(cost)])
    fitted, *_ = np.linalg.lstsq(rows([network.pick for network in table.networks]), known, rcond=None)
    least = float(known.min()) / 2  # a term that no network of the table has counts nothing
    return lambda picks: np.maximum(rows(picks) @ fitted, least)


# --- Searches --------------------------------------------------------------------------------------------------------


def nsga2(table: Bench, cost: str, seed: int) -> BaseSampler:
    return NSGAIISampler(population_size=START, seed=seed)


def predictor(table: Bench, cost: str, seed: int) -> BaseSampler:
    return PredictorSampler(seed, space=table.space, known={0: cost_model(table, cost)}, startup=START)


def predictor_among(table: Bench, cost: str, seed: int) -> BaseSampler:
    model, picks = cost_model(table, cost), [network.pick for network in table.networks]
    return PredictorSampler(seed, space=table.space, known={0: model}, startup=START, among=picks)


SAMPLERS: dict[str, Callable[[Bench, str, int], BaseSampler] | None] = {
    "random": None,
    "nsga2": nsga2,
    "tpe": lambda table, cost, seed: TPESampler(seed=seed, n_startup_trials=START),
    "gp": lambda table, cost, seed: GPSampler(seed=seed, n_startup_trials=START),
    "guided": None,
    "predictor": predictor,
    "predictor_among": predictor_among,
}
"""What makes each sampler of Optuna's; None: it is not one, see `searched`."""


def searched(
    name: str, folder: Path | None, cost: str, evaluations: int, sampler: str, seed: int
) -> tuple[list[int], float]:
    """The networks' places in the table in the order of their evaluation, and the sampler's seconds for all."""
    table = open_bench(name, folder)
    points, rng = table.points(cost), random.Random(seed)
    start = rng.sample(range(len(points)), START)
    began = time.process_time()
    made = SAMPLERS[sampler]
    if sampler == "random":
        rest = [place for place in range(len(points)) if place not in start]
        found = [*start, *rng.sample(rest, len(rest))][:evaluations]
    elif made is None:
        found = guided(table, cost, start, evaluations, rng)
    else:
        found = with_optuna(table, points, start, evaluations, made(table, cost, seed))
    return found, time.process_time() - began


def with_optuna(
    table: Bench, points: Sequence[tuple[float, float]], start: Sequence[int], evaluations: int, sampler: BaseSampler
) -> list[int]:
    """A proposal that is not in the table is given up, and the nearest network asked for in its place."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    nearest = Nearest(table)
    for place in start:
        study.enqueue_trial(dict(table.networks[place].pick))
    while len(nearest.taken) < evaluations:
        trial, pick = asked(study, table)
        place = nearest.take(pick)
        if table.networks[place].pick != pick:
            study.tell(trial, state=TrialState.FAIL)
            study.enqueue_trial(dict(table.networks[place].pick))
            trial, _ = asked(study, table)
        study.tell(trial, points[place])
    return nearest.taken


def asked(study: optuna.Study, table: Bench) -> tuple[optuna.Trial, Pick]:
    trial = study.ask()
    if isinstance(study.sampler, BaseGASampler):
        _ = trial.relative_params  # counts a given network as one of its generation too, which Optuna does lazily
    return trial, {path: trial.suggest_categorical(path, values) for path, values in table.space.choices.items()}


def guided(table: Bench, cost: str, start: Sequence[int], evaluations: int, rng: random.Random) -> list[int]:
    """The additive guide. Its baselines are the hand-made networks, the table's first two; they are evaluated too."""
    points, nearest = table.points(cost), Nearest(table)
    baselines = [network.pick for network in table.networks if network.number < 2]
    guide = Guide(table.space, baselines, rng, [cost_model(table, cost)])
    proposed = [*(table.networks[place].pick for place in start), *baselines]
    while len(nearest.taken) < evaluations:
        place = nearest.take(proposed.pop(0) if proposed else guide.propose())
        guide.learn(table.networks[place].pick, [points[place][0]], points[place][1])
    return nearest.taken


class Nearest:
    """Networks of the table that are taken one after the other, each once."""

    def __init__(self, table: Bench) -> None:
        self._encoding = Encoding(table.space.choices)
        self._rows = self._encoding([network.pick for network in table.networks])
        self.taken: list[int] = []

    def take(self, pick: Pick) -> int:
        """The place of the nearest one that is left."""
        distances = np.linalg.norm(self._rows - self._encoding([pick]), axis=1)
        distances[self.taken] = np.inf
        self.taken.append(int(np.argmin(distances)))
        return self.taken[-1]


# --- Figures ---------------------------------------------------------------------------------------------------------


def hypervolumes(table: Bench, cost: str, numbers: Sequence[int]) -> Array:
    """After each evaluation, the share of the hypervolume of the table's own front.

    Costs on a logarithmic scale, scores linear; the reference is the table's largest cost and lowest score.
    """
    points = np.array(table.points(cost))
    scaled = np.column_stack([np.log(points[:, 0]), points[:, 1]])
    low, high = scaled.min(0), scaled.max(0)
    scaled = (scaled - low) / (high - low)
    whole = hypervolume(scaled)
    return np.array([hypervolume(scaled[numbers[: count + 1]]) for count in range(len(numbers))]) / whole


def hypervolume(points: Array) -> float:
    """Area between the front of (cost, score), both 0..1, and cost 1, score 0."""
    kept = [points[index] for index in front([(float(x), float(y)) for x, y in points])]
    ends = [*(x for x, _ in kept[1:]), 1.0]
    return float(sum((end - x) * y for (x, y), end in zip(kept, ends, strict=True)))


def correlations(table: Bench, cost: str) -> dict[str, list[float]]:
    """Kendall's tau with the scores of the networks not learned from, for each of TRIALS; mean over random splits."""
    picks, points = [network.pick for network in table.networks], np.array(table.points(cost))
    rows, log_costs, scores = Encoding(table.space.choices)(picks), np.log(points[:, :1]), points[:, 1]
    with_cost, weights = np.hstack([rows, log_costs]), np.array([1.0] * rows.shape[1] + [KNOWN_WEIGHT])
    one_hot = [
        [float(pick[path] == value) for path, values in table.space.choices.items() for value in values] + [1.0]
        for pick in picks
    ]
    additive = np.array(one_hot)
    found: dict[str, list[float]] = {"predictor": [], "predictor without cost": [], "additive": [], "cost alone": []}
    for count in TRIALS:
        taus: dict[str, list[float]] = {name: [] for name in found}
        for split in range(SPLITS if count < len(picks) - 10 else 0):
            order = np.random.default_rng(split).permutation(len(picks))
            known, unseen = order[:count], order[count:]
            predicted = {
                "predictor": Predictor(with_cost[known], scores[known], weights).predict(with_cost[unseen])[0],
                "predictor without cost": Predictor(rows[known], scores[known]).predict(rows[unseen])[0],
                "additive": additive[unseen] @ ridge(additive[known], scores[known]),
                "cost alone": log_costs[unseen, 0],
            }
            for name, values in predicted.items():
                taus[name].append(rank_correlation(values, scores[unseen]))
        for name, values in taus.items():
            found[name].append(float(np.mean(values)) if values else float("nan"))
    return found


def ridge(rows: Array, values: Array) -> Array:
    """Least squares with a penalty on all coefficients but the last, as the guide has it."""
    penalty = np.diag([0.3] * (rows.shape[1] - 1) + [1e-6])
    return np.linalg.solve(rows.T @ rows + penalty, rows.T @ values)


def page(table: Bench, given: argparse.Namespace, curves: dict[str, Array]) -> str:
    """The page for people."""
    length = next(iter(curves.values())).shape[1]
    at = [count for count in AT if count <= length]
    goal = float(np.median(curves["random"][:, -1])) if "random" in curves else float("nan")
    lines = []
    for name, values in curves.items():
        reached = [next((n + 1 for n, value in enumerate(run) if value >= goal), length + 1) for run in values]
        needed = median(reached)
        cells = [f"{np.median(values[:, count - 1]):.3f}" for count in at]
        spread = np.percentile(values[:, at[len(at) // 2] - 1], [25, 75])
        cells += [f"{spread[0]:.3f}-{spread[1]:.3f}", f"{needed:g}" if needed <= length else f"more than {length}"]
        lines.append(f"| {name} | {' | '.join(cells)} | {len(values)} |")
    taus = [
        f"| {name} | {' | '.join(f'{tau:.2f}' for tau in values)} |"
        for name, values in correlations(table, given.cost).items()
    ]
    seed_tau = "not known" if table.seed_tau is None else f"{table.seed_tau:.2f}"
    twice = sum(len(network.scores) > 1 for network in table.networks)
    return f"""# Samplers on PoseNAS-Bench, {given.bench}

    python -m benchmarks.search_quality --bench {given.bench} --cost {given.cost} --seeds {given.seeds}

{len(table.networks)} networks, {table.metric} against {given.cost}; {len(table.front(given.cost))} of them are
on the front. Hypervolume: share of the whole front's, cost on a logarithmic scale, medians over seeds; one less it is
the regret. Every sampler begins with the same {START} random networks. A proposal that is not in the table stands for
the nearest network not had yet; predictor_among chooses among the table's networks.

| sampler | {" | ".join(map(str, at))} | quartiles at {at[len(at) // 2]} | as random after {length} | seeds |
|---|{"---|" * (len(at) + 3)}
{chr(10).join(lines)}

"As random after {length}": evaluations until the median hypervolume of random search after {length} evaluations,
{goal:.3f}, is reached.

## Rank correlation

Kendall's tau with the scores of the networks not learned from, mean over {SPLITS} random splits. Between two seeds of
one network it is {seed_tau}, over {twice} networks.

| learned from | {" | ".join(map(str, TRIALS))} |
|---|{"---|" * len(TRIALS)}
{chr(10).join(taus)}

![Hypervolume over evaluations](hypervolume.png)
"""


def chart(curves: dict[str, Array]) -> bytes:
    """Median hypervolume over evaluations, a line per sampler."""
    series = tuple(
        Series(
            name,
            tuple(Mark(count, float(value)) for count, value in enumerate(np.median(runs, axis=0), 1)),
            colour % 6,
            shape="none",
            line="dashed" if colour > 5 else "line",
        )
        for colour, (name, runs) in enumerate(curves.items())
    )
    title = "Hypervolume over evaluations"
    panel = Panel(Axis("share of the front's hypervolume"), series)
    return png(Figure(title, title, Axis("evaluations", "whole"), (panel,)), "median over seeds")


if __name__ == "__main__":
    main()
