"""The fast way of cutting gives what onnxruntime's own optimised graph has; every network cuts on every engine."""

import random
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.engines import ENGINES, engine
from compress.engines.kernel import Operand
from compress.engines.onnxruntime_fusion import channel_block, kernels_by_part, kernels_by_rules
from compress.engines.operations import UnknownOperationError
from compress.errors import EngineError
from compress.measure.counting import count
from compress.measure.kernels import detect_kernels, kernels_of_engine
from compress.networks import Architecture
from compress.networks.architecture import without_values
from compress.networks.blocks import BLOCK_KINDS, build_block, conv_bn
from compress.networks.dir_bhrnet import DirBHRNet
from compress.rewriting.sites import Rewrite, rewritten

sys.path.insert(0, str(Path(__file__).parent.parent / "networks"))
from small import SMALL

HW = (64, 96)
BY_RULES = {
    "simple_baseline",
    "simple_baseline_two_deconvs",
    "openpose",
    "openpose_one_stage",
    "lightweight_openpose_initial",
    "mobile_openpose",
    "mobile_openpose_7x7",
    "hrnet",
    "small_hrnet",
    "higher_hrnet",
    "dir_hrnet_a",
    "dir_hrnet_b",
    "dir_bhrnet",
    "dir_bhrnet_single",
    "dir_bhrnet_no_blocks",
}
"""Networks that the fast way must know: those of the search spaces among them."""


def random_bhrnet(seed: int) -> DirBHRNet:
    rng = random.Random(seed)
    return DirBHRNet(
        rng.choice([8, 10, 12, 16, 18, 20, 24]),
        tuple(tuple(rng.randint(0, 2) for _ in range(branches)) for branches in (1, 2, 3, 4)),
        tuple(rng.choice(BLOCK_KINDS) for _ in range(4)),
        tuple(rng.choice([1, 2, 4]) for _ in range(4)),
        rng.choice(["single", "higher"]),
        reach=rng.choice([1, 2, 3]),
    )


