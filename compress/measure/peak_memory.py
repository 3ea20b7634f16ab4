"""Peak memory of a forward pass: the most bytes of activations that are needed at one moment.

By liveness: a tensor is kept from the operator that makes it to the last one that reads it, the network's outputs to
the end. Operators run in the order of the forward pass, and nothing is fused. An operator that works element by element
writes over an input of the same size that nothing reads later, as engines do; of an operator's further results, such as
the places of maxima, those that nothing reads are not made. Weights and other constants are not part of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor


@dataclass
class _Buffer:
    """One tensor's memory. made, read: number of the operator that made it, and of the last one that reads it.

    over: what it may be written over. further: whether it is another result of its operator than the first.
    """

    size_bytes: int
    made: int
    read: int
    over: list["_Buffer"]
    further: bool = False


class Lifetimes:
    """Follows the tensors of one pass. Views share the memory of what they are of.

    A storage's address is taken again once it is free, but never while an operator's arguments are alive: so the
    address tells an argument's memory, if every new storage gets a new buffer.
    """

    def __init__(self) -> None:
        self._buffers: list[_Buffer] = []
        self._at: dict[int, _Buffer] = {}  # address of a storage → its buffer
        self._operators = 0

    def given(self, tensor: Tensor) -> None:
        """The network's input."""
        self._keep(tensor, [])

    def constants(self, tensors: Sequence[Tensor]) -> None:
        """Tensors that are made of none: what lay at their addresses is gone."""
        for tensor in tensors:
            self._at.pop(_address(tensor), None)

    def operator(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *, by_element: bool) -> None:
        """One operator. by_element: whether an element of the output needs one place of each input only."""
        self._operators += 1
        addresses = {_address(tensor) for tensor in inputs}
        known = [self._at[address] for address in addresses if address in self._at]
        for buffer in known:
            buffer.read = self._operators
        for number, output in enumerate(outputs):
            if _address(output) not in addresses:
                self._keep(output, known if by_element else [], further=number > 0)

    def peak_bytes(self, outputs: Sequence[Tensor]) -> int:
        """The most at any operator. outputs: of the network, kept to the end."""
        for output in outputs:
            if _address(output) in self._at:
                self._at[_address(output)].read = self._operators + 1
        changes = [0] * (self._operators + 3)
        taken: set[int] = set()
        for buffer in self._buffers:
            if buffer.further and buffer.read == buffer.made:
                continue
            changes[buffer.made] += buffer.size_bytes
            changes[buffer.read + 1] -= buffer.size_bytes
            over = (b for b in buffer.over if b.read == buffer.made and b.size_bytes == buffer.size_bytes)
            free = next((b for b in over if id(b) not in taken), None)
            if free is not None:  # its memory goes to the output a moment earlier
                taken.add(id(free))
                changes[free.read + 1] += free.size_bytes
                changes[free.read] -= free.size_bytes
        return max(accumulate(changes))

    def _keep(self, tensor: Tensor, over: list[_Buffer], *, further: bool = False) -> None:
        size_bytes = tensor.untyped_storage().nbytes()
        buffer = _Buffer(size_bytes, self._operators, self._operators, over, further)
        self._at[_address(tensor)] = buffer
        self._buffers.append(buffer)


def _address(tensor: Tensor) -> int:
    """Of its storage."""
    return int(tensor.untyped_storage()._cdata)
