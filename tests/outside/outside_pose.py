"""A package that is not compress and adds one of each to it; its entry points lie in the dist-info folder beside it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, TPESampler
from torch import Tensor, nn

from compress.data.loader import Batch
from compress.data.sets import Sets
from compress.data.synthetic import SyntheticPeople
from compress.engines.engine import Description, Engine, Image, describe_machine
from compress.pose.approaches.approach import Setting
from compress.pose.approaches.top_down import TopDown, TopDownObjective
from compress.pruning.importance import Scored, by_filters
from compress.recipe import Data, Training
from compress.rewriting.rule import Rule, carry_nothing

# --- A network family, and an approach: top-down, with another loss --------------------------------------------------


@dataclass(frozen=True)
class Tiny:
    """Two convolutions, four pixels to a cell."""

    family: ClassVar[str] = "tiny"
    approach: ClassVar[str] = "robust"
    stride: ClassVar[int] = 4
    output_strides: ClassVar[tuple[int, ...]] = (4,)

    keypoints: int = 17
    width: int = 16

    def build(self) -> nn.Module:
        return TinyNetwork(self)


WIDE = Tiny(width=32)


def untrained() -> nn.Module:
    """A network that is no record: a function returns it."""
    return nn.Conv2d(3, 17, 3, 4, 1)


class TinyNetwork(nn.Module):
    def __init__(self, tiny: Tiny) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, tiny.width, 3, 4, 1), nn.ReLU()
        self.maps = nn.Conv2d(tiny.width, tiny.keypoints, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.maps(self.act(self.first(images))),)


class Robust(TopDown):
    name = "robust"
    does = "top-down, learned by absolute errors"

    def objective(self, setting: Setting, training: Training) -> "AbsoluteErrors":
        return AbsoluteErrors(setting, training)


class AbsoluteErrors(TopDownObjective):
    def loss(self, outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        return (outputs[-1] - batch.maps[-1]).abs().mean()


# --- An engine -------------------------------------------------------------------------------------------------------


class Eager(Engine):
    name = "eager"
    channel_multiple = 2

    def describe(self) -> Description:
        return describe_machine(self.name, torch.__version__)

    def export(self, network: nn.Module, input_hw: tuple[int, int], folder: Path, stem: str) -> tuple[Path, ...]:
        folder.mkdir(parents=True, exist_ok=True)
        program = torch.export.export(network.eval(), (torch.zeros(1, 3, *input_hw),))
        torch.export.save(program, folder / f"{stem}.pt2")
        return (folder / f"{stem}.pt2",)

    def load(self, path: Path, threads: int = 1) -> "EagerRunner":
        return EagerRunner(torch.export.load(path).module())


@dataclass(frozen=True)
class EagerRunner:
    module: nn.Module

    def run(self, image: Image) -> tuple[NDArray[np.float32], ...]:
        with torch.no_grad():
            return tuple(output.numpy() for output in self.module(torch.from_numpy(image)))


# --- A criterion, a rule, a sampler, a kind of data ------------------------------------------------------------------


def largest(scored: Scored) -> dict[int, float]:
    """A filter matters by its largest weight."""
    return by_filters(lambda rows: rows.abs().amax(1))(scored)


LEAKY = Rule(
    name="relu_to_leaky",
    does="ReLU becomes LeakyReLU",
    source="Maas et al., 2013",
    exact=False,
    matches=lambda module: isinstance(module, nn.ReLU),
    build=lambda given: nn.LeakyReLU(),
    carry=carry_nothing,
)


def quick_tpe(population: int, seed: int) -> BaseSampler:
    return TPESampler(seed=seed, n_startup_trials=2)


def few_people(data: Data, input_hw: tuple[int, int], seed: int) -> Sets:
    train, search, val = (SyntheticPeople(8, input_hw, 3 * seed + part) for part in range(3))
    return Sets(train, search, val)
