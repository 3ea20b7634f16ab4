"""Which network tensors are of: the architecture's settings, read from the shapes of its tensors by our names.

A setting that shapes do not show, such as a stride, is the published network's. A function here may raise KeyError,
IndexError or ValueError for tensors of another network.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from compress.networks.architecture import Architecture
from compress.networks.dite_hrnet import DiteHRNet
from compress.networks.higher_hrnet import HigherHRNet
from compress.networks.hourglass import StackedHourglass
from compress.networks.hrnet import HRNet
from compress.networks.lightweight_openpose import LightweightOpenPose
from compress.networks.lite_hrnet import LiteHRNet
from compress.networks.litepose import LitePose
from compress.networks.mobilenet_v2 import MobileNetV2
from compress.networks.openpose import OpenPose
from compress.networks.rtmpose import RTMPose
from compress.networks.shufflenet_v2 import ShuffleNetV2
from compress.networks.simple_baseline import SimpleBaseline

Shapes = Mapping[str, tuple[int, ...]]

_COCO = 17
_DECONVS = (256, 256, 256)


def _count(shapes: Shapes, pattern: str) -> int:
    """How many numbers the pattern's `#` takes: one more than the largest."""
    compiled = re.compile(pattern.replace(".", r"\.").replace("#", r"(\d+)"))
    return 1 + max((int(found[1]) for name in shapes if (found := compiled.match(name))), default=-1)


def _first(shapes: Shapes, name: str, default: int) -> int:
    return shapes[name][0] if name in shapes else default


def _backbone(shapes: Shapes) -> dict[str, Any]:
    """What HRNet and HigherHRNet share."""
    return {
        "width": shapes["backbone.first_branch.conv.weight"][0],
        "modules": tuple(_count(shapes, f"backbone.stages.{stage}.#.") for stage in range(3)),
        "blocks": _count(shapes, "backbone.stages.0.0.branches.0.#."),
    }


def _hrnet(shapes: Shapes) -> HRNet:
    return HRNet(
        **_backbone(shapes),
        keypoints=_first(shapes, "head.weight", _COCO),
        bottlenecks=_count(shapes, "backbone.stage1.#."),
        planes=shapes["backbone.stage1.0.conv1.conv.weight"][0],
    )


def _higher_hrnet(shapes: Shapes) -> HigherHRNet:
    return HigherHRNet(**_backbone(shapes), keypoints=shapes["head.half_maps.weight"][0])


