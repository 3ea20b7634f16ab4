"""All inference engines by name. Their modules import the runtimes, which takes a while: import this late."""

from typing import Any

from compress.engines.engine import Description, Engine, KernelBench, Profile, Profiler, Runner, check_parity
from compress.engines.kernel import Kernel
from compress.engines.mnn import Mnn
from compress.engines.ncnn import Ncnn
from compress.engines.onnxruntime import OnnxRuntime
from compress.engines.torch import Torch
from compress.errors import EngineError
from compress.extensions import Extensible

ENGINES: dict[str, Engine] = {
    "onnxruntime": OnnxRuntime(),
    "ncnn": Ncnn(),
    "mnn": Mnn(),
    "mnn_sparse": Mnn(sparse=True),
    "torch": Torch(),
}


def engine(named: str | Engine, place: str = "engine") -> Engine:
    """The engine of that name, see compress.extensions. Raises EngineError naming the nearest known one."""
    return _ENGINES.find(named, place)


def _accept(given: Any) -> Engine | None:
    """An engine, or what makes one without arguments."""
    made = given() if isinstance(given, type) else given
    return made if all(hasattr(made, name) for name in ("name", "describe", "export", "load")) else None


_ENGINES = Extensible(
    "engine", "compress.engines", ENGINES, _accept, "an object of a subclass of compress.engines.Engine", EngineError
)


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
