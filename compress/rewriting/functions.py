"""Functions as modules: rules replace modules, but a user's own network may call `F.silu(x)` or `x * torch.sigmoid(x)`.

Every module with code of its own is traced by itself (torch.fx); what it calls stays whole, so blocks remain blocks
and paths what they were. A call that a rule could replace becomes a child, `block.silu`, further ones `block.silu_1`
and so on, and the traced forward takes the place of the module's own. All else of it stays: parameters and their
names, attributes, hooks and other methods.

What cannot be traced by itself, since it reads a list or has optional arguments, is traced where it is called, if that
is in one module only. What tracing would freeze or lose is left as it is, with the reason: what differs in training,
tensors made from nothing, state that is kept, gradients that are switched off.
"""

import copy
import inspect
import operator
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence, Set
from itertools import chain, count
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.proxy import TraceError


def as_modules(network: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """A copy of the network whose replaceable functions are modules; and path → why functions called there stay.

    The outputs are bit-equal, but for the rounding of x·sigmoid(x) as one nn.SiLU. Check them all the same: a
    forward that tests types, `isinstance(x, Tensor)`, or reads x after `y = x; y += 1`, is traced wrongly.
    """
    changed = copy.deepcopy(network)
    unread: dict[str, str] = {}
    waiting: set[str] = set()  # to be traced in what is around them
    shared = _of_several_parents(changed)
    for path, module in reversed(list(changed.named_modules())):
        if type(module).__module__.startswith("torch.nn") or type(module).forward is nn.Module.forward:
            continue
        try:
            graph, inlined = _traced(module, path, {one for one in waiting if _lies_in(one, path)})
        except _UntraceableError as failure:
            unread[path] = failure.reason
            waiting |= {path} - shared
            continue
        waiting -= inlined
        if not isinstance(graph.output_node().args[0], fx.Node):
            waiting |= {path} - shared  # what reads its list must see how long that is
        unread = {one: reason for one, reason in unread.items() if one not in inlined}
        unread |= _replace_calls(module, path, graph, inlined)
    return changed, {
        path: unread[path] for path, module in changed.named_modules() if path in unread and _may_call(module)
    }


def _may_call(module: nn.Module) -> bool:
    """Whether the module's code names a function that could be replaced, or one of the user's, or cannot be read."""
    if "forward" in vars(module) or isinstance(module, _Parts):
        return True
    try:
        forward = inspect.unwrap(type(module).forward)
        source, known = inspect.getsource(type(module)), inspect.getclosurevars(forward)
    except (OSError, TypeError, ValueError):
        return True
    return any(name in source for name, _ in _CALLS.values()) or any(
        inspect.isfunction(one) for one in (*known.globals.values(), *known.nonlocals.values())
    )


def _of_several_parents(network: nn.Module) -> set[str]:
    """Modules that cannot become part of what is around them, for they are called elsewhere too."""
    parents: dict[nn.Module, set[nn.Module]] = defaultdict(set)
    for parent in network.modules():
        for child in parent.children():
            parents[child].add(parent)
    return {path for path, module in network.named_modules() if len(parents[module]) > 1}


# --- Tracing ---------------------------------------------------------------------------------------------------------


class _UntraceableError(Exception):
    """reason: the user's line and what fails there. at: the inlined modules in which it fails, outermost first."""

    def __init__(self, reason: str, at: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason, self.at = reason, at


class _Tracer(fx.Tracer):
    """Modules that are called stay whole, but for those to be inlined and what these lie in."""

    def __init__(self, path: str, inlined: Set[str]) -> None:
        super().__init__()
        self.proxy_buffer_attributes = True  # else what is computed from a buffer would be frozen
        self._path, self._inlined = path, inlined

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        passes = type(m) is nn.Identity  # lists as well, and nobody may know how long they are behind it
        return not (passes or _is_entered(_joined(self._path, module_qualified_name), self._inlined))

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        if not torch.is_grad_enabled():
            raise TraceError("it switches gradients off")
        return super().create_node(*args, **kwargs)


def _lies_in(path: str, around: str) -> bool:
    """Whether that path is the other, or of a part of it."""
    return not around or f"{path}.".startswith(f"{around}.")


def _is_entered(path: str, inlined: Set[str]) -> bool:
    """Whether the module there is inlined, or holds one that is."""
    return any(_lies_in(one, path) for one in inlined)


def _traced(module: nn.Module, path: str, waiting: Set[str]) -> tuple[fx.Graph, Set[str]]:
    """What the module's forward does, and which of the waiting ones in it are inlined: all that can be.

    Raises _UntraceableError for what a graph cannot hold, and for whatever the forward raises.
    """
    inlined = waiting
    while True:
        try:
            _check_forward(module)
            training, graph = (_traced_in_mode(module, mode, path, inlined) for mode in (True, False))
            if str(training) != str(graph) and any(map(_is_replaceable, (*training.nodes, *graph.nodes))):
                raise _UntraceableError("it works otherwise in training")
            return graph, inlined
        except _UntraceableError as failure:
            if not inlined:
                raise
            cause = next((one for one in reversed(failure.at) if _is_entered(one, inlined)), "")
            inlined = {one for one in inlined if not _lies_in(one, cause)}


def _check_forward(module: nn.Module) -> None:
    """Raises _UntraceableError for a forward that one graph cannot stand for."""
    if "forward" in vars(module):
        raise _UntraceableError("its forward is not its class's")
    arguments = inspect.signature(type(module).forward).parameters.values()
    if any(one.default is not one.empty or one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in arguments):
        raise _UntraceableError("its forward has optional arguments")


@torch.enable_grad()
def _traced_in_mode(module: nn.Module, training: bool, path: str, inlined: Set[str]) -> fx.Graph:
    """Traces a copy that shares the weights; see _traced."""
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    shell = copy.deepcopy(module, shared)
    shell.train(training)
    states = [(vars(part), dict(vars(part))) for part in shell.modules()]
    tracer = _Tracer(path, inlined)
    try:
        graph = tracer.trace(shell)
    except Exception as error:  # a module of the user's may raise anything
        raise _UntraceableError(
            _reason(error), [_joined(path, at) for at, _ in tracer.module_stack.values()]
        ) from error
    kept = any(
        now.keys() != before.keys() or any(now[name] is not value for name, value in before.items())
        for now, before in states
    )
    if kept and any(map(_is_replaceable, graph.nodes)):
        raise _UntraceableError("it makes a tensor from nothing, or keeps something in the module")
    return graph


def _reason(error: Exception) -> str:
    """The line of the user's code at which tracing failed, and why."""
    ours = (str(Path(torch.__file__).parent), __file__)
    lines = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    place = f"{Path(lines[-1].filename).name}, line {lines[-1].lineno}: " if lines else ""
    said = str(error).strip().partition("\n")[0].partition(". ")[0]
    return f"{place}{said or type(error).__name__}"


# --- Calls into modules ----------------------------------------------------------------------------------------------

_OPERATORS = ("call_function", "call_method")
_CALLS: dict[Any, tuple[str, Callable[..., nn.Module]]] = {
    F.silu: ("silu", nn.SiLU),
    F.elu: ("elu", nn.ELU),
    F.gelu: ("gelu", nn.GELU),
    F.interpolate: ("interpolate", nn.Upsample),
    torch.sigmoid: ("sigmoid", nn.Sigmoid),
    "sigmoid": ("sigmoid", nn.Sigmoid),
}
"""Function, or method of a tensor → name, and the module that takes its other arguments."""


def _is_replaceable(node: fx.Node) -> bool:
    """Whether it calls a function that some rule replaces as a module."""
    called = node.op in _OPERATORS and node.target in _CALLS and "out" not in node.kwargs
    resized = node.target is F.interpolate  # which is traced with all its arguments by name
    return called and not (resized and (node.kwargs["mode"] != "bilinear" or node.kwargs["antialias"]))


class _Parts(nn.Module):
    """What is left of a module whose code runs in the one around it: no rule may replace it."""


def _replace_calls(module: nn.Module, path: str, graph: fx.Graph, inlined: Set[str]) -> dict[str, str]:
    """Changes the module, and returns path → why a function that is called there stays one."""
    calls = {node: _holder(node) for node in graph.nodes if _is_replaceable(node)}
    simple = {node: holder for node, holder in calls.items() if len(node.all_input_nodes) == 1}
    for node, holder in simple.items():
        _replace_call(module, holder, graph, node)
    if simple:
        _set_forward(module, graph)
        for name, part in module.named_modules():
            if name and _is_entered(_joined(path, name), inlined):
                part.__class__ = _Parts
    return {
        _joined(path, holder): f"{_CALLS[node.target][0]} takes a size or a value that is computed"
        for node, holder in calls.items()
        if node not in simple
    }


def _holder(node: fx.Node) -> str:
    """Path of the inlined module that calls, '' for the traced one."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def _replace_call(module: nn.Module, holder: str, graph: fx.Graph, node: fx.Node) -> None:
    """Makes the call, x·sigmoid(x) as one, a child of the module at `holder`. Changes both."""
    (given,) = node.all_input_nodes
    name, build = _CALLS[node.target]
    options = {key: value for key, value in node.kwargs.items() if key not in ("input", "antialias")}
    new, last = build(*node.args[1:], **options), node
    product = next(iter(node.users)) if len(node.users) == 1 else None
    if isinstance(new, nn.Sigmoid) and product is not None and _multiplies(product, given, node):
        name, new, last = "silu", nn.SiLU(), product
    parent = module.get_submodule(holder)
    free = next(one for one in chain([name], (f"{name}_{n}" for n in count(1))) if not hasattr(parent, one))
    parent.add_module(free, new.train(parent.training))
    with graph.inserting_after(last):
        last.replace_all_uses_with(graph.call_module(_joined(holder, free), (given,)))
    for removed in dict.fromkeys((last, node)):
        graph.erase_node(removed)


def _multiplies(product: fx.Node, one: fx.Node, other: fx.Node) -> bool:
    multiplies = product.op in _OPERATORS and product.target in (operator.mul, torch.mul, "mul")
    return multiplies and product.args in ((one, other), (other, one)) and "out" not in product.kwargs


def _set_forward(module: nn.Module, graph: fx.Graph) -> None:
    """The graph becomes the module's forward, of a class of its own below its class."""
    if isinstance(module, fx.GraphModule):  # has a class of its own, and copies itself from its graph
        module.graph = graph
        return
    given = type(module)
    forward = type(fx.GraphModule(module, graph)).forward
    module.__class__ = type(
        given.__name__, (given,), {"forward": forward, "__module__": given.__module__, "__doc__": given.__doc__}
    )


def _joined(*parts: str) -> str:
    """The dotted path of these, some of which may be empty."""
    return ".".join(part for part in parts if part)
