"""The latency table of a run: measured once, and the run's own from then on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from torch import nn

from compress.engines import engine
from compress.engines.engine import Profiler
from compress.errors import TableError
from compress.jobs.latency.latency import space_named
from compress.measure import in_network, latency_table
from compress.measure.kept_tables import table_path
from compress.measure.latency_table import Entry, LatencyTable, Scale, load_table
from compress.measure.profiling import Profiled
from compress.measure.target import Target
from compress.nas import space_table as deployment
from compress.nas.space import KEEP, EditChoice, Pick, Space
from compress.nas.space_table import covering, prepare_table
from compress.networks import architecture_from_data, architecture_to_data
from compress.networks.mobile_openpose import MobileOpenPose
from compress.progress import Silent
from compress.recipe import LatencyRecipe

SIZE = (64, 64)
ROUNDS = 4
SPACE = {
    "family": "dir_bhrnet",
    "fixed": {"width": 16, "head": "single", "blocks": [[1], [1, 0], [1, 0, 0], [1, 0, 0, 0]]},
    "choices": {"blocks.0.0": [0, 1]},
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `cache` and `run`, as a first run left them, and `tiny.yaml`, its space."""
    folder = tmp_path_factory.mktemp("begun")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SPACE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deployment, "SCALE_NETWORKS", 2)
        patch.setenv("COMPRESS_CACHE", str(folder / "cache"))
        prepared(folder / "run")
    return folder


@pytest.fixture
def folder(begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the machine's state."""
    shutil.copytree(begun, tmp_path / "copy")
    monkeypatch.setattr(deployment, "SCALE_NETWORKS", 2)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "copy" / "cache"))
    return tmp_path / "copy"


def prepared(run: Path) -> LatencyTable:
    space = space_named(str(run.parent / "tiny.yaml"), LatencyRecipe(input_hw=SIZE))
    assert space is not None

    def build(pick: Pick) -> nn.Module:
        return architecture_from_data(space.apply(pick), "test").build()

    run.mkdir(exist_ok=True)
    return prepare_table(run / "latency_table.json", Target("onnxruntime"), ROUNDS, space, build, SIZE, 1, Silent())


def first_of(folder: Path) -> LatencyTable:
    """The table that the first run made."""
    return load_table(folder / "run" / "latency_table.json")


def kept_with(folder: Path, table: LatencyTable) -> Path:
    """Makes it the machine's kept table, without a scale."""
    kept = table_path(table.identity)
    for scale_file in kept.parent.glob("*-scale-*.json"):
        scale_file.unlink()
    replace(table, path=kept, scale=None).save()
    return kept


def slower(entry: Entry, factor: float, **changes: float) -> Entry:
    timing = entry.timing
    changed = {"ratio": factor * timing.ratio, "normalised_ms": factor * timing.normalised_ms, **changes}
    return replace(entry, timing=replace(timing, **changed))  # type: ignore[arg-type]


