"""OpenVINO, an optional engine: torch → ONNX → OpenVINO's .xml and .bin, run on the CPU.

`import openvino` reports itself to its makers through the package openvino_telemetry, and its converter reports what
it converts. That package is kept from being imported here, so nothing is sent: openvino has a stub for that case.
"""

import math
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from compress.engines.engine import (
    CHANNEL_MULTIPLE,
    Description,
    Engine,
    Image,
    Profile,
    Profiler,
    Runner,
    describe_machine,
    missing_file,
    reason_of,
    silent,
)
from compress.engines.kernel import Kernel, Operand, Value
from compress.engines.onnxruntime import OnnxRuntime
from compress.engines.onnxruntime_fusion import channel_block
from compress.engines.packed_run import PASSES, passes_ms
from compress.errors import EngineError

_HINTS = {"float32": "f32", "float16": "f16"}


@dataclass(frozen=True)
class OpenVino(Engine):
    """The engine `openvino` on the CPU. Its kernels are the nodes of its runtime graph.

    OpenVINO's own default is the lowest precision that a CPU computes in, bfloat16 on many; here it is float32 unless
    float16 is asked for.
    """

    precision: str = "float32"

    name = "openvino"
    has_kernels = True
    install = "pip install 'compress-pose[openvino]'"

    @property
    def precisions(self) -> tuple[str, ...]:
        """float16 where OpenVINO says that the CPU has it."""
        capabilities = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return ("float32", "float16") if "FP16" in capabilities else ("float32",)

    @property
    def channel_multiple(self) -> int:
        """The numbers in a vector of this CPU, which oneDNN computes channels in."""
        return max(CHANNEL_MULTIPLE, channel_block())

    def configured(self, precision: str = "float32", provider: str = "") -> Engine:
        """In float32, or in float16 where the CPU has it."""
        super().configured(precision, provider)
        return replace(self, precision=precision)

    def describe(self) -> Description:
        """OpenVINO's version, as 2026.4.1, and this machine."""
        return describe_machine(self.name, str(_openvino().get_version()).partition("-")[0])

    def export(self, network: nn.Module, input_hw: tuple[int, int], folder: Path, stem: str) -> tuple[Path, ...]:
        """Writes `stem.xml` and `stem.bin`, weights in float32: input `image`, outputs `output0`, `output1`, ..."""
        openvino = _openvino()
        folder.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that moving the finished files there is atomic.
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{stem}-") as work:
            (onnx,) = OnnxRuntime().export(network, input_hw, Path(work), "network")
            made = Path(work, "network.xml"), Path(work, "network.bin")
            try:
                with silent():
                    openvino.save_model(_core().read_model(str(onnx)), str(made[0]), compress_to_fp16=False)
            except RuntimeError as error:  # the only one its binding raises
                raise EngineError(
                    f"OpenVINO cannot convert the network: {_reason(error)}",
                    place=type(network).__name__,
                    remedy="replace the operation it names, or use another engine",
                ) from error
            paths = folder / f"{stem}.xml", folder / f"{stem}.bin"
            # The weights first: a reader finds the file it opens first, .xml, only when all is there.
            for file, path in reversed(list(zip(made, paths, strict=True))):
                os.replace(file, path)
        return paths

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The model of `stem.xml` and the .bin beside it, on `threads` threads.

        Raises EngineError for more threads than there are cores too, for OpenVINO starts no more.
        """
        return _Runner(_compiled(path, _settings(threads, self.precision)))

    def profiler(self, path: Path, threads: int = 1) -> Profiler:
        """The model, node by node."""
        return _OpenVinoProfiler(Path(path), _settings(threads, self.precision))


Setting = str | int | bool
"""Of OpenVINO's."""


class _Runner:
    def __init__(self, model: Any) -> None:
        self.model, self.request = model, model.create_infer_request()

    def run(self, image: Image) -> tuple[NDArray[np.float32], ...]:
        self.request.infer([np.ascontiguousarray(image)], share_inputs=True)
        return tuple(np.array(self.request.get_output_tensor(i).data) for i in range(len(self.model.outputs)))


