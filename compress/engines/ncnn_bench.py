"""benchncnn, ncnn's own program: it times models of single kernels on a device without Python, such as a phone."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compress.engines.engine import KernelBench
from compress.engines.kernel import Kernel
from compress.engines.ncnn_kernels import replicate
from compress.errors import TableError
from compress.files import write_text

_BYTES = 2e7  # bytes moved, or tens of multiply-adds, by all copies of a kernel: benchncnn prints hundredths of a ms


class Benchncnn(KernelBench):
    """A kernel's time is what one more copy of it takes: there is a model with one copy, and one with many."""

    program = "benchncnn"

    def write(self, kernels: Iterable[Kernel], folder: Path) -> list[dict[str, Any]]:
        """The models, and `bench.sh`. Rows: model, copies (few, many), kernel (its key)."""
        folder.mkdir(parents=True)
        rows, lines = [], ["#!/bin/sh", "# Beside benchncnn on the device: sh bench.sh > benchncnn.txt 2>&1"]
        for number, kernel in enumerate(sorted(kernels)):
            more = int(np.clip(_BYTES / (kernel.macs / 10 + kernel.bytes), 4, 200))
            # A model's inputs are of the shapes its kernel reads, each once.
            shapes = dict.fromkeys(o.shape for o in kernel.inputs if not o.constant)
            written = ",".join("[{}]".format(",".join(map(str, reversed(shape)))) for shape in shapes)
            for copies in (1, 1 + more):
                param = folder / f"u{number}x{copies}.param"
                replicate(kernel, copies, param)
                param.with_suffix(".bin").unlink()  # benchncnn makes its own weights
                lines.append(f"./benchncnn 20 ${{1:-1}} 0 -1 0 param={param.name} shape={written}")
            rows.append({"model": f"u{number}", "copies": [1, 1 + more], "kernel": kernel.key})
        write_text(folder / "bench.sh", "\n".join(lines) + "\n")
        return rows

    def read(self, output: Path, rows: Sequence[Mapping[str, Any]], kernels: Mapping[str, Kernel]) -> dict[str, float]:
        """0 where one copy more took no longer, and for splits, which copy nothing."""
        if not output.is_file():
            raise TableError(
                "benchncnn has not been run",
                place=str(output),
                remedy=f"run {output.parent.name}/bench.sh and keep what it prints",
            )
        least_ms = {
            name: float(ms) for name, ms in re.findall(r"(u\d+x\d+)\S*\s+min\s*=\s*([\d.]+)", output.read_text("utf-8"))
        }
        found: dict[str, float] = {}
        for row in rows:
            few, many = row["copies"]
            try:
                first, second = (least_ms[f"{row['model']}x{copies}"] for copies in (few, many))
            except KeyError as error:
                raise TableError(
                    "benchncnn did not time every model", place=str(output), value=error.args[0], remedy="run it again"
                ) from None
            splits = kernels[row["kernel"]].operator == "Split"
            found[row["kernel"]] = 0.0 if splits else max(0.0, (second - first) / (many - few))
        return found
