"""Pruning groups: the finest parts in which channels may be chosen, made and read by the same parameters."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from compress.errors import NetworkError, RecipeError, nearest
from compress.pruning.channels import Channels

MULTIPLE = 8
"""Channels that engines compute at a time (AVX: 8 floats; ncnn's own advice); 64→45 is slower than 64→48."""


@dataclass(frozen=True)
class PruningGroup:
    """A layer's or a residual stream's channels; of a shuffled stream, those of one kind of orbit.

    Every use consists of whole groups: while each group keeps a member, no layer loses all its channels.
    name: the layer that makes them first. made_by: parameters. members: those that can be removed, see
    compress.pruning.channels. widths: channels of each member, in the parameter that has most of them. fixed: channels
    that stay, and why. multiple: what stays divides by. layers: how many make, follow or read the channels.
    """

    name: str
    made_by: tuple[str, ...]
    members: tuple[int, ...]
    widths: tuple[int, ...]
    fixed: int
    why: str
    multiple: int
    layers: int

    @property
    def channels(self) -> int:
        """All of them."""
        return sum(self.widths) + self.fixed

    def removals(self, scores: Mapping[int, float]) -> list[tuple[int, ...]]:
        """Members that can be removed together, from none to most, the least important first.

        At least one member stays, and the channels left divide by `multiple`; not so if there are no more than that.
        """
        width = dict(zip(self.members, self.widths, strict=True))
        order = sorted(self.members, key=lambda member: (scores[member], member))
        step = self.multiple if self.channels > self.multiple else 1
        found: list[tuple[int, ...]] = [()]
        left = self.channels
        for count, member in enumerate(order if self.fixed else order[:-1], start=1):
            left -= width[member]
            if left % step == 0:
                found.append(tuple(order[:count]))
        return found

    def nearest_removal(self, scores: Mapping[int, float], ratio: float) -> tuple[int, ...]:
        """The removal whose share of the channels is nearest to the ratio; of two, the smaller."""
        return min(self.removals(scores), key=lambda removed: abs(self.share(removed) - ratio))

    def share(self, removed: Collection[int]) -> float:
        """Of the group's channels, the share that is removed, in 0..1."""
        removed = set(removed)
        lost = sum(width for member, width in zip(self.members, self.widths, strict=True) if member in removed)
        return lost / self.channels


def pruning_groups(
    channels: Channels, *, multiple: int = MULTIPLE, protected: Sequence[str] = ()
) -> list[PruningGroup]:
    """All groups in the order of the network. protected: patterns (`head`, `*.stem.0`) of layers, or of modules
    around them, that keep what they make.

    Raises RecipeError for a multiple below 1, NetworkError for a pattern that no layer matches.
    """
    if multiple < 1:
        raise RecipeError(
            "channels are rounded to a multiple of at least 1",
            place="multiple",
            value=multiple,
            remedy="8 suits most engines, 1 rounds nothing",
        )
    uses: dict[int, set[tuple[str, int]]] = defaultdict(set)
    makers: dict[int, dict[str, None]] = defaultdict(dict)
    width: Counter[int] = Counter()
    for use in channels.uses:
        for member, count in Counter(map(channels.member_of, use.channels)).items():
            uses[member].add((use.name, use.dim))
            if use.made:
                makers[member][use.name] = None
                width[member] = max(width[member], count)
    for number, part in enumerate(channels.parts):
        for member in map(channels.member_of, part):
            uses[member].add(("a slice", number))
    stays = {**_protected(channels, protected), **channels.kept}
    alike: dict[frozenset[tuple[str, int]], list[int]] = defaultdict(list)
    for member in makers:
        alike[frozenset(uses[member])].append(member)
    named: Counter[str] = Counter()
    found = []
    for members in alike.values():
        layer = layer_of(next(iter(makers[members[0]])))
        named[layer] += 1
        free = [member for member in members if member not in stays]
        fixed = [member for member in members if member in stays]
        found.append(
            PruningGroup(
                name=layer if named[layer] == 1 else f"{layer}#{named[layer]}",
                made_by=tuple(makers[members[0]]),
                members=tuple(free),
                widths=tuple(width[member] for member in free),
                fixed=sum(width[member] for member in fixed),
                why=stays[fixed[0]] if fixed else "",
                multiple=multiple,
                layers=len({layer_of(name) for name, _ in uses[members[0]]}),
            )
        )
    return found


def whole(parts: Sequence[PruningGroup]) -> dict[str, str]:
    """Groups that cannot lose anything, and why."""
    reasons = {}
    for part in parts:
        if len(part.removals(dict.fromkeys(part.members, 0.0))) == 1:
            if not part.members:
                reasons[part.name] = part.why
            elif len(part.members) == 1 and not part.fixed:
                reasons[part.name] = f"its {part.channels} channels can only be removed together"
            else:
                reasons[part.name] = (
                    f"nothing that could be removed of its {part.channels} leaves a multiple of {part.multiple}"
                )
    return reasons


def layer_of(parameter: str) -> str:
    """The path of the layer that has the parameter."""
    return parameter.rpartition(".")[0] or parameter


def _protected(channels: Channels, patterns: Sequence[str]) -> dict[int, str]:
    """The members that matching layers make."""
    made = {use: _modules_around(use.name) for use in channels.uses if use.made}
    found: dict[int, str] = {}
    for pattern in patterns:
        matching = [use for use, modules in made.items() if any(fnmatchcase(module, pattern) for module in modules)]
        if not matching:
            raise NetworkError(
                "a protected layer must be one that makes channels",
                place="protect",
                value=pattern,
                remedy=nearest(pattern, {module for modules in made.values() for module in modules}),
            )
        found.update({channels.member_of(one): f"protected by {pattern!r}" for use in matching for one in use.channels})
    return found


def _modules_around(parameter: str) -> list[str]:
    """The layer that has the parameter, and every module that has the layer."""
    parts = layer_of(parameter).split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
