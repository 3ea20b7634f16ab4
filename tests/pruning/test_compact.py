"""A compacted network is smaller and gives the same outputs."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.engines import check_parity, engine
from compress.pruning.compact import READ_BELOW, CompactConv2d, SubPixelConv2d, compact, without_transposed
from compress.pruning.sparsity import Block, apply_masks, masks
from tests.networks.small import SMALL


def punched(layer: nn.Conv2d, rows: list[int], columns: list[int], inputs: list[int]) -> nn.Conv2d:
    """The layer with everything else set to zero, in place."""
    keep = torch.zeros_like(layer.weight)
    keep[np.ix_(range(len(keep)), inputs, rows, columns)] = 1
    layer.weight.data.mul_(keep)
    return layer


def same(network: nn.Module, image: Tensor) -> Any:
    """The compacted network, after checking it."""
    before = copy.deepcopy(network)
    smaller, _ = compact(network)
    with torch.no_grad():
        torch.testing.assert_close(smaller(image), network(image), rtol=1e-5, atol=1e-6)
    assert repr(before) == repr(network)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), network.parameters(), strict=True))
    return smaller


SETTINGS: list[dict[str, Any]] = [
    {"padding": 1},
    {"padding": 0},
    {"padding": (2, 0)},
    {"padding": 1, "stride": 2},
    {"padding": 2, "stride": (2, 3)},
    {"padding": 2, "dilation": 2},
    {"padding": 1, "dilation": (1, 3), "stride": 2},
    {"padding": "same"},
    {"padding": "same", "dilation": (2, 1)},
    {"padding": "valid"},
    {"padding": 1, "bias": False},
    {"padding": 3},
]
KERNELS = [
    ([1], [0, 1, 2]),
    ([0, 1, 2], [1]),
    ([1], [1]),
    ([0, 1], [0, 1, 2]),
    ([2], [0]),
    ([0], [1, 2]),
    ([0, 2], [2]),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("rows", "columns"), KERNELS, ids=str)
def test_rows_and_columns_are_cut_off(settings: dict[str, Any], rows: list[int], columns: list[int]) -> None:
    """As far as the padding goes: a row is cut off only where no picture would have to be."""
    layer = punched(nn.Conv2d(4, 5, 3, **settings), rows, columns, [0, 1, 2, 3])
    padding = settings["padding"]
    spare = (
        [1, 1]
        if padding == "same"
        else [0, 0]
        if padding == "valid"
        else [
            n // d
            for n, d in zip(torch.broadcast_to(torch.tensor(padding), (2,)).tolist(), layer.dilation, strict=True)
        ]
    )
    expected = [
        3 - min(used[0], most) - min(2 - used[-1], most) for used, most in zip((rows, columns), spare, strict=True)
    ]
    assert same(layer, torch.randn(2, 4, 13, 12)).kernel_size == tuple(expected)


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")  # torch says that it copies
def test_larger_and_even_kernels() -> None:
    """Those of even size pad unevenly under `same`: 4 rows 1 before and 2 behind; rows 1 and 2 alone 0 and 1."""
    image = torch.randn(1, 4, 9, 9)
    wide = same(punched(nn.Conv2d(4, 4, 5, padding=2), [1, 2, 3], [2], [0, 1, 2, 3]), image)
    assert (wide.kernel_size, wide.padding) == ((3, 1), (1, 0))
    even = same(punched(nn.Conv2d(4, 4, (4, 2), padding="same"), [1, 2], [0], [0, 1, 2, 3]), image)
    assert (even.kernel_size, even.padding, even.border) == ((2, 1), (0, 0), (0, 0, 0, 1))


def test_a_symmetric_cut_needs_no_extra_padding() -> None:
    smaller, changed = compact(punched(nn.Conv2d(4, 4, 3, padding=1), [1], [0, 1, 2], [0, 1, 2, 3]))
    assert isinstance(smaller, CompactConv2d)
    assert (smaller.kernel_size, smaller.padding, smaller.border) == ((1, 3), (0, 1), (0, 0, 0, 0))
    assert changed == {"": "3x3 → 1x3"}


def test_unread_inputs_are_not_handed_over() -> None:
    layer = punched(nn.Conv2d(8, 4, 3, padding=1), [1], [0, 1, 2], [0, 5, 6])
    made = same(nn.Sequential(nn.ReLU(), layer), torch.randn(2, 8, 6, 7))[1]
    assert made.runs == [(0, 1), (5, 7)]
    assert made.weight.shape == (4, 3, 1, 3)
    assert made.in_channels == 8  # what it is given
    assert compact(nn.Sequential(nn.ReLU(), layer))[1] == {"1": "3x3 → 1x3, 8 → 3 inputs"}


def test_too_many_inputs_are_all_handed_over() -> None:
    most = round(8 * READ_BELOW)
    assert compact(punched(nn.Conv2d(8, 4, 1), [0], [0], list(range(most))))[1] == {"": f"8 → {most} inputs"}
    assert compact(punched(nn.Conv2d(8, 4, 1), [0], [0], list(range(most + 1))))[1] == {}


def test_grouped_and_depthwise_kernels_are_cut_too() -> None:
    for groups in (2, 8):
        layer = punched(nn.Conv2d(8, 8, 3, padding=1, groups=groups), [1], [1], list(range(8 // groups)))
        smaller = same(layer, torch.randn(1, 8, 5, 5))
        assert (smaller.kernel_size, smaller.groups) == ((1, 1), groups)


def test_what_cannot_be_cut_stays() -> None:
    empty = nn.Conv2d(4, 4, 3)
    nn.init.zeros_(empty.weight)
    reflected = punched(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), [1], [1], [0])
    transposed = nn.ConvTranspose2d(4, 4, 3)
    network = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), empty, reflected, transposed)
    smaller, changed = compact(network)
    assert changed == {}
    assert repr(smaller) == repr(network)
    assert smaller[0] is not network[0]  # type: ignore[index]


def test_a_layer_in_two_places_stays_one() -> None:
    layer = punched(nn.Conv2d(4, 4, 3, padding=1), [1], [1], [0, 1, 2, 3])
    smaller = same(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(1, 4, 5, 5))
    assert smaller[0] is smaller[2]


@pytest.mark.parametrize("name", ["hrnet", "dir_bhrnet", "simple_baseline", "lightweight_openpose", "dite_hrnet"])
def test_whole_networks(name: str) -> None:
    """A middle row, an off-centre column or few inputs, in turn, of every convolution that has them."""
    network = SMALL[name].build().eval()
    for number, layer in enumerate(each for each in network.modules() if isinstance(each, nn.Conv2d)):
        height, width = layer.kernel_size
        inputs = list(range(layer.weight.shape[1]))
        rows = [height // 2] if number % 3 == 0 else list(range(height))
        columns = [0] if number % 3 == 1 else list(range(width))
        punched(layer, rows, columns, inputs[: max(1, len(inputs) // 2)] if number % 3 == 2 else inputs)
    image = torch.randn(1, 3, 64, 64)
    smaller, changed = compact(network)
    with torch.no_grad():
        for made, expected in zip(smaller(image), network(image), strict=True):
            torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert len(changed) > 5
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in network.parameters())


@pytest.mark.filterwarnings("ignore:Constant folding - Only steps=1")  # of torch's own export of a padding
@pytest.mark.parametrize("name", ["onnxruntime", "ncnn"])
def test_engines_take_it(name: str, tmp_path: Path) -> None:
    """Few inputs, and padding that is uneven."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        punched(nn.Conv2d(16, 16, 3, padding=1), [0], [0, 1], list(range(0, 16, 3))),
        nn.ReLU(),
        punched(nn.Conv2d(16, 8, 3, 2, padding=1), [1], [2], list(range(16))),
    )
    smaller = same(network, torch.randn(1, 3, 16, 20))
    runner = engine(name).load(engine(name).export(smaller, (16, 20), tmp_path, "net")[0])
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 20), dtype=np.float32)
    assert check_parity(network, runner, [image]) < 1e-5


