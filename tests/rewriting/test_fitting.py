import copy
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.errors import DataError, NetworkError
from compress.rewriting.fitting import Fitted, Seen, fit, record
from compress.rewriting.rule import Rule
from compress.training.recalibration import recalibrate


def nothing(given: nn.Module, replacement: nn.Module) -> None:
    """Carries nothing over."""


def rule(
    build: Callable[[nn.Module], nn.Module],
    carry: Callable[[nn.Module, nn.Module], None] = nothing,
    *,
    exact: bool = False,
) -> Rule:
    return Rule("fake", "does", "source", exact, lambda module: True, build, carry)


def fresh(given: nn.Module) -> nn.Module:
    """The same layers with weights of their own."""
    made = copy.deepcopy(given)
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            layer.reset_parameters()
    return made


def answered(given: nn.Module, inputs: Tensor) -> Seen:
    with torch.no_grad():
        return Seen(inputs, given.eval()(inputs.clone()))


class Shortcut(nn.Module):
    """x + bn(conv(x)), the batch norm with statistics and weights unlike fresh ones."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=bias)
        self.bn = nn.BatchNorm2d(4)
        for tensor in (self.bn.weight, self.bn.running_var):
            nn.init.uniform_(tensor, 0.5, 2.0)  # type: ignore[arg-type]
        for tensor in (self.bn.bias, self.bn.running_mean):
            nn.init.normal_(tensor)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn(self.conv(x))  # type: ignore[no-any-return]


# --- Least squares ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        nn.Conv2d(6, 4, 1),
        nn.Conv2d(6, 4, 3, padding=1, bias=False),
        nn.Conv2d(6, 4, (3, 1), stride=2, padding=(2, 0), dilation=(2, 1)),
        nn.Conv2d(6, 9, 3, padding="same", groups=3),
        nn.Conv2d(6, 6, 5, padding=2, groups=6),
        nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"),
    ],
    ids=["1x1", "3x3", "strided and dilated", "groups", "depthwise", "reflected"],
)
def test_least_squares_finds_the_convolution_that_made_the_outputs(given: nn.Conv2d) -> None:
    seen = answered(given, torch.randn(8, 6, 13, 11))
    found, fitted = fit(rule(fresh), given, seen, steps=0, seed=1)
    assert fitted.random > 0.5
    assert fitted.carried == fitted.reconstructed < 1e-9
    for name, weight in given.named_parameters():
        torch.testing.assert_close(found.get_parameter(name), weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bias", [True, False])
def test_least_squares_sees_through_batch_norm_and_shortcut(bias: bool) -> None:
    given = Shortcut(bias)
    _, fitted = fit(rule(fresh), given, answered(given, torch.randn(8, 4, 12, 12)), steps=0, seed=1)
    assert fitted.random > 0.1
    assert fitted.carried < 1e-9


@pytest.mark.parametrize("start", ["zero", "fresh"])
def test_least_squares_sees_through_the_relu_that_ends_a_block(start: str) -> None:
    given = nn.Sequential(Shortcut(bias=False), nn.ReLU(inplace=True))

    def build(module: nn.Module) -> nn.Module:
        made = fresh(module)
        if start == "zero":
            nn.init.zeros_(made.get_parameter("0.conv.weight"))
        return made

    seen = answered(given, torch.randn(8, 4, 12, 12))
    _, fitted = fit(rule(build), given, seen, steps=0, seed=1)
    assert 0.1 < float((seen.outputs > 0).double().mean()) < 0.9
    assert fitted.carried < 0.05 * fitted.random


def test_least_squares_leaves_what_is_not_linear_behind_the_convolution() -> None:
    given = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid())
    seen = answered(given, torch.randn(8, 4, 12, 12))
    found, fitted = fit(rule(fresh), given, seen, steps=0, seed=1)
    assert fitted.carried == fitted.random
    torch.manual_seed(1)
    torch.testing.assert_close(found[0].weight, fresh(given)[0].weight)  # type: ignore[index]


def test_problems_too_large_are_left() -> None:
    given = nn.Conv2d(2400, 1, 1)
    _, fitted = fit(rule(fresh), given, answered(given, torch.randn(4, 2400, 2, 2)), steps=0, seed=1)
    assert fitted.carried == fitted.random


def test_least_squares_leaves_channels_that_the_output_does_not_follow() -> None:
    given = Shortcut(bias=True)
    with torch.no_grad():
        given.bn.weight[0] = 0.0
    _, fitted = fit(rule(copy.deepcopy), given, answered(given, torch.randn(8, 4, 12, 12)), steps=0, seed=1)
    assert fitted.carried < 1e-9


# --- Reconstruction --------------------------------------------------------------------------------------------------


def stack_of(given: nn.Module) -> nn.Module:
    return nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(3)))


def test_a_7x7_that_is_three_3x3_is_found_again() -> None:
    def kernel() -> Tensor:
        return torch.randn(4, 4, 3, 3) / 6

    def after(outer: Tensor, inner: Tensor) -> Tensor:  # kernel of applying inner, then outer
        size = outer.shape[-1] - 1
        return F.conv2d(inner.transpose(0, 1), outer.flip(2, 3), padding=size).transpose(0, 1)

    parts = [kernel() for _ in range(3)]
    given = nn.Conv2d(4, 4, 7, padding=3, bias=False)
    with torch.no_grad():
        given.weight.copy_(after(parts[2], after(parts[1], parts[0])))
        x = torch.randn(1, 4, 16, 16)
        applied = F.conv2d(F.conv2d(F.conv2d(x, parts[0]), parts[1]), parts[2])
        torch.testing.assert_close(given(x)[..., 3:-3, 3:-3], applied, rtol=1e-4, atol=1e-5)
    _, fitted = fit(rule(stack_of), given, answered(given, torch.randn(24, 4, 16, 16)), steps=250, seed=1)
    assert fitted.random > 0.9
    assert fitted.carried < fitted.random
    assert fitted.reconstructed < 0.3 * fitted.carried


def test_what_is_carried_well_never_gets_worse() -> None:
    given = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU())
    same = rule(fresh, lambda old, new: new.load_state_dict(old.state_dict()) and None)
    _, fitted = fit(same, given, answered(given, torch.randn(8, 4, 12, 12)), steps=10, seed=1)
    assert fitted == Fitted(fitted.random, 0.0, 0.0)


def test_recalibration_changes_nothing_after_a_fit() -> None:
    given = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.Hardswish(), nn.Conv2d(8, 4, 1))

    def build(module: nn.Module) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 4, 1, bias=False),
            nn.BatchNorm2d(4),
        )

    seen = answered(given, 3 + torch.randn(16, 4, 12, 12))
    found, fitted = fit(rule(build), given, seen, steps=60, seed=1)
    assert fitted.reconstructed < fitted.carried < fitted.random
    assert not found.training
    before = found(seen.inputs)
    recalibrate(found, [seen.inputs[:12]])  # those that were learned from
    torch.testing.assert_close(found(seen.inputs), before, rtol=1e-3, atol=1e-3)


def test_the_same_seed_gives_the_same_replacement_and_leaves_the_random_state() -> None:
    given = nn.Conv2d(4, 4, 7, padding=3)
    seen = answered(given, torch.randn(8, 4, 12, 12))
    state = torch.get_rng_state()
    found, again, other = (fit(rule(stack_of), given, seen, steps=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert found[1] == again[1] != other[1]
    for name, weight in found[0].state_dict().items():
        assert torch.equal(weight, again[0].state_dict()[name])
    assert all(parameter.grad is None for parameter in found[0].parameters())


def test_the_given_module_and_what_was_seen_stay_as_they_were() -> None:
    given = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    seen = answered(given, torch.randn(8, 4, 12, 12))
    given.train()
    kept, pictures = copy.deepcopy(given.state_dict()), seen.inputs.clone()
    fit(rule(fresh), given, seen, steps=3, seed=1)
    assert given.training
    assert all(torch.equal(value, kept[name]) for name, value in given.state_dict().items())
    assert all(parameter.grad is None for parameter in given.parameters())
    assert torch.equal(seen.inputs, pictures)


def test_exact_rules_are_not_fitted() -> None:
    given = nn.Conv2d(4, 4, 1)
    copied = rule(fresh, lambda old, new: new.load_state_dict(old.state_dict()) and None, exact=True)
    found, fitted = fit(copied, given, answered(given, torch.randn(4, 4, 8, 8)), steps=5, seed=1)
    assert max(fitted.carried, fitted.reconstructed) < 1e-12  # a batch of another size may be summed otherwise
    assert torch.equal(found.get_parameter("weight"), given.weight)


# --- The error -------------------------------------------------------------------------------------------------------


def test_the_error_is_the_mean_square_over_the_variance_on_the_last_quarter() -> None:
    given = nn.SiLU()
    seen = answered(given, torch.randn(8, 3, 5, 6) + torch.tensor([0.0, 1.0, 5.0])[:, None, None])
    _, fitted = fit(rule(lambda module: nn.Hardswish()), given, seen, steps=5, seed=1)
    x = seen.inputs[6:].double()
    wanted = x / (1 + torch.exp(-x))
    squares = (x * (x + 3).clamp(0, 6) / 6 - wanted).square().mean()
    variance = torch.stack([(wanted[:, c] - wanted[:, c].mean()).square().mean() for c in range(3)]).mean()
    expected = float(squares / variance)
    assert fitted.random == fitted.carried == fitted.reconstructed == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("constant", "scale"), [(2.0, 4.0), (0.0, 1.0)])
def test_constant_outputs_are_compared_with_their_mean_square(constant: float, scale: float) -> None:
    seen = Seen(torch.randn(4, 3, 5, 5), torch.full((4, 3, 5, 5), constant))
    _, fitted = fit(rule(lambda module: nn.Identity()), nn.Identity(), seen, steps=0, seed=1)
    expected = float((seen.inputs[3:] - constant).square().mean()) / scale
    assert fitted.carried == pytest.approx(expected, rel=1e-5)


def test_a_convolution_learns_constant_outputs() -> None:
    given = nn.Conv2d(3, 2, 1)
    nn.init.zeros_(given.weight)
    _, fitted = fit(rule(fresh), given, answered(given, torch.randn(4, 3, 8, 8)), steps=5, seed=1)
    assert math.isfinite(fitted.random)
    assert fitted.carried < 1e-9


# --- Listening -------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.second = nn.Conv2d(4, 2, 1)
        self.idle = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.bn(self.first(x))))  # type: ignore[no-any-return]


def test_listening_gives_what_modules_see_and_leaves_the_network() -> None:
    network = Net().train()
    kept = copy.deepcopy(network.state_dict())
    pictures = torch.randn(7, 3, 6, 6)
    seen = record(network, ["first", "act"], pictures.split(2), limit=5)
    assert network.training
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert not network.first._forward_hooks
    assert list(seen) == ["first", "act"]
    with torch.no_grad():
        network.eval()
        first = network.first(pictures[:5])
        normed = network.bn(first)
    assert torch.equal(seen["first"].inputs, pictures[:5])
    torch.testing.assert_close(seen["first"].outputs, first)
    torch.testing.assert_close(seen["act"].inputs, normed)
    torch.testing.assert_close(seen["act"].outputs, normed.clamp(0))


def test_a_chain_makes_up_for_what_the_first_replacement_lost() -> None:
    network = Net().eval()
    pictures = torch.randn(16, 3, 12, 12)
    given = record(network, ["act", "second"], [pictures], limit=16)
    changed = copy.deepcopy(network)
    changed.act = nn.Hardtanh(0, 0.3)  # type: ignore[assignment]
    inputs = record(changed, ["second"], [pictures], limit=16)["second"].inputs
    same = rule(copy.deepcopy)
    _, alone = fit(same, network.second, given["second"], steps=0, seed=1)
    _, behind = fit(same, network.second, Seen(inputs, given["second"].outputs), steps=0, seed=1)
    assert alone.carried < 1e-9
    assert behind.carried < behind.random  # random: the given weights on changed inputs


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Odd(nn.Module):
    """Modules that cannot be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.add, self.split, self.named, self.idle, self.sizes = (
            TwoInputs(),
            TwoOutputs(),
            nn.ReLU(),
            nn.ReLU(),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.split(x)
        self.sizes(x[..., 1:])
        return self.add(self.sizes(left), self.named(input=right))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("add", "reads Tensor, Tensor"),
        ("split", "gives tuple"),
        ("named", "reads 1 by name"),
        ("idle", "never runs"),
        ("sizes", "runs with 2 sizes"),
        ("ad", "did you mean 'add'"),
    ],
)
def test_modules_that_cannot_be_replaced_are_named(path: str, said: str) -> None:
    with pytest.raises(NetworkError, match=said) as caught:
        record(Odd(), [path], [torch.randn(2, 3, 4, 4)], limit=2)
    assert caught.value.place == path


