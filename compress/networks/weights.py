"""What must hold of a network's weights, wherever a network that comes with weights is opened."""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from compress.errors import CompressError, NetworkError

_NAMED = 5  # tensors or modules that one line lists


def names_of_tied(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Name of every parameter and buffer that is saved → all names of the same tensor, itself among them."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in network.state_dict(keep_vars=True).items():
        names[id(tensor)].append(name)
    return {name: tuple(group) for group in names.values() for name in group}


def check_finite(network: nn.Module, place: str, kind: type[CompressError] = NetworkError) -> None:
    """Raises `kind` naming the tensors that hold a NaN, or an infinity.

    Infinite buffers are an author's choice (masks of attention hold -inf), but for the statistics of norms.
    """
    parameters = {id(parameter) for parameter in network.parameters()}
    broken = []
    for name, tensor in network.state_dict(keep_vars=True).items():
        if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        learned = id(tensor) in parameters or name.rpartition(".")[2] in ("running_mean", "running_var")
        if not bool(torch.isfinite(tensor).all() if learned else not torch.isnan(tensor).any()):
            broken.append(name)
    if broken:
        raise kind(
            "weights must be finite numbers, without NaN and infinity",
            place=place,
            value=_listed(broken),
            remedy="give a network, or a checkpoint, from before its training diverged",
        )


def check_memory(network: nn.Module, place: str) -> None:
    """Raises NetworkError for tensors that are views of the same memory, such as one convolution's transposed weight.

    Changing one would change the other behind its back. One tensor under several names is fine, and so are tensors
    that lie side by side in one memory.
    """
    tensors = {id(tensor): (name, tensor) for name, tensor in network.state_dict(keep_vars=True).items()}
    by_memory: dict[int, list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in tensors.values():
        if not tensor.is_meta and tensor.layout == torch.strided and tensor.numel():
            by_memory[tensor.untyped_storage().data_ptr()].append((name, tensor))
    for sharing in by_memory.values():
        owner: dict[int, str] = {}
        for name, tensor in sharing if len(sharing) > 1 else ():
            size = tensor.untyped_storage().nbytes() // tensor.element_size()
            mine = torch.arange(size).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            for element in (mine.flatten() * tensor.element_size()).tolist():
                other = owner.setdefault(element, name)
                if other != name:
                    raise NetworkError(
                        "two tensors must not be views of the same memory",
                        place=place,
                        value=f"{other} and {name}",
                        remedy="register one nn.Parameter at both places, and transpose it in forward where it is read",
                    )


def separate_elements(network: nn.Module, place: str) -> None:
    """Gives buffers whose elements lie in one place of memory, as expand and meshgrid leave them, memory of their own.

    Such a tensor cannot be written to, so neither loaded nor pruned. Raises NetworkError for parameters of this kind.
    """
    shared = [name for name, parameter in network.named_parameters() if _overlaps(parameter)]
    if shared:
        raise NetworkError(
            "the elements of a parameter must each have their own place in memory",
            place=place,
            value=_listed(shared),
            remedy="register a smaller nn.Parameter and expand it in forward, or call .clone() on it before",
        )
    copies: dict[int, tuple[Tensor, Tensor]] = {}  # by the buffer, which lives on, or another could get its id
    for module in network.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and _overlaps(buffer):
                _, module._buffers[name] = copies.setdefault(
                    id(buffer), (buffer, buffer.clone(memory_format=torch.contiguous_format))
                )


def _overlaps(tensor: Tensor) -> bool:
    """Whether elements of a tensor may lie in one place: whether a stride does not step over the dimensions within."""
    if tensor.layout != torch.strided or not tensor.numel():
        return False
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if stride <= reach:
                return True
            reach += stride * (size - 1)
    return False


def check_plain(network: nn.Module, place: str) -> None:
    """Raises NetworkError for weights that a hook computes from others before every pass, and for a state beside them.

    As torch.nn.utils.prune, and the old weight_norm and spectral_norm, leave them: such a network cannot be copied.
    What get_extra_state returns is no tensor, and has no place in a safetensors file.
    """
    extra = [name for name, value in network.state_dict().items() if not isinstance(value, Tensor)]
    if extra:
        raise NetworkError(
            "a network's state must be tensors alone",
            place=place,
            value=_listed(extra),
            remedy="remove get_extra_state, or register what it returns as a buffer",
        )
    remedies = {
        BasePruningMethod: "torch.nn.utils.prune.remove(module, {!r})",
        WeightNorm: "torch.nn.utils.remove_weight_norm(module, {!r})",
        SpectralNorm: "torch.nn.utils.remove_spectral_norm(module, {!r})",
    }
    for kind, remedy in remedies.items():
        found = {
            path or "the network": str(getattr(hook, "_tensor_name", getattr(hook, "name", "weight")))
            for path, module in network.named_modules()
            for hook in module._forward_pre_hooks.values()
            if isinstance(hook, kind)
        }
        if found:
            raise NetworkError(
                "weights must be parameters of their own, not computed from others by a hook",
                place=place,
                value=_listed(list(found)),
                remedy=f"call {remedy.format(next(iter(found.values())))} on these modules",
            )


def check_unparametrized(network: nn.Module, place: str) -> None:
    """Raises NetworkError for layers with a parametrization, as the new weight_norm and spectral_norm leave them."""
    found = {path: module for path, module in network.named_modules() if is_parametrized(module)}
    if found:
        name = next(iter(next(iter(found.values())).parametrizations))
        raise NetworkError(
            "a layer that loses weights must have weights of its own, not parametrized ones",
            place=place,
            value=_listed(list(found)),
            remedy=f"call torch.nn.utils.parametrize.remove_parametrizations(module, {name!r}) on these modules",
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
