"""Time that sparse weights save: MNN's sparse kernels against the fastest dense engine, whole and layer by layer.

    python -m benchmarks.fine_grained [--networks hrnet_w32 ...] [--ratios 0.5 0.6 0.7 0.8 0.9] [--rounds 12]
        [--profile-rounds 12] [--out reports/fine_grained] [--seed 0]

For each network: its weights are random, and the blocks of four of least magnitude are zero. First every layer is timed
inside the network, dense and at every ratio, as MNN runs it: from which ratio on is it faster? Then whole networks in
one interleaved run: dense on onnxruntime, ncnn and MNN, uniformly pruned, and `allocated`: at each ratio only the
layers that are faster sparse than dense are pruned. Sparse transposed convolutions run as ordinary ones
(compress.pruning.compact), because MNN skips zeros in these only. Accuracy is not measured; size is that of the file,
and every export is checked against torch. Finished networks are kept in OUT/results.json and not measured again;
OUT/README.md has the tables.
"""

import argparse
import copy
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.engines import check_parity, engine
from compress.engines.kernel import Kernel
from compress.engines.mnn import SPARSE_BLOCK
from compress.files import write_json, write_text
from compress.measure.profiling import time_nodes
from compress.measure.timing import Timing, pinned, reference_convolution, time_interleaved
from compress.networks import network_named
from compress.progress import Progress
from compress.pruning.compact import SubPixelConv2d, without_transposed
from compress.pruning.sparsity import Block, apply_masks, masks, prunable
from compress.report.progress import Terminal

NETWORKS: dict[str, tuple[tuple[int, int], float]] = {
    "simple_baseline_r50": ((256, 192), 1.8),
    "mobile_openpose_24": ((256, 256), 1.8),
    "hrnet_w32": ((256, 192), 1.45),
    "dir_bhrnet_32": ((256, 256), 1.45),
}
"""Network → input size, and the target speed-up at TARGET_RATIO: two of convolutions only, two of HRNet's shape."""
TARGET_RATIO = 0.8
DENSE = ("onnxruntime", "ncnn", "mnn")
SCHEME = Block(SPARSE_BLOCK)
_DISTURBED = 0.10  # difference between the raw and the normalised time

Row = dict[str, Any]


def prepared(name: str, seed: int) -> nn.Module:
    """The network with random weights, batch norms set to one: those that start at zero would silence layers."""
    torch.manual_seed(seed)
    network = network_named(name).build().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return network


def pruned(network: nn.Module, ratios: Mapping[str, float]) -> nn.Module:
    """A copy with these shares of weights zero, the others scaled up: a fading signal ends in slow denormal numbers."""
    copied = copy.deepcopy(network)
    apply_masks(copied, masks(copied, SCHEME, ratios))
    for name, ratio in ratios.items():
        copied.get_parameter(name).data.mul_((1 - ratio) ** -0.5)
    return without_transposed(copied)[0]


def measure(name: str, arguments: argparse.Namespace, folder: Path, progress: Progress) -> Row:
    """One network: `whole`, one row per export; `layers`, one row per kind of layer; `dense`, layers never pruned."""
    input_hw, _ = NETWORKS[name]
    network, ratios = prepared(name, arguments.seed), arguments.ratios
    image = np.random.default_rng(0).standard_normal((1, 3, *input_hw), dtype=np.float32)
    found = prunable(network, SCHEME)
    kinds = kinds_of(network, list(found.layers), input_hw)
    as_run = kinds_of(pruned(network, dict.fromkeys(kinds, max(ratios))), list(kinds), input_hw)
    files: dict[str, Path] = {}
    rows: dict[str, Row] = {}
    calls = {}

    def add(key: str, runtime: str, candidate: nn.Module, facts: Row) -> None:
        paths = engine(runtime).export(candidate, input_hw, folder, key)
        runner = engine(runtime).load(paths[0])
        parity = check_parity(candidate, runner, [image], engine(runtime).parity_limit)
        files[key], calls[key] = paths[0], lambda: runner.run(image)
        size = sum(path.stat().st_size for path in paths)
        rows[key] = {"engine": runtime, **facts, "size_bytes": size, "parity": parity}

    with progress.phase(f"{name}: exporting", len(DENSE) + len(ratios)) as phase:
        for runtime in DENSE:
            add(runtime, runtime, network, {"zeros": 0.0})
            phase.advance(1, runtime)
        for ratio in ratios:
            add(
                f"uniform {ratio}",
                "mnn_sparse",
                pruned(network, dict.fromkeys(kinds, ratio)),
                {"zeros": ratio, "pruned_layers": len(kinds)},
            )
            phase.advance(1, str(ratio))
    with progress.phase(f"{name}: layer by layer", 1 + len(ratios)) as phase:
        times: dict[float, dict[str, float]] = {}
        disturbed: list[str] = []
        for ratio, key in [(0.0, "mnn"), *((ratio, f"uniform {ratio}") for ratio in ratios)]:
            timed, total = kind_times(rows[key]["engine"], files[key], arguments.profile_rounds, ratio > 0)
            if not undisturbed(total):
                disturbed.append(key)
            run = as_run if ratio else kinds
            times[ratio] = {kinds[layer]: timed[run[layer]] for layer in kinds if run[layer] in timed}
            phase.advance(1, key)
    with progress.phase(f"{name}: exporting allocated", len(ratios)) as phase:
        for ratio in ratios:
            gaining = {layer: ratio for layer, kind in kinds.items() if gains(times, kind, ratio)}
            if 0 < len(gaining) < len(kinds):  # else it equals the uniform or the dense network
                add(
                    f"allocated {ratio}",
                    "mnn_sparse",
                    pruned(network, gaining),
                    {"zeros": ratio, "pruned_layers": len(gaining)},
                )
            phase.advance(1, str(ratio))
    with progress.phase(f"{name}: measuring", arguments.rounds) as phase:
        timings = time_interleaved(calls, reference_convolution(), arguments.rounds, progress=phase.advance)
    best = min((timings[runtime] for runtime in DENSE), key=lambda timing: timing.normalised_ms)
    whole = []
    for key, row in rows.items():
        timing = timings[key]
        speed_up = best.normalised_ms / timing.normalised_ms
        sound = undisturbed(timing) and undisturbed(best)
        whole.append({"name": key, **row, **asdict(timing), "speed_up": speed_up, "sound": sound})
    return {
        "network": name,
        "input_hw": list(input_hw),
        "seed": arguments.seed,
        "engines": {runtime: engine(runtime).describe().version for runtime in DENSE},
        "device": engine("mnn").describe().device,
        "whole": whole,
        "layers": layer_rows(kinds, times, ratios),
        "disturbed": disturbed,
        "dense": found.refused,
    }


