"""A prediction of what picks are worth, with its uncertainty: a Gaussian process on the trials so far.

Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), as scikit-learn has it. The kernel is the sum
of a linear one, for what every choice adds by itself, a Matérn 5/2 one, for how choices go together, and noise: a
training's score depends on its seed.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

from compress.nas.space import Pick

Array = NDArray[np.float64]


class Encoding:
    """Picks as rows of numbers, [N, columns].

    choices: path → values. A choice between numbers is one column, its place among the values from 0 to 1; another
    choice has a column for each of its values, 0 or 1.
    """

    def __init__(self, choices: Mapping[str, Sequence[Any]]) -> None:
        self._parts: list[tuple[str, dict[Any, Array]]] = []
        for path, values in choices.items():
            if len(values) > 1:
                rows = np.linspace(0, 1, len(values))[:, None] if are_numbers(values) else np.eye(len(values))
                self._parts.append((path, dict(zip(values, rows, strict=True))))

    def __call__(self, picks: Sequence[Pick]) -> Array:
        """One row for each pick."""
        columns = [np.array([rows[pick[path]] for pick in picks]) for path, rows in self._parts]
        return np.concatenate([np.zeros((len(picks), 0)), *columns], axis=1)


def are_numbers(values: Sequence[Any]) -> bool:
    """Whether a choice is between numbers, so that it has a smallest and a largest value."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


class Predictor:
    """What rows of numbers are worth."""

    def __init__(self, rows: Array, values: Sequence[float] | Array, weights: Array | None = None) -> None:
        """Learns from the values of these rows, [N, columns], of which there must be at least one.

        weights: [columns], how much each standardised column counts; 1 by default, and of 0 nothing. The kernel's four
        parameters are those of the largest marginal likelihood, within bounds that keep a predictor of few trials from
        being too sure of itself. The same trials give the same predictor.
        """
        targets = np.asarray(values, np.float64)
        self._mean, self._scale = float(targets.mean()), float(targets.std()) or 1.0
        self._centre = rows.mean(0)
        self._factors = (np.ones(rows.shape[1]) if weights is None else weights) / np.where(
            rows.std(0) > 0, rows.std(0), 1.0
        )
        columns = max(1, rows.shape[1] if weights is None else int(np.count_nonzero(weights)))
        side = np.sqrt(columns)  # the typical distance of two rows is 1.4 of it
        linear = ConstantKernel(0.5 / columns, (1e-3 / columns, 1e2 / columns)) * DotProduct(1e-2, "fixed")
        together = ConstantKernel(0.5, (1e-2, 1e1)) * Matern(side, (0.3 * side, 10 * side), nu=2.5)
        self._process = GaussianProcessRegressor(linear + together + WhiteKernel(0.1, (1e-3, 1.0)), alpha=1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # that a parameter is at its bound
            self._process.fit(self._standard(rows), (targets - self._mean) / self._scale)

    @classmethod
    def likeliest(cls, rows: Array, values: Sequence[float] | Array, weights: Sequence[Array]) -> "Predictor":
        """Of predictors with different weights of the columns the one under which the values are most likely."""
        return max((cls(rows, values, one) for one in weights), key=lambda one: one.evidence)

    @property
    def evidence(self) -> float:
        """Logarithm of the marginal likelihood of the values that it learned from."""
        return float(self._process.log_marginal_likelihood_value_)

    def predict(self, rows: Array) -> tuple[Array, Array]:
        """Mean and standard deviation [N] of what each row is worth, without the noise of a single training."""
        means, deviations = self._process.predict(self._standard(rows), return_std=True)
        noise = self._process.kernel_.k2.noise_level
        certain = np.sqrt(np.maximum(deviations**2 - noise, 1e-9))
        return means * self._scale + self._mean, certain * self._scale

    def _standard(self, rows: Array) -> Array:
        return np.asarray((rows - self._centre) * self._factors)
