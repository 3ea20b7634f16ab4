"""The training loop: the same weights after a kill as without one, and every setting as its formula."""

import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from compress.data.keypoints import COCO_PERSON
from compress.data.loader import batches
from compress.data.synthetic import SyntheticPeople
from compress.errors import DivergedError, RecipeError, RunError
from compress.networks.dir_bhrnet import DirBHRNet, equal_blocks
from compress.pose.approaches import objective_for
from compress.pose.codec import Codec
from compress.progress import Silent
from compress.recipe import ParameterGroup, Training
from compress.training.loop import (
    EpochLoss,
    _require_shared,
    distilled_step,
    label_step,
    learning_rate,
    optimizer_for,
    train,
)
from compress.training.processes import launch

ARCHITECTURE = DirBHRNet(width=4, blocks=equal_blocks(0), head="single")
PICTURES = SyntheticPeople(8, (32, 32), 3)
FABRIC = launch("float32")
SETTINGS = Training(epochs=3, batch_size=4, warmup_steps=1)
OBJECTIVE = objective_for(ARCHITECTURE, COCO_PERSON, (32, 32), SETTINGS, Codec())


def run(
    checkpoint: Path, network: nn.Module, settings: Training = SETTINGS, stop_after: int | None = None, **more: Any
) -> list[EpochLoss]:
    inner = label_step(network, OBJECTIVE, FABRIC)
    steps = 0

    def step(batch: Any, rng: random.Random) -> float:
        nonlocal steps
        if stop_after is not None and steps == stop_after:
            raise KeyboardInterrupt
        steps += 1
        return inner(batch, rng)

    return train(
        network,
        [dict(network.named_parameters())],
        step,
        samples=OBJECTIVE.samples(PICTURES),
        settings=settings,
        seed=1,
        fabric=FABRIC,
        workers=0,
        checkpoint=checkpoint,
        phase=Silent(),
        **more,
    )


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return ARCHITECTURE.build()


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS.model_copy(update={"ema": 0.9, "accumulate": 2})])
def test_killed_in_an_epoch_and_resumed_ends_with_the_same_weights(settings: Training, tmp_path: Path) -> None:
    whole, broken = fresh(), fresh()
    history = run(tmp_path / "whole.pt", whole, settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken.pt", broken, settings, stop_after=3 * settings.accumulate)  # in the second epoch
    resumed = fresh()
    assert run(tmp_path / "broken.pt", resumed, settings) == history
    assert same(whole, resumed)
    again = fresh()  # a finished training is only read
    assert run(tmp_path / "whole.pt", again, settings) == history
    assert same(whole, again)


def test_dropout_is_the_same_after_a_kill(tmp_path: Path) -> None:
    def dropping() -> nn.Module:
        torch.manual_seed(0)
        last = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(8, 34, 1))
        return Listed(nn.Conv2d(3, 8, 4, 4), last)

    history = run(tmp_path / "whole.pt", dropping())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken.pt", dropping(), stop_after=3)
    assert run(tmp_path / "broken.pt", dropping()) == history


class Listed(nn.Sequential):
    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [super().forward(images)]


