"""The whole job, small: twice with one seed, killed and resumed, and on real pictures."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from compress.artefacts.artefact import load_artefact
from compress.artefacts.records import from_plain, to_plain
from compress.artefacts.results import Evaluation, NetworkResult, SearchedData, SearchResult, Trial, read_results
from compress.artefacts.run import open_run
from compress.data.loader import batches
from compress.errors import BudgetError, RunError
from compress.files import append_line
from compress.jobs.evaluate import evaluate
from compress.jobs.finalise import end_to_end
from compress.jobs.search.finalists import choose_finalists, compare, measured_front
from compress.jobs.search.search import search
from compress.jobs.search.sharing import check_sharing, scored_trials
from compress.jobs.search.task import prepared
from compress.jobs.search.trials import Limits, absolute, check_budget, cost_of, space_models, trained_weights
from compress.measure import whole_networks
from compress.measure.cost import Cost
from compress.measure.counting import count
from compress.measure.latency import Latency
from compress.measure.objective import DEFAULT_OBJECTIVES, CostObjective
from compress.measure.timing import Timing
from compress.nas.space import pick_key, size_of
from compress.nas.trial_book import TrialBook
from compress.pose.scoring import Score
from compress.progress import Silent
from compress.recipe import Budget, EvaluateRecipe, RecipeError, SearchRecipe, find, read_recipe
from compress.report.page import write_report

SPACE = Path(__file__).with_name("tiny_space.yaml")

SMALL = [
    f"search.space={SPACE}",
    "data.synthetic.train=32",
    "data.synthetic.search=6",
    "data.synthetic.val=6",
    "input_hw=[64, 64]",
    "supernet.epochs=2",
    "supernet.pool=4",
    "search.trials=8",
    "search.population=4",
    "search.calibration_pictures=16",
    "finalists.count=2",
    "finalists.training.epochs=1",
    "measurement.rounds=5",
    "measurement.parity_pictures=2",
    "baselines={hand_balance: {width: 16, blocks: [[1], [1, 0], [1, 0, 0], [1, 0, 0, 2]]}}",
]


ONE_ENGINE = "measurement.targets=[onnxruntime]"
"""For runs whose exports are not looked at: ncnn's take as long as the rest."""


def small_recipe(*overrides: str) -> SearchRecipe:
    return read_recipe(find("bhrnet", "recipes", RecipeError), SearchRecipe, [*SMALL, *overrides])


def command(run: Path, *overrides: str) -> list[str]:
    sets = [part for override in (*SMALL, *overrides) for part in ("--set", override)]
    return [sys.executable, "-m", "compress", "search", "bhrnet", "--run", str(run), *sets]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One latency table for all runs of this file, and none of the user's."""
    folder = tmp_path_factory.mktemp("cache")
    previous = os.environ.get("COMPRESS_CACHE")
    os.environ["COMPRESS_CACHE"] = str(folder)
    yield folder
    if previous is None:
        del os.environ["COMPRESS_CACHE"]
    else:
        os.environ["COMPRESS_CACHE"] = previous


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, SearchResult]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return folder, search(small_recipe(), folder, Silent())


def trials_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]


def scores_of(result: SearchResult) -> list[tuple[Score | None, ...]]:
    return [tuple(one.score for one in network.evaluations) for network in result.networks]


def test_everything_lies_in_the_run_folder(undisturbed: tuple[Path, SearchResult]) -> None:
    folder, result = undisturbed
    assert read_results(folder / "results.json", "search", SearchResult) == result
    assert {"recipe.yaml", "environment.json", "trials.jsonl", "latency_table.json", "finalists"} <= {
        path.name for path in folder.iterdir()
    }
    assert len(trials_of(folder)) == 8
    assert len(result.losses) == 2
    names = [network.name for network in result.networks]
    assert names[0] == "hand_balance"
    assert 2 <= len(names) <= 3  # the front of a moment's training may be a single network
    for network in result.networks:
        files = {path.name for path in (folder / network.folder).iterdir()}
        expected = {"architecture.yaml", "weights.safetensors", "model.onnx", "model.ncnn.param", "model.ncnn.bin"}
        assert files == {*expected, "pictures"}
        assert network.pictures
        assert all((folder / network.folder / name).is_file() for name in network.pictures)
        assert [export.engine for export in network.exports] == ["onnxruntime", "ncnn"]
        assert all(export.parity <= 1e-4 for export in network.exports)
        assert all(one.score and one.score.provenance == "short training" for one in network.evaluations)
        predicted, measured = network.predicted["onnxruntime"].ms, network.latency["onnxruntime"].ms
        assert result.prediction_error(network) == pytest.approx(predicted / measured - 1)
        assert sum(part.ms for part in network.times["onnxruntime"]) == pytest.approx(predicted)
        assert network.predicted["onnxruntime"].coverage == 1  # all kernels were timed here
    assert list(result.tables) == ["onnxruntime"]
    assert all(used.error and used.kernels for used in result.tables.values())


def test_every_time_says_how_it_was_obtained(undisturbed: tuple[Path, SearchResult]) -> None:
    _, result = undisturbed
    for network in result.networks:
        targets = {"onnxruntime": "onnxruntime, 1 thread", "ncnn": "ncnn, 1 thread"}
        assert {name: one.target for name, one in network.latency.items()} == targets
        assert {one.provenance for one in network.latency.values()} == {"measured"}
        assert {name: one.target for name, one in network.predicted.items()} == {"onnxruntime": "onnxruntime, 1 thread"}
        assert {one.provenance for one in network.predicted.values()} == {"predicted"}
        decodings = [one.decoding for one in network.evaluations]
        for latency in (*network.latency.values(), *decodings):
            assert latency is not None
            assert (latency.provenance, latency.clock) == ("measured", "reference")
    for trial in result.trials:
        assert [(name, one.provenance) for name, one in trial.cost.latency.items()] == [("onnxruntime", "predicted")]


