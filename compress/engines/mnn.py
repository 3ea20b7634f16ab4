"""MNN, an optional engine: torch → ONNX → MNN, dense or with its kernels for pruned weights.

Its converter is called as `_tools.mnnconvert` in a process of its own. MNN's command `mnnconvert` and its package
`MNN.tools` are never touched: on import they install a telemetry package with pip.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from compress.engines.engine import (
    HALF_PARITY_LIMIT,
    Description,
    Engine,
    Image,
    Profile,
    Profiler,
    Runner,
    describe_machine,
    ended,
    half_on_arm,
    missing_file,
    silent,
)
from compress.engines.kernel import Kernel, Operand, Value
from compress.engines.onnxruntime import INPUT, OnnxRuntime
from compress.errors import EngineError

SPARSE_BLOCK = 4
"""Filters that share one mask, for MNN's sparse kernels (its SIMD_OC) to take the layer: over 30 % zeros then."""
_PRECISIONS = {"float32": "high", "float16": "low"}
"""MNN's names. Its default, "normal", is float16 in parts on a phone."""
_CONVERT = "import MNN, _tools, sys; _tools.mnnconvert(sys.argv)"


@dataclass(frozen=True)
class Mnn(Engine):
    """The engines `mnn` and, with sparse kernels where weights are pruned in blocks of SPARSE_BLOCK, `mnn_sparse`."""

    sparse: bool = False
    precision: str = "float32"

    install = "pip install 'compress-pose[mnn]'"

    @property
    def name(self) -> str:
        """Its key in ENGINES."""
        return "mnn_sparse" if self.sparse else "mnn"

    @property
    def parity_limit(self) -> float:
        """Its Winograd convolutions of large tiles round more than others do: 1.6e-4 on OpenPose's maps with random
        weights, and 2e-6 on the same with its session hint WINOGRAD_MEMORY_LEVEL 0 (small tiles)."""
        return 5e-4 if self.precision == "float32" else HALF_PARITY_LIMIT

    @property
    def precisions(self) -> tuple[str, ...]:
        """float16 on ARM alone: on an x86 its precision `low` changes not a bit of the outputs."""
        return ("float32", "float16") if half_on_arm() else ("float32",)

    def configured(self, precision: str = "float32", provider: str = "") -> Engine:
        """In float32, or in float16 where the CPU has it."""
        super().configured(precision, provider)
        return replace(self, precision=precision)

    @property
    def skips_zeros(self) -> bool:
        """Its sparse kernels do, in blocks of SPARSE_BLOCK filters."""
        return self.sparse

    @property
    def has_kernels(self) -> bool:
        """Its operations; some of them are made only when a whole network is loaded, so none can be assembled."""
        return True

    def describe(self) -> Description:
        """MNN's version and this machine."""
        return describe_machine(self.name, _mnn().version())

    def export(self, network: nn.Module, input_hw: tuple[int, int], folder: Path, stem: str) -> tuple[Path, ...]:
        """Writes `stem.mnn`, or `stem.sparse.mnn`: input `image`, outputs `output0`, `output1`, ..."""
        _mnn()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (f"{stem}.sparse.mnn" if self.sparse else f"{stem}.mnn")
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{stem}-") as work:
            (model,) = OnnxRuntime().export(network, input_hw, Path(work), "network")
            part, switch = Path(work, "network.mnn"), Path(work, "sparse.bin")
            switch.write_bytes(_sparse_switch())
            arguments = ["-f", "ONNX", "--modelFile", str(model), "--MNNModel", str(part), "--bizCode", "compress"]
            if self.sparse:
                arguments += ["--compressionParamsFile", str(switch), "--detectSparseSpeedUp"]
            printed = _convert(arguments)
            if not part.is_file():
                raise EngineError(
                    f"MNN cannot convert the network: {printed}",
                    place=type(network).__name__,
                    remedy="replace the operation it names, or use another engine",
                )
            os.replace(part, path)
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The model on `threads` threads."""
        return _Session(path, threads, self.precision)

    def profiler(self, path: Path, threads: int = 1) -> Profiler:
        """The model, operation by operation."""
        return _MnnProfiler(_Session(path, threads, self.precision), Path(path))


class _Session:
    """A loaded model."""

    def __init__(self, path: Path, threads: int, precision: str) -> None:
        mnn = self.mnn = _mnn()
        if not Path(path).is_file():
            raise missing_file(path, "MNN", "no such file")
        try:
            with silent():
                self.interpreter = mnn.Interpreter(str(path))  # must outlive the session
                config = {"backend": "CPU", "numThread": threads, "precision": _PRECISIONS[precision]}
                self.session = self.interpreter.createSession(config)
                inputs = self.interpreter.getSessionInputAll(self.session)
        except Exception as error:  # the binding's own
            raise missing_file(path, "MNN", "not an MNN model") from error
        if INPUT not in inputs:
            raise missing_file(path, "MNN", f"no input {INPUT!r}")
        self.input = inputs[INPUT]
        outputs = self.interpreter.getSessionOutputAll(self.session)
        self.outputs = [outputs[name] for name in sorted(outputs, key=lambda name: (len(name), name))]

    def run(self, image: Image) -> tuple[NDArray[np.float32], ...]:
        """See Runner."""
        self.input.copyFrom(self.tensor(np.ascontiguousarray(image, dtype=np.float32)))
        self.interpreter.runSession(self.session)
        made = []
        for output in self.outputs:
            host = self.tensor(np.zeros(output.getShape(), dtype=np.float32))
            output.copyToHostTensor(host)
            made.append(np.array(host.getNumpyData()).reshape(output.getShape()))
        return tuple(made)

    def tensor(self, values: NDArray[np.float32]) -> Any:
        """MNN's tensor of these values, channels first."""
        mnn = self.mnn
        return mnn.Tensor(values.shape, mnn.Halide_Type_Float, values, mnn.Tensor_DimensionType_Caffe)


