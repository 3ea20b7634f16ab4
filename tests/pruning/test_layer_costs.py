"""Which time is whose when an engine's nodes are told apart."""

from pathlib import Path

import pytest
from torch import nn

from compress.measure.latency_model import open_model
from compress.measure.latency_table import TRIES, predict
from compress.measure.target import Target
from compress.pruning.layer_costs import layer_times


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
    """From the table, which learns them from the network; afterwards nothing is timed, and the times stay."""
    layers = ["0", "2", "4", "6"]
    model = open_model(Target(name), tmp_path / "table.json")
    for _ in range(TRIES):  # what is uncertain is timed again so often
        known = layer_times(model, twins(), (32, 32), layers)
    assert sorted(known.layers) == layers
    assert min(known.layers.values()) > 0
    held = dict(model.table.kernels)
    nodes = model.nodes(twins(), (32, 32))
    assert known.whole == pytest.approx(sum(nodes.times))
    assert known.whole == pytest.approx(sum(predict(model.table, {kernel: 1}).ms for kernel in nodes.kernels))
    fewer = layer_times(model, twins(), (32, 32), ["4"])
    assert fewer.layers == {"4": pytest.approx(known.layers["4"])}
    assert model.table.kernels.keys() == held.keys()
