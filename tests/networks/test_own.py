"""A network that nobody here wrote, given as a Python function and as an ONNX file, through every command's NETWORK."""

import builtins
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import Tensor, nn

from compress.artefacts.artefact import load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.artefacts.network import open_network, read_architecture
from compress.engines.export import export_and_check
from compress.errors import ArtefactError, NetworkError
from compress.jobs.export import export
from compress.jobs.latency.latency import candidates
from compress.jobs.profile.profile import profile
from compress.jobs.train import train_network
from compress.measure.counting import count
from compress.networks import architecture_from_data, architecture_to_data
from compress.networks.architecture import check_input
from compress.networks.own import OnnxNetwork, PythonNetwork
from compress.progress import Silent
from compress.recipe import DEFAULT_HW, ExportRecipe, LatencyRecipe, ProfileRecipe, TrainRecipe
from compress.report.progress import Terminal

K = 6


class Residual(nn.Module):
    """A ResNet block with functional ReLUs."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.skip(x))


class PoseResNet(nn.Module):
    """Stem, pool, two blocks, squeeze and excitation, split and concatenation, transposed convolution, resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 7, 2, 3)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.block1, self.block2 = Residual(16, 16, 1), Residual(16, 32, 2)
        self.squeeze, self.excite = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.deconv = nn.ConvTranspose2d(32, 16, 4, 2, 1)
        self.act = nn.Hardswish()
        self.maps = nn.Conv2d(16, K, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.block1(self.pool(F.silu(self.stem(x)))))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        left, right = self.act(self.deconv(x)).chunk(2, 1)
        x = F.interpolate(torch.cat((right, left), 1), scale_factor=2, mode="bilinear", align_corners=False)
        return self.maps(F.relu6(x))


def pose_resnet() -> nn.Module:
    torch.manual_seed(0)
    return PoseResNet()


class TwoMaps(nn.Module):
    """HigherHRNet's kind of outputs, in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 2 * K, 3, 4, 1), nn.Conv2d(3, K, 3, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"quarter": self.low(x), "half": self.high(x)}


def two_maps() -> nn.Module:
    return TwoMaps()


def said_so() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 2 * K, 3, 4, 1))
    network.approach, network.keypoints = "bottom-up AE", K  # type: ignore[assignment]
    return network


def not_a_network() -> int:
    return 5


def needs_an_argument(width: int) -> nn.Module:
    return nn.Conv2d(3, width, 1)


def no_maps() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10))


def one_side() -> nn.Module:
    return with_size(64)


def with_size(size: object) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, K, 3, 4, 1))
    network.input_hw = size  # type: ignore[assignment]
    return network


def wrong_approach() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, K, 1))
    network.approach = "sideways"  # type: ignore[assignment]
    return network


def legacy(network: nn.Module, path: Path, **settings: Any) -> Path:
    """The TorchScript exporter's file of opset 17."""
    names = {"input_names": ["image"], "output_names": ["maps"]}
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            network.eval(), (torch.zeros(1, 3, 64, 64),), path, dynamo=False, opset_version=17, **names, **settings
        )
    return path


def newest(network: nn.Module, path: Path) -> Path:
    """The default exporter's file: opset 18 or later."""
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(network.eval(), (torch.zeros(1, 3, 64, 64),), path, dynamo=True, verbose=False)
    return path


def any_size(network: nn.Module, path: Path) -> Path:
    return legacy(network, path, dynamic_axes={"image": {0: "b", 2: "h", 3: "w"}})


EXPORTERS = [legacy, newest, any_size]
NAME = f"{__name__}:pose_resnet"


def test_a_function_becomes_a_record() -> None:
    record = read_architecture(NAME)
    assert record == PythonNetwork(NAME, "top-down", K, 8, (2,))
    assert architecture_from_data(architecture_to_data(record), "test") == record
    network = record.build().eval()
    (maps,) = network(torch.zeros(1, 3, 40, 64))
    assert maps.shape == (1, K, 20, 32)
    expected = pose_resnet().eval()(torch.ones(1, 3, 64, 64))
    assert torch.equal(network(torch.ones(1, 3, 64, 64))[0], expected)


def test_how_people_are_found_is_inferred_or_said() -> None:
    assert read_architecture(f"{__name__}:two_maps") == PythonNetwork(
        f"{__name__}:two_maps", "bottom-up AE", K, 4, (4, 2)
    )
    said = read_architecture(f"{__name__}:said_so")
    assert isinstance(said, PythonNetwork)
    assert (said.approach, said.keypoints, said.output_strides) == ("bottom-up AE", K, (4,))


