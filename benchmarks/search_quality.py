"""Samplers on PoseNAS-Bench: hypervolume over evaluations, regret to the true front, rank correlation of predictors.

    python -m benchmarks.search_quality [--bench lspet] [--ground table] [--cost onnxruntime] [--seeds 30]
        [--evaluations 100] [--workers N] [--runs runs/search_quality] [--out reports/search_quality]
        [--samplers random nsga2 tpe gp guided predictor predictor_prior predictor_among]

All samplers start from the same ten random networks of a seed, `predictor_prior`, which knows the scores of the other
bench's networks, from the first three of them. In the `table`, what a sampler proposes need not be
there: the nearest network that it has not had is evaluated in its place, and that one it is told; `predictor_among`
alone chooses among the table's networks themselves. In the `model`, fitted to the table, every pick of the space has a
score (benchmarks.search_grounds). The guided sampler and the predictors know costs beforehand, as they do in a search.
Finished runs lie in RUNS, and a killed benchmark goes on from there. OUT/BENCH_GROUND.md and .png say what came of
them; OUT/README.md is all of these together. `--bench formula` runs on a made-up score in place of trainings: it shows
what samplers do where scores have a plain form, and that everything works.
"""

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
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

from benchmarks.search_grounds import Evaluated, Ground, Model, OfModel, OfTable, Point, cost_model, open_bench
from compress.files import append_line, write_bytes, write_text
from compress.nas.bench import Bench, beyond_cost, rank_correlation
from compress.nas.pareto import front
from compress.nas.predictor import Encoding, Predictor
from compress.nas.predictor_sampler import KNOWN_WEIGHT, WITH_PRIOR, Columns, PredictorSampler
from compress.nas.sampler import Guide
from compress.nas.space import Pick
from compress.report.figures import Axis, Figure, Mark, Panel, Series, png

Array = NDArray[np.float64]
Run = tuple[str, int]
"""Sampler and seed."""

START = 10
"""Random networks that every sampler starts from."""
AMONG = "predictor_among"
"""The one that chooses among the table's networks."""
PRIOR = "predictor_prior"
"""The one that knows the other bench's networks and scores."""
OTHER = {"lspet": "synthetic", "synthetic": "lspet", "formula": "synthetic"}
TRIALS = (20, 40, 80)
"""That predictors learn from."""
SPLITS = 10
"""Of the table, into networks that predictors learn from and those they order."""
AT = (10, 20, 30, 50, 70, 100)
"""Evaluations that the table has columns for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="lspet", choices=["lspet", "synthetic", "formula"])
    parser.add_argument("--ground", default="table", choices=["table", "model"])
    parser.add_argument("--tables", type=Path, help="folder of the tables; the package's by default")
    parser.add_argument("--cost", default="onnxruntime")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS), choices=list(SAMPLERS))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/search_quality"))
    parser.add_argument("--out", type=Path, default=Path("reports/search_quality"))
    given = parser.parse_args()
    table = open_bench(given.bench, given.tables)
    samplers = [name for name in given.samplers if name != AMONG or given.ground == "table"]
    name_of = f"{given.bench}_{given.ground}"
    file = given.runs / f"{name_of}.jsonl"
    length = min(given.evaluations, len(table.networks)) if given.ground == "table" else given.evaluations
    known = read_runs(file)
    waiting = [(name, seed) for seed in range(given.seeds) for name in samplers if (name, seed) not in known]
    where = (given.bench, given.tables, given.ground, given.cost)
    with ProcessPoolExecutor(given.workers, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(searched, *where, length, *one): one for one in waiting}
        for future in as_completed(futures):
            (name, seed), (points, seconds) = futures[future], future.result()
            append_line(file, {"sampler": name, "seed": seed, "points": points, "seconds": round(seconds, 2)})
            print(f"{name} seed {seed}: {seconds:.1f} s", flush=True)
    runs = {run: points for run, points in read_runs(file).items() if run[0] in samplers}
    measure = (
        Measure.of_model(model_of(*where[:2], given.cost))
        if given.ground == "model"
        else Measure.of_table(table, given.cost)
    )
    curves = {
        name: np.array([measure(points) for (one, _), points in runs.items() if one == name]) for name in samplers
    }
    hand = table.points(given.cost)[0] if given.ground == "table" else model_of(*where[:2], given.cost).hand
    above = {name: [gained(points, hand) for (one, _), points in runs.items() if one == name] for name in samplers}
    write_text(given.out / f"{name_of}.md", page(table, given, curves, above, f"{name_of}.png"))
    write_bytes(given.out / f"{name_of}.png", chart(curves))
    write_text(given.out / "README.md", whole_page(given.out))


def read_runs(file: Path) -> dict[Run, list[Point]]:
    """Cost and score of the networks of every finished run, in the order of their evaluation."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {
        (entry["sampler"], entry["seed"]): [(cost, score) for cost, score in entry["points"]]
        for entry in map(json.loads, lines)
    }


