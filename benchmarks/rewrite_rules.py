"""Accuracy that replacing operators loses, and the part that carried weights, reconstruction and tuning recover.

    python -m benchmarks.rewrite_rules GIVEN [--recipe NAME|FILE] [--set key.sub=value ...] [--rules NAME ...]
        [--out reports/rewrite_rules]

GIVEN is a trained artefact. Every rule with sites in it is applied to all of them at once, and the network is scored
with random weights there; with weights carried over (the rule's own, then least squares on what the given module
answered, see `compress.rewriting.fitting`); after reconstruction of every site in turn, on inputs from the network as
it is rewritten so far; and after fine-tuning with GIVEN as teacher. Batch norms of the whole network are recalibrated
before every score, also before that of GIVEN. The recipe is one of `compress rewrite`; `rewriting.calibration`,
`rewriting.steps` and `training` count. Rules that OUT/results.json has are not run again; OUT/README.md has the tables.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from compress.artefacts.network import learning_of, open_network
from compress.artefacts.run import cpu_name
from compress.errors import CompressError, DataError, RecipeError, RunError
from compress.files import write_json, write_text
from compress.pose.estimator import first_inputs
from compress.pose.scoring import RESAMPLES, score
from compress.progress import Progress
from compress.recipe import RewriteRecipe, find, read_recipe, to_data
from compress.report.progress import Terminal
from compress.rewriting.fitting import Fitted, fit_sites
from compress.rewriting.rules import RULES
from compress.rewriting.sites import Rewrite, rewritten, rule_named, sites
from compress.training.loop import batch_count, distilled_step, train
from compress.training.processes import launch
from compress.training.recalibration import PICTURES, recalibrate

STAGES = ("random", "carried", "reconstructed", "tuned")

Row = dict[str, Any]


class Bench:
    """One trained network; makes, tunes and scores its rewritten copies."""

    def __init__(self, name: str, recipe: RewriteRecipe, progress: Progress) -> None:
        """Raises a CompressError if the network or its data cannot be used."""
        self.original = open_network(name, recipe.input_hw, seed=recipe.seed, codec=recipe.codec)
        learning = learning_of(self.original, recipe, recipe.rewriting.pictures)
        if learning is None:
            raise DataError("only a trained network has an accuracy to lose", place=name, remedy="give an artefact")
        self.learning = learning
        self.recipe, self.progress, self.fabric = recipe, progress, launch("auto")
        self.original.module.to(self.fabric.device)

    def before(self) -> Row:
        """The given network's score, which the rules' rows are compared with."""
        learning = self.learning
        return {
            "figure": learning.metric,
            "data": learning.data.kind,
            "pictures": len(learning.sets.val),
            "device": torch.cuda.get_device_name() if self.fabric.device.type == "cuda" else cpu_name(),
            "before": self.scored(copy.deepcopy(self.original.module), "given"),
            "rules": {},
        }

    def measure(self, found: Sequence[Rewrite]) -> Row:
        """One rule's row. Replacements without weights have no carried and no reconstructed score."""
        torch.manual_seed(self.original.seed)
        network = rewritten(self.original.module, found, carry=False)
        learns = any(True for one in found for _ in network.get_submodule(one.at).parameters())
        scores = {"random": self.scored(copy.deepcopy(network), "random")}
        errors: dict[str, float] = {}
        if learns:
            network, _ = self.fitted(found, 0)
            scores["carried"] = self.scored(copy.deepcopy(network), "carried")
            network, of_sites = self.fitted(found, self.recipe.rewriting.steps)
            scores["reconstructed"] = self.scored(copy.deepcopy(network), "reconstructed")
            errors = {stage: mean(asdict(one)[stage] for one in of_sites) for stage in STAGES[:3]}
        self.tune(network)
        return {"sites": len(found), **scores, "tuned": self.scored(network, "tuned"), "errors": errors}

    def fitted(self, found: Sequence[Rewrite], steps: int) -> tuple[nn.Module, list[Fitted]]:
        """The network with fitted replacements, each on its inputs in the network rewritten so far; their errors."""
        learning, wanted = self.learning, self.recipe.rewriting.calibration
        pictures = list(first_inputs(learning.estimator, learning.sets.train, wanted, self.fabric.device))
        with self.progress.phase(f"fitting, {steps} steps", len(found)) as phase:
            network, errors = fit_sites(
                self.original.module,
                found,
                pictures,
                limit=wanted,
                steps=steps,
                seed=self.original.seed,
                progress=lambda path: phase.advance(1, path),
            )
        return network, list(errors.values())

    def tune(self, network: nn.Module) -> None:
        """Changes the network."""
        learning = self.learning
        settings = self.recipe.training
        samples = learning.objective.samples(learning.sets.train)
        step = distilled_step([network], self.original.module, learning.objective, settings.distillation, self.fabric)
        with (
            tempfile.TemporaryDirectory() as folder,
            self.progress.phase("fine-tuning", batch_count(settings, samples)) as phase,
        ):
            train(
                network,
                [dict(network.named_parameters())],
                step,
                samples=samples,
                settings=settings,
                seed=self.original.seed,
                fabric=self.fabric,
                workers=learning.data.workers,
                checkpoint=Path(folder) / "tuned.pt",
                phase=phase,
            )

    def scored(self, network: nn.Module, stage: str) -> list[float]:
        """Recalibrates the network; the main figure and its standard error. Changes the network."""
        learning = self.learning
        recalibrate(network, first_inputs(learning.estimator, learning.sets.train, PICTURES, self.fabric.device))
        with self.progress.phase(f"scoring: {stage}", len(learning.sets.val)) as phase:
            found = score(
                network,
                learning.estimator,
                learning.sets.val,
                kind=learning.data.kind,
                provenance=stage,
                flip_test=self.recipe.decoding.flip_test,
                resamples=RESAMPLES,
                phase=phase,
            )
        return [found.value or 0.0, found.standard_error or 0.0]


