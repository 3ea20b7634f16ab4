"""One pose per person: what a detector found twice is dropped or scored down.

Sources: HRNet's code (lib/nms/nms.py: OKS, hard and soft) and Niu et al., "Designing Compact Convolutional Filters for
Lightweight Human Pose Estimation" (MobilePoseNet, 2021, section 3.3: parallel).

oks_matrix   → how alike any two poses are
hard_nms     → drops every pose too like a better one
soft_nms     → lowers scores, one better pose after the other
parallel_nms → lowers all scores at once

The last three look at the people of one picture. They return the indices of the poses that stay, in the order in which
they are taken, and their scores then. Of equal scores the first is the better. All raise DataError for numbers that
are not finite, areas and scores below 0, and arrays that do not fit each other.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compress.errors import DataError
from compress.pose.decode.poses import Poses

Floats = NDArray[np.float32]
Integers = NDArray[np.intp]

_EPS = float(np.spacing(1.0))  # keeps boxes without area comparable, as in HRNet's code
_BLOCK = 160_000  # pairs of joints looked at together; the two arrays of 640 KB stay in the cache


def oks_matrix(keypoints_pk3: ArrayLike, areas_p: ArrayLike, sigmas: Sequence[float]) -> Floats:
    """Object keypoint similarity [P,P] of any two poses, 0..1, symmetric.

    Where two poses are d apart at joint k, e_k = d² / ((2σ_k)² · ((area_i + area_j) / 2 + ε) · 2); OKS is the mean of
    exp(-e_k) over all joints, whatever their scores.
    areas_p: square pixels, of the boxes the poses were found in. (HRNet's code takes those of the enlarged cut-outs,
    by which more poses are alike.)
    """
    keypoints, area_p, sigma_k = (np.asarray(array, np.float32) for array in (keypoints_pk3, areas_p, sigmas))
    people = len(area_p)
    if keypoints.shape != (people, len(sigma_k), 3):
        raise _refused("keypoints must be [P,K,3] for P areas and K sigmas", (keypoints.shape, people, len(sigma_k)))
    if not (np.isfinite(keypoints).all() and np.isfinite(area_p).all() and area_p.min(initial=0) >= 0):
        raise _refused("joints and areas must be finite, areas not negative", None)
    x_kp, y_kp = np.ascontiguousarray(keypoints.T[:2])
    weight_k11 = (-1 / (4 * sigma_k**2))[:, None, None]
    oks_pp = np.empty((people, people), np.float32)
    rows = max(1, _BLOCK // max(1, keypoints[:, :, 0].size))
    scratch = np.empty((2, rows * keypoints[:, :, 0].size), np.float32)
    for begin in range(0, people, rows):
        block, rest = slice(begin, begin + rows), slice(begin, people)
        scale_mn = 1 / (area_p[block, None] + area_p[rest] + np.float32(2 * _EPS))
        e_kmn, y_kmn = scratch[:, : len(sigma_k) * scale_mn.size].reshape(2, len(sigma_k), *scale_mn.shape)
        with np.errstate(over="ignore"):  # too far apart for float32 is infinitely far
            np.square(np.subtract(x_kp[:, block, None], x_kp[:, None, rest], out=e_kmn), out=e_kmn)
            np.square(np.subtract(y_kp[:, block, None], y_kp[:, None, rest], out=y_kmn), out=y_kmn)
            e_kmn += y_kmn
            e_kmn *= scale_mn
            e_kmn *= weight_k11
        oks_pp[block, rest] = np.exp(e_kmn, out=e_kmn).mean(axis=0)
        oks_pp[rest, block] = oks_pp[block, rest].T
    return oks_pp


def hard_nms(
    poses: Poses, areas_p: ArrayLike, sigmas: Sequence[float], threshold: float = 0.9
) -> tuple[Integers, Floats]:
    """Every pose whose OKS with each better pose that stays is at most threshold; scores as they were."""
    _check_settings(threshold=threshold)
    order_p, scores_p, oks_pp = _best_first(poses, areas_p, sigmas)
    apart_pp = oks_pp <= threshold
    stays_p = np.ones(len(order_p), np.bool_)
    for pose in range(len(order_p)):
        if stays_p[pose]:
            stays_p[pose + 1 :] &= apart_pp[pose, pose + 1 :]
    return order_p[stays_p], scores_p[stays_p]


def soft_nms(
    poses: Poses,
    areas_p: ArrayLike,
    sigmas: Sequence[float],
    threshold: float = 0.9,
    kind: Literal["gaussian", "linear"] = "gaussian",
    max_people: int = 20,
) -> tuple[Integers, Floats]:
    """Takes the best pose, lowers the scores of the others by their likeness to it, and so on up to max_people.

    Scores are multiplied by exp(-OKS² / threshold) (gaussian), or by 1 - OKS where OKS is at least threshold (linear).
    The scores returned are those at which the poses were taken; HRNet's code then reports the original ones.
    """
    _check_settings(threshold=threshold, kind=kind, max_people=max_people)
    order_p, scores_p, oks_pp = _best_first(poses, areas_p, sigmas)
    if kind == "gaussian":
        factor_pp = np.exp(-np.square(oks_pp) / threshold)
    else:
        factor_pp = np.where(oks_pp >= threshold, 1 - oks_pp, 1)
    open_p = np.ones(len(order_p), np.bool_)
    taken_n = np.empty(min(max_people, len(order_p)), np.intp)
    for place in range(len(taken_n)):
        best = np.where(open_p, scores_p, -1).argmax()
        taken_n[place] = best
        open_p[best] = False
        scores_p[open_p] *= factor_pp[best, open_p]
    return order_p[taken_n], scores_p[taken_n]


def parallel_nms(
    poses: Poses, areas_p: ArrayLike, sigmas: Sequence[float], max_people: int = 20
) -> tuple[Integers, Floats]:
    """The max_people best after every score was multiplied by its decay.

    decay_j = min over better poses i of (1 - OKS_ij) / (1 - o_i), with o_i the largest OKS of i with a pose better than
    itself: what is suppressed hardly suppresses. A pose equal to a better one (o_i = 1) suppresses only its equals.
    Corrected: algorithm 1 sets OKS_ij = 1 for i ≥ j, by which every decay would be 0; here they are 0, so that only
    better poses count. Its OKS divides by the areas' product, without sigmas, which has no unit that fits; here it is
    the usual one. The paper's scores are `top_down.person_scores` with threshold 0.1.
    """
    _check_settings(max_people=max_people)
    order_p, scores_p, oks_pp = _best_first(poses, areas_p, sigmas)
    apart_pp = 1 - np.triu(oks_pp, 1)
    own_p = apart_pp.min(axis=0, initial=1)
    apart_pp /= np.maximum(own_p, np.finfo(np.float32).tiny)[:, None]
    scores_p *= apart_pp.min(axis=0, initial=1)
    best_n = np.argsort(-scores_p, kind="stable")[:max_people]
    return order_p[best_n], scores_p[best_n]


def _best_first(poses: Poses, areas_p: ArrayLike, sigmas: Sequence[float]) -> tuple[Integers, Floats, Floats]:
    """The poses' indices by falling score, their scores (a copy) and OKS [P,P], all in that order."""
    scores_p, area_p = np.asarray(poses.scores_p, np.float32), np.asarray(areas_p, np.float32)
    if not len(scores_p) == len(area_p) == len(poses.keypoints_pk3):
        sizes = len(poses.keypoints_pk3), len(scores_p), len(area_p)
        raise _refused("there must be one score and one area per pose", sizes)
    if not (np.isfinite(scores_p).all() and scores_p.min(initial=0) >= 0):
        raise _refused("scores must be finite and not negative", None)
    order_p = np.argsort(-scores_p, kind="stable")
    return order_p, scores_p[order_p], oks_matrix(poses.keypoints_pk3[order_p], area_p[order_p], sigmas)


def _check_settings(threshold: float = 1.0, kind: str = "gaussian", max_people: int = 1) -> None:
    for value, good, rule in (
        (threshold, 0 < threshold <= 1, "threshold must be above 0 and at most 1"),
        (kind, kind in ("gaussian", "linear"), "kind must be gaussian or linear"),
        (max_people, max_people >= 1, "max_people must be at least 1"),
    ):
        if not good:
            raise _refused(rule, value, remedy="change it")


def _refused(rule: str, value: object, remedy: str = "pass the decoder's poses and their boxes' areas") -> DataError:
    return DataError(rule, place="pose NMS", value=value, remedy=remedy)
