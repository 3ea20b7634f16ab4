"""A joint search around a network beside pruning alone and rewriting alone, for the same time and with equal tuning.

    python -m benchmarks.joint_search NAME=NETWORK [NAME=NETWORK ...] [--target ncnn] [--budgets 0.6 0.4]
        [--trials 200] [--tuning-samples 640] [--epochs 5] [--data KIND:FOLDER]
        [--runs runs/joint_search] [--out reports/joint_search]

NETWORK is a trained one: an artefact's folder, package.module:function or an ONNX file. It is tuned first, so that no
way starts from weights that mere training still improves. Of what this gives:

    rewrite  compress rewrite, which has no time to meet: it stands where it comes out
    prune    compress prune --latency B --allocate latency, for every budget B, a share of the time on the target
    joint    compress search --budget B, for every budget; give the share that rewriting came to, too

All are tuned for the same epochs on the same pictures with the given network as teacher, and scored on the same
validation pictures; in the end all are timed again, in one interleaved run, for one network takes up to a tenth longer
in one run than in another. Then it says whether the joint front dominates both, and, from the search's single edits,
what each kind of choice saves for what loss. Finished runs lie in RUNS and are not made again; OUT/README.md and
OUT/results.json have the results, those of networks of earlier calls among them. To be run on an idle machine.
"""

import argparse
import json
import os
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

import compress
from compress.artefacts.results import NetworkResult, SearchResult
from compress.files import write_json, write_text
from compress.measure.limit import CLOSE
from compress.measure.target import parse
from compress.measure.whole_networks import time_exports
from compress.nas.space import read_space
from compress.pose.scoring import difference_error
from compress.progress import Silent

Row = dict[str, Any]

WAYS = ("joint", "prune", "rewrite")
ROUNDS, REPEATS = 200, 3
"""Of the last timing, of all networks together."""
TUNING = {"batch_size": 32, "learning_rate": 0.001, "warmup_steps": 50, "distillation": 0.5}
"""Of all networks alike."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("given", nargs="+", metavar="NAME=NETWORK")
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.6, 0.4])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--tuning-samples", type=int, default=0, help="that every trial is tuned on before its score")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--data", default=None, metavar="KIND:FOLDER")
    parser.add_argument("--runs", type=Path, default=Path("runs/joint_search"))
    parser.add_argument("--out", type=Path, default=Path("reports/joint_search"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for one in arguments.given:
        name, _, network = one.partition("=")
        given = tuned(arguments, name, network)
        rows, axes = rewritten(arguments, name, given), list[Row]()
        for budget in arguments.budgets:
            base, found, edits = joint(arguments, name, given, budget)
            rows += [*found, pruned(arguments, name, given, budget)]
            axes += edits
            timed = timed_together(arguments, base, rows)
            within = within_budgets(timed)
            plain = [{key: value for key, value in row.items() if key != "scored"} for row in timed]
            add(
                arguments.out, name, {"rows": plain, "within": within, "axes": axes, "command": command(arguments, one)}
            )


def command(arguments: argparse.Namespace, given: str) -> str:
    """That makes the rows of one network."""
    keys = ("target", "trials", "tuning_samples", "epochs", "data")
    words = [f"--{key.replace('_', '-')} {getattr(arguments, key)}" for key in keys]
    words = [f"--budgets {' '.join(f'{one:g}' for one in arguments.budgets)}", *words]
    return f"python -m benchmarks.joint_search {given} {' '.join(words)}"


def add(out: Path, name: str, found: Row) -> None:
    """Writes one network's results beside those that are there."""
    file = out / "results.json"
    known: dict[str, Row] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    known[name] = found
    write_json(file, known)
    write_text(out / "README.md", text(known))


def tuned(arguments: argparse.Namespace, name: str, network: str) -> Path:
    """The artefact of the network after as much training as everything that comes of it gets."""
    settings = {key: value for key, value in TUNING.items() if key != "distillation"}
    folder = folder_of(arguments, name, "given")
    result = compress.train(network, folder=folder, epochs=arguments.epochs, **settings, **data_of(arguments)).result
    return folder / result.trained.folder


