import torch
from torch import nn

from compress.recalibration import recalibrate


def test_recalibration_takes_the_plain_average_of_the_batches() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3, momentum=0.1))
    batches = [torch.randn(4, 3, 5, 5) * scale for scale in (1, 2, 3)]
    recalibrate(network, batches)
    norm = network[0]
    assert isinstance(norm, nn.BatchNorm2d)
    torch.testing.assert_close(norm.running_mean, torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0))
    assert norm.momentum == 0.1
    assert not network.training


def test_a_dead_channel_stays_at_its_constant_when_a_picture_wakes_it() -> None:
    norm = nn.BatchNorm2d(2)
    nn.init.constant_(norm.bias, 0.5)
    asleep = torch.randn(8, 2, 4, 4)
    asleep[:, 0] = 0.0
    awake = asleep.clone()
    awake[0, 0, 1, 1] = 4.0
    recalibrate(norm, [asleep])
    with torch.no_grad():
        assert torch.equal(norm(awake)[:, 0], torch.full((8, 4, 4), 0.5))  # without the guard: 4 * 316
        torch.testing.assert_close(norm(asleep)[:, 1].std(), torch.tensor(1.0), rtol=0.01, atol=0.0)
