"""How well a latency table predicts whole DIR-BHRNets that it has never seen.

    python -m benchmarks.latency_bhrnet [--size 128] [--fit 8] [--test 20] [--seed 0] [--table latency.json]

Builds the table for a space (widths, kinds, expansions, heads), fits the scale on some random networks, and compares
predicted with measured latency on others: onnxruntime, one thread, networks timed interleaved in their steady state.
"""

import argparse
import random
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from compress.engines import engine
from compress.measure.latency_table import Identity, fill, fit_scale, open_table, predict
from compress.measure.timing import pinned, reference_convolution, time_interleaved
from compress.measure.units import Unit, cut
from compress.networks.dir_bhrnet import DirBHRNet

WIDTHS, KINDS, EXPANSIONS, HEADS = (8, 12, 16, 24), ("ir", "dir", "residual"), (1, 2, 4), ("single", "higher")


def space_units(hw: tuple[int, int]) -> set[Unit]:
    """Every unit that a network of the space can contain: with no block, one, and a block before each fusion."""
    units: set[Unit] = set()
    for width, kind, expansion, head in product(WIDTHS, KINDS, EXPANSIONS, HEADS):
        for count in (0, 1):
            blocks: Any = tuple((count,) * branches for branches in (1, 2, 3, 4))
            units |= set(cut(DirBHRNet(width, blocks, (kind,) * 4, (expansion,) * 4, head).build(), hw))
    return units


def random_architecture(rng: random.Random) -> DirBHRNet:
    """Random width, head, blocks 0-4 per branch and stage, kinds and expansions per branch."""
    blocks: Any = tuple(tuple(rng.randint(0, 4) for _ in range(branches)) for branches in (1, 2, 3, 4))
    kinds: Any = tuple(rng.choice(KINDS) for _ in range(4))
    expansions: Any = tuple(rng.choice(EXPANSIONS) for _ in range(4))
    return DirBHRNet(rng.choice(WIDTHS), blocks, kinds, expansions, rng.choice(HEADS))  # type: ignore[arg-type]


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("size", 128), ("fit", 8), ("test", 20), ("seed", 0), ("rounds", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hw, runtime = (arguments.size, arguments.size), engine("onnxruntime")
    rng = random.Random(arguments.seed)

    with tempfile.TemporaryDirectory() as folder, pinned():
        start = time.perf_counter()
        units = space_units(hw)
        cutting_s = time.perf_counter() - start
        table = open_table(arguments.table or Path(folder, "table.json"), Identity.of(runtime.describe()))
        missing, start = len(table.missing(units)), time.perf_counter()
        fill(table, units)
        print(f"{runtime.describe().engine} {runtime.describe().version} on {runtime.describe().device}")
        print(f"{len(units)} units cut in {cutting_s:.1f} s; {missing} measured in {time.perf_counter() - start:.1f} s")

        architectures = [random_architecture(rng) for _ in range(arguments.fit + arguments.test)]
        counters: list[Counter[Unit]] = []
        runners, cut_ms = {}, []
        image = np.random.default_rng(0).standard_normal((1, 3, *hw), dtype=np.float32)
        for index, architecture in enumerate(architectures):
            network = architecture.build()
            start = time.perf_counter()
            counters.append(cut(network, hw))
            cut_ms.append((time.perf_counter() - start) * 1000)
            runners[str(index)] = runtime.load(runtime.export(network, hw, Path(folder), f"net{index}")[0])
        unseen = set().union(*counters) - units
        if unseen:
            print(f"{len(unseen)} units of the networks lie outside the space: {', '.join(u.key for u in unseen)}")
            fill(table, unseen)
        calls = {name: (lambda runner=runner: runner.run(image)) for name, runner in runners.items()}
        timings = list(time_interleaved(calls, reference_convolution(), arguments.rounds).values())

        assert table.reference_ms is not None
        measured = [timing.ratio * table.reference_ms for timing in timings]
        scale = fit_scale(table, list(zip(counters, measured, strict=True))[: arguments.fit])
        table.save()

    predicted = [predict(table, counter).ms for counter in counters]
    print(f"scale {scale.factor:.3f} fitted on {scale.networks} networks with mean error {scale.error:.1%}")
    print(f"cut: {np.median(cut_ms):.0f} ms per network, at most {max(cut_ms):.0f} ms")
    print("width head    units blocks  measured ms  spread  predicted ms  error")
    errors = []
    for index in range(arguments.fit, len(architectures)):
        a, error = architectures[index], predicted[index] / measured[index] - 1
        errors.append(abs(error))
        print(
            f"{a.width:5d} {a.head:7s} {counters[index].total():5d} {sum(map(sum, a.blocks)):6d}"
            f" {measured[index]:12.3f} {timings[index].spread:7.1%} {predicted[index]:13.3f} {error:+6.1%}"
        )
    rank = spearmanr(measured[arguments.fit :], predicted[arguments.fit :]).statistic
    print(f"{len(errors)} unseen networks: MAPE {np.mean(errors):.1%}, worst {max(errors):.1%}, rank corr. {rank:.4f}")


if __name__ == "__main__":
    main()
