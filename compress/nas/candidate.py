"""What the picks of a space stand for: an architecture, or a given network, and what is done to it.

Edits come in a fixed order. The channels of all groups are pruned together, in every pruning group those of least L2
norm: first, for which channels go together is then found once for all candidates of one architecture. Then residual
blocks and refinement stages are removed; then the space's rewrites as the file lists them, each on what the ones before
left, with the weights fitted to what the replaced modules did; and last the smallest weights become zero.
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
from compress.nas.space import KEEP, EditChoice, EditKind, Pick, Space
from compress.networks import Architecture, architecture_from_data
from compress.networks.architecture import without_values
from compress.pruning.channels import Channels
from compress.pruning.groups import PruningGroup, layer_of, pruning_groups, whole
from compress.pruning.importance import importance
from compress.pruning.selection import uniform
from compress.pruning.sparsity import Block, apply_masks, masks, prunable
from compress.pruning.structured import checked, prunable_channels, without_channels
from compress.rewriting.fitting import fit_sites
from compress.rewriting.sites import Rewrite, rewrite_in_place, rule_named, sites
from compress.training.recalibration import recalibrate

SPARSITY = Block()
"""The scheme in which weights become zero: what sparse kernels of an engine skip."""
REMOVALS = ("remove_block", "remove_stage")
"""The rewriting rules that take a residual block out, and a refinement stage."""
_PICTURES = 32  # that replacements are fitted on: sites of wide early maps are many megabytes each


@dataclass(frozen=True)
class Candidate:
    """A network, and the edits that lead to it from its architecture."""

    network: nn.Module
    edits: tuple[Edit, ...]


class Candidates:
    """The networks of a space's picks. start: the given network that all of them are edits of; None: architectures.

    Channels that stay divide by 8 where a pruning group has more, on every machine: candidates are the same on all.
    Which channels must be pruned together, and which blocks can be removed, is found once per architecture, as it takes
    seconds.
    """

    def __init__(self, space: Space, input_hw: tuple[int, int], start: Network | None = None) -> None:
        self.space, self.start, self._input_hw = space, start, input_hw
        self._followed: dict[str, Channels] = {}
        self._blocks: dict[str, dict[str, str]] = {}

    def input_hw(self, pick: Pick) -> tuple[int, int]:
        """The input size of the pick's network."""
        return self.space.input_hw(pick, self._input_hw)

    def architecture(self, pick: Pick) -> Architecture:
        """What the pick's network is built from."""
        return self.start.architecture if self.start else architecture_from_data(self.space.apply(pick), "search space")

    def build(self, pick: Pick) -> nn.Module:
        """A network of the candidate's structure; its weights mean nothing, but for those that are zero.

        On meta where torch's default device is that, but not a given network, nor where channels are pruned or weights
        may become zero: the least important ones depend on the weights.
        """
        by_weight = self._chosen(pick, "channels") or self.sets_zeros
        with torch.device("cpu") if by_weight else nullcontext():
            network = self._unedited(pick)
        with torch.device("cpu"):  # some rules try what a module does; what they build comes to the module's device
            blocks = self._without_blocks(pick, network)
            if pruned := self._pruned(pick, network):
                network = without_channels(network, *pruned)
            rewrite_in_place(network, blocks)
            for edit, rule in self._chosen(pick, "rewrite"):
                rewrite_in_place(network, _at(edit, sites(network, rule_named(str(rule)))))
            self._set_zeros(pick, network)
            return network

    @property
    def sets_zeros(self) -> bool:
        """Whether weights may become zero in this space."""
        return any(edit.kind == "weights" for edit in self.space.edits)

    def is_edited(self, pick: Pick) -> bool:
        """Whether the pick asks for any edit, be there a site for it or not."""
        return any(pick[edit.path] != edit.nothing for edit in self.space.edits)

    def edited(
        self, pick: Pick, network: nn.Module, images: Sequence[Tensor], steps: int, seed: int, *, check: bool = True
    ) -> Candidate:
        """The candidate from the pick's unedited network, which is left as it is, in evaluation mode.

        images: batches [B,3,H,W], the first 32 pictures of which replacements are fitted on. steps: of reconstruction,
        see compress.rewriting.fitting.fit. check: raise NetworkError if without its pruned channels it does not compute
        what the masked network does; half of the time that channels take.
        """
        network, edits = copy.deepcopy(network).eval(), self.start.edits if self.start else ()
        blocks, pruned = self._without_blocks(pick, network), self._pruned(pick, network)
        if pruned:
            network = checked(network, *pruned, self._input_hw) if check else without_channels(network, *pruned)
        rewrite_in_place(network, blocks)
        edits = (*edits, *blocks)
        rewrites = self._chosen(pick, "rewrite")
        if rewrites and (pruned or blocks):  # replacements are fitted to what the smaller network computes
            recalibrate(network, images)
        for edit, rule in rewrites:
            found = _at(edit, sites(network, rule_named(str(rule))))
            network, _ = fit_sites(network, found, images, limit=_PICTURES, steps=steps, seed=seed)
            edits = (*edits, *found)
        self._set_zeros(pick, network)
        if pruned and CHANNELS_PRUNED not in edits:
            edits = (*edits, CHANNELS_PRUNED)
        return Candidate(network, edits)

    def sparsity(self, pick: Pick, network: nn.Module) -> dict[str, float]:
        """Of the candidate's network: weight's name → share that is zero, in the scheme SPARSITY."""
        found: dict[str, float] = {}
        for edit, share in self._chosen(pick, "weights"):
            for name in prunable(network, SPARSITY).layers:
                if _lies_in(layer_of(name), edit.sites):
                    found[name] = max(found.get(name, 0.0), 1 - float(share))
        return found

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
        with without_values():
            built = [self._unedited(pick) for pick in ends]
        for edit in self.space.edits:
            if edit.kind == "rewrite":
                for rule in (str(value) for value in edit.values if value != KEEP):
                    known = [site.at for network in built for site in sites(network, rule_named(rule))]
                    _check_sites(edit, known, f"no site of {rule}", place)
            elif edit.kind == "blocks":
                known = [path for pick in ends for path in self.removable(pick)]
                _check_sites(edit, known, "no residual block or refinement stage", place)
            elif edit.kind == "weights":
                known = [layer_of(name) for network in built for name in prunable(network, SPARSITY).layers]
                _check_sites(edit, known, "no convolution whose weights can become zero in blocks", place)
            else:
                parts = [part for pick in ends for part in self.prunable(pick)]
                _check_sites(edit, [part.name for part in parts], "no layer that can lose channels", place)
                _check_shares(edit, [part for part in parts if _lies_in(part.name, edit.sites)], place)

    def over(self, space: Space) -> "Candidates":
        """Of the same architectures with other edits; what is known of their networks stays known."""
        same = Candidates(space, self._input_hw, self.start)
        same._followed, same._blocks = self._followed, self._blocks
        return same

    def prunable(self, pick: Pick) -> list[PruningGroup]:
        """The pruning groups of the unedited network that can lose channels."""
        parts = self.groups(pick)
        untouched = whole(parts)
        return [part for part in parts if part.name not in untouched]

    def groups(self, pick: Pick) -> list[PruningGroup]:
        """All pruning groups of the unedited network."""
        with torch.device("cpu"):
            return pruning_groups(self._follow(pick, self._unedited(pick)))

    def removable(self, pick: Pick, network: nn.Module | None = None) -> list[str]:
        """Paths of the residual blocks and the refinement stages of the unedited network, in its order by rule."""
        return list(self._removals(pick, network))

    def _removals(self, pick: Pick, network: nn.Module | None = None) -> dict[str, str]:
        """Path of what can be taken out → the rule that does."""
        structure = self._structure(pick)
        if structure not in self._blocks:
            with without_values():
                network = network or self._unedited(pick)
            found = (one for rule in REMOVALS for one in sites(network, rule_named(rule)))
            self._blocks[structure] = {one.at: one.rule for one in found}
        return self._blocks[structure]

    def _unedited(self, pick: Pick) -> nn.Module:
        return copy.deepcopy(self.start.module) if self.start else self.architecture(pick).build()

    def _chosen(self, pick: Pick, kind: EditKind) -> list[tuple[EditChoice, str | float]]:
        """The groups of one kind that change something, and what the pick says of them."""
        edits = [edit for edit in self.space.edits if edit.kind == kind]
        return [(edit, pick[edit.path]) for edit in edits if pick[edit.path] != edit.nothing]

    def _without_blocks(self, pick: Pick, network: nn.Module) -> list[Rewrite]:
        """The blocks and stages that go; see compress.nas.space for their order. Of what lies in another one that goes
        nothing is said."""
        gone: dict[str, None] = {}
        chosen = self._chosen(pick, "blocks")
        removals = self._removals(pick, network) if chosen else {}
        for edit, share in chosen:
            blocks = list(removals)
            order = [path for pattern in edit.sites for path in reversed(blocks) if _lies_in(path, (pattern,))]
            order = list(dict.fromkeys(order))
            gone |= dict.fromkeys(order[: round((1 - float(share)) * len(order))])
        return [Rewrite(removals[path], path) for path in gone if gone.keys().isdisjoint(_around(path)[:-1])]

    def _pruned(self, pick: Pick, network: nn.Module) -> tuple[Channels, set[int]] | None:
        """The unedited network's channels and those that are removed; None if none.

        Of two groups of edits around one pruning group the smaller share counts.
        """
        groups = self._chosen(pick, "channels")
        if not groups:
            return None
        channels = self._follow(pick, network)
        parts = pruning_groups(channels)
        scores = importance("l2", network, channels, parts).scores
        removed: set[int] = set()
        for edit, share in groups:
            inside = [part for part in parts if _lies_in(part.name, edit.sites)]
            removed |= uniform(inside, scores, 1 - float(share))
        return (channels, removed) if removed else None

    def _set_zeros(self, pick: Pick, network: nn.Module) -> None:
        """Sets the smallest weights to zero where the pick says so."""
        if ratios := self.sparsity(pick, network):
            apply_masks(network, masks(network, SPARSITY, ratios))

    def _follow(self, pick: Pick, network: nn.Module) -> Channels:
        structure = self._structure(pick)
        if structure not in self._followed:
            self._followed[structure] = prunable_channels(network, self._input_hw)
        return self._followed[structure]

    def _structure(self, pick: Pick) -> str:
        """Equal for picks of one unedited network."""
        return repr({path: pick[path] for path in self.space.architectures.choices})


def _check_sites(edit: EditChoice, known: Sequence[str], lack: str, place: str) -> None:
    """Raises SpaceError unless of every pattern of the group one of the known paths lies there."""
    for pattern in edit.sites:
        if not any(_lies_in(path, (pattern,)) for path in known):
            raise SpaceError(
                f"{lack} lies there in the smallest and the largest network",
                place=f"{place}: {edit.path}.sites",
                value=pattern,
                remedy=nearest(pattern, {one for path in known for one in _around(path)}) if known else "leave it out",
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


def _lies_in(path: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern matches the module's path, or that of a module around it."""
    return any(fnmatchcase(one, pattern) for one in _around(path) for pattern in patterns)


def _around(path: str) -> list[str]:
    """The module's path after those of the modules around it."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
