"""`compress latency`, on spaces and networks of a few milliseconds."""

import json
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from compress.artefacts.records import from_plain, to_plain
from compress.artefacts.results import BuiltTable, PackedFolder
from compress.cli import app
from compress.engines import engine
from compress.engines.engine import description_of
from compress.engines.ncnn_kernels import replicate
from compress.engines.packed_run import cpuinfo_of
from compress.errors import TableError
from compress.jobs.latency.latency import (
    accuracy,
    build,
    candidates,
    check,
    compare_files,
    covering_candidates,
    merge_files,
    network_name,
    show,
)
from compress.jobs.latency.pack import DeviceTimes, NetworkTimes, TimedRun, pack, read_manifest, unpack
from compress.measure import in_network
from compress.measure.kernels import detect_kernels, kernels_of_engine
from compress.measure.latency_table import Prediction, load_table
from compress.networks import architecture_from_data
from compress.progress import Silent
from compress.recipe import LatencyRecipe
from compress.report.latency import print_built, print_checked, print_compared, print_shown

SPACE = {
    "family": "dir_bhrnet",
    "fixed": {"head": "single", "blocks": [[1], [1, 0], [1, 0, 0], [1, 0, 0, 0]]},
    "choices": {"blocks.0.0": [0, 1], "kinds.0": ["ir", "residual"]},
}


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("space") / "tiny.yaml"
    path.write_text(yaml.safe_dump(SPACE))
    return str(path)


def wider() -> nn.Module:
    """For `module:function`: a network of which the space's table knows some kernels."""
    fixed = architecture_from_data({"family": "dir_bhrnet", **SPACE["fixed"], "width": 24}, "test")  # type: ignore[dict-item]
    return fixed.build()


OTHER = f"{__name__}:wider"


def recipe(**settings: object) -> LatencyRecipe:
    return LatencyRecipe.model_validate({"input_hw": [64, 64], "networks": 2, "rounds": 4, **settings})


@pytest.fixture(scope="module")
def built(space: str, tmp_path_factory: pytest.TempPathFactory) -> BuiltTable:
    """The space's table, built once for all tests that need one."""
    return build([space], recipe(), tmp_path_factory.mktemp("built") / "table.json", Silent())


@pytest.fixture
def path(built: BuiltTable, tmp_path: Path) -> Path:
    """A copy of the table."""
    return shutil.copy(built.table, tmp_path / "table.json")


def test_build_show_check(built: BuiltTable, path: Path, space: str) -> None:
    settings, console = recipe(), Console(record=True, width=160)
    table = load_table(path)
    assert built.kernels == built.measured == len(table.kernels) > 20
    assert {entry.provenance for entry in table.kernels.values()} == {"in situ"}
    assert table.scale is not None
    assert table.scale.networks == 2
    before = path.read_bytes()
    again = build([space], settings, path, Silent())
    assert again.measured == 0
    now = load_table(path).kernels  # kernels that stayed uncertain were timed once more
    certain = {key: entry for key, entry in table.kernels.items() if not entry.uncertain}
    assert now.keys() == table.kernels.keys()
    assert certain == {key: now[key] for key in certain}

    shown = show(OTHER, settings, path, Silent())
    assert shown.prediction.ms == pytest.approx(sum(row.ms for row in shown.kernels))
    assert sum(row.share for row in shown.kernels) == pytest.approx(1) == pytest.approx(sum(shown.operators.values()))
    estimated = [row.kernel for row in shown.kernels if row.provenance == "estimated"]
    assert sorted(estimated) == sorted(shown.prediction.estimated) != []
    assert all(row.ms > 0 for row in shown.kernels)

    path.write_bytes(before)
    checked = check([space], settings, path, Silent())
    assert path.read_bytes() == before
    assert [row.network for row in checked.networks] == ["tiny-0", "tiny-1"]
    assert checked.accuracy.count == 2
    assert 0.9 < checked.accuracy.coverage <= 1
    for row in checked.networks:
        assert (row.measured.provenance, row.measured.clock) == ("measured", "reference")
        assert row.error == pytest.approx(row.predicted.ms / row.measured.ms - 1)
    print_built(built, console)
    print_shown(shown, console)
    print_checked(checked, console)
    for result in (built, shown, checked):
        assert from_plain(type(result), json.loads(json.dumps(to_plain(result), allow_nan=False)), "") == result
    text = console.export_text()
    assert "estimated" in text
    assert "Kendall's tau" in text


