"""Cuts a network into the units that onnxruntime really runs and that are therefore timed as one.

Read `cut` first. Three steps: torch.fx names the operations, shapes are worked out with integers (nothing is computed),
and onnxruntime's graph rewriting is repeated on them. The rules are those of its NCHWc transformer (CPU, level 3;
checked against the optimised graph of version 1.31.1 in tests/measure/test_units.py):

- convolution, batch norm and activation are one unit; a sum joins the convolution before it if that one has no
  activation, no other sum and no other reader, and both operands are blocked; an activation may follow that sum;
- most operators work on channels in blocks (`nchwc`); convolutions with fewer input channels than a block read plain
  tensors, transposed convolutions and uneven concatenations only work on plain ones;
- wherever the two meet, onnxruntime inserts a reordering, which is a unit too: it is work that small networks feel.

An operation without a rule here raises EngineError with its name; nothing is dropped.
"""

import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import onnx
import onnxruntime
from onnx import TensorProto, helper
from torch import fx, nn

from compress.errors import EngineError

Kind = Literal[
    "conv", "deconv", "add", "mul", "relu", "sigmoid", "concat", "upsample", "max_pool", "avg_pool", "global_pool",
    "to_blocks", "from_blocks",
]  # fmt: skip


@dataclass(frozen=True, order=True)
class Unit:
    """One node of onnxruntime's optimised graph, batch 1.

    inputs: channels of the input, for concat of each input. outputs: channels. height, width: of the (first) input.
    scale: enlargement of an upsample. scalar: the second factor of a mul is [C,1,1].
    blocked: works on NCHWc tensors. added: a second tensor is added to a convolution's output before the activation.
    """

    kind: Kind
    inputs: tuple[int, ...]
    outputs: int
    height: int
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    scale: int = 1
    activation: Literal["", "relu", "sigmoid"] = ""
    added: bool = False
    scalar: bool = False
    blocked: bool = True

    @property
    def key(self) -> str:
        """Readable and stable name, e.g. `conv3x3s2 8>16 32x32 relu +add`: equal keys if and only if equal units."""
        (kh, kw), (sh, sw) = self.kernel, self.stride
        name: str = self.kind
        if self.kind in ("conv", "deconv", "max_pool", "avg_pool"):
            name += f"{kh}x{kw}"
            if (sh, sw) != (1, 1):
                name += f"s{sh}" if sh == sw else f"s{sh}x{sw}"
            if self.padding != (kh // 2, kw // 2):
                name += "p{}x{}".format(*self.padding)
            if self.output_padding != (0, 0):
                name += "o{}x{}".format(*self.output_padding)
            if self.dilation != (1, 1):
                name += "d{}x{}".format(*self.dilation)
            if self.groups > 1:
                name += f"g{self.groups}"
        if self.kind == "upsample":
            name += f"x{self.scale}"
        parts = [name, "+".join(map(str, self.inputs))]
        if (self.outputs,) != self.inputs:
            parts[1] += f">{self.outputs}"
        parts.append(f"{self.height}x{self.width}")
        if self.activation:
            parts.append(self.activation)
        if self.added:
            parts.append("+add")
        if self.scalar:
            parts.append("scalar")
        if not self.blocked and self.kind not in ("to_blocks", "from_blocks"):
            parts.append("plain")
        return " ".join(parts)

    @property
    def output_hw(self) -> tuple[int, int]:
        """Height and width of the output."""
        if self.kind == "global_pool":
            return 1, 1
        if self.kind == "upsample":
            return self.height * self.scale, self.width * self.scale
        if self.kind not in ("conv", "deconv", "max_pool", "avg_pool"):
            return self.height, self.width
        axes = zip(
            (self.height, self.width), self.kernel, self.stride, self.padding, self.output_padding, self.dilation,
            strict=True,
        )  # fmt: skip
        if self.kind == "deconv":
            high, wide = ((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, o, d in axes)
        else:
            high, wide = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, o, d in axes)
        return high, wide

    @property
    def macs(self) -> int:
        """Multiply-adds: weights x positions (of the input for a transposed convolution); 0 for other kinds."""
        weights = self.inputs[0] * self.outputs // self.groups * self.kernel[0] * self.kernel[1]
        if self.kind == "conv":
            return weights * self.output_hw[0] * self.output_hw[1]
        return weights * self.height * self.width if self.kind == "deconv" else 0


def cut(network: nn.Module, input_hw: tuple[int, int], block: int | None = None) -> Counter[Unit]:
    """The units of one pass of a [1,3,H,W] image and how often each occurs. The network is left as it was.

    block: channels per block of onnxruntime's NCHWc layout; that of this machine if not given.
    Raises EngineError naming the first operation that no rule covers.
    """
    return Counter(cut_in_order(network, input_hw, block))


def cut_in_order(network: nn.Module, input_hw: tuple[int, int], block: int | None = None) -> list[Unit]:
    """The same, as a list in the order of the forward pass."""
    return _arrange(_operations(network, input_hw), block or channel_block())


@cache
def channel_block() -> int:
    """Channels per block of onnxruntime's NCHWc layout on this machine (16 with AVX-512, 8 with AVX2; 1: no blocks).

    Asked of onnxruntime itself: a one-filter convolution is padded to a full block in its optimised graph.
    """
    weight = helper.make_tensor("w", TensorProto.FLOAT, (1, 3, 1, 1), [0.0] * 3)
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, c, 4, 4)) for name, c in (("x", 3), ("y", 1))]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "probe", shapes[:1], shapes[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "probe.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(options.optimized_model_filepath)
    return int(optimised.graph.initializer[0].dims[0])


# Step 1: operations and shapes ---------------------------------------------------------------------------------------


@dataclass
class _Operation:
    """One operation of the traced network. sources: indices of the operations it reads; -1 is the image."""

    unit: Unit
    sources: list[int]
    uses: int = 0


@dataclass
class _Trace:
    """operations in the order they run; values: fx node name → index of the operation that made it."""

    operations: list[_Operation] = field(default_factory=list)
    values: dict[str, int] = field(default_factory=dict)
    outputs: list[int] = field(default_factory=list)
    image: tuple[int, int, int] = (3, 0, 0)

    def shape(self, index: int) -> tuple[int, int, int]:
        """Channels, height, width."""
        if index < 0:
            return self.image
        unit = self.operations[index].unit
        return unit.outputs, *unit.output_hw


def _operations(network: nn.Module, input_hw: tuple[int, int]) -> _Trace:
    try:
        graph = fx.Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError) as error:
        raise EngineError(
            f"a network must have no data-dependent control flow to be cut: {error}",
            place=type(network).__name__,
            remedy="write its forward without it",
        ) from error
    modules = dict(network.named_modules())
    trace = _Trace(image=(3, *input_hw))
    for node in graph.nodes:
        if node.op == "placeholder":
            trace.values[node.name] = -1
        elif node.op == "output":
            trace.outputs = [trace.values[n.name] for n in _nodes(node.args)]
        else:
            _record(trace, node, modules)
    for operation in trace.operations:
        for source in operation.sources:
            if source >= 0:
                trace.operations[source].uses += 1
    for index in trace.outputs:
        trace.operations[index].uses += 1
    return trace


