"""Cuts a network into the units that an engine really runs and that are therefore timed as one.

`cut_by_engine` works for every network and every engine: it exports the network and reads the engine's own optimised
graph. `cut_by_rules` gives the same for onnxruntime without exporting, in hundredths of a second, which a search needs
for thousands of candidates; it knows the operations of HRNet-like networks. `cut` takes the fast way where it can.

Three steps of the fast way: torch.fx names the operations, shapes are worked out with integers (nothing is computed),
and onnxruntime's graph rewriting is repeated on them. The rules are those of its NCHWc transformer (CPU, level 3;
checked against the optimised graph of version 1.31.1 in tests/measure/test_units.py):

- convolution, batch norm and activation are one unit; a sum joins the convolution before it if that one has no
  activation, no other sum and no other reader, and both operands are blocked; an activation may follow that sum;
- most operators work on channels in blocks (`nchwc`); convolutions with fewer input channels than a block read plain
  tensors, transposed convolutions and uneven concatenations only work on plain ones;
- wherever the two meet, onnxruntime inserts a reordering, which is a unit too: it is work that small networks feel.

An operation without a rule raises UncutError with its name; nothing is dropped.
"""

import copy
import tempfile
from collections import Counter
from pathlib import Path

import torch
from torch import nn

from compress.engines import ENGINES
from compress.engines.engine import Engine
from compress.engines.kernel import Unit
from compress.measure.onnxruntime_fusion import UncutError, channel_block, cut_by_part, cut_by_rules


def cut(network: nn.Module, input_hw: tuple[int, int], runtime: Engine = ENGINES["onnxruntime"]) -> Counter[Unit]:
    """The units of one pass of a [1,3,H,W] image and how often each occurs. The network is left as it was.

    Raises EngineError if the engine cannot take the network.
    """
    if runtime.name == "onnxruntime":
        try:
            return Counter(cut_by_rules(network, input_hw))
        except UncutError:
            pass  # the engine itself knows more operations, and gives the same units
    return Counter(cut_by_engine(network, input_hw, runtime))


def cut_by_engine(network: nn.Module, input_hw: tuple[int, int], runtime: Engine) -> tuple[Unit, ...]:
    """The nodes of the engine's optimised graph in the order they run; weights are made up for one on `meta`."""
    with tempfile.TemporaryDirectory() as folder:
        path = runtime.export(_with_weights(network), input_hw, Path(folder), "network")[0]
        profiler = runtime.profiler(path)
        profiler.run_timed()
        return profiler.finish().units


def _with_weights(network: nn.Module) -> nn.Module:
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


__all__ = ["UncutError", "Unit", "channel_block", "cut", "cut_by_engine", "cut_by_part", "cut_by_rules"]
