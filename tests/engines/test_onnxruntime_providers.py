"""onnxruntime's execution providers. Here is the CPU's alone: of the others, fakes are asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from compress.engines import ENGINES, available
from compress.engines.onnxruntime import PROVIDERS, OnnxRuntime
from compress.errors import EngineError

HW = (16, 16)
OTHERS = [name for name in PROVIDERS if name != "cpu"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return OnnxRuntime().export(nn.Conv2d(3, 8, 3), HW, tmp_path, "net")[0]


@dataclass(frozen=True)
class Node:
    op_type: str
    name: str


@dataclass(frozen=True)
class Part:
    ep_name: str
    nodes: tuple[Node, ...]

    def get_nodes(self) -> tuple[Node, ...]:
        return self.nodes


class Session:
    """One that runs on the providers in `started`, and keeps what it was made with."""

    started: Sequence[str] = ()
    parts: Sequence[Part] = ()
    made: list["Session"]

    def __init__(self, path: str, options: Any, providers: list[tuple[str, dict[str, str]]], **more: Any) -> None:
        self.options, self.providers, self.more, self.falls_back = options, providers, more, True
        Session.made.append(self)

    def disable_fallback(self) -> None:
        self.falls_back = False

    def get_providers(self) -> list[str]:
        return [*self.started, "CPUExecutionProvider"]

    def get_inputs(self) -> list[Node]:
        return [Node("", "image")]

    def get_provider_graph_assignment_info(self) -> Sequence[Part]:
        assert self.options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
        return self.parts


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    """An onnxruntime with all providers."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [one.name for one in PROVIDERS.values()])
    monkeypatch.setattr("onnxruntime.InferenceSession", Session)
    monkeypatch.setattr(Session, "made", [], raising=False)
    return Session


@pytest.mark.parametrize("provider", OTHERS)
def test_a_provider_that_is_not_installed_is_refused(provider: str) -> None:
    """The message names those that are, and the package that has it."""
    with pytest.raises(EngineError, match=rf"only the providers cpu \(found '{provider}'\)") as raised:
        ENGINES["onnxruntime"].configured(provider=provider)
    assert PROVIDERS[provider].source in str(raised.value)


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(EngineError, match=r"no such provider \(found 'cudda'\); did you mean 'cuda'\?"):
        OnnxRuntime().configured(provider="cudda")


@pytest.mark.parametrize("provider", OTHERS)
def test_a_session_that_fell_back_is_refused(provider: str, session: type[Session], path: Path) -> None:
    """onnxruntime prints a line and takes the CPU where a provider does not find its device."""
    runtime = OnnxRuntime().configured(provider=provider)
    with pytest.raises(EngineError, match=rf"took the CPU in its place \(found '{provider}'\)"):
        runtime.load(path)


@pytest.mark.parametrize("provider", OTHERS)
def test_a_session_falls_back_at_no_time(
    provider: str, session: type[Session], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "started", [PROVIDERS[provider].name])
    runtime = OnnxRuntime().configured(provider=provider)
    runtime.load(path, threads=3)
    (made,) = session.made
    assert made.more == {"enable_fallback": 0}
    assert not made.falls_back
    assert [name for name, _ in made.providers] == [PROVIDERS[provider].name, "CPUExecutionProvider"]
    assert made.options.intra_op_num_threads == 3


def test_a_provider_that_fails_to_start_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("Please install TensorRT libraries\nand more")

    monkeypatch.setattr("onnxruntime.InferenceSession", fails)
    with pytest.raises(EngineError, match=r"on this provider: Please install TensorRT libraries \(found 'tensorrt'\)"):
        OnnxRuntime("tensorrt").load(path)


def test_settings_that_keep_float32(session: type[Session], path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFloat-32 is CUDA's default, float16 that of CoreML's older format; TensorRT's float16 is asked for."""
    found = {}
    for provider, precision in (
        ("cuda", "float32"),
        ("coreml", "float32"),
        ("tensorrt", "float32"),
        ("tensorrt", "float16"),
    ):
        monkeypatch.setattr(Session, "started", [PROVIDERS[provider].name])
        runtime = OnnxRuntime().configured(precision, provider)
        runtime.load(path)
        found[provider, runtime.precision] = session.made[-1].providers[0][1]
    assert found == {
        ("cuda", "float32"): {"use_tf32": "0"},
        ("coreml", "float32"): {"ModelFormat": "MLProgram"},
        ("tensorrt", "float32"): {"trt_fp16_enable": "0"},
        ("tensorrt", "float16"): {"trt_fp16_enable": "1"},
    }
    with pytest.raises(EngineError, match=r"precision: .*\(found 'float16'\); take float32"):
        OnnxRuntime().configured("float16", "cuda")


def test_nodes_that_are_left_to_the_cpu_are_named(
    session: type[Session], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = Part("CUDAExecutionProvider", (Node("Conv", "first"), Node("Relu", "act")))
    left = Part("CPUExecutionProvider", (Node("Resize", "up"),))
    monkeypatch.setattr(Session, "started", ["CUDAExecutionProvider"])
    monkeypatch.setattr(Session, "parts", [taken, left])
    assert OnnxRuntime("cuda").left_to_cpu(path) == ("Resize up",)
    assert OnnxRuntime().left_to_cpu(path) == ()


def test_onnxruntime_tells_which_provider_takes_a_node(path: Path) -> None:
    """Asked for a provider that it is not on: all nodes are another's then."""
    elsewhere = OnnxRuntime("cuda")
    session = OnnxRuntime()._session

    class OnCpu(OnnxRuntime):
        def _session(self, *arguments: Any) -> Any:
            return session(*arguments)

    assert OnCpu(elsewhere.provider).left_to_cpu(path) == ("Conv /Conv",)


def test_a_provider_is_another_device_and_has_no_kernels(session: type[Session], path: Path) -> None:
    runtime = OnnxRuntime().configured(provider="cuda")
    assert runtime.describe().device.startswith(f"{OnnxRuntime().describe().device}, on cuda")
    assert not runtime.has_kernels
    assert not runtime.assembles_kernels
    assert runtime.kernels_by_part(nn.Conv2d(3, 8, 3), HW) is None
    with pytest.raises(EngineError, match=r"not timed: .*\(found 'cuda'\)"):
        runtime.profiler(path)
    with pytest.raises(EngineError, match="inside whole networks"):
        runtime.assemble([], path.parent, "kernels")


def test_providers_are_listed(session: type[Session]) -> None:
    assert {one.engine: one for one in available()}["onnxruntime"].providers == tuple(PROVIDERS)
