"""One or several processes that train one network together, through Lightning Fabric.

A process alone is the ordinary case. `torchrun --nproc-per-node N -m -- compress train ...` starts several, on one
machine or on more, which then share the run folder; each works on its part of every batch, and gradients are averaged,
so that they take the steps one process would take. So do the trainings of `compress search`. Batch-norm statistics are
those of the whole batch on GPUs (torch's SyncBatchNorm); on CPUs, which torch has no such layer for, they are those of
each process's part.
"""

import atexit
import copy
import os
from collections.abc import Iterable
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from compress.errors import RecipeError

T = TypeVar("T")

_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


def launch(precision: str) -> Fabric:
    """Starts Lightning Fabric, which joins other processes if there are any. Raises RecipeError.

    precision: Training.precision.
    """
    gpu = torch.cuda.is_available()
    if precision == "auto":
        precision = "bfloat16" if gpu else "float32"
    if precision == "float16" and not gpu:
        raise RecipeError(
            "float16 needs a GPU", place="recipe: training.precision", value=precision, remedy="use auto or bfloat16"
        )
    world, local = world_size(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator="cuda" if gpu else "cpu",
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision=_PRECISIONS[precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    if world > 1:
        atexit.register(_leave)
    return fabric


def alone(fabric: Fabric, precision: str = "auto") -> Fabric:
    """Of this process by itself, for what the others have no part in; the same one where there are no others.

    precision: that the given one was launched with.
    """
    if world_size() == 1:
        return fabric
    gpu = fabric.device.type == "cuda"
    if precision == "auto":
        precision = "bfloat16" if gpu else "float32"
    devices = [fabric.device.index or 0] if gpu else 1
    return Fabric(accelerator="cuda" if gpu else "cpu", devices=devices, precision=_PRECISIONS[precision])  # type: ignore[arg-type]


def _leave() -> None:
    """Ends this process's part in the group. Its threads would else run on while Python ends, which may abort it."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def world_size() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process is the first or the only one: the one that writes files, prints and scores."""
    return os.environ.get("RANK", "0") == "0"


def whole_batch_norm(network: nn.Module, fabric: Fabric) -> nn.Module:
    """The module to train: the network itself, or, on several GPUs, a copy whose batch norms share their statistics.

    Names of parameters and buffers are the same.
    """
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        synced: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(network))  # type: ignore[no-untyped-call]
        return synced
    return network


def average(tensors: Iterable[Tensor], fabric: Fabric) -> None:
    """Replaces every tensor by its mean over the processes, in place and in one message."""
    listed = list(tensors)
    if fabric.world_size == 1 or not listed:
        return
    flat = fabric.all_reduce(torch.cat([tensor.reshape(-1) for tensor in listed]), reduce_op="mean")
    assert isinstance(flat, Tensor)
    start = 0
    for tensor in listed:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()