def test_all_engines_stand_on_the_clock_of_the_table(
    undisturbed: tuple[Path, SearchResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the machine was half as fast while it measured, ratios to the reference are times of the table's clock."""
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[0], folder)
    (folder / "steps" / "measured.json").unlink()
    ratios: dict[str, float] = {}

    def timed(runners: Mapping[str, object], *arguments: object) -> dict[str, Timing]:
        ratios.update({name: 3.0 + number for number, name in enumerate(runners)})
        return {
            name: Timing(2 * ratio, ratio, 3 * ratio, ratio, 2 * ratio, 0, 0.01, 9) for name, ratio in ratios.items()
        }

    monkeypatch.setattr(whole_networks, "time_runners", timed)
    result = search(small_recipe(), folder, Silent())
    reference_ms = json.loads((folder / "latency_table.json").read_text())["reference_ms"]
    for network in result.networks:
        for engine, latency in network.latency.items():
            assert latency.ms == pytest.approx(ratios[f"{network.name} {engine}"] * reference_ms)
            assert latency.q3_ms == pytest.approx(1.5 * latency.ms)
            assert latency.count == 9


def test_finalists_rebuild_as_what_was_searched(undisturbed: tuple[Path, SearchResult]) -> None:
    folder, result = undisturbed
    for network in result.networks:
        artefact = load_artefact(folder / "finalists" / network.name)
        assert sum(p.numel() for p in artefact.module.parameters()) == network.params
        assert artefact.module(torch.zeros(1, 3, 64, 64))[0].shape == (1, 34, 16, 16)
        trial = result.trial_of(network)
        assert (trial.cost.params, trial.cost.macs) == (network.params, network.macs)


def test_accuracy_and_milliseconds_are_of_one_procedure(undisturbed: tuple[Path, SearchResult]) -> None:
    """One pass of the network and the decoding of its maps; beside it two, which evaluation scores alike."""
    folder, result = undisturbed
    for network in result.networks:
        first, other = network.evaluations
        assert (first.procedure, first.passes) == ("one pass", 1)
        assert (other.procedure, other.passes) == ("two passes", 2)
        for one in (first, other):
            assert one.decoding is not None
            assert one.end_to_end is not None
            expected_ms = one.passes * network.latency["onnxruntime"].ms + one.decoding.ms
            assert one.end_to_end.ms == pytest.approx(expected_ms)
    network = result.networks[0]
    for one, flip in zip(network.evaluations, (False, True), strict=True):
        recipe = EvaluateRecipe.model_validate({"decoding": {"flip_test": flip}})
        scored = evaluate(folder / "finalists" / network.name, recipe, Silent())
        assert one.score is not None
        assert (scored.procedure, scored.score.value) == (one.procedure, one.score.value)


def test_the_front_is_marked_among_the_trials(undisturbed: tuple[Path, SearchResult]) -> None:
    _, result = undisturbed
    points = [(trial.cost.predicted_ms, trial.value, trial.on_front) for trial in result.trials]
    for ms, ap, on_front in points:
        beaten = any(m <= ms and a >= ap and (m, a) != (ms, ap) for m, a, _ in points)
        assert on_front != beaten


def scored(*points: tuple[str, float, float]) -> list[Trial]:
    return [
        Trial(
            number,
            {"name": name},
            Cost(1, 1, (), {"onnxruntime": Latency(ms, "onnxruntime, 1 thread", "predicted")}),
            Score("AP", ap, None, "supernet", "synthetic", 6, {}),
        )
        for number, (name, ms, ap) in enumerate(points)
    ]


HAND = ("hand", 1.0, 0.5)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (1, ["level"]),  # no slower than the hand-made one
        (2, ["level", "best"]),
        (3, ["faster", "level", "best"]),  # at least a fifth faster
        (4, ["faster_2", "faster", "level", "best"]),  # then the second of each
        (5, ["faster_2", "faster", "level_2", "level", "best"]),
        (6, ["half", "faster_2", "faster", "level_2", "level", "best"]),  # of the hand-made one's time
        (7, ["half", "two_thirds", "faster_2", "faster", "level_2", "level", "best"]),
        (8, ["small", "half", "two_thirds", "faster_2", "faster", "level_2", "level", "best"]),  # then the front
    ],
)
def test_finalists_are_chosen_around_the_hand_made_networks(wanted: int, names: list[str]) -> None:
    trials = scored(
        HAND,
        ("small", 0.2, 0.26),
        ("poor", 0.1, 0.24),
        ("half", 0.5, 0.3),
        ("two_thirds", 0.66, 0.35),
        ("faster", 0.8, 0.45),
        ("faster_2", 0.7, 0.4),
        ("level", 0.95, 0.49),
        ("level_2", 0.9, 0.48),
        ("best", 2.0, 0.6),
        ("slow", 1.9, 0.3),
    )
    chosen = choose_finalists(trials, wanted, [{"name": "hand"}])
    assert [trial.pick["name"] for trial in chosen] == names


