"""Convolutions as stacks of smaller, plain or cheaper ones.

A stack of 3x3 convolutions starts as blurs, one per channel, and a last convolution of all channels: together they can
be near to a larger kernel. Between them is a ReLU: it passes the blurs of maps that are not negative, which maps after
a ReLU are. Where a stack has room for twice the channels it starts with the negated ones, too, and passes all maps.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from compress.networks.blocks import conv_bn
from compress.rewriting.rule import Convolution, Rule, alike, carry_bias, carry_state, make_identity

BLURS = (0.0, 1 / 12, 1 / 6, 1 / 4, 1 / 3)
"""Along an axis a blur b is the taps b, 1 - 2b, b: from the identity to the mean of three cells."""

CORRELATION = 0.9
"""Of neighbouring cells of a map, as nearest kernels assume; of cells d and e apart along the axes 0.9^(d + e).

On a trained network with 7x7 convolutions, 0.7 and 0.97 gave the same errors of the outputs: 0.07-0.12 of their
variance. Without blurs it was 0.2-0.4, with the middle of the kernel 0.5-0.8.
"""


# --- k×k, and dilated, to 3x3 ----------------------------------------------------------------------------------------


def is_same_convolution(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a dense or depthwise convolution, odd and square, of zeros padding that keeps H and W at stride 1.

    Stride 1 or 2.
    """
    if type(module) is not nn.Conv2d or module.padding_mode != "zeros":
        return False
    kernel, dilation = module.kernel_size[0], module.dilation[0]
    padding = dilation * (kernel // 2)
    return (
        kernel % 2 == 1
        and module.kernel_size == (kernel, kernel)
        and module.dilation == (dilation, dilation)
        and module.stride in ((1, 1), (2, 2))
        and module.padding in ("same", (padding, padding))
        and (module.groups == 1 or module.groups == module.in_channels == module.out_channels)
    )


def _count(given: nn.Conv2d) -> int:
    """Of the fewest 3x3 convolutions that see no less: the first, which has the stride, sees 3 cells, others 2·stride.

    So the field is the given one's at stride 1, and at stride 2 7 cells for 5 or 7, 11 for 9 or 11. With the stride in
    the last convolution it would always be the given one's, but the others would run on four times the cells: as wide
    as the given one, the stack would need more multiply-adds than that.
    """
    cells = given.dilation[0] * (given.kernel_size[0] - 1) + 1
    return 1 + math.ceil((cells - 3) / (2 * given.stride[0]))


def _stack(given: nn.Conv2d, count: int, middle: int) -> nn.Sequential:
    """`count` 3x3 convolutions, batch norm and ReLU after all but the last; the stride is the first one's."""
    groups, stride = given.groups, given.stride[0]
    layers = [
        conv_bn(middle if n else given.in_channels, middle, 3, 1 if n else stride, groups=groups)
        for n in range(count - 1)
    ]
    last = nn.Conv2d(middle, given.out_channels, 3, 1, 1, groups=groups, bias=given.bias is not None)
    return alike(nn.Sequential(*layers, last), given)


def composed(blur: float, count: int, stride: int) -> Tensor:
    """[L,3]: along an axis, what the taps of the last of `count` convolutions become behind the blurs before it.

    The first convolution has the stride; row L // 2 is its own cell.
    """
    row = np.ones(1)
    for number in range(count - 1):
        step = stride if number else 1
        taps = np.zeros(2 * step + 1)
        taps[::step] = (blur, 1 - 2 * blur, blur)
        row = np.convolve(row, taps)
    shifted = [np.pad(row, (tap * stride, (2 - tap) * stride)) for tap in range(3)]
    return torch.from_numpy(np.stack(shifted, 1))


def nearest_stack(kernels: Tensor, at: Sequence[int], count: int, stride: int) -> tuple[Tensor, Tensor]:
    """The stack of `count` 3x3 nearest to kernels [I,O,k,k] of taps `at`: blurs [I] and the last kernels [I,O,3,3].

    Nearest in the mean square of the outputs for maps of that CORRELATION. Every input has the blur that leaves it the
    least error.
    """
    fits = [_fit_last(kernels.double(), at, composed(blur, count, stride).to(kernels.device)) for blur in BLURS]
    lasts, explained = (torch.stack(parts) for parts in zip(*fits, strict=True))
    best = explained.argmax(0)
    blurs = torch.tensor(BLURS, dtype=kernels.dtype, device=kernels.device)[best]
    return blurs, lasts[best, torch.arange(len(best), device=best.device)].to(kernels.dtype)


def _fit_last(kernels: Tensor, at: Sequence[int], stack: Tensor) -> tuple[Tensor, Tensor]:
    """By weighted least squares, the last kernels [I,O,3,3], and per input [I] how much of the mean square they give.

    stack: as `composed` gives it. The problem is the product of its two axes, so each is solved alone.
    """
    cells = torch.arange(len(stack), device=stack.device)
    correlation = CORRELATION ** (cells[:, None] - cells).abs().double()
    normal = stack.T @ correlation @ stack
    solved = torch.linalg.solve(normal, stack.T @ correlation[:, [len(stack) // 2 + tap for tap in at]])
    lasts = torch.einsum("iokl,tk,ul->iotu", kernels, solved, solved)
    return lasts, (torch.einsum("iotu,tv,uw->iovw", lasts, normal, normal) * lasts).sum((1, 2, 3))


@torch.no_grad()
def _carry_stack(given: nn.Module, replacement: nn.Module) -> None:
    """The nearest stack of the strongest inputs: all if there is room, negated ones too if there is room for both."""
    assert isinstance(given, nn.Conv2d)
    *firsts, last = (layer for layer in replacement.modules() if isinstance(layer, nn.Conv2d))
    make_identity(replacement)
    reach, depthwise = given.kernel_size[0] // 2, given.groups > 1
    at = [given.dilation[0] * tap for tap in range(-reach, reach + 1)]
    kernels = given.weight if depthwise else given.weight.transpose(0, 1)
    blurs, lasts = nearest_stack(kernels, at, len(firsts) + 1, given.stride[0])
    rows = torch.stack((blurs, 1 - 2 * blurs, blurs), 1)
    squares = rows[:, :, None] * rows[:, None, :]  # [I,3,3]
    if depthwise:
        for conv in firsts:
            conv.weight.copy_(squares[:, None])
        last.weight.copy_(lasts)
    else:
        _carry_dense([conv.weight for conv in firsts], last.weight, squares, lasts)
    carry_bias(given, last)


def _carry_dense(firsts: Sequence[Tensor], last: Tensor, squares: Tensor, lasts: Tensor) -> None:
    """firsts: [M,I,3,3], then [M,M,3,3]. last: [O,M,3,3]. squares: blurs [I,3,3]. lasts: [I,O,3,3]."""
    first, *others = firsts
    middle, inputs = first.shape[:2]
    nn.init.kaiming_normal_(first, nonlinearity="relu")  # of channels beyond those that pass; they count nothing yet
    for weight in others:
        nn.init.dirac_(weight)
    last.zero_()
    passing = lasts.square().sum((1, 2, 3)).topk(min(middle, inputs)).indices.sort().values
    for number, sign in enumerate((1, -1) if middle >= 2 * inputs else (1,)):
        rows = torch.arange(len(passing), device=first.device) + number * inputs
        first[rows] = 0
        first[rows, passing] = sign * squares[passing]
        for weight in others:
            weight[rows, rows] = squares[passing]
        last[:, rows] = sign * lasts[passing].transpose(0, 1)


def _is_large(module: nn.Module) -> bool:
    return is_same_convolution(module) and module.kernel_size[0] in (5, 7, 9, 11) and module.dilation[0] == 1


def _build_3x3_stack(module: nn.Module) -> nn.Module:
    assert isinstance(module, nn.Conv2d)
    count = _count(module)
    return _stack(module, count, _middle(module, count))


def _middle(given: nn.Conv2d, count: int) -> int:
    """Channels between the convolutions: the given one's, fewer where the multiply-adds would grow, at least 1."""
    inputs, outputs = given.in_channels, given.out_channels
    if given.groups > 1:
        return inputs
    macs = given.kernel_size[0] ** 2 * inputs * outputs
    fitting = (m for m in range(max(inputs, outputs), 1, -1) if 9 * m * (inputs + outputs + (count - 2) * m) <= macs)
    most = next(fitting, 1)
    return most if most < 8 else most // 8 * 8  # what engines compute at a time


def _is_dilated(module: nn.Module) -> bool:
    return is_same_convolution(module) and module.kernel_size[0] == 3 and module.dilation[0] > 1


def _is_dilated_by_2(module: nn.Module) -> bool:
    return is_same_convolution(module) and module.kernel_size[0] == 3 and module.dilation[0] == 2


def _build_plain_3x3(module: nn.Module) -> nn.Module:
    assert isinstance(module, nn.Conv2d)
    bias = module.bias is not None
    conv = nn.Conv2d(module.in_channels, module.out_channels, 3, module.stride[0], 1, 1, module.groups, bias)
    return alike(conv, module)


def _build_two_3x3(module: nn.Module) -> nn.Module:
    assert isinstance(module, nn.Conv2d)
    return _stack(module, _count(module), module.in_channels)


# --- Separable convolutions ------------------------------------------------------------------------------------------


def _is_dense_3x3(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (3, 3)
        and module.groups == 1
        and module.padding_mode == "zeros"
    )


def _build_separable(module: nn.Module) -> nn.Module:
    assert isinstance(module, nn.Conv2d)
    inputs, bias = module.in_channels, module.bias is not None
    layers = OrderedDict(
        depthwise=nn.Conv2d(
            inputs,
            inputs,
            3,
            module.stride,  # type: ignore[arg-type]
            module.padding,  # type: ignore[arg-type]
            module.dilation,  # type: ignore[arg-type]
            inputs,
            bias=False,
        ),
        bn=nn.BatchNorm2d(inputs),
        pointwise=nn.Conv2d(inputs, module.out_channels, 1, bias=bias),
    )
    return alike(nn.Sequential(layers), module)


@torch.no_grad()
def _carry_separable(given: nn.Module, replacement: nn.Module) -> None:
    """The nearest kernel that is one depthwise times one pointwise: the first singular vectors of every input.

    Nearest in the mean square of the outputs, as in `nearest_stack`.
    """
    assert isinstance(given, Convolution)
    by_input = given.weight if isinstance(given, nn.ConvTranspose2d) else given.weight.transpose(0, 1)
    axes = [_tap_correlation(given, axis).to(by_input.device) for axis in (0, 1)]
    factor = torch.linalg.cholesky(torch.kron(*axes))  # [kk,kk]
    u, s, vh = torch.linalg.svd(by_input.flatten(2).double() @ factor, full_matrices=False)  # of [I,O,kk]
    kernels = torch.linalg.solve_triangular(factor, vh[:, :1], upper=False, left=False)
    depthwise, pointwise = (m for m in replacement.modules() if isinstance(m, Convolution))
    depthwise.weight.copy_(kernels.view_as(depthwise.weight))
    pointwise.weight.copy_((u[..., 0] * s[:, :1]).T[..., None, None])
    make_identity(replacement)
    carry_bias(given, pointwise)


def _tap_correlation(given: Convolution, axis: int) -> Tensor:
    """[k,k]: of the cells that taps of one kernel read for the same output, which are none in common if transposed.

    A transposed convolution's taps serve as many outputs in turn as its stride, each a cell further.
    """
    taps = torch.arange(given.kernel_size[axis])
    distances = (taps[:, None] - taps).abs()
    if isinstance(given, nn.ConvTranspose2d):
        stride = given.stride[axis]
        return torch.where(distances % stride == 0, CORRELATION ** (distances // stride).double(), 0.0)
    return CORRELATION ** (given.dilation[axis] * distances).double()


# --- Transposed convolutions -----------------------------------------------------------------------------------------

_UPSAMPLED_3X3 = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Along one axis, the 4 weights of the transposed convolution of stride 2 that nearest x2 and 3 weights are."""


def _is_transposed(module: nn.Module) -> TypeGuard[nn.ConvTranspose2d]:
    return type(module) is nn.ConvTranspose2d and module.groups == 1


def _is_dense_transposed(module: nn.Module) -> bool:
    return _is_transposed(module) and module.kernel_size != (1, 1)


def _build_separable_transposed(module: nn.Module) -> nn.Module:
    """No batch norm between, since onnxruntime does not fold one into a transposed convolution."""
    assert isinstance(module, nn.ConvTranspose2d)
    depthwise = nn.ConvTranspose2d(
        module.in_channels,
        module.in_channels,
        module.kernel_size,  # type: ignore[arg-type]
        module.stride,  # type: ignore[arg-type]
        module.padding,  # type: ignore[arg-type]
        module.output_padding,  # type: ignore[arg-type]
        module.in_channels,
        False,
        module.dilation,  # type: ignore[arg-type]
    )
    pointwise = nn.Conv2d(module.in_channels, module.out_channels, 1, bias=module.bias is not None)
    return alike(nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise)), module)


def _is_doubling(module: nn.Module) -> bool:
    return (
        _is_transposed(module)
        and (module.kernel_size, module.stride, module.padding) == ((4, 4), (2, 2), (1, 1))
        and (module.output_padding, module.dilation) == ((0, 0), (1, 1))
    )


def _build_upsample(module: nn.Module) -> nn.Module:
    assert isinstance(module, nn.ConvTranspose2d)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        up=nn.Upsample(scale_factor=2, mode="nearest"),
        conv=nn.Conv2d(module.in_channels, module.out_channels, 3, 1, 1, bias=module.bias is not None),
    )
    return alike(nn.Sequential(layers), module)


@torch.no_grad()
def _carry_upsample(given: nn.Module, replacement: nn.Module) -> None:
    """The 3x3 whose transposed kernel is nearest to the given one, by least squares."""
    assert isinstance(given, nn.ConvTranspose2d)
    weight, conv = given.weight, replacement.get_submodule("conv")
    assert isinstance(conv, nn.Conv2d)
    inverse = torch.linalg.pinv(torch.tensor(_UPSAMPLED_3X3, dtype=weight.dtype, device=weight.device))
    conv.weight.copy_(torch.einsum("iokl,tk,ul->oitu", weight, inverse, inverse))
    carry_bias(given, conv)


_UNFRIENDLY = "Shen et al., IJCAI 2021, Mobile-Unfriendly Operator Replacement"

CONVOLUTION_RULES = (
    Rule(
        "conv_to_3x3",
        "5x5, 7x7, 9x9 or 11x11 convolution → 3x3 of the same receptive field (at stride 2: 7 cells for 5, 11 for 9)",
        _UNFRIENDLY,
        False,
        _is_large,
        _build_3x3_stack,
        _carry_stack,
    ),
    Rule(
        "dilated_to_3x3",
        "dilated 3x3 convolution → one plain 3x3",
        _UNFRIENDLY,
        False,
        _is_dilated,
        _build_plain_3x3,
        carry_state,
    ),
    Rule(
        "dilated_to_two_3x3",
        "3x3 convolution of dilation 2 → two plain 3x3 of the same receptive field (at stride 2: 7 cells for 5)",
        _UNFRIENDLY,
        False,
        _is_dilated_by_2,
        _build_two_3x3,
        _carry_stack,
    ),
    Rule(
        "conv_to_separable",
        "dense 3x3 convolution → depthwise 3x3, batch norm, 1x1",
        "Chollet, CVPR 2017, Sec. 4.7 (no ReLU between)",
        False,
        _is_dense_3x3,
        _build_separable,
        _carry_separable,
    ),
    Rule(
        "transposed_to_separable",
        "transposed convolution → depthwise transposed, 1x1",
        "Niu et al., MobilePoseNet, WCMC 2021, Sec. 3.1",
        False,
        _is_dense_transposed,
        _build_separable_transposed,
        _carry_separable,
    ),
    Rule(
        "transposed_to_upsample",
        "transposed 4x4 convolution of stride 2 → nearest x2, 3x3 convolution",
        "Odena et al., Distill 2016, Better upsampling",
        False,
        _is_doubling,
        _build_upsample,
        _carry_upsample,
    ),
)
