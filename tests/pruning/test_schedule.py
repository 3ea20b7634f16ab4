"""Schedules on problems whose solutions are known in closed form."""

import math

import pytest
import torch
from torch import Tensor, nn

from compress.errors import NetworkError, RecipeError
from compress.pruning.schedule import Admm, ReweightedGroupLasso, cubic_ratio
from compress.pruning.sparsity import Block, NOfM, Unstructured, masks


def layer_of(weight_oi: Tensor) -> nn.Conv2d:
    layer = nn.Conv2d(weight_oi.shape[1], weight_oi.shape[0], 1, bias=False)
    layer.weight.data.copy_(weight_oi[:, :, None, None])
    return layer


def test_cubic_ratio_by_hand() -> None:
    ratios = [cubic_ratio(step, 0.8, begin=10, end=30, initial=0.4) for step in (0, 10, 15, 20, 30, 99)]
    # 0.8 - 0.4 · (1 - done)³ with done = 0, 0, 1/4, 1/2, 1, 1
    assert ratios == pytest.approx([0.4, 0.4, 0.8 - 0.4 * 27 / 64, 0.75, 0.8, 0.8])
    with pytest.raises(RecipeError, match="must begin before it ends"):
        cubic_ratio(0, 0.5, begin=3, end=3)


def test_admm_by_its_formulas() -> None:
    """Two rounds on given numbers: Z = largest two of W + U, U = U + W - Z, penalty rho/2 Σ (W - Z + U)²."""
    layer = layer_of(torch.tensor([[1.0, -3.0, 2.0, 0.5]]))
    admm = Admm(layer, Unstructured(), {"weight": 0.5}, rho=0.1)
    assert admm.penalty().item() == pytest.approx(0.05 * (1 + 0.25))  # Z = (0, -3, 2, 0), U = 0
    admm.update()  # U = (1, 0, 0, 0.5)
    assert admm.penalty().item() == pytest.approx(0.05 * (4 + 1))
    admm.update()  # W + U = (2, -3, 2, 1): the first of equals stays, Z = (2, -3, 0, 0), U = (0, 0, 2, 1)
    assert admm.get_buffer("z0").flatten().tolist() == [2, -3, 0, 0]
    assert admm.get_buffer("u0").flatten().tolist() == [0, 0, 2, 1]
    assert admm.distances()["weight"] == pytest.approx(math.sqrt(1 + 4 + 0.25) / math.sqrt(1 + 9 + 4 + 0.25))
    admm.penalty().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.flatten().tolist() == pytest.approx([0.1 * (1 - 2), 0, 0.1 * (2 - 0 + 2), 0.1 * 1.5])


@pytest.mark.parametrize("scheme", [Unstructured(), NOfM(4), Block(4)], ids=lambda scheme: type(scheme).__name__)
def test_admm_finds_the_nearest_allowed_weights(scheme: Unstructured | NOfM | Block) -> None:
    """min ½‖W - A‖² over weights that obey the scheme is A's projection; every W-step is solved by gradient descent."""
    target = torch.randn(8, 8, 1, 1)
    layer = layer_of(torch.zeros(8, 8))
    layer.weight.data.copy_(target)
    admm = Admm(layer, scheme, {"weight": 0.75}, rho=2.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1 / 3)  # 1 / (1 + rho): the exact minimum in one step
    first = admm.distances()["weight"]
    for _ in range(60):
        optimizer.zero_grad()
        ((layer.weight - target).square().sum() / 2 + admm.penalty()).backward()
        optimizer.step()
        admm.update()
    assert first > 0.1
    assert admm.distances()["weight"] < 1e-4
    expected = target * masks(layer_of(target[:, :, 0, 0]), scheme, {"weight": 0.75})["weight"]
    torch.testing.assert_close(layer.weight.detach(), expected, atol=1e-4, rtol=0)


def test_admm_improves_on_one_shot_where_weights_depend_on_each_other() -> None:
    """min ½(W - A)ᵀ H (W - A), one weight of two may stay: masking A at once is not the best one can do.

    With A = (1, 0.9, 0, 0), H = [[1, c], [c, 1]] and the second weight removed, the first is best at 1 + 0.9 c.
    """
    c = 0.5
    hessian, target = torch.eye(4), torch.tensor([1.0, 0.9, 0.0, 0.0])
    hessian[0, 1] = hessian[1, 0] = c
    layer = layer_of(target[None])
    admm = Admm(layer, Unstructured(), {"weight": 0.75}, rho=1.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3)
    for _ in range(200):
        for _ in range(5):
            optimizer.zero_grad()
            gap = layer.weight.flatten() - target
            (gap @ hessian @ gap / 2 + admm.penalty()).backward()
            optimizer.step()
        admm.update()
    assert layer.weight.flatten().tolist() == pytest.approx([1 + 0.9 * c, 0.0, 0.0, 0.0], abs=1e-3)