# --- Searches --------------------------------------------------------------------------------------------------------


def nsga2(table: Bench, cost: str, seed: int) -> BaseSampler:
    return NSGAIISampler(population_size=START, seed=seed)


def predictor(table: Bench, cost: str, seed: int) -> BaseSampler:
    return PredictorSampler(seed, space=table.space, known={0: cost_model(table, cost)}, startup=START)


def predictor_among(table: Bench, cost: str, seed: int) -> BaseSampler:
    model, picks = cost_model(table, cost), [network.pick for network in table.networks]
    return PredictorSampler(seed, space=table.space, known={0: model}, startup=START, among=picks)


def predictor_prior(table: Bench, cost: str, seed: int) -> BaseSampler:
    costs = {0: cost_model(table, cost)}
    return PredictorSampler(seed, space=table.space, known=costs, prior={1: other_scores(table)})


def other_scores(table: Bench) -> list[tuple[Pick, float]]:
    return [(network.pick, network.score) for network in open_bench(OTHER[table.name], None).networks]


SAMPLERS: dict[str, Callable[[Bench, str, int], BaseSampler] | None] = {
    "random": None,
    "nsga2": nsga2,
    "tpe": lambda table, cost, seed: TPESampler(seed=seed, n_startup_trials=START),
    "gp": lambda table, cost, seed: GPSampler(seed=seed, n_startup_trials=START),
    "guided": None,
    "predictor": predictor,
    "predictor_among": predictor_among,
    PRIOR: predictor_prior,
}
"""What makes each sampler of Optuna's; None: it is not one, see `searched`."""


def searched(
    name: str, folder: Path | None, ground_name: str, cost: str, evaluations: int, sampler: str, seed: int
) -> tuple[list[Point], float]:
    """True costs and scores in the order of evaluation, and the sampler's seconds for all."""
    table, rng = open_bench(name, folder), random.Random(seed)
    ground: Ground
    ground = OfTable(table, cost) if ground_name == "table" else OfModel(model_of(name, folder, cost), seed)
    start = [ground.evaluate(ground.drawn(rng)) for _ in range(WITH_PRIOR if sampler == PRIOR else START)]
    began = time.process_time()
    made = SAMPLERS[sampler]
    if sampler == "random":
        found = [ground.evaluate(ground.drawn(rng)) for _ in range(evaluations - len(start))]
    elif made is None:
        found = guided(table, cost, ground, start, evaluations - len(start), rng)
    else:
        found = with_optuna(ground, start, evaluations - len(start), made(table, cost, seed))
    return [one.true for one in [*start, *found][:evaluations]], time.process_time() - began


@cache
def model_of(name: str, folder: Path | None, cost: str) -> Model:
    return Model(open_bench(name, folder), cost)


def with_optuna(ground: Ground, start: Sequence[Evaluated], wanted: int, sampler: BaseSampler) -> list[Evaluated]:
    """A proposal that another network stands for is given up, and that one asked for in its place."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    for one in start:
        study.enqueue_trial(dict(one.pick))
        study.tell(asked(study, ground)[0], one.told)
    found: list[Evaluated] = []
    while len(found) < wanted:
        trial, pick = asked(study, ground)
        found.append(ground.evaluate(pick))
        if found[-1].pick != pick:
            study.tell(trial, state=TrialState.FAIL)
            study.enqueue_trial(dict(found[-1].pick))
            trial, _ = asked(study, ground)
        study.tell(trial, found[-1].told)
    return found


def asked(study: optuna.Study, ground: Ground) -> tuple[optuna.Trial, Pick]:
    trial = study.ask()
    if isinstance(study.sampler, BaseGASampler):
        _ = trial.relative_params  # counts a given network as one of its generation too, which Optuna does lazily
    return trial, {path: trial.suggest_categorical(path, values) for path, values in ground.space.choices.items()}


def guided(
    table: Bench, cost: str, ground: Ground, start: Sequence[Evaluated], wanted: int, rng: random.Random
) -> list[Evaluated]:
    """The additive guide. Its baselines are the hand-made networks, the table's first two; they are evaluated too."""
    baselines = [network.pick for network in table.networks if network.number < 2]
    guide = Guide(table.space, baselines, rng, [cost_model(table, cost)])
    for one in start:
        guide.learn(one.pick, [one.told[0]], one.told[1])
    found: list[Evaluated] = []
    while len(found) < wanted:
        found.append(ground.evaluate(baselines.pop(0) if baselines else guide.propose()))
        guide.learn(found[-1].pick, [found[-1].told[0]], found[-1].told[1])
    return found


