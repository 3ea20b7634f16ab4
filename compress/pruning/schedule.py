"""How a network gets to its masks: at once, step by step, or by a training that drives the weights there.

    one-shot  `masks`, `apply_masks`, fine-tune
    gradual   the ratio rises along a cubic; Zhu, Gupta 2017, arXiv:1710.01878
    ADMM      a penalty draws the weights to their projection; Zhang et al., ECCV 2018, arXiv:1804.03294
    group lasso, reweighted  Candès, Wakin, Boyd 2008, of single weights; Yuan, Lin 2006, of groups

After every one of them come the masks and a fine-tuning that holds them. `Sparsifier` leads a training through either;
it and the two penalties are modules without parameters: registered beside the network, their state goes into its
checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from compress.errors import RecipeError
from compress.pruning.sparsity import Convolution, Masks, Scheme, apply_masks, masks, oihw, prunable


def cubic_ratio(step: int, final: float, *, begin: int, end: int, initial: float = 0.0) -> float:
    """The ratio at a step: initial until `begin`, final from `end`, in between Zhu and Gupta's equation 1.

    final + (initial - final) · (1 - (step - begin) / (end - begin))³: fast first, slow at the end.
    """
    _check(begin < end, "the gradual schedule must begin before it ends", f"{begin} to {end}")
    done = min(max((step - begin) / (end - begin), 0.0), 1.0)
    return final + (initial - final) * (1 - done) ** 3


class Admm(nn.Module):
    """ADMM's auxiliary weights Z, which obey the scheme, and scaled dual variables U, of the layers in `ratios`.

    Add `penalty` to the loss of every step and call `update` every few epochs; at the end, take the masks. Z and U are
    buffers `z0`, `u0`, ... in the order of the ratios.
    """

    def __init__(self, network: nn.Module, scheme: Scheme, ratios: Mapping[str, float], rho: float) -> None:
        """rho: weight of the penalty. Raises what `masks` does, and RecipeError unless rho is above 0."""
        super().__init__()
        _check(rho > 0, "rho must be above 0", rho)
        self.rho, self._scheme, self._ratios = rho, scheme, dict(ratios)
        self._named = _layers(network, scheme, masks(network, scheme, ratios))
        for number, (name, layer) in enumerate(self._named.items()):
            self.register_buffer(f"z{number}", self._projected(name, layer.weight.detach()))
            self.register_buffer(f"u{number}", torch.zeros_like(layer.weight, requires_grad=False))

    def penalty(self) -> Tensor:
        """rho / 2 · Σ ‖W - Z + U‖²: the term of the loss."""
        return self.rho / 2 * torch.stack([(weight - z + u).square().sum() for _, weight, z, u in self._layers()]).sum()

    @torch.no_grad()
    def update(self) -> None:
        """Z becomes the projection of W + U, then U grows by W - Z."""
        for name, weight, z, u in self._layers():
            z.copy_(self._projected(name, weight + u))
            u.add_(weight - z)

    @torch.no_grad()
    def distances(self) -> dict[str, float]:
        """Weight's name → ‖W - Z‖ / ‖W‖: what masking would still change."""
        return {name: float((weight - z).norm() / weight.norm()) for name, weight, z, _ in self._layers()}

    def _projected(self, name: str, weight: Tensor) -> Tensor:
        layer = self._named[name]
        return weight.masked_fill(~oihw(layer, self._scheme.mask(oihw(layer, weight), self._ratios[name])), 0.0)

    def _layers(self) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        """Every layer's name, W, Z and U."""
        for number, (name, layer) in enumerate(self._named.items()):
            yield name, layer.weight, self.get_buffer(f"z{number}"), self.get_buffer(f"u{number}")