def joint(arguments: argparse.Namespace, name: str, given: Path, budget: float) -> tuple[Row, list[Row], list[Row]]:
    """A row for the given network, one for every finalist, and one for every kind of edit."""
    folder = folder_of(arguments, name, f"joint-{budget:g}")
    outcome = compress.search(
        given,
        target=arguments.target,
        budget=f"{100 * budget:.3g}%",
        folder=folder,
        trials=arguments.trials,
        tuning_samples=arguments.tuning_samples,
        finalists={"training": {**TUNING, "epochs": arguments.epochs}},
        **data_of(arguments),
    )
    result = outcome.result
    base = next(one for one in result.networks if one.name == "given")
    others = [one for one in result.networks if one is not base]
    rows = [row(name, f"joint {one.name}", budget, one, base, folder) for one in others]
    return row(name, "given", None, base, base, folder), rows, contributions(name, result, folder)


def contributions(name: str, result: SearchResult, folder: Path) -> list[Row]:
    """Of every kind of edit the single one that moves the maps least for a share of the time."""
    kinds, best = {edit.path: edit.kind for edit in read_space(folder / "space.yaml").edits}, dict[str, Row]()
    for one in result.single_edits:
        kind, saved = kinds.get(one.path, "input size"), 1 - one.share
        found = {"given": name, "kind": kind, "edit": one.path, "value": one.value, "saved": saved, "error": one.error}
        if saved > 0 and one.error / saved < best.get(kind, {"rate": float("inf")})["rate"]:
            best[kind] = {**found, "rate": one.error / saved}
    return list(best.values())


def pruned(arguments: argparse.Namespace, name: str, given: Path, budget: float) -> Row:
    """Channels alone, allocated by the latency model, for the same time."""
    folder = folder_of(arguments, name, f"prune-{budget:g}")
    found = compress.prune(
        given,
        target=arguments.target,
        folder=folder,
        latency=budget,
        allocate="latency",
        training={**TUNING, "epochs": arguments.epochs},
        **data_of(arguments),
    ).result
    return row(name, "prune", budget, found.pruned, found.given, folder)


def rewritten(arguments: argparse.Namespace, name: str, given: Path) -> list[Row]:
    """Operators alone; no row where no replacement pays, as then there is no other network."""
    folder = folder_of(arguments, name, "rewrite")
    found = compress.rewrite(
        given,
        target=arguments.target,
        folder=folder,
        training={**TUNING, "epochs": arguments.epochs},
        **data_of(arguments),
    ).result
    if not found.rewritten:
        return []
    return [row(name, "rewrite", None, found.rewritten, found.given, folder)]


def timed_together(arguments: argparse.Namespace, base: Row, rows: list[Row]) -> list[Row]:
    """The rows with their shares of the given network's time, all of one run: the median of REPEATS times."""
    target, everything = parse(arguments.target), [base, *rows]
    files = {str(place): {target: Path(one["file"])} for place, one in enumerate(everything)}
    sizes = {str(place): tuple(one["input_hw"]) for place, one in enumerate(everything)}
    shares = []
    for _ in range(REPEATS):
        found = time_exports(files, ROUNDS, sizes, Silent())
        times = [found[str(place)][target.name].ms for place in range(len(everything))]
        shares.append([ms / times[0] for ms in times[1:]])
    return [
        {**one, "share": median(own), "spread": max(own) - min(own)}
        for one, own in zip(rows, zip(*shares, strict=True), strict=True)
    ]


def row(name: str, how: str, budget: float | None, network: NetworkResult, base: NetworkResult, folder: Path) -> Row:
    """Of a finished network of the run in `folder`, but for its share of the time: see timed_together."""
    target = parse(next(iter(network.latency)))
    (export,) = (one for one in network.exports if one.engine == target.engine)
    score, of_base = network.score, base.score
    return {
        "scored": score,
        "given": name,
        "how": how,
        "budget": budget,
        "score": score.value if score else None,
        "standard_error": score.standard_error if score else None,
        "given_score": of_base.value if of_base else None,
        "file": str(folder / network.folder / export.files[0]),
        "input_hw": list(network.input_hw or base.input_hw or ()),
    }


def dominates(rows: list[Row], other: Row) -> bool:
    """Whether one of the joint rows is at least as good in both, and better in one."""
    points = [(one["share"], -(one["score"] or 0.0)) for one in rows if one["how"].startswith("joint")]
    share, score = other["share"], -(other["score"] or 0.0)
    return any(a <= share and b <= score and (a, b) != (share, score) for a, b in points)


