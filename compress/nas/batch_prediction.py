"""Predictions for many candidates of a space at once, equal to detecting the kernels of each.

An operation of a candidate depends on few of the space's choices: one in DIR-BHRNet's lowest branch on the width and
on that branch's block kind, expansion and count. So its kernels are kept once for every combination of the choices it
depends on, and a candidate is the sum of its operations. Operations that depend on the same choices are one group.

Which choices those are is learned by changing one choice of a candidate at a time: what changes, depends on it. Where
an effect shows only together with others, two candidates contradict each other sooner or later: they agree in all
choices that an operation is known to depend on, and differ in it. Then a walk from one to the other, one choice at a
time, meets the choice that was not known. What is learned is checked on random candidates.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from compress.data.memory import settled_heap
from compress.engines.kernel import Kernel
from compress.measure.latency_table import LatencyTable, predict
from compress.nas.space import Pick, Space

KernelsOf = Callable[[Pick], Mapping[str, Mapping[Kernel, int]]]
"""A candidate's kernels by operation: Engine.kernels_by_part on its network."""

PROBED = 3
"""Large candidates and random ones, as many of each, from which every choice is changed once."""
CHECKED = 24
"""Random candidates in a row that must agree with what was learned."""
MOST_COMBINATIONS = 2000
"""Of a group, that are all looked at beforehand; of larger groups those that are needed."""

_Values = tuple[int, ...]  # of a pick: every value's place in its choice's list
_NOTHING = 0  # the row of an operation that a candidate does not have


