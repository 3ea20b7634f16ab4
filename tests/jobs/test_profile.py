"""`compress profile` against the BHRNet paper's Table I, NETWORKS.md's own measurements and networks written here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from compress.artefacts.artefact import save_artefact
from compress.artefacts.metadata import Metadata
from compress.artefacts.records import from_plain, to_plain
from compress.artefacts.results import LayerRow, Part, ProfileResult, Uncounted
from compress.errors import EngineError, NetworkError
from compress.jobs.profile.profile import profile
from compress.jobs.profile.site_costs import RULES_AGAINST
from compress.measure.counting import trace
from compress.measure.cross_check import cross_check
from compress.networks import Architecture
from compress.networks.blocks import ChannelShuffle
from compress.networks.dir_bhrnet import DirBHRNet, balanced_blocks, equal_blocks
from compress.networks.hrnet import HRNet
from compress.recipe import Data, ProfileRecipe
from compress.report.progress import Terminal
from compress.rewriting.rules import RULES
from compress.rewriting.sites import rewritten, sites


def profiled(name: str, **settings: Any) -> ProfileResult:
    return profile(name, ProfileRecipe(**settings), Terminal(quiet=True))


def of_architecture(architecture: Architecture, folder: Path, side: int) -> ProfileResult:
    save_artefact(folder, architecture, architecture.build(), Metadata((side, side), data=Data()))
    return profiled(str(folder))


RESIDUAL = ("residual",) * 4


@pytest.mark.parametrize(
    ("architecture", "shares"),
    [
        (DirBHRNet(width=8, kinds=RESIDUAL, blocks=equal_blocks(2), head="single"), [0.4, 0.3, 0.2, 0.1]),
        (DirBHRNet(width=8, kinds=RESIDUAL, blocks=balanced_blocks(1), head="single"), [0.2, 0.3, 0.3, 0.2]),
    ],
)
def test_table_1_of_the_bhrnet_paper(architecture: DirBHRNet, shares: list[float], tmp_path: Path) -> None:
    balance = of_architecture(architecture, tmp_path, 64).balance
    assert list(balance) == ["1/4", "1/8", "1/16", "1/32"]
    assert list(balance.values()) == pytest.approx(shares, abs=1e-5)


@pytest.mark.parametrize(
    ("architecture", "shares"),
    [  # with real DIR blocks: own computation in NETWORKS.md, 4.5
        (DirBHRNet(blocks=equal_blocks(2), expansions=(4,) * 4), [0.437, 0.292, 0.183, 0.088]),
        (DirBHRNet(blocks=balanced_blocks(1), expansions=(4,) * 4), [0.227, 0.304, 0.285, 0.184]),
        (DirBHRNet(), [0.227, 0.304, 0.285, 0.184]),
    ],
)
def test_balance_of_dir_blocks(architecture: DirBHRNet, shares: list[float], tmp_path: Path) -> None:
    result = of_architecture(architecture, tmp_path, 64)
    assert list(result.balance.values()) == pytest.approx(shares, abs=0.0006)


def test_stages_and_branches_add_up() -> None:
    result = profiled("hrnet_w48")
    assert result.input_hw == (256, 192)  # the first that the paper prints
    assert result.params == pytest.approx(63.6e6, rel=0.001)
    assert result.macs == pytest.approx(15.692e9, rel=0.0001)
    parts: tuple[Sequence[Part | LayerRow], ...] = (result.stages, result.resolutions, result.layers)
    for part in parts:
        assert sum(row.macs for row in part) == result.macs
        assert sum(row.params for row in part) == result.params
        assert sum(row.activation_bytes for row in part) == result.activation_bytes
        assert sum(row.share for row in part) == pytest.approx(1, abs=0.01)
    assert [stage.name for stage in result.stages] == [
        "stem",
        "stage1",
        "first_branch",
        "new_branches.0",
        "stages.0",
        "new_branches.1",
        "stages.1",
        "new_branches.2",
        "stages.2",
        "head",
    ]
    assert [resolution.name for resolution in result.resolutions] == ["1/2", "1/4", "1/8", "1/16", "1/32"]
    first = result.layers[0]
    assert (first.path, first.output) == ("backbone.stem.0.conv", (1, 64, 128, 96))
    assert first.activation_bytes == 4 * 64 * 128 * 96
    assert result.concerns == ()  # 3x3 convolutions and ReLU only, widths of 48


class Disliked(nn.Module):
    """One of everything that mobile engines handle badly."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Conv2d(3, 16, 7, 2, 3)
        self.act = nn.SiLU()
        self.dilated = nn.Conv2d(16, 12, 3, padding=2, dilation=2)
        self.up = nn.ConvTranspose2d(12, 8, 4, 2, 1)
        self.shuffle = nn.ChannelShuffle(2)
        self.friendly = nn.Hardswish()
        self.maps = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.dilated(self.act(self.large(x))))
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.maps(self.friendly(self.shuffle(x)).sigmoid())


