"""Search spaces: named choices over one family's architecture.

A space file names a family, fixes some of its fields and lists choices for others:

    family: dir_bhrnet
    fixed: {head: single, keypoints: 17}
    choices:
      width: [8, 12, 16]          # a field
      blocks.*.*: [0, 1, 2, 3]    # every stage and branch on its own
      blocks.3.3: [0, 1]          # but these ones otherwise

A *pick* is one value per choice, {"width": 12, "blocks.0.0": 2, ...}. Values are listed from smallest to largest: the
first of every list is the smallest candidate, the last of every list the largest.

One choice is of no field, the input size, of which the last value is that of the recipe:

      input_hw: [96x96, 128x96, 128x128]      # height x width

It may also name groups of edits, things that are done to a network once it is built:

    edits:
      depth: {sites: features.3, blocks: [0.5, 1.0]}                      # shares of the residual blocks that stay
      large kernels: {sites: refinements, rewrite: [keep, conv_to_3x3]}   # names of rules; keep: as it is
      trunk: {sites: features.*, channels: [0.5, 0.75, 1.0]}              # shares of the channels that stay
      zeros: {sites: [features, initial], weights: [0.5, 1.0]}            # shares of the weights that are not zero

They are choices like the others, with the paths `edits.depth`, `edits.trunk` and so on; all sites of a group are
edited alike. `sites` is a pattern of modules' paths, or a list of them; blocks go in the order of that list, and of one
pattern the last block first. Every group offers the network as it is, `keep` or 1.0. Channels go first, then blocks,
then operators are rewritten in the order of the file, and last weights become zero.
"""

import math
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from compress.errors import SpaceError, nearest
from compress.files import read_yaml_mapping

Pick = Mapping[str, Any]
"""One value per choice, by the choice's path."""

Fields = dict[str, Any]
"""An architecture's plain data, see compress.networks."""


def pick_key(pick: Pick) -> str:
    """Equal for equal picks."""
    return repr(sorted(pick.items()))


KEEP = "keep"
"""Of a rewrite: the modules stay as they are."""

INPUT_SIZE = "input_hw"
"""The choice of the input size, in values such as `128x96`."""

_EDITS = "edits."
_KEYS = ("family", "fixed", "choices", "edits")

EditKind = Literal["blocks", "rewrite", "channels", "weights"]


@dataclass(frozen=True)
class EditChoice:
    """A group of edits. sites: patterns of the paths of modules, or of modules around them; `*` matches dots as well.

    values: of a rewrite the names of rules, and KEEP; of the others the shares that stay, up to 1; of blocks also 0.
    """

    name: str
    sites: tuple[str, ...]
    kind: EditKind
    values: tuple[str | float, ...]

    @property
    def path(self) -> str:
        """Of the choice in a pick."""
        return f"{_EDITS}{self.name}"

    @property
    def nothing(self) -> str | float:
        """The value that leaves the network as it is."""
        return KEEP if self.kind == "rewrite" else 1.0


@dataclass(frozen=True)
class SpaceFile:
    """A space file as written: not yet compared with the family's architecture."""

    path: Path
    family: str
    fixed: Fields
    choices: dict[str, tuple[Any, ...]]
    edits: tuple[EditChoice, ...] = ()


