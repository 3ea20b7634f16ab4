"""Lite-HRNet and Dite-HRNet: the authors' repositories, and MMPose's Lite-HRNet, which has the same names.

Sources of the names: HRNet/Lite-HRNet (models/backbones/litehrnet.py), ZiyiZhang27/Dite-HRNet (models/backbones/
ditehrnet.py). Both are built on MMPose 0.x, whose head they have. Every module has two blocks before its fusion.
"""

from compress.networks.checkpoints.table import CONV_BN, Rename, Source, within
from compress.pose.codec import codec_named

_BLOCKS = 2
"""Of a module in every published network; their fusion follows them, in one sequence here."""


def _block(stage: int, module: int, block: int) -> str:
    return f"stages.{stage}.{module * (_BLOCKS + 1) + (0, 1)[block]}"


def _separable(place: str, i: int) -> str:
    """Depthwise, batch norm, 1x1, batch norm."""
    return f"{place}.{i // 2}.{CONV_BN[i % 2]}"


def _project(number: int) -> str:
    return ("head.lower.0", "head.lower.1", "head.lower.2", "head.highest")[number]


_LAYOUT: tuple[Rename, ...] = (
    ("transition0.0.#", lambda i: _separable("first_branch", i)),
    ("transition0.1.0.#", lambda i: _separable("new_branches.0", i)),
    ("transition1.2.0.#", lambda i: _separable("new_branches.1", i)),
    ("transition2.3.0.#", lambda i: _separable("new_branches.2", i)),
    (
        "stage#.#.fuse_layers.#.#.#",
        lambda stage, module, to, of, i: f"{_fusion(stage, module)}.paths.{to}.{of}.{CONV_BN[i]}",
    ),
    (
        "stage#.#.fuse_layers.#.#.#.#",
        lambda stage, module, to, of, step, i: _separable(f"{_fusion(stage, module)}.paths.{to}.{of}.{step}", i),
    ),
    ("head_layer.projects.#.depthwise_conv.(conv|bn)", lambda i, leaf: f"{_project(i)}.0.{leaf}"),
    ("head_layer.projects.#.pointwise_conv.(conv|bn)", lambda i, leaf: f"{_project(i)}.1.{leaf}"),
)


def _fusion(stage: int, module: int) -> str:
    return f"stages.{stage}.{module * (_BLOCKS + 1) + _BLOCKS}"


_LITE: tuple[Rename, ...] = (
    *_LAYOUT,
    ("stem.conv1.(conv|bn)", lambda leaf: f"stem.conv.{leaf}"),
    ("stem.branch1.#.(conv|bn)", lambda i, leaf: f"stem.first.{i}.{leaf}"),
    ("stem.expand_conv.(conv|bn)", lambda leaf: f"stem.second.0.{leaf}"),
    ("stem.depthwise_conv.(conv|bn)", lambda leaf: f"stem.second.1.0.{leaf}"),
    ("stem.linear_conv.(conv|bn)", lambda leaf: f"stem.second.1.1.{leaf}"),
    (
        "stage#.#.layers.#.cross_resolution_weighting.conv#.(conv|bn)",
        lambda stage, module, block, n, leaf: f"{_block(stage, module, block)}.cross.weigh.{n - 1}.{leaf}",
    ),
    (
        "stage#.#.layers.#.depthwise_convs.#.(conv|bn)",
        lambda stage, module, block, branch, leaf: f"{_block(stage, module, block)}.depthwise.{branch}.{leaf}",
    ),
    (
        "stage#.#.layers.#.spatial_weighting.#.conv#.conv",
        lambda stage, module, block, branch, n: (
            f"{_block(stage, module, block)}.spatial.{branch}.{('squeeze', 'excite')[n - 1]}"
        ),
    ),
    (
        "stage#.#.layers.#.#.branch2.0.(conv|bn)",  # of the naive networks: branch and block change places
        lambda stage, module, branch, block, leaf: f"{_naive(stage, module, branch, block)}.0.{leaf}",
    ),
    (
        "stage#.#.layers.#.#.branch2.#.(conv|bn)",
        lambda stage, module, branch, block, i, leaf: f"{_naive(stage, module, branch, block)}.1.{i - 1}.{leaf}",
    ),
)


