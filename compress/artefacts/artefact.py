"""One candidate on disk: `architecture.yaml` and `weights.safetensors`. Rebuilds bit-equal, without pickle.

`edits`: what was done to the architecture since it was built, in order. `functions as modules`: an own network's calls
of functions became modules, before all replacements. `{rewrite: RULE, at: PATH}`: that module was replaced. `channels
pruned`: layers have the sizes of the weights; they get them after all replacements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from compress.errors import ArtefactError, NetworkError, RecipeError, no_artefact
from compress.files import read_yaml, write_bytes, write_text
from compress.networks import Architecture, architecture_from_data, architecture_to_data
from compress.networks.weights import check_finite, names_of_tied
from compress.pruning.structured import fit_shapes
from compress.rewriting.functions import as_modules
from compress.rewriting.sites import Rewrite, rewrite_in_place

ARCHITECTURE, WEIGHTS = "architecture.yaml", "weights.safetensors"
CHANNELS_PRUNED, FUNCTIONS_AS_MODULES = "channels pruned", "functions as modules"

Edit = str | Rewrite
"""CHANNELS_PRUNED, FUNCTIONS_AS_MODULES or a module replaced."""


@dataclass(frozen=True)
class Artefact:
    """A candidate read from disk. network: in eval mode. facts: what was noted about it (input_hw, score, origin)."""

    architecture: Architecture
    network: nn.Module
    facts: dict[str, Any]
    edits: tuple[Edit, ...] = ()


def save_artefact(
    folder: Path, architecture: Architecture, network: nn.Module, facts: dict[str, Any], edits: Sequence[Edit] = ()
) -> None:
    """Writes the two files. facts: plain data; `input_hw` is what later commands take as the input size."""
    folder.mkdir(parents=True, exist_ok=True)
    # tied weights once; clone: safetensors refuses tensors that share their memory, as an own network's may
    first = {names[0] for names in names_of_tied(network).values()}
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in network.state_dict().items()
        if name in first
    }
    write_bytes(folder / WEIGHTS, save(tensors))
    data: dict[str, Any] = {"architecture": architecture_to_data(architecture), "facts": facts}
    if edits:
        data["edits"] = [{"rewrite": edit.rule, "at": edit.at} if isinstance(edit, Rewrite) else edit for edit in edits]
    write_text(folder / ARCHITECTURE, yaml.safe_dump(data, sort_keys=False, default_flow_style=None))


def load_artefact(folder: Path) -> Artefact:
    """Rebuilds the candidate. Raises ArtefactError for missing or broken files and weights that do not fit."""
    path = folder / ARCHITECTURE
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise no_artefact(folder, error.strerror) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArtefactError("not valid YAML", place=str(path), value=str(error), remedy="restore the file") from None
    if (
        not isinstance(data, dict)
        or set(data) - {"edits"} != {"architecture", "facts"}
        or not isinstance(data["facts"], dict)
    ):
        raise ArtefactError(
            "the file holds 'architecture', 'facts' and perhaps 'edits'",
            place=str(path),
            value=data,
            remedy="restore the file",
        )
    edits = _edits_from_data(data.get("edits", []), f"{path}: edits")
    architecture = architecture_from_data(data["architecture"], f"{path}: architecture")
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
    return Artefact(architecture, network.eval(), data["facts"], edits)


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
