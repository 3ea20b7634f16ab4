"""Which channels of a network are coupled, so that they can only be removed together.

A *member* is a set of coupled channels, known by the least of their numbers: one channel of every layer of a residual
stream, for example.

torch-pruning 1.6 finds this in the autograd graph; on this zoo it does not end, or fails, for every network with a
channel shuffle, cross-branch weighting or dynamic kernels. So we follow the channels themselves: the network runs once
on a small picture while every tensor carries, element by element, the number of the channel it belongs to. Whatever
moves elements (views, transposes, slices, concatenations, shuffles) is applied to the numbers as it is applied to the
values, so no rule has to be written for it. Only operators that compute need rules: convolutions make new channels and
read old ones, sums and products tie the channels they join, normalisation follows its input.

The network's forward is fixed code: without some channels it does the same moves on smaller tensors. That gives the old
numbers less the removed ones only if every tensor stays a box: it loses whole rows along one dimension, its axis. So
where channels come to lie along several dimensions (a view that divides them, maps stacked or joined along another
dimension, pixel shuffle), those of one row are tied; and so are those whose removal would change what a slice with a
step or a split takes of the others. What the code does with sizes it holds as constants, a pass cannot tell: whoever
prunes has to try it.

An operator without a rule ties nothing silently: the channels it reads are kept, and the reason is noted. Modules that
can take parts of any size say so by being a Rearrangement.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from compress.networks.blocks import Rearrangement

NO_LAYER = 0
"""The number of all elements that no layer makes, such as constants."""

_COPIES = {"clone", "detach", "alias", "contiguous", "_to_copy", "native_dropout", "dropout"}
_VIEWS = {"view", "_unsafe_view", "reshape"}
_MOVES = _VIEWS | {
    "expand",
    "transpose",
    "permute",
    "t",
    "slice",
    "split",
    "split_with_sizes",
    "unsqueeze",
    "squeeze",
    "cat",
    "stack",
    "flip",
    "narrow",
    "repeat",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "native_channel_shuffle",
    "select",
    "unbind",
    "index_select",
}
_CUTS = {"slice", "narrow", "split", "split_with_sizes"}
_BY_NUMBER = {"select", "unbind", "index_select"}  # along channels these name single ones
_REDUCTIONS = {"mean", "sum", "amax", "amin"}
_OVER_SPACE = _REDUCTIONS | {
    "avg_pool2d",
    "max_pool2d_with_indices",
    "_adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "upsample_nearest2d",
    "_upsample_nearest_exact2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "constant_pad_nd",
    "reflection_pad2d",
    "replication_pad2d",
}
_POINTWISE = {"hardswish", "hardswish_", "rsub"}  # beside those that torch itself tags so
_NORMALISATIONS = {"native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit"}


@dataclass(frozen=True)
class Use:
    """A dimension of a parameter or buffer that belongs to channels. channels: the number of each index.

    made: the parameter makes these channels (a convolution's outputs) or follows them (batch norm, depthwise); else it
    reads them.
    """

    name: str
    dim: int
    channels: tuple[int, ...]
    made: bool


@dataclass(frozen=True)
class Rearranged:
    """What the Rearrangement at this path does. channels: of its inputs one after the other.

    order: for every channel of the outputs the input channel it was, and the number of the output map.
    """

    path: str
    channels: tuple[int, ...]
    order: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Group:
    """Channels that one layer makes, or of a residual stream. members: see above; each is removed as a whole.

    made_by: every parameter that makes or follows any of them, the first maker first.
    """

    made_by: tuple[str, ...]
    members: tuple[int, ...]


@dataclass
class Channels:
    """The channels of one network. uses: of every parameter and buffer. kept: member → why it cannot be removed.

    parts: channels that a slice takes out of a map; as of every use, one of them at least must stay.
    """

    uses: list[Use] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=lambda: {NO_LAYER: "values that no layer makes"})
    parts: list[tuple[int, ...]] = field(default_factory=list)
    rearranged: list[Rearranged] = field(default_factory=list)
    _parent: list[int] = field(default_factory=lambda: [NO_LAYER])
    _known: dict[tuple[str, int], Use] = field(default_factory=dict)

    def member_of(self, channel: int) -> int:
        """The member that the channel belongs to."""
        root = channel
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[channel] != root:
            self._parent[channel], channel = root, self._parent[channel]
        return root

    def groups(self) -> list[Group]:
        """Members by the parameter that makes them first, in the order of the network."""
        first: dict[int, str] = {}
        made_by: dict[str, dict[str, None]] = {}
        for use in self.uses:
            if use.made:
                for channel in map(self.member_of, use.channels):
                    made_by.setdefault(first.setdefault(channel, use.name), {})[use.name] = None
        by_maker: dict[str, list[int]] = {}
        for channel, name in first.items():
            by_maker.setdefault(name, []).append(channel)
        return [Group(tuple(made_by[name]), tuple(sorted(members))) for name, members in by_maker.items()]

    def needed(self) -> list[frozenset[int]]:
        """Sets of members of each of which one must stay, without repetition: of every use and of every slice."""
        sets = (channels for channels in (*(use.channels for use in self.uses), *self.parts) if channels)
        return list(dict.fromkeys(frozenset(map(self.member_of, channels)) for channels in sets))

    def allowed(self, wanted: Iterable[int]) -> set[int]:
        """These members but for kept ones, and for the first of every needed set that would lose all."""
        removed = set(wanted) - set(self.kept)
        for members in sorted(self.needed(), key=len):  # what stays of small sets may do for large ones
            if members <= removed:
                removed.remove(min(members))
        return removed

    def unprunable(self) -> dict[str, str]:
        """First maker of every group that cannot lose a channel → the reason."""
        found = {}
        for group in self.groups():
            if all(channel in self.kept for channel in group.members):
                found[group.made_by[0]] = "; ".join(dict.fromkeys(self.kept[channel] for channel in group.members))
            elif len(group.members) == 1:
                numbers = {n for use in self.uses if use.name == group.made_by[0] and use.made for n in use.channels}
                found[group.made_by[0]] = (
                    "its channels can only be removed all together" if len(numbers) > 1 else "it makes a single channel"
                )
        return found

    # --- As the network is followed ----------------------------------------------------------------------------------

    def new(self, count: int) -> list[int]:
        """Numbers of new channels."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return list(range(start, start + count))

    def tie(self, channels: Iterable[int]) -> None:
        """Couples these, those of no layer excepted."""
        roots = sorted({self.member_of(channel) for channel in channels} - {NO_LAYER})
        for root in roots[1:]:
            self._parent[root] = roots[0]
            if root in self.kept:
                self.kept.setdefault(roots[0], self.kept.pop(root))

    def keep(self, channels: Iterable[int], reason: str) -> None:
        """These are never removed."""
        for channel in channels:
            self.kept.setdefault(self.member_of(channel), reason)

    def use(self, name: str, dim: int, channels: Sequence[int], *, made: bool) -> None:
        """Notes a use. A parameter that is used twice has the same channels both times."""
        known = self._known.get((name, dim))
        if known is None:
            self._known[name, dim] = Use(name, dim, tuple(channels), made)
            self.uses.append(self._known[name, dim])
            return
        for pair in zip(known.channels, channels, strict=True):
            self.tie(pair)
            if NO_LAYER in pair:
                self.keep(pair, "read where values that no layer makes are read too")


def follow_channels(network: nn.Module, input_hw: tuple[int, int]) -> Channels:
    """The channels of the network, found by one pass of a picture of this size. The network is left as it was.

    The channels of the picture and of the outputs are kept.
    """
    shadow = copy.deepcopy(network).cpu().eval()
    follower = _Follower(shadow)
    image = torch.randn(1, 3, *input_hw)
    follower.start(image)
    with torch.no_grad():
        with follower:
            outputs = shadow(image)
        follower.finish()
    for number, output in enumerate(_tensors(list(outputs.values()) if isinstance(outputs, dict) else [outputs])):
        follower.channels.keep(follower.channels_of(output), f"output {number} of the network")
    return follower.channels


class _Follower(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operator, and again on the numbers of the channels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.channels = Channels()
        tensors = [*network.named_parameters(), *network.named_buffers()]
        self._names = {id(tensor): name for name, tensor in tensors}
        self._shapes = {name: tuple(tensor.shape) for name, tensor in tensors}
        self._saved = set(network.state_dict())
        self._numbers: dict[int, Tensor] = {}
        self._axes: dict[int, int] = {}  # of tensors whose channels lie along several dimensions
        self._places: dict[int, tuple[str, Tensor]] = {}  # of views and mixtures of a parameter: its name, flat indices
        self._alive: list[Tensor] = []  # their ids must not be given to other tensors
        self._inside = False  # a Rearrangement
        self._rearrangements: dict[str, tuple[Rearrangement, list[list[int]], list[Tensor], bool]] = {}
        for path, module in network.named_modules():
            if isinstance(module, Rearrangement):
                module.register_forward_pre_hook(self._enter)
                module.register_forward_hook(partial(self._leave, path))

    def start(self, image: Tensor) -> None:
        """The picture's own channels."""
        numbers = self.channels.new(image.shape[1])
        self.channels.keep(numbers, "colours of the picture")
        self._set(image, torch.tensor(numbers).view(1, -1, 1, 1).expand(image.shape))

    def finish(self) -> None:
        """Notes the order of every Rearrangement, from where it puts the numbers 0, 1, 2, ..."""
        for path, (module, channels, maps, single) in self._rearrangements.items():
            positions = torch.arange(sum(map(len, channels)), dtype=torch.float64)
            starts = accumulate(map(len, channels), initial=0)
            numbered = [
                positions[start : start + x.shape[1]].view(1, -1, 1, 1).expand(x.shape).contiguous()
                for start, x in zip(starts, maps, strict=False)
            ]
            outputs = _tensors([module.forward(numbered[0] if single else numbered)])
            order = tuple((int(at), target) for target, output in enumerate(outputs) for at in output[0, :, 0, 0])
            self.channels.rearranged.append(Rearranged(path, tuple(chain.from_iterable(channels)), order))

    def channels_of(self, tensor: Tensor) -> list[int]:
        """Every channel of a tensor once."""
        return _listed(self._numbers_of(tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._follow(func, args, kwargs, result)
        return result

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        name = func._schema.name.partition("::")[2]
        tensors = _tensors(args)
        followed = [tensor for tensor in tensors if id(tensor) in self._numbers]
        if name == "convolution":
            self._convolution(args, result)
        elif name in _NORMALISATIONS:
            self._normalisation(args, result[0])
        elif name in ("mm", "addmm", "bmm") and self._place(args[-2]) is None:
            self._product(args[-2], args[-1], args[0] if name == "addmm" else None, result)
        elif not followed:
            if name in _MOVES | _COPIES:
                self._move_place(func, args, kwargs, result, name)
        elif name in _COPIES:
            self._set(_first(result), self._numbers_of(followed[0]), self._axis_of(followed[0]))
        elif name in _MOVES:
            self._move(func, args, kwargs, result, name)
        elif name == "_prelu_kernel" or name in _POINTWISE or torch.Tag.pointwise in func.tags:
            self._pointwise(tensors, result)
        elif name in _OVER_SPACE:
            self._over_space(args, _first(result), name)
        elif name in ("_softmax", "_log_softmax"):
            self._softmax(args[0], args[1], result)
        elif _tensors([result]):
            for tensor in followed:
                self.channels.keep(self.channels_of(tensor), f"the operator {name} reads them")

    # --- Rules -------------------------------------------------------------------------------------------------------

    def _move(self, func: Any, args: Any, kwargs: Any, result: Any, name: str) -> None:
        move = torch.reshape if name in _VIEWS else func  # numbers lie otherwise in memory than their tensors
        results = _tensors([result])
        moved = _tensors([move(*_replaced(args, self._numbers_of), **kwargs)])
        for tensor, numbers in zip(results, moved, strict=True):
            self._set(tensor, numbers)
        if self._inside:
            return
        if name not in ("cat", "stack"):
            before, axis = self._numbers_of(args[0]), self._axis_of(args[0])
            if name in _BY_NUMBER and axis == (args[1] if len(args) > 1 else 0) % before.ndim:
                self.channels.keep(_listed(before), f"the operator {name} names single channels")
            elif name in _CUTS:
                self._cut(before, moved, axis, name, args)
            elif name in ("channel_shuffle", "native_channel_shuffle"):
                self._tie_rows(before.reshape(args[1], -1, *before.shape[2:]))
        if any(len(_varying(numbers)) > 1 for numbers in moved):
            rows = _tensors([move(*_replaced(args, self._rows_of), **kwargs)])
            for tensor, numbers, row in zip(results, moved, rows, strict=True):
                self._to_rows(tensor, numbers, row, 1 if name == "pixel_shuffle" else None)

    def _to_rows(self, tensor: Tensor, numbers: Tensor, rows: Tensor, axis: int | None) -> None:
        """Ties the rows where channels lie along several dimensions. rows: where the rows before the move have come.

        axis: of the rows. By itself the one along which the old rows lie; where they are divided, the longest: of
        `view(batch, groups, -1, height, width)` the number of groups is the code's.
        """
        varying = _varying(numbers)
        if len(varying) < 2:
            return
        along = [dim for dim in varying if _varies(rows, dim)] or varying
        self._axes[id(tensor)] = axis = axis or max(along, key=lambda dim: (numbers.shape[dim], dim))
        self._tie_rows(numbers.movedim(axis, 0).flatten(1).T)

    def _cut(self, before: Tensor, parts: Sequence[Tensor], axis: int | None, name: str, args: Any) -> None:
        """Every part keeps a channel; equal parts, as chunk makes them, stay equal; steps meet the same channels."""
        parts = [part for part in parts if part.shape != before.shape]
        if axis is None or all(part.shape[axis] == before.shape[axis] for part in parts):
            return
        self.channels.parts += [tuple(_listed(part)) for part in parts]
        if name == "split":
            for row in range(max(part.shape[axis] for part in parts)):
                self._tie_rows(
                    torch.cat([part.narrow(axis, row, 1).flatten() for part in parts if row < part.shape[axis]])[
                        :, None
                    ]
                )
        elif name == "slice" and len(args) > 4 and args[4] > 1:
            self._stride(before, axis, *args[2:5])

    def _stride(self, before: Tensor, axis: int, start: int | None, end: int | None, step: int) -> None:
        """Whole blocks of `step` channels are removed, so that those after them keep their place between two steps.

        Channels before a start beyond the first block stay, and so do those before another end than the last channel,
        or all where the bounds are counted from the last one.
        """
        length = before.shape[axis]
        for first in range(0, length, step):
            self._tie_rows(before.narrow(axis, first, min(step, length - first)).flatten()[:, None])
        start, end = start or 0, length if end is None else min(end, length)
        fixed = length if min(start, end) < 0 else end if end < length else start // step * step
        self.channels.keep(
            _listed(before.narrow(axis, 0, fixed)), "a slice with a step begins or ends at a fixed one of them"
        )

    def _tie_rows(self, numbers: Tensor) -> None:
        """Ties all that have the same index in dimension 1."""
        for together in numbers.movedim(1, 0):
            row = _distinct(together)
            self.channels.tie(row)
            if NO_LAYER in row:
                self.channels.keep(row, "they share a map with values that no layer makes")

    def _pointwise(self, tensors: Sequence[Tensor], result: Tensor) -> None:
        for tensor in tensors:
            if id(tensor) not in self._numbers:
                for other in tensors:
                    self._meet(tensor, other)
        numbers, axis = self._operand(tensors[0], result)
        for tensor in tensors[1:]:
            numbers, axis = self._joined((numbers, axis), self._operand(tensor, result), result.shape)
        self._set(result, numbers.expand(result.shape), axis)

    def _operand(self, tensor: Tensor, result: Tensor) -> tuple[Tensor, int | None]:
        """The numbers of an operand with as many dimensions as the result has, and their axis."""
        numbers, axis = self._numbers_of(tensor), self._axis_of(tensor)
        missing = result.ndim - tensor.ndim
        return numbers.view((1,) * missing + tuple(numbers.shape)), None if axis is None else axis + missing

    def _joined(
        self, one: tuple[Tensor, int | None], other: tuple[Tensor, int | None], shape: torch.Size
    ) -> tuple[Tensor, int | None]:
        """Ties the channels that meet in a sum or product. Its numbers and their axis."""
        (a, axis), (b, other_axis) = self._spread(one, other), self._spread(other, one)
        if axis is not None and other_axis is not None and axis != other_axis:
            for numbers in (a, b):
                self.channels.keep(_listed(numbers), "they meet channels that lie along another dimension")
        a, b = _collapsed(a.expand(shape)), _collapsed(b.expand(shape))
        count = int(a.max()) + 1
        for pair in _distinct(b * count + a):  # as one number: many times faster than pairs
            self.channels.tie(divmod(pair, count))
        return torch.where(a == NO_LAYER, b, a).expand(shape), other_axis if axis is None else axis

    def _spread(self, one: tuple[Tensor, int | None], other: tuple[Tensor, int | None]) -> tuple[Tensor, int | None]:
        """An operand; without numbers, and kept, if one of its values meets several channels of the other."""
        (numbers, _), (others, axis) = one, other
        if axis is None or numbers.shape[axis] > 1 or others.shape[axis] == 1:
            return one
        self.channels.keep(_listed(numbers), "one value meets several channels")
        return torch.full((1,) * numbers.ndim, NO_LAYER).expand(numbers.shape), None

    def _meet(self, tensor: Tensor, other: Tensor) -> None:
        """A tensor that no layer makes meets channels: a parameter with a value for each follows them."""
        others, axis = self._numbers_of(other), self._axis_of(other)
        dim = -1 if axis is None else axis - other.ndim + tensor.ndim
        if axis is None or dim < 0 or tensor.shape[dim] == 1:
            return
        place = self._place(tensor)
        if place is not None:
            self._use(place, dim, _flat(others, axis).tolist(), made=True)
        else:
            self.channels.keep(_listed(others), "they meet values that no layer makes")

    def _over_space(self, args: Any, result: Tensor, name: str) -> None:
        numbers, axis = self._numbers_of(args[0]), self._axis_of(args[0])
        if name in _REDUCTIONS:
            dims = args[1] if len(args) > 1 and args[1] else range(numbers.ndim)
            dims = {dim % numbers.ndim for dim in ([dims] if isinstance(dims, int) else dims)}
            left = result.ndim == numbers.ndim
        else:
            dims, left = {d for d in range(numbers.ndim) if numbers.shape[d] != result.shape[d]}, True
            if name != "constant_pad_nd":
                dims |= {numbers.ndim - 2, numbers.ndim - 1}
        if axis in dims:
            self.channels.keep(_listed(numbers), f"the operator {name} mixes channels")
            return
        for dim in sorted(dims, reverse=True):
            numbers = numbers.narrow(dim, 0, 1) if left else numbers.select(dim, 0)
        if axis is not None and not left:
            axis -= sum(dim < axis for dim in dims)
        self._set(result, numbers.expand(result.shape), axis)

    def _softmax(self, source: Tensor, dim: int, result: Tensor) -> None:
        numbers, axis = self._numbers_of(source), self._axis_of(source)
        if axis == dim % source.ndim:
            self.channels.keep(_listed(numbers), "a softmax over channels")
        self._set(result, numbers, axis)

    def _normalisation(self, args: Any, result: Tensor) -> None:
        channels = self._by_channel(args[0])
        for tensor in args[1:5]:
            place = None if tensor is None else self._place(tensor)
            if place is not None:
                self._use(place, 0, channels, made=True)
        self._set_channels(result, channels)

    def _convolution(self, args: Any, result: Tensor) -> None:
        source, weight, bias = args[:3]
        transposed, groups = args[6], args[8]
        read = self._by_channel(source)
        inputs, outputs = len(read) // groups, result.shape[1] // groups  # of one group
        whole = groups > 1 and min(inputs, outputs) == 1
        if whole:  # a group is removed as one: depthwise convolutions are of this kind
            self._tie_rows(torch.tensor(read).view(1, groups, inputs))
            made = [read[n // outputs * inputs] for n in range(groups * outputs)]
        else:
            made = self.channels.new(groups * outputs)
            self._tie_rows(torch.tensor(read).view(groups, inputs))
            self._tie_rows(torch.tensor(made).view(groups, outputs))
        place = self._place(weight)
        if place is None:
            self.channels.keep([*read, *made], "the weight of the convolution is no parameter")
        elif transposed:
            self._use(place, 0, read, made=whole)
            if not whole:
                self._use(place, 1, made[:outputs], made=True)
        else:
            self._use(place, 0, made, made=True)
            if not whole:
                self._use(place, 1, read[:inputs], made=False)
        if place is not None and len(self._shapes[place[0]]) > weight.ndim:
            # A mixture of kernels: ncnn reads one of a single filter wrongly, so two stay.
            self.channels.parts += [tuple(made[::2]), tuple(made[1::2])]
        if bias is not None:
            self._use(self._place(bias), 0, made, made=True)
        self._set_channels(result, made)

    def _product(self, one: Tensor, other: Tensor, bias: Tensor | None, result: Tensor) -> None:
        place = self._place(other)
        if place is None or other.ndim != 2:
            self._activations_product(one, other, result)
        elif len(self._shapes[place[0]]) == 2:
            self._linear(one, (place[0], place[1].T), bias, result)
        else:  # a mixture of kernels: where the weights of a kernel lie is the same in each
            self.channels.keep(self.channels_of(one), "shares of kernels that are mixed")
            self._places[id(result)] = (place[0], place[1][:1].expand(result.shape))
            self._alive.append(result)

    def _activations_product(self, one: Tensor, other: Tensor, result: Tensor) -> None:
        """[..., C, n] · [..., n, 1]: a weighted sum over positions keeps the channels apart.

        So does [..., m, n] · [..., n, C] where the weights are no channels, as in attention.
        """
        a, b = self._numbers_of(one), self._numbers_of(other)
        if not _listed(a) and not _varies(b, b.ndim - 2):
            self._set(result, b.narrow(b.ndim - 2, 0, 1).expand(result.shape))
            return
        self.channels.keep(_listed(b), "one value meets several channels")
        if not _varies(a, a.ndim - 1) and not _varies(b, b.ndim - 2):
            self._set(result, a.narrow(a.ndim - 1, 0, 1).expand(result.shape))
        else:
            self.channels.keep(_listed(a), "a product of two tensors mixes channels")

    def _linear(self, one: Tensor, place: tuple[str, Tensor], bias: Tensor | None, result: Tensor) -> None:
        made = self.channels.new(result.shape[1])
        self._use(place, 0, made, made=True)
        self._use(place, 1, self._by_channel(one), made=False)
        if bias is not None:
            self._use(self._place(bias), 0, made, made=True)
        self._set_channels(result, made)

    # --- Rearrangements ----------------------------------------------------------------------------------------------

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._inside = True

    def _leave(self, path: str, module: nn.Module, args: Any, outputs: Any) -> None:
        assert isinstance(module, Rearrangement)
        self._inside = False
        maps = _tensors(args)
        channels = [self._by_channel(x) for x in maps]
        if path in self._rearrangements:
            for numbers in (*channels, *self._rearrangements[path][1]):
                self.channels.keep(numbers, f"{path} rearranges more than once")
        self._rearrangements.setdefault(path, (module, channels, maps, isinstance(args[0], Tensor)))

    # --- Parameters and numbers --------------------------------------------------------------------------------------

    def _place(self, tensor: Tensor) -> tuple[str, Tensor] | None:
        """The parameter a tensor comes from, and the flat index in it of every element; None for others."""
        if id(tensor) in self._names:
            name = self._names[id(tensor)]
            return name, torch.arange(tensor.numel()).view(tensor.shape)
        return self._places.get(id(tensor))

    def _move_place(self, func: Any, args: Any, kwargs: Any, result: Any, name: str) -> None:
        places = [self._place(tensor) for tensor in _tensors(args)]
        if len(places) == 1 and places[0] is not None and isinstance(result, Tensor):
            parameter, indices = places[0]
            moved = indices if name in _COPIES else func(*_replaced(args, lambda _: indices), **kwargs)
            self._places[id(result)] = (parameter, moved)
            self._alive.append(result)

    def _use(self, place: tuple[str, Tensor] | None, dim: int, channels: Sequence[int], *, made: bool) -> None:
        """Finds which dimension of the parameter runs along `dim` of the tensor that was used."""
        if place is None:
            self.channels.keep(channels, "a bias that is no parameter")
            return
        name, indices = place
        if name not in self._saved:
            self.channels.keep(channels, f"a buffer that is not saved, {name}")
            return
        shape = self._shapes[name]
        along = indices.movedim(dim, 0).flatten(1)[:, 0] if indices.ndim > 1 else indices
        coordinates = torch.unravel_index(along, shape)
        own = [n for n, part in enumerate(coordinates) if bool((part != part[0]).any())]
        if len(channels) == 1:  # counted from the end, as the tensor's is
            own = own or [max(0, len(shape) - indices.ndim + dim)]
        if len(own) != 1 or shape[own[0]] != len(channels):
            self.channels.keep(channels, f"they lie across several dimensions of {name}")
            return
        ordered = sorted(zip(coordinates[own[0]].tolist(), channels, strict=True))
        self.channels.use(name, own[0], [channel for _, channel in ordered], made=made)

    def _by_channel(self, tensor: Tensor) -> list[int]:
        """The numbers along dimension 1. What the other dimensions put into one channel (pixel shuffle) is tied."""
        rows = _collapsed(self._numbers_of(tensor)).expand(-1, tensor.shape[1], *(-1,) * (tensor.ndim - 2))
        rows = rows.movedim(1, 0).flatten(1)
        if _varies(rows, 1):
            for row in rows.tolist():
                self.channels.tie(row)
                if NO_LAYER in row:
                    self.channels.keep(row, "they share a map with values that no layer makes")
        return rows[:, 0].tolist()

    def _numbers_of(self, tensor: Tensor) -> Tensor:
        known = self._numbers.get(id(tensor))
        return torch.tensor(NO_LAYER).expand(tensor.shape) if known is None else known

    def _axis_of(self, tensor: Tensor) -> int | None:
        """Along which dimension the tensor loses whole rows with its channels; None where it has one at most."""
        if id(tensor) in self._axes:
            return self._axes[id(tensor)]
        varying = _varying(self._numbers_of(tensor))
        return varying[0] if varying else None

    def _rows_of(self, tensor: Tensor) -> Tensor:
        """For every element the index of its row along the axis."""
        axis = self._axis_of(tensor)
        if axis is None:
            return torch.zeros((), dtype=torch.long).expand(tensor.shape)
        shape = [-1 if dim == axis else 1 for dim in range(tensor.ndim)]
        return torch.arange(tensor.shape[axis]).view(shape).expand(tensor.shape)

    def _set(self, tensor: Tensor, numbers: Tensor, axis: int | None = None) -> None:
        self._numbers[id(tensor)] = numbers
        self._axes.pop(id(tensor), None)
        if axis is not None:
            self._axes[id(tensor)] = axis
        self._alive.append(tensor)

    def _set_channels(self, tensor: Tensor, channels: Sequence[int]) -> None:
        """The same channels everywhere along dimension 1."""
        self._set(tensor, torch.tensor(channels).view(1, -1, *(1,) * (tensor.ndim - 2)).expand(tensor.shape))


def _first(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


def _tensors(args: Any) -> list[Tensor]:
    """All tensors in nested lists and tuples."""
    if isinstance(args, Tensor):
        return [args]
    return [tensor for arg in args for tensor in _tensors(arg)] if isinstance(args, tuple | list) else []


def _replaced(args: Any, with_: Callable[[Tensor], Tensor]) -> Any:
    """The same arguments with every tensor replaced, but for indices."""
    if isinstance(args, Tensor):
        return args if args.dtype in (torch.int32, torch.int64) else with_(args)
    return type(args)(_replaced(arg, with_) for arg in args) if isinstance(args, tuple | list) else args


def _collapsed(numbers: Tensor) -> Tensor:
    """Dimensions along which one value is repeated by stride 0, with one index only."""
    for dim in range(numbers.ndim):
        if numbers.stride(dim) == 0:
            numbers = numbers.narrow(dim, 0, 1)
    return numbers


def _varies(numbers: Tensor, dim: int) -> bool:
    """Whether different channels lie along that dimension."""
    numbers = _collapsed(numbers)
    return numbers.shape[dim] > 1 and bool((numbers != numbers.narrow(dim, 0, 1)).any())


def _varying(numbers: Tensor) -> list[int]:
    """The dimensions along which different channels lie."""
    return [dim for dim in range(numbers.ndim) if _varies(numbers, dim)]


def _flat(numbers: Tensor, dim: int) -> Tensor:
    """The numbers along one dimension, at the first index of all others."""
    return numbers.movedim(dim, 0).flatten(1)[:, 0] if numbers.ndim > 1 else numbers


def _distinct(numbers: Tensor) -> list[int]:
    """Every number once."""
    return torch.unique(_collapsed(numbers)).tolist()  # type: ignore[no-any-return]


def _listed(numbers: Tensor) -> list[int]:
    """Every number once, but for values of no layer."""
    return [n for n in _distinct(numbers) if n != NO_LAYER]
