"""One way to a network, whatever names it; and what a trained one learned from."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import nn

from compress.artefacts.artefact import Network, is_artefact, load_artefact, network_digest
from compress.artefacts.checkpoint import open_checkpoint
from compress.artefacts.metadata import OWN_WEIGHTS, RANDOM_WEIGHTS, Metadata
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.sets import Sets, data_of, picture_sets
from compress.errors import DataError, NetworkError, unknown_network
from compress.extensions import NETWORK_GROUP, offered
from compress.files import NamedCheckpoint, named_checkpoint, read_yaml_mapping
from compress.networks import NETWORKS, Architecture, architecture_from_data, made_for
from compress.networks.architecture import without_values
from compress.networks.checkpoints import Found
from compress.networks.own import OWN_FAMILIES, check_learns, given_module, is_own, own_network
from compress.networks.published import published_hw
from compress.networks.weights import check_memory
from compress.pose.approaches import check_joints, estimator_for, objective_for
from compress.pose.codec import Codec
from compress.pose.estimator import LabelledBoxes, PoseEstimator
from compress.pose.objective import Objective
from compress.pose.scoring import check_metric, main_figure
from compress.recipe import DEFAULT_HW, ChangeRecipe, Data

__all__ = [
    "Learning",
    "Named",
    "Network",
    "artefact_or_network",
    "learning_of",
    "network_digest",
    "open_network",
    "read_architecture",
    "trained_network",
]


@dataclass(frozen=True)
class Learning:
    """What a trained network learned from, and is scored on."""

    data: Data
    sets: Sets
    objective: Objective
    estimator: PoseEstimator
    codec: Codec
    normalisation: Normalisation = IMAGENET

    @property
    def metric(self) -> str:
        """What networks are compared by on this data: AP, PCKh or PCK."""
        return main_figure(self.data.kind)


Named = str | Path | nn.Module | Network | Architecture
"""What a user may name, or hand over, as a network; see open_network."""


def open_network(
    named: Named,
    input_hw: tuple[int, int] | None = None,
    *,
    seed: int | None = None,
    codec: Codec | None = None,
    weights: bool = True,
) -> Network:
    """The network that a user names: what every command calls NETWORK, or an object.

    named: a known network's name, a YAML file with an architecture record, an artefact's folder,
    `package.module:function` (imported with the current folder on the path; it returns an nn.Module), an ONNX file, or
    a public checkpoint, as its file, whose network is recognised, or as NAME@FILE, with the network that it is of;
    in Python also an nn.Module, which is copied, an architecture record, or a network that is open, which is returned.
    A known network and a record have random weights.
    input_hw: None takes what the artefact, the ONNX file or the module's attribute `input_hw` says, else the first size
    that a known network's paper prints, else DEFAULT_HW.
    seed: of random weights; None takes the artefact's, or 1. It is torch's when this returns.
    codec: None takes the artefact's, else `ours`.
    weights: False leaves random ones out, on the meta device: such a network can be counted alone.

    Raises ArtefactError or NetworkError.
    """
    if isinstance(named, Network):
        network, known = named, named.metadata
        if known.provenance == RANDOM_WEIGHTS and seed not in (None, known.seed):  # these are no longer the seed's
            network = replace(named, metadata=replace(known, provenance=f"{RANDOM_WEIGHTS} of seed {known.seed}"))
    elif isinstance(named, str | Path) and str(named) not in NETWORKS and is_artefact(Path(named)):
        network = load_artefact(Path(named))
    elif isinstance(named, str | Path) and (checkpoint := named_checkpoint(str(named))):
        network = imported(checkpoint, seed=1 if seed is None else seed)[0]
    else:
        network = _built(named, input_hw, 1 if seed is None else seed, weights)
        return network.overridden(input_hw=input_hw or network.input_hw, codec=codec)
    network = network.overridden(input_hw=input_hw, seed=seed, codec=codec)
    torch.manual_seed(network.seed)
    check_memory(network.module, network.name)
    return network


def imported(
    checkpoint: NamedCheckpoint,
    *,
    input_hw: tuple[int, int] | None = None,
    codec: Codec | None = None,
    seed: int = 1,
    backbone: bool = False,
) -> tuple[Network, Found]:
    """See open_checkpoint. Raises ArtefactError or NetworkError for a network of no such name."""
    architecture = None if checkpoint.network is None else read_architecture(checkpoint.network)
    if architecture is not None and architecture.family in OWN_FAMILIES:
        raise NetworkError(
            "a public checkpoint is imported into a known network",
            place="NETWORK",
            value=checkpoint.network,
            remedy="let your own function load its weights itself",
        )
    return open_checkpoint(
        checkpoint.file,
        architecture,
        name=checkpoint.name,
        input_hw=input_hw,
        codec=codec,
        seed=seed,
        backbone=backbone,
    )


def _built(
    named: str | Path | nn.Module | Architecture, input_hw: tuple[int, int] | None, seed: int, weights: bool
) -> Network:
    """A network that no artefact keeps. Torch's random state is as building it left it."""
    if isinstance(named, nn.Module):
        name, architecture = type(named).__name__, cast(Architecture, given_module(named))
    elif isinstance(named, str | Path):
        name, architecture = str(named), read_architecture(str(named))
    else:
        name, architecture = named.family, named
    own = architecture.family in OWN_FAMILIES
    architecture = made_for(architecture, input_hw) if input_hw else architecture
    torch.manual_seed(seed)  # random weights are the same in every run, and criteria go by weights
    with without_values() if not (weights or own) else nullcontext():
        module = architecture.build()
    check_memory(module, name)
    only = getattr(architecture, "input_hw", None) or getattr(module, "input_hw", None)
    size = only or published_hw(architecture) or DEFAULT_HW
    provenance = OWN_WEIGHTS if own else RANDOM_WEIGHTS
    return Network(name, architecture, module.eval(), Metadata(size, name, provenance=provenance, seed=seed))


