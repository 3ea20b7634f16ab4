"""Likeness of poses and their suppression as the formulas read, in loops: what the fast ones are compared with."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def plain_oks(one: Array, other: Array, area_one: float, area_other: float, sigmas: Sequence[float]) -> float:
    total = 0.0
    for (x, y, _), (u, v, _), sigma in zip(one.tolist(), other.tolist(), sigmas, strict=True):
        squared = (x - u) ** 2 + (y - v) ** 2
        total += math.exp(-squared / ((2 * sigma) ** 2 * ((area_one + area_other) / 2 + np.spacing(1)) * 2))
    return total / len(sigmas)


def plain_order(scores: Array) -> list[int]:
    return sorted(range(len(scores)), key=lambda pose: -scores[pose])


def plain_hard(
    poses: Array, scores: Array, areas: Array, sigmas: Sequence[float], threshold: float
) -> tuple[list[int], list[float]]:
    kept: list[int] = []
    for pose in plain_order(scores):
        if all(plain_oks(poses[k], poses[pose], areas[k], areas[pose], sigmas) <= threshold for k in kept):
            kept.append(pose)
    return kept, [scores[pose] for pose in kept]


def plain_soft(
    poses: Array, scores: Array, areas: Array, sigmas: Sequence[float], threshold: float, kind: str, max_people: int
) -> tuple[list[int], list[float]]:
    left = [(pose, float(scores[pose])) for pose in plain_order(scores)]
    taken = []
    while left and len(taken) < max_people:
        best = max(left, key=lambda entry: entry[1])
        taken.append(best)
        lowered = []
        for pose, score in left:
            if pose == best[0]:
                continue
            oks = plain_oks(poses[best[0]], poses[pose], areas[best[0]], areas[pose], sigmas)
            if kind == "gaussian":
                score *= math.exp(-(oks**2) / threshold)
            elif oks >= threshold:
                score *= 1 - oks
            lowered.append((pose, score))
        left = lowered
    return [pose for pose, _ in taken], [score for _, score in taken]


def plain_parallel(
    poses: Array, scores: Array, areas: Array, sigmas: Sequence[float], max_people: int
) -> tuple[list[int], list[float]]:
    order = plain_order(scores)

    def oks(i: int, j: int) -> float:
        return plain_oks(poses[order[i]], poses[order[j]], areas[order[i]], areas[order[j]], sigmas)

    alike = [[oks(i, j) for i in range(j)] for j in range(len(order))]  # alike[j][i]: j with each better i
    decayed = []
    for j, pose in enumerate(order):
        decay = 1.0
        for i in range(j):
            own = max(alike[i], default=0.0)
            if own < 1:
                decay = min(decay, (1 - alike[j][i]) / (1 - own))
        decayed.append((pose, scores[pose] * decay))
    best = sorted(decayed, key=lambda entry: -entry[1])[:max_people]
    return [pose for pose, _ in best], [score for _, score in best]