def _naive(stage: int, module: int, branch: int, block: int) -> str:
    return f"{_block(stage, module, block)}.convolutions.{branch}"


def _dynamic(place: str) -> tuple[Rename, ...]:
    """Of a convolution that may mix kernels, and its batch norm."""
    return (
        (f"{place}.conv", lambda *at: f"{_dite(*at)}.conv"),
        (f"{place}.bn", lambda *at: f"{_dite(*at)}.bn"),
        (f"{place}.conv.attention.conv1", lambda *at: f"{_dite(*at)}.conv.mixture.1.conv"),
        (f"{place}.conv.attention.bn", lambda *at: f"{_dite(*at)}.conv.mixture.1.bn"),
        (f"{place}.conv.attention.conv2", lambda *at: f"{_dite(*at)}.conv.mixture.2"),
        (f"{place}.conv.aggregation", lambda *at: f"{_dite(*at)}.conv.conv"),
    )


def _context(place: str) -> tuple[Rename, ...]:
    """Of a global context. Softmax cancels its mask's bias."""
    return (
        (f"{place}.conv_mask", lambda *at: f"{_dite(*at)}.mask.conv"),
        (f"{place}.bn", lambda *at: f"{_dite(*at)}.bn"),
        (f"{place}.channel_attention.(0|1|3)", lambda *at: f"{_dite(*at[:-1])}.{_weigh(at[-1])}"),
    )


def _weigh(number: int) -> str:
    return {0: "weigh.0.conv", 1: "weigh.0.bn", 3: "weigh.1"}[number]


def _dite(*at: object) -> str:
    """Our place of a convolution or context: in the stem (branch, number) or in a block (stage, module, block, part,
    branch, and the group of a split convolution)."""
    match at:
        case (("branch1" | "branch2") as branch, int(number)):
            return f"stem.{'first' if branch == 'branch1' else 'second'}.{number}"
        case (int(stage), int(module), int(block), "conv", int(branch), int(group)):
            return f"{_block(stage, module, block)}.splits.{branch}.convolutions.{group}"
        case (int(stage), int(module), int(block), "gcm", int(branch)):
            return f"{_block(stage, module, block)}.contexts.{branch}"
    raise KeyError(at)


_DITE: tuple[Rename, ...] = (
    *_LAYOUT,
    ("stem.conv1.(conv|bn)", lambda leaf: f"stem.conv.{leaf}"),
    *_context("stem.(branch[12]).(1)"),
    *_dynamic("stem.(branch[12]).#"),
    (
        "stage#.#.layers.#.dcm.conv_mask.#",
        lambda stage, module, block, branch: f"{_block(stage, module, block)}.dense.masks.{branch}.conv",
    ),
    (
        "stage#.#.layers.#.dcm.channel_attention.(0|1|3)",
        lambda stage, module, block, i: f"{_block(stage, module, block)}.dense.{_weigh(i)}",
    ),
    *_dynamic("stage#.#.layers.#.(conv).#.conv.#"),
    *_context("stage#.#.layers.#.(gcm).#"),
)
_HEAD: tuple[Rename, ...] = (("(?:keypoint_)?head.final_layer", lambda: "head.maps"),)

SOURCES = (
    Source(
        "Lite-HRNet",
        "lite_hrnet",
        (*within("backbone.", _LITE), *_HEAD),
        ("data_preprocessor.(?:mean|std)",),
        codec=codec_named("hrnet"),
    ),
    Source(
        "Dite-HRNet",
        "dite_hrnet",
        (*within("backbone.", _DITE), *_HEAD),
        # Masks' biases, and the masks of the lowest branches, which nothing reads.
        (
            "data_preprocessor.(?:mean|std)",
            "backbone.<any>.conv_mask.bias",
            "backbone.<any>.dcm.conv_mask.#.bias",
            "backbone.stage0.#.layers.#.dcm.conv_mask.1.weight",
            "backbone.stage1.#.layers.#.dcm.conv_mask.2.weight",
            "backbone.stage2.#.layers.#.dcm.conv_mask.3.weight",
        ),
        codec=codec_named("hrnet"),
        settings=(("cells", "memory"),),
    ),
)
