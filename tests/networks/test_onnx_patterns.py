"""What stands in an ONNX graph as single operators is found: our networks, written and read back, have their sites."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.engines import engine
from compress.networks.blocks import ChannelShuffle, SqueezeExcite, conv_bn
from compress.networks.onnx_file import check_conversion, read_onnx
from compress.rewriting.rules import RULES
from compress.rewriting.sites import Rewrite, rewritten, sites
from tests.networks.small import SMALL

OURS = (
    "simple_baseline",
    "mobilenet_v3",
    "shufflenet_v2",
    "small_hrnet",
    "lite_hrnet",
    "lite_hrnet_shuffle",
    "higher_hrnet",
    "dir_bhrnet",
    "dir_bhrnet_single",
    "dir_hrnet_b",
    "efficient_hrnet",
    "lightweight_hrnet",
    "mobileposenet_attention",
    "mobileposenet_transposed",
    "hourglass",
)


def shaken(network: nn.Module) -> nn.Module:
    """With statistics of a trained network's kind, and no weight zero."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var, module.running_mean):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


@pytest.mark.parametrize("name", OURS)
def test_our_networks_have_their_sites_when_read_back(name: str, tmp_path: Path) -> None:
    """Norms alone are fewer: the exporter folds them into convolutions, but for those before one."""
    architecture = SMALL[name]
    torch.manual_seed(0)
    network = shaken(architecture.build())
    side = max(architecture.stride, 32)
    input_hw = (2 * side, 3 * side)
    (path,) = engine("onnxruntime").export(network, input_hw, tmp_path, "network")
    found = read_onnx(path)
    check_conversion(path, found, input_hw)
    for rule in RULES.values():
        if rule.name != "fold_batch_norm":
            assert len(sites(found, rule)) == len(sites(network, rule)), rule.name


def exported(network: nn.Module, path: Path, opset: int = 17, **settings: Any) -> Path:
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            network.eval(),
            (torch.zeros(1, 3, 16, 24),),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            **settings,
        )
    return path


class Function(nn.Module):
    """A convolution, and a function of its maps."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x))


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], type[nn.Module]]] = {
    "x·sigmoid(x)": (lambda x: x * torch.sigmoid(x), nn.SiLU),
    "sigmoid(x)·x, ReLU": (lambda x: torch.relu(torch.sigmoid(x) * x), nn.SiLU),
    "ReLU, x·sigmoid(x)": (lambda x: F.silu(torch.relu(x)), nn.SiLU),
    "hard swish": (F.hardswish, nn.Hardswish),
    "x·relu6(x + 3) / 6": (lambda x: x * F.relu6(x + 3) / 6, nn.Hardswish),
    "x·(relu6(3 + x)·(1/6))": (lambda x: x * (F.relu6(3 + x) * (1 / 6)), nn.Hardswish),
    "hard sigmoid": (F.hardsigmoid, nn.Hardsigmoid),
    "relu6(x + 3) / 6": (lambda x: F.relu6(x + 3) / 6, nn.Hardsigmoid),
    "GELU": (F.gelu, nn.GELU),
    "GELU by tanh": (lambda x: F.gelu(x, approximate="tanh"), nn.GELU),
    "Mish": (F.mish, nn.Mish),
    "x·exp(x) / (1 + exp(x))": (lambda x: x * torch.exp(x) / (1 + torch.exp(x)), nn.SiLU),
}


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_of_several_operators(name: str, opset: int, tmp_path: Path) -> None:
    function, kind = ACTIVATIONS[name]
    path = exported(Function(function), tmp_path / "net.onnx", opset)
    network = read_onnx(path)
    check_conversion(path, network, (16, 24))
    assert sum(type(module) is kind for module in network.modules()) == 1


OTHERS: dict[str, Callable[[Tensor], Tensor]] = {
    "x·sigmoid(2x)": lambda x: x * torch.sigmoid(2 * x),
    "half of it is read elsewhere": lambda x: torch.cat((x * (gate := torch.sigmoid(x)), gate), 1),
    "of two": lambda x: x[:, :2] * torch.sigmoid(x[:, 2:]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_an_activation_stays(name: str, tmp_path: Path) -> None:
    path = exported(Function(OTHERS[name]), tmp_path / "net.onnx")
    network = read_onnx(path)
    check_conversion(path, network, (16, 24))
    assert not any(type(module) is nn.SiLU for module in network.modules())


BOUNDED: dict[str, Callable[[Tensor], Tensor]] = {
    "SiLU": F.silu,
    "x·exp(x) / (1 + exp(x))": lambda x: x * torch.exp(x) / (1 + torch.exp(x)),
    "hard swish": F.hardswish,
    "GELU": F.gelu,
    "Mish": F.mish,
}


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("name", BOUNDED)
def test_a_bound_behind_an_activation_stays(name: str, opset: int, tmp_path: Path) -> None:
    pictures = torch.tensor([3.0, 17, 30, 80, 200, 3e4, 1e5, 1e9]).reshape(1, 1, 2, 4).expand(1, 3, 2, 4)
    for bound in (13.0, 20.0, 60.0, 95.0, 5e3, 7e4, 1e8):
        function = Function(lambda x, bound=bound: torch.clamp(BOUNDED[name](x), -bound, bound))
        nn.init.constant_(function.conv.weight, 1 / 3)
        nn.init.zeros_(function.conv.bias)  # type: ignore[arg-type]
        network = read_onnx(exported(function, tmp_path / "net.onnx", opset))
        with torch.no_grad():
            found, expected = network(pictures), function(pictures)
        known = expected.isfinite()
        torch.testing.assert_close(found[known], expected[known])
        assert found[known].max() <= bound


class Blocks(nn.Module):
    """Two residual blocks in a row, one whose middle is read elsewhere, one over a shuffle, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, 3)
        self.bodies = nn.ModuleList(nn.Sequential(conv_bn(8, 8, 3), conv_bn(8, 8, 3, act=None)) for _ in range(2))
        self.read, self.seen = conv_bn(8, 8, 3), conv_bn(8, 8, 3)
        self.attention, self.shuffle = SqueezeExcite(8, 2), ChannelShuffle(4)
        self.up, self.norm = nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for body in self.bodies:
            x = torch.relu(body(x) + x)
        middle = self.read(x)
        x = x + self.seen(middle)
        return self.norm(self.up(self.attention(self.shuffle(x)) + middle))


