"""One set of weights shared by every candidate of a space (weight-sharing search).

A candidate's parameter is the leading slice of the shared parameter of the same name: fewer blocks use the first
blocks, narrower layers the first channels, smaller kernels the middle, and block kinds share the layers that have the
same name. So no layer needs
an elastic version of itself: a candidate's own network runs with slices in place of its parameters.

Trained by the sandwich rule with in-place distillation (Yu and Huang, "Universally Slimmable Networks", ICCV 2019):
every step trains the largest candidate on the labels, and the smallest and some random ones on labels and on the
largest one's outputs. Batch-norm statistics are not shared: they are recalibrated for a candidate before it is scored.

A space's edits have no part in it: another operator has weights of another shape or meaning, which a slice cannot give.
They are carried over from a candidate once it is extracted.
"""

import random
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.func import functional_call

from compress.data.loader import Batch
from compress.errors import SpaceError
from compress.nas.space import Pick, Space, pick_key
from compress.networks import architecture_from_data
from compress.networks.architecture import without_values
from compress.pose.objective import Objective
from compress.training.loop import LossStep, full_precision

AnyTensor = TypeVar("AnyTensor", bound=Tensor)

_CACHED_SKELETONS = 128


class Supernet:
    """Shared weights. state: parameter and buffer tensors by name, each as large as any candidate needs."""

    def __init__(self, space: Space) -> None:
        """Random weights from torch's global generator. Raises SpaceError if candidates' layers cannot share
        weights."""
        self.space = space
        self.parameters: dict[str, nn.Parameter] = {}
        self.buffers: dict[str, Tensor] = {}
        self._skeletons: OrderedDict[str, tuple[nn.Module, Parts]] = OrderedDict()
        # The largest candidate with one choice changed at a time meets every layer that any candidate has.
        for pick in _one_change_from_largest(space):
            network = architecture_from_data(space.apply(pick), "search space").build()
            for name, parameter in network.named_parameters():
                _keep_larger(self.parameters, name, parameter)
            for name, buffer in network.named_buffers():
                _keep_larger(self.buffers, name, buffer)
        for parameter in self.parameters.values():
            parameter.data = _channels_last(parameter.data)

    def forward(self, pick: Pick, images: Tensor, *, training: bool) -> tuple[Tensor, ...]:
        """The candidate's outputs on [B,3,H,W]. Gradients flow to the shared parameters."""
        skeleton, parts = self._skeleton(pick)
        if skeleton.training != training:
            skeleton.train(training)
        return functional_call(skeleton, self._slices(parts), (images,))  # type: ignore[no-any-return]

    def extract(self, pick: Pick) -> nn.Module:
        """The candidate as a network of its own, with copies of its weights and of the shared statistics."""
        with without_values():
            network = architecture_from_data(self.space.apply(pick), "search space").build()
        slices = self._slices(_parts(network))
        state = {name: _channels_last(value.detach().clone()) for name, value in slices.items()}
        network.load_state_dict(state, assign=True)
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        return network

    def state_dict(self) -> dict[str, Tensor]:
        """All shared tensors by name."""
        return {**{name: p.detach() for name, p in self.parameters.items()}, **self.buffers}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copies what state_dict gave. The space must be the same."""
        with torch.no_grad():
            for name, value in self.state_dict().items():
                value.copy_(state[name])

    def to(self, device: torch.device) -> "Supernet":
        """Moves the shared tensors."""
        for parameter in self.parameters.values():
            parameter.data = parameter.data.to(device)
        self.buffers = {name: buffer.to(device) for name, buffer in self.buffers.items()}
        return self

    def _skeleton(self, pick: Pick) -> "tuple[nn.Module, Parts]":
        """Kept with its parts: listing them takes as long as some layers."""
        key = pick_key(pick)
        if key not in self._skeletons:
            with without_values():
                network = architecture_from_data(self.space.apply(pick), "search space").build()
            self._skeletons[key] = network, _parts(network)
        self._skeletons.move_to_end(key)
        if len(self._skeletons) > _CACHED_SKELETONS:
            self._skeletons.popitem(last=False)
        return self._skeletons[key]

    def _slices(self, parts: "Parts") -> dict[str, Tensor]:
        shared = {**self.parameters, **self.buffers}
        return {name: _part(shared[name], sizes) for name, sizes in parts.items()}


Parts = dict[str, tuple[int, ...]]
"""How large a part of each shared tensor is a candidate's."""


