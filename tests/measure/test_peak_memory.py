"""Peaks worked out by hand: which activations are needed at once."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.measure.counting import trace
from compress.measure.objective import CostObjective, parse

HW = (16, 8)
CELLS = 16 * 8


def peak(network: nn.Module) -> int:
    return trace(network, HW).peak_bytes


def test_a_convolution_needs_its_input_and_its_output() -> None:
    assert peak(nn.Conv2d(3, 8, 3, padding=1)) == 4 * (3 + 8) * CELLS


def test_norm_and_activation_write_over_their_input() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Hardswish())
    assert peak(network) == 4 * (3 + 8) * CELLS


def test_what_is_read_later_is_kept() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(F.relu(self.first(x))) + x

    # at the second convolution: x, its input and its output
    assert peak(Residual()) == 4 * (3 + 16 + 3) * CELLS


def test_an_early_output_is_kept_to_the_end() -> None:
    class TwoOutputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.early, self.down, self.late = nn.Conv2d(3, 5, 1), nn.Conv2d(5, 7, 2, 2), nn.Conv2d(7, 40, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            early = self.early(x)
            return early, self.late(self.down(early))

    # early, and input and output of the last convolution at a quarter of the cells
    assert peak(TwoOutputs()) == 4 * (5 * CELLS + (7 + 40) * CELLS // 4)


def test_views_and_places_of_maxima_take_no_memory() -> None:
    class Pooled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            a, b = F.max_pool2d(x.repeat(1, 2, 1, 1), 2).chunk(2, 1)
            return torch.flatten(a, 2) + torch.flatten(b, 2)

    # x and its double; the pool's output is smaller than x
    assert peak(Pooled()) == 4 * 9 * CELLS


def test_a_pass_on_the_cpu_finds_the_same_as_one_on_meta() -> None:
    class Reads(nn.Module):
        """Cannot run on the meta device: it reads a value."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 64, 1))

        def forward(self, x: Tensor) -> Tensor:
            assert float(x.flatten()[0]) == 0.0
            return self.layers(x)

    reads = Reads()
    # the last convolution: 8 and 64 channels at a quarter of the cells
    assert peak(reads) == peak(reads.layers) == 4 * (8 + 64) * CELLS // 4


@pytest.mark.parametrize("text", ["end_to_end", "latency", "latency on ncnn:threads=4", "macs", "params", "memory"])
def test_objectives_are_read_as_they_are_written(text: str) -> None:
    assert str(parse(text)) == text
    assert parse("latency on ncnn") == CostObjective("latency", "ncnn")


@pytest.mark.parametrize(
    ("text", "said"),
    [("mac", "did you mean 'macs'"), ("macs on ncnn", "same on every target"), ("score", "the score is always one")],
)
def test_another_objective_is_one_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        parse(text)
    assert "\n" not in str(caught.value)
