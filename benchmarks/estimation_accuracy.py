"""How far off estimated times of kernels are that a latency table lacks: timed kernels are left out and estimated.

    python -m benchmarks.estimation_accuracy [TABLE ...] [--networks 40] [--block 16] [--out reports/estimation]

Nothing is measured: the tables are those of reports. Left out are every 8th, 4th and 2nd kernel, three of four, all
kernels that read or make maps of one number of channels, all of one map size, and all of one kind; each kernel is
estimated from what is left, by compress.measure.neighbours and, for comparison, by a regression on multiply-adds and
bytes alone, weighted by nearness. Then networks: candidates of search_spaces/bhrnet_small.yaml are predicted from a
table without the kernels, and compared with what the whole table predicts; that is for tables of onnxruntime at 128x128
with all kernels of that space.

--block: channels per block of onnxruntime's layout on the machine that the first table was measured on.
"""

import argparse
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from compress.engines.onnxruntime_fusion import kernels_by_rules
from compress.errors import SpaceError
from compress.files import write_text
from compress.measure.latency_table import TOO_UNCERTAIN, Entry, LatencyTable, load_table, predict
from compress.measure.neighbours import HALF_INTERVAL, maps_of
from compress.nas.space import expand, read_space
from compress.networks import architecture_from_data, architecture_to_data
from compress.recipe import find

Kernels = dict[str, Entry]
Estimator = Callable[[LatencyTable, str, Entry], tuple[float, float]]

HW = (128, 128)


@dataclass(frozen=True)
class Described:
    """What a kernel is to an estimate."""

    key: str
    kind: str
    macs: int


def by_work_and_sizes(table: LatencyTable, key: str, entry: Entry) -> tuple[float, float]:
    """compress.measure.neighbours."""
    return table.neighbours().estimate(Described(key, entry.kind, entry.macs))


def by_macs_and_bytes(table: LatencyTable, key: str, entry: Entry) -> tuple[float, float]:
    """Every neighbour's time, scaled by powers of both that the kind shows; the nearer, the more it counts."""
    operator = entry.kind.partition(" ")[0]
    timed = list(table.kernels.values())
    same_kind = [e for e in timed if e.kind == entry.kind]
    same_operator = [e for e in timed if e.kind.partition(" ")[0] == operator]
    pool = next((group for group in (same_kind, same_operator) if len(group) >= 3), timed)
    features = np.log1p([[float(e.macs), float(e.bytes)] for e in pool])
    logs = np.log([e.timing.ratio for e in pool])
    powers = nnls(features - features.mean(0), logs - logs.mean())[0]

    def told(here: np.ndarray, others: np.ndarray, of_others: np.ndarray) -> float:
        away = here - others
        weights = 1 / ((away**2).sum(1) + 0.05)
        return float((weights * (of_others + away @ powers)).sum() / weights.sum())

    here = np.log1p([float(entry.macs), float(entry.bytes)])
    nearest = np.argsort(((features - here) ** 2).sum(1))[:20]
    if len(pool) < 3:
        return float(np.exp(told(here, features, logs))), 1.0
    off = [abs(np.expm1(told(features[i], np.delete(features, i, 0), np.delete(logs, i)) - logs[i])) for i in nearest]
    return float(np.exp(told(here, features, logs))), max(0.15, float(np.mean(off)))


METHODS: dict[str, Estimator] = {
    "work and sizes": by_work_and_sizes,
    "macs and bytes": by_macs_and_bytes,
}


def ways_to_leave_out(kernels: Kernels) -> Iterator[tuple[str, list[set[str]]]]:
    """Name → sets of keys, each left out once."""
    keys = sorted(kernels)
    for n in (8, 4, 2):
        yield f"one kernel in {n}", [set(keys[start::n]) for start in range(n)]
    yield "three kernels in four", [set(keys) - set(keys[start::4]) for start in range(4)]
    for name, values in (("one number of channels", _channels), ("one map size", _size)):
        found = {value for key in keys for value in values(key)}
        groups = ({key for key in keys if value in values(key)} for value in sorted(found))
        yield name, [group for group in groups if len(group) < 0.7 * len(keys)]
    yield "one kind", [{key for key in keys if kernels[key].kind == kind} for kind in _kinds(kernels)]


def _channels(key: str) -> set[int]:
    return {channels for maps in maps_of(key) for channels, _, _ in maps}


def _size(key: str) -> set[tuple[int, int]]:
    return {(height, width) for maps in maps_of(key) for _, height, width in maps}


def _kinds(kernels: Kernels) -> list[str]:
    return sorted({entry.kind for entry in kernels.values()})


