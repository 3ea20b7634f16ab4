"""Records, artefacts and their mistakes; the structure of the DIR-BHRNet paper's blocks."""

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.artefacts.artefact import load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.errors import ArtefactError, NetworkError
from compress.networks import architecture_from_data, architecture_to_data
from compress.networks.architecture import check_input
from compress.networks.blocks import BLOCK_KINDS, BlockKind, InvertedResidual, build_block, initialise
from compress.networks.dir_bhrnet import DirBHRNet, balanced_blocks, equal_blocks

BHRNET = DirBHRNet(width=8, blocks=balanced_blocks(1), head_filters=8)
SINGLE = DirBHRNet(width=8, blocks=equal_blocks(1), head="single")


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_artefact(tmp_path, BHRNET, SINGLE.build(), Metadata((64, 64)))
    with pytest.raises(ArtefactError, match="weights must be of this architecture"):
        load_artefact(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\x80\x04pickle"])
def test_broken_weights_are_refused(tmp_path: Path, content: bytes) -> None:
    save_artefact(tmp_path, BHRNET, BHRNET.build(), Metadata((64, 64)))
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(ArtefactError, match="safetensors"):
        load_artefact(tmp_path)


def test_input_size_must_fit_the_strides() -> None:
    check_input(BHRNET, (64, 96), "test")
    with pytest.raises(NetworkError, match=r"multiples of 32.*use 96x96"):
        check_input(BHRNET, (100, 96), "test")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widht": 8}, "did you mean 'width'"),
        ({"width": "wide"}, "width"),
        ({"kinds": ["dir", "dir", "dir", "dri"]}, "kinds.3"),
        ({"blocks": [[1], [1, 2]]}, "blocks"),
        ({"blocks": [[1], [1, 2], [1, 2, 3], [1, 2, 3, -1]]}, "negative"),
        ({"family": "dir_bhrnt"}, "did you mean 'dir_bhrnet'"),
    ],
)
def test_mistakes_in_an_architecture_are_named(change: dict[str, object], message: str) -> None:
    data = {**architecture_to_data(DirBHRNet()), **change}
    with pytest.raises(NetworkError, match=message):
        architecture_from_data(data, "file.yaml")


# Parameters of a block of width C and middle M, as formulas (each batch norm has 2 per channel).
C, E = 16, 4
M = C * E
IR = C * M + 2 * M + 9 * M + 2 * M + M * C + 2 * C
PARAMETERS = {
    "residual": 2 * (9 * C * C + 2 * C),
    "ir": IR,
    "ir_dw": IR + 11 * M,
    "ir_shortcut": IR,
    "dir": IR + 11 * M,
    "dir_se": IR + 11 * M + 2 * M * M // 16 + M + M // 16,
}


@pytest.mark.parametrize("kind", BLOCK_KINDS)
def test_block_parameters_are_the_papers_formula(kind: BlockKind) -> None:
    assert sum(p.numel() for p in build_block(kind, C, E).parameters()) == PARAMETERS[kind]


@pytest.mark.parametrize("kind", [kind for kind in BLOCK_KINDS if kind != "residual"])
def test_inverted_residual_computes_what_its_docstring_says(kind: BlockKind) -> None:
    block = build_block(kind, C, E).eval()
    assert isinstance(block, InvertedResidual)
    x = torch.randn(1, C, 6, 6)
    expanded = block.expand(x)
    spatial = block.depthwise1(expanded)
    if kind in ("ir_dw", "dir", "dir_se"):
        assert block.depthwise2 is not None
        spatial = block.depthwise2(spatial)
    if kind in ("ir_shortcut", "dir", "dir_se"):
        spatial = spatial + expanded
    if kind == "dir_se":
        assert block.attention is not None
        squeezed = spatial.mean((2, 3), keepdim=True)
        attention = block.attention
        spatial = spatial * torch.sigmoid(attention.excite(torch.relu(attention.squeeze(squeezed))))
    torch.testing.assert_close(block(x), block.project(spatial) + x)


def test_blocks_do_not_write_into_their_input() -> None:
    for network in (build_block(kind, C, E) for kind in BLOCK_KINDS):
        x = torch.randn(1, C, 6, 6)
        before = x.clone()
        network.eval()(x)
        assert torch.equal(x, before)


def test_blocks_start_as_the_identity() -> None:
    for kind in BLOCK_KINDS:
        block = build_block(kind, C, E)
        initialise(block)
        x = torch.rand(2, C, 6, 6)  # not negative, so that the residual block's last ReLU keeps it
        assert torch.equal(block.eval()(x), x)


def test_fusion_reads_its_inputs_as_they_were() -> None:
    # With one input branch the sum is the input itself: a ReLU in place would change what the other paths read.
    from compress.networks.fusion import Fusion

    fusion = Fusion([4, 8], 1, 2).eval()
    x = torch.randn(1, 4, 8, 8)
    same, lower = fusion([x])
    torch.testing.assert_close(same, x.relu())
    path = fusion.paths[1]
    assert isinstance(path, nn.ModuleDict)
    torch.testing.assert_close(lower, path["0"](x).relu())


def test_hand_balance_is_n_times_the_branch() -> None:
    assert balanced_blocks(3) == ((3,), (3, 6), (3, 6, 9), (3, 6, 9, 12))
    assert equal_blocks(2) == ((2,), (2, 2), (2, 2, 2), (2, 2, 2, 2))
