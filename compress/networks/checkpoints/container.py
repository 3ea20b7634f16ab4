"""What a checkpoint file holds, read without running anything that is in it.

A `.pth` file is a pickle, and a pickle can name any function to call. It is read by `torch.load(weights_only=True)`,
which calls none but those that make tensors, and the few of numpy that make numbers and arrays of numbers.
"""

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from compress.errors import NetworkError

STATES = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
"""Keys under which projects put the tensors, the likeliest first."""

PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "1.")
"""What may stand before every name: data parallel, torch.compile, a wrapper; `1.` of networks in half precision, which
are a sequence of the conversion and the network."""

_OTHER_DTYPES = (torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Container:
    """The tensors of a file. tensors: by their names without `prefix`, in the file's order, real numbers in float32.

    path: the keys to follow in the file. beside: other keys at the top, such as `optimizer`. dtypes: that were turned
    into float32.
    """

    tensors: dict[str, Tensor]
    prefix: str
    path: tuple[str, ...]
    beside: tuple[str, ...]
    dtypes: tuple[str, ...]


def read_container(path: Path) -> Container:
    """The tensors of a `.pth`, `.pt`, `.tar` or `.safetensors` file.

    Raises NetworkError for what is no such file, is cut off, needs more than numbers to be made, or has no tensors.
    """
    if path.is_dir():
        raise NetworkError(
            "a checkpoint is a file", place=str(path), value="a folder", remedy="give the file of the weights in it"
        )
    if not path.is_file():
        raise NetworkError("no such file", place=str(path), remedy="give the path of a checkpoint")
    held = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    keys, state = _state(held, path)
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    prefix = _common_prefix(tensors)
    changed = sorted({str(one.dtype).removeprefix("torch.") for one in tensors.values() if one.dtype in _OTHER_DTYPES})
    return Container(
        {name.removeprefix(prefix): _in_float32(tensor) for name, tensor in tensors.items()},
        prefix,
        keys,
        tuple(str(key) for key in held if key not in keys) if keys else (),
        tuple(changed),
    )


def _safetensors(path: Path) -> Mapping[Any, Any]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _broken(path, error) from None


def _pickled(path: Path) -> Mapping[Any, Any]:
    try:
        zipped = zipfile.is_zipfile(path)  # torch's format from 1.6 on, whose tensors need not be read at once
        with torch.serialization.safe_globals(_numbers()):
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=True if zipped else None)
    except pickle.UnpicklingError as error:
        raise _needs_more(path, str(error)) from None
    except MemoryError:
        raise
    except Exception as error:  # a broken file can raise anything
        raise _broken(path, error) from None
    if not isinstance(held, Mapping):
        raise NetworkError(
            "a checkpoint holds tensors by their names",
            place=str(path),
            value=type(held).__name__,
            remedy="save the network's state_dict()",
        )
    return held


def _numbers() -> list[Any]:
    """What makes numpy's numbers and arrays, under the names of numpy 1 and of numpy 2."""
    from numpy._core import multiarray

    made: list[Any] = [np.ndarray, np.dtype]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        made += [(multiarray._reconstruct, f"{module}._reconstruct"), (multiarray.scalar, f"{module}.scalar")]
    kinds = ("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float32", "Float64")
    return [*made, *(getattr(np.dtypes, f"{kind}DType") for kind in kinds)]


def _needs_more(path: Path, message: str) -> NetworkError:
    """The error for a pickle that wants to call something."""
    named = re.search(r"GLOBAL (\S+)", message)
    if named is None:
        return _broken(path, message.rpartition("WeightsUnpickler error: ")[2])
    remedy = "save only its weights where its classes are installed: torch.save(model.state_dict(), FILE)"
    if named[1].startswith(("mmengine.", "mmcv.")):
        remedy = (
            "publish it with mmpose's tools/misc/publish_model.py, which keeps the weights; published files are fine"
        )
    return NetworkError(
        "a checkpoint must hold only tensors and numbers; this one has objects of other code, which is not run",
        place=str(path),
        value=named[1],
        remedy=remedy,
    )


def _broken(path: Path, error: object) -> NetworkError:
    first = str(error).strip().splitlines()
    return NetworkError(
        "the file cannot be read as a checkpoint: it is cut off, or of another kind",
        place=str(path),
        value=first[0] if first else type(error).__name__,
        remedy="download it again; .pth, .pt, .tar and .safetensors files are read",
    )


def _state(held: Mapping[Any, Any], path: Path) -> tuple[tuple[str, ...], Mapping[Any, Any]]:
    """The keys to follow and the mapping of names to tensors. Raises NetworkError where there is none."""
    if _is_state(held):
        return (), held
    for key in STATES:
        inside = held.get(key)
        if isinstance(inside, Mapping) and _is_state(inside):
            return (key,), inside
    optimizer = "param_groups" in held or "optimizer" in held
    raise NetworkError(
        "a checkpoint must hold a network's tensors by their names",
        place=str(path),
        value="an optimizer's state" if optimizer else list(held)[:8],
        remedy="give the file of the network's weights"
        if optimizer
        else f"put the tensors at the top, or under one of {', '.join(STATES)}",
    )


def _is_state(held: Mapping[Any, Any]) -> bool:
    """Whether names stand for tensors. A few other entries beside them, such as a version, do no harm."""
    tensors = [key for key, value in held.items() if isinstance(key, str) and isinstance(value, Tensor)]
    return bool(tensors) and 2 * len(tensors) > len(held)


def _common_prefix(names: Mapping[str, Tensor]) -> str:
    """All of PREFIXES, one after the other, that every name begins with."""
    prefix = ""
    while added := next((one for one in PREFIXES if all(name.startswith(prefix + one) for name in names)), ""):
        prefix += added
    return prefix


def _in_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32) if tensor.dtype in _OTHER_DTYPES else tensor
