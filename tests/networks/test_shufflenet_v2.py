"""ShuffleNetV2 with SimpleBaseline's head: counts of the MobilePoseNet paper's tables, its two units, its widths."""

import pytest
import torch
from test_counts import counted

from compress.networks.architecture import without_values
from compress.networks.shufflenet_v2 import DownsampleUnit, ShuffleNetV2, ShuffleUnit


@pytest.mark.parametrize(("size", "flops"), [((256, 192), 1.277), ((384, 288), 2.874), ((256, 256), 1.702)])
def test_counts(size: tuple[int, int], flops: float) -> None:
    c = counted("shufflenet_v2", size)
    assert c.params / 1e6 == pytest.approx(7.551, abs=0.001)
    assert c.ts / 2**30 == pytest.approx(flops, rel=0.005)


def test_unit_passes_one_half_and_shuffles() -> None:
    unit = ShuffleUnit(12).eval()
    x = torch.randn(1, 12, 4, 6)
    y = unit(x)
    assert torch.equal(y[:, 0::2], x[:, :6])
    torch.testing.assert_close(y[:, 1::2], unit.branch(x[:, 6:]))


def test_downsampling_unit_uses_all_channels_in_both_branches() -> None:
    unit = DownsampleUnit(6, 16).eval()
    x = torch.randn(1, 6, 4, 6)
    y = unit(x)
    assert y.shape == (1, 16, 2, 3)
    torch.testing.assert_close(y[:, 0::2], unit.left(x))
    torch.testing.assert_close(y[:, 1::2], unit.right(x))


def test_unit_parameters_are_the_formula() -> None:
    half = 6
    one = half * half + 2 * half
    assert sum(p.numel() for p in ShuffleUnit(12).parameters()) == 2 * one + 11 * half
    left, right = 11 * 6 + 6 * 8 + 16, 6 * 8 + 16 + 11 * 8 + 8 * 8 + 16
    assert sum(p.numel() for p in DownsampleUnit(6, 16).parameters()) == left + right


@pytest.mark.parametrize(
    ("width", "widths", "features"),
    [
        (0.5, (48, 96, 192), 1024),
        (1, (116, 232, 464), 1024),
        (1.5, (176, 352, 704), 1024),
        (2, (244, 488, 976), 2048),
        (0.25, (28, 56, 112), 1024),
        (0.001, (2, 4, 8), 1024),
    ],
)
def test_widths_are_the_papers(width: float, widths: tuple[int, int, int], features: int) -> None:
    architecture = ShuffleNetV2(width, filters=())
    assert architecture.stage_widths == widths
    with without_values():
        assert architecture.build().backbone[-1].conv.out_channels == features


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf")])
def test_range(width: float) -> None:
    with pytest.raises(ValueError, match="width must be above 0, not"):
        ShuffleNetV2(width)