def _record(trace: _Trace, node: fx.Node, modules: dict[str, nn.Module]) -> None:
    sources = [trace.values[n.name] for n in _nodes((node.args, node.kwargs))]
    if node.op == "call_module":
        module, place = modules[str(node.target)], str(node.target)
        if isinstance(module, nn.Identity | nn.Dropout | nn.Dropout2d):
            trace.values[node.name] = sources[0]
            return
        if isinstance(module, nn.BatchNorm2d):
            before = trace.operations[sources[0]].unit.kind if sources[0] >= 0 else "the image"
            if before not in ("conv", "deconv") or len(_nodes((node.args,))[0].users) != 1:
                raise EngineError(
                    "batch norm must follow a convolution that nothing else reads", place=place, value=before,
                    remedy="move it, or add a rule to compress/measure/units.py",
                )  # fmt: skip
            trace.values[node.name] = sources[0]
            return
        unit = _module_unit(module, trace.shape(sources[0]), place)
    else:
        place = f"{node.target} after {node.prev.target}"
        unit = _function_unit(node, [trace.shape(s) for s in sources], place)
    trace.values[node.name] = len(trace.operations)
    trace.operations.append(_Operation(unit, sources))


def _module_unit(module: nn.Module, shape: tuple[int, int, int], place: str) -> Unit:
    c, h, w = shape
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        if isinstance(module.padding, str):
            raise _uncut(place, f"padding {module.padding!r}")
        return Unit(
            "deconv" if isinstance(module, nn.ConvTranspose2d) else "conv",
            (c,), module.out_channels, h, w, _pair(module.kernel_size), _pair(module.stride), _pair(module.padding),
            _pair(module.output_padding), _pair(module.dilation), module.groups,
        )  # fmt: skip
    if isinstance(module, nn.ReLU):
        return Unit("relu", (c,), c, h, w)
    if isinstance(module, nn.Sigmoid):
        return Unit("sigmoid", (c,), c, h, w)
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        return Unit("global_pool", (c,), c, h, w)
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d) and not module.ceil_mode:
        kind: Kind = "max_pool" if isinstance(module, nn.MaxPool2d) else "avg_pool"
        stride, padding = _pair(module.stride), _pair(module.padding)
        return Unit(kind, (c,), c, h, w, _pair(module.kernel_size), stride, padding)
    if isinstance(module, nn.Upsample) and module.mode == "nearest" and module.scale_factor is not None:
        scales = module.scale_factor if isinstance(module.scale_factor, tuple) else (module.scale_factor,) * 2
        if scales[0] == scales[1] == int(scales[0]):
            return Unit("upsample", (c,), c, h, w, scale=int(scales[0]))
    raise _uncut(place, module)


