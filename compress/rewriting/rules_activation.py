"""Activations that cost little instead of those that need an exponential."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from compress.rewriting.rule import Rule, alike, carry_nothing


class HardTanhSwish(nn.Module):
    """x·(hardtanh(x) + 1) / 2: swish is x·(tanh(x/2) + 1) / 2."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return x * (functional.hardtanh(x) + 1) / 2


def _swap(name: str, does: str, source: str, given: type[nn.Module], build: Callable[[], nn.Module]) -> Rule:
    """The rule for modules of exactly this class. The new one works in place where the given one does."""

    def replacement(module: nn.Module) -> nn.Module:
        new = build()
        if isinstance(new, nn.ReLU | nn.Hardswish | nn.Hardsigmoid):
            new.inplace = getattr(module, "inplace", False)
        return alike(new, module)

    return Rule(name, does, source, False, lambda module: type(module) is given, replacement, carry_nothing)


_UNFRIENDLY = "Shen et al., IJCAI 2021, Mobile-Unfriendly Operator Replacement"
_MOBILENET_V3 = "Howard et al., ICCV 2019, Sec. 5.2"

ACTIVATION_RULES = (
    _swap("swish_to_hard_swish", "Swish → x·relu6(x + 3) / 6", _MOBILENET_V3, nn.SiLU, nn.Hardswish),
    _swap("swish_to_hard_tanh", "Swish → x·(hardtanh(x) + 1) / 2", _UNFRIENDLY, nn.SiLU, HardTanhSwish),
    _swap("swish_to_relu", "Swish → ReLU", _UNFRIENDLY, nn.SiLU, nn.ReLU),
    _swap("sigmoid_to_hard_sigmoid", "sigmoid → relu6(x + 3) / 6", _MOBILENET_V3, nn.Sigmoid, nn.Hardsigmoid),
    _swap("elu_to_relu", "ELU → ReLU", _UNFRIENDLY, nn.ELU, nn.ReLU),
    _swap("gelu_to_relu", "GELU → ReLU", _UNFRIENDLY, nn.GELU, nn.ReLU),
)
