"""Proposals that are passed over, and what the report says of the proxy."""

import math
import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from scipy.stats import linregress
from torch import nn

from compress.artefacts.results import RungScore, Trial, TrialTraining
from compress.artefacts.run import Run
from compress.errors import RunError
from compress.jobs.search import prefilter
from compress.jobs.search.prefilter import FEWEST, LIKE, Prefilter, proxy_agreement, read_proxies
from compress.jobs.search.task import Calibration, Task
from compress.measure.cost import Cost
from compress.measure.latency import Latency
from compress.measure.objective import DEFAULT_OBJECTIVES
from compress.nas.space import Pick
from compress.nas.zero_cost import PROXIES
from compress.pose.scoring import Score
from compress.recipe import ZeroCost
from compress.report.search import proxy_text


def task_of(folder: Path, **settings: object) -> Task:
    zero_cost = ZeroCost.model_validate({"proxy": "synflow", **settings})
    search = SimpleNamespace(zero_cost=zero_cost, objectives=DEFAULT_OBJECTIVES)
    return cast(Task, SimpleNamespace(recipe=SimpleNamespace(search=search), run=Run(folder)))


def cost(ms: float, macs: int = 1) -> Cost:
    return Cost(1, macs, (), {"onnxruntime": Latency(ms, "onnxruntime, 1 thread", "predicted")}, memory_bytes=1)


PICTURES = cast(Calibration, SimpleNamespace(images=lambda pick: [torch.zeros(20, 3, *pick.get("size", (4, 4)))]))


def test_proposals_below_the_quantile_of_like_cost_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures grow with the cost; without regard to it only slow ones would pass. Resumed, all is decided alike."""
    rng = random.Random(0)
    proposals = [({"number": number}, rng.uniform(1, 9)) for number in range(120)]
    values = {number: 10 * math.log(ms) + rng.random() for number, (_, ms) in enumerate(proposals)}
    asked: list[int] = []

    def value(task: Task, pick: Pick, pictures: Calibration) -> float:
        asked.append(pick["number"])
        return values[pick["number"]]

    monkeypatch.setattr(prefilter, "proxy_value", value)
    first = Prefilter(task_of(tmp_path, quantile=0.5), PICTURES)
    passed = [first.passes(pick, cost(ms), always=number == 50) for number, (pick, ms) in enumerate(proposals)]
    for number, (_, ms) in enumerate(proposals):
        if number in (50, *range(FEWEST)):
            assert passed[number]
            continue
        before = sorted(range(number), key=lambda other: abs(math.log(proposals[other][1] / ms)))[:LIKE]
        line = linregress([math.log(proposals[other][1]) for other in before], [values[other] for other in before])
        above = {other: values[other] - line.slope * math.log(proposals[other][1]) for other in (number, *before)}
        assert passed[number] == (sum(above[other] < above[number] for other in before) >= len(before) / 2)
    assert 30 < sum(passed) < 90
    small = [one for one, (_, ms) in zip(passed, proposals, strict=True) if ms < 3]
    assert 0.3 < sum(small) / len(small) < 0.9
    again = Prefilter(task_of(tmp_path, quantile=0.5), PICTURES)
    assert passed == [again.passes(pick, cost(ms), always=n == 50) for n, (pick, ms) in enumerate(proposals)]
    assert again.passes(proposals[3][0], cost(1.0), always=False) == passed[3]
    assert asked == list(range(120))


def test_without_a_proxy_or_a_quantile_all_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefilter, "proxy_value", lambda task, pick, pictures: -float(pick["number"]))
    none = Prefilter(task_of(tmp_path, proxy=None), PICTURES)
    all_pass = Prefilter(task_of(tmp_path, quantile=0), PICTURES)
    for number in range(30):
        assert none.passes({"number": number}, cost(1.0), always=False)
        assert all_pass.passes({"number": number}, cost(1.0), always=False)
    assert len(read_proxies(Run(tmp_path))) == 30  # of the second alone


def test_a_proxy_sees_pictures_of_the_proposals_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def shape(network: nn.Module, images: torch.Tensor) -> float:
        seen.append(tuple(images.shape))
        return 1.0

    monkeypatch.setitem(PROXIES, "synflow", shape)
    task = task_of(tmp_path)
    task.recipe.seed, task.candidates = 1, SimpleNamespace(build=lambda pick: nn.Identity())  # type: ignore[assignment, misc]
    looked = Prefilter(task, PICTURES)
    sizes = ((64, 64), (96, 64), (128, 128))
    for size in sizes:
        looked.passes({"size": size}, cost(1.0), always=False)
    assert seen == [(16, 3, *size) for size in sizes]


def tau(one: list[float], other: list[float]) -> float:
    """Kendall's, without ties: pairs in one order less pairs in the other, over all."""
    signs = [(one[i] - one[j]) * (other[i] - other[j]) > 0 for i, j in combinations(range(len(one)), 2)]
    return (2 * sum(signs) - len(signs)) / len(signs)


def test_the_proxy_is_compared_with_the_scores_beside_multiply_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, scores, macs = [3.0, 1.0, 2.0, 5.0, 4.0], [0.3, 0.2, 0.1, 0.4, 0.5], [5, 4, 3, 2, 1]
    monkeypatch.setattr(prefilter, "proxy_value", lambda task, pick, pictures: values[pick["number"]])
    task = task_of(tmp_path)
    looked = Prefilter(task, PICTURES)
    for number in range(5):
        looked.passes({"number": number}, cost(1.0), always=True)
    score = Score("AP", 0.0, None, "supernet", "synthetic", 6, {})
    trials = [
        Trial(number, {"number": number}, cost(1.0, macs[number]), replace(score, value=scores[number]))
        for number in (0, 1, 2, 3)
    ]
    found = proxy_agreement(task, trials)
    assert found is not None
    assert (found.proxy, found.proposals, found.passed_over, found.trials) == ("synflow", 5, 1, 4)
    assert found.tau == pytest.approx(tau(values[:4], scores[:4]))
    assert found.tau_macs == pytest.approx(tau([float(one) for one in macs[:4]], scores[:4]))
    assert "1 of 5 proposals were passed over" in proxy_text(found)
    assert f"4 trials that were evaluated: {found.tau:.2f}; of multiply-adds: {found.tau_macs:.2f}" in proxy_text(found)
    stopped = [replace(one, training=TrialTraining((RungScore(1, 0.1),), True)) for one in trials[:2]]
    few = proxy_agreement(task, [*stopped, *trials[2:]])
    assert few is not None
    assert (few.trials, few.passed_over, few.tau) == (2, 1, None)
    assert "evaluated: –" in proxy_text(few)
    assert proxy_agreement(task_of(tmp_path, proxy=None), trials) is None


def test_a_broken_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "proxies.jsonl").write_text('{"pick": {}}\n{"pick": {}, "value": 1.0}\n')
    with pytest.raises(RunError):
        read_proxies(Run(tmp_path))
