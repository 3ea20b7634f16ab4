"""RTMPose: MMPose 1.x, whose names the modules here have, and CSPNeXt alone, from which its trainings start.

Sources of the names: open-mmlab/mmpose (backbones/cspnext.py, heads/coord_cls_heads/rtmcc_head.py); of the backbone's
files open-mmlab/mmdetection and mmpretrain, whose heads are others.
"""

from compress.networks.checkpoints.table import Rename, Source
from compress.pose.codec import codec_named


def _same(path: str, *numbers: int) -> str:
    return path


_NORMED_LAYERS = (
    "stem.#",
    "stage#.#",
    "stage#.#.(?:main_conv|short_conv|final_conv|conv1|conv2)",
    "stage#.#.blocks.#.conv1",
    "stage#.#.blocks.#.conv2.(?:depthwise_conv|pointwise_conv)",
)
_BACKBONE: tuple[Rename, ...] = (
    *((f"(backbone.{layer}.(?:conv|bn))", _same) for layer in _NORMED_LAYERS),
    ("(backbone.stage#.#.attention.fc)", _same),
)
_HEAD: tuple[Rename, ...] = (
    ("(head.(?:final_layer|cls_x|cls_y))", _same),
    ("(head.mlp.#)", _same),
    ("(head.gau(?:.(?:o|uv|ln|res_scale))?)", _same),
)

SOURCES = (
    Source(
        "MMPose",
        "rtmpose",
        (*_BACKBONE, *_HEAD),
        ("data_preprocessor.(?:mean|std)",),
        codec=codec_named("simcc"),
    ),
    Source(
        "CSPNeXt",
        "rtmpose",
        _BACKBONE,
        ("data_preprocessor.(?:mean|std)", "(?:neck|head).<any>"),
        backbone=True,
        codec=codec_named("simcc"),
    ),
)
