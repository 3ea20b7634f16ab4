"""What the picks of a space stand for: an architecture, or a given network, and what is done to it.

Edits come in a fixed order: the space's rewrites as the file lists them, each on what the ones before left, with the
weights fitted to what the replaced modules did; then the channels of all groups are pruned together, in every pruning
group those of least L2 norm.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from compress.artefacts.artefact import CHANNELS_PRUNED, Edit, Network
from compress.errors import RecipeError, SpaceError, nearest
from compress.nas.space import KEEP, EditChoice, Pick, Space
from compress.networks import Architecture, architecture_from_data
from compress.pruning.channels import Channels
from compress.pruning.groups import PruningGroup, pruning_groups, whole
from compress.pruning.importance import importance
from compress.pruning.selection import uniform
from compress.pruning.structured import checked, prunable_channels, without_channels
from compress.rewriting.fitting import fit_sites
from compress.rewriting.sites import Rewrite, rewrite_in_place, rule_named, sites

_PICTURES = 32  # that replacements are fitted on: sites of wide early maps are many megabytes each


@dataclass(frozen=True)
class Candidate:
    """A network, and the edits that lead to it from its architecture."""

    network: nn.Module
    edits: tuple[Edit, ...]


class Candidates:
    """The networks of a space's picks. start: the given network that all of them are edits of; None: architectures.

    Channels that stay divide by 8 where a pruning group has more, on every machine: candidates are the same on all.
    Which channels must be pruned together is found once per structure, as it takes seconds.
    """

    def __init__(self, space: Space, input_hw: tuple[int, int], start: Network | None = None) -> None:
        self.space, self.start, self._input_hw = space, start, input_hw
        self._followed: dict[str, Channels] = {}

    def architecture(self, pick: Pick) -> Architecture:
        """What the pick's network is built from."""
        return self.start.architecture if self.start else architecture_from_data(self.space.apply(pick), "search space")

    def build(self, pick: Pick) -> nn.Module:
        """A network of the candidate's structure; its weights mean nothing.

        On meta where torch's default device is that, but not a given network, nor where channels are pruned: the least
        important ones depend on the weights.
        """
        with torch.device("cpu") if self._channels(pick) else nullcontext():
            network = self._unedited(pick)
        with torch.device("cpu"):  # some rules try what a module does; what they build comes to the module's device
            for edit, rule in self._rewrites(pick):
                rewrite_in_place(network, _at(edit, sites(network, rule_named(rule))))
            return without_channels(network, *pruned) if (pruned := self._pruned(pick, network)) else network

    def is_edited(self, pick: Pick) -> bool:
        """Whether the pick asks for any edit, be there a site for it or not."""
        return bool(self._rewrites(pick) or self._channels(pick))

    def edited(self, pick: Pick, network: nn.Module, images: Sequence[Tensor], steps: int, seed: int) -> Candidate:
        """The candidate from the pick's unedited network, which is left as it is, in evaluation mode.

        images: batches [B,3,H,W], the first 32 pictures of which replacements are fitted on. steps: of reconstruction,
        see compress.rewriting.fitting.fit. Raises NetworkError if without its pruned channels it does not compute what
        the masked network does.
        """
        network, edits = copy.deepcopy(network).eval(), self.start.edits if self.start else ()
        for edit, rule in self._rewrites(pick):
            found = _at(edit, sites(network, rule_named(rule)))
            network, _ = fit_sites(network, found, images, limit=_PICTURES, steps=steps, seed=seed)
            edits = (*edits, *found)
        pruned = self._pruned(pick, network)
        if pruned is None:
            return Candidate(network, edits)
        smaller = checked(network, *pruned, self._input_hw)
        return Candidate(smaller, edits if CHANNELS_PRUNED in edits else (*edits, CHANNELS_PRUNED))

    def check(self, place: str) -> None:
        """Raises SpaceError for an unknown rule, and for edits without a site in the smallest and the largest pick.

        Where only some picks have a site, the others are left as they are. place: the space's file.
        """
        for edit in self.space.edits:
            for value in edit.values:
                if edit.kind == "rewrite" and value != KEEP:
                    try:
                        rule_named(str(value))
                    except RecipeError as wrong:
                        where = f"{place}: {edit.path}"
                        raise SpaceError(wrong.rule, place=where, value=value, remedy=wrong.remedy) from None
        ends = [{**pick, **self.space.unedited} for pick in (self.space.smallest, self.space.largest)]
        with torch.device("meta"):
            built = [self._unedited(pick) for pick in ends]
        for edit in self.space.edits:
            if edit.kind == "rewrite":
                for rule in (str(value) for value in edit.values if value != KEEP):
                    known = [site.at for network in built for site in sites(network, rule_named(rule))]
                    _check_sites(edit, known, f"no site of {rule}", place)
            else:
                parts = [part for pick in ends for part in self._prunable(pick)]
                _check_sites(edit, [part.name for part in parts], "no layer that can lose channels", place)
                _check_shares(edit, [part for part in parts if _lies_in(part.name, edit.sites)], place)

    def _unedited(self, pick: Pick) -> nn.Module:
        return copy.deepcopy(self.start.module) if self.start else self.architecture(pick).build()

    def _rewrites(self, pick: Pick) -> list[tuple[EditChoice, str]]:
        """The groups that rewrite something, and their rules."""
        rewrites = [edit for edit in self.space.edits if edit.kind == "rewrite"]
        return [(edit, pick[edit.path]) for edit in rewrites if pick[edit.path] != KEEP]

    def _channels(self, pick: Pick) -> list[tuple[EditChoice, float]]:
        """The groups that lose channels, and the shares that stay."""
        channels = [edit for edit in self.space.edits if edit.kind == "channels"]
        return [(edit, pick[edit.path]) for edit in channels if pick[edit.path] != edit.nothing]

    def _pruned(self, pick: Pick, network: nn.Module) -> tuple[Channels, set[int]] | None:
        """The rewritten network's channels and those that are removed; None if none.

        Of two groups of edits around one pruning group the smaller share counts.
        """
        groups = self._channels(pick)
        if not groups:
            return None
        channels = self._follow(pick, network)
        parts = pruning_groups(channels)
        scores = importance("l2", network, channels, parts).scores
        removed: set[int] = set()
        for edit, share in groups:
            removed |= uniform([part for part in parts if _lies_in(part.name, edit.sites)], scores, 1 - share)
        return (channels, removed) if removed else None

    def _prunable(self, pick: Pick) -> list[PruningGroup]:
        """The pruning groups of the unedited network that can lose channels."""
        with torch.device("cpu"):
            parts = pruning_groups(self._follow(pick, self._unedited(pick)))
        untouched = whole(parts)
        return [part for part in parts if part.name not in untouched]

    def _follow(self, pick: Pick, network: nn.Module) -> Channels:
        shares = {edit.path for edit in self.space.edits if edit.kind == "channels"}
        structure = repr({path: value for path, value in pick.items() if path not in shares})
        if structure not in self._followed:
            self._followed[structure] = prunable_channels(network, self._input_hw)
        return self._followed[structure]