# --- Layers ----------------------------------------------------------------------------------------------------------


def kinds_of(network: nn.Module, names: Sequence[str], input_hw: tuple[int, int]) -> dict[str, str]:
    """Weight's name → the layer's shapes, kernel and strides: layers of one kind take the same time."""
    kinds: dict[str, str] = {}
    hooks = []
    for name in names:
        layer = network.get_submodule(name.removesuffix(".weight"))
        if isinstance(layer, SubPixelConv2d):
            layer = layer.conv

        def note(layer: Any, inputs: Any, output: Any, name: str = name) -> None:
            what = "transposed " if isinstance(layer, nn.ConvTranspose2d) else ""
            kinds[name] = what + _kind(inputs[0].shape, output.shape, layer.kernel_size, layer.stride, layer.dilation)

        hooks.append(layer.register_forward_hook(note))
    with torch.inference_mode():
        network(torch.zeros(1, 3, *input_hw))
    for hook in hooks:
        hook.remove()
    return {name: kinds[name] for name in names}


def kind_times(runtime: str, file: Path, rounds: int, sparse: bool) -> tuple[dict[str, float], Timing]:
    """Kind → mean milliseconds of its convolutions, and one pass; sparse: only of those that MNN runs as sparse."""
    profiled = time_nodes(engine(runtime).profiler(file), rounds)
    found: dict[str, list[float]] = defaultdict(list)
    for kernel, timing in zip(profiled.kernels, profiled.timings, strict=True):
        if kernel.operator in ("Convolution", "Deconvolution") and sparse == ("sparseBlock" in dict(kernel.attributes)):
            found[_kind_of_kernel(kernel)].append(timing.normalised_ms)
    return {kind: fmean(times) for kind, times in found.items()}, profiled.whole


def undisturbed(timing: Timing) -> bool:
    """Whether runs spread little, and the reference beside them took what it takes over all (raw and normalised agree).

    Other work on the machine can stop the short reference for longer than it takes: ratios to it are off by factors.
    """
    return timing.reliable and abs(timing.normalised_ms / timing.median_ms - 1) <= _DISTURBED


def gains(times: Mapping[float, Mapping[str, float]], kind: str, ratio: float) -> bool:
    """Whether layers of the kind are faster at this ratio than dense, both in MNN."""
    return kind in times[ratio] and times[ratio][kind] < times[0.0][kind]


def layer_rows(
    kinds: Mapping[str, str], times: Mapping[float, Mapping[str, float]], ratios: Sequence[float]
) -> list[Row]:
    """One row per kind, slowest first. ms: by ratio; gains_from: the least ratio from which on it is always faster."""
    rows = []
    for kind, count in Counter(kinds.values()).items():
        slower = [ratio for ratio in ratios if not gains(times, kind, ratio)]
        above = [ratio for ratio in ratios if not slower or ratio > max(slower)]
        ms = {str(ratio): times[ratio][kind] for ratio in (0.0, *ratios) if kind in times[ratio]}
        rows.append({"kind": kind, "count": count, "ms": ms, "gains_from": min(above, default=None)})
    return sorted(rows, key=lambda row: -row["count"] * row["ms"]["0.0"])


