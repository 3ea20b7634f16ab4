"""An estimate of the time of a kernel that was not timed, from timed kernels of its operator: its neighbours.

The time of a kernel is a sum of what its work costs: a call, numbers read, numbers written, weights, multiply-adds,
each at a price that is never negative. The prices are fitted to the timed kernels of its kind, or of its operator where
few of the kind are. What they leave over is not noise alone: caches and the shapes of loops show in it, and kernels of
neighbouring sizes share it. So it is interpolated in the logarithms of input channels, output channels, height and
width (a Gaussian process with an exponential covariance, as in kriging), and fades to nothing far away.

Engines compute channels in blocks: 45 cost what 48 do where the block is 8. All sizes here are of whole blocks.

The error is not that of the fit: kernels of the pool are left out by halves, and the factor by which they are further
off than the process says of itself widens every error, so that nine in ten would have been within the interval.
`python -m benchmarks.estimation_accuracy` says how that comes out.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

LEAST = 3
"""Timed kernels of an operator; with fewer of them, prices are those of all kernels that there are."""
OWN_PRICES = 8
"""Timed kernels of a kind from which it has prices of its own; else it has those of the operator."""
LEAST_ERROR = 0.06
"""No kernel is estimated better than it is timed."""
NEW_KIND_ERROR = 0.22
"""Least mean relative error where no kernel of the kind is timed: that of kinds that were left out whole."""
ALONE_ERROR = 1.0
"""Mean relative error where fewer than LEAST kernels of the operator are timed: it may cost anything."""
HALF_INTERVAL = 1.645 * math.sqrt(math.pi / 2)
"""Half an interval that holds nine in ten, over the mean error, were errors normal."""

_RANGE = 4.0  # doublings after which what is left over has 1/e in common; 2 to 8 do as well
_OTHER_KIND = _OTHER_BLOCKS = _RANGE  # distance of another kind, and of channels that leave a block unfilled
_PICTURE = 4  # channels up to which none are added: engines read pictures as they are
_UNJUDGED = 2.0  # widening where there are too few kernels to leave half of them out
_NOISE = 0.03  # least relative error of one timing
_PRIOR, _PRIOR_WEIGHT = 0.1, 4  # what is left over, before any kernel has been seen, and for how many kernels it counts

Array = NDArray[np.float64]


class Described(Protocol):
    """A kernel, or what a table keeps of it; see Kernel."""

    @property
    def key(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def macs(self) -> int: ...


@dataclass(frozen=True)
class Neighbour:
    """A timed kernel. ratio: its time over the reference's. uncertainty: of that, relative."""

    key: str
    kind: str
    macs: int
    ratio: float
    uncertainty: float = 0.0


class Neighbours:
    """The timed kernels of one table, at least one. multiple: channels that the engine computes at a time."""

    def __init__(self, timed: Sequence[Neighbour], multiple: int = 1) -> None:
        self._timed, self._multiple = list(timed), multiple
        self._pools: dict[str, _Pool] = {}
        self._told: dict[str, tuple[float, float]] = {}

    def estimate(self, kernel: Described) -> tuple[float, float]:
        """The kernel's ratio, and the mean relative error to be expected of it."""
        if kernel.key not in self._told:
            operator = kernel.kind.partition(" ")[0]
            timed = [n for n in self._timed if n.kind.partition(" ")[0] == operator]
            known = len(timed) >= LEAST
            pool = self._pool(operator, timed) if known else self._pool("", self._timed)
            ratio, error = pool.estimate(_Point.of(kernel, self._multiple))
            of_kind = LEAST_ERROR if any(n.kind == kernel.kind for n in timed) else NEW_KIND_ERROR
            self._told[kernel.key] = ratio, max(error, of_kind if known else ALONE_ERROR)
        return self._told[kernel.key]

    def _pool(self, name: str, timed: Sequence[Neighbour]) -> "_Pool":
        if name not in self._pools:
            self._pools[name] = _Pool([_Point.of(n, self._multiple) for n in timed], timed)
        return self._pools[name]