@dataclass(frozen=True)
class Space:
    """Choices over an architecture's plain data, and edits. base: the data every pick starts from.

    choices: path → values, those of the edits among them.
    """

    base: Fields
    choices: dict[str, tuple[Any, ...]]
    edits: tuple[EditChoice, ...] = ()

    @property
    def architectures(self) -> "Space":
        """The same without edits and input sizes."""
        return Space(self.base, {path: values for path, values in self.choices.items() if _is_field(path)})

    @property
    def edit_paths(self) -> set[str]:
        """Choices that are edits."""
        return {edit.path for edit in self.edits}

    @property
    def input_sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) to choose from, the recipe's last; empty where they are no choice."""
        return tuple(map(size_of, self.choices.get(INPUT_SIZE, ())))

    def input_hw(self, pick: Pick, given: tuple[int, int]) -> tuple[int, int]:
        """The pick's input size. given: the recipe's, where the space has no choice of it."""
        return size_of(pick[INPUT_SIZE]) if INPUT_SIZE in self.choices else given

    @property
    def unedited(self) -> Pick:
        """The values of all edits that leave a network as it is, and the recipe's input size where that is a choice."""
        sizes = {INPUT_SIZE: self.choices[INPUT_SIZE][-1]} if INPUT_SIZE in self.choices else {}
        return {**sizes, **{edit.path: edit.nothing for edit in self.edits}}

    @property
    def smallest(self) -> Pick:
        """The first value of every choice."""
        return {path: values[0] for path, values in self.choices.items()}

    @property
    def largest(self) -> Pick:
        """The last value of every choice."""
        return {path: values[-1] for path, values in self.choices.items()}

    @property
    def size(self) -> int:
        """Number of picks."""
        product = 1
        for values in self.choices.values():
            product *= len(values)
        return product

    def mutate(self, pick: Pick, share: float, rng: random.Random) -> Pick:
        """The pick with about that share of its choices drawn anew."""
        return {
            path: rng.choice(values) if rng.random() < share else pick[path] for path, values in self.choices.items()
        }

    def whole_changes(self, pick: Pick) -> list[Pick]:
        """The pick with all choices of one field set to one value, for every field and value that change it.

        Every block kind becomes `ir`, every expansion 1, the width another.
        """
        changed = []
        for paths in self._fields().values():
            first, *others = (self.choices[path] for path in paths)
            common = [value for value in first if all(value in values for values in others)]
            changed += [{**pick, **dict.fromkeys(paths, value)} for value in common]
        return [other for other in changed if other != pick]

    def cross(self, one: Pick, other: Pick, rng: random.Random) -> Pick:
        """Every field whole from one of two picks: the block counts of one with the block kinds of the other."""
        parents: dict[str, Pick] = {}
        for paths in self._fields().values():
            parents |= dict.fromkeys(paths, rng.choice((one, other)))
        return {path: parents[path][path] for path in self.choices}

    def step(self, pick: Pick, rng: random.Random) -> Pick:
        """The pick with one choice changed: a number to the next larger or smaller one, another choice to any."""
        path = rng.choice([path for path, values in self.choices.items() if len(values) > 1])
        values = self.choices[path]
        at = values.index(pick[path])
        near = [at - 1, at + 1] if isinstance(values[0], int | float) else [i for i in range(len(values)) if i != at]
        return {**pick, path: values[rng.choice([i for i in near if 0 <= i < len(values)])]}

    def _fields(self) -> dict[str, list[str]]:
        """The architecture's fields, and the paths of the choices in each; every edit is a field of its own."""
        fields: dict[str, list[str]] = {}
        for path in self.choices:
            fields.setdefault(path if path.startswith(_EDITS) else path.split(".")[0], []).append(path)
        return fields

    def smallest_of(self, rng: random.Random) -> Pick:
        """The smallest of every number, and any of the choices that have no size, such as block kinds."""
        return {**self.sample(rng), **{path: values[0] for path, values in self._sized()}}

    def largest_of(self, rng: random.Random) -> Pick:
        """The largest of every number, and any of the choices that have no size, such as block kinds."""
        return {**self.sample(rng), **{path: values[-1] for path, values in self._sized()}}

    def _sized(self) -> list[tuple[str, tuple[Any, ...]]]:
        return [(path, values) for path, values in self.choices.items() if isinstance(values[0], int | float)]

    def sample(self, rng: random.Random) -> Pick:
        """A random pick. First how large it is, uniform from 0 to 1, then every sized choice around that.

        Were every value equally likely, sums over many choices would all lie in the middle, and hardly a small or a
        large candidate would ever be seen. Every pick is possible; choices without a size are uniform.
        """
        size = rng.random()
        pick = {path: rng.choice(values) for path, values in self.choices.items()}
        for path, values in self._sized():
            pick[path] = values[sum(rng.random() < size for _ in range(len(values) - 1))]
        return pick

    def apply(self, pick: Pick) -> Fields:
        """The architecture's plain data with the pick's values in place; edits and the input size are no part of it."""
        data: Fields = _copy(self.base)
        for path, value in pick.items():
            if _is_field(path):
                _set(data, path.split("."), value)
        return data

    def pick_of(self, data: Fields, place: str, size: str | None = None) -> Pick:
        """The pick that gives this architecture, unedited. size: of the input, as size_text; None is the recipe's.
        Raises SpaceError when the space does not contain it."""
        chosen = {path: _get(data, path.split(".")) for path in self.architectures.choices}
        if size is not None and not self.input_sizes:
            raise SpaceError(
                "the space has one input size, the recipe's",
                place=place,
                value=size,
                remedy=f"leave {INPUT_SIZE} out, or give the space's choices {INPUT_SIZE}",
            )
        pick: Pick = {**chosen, **self.unedited, **({} if size is None else {INPUT_SIZE: size})}
        for path, value in pick.items():
            if value not in self.choices[path]:
                raise SpaceError(
                    f"{path} must be one of {list(self.choices[path])}",
                    place=place,
                    value=value,
                    remedy="widen the space's choices or change the architecture",
                )
        different = [key for key, value in self.apply(pick).items() if value != data.get(key)]
        if different:
            raise SpaceError(
                f"the space fixes {different[0]} to {self.base[different[0]]!r}",
                place=place,
                value=data.get(different[0]),
                remedy="change 'fixed' in the space or the architecture",
            )
        return pick