class PartTable:
    """What every operation of a space's candidates is made of."""

    def __init__(self, space: Space, kernels_of: KernelsOf, seed: int = 0) -> None:
        """Learns the space from the kernels of some hundred candidates."""
        self._space, self._kernels_of = space, kernels_of
        self._choices = [(name, values) for name, values in space.choices.items()]
        self._places = [{repr(value): place for place, value in enumerate(values)} for _, values in self._choices]
        self._rows: list[Counter[Kernel]] = [Counter()]
        self._row_numbers: dict[frozenset[tuple[Kernel, int]], int] = {frozenset(): _NOTHING}
        self._known: dict[_Values, dict[str, int]] = {}
        self._entered: set[_Values] = set()
        self._depends: dict[str, set[int]] = {}
        self._seen: dict[str, dict[_Values, tuple[int, _Values]]] = {}  # operation → its choices' values → row, whose
        self._families: dict[str, list[str]] = defaultdict(list)
        self._groups: list[_Group] = []
        with settled_heap():
            self._learn(random.Random(seed))

    def kernels(self, pick: Pick) -> Counter[Kernel]:
        """The candidate's kernels, as `kernels_of` gives them, over all operations."""
        total: Counter[Kernel] = Counter()
        for group, row in zip(self._groups, self._rows_of([pick])[0], strict=True):
            total.update(group.kernels[row])
        return total

    def predict(self, table: LatencyTable, picks: Sequence[Pick]) -> NDArray[np.float64]:
        """Milliseconds of every candidate, as `predict` says of its kernels."""
        return self.predictor(table)(picks)

    def predictor(self, table: LatencyTable) -> Callable[[Sequence[Pick]], NDArray[np.float64]]:
        """`predict` for a table as it is now, to be called many times: what it says of each group is kept."""
        known: dict[_Group, NDArray[np.float64]] = {}

        def milliseconds(picks: Sequence[Pick]) -> NDArray[np.float64]:
            rows = self._rows_of(picks)
            total = np.zeros(len(picks))
            for column, group in enumerate(self._groups):
                if group not in known:
                    known[group] = np.array(
                        [predict(table, kernels).ms if kernels else 0.0 for kernels in group.kernels]
                    )
                total += known[group][rows[:, column]]
            return total

        return milliseconds

    # --- Learning ----------------------------------------------------------------------------------------------------

    def _learn(self, rng: random.Random) -> None:
        self._probe(rng)
        self._fill(rng)
        agreed = 0
        while agreed < CHECKED:
            agreed = agreed + 1 if self._enter(self._values(self._space.sample(rng))) else 0
        self._group()

    def _probe(self, rng: random.Random) -> None:
        bases = [self._space.largest_of(rng) for _ in range(PROBED)] + [self._space.sample(rng) for _ in range(PROBED)]
        for base in map(self._values, bases):
            before = self._rows_by_operation(base)
            for choice, (_, values) in enumerate(self._choices):
                others = [place for place in range(len(values)) if place != base[choice]]
                if not others:
                    continue
                after = self._rows_by_operation(_changed(base, choice, rng.choice(others)))
                for operation in before.keys() | after.keys():
                    if before.get(operation, _NOTHING) != after.get(operation, _NOTHING):
                        self._depends.setdefault(operation, set()).add(choice)
        for values in list(self._known):
            self._enter(values)

    def _enter(self, values: _Values) -> bool:
        """Enters a candidate; whether it agrees with what is known. If not, what it contradicts is learned."""
        found = self._rows_by_operation(values)
        self._entered.add(values)
        for operation in found.keys() - self._seen.keys():  # all earlier candidates are without it
            self._families[_family(operation)].append(operation)
            self._reenter(operation)
        agrees = True
        for operation in self._seen:
            row = found.get(operation, _NOTHING)
            while True:
                known = self._seen[operation].setdefault(self._key(operation, values), (row, values))
                if known[0] == row:
                    break
                agrees = False
                self._walk(operation, known[1], values)
        return agrees

    def _walk(self, operation: str, start: _Values, end: _Values) -> None:
        """Learns a choice that the operation depends on, from two candidates that differ in it.

        If its relatives, such as the same layer of other blocks, depend on choices in which the two differ, it is taken
        to depend on these too: at worst, a group is finer than it need be. Else on the way from one to the other, one
        choice at a time, there is a step at which the operation changes.
        """
        different = [choice for choice in range(len(start)) if start[choice] != end[choice]]
        mine, family = self._depends.setdefault(operation, set()), _family(operation)
        theirs = set().union(*(self._depends.get(other, ()) for other in self._families[family]))
        guessed = (theirs - mine) & set(different)
        if not guessed:
            row = self._rows_by_operation(start).get(operation, _NOTHING)
            first, last = 0, len(different)  # so many choices changed: as at the start, otherwise
            while last - first > 1:
                middle = (first + last) // 2
                there = list(start)
                for choice in different[:middle]:
                    there[choice] = end[choice]
                same = self._rows_by_operation(tuple(there)).get(operation, _NOTHING) == row
                first, last = (middle, last) if same else (first, middle)
            guessed = {different[first]}
        mine |= guessed
        self._reenter(operation)

    def _reenter(self, operation: str) -> None:
        """All known candidates, by the choices the operation is now known to depend on."""
        seen = self._seen[operation] = {}
        for values, found in list(self._known.items()):
            row = found.get(operation, _NOTHING)
            known = seen.setdefault(self._key(operation, values), (row, values))
            if known[0] != row:
                self._walk(operation, known[1], values)
                return

    def _fill(self, rng: random.Random) -> None:
        """Looks at candidates until every combination of every group has been seen; each shows one of each."""
        while True:
            groups = {tuple(sorted(self._depends.get(operation, ()))) for operation in self._seen}
            wanted = {choices: missing for choices in groups if (missing := self._missing(choices))}
            if not wanted:
                return
            agrees = True
            while agrees and any(wanted.values()):
                values = self._composed(wanted, rng)
                agrees = self._enter(values)  # if not, the groups are others now
                for choices, missing in wanted.items():
                    missing.discard(tuple(values[choice] for choice in choices))

    def _missing(self, choices: _Values) -> set[_Values]:
        if prod(len(self._choices[choice][1]) for choice in choices) > MOST_COMBINATIONS:
            return set()
        seen = {tuple(values[choice] for choice in choices) for values in self._known}
        return set(product(*(range(len(self._choices[choice][1])) for choice in choices))) - seen

    def _composed(self, wanted: Mapping[_Values, set[_Values]], rng: random.Random) -> _Values:
        """A candidate with a missing combination of as many groups as go together, the largest first."""
        chosen: dict[int, int] = {}
        for choices, missing in sorted(wanted.items(), key=lambda item: (-len(item[1]), item[0])):
            fits = (c for c in sorted(missing) if all(chosen.get(i, v) == v for i, v in zip(choices, c, strict=True)))
            chosen |= dict(zip(choices, next(fits, ()), strict=False))
        return tuple(chosen.get(n, rng.randrange(len(values))) for n, (_, values) in enumerate(self._choices))

    # --- Candidates as numbers ---------------------------------------------------------------------------------------

    def _rows_by_operation(self, values: _Values) -> dict[str, int]:
        if values not in self._known:
            pick = {name: choices[place] for (name, choices), place in zip(self._choices, values, strict=True)}
            self._known[values] = {
                operation: self._row(kernels) for operation, kernels in self._kernels_of(pick).items()
            }
        return self._known[values]

    def _row(self, kernels: Mapping[Kernel, int]) -> int:
        key = frozenset(kernels.items())
        if key not in self._row_numbers:
            self._row_numbers[key] = len(self._rows)
            self._rows.append(Counter(kernels))
        return self._row_numbers[key]

    def _values(self, pick: Pick) -> _Values:
        return tuple(places[repr(pick[name])] for (name, _), places in zip(self._choices, self._places, strict=True))

    def _key(self, operation: str, values: _Values) -> _Values:
        return tuple(values[choice] for choice in sorted(self._depends.get(operation, ())))

    # --- Groups ------------------------------------------------------------------------------------------------------

    def _group(self) -> None:
        while self._entered != self._known.keys():  # a walk looks at candidates on its way
            for values in self._known.keys() - self._entered:
                self._enter(values)
        together: dict[_Values, list[str]] = {}
        for operation in self._seen:
            together.setdefault(tuple(sorted(self._depends.get(operation, ()))), []).append(operation)
        self._groups = []
        for choices, operations in sorted(together.items()):
            combinations = sorted(self._seen[operations[0]])
            kernels = []
            for combination in combinations:
                total: Counter[Kernel] = Counter()
                for operation in operations:
                    total.update(self._rows[self._seen[operation][combination][0]])
                kernels.append(total)
            sizes = [len(self._choices[choice][1]) for choice in choices]
            self._groups.append(_Group(choices, sizes, combinations, kernels))

    def _rows_of(self, picks: Sequence[Pick]) -> NDArray[np.int64]:
        """[pick, group] → which of the group's kernels. Candidates with combinations not seen before are looked at."""
        values = np.array([self._values(pick) for pick in picks], dtype=np.int64).reshape(len(picks), -1)
        while True:
            rows = np.stack([group.rows(values) for group in self._groups], axis=1)
            unseen = sorted({int(np.argmin(column)) for column in rows.T if column.min() < 0})
            if not unseen:
                return rows
            for number in unseen:
                self._enter(tuple(int(place) for place in values[number]))
            self._group()


