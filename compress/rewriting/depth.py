"""Depth against width: the same network with more, narrower layers or fewer, wider ones, at equal multiply-adds.

Source: Shen et al., IJCAI 2021, Sec. 2.1 and Table 1 (24, 36, 72 and 147 layers at about 16 G). Only the backbone is
traded; heads and refinement stages stay. Its layers are the convolutions one passes from the picture to the lowest
resolution and through the blocks there: stem, blocks with the projections of bottlenecks (so the paper's 24 = 1 + 3 * 7
+ 2), and transitions. Attention and exchanges between resolutions do not count. Where a network has parallel branches,
those of the branch with most count.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any

from compress.errors import NetworkError
from compress.networks.architecture import Architecture
from compress.networks.dir_bhrnet import DirBHRNet, DirHRNet
from compress.networks.efficient_hrnet import EfficientHRNet, multiple_of_8
from compress.networks.higher_hrnet import HigherHRNet
from compress.networks.hrnet import HRNet
from compress.networks.lite_hrnet import LiteHRNet
from compress.networks.mobile_openpose import MobileOpenPose
from compress.networks.simple_baseline import SimpleBaseline

MOST_LAYERS = 1001
"""The deepest published ResNet's (He et al., ECCV 2016)."""
_LEAST_WIDTH = 2
_BLOCK_CONVOLUTIONS = {"residual": 2, "ir": 3, "ir_dw": 4, "ir_shortcut": 3, "dir": 4, "dir_se": 4}


@dataclass(frozen=True)
class Trade:
    """How a family trades depth for width. layers: see the module. depths: the architecture with every number of
    blocks, fewest first, without end. width: in the family's steps; widened: the architecture with that width."""

    layers: Callable[[Any], int]
    depths: Callable[[Any], Iterator[Any]]
    width: Callable[[Any], int]
    widened: Callable[[Any, int], Any]


def layers_of(architecture: Architecture) -> int:
    """The backbone's layers. Raises NetworkError for a family of fixed depth."""
    return _trade_of(architecture).layers(architecture)


def at_depth(
    architecture: Architecture, layers: int, macs_of: Callable[[Architecture], int], macs: int | None = None
) -> Architecture:
    """The architecture with the nearest possible number of layers, and the width of the nearest multiply-adds.

    macs_of: counts a candidate at the input size of interest; it must rise with the width. macs: wanted; None: those of
    the architecture. Of two equally near numbers of layers the smaller is taken; blocks are added in proportion. Raises
    NetworkError for a family of fixed depth, and for layers that no width allows.
    """
    trade = _trade_of(architecture)
    if macs is None and trade.layers(architecture) == layers:
        return architecture
    wanted = macs_of(architecture) if macs is None else macs
    return _as_costly(trade, _nearest_depth(trade, architecture, layers), macs_of, wanted)


def _trade_of(architecture: Architecture) -> Trade:
    trade = FAMILIES_DEPTH.get(architecture.family)
    if trade is None:
        raise NetworkError(
            f"depth cannot be traded for width: {FIXED_DEPTH.get(architecture.family, _NO_RECORD)}",
            place=architecture.family,
            remedy=f"families that can: {', '.join(FAMILIES_DEPTH)}",
        )
    return trade


def _nearest_depth(trade: Trade, architecture: Architecture, layers: int) -> Architecture:
    depths = trade.depths(architecture)
    best: Architecture = next(depths)
    least = trade.layers(best)
    if not least <= layers <= MOST_LAYERS:
        raise NetworkError(
            f"such a network has {least} to {MOST_LAYERS} layers",
            place=architecture.family,
            value=layers,
            remedy="give a number between them",
        )
    for deeper in depths:
        if abs(trade.layers(deeper) - layers) < abs(trade.layers(best) - layers):
            best = deeper
        if trade.layers(deeper) >= layers:
            return best
    raise AssertionError("depths has no end")


