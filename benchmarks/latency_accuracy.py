"""How well latency tables predict whole networks they have never seen: four families, every engine, and the baselines.

    python -m benchmarks.latency_accuracy [--engines onnxruntime ncnn mnn mnn_sparse] [--families bhrnet lite_hrnet ...]
        [--count 28] [--pool 48] [--fit 8] [--rounds 40] [--again-after 600] [--out reports/latency] [--seed 0]

For each family and engine: a pool of random candidates is exported; those that together have every kernel several times
are timed node by node (the table); some of the pool are timed whole (the scale, and what the baselines are fitted on);
then `count` other candidates are timed whole in one interleaved run and compared with the prediction. In the same run:
multiply-adds times a factor, linear regression on multiply-adds, bytes and number of kernels, and the sum of kernels
each timed as a model of its own, with and without a factor (where the engine runs single kernels).

When all are measured, the unseen networks are timed a second time, at least `--again-after` seconds after the first,
and compared with the same predictions. Finished steps are kept in OUT/accuracy-ENGINE-FAMILY.json and not measured
again; OUT/accuracy.md has the tables.
"""

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.engines import ENGINES, Engine, engine
from compress.engines.kernel import Kernel
from compress.engines.mnn import SPARSE_BLOCK
from compress.errors import EngineError, SpaceError
from compress.files import write_json, write_text
from compress.jobs.latency.latency import accuracy
from compress.measure.in_network import cover, kernels_of_file, profile_in_networks
from compress.measure.latency_table import Identity, LatencyTable, Prediction, fit_scale, predict
from compress.measure.timing import Timing, pinned, reference_convolution, time_interleaved
from compress.nas.space import Pick, Space, SpaceFile, expand, read_space
from compress.networks import architecture_from_data, architecture_to_data
from compress.progress import Progress
from compress.recipe import find
from compress.report.progress import Terminal

SPARSITY = 0.8
"""Share of zero blocks in every layer that MNN's sparse kernels take, for the engine mnn_sparse."""

FAMILIES: dict[str, tuple[str, tuple[int, int], dict[str, Any], dict[str, tuple[Any, ...]]]] = {
    "lite_hrnet": (
        "lite_hrnet",
        (256, 192),
        {},
        {
            "width": (24, 32, 40),
            "modules.*": (1, 2),
            "blocks": (1, 2),
            "block": ("weighting", "shuffle"),
            "stem_width": (16, 32),
        },
    ),
    "openpose": (
        "mobile_openpose",
        (192, 192),
        {},
        {
            "blocks.0": (1, 2, 3),
            "blocks.1": (2, 4, 6),
            "width": (24, 32, 48),
            "features": (64, 128),
            "refinements": (0, 1, 2),
            "refinement": ("three_3x3", "one_7x7"),
        },
    ),
    "mobileposenet": (
        "mobileposenet",
        (256, 192),
        {},
        {
            "kernels.*": (3, 5),
            "upsampling": ("light", "transposed"),
            "upsampled": (80, 160),
            "expansion": (1, 2),
            "attention": (False, True),
        },
    ),
}
"""Family → the architecture's family, input size, fixed fields, choices; `bhrnet` is the shipped space bhrnet_small."""
BHRNET_HW = (128, 128)

Row = dict[str, Any]


def space_of(family: str) -> tuple[Space, tuple[int, int]]:
    """The space of candidates, and the size of their input."""
    if family == "bhrnet":
        file, input_hw = read_space(find("bhrnet_small", "search_spaces", SpaceError)), BHRNET_HW
    else:
        of, input_hw, fixed, choices = FAMILIES[family]
        file = SpaceFile(Path(family), of, fixed, choices)
    base = architecture_to_data(architecture_from_data({"family": file.family, **file.fixed}, family))
    return expand(file, base), input_hw


