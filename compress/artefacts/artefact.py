"""A network with all that is known of it, and the folder that keeps it: `architecture.yaml`, `weights.safetensors`.

It is rebuilt bit-equal, without pickle.

`edits`: what was done to the architecture since it was built, in order. `functions as modules`: an own network's calls
of functions became modules, before all replacements. `{rewrite: RULE, at: PATH}`: that module was replaced. `channels
pruned`: layers have the sizes of the weights; they get them after all replacements.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from compress.artefacts.metadata import (
    RANDOM_WEIGHTS,
    Metadata,
    metadata_from_data,
    metadata_to_data,
)
from compress.data.keypoints import KeypointSet
from compress.data.normalisation import Normalisation
from compress.errors import ArtefactError, NetworkError, RecipeError, no_artefact
from compress.files import read_yaml, write_bytes, write_text
from compress.networks import Architecture, architecture_from_data, architecture_to_data
from compress.networks.architecture import check_input
from compress.networks.own import OWN_FAMILIES, GivenModule
from compress.networks.weights import check_finite, names_of_tied
from compress.pose.codec import Codec
from compress.pruning.structured import fit_shapes
from compress.rewriting.functions import as_modules
from compress.rewriting.sites import Rewrite, rewrite_in_place

ARCHITECTURE, WEIGHTS = "architecture.yaml", "weights.safetensors"
SCHEMA = 1
"""Version of architecture.yaml; a file of another version is refused by name."""

CHANNELS_PRUNED, FUNCTIONS_AS_MODULES = "channels pruned", "functions as modules"

Edit = str | Rewrite
"""CHANNELS_PRUNED, FUNCTIONS_AS_MODULES or a module replaced."""


def edit_text(edit: Edit) -> str:
    """As reports name it."""
    return f"{edit.rule} at {edit.at}" if isinstance(edit, Rewrite) else edit


@dataclass(frozen=True)
class Network:
    """A network that a user named, or that a job made of one: what every command works on.

    name: the NETWORK that opened it. architecture: that it was built from. module: in evaluation mode, [B,3,H,W] to a
    tuple of maps; jobs change copies. edits: since it was built.
    """

    name: str
    architecture: Architecture
    module: nn.Module = field(repr=False)
    metadata: Metadata
    edits: tuple[Edit, ...] = ()

    @property
    def approach(self) -> str:
        """How people are found, see Architecture."""
        return self.architecture.approach

    @property
    def keypoints(self) -> KeypointSet:
        """The joints that it finds."""
        return self.metadata.keypoint_set

    @property
    def input_hw(self) -> tuple[int, int]:
        """Height and width of its input, in pixels."""
        return self.metadata.input_hw

    @property
    def normalisation(self) -> Normalisation:
        """Of its input."""
        return self.metadata.normalisation

    @property
    def seed(self) -> int:
        """Of the run that made it, or of its random weights."""
        return self.metadata.seed

    @property
    def trained(self) -> bool:
        """Whether its weights have learned something: on the metadata's data, or before the network came here."""
        imported = self.metadata.imported
        before = imported is not None and not imported.backbone_only
        return self.metadata.data is not None or before or self.architecture.family in OWN_FAMILIES

    @cached_property
    def digest(self) -> str:
        """See network_digest. Random weights of a known architecture are left out."""
        seeded = self.metadata.provenance == RANDOM_WEIGHTS
        return network_digest(self.architecture, self.module, self.edits, trained=not seeded)

    def overridden(
        self, *, input_hw: tuple[int, int] | None = None, seed: int | None = None, codec: Codec | None = None
    ) -> "Network":
        """The network with what a user gives instead of what its metadata says; None leaves that as it is.

        Raises NetworkError for an input size that its strides do not allow.
        """
        known = self.metadata
        if input_hw is not None:
            check_input(self.architecture, input_hw, "input_hw")
        metadata = replace(
            known,
            input_hw=known.input_hw if input_hw is None else input_hw,
            seed=known.seed if seed is None else seed,
            codec=known.codec if codec is None else codec,
        )
        return replace(self, metadata=metadata)


Artefact = Network


def save_artefact(
    folder: Path,
    architecture: Architecture,
    network: nn.Module,
    metadata: Metadata,
    edits: Sequence[Edit] = (),
) -> None:
    """Writes the two files."""
    folder.mkdir(parents=True, exist_ok=True)
    # tied weights once; clone: safetensors refuses tensors that share their memory, as an own network's may
    first = {names[0] for names in names_of_tied(network).values()}
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in network.state_dict().items()
        if name in first
    }
    write_bytes(folder / WEIGHTS, save(tensors))
    data: dict[str, Any] = {
        "schema": SCHEMA,
        "architecture": architecture_to_data(architecture),
        "metadata": metadata_to_data(metadata),
    }
    if edits:
        data["edits"] = [{"rewrite": edit.rule, "at": edit.at} if isinstance(edit, Rewrite) else edit for edit in edits]
    write_text(folder / ARCHITECTURE, yaml.safe_dump(data, sort_keys=False, default_flow_style=None))


