"""Taking channels out of a network: a smaller dense network, the same as the given one without them."""

import copy
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compress.errors import NetworkError
from compress.networks.weights import names_of_tied
from compress.pruning.channels import Channels, Group, Rearranged, follow_channels

TOLERANCE = 1e-3
"""Largest relative difference between the pruned and the masked network, with given and with random weights.

Sums in another order stay near 1e-6 (float32); a wrong channel changes the outputs by about their own size.
"""
_REMOVALS = 5
"""Removals that are tried of every group, see _removal."""


def prunable_channels(network: nn.Module, input_hw: tuple[int, int]) -> Channels:
    """follow_channels, and tried: what the network as written cannot lose is kept, with the reason.

    A forward may hold a fixed number of channels, as `x[:, :32]`, which a pass does not tell from `x[:, :half]`. So
    channels of all groups are taken out of a copy with random weights, several times, of each group another share.
    While that fails, the first group with which it fails is kept. Raises NetworkError if nothing is left and it still
    fails.
    """
    channels = follow_channels(network, input_hw)
    trial, image = _trial(network, input_hw)
    groups = channels.groups()
    while (reason := _fails(trial, channels, groups, image)) is not None:
        if not groups:
            raise NetworkError(
                "a copy of a network must give the same outputs",
                place=type(network).__name__,
                value=reason,
                remedy="let its forward depend on nothing but the picture and its weights",
            )
        passes, fails = 0, len(groups)  # as many of the groups, the first ones
        while fails - passes > 1:
            middle = (passes + fails) // 2
            found = _fails(trial, channels, groups[:middle], image)
            passes, fails, reason = (middle, fails, reason) if found is None else (passes, middle, found)
        cause = groups.pop(fails - 1)
        channels.keep(cause.members, f"the network fails without them: {reason}")
    return channels


def checked(network: nn.Module, channels: Channels, removed: Collection[int], input_hw: tuple[int, int]) -> nn.Module:
    """without_channels, compared with the masked network: on random pictures, with its weights and with random ones.

    Raises NetworkError as without_channels, and if the outputs differ.
    """
    pruned = without_channels(network, channels, removed)
    for seed, weights in enumerate((copy.deepcopy(network).cpu().eval(), random_weights(network))):
        reason = _differs(*precise(weights, input_hw, seed), channels, removed)
        if reason is not None:
            raise NetworkError(
                "a pruned network must do what the given one does without these channels",
                place=type(network).__name__,
                value=reason,
                remedy="protect the layers around its slices and views, and report the network",
            )
    return pruned


def without_channels(network: nn.Module, channels: Channels, removed: Collection[int]) -> nn.Module:
    """A copy of the network without these members.

    Raises NetworkError for members that are kept, and where a layer or a slice would lose its last channel.
    """
    lost = _lost(channels, removed)
    state = network.state_dict()
    also = names_of_tied(network)
    for use in channels.uses:
        stays = [n for n, channel in enumerate(use.channels) if channel not in lost]
        if len(stays) < len(use.channels):
            tensor = state[use.name]
            cut = tensor.index_select(use.dim, torch.tensor(stays, device=tensor.device))
            state.update(dict.fromkeys(also[use.name], cut))
    for rearranged in channels.rearranged:
        if lost.intersection(rearranged.channels):
            order = _order(rearranged, lost)
            module = network.get_submodule(rearranged.path)
            if module.order is not None or not module.follows_rule(order):
                state[f"{rearranged.path}.order".lstrip(".")] = order
    pruned = copy.deepcopy(network)
    fit_shapes(pruned, {name: tuple(tensor.shape) for name, tensor in state.items()})
    pruned.load_state_dict(state)
    return pruned


def masked(network: nn.Module, channels: Channels, removed: Collection[int]) -> nn.Module:
    """A copy of the network, of the same shapes, in which no layer reads these members."""
    lost = _lost(channels, removed)
    copied = copy.deepcopy(network)
    state = copied.state_dict()
    for use in channels.uses:
        if not use.made:
            dead = [n for n, channel in enumerate(use.channels) if channel in lost]
            tensor = state[use.name]
            tensor.index_fill_(use.dim, torch.tensor(dead, dtype=torch.long, device=tensor.device), 0)
    return copied