# kernel, stride, padding, output padding
TRANSPOSED = [
    (4, 2, 1, 0),
    (2, 2, 0, 0),
    (3, 2, 1, 1),
    (6, 2, 2, 0),
    (3, 3, 0, 0),
    (5, 3, 1, 0),
    (3, 1, 1, 0),
    (7, 4, 2, 1),
]


@pytest.mark.parametrize(("kernel", "stride", "padding", "more"), TRANSPOSED)
@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolutions_as_ordinary_ones(
    kernel: int, stride: int, padding: int, more: int, bias: bool
) -> None:
    layer = nn.ConvTranspose2d(5, 8, kernel, stride, padding, more, bias=bias)
    nn.init.zeros_(layer.weight[0, 0])
    network = nn.Sequential(nn.ReLU(), layer)
    made, changed = without_transposed(network)
    image = torch.randn(2, 5, 6, 7)
    assert changed == ["1"]
    assert network[1] is layer
    with torch.no_grad():
        torch.testing.assert_close(made(image), network(image), rtol=1e-5, atol=1e-6)


def test_zeros_of_a_block_of_filters_stay_together() -> None:
    """A 4x4 kernel with 3 of 4 blocks removed: of its 3x3 ordinary one 4/9 are its weights, each block one mask."""
    layer = nn.ConvTranspose2d(8, 8, 4, 2, 1)
    network = nn.Sequential(nn.ReLU(), layer)
    apply_masks(network, masks(network, Block(4), {"1.weight": 0.75}))
    assert (layer.weight == 0).float().mean() == 0.75
    made = without_transposed(network)[0].get_submodule("1")
    assert isinstance(made, SubPixelConv2d)
    blocks = (made.conv.weight != 0).reshape(-1, 4, 8, 3, 3)
    assert (blocks == blocks[:, :1]).all()
    assert float(blocks.float().mean()) == pytest.approx(0.25 * 4 / 9)


def test_other_transposed_convolutions_stay() -> None:
    layers = [
        nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=2),
        nn.ConvTranspose2d(4, 4, 3, 2, 1),
        nn.ConvTranspose2d(4, 4, 4, 2),
        nn.ConvTranspose2d(4, 4, 2, 2, dilation=2),
        nn.Conv2d(4, 4, 1),
    ]
    for layer in layers:
        nn.init.zeros_(layer.weight[0, 0])
    layers.append(nn.ConvTranspose2d(4, 4, 4, 2, 1))  # dense
    made, changed = without_transposed(nn.Sequential(*layers))
    assert changed == []
    assert repr(made) == repr(nn.Sequential(*layers))


def test_mnn_skips_what_is_zero_in_a_transposed_convolution(tmp_path: Path) -> None:
    pytest.importorskip("MNN")
    from compress.engines.mnn import SPARSE_BLOCK, _attributes

    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ConvTranspose2d(16, 8, 4, 2, 1))
    apply_masks(network, masks(network, Block(SPARSE_BLOCK), {"1.weight": 0.75}))
    path = engine("mnn_sparse").export(without_transposed(network)[0], (16, 16), tmp_path, "net")[0]
    assert [facts["sparse"] for facts in _attributes(path).values() if "sparse" in facts] == [0.89]
    image = np.random.default_rng(0).standard_normal((1, 3, 16, 16), dtype=np.float32)
    assert check_parity(network, engine("mnn_sparse").load(path), [image]) < 1e-5
