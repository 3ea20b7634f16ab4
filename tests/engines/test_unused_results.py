"""Submodules whose results are not used: pnnx dies of them, so the trace goes to it without."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.engines import ENGINES, check_parity

HW = (16, 24)


class Base(nn.Module):
    """Layers for the networks below."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.extra, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 5, 1)


class Head(Base):
    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        self.extra(y)
        return self.head(y)


class Chain(Base):
    """A call whose result only another unused call takes."""

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        self.head(F.relu(self.extra(y)) + 1)
        return self.head(y)


class Nested(Base):
    """The unused call is in a submodule that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.widen = Head(), nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor) -> Any:
        return self.widen(self.inner(self.widen(self.inner(x))))


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.one(x), self.other(x)


class OneOfTwo(Base):
    def __init__(self) -> None:
        super().__init__()
        self.two = Two()

    def forward(self, x: Tensor) -> Any:
        y, _ = self.two(self.stem(x))
        return self.head(y)


class NoneOfTwo(OneOfTwo):
    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        _, _ = self.two(y)
        return self.head(y)


class Attention(Base):
    """Inlined, torch's own attention would be no layer that pnnx knows."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        self.extra(y)
        tokens = y.flatten(2).transpose(1, 2)
        tokens = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(tokens.transpose(1, 2).reshape(y.shape))


class InPlace(Base):
    """The call is there for what it does to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.wrapped = nn.ReLU(inplace=True), nn.Sequential(nn.Sequential(nn.ReLU(inplace=True)))

    def forward(self, x: Tensor) -> Any:
        y = self.stem(x)
        self.relu(y)
        z = self.extra(y)
        self.wrapped(z)
        return self.head(y + z)


@pytest.mark.parametrize("kind", [Head, Chain, Nested, OneOfTwo, NoneOfTwo, Attention, InPlace])
def test_it_is_exported(kind: type[nn.Module], tmp_path: Path) -> None:
    network = kind().eval()
    image = np.random.default_rng(0).standard_normal((1, 3, *HW), dtype=np.float32)
    for engine in ("ncnn", "onnxruntime", "torch"):
        path = ENGINES[engine].export(network, HW, tmp_path, "net")[0]
        assert check_parity(network, ENGINES[engine].load(path), [image]) < 1e-5
