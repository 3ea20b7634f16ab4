"""A normalisation in the graph is the one outside it."""

import numpy as np
import pytest
import torch
from torch import nn

from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.transforms import normalise
from compress.networks.picture_input import BYTES, PictureInput


class Given(nn.Module):
    """Its inputs."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (images,)


@pytest.mark.parametrize(
    "normalisation",
    [IMAGENET, Normalisation(channels="BGR"), Normalisation((128 / 255,) * 3, (256 / 255,) * 3, "BGR"), BYTES],
)
def test_the_graphs_inputs_are_a_pictures_bytes(normalisation: Normalisation) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3)).astype(np.uint8)
    raw = torch.from_numpy(picture).permute(0, 3, 1, 2).float()
    assert torch.allclose(normalise(picture, BYTES), raw, atol=1e-4)
    with torch.no_grad():
        (found,) = PictureInput(Given(), normalisation)(raw)
    assert torch.allclose(found, normalise(picture, normalisation), atol=1e-4)
