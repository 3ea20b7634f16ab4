"""Networks with a classification backbone and deconvolution head: SimpleBaseline, MobileNetV2, ShuffleNetV2.

Sources of the names: leoxiaobin/deep-high-resolution-net.pytorch (pose_resnet.py), open-mmlab/mmpose (backbones/
resnet.py, mobilenet_v2.py, shufflenet_v2.py, heads), and of backbones alone torchvision (resnet.py, mobilenetv2.py,
shufflenetv2.py), MMPretrain, whose names are MMPose's, and timm (resnet.py, whose names are torchvision's, and
efficientnet.py for MobileNetV2).
"""

from compress.data.normalisation import Normalisation
from compress.networks.checkpoints.table import CONV_BN, Rename, Source, within
from compress.pose.codec import codec_named

_PREPROCESSOR = ("data_preprocessor.(?:mean|std)",)
_CODEC, _MMPOSE = codec_named("hrnet"), codec_named("mmpose")

_DECONVS: tuple[Rename, ...] = (
    ("deconv_layers.#", lambda i: f"head.deconvs.{i}"),
    ("final_layer", lambda: "head.maps"),
)
_MMPOSE_HEAD = within("(?:keypoint_)?head.", _DECONVS)

# --- ResNet ----------------------------------------------------------------------------------------------------------

_RESNET: tuple[Rename, ...] = (
    ("conv1", lambda: "backbone.0.conv"),
    ("bn1", lambda: "backbone.0.bn"),
    ("layer#.#.conv#", lambda stage, block, n: f"backbone.{stage + 1}.{block}.conv{n}.conv"),
    ("layer#.#.bn#", lambda stage, block, n: f"backbone.{stage + 1}.{block}.conv{n}.bn"),
    ("layer#.#.downsample.#", lambda stage, block, i: f"backbone.{stage + 1}.{block}.skip.{CONV_BN[i]}"),
)

# --- MobileNetV2: 0 is the stem, 1 to 17 are the blocks, 18 is the last convolution ----------------------------------

_FIRST_BLOCK = {1: 1, 2: 2, 3: 4, 4: 7, 5: 11, 6: 14, 7: 17}
"""Stage of the paper's table, from 1 → its first block."""

_PARTS = ("expand", "depthwise", "project")


def _mobile(stage: int, block: int) -> int:
    return _FIRST_BLOCK[stage] + block


_MMPOSE_MOBILENET: tuple[Rename, ...] = (
    ("backbone.conv1.(conv|bn)", lambda leaf: f"backbone.0.{leaf}"),
    ("backbone.conv2.(conv|bn)", lambda leaf: f"backbone.18.{leaf}"),
    ("backbone.layer1.0.conv.#.(conv|bn)", lambda i, leaf: f"backbone.1.{_PARTS[i + 1]}.{leaf}"),
    (
        "backbone.layer#.#.conv.#.(conv|bn)",
        lambda stage, block, i, leaf: f"backbone.{_mobile(stage, block)}.{_PARTS[i]}.{leaf}",
    ),
)
_TORCHVISION_MOBILENET: tuple[Rename, ...] = (
    ("features.(0|18).#", lambda block, i: f"backbone.{block}.{CONV_BN[i]}"),
    ("features.1.conv.0.#", lambda i: f"backbone.1.depthwise.{CONV_BN[i]}"),
    ("features.1.conv.#", lambda i: f"backbone.1.project.{CONV_BN[i - 1]}"),
    ("features.#.conv.#.#", lambda block, part, i: f"backbone.{block}.{_PARTS[part]}.{CONV_BN[i]}"),
    ("features.#.conv.#", lambda block, i: f"backbone.{block}.project.{CONV_BN[i - 2]}"),
)
_TIMM_MOBILENET: tuple[Rename, ...] = (
    ("conv_stem", lambda: "backbone.0.conv"),
    ("bn1", lambda: "backbone.0.bn"),
    ("conv_head", lambda: "backbone.18.conv"),
    ("bn2", lambda: "backbone.18.bn"),
    ("blocks.0.0.conv_dw", lambda: "backbone.1.depthwise.conv"),
    ("blocks.0.0.bn1", lambda: "backbone.1.depthwise.bn"),
    ("blocks.0.0.conv_pw", lambda: "backbone.1.project.conv"),
    ("blocks.0.0.bn2", lambda: "backbone.1.project.bn"),
    ("blocks.#.#.conv_pw", lambda stage, block: f"backbone.{_mobile(stage + 1, block)}.expand.conv"),
    ("blocks.#.#.conv_dw", lambda stage, block: f"backbone.{_mobile(stage + 1, block)}.depthwise.conv"),
    ("blocks.#.#.conv_pwl", lambda stage, block: f"backbone.{_mobile(stage + 1, block)}.project.conv"),
    ("blocks.#.#.bn#", lambda stage, block, n: f"backbone.{_mobile(stage + 1, block)}.{_PARTS[n - 1]}.bn"),
)

