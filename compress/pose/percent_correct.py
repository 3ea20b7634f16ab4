"""Share of joints that lie near enough to where they are labelled: MPII's PCKh and LSP's PCK.

PCK: Yang and Ramanan, "Articulated human detection with flexible mixtures of parts" (TPAMI 2013). PCKh: Andriluka et
al., "2D human pose estimation: new benchmark" (CVPR 2014), averaged as HRNet's code does (lib/dataset/mpii.py).

pckh           → nearness in head sizes
pck            → nearness in torso diameters, or lengths of one's own
torso_lengths  → those diameters
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compress.data.keypoints import MPII, KeypointSet
from compress.errors import DataError
from compress.pose.bootstrap import resampled, standard_error

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

THRESHOLDS = tuple(step / 100 for step in range(51))
"""Where curves are sampled, in reference lengths."""


@dataclass(frozen=True)
class PercentCorrect:
    """Shares of labelled joints that were found, each 0..1, NaN where none is labelled.

    mean: over all scored joints of all persons, so a joint weighs by how often it is labelled. joints: by name, those
    too that the mean leaves out. curve: the mean at each of THRESHOLDS. area: mean of the curve, the area under it
    normalised to 1. samples: the mean on bootstrap samples of the persons, see compress.pose.bootstrap; NaN where one
    holds no label. standard_error: of the mean, their spread; NaN without samples. persons: how many were scored.
    left_out: how many were not, for want of a reference length.
    """

    mean: float
    joints: dict[str, float]
    curve: tuple[float, ...]
    area: float
    samples: tuple[float, ...]
    persons: int
    left_out: int

    @property
    def standard_error(self) -> float:
        """See compress.pose.bootstrap.standard_error."""
        return standard_error(self.samples)


def pckh(
    predicted_pk2: ArrayLike,
    truth_pk2: ArrayLike,
    visible_pk: ArrayLike,
    head_sizes_p: ArrayLike,
    *,
    threshold: float = 0.5,
    resamples: int = 0,
) -> PercentCorrect:
    """MPII's PCKh: a labelled joint is found when it is at most `threshold` head sizes away from its label.

    predicted_pk2, truth_pk2: pixels, K the 16 joints of MPII; a predicted NaN was not found. visible_pk: above 0 where
    labelled. head_sizes_p: 0.6 of the head box's diagonal (MpiiPeople.head_sizes). The mean and the curve leave out
    pelvis and thorax. DataError for shapes or numbers that do not fit, and for a head size that is not above 0.
    """
    lengths_p = np.asarray(head_sizes_p, np.float64)
    bad = np.flatnonzero(~_usable(lengths_p))
    if bad.size:
        raise DataError(
            "a head size must be finite and above 0",
            place=f"PCKh, person {bad[0]}",
            value=float(lengths_p.flat[bad[0]]),
            remedy="correct the head box",
        )
    scored_k = np.array([name not in ("pelvis", "thorax") for name in MPII.names])
    return _percent_correct(
        predicted_pk2, truth_pk2, visible_pk, lengths_p, MPII, scored_k, threshold=threshold, resamples=resamples
    )


def pck(
    predicted_pk2: ArrayLike,
    truth_pk2: ArrayLike,
    labelled_pk: ArrayLike,
    keypoints: KeypointSet,
    lengths_p: ArrayLike | None = None,
    *,
    threshold: float = 0.2,
    resamples: int = 0,
) -> PercentCorrect:
    """LSP's PCK: a labelled joint is found when it is at most `threshold` reference lengths away from its label.

    predicted_pk2, truth_pk2: pixels; a predicted NaN was not found. labelled_pk: above 0 where labelled. lengths_p: one
    reference per person in pixels, by default `torso_lengths`. Persons whose reference is not finite and above 0 are
    not scored but counted in `left_out`. DataError for shapes or numbers that do not fit.
    """
    if lengths_p is None:
        lengths_p = torso_lengths(truth_pk2, labelled_pk, keypoints)
    scored_k = np.ones(len(keypoints), np.bool_)
    return _percent_correct(
        predicted_pk2,
        truth_pk2,
        labelled_pk,
        np.asarray(lengths_p, np.float64),
        keypoints,
        scored_k,
        threshold=threshold,
        resamples=resamples,
    )


def torso_lengths(truth_pk2: ArrayLike, labelled_pk: ArrayLike, keypoints: KeypointSet) -> Array:
    """float64 [P]: left shoulder to right hip in pixels, NaN where either is not labelled.

    DataError if the joints have no such names, or for shapes that do not fit.
    """
    ends = ("left_shoulder", "right_hip")
    if not set(ends) <= set(keypoints.names):
        raise DataError(
            "a torso diameter needs a left_shoulder and a right_hip",
            place=f"PCK, joints of {keypoints.name}",
            value=keypoints.names,
            remedy="give reference lengths",
        )
    truth_pk2, labelled_pk = _labels(truth_pk2, labelled_pk, keypoints)
    shoulder, hip = (keypoints.names.index(name) for name in ends)
    lengths_p = _distances(truth_pk2[:, shoulder], truth_pk2[:, hip])
    return np.where(labelled_pk[:, shoulder] & labelled_pk[:, hip], lengths_p, np.nan)


def _percent_correct(
    predicted_pk2: ArrayLike,
    truth_pk2: ArrayLike,
    labelled_pk: ArrayLike,
    lengths_p: Array,
    keypoints: KeypointSet,
    scored_k: Flags,
    *,
    threshold: float,
    resamples: int,
) -> PercentCorrect:
    """scored_k: the joints of the mean and the curve."""
    truth_pk2, labelled_pk = _labels(truth_pk2, labelled_pk, keypoints)
    predicted_pk2 = np.asarray(predicted_pk2, np.float64)
    _require_shape("predicted joints", predicted_pk2, truth_pk2.shape)
    _require_shape("reference lengths", lengths_p, truth_pk2.shape[:1])
    if np.isinf(predicted_pk2).any():
        raise DataError(
            "predicted joints must be finite, or NaN where none was found",
            place=_PLACE,
            value=predicted_pk2[np.isinf(predicted_pk2)][0],
            remedy="look for an overflow in the network",
        )
    kept_p = _usable(lengths_p)
    labelled_pk = labelled_pk[kept_p]
    ratio_pk = _distances(predicted_pk2[kept_p], truth_pk2[kept_p]) / lengths_p[kept_p, None]
    hit_pk = labelled_pk & (ratio_pk <= threshold)
    curve = tuple(_share(labelled_pk & (ratio_pk <= t), labelled_pk, scored_k) for t in THRESHOLDS)

    def of_persons(drawn_p: NDArray[np.int64]) -> float:
        return _share(hit_pk[drawn_p], labelled_pk[drawn_p], scored_k)

    return PercentCorrect(
        mean=_share(hit_pk, labelled_pk, scored_k),
        joints={
            name: _share(hit_pk, labelled_pk, np.arange(len(keypoints)) == joint)
            for joint, name in enumerate(keypoints.names)
        },
        curve=curve,
        area=float(np.mean(curve)),
        samples=resampled(of_persons, len(hit_pk), resamples),
        persons=int(kept_p.sum()),
        left_out=int((~kept_p).sum()),
    )


def _share(hit_pk: Flags, labelled_pk: Flags, joints_k: Flags) -> float:
    """Found labels as a share of all of them, over these joints; NaN without labels."""
    labels = labelled_pk[:, joints_k].sum()
    return float(hit_pk[:, joints_k].sum() / labels) if labels else float("nan")


def _labels(truth_pk2: ArrayLike, labelled_pk: ArrayLike, keypoints: KeypointSet) -> tuple[Array, Flags]:
    """Both as arrays that fit each other; what is not labelled may be anything and becomes 0."""
    truth_pk2, flags_pk = np.asarray(truth_pk2, np.float64), np.asarray(labelled_pk) > 0
    _require_shape("labelled joints", truth_pk2, (*truth_pk2.shape[:1], len(keypoints), 2))
    _require_shape("labels", flags_pk, truth_pk2.shape[:2])
    lost_pk = flags_pk & ~np.isfinite(truth_pk2).all(2)
    if lost_pk.any():
        person, joint = np.argwhere(lost_pk)[0]
        raise DataError(
            "a labelled joint must be finite",
            place=f"{_PLACE}, person {person}, {keypoints.names[joint]}",
            value=truth_pk2[person, joint].tolist(),
            remedy="correct it or take its label away",
        )
    return np.where(flags_pk[..., None], truth_pk2, 0), flags_pk


def _require_shape(what: str, array: NDArray[np.generic], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise DataError(
            f"{what} must have the shape {list(shape)}",
            place=_PLACE,
            value=list(array.shape),
            remedy="give one row per person, in one order everywhere",
        )


_PLACE = "share of correct joints"


def _usable(lengths_p: Array) -> Flags:
    return np.isfinite(lengths_p) & (lengths_p > 0)


def _distances(a_n2: Array, b_n2: Array) -> Array:
    """Euclidean, over the last axis."""
    return np.asarray(np.hypot(a_n2[..., 0] - b_n2[..., 0], a_n2[..., 1] - b_n2[..., 1]))
