"""Weights that are shared, not finite, views of one another, or computed from others."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from compress.artefacts.artefact import CHANNELS_PRUNED, WEIGHTS, load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.engines import check_parity, engine
from compress.errors import ArtefactError, NetworkError
from compress.measure.counting import count, trace
from compress.networks.own import check_learns, own_network
from compress.networks.weights import (
    check_finite,
    check_memory,
    check_plain,
    check_unparametrized,
    names_of_tied,
    separate_elements,
)
from compress.pruning import sparsity as fine_grained
from compress.pruning.structured import difference, masked, prunable_channels, random_weights, without_channels

SIZE = (64, 64)


class Drawn(nn.Module):
    """Blocks in a row whose convolutions are shared as the dice say: as modules, as parameters, or not; a Twin's norms
    share their buffers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        dice = random.Random(seed)
        torch.manual_seed(seed)
        width = dice.choice((16, 24))
        self.stem = nn.Conv2d(3, width, 3, 4, 1)
        self.blocks = nn.ModuleList()
        self.residual = [dice.random() < 0.5 for _ in range(4)]
        for number in range(4):
            inner = dice.choice((16, 32)) if number == 0 else self.blocks[0][0].out_channels
            wide, norm, back = nn.Conv2d(width, inner, 3, 1, 1), nn.BatchNorm2d(inner), nn.Conv2d(inner, width, 1)
            if number:
                first, how = self.blocks[dice.randrange(number)], dice.choice(("module", "parameter", "norm", "own"))
                if how == "module":
                    wide, back = first[0], first[3]
                elif how == "parameter":
                    wide.weight, back.weight, back.bias = first[0].weight, first[3].weight, first[3].bias
                elif how == "norm":
                    norm.weight, norm.bias = first[1].weight, first[1].bias
                    norm.running_mean, norm.running_var = first[1].running_mean, first[1].running_var
            self.blocks.append(nn.Sequential(wide, norm, nn.ReLU(), back))
        self.head = nn.Conv2d(width, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for block, residual in zip(self.blocks, self.residual, strict=True):
            x = F.relu(block(x) + x) if residual else F.relu(block(x))
        return self.head(x)


SEED = 0
SAME = 1e-5  # relative; sums in another order stay near 1e-6


def drawn() -> nn.Module:
    return Drawn(SEED)


def ties(network: nn.Module) -> set[tuple[str, ...]]:
    return {names for names in names_of_tied(network).values() if len(names) > 1}


@pytest.mark.parametrize("seed", range(12))
def test_ties_last_through_pruning_saving_and_loading(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.SEED", seed)
    record = own_network(f"{__name__}:drawn")
    network = random_weights(record.build())
    channels = prunable_channels(network, SIZE)
    dice = random.Random(seed)
    gone = channels.allowed(
        one for group in channels.groups() for one in dice.sample(group.members, len(group.members) // 3)
    )
    pruned = without_channels(network, channels, gone)
    image = torch.randn(1, 3, *SIZE)

    assert gone
    assert ties(pruned) == ties(network)
    assert ties(masked(network, channels, gone)) == ties(network)
    assert difference(masked(network, channels, gone), pruned, image) < SAME
    assert count(pruned, SIZE).params < count(network, SIZE).params
    assert sum(layer.params for layer in trace(pruned, SIZE).layers) == count(pruned, SIZE).params
    distinct = {id(tensor): tensor for tensor in pruned.parameters()}
    assert count(pruned, SIZE).params == sum(tensor.numel() for tensor in distinct.values())

    save_artefact(tmp_path, record, pruned, Metadata(SIZE), (CHANNELS_PRUNED,))
    loaded = load_artefact(tmp_path).module
    saved = load_file(tmp_path / WEIGHTS)
    assert sorted(saved) == sorted({names[0] for names in names_of_tied(pruned).values()})
    assert ties(loaded) == ties(pruned)
    assert difference(pruned, loaded, image) == 0

    zeros = fine_grained.prunable(loaded, fine_grained.Unstructured()).layers
    masks = fine_grained.masks(loaded, fine_grained.Unstructured(), dict.fromkeys(zeros, 0.5))
    fine_grained.apply_masks(loaded, masks)
    assert len(masks) == len({id(layer.weight) for layer in zeros.values()})  # one mask of a tied weight
    assert ties(copy.deepcopy(loaded)) == ties(pruned)
    step_once(loaded, image)
    assert ties(loaded) == ties(pruned)


def step_once(network: nn.Module, image: Tensor) -> None:
    """A step that moves every parameter by its gradient's sign, once: of a tied weight too."""
    parameters = [parameter for _, parameter in network.named_parameters()]
    before = [parameter.detach().clone() for parameter in parameters]
    network(image)[0].square().sum().backward()
    torch.optim.Adam(parameters, lr=1e-3).step()
    moved = [(new - old).abs().max() for new, old in zip(parameters, before, strict=True)]
    assert max(moved) < 1.1e-3


def test_a_file_in_which_tied_weights_differ_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.SEED", 3)
    record = own_network(f"{__name__}:drawn")
    network = record.build()
    first, other = sorted(ties(network))[0][:2]
    save_artefact(tmp_path, record, network, Metadata((64, 64)))
    tensors = load_file(tmp_path / WEIGHTS)
    save_file({**tensors, other: tensors[first].clone()}, tmp_path / WEIGHTS)
    load_artefact(tmp_path)  # as older versions wrote it
    save_file({**tensors, other: tensors[first] + 1}, tmp_path / WEIGHTS)
    with pytest.raises(ArtefactError, match="one tensor of the network, but not in the file"):
        load_artefact(tmp_path)


def test_ncnn_takes_modules_that_share_a_parameter(tmp_path: Path) -> None:
    convs = [nn.Conv2d(8, 8, 3, 1, 1) for _ in range(2)]
    convs[1].weight = convs[0].weight
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), *convs, nn.Conv2d(8, 17, 1)).eval()
    files = engine("ncnn").export(network, (32, 32), tmp_path, "tied")
    check_parity(network, engine("ncnn").load(files[0]), [torch.randn(1, 3, 32, 32).numpy()], 1e-4)
    assert convs[1].weight is convs[0].weight


# --- Views of one memory ---------------------------------------------------------------------------------------------


def two(make: Callable[[Tensor], Tensor]) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1))
    network[1].weight = nn.Parameter(make(network[0].weight.detach()))
    return network