def disliked() -> nn.Module:
    return Disliked()


def test_concerns_are_named_with_their_layers_and_reasons() -> None:
    result = profiled(f"{__name__}:disliked", input_hw=(32, 32))
    found = {concern.operator: list(concern.layers) for concern in result.concerns}
    assert found == {
        "exponential": ["network.act", "network"],
        "large kernel": ["network.large"],
        "dilation": ["network.dilated"],
        "transposed convolution": ["network.up"],
        "channel shuffle": ["network", "network.shuffle"],
        "odd channels": ["network.dilated"],  # 5 maps of 5 joints are as they must be
    }
    assert all(len(concern.reason) > 20 for concern in result.concerns)
    assert [stage.name for stage in result.stages if stage.params] == ["large", "dilated", "up", "maps"]


class Timed(Disliked):
    """With what can be exported to ONNX and timed there."""

    def __init__(self) -> None:
        super().__init__()
        self.shuffle, self.friendly = ChannelShuffle(2), nn.ReLU()


def test_sites_have_their_measured_cost_and_the_rules_against_them() -> None:
    result = profiled(f"{__name__}:Timed", input_hw=(32, 32), target="onnxruntime", rounds=4)
    timing, times = result.timing, {concern.operator: concern.time for concern in result.concerns}
    assert timing is not None
    assert (timing.engine.engine, timing.engine.threads) == ("onnxruntime", 1)
    latency = timing.latency
    assert latency.q1_ms is not None
    assert latency.q3_ms is not None
    assert latency.q1_ms <= latency.ms <= latency.q3_ms
    assert (latency.provenance, latency.clock) == ("measured", "stopwatch")
    assert sum(timing.rest.values()) == pytest.approx(timing.unattributed)
    assert 0 <= timing.unattributed < 1
    rules = {operator: {site.path: list(site.rules) for site in time.sites} for operator, time in times.items() if time}
    assert rules == {
        "exponential": {
            "network.act": ["swish_to_hard_swish", "swish_to_hard_tanh", "swish_to_relu"],
            "network": [],
        },
        "large kernel": {"network.large": ["conv_to_3x3"]},
        "dilation": {"network.dilated": ["dilated_to_3x3", "dilated_to_two_3x3"]},
        "transposed convolution": {"network.up": ["transposed_to_separable", "transposed_to_upsample"]},
        "channel shuffle": {"network": [], "network.shuffle": ["shuffle_to_pointwise"]},
        "odd channels": {"network.dilated": []},
    }
    in_order = []
    for concern in result.concerns:
        assert concern.time is not None
        known = [site.ms for site in concern.time.sites if site.ms is not None]
        assert known == sorted(known, reverse=True)
        assert concern.time.ms == pytest.approx(sum(known)) == pytest.approx(concern.time.time_share * latency.ms)
        assert set(concern.layers) == {site.path for site in concern.time.sites}
        in_order.append(concern.time.ms)
    assert in_order == sorted(in_order, reverse=True)
    dilation, odd = times["dilation"], times["odd channels"]
    assert dilation is not None
    assert odd is not None
    assert dilation.ms == odd.ms > 0  # the same layer
    assert from_plain(ProfileResult, to_plain(result), "a file") == result