def test_the_best_of_a_single_kind_is_a_finalist_where_it_scores_nearly_as_much() -> None:
    """Within the hand-made one's time: `mixed` scores most; channels alone have 0.9 of that, blocks alone less."""
    kinds = {"mixed": "cb", "mixed_2": "cb", "channels": "c", "channels_2": "c", "over": "b", "blocks": "b", "hand": ""}
    trials = scored(
        HAND,
        ("mixed", 0.9, 0.4),
        ("mixed_2", 0.95, 0.39),
        ("channels", 0.97, 0.361),
        ("channels_2", 0.99, 0.3605),
        ("blocks", 0.9, 0.359),
        ("over", 1.1, 0.5),
    )
    for wanted, names in ((1, ["mixed"]), (2, ["mixed", "channels"])):
        chosen = choose_finalists(trials, wanted, [{"name": "hand"}], kinds=lambda trial: kinds[trial.pick["name"]])
        assert [trial.pick["name"] for trial in chosen] == names
    assert [trial.pick["name"] for trial in choose_finalists(trials, 2, [{"name": "hand"}])] == ["mixed", "over"]


def test_one_finalist_is_the_cheapest_that_scores_no_less() -> None:
    trials = scored(HAND, ("level", 1.0, 0.55), ("equal", 0.6, 0.5), ("slower", 0.7, 0.52), ("cheap", 0.5, 0.49))
    for wanted, names in ((2, ["equal", "level"]), (3, ["equal", "slower", "level"])):
        chosen = choose_finalists(trials, wanted, [{"name": "hand"}])
        assert [trial.pick["name"] for trial in chosen] == names


def test_finalists_are_no_larger_than_the_hand_made_one_in_any_objective() -> None:
    trials = scored(HAND, ("faster", 0.7, 0.4), ("level", 0.9, 0.45), ("best", 2.0, 0.6))
    params = {"hand": 10, "faster": 10, "level": 11, "best": 5}
    trials = [replace(one, cost=replace(one.cost, params=params[one.pick["name"]])) for one in trials]
    objectives = (CostObjective("end_to_end"), CostObjective("params"))
    chosen = choose_finalists(trials, 1, [{"name": "hand"}], objectives=objectives)
    assert [trial.pick["name"] for trial in chosen] == ["faster"]  # the more accurate one has more parameters
    chosen = choose_finalists(trials, 1, [{"name": "hand"}], objectives=[CostObjective("params")])
    assert [trial.pick["name"] for trial in chosen] == ["best"]


def test_the_front_follows_the_objectives() -> None:
    slow, quick = network("slow", "finalist", 0.5, 2.0, 0.1, 0.01), network("quick", "finalist", 0.4, 1.0, 5.0, 0.01)
    ncnn = {"ncnn": Latency(0.1, "ncnn, 1 thread", "measured"), **slow.latency}
    slow = replace(slow, latency=ncnn)
    assert measured_front([slow, quick], DEFAULT_OBJECTIVES, {}) == ("slow",)
    assert measured_front([slow, quick], [CostObjective("latency", "onnxruntime")], {}) == ("quick", "slow")
    # of a network that was not timed on ncnn nothing is known there
    assert measured_front([slow, quick], [CostObjective("latency", "ncnn")], {}) == ("slow",)


def test_without_hand_made_networks_the_finalists_spread_over_the_front() -> None:
    trials = scored(("a", 1.0, 0.1), ("b", 1.1, 0.2), ("c", 2.0, 0.3), ("d", 4.0, 0.4), ("worse", 3.0, 0.2))
    assert [trial.pick["name"] for trial in choose_finalists(trials, 3, [])] == ["a", "c", "d"]


def test_a_baseline_over_the_budget_stands_for_the_budget() -> None:
    """Of the given network's time all candidates are below half: around the budget, 0.4, they are told apart."""
    trials = scored(HAND, ("close", 0.4, 0.4), ("close_2", 0.39, 0.38), ("fifth", 0.3, 0.3), ("least", 0.05, 0.05))
    chosen = choose_finalists(trials, 2, [{"name": "hand"}], least_share=0.0, most=[0.4])
    assert [trial.pick["name"] for trial in chosen] == ["fifth", "close"]
    chosen = choose_finalists(trials, 2, [{"name": "hand"}], lambda trial: 0.1, least_share=0.0, most=[0.4])
    assert [trial.pick["name"] for trial in chosen] == ["fifth", "close"]
    chosen = choose_finalists(trials, 2, [{"name": "hand"}], least_share=0.0)
    assert [trial.pick["name"] for trial in chosen] == ["close_2", "close"]


def test_what_is_not_tuned_yet_may_score_less_than_half() -> None:
    trials = scored(HAND, ("weak", 0.5, 0.1), ("nothing", 0.3, 0.0))
    assert choose_finalists(trials, 3, [{"name": "hand"}]) == []
    chosen = choose_finalists(trials, 3, [{"name": "hand"}], least_share=0.0)
    assert [trial.pick["name"] for trial in chosen] == ["weak"]


def test_hand_made_networks_alone_give_no_finalist() -> None:
    assert choose_finalists(scored(HAND), 3, [{"name": "hand"}]) == []


def random_trials(rng: random.Random) -> tuple[list[Trial], list[dict[str, Any]]]:
    """Trials and the hand-made ones among them, from none to three, of scores that are often poor or zero."""
    names = [f"t{n}" for n in range(rng.randint(1, 30))]
    trials = scored(*((name, rng.uniform(0.2, 5), max(0.0, rng.gauss(0.2, 0.25))) for name in names))
    return trials, [dict(trial.pick) for trial in rng.sample(trials, min(len(trials), rng.randint(0, 3)))]