class ReweightedGroupLasso(nn.Module):
    """Σ a · ‖W_g‖ over the scheme's groups g of the named layers, each weighed by a = 1 / (‖W_g‖ + epsilon).

    `reweigh` takes the weights a anew, every few epochs: groups that are small already are pressed harder, large ones
    are freed. The weights are buffers `a0`, `a1`, ... in the order of the names; they start at 1, a plain group lasso.
    """

    def __init__(
        self, network: nn.Module, scheme: Scheme, names: Sequence[str], strength: float, epsilon: float
    ) -> None:
        """strength: factor on the sum. Raises what `masks` does, and RecipeError unless both numbers are above 0."""
        super().__init__()
        _check(strength > 0 and epsilon > 0, "strength and epsilon must be above 0", (strength, epsilon))
        self.strength, self.epsilon, self._scheme = strength, epsilon, scheme
        self._named = _layers(network, scheme, masks(network, scheme, dict.fromkeys(names, 0.0)))
        for number, norms in enumerate(self._norms()):
            self.register_buffer(f"a{number}", torch.ones_like(norms, requires_grad=False))

    def penalty(self) -> Tensor:
        """The term of the loss. Its gradient at a group of zeros is zero."""
        pairs = zip(self._factors(), self._norms(), strict=True)
        return self.strength * torch.stack([a @ norms for a, norms in pairs]).sum()

    @torch.no_grad()
    def reweigh(self) -> None:
        """The weights a for the network as it is."""
        for a, norms in zip(self._factors(), self._norms(), strict=True):
            a.copy_(1 / (norms + self.epsilon))

    def _norms(self) -> list[Tensor]:
        groups = [self._scheme.groups(oihw(layer, layer.weight)) for layer in self._named.values()]
        return [torch.linalg.vector_norm(each, dim=1) for each in groups]

    def _factors(self) -> list[Tensor]:
        return [self.get_buffer(f"a{n}") for n in range(len(self._named))]


Schedule = Literal["one_shot", "gradual", "admm", "reweighted"]
_CHANGES = 10
"""Of masks, or of a penalty's own state, on the way to the final masks."""


class Sparsifier(nn.Module):
    """Leads a network to its masks in the first half of a training, and holds them in the second; one_shot: in all.

    Call `begin_step` before every step's forward pass, add `penalty` to its loss, and `hold` at the end. What a killed
    training's checkpoint needs is in its buffers, and in the network's zeros.
    """

    def __init__(
        self, network: nn.Module, scheme: Scheme, ratios: Mapping[str, float], how: Schedule, steps: int, force: float
    ) -> None:
        """steps: of the whole training. force: admm's rho, or the group lasso's strength. Raises what `masks` does."""
        super().__init__()
        _check(steps >= 2 or how == "one_shot", "a schedule needs at least 2 training steps", steps)
        self.step: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self._network = [network]  # in a list: not a part of this module
        self._scheme, self._ratios, self._how = scheme, dict(ratios), how
        self._turn = 0 if how == "one_shot" else steps // 2
        self._every = max(1, self._turn // _CHANGES)
        self._masks: Masks = {}
        self._masked_for = -1.0
        self.admm = Admm(network, scheme, ratios, force) if how == "admm" else None
        self.lasso = ReweightedGroupLasso(network, scheme, list(ratios), force, 1e-3) if how == "reweighted" else None

    def begin_step(self) -> None:
        """Sets to zero what the schedule says at this step."""
        number = int(self.step)
        self.step += 1
        changes = number % self._every == 0
        if number >= self._turn:
            self._mask(1.0)
        elif self._how == "gradual":
            self._mask(cubic_ratio(number - number % self._every, 1.0, begin=0, end=self._turn))
        elif self.admm is not None and number and changes:
            self.admm.update()
        elif self.lasso is not None and number and changes:
            self.lasso.reweigh()
        self.hold()

    def penalty(self) -> Tensor | None:
        """What is added to the loss of this step; None if nothing is."""
        if int(self.step) > self._turn:
            return None
        force = self.admm or self.lasso
        return force.penalty() if force is not None else None

    def hold(self) -> None:
        """Sets the masked weights to zero again."""
        apply_masks(self._network[0], self._masks)

    def _mask(self, part: float) -> None:
        if part != self._masked_for:
            self._masked_for = part
            ratios = {name: part * ratio for name, ratio in self._ratios.items()}
            self._masks = masks(self._network[0], self._scheme, ratios)


def _layers(network: nn.Module, scheme: Scheme, named: Masks) -> dict[str, Convolution]:
    """The layers of those weights: in a plain dict, so that a module that holds it does not own them."""
    layers = prunable(network, scheme).layers
    return {name: layers[name] for name in named}


def _check(good: bool, rule: str, value: object) -> None:
    if not good:
        raise RecipeError(rule, place="pruning: schedule", value=value, remedy="correct it")
