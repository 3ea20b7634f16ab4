"""How long a network's maps take to be decoded."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from compress.data.picture import PictureSet
from compress.measure.latency import Latency
from compress.measure.timing import UNCERTAINTY_LIMIT, median_uncertainty, reference_time
from compress.pose.estimator import PoseEstimator, estimate_poses

TARGET = "this toolkit's decoder, 1 thread"
"""What the milliseconds of decoding are of."""


@dataclass(frozen=True)
class DecodingTime:
    """From a network's maps to people. latency: per picture. people: found per picture, the mean."""

    latency: Latency
    people: float


def decode_time(
    network: nn.Module,
    estimator: PoseEstimator,
    pictures: PictureSet,
    *,
    flip_test: bool,
    reference_ms: float | None = None,
    wanted: int = 64,
) -> DecodingTime:
    """Times the decoding of the network's outputs on one thread, for at most `wanted` pictures, spread over the set.

    On the clock on which the reference of measure.timing takes reference_ms: it runs after every picture. None: what
    it takes here, the median. Quartiles are over the pictures.
    """
    spread = np.linspace(0, len(pictures) - 1, min(wanted, len(pictures))).round().astype(int).tolist()
    people, ratios, references = [], [], []
    for one in estimate_poses(network, estimator, pictures, flip_test=flip_test, indices=spread):
        people.append(len(one.poses))
        references.append(reference_time())
        ratios.append(one.decode_ms / references[-1])
    times = np.array(ratios) * (float(np.median(references)) if reference_ms is None else reference_ms)
    q1, middle, q3 = (round(float(value), 4) for value in np.percentile(times, [25, 50, 75]))
    uncertainty = median_uncertainty(ratios)
    return DecodingTime(
        Latency(
            middle, TARGET, "measured", "reference", q1, q3, round(uncertainty, 4), uncertainty <= UNCERTAINTY_LIMIT
        ),
        round(float(np.mean(people)), 4),
    )