def test_group_lasso_thresholds_groups() -> None:
    """min ½‖W - A‖² + s Σ ‖W_g‖: each group of A is shortened by s if it is longer."""
    target = torch.randn(8, 5) + 2
    layer = layer_of(target)
    lasso = ReweightedGroupLasso(layer, Block(4), ["weight"], strength=0.7, epsilon=0.1)
    minimise(layer, lasso, target)
    groups = target.reshape(2, 4, 5).transpose(1, 2)  # [block, input, 4]
    expected = groups * (1 - 0.7 / groups.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(layer.weight[:, :, 0, 0], expected.transpose(1, 2).reshape(8, 5), atol=1e-4, rtol=0)


def test_reweighted_lasso_spares_the_large_and_ends_the_small() -> None:
    """Single weights: the fixed point of w = a - s / (w + e) is ((a - e) + √((a + e)² - 4 s)) / 2; else zero."""
    strength, epsilon, target = 0.5, 0.1, torch.tensor([[3.0, 2.0, 0.4, 0.0]])
    layer = layer_of(target)
    lasso = ReweightedGroupLasso(layer, Unstructured(), ["weight"], strength, epsilon)
    for _ in range(30):
        lasso.reweigh()
        minimise(layer, lasso, target, steps=100)
    expected = [((a - epsilon) + math.sqrt((a + epsilon) ** 2 - 4 * strength)) / 2 for a in (3.0, 2.0)]
    found = layer.weight.flatten().tolist()
    assert found[:2] == pytest.approx(expected, abs=1e-3)
    assert abs(found[2]) < 0.05 * strength / epsilon  # gradient descent jumps around the corner by a step of its length


def test_a_group_of_zeros_has_no_gradient() -> None:
    layer = layer_of(torch.zeros(4, 4))
    lasso = ReweightedGroupLasso(layer, Block(4), ["weight"], strength=1.0, epsilon=0.1)
    lasso.reweigh()
    lasso.penalty().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().max() == 0


def test_transposed_convolutions_have_their_filters_second() -> None:
    """The penalties and projections of a transposed convolution are those of the ordinary one."""
    transposed, ordinary = nn.ConvTranspose2d(8, 4, 3), nn.Conv2d(8, 4, 3)
    ordinary.weight.data.copy_(transposed.weight.transpose(0, 1))
    for penalty in (
        lambda layer: Admm(layer, Block(4), {"weight": 0.75}, rho=1.0).penalty().item(),
        lambda layer: ReweightedGroupLasso(layer, Block(4), ["weight"], 1.0, 0.1).penalty().item(),
    ):
        assert penalty(transposed) == pytest.approx(penalty(ordinary), rel=1e-6)


def test_state_goes_through_a_checkpoint_and_weights_are_not_owned() -> None:
    layer = layer_of(torch.randn(4, 4))
    admm = Admm(layer, Block(4), {"weight": 0.5}, rho=1.0)
    lasso = ReweightedGroupLasso(layer, Block(4), ["weight"], strength=1.0, epsilon=0.1)
    both = nn.ModuleDict({"admm": admm, "lasso": lasso})
    assert list(both.parameters()) == []
    layer.weight.data.mul_(2)
    admm.update()
    lasso.reweigh()
    again = nn.ModuleDict(
        {
            "admm": Admm(layer, Block(4), {"weight": 0.5}, rho=1.0),
            "lasso": ReweightedGroupLasso(layer, Block(4), ["weight"], strength=1.0, epsilon=0.1),
        }
    )
    again.load_state_dict(both.state_dict())
    for old, new in zip(both.children(), again.children(), strict=True):
        assert old.penalty().item() == new.penalty().item()  # type: ignore[operator]
    assert {name for name, _ in both.named_buffers()} == {"admm.z0", "admm.u0", "lasso.a0"}


def test_wrong_settings() -> None:
    layer = layer_of(torch.randn(4, 4))
    with pytest.raises(RecipeError, match="rho must be above 0"):
        Admm(layer, Block(4), {"weight": 0.5}, rho=0)
    with pytest.raises(RecipeError, match="strength and epsilon"):
        ReweightedGroupLasso(layer, Block(4), ["weight"], strength=1.0, epsilon=0)
    with pytest.raises(NetworkError, match="no such weight"):
        ReweightedGroupLasso(layer, Block(4), ["wait"], strength=1.0, epsilon=0.1)


def minimise(layer: nn.Conv2d, lasso: ReweightedGroupLasso, target_oi: Tensor, steps: int = 600) -> None:
    """Gradient descent on ½‖W - A‖² and the penalty."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        ((layer.weight[:, :, 0, 0] - target_oi).square().sum() / 2 + lasso.penalty()).backward()
        optimizer.step()
