"""Public checkpoints: their files read safely, their networks recognised, their tensors by our names.

container.py   what a file holds; nothing in it is run
table.py       how one project's names become ours
hrnet.py to litepose.py: one table per project and family
recognise.py   which architecture tensors are of
here           all of it: a file to an architecture with weights, or an error that says what does not fit
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.data.normalisation import Normalisation
from compress.errors import NetworkError
from compress.networks import NETWORKS, Architecture
from compress.networks.architecture import without_values
from compress.networks.checkpoints import classifiers, hourglass, hrnet, lite_hrnet, litepose, part_affinity, rtmpose
from compress.networks.checkpoints.container import Container, read_container
from compress.networks.checkpoints.recognise import recognised
from compress.networks.checkpoints.table import Renamed, Source
from compress.networks.published import published_hw
from compress.pose.codec import Codec, codec_named

SOURCES: tuple[Source, ...] = (
    *hrnet.SOURCES,
    *lite_hrnet.SOURCES,
    *classifiers.SOURCES,
    *part_affinity.SOURCES,
    *hourglass.SOURCES,
    *rtmpose.SOURCES,
    *litepose.SOURCES,
)

UNMATCHED = (
    (
        "backbone.layer#.(?:se|expand_conv|depthwise_conv|linear_conv).<any>",
        "MMPose's MobileNetV3 has another gate, (x+1)/2 cut to 0..1, than the paper and ours, (x+3)/6",
    ),
    (
        "hg.#.hg.<any>",
        "this stacked hourglass (Bearpaw's pytorch-pose) is wide one residual earlier in its stem than ours and "
        "princeton-vl's",
    ),
    (
        "backbone.hourglass_modules.<any>",
        "MMPose's hourglass has basic blocks of two 3x3 convolutions, ours the paper's bottlenecks",
    ),
    (
        "(?:backbone.)?_(?:conv_stem|blocks).<any>",
        "EfficientHRNet's authors pad stride-2 convolutions more at the right and the bottom, ours pads alike",
    ),
)
"""Names that tell a network that ours cannot compute, and why. Patterns as in table.py."""

_NAMED = 5
"""Names that one line lists."""


@dataclass(frozen=True)
class Facts:
    """What a checkpoint's weights need to be used as they were trained.

    input_hw: None where neither the file's name nor the paper says. size_from_name: whether the file's name did.
    """

    normalisation: Normalisation
    codec: Codec
    input_hw: tuple[int, int] | None
    size_from_name: bool


@dataclass(frozen=True)
class Found:
    """What was found in a checkpoint file.

    source: the project whose names it has. network: ours, by its name, or its family where it is none of the known
    ones. unknown: names in the file that no table speaks of, with the file's prefix. dropped: names that have no place
    in ours and no effect there. unfilled: our tensors that the file has not. converted: kinds of numbers that became
    float32. beside: what else the file holds.
    """

    file: str
    source: str
    network: str
    unknown: tuple[str, ...]
    dropped: tuple[str, ...]
    unfilled: tuple[str, ...]
    converted: tuple[str, ...]
    beside: tuple[str, ...]


@dataclass(frozen=True)
class Checkpoint:
    """A file as one of our networks: architecture, tensors by our names (unfilled ones left out), facts."""

    architecture: Architecture
    tensors: dict[str, Tensor] = field(repr=False)
    facts: Facts
    found: Found


@dataclass(frozen=True)
class _Fit:
    """How well a file fits a source's names and an architecture. wrong: name of ours → (shape there, ours)."""

    source: Source
    architecture: Architecture
    renamed: Renamed
    unfilled: tuple[str, ...]
    wrong: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @property
    def misses(self) -> int:
        return len(self.renamed.unknown) + len(self.unfilled) + len(self.wrong)