# --- Figures ---------------------------------------------------------------------------------------------------------


class Measure:
    """Hypervolumes after each evaluation, as shares of that of the true front.

    Costs on a logarithmic scale, scores linear; the reference is the largest cost and the lowest score in the table.
    """

    def __init__(self, table: Array, best: Array) -> None:
        """table: [N,2], costs and scores that are there to be had. best: [M,2], of the true front."""
        both = self._logs(np.concatenate([table, best]))
        self._low, self._span = both.min(0), both.max(0) - both.min(0)
        self._whole = hypervolume(self._scaled(best))

    @classmethod
    def of_table(cls, table: Bench, cost: str) -> "Measure":
        return cls(np.array(table.points(cost)), np.array(table.points(cost)))

    @classmethod
    def of_model(cls, model: Model) -> "Measure":
        return cls(model([model.space.smallest, model.space.largest]), np.array(model.best))

    def __call__(self, points: Sequence[Point]) -> Array:
        scaled = self._scaled(np.array(points))
        return np.array([hypervolume(scaled[: count + 1]) for count in range(len(points))]) / self._whole

    def _scaled(self, points: Array) -> Array:
        return np.asarray((self._logs(points) - self._low) / self._span)

    @staticmethod
    def _logs(points: Array) -> Array:
        return np.column_stack([np.log(points[:, 0]), points[:, 1]])


def gained(points: Sequence[Point], hand: Point) -> float:
    """How much more than the hand balance the best of the networks scores that cost no more; below 0 where it is less,
    NaN where there is none."""
    return max((score for cost, score in points if cost <= hand[0]), default=float("nan")) - hand[1]


def hypervolume(points: Array) -> float:
    """Area between the front of (cost, score), both 0..1, and cost 1, score 0; what lies outside of it adds nothing."""
    inside = np.clip(points, 0, [np.inf, 1])
    kept = [inside[index] for index in front([(float(x), float(y)) for x, y in inside]) if inside[index][0] <= 1]
    ends = [*(x for x, _ in kept[1:]), 1.0]
    return float(sum((end - x) * y for (x, y), end in zip(kept, ends, strict=True)))


def correlations(table: Bench, cost: str) -> dict[str, list[tuple[float, float]]]:
    """Kendall's tau with the scores of the networks not learned from, and the same of what a line over the logarithm of
    the cost does not explain, for each of TRIALS; means over random splits."""
    picks, points = [network.pick for network in table.networks], np.array(table.points(cost))
    costs, scores = points[:, 0], points[:, 1]
    columns = Columns(table.space, {0: cost_model(table, cost)}, [0])
    rows, encoded = columns(picks), Encoding(table.space.choices)(picks)
    prior = other_scores(table)
    learned = Predictor.likeliest(columns([pick for pick, _ in prior]), [score for _, score in prior], columns.weights)
    with_prior = np.column_stack([rows, learned.predict(rows)[0]])
    prior_weights = [np.append(one, KNOWN_WEIGHT) for one in columns.weights]
    additive = np.array(
        [
            [float(pick[path] == value) for path, values in table.space.choices.items() for value in values] + [1.0]
            for pick in picks
        ]
    )
    names = (
        "predictor_prior",
        "predictor",
        "predictor by choices alone",
        "the same without cost",
        "additive",
        "cost alone",
    )
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for count in TRIALS:
        taus: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
        for split in range(SPLITS if count < len(picks) - 10 else 0):
            order = np.random.default_rng(split).permutation(len(picks))
            known, unseen = order[:count], order[count:]

            def by(table: Array, weights: Sequence[Array], known: Array = known, unseen: Array = unseen) -> Array:
                return Predictor.likeliest(table[known], scores[known], weights).predict(table[unseen])[0]

            predicted = (
                by(with_prior, prior_weights),
                by(rows, columns.weights),
                by(rows, columns.weights[1:]),
                by(encoded, [np.ones(encoded.shape[1])]),
                additive[unseen] @ ridge(additive[known], scores[known]),
                np.log(costs[unseen]),
            )
            truth = list(scores[unseen]), beyond_cost(list(scores[unseen]), list(costs[unseen]))
            for name, values in zip(names, predicted, strict=True):
                beyond = beyond_cost(list(values), list(costs[unseen]))
                taus[name].append((rank_correlation(list(values), truth[0]), rank_correlation(beyond, truth[1])))
        for name, several in taus.items():
            found[name].append(tuple(np.mean(several, axis=0)) if several else (float("nan"), float("nan")))
    found["cost alone"] = [(tau, float("nan")) for tau, _ in found["cost alone"]]
    return found


