"""Predictions for many candidates of a space at once, equal to cutting each of them.

A part of a network (a branch's blocks, a fusion, a head) depends on few of the space's choices: DIR-BHRNet's lowest
branch on the width, its own block kind, expansion and count. So the units of a part are noted once for every
combination of the choices it depends on, and a candidate is the sum of its parts.

Which choices those are is learned from candidates: a choice belongs to a part if two candidates that agree in all
others of the part differ in the part's units. What is learned is checked on candidates that were not used for it; a
contradiction is learned from, and the check begins again. A combination that has not been seen is cut and noted.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.engines.unit import Unit
from compress.errors import SpaceError
from compress.measure.latency_table import LatencyTable, predict
from compress.space import Pick, Space

Parts = Mapping[str, Mapping[Unit, int]]
CutPick = Callable[[Pick], Parts]
"""A candidate's units by part: compress.measure.units.cut_by_part on its network."""

LEARNED = 48
"""Random candidates that the choices of every part are learned from, before any combination is filled in."""
CHECKED = 24
"""Candidates in a row that must agree with what was learned."""
_MOST_CHECKS = 400
_NEARBY = 4  # probes per choice: the same candidate with only that choice changed


@dataclass
class _Part:
    """depends: indices of choices. seen: their values → which row of units."""

    depends: list[int] = field(default_factory=list)
    seen: dict[tuple[int, ...], int] = field(default_factory=dict)


class PartTable:
    """What every part of a space's networks is made of."""

    def __init__(self, space: Space, cut: CutPick, seed: int = 0) -> None:
        """Learns the parts. Raises SpaceError if they do not depend on few choices each, so that nothing is gained."""
        self._space, self._cut = space, cut
        self._names = list(space.choices)
        self._places = [{repr(value): n for n, value in enumerate(space.choices[name])} for name in self._names]
        self._rows: list[Counter[Unit]] = []
        self._row_of: dict[frozenset[tuple[Unit, int]], int] = {}
        self._known: list[tuple[tuple[int, ...], dict[str, int]]] = []  # candidates: choices, and every part's row
        self._parts: dict[str, _Part] = {}
        self._learn(random.Random(seed))

    def units(self, pick: Pick) -> Counter[Unit]:
        """What cutting the candidate gives."""
        total: Counter[Unit] = Counter()
        for row in self._rows_of(self._values(pick)):
            total.update(self._rows[row])
        return total

    def predict(self, table: LatencyTable, picks: Sequence[Pick]) -> NDArray[np.float64]:
        """Milliseconds of every candidate, as `predict` tells of its units."""
        values = self.encode(picks)
        rows = self._row_matrix(values)
        ms = np.array([predict(table, row).ms if row else 0.0 for row in self._rows])
        total: NDArray[np.float64] = ms[rows].sum(1)
        return total

    def missing(self, table: LatencyTable, picks: Sequence[Pick]) -> list[Unit]:
        """The candidates' units that the table lacks."""
        rows = np.unique(self._row_matrix(self.encode(picks)))
        return table.missing({unit for row in rows for unit in self._rows[row]})

    def encode(self, picks: Sequence[Pick]) -> NDArray[np.int64]:
        """[pick, choice] → the value's place in the choice's list."""
        return np.array([self._values(pick) for pick in picks], dtype=np.int64).reshape(len(picks), len(self._names))

    # --- Learning ----------------------------------------------------------------------------------------------------

    def _learn(self, rng: random.Random) -> None:
        picks = [self._space.smallest, self._space.largest, *(self._space.sample(rng) for _ in range(LEARNED))]
        for pick in picks:
            self._note(pick)
        # One choice at a time from some candidates: a part that changes depends on it.
        for name, values in self._space.choices.items():
            for _ in range(_NEARBY):
                self._note_pair(self._space.sample(rng), name, rng.choice(values))
        self._index()
        agreed = 0
        for _ in range(_MOST_CHECKS):
            pick = self._space.sample(rng)
            expected = self._find(self._values(pick))
            self._note(pick)
            values, found = self._known[-1]
            if all(row is None or row == found.get(name) for name, row in expected.items()) and found.keys() <= expected.keys():
                agreed += 1
                self._remember(values, found)
            else:
                agreed = 0
                self._index()
            if agreed == CHECKED:
                return
        raise SpaceError(
            "the parts of the networks do not depend on few choices each", place=str(self._space.base.get("family")),
            remedy="cut every candidate",
        )  # fmt: skip