def _part(shared: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The leading part; of a convolution's kernel the middle one (Cai et al., "Once-for-All", ICLR 2020)."""
    starts = [0] * len(sizes)
    if len(sizes) >= 4:
        starts[-2:] = [(full - size) // 2 for full, size in zip(shared.shape[-2:], sizes[-2:], strict=True)]
    return shared[tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))]


def _parts(network: nn.Module) -> Parts:
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


@dataclass(frozen=True)
class Pool:
    """Candidates that training steps draw from. Small, because building a candidate takes tens of milliseconds.

    Choices without a size are random in all three: were the largest always of one block kind, the weights of the other
    kinds would be trained far less, and score worse in the search for that alone.
    """

    largest: tuple[Pick, ...]
    smallest: tuple[Pick, ...]
    randoms: tuple[Pick, ...]

    @classmethod
    def draw(cls, space: Space, size: int, rng: random.Random) -> "Pool":
        """`size` random candidates, and a quarter as many of the largest and smallest ones, at least one."""
        extremes = max(1, size // 4)
        return cls(
            tuple(space.largest_of(rng) for _ in range(extremes)),
            tuple(space.smallest_of(rng) for _ in range(extremes)),
            tuple(space.sample(rng) for _ in range(size)),
        )

    def sandwich(self, randoms: int, rng: random.Random) -> list[Pick]:
        """The picks of one training step: a largest, a smallest, and `randoms` random ones."""
        return [rng.choice(self.largest), rng.choice(self.smallest), *rng.choices(self.randoms, k=randoms)]


def sandwich_step(
    supernet: Supernet, objective: Objective, fabric: Fabric, *, pool: int, randoms: int, distillation: float
) -> LossStep:
    """A training step by the sandwich rule with in-place distillation. Returns the largest candidate's loss.

    pool: random candidates that an epoch draws from, see Pool. randoms: of these that a step trains. distillation: the
    largest one's share in the loss of the others, 0..1; the labels have the rest.
    """

    drawn: Pool | None = None
    drawn_with: random.Random | None = None

    def step(batch: Batch, rng: random.Random) -> float:
        nonlocal drawn, drawn_with
        if drawn is None or rng is not drawn_with:  # a new epoch has a new generator
            drawn, drawn_with = Pool.draw(supernet.space, pool, rng), rng
        largest, *others = drawn.sandwich(randoms, rng)
        with fabric.autocast():
            targets = supernet.forward(largest, batch.images, training=True)
        targets = full_precision(targets)
        largest_loss = objective.loss(targets, batch)
        fabric.backward(largest_loss)
        targets = tuple(target.detach() for target in targets)
        for pick in others:
            with fabric.autocast():
                outputs = supernet.forward(pick, batch.images, training=True)
            outputs = full_precision(outputs)
            loss, distilled = objective.loss(outputs, batch), objective.distillation_loss(outputs, targets)
            fabric.backward((1 - distillation) * loss + distillation * distilled)
        return float(largest_loss.detach())

    return step


def _channels_last(tensor: Tensor) -> Tensor:
    """Weights in the layout that CPU training is fastest in; other tensors as they are."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _one_change_from_largest(space: Space) -> Iterator[Pick]:
    yield space.largest
    for path, values in space.choices.items():
        for value in values[:-1]:
            yield {**space.largest, path: value}


def _keep_larger(kept: dict[str, AnyTensor], name: str, value: AnyTensor) -> None:
    if name not in kept:
        kept[name] = value
    elif kept[name].dim() != value.dim():
        raise SpaceError(
            "candidates must have the same kind of layer under the same name",
            place=f"search space: {name}",
            value=(tuple(kept[name].shape), tuple(value.shape)),
            remedy="leave one of the choices out",
        )
    elif any(new > old for new, old in zip(value.shape, kept[name].shape, strict=True)):
        merged = tuple(max(pair) for pair in zip(value.shape, kept[name].shape, strict=True))
        if merged not in (tuple(value.shape), tuple(kept[name].shape)):
            raise SpaceError(
                "one candidate must be the widest everywhere",
                place=f"search space: {name}",
                value=(tuple(kept[name].shape), tuple(value.shape)),
                remedy="list the values of each choice from smallest to largest",
            )
        kept[name] = value