# --- The page --------------------------------------------------------------------------------------------------------


def recovered(before: float, row: Row) -> str:
    """Share of the loss with random weights recovered before tuning; a dash where that loss is within its error."""
    random, spread = row["random"]
    lost = before - random
    if "reconstructed" not in row or lost <= spread:
        return "–"
    return f"{(row['reconstructed'][0] - random) / lost:.0%}"


def text(results: dict[str, Row]) -> str:
    """The README."""
    lines = [
        "# Operators replaced in trained networks, rule by rule",
        "",
        "Every rule is applied to all its sites at once. Scores on the validation pictures, ± the standard error;",
        "batch norms of the whole network are recalibrated in every column alike. Random: random weights. Carried: the",
        "rule's initial weights and least squares. Reconstructed: then Adam on the output of each site in turn.",
        "Recovered: (reconstructed - random) / (given - random), before any fine-tuning; – where these lose no more",
        "than the standard error, and for replacements without weights, whose loss stands under random. Tuned:",
        "fine-tuning with the given network as teacher. Error: mean over the sites of the squared output error,",
        "relative to the output's variance, on pictures that nothing was fitted to; huge where a site's output hardly",
        "varies.",
    ]
    for name, result in results.items():
        settings, figure = result["recipe"], result["figure"]
        training, rewriting = settings["training"], settings["rewriting"]
        lines += [
            "",
            f"## {name}",
            "",
            f"    {' '.join(result['command'])}",
            "",
            f"{result['data']}, {figure} on {result['pictures']} pictures; fitted on {rewriting['calibration']}, "
            f"{rewriting['steps']} steps of Adam per site; fine-tuned for {training['epochs']} epochs at "
            f"{training['learning_rate']:g}; {result['device']}.",
            "",
            "| rule | sites | given | random | carried | reconstructed | recovered | tuned | error: random | carried |"
            " reconstructed |",
            "|" + "---|" * 11,
        ]
        lines += [line(result["before"], rule, row) for rule, row in result["rules"].items()]
    return "\n".join(lines) + "\n"


def line(before: list[float], rule: str, row: Row) -> str:
    """One rule in the table."""
    if "failure" in row:
        return f"| {rule} | {row['sites']} | {row['failure']} |" + " |" * 8
    known = [before, *(row.get(stage) for stage in STAGES)]
    scores = ["–" if one is None else f"{one[0]:.3f} ± {one[1]:.3f}" for one in known]
    errors = [f"{row['errors'][stage]:.3g}" if row["errors"] else "–" for stage in STAGES[:3]]
    return f"| {' | '.join([rule, str(row['sites']), *scores[:4], recovered(before[0], row), scores[4], *errors])} |"


def main() -> None:
    """Runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("given")
    parser.add_argument("--recipe")
    parser.add_argument("--set", action="append", default=[], metavar="key.sub=value")
    parser.add_argument("--rules", nargs="+", default=list(RULES))
    parser.add_argument("--out", type=Path, default=Path("reports/rewrite_rules"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        run(arguments)
    except CompressError as error:
        parser.error(str(error))


def run(arguments: argparse.Namespace) -> None:
    """Raises a CompressError for what cannot be used, and for results of another recipe in OUT."""
    path = find(arguments.recipe, "recipes", RecipeError) if arguments.recipe else None
    recipe = read_recipe(path, RewriteRecipe, arguments.set)
    file = arguments.out / "results.json"
    results: dict[str, Row] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    name = str(arguments.given)
    rules = [rule_named(rule) for rule in arguments.rules]
    bench = Bench(name, recipe, Terminal())
    if name not in results:
        command = ["python", "-m", "benchmarks.rewrite_rules", *sys.argv[1:]]
        results[name] = {"command": command, "recipe": to_data(recipe), **bench.before()}
    if results[name]["recipe"] != to_data(recipe):
        raise RunError(
            "results of one network are of one recipe", place=str(file), value=name, remedy="choose another --out"
        )
    done = results[name]["rules"]
    for rule in rules:
        found = sites(bench.original.module, rule)
        if not found:
            print(f"{rule.name}: no sites", flush=True)
        if rule.name in done or not found:
            continue
        try:
            done[rule.name] = bench.measure(found)
        except CompressError as error:
            done[rule.name] = {"sites": len(found), "failure": str(error)}
        print(line(results[name]["before"], rule.name, done[rule.name]), flush=True)
        write_json(file, results)
        write_text(arguments.out / "README.md", text(results))


if __name__ == "__main__":
    main()