def _is_field(path: str) -> bool:
    """Whether a choice is of the architecture's fields."""
    return path != INPUT_SIZE and not path.startswith(_EDITS)


def size_of(text: str) -> tuple[int, int]:
    """(height, width) of `128x96`."""
    height, width = text.split("x")
    return int(height), int(width)


def size_text(input_hw: tuple[int, int]) -> str:
    """`128x96`."""
    return f"{input_hw[0]}x{input_hw[1]}"


def read_space(path: Path) -> SpaceFile:
    """Reads a space file. Raises SpaceError for a missing or broken file, an unknown key or an empty choice.

    With edits, `fixed` and `choices` may be left out.
    """
    data = read_yaml_mapping(path, SpaceError, "a search space")
    for key in data:
        if key not in _KEYS:
            raise SpaceError("unknown key", place=f"{path}: {key}", remedy=nearest(str(key), _KEYS))
    if "edits" in data:
        data = {"fixed": {}, "choices": {}, **data}
    for key, kind in (("family", str), ("fixed", dict), ("choices", dict), ("edits", dict)):
        if key in (*_KEYS[:3], *data) and not isinstance(data.get(key), kind):
            raise SpaceError(
                f"'{key}' must be given as a {'name' if kind is str else 'mapping'}",
                place=f"{path}: {key}",
                value=data.get(key),
                remedy="see compress/nas/space.py for an example",
            )
    choices = {str(key): _values(values, f"{path}: choices.{key}") for key, values in data["choices"].items()}
    edits = tuple(_edit(str(name), given, f"{path}: edits.{name}") for name, given in data.get("edits", {}).items())
    return SpaceFile(path, data["family"], data["fixed"], choices, edits)


def _values(values: Any, place: str) -> tuple[Any, ...]:
    """A choice's list. Raises SpaceError unless it holds different values, numbers from smallest to largest."""
    if not isinstance(values, list) or not values:
        raise SpaceError(
            "a choice is a list of at least one value", place=place, value=values, remedy="write [value, value, ...]"
        )
    if len({repr(value) for value in values}) < len(values):
        raise SpaceError("a choice lists a value twice", place=place, value=values, remedy="drop one")
    if all(isinstance(value, int | float) for value in values) and sorted(values) != values:
        raise SpaceError("numbers are listed from smallest to largest", place=place, value=values, remedy="sort them")
    if place.endswith(f": choices.{INPUT_SIZE}"):
        if not all(isinstance(value, str) and re.fullmatch(r"[1-9]\d*x[1-9]\d*", value) for value in values):
            raise SpaceError("input sizes are written HEIGHTxWIDTH", place=place, value=values, remedy="write 128x96")
        if sorted(values, key=lambda value: math.prod(size_of(value))) != values:
            raise SpaceError(
                "input sizes are listed from smallest to largest", place=place, value=values, remedy="sort"
            )
    return tuple(values)


