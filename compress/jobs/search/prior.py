"""What a search knows before its first trial: what the candidates of another one scored, on other pictures say."""

import json
from pathlib import Path
from typing import Any

from compress.artefacts.records import from_plain
from compress.artefacts.results import Trial
from compress.artefacts.run import Run
from compress.errors import RecipeError
from compress.nas.bench import SPACES, bench
from compress.nas.predictor_sampler import Learned, PredictorSampler
from compress.nas.sampler import sampler_named
from compress.nas.space import Pick, Space
from compress.recipe import SearchRecipe

FEWEST = 10
"""Candidates that a prior has in the space."""


def read_prior(recipe: SearchRecipe, space: Space) -> Learned:
    """The picks of the space that the recipe's `search.prior` has, with their scores; empty without one.

    Raises RecipeError for a sampler that does not predict, for what is neither a bench nor a search's run folder, for a
    broken line there, and where fewer than ten of its candidates are of this space.
    """
    named, place = recipe.search.prior, recipe.place("search.prior")
    if named is None:
        return ()
    if not isinstance(sampler_named(recipe.search.sampler)(2, 0), PredictorSampler):
        raise RecipeError(
            "only a sampler that predicts scores can learn from those of another search",
            place=place,
            value=f"search.sampler {recipe.search.sampler}",
            remedy="use search.sampler=predictor, or leave the prior out",
        )
    file = Path(named) / "trials.jsonl"
    if named in SPACES:
        known: Learned = [(network.pick, network.score) for network in bench(named).networks]
    elif file.is_file():
        trials = _finished(file)
        known = [(trial.pick, trial.value) for trial in trials if trial.failure is None and not trial.stopped]
    else:
        raise RecipeError(
            "a prior is a bench, or the run folder of a search",
            place=place,
            value=named,
            remedy=f"use {', '.join(SPACES)}, or a folder with trials.jsonl",
        )
    found = [(pick, value) for pick, value in known if _is_of(pick, space)]
    if len(found) < FEWEST:
        raise RecipeError(
            f"a prior has {FEWEST} candidates of this space or more",
            place=place,
            value=f"{len(found)} of {len(known)} in {named}",
            remedy="take a search with the same choices and values, or leave the prior out",
        )
    return found


def kept(run: Run, prior: Learned) -> Learned:
    """The same as the run first had it: a search that goes on, or another process of it, proposes by that one, while
    the search that it is of may have gone on, too. Without one nothing is kept."""
    if not prior:
        return ()
    return run.once("prior", lambda: [(dict(pick), value) for pick, value in prior], list[tuple[dict[str, Any], float]])


def _finished(file: Path) -> list[Trial]:
    """The trials in whole lines: the file is another run's, which may be at work, and is left as it is."""
    found = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if line.endswith("\n"):
            place = f"{file}, line {number}"
            try:
                data = json.loads(line)
            except ValueError as error:
                raise RecipeError("no trial", place=place, value=str(error), remedy="take another run") from None
            found.append(from_plain(Trial, data, place, RecipeError, "take another run"))
    return found


def _is_of(pick: Pick, space: Space) -> bool:
    """Whether the space has the pick."""
    return pick.keys() == space.choices.keys() and all(pick[path] in values for path, values in space.choices.items())
