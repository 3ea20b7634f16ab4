"""LitePose: counts by part, and the public network's outputs."""

from dataclasses import replace

import pytest
from torch import nn

from compress.measure.counting import count, trace
from compress.networks import network_named
from compress.networks.architecture import without_values
from compress.networks.litepose import LitePose
from tests.networks.checkpoints.fixtures import WHOLE_NAMES, whole

# Parameters and million multiply-adds at 448x448 of each part, measured on the authors' own network.
PARTS = {
    "litepose_s": {
        "backbone.stem": (1_824, 83.49),
        "backbone.stages.0": (49_152, 643.06),
        "backbone.stages.1": (167_456, 519.92),
        "backbone.stages.2": (412_704, 328.53),
        "backbone.stages.3": (1_964_688, 1517.21),
        "head.deconvs": (86_016, 240.85),
        "head.earlier_deconvs": (45_056, 160.56),
        "head.norms": (176, 0),
        "head.maps": (2_872, 85.20),
        "head.earlier_maps": (1_680, 45.56),
    },
    "litepose_m": {
        "backbone.stem": (1_824, 83.49),
        "backbone.stages.0": (81_936, 1041.05),
        "backbone.stages.1": (319_152, 1003.87),
        "backbone.stages.2": (817_200, 658.97),
        "backbone.stages.3": (2_006_880, 1549.84),
        "head.deconvs": (184_320, 481.69),
        "head.earlier_deconvs": (116_736, 308.28),
        "head.norms": (272, 0),
        "head.maps": (3_848, 97.04),
        "head.earlier_maps": (2_168, 51.48),
    },
}
# Input, parameters, and G of multiply-adds, of HRNet's convention and of the old ptflops, for COCO and for CrowdPose.
TOTALS = {
    "litepose_xs": (256, 1.6759, 1.6756, 0.886, 1.156, 1.205, 1.202),
    "litepose_s": (448, 2.7316, 2.7312, 3.624, 4.829, 4.992, 4.981),
    "litepose_m": (448, 3.5343, 3.5338, 5.276, 7.646, 7.854, 7.842),
    "litepose_l": (512, 5.7387, 5.7381, 9.979, 13.402, 13.730, 13.713),
}


def named(name: str) -> LitePose:
    architecture = network_named(name)
    assert isinstance(architecture, LitePose)
    return architecture


def on_meta(architecture: LitePose) -> nn.Module:
    with without_values():
        return architecture.build()


@pytest.mark.parametrize("name", PARTS)
def test_every_part_has_the_authors_networks_size(name: str) -> None:
    network = on_meta(named(name))
    layers = [(layer.path, layer.macs) for layer in trace(network, (448, 448)).layers]
    for part, (params, mmacs) in PARTS[name].items():
        assert sum(p.numel() for p in network.get_submodule(part).parameters()) == params, part
        macs = sum(macs for path, macs in layers if path.startswith(f"{part}."))
        assert round(macs / 1e6, 2) == pytest.approx(mmacs, abs=0.011), part


@pytest.mark.parametrize("name", TOTALS)
def test_totals_are_the_measured_ones_in_every_convention(name: str) -> None:
    side, coco, crowd, macs, hrsum, old, old_crowd = TOTALS[name]
    whole = count(on_meta(named(name)), (side, side))
    assert round(whole.params / 1e6, 4) == pytest.approx(coco, abs=1e-4)
    found = [whole.macs / 1e9, whole.hrsum / 1e9, whole.ptflops / 1e9]
    assert found == pytest.approx([macs, hrsum, old], abs=1e-3)
    fewer = count(on_meta(replace(named(name), keypoints=14)), (side, side))
    assert round(fewer.params / 1e6, 4) == pytest.approx(crowd, abs=1e-4)
    assert fewer.ptflops / 1e9 == pytest.approx(old_crowd, abs=1e-3)


def ours(name: str) -> str:
    """The authors' name of a tensor → ours."""
    parts = name.split(".")
    layers = {"0": "conv", "1": "bn"}
    match parts:
        case ["first", block, layer, leaf] if block in "01":
            return f"backbone.stem.{block}.{layers[layer]}.{leaf}"
        case ["first", layer, leaf]:
            return f"backbone.stem.2.{layers[str(int(layer) - 2)]}.{leaf}"
        case ["stage", stage, block, part, layer, leaf]:
            named = {"inv": "expand", "depth_conv": "depthwise", "point_conv": "project"}[part]
            return f"backbone.stages.{stage}.{block}.{named}.{layers[layer]}.{leaf}"
        case ["deconv_bnrelu", *rest]:
            return ".".join(("head.norms", *rest))
        case [("deconv_refined" | "deconv_raw") as part, *rest]:
            return ".".join(("head.deconvs" if part == "deconv_refined" else "head.earlier_deconvs", *rest))
        case [("final_refined" | "final_raw") as part, number, "conv", layer, leaf]:
            maps = "head.maps" if part == "final_refined" else "head.earlier_maps"
            return f"{maps}.{number}.1.{leaf}" if layer == "3" else f"{maps}.{number}.0.{layers[layer]}.{leaf}"
    raise AssertionError(name)


@pytest.mark.skipif(not WHOLE_NAMES, reason="COMPRESS_CHECKPOINTS names no folder of more fixtures")
def test_it_answers_what_the_public_network_answers() -> None:
    network, fixture = named("litepose_s").build().eval(), whole("litepose_s")
    network.load_state_dict({ours(name): tensor for name, tensor in fixture.tensors.items()})
    assert fixture.error(network) < 1e-5
    for part in network.modules():
        if isinstance(part, nn.ReLU6):
            part.max_val = 1e9
    assert fixture.error(network) > 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stem": 0}, "channels must be at least 1"),
        ({"blocks": (0, 1, 1, 1)}, "every stage must have at least 1 block"),
        ({"kernels": (7, 7, 7, 4)}, "kernels must be odd"),
        ({"expansions": (0, 6, 6, 6)}, "expansions must be at least 1"),
        ({"keypoints": 0}, "keypoints must be at least 1"),
    ],
)
def test_choices_out_of_range_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LitePose(), **change)  # type: ignore[arg-type]
