"""The training loop that training, fine-tuning and the supernet share. The caller defines one step.

Everything random comes from (seed, epoch), and a checkpoint is written after every epoch: a killed run that continues
from its checkpoint takes the same steps as an undisturbed one.
"""

import io
import math
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from compress.data.loader import Batch, batches, check_batch
from compress.data.memory import settled_heap
from compress.data.samples import Samples
from compress.errors import DivergedError, RecipeError, RunError
from compress.files import write_bytes
from compress.pose.distillation import FeatureDistillation
from compress.pose.objective import Objective
from compress.progress import Phase
from compress.recipe import Training
from compress.training.processes import average, is_first

_CHECKED = 64  # samples that show whether new batch-norm statistics raise the loss

LossStep = Callable[[Batch, random.Random], float]
"""Adds the gradients of one batch to the parameters and returns the loss on the labels."""


class Trainable(Protocol):
    """A network or a supernet."""

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors by name; writing to them changes what is trained."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> Any:
        """Copies what state_dict gave."""
        ...


@dataclass(frozen=True)
class EpochLoss:
    """One epoch: mean loss on the labels, samples per second, and the share of the time spent waiting for data."""

    epoch: int
    loss: float
    samples_per_s: float = field(compare=False)
    data_share: float = field(compare=False)


@settled_heap()
def train(
    trained: Trainable,
    parameters: Sequence[Mapping[str, nn.Parameter]],
    loss_step: LossStep,
    *,
    samples: Samples,
    settings: Training,
    seed: int,
    fabric: Fabric,
    workers: int,
    checkpoint: Path,
    phase: Phase,
    observe: Callable[[EpochLoss], None] = lambda epoch: None,
    until: int | None = None,
) -> list[EpochLoss]:
    """Trains for settings.epochs, continuing from `checkpoint` if it exists. Advances `phase` by one per batch.

    until: the epoch behind which it stops, on the way of the whole training: a later call goes on from there.

    parameters: by name, one mapping per independent network; gradients are clipped within each, so that networks
    trained side by side come out as if each had been trained alone. observe: called after every epoch.
    Raises DivergedError when the loss is no longer a number, RunError for another network's checkpoint, RecipeError
    when the batch cannot be shared by the processes.
    """
    bare = check_training(parameters, samples, settings, fabric)
    optimizer = fabric.setup_optimizers(bare)
    assert isinstance(optimizer, torch.optim.Optimizer)
    averaged = {name: tensor.clone() for name, tensor in _floats(trained).items()} if settings.ema else {}
    history = _resume(checkpoint, trained, optimizer, averaged, fabric)
    _require_shared(checkpoint, len(history), fabric)
    steps_per_epoch = len(samples) // settings.batch_size
    phase.advance(len(history) * steps_per_epoch)
    for epoch in range(len(history), settings.epochs if until is None else until):
        rng = random.Random(f"{seed}-{epoch}")
        torch.manual_seed(random.Random(f"{seed}-{epoch}-{fabric.global_rank}").getrandbits(63))  # a network's dropout
        total = 0.0
        begin, waited = time.perf_counter(), 0.0
        epoch_batches = batches(
            samples,
            batch_size=settings.batch_size,
            epoch=epoch,
            seed=seed,
            workers=workers,
            rank=fabric.global_rank,
            world=fabric.world_size,
        )
        for number in range(steps_per_epoch):
            began = time.perf_counter()
            batch = next(epoch_batches)
            waited += time.perf_counter() - began
            step = epoch * steps_per_epoch + number
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * learning_rate(settings, step, steps_per_epoch)
            optimizer.zero_grad()
            for part in batch.to(fabric.device).parts(settings.accumulate):
                total += loss_step(part, rng) / settings.accumulate
            _finish_gradients(parameters, bare, settings, fabric)
            optimizer.step()
            if averaged:
                _follow(averaged, _floats(trained), settings.ema, step)
            share = waited / (time.perf_counter() - begin)
            phase.advance(1, f"epoch {epoch + 1}, loss {total / (number + 1):.5f}, data {share:.0%}")
        summed = torch.tensor([total], device=fabric.device)
        average([summed, *_statistics(trained, parameters)], fabric)
        mean = float(summed) / steps_per_epoch
        if not math.isfinite(mean):
            raise DivergedError(
                "the loss must stay a number",
                place=f"training, epoch {epoch + 1}",
                value=mean,
                remedy="lower training.learning_rate or set training.clip_norm",
            )
        seconds = time.perf_counter() - begin
        rate = steps_per_epoch * settings.batch_size / seconds
        history.append(EpochLoss(epoch, mean, round(rate, 1), round(waited / seconds, 4)))
        if is_first():
            _save(checkpoint, trained, optimizer, averaged, history, fabric)
        fabric.barrier()
        observe(history[-1])
    if averaged:
        trained.load_state_dict({**trained.state_dict(), **averaged})
    return history


