"""Counts against the papers' (hand-copied from their tables, not from compress.networks.published)."""

import pytest
import torch

from compress.measure.counting import Count, count
from compress.networks import NETWORKS, network_named
from compress.networks.published import PUBLISHED


def counted(name: str, side: int | tuple[int, int]) -> Count:
    with torch.device("meta"):
        network = network_named(name).build()
    return count(network, (side, side) if isinstance(side, int) else side)


# network, input, million parameters, G in the paper's convention
HRSUM_GIB = [("hrnet_w32", (256, 192), 28.5, 7.10), ("hrnet_w32", (384, 288), 28.5, 16.0),
             ("hrnet_w48", (256, 192), 63.6, 14.6), ("hrnet_w48", (384, 288), 63.6, 32.9)]  # fmt: skip
HRSUM = [("higher_hrnet_w32", 512, 28.6, 47.9), ("higher_hrnet_w32", 640, 28.6, 74.8),
         ("higher_hrnet_w48", 640, 63.8, 154.3)]  # fmt: skip
MMCV = [("dir_bhrnet_32", 256, 6.03, 2.81), ("dir_bhrnet_32", 384, 6.03, 6.32), ("dir_bhrnet_32", 512, 6.03, 11.23),
        ("dir_bhrnet_star_32", 384, 5.92, 3.23), ("dir_bhrnet_star_25", 384, 3.40, 1.91)]  # fmt: skip


@pytest.mark.parametrize(("name", "side", "params", "flops"), HRSUM_GIB)
def test_hrnet_equals_its_paper(name: str, side: tuple[int, int], params: float, flops: float) -> None:
    c = counted(name, side)
    assert c.params / 1e6 == pytest.approx(params, rel=0.005)
    assert c.hrsum / 2**30 == pytest.approx(flops, rel=0.005)
    assert c.uncounted == ()


@pytest.mark.parametrize(("name", "side", "params", "flops"), HRSUM)
def test_higher_hrnet_equals_its_paper(name: str, side: int, params: float, flops: float) -> None:
    c = counted(name, side)
    assert c.params / 1e6 == pytest.approx(params, rel=0.005)
    assert c.hrsum / 1e9 == pytest.approx(flops, rel=0.005)


@pytest.mark.parametrize(("name", "side", "params", "flops"), MMCV)
def test_dir_bhrnet_equals_its_paper(name: str, side: int, params: float, flops: float) -> None:
    c = counted(name, side)
    assert c.params / 1e6 == pytest.approx(params, rel=0.005)
    assert c.mmcv / 1e9 == pytest.approx(flops, rel=0.005)


def test_dir_hrnet_is_as_near_as_its_docstring_says() -> None:
    b, a = counted("dir_hrnet_32", 256), counted("dir_hrnet_32_a", 256)
    assert b.params / 2.51e6 == pytest.approx(1, abs=0.003)
    assert b.mmcv / 2.44e9 == pytest.approx(0.947, abs=0.002)
    assert a.params / 2.51e6 == pytest.approx(1.072, abs=0.002)
    assert a.mmcv / 2.44e9 == pytest.approx(0.981, abs=0.002)


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: f"{row.network}-{row.input_hw[0]}")
def test_rows_marked_exact_are_exact(row: object) -> None:
    from compress.networks.published import Published

    assert isinstance(row, Published)
    if row.mark != "exact":
        return
    c = counted(row.network, row.input_hw)
    flops = getattr(c, row.convention) / (2**30 if row.gib else 1e9)
    assert flops == pytest.approx(row.flops_g, rel=0.005)
    if "misprint" not in row.note:
        assert c.params / 1e6 == pytest.approx(row.params_m, rel=0.005)


def test_every_network_has_a_published_row() -> None:
    assert {row.network for row in PUBLISHED} == set(NETWORKS)


def test_count_of_one_convolution_is_the_formula() -> None:
    c = count(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.BatchNorm2d(8), torch.nn.ReLU()), (32, 16))
    outputs = 8 * 16 * 8
    assert c == Count(
        8 * 3 * 9 + 8 + 16, 27 * outputs, 27 * outputs, 27 * outputs + outputs + 2 * outputs + outputs, ()
    )


def test_unknown_modules_are_named() -> None:
    assert count(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Softplus()), (8, 8)).uncounted == ("Softplus",)
