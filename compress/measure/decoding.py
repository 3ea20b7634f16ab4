"""How long a network's maps take to be decoded."""

import numpy as np
from torch import nn

from compress.data.picture import PictureSet
from compress.measure.timing import median_uncertainty, reference_time
from compress.pose.estimator import PoseEstimator, estimate_poses


def decode_time(
    network: nn.Module,
    estimator: PoseEstimator,
    pictures: PictureSet,
    *,
    flip_test: bool,
    reference_ms: float,
    wanted: int = 64,
) -> dict[str, float]:
    """Milliseconds per picture from the network's answers to the people, on one thread, measured.

    On the clock on which the reference of measure.timing takes reference_ms: it runs after every picture. median, q1,
    q3: quartiles over at most `wanted` pictures, spread over the set; uncertainty: half the median's 95 % confidence
    interval, over it. people: found per picture, the mean.
    """
    spread = np.linspace(0, len(pictures) - 1, min(wanted, len(pictures))).round().astype(int).tolist()
    found, ratios = [], []
    for one in estimate_poses(network, estimator, pictures, flip_test=flip_test, indices=spread):
        found.append(one)
        ratios.append(one.decode_ms / reference_time())
    times = np.array(ratios) * reference_ms
    q1, middle, q3 = np.percentile(times, [25, 50, 75]).tolist()
    people = float(np.mean([len(one.poses) for one in found]))
    figures = {"median": middle, "q1": q1, "q3": q3, "people": people, "uncertainty": median_uncertainty(ratios)}
    return {name: round(value, 4) for name, value in figures.items()}
