"""ncnn's layers as kernels: read from a .param file, timed one by one, and put together to a model of their own.

ncnn has no profiler here, but it computes a layer when its output is first extracted. So extracting one layer's output
after the other runs the network as usual and gives every layer's time; a second extraction gives what extracting costs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from time import perf_counter

import ncnn
import numpy as np

from compress.engines.engine import Profile
from compress.engines.kernel import Kernel, Operand
from compress.errors import EngineError

MAGIC = "7767517"
_WEIGHTS = {
    "Convolution": "6",
    "ConvolutionDepthWise": "6",
    "Deconvolution": "6",
    "DeconvolutionDepthWise": "6",
    "InnerProduct": "2",
}
"""Layers that multiply by weights → the parameter that says how many weights there are."""
_KINDS = {
    "Convolution": ("1", "11", "2", "3"),
    "Pooling": ("0", "1", "2", "4"),
    "BinaryOp": ("0",),
    "UnaryOp": ("0",),
    "Interp": ("0",),
    "Reduction": ("0",),
    "Eltwise": ("0",),
}
"""Parameters that make another kind of kernel: of convolutions kernel, dilation and stride; of others the operation."""


@dataclass(frozen=True)
class Layer:
    """One line of a .param file."""

    kind: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]


def read_param(path: Path) -> list[Layer]:
    """The layers of a .param file."""
    layers = []
    for line in path.read_text(encoding="utf-8").splitlines()[2:]:
        kind, name, inputs, outputs, *rest = line.split()
        first, last = int(inputs), int(inputs) + int(outputs)
        parameters = tuple((key, value) for key, _, value in (part.partition("=") for part in rest[last:]))
        layers.append(Layer(kind, name, tuple(rest[:first]), tuple(rest[first:last]), parameters))
    return layers


def write_param(path: Path, layers: Sequence[Layer]) -> None:
    """Writes the .param file of these layers."""
    lines = [
        " ".join(
            [
                layer.kind,
                layer.name,
                str(len(layer.bottoms)),
                str(len(layer.tops)),
                *layer.bottoms,
                *layer.tops,
                *(f"{key}={value}" for key, value in layer.parameters),
            ]
        )
        for layer in layers
    ]
    blobs = sum(len(layer.tops) for layer in layers)
    path.write_text("\n".join([MAGIC, f"{len(layers)} {blobs}", *lines]) + "\n", encoding="utf-8")


def input_parameters(shape: Sequence[int]) -> tuple[tuple[str, str], ...]:
    """Of an Input layer, for a blob of [w], [h,w], [c,h,w] or [c,d,h,w]."""
    keys = {1: "0", 2: "10", 3: "210", 4: ("2", "11", "1", "0")}[len(shape)]
    return tuple(sorted((key, str(size)) for key, size in zip(keys, shape, strict=True)))


class NcnnProfiler:
    """A loaded model whose Input layers say their shapes; see Profiler."""

    def __init__(self, net: ncnn.Net, layers: Sequence[Layer], place: Path) -> None:
        self._net, self._layers, self._place = net, [layer for layer in layers if layer.kind != "Input"], place
        random = np.random.default_rng(0)
        self._inputs = {
            # Cloned, so that ncnn counts its readers: without a count, a layer that works in place crashes.
            layer.tops[0]: ncnn.Mat(random.standard_normal(_input_shape(layer, place), dtype=np.float32)).clone()
            for layer in layers
            if layer.kind == "Input"
        }
        self._outputs = net.output_names()
        self._times_ms: list[list[float]] = []

    def run(self) -> None:
        """One pass."""
        extractor = self._extractor()
        for name in self._outputs:
            extractor.extract(name, _AS_IT_IS)

    def run_timed(self) -> None:
        """One pass, layer by layer."""
        extractor, times = self._extractor(), []
        for layer in self._layers:
            name = layer.tops[0]
            start = perf_counter()
            status, made = extractor.extract(name, _AS_IT_IS)
            middle = perf_counter()
            # Given back before the next layer runs: on an output that is still referenced, it would not work in place.
            del made
            extracted = perf_counter()
            again = extractor.extract(name, _AS_IT_IS)
            end = perf_counter()
            del again
            if status:
                raise EngineError(
                    "ncnn stopped while running",
                    place=f"{self._place}: {layer.name}",
                    value=status,
                    remedy="use a smaller image",
                )
            times.append(max(0.0, (middle - start) - (end - extracted)) * 1000)
        self._times_ms.append(times)

    def finish(self) -> Profile:
        """What was timed, and the kernels, for which every output is looked at once."""
        extractor = self._extractor()
        extractor.set_light_mode(False)
        shapes = {name: Operand(np.array(mat).shape) for name, mat in self._inputs.items()}
        kernels = []
        for layer in self._layers:
            for name in layer.tops:
                shapes[name] = Operand(np.array(extractor.extract(name)[1]).shape)
            kernels.append(kernel_of(layer, [shapes[n] for n in layer.bottoms], [shapes[n] for n in layer.tops]))
        return Profile(tuple(kernels), self._times_ms, tuple(layer.name for layer in self._layers))

    def _extractor(self) -> ncnn.Extractor:
        extractor = self._net.create_extractor()
        for name, mat in self._inputs.items():
            extractor.input(name, mat)
        return extractor


_AS_IT_IS = 1  # without unpacking the channels


def kernel_of(layer: Layer, inputs: Sequence[Operand], outputs: Sequence[Operand]) -> Kernel:
    """The kernel of a layer with blobs of these shapes. Its weights are one constant, so many numbers long."""
    parameters = dict(layer.parameters)
    kind, macs = [layer.kind, f"{len(inputs)} in"], 0
    base = layer.kind.removesuffix("DepthWise")
    kind += [f"{key}={parameters[key]}" for key in _KINDS.get(base.replace("Deconv", "Conv"), ()) if key in parameters]
    operands = list(inputs)
    if layer.kind in _WEIGHTS:
        weights = int(parameters[_WEIGHTS[layer.kind]])
        operands.append(Operand((weights,), constant=True))
        if layer.kind == "InnerProduct":
            macs = weights * outputs[0].elements // int(parameters["0"])
        else:
            macs = weights * prod((inputs if base == "Deconvolution" else outputs)[0].shape[-2:])
    elif layer.kind in ("MatMul", "Gemm") and inputs:
        macs = outputs[0].elements * inputs[0].shape[-1]
    return Kernel(layer.kind, tuple(operands), tuple(outputs), layer.parameters, " ".join(kind), macs)


def assemble(kernels: Sequence[Kernel], param: Path) -> None:
    """Writes .param and .bin of a model in which each kernel reads what another layer has just made; `u<i>` is kernel
    i.

    All weights are 0, which takes as long as others do. The model has one output, as a network has.
    """
    sources: dict[tuple[int, ...], list[str]] = {}
    middle: list[Layer] = []
    for index, kernel in enumerate(kernels):
        bottoms = []
        for position, operand in enumerate(o for o in kernel.inputs if not o.constant):
            name = f"s{index}.{position}"
            readers = sources.setdefault(operand.shape, [])
            readers.append(f"{name}.in")
            middle.append(_source(name, readers[-1]))
            bottoms.append(name)
        middle.append(_copy_of(kernel, f"u{index}", bottoms))
    _write(param, [*_inputs(sources), *middle])


def replicate(kernel: Kernel, copies: int, param: Path) -> None:
    """The same for copies of one kernel that share what they read: the time of a copy more is the kernel's own."""
    sources: dict[tuple[int, ...], list[str]] = {}
    middle: list[Layer] = []
    for position, operand in enumerate(o for o in kernel.inputs if not o.constant):
        readers = sources.setdefault(operand.shape, [])
        readers.append(f"s{position}.in")
        middle.append(_source(f"s{position}", readers[-1]))
        shared = tuple(f"s{position}.{n}" for n in range(copies))
        middle.append(Layer("Split", f"split.s{position}", (f"s{position}",), shared, ()))
    for n in range(copies):
        middle.append(
            _copy_of(kernel, f"u{n}", [f"s{i}.{n}" for i in range(sum(not o.constant for o in kernel.inputs))])
        )
    _write(param, [*_inputs(sources), *middle])