def test_a_killed_build_goes_on(space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_network, "BATCH", 1)
    monkeypatch.setattr(in_network, "TRIES", 1)  # a busy machine would take the second try for the second network
    timed: list[object] = []
    real = in_network.time_nodes

    def dying(profiler: object, rounds: int) -> object:
        if timed:
            raise KeyboardInterrupt
        timed.append(profiler)
        return real(profiler, rounds)  # type: ignore[arg-type]

    monkeypatch.setattr(in_network, "time_nodes", dying)
    path = tmp_path / "table.json"
    with pytest.raises(KeyboardInterrupt):
        build([space], recipe(), path, Silent())
    first = load_table(path).kernels
    monkeypatch.setattr(in_network, "time_nodes", real)
    build([space], recipe(), path, Silent())
    again = load_table(path).kernels  # what was uncertain is timed again
    assert all(again[key] == entry for key, entry in first.items() if not entry.uncertain)
    assert first.keys() <= again.keys()
    assert len(first) < len(load_table(path).kernels)


def test_the_covering_networks_have_every_kernel(space: str) -> None:
    covered = set().union(
        *(detect_kernels(c.build(), (64, 64)) for c in covering_candidates([space], recipe(), Silent()))
    )
    sampled = set().union(*(detect_kernels(c.build(), (64, 64)) for c in candidates([space], recipe(), 12, 5)))
    assert sampled <= covered


def test_check_takes_other_networks_than_the_scale_was_fitted_on(space: str) -> None:
    first, second = (candidates(["bhrnet_small"], recipe(), 4, seed) for seed in (1, 2))
    sizes = [[sum(p.numel() for p in c.build().parameters()) for c in group] for group in (first, second)]
    assert not set(sizes[0]) & set(sizes[1])


def test_networks_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """Their files and times are kept by name: the second would take the place of the first."""
    small = recipe(input_hw=[64, 64], purpose="rewrite")
    chosen = candidates(["mobileposenet", "mobileposenet", "mobileposenet"], small, 1, 1)
    assert [one.name for one in chosen] == ["mobileposenet", "mobileposenet-2", "mobileposenet-3"]
    names = [
        network_name(source) for source in ("mine.nets:first", "mine.nets:second", "runs/a", "hrnet_w32", "n.onnx")
    ]
    assert names == ["mine.nets-first", "mine.nets-second", "a", "hrnet_w32", "n"]
    packed = pack([f"{__name__}:one", f"{__name__}:one"], small, tmp_path / "packed", Silent())
    assert packed.networks == 2
    assert len({network.file for network in read_manifest(tmp_path / "packed").networks}) == 2


def one() -> nn.Module:
    """A convolution that no rule replaces."""
    return nn.Conv2d(3, 17, 1)


def test_run_py_knows_the_device_again_whatever_the_clock_of_its_cpu() -> None:
    """x86 and ARM; a killed run goes on where it was."""

    def text(mhz: str) -> str:
        core = f"processor: 0\nmodel name: A CPU\ncpu family: 25\ncpu MHz\t\t: {mhz}\nbogomips: {mhz}\nflags: fma avx2"
        return f"{core}\n\n{core.replace('0', '1')}\n"

    found = cpuinfo_of(text("2445.404"))
    assert found == cpuinfo_of(text("3711.7")) == "processor: 0\nmodel name: A CPU\ncpu family: 25\nflags: fma avx2"
    assert cpuinfo_of("processor: 0\nBogoMIPS: 108.00\nFeatures: fp asimd\n") == "processor: 0\nFeatures: fp asimd"
    first, second = (description_of("ncnn", "1", given, "", 4, "Linux") for given in (found, text("2445.404")))
    assert first == second


