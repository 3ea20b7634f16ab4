"""Cutting is checked against onnxruntime's own optimised graph and against the MAC counter."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from compress.engines import ENGINES
from compress.engines.onnxruntime import session_options
from compress.errors import EngineError
from compress.measure.counting import count
from compress.measure.units import Unit, channel_block, cut, cut_in_order
from compress.networks.blocks import BLOCK_KINDS, build_block, conv_bn
from compress.networks.dir_bhrnet import DirBHRNet, DirHRNet
from compress.networks.higher_hrnet import HigherHRNet
from compress.networks.hrnet import HRNet

OPERATORS = {
    "Conv": "conv", "FusedConv": "conv", "ConvTranspose": "deconv", "Add": "add", "Mul": "mul", "Relu": "relu",
    "Sigmoid": "sigmoid", "Concat": "concat", "Upsample": "upsample", "Resize": "upsample", "ReorderInput": "to_blocks",
    "ReorderOutput": "from_blocks", "GlobalAveragePool": "global_pool", "MaxPool": "max_pool",
}  # fmt: skip

ONE_EACH = ((1,), (1, 1), (1, 1, 1), (1, 1, 1, 1))


def random_bhrnet(seed: int) -> DirBHRNet:
    rng = random.Random(seed)
    return DirBHRNet(
        rng.choice([8, 10, 12, 16, 18, 24]),
        tuple(tuple(rng.randint(0, 2) for _ in range(branches)) for branches in (1, 2, 3, 4)),
        tuple(rng.choice(BLOCK_KINDS) for _ in range(4)),
        tuple(rng.choice([1, 2, 4]) for _ in range(4)),
        rng.choice(["single", "higher"]),
    )


ARCHITECTURES = [
    HRNet(16, (1, 1, 1), 1),
    HigherHRNet(8, (1, 1, 1), 1),
    DirHRNet(12, 1, variant="A"),
    DirHRNet(24, 1, kind="dir_se", head="single"),
    DirBHRNet(25, ONE_EACH),
    *(random_bhrnet(seed) for seed in range(4)),
]


def test_a_hand_made_network_cut_by_hand() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv_bn(3, 16, 3, 2)
            self.block = build_block("residual", 16, 1)
            self.low = nn.Sequential(conv_bn(16, 32, 3, 2), conv_bn(32, 16, 1, act=None), nn.Upsample(scale_factor=2))
            self.deconv = nn.ConvTranspose2d(16, 8, 4, 2, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.block(self.stem(x))
            return x, self.deconv(torch.relu(self.low(x) + x))

    assert Counter({unit.key: n for unit, n in cut(Small(), (32, 64), block=16).items()}) == {
        "conv3x3s2 3>16 32x64 relu": 1,
        "conv3x3 16 16x32 relu": 1,
        "conv3x3 16 16x32 relu +add": 1,
        "conv3x3s2 16>32 16x32 relu": 1,
        "conv1x1 32>16 8x16": 1,
        "upsamplex2 16 8x16": 1,
        "add 16 16x32": 1,
        "relu 16 16x32": 1,
        "from_blocks 16 16x32": 2,  # the first output; what the transposed convolution reads
        "deconv4x4s2p1x1 16>8 16x32 plain": 1,
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"{a.family}_{a.width}")
def test_units_are_the_nodes_of_onnxruntimes_graph(architecture: DirBHRNet, tmp_path: Path) -> None:
    network = architecture.build()
    (path,) = ENGINES["onnxruntime"].export(network, (64, 96), tmp_path, "net")
    options = session_options(1)
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    nodes: Counter[tuple[str, str, bool, bool]] = Counter()
    for node in onnx.load(tmp_path / "optimised.onnx").graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        activation = attributes.get("activation", b"").decode().lower()
        nodes[OPERATORS[node.op_type], activation, len(node.input) >= 4, node.domain.endswith("nchwc")] += 1
    units = cut_in_order(network, (64, 96))
    assert Counter((unit.kind, unit.activation, unit.added, is_nchwc(unit)) for unit in units) == nodes


def is_nchwc(unit: Unit) -> bool:
    """Whether the node itself is of the NCHWc kind: sums and activations on blocked tensors are ordinary nodes."""
    return unit.kind in ("to_blocks", "from_blocks") or (
        unit.blocked and unit.kind in ("conv", "upsample", "global_pool", "max_pool")
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"{a.family}_{a.width}")
def test_macs_over_units_equal_the_counter(architecture: DirBHRNet) -> None:
    network = architecture.build()
    assert sum(unit.macs * n for unit, n in cut(network, (64, 96)).items()) == count(network, (64, 96)).macs


def test_keys_are_unique_and_units_hash() -> None:
    units = set().union(*(cut(a.build(), (64, 96)) for a in ARCHITECTURES))
    assert len({unit.key for unit in units}) == len(units)


def test_convolutions_with_odd_padding_or_dilation_have_their_own_keys() -> None:
    same = Unit("conv", (8,), 8, 9, 9, kernel=(3, 3), padding=(1, 1))
    dilated = replace(same, padding=(2, 2), dilation=(2, 2))
    variants = [same, replace(same, padding=(0, 0)), dilated, replace(same, stride=(2, 1))]
    assert len({variant.key for variant in variants}) == 4
    assert dilated.output_hw == (9, 9)


def test_what_cannot_be_cut_is_named() -> None:
    odd = nn.Sequential()
    odd.add_module("odd", nn.GELU())
    with pytest.raises(EngineError, match=r"1\.odd.*GELU"):
        cut(nn.Sequential(conv_bn(3, 8, 3), odd), (8, 8))


def test_batch_norm_alone_is_refused() -> None:
    with pytest.raises(EngineError, match="batch norm must follow a convolution"):
        cut(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.BatchNorm2d(8)), (8, 8))


def test_control_flow_on_data_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(EngineError, match="control flow"):
        cut(Branching(), (8, 8))


def test_cutting_leaves_the_network_alone() -> None:
    network = DirBHRNet(8, ONE_EACH).build().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cut(network, (64, 64))
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_block_is_a_power_of_two() -> None:
    assert channel_block() in (1, 4, 8, 16, 32)