def test_finalists_of_random_searches() -> None:
    rng = random.Random(0)
    none = 0
    for _ in range(500):
        trials, hand_made = random_trials(rng)
        most, wanted = rng.choice([0.0, 5.0]), rng.randint(1, 6)
        decoding = {trial.number: rng.uniform(0, most) for trial in trials}
        chosen = choose_finalists(trials, wanted, hand_made, lambda trial, known=decoding: known[trial.number])
        whole = {trial.number: trial.cost.predicted_ms + decoding[trial.number] for trial in trials}
        baselines = [trial for trial in trials if trial.pick in hand_made]
        free = [trial for trial in trials if trial.pick not in hand_made]
        least = max((trial.value for trial in baselines), default=0.0) / 2
        good = [trial for trial in free if trial.value >= least and (trial.value or not least)]
        none += not chosen
        assert bool(chosen) == bool(good)
        assert len(chosen) <= wanted
        assert all(trial in good for trial in chosen)
        assert len({trial.pick["name"] for trial in chosen}) == len(chosen)
        assert chosen == sorted(chosen, key=lambda trial: whole[trial.number])
        for baseline in baselines if good and wanted >= len(baselines) else ():
            as_fast = [trial for trial in good if whole[trial.number] <= whole[baseline.number]]
            best = max(as_fast, key=lambda trial: trial.value, default=None)
            aimed = best or min(good, key=lambda trial: whole[trial.number])
            assert aimed in chosen
    assert none > 20


def test_a_fifth_faster_counts_the_decoding_too() -> None:
    """A network of half the baseline's time is no fifth faster where both take nine tenths in decoding."""
    trials = scored(("hand", 1.0, 0.5), ("half", 0.5, 0.4), ("level", 1.0, 0.45), ("best", 2.0, 0.6))
    hand = [{"name": "hand"}]
    assert [trial.pick["name"] for trial in choose_finalists(trials, 3, hand)] == ["half", "level", "best"]
    tenth = choose_finalists([*trials, *scored(("second", 0.9, 0.44))], 3, hand, lambda trial: 9.0)
    assert [trial.pick["name"] for trial in tenth] == ["second", "level", "best"]


def costing(macs: int, params: int, **ms: float) -> Cost:
    return Cost(
        macs=macs,
        params=params,
        memory_bytes=0,
        latency={name: Latency(one, name, "predicted") for name, one in ms.items()},
    )


