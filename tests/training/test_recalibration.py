"""Batch-norm statistics of few pictures: right where the pictures say them, harmless where they do not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.training.recalibration import enough_pictures, recalibrate, recalibrate_unless_worse


def statistics(norm: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_statistics_are_those_of_all_pictures_whatever_the_batches(memory_format: torch.memory_format) -> None:
    """The last, smaller batch weighs by its pictures; the spread between batches counts; a far mean costs no digits."""
    torch.manual_seed(0)
    pictures = torch.randn(11, 3, 5, 6) * torch.tensor([1.0, 3.0, 1e-2]).view(1, 3, 1, 1)
    pictures += torch.tensor([0.0, 5.0, 400.0]).view(1, 3, 1, 1) + torch.linspace(0, 3, 11).view(11, 1, 1, 1)
    pictures = pictures.contiguous(memory_format=memory_format)
    for sizes in ([11], [4, 4, 3], [1] * 11):
        norm = nn.BatchNorm2d(3, momentum=0.3)
        recalibrate(norm, pictures.split(sizes))
        mean, var = statistics(norm)
        torch.testing.assert_close(mean, pictures.double().mean((0, 2, 3)).float())
        torch.testing.assert_close(var, pictures.double().var((0, 2, 3), correction=0).float(), rtol=1e-4, atol=0)
        assert norm.momentum == 0.3
        assert not norm.training


def test_one_batch_is_exact_through_many_norms() -> None:
    """In eval mode every norm's outputs then have mean bias and variance weight² on these pictures."""
    torch.manual_seed(1)
    parts: list[nn.Module] = []
    for channels in (3, 8, 8, 8):
        parts += [nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    network = nn.Sequential(*parts)
    pictures = torch.randn(32, 3, 12, 12)
    recalibrate(network, [pictures])
    with torch.no_grad():
        for index in range(1, len(network), 3):
            outputs = network[: index + 1](pictures)
            torch.testing.assert_close(outputs.mean((0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-4)
            torch.testing.assert_close(outputs.var((0, 2, 3)), torch.ones(8), rtol=5e-3, atol=0)


def test_dropout_and_branches_for_training_do_not_disturb() -> None:
    class OwnNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.norm = nn.Dropout(0.9), nn.BatchNorm2d(2)
            self.line, self.alone = nn.BatchNorm1d(2), nn.BatchNorm2d(2, track_running_stats=False)

        def forward(self, images: Tensor) -> Tensor:
            assert not self.training
            found = self.alone(self.norm(self.drop(images)))
            return self.line(found.flatten(2)).unflatten(2, images.shape[2:])  # type: ignore[no-any-return]

    network, pictures = OwnNetwork().train(), torch.randn(16, 2, 4, 4) * 2 + 1
    recalibrate(network, [pictures])
    torch.testing.assert_close(statistics(network.norm)[1], pictures.var((0, 2, 3), correction=0))
    assert network.line.running_mean is not None
    assert not network.line.running_mean.any()


def test_norms_that_no_picture_reaches_keep_what_they_have() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2))
    network.unused = nn.BatchNorm2d(2)  # type: ignore[assignment]
    for norm in (network[0], network.unused):
        statistics(norm)[1].fill_(7)
    network.forward = lambda images: network[0](images)  # type: ignore[method-assign]
    recalibrate(network, [])
    assert statistics(network[0])[1].tolist() == [7, 7]
    recalibrate(network, [torch.randn(4, 2, 3, 3)])
    assert statistics(network[0])[1].max() < 7
    assert statistics(network.unused)[1].tolist() == [7, 7]


def rare_pictures(count: int, seed: int, rate: float) -> Tensor:
    """[count,4,8,8]: channels 0 and 1 are ordinary; 2 and 3 sleep but in a share of pictures, more or less awake."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(count, 4, 8, 8, generator=generator)
    awake = (torch.rand(count, 2, generator=generator) < rate) * torch.rand(count, 2, generator=generator) ** 2
    pictures[:, 2:] = pictures[:, 2:].abs() * awake[:, :, None, None]
    return pictures


def chain(norms: int) -> nn.Sequential:
    """Depthwise convolutions, each with its norm: what a channel is wrong by in one norm comes into the next."""
    torch.manual_seed(2)
    parts: list[nn.Module] = []
    for _ in range(norms):
        parts += [nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU()]
        statistics(parts[-2])[1].fill_(1e-4)  # so that the 4096 pictures are trusted
    return nn.Sequential(*parts)


@pytest.mark.parametrize("norms", [1, 2, 4])
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2])
def test_channels_that_few_pictures_wake_are_damped_not_blown_up(norms: int, rate: float) -> None:
    """The kind that wrecked a trained network on 64 pictures, 12 draws of each.

    Given are the statistics of 4096 pictures; with those of 64 no output may be larger by more than what variances
    known to a third explain. Plain averages over the batches silence such a channel or make it up to 24 times as large.
    """
    given = chain(norms)
    recalibrate(given, [rare_pictures(4096, 0, rate)])
    test = rare_pictures(512, 1, rate)
    with torch.no_grad():
        most = given(test).amax((0, 2, 3)).clamp(min=1)  # of outputs whose variance is 1
        for seed in range(2, 14):
            network = chain(norms)
            network.load_state_dict(given.state_dict())
            recalibrate(network, rare_pictures(64, seed, rate).split(32))
            larger = network(test).amax((0, 2, 3)) / most
            assert larger.max() < 2.5, (seed, larger)
            assert larger[:2].min() > 0.7
            assert all(norm.weight.all() for norm in network if isinstance(norm, nn.BatchNorm2d))


@pytest.mark.parametrize(("pictures", "given_var", "stays"), [(64, 0.0, True), (64, 0.5, False), (256, 0.5, True)])
def test_a_dead_channel_stays_at_its_constant_when_a_picture_wakes_it(
    pictures: int, given_var: float, stays: bool
) -> None:
    """Of few pictures only where the given variance says so too."""
    norm = nn.BatchNorm2d(2)
    nn.init.constant_(norm.bias, 0.5)
    statistics(norm)[1].fill_(given_var)
    asleep = torch.randn(pictures, 2, 4, 4)
    asleep[:, 0] = 0.0
    awake = asleep.clone()
    awake[0, 0, 1, 1] = 4.0
    recalibrate(norm, [asleep])
    with torch.no_grad():
        woken = norm(awake)[0, 0, 1, 1]
        assert woken == pytest.approx(0.5 if stays else 0.5 + 4 / 0.5**0.5, rel=1e-4)  # without the guard: 4 * 316
        torch.testing.assert_close(norm(asleep)[:, 1].std(), torch.tensor(1.0), rtol=0.01, atol=0.0)


def test_as_many_pictures_as_it_takes() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1))
    given = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    batches = [torch.randn(8, 1, 2, 2) for _ in range(20)]
    tried: list[Any] = []

    def score_with(wanted: int) -> Any:
        recalibrated = nn.BatchNorm2d(1)
        recalibrate(recalibrated, batches[:wanted])

        def score(one: nn.Module) -> float:
            assert isinstance(one, nn.Sequential)
            tried.append(statistics(one[0])[0].clone())
            known = torch.equal(tried[-1], torch.zeros(1))
            return 0.5 if known else 0.495 if torch.allclose(tried[-1], statistics(recalibrated)[0]) else 0.2

        return score

    assert len(enough_pictures(network, batches, 10, score_with(2))) == 2  # 16 pictures are at least 10
    assert len(enough_pictures(network, batches, 10, score_with(8))) == 8  # 16, 32, 64
    assert len(enough_pictures(network, batches, 10, score_with(20))) == 20  # all, when the next double is beyond
    tried.clear()
    assert enough_pictures(network, batches, 10, score_with(3)) == []
    assert len(tried) == 1 + 5
    assert enough_pictures(network, [], 10, score_with(3)) == []
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, given[name])


def test_recalibration_that_loses_is_taken_back() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    pictures = torch.randn(32, 1, 3, 3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for losses, stays in (([1.0, 1.03], False), ([1.0, float("nan")], False), ([1.0, 1.01], True), ([1.0, 0.1], True)):
        network.load_state_dict(before)
        network.train()
        assert recalibrate_unless_worse(network, [pictures], iter(losses).__next__) is stays
        same = all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        assert same is not stays
        assert not network.training