class _MnnProfiler:
    """See Profiler: MNN calls back before and after every operation."""

    def __init__(self, session: _Session, path: Path) -> None:
        self._session, self._path = session, path
        shape = session.input.getShape()
        self._image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        self._times_ms: list[list[float]] = []

    def run(self) -> None:
        self._session.run(self._image)

    def run_timed(self) -> None:
        times: list[float] = []
        started = 0.0

        def before(tensors: Sequence[Any], info: Any) -> bool:
            nonlocal started
            started = perf_counter()
            return True

        def after(tensors: Sequence[Any], info: Any) -> bool:
            times.append((perf_counter() - started) * 1000)
            return True

        self._session.interpreter.runSessionWithCallBackInfo(self._session.session, before, after)
        self._times_ms.append(times)

    def finish(self) -> Profile:
        seen: list[tuple[str, str, float]] = []
        inputs: list[list[tuple[int, ...]]] = []
        outputs: list[list[tuple[int, ...]]] = []

        def before(tensors: Sequence[Any], info: Any) -> bool:
            seen.append((info.getName(), info.getType(), info.getFlops()))
            inputs.append([tuple(tensor.getShape()) for tensor in tensors])
            return True

        def after(tensors: Sequence[Any], info: Any) -> bool:
            outputs.append([tuple(tensor.getShape()) for tensor in tensors])
            return True

        self._session.interpreter.runSessionWithCallBackInfo(self._session.session, before, after)
        attributes = _attributes(self._path)
        kernels = [
            _kernel(kind, mflops, made, read, attributes.get(name, {}))
            for (name, kind, mflops), read, made in zip(seen, inputs, outputs, strict=True)
        ]
        return Profile(tuple(kernels), self._times_ms, tuple(name for name, _, _ in seen))


