"""Picks of a space with edits become networks: rewritten, then narrower, and an artefact rebuilds them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.artefacts.artefact import CHANNELS_PRUNED, Network, load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.errors import NetworkError, SpaceError
from compress.nas.candidate import Candidates
from compress.nas.space import KEEP, EditChoice, Space
from compress.networks import architecture_to_data
from compress.networks.architecture import without_values
from compress.networks.mobile_openpose import MobileOpenPose
from compress.networks.openpose import OpenPose
from compress.pruning.channels import follow_channels
from compress.pruning.structured import without_channels
from compress.rewriting.sites import Rewrite, rewritten

HW = (32, 32)
PICTURES = [torch.randn(4, 3, *HW, generator=torch.Generator().manual_seed(0))]
NETWORK = MobileOpenPose(blocks=(1, 1), width=8, features=16, refinement="one_7x7")
KERNELS = EditChoice("kernels", ("refinements",), "rewrite", (KEEP, "conv_to_3x3"))
TRUNK = EditChoice("trunk", ("features.3",), "channels", (0.5, 1.0))
SEVENS = [f"refinements.0.{block}.trunk.0.conv" for block in range(5)]


def candidates(*edits: EditChoice, start: Network | None = None, **choices: tuple[Any, ...]) -> Candidates:
    base = architecture_to_data(NETWORK)
    return Candidates(Space(base, {**choices, **{edit.path: edit.values for edit in edits}}, edits), HW, start)


def trained(refinements: int = 1) -> nn.Module:
    torch.manual_seed(0)
    network = MobileOpenPose(blocks=(1, 1), width=8, features=16, refinements=refinements, refinement="one_7x7").build()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    return network.eval()


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def test_rewrites_then_channels_and_the_given_network_stays() -> None:
    network, image = trained(), torch.randn(1, 3, *HW)
    before = [output.clone() for output in network(image)]
    pick = {"edits.kernels": "conv_to_3x3", "edits.trunk": 0.5}
    made = candidates(TRUNK, KERNELS).edited(pick, network, PICTURES, 2, 1)
    assert made.edits == (*(Rewrite("conv_to_3x3", at) for at in SEVENS), CHANNELS_PRUNED)
    assert Counter(m.kernel_size for m in made.network.modules() if isinstance(m, nn.Conv2d))[7, 7] == 1  # the stem
    assert made.network.get_submodule("features.3.0.conv1.conv").out_channels == 8  # of 16
    assert made.network.get_submodule("features.3.0.conv3.conv").out_channels == 32  # of 64
    assert made.network.get_submodule("features.2.0.conv3.conv").out_channels == 32  # not in the group
    assert all(torch.equal(a, b) for a, b in zip(before, network(image), strict=True))
    assert [output.shape for output in made.network(image)] == [output.shape for output in before]


def test_a_candidate_that_is_not_the_masked_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def other_weights(network: nn.Module, *lost: Any) -> nn.Module:
        smaller = without_channels(network, *lost)
        smaller.get_submodule("features.3.0.conv1.conv").weight.data.mul_(2)
        return smaller

    monkeypatch.setattr("compress.pruning.structured.without_channels", other_weights)
    monkeypatch.setattr("compress.nas.candidate.prunable_channels", follow_channels)
    with pytest.raises(NetworkError, match="must do what the given one does"):
        candidates(TRUNK).edited({"edits.trunk": 0.5}, trained(), PICTURES, 2, 1)


def test_the_channels_that_stay_have_the_largest_norms() -> None:
    """Of a convolution with one reader: its own filters and bias-free norm, and what the reader takes from each."""
    network = trained()
    with torch.no_grad():
        for name in ("features.3.0.conv1.conv.weight", "features.3.0.conv1.bn.weight"):
            network.get_parameter(name)[1::2] *= 100
        network.get_parameter("features.3.0.conv2.conv.weight")[:, 1::2] *= 100
    group = EditChoice("one", ("features.3.0.conv1",), "channels", (0.5, 1.0))
    made = candidates(group).edited({"edits.one": 0.5}, network, PICTURES, 2, 1)
    kept = made.network.get_submodule("features.3.0.conv1.conv").weight
    assert torch.equal(kept, network.get_parameter("features.3.0.conv1.conv.weight")[1::2])


@pytest.mark.parametrize(
    "pick",
    [
        {"edits.kernels": KEEP, "edits.trunk": 1.0},
        {"edits.kernels": "conv_to_3x3", "edits.trunk": 1.0},
        {"edits.kernels": KEEP, "edits.trunk": 0.5},
        {"edits.kernels": "conv_to_3x3", "edits.trunk": 0.5},
    ],
)
def test_structure_alone_and_artefact_are_the_candidate(pick: dict[str, Any], tmp_path: Path) -> None:
    made = candidates(KERNELS, TRUNK)
    candidate = made.edited(pick, trained(), PICTURES, 2, 1)
    with without_values():
        assert shapes(made.build(pick)) == shapes(candidate.network)
    save_artefact(tmp_path, NETWORK, candidate.network, Metadata(HW), candidate.edits)
    loaded = load_artefact(tmp_path)
    image = torch.randn(1, 3, *HW)
    assert loaded.edits == candidate.edits
    assert all(torch.equal(a, b) for a, b in zip(loaded.module(image), candidate.network(image), strict=True))


def test_without_a_site_the_network_is_the_same() -> None:
    made = candidates(KERNELS, refinements=(0, 1))
    network = trained(refinements=0)
    candidate = made.edited({"refinements": 0, "edits.kernels": "conv_to_3x3"}, network, PICTURES, 2, 1)
    assert candidate.edits == ()
    assert shapes(candidate.network) == shapes(network)


def test_groups_follow_one_another() -> None:
    """The second group finds what the first one made; of two groups around one section the smaller share counts."""
    first = EditChoice("first", ("features.0",), "rewrite", (KEEP, "conv_to_3x3"))
    both = [EditChoice(name, ("features.3*",), "channels", (0.5, 0.75, 1.0)) for name in ("one", "other")]
    made = candidates(first, KERNELS, *both)
    pick = {"edits.first": "conv_to_3x3", "edits.kernels": KEEP, "edits.one": 0.75, "edits.other": 0.5}
    candidate = made.edited(pick, trained(), PICTURES, 2, 1)
    assert candidate.edits == (Rewrite("conv_to_3x3", "features.0.conv"), CHANNELS_PRUNED)
    assert candidate.network.get_submodule("features.3.0.conv1.conv").out_channels == 8


def test_edits_of_a_given_network_come_after_its_own() -> None:
    """It is pruned already; the new edits are added, and the mark of pruned channels stands once."""
    pruned = candidates(TRUNK).edited({"edits.trunk": 0.5}, trained(), PICTURES, 2, 1)
    start = Network("start", NETWORK, pruned.network.eval(), Metadata(HW), pruned.edits)
    head = EditChoice("head", ("initial",), "channels", (0.5, 1.0))
    made = candidates(KERNELS, head, start=start)
    assert shapes(made.build({"edits.kernels": KEEP, "edits.head": 1.0})) == shapes(pruned.network)
    candidate = made.edited({"edits.kernels": "conv_to_3x3", "edits.head": 0.5}, start.module, PICTURES, 2, 1)
    assert candidate.edits == (CHANNELS_PRUNED, *(Rewrite("conv_to_3x3", at) for at in SEVENS))
    assert candidate.network.get_submodule("features.3.0.conv1.conv").out_channels == 8
    assert candidate.network.get_submodule("initial.0.conv").out_channels == 8  # of 16


@pytest.mark.parametrize(
    ("edit", "parts"),
    [
        (
            EditChoice("k", ("refinements",), "rewrite", (KEEP, "conv_to_3x33")),
            ["edits.k", "did you mean 'conv_to_3x3'"],
        ),
        (
            EditChoice("k", ("refinement",), "rewrite", (KEEP, "conv_to_3x3")),
            ["edits.k.sites", "no site of conv_to_3x3", "did you mean 'refinements'"],
        ),
        (EditChoice("k", ("*",), "rewrite", (KEEP, "swish_to_relu")), ["no site of swish_to_relu", "leave it out"]),
        (EditChoice("c", ("features.3.0.conv1",), "channels", (0.9, 1.0)), ["edits.c", "must take channels", "0.9"]),
        (EditChoice("c", ("fetures.*",), "channels", (0.5, 1.0)), ["edits.c.sites", "no layer that", "features"]),
    ],
)
def test_wrong_edits_are_named(edit: EditChoice, parts: list[str]) -> None:
    with pytest.raises(SpaceError) as caught:
        candidates(edit).check("space.yaml")
    assert "space.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_a_site_in_one_end_of_the_space_is_enough() -> None:
    candidates(KERNELS, refinements=(0, 1)).check("space.yaml")
    with pytest.raises(SpaceError, match="no site"):
        candidates(KERNELS, refinements=(0,)).check("space.yaml")


def test_replacements_are_fitted_to_what_the_modules_did() -> None:
    """Nearer to the given outputs than without data, and nearer still with a reconstruction."""
    network, pick = trained(), {"edits.kernels": "conv_to_3x3"}
    image = torch.randn(32, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    wanted = network(image)[-1]

    def error(other: nn.Module) -> float:
        with torch.no_grad():
            return float((other.eval()(image)[-1] - wanted).square().mean())

    carried = rewritten(network, [Rewrite("conv_to_3x3", at) for at in SEVENS])
    solved, reconstructed = (candidates(KERNELS).edited(pick, network, [image], steps, 1).network for steps in (0, 30))
    assert error(reconstructed) < error(solved) < error(carried)


# --- Every kind of edit against an independent computation ------------------------------------------------------------

DEEP = MobileOpenPose(blocks=(1, 3), width=8, features=16, refinement="one_7x7")


def deep(*edits: EditChoice) -> tuple[Candidates, nn.Module]:
    """Candidates of a network with two removable blocks, features.3.1 and features.3.2, and its weights."""
    torch.manual_seed(0)
    network = DEEP.build().eval()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    start = Network("start", DEEP, network, Metadata(HW))
    return Candidates(
        Space(architecture_to_data(DEEP), {edit.path: edit.values for edit in edits}, edits), HW, start
    ), network


class Passes(nn.Module):
    """What is left of a bottleneck whose branch is zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.clamp(min=0)


