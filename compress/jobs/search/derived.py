"""The space that is derived from a given network: what can vary in it, in groups, and in which steps.

    channels   of the pruning groups, part by part of the network
    blocks     residual blocks that can be taken out, by what holds them: a stage's branch, a stage; refinement stages
    rewrite    operators that rules replace; rules of the same sites are alternatives of one choice
    weights    zeros, where the engine that decides skips them
    input_hw   input sizes from half of the given height and width on, where the network takes several

The least important blocks of a group go first: those that change least what passes through them. Of refinement stages
the last go first.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.artefacts.artefact import Network
from compress.engines import engine
from compress.errors import NetworkError, SpaceError
from compress.jobs.rewrite.choice import grouped, holder_of, part_of
from compress.nas.candidate import REMOVALS, SPARSITY, Candidates
from compress.nas.space import (
    INPUT_SIZE,
    KEEP,
    EditChoice,
    EditKind,
    Space,
    SpaceFile,
    expand,
    matches,
    size_text,
    value_at,
)
from compress.networks import architecture_to_data
from compress.networks.architecture import check_input
from compress.pruning.groups import PruningGroup, layer_of, whole
from compress.pruning.selection import uniform
from compress.pruning.sparsity import prunable
from compress.rewriting.rules import RULES
from compress.rewriting.sites import rule_named, sites

CHANNEL_SHARES = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
"""Of a part's channels that stay: the ratios that `compress prune` tries, and 0.5 and 0.375 between them."""
INPUT_SHARES = (0.5, 0.625, 0.75, 0.875)
"""Of the height and the width of the input."""
WEIGHT_SHARES = (0.25, 0.5)
"""Of a part's weights that are not zero; sparse kernels gain from 30 % zeros on."""
_STEPS = 4  # of blocks, at most
_NOT_SEARCHED = (*REMOVALS, "fold_batch_norm")
"""Rules that are no choice here: blocks are one of their own, and what is tuned needs its batch norms."""
JUDGED_ON = 16
"""Pictures that blocks are judged on."""


def derive(candidates: Candidates, engine_name: str, images: Iterable[Tensor], groups: int, path: Path) -> SpaceFile:
    """What can vary in the given network, at most `groups` choices of each kind.

    candidates: of the given network, without edits. engine_name: of the target that decides. images: training pictures
    [B,3,H,W], the first 16 of which blocks are judged on. path: where the space will lie. Raises NetworkError, with the
    reasons, if nothing can vary.
    """
    start = candidates.start
    assert start is not None
    blocks, stages = (removable(start.module, rule) for rule in REMOVALS)
    edits = [
        *channel_choices(candidates.prunable({}), groups),
        *block_choices(blocks, influences(start.module, blocks, images), groups),
        *stage_choices(stages),
        *rewrite_choices(start.module, groups),
    ]
    if engine(engine_name).skips_zeros:
        edits += weight_choices([layer_of(name) for name in prunable(start.module, SPARSITY).layers], groups)
    sizes = smaller_inputs(start)
    if not edits and not sizes:
        reasons = Counter(whole(candidates.groups({})).values()).most_common(3)
        channels = "; ".join(why for why, _ in reasons) or "it has no layer with channels"
        raise NetworkError(
            f"nothing can vary in this network: {channels}; no residual block, no refinement stage, and no operator "
            "that a rule replaces",
            place=start.name,
            remedy="search another network, or write a space (docs/search.md)",
        )
    choices: dict[str, tuple[Any, ...]] = {INPUT_SIZE: (*sizes, size_text(start.input_hw))} if sizes else {}
    return SpaceFile(path, architecture_to_data(start.architecture)["family"], {}, choices, tuple(_told_apart(edits)))


def smaller_inputs(start: Network) -> list[str]:
    """Input sizes below the given network's, multiples of its stride, smallest first; none where it takes one only."""
    stride, found = start.architecture.stride, {}
    for share in INPUT_SHARES:
        height, width = (max(stride, round(share * side / stride) * stride) for side in start.input_hw)
        if height * width < math.prod(start.input_hw) and _takes(start, (height, width)):
            found[size_text((height, width))] = height * width
    return sorted(found, key=found.__getitem__)


