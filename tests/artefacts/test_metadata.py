"""What an artefact says of its network goes to YAML and back whole; older and damaged files give one line."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.artefacts.artefact import ARCHITECTURE, load_artefact, save_artefact
from compress.artefacts.metadata import Imported, Metadata, metadata_from_data, metadata_to_data
from compress.data.keypoints import COCO_PERSON, LSP
from compress.data.normalisation import Normalisation
from compress.errors import ArtefactError
from compress.networks.mobile_openpose import MobileOpenPose
from compress.pose.codec import codec_named
from compress.pose.scoring import Score
from compress.recipe import Data

NETWORK = MobileOpenPose(blocks=(1, 1), width=4, features=8)
FULL = Metadata(
    input_hw=(96, 64),
    origin="mobile_openpose_24",
    keypoints="lsp",
    codec=codec_named("hrnet", sigma=3.0),
    provenance="training of 2 epochs",
    data=Data.model_validate({"kind": "lsp", "disk": {"folder": "pictures"}}),
    seed=7,
    flip_test=True,
    score=Score("PCK", 0.25, 0.01, "training of 2 epochs", "lsp", 40, {"area": 0.5, "curve": [0.1, 0.2]}),
    normalisation=Normalisation((0.5, 0.4, 0.3), (1.0, 2.0, 3.0), "BGR"),
    imported=Imported("OpenPose in PyTorch", "pose_model.pth"),
)


def test_every_field_comes_back(tmp_path: Path) -> None:
    assert all(getattr(FULL, one.name) != one.default for one in fields(FULL))
    assert metadata_from_data(yaml.safe_load(yaml.safe_dump(metadata_to_data(FULL))), "test") == FULL
    save_artefact(tmp_path, NETWORK, NETWORK.build(), FULL)
    loaded = load_artefact(tmp_path)
    assert loaded.metadata == FULL
    assert (loaded.name, loaded.input_hw, loaded.keypoints, loaded.trained) == (str(tmp_path), (96, 64), LSP, True)
    assert (loaded.approach, loaded.normalisation.channels) == ("PAF", "BGR")


def test_joints_that_nobody_named_are_cocos() -> None:
    assert Metadata((64, 64)).keypoint_set == COCO_PERSON


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_hw": "big"}, "input_hw: input should be a valid"),
        ({"input_hw": [0, 64]}, "input_hw must be a height and a width above 0, not"),
        ({"keypoints": "cats"}, "keypoints must be one of coco_person, .*, not cats"),
        ({"data": {"workers": "many"}}, "data.workers: input should be a valid integer"),
        ({"seed": "abc"}, "seed: input should be a valid integer"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"codec": {"cells": "somewhere"}}, "codec.cells: input should be 'middle'"),
        ({"normalisation": {"std": [0.5, 0.0, 0.5]}}, "normalisation: std must be three numbers above 0, not"),
        ({"normalisation": {"channels": "RBG"}}, "normalisation.channels: input should be 'RGB' or 'BGR'"),
        ({"size": 3}, "size: unexpected keyword argument"),
        (None, "input_hw: field required"),
    ],
)
def test_what_is_no_metadata_is_named(change: dict[str, Any] | None, message: str, tmp_path: Path) -> None:
    save_artefact(tmp_path, NETWORK, NETWORK.build(), FULL)
    path = tmp_path / ARCHITECTURE
    data = yaml.safe_load(path.read_text())
    data["metadata"] = {} if change is None else {**data["metadata"], **change}
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ArtefactError, match=f"architecture.yaml: metadata: {message}") as caught:
        load_artefact(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_older_file_is_named_as_such(tmp_path: Path) -> None:
    save_artefact(tmp_path, NETWORK, NETWORK.build(), FULL)
    path = tmp_path / ARCHITECTURE
    data = yaml.safe_load(path.read_text())
    older = {"architecture": data["architecture"], "facts": {"input_hw": [64, 64]}}
    for wrong, message in (
        (older, "must be of schema 1, as this version writes it .*earlier versions"),
        ({**data, "schema": 2}, r"must be of schema 1, .*found 2"),
        ({**data, "facts": {}}, "the file holds 'schema', 'architecture', 'metadata'"),
        ([data], "the file holds 'schema', 'architecture', 'metadata'"),
    ):
        path.write_text(yaml.safe_dump(wrong))
        with pytest.raises(ArtefactError, match=message):
            load_artefact(tmp_path)


def test_metadata_is_never_half_right() -> None:
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        replace(FULL, seed=-1)