def _check_sites(edit: EditChoice, known: Sequence[str], lack: str, place: str) -> None:
    """Raises SpaceError unless one of the known paths lies in the group."""
    if not any(_lies_in(path, edit.sites) for path in known):
        raise SpaceError(
            f"{lack} lies there in the smallest and the largest network",
            place=f"{place}: {edit.path}.sites",
            value=edit.sites,
            remedy=nearest(edit.sites, {one for path in known for one in _around(path)}) if known else "leave it out",
        )


def _check_shares(edit: EditChoice, parts: Sequence[PruningGroup], place: str) -> None:
    """Raises SpaceError for a share that removes nothing from any of these pruning groups."""
    scores = {member: 0.0 for part in parts for member in part.members}
    for share in edit.values:
        if share != edit.nothing and not uniform(parts, scores, 1 - float(share)):
            raise SpaceError(
                "a share must take channels from some layer; what stays divides by 8",
                place=f"{place}: {edit.path}",
                value=share,
                remedy="leave it out or make it smaller",
            )


def _at(edit: EditChoice, found: list[Rewrite]) -> list[Rewrite]:
    """Of a rule's sites those of the group."""
    return [site for site in found if _lies_in(site.at, edit.sites)]


def _lies_in(path: str, pattern: str) -> bool:
    """Whether the pattern matches the module's path, or that of a module around it."""
    return any(fnmatchcase(one, pattern) for one in _around(path))


def _around(path: str) -> list[str]:
    """The module's path after those of the modules around it."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