def _as_costly(
    trade: Trade, architecture: Architecture, macs_of: Callable[[Architecture], int], wanted: int
) -> Architecture:
    @cache
    def macs(width: int) -> int:
        return macs_of(trade.widened(architecture, width))

    low, high = _LEAST_WIDTH, max(_LEAST_WIDTH, trade.width(architecture))
    if macs(low) > wanted:
        raise NetworkError(
            "no width leaves so many layers the multiply-adds that were given",
            place=architecture.family,
            value=trade.layers(architecture),
            remedy="give fewer layers",
        )
    while macs(high) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if macs(middle) < wanted else (low, middle)
    nearest = min((low, high), key=lambda width: abs(macs(width) - wanted))
    return trade.widened(architecture, nearest)  # type: ignore[no-any-return]


def shared_out(blocks: int, like: Sequence[int]) -> tuple[int, ...]:
    """So many blocks in the given proportions, at least one everywhere (Webster's method: one more block is one more in
    one place). blocks: at least as many as there are places."""
    counts = [1] * len(like)
    for _ in range(blocks - len(like)):
        poorest = max(range(len(like)), key=lambda place: like[place] / (counts[place] + 0.5))
        counts[poorest] += 1
    return tuple(counts)


# --- ResNets ---------------------------------------------------------------------------------------------------------


def _bottleneck_layers(blocks: Sequence[int]) -> int:
    """A stem, and bottlenecks of three convolutions, the first of every resolution with a projection."""
    return 1 + 3 * sum(blocks) + len(blocks)


def _paper_blocks(blocks: int) -> tuple[int, int]:
    """Bottlenecks at 1/4 and 1/8 as NETWORKS divides them: 5 of 16 at 1/4, but no fewer than ResNet-50's 3 of 7."""
    first = max(round(5 * blocks / 16), min(3, round(3 * blocks / 7)))
    return first, blocks - first


def _mobile_openpose_depths(a: MobileOpenPose) -> Iterator[MobileOpenPose]:
    return (replace(a, blocks=_paper_blocks(blocks)) for blocks in count(2))


def _simple_baseline_depths(a: SimpleBaseline) -> Iterator[SimpleBaseline]:
    return (replace(a, blocks=shared_out(blocks, a.blocks)) for blocks in count(4))  # type: ignore[arg-type]


# --- MobileNets ------------------------------------------------------------------------------------------------------


def _efficientnet_layers(a: EfficientHRNet) -> int:
    """Of the EfficientNet: a stem, then blocks of three convolutions, or two where nothing is expanded."""
    convolutions = (2 if expansion == 1 else 3 for expansion in a.expansions)
    return 1 + sum(n * repeats for n, repeats in zip(convolutions, a.repeats, strict=True))


def _efficientnet_depths(a: EfficientHRNet) -> Iterator[EfficientHRNet]:
    return (replace(a, repeats=shared_out(blocks, a.repeats)) for blocks in count(7))  # type: ignore[arg-type]


def _efficientnet_widened(a: EfficientHRNet, width: int) -> EfficientHRNet:
    """width: of the last group; the others in proportion, multiples of 8. The branches stay."""
    factor = width / a.backbone_widths[-1]
    stem, *widths = (multiple_of_8(factor * w) for w in (a.stem, *a.backbone_widths))
    return replace(a, stem=stem, backbone_widths=tuple(widths))  # type: ignore[arg-type]


# --- HRNets ----------------------------------------------------------------------------------------------------------


def _hrnet_layers(a: HRNet | HigherHRNet) -> int:
    """Stem, bottlenecks, three transitions down, basic blocks of two convolutions."""
    bottlenecks, planes = (a.bottlenecks, a.planes) if isinstance(a, HRNet) else (4, 64)
    projection = 4 * planes != 64  # of the stem's 64 channels
    return 2 + 3 * bottlenecks + projection + 3 + 2 * a.blocks * sum(a.modules)


def _lite_hrnet_layers(a: LiteHRNet) -> int:
    """Stem, three separable transitions down, blocks of one depthwise convolution or of the naive unit's three."""
    return 4 + 6 + (1 if a.block == "weighting" else 3) * a.blocks * sum(a.modules)