def check_training(
    parameters: Sequence[Mapping[str, nn.Parameter]], samples: Samples, settings: Training, fabric: Fabric
) -> torch.optim.Optimizer:
    """The optimizer. Raises what can be known before the first step: RecipeError, and DataError for too few samples."""
    if settings.batch_size % (fabric.world_size * settings.accumulate):
        raise RecipeError(
            "a batch must be a multiple of processes x accumulate",
            place="recipe: training.batch_size",
            value=f"{settings.batch_size} for {fabric.world_size} x {settings.accumulate}",
            remedy="choose a multiple",
        )
    check_batch(samples, settings.batch_size)
    return optimizer_for(parameters, settings)


def batch_count(settings: Training, samples: Samples) -> int:
    """Batches of the whole training."""
    return settings.epochs * (len(samples) // settings.batch_size)


def label_step(network: nn.Module, objective: Objective, fabric: Fabric) -> LossStep:
    """A step that learns from the labels alone."""

    def step(batch: Batch, rng: random.Random) -> float:
        network.train()
        with fabric.autocast():
            outputs = network(batch.images)
        loss = objective.loss(full_precision(outputs), batch)
        fabric.backward(loss)
        return float(loss.detach())

    return step


def label_loss(network: nn.Module, objective: Objective, samples: Samples, settings: Training, seed: int) -> float:
    """Mean loss on the labels of some 64 training samples, augmented as in no epoch of the training, in eval mode."""
    network.eval()
    device = next(network.parameters()).device
    drawn = batches(samples, batch_size=settings.batch_size, epoch=settings.epochs, seed=seed)
    losses = []
    with torch.no_grad():
        for batch in islice(drawn, math.ceil(_CHECKED / settings.batch_size)):
            for part in batch.parts(settings.accumulate):
                part = part.to(device)
                losses.append(float(objective.loss(full_precision(network(part.images)), part)))
    return sum(losses) / len(losses)


def distilled_step(
    students: Sequence[nn.Module],
    teacher: nn.Module,
    objective: Objective,
    distillation: float,
    fabric: Fabric,
    features: FeatureDistillation | None = None,
    feature_weight: float = 1.0,
) -> LossStep:
    """Every student learns from the labels and a frozen teacher's maps; distillation: the teacher's share, 0..1.

    features: of the only student's and the teacher's layers, added with feature_weight. The teacher runs once per
    batch for all students. The step returns their mean loss on the labels.
    """
    teacher.eval()

    def step(batch: Batch, rng: random.Random) -> float:
        with torch.no_grad(), fabric.autocast():
            targets = teacher(batch.images)
        targets = full_precision(targets)
        total = 0.0
        for student in students:
            student.train()
            with fabric.autocast():
                outputs = student(batch.images)
            outputs = full_precision(outputs)
            loss = objective.loss(outputs, batch)
            whole = (1 - distillation) * loss + distillation * objective.distillation_loss(outputs, targets)
            fabric.backward(whole + feature_weight * features() if features else whole)
            total += float(loss.detach())
        return total / len(students)

    return step


def learning_rate(settings: Training, step: int, steps_per_epoch: int) -> float:
    """Of one step, counted from 0: linear warm-up, then cosine to zero or steps of gamma."""
    total = settings.epochs * steps_per_epoch
    grown = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    warmup = settings.warmup_from + (1 - settings.warmup_from) * grown
    if settings.schedule == "cosine":
        decay = 0.5 * (1 + math.cos(math.pi * step / total))
    else:
        decay = settings.gamma ** sum(step >= milestone * total for milestone in settings.milestones)
    return settings.learning_rate * warmup * decay


def optimizer_for(parameters: Sequence[Mapping[str, nn.Parameter]], settings: Training) -> torch.optim.Optimizer:
    """The recipe's optimizer; every parameter group has its `rate`, the factor on the learning rate.

    Raises RecipeError for a group whose pattern no parameter has.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    used = set()
    for network in parameters:
        for name, parameter in network.items():
            rate, decay = 1.0, settings.weight_decay
            for group in settings.groups:
                if re.search(group.pattern, name):
                    used.add(group.pattern)
                    rate = group.rate
                    decay = settings.weight_decay if group.weight_decay is None else group.weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
    for group in settings.groups:
        if group.pattern not in used:
            raise RecipeError(
                "a parameter group must have parameters",
                place="recipe: training.groups",
                value=group.pattern,
                remedy="`compress profile` lists the layers' names",
            )
    listed = [{"params": of, "rate": rate, "weight_decay": decay} for (rate, decay), of in groups.items()]
    fused = settings.precision != "float16"  # a fused step cannot be clipped before its gradients are scaled back
    match settings.optimizer:
        case "adam":
            return torch.optim.Adam(listed, lr=settings.learning_rate, fused=fused)
        case "adamw":
            return torch.optim.AdamW(listed, lr=settings.learning_rate, fused=fused)
        case "sgd":
            return torch.optim.SGD(listed, lr=settings.learning_rate, momentum=settings.momentum, fused=fused)


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on the device, its convolutions' weights channels_last: 1.2 to 2 times faster there than the default
    on depthwise blocks. Changes the network."""
    for parameter in network.parameters():
        if parameter.ndim == 4:  # dynamic kernels have five axes
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network.to(device)


def best_device() -> torch.device:
    """The first GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def full_precision(outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """In float32: losses sum over many cells."""
    return tuple(output.float() for output in outputs)


def _finish_gradients(
    parameters: Sequence[Mapping[str, nn.Parameter]],
    optimizer: torch.optim.Optimizer,
    settings: Training,
    fabric: Fabric,
) -> None:
    """Gradients become the mean over the parts of the batch and over the processes, and are clipped.

    optimizer: as it was before Fabric wrapped it, or float16's loss scaler divides the gradients a second time.
    """
    gradients = [p.grad for network in parameters for p in network.values() if p.grad is not None]
    if settings.accumulate > 1:
        torch._foreach_div_(gradients, settings.accumulate)
    average(gradients, fabric)
    if settings.clip_norm:
        fabric.strategy.precision.unscale_gradients(optimizer)
        for network in parameters:
            nn.utils.clip_grad_norm_(network.values(), settings.clip_norm)


def _floats(trained: Trainable) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in trained.state_dict().items() if tensor.is_floating_point()}


def _follow(averaged: dict[str, Tensor], now: dict[str, Tensor], decay: float, step: int) -> None:
    """One step of the exponential moving average; early on its decay is (1 + n) / (10 + n), as TensorFlow's."""
    update = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))  # type: ignore[no-untyped-call]
    update(tuple(averaged.values()), tuple(now[name] for name in averaged), step)


