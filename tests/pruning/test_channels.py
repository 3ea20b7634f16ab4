"""Which channels hang together: every expected class follows from the layers by hand."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.pruning.channels import NO_LAYER, Channels, follow_channels


class Net(nn.Module):
    """Layers by name and a function of the picture and them."""

    def __init__(self, forward: Callable[["Net", Tensor], object], **layers: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> object:
        return self.run(self, x)


def members(channels: Channels, name: str, dim: int = 0) -> list[int]:
    """The members along a dimension of a parameter."""
    (use,) = (use for use in channels.uses if (use.name, use.dim) == (name, dim))
    return [channels.member_of(channel) for channel in use.channels]


def conv(inputs: int, outputs: int, kernel: int = 1, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)  # type: ignore[arg-type]


def test_a_convolution_makes_channels_that_the_next_reads() -> None:
    net = Net(lambda n, x: n.b(n.bn(n.a(x)).relu()), a=conv(3, 4, 3), bn=nn.BatchNorm2d(4), b=conv(4, 2))
    channels = follow_channels(net, (8, 8))
    made = members(channels, "a.weight")
    assert len(set(made)) == 4
    for name in ("a.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"):
        assert members(channels, name) == made
    assert members(channels, "b.weight", 1) == made
    assert [group.made_by[0] for group in channels.groups()] == ["a.weight", "b.weight"]
    assert channels.groups()[0].members == tuple(sorted(made))
    assert channels.unprunable() == {"b.weight": "output 0 of the network"}


def test_a_sum_ties_and_a_concatenation_does_not() -> None:
    net = Net(
        lambda n, x: n.c(torch.cat((n.a(x) + n.b(x), n.a2(x)), 1)),
        a=conv(3, 4),
        b=conv(3, 4),
        a2=conv(3, 2),
        c=conv(6, 1),
    )
    channels = follow_channels(net, (8, 8))
    assert members(channels, "a.weight") == members(channels, "b.weight")
    assert members(channels, "c.weight", 1) == members(channels, "a.weight") + members(channels, "a2.weight")
    assert len(set(members(channels, "c.weight", 1))) == 6


def test_depthwise_follows_its_input() -> None:
    net = Net(lambda n, x: n.c(n.d(n.a(x))), a=conv(3, 4), d=conv(4, 8, 3, groups=4), c=conv(8, 1))
    channels = follow_channels(net, (8, 8))
    a = members(channels, "a.weight")
    assert members(channels, "d.weight") == [a[0], a[0], a[1], a[1], a[2], a[2], a[3], a[3]]


def test_groups_of_a_convolution_stay_equal() -> None:
    net = Net(lambda n, x: n.c(n.g(n.a(x))), a=conv(3, 6), g=conv(6, 4, groups=2), c=conv(4, 1))
    channels = follow_channels(net, (8, 8))
    a, g = members(channels, "a.weight"), members(channels, "g.weight")
    assert a[:3] == a[3:]
    assert g[:2] == g[2:]
    assert len(set(a)) == 3
    assert len(set(g)) == 2


def test_groups_that_make_one_channel_go_as_a_whole() -> None:
    net = Net(lambda n, x: n.c(n.g(n.a(x))), a=conv(3, 6), g=conv(6, 3, groups=3), c=conv(3, 1))
    channels = follow_channels(net, (8, 8))
    a, g = members(channels, "a.weight"), members(channels, "g.weight")
    assert a == [g[0], g[0], g[1], g[1], g[2], g[2]]
    assert len(set(g)) == 3


def test_transposed_convolutions() -> None:
    net = Net(lambda n, x: n.c(n.t(n.a(x))), a=conv(3, 4), t=nn.ConvTranspose2d(4, 6, 2, 2, groups=2), c=conv(6, 1))
    channels = follow_channels(net, (8, 8))
    a, t = members(channels, "a.weight"), members(channels, "t.bias")
    assert members(channels, "t.weight", 0) == a
    assert members(channels, "t.weight", 1) == t[:3] == t[3:]
    assert a[:2] == a[2:]


def test_pixel_shuffle_ties_what_becomes_one_channel() -> None:
    net = Net(lambda n, x: n.c(F.pixel_shuffle(n.a(x), 2)), a=conv(3, 12), c=conv(3, 1))
    channels = follow_channels(net, (8, 8))
    a = members(channels, "a.weight")
    assert [a[4 * n : 4 * n + 4] for n in range(3)] == [[n] * 4 for n in members(channels, "c.weight", 1)]
    assert len(set(a)) == 3


@pytest.mark.parametrize(
    "shuffle",
    [
        nn.ChannelShuffle(2),
        Net(lambda _, x: x.view(len(x), 2, x.shape[1] // 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2)),
    ],
)
def test_a_foreign_shuffle_keeps_its_groups_equal(shuffle: nn.Module) -> None:
    net = Net(lambda n, x: n.c(n.shuffle(n.a(x))), a=conv(3, 6), shuffle=shuffle, c=conv(6, 1))
    channels = follow_channels(net, (8, 8))
    a = members(channels, "a.weight")
    assert a[:3] == a[3:]
    assert len(set(a)) == 3
    assert members(channels, "c.weight", 1) == [a[0], a[0], a[1], a[1], a[2], a[2]]


EVEN_AND_ODD = [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("operator", "tied"),
    [
        (lambda a, b: a[:, ::2], EVEN_AND_ODD),
        (lambda a, b: a[:, 1::2], EVEN_AND_ODD),
        (lambda a, b: torch.cat((a[:, 1::2], a[:, ::2]), 1), EVEN_AND_ODD),
        (lambda a, b: a[:, 1::3], [0, 0, 0, 1, 1, 1, 2, 2]),
        (lambda a, b: torch.cat((b, a[:, 1:]), 1)[:, ::2], [9, 0, 0, 1, 1, 2, 2, 3]),
        (lambda a, b: a.view(1, 4, 2, *a.shape[2:])[:, :, 1], EVEN_AND_ODD),
        (lambda a, b: a.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2), [0, 1, 2, 3] * 2),
        (lambda a, b: torch.cat(a.chunk(3, 1)[::-1], 1), [0, 1, 2, 0, 1, 2, 0, 1]),
    ],
)
def test_what_is_taken_by_place_ties_those_whose_places_would_shift(
    operator: Callable[[Tensor, Tensor], Tensor], tied: list[int]
) -> None:
    net = Net(lambda n, x: operator(n.a(x), n.b(x)), a=conv(3, 8), b=conv(3, 8))
    a = members(follow_channels(net, (8, 8)), "a.weight")
    assert [[one == other for other in a] for one in a] == [[one == other for other in tied] for one in tied]


@pytest.mark.parametrize(
    "operator",
    [
        lambda a, b: torch.stack((a, b), 2).flatten(1, 2),
        lambda a, b: torch.stack((a, b), 1).transpose(1, 2).flatten(1, 2),
        lambda a, b: torch.cat((a.unsqueeze(2), b.unsqueeze(2)), 2).view(1, -1, *a.shape[2:]),
        lambda a, b: torch.stack((a, b)).sum(0),
        lambda a, b: torch.cat((a, b), 0),
        lambda a, b: torch.cat((a, b), 2),
        lambda a, b: (torch.stack((a, b), 1) * torch.stack((a, b), 1).mean((3, 4), keepdim=True).softmax(1)).sum(1),
    ],
)
def test_channels_that_meet_along_another_dimension_go_together(operator: Callable[[Tensor, Tensor], Tensor]) -> None:
    net = Net(
        lambda n, x: n.c(n.d(operator(n.a(x), n.b(x)))), a=conv(3, 4), b=conv(3, 4), d=nn.LazyConv2d(4, 1), c=conv(4, 1)
    )
    net(torch.zeros(1, 3, 8, 8))
    channels = follow_channels(net, (8, 8))
    a = members(channels, "a.weight")
    assert members(channels, "b.weight") == a
    assert len(set(a)) == 4
    assert not set(a) & set(channels.kept)


def test_a_slice_with_a_step_between_fixed_bounds_keeps_what_would_move_them() -> None:
    net = Net(
        lambda n, x: n.c(n.a(x)[:, 2::2]) + n.d(n.b(x)[:, :6:2]) + n.e(n.b2(x)[:, :-2:2]),
        a=conv(3, 8),
        b=conv(3, 8),
        b2=conv(3, 8),
        c=conv(3, 1),
        d=conv(3, 1),
        e=conv(3, 1),
    )
    channels = follow_channels(net, (8, 8))
    kept = [[one in channels.kept for one in members(channels, name)] for name in ("a.weight", "b.weight", "b2.weight")]
    assert kept == [[True] * 2 + [False] * 6, [True] * 6 + [False] * 2, [True] * 8]


def test_gates_linear_layers_and_parameters_with_a_value_per_channel() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act, self.gate, self.last = conv(3, 4), nn.PReLU(4), nn.Linear(4, 4), conv(4, 1)
            self.scale = nn.Parameter(torch.ones(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(self.a(x)) * self.scale
            return self.last(y * self.gate(y.mean((2, 3))).sigmoid()[:, :, None, None])  # type: ignore[no-any-return]

    channels = follow_channels(Scaled(), (8, 8))
    a = members(channels, "a.weight")
    assert len(set(a)) == 4
    assert members(channels, "scale") == members(channels, "act.weight") == members(channels, "gate.weight", 1) == a
    assert members(channels, "gate.weight", 0) == a


def test_operators_without_a_rule_keep_what_they_read() -> None:
    net = Net(lambda n, x: n.c(n.b(torch.cumsum(n.a(x), 1))), a=conv(3, 4), b=conv(4, 4), c=conv(4, 1))
    channels = follow_channels(net, (8, 8))
    assert {channels.kept[n] for n in members(channels, "a.weight")} == {"the operator cumsum reads them"}
    assert members(channels, "b.weight", 1) == [NO_LAYER] * 4
    assert not set(members(channels, "b.weight")) & set(channels.kept)
    assert channels.unprunable()["a.weight"] == "the operator cumsum reads them"


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        (lambda x: torch.softmax(x, 1), "a softmax over channels"),
        (lambda x: x * torch.ones(4, 1, 1), "they meet values that no layer makes"),
        (lambda x: x[:, 0:1] * x + x[:, 2, None], "the operator select names single channels"),
        (lambda x: F.group_norm(x, 2), "the operator native_group_norm reads them"),
        (lambda x: x.mean(1, keepdim=True).expand_as(x) + x, "the operator mean mixes channels"),
    ],
)
def test_reasons(operator: Callable[[Tensor], Tensor], reason: str) -> None:
    net = Net(lambda n, x: n.c(operator(n.a(x))), a=conv(3, 4), c=conv(4, 1))
    channels = follow_channels(net, (8, 8))
    assert reason in channels.unprunable()["a.weight"]


def test_all_outputs_are_kept() -> None:
    net = Net(lambda n, x: {"maps": n.a(x), "more": [n.b(x)]}, a=conv(3, 2), b=conv(3, 2))
    channels = follow_channels(net, (8, 8))
    assert channels.unprunable() == {"a.weight": "output 0 of the network", "b.weight": "output 1 of the network"}


def test_needed_and_allowed() -> None:
    net = Net(
        lambda n, x: n.d(n.b(n.a(x)[:, :2])) + n.c(n.a(x)), a=conv(3, 4), b=conv(2, 3), c=conv(4, 1), d=conv(3, 1)
    )
    channels = follow_channels(net, (8, 8))
    a, b = members(channels, "a.weight"), members(channels, "b.weight")
    assert {frozenset(a), frozenset(a[:2]), frozenset(b)} <= set(channels.needed())
    assert channels.allowed([*a[:2], a[3], b[0]]) == {a[1], a[3], b[0]}
    assert channels.allowed([*members(channels, "c.weight"), NO_LAYER]) == set()


def test_a_layer_used_twice_has_the_same_channels() -> None:
    net = Net(lambda n, x: n.c(n.b(n.a(x)) + n.b(n.a2(x))), a=conv(3, 4), a2=conv(3, 4), b=conv(4, 4), c=conv(4, 1))
    channels = follow_channels(net, (8, 8))
    assert members(channels, "a.weight") == members(channels, "a2.weight") == members(channels, "b.weight", 1)


def test_the_network_is_left_as_it_was() -> None:
    net = Net(lambda n, x: n.bn(n.a(x)), a=conv(3, 4), bn=nn.BatchNorm2d(4)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    follow_channels(net, (8, 8))
    assert net.training
    assert net.bn.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