def without(table: LatencyTable, left_out: set[str]) -> LatencyTable:
    """The table without these kernels."""
    return replace(table, kernels={key: entry for key, entry in table.kernels.items() if key not in left_out})


def of_kernels(table: LatencyTable) -> list[str]:
    """Rows of a table: every way to leave out, every method."""
    lines = []
    for name, groups in ways_to_leave_out(table.kernels):
        for method, estimate in METHODS.items():
            errors, held, halves, ratios = [], [], [], []
            for group in groups:
                rest = without(table, group)
                for key in sorted(group):
                    entry = table.kernels[key]
                    ratio, error = estimate(rest, key, entry)
                    errors.append(abs(ratio / entry.timing.ratio - 1))
                    halves.append(HALF_INTERVAL * error)
                    held.append(abs(entry.timing.ratio / ratio - 1) <= halves[-1])
                    ratios.append(entry.timing.ratio)
            weighted = np.average(errors, weights=ratios)
            cells = [f"{np.mean(errors):.1%}", f"{weighted:.1%}", f"{np.median(errors):.1%}"]
            cells += [f"{np.quantile(errors, 0.9):.1%}", f"{np.mean(held):.0%}", f"{np.median(halves):.0%}"]
            lines.append(f"| {name} | {method} | {len(errors)} | {' | '.join(cells)} |")
    return lines


def of_networks(table: LatencyTable, count: int, block: int) -> list[str]:
    """Rows of a table: whole networks, against what the whole table predicts of them."""
    file, rng = read_space(find("bhrnet_small", "search_spaces", SpaceError)), random.Random(0)
    base = architecture_from_data({"family": file.family, **file.fixed}, str(file.path))
    space = expand(file, architecture_to_data(base))
    networks = []
    for _ in range(count):
        with torch.device("meta"):
            network = architecture_from_data(space.apply(space.sample(rng)), "search space").build()
        found = kernels_by_rules(network, HW, block)
        networks.append({kernel: found.count(kernel) for kernel in set(found)})
    networks = [network for network in networks if not table.missing(network)]
    lines = []
    for name, groups in ways_to_leave_out(table.kernels):
        errors, held, halves, measured, uncertain = [], [], [], [], []
        for group in groups:
            rest = without(table, group)
            if not rest.kernels:
                continue
            for network in networks:
                whole, found = predict(table, network).ms, predict(rest, network)
                if not found.estimated:
                    continue
                assert found.low_ms is not None
                assert found.high_ms is not None
                errors.append(abs(found.ms / whole - 1))
                held.append(found.low_ms <= whole <= found.high_ms)
                halves.append((found.high_ms - found.low_ms) / 2 / found.ms)
                measured.append(found.time_coverage)
                uncertain.append(len(found.uncertain))
        cells = [f"{np.mean(measured):.0%}", f"{np.mean(errors):.1%}", f"{np.max(errors):.1%}"]
        cells += [f"{np.mean(held):.0%}", f"{np.mean(halves):.0%}", f"{np.mean(uncertain):.1f}"]
        lines.append(f"| {name} | {len(errors)} | {' | '.join(cells)} |")
    return lines


def page(tables: Sequence[LatencyTable], networks: int, block: int) -> str:
    """The Markdown page."""
    lines = ["# Kernels that a latency table lacks", "", "`python -m benchmarks.estimation_accuracy`", ""]
    for number, table in enumerate(tables):
        lines += [f"## {table.path}: {len(table.kernels)} kernels of {table.identity}", ""]
        lines += ["Kernels left out and estimated. Within: their measured times in the interval of nine in ten.", ""]
        lines += ["| left out | method | estimates | mean error | by time | median | 9 in 10 | within | half |"]
        lines += ["|---|---|---|---|---|---|---|---|---|", *of_kernels(table), ""]
        if number == 0:
            lines += [f"Candidates of bhrnet_small, {HW[0]}x{HW[1]}, against the prediction of the whole table."]
            lines += [f"Uncertain: kernels whose expected error is above {TOO_UNCERTAIN:.0%}.", ""]
            lines += ["| left out | predictions | time timed | mean error | worst | within | half | uncertain |"]
            lines += ["|---|---|---|---|---|---|---|---|", *of_networks(table, networks, block), ""]
    return "\n".join(lines)


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path, default=[Path("reports/bhrnet/latency_table.json")])
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("reports/estimation"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = page([load_table(path) for path in arguments.tables], arguments.networks, arguments.block)
    write_text(arguments.out / "README.md", found)
    print(found)


if __name__ == "__main__":
    main()
