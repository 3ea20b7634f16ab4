"""Fine-grained pruning: which single weights of a convolution become zero. Its shape stays.

Every scheme is a set of allowed supports, and its `mask` is the support of the Euclidean projection of the weights on
that set: it keeps the most energy (sum of squares) that the ratio allows. So the same function prunes by magnitude and
projects for ADMM (compress.pruning.schedule).

    Unstructured  any single weight                                  Han et al., NeurIPS 2015
    NOfM          equally many of every M consecutive input channels  Mishra et al. 2021, arXiv:2104.08378
    Block         consecutive filters share one mask; MNN's sparse kernels want blocks of 4
    Pattern       3x3 kernels keep one of a few patterns, or none      PatDNN: Niu et al., ASPLOS 2020

Masks are bool tensors in the weight's shape by the parameter's name, True where the weight stays. A pruned network is
an ordinary one with zeros in its weights: `masks_of_zeros` reads the masks back from what was saved.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from compress.errors import NetworkError, RecipeError, nearest

Masks = dict[str, Tensor]
"""Parameter → bool tensor of its shape, True where the weight stays."""

Convolution = nn.Conv2d | nn.ConvTranspose2d

COLOURS = 3
"""Input channels of the layer that reads the picture: few weights, on which everything depends."""


class Scheme(Protocol):
    """Which weights are set to zero together."""

    def refuses(self, layer: Convolution) -> str | None:
        """Why the scheme cannot prune this convolution of one group; None if it can."""
        ...

    def mask(self, weight_oihw: Tensor, ratio: float) -> Tensor:
        """The weights that stay when this share is set to zero, as nearly as whole groups allow; some always stay."""
        ...

    def groups(self, weight_oihw: Tensor) -> Tensor:
        """[groups, members]: what a group lasso drives to zero together."""
        ...


@dataclass(frozen=True)
class Unstructured:
    """Any single weight."""

    def refuses(self, layer: Convolution) -> None:
        """See Scheme: nothing."""

    def mask(self, weight_oihw: Tensor, ratio: float) -> Tensor:
        """See Scheme."""
        return _largest(weight_oihw.abs(), ratio)

    def groups(self, weight_oihw: Tensor) -> Tensor:
        """See Scheme: single weights."""
        return weight_oihw.reshape(-1, 1)


@dataclass(frozen=True)
class NOfM:
    """Of every `of` consecutive input channels, at each filter and kernel position, round(ratio · of) are zero."""

    of: int = 4

    def __post_init__(self) -> None:
        """Raises RecipeError for a group of one."""
        _check(self.of >= 2, "N of M needs an M of at least 2", "of", self.of)

    def refuses(self, layer: Convolution) -> str | None:
        """See Scheme."""
        return _unless_multiple(layer.in_channels, self.of, "input channels")

    def mask(self, weight_oihw: Tensor, ratio: float) -> Tensor:
        """See Scheme."""
        outputs, inputs, height, width = weight_oihw.shape
        grouped = weight_oihw.abs().reshape(outputs, inputs // self.of, self.of, height, width)
        kept = grouped.topk(_kept(self.of, ratio), dim=2).indices
        return torch.zeros_like(grouped, dtype=torch.bool).scatter_(2, kept, True).reshape(weight_oihw.shape)

    def groups(self, weight_oihw: Tensor) -> Tensor:
        """See Scheme: single weights."""
        return weight_oihw.reshape(-1, 1)


@dataclass(frozen=True)
class Block:
    """`filters` consecutive filters share one mask over input channel and kernel position."""

    filters: int = 4

    def __post_init__(self) -> None:
        """Raises RecipeError for an empty block."""
        _check(self.filters >= 1, "a block must have at least 1 filter", "filters", self.filters)

    def refuses(self, layer: Convolution) -> str | None:
        """See Scheme."""
        return _unless_multiple(layer.out_channels, self.filters, "filters")

    def mask(self, weight_oihw: Tensor, ratio: float) -> Tensor:
        """See Scheme."""
        blocks = self._blocks(weight_oihw)
        kept = _largest(blocks.square().sum(1, keepdim=True), ratio)
        return kept.expand_as(blocks).reshape(weight_oihw.shape)

    def groups(self, weight_oihw: Tensor) -> Tensor:
        """See Scheme: one position of one input channel of a block's filters."""
        return self._blocks(weight_oihw).movedim(1, -1).reshape(-1, self.filters)

    def _blocks(self, weight_oihw: Tensor) -> Tensor:
        """[O/filters, filters, I, kh, kw]."""
        return weight_oihw.reshape(-1, self.filters, *weight_oihw.shape[1:])


