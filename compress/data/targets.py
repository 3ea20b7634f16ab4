"""What the network should answer: heatmaps, the places where tags are read, and where the loss must not look.

Formulas of HigherHRNet's official code (lib/dataset/target_generators). Which cell a joint belongs to says the codec.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from compress.data.picture import Floats
from compress.pose.codec import Codec


def gaussian_heatmaps(keypoints_pk3: Floats, input_hw: tuple[int, int], stride: int, codec: Codec) -> Floats:
    """float32 [K, h, w]: exp(-d²/2σ²) around every labelled joint, the largest where persons meet.

    keypoints_pk3: [P, K, 3] in input pixels. σ and d in heatmap cells; d is from the joint's cell, or, with targets
    `joint`, from the joint itself (Zhang et al., "DARK", CVPR 2020: without the rounding a small map keeps where in its
    cell a joint lies). Zero outside the square of 6σ+3 cells around the cell.
    """
    height, width = input_hw[0] // stride, input_hw[1] // stride
    heatmaps = np.zeros((keypoints_pk3.shape[1], height, width), np.float32)
    for person in keypoints_pk3:
        u, v, x, y, labelled = _cells(person, input_hw, (height, width), codec)
        if codec.targets == "joint":
            columns, rows = _exact_bells(u, x, width, codec.sigma), _exact_bells(v, y, height, codec.sigma)
        else:
            columns, rows = _bells(width, codec.sigma)[x], _bells(height, codec.sigma)[y]
        bells = rows[:, :, None] * columns[:, None, :]
        np.maximum(heatmaps, bells, out=heatmaps, where=labelled[:, None, None])
    return heatmaps


def joint_locations(
    keypoints_pk3: Floats, input_hw: tuple[int, int], stride: int, codec: Codec, max_people: int = 30
) -> npt.NDArray[np.int64]:
    """int64 [max_people, K, 2]: a joint's flat index in the tag maps [K, h, w], and 1 where it is labelled.

    Everything else is (0, 0). Persons without a joint in the maps take no row; persons beyond max_people are left out.
    """
    locations = np.zeros((max_people, keypoints_pk3.shape[1], 2), np.int64)
    height, width = input_hw[0] // stride, input_hw[1] // stride
    _, _, x, y, labelled = _cells(keypoints_pk3, input_hw, (height, width), codec)
    kept = np.flatnonzero(labelled.any(axis=1))[:max_people]
    flat = (np.arange(keypoints_pk3.shape[1]) * height + y[kept]) * width + x[kept]
    locations[: len(kept), :, 0] = np.where(labelled[kept], flat, 0)
    locations[: len(kept), :, 1] = labelled[kept]
    return locations


def _cells(
    keypoints: Floats, input_hw: tuple[int, int], map_hw: tuple[int, int], codec: Codec
) -> tuple[Floats, Floats, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Where the joint lies between the cells' middles, its column and row (0 where unlabelled), and whether it is
    labelled and on the map."""
    stride_x, stride_y = codec.strides_xy(input_hw, map_hw)
    u, v = codec.to_cells(keypoints[..., 0], stride_x), codec.to_cells(keypoints[..., 1], stride_y)
    x, y = np.floor(u + 0.5), np.floor(v + 0.5)
    labelled = (keypoints[..., 2] > 0) & (x >= 0) & (y >= 0) & (x < map_hw[1]) & (y < map_hw[0])
    return u, v, np.where(labelled, x, 0).astype(np.int64), np.where(labelled, y, 0).astype(np.int64), labelled


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
