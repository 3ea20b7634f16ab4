"""What can be replaced: a rule, and the sites that are decided together.

A *choice* is one module, or all that a part of the network has where a rule matches very many.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import nn

from compress.artefacts.artefact import FUNCTIONS_AS_MODULES, edited, give_weights
from compress.artefacts.network import Network
from compress.artefacts.results import RewriteChoice, RuleInfo
from compress.engines import ENGINES, engine
from compress.errors import RecipeError
from compress.jobs import change
from compress.measure.counting import count
from compress.networks import Architecture
from compress.networks.architecture import without_values
from compress.pruning.structured import difference
from compress.recipe import RewriteRecipe
from compress.rewriting.depth import at_depth, layers_of
from compress.rewriting.functions import as_modules
from compress.rewriting.rules import RULES
from compress.rewriting.sites import Rewrite, rule_named, rule_names, sites, tied_modules

SAME = 1e-4
"""Relative difference of outputs that rounding explains: x·sigmoid(x) as one operator is rounded otherwise."""

_PARTS = re.compile(r"[^./]*[./]|[^./]+")  # of a path, each with what ends it

Task = change.Task[RewriteRecipe]


def check_request(original: Network, recipe: RewriteRecipe) -> None:
    """Raises RecipeError for an unknown rule, a pattern that no module has, and an engine that prices nothing."""
    target = recipe.targets[0]
    if not engine(target.engine).has_kernels and recipe.rewriting.depth is None:
        raise RecipeError(
            "replacements are priced by the kernels of an engine's own graph, and this one has none",
            place="targets",
            value=target.engine,
            remedy=f"use one of {', '.join(name for name, one in ENGINES.items() if one.has_kernels)}",
        )
    for name in recipe.rewriting.rules:
        rule_named(name)
    change.check_patterns(original.module, recipe.rewriting.sites, "a pattern of sites", "rewriting.sites")


def choices_of(network: nn.Module, recipe: RewriteRecipe) -> list[RewriteChoice]:
    """Every requested rule's sites among those allowed, in the order of rules and modules; nothing of them is known."""
    settings = recipe.rewriting
    found = []
    for rule in dict.fromkeys(settings.rules) or RULES:
        paths = [one.at for one in sites(network, rule_named(rule))]
        paths = [path for path in paths if any(fnmatchcase(path, pattern) for pattern in settings.sites)]
        found += [
            RewriteChoice(rule, name, tuple(at), places_of(network, at))
            for name, at in grouped(paths, settings.groups).items()
        ]
    return found


def rewrites_of(choices: Sequence[RewriteChoice]) -> list[Rewrite]:
    """As the network is changed by them."""
    return [Rewrite(choice.rule, path) for choice in choices for path in choice.at]


def overlap(one: RewriteChoice, other: RewriteChoice) -> bool:
    """Whether a module of one is, or lies in, a module of the other."""
    return any(f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.") for a in one.at for b in other.at)


def places_of(network: nn.Module, paths: Sequence[str]) -> int:
    """At how many places the modules stand: one object may stand at several."""
    modules = {id(network.get_submodule(path)) for path in paths}
    return sum(id(module) in modules for _, module in network.named_modules(remove_duplicate=False))


def tied_sites(network: nn.Module, recipe: RewriteRecipe) -> dict[str, str]:
    """Modules that a requested rule would replace if they shared no parameter → the module they share it with."""
    rules = [rule_named(name) for name in dict.fromkeys(recipe.rewriting.rules) or RULES]
    return {
        path: other
        for path, other in tied_modules(network).items()
        if any(fnmatchcase(path, pattern) for pattern in recipe.rewriting.sites)
        and any(rule.matches(network.get_submodule(path)) for rule in rules)
    }


def grouped(paths: Sequence[str], at_most: int) -> dict[str, list[str]]:
    """The paths one by one; if that is more than at_most, by as much of their beginnings as gives no more groups.

    A path's parts end at dots, and at the strokes of an ONNX file's names, whose modules all lie in one.
    """
    parts = {path: _PARTS.findall(path) for path in paths}
    longest = max(map(len, parts.values()), default=0)
    for depth in range(longest, -1, -1):
        groups: dict[str, list[str]] = {}
        for path in paths:
            name = path if len(parts[path]) <= depth else "".join([*parts[path][:depth], "*"])
            groups.setdefault(name, []).append(path)
        if len(groups) <= at_most or depth == 0:
            return groups
    return {}


def part_of(group: str) -> str:
    """A group's name without the star for its members."""
    return group[:-2] if group.endswith((".*", "/*")) else group


def holder_of(path: str) -> str:
    """What holds a module: its path but for the last part; of the outermost itself."""
    return "".join(_PARTS.findall(path)[:-1])[:-1] or path


# --- An own network's functions ---------------------------------------------------------------------------------------


def functions_as_modules(original: Network, recipe: RewriteRecipe) -> tuple[Network, dict[str, str]]:
    """An own network in Python with functions as modules, if the requested rules then have more sites; else as it is.

    Also path → why functions called there were not looked at, or stay as they are.
    """
    if original.architecture.family != "python":
        return original, {}
    changed, unread = as_modules(original.module)
    edits = (FUNCTIONS_AS_MODULES, *original.edits)
    if FUNCTIONS_AS_MODULES in original.edits or _site_count(changed, recipe) <= _site_count(original.module, recipe):
        return original, unread
    network = edited(original.architecture.build(), edits).eval()  # as the result will be loaded
    give_weights(network, edits, original.module.state_dict())
    failure = _failure_of(network, original)
    return (original, {**unread, "": failure}) if failure else (replace(original, module=network, edits=edits), unread)


def _failure_of(network: nn.Module, original: Network) -> str | None:
    """Why the network does not do what the original does, on one picture of noise; None if it does."""
    try:
        error = changed_by(original, network)
    except Exception as raised:  # a forward that was traced wrongly may raise anything
        return f"as modules they would fail, {type(raised).__name__}: {raised}"
    return None if error < SAME else f"as modules they would change the outputs by {error:.2g}"


def changed_by(original: Network, network: nn.Module) -> float:
    """How far its outputs are from the original's, relative, on one picture of noise. Raises what a forward raises."""
    image = torch.randn(1, 3, *original.input_hw, generator=torch.Generator().manual_seed(0))
    return difference(original.module, network, image)


def _site_count(network: nn.Module, recipe: RewriteRecipe) -> int:
    """Modules that the requested rules replace, over all rules."""
    return sum(len(choice.at) for choice in choices_of(network, recipe))


# --- Another depth, and the rules themselves -------------------------------------------------------------------------


def at_other_depth(original: Network, layers: int) -> Architecture:
    """The architecture of so many layers, and of the width that keeps the multiply-adds of the network as it is given.

    Raises NetworkError for a family that has no depth to change, RecipeError where there is nothing to do.
    """
    if not original.edits and layers == layers_of(original.architecture):
        raise RecipeError(
            "the network has that many layers", place="--depth", value=layers, remedy="give another number"
        )

    def macs_of(architecture: Architecture) -> int:
        with without_values():
            network = architecture.build()
        return count(network, original.input_hw).macs

    kept = count(original.module, original.input_hw).macs if original.edits else None
    return at_depth(original.architecture, layers, macs_of, kept)


def list_rules() -> list[RuleInfo]:
    """Every rule, those that installed packages offer too."""
    rules = [rule_named(name) for name in rule_names()]
    return [RuleInfo(rule.name, rule.does, rule.source, rule.exact) for rule in rules]