@pytest.mark.parametrize("make", [lambda w: w, lambda w: w.transpose(0, 1), lambda w: w[:8]])
def test_views_of_one_memory_are_refused(make: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(NetworkError, match=r"0\.weight and 1\.weight"):
        check_memory(two(make), "here")


def test_neighbours_in_one_memory_are_not_refused() -> None:
    flat = torch.randn(2, 16, 16, 1, 1)
    network = two(torch.clone)
    network[0].weight, network[1].weight = nn.Parameter(flat[0]), nn.Parameter(flat[1])
    check_memory(network, "here")
    network[1].weight = network[0].weight
    check_memory(network, "here")


# --- Not finite ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["blocks.0.0.weight", "blocks.0.1.bias", "blocks.0.1.running_var"])
def test_tensors_that_are_not_finite_are_named(value: float, name: str) -> None:
    network = Drawn(1)
    check_finite(network, "here")
    network.state_dict()[name].view(-1)[1] = value
    with pytest.raises(NetworkError, match=f"here: weights must be finite.*{name}"):
        check_finite(network, "here")


def test_masks_of_minus_infinity_are_an_authors_choice() -> None:
    network = nn.Linear(2, 2)
    network.register_buffer("mask", torch.full((2, 2), float("-inf")).triu(1))
    check_finite(network, "here")
    network.mask[0, 0] = float("nan")
    with pytest.raises(NetworkError, match="mask"):
        check_finite(network, "here")


def broken() -> nn.Module:
    network = Drawn(0)
    network.head.bias.data[3] = float("nan")
    return network


def test_a_network_with_nan_is_refused_where_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetworkError, match=r"head\.bias"):
        own_network(f"{__name__}:broken")
    record = own_network(f"{__name__}:drawn")
    network = record.build()
    network.network.head.bias.data[0] = float("inf")
    save_artefact(tmp_path, record, network, Metadata((64, 64)))
    with pytest.raises(ArtefactError, match=r"network\.head\.bias"):
        load_artefact(tmp_path)