class _Group:
    """Operations that depend on the same choices. kernels: of all of them together, for every combination seen."""

    def __init__(
        self, choices: _Values, sizes: Sequence[int], combinations: Sequence[_Values], kernels: list[Counter[Kernel]]
    ) -> None:
        self.choices, self.kernels = list(choices), kernels
        self._strides = np.array([prod(sizes[n + 1 :]) for n in range(len(sizes))], dtype=np.int64)
        numbers = np.array(combinations, dtype=np.int64).reshape(len(combinations), len(sizes)) @ self._strides
        self._order = np.argsort(numbers)
        self._numbers = numbers[self._order]

    def rows(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """[pick, choice] → place in `kernels`, -1 where the combination has not been seen."""
        wanted = values[:, self.choices] @ self._strides
        found = np.minimum(np.searchsorted(self._numbers, wanted), len(self._numbers) - 1)
        return np.where(self._numbers[found] == wanted, self._order[found], -1)


def _family(operation: str) -> str:
    """`stages.2.1.*.expand:*`: the same place in all blocks of a branch."""
    first, rest = operation.split(".")[:3], operation.split(".")[3:]
    return ".".join([*first, *(re.sub(r"\d+", "*", name) for name in rest)])


def _changed(values: _Values, choice: int, place: int) -> _Values:
    return (*values[:choice], place, *values[choice + 1 :])