@dataclass(frozen=True)
class Pattern:
    """Every 3x3 kernel keeps the positions of one pattern, or none: whole kernels are zero until the ratio is reached.

    dictionary: patterns, each of the same number of positions 0..8, row by row. See `common_patterns`.
    """

    dictionary: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        """Raises RecipeError for patterns that are none, or of different size."""
        good = all(pattern and set(pattern) <= set(range(9)) for pattern in self.dictionary)
        sizes = {len(set(pattern)) for pattern in self.dictionary}
        _check(
            good and len(sizes) == 1, "patterns are equally many of the positions 0..8", "dictionary", self.dictionary
        )

    def refuses(self, layer: Convolution) -> str | None:
        """See Scheme."""
        return None if layer.kernel_size == (3, 3) else f"a kernel of {'x'.join(map(str, layer.kernel_size))}, not 3x3"

    def mask(self, weight_oihw: Tensor, ratio: float) -> Tensor:
        """See Scheme. Raises RecipeError for a ratio below what the patterns alone take, 5/9 for 4 of 9."""
        positions = len(self.dictionary[0])
        least = 1 - positions / 9
        if ratio < least - 1e-9:
            raise RecipeError(
                f"patterns of {positions} of 9 positions zero at least {least:.3f} of a layer",
                place="pruning: ratio",
                value=ratio,
                remedy="raise the ratio, or leave the layer dense",
            )
        patterns_p9 = _positions(self.dictionary, weight_oihw.device)
        energy_oip = weight_oihw.square().flatten(2) @ patterns_p9.to(weight_oihw.dtype).T
        best = energy_oip.max(-1)
        kept_oi = _largest(best.values, 1 - (1 - ratio) * 9 / positions)
        return (patterns_p9[best.indices] & kept_oi[..., None]).reshape(weight_oihw.shape)

    def groups(self, weight_oihw: Tensor) -> Tensor:
        """See Scheme: kernels."""
        return weight_oihw.reshape(-1, 9)


def common_patterns(network: nn.Module, count: int = 8, positions: int = 4) -> Pattern:
    """The patterns that most kernels of the network have by nature: the centre and their largest other weights.

    As PatDNN, section 4.1, chooses them. Of equally frequent ones the first in order. Raises NetworkError if no layer
    can be pruned by patterns.
    """
    _check(2 <= positions <= 8, "a pattern must have 2 to 8 positions", "positions", positions)
    _check(count >= 1, "there must be at least 1 pattern", "count", count)
    found: Counter[tuple[int, ...]] = Counter()
    for layer in prunable(network, Pattern(((4,),))).layers.values():
        magnitude = layer.weight.detach().abs().flatten(2).flatten(0, 1)  # kernels, in any order
        magnitude[:, 4] = torch.inf
        patterns, times = torch.unique(magnitude.topk(positions).indices.sort().values, dim=0, return_counts=True)
        found.update({tuple(p): n for p, n in zip(patterns.tolist(), times.tolist(), strict=True)})
    if not found:
        raise NetworkError(
            "patterns need 3x3 convolutions of one group", place=type(network).__name__, remedy="use another scheme"
        )
    ordered = sorted(found, key=lambda pattern: (-found[pattern], pattern))
    return Pattern(tuple(ordered[:count]))


# --- Layers and masks ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prunable:
    """layers: weight's name → convolution, in the order of the network. refused: other weights' names → the reason."""

    layers: dict[str, Convolution]
    refused: dict[str, str]