@pytest.mark.parametrize(
    ("sites", "share", "gone"),
    [
        (("features.3",), 0.5, ["features.3.2"]),  # of one pattern the last block first
        (("features.3.1", "features.3.2"), 0.5, ["features.3.1"]),  # else in the order of the list
        (("features.3",), 0.0, ["features.3.2", "features.3.1"]),
        (("features.3",), 1.0, []),
    ],
)
def test_a_network_without_blocks_is_the_one_that_passes_their_inputs_on(
    sites: tuple[str, ...], share: float, gone: list[str]
) -> None:
    made, network = deep(EditChoice("depth", sites, "blocks", (0.0, 0.5, 1.0)))
    candidate = made.edited({"edits.depth": share}, network, PICTURES, 0, 1)
    assert candidate.edits == tuple(Rewrite("remove_block", path) for path in gone)
    for path in gone:
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, Passes())
    image = torch.randn(1, 3, *HW)
    with torch.no_grad():
        pairs = zip(candidate.network(image), network(image), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(("share", "stays"), [(0.5, 1), (0.0, 0)])
def test_a_network_without_its_last_stages_gives_what_the_others_gave(share: float, stays: int, tmp_path: Path) -> None:
    """Channels are pruned at the same time: what stays is what the pruned network gave with all its stages."""
    torch.manual_seed(0)
    architecture = OpenPose(width=8, features=8, stages=3, kernel=3)
    network = architecture.build().eval()
    trunk = EditChoice("trunk", ("features",), "channels", (0.5, 1.0))
    listed = tuple(f"refinements.{number}" for number in (1, 0))
    stages = EditChoice("stages", listed, "blocks", (0.0, 0.5, 1.0))
    edits = (trunk, stages)
    start = Network("start", architecture, network, Metadata(HW))
    space = Space(architecture_to_data(architecture), {edit.path: edit.values for edit in edits}, edits)
    made = Candidates(space, HW, start)
    pruned = made.edited({trunk.path: 0.5, stages.path: 1.0}, network, PICTURES, 0, 1)
    pick = {trunk.path: 0.5, stages.path: share}
    candidate = made.edited(pick, network, PICTURES, 0, 1)
    gone = [f"refinements.{number}" for number in (1, 0)][: 2 - stays]
    assert candidate.edits == (*(Rewrite("remove_stage", path) for path in gone), CHANNELS_PRUNED)
    image = torch.randn(1, 3, *HW)
    with torch.no_grad():
        outputs, whole = candidate.network(image), pruned.network(image)
    assert len(outputs) == 3
    for number, output in enumerate(outputs):
        assert torch.equal(output, whole[min(number, stays)])
    assert shapes(made.build(pick)) == shapes(candidate.network)
    save_artefact(tmp_path, architecture, candidate.network, Metadata(HW), candidate.edits)
    with torch.no_grad():
        again = load_artefact(tmp_path).module(image)
    assert all(torch.equal(one, other) for one, other in zip(outputs, again, strict=True))


def test_of_a_stage_that_goes_the_blocks_are_not_looked_for() -> None:
    """Both are asked for: the stage's own blocks go with it."""
    outer = EditChoice("stages", ("outer",), "blocks", (0.0, 1.0))
    inner = EditChoice("blocks", ("outer.inner",), "blocks", (0.0, 1.0))
    made = Candidates(Space({}, {edit.path: edit.values for edit in (outer, inner)}, (outer, inner)), HW)
    made._blocks[made._structure({})] = {"outer.inner": "remove_block", "outer": "remove_stage"}
    found = made._without_blocks({outer.path: 0.0, inner.path: 0.0}, nn.Identity())
    assert found == [Rewrite("remove_stage", "outer")]


def test_zeros_are_the_weights_of_least_energy_in_blocks_of_four_filters() -> None:
    made, network = deep(EditChoice("zeros", ("features.3.1",), "weights", (0.25, 1.0)))
    candidate = made.edited({"edits.zeros": 0.25}, network, PICTURES, 0, 1)
    assert candidate.edits == ()
    for name, given in network.state_dict().items():
        weight = candidate.network.state_dict()[name]
        if given.ndim < 4 or not name.startswith("features.3.1"):
            assert torch.equal(weight, given)
            continue
        energy = given.square().reshape(-1, 4, *given.shape[1:]).sum(1)
        stays = (energy >= energy.flatten().sort(descending=True).values[round(0.25 * energy.numel()) - 1])[:, None]
        assert torch.equal(weight != 0, stays.repeat(1, 4, 1, 1, 1).reshape(given.shape))
        assert torch.equal(weight[weight != 0], given[weight != 0])
    built = made.build({"edits.zeros": 0.25})
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), candidate.network.parameters(), strict=True))


