"""From the heatmaps of one person's cut-out to the person's joints: the decoding of top-down networks.

Sources: Xiao, Wu, Wei, "Simple Baselines" (2018, arXiv:1804.06208); Sun et al., "HRNet" (2019, arXiv:1902.09212) and
its code (lib/core/inference.py, lib/core/function.py, lib/dataset/coco.py).

merge_outputs → heatmaps of a batch, flipped pass included
decode        → joints, in cells of the map
to_picture    → joints, in pixels of the picture
person_scores → how sure a person is

Coordinates of decoded joints are continuous: the middle of cell i is at i + 0.5. Where that is in the network's input
says the codec.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike

from compress.data.keypoints import KeypointSet
from compress.errors import DataError
from compress.pose.codec import Locate
from compress.pose.decode.location import Floats, located


def merge_outputs(
    outputs_bkhw: torch.Tensor, flipped_bkhw: torch.Tensor | None, keypoints: KeypointSet, *, shift: bool = False
) -> Floats:
    """Heatmaps [B,K,h,w] of a batch: the mean of both passes where there are two.

    flipped_bkhw: the same network's outputs for the mirrored inputs, as they came. shift: turned back, they move right
    by a cell, the first column standing for what comes in (HRNet's SHIFT_HEATMAP): a joint at x is at W - 1 - x in the
    mirrored input, so its cell int(x / s + 0.5) comes back one too far left. Targets at int(x / s) need none. DataError
    if the outputs do not fit the joints or each other.
    """
    merged = _heatmaps(outputs_bkhw, keypoints)
    if flipped_bkhw is None:
        return merged.numpy()
    mirrored = _heatmaps(flipped_bkhw, keypoints).flip(-1)[:, list(keypoints.flip_index)]
    if mirrored.shape != merged.shape:
        raise DataError(
            "both passes must be of the same pictures",
            place="top-down decoding",
            value=(tuple(merged.shape), tuple(mirrored.shape)),
            remedy="pass the network's outputs for one batch and for the same batch mirrored",
        )
    if shift:
        mirrored = torch.cat([mirrored[..., :1], mirrored[..., :-1]], dim=-1)
    return ((merged + mirrored) / 2).numpy()


def decode(maps_bkhw: ArrayLike, locate: Locate, blur: int = 11) -> Floats:
    """x, y, score [B,K,3] of every joint, in cells of the map: where the map is largest, the first of equal cells.

    The score is the map's largest value. `quarter` moves only joints that are neither in the two first nor in the last
    row or column, HRNet's rule. blur: see `located`. A map without a positive value has a place for its joint all the
    same, its largest cell, and a score of 0 or less, which no person's score counts: HRNet's code puts such joints at
    cell (0, 0), MMPose's at (-1, -1), both of which are no place at all. A cell that is not finite is never chosen
    before one that is; a map of nothing else gives its first cell with score 0. The maps are read, never changed.
    DataError if they hold no cell.
    """
    maps_bkhw = _finite(maps_bkhw)
    batch, joints, height, width = maps_bkhw.shape
    maps_nhw = maps_bkhw.reshape(batch * joints, height, width)
    map_n = np.arange(batch * joints)
    y_n, x_n = np.divmod(maps_nhw.reshape(batch * joints, height * width).argmax(axis=1), width)
    found_n3 = located(maps_nhw, map_n, y_n, x_n, locate, blur)
    if locate == "quarter":
        outer_n = (x_n <= 1) | (x_n >= width - 1) | (y_n <= 1) | (y_n >= height - 1)
        found_n3[outer_n] = located(maps_nhw, map_n[outer_n], y_n[outer_n], x_n[outer_n], "middle")
    found_n3[np.isneginf(found_n3[:, 2]), 2] = 0
    return found_n3.reshape(batch, joints, 3)


def to_picture(
    keypoints_bk3: Floats,
    matrices_b23: ArrayLike,
    stride: float | tuple[float, float],
    offset_xy: tuple[float, float] = (0.0, 0.0),
) -> Floats:
    """The joints [B,K,3] in pixels of the original picture; every joint is placed, whatever its score.

    matrices_b23: for each person, the affine that took a point of the picture to the network's input, in pixels.
    stride: input pixels per cell, in both directions or in x and y. offset_xy: added there, in input pixels. DataError
    if there is not one matrix per person or one cannot be inverted.
    """
    matrices = np.asarray(matrices_b23, np.float64).reshape(-1, 2, 3)
    if len(matrices) != len(keypoints_bk3):
        raise DataError(
            "there must be one matrix per person",
            place="to_picture",
            value=(len(matrices), len(keypoints_bk3)),
            remedy="pass the matrices the inputs were cut out with",
        )
    try:
        inverse = np.linalg.inv(matrices[:, :, :2])
    except np.linalg.LinAlgError:
        raise DataError("every person's transform must be invertible", place="to_picture", remedy="check it") from None
    input_bk2 = keypoints_bk3[:, :, :2].astype(np.float64) * np.array(stride) + offset_xy
    moved = keypoints_bk3.copy()
    moved[:, :, :2] = (input_bk2 - matrices[:, None, :, 2]) @ inverse.transpose(0, 2, 1)
    return moved


def person_scores(keypoints_bk3: Floats, box_scores_b: ArrayLike, threshold: float = 0.2) -> Floats:
    """Score [B] of each person: the box's score × the mean of the joint scores above threshold; 0 where none is."""
    scores_bk = keypoints_bk3[:, :, 2]
    counted_bk = scores_bk > threshold
    mean_b = np.where(counted_bk, scores_bk, 0).sum(axis=1) / np.maximum(counted_bk.sum(axis=1), 1)
    return np.asarray(box_scores_b * mean_b, np.float32)


def _heatmaps(outputs: torch.Tensor, keypoints: KeypointSet) -> torch.Tensor:
    """The outputs as they are, on the CPU and in float32."""
    if outputs.ndim != 4 or outputs.shape[1] != len(keypoints):
        raise DataError(
            f"the output must be [batch, {len(keypoints)}, height, width]",
            place="top-down decoding",
            value=tuple(outputs.shape),
            remedy=f"use a network with a heatmap head for {keypoints.name}",
        )
    return outputs.detach().to("cpu", torch.float32)


def _finite(maps_bkhw: ArrayLike) -> Floats:
    """The maps as contiguous float32, -inf for what is not finite."""
    with np.errstate(over="ignore"):  # a double too large for float32 becomes inf
        maps = np.ascontiguousarray(maps_bkhw, np.float32)
    if maps.ndim != 4 or 0 in maps.shape[2:]:
        raise DataError(
            "heatmaps must be [batch, joints, height, width] with at least one cell",
            place="top-down decoding",
            value=maps.shape,
            remedy="pass what merge_outputs returns",
        )
    finite = np.isfinite(maps)
    return maps if finite.all() else np.where(finite, maps, np.float32(-np.inf))