def read_checkpoint(path: Path, architecture: Architecture | None = None, *, backbone: bool = False) -> Checkpoint:
    """The checkpoint's network, recognised from names and shapes, or the given one with its weights.

    backbone: whether a part of the network may stay unfilled: its head, of a file that has only its backbone.

    Raises NetworkError for a file that cannot be read, of another network, with tensors of other shapes, or which fills
    only a part of the network unless `backbone`.
    """
    container = read_container(path)
    fit = _best(container, architecture, path)
    _check(fit, container, architecture, path, backbone)
    by_our_names = {ours: container.tensors[theirs] for ours, theirs in fit.renamed.ours.items()}
    found = Found(
        file=str(path),
        source=fit.source.name,
        network=name_of(fit.architecture),
        unknown=tuple(container.prefix + name for name in fit.renamed.unknown),
        dropped=tuple(container.prefix + name for name in fit.renamed.dropped),
        unfilled=fit.unfilled,
        converted=container.dtypes,
        beside=container.beside,
    )
    return Checkpoint(fit.architecture, fit.source.reordered(by_our_names, fit.architecture), _facts(fit, path), found)


def name_of(architecture: Architecture) -> str:
    """The known network's name, that of one with COCO's joints for other joints; else the family."""
    same: Any = architecture
    for name, known in NETWORKS.items():
        if known == architecture:
            return name
    for name, known in NETWORKS.items():
        if type(known) is type(architecture) and replace(same, keypoints=known.keypoints) == known:
            return name
    return architecture.family


