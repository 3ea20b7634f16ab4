"""Depth against width: expected counts from the papers' arithmetic, layers counted in the built networks."""

import re

import pytest
from torch import nn

from compress.errors import NetworkError
from compress.measure.counting import count
from compress.networks import FAMILIES, NETWORKS, Architecture
from compress.networks.architecture import without_values
from compress.networks.dir_bhrnet import DirBHRNet, DirHRNet, balanced_blocks, equal_blocks
from compress.networks.efficient_hrnet import EfficientHRNet
from compress.networks.higher_hrnet import HigherHRNet
from compress.networks.hrnet import HRNet
from compress.networks.lite_hrnet import LiteHRNet
from compress.networks.mobile_openpose import MobileOpenPose
from compress.networks.own import PythonNetwork
from compress.networks.simple_baseline import SimpleBaseline
from compress.rewriting.depth import FAMILIES_DEPTH, FIXED_DEPTH, at_depth, layers_of, shared_out


def on_meta(architecture: Architecture) -> nn.Module:
    with without_values():
        return architecture.build()


def openpose_macs(a: Architecture, side: int = 368) -> int:
    """Multiply-adds of a MobileOpenPose with one refinement stage of three 3x3, from its record."""
    assert isinstance(a, MobileOpenPose)
    half, quarter, eighth = ((side // step) ** 2 for step in (2, 4, 8))
    w, f, maps = a.width, a.features, a.keypoints + 1 + 2 * a.limbs
    stem = half * 7 * 7 * 3 * w

    def bottleneck(inputs: int, planes: int, before: int, after: int) -> int:
        return before * inputs * planes + after * (9 * planes * planes + 4 * planes * planes)

    high = bottleneck(w, w, quarter, quarter) + quarter * w * 4 * w
    high += (a.blocks[0] - 1) * bottleneck(4 * w, w, quarter, quarter)
    low = bottleneck(4 * w, 2 * w, quarter, eighth) + eighth * 4 * w * 8 * w
    low += (a.blocks[1] - 1) * bottleneck(8 * w, 2 * w, eighth, eighth)
    neck = eighth * 9 * (8 * w * 2 * f + 2 * f * f)
    initial = eighth * (3 * 9 * f * f + 2 * f * 4 * f + 4 * f * maps)
    refinement = eighth * ((f + maps) * f + 4 * f * f + 5 * 3 * 9 * f * f + 2 * f * f + f * maps)
    return stem + high + low + neck + initial + refinement


def test_the_formula_is_the_networks() -> None:
    for name in ("mobile_openpose_24", "mobile_openpose_72"):
        assert openpose_macs(NETWORKS[name]) == count(on_meta(NETWORKS[name]), (368, 368)).macs


@pytest.mark.parametrize(
    ("layers", "blocks", "width", "giga"),
    [  # the 36-layer network's 16.09 G
        (24, (3, 4), 73, 16.02),
        (36, (3, 8), 62, 16.09),
        (72, (7, 16), 46, 16.11),
        (147, (15, 33), 33, 15.95),
    ],
)
def test_table_1_of_the_papers_networks(layers: int, blocks: tuple[int, int], width: int, giga: float) -> None:
    given, named = NETWORKS["mobile_openpose_36"], NETWORKS[f"mobile_openpose_{layers}"]
    found = at_depth(given, layers, openpose_macs)
    assert isinstance(found, MobileOpenPose)
    assert isinstance(named, MobileOpenPose)
    assert (found.blocks, found.width, found.layers) == (blocks, width, layers)
    assert openpose_macs(found) / 1e9 == pytest.approx(giga, abs=0.005)
    assert found.blocks == named.blocks
    if layers > 24:  # the paper's has 13.68 G only, which is no trade at equal multiply-adds
        assert abs(found.width - named.width) <= 1
    wanted = openpose_macs(given)
    tried = {w: openpose_macs(MobileOpenPose(blocks=blocks, width=w)) for w in range(2, 200)}
    assert width == min(tried, key=lambda w: abs(tried[w] - wanted))


SMALL: dict[str, Architecture] = {
    "mobile_openpose": MobileOpenPose(blocks=(3, 4), width=16, features=16),
    "simple_baseline": SimpleBaseline(width=16, filters=(16,)),
    "efficient_hrnet": EfficientHRNet(branch_widths=(8, 8, 8, 8), modules=(1, 1, 1), blocks=1),
    "hrnet": HRNet(width=12, modules=(1, 2, 1), blocks=2),
    "higher_hrnet": HigherHRNet(width=12, modules=(1, 2, 1), blocks=2),
    "lite_hrnet": LiteHRNet(width=20, modules=(1, 2, 1), blocks=2),
    "dir_hrnet": DirHRNet(width=16),
    "dir_bhrnet": DirBHRNet(width=16, blocks=balanced_blocks(2)),
}

_HRNET = r"backbone\.(stem|stage1|new_branches|stages\.(0\..*branches\.1|1\..*branches\.2|2\..*branches\.3))\."
_LITE = r"(stem\.conv|stem\.second|new_branches|stages\.(0\..*depthwise\.1|1\..*depthwise\.2|2\..*depthwise\.3))\."
DEEPEST = {  # the convolutions that count as layers, by their paths
    "mobile_openpose": r"features\.[0-3]\.",
    "simple_baseline": r"backbone\.",
    "efficient_hrnet": r"backbone\.(?!.*(squeeze|excite))",
    "hrnet": _HRNET,
    "higher_hrnet": _HRNET,
    "lite_hrnet": _LITE,
    "dir_hrnet": r"(stem|new_branches|stages\.0\.0|stages\.1\.1|stages\.2\.2|stages\.3\.3)\.",
    "dir_bhrnet": r"(stem|stages\.0\.0|stages\.1\.1|stages\.2\.2|stages\.3\.3)\.",
}


def built_layers(architecture: Architecture) -> int:
    modules = on_meta(architecture).named_modules()
    return sum(isinstance(m, nn.Conv2d) and bool(re.match(DEEPEST[architecture.family], path)) for path, m in modules)


@pytest.mark.parametrize("family", FAMILIES_DEPTH)
def test_layers_are_those_of_the_built_network(family: str) -> None:
    assert layers_of(SMALL[family]) == built_layers(SMALL[family])


def chain_macs(architecture: Architecture) -> int:
    """Of a chain of equal convolutions: as fast as arithmetic, and it rises with the width as a real count does."""
    return layers_of(architecture) * FAMILIES_DEPTH[architecture.family].width(architecture) ** 2


@pytest.mark.parametrize("family", FAMILIES_DEPTH)
@pytest.mark.parametrize("factor", [0.8, 1.7])
def test_deeper_is_narrower_at_equal_cost(family: str, factor: float) -> None:
    given, trade = SMALL[family], FAMILIES_DEPTH[family]
    found = at_depth(given, round(factor * layers_of(given)), chain_macs)
    assert layers_of(found) == built_layers(found)
    assert layers_of(found) == pytest.approx(factor * layers_of(given), rel=0.25)
    widths = range(2, 4 * trade.width(given))
    wanted = layers_of(given) * trade.width(given) ** 2
    nearest = min(widths, key=lambda width: abs(layers_of(found) * width**2 - wanted))
    assert found == trade.widened(found, nearest)


def test_the_given_number_of_layers_gives_the_given_network() -> None:
    for architecture in SMALL.values():
        assert at_depth(architecture, layers_of(architecture), macs_of=lambda a: 1 // 0) is architecture


def test_layers_of_published_networks() -> None:
    names = ("mobile_openpose_24", "mobile_openpose_147", "hrnet_w32", "dir_hrnet_32")
    assert [layers_of(NETWORKS[name]) for name in names] == [24, 147, 82, 37]
    # ResNet-50, -101 and -152 have these numbers with their classifier, without the four projections
    names = ("simple_baseline_r50", "simple_baseline_r101", "simple_baseline_r152")
    assert [layers_of(NETWORKS[name]) - 4 + 1 for name in names] == [50, 101, 152]
    assert layers_of(NETWORKS["lite_hrnet_30"]) - layers_of(NETWORKS["lite_hrnet_18"]) == 2 * (14 - 8)


def test_the_nearest_depth_is_taken_and_the_hand_balance_kept() -> None:
    doubled = at_depth(DirBHRNet(width=32, blocks=balanced_blocks(1)), 2 + 4 * 20, chain_macs)
    assert isinstance(doubled, DirBHRNet)
    assert doubled.blocks == balanced_blocks(2)
    found = at_depth(SimpleBaseline(width=16, filters=(16,)), 55, chain_macs)  # 53 or 56
    assert isinstance(found, SimpleBaseline)
    assert found.blocks == (3, 4, 7, 3)


def test_blocks_are_shared_out_in_proportion() -> None:
    like = (3, 4, 6, 3)
    for blocks in range(4, 60):
        counts, more = shared_out(blocks, like), shared_out(blocks + 1, like)
        assert sum(counts) == blocks
        assert sorted(b - a for a, b in zip(counts, more, strict=True)) == [0, 0, 0, 1]
        ideal = [max(1, blocks * n / sum(like)) for n in like]
        assert all(abs(n - wanted) <= 1 for n, wanted in zip(counts, ideal, strict=True))
    assert shared_out(16, like) == like
    assert shared_out(32, like) == (6, 8, 12, 6)


def test_every_family_trades_or_says_why_not() -> None:
    assert FAMILIES_DEPTH.keys() | FIXED_DEPTH.keys() == FAMILIES.keys()
    assert not FAMILIES_DEPTH.keys() & FIXED_DEPTH.keys()


@pytest.mark.parametrize(
    ("architecture", "layers", "message"),
    [
        (
            NETWORKS["mobilenet_v2"],
            60,
            "mobilenet_v2: depth cannot be traded for width: its record has the paper's plan",
        ),
        (PythonNetwork("a:b", "top-down", 17, 4, (4,), None), 9, "not described by blocks and a width"),
        (SMALL["hrnet"], 3, "hrnet: such a network has 24 to 1001 layers (found 3)"),
        (SMALL["simple_baseline"], 5000, "simple_baseline: such a network has 17 to 1001 layers (found 5000)"),
        (HRNet(width=2, modules=(1, 1, 1), blocks=1), 100, "no width leaves so many layers"),
        (DirBHRNet(width=8, blocks=equal_blocks(0)), 30, "depth needs blocks, of which there are none"),
    ],
)
def test_what_cannot_be(architecture: Architecture, layers: int, message: str) -> None:
    with pytest.raises(NetworkError) as caught:
        at_depth(architecture, layers, chain_macs)
    assert message in str(caught.value)
