"""What a search may know before its first trial."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from optuna.study import StudyDirection

from compress.artefacts.records import to_plain
from compress.artefacts.results import Trial
from compress.artefacts.run import Run
from compress.errors import RecipeError
from compress.jobs.search.prior import FEWEST, kept, read_prior
from compress.measure.cost import Cost
from compress.nas.bench import bench, bench_space
from compress.nas.predictor_sampler import Columns, Learned, PredictorSampler
from compress.nas.sampler import Sampler
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
    unfinished = folder / "trials.jsonl"
    unfinished.write_text(unfinished.read_text() + '{"number": 23, "pi')  # another process is writing it
    before = unfinished.read_bytes()
    prior = read_prior(recipe("search.sampler=predictor", f"search.prior={folder}"), SPACE)
    assert prior == [(one.pick, one.value) for one in good]
    assert unfinished.read_bytes() == before
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
    broken = run_of(tmp_path / "broken", [])
    (broken / "trials.jsonl").write_text("{}\n")
    with pytest.raises(RecipeError, match=r"trials.jsonl, line 1"):
        read_prior(recipe("search.sampler=predictor", f"search.prior={broken}"), SPACE)


def test_a_run_keeps_the_prior_that_it_began_with(tmp_path: Path) -> None:
    run, first = Run(tmp_path), [(SPACE.smallest, 0.1), (SPACE.largest, 0.3)]
    assert kept(run, first) == first
    assert kept(run, [*first, (SPACE.largest, 0.4)]) == first


def test_a_search_proposes_by_its_prior_after_the_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prior says that more blocks on 2 are better, whatever they cost; one baseline and two random picks come
    first."""
    asked_with: list[Learned] = []
    before = PredictorSampler._before

    def seen(self: PredictorSampler, place: int, way: StudyDirection, columns: Columns) -> object:
        asked_with.append(self._prior[place])
        return before(self, place, way, columns)

    monkeypatch.setattr(PredictorSampler, "_before", seen)
    rng = random.Random(1)
    prior = [(pick, float(pick["blocks.2"])) for pick in (SPACE.sample(rng) for _ in range(40))]
    baselines, costs = [SPACE.smallest], [lambda picks: np.array([1.0 + sum(pick.values()) for pick in picks])]
    sampler = Sampler(SPACE, "predictor", population=20, seed=1, baselines=baselines, costs=costs, prior=prior)
    picks = []
    for number in range(5):
        asked, pick = sampler.ask()
        picks.append(pick)
        sampler.tell(asked, [1.0 + sum(pick.values())], 0.1 * pick["blocks.2"])
        assert len(asked_with) == max(0, number - 2)
    assert picks[0] == SPACE.smallest
    assert all(one == prior for one in asked_with)
    assert max(pick["blocks.2"] for pick in picks[3:]) == 3
