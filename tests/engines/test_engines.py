"""One conformance file for every engine."""

import copy
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.engines import ENGINES, available, check_parity, engine
from compress.engines.engine import HALF_PARITY_LIMIT, PARITY_LIMIT, Engine, Image, ended, half_on_arm
from compress.engines.mnn import SPARSE_BLOCK, Mnn
from compress.engines.ncnn import Ncnn
from compress.engines.onnxruntime_fusion import channel_block
from compress.errors import EngineError, NetworkError, ParityError
from compress.measure.kernels import kernels_of_engine
from compress.networks.blocks import build_block, conv_bn
from compress.networks.dir_bhrnet import DirBHRNet
from compress.networks.hrnet import HRNet

HW = (64, 96)
NETWORKS = {
    "dir_bhrnet": DirBHRNet(
        8, ((1,), (1, 1), (1, 1, 1), (1, 1, 1, 1)), kinds=("ir", "dir_se", "residual", "ir_dw"), head_filters=8
    ),
    "hrnet": HRNet(8, (1, 1, 1), 1),
}
FILES = {
    "onnxruntime": {"net.onnx"},
    "ncnn": {"net.ncnn.param", "net.ncnn.bin"},
    "mnn": {"net.mnn"},
    "mnn_sparse": {"net.sparse.mnn"},
    "openvino": {"net.xml", "net.bin"},
    "litert": {"net.tflite"},
    "torch": {"net.torchscript"},
}


def images(n: int = 2) -> list[Image]:
    return [np.random.default_rng(seed).standard_normal((1, 3, *HW), dtype=np.float32) for seed in range(n)]


def with_statistics(network: nn.Module) -> nn.Module:
    """Batch norms that are not the identity, so that folding them wrongly would show."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.1
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    return network


@pytest.fixture(params=sorted(ENGINES))
def runtime(request: pytest.FixtureRequest) -> Engine:
    if request.param.startswith("mnn"):
        pytest.importorskip("MNN")
    if request.param == "openvino" and find_spec("openvino") is None:  # an import of it would send something
        pytest.skip("OpenVINO is not installed")
    if request.param == "litert":
        request.getfixturevalue("litert")
    return ENGINES[request.param]


@pytest.mark.parametrize("name", NETWORKS)
def test_export_gives_torchs_outputs(
    runtime: Engine, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = with_statistics(NETWORKS[name].build())
    paths = runtime.export(network, HW, tmp_path / "new", "net")
    assert {path.name for path in (tmp_path / "new").iterdir()} == FILES[runtime.name] == {path.name for path in paths}
    assert check_parity(network, runtime.load(paths[0]), images()) < 1e-5
    assert capfd.readouterr() == ("", "")


def test_export_leaves_the_network_alone(runtime: Engine, tmp_path: Path) -> None:
    network = nn.Sequential(conv_bn(3, 8, 3, 2), build_block("dir_se", 8, 2)).train()
    network[0].eval()
    before = copy.deepcopy(network)
    path = runtime.export(network, HW, tmp_path, "net")[0]
    check_parity(network, runtime.load(path), images(1))
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), before.state_dict().values(), strict=True)
    )


def test_a_different_network_fails_parity(runtime: Engine, tmp_path: Path) -> None:
    network = with_statistics(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 17, 1)))
    runner = runtime.load(runtime.export(network, HW, tmp_path, "net")[0])
    with torch.no_grad():
        network[2].weight[3] *= 1.01  # type: ignore[operator]
    with pytest.raises(ParityError, match=r"image 0, output 0.*relative error"):
        check_parity(network, runner, images())


def test_describe(runtime: Engine) -> None:
    description = runtime.describe()
    assert description.engine == runtime.name
    assert description.version
    assert description.cpu in description.device
    assert description == runtime.describe()


@pytest.mark.parametrize("content", [None, "not a model"])
def test_a_file_that_is_no_model(runtime: Engine, tmp_path: Path, content: str | None) -> None:
    for name in FILES[runtime.name]:
        if content is not None:
            (tmp_path / name).write_text(content)
    first = tmp_path / max(FILES[runtime.name])
    with pytest.raises(EngineError, match="export the network"):
        runtime.load(first)


def test_an_operation_the_engine_lacks(runtime: Engine, tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            # torch lacks none, but its traced networks must return tensors.
            return torch.linalg.svdvals(x) if runtime.name != "torch" else "no tensor"

    with pytest.raises(EngineError, match="Odd"):
        runtime.export(Odd(), HW, tmp_path, "net")
    assert list(tmp_path.iterdir()) == []


def test_whole_passes_and_timed_ones(runtime: Engine, tmp_path: Path) -> None:
    """As many times as kernels in every pass, and the kernels' convolutions are the network's."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 17, 1))
    path = runtime.export(network, HW, tmp_path, "net")[0]
    if not runtime.has_kernels:
        with pytest.raises(EngineError, match=f"{runtime.name} has no kernels"):
            runtime.profiler(path)
        return
    profiler = runtime.profiler(path)
    profiler.run()
    for _ in range(3):
        profiler.run_timed()
    profile = profiler.finish()
    assert [len(row) for row in profile.times_ms] == [len(profile.kernels)] * 3
    assert len(profile.names) == len(profile.kernels)
    assert all(ms >= 0 for row in profile.times_ms for ms in row)
    assert sum("Conv" in kernel.operator for kernel in profile.kernels) == 2


