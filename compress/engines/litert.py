"""LiteRT (TensorFlow Lite), Android's engine, optional here: torch's exported program → .tflite, run by XNNPACK.

Its runtime, ai-edge-litert, is the extra `litert`. Its converter, litert-torch, needs a typing-extensions older than
pydantic's, so it is installed in an environment of its own, and CONVERTER_PYTHON names that environment's Python. The
converter runs in a process of its own either way: importing it brings jax and transformers.
"""

import copy
import os
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.engines.engine import (
    Description,
    Engine,
    Image,
    Runner,
    describe_machine,
    ended,
    missing_file,
    one_torch_thread,
    reason_of,
    silent,
)
from compress.engines.tracing import check_traceable
from compress.errors import EngineError

CONVERTER_PYTHON = "COMPRESS_LITERT_PYTHON"
"""The environment variable with the Python that has litert-torch; without it, it is the one that runs this."""
_INPUT = "image"
_NEVER_ZERO = 1e-30
"""What a sum in float32 does not notice, and the converter does not take for zero."""
_CONVERT = """
import sys
from pathlib import Path
try:
    import torch
    torch.set_num_threads(1)
    import litert_torch
    program = torch.export.load(sys.argv[1])
    litert_torch.convert(program.module(), sample_kwargs=program.example_inputs[1]).export(sys.argv[2])
except Exception as error:
    Path(sys.argv[3]).write_text(str(error) or type(error).__name__)
    sys.exit(1)
"""
_HAS_CONVERTER = "import sys; from importlib.util import find_spec; sys.exit(find_spec('litert_torch') is None)"


class LiteRt(Engine):
    """The engine `litert` on the CPU, through XNNPACK; operators that XNNPACK lacks run in LiteRT's own kernels.

    It has no kernels: LiteRT's profiler is in its C library and in its program benchmark_model, not in its Python
    interface. float32 alone: the class Interpreter there has no switch for XNNPACK's float16.
    """

    name = "litert"
    install = "pip install 'compress-pose[litert]'"

    def describe(self) -> Description:
        """The version of ai-edge-litert, and this machine. Raises EngineError without the converter too."""
        _interpreter()
        _converter()
        return describe_machine(self.name, version("ai-edge-litert"))

    def export(self, network: nn.Module, input_hw: tuple[int, int], folder: Path, stem: str) -> tuple[Path, ...]:
        """Writes `stem.tflite`: input `image`, outputs `output0`, `output1`, ...

        Channels come last, as Android's pictures are and as LiteRT computes: the input is [1,H,W,3], normalised as
        the network was trained; an output that is [1,C,h,w] in torch is [1,h,w,C], and others are as in torch.
        """
        _interpreter()
        python = _converter()
        folder.mkdir(parents=True, exist_ok=True)
        shadow = copy.deepcopy(network).cpu().eval()
        # Beside the target, so that moving the finished file there is atomic.
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{stem}-") as work:
            program, part, reason = (Path(work, name).absolute() for name in ("network.pt2", "network", "reason"))
            _save(shadow, input_hw, program)
            command = [python, "-c", _CONVERT, str(program), str(part), str(reason)]
            done = subprocess.run(command, cwd=work, capture_output=True, check=False)
            if done.returncode or not part.is_file():
                told = reason_of(RuntimeError(reason.read_text())) if reason.is_file() else ended(done.returncode)
                raise EngineError(
                    f"LiteRT cannot convert the network: {told}",
                    place=type(network).__name__,
                    remedy="replace the operation it names, or use another engine",
                )
            path = folder / f"{stem}.tflite"
            os.replace(part, path)
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The model on `threads` threads of XNNPACK. It turns pictures and maps, whose channels come last inside."""
        interpreter = _interpreter()
        if not Path(path).is_file():
            raise missing_file(path, "LiteRT", "no such file")
        try:
            with silent():
                model = interpreter(model_path=str(path), num_threads=threads)
                model.allocate_tensors()
                signature = model.get_signature_runner()
                inputs, outputs = signature.get_input_details(), signature.get_output_details()
        except (ValueError, RuntimeError) as error:  # its own
            raise missing_file(path, "LiteRT", reason_of(error)) from error
        if list(inputs) != [_INPUT]:
            raise missing_file(path, "LiteRT", f"its only input must be {_INPUT!r}")
        indices = [outputs[name]["index"] for name in sorted(outputs, key=lambda name: (len(name), name))]
        return _Runner(model, inputs[_INPUT]["index"], indices)


class _Runner:
    def __init__(self, model: Any, image: int, outputs: list[int]) -> None:
        self.model, self.image, self.outputs = model, image, outputs

    def run(self, image: Image) -> tuple[NDArray[np.float32], ...]:
        self.model.set_tensor(self.image, np.ascontiguousarray(image.transpose(0, 2, 3, 1), dtype=np.float32))
        self.model.invoke()
        made = (self.model.get_tensor(index) for index in self.outputs)
        return tuple(output.transpose(0, 3, 1, 2) if output.ndim == 4 else output for output in made)


class _ChannelsLast(nn.Module):
    """The network with channels last outside; its outputs by name."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        outputs = self.network(image.permute(0, 3, 1, 2))
        made = outputs if isinstance(outputs, tuple) else (outputs,)
        return {f"output{i}": x.permute(0, 2, 3, 1) if x.ndim == 4 else x for i, x in enumerate(made)}


def _save(network: nn.Module, input_hw: tuple[int, int], path: Path) -> None:
    """torch's exported program of the network, which may be changed, for the converter."""
    for module in network.modules():
        # The converter removes what is multiplied by zero: the residual blocks of a network that was not trained yet,
        # which start at zero. Its time would be that of a smaller network.
        if isinstance(module, nn.BatchNorm2d) and module.affine and not module.weight.any():
            nn.init.constant_(module.weight, _NEVER_ZERO)
    image = torch.zeros(1, *input_hw, 3)
    try:
        with torch.no_grad(), one_torch_thread(), warnings.catch_warnings(), silent():
            warnings.simplefilter("ignore")
            check_traceable(network, input_hw)
            torch.export.save(torch.export.export(_ChannelsLast(network).eval(), (), {_INPUT: image}), path)
    except EngineError:
        raise
    except Exception as error:  # whatever the network raises, or torch's own
        raise EngineError(
            f"torch cannot export the network: {reason_of(error)}",
            place=type(network).__name__,
            remedy="replace the operation it names, or use another engine",
        ) from error


def _interpreter() -> Any:
    """The class that runs models. Raises EngineError if LiteRT is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise EngineError("LiteRT is not installed", place="engine", value="litert", remedy=LiteRt.install) from None
    return Interpreter


def _converter() -> str:
    """The Python that has the converter. Raises EngineError if there is none."""
    python = os.path.abspath(os.environ.get(CONVERTER_PYTHON) or sys.executable)
    if not _has_converter(python):
        raise EngineError(
            "LiteRT's converter is not installed",
            place=CONVERTER_PYTHON if CONVERTER_PYTHON in os.environ else "engine",
            value=os.environ.get(CONVERTER_PYTHON, "litert"),
            remedy=f"pip install torch=={torch.__version__.partition('+')[0]} litert-torch in an environment of its "
            f"own, and set {CONVERTER_PYTHON} to its Python",
        )
    return python


@cache
def _has_converter(python: str) -> bool:
    try:
        return subprocess.run([python, "-c", _HAS_CONVERTER], capture_output=True, check=False).returncode == 0
    except OSError:  # no such program
        return False
