"""What a network's input values are: how a picture's bytes become numbers. One record for training, use and export."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Normalisation:
    """What a network's input values are: (value / 255 - mean) / std of each colour channel.

    mean, std: per channel of the input, of values in 0..1, in the order of `channels`; ImageNet's are the default.
    channels: which colour the input's first, second and third channel are. ValueError for what is no such thing.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channels: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.mean):
            raise ValueError(f"mean must be three numbers, not {self.mean}")
        if not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"std must be three numbers above 0, not {self.std}")

    @property
    def order(self) -> tuple[int, int, int]:
        """Channel of the input → the channel of an RGB picture that it is."""
        return (0, 1, 2) if self.channels == "RGB" else (2, 1, 0)

    @property
    def border_rgb(self) -> tuple[int, int, int]:
        """The bytes that come nearest to 0 in the input: what lies outside a picture. Red, green, blue."""
        nearest = [min(max(round(255 * mean), 0), 255) for mean in self.mean]
        return nearest[self.order[0]], nearest[self.order[1]], nearest[self.order[2]]


IMAGENET = Normalisation()
"""That of most published networks."""
