"""What every network must do: one file over all builders."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from small import SMALL
from torch import Tensor, nn

from compress.artefacts.artefact import load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.engines import ENGINES, check_parity
from compress.engines.onnxruntime import OnnxRuntime
from compress.measure.counting import count, trace
from compress.networks import FAMILIES, NETWORKS, Architecture, architecture_from_data, architecture_to_data, made_for
from compress.networks.architecture import without_values


def channels(architecture: Architecture) -> list[int]:
    """Of every output, by what the approach promises."""
    joints, outputs = architecture.keypoints, len(architecture.output_strides)
    if architecture.approach == "bottom-up AE":
        return [2 * joints, *[joints] * (outputs - 1)]
    if architecture.approach == "SimCC":
        return [joints, joints]
    if architecture.approach == "PAF":
        return [joints + 1 + 2 * architecture.limbs] * outputs
    return [joints] * outputs


def shapes(architecture: Architecture, batch: int, height: int, width: int) -> list[tuple[int, ...]]:
    strides = architecture.output_strides
    if architecture.approach == "SimCC":
        sides = zip((width, height), strides, strict=True)
        return [(batch, architecture.keypoints, round(side / stride)) for side, stride in sides]
    return [(batch, c, height // s, width // s) for c, s in zip(channels(architecture), strides, strict=True)]


def awake(network: nn.Module) -> nn.Module:
    """Blocks start as the identity and heads near zero: with that, some paths would not be seen from outside."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    return network


def input_hw(architecture: Architecture) -> tuple[int, int]:
    """A small rectangular input."""
    side = max(32, architecture.stride)
    return 2 * side, 3 * side


def test_every_family_is_here() -> None:
    # `python` and `onnx` are networks of the user's own: tests/networks/test_own.py.
    assert {architecture.family for architecture in SMALL.values()} == set(FAMILIES) - {"python", "onnx"}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("batch", [1, 2])
def test_outputs_have_the_promised_shapes(name: str, batch: int) -> None:
    architecture = replace(SMALL[name], keypoints=5)
    height, width = input_hw(architecture)
    outputs = architecture.build().eval()(torch.randn(batch, 3, height, width))
    assert isinstance(outputs, tuple)
    assert [tuple(output.shape) for output in outputs] == shapes(architecture, batch, height, width)


@pytest.mark.parametrize("name", NETWORKS)
def test_full_size_networks_have_the_promised_shapes(name: str) -> None:
    height, width = 4 * NETWORKS[name].stride, 6 * NETWORKS[name].stride
    architecture = made_for(NETWORKS[name], (height, width))
    with without_values():
        network = architecture.build()
    assert list(trace(network, (height, width)).outputs) == shapes(architecture, 1, height, width)


@pytest.mark.parametrize("name", SMALL)
def test_smallest_and_square_inputs_work(name: str) -> None:
    for side in (SMALL[name].stride, 2 * SMALL[name].stride):
        architecture = made_for(SMALL[name], (side, side))
        outputs = architecture.build().eval()(torch.randn(1, 3, side, side))
        assert [tuple(output.shape) for output in outputs] == shapes(architecture, 1, side, side)


@pytest.mark.parametrize("name", SMALL)
def test_backward_reaches_every_parameter(name: str) -> None:
    network = awake(SMALL[name].build()).train()
    outputs: tuple[Tensor, ...] = network(torch.randn(2, 3, *input_hw(SMALL[name])))
    torch.manual_seed(1)
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()  # type: ignore[union-attr]
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", SMALL)
def test_training_changes_statistics_and_evaluation_nothing(name: str) -> None:
    network = SMALL[name].build()
    image = torch.randn(2, 3, *input_hw(SMALL[name]))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        network.eval()
        first, again = network(image), network(image)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        network.train()(image)
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    changed = network.state_dict()
    assert [n for n in norms if torch.equal(changed[f"{n}.running_var"], before[f"{n}.running_var"])] == []


