"""RTMPose: counts by part, the head against its formulas written with numpy, and the public network's outputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.artefacts.network import open_network
from compress.errors import NetworkError
from compress.measure.counting import count, trace
from compress.networks import network_named
from compress.networks.architecture import without_values
from compress.networks.rtmpose import GatedAttention, RTMPose, ScaleNorm
from compress.pruning.structured import checked, prunable_channels
from tests.networks.checkpoints.fixtures import WHOLE_NAMES, whole

Floats = NDArray[np.float64]


def named(name: str) -> RTMPose:
    architecture = network_named(name)
    assert isinstance(architecture, RTMPose)
    return architecture


# Parameters and million multiply-adds at 256x192 of each part, measured on mmpose's own network.
PARTS = {
    "rtmpose_t": {
        "backbone.stem": (4_308, 51.76),
        "backbone.stage1": (24_120, 65.55),
        "backbone.stage2": (94_320, 64.63),
        "backbone.stage3": (372_960, 64.20),
        "backbone.stage4": (1_852_992, 81.77),
        "head.final_layer": (319_889, 15.35),
    },
    "rtmpose_s": {
        "backbone.stem": (7_472, 90.24),
        "backbone.stage1": (42_400, 115.71),
        "backbone.stage2": (209_664, 147.18),
        "backbone.stage3": (828_928, 146.00),
        "backbone.stage4": (3_289_856, 145.27),
        "head.final_layer": (426_513, 20.47),
    },
    "rtmpose_m": {
        "backbone.stem": (16_392, 199.07),
        "backbone.stage1": (118_848, 332.97),
        "backbone.stage2": (658_368, 474.55),
        "backbone.stage3": (2_606_976, 470.97),
        "backbone.stage4": (8_878_848, 397.87),
        "head.final_layer": (639_761, 30.71),
    },
}
HEAD = {
    "head.mlp": (12_289, 0.21),
    "head.gau": (426_753, 7.43),
    "head.cls_x": (98_304, 1.67),
    "head.cls_y": (131_072, 2.23),
}
TOTALS = {"rtmpose_t": (3_337_007, 354.8), "rtmpose_s": (5_473_251, 676.4), "rtmpose_m": (13_587_611, 1917.7)}


@pytest.mark.parametrize("name", PARTS)
def test_every_part_has_the_public_networks_size(name: str) -> None:
    with without_values():
        network = named(name).build()
    layers = trace_of(network)
    for part, (params, mmacs) in {**PARTS[name], **HEAD}.items():
        assert sum(p.numel() for p in network.get_submodule(part).parameters()) == params, part
        macs = sum(macs for path, macs in layers if path == part or path.startswith(f"{part}."))
        assert round(macs / 1e6, 2) == pytest.approx(mmacs, abs=0.011), part
    whole = count(network, (256, 192))
    assert (whole.params, round(whole.macs / 1e6, 1)) == TOTALS[name]
    assert whole.uncounted == ()


def trace_of(network: nn.Module) -> list[tuple[str, int]]:
    return [(layer.path, layer.macs) for layer in trace(network, (256, 192)).layers]


def scale_norm(v: Floats, g: float) -> Floats:
    size = np.linalg.norm(v, axis=-1, keepdims=True) / np.sqrt(v.shape[-1])
    return g * v / np.maximum(size, 1e-5)


def test_scale_norm_divides_by_the_root_mean_square_and_bears_zeros() -> None:
    norm = ScaleNorm()
    nn.init.constant_(norm.g, 1.7)
    x = torch.randn(2, 5, 12)
    x[0, 1] = 0
    np.testing.assert_allclose(norm(x).detach().numpy(), scale_norm(x.double().numpy(), 1.7), rtol=1e-5, atol=1e-7)


def test_gated_attention_is_its_formula() -> None:
    torch.manual_seed(0)
    unit = GatedAttention(12, 10, 6, nn.SiLU()).double()
    nn.init.uniform_(unit.res_scale.scale, 0.5, 1.5)
    y = torch.randn(2, 5, 12, dtype=torch.float64)
    p = {name: tensor.detach().numpy() for name, tensor in unit.named_parameters()}
    mixed = scale_norm(y.numpy(), float(p["ln.g"][0])) @ p["uv.weight"].T
    mixed = mixed / (1 + np.exp(-mixed))
    u, v, base = mixed[..., :10], mixed[..., 10:20], mixed[..., 20:]
    q, k = base * p["gamma"][0] + p["beta"][0], base * p["gamma"][1] + p["beta"][1]
    attention = np.maximum(q @ k.transpose(0, 2, 1) / np.sqrt(6), 0) ** 2
    expected = p["res_scale.scale"] * y.numpy() + (u * (attention @ v)) @ p["o.weight"].T
    np.testing.assert_allclose(unit(y).detach().numpy(), expected, rtol=1e-10)


@pytest.mark.skipif(not WHOLE_NAMES, reason="COMPRESS_CHECKPOINTS names no folder of more fixtures")
@pytest.mark.parametrize("name", ["mmpose_rtmpose_t_256x192", "mmpose_rtmpose_s_256x192"])
def test_it_answers_what_the_public_network_answers(name: str) -> None:
    network, fixture = named(name.removeprefix("mmpose_").removesuffix("_256x192")).build().eval(), whole(name)
    network.load_state_dict(fixture.tensors)  # the names are the same
    assert fixture.error(network) < 1e-5
    network.head.gau.gamma.data = network.head.gau.gamma.data.flip(0)  # type: ignore[union-attr]
    assert fixture.error(network) > 1e-2


def test_only_the_last_stage_has_pyramid_pooling_and_no_additions() -> None:
    network = named("rtmpose_s").build()
    kinds = [[type(part).__name__ for part in stage.children()] for stage in network.backbone.stages]
    assert kinds == [["Sequential", "CSPLayer"]] * 3 + [["Sequential", "SpatialPyramidPooling", "CSPLayer"]]
    layers = [list(stage.children())[-1] for stage in network.backbone.stages]
    skips = [[block.skip for block in layer.blocks] for layer in layers]  # type: ignore[union-attr]
    assert skips == [[True], [True, True], [True, True], [False]]


def test_another_input_size_is_another_network() -> None:
    opened = open_network("rtmpose_t", (96, 64))
    assert opened.input_hw == (96, 64)
    assert opened.architecture == replace(named("rtmpose_t"), input_hw=(96, 64))
    outputs: tuple[Tensor, ...] = opened.module(torch.zeros(1, 3, 96, 64))
    assert [tuple(output.shape) for output in outputs] == [(1, 17, 128), (1, 17, 192)]
    assert open_network("rtmpose_t", weights=False).input_hw == (256, 192)
    assert open_network(opened.architecture, weights=False).input_hw == (96, 64)
    with pytest.raises(NetworkError, match=r"one input size only.*96x64"):
        open_network(opened, (256, 192))
    with pytest.raises(NetworkError, match="multiples of 32 for rtmpose"):
        open_network("rtmpose_t", (100, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth must be above 0"),
        ({"width": 0}, "width must be above 0"),
        ({"width": 0.005}, "half of the stem"),
        ({"blocks": (0, 1, 1, 1)}, "every stage must have at least 1 block"),
        ({"kernels": (4, 5, 5, 5)}, "kernels must be odd"),
        ({"expansions": (0, 1, 1, 1)}, "expansions must be above 0"),
        ({"key": 0}, "tokens, gate, key and split"),
        ({"keypoints": 0}, "keypoints must be at least 1"),
        ({"input_hw": (100, 64)}, "positive multiples of 32"),
    ],
)
def test_choices_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RTMPose(), **change)  # type: ignore[arg-type]


def test_the_gate_of_the_attention_unit_is_prunable_and_the_rest_of_it_says_why_not() -> None:
    architecture = RTMPose(width=0.0625, tokens=12, gate=10, key=6, input_hw=(64, 64))
    network = architecture.build().eval()
    channels = prunable_channels(network, (64, 64))
    (unit,) = (group for group in channels.groups() if group.made_by[0] == "head.gau.uv.weight")
    gates = [member for member in unit.members if member not in channels.kept]
    assert len(gates) == 10  # of each gate its row of u and that of v together
    assert {channels.kept[member] for member in unit.members if member in channels.kept} == {
        "one value meets several channels"
    }
    reasons = channels.unprunable()
    assert reasons["head.mlp.1.weight"] == "the operator mean mixes channels"  # ScaleNorm reads all of a token
    assert reasons["head.cls_x.weight"].startswith("output 0")
    smaller = checked(network, channels, gates[:4], (64, 64))
    assert (smaller.head.gau.o.in_features, smaller.head.gau.uv.out_features) == (6, 18)  # type: ignore[union-attr]
    attention = smaller.head.gau  # type: ignore[union-attr]
    assert attention.gamma.shape == (2, 6)  # type: ignore[union-attr]
