"""What every rule must do: one file over RULES × networks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.artefacts.artefact import CHANNELS_PRUNED, Edit, load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.engines import ENGINES, check_parity
from compress.networks import Architecture
from compress.networks.own import own_network
from compress.pruning.structured import prunable_channels, random_weights, without_channels
from compress.rewriting.rules import RULES
from compress.rewriting.sites import Rewrite, rewrite_in_place, rewritten, sites
from tests.networks.small import SMALL
from tests.rewriting.zoo import ZOO

HW = (64, 64)

PRUNED = ("conv_to_3x3", "residual_to_dir", "remove_block", "se_to_hard_sigmoid", "shuffle_to_pointwise")
"""Rules that are tried on a pruned network of the zoo, too."""


def sited(rule: str, name: str) -> tuple[Architecture, nn.Module, list[Rewrite]]:
    """An architecture, its network with weights that all have an effect, and the first and last site of the rule."""
    architecture = SMALL[name] if name in SMALL else own_network("tests.rewriting.zoo:every_rule")
    network = random_weights(architecture.build())
    found = sites(network, RULES[rule])
    return architecture, network, list(dict.fromkeys((found[0], found[-1])))


def maps(network: nn.Module, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        outputs = network(image)
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def pruned(network: nn.Module) -> nn.Module:
    """Without half of all channels that can go."""
    channels = prunable_channels(network, HW)
    return without_channels(
        network, channels, channels.allowed(c for group in channels.groups() for c in group.members[1::2])
    )


def assert_rebuilds(architecture: Architecture, network: nn.Module, edits: list[Edit], folder: Path) -> None:
    save_artefact(folder, architecture, network, Metadata((64, 64)), edits)
    loaded = load_artefact(folder)
    image = torch.randn(1, 3, *HW)
    assert loaded.edits == tuple(edits)
    for a, b in zip(maps(network.eval(), image), maps(loaded.module, image), strict=True):
        assert torch.equal(a, b)


def test_every_rule_has_a_site_in_the_zoo() -> None:
    assert set(ZOO) == set(RULES) - {"gelu_to_relu"}


@pytest.mark.parametrize(("rule", "name"), [*((rule, "own") for rule in RULES), *ZOO.items()])
def test_rewritten_networks_run_and_rebuild(rule: str, name: str, tmp_path: Path) -> None:
    architecture, network, rewrites = sited(rule, name)
    image = torch.randn(1, 3, *HW)
    before, state = maps(network, image), {key: value.clone() for key, value in network.state_dict().items()}
    new = rewritten(network, rewrites)
    assert all(torch.equal(a, b) for a, b in zip(before, maps(network, image), strict=True))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())
    after = maps(new, image)
    assert [x.shape for x in after] == [x.shape for x in before]
    assert all(bool(x.isfinite().all()) for x in after)
    if RULES[rule].exact:
        for a, b in zip(after, before, strict=True):
            assert float((a - b).abs().max() / b.abs().max()) <= 1e-5
    assert_rebuilds(architecture, new, [*rewrites], tmp_path)
    shadow = network.to("meta")
    rewrite_in_place(shadow, rewrites)
    assert {k: v.shape for k, v in shadow.state_dict().items()} == {k: v.shape for k, v in new.state_dict().items()}
    assert all(tensor.is_meta for tensor in shadow.state_dict().values())


@pytest.mark.parametrize("rule", RULES)
def test_engines_give_a_rewritten_networks_outputs(rule: str, tmp_path: Path) -> None:
    _, network, rewrites = sited(rule, "own")
    new = rewritten(network, rewrites)
    path, *_ = ENGINES["onnxruntime"].export(new, HW, tmp_path, "model")
    images = np.random.default_rng(0).normal(size=(1, 1, 3, *HW)).astype(np.float32)
    assert check_parity(new, ENGINES["onnxruntime"].load(path), images, 1e-4) <= 1e-4


@pytest.mark.parametrize(
    ("rule", "name"), [*((rule, "own") for rule in RULES), *((rule, ZOO[rule]) for rule in PRUNED)]
)
def test_rewriting_and_pruning_go_together(rule: str, name: str, tmp_path: Path) -> None:
    architecture, network, rewrites = sited(rule, name)
    assert_rebuilds(architecture, pruned(rewritten(network, rewrites)), [*rewrites, CHANNELS_PRUNED], tmp_path / "a")
    small = pruned(network)
    assert_rebuilds(architecture, rewritten(small, rewrites), [CHANNELS_PRUNED, *rewrites], tmp_path / "b")
