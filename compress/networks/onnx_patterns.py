"""Modules in the graph of an ONNX file: activations, channel shuffles, norms behind convolutions, attention, blocks.

A file names single operators; what a person would call a Swish or a residual block are several of them. They are found
in the graph that was read, and become the modules that rules know, so that they are sites like anywhere else. Nothing
is computed in another way, but for the rounding of an activation that becomes one operator.
"""

import operator
from collections.abc import Callable, Iterator, Sequence, Set
from itertools import chain, count, takewhile
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.networks.blocks import ChannelShuffle


def with_blocks(network: fx.GraphModule) -> fx.GraphModule:
    """The network with what was found as modules, named by the longest path that their operators have in common."""
    _name_activations(network)
    _name_shuffles(network)
    for conv, norm in list(_norm_pairs(network)):
        _nest(network, [conv, norm], conv.args[0], "conv_bn", parts=("conv", "bn"))
    for kind, found in (("SqueezeExcite", _attentions), ("ResidualBlock", _residuals)):
        nested: dict[fx.Node, fx.Node] = {}  # what is computed now by a module that was found before
        for nodes, given in found(network):
            nested[nodes[-1]] = _nest(network, nodes, nested.get(given, given), kind)
    network.graph.eliminate_dead_code()
    return fx.GraphModule(network, network.graph)  # its modules in the order of the graph


# --- Nodes -----------------------------------------------------------------------------------------------------------


def _module(network: fx.GraphModule, node: object) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None


def _calculation(module: nn.Module | None) -> Callable[..., Tensor] | None:
    """torch.add, torch.mul, ... of onnx2torch's module for two operands."""
    return getattr(module, "math_op_function", None) if type(module).__name__ == "OnnxBinaryMathOperation" else None


def _value(network: fx.GraphModule, node: object) -> Tensor | None:
    """What a constant of the graph holds; None for what is computed."""
    if not isinstance(node, fx.Node):
        return None
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(network)
    else:
        module = _module(network, node)
        value = getattr(module, "value", None) if module is not None and not node.args else None
    return value if isinstance(value, Tensor) else None


def _operands(network: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """Its inputs that are computed."""
    return [one for one in node.all_input_nodes if _value(network, one) is None]


def _between(network: fx.GraphModule, given: fx.Node, last: fx.Node, order: dict[fx.Node, int]) -> list[fx.Node] | None:
    """The nodes from behind `given` to `last`, in order, where all of it comes from `given` and serves nobody else."""
    found: set[fx.Node] = set()
    waiting = [last]
    while waiting:
        node = waiting.pop()
        if node is given or node in found:
            continue
        if order[node] <= order[given] or node.op not in ("call_module", "call_function"):
            return None
        found.add(node)
        waiting += _operands(network, node)
    inner = found - {last}
    return sorted(found, key=order.__getitem__) if all(set(node.users) <= found for node in inner) else None


def _order(network: fx.GraphModule) -> dict[fx.Node, int]:
    return {node: number for number, node in enumerate(network.graph.nodes)}


def _nest(
    network: fx.GraphModule, nodes: Sequence[fx.Node], given: Any, kind: str, parts: Sequence[str] = ()
) -> fx.Node:
    """Makes the nodes, computed from `given`, one module, and returns its node. parts: names in a chain of modules."""
    exit_node = nodes[-1]
    graph = fx.Graph()
    copies = {given: graph.placeholder("x")}
    for node in nodes:
        for constant in node.all_input_nodes:
            if constant not in copies:
                copies[constant] = graph.node_copy(constant)
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[exit_node])
    name = _free_name(network, nodes, kind)
    nested: nn.Module = fx.GraphModule(network, graph, kind)
    if parts:
        nested = nn.Sequential()
        for part, node in zip(parts, nodes, strict=True):
            nested.add_module(part, network.get_submodule(str(node.target)))
    network.add_submodule(name, nested.eval())
    with network.graph.inserting_after(exit_node):
        new = network.graph.call_module(name, (given,))
        exit_node.replace_all_uses_with(new)
    for node in reversed(nodes):
        network.graph.erase_node(node)
    return new


def _free_name(network: fx.GraphModule, nodes: Sequence[fx.Node], kind: str) -> str:
    """The path that all of the nodes have in common, or else the kind; with a number if there is such a module."""
    paths = [str(node.target).split("/")[:-1] for node in nodes if node.op == "call_module"]
    common = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))]
    path = "/".join(part for part in common if part) or kind
    return next(one for one in chain([path], (f"{path}_{n}" for n in count(1))) if not hasattr(network, one))


# --- Activations and shuffles ----------------------------------------------------------------------------------------

_ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.SiLU,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.GELU,
    lambda: nn.GELU("tanh"),
    nn.Mish,
)
_ELEMENTWISE = (
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.ReLU,
    nn.ReLU6,
    nn.Hardtanh,
    nn.Hardsigmoid,
    "OnnxBinaryMathOperation",
    "OnnxErf",
    "OnnxHardSigmoid",
    "OnnxPow",
    "OnnxClip",
    "OnnxFunction",
    "OnnxSqrt",
)
_NEAR, _FAR = 12.0, (15.0, 50.0, 1e2, 1e3, 1e4, 6e4, 1e6, 1e12, 1e30)
"""Where operators are compared with an activation: densely up to the first, and at plus and minus the others."""
_MOST = 12
"""Operators of one activation; GELU's tanh form has 9."""


def _is_elementwise(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether it does to every number the same, with constants that are single numbers."""
    module = _module(network, node)
    known = any(type(module) is one or type(module).__name__ == one for one in _ELEMENTWISE)
    values = [_value(network, one) for one in node.all_input_nodes]
    return known and not node.kwargs and all(value is None or value.numel() == 1 for value in values)


def _name_activations(network: fx.GraphModule) -> None:
    """Elementwise operators that together are a known activation, seen from -12 to 12 and at large numbers."""
    far = torch.tensor(_FAR)
    grid = torch.cat((torch.linspace(-_NEAR, _NEAR, 481), far, -far))
    known = [(build, build()(grid)) for build in _ACTIVATIONS]
    order = _order(network)
    removed: set[fx.Node] = set()
    for last in reversed(list(network.graph.nodes)):
        if last in removed or last.op != "call_module" or not _is_elementwise(network, last):
            continue
        if type(_module(network, last)) is nn.Hardsigmoid:
            continue
        for given, nodes in _function_ends(network, last, order):
            curve = _on_grid(network, nodes, given, grid)
            seen = torch.ones_like(grid, dtype=torch.bool)
            if curve.shape == grid.shape and not any(_clips(network, node) for node in nodes):
                seen = curve.isfinite() | (grid.abs() <= _NEAR)  # exponentials overflow where the activation does not
            build = next((build for build, expected in known if _alike(curve, expected, seen)), None)
            if build is not None:
                network.add_submodule(str(last.target), build())
                last.args = (given,)
                removed |= set(nodes)
                break
    network.graph.eliminate_dead_code()


def _function_ends(
    network: fx.GraphModule, last: fx.Node, order: dict[fx.Node, int]
) -> Iterator[tuple[fx.Node, list[fx.Node]]]:
    """The nodes that `last` is a function of, each alone, nearest first, with the operators between."""
    found = {last}
    while len(found) <= _MOST:
        outside = {one for node in found for one in _operands(network, node)} - found
        if len(outside) == 1:
            given = next(iter(outside))
            if all(set(node.users) <= found for node in found - {last}):
                yield given, sorted(found, key=order.__getitem__)
        nearest = max(outside, key=order.__getitem__, default=None)
        if nearest is None or nearest.op != "call_module" or not _is_elementwise(network, nearest):
            return
        found.add(nearest)


def _on_grid(network: fx.GraphModule, nodes: Sequence[fx.Node], given: fx.Node, grid: Tensor) -> Tensor:
    known: dict[Any, Any] = {given: grid}

    def value(one: fx.Node) -> Tensor:
        constant = _value(network, one)
        return known[one] if constant is None else constant.reshape(())

    with torch.no_grad():
        for node in nodes:
            module = _module(network, node)
            assert module is not None
            known[node] = module(*(value(one) if isinstance(one, fx.Node) else one for one in node.args))
    return known[nodes[-1]]  # type: ignore[no-any-return]


def _clips(network: fx.GraphModule, node: fx.Node) -> bool:
    module = _module(network, node)
    return isinstance(module, nn.ReLU6 | nn.Hardtanh) or type(module).__name__ == "OnnxClip"


def _alike(curve: Tensor, expected: Tensor, seen: Tensor) -> bool:
    return curve.shape == expected.shape and torch.allclose(curve[seen], expected[seen], rtol=1e-5, atol=2e-6)


def _name_shuffles(network: fx.GraphModule) -> None:
    """[B,C,H,W] as groups, transposed, and back, is a channel shuffle, of any size of picture."""
    for last in list(network.graph.nodes):
        turned = last.args[0] if last.args else None
        split = turned.args[0] if isinstance(turned, fx.Node) and turned.args else None
        if not (isinstance(turned, fx.Node) and isinstance(split, fx.Node)):
            continue
        modules = [_module(network, node) for node in (split, turned, last)]
        names = [type(module).__name__ for module in modules]
        if names != ["FixedReshape", "OnnxTranspose", "FixedReshape"] or len(split.users) + len(turned.users) > 2:
            continue
        first, perm, second = (getattr(modules[n], key) for n, key in enumerate(("shape", "perm", "shape")))
        axes = list(perm or ())
        if len(first) == 5 and axes == [0, 2, 1, 3, 4] and -1 not in first[1:] and _rejoins(first, second):
            network.add_submodule(str(last.target), ChannelShuffle(first[1]))
            last.args = (split.args[0],)
    network.graph.eliminate_dead_code()


def _rejoins(first: list[int], second: list[int]) -> bool:
    batch, groups, channels, *sides = first
    expected = [batch, groups * channels, *sides]
    return len(second) == 4 and all(a == b or b == -1 for a, b in zip(expected, second, strict=True))


# --- Norms, attention and blocks -------------------------------------------------------------------------------------


def _norm_pairs(network: fx.GraphModule) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Convolutions and the batch norms that alone read them."""
    for norm in network.graph.nodes:
        conv = norm.args[0] if norm.args else None
        if (
            isinstance(conv, fx.Node)
            and type(_module(network, norm)) is nn.BatchNorm2d
            and type(_module(network, conv)) in (nn.Conv2d, nn.ConvTranspose2d)
            and len(conv.users) == 1
        ):
            yield conv, norm


def _attentions(network: fx.GraphModule) -> list[tuple[list[fx.Node], fx.Node]]:
    """Products of x and what two 1x1 convolutions or linear layers, C to S and S to C, make of its means."""
    return [
        ([*nodes, product], given) for given, nodes, product in _joined(network, torch.mul) if _squeezes(network, nodes)
    ]


def _joined(network: fx.GraphModule, operation: Callable[..., Any]) -> Iterator[tuple[fx.Node, list[fx.Node], fx.Node]]:
    """x, what is made of it and used for nothing else, and the sum or product of both."""
    order = _order(network)
    for joint in network.graph.nodes:
        operands = _operands(network, joint)
        if _calculation(_module(network, joint)) is not operation or len(operands) != 2:
            continue
        for given, branch in (operands, reversed(operands)):
            nodes = _between(network, given, branch, order)
            if nodes and set(branch.users) == {joint}:
                yield given, nodes, joint


def _squeezes(network: fx.GraphModule, nodes: Sequence[fx.Node]) -> bool:
    modules = [_module(network, node) for node in nodes]
    holders = [one for one in modules if one is not None and any(True for _ in one.parameters())]
    layers = [one for one in holders if isinstance(one, nn.Linear) or _is_pointwise(one)]
    if len(holders) != 2 or len(layers) != 2:
        return False
    squeeze, excite = (layer.weight.shape for layer in layers)
    return tuple(squeeze[:2]) == tuple(excite[1::-1])  # type: ignore[index]


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1


def _residuals(network: fx.GraphModule) -> list[tuple[list[fx.Node], fx.Node]]:
    """Blocks that add to their input at one resolution, with the ReLU behind them; none holds another.

    A shortcut around depthwise convolutions alone belongs to the block that it lies in.
    """
    found = [
        ([*nodes, total, *_rectifier(network, total)], given)
        for given, nodes, total in _joined(network, torch.add)
        if _is_branch(network, nodes)
    ]
    found.sort(key=lambda block: len(block[0]), reverse=True)
    taken: set[fx.Node] = set()
    blocks = []
    for number, (nodes, given) in enumerate(found):
        inside = [inner for inner, _ in found[number + 1 :] if set(inner) < set(nodes)]
        if taken.isdisjoint(nodes) and not any(_has_dense(network, inner) for inner in inside):
            taken |= set(nodes)
            blocks.append((nodes, given))
    order = _order(network)
    return sorted(blocks, key=lambda block: order[block[0][0]])


def _rectifier(network: fx.GraphModule, total: fx.Node) -> list[fx.Node]:
    user = next(iter(total.users), None)
    return [user] if user is not None and len(total.users) == 1 and type(_module(network, user)) is nn.ReLU else []


def _convolutions(network: fx.GraphModule, nodes: Sequence[fx.Node] | Set[fx.Node]) -> list[nn.Conv2d]:
    """Those at the resolution of the maps, not those of attention."""
    pairs = [_module(network, node) for node in nodes]
    inner = [one[0] if isinstance(one, nn.Sequential) else one for one in pairs]
    return [one for one in inner if isinstance(one, nn.Conv2d)]


def _is_branch(network: fx.GraphModule, nodes: Sequence[fx.Node]) -> bool:
    """Convolutions that keep the resolution, and nothing that changes it."""
    convolutions = _convolutions(network, nodes)
    modules = [_module(network, node) for node in nodes]
    modules = [one[0] if isinstance(one, nn.Sequential) else one for one in modules]
    resized = any(isinstance(one, nn.Upsample | nn.ConvTranspose2d | nn.MaxPool2d | nn.AvgPool2d) for one in modules)
    return bool(convolutions) and not resized and all(one.stride == (1, 1) for one in convolutions)


def _has_dense(network: fx.GraphModule, nodes: Sequence[fx.Node]) -> bool:
    return any(one.groups == 1 or one.groups != one.in_channels for one in _convolutions(network, nodes))
