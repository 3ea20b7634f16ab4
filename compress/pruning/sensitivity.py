"""What the score loses when a layer, or a functional block, is pruned alone, at several ratios.

Pruned by masking and without training after it, as the fast-MPPE paper does; so the curves rank layers, and say more
than what is lost after fine-tuning. A point costs one scoring of a network of full size.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from compress.errors import DataError
from compress.pruning.channels import Channels
from compress.pruning.groups import PruningGroup, layer_of
from compress.pruning.selection import Scores, check_ratio
from compress.pruning.structured import masked

DENSE = "(dense)"
"""The target of the point that is the network as it is."""


@dataclass(frozen=True)
class Plan:
    """A point to be scored. target: a group or block. ratio: requested. share: of its channels that is removed."""

    target: str
    ratio: float
    share: float
    removed: frozenset[int]


@dataclass(frozen=True)
class Point:
    """A scored point, plain data. score: ≥ 0, higher is better."""

    target: str
    ratio: float
    share: float
    score: float


@dataclass(frozen=True)
class Curve:
    """What the score loses at shares of channels removed, both rising; the first is (0, 0), the last is share 1."""

    shares: tuple[float, ...]
    losses: tuple[float, ...]

    def loss(self, share: float) -> float:
        """Between the points on straight lines."""
        return float(np.interp(share, self.shares, self.losses))


def plan(targets: Mapping[str, Sequence[PruningGroup]], scores: Scores, ratios: Sequence[float]) -> list[Plan]:
    """The dense point, then of every target each removal that the ratios give, once.

    targets: name → groups that are pruned together. Raises RecipeError for a ratio outside 0..1.
    """
    planned = [Plan(DENSE, 0.0, 0.0, frozenset())]
    for target, parts in targets.items():
        known = {frozenset[int]()}
        for ratio in sorted(ratios):
            check_ratio(ratio)
            removed = frozenset(member for part in parts for member in part.nearest_removal(scores, ratio))
            if removed not in known:
                known.add(removed)
                lost = sum(part.share(removed) * part.channels for part in parts)
                planned.append(Plan(target, ratio, lost / sum(part.channels for part in parts), removed))
    return planned


def sensitivity(
    network: nn.Module,
    channels: Channels,
    planned: Sequence[Plan],
    score: Callable[[nn.Module], float],
    known: Collection[Point] = (),
) -> Iterator[Point]:
    """Scores the points that are not yet known, one by one, on masked copies of the network."""
    done = {(point.target, point.ratio) for point in known}
    for point in planned:
        if (point.target, point.ratio) not in done:
            yield Point(point.target, point.ratio, point.share, score(masked(network, channels, point.removed)))


def curves(points: Sequence[Point]) -> dict[str, Curve]:
    """The curve of every target: losses against the dense score, made rising (a score that recovers is noise).

    Without any channels nothing is right, so at share 1 the whole dense score is lost. Raises DataError without the
    dense point.
    """
    dense = next((point.score for point in points if point.target == DENSE), None)
    if dense is None:
        raise DataError(
            "a sensitivity curve needs the score of the dense network",
            place="sensitivity points",
            remedy=f"score the point {DENSE!r}",
        )
    of_target: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for point in points:
        if point.target != DENSE:
            of_target[point.target].append((point.share, dense - point.score))
    found = {}
    for target, pairs in of_target.items():
        shares, losses = zip(*sorted([(0.0, 0.0), *pairs, (1.0, dense)]), strict=True)
        found[target] = Curve(shares, tuple(np.maximum.accumulate(losses).tolist()))
    return found


def functional_blocks(parts: Sequence[PruningGroup]) -> dict[str, tuple[PruningGroup, ...]]:
    """The groups of every functional block that the names of the layers show.

    Kinds of blocks: what the layers are for (`backbone`, `heatmap branch`, `field branch`, `head`, …), `stages.N` and
    `branch N` of HRNet-like networks, 1 the highest resolution. A group belongs to a block if all that makes it does:
    a residual stream through several stages is of its branch, but of no stage.
    """
    found: dict[str, list[PruningGroup]] = {}
    for part in parts:
        if part.members:
            for block in sorted(set.intersection(*(_blocks_of(layer_of(name)) for name in part.made_by))):
                found.setdefault(block, []).append(part)
    return {block: tuple(members) for block, members in found.items()}


_PURPOSES = (
    (r"\bheatmaps\b", "heatmap branch"),  # of OpenPose-like networks
    (r"\bfields\b", "field branch"),
    (r"^initial\b", "initial stage"),
    (r"^refinements\.(\d+)", "refinement {}"),
    (r"^(head|maps|upsampling|features_back|maps_back)\b", "head"),
    (
        r"^(backbone|stem|features|blocks|stages|fusions|last_fusion|first_branch|new_branches|exchange|hourglasses)\b",
        "backbone",
    ),
)
_STAGES = ((r"\bstages\.(\d+)\.", "stages.{}"), (r"\bstage1\.", "stage1"), (r"\bhourglasses\.(\d+)\.", "hourglass {}"))
_BRANCHES = (
    (r"\bbranches\.(\d+)\.", 1),
    (r"\bstages\.\d+\.(\d+)\.\d+\.", 1),  # DIR-HRNet and DIR-BHRNet
    (r"\bpaths\.(\d+)\.", 1),  # of a fusion: the branch that it leads to
    (r"\bfirst_branch()\b", 1),
    (r"\bnew_branches\.(\d+)\.", 2),
    (r"\bentries\.\d+\.(\d+)\.", 1),  # EfficientHRNet
    (r"\bstages\..*\b(?:depthwise|spatial|splits|contexts|cheap|mix|convolutions)\.(\d+)\.", 1),  # Lite-HRNet and after
)


def _blocks_of(layer: str) -> set[str]:
    """The names of the blocks that the layer lies in; its first part, if its purpose is not known."""
    path = f"{layer}."
    found = {_first(path, _PURPOSES) or path.partition(".")[0], _first(path, _STAGES)}
    for pattern, first in _BRANCHES:
        match = re.search(pattern, path)
        if match:
            found.add(f"branch {int(match[1] or 0) + first}")
            break
    return {name for name in found if name}


def _first(path: str, patterns: Sequence[tuple[str, str]]) -> str:
    """The name of the first pattern that is found in the path; empty if none is."""
    for pattern, name in patterns:
        match = re.search(pattern, path)
        if match:
            return name.format(*match.groups())
    return ""
