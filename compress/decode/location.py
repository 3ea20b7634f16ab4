"""Where in its cell a joint lies: what every decoder of heatmaps asks once it has found the cell."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.intp]

Locate = Literal["middle", "quarter", "peak"]


def located(maps_khw: Floats, map_n: Integers, y_n: Integers, x_n: Integers, locate: Locate) -> Floats:
    """x, y, heat [N,3] of cell (y, x) of map n, in cells: the middle of cell i is at i + 0.5.

    In the `middle` of the cell; a `quarter` of a cell toward the larger neighbour in each axis (between equal ones in
    the middle); or at the `peak` of the Gaussian through the cell and its neighbours, for maps trained on exact
    Gaussians (Zhang et al., "DARK", CVPR 2020). Beyond the border the cell itself stands for its neighbour; the peak
    then stays in the middle. A heat may be -inf, not NaN.
    """
    _, height, width = maps_khw.shape
    located_n3 = np.empty((len(map_n), 3), np.float32)
    located_n3[:, 0] = x_n + 0.5
    located_n3[:, 1] = y_n + 0.5
    located_n3[:, 2] = maps_khw[map_n, y_n, x_n]
    if locate != "middle":
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