_FUNCTIONS: dict[Callable[..., Any] | str, Kind] = {
    "add": "add", "iadd": "add", "mul": "mul", "cat": "concat", "relu": "relu", "relu_": "relu", "sigmoid": "sigmoid",
}  # fmt: skip


def _function_unit(node: fx.Node, shapes: list[tuple[int, int, int]], place: str) -> Unit:
    name = node.target if isinstance(node.target, str) else node.target.__name__
    kind = _FUNCTIONS.get(name)
    if kind is None:
        raise _uncut(place, name)
    c, h, w = shapes[0]
    if kind == "concat":
        dimension = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if dimension not in (1, -3) or any(shape[1:] != (h, w) for shape in shapes):
            raise _uncut(place, f"cat along dimension {dimension}")
        channels = tuple(shape[0] for shape in shapes)
        return Unit("concat", channels, sum(channels), h, w)
    if kind in ("add", "mul"):
        if len(shapes) != 2:
            raise _uncut(place, f"{name} of {len(shapes)} tensors")
        if shapes[0] != shapes[1]:
            c, h, w = max(shapes, key=lambda shape: shape[1] * shape[2])
            if kind != "mul" or min(shapes, key=lambda shape: shape[1] * shape[2]) != (c, 1, 1):
                raise _uncut(place, f"{name} of {shapes[0]} and {shapes[1]}")
            return Unit("mul", (c,), c, h, w, scalar=True)
    elif len(shapes) != 1:
        raise _uncut(place, f"{name} of {len(shapes)} tensors")
    return Unit(kind, (c,), c, h, w)