@pytest.mark.parametrize("clip_norm", [0.0, 1e9])
def test_float16_gradients_are_scaled_back_once(clip_norm: float, tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    fabric = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    weight = nn.Parameter(torch.ones(1))

    def step(batch: Any, rng: random.Random) -> float:
        fabric.backward((0.5 * weight).sum())
        return 0.0

    settings = Training(
        epochs=1,
        batch_size=8,
        warmup_steps=0,
        optimizer="sgd",
        momentum=0,
        learning_rate=0.1,
        schedule="step",
        clip_norm=clip_norm,
        precision="float16",
    )
    train(
        nn.ParameterDict({"weight": weight}),
        [{"weight": weight}],
        step,
        samples=OBJECTIVE.samples(PICTURES),
        settings=settings,
        seed=1,
        fabric=fabric,
        workers=0,
        checkpoint=tmp_path / "c.pt",
        phase=Silent(),
    )
    assert weight.item() == pytest.approx(1 - 0.1 * 0.5)
    assert torch.load(tmp_path / "c.pt", weights_only=True)["precision"]["scale"] == 1024


def test_a_checkpoint_that_not_every_process_sees(tmp_path: Path) -> None:
    class Elsewhere:
        def broadcast(self, mine: int) -> int:
            return 3

    _require_shared(tmp_path, 3, Elsewhere())  # type: ignore[arg-type]
    with pytest.raises(RunError, match="all machines share"):
        _require_shared(tmp_path, 0, Elsewhere())  # type: ignore[arg-type]


def test_every_epoch_is_observed_with_its_throughput(tmp_path: Path) -> None:
    seen: list[EpochLoss] = []
    history = run(tmp_path / "c.pt", fresh(), observe=seen.append)
    assert seen == history
    assert [entry.epoch for entry in seen] == [0, 1, 2]
    assert all(entry.samples_per_s > 0 and 0 <= entry.data_share <= 1 for entry in seen)


def test_checkpoint_of_another_network_and_pickle_are_refused(tmp_path: Path) -> None:
    run(tmp_path / "c.pt", fresh())
    with pytest.raises(RunError, match="checkpoint"):
        run(tmp_path / "c.pt", DirBHRNet(width=8, blocks=equal_blocks(0), head="single").build())
    torch.save({"trained": Path("."), "optimizer": {}, "losses": []}, tmp_path / "p.pt")
    with pytest.raises(RunError, match="checkpoint"):
        run(tmp_path / "p.pt", fresh())


def test_a_loss_that_is_no_number_stops(tmp_path: Path) -> None:
    network = fresh()
    with torch.no_grad():
        next(network.parameters()).fill_(math.nan)
    with pytest.raises(DivergedError, match="must stay a number"):
        run(tmp_path / "c.pt", network)


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tmp_path: Path) -> None:
    """Without batch norm, which sees the parts: one step of plain gradient descent ends at the same weights."""
    ends = []
    for accumulate in (1, 2, 4):
        settings = Training(epochs=1, batch_size=4, warmup_steps=0, optimizer="sgd", momentum=0, accumulate=accumulate)
        torch.manual_seed(0)
        network = Plain()
        run(tmp_path / f"{accumulate}.pt", network, settings)
        ends.append(network.state_dict())
    for end in ends[1:]:
        for name, value in ends[0].items():
            torch.testing.assert_close(end[name], value, msg=name)


