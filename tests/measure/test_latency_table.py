import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from compress.engines import engine
from compress.engines.kernel import Kernel, Operand
from compress.errors import TableError
from compress.measure import latency_table
from compress.measure.kept_tables import complete_table
from compress.measure.kernels import kernels_of_engine
from compress.measure.latency_table import (
    FORMAT,
    TRIES,
    UNCERTAIN,
    WORST_ERROR,
    WORST_FACTOR,
    Entry,
    Identity,
    LatencyTable,
    Scale,
    add_in_situ,
    difference,
    fill,
    fit_scale,
    grouped,
    load_table,
    measure_kernels,
    merge,
    open_table,
    predict,
)
from compress.measure.profiling import Profiled
from compress.measure.timing import Timing
from compress.networks.dir_bhrnet import DirBHRNet

HERE = Identity("onnxruntime", "1.0", "a CPU")


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests' times are made up: the limit holds, unlike in other tests."""
    monkeypatch.setattr(latency_table, "WORST_ERROR", WORST_ERROR)
    monkeypatch.setattr(latency_table, "WORST_FACTOR", WORST_FACTOR)


def relu(channels: int) -> Kernel:
    tensor = (Operand((1, channels, 8, 8)),)
    return Kernel("Relu", tensor, tensor, kind="Relu 1 in")


KERNELS = sorted(relu(c) for c in (8, 16, 24, 32, 40))


def fake(kernels: Sequence[Kernel], threads: int) -> tuple[dict[Kernel, Timing], float]:
    """One reference per channel; the reference takes 2 ms the first time it is asked and 3 ms with the widest
    kernel."""
    reference = 3.0 if relu(40) in kernels else 2.0
    return {kernel: timing(kernel.inputs[0].shape[1], reference) for kernel in kernels}, reference


def timing(ratio: float, reference: float = 1.0, count: int = 9, uncertainty: float = 0.01) -> Timing:
    return Timing(ratio * reference, 1, 2, ratio, ratio * reference, 0.01, uncertainty, count)


def filled(tmp_path: Path) -> LatencyTable:
    table = open_table(tmp_path / "table.json", HERE)
    fill(table, KERNELS, measure=fake)
    return table


def test_round_trip(tmp_path: Path) -> None:
    table = filled(tmp_path)
    fit_scale(table, [({KERNELS[0]: 1}, 40.0), ({KERNELS[1]: 1}, 60.0)])
    table.save()
    assert open_table(table.path, HERE) == table
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]
    # One line per kernel, so that two tables can be compared line by line.
    lines = table.path.read_text().splitlines()
    assert sum(KERNELS[0].key in line and "median_ms" in line for line in lines) == 1
    assert json.loads(table.path.read_text())["device"] == "a CPU"


