"""The training loop: the same weights after a kill as without one, and learning rates as formulas."""

import math
import random
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.data.loader import batches
from compress.data.synthetic import SyntheticPeople
from compress.data.transforms import NO_AUGMENTATION
from compress.errors import RunError
from compress.networks.dir_bhrnet import DirBHRNet, equal_blocks
from compress.progress import Silent
from compress.recipe import Training
from compress.training import EpochLoss, distilled_step, label_step, learning_rate, pose_loss, train

ARCHITECTURE = DirBHRNet(width=4, blocks=equal_blocks(0), head="single")
PICTURES = SyntheticPeople(8, (32, 32), 3)


def run(epochs: int, checkpoint: Path, network: nn.Module, stop_after: int | None = None) -> list[EpochLoss]:
    settings = Training(epochs=epochs, batch_size=4, warmup_steps=1)
    inner = label_step(network, pose_loss(settings.loss, 1))
    steps = 0

    def step(batch: object, rng: object) -> float:
        nonlocal steps
        if stop_after is not None and steps == stop_after:
            raise KeyboardInterrupt
        steps += 1
        return inner(batch, rng)  # type: ignore[arg-type]

    return train(
        network,
        [list(network.parameters())],
        step,
        pictures=PICTURES,
        settings=settings,
        input_hw=(32, 32),
        strides=(4,),
        seed=1,
        workers=0,
        checkpoint=checkpoint,
        phase=Silent(),
    )


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURE.build()


def test_killed_in_an_epoch_and_resumed_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, broken = fresh(), fresh()
    history = run(3, tmp_path / "whole.pt", whole)
    with pytest.raises(KeyboardInterrupt):
        run(3, tmp_path / "broken.pt", broken, stop_after=3)  # in the middle of the second epoch
    resumed = fresh()
    assert run(3, tmp_path / "broken.pt", resumed) == history
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_checkpoint_of_another_network_and_pickle_are_refused(tmp_path: Path) -> None:
    run(1, tmp_path / "c.pt", fresh())
    with pytest.raises(RunError, match="checkpoint"):
        run(2, tmp_path / "c.pt", DirBHRNet(width=8, blocks=equal_blocks(0), head="single").build())
    torch.save({"trained": Path("."), "optimizer": {}, "losses": []}, tmp_path / "p.pt")
    with pytest.raises(RunError, match="checkpoint"):
        run(1, tmp_path / "p.pt", fresh())


def test_a_loss_that_is_no_number_stops(tmp_path: Path) -> None:
    network = fresh()
    with torch.no_grad():
        next(network.parameters()).fill_(math.nan)
    with pytest.raises(RunError, match="must stay a number"):
        run(1, tmp_path / "c.pt", network)


def test_distillation_leaves_the_teacher_alone(tmp_path: Path) -> None:
    network, teacher = fresh(), ARCHITECTURE.build()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    batch = next(
        batches(
            PICTURES,
            input_hw=(32, 32),
            strides=(4,),
            sigma=1.5,
            batch_size=4,
            epoch=0,
            seed=0,
            augmentation=NO_AUGMENTATION,
        )
    )
    step = distilled_step([network], teacher, pose_loss(Training().loss, 1), 17, 0.5)
    assert math.isfinite(step(batch, random.Random(0)))
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_pupils_learn_side_by_side_as_if_each_were_alone(tmp_path: Path) -> None:
    settings = Training(epochs=1, batch_size=4, warmup_steps=0, clip_norm=0.01)
    torch.manual_seed(1)
    teacher = ARCHITECTURE.build()

    def tuned(*seeds: int) -> list[dict[str, torch.Tensor]]:
        pupils = []
        for seed in seeds:
            torch.manual_seed(seed)
            pupils.append(ARCHITECTURE.build())
        train(
            nn.ModuleDict({str(seed): pupil for seed, pupil in zip(seeds, pupils, strict=True)}),
            [list(pupil.parameters()) for pupil in pupils],
            distilled_step(pupils, teacher, pose_loss(settings.loss, 1), 17, 0.5),
            pictures=PICTURES,
            settings=settings,
            input_hw=(32, 32),
            strides=(4,),
            seed=1,
            workers=0,
            checkpoint=tmp_path / f"{seeds}.pt",
            phase=Silent(),
        )
        return [pupil.state_dict() for pupil in pupils]

    together = tuned(5, 6)
    for alone, pupil in zip(tuned(5) + tuned(6), together, strict=True):
        for name, value in alone.items():
            torch.testing.assert_close(pupil[name], value, msg=name)


def test_learning_rates() -> None:
    cosine = Training(epochs=2, learning_rate=0.4, warmup_steps=4)
    assert learning_rate(cosine, 0, 50) == pytest.approx(0.4 / 4)
    assert learning_rate(cosine, 50, 50) == pytest.approx(0.4 * 0.5)
    assert learning_rate(cosine, 99, 50) == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi * 0.99)))
    # The schedule of the DIR-BHRNet recipe: a tenth at epochs 200 and 250 of 300.
    step = Training(epochs=300, learning_rate=1.5e-3, schedule="step", milestones=(2 / 3, 5 / 6), warmup_steps=0)
    assert [learning_rate(step, epoch, 1) for epoch in (0, 199, 200, 249, 250)] == pytest.approx(
        [1.5e-3, 1.5e-3, 1.5e-4, 1.5e-4, 1.5e-5]
    )
