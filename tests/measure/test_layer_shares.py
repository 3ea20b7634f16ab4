"""Nodes told which layers they are: by what engines really name them, and with multiply-adds in place of times."""

from pathlib import Path

import pytest
from torch import Tensor, nn

from compress.engines import engine
from compress.engines.kernel import Kernel, Operand
from compress.measure.counting import trace
from compress.measure.layer_shares import layer_shares
from compress.measure.profiling import Nodes
from compress.networks import Architecture
from compress.networks.efficient_hrnet import EfficientHRNet
from compress.networks.lightweight_openpose import LightweightOpenPose
from compress.networks.lite_hrnet import LiteHRNet
from compress.networks.mobileposenet import MobilePoseNet

SIDE = (64, 64)
SMALL: dict[str, Architecture] = {
    "efficient_hrnet": EfficientHRNet(
        stem=8,
        backbone_widths=(8, 8, 8, 16, 16, 24, 24),
        repeats=(1,) * 7,
        branch_widths=(8, 16, 24, 32),
        modules=(1, 1, 1),
        blocks=1,
    ),
    "lite_hrnet": LiteHRNet(width=8, modules=(1, 1, 1), blocks=1),
    "lightweight_openpose": LightweightOpenPose(width=0.25, features=16, head=32),
    "mobileposenet": MobilePoseNet(),
}


@pytest.mark.parametrize(
    ("name", "engine_name"),
    [
        *((name, key) for name in SMALL for key in ("onnxruntime", "ncnn")),
        ("mobileposenet", "mnn"),
    ],
)
def test_every_layers_multiply_adds_come_back(name: str, engine_name: str, tmp_path: Path) -> None:
    network, runtime = SMALL[name].build().eval(), engine(engine_name)
    layers = trace(network, SIDE).layers
    profiler = runtime.profiler(runtime.export(network, SIDE, tmp_path, "network")[0])
    profiler.run_timed()
    profile = profiler.finish()
    macs = [float(kernel.macs) for kernel in profile.kernels]
    shares = layer_shares(network, layers, Nodes(profile.kernels, profile.names, tuple(macs))).layers
    found = {layer.path: (share or 0.0) * sum(macs) for layer, share in zip(layers, shares, strict=True) if layer.macs}
    for layer in layers:
        if not layer.macs:
            continue
        if engine_name == "onnxruntime":  # fills channels up to whole blocks of at most 16
            channels = layer.module.weight.shape[:2]
            padded = [-(-n // 16) * 16 / n for n in channels]
            assert layer.macs * 0.999 <= found[layer.path] <= layer.macs * padded[0] * padded[1] * 1.001, layer.path
        else:
            assert found[layer.path] == pytest.approx(layer.macs, rel=0.01), layer.path


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU())])
        self.gate = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.last = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages[0](x)
        return self.last((x * self.gate(x)).tanh())


def kernel(operator: str, macs: int = 0, shape: tuple[int, ...] = (1, 8, 62, 62)) -> Kernel:
    return Kernel(operator, (), (Operand(shape),), macs=macs)


def gated_shares(
    kernels: list[Kernel], names: list[str], ratios: list[float]
) -> tuple[dict[tuple[str, str], float | None], dict[str, float]]:
    network = Gated().eval()
    layers = trace(network, SIDE).layers
    found = layer_shares(network, layers, Nodes(tuple(kernels), tuple(names), tuple(ratios)))
    shares = {(layer.path, layer.kind): share for layer, share in zip(layers, found.layers, strict=True)}
    return shares, found.rest


def test_names_of_onnx_nodes() -> None:
    convolution, gate, last = 62 * 62 * 8 * 3 * 9, 62 * 62 * 64, 62 * 62 * 64
    shares, rest = gated_shares(
        [
            kernel("Conv", convolution),
            kernel("QuickGelu"),
            kernel("Reorder"),
            kernel("Conv", gate),
            kernel("Mul"),
            kernel("Tanh"),
            kernel("Reorder"),
            kernel("Conv", last),
        ],
        [
            "/stages.0/stages.0.0/Conv_output_0_nchwc",
            "/stages.0/stages.0.2/Mul/QuickGeluFusion/",
            "ReorderOutput_3",
            "/gate/gate.1/Sigmoid_output_0_nchwc",
            "/Mul",
            "/Tanh",
            "ReorderInput",
            "output0_nchwc",
        ],
        [30, 10, 5, 20, 8, 12, 5, 10],
    )
    assert shares == {
        ("stages.0.0", "Conv2d"): pytest.approx(0.3),
        ("stages.0.1", "BatchNorm2d"): None,
        ("stages.0.2", "SiLU"): pytest.approx(0.1),
        ("gate.0", "Conv2d"): pytest.approx(0.2),  # with the sigmoid that it was fused with
        ("gate.1", "Sigmoid"): None,
        ("", "mul"): pytest.approx(0.08),
        ("", "tanh"): pytest.approx(0.12),
        ("last", "Conv2d"): pytest.approx(0.1),  # named by the network's output
    }
    assert rest == {"Reorder": pytest.approx(0.1)}


def test_ncnns_layers() -> None:
    shape = (8, 62, 62)
    shares, rest = gated_shares(
        [
            kernel("Convolution", 62 * 62 * 8 * 27, shape),
            kernel("Swish", 0, shape),
            kernel("Split", 0, shape),
            kernel("Convolution", 62 * 62 * 64, shape),
            kernel("BinaryOp", 0, shape),
            kernel("TanH", 0, shape),
            kernel("Convolution", 62 * 62 * 64, shape),
        ],
        ["conv_0", "silu_1", "splitncnn_0", "convsigmoid_0", "mul_0", "tanh_3", "conv_2"],
        [30, 10, 5, 20, 8, 12, 15],
    )
    known = {key: share for key, share in shares.items() if share is not None}
    assert known == {
        ("stages.0.0", "Conv2d"): pytest.approx(0.3),
        ("stages.0.2", "SiLU"): pytest.approx(0.1),
        ("gate.0", "Conv2d"): pytest.approx(0.2),
        ("", "tanh"): pytest.approx(0.12),
        ("last", "Conv2d"): pytest.approx(0.15),
    }
    assert list(rest.items()) == [("BinaryOp", pytest.approx(0.08)), ("Split", pytest.approx(0.05))]