def load_artefact(folder: Path, module: nn.Module | None = None) -> Network:
    """Rebuilds the network. Raises ArtefactError for missing or broken files and weights that do not fit.

    module: that the network was made of, if it was one in memory, as it was then.
    """
    path = folder / ARCHITECTURE
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise no_artefact(folder, error.strerror) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArtefactError("not valid YAML", place=str(path), value=str(error), remedy="restore the file") from None
    if isinstance(data, dict) and data.get("schema") != SCHEMA:
        raise ArtefactError(
            f"an artefact must be of schema {SCHEMA}, as this version writes it",
            place=f"{path}: schema",
            value=data.get("schema", "none, as earlier versions wrote"),
            remedy="make the artefact again with this version",
        )
    if not isinstance(data, dict) or set(data) - {"edits"} != {"schema", "architecture", "metadata"}:
        raise ArtefactError(
            "the file holds 'schema', 'architecture', 'metadata' and perhaps 'edits'",
            place=str(path),
            value=list(data) if isinstance(data, dict) else data,
            remedy="restore the file",
        )
    metadata = metadata_from_data(data["metadata"], f"{path}: metadata")
    edits = _edits_from_data(data.get("edits", []), f"{path}: edits")
    record = data["architecture"]
    if module is not None and isinstance(record, dict) and record.get("family") == GivenModule.family:
        record = {**record, "module": module}
    architecture = architecture_from_data(record, f"{path}: architecture")
    network = architecture.build()
    try:
        network = edited(network, edits)
    except (NetworkError, RecipeError) as error:
        raise ArtefactError(
            "the rewrites must be of this architecture",
            place=f"{path}: edits",
            value=str(error),
            remedy="restore the file; a newer version may know more",
        ) from None
    weights = folder / WEIGHTS
    try:
        give_weights(network, edits, load_file(weights))
    except (OSError, SafetensorError) as error:
        raise ArtefactError(
            "the weights must be a safetensors file", place=str(weights), value=str(error), remedy="restore the file"
        ) from None
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if len(str(error).splitlines()) > 1 else str(error)
        raise ArtefactError(
            "the weights must be of this architecture",
            place=str(weights),
            value=reason,
            remedy="keep architecture and weights of one candidate together",
        ) from None
    check_finite(network, str(weights), ArtefactError)
    return Network(str(folder), architecture, network.eval(), metadata, edits)


def edited(network: nn.Module, edits: Sequence[Edit]) -> nn.Module:
    """The fresh network, which changes, after these edits, but for the sizes of pruned layers. Weights mean nothing.

    Raises NetworkError or RecipeError for rewrites of another network.
    """
    if FUNCTIONS_AS_MODULES in edits:
        network, _ = as_modules(network)
    rewrite_in_place(network, (edit for edit in edits if isinstance(edit, Rewrite)))
    return network


def give_weights(network: nn.Module, edits: Sequence[Edit], tensors: Mapping[str, Tensor]) -> None:
    """Changes the edited network to these weights, and its layers to their sizes where it was pruned.

    Tied weights are in the tensors once, or the same under every name. Raises RuntimeError for weights that do not fit.
    """
    given = dict(tensors)
    for name, names in names_of_tied(network).items():
        known = [one for one in names if one in tensors]
        if any(not torch.equal(tensors[known[0]], tensors[one]) for one in known[1:]):
            raise RuntimeError(f"{known[0]} and {known[1]} are one tensor of the network, but not in the file")
        if known:
            given.setdefault(name, tensors[known[0]])
    if CHANNELS_PRUNED in edits:
        fit_shapes(network, {name: tuple(tensor.shape) for name, tensor in given.items()})
    network.load_state_dict(given)


def _edits_from_data(data: Any, place: str) -> tuple[Edit, ...]:
    """Raises ArtefactError for what is no list of edits."""
    plain = (FUNCTIONS_AS_MODULES, CHANNELS_PRUNED)
    known = isinstance(data, list) and all(edit in plain or _is_rewrite(edit) for edit in data)
    if not known:
        raise ArtefactError(
            "an edit must be one this version knows",
            place=place,
            value=data,
            remedy=f"known: {'; '.join(plain)}; {{rewrite: RULE, at: MODULE}}; a newer version may know more",
        )
    return tuple(Rewrite(edit["rewrite"], edit["at"]) if isinstance(edit, dict) else edit for edit in data)


def _is_rewrite(edit: Any) -> bool:
    return isinstance(edit, dict) and set(edit) == {"rewrite", "at"} and all(isinstance(v, str) for v in edit.values())


def is_artefact(path: Path) -> bool:
    """Whether the folder looks like one."""
    return (path / ARCHITECTURE).is_file()


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
