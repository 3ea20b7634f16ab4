"""benchncnn, ncnn's own program: it times models of single kernels on a device without Python, such as a phone.

benchncnn turns all of ncnn's switches for float16 on, so it computes in float16 where the CPU does, and in float32 on
the others. It does not print which; the script that runs it asks the device.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from compress.engines.engine import BenchRow, BenchTimes, KernelBench
from compress.engines.kernel import Kernel
from compress.engines.ncnn_kernels import replicate
from compress.errors import TableError
from compress.files import write_text

_BYTES = 2e7  # bytes moved, or tens of multiply-adds, by all copies of a kernel: benchncnn prints hundredths of a ms


_PRECISION = """\
if grep -qw asimdhp /proc/cpuinfo 2> /dev/null || [ "$(uname -sm)" = "Darwin arm64" ]
then echo "precision = float16"
else echo "precision = float32"
fi"""
"""As half_on_arm does: ncnn computes in float16 on these alone."""


class Benchncnn(KernelBench):
    """A kernel's time is what one more copy of it takes: there is a model with one copy, and one with many."""

    program = "benchncnn"

    def write(self, kernels: Iterable[Kernel], folder: Path) -> tuple[BenchRow, ...]:
        """The models, and `bench.sh [THREADS ...]`."""
        folder.mkdir(parents=True)
        rows, lines = [], []
        for number, kernel in enumerate(sorted(kernels)):
            more = int(np.clip(_BYTES / (kernel.macs / 10 + kernel.bytes), 4, 200))
            # A model's inputs are of the shapes its kernel reads, each once.
            shapes = dict.fromkeys(o.shape for o in kernel.inputs if not o.constant)
            written = ",".join("[{}]".format(",".join(map(str, reversed(shape)))) for shape in shapes)
            for copies in (1, 1 + more):
                param = folder / f"u{number}x{copies}.param"
                replicate(kernel, copies, param)
                param.with_suffix(".bin").unlink()  # benchncnn makes its own weights
                lines.append(f"./benchncnn 20 $threads 0 -1 0 param={param.name} shape={written}")
            rows.append(BenchRow(f"u{number}", (1, 1 + more), kernel.key))
        head = ["#!/bin/sh", "# Beside benchncnn on the device, with the numbers of threads that tables are wanted of:"]
        head += ["#     sh bench.sh 1 2 4 > benchncnn.txt 2>&1", _PRECISION, "for threads in ${@:-1}", "do"]
        write_text(folder / "bench.sh", "\n".join([*head, *lines, "done"]) + "\n")
        return tuple(rows)

    def read(self, output: Path, rows: Sequence[BenchRow], kernels: Mapping[str, Kernel]) -> tuple[BenchTimes, ...]:
        """0 where one copy more took no longer, and for splits, which copy nothing."""
        if not output.is_file():
            raise TableError(
                "benchncnn has not been run",
                place=str(output),
                remedy=f"run {output.parent.name}/bench.sh and keep what it prints",
            )
        settings: dict[str, str] = {}
        least_ms: dict[int, dict[str, float]] = {}
        for line in output.read_text("utf-8", errors="replace").splitlines():
            if setting := _SETTING.fullmatch(line.strip()):
                settings[setting[1]] = setting[2]
            elif timed := _TIMED.search(line):
                _check(settings, output)
                least_ms.setdefault(int(settings["num_threads"]), {})[timed[1]] = float(timed[2])
        if not least_ms:
            raise TableError("benchncnn did not time any model", place=str(output), remedy="run it again")
        return tuple(
            BenchTimes(threads, settings["precision"], _of_one_copy(found, rows, kernels, output))
            for threads, found in least_ms.items()
        )


_SETTING = re.compile(r"(precision|num_threads|gpu_device) = (\S+)")
_TIMED = re.compile(r"(u\d+x\d+)\S*\s+min\s*=\s*([\d.]+)")


def _check(settings: Mapping[str, str], output: Path) -> None:
    """Raises TableError unless it is known what the following times are of."""
    if settings.get("precision") not in ("float32", "float16"):
        raise TableError(
            "the output must say what benchncnn computed in: a line `precision = float16` or `precision = float32`",
            place=str(output),
            value=settings.get("precision"),
            remedy="keep all that bench.sh prints; it says so first",
        )
    if not settings.get("num_threads", "").isdigit() or settings.get("gpu_device") != "-1":
        found = ", ".join(f"{key} = {settings.get(key)}" for key in ("num_threads", "gpu_device"))
        raise TableError(
            "benchncnn must have run on the CPU, and say on how many threads",
            place=str(output),
            value=found,
            remedy="run bench.sh as it is",
        )


def _of_one_copy(
    least_ms: Mapping[str, float], rows: Sequence[BenchRow], kernels: Mapping[str, Kernel], output: Path
) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in rows:
        few, many = row.copies
        try:
            first, second = (least_ms[f"{row.model}x{copies}"] for copies in (few, many))
        except KeyError as error:
            raise TableError(
                "benchncnn did not time every model", place=str(output), value=error.args[0], remedy="run it again"
            ) from None
        splits = kernels[row.kernel].operator == "Split"
        found[row.kernel] = 0.0 if splits else max(0.0, (second - first) / (many - few))
    return found
