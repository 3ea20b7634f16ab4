"""ptflops' count of a network beside ours, the difference taken apart.

ptflops counts more than multiply-adds: biases, norms, activations, pooling, resizing, and some functional calls. It
patches torch.nn.functional, so that an nn.ReLU counts once as a module and once by the F.relu that it calls. It misses
convolutions with computed kernels and products written with @.
"""

import contextlib
import copy
import io
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from compress.measure.counting import Layer
from compress.networks.onnx_file import torchvision_works


@dataclass(frozen=True)
class Difference:
    """What ptflops counts for one kind of operator, what we do (plain MACs), and why they differ."""

    operator: str
    ptflops: int
    ours: int
    cause: str


@dataclass(frozen=True)
class CrossCheck:
    """macs: ptflops' total, None if it fails on the network. differences: they add up to macs minus ours.

    failure: what ptflops fails at, if anything; it then counts modules only.
    """

    macs: int | None
    differences: tuple[Difference, ...]
    failure: str = ""


def cross_check(network: nn.Module, input_hw: tuple[int, int], layers: Sequence[Layer]) -> CrossCheck:
    """Runs ptflops on a copy, on the meta device where that works. layers: our count of the same pass."""
    failure = ""
    for device, functional in (("meta", True), ("cpu", True), ("meta", False), ("cpu", False)):
        if device == "cpu" and any(parameter.is_meta for parameter in network.parameters()):
            continue
        macs, theirs, printed = _ptflops(copy.deepcopy(network).to(device), input_hw, functional)
        if macs is not None:
            return CrossCheck(macs, tuple(_differences(macs, theirs, layers)), "" if functional else failure)
        failure = failure if device == "meta" and failure else printed
    return CrossCheck(None, (), failure)


def _ptflops(network: nn.Module, input_hw: tuple[int, int], functional: bool) -> tuple[int | None, Counter[str], str]:
    """Its total, its count per module type and per function (named `F.relu`), and what it printed last."""
    if "ptflops" not in sys.modules and not torchvision_works():
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # a broken one would break ptflops' import
    try:
        from ptflops import get_model_complexity_info
        from ptflops.pytorch_ops import FUNCTIONAL_MAPPING, MODULES_MAPPING, TENSOR_OPS_MAPPING
    finally:
        if "torchvision" in sys.modules and sys.modules["torchvision"] is None:
            del sys.modules["torchvision"]
    counted: Counter[str] = Counter()
    operators = _Operators()
    printed = io.StringIO()
    modules = {kind: _counting_hook(hook, kind.__name__, counted) for kind, hook in MODULES_MAPPING.items()}
    mappings = ((FUNCTIONAL_MAPPING, "F."), (TENSOR_OPS_MAPPING, "torch."))
    kept = [dict(mapping) for mapping, _ in mappings]
    try:
        for mapping, prefix in mappings:
            for function, hook in list(mapping.items()):
                name = "products" if "mm" in function.__name__ or "matmul" in function.__name__ else None
                mapping[function] = _counting_function(hook, name or prefix + function.__name__, counted, operators)
        with operators, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            macs, _ = get_model_complexity_info(
                network,
                (3, *input_hw),
                as_strings=False,
                print_per_layer_stat=False,
                custom_modules_hooks=modules,
                backend_specific_config={"count_functional": functional},
            )
    finally:
        for (mapping, _), before in zip(mappings, kept, strict=True):
            mapping.update(before)
    lines = [line for line in printed.getvalue().splitlines() if line.strip()]
    return macs, counted, lines[-1].strip() if lines else ""


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Knows whether an operator runs: on the meta device some call torch functions, which the network does not."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.running = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator."""
        self.running = True
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.running = False


def _counting_hook(hook: Callable[..., None], name: str, counted: Counter[str]) -> Callable[..., None]:
    def run(module: Any, inputs: Any, output: Any) -> None:
        before = module.__flops__
        hook(module, inputs, output)
        counted[name] += module.__flops__ - before

    return run


def _counting_function(
    hook: Callable[..., Any], name: str, counted: Counter[str], operators: _Operators
) -> Callable[..., int]:
    def run(*args: Any, **kwargs: Any) -> int:
        macs = 0 if operators.running else int(hook(*args, **kwargs))
        counted[name] += macs
        return macs

    return run


def _differences(macs: int, theirs: Counter[str], layers: Sequence[Layer]) -> list[Difference]:
    ours: Counter[str] = Counter()
    for layer in layers:
        ours[layer.kind if layer.module else _PRODUCTS.get(layer.kind, layer.kind)] += layer.macs
    modules = {layer.kind for layer in layers if layer.module}
    names = [name for name in {**theirs, **ours} if theirs[name] != ours[name]]
    found = [Difference(name, theirs[name], ours[name], _cause(name, theirs[name], modules)) for name in names]
    rest = macs - sum(theirs.values())
    if rest:
        found.append(Difference("rest", rest, 0, "ptflops does not say where it counts these"))
    return sorted(found, key=lambda difference: -abs(difference.ptflops - difference.ours))


def _cause(name: str, theirs: int, modules: set[str]) -> str:
    if name == "products":
        return "ptflops does not see products written with @ or einsum, and adds sums and biases to the others"
    if not theirs:
        return "ptflops does not see it"
    if name.startswith("F."):
        plain = name[2:].replace("_", "").replace("interpolate", "upsample")
        callers = [kind for kind in sorted(modules) if kind.lower().startswith(plain)]
        return f"the function that {callers[0]} calls, counted again" if callers else "1 per element"
    for part, cause in _CAUSES.items():
        if part in name:
            return cause
    return "1 per element"


_PRODUCTS = dict.fromkeys(("mm", "bmm", "addmm", "baddbmm"), "products")
_CAUSES = {
    "Conv": "1 more per output element for biases",
    "Linear": "1 more per output element for biases",
    "Norm": "2 per element; engines fold it into the convolution before",
    "Pool": "1 per input element",
    "Upsample": "1 per output element",
    "torch.mul": "1 per element of a functional product",
    "torch.add": "1 per element of a functional sum",
}