def test_the_average_of_the_weights_is_what_training_gives(tmp_path: Path) -> None:
    settings = Training(epochs=1, batch_size=4, warmup_steps=0, ema=0.5)
    torch.manual_seed(0)
    network = Plain()
    followed = {name: value.clone() for name, value in network.state_dict().items()}
    inner = label_step(network, OBJECTIVE, FABRIC)
    steps = 0

    def step(batch: Any, rng: random.Random) -> float:
        nonlocal steps
        if steps:
            follow(steps - 1)
        steps += 1
        return inner(batch, rng)

    def follow(number: int) -> None:
        decay = min(0.5, (1 + number) / (10 + number))
        for name, value in network.state_dict().items():
            followed[name] = decay * followed[name] + (1 - decay) * value

    class Watched(nn.Module):
        """Sees the last weights before they are replaced by their average."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def load_state_dict(self, state: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
            follow(steps - 1)
            return super().load_state_dict(state, *args, **kwargs)

    train(
        Watched(),
        [dict(network.named_parameters())],
        step,
        samples=OBJECTIVE.samples(PICTURES),
        settings=settings,
        seed=1,
        fabric=FABRIC,
        workers=0,
        checkpoint=tmp_path / "c.pt",
        phase=Silent(),
    )
    assert steps == 2
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, followed[name], msg=name)


def test_parameter_groups_by_name() -> None:
    groups = (ParameterGroup(pattern=r"\.bias$", rate=2, weight_decay=0), ParameterGroup(pattern="last", rate=4))
    network = nn.ModuleDict({"first": nn.Linear(2, 2), "last": nn.Linear(2, 2)})
    settings = Training(weight_decay=0.1, groups=groups)
    optimizer = optimizer_for([dict(network.named_parameters())], settings)
    found = {id(p): (g["rate"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    names = dict(network.named_parameters())
    assert {name: found[id(p)] for name, p in names.items()} == {
        "first.weight": (1.0, 0.1),
        "first.bias": (2.0, 0.0),
        "last.weight": (4.0, 0.1),
        "last.bias": (4.0, 0.1),  # the last group that matches
    }
    with pytest.raises(RecipeError, match="must have parameters"):
        optimizer_for([names], Training(groups=(ParameterGroup(pattern="nowhere"),)))


@pytest.mark.parametrize(("name", "kind"), [("adam", "Adam"), ("adamw", "AdamW"), ("sgd", "SGD")])
def test_optimizers(name: Any, kind: str) -> None:
    optimizer = optimizer_for([dict(nn.Linear(1, 1).named_parameters())], Training(optimizer=name, weight_decay=0.3))
    assert type(optimizer).__name__ == kind
    assert optimizer.param_groups[0]["weight_decay"] == 0.3


def test_distillation_leaves_the_teacher_alone() -> None:
    network, teacher = fresh(), ARCHITECTURE.build()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    batch = next(batches(OBJECTIVE.samples(PICTURES), batch_size=4, epoch=0, seed=0))
    step = distilled_step([network], teacher, OBJECTIVE, 0.5, FABRIC)
    assert math.isfinite(step(batch, random.Random(0)))
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_pupils_learn_side_by_side_as_if_each_were_alone(tmp_path: Path) -> None:
    settings = Training(epochs=1, batch_size=4, warmup_steps=0, clip_norm=0.01)
    torch.manual_seed(1)
    teacher = ARCHITECTURE.build()

    def tuned(*seeds: int) -> list[dict[str, torch.Tensor]]:
        students = []
        for seed in seeds:
            torch.manual_seed(seed)
            students.append(ARCHITECTURE.build())
        train(
            nn.ModuleDict({str(seed): student for seed, student in zip(seeds, students, strict=True)}),
            [dict(student.named_parameters()) for student in students],
            distilled_step(students, teacher, OBJECTIVE, 0.5, FABRIC),
            samples=OBJECTIVE.samples(PICTURES),
            settings=settings,
            seed=1,
            fabric=FABRIC,
            workers=0,
            checkpoint=tmp_path / f"{seeds}.pt",
            phase=Silent(),
        )
        return [student.state_dict() for student in students]

    together = tuned(5, 6)
    for alone, student in zip(tuned(5) + tuned(6), together, strict=True):
        for name, value in alone.items():
            torch.testing.assert_close(student[name], value, msg=name)


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
    # Lite-HRNet's warm-up: from a thousandth, linear over 500 steps. Lightweight OpenPose: a third at every step.
    warm = Training(epochs=1, learning_rate=2e-3, warmup_steps=500, warmup_from=1e-3, schedule="step")
    assert learning_rate(warm, 249, 10**6) == pytest.approx(2e-3 * (1e-3 + 0.999 * 0.5))
    thirds = Training(epochs=3, learning_rate=1, warmup_steps=0, schedule="step", milestones=(1 / 3, 2 / 3), gamma=0.3)
    assert [learning_rate(thirds, epoch, 1) for epoch in range(3)] == pytest.approx([1, 0.3, 0.09])


class Plain(nn.Module):
    """Two convolutions, no batch norm: what one picture gives does not depend on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.last = nn.Conv2d(8, 34, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (self.last(torch.tanh(self.first(images))),)