# --- ShuffleNetV2: 0 is the stem, 2 to 17 are the units, 18 is the last convolution ----------------------------------

_FIRST_UNIT = {2: 2, 3: 6, 4: 14}
"""Stage of the paper's table → its first unit."""


def _unit(stage: int, unit: int, branch: int) -> str:
    """Our place of a branch: the first unit of a stage has two."""
    side = {(True, 1): "left", (True, 2): "right", (False, 2): "branch"}[unit == 0, branch]
    return f"backbone.{_FIRST_UNIT[stage] + unit}.{side}"


def _branch_layer(branch: int, i: int) -> str:
    """Which convolution or batch norm in torchvision's sequences, ReLUs between them."""
    left = {0: "0.conv", 1: "0.bn", 2: "1.conv", 3: "1.bn"}
    right = {0: "0.conv", 1: "0.bn", 3: "1.conv", 4: "1.bn", 5: "2.conv", 6: "2.bn"}
    return (left if branch == 1 else right)[i]


_TORCHVISION_SHUFFLENET: tuple[Rename, ...] = (
    ("conv1.#", lambda i: f"backbone.0.{CONV_BN[i]}"),
    ("conv5.#", lambda i: f"backbone.18.{CONV_BN[i]}"),
    (
        "stage#.#.branch#.#",
        lambda stage, unit, branch, i: f"{_unit(stage, unit, branch)}.{_branch_layer(branch, i)}",
    ),
)
_MMPOSE_SHUFFLENET: tuple[Rename, ...] = (
    ("backbone.conv1.(conv|bn)", lambda leaf: f"backbone.0.{leaf}"),
    ("backbone.layers.3.(conv|bn)", lambda leaf: f"backbone.18.{leaf}"),
    (
        "backbone.layers.#.#.branch#.#.(conv|bn)",
        lambda stage, unit, branch, i, leaf: f"{_unit(stage + 2, unit, branch)}.{i}.{leaf}",
    ),
)

SOURCES = (
    Source(
        "SimpleBaseline",
        "simple_baseline",
        (*_RESNET, *_DECONVS),
        normalisation=Normalisation(channels="BGR"),  # the constants in the order of red, green, blue all the same
        codec=_CODEC,
    ),
    Source("MMPose", "simple_baseline", (*within("backbone.", _RESNET), *_MMPOSE_HEAD), _PREPROCESSOR, codec=_MMPOSE),
    Source("ImageNet ResNet", "simple_baseline", _RESNET, ("fc.(?:weight|bias)",), backbone=True, codec=_CODEC),
    Source("MMPose", "mobilenet_v2", (*_MMPOSE_MOBILENET, *_MMPOSE_HEAD), _PREPROCESSOR, codec=_MMPOSE),
    Source(
        "torchvision MobileNetV2",
        "mobilenet_v2",
        _TORCHVISION_MOBILENET,
        ("classifier.<any>",),
        backbone=True,
        codec=_MMPOSE,
    ),
    *(
        Source(
            "MMPretrain",
            family,
            renames,
            (*_PREPROCESSOR, "(?:neck|head).<any>"),
            backbone=True,
            codec=_MMPOSE,
        )
        for family, renames in (
            ("simple_baseline", within("backbone.", _RESNET)),
            ("mobilenet_v2", _MMPOSE_MOBILENET),
            ("shufflenet_v2", _MMPOSE_SHUFFLENET),
        )
    ),
    Source("timm MobileNetV2", "mobilenet_v2", _TIMM_MOBILENET, ("classifier.<any>",), backbone=True, codec=_MMPOSE),
    Source("MMPose", "shufflenet_v2", (*_MMPOSE_SHUFFLENET, *_MMPOSE_HEAD), _PREPROCESSOR, codec=_MMPOSE),
    Source(
        "torchvision ShuffleNetV2",
        "shufflenet_v2",
        _TORCHVISION_SHUFFLENET,
        ("fc.(?:weight|bias)",),
        backbone=True,
        codec=_MMPOSE,
    ),
)