@pytest.mark.parametrize(
    ("field", "value"), [("version", "2.0"), ("device", "another"), ("threads", 2), ("engine", "ncnn")]
)
def test_a_table_of_something_else_is_refused(tmp_path: Path, field: str, value: object) -> None:
    table = filled(tmp_path)
    with pytest.raises(TableError, match=f"{field}.*name another file"):
        open_table(table.path, replace(HERE, **{field: value}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', '{"format": 1, "kernels": {"a": {}}}'])
def test_a_broken_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(TableError, match="delete it and measure again"):
        open_table(tmp_path / "table.json", HERE)


def test_a_table_of_an_older_version_is_one_line(tmp_path: Path) -> None:
    """Format 3 was written with other keys under the same number: none of it is taken."""
    table = filled(tmp_path)
    table.save()
    table.path.write_text(table.path.read_text().replace(f'"format": {FORMAT}', '"format": 3'))
    with pytest.raises(TableError, match=rf"table\.json: .* {FORMAT}: format 3 is of another version") as caught:
        load_table(table.path)
    assert "\n" not in str(caught.value)
    assert "delete it and measure again" in str(caught.value)


def test_the_committed_table_is_of_this_format() -> None:
    table = load_table(Path(__file__).parents[2] / "reports" / "bhrnet" / "latency_table.json")
    assert table.kernels
    assert table.scale


def test_a_missing_table_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="no such latency table"):
        load_table(tmp_path / "table.json")


def test_a_killed_build_resumes(tmp_path: Path) -> None:
    asked: list[Kernel] = []

    def dying(kernels: Sequence[Kernel], threads: int) -> tuple[dict[Kernel, Timing], float]:
        if asked:
            raise KeyboardInterrupt
        asked.extend(kernels)
        return fake(kernels, threads)

    table = open_table(tmp_path / "table.json", HERE)
    with pytest.raises(KeyboardInterrupt):
        fill(table, KERNELS, measure=dying, batch=2)
    again = open_table(tmp_path / "table.json", HERE)
    assert set(KERNELS) - set(again.missing(KERNELS)) == set(asked) != set()
    seen: list[tuple[int, int]] = []
    fill(again, KERNELS, lambda done, total: seen.append((done, total)), measure=fake, batch=2)
    assert again.missing(KERNELS) == []
    assert seen == [(2, 3), (3, 3)]


def test_all_kernels_are_on_the_tables_clock(tmp_path: Path) -> None:
    table = open_table(tmp_path / "table.json", HERE)
    fill(table, KERNELS, measure=fake, batch=1)
    assert table.reference_ms == 2.0
    assert [table.kernels[relu(c).key].timing.normalised_ms for c in (8, 24, 40)] == [2.0 * c for c in (8, 24, 40)]


def test_prediction_is_the_scaled_sum(tmp_path: Path) -> None:
    table = filled(tmp_path)
    small, large = Counter({relu(8): 2}), Counter({relu(8): 1, relu(16): 1})
    sums = (3.0 * 8 * 2, 3.0 * (8 + 16))
    assert (predict(table, small).ms, predict(table, large).ms) == sums
    scale = fit_scale(table, [(small, 1.5 * sums[0]), (large, 1.2 * sums[1])])
    assert scale.factor == pytest.approx((1.5 * 1.2) ** 0.5)
    assert scale.error == pytest.approx((abs(scale.factor / 1.5 - 1) + abs(scale.factor / 1.2 - 1)) / 2)
    assert scale.networks == 2
    assert predict(table, large).ms == pytest.approx(scale.factor * sums[1])


@pytest.mark.parametrize(("first", "second", "said"), [(1.8, 0.6, "mean error of"), (2.3, 2.3, "factor of 2.30")])
def test_a_scale_beyond_use_is_neither_stored_nor_used(tmp_path: Path, first: float, second: float, said: str) -> None:
    table = filled(tmp_path)
    small, large = {relu(8): 1}, {relu(8): 1, relu(16): 1}
    fit_scale(table, [(small, 24.0), (large, 72.0)])
    with pytest.raises(TableError, match=rf"within {WORST_ERROR:.0%} .*{said}.*--again"):
        fit_scale(table, [(small, first * 24.0), (large, second * 72.0)])
    assert table.scale is None
    assert predict(table, small).ms == 24.0
    assert predict(table, small).low_ms is None


def test_a_measured_network_is_predicted_with_the_scales_error(tmp_path: Path) -> None:
    table, network = filled(tmp_path), Counter({relu(8): 2})
    unscaled = predict(table, network)
    assert (unscaled.coverage, unscaled.time_coverage, unscaled.estimated) == (1, 1, ())
    assert (unscaled.low_ms, unscaled.high_ms) == (None, None)  # nobody knows
    error = fit_scale(table, [(network, 45.0), (network, 52.0)]).error
    found = predict(table, network)
    assert found.low_ms is not None
    assert found.high_ms is not None
    # Half of an interval that holds 90 % of normal errors is 1.645 standard deviations, which are √(π/2) mean errors.
    assert found.high_ms / found.ms - 1 == pytest.approx(1.645 * math.sqrt(math.pi / 2) * error, rel=0.01)
    assert found.high_ms - found.ms == pytest.approx(found.ms - found.low_ms)


def test_an_unknown_kernel_is_estimated_from_its_neighbours_and_marked(tmp_path: Path) -> None:
    table = filled(tmp_path)
    fit_scale(table, [({relu(8): 1}, 24.0), ({relu(16): 1}, 49.0)])
    known, unknown = predict(table, {relu(16): 1}), predict(table, {relu(16): 3, relu(20): 1})
    assert unknown.estimated == (relu(20).key,)
    assert unknown.coverage == 0.75
    assert unknown.time_coverage == pytest.approx(3 * known.ms / unknown.ms)
    alone = predict(table, {relu(20): 1})
    # This fake's times are proportional to channels, of which the engine computes eight at a time.
    assert alone.ms == pytest.approx(3.0 * 24, rel=0.02)
    assert alone.high_ms is not None
    assert known.high_ms is not None
    assert alone.high_ms / alone.ms - 1 > 1.5 * (known.high_ms / known.ms - 1)


def test_what_is_too_uncertain_is_named_the_most_doubtful_first(tmp_path: Path) -> None:
    """Relus are known well; of another operator nothing is, and its larger kernel is the more doubtful."""

    def gelu(channels: int) -> Kernel:
        return replace(relu(channels), operator="Gelu", kind="Gelu 1 in")

    found = predict(filled(tmp_path), {relu(16): 1, relu(20): 1, gelu(8): 1, gelu(64): 1})
    assert sorted(found.estimated) == sorted(kernel.key for kernel in (relu(20), gelu(8), gelu(64)))
    assert found.uncertain == (gelu(64).key, gelu(8).key)


def test_errors_of_one_kind_add_up_and_those_of_two_kinds_partly_cancel(tmp_path: Path) -> None:
    """Two kinds of the same times, seven kernels of each known: n of one kind are off n times as much."""
    table = LatencyTable(tmp_path / "table.json", HERE, reference_ms=2.0, scale=Scale(1.0, 2, 0.0))

    def other(channels: int) -> Kernel:
        return replace(relu(channels), operator="Neg", kind="Neg 1 in")

    for number, channels in enumerate((8, 16, 24, 32, 48, 56, 64)):
        for kernel in (relu(channels), other(channels)):
            table.kernels[kernel.key] = Entry.of(kernel, timing(channels * (1.2, 0.8)[number % 2]), "in situ")

    def half(kernels: dict[Kernel, int]) -> float:
        found = predict(table, kernels)
        assert found.high_ms is not None
        return found.high_ms - found.ms

    one = half({relu(40): 1})
    assert one > 0
    assert half({relu(40): 3}) == pytest.approx(3 * one)
    assert half({relu(40): 1, other(40): 1}) == pytest.approx(math.sqrt(2) * one)


def test_estimates_follow_a_table_that_changes(tmp_path: Path) -> None:
    table = filled(tmp_path)
    before = predict(table, {relu(56): 1}).ms
    table.kernels = {
        key: replace(entry, timing=replace(entry.timing, ratio=2 * entry.timing.ratio))
        for key, entry in table.kernels.items()
    }
    assert predict(table, {relu(56): 1}).ms == pytest.approx(2 * before, rel=1e-6)


def test_nothing_is_predicted_from_an_empty_table(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="empty table"):
        predict(LatencyTable(tmp_path / "none.json", HERE), {relu(8): 1})


@pytest.mark.parametrize("count", [0, 1])
def test_a_scale_needs_several_networks(tmp_path: Path, count: int) -> None:
    table = filled(tmp_path)
    before = fit_scale(table, [({relu(8): 1}, 24.0), ({relu(16): 1}, 49.0)])
    with pytest.raises(TableError, match=f"needs 2 measured networks.*{count}"):
        fit_scale(table, [({relu(8): 1}, 24.0)] * count)
    assert table.scale == before


def test_uncertain_kernels_are_timed_again_within_a_bound_and_the_best_time_stays(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path / "table.json", HERE)

    def seen(ratio: float, uncertainty: float) -> None:
        kernels, values = zip((relu(8), 1.0), (relu(16), ratio), strict=True)
        timings = (timing(values[0]), timing(values[1], uncertainty=uncertainty))
        add_in_situ(table, [Profiled(kernels, ("a", "b"), timings, timing(1 + ratio), 2.0)])

    seen(5.0, 3 * UNCERTAIN)
    assert table.known() == {relu(8).key}
    assert table.kernels[relu(16).key].uncertain
    seen(2.0, 2 * UNCERTAIN)
    table.save()
    table = load_table(table.path)
    assert (table.kernels[relu(16).key].timing.ratio, table.kernels[relu(16).key].tries) == (2.0, 2)
    seen(9.0, 4 * UNCERTAIN)
    entry = table.kernels[relu(16).key]
    assert (entry.timing.ratio, entry.tries, entry.uncertain) == (2.0, TRIES, True)
    assert table.known() == {relu(8).key, relu(16).key}  # it has had its tries
    seen(3.0, 0.01)
    assert table.kernels[relu(16).key] == entry
    # What stays uncertain widens the interval by its uncertainty.
    fit_scale(table, [({relu(8): 1}, 2.0), ({relu(8): 2}, 4.0)])
    certain, uncertain = predict(table, {relu(8): 1}), predict(table, {relu(16): 1})
    assert certain.high_ms == certain.ms
    assert uncertain.high_ms == pytest.approx(uncertain.ms * (1 + 2 * UNCERTAIN))


def test_a_kernel_of_no_time_leaves_the_interval_finite(tmp_path: Path) -> None:
    table = filled(tmp_path)
    fit_scale(table, [({relu(8): 1}, 16.0), ({relu(8): 2}, 33.0)])
    before = predict(table, {relu(16): 1})
    # As tables have it that were measured before a median of 0 counted as 1.
    none = Entry.of(relu(8), timing(0.0, uncertainty=math.inf), "in situ", 1)
    table.kernels[relu(8).key] = none
    assert not none.uncertain
    assert predict(table, {relu(8): 3, relu(16): 1}) == before


def test_a_steady_time_replaces_an_uncertain_one_and_again_replaces_any(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path / "table.json", HERE)
    table.kernels[relu(8).key] = Entry.of(relu(8), timing(90.0, uncertainty=0.5), "in situ", 1)
    table.reference_ms = 2.0
    add_in_situ(table, [profiled((relu(8), 4.0), (relu(16), 6.0))])
    assert table.kernels[relu(8).key].timing.ratio == 4.0
    add_in_situ(table, [profiled((relu(8), 7.0), (relu(16), 8.0))], again={relu(16).key})
    assert [table.kernels[relu(c).key].timing.normalised_ms for c in (8, 16)] == [8.0, 16.0]


def test_kernels_of_a_microsecond_are_as_certain_as_the_clock_lets_them(tmp_path: Path) -> None:
    assert not Entry.of(relu(8), timing(0.01, uncertainty=0.4), "in situ", 1).uncertain
    assert Entry.of(relu(8), timing(1.0, uncertainty=0.4), "in situ", 1).uncertain


def test_models_of_kernels_are_measured_again_where_they_are_uncertain(tmp_path: Path) -> None:
    asked: list[int] = []

    def noisy(kernels: Sequence[Kernel], threads: int) -> tuple[dict[Kernel, Timing], float]:
        asked.append(len(kernels))
        return {u: timing(1.0, uncertainty=0.5 if u == relu(8) or len(asked) == 1 else 0.01) for u in kernels}, 2.0

    table = open_table(tmp_path / "table.json", HERE)
    fill(table, KERNELS, measure=noisy)
    assert asked == [5, 5, 1]
    assert [key for key, entry in table.kernels.items() if entry.uncertain] == [relu(8).key]


def test_a_foreign_table_is_used_only_if_allowed_and_marked(tmp_path: Path) -> None:
    path = filled(tmp_path).path
    with pytest.raises(TableError, match="name another file"):
        open_table(path, replace(HERE, version="2.0"))
    table = open_table(path, replace(HERE, version="2.0", threads=4), allow_foreign=True)
    assert predict(table, {relu(8): 1}).foreign == ("version '1.0' for '2.0'", "threads 1 for 4")
    with pytest.raises(TableError, match="do not belong into a table of something else"):
        fill(table, [relu(48)], measure=fake)
    with pytest.raises(TableError, match="only true for one engine"):
        open_table(path, replace(HERE, engine="ncnn"), allow_foreign=True)


def profiled(*ratios: tuple[Kernel, float], reference_ms: float = 2.0) -> Profiled:
    kernels, values = zip(*ratios, strict=True)
    timings = tuple(timing(value, reference_ms) for value in values)
    return Profiled(kernels, tuple(map(str, range(len(kernels)))), timings, timing(sum(values)), reference_ms)


def test_times_in_situ_are_the_mean_over_places_and_the_median_over_networks(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path / "table.json", HERE)
    add_in_situ(
        table,
        [
            profiled((relu(8), 1.0), (relu(16), 7.0), (relu(8), 3.0)),
            profiled((relu(8), 4.0)),
            profiled((relu(8), 90.0)),
        ],
    )
    eight, sixteen = table.kernels[relu(8).key], table.kernels[relu(16).key]
    assert (eight.timing.ratio, eight.networks, eight.timing.count) == (4.0, 3, 4 * 9)
    assert (sixteen.timing.ratio, sixteen.networks, sixteen.provenance) == (7.0, 1, "in situ")
    assert eight.timing.normalised_ms == 8.0
    table.save()
    assert load_table(table.path) == table


def test_the_worst_load_of_other_programs_is_kept(tmp_path: Path) -> None:
    table = LatencyTable(tmp_path / "table.json", HERE)
    add_in_situ(table, [profiled((relu(8), 1.0))], load=None)
    assert table.other_load is None
    add_in_situ(table, [profiled((relu(16), 1.0))], load=2.25)
    add_in_situ(table, [profiled((relu(24), 1.0))], load=0.5)
    add_in_situ(table, [profiled((relu(24), 1.0))], load=9.0)  # nothing of it is noted
    table.save()
    assert load_table(table.path).other_load == 2.25
    quiet = LatencyTable(tmp_path / "quiet.json", HERE, 2.0, other_load=0.25)
    assert merge([quiet, table], tmp_path / "both.json").other_load == 2.25


def test_merging_weighs_by_count_on_the_clock_of_the_first(tmp_path: Path) -> None:
    first, second = (LatencyTable(tmp_path / f"{n}.json", HERE) for n in range(2))
    add_in_situ(first, [profiled((relu(8), 1.0), (relu(16), 5.0), reference_ms=2.0)])
    add_in_situ(second, [profiled((relu(8), 4.0), reference_ms=3.0), profiled((relu(8), 4.0), (relu(24), 6.0))])
    merged = merge([first, second], tmp_path / "merged.json")
    assert merged.reference_ms == 2.0
    assert {key: entry.timing.ratio for key, entry in merged.kernels.items()} == {
        relu(8).key: (9 * 1 + 18 * 4) / 27,
        relu(16).key: 5.0,
        relu(24).key: 6.0,
    }
    assert merged.kernels[relu(24).key].timing.normalised_ms == 12.0
    assert not merged.path.exists()
    assert merged.scale is None
    first.scale, second.scale = Scale(1.0, 1, 0.02), Scale(8.0, 2, 0.05)
    scale = merge([first, second], tmp_path / "merged.json").scale
    assert scale is not None
    assert (scale.factor, scale.networks, scale.error) == pytest.approx((4.0, 3, 0.04))
    second.identity = replace(HERE, threads=2)
    with pytest.raises(TableError, match=r"1\.json: threads.*keep them apart"):
        merge([first, second], tmp_path / "merged.json")


def test_difference(tmp_path: Path) -> None:
    first, second = filled(tmp_path), LatencyTable(tmp_path / "b.json", replace(HERE, version="2.0"))
    add_in_situ(second, [profiled((relu(8), 10.0), (relu(48), 1.0))])
    found = difference(first, second)
    assert found.only_first == tuple(kernel.key for kernel in KERNELS if kernel != relu(8))
    assert found.only_second == (relu(48).key,)
    assert found.change == {relu(8).key: 10 / 8 - 1}
    assert found.identity == {"version": ("1.0", "2.0")}


@pytest.mark.parametrize("name", ["onnxruntime", "ncnn"])
def test_kernels_in_models_of_kernels(name: str, tmp_path: Path) -> None:
    """Every kernel of a network comes back as itself, and is timed."""
    runtime = engine(name)
    kernels = sorted(
        set(kernels_of_engine(DirBHRNet(8, ((1,), (1, 1), (1, 0, 1), (1, 1, 1, 1))).build(), (64, 32), runtime))
    )
    path = runtime.assemble(kernels, tmp_path, "kernels")[0]
    profiler = runtime.profiler(path)
    profiler.run_timed()
    found = profiler.finish()
    again = dict(zip(found.names, found.kernels, strict=True))
    assert [again[f"u{index}"] for index in range(len(kernels))] == kernels

    table = LatencyTable(tmp_path / "table.json", Identity.of(runtime.describe()))
    fill(table, kernels[:6], measure=lambda kernels, threads: measure_kernels(name, kernels, threads, rounds=4))
    assert len(table.kernels) == 6
    assert all(entry.timing.count == 2 for entry in table.kernels.values())
    assert len(table.kernels) == 6


def test_kernels_of_an_engine_that_makes_no_models_of_them_stay_to_be_estimated(tmp_path: Path) -> None:
    kernel = relu(20)
    table = LatencyTable(tmp_path / "table.json", replace(HERE, engine="mnn"), reference_ms=2.0)
    table.kernels[relu(8).key] = Entry.of(relu(8), timing(8), "in situ")
    complete_table(table, [relu(8), kernel])
    assert table.missing([relu(8), kernel]) == [kernel]
    assert predict(table, {kernel: 1}).estimated == (kernel.key,)


def test_the_parts_of_a_predicted_time_add_up_to_it_by_height_and_operator(tmp_path: Path) -> None:
    table = filled(tmp_path)
    kernels = {relu(8): 1, relu(16): 2, relu(20): 3}  # 20 channels are not in the table
    (part,) = grouped(table, kernels, 32)  # outputs of one height, 8
    assert (part.stride, part.operator, part.kernels) == (4, "Relu", 6)
    assert part.ms == pytest.approx(predict(table, kernels).ms)
    assert part.estimated_ms == pytest.approx(predict(table, {relu(20): 3}).ms)
