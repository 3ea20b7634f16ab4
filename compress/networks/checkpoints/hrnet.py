"""HRNet and HigherHRNet: the authors' repositories, MMPose 0.x and 1.x, and HRNet trained on ImageNet.

Sources of the names: leoxiaobin/deep-high-resolution-net.pytorch (pose_hrnet.py), HRNet/HigherHRNet-Human-Pose-
Estimation (pose_higher_hrnet.py), HRNet/HRNet-Image-Classification (cls_hrnet.py; timm has the same names),
open-mmlab/mmpose (backbones/hrnet.py, heads). In all of them the backbone has one set of names.
"""

from compress.networks.checkpoints.table import CONV_BN, Joined, Rename, Source, within
from compress.networks.higher_hrnet import HigherHRNet
from compress.pose.codec import codec_named

BACKBONE: tuple[Rename, ...] = (
    ("conv#", lambda n: f"backbone.stem.{_stem(n)}.conv"),
    ("bn#", lambda n: f"backbone.stem.{_stem(n)}.bn"),
    ("layer1.#.conv#", lambda block, n: f"backbone.stage1.{block}.conv{n}.conv"),
    ("layer1.#.bn#", lambda block, n: f"backbone.stage1.{block}.conv{n}.bn"),
    ("layer1.#.downsample.#", lambda block, i: f"backbone.stage1.{block}.skip.{CONV_BN[i]}"),
    ("transition1.0.#", lambda i: f"backbone.first_branch.{CONV_BN[i]}"),
    ("transition#.#.0.#", lambda stage, branch, i: f"backbone.new_branches.{_new(stage, branch)}.{CONV_BN[i]}"),
    (
        "stage#.#.branches.#.#.conv#",
        lambda stage, module, branch, block, n: (
            f"backbone.stages.{stage - 2}.{module}.branches.{branch}.{block}.conv{n}.conv"
        ),
    ),
    (
        "stage#.#.branches.#.#.bn#",
        lambda stage, module, branch, block, n: (
            f"backbone.stages.{stage - 2}.{module}.branches.{branch}.{block}.conv{n}.bn"
        ),
    ),
    (
        "stage#.#.fuse_layers.#.#.#",  # from a lower resolution: one convolution
        lambda stage, module, to, of, i: f"backbone.stages.{stage - 2}.{module}.fusion.paths.{to}.{of}.{CONV_BN[i]}",
    ),
    (
        "stage#.#.fuse_layers.#.#.#.#",  # from a higher one: a chain
        lambda stage, module, to, of, step, i: (
            f"backbone.stages.{stage - 2}.{module}.fusion.paths.{to}.{of}.{step}.{CONV_BN[i]}"
        ),
    ),
)


def _stem(number: int) -> int:
    return {1: 0, 2: 1}[number]


def _new(stage: int, branch: int) -> int:
    """Only the last branch of a transition is new."""
    return {(1, 1): 0, (2, 2): 1, (3, 3): 2}[stage, branch]


# Only HRNet's own head has this name; on ImageNet a 1x1 convolution with batch norm is called final_layer, too.
_HEAD: tuple[Rename, ...] = (("final_layer", lambda: "head"),)
_HIGHER_HEAD: tuple[Rename, ...] = (
    ("final_layers.0", lambda: "head.quarter_maps"),
    ("final_layers.1", lambda: "head.half_maps"),
    ("deconv_layers.0.0.0", lambda: "head.deconv.0"),
    ("deconv_layers.0.0.1", lambda: "head.deconv.1"),
    ("deconv_layers.0.#.0.conv#", lambda block, n: f"head.blocks.{block - 1}.conv{n}.conv"),
    ("deconv_layers.0.#.0.bn#", lambda block, n: f"head.blocks.{block - 1}.conv{n}.bn"),
)


def _second_map_reads(architecture: HigherHRNet) -> dict[str, int]:
    return {"features": architecture.width, "maps": 2 * architecture.keypoints}


_JOINED = (Joined("head.deconv.0.weight", 0, _second_map_reads, ("maps", "features")),)

SOURCES = (
    Source("HRNet", "hrnet", (*BACKBONE, *_HEAD), codec=codec_named("hrnet")),
    Source("HigherHRNet", "higher_hrnet", (*BACKBONE, *_HIGHER_HEAD), joined=_JOINED),
    Source(
        "MMPose",
        "hrnet",
        (*within("backbone.", BACKBONE), *within("(?:keypoint_)?head.", _HEAD)),
        ("data_preprocessor.(?:mean|std)",),
        codec=codec_named("mmpose"),
    ),
    Source(
        "MMPose",
        "higher_hrnet",
        (*within("backbone.", BACKBONE), *within("(?:keypoint_)?head.", _HIGHER_HEAD)),
        ("data_preprocessor.(?:mean|std)",),
        joined=_JOINED,
    ),
    Source(
        "ImageNet HRNet",
        "hrnet",
        BACKBONE,
        (
            "(?:incre_modules|downsamp_modules|final_layer|classifier).<any>",
            "stage4.2.fuse_layers.[123].<any>",  # only the highest resolution goes on here
        ),
        backbone=True,
        codec=codec_named("hrnet"),
    ),
)
