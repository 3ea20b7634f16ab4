"""LitePose: mit-han-lab/litepose (lib/models/pose_mobilenet.py)."""

from compress.networks.checkpoints.table import CONV_BN, Rename, Source

_PARTS = {"inv": "expand", "depth_conv": "depthwise", "point_conv": "project"}
_MAPS = {"refined": "maps", "raw": "earlier_maps"}
_DECONVS = {"refined": "deconvs", "raw": "earlier_deconvs"}

_RENAMES: tuple[Rename, ...] = (
    ("first.([01]).#", lambda n, i: f"backbone.stem.{n}.{CONV_BN[i]}"),
    ("first.([23])", lambda i: f"backbone.stem.2.{CONV_BN[i - 2]}"),
    (
        "stage.#.#.(inv|depth_conv|point_conv).#",
        lambda stage, block, part, i: f"backbone.stages.{stage}.{block}.{_PARTS[part]}.{CONV_BN[i]}",
    ),
    ("deconv_(refined|raw).#", lambda kind, n: f"head.{_DECONVS[kind]}.{n}"),
    ("deconv_bnrelu.#.#", lambda n, i: f"head.norms.{n}.{i}"),
    ("final_(refined|raw).#.conv.([01])", lambda kind, n, i: f"head.{_MAPS[kind]}.{n}.0.{CONV_BN[i]}"),
    ("final_(refined|raw).#.conv.3", lambda kind, n: f"head.{_MAPS[kind]}.{n}.1"),
)

SOURCES = (Source("LitePose", "litepose", _RENAMES),)