def _takes(start: Network, input_hw: tuple[int, int]) -> bool:
    """Whether the network computes maps of that size, as its strides have them."""
    try:
        check_input(start.architecture, input_hw, "input_hw")
        with torch.no_grad():
            maps = start.module(torch.zeros(1, 3, *input_hw, device=next(start.module.parameters()).device))
    except (NetworkError, RuntimeError, ValueError, AssertionError):  # the last three are torch's, and a module's own
        return False
    sizes = [tuple(one.shape[2:]) for one in maps]
    strides = start.architecture.output_strides
    return sizes == [tuple(round(side / stride) for side in input_hw) for stride in strides]


def channel_choices(parts: Sequence[PruningGroup], groups: int) -> list[EditChoice]:
    """Shares of the channels that stay, of every part of the network; no two that leave the same."""
    by_name = {part.name: part for part in parts}
    found = []
    for name, members in grouped(list(by_name), groups).items():
        inside = [by_name[one] for one in members]
        scores = {member: 0.0 for part in inside for member in part.members}
        removals = {frozenset[int](): 1.0}
        for share in reversed(CHANNEL_SHARES):
            removals.setdefault(frozenset(uniform(inside, scores, 1 - share)), share)
        if len(removals) > 1:
            values = tuple(sorted(removals.values()))
            found.append(_choice("channels", name, members, by_name, values))
    return found


def block_choices(blocks: Sequence[str], influence: Mapping[str, float], groups: int) -> list[EditChoice]:
    """Shares of the blocks that stay, by what holds them; the list of sites is the order in which they go."""
    holders: dict[str, list[str]] = {}
    for path in blocks:
        holders.setdefault(holder_of(path), []).append(path)
    found = []
    for name, held in grouped(list(holders), groups).items():
        members = sorted((path for holder in held for path in holders[holder]), key=lambda path: influence[path])
        steps = min(_STEPS, len(members))
        stay = sorted({round(step * len(members) / steps) for step in range(steps + 1)})
        values = tuple(round(count / len(members), 4) for count in stay)
        found.append(EditChoice(f"blocks of {part_of(name)}", tuple(members), "blocks", values))
    return found


def stage_choices(stages: Sequence[str]) -> list[EditChoice]:
    """Shares of the refinement stages that stay. The last go first: what stays is fed as it was trained."""
    values = tuple(round(count / len(stages), 4) for count in range(len(stages) + 1)) if stages else ()
    return [EditChoice("refinement stages", tuple(reversed(stages)), "blocks", values)] if stages else []


def removable(network: nn.Module, rule: str) -> list[str]:
    """Paths of what the rule takes out, in the network's order."""
    return [one.at for one in sites(network, rule_named(rule))]


def influences(network: nn.Module, blocks: Sequence[str], images: Iterable[Tensor]) -> dict[str, float]:
    """Of every block |output - what stays without it|² over |output|², over the first 16 pictures.

    After the block influence of ShortGPT (Men et al., 2024), with the relative error in place of the angle.
    """
    rule = rule_named(REMOVALS[0])
    lost, whole_of = dict.fromkeys(blocks, 0.0), dict.fromkeys(blocks, 1e-12)
    seen: dict[str, Tensor] = {}
    handles = []
    for path in blocks:
        module = network.get_submodule(path)
        instead = rule.build(module)

        def look(_: nn.Module, inputs: tuple[Tensor, ...], path: str = path, instead: nn.Module = instead) -> None:
            seen[path] = instead(inputs[0].clone())

        def compare(_: nn.Module, __: object, output: Tensor, path: str = path) -> None:
            lost[path] += float((output - seen.pop(path)).square().sum())
            whole_of[path] += float(output.square().sum())

        handles += [module.register_forward_pre_hook(look), module.register_forward_hook(compare)]
    device, left = next(network.parameters()).device, JUDGED_ON
    try:
        with torch.no_grad():
            for batch in images:
                network(batch[:left].to(device))
                left -= len(batch)
                if left <= 0:
                    break
    finally:
        for handle in handles:
            handle.remove()
    return {path: lost[path] / whole_of[path] for path in blocks}