def _kind_of_kernel(kernel: Kernel) -> str:
    numbers = dict(kernel.attributes)
    size, stride, dilation = (
        (int(numbers.get(f"{what}Y", 1)), int(numbers.get(f"{what}X", 1)))  # type: ignore[arg-type]
        for what in ("kernel", "stride", "dilate")
    )
    what = "transposed " if kernel.operator == "Deconvolution" else ""
    return what + _kind(kernel.inputs[0].shape, kernel.outputs[0].shape, size, stride, dilation)


def _kind(read: Sequence[int], made: Sequence[int], kernel: Any, stride: Any, dilation: Any) -> str:
    """`3x3 64@32x24 > 64@32x24`, then stride and dilation unless 1."""
    sizes = [f"{channels}@{height}x{width}" for _, channels, height, width in (read, made)]
    steps = [f"{what} {of[0]}x{of[1]}" for what, of in (("stride", stride), ("dilation", dilation)) if set(of) != {1}]
    return " ".join([f"{kernel[0]}x{kernel[1]}", " > ".join(sizes), *steps])


# --- The page --------------------------------------------------------------------------------------------------------


def markdown(results: Sequence[Row], command: str) -> str:
    """One table of whole networks and one of layers per network."""
    lines = [
        "# Sparsity: the time it saves",
        "",
        f"    {command}",
        "",
        f"Random weights, blocks of {SPARSE_BLOCK} filters, one thread; times interleaved, medians with quartiles. "
        "Speed-up: over the fastest dense engine of the same run, both normalised by the reference.",
        "",
    ]
    for result in results:
        engines = ", ".join(f"{name} {version}" for name, version in result["engines"].items())
        lines += [
            f"## {result['network']} at {'x'.join(map(str, result['input_hw']))}",
            "",
            f"{engines}; {result['device']}.",
            "",
            _verdict(result),
            "",
            "| | layers pruned | ms | quartiles | spread | speed-up | file | parity |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in result["whole"]:
            mark = "" if row["sound"] else " (disturbed)"
            lines.append(
                f"| {row['name']} | {row.get('pruned_layers', 0)} | {row['median_ms']:.1f} | {row['q1_ms']:.1f}-"
                f"{row['q3_ms']:.1f} | {row['spread']:.1%} | {row['speed_up']:.2f}x{mark} | "
                f"{row['size_bytes'] / 1e6:.1f} MB | {row['parity']:.0e} |"
            )
        ratios = [ratio for ratio in result["layers"][0]["ms"] if ratio != "0.0"]
        note = f" Disturbed by other work, unreliable: {', '.join(result['disturbed'])}." if result["disturbed"] else ""
        lines += [
            "",
            f"Layers in MNN, slowest first: milliseconds dense, speed-up over that by ratio.{note}",
            "",
            f"| layer | times | dense ms | {' | '.join(ratios)} | gains from |",
            "|---|---|---|" + "---|" * (len(ratios) + 1),
        ]
        for row in result["layers"]:
            dense = row["ms"]["0.0"]
            cells = [f"{dense / row['ms'][ratio]:.2f}" if ratio in row["ms"] else "stays dense" for ratio in ratios]
            lines.append(
                f"| {row['kind']} | {row['count']} | {dense:.3f} | {' | '.join(cells)} | "
                f"{row['gains_from'] or 'never'} |"
            )
        reasons = ", ".join(f"{count} because {reason}" for reason, count in Counter(result["dense"].values()).items())
        lines += ["", f"Never pruned: {reasons}.", ""]
    return "\n".join(lines)


def _verdict(result: Row) -> str:
    """Of the fastest network at TARGET_RATIO."""
    target = NETWORKS[result["network"]][1]
    found = max(
        (row["speed_up"] for row in result["whole"] if row["zeros"] == TARGET_RATIO and row["sound"]), default=None
    )
    if found is None:
        return f"No sound measurement at {TARGET_RATIO:.0%}: the machine was not idle, or this ratio was not measured."
    return f"At {TARGET_RATIO:.0%}: {found:.2f}x, target {target}x: {'met' if found >= target else 'not met'}."


def main() -> None:
    """Measures what has not been measured, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--ratios", nargs="+", type=float, default=[0.5, 0.6, 0.7, 0.8, 0.9])
    for name, default in (("rounds", 12), ("profile-rounds", 12), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path, default=Path("reports/fine_grained"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    progress, path = Terminal(), arguments.out / "results.json"
    results: list[Row] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    known = {result["network"] for result in results}
    with pinned():
        for name in arguments.networks:
            if name not in known:
                with tempfile.TemporaryDirectory() as folder:
                    results.append(measure(name, arguments, Path(folder), progress))
                write_json(path, results)
    write_text(
        arguments.out / "README.md", markdown(results, " ".join(["python -m benchmarks.fine_grained", *sys.argv[1:]]))
    )
    progress.say(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
