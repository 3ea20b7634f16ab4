"""All inference engines by name. Their modules import the runtimes, which takes a while: import this late."""

from compress.engines.engine import Description, Engine, KernelBench, Profile, Profiler, Runner, check_parity
from compress.engines.kernel import Kernel
from compress.engines.mnn import Mnn
from compress.engines.ncnn import Ncnn
from compress.engines.onnxruntime import OnnxRuntime
from compress.engines.torch import Torch
from compress.errors import EngineError, nearest

ENGINES: dict[str, Engine] = {
    "onnxruntime": OnnxRuntime(),
    "ncnn": Ncnn(),
    "mnn": Mnn(),
    "mnn_sparse": Mnn(sparse=True),
    "torch": Torch(),
}


def engine(name: str) -> Engine:
    """The engine of that name. Raises EngineError naming the nearest known one."""
    if name not in ENGINES:
        raise EngineError("no such engine", place="engine", value=name, remedy=nearest(name, ENGINES))
    return ENGINES[name]


__all__ = [
    "ENGINES",
    "Description",
    "Engine",
    "Kernel",
    "KernelBench",
    "Profile",
    "Profiler",
    "Runner",
    "check_parity",
    "engine",
]
