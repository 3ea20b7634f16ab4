"""Stacked hourglass: counts of the classic layout, the residual, the hourglass and the way back into the next stack."""

import pytest
import torch
import torch.nn.functional as F
from test_counts import counted

from compress.measure.counting import count
from compress.networks.architecture import without_values
from compress.networks.hourglass import Hourglass, Residual, StackedHourglass


def test_counts() -> None:
    c = counted("hourglass_8", (256, 192))
    assert c.params / 1e6 == pytest.approx(25.438, abs=0.001)
    assert c.macs / 1e9 == pytest.approx(20.592, rel=0.005)
    with without_values():
        mpii = count(StackedHourglass(keypoints=16).build(), (256, 256))
    assert mpii.params / 1e6 == pytest.approx(25.434, abs=0.001)
    assert mpii.macs / 1e9 == pytest.approx(27.440, rel=0.005)


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (6, 8)])
def test_residual_is_pre_activated(inputs: int, outputs: int) -> None:
    block = Residual(inputs, outputs).eval()
    x = torch.randn(1, inputs, 4, 6)
    before = x.clone()
    norm1, _, conv1, norm2, _, conv2, norm3, _, conv3 = block.layers
    y = conv3(F.relu(norm3(conv2(F.relu(norm2(conv1(F.relu(norm1(x)))))))))
    torch.testing.assert_close(block(x), y + (x if inputs == outputs else block.skip(x)))
    assert torch.equal(x, before)
    middle = outputs // 2
    expected = 2 * inputs + (inputs + 1) * middle + 4 * middle + (9 * middle + 1) * middle + (middle + 1) * outputs
    expected += 0 if inputs == outputs else (inputs + 1) * outputs
    assert sum(p.numel() for p in block.parameters()) == expected


def test_hourglass_of_depth_one_by_hand() -> None:
    hourglass = Hourglass(8, 1).eval()
    x = torch.randn(1, 8, 4, 6)
    low = hourglass.up[0](hourglass.inner(hourglass.down[1](F.max_pool2d(x, 2))))
    expected = hourglass.across(x) + low.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(hourglass(x), expected)


def test_depth_four_has_thirteen_residuals() -> None:
    assert sum(isinstance(module, Residual) for module in Hourglass(8, 4).modules()) == 13


def test_the_next_stack_sees_features_and_heatmaps_of_the_one_before() -> None:
    network = StackedHourglass(stacks=2, depth=1, width=8).build().eval()
    image = torch.randn(1, 3, 16, 24)
    x = network.stem(image)
    features = network.hourglasses[0](x)
    first = network.maps[0](features)
    x = x + network.features_back[0](features) + network.maps_back[0](first)
    second = network.maps[1](network.hourglasses[1](x))
    outputs = network(image)
    torch.testing.assert_close(outputs[0], first)
    torch.testing.assert_close(outputs[1], second)


def test_a_fresh_network_carries_its_signal_through() -> None:
    torch.manual_seed(0)
    network = StackedHourglass(stacks=2, depth=2, width=32).build()
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert 0.1 < float(network.hourglasses[0](network.stem(image)).std()) < 10
        assert 0 < float(network(image)[1].abs().max()) < 0.1


def test_stride_follows_the_depth() -> None:
    assert [StackedHourglass(depth=depth).stride for depth in (1, 4)] == [8, 64]


@pytest.mark.parametrize("change", [{"stacks": 0}, {"depth": 0}, {"width": 10}, {"width": 0}, {"keypoints": 0}])
def test_range(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be .*, not"):
        StackedHourglass(**change)
