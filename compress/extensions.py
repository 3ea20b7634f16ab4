"""What others add to compress: engines, criteria, samplers, rules, kinds of data, network families and approaches.

Wherever a recipe or the API names one of these, there may stand

- a name from compress's own table;
- a name that an installed package offers, by an entry point of the group (`compress.engines`, ...);
- `package.module:attribute`, imported with the current folder on the path;
- in Python, the object itself.

A recipe holds names alone, so that it goes to YAML and back, and its fingerprint is of these names. An object stands
there as the `package.module:attribute` that it can be imported by; one without a state of its own as
`package.module:Class()`. One that cannot be imported (a lambda, an object made in a function) gets a name that ends in
`@1`, `@2`, ...: it is known in this process only.
"""

import copyreg
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from compress.errors import CompressError, RecipeError, nearest

T = TypeVar("T")

NETWORK_GROUP = "compress.networks"
"""Of entry points that name networks: an architecture record, or a function that returns an nn.Module."""

_PLAIN = (str, bytes, bool, int, float, list, tuple, dict, type(None), Path)
_unimportable: dict[str, object] = {}
"""Objects that were given in this process and cannot be imported, by the names they got."""


@dataclass(frozen=True)
class Extensible(Generic[T]):
    """Things of one kind, which recipes name.

    kind: what one of them is called in errors. group: of the entry points that packages offer more of them by. table:
    compress's own, by name. accept: an object → what it stands for, or None if it is none of this kind. must: what it
    must be, for the error. error: what is raised.
    """

    kind: str
    group: str
    table: Mapping[str, T]
    accept: Callable[[Any], T | None]
    must: str
    error: type[CompressError] = RecipeError

    @property
    def names(self) -> list[str]:
        """All names that are known without an import: compress's own, then those of installed packages."""
        return [*self.table, *(name for name in offered(self.group) if name not in self.table)]

    def find(self, named: object, place: str) -> T:
        """What a name stands for; an object stands for itself. place: where it is named, for errors.

        Raises `error` naming the nearest known one, for an object of another kind, or for a package that fails.
        """
        if not isinstance(named, str):
            return self._accepted(named, name_of(named), place)
        if named in self.table:
            return self.table[named]
        if named in _unimportable:
            return self._accepted(_unimportable[named], named, place)
        for point in entry_points(group=self.group, name=named):
            return self._accepted(self._loaded(point, place), named, place)
        if ":" in named:
            return self._accepted(imported(named, place, self.error), named, place)
        raise self.error(f"no such {self.kind}", place=place, value=named, remedy=nearest(named, self.names))

    def _loaded(self, point: EntryPoint, place: str) -> object:
        try:
            return point.load()
        except Exception as failure:  # the package may raise anything
            package = point.dist.name if point.dist else point.module
            raise self.error(
                f"the package {package}, which offers this {self.kind}, fails: {type(failure).__name__}: {failure}",
                place=place,
                value=point.name,
                remedy="repair or remove the package",
            ) from failure

    def _accepted(self, given: object, name: str, place: str) -> T:
        try:
            found = self.accept(given)
        except CompressError:
            raise
        except Exception as failure:  # what makes it may raise anything
            rule = f"this {self.kind} cannot be made: {type(failure).__name__}: {failure}"
            raise self.error(rule, place=place, value=name, remedy="repair it, or give an object") from failure
        if found is None:
            value = f"{name}, a {type(given).__name__}"
            raise self.error(f"no {self.kind}: it must be {self.must}", place=place, value=value, remedy="correct it")
        return found


def offered(group: str) -> dict[str, str]:
    """What installed packages offer by the entry points of a group: name → package.module:attribute."""
    return {point.name: f"{point.module}:{point.attr}" for point in entry_points(group=group)}


def name_of(given: object) -> Any:
    """The name by which a recipe holds an object (module docstring). Plain data stays as it is."""
    if isinstance(given, _PLAIN):
        return given
    for module, attribute in _places(given):
        if _attribute(sys.modules.get(module), attribute) is given:
            return f"{module}:{attribute}"
    cls = given if hasattr(given, "__qualname__") else type(given)
    stem = f"{cls.__module__}:{getattr(cls, '__qualname__', type(given).__name__)}"
    if _is_without_state(given) and _attribute(sys.modules.get(cls.__module__), cls.__qualname__) is cls:
        return f"{stem}()"
    known = next((name for name, other in _unimportable.items() if other is given), None)
    if known:
        return known
    number = 1 + sum(name.startswith(f"{stem}@") for name in _unimportable)
    _unimportable[f"{stem}@{number}"] = given
    return f"{stem}@{number}"


def _places(given: object) -> Iterator[tuple[str, str]]:
    """Modules and attributes where the object may be found: a function or class by its own name; another object among
    the attributes of the module of its class, or of one of the functions it holds."""
    if hasattr(given, "__qualname__"):
        yield given.__module__, given.__qualname__
        return
    parts = getattr(given, "__dict__", {}).values()
    for module in dict.fromkeys(one.__module__ for one in (type(given), *parts) if hasattr(one, "__module__")):
        for attribute, value in list(vars(sys.modules.get(module, sys)).items()):
            if value is given:
                yield module, attribute


def _is_without_state(given: object) -> bool:
    """Whether another object of its class, made without arguments, is the same."""
    try:
        copied = given.__reduce_ex__(2)
    except Exception:  # what cannot be copied
        return False
    return copied[:3] == (copyreg.__newobj__, (type(given),), None)  # type: ignore[attr-defined]


def _attribute(module: object, path: str) -> object:
    """What lies at the dotted path in the module; None if nothing does."""
    for part in path.split("."):
        module = getattr(module, part, None)
    return module


def imported(name: str, place: str, error: type[CompressError]) -> object:
    """The attribute that `package.module:attribute` names, imported with the current folder on the path; of
    `package.module:attribute()`, what it returns.

    place: where it is named, for errors. Raises `error`.
    """
    module_name, _, attribute = name.partition(":")
    found = _attribute(imported_module(module_name, place, error), attribute.removesuffix("()"))
    if found is None:
        lost = "; it was an object of another process: give it again" if "@" in attribute else ""
        raise error(
            f"{module_name} has no such attribute",
            place=place,
            value=attribute,
            remedy=f"write package.module:attribute{lost}",
        )
    if not attribute.endswith("()"):
        return found
    try:
        return found()  # type: ignore[operator]
    except Exception as failure:  # it may raise anything
        rule = f"{name} fails: {type(failure).__name__}: {failure}"
        raise error(rule, place=place, value=name, remedy="repair it, or give an object") from failure


def is_module(name: str) -> bool:
    """Whether the first part of a dotted name is a module that can be imported, from the current folder too."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    first = name.partition(".")[0]
    return first.isidentifier() and (first in sys.modules or importlib.util.find_spec(first) is not None)


def imported_module(name: str, place: str, error: type[CompressError]) -> ModuleType:
    """The module of that name, imported with the current folder on the path. Raises `error`."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    except Exception as failure:
        missing = isinstance(failure, ModuleNotFoundError) and name.startswith(failure.name or name)
        rule = "no such module" if missing else f"the module cannot be imported: {type(failure).__name__}: {failure}"
        remedy = "run from the folder it lies in, or install it" if missing else "repair it"
        raise error(rule, place=place, value=name, remedy=remedy) from failure