def test_an_engine_does_what_it_says_it_can(runtime: Engine, tmp_path: Path) -> None:
    """Kernels found by rules are the engine's own; only an engine that assembles kernels takes them in a model."""
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU())
    parts = runtime.kernels_by_part(network, HW)
    known = parts and sum((Counter(kernels) for kernels in parts.values()), Counter())
    assert runtime.precisions[0] == "float32"
    assert runtime.channel_multiple % 8 == 0
    if runtime.has_kernels:
        kernels = kernels_of_engine(network, HW, runtime)
        assert known is None or known == Counter(kernels)
        chosen = [kernel for kernel in kernels if kernel.macs]
        if runtime.assembles_kernels:
            runtime.profiler(runtime.assemble(chosen, tmp_path, "kernels")[0]).run()
        else:
            with pytest.raises(EngineError, match="inside whole networks"):
                runtime.assemble(chosen, tmp_path, "kernels")
    else:
        assert known is None
        assert not runtime.assembles_kernels


def test_every_precision_gives_torchs_outputs_within_its_limit(runtime: Engine, tmp_path: Path) -> None:
    network = with_statistics(NETWORKS["hrnet"].build())
    path = runtime.export(network, HW, tmp_path, "net")[0]
    for precision in runtime.precisions:
        configured = runtime.configured(precision)
        assert (configured.name, configured.precision) == (runtime.name, precision)
        assert configured.parity_limit == (HALF_PARITY_LIMIT if precision == "float16" else runtime.parity_limit)
        check_parity(network, configured.load(path), images(1), configured.parity_limit)


def test_a_precision_or_provider_that_an_engine_lacks_is_refused(runtime: Engine) -> None:
    with pytest.raises(EngineError, match=rf"{runtime.name} does not compute .*\(found 'float8'\); take float32"):
        runtime.configured("float8")
    with pytest.raises(EngineError, match=r"provider: .*\(found 'abacus'\)"):
        runtime.configured(provider="abacus")
    assert runtime.configured(provider=runtime.provider) == runtime


def test_ncnn_computes_in_float16_only_where_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ncnn's own default is float16 where the CPU has it, so all its switches are set."""
    path = ENGINES["ncnn"].export(nn.Conv2d(3, 8, 3), HW, tmp_path, "net")[0]
    monkeypatch.setattr("ncnn.cpu_support_arm_asimdhp", lambda: 0)
    assert Ncnn().precisions == ("float32",)
    monkeypatch.setattr("ncnn.cpu_support_arm_asimdhp", lambda: 1)
    assert Ncnn().precisions == ("float32", "float16")
    for precision in Ncnn().precisions:
        option: Any = Ncnn().configured(precision).load(path).net.opt  # type: ignore[attr-defined]
        switches = [option.use_fp16_packed, option.use_fp16_storage, option.use_fp16_arithmetic]
        assert switches == [precision == "float16"] * 3
        assert not option.use_bf16_storage


def test_mnn_computes_in_float16_only_where_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mnn = pytest.importorskip("MNN")
    path = ENGINES["mnn"].export(nn.Conv2d(3, 8, 3), HW, tmp_path, "net")[0]
    asked: list[str] = []

    class Recorded(mnn.Interpreter):  # type: ignore[misc, name-defined]
        def createSession(self, config: dict[str, Any]) -> Any:  # noqa: N802 (MNN's name)
            asked.append(config["precision"])
            return super().createSession(config)

    monkeypatch.setattr("MNN.Interpreter", Recorded)
    monkeypatch.setattr("compress.engines.mnn.half_on_arm", lambda: True)
    for precision in Mnn().precisions:
        Mnn().configured(precision).load(path)
        Mnn().configured(precision).profiler(path)
    assert asked == ["high", "high", "low", "low"]


@pytest.mark.parametrize(("machine", "has"), [("arm64", True), ("x86_64", False)])
def test_macs_with_arm_compute_in_float16(monkeypatch: pytest.MonkeyPatch, machine: str, has: bool) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert half_on_arm.__wrapped__() is has