@pytest.mark.parametrize("exporter", EXPORTERS, ids=lambda e: e.__name__)
def test_an_onnx_file_gives_what_onnxruntime_gives(exporter: Callable[..., Path], tmp_path: Path) -> None:
    path = exporter(pose_resnet(), tmp_path / "net.onnx")
    record = read_architecture(str(path))
    assert isinstance(record, OnnxNetwork)
    assert (record.approach, record.keypoints, record.output_strides) == ("top-down", K, (2,))
    assert architecture_from_data(architecture_to_data(record), "test") == record
    session = onnxruntime.InferenceSession(path)
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32)
    (expected,) = session.run(None, {session.get_inputs()[0].name: image})
    with torch.no_grad():
        (maps,) = record.build()(torch.from_numpy(image))
    assert np.abs(maps.numpy() - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("form", ["function", "legacy", "newest"])
def test_it_profiles_and_exports(form: str, tmp_path: Path) -> None:
    name = (
        NAME
        if form == "function"
        else str({"legacy": legacy, "newest": newest}[form](pose_resnet(), tmp_path / "n.onnx"))
    )
    result = profile(name, ProfileRecipe(input_hw=(64, 64)), Terminal(quiet=True))
    assert result.macs == count(pose_resnet(), (64, 64)).macs
    assert result.uncounted == ()
    assert {concern.operator for concern in result.concerns} == {
        "exponential",
        "large kernel",
        "transposed convolution",
    }
    assert result.ptflops.macs is not None
    assert result.ptflops.macs > result.macs
    record = read_architecture(name)
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64), dtype=np.float32)
    exports, refused = export_and_check(
        record.build().eval(), ["onnxruntime", "ncnn"], [image], (64, 64), tmp_path / "out"
    )
    assert not refused
    assert all(export.parity <= 1e-4 for export in exports)


@pytest.mark.parametrize("form", ["function", "onnx"])
def test_its_artefact_rebuilds(form: str, tmp_path: Path) -> None:
    name = NAME if form == "function" else str(legacy(pose_resnet(), tmp_path / "net.onnx"))
    record = read_architecture(name)
    network = record.build().eval()
    for parameter in network.parameters():
        parameter.data.mul_(1.5)
    save_artefact(tmp_path / "artefact", record, network, Metadata((64, 64)))
    loaded = load_artefact(tmp_path / "artefact")
    assert loaded.architecture == record
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.module(x)[0], network(x)[0])


class Peculiar(nn.Module):
    """Maps, and what else files have: channels last, a gain beside the picture, a vector beside the maps."""

    def __init__(self, how: str = "") -> None:
        super().__init__()
        self.how = how
        self.conv, self.fc = nn.Conv2d(3, K, 3, 4, 1), nn.Linear(K, 4)

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Any:
        y = self.conv(x.permute(0, 3, 1, 2) if self.how == "last" else x)
        if gain is not None:
            y = y * gain
        if self.how == "rows":  # the batch is a number here
            y = y.reshape(4 * K, 16, 16).softmax(-1).reshape(4, K, 16, 16)
        if self.how == "vector":
            return y, self.fc(y.mean((2, 3)))
        if self.how == "large":
            return F.interpolate(y, size=(50, 50))
        return y


def peculiar(path: Path, how: str = "", shape: tuple[int, ...] = (1, 3, 64, 64), *more: Tensor, **settings: Any) -> str:
    dtype = settings.pop("dtype", torch.float32)
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            Peculiar(how).eval().to(dtype),
            (torch.zeros(shape, dtype=dtype), *more),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["image", "gain"][: 1 + len(more)],
            **settings,
        )
    return str(path)


def from_bytes(path: Path) -> str:
    """The picture is uint8."""
    model = onnx.load(peculiar(path))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    model.graph.node.insert(0, helper.make_node("Cast", ["image"], ["cast"], to=TensorProto.FLOAT))
    model.graph.node[1].input[0] = "cast"
    onnx.save(model, path)
    return str(path)


PECULIAR: dict[str, tuple[Callable[[Path], str], str]] = {
    "channels last": (lambda p: peculiar(p, "last", (1, 64, 64, 3)), r"image: float32 \[1,64,64,3\], channels last"),
    "any channels last": (
        lambda p: peculiar(p, "last", (1, 64, 64, 3), dynamic_axes={"image": {1: "h", 2: "w"}}),
        "channels last",
    ),
    "one channel": (lambda p: _with_sides(peculiar(p), (1, 1, 64, 64)), r"image: float32 \[1,1,64,64\]"),
    "bytes": (from_bytes, "takes float32 pictures.*image: uint8"),
    "half": (lambda p: peculiar(p, dtype=torch.float16), "takes float32 pictures.*image: float16"),
    "two inputs": (lambda p: peculiar(p, "", (1, 3, 64, 64), torch.tensor(1.0)), "one input.*image: .*, gain: float32"),
    "a vector": (lambda p: peculiar(p, "vector"), r"every output .* is a map .*\[1,4\].*cut it off"),
    "a batch inside": (
        lambda p: peculiar(p, "rows", (4, 3, 64, 64)),
        "fails on a 64x64 picture, being made for 4 at once",
    ),
    "training": (lambda p: str(exported_in_training(p)), "exported for inference.*BatchNormalization in training mode"),
    "no stride": (lambda p: peculiar(p, "large"), r"for a 64x64 picture output 0 is \[1, 6, 50, 50\]"),
}