def test_a_foreign_table_must_be_allowed_and_is_marked(space: str, path: Path) -> None:
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "version": "0.1"}))
    with pytest.raises(TableError, match=r"table\.json: version.*0\.1"):
        show(OTHER, recipe(), path, Silent())
    allowed = recipe(allow_foreign=True)
    shown = show(OTHER, allowed, path, Silent())
    assert shown.prediction.foreign == (f"version '0.1' for '{engine('onnxruntime').describe().version}'",)
    console = Console(record=True, width=160)
    print_shown(shown, console)
    assert "of something else: version '0.1'" in console.export_text()
    with pytest.raises(TableError, match="cannot be built on"):
        build([space], allowed, path, Silent())


def test_accuracy_by_hand() -> None:
    found = accuracy(
        [
            (Prediction(ms, None, None, coverage=1.0, time_coverage=0.5, estimated=()), measured)
            for ms, measured in ((1.04, 1.0), (1.8, 2.0), (6.0, 4.0))
        ]
    )
    assert found.mape == pytest.approx((0.04 + 0.1 + 0.5) / 3)
    assert (found.within_5, found.within_10) == pytest.approx((1 / 3, 2 / 3))
    assert (found.tau, found.worst, found.time_coverage) == pytest.approx((1, 0.5, 0.5))


def test_on_the_command_line(space: str, path: Path) -> None:
    """Of a table that knows the space's kernels already."""
    table, small = str(path), ["--set", "input_hw=[64,64]", "--set", "networks=2", "--set", "rounds=4"]
    done = CliRunner().invoke(app, ["latency", "build", space, "--table", table, "--json", "-q", *small])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert (printed["job"], printed["result"]["table"]) == ("latency build", table)
    done = CliRunner().invoke(app, ["latency", "show", OTHER, "--table", table, "-q", *small])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["latency", "check", "dir_bhrnet", "--table", table, "-q", *small])
    assert done.exit_code == 2


# --- Other devices ---------------------------------------------------------------------------------------------------


Packed = Callable[[str], tuple[PackedFolder, Path]]


@pytest.fixture(scope="module")
def made(space: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PackedFolder]:
    """The space packed for an engine, once."""

    @cache
    def packed(runtime: str) -> PackedFolder:
        folder = tmp_path_factory.mktemp("made") / runtime
        return pack([space], recipe(target=runtime, networks=1), folder, Silent())

    return packed


@pytest.fixture
def packed_copy(made: Callable[[str], PackedFolder], tmp_path: Path) -> Packed:
    """What packing says, and a copy of the folder."""

    def copied(runtime: str) -> tuple[PackedFolder, Path]:
        packed = made(runtime)
        return packed, shutil.copytree(packed.folder, tmp_path / "elsewhere")

    return copied


