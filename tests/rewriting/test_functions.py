"""Functions as modules: which calls are found, what they are called, and that the network stays what it was."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from compress.jobs.rewrite.choice import places_of
from compress.pruning.structured import prunable_channels, without_channels
from compress.rewriting.functions import as_modules
from compress.rewriting.rules import RULES
from compress.rewriting.sites import rewritten, sites

IMAGE = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


class Calls(nn.Module):
    """A convolution and whatever the test calls behind it."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 1, 1)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x))


class Residual(nn.Module):
    """Names of its own that a new module must not take: silu, a method, and sigmoid, a buffer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.auxiliary = nn.Conv2d(width, 1, 1)  # never called
        self.scale = nn.Parameter(torch.full((1,), 0.5))
        self.register_buffer("sigmoid", torch.full((1,), 2.0), persistent=False)

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.silu(self.bn(self.conv1(x))))
        return self.silu(x + y * (self.scale * 2)) * (y * 3).sigmoid() * (self.sigmoid * 2)


class Neck(nn.Module):
    """Reads a list: it can be traced only where it is called."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(2))

    def forward(self, maps: list[Tensor]) -> Tensor:
        fine, coarse = (lateral(one) for lateral, one in zip(self.laterals, maps, strict=True))
        return F.gelu(fine + F.interpolate(coarse, scale_factor=2, mode="bilinear"))


class Decoder(nn.Module):
    """Has an optional argument."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        y = F.elu(self.conv(x))
        return y if skip is None else y + skip


class Pose(nn.Module):
    """All of these."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.layers = nn.Sequential(Residual(8), Residual(8))
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.neck, self.decoder = Neck(8), nn.Sequential(Decoder(8))
        self.maps = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.silu(self.stem(x)))
        return self.maps(self.decoder(self.neck([x, self.down(x)])))


def pose() -> nn.Module:
    torch.manual_seed(0)
    return Pose().eval()


def check_same(given: nn.Module, changed: nn.Module) -> None:
    for training in (True, False):
        with torch.no_grad():
            assert torch.equal(
                copy.deepcopy(given).train(training)(IMAGE), copy.deepcopy(changed).train(training)(IMAGE)
            )


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: F.silu(x), nn.SiLU()),
        (lambda x: F.silu(input=x, inplace=True), nn.SiLU(inplace=True)),
        (lambda x: torch.sigmoid(x), nn.Sigmoid()),
        (lambda x: torch.sigmoid(input=x), nn.Sigmoid()),
        (lambda x: F.sigmoid(x), nn.Sigmoid()),
        (lambda x: x.sigmoid(), nn.Sigmoid()),
        (lambda x: F.gelu(x), nn.GELU()),
        (lambda x: F.gelu(x, approximate="tanh"), nn.GELU("tanh")),
        (lambda x: F.elu(x, 0.5), nn.ELU(0.5)),
        (lambda x: F.elu(x, alpha=0.25, inplace=True), nn.ELU(0.25, inplace=True)),
        (lambda x: F.interpolate(x, None, 2, "bilinear"), nn.Upsample(scale_factor=2.0, mode="bilinear")),
        (
            lambda x: F.interpolate(x, size=(32, 48), mode="bilinear", align_corners=True),
            nn.Upsample((32, 48), mode="bilinear", align_corners=True),
        ),
        (
            lambda x: F.interpolate(x, scale_factor=(2, 1.5), mode="bilinear", recompute_scale_factor=True),
            nn.Upsample(scale_factor=(2.0, 1.5), mode="bilinear", recompute_scale_factor=True),
        ),
    ],
)
def test_a_call_becomes_the_module_of_the_same_options(function: Any, expected: nn.Module) -> None:
    given = Calls(function).eval()
    changed, unread = as_modules(given)
    assert unread == {}
    ((name, module),) = [(name, part) for name, part in changed.named_children() if name != "conv"]
    assert name == {"Upsample": "interpolate"}.get(type(module).__name__, type(module).__name__.lower())
    assert repr(module) == repr(expected)
    assert not module.training
    check_same(given, changed)
    assert {site.at for rule in RULES.values() for site in sites(changed, rule)} >= {name}
    assert list(given._modules) == ["conv"]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.sigmoid(x),
        lambda x: torch.sigmoid(x) * x,
        lambda x: x.mul(x.sigmoid()),
        lambda x: torch.mul(torch.sigmoid(x), x),
    ],
)
def test_x_times_its_sigmoid_is_a_swish(function: Any) -> None:
    given = Calls(function).eval()
    changed, _ = as_modules(given)
    assert repr(changed.get_submodule("silu")) == "SiLU()"
    assert not hasattr(changed, "sigmoid")
    x = given.conv(IMAGE).double()
    torch.testing.assert_close(changed(IMAGE).double(), x / (1 + torch.exp(-x)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x + 1) * torch.sigmoid(x),  # a gate
        lambda x: (lambda gate: x * gate + gate)(torch.sigmoid(x)),  # needed by itself
    ],
)
def test_other_products_keep_their_sigmoid(function: Any) -> None:
    given = Calls(function).eval()
    changed, _ = as_modules(given)
    assert not hasattr(changed, "silu")
    assert isinstance(changed.get_submodule("sigmoid"), nn.Sigmoid)
    check_same(given, changed)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.relu6(F.hardswish(x)),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True),
        lambda x: x.sigmoid_(),
        lambda x: torch.sigmoid(x, out=torch.empty_like(x)),
    ],
)
def test_what_no_rule_replaces_stays(function: Any) -> None:
    given = Calls(function).eval()
    changed, unread = as_modules(given)
    assert unread == {}
    assert type(changed) is Calls
    assert list(changed._modules) == ["conv"]