@pytest.mark.parametrize("name", SMALL)
def test_one_picture_of_a_batch_does_not_see_the_others(name: str) -> None:
    network = awake(SMALL[name].build()).eval()
    images = torch.randn(3, 3, *input_hw(SMALL[name]))
    with torch.no_grad():
        together, alone = network(images), network(images[1:2])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:2], b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines that convert ONNX files get that of the engine before, for one and the same network."""
    real, kept = OnnxRuntime.export, tmp_path_factory.mktemp("onnx") / "kept.onnx"
    of: list[tuple[nn.Module, tuple[int, int]]] = []

    def export(
        self: OnnxRuntime, network: nn.Module, input_hw: tuple[int, int], folder: Path, stem: str
    ) -> tuple[Path, ...]:
        if not of or of[0][0] is not network or of[0][1] != input_hw:
            shutil.copy(real(self, network, input_hw, folder, stem)[0], kept)
            of[:] = [(network, input_hw)]
        return (Path(shutil.copy(kept, folder / f"{stem}.onnx")),)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxRuntime, "export", export)
        yield


@cache
def awake_small(name: str) -> nn.Module:
    return awake(SMALL[name].build())


SLOW = {"edite_hrnet_dense", "edite_hrnet_unmixed"}  # seconds each, and no operation that edite_hrnet lacks


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", [name for name in SMALL if name not in SLOW])
def test_engines_give_torchs_outputs(
    name: str, engine: str, onnx_files: None, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if engine == "litert":
        request.getfixturevalue("litert")
    network, size = awake_small(name), input_hw(SMALL[name])
    path, *_ = ENGINES[engine].export(network, size, tmp_path, "model")
    images = np.random.default_rng(0).normal(size=(2, 1, 3, *size)).astype(np.float32)
    limit = {"mnn": 5e-4, "mnn_sparse": 5e-4}.get(engine, 1e-4)  # MNN's large Winograd tiles
    assert ENGINES[engine].parity_limit == limit
    assert check_parity(network, ENGINES[engine].load(path), images, limit) <= limit


@pytest.mark.parametrize("name", NETWORKS)
def test_architecture_goes_to_plain_data_and_back(name: str) -> None:
    data = architecture_to_data(NETWORKS[name])
    assert architecture_from_data(data, "test") == NETWORKS[name]


@pytest.mark.parametrize("name", SMALL)
def test_artefact_rebuilds_bit_equal(name: str, tmp_path: Path) -> None:
    network = awake(SMALL[name].build()).eval()
    save_artefact(tmp_path, SMALL[name], network, Metadata((64, 64)))
    loaded = load_artefact(tmp_path)
    assert loaded.architecture == SMALL[name]
    x = torch.randn(1, 3, *input_hw(SMALL[name]))
    assert all(torch.equal(a, b) for a, b in zip(network(x), loaded.module(x), strict=True))
    assert {path.name for path in tmp_path.iterdir()} == {"architecture.yaml", "weights.safetensors"}


@pytest.mark.parametrize("name", SMALL)
def test_everything_in_it_can_be_counted(name: str) -> None:
    counted = count(SMALL[name].build(), input_hw(SMALL[name]))
    assert counted.uncounted == ()
    assert counted.macs > 0


@pytest.mark.parametrize("name", ["openpose", "dite_hrnet", "rtmpose"])
def test_a_network_without_values_has_the_shapes_of_one_with_values(name: str) -> None:
    with without_values():
        empty = SMALL[name].build()
    assert {one.device.type for one in (*empty.parameters(), *empty.buffers())} == {"meta"}
    full = SMALL[name].build()
    assert [(name, one.shape, one.dtype) for name, one in empty.state_dict().items()] == [
        (name, one.shape, one.dtype) for name, one in full.state_dict().items()
    ]


def test_without_values_tensors_elsewhere_are_drawn() -> None:
    drawn = torch.zeros(100, device="cpu")
    with without_values():
        drawn.normal_()
    assert drawn.std() > 0.5
