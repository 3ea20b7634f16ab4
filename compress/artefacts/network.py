"""A network that a job changes, and what it learned from, if it is trained."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.artefacts.artefact import Artefact, Edit, is_artefact, load_artefact
from compress.artefacts.metadata import input_size, validation_data
from compress.data.sets import Sets, picture_sets
from compress.errors import DataError, NetworkError, unknown_network
from compress.files import read_yaml_mapping
from compress.networks import NETWORKS, Architecture, architecture_from_data, architecture_to_data
from compress.networks.architecture import check_input
from compress.networks.own import OWN_FAMILIES, check_learns, is_own, own_network
from compress.networks.weights import check_memory
from compress.pose.codec import Codec
from compress.pose.estimator import LabelledBoxes, PoseEstimator, estimator_for
from compress.pose.objective import Objective, check_joints, objective_for
from compress.pose.scoring import check_metric
from compress.recipe import ChangeRecipe, Data, noted_codec

_DEFAULT_HW = (128, 128)


@dataclass(frozen=True)
class Learning:
    """What a trained network learned from, and is scored on."""

    data: Data
    sets: Sets
    objective: Objective
    estimator: PoseEstimator
    codec: Codec


@dataclass(frozen=True)
class Subject:
    """The given network, in evaluation mode; nothing here changes it. learning: None without trained weights."""

    name: str
    architecture: Architecture
    network: nn.Module
    input_hw: tuple[int, int]
    seed: int
    edits: tuple[Edit, ...]
    learning: Learning | None

    @property
    def digest(self) -> str:
        """See network_digest."""
        return network_digest(self.architecture, self.network, self.edits, trained=self.learning is not None)


def read_subject(name: str, recipe: ChangeRecipe, pictures: int, pictures_key: str = "data.disk.search") -> Subject:
    """The network and, if it is trained, what it was trained on. pictures: of the search set; pictures_key: the
    recipe's key that says so.

    Raises ArtefactError, NetworkError or DataError.
    """
    source = artefact_or_network(name)
    loaded = source if isinstance(source, Artefact) else None
    architecture = loaded.architecture if loaded else source
    assert not isinstance(architecture, Artefact)
    facts = loaded.facts if loaded else {}
    data, seed = validation_data(facts, recipe.data, recipe.seed)
    own = architecture.family in OWN_FAMILIES
    if recipe.data and not (loaded or own):
        raise DataError(
            "a network taken by its name or architecture has random weights: there is nothing to score",
            place="--data",
            value=name,
            remedy="train it first (compress train) and give the run's folder",
        )
    trained = loaded is not None or (own and recipe.data is not None)
    torch.manual_seed(seed)  # random weights are the same in every run, and criteria go by weights
    network = (loaded.network if loaded else architecture.build()).eval()
    check_memory(network, name)
    input_hw = recipe.input_hw
    if input_hw is None:
        input_hw = input_size(facts, Path(name)) if loaded else getattr(network, "input_hw", None) or _DEFAULT_HW
    check_input(architecture, input_hw, "input_hw")
    if trained and own:
        check_learns(network, input_hw, name)
    learning = (
        read_learning(architecture, data, facts, input_hw, seed, recipe, pictures, pictures_key) if trained else None
    )
    return Subject(name, architecture, network, input_hw, seed, loaded.edits if loaded else (), learning)


def read_learning(
    architecture: Architecture,
    data: Data,
    facts: Mapping[str, Any],
    input_hw: tuple[int, int],
    seed: int,
    recipe: ChangeRecipe,
    pictures: int,
    pictures_key: str,
) -> Learning:
    """The data, and how the network reads it; maps are decoded as it was trained."""
    wanted = {"search": pictures}
    parts = {"synthetic": data.synthetic.model_copy(update=wanted), "disk": data.disk.model_copy(update=wanted)}
    sets = picture_sets(data.model_copy(update=parts), input_hw, seed, pictures_key)
    keypoints = sets.train.keypoints
    check_joints(architecture, keypoints, "data")
    check_metric(architecture, data)
    codec = recipe.codec or noted_codec(facts)
    objective = objective_for(architecture, keypoints, input_hw, recipe.training, codec)
    estimator = estimator_for(
        architecture, keypoints, input_hw, codec=codec, decoding=recipe.decoding, boxes=LabelledBoxes()
    )
    return Learning(data, sets, objective, estimator, codec)


def network_digest(architecture: Architecture, network: nn.Module, edits: Sequence[Edit] = (), *, trained: bool) -> str:
    """Short sha256 of what a network is: its record, its edits and the weights it came with.

    Random weights of a known architecture are left out: they follow from the seed, and differ in the last bits between
    kinds of CPUs. What an own network's Python code does is not in it.
    """
    record = [architecture_to_data(architecture), [str(edit) for edit in edits]]
    found = hashlib.sha256(json.dumps(record, sort_keys=True).encode())
    if trained or architecture.family in OWN_FAMILIES:
        for name, tensor in sorted(network.state_dict().items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()[:16]


def artefact_or_network(name: str) -> Artefact | Architecture:
    """What a command's NETWORK argument means.

    A known network's name, a YAML file with an architecture record, an artefact's folder, `package.module:function`
    (imported with the current folder on the path; it returns an nn.Module) or an ONNX file. Raises ArtefactError or
    NetworkError.
    """
    if name in NETWORKS:
        return NETWORKS[name]
    if Path(name).suffix in (".yaml", ".yml"):
        return architecture_from_data(read_yaml_mapping(Path(name), NetworkError, "an architecture"), name)
    if is_artefact(Path(name)):
        return load_artefact(Path(name))
    if is_own(name):
        return own_network(name)
    raise unknown_network(name, NETWORKS)
