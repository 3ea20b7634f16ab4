"""ncnn: torch → TorchScript → pnnx → ncnn's .param and .bin, whose weights are float32 whatever it computes in.

pnnx is run as a program in a folder of its own, because it writes seven other files beside these two.
"""

import copy
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import ncnn
import numpy as np
import pnnx
import torch
from numpy.typing import NDArray
from torch import nn

from compress.engines.engine import (
    Description,
    Engine,
    Image,
    Profiler,
    Runner,
    describe_machine,
    ended,
    missing_file,
    one_torch_thread,
    reason_of,
    silent,
)
from compress.engines.kernel import Kernel
from compress.engines.ncnn_bench import Benchncnn
from compress.engines.ncnn_kernels import NcnnProfiler, assemble, input_parameters, read_param, write_param
from compress.engines.ncnn_rules import kernels_by_part
from compress.engines.operations import UnknownOperationError
from compress.engines.tracing import check_traceable, remove_unused_calls, torchscript
from compress.errors import EngineError


@dataclass(frozen=True)
class Ncnn(Engine):
    """The engine `ncnn` on the CPU. Its kernels are its layers.

    ncnn's own default is the lowest precision that a CPU computes in; here it is float32 unless float16 is asked for.
    """

    precision: str = "float32"

    name = "ncnn"
    install = "pip install compress-pose"
    has_kernels = True
    assembles_kernels = True
    kernel_bench = Benchncnn()

    @property
    def precisions(self) -> tuple[str, ...]:
        """float16 on ARM alone: on an x86 its switches for float16 change not a bit of the outputs."""
        return ("float32", "float16") if ncnn.cpu_support_arm_asimdhp() else ("float32",)

    def configured(self, precision: str = "float32", provider: str = "") -> Engine:
        """In float32, or in float16 where the CPU has it."""
        super().configured(precision, provider)
        return replace(self, precision=precision)

    def describe(self) -> Description:
        """ncnn's version and this machine."""
        return describe_machine(self.name, ncnn.__version__)

    def export(self, network: nn.Module, input_hw: tuple[int, int], folder: Path, stem: str) -> tuple[Path, ...]:
        """Writes `stem.ncnn.param` and `stem.ncnn.bin`: input `in0` with its shape, outputs `out0`, `out1`, ..."""
        place = type(network).__name__
        folder.mkdir(parents=True, exist_ok=True)
        shadow = _untied(copy.deepcopy(network).cpu().eval())
        # Beside the target, so that moving the finished files there is atomic.
        with tempfile.TemporaryDirectory(dir=folder, prefix=f".{stem}-") as work:
            traced = Path(work, "network.pt")
            try:
                with torch.no_grad(), one_torch_thread(), torchscript():
                    check_traceable(shadow, input_hw)
                    trace = torch.jit.trace(shadow, torch.zeros(1, 3, *input_hw), check_trace=False)  # type: ignore[no-untyped-call]
                    remove_unused_calls(trace)
                    trace.save(str(traced))
            except (EngineError, OSError):
                raise
            except Exception as error:  # whatever the network raises, or torch's own
                raise EngineError(
                    f"torch cannot trace the network: {reason_of(error)}", place=place, remedy=_REMEDY
                ) from error
            shape = "[{}]".format(",".join(map(str, (1, 3, *input_hw))))
            command = [pnnx.EXEC_PATH, traced.name, f"inputshape={shape}", "fp16=0"]
            done = subprocess.run(command, cwd=work, capture_output=True, text=True, errors="replace", check=False)
            made = [Path(work, f"network.ncnn.{part}") for part in ("param", "bin")]
            if done.returncode or not all(file.is_file() for file in made):
                raise EngineError(f"pnnx cannot convert the network: {_failure(done)}", place=place, remedy=_REMEDY)
            unknown = _unknown_layers(made[0])
            if unknown:
                raise EngineError("ncnn has no such layers", place=place, value=unknown, remedy=_REMEDY)
            write_param(
                made[0],
                [
                    replace(layer, parameters=input_parameters((3, *input_hw))) if layer.kind == "Input" else layer
                    for layer in read_param(made[0])
                ],
            )
            paths = tuple(folder / f"{stem}.ncnn.{part}" for part in ("param", "bin"))
            # The weights first: a reader finds the file it opens first, .param, only when all is there.
            for file, path in reversed(list(zip(made, paths, strict=True))):
                os.replace(file, path)
        return paths

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The model of `stem.ncnn.param` and the .bin beside it, on `threads` threads."""
        return _Runner(self._net(path, threads))

    def kernels_by_part(
        self, network: nn.Module, input_hw: tuple[int, int]
    ) -> Mapping[str, Mapping[Kernel, int]] | None:
        """By what pnnx makes of operations, repeated; None for a network with one that has no rule there."""
        try:
            return kernels_by_part(network, input_hw)
        except UnknownOperationError:
            return None

    def profiler(self, path: Path, threads: int = 1) -> Profiler:
        """The model, layer by layer."""
        return NcnnProfiler(self._net(path, threads), read_param(path), path)

    def assemble(self, kernels: Sequence[Kernel], folder: Path, stem: str) -> tuple[Path, ...]:
        """Writes `stem.ncnn.param` and `stem.ncnn.bin`, a model of these kernels and of what makes their inputs."""
        folder.mkdir(parents=True, exist_ok=True)
        param = folder / f"{stem}.ncnn.param"
        assemble(kernels, param)
        return param, param.with_suffix(".bin")

    def _net(self, path: Path, threads: int) -> ncnn.Net:
        weights = Path(path).with_suffix(".bin")
        for file in (Path(path), weights):
            if not file.is_file():
                raise missing_file(file, self.name, "no such file")
        net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed"):
            if hasattr(net.opt, f"use_{option}"):
                setattr(net.opt, f"use_{option}", self.precision == "float16" and option.startswith("fp16"))
        with silent():
            broken = net.load_param(str(path)) or net.load_model(str(weights))
        if broken:
            raise missing_file(path, self.name, "not an ncnn model")
        return net


def _untied(network: nn.Module) -> nn.Module:
    """The network, in which modules that share a parameter have copies of it: pnnx gives up on those. Changes it."""
    seen: set[int] = set()
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in seen:
                module._parameters[name] = nn.Parameter(parameter.detach().clone(), requires_grad=False)
            seen.add(id(module._parameters[name]))
    return network


_REMEDY = "replace the operation it names, or use another engine"


def _failure(done: subprocess.CompletedProcess[str]) -> str:
    """How pnnx ended, in which of its passes, and the last line that it printed in it."""
    lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    passes = [line.strip("# ") for line in lines if line.startswith("####")]
    printed = [line for line in lines if not line.startswith("####")][-1:]
    return "; ".join([ended(done.returncode) + (f" in {passes[-1]}" if passes else ""), *printed])


def _unknown_layers(param: Path) -> str:
    """Types that pnnx passes through because ncnn has no layer for them: they contain a dot."""
    types = {line.split()[0] for line in param.read_text().splitlines()[2:] if line.strip()}
    return ", ".join(sorted(name for name in types if "." in name or "::" in name))


class _Runner:
    def __init__(self, net: ncnn.Net) -> None:
        self.net = net
        self.inputs = net.input_names()
        # ncnn lists outputs in the order they are made: an early one that is returned last comes first.
        self.outputs = sorted(net.output_names(), key=lambda name: (len(name), name))

    def run(self, image: Image) -> tuple[NDArray[np.float32], ...]:
        # A copy: a first layer that works in place would write into the array's memory, and has died of it.
        pixels = np.ascontiguousarray(image[0], dtype=np.float32)
        extractor = self.net.create_extractor()
        extractor.input(self.inputs[0], ncnn.Mat(pixels).clone())
        outputs = []
        for name in self.outputs:
            status, mat = extractor.extract(name)
            if status:
                raise EngineError("ncnn stopped while running", place=name, value=status, remedy="use a smaller image")
            outputs.append(np.array(mat)[None])
        return tuple(outputs)