def test_nothing_is_timed_without_a_target() -> None:
    result = profiled(f"{__name__}:disliked", input_hw=(32, 32))
    assert result.timing is None
    assert not any(concern.time for concern in result.concerns)
    with pytest.raises(ValidationError, match="rounds is of the timing on a target"):
        ProfileRecipe(rounds=4)
    with pytest.raises(EngineError, match="torch"):
        profiled(f"{__name__}:disliked", input_hw=(32, 32), target="torch")


class Replaceable(nn.Sequential):
    """One of everything that a rule replaces."""

    def __init__(self) -> None:
        convolutions = [nn.Conv2d(16, 16, 7, padding=3), nn.Conv2d(16, 16, 3, padding=2, dilation=2)]
        up, maps = nn.ConvTranspose2d(16, 16, 4, 2, 1), nn.Conv2d(16, 5, 1)
        super().__init__(nn.Conv2d(3, 16, 3, 2, 1), *convolutions, nn.SiLU(), up, ChannelShuffle(2), maps)


def replaced() -> nn.Module:
    network: nn.Module = Replaceable()
    for concern in ("large kernel", "exponential", "dilation", "transposed convolution", "channel shuffle"):
        rule = RULES[RULES_AGAINST[concern][-1 if concern == "transposed convolution" else 0]]
        found = sites(network, rule)
        assert len(found) == 1, concern
        network = rewritten(network, found)
    return network


def test_rules_against_concerns_are_known_and_remove_them() -> None:
    assert {rule for rules in RULES_AGAINST.values() for rule in rules} <= RULES.keys()
    assert {concern.operator for concern in profiled(f"{__name__}:Replaceable", input_hw=(32, 32)).concerns} == {
        "large kernel",
        "exponential",
        "dilation",
        "transposed convolution",
        "channel shuffle",
    }
    assert profiled(f"{__name__}:replaced", input_hw=(32, 32)).concerns == ()


class Functional(nn.Module):
    """What ptflops sees differently: functional calls, products, computed kernels, bilinear resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.deconv = nn.ConvTranspose2d(8, 4, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn(self.conv(x)))
        kernels = self.conv.weight.mean(1, keepdim=True)
        y = nn.functional.conv2d(y, kernels, groups=8)
        tokens = y.flatten(2)
        y = (tokens @ torch.matmul(tokens.transpose(1, 2), tokens)).view_as(y)
        return self.deconv(self.up(torch.add(nn.functional.relu(y), y).mul(0.5)))


@pytest.mark.parametrize("network", [Functional(), Disliked(), HRNet(width=8, modules=(1, 1, 1), blocks=1).build()])
def test_every_difference_to_ptflops_has_its_cause(network: nn.Module) -> None:
    from ptflops import get_model_complexity_info

    expected, _ = get_model_complexity_info(network, (3, 64, 64), as_strings=False, print_per_layer_stat=False)
    layers = trace(network, (64, 64)).layers
    check = cross_check(network, (64, 64), layers)
    assert check.macs == expected
    assert sum(d.ptflops - d.ours for d in check.differences) == expected - sum(layer.macs for layer in layers)
    assert all(d.cause and d.operator != "rest" for d in check.differences)


def test_causes() -> None:
    network = Functional()
    check = cross_check(network, (64, 64), trace(network, (64, 64)).layers)
    causes = {d.operator: d for d in check.differences}
    assert (causes["ReLU"].ptflops, causes["ReLU"].ours) == (8 * 64 * 64, 0)
    assert causes["F.relu"].cause == "the function that ReLU calls, counted again"
    assert causes["Conv2d"].ptflops - causes["Conv2d"].ours == 8 * 64 * 64
    assert causes["convolution"].cause == "ptflops does not see it"
    assert causes["convolution"].ours == 8 * 9 * 62 * 62
    assert causes["products"].ours == 2 * causes["products"].ptflops  # @ is not seen
    assert causes["BatchNorm2d"].ptflops == 2 * 8 * 64 * 64


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x).real


def unknown() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), Unknown())


def test_what_cannot_be_counted_is_named() -> None:
    rows = profiled(f"{__name__}:unknown", input_hw=(32, 32)).uncounted
    assert rows == (Uncounted("network.1", "Unknown", ("_fft_c2c",)),)


def test_input_size_must_fit() -> None:
    with pytest.raises(NetworkError, match="multiples of 32"):
        profiled("hrnet_w32", input_hw=(100, 96))