def test_a_resumed_run_keeps_its_table_and_scale_whatever_became_of_the_cache(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = first_of(folder)
    assert first.scale is not None
    assert len(first.kernels) > 10
    before = (folder / "run" / "latency_table.json").read_bytes()

    def measured(*_: object, **__: object) -> None:
        raise AssertionError("something was measured")

    monkeypatch.setattr(in_network, "time_nodes", measured)
    monkeypatch.setattr(deployment, "time_runners", measured)
    # Another run on this machine starts from the kept table and scale,
    assert prepared(folder / "other") == replace(first, path=folder / "other" / "latency_table.json")
    # and this one goes on with its own: with an emptied cache,
    shutil.rmtree(folder / "cache")
    assert prepared(folder / "run") == first
    # and with another table and scale in it.
    kept = table_path(first.identity)
    kept.parent.mkdir(parents=True)
    replace(first, path=kept, reference_ms=9.0, scale=Scale(2.3, 6, 0.01)).save()
    assert prepared(folder / "run") == first
    assert (folder / "run" / "latency_table.json").read_bytes() == before


def test_only_of_edited_networks_most_kernels_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """`compress latency build` of a space with edits takes its networks without them, and has every kernel."""
    monkeypatch.setattr(deployment, "_RANDOM_PICKS", 1)
    called: list[str] = []
    for name in ("cover", "cover_most"):
        monkeypatch.setattr(deployment, name, lambda kernels, name=name: called.append(name) or [0])
    base = architecture_to_data(MobileOpenPose(blocks=(1, 1), width=4, features=8))
    edit = EditChoice("kernels", ("refinements",), "rewrite", (KEEP, "conv_to_3x3"))
    plain, edited = Space(base, {"width": (4, 8)}), Space(base, {edit.path: edit.values}, (edit,))
    network = architecture_from_data(base, "test").build()
    for space in (plain, edited):
        for build in (None, lambda pick: network):
            covering(space, (32, 32), 1, Silent(), engine("onnxruntime"), (), build)
    assert called == ["cover", "cover", "cover", "cover_most"]


def test_a_kept_scale_of_another_clock_is_not_used(folder: Path) -> None:
    first = first_of(folder)
    (scale_file,) = table_path(first.identity).parent.glob("*-scale-*.json")
    scale_file.write_text(json.dumps({"factor": 1.9, "networks": 6, "error": 0.01, "reference_ms": 77.0}))
    again = prepared(folder / "other")
    assert again.scale is not None
    assert again.scale.networks == 2
    certain = {key: entry for key, entry in first.kernels.items() if not entry.uncertain}  # others are timed again
    assert again.kernels.keys() == first.kernels.keys()
    assert certain == {key: again.kernels[key] for key in certain}


def test_kernels_that_contradict_whole_networks_are_timed_anew_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kept table whose times were taken while something else ran: four times too long, and certain of it."""
    monkeypatch.setattr(latency_table, "WORST_FACTOR", 2.0)
    good = first_of(folder)
    poisoned = {key: slower(entry, 4, uncertainty=0.01) for key, entry in good.kernels.items()}
    kept = kept_with(folder, replace(good, kernels=poisoned))
    mended = prepared(folder / "mended")
    assert mended.scale is not None
    key = max(good.kernels, key=lambda key: good.kernels[key].timing.ratio)
    for table in (mended, load_table(kept)):
        assert table.kernels[key].timing.ratio < 3 * good.kernels[key].timing.ratio

    # Where they contradict each other even so, the run stops and keeps no scale.
    real = in_network.time_nodes

    def four_times(profiler: Profiler, rounds: int) -> Profiled:
        found = real(profiler, rounds)
        return replace(found, timings=tuple(replace(timing, ratio=4 * timing.ratio) for timing in found.timings))

    monkeypatch.setattr(in_network, "time_nodes", four_times)
    shutil.rmtree(folder / "cache")
    with pytest.raises(TableError, match=r"whole networks must take what their kernels add up to.*factor of 0\.[1-4]"):
        prepared(folder / "bad")
    assert load_table(folder / "bad" / "latency_table.json").scale is None
    assert not list(kept.parent.glob("*-scale-*.json"))


def test_uncertain_kernels_of_the_kept_table_are_timed_again(folder: Path) -> None:
    good = first_of(folder)
    key = max(good.kernels, key=lambda key: good.kernels[key].timing.ratio)
    noisy = replace(slower(good.kernels[key], 40, uncertainty=0.9), tries=1)
    kept = kept_with(folder, replace(good, kernels={**good.kernels, key: noisy}))
    run = prepared(folder / "new")
    for table in (run, load_table(kept)):
        assert table.kernels[key].timing.ratio < 4 * good.kernels[key].timing.ratio
    assert run.kernels[key].tries == 2


def test_a_run_killed_while_it_measures_does_not_go_on_with_the_scale_of_a_build(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = first_of(folder)
    known = dict(sorted(good.kernels.items())[:3])
    kept = kept_with(folder, replace(good, kernels=known))
    replace(good, path=kept, kernels=known, scale=Scale(1.9, 6, 0.01)).save()  # as `compress latency build` leaves it

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(in_network, "time_nodes", killed)
    for _ in range(2):  # the resumed run has as much to measure
        with pytest.raises(KeyboardInterrupt):
            prepared(folder / "new")
        begun = load_table(folder / "new" / "latency_table.json")
        assert (begun.scale, begun.kernels) == (None, known)


def test_a_resumed_run_has_the_kernels_that_the_scale_of_another_was_fitted_on(folder: Path) -> None:
    first = first_of(folder)
    part = folder / "part" / "latency_table.json"
    part.parent.mkdir()
    replace(first, path=part, scale=None, kernels=dict(sorted(first.kernels.items())[:3])).save()
    assert prepared(part.parent) == replace(first, path=part)


def test_a_kept_scale_goes_with_the_kernels_it_was_fitted_on(folder: Path) -> None:
    first = first_of(folder)
    kept = table_path(first.identity)
    (scale_file,) = kept.parent.glob("*-scale-*.json")
    marked = {**json.loads(scale_file.read_text()), "factor": 1.9}
    assert marked["kernels"].keys() <= first.kernels.keys()
    key = max(marked["kernels"], key=lambda key: marked["kernels"][key])
    # More kernels change nothing; one that was timed anew does, and so does a file that does not say.
    more = {**first.kernels, "another": first.kernels[key]}
    anew = {**first.kernels, key: slower(first.kernels[key], 1.01)}
    unsaid = {name: value for name, value in marked.items() if name != "kernels"}
    for kernels, content, used in ((more, marked, True), (anew, marked, False), (first.kernels, unsaid, False)):
        scale_file.write_text(json.dumps(content))
        scale = deployment._read_scale(scale_file, replace(first, kernels=kernels))
        assert (scale == Scale(1.9, marked["networks"], marked["error"])) if used else scale is None
