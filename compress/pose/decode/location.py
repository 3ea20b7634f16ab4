"""Where in its cell a joint lies, for every decoder of heatmaps that has found the cell."""

import cv2
import numpy as np
from numpy.typing import NDArray

from compress.pose.codec import Locate

Floats = NDArray[np.float32]
Integers = NDArray[np.intp]


def located(maps_khw: Floats, map_n: Integers, y_n: Integers, x_n: Integers, locate: Locate, blur: int = 11) -> Floats:
    """x, y, heat [N,3] of cell (y, x) of map n, in cells: the middle of cell i is at i + 0.5.

    In the `middle` of the cell; a `quarter` of a cell toward the larger neighbour in each axis (between equal ones in
    the middle); or at the `peak` of the Gaussian through the cell and its neighbours, for maps trained on exact
    Gaussians (Zhang et al., "DARK", CVPR 2020). Beyond the border the cell itself stands for its neighbour; the peak
    then stays in the middle. A heat may be -inf, not NaN.

    `dark` and `udp` smooth the map with a Gaussian kernel of side `blur` (zeros beyond the border) and take one Newton
    step on its logarithm in both axes together: `dark` with differences over two cells, and only where two cells lie on
    every side of the cell (Zhang et al.'s code); `udp` with differences over one, heats within 0.001 to 50 and the
    border repeated (Huang et al.'s, as MMPose has it). Cells of -inf count as 0 there.
    """
    _, height, width = maps_khw.shape
    located_n3 = np.empty((len(map_n), 3), np.float32)
    located_n3[:, 0] = x_n + 0.5
    located_n3[:, 1] = y_n + 0.5
    located_n3[:, 2] = maps_khw[map_n, y_n, x_n]
    if locate in ("dark", "udp"):
        if len(map_n):
            located_n3[:, :2] += _newton(maps_khw, map_n, y_n, x_n, locate == "udp", blur)
    elif locate != "middle":
        right_n = maps_khw[map_n, y_n, np.minimum(x_n + 1, width - 1)]
        left_n = maps_khw[map_n, y_n, np.maximum(x_n - 1, 0)]
        below_n = maps_khw[map_n, np.minimum(y_n + 1, height - 1), x_n]
        above_n = maps_khw[map_n, np.maximum(y_n - 1, 0), x_n]
        if locate == "quarter":
            located_n3[:, 0] += _quarter(left_n, right_n)
            located_n3[:, 1] += _quarter(above_n, below_n)
        else:
            centre_n = located_n3[:, 2]
            inside_x, inside_y = (x_n > 0) & (x_n < width - 1), (y_n > 0) & (y_n < height - 1)
            located_n3[:, 0] += np.where(inside_x, _peak(left_n, centre_n, right_n), 0)
            located_n3[:, 1] += np.where(inside_y, _peak(above_n, centre_n, below_n), 0)
    return located_n3


def _quarter(before_n: Floats, after_n: Floats) -> Floats:
    """±0.25 toward the larger; compared, not subtracted, because two infinities have no difference."""
    return np.float32(0.25) * ((after_n > before_n).astype(np.float32) - (after_n < before_n))


def _peak(before_n: Floats, centre_n: Floats, after_n: Floats) -> Floats:
    """Offset of the top of the Gaussian through three neighbouring heats, within half a cell; 0 where there is none.

    A Gaussian's logarithm is a parabola. Heats of nothing and below count as a thousandth of the centre's.
    """
    floor_n = np.maximum(centre_n, 1e-6) * 1e-3
    before, centre, after = (np.log(np.maximum(heat, floor_n)) for heat in (before_n, centre_n, after_n))
    bend = 2 * centre - before - after
    safe = np.where(bend > 1e-6, bend, 1)
    return np.where(bend > 1e-6, np.clip((after - before) / (2 * safe), -0.5, 0.5), 0).astype(np.float32)


def _newton(maps_khw: Floats, map_n: Integers, y_n: Integers, x_n: Integers, udp: bool, blur: int) -> Floats:
    """Offsets [N,2] to the top of the parabola through the smoothed logarithm around each cell; 0 where it has none."""
    used, place_n = np.unique(map_n, return_inverse=True)
    logs = np.stack([_smoothed_log(maps_khw[index], udp, blur) for index in used])
    # Two more cells on every side, so that every neighbour is one; `dark` does not read them.
    logs = np.pad(logs, ((0, 0), (2, 2), (2, 2)), mode="edge")

    def at(right: int, down: int) -> Floats:
        found: Floats = logs[place_n, y_n + 2 + down, x_n + 2 + right].astype(np.float64)
        return found

    centre = at(0, 0)
    dx, dy = (at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2
    if udp:
        dxx, dyy = at(1, 0) - 2 * centre + at(-1, 0), at(0, 1) - 2 * centre + at(0, -1)
        mixed = at(1, 1) - at(1, 0) - at(0, 1) + 2 * centre - at(-1, 0) - at(0, -1) + at(-1, -1)
        dxx, dyy, dxy = dxx + np.finfo(np.float32).eps, dyy + np.finfo(np.float32).eps, mixed / 2
        inside = np.ones(len(centre), np.bool_)
    else:
        dxx, dyy = (at(2, 0) - 2 * centre + at(-2, 0)) / 4, (at(0, 2) - 2 * centre + at(0, -2)) / 4
        dxy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
        height, width = maps_khw.shape[1:]
        inside = (x_n > 1) & (x_n < width - 2) & (y_n > 1) & (y_n < height - 2)
    determinant = dxx * dyy - dxy**2
    solvable = inside & (determinant != 0)
    safe = np.where(solvable, determinant, 1)
    offset_n2 = -np.stack([dyy * dx - dxy * dy, dxx * dy - dxy * dx], axis=1) / safe[:, None]
    return np.where(solvable[:, None] & np.isfinite(offset_n2), offset_n2, 0).astype(np.float32)


def _smoothed_log(map_hw: Floats, udp: bool, blur: int) -> Floats:
    """The logarithm of the map after a Gaussian kernel whose largest value is the map's again."""
    heat = np.where(np.isfinite(map_hw), map_hw, np.float32(0))
    smooth = cv2.GaussianBlur(heat, (blur, blur), 0, borderType=cv2.BORDER_CONSTANT)
    top = smooth.max()
    if top > 0:
        smooth *= heat.max() / top
    found: Floats = np.log(np.clip(smooth, 1e-3, 50) if udp else np.maximum(smooth, 1e-10))
    return found
