"""onnxruntime: torch → ONNX → simplified → run, on the CPU or on another of its execution providers.

The TorchScript exporter (dynamo=False) is used: for a DIR-BHRNet of 274 convolutions it takes 0.5-1.1 s where the
dynamo exporter takes 8-10 s, and both give the same optimised graph (torch 2.13, onnxruntime 1.31.1).
"""

import copy
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import onnxsim
import torch
from numpy.typing import NDArray
from torch import nn

from compress.engines.engine import (
    CHANNEL_MULTIPLE,
    Description,
    Engine,
    Image,
    Profiler,
    Runner,
    describe_machine,
    missing_file,
    one_torch_thread,
    reason_of,
    silent,
)
from compress.engines.kernel import Kernel
from compress.engines.onnxruntime_fusion import block_of, channel_block, kernels_by_part, one_filter
from compress.engines.onnxruntime_kernels import OPSET, OPTIMISED, OnnxRuntimeProfiler, assemble
from compress.engines.operations import UnknownOperationError
from compress.engines.packed_run import LAYOUT, OPTIMISED_LAYOUT
from compress.engines.tracing import check_traceable, torchscript
from compress.errors import EngineError, nearest
from compress.files import write_bytes

INPUT = "image"
CPU = "cpu"


@dataclass(frozen=True)
class Provider:
    """An execution provider. name: onnxruntime's. source: what has it, for errors.

    options: threads, precision → its settings; float32 is said where its own default is less. precisions: number
    formats that it computes the float32 file in.
    """

    name: str
    source: str
    options: Callable[[int, str], dict[str, str]] = lambda threads, precision: {}
    precisions: tuple[str, ...] = ("float32",)


PROVIDERS = {
    CPU: Provider("CPUExecutionProvider", "pip install onnxruntime"),
    # TensorFloat-32, on by default, keeps 10 bits of a factor.
    "cuda": Provider("CUDAExecutionProvider", "pip install onnxruntime-gpu", lambda *_: {"use_tf32": "0"}),
    "tensorrt": Provider(
        "TensorrtExecutionProvider",
        "pip install onnxruntime-gpu, and TensorRT",
        lambda _, precision: {"trt_fp16_enable": str(int(precision == "float16"))},
        ("float32", "float16"),
    ),
    # Its older format, still the default, computes in float16 on Apple's neural engine whatever the file has.
    "coreml": Provider(
        "CoreMLExecutionProvider", "pip install onnxruntime on macOS", lambda *_: {"ModelFormat": "MLProgram"}
    ),
    "nnapi": Provider("NnapiExecutionProvider", "an onnxruntime built for Android"),
    "xnnpack": Provider(
        "XnnpackExecutionProvider",
        "an onnxruntime built with --use_xnnpack",
        lambda threads, _: {"intra_op_num_threads": str(threads)},
    ),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        "pip install onnxruntime-openvino",
        lambda threads, _: {"device_type": "CPU", "precision": "FP32", "num_of_threads": str(threads)},
    ),
    "dml": Provider("DmlExecutionProvider", "pip install onnxruntime-directml on Windows"),
}
"""By the names that `configured` takes."""


