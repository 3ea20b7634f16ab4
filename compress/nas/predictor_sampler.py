"""A sampler of Optuna's that proposes what a predictor holds for the greatest gain: `PredictorSampler`.

    study = optuna.create_study(directions=["minimize", "maximize"], sampler=PredictorSampler(seed=1))

In a search it knows the space, and the latency model tells it the cost of any pick exactly, so that thousands of picks
are screened for one that is trained or scored.
"""

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import norm

from compress.nas.predictor import Encoding, Predictor
from compress.nas.space import Pick, Space, pick_key

Array = NDArray[np.float64]

Known = Callable[[Sequence[Pick]], Array]
"""Picks → an objective of each, the same that the study is told."""

_DRAWS = 256
"""Directions in which the hypervolume is measured, each with an outcome of every pick."""
WITH_PRIOR = 3
"""Finished trials before the first prediction, at most, where there is a prior."""
KNOWN_WEIGHT = 5.0
"""Of known objectives among the columns that another one is predicted from. Of the 150 trials of a search, predicted
from 20 of them, Kendall's tau was 0.56 without the latency, 0.58 with weight 1, 0.65 with 3 and 0.69 with 5."""
_NOTHING = 1e-12  # in place of 0, which has no logarithm
_PART_WEIGHT = 4.0
"""Of what the parts of a network cost, all parts together; see Columns."""
_CHOICE_WEIGHT = 0.3
"""Of every single choice beside those."""
_CHILDREN = 0.5
"""Share of the screened picks that are children of the best trials; the others are drawn from the whole space."""
_TRIES = 20  # draws for each pick wanted, so that a small space cannot keep the loop going


Learned = Sequence[tuple[Pick, float]]
"""Picks of other trials, and what they scored."""


class Columns:
    """Picks as rows of what a value is predicted from: the choices, what each part of the network costs, and its cost.

    A part is what the choices of one last name are about, such as `blocks.2.1`, `kinds.1` and `expansions.1`: branch 1
    of a DIR-BHRNet in all its stages. It costs what the pick would save with all of them at their smallest. At equal
    cost two networks of PoseNAS-Bench differ by where the cost is, rather than by single choices: without what cost
    explains, Kendall's tau on networks not learned from is 0.23 with these columns and 0.15 without, of 20 networks,
    and 0.31 and 0.23 of 80; between two seeds of one network it is 0.30 (benchmarks.search_quality).
    """

    def __init__(self, space: Space, known: Mapping[int, Known], logs: Collection[int]) -> None:
        """logs: the known objectives that are taken in their logarithm."""
        self._space, self._known, self._logs = space, known, logs
        self._encoding = Encoding(space.choices)
        self._parts: dict[str, list[str]] = {}
        for path, values in space.choices.items():
            if len(values) > 1:
                self._parts.setdefault(path.rpartition(".")[2], []).append(path)

    def __call__(self, picks: Sequence[Pick]) -> Array:
        """[N, columns], the known objectives last."""
        rows, parts, whole = self._encoding(picks), list[Array](), list[Array]()
        for place, tell in self._known.items():
            cost = np.asarray(tell(picks), np.float64)
            for paths in self._parts.values():
                without = [{**pick, **{path: self._space.choices[path][0] for path in paths}} for pick in picks]
                saved = cost - np.asarray(tell(without), np.float64)
                parts.append(np.sign(saved) * np.sqrt(np.abs(saved)))
            whole.append(np.log(np.maximum(cost, _NOTHING)) if place in self._logs else cost)
        return np.column_stack([rows, *parts, *whole])

    @property
    def key(self) -> str:
        """Equal for the same columns."""
        return repr((self._space.choices, sorted(self._known), sorted(self._logs)))

    @property
    def weights(self) -> tuple[Array, ...]:
        """Of each column, see Predictor: by parts above all, or by choices alone. Which holds the trials tell."""
        choices, parts = self._encoding([self._space.smallest]).shape[1], len(self._parts) * len(self._known)
        known = [KNOWN_WEIGHT] * len(self._known)
        by_choices = np.array([1.0] * choices + [0.0] * parts + known)
        if not parts:
            return (by_choices,)
        by_parts = np.array([_CHOICE_WEIGHT] * choices + [_PART_WEIGHT / math.sqrt(parts)] * parts + known)
        return by_parts, by_choices


