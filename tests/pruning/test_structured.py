"""The pruned network is the masked one, for every small network of the zoo and for users' own."""

import copy
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.engines import check_parity, engine
from compress.errors import NetworkError
from compress.networks import made_for
from compress.networks.blocks import ChannelShuffle
from compress.pruning.channels import Channels, follow_channels
from compress.pruning.structured import (
    checked,
    difference,
    fit_shapes,
    masked,
    prunable_channels,
    random_weights,
    without_channels,
)
from tests.networks.small import SMALL

SIZE = (64, 64)
SAME = 1e-5  # relative; sums in another order stay near 1e-6
RATIOS = (0.3, 0.7)


def some(channels: Channels, ratio: float, seed: int = 0) -> set[int]:
    """A random share of every group's members."""
    chance = random.Random(seed)
    return channels.allowed(
        member
        for group in channels.groups()
        for member in chance.sample(group.members, round(ratio * len(group.members)))
    )


def dead_by_hooks(network: nn.Module, channels: Channels, removed: set[int]) -> nn.Module:
    """Another way to mask: the channels are zeros where layers read them."""
    copied = copy.deepcopy(network)
    for use in channels.uses:
        if not use.made:
            alive = torch.tensor([float(channels.member_of(channel) not in removed) for channel in use.channels])

            def stop(layer: nn.Module, args: tuple[Tensor, ...], alive: Tensor = alive) -> tuple[Tensor, ...]:
                along = args[0].ndim - 1 if isinstance(layer, nn.Linear) else 1
                every_group = alive.repeat(args[0].shape[along] // len(alive))
                shape = [-1 if place == along else 1 for place in range(args[0].ndim)]
                return (args[0] * every_group.view(shape), *args[1:])

            copied.get_submodule(use.name.rpartition(".")[0]).register_forward_pre_hook(stop)
    return copied


def calibrated(network: nn.Module, channels: Channels, removed: set[int]) -> nn.Module:
    """Batch norms that have seen pictures without these channels: so the signal gets through to the outputs."""
    seen, network = masked(network, channels, removed), copy.deepcopy(network)
    for module in seen.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train().momentum = 1.0
    with torch.no_grad():
        seen(torch.randn(4, 3, 1, 1) + torch.randn(4, 3, *SIZE))
    network.load_state_dict(dict(seen.named_buffers()), strict=False)
    return network


@pytest.mark.parametrize("name", SMALL)
def test_every_network_without_channels_is_the_masked_one(name: str) -> None:
    network = random_weights(made_for(SMALL[name], SIZE).build())
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    channels = follow_channels(network, SIZE)
    image = torch.randn(1, 3, *SIZE)
    for ratio in RATIOS:
        removed = some(channels, ratio)
        lively = calibrated(network, channels, removed)
        pruned = without_channels(lively, channels, removed)
        assert difference(masked(lively, channels, removed), pruned, image) < SAME
        with torch.no_grad():
            for a, b in zip(pruned(image), pruned(10 * image), strict=True):
                assert (a - b).abs().max() > 100 * SAME * a.abs().max()
    assert difference(dead_by_hooks(lively, channels, removed), pruned, image) < SAME
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    again = SMALL[name].build()
    state = pruned.state_dict()
    fit_shapes(again, {key: tuple(tensor.shape) for key, tensor in state.items()})
    again.load_state_dict(state)
    assert difference(pruned, again.eval(), image) == 0


@pytest.mark.parametrize("name", ["shufflenet_v2", "dite_hrnet", "lightweight_hrnet_exchange"])
def test_a_pruned_network_can_be_pruned_again(name: str) -> None:
    network = random_weights(SMALL[name].build())
    for seed in range(2):
        channels = follow_channels(network, SIZE)
        removed = some(channels, 0.3, seed)
        network = calibrated(network, channels, removed)
        pruned = without_channels(network, channels, removed)
        assert difference(masked(network, channels, removed), pruned, torch.randn(1, 3, *SIZE)) < SAME
        network = pruned
    assert (
        difference(without_channels(network, follow_channels(network, SIZE), ()), network, torch.randn(1, 3, *SIZE))
        == 0
    )


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("lite_hrnet", "onnxruntime"),
        ("lightweight_hrnet_exchange", "onnxruntime"),
        ("dite_hrnet", "ncnn"),
        ("shufflenet_v2", "ncnn"),
    ],
)
def test_pruned_networks_export(name: str, runtime: str, tmp_path: Path) -> None:
    network = random_weights(SMALL[name].build())
    channels = follow_channels(network, SIZE)
    removed = some(channels, 0.5)
    pruned = without_channels(calibrated(network, channels, removed), channels, removed)
    path = engine(runtime).export(pruned, SIZE, tmp_path, name)[0]
    image = np.random.default_rng(0).normal(size=(1, 3, *SIZE)).astype(np.float32)
    check_parity(pruned, engine(runtime).load(path), [image])