def fitting_tensors(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name → shape of what a file must fill. Counters of batch norms are left out: old files have none."""
    with without_values():
        state = architecture.build().state_dict()
    return {name: tuple(one.shape) for name, one in state.items() if not name.endswith("num_batches_tracked")}


def _best(container: Container, architecture: Architecture | None, path: Path) -> _Fit:
    """The source and architecture that leave the fewest tensors over."""
    fits = []
    for source in SOURCES:
        if architecture is not None and source.family != architecture.family:
            continue
        renamed = source.renamed(container.tensors)
        if not renamed.ours or len(renamed.unknown) > len(container.tensors) / 2:
            continue
        shapes = {ours: tuple(container.tensors[theirs].shape) for ours, theirs in renamed.ours.items()}
        wanted = architecture or recognised(source.family, shapes)
        if wanted is None:
            continue
        wanted = replace(wanted, **dict(source.settings))  # type: ignore[type-var]
        tensors = fitting_tensors(wanted)
        unfilled = tuple(name for name in tensors if name not in shapes)
        wrong = {
            name: (shapes[name], tensors[name]) for name in tensors if name in shapes and shapes[name] != tensors[name]
        }
        extra = tuple(
            theirs for ours, theirs in renamed.ours.items() if ours not in tensors and not ours.endswith("_tracked")
        )
        kept = {ours: theirs for ours, theirs in renamed.ours.items() if theirs not in extra}
        renamed = Renamed(kept, renamed.dropped, (*renamed.unknown, *extra))
        fits.append(_Fit(source, wanted, renamed, unfilled, wrong))
    if not fits:
        raise _unrecognised(container, architecture, path)
    # A backbone without its classifier has the names of the network around it, too: it is ImageNet's then.
    return min(fits, key=lambda fit: (fit.misses, bool(fit.unfilled) and not fit.source.backbone))


def _check(fit: _Fit, container: Container, architecture: Architecture | None, path: Path, backbone: bool) -> None:
    """Raises NetworkError unless the tensors fit the architecture."""
    names = name_of(fit.architecture)
    if fit.wrong:
        theirs = recognised(fit.source.family, _shapes(container, fit.renamed))
        name, (there, here) = next(iter(fit.wrong.items()))
        joints = _joints(theirs, architecture)
        raise NetworkError(
            joints or f"the checkpoint must have the shapes of {names}",
            place=str(path),
            value=f"{container.prefix}{fit.renamed.ours[name]} {list(there)}, here {list(here)}",
            remedy=f"it is {_nearest(theirs)}; leave the network out, and it is imported as that"
            if theirs
            else "give the network that it is of",
        )
    if fit.unfilled and not backbone:
        only = "fills only the backbone of" if fit.source.backbone else "must fill all of"
        raise NetworkError(
            f"the checkpoint ({fit.source.name}) {only} {names}",
            place=str(path),
            value=f"{len(fit.unfilled)} tensors unfilled: {_listed(fit.unfilled)}"
            + (f"; {len(fit.renamed.unknown)} unknown: {_listed(fit.renamed.unknown)}" if fit.renamed.unknown else ""),
            remedy="give --backbone to import it with a random head, or training.backbone in a recipe"
            if fit.source.backbone
            else "give the file of the whole network",
        )


def _shapes(container: Container, renamed: Renamed) -> dict[str, tuple[int, ...]]:
    return {ours: tuple(container.tensors[theirs].shape) for ours, theirs in renamed.ours.items()}


def _joints(theirs: Architecture | None, ours: Architecture | None) -> str:
    """The rule that is broken where the two differ in their joints alone; '' where they differ in more."""
    if theirs is None or ours is None:
        return ""
    same: Any = theirs
    limbs = {"limbs": ours.limbs} if hasattr(ours, "limbs") and hasattr(theirs, "limbs") else {}
    if replace(same, keypoints=ours.keypoints, **limbs) != ours:
        return ""
    return f"the checkpoint's network has {theirs.keypoints} joints, {name_of(ours)} has {ours.keypoints}"


def _nearest(architecture: Architecture) -> str:
    return f"{name_of(architecture)} of {architecture.keypoints} joints"


def _unrecognised(container: Container, architecture: Architecture | None, path: Path) -> NetworkError:
    names = [container.prefix + name for name in container.tensors]
    for pattern, why in UNMATCHED:
        compiled = Source("", "", (), (pattern,))
        if compiled.renamed(container.tensors).dropped:
            return NetworkError(
                f"the checkpoint cannot be imported: {why}",
                place=str(path),
                value=_listed(names),
                remedy="train ours, or use the network as your own (package.module:function)",
            )
    shares = sorted(
        ((len(source.renamed(container.tensors).unknown), source) for source in SOURCES), key=lambda pair: pair[0]
    )
    unknown, nearest = shares[0]
    known = len(names) - unknown
    rule = (
        "the checkpoint must be of a known project"
        if architecture is None
        else (f"the checkpoint must be of {name_of(architecture)}")
    )
    return NetworkError(
        rule,
        place=str(path),
        value=f"{len(names)} tensors: {_listed(names)}",
        remedy=f"nearest: {nearest.name} ({nearest.family}), which knows {known} of its names; "
        "docs/checkpoints.md lists what can be imported"
        if known
        else f"known projects: {', '.join(dict.fromkeys(source.name for source in SOURCES))}",
    )


def _facts(fit: _Fit, path: Path) -> Facts:
    """Of the source; a size and a codec from the file's name, as projects write them."""
    named = re.search(r"(?<!\d)(\d{2,4})x(\d{2,4})(?!\d)", path.name)
    size = (int(named[1]), int(named[2])) if named else None
    if (
        size is None
        and fit.architecture.approach.startswith("bottom-up")
        and (side := re.search(r"_(\d{3})(?=[_.])", path.name))
    ):
        size = (int(side[1]), int(side[1]))
    if size is not None and any(side % fit.architecture.stride for side in size):
        size = None
    codec = fit.source.codec
    if codec.name in ("hrnet", "mmpose"):
        if marked := re.search(r"(?<![a-z])(udp|dark)(?![a-z])", path.name):
            codec = codec_named("udp" if marked[1] == "udp" else "dark")
        if size is not None and size[0] >= 384:  # HRNet's configurations; MMPose's, too
            codec = replace(codec, sigma=3.0, blur=17)
    only = getattr(fit.architecture, "input_hw", None)  # of a network that takes one size
    if only is not None:
        return Facts(fit.source.normalisation, codec, only, False)
    known: Any = fit.architecture
    published = published_hw(fit.architecture) or published_hw(replace(known, keypoints=_usual(fit.architecture)))
    return Facts(fit.source.normalisation, codec, size or published, size is not None)


def _usual(architecture: Architecture) -> int:
    """The joints of the family's published networks."""
    return next((one.keypoints for one in NETWORKS.values() if one.family == architecture.family), 17)


def _listed(names: Iterable[str]) -> str:
    all_names = list(names)
    more = f" and {len(all_names) - _NAMED} more" if len(all_names) > _NAMED else ""
    return ", ".join(all_names[:_NAMED]) + more


__all__ = ["SOURCES", "Checkpoint", "Facts", "Found", "fitting_tensors", "name_of", "read_checkpoint"]
