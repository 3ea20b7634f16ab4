"""The commands as a user types them: results as JSON, and every mistake as one line with exit code 2."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from scipy.io import savemat
from typer.testing import CliRunner, Result

from compress.artefacts.artefact import save_artefact
from compress.artefacts.metadata import Metadata
from compress.artefacts.records import from_plain
from compress.artefacts.results import SCHEMA, NetworkRow, PredictResult, document, read_results
from compress.cli import app, default_run, perform
from compress.data.synthetic import SyntheticPeople, write_coco
from compress.networks.dir_bhrnet import DirBHRNet, equal_blocks
from compress.recipe import Data, PruneRecipe, RewriteRecipe

ARCHITECTURE = DirBHRNet(width=8, blocks=equal_blocks(1), head="single")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails(*arguments: object) -> str:
    """The one line that a mistake prints."""
    result = run(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    if "--json" in arguments:
        assert f"error: {json.loads(result.stdout)['error']['message']}" == lines[0]
    else:
        assert result.stdout == ""
    return lines[0]


def result_of(*arguments: object) -> Any:
    """The result that a command prints as JSON; it ends well."""
    done = run(*arguments, "--json", "-q")
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.stdout)["result"]


@pytest.fixture
def artefact(tmp_path: Path) -> Path:
    folder = tmp_path / "artefact"
    save_artefact(folder, ARCHITECTURE, ARCHITECTURE.build(), Metadata((64, 64), data=Data()))
    return folder


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """A COCO folder of eight synthetic pictures, as `train` and `val`."""
    folder = tmp_path / "coco"
    for split, seed in (("train", 1), ("val", 2)):
        part = tmp_path / split
        write_coco(SyntheticPeople(8, (64, 64), seed), part)
        folder.mkdir(exist_ok=True)
        (part / "images").rename(folder / split)
        (part / "annotations.json").rename(folder / f"person_keypoints_{split}.json")
    return folder


def test_help_imports_nothing_heavy() -> None:
    heavy = "('torch', 'onnx', 'optuna', 'numpy', 'vl_convert')"
    code = f"import sys, compress.cli; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


HEAVY = ("torch", "onnx", "onnxruntime", "optuna", "numpy", "vl_convert", "cv2", "pycocotools")


MISTAKEN = (
    "prune hrnet_w32 --ratio 1.5",
    "prune hrnet_w32 --ratio 0.5 --set pruning.ration=0.5",
    "prune hrnet_w32 --recipe nothing",
    "rewrite",
    "rewrite hrnet_w32 --min-gain 2",
    "train hrnet_w23",
    "train hrnet_w32 --bogus",
    "profile nothing",
    "profile nothing.onnx",
    "export nothing",
    "evaluate /nonexistent",
    "predict /nonexistent a.png",
    "search nothing",
    "search bhrnet --set seed=x",
    "latency build bhrnet_small --set rounds=0",
)


def test_help_and_mistakes_in_the_arguments_import_nothing_heavy() -> None:
    """All in one process, which ends with the first command that does."""
    code = f"""
import sys
from compress.cli import main
for line, end in [*((line, 2) for line in {MISTAKEN!r}), ("--help", 0), ("prune --help", 0)]:
    sys.argv = ["compress", *line.split()]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == end, (line, ended.code)
    found = [name for name in {HEAVY!r} if name in sys.modules]
    assert not found, (line, found)
print("nothing")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[-1:] == ["nothing"], result.stderr


def test_mistakes_are_json_where_json_is_asked_for(artefact: Path, tmp_path: Path) -> None:
    for arguments in (
        ["train", "hrnet_w23"],
        ["evaluate", tmp_path],
        ["prune", artefact, "--ratio", "2"],
        ["predict", artefact, tmp_path / "none.png"],
        ["search", "bhrnet", "--set", "sead=2"],
    ):
        fails(*arguments, "--json")
    mistyped = [sys.executable, "-m", "compress", "profile", "hrnet_w32", "--json", "--bogus"]
    result = subprocess.run(mistyped, capture_output=True, text=True, check=False)
    assert (result.returncode, json.loads(result.stdout)["error"]["kind"]) == (2, "UsageError")
    assert "--bogus" in result.stderr


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("rewrite hrnet_w32 --min-gain much", ["'--min-gain'", "see `", "compress rewrite --help`"]),
        ("prune hrnet_w32 --bogus", ["--bogus", "compress prune --help`"]),
        ("prune", ["NETWORK", "compress prune --help`"]),
        ("purne hrnet_w32", ["purne", "prune", "compress --help`"]),
    ],
)
def test_mistyped_commands_and_options_are_one_line(line: str, parts: list[str]) -> None:
    command = [sys.executable, "-m", "compress", *line.split()]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    (said,) = result.stderr.splitlines()
    assert said.startswith("error: ")
    assert all(part in said for part in parts), said


