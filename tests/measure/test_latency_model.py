"""One model prices networks here and on a device that only its table is known of."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from compress.engines.onnxruntime import OnnxRuntime
from compress.engines.onnxruntime_fusion import kernels_by_rules
from compress.errors import EngineError, TableError
from compress.measure.kernels import detect_kernels
from compress.measure.latency_model import LatencyModel, TimedModel, identity_of, label, open_model, runtime_of
from compress.measure.latency_table import LatencyTable, Scale, load_table, open_table, predict
from compress.measure.target import Target

HW = (32, 32)


def network(width: int = 16) -> nn.Module:
    first = nn.Conv2d(3, width, 3, 2, 1)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, 17, 1)).eval()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> LatencyTable:
    """Of another device: this one's, called otherwise, three times as slow."""
    folder = tmp_path_factory.mktemp("model")
    model = open_model(Target("onnxruntime"), folder / "here.json")
    for width in (8, 16, 32):
        model.kernels(network(width), HW)
    identity = replace(model.table.identity, device="a phone", threads=4)
    entries = {
        key: replace(entry, timing=replace(entry.timing, ratio=3 * entry.timing.ratio))
        for key, entry in model.table.kernels.items()
    }
    there = LatencyTable(folder / "phone.json", identity, model.table.reference_ms, Scale(1.1, 6, 0.02), entries)
    there.save()
    return load_table(there.path)


@pytest.mark.parametrize("block", [8, 16])
def test_a_devices_kernels_are_cut_in_its_own_blocks(table: LatencyTable, tmp_path: Path, block: int) -> None:
    """12 channels are padded to 16 in blocks of 8 and of 16, 20 to 24 and to 32: whatever this machine has."""
    there = replace(table, path=tmp_path / "there.json", channel_block=block)
    there.save()
    assert load_table(there.path).channel_block == block
    model = open_model(on(there))
    assert model.runtime.channel_multiple == block
    expected = Counter(kernels_by_rules(network(20), HW, block))
    assert Counter(model.kernels(network(20), HW)) == expected
    other = Counter(kernels_by_rules(network(20), HW, 24 - block))
    assert other != expected


def on(table: LatencyTable, **changes: object) -> Target:
    return Target("onnxruntime", table=table.path, **changes)  # type: ignore[arg-type]


def test_here_what_is_missing_is_timed_and_kept(tmp_path: Path) -> None:
    model = open_model(Target("onnxruntime"), tmp_path / "table.json")
    found = model.predict(network(), HW)
    assert (found.coverage, found.estimated) == (1.0, ())
    keys = {kernel.key for kernel in detect_kernels(network(), HW)}
    assert keys == set(model.table.kernels)
    assert model.latency(network(), HW).ms == pytest.approx(predict(model.table, detect_kernels(network(), HW)).ms)


def test_there_nothing_is_timed_and_what_is_missing_is_named(
    table: LatencyTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(*_: object, **__: object) -> None:
        raise AssertionError("another device cannot be timed here")

    for name in ("complete_table", "profile_in_networks", "time_interleaved", "keep"):
        monkeypatch.setattr(f"compress.measure.latency_model.{name}", timed)
    before = table.path.read_bytes()
    model = open_model(on(table))
    known = model.predict(network(16), HW)
    assert known.estimated == ()
    assert known.ms == pytest.approx(predict(table, Counter(detect_kernels(network(16), HW))).ms)
    unknown = model.predict(network(40), HW)
    keys = {kernel.key for kernel in detect_kernels(network(40), HW)}
    assert set(unknown.estimated) == keys - table.kernels.keys() != set()
    assert unknown.high_ms is not None
    assert known.high_ms is not None
    assert unknown.high_ms / unknown.ms > known.high_ms / known.ms  # what is estimated widens the interval
    latency = model.latency(network(16), HW)
    assert (latency.provenance, latency.target) == ("predicted", "onnxruntime, 4 threads, phone")
    assert sum(model.nodes(network(16), HW).times) == pytest.approx(known.ms)
    assert table.path.read_bytes() == before


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"engine": "ncnn"}, "engine: a target's table must be of its engine, ncnn"),
        ({"threads": 2}, "threads: a target's table must be of its threads, 2"),
        ({"precision": "float16"}, "precision: a target's table must be of its precision, float16"),
        ({"table": Path("nowhere.json")}, "nowhere.json: no such latency table"),
    ],
)
def test_a_table_of_something_else_is_refused(table: LatencyTable, target: dict[str, object], said: str) -> None:
    with pytest.raises(TableError, match=said):
        open_model(replace(on(table), **target))  # type: ignore[arg-type]


def test_an_empty_or_damaged_table_is_refused(table: LatencyTable, tmp_path: Path) -> None:
    replace(table, path=tmp_path / "empty.json", kernels={}).save()
    with pytest.raises(TableError, match="must not be empty"):
        open_model(Target("onnxruntime", table=tmp_path / "empty.json"))
    data = json.loads(table.path.read_text())
    del data["precision"]
    (tmp_path / "old.json").write_text(json.dumps(data))
    with pytest.raises(TableError, match=r"not a latency table.*precision"):
        open_model(Target("onnxruntime", table=tmp_path / "old.json"))


def test_what_the_engine_has_not_is_refused() -> None:
    with pytest.raises(EngineError, match="precision"):
        runtime_of(Target("onnxruntime", precision="float16"))
    with pytest.raises(EngineError, match="provider"):
        runtime_of(Target("onnxruntime", provider="coreml"))
    with pytest.raises(EngineError, match="has no kernels"):
        open_model(Target("torch"))


def test_an_engine_without_kernels_is_timed_whole() -> None:
    target = Target("torch")
    found = TimedModel(target, runtime_of(target), 4, 2.0).latency(network(), HW)
    assert (found.provenance, found.target, found.clock) == ("measured", "torch, 1 thread", "reference")
    assert found.ms > 0
    assert label(target, identity_of(target)) == "torch, 1 thread"
    assert isinstance(open_model(Target("onnxruntime")), LatencyModel)


class Fickle(OnnxRuntime):
    """Tells kernels from exports only, and optimises every other one otherwise."""

    exports = 0
    assembles_kernels = False  # type: ignore[assignment]

    def kernels_by_part(self, network: nn.Module, input_hw: tuple[int, int]) -> None:
        return None

    def export(self, network: nn.Module, input_hw: tuple[int, int], folder: Path, stem: str) -> tuple[Path, ...]:
        Fickle.exports += 1
        last = [nn.Sigmoid()] if Fickle.exports % 2 else [nn.Tanh()]
        return super().export(nn.Sequential(network, *last), input_hw, folder, stem)


def test_kernels_are_those_of_the_export_that_they_are_timed_in(tmp_path: Path) -> None:
    target = Target("onnxruntime")
    table = open_table(tmp_path / "table.json", identity_of(target))
    model = LatencyModel(target, Fickle(), table)
    found = model.kernels(network(), HW)
    assert Fickle.exports == 1
    assert {kernel.key for kernel in found} == set(table.kernels)
    assert any("Sigmoid" in key for key in table.kernels)
