"""Channel pruning of every known network: it runs, equals the masked network, exports, and has the expected size.

    python -m benchmarks.prune_zoo [--networks hrnet_w32 ...] [--size 128] [--out reports/prune_zoo]

Every network, with random weights, loses the weakest channels of every group by L1 at ratio .3, .5 and .7. Checked: the
pruned network is the masked one within 1e-5; onnxruntime and ncnn give torch's outputs within 1e-4; the outputs depend
on the picture. Counted: parameters and multiply-adds before and after. Networks that OUT/results.json has are not run
again; OUT/README.md has the tables.
"""

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.engines import check_parity, engine
from compress.errors import CompressError
from compress.files import write_json, write_text
from compress.measure.counting import count
from compress.networks import NETWORKS, network_named
from compress.pruning.channels import Channels
from compress.pruning.structured import difference, masked, prunable_channels, random_weights, without_channels

SAME = 1e-3
"""Largest relative difference between pruned and masked network, as in compress.pruning.structured."""
RATIOS = (0.3, 0.5, 0.7)
ENGINES = ("onnxruntime", "ncnn")


def calibrated(network: nn.Module, channels: Channels, removed: set[int], side: int) -> nn.Module:
    """With batch norm statistics of random pictures without these channels, so that the signal reaches the outputs."""
    seen, network = masked(network, channels, removed), copy.deepcopy(network)
    for module in seen.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = 1.0
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(4, 3, 1, 1, generator=generator) + torch.randn(4, 3, side, side, generator=generator)
    with torch.no_grad():
        seen(pictures)
    network.load_state_dict(dict(seen.named_buffers()), strict=False)
    return network


def weakest(network: nn.Module, channels: Channels, ratio: float) -> set[int]:
    """This share of the channel classes of every group, those of the least mean absolute weight."""
    weights = network.state_dict()
    strength: dict[int, list[float]] = {}
    for use in channels.uses:
        if use.made and weights[use.name].ndim > 1:
            means = weights[use.name].abs().movedim(use.dim, 0).flatten(1).mean(1)
            for channel, mean in zip(use.channels, means.tolist(), strict=True):
                strength.setdefault(channels.member_of(channel), []).append(mean)
    chosen: list[int] = []
    for group in channels.groups():
        ordered = sorted(group.members, key=lambda c: sum(strength[c]) / len(strength[c]))
        chosen += ordered[: round(len(ordered) * ratio)]
    return channels.allowed(chosen)


def prune_and_check(network: nn.Module, channels: Channels, ratio: float, input_hw: tuple[int, int]) -> dict[str, Any]:
    """The figures of one ratio; `failure` is what went wrong, None if nothing did."""
    removed = weakest(network, channels, ratio)
    result: dict[str, Any] = {"ratio": ratio, "failure": None}
    try:
        network = calibrated(network, channels, removed, input_hw[0])
        pruned = without_channels(network, channels, removed)
        generator = torch.Generator().manual_seed(1)
        pictures = torch.randn(2, 3, *input_hw, generator=generator)
        result["difference"] = difference(masked(network, channels, removed), pruned, pictures[:1])
        result["variation"] = _variation(pruned, pictures)
        counted = count(pruned, input_hw)
        result |= {"params": counted.params, "macs": counted.macs}
        with tempfile.TemporaryDirectory() as folder:
            for name in ENGINES:
                path = engine(name).export(pruned, input_hw, Path(folder), name)[0]
                result[name] = check_parity(pruned, engine(name).load(path), [pictures[:1].numpy().astype(np.float32)])
    except (CompressError, RuntimeError) as error:
        result["failure"] = str(error)
        return result
    if not result["difference"] <= SAME:
        result["failure"] = f"differs from the masked network by {result['difference']:.1e}"
    elif not result["variation"] > 0:
        result["failure"] = "the outputs do not depend on the picture, so the comparison proves nothing"
    return result


