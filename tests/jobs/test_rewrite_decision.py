"""The decision which operators are replaced, on numbers written by hand."""

import copy
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from compress.artefacts.results import RewriteChoice
from compress.jobs.rewrite import decision
from compress.jobs.rewrite.choice import Task, choices_of, grouped, holder_of, overlap, part_of
from compress.jobs.rewrite.decision import decide, refusals, select, together
from compress.pose.scoring import Score

PATHS = ["a.0.act", "a.1.act", "a.2.act", "b.0.x.act", "b.0.y.act", "head"]


def test_few_sites_stand_alone() -> None:
    assert grouped(PATHS, 6) == {path: [path] for path in PATHS}
    assert grouped([], 3) == {}


def test_many_sites_are_decided_by_the_part_they_are_in() -> None:
    assert grouped(PATHS, 3) == {"a.*": PATHS[:3], "b.*": PATHS[3:5], "head": ["head"]}
    assert grouped(PATHS, 2) == {"*": PATHS}


def test_modules_of_an_onnx_file_have_parts_as_well() -> None:
    paths = ["network.a/0/act/Relu", "network.a/1/act/Relu", "network.b/0/act/Relu", "network.Relu_3"]
    wanted = {"network.a/*": paths[:2], "network.b/*": paths[2:3], "network.Relu_3": paths[3:]}
    assert grouped(paths, 3) == wanted
    assert [part_of(name) for name in wanted] == ["network.a", "network.b", "network.Relu_3"]
    assert [holder_of(path) for path in paths] == ["network.a/0/act", "network.a/1/act", "network.b/0/act", "network"]


@pytest.mark.parametrize("at_most", [1, 2, 3, 4, 5, 6])
def test_every_site_is_in_one_group(at_most: int) -> None:
    groups = grouped(PATHS, at_most)
    assert sorted(path for members in groups.values() for path in members) == sorted(PATHS)
    assert len(groups) <= at_most


def test_a_rule_asked_for_twice_counts_once() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU())
    asked: Any = SimpleNamespace(rewriting=SimpleNamespace(rules=["swish_to_relu"] * 2, sites=["*"], groups=8))
    assert choices_of(network, asked) == [RewriteChoice("swish_to_relu", "1", ("1",), places=1)]


def choice(
    name: str, *at: str, rule: str = "rule", gain: float | None = None, loss: float | None = None
) -> RewriteChoice:
    return RewriteChoice(rule, name, at, len(at), predicted_saved_ms=gain, saved_ms=gain, gain=gain, loss=loss)


def test_modules_overlap_where_one_is_in_the_other() -> None:
    assert overlap(choice("one", "a.b"), choice("other", "a.b.c"))
    assert overlap(choice("one", "a.b", "x"), choice("other", "x"))
    assert not overlap(choice("one", "a.b"), choice("other", "a.bc", "a.c"))


def test_what_is_taken_saves_most_in_all_within_the_limit() -> None:
    figures = {"a": (1.0, 0.01), "b": (0.2, 0.004), "c": (0.5, 0.0), "d": (2.0, 0.012)}
    choices = [choice(name, name, gain=gain, loss=loss) for name, (gain, loss) in figures.items()]
    assert select(choices, range(4), 0.02) == [1, 2, 3]  # a as well would lose 0.026
    assert select(choices, [0, 1, 2], 0.02) == [0, 1, 2]
    assert select(choices, range(4), 0.0) == [2]
    assert select(choices, [], 0.02) == []


def test_of_two_replacements_of_a_module_the_better_one() -> None:
    places = {"a": ("x.conv", 1.0), "b": ("x", 2.0), "c": ("y", 0.1)}
    choices = [choice(name, at, gain=gain, loss=0.0) for name, (at, gain) in places.items()]
    assert select(choices, range(3), 0.02) == [1, 2]
    relu = choice("relu", "x", gain=0.3, loss=0.005)
    slower = choice("hard swish", "x", gain=0.02, loss=0.0)
    better = choice("hard swish", "x", gain=0.3, loss=0.001)
    assert select([relu, slower], range(2), 0.02) == [0]  # more is allowed to be lost
    assert select([relu, better], range(2), 0.02) == [1]  # equal savings: the least loss


