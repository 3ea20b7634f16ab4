"""torch itself: the traced network with its constants folded in (TorchScript, frozen), run on the CPU."""

import copy
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.engines.engine import (
    Description,
    Engine,
    Image,
    Runner,
    describe_machine,
    missing_file,
    one_torch_thread,
    reason_of,
)
from compress.engines.tracing import check_traceable, torchscript
from compress.errors import EngineError


class Torch(Engine):
    """The engine `torch` on the CPU. It runs operators one by one, as they are written: it has no kernels."""

    name = "torch"
    install = "pip install compress-pose"

    def describe(self) -> Description:
        """torch's version and this machine."""
        return describe_machine(self.name, torch.__version__)

    def export(self, network: nn.Module, input_hw: tuple[int, int], folder: Path, stem: str) -> tuple[Path, ...]:
        """Writes `stem.torchscript`, which holds the weights too."""
        folder.mkdir(parents=True, exist_ok=True)
        shadow = copy.deepcopy(network).cpu().eval()
        path = folder / f"{stem}.torchscript"
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{stem}-") as work:
            part = Path(work, "network")
            try:
                with torch.no_grad(), one_torch_thread(), torchscript():
                    check_traceable(shadow, input_hw)
                    traced = torch.jit.trace(shadow, torch.zeros(1, 3, *input_hw), check_trace=False)  # type: ignore[no-untyped-call]
                    torch.jit.freeze(traced).save(str(part))
            except EngineError:
                raise
            except Exception as error:  # whatever the network raises, or torch's own
                raise EngineError(
                    f"torch cannot trace the network: {reason_of(error)}",
                    place=type(network).__name__,
                    remedy="replace the operation it names",
                ) from error
            os.replace(part, path)
        return (path,)

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The traced network; torch's number of threads is set while it runs."""
        if not Path(path).is_file():
            raise missing_file(path, self.name, "no such file")
        try:
            with torchscript():
                return _Runner(torch.jit.load(str(path)), threads)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            raise missing_file(path, self.name, str(error).partition("\n")[0]) from error


class _Runner:
    def __init__(self, network: torch.jit.ScriptModule, threads: int) -> None:
        self.network, self.threads = network, threads

    def run(self, image: Image) -> tuple[NDArray[np.float32], ...]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                outputs = self.network(torch.tensor(image))  # a copy: the network may write into it
        finally:
            torch.set_num_threads(before)
        return tuple(output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,)))
