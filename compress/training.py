"""The training loop that training, fine-tuning and the supernet share. What one step does is the caller's.

Everything random comes from (seed, epoch), and a checkpoint is written after every epoch: a killed run that goes on
from its checkpoint takes the same steps as an undisturbed one.
"""

import io
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compress.data.loader import Batch, batches, eval_batches
from compress.data.picture import PictureSet
from compress.data.transforms import Augmentation
from compress.distill import heatmap_distillation
from compress.errors import RunError
from compress.files import write_bytes
from compress.losses import PoseLoss, bottom_up_loss
from compress.progress import Phase
from compress.recipe import Augment, Loss, SupernetTraining, Training
from compress.supernet import Pool, Supernet

LossStep = Callable[[Batch, random.Random], float]
"""Adds the gradients of one batch to the parameters and returns the loss on the labels."""


class Trainable(Protocol):
    """What is trained: a network or a supernet."""

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> Any:
        """Copies what state_dict gave."""
        ...


@dataclass(frozen=True)
class EpochLoss:
    """Mean loss on the labels over one epoch."""

    epoch: int
    loss: float


def train(
    trained: Trainable,
    parameters: Sequence[list[nn.Parameter]],
    loss_step: LossStep,
    *,
    pictures: PictureSet,
    settings: Training,
    input_hw: tuple[int, int],
    strides: tuple[int, ...],
    seed: int,
    workers: int,
    checkpoint: Path,
    phase: Phase,
) -> list[EpochLoss]:
    """Trains for settings.epochs, going on from `checkpoint` if it exists. Advances `phase` by one per batch.

    parameters: one list per independent network; gradients are clipped within each list, so that networks trained side
    by side come out as if each had been trained alone.
    Raises RunError when the loss is no longer a number or the checkpoint is of another network.
    """
    device = parameters[0][0].device
    optimizer = torch.optim.Adam([p for network in parameters for p in network], lr=settings.learning_rate, fused=True)
    history = _resume(checkpoint, trained, optimizer, device)
    steps_per_epoch = len(pictures) // settings.batch_size
    phase.advance(len(history) * steps_per_epoch)
    for epoch in range(len(history), settings.epochs):
        rng = random.Random(f"{seed}-{epoch}")
        total = 0.0
        epoch_batches = batches(
            pictures,
            input_hw=input_hw,
            strides=strides,
            sigma=settings.sigma,
            exact=settings.exact,
            batch_size=settings.batch_size,
            epoch=epoch,
            seed=seed,
            augmentation=augmentation(settings.augment),
            workers=workers,
        )
        for number, batch in enumerate(epoch_batches):
            step = epoch * steps_per_epoch + number
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step, steps_per_epoch)
            optimizer.zero_grad()
            total += loss_step(to_device(batch, device), rng)
            if settings.clip_norm:
                for network in parameters:
                    nn.utils.clip_grad_norm_(network, settings.clip_norm)
            optimizer.step()
            phase.advance(1, f"epoch {epoch + 1}, loss {total / (number + 1):.5f}")
        mean = total / steps_per_epoch
        if not math.isfinite(mean):
            raise RunError(
                "the loss must stay a number",
                place=f"training, epoch {epoch + 1}",
                value=mean,
                remedy="lower training.learning_rate or set training.clip_norm",
            )
        history.append(EpochLoss(epoch, mean))
        _save(checkpoint, trained, optimizer, history)
    return history