def exported_in_training(path: Path) -> Path:
    network = nn.Sequential(nn.Conv2d(3, K, 3, 4, 1), nn.BatchNorm2d(K)).train()
    with warnings.catch_warnings(action="ignore"):
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, 64, 64),),
            path,
            dynamo=False,
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
    return path


def _with_sides(path: str, sides: tuple[int, ...]) -> str:
    """A file whose convolution, too, has as many channels."""
    model = onnx.load(path)
    for side, size in zip(model.graph.input[0].type.tensor_type.shape.dim, sides, strict=True):
        side.dim_value = size
    weight = next(one for one in model.graph.initializer if len(one.dims) == 4)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight)[:, : sides[1]], weight.name))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("name", PECULIAR)
def test_what_is_wrong_with_a_file_is_said(name: str, tmp_path: Path) -> None:
    write, said = PECULIAR[name]
    file = write(tmp_path / "net.onnx")
    message = fails(file)
    assert re.search(said, message), message
    assert file in message


def test_a_file_of_four_pictures_is_read_for_any_number(tmp_path: Path) -> None:
    file = peculiar(tmp_path / "net.onnx", "", (4, 3, 64, 64))
    record = read_architecture(file)
    images = np.random.default_rng(0).standard_normal((4, 3, 64, 64), dtype=np.float32)
    (expected,) = onnxruntime.InferenceSession(file).run(None, {"image": images})
    for first in (1, 3, 4):
        with torch.no_grad():
            (maps,) = record.build().eval()(torch.from_numpy(images[:first]))
        np.testing.assert_allclose(maps.numpy(), expected[:first], rtol=1e-4, atol=1e-5)


def test_initialisers_may_stand_first_among_the_inputs(tmp_path: Path) -> None:
    model = onnx.load(peculiar(tmp_path / "net.onnx", keep_initializers_as_inputs=True))
    inputs = sorted(model.graph.input, key=lambda one: one.name == "image")
    assert len(inputs) > 1
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    onnx.save(model, tmp_path / "net.onnx")
    assert read_architecture(str(tmp_path / "net.onnx")).input_hw == (64, 64)  # type: ignore[union-attr]


def test_every_command_takes_the_size_of_the_file(tmp_path: Path) -> None:
    file = str(legacy(nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 17, 1)), tmp_path / "net.onnx"))
    data = {"synthetic": {"train": 2, "val": 2}}
    assert profile(file, ProfileRecipe(), Terminal(quiet=True)).input_hw == (64, 64)
    assert open_network(file).input_hw == (64, 64)
    trained = TrainRecipe.model_validate({"data": data, "training": {"epochs": 1, "batch_size": 2, "warmup_steps": 0}})
    train_network(file, trained, tmp_path / "trained", Silent())
    assert load_artefact(tmp_path / "trained").input_hw == (64, 64)
    sizes = [one.input_hw for one in candidates(["hrnet_w32", file], LatencyRecipe(), 1, 1)]
    assert sizes == [(256, 192), (64, 64)]
    with pytest.raises(NetworkError, match="one input size only"):
        candidates([file], LatencyRecipe(input_hw=(32, 32)), 1, 1)
    recipe = ExportRecipe.model_validate({"engines": ["onnxruntime"], "data": data, "parity_pictures": 1})
    assert export(file, recipe, tmp_path / "out", Silent()).input_hw == (64, 64)
    for refused in (
        lambda: profile(file, ProfileRecipe(input_hw=(128, 128)), Terminal(quiet=True)),
        lambda: open_network(file, (128, 128)),
        lambda: export(file, recipe.model_copy(update={"input_hw": (128, 128)}), tmp_path / "other", Silent()),
    ):
        with pytest.raises(NetworkError, match=r"one input size only.*128, 128.*use 64x64"):
            refused()


def test_a_network_without_a_size_of_its_own_is_exported_at_the_size_that_every_command_takes(tmp_path: Path) -> None:
    exported = export(f"{__name__}:two_maps", ExportRecipe(engines=("onnxruntime",)), tmp_path / "out", Silent())
    assert exported.input_hw == DEFAULT_HW
    assert profile(f"{__name__}:two_maps", ProfileRecipe(), Silent()).input_hw == DEFAULT_HW


def sized() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, K, 3, 4, 1))
    network.input_hw = (96, 64)  # type: ignore[assignment]
    return network


