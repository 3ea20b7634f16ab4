"""What a network with part affinity fields should answer.

Sources: Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields" (2017, arXiv:1611.08050),
section 2; Osokin, "Lightweight OpenPose" (2018, arXiv:1811.12004) and its code (datasets/coco.py).

Cell i is sampled at its middle, input pixel i·stride + (stride - 1) / 2, with pixel centres at whole numbers as
everywhere in `data`; a mirrored picture then has exactly the mirrored maps. The code does so for the parts, but draws
the fields half a cell off. Where people overlap it adds their Gaussians up to 1 and keeps the last field; we follow the
paper: the largest Gaussian, which keeps near joints apart, and the mean of the fields.
"""

import numpy as np

from compress.data.limbs import PartLayout
from compress.data.picture import Floats, Mask

_SMALLEST = 0.01  # a Gaussian's values below it are 0 (Lightweight OpenPose's code)
_SHORTEST_PX = 1e-6  # a limb below it has no direction


def part_maps(
    keypoints_pk3: Floats,
    layout: PartLayout,
    input_hw: tuple[int, int],
    stride: int,
    sigma_px: float = 7.0,
    half_width: float = 1.0,
) -> Floats:
    """float32 [K+1+2L, h, w]: heatmaps of the parts, background, then x and y of each limb's field.

    keypoints_pk3: the data set's joints [P, J, 3] in input pixels; hidden ones (v = 1) count like visible ones.
    sigma_px: of the Gaussians, in input pixels. half_width: of a limb, in cells. Background: 1 - the largest heat.
    Field: the limb's unit vector where a cell is within half_width of its line and within its box grown by half_width.
    """
    parts_pk2, labelled_pk = _parts(keypoints_pk3, layout)
    x_w, y_h = (np.arange(size // stride, dtype=np.float32) * stride + (stride - 1) / 2 for size in input_hw[::-1])
    parts = len(layout.names)
    maps = np.empty((layout.channels, len(y_h), len(x_w)), np.float32)
    maps[:parts] = _heatmaps(parts_pk2, labelled_pk, x_w, y_h, sigma_px)
    maps[parts] = 1 - maps[:parts].max(axis=0)
    ends = np.array(layout.limbs)
    labelled_pl = labelled_pk[:, ends[:, 0]] & labelled_pk[:, ends[:, 1]]
    maps[parts + 1 :] = _fields(parts_pk2[:, ends], labelled_pl, x_w, y_h, half_width * stride)
    return maps


def _parts(keypoints_pk3: Floats, layout: PartLayout) -> tuple[Floats, Mask]:
    """Place [P, K, 2] in input pixels of every part, and whether all its joints are labelled, [P, K]."""
    joints = [keypoints_pk3[:, list(source)] for source in layout.sources]
    places = np.stack([joint_ps3[:, :, :2].mean(axis=1) for joint_ps3 in joints], axis=1)
    return places, np.stack([(joint_ps3[:, :, 2] > 0).all(axis=1) for joint_ps3 in joints], axis=1)


def _heatmaps(parts_pk2: Floats, labelled_pk: Mask, x_w: Floats, y_h: Floats, sigma_px: float) -> Floats:
    """[K, h, w]: exp(-d²/2σ²), the largest where people overlap."""
    columns_pkw = np.exp(-((x_w - parts_pk2[:, :, :1]) ** 2) / (2 * sigma_px**2)) * labelled_pk[:, :, None]
    rows_pkh = np.exp(-((y_h - parts_pk2[:, :, 1:]) ** 2) / (2 * sigma_px**2))
    heat_khw: Floats = (rows_pkh[..., :, None] * columns_pkw[..., None, :]).max(axis=0, initial=0)
    heat_khw[heat_khw < _SMALLEST] = 0
    return heat_khw


def _fields(ends_pl22: Floats, labelled_pl: Mask, x_w: Floats, y_h: Floats, reach_px: float) -> Floats:
    """[2L, h, w]: unit vectors from the first to the second end, the mean where people overlap."""
    start_pl2, step_pl2 = ends_pl22[:, :, 0], ends_pl22[:, :, 1] - ends_pl22[:, :, 0]
    length_pl = np.hypot(step_pl2[..., 0], step_pl2[..., 1])
    unit_pl2 = step_pl2 / np.maximum(length_pl, _SHORTEST_PX)[..., None]
    low_pl2, high_pl2 = ends_pl22.min(axis=2) - reach_px, ends_pl22.max(axis=2) + reach_px
    dx_plw, dy_plh = x_w - start_pl2[..., :1], y_h - start_pl2[..., 1:]
    away_plhw = (dx_plw * unit_pl2[..., 1:])[..., None, :] - (dy_plh * unit_pl2[..., :1])[..., :, None]
    on_plhw = np.abs(away_plhw, out=away_plhw) <= reach_px
    on_plhw &= ((x_w >= low_pl2[..., :1]) & (x_w <= high_pl2[..., :1]))[..., None, :]
    drawn_pl1 = (labelled_pl & (length_pl >= _SHORTEST_PX))[..., None]
    on_plhw &= ((y_h >= low_pl2[..., 1:]) & (y_h <= high_pl2[..., 1:]) & drawn_pl1)[..., :, None]
    sum_l2hw = np.einsum("plhw,plc->lchw", on_plhw.astype(np.float32), unit_pl2)
    mean_l2hw: Floats = sum_l2hw / np.maximum(on_plhw.sum(axis=0), 1)[:, None]
    return mean_l2hw.reshape(-1, len(y_h), len(x_w))
