"""Optuna behind ask and tell: which pick to try next. The loop belongs to the caller.

Deterministic: with the same space, seed and told history the same picks are asked. So a killed search is taken up again
by telling the finished trials once more, and goes on exactly as if it had not been killed.
"""

import random
from collections.abc import Sequence
from typing import Literal

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState

from compress.space import Pick, Space

_CHANGED = 0.2

SamplerKind = Literal["nsga2", "tpe", "random"]


class Sampler:
    """Two objectives: cost, to be small, and score, to be large.

    hand_made: picks the search is to beat. population: of NSGA-II. The first generation is the hand-made picks, the
    smallest and the largest, the hand-made ones with one field changed as a whole (every block of another kind), and in
    equal parts random picks and hand-made ones with a fifth of their choices changed.
    """

    def __init__(
        self, space: Space, kind: SamplerKind, *, population: int, seed: int, hand_made: Sequence[Pick]
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._study = optuna.create_study(directions=["minimize", "maximize"], sampler=_sampler(kind, population, seed))
        rng = random.Random(seed)
        changed = [change for pick in hand_made for change in space.whole_changes(pick)]
        first = [*hand_made, space.smallest, space.largest, *changed]
        while len(first) < population:
            near = hand_made and len(first) % 2
            first.append(space.mutate(rng.choice(hand_made), _CHANGED, rng) if near else space.sample(rng))
        for pick in first:
            self._study.enqueue_trial(pick)

    def ask(self) -> tuple[Trial, Pick]:
        """The next pick, and the trial to answer for it."""
        trial = self._study.ask()
        pick = {path: trial.suggest_categorical(path, values) for path, values in self._space.choices.items()}
        return trial, pick

    def tell(self, trial: Trial, cost: float, score: float) -> None:
        """The pick's cost and score."""
        self._study.tell(trial, [cost, score])

    def refuse(self, trial: Trial) -> None:
        """The pick is over budget and was not scored."""
        self._study.tell(trial, state=TrialState.FAIL)


def _sampler(kind: SamplerKind, population: int, seed: int) -> BaseSampler:
    if kind == "nsga2":
        return NSGAIISampler(population_size=population, seed=seed)
    if kind == "tpe":
        return TPESampler(seed=seed, multivariate=False)
    return RandomSampler(seed=seed)
