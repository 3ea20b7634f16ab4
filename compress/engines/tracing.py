"""What may be traced: torch's exporters record the steps a network takes for one picture, and replay them for all.

Sizes are numbers like any others then, as every export has one input size. A value computed from the picture must not
become a Python value: a branch taken by it, or a number multiplied by it, would be that one picture's for ever. torch's
own TracerWarning does not tell the two apart, so the network is run once with everything computed from the picture
marked. Not seen are reads inside torch's own functions, and after values were written into a tensor that was not
computed from the picture.
"""

import linecache
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from compress.errors import EngineError

_READS = {
    Tensor.__bool__,
    Tensor.__int__,
    Tensor.__float__,
    Tensor.__complex__,
    Tensor.__index__,
    Tensor.__contains__,
    Tensor.__array__,
    Tensor.item,
    Tensor.tolist,
    Tensor.numpy,
    Tensor.equal,
    Tensor.allclose,
    Tensor.is_nonzero,
    torch.equal,
    torch.allclose,
    torch.is_nonzero,
}
_COPIES = {torch.tensor, torch.as_tensor, torch.asarray}
"""They copy the values out of lists; a tensor itself they trace."""
_NOT_THE_NETWORKS = (f"{Path(torch.__file__).parent}{os.sep}", __file__)


class _FromPicture(Tensor):
    """Marks what is computed from the picture: what torch computes from one of these is one again."""

    def __format__(self, spec: str) -> str:
        """As a tensor's: text does no harm."""
        return format(self.as_subclass(Tensor), spec)


class _Watch(TorchFunctionMode):
    """Raises EngineError where Python reads a value computed from the picture."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = [*args, *kwargs.values()]
        if func in _COPIES:
            given = tree_leaves([one for one in given if not isinstance(one, Tensor)])
        if func in _READS | _COPIES and any(isinstance(one, _FromPicture) for one in given):
            raise _cannot_be_traced(func.__name__)
        return func(*args, **kwargs)


def check_traceable(network: nn.Module, input_hw: tuple[int, int]) -> int:
    """Runs the network on one picture; returns the number of its outputs.

    Raises EngineError if its steps depend on the picture's values, or if it fails.
    """
    try:
        with torch.no_grad(), _Watch():
            outputs = network(torch.zeros(1, 3, *input_hw).as_subclass(_FromPicture))
    except EngineError:
        raise
    except Exception as error:  # a forward may raise anything
        raise EngineError(
            f"the network must run on a picture of {input_hw[0]}x{input_hw[1]}",
            place=type(network).__name__,
            value=f"{type(error).__name__}: {error}",
            remedy="repair it, or what was replaced in it",
        ) from error
    return len(outputs) if isinstance(outputs, tuple) else 1


@contextmanager
def torchscript() -> Iterator[None]:
    """torch deprecates TorchScript as a whole; it is what pnnx reads, and what starts and runs fastest on a CPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated.*")
        warnings.filterwarnings("ignore", category=TracerWarning)  # of sizes, see check_traceable
        yield


def remove_unused_calls(trace: torch.jit.ScriptModule) -> None:
    """Removes calls of submodules with unused results from a trace, except those that write into their inputs.

    pnnx crashes on such calls. Inlining everything would do too, but then pnnx no longer knows torch's own modules.
    """
    for module in trace.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            continue
        for method in module._c._method_names():
            graph = module._c._get_method(method).graph
            while True:
                torch._C._jit_pass_dce(graph)
                unused = [
                    node
                    for node in graph.nodes()
                    if node.kind() == "prim::CallMethod" and not any(output.uses() for output in node.outputs())
                    if not _writes(module, node)
                ]
                if not unused:
                    break
                for node in unused:
                    node.destroy()


def _writes(module: torch.jit.ScriptModule, call: Any) -> bool:
    """Whether the called method changes a tensor in place."""
    path, value = [], next(call.inputs()).node()
    while value.kind() == "prim::GetAttr":
        path.append(value.s("name"))
        value = next(value.inputs()).node()
    called = module
    for name in reversed(path):
        called = getattr(called, name)
    graph = called._c._get_method(call.s("name")).graph.copy()
    torch._C._jit_pass_inline(graph)
    return any(node.kind().endswith("_") for node in graph.nodes())


def _cannot_be_traced(read: str) -> EngineError:
    """Says where the network reads the value: the innermost line that is not torch's."""
    frame, line = next(
        (frame, line)
        for frame, line in traceback.walk_stack(None)
        if not frame.f_code.co_filename.startswith(_NOT_THE_NETWORKS)
    )
    file = frame.f_code.co_filename
    module = type(frame.f_locals["self"]).__name__ + "." if "self" in frame.f_locals else ""
    return EngineError(
        "an exported network takes the same steps for every picture: Python must not read what is computed from it",
        place=f"{module}{frame.f_code.co_name}, {file}:{line}",
        value=linecache.getline(file, line).strip() or read,
        remedy="keep it a tensor (torch.where instead of a branch), or take it out",
    )
