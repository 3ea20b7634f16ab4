"""Public networks as names, shapes and outputs: files that their projects' own classes would have written, filled by a
rule, and what those classes answer.

`public/NAME.json.gz` lists the names, shapes and types of a checkpoint file, `public/NAME.npz` some samples of the
public network's outputs for the picture below, and the mean and the standard deviation of every channel.
"""

import gzip
import json
import math
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parent
OWN = HERE / "public"
"""Every network once; of the outputs every fourth row and column that the whole fixtures have."""

WHOLE = Path(os.environ.get("COMPRESS_CHECKPOINTS", HERE.parents[3] / "shared" / "checkpoints"))
"""More of the same, beside the checkout or where the variable says; perhaps not there."""


@dataclass(frozen=True)
class Fixture:
    """One public network. kept: every so many rows and columns of its outputs are there."""

    name: str
    facts: dict[str, Any]
    outputs: dict[str, np.ndarray]
    kept: int

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What its checkpoint file holds, by the file's names and in its order."""
        gain, shift = self.facts["gain"], self.facts["shift"]
        return {key: torch.from_numpy(numbers(key, shape, gain, shift)) for key, shape, _ in self.facts["keys"]}

    @property
    def picture(self) -> Tensor:
        """[1,3,H,W], not normalised."""
        draw = np.random.Generator(np.random.PCG64(0)).standard_normal((1, 3, *self.facts["fixture_hw"]))
        return torch.from_numpy(draw.astype("float32"))

    def write(self, path: Path, tensors: dict[str, Tensor]) -> Path:
        """The file, with the tensors where its project puts them."""
        held: dict[str, Any] = tensors
        for key in reversed(self.facts["container"]["path_to_state"]):
            held = {key: held}
        torch.save(held, path)
        return path

    def error(self, module: torch.nn.Module) -> float:
        """Largest relative error of our outputs against the public network's, of samples, means and deviations."""
        with torch.no_grad():
            backbone = self.facts["ours"]["backbone_only"]
            found = [module.backbone(self.picture)] if backbone else list(module(self.picture))
        errors = []
        for name, said in self.facts["outputs"].items():
            maps = found[0] if backbone else found[int(said["ours"].split("output ")[1].split(",")[0])]
            if "channels " in said["ours"]:
                first, last = map(int, said["ours"].split("channels ")[1].split("-"))
                maps = maps[:, first : last + 1]
            rows = maps.numpy()
            step = self.facts["sample_stride"] * self.kept
            samples = rows[..., ::step] if rows.ndim == 3 else rows[:, :, ::step, ::step]
            places = tuple(range(2, rows.ndim))
            for ours, theirs in (
                (samples, self.outputs[name]),
                (rows.mean(places, dtype=np.float64)[0], self.outputs[f"{name}__mean"]),
                (rows.std(places, dtype=np.float64)[0], self.outputs[f"{name}__std"]),
            ):
                errors.append(float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)))
        return max(errors)


def numbers(key: str, shape: list[int], gain: float, shift: float) -> np.ndarray:
    """The rule that fills a tensor."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, "int64")
    if last in ("running_var", "g", "gamma", "scale") or (last == "weight" and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype("float32")
    draw = rng.standard_normal(shape)
    if last == "weight":
        return (draw * gain / math.sqrt(math.prod(shape[1:][-3:]))).astype("float32")
    if last == "bias":
        draw = abs(draw)
    return (draw * shift).astype("float32")


def own(name: str) -> Fixture:
    """One of the project's own."""
    facts = json.loads(gzip.decompress((OWN / f"{name}.json.gz").read_bytes()))
    return Fixture(name, facts, dict(np.load(OWN / f"{name}.npz")), 4)


def whole(name: str) -> Fixture:
    """One with all samples."""
    facts = json.loads((WHOLE / f"{name}.json").read_text())
    return Fixture(name, facts, dict(np.load(WHOLE / f"{name}.npz")), 1)


OWN_NAMES = sorted(path.name.removesuffix(".json.gz") for path in OWN.glob("*.json.gz"))
WHOLE_NAMES = sorted(path.stem for path in WHOLE.glob("*.json"))
