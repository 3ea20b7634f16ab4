"""The share of the time that each layer of a network takes on an engine.

The engine times the nodes of its own graph, which are matched here with the layers of the network. Engines that read
ONNX (onnxruntime, MNN) keep the scopes of torch's exporter in their nodes' names. A node that several layers were fused
into has the name of the last of them; its time goes to the convolution among them. ncnn has names of its own: there a
node is the first unmatched layer of the same operator and size, in the order of nodes and layers.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from compress.engines.kernel import Kernel
from compress.measure.counting import Layer
from compress.measure.profiling import Nodes

_ONNX = {"clone": "transpose", "cat": "concat"}
"""torch's operators that have another name in ONNX."""
_NCNN = {
    "silu": "Swish",
    "sigmoid": "Sigmoid",
    "elu": "ELU",
    "gelu": "GELU",
    "tanh": "TanH",
    "softmax": "Softmax",
    "mish": "Mish",
    "hardswish": "HardSwish",
    "hardsigmoid": "HardSigmoid",
    "relu": "ReLU",
    "clone": "ShuffleChannel",
    "channel_shuffle": "ShuffleChannel",
    "native_channel_shuffle": "ShuffleChannel",
}
"""torch's operators and ncnn's layers."""


@dataclass(frozen=True)
class LayerShares:
    """Shares of the time of one pass, which add up to 1.

    layers: of the traced layers, in their order; None for one without a node of its own, which an engine has fused into
    another or left out. rest: operator → nodes that are no layer's, the most first.
    """

    layers: tuple[float | None, ...]
    rest: dict[str, float]


def layer_shares(network: nn.Module, layers: Sequence[Layer], nodes: Nodes) -> LayerShares:
    """layers: of a trace of the network at the size that was exported."""
    if any(name.startswith("/") for name in nodes.names):
        owners = _by_scope(network, layers, nodes)
    else:
        owners = _by_operator(layers, nodes.kernels)
    whole = sum(nodes.times)
    shares: list[float | None] = [None] * len(layers)
    rest: dict[str, float] = defaultdict(float)
    for kernel, time, owner in zip(nodes.kernels, nodes.times, owners, strict=True):
        if owner is None:
            rest[kernel.operator] += time / whole
        else:
            shares[owner] = (shares[owner] or 0.0) + time / whole
    return LayerShares(tuple(shares), dict(sorted(rest.items(), key=lambda item: -item[1])))


# --- Engines that keep ONNX's names ----------------------------------------------------------------------------------


def _by_scope(network: nn.Module, layers: Sequence[Layer], nodes: Nodes) -> list[int | None]:
    """Per node its layer's number."""
    paths = {_scope(network, path): path for path, module in network.named_modules() if not path or _is_called(module)}
    first: dict[str, int] = {}  # call of a module without submodules
    operators: dict[tuple[str, str], list[int]] = defaultdict(list)
    last: dict[str, int] = {}  # layer under a module
    for number, layer in enumerate(layers):
        if layer.module is not None:
            first.setdefault(layer.path, number)
        else:
            word = layer.kind.strip("_")
            operators[layer.path, _ONNX.get(word, word)].append(number)
        for prefix in _prefixes(layer.path):
            last[prefix] = number
    owners: list[int | None] = [None] * len(nodes.names)
    fused: list[tuple[int, int]] = []  # last layer of a node with multiply-adds that is named by another layer, node
    outputs: list[int] = []  # nodes with multiply-adds that are named by the network's outputs
    for node, (name, kernel) in enumerate(zip(nodes.names, nodes.kernels, strict=True)):
        path, word = _place(name, paths)
        if path is None:
            if kernel.macs:
                outputs.append(node)
            continue
        owner = first.get(path)
        if kernel.macs and (owner is None or not layers[owner].macs):
            fused.append((last.get(path, -1), node))
        elif owner is not None:
            owners[node] = owner
        elif operators[path, word]:
            owners[node] = operators[path, word].pop(0)
    free = sorted({number for number, layer in enumerate(layers) if layer.macs} - set(owners))
    for end, node in sorted(fused):
        before = bisect_right(free, end)
        owners[node] = free.pop(before - 1) if before else None
    for number, node in zip(free, outputs, strict=False):
        owners[node] = number
    return owners


def _scope(network: nn.Module, path: str) -> str:
    """How torch's exporter begins the names of a module's nodes: `/` and the last name, for each module that is called.

    Numbers go with the name before them: `body.stages.0.1` is `/body/stages.0/stages.0.1` where stages is a list.
    """
    called = [prefix for prefix in _prefixes(path) if prefix and _is_called(network.get_submodule(prefix))]
    return "".join(f"/{_last_name(prefix)}" for prefix in called)


def _is_called(module: nn.Module) -> bool:
    """Not a mere list of modules."""
    return type(module).forward is not nn.Module.forward


def _last_name(path: str) -> str:
    match = re.search(r"[^.]*[^.\d][^.]*(\.\d+)*$", path)
    return match.group() if match else path


def _prefixes(path: str) -> Iterator[str]:
    """`a.b` → ``, `a`, `a.b`."""
    yield ""
    parts = path.split(".") if path else []
    for n in range(1, len(parts) + 1):
        yield ".".join(parts[:n])


def _place(name: str, paths: dict[str, str]) -> tuple[str | None, str]:
    """Path of the module with the longest scope in a node's name, and ONNX's operator; no path for an engine's own."""
    if not name.startswith("/"):
        return None, ""
    scope, rest = name, ""
    while scope:
        scope, _, word = scope.rpartition("/")
        rest = word or rest
        if scope in paths:
            match = re.match("[A-Za-z]+", rest)
            return paths[scope], match.group().lower() if match else ""
    return None, ""


# --- ncnn ------------------------------------------------------------------------------------------------------------


def _by_operator(layers: Sequence[Layer], kernels: Sequence[Kernel]) -> list[int | None]:
    """Per node its layer's number."""
    waiting: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for number, layer in enumerate(layers):
        size = prod(layer.outputs)
        if layer.macs:
            waiting["", layer.macs, size].append(number)
            continue
        for operator in {_NCNN.get(name.strip("_"), "") for name in layer.operators} - {""}:
            waiting[operator, 0, size].append(number)
    owners: list[int | None] = []
    for kernel in kernels:
        key = ("" if kernel.macs else kernel.operator, kernel.macs, prod(kernel.outputs[0].shape))
        owners.append(waiting[key].pop(0) if waiting[key] else None)
    return owners