def _statistics(trained: Trainable, parameters: Sequence[Mapping[str, nn.Parameter]]) -> list[Tensor]:
    """Floating-point buffers, such as batch norm's statistics."""
    learned = {parameter.data_ptr() for network in parameters for parameter in network.values()}
    return [tensor for tensor in _floats(trained).values() if tensor.data_ptr() not in learned]


def _save(
    path: Path,
    trained: Trainable,
    optimizer: torch.optim.Optimizer,
    averaged: dict[str, Tensor],
    history: list[EpochLoss],
    fabric: Fabric,
) -> None:
    content = io.BytesIO()
    state = {
        "trained": trained.state_dict(),
        "optimizer": optimizer.state_dict(),
        "averaged": averaged,
        "history": [astuple(entry) for entry in history],
        "precision": fabric.strategy.precision.state_dict(),
    }
    torch.save(state, content)
    write_bytes(path, content.getvalue())


def _resume(
    path: Path,
    trained: Trainable,
    optimizer: torch.optim.Optimizer,
    averaged: dict[str, Tensor],
    fabric: Fabric,
) -> list[EpochLoss]:
    if not path.exists():
        return []
    try:
        state = torch.load(path, map_location=fabric.device, weights_only=True)
        trained.load_state_dict(state["trained"])
        optimizer.load_state_dict(state["optimizer"])
        for name, tensor in averaged.items():
            tensor.copy_(state["averaged"][name])
        fabric.strategy.precision.load_state_dict(state["precision"])
        return [EpochLoss(*entry) for entry in state["history"]]
    except Exception as error:
        raise RunError(
            "the checkpoint must be one of this training",
            place=str(path),
            value=next(iter(str(error).splitlines()), type(error).__name__),
            remedy="delete it to start again, or choose another run folder",
        ) from None


def _require_shared(path: Path, finished: int, fabric: Fabric) -> None:
    """Raises RunError unless every process continues from the first one's epoch."""
    first = fabric.broadcast(finished)
    if first != finished:
        raise RunError(
            "all processes must see the same checkpoint",
            place=str(path),
            value=f"{finished} epochs here, {first} in the first process",
            remedy="give a --run folder that all machines share",
        )