def _module_depths(a: Any) -> Iterator[Any]:
    """Fewer blocks per module where every stage has one module only, then more modules."""
    blocks = max(1, a.blocks)
    for fewer in range(1, blocks):
        yield replace(a, blocks=fewer, modules=(1, 1, 1))
    for modules in count(3):
        yield replace(a, blocks=blocks, modules=shared_out(modules, a.modules))


def _dir_hrnet_layers(a: DirHRNet) -> int:
    """Stem, three transitions down, four stages of blocks."""
    return 2 + 3 + 4 * a.blocks * _BLOCK_CONVOLUTIONS[a.kind]


def _dir_hrnet_depths(a: DirHRNet) -> Iterator[DirHRNet]:
    return (replace(a, blocks=blocks) for blocks in count(1))


def _dir_bhrnet_layers(a: DirBHRNet) -> int:
    """Stem, and in every stage the branch with most; the transitions are exchanges here."""
    convolutions = [_BLOCK_CONVOLUTIONS[kind] for kind in a.kinds]
    return 2 + sum(max(n * c for n, c in zip(stage, convolutions, strict=False)) for stage in a.blocks)


def _dir_bhrnet_depths(a: DirBHRNet) -> Iterator[DirBHRNet]:
    """With 1, 2, ... blocks where most are, elsewhere in proportion, no branch without blocks that had some."""
    most = max(map(max, a.blocks))
    if most == 0:
        raise NetworkError(
            "depth needs blocks, of which there are none", place=a.family, remedy="give the branches blocks"
        )
    for blocks in count(1):
        scaled = (tuple(max(min(1, n), round(n * blocks / most)) for n in stage) for stage in a.blocks)
        yield replace(a, blocks=tuple(scaled))  # type: ignore[arg-type]


# --- Families --------------------------------------------------------------------------------------------------------


def _width(a: Any) -> int:
    return a.width  # type: ignore[no-any-return]


def _widened(a: Any, width: int) -> Any:
    return replace(a, width=width)


FAMILIES_DEPTH: dict[str, Trade] = {
    "mobile_openpose": Trade(lambda a: _bottleneck_layers(a.blocks), _mobile_openpose_depths, _width, _widened),
    "simple_baseline": Trade(lambda a: _bottleneck_layers(a.blocks), _simple_baseline_depths, _width, _widened),
    "efficient_hrnet": Trade(
        _efficientnet_layers, _efficientnet_depths, lambda a: a.backbone_widths[-1], _efficientnet_widened
    ),
    "hrnet": Trade(_hrnet_layers, _module_depths, _width, _widened),
    "higher_hrnet": Trade(_hrnet_layers, _module_depths, _width, _widened),
    "lite_hrnet": Trade(  # its blocks halve the channels
        _lite_hrnet_layers, _module_depths, lambda a: a.width // 2, lambda a, half: replace(a, width=2 * half)
    ),
    "dir_hrnet": Trade(_dir_hrnet_layers, _dir_hrnet_depths, _width, _widened),
    "dir_bhrnet": Trade(_dir_bhrnet_layers, _dir_bhrnet_depths, _width, _widened),
}
"""Family → how its depth is traded."""

_PLAN = "its record has the paper's plan of blocks and a width, but no number of blocks"
_NO_RECORD = "its structure is not described by blocks and a width"
FIXED_DEPTH: dict[str, str] = {
    "mobilenet_v2": _PLAN,
    "mobilenet_v3": _PLAN,
    "shufflenet_v2": _PLAN,
    "mobile_openpose_efficientnet": _PLAN,
    "lightweight_openpose": _PLAN,
    "openpose": _PLAN,
    "lightweight_hrnet": _PLAN,
    "mobileposenet": "its record gives each of 15 blocks by itself",
    "hourglass": "it grows by whole hourglasses, each of which adds an output",
    "dite_hrnet": "its blocks run several kernels side by side, which are no layers",
    "edite_hrnet": "its blocks run several kernels side by side, which are no layers",
    "rtmpose": "its sizes are two factors of one plan, which its papers set together",
    "litepose": _PLAN,
}
"""Family → why it has no such trade."""