@pytest.mark.parametrize("runtime", ["onnxruntime", "ncnn", "mnn", "openvino"])
def test_a_packed_folder_gives_a_table(
    runtime: str, space: str, built: BuiltTable, packed_copy: Packed, tmp_path: Path
) -> None:
    """In a process of its own, in another place, where nothing of ours can be imported."""
    if runtime == "mnn":
        pytest.importorskip("MNN")
    if runtime == "openvino" and find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed")
    packed, folder = packed_copy(runtime)
    with pytest.raises(TableError, match=r"results\.json.*run"):
        unpack(folder, tmp_path / "none.json", None, Silent())
    # OpenVINO tells the mean of every few passes: what took the core away meanwhile is left out of several of these.
    rounds = "28" if runtime == "openvino" else "4"
    done = subprocess.run(
        [sys.executable, "-I", "run.py", "--rounds", rounds], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    unpack(folder, tmp_path / "there.json", None, Silent())
    there = load_table(tmp_path / "there.json")
    assert there.identity.device == engine(runtime).describe().device
    assert len(there.kernels) == packed.kernels
    assert there.channel_block == engine(runtime).channel_block
    assert (there.channel_block is None) == (runtime != "onnxruntime")
    if runtime == "onnxruntime":
        assert there.kernels.keys() == load_table(Path(built.table)).kernels.keys()
    if runtime == "ncnn":  # mnn's exports take longest
        build([space], recipe(target=runtime, networks=1), tmp_path / "here.json", Silent())
        assert there.kernels.keys() == load_table(tmp_path / "here.json").kernels.keys()


def test_results_of_something_else_are_refused(space: str, packed_copy: Packed, tmp_path: Path) -> None:
    _, folder = packed_copy("onnxruntime")
    (folder / "results.json").write_text('{"engine": "onnxruntime"}')
    with pytest.raises(TableError, match=r"results\.json: version: field required.*the results of run\.py"):
        unpack(folder, tmp_path / "table.json", None, Silent())
    manifest = read_manifest(folder)
    times = [NetworkTimes(one.name, [1.0], [1.0], [1.0], [[1.0]], ("node",)) for one in manifest.networks]
    right = DeviceTimes(
        "onnxruntime", "1.0", "", "a CPU", 2, "Linux", manifest.folder, (TimedRun(1, "float32", 4, tuple(times)),)
    )
    for there, said in (
        (replace(right, folder="another"), "must be of this packed folder"),
        (replace(right, engine="ncnn"), "must be of this packed folder"),
        (replace(right, runs=(replace(right.runs[0], networks=()),)), "has not measured every network"),
        (replace(right, runs=()), "has measured nothing"),
        (right, "do not fit the folder"),
    ):
        (folder / "results.json").write_text(json.dumps(to_plain(there)))
        with pytest.raises(TableError, match=said):
            unpack(folder, tmp_path / "table.json", None, Silent())
    with pytest.raises(TableError, match="must be new"):
        pack([space], recipe(), folder, Silent())


def test_benchncnns_results_are_the_time_of_one_copy_more(
    space: str, packed_copy: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, folder = packed_copy("ncnn")
    rows = json.loads((folder / "manifest.json").read_text())["bench"]
    assert len(rows) == packed.kernels
    runtime, lines = engine("ncnn"), ["loop_count = 20", "num_threads = 1", "powersave = 0", "gpu_device = -1"]
    for number, row in enumerate(rows):
        for copies in row["copies"]:
            # As benchncnn prints it; every copy takes 0.02 ms more than the last kernel's, the rest of a model 0.5 ms.
            ms = 0.5 + copies * 0.02 * (number + 1)
            lines.append(f"{row['model']}x{copies}.param  min = {ms:7.2f}  max = {ms + 1:7.2f}  avg = {ms + 0.3:7.2f}")
    with pytest.raises(TableError, match="has not been run"):
        unpack(folder, tmp_path / "table.json", "a phone", Silent())
    printed = folder / "benchncnn" / "benchncnn.txt"
    printed.write_text("\n".join(lines))
    with pytest.raises(TableError, match="must say what benchncnn computed in"):
        unpack(folder, tmp_path / "table.json", "a phone", Silent())
    assert not (tmp_path / "table.json").exists()
    lines.insert(0, "precision = float16")
    printed.write_text("\n".join(lines))
    unpack(folder, tmp_path / "table.json", "a phone", Silent())
    table = load_table(tmp_path / "table.json")
    assert table.identity.device == "a phone"
    assert (table.identity.threads, table.identity.precision) == (1, "float16")
    last = max(n for n, row in enumerate(rows) if not row["kernel"].startswith("Split"))
    assert table.kernels[rows[last]["kernel"]].timing.ratio == pytest.approx(0.02 * (last + 1), rel=0.01)
    printed.write_text("\n".join(lines[:-1]))
    with pytest.raises(TableError, match="did not time every model"):
        unpack(folder, tmp_path / "table.json", "a phone", Silent())
    # On two numbers of threads: a table of each, where such tables are kept.
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    printed.write_text("\n".join([*lines, *lines]).replace("num_threads = 1", "num_threads = 4", 1))
    with pytest.raises(TableError, match=r"one number of threads \(found '4, 1'\)"):
        unpack(folder, tmp_path / "table.json", "a phone", Silent())
    result = unpack(folder, None, "a phone", Silent())
    tables = [load_table(Path(file)) for file in (result.table, *result.others)]
    assert [(one.identity.threads, one.identity.precision) for one in tables] == [(4, "float16"), (1, "float16")]
    # The models themselves are ncnn's: with weights of zeros, as benchncnn makes them, they load and run.
    (candidate,) = candidates([space], recipe(), 1, 1)
    kernel = next(u for u in kernels_of_engine(candidate.build(), (64, 64), runtime) if u.operator == "Convolution")
    replicate(kernel, 3, tmp_path / "three.param")
    profiler = runtime.profiler(tmp_path / "three.param")
    profiler.run()
    profiler.run_timed()
    assert [u for u in profiler.finish().kernels if u.operator == "Convolution"] == [kernel] * 3


def test_a_packed_folder_runs_where_only_the_engine_is(packed_copy: Packed, tmp_path: Path) -> None:
    """A fresh environment with onnxruntime and numpy; skipped where it cannot be made, offline."""
    packed, folder = packed_copy("onnxruntime")
    venv.create(tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    version = engine("onnxruntime").describe().version
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--retries", "0", f"onnxruntime=={version}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"onnxruntime cannot be installed here: {installed.stderr.strip().splitlines()[-1:]}")
    has = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False)
    assert has.returncode != 0
    done = subprocess.run([python, "run.py", "--rounds", "4"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    unpack(folder, tmp_path / "there.json", None, Silent())
    assert len(load_table(tmp_path / "there.json").kernels) == packed.kernels


def test_tables_are_merged_and_compared(path: Path, tmp_path: Path) -> None:
    copy, out = tmp_path / "copy.json", tmp_path / "merged.json"
    table = load_table(path)
    gone, changed = sorted(table.kernels)[:2]
    entry = table.kernels[changed]
    slower = replace(entry.timing, ratio=2 * entry.timing.ratio)
    table.kernels = {**table.kernels, changed: replace(entry, timing=slower)}
    del table.kernels[gone]
    table.path = copy
    table.save()
    found = compare_files(path, copy)
    assert (found.only_first, found.only_second, found.identity) == ((gone,), (), {})
    assert next(iter(found.changes)) == changed
    assert found.changes[changed] == pytest.approx(1.0, rel=1e-4)  # six digits are kept
    console = Console(record=True, width=160)
    print_compared(found, console)
    assert "1 kernels only in the first" in console.export_text()
    assert merge_files([copy, path], out).kernels == len(load_table(path).kernels) == len(load_table(out).kernels)
    with pytest.raises(TableError, match="new file"):
        merge_files([copy, path], out)


def test_again_times_all_of_what_was_asked_anew(space: str, path: Path) -> None:
    settings, console = recipe(), Console(record=True, width=160)
    table = load_table(path)
    for key, entry in table.kernels.items():  # timed in noise, all alike, so that nothing tells
        timing = replace(entry.timing, ratio=1.5 * entry.timing.ratio, uncertainty=0.0)
        table.kernels[key] = replace(entry, timing=timing)
    table.save()
    assert build([space], settings, path, Silent()).timed_again == 0
    again = build([space], settings, path, Silent(), again=True)
    assert (again.measured, again.timed_again) == (0, len(table.kernels))
    key = max(table.kernels, key=lambda key: table.kernels[key].timing.ratio)
    assert load_table(path).kernels[key].timing.ratio < table.kernels[key].timing.ratio
    print_built(replace(again, uncertain=3), console)
    assert f"{len(table.kernels)} timed again" in console.export_text(clear=False)
    assert "3 kernels: build again" in console.export_text()


def test_one_network_gives_no_scale_and_no_interval(tmp_path: Path) -> None:
    path, console = tmp_path / "table.json", Console(record=True, width=160)
    built = build(["mobileposenet"], recipe(), path, Silent())
    assert built.scale is None
    shown = show("mobileposenet", recipe(), path, Silent())
    assert (shown.prediction.low_ms, shown.prediction.high_ms) == (None, None)
    checked = check(["mobileposenet"], recipe(), path, Silent())
    assert [row.inside for row in checked.networks] == [None]
    print_built(built, console)
    print_shown(shown, console)
    print_checked(checked, console)
    text = console.export_text()
    assert "unknown: it needs several networks" in text
    assert text.count("interval unknown") == 2