def build(space: Space, pick: Pick, runtime: Engine, seed: int) -> nn.Module:
    """The candidate; for mnn_sparse with most blocks of its larger convolutions set to zero."""
    network = architecture_from_data(space.apply(pick), "candidate").build()
    if runtime.name == "mnn_sparse":
        random_state = torch.Generator().manual_seed(seed)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.out_channels % SPARSE_BLOCK == 0:
                shape = layer.weight.shape
                blocks = torch.rand(shape[0] // SPARSE_BLOCK, 1, *shape[1:], generator=random_state)
                zero = round(SPARSITY * blocks.numel())
                limit = blocks.flatten().kthvalue(max(1, zero)).values
                mask = (blocks > limit).expand(-1, SPARSE_BLOCK, -1, -1, -1).reshape(shape)
                layer.weight.data *= mask
    return network


def picks_of(space: Space, count: int, rng: random.Random) -> list[Pick]:
    """Different random candidates, as many as there are up to `count`."""
    found: dict[str, Pick] = {}
    for _ in range(50 * count):
        pick = space.sample(rng)
        found.setdefault(repr(pick), pick)
        if len(found) == count:
            break
    return list(found.values())


def compare(family: str, runtime: Engine, arguments: argparse.Namespace, folder: Path, progress: Progress) -> Row:
    """One family on one engine: rows of the unseen networks, and the accuracy of every predictor."""
    space, input_hw = space_of(family)
    picks = picks_of(space, arguments.pool + arguments.count, random.Random(arguments.seed))
    files: dict[int, Path] = {}
    kernels: dict[int, tuple[Kernel, ...]] = {}
    with progress.phase(f"{runtime.name} {family}: exporting", len(picks)) as phase:
        for number, pick in enumerate(picks):
            files[number] = runtime.export(build(space, pick, runtime, number), input_hw, folder, f"net{number}")[0]
            kernels[number] = kernels_of_file(runtime, files[number])
            phase.advance(1)
    unseen = list(kernels)[-arguments.count :]
    pool = [number for number in kernels if number not in unseen]
    fitted = pool[: arguments.fit]

    table = LatencyTable(folder / "table.json", Identity.of(runtime.describe()))
    start = time.perf_counter()
    chosen = cover({number: set(kernels[number]) for number in pool})
    with progress.phase(f"{runtime.name} {family}: table", len(chosen)) as phase:
        profile_in_networks(
            table,
            runtime,
            {str(n): lambda n=n: files[n] for n in chosen},
            arguments.rounds,
            lambda name: phase.advance(1),
        )
    table_s = time.perf_counter() - start

    timings = measure({n: files[n] for n in [*fitted, *unseen]}, runtime, input_hw, arguments.rounds, progress)
    measured_at = time.time()
    assert table.reference_ms is not None
    ms = {number: timing.ratio * table.reference_ms for number, timing in timings.items()}
    scale = fit_scale(table, [(Counter(kernels[n]), ms[n]) for n in fitted])
    predictions = {n: predict(table, Counter(kernels[n])) for n in unseen}
    rows = [
        {"network": n, "pick": picks[n], "measured_ms": ms[n], "spread": timings[n].spread, **asdict(predictions[n])}
        for n in unseen
    ]
    methods = {"kernels in networks x factor": {n: predictions[n].ms for n in unseen}}
    methods |= baselines(kernels, ms, fitted, unseen)
    methods |= isolated(runtime, kernels, ms, fitted, unseen, table.reference_ms, progress)
    return {
        **asdict(table.identity),
        "family": family,
        "input_hw": list(input_hw),
        "scale": asdict(scale),
        "measured_at": measured_at,
        "reference_ms": table.reference_ms,
        "table": {"kernels": len(table.kernels), "networks": len(chosen), "seconds": table_s},
        "rows": rows,
        "methods": {name: summary(rows, values) for name, values in methods.items()},
    }


def measure_again(result: Row, runtime: Engine, arguments: argparse.Namespace, folder: Path, progress: Progress) -> Row:
    """The result with a second measurement of its unseen networks, compared with the same predictions."""
    space, input_hw = space_of(result["family"])
    files = {
        row["network"]: runtime.export(
            build(space, row["pick"], runtime, row["network"]), input_hw, folder, f"net{row['network']}"
        )[0]
        for row in result["rows"]
    }
    time.sleep(max(0.0, result["measured_at"] + arguments.again_after - time.time()))
    seconds_later = time.time() - result["measured_at"]
    timings = measure(files, runtime, input_hw, arguments.rounds, progress)
    rows = [{**row, "again_ms": timings[row["network"]].ratio * result["reference_ms"]} for row in result["rows"]]
    moved = [row["again_ms"] / row["measured_ms"] - 1 for row in rows]
    again = {
        **accuracy_of([{**row, "measured_ms": row["again_ms"]} for row in rows]),
        "seconds_later": seconds_later,
        "moved_mean": float(np.mean(moved)),
        "moved_worst": float(np.max(np.abs(moved))),
    }
    return {**result, "rows": rows, "again": again}


def measure(
    files: Mapping[int, Path], runtime: Engine, input_hw: tuple[int, int], rounds: int, progress: Progress
) -> dict[int, Timing]:
    """All networks whole, in one interleaved run."""
    image = np.random.default_rng(0).standard_normal((1, 3, *input_hw), dtype=np.float32)
    runners = {str(n): runtime.load(file) for n, file in files.items()}
    calls = {name: lambda runner=runner: runner.run(image) for name, runner in runners.items()}
    with progress.phase(f"{runtime.name}: measuring networks", rounds) as phase:
        timings = time_interleaved(calls, reference_convolution(), rounds, progress=phase.advance)
    return {int(name): timing for name, timing in timings.items()}


# --- Baseline predictors ---------------------------------------------------------------------------------------------


def baselines(
    kernels: Mapping[int, Sequence[Kernel]], ms: Mapping[int, float], fitted: Sequence[int], unseen: Sequence[int]
) -> dict[str, dict[int, float]]:
    """From counts alone, fitted on the same networks as the table's scale."""
    counts = {n: (sum(u.macs for u in us), sum(u.bytes for u in us), len(us), 1.0) for n, us in kernels.items()}
    factor = float(np.exp(np.mean([np.log(ms[n] / counts[n][0]) for n in fitted])))
    # Relative errors count, as in the comparison: every equation is divided by its network's time.
    left = np.array([np.array(counts[n]) / ms[n] for n in fitted])
    size = np.abs(left).max(0)
    weights = np.linalg.lstsq(left / size, np.ones(len(fitted)), rcond=None)[0] / size
    return {
        "macs x factor": {n: factor * counts[n][0] for n in unseen},
        "regression on macs, bytes, kernels": {n: float(np.array(counts[n]) @ weights) for n in unseen},
    }


def isolated(
    runtime: Engine,
    kernels: Mapping[int, Sequence[Kernel]],
    ms: Mapping[int, float],
    fitted: Sequence[int],
    unseen: Sequence[int],
    reference_ms: float,
    progress: Progress,
) -> dict[str, dict[int, float]]:
    """The sum of kernels, each timed as a model of its own; empty for engines that do not run single kernels."""
    wanted = sorted({kernel for n in [*fitted, *unseen] for kernel in kernels[n]})
    alone: dict[Kernel, float] = {}
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            progress.phase(f"{runtime.name}: kernels alone", len(wanted)) as phase,
        ):
            for kernel in wanted:
                profiler = runtime.profiler(runtime.assemble([kernel], Path(folder), "alone")[0])
                timing = time_interleaved({"": profiler.run}, reference_convolution(), 12)[""]
                alone[kernel] = timing.ratio * reference_ms
                phase.advance(1)
    except EngineError as error:
        progress.say(str(error))
        return {}
    sums = {n: sum(alone[kernel] for kernel in kernels[n]) for n in [*fitted, *unseen]}
    factor = float(np.exp(np.mean([np.log(ms[n] / sums[n]) for n in fitted])))
    return {
        "kernels alone": {n: sums[n] for n in unseen},
        "kernels alone x factor": {n: factor * sums[n] for n in unseen},
    }