def test_the_size_that_a_module_was_made_for_is_the_default(tmp_path: Path) -> None:
    name = f"{__name__}:sized"
    assert open_network(name).input_hw == (96, 64)
    assert open_network(name, (64, 64)).input_hw == (64, 64)


def test_a_size_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(r"input_hw must be two positive integers.*64", fails(f"{__name__}:one_side"))
    for size in (0, (64,), (64, 64, 3), (64, -64), (64.0, 64), "64x64", (True, 64), torch.ones(2), nn.ReLU()):
        monkeypatch.setattr(f"{__name__}.one_side", lambda size=size: with_size(size))
        assert "input_hw must be two positive integers" in fails(f"{__name__}:one_side")
    for good in ([96, 64], torch.Size((96, 64))):
        monkeypatch.setattr(f"{__name__}.one_side", lambda good=good: with_size(good))
        assert open_network(f"{__name__}:one_side").input_hw == (96, 64)


class OpenBatch(nn.Module):
    """Traced with one picture; `step` is written for one, or for any number."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.step = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, K, 1), step

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.step(self.first(x)))


STEPS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "means of all": (lambda x: x * x.reshape(1, 8, -1).mean(2).reshape(1, 8, 1, 1), "give other maps"),
    "softmax over all": (lambda x: x * x.softmax(0), "give other maps"),
    "one's shape": (lambda x: x.reshape(1, 4, 2, 16, 16).transpose(1, 2).reshape(1, 8, 16, 16), "fails on three"),
    "the first alone": (lambda x: x[:1], "give other maps"),
    "any number": (lambda x: x * x.flatten(2).mean(2)[:, :, None, None], ""),
}


@pytest.mark.parametrize("name", STEPS)
def test_an_open_batch_is_tried_with_several_pictures(name: str, tmp_path: Path) -> None:
    step, said = STEPS[name]
    file = legacy(OpenBatch(step), tmp_path / "net.onnx", dynamic_axes={"image": {0: "b"}, "maps": {0: "b"}})
    if said:
        message = fails(file)
        assert "open batch" in message
        assert said in message
    else:
        assert isinstance(read_architecture(str(file)), OnnxNetwork)


def test_a_file_of_one_size_says_so(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, K, 3, 2, 1)
            self.place = nn.Parameter(torch.randn(1, K, 32, 32))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + self.place

    record = read_architecture(str(legacy(Fixed(), tmp_path / "net.onnx")))
    assert isinstance(record, OnnxNetwork)
    assert record.input_hw == (64, 64)
    check_input(record, (64, 64), "test")
    with pytest.raises(NetworkError, match=r"one input size only.*use 64x64"):
        check_input(record, (128, 128), "test")


def fails(name: object) -> str:
    with pytest.raises((ArtefactError, NetworkError)) as caught:
        read_architecture(str(name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mistakes_with_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such module" in fails("nowhere.at_all:build")
    assert "no such function" in fails(f"{__name__}:nothing")
    assert "must return a torch.nn.Module" in fails(f"{__name__}:not_a_network")
    assert "takes no arguments" in fails(f"{__name__}:needs_an_argument")
    assert "returns a map" in fails(f"{__name__}:no_maps")
    assert "approach must be one of" in fails(f"{__name__}:wrong_approach")
    monkeypatch.chdir(tmp_path)
    Path("broken_module.py").write_text("import torch\n1 / 0\n")
    assert "cannot be imported: ZeroDivisionError" in fails("broken_module:build")
    Path("here_module.py").write_text("from torch import nn\ndef build():\n    return nn.Conv2d(3, 4, 1)\n")
    assert read_architecture("here_module:build").keypoints == 4  # type: ignore[union-attr]


def test_mistakes_with_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file" in fails(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07not a model")
    assert "not a valid ONNX file" in fails(tmp_path / "broken.onnx")
    maps = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 64, 64])
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 64])
    graph = helper.make_graph([helper.make_node("Mish", ["x"], ["y"])], "g", [image], [maps])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "mish.onnx"
    )
    assert "lacks an operator" in fails(tmp_path / "mish.onnx")
    assert "Mish" in fails(tmp_path / "mish.onnx")
    path = legacy(pose_resnet(), tmp_path / "net.onnx")
    record = read_architecture(str(path))
    legacy(TwoMaps().low, path)
    with pytest.raises(NetworkError, match="must be the one the architecture was made of"):
        record.build()

    def without_converter(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnx2torch":
            raise ModuleNotFoundError("No module named 'onnx2torch'", name=name)
        return imported(name, *args, **kwargs)

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without_converter)
    assert "pip install 'compress-pose[onnx]'" in fails(path)


def test_unknown_names_are_named() -> None:
    assert "did you mean 'hrnet_w32'" in fails("hrnet_w23")
    assert "compress networks" in fails("something else")
