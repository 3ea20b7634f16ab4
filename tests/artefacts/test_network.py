"""One way to every network, with the same input size and errors; and what tells two networks apart."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from compress.artefacts.artefact import CHANNELS_PRUNED, load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.artefacts.network import learning_of, network_digest, open_network
from compress.errors import ArtefactError, DataError, NetworkError
from compress.networks import NETWORKS, architecture_to_data
from compress.networks.mobile_openpose import MobileOpenPose
from compress.networks.own import PythonNetwork
from compress.networks.published import PUBLISHED
from compress.recipe import DEFAULT_HW, Data, PruneRecipe
from compress.rewriting.sites import Rewrite

RECORD = MobileOpenPose(blocks=(1, 1), width=4, features=8)
OWN = PythonNetwork("own:network", "top-down", 17, 4, (4,))


class Plain(nn.Module):
    """A stranger's module; it names no input size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 17, 3, stride=4, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(images)
        return out


def plain() -> nn.Module:
    return Plain()


def sized() -> nn.Module:
    module = Plain()
    module.input_hw = (96, 64)  # type: ignore[assignment]
    return module


def built(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return RECORD.build()


def test_the_digest_is_of_record_edits_and_weights() -> None:
    one = network_digest(RECORD, built(0), trained=True)
    assert one == network_digest(RECORD, built(0), trained=True)
    others = [
        network_digest(RECORD, built(1), trained=True),
        network_digest(replace(RECORD, refinements=RECORD.refinements + 1), built(0), trained=True),
        network_digest(RECORD, built(0), (CHANNELS_PRUNED,), trained=True),
        network_digest(RECORD, built(0), (Rewrite("conv_to_3x3", "features"),), trained=True),
        network_digest(RECORD, built(0), (Rewrite("conv_to_3x3", "refinements"),), trained=True),
    ]
    assert len({one, *others}) == 6
    nudged = built(0)
    with torch.no_grad():
        next(nudged.buffers()).add_(1e-3)  # a batch norm's statistics
    assert network_digest(RECORD, nudged, trained=True) != one


def test_fresh_weights_of_a_known_network_do_not_count_and_own_ones_do() -> None:
    assert network_digest(RECORD, built(0), trained=False) == network_digest(RECORD, built(1), trained=False)
    assert network_digest(OWN, built(0), trained=False) != network_digest(OWN, built(1), trained=False)


def test_tensors_of_every_kind_count() -> None:
    class Odd(nn.Module):
        def __init__(self, last: float) -> None:
            super().__init__()
            self.register_buffer("scalar", torch.tensor(3))
            self.register_buffer("flags", torch.tensor([True, False]))
            self.register_buffer("halves", torch.tensor([[1.0, 2.0], [3.0, last]], dtype=torch.bfloat16).T)
            self.register_buffer("none", torch.empty(0))

    assert network_digest(OWN, Odd(4), trained=True) == network_digest(OWN, Odd(4), trained=True)
    assert network_digest(OWN, Odd(4), trained=True) != network_digest(OWN, Odd(5), trained=True)


def test_a_network_by_name_is_its_record() -> None:
    opened = open_network("mobilenet_v2", (128, 128))
    assert opened.digest == network_digest(opened.architecture, nn.Identity(), trained=False)


@pytest.mark.parametrize(
    ("named", "input_hw"),
    [
        ("hrnet_w32", (256, 192)),  # its paper's first
        ("openpose", (368, 368)),
        (f"{__name__}:sized", (96, 64)),  # it says so
        (f"{__name__}:plain", DEFAULT_HW),  # nobody says
        ("record.yaml", DEFAULT_HW),
        ("known.yaml", (256, 192)),  # the record of a known network
        ("artefact", (64, 32)),
    ],
)
def test_the_input_size_is_the_users_else_the_networks_else_the_papers(
    named: str, input_hw: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("record.yaml").write_text(yaml.safe_dump(architecture_to_data(RECORD)))
    Path("known.yaml").write_text(yaml.safe_dump(architecture_to_data(NETWORKS["lite_hrnet_18"])))
    save_artefact(Path("artefact"), RECORD, built(0), Metadata((64, 32), data=Data()))
    opened = open_network(named, weights=False)
    assert opened.input_hw == input_hw
    assert opened.overridden().input_hw == input_hw
    assert opened.overridden(input_hw=(128, 96)).input_hw == (128, 96)
    assert open_network(named, (128, 96), weights=False).input_hw == (128, 96)
    with pytest.raises(NetworkError, match="positive multiples of"):
        open_network(named, (30, 30), weights=False)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_known_network_takes_its_published_size_and_the_default(name: str) -> None:
    opened = open_network(name, weights=False)
    assert opened.input_hw == next(row.input_hw for row in PUBLISHED if row.network == name and row.input_hw)
    assert open_network(name, DEFAULT_HW, weights=False).input_hw == DEFAULT_HW
    if not hasattr(opened.architecture, "input_hw"):  # else it has been built for one size
        assert opened.overridden(input_hw=DEFAULT_HW).input_hw == DEFAULT_HW
    assert not opened.trained


def test_whose_weights_have_learned_something(tmp_path: Path) -> None:
    save_artefact(tmp_path / "trained", RECORD, built(0), Metadata((64, 64), data=Data()))
    save_artefact(tmp_path / "untrained", RECORD, built(0), Metadata((64, 64), provenance="pruned"), (CHANNELS_PRUNED,))
    found = {name: open_network(tmp_path / name) for name in ("trained", "untrained")}
    assert [one.trained for one in found.values()] == [True, False]
    assert open_network(f"{__name__}:plain").trained
    recipe = PruneRecipe(data=Data(), input_hw=(64, 64))
    with pytest.raises(DataError, match="random weights"):
        learning_of(found["untrained"], recipe, 2)
    assert learning_of(found["untrained"], PruneRecipe(), 2) is None
    assert learning_of(open_network(f"{__name__}:plain"), PruneRecipe(), 2) is None
    # An untrained artefact's weights are no longer those of its seed.
    other = replace(found["untrained"], module=built(1))
    assert other.digest != found["untrained"].digest


def test_random_weights_follow_from_the_seed() -> None:
    one, same, other = (open_network("mobile_openpose_24", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(*(next(net.module.parameters()) for net in (one, same)))
    assert not torch.equal(*(next(net.module.parameters()) for net in (one, other)))
    assert one.digest == other.digest
    assert one.metadata.seed == 3
    assert not any(module.training for module in one.module.modules())


def test_a_module_in_memory_is_a_network_too(tmp_path: Path) -> None:
    given = sized().train()
    opened = open_network(given)
    assert given.training
    assert (opened.name, opened.approach, opened.input_hw, opened.trained) == ("Plain", "top-down", (96, 64), True)
    assert opened.architecture.keypoints == 17
    image = torch.randn(1, 3, 96, 64)
    assert torch.equal(opened.module(image)[0], given(image))
    with torch.no_grad():
        opened.module(image)[0].sum()
        next(opened.module.parameters()).zero_()
    assert next(given.parameters()).any()  # the given one is never changed
    save_artefact(tmp_path, opened.architecture, opened.module, opened.metadata, opened.edits)
    with pytest.raises(NetworkError, match=r"module in memory.*compress\.load"):
        load_artefact(tmp_path)
    assert load_artefact(tmp_path, sized()).digest == opened.digest


def test_what_names_no_network(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="did you mean 'hrnet_w"):
        open_network("hrnet_w33")
    with pytest.raises(ArtefactError, match="a network is a known name"):
        open_network(tmp_path)


def test_an_open_network_and_a_record_are_networks() -> None:
    opened = open_network(RECORD, (64, 64), seed=3)
    assert opened.architecture == RECORD
    assert opened.name == RECORD.family
    again = open_network(opened)
    assert again.module is opened.module
    assert (again.input_hw, again.metadata.seed) == ((64, 64), 3)
    assert open_network(opened, (32, 64)).input_hw == (32, 64)
    assert opened.input_hw == (64, 64)
    # With another seed the weights stay, so they are part of what the network is.
    other = open_network(opened, seed=4)
    assert torch.equal(next(other.module.parameters()), next(opened.module.parameters()))
    assert other.digest != open_network(RECORD, (64, 64), seed=4).digest
