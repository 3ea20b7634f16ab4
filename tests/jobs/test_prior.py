"""What a search may know before its first trial."""

import json
import random
from pathlib import Path

import pytest

from compress.artefacts.records import to_plain
from compress.artefacts.results import Trial
from compress.errors import RecipeError
from compress.jobs.search.prior import FEWEST, read_prior
from compress.measure.cost import Cost
from compress.nas.bench import bench, bench_space
from compress.nas.space import Pick, Space
from compress.pose.scoring import Score
from compress.recipe import SearchRecipe, read_recipe

SPACE = Space({}, {f"blocks.{i}": (0, 1, 2, 3) for i in range(4)})


def recipe(*overrides: str) -> SearchRecipe:
    return read_recipe(None, SearchRecipe, ["job=search", "search.space=bhrnet_small", *overrides])


def trial(number: int, pick: Pick, value: float, **other: object) -> Trial:
    score = Score("AP", value, None, "supernet", "synthetic", 2, {})
    return Trial(number, pick, Cost(1, 1, ()), score, **other)  # type: ignore[arg-type]


def run_of(folder: Path, trials: list[Trial]) -> Path:
    folder.mkdir()
    (folder / "trials.jsonl").write_text("".join(json.dumps(to_plain(one)) + "\n" for one in trials))
    return folder


@pytest.mark.parametrize(("name", "other"), [("lspet", "synthetic"), ("synthetic", "lspet")])
def test_a_bench_is_a_prior_for_the_space_of_the_other(name: str, other: str) -> None:
    prior = read_prior(recipe("search.sampler=predictor", f"search.prior={name}"), bench_space(other))
    assert [value for _, value in prior] == [network.score for network in bench(name).networks]


def test_a_run_is_a_prior_without_its_failed_trials_and_those_of_other_choices(tmp_path: Path) -> None:
    rng = random.Random(0)
    good = [trial(number, SPACE.sample(rng), number / 100) for number in range(FEWEST)]
    bad = [
        trial(20, SPACE.sample(rng), 0.0, failure="its loss became NaN"),
        trial(21, {**SPACE.largest, "blocks.0": 4}, 0.5),
        trial(22, {"blocks.0": 1}, 0.5),
    ]
    folder = run_of(tmp_path / "run", [*good, *bad])
    prior = read_prior(recipe("search.sampler=predictor", f"search.prior={folder}"), SPACE)
    assert prior == [(one.pick, one.value) for one in good]
    few = run_of(tmp_path / "few", good[1:])
    with pytest.raises(RecipeError, match=f"{FEWEST} candidates of this space or more .*'9 of 9 in"):
        read_prior(recipe("search.sampler=predictor", f"search.prior={few}"), SPACE)


def test_bad_input(tmp_path: Path) -> None:
    assert read_prior(recipe(), SPACE) == ()
    with pytest.raises(RecipeError, match=r"predicts scores.*search.sampler guided"):
        read_prior(recipe("search.sampler=guided", "search.prior=lspet"), bench_space("lspet"))
    for nothing in ("lspett", str(tmp_path), str(tmp_path / "missing")):
        with pytest.raises(RecipeError, match=r"a bench, or the run folder of a search.*lspet, synthetic"):
            read_prior(recipe("search.sampler=predictor", f"search.prior={nothing}"), SPACE)
    with pytest.raises(RecipeError, match="'0 of 216 in lspet'"):
        read_prior(recipe("search.sampler=predictor", "search.prior=lspet"), SPACE)