class PredictorSampler(BaseSampler):
    """Gaussian processes of the objectives, and the largest expected gain in hypervolume among many picks.

    For any number of objectives, and for constraints (optuna.trial.Trial.set_constraint), of failed trials too. Choices
    and whole numbers are sampled so, any other parameter at random. The same seed and trials give the same proposal,
    and all it goes by is in the study, so that several processes may share one.

    seed: of all that is random. startup: finished trials before the first prediction; until then picks are random.
    screened: picks that are looked at for each proposal. space: of the picks; None: the parameters that all finished
    trials have. known: objectives that can be told beforehand, by their place among the study's. prior: of other
    objectives, what trials of the same choices scored elsewhere, such as on other pictures, in the same direction; what
    a predictor of them says is one more column, and the study's trials show what it is worth. With it the first
    prediction is after three trials, if not earlier. among: the picks that may be proposed; None: any of the space.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        startup: int = 10,
        screened: int = 2000,
        space: Space | None = None,
        known: Mapping[int, Known] | None = None,
        prior: Mapping[int, Learned] | None = None,
        among: Sequence[Pick] | None = None,
    ) -> None:
        self._seed, self._startup, self._screened = seed, startup, screened
        self._space, self._known, self._among = space, dict(known or {}), among
        self._prior = dict(prior or {})
        self._learned: dict[tuple[int, str], Predictor] = {}  # of the prior, by objective and columns
        self._random = RandomSampler(seed=seed)
        self._common = IntersectionSearchSpace()

    def know(self, space: Space, known: Mapping[int, Known], prior: Mapping[int, Learned]) -> None:
        """What a search can tell it, see space, known and prior above. What it was made with stays."""
        self._space, self._known = self._space or space, {**known, **self._known}
        self._prior = {**prior, **self._prior}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space's choices, or the choices and whole numbers that all finished trials have."""
        if self._space:
            return {path: CategoricalDistribution(values) for path, values in self._space.choices.items()}
        common = self._common.calculate(study)
        return {name: one for name, one in common.items() if isinstance(one, CategoricalDistribution | IntDistribution)}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The pick of the largest expected gain that no trial has had."""
        if not search_space:
            return {}
        space = self._space or Space({}, {name: _values_of(one) for name, one in search_space.items()})
        trials = [one for one in study.get_trials(deepcopy=False) if search_space.keys() <= one.params.keys()]
        finished = [one for one in trials if one.state == TrialState.COMPLETE]
        rng = random.Random(f"{self._seed}-{trial.number}")
        seen = {pick_key(pick_of(one, space)) for one in trials}
        startup = min(self._startup, WITH_PRIOR) if self._prior else self._startup
        predicting = len(finished) >= max(1, startup)
        parents = [pick_of(finished[index], space) for index in _best(_gains(study, finished))] if predicting else []
        if self._among is None:
            picks = _screened(space, parents, seen, self._screened if predicting else 1, rng)
        else:
            picks = [pick for pick in self._among if pick_key(pick) not in seen]
        if not picks:
            return dict(space.sample(rng))  # all of a small space has been tried
        if not predicting:
            return dict(rng.choice(picks))
        return dict(picks[int(np.argmax(self._expected_gains(study, space, trials, finished, picks, rng)))])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """At random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Of the parameters sampled at random; proposals go by the seed and the trial's number."""
        self._random.reseed_rng()

    def _expected_gains(
        self,
        study: Study,
        space: Space,
        trials: Sequence[FrozenTrial],
        finished: Sequence[FrozenTrial],
        picks: Sequence[Pick],
        rng: random.Random,
    ) -> Array:
        """Of each pick, the logarithm of its expected gain in hypervolume times its probability of being feasible."""
        logs, encoding = _logs(study, finished), Encoding(space.choices)
        columns = Columns(space, self._known, logs)
        gains = _gains(study, finished)
        learned, wanted, weights = columns([pick_of(one, space) for one in finished]), columns(picks), columns.weights
        told = dict(zip(self._known, wanted.T[len(wanted.T) - len(self._known) :], strict=True))
        means, deviations = np.empty((len(picks), gains.shape[1])), np.zeros((len(picks), gains.shape[1]))
        for place, way in enumerate(study.directions):
            if place in self._known:
                means[:, place] = _upward(way, False, told[place])
                continue
            before = self._before(place, way, columns)
            known, asked = (np.column_stack([rows, before(rows)]) if before else rows for rows in (learned, wanted))
            counts = [np.append(one, KNOWN_WEIGHT) for one in weights] if before else weights
            predictor = Predictor.likeliest(known, gains[:, place], counts)
            means[:, place], deviations[:, place] = predictor.predict(asked)
        feasible = np.array([all(value <= 0 for value in one.constraints.values()) for one in finished])
        both = np.concatenate([gains, means])
        expected = expected_hypervolume_gain(
            means, deviations, gains, feasible, np.random.default_rng(rng.getrandbits(32)), both.min(0), both.max(0)
        )
        return np.log(np.maximum(expected, 1e-300)) + _log_feasible(trials, space, encoding, encoding(picks))

    def _before(self, place: int, way: StudyDirection, columns: Columns) -> Callable[[Array], Array] | None:
        """Rows of the columns → what the prior's trials make of an objective; None without any."""
        if not (learned := self._prior.get(place)):
            return None
        key = place, columns.key
        if key not in self._learned:
            values = _upward(way, False, np.array([value for _, value in learned]))
            rows = columns([pick for pick, _ in learned])
            self._learned[key] = Predictor.likeliest(rows, values, columns.weights)
        return lambda rows: self._learned[key].predict(rows)[0]