class _OpenVinoProfiler:
    """See Profiler.

    OpenVINO's counters hold the mean time of a node since the model was loaded, cut off to whole microseconds: after n
    passes, their sum is known to n microseconds. So the model is loaded again every PASSES passes, which takes some
    tenths of a second, and the passes after the first STARTING all get their mean, known to about one microsecond.
    """

    def __init__(self, path: Path, settings: Mapping[str, Setting]) -> None:
        self._path, self._settings, self._profiled = path, settings, {**settings, "PERF_COUNT": True}
        self._first = _compiled(path, self._profiled)
        self._timed = _Runner(self._first)
        self._plain: _Runner | None = None
        self._blob: Any = None
        self._image = np.random.default_rng(0).standard_normal(tuple(self._first.inputs[0].shape), dtype=np.float32)
        self._nodes: list[Any] = []
        self._names: list[str] = []
        self._kept: list[list[float]] = []  # passes of models that are gone
        self._counters: list[list[int]] = []  # [pass of this model][node], in microseconds

    def run(self) -> None:
        """One pass."""
        if self._plain is None:
            self._plain = _Runner(_compiled(self._path, self._settings))
        self._plain.run(self._image)

    def run_timed(self) -> None:
        """One pass with counters."""
        if len(self._counters) == PASSES:
            self._renew()
        self._timed.run(self._image)
        times = {info.node_name: info.real_time for info in self._timed.request.profiling_info}
        if not self._nodes:  # reorders of weights ran once, before the first pass, and have no time in it
            self._nodes = [node for node in _executed(self._first) if node.get_friendly_name() in times]
            self._names = [node.get_friendly_name() for node in self._nodes]
        self._counters.append([times[name] // timedelta(microseconds=1) for name in self._names])

    def finish(self) -> Profile:
        """What was timed, and the kernels of the model that was loaded from the file: the others lack some names."""
        operations = _operations(_core().read_model(str(self._path)))
        kernels = tuple(_kernel(node, operations) for node in self._nodes)
        return Profile(kernels, self._kept + passes_ms(self._counters), tuple(self._names))

    def _renew(self) -> None:
        """Loads the model again, with counters at zero."""
        self._kept += passes_ms(self._counters)
        self._counters = []
        if self._blob is None:
            self._blob = self._first.export_model()  # a third of the time of loading the file
        with silent():
            self._timed = _Runner(_core().import_model(self._blob, "CPU", self._profiled))


def _executed(model: Any) -> list[Any]:
    """The nodes of the runtime graph that take time, in the order they run, once it has run."""
    nodes = [node for node in model.get_runtime_model().get_ops() if _info(node, "execTimeMcs") != "not_executed"]
    return sorted(nodes, key=lambda node: int(_info(node, "execOrder")))


def _info(node: Any, key: str) -> str:
    """What OpenVINO notes on a node of its runtime graph."""
    noted = node.get_rt_info()[key]
    return str(getattr(noted, "value", noted))


def _operations(model: Any) -> dict[str, tuple[str, dict[str, Value]]]:
    """The operations of a model by name: type, and attributes that steer the work."""
    found = {}
    for node in model.get_ops():
        kept: dict[str, Value] = {}
        for name, value in node.get_attributes().items():
            whole = isinstance(value, list) and set(value) <= {_WHOLE_LISTS.get(name)}
            if name not in _LEFT_OUT and not whole and isinstance(value, int | float | str | list):
                kept[name] = tuple(value) if isinstance(value, list) else value
        found[node.get_friendly_name()] = (node.get_type_name(), kept)
    return found


_LEFT_OUT = {"auto_pad", "auto_broadcast", "shape", "element_type", "m_pythondiv", "cube_coeff"}
_WHOLE_LISTS = {"strides": 1, "dilations": 1, "pads_begin": 0, "pads_end": 0, "output_padding": 0}


def _kernel(node: Any, operations: Mapping[str, tuple[str, dict[str, Value]]]) -> Kernel:
    """The kernel of a node. Its attributes: `implementation`, as OpenVINO calls it; layouts; `operations` that were
    fused; those of the first of these."""
    operator, layout = _info(node, "layerType"), _info(node, "outputLayouts")
    inputs = []
    for port in node.inputs():
        source = port.get_source_output()
        constant = _info(source.get_node(), "layerType") == "Const"
        inputs.append(Operand(tuple(port.get_shape()), _dtype(port), constant=constant))
    outputs = tuple(Operand(tuple(port.get_shape()), _dtype(port)) for port in node.outputs())
    fused = [operations[name] for name in _info(node, "originalLayersNames").split(",") if name in operations]
    attributes = dict(fused[0][1]) if fused else {}
    attributes["implementation"] = _info(node, "primitiveType")
    attributes["layout"] = layout
    if operator == "Reorder":
        attributes["from"] = _info(node.input(0).get_source_output().get_node(), "outputLayouts")
    if len(fused) > 1:
        attributes["operations"] = "+".join(kind for kind, _ in fused)
    weights = next((o for o in inputs if o.constant and len(o.shape) >= 2), None)
    macs = 0
    kind = [operator, f"{sum(not o.constant for o in inputs)} in"]
    if weights is not None and operator in ("Convolution", "Deconvolution"):
        macs = weights.elements * math.prod((outputs if operator == "Convolution" else inputs)[0].shape[2:])
        kind.append("x".join(map(str, weights.shape[-2:])))
        if len(weights.shape) == 5:
            kind.append("depthwise" if weights.shape[1:3] == (1, 1) else "grouped")
    elif operator in ("FullyConnected", "MatMul"):
        macs = outputs[0].elements * inputs[0].shape[-1]
    kind += [f"{name} {attributes[name]}" for name in _STEERING if name in attributes]
    return Kernel(operator, tuple(inputs), outputs, tuple(sorted(attributes.items())), " ".join(kind), macs)


_STEERING = ("strides", "dilations", "mode", "operations", "implementation", "from", "layout")


def _dtype(port: Any) -> str:
    """numpy's name of what a port carries."""
    return str(np.dtype(port.get_element_type().to_dtype()))


def _settings(threads: int, precision: str) -> dict[str, Setting]:
    """One picture at a time. Threads are not bound to cores: two programs would be bound to the same ones."""
    return {
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }


def _compiled(path: Path, settings: Mapping[str, Setting]) -> Any:
    """The model of the file with these settings."""
    for file in (Path(path), Path(path).with_suffix(".bin")):
        if not file.is_file():
            raise missing_file(file, "OpenVINO", "no such file")
    try:
        with silent():
            model = _core().compile_model(_core().read_model(str(path)), "CPU", dict(settings))
    except RuntimeError as error:  # the only one its binding raises
        raise missing_file(path, "OpenVINO", _reason(error)) from error
    threads, started = settings["INFERENCE_NUM_THREADS"], model.get_property("INFERENCE_NUM_THREADS")
    if threads != started:
        raise EngineError(
            f"OpenVINO starts no more than {started} threads on this machine",
            place="threads",
            value=threads,
            remedy="take fewer threads",
        )
    return model


def _reason(error: RuntimeError) -> str:
    """The last lines of OpenVINO's exceptions have the reason, the first ones the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from")]
    return reason_of(RuntimeError(" ".join(lines)))


@cache
def _core() -> Any:
    """OpenVINO's entry: it finds its plugins once."""
    return _openvino().Core()


def _openvino() -> ModuleType:
    """The library. Raises EngineError if it is not installed."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # an import of it raises then
    try:
        import openvino
    except ImportError:
        raise EngineError(
            "OpenVINO is not installed", place="engine", value="openvino", remedy=OpenVino.install
        ) from None
    return openvino  # type: ignore[no-any-return]
