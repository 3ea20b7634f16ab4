"""Masks against brute force over every allowed support, and through training, saving and loading."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compress.errors import NetworkError, RecipeError
from compress.networks.hrnet import HRNet
from compress.networks.simple_baseline import SimpleBaseline
from compress.pruning.sparsity import (
    Block,
    NOfM,
    Pattern,
    Scheme,
    Unstructured,
    apply_masks,
    common_patterns,
    masks,
    masks_of_zeros,
    prunable,
    sparsity,
)
from tests.networks.small import SMALL

DICTIONARY = Pattern(((0, 1, 3, 4), (4, 5, 7, 8), (1, 3, 4, 5)))
SCHEMES: list[Scheme] = [Unstructured(), NOfM(4), Block(4), DICTIONARY]


def supports(scheme: Scheme, shape: tuple[int, int, int, int], keep: int) -> Iterator[Tensor]:
    """Every allowed mask with `keep` groups (of every M, for N of M), written out without the module's help."""
    outputs, inputs, height, width = shape
    if isinstance(scheme, Unstructured):
        for chosen in combinations(range(outputs * inputs * height * width), keep):
            mask = torch.zeros(shape, dtype=torch.bool)
            mask.view(-1)[list(chosen)] = True
            yield mask
    elif isinstance(scheme, NOfM):
        cells = list(product(range(outputs), range(inputs // scheme.of), range(height), range(width)))
        for choice in product(combinations(range(scheme.of), keep), repeat=len(cells)):
            mask = torch.zeros(shape, dtype=torch.bool)
            for (o, g, y, x), kept in zip(cells, choice, strict=True):
                for i in kept:
                    mask[o, g * scheme.of + i, y, x] = True
            yield mask
    elif isinstance(scheme, Block):
        cells = list(product(range(outputs // scheme.filters), range(inputs), range(height), range(width)))
        for chosen in combinations(cells, keep):
            mask = torch.zeros(shape, dtype=torch.bool)
            for b, i, y, x in chosen:
                mask[b * scheme.filters : (b + 1) * scheme.filters, i, y, x] = True
            yield mask
    elif isinstance(scheme, Pattern):
        for kernels in combinations(product(range(outputs), range(inputs)), keep):
            for choice in product(scheme.dictionary, repeat=keep):
                mask = torch.zeros(shape, dtype=torch.bool)
                for (o, i), pattern in zip(kernels, choice, strict=True):
                    for position in pattern:
                        mask[o, i, position // 3, position % 3] = True
                yield mask


@pytest.mark.parametrize(
    ("scheme", "shape", "ratio", "keep"),
    [
        (Unstructured(), (2, 2, 1, 3), 0.75, 3),
        (NOfM(4), (2, 4, 1, 2), 0.5, 2),
        (NOfM(3), (1, 6, 1, 1), 2 / 3, 1),
        (Block(2), (4, 2, 1, 2), 0.5, 4),
        (DICTIONARY, (2, 2, 3, 3), 5 / 9, 4),
        (DICTIONARY, (2, 3, 3, 3), 1 - 4 / 9 / 2, 3),
    ],
    ids=lambda value: str(value) if not isinstance(value, Pattern) else "Pattern",
)
def test_a_mask_is_the_best_of_all_allowed_ones(
    scheme: Scheme, shape: tuple[int, int, int, int], ratio: float, keep: int
) -> None:
    for seed in range(5):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        allowed = list(supports(scheme, shape, keep))
        mask = scheme.mask(weight, ratio)
        assert any(torch.equal(mask, one) for one in allowed)
        best = max(float((weight * one).square().sum()) for one in allowed)
        assert float((weight * mask).square().sum()) == pytest.approx(best, rel=1e-6)
        assert 1 - float(mask.float().mean()) == pytest.approx(ratio)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_groups_are_what_goes_together(scheme: Scheme) -> None:
    """Every weight is in one group; of a mask's groups all or, within patterns and N of M, some weights stay."""
    weight = torch.randn(8, 4, 3, 3)
    groups = scheme.groups(weight)
    assert Counter(groups.flatten().tolist()) == Counter(weight.flatten().tolist())
    kept = scheme.groups(scheme.mask(weight, 0.75).float()).sum(1)
    assert set(kept.tolist()) <= {0.0, 4.0 if isinstance(scheme, Block | Pattern) else 1.0}


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_masks_of_rising_ratios_lie_inside_one_another(scheme: Scheme) -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3))
    before = torch.ones(8, 4, 3, 3, dtype=torch.bool)
    for ratio in (0.56, 0.6, 0.75, 0.9, 0.97):
        made = masks(network, scheme, {"0.weight": ratio})
        assert not (made["0.weight"] & ~before).any()
        apply_masks(network, made)
        before = made["0.weight"]


def test_at_least_one_group_stays() -> None:
    weight = torch.randn(4, 4, 3, 3)
    kept = [int(scheme.mask(weight, 0.999).sum()) for scheme in SCHEMES]
    assert kept == [1, 4 * 9, 4, 4]  # one weight; one of four inputs everywhere; a block of four; a pattern


def test_of_equal_weights_the_first_stay() -> None:
    assert Unstructured().mask(torch.ones(1, 4, 1, 1), 0.5).flatten().tolist() == [True, True, False, False]


def test_common_patterns_are_the_most_frequent_natural_ones() -> None:
    """Counted kernel by kernel in plain Python."""
    network = HRNet(width=8, modules=(1, 1, 1), blocks=1).build()
    count: Counter[tuple[int, ...]] = Counter()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and layer.in_channels > 3:
            for kernel in layer.weight.detach().abs().reshape(-1, 9).tolist():
                others = sorted((n for n in range(9) if n != 4), key=lambda n: -kernel[n])[:3]
                count[tuple(sorted([4, *others]))] += 1
    assert len(count) == comb(8, 3)
    chosen = common_patterns(network, count=6).dictionary
    assert chosen == tuple(sorted(count, key=lambda pattern: (-count[pattern], pattern))[:6])


def test_every_kernel_and_matrix_is_pruned_or_has_a_reason() -> None:
    found = prunable(SMALL["dir_bhrnet"].build(), Block(4))
    assert set(found.refused.values()) >= {
        "it reads the picture",
        "a depthwise convolution",
        "17 filters are no multiple of 4",
        "34 filters are no multiple of 4",
    }
    for name in ("dite_hrnet", "shufflenet_v2", "openpose"):
        network = SMALL[name].build()
        for scheme in SCHEMES:
            found = prunable(network, scheme)
            known = {name for name, parameter in network.named_parameters() if parameter.ndim >= 2}
            assert found.layers.keys() | found.refused.keys() == known
            assert not found.layers.keys() & found.refused.keys()
    assert "a kernel of 1x1, not 3x3" in prunable(SMALL["openpose"].build(), DICTIONARY).refused.values()
    assert prunable(nn.Conv2d(6, 8, 1), NOfM(4)).refused == {"weight": "6 input channels are no multiple of 4"}
    assert list(prunable(nn.Conv2d(8, 8, 1), NOfM(4)).layers) == ["weight"]
    assert prunable(nn.Conv2d(8, 8, 1, groups=2), NOfM(4)).refused == {"weight": "a grouped convolution"}


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_a_transposed_convolution_is_pruned_like_an_ordinary_one(scheme: Scheme) -> None:
    """Its weight has inputs first; its filters are the second axis."""
    transposed, ordinary = nn.ConvTranspose2d(8, 4, 3), nn.Conv2d(8, 4, 3)
    ordinary.weight.data.copy_(transposed.weight.transpose(0, 1))
    found = masks(transposed, scheme, {"weight": 0.75})["weight"]
    assert found.shape == transposed.weight.shape
    assert torch.equal(found.transpose(0, 1), masks(ordinary, scheme, {"weight": 0.75})["weight"])


def test_masks_leave_the_network_alone() -> None:
    network = SimpleBaseline(blocks=(1, 1, 1, 1), width=8, filters=(8,)).build()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    layers = prunable(network, Block(4)).layers
    made = masks(network, Block(4), dict.fromkeys(layers, 0.8))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert made.keys() == layers.keys()
    assert all(share == pytest.approx(0.8, abs=0.04) for share in sparsity(made).values())


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_masks_survive_training_saving_and_loading(optimizer: type[torch.optim.Optimizer], tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))

    network = build()
    made = masks(network, Block(4), {"0.weight": 0.75, "3.weight": 0.5})
    apply_masks(network, made)
    steps = optimizer(network.parameters(), lr=0.1, weight_decay=0.1)
    start = network[0].weight.detach().clone()  # type: ignore[union-attr,operator]
    for _ in range(5):
        steps.zero_grad()
        network(torch.randn(4, 4, 8, 8)).square().mean().backward()
        steps.step()
        apply_masks(network, made)
    weight: Tensor = network[0].weight  # type: ignore[assignment]
    assert (weight[made["0.weight"]] != start[made["0.weight"]]).all()
    assert (weight[~made["0.weight"]] == 0).all()
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    loaded = build()
    assert masks_of_zeros(loaded) == {}
    loaded.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    found = masks_of_zeros(loaded)
    assert found.keys() == made.keys()
    assert all(torch.equal(found[name], made[name]) for name in made)


def test_a_weight_that_is_no_number_goes_too() -> None:
    network = nn.Conv2d(4, 4, 1)
    with torch.no_grad():
        network.weight[0, 0] = torch.nan
    mask = torch.ones(4, 4, 1, 1, dtype=torch.bool)
    mask[0, 0] = False
    apply_masks(network, {"weight": mask})
    assert network.weight.isfinite().all()


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_ratio_outside(ratio: float) -> None:
    with pytest.raises(RecipeError, match=r"weight: a ratio must be at least 0 and below 1"):
        masks(nn.Conv2d(4, 4, 1), Block(4), {"weight": ratio})


def test_wrong_layers_and_schemes() -> None:
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8))
    with pytest.raises(NetworkError, match=r"1\.weight: Block cannot prune this layer: a depthwise convolution"):
        masks(network, Block(4), {"1.weight": 0.5})
    with pytest.raises(NetworkError, match=r"did you mean '0\.weight'"):
        masks(network, Block(4), {"0.weigth": 0.5})
    with pytest.raises(NetworkError, match=r"needs a weight of that shape \(found \(8, 8, 3, 3\)\)"):
        apply_masks(network, {"0.weight": torch.ones(4, 8, 3, 3, dtype=torch.bool)})
    with pytest.raises(NetworkError, match="needs a weight of that shape"):
        apply_masks(network, {"5.weight": torch.ones(4, 8, 3, 3, dtype=torch.bool)})
    with pytest.raises(RecipeError, match=r"zero at least 0\.556 of a layer"):
        masks(network, DICTIONARY, {"0.weight": 0.5})
    with pytest.raises(NetworkError, match="patterns need 3x3 convolutions"):
        common_patterns(nn.Conv2d(8, 8, 1))
    for dictionary in ((), ((),), ((0, 9),), ((0, 1), (2,))):
        with pytest.raises(RecipeError, match=r"scheme\.dictionary"):
            Pattern(dictionary)
    for build in (lambda: NOfM(1), lambda: Block(0), lambda: common_patterns(network, positions=9)):
        with pytest.raises(RecipeError, match=r"must have|needs an M"):
            build()


def test_block_masks_suit_mnns_sparse_kernels(tmp_path: Path) -> None:
    """The engine's own account of the exported model: the masked layers are sparse, as much as asked, and exact."""
    pytest.importorskip("MNN")
    from compress.engines import check_parity, engine
    from compress.engines.mnn import SPARSE_BLOCK, _attributes

    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 1))
    apply_masks(network, masks(network, Block(SPARSE_BLOCK), {"1.weight": 0.75, "2.weight": 0.5}))
    path = engine("mnn_sparse").export(network, (16, 16), tmp_path, "net")[0]
    found = [facts.get("sparse") for facts in _attributes(path).values() if facts.get("kernelX")]
    assert found == [None, 0.75, 0.5, None]
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 16), dtype=np.float32)
    assert check_parity(network, engine("mnn_sparse").load(path), [image]) < 1e-5