def test_a_hand_made_network_cut_by_hand() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv_bn(3, 16, 3, 2)
            self.block = build_block("residual", 16, 1)
            self.low = nn.Sequential(conv_bn(16, 24, 3, 2), conv_bn(24, 16, 1, act=None), nn.Upsample(scale_factor=2))
            self.deconv = nn.ConvTranspose2d(16, 8, 4, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.block(self.stem(x))
            return x, self.deconv(torch.relu(self.low(x) + x))

    nearest = "coordinate_transformation_mode=asymmetric mode=nearest"
    assert Counter(kernel.key for kernel in kernels_by_rules(Small(), (32, 64), block=16)) == {
        "nchwc.Conv 1x3x32x64,*16x3x3x3,*16 > 1x16x16x32 activation=Relu pads=[1,1,1,1] strides=[2,2]": 1,
        "nchwc.Conv 1x16x16x32,*16x16x3x3,*16 > 1x16x16x32 activation=Relu pads=[1,1,1,1]": 1,
        "nchwc.Conv 1x16x16x32,*16x16x3x3,*16,1x16x16x32 > 1x16x16x32 activation=Relu pads=[1,1,1,1]": 1,
        # 24 channels fill a block and a half: two are computed.
        "nchwc.Conv 1x16x16x32,*32x16x3x3,*32 > 1x32x8x16 activation=Relu pads=[1,1,1,1] strides=[2,2]": 1,
        "nchwc.Conv 1x32x8x16,*16x32x1x1,*16 > 1x16x8x16": 1,
        f"nchwc.Upsample 1x16x8x16 > 1x16x16x32 {nearest} scales=[1,1,2,2]": 1,
        "Add 1x16x16x32,1x16x16x32 > 1x16x16x32": 1,
        "Relu 1x16x16x32 > 1x16x16x32": 1,
        # The first output, and what the transposed convolution reads.
        "nchwc.ReorderOutput 1x16x16x32 > 1x16x16x32 channels=16": 2,
        "ConvTranspose 1x16x16x32,*16x8x4x4,*8 > 1x8x32x64 pads=[1,1,1,1] strides=[2,2]": 1,
    }


@pytest.mark.parametrize("name", sorted(BY_RULES))
def test_the_fast_way_gives_onnxruntimes_own_kernels(name: str) -> None:
    network = SMALL[name].build()
    assert Counter(kernels_by_rules(network, HW)) == Counter(kernels_of_engine(network, HW, engine("onnxruntime")))


def test_a_stage_that_is_left_out_costs_a_copy() -> None:
    """Of the maps before it, which the network gives a second time; nothing is joined for it."""
    network = rewritten(SMALL["openpose"].build(), [Rewrite("remove_stage", "refinements.0")])
    found = Counter(kernels_by_rules(network, HW))
    assert found == Counter(kernels_of_engine(network, HW, engine("onnxruntime")))
    one_stage = Counter(kernels_by_rules(replace(SMALL["openpose"], stages=1).build(), HW))
    assert [kernel.operator for kernel in found - one_stage] == ["Identity"]


@pytest.mark.parametrize("seed", range(8))
def test_the_fast_way_gives_onnxruntimes_own_kernels_of_random_candidates(seed: int) -> None:
    network = random_bhrnet(seed).build()
    assert Counter(kernels_by_rules(network, HW)) == Counter(kernels_of_engine(network, HW, engine("onnxruntime")))


# ncnn's export takes seconds: what has no rules (tests/engines/test_ncnn_rules.py has the others), and one that has.
ON_NCNN = ("lite_hrnet", "dite_hrnet", "lightweight_hrnet_exchange", "rtmpose", "shufflenet_v2")


SLOW = {"edite_hrnet_dense", "edite_hrnet_unmixed"}  # seconds each, and no operation that edite_hrnet lacks


@pytest.mark.parametrize(
    ("runtime", "name"),
    [*(("onnxruntime", name) for name in SMALL if name not in SLOW), *(("ncnn", name) for name in ON_NCNN)],
)
def test_every_network_cuts_on_every_engine(runtime: str, name: str) -> None:
    """Nothing is dropped: engines merge and pad, but no multiply-add may be missing."""
    with without_values():
        network = SMALL[name].build()
    kernels = kernels_of_engine(network, HW, engine(runtime))
    assert len({kernel.key for kernel in kernels}) == len(set(kernels)) > 10
    assert all(kernel.bytes > 0 and kernel.kind for kernel in kernels)
    assert sum(kernel.macs for kernel in kernels) >= 0.99 * count(network, HW).macs


def test_mnn_cuts() -> None:
    pytest.importorskip("MNN")
    network = SMALL["lite_hrnet"].build()
    kernels = kernels_of_engine(network, HW, engine("mnn"))
    convolutions = [kernel for kernel in kernels if kernel.operator.startswith("Convolution")]
    assert {"kernelX", "kernelY"} <= {name for kernel in convolutions for name, _ in kernel.attributes}
    assert sum(kernel.macs for kernel in kernels) == pytest.approx(count(network, HW).macs, rel=0.01)


def test_cut_takes_the_fast_way_where_it_can_and_the_engine_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = ENGINES["onnxruntime"].export

    class Counting:
        name = "onnxruntime"

        def __getattr__(self, attribute: str) -> object:
            return getattr(ENGINES["onnxruntime"], attribute)

        def export(self, network: nn.Module, *args: object) -> object:
            asked.append(type(network).__name__)
            return real(network, *args)  # type: ignore[arg-type]

    known, other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU())
    assert sum(detect_kernels(known, (8, 8), Counting()).values()) == 2  # type: ignore[arg-type]
    assert asked == []
    assert any("Gelu" in kernel.operator for kernel in detect_kernels(other, (8, 8), Counting()))  # type: ignore[arg-type]
    assert asked == ["Sequential"]


def test_parts_add_up_to_the_whole() -> None:
    network = random_bhrnet(1).build()
    parts = kernels_by_part(network, HW)
    assert "stem.0.conv:0" in parts
    assert sum(parts.values(), Counter()) == Counter(kernels_by_rules(network, HW))


def test_what_the_fast_way_does_not_know_is_named() -> None:
    odd = nn.Sequential()
    odd.add_module("odd", nn.GELU())
    with pytest.raises(UnknownOperationError, match=r"1\.odd.*GELU"):
        kernels_by_rules(nn.Sequential(conv_bn(3, 8, 3), odd), (8, 8))
    with pytest.raises(UnknownOperationError, match="batch norm must follow a convolution"):
        kernels_by_rules(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.BatchNorm2d(8)), (8, 8))


def test_what_an_engine_cannot_run_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svdvals(x)

    with pytest.raises(EngineError, match="Odd"):
        detect_kernels(Odd(), (8, 8))


@pytest.mark.parametrize("architecture", [SMALL["dir_bhrnet"], SMALL["mobileposenet"]], ids=["rules", "engine"])
def test_cutting_leaves_the_network_alone(architecture: Architecture) -> None:
    network = architecture.build().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    detect_kernels(network, (64, 64))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_block_is_a_power_of_two() -> None:
    assert channel_block() in (1, 4, 8, 16, 32)


def test_operands_say_what_they_are() -> None:
    assert str(Operand((1, 3, 8, 8))) == "1x3x8x8"
    assert str(Operand((16, 3, 3, 3), constant=True)) == "*16x3x3x3"
    assert str(Operand((2,), "int64", constant=True, values=(8, 16))) == "int64:2=[8,16]"
    assert str(Operand((), "none")) == "-"
    assert (Operand((), "none").bytes, Operand((2, 3), "int64").bytes, Operand(()).bytes) == (0, 48, 4)
