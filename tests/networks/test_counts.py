"""Counts against the papers' (hand-copied from their tables, not from compress.networks.published)."""

import pytest

from compress.jobs.networks import counted_anew
from compress.measure.counting import Count, count
from compress.measure.kept_counts import kept_counts, size_key
from compress.networks import NETWORKS, network_named
from compress.networks.architecture import without_values
from compress.networks.published import PUBLISHED, Published


def counted(name: str, side: int | tuple[int, int]) -> Count:
    with without_values():
        network = network_named(name).build()
    return count(network, (side, side) if isinstance(side, int) else side)


# network, input, million parameters, G in the paper's convention
HRSUM_GIB = [
    ("hrnet_w32", (256, 192), 28.5, 7.10),
    ("hrnet_w32", (384, 288), 28.5, 16.0),
    ("hrnet_w48", (256, 192), 63.6, 14.6),
    ("hrnet_w48", (384, 288), 63.6, 32.9),
]
HRSUM = [
    ("higher_hrnet_w32", 512, 28.6, 47.9),
    ("higher_hrnet_w32", 640, 28.6, 74.8),
    ("higher_hrnet_w48", 640, 63.8, 154.3),
]
MMCV = [
    ("dir_bhrnet_32", 256, 6.03, 2.81),
    ("dir_bhrnet_32", 384, 6.03, 6.32),
    ("dir_bhrnet_32", 512, 6.03, 11.23),
    ("dir_bhrnet_star_32", 384, 5.92, 3.23),
    ("dir_bhrnet_star_25", 384, 3.40, 1.91),
]


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


def test_every_known_network_has_a_place_among_the_kept_counts() -> None:
    """Its name is what a mistyped NETWORK is compared with, before anything heavy is imported."""
    assert list(kept_counts()) == list(NETWORKS)


BUILT = [row for row in PUBLISHED if row.mark != "reference only"]


@pytest.mark.parametrize("row", BUILT, ids=lambda row: f"{row.network}-{row.input_hw[0]}-{row.keypoints}")
def test_rows_marked_exact_are_exact(row: Published) -> None:
    c = counted_anew(row)
    assert kept_counts()[row.network][size_key(row)] == c, "python -m compress.jobs.networks writes the counts anew"
    assert c.uncounted == ()
    if row.mark != "exact":
        return
    if row.flops_g is not None:
        flops = c.flops(row.convention) / (2**30 if row.gib else 1e9)
        assert prints_as(flops, row.flops_g, within=0.01), flops
    if row.params_m is not None and "misprint" not in row.note:
        params = c.params if row.params_convention == "plain" else c.params_by_class_name
        assert prints_as(params / 1e6, row.params_m, within=0.005), params


def prints_as(value: float, printed: float, within: float) -> bool:
    """Whether the value, rounded or cut to the printed digits, is the printed one, or is that near (relative)."""
    decimals = len(repr(printed).partition(".")[2])  # 16.0 has one: how many zeros were printed is not known
    nearest = min(max(value, printed - 0.5 * 10**-decimals), printed + 0.999 * 10**-decimals)
    return abs(value - nearest) <= within * printed


def test_every_network_has_a_published_row() -> None:
    assert {row.network for row in BUILT} == set(NETWORKS)