def _variation(network: nn.Module, pictures: torch.Tensor) -> float:
    """Least relative difference of an output between two pictures."""
    with torch.no_grad():
        one, other = (network(picture[None]) for picture in pictures)
    return min(float((a - b).abs().max() / a.abs().max()) for a, b in zip(one, other, strict=True))


def measure(name: str, size: int) -> dict[str, Any]:
    """All ratios of one network."""
    architecture = network_named(name)
    torch.manual_seed(0)
    side = -(-size // architecture.stride) * architecture.stride
    network = random_weights(architecture.build())
    start = time.monotonic()
    channels = prunable_channels(network, (side, side))
    seconds = time.monotonic() - start
    dense = count(network, (side, side))
    return {
        "input_hw": [side, side],
        "follow_s": seconds,
        "params": dense.params,
        "macs": dense.macs,
        "groups": len(channels.groups()),
        "unprunable": channels.unprunable(),
        "pruned": [prune_and_check(network, channels, ratio, (side, side)) for ratio in RATIOS],
    }


def page(results: dict[str, Any]) -> str:
    """The README."""
    cases = [pruned for result in results.values() for pruned in result["pruned"]]
    failed = [case for case in cases if case["failure"]]
    lines = [
        "# Channel pruning of every known network",
        "",
        "`python -m benchmarks.prune_zoo`",
        "",
        f"{len(results)} of {len(NETWORKS)} networks, ratios {', '.join(map(str, RATIOS))}: "
        f"{len(cases) - len(failed)} of {len(cases)} cases pass.",
        "",
        "Random weights, L1. Columns .3, .5, .7: share of the multiply-adds left at that ratio of every group's",
        "channels, about (1 - ratio)² of a convolution's. Difference: pruned against masked, the largest of the three;",
        "onnxruntime and ncnn: parity with torch, likewise. Whole: groups that cannot lose a channel, other than the",
        "network's outputs. Groups s: seconds to find them.",
        "",
        "| network | M params | G MACs | .3 | .5 | .7 | difference | onnxruntime | ncnn | groups | whole | groups s |",
        "|" + "---|" * 12,
    ]
    reasons: dict[str, dict[str, list[str]]] = {}
    for name, result in results.items():
        pruned = result["pruned"]
        worst = [f"{max(case.get(key, 0.0) for case in pruned):.0e}" for key in ("difference", *ENGINES)]
        left = [f"{case['macs'] / result['macs']:.2f}" if "macs" in case else "fails" for case in pruned]
        whole = {layer: why for layer, why in result["unprunable"].items() if not why.startswith("output ")}
        for layer, why in whole.items():
            reasons.setdefault(why, {}).setdefault(name, []).append(layer)
        lines.append(
            f"| {name} | {result['params'] / 1e6:.2f} | {result['macs'] / 1e9:.2f} | {' | '.join([*left, *worst])} "
            f"| {result['groups']} | {len(whole)} | {result['follow_s']:.1f} |"
        )
    lines += ["", "## Failures", ""]
    lines += [
        f"- {name} at {case['ratio']}: {case['failure']}"
        for name, result in results.items()
        for case in result["pruned"]
        if case["failure"]
    ] or ["none"]
    lines += ["", "## Layers that lose no channel", ""]
    for why, networks in reasons.items():
        lines += [f"- {why}:"]
        lines += [f"  - {name}: {len(layers)}, such as `{layers[0]}`" for name, layers in networks.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("reports/prune_zoo"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    for name in options.networks:
        if name not in results:
            start = time.monotonic()
            results[name] = measure(name, options.size)
            failures = [case["failure"] for case in results[name]["pruned"] if case["failure"]]
            print(f"{name}: {time.monotonic() - start:.0f} s {failures or 'passes'}", flush=True)
            write_json(file, results)
    ordered = {name: results[name] for name in NETWORKS if name in results}
    write_text(options.out / "README.md", page(ordered))


if __name__ == "__main__":
    main()
