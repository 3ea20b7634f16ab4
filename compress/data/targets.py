"""What the network should answer: heatmaps, the places where tags are read, and where the loss must not look.

Formulas of HigherHRNet's official code (lib/dataset/target_generators). A joint at input pixel x belongs to heatmap
cell int(x / stride), the cell whose pixels contain it.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from compress.data.picture import Floats


def gaussian_heatmaps(
    keypoints_pk3: Floats, input_hw: tuple[int, int], stride: int, sigma: float, *, exact: bool = False
) -> Floats:
    """float32 [K, h, w]: exp(-d²/2σ²) around every labelled joint, the largest where persons meet.

    keypoints_pk3: [P, K, 3] in input pixels. sigma and d in heatmap cells; d is from the integer position of the
    joint's cell, or from the joint itself if exact (Zhang et al., "DARK", CVPR 2020: without the rounding a small map
    keeps where in its cell a joint lies). Zero outside the square of 6σ+3 cells around the cell.
    """
    height, width = input_hw[0] // stride, input_hw[1] // stride
    heatmaps = np.zeros((keypoints_pk3.shape[1], height, width), np.float32)
    for person in keypoints_pk3:
        x, y, labelled = _cells(person, stride, height, width)
        if exact:
            # Cell i spans [i, i+1) strides, so its middle is at i + 0.5.
            columns = _exact_bells(person[:, 0] / stride - 0.5, x, width, sigma)
            rows = _exact_bells(person[:, 1] / stride - 0.5, y, height, sigma)
        else:
            columns, rows = _bells(width, sigma)[x], _bells(height, sigma)[y]
        bells = rows[:, :, None] * columns[:, None, :]
        np.maximum(heatmaps, bells, out=heatmaps, where=labelled[:, None, None])
    return heatmaps


def joint_locations(
    keypoints_pk3: Floats, stride: int, height: int, width: int, max_people: int = 30
) -> npt.NDArray[np.int64]:
    """int64 [max_people, K, 2]: a joint's flat index in the tag maps [K, height, width], and 1 where it is labelled.

    Everything else is (0, 0). Persons without a joint in the maps take no row; persons beyond max_people are left out.
    """
    locations = np.zeros((max_people, keypoints_pk3.shape[1], 2), np.int64)
    x, y, labelled = _cells(keypoints_pk3, stride, height, width)
    kept = np.flatnonzero(labelled.any(axis=1))[:max_people]
    flat = (np.arange(keypoints_pk3.shape[1]) * height + y[kept]) * width + x[kept]
    locations[: len(kept), :, 0] = np.where(labelled[kept], flat, 0)
    locations[: len(kept), :, 1] = labelled[kept]
    return locations


def _cells(
    keypoints: Floats, stride: int, height: int, width: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Cell column, cell row (0 where unlabelled) and whether the joint is labelled and on the map."""
    x, y = keypoints[..., 0] / stride, keypoints[..., 1] / stride
    labelled = (keypoints[..., 2] > 0) & (x >= 0) & (y >= 0) & (x < width) & (y < height)
    return np.where(labelled, x, 0).astype(np.int64), np.where(labelled, y, 0).astype(np.int64), labelled


@cache
def _bells(size: int, sigma: float) -> Floats:
    """[size, size]: row c is the bell centred on c, cut to the patch. Two of them multiplied make the Gaussian."""
    distance = np.abs(np.arange(size)[:, None] - np.arange(size)[None, :])
    bells = np.exp(-(distance**2) / (2 * sigma**2))
    return np.where(distance <= int(3 * sigma + 1), bells, 0).astype(np.float32)


def _exact_bells(centre_n: Floats, cell_n: npt.NDArray[np.int64], size: int, sigma: float) -> Floats:
    """[N, size]: bells centred between cells, cut to the patch around the cell."""
    index = np.arange(size, dtype=np.float32)
    bells = np.exp(-((index - centre_n[:, None]) ** 2) / (2 * sigma**2))
    return np.where(np.abs(index - cell_n[:, None]) <= int(3 * sigma + 1), bells, 0).astype(np.float32)