@dataclass(frozen=True)
class _Point:
    """A kernel as it is compared. sizes: in doublings, channels in whole blocks. ragged: whether the channels read, and
    made, leave a block unfilled. work: a call, numbers read, numbers written, weights, multiply-adds.
    """

    kind: str
    sizes: Array
    ragged: tuple[bool, bool]
    work: Array

    @classmethod
    def of(cls, kernel: Described, multiple: int) -> "_Point":
        inputs, outputs = maps_of(kernel.key)
        given = max(inputs, key=math.prod, default=(1, 1, 1))
        made = outputs[0] if outputs else (1, 1, 1)

        def whole(channels: int) -> int:
            return channels if channels <= _PICTURE else -(-channels // multiple) * multiple

        padding = whole(made[0]) / made[0]
        if not _IN_GROUPS.search(kernel.kind):
            padding *= whole(given[0]) / given[0]
        macs = kernel.macs * padding
        read, written = (float(sum(whole(c) * h * w for c, h, w in maps)) for maps in (inputs, outputs))
        return cls(
            kernel.kind,
            np.log2([whole(given[0]), whole(made[0]), *given[1:], *made[1:]]),
            (whole(given[0]) != given[0], whole(made[0]) != made[0]),
            np.array([1.0, read, written, macs / math.prod(made[1:]), macs]),
        )


class _Pool:
    """Timed kernels that tell about one another."""

    def __init__(self, points: Sequence[_Point], timed: Sequence[Neighbour], judged: bool = True) -> None:
        self._points = points
        logs = np.log([n.ratio for n in timed])
        self._prices = _prices_by_kind(points, logs)
        over = logs - np.log([self._priced(point) for point in points])
        alike = _alike(points, points)
        noise = np.diag([max(_NOISE, n.uncertainty) ** 2 for n in timed])
        variance = _PRIOR**2
        for _ in range(
            4
        ):  # a fixed point: the variance by which kernels left out one by one are as far off as expected
            inverse = np.linalg.inv(variance * alike + noise)
            left_out = (inverse @ over) ** 2 / np.diag(inverse)  # squared errors over their expectations
            variance *= (left_out.sum() + _PRIOR_WEIGHT * _PRIOR**2 / variance) / (len(points) + _PRIOR_WEIGHT)
        self._variance = variance
        self._inverse = np.linalg.inv(variance * alike + noise)
        self._weights = self._inverse @ over
        self._widening = self._judge(timed) if judged else 1.0

    def estimate(self, point: _Point) -> tuple[float, float]:
        """See Neighbours.estimate."""
        ratio, deviation = self._told(point)
        return ratio, self._widening * deviation * math.sqrt(2 / math.pi)

    def _told(self, point: _Point) -> tuple[float, float]:
        """The ratio, and the standard deviation of its logarithm."""
        shared = self._variance * _alike([point], self._points)[0]
        doubt = self._variance - shared @ self._inverse @ shared
        ratio = self._priced(point) * math.exp(shared @ self._weights)
        return ratio, math.sqrt(max(0.0, float(doubt)) + _NOISE**2)

    def _priced(self, point: _Point) -> float:
        prices = self._prices.get(point.kind, self._prices[""])
        return max(1e-9, float(point.work @ prices))

    def _judge(self, timed: Sequence[Neighbour]) -> float:
        """How much further off, in nine of ten, kernels are than was expected of them from one half of the others."""
        off = []
        for half in (0, 1):
            known = [number for number in range(len(timed)) if number % 2 == half]
            if len(known) < LEAST:
                continue
            pool = _Pool([self._points[n] for n in known], [timed[n] for n in known], judged=False)
            for number in set(range(len(timed))) - set(known):
                ratio, deviation = pool._told(self._points[number])
                off.append(abs(math.log(ratio / timed[number].ratio)) / deviation)
        return max(1.0, float(np.quantile(off, 0.9)) / 1.645) if off else _UNJUDGED


def _prices_by_kind(points: Sequence[_Point], logs: Array) -> dict[str, Array]:
    """What a number read, a multiply-add and so on cost; under `` for kinds of which few are timed."""
    members: dict[str, list[int]] = {"": list(range(len(points)))}
    for number, point in enumerate(points):
        members.setdefault(point.kind, []).append(number)
    return {
        kind: _prices(np.array([points[n].work for n in numbers]), logs[numbers])
        for kind, numbers in members.items()
        if not kind or len(numbers) >= OWN_PRICES
    }


def _prices(work: Array, logs: Array) -> Array:
    """Least squares of the relative errors."""
    largest = np.maximum(work.max(0), 1.0)
    prices: Array = nnls(work / largest / np.exp(logs)[:, None], np.ones(len(logs)))[0] / largest
    return prices


def _alike(some: Sequence[_Point], others: Sequence[_Point]) -> Array:
    """[some, other] → the correlation of what their prices leave over."""

    def pairs(values: Callable[[_Point], object]) -> tuple[NDArray[Any], NDArray[Any]]:
        return np.array([values(a) for a in some])[:, None], np.array([values(b) for b in others])[None]

    kinds, other_kinds = pairs(lambda point: point.kind)
    ragged, other_ragged = pairs(lambda point: point.ragged)
    sizes, other_sizes = pairs(lambda point: point.sizes)
    away = ((sizes - other_sizes) ** 2).sum(2)
    away += _OTHER_BLOCKS**2 * (ragged != other_ragged).sum(2) + _OTHER_KIND**2 * (kinds != other_kinds)
    correlation: Array = np.exp(-np.sqrt(away) / _RANGE)
    return correlation


_IN_GROUPS = re.compile("depthwise|grouped", re.IGNORECASE)
_MAP = re.compile(r"\d+(x\d+)*")

Map = tuple[int, int, int]


@cache
def maps_of(key: str) -> tuple[list[Map], list[Map]]:
    """What a kernel's key says of the maps it reads and makes; constants are left out."""
    _, inputs, _, outputs, *_ = f"{key}   ".split(" ")
    return _maps(inputs), _maps(outputs)


def _maps(text: str) -> list[Map]:
    """Channels, height, width of every tensor of one picture; a vector's numbers are its channels."""
    found = []
    for operand in text.split(","):
        sizes = operand.rpartition(":")[2]
        if operand.startswith("*") or not _MAP.fullmatch(sizes):
            continue
        shape = [int(size) for size in sizes.split("x")]
        if len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
        shape += [1] * (3 - len(shape))
        found.append((math.prod(shape[:-2]), shape[-2], shape[-1]))
    return found
