"""Where rules apply, and what becomes of the network."""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.artefacts.artefact import load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.errors import NetworkError, RecipeError
from compress.networks.blocks import ChannelShuffle
from compress.networks.own import own_network
from compress.pruning.structured import random_weights
from compress.rewriting.rules import RULES
from compress.rewriting.sites import Rewrite, rewrite_in_place, rewritten, rule_named, sites, tied_modules
from tests.networks.small import SMALL


class Shared(nn.Module):
    """One activation, registered with two parents."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.SiLU()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 1), self.act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.block(x))  # type: ignore[no-any-return]


def one_swish_thrice() -> nn.Sequential:
    """One activation at three places of one parent."""
    swish = nn.SiLU()
    layers = (nn.Conv2d(3, 4, 3, padding=1), swish, nn.Conv2d(4, 4, 1), swish, nn.Conv2d(4, 4, 1), swish)
    return nn.Sequential(*layers)


def one_relu_twice() -> nn.Module:
    """A chain of two convolutions with their batch norms, and the same ReLU behind both."""
    relu = nn.ReLU()
    chain = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), relu, nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), relu
    )
    return nn.Sequential(chain, nn.Conv2d(5, 4, 1))


def one_shuffle_twice() -> nn.Module:
    shuffle = ChannelShuffle(2)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), shuffle, nn.Conv2d(8, 8, 1), shuffle, nn.Conv2d(8, 4, 1))


def one_chain_twice() -> nn.Module:
    """One chain with a batch norm, at two places of one parent."""
    chain = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    return nn.Sequential(nn.Conv2d(3, 4, 1), chain, nn.ReLU(), chain)


def test_every_convolution_of_the_size_is_a_site_in_the_networks_order() -> None:
    network = SMALL["mobile_openpose_7x7"].build()
    expected = ["features.0.conv", *(f"refinements.{s}.{b}.trunk.0.conv" for s in range(2) for b in range(5))]
    assert sites(network, RULES["conv_to_3x3"]) == [Rewrite("conv_to_3x3", path) for path in expected]


def test_no_site_lies_inside_another_and_the_network_itself_is_none() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    rule = RULES["fold_batch_norm"]
    assert [site.at for site in sites(chain, rule)] == ["2"]
    assert [site.at for site in sites(nn.ModuleDict({"chain": chain}), rule)] == ["chain"]
    with pytest.raises(NetworkError, match="the whole network"):
        rewritten(chain, [Rewrite(rule.name, "")])


def test_a_network_without_the_operator_has_no_site() -> None:
    assert sites(SMALL["hrnet"].build(), RULES["conv_to_3x3"]) == []


def test_an_unknown_rule_names_the_nearest() -> None:
    assert rule_named("conv_to_3x3") is RULES["conv_to_3x3"]
    with pytest.raises(RecipeError, match="did you mean 'swish_to_relu'"):
        rule_named("swish_to_relo")


def test_a_missing_module_and_one_that_does_not_match_are_named() -> None:
    network = SMALL["mobile_openpose_7x7"].build()
    with pytest.raises(NetworkError, match=r"features\.0\.konv.*did you mean 'features\.0\.conv'"):
        rewritten(network, [Rewrite("conv_to_3x3", "features.0.konv")])
    with pytest.raises(NetworkError, match=r"features\.0\.bn: the rule conv_to_3x3 does not match"):
        rewritten(network, [Rewrite("conv_to_3x3", "features.0.bn")])
    with pytest.raises(NetworkError, match="does not match"):
        rewritten(network, [Rewrite("conv_to_3x3", "features.0.conv")] * 2)


def test_a_shared_module_is_one_site_and_is_replaced_at_every_parent() -> None:
    network = Shared()
    found = sites(network, RULES["swish_to_relu"])
    assert [site.at for site in found] == ["act"]
    new = rewritten(network, found)
    assert isinstance(new.get_submodule("act"), nn.ReLU)
    assert new.get_submodule("act") is new.get_submodule("block.1")
    assert isinstance(network.act, nn.SiLU)


def test_a_module_used_again_in_one_parent_is_one_site_and_is_replaced_everywhere() -> None:
    network = one_swish_thrice()
    found = sites(network, RULES["swish_to_relu"])
    assert [site.at for site in found] == ["1"]
    new = rewritten(network, found)
    assert isinstance(new[1], nn.ReLU)
    assert new[1] is new[3] is new[5]
    assert new[0] is not new[2]
    again = rewritten(network, [Rewrite("swish_to_relu", "3")])  # by another of its places
    assert [type(layer) for layer in again] == [type(layer) for layer in new]
    rewrite_in_place(network, found)
    assert [type(layer) for layer in network] == [type(layer) for layer in new]


@pytest.mark.parametrize(
    ("rule", "make", "at"),
    [
        ("fold_batch_norm", "one_relu_twice", "network.0"),
        ("fold_batch_norm", "one_chain_twice", "network.1"),
        ("shuffle_to_pointwise", "one_shuffle_twice", "network.1"),
    ],
)
def test_exact_rules_are_exact_where_a_module_is_used_again(rule: str, make: str, at: str, tmp_path: Path) -> None:
    architecture = own_network(f"{__name__}:{make}")
    network = random_weights(architecture.build())
    found = sites(network, RULES[rule])
    assert found == [Rewrite(rule, at)]
    new = rewritten(network, found)
    assert sites(new, RULES[rule]) == []
    save_artefact(tmp_path, architecture, new, Metadata((64, 64)), found)
    image = torch.randn(2, 3, 16, 20)
    with torch.no_grad():
        (expected,), (after,), (loaded,) = (one(image) for one in (network, new, load_artefact(tmp_path).module))
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(loaded, after)


def test_without_carrying_weights_are_fresh_and_in_place_the_network_changes() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=2, dilation=2))
    site = Rewrite("dilated_to_3x3", "0")
    given = network[0].weight.clone()
    carried, fresh = rewritten(network, [site]), rewritten(network, [site], carry=False)
    assert torch.equal(carried.get_parameter("0.weight"), given)
    assert not torch.equal(fresh.get_parameter("0.weight"), given)
    assert network[0].dilation == (2, 2)
    rewrite_in_place(network, [site])
    assert network[0].dilation == (1, 1)


def test_rewrites_may_follow_one_another() -> None:
    network = SMALL["mobile_openpose_7x7"].build().eval()
    first = Rewrite("conv_to_3x3", "features.0.conv")
    inside = Rewrite("fold_batch_norm", "features.0.conv.0")
    new = rewritten(network, [first, inside])
    assert isinstance(new.get_submodule("features.0.conv.0.bn"), nn.Identity)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(new(image), rewritten(network, [first])(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def tied_convolutions() -> nn.Module:
    """Three convolutions, two of which share a weight; two blocks, which share a module; one module at two places."""
    network = nn.Module()
    network.one, network.twin, network.other = (nn.Conv2d(8, 8, 7, padding=3) for _ in range(3))
    network.twin.weight = network.one.weight
    part = nn.Conv2d(8, 8, 7, padding=3)
    network.left, network.right = nn.Sequential(part, nn.ReLU()), nn.Sequential(part, nn.Sigmoid())
    return network


def test_a_module_that_shares_a_parameter_with_another_is_no_site() -> None:
    network = tied_convolutions()
    assert [site.at for site in sites(network, RULES["conv_to_3x3"])] == ["other", "left.0"]
    assert tied_modules(network) == {"one": "twin", "twin": "one", "left": "right.0", "right": "left.0"}
    replaced = rewritten(network, [Rewrite("conv_to_3x3", "left.0")])
    assert replaced.left[0] is replaced.right[0]
    assert tied_modules(rewritten(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), [])) == {}


@pytest.mark.parametrize("seed", range(20))
def test_no_rewrite_unties_parameters(seed: int) -> None:
    """Random ties between convolutions; every site is replaced, and those that were tied still are."""
    rng = random.Random(seed)
    network = nn.Sequential(*(nn.Conv2d(8, 8, k, padding=k // 2) for k in rng.choices([5, 7], k=6)))
    for one, other in (rng.sample(range(6), 2) for _ in range(3)):
        if network[one].weight.shape == network[other].weight.shape:
            network[one].weight = network[other].weight
    groups: dict[int, set[int]] = {}
    for number, conv in enumerate(network):
        groups.setdefault(id(conv.weight), set()).add(number)
    alone = {str(min(group)) for group in groups.values() if len(group) == 1}
    found = sites(network, RULES["conv_to_3x3"])
    assert {site.at for site in found} == alone
    replaced = rewritten(network, found)
    for group in groups.values():
        if len(group) > 1:
            assert len({id(replaced[number].weight) for number in group}) == 1