def test_no_set_within_the_limit_saves_more() -> None:
    """Against all sets, tried one by one: blocks, what lies in them, and groups over several modules."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        places = ["x", "x.a", "x.b", "y", "y.a", "z"]
        at = [rng.choice(places, rng.integers(1, 3), replace=False) for _ in range(9)]
        gains, losses = rng.uniform((0, -0.005), (1, 0.02), (9, 2)).T.tolist()
        choices = [choice(str(n), *at[n], gain=gains[n], loss=losses[n]) for n in range(9)]
        best = 0.0
        for wanted in itertools.product((False, True), repeat=9):
            some = [n for n in range(9) if wanted[n]]
            clash = any(overlap(choices[a], choices[b]) for a, b in itertools.combinations(some, 2))
            if not clash and sum(max(0.0, losses[n]) for n in some) <= 0.03:
                best = max(best, sum(gains[n] for n in some))
        taken = select(choices, range(9), 0.03)
        assert sum(gains[n] for n in taken) == pytest.approx(best, abs=1e-6)


class Phase:
    def __enter__(self) -> "Phase":
        return self

    def __exit__(self, *raised: object) -> None: ...

    def advance(self, steps: int, note: str) -> None: ...


def test_what_a_choice_displaced_comes_when_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together relu loses far more than alone; without it, hard swish may stand in its place."""
    choices = [
        choice("x", "x", rule="relu", gain=0.3, loss=0.01),
        choice("x", "x", rule="hard swish", gain=0.1, loss=0.0),
        choice("y", "y", rule="conv", gain=0.2, loss=0.001),
    ]
    lost = {("relu", "conv"): 0.05, ("hard swish", "conv"): 0.015}
    monkeypatch.setattr(decision, "score_given", lambda task: Score("AP", 0.8, 0.014, "as given", "synthetic", 160, {}))
    monkeypatch.setattr(decision, "together", lambda task, taken: tuple(one.rule for one in taken))
    monkeypatch.setattr(decision, "judged", lambda task, rules: 0.8 - lost[rules])
    task: Any = SimpleNamespace(
        recipe=SimpleNamespace(rewriting=SimpleNamespace(min_gain=0.01, max_loss=0.02)),
        learning=SimpleNamespace(sets=SimpleNamespace(search=range(160))),
        progress=SimpleNamespace(phase=lambda title, steps: Phase()),
    )
    found = decide(task, choices)
    assert found.taken == (1, 2)
    assert found.joint_loss == pytest.approx(0.015)
    assert list(found.refused) == [0]
    assert "together the score lost 0.050" in found.refused[0]
    assert (found.score_error, found.judged_on) == (0.014, 160)


def test_reasons_that_hold_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = [
        choice("x", "x", rule="relu", gain=0.3),
        choice("x", "x", rule="hard swish", gain=0.1),
        choice("y", "y", rule="conv", gain=0.2),
    ]
    task: Any = SimpleNamespace(
        recipe=SimpleNamespace(rewriting=SimpleNamespace(min_gain=0.01, max_loss=0.02)),
        learning=None,
    )
    found = decide(task, choices)
    assert (found.taken, found.joint_loss, found.score_error) == ((0, 2), None, None)
    assert found.refused == {1: "with relu there more is gained in all"}


def test_reasons_name_the_figure_and_the_limit() -> None:
    choices = [
        RewriteChoice("rule", "a", ("a",), 1, failure="no kernel"),
        RewriteChoice("rule", "a", ("a",), 1, predicted_saved_ms=0.001),
        choice("a", "a", gain=0.002, loss=0.0),
        choice("a", "a", gain=1.0, loss=0.3),
        choice("a", "a", gain=1.0, loss=0.0),
    ]
    refused = refusals(choices, 0.01, 0.02)
    assert set(refused) == {0, 1, 2, 3}
    assert refused[0] == "no kernel"
    assert "0.001 ms" in refused[1]
    assert "0.2%" in refused[2]
    assert "0.300" in refused[3]


def test_a_fitted_network_with_tied_weights_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())
    network.append(network[0])
    wanted = copy.deepcopy(network)
    nn.init.constant_(wanted[0].weight, 0.5)
    monkeypatch.setattr("compress.jobs.rewrite.decision.fitted", lambda task, taken: (wanted, []))
    run = SimpleNamespace(path=lambda *parts: tmp_path.joinpath(parts[-1]))
    task = SimpleNamespace(original=SimpleNamespace(module=network), learning=object(), run=run)
    for _ in range(2):  # written, and found
        kept = together(cast(Task, task), [])
        assert kept[0] is kept[2]
        assert torch.equal(kept[0].weight, wanted[0].weight)