def test_float16_has_a_limit_of_its_own() -> None:
    """Above thirty times what rounding to 11 bits does."""
    assert PARITY_LIMIT < 30 * 2**-11 < HALF_PARITY_LIMIT
    assert Ncnn("float16").parity_limit == Mnn(precision="float16").parity_limit == HALF_PARITY_LIMIT


def test_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    """As told by each engine's own package; one that is missing says how to install it."""
    monkeypatch.setitem(sys.modules, "MNN", None)
    found = {one.engine: one for one in available()}
    assert list(found)[: len(ENGINES)] == list(ENGINES)
    for package in ("onnxruntime", "ncnn", "torch"):
        one = found[package]
        assert one.installed
        assert (one.version, one.missing) == (sys.modules[package].__version__, "")
        assert one.precisions == ENGINES[package].precisions
        assert one.install == "pip install compress-pose"
    for name in ("mnn", "mnn_sparse"):
        assert not found[name].installed
        assert (found[name].version, found[name].missing) == ("", "MNN is not installed")
        assert found[name].install == "pip install 'compress-pose[mnn]'"


def test_onnxruntime_pads_channels_to_its_block() -> None:
    assert ENGINES["onnxruntime"].channel_multiple == max(8, channel_block())


def test_onnxruntime_refuses_graphs_within_the_graph(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    def branch(name: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
        return helper.make_graph([helper.make_node("Abs", ["x"], [name])], name, [], [value])

    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        helper.make_tensor_value_info("if", TensorProto.BOOL, []),
    ]
    node = helper.make_node("If", ["if"], ["y"], then_branch=branch("a"), else_branch=branch("b"))
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), tmp_path / "if.onnx"
    )
    profiler = ENGINES["onnxruntime"].profiler(tmp_path / "if.onnx")
    profiler.run_timed()
    with pytest.raises(EngineError, match="control flow"):
        profiler.finish()


def test_a_hard_swish_that_runs_as_its_definition_is_told_apart(tmp_path: Path) -> None:
    """onnxruntime names the parts of its definition in the profile, but not in the graph that it saves."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.shuffle, self.act = nn.Conv2d(3, 16, 3, padding=1), nn.PixelShuffle(2), nn.Hardswish()
            self.pool = nn.MaxPool2d(2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.shuffle(self.conv(x))
            return self.act(y), self.act(self.pool(y))

    runtime = ENGINES["onnxruntime"]
    profiler = runtime.profiler(runtime.export(Two().eval(), (16, 16), tmp_path, "model")[0])
    profiler.run_timed()
    kernels = profiler.finish().kernels
    of_parts = [kernel for kernel in kernels if kernel.operator in ("HardSigmoid", "Mul")]
    assert sorted((kernel.operator, kernel.outputs[0].shape) for kernel in of_parts) == [
        ("HardSigmoid", (1, 4, 16, 16)),
        ("HardSigmoid", (1, 4, 32, 32)),
        ("Mul", (1, 4, 16, 16)),
        ("Mul", (1, 4, 32, 32)),
    ]


def test_mnn_takes_layers_pruned_in_blocks_for_its_sparse_kernels(tmp_path: Path) -> None:
    """Nine in ten blocks of four filters are zero; the layer of few zeros stays dense. Outputs are the same."""
    pytest.importorskip("MNN")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 1))
    with torch.no_grad():
        for layer, kept in ((network[1], 0.1), (network[2], 0.9)):
            shape = layer.weight.shape
            mask = torch.rand(shape[0] // SPARSE_BLOCK, 1, *shape[1:]) < kept
            layer.weight *= mask.expand(-1, SPARSE_BLOCK, -1, -1, -1).reshape(shape)
    dense, sparse = (Mnn(sparse).export(network, HW, tmp_path, "net")[0] for sparse in (False, True))
    check_parity(network, ENGINES["mnn_sparse"].load(sparse), images(1))
    assert sparse.stat().st_size < 0.4 * dense.stat().st_size
    shares = {}
    for path in (dense, sparse):
        profiler = ENGINES["mnn_sparse"].profiler(path)
        profiler.run_timed()
        shares[path] = [
            dict(u.attributes).get("sparse") for u in profiler.finish().kernels if u.operator == "Convolution"
        ]
    assert shares[dense] == [None, None, None]
    assert shares[sparse] == [None, pytest.approx(0.9, abs=0.03), None]


def test_a_missing_mnn_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "MNN", None)
    with pytest.raises(EngineError, match=r"MNN is not installed.*pip install 'compress-pose\[mnn\]'"):
        ENGINES["mnn"].export(nn.Conv2d(3, 8, 1), HW, tmp_path, "net")
    assert list(tmp_path.iterdir()) == []


def test_onnx_names(tmp_path: Path) -> None:
    import onnx

    path = ENGINES["onnxruntime"].export(NETWORKS["dir_bhrnet"].build(), HW, tmp_path, "net")[0]
    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == ["image"]
    assert [o.name for o in graph.output] == ["output0", "output1"]
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [1, 3, *HW]


class Fixed:
    """A runner that always gives the same arrays."""

    def __init__(self, *outputs: np.ndarray) -> None:
        self.outputs = outputs

    def run(self, image: Image) -> tuple[np.ndarray, ...]:
        return self.outputs


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ([np.full((1, 3, *HW), np.nan, np.float32)], "nan"),
        ([np.zeros((1, 3, 1, 1), np.float32)], "shape"),
        ([], "0 outputs for 1"),
        ([np.full((1, 3, *HW), np.inf, np.float32)], "inf"),
    ],
)
def test_wrong_outputs_fail_parity(output: list[np.ndarray], reason: str) -> None:
    with pytest.raises(ParityError, match=reason):
        check_parity(nn.Identity(), Fixed(*output), images(1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_network_that_is_not_finite_is_not_blamed_on_the_engine(value: float) -> None:
    image = np.full((1, 3, *HW), value, np.float32)
    with pytest.raises(NetworkError, match="finite numbers"):
        check_parity(nn.Identity(), Fixed(image), [image])


def test_zeros_are_compared_absolutely() -> None:
    zeros = np.zeros((1, 3, *HW), np.float32)
    assert check_parity(nn.Identity(), Fixed(zeros), [zeros]) == 0
    with pytest.raises(ParityError, match="relative error"):
        check_parity(nn.Identity(), Fixed(zeros + 1e-3), [zeros])


def test_an_engine_that_fails_while_running_is_named() -> None:
    class Failing:
        def run(self, image: Image) -> tuple[np.ndarray, ...]:
            raise RuntimeError("no kernel\nin all of this")

    with pytest.raises(EngineError, match="cannot run the exported network: no kernel"):
        check_parity(nn.Identity(), Failing(), images(1))


class Scaled(nn.Module):
    """Normalises its input itself, as many networks do: ncnn works in place then."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.conv, self.in_place = nn.Conv2d(3, 4, 3), in_place

    def forward(self, x: Tensor) -> Any:
        return self.conv(x.mul_(2).sub_(1) if self.in_place else x * 2 - 1)