def test_blocks_are_found_and_can_be_replaced(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = exported(shaken(Blocks()), tmp_path / "net.onnx", do_constant_folding=False)
    network = read_onnx(path)
    check_conversion(path, network, (16, 24))
    expected = {"residual_to_dir": 2, "remove_block": 2, "se_to_none": 1, "shuffle_to_pointwise": 1}
    found = {name: sites(network, RULES[name]) for name in expected}
    assert {name: len(places) for name, places in found.items()} == expected
    x = torch.randn(2, 3, 16, 24)
    for places in found.values():
        changed = rewritten(network, places)(x)
        assert changed.shape == network(x).shape
    exact = rewritten(network, [*found["shuffle_to_pointwise"], *sites(network, RULES["fold_batch_norm"])])
    torch.testing.assert_close(exact(x), network(x), rtol=1e-4, atol=1e-4)


def test_a_norm_behind_a_transposed_convolution_is_folded_by_the_rule(tmp_path: Path) -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 8, 1), nn.Hardswish()
            self.up, self.norm = nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8, bias=False), nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.up(self.act(self.conv(x))))

    path = exported(shaken(Up()), tmp_path / "net.onnx")
    network = read_onnx(path)
    (place,) = sites(network, RULES["fold_batch_norm"])
    folded = rewritten(network, [place])
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    x = torch.randn(1, 3, 16, 24)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-4, atol=1e-5)


def test_a_rewritten_file_is_the_same_when_read_again(tmp_path: Path) -> None:
    """Paths are the file's own, so an artefact finds them again."""
    path = exported(shaken(Blocks()), tmp_path / "net.onnx")
    first, second = read_onnx(path), read_onnx(path)
    places = [Rewrite("remove_block", one.at) for one in sites(first, RULES["remove_block"])]
    assert [name for name, _ in first.named_modules()] == [name for name, _ in second.named_modules()]
    assert list(first.state_dict()) == list(second.state_dict())
    x = torch.randn(1, 3, 16, 24)
    assert torch.equal(rewritten(first, places)(x), rewritten(second, places)(x))
