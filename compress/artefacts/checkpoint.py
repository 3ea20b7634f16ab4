"""A public checkpoint as a network: its weights, and what belongs to them beside the weights."""

from pathlib import Path

import torch

from compress.artefacts.artefact import Network
from compress.artefacts.metadata import Imported, Metadata
from compress.data.keypoints import KEYPOINT_SETS, KeypointSet
from compress.errors import NetworkError
from compress.networks import Architecture
from compress.networks.architecture import check_input
from compress.networks.checkpoints import Found, read_checkpoint
from compress.networks.weights import check_finite
from compress.pose.approaches import approach_of
from compress.pose.codec import Codec
from compress.recipe import DEFAULT_HW

_MPII_HW = (256, 256)
"""Input size of every published network for MPII's joints."""


def open_checkpoint(
    file: Path,
    architecture: Architecture | None = None,
    *,
    name: str,
    input_hw: tuple[int, int] | None = None,
    codec: Codec | None = None,
    seed: int = 1,
    backbone: bool = False,
) -> tuple[Network, Found]:
    """The network with the file's weights, and what was found in the file.

    architecture: None recognises it. name: of the network, for people. input_hw, codec: None takes what the file's name
    and project say. seed: of random weights, which stay in the head where `backbone` allows it.

    Raises NetworkError, see read_checkpoint; also for joints of no known set.
    """
    checkpoint = read_checkpoint(file, architecture, backbone=backbone)
    keypoints = _joints_of(checkpoint.architecture, file)
    torch.manual_seed(seed)
    module = checkpoint.architecture.build()
    module.load_state_dict(checkpoint.tensors, strict=False)  # what is left out is in `found`, and was allowed
    check_finite(module, str(file))
    found, facts = checkpoint.found, checkpoint.facts
    size = input_hw or facts.input_hw or (_MPII_HW if len(keypoints) == len(KEYPOINT_SETS["mpii"]) else DEFAULT_HW)
    check_input(checkpoint.architecture, size, "input_hw")
    part = bool(found.unfilled)
    metadata = Metadata(
        size,
        name,
        keypoints=keypoints.name,
        codec=codec or facts.codec,
        normalisation=facts.normalisation,
        provenance=f"{found.source}, {file.name}{', random head' if part else ''}",
        seed=seed,
        imported=Imported(found.source, file.name, backbone_only=part),
    )
    return Network(name, checkpoint.architecture, module.eval(), metadata), found


def _joints_of(architecture: Architecture, file: Path) -> KeypointSet:
    """The joints of the first known set that are as many. Raises NetworkError where there is none."""
    approach = approach_of(architecture)
    for keypoints in KEYPOINT_SETS.values():
        if all(getattr(architecture, name, None) == value for name, value in approach.joints(keypoints).items()):
            return keypoints
    raise NetworkError(
        "a checkpoint's joints must be those of a known set",
        place=str(file),
        value=f"{architecture.keypoints} joints",
        remedy="known: " + ", ".join(f"{one.name} ({len(one)})" for one in KEYPOINT_SETS.values()),
    )