class Own(nn.Module):
    """3 → a's channels → a function → one map."""

    def __init__(self, operator: Callable[[Tensor], Tensor], read: int = 8) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(read, 6, 3), nn.Conv2d(6, 1, 1)
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.operator(self.a(x))))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "operator",
    [
        lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
        lambda x: F.channel_shuffle(x, 4),
        lambda x: torch.flip(x, (1,)),
        lambda x: x.view(1, 2, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
    ],
)
def test_own_networks_that_take_sizes_from_their_tensors_lose_channels(operator: Callable[[Tensor], Tensor]) -> None:
    network = random_weights(Own(operator))
    channels = prunable_channels(network, (16, 16))
    removed = channels.allowed(channels.groups()[0].members[:1])
    pruned = without_channels(network, channels, removed)
    assert pruned.a.out_channels < 8
    assert difference(masked(network, channels, removed), pruned, torch.randn(1, 3, 16, 16)) < SAME


@pytest.mark.parametrize(
    ("operator", "read"),
    [
        (lambda x: x[:, :5], 5),  # a pass does not see that 5 is fixed
        (lambda x: x[:, -2:], 2),
        (lambda x: torch.cat(torch.split(x, [3, 5], 1)[::-1], 1), 8),
        (lambda x: x.view(1, 8, -1).view(1, 8, *x.shape[2:]), 8),
        (lambda x: torch.cat((x[:, x.shape[1] // 2 :].relu(), x[:, : x.shape[1] // 2]), 1), 8),
    ],
)
def test_own_networks_that_hold_fixed_sizes_keep_those_channels(
    operator: Callable[[Tensor], Tensor], read: int
) -> None:
    network = random_weights(Own(operator, read))
    channels = prunable_channels(network, (16, 16))
    assert channels.unprunable()["a.weight"].startswith("the network fails without them: ")
    removed = some(channels, 0.5)
    assert removed
    pruned = without_channels(network, channels, removed)
    assert difference(masked(network, channels, removed), pruned, torch.randn(1, 3, 16, 16)) < SAME


@pytest.fixture
def strides_tie_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in following, such as there was."""
    monkeypatch.setattr("compress.pruning.channels._Follower._stride", lambda *_: None)


@pytest.mark.usefixtures("strides_tie_nothing")
def test_a_mistake_in_following_is_noticed_by_the_trial_and_after_pruning() -> None:
    network = Own(lambda x: torch.cat((x[:, ::2].relu(), x[:, 1::2]), 1))
    channels = prunable_channels(network, (16, 16))
    assert channels.unprunable()["a.weight"].startswith("the network fails without them: ")
    assert "b.weight" not in channels.unprunable()
    channels = follow_channels(network, (16, 16))
    a = channels.groups()[0].members
    with pytest.raises(NetworkError, match=r"must do what the given one does.*its outputs differ by"):
        checked(network, channels, {a[0], a[3]}, (16, 16))
    pruned = checked(network, channels, {a[0], a[1]}, (16, 16))
    assert pruned.a.out_channels == 6


def test_given_weights_can_tell_what_random_ones_do_not() -> None:
    """A layer that looks at its weights."""
    network = Own(lambda x: x.flip(1) if float(network.a.weight.detach().abs().max()) < 0.3 and x.shape[1] < 8 else x)
    channels = follow_channels(network, (16, 16))
    removed = {channels.groups()[0].members[0]}
    for weight in network.parameters():
        weight.data.uniform_(-0.2, 0.2)
    with pytest.raises(NetworkError, match="its outputs differ by"):
        checked(network, channels, removed, (16, 16))
    network.a.weight.data[-1] = 1
    checked(network, channels, removed, (16, 16))


class Pair(nn.Module):
    """Two layers that may lose channels, but not both."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        if max(self.a.out_channels, self.b.out_channels) < 8:
            raise ValueError("one of the two must be whole")
        return self.c(torch.cat((self.a(x), self.b(x)), 1))  # type: ignore[no-any-return]


def test_of_groups_that_fail_together_only_the_guilty_one_is_kept() -> None:
    channels = prunable_channels(Pair(), (8, 8))
    reason = channels.unprunable()
    assert set(reason) == {"b.weight", "c.weight"}
    assert reason["b.weight"] == "the network fails without them: ValueError: one of the two must be whole"


def test_a_network_that_answers_by_chance_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"Own: a copy of a network must give the same outputs.*differ by"):
        prunable_channels(Own(lambda x: x + torch.randn(x.shape, dtype=x.dtype)), (16, 16))


def test_kept_channels_and_last_channels_are_refused() -> None:
    network = Own(lambda x: x)
    channels = follow_channels(network, (16, 16))
    first, _, last = channels.groups()
    with pytest.raises(NetworkError, match=r"must stay.*output 0 of the network"):
        without_channels(network, channels, last.members)
    with pytest.raises(NetworkError, match=r"a\.weight: a layer must keep at least one channel"):
        without_channels(network, channels, first.members)


def test_a_shuffle_that_stays_regular_has_no_order() -> None:
    network = random_weights(nn.Sequential(nn.Conv2d(3, 8, 1), ChannelShuffle(2), nn.Conv2d(8, 1, 1)))
    channels = follow_channels(network, (8, 8))
    a = channels.groups()[0].members
    image = torch.randn(1, 3, 8, 8)
    for removed, regular in (({a[1], a[5]}, True), ({a[1], a[2], a[3]}, False)):
        pruned = without_channels(network, channels, removed)
        assert ("1.order" not in pruned.state_dict()) == regular
        assert difference(masked(network, channels, removed), pruned, image) < SAME
    # a0 a4 a1 a5 a2 a6 a3 a7 without a1, a2, a3; a4 to a7 are now 1 to 4
    assert pruned.state_dict()["1.order"].tolist() == [[0, 1, 2, 3, 4], [0] * 5]


def test_a_layer_that_stands_twice_loses_the_same_channels_at_both_places() -> None:
    again = nn.Conv2d(16, 16, 3, 1, 1)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), again, nn.ReLU(), again, nn.ReLU(), nn.Conv2d(16, 4, 1)
    )
    network = random_weights(network)
    channels = prunable_channels(network, (16, 16))
    removed = some(channels, 0.5)
    assert removed
    pruned = without_channels(network, channels, removed)
    assert pruned[2] is pruned[4]
    assert pruned[2].in_channels == pruned[2].out_channels == pruned[0].out_channels == 8
    assert difference(masked(network, channels, removed), pruned, torch.randn(1, 3, 16, 16)) < SAME


class Exact(Own):
    """Takes float32 alone, and says so by an error of its own."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError("pictures are float32")
        return super().forward(x)


def test_a_network_that_refuses_other_precisions_is_tried_in_its_own() -> None:
    assert prunable_channels(Exact(torch.relu), (16, 16)).groups()


class Scaled(Own):
    """Its first layer's channels are multiplied by a buffer."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__(operator)
        self.register_buffer("scale", torch.rand(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x) * self.scale.view(1, -1, 1, 1)))  # type: ignore[no-any-return]


def test_channels_that_meet_a_buffer_that_is_not_saved_are_kept() -> None:
    network = Scaled(torch.relu)
    channels = prunable_channels(network, (16, 16))
    assert "a buffer that is not saved" in channels.unprunable()["a.weight"]
