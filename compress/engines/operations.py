"""The operations of a network's forward pass, recorded without computing anything: what rules of engines work on.

The network runs once on the meta device, and every function of torch that it calls is noted: what is called, from which
module, with which settings, and which values it reads and makes. Weights are known by their shapes.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from compress.errors import EngineError

Shape = tuple[int, ...]


class UnknownOperationError(EngineError):
    """An operation that the rules of an engine do not have, or a network that cannot be recorded."""


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer, or a tensor that the network makes without its picture."""

    shape: Shape


@dataclass(frozen=True)
class Read:
    """A value that an operation reads, by its number in Recorded.shapes."""

    value: int


@dataclass(frozen=True)
class Operation:
    """One call of a function of torch. name: its name there, such as `conv2d`, `add` or `cat`. part: module and number
    among the calls that it makes itself, as `stem.0.conv:0`.

    args, kwargs: as they were given; tensors as Read or Weight, within lists and tuples too. reads, makes: the values,
    in order.
    """

    name: str
    part: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    reads: tuple[int, ...]
    makes: tuple[int, ...]

    def given(self, place: int, name: str, default: Any = None) -> Any:
        """An argument, by its place or its name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)


@dataclass(frozen=True)
class Recorded:
    """A forward pass. shapes: of every value; the picture is value 0. outputs: the values that the network returns."""

    operations: tuple[Operation, ...]
    shapes: tuple[Shape, ...]
    outputs: tuple[int, ...]

    def uses(self) -> Counter[int]:
        """How often each value is read, outputs included."""
        return Counter([*(value for op in self.operations for value in op.reads), *self.outputs])


def record(network: nn.Module, input_hw: tuple[int, int]) -> Recorded:
    """One pass of a [1,3,H,W] picture in evaluation mode. The network is left as it was.

    Raises UnknownOperationError if it does not run on the meta device.
    """
    shadow = network
    if not all(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        shadow = _on_meta(network)
    training = [module for module in shadow.modules() if module.training]
    recorder = _Recorder(shadow.eval())
    picture = torch.zeros(1, 3, *input_hw, device="meta")
    recorder.note_picture(picture)
    try:
        with torch.no_grad(), torch.device("meta"), recorder:
            outputs = shadow(picture)
    except Exception as error:  # a forward may raise anything
        raise UnknownOperationError(
            f"the network does not run on the meta device: {error}",
            place=type(network).__name__,
            remedy="make no tensors of values in its forward",
        ) from error
    finally:
        recorder.remove_hooks()
        for module in training:
            module.training = True
    return recorder.recorded(list(_tensors(outputs)))


def _on_meta(network: nn.Module) -> nn.Module:
    """A copy without values in which one tensor of several modules is still one."""
    memo: dict[int, Tensor] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in network.buffers():
        memo.setdefault(id(buffer), buffer.to("meta"))
    return copy.deepcopy(network, memo)


class _Recorder(TorchFunctionMode):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        paths = {module: path for path, module in network.named_modules()}
        self._running = [""]
        self._operations: list[Operation] = []
        self._calls: Counter[str] = Counter()
        self._values: dict[int, int] = {}  # tensor's id → value
        self._kept: list[Tensor] = []  # so that no id is given twice
        self._shapes: list[Shape] = []
        self._hooks = []
        for module in network.modules():
            self._hooks.append(module.register_forward_pre_hook(self._enter(paths[module])))
            self._hooks.append(module.register_forward_hook(self._leave, always_call=True))

    def note_picture(self, picture: Tensor) -> None:
        """Value 0."""
        self._number(picture)

    def remove_hooks(self) -> None:
        """Leaves the modules as they were."""
        for hook in self._hooks:
            hook.remove()

    def recorded(self, outputs: Sequence[Tensor]) -> Recorded:
        """What was noted. outputs: of the network."""
        numbers = tuple(self._values[id(output)] for output in outputs if id(output) in self._values)
        return Recorded(tuple(self._operations), tuple(self._shapes), numbers)

    def _enter(self, path: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, args: self._running.append(path)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._running.pop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = _of_equal_shape(func, args, kwargs)
        if result is None:
            result = func(*args, **kwargs)
        made = list(_tensors(result))
        reads = [self._values[id(t)] for t in _tensors((args, list(kwargs.values()))) if id(t) in self._values]
        name = getattr(func, "__name__", "")
        if not made or not reads or name == "__get__":  # sizes; constants
            return result
        path = self._running[-1]
        operation = Operation(
            name,
            f"{path}:{self._calls[path]}",
            tuple(self._plain(arg) for arg in args),
            {key: self._plain(value) for key, value in kwargs.items()},
            tuple(reads),
            tuple(self._number(tensor) for tensor in made),
        )
        self._calls[path] += 1
        self._operations.append(operation)
        return result

    def _plain(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            number = self._values.get(id(value))
            return Weight(tuple(value.shape)) if number is None else Read(number)
        if isinstance(value, list | tuple):
            return tuple(self._plain(one) for one in value)
        return value

    def _number(self, tensor: Tensor) -> int:
        """A new value; what writes into a tensor makes one too."""
        self._values[id(tensor)] = len(self._shapes)
        self._kept.append(tensor)
        self._shapes.append(tuple(tensor.shape))
        return self._values[id(tensor)]


_POINTWISE = {
    *(F.batch_norm, F.relu, F.relu6, F.hardtanh, F.silu, F.hardswish, F.hardsigmoid, F.elu, F.gelu, F.sigmoid),
    *(torch.relu, torch.sigmoid, Tensor.relu, Tensor.sigmoid),
}
_OF_TWO = {Tensor.add, Tensor.mul, torch.add, torch.mul}


def _of_equal_shape(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """The result of a function that keeps the shape. torch works it out on the meta device too, in Python: that takes
    milliseconds for a batch norm."""
    if func not in _POINTWISE and not (func in _OF_TWO and len(args) == 2 and not kwargs):
        return None
    shapes = {arg.shape for arg in args[: 2 if func in _OF_TWO else 1] if isinstance(arg, Tensor)}
    if len(shapes) != 1:
        return None
    x = next(arg for arg in args if isinstance(arg, Tensor))
    return x if kwargs.get("inplace") else torch.empty(x.shape, dtype=x.dtype, device="meta")


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


__all__ = ["Operation", "Read", "Recorded", "UnknownOperationError", "Weight", "record"]