def test_names_tell_where_a_function_is_called() -> None:
    changed, unread = as_modules(pose())
    assert unread == {}
    known = {path for path, _ in pose().named_modules()}
    assert [path for path, _ in changed.named_modules() if path not in known] == [
        "layers.0.silu_1",
        "layers.0.silu_2",
        "layers.0.sigmoid_1",
        "layers.1.silu_1",
        "layers.1.silu_2",
        "layers.1.sigmoid_1",
        "neck.interpolate",
        "neck.gelu",
        "decoder.0.elu",
        "silu",
    ]


def test_the_network_stays_what_it_was() -> None:
    given = pose()
    state = copy.deepcopy(given.state_dict())
    changed, _ = as_modules(given)
    assert list(changed.state_dict()) == list(state)
    assert [type(part) for part in given.modules()] == [type(part) for part in pose().modules()]
    assert all(torch.equal(tensor, state[name]) for name, tensor in given.state_dict().items())
    check_same(given, changed)
    check_same(given, copy.deepcopy(changed))
    check_same(given, as_modules(changed)[0])
    block = changed.get_submodule("layers.0")
    assert isinstance(block, Residual)
    assert type(block).__name__ == "Residual"
    again, _ = as_modules(changed)
    assert [path for path, _ in again.named_modules()] == [path for path, _ in changed.named_modules()]


def test_a_module_whose_code_runs_around_it_is_no_site() -> None:
    class Adds(nn.Module):
        """A residual block, if it were called."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, 1, 1)

        def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
            return x + scale * self.conv(x) * F.silu(x)

    given = nn.Sequential(nn.Conv2d(3, 4, 1), Calls(Adds()))
    given[1].conv = nn.Conv2d(4, 4, 1)
    assert [site.at for site in sites(given.eval(), RULES["remove_block"])] == ["1.function"]
    changed, _ = as_modules(given)
    assert [site.at for site in sites(changed, RULES["swish_to_relu"])] == ["1.function.silu"]
    assert sites(changed, RULES["remove_block"]) == []
    check_same(given, changed)


def test_rewriting_and_pruning_go_on_from_there() -> None:
    changed, _ = as_modules(pose())
    found = sites(changed, RULES["swish_to_hard_swish"])
    assert [site.at for site in found] == [
        "layers.0.silu_1",
        "layers.0.silu_2",
        "layers.1.silu_1",
        "layers.1.silu_2",
        "silu",
    ]
    network = rewritten(changed, found)
    with torch.no_grad():
        stem = F.hardswish(network.get_submodule("stem")(IMAGE))
        assert torch.equal(network.get_submodule("layers")(stem), _listened(network, "layers"))
    channels = prunable_channels(network, (16, 24))
    smaller = without_channels(network, channels, set(channels.groups()[0].members[:2]))
    assert smaller(IMAGE).shape == (2, 5, 8, 12)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in network.parameters())


def _listened(network: nn.Module, path: str) -> Tensor:
    heard: list[Tensor] = []
    with network.get_submodule(path).register_forward_hook(lambda module, given, output: heard.append(output)):
        network(IMAGE)
    return heard[0]


def test_the_users_own_graph_module_is_read() -> None:
    given = fx.symbolic_trace(Calls(lambda x: F.silu(x) * math.pi)).eval()
    changed, unread = as_modules(given)
    assert unread == {}
    site = sites(copy.deepcopy(changed), RULES["swish_to_relu"])
    assert [one.at for one in site] == ["silu"]
    check_same(given, changed)
    expected = F.relu(given.get_submodule("conv")(IMAGE)) * math.pi
    assert torch.equal(copy.deepcopy(rewritten(changed, site))(IMAGE), expected)


class Drops(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(F.silu(self.conv(x)), 0.1, self.training)


class Depends(Calls):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if y.shape[2] > 8:  # a tracer cannot know
            y = y + 1
        return F.silu(y)


class Remembers(Calls):
    def forward(self, x: Tensor) -> Tensor:
        self.seen = F.silu(self.conv(x))
        return self.seen


class Makes(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv(x)) + torch.rand(1)


class Freezes(Calls):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.conv(x)
        return F.silu(y)


class Resizes(Calls):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.conv(x)[:, :, ::2, ::2], size=x.shape[2:], mode="bilinear")


class Optional(Calls):
    def forward(self, x: Tensor, features: bool = False) -> Any:
        y = F.silu(self.conv(x))
        return [y, y] if features else y


def patched() -> nn.Module:
    module = Calls(F.silu)
    module.forward = module.conv.forward  # type: ignore[method-assign]
    return module


def beside_a_swish(module: nn.Module) -> nn.Module:
    """The module, which reads four channels, and behind it one whose swish is found."""
    module.conv = nn.Conv2d(4, 4, 3, 1, 1)
    network = nn.Sequential(Calls(module), Calls(F.silu))
    network[1].conv = nn.Conv2d(4, 4, 1)
    return network.eval()


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Drops(None), "it works otherwise in training"),
        (Depends(None), "cannot be used as inputs to control flow"),
        (Remembers(None), "keeps something in the module"),
        (Makes(None), "makes a tensor from nothing"),
        (Freezes(None), "switches gradients off"),
        (Resizes(None), "interpolate takes a size or a value that is computed"),
        (patched(), "its forward is not its class's"),
    ],
)
def test_what_tracing_would_freeze_or_lose_stays_and_says_why(module: nn.Module, reason: str) -> None:
    changed, unread = as_modules(beside_a_swish(module))
    assert list(unread) == ["0.function"]
    assert reason in unread["0.function"]
    assert type(changed.get_submodule("0.function")) is type(module)
    assert [site.at for site in sites(changed, RULES["swish_to_relu"])] == ["1.silu"]


class Branches(nn.Module):
    """Lists in, lists out, as in every HRNet; some of its branches are nothing."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Identity()])
        self.function = function

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        return [self.function(branch(one)) for branch, one in zip(self.branches, maps, strict=True)]


