"""Which time is whose when an engine's nodes are told apart."""

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from compress.engines import engine
from compress.pruning.layer_costs import LayerTiming, measured


def twins() -> nn.Module:
    """Layers of equal multiply-adds, and one that the engine pads: only their names tell them apart."""
    wide = nn.Conv2d(16, 16, 3, padding=1)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        wide,
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Sigmoid(),
        nn.Conv2d(16, 17, 1),
    ).eval()


@pytest.mark.parametrize("name", ["onnxruntime", "ncnn"])
def test_every_layer_with_weights_has_a_time_and_others_none(name: str, tmp_path: Path) -> None:
    layers = ["0", "2", "4", "6"]
    how = LayerTiming(layers, (32, 32), engine(name), rounds=5)
    known, clock = measured(how, twins(), frozenset(), tmp_path, None)
    assert sorted(known.layers) == layers
    assert min(known.layers.values()) > 0
    assert clock > 0
    fewer, same = measured(replace(how, weighted=["4"]), twins(), frozenset({1}), tmp_path, clock)
    assert (list(fewer.layers), fewer.removed, same) == (["4"], frozenset({1}), clock)