def _kernel(
    kind: str,
    mflops: float,
    outputs: Sequence[tuple[int, ...]],
    inputs: Sequence[tuple[int, ...]],
    attributes: dict[str, Value],
) -> Kernel:
    steering = [f"{name}={attributes[name]}" for name in _STEERING if name in attributes]
    return Kernel(
        kind,
        tuple(Operand(shape) for shape in inputs),
        tuple(Operand(shape) for shape in outputs),
        tuple(sorted(attributes.items())),
        " ".join([kind, f"{len(inputs)} in", *steering]),
        round(mflops * 1e6) if kind.startswith(("Convolution", "Deconvolution", "MatMul")) else 0,
    )


_STEERING = ("kernelX", "kernelY", "strideX", "strideY", "opType", "operation", "type")
_LEFT_OUT = {"padMode", "outputCount", "inputCount", "hasOutputShape", "mnn_uuid", "T", "dataFormat"}
_DEFAULTS = {"dilateX": 1, "dilateY": 1, "strideX": 1, "strideY": 1, "group": 1, "padX": 0, "padY": 0}
# Numbers of a JSON dump that no kernel's key has: the weights are most of the file.
_ARRAYS = re.compile(
    r'"(weight|bias|float32s|scale|alpha|slope|slopeData|meanData|varData|biasData|scaleData)": \[[^\]]*\]'
)


def _attributes(path: Path) -> dict[str, dict[str, Value]]:
    """Operation → its numbers and words, from MNN's own JSON of the model; sparsity as a share of zeros."""
    with tempfile.TemporaryDirectory() as work:
        dump = Path(work, "model.json")
        printed = _convert(["-f", "MNN", "--modelFile", str(path), "--JsonFile", str(dump)])
        if not dump.is_file():
            raise missing_file(path, "MNN", printed)
        model = json.loads(_ARRAYS.sub(r'"\1": []', dump.read_text()))
    found: dict[str, dict[str, Value]] = {}
    for operation in model["oplists"]:
        main = operation.get("main") or {}
        numbers = {**main, **main.get("common", {})}
        kept: dict[str, Value] = {
            name: value
            for name, value in numbers.items()
            if isinstance(value, int | float | str) and value not in ("", False, _DEFAULTS.get(name))
            if name not in _LEFT_OUT
        }
        sparse = main.get("sparseParameter")
        if sparse:
            numbers = {argument["key"]: argument.get("i", 0) for argument in sparse["args"]}
            common = main["common"]
            weights = common["outputCount"] * common["inputCount"] * common["kernelX"] * common["kernelY"]
            kept["sparse"] = round(1 - numbers["NNZElement"] * common.get("group", 1) / weights, 2)
            kept["sparseBlock"] = numbers["sparseBlockOC"]
        found[operation["name"]] = kept
    return found


def _convert(arguments: Sequence[str]) -> str:
    """Runs MNN's converter in a process of its own; returns the last line that it printed."""
    command = [sys.executable, "-c", _CONVERT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    printed = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if done.returncode < 0:
        return f"its converter was {ended(done.returncode)}"
    return printed[-1] if printed else ended(done.returncode)


def _sparse_switch() -> bytes:
    """MNN's compression.proto: Pipeline(version "0.0.0", algo (type PRUNE, prune_params (type SIMD_OC, oc_blocks)))."""

    def message(field: int, content: bytes) -> bytes:
        return bytes([field << 3 | 2, len(content)]) + content

    def number(field: int, value: int) -> bytes:
        return bytes([field << 3, value])

    blocks = message(3, number(4, SPARSE_BLOCK))
    return message(1, b"0.0.0") + message(2, number(1, 1) + message(3, number(1, 1) + blocks))


def _mnn() -> ModuleType:
    """The library. Raises EngineError if it is not installed."""
    try:
        with silent():
            import MNN
    except ImportError:
        raise EngineError("MNN is not installed", place="engine", value="mnn", remedy=Mnn.install) from None
    return MNN  # type: ignore[no-any-return]