class ManyMaps(nn.Module):
    """Modules behind one another that pass lists on, among them one that cannot be traced at all."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.split = nn.Conv2d(3, 4, 1), Split()
        self.stages = nn.Sequential(Branches(F.silu), nn.Identity(), Branches(F.elu))
        self.sized = Depends(None)
        self.sized.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine, coarse = self.stages(self.split(self.stem(x)))
        return F.gelu(self.sized(fine)) + coarse.mean()


class Split(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, F.max_pool2d(x, 2)]


def test_lists_are_followed_from_module_to_module() -> None:
    given = nn.Sequential(ManyMaps()).eval()
    changed, unread = as_modules(given)
    assert list(unread) == ["0.sized"]
    known = {path for path, _ in given.named_modules()}
    assert [path for path, _ in changed.named_modules() if path not in known] == [
        "0.stages.0.silu",
        "0.stages.0.silu_1",
        "0.stages.2.elu",
        "0.stages.2.elu_1",
        "0.gelu",
    ]
    assert type(changed.get_submodule("0.sized")) is Depends
    check_same(given, changed)


def test_optional_arguments_are_what_the_caller_gives() -> None:
    given = beside_a_swish(Optional(None))
    changed, unread = as_modules(given)
    assert unread == {}
    assert [site.at for site in sites(changed, RULES["swish_to_relu"])] == ["0.function.silu", "1.silu"]
    check_same(given, changed)
    assert "optional arguments" in as_modules(Optional(None))[1][""]


def test_what_two_modules_call_becomes_part_of_neither() -> None:
    """Its forward has optional arguments: alone it cannot be traced; as part of one caller it would be lost to both."""
    function = Optional(None)
    function.conv = nn.Conv2d(4, 4, 3, 1, 1)
    given = nn.Sequential(Calls(function), Calls(function)).eval()
    given[1].conv = nn.Conv2d(4, 4, 1)
    changed, unread = as_modules(given)
    assert list(unread) == ["0.function"]
    assert "optional arguments" in unread["0.function"]
    check_same(given, changed)


def test_the_line_is_named() -> None:
    _, unread = as_modules(Depends(None))
    line = Depends.forward.__code__.co_firstlineno + 2
    assert unread[""].startswith(f"test_functions.py, line {line}: ")


def test_dropout_modules_follow_the_mode() -> None:
    given = nn.Sequential(Calls(F.silu), nn.Dropout(0.5), nn.Conv2d(4, 2, 1)).eval()
    changed, _ = as_modules(given)
    assert torch.equal(changed(IMAGE), changed(IMAGE))
    changed.train()
    assert not torch.equal(changed(IMAGE), changed(IMAGE))


def test_one_object_at_several_places_is_told_so_and_untraceable_code_without_functions_is_not_told() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.SiLU()
            self.parts = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 1), self.act) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            found = list(x.chunk(2, 1))
            for part in self.parts:
                found.append(part(torch.cat(found[-2:], 1)).chunk(2, 1)[0])
            return torch.cat(found, 1)

    network = nn.Sequential(nn.Conv2d(3, 4, 1), Listed())
    assert as_modules(network)[1] == {}
    assert places_of(network, ["1.act"]) == 4
