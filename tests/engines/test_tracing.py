"""Which networks may be traced, and which would be exported wrongly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.engines import ENGINES, check_parity
from compress.engines.engine import Engine
from compress.engines.tracing import check_traceable
from compress.errors import EngineError
from compress.networks import made_for
from tests.networks.small import SMALL

HW = (32, 48)


class Network(nn.Module):
    """A convolution, and then anything."""

    def __init__(self, rest: Callable[["Network", Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.gain, self.rest = nn.Conv2d(3, 4, 3, padding=1), nn.Parameter(torch.tensor(2.0)), rest

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self, self.conv(x))


def branch(_: Network, x: Tensor) -> Tensor:
    if x.mean() > 0:
        x = x * 2
    return x


def scripted(x: Tensor) -> Tensor:
    return x * 2 if bool(x.mean() > 0) else x


OF_VALUES: dict[str, Callable[[Network, Tensor], Tensor]] = {
    "branch": branch,
    "any": lambda _, x: -x if torch.isnan(x).any() else x,
    "max": lambda _, x: x * max(x.mean(), x.std()),
    "float": lambda _, x: x * float(x.std()),
    "item": lambda _, x: x / x.detach().max().item(),
    "int": lambda _, x: x[:, : 1 + int(x.max())],
    "range": lambda _, x: sum((x for _ in range(x.mean().int())), x),
    "list": lambda _, x: x * x.mean((0, 2, 3)).tolist()[0],
    "numpy": lambda _, x: x * torch.from_numpy(x.mean((2, 3), keepdim=True).numpy()),
    "equal": lambda _, x: x if torch.equal(x, x.abs()) else -x,
    "constant": lambda _, x: x * torch.tensor([x.mean(), x.std()]).sum(),
}
OF_SIZES: dict[str, Callable[[Network, Tensor], Tensor]] = {
    "branch": lambda _, x: x * 2 if x.shape[2] % 32 == 0 and x.numel() > 9 else x,
    "size": lambda _, x: F.interpolate(x, size=(int(x.size(2) * 0.5), x.shape[3] // 2)),
    "tensor of sizes": lambda _, x: x * 2 if torch.tensor(x.shape)[2] > 3 else x,
    "slice": lambda _, x: x[:, :, : x.shape[2] // 2],
    "padding": lambda _, x: F.pad(x, (0, -x.shape[3] % 32)),
    "rows": lambda _, x: torch.cat(list(x[0]))[None, None],
    "parameter": lambda n, x: x * float(n.gain) if n.gain > 0 else x,
    "constant": lambda _, x: x * torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1),
    "where": lambda _, x: torch.where(x.mean() > 0, x * 2, x),
    "text": lambda _, x: x * len(f"{x.shape}"[:3] + f"{x.mean():.0f}"[:0]),
}


@pytest.fixture(params=["onnxruntime", "torch", "ncnn", "mnn", "litert"])
def runtime(request: pytest.FixtureRequest) -> Engine:
    if request.param == "mnn":
        pytest.importorskip("MNN")
    if request.param == "litert":
        request.getfixturevalue("litert")
    return ENGINES[request.param]


def test_a_branch_by_value_is_refused_by_every_engine(runtime: Engine, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        runtime.export(Network(branch), HW, tmp_path, "net")
    line = branch.__code__.co_firstlineno + 1
    assert caught.value.place == f"branch, {__file__}:{line}"
    assert caught.value.value == "if x.mean() > 0:"
    assert "torch.where" in caught.value.remedy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", OF_VALUES)
def test_what_depends_on_values_is_refused(name: str) -> None:
    with pytest.raises(EngineError, match=r"test_tracing\.py:.*same steps for every picture"):
        check_traceable(Network(OF_VALUES[name]).eval(), HW)


def test_the_place_names_the_module() -> None:
    class Gate(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() else -x

    with pytest.raises(EngineError, match=r"^Gate.forward, "):
        check_traceable(nn.Sequential(nn.Conv2d(3, 3, 1), Gate()), HW)


@pytest.mark.parametrize("name", OF_SIZES)
@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_what_depends_on_sizes_is_exported_without_a_warning(name: str, engine: str, tmp_path: Path) -> None:
    """Warnings are errors here. Pictures of either sign, as a branch would tell them apart."""
    network = Network(OF_SIZES[name]).eval()
    network.requires_grad_(False)
    noise = np.random.default_rng(0).standard_normal((1, 3, *HW), dtype=np.float32)
    (path,) = ENGINES[engine].export(network, HW, tmp_path, "net")
    assert check_parity(network, ENGINES[engine].load(path), [noise, np.abs(noise), -np.abs(noise)]) < 1e-5


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:DeprecationWarning")
def test_scripted_control_flow_is_kept_by_torch() -> None:
    script = torch.jit.script(scripted)
    assert check_traceable(Network(lambda _, x: script(x)), HW) == 1


@pytest.mark.parametrize("name", SMALL)
def test_every_family_may_be_traced(name: str) -> None:
    architecture = made_for(SMALL[name], (128, 128))
    assert check_traceable(architecture.build().eval(), (128, 128)) == len(architecture.output_strides)