def _nodes(args: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(args, found.append)
    return found


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _uncut(place: str, value: object) -> EngineError:
    return EngineError(
        "an operation without a rule cannot be cut into units", place=place, value=value,
        remedy="replace it, or add a rule to compress/measure/units.py",
    )  # fmt: skip


# Step 2: onnxruntime's fusions and layouts ---------------------------------------------------------------------------


@dataclass
class _Value:
    """A tensor of the optimised graph. maker: position of its unit in the list; uses: readers in the given graph."""

    maker: int
    blocked: bool
    uses: int


def _arrange(trace: _Trace, block: int) -> list[Unit]:
    units: list[Unit] = []
    values: dict[int, _Value] = {-1: _Value(-1, False, 1)}
    converted: set[tuple[int, bool]] = set()

    def read(index: int, blocked: bool) -> None:
        """Inserts the reordering that a reader of this layout needs; one serves all readers."""
        value = values[index]
        if value.blocked != blocked and (id(value), blocked) not in converted:
            converted.add((id(value), blocked))
            c, h, w = trace.shape(index)
            units.append(Unit("to_blocks" if blocked else "from_blocks", (c,), c, h, w, blocked=False))

    for index, operation in enumerate(trace.operations):
        unit, sources = operation.unit, operation.sources
        inputs = [values[source] for source in sources]
        all_blocked = all(value.blocked for value in inputs)
        if unit.kind in ("relu", "sigmoid"):
            maker = units[inputs[0].maker] if inputs[0].maker >= 0 else unit
            if maker.kind == "conv" and not maker.activation and inputs[0].uses == 1:
                units[inputs[0].maker] = _with(maker, activation=unit.kind)
                values[index] = _Value(inputs[0].maker, inputs[0].blocked, operation.uses)
                continue
            blocked = all_blocked
        elif unit.kind == "add":
            host = _host(inputs, units, all_blocked)
            if host is not None:
                units[host.maker] = _with(units[host.maker], added=True)
                for source in sources:
                    read(source, host.blocked)
                values[index] = _Value(host.maker, host.blocked, operation.uses)
                continue
            blocked = all_blocked
        elif unit.kind == "conv":
            blocked = _conv_blocked(unit, block)
            reads_plain = unit.groups == 1 and unit.inputs[0] < block
            read(sources[0], blocked and not reads_plain)
            unit = _with(unit, blocked=blocked)
            values[index] = _Value(len(units), blocked, operation.uses)
            units.append(unit)
            continue
        elif unit.kind in ("max_pool", "avg_pool", "global_pool"):
            blocked = unit.inputs[0] % block == 0
        elif unit.kind == "concat":
            blocked = all_blocked and all(c % block == 0 for c in unit.inputs)
        elif unit.kind == "deconv":
            blocked = False
        else:
            blocked = all_blocked and not unit.scalar
        for source in sources:
            read(source, blocked)
        values[index] = _Value(len(units), blocked, operation.uses)
        units.append(_with(unit, blocked=blocked))
    for index in trace.outputs:
        read(index, False)
    return units


def _conv_blocked(unit: Unit, block: int) -> bool:
    if block == 1:
        return False
    inputs = unit.inputs[0] // unit.groups
    if unit.groups == 1:
        return inputs < block or inputs % 4 == 0
    if inputs == 1 and unit.outputs == unit.groups:
        return unit.outputs % 4 == 0
    return inputs % block == 0 and unit.outputs // unit.groups % block == 0


def _host(inputs: list[_Value], units: list[Unit], all_blocked: bool) -> _Value | None:
    """The convolution that takes the sum of these inputs over: the first blocked one, else the last plain one."""
    able = [v for v in inputs if v.uses == 1 and v.maker >= 0 and _can_add(units[v.maker])]
    if all_blocked:
        return able[0] if able else None
    plain = [v for v in able if not v.blocked]
    return max(plain, key=lambda v: v.maker) if plain else None


def _can_add(maker: Unit) -> bool:
    return maker.kind == "conv" and not maker.activation and not maker.added


def _with(unit: Unit, **changes: Any) -> Unit:
    # dataclasses.replace, but without its cost of re-reading the fields: cut runs on every candidate.
    return Unit(**{**unit.__dict__, **changes})
