"""What the rules say of a network is what pnnx and ncnn make of it; each export, which takes seconds, holds several."""

import random
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.engines import engine
from compress.engines.kernel import Kernel
from compress.engines.ncnn_rules import kernels_by_part
from compress.engines.operations import UnknownOperationError
from compress.errors import SpaceError
from compress.measure.kernels import detect_kernels, kernels_of_engine
from compress.nas.space import expand, read_space
from compress.networks import architecture_from_data, architecture_to_data
from compress.networks.architecture import without_values
from compress.networks.blocks import conv_bn
from compress.recipe import find

sys.path.insert(0, str(Path(__file__).parent.parent / "networks"))
from small import SMALL

HW = (64, 96)
TOGETHER = [
    ("dir_bhrnet", "dir_bhrnet_single", "simple_baseline", "mobilenet_v2", "openpose", "shufflenet_v2"),
    ("higher_hrnet", "dir_hrnet_b", "mobilenet_v3", "lightweight_openpose", "hourglass", "mobile_openpose_7x7"),
    ("efficient_hrnet", "lightweight_hrnet", "mobileposenet_attention", "mobile_openpose_efficientnet", "small_hrnet"),
    ("lightweight_hrnet_separable", "mobile_openpose_swish", "openpose_one_stage", "mobileposenet_transposed"),
]
WITHOUT_RULES = {
    "lite_hrnet",
    "lite_hrnet_shuffle",
    "dite_hrnet",
    "dite_hrnet_memory",
    "edite_hrnet",
    "edite_hrnet_dense",
    "edite_hrnet_unmixed",
    "lightweight_hrnet_exchange",
    "rtmpose",
    "rtmpose_deep",
}
SPACES = ("bhrnet_small", "openpose_depth", "efficienthrnet_mobile", "bhrnet")


class Together(nn.Module):
    """Several networks of one picture."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        made: list[Tensor] = []
        for network in self.networks:
            outputs = network(x)
            made += outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(made)


def by_rules(network: nn.Module) -> Counter[Kernel]:
    return sum(kernels_by_part(network, HW).values(), Counter())


def equal(network: nn.Module) -> None:
    assert by_rules(network) == Counter(kernels_of_engine(network, HW, engine("ncnn")))


@pytest.mark.parametrize("names", TOGETHER, ids=lambda names: names[0])
def test_networks_of_every_kind(names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    equal(Together([SMALL[name].build() for name in names]))


def test_random_candidates_of_the_shipped_spaces() -> None:
    """Of few blocks, as pnnx takes seconds for the others."""
    rng, networks = random.Random(0), []
    for name in SPACES:
        file = read_space(find(name, "search_spaces", SpaceError))
        base = architecture_from_data({"family": file.family, **file.fixed}, name)
        space = expand(file, architecture_to_data(base))
        few = {path: values[0] for path, values in space.choices.items() if path.startswith("blocks")}
        for _ in range(2 if name == "bhrnet_small" else 1):
            pick = {**space.sample(rng), **few, **space.unedited}
            networks.append(architecture_from_data(space.apply(pick), name).build())
    equal(Together(networks))


@pytest.mark.parametrize("name", sorted(SMALL))
def test_a_network_has_rules_for_all_its_operations_or_the_export_decides(name: str) -> None:
    with without_values():
        network = SMALL[name].build()
    parts = engine("ncnn").kernels_by_part(network, HW)
    assert (parts is None) == (name in WITHOUT_RULES)


class Block(nn.Module):
    """Layers that a forward joins by hand."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


class ReadTwice(Block):
    """A convolution whose output is read before its activation as well keeps it apart."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(torch.relu(y)) + y


class Sliced(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        low, high = y[:, :3], y[:, 3:]
        return torch.cat([high, self.second(low)], 1)


class Gated(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        gate = torch.sigmoid(self.second(nn.functional.adaptive_avg_pool2d(y, 1)))
        return y * gate


def test_what_the_zoo_does_not_have() -> None:
    """Layers and settings in every combination that has a rule."""
    torch.manual_seed(0)
    conv = nn.Conv2d
    networks = [
        ReadTwice(first=conv(3, 4, 3, padding=1), second=conv(4, 4, 1)),
        nn.Sequential(conv(3, 6, 3, stride=(1, 2), padding=(2, 1), dilation=(2, 1), bias=False), nn.ReLU6()),
        nn.Sequential(conv(3, 6, 1), nn.Hardtanh(-2.5, 0.5), nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
        nn.Sequential(conv_bn(3, 6, 3), nn.MaxPool2d((2, 3), (1, 2)), nn.Sigmoid(), nn.ELU(0.5), nn.ReLU(), nn.SiLU()),
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), conv(3, 3, 3, groups=3), nn.BatchNorm2d(3), nn.Sigmoid()),
        nn.Sequential(conv(3, 4, 1), nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), nn.ReLU()),
        nn.Sequential(nn.Upsample(scale_factor=(2, 3), mode="bilinear"), conv(3, 2, 1)),
        Sliced(first=conv(3, 8, 1), second=conv(3, 5, 1)),
        Gated(first=conv(3, 8, 1, bias=False), second=conv(8, 8, 1, bias=False)),
    ]
    equal(Together(networks).eval())


@pytest.mark.parametrize(
    "odd",
    [
        nn.Sequential(nn.Conv2d(3, 8, 1), nn.GELU()),
        nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)),
        nn.Sequential(nn.Upsample(size=(8, 8))),
        nn.Sequential(nn.Conv2d(3, 8, 3, padding="same")),
        nn.Sequential(nn.Flatten()),
        nn.Sequential(nn.AdaptiveAvgPool2d(2)),
    ],
    ids=lambda odd: type(odd[-1]).__name__,
)
def test_an_operation_without_a_rule_is_named_and_left_to_the_export(odd: nn.Module) -> None:
    with pytest.raises(UnknownOperationError, match=rf"{len(odd) - 1}:0.*has no rule"):
        kernels_by_part(odd, HW)
    assert engine("ncnn").kernels_by_part(odd, HW) is None


def test_a_network_that_cannot_be_recorded_is_left_to_the_export() -> None:
    class OnTheCpu(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.ones(1, 3, *HW, device="cpu")

    assert engine("ncnn").kernels_by_part(OnTheCpu(), HW) is None


def test_parts_are_named_by_the_module_that_makes_them() -> None:
    network = nn.Sequential(conv_bn(3, 8, 3), nn.Upsample(scale_factor=2))
    parts = kernels_by_part(network, HW)
    assert {part: [kernel.operator for kernel in kernels] for part, kernels in parts.items()} == {
        "0.conv:0": ["Convolution"],
        "1:0": ["Interp"],
    }


def test_no_export_where_there_are_rules_and_the_network_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("exported")

    monkeypatch.setattr(type(engine("ncnn")), "export", never)
    network = SMALL["dir_bhrnet_single"].build().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert detect_kernels(network, HW, engine("ncnn")) == by_rules(network)
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
