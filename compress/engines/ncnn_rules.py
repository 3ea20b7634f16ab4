"""The layers that pnnx and ncnn make of a network, repeated from what they do: no export, hundredths of a second.

Checked against exports of the present pnnx in tests/engines/test_ncnn_rules.py:

- a batch norm goes into the convolution before it, then an activation (ReLU, ReLU6 or sigmoid), where nothing else
  reads what is between them; a convolution in groups is a ConvolutionDepthWise;
- after pooling the whole map a blob is a vector, and a 1x1 convolution of it an InnerProduct;
- shuffling channels is one layer, and so are two slices that together are the whole;
- a blob that several layers read is split, which is a layer too.

An operation without a rule raises UnknownOperationError; nothing is left out.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from torch import nn

from compress.engines.kernel import Kernel, Operand
from compress.engines.ncnn_kernels import Layer, kernel_of
from compress.engines.operations import Operation, Read, Recorded, UnknownOperationError, Weight, record


def kernels_by_part(network: nn.Module, input_hw: tuple[int, int]) -> dict[str, Counter[Kernel]]:
    """The kernels of one pass of a [1,3,H,W] image by the operation they come from; raises UnknownOperationError."""
    parts: dict[str, Counter[Kernel]] = {}
    for part, kernel in _Converter(record(network, input_hw)).kernels():
        parts.setdefault(part, Counter())[kernel] += 1
    return parts


@dataclass
class _Made:
    """A layer on its way. reads, makes: values of the recorded pass. foldable: a convolution's or matrix product's."""

    kind: str
    part: str
    reads: list[int]
    makes: list[int]
    parameters: dict[str, str] = field(default_factory=dict)
    foldable: bool = False
    activated: bool = False
    bias: str = ""  # the parameter that says whether there is one


_SIXTH = {"0": "0.166666672", "1": "0.5"}
_ACTIVATIONS: dict[str, Callable[[Operation], tuple[str, dict[str, str]]]] = {
    "relu": lambda op: ("ReLU", {}),
    "relu_": lambda op: ("ReLU", {}),
    "sigmoid": lambda op: ("Sigmoid", {}),
    "hardtanh": lambda op: (
        "Clip",
        {"0": _float(op.given(1, "min_val", -1.0)), "1": _float(op.given(2, "max_val", 1.0))},
    ),
    "relu6": lambda op: ("Clip", {"0": "0.0", "1": "6.0"}),
    "silu": lambda op: ("Swish", {}),
    "hardswish": lambda op: ("HardSwish", _SIXTH),
    "hardsigmoid": lambda op: ("HardSigmoid", _SIXTH),
    "elu": lambda op: ("ELU", {"0": _float(op.given(1, "alpha", 1.0))}),
}
_FOLDED = {"ReLU": "1", "Clip": "3", "Sigmoid": "4"}
"""Activations that convolutions and matrix products compute themselves → parameter 9."""


class _Converter:
    """Turns recorded operations into layers, in their order."""

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self._uses = recorded.uses()
        self._layers: list[_Made] = []
        self._maker: dict[int, _Made] = {}
        self._blobs: dict[int, tuple[int, ...]] = {0: recorded.shapes[0][1:]}
        self._shuffles: dict[int, tuple[Operation, ...]] = {}  # value → what of a shuffle of channels has led to it
        self._slices: dict[int, Operation] = {}  # value → the first slice of it
        self._cuts = Counter(op.reads[0] for op in recorded.operations if op.name == "__getitem__")
        for operation in recorded.operations:
            self._convert(operation)
        if self._slices or self._shuffles:
            raise _unknown(next(iter(self._slices.values()), None) or next(iter(self._shuffles.values()))[-1])

    def kernels(self) -> list[tuple[str, Kernel]]:
        """With the parts that they come from."""
        readers: Counter[int] = Counter(value for layer in self._layers for value in layer.reads)
        readers.update(value for value in self._recorded.outputs)
        found = []
        for layer in self._layers:
            operands = [[Operand(self._blobs[value]) for value in values] for values in (layer.reads, layer.makes)]
            parameters = tuple(sorted(layer.parameters.items(), key=lambda item: _number(item[0])))
            found.append((layer.part, kernel_of(Layer(layer.kind, "", (), (), parameters), *operands)))
        for value, count in readers.items():
            if count > 1:
                part = self._maker[value].part if value in self._maker else ":0"
                blob = Operand(self._blobs[value])
                found.append((part, kernel_of(Layer("Split", "", (), (), ()), [blob], [blob] * count)))
        return found

    def _convert(self, op: Operation) -> None:
        name = op.name
        if name in _ACTIVATIONS:
            kind, parameters = _ACTIVATIONS[name](op)
            self._activate(op, kind, parameters)
        elif name == "conv2d":
            self._convolution(op)
        elif name == "conv_transpose2d":
            self._deconvolution(op)
        elif name == "batch_norm":
            self._batch_norm(op)
        elif name in ("add", "iadd", "__iadd__", "add_", "mul"):
            self._of_two(op)
        elif name == "cat":
            if op.given(1, "dim", 0) not in (1, -3) or any(len(self._blobs[v]) != 3 for v in op.reads):
                raise _unknown(op)
            self._add(op, "Concat", {"0": "0"})
        elif name == "interpolate":
            self._interpolate(op)
        elif name in ("max_pool2d", "avg_pool2d"):
            self._pool(op)
        elif name == "adaptive_avg_pool2d":
            if op.given(1, "output_size") not in (1, (1, 1)):
                raise _unknown(op)
            self._add(op, "Pooling", {"0": "1", "4": "1"})
            self._blobs[op.makes[0]] = self._blobs[op.makes[0]][:1]
        elif name in ("view", "reshape", "transpose"):
            self._shuffle(op)
        elif name == "__getitem__":
            self._slice(op)
        else:
            raise _unknown(op)

    def _add(self, op: Operation, kind: str, parameters: Mapping[str, str], **more: Any) -> None:
        layer = _Made(kind, op.part, list(op.reads), list(op.makes), dict(parameters), **more)
        self._layers.append(layer)
        for value in op.makes:
            self._maker[value] = layer
            self._blobs[value] = self._recorded.shapes[value][1:]

    def _same(self, op: Operation, layer: _Made) -> None:
        """The operation goes into that layer, which then makes its result."""
        layer.makes = list(op.makes)
        self._maker[op.makes[0]] = layer
        self._blobs[op.makes[0]] = self._blobs[op.reads[0]]

    def _before(self, op: Operation) -> _Made | None:
        """The convolution or matrix product that this operation can go into."""
        layer = self._maker.get(op.reads[0])
        alone = layer is not None and self._uses[op.reads[0]] == 1
        return layer if layer is not None and alone and layer.foldable and not layer.activated else None

    def _activate(self, op: Operation, kind: str, parameters: Mapping[str, str]) -> None:
        host = self._before(op)
        if host is None or kind not in _FOLDED:
            blob = self._blobs[op.reads[0]]
            self._add(op, kind, parameters)
            self._blobs[op.makes[0]] = blob
            return
        host.parameters["9"], host.activated = _FOLDED[kind], True
        if parameters:
            host.parameters["-23310"] = ",".join(["2", *parameters.values()])
        self._same(op, host)

    def _convolution(self, op: Operation) -> None:
        weight, groups = op.given(1, "weight"), op.given(6, "groups", 1)
        if not isinstance(weight, Weight) or not isinstance(op.given(4, "padding", 0), tuple | int):
            raise _unknown(op)
        (outputs, _, high, wide), bias = weight.shape, "1" if op.given(2, "bias") is not None else "0"
        blob = self._blobs[op.reads[0]]
        if len(blob) == 1:
            if (high, wide) != (1, 1) or groups != 1:
                raise _unknown(op)
            numbers = {"0": str(outputs), "1": bias, "2": str(prod(weight.shape))}
            self._add(op, "InnerProduct", numbers, foldable=True, bias="1")
            self._blobs[op.makes[0]] = (outputs,)
            return
        numbers = {"0": str(outputs), "6": str(prod(weight.shape)), "5": bias, **self._window(op, (high, wide), 3)}
        if groups > 1:
            numbers["7"] = str(groups)
        self._add(op, "Convolution" if groups == 1 else "ConvolutionDepthWise", numbers, foldable=True, bias="5")

    def _deconvolution(self, op: Operation) -> None:
        weight, groups = op.given(1, "weight"), op.given(6, "groups", 1)
        if not isinstance(weight, Weight):
            raise _unknown(op)
        high, wide = weight.shape[2:]
        out = _pair(op.given(5, "output_padding", 0))
        numbers = {"0": str(weight.shape[1] * groups), "6": str(prod(weight.shape)), "18": str(out[1])}
        numbers |= {"19": str(out[0]), "5": "1" if op.given(2, "bias") is not None else "0"}
        dilation = _pair(op.given(7, "dilation", 1))
        numbers |= {"1": str(wide), "11": str(high), "2": str(dilation[1]), "12": str(dilation[0])}
        numbers |= self._steps(op, 3, 4)
        if groups > 1:
            numbers["7"] = str(groups)
        self._add(op, "Deconvolution" if groups == 1 else "DeconvolutionDepthWise", numbers, foldable=True, bias="5")

    def _window(self, op: Operation, kernel_hw: tuple[int, int], first: int) -> dict[str, str]:
        """Of a convolution whose arguments are stride, padding and dilation from place `first`."""
        dilation = _pair(op.given(first + 2, "dilation", 1))
        numbers = {"1": kernel_hw[1], "11": kernel_hw[0], "2": dilation[1], "12": dilation[0]}
        return {**{key: str(value) for key, value in numbers.items()}, **self._steps(op, first, first + 1)}

    @staticmethod
    def _steps(op: Operation, stride: int, padding: int) -> dict[str, str]:
        strides, pads = _pair(op.given(stride, "stride", 1)), _pair(op.given(padding, "padding", 0))
        numbers = {"3": strides[1], "13": strides[0], "4": pads[1], "14": pads[0]}
        return {key: str(value) for key, value in numbers.items()}

    def _batch_norm(self, op: Operation) -> None:
        host = self._before(op)
        if host is not None:
            host.parameters[host.bias] = "1"
            self._same(op, host)
            return
        blob = self._blobs[op.reads[0]]
        if len(blob) != 3:
            raise _unknown(op)
        # As pnnx prints it: 1.000000e-5
        eps = f"{op.given(7, 'eps', 1e-5):.6e}".replace("e-0", "e-")
        self._add(op, "BatchNorm", {"0": str(blob[0]), "1": eps})

    def _of_two(self, op: Operation) -> None:
        if len(op.reads) != 2 or op.kwargs or not all(isinstance(arg, Read) for arg in op.args):
            raise _unknown(op)
        first, second = (self._blobs[value] for value in op.reads)
        gated = op.name == "mul" and len({len(first), len(second)}) == 2 and first[0] == second[0]
        if first != second and not gated:
            raise _unknown(op)
        self._add(op, "BinaryOp", {"0": "2" if op.name == "mul" else "0"})
        self._blobs[op.makes[0]] = max(first, second, key=len)

    def _interpolate(self, op: Operation) -> None:
        mode, scale = op.given(3, "mode", "nearest"), op.given(2, "scale_factor")
        if op.given(1, "size") is not None or scale is None or mode not in ("nearest", "bilinear"):
            raise _unknown(op)
        high, wide = scale if isinstance(scale, tuple) else (scale, scale)
        aligned = "1" if op.given(4, "align_corners") else "0"
        kind = "1" if mode == "nearest" else "2"
        self._add(op, "Interp", {"0": kind, "1": _float(high), "2": _float(wide), "6": aligned})

    def _pool(self, op: Operation) -> None:
        average = op.name == "avg_pool2d"
        kernel = op.given(1, "kernel_size")
        stride = op.given(2, "stride")
        (high, wide), strides = _pair(kernel), _pair(kernel if stride in (None, ()) else stride)
        pads = _pair(op.given(3, "padding", 0))
        ceil = op.given(4 if average else 5, "ceil_mode", False)
        dilated = not average and _pair(op.given(4, "dilation", 1)) != (1, 1)
        counted = op.given(5, "count_include_pad", True) if average else True
        divided = average and op.given(6, "divisor_override") is not None
        if ceil or dilated or divided:
            raise _unknown(op)
        numbers = {"0": int(average), "1": wide, "11": high, "2": strides[1], "12": strides[0]}
        numbers |= {"3": pads[1], "13": pads[0], "5": 1}
        if average:
            numbers["6"] = int(counted)
        self._add(op, "Pooling", {key: str(value) for key, value in numbers.items()})

    def _shuffle(self, op: Operation) -> None:
        """view [1,g,c/g,h,w], transpose 1 and 2, view [1,c,h,w], each read by the next alone."""
        (value,), shapes = op.reads, self._recorded.shapes
        before = self._shuffles.pop(value, ())
        shape, made = shapes[value], shapes[op.makes[0]]
        if before and self._uses[value] != 1:
            raise _unknown(op)
        fits = (
            op.name != "transpose" and len(shape) == 4 and len(made) == 5 and made[3:] == shape[2:],
            op.name == "transpose" and op.args[1:] == (1, 2),
            op.name != "transpose" and len(made) == 4 and made == shapes[before[0].reads[0]] if before else False,
        )
        if len(before) > 2 or not fits[len(before)]:
            raise _unknown(op)
        if len(before) < 2:
            self._shuffles[op.makes[0]] = (*before, op)
            return
        groups = shapes[before[0].makes[0]][1]
        whole = Operation("channel_shuffle", before[0].part, (), {}, before[0].reads, op.makes)
        self._add(whole, "ShuffleChannel", {"0": str(groups), "1": "0"})

    def _slice(self, op: Operation) -> None:
        """x[:, :k] and x[:, k:]."""
        (value,), where = op.reads, op.args[1]
        picked = isinstance(where, tuple) and len(where) == 2 and all(isinstance(one, slice) for one in where)
        if not picked or self._cuts[value] != 2 or where[0] != slice(None) or where[1].step is not None:
            raise _unknown(op)
        first = self._slices.pop(value, None)
        if first is None:
            if where[1].start is not None or where[1].stop is None:
                raise _unknown(op)
            self._slices[value] = op
            self._blobs[op.makes[0]] = self._recorded.shapes[op.makes[0]][1:]
            return
        cut = first.args[1][1].stop
        if where[1] != slice(cut, None):
            raise _unknown(op)
        both = Operation("split", first.part, (), {}, (value,), (*first.makes, *op.makes))
        self._add(both, "Slice", {"1": "0", **({"-23300": f"2,{cut},-233"} if cut > 0 else {"-23302": f"1,{cut}"})})


def _number(key: str) -> str:
    """By which a .param file is sorted: arrays have -23300 minus their number."""
    return key if not key.startswith("-233") else str(-23300 - int(key))


def _float(value: float) -> str:
    """As pnnx prints it."""
    return f"{float(value):.1f}" if float(value).is_integer() else f"{float(value):.9g}"


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[-1])) if isinstance(value, tuple | list) else (int(value), int(value))


def _unknown(op: Operation) -> UnknownOperationError:
    return UnknownOperationError(
        "this operation has no rule", place=op.part, value=op.name, remedy="detect the kernels by an export instead"
    )