def batch_count(settings: Training, pictures: PictureSet) -> int:
    """Batches of the whole training."""
    return settings.epochs * (len(pictures) // settings.batch_size)


def label_step(network: nn.Module, weights: PoseLoss) -> LossStep:
    """Learning from the labels alone."""

    def step(batch: Batch, rng: random.Random) -> float:
        network.train()
        with _autocast(batch.images.device):
            loss, _ = bottom_up_loss(network(batch.images), batch, weights)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    return step


def distilled_step(
    pupils: Sequence[nn.Module], teacher: nn.Module, weights: PoseLoss, keypoints: int, distillation: float
) -> LossStep:
    """Every pupil learns from the labels and a frozen teacher's heatmaps; distillation: the teacher's share, 0..1.

    The teacher answers once for all pupils. Returns their mean loss.
    """
    teacher.eval()

    def step(batch: Batch, rng: random.Random) -> float:
        with torch.no_grad(), _autocast(batch.images.device):
            answers = teacher(batch.images)
        total = 0.0
        for pupil in pupils:
            pupil.train()
            with _autocast(batch.images.device):
                outputs = pupil(batch.images)
                loss, _ = bottom_up_loss(outputs, batch, weights)
                taught = heatmap_distillation(outputs, answers, keypoints, weights.heatmap)
            ((1 - distillation) * loss + distillation * taught).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total / len(pupils)

    return step


def sandwich_step(supernet: Supernet, weights: PoseLoss, keypoints: int, settings: SupernetTraining) -> LossStep:
    """The sandwich rule with in-place distillation (see compress.supernet). Returns the largest candidate's loss."""

    pool: Pool | None = None
    drawn_with: random.Random | None = None

    def step(batch: Batch, rng: random.Random) -> float:
        nonlocal pool, drawn_with
        if pool is None or rng is not drawn_with:  # a new epoch has a new generator
            pool, drawn_with = Pool.draw(supernet.space, settings.pool, rng), rng
        largest, *others = pool.sandwich(settings.randoms, rng)
        with _autocast(batch.images.device):
            answers = supernet.forward(largest, batch.images, training=True)
            largest_loss, _ = bottom_up_loss(answers, batch, weights)
        largest_loss.backward()  # type: ignore[no-untyped-call]
        answers = tuple(answer.detach() for answer in answers)
        for pick in others:
            with _autocast(batch.images.device):
                outputs = supernet.forward(pick, batch.images, training=True)
                loss, _ = bottom_up_loss(outputs, batch, weights)
                taught = heatmap_distillation(outputs, answers, keypoints, weights.heatmap)
                total = (1 - settings.distillation) * loss + settings.distillation * taught
            total.backward()  # type: ignore[no-untyped-call]
        return float(largest_loss.detach())

    return step


def learning_rate(settings: Training, step: int, steps_per_epoch: int) -> float:
    """Of one step, counted from 0: linear warm-up, then cosine to zero or steps of 0.1."""
    total = settings.epochs * steps_per_epoch
    warmup = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    if settings.schedule == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * step / total))
    else:
        decay = 0.1 ** sum(step >= milestone * total for milestone in settings.milestones)
    return settings.learning_rate * warmup * decay


def pose_loss(loss: Loss, scales: int) -> PoseLoss:
    """The recipe's weights for a network with so many outputs."""
    return PoseLoss((loss.heatmap,) * scales, loss.pull, loss.push)


def augmentation(augment: Augment) -> Augmentation:
    """The recipe's augmentation as the data craft takes it."""
    return Augmentation(augment.rotation_deg, augment.scale, augment.translate_px, augment.flip)


def first_pictures(pictures: PictureSet, input_hw: tuple[int, int], wanted: int) -> Iterator[Tensor]:
    """About the first `wanted` pictures as they are, in batches [B,3,H,W] on the device that trains."""
    for images, _, indices in eval_batches(pictures, input_hw=input_hw, batch_size=32):
        yield images.to(best_device())
        if indices[-1] + 1 >= wanted:
            break


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device; itself on the CPU."""
    if device.type == "cpu":
        return batch
    return Batch(
        batch.images.to(device, non_blocking=True),
        tuple(maps.to(device, non_blocking=True) for maps in batch.heatmaps),
        tuple(mask.to(device, non_blocking=True) for mask in batch.masks),
        batch.joints.to(device, non_blocking=True),
    )


def best_device() -> torch.device:
    """The first GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _autocast(device: torch.device) -> torch.autocast:
    # bfloat16 needs no loss scaling; on the CPU nothing changes.
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def _save(path: Path, trained: Trainable, optimizer: torch.optim.Optimizer, history: list[EpochLoss]) -> None:
    content = io.BytesIO()
    losses = [entry.loss for entry in history]
    torch.save({"trained": trained.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}, content)
    write_bytes(path, content.getvalue())


def _resume(path: Path, trained: Trainable, optimizer: torch.optim.Optimizer, device: torch.device) -> list[EpochLoss]:
    if not path.exists():
        return []
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        trained.load_state_dict(state["trained"])
        optimizer.load_state_dict(state["optimizer"])
        return [EpochLoss(epoch, loss) for epoch, loss in enumerate(state["losses"])]
    except Exception as error:
        raise RunError(
            "the checkpoint must be one of this training",
            place=str(path),
            value=str(error).splitlines()[0],
            remedy="delete it to train anew, or choose another run folder",
        ) from None