def fit_shapes(network: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Gives the network's layers the channels that weights of these shapes have. Values are undefined afterwards.

    shapes: of the state that will be loaded. Convolutions with one input or output per group, depthwise ones among
    them, have as many groups as the weights say; other grouped ones keep their number of groups. A tensor that has
    several names stays one.
    """
    replaced: list[Tensor] = []
    made: dict[int, Tensor] = {}  # by the tensor that it replaces
    for path, module in network.named_modules():
        changed = False
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                wanted = shapes.get(f"{path}.{name}" if path else name)
                if tensor is not None and wanted is not None and tuple(wanted) != tuple(tensor.shape):
                    if id(tensor) not in made:
                        resized = tensor.detach().new_empty(tuple(wanted))
                        if isinstance(tensor, nn.Parameter):
                            resized = nn.Parameter(resized, requires_grad=tensor.requires_grad)
                        made[id(tensor)] = resized
                        replaced.append(tensor)  # lives on, or another could get its id
                    kind[name] = made[id(tensor)]
                    changed = True
        if changed:
            _describe(module)


def difference(one: nn.Module, other: nn.Module, image: Tensor) -> float:
    """Largest max|one - other| / max|one| of two networks' outputs; both must be in evaluation mode."""
    with torch.no_grad():
        outputs = [network(image) for network in (one, other)]
    pairs = zip(*(maps_of(output) for output in outputs), strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in pairs)


def random_weights(network: nn.Module) -> nn.Module:
    """A copy on the CPU, in evaluation mode, with fixed random weights all of which have an effect on the outputs.

    Fresh networks have dead parts (batch norms that start at zero), in which a mistake would not show.
    """
    copied = copy.deepcopy(network).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in copied.state_dict().values():
        if not tensor.is_floating_point():
            continue
        if tensor.ndim > 1:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        else:  # positive biases keep ReLUs alive
            tensor.uniform_(0.5, 1.5, generator=generator)
    return copied


def _lost(channels: Channels, removed: Collection[int]) -> set[int]:
    """Numbers of all channels of these members. Raises NetworkError as without_channels."""
    removed = set(removed)
    kept = sorted(removed & set(channels.kept))
    if kept:
        raise NetworkError(
            "a channel that must stay cannot be removed",
            place="pruning",
            value=channels.kept[kept[0]],
            remedy="leave it out",
        )
    numbered = [(use.name, use.channels) for use in channels.uses] + [("a slice", part) for part in channels.parts]
    lost = set()
    for name, numbers in numbered:
        dead = {number for number in numbers if channels.member_of(number) in removed}
        if numbers and len(dead) == len(set(numbers)):
            raise NetworkError("a layer must keep at least one channel", place=name, value=0, remedy="lower the ratio")
        lost |= dead
    return lost


def _order(rearranged: Rearranged, lost: Collection[int]) -> Tensor:
    """The order of the channels that stay, [2,C]."""
    stays = [n for n, channel in enumerate(rearranged.channels) if channel not in lost]
    now = {before: n for n, before in enumerate(stays)}
    return torch.tensor([(now[before], target) for before, target in rearranged.order if before in now]).T.contiguous()


def _trial(network: nn.Module, input_hw: tuple[int, int]) -> tuple[nn.Module, Tensor]:
    """The network with random weights, and a picture."""
    return precise(random_weights(network), input_hw, 0)


def precise(network: nn.Module, input_hw: tuple[int, int], seed: int) -> tuple[nn.Module, Tensor]:
    """The network, changed to float64 if it can, so that no difference is rounding, and a picture."""
    image = torch.randn(1, 3, *input_hw, generator=torch.Generator().manual_seed(seed))
    try:
        with torch.no_grad():
            network.double()(image.double())
    except Exception:  # it makes float32 tensors of its own, or its forward asks for float32
        return network.float(), image
    return network, image.double()


def _fails(network: nn.Module, channels: Channels, groups: Sequence[Group], image: Tensor) -> str | None:
    """Why the network without some channels of these groups is not the masked one; None if it is, for all removals."""
    for number in range(_REMOVALS):
        removed = channels.allowed(channel for group in groups for channel in _removal(group, number))
        reason = _differs(network, image, channels, removed)
        if reason is not None:
            return reason
    return None


def _removal(group: Group, number: int) -> Sequence[int]:
    """Channels of a group that are tried together: its halves, all that can be removed, random ones of a random share.

    Those of one group do not depend on others: the groups' shares differ, and trials of fewer groups find the cause.
    """
    half = len(group.members) // 2
    if number < 3:
        return (group.members[:half], group.members[half:], group.members)[number]
    chance = random.Random(f"{number} {group.made_by[0]}")
    return chance.sample(group.members, chance.randint(0, len(group.members) - 1))


def _differs(network: nn.Module, image: Tensor, channels: Channels, removed: Collection[int]) -> str | None:
    """Why the network without these members is not the masked one; None if it is."""
    try:
        found = difference(masked(network, channels, removed), without_channels(network, channels, removed), image)
    except Exception as error:  # a network of the user's may raise anything
        return f"{type(error).__name__}: {error}"
    return None if found <= TOLERANCE else f"its outputs differ by {found:.1e}"


def maps_of(outputs: Any) -> list[Tensor]:
    """What a network returns, as a list."""
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return [outputs] if isinstance(outputs, Tensor) else [x for output in outputs for x in maps_of(output)]


def _describe(module: nn.Module) -> None:
    """A layer's attributes, from its weight."""
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
        if module.groups > 1 and min(inputs, outputs) == 1:
            module.groups = module.weight.shape[0] // inputs
        module.in_channels = module.weight.shape[0]
        module.out_channels = module.weight.shape[1] * module.groups
    elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
        if module.groups > 1 and min(inputs, outputs) == 1:
            module.groups = module.weight.shape[0] // outputs
        module.in_channels = module.weight.shape[1] * module.groups
        module.out_channels = module.weight.shape[0]
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.InstanceNorm2d):
        values = module.running_mean if module.weight is None else module.weight
        assert values is not None  # or no shape of it had changed
        module.num_features = len(values)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(module.weight)
