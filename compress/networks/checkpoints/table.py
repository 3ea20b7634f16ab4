"""How one project's names become ours: a table of renames, inputs in another order, and names that have no place here.

In a pattern `#` is a number, `<any>` any text, and a dot a dot; the rest is a regular expression. A rename's function
gets the numbers, and the texts of the pattern's own groups, in their order. Patterns of renames match the module's
path, as `layer1.0.conv1`; those of dropped names the whole name, as `fc.weight`.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from compress.data.normalisation import IMAGENET, Normalisation
from compress.networks.architecture import Architecture
from compress.pose.codec import Codec

CONV_BN = ("conv", "bn")
"""What 0 and 1 are in a sequence of a convolution and its batch norm."""

Rename = tuple[str, Callable[..., str]]
"""Pattern of the project's path, and ours."""


@dataclass(frozen=True)
class Joined:
    """A weight whose inputs are several maps joined, in another order there than here.

    at: pattern of our name of the weight. dimension: of its inputs. theirs: name → number of channels of each part, in
    the project's order, from the architecture. ours: the same names in our order.
    """

    at: str
    dimension: int
    theirs: Callable[[Any], Mapping[str, int]]
    ours: tuple[str, ...]

    def order(self, architecture: Architecture) -> list[int]:
        """Input of ours → the project's."""
        starts, start = {}, 0
        sizes = self.theirs(architecture)
        for name, size in sizes.items():
            starts[name], start = start, start + size
        return [starts[name] + i for name in self.ours for i in range(sizes[name])]


@dataclass(frozen=True)
class Source:
    """One project's checkpoints of one family.

    name: of the project, for people. family: of ours. backbone: whether the head is another one there, so that only the
    backbone can be filled. codec, normalisation: that the project's networks were trained with. settings: of the
    architecture, that its networks have and shapes do not show.
    """

    name: str
    family: str
    renames: tuple[Rename, ...]
    dropped: tuple[str, ...] = ()
    joined: tuple[Joined, ...] = ()
    backbone: bool = False
    normalisation: Normalisation = IMAGENET
    codec: Codec = Codec()  # noqa: RUF009  frozen
    settings: tuple[tuple[str, object], ...] = ()

    @cached_property
    def _compiled(self) -> list[tuple[re.Pattern[str], Callable[..., str]]]:
        return [(_compile(pattern), ours) for pattern, ours in self.renames]

    @cached_property
    def _dropped(self) -> list[re.Pattern[str]]:
        return [_compile(pattern) for pattern in self.dropped]

    def renamed(self, names: Iterable[str]) -> "Renamed":
        """Our names for the project's."""
        ours: dict[str, str] = {}
        dropped, unknown = [], []
        for name in names:
            found = None if any(one.fullmatch(name) for one in self._dropped) else self._ours(name)
            if found is not None and found not in ours:
                ours[found] = name
            elif any(one.fullmatch(name) for one in self._dropped):
                dropped.append(name)
            else:
                unknown.append(name)
        return Renamed(ours, tuple(dropped), tuple(unknown))

    def _ours(self, name: str) -> str | None:
        path, _, leaf = name.rpartition(".")
        for pattern, ours in self._compiled:
            if match := pattern.fullmatch(path):
                try:
                    return f"{ours(*(int(part) if part.isdigit() else part for part in match.groups()))}.{leaf}"
                except (IndexError, KeyError):  # a place that the project's networks do not have
                    return None
        return None

    def reordered(self, tensors: Mapping[str, Tensor], architecture: Architecture) -> dict[str, Tensor]:
        """The tensors by our names, with their inputs in our order."""
        found = dict(tensors)
        for joined in self.joined:
            pattern = _compile(joined.at)
            for name in filter(pattern.fullmatch, tensors):
                order = joined.order(architecture)
                if len(order) == found[name].shape[joined.dimension]:  # else the shapes do not fit, which is told
                    found[name] = found[name][(slice(None),) * joined.dimension + (order,)]
        return found


@dataclass(frozen=True)
class Renamed:
    """ours: our name → the project's. dropped: with no place in ours. unknown: that no line of the table speaks of."""

    ours: dict[str, str]
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]


def within(prefix: str, renames: Sequence[Rename]) -> tuple[Rename, ...]:
    """The same renames of names that have something before them; a pattern."""
    return tuple((prefix + pattern, ours) for pattern, ours in renames)


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace(".", r"\.").replace("#", r"(\d+)").replace("<any>", ".+"))