@pytest.mark.parametrize(
    ("budget", "most"),
    [
        ({}, {}),
        ({"latency": "150%", "macs": 7}, {"onnxruntime": 4.5, "macs": 7}),
        ({"latency": "50% of slow"}, {"onnxruntime": 1.5}),
        ({"latency": "50% of fast"}, {"onnxruntime": 1.0}),
        ({"latency": {"ncnn": "50%", "onnxruntime": "1.25 ms"}}, {"ncnn": 2.5, "onnxruntime": 1.25}),
        ({"params": "110% of slow", "macs": "50%"}, {"params": 22.0, "macs": 50}),
        ({"size": "50%", "macs": "1.5M"}, {"size": 60.0, "macs": 1.5e6}),
    ],
)
def test_shares_are_of_the_baselines(budget: dict[str, Any], most: dict[str, float]) -> None:
    """Of the costliest one where none is named, by each quantity and target for itself."""
    baselines = {
        "fast": costing(100, 30, onnxruntime=2.0, ncnn=5.0),
        "slow": costing(90, 20, onnxruntime=3.0, ncnn=4.0),
    }
    limits = absolute(Budget.model_validate(budget), baselines, "onnxruntime")
    assert limits.most == pytest.approx(most)
    for name, limit in most.items():
        within = {"macs": 1, "params": 1, "onnxruntime": 0.1, "ncnn": 0.1}
        for cost, over in ((limit * 1.01, True), (limit, False)):
            figures = {**within, **({"params": cost / 4} if name == "size" else {name: cost})}
            assert limits.exceeded(costing(**figures)) is over
            assert ((limits.excess(costing(**figures)) or 0.0) > 0) is over


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"latency": 1.5}, "write 1.5 ms, or 150%"),
        ({"latency": "much%"}, "a limit of latency is written 50%"),
        ({"latency": "-2 ms"}, "a limit of latency"),
        ({"latency": "0%"}, "above 0"),
        ({"macs": "3 ms"}, "a limit of macs"),
        ({"size": "3 of slow"}, "a limit of size"),
    ],
)
def test_a_limit_that_says_nothing_is_refused(budget: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Budget.model_validate(budget)


def network(name: str, role: str, ap: float, ms: float, decode_ms: float, uncertainty: float) -> NetworkResult:
    target = "onnxruntime, 1 thread"
    latency = Latency(ms, target, "measured", uncertainty=uncertainty, reliable=uncertainty <= 0.03)
    decoding = Latency(decode_ms, "decoder", "measured", uncertainty=0.01)
    score = Score("AP", ap, 0.01, "short training", "synthetic", 6, {})
    evaluation = Evaluation("one pass", 1, score, decoding, end_to_end(1, latency, decoding))
    data = {
        "name": name,
        "role": role,
        "folder": name,
        "architecture": {},
        "edits": [],
        "params": 1,
        "macs": 1,
        "uncounted": [],
        "exports": [],
        "refused": {},
        "evaluations": [to_plain(evaluation)],
        "latency": {"onnxruntime": to_plain(latency)},
    }
    return from_plain(NetworkResult, data, "test")


def test_random_finalists_are_compared_end_to_end() -> None:
    rng = random.Random(4)
    seen = set()
    for _ in range(1000):
        networks = [
            network(
                f"n{n}",
                "finalist" if n else "baseline",
                max(0.0, rng.gauss(0.1, 0.1)),
                rng.uniform(0.5, 2),
                rng.choice([0.1, 5.0]),
                rng.choice([0.005, 0.02, 0.2]),
            )
            for n in range(4)
        ]
        base, finalists = networks[0], networks[1:]
        ms = {one.name: one.evaluations[0].end_to_end.ms for one in networks if one.evaluations[0].end_to_end}
        ap = {one.name: one.score.value or 0.0 for one in networks if one.score}
        reliable = {one.name: one.latency["onnxruntime"].reliable for one in networks}
        found = compare(base, networks)
        level, faster = found.at_its_latency, found.at_its_accuracy
        assert bool(level) == any(ms[one.name] <= ms["n0"] for one in finalists)
        assert bool(faster) == any(ap[one.name] >= ap["n0"] for one in finalists)
        if level:
            assert ms[level.network] <= ms["n0"]
            assert (level.verdict == "worthless") == (level.score <= 0.02)
        if faster:
            verdict = faster.speed_up.verdict
            seen.add(verdict)
            assert faster.speed_up.factor == pytest.approx(ms["n0"] / ms[faster.network])
            if verdict in ("faster", "slower"):
                assert ap[faster.network] > 0.02
                assert reliable["n0"]
                assert reliable[faster.network]
    assert seen == {"worthless", "unsteady", "no difference", "faster", "slower"}


def test_the_front_goes_by_end_to_end_time() -> None:
    """A network of half the time whose maps take long to decode is behind one that is better and decoded at once."""
    quick, good = network("quick", "finalist", 0.4, 1.0, 9.0, 0.01), network("good", "finalist", 0.5, 2.0, 0.5, 0.01)
    assert measured_front([quick, good], DEFAULT_OBJECTIVES, {}) == ("good",)
    slow = network("slow", "finalist", 0.6, 9.0, 0.5, 0.01)
    assert measured_front([slow, quick, good], DEFAULT_OBJECTIVES, {}) == ("good", "slow")


def test_end_to_end_is_all_passes_and_the_decoding() -> None:
    network_ms = Latency(1.0, "onnxruntime, 1 thread", "measured", uncertainty=0.03, reliable=True)
    found = end_to_end(2, network_ms, Latency(4.0, "decoder", "measured", uncertainty=0.02))
    assert found.ms == 6.0
    assert found.uncertainty == pytest.approx((0.06**2 + 0.08**2) ** 0.5 / 6)


def test_one_seed_gives_the_same_candidates_and_scores(undisturbed: tuple[Path, SearchResult], tmp_path: Path) -> None:
    folder, result = undisturbed
    again = search(small_recipe(ONE_ENGINE), tmp_path / "again", Silent())
    assert trials_of(tmp_path / "again") == trials_of(folder)
    assert again.losses == result.losses
    assert scores_of(again) == scores_of(result)


MOMENTS = ("steps/supernet.pt", "trials.jsonl", "steps/finalists/hand_balance.json")


def test_killed_and_resumed(undisturbed: tuple[Path, SearchResult], tmp_path: Path) -> None:
    """One run that is killed at each of the moments and goes on from there."""
    folder, result = undisturbed
    run = tmp_path / "run"
    before: list[dict[str, Any]] = []
    for moment in MOMENTS:
        assert not (run / moment).exists()
        process = subprocess.Popen(command(run, ONE_ENGINE), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not (run / moment).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (run / moment).exists()
        assert not (run / "results.json").exists()
        after = trials_of(run) if (run / "trials.jsonl").exists() else []
        assert after[: len(before)] == before
        before = after
    resumed = search(small_recipe(ONE_ENGINE), run, Silent())
    assert trials_of(run)[: len(before)] == before
    assert trials_of(run) == trials_of(folder)
    assert scores_of(resumed) == scores_of(result)


def test_a_finished_run_is_not_run_again(undisturbed: tuple[Path, SearchResult]) -> None:
    folder, result = undisturbed
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "finalists").rglob("*") if path.is_file()}
    again = search(small_recipe(), folder, Silent())
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert again.networks == result.networks


