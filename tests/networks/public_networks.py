"""Public networks as names, shapes and outputs, filled by a rule: what ours must answer too.

They lie beside the checkout, or where the variable COMPRESS_CHECKPOINTS says; tests that read them are left out where
they are not.
"""

import json
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(os.environ.get("COMPRESS_CHECKPOINTS", Path(__file__).parents[3] / "shared" / "checkpoints"))


def facts(name: str) -> dict[str, Any]:
    """What the file NAME.json says."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def fill(network: nn.Module, name: str, renamed: Callable[[str], str] = str) -> None:
    """Gives the network the public one's numbers. renamed: the public name of a tensor → ours."""
    public = facts(name)
    state = {renamed(key): _numbers(key, shape, public["gain"], public["shift"]) for key, shape, _ in public["keys"]}
    network.load_state_dict(state)


def errors(network: nn.Module, name: str) -> list[float]:
    """Relative errors of the network's outputs against the public ones: samples, means and deviations of each."""
    public, outputs = facts(name), np.load(FOLDER / f"{name}.npz")
    picture = np.random.Generator(np.random.PCG64(0)).standard_normal((1, 3, *public["fixture_hw"])).astype("float32")
    with torch.no_grad():
        answers = [answer.numpy() for answer in network.eval()(torch.from_numpy(picture))]
    found, step = [], public["sample_stride"]
    for key, answer in zip(public["outputs"], answers, strict=True):
        cells = tuple(range(2, answer.ndim))
        sampled = answer[(slice(None), slice(None), *(slice(None, None, step) for _ in cells))]
        pairs = (sampled, key), (answer.mean(cells), f"{key}__mean"), (answer.std(cells), f"{key}__std")
        for ours, part in pairs:
            found.append(float(np.linalg.norm(ours - outputs[part]) / np.linalg.norm(outputs[part])))
    return found


def _numbers(key: str, shape: list[int], gain: float, shift: float) -> Tensor:
    """The rule that fills a tensor."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if last in ("running_var", "g", "gamma", "scale") or (last == "weight" and len(shape) == 1):
        return torch.from_numpy(rng.uniform(0.5, 1.5, shape).astype("float32"))
    draw = rng.standard_normal(shape)
    if last == "weight":
        return torch.from_numpy((draw * gain / math.sqrt(math.prod(shape[1:][-3:]))).astype("float32"))
    return torch.from_numpy(((abs(draw) if last == "bias" else draw) * shift).astype("float32"))
