"""Exports that compute what torch computes."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.data.loader import eval_batches
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.picture import PictureSet
from compress.data.transforms import renormalised
from compress.engines import check_parity, engine
from compress.engines.engine import Image
from compress.errors import CompressError
from compress.files import replaced_together

ForEngine = Callable[[nn.Module, str], nn.Module]
"""Network, engine's name → the same network in the form that this engine runs best."""


def as_it_is(network: nn.Module, engine_name: str) -> nn.Module:
    """Every engine runs the network itself."""
    return network


@dataclass(frozen=True)
class Export:
    """A network in an engine's format. files: names of them, first the one that the engine loads.

    parity: largest relative error of its outputs against torch's.
    """

    engine: str
    files: tuple[str, ...]
    size_bytes: int
    parity: float


def export_and_check(
    network: nn.Module,
    engines: Iterable[str],
    images: Sequence[Image],
    input_hw: tuple[int, int],
    folder: Path,
    for_engine: ForEngine = as_it_is,
    inputs: Normalisation = IMAGENET,
) -> tuple[tuple[Export, ...], dict[str, str]]:
    """Exports to every engine and compares its outputs with torch's on the images and on a random one.

    inputs: how the network's inputs, and so the images, are normalised.

    An engine's files come to `folder` together, and only if its outputs are torch's within its parity_limit; an
    engine that fails leaves the folder as it was, and the next one is tried. Returns the exports, and
    engine → why it failed. Raises OSError where nothing can be written.
    """
    # No flat picture: norms over a map make much of what rounding leaves of it.
    drawn = np.random.default_rng(0).standard_normal((1, 3, *input_hw), dtype=np.float32)
    noise: Image = renormalised(torch.from_numpy(drawn), IMAGENET, inputs).numpy()
    exports: list[Export] = []
    failed: dict[str, str] = {}
    for name in engines:
        try:
            with replaced_together(folder) as aside:
                of_engine = for_engine(network, name)
                files = engine(name).export(of_engine, input_hw, aside, "model")
                runner, limit = engine(name).load(files[0]), engine(name).parity_limit
                parity = check_parity(of_engine, runner, [*images, noise], limit)
                size_bytes = sum(file.stat().st_size for file in files)
        except CompressError as error:
            failed[name] = str(error).replace(f"{aside}{os.sep}", "")  # no file lies there
            continue
        exports.append(Export(name, tuple(file.name for file in files), size_bytes, parity))
    return tuple(exports), failed


def sample_images(
    pictures: PictureSet, count: int, input_hw: tuple[int, int], normalisation: Normalisation = IMAGENET
) -> list[Image]:
    """The first pictures as a network gets them, [1,3,H,W] each."""
    images: list[Image] = []
    for batch, _, _ in eval_batches(
        pictures, input_hw=input_hw, batch_size=min(count, len(pictures)), normalisation=normalisation
    ):
        rows: NDArray[np.float32] = np.ascontiguousarray(batch.contiguous().numpy())
        images.extend(rows[i : i + 1] for i in range(len(rows)))
        if len(images) >= count:
            break
    return images[:count]
