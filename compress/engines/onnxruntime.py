"""onnxruntime: torch → ONNX → simplified → run.

The TorchScript exporter (dynamo=False) is used: for a DIR-BHRNet of 274 convolutions it takes 0.5-1.1 s where the
dynamo exporter takes 8-10 s, and both give the same optimised graph (torch 2.13, onnxruntime 1.31.1).
"""

import copy
import tempfile
import warnings
from collections.abc import Sequence
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
from compress.engines.onnxruntime_fusion import UnknownOperationError, channel_block, kernels_by_rules
from compress.engines.onnxruntime_kernels import OPSET, OPTIMISED, OnnxRuntimeProfiler, assemble
from compress.engines.tracing import check_traceable, torchscript
from compress.errors import EngineError
from compress.files import write_bytes

INPUT = "image"


class OnnxRuntime(Engine):
    """The engine `onnxruntime` on the CPU. Its kernels are the nodes of its optimised graph."""

    name = "onnxruntime"
    install = "pip install compress-pose"
    has_kernels = True
    assembles_kernels = True

    @property
    def channel_multiple(self) -> int:
        """The block of its NCHWc layout."""
        return max(CHANNEL_MULTIPLE, channel_block())

    def describe(self) -> Description:
        """onnxruntime's version and this machine."""
        return describe_machine(self.name, onnxruntime.__version__)

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
        try:
            session = onnxruntime.InferenceSession(
                str(path), session_options(threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no narrower base
            raise missing_file(path, self.name, str(error)) from error
        return _Runner(session)

    def kernels_by_rules(self, network: nn.Module, input_hw: tuple[int, int]) -> Sequence[Kernel] | None:
        """By its fusion, repeated; None for a network with an operation that has no rule there."""
        try:
            return kernels_by_rules(network, input_hw)
        except UnknownOperationError:
            return None

    def profiler(self, path: Path, threads: int = 1) -> Profiler:
        """The model, node by node. One that `assemble` wrote runs as it is; others are optimised as by `load`."""
        if not Path(path).is_file():
            raise missing_file(path, self.name, "no such file")
        options = [session_options(threads) for _ in range(2)]
        if _is_optimised(path):
            for each in options:
                each.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return OnnxRuntimeProfiler(path, *options)

    def assemble(self, kernels: Sequence[Kernel], folder: Path, stem: str) -> tuple[Path, ...]:
        """Writes `stem.onnx`, a model of these kernels and of what makes their inputs."""
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


def _is_optimised(path: Path) -> bool:
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own
        raise missing_file(path, OnnxRuntime.name, "not an ONNX model") from error
    return any(prop.key == OPTIMISED for prop in model.metadata_props)
