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

from compress.jobs.rewrite import choice as rewriting
from compress.jobs.rewrite.choice import Choice, Task, choices_of, decide, grouped, refusals, select, together

PATHS = ["a.0.act", "a.1.act", "a.2.act", "b.0.x.act", "b.0.y.act", "head"]


def test_few_sites_stand_alone() -> None:
    assert grouped(PATHS, 6) == {path: [path] for path in PATHS}
    assert grouped([], 3) == {}


def test_many_sites_are_decided_by_the_part_they_are_in() -> None:
    assert grouped(PATHS, 3) == {"a.*": PATHS[:3], "b.*": PATHS[3:5], "head": ["head"]}
    assert grouped(PATHS, 2) == {"*": PATHS}


@pytest.mark.parametrize("at_most", [1, 2, 3, 4, 5, 6])
def test_every_site_is_in_one_group(at_most: int) -> None:
    groups = grouped(PATHS, at_most)
    assert sorted(path for members in groups.values() for path in members) == sorted(PATHS)
    assert len(groups) <= at_most


def test_a_rule_asked_for_twice_counts_once() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU())
    asked: Any = SimpleNamespace(rewriting=SimpleNamespace(rules=["swish_to_relu"] * 2, sites=["*"], groups=8))
    assert choices_of(network, asked) == [Choice("swish_to_relu", "1", ("1",))]


def choice(name: str, *at: str) -> Choice:
    return Choice("rule", name, at)


def row(gain: float, loss: float) -> dict[str, Any]:
    return {"predicted_ms": gain, "measured_ms": gain, "gain": gain, "loss": loss}


def test_modules_overlap_where_one_is_in_the_other() -> None:
    assert choice("one", "a.b").overlaps(choice("other", "a.b.c"))
    assert choice("one", "a.b", "x").overlaps(choice("other", "x"))
    assert not choice("one", "a.b").overlaps(choice("other", "a.bc", "a.c"))


def test_what_is_taken_saves_most_in_all_within_the_limit() -> None:
    choices = [choice(name, name) for name in "abcd"]
    rows = [row(1.0, 0.01), row(0.2, 0.004), row(0.5, 0.0), row(2.0, 0.012)]
    assert select(choices, rows, range(4), 0.02) == [1, 2, 3]  # a as well would lose 0.026
    assert select(choices, rows, [0, 1, 2], 0.02) == [0, 1, 2]
    assert select(choices, rows, range(4), 0.0) == [2]
    assert select(choices, rows, [], 0.02) == []


def test_of_two_replacements_of_a_module_the_better_one() -> None:
    choices = [choice("a", "x.conv"), choice("b", "x"), choice("c", "y")]
    assert select(choices, [row(1.0, 0.0), row(2.0, 0.0), row(0.1, 0.0)], range(3), 0.02) == [1, 2]
    both = [choice("relu", "x"), choice("hard swish", "x")]
    assert select(both, [row(0.3, 0.005), row(0.02, 0.0)], range(2), 0.02) == [0]  # more is allowed to be lost
    assert select(both, [row(0.3, 0.005), row(0.3, 0.001)], range(2), 0.02) == [1]  # equal savings: the least loss


def test_no_set_within_the_limit_saves_more() -> None:
    """Against all sets, tried one by one: blocks, what lies in them, and groups over several modules."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        places = ["x", "x.a", "x.b", "y", "y.a", "z"]
        choices = [choice(str(n), *rng.choice(places, rng.integers(1, 3), replace=False)) for n in range(9)]
        rows = [row(float(gain), float(loss)) for gain, loss in rng.uniform((0, -0.005), (1, 0.02), (9, 2))]
        best = 0.0
        for wanted in itertools.product((False, True), repeat=9):
            some = [n for n in range(9) if wanted[n]]
            clash = any(choices[a].overlaps(choices[b]) for a, b in itertools.combinations(some, 2))
            if not clash and sum(max(0.0, rows[n]["loss"]) for n in some) <= 0.03:
                best = max(best, sum(rows[n]["gain"] for n in some))
        taken = select(choices, rows, range(9), 0.03)
        assert sum(rows[n]["gain"] for n in taken) == pytest.approx(best, abs=1e-6)


class Phase:
    def __enter__(self) -> "Phase":
        return self

    def __exit__(self, *raised: object) -> None: ...

    def advance(self, steps: int, note: str) -> None: ...


def test_what_a_choice_displaced_comes_when_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together relu loses far more than alone; without it, hard swish may stand in its place."""
    choices = [Choice("relu", "x", ("x",)), Choice("hard swish", "x", ("x",)), Choice("conv", "y", ("y",))]
    rows = [row(0.3, 0.01), row(0.1, 0.0), row(0.2, 0.001)]
    lost = {("relu", "conv"): 0.05, ("hard swish", "conv"): 0.015}
    monkeypatch.setattr(rewriting, "score_given", lambda task: [0.8, 0.014])
    monkeypatch.setattr(rewriting, "together", lambda task, taken: tuple(one.rule for one in taken))
    monkeypatch.setattr(rewriting, "judged", lambda task, rules: 0.8 - lost[rules])
    task: Any = SimpleNamespace(
        recipe=SimpleNamespace(rewriting=SimpleNamespace(min_gain=0.01, max_loss=0.02)),
        subject=SimpleNamespace(learning=SimpleNamespace(sets=SimpleNamespace(search=range(160)))),
        progress=SimpleNamespace(phase=lambda title, steps: Phase()),
    )
    found = decide(task, choices, rows)
    assert found["taken"] == [1, 2]
    assert found["joint_loss"] == pytest.approx(0.015)
    assert list(found["refused"]) == ["0"]
    assert "together the score lost 0.050" in found["refused"]["0"]
    assert (found["score_error"], found["judged_on"]) == (0.014, 160)


def test_reasons_that_hold_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    choices = [Choice("relu", "x", ("x",)), Choice("hard swish", "x", ("x",)), Choice("conv", "y", ("y",))]
    task: Any = SimpleNamespace(
        recipe=SimpleNamespace(rewriting=SimpleNamespace(min_gain=0.01, max_loss=0.02)),
        subject=SimpleNamespace(learning=None),
    )
    rows = [{key: value for key, value in row(gain, 0).items() if key != "loss"} for gain in (0.3, 0.1, 0.2)]
    found = decide(task, choices, rows)
    assert (found["taken"], found["joint_loss"], found["score_error"]) == ([0, 2], None, None)
    assert found["refused"] == {"1": "with relu there more is gained in all"}


def test_reasons_name_the_figure_and_the_limit() -> None:
    rows: list[dict[str, Any]] = [
        {"failure": "no kernel"},
        {"predicted_ms": 0.001},
        row(0.002, 0.0),
        row(1.0, 0.3),
        row(1.0, 0.0),
    ]
    refused = refusals(rows, 0.01, 0.02)
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
    monkeypatch.setattr("compress.jobs.rewrite.choice.fitted", lambda task, taken: (wanted, []))
    run = SimpleNamespace(path=lambda *parts: tmp_path.joinpath(parts[-1]))
    task = SimpleNamespace(subject=SimpleNamespace(network=network, learning=object()), run=run)
    for _ in range(2):  # written, and found
        kept = together(cast(Task, task), [])
        assert kept[0] is kept[2]
        assert torch.equal(kept[0].weight, wanted[0].weight)