def summary(rows: Sequence[Row], predicted: Mapping[int, float]) -> Row:
    """Accuracy of another prediction of the same networks."""
    return accuracy_of([{**row, "ms": predicted[row["network"]]} for row in rows])


def accuracy_of(rows: Sequence[Row]) -> Row:
    """Accuracy of the rows' predictions, as plain data."""
    names = [field.name for field in fields(Prediction)]
    predictions = [Prediction(**{name: row[name] for name in names}) for row in rows]
    return asdict(accuracy(list(zip(predictions, (row["measured_ms"] for row in rows), strict=True))))


# --- The page --------------------------------------------------------------------------------------------------------


def markdown(results: Sequence[Row]) -> str:
    """One table per engine over all its families, and one line per family."""
    lines = ["# Predicted against measured latency", ""]
    for name in dict.fromkeys(result["engine"] for result in results):
        of_engine = [result for result in results if result["engine"] == name]
        first = of_engine[0]
        count = sum(len(result["rows"]) for result in of_engine)
        spread = np.median([row["spread"] for result in of_engine for row in result["rows"]])
        lines += [f"## {name} {first['version']}, {first['threads']} thread, {first['device']}", ""]
        lines += [f"{count} unseen networks of {len(of_engine)} families; median spread of a timing {spread:.1%}.", ""]
        lines += ["| predictor | MAPE | worst | within 5 % | within 10 % | tau |", "|---|---|---|---|---|---|"]
        for method in dict.fromkeys(method for result in of_engine for method in result["methods"]):
            found = [result["methods"][method] for result in of_engine if method in result["methods"]]
            cells = [_mean(found, key) for key in ("mape", "worst", "within_5", "within_10")]
            tau = np.mean([one["tau"] for one in found])
            worst = max(one["worst"] for one in found)
            lines.append(f"| {method} | {cells[0]:.1%} | {worst:.1%} | {cells[2]:.1%} | {cells[3]:.1%} | {tau:.3f} |")
        everything = accuracy_of([row for result in of_engine for row in result["rows"]])
        lines += ["", f"tau is the families' mean; over all networks together ours is {everything['tau']:.3f}."]
        lines += ["", "| family | table | MAPE | worst | tau | again | moved |", "|---|---|---|---|---|---|---|"]
        for result in of_engine:
            ours, again, table = result["methods"]["kernels in networks x factor"], result.get("again"), result["table"]
            built = f"{table['kernels']} kernels, {table['networks']} networks, {table['seconds']:.0f} s"
            cells = [result["family"], built, f"{ours['mape']:.1%}", f"{ours['worst']:.1%}", f"{ours['tau']:.3f}"]
            if again:
                cells.append(f"MAPE {again['mape']:.1%} after {again['seconds_later']:.0f} s")
                cells.append(f"{again['moved_mean']:+.1%}, at most {again['moved_worst']:.1%}")
            else:
                cells += ["not repeated", ""]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _mean(found: Sequence[Row], key: str) -> float:
    """Over all networks."""
    return float(np.average([one[key] for one in found], weights=[one["count"] for one in found]))


