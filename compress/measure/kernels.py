"""Finds the kernels of a network: the fused pieces that an engine runs, and that are therefore timed as one.

`kernels_of_engine` works for every network and every engine that has kernels: it exports the network and reads the
engine's own optimised graph. An engine may know the same without an export, in hundredths of a second, which a search
needs for thousands of candidates (`Engine.kernels_by_part`). `detect_kernels` takes the faster way where there is one.
"""

import copy
import tempfile
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from compress.engines import ENGINES
from compress.engines.engine import Engine
from compress.engines.kernel import Kernel


def detect_kernels(
    network: nn.Module, input_hw: tuple[int, int], runtime: Engine = ENGINES["onnxruntime"]
) -> Counter[Kernel]:
    """The kernels of one pass of a [1,3,H,W] image and how often each occurs. The network is left as it was.

    Raises EngineError if the engine cannot take the network.
    """
    parts = runtime.kernels_by_part(network, input_hw)
    if parts is None:
        return Counter(kernels_of_engine(network, input_hw, runtime))
    found: Counter[Kernel] = Counter()
    for kernels in parts.values():
        found.update(kernels)
    return found


def kernels_of_engine(network: nn.Module, input_hw: tuple[int, int], runtime: Engine) -> tuple[Kernel, ...]:
    """The nodes of the engine's optimised graph in the order they run; weights are made up for one on `meta`."""
    with tempfile.TemporaryDirectory() as folder:
        path = runtime.export(with_weights(network), input_hw, Path(folder), "network")[0]
        profiler = runtime.profiler(path)
        profiler.run_timed()
        return profiler.finish().kernels


def with_weights(network: nn.Module) -> nn.Module:
    """The same with weights made up where it has none (on `meta`); else itself."""
    if not any(parameter.is_meta for parameter in network.parameters()):
        return network
    shadow = copy.deepcopy(network).to_empty(device="cpu")
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*shadow.parameters(), *shadow.buffers()):
            if tensor.is_floating_point():
                # No two alike: engines merge branches of equal weights. Positive, as variances must be.
                tensor.uniform_(0.01, 0.1, generator=random)
            else:
                tensor.zero_()
    return shadow


__all__ = [
    "Kernel",
    "detect_kernels",
    "kernels_of_engine",
    "with_weights",
]