@dataclass(frozen=True)
class OnnxRuntime(Engine):
    """The engine `onnxruntime`. Its kernels are the nodes of its optimised graph; providers other than the CPU have
    none, for they take whole parts of the graph at once, or go on before a node is done."""

    provider: str = CPU
    precision: str = "float32"
    block: int | None = None
    """Channels per block of another device's NCHWc layout."""

    name = "onnxruntime"
    install = "pip install compress-pose"

    @property
    def has_kernels(self) -> bool:
        """On the CPU."""
        return self.provider == CPU

    @property
    def assembles_kernels(self) -> bool:
        """On the CPU."""
        return self.provider == CPU

    @property
    def providers(self) -> tuple[str, ...]:
        """Those that the installed onnxruntime was built with; whether they find their device shows when they run."""
        there = onnxruntime.get_available_providers()
        return tuple(name for name, one in PROVIDERS.items() if one.name in there)

    @property
    def precisions(self) -> tuple[str, ...]:
        """float16 where the provider computes float32 files in it."""
        return PROVIDERS[self.provider].precisions

    @property
    def channel_multiple(self) -> int:
        """The block of its NCHWc layout."""
        return max(CHANNEL_MULTIPLE, self.channel_block)

    @property
    def channel_block(self) -> int:
        """Of its NCHWc layout: 16 with AVX-512, 8 with AVX2, 1 where it has none."""
        return self.block or channel_block()

    def laid_out(self, channel_block: int | None) -> Engine:
        """With another device's blocks."""
        return replace(self, block=channel_block)

    def write_layout_probe(self, folder: Path) -> None:
        """A convolution with one filter, which onnxruntime pads to a block."""
        write_bytes(folder / LAYOUT, one_filter())

    def read_layout_probe(self, folder: Path) -> int | None:
        """From the graph that onnxruntime made of it there."""
        made = folder / OPTIMISED_LAYOUT
        return block_of(made) if made.is_file() else None

    def configured(self, precision: str = "float32", provider: str = "") -> Engine:
        """On this provider. Raises EngineError for one that the installed onnxruntime has not."""
        provider = provider or CPU
        if provider not in PROVIDERS:
            remedy = nearest(provider, PROVIDERS)
            raise EngineError("onnxruntime has no such provider", place="provider", value=provider, remedy=remedy)
        if provider not in self.providers:
            raise EngineError(
                f"the installed onnxruntime has only the providers {', '.join(self.providers)}",
                place="provider",
                value=provider,
                remedy=f"it is in another package: {PROVIDERS[provider].source}",
            )
        chosen = replace(self, provider=provider, precision="float32")
        Engine.configured(chosen, precision)
        return replace(chosen, precision=precision)

    def describe(self) -> Description:
        """onnxruntime's version and this machine."""
        description = describe_machine(self.name, onnxruntime.__version__)
        if self.provider == CPU:
            return description
        return replace(description, provider=", ".join([self.provider, *sorted(_nvidia_gpus())]))

    def export(self, network: nn.Module, input_hw: tuple[int, int], folder: Path, stem: str) -> tuple[Path, ...]:
        """Writes `stem.onnx`: input `image` [1,3,H,W]; outputs `output0`, `output1`, ... in the network's order."""
        place = type(network).__name__
        folder.mkdir(parents=True, exist_ok=True)
        shadow = copy.deepcopy(network).cpu().eval()
        image = torch.zeros(1, 3, *input_hw)
        with one_torch_thread():
            names = [f"output{i}" for i in range(check_traceable(shadow, input_hw))]
        work = tempfile.TemporaryDirectory()
        try:
            with work, one_torch_thread(), torchscript(), silent():
                raw = Path(work.name, "raw.onnx")
                # torch announces that the TorchScript exporter will go one day; the reason to keep it is above.
                warnings.filterwarnings("ignore", message=".*legacy TorchScript-based ONNX export.*")
                warnings.filterwarnings("ignore", message=".*feature will be removed.*")
                warnings.filterwarnings("ignore", message="Constant folding - Only steps=1.*")  # of uneven padding
                torch.onnx.export(
                    shadow,
                    (image,),
                    raw,
                    dynamo=False,
                    opset_version=OPSET,
                    input_names=[INPUT],
                    output_names=names,
                )
                model, same = onnxsim.simplify(onnx.load(raw))
            if not same:
                raise ValueError("onnxsim changed its outputs")
            onnx.checker.check_model(model, full_check=True)
        except OSError:
            raise
        except Exception as error:
            raise EngineError(
                f"torch cannot export the network to ONNX: {reason_of(error)}",
                place=place,
                remedy="replace the operation it names",
            ) from error
        path = folder / f"{stem}.onnx"
        write_bytes(path, model.SerializeToString())
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The model on `threads` threads."""
        if not Path(path).is_file():
            raise missing_file(path, self.name, "no such file")
        options = session_options(threads)
        options.enable_mem_pattern = self.provider != "dml"  # which does not have it
        return _Runner(self._session(path, options, threads))

    def left_to_cpu(self, path: Path) -> tuple[str, ...]:
        """Those of onnxruntime's own list of what its providers take."""
        if self.provider == CPU:
            return ()
        options = session_options(1)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        parts = self._session(path, options, 1).get_provider_graph_assignment_info()
        return tuple(
            f"{node.op_type} {node.name}"
            for part in parts
            if part.ep_name != PROVIDERS[self.provider].name
            for node in part.get_nodes()
        )

    def kernels_by_part(
        self, network: nn.Module, input_hw: tuple[int, int]
    ) -> Mapping[str, Mapping[Kernel, int]] | None:
        """By its fusion, repeated; None for a network with an operation that has no rule there."""
        if not self.has_kernels:
            return None
        try:
            return kernels_by_part(network, input_hw, self.block)
        except UnknownOperationError:
            return None

    def profiler(self, path: Path, threads: int = 1) -> Profiler:
        """The model, node by node. One that `assemble` wrote runs as it is; others are optimised as by `load`."""
        if not self.has_kernels:
            raise EngineError(
                "nodes of this provider are not timed: it takes parts of a graph whole, or does not wait for a node",
                place="provider",
                value=self.provider,
                remedy="time whole networks, or take the CPU",
            )
        if not Path(path).is_file():
            raise missing_file(path, self.name, "no such file")
        options = [session_options(threads) for _ in range(2)]
        if _is_optimised(path):
            for each in options:
                each.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return OnnxRuntimeProfiler(path, *options)

    def _session(self, path: Path, options: onnxruntime.SessionOptions, threads: int) -> onnxruntime.InferenceSession:
        """The model on the provider, and on no other: what that does not take, the CPU does."""
        chosen = PROVIDERS[self.provider]
        providers = [(chosen.name, chosen.options(threads, self.precision))]
        if self.provider != CPU:
            providers.append((PROVIDERS[CPU].name, {}))
        try:
            with silent():  # a provider prints why it does not start, and takes all the same
                session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
        except Exception as error:  # onnxruntime's exceptions share no narrower base
            if self.provider == CPU:
                raise missing_file(path, self.name, reason_of(error)) from error
            raise self._not_started(f"the model does not run on this provider: {reason_of(error)}") from error
        session.disable_fallback()
        if session.get_providers()[0] != chosen.name:
            raise self._not_started("this provider did not start, and onnxruntime took the CPU in its place")
        return session

    def _not_started(self, rule: str) -> EngineError:
        remedy = f"install what it needs ({PROVIDERS[self.provider].source}, and its device), or take another"
        return EngineError(rule, place="provider", value=self.provider, remedy=remedy)

    def assemble(self, kernels: Sequence[Kernel], folder: Path, stem: str) -> tuple[Path, ...]:
        """Writes `stem.onnx`, a model of these kernels and of what makes their inputs."""
        if not self.assembles_kernels:
            return super().assemble(kernels, folder, stem)
        folder.mkdir(parents=True, exist_ok=True)
        assemble(kernels, folder / f"{stem}.onnx")
        return (folder / f"{stem}.onnx",)


class _Runner:
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.input = session.get_inputs()[0].name

    def run(self, image: Image) -> tuple[NDArray[np.float32], ...]:
        return tuple(self.session.run(None, {self.input: image}))


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """The settings under which networks and kernels are timed: one graph at a time on `threads` threads, silent."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def _nvidia_gpus() -> set[str]:
    """Names of the GPUs of this machine, as NVIDIA's driver lists them on Linux."""
    texts = [file.read_text(errors="replace") for file in Path("/proc/driver/nvidia/gpus").glob("*/information")]
    return {line.partition(":")[2].strip() for text in texts for line in text.splitlines() if line.startswith("Model:")}


def _is_optimised(path: Path) -> bool:
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own
        raise missing_file(path, OnnxRuntime.name, "not an ONNX model") from error
    return any(prop.key == OPTIMISED for prop in model.metadata_props)
