"""onnxruntime's fusion of operations into kernels, repeated from its rules: no export, hundredths of a second.

Three steps: torch.fx names the operations, shapes are worked out with integers (nothing is computed),
and onnxruntime's graph rewriting is repeated on them. The rules are those of its NCHWc transformer (CPU, level 3;
checked against the optimised graph of version 1.31.1 in tests/measure/test_kernels.py):

- convolution, batch norm and activation are one kernel; a sum joins the convolution before it if that one has no
  activation, no other sum and no other reader, and both operands are blocked; an activation may follow that sum;
- most operators work on channels in blocks (`nchwc`); convolutions with fewer input channels than a block read plain
  tensors, transposed convolutions and uneven concatenations only work on plain ones;
- wherever the two meet, onnxruntime inserts a reordering, which is a kernel too: it is work that small networks feel.

An operation without a rule raises UnknownOperationError with its name; nothing is left out.
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

from compress.engines.kernel import Kernel, Operand, Value
from compress.engines.onnxruntime_kernels import onnx_kernel
from compress.engines.operations import UnknownOperationError


def kernels_by_rules(network: nn.Module, input_hw: tuple[int, int], block: int | None = None) -> list[Kernel]:
    """The kernels of one pass of a [1,3,H,W] image, from the rules above, in the order of the forward pass.

    block: channels per block of its NCHWc layout; that of this machine if not given. Raises UnknownOperationError.
    """
    block = block or channel_block()
    return [kernel_of(piece, block) for piece in _arrange(_operations(network, input_hw), block)]


def kernels_by_part(
    network: nn.Module, input_hw: tuple[int, int], block: int | None = None
) -> dict[str, Counter[Kernel]]:
    """The same kernels by the operation they come from: `stem.0.conv:0` is the first of that module."""
    parts: dict[str, Counter[Kernel]] = {}
    block = block or channel_block()
    for piece in _arrange(_operations(network, input_hw), block):
        parts.setdefault(piece.part, Counter())[kernel_of(piece, block)] += 1
    return parts


Kind = Literal[
    "conv",
    "deconv",
    "add",
    "mul",
    "relu",
    "sigmoid",
    "concat",
    "upsample",
    "max_pool",
    "avg_pool",
    "global_pool",
    "to_blocks",
    "from_blocks",
    "identity",
]


@dataclass(frozen=True)
class Piece:
    """An operation on its way to become a kernel, batch 1.

    inputs: channels of the input, for concat of each input. outputs: channels. height, width: of the (first) input.
    scale: enlargement of an upsample. scalar: the factor of a mul that is [C,1,1].
    blocked: works on NCHWc tensors. added: a second tensor is added to a convolution's output before the activation.
    bias: of a convolution. part: the operation that it comes from, see kernels_by_part.
    """

    kind: Kind
    inputs: tuple[int, ...]
    outputs: int
    height: int
    width: int
    kernel_size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    output_padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    scale: int = 1
    activation: Literal["", "relu", "sigmoid"] = ""
    added: bool = False
    scalar: Literal["", "first", "second"] = ""
    blocked: bool = True
    bias: bool = True
    part: str = ""

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
            (self.height, self.width),
            self.kernel_size,
            self.stride,
            self.padding,
            self.output_padding,
            self.dilation,
            strict=True,
        )
        if self.kind == "deconv":
            high, wide = ((n - 1) * s - 2 * p + d * (k - 1) + o + 1 for n, k, s, p, o, d in axes)
        else:
            high, wide = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, o, d in axes)
        return high, wide


def kernel_of(piece: Piece, block: int) -> Kernel:
    """onnxruntime's node: blocked channels are padded to whole blocks, and so are the weights."""

    def padded(channels: int) -> int:
        return -(-channels // block) * block

    hw, out_hw = (piece.height, piece.width), piece.output_hw
    channels, outputs = piece.inputs, piece.outputs
    if piece.kind == "to_blocks":
        return onnx_kernel("nchwc.ReorderInput", [_map(channels[0], hw)], [_map(padded(outputs), hw)], {})
    if piece.kind == "from_blocks":
        maps = _map(padded(channels[0]), hw), _map(outputs, hw)
        return onnx_kernel("nchwc.ReorderOutput", [maps[0]], [maps[1]], {"channels": outputs})
    if piece.kind in ("conv", "deconv"):
        return _convolution(piece, padded)
    if piece.blocked:
        channels, outputs = tuple(map(padded, channels)), padded(outputs)
    out = [_map(outputs, out_hw)]
    inputs = [_map(c, hw) for c in channels]
    window: dict[str, Value] = {"kernel_shape": piece.kernel_size, "strides": piece.stride, "pads": piece.padding * 2}
    prefix = "nchwc." if piece.blocked else ""
    match piece.kind:
        case "add" | "mul":
            scalar = _map(channels[0], (1, 1))
            first = scalar if piece.scalar == "first" else inputs[0]
            second = scalar if piece.scalar == "second" else inputs[0]
            return onnx_kernel(piece.kind.capitalize(), [first, second], out, {})
        case "relu" | "sigmoid":
            return onnx_kernel(piece.kind.capitalize(), inputs, out, {})
        case "identity":
            return onnx_kernel("Identity", inputs, out, {})
        case "concat":
            return onnx_kernel("Concat", inputs, out, {"axis": 1})
        case "upsample":
            how: dict[str, Value] = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest"}
            scales = (1, 1, piece.scale, piece.scale)
            if piece.blocked:
                return onnx_kernel("nchwc.Upsample", inputs, out, {**how, "scales": scales})
            steering = [Operand((), "none"), Operand((4,), constant=True, values=scales)]
            return onnx_kernel("Resize", [*inputs, *steering], out, {**how, "nearest_mode": "floor"})
        case "max_pool":
            return onnx_kernel(f"{prefix}MaxPool", inputs, out, window)
        case "avg_pool":
            return onnx_kernel(f"{prefix}AveragePool", inputs, out, {**window, "count_include_pad": 1})
        case _:
            return onnx_kernel(f"{prefix}GlobalAveragePool", inputs, out, {})


def _convolution(piece: Piece, padded: Callable[[int], int]) -> Kernel:
    (inputs,), outputs, groups = piece.inputs, piece.outputs, piece.groups
    attributes: dict[str, Value] = {"strides": piece.stride, "pads": piece.padding * 2, "dilations": piece.dilation}
    attributes |= {"group": groups, "activation": piece.activation.capitalize()}
    if piece.kind == "deconv":
        attributes |= {"output_padding": piece.output_padding}
        operator, weights = "ConvTranspose", (inputs, outputs // groups, *piece.kernel_size)
    elif piece.blocked:
        reads_plain = groups == 1 and inputs < padded(1)
        inputs, outputs = inputs if reads_plain else padded(inputs), padded(outputs)
        if groups == piece.outputs > 1:
            attributes["group"] = groups = outputs
        operator, weights = "nchwc.Conv", (outputs, inputs // groups, *piece.kernel_size)
    else:
        operator = "microsoft.FusedConv" if piece.activation or piece.added else "Conv"
        weights = (outputs, inputs // groups, *piece.kernel_size)
    out = _map(outputs, piece.output_hw)
    operands = [_map(inputs, (piece.height, piece.width)), Operand(weights, constant=True)]
    if piece.bias:
        operands.append(Operand((outputs,), constant=True))
    elif piece.added:
        operands.append(Operand((), "none"))
    return onnx_kernel(operator, [*operands, *([out] if piece.added else [])], [out], attributes)


def _map(channels: int, hw: tuple[int, int]) -> Operand:
    return Operand((1, channels, *hw))


@cache
def channel_block() -> int:
    """Channels per block of onnxruntime's NCHWc layout on this machine (16 with AVX-512, 8 with AVX2; 1: no blocks).

    Asked of onnxruntime itself: a one-filter convolution is padded to a full block in its optimised graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(folder) / "probe.onnx")
        onnxruntime.InferenceSession(one_filter(), options, providers=["CPUExecutionProvider"])
        return block_of(Path(options.optimized_model_filepath))


def one_filter() -> bytes:
    """An ONNX model of one convolution with one filter."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, (1, 3, 1, 1), [0.0] * 3)
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, c, 4, 4)) for name, c in (("x", 3), ("y", 1))]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "probe", shapes[:1], shapes[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    return bytes(model.SerializeToString())


def block_of(graph: Path) -> int:
    """The block of the machine where onnxruntime has optimised `one_filter` to this graph."""
    return int(onnx.load(graph).graph.initializer[0].dims[0])


# Step 1: operations and shapes ---------------------------------------------------------------------------------------


@dataclass
class _Operation:
    """One operation of the traced network. sources: indices of the operations it reads; -1 is the image."""

    piece: Piece
    sources: list[int]
    uses: int = 0


@dataclass
class _Trace:
    """operations in the order they run; values: fx node name → index of the operation that made it.

    counts: module → its own operations so far.
    """

    operations: list[_Operation] = field(default_factory=list)
    values: dict[str, int] = field(default_factory=dict)
    outputs: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    image: tuple[int, int, int] = (3, 0, 0)

    def shape(self, index: int) -> tuple[int, int, int]:
        """Channels, height, width."""
        if index < 0:
            return self.image
        piece = self.operations[index].piece
        return piece.outputs, *piece.output_hw


def _operations(network: nn.Module, input_hw: tuple[int, int]) -> _Trace:
    try:
        graph = fx.Tracer().trace(network)
    except (fx.proxy.TraceError, TypeError) as error:
        raise UnknownOperationError(
            f"torch.fx cannot follow the network: {error}",
            place=type(network).__name__,
            remedy="cut it by the engine instead",
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
            before = trace.operations[sources[0]].piece.kind if sources[0] >= 0 else "the image"
            if before not in ("conv", "deconv") or len(_nodes((node.args,))[0].users) != 1:
                raise UnknownOperationError(
                    "batch norm must follow a convolution that nothing else reads",
                    place=place,
                    value=before,
                    remedy="cut it by the engine instead",
                )
            convolution = trace.operations[sources[0]]
            convolution.piece = _with(convolution.piece, bias=True)
            trace.values[node.name] = sources[0]
            return
        piece = _module_piece(module, trace.shape(sources[0]), place)
    else:
        place = f"{node.target} after {node.prev.target}"
        piece = _function_piece(node, [trace.shape(s) for s in sources], place)
    trace.values[node.name] = len(trace.operations)
    path = next(reversed(node.meta.get("nn_module_stack", {"": None})))
    part = f"{path}:{trace.counts[path]}"
    trace.counts[path] += 1
    trace.operations.append(_Operation(_with(piece, part=part), sources))


def _module_piece(module: nn.Module, shape: tuple[int, int, int], place: str) -> Piece:
    c, h, w = shape
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        if isinstance(module.padding, str):
            raise _unknown_operation(place, f"padding {module.padding!r}")
        return Piece(
            "deconv" if isinstance(module, nn.ConvTranspose2d) else "conv",
            (c,),
            module.out_channels,
            h,
            w,
            _pair(module.kernel_size),
            _pair(module.stride),
            _pair(module.padding),
            _pair(module.output_padding),
            _pair(module.dilation),
            module.groups,
            bias=module.bias is not None,
        )
    if isinstance(module, nn.ReLU):
        return Piece("relu", (c,), c, h, w)
    if isinstance(module, nn.Sigmoid):
        return Piece("sigmoid", (c,), c, h, w)
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        return Piece("global_pool", (c,), c, h, w)
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d) and not module.ceil_mode:
        kind: Kind = "max_pool" if isinstance(module, nn.MaxPool2d) else "avg_pool"
        stride, padding = _pair(module.stride), _pair(module.padding)
        return Piece(kind, (c,), c, h, w, _pair(module.kernel_size), stride, padding)
    if isinstance(module, nn.Upsample) and module.mode == "nearest" and module.scale_factor is not None:
        scales = module.scale_factor if isinstance(module.scale_factor, tuple) else (module.scale_factor,) * 2
        if scales[0] == scales[1] == int(scales[0]):
            return Piece("upsample", (c,), c, h, w, scale=int(scales[0]))
    raise _unknown_operation(place, module)


_FUNCTIONS: dict[Callable[..., Any] | str, Kind] = {
    "add": "add",
    "iadd": "add",
    "mul": "mul",
    "cat": "concat",
    "relu": "relu",
    "relu_": "relu",
    "sigmoid": "sigmoid",
}


def _function_piece(node: fx.Node, shapes: list[tuple[int, int, int]], place: str) -> Piece:
    name = node.target if isinstance(node.target, str) else node.target.__name__
    kind = _FUNCTIONS.get(name)
    if kind is None:
        raise _unknown_operation(place, name)
    c, h, w = shapes[0]
    if kind == "concat":
        dimension = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        if dimension not in (1, -3) or any(shape[1:] != (h, w) for shape in shapes):
            raise _unknown_operation(place, f"cat along dimension {dimension}")
        channels = tuple(shape[0] for shape in shapes)
        return Piece("concat", channels, sum(channels), h, w)
    if kind in ("add", "mul"):
        if len(shapes) != 2:
            raise _unknown_operation(place, f"{name} of {len(shapes)} tensors")
        if shapes[0] != shapes[1]:
            c, h, w = max(shapes, key=lambda shape: shape[1] * shape[2])
            if kind != "mul" or (c, 1, 1) not in shapes:
                raise _unknown_operation(place, f"{name} of {shapes[0]} and {shapes[1]}")
            return Piece("mul", (c,), c, h, w, scalar="first" if shapes[0] == (c, 1, 1) else "second")
    elif len(shapes) != 1:
        raise _unknown_operation(place, f"{name} of {len(shapes)} tensors")
    return Piece(kind, (c,), c, h, w)


def _nodes(args: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(args, found.append)
    return found


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _unknown_operation(place: str, value: object) -> UnknownOperationError:
    return UnknownOperationError(
        "this operation has no rule", place=place, value=value, remedy="cut the network by the engine instead"
    )


# Step 2: onnxruntime's fusions and layouts ---------------------------------------------------------------------------


@dataclass
class _Value:
    """A tensor of the optimised graph. maker: position of its piece in the list; uses: readers in the given graph."""

    maker: int
    blocked: bool
    uses: int


def _arrange(trace: _Trace, block: int) -> list[Piece]:
    pieces: list[Piece] = []
    values: dict[int, _Value] = {-1: _Value(-1, False, 1)}
    converted: set[tuple[int, bool]] = set()

    def read(index: int, blocked: bool, part: str) -> None:
        """Inserts the reordering that a reader of this layout needs; one serves all readers."""
        value = values[index]
        if value.blocked != blocked and (id(value), blocked) not in converted:
            converted.add((id(value), blocked))
            c, h, w = trace.shape(index)
            pieces.append(Piece("to_blocks" if blocked else "from_blocks", (c,), c, h, w, blocked=False, part=part))

    for index, operation in enumerate(trace.operations):
        piece, sources = operation.piece, operation.sources
        inputs = [values[source] for source in sources]
        all_blocked = all(value.blocked for value in inputs)
        if piece.kind in ("relu", "sigmoid"):
            maker = pieces[inputs[0].maker] if inputs[0].maker >= 0 else piece
            if maker.kind == "conv" and not maker.activation and inputs[0].uses == 1:
                pieces[inputs[0].maker] = _with(maker, activation=piece.kind)
                values[index] = _Value(inputs[0].maker, inputs[0].blocked, operation.uses)
                continue
            blocked = all_blocked
        elif piece.kind == "add":
            host = _host(inputs, pieces, all_blocked)
            if host is not None:
                pieces[host.maker] = _with(pieces[host.maker], added=True)
                for source in sources:
                    read(source, host.blocked, piece.part)
                values[index] = _Value(host.maker, host.blocked, operation.uses)
                continue
            blocked = all_blocked
        elif piece.kind == "conv":
            blocked = _conv_blocked(piece, block)
            reads_plain = piece.groups == 1 and piece.inputs[0] < block
            read(sources[0], blocked and not reads_plain, piece.part)
            piece = _with(piece, blocked=blocked)
            values[index] = _Value(len(pieces), blocked, operation.uses)
            pieces.append(piece)
            continue
        elif piece.kind in ("max_pool", "avg_pool", "global_pool"):
            blocked = piece.inputs[0] % block == 0
        elif piece.kind == "concat":
            blocked = all_blocked and all(c % block == 0 for c in piece.inputs)
        elif piece.kind == "deconv":
            blocked = False
        else:
            blocked = all_blocked and not piece.scalar
        for source in sources:
            read(source, blocked, piece.part)
        values[index] = _Value(len(pieces), blocked, operation.uses)
        pieces.append(_with(piece, blocked=blocked))
    for index, times in Counter(trace.outputs).items():
        read(index, False, "")
        c, h, w = trace.shape(index)
        copy = Piece("identity", (c,), c, h, w, blocked=False)  # of an output that is given again
        pieces += [copy] * (times - 1)
    return pieces


def _conv_blocked(piece: Piece, block: int) -> bool:
    if block == 1:
        return False
    inputs = piece.inputs[0] // piece.groups
    if piece.groups == 1:
        return inputs < block or inputs % 4 == 0
    if inputs == 1 and piece.outputs == piece.groups:
        return piece.outputs % 4 == 0
    return inputs % block == 0 and piece.outputs // piece.groups % block == 0


def _host(inputs: list[_Value], pieces: list[Piece], all_blocked: bool) -> _Value | None:
    """The convolution that takes the sum of these inputs over: the first blocked one, or the only plain one."""
    able = [v for v in inputs if v.uses == 1 and v.maker >= 0 and _can_add(pieces[v.maker])]
    if all_blocked:
        return able[0] if able else None
    plain = [v for v in able if not v.blocked]
    if len(plain) > 1:  # onnxruntime takes the later one in its own order, which is not the network's
        raise _unknown_operation(pieces[plain[-1].maker].part, "a sum of two convolutions that work on plain tensors")
    return plain[0] if plain else None


def _can_add(maker: Piece) -> bool:
    return maker.kind == "conv" and not maker.activation and not maker.added


def _with(piece: Piece, **changes: Any) -> Piece:
    # dataclasses.replace, but without its cost of re-reading the fields: cut runs on every candidate.
    return Piece(**{**piece.__dict__, **changes})