def ridge(rows: Array, values: Array) -> Array:
    """Least squares with a penalty on all coefficients but the last, as the guide has it."""
    penalty = np.diag([0.3] * (rows.shape[1] - 1) + [1e-6])
    return np.asarray(np.linalg.solve(rows.T @ rows + penalty, rows.T @ values))


def page(
    table: Bench, given: argparse.Namespace, curves: dict[str, Array], above: dict[str, list[float]], picture: str
) -> str:
    """The page for people."""
    length = next(iter(curves.values())).shape[1]
    at = [count for count in AT if count <= length]
    goal = float(np.median(curves["random"][:, -1])) if "random" in curves else float("nan")
    columns = ["sampler", *map(str, at), f"quartiles at {at[len(at) // 2]}", f"as random after {length}"]
    columns += ["over the hand balance", "seeds"]
    lines = []
    for name, values in curves.items():
        reached = [next((n + 1 for n, value in enumerate(run) if value >= goal), length + 1) for run in values]
        needed = median(reached)
        cells = [f"{np.median(values[:, count - 1]):.3f}" for count in at]
        spread = np.percentile(values[:, at[len(at) // 2] - 1], [25, 75])
        cells += [f"{spread[0]:.3f}-{spread[1]:.3f}", f"{needed:g}" if needed <= length else f"more than {length}"]
        cells.append(f"{np.median(above[name]):+.4f}")
        lines.append(f"| {name} | {' | '.join(cells)} | {len(values)} |")
    taus = [
        f"| {name} | {' | '.join(_taus(one) for one in values)} |"
        for name, values in correlations(table, given.cost).items()
    ]
    trained_twice = [network for network in table.networks if len(network.scores) > 1]
    seeds = list(zip(*(list(one.scores.values())[:2] for one in trained_twice), strict=True))
    own_costs = [one.costs[given.cost] for one in trained_twice] if given.cost in table.cost_names else []
    beyond = rank_correlation(*(beyond_cost(one, own_costs) for one in seeds)) if seeds and own_costs else float("nan")
    seed_tau = "not known" if table.seed_tau is None else _taus((table.seed_tau, beyond))
    twice = len(trained_twice)
    options = {key: getattr(given, key) for key in ("bench", "ground", "cost", "seeds")}
    command = " ".join(["python -m benchmarks.search_quality", *(f"--{key} {one}" for key, one in options.items())])
    return f"""## {given.bench}, {given.ground}

    {command}

{len(table.networks)} trained networks, {table.metric} against {given.cost}. {what(table, given)}
Hypervolume after so many evaluations: share of the true front's, cost on a logarithmic scale, medians over seeds; one
less it is the regret. Every sampler begins with the same {START} random networks of a seed; {PRIOR} with the
first {WITH_PRIOR} of them, for it knows the scores of the {len(other_scores(table))} networks of `{OTHER[table.name]}`.

| {" | ".join(columns)} |
|{"---|" * len(columns)}
{chr(10).join(lines)}

"As random after {length}": evaluations, median over seeds, until the median hypervolume of random search after {length}
evaluations, {goal:.3f}, is reached. Over the hand balance: by how much the best of all networks at no more cost scores
more, median over seeds.

Kendall's tau with the scores of the networks not learned from, mean over {SPLITS} random splits; after the comma of
what a straight line over the logarithm of the cost does not explain. Between two seeds of one network it is
{seed_tau}, over {twice} networks.

| learned from | {" | ".join(map(str, TRIALS))} |
|---|{"---|" * len(TRIALS)}
{chr(10).join(taus)}

![Hypervolume over evaluations]({picture})
"""


def _taus(both: tuple[float, float]) -> str:
    """`0.77, 0.22`."""
    return ", ".join(f"{one:.2f}" for one in both if one == one)


def what(table: Bench, given: argparse.Namespace) -> str:
    """What the samplers search in."""
    if given.ground == "table":
        return (
            f"{len(table.front(given.cost))} of them are the true front. A proposal that is not in the table stands\n"
            f"for the nearest network not had yet; {AMONG} chooses among the table's networks. {START} and more of\n"
            f"{len(table.networks)}: random search has seen a good part of the table in the end."
        )
    model = model_of(given.bench, given.tables, given.cost)
    fit, tau = model.agreement
    return (
        "A model of them scores every pick of the space: extremely\n"
        f"randomised trees, R² {fit:.2f} and Kendall's tau {tau:.2f} on networks that they were not fitted to.\n"
        f"Samplers are told its score and a seed's noise, of standard deviation {model.noise:.4f}, and judged without."
    )


def whole_page(folder: Path) -> str:
    """Of all benches and grounds."""
    parts = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*_*.md"))]
    return "\n".join(["# Samplers on PoseNAS-Bench\n", *parts])


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
