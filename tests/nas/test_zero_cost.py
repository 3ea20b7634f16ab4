"""Zero-cost proxies against their formulas, worked out here without the library's code."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from compress.errors import NetworkError
from compress.nas.zero_cost import PROXIES, naswot, synflow
from compress.recipe import ZeroCost


def chain(**settings: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(**settings), nn.Conv2d(4, 2, 1, bias=False)
    )


def test_the_recipe_knows_all_proxies() -> None:
    (choice, nothing) = get_args(ZeroCost.model_fields["proxy"].annotation)
    assert get_args(choice) == tuple(PROXIES)
    assert nothing is type(None)


def test_synflow_of_a_chain() -> None:
    """Through 1x1 convolutions R = H·W · 1ᵀ|W2||W1|1, and Euler's rule gives each of the two layers R."""
    network = chain(inplace=True)
    first, last = (network[place].weight.detach().abs().double().numpy()[:, :, 0, 0] for place in (0, 3))
    flow = 5 * 7 * float(np.ones(2) @ last @ first @ np.ones(3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert synflow(network, torch.zeros(2, 3, 5, 7)) == pytest.approx(math.log(2 * flow))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_synflow_grows_with_the_width() -> None:
    torch.manual_seed(0)
    flows = [synflow(nn.Conv2d(3, width, 1, bias=False), torch.zeros(1, 3, 4, 4)) for width in (2, 8, 32)]
    assert flows == sorted(flows)


def test_naswot_counts_what_pictures_have_in_common() -> None:
    network, images = chain(inplace=True), torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    weight = network[0].weight.detach().numpy()[:, :, 0, 0]
    mixed = np.einsum("oc,bchw->bohw", weight, images.numpy())
    mean, deviation = mixed.mean((0, 2, 3), keepdims=True), mixed.std((0, 2, 3), keepdims=True)
    on = ((mixed - mean) / deviation > 0).reshape(5, -1)
    kernel = [[sum(a == b for a, b in zip(one, other, strict=True)) for other in on] for one in on]
    expected = math.log(np.linalg.det(np.array(kernel) + np.eye(5)))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert naswot(network, images) == pytest.approx(expected, rel=1e-6)
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert not network[2]._forward_pre_hooks
    assert math.isfinite(naswot(network, images[:1].repeat(3, 1, 1, 1)))  # equal codes


def test_a_network_without_a_figure_is_one_line() -> None:
    plain = nn.Conv2d(3, 2, 1, bias=False)
    with pytest.raises(NetworkError, match="has none as modules"):
        naswot(plain, torch.zeros(2, 3, 4, 4))
    nn.init.zeros_(plain.weight)
    with pytest.raises(NetworkError, match="synflow must be a positive number"):
        synflow(plain, torch.zeros(2, 3, 4, 4))
