"""A network that takes a picture's bytes: its normalisation is the first layer of the graph."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compress.data.normalisation import Normalisation

BYTES = Normalisation((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
"""Of inputs that are a picture's bytes as they are, red first."""


class PictureInput(nn.Module):
    """A 1x1 convolution from red, green and blue of 0..255 to the network's inputs, and the network.

    One convolution orders the channels, scales and shifts them: every engine has it, and it costs 9 multiply-adds a
    pixel.
    """

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.normalise = nn.Conv2d(3, 3, 1)
        scale = [1 / (255 * std) for std in normalisation.std]
        with torch.no_grad():
            self.normalise.weight.zero_()
            for channel, colour in enumerate(normalisation.order):
                self.normalise.weight[channel, colour] = scale[channel]
                self.normalise.bias[channel] = -normalisation.mean[channel] / normalisation.std[channel]  # type: ignore[index]
        self.network = network

    def forward(self, images: Tensor) -> Sequence[Tensor]:
        """[B,3,H,W] of 0..255, RGB → the network's outputs."""
        outputs: Sequence[Tensor] = self.network(self.normalise(images))
        return outputs
