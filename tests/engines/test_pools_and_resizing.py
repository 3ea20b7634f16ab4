"""Random pools and resizings: an export either gives torch's outputs or is refused, and then leaves no file."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.engines import ENGINES
from compress.engines.export import export_and_check

HW = (40, 56)
Step = Callable[[Tensor], Tensor]


def random_pool(rng: random.Random) -> Step:
    """Kernels, strides and paddings that differ by side, ceil_mode, padding counted or not, a divisor."""
    kernel = (rng.randint(1, 5), rng.randint(1, 5))
    stride = (rng.randint(1, 3), rng.randint(1, 3))
    padding = (rng.randint(0, kernel[0] // 2), rng.randint(0, kernel[1] // 2))
    ceil = rng.random() < 0.5
    if rng.random() < 0.5:
        dilation = rng.choice((1, 1, 2))
        return lambda x: F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode=ceil)
    counted, divisor = rng.random() < 0.5, rng.choice((None, None, 3))
    return lambda x: F.avg_pool2d(x, kernel, stride, padding, ceil, counted, divisor)


def random_adaptive(rng: random.Random) -> Step:
    """To sizes that mostly do not divide the input's."""
    size = (rng.choice((None, 1, 2, 3, 5, 7)), rng.choice((None, 1, 2, 3, 5, 7)))
    if rng.random() < 0.5:
        return lambda x: F.adaptive_avg_pool2d(x, size)  # type: ignore[arg-type]
    return lambda x: F.adaptive_max_pool2d(x, size)  # type: ignore[arg-type]


def random_resizing(rng: random.Random) -> Step:
    """Every mode, by factor or size, up and down, corners aligned or not."""
    mode = rng.choice(("nearest", "nearest-exact", "bilinear", "bicubic", "area"))
    aligned = rng.random() < 0.5 if mode in ("bilinear", "bicubic") else None
    if rng.random() < 0.5:
        factor = (rng.choice((0.3, 0.5, 1.5, 2.0)), rng.choice((0.3, 0.5, 1.5, 2.0)))
        return lambda x: F.interpolate(x, scale_factor=factor, mode=mode, align_corners=aligned)
    size = (rng.randint(1, 12), rng.randint(1, 12))
    return lambda x: F.interpolate(x, size=size, mode=mode, align_corners=aligned)


def random_padding(rng: random.Random) -> Step:
    """Another width on every side."""
    pads = [rng.randint(0, 3) for _ in range(4)]
    mode = rng.choice(("constant", "reflect", "replicate", "circular"))
    return lambda x: F.pad(x, pads, mode)


class Net(nn.Module):
    """A convolution, one random step on a map of 10x14, a convolution."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.step, self.stem, self.head = step, nn.Conv2d(3, 4, 3, 4, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.step(self.stem(x)))
        return y


KINDS = (random_pool, random_adaptive, random_resizing, random_padding)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_an_export_is_torchs_or_there_is_none(kind: Callable[[random.Random], Step], seed: int, tmp_path: Path) -> None:
    network = Net(kind(random.Random(seed))).eval()
    earlier = {"model.onnx": b"an earlier export", "model.ncnn.param": b"another", "model.ncnn.bin": b"its weights"}
    for name, content in earlier.items():
        (tmp_path / name).write_bytes(content)
    flat = np.full((1, 3, *HW), 0.5, np.float32)
    exports, refused = export_and_check(network, ["onnxruntime", "ncnn"], [flat], HW, tmp_path)
    assert sorted([*(export.engine for export in exports), *refused]) == ["ncnn", "onnxruntime"]
    image = np.random.default_rng(seed + 1).standard_normal((1, 3, *HW), dtype=np.float32)
    expected = network(torch.from_numpy(image)).detach().numpy()
    kept = dict(earlier)
    for export in exports:
        (found,) = ENGINES[export.engine].load(tmp_path / export.files[0]).run(image)
        np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max(), rtol=0)
        for file in export.files:
            kept.pop(file)
    assert {path.name for path in tmp_path.iterdir()} == set(earlier)
    assert all((tmp_path / name).read_bytes() == content for name, content in kept.items())
