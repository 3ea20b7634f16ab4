"""One conformance file for every engine."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.engines import ENGINES, check_parity, engine
from compress.engines.engine import Engine, Image
from compress.errors import EngineError, ParityError
from compress.networks.blocks import build_block, conv_bn
from compress.networks.dir_bhrnet import DirBHRNet
from compress.networks.hrnet import HRNet

HW = (64, 96)
NETWORKS = {
    "dir_bhrnet": DirBHRNet(
        8, ((1,), (1, 1), (1, 1, 1), (1, 1, 1, 1)), kinds=("ir", "dir_se", "residual", "ir_dw"), head_filters=8
    ),
    "hrnet": HRNet(8, (1, 1, 1), 1),
}
FILES = {"onnxruntime": {"net.onnx"}, "ncnn": {"net.ncnn.param", "net.ncnn.bin"}}


def images(n: int = 2) -> list[Image]:
    return [np.random.default_rng(seed).standard_normal((1, 3, *HW), dtype=np.float32) for seed in range(n)]


def with_statistics(network: nn.Module) -> nn.Module:
    """Batch norms that are not the identity, so that folding them wrongly would show."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.1
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    return network


@pytest.fixture(params=sorted(ENGINES))
def runtime(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


@pytest.mark.parametrize("name", NETWORKS)
def test_export_gives_torchs_outputs(
    runtime: Engine, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = with_statistics(NETWORKS[name].build())
    paths = runtime.export(network, HW, tmp_path / "new", "net")
    assert {path.name for path in (tmp_path / "new").iterdir()} == FILES[runtime.name] == {path.name for path in paths}
    assert check_parity(network, runtime.load(paths[0]), images()) < 1e-5
    assert capfd.readouterr() == ("", "")


def test_export_leaves_the_network_alone(runtime: Engine, tmp_path: Path) -> None:
    network = nn.Sequential(conv_bn(3, 8, 3, 2), build_block("dir_se", 8, 2)).train()
    network[0].eval()
    before = copy.deepcopy(network)
    path = runtime.export(network, HW, tmp_path, "net")[0]
    check_parity(network, runtime.load(path), images(1))
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), before.state_dict().values(), strict=True)
    )


def test_a_different_network_fails_parity(runtime: Engine, tmp_path: Path) -> None:
    network = with_statistics(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 17, 1)))
    runner = runtime.load(runtime.export(network, HW, tmp_path, "net")[0])
    with torch.no_grad():
        network[2].weight[3] *= 1.01  # type: ignore[operator]
    with pytest.raises(ParityError, match=r"image 0, output 0.*relative error"):
        check_parity(network, runner, images())


def test_describe(runtime: Engine) -> None:
    description = runtime.describe()
    assert description.engine == runtime.name
    assert description.version
    assert description.cpu in description.device
    assert description == runtime.describe()


@pytest.mark.parametrize("content", [None, "not a model"])
def test_a_file_that_is_no_model(runtime: Engine, tmp_path: Path, content: str | None) -> None:
    for name in FILES[runtime.name]:
        if content is not None:
            (tmp_path / name).write_text(content)
    first = tmp_path / max(FILES[runtime.name])
    with pytest.raises(EngineError, match="export the network"):
        runtime.load(first)


def test_an_operation_the_engine_lacks(runtime: Engine, tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svdvals(x)

    with pytest.raises(EngineError, match="Odd"):
        runtime.export(Odd(), HW, tmp_path, "net")
    assert list(tmp_path.iterdir()) == []


def test_onnx_names(tmp_path: Path) -> None:
    import onnx

    path = ENGINES["onnxruntime"].export(NETWORKS["dir_bhrnet"].build(), HW, tmp_path, "net")[0]
    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == ["image"]
    assert [o.name for o in graph.output] == ["output0", "output1"]
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [1, 3, *HW]


class Fixed:
    """A runner that always gives the same arrays."""

    def __init__(self, *outputs: np.ndarray) -> None:
        self.outputs = outputs

    def run(self, image: Image) -> tuple[np.ndarray, ...]:
        return self.outputs


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ([np.full((1, 3, *HW), np.nan, np.float32)], "nan"),
        ([np.zeros((1, 3, 1, 1), np.float32)], "shape"),
        ([], "0 outputs for 1"),
    ],
)
def test_wrong_outputs_fail_parity(output: list[np.ndarray], reason: str) -> None:
    with pytest.raises(ParityError, match=reason):
        check_parity(nn.Identity(), Fixed(*output), images(1))


def test_the_error_is_relative_to_the_largest_output() -> None:
    image = images(1)[0]
    off = image.copy()
    off[0, 0, 0, 0] += 0.001 * np.abs(image).max()
    assert check_parity(nn.Identity(), Fixed(off), [image], limit=0.01) == pytest.approx(0.001, rel=1e-2)


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(EngineError, match="did you mean 'ncnn'"):
        engine("ncn")