def trained_network(named: Named, *, input_hw: tuple[int, int] | None, codec: Codec | None) -> Network:
    """See open_network and Network.overridden. Raises DataError for random weights, which find nobody."""
    opened = open_network(named, input_hw, codec=codec)
    headless = opened.metadata.imported is not None and not opened.trained
    if opened.metadata.provenance == RANDOM_WEIGHTS or headless:
        raise DataError(
            "a network with random weights finds nobody",
            place=opened.name,
            remedy="train it first (compress train) and give the run's folder",
        )
    return opened


def artefact_or_network(name: str) -> Network | Architecture:
    """An artefact or a public checkpoint's network, or the record of another NETWORK."""
    if is_artefact(Path(name)):
        return load_artefact(Path(name))
    checkpoint = named_checkpoint(name)
    return imported(checkpoint)[0] if checkpoint else read_architecture(name)


def read_architecture(name: str) -> Architecture:
    """The record of a NETWORK that is no artefact. Raises ArtefactError or NetworkError."""
    if name in NETWORKS:
        return NETWORKS[name]
    if Path(name).suffix in (".yaml", ".yml"):
        return architecture_from_data(read_yaml_mapping(Path(name), NetworkError, "an architecture"), name)
    others = offered(NETWORK_GROUP)
    if is_own(others.get(name, name)):
        return own_network(others.get(name, name))
    raise unknown_network(name, [*NETWORKS, *others])


def learning_of(
    network: Network, recipe: ChangeRecipe, pictures: int, pictures_key: str = "data.disk.search"
) -> Learning | None:
    """What the network was trained on: the recipe's data, else its metadata's; None where neither says.

    pictures: of the search set; pictures_key: the recipe's key that says so. Maps are decoded as it was trained.
    Raises DataError for data given to a network of random weights, NetworkError for a network without the data's joints
    or that cannot be trained.
    """
    architecture, input_hw, codec = network.architecture, network.input_hw, network.metadata.codec
    if recipe.data and not network.trained:
        raise DataError(
            "a network with random weights has nothing to score",
            place="--data",
            value=network.name,
            remedy="train it first (compress train) and give the run's folder",
        )
    data = data_of(network.name, recipe.data, network.metadata.data)
    if data is None:
        return None
    if architecture.family in OWN_FAMILIES:
        check_learns(network.module, input_hw, network.name)
    wanted = {"search": pictures}
    parts = {"synthetic": data.synthetic.model_copy(update=wanted), "disk": data.disk.model_copy(update=wanted)}
    sets = picture_sets(data.model_copy(update=parts), input_hw, network.metadata.seed, pictures_key)
    keypoints = sets.train.keypoints
    check_joints(architecture, keypoints, "data")
    check_metric(architecture, data.kind, data.detections is not None)
    normalisation = network.normalisation
    objective = objective_for(architecture, keypoints, input_hw, recipe.training, codec, normalisation)
    estimator = estimator_for(
        architecture,
        keypoints,
        input_hw,
        codec=codec,
        decoding=recipe.decoding,
        boxes=LabelledBoxes(),
        normalisation=normalisation,
    )
    return Learning(data, sets, objective, estimator, codec, normalisation)
