"""How well inherited weights order the candidates around a trained network: their scores untuned beside tuned ones.

    python -m benchmarks.inherit_order --data ../shared/data/lspet [--training 8] [--trials 60] [--epochs 2]
        [--runs runs/inherit_order] [--out reports/inherit_order]

PoseNAS-Bench's largest network is trained for TRAINING epochs under the bench's recipe. `compress search` around it,
with the guided sampler and two seeds, scores TRIALS candidates with inherited, recalibrated weights on the search
pictures, and tunes its finalists for EPOCHS: those that no other candidate beats in score and time, a dozen or so.
Tuned ones are scored on the validation pictures. Kendall's tau of the untuned scores, of multiply-adds and of predicted
time with the tuned scores; candidates that both seeds have, the first ones among them, say how well one tuning agrees
with another. Finished runs lie in RUNS and are not made again.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch

import compress
from benchmarks.pose_nas_bench import RECIPES, architecture_of, space_of
from compress.artefacts.results import SearchResult, read_results
from compress.files import write_json, write_text
from compress.nas.bench import beyond_cost, rank_correlation
from compress.nas.space import pick_key

Row = dict[str, Any]
SEEDS = (1, 2)
ORDERS = ("untuned", "macs", "ms")
"""What may tell how candidates come out of their tuning."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    for name, default in (("training", 8), ("trials", 60), ("epochs", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--runs", type=Path, default=Path("runs/inherit_order"))
    parser.add_argument("--out", type=Path, default=Path("reports/inherit_order"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    network = trained(given)
    found = [compared(searched(given, network, seed)) for seed in SEEDS]
    results = {"training": given.training, "epochs": given.epochs, "seeds": found, "both": both(*found)}
    write_json(given.out / "results.json", results)
    write_text(given.out / "README.md", text(results, f"--training {given.training} --trials {given.trials}"))


def trained(given: argparse.Namespace) -> Path:
    """The artefact of the network that the searches start from."""
    folder, recipe = given.runs / "given", RECIPES["lspet"]
    settings = recipe.training.model_copy(update={"epochs": given.training})
    result = compress.train(
        architecture_of("lspet", space_of("lspet").largest),
        folder=folder,
        recipe={
            "job": "train",
            "input_hw": recipe.input_hw,
            "codec": "exact",
            "training": settings.model_dump(exclude_unset=True),
            "data": {"kind": "lsp", "disk": {"folder": str(given.data.resolve())}},
        },
    ).result
    assert result is not None
    return Path(folder / result.trained.folder)


def searched(given: argparse.Namespace, network: Path, seed: int) -> SearchResult:
    """A search whose finalists are all candidates on its front."""
    folder = given.runs / f"seed{seed}"
    file = folder / "results.json"
    if not file.is_file():
        tuning = RECIPES["lspet"].training.model_copy(update={"epochs": given.epochs, "learning_rate": 0.002})
        compress.search(
            network,
            target="onnxruntime",
            folder=folder,
            sampler="guided",
            trials=given.trials,
            recipe={"job": "search", "seed": seed, "search": {}},
            measurement={"rounds": 10},
            finalists={"count": given.trials, "training": tuning.model_dump(exclude_unset=True)},
        )
    return read_results(file, "search", SearchResult)


def compared(found: SearchResult) -> Row:
    """Every tuned candidate with its score before, and how well that orders them."""
    trials = {trial.number: trial for trial in found.trials}
    rows: list[Row] = []
    for one in found.networks:
        trial = trials[found.trial_numbers[one.name]]
        assert one.score is not None
        rows.append(
            {
                "pick": pick_key(trial.pick),
                "untuned": trial.value,
                "tuned": one.score.value,
                "macs": one.macs,
                "ms": trial.cost.predicted_ms,
            }
        )
    tuned = [row["tuned"] for row in rows]
    taus = {what: rank_correlation([row[what] for row in rows], tuned) for what in ORDERS}
    like_time = rank_correlation(beyond(rows, "untuned"), beyond(rows, "tuned"))
    return {"rows": rows, "tau": taus, "tau_beyond_time": like_time, "trials": len(found.trials)}


def beyond(rows: list[Row], what: str) -> list[float]:
    """Scores less a line through the logarithm of the predicted time."""
    return beyond_cost([row[what] for row in rows], [row["ms"] for row in rows])


def both(one: Row, other: Row) -> Row:
    """Of candidates that both seeds have tuned: Kendall's tau between the two, of scores and of what is beyond time."""
    second = {row["pick"]: row for row in other["rows"]}
    pairs = [(row, second[row["pick"]]) for row in one["rows"] if row["pick"] in second]
    firsts, seconds = [first for first, _ in pairs], [second for _, second in pairs]
    tau = rank_correlation([row["tuned"] for row in firsts], [row["tuned"] for row in seconds])
    return {
        "pairs": len(pairs),
        "tau": tau,
        "tau_beyond_time": rank_correlation(beyond(firsts, "tuned"), beyond(seconds, "tuned")),
    }


def text(results: Row, options: str) -> str:
    """The page."""
    lines = [
        "# How well inherited weights order candidates",
        "",
        f"`python -m benchmarks.inherit_order {options} --epochs {results['epochs']}`.",
        f"Candidates around a network that was trained for {results['training']} epochs on LSPET at 64x64, those on",
        "the front. Kendall's tau of their scores with inherited, recalibrated weights, and of what is known before,",
        f"with their scores after {results['epochs']} epochs of tuning. Beyond time: of scores less a line through the",
        "logarithm of the predicted time.",
        "",
        "| search | tuned of | untuned score | multiply-adds | predicted time | untuned score, beyond time |",
        "|---|---|---|---|---|---|",
    ]
    for seed, found in zip(SEEDS, results["seeds"], strict=True):
        tau = found["tau"]
        cells = [f"seed {seed}", f"{len(found['rows'])} of {found['trials']}"]
        cells += [f"**{tau['untuned']:.2f}**", f"{tau['macs']:.2f}", f"{tau['ms']:.2f}"]
        cells.append(f"**{found['tau_beyond_time']:.2f}**")
        lines.append(f"| {' | '.join(cells)} |")
    both = results["both"]
    lines += [
        "",
        f"Ceiling: {both['pairs']} candidates were tuned in both searches, with two seeds. Between these the tau is "
        f"{both['tau']:.2f}, beyond time {both['tau_beyond_time']:.2f}.",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