def _edit(name: str, given: Any, place: str) -> EditChoice:
    """A group of edits. Raises SpaceError unless it is one as the module's docstring has them."""
    known = get_args(EditKind)
    kinds: list[EditKind] = [key for key in known if isinstance(given, dict) and key in given]
    sites = [given.get("sites")] if isinstance(given, dict) and isinstance(given.get("sites"), str) else None
    sites = sites or (given.get("sites") if isinstance(given, dict) else None)
    if len(kinds) != 1 or not isinstance(sites, list) or not sites or not all(isinstance(one, str) for one in sites):
        raise SpaceError(
            f"a group of edits has 'sites', a pattern or a list of them, and one of {', '.join(known)}, a list",
            place=place,
            value=given,
            remedy="see compress/nas/space.py for an example",
        )
    for key in given:
        if key not in ("sites", *known):
            raise SpaceError("unknown key", place=f"{place}.{key}", remedy=nearest(str(key), ("sites", *known)))
    kind = kinds[0]
    values = _values(given[kind], f"{place}.{kind}")
    for value in values:
        if kind == "rewrite" and not isinstance(value, str):
            raise SpaceError("a rewrite is a rule's name", place=f"{place}.{kind}", value=value, remedy="correct it")
        share = isinstance(value, int | float) and (0 < value <= 1 or (kind == "blocks" and value == 0))
        if kind != "rewrite" and not share:
            raise SpaceError(
                f"shares of the {kind} that stay are above 0 and at most 1" + (", or 0" if kind == "blocks" else ""),
                place=f"{place}.{kind}",
                value=value,
                remedy="write 0.75 to remove a quarter",
            )
    edit = EditChoice(name, tuple(sites), kind, values if kind == "rewrite" else tuple(map(float, values)))
    if edit.nothing not in edit.values:
        raise SpaceError(
            f"every group of edits must offer the network as it is, {edit.nothing}",
            place=f"{place}.{kind}",
            value=list(values),
            remedy="add it",
        )
    return edit


def expand(file: SpaceFile, base: Fields) -> Space:
    """The space over an architecture's plain data `base` (defaults with `fixed` applied), wildcards written out.

    A path without wildcards wins over one with them. Raises SpaceError for a path the architecture does not have.
    """
    choices: dict[str, tuple[Any, ...]] = {}
    for pattern in sorted(file.choices, key=lambda p: -p.count("*")):
        if pattern == INPUT_SIZE:
            choices[pattern] = _sizes(file, base)
            continue
        paths = _matches(base, pattern.split("."))
        if not paths:
            raise SpaceError(
                f"{file.family} has no such field",
                place=f"{file.path}: choices.{pattern}",
                remedy=nearest(pattern.split(".")[0], base),
            )
        for path in paths:
            choices[".".join(path)] = file.choices[pattern]
    edits = {edit.path: edit.values for edit in file.edits}
    return Space(base, dict(sorted(choices.items())) | edits, file.edits)


def _sizes(file: SpaceFile, base: Fields) -> tuple[Any, ...]:
    """The input sizes to choose from. Raises SpaceError for a network that is made for one."""
    if base.get(INPUT_SIZE):
        raise SpaceError(
            f"{file.family} is made for one input size",
            place=f"{file.path}: choices.{INPUT_SIZE}",
            remedy="leave the choice out, and search once for every size",
        )
    return file.choices[INPUT_SIZE]


def space_text(file: SpaceFile) -> str:
    """The space as `read_space` reads it."""
    edits = {
        edit.name: {"sites": edit.sites[0] if len(edit.sites) == 1 else list(edit.sites), edit.kind: list(edit.values)}
        for edit in file.edits
    }
    choices = {path: list(values) for path, values in file.choices.items()}
    data = {"family": file.family, "fixed": file.fixed, "choices": choices, "edits": edits}
    text: str = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=120)
    return text


def matches(data: Fields, pattern: str) -> bool:
    """Whether an architecture's plain data has a field of this path, in which `*` stands for any part."""
    return bool(_matches(data, pattern.split(".")))


def value_at(data: Fields, path: str) -> Any:
    """What the architecture's plain data says at the path of a choice."""
    return _get(data, path.split("."))


def _matches(data: Any, pattern: list[str]) -> list[list[str]]:
    if not pattern:
        return [[]]
    head, rest = pattern[0], pattern[1:]
    if isinstance(data, dict):
        keys = list(data) if head == "*" else [head] * (head in data)
        items = [(key, data[key]) for key in keys]
    elif isinstance(data, list):
        indices = range(len(data)) if head == "*" else [int(head)] if head.isdigit() and int(head) < len(data) else []
        items = [(str(index), data[index]) for index in indices]
    else:
        items = []
    return [[key, *tail] for key, value in items for tail in _matches(value, rest)]


def _get(data: Any, path: list[str]) -> Any:
    for key in path:
        data = data[int(key)] if isinstance(data, list) else data[key]
    return data


def _set(data: Any, path: list[str], value: Any) -> None:
    target = _get(data, path[:-1])
    target[int(path[-1]) if isinstance(target, list) else path[-1]] = value


def _copy(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _copy(value) for key, value in data.items()}
    return [_copy(value) for value in data] if isinstance(data, list) else data