def step(
    path: Path, family: str, runtime: Engine, arguments: argparse.Namespace, progress: Progress, *, again: bool
) -> None:
    """One family on one engine, the first or the second time, unless that lies in the file."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if known is not None and (not again or "again" in known):
        return
    with tempfile.TemporaryDirectory() as folder:
        if known is None:
            result = compare(family, runtime, arguments, Path(folder), progress)
        else:
            result = measure_again(known, runtime, arguments, Path(folder), progress)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_json(path, result)


def main() -> None:
    """Measures what has not been measured, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "ncnn", "mnn", "mnn_sparse"], choices=ENGINES)
    parser.add_argument("--families", nargs="+", default=["bhrnet", *FAMILIES], choices=["bhrnet", *FAMILIES])
    for name, default in (("count", 28), ("pool", 48), ("fit", 8), ("rounds", 40), ("again-after", 600), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, default=Path("reports/latency"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    progress = Terminal()
    pairs = [(name, family) for name in arguments.engines for family in arguments.families]
    with progress.phase("families on engines", 2 * len(pairs)) as phase, pinned():
        for again in (False, True):
            for name, family in pairs:
                path = arguments.out / f"accuracy-{name}-{family}.json"
                step(path, family, engine(name), arguments, progress, again=again)
                phase.advance(1, f"{name} {family}")
                write_page(arguments.out, pairs)
    progress.say(f"written to {arguments.out / 'accuracy.md'}")


def write_page(out: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """accuracy.md, of all that is measured."""
    files = [out / f"accuracy-{name}-{family}.json" for name, family in pairs]
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
    write_text(out / "accuracy.md", markdown(results))


if __name__ == "__main__":
    main()
