"""The sandwich rule: a supernet's step of its largest, its smallest and random candidates."""

import random

from lightning_fabric import Fabric

from compress.data.loader import Batch
from compress.nas.supernet import Pool, Supernet
from compress.pose.objective import Objective
from compress.recipe import SupernetTraining
from compress.training.loop import LossStep, full_precision


def sandwich_step(supernet: Supernet, objective: Objective, settings: SupernetTraining, fabric: Fabric) -> LossStep:
    """The sandwich rule with in-place distillation (see compress.nas.supernet). Returns the largest candidate's
    loss."""

    pool: Pool | None = None
    drawn_with: random.Random | None = None

    def step(batch: Batch, rng: random.Random) -> float:
        nonlocal pool, drawn_with
        if pool is None or rng is not drawn_with:  # a new epoch has a new generator
            pool, drawn_with = Pool.draw(supernet.space, settings.pool, rng), rng
        largest, *others = pool.sandwich(settings.randoms, rng)
        with fabric.autocast():
            answers = supernet.forward(largest, batch.images, training=True)
        answers = full_precision(answers)
        largest_loss = objective.loss(answers, batch)
        fabric.backward(largest_loss)
        answers = tuple(answer.detach() for answer in answers)
        for pick in others:
            with fabric.autocast():
                outputs = supernet.forward(pick, batch.images, training=True)
            outputs = full_precision(outputs)
            loss, taught = objective.loss(outputs, batch), objective.distillation_loss(outputs, answers)
            fabric.backward((1 - settings.distillation) * loss + settings.distillation * taught)
        return float(largest_loss.detach())

    return step