def expected_hypervolume_gain(
    means: Array,
    deviations: Array,
    gains: Array,
    feasible: NDArray[np.bool_],
    rng: np.random.Generator,
    low: Array,
    high: Array,
) -> Array:
    """By how much each of N picks is expected to enlarge the hypervolume that the trials dominate.

    means, deviations: [N,D], of normal distributions, upward is better. gains: [T,D] of the trials. low, high: [D];
    what is measured lies above `low`, in units of the ranges between them. feasible: [T], the trials that dominate
    anything. Where none does, all picks are alike, 1.

    The hypervolume is the mean of max_t min_d (y_td / λ_d)^D over directions λ on the positive part of the sphere, up
    to a factor that depends on D alone (Zhang and Golovin, "Random hypervolume scalarizations for provable
    multi-objective black box optimization", ICML 2020, Lemma 5). Directions are drawn, and with each an outcome of the
    picks; all picks share the draws.
    """
    if not feasible.any():
        return np.ones(len(means))
    span = np.where(high > low, high - low, 1.0)
    objectives = gains.shape[1]
    directions = np.abs(rng.standard_normal((_DRAWS, objectives)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    outcomes = rng.standard_normal((_DRAWS, objectives))
    reached = _along(((gains[feasible] - low) / span)[:, None, :], directions).max(0)
    drawn = (means[:, None, :] + deviations[:, None, :] * outcomes - low) / span
    return np.asarray(np.maximum(_along(drawn, directions) - reached, 0).mean(1))


def _along(points: Array, directions: Array) -> Array:
    """min_d (y_d / λ_d)^D, 0 below the reference: [.., M or 1, D] and [M, D] → [.., M]."""
    return np.asarray((np.maximum(points, 0) / directions).min(-1) ** directions.shape[1])


def _log_feasible(trials: Sequence[FrozenTrial], space: Space, encoding: Encoding, rows: Array) -> Array:
    """Logarithm of the probability that every constraint holds, each by itself (Gardner et al., "Bayesian optimization
    with inequality constraints", ICML 2014)."""
    total = np.zeros(len(rows))
    for name in {name: None for one in trials for name in one.constraints}:
        told = [one for one in trials if name in one.constraints]
        predictor = Predictor(encoding([pick_of(one, space) for one in told]), [one.constraints[name] for one in told])
        means, deviations = predictor.predict(rows)
        total += norm.logcdf(-means / deviations)
    return total


# --- Objectives ------------------------------------------------------------------------------------------------------


def _gains(study: Study, finished: Sequence[FrozenTrial]) -> Array:
    """[T,D]: the objectives of finished trials, upward is better."""
    values, logs = np.array([one.values for one in finished], np.float64), _logs(study, finished)
    return np.stack(
        [_upward(way, place in logs, values[:, place]) for place, way in enumerate(study.directions)], axis=1
    )


def _logs(study: Study, finished: Sequence[FrozenTrial]) -> set[int]:
    """Objectives that are taken in their logarithm: costs, to be small and always positive, read in ratios."""
    return {
        place
        for place, way in enumerate(study.directions)
        if way == StudyDirection.MINIMIZE and all(one.values[place] > 0 for one in finished)
    }


def _upward(way: StudyDirection, log: bool, values: Array) -> Array:
    scaled = np.log(values) if log else values
    return -scaled if way == StudyDirection.MINIMIZE else scaled


def _best(gains: Array) -> list[int]:
    """Places of the trials that no other one beats in every objective."""
    others, one = gains[None], gains[:, None]
    beaten = np.any(np.all(others >= one, axis=2) & np.any(others > one, axis=2), axis=1)
    return [int(index) for index in np.flatnonzero(~beaten)]


# --- Picks -----------------------------------------------------------------------------------------------------------


def _screened(space: Space, parents: Sequence[Pick], seen: set[str], count: int, rng: random.Random) -> list[Pick]:
    """So many different picks that no trial has had, or as many as were found."""
    found: dict[str, Pick] = {}
    for _ in range(_TRIES * count):
        pick = _child(space, parents, rng) if parents and rng.random() < _CHILDREN else space.sample(rng)
        key = pick_key(pick)
        if key not in seen:
            found[key] = pick
        if len(found) == count:
            break
    return list(found.values())


def _child(space: Space, parents: Sequence[Pick], rng: random.Random) -> Pick:
    """One parent, or two with their fields crossed, with one to four choices changed by a step."""
    child = rng.choice(parents)
    if rng.random() < 0.5:
        child = space.cross(child, rng.choice(parents), rng)
    if all(len(values) == 1 for values in space.choices.values()):
        return child
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        child = space.step(child, rng)
    return child


def pick_of(trial: FrozenTrial, space: Space) -> Pick:
    """The parameters of a trial that has all of them."""
    return {path: trial.params[path] for path in space.choices}


def _values_of(distribution: BaseDistribution) -> tuple[Any, ...]:
    """All values of a choice or of a whole number."""
    if isinstance(distribution, CategoricalDistribution):
        return tuple(distribution.choices)
    assert isinstance(distribution, IntDistribution)
    return tuple(range(distribution.low, distribution.high + 1, distribution.step))
