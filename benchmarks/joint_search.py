"""A joint search around a network beside pruning alone and rewriting alone, for the same time and with equal tuning.

    python -m benchmarks.joint_search GIVEN [GIVEN ...] [--target ncnn] [--budgets 0.6 0.4] [--trials 200] [--epochs 5]
        [--data KIND:FOLDER] [--out reports/joint_search]

GIVEN is a trained network: an artefact's folder, package.module:function or an ONNX file. Of every one, for every
budget (a share of its time on the target):

    joint    compress search GIVEN --budget B, whose finalists are tuned
    prune    compress prune GIVEN --latency B --allocate latency
    rewrite  compress rewrite GIVEN, which has no time to meet: it stands where it comes out

All are tuned for the same epochs on the same pictures with the given network as teacher, and scored on the same
validation pictures. Then it says whether the joint front dominates both, and, from the search's single edits, what each
kind of choice saves for what loss. Finished runs lie in OUT/runs and are not made again; OUT/README.md and
OUT/results.json have the results. To be run on an idle machine.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

import compress
from compress.artefacts.results import NetworkResult, SearchResult
from compress.files import write_json, write_text
from compress.nas.space import read_space

Row = dict[str, Any]

TUNING = {"batch_size": 32, "learning_rate": 0.001, "warmup_steps": 50, "distillation": 0.5}
"""Of all networks alike."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("given", nargs="+")
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.6, 0.4])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--data", default=None, metavar="KIND:FOLDER")
    parser.add_argument("--out", type=Path, default=Path("reports/joint_search"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    axes: list[Row] = []
    for given in arguments.given:
        for budget in arguments.budgets:
            found, edits = joint(arguments, given, budget)
            rows += [*found, pruned(arguments, given, budget)]
            axes += edits
        rows.append(rewritten(arguments, given))
        results = {"command": ["python", "-m", "benchmarks.joint_search", *sys.argv[1:]], "rows": rows, "axes": axes}
        write_json(arguments.out / "results.json", results)
        write_text(arguments.out / "README.md", text(results))


def joint(arguments: argparse.Namespace, given: str, budget: float) -> tuple[list[Row], list[Row]]:
    """A row for the given network and for every finalist, and one for every kind of edit."""
    folder = folder_of(arguments, given, f"joint-{budget:g}")
    outcome = compress.search(
        given,
        target=arguments.target,
        budget=f"{100 * budget:g}%",
        folder=folder,
        trials=arguments.trials,
        finalists={"training": {**TUNING, "epochs": arguments.epochs}},
        **data_of(arguments),
    )
    result = outcome.result
    base = next(one for one in result.networks if one.name == "given")
    rows = [row(given, f"joint {one.name}", budget, one, base) for one in result.networks if one is not base]
    return rows, contributions(given, result, folder)


def contributions(given: str, result: SearchResult, folder: Path) -> list[Row]:
    """Of every kind of edit the single one that costs the least score for a share of the time."""
    kinds = {edit.path: edit.kind for edit in read_space(folder / "space.yaml").edits}
    unedited, best = result.trials[0], dict[str, Row]()
    for trial in result.trials[1:]:
        changed = [path for path in kinds if trial.pick[path] != unedited.pick[path]]
        if len(changed) != 1:
            continue
        saved = 1 - trial.cost.predicted_ms / unedited.cost.predicted_ms
        lost = unedited.value - trial.value
        found = {"given": given, "kind": kinds[changed[0]], "edit": changed[0], "saved": saved, "lost": lost}
        if saved > 0 and lost / saved < best.get(found["kind"], {"rate": float("inf")})["rate"]:
            best[found["kind"]] = {**found, "rate": lost / saved}
    return list(best.values())


def pruned(arguments: argparse.Namespace, given: str, budget: float) -> Row:
    """Channels alone, allocated by the latency model, for the same time."""
    found = compress.prune(
        given,
        target=arguments.target,
        folder=folder_of(arguments, given, f"prune-{budget:g}"),
        latency=budget,
        allocate="latency",
        training={**TUNING, "epochs": arguments.epochs},
        **data_of(arguments),
    ).result
    return row(given, "prune", budget, found.pruned, found.given)


def rewritten(arguments: argparse.Namespace, given: str) -> Row:
    """Operators alone."""
    found = compress.rewrite(
        given,
        target=arguments.target,
        folder=folder_of(arguments, given, "rewrite"),
        training={**TUNING, "epochs": arguments.epochs},
        **data_of(arguments),
    ).result
    return row(given, "rewrite", None, found.rewritten or found.given, found.given)


def row(given: str, how: str, budget: float | None, network: NetworkResult, base: NetworkResult) -> Row:
    """share: of the given network's measured time, both of one interleaved run."""
    target = next(iter(network.latency))
    score, of_base = network.score, base.score
    return {
        "given": given,
        "how": how,
        "budget": budget,
        "share": network.latency[target].ms / base.latency[target].ms,
        "score": score.value if score else None,
        "standard_error": score.standard_error if score else None,
        "given_score": of_base.value if of_base else None,
    }


def dominates(rows: list[Row], other: Row) -> bool:
    """Whether one of the joint rows is at least as good in both, and better in one."""
    joint_rows = [one for one in rows if one["given"] == other["given"] and one["how"].startswith("joint")]
    points = [(one["share"], -(one["score"] or 0.0)) for one in joint_rows]
    share, score = other["share"], -(other["score"] or 0.0)
    return any(a <= share and b <= score and (a, b) != (share, score) for a, b in points)


def data_of(arguments: argparse.Namespace) -> dict[str, str]:
    """The keyword of the pictures, where they are given."""
    return {"data": arguments.data} if arguments.data else {}


def folder_of(arguments: argparse.Namespace, given: str, what: str) -> Path:
    """Of one run."""
    return Path(arguments.out / "runs" / f"{Path(given).name.replace(':', '-')}-{what}")


def text(results: Row) -> str:
    """The page."""
    lines = [
        "# Joint search beside pruning alone and rewriting alone",
        "",
        f"`{' '.join(results['command'])}`. Share: of the given network's measured time, both timed in one interleaved "
        "run. Every row is tuned alike, with the given network as teacher, and scored on the same validation pictures.",
        "",
        "| given | how | budget | share of time | score | given's score | dominated by the joint front |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in results["rows"]:
        alone = not one["how"].startswith("joint")
        beaten = ("yes" if dominates(results["rows"], one) else "no") if alone else ""
        score = "–" if one["score"] is None else f"{one['score']:.3f} ± {one['standard_error'] or 0:.3f}"
        goal = "–" if one["budget"] is None else f"{one['budget']:.0%}"
        own = "–" if one["given_score"] is None else f"{one['given_score']:.3f}"
        lines.append(f"| {one['given']} | {one['how']} | {goal} | {one['share']:.1%} | {score} | {own} | {beaten} |")
    lines += [
        "",
        "## What each kind of choice gives",
        "",
        "The single edit of least loss for its saving, before any tuning: predicted time, score on search pictures.",
        "",
        "| given | kind | edit | time saved | score lost |",
        "|---|---|---|---|---|",
    ]
    for one in results["axes"]:
        edit = one["edit"].removeprefix("edits.")
        lines.append(f"| {one['given']} | {one['kind']} | {edit} | {one['saved']:.1%} | {one['lost']:.3f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
