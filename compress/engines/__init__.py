"""All inference engines by name. Their modules import the runtimes, which takes a while: import this late."""

from dataclasses import dataclass
from typing import Any

from compress.engines.engine import Description, Engine, KernelBench, Profile, Profiler, Runner, check_parity
from compress.engines.kernel import Kernel
from compress.engines.litert import LiteRt
from compress.engines.mnn import Mnn
from compress.engines.ncnn import Ncnn
from compress.engines.onnxruntime import OnnxRuntime
from compress.engines.openvino import OpenVino
from compress.engines.torch import Torch
from compress.errors import EngineError
from compress.extensions import Extensible

ENGINES: dict[str, Engine] = {
    "onnxruntime": OnnxRuntime(),
    "ncnn": Ncnn(),
    "mnn": Mnn(),
    "mnn_sparse": Mnn(sparse=True),
    "openvino": OpenVino(),
    "litert": LiteRt(),
    "torch": Torch(),
}


def engine(named: str | Engine, place: str = "engine") -> Engine:
    """The engine of that name, see compress.extensions. Raises EngineError naming the nearest known one."""
    return _ENGINES.find(named, place)


@dataclass(frozen=True)
class Availability:
    """What there is of an engine on this machine.

    version: '' if it is not installed. precisions, providers: that it has here. missing: why it cannot be used, ''
    if it can. install: the command that installs it, or what else to do.
    """

    engine: str
    version: str
    precisions: tuple[str, ...]
    providers: tuple[str, ...]
    missing: str
    install: str

    @property
    def installed(self) -> bool:
        """Whether it can be used."""
        return not self.missing


def available() -> tuple[Availability, ...]:
    """Every engine of ENGINES and of installed packages, in this order. It imports all that are installed."""
    return tuple(_availability(name) for name in _ENGINES.names)


def _availability(name: str) -> Availability:
    try:
        runtime = engine(name)
        version = runtime.describe().version
        return Availability(name, version, runtime.precisions, runtime.providers, "", runtime.install)
    except EngineError as error:
        return Availability(name, "", (), (), error.rule, error.remedy)


def _accept(given: Any) -> Engine | None:
    """An engine, or what makes one without arguments."""
    made = given() if isinstance(given, type) else given
    return made if all(hasattr(made, name) for name in ("name", "describe", "export", "load")) else None


_ENGINES = Extensible(
    "engine", "compress.engines", ENGINES, _accept, "an object of a subclass of compress.engines.Engine", EngineError
)


__all__ = [
    "ENGINES",
    "Availability",
    "Description",
    "Engine",
    "Kernel",
    "KernelBench",
    "Profile",
    "Profiler",
    "Runner",
    "available",
    "check_parity",
    "engine",
]
