"""From one person's vectors of bins to the person's joints: the decoding of SimCC networks.

Sources: Li et al., "SimCC" (ECCV 2022, arXiv:2107.03332); Jiang et al., "RTMPose" (2023, arXiv:2303.07399) and its code
(mmpose, codecs/simcc_label.py, coord_cls_heads/rtmcc_head.py).

merge_outputs → vectors of a batch, flipped pass included
decode        → joints, in bins

What follows is that of heatmaps: `to_picture` and `person_scores` of compress.pose.decode.top_down.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from compress.data.keypoints import KeypointSet
from compress.errors import DataError
from compress.pose.decode.location import Floats


def merge_outputs(
    outputs: Sequence[Tensor], flipped: Sequence[Tensor] | None, keypoints: KeypointSet
) -> tuple[Floats, Floats]:
    """Vectors along x [B,K,X] and along y [B,K,Y] of a batch: the mean of both passes where there are two.

    outputs: the network's. flipped: its outputs for the mirrored inputs, as they came: the bins along x are reversed,
    and left and right joints change places. DataError if they do not fit the joints or each other.
    """
    x_bkn, y_bkn = _vectors(outputs, keypoints)
    if flipped is None:
        return x_bkn, y_bkn
    other_x, other_y = (vectors[:, list(keypoints.flip_index)] for vectors in _vectors(flipped, keypoints))
    if (other_x.shape, other_y.shape) != (x_bkn.shape, y_bkn.shape):
        raise DataError(
            "both passes must be of the same pictures",
            place="SimCC decoding",
            value=(x_bkn.shape, other_x.shape),
            remedy="pass the network's outputs for one batch and for the same batch mirrored",
        )
    half = np.float32(0.5)
    return half * (x_bkn + other_x[:, :, ::-1]), half * (y_bkn + other_y)


def decode(x_bkn: ArrayLike, y_bkn: ArrayLike) -> Floats:
    """x, y, score [B,K,3] of every joint: the largest bin along each axis, the first of equal ones.

    In bins: the middle of bin i is at i + 0.5. The score is the smaller of the two largest values, near 1 where the
    network is sure. As for heatmaps, a joint of score 0 or less has its place all the same, and no person's score
    counts it (mmpose puts it at bin -1). A bin that is not finite is never chosen before one that is; a vector of
    nothing else gives its first bin with score 0.
    """
    places, scores = [], []
    for given in (x_bkn, y_bkn):
        vectors = np.asarray(given, np.float32)
        vectors = np.where(np.isfinite(vectors), vectors, np.float32(-np.inf))
        places.append(vectors.argmax(axis=2) + 0.5)
        scores.append(vectors.max(axis=2))
    score_bk = np.minimum(*scores)
    return np.stack([*places, np.where(np.isneginf(score_bk), 0, score_bk)], axis=2).astype(np.float32)


def _vectors(outputs: Sequence[Tensor], keypoints: KeypointSet) -> tuple[Floats, Floats]:
    """The two outputs in float32."""
    shapes = [tuple(output.shape) for output in outputs]
    if len(shapes) != 2 or any(len(shape) != 3 or shape[1] != len(keypoints) for shape in shapes):
        raise DataError(
            f"the outputs must be two of [batch, {len(keypoints)}, bins]",
            place="SimCC decoding",
            value=shapes,
            remedy=f"use a network with a SimCC head for {keypoints.name}",
        )
    x_bkn, y_bkn = (output.detach().float().cpu().numpy() for output in outputs)
    return x_bkn, y_bkn
