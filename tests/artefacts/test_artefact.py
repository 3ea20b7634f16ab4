"""Edits of an artefact: rewrites and pruned channels. That every network rebuilds is in tests/networks."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.artefacts.artefact import (
    ARCHITECTURE,
    CHANNELS_PRUNED,
    FUNCTIONS_AS_MODULES,
    load_artefact,
    save_artefact,
)
from compress.artefacts.metadata import Metadata
from compress.errors import ArtefactError
from compress.networks.own import own_network
from compress.rewriting.functions import as_modules
from compress.rewriting.sites import Rewrite, rewritten
from tests.networks.small import SMALL

NETWORK = SMALL["mobile_openpose_7x7"]
SITE = Rewrite("conv_to_3x3", "features.0.conv")


def saved(folder: Path, edits: str) -> Path:
    """An artefact of the plain network whose file says this of its edits."""
    save_artefact(folder, NETWORK, NETWORK.build(), Metadata((64, 64)))
    path = folder / ARCHITECTURE
    path.write_text(f"{path.read_text()}edits: {edits}\n")
    return folder


def test_rewrites_are_kept_in_order_as_plain_data(tmp_path: Path) -> None:
    edits = (SITE, Rewrite("fold_batch_norm", "refinements.0.0.trunk.0"))
    network = rewritten(NETWORK.build().eval(), edits)
    save_artefact(tmp_path, NETWORK, network, Metadata((64, 64)), edits)
    text = (tmp_path / ARCHITECTURE).read_text()
    assert "- {rewrite: conv_to_3x3, at: features.0.conv}" in text
    loaded = load_artefact(tmp_path)
    assert loaded.edits == edits
    assert isinstance(loaded.module.get_submodule("features.0.conv"), nn.Sequential)
    image = torch.randn(1, 3, 64, 64)
    assert all(torch.equal(a, b) for a, b in zip(network(image), loaded.module(image), strict=True))


class Functional(nn.Sequential):
    """Its swish is a function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x))


def functional() -> nn.Module:
    return Functional(nn.Conv2d(3, 5, 3, 2, 1))  # other weights at every call


def test_functions_are_modules_again_before_they_are_replaced(tmp_path: Path) -> None:
    architecture = own_network(f"{__name__}:functional")
    site = Rewrite("swish_to_relu", "network.silu")
    plain = architecture.build().eval()
    save_artefact(
        tmp_path,
        architecture,
        rewritten(as_modules(plain)[0], [site]),
        Metadata((64, 64)),
        (FUNCTIONS_AS_MODULES, site),
    )
    assert "edits:\n- functions as modules\n- {rewrite: swish_to_relu" in (tmp_path / ARCHITECTURE).read_text()
    loaded = load_artefact(tmp_path)
    assert loaded.edits == (FUNCTIONS_AS_MODULES, site)
    image = torch.randn(1, 3, 64, 64)
    expected = F.relu(plain.get_submodule("network.0")(image))
    assert torch.equal(loaded.module(image)[0], expected)


def test_an_artefact_without_edits_has_none(tmp_path: Path) -> None:
    save_artefact(tmp_path, NETWORK, NETWORK.build(), Metadata((64, 64)))
    assert "edits" not in (tmp_path / ARCHITECTURE).read_text()
    assert load_artefact(tmp_path).edits == ()


@pytest.mark.parametrize(
    "edits",
    [
        "melted",
        CHANNELS_PRUNED,
        "[melted]",
        "[3]",
        "[{rewrite: conv_to_3x3}]",
        "[{rewrite: 3, at: features.0.conv}]",
        "[{rewrite: conv_to_3x3, at: features.0.conv, how: well}]",
        "{rewrite: conv_to_3x3, at: features.0.conv}",
    ],
)
def test_what_is_no_edit_is_refused(edits: str, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="newer version"):
        load_artefact(saved(tmp_path, edits))


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ("[{rewrite: conv_to_4x4, at: features.0.conv}]", "conv_to_3x3"),
        ("[{rewrite: conv_to_3x3, at: features.0.convolution}]", "did you mean 'features.0.conv'"),
        ("[{rewrite: conv_to_3x3, at: features.0.bn}]", "does not match"),
    ],
)
def test_rewrites_of_another_network_are_refused(edits: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=reason):
        load_artefact(saved(tmp_path, edits))


def test_weights_without_the_rewrite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="weights must be of this architecture"):
        load_artefact(saved(tmp_path, "[{rewrite: conv_to_3x3, at: features.0.conv}]"))