def test_another_process_scores_trials_of_the_run(
    undisturbed: tuple[Path, SearchResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them here, as this one waits before it asks: with table, supernet and recipe of the run folder."""
    folder, result = undisturbed
    for name in ("recipe.yaml", "latency_table.json", "steps/supernet.pt"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, tmp_path / "run" / name)
    task = prepared(small_recipe("search.workers=2"), tmp_path / "run", Silent(), None)
    real, seen = TrialBook.ask, []

    def waiting(book: TrialBook) -> Any:
        deadline = time.monotonic() + 240
        while len(book.records()) < 8 and time.monotonic() < deadline:
            time.sleep(0.1)
        seen.append(len(book.records()))
        return real(book)

    monkeypatch.setattr(TrialBook, "ask", waiting)
    with open_run(tmp_path / "run", task.recipe):
        models = space_models(task)
        trials = scored_trials(task, models, trained_weights(task)[0], check_budget(task, models))
    assert seen == [len(trials)] == [8]
    assert [trial.number for trial in trials] == list(range(8))
    assert len({pick_key(trial.pick) for trial in trials}) == 8
    assert trials_of(tmp_path / "run") == [to_plain(replace(trial, on_front=None)) for trial in trials]
    alone = {pick_key(trial.pick): trial for trial in result.trials}
    common = [(alone[key], trial) for trial in trials if (key := pick_key(trial.pick)) in alone]
    assert len(common) >= 4  # the first ones are the same
    for one, other in common:
        assert other.value == pytest.approx(one.value, abs=1e-4)
        assert other.cost == one.cost


def test_what_several_processes_cannot_do_is_told_before_any_work(tmp_path: Path) -> None:
    for override, said in (
        ("search.zero_cost.proxy=naswot", "compares proposals in one process"),
        ("measurement.targets=[torch]", "timed whole"),
        ("search.storage=trials", "postgresql://USER@HOST/DATABASE"),
    ):
        with pytest.raises(RecipeError, match=said):
            search(small_recipe("search.workers=2", override), tmp_path / "run", Silent())
    task = prepared(small_recipe("search.workers=2"), tmp_path / "run", Silent(), None)
    with pytest.raises(RecipeError, match="opens the network itself, by its name"):
        check_sharing(task, torch.nn.Identity())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["trials.jsonl", "seconds.jsonl"])
def test_a_broken_line_is_told_before_any_work(
    undisturbed: tuple[Path, SearchResult], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[0], folder)
    first, *rest = (folder / name).read_text().splitlines()
    (folder / name).write_text("\n".join([first, "{broken", *rest]) + "\n")
    with pytest.raises(RunError, match=rf"{name}, line 2: .*delete this line"):
        search(small_recipe(), folder, Silent())


def test_a_line_of_another_version_is_one_line(undisturbed: tuple[Path, SearchResult], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed[0], folder)
    cost = {"params": 1, "macs": 1, "predicted_ms": 1.0}
    append_line(folder / "trials.jsonl", {"number": 8, "pick": {}, "cost": cost, "ap": 0.1})
    with pytest.raises(RunError, match=r"trials.jsonl, line 9: .*score: field required.*delete this line") as caught:
        search(small_recipe(), folder, Silent())
    assert "\n" not in str(caught.value)


def test_run_folder_of_another_recipe(undisturbed: tuple[Path, SearchResult]) -> None:
    folder, _ = undisturbed
    before = (folder / "recipe.yaml").read_text()
    with pytest.raises(RunError, match="belongs to one recipe"):
        search(small_recipe("seed=2"), folder, Silent())
    assert (folder / "recipe.yaml").read_text() == before


def test_budget_that_nothing_meets(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"tightest seen.* ms on onnxruntime, ") as caught:
        search(small_recipe("search.budget.macs=1000", "search.trials=2"), tmp_path / "run", Silent())
    assert "\n" not in str(caught.value)


def test_budget_is_kept(tmp_path: Path) -> None:
    few = ("search.trials=4", "finalists.count=1", "supernet.epochs=1", ONE_ENGINE)
    result = search(small_recipe("search.budget={macs: 12300000}", "baselines={}", *few), tmp_path / "run", Silent())
    assert all(trial.cost.macs <= 12_300_000 for trial in result.trials)
    assert result.comparisons == ()


class Recorder(Silent):
    """Remembers its messages."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def test_a_baseline_over_the_budget_is_told_and_scored_all_the_same(tmp_path: Path) -> None:
    progress = Recorder()
    recipe = small_recipe(
        "search.budget={params: 350000}", "search.trials=3", "finalists.count=1", "supernet.epochs=1", ONE_ENGINE
    )
    result = search(recipe, tmp_path / "run", progress)
    assert any(line.startswith("baseline hand_balance is over the budget") for line in progress.said)
    assert result.over_budget == ("hand_balance",)
    baseline = result.networks[0]
    assert baseline.params > 350_000
    own = result.trial_of(baseline)
    assert own.score.value is not None
    assert all(trial.cost.params <= 350_000 for trial in result.trials if trial is not own)


def test_a_share_needs_a_baseline(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"search\.budget\.latency.*150%.*give baselines, or an absolute limit"):
        search(small_recipe("search.budget={latency: 150%}", "baselines={}"), tmp_path / "run", Silent())
    with pytest.raises(RecipeError, match=r"search\.budget.*of a baseline's cost.*did you mean 'hand_balance'"):
        search(small_recipe("search.budget={macs: 90% of hand_balanc}"), tmp_path / "run", Silent())
    with pytest.raises(RecipeError, match=r"one of measurement.targets.*'nccn'"):
        search(small_recipe("search.budget={latency: {nccn: 90%}}"), tmp_path / "run", Silent())


REAL = Path(os.environ.get("COMPRESS_REAL_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


@pytest.mark.skipif(not (REAL / "coco").is_dir(), reason="real COCO pictures are not on this machine")
def test_on_real_coco_pictures(tmp_path: Path) -> None:
    overrides = [
        ONE_ENGINE,
        "data.kind=coco",
        f"data.disk.folder={REAL / 'coco'}",
        "data.disk.search=8",
        "search.trials=3",
        "finalists.count=1",
        "supernet.epochs=1",
    ]
    result = search(small_recipe(*overrides), tmp_path / "run", Silent())
    assert result.data == SearchedData("coco", "AP", train=38, search=8, val=46, people=122)
    assert all(one.score and 0 <= (one.score.value or 0.0) <= 1 for one in result.networks)


def test_a_search_for_another_device_predicts_every_time(
    undisturbed: tuple[Path, SearchResult], tmp_path: Path
) -> None:
    """Its table is this machine's, called otherwise. The second target is this machine, measured."""
    table = json.loads((undisturbed[0] / "latency_table.json").read_text())
    for device, threads in (("phone", 8), ("tablet", 4)):
        (tmp_path / f"{device}.json").write_text(json.dumps({**table, "device": device, "threads": threads}))
    phone, tablet = (f"'onnxruntime@{tmp_path / device}.json'" for device in ("phone", "tablet"))
    targets = f"measurement.targets=[{phone}, onnxruntime, {tablet}]"
    recipe = small_recipe(targets, "search.trials=3", "finalists.count=1", "supernet.epochs=1")
    result = search(recipe, tmp_path / "run", Silent())
    assert result.target.threads == 8
    tables = [one.table for one in result.run.targets]
    assert tables == [str(tmp_path / "phone.json"), None, str(tmp_path / "tablet.json")]
    assert result.decoding == {}
    assert result.tables["onnxruntime@phone"].error is None
    for network in result.networks:
        promised = network.latency["onnxruntime@phone"]
        assert (promised.provenance, promised) == ("predicted", network.predicted["onnxruntime@phone"])
        assert network.latency["onnxruntime"].provenance == "measured"
        other = network.latency["onnxruntime@tablet"]  # no candidate was priced there
        assert (other.provenance, other.ms) == ("predicted", pytest.approx(promised.ms))
        assert result.prediction_error(network) is None
        for evaluation in network.evaluations:
            assert evaluation.decoding is None
            assert evaluation.end_to_end is not None
            assert evaluation.end_to_end.ms == pytest.approx(evaluation.passes * promised.ms)
            assert evaluation.end_to_end.provenance == "predicted"
    assert any("Nothing was measured on onnxruntime@phone" in caveat for caveat in result.caveats)
    write_report("search", result, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "(predicted from another device&#39;s table): all networks" in " ".join(page.split())
    assert ">finalist, predicted<" in page
    (tmp_path / "phone.json").unlink()  # the run has its own copy, and its record
    assert read_results(tmp_path / "run" / "results.json", "search", SearchResult) == result


def test_a_search_on_an_engine_that_is_timed_whole(tmp_path: Path) -> None:
    recipe = small_recipe("measurement.targets=[torch]", "search.trials=2", "finalists.count=1", "supernet.epochs=1")
    result = search(recipe, tmp_path / "run", Silent())
    assert result.tables == {}
    assert all(trial.cost.latency["torch"].provenance == "measured" for trial in result.trials)
    assert all(list(network.latency) == ["torch"] for network in result.networks)
    write_report("search", result, tmp_path / "run")
    assert "each measured whole" in (tmp_path / "run" / "report.html").read_text()


def single_people(folder: Path) -> Path:
    """Sixteen pictures of noise with one person each, in LSP's form: 14 joints, no boxes."""
    rng = np.random.default_rng(0)
    for name in ("train", "val"):
        (folder / name).mkdir(parents=True)
        images, people = [], []
        for number in range(1, 9):
            file = f"{number}.png"
            cv2.imwrite(str(folder / name / file), rng.integers(0, 256, (80, 60, 3), dtype=np.uint8))
            images.append({"id": number, "file_name": file, "height": 80, "width": 60})
            joints = [value for _ in range(14) for value in (int(rng.integers(5, 55)), int(rng.integers(5, 75)), 2)]
            person = {"id": number, "image_id": number, "category_id": 1, "keypoints": joints, "num_keypoints": 14}
            people.append({**person, "bbox": [2, 2, 56, 76], "area": 4000, "iscrowd": 0})
        record = {"images": images, "annotations": people, "categories": [{"id": 1, "name": "person"}]}
        (folder / f"{name}.json").write_text(json.dumps(record))
    return folder


def test_single_people_are_searched_by_pck(tmp_path: Path) -> None:
    """A search's score is the data's own, from the supernet to the finalists, and its report says which."""
    space = tmp_path / "space.yaml"
    file = yaml.safe_load(SPACE.read_text())
    file["fixed"] |= {"head": "heatmaps", "keypoints": 14}
    del file["fixed"]["head_filters"]
    space.write_text(yaml.safe_dump(file))
    training = {"epochs": 1, "batch_size": 4, "learning_rate": 0.007, "loss": {"heatmap": 100}}
    written = {
        "job": "search",
        "input_hw": [64, 64],
        "data": {"kind": "lsp", "disk": {"folder": str(single_people(tmp_path / "lsp")), "search": 4}},
        "measurement": {"targets": ["onnxruntime"], "rounds": 5},
        "supernet": training,
        "search": {"space": str(space), "trials": 3, "calibration_pictures": 8, "budget": {"latency": "100 ms"}},
        "finalists": {"count": 1, "training": training},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(written))
    recipe = read_recipe(tmp_path / "recipe.yaml", SearchRecipe, [])
    result = search(recipe, tmp_path / "run", Silent())
    assert (result.data.kind, result.data.metric) == ("lsp", "PCK")
    assert {trial.score.metric for trial in result.trials} == {"PCK"}
    assert all(0 <= (trial.score.value or 0.0) <= 1 for trial in result.trials)
    assert {one.score.metric for network in result.networks for one in network.evaluations if one.score} == {"PCK"}
    write_report("search", result, tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "PCK" in page
    assert ">AP<" not in page


def test_settings_of_another_approach_are_told_before_any_work(tmp_path: Path) -> None:
    for section in ("supernet", "finalists.training"):
        with pytest.raises(RecipeError, match=rf"recipe: {section}\.person_augment: .*does not read this key"):
            search(small_recipe(f"{section}.person_augment={{rotation_deg: 5}}"), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()


def test_beyond_a_limit_further_targets_are_not_priced() -> None:
    """Some engines tell kernels from an export alone, which takes seconds; the candidate is refused anyway."""
    asked: list[str] = []

    def model(name: str, ms: float) -> Any:
        def latency(*_: object) -> Latency:
            asked.append(name)
            return Latency(ms, name, "predicted")

        return SimpleNamespace(target=SimpleNamespace(engine=name), latency=latency)

    task: Any = SimpleNamespace(
        candidates=SimpleNamespace(build=lambda _: torch.nn.Conv2d(3, 4, 1), input_hw=lambda _: (8, 8)),
        for_engine=lambda network, _: network,
    )
    models: Any = {"onnxruntime": model("onnxruntime", 2.0), "mnn": model("mnn", 3.0), "ncnn": model("ncnn", 9.0)}
    for limits, names in (
        (None, ["onnxruntime", "mnn", "ncnn"]),
        (Limits({"onnxruntime": 2.5}), ["onnxruntime", "mnn", "ncnn"]),
        (Limits({"onnxruntime": 1.5}), ["onnxruntime"]),
        (Limits({"macs": 700}), ["onnxruntime"]),  # 12 weights at 64 places; the first target is always told
        (Limits({"macs": 800, "mnn": 2.0}), ["onnxruntime", "mnn"]),
    ):
        asked.clear()
        cost = cost_of(task, {}, models, limits)
        assert asked == list(cost.latency) == names
        assert cost.macs == 768


def test_input_sizes_are_searched(tmp_path: Path) -> None:
    """The supernet's batches are of all sizes in turn; a candidate is priced, scored, tuned, exported and measured at
    its own."""
    space = yaml.safe_load(SPACE.read_text())
    space["choices"] = {"blocks.3.0": [1, 2], "input_hw": ["32x64", "64x64"]}
    file = tmp_path / "space.yaml"
    file.write_text(yaml.safe_dump(space))
    hand = "width: 16, blocks: [[1], [1, 0], [1, 0, 0], [1, 0, 0, 2]]"
    baselines = f"baselines={{hand_balance: {{{hand}}}, half: {{{hand}, input_hw: 32x64}}}}"
    overrides = (f"search.space={file}", ONE_ENGINE, "search.trials=4", "finalists.count=2", baselines)
    task = prepared(small_recipe(*overrides), tmp_path / "run", Silent(), None)
    drawn = batches(task.samples(task.recipe.supernet), batch_size=8, epoch=0, seed=1)
    assert [tuple(batch.images.shape[2:]) for batch in drawn] == [(32, 64), (64, 64)] * 2
    result = search(small_recipe(*overrides), tmp_path / "run", Silent())
    trials = {(trial.pick["blocks.3.0"], trial.pick["input_hw"]): trial for trial in result.trials}
    assert len(trials) == 4
    for blocks in (1, 2):
        small, large = trials[blocks, "32x64"].cost, trials[blocks, "64x64"].cost
        assert small.params == large.params
        assert 2 * small.macs == large.macs
        assert small.predicted_ms < large.predicted_ms
    sizes = {network.name: size_of(str(result.trial_of(network).pick["input_hw"])) for network in result.networks}
    assert (sizes["hand_balance"], sizes["half"]) == ((64, 64), (32, 64))
    assert set(result.decoding) == {"32x64", "64x64"}
    assert set(sizes.values()) == {(32, 64), (64, 64)}
    for network in result.networks:
        size = sizes[network.name]
        folder = tmp_path / "run" / network.folder
        artefact = load_artefact(folder)
        assert network.input_hw == artefact.input_hw == size
        assert network.macs == count(artefact.module, size).macs
        (image,) = onnxruntime.InferenceSession(folder / "model.onnx").get_inputs()
        assert image.shape == [1, 3, *size]
        scored = evaluate(folder, EvaluateRecipe.model_validate({"decoding": {"flip_test": False}}), Silent())
        assert scored.score == network.score  # on the same pictures, whatever the input size
    small_ones = [one for one in result.networks if sizes[one.name] == (32, 64)]
    assert {one.latency["onnxruntime"].provenance for one in small_ones} == {"measured"}
    write_report("search", result, tmp_path / "run")
    assert "input_hw" in (tmp_path / "run" / "report.html").read_text()


def test_under_torchrun_both_processes_train(undisturbed: tuple[Path, SearchResult], tmp_path: Path) -> None:
    """Supernet and finalists, in lockstep; killed while it searches, it goes on. Batch norms see parts of a batch, so
    that scores are others than those of one process, but trials and networks are as many."""
    folder = tmp_path / "run"
    _, alone = undisturbed
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    words = [sys.executable, *launcher, *command(folder, ONE_ENGINE)[2:], "--json", "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begun = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (folder / "trials.jsonl").exists() and begun.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    begun.terminate()
    _, said = begun.communicate()
    assert (folder / "trials.jsonl").exists(), said
    supernet = (folder / "steps" / "supernet.pt").read_bytes()
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr  # 3: none of these few candidates is a finalist
    result = from_plain(SearchResult, json.loads(done.stdout)["result"], "stdout")
    assert (folder / "steps" / "supernet.pt").read_bytes() == supernet
    assert len(result.trials) == len(alone.trials)
    assert result.losses == pytest.approx(alone.losses, rel=0.2)
    assert len(result.losses) == len(alone.losses)
    for network in result.networks:
        assert load_artefact(folder / network.folder).architecture
        assert network.score is not None


def test_workers_and_torchrun_do_not_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = prepared(small_recipe("search.workers=2"), tmp_path / "run", Silent(), None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="start no workers"):
        check_sharing(task, None)
