import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from compress.errors import EngineError, TableError
from compress.measure.latency_table import (
    Identity,
    LatencyTable,
    fill,
    fit_scale,
    load_table,
    measure_units,
    open_table,
    predict,
)
from compress.measure.timing import Timing
from compress.measure.units import Unit, cut
from compress.networks.dir_bhrnet import DirBHRNet

HERE = Identity("onnxruntime", "1.0", "a CPU")
UNITS = [Unit("relu", (c,), c, 8, 8) for c in (8, 16, 24, 32, 40)]


def fake(units: Sequence[Unit], threads: int) -> tuple[dict[Unit, Timing], float]:
    """One reference per channel; the reference takes 2 ms the first time it is asked and 3 ms with the widest unit."""
    reference = 3.0 if UNITS[-1] in units else 2.0
    return {u: Timing(u.outputs * reference, 1, 2, u.outputs, u.outputs * reference, 0.01, 9) for u in units}, reference


def filled(tmp_path: Path) -> LatencyTable:
    table = open_table(tmp_path / "table.json", HERE)
    fill(table, UNITS, measure=fake)
    return table


def test_round_trip(tmp_path: Path) -> None:
    table = filled(tmp_path)
    fit_scale(table, [({UNITS[0]: 1}, 20.0)])
    table.save()
    assert open_table(table.path, HERE) == table
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]
    # One line per unit, so that two tables can be compared line by line.
    lines = table.path.read_text().splitlines()
    assert sum(UNITS[0].key in line and "median_ms" in line for line in lines) == 1
    assert json.loads(table.path.read_text())["device"] == "a CPU"


@pytest.mark.parametrize(
    ("field", "value"), [("version", "2.0"), ("device", "another"), ("threads", 2), ("engine", "ncnn")]
)
def test_a_table_of_something_else_is_refused(tmp_path: Path, field: str, value: object) -> None:
    table = filled(tmp_path)
    with pytest.raises(TableError, match=f"{field}.*name another file"):
        open_table(table.path, replace(HERE, **{field: value}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', '{"format": 1, "units": {"a": {}}}'])
def test_a_broken_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(TableError, match="delete it and measure again"):
        open_table(tmp_path / "table.json", HERE)


def test_a_missing_table_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such latency table"):
        load_table(tmp_path / "table.json")


def test_a_killed_build_resumes(tmp_path: Path) -> None:
    asked: list[Unit] = []

    def dying(units: Sequence[Unit], threads: int) -> tuple[dict[Unit, Timing], float]:
        if asked:
            raise KeyboardInterrupt
        asked.extend(units)
        return fake(units, threads)

    table = open_table(tmp_path / "table.json", HERE)
    with pytest.raises(KeyboardInterrupt):
        fill(table, UNITS, measure=dying, batch=2)
    again = open_table(tmp_path / "table.json", HERE)
    assert set(UNITS) - set(again.missing(UNITS)) == set(asked) != set()
    seen: list[tuple[int, int]] = []
    fill(again, UNITS, lambda done, total: seen.append((done, total)), measure=fake, batch=2)
    assert again.missing(UNITS) == []
    assert seen == [(2, 3), (3, 3)]


def test_all_units_are_on_the_tables_clock(tmp_path: Path) -> None:
    table = open_table(tmp_path / "table.json", HERE)
    fill(table, UNITS, measure=fake, batch=1)
    assert table.reference_ms == 2.0
    assert [table.units[unit.key].normalised_ms for unit in UNITS] == [2.0 * unit.outputs for unit in UNITS]


def test_prediction_is_the_scaled_sum(tmp_path: Path) -> None:
    table = filled(tmp_path)
    small, large = Counter({UNITS[0]: 2}), Counter({UNITS[0]: 1, UNITS[1]: 1})
    sums = (3.0 * 8 * 2, 3.0 * (8 + 16))
    assert (predict(table, small), predict(table, large)) == sums
    scale = fit_scale(table, [(small, 2 * sums[0]), (large, 0.5 * sums[1])])
    assert scale.factor == pytest.approx((2 * 0.5) ** 0.5)
    assert scale.error == pytest.approx((abs(1 / 2 - 1) + abs(1 / 0.5 - 1)) / 2)
    assert scale.networks == 2
    fit_scale(table, [(small, 2 * sums[0])])
    assert predict(table, large) == pytest.approx(2 * sums[1])


def test_a_missing_unit_is_named(tmp_path: Path) -> None:
    table = filled(tmp_path)
    with pytest.raises(TableError, match=r"lacks 1 .*relu 99 8x8.*measure them first"):
        predict(table, Counter({Unit("relu", (99,), 99, 8, 8): 1}))


def test_a_scale_needs_networks(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="at least one"):
        fit_scale(filled(tmp_path), [])


def test_every_kind_of_unit_can_be_measured() -> None:
    """Each unit must be one node in its context, else measuring raises: the widths bring plain and blocked layouts."""
    kinds = ("dir_se", "ir_dw", "residual", "ir_shortcut")
    one_each = ((1,), (1, 1), (1, 1, 1), (1, 1, 1, 1))
    units = {u for width in (8, 16, 18) for u in cut(DirBHRNet(width, one_each, kinds).build(), (64, 32))}
    timings, reference_ms = measure_units(sorted(units), rounds=2)
    assert set(timings) == units
    assert reference_ms > 0
    assert all(t.ratio > 0 and t.normalised_ms > 0 and t.count == 2 for t in timings.values())


def test_a_unit_that_is_not_one_node_is_named() -> None:
    # onnxruntime has no transposed convolution that ends in ReLU.
    impossible = Unit("deconv", (16,), 16, 8, 8, (2, 2), (2, 2), activation="relu", blocked=False)
    with pytest.raises(EngineError, match=r"deconv2x2s2.*one node, not 2"):
        measure_units([impossible], rounds=1)