def test_no_command_shows_the_help() -> None:
    result = subprocess.run([sys.executable, "-m", "compress"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "Make a network faster" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--ratio", "1.5"], ["error: --ratio: ", "1.5"]),
        (["--ratio", "150%"], ["error: --ratio: ", "less than 1"]),
        (["--macs", "half%"], ["error: --macs: ", "0.5 or 50%"]),
        (["--ratio", "0.5", "--macs", "0.5"], ["error: --ratio, --macs: ", "one goal"]),
        (["--ratio", "0.5", "--set", "pruning.macs=0.5"], ["error: --ratio, --set pruning.macs: ", "one goal"]),
        (["--latency", "1e3%"], ["error: --latency: ", "less than 1"]),
        (["--latency", "fast"], ["error: --latency: ", "50%"]),
        (["--scheme", "filters"], ["error: --scheme: ", "'unstructured'"]),
        (["--scheme", "[filters"], ["error: --scheme: ", "YAML"]),
        (["--scheme", "nm", "--macs", "0.5"], ["error: ", "sparsity is applied in one step"]),
        (["--criterion", "l3"], ["error: --criterion: "]),
        (["--allocate", "all"], ["error: --allocate: "]),
        (["--target", "tvm"], ["error: --target: "]),
        (["--target", "ncnn:treads=2"], ["error: --target: ", "did you mean 'threads'"]),
        (["--target", "ncnn:threads=1000"], ["error: --target: ", "cores"]),
        (["--target", "ncnn:precision=float64"], ["error: --target: ", "did you mean 'float16'"]),
        (["--target", "ncnn:precision=float16"], ["error: --target: ", "does not compute in this precision"]),
        (["--target", "ncnn:threads"], ["error: --target: ", "KEY=VALUE, not 'threads'"]),
        (["--target", "ncnn@nowhere.json"], ["error: nowhere.json: ", "no such latency table"]),
        (["--target", "ncnn", "--target", "ncnn"], ["error: --target: ", "stands twice"]),
        (["--data", "imagenet:."], ["error: --data: ", "known: coco, crowdpose"]),
        (["--data", "coco"], ["error: --data: ", "disk.folder"]),
        (["--data", "cocoa:/missing"], ["error: --data: ", "no such kind of data (found 'cocoa')", "mean 'coco'"]),
        (["--data", "cocoa:missing"], ["error: --data: ", "no such kind of data (found 'cocoa')", "mean 'coco'"]),
        (["--data", "sys:missing"], ["error: --data: ", "sys has no such attribute (found 'missing')"]),
        (["--data", "sys:path:/missing"], ["error: --data: ", "no kind of data: it must be a DataKind"]),
        (["--data", "coco:/missing"], ["/missing: the dataset folder must exist"]),
        (["--set", "data={kind: cocoa, disk: {folder: /missing}}"], ["error: --set data", "mean 'coco'"]),
        (["--set", "pruning.ration=0.5"], ["error: --set pruning.ration: ", "did you mean 'ratio'"]),
        (["--set", "input_hw=256x192"], ["error: --set input_hw: it must be a list, such as [1, 2] (found '256x192')"]),
        (["--set", "input_hw=[256]"], ["error: --set input_hw: ", "too few values"]),
        (["--set", "training=fast"], ["error: --set training: it must be a mapping, such as {key: value}"]),
        (["--set", "input_hw=[256"], ["error: --set input_hw: ", "not valid YAML (found '[256')"]),
        (["--set", "training.epochs=ten"], ["epochs: it must be a valid integer (found 'ten')"]),
        (["--set", "pruning={ratio: 2}"], ["error: --set pruning: pruning.ratio: "]),
        (["--recipe", "prune_bhrnet", "--ratio", "0"], ["error: --ratio: "]),
        (["--recipe", "prune_bhrnet", "--set", "seed=-1"], ["error: --set seed: "]),
        (["--recipe", "train_hrnet"], ["error: recipe train_hrnet: ", "job"]),
        (["--set", "input_hw=[100000000, 100000000]"], ["error: --set input_hw: ", "4096"]),
        (["--set", "data={synthetic: {train: 10000000000}}"], ["error: --set data: ", "data.synthetic.train"]),
        (["--set", "training.batch_size=100000000"], ["error: --set training.batch_size: "]),
    ],
)
def test_a_mistake_names_what_was_typed(artefact: Path, arguments: list[str], parts: list[str]) -> None:
    line = fails("prune", artefact, *arguments)
    assert all(part in line for part in parts), line
    assert "site-packages" not in line
    assert str(Path(__file__).parents[1]) not in line


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("evaluate hrnet_w32", ["ARTEFACT: ", "no trained weights (found 'hrnet_w32')", "`compress train hrnet_w32`"]),
        ("evaluate a.yaml", ["a.yaml: an artefact is a folder", "(found 'a file')"]),
        ("import a.pth --network hrnet_w33", ["--network: ", "did you mean 'hrnet_w32'?"]),
        ("import a.pth", ["a.pth: ", "cut off, or of another kind", "download it again"]),
        ("profile nothing", ["NETWORK: ", "(found 'nothing')"]),
        ("latency show hrnet_w32 --table none.json", ["none.json: no such latency table; `compress latency build`"]),
        ("latency check hrnet_w32 --table none.json", ["none.json: no such latency table"]),
        ("latency build hrnet_w32 --target torch --table t.json", ["torch has no kernels"]),
        ("latency show hrnet_w32 --table a.json", ["a.json: not a latency table", "give another file"]),
        (
            "train hrnet_w32 --recipe a.yaml",
            ["a.yaml, line 2: not valid YAML (found ", "correct the file"],
        ),
        ("train hrnet_w32 --recipe bytes.yaml", ["bytes.yaml: a recipe is text in UTF-8"]),
        ("search bhrnet --set search.budget.latency=50x", ["--set search.budget.latency: a limit of latency"]),
        ("search bhrnet --set search.budget=fast", ["--set search.budget: it must be a mapping"]),
    ],
)
def test_a_mistake_says_what_was_given(
    line: str, parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text("job: train\ntraining: {epochs: ]\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "a.pth").write_text("garbage")
    (tmp_path / "a.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    said = fails(*shlex.split(line))
    assert all(part in said for part in parts), said


def test_how_many_pictures_are_held_out_is_said_by_the_key_that_says_so(artefact: Path, coco: Path) -> None:
    line = fails("prune", artefact, "--ratio", "0.5", "--data", f"coco:{coco}")
    assert "pruning.pictures must leave pictures to train on (found '100 of" in line
    assert "--set pruning.pictures=" in line
    assert "rewriting.pictures" in fails("rewrite", artefact, "--data", f"coco:{coco}")


def test_a_goal_in_milliseconds_that_was_meant_as_a_share(artefact: Path, tmp_path: Path) -> None:
    line = fails(
        "prune",
        artefact,
        "--latency",
        "50",
        "--run",
        tmp_path / "run",
        "--set",
        "rounds=3",
        "--set",
        "targets=[onnxruntime]",
        "--set",
        "data.synthetic={train: 8, val: 2}",
        "--set",
        "pruning.pictures=4",
        "-q",
    )
    assert "did you mean 50% of its time?" in line
    assert "--latency" in line


def test_defaults_shown_in_the_help_are_the_recipes() -> None:
    shown = {name: run(name, "--help").stdout.replace("│", " ") for name in ("prune", "rewrite", "train")}
    help_of = {name: " ".join(text.split()) for name, text in shown.items()}
    for command, recipe, section, names in (
        ("prune", PruneRecipe(), PruneRecipe().pruning, ("scheme", "criterion", "allocate")),
        ("rewrite", RewriteRecipe(), RewriteRecipe().rewriting, ("min_gain", "max_loss")),
    ):
        targets = ", ".join(target.name for target in recipe.targets)
        assert f"[default: ({targets})]" in help_of[command]
        for name in names:
            assert f"[default: ({getattr(section, name)})]" in help_of[command], name
    assert "[default: (runs/NAME-TIME)]" in help_of["train"]


def commands() -> dict[str, Any]:
    """Every command by what is typed, such as `latency build`."""
    group: Any = typer.main.get_command(app)
    found = {name: one for name, one in group.commands.items() if not hasattr(one, "commands")}
    for group_name in ("latency", "measure"):
        found |= {f"{group_name} {name}": one for name, one in group.commands[group_name].commands.items()}
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_has_an_example_that_can_be_parsed(name: str) -> None:
    found = re.fullmatch(r"Example:  \[bold\]compress (.*)\[/bold\]", commands()[name].epilog)
    assert found is not None
    arguments = shlex.split(found[1])
    assert arguments[: len(name.split())] == name.split()
    commands()[name].make_context(name, arguments[len(name.split()) :])  # raises for unknown options
    assert f"compress {found[1]}" in " ".join(run(*name.split(), "--help").stdout.split())


@pytest.mark.parametrize("name", commands())
def test_every_option_without_a_value_of_its_own_says_what_holds(name: str) -> None:
    for parameter in commands()[name].params:
        assert parameter.name == "help" or parameter.help, parameter.name
        if parameter.default is None and not parameter.required and not getattr(parameter, "is_flag", False):
            assert isinstance(parameter.show_default, str), parameter.name


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("latency bu", {"build"}),
        ("prune hrnet_w", {"hrnet_w32", "hrnet_w48"}),
        ("prune runs/", {"runs/one", "runs/two/finalist_1"}),
        ("evaluate my", {"my_net.onnx"}),
        ("prune x --lat", {"--latency"}),
        ("train x --recipe train_li", {"train_lightweight_openpose", "train_lite_hrnet"}),
        ("train x --recipe own", {"own.yaml"}),
    ],
)
def test_the_shell_completes(typed: str, words: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As bash asks: the words so far, and which one is at the cursor."""
    for name in ("runs/one", "runs/two/finalist_1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "architecture.yaml").touch()
    for name in ("my_net.onnx", "own.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    asked = {
        "_COMPRESS_COMPLETE": "complete_bash",
        "COMP_WORDS": f"compress {typed}",
        "COMP_CWORD": str(len(typed.split())),
    }
    found = CliRunner().invoke(app, [], env=asked, prog_name="compress")
    assert set(found.stdout.split()) == words, (found.output, found.exception)


def test_json_is_the_document_of_results_json() -> None:
    printed = json.loads(run("networks", "--json", "-q", "--set", "names=[hrnet_w32]").stdout)
    assert set(printed) == {"schema", "job", "result"}
    rows = from_plain(tuple[NetworkRow, ...], printed["result"], "stdout")
    assert printed == document("networks", rows)
    assert {row.name for row in rows} == {"hrnet_w32"}


def test_two_runs_of_one_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [default_run("train-a") for _ in range(5)]
    assert len(set(folders)) == 5
    assert all(folder.is_dir() for folder in folders)
    (folders[0] / "recipe.yaml").write_text("")
    fails("evaluate", tmp_path)  # every command clears up: empty folders go
    assert list(Path("runs").iterdir()) == folders[:1]


def test_a_mistake_leaves_no_folder(artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fails("predict", artefact, tmp_path / "none.png")
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["build", "check", "pack"])
def test_a_source_that_is_none_is_called_so(command: str, tmp_path: Path) -> None:
    line = fails("latency", command, "bhrnet_smal", *(["--out", tmp_path / "packed"] if command == "pack" else []))
    assert line.startswith("error: SOURCE")
    assert "bhrnet_small" in line  # a search space
    assert not (tmp_path / "packed").exists()


def test_outputs_that_cannot_be_written_are_noticed_before_the_work(artefact: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    below = tmp_path / "file" / "out"
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    for command in (
        ["predict", artefact, tmp_path / "a.png", "--out", below],
        ["export", artefact, "--out", below],
        ["latency", "build", artefact, "--table", below / "table.json"],
        ["latency", "pack", artefact, "--out", below],
        ["latency", "merge", tmp_path / "a.json", tmp_path / "b.json", "--out", below / "c.json"],
    ):
        assert "the output folder must be writable" in fails(*command)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "artefact", "file"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError(), "error: out of memory; take a smaller input"),
        (
            RuntimeError("can't allocate memory: you tried to allocate 921600000000 bytes. Error code 12"),
            "(921600000000 bytes requested)",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"), "(20.00 GiB requested); take"),
    ],
)
def test_too_little_memory_is_one_line(error: Exception, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def job(terminal: object) -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        perform("a command", job, lambda result: None, as_json=False, quiet=True)
    assert ended.value.exit_code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory")
    assert line in said

    def wrong(terminal: object) -> None:
        raise RuntimeError("a fault of the program")

    with pytest.raises(RuntimeError, match="a fault"):
        perform("a command", wrong, lambda result: None, as_json=False, quiet=True)


def test_ctrl_c_says_how_to_go_on(coco: Path, artefact: Path, tmp_path: Path) -> None:
    """At the first step of a training; the command that is printed goes on there."""
    code = f"""
import sys
sys.argv = ["compress", "train", {str(artefact)!r}, "--data", {f"coco:{coco}"!r}, "--set", "input_hw=[64, 64]",
            "--set", "training={{epochs: 1, batch_size: 4}}"]
import compress.jobs.train
def stopped(*arguments, **settings):
    raise KeyboardInterrupt
compress.jobs.train.train = stopped
from compress.cli import main
main()
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert result.returncode == 130, result.stderr
    assert "Traceback" not in result.stderr
    *arguments, folder = shlex.split(result.stderr.strip().splitlines()[-1].partition("continue with: compress ")[2])
    assert (arguments[0], arguments[-1], Path(folder).parent.name) == ("train", "--run", "runs")
    assert (tmp_path / folder / "recipe.yaml").is_file()


def test_help_names_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert all(
        name in result.stdout for name in ("search", "networks", "profile", "train", "evaluate", "export", "predict")
    )


def test_networks_json() -> None:
    names = "names=[hrnet_w32, rtmpose_s, dir_bhrnet_32, UDP HRNet-W32, MultiPoseNet]"
    rows = result_of("networks", "--set", names)
    assert all({"name", "approach", "params", "macs", "input_hw", "paper", "mark"} <= set(row) for row in rows)
    by_name = {(row["name"], (row["input_hw"] or [None])[0]): row for row in rows}
    assert by_name["dir_bhrnet_32", 256]["flops_g"] == pytest.approx(2.81, rel=0.005)
    assert (by_name["hrnet_w32", 256]["mark"], by_name["hrnet_w32", 256]["approach"]) == ("exact", "top-down")
    assert by_name["rtmpose_s", 256]["approach"] == "SimCC"
    reference = by_name["UDP HRNet-W32", 256]
    assert (reference["params"], reference["macs"], reference["published_flops_g"]) == (None, None, 7.1)
    assert reference["mark"] == "reference only"
    assert by_name["MultiPoseNet", None]["input_hw"] is None
    approaches = [row["approach"] for row in rows]
    assert approaches == sorted(approaches, key=approaches.index)  # grouped
    assert "did you mean 'hrnet_w32'" in fails("networks", "--set", "names=[hrnet_w23]")


def test_profile(artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = result_of("profile", artefact)
    assert result["input_hw"] == [64, 64]
    assert list(result["balance"]) == ["1/4", "1/8", "1/16", "1/32"]
    shown = run("profile", "dir_bhrnet_star_32", "--set", "input_hw=[64, 64]")
    assert shown.exit_code == 0
    assert "1/4: 22.7 %   1/8: 30.4 %   1/16: 28.5 %   1/32: 18.4 %" in shown.stdout
    assert max(len(line.rstrip()) for line in shown.stdout.splitlines()) <= 100
    assert "multiples of 32" in fails("profile", artefact, "--set", "input_hw=[100, 64]")
    assert "unknown key" in fails("profile", artefact, "--set", "size=[64, 64]")
    assert "compress networks" in fails("profile", "nothing")
    timed = result_of("profile", artefact, "--target", "onnxruntime", "--set", "rounds=4")
    assert timed["timing"]["engine"]["engine"] == "onnxruntime"
    refused = fails("profile", artefact, "--target", "onnx")
    assert "--target: no such engine (found 'onnx'); known: litert, mnn," in refused
    monkeypatch.chdir(tmp_path)
    Path("my_net.py").write_text("from torch import nn\ndef build():\n    return nn.Conv2d(3, 17, 3, 4, 1)\n")
    own = result_of("profile", "my_net:build")
    assert (own["approach"], own["macs"]) == ("top-down", 17 * 27 * 64 * 64)
    assert "no such function" in fails("profile", "my_net:other")
    exported = result_of("export", "my_net:build", "--set", "input_hw=[64, 64]", "--out", "out")
    assert exported["network"] == "my_net:build"
    assert {export["engine"] for export in exported["exports"]} == {"onnxruntime", "ncnn"}
    again = result_of("profile", "out/model.onnx")
    assert (again["input_hw"], again["macs"]) == ([64, 64], 17 * 27 * 16 * 16)
    assert result_of("export", "my_net:build", "--out", "sizeless", "--set", "engines=[onnxruntime]")["input_hw"] == [
        256,
        256,
    ]
    assert "no such file" in fails("profile", "out/other.onnx")


def test_export_evaluate_predict(artefact: Path, coco: Path, tmp_path: Path) -> None:
    exported = result_of("export", artefact, "--out", tmp_path / "out")
    assert all(export["parity"] <= 1e-4 for export in exported["exports"])
    assert (tmp_path / "out" / "model.onnx").is_file()
    assert (tmp_path / "out" / "model.ncnn.bin").is_file()
    data = f"data={{kind: coco, disk: {{folder: {coco}}}}}"
    evaluated = result_of("evaluate", artefact, "--set", data)
    assert evaluated["score"]["pictures"] == 8
    assert (evaluated["score"]["metric"], evaluated["score"]["data"]) == ("AP", "coco")
    assert 0 <= evaluated["score"]["value"] <= 1
    predicted = json.loads(run("predict", artefact, coco / "val", "--out", tmp_path / "drawn", "--json", "-q").stdout)
    assert (predicted["schema"], predicted["job"]) == (SCHEMA, "predict")
    assert predicted["result"]["pictures"] == len(predicted["result"]["drawn"]) == 8
    for entry in predicted["result"]["drawn"]:
        drawn = cv2.imread(str(tmp_path / "drawn" / entry["drawn"]))
        assert drawn is not None
        assert drawn.shape == (64, 64, 3)
    assert json.loads((tmp_path / "drawn" / "people.json").read_text()) == predicted
    written = read_results(tmp_path / "drawn" / "people.json", "predict", PredictResult)
    assert written.people == sum(len(one.people) for one in written.drawn)


def test_train_resumes_and_its_artefact_evaluates(coco: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    start = tmp_path / "start"
    save_artefact(start, ARCHITECTURE, ARCHITECTURE.build(), Metadata((64, 64), data=Data()))
    data = f"data={{kind: coco, disk: {{folder: {coco}, search: 2}}}}"
    sets = ["--set", data, "--set", "input_hw=[64, 64]", "--set", "training={epochs: 2, batch_size: 2}"]
    first = result_of("train", start, "--run", run_folder, *sets)
    assert len(first["loss"]) == 2
    again = result_of("train", start, "--run", run_folder, *sets)
    assert again == first
    evaluated = result_of("evaluate", run_folder, "--set", data)
    assert evaluated["score"] == first["trained"]["evaluations"][0]["score"]
    assert "belongs to one recipe" in fails("train", start, "--run", run_folder, *sets, "--set", "seed=5")


def test_quiet_prints_nothing(artefact: Path, tmp_path: Path) -> None:
    result = run("export", artefact, "--out", tmp_path, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["search.trails=3"], ["search.trails", "did you mean 'trials'"]),
        (["search.trials=x"], ["search.trials", "integer"]),
        (["search.space=bhrnet_smal"], ["bhrnet_smal", "bhrnet_small"]),
        (["input_hw=[100, 100]"], ["input_hw", "multiples of 32"]),
        (["data.kind=coco"], ["--set data.kind", "disk.folder"]),
        (["data={kind: cocoo}"], ["--set data: data.kind", "did you mean 'coco'"]),
        (["search.sampler=nsga3"], ["--set search.sampler", "did you mean 'nsga2'"]),
        (["search.sampler=os:path"], ["--set search.sampler", "no sampler: it must be", "os:path"]),
        (["measurement.targets=[onnxruntime, no.such:engine]"], ["--set measurement.targets", "no such module"]),
        (["data.kind=coco", "data.disk.folder=/nonexistent"], ["/nonexistent", "must exist"]),
        (["baselines={mine: {width: 9}}"], ["baselines.mine", "must be one of"]),
        (["baselines={mine: {widht: 9}}"], ["baselines.mine", "did you mean 'width'"]),
    ],
)
def test_search_reports_mistakes_before_any_work(tmp_path: Path, overrides: list[str], parts: list[str]) -> None:
    folder = tmp_path / "run"
    sets = [part for override in overrides for part in ("--set", override)]
    line = fails("search", "bhrnet", "--run", folder, *sets)
    assert all(part in line for part in parts), line
    assert not folder.exists()


def test_run_folder_that_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    assert "new, empty, or one that a run left" in fails("search", "bhrnet", "--run", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert "writable" in fails("search", "bhrnet", "--run", tmp_path / "mine.txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_run_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "writable" in fails("search", "bhrnet", "--run", tmp_path / "run")


def test_run_folder_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "writable" in fails("search", "bhrnet", "--run", tmp_path / "file" / "run")


def test_broken_datasets(tmp_path: Path, coco: Path) -> None:
    data = f"data={{kind: coco, disk: {{folder: {coco}, search: 2}}}}"
    search = ("search", "bhrnet", "--run", tmp_path / "run", "--set", data)
    labels = coco / "person_keypoints_train.json"
    whole = labels.read_text()
    labels.write_text(whole[: len(whole) // 2])
    assert str(labels) in fails(*search)
    record = json.loads(whole)
    record["annotations"][0]["keypoints"] = [1, 2, 2]
    labels.write_text(json.dumps(record))
    assert str(record["annotations"][0]["id"]) in fails(*search)
    labels.unlink()
    assert "person_keypoints_train.json" in fails(*search, "--set", "data.disk.train=train")
    assert not (tmp_path / "run").exists()


def test_training_and_validation_pictures_must_differ(tmp_path: Path, coco: Path, artefact: Path) -> None:
    """Whether a split is named or found by its usual name."""
    command = ("train", artefact, "--run", tmp_path / "run", "--data", f"coco:{coco}", "--set", "input_hw=[64, 64]")
    assert "must differ" in fails(*command, "--set", "data.disk.val=train")
    assert "must differ" in fails(*command, "--set", "data.disk.train=val")
    part = json.loads((coco / "person_keypoints_val.json").read_text())
    kept = part["images"][0]["id"]
    part["images"] = [entry for entry in part["images"] if entry["id"] == kept]
    part["annotations"] = [entry for entry in part["annotations"] if entry["image_id"] == kept]
    (coco / "person_keypoints_some.json").write_text(json.dumps(part))
    (coco / "some").symlink_to(coco / "val")
    overlapping = ("--set", "data.disk.train=val", "--set", "data.disk.val=some")
    assert f"{len(part['annotations'])} persons in both" in fails(*command, *overlapping)
    assert not (tmp_path / "run").exists()


def test_what_pck_cannot_score_is_said_before_training(tmp_path: Path, coco: Path) -> None:
    for split in ("train", "val"):
        record = json.loads((coco / f"person_keypoints_{split}.json").read_text())
        del record["categories"]
        record["annotations"] = [{**a, "keypoints": a["keypoints"][:42]} for a in record["annotations"]]
        (coco / f"{split}.json").write_text(json.dumps(record))
    network = tmp_path / "a"
    architecture = DirBHRNet(width=8, blocks=equal_blocks(0), head="single", keypoints=14)
    save_artefact(network, architecture, architecture.build(), Metadata((64, 64), data=Data()))
    data = ("--data", f"lsp:{coco}")
    assert "bottom-up AE" in fails("train", network, *data, "--run", tmp_path / "run", "--set", "input_hw=[64, 64]")
    assert "bottom-up AE" in fails("evaluate", network, *data)
    detections = ("--set", "data.disk.detections=found.json")
    line = fails("train", top_down(tmp_path / "b", 14), *data, *detections, "--run", tmp_path / "run")
    assert "detector's boxes" in line
    assert not (tmp_path / "run").exists()


def test_data_that_would_not_be_read(artefact: Path, coco: Path) -> None:
    assert "--data" in fails("evaluate", artefact, "--data", f":{coco}")
    assert "no folder" in fails("evaluate", artefact, "--data", f"synthetic:{coco}")
    assert "--decode" in fails("profile", artefact, "--data", f"coco:{coco}")


def test_data_of_the_users_own(artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the current folder; it is given the recipe's data section, a third part as its folder."""
    (tmp_path / "my_pictures.py").write_text(
        "from compress.data.synthetic import SyntheticPeople\n"
        "def three(data, input_hw, seed):\n"
        "    assert data.disk.folder is None\n"
        "    return SyntheticPeople(3, input_hw, 1)\n"
        "def counted(data, input_hw, seed):\n"
        "    return SyntheticPeople(len(list(data.disk.folder.iterdir())), input_hw, 1)\n"
    )
    (tmp_path / "folder").mkdir()
    for name in "ab":
        (tmp_path / "folder" / name).touch()
    monkeypatch.chdir(tmp_path)
    assert result_of("evaluate", artefact, "--data", "my_pictures:three")["score"]["pictures"] == 3
    assert result_of("evaluate", artefact, "--data", "my_pictures:counted:folder")["score"]["pictures"] == 2


def test_an_artefact_of_data_that_is_not_known_here(artefact: Path) -> None:
    """Another machine may have the package that offers it; the network itself can be used."""
    file = artefact / "architecture.yaml"
    text = file.read_text()
    assert "kind: synthetic" in text
    file.write_text(text.replace("kind: synthetic", "kind: sinthetic"))
    line = fails("evaluate", artefact)
    assert line.startswith(f"error: {artefact}: metadata: data.kind: no such kind of data (found 'sinthetic')"), line
    assert "did you mean 'synthetic'" in line
    assert (
        result_of("evaluate", artefact, "--data", "synthetic", "--set", "data.synthetic.val=2")["score"]["pictures"]
        == 2
    )
    file.write_text(text.replace("kind: synthetic", "kind: coco"))
    assert "data.disk.folder: the dataset folder must exist" in fails("evaluate", artefact)


def test_every_process_tells_its_own_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    assert fails("evaluate", tmp_path).startswith("error: process 3: ")


def test_pictures_that_do_not_decode_are_left_out_and_named(artefact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "c.png"):
        cv2.imwrite(str(folder / name), np.zeros((64, 64, 3), np.uint8))
    (folder / "b.jpg").write_bytes(b"no picture")
    result = run("predict", artefact, folder, "--out", tmp_path / "drawn", "--json", "-q")
    assert result.exit_code == 1
    found = json.loads(result.stdout)["result"]
    assert [Path(entry["file"]).name for entry in found["drawn"]] == ["a.png", "c.png"]
    assert len(found["skipped"]) == 1
    assert str(folder / "b.jpg") in found["skipped"][0]
    assert str(folder / "b.jpg") in result.stderr
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 2
    assert "b.jpg" in fails("predict", artefact, folder / "b.jpg", "--out", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    assert "no such picture" in fails("predict", artefact, tmp_path / "none.jpg")
    (tmp_path / "empty").mkdir()
    assert "must hold pictures" in fails("predict", artefact, tmp_path / "empty")
    assert "there must be pictures" in fails("predict", artefact)


def test_what_is_no_artefact(tmp_path: Path) -> None:
    assert "architecture.yaml" in fails("evaluate", tmp_path / "nothing")
    assert "compress networks" in fails("train", "hrnet_w23", "--run", tmp_path / "run")
    (tmp_path / "architecture.yaml").write_text(
        "schema: 1\narchitecture: {family: nope}\nmetadata: {input_hw: [64, 64]}\n"
    )
    assert "no such family" in fails("export", tmp_path)


REAL = Path(os.environ.get("COMPRESS_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real pictures in {REAL}")


def top_down(folder: Path, keypoints: int) -> Path:
    """A small top-down artefact of that many joints."""
    architecture = DirBHRNet(width=8, blocks=equal_blocks(0), head="heatmaps", keypoints=keypoints)
    save_artefact(folder, architecture, architecture.build(), Metadata((64, 64), data=Data()))
    return folder


@real_data
def test_crowdpose_with_labelled_and_with_detected_boxes(tmp_path: Path) -> None:
    network = top_down(tmp_path / "a", 14)
    folder = REAL / "formats" / "crowdpose"
    command = [
        "evaluate",
        network,
        "--data",
        f"crowdpose:{folder}",
        "--set",
        "data.disk.val=test_crowdpose",
        "--json",
        "-q",
    ]
    labelled = json.loads(run(*command).stdout)["result"]["score"]
    assert labelled["metric"] == "AP"
    assert labelled["standard_error"] is not None
    assert {"AP_easy", "AP_medium", "AP_hard"} <= set(labelled["details"])
    detected = folder / "test_crowdpose_det_AP_40.json"
    result = run(*command, "--set", f"data.disk.detections={detected}", "--set", "decoding.suppression=parallel")
    assert json.loads(result.stdout)["result"]["score"]["pictures"] == 2
    assert "test_crowdpose.json" in fails(*command, "--set", f"data.disk.detections={folder / 'test_crowdpose.json'}")
    assert "joints" in fails("evaluate", top_down(tmp_path / "b", 17), *command[2:])


@real_data
def test_mpii_needs_head_boxes_to_be_scored(tmp_path: Path) -> None:
    network = top_down(tmp_path / "a", 16)
    data = ["--data", f"mpii:{REAL / 'formats' / 'mpii'}", "--set", "data.disk.val=test_mpii"]
    assert "head boxes" in fails("evaluate", network, *data)
    heads = np.zeros((2, 2, 5))
    heads[1] = 60  # corners (0, 0) and (60, 60) of everybody's head
    savemat(str(tmp_path / "gt_valid.mat"), {"headboxes_src": heads})
    result = run("evaluate", network, *data, "--set", f"data.disk.heads={tmp_path / 'gt_valid.mat'}", "--json", "-q")
    assert json.loads(result.stdout)["result"]["score"]["details"]["persons"] == 5


@real_data
def test_lsp_is_scored_by_pck(tmp_path: Path) -> None:
    record = json.loads((REAL / "lspet" / "val.json").read_text())
    some = {entry["id"] for entry in record["images"][:8]}
    record["images"] = [entry for entry in record["images"] if entry["id"] in some]
    record["annotations"] = [entry for entry in record["annotations"] if entry["image_id"] in some]
    folder = tmp_path / "lsp"
    folder.mkdir()
    (folder / "val").symlink_to(REAL / "lspet" / "val")
    (folder / "val.json").write_text(json.dumps(record))
    network = top_down(tmp_path / "a", 14)
    found = result_of("evaluate", network, "--data", f"lsp:{folder}")["score"]
    assert found["metric"] == "PCK"
    assert {"curve", "area", "joints", "persons", "left_out"} <= set(found["details"])
    record["annotations"][3]["keypoints"][4] = float("nan")
    (folder / "val.json").write_text(json.dumps(record))
    line = fails("evaluate", network, "--data", f"lsp:{folder}")
    assert "val.json" in line
    assert str(record["annotations"][3]["id"]) in line


def test_decoding_is_profiled(tmp_path: Path) -> None:
    data = ["--set", "data={synthetic: {val: 2}}"]
    result = result_of("profile", top_down(tmp_path / "a", 17), "--decode", *data)
    assert result["decoding"]["maps"] == "the network's"
    assert {"joints at the quarter", "hard suppression"} <= {row["choice"] for row in result["decoding"]["rows"]}
    shown = run("profile", "small_hrnet_w16", "--decode", *data, "--set", "input_hw=[64, 64]").stdout
    assert "perfect maps" in shown
    assert "soft suppression" in shown


def test_an_architecture_file_is_a_network(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("{family: dir_bhrnet, width: 8, head: heatmaps}")
    profiled = result_of("profile", file, "--set", "input_hw=[64, 64]")
    assert (profiled["family"], profiled["approach"]) == ("dir_bhrnet", "top-down")
    file.write_text("{family: dir_bhrnet, widht: 8}")
    line = fails("profile", file)
    assert "mine.yaml" in line
    assert "did you mean 'width'" in line
    assert "readable file" in fails("profile", tmp_path / "none.yaml")
