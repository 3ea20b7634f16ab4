"""OpenPose in PyTorch, and Lightweight OpenPose.

Sources of the names: Daniil-Osokin/lightweight-human-pose-estimation.pytorch (models/with_mobilenet.py);
tensorboy/pytorch_Realtime_Multi-Person_Pose_Estimation (lib/network/rtpose_vgg.py), whose layers have numbers; Hzzone/
pytorch-openpose (src/model.py), whose layers have Caffe's names, in its file without the name of the part before them.
Both OpenPoses have the weights of the authors' Caffe network. Hzzone's code has a ReLU behind the last heatmaps, which
Caffe's network and ours have not: the maps are equal where they are positive.
"""

from compress.data.normalisation import Normalisation
from compress.networks.checkpoints.table import CONV_BN, Joined, Rename, Source, within
from compress.networks.openpose import OpenPose
from compress.pose.codec import Codec

# (x - 128) / 256 of blue, green and red.
_PICTURE = Normalisation((128 / 255,) * 3, (256 / 255,) * 3, "BGR")

# Gaussians of 7 pixels; decoded from maps enlarged 8 times, at whole pixels.
_CODEC = Codec(sigma=7 / 8, locate="middle", upsample=8)

_MOBILENET: tuple[Rename, ...] = (
    ("0.#", lambda i: f"features.0.0.{CONV_BN[i]}"),
    (
        "#.#",  # depthwise, batch norm, ReLU, 1x1, batch norm, ReLU
        lambda block, i: f"features.0.{2 * block - 1 + i // 3}.{CONV_BN[i % 3]}",
    ),
)
_LIGHTWEIGHT: tuple[Rename, ...] = (
    *within("model.", _MOBILENET),
    ("cpm.align.0", lambda: "features.1.align.conv"),
    ("cpm.trunk.#.#", lambda block, i: f"features.1.trunk.{2 * block + {0: 0, 2: 1}[i]}.conv"),
    ("cpm.conv.0", lambda: "features.1.conv.conv"),
    ("initial_stage.trunk.#.0", lambda i: f"initial.{i}.conv"),
    ("initial_stage.(heatmaps|pafs).#.0", lambda kind, i: f"initial.3.{_head(kind, i)}"),
    ("refinement_stages.#.trunk.#.initial.0", lambda stage, block: f"refinements.{stage}.{block}.align.conv"),
    (
        "refinement_stages.#.trunk.#.trunk.#.#",
        lambda stage, block, n, i: f"refinements.{stage}.{block}.trunk.{n}.{CONV_BN[i]}",
    ),
    ("refinement_stages.#.(heatmaps|pafs).#.0", lambda stage, kind, i: f"refinements.{stage}.5.{_head(kind, i)}"),
)


def _head(kind: str, i: int) -> str:
    return f"{'fields' if kind == 'pafs' else 'heatmaps'}.{('0.conv', '1')[i]}"


_BRANCH = {1: "fields", 2: "heatmaps"}

_NUMBERED = {0: 0, 2: 1, 5: 3, 7: 4, 10: 6, 12: 7, 14: 8, 16: 9, 19: 11, 21: 12, 23: 13, 25: 14}
"""VGG's convolutions there, with ReLUs between them → here, where a ReLU is part of its layer."""

_NAMED = {
    "1_1": 0,
    "1_2": 1,
    "2_1": 3,
    "2_2": 4,
    "3_1": 6,
    "3_2": 7,
    "3_3": 8,
    "3_4": 9,
    "4_1": 11,
    "4_2": 12,
    "4_3_CPM": 13,
    "4_4_CPM": 14,
}


def _layer(stage: int, branch: int, layer: int) -> str:
    """stage: from 1; layer: from 0; the last one is a plain convolution."""
    place, last = ("initial", 4) if stage == 1 else (f"refinements.{stage - 2}", 6)
    return f"{place}.{_BRANCH[branch]}.{layer}{'' if layer == last else '.conv'}"


_OPENPOSE: tuple[Rename, ...] = (
    ("model0.#", lambda i: f"features.{_NUMBERED[i]}.conv"),
    ("model([1-6])_([12]).#", lambda stage, branch, i: _layer(stage, branch, i // 2)),
)
_CAFFE: tuple[Rename, ...] = (
    ("(?:model0.)?conv([1-4]_[1-4](?:_CPM)?)", lambda name: f"features.{_NAMED[name]}.conv"),
    ("(?:model1_[12].)?conv5_([1-5])_CPM_L([12])", lambda n, branch: _layer(1, branch, n - 1)),
    (
        "(?:model[2-6]_[12].)?Mconv([1-7])_stage([2-6])_L([12])",
        lambda n, stage, branch: _layer(stage, branch, n - 1),
    ),
)


def _stage_reads(architecture: OpenPose) -> dict[str, int]:
    return {
        "fields": 2 * architecture.limbs,
        "heatmaps": architecture.keypoints + 1,
        "features": architecture.features,
    }


_JOINED = (
    Joined("refinements.#.(?:heatmaps|fields).0.conv.weight", 1, _stage_reads, ("features", "heatmaps", "fields")),
)

SOURCES = (
    Source("Lightweight OpenPose", "lightweight_openpose", _LIGHTWEIGHT, normalisation=_PICTURE, codec=_CODEC),
    Source(
        "MobileNet of Lightweight OpenPose",
        "lightweight_openpose",
        within("(?:model.)?", _MOBILENET),
        ("(?:model.)?1[23].<any>", "fc.(?:weight|bias)"),  # the blocks at 1/32
        backbone=True,
        normalisation=_PICTURE,
        codec=_CODEC,
    ),
    Source("OpenPose in PyTorch", "openpose", _OPENPOSE, joined=_JOINED, normalisation=_PICTURE, codec=_CODEC),
    Source("OpenPose in PyTorch", "openpose", _CAFFE, joined=_JOINED, normalisation=_PICTURE, codec=_CODEC),
)