# --- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (4, 3)])
def test_fitting_takes_pairs_and_at_least_two(inputs: int, outputs: int) -> None:
    seen = Seen(torch.zeros(inputs, 1, 2, 2), torch.zeros(outputs, 1, 2, 2))
    with pytest.raises(DataError, match=f"{inputs} inputs, {outputs} outputs"):
        fit(rule(copy.deepcopy), nn.ReLU(), seen, steps=0, seed=1)


def test_a_replacement_of_another_shape_is_refused() -> None:
    seen = Seen(torch.zeros(4, 3, 4, 4), torch.zeros(4, 3, 2, 2))
    with pytest.raises(NetworkError, match=r"rule fake: .*\(3, 2, 2\) \(found \(3, 4, 4\)\)"):
        fit(rule(copy.deepcopy), nn.ReLU(), seen, steps=0, seed=1)


def test_a_replacement_of_outputs_that_are_not_finite_is_refused() -> None:
    seen = Seen(torch.ones(4, 3, 4, 4), torch.ones(4, 3, 4, 4))
    with pytest.raises(NetworkError, match="rule fake: a replacement must give finite outputs"):
        fit(rule(lambda module: nn.Threshold(2.0, math.nan)), nn.ReLU(), seen, steps=0, seed=1)


def test_activations_that_are_not_finite_are_refused() -> None:
    seen = Seen(torch.full((4, 3, 4, 4), math.inf), torch.zeros(4, 3, 4, 4))
    with pytest.raises(NetworkError, match="must be finite"):
        fit(rule(copy.deepcopy), nn.ReLU(), seen, steps=0, seed=1)
