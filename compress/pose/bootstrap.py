"""The bootstrap (Efron 1979) behind every standard error of a score.

All draws are of one fixed seed, so the samples of two networks on the same pictures are of the same pictures too, and
the spread of their differences is the standard error of the difference (the paired bootstrap).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


def resampled(value_of: Callable[[NDArray[np.int64]], float], count: int, resamples: int) -> tuple[float, ...]:
    """The figure on samples of `count` items, drawn with replacement. value_of: the drawn items → figure, NaN if they
    hold nothing to measure."""
    rng = np.random.default_rng(0)
    return tuple(float(value_of(rng.integers(0, count, count))) for _ in range(resamples)) if count else ()


def standard_error(samples: Sequence[float]) -> float:
    """The spread of the figure over the samples that it is known of; NaN if these are fewer than two."""
    known = [sample for sample in samples if not math.isnan(sample)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