def test_a_first_step_in_place_does_not_change_the_picture(runtime: Engine, tmp_path: Path) -> None:
    picture = images(1)[0]
    before = picture.copy()
    network = Scaled(in_place=runtime.name in ("ncnn", "torch"))  # ONNX has no such thing
    assert check_parity(network, runtime.load(runtime.export(network, HW, tmp_path, "net")[0]), [picture]) < 1e-5
    np.testing.assert_array_equal(picture, before)


def test_outputs_come_in_the_networks_order(runtime: Engine, tmp_path: Path) -> None:
    """The last one is computed first; all have one shape, so that only their values tell them apart."""

    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.ModuleList([nn.Conv2d(3, 6, 1), *(nn.Conv2d(6, 6, 1) for _ in range(11))])

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            made: list[Tensor] = []
            for layer in self.layers:
                made.insert(0, layer(made[0] if made else x))
            return tuple(made)

    network = Backwards()
    assert check_parity(network, runtime.load(runtime.export(network, HW, tmp_path, "net")[0]), images(1)) < 1e-5


@pytest.mark.parametrize(("status", "text"), [(3, "exit status 3"), (-11, "ended by SIGSEGV"), (-99, "by signal 99")])
def test_how_a_program_ended(status: int, text: str) -> None:
    assert text in ended(status)


def test_what_pnnx_says_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "pnnx"
    program.write_text("#!/bin/sh\necho '############# pass_level1'\necho 'what: broken' >&2\nkill -SEGV $$\n")
    program.chmod(0o755)
    monkeypatch.setattr("pnnx.EXEC_PATH", str(program))
    with pytest.raises(EngineError, match="ended by SIGSEGV in pass_level1; what: broken") as raised:
        ENGINES["ncnn"].export(nn.Conv2d(3, 8, 1), HW, tmp_path / "out", "net")
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_refused_export_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """torch prints the whole graph from C, and its message has the Python stack."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d((5, 7)))
    with pytest.raises(EngineError, match="adaptive_avg_pool2d") as raised:
        ENGINES["onnxruntime"].export(network, HW, tmp_path, "net")
    assert capfd.readouterr() == ("", "")
    assert len(str(raised.value)) < 300


def test_the_error_is_relative_to_the_largest_output() -> None:
    image = images(1)[0]
    off = image.copy()
    off[0, 0, 0, 0] += 0.001 * np.abs(image).max()
    assert check_parity(nn.Identity(), Fixed(off), [image], limit=0.01) == pytest.approx(0.001, rel=1e-2)


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(EngineError, match="did you mean 'ncnn'"):
        engine("ncn")