def data_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The keyword of the pictures, where they are given."""
    return {"data": arguments.data} if arguments.data else {}


def folder_of(arguments: argparse.Namespace, name: str, what: str) -> Path:
    """Of one run."""
    return Path(arguments.runs / f"{name}-{what}")


def within_budgets(rows: list[Row]) -> list[Row]:
    """For every budget score and share of the most accurate of each way, and by how much the joint one is ahead.

    Pruning to that budget may take longer, and others then as long: times move by a few percent between runs.
    """
    found = []
    for budget in dict.fromkeys(one["budget"] for one in rows if one["budget"]):
        pruned_to = [one["share"] for one in rows if (one["how"], one["budget"]) == ("prune", budget)]
        limit = max([budget * (1 + CLOSE), *pruned_to])
        best = dict[str, Row]()
        for way in WAYS:
            own = [one for one in rows if one["how"].startswith(way) and one["score"] is not None]
            met = [one for one in own if one["share"] <= limit]
            if met:
                best[way] = max(met, key=lambda one: float(one["score"]))
        line: Row = {"budget": budget}
        for way, one in best.items():
            line[way] = {"score": one["score"], "share": one["share"]}
            if way != "joint" and "joint" in best:
                joint = best["joint"]
                line[way]["behind"] = joint["score"] - one["score"]
                line[way]["error"] = difference_error(joint["scored"], one["scored"])
        found.append(line)
    return found


def within_cells(line: Row) -> str:
    """Of the table of what is within a budget."""
    cells = [f"{line[way]['score']:.3f} at {line[way]['share']:.1%}" if way in line else "–" for way in WAYS]
    for way in WAYS[1:]:
        one = line.get(way, {})
        cells.append(f"{one['behind']:+.3f} ± {one['error']:.3f}" if "behind" in one else "–")
    return " | ".join([f"{line['budget']:.0%}", *cells])


def text(results: dict[str, Row]) -> str:
    """The page."""
    lines = [
        "# Joint search beside pruning alone and rewriting alone",
        "",
        *(f"    {one['command']}" for one in results.values()),
        "",
        "Share: of the given network's measured time, all of one given network timed in one interleaved run; median",
        f"of {REPEATS} runs, ± half their range. Every row is tuned alike, with the given network as teacher, and",
        "scored on the same validation pictures; ± of a score is one standard error.",
        "A search tunes the given network once more; its score then is the last column. The joint front: all finalists",
        "of one network's searches, whatever the budget.",
        "",
        "| given | how | budget | share of time | score | dominated by the joint front | given's score |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in results.values():
        for one in found["rows"]:
            alone = not one["how"].startswith("joint")
            beaten = ("yes" if dominates(found["rows"], one) else "no") if alone else ""
            score = "–" if one["score"] is None else f"{one['score']:.3f} ± {one['standard_error'] or 0:.3f}"
            goal = "–" if one["budget"] is None else f"{one['budget']:.0%}"
            spread = f" ± {50 * one['spread']:.1f}"
            own = "–" if one["given_score"] is None else f"{one['given_score']:.3f}"
            lines.append(
                f"| {one['given']} | {one['how']} | {goal} | {one['share']:.1%}{spread} | {score} | {beaten} | {own} |"
            )
    lines += [
        "",
        "## Within a budget",
        "",
        f"The most accurate of each way that takes at most {1 + CLOSE:.0%} of the budget, which pruning takes for met,",
        "or as long as what pruning to it takes here. –: none is that fast. Ahead: the joint one's score less the",
        "other's, ± one standard error of the difference, which is of the same pictures for both.",
        "",
        "| given | budget | joint | prune | rewrite | ahead of prune | ahead of rewrite |",
        "|---|---|---|---|---|---|---|",
        *(f"| {name} | {within_cells(line)} |" for name, found in results.items() for line in found["within"]),
        "",
        "## What each kind of choice gives",
        "",
        "The single edit that moves the maps least for its saving, before any tuning: predicted time, and squared",
        "difference over squared value of the given network's maps.",
        "",
        "| given | kind | edit | time saved | maps off |",
        "|---|---|---|---|---|",
    ]
    for found in results.values():
        for one in {(one["kind"], one["edit"]): one for one in found["axes"]}.values():
            edit = f"{one['edit'].removeprefix('edits.')}, {one['value']}"
            lines.append(f"| {one['given']} | {one['kind']} | {edit} | {one['saved']:.1%} | {one['error']:.2%} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
