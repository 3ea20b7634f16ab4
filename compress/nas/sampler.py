"""Which pick to try next: ask and tell, with Optuna as the record. The loop belongs to the caller.

Deterministic: the same space, seed and history of answers give the same picks. So a killed search is resumed by telling
the finished trials once more, and goes on exactly as if it had not been killed.
"""

import copy
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import (
    BaseGASampler,
    BaseSampler,
    GPSampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState

from compress.extensions import Extensible
from compress.nas.predictor_sampler import WITH_PRIOR, Learned, PredictorSampler, pick_of
from compress.nas.space import Pick, Space, pick_key
from compress.nas.study import SharedStudy, Storage, open_study

_CHANGED = 0.2

GUIDED = "guided"
"""The sampler whose proposals after the first ones come from a Guide."""

Asked = Trial
"""What an answer is told by."""
Value = tuple[str, Any]
"""Path of a choice, and one of its values."""
NewSampler = Callable[[int, int], BaseSampler]
"""Population and seed → a sampler of Optuna's."""

SAMPLERS: dict[str, NewSampler] = {
    "nsga2": lambda population, seed: NSGAIISampler(population_size=population, seed=seed),
    "tpe": lambda population, seed: TPESampler(seed=seed, multivariate=False),
    "gp": lambda population, seed: GPSampler(seed=seed),
    "random": lambda population, seed: RandomSampler(seed=seed),
    GUIDED: lambda population, seed: RandomSampler(seed=seed),
    "predictor": lambda population, seed: PredictorSampler(seed),
}


def sampler_named(named: object, place: str = "sampler") -> NewSampler:
    """What makes the sampler of that name, see compress.extensions. Raises RecipeError naming the nearest known one."""
    return _SAMPLERS.find(named, place)


def _accept(given: Any) -> NewSampler | None:
    """A sampler, of which a copy is used, so that it can be given again; its class; or a function of both numbers."""
    if isinstance(given, BaseSampler):
        return lambda population, seed: copy.deepcopy(given)
    if isinstance(given, type):
        return (lambda population, seed: given()) if issubclass(given, BaseSampler) else None
    return given if callable(given) else None


_SAMPLERS: Extensible[NewSampler] = Extensible(
    "sampler",
    "compress.samplers",
    SAMPLERS,
    _accept,
    "a sampler of Optuna's, its class, or a function of population and seed that returns one",
)

Costs = Callable[[Sequence[Pick]], NDArray[np.float64]]
"""Picks → one cost of each, the same that `tell` will get."""


_BUDGET = "budget"
"""The constraint that trials are told of."""
REFUSED = "refused"
"""Attribute of a trial whose pick was not scored: why."""


def screens(kind: object) -> bool:
    """Whether the sampler of that name, or given, asks what many picks cost for each one that it proposes."""
    return kind == GUIDED or isinstance(sampler_named(kind)(2, 0), PredictorSampler)


class Sampler:
    """One or several costs, to be small, and a score, to be large.

    kind: see sampler_named. baselines: picks that the search is to beat. population: of NSGA-II. The first picks are
    the baselines, the smallest and the largest, the baselines with one field changed as a whole (every block of another
    kind), and up to `population`, in equal parts, random picks and baselines with a fifth of their choices changed.
    costs: one entry for every cost, which predicts it for many picks at once, for those that screen (see screens);
    None: they model the cost.
    first: picks after the baselines, in place of the smallest, the largest and the changed ones. most: of every cost,
    beyond which the guide does not aim; empty: no limits. prior: what picks scored in another search, for those that
    predict (see PredictorSampler); with it only the baselines and `first` come first, and random picks up to three.
    shared: a study that other processes work on too, and its storage, see compress.nas.study; the first picks are the
    same, and all others other ones than theirs.
    """

    def __init__(
        self,
        space: Space,
        kind: str,
        *,
        population: int,
        seed: int,
        baselines: Sequence[Pick],
        costs: Sequence[Costs | None] = (None,),
        first: Sequence[Pick] = (),
        most: Sequence[float] = (),
        prior: Learned = (),
        shared: tuple[SharedStudy, Storage] | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        sampler = sampler_named(kind)(population, seed)
        if isinstance(sampler, PredictorSampler):
            sampler.know(
                space, {place: cost for place, cost in enumerate(costs) if cost}, {len(costs): prior} if prior else {}
            )
        if shared:
            self.study = open_study(*shared, sampler)
            sampler.reseed_rng()
        else:
            self.study = optuna.create_study(
                directions=[*(StudyDirection.MINIMIZE for _ in costs), StudyDirection.MAXIMIZE], sampler=sampler
            )
        rng = random.Random(seed)
        changed = [change for pick in baselines for change in space.whole_changes(pick)]
        if prior:  # which says more than these do
            first, population = [*baselines, *first], min(population, WITH_PRIOR)
        else:
            first = [*baselines, *(first or [space.smallest, space.largest, *changed])]
        while len(first) < population:
            near = baselines and len(first) % 2
            first.append(space.mutate(rng.choice(baselines), _CHANGED, rng) if near else space.sample(rng))
        for pick in first:
            self.study.enqueue_trial(dict(pick), skip_if_exists=shared is not None)
        self._shared = shared is not None
        guide_rng = random.Random() if shared else rng
        self._guide = Guide(space, baselines, guide_rng, costs, most) if kind == GUIDED else None
        self._learned: set[int] = set()

    def ask(self) -> tuple[Asked, Pick]:
        """The next pick, and the trial to answer for it."""
        if self._guide:
            self._learn(self._guide)
            if not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
                self.study.enqueue_trial(dict(self._guide.propose()))
        with catch_warnings():
            simplefilter("ignore", UserWarning)  # heartbeats are compress.nas.trial_book's here
            trial = self.study.ask()
        if isinstance(self.study.sampler, BaseGASampler):
            _ = trial.relative_params  # counts a given pick as one of its generation too, which Optuna does lazily
        pick = {path: trial.suggest_categorical(path, values) for path, values in self._space.choices.items()}
        return trial, pick

    def suggest(self, picks: Sequence[Pick]) -> None:
        """These are asked for next, after those that wait already."""
        for pick in picks:
            self.study.enqueue_trial(dict(pick), skip_if_exists=self._shared)

    def tell(self, trial: Asked, costs: Sequence[float], score: float, excess: float | None = None) -> None:
        """The pick's costs, which must be positive, and score.

        excess: above 0 where it is over budget, by how much; None without a budget.
        """
        if excess is not None:
            trial.set_constraint(_BUDGET, excess)
        self.study.tell(trial, [*costs, score])

    def refuse(self, trial: Asked, excess: float | None = None, why: str = "over budget") -> None:
        """The pick was not scored. excess: above 0, by how much it is over budget; None where that is not why."""
        trial.set_user_attr(REFUSED, why)
        if excess is not None:
            trial.set_constraint(_BUDGET, excess)
        self.study.tell(trial, state=TrialState.FAIL)

    def _learn(self, guide: "Guide") -> None:
        """What was told since the last time, here or by another process."""
        for one in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
            if one.number in self._learned:
                continue
            self._learned.add(one.number)
            if one.values:
                guide.learn(pick_of(one, self._space), one.values[:-1], one.values[-1])
            elif REFUSED in one.user_attrs:
                guide.skip(pick_of(one, self._space))


class Guide:
    """Proposes what a model of the scored picks holds for the most accurate at some costs.

    The model is additive: every value of every choice adds its part to the score and, without predicted costs, to the
    logarithm of a cost (ridge regression; picks of similar costs weigh more). The costs aimed at are drawn from those
    of the baselines and a fifth less, for there the finalists will be compared, and ones anywhere on the scale. Of
    several costs any may be left out of an aim, so that a front is explored in all of them together and in each alone.
    Candidates are children of good picks of about those costs: fields crossed, a field changed as a whole, single
    steps.

    The model knows nothing of a value that no scored pick has, and would never pay for it. Budgets make this likely:
    the baselines at a larger width are all refused, however good that width were with fewer blocks. So a share of the
    proposals have a value that was seldom seen, as long as there is one.
    """

    def __init__(
        self,
        space: Space,
        baselines: Sequence[Pick],
        rng: random.Random,
        costs: Sequence[Costs | None] = (None,),
        most: Sequence[float] = (),
    ) -> None:
        self._space, self._rng, self._costs_of = space, rng, costs
        self._most = np.asarray(most or [np.inf] * len(costs))
        self._baselines = [pick_key(pick) for pick in baselines]
        self._columns = {
            (path, value): column
            for column, (path, value) in enumerate((p, v) for p, values in space.choices.items() for v in values)
        }
        self._picks: list[Pick] = []
        self._costs: list[NDArray[np.float64]] = []
        self._scores: list[float] = []
        self._known: set[str] = set()
        self._seen: Counter[Value] = Counter()
        self._sought: Counter[Value] = Counter()

    def learn(self, pick: Pick, costs: Sequence[float], score: float) -> None:
        """One scored pick."""
        if pick_key(pick) not in self._known:
            self._known.add(pick_key(pick))
            self._picks.append(pick)
            self._costs.append(np.asarray(costs, dtype=np.float64))
            self._scores.append(score)
            self._seen.update(pick.items())

    def skip(self, pick: Pick) -> None:
        """One pick that is not to be proposed again."""
        self._known.add(pick_key(pick))

    def propose(self) -> Pick:
        """A pick that is not known yet, if one is found."""
        if len(self._picks) < 2:
            return self._space.sample(self._rng)
        aims = self._aims()
        limits = np.array(list(aims.values()))
        log_costs = np.log(np.stack(self._costs)[:, list(aims)])
        weights = np.exp(-(((log_costs - np.log(limits)) / _WIDTH) ** 2).mean(1) / 2)
        features = np.stack([self._features(pick) for pick in self._picks])
        score_of = _ridge(features, np.asarray(self._scores), weights)
        children = self._children(weights)
        seldom = self._seldom_seen() if self._rng.random() < _SEEKING else None
        if seldom:
            self._sought[seldom] += 1
            children = [{**child, seldom[0]: seldom[1]} for child in children]
        candidates = [pick for pick in children if pick_key(pick) not in self._known]
        if not candidates:
            return self._space.sample(self._rng)
        rows = np.stack([self._features(pick) for pick in candidates])
        scores = rows @ score_of
        shares = np.empty((len(candidates), len(aims)))
        for column, (number, limit) in enumerate(aims.items()):
            predict = self._costs_of[number]
            costs = predict(candidates) if predict else np.exp(rows @ _ridge(features, log_costs[:, column], weights))
            shares[:, column] = costs / limit
        worst = shares.max(1)
        scores[worst > 1] = -np.inf
        best = int(np.argmax(scores) if np.isfinite(scores).any() else np.argmin(worst))
        return candidates[best]

    def _seldom_seen(self) -> "Value | None":
        """The value that the fewest scored picks have, if those are too few; not one sought in vain: the budget may
        allow none of its picks. Of edits every value is among the first picks, and what it costs and saves is known."""
        values = [
            (path, value)
            for path, several in self._space.choices.items()
            for value in several
            if path not in self._space.edit_paths
            and self._seen[path, value] < _ENOUGH
            and self._sought[path, value] < _ENOUGH + self._seen[path, value]
        ]
        return min(values, key=lambda one: self._seen[one], default=None)

    def _aims(self) -> dict[int, float]:
        """Number of a cost → the most that it may be, of one cost at least."""
        rng, known = self._rng, np.stack(self._costs)
        of_baselines = [
            costs for pick, costs in zip(self._picks, known, strict=True) if pick_key(pick) in self._baselines
        ]
        aims = [costs * share for costs in of_baselines for share in (1.0, 0.8)]
        low, high = known.min(0), known.max(0)
        aims = [np.minimum(aim, self._most) for aim in aims]
        high = np.maximum(low, np.minimum(high, self._most))
        aim = rng.choice([*aims, low * (high / low) ** rng.random()])
        numbers = list(range(len(aim)))
        if len(aim) > 1:
            numbers = sorted(rng.sample(numbers, rng.randint(1, len(aim))))
        return {number: float(aim[number]) for number in numbers}

    def _children(self, weights: NDArray[np.float64]) -> list[Pick]:
        """Of the picks that are best near the cost aimed at and, to leap, of any: crossed, changed, stepped."""
        near = [i for i in range(len(self._picks)) if weights[i] > _NEAR]
        parents = sorted(near, key=lambda i: -self._scores[i])[:_PARENTS] or list(range(len(self._picks)))
        space, rng = self._space, self._rng
        children = []
        for number in range(_CHILDREN):
            if number % 2:
                child = self._picks[rng.choice(parents)]
                child = rng.choice([space.cross(child, self._picks[rng.choice(parents)], rng), child])
            else:
                child = self._picks[rng.randrange(len(self._picks))]
            for _ in range(rng.choice((0, 1, 1, 2, 3))):
                child = rng.choice(space.whole_changes(child))
            for _ in range(rng.choice((0, 1, 2, 3, 4))):
                child = space.step(child, rng)
            children.append(child)
        return children

    def _features(self, pick: Pick) -> NDArray[np.float64]:
        row = np.zeros(len(self._columns) + 1)
        row[-1] = 1.0
        for path, value in pick.items():
            row[self._columns[path, value]] = 1.0
        return row


_WIDTH = 0.7
"""Of the weights around the cost aimed at, in its logarithm. A narrower one would leave a model at half the cost
without the picks of width 24 that were seen at twice the cost."""
_NEAR = 0.3
"""Least weight of a parent for small changes."""
_SEEKING = 0.25
"""Share of the proposals that have a value seldom seen, while there is one."""
_ENOUGH = 4
"""Scored picks with a value, and proposals with it in vain."""
_PARENTS = 12
_CHILDREN = 1000
_RIDGE = 0.3


def _ridge(
    features: NDArray[np.float64], values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted least squares with a penalty on all coefficients but the last, the mean."""
    penalty = np.eye(features.shape[1]) * _RIDGE
    penalty[-1, -1] = 1e-6
    weighted = features * weights[:, None]
    return np.linalg.solve(features.T @ weighted + penalty, weighted.T @ values).astype(np.float64)
