"""The decision which operators are replaced, on numbers written by hand."""

from typing import Any

import pytest

from compress.rewriting import Choice, grouped, refusals, select

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


def choice(name: str, *at: str) -> Choice:
    return Choice("rule", name, at)


def row(gain: float, loss: float) -> dict[str, Any]:
    return {"predicted_ms": gain, "measured_ms": gain, "gain": gain, "loss": loss}


def test_modules_overlap_where_one_is_in_the_other() -> None:
    assert choice("one", "a.b").overlaps(choice("other", "a.b.c"))
    assert choice("one", "a.b", "x").overlaps(choice("other", "x"))
    assert not choice("one", "a.b").overlaps(choice("other", "a.bc", "a.c"))


def test_least_loss_per_time_saved_first_within_the_limit() -> None:
    choices = [choice(name, name) for name in "abcd"]
    rows = [row(1.0, 0.01), row(0.2, 0.004), row(0.5, 0.0), row(2.0, 0.012)]
    taken, left_out = select(choices, rows, {}, 0.02)
    assert taken == [2, 3, 1]  # per gain: c 0, d 0.006, a 0.010 (0.022 in all is too much), b 0.020 (0.016 in all)
    assert list(left_out) == [0]
    assert "0.022" in left_out[0]


def test_of_two_replacements_of_a_module_the_better_one() -> None:
    choices = [choice("a", "x.conv"), choice("b", "x"), choice("c", "y")]
    taken, left_out = select(choices, [row(1.0, 0.0), row(2.0, 0.0), row(0.1, 0.0)], {}, 0.02)
    assert taken == [1, 2]
    assert "better there" in left_out[0]


def test_reasons_name_the_figure_and_the_limit() -> None:
    rows: list[dict[str, Any]] = [
        {"failure": "no kernel"}, {"predicted_ms": 0.001}, row(0.002, 0.0), row(1.0, 0.3), row(1.0, 0.0),
    ]  # fmt: skip
    refused = refusals(rows, 0.01, 0.02)
    assert set(refused) == {0, 1, 2, 3}
    assert refused[0] == "no kernel"
    assert "0.001 ms" in refused[1]
    assert "0.2%" in refused[2]
    assert "0.300" in refused[3]