# --- Computed from others --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda m: prune.l1_unstructured(m, "weight", 0.5), "prune.remove"),
        (weight_norm, "remove_weight_norm"),
        (spectral_norm, "remove_spectral_norm"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_hooks_compute_are_refused_with_what_cleans_them(
    make: Callable[[nn.Module], Any], remedy: str
) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    make(network[1])
    with pytest.raises(NetworkError, match=rf"'1'.*{remedy}\(module, 'weight'\)"):
        check_plain(network, "here")


@pytest.mark.parametrize("make", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_layers_are_named(make: Callable[[nn.Module], Any]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    check_unparametrized(network, "here")
    make(network[1])
    with pytest.raises(NetworkError, match=r"'1'.*remove_parametrizations\(module, 'weight'\)"):
        check_unparametrized(network, "here")


def half() -> nn.Module:
    return Drawn(0).half()


def test_half_precision_is_told_as_such() -> None:
    with pytest.raises(NetworkError, match=r"float16.*network\.float\(\)"):
        own_network(f"{__name__}:half")


# --- What a network returns ------------------------------------------------------------------------------------------


class Supervised(nn.Module):
    """Two maps, returned as `how` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.stem, self.head = how, nn.Conv2d(3, 17, 4, 4), nn.Conv2d(17, 17, 1)

    def forward(self, x: Tensor) -> Any:
        early = self.stem(x)
        out = self.head(early)
        nested: dict[str, Any] = {"maps": [early, {"last": out}], "stride": 4}
        return {"in training": [early, out] if self.training else out, "both": [early, out], "nested": nested}[self.how]


HOW = "both"


def supervised() -> nn.Module:
    return Supervised(HOW)


@pytest.mark.parametrize("how", ["both", "nested", "in training"])
def test_maps_for_training_alone_are_refused_and_nested_ones_found(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.HOW", how)
    record = own_network(f"{__name__}:supervised")
    assert record.output_strides == ((4,) if how == "in training" else (4, 4))
    if how == "in training":
        with pytest.raises(NetworkError, match="the same maps in training"):
            check_learns(record.build(), SIZE, "here")
    else:
        check_learns(record.build(), SIZE, "here")


class Demanding(nn.Module):
    """Needs targets in training."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 17, 4, 4)

    def forward(self, x: Tensor, targets: Tensor | None = None) -> Tensor:
        if self.training:
            raise ValueError("targets are missing")
        return self.head(x)  # type: ignore[no-any-return]


def test_a_network_that_fails_in_training_mode_is_refused_with_the_cause() -> None:
    with pytest.raises(NetworkError, match=r"in training mode on pictures alone.*ValueError: targets are missing"):
        check_learns(Demanding(), SIZE, "here")


# --- State that is no weight, and memory that elements share ---------------------------------------------------------


class Extra(nn.Conv2d):
    def get_extra_state(self) -> dict[str, int]:
        return {"version": 2}

    def set_extra_state(self, state: Any) -> None:
        pass


def with_extra() -> nn.Module:
    return nn.Sequential(Extra(3, 17, 4, 4))


def test_a_state_beside_tensors_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"tensors alone.*0\._extra_state"):
        own_network(f"{__name__}:with_extra")


class Grid(nn.Module):
    """Adds coordinates, whose buffers repeat one row and one column of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 17, 1)
        y, x = torch.meshgrid(torch.linspace(0, 1, 16), torch.linspace(0, 1, 16), indexing="ij")
        self.register_buffer("y", y)
        self.register_buffer("x", x)
        self.register_buffer("scale", torch.full((1,), 0.5).expand(8))

    def forward(self, image: Tensor) -> Tensor:
        found = self.norm(self.a(image)) * self.scale.view(1, -1, 1, 1)
        return self.b(found + F.interpolate((self.x + self.y)[None, None], found.shape[2:]))  # type: ignore[no-any-return]


def grid() -> nn.Module:
    return Grid()


def test_buffers_that_repeat_memory_are_pruned_saved_and_loaded(tmp_path: Path) -> None:
    record = own_network(f"{__name__}:grid")
    network = record.build()
    channels = prunable_channels(network, SIZE)
    gone = channels.allowed(channels.groups()[0].members[:3])
    pruned = without_channels(network, channels, gone).eval()
    image = torch.randn(2, 3, *SIZE)
    assert pruned.network.norm.num_features == pruned.network.a.out_channels == 5
    assert difference(masked(network, channels, gone).eval(), pruned, image) < SAME
    save_artefact(tmp_path, record, pruned, Metadata((64, 64)), (CHANNELS_PRUNED,))
    assert difference(load_artefact(tmp_path).module, pruned, image) == 0


def test_elements_are_separated_where_they_share_memory_alone() -> None:
    network = nn.Module()
    kept = torch.randn(4, 6)[::2, 1:].T
    repeated = torch.randn(1, 3).expand(2, 3)
    for name, buffer in {
        "kept": kept,
        "one": repeated,
        "two": repeated,
        "windows": torch.randn(5).unfold(0, 3, 1),
    }.items():
        network.register_buffer(name, buffer)
    before = {name: buffer.clone() for name, buffer in network.state_dict().items()}
    separate_elements(network, "here")
    assert network.kept is kept
    assert network.one is network.two
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.state_dict().items())
    for buffer in network.buffers():
        buffer.normal_()  # can be written to
    network.weight = nn.Parameter(torch.randn(1, 3).expand(2, 3))
    with pytest.raises(NetworkError, match="weight"):
        separate_elements(network, "here")
