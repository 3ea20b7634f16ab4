"""compress: makes human-pose networks fast on the device they must run on.

    import compress

    network = compress.load("runs/openpose")          # or a name, an ONNX file, an nn.Module
    small = compress.prune(network, macs=0.5)         # half of the multiply-adds
    fast = compress.rewrite(small, target="ncnn")     # what is slow on ncnn is replaced
    print(fast.result)                                # scores and milliseconds, before and after
    fast.export("out")                                # files for the engines
    fast.save("runs/fast")                            # to be loaded again

Importing the package loads none of the libraries that its functions need; the first use of one does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from compress.errors import CompressError

if TYPE_CHECKING:
    from compress.api import (
        Network,
        SearchOutcome,
        bench,
        evaluate,
        load,
        predict,
        profile,
        prune,
        rewrite,
        search,
        train,
    )

__version__ = "0.1.0"

__all__ = [
    "CompressError",
    "Network",
    "SearchOutcome",
    "__version__",
    "bench",
    "evaluate",
    "load",
    "predict",
    "profile",
    "prune",
    "rewrite",
    "search",
    "train",
]


def __getattr__(name: str) -> Any:
    """The API's functions and classes, loaded when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("compress.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