def test_all_kinds_of_edits_join_and_an_artefact_rebuilds_them(tmp_path: Path) -> None:
    edits = (
        EditChoice("depth", ("features.3",), "blocks", (0.5, 1.0)),
        KERNELS,
        EditChoice("trunk", ("features",), "channels", (0.5, 1.0)),
        EditChoice("zeros", ("initial",), "weights", (0.25, 1.0)),
    )
    made, network = deep(*edits)
    pick = {edit.path: edit.values[edit.kind == "rewrite"] for edit in edits}
    candidate = made.edited(pick, network, PICTURES, 0, 1)
    assert candidate.edits[0] == Rewrite("remove_block", "features.3.2")
    assert candidate.edits[-1] == CHANNELS_PRUNED
    assert Counter(edit.rule for edit in candidate.edits[1:-1] if isinstance(edit, Rewrite)) == {"conv_to_3x3": 5}
    assert shapes(made.build(pick)) == shapes(candidate.network)
    assert set(made.sparsity(pick, candidate.network)) == {
        name
        for name, weight in candidate.network.named_parameters()
        if name.startswith("initial") and weight.ndim == 4 and (weight == 0).float().mean() > 0.7
    }
    save_artefact(tmp_path, DEEP, candidate.network, Metadata(HW), candidate.edits)
    image = torch.randn(1, 3, *HW)
    loaded = load_artefact(tmp_path).module
    assert all(torch.equal(a, b) for a, b in zip(loaded(image), candidate.network(image), strict=True))