def _lite(shapes: Shapes) -> dict[str, Any]:
    """What Lite- and Dite-HRNet share. A module's two blocks and its fusion lie in one sequence."""
    return {
        "width": shapes["new_branches.0.1.conv.weight"][0] // 2,
        "modules": tuple(_count(shapes, f"stages.{stage}.#.") // 3 for stage in range(3)),
        "stem_width": shapes["stem.conv.conv.weight"][0],
        "keypoints": shapes["head.maps.weight"][0],
    }


def _lite_hrnet(shapes: Shapes) -> LiteHRNet:
    return LiteHRNet(
        **_lite(shapes), block="weighting" if "stages.0.0.cross.weigh.0.conv.weight" in shapes else "shuffle"
    )


def _dite_hrnet(shapes: Shapes) -> DiteHRNet:
    return DiteHRNet(**_lite(shapes))


def _head(shapes: Shapes) -> dict[str, Any]:
    """Of a classifier's head, ours where the file has another one."""
    found = tuple(
        shapes[f"head.deconvs.{i}.weight"][1] for i in range(0, 15, 3) if f"head.deconvs.{i}.weight" in shapes
    )
    maps = "head.maps.weight" in shapes
    return {"filters": found if maps else _DECONVS, "keypoints": shapes["head.maps.weight"][0] if maps else _COCO}


def _simple_baseline(shapes: Shapes) -> SimpleBaseline:
    blocks = tuple(_count(shapes, f"backbone.{stage}.#.") for stage in range(2, 6))
    return SimpleBaseline(
        blocks=(blocks[0], blocks[1], blocks[2], blocks[3]),
        width=shapes["backbone.0.conv.weight"][0],
        **_head(shapes),
    )


def _mobilenet_v2(shapes: Shapes) -> MobileNetV2:
    return MobileNetV2(width=shapes["backbone.17.project.conv.weight"][0] / 320, **_head(shapes))


def _shufflenet_v2(shapes: Shapes) -> ShuffleNetV2:
    """Its first stage's width says which of the paper's it is."""
    width = {48: 0.5, 116: 1.0, 176: 1.5, 244: 2.0}[2 * shapes["backbone.2.left.1.conv.weight"][0]]
    return ShuffleNetV2(width=width, **_head(shapes))


def _lightweight_openpose(shapes: Shapes) -> LightweightOpenPose:
    maps = shapes.get("initial.3.heatmaps.1.weight", (19,))[0]
    fields = shapes.get("initial.3.fields.1.weight", (38,))[0]
    whole = "initial.3.heatmaps.1.weight" in shapes
    return LightweightOpenPose(
        width=shapes["features.0.0.conv.weight"][0] / 32,
        features=_first(shapes, "features.1.align.conv.weight", 128),
        refinements=_count(shapes, "refinements.#.") if whole else 1,
        keypoints=maps - 1,
        limbs=fields // 2,
    )


def _openpose(shapes: Shapes) -> OpenPose:
    return OpenPose(
        width=shapes["features.0.conv.weight"][0],
        features=shapes["features.14.conv.weight"][0],
        stages=1 + _count(shapes, "refinements.#."),
        keypoints=shapes["initial.heatmaps.4.weight"][0] - 1,
        limbs=shapes["initial.fields.4.weight"][0] // 2,
    )


def _hourglass(shapes: Shapes) -> StackedHourglass:
    deepest = max((name.count("inner.") for name in shapes if name.startswith("hourglasses.0.0.")), default=0)
    return StackedHourglass(
        stacks=_count(shapes, "hourglasses.#."),
        depth=deepest,
        width=shapes["features_back.0.weight"][0] if "features_back.0.weight" in shapes else shapes["maps.0.weight"][1],
        keypoints=shapes["maps.0.weight"][0],
    )


def _rtmpose(shapes: Shapes) -> RTMPose:
    """Its factor on the depth is the published one of as many blocks; its input's size follows from the bins."""
    depth = {1: 0.167, 2: 0.33, 4: 0.67, 6: 1.0}[_count(shapes, "backbone.stage2.1.blocks.#.")]
    bins = [_first(shapes, f"head.cls_{axis}.weight", default) for axis, default in (("y", 512), ("x", 384))]
    return RTMPose(
        depth=depth,
        width=shapes["backbone.stage1.0.conv.weight"][0] / 128,
        keypoints=_first(shapes, "head.final_layer.weight", _COCO),
        input_hw=(bins[0] // 2, bins[1] // 2),
    )


def _litepose(shapes: Shapes) -> LitePose:
    stages = [f"backbone.stages.{stage}" for stage in range(4)]
    widths = [shapes[f"{stage}.0.project.conv.weight"][0] for stage in stages]
    blocks = [_count(shapes, f"{stage}.#.") for stage in stages]
    kernels = [shapes[f"{stage}.0.depthwise.conv.weight"][2] for stage in stages]
    expanded = [shapes[f"{stage}.0.expand.conv.weight"] for stage in stages]
    expansions = [outputs // inputs for outputs, inputs, *_ in expanded]
    return LitePose(
        stem=shapes["backbone.stem.2.conv.weight"][0],
        widths=(widths[0], widths[1], widths[2], widths[3]),
        blocks=(blocks[0], blocks[1], blocks[2], blocks[3]),
        kernels=(kernels[0], kernels[1], kernels[2], kernels[3]),
        expansions=(expansions[0], expansions[1], expansions[2], expansions[3]),
        deconvs=(
            shapes["head.deconvs.0.weight"][1],
            shapes["head.deconvs.1.weight"][1],
            shapes["head.deconvs.2.weight"][1],
        ),
        keypoints=shapes["head.maps.1.1.weight"][0],
    )


FAMILIES: dict[str, Callable[[Shapes], Architecture]] = {
    "hrnet": _hrnet,
    "higher_hrnet": _higher_hrnet,
    "lite_hrnet": _lite_hrnet,
    "dite_hrnet": _dite_hrnet,
    "simple_baseline": _simple_baseline,
    "mobilenet_v2": _mobilenet_v2,
    "shufflenet_v2": _shufflenet_v2,
    "lightweight_openpose": _lightweight_openpose,
    "openpose": _openpose,
    "hourglass": _hourglass,
    "rtmpose": _rtmpose,
    "litepose": _litepose,
}


def recognised(family: str, shapes: Shapes) -> Architecture | None:
    """The architecture of that family whose tensors, by our names, have these shapes; None where they have not what
    tells."""
    try:
        return FAMILIES[family](shapes)
    except (KeyError, IndexError, ValueError):
        return None
