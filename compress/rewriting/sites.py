"""Where rules apply, and networks with modules replaced. A rewrite is plain data, and needs no weights to be redone."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import nn

from compress.errors import NetworkError, nearest
from compress.extensions import Extensible
from compress.rewriting.rules import RULES, Rule


@dataclass(frozen=True)
class Rewrite:
    """One module replaced. rule: its name, see rule_named. at: the module's dotted path."""

    rule: str
    at: str


def rule_named(name: str, place: str = "rule") -> Rule:
    """The rule of that name, see compress.extensions; its `name` is this one, by which it is found again.

    Raises RecipeError naming the nearest known rule.
    """
    rule = _RULES.find(name, place)
    return rule if rule.name == name else replace(rule, name=name)


def rule_names() -> list[str]:
    """All rules, those of installed packages last."""
    return _RULES.names


_RULES = Extensible(
    "rule",
    "compress.rules",
    RULES,
    lambda given: given if isinstance(given, Rule) else None,
    "an object of compress.rewriting.rule.Rule",
)


def sites(network: nn.Module, rule: Rule) -> list[Rewrite]:
    """Modules that the rule matches, outermost only, in the network's order; the network itself is none.

    A module that stands at several places is one site, named by the first of them. One that shares a parameter with
    others is none, see `tied_modules`.
    """
    tied = tied_modules(network)
    found: list[Rewrite] = []
    for path, module in network.named_modules():
        inside = bool(found) and path.startswith(f"{found[-1].at}.")
        if path and path not in tied and not inside and rule.matches(module):
            found.append(Rewrite(rule.name, path))
    return found


def tied_modules(network: nn.Module) -> dict[str, str]:
    """Path of every module that shares a parameter or buffer with one outside it → that one's path.

    Replaced alone it would be untied from the other, which then learns on its own: a network of more parameters.
    """
    owners: dict[int, list[str]] = {}
    places: dict[nn.Module, list[str]] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        places.setdefault(module, []).append(path)
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                owners.setdefault(id(tensor), []).append(path)
    shared = [paths for paths in owners.values() if len(paths) > 1]
    found: dict[str, str] = {}
    for path, module in network.named_modules():
        within = tuple(f"{place}." for place in places[module])  # it is replaced at all of them
        for paths in shared if path else ():
            inside = [one for one in paths if f"{one}.".startswith(within)]
            if inside and len(inside) < len(paths):
                found[path] = next(one for one in paths if one not in inside)
    return found


def rewritten(network: nn.Module, rewrites: Iterable[Rewrite], *, carry: bool = True) -> nn.Module:
    """A copy of the network, rewritten in this order. carry: replacements start near the given modules, else at random.

    Raises NetworkError naming the module if there is none at that path or the rule does not match it.
    """
    copied = copy.deepcopy(network)
    for rewrite in rewrites:
        _replace(copied, rewrite, carry=carry)
    return copied


def rewrite_in_place(network: nn.Module, rewrites: Iterable[Rewrite]) -> None:
    """Rewrites the network itself, with random weights; also on the meta device. Raises NetworkError as `rewritten`."""
    for rewrite in rewrites:
        _replace(network, rewrite, carry=False)


def _replace(network: nn.Module, rewrite: Rewrite, *, carry: bool) -> None:
    """One rewrite, at every place of its module, should it have several."""
    rule = rule_named(rewrite.rule)
    try:
        given = network.get_submodule(rewrite.at)
    except AttributeError:
        paths = [path for path, _ in network.named_modules() if path]
        raise NetworkError(
            "no such module", place=f"rewrite {rule.name}", value=rewrite.at, remedy=nearest(rewrite.at, paths)
        ) from None
    if given is network or not rule.matches(given):
        raise NetworkError(
            f"the rule {rule.name} does not match this module ({rule.does})",
            place=rewrite.at or "the whole network",
            value=type(given).__name__,
            remedy="take the sites that the rule finds",
        )
    new = rule.build(given)
    if carry:
        rule.carry(given, new)
    place(network, given, new)


def place(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts the new module at every place of the old one, of which one parent may have several. Changes the network."""
    for parent in list(network.modules()):
        for name, child in parent._modules.items():  # named_children leaves out what comes again
            if child is old:
                setattr(parent, name, new)