def _inputs(sources: Mapping[tuple[int, ...], Sequence[str]]) -> list[Layer]:
    """One input of each shape, and the splitting that several readers of a blob need."""
    layers = []
    for number, (shape, readers) in enumerate(sources.items()):
        layers.append(Layer("Input", f"in{number}", (), (f"in{number}",), input_parameters(shape)))
        layers.append(Layer("Split", f"split{number}", (f"in{number}",), tuple(readers), ()))
    return layers


def _source(name: str, reads: str) -> Layer:
    """What makes a kernel's input. It packs the channels as any layer would, so that the kernel need not."""
    return Layer("ReLU", name, (reads,), (name,), ())


def _copy_of(kernel: Kernel, name: str, bottoms: Sequence[str]) -> Layer:
    tops = tuple(f"{name}.{n}" for n in range(len(kernel.outputs)))
    return Layer(
        kernel.operator, name, tuple(bottoms), tops, tuple((key, str(value)) for key, value in kernel.attributes)
    )


def _write(param: Path, layers: Sequence[Layer]) -> None:
    """Adds a layer that reads everything and does nothing, so that there is one output."""
    read = {bottom for layer in layers for bottom in layer.bottoms}
    unread = tuple(top for layer in layers for top in layer.tops if top not in read)
    write_param(param, [*layers, Layer("Noop", "out", unread, ("out",), ())])
    with param.with_suffix(".bin").open("wb") as zeros:
        zeros.truncate(sum(map(_most_bytes, layers)))


def _most_bytes(layer: Layer) -> int:
    """At least what ncnn reads for a layer: up to four arrays, whose lengths are among its parameters."""
    numbers = [int(value) for _, value in layer.parameters if value.lstrip("-").isdigit() and int(value) > 0]
    return 64 + 16 * sum(numbers) + (4 * prod(numbers) if layer.kind == "MemoryData" else 0)


def _input_shape(layer: Layer, place: Path) -> tuple[int, ...]:
    sizes = dict(layer.parameters)
    shape = tuple(int(sizes[key]) for key in ("2", "11", "1", "0") if key in sizes)
    if not shape:
        raise EngineError(
            "an Input layer must say its shape to be profiled",
            place=f"{place}: {layer.name}",
            remedy="export the network again",
        )
    return shape
