"""What is OpenVINO's alone; the rest is in test_engines.py. Only compress.engines.openvino may import it."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress.engines.openvino import OpenVino
from compress.engines.packed_run import passes_ms
from compress.errors import EngineError
from compress.networks.mobile_openpose import MobileOpenPose

HW = (32, 48)
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8))
    return OpenVino().export(network, HW, tmp_path, "net")[0]


_WATCHED = """
import os, sys

def watch(event, arguments):
    if event.startswith(("socket.", "urllib.")):
        with open(os.environ["SEEN"], "a") as seen:
            print(event, file=seen)
        raise OSError("no network in this test")

sys.addaudithook(watch)
"""


@needs_openvino
@pytest.mark.parametrize("asks", [False, True])
def test_nothing_is_sent(tmp_path: Path, asks: bool) -> None:
    """In a process without a network, and in all that it starts: no socket is opened, and the telemetry package leaves
    no identifier at home. `asks`: the watch sees one that is."""
    home, seen = tmp_path / "home", tmp_path / "seen"
    home.mkdir()
    (tmp_path / "sitecustomize.py").write_text(_WATCHED)
    program = (
        "import socket\ntry: socket.create_connection(('localhost', 9))\nexcept OSError: pass\n"
        if asks
        else "import time\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from torch import nn\n"
        "from compress.engines import ENGINES\n"
        "runtime = ENGINES['openvino']\n"
        "runtime.describe()\n"
        "path = runtime.export(nn.Conv2d(3, 4, 3), (16, 16), Path('out'), 'net')[0]\n"
        "runtime.load(path).run(np.zeros((1, 3, 16, 16), np.float32))\n"
        "runtime.profiler(path).run_timed()\n"
        "import openvino\n"
        "openvino.convert_model(ENGINES['onnxruntime'].export(nn.ReLU(), (16, 16), Path('out'), 'net')[0])\n"
        "time.sleep(1)\n"  # it sends from a thread
    )
    folders = [str(tmp_path), str(Path(__file__).parents[2])]
    environment = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD", "JENKINS_URL")}
    environment |= {"HOME": str(home), "SEEN": str(seen), "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert seen.exists() is asks
    assert not (home / "intel").exists()


@needs_openvino
def test_all_nodes_compute_in_float32(path: Path) -> None:
    """Whatever the CPU could do faster: the default is bfloat16 on many."""
    model = OpenVino().load(path).model  # type: ignore[attr-defined]
    assert model.get_property("INFERENCE_PRECISION_HINT").to_dtype() == np.float32
    nodes = [node.get_rt_info() for node in model.get_runtime_model().get_ops()]
    precisions = {str(info["runtimePrecision"].value) for info in nodes}
    assert precisions - {"i32", "i64"} == {"f32"}  # shapes are integers


@needs_openvino
def test_it_has_the_threads_that_were_asked_for(path: Path) -> None:
    model: Any = OpenVino().load(path, 1).model  # type: ignore[attr-defined]
    assert (model.get_property("INFERENCE_NUM_THREADS"), model.get_property("NUM_STREAMS")) == (1, 1)
    with pytest.raises(EngineError, match=r"threads: OpenVINO starts no more than \d+ threads .*\(found 1000\)"):
        OpenVino().load(path, 1000)


@needs_openvino
def test_weights_without_a_graph_and_a_graph_without_weights(path: Path) -> None:
    path.with_suffix(".bin").unlink()
    with pytest.raises(EngineError, match=r"net\.bin: OpenVINO cannot load the model: no such file"):
        OpenVino().load(path)


@needs_openvino
def test_what_ran_once_before_the_first_pass_is_no_kernel(tmp_path: Path) -> None:
    """With AVX-512 weights are laid out anew at the first pass: a node of the runtime graph that has no time."""
    network = MobileOpenPose((1, 1), width=8, features=32, refinement="one_7x7").build().eval()
    profiler = OpenVino().profiler(OpenVino().export(network, (64, 64), tmp_path, "net")[0])
    for _ in range(14):
        profiler.run_timed()
    profile = profiler.finish()
    assert {len(times) for times in profile.times_ms} == {len(profile.kernels)} == {len(profile.names)}
    assert sum(kernel.operator == "Convolution" for kernel in profile.kernels) == sum(
        isinstance(module, nn.Conv2d) for module in network.modules()
    )
    moved = [kernel for kernel in profile.kernels if kernel.operator == "Reorder"]
    assert all(not operand.constant for kernel in moved for operand in kernel.inputs)


@needs_openvino
def test_kernels_are_nodes_with_what_was_fused_into_them(path: Path) -> None:
    """Strides, padding and dilation are the network's; multiply-adds are outputs times weights of one."""
    profiler = OpenVino().profiler(path)
    for _ in range(14):  # on three sets of counters
        profiler.run_timed()
    profile = profiler.finish()
    assert [len(row) for row in profile.times_ms] == [len(profile.kernels)] * 14
    first, second = (kernel for kernel in profile.kernels if kernel.operator == "Convolution")
    assert first.macs == 16 * 24 * 8 * 3 * 9
    assert second.macs == 16 * 24 * 8 * 9
    assert [operand.shape for operand in first.inputs][:2] == [(1, 3, *HW), (8, 3, 3, 3)]
    assert first.outputs[0].shape == second.outputs[0].shape == (1, 8, 16, 24)
    attributes = dict(first.attributes)
    assert (attributes["strides"], attributes["pads_begin"]) == ((2, 2), (1, 1))
    assert attributes["operations"] == "Convolution+Add+Relu"  # the bias is added
    assert "dilations" not in attributes
    attributes = dict(second.attributes)
    assert (attributes["dilations"], attributes["pads_begin"]) == ((2, 2), (2, 2))
    assert "strides" not in attributes
    reordered = [dict(kernel.attributes) for kernel in profile.kernels if kernel.operator == "Reorder"]
    assert all(attributes["from"] != attributes["layout"] for attributes in reordered)


def test_times_of_passes_from_counters() -> None:
    """Counters as OpenVINO keeps them: passes cut off to microseconds, then their mean. Three nodes of which the first
    pass takes twice as long; the means are right to a microsecond, the first two passes as well."""
    true_us = np.array([3.3, 40.7, 1234.5])
    random = np.random.default_rng(0)
    passes = np.array([true_us * (2 if number == 0 else random.uniform(0.9, 1.1, 3)) for number in range(6)])
    sums = np.floor(passes).cumsum(0)
    counters = [[int(total // (n + 1)) for total in row] for n, row in enumerate(sums)]
    found = np.array(passes_ms(counters)) * 1000
    assert found.shape == passes.shape
    np.testing.assert_allclose(found[0], passes[0], atol=0.5)
    np.testing.assert_allclose(found[1], passes[1], atol=2)
    np.testing.assert_allclose(found[2:], np.broadcast_to(passes[2:].mean(0), (4, 3)), atol=1.5)
    assert passes_ms([]) == []


def test_a_missing_openvino_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"OpenVINO is not installed.*pip install 'compress-pose\[openvino\]'"):
        OpenVino().export(nn.Conv2d(3, 8, 1), HW, tmp_path, "net")
    assert list(tmp_path.iterdir()) == []