def prunable(network: nn.Module, scheme: Scheme) -> Prunable:
    """What the scheme can prune: convolutions of one group, transposed ones too, that do not read the picture.

    Every other matrix or kernel has a reason; batch norms and biases are not listed.
    """
    layers: dict[str, Convolution] = {}
    refused: dict[str, str] = {}
    owners = {f"{path}.weight".lstrip("."): module for path, module in network.named_modules()}
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            continue
        layer = owners.get(name)
        if not isinstance(layer, Convolution):
            refused[name] = (
                f"a weight of {type(layer).__name__ if layer else 'no layer'}, not of a two-dimensional convolution"
            )
        elif layer.groups > 1:
            refused[name] = "a depthwise convolution" if layer.weight.shape[1] == 1 else "a grouped convolution"
        elif layer.in_channels == COLOURS:
            refused[name] = "it reads the picture"
        elif reason := scheme.refuses(layer):
            refused[name] = reason
        else:
            layers[name] = layer
    return Prunable(layers, refused)


def masks(network: nn.Module, scheme: Scheme, ratios: Mapping[str, float]) -> Masks:
    """The masks of the layers named, for the weights as they are. ratios: weight's name → share set to zero, 0..1.

    What is zero already counts first, so masks of rising ratios lie inside one another. Raises NetworkError for a layer
    that does not exist or cannot be pruned so, RecipeError for a ratio outside 0 <= ratio < 1.
    """
    found = prunable(network, scheme)
    made: Masks = {}
    for name, ratio in ratios.items():
        if name in found.refused:
            raise NetworkError(
                f"{type(scheme).__name__} cannot prune this layer: {found.refused[name]}",
                place=name,
                remedy="leave it dense",
            )
        if name not in found.layers:
            raise NetworkError("no such weight", place="pruning", value=name, remedy=nearest(name, found.layers))
        if not 0 <= ratio < 1:
            raise RecipeError(
                "a ratio must be at least 0 and below 1", place=f"pruning: {name}", value=ratio, remedy="correct it"
            )
        layer = found.layers[name]
        made[name] = oihw(layer, scheme.mask(oihw(layer, layer.weight.detach()), ratio))
    return made


def oihw(layer: Convolution, tensor: Tensor) -> Tensor:
    """A tensor in the order of the layer's weight as [O,I,kh,kw], or back: transposed convolutions have [I,O,kh,kw]."""
    return tensor.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else tensor


def apply_masks(network: nn.Module, masks: Masks) -> None:
    """Sets the masked weights to zero, in place: once before training, and after every step of its optimiser.

    Raises NetworkError for masks of another network.
    """
    parameters = dict(network.named_parameters())
    for name, mask in masks.items():
        if name not in parameters or parameters[name].shape != mask.shape:
            shape = tuple(parameters[name].shape) if name in parameters else None
            raise NetworkError(
                f"a mask of shape {tuple(mask.shape)} needs a weight of that shape",
                place=name,
                value=shape,
                remedy="give the network that the masks were made for",
            )
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask, 0.0)  # a product would keep NaN and the sign of zero


def masks_of_zeros(network: nn.Module) -> Masks:
    """The masks of a pruned network, from its weights: of every convolution that has zeros among them."""
    found = prunable(network, Unstructured()).layers
    return {name: layer.weight.detach() != 0 for name, layer in found.items() if not layer.weight.detach().all()}


def sparsity(masks: Masks) -> dict[str, float]:
    """Weight's name → the share that went: what the ratio came to."""
    return {name: 1 - float(mask.float().mean()) for name, mask in masks.items()}


# --- Small things ----------------------------------------------------------------------------------------------------


def _kept(count: int, ratio: float) -> int:
    """Of `count` groups; at least one."""
    return max(1, count - round(ratio * count))


def _largest(scores: Tensor, ratio: float) -> Tensor:
    """True at the largest ones, in the shape of the scores. Of equal ones the first stay."""
    flat = scores.flatten()
    order = flat.argsort(descending=True, stable=True)[: _kept(len(flat), ratio)]
    return torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, order, True).reshape(scores.shape)


def _positions(dictionary: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """Bool [patterns, 9]."""
    return torch.stack(
        [
            torch.zeros(9, dtype=torch.bool, device=device).index_fill_(0, torch.tensor(pattern, device=device), True)
            for pattern in dictionary
        ]
    )


def _unless_multiple(count: int, of: int, what: str) -> str | None:
    return f"{count} {what} are no multiple of {of}" if count % of else None


def _check(good: bool, rule: str, key: str, value: object) -> None:
    if not good:
        raise RecipeError(rule, place=f"pruning: scheme.{key}", value=value, remedy="correct it")
