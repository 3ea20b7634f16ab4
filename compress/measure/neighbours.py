"""An estimate of the time of a kernel that was not timed, from kernels like it: its neighbours.

Times grow with multiply-adds and with bytes moved, each to a power that the kernels of one kind show. Every neighbour
gives its own time, scaled by these powers; the nearer in size, the more it counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

LEAST = 3
"""Neighbours needed: kernels of the same kind, else of the same operator, else all there are."""
NEAREST = 20
"""Neighbours that the error is estimated from: each is predicted from the others."""
LEAST_ERROR = 0.15
ALONE_ERROR = 1.0
"""Relative error where there are no neighbours to estimate it from."""
_NEAR = 0.05  # squared distance, in logarithms, below which neighbours count alike


@dataclass(frozen=True)
class Neighbour:
    """A timed kernel. kind: see Kernel. ratio: its time over the reference's."""

    kind: str
    macs: int
    bytes: int
    ratio: float


def estimate(kind: str, macs: int, size: int, timed: Sequence[Neighbour]) -> tuple[float, float]:
    """A kernel's ratio and its relative error, from at least one timed kernel. size: bytes read and written."""
    operator = kind.partition(" ")[0]
    same_kind = [n for n in timed if n.kind == kind]
    same_operator = [n for n in timed if n.kind.partition(" ")[0] == operator]
    pool = next((group for group in (same_kind, same_operator) if len(group) >= LEAST), list(timed))
    features = np.array([_features(n.macs, n.bytes) for n in pool])
    logs = np.log([n.ratio for n in pool])
    powers = nnls(features - features.mean(0), logs - logs.mean())[0]
    here = _features(macs, size)
    ratio = float(np.exp(_told(here, features, logs, powers)))
    nearest = np.argsort(((features - here) ** 2).sum(1))[:NEAREST]
    if len(pool) < LEAST:
        return ratio, ALONE_ERROR
    errors = [
        abs(float(np.expm1(_told(features[i], np.delete(features, i, 0), np.delete(logs, i), powers) - logs[i])))
        for i in nearest
    ]
    return ratio, max(LEAST_ERROR, float(np.mean(errors)))


def _features(macs: int, size: int) -> NDArray[np.float64]:
    return np.log1p([float(macs), float(size)])


def _told(
    here: NDArray[np.float64], features: NDArray[np.float64], logs: NDArray[np.float64], powers: NDArray[np.float64]
) -> float:
    away = here - features
    weights = 1 / ((away**2).sum(1) + _NEAR)
    return float((weights * (logs + away @ powers)).sum() / weights.sum())