def rewrite_choices(network: nn.Module, groups: int) -> list[EditChoice]:
    """Rules by the sites they match: those of the same sites are alternatives."""
    matched: dict[tuple[str, ...], list[str]] = {}
    for rule in RULES:
        if rule not in _NOT_SEARCHED and (found := sites(network, rule_named(rule))):
            matched.setdefault(tuple(one.at for one in found), []).append(rule)
    each = max(1, groups // max(1, len(matched)))
    choices = []
    for paths, rules in matched.items():
        subject = rules[0].partition("_to_")[0].replace("_", " ")
        for name, members in grouped(paths, each).items():
            one = _choice("rewrite", name, members, paths, (KEEP, *rules))
            choices.append(replace(one, name=f"{subject} in {part_of(name)}"))
    return choices


def weight_choices(layers: Sequence[str], groups: int) -> list[EditChoice]:
    """Shares of the weights that are not zero, of every part of the network."""
    values = (*WEIGHT_SHARES, 1.0)
    return [_choice("weights", name, members, layers, values) for name, members in grouped(layers, groups).items()]


def _choice(
    kind: EditKind, name: str, members: Sequence[str], known: Iterable[str], values: tuple[str | float, ...]
) -> EditChoice:
    """Of the part `name`; a pattern stands for all its members where it finds these alone among the known ones."""
    part = part_of(name)
    inside = [path for path in known if f"{path}.".startswith(f"{part}.")] if name != "*" else list(known)
    sites_of = (part,) if sorted(inside) == sorted(members) else tuple(members)
    return EditChoice(f"{kind} of {part}", sites_of, kind, values)


def _told_apart(edits: Sequence[EditChoice]) -> list[EditChoice]:
    """The same; of several of one name all but the first are numbered."""
    seen: Counter[str] = Counter()
    found = []
    for edit in edits:
        seen[edit.name] += 1
        found.append(edit if seen[edit.name] == 1 else replace(edit, name=f"{edit.name} ({seen[edit.name]})"))
    return found


def no_larger(given: Network, files: Sequence[SpaceFile]) -> Space:
    """The given network's architecture with the choices of its family's spaces, of numbers none above its own.

    Raises SpaceError where there is no such choice.
    """
    base = architecture_to_data(given.architecture)
    wanted: dict[str, list[Any]] = {}
    for file in files:
        if file.family == base["family"]:
            known = {pattern: values for pattern, values in file.choices.items() if matches(base, pattern)}
            for path, listed in expand(replace(file, choices=known, edits=()), base).choices.items():
                wanted.setdefault(path, []).extend(listed)
    choices: dict[str, tuple[Any, ...]] = {}
    for path, values in wanted.items():
        own = value_at(base, path)
        if isinstance(own, int | float) and not isinstance(own, bool):
            choices[path] = tuple(sorted({own, *(value for value in values if value <= own)}))
        else:
            choices[path] = tuple(dict.fromkeys([*values, own]))
    choices = {path: values for path, values in choices.items() if len(values) > 1}
    if not choices:
        raise SpaceError(
            "no space that comes with the package varies this network downward",
            place=given.name,
            value=base["family"],
            remedy="write a space of its family (docs/search.md), or search its edits: --from inherit",
        )
    return Space(base, dict(sorted(choices.items())))


def described(space: Space) -> list[str]:
    """One line for every choice, and their number: what a user sees before any work."""
    lines = []
    for path, given in space.architectures.choices.items():
        lines.append(f"{path}: {', '.join(map(str, given))}")
    if space.input_sizes:
        lines.append(f"{INPUT_SIZE}: {', '.join(map(size_text, space.input_sizes))}")
    for edit in space.edits:
        if edit.kind == "rewrite":
            values = ", ".join(str(value) for value in edit.values)
        else:
            values = ", ".join(f"{100 * float(value):.3g}%" for value in edit.values)
        lines.append(f"{edit.name}: {values}")
    return [*lines, f"{len(space.choices)} choices, {space.size:.3g} candidates"]
