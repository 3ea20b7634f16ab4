"""Files are written whole or not at all, and errors name the file, the line and what to do."""

import errno
import json
import random
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import nn

from compress.artefacts.run import Run
from compress.engines import engine
from compress.errors import RecipeError, RunError
from compress.files import append_line, read_lines, read_yaml_mapping, replaced_together, write_bytes, write_json


@contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    """No file can grow beyond that size, as on a disk that is full: the write fails half way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "weights.safetensors"
    for before in (None, b"old"):
        if before is not None:
            write_bytes(file, before)
        with full_disk(1000), pytest.raises(OSError, match="too large") as caught:
            write_bytes(file, b"x" * 5000)
        assert caught.value.filename == str(file)
        assert [path.name for path in file.parent.iterdir()] == ([] if before is None else [file.name])
        assert before is None or file.read_bytes() == before


def test_a_full_disk_leaves_the_lines_there_were(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    append_line(file, {"number": 1})
    with full_disk(100), pytest.raises(OSError, match="too large") as caught:
        append_line(file, {"number": 2, "long": "x" * 500})
    assert caught.value.filename == str(file)
    assert file.read_text() == '{"number": 1}\n'


def test_a_write_that_is_broken_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(number: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "a.json", [1])
    assert list(tmp_path.iterdir()) == []


def test_an_export_to_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        engine("onnxruntime").export(nn.Conv2d(3, 17, 3, 4, 1), (32, 32), tmp_path, "model")
    assert caught.value.filename == str(tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def number_of(line: dict[str, int]) -> int:
    return int(line["number"])


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_take_their_places_together(tmp_path: Path) -> None:
    write_bytes(tmp_path / "kept", b"kept")
    write_bytes(tmp_path / "a", b"old")
    with replaced_together(tmp_path) as aside:
        (aside / "a").write_text("new")
        (aside / "b").write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert contents(tmp_path) == {"kept": "kept", "a": "new", "b": "new"}


def write_then(folder: Path, names: str, error: BaseException | None = None) -> None:
    with replaced_together(folder) as aside:
        for name in names:
            (aside / name).write_text("new")
        if error:
            raise error


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_an_error_leaves_the_folder_as_it_was(error: BaseException, tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    for folder in (tmp_path, tmp_path / "new" / "folder"):
        with pytest.raises(type(error)) as raised:
            write_then(folder, "a", error)
        if isinstance(error, OSError):
            assert raised.value.filename == str(folder)  # type: ignore[attr-defined]
    assert contents(tmp_path) == {"a": "old"}


@pytest.mark.parametrize("call", range(1, 7))
def test_an_error_while_files_are_moved_is_undone(call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files go aside, three get their places, and then they count."""
    before = {"a": "old", "b": "old"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    calls = 0

    def moving(move: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def counted(self: Path, target: Path) -> Path:
            nonlocal calls
            calls += 1
            if calls == call:
                raise OSError(errno.EIO, "broken", str(self))
            return move(self, target)

        return counted

    monkeypatch.setattr(Path, "replace", moving(Path.replace))
    monkeypatch.setattr(Path, "rename", moving(Path.rename))
    with pytest.raises(OSError, match="broken") as raised:
        write_then(tmp_path, "abc")
    assert raised.value.filename == str(tmp_path)
    assert contents(tmp_path) == before


KILLED = """
import os, signal, sys
from pathlib import Path
from compress.files import replaced_together

folder, call, calls = Path(sys.argv[1]), int(sys.argv[2]), 0

def killing(move):
    def counted(self, target):
        global calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return move(self, target)
    return counted

Path.replace, Path.rename = killing(Path.replace), killing(Path.rename)
with replaced_together(folder) as aside:
    for name in "ab":
        (aside / name).write_text("new")
    if call == 0:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("call", range(6))
def test_what_a_kill_left_is_put_right_by_the_next_call(call: int, tmp_path: Path) -> None:
    before = {"a": "old", "b": "old"}
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(call)], check=False)
    assert done.returncode == -9
    assert any(path.name.startswith(".") for path in tmp_path.iterdir())
    with replaced_together(tmp_path) as aside:
        (aside / "c").write_text("later")
    assert contents(tmp_path) == {**before, "c": "later"}


def test_another_process_at_work_is_left_alone(tmp_path: Path) -> None:
    with replaced_together(tmp_path) as first:
        (first / "a").write_text("first")
        with replaced_together(tmp_path) as second:
            (second / "b").write_text("second")
        assert (first / "a").exists()
    assert contents(tmp_path) == {"a": "first", "b": "second"}


def test_a_last_line_cut_off_by_a_kill_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    file.write_text('{"number": 1}\n{"num')
    assert read_lines(file, number_of) == [1]
    assert file.read_text() == '{"number": 1}\n'
    assert read_lines(tmp_path / "none.jsonl", number_of) == []


def test_any_broken_line_is_named(tmp_path: Path) -> None:
    """Bytes of a good file changed, removed and put in at random: what is read is right, or one line says where."""
    rng = random.Random(1)
    good = "".join(json.dumps({"number": number, "name": "n" * number}) + "\n" for number in range(5)).encode()
    file = tmp_path / "trials.jsonl"
    mistakes = []
    for _ in range(300):
        content = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(content))
            match rng.randrange(3):
                case 0:
                    content[place] = rng.randrange(256)
                case 1:
                    del content[place]
                case _:
                    content.insert(place, rng.randrange(256))
        file.write_bytes(content)
        try:
            read_lines(file, number_of)
        except RunError as error:
            mistakes.append(str(error))
    assert len(mistakes) > 100
    for mistake in mistakes:
        assert f"{file}, line " in mistake
        assert "delete this line" in mistake
        assert "\n" not in mistake


@pytest.mark.parametrize("line", ["3", "null", "[]", "{}", '{"number": {}}', '{"number": "x"}', "", "nonsense"])
def test_lines_that_are_json_but_not_what_is_kept_there(tmp_path: Path, line: str) -> None:
    file = tmp_path / "trials.jsonl"
    file.write_text(f'{{"number": 1}}\n{line}\n{{"number": 2}}\n')
    with pytest.raises(RunError, match=r"trials.jsonl, line 2: .*delete this line"):
        read_lines(file, number_of)


STEP = {"gone": [1, 2], "sections": {"a": {"share": 0.1}}, "of": "time", "none": None, "1": "ä"}


def test_a_step_is_done_once(tmp_path: Path) -> None:
    for result in (STEP, [1.5, [0.1, 1e-30]], "text", 0.1 + 0.2, None, {}):
        run = Run(tmp_path / str(hash(str(result))))
        assert run.once("given", lambda result=result: result) == result  # type: ignore[misc]
        assert run.once("given", lambda: "never asked") == result


def test_any_broken_step_is_named(tmp_path: Path) -> None:
    """Bytes changed, removed and put in at random, and other JSON: the result comes back, or a line says where."""
    run = Run(tmp_path)
    run.once("given", lambda: STEP)
    file = tmp_path / "steps" / "given.json"
    good, rng = file.read_bytes(), random.Random(2)
    contents = [
        b"",
        b"{",
        b"3",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"result": {}, "sha256": 1}',
        good[: len(good) // 2],
    ]
    for _ in range(300):
        place = rng.randrange(len(good))
        put = bytes([rng.randrange(256)]) * rng.randrange(2)
        contents.append(good[:place] + put + good[place + rng.randrange(2) :])
    refused = 0
    for content in contents:
        file.write_bytes(content)
        try:
            assert run.once("given", lambda: "never asked") == STEP
        except RunError as error:
            refused += 1
            assert re.search(r"given\.json: .*delete the file", str(error))  # noqa: PT017
    assert refused > 150


@pytest.mark.parametrize(
    ("text", "key", "first", "second"),
    [
        ("seed: 1\ndata: {}\nseed: 2\n", "seed", 1, 3),
        ("data:\n  kind: coco\n  disk:\n    folder: a\n    train: b\n    folder: c\n", "folder", 4, 6),
        ("data: {kind: coco, workers: 1,\n kind: lsp}\n", "kind", 1, 2),
        ("- {a: 1}\n- {b: 1, b: 1}\n", "b", 2, 2),
        ("1: a\n1: b\n", "1", 1, 2),
    ],
)
def test_a_yaml_key_given_twice_is_an_error(tmp_path: Path, text: str, key: str, first: int, second: int) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_yaml_mapping(file, RecipeError, "a recipe")
    assert str(file) in str(caught.value)
    assert f"in line {first} and in line {second}" in str(caught.value)
    assert key in str(caught.value)


def test_merged_yaml_keys_may_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}\n")
    assert read_yaml_mapping(file, RecipeError, "a recipe")["mine"] == {"a": 1, "b": 3}
