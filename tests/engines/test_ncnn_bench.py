"""benchncnn's script and what it prints, in a made-up run: the program is none of the package's."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.engines.engine import BenchTimes, half_on_arm
from compress.engines.kernel import Kernel, Operand
from compress.engines.ncnn_bench import Benchncnn
from compress.errors import TableError

RELU = Kernel("ReLU", (Operand((8, 16, 16)),), (Operand((8, 16, 16)),))

FAKE = """#!/bin/sh
echo "loop_count = $1" >&2
echo "num_threads = $2" >&2
echo "powersave = $3" >&2
echo "gpu_device = $4" >&2
echo "cooling_down = $5" >&2
name=${6#param=}
case $name in *x1.param) ms=0.50;; *) ms=2.50;; esac
echo "  $name  min =   $ms  max =   9.00  avg =   3.00" >&2
"""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[BenchTimes, ...]]:
    """The script with these arguments, beside a program that prints as benchncnn does; its output may be changed."""

    def run(*threads: str, change: Callable[[str], str] = str) -> tuple[BenchTimes, ...]:
        folder = tmp_path / "benchncnn"
        rows = Benchncnn().write([RELU], folder)
        program = folder / "benchncnn"
        program.write_text(FAKE)
        program.chmod(0o755)
        command = ["sh", "bench.sh", *threads]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
        (folder / "benchncnn.txt").write_text(change(done.stdout.decode()))
        assert rows[0].copies == (1, 201)
        return Benchncnn().read(folder / "benchncnn.txt", rows, {RELU.key: RELU})

    return run


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_every_number_of_threads_has_its_times(run: Callable[..., tuple[BenchTimes, ...]]) -> None:
    """A copy more takes (2.5 - 0.5) / 200 ms; the precision is this machine's."""
    precision = "float16" if half_on_arm() else "float32"
    copy_ms = {RELU.key: pytest.approx(0.01)}
    assert run() == (BenchTimes(1, precision, copy_ms),)


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_several_numbers_of_threads(run: Callable[..., tuple[BenchTimes, ...]]) -> None:
    assert [found.threads for found in run("1", "2", "4")] == [1, 2, 4]


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.partition("\n")[2], r"must say what benchncnn computed in.*keep all that bench\.sh prints"),
        (lambda text: text.replace("= float", "= bfloat", 1), r"computed in.*found 'bfloat"),
        (
            lambda text: text.replace("gpu_device = -1", "gpu_device = 0"),
            r"on the CPU.*num_threads = 2, gpu_device = 0",
        ),
        (lambda text: text.replace("num_threads = 2", "num_threads"), r"on how many threads.*num_threads = None"),
        (lambda text: "precision = float32\nbenchncnn: not found", "did not time any model"),
    ],
)
def test_times_of_which_is_not_known_what_they_are_of(
    run: Callable[..., tuple[BenchTimes, ...]], change: Callable[[str], str], reason: str
) -> None:
    with pytest.raises(TableError, match=reason):
        run("2", change=change)


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_float16_is_read_as_it_is_printed(run: Callable[..., tuple[BenchTimes, ...]]) -> None:
    (found,) = run("4", change=lambda text: "precision = float16\n" + text.partition("\n")[2])
    assert (found.threads, found.precision) == (4, "float16")
