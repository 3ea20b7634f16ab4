"""What is LiteRT's alone; the rest is in test_engines.py. Only compress.engines.litert may import it."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.engines import Engine, available, check_parity
from compress.engines.litert import CONVERTER_PYTHON, LiteRt
from compress.errors import EngineError

HW = (32, 48)


@pytest.fixture
def runtime_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if ai-edge-litert were installed here, without a model that it could run."""
    runtime: Any = ModuleType("ai_edge_litert.interpreter")
    runtime.Interpreter = object
    monkeypatch.setitem(sys.modules, "ai_edge_litert", ModuleType("ai_edge_litert"))
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", runtime)


def converter(folder: Path, script: str) -> str:
    """A program in the place of a Python that has the converter."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\ncase "$2" in *find_spec*) exit 0;; esac\n{script}\n')
    program.chmod(0o755)
    return str(program)


def test_a_missing_litert_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(EngineError, match=r"LiteRT is not installed.*pip install 'compress-pose\[litert\]'"):
        LiteRt().export(nn.Conv2d(3, 8, 1), HW, tmp_path, "net")
    with pytest.raises(EngineError, match=r"LiteRT is not installed.*pip install 'compress-pose\[litert\]'"):
        LiteRt().load(tmp_path / "net.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("runtime_alone")
@pytest.mark.parametrize("program", ["nowhere/python", "/bin/false"])
def test_a_missing_converter_says_where_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str
) -> None:
    """Without it nothing can be exported, so the engine is not there."""
    monkeypatch.setenv(CONVERTER_PYTHON, program)
    with pytest.raises(EngineError, match=rf"{CONVERTER_PYTHON}: LiteRT's converter is not installed .*{program}.*own"):
        LiteRt().export(nn.Conv2d(3, 8, 1), HW, tmp_path, "net")
    assert list(tmp_path.iterdir()) == []
    (found,) = (one for one in available() if one.engine == "litert")
    assert not found.installed
    assert found.missing == "LiteRT's converter is not installed"
    assert CONVERTER_PYTHON in found.install


@pytest.mark.usefixtures("runtime_alone")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('echo "Lowering not found: aten.odd\nmore" > "$5"; exit 1', "network: Lowering not found: aten.odd; "),
        ("kill -SEGV $$", "ended by SIGSEGV"),
        ("exit 0", "exit status 0"),
    ],
)
def test_what_the_converter_says_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, reason: str
) -> None:
    monkeypatch.setenv(CONVERTER_PYTHON, converter(tmp_path, script))
    with pytest.raises(EngineError, match=f"Conv2d: LiteRT cannot convert the .*{reason}") as raised:
        LiteRt().export(nn.Conv2d(3, 8, 1), HW, tmp_path / "out", "net")
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("runtime_alone")
def test_the_converter_gets_the_network_with_channels_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An output that is no map stays as it is. A norm that starts at zero is not zero, which would remove its layer."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = x + self.norm(self.conv(x))
            return y, y.flatten(2)

    monkeypatch.setenv(CONVERTER_PYTHON, converter(tmp_path, 'cp "$3" "$4"'))
    network = Two().eval()
    (path,) = LiteRt().export(network, HW, tmp_path / "out", "net")
    program = torch.export.load(path)
    image = torch.randn(1, 3, *HW)
    maps, vectors = network(image)
    found = program.module()(image=image.permute(0, 2, 3, 1))
    assert list(found) == ["output0", "output1"]
    torch.testing.assert_close(found["output0"].permute(0, 3, 1, 2), maps, rtol=0, atol=0)
    torch.testing.assert_close(found["output1"], vectors, rtol=0, atol=0)
    assert not network.norm.weight.any()
    assert all(parameter.any() for name, parameter in program.state_dict.items() if name.endswith("norm.weight"))


def test_a_layer_that_starts_at_zero_stays_in_the_file(litert: Engine, tmp_path: Path) -> None:
    """Its 64·64·9 weights are nearly all of this network; on two threads the outputs are those of one."""

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.norm = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.stem(x)
            return y + self.norm(self.conv(y))

    network = Residual()
    (path,) = litert.export(network, HW, tmp_path, "net")
    assert path.stat().st_size > 4 * 64 * 64 * 9
    image = np.random.default_rng(0).standard_normal((1, 3, *HW), dtype=np.float32)
    one, two = litert.load(path), litert.load(path, 2)
    assert check_parity(network, one, [image]) < 1e-5
    np.testing.assert_allclose(two.run(image)[0], one.run(image)[0], rtol=1e-5)
    model: Any = one.model  # type: ignore[attr-defined]
    assert [tuple(tensor["shape"]) for tensor in model.get_input_details()] == [(1, *HW, 3)]
    assert [tuple(tensor["shape"]) for tensor in model.get_output_details()] == [(1, HW[0] - 2, HW[1] - 2, 64)]


_WATCHED = """
import os, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.sendmsg", "urllib.Request"):
        with open(os.environ["SEEN"], "a") as seen:
            print(event, file=seen)
        raise OSError("no network in this test")

sys.addaudithook(watch)
with open(os.environ["STARTED"], "a") as started:
    print(os.getpid(), file=started)
"""


def test_nothing_is_sent(litert: Engine, tmp_path: Path) -> None:
    """By this process, by the converter's, or by one that these start: all of them are watched."""
    (tmp_path / "sitecustomize.py").write_text(_WATCHED)
    program = (
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from torch import nn\n"
        "from compress.engines import ENGINES\n"
        "path = ENGINES['litert'].export(nn.Conv2d(3, 4, 3), (16, 16), Path('out'), 'net')[0]\n"
        "ENGINES['litert'].load(path).run(np.zeros((1, 3, 16, 16), np.float32))\n"
    )
    seen, started = tmp_path / "seen", tmp_path / "started"
    folders = [str(tmp_path), str(Path(__file__).parents[2])]
    environment = os.environ | {"SEEN": str(seen), "STARTED": str(started), "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(started.read_text().split()) >= 3  # this one, the search for a converter, the converter
    assert not seen.exists()
