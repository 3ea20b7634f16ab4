"""Every rule on modules written by hand; expected values from formulas."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.networks import lightweight_openpose, mobile_openpose, openpose
from compress.networks.architecture import without_values
from compress.networks.blocks import Bottleneck, ChannelShuffle, InvertedResidual, ResidualBlock, SqueezeExcite, conv_bn
from compress.rewriting.rules import RULES
from compress.rewriting.rules_attention import KERNEL, EfficientChannelAttention
from compress.rewriting.rules_convolution import CORRELATION
from tests.rewriting.zoo import LinearAttention, PreactBlock


def transposed(inputs: int, outputs: int, bias: bool = True) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=bias)


EXAMPLES: list[tuple[str, Callable[[], nn.Module], int]] = [
    ("conv_to_3x3", lambda: nn.Conv2d(6, 6, 7, 1, 3), 6),
    ("conv_to_3x3", lambda: nn.Conv2d(6, 4, 5, 2, 2, bias=False), 6),
    ("conv_to_3x3", lambda: nn.Conv2d(3, 8, 9, padding="same"), 3),
    ("conv_to_3x3", lambda: nn.Conv2d(20, 2, 11, 2, 5), 20),
    ("conv_to_3x3", lambda: nn.Conv2d(3, 8, 7, 2, 3), 3),
    ("conv_to_3x3", lambda: nn.Conv2d(6, 6, 5, 2, 2, groups=6), 6),
    ("dilated_to_3x3", lambda: nn.Conv2d(6, 4, 3, 2, 3, 3), 6),
    ("dilated_to_3x3", lambda: nn.Conv2d(6, 6, 3, 1, 2, 2, 6, False), 6),
    ("dilated_to_two_3x3", lambda: nn.Conv2d(6, 4, 3, 2, 2, 2), 6),
    ("dilated_to_two_3x3", lambda: nn.Conv2d(6, 6, 3, 1, 2, 2, 6, False), 6),
    ("conv_to_separable", lambda: nn.Conv2d(6, 4, 3, 2, 1), 6),
    ("conv_to_separable", lambda: nn.Conv2d(6, 6, 3, (2, 1), 2, 2, bias=False), 6),
    ("transposed_to_separable", lambda: transposed(6, 4), 6),
    ("transposed_to_separable", lambda: nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, bias=False), 6),
    ("transposed_to_upsample", lambda: transposed(6, 4), 6),
    ("swish_to_hard_swish", lambda: nn.SiLU(inplace=True), 6),
    ("swish_to_hard_tanh", nn.SiLU, 6),
    ("swish_to_relu", nn.SiLU, 6),
    ("sigmoid_to_hard_sigmoid", nn.Sigmoid, 6),
    ("elu_to_relu", nn.ELU, 6),
    ("gelu_to_relu", nn.GELU, 6),
    ("se_to_none", lambda: SqueezeExcite(6, 2), 6),
    ("se_to_none", lambda: LinearAttention(6), 6),
    ("se_to_hard_sigmoid", lambda: SqueezeExcite(6, 2, act="swish"), 6),
    ("se_to_hard_sigmoid", lambda: LinearAttention(6), 6),
    ("se_to_eca", lambda: SqueezeExcite(6, 2, gate="hard_sigmoid"), 6),
    ("se_to_eca", lambda: SqueezeExcite(2), 2),
    ("se_to_eca", lambda: LinearAttention(6), 6),
    ("residual_to_ir", lambda: ResidualBlock(6), 6),
    ("residual_to_ir", lambda: PreactBlock(6), 6),
    ("residual_to_dir", lambda: ResidualBlock(6), 6),
    ("residual_to_dir", lambda: PreactBlock(6), 6),
    ("remove_block", lambda: ResidualBlock(6), 6),
    ("remove_block", lambda: PreactBlock(6), 6),
    ("remove_block", lambda: Bottleneck(8, 2), 8),
    ("remove_block", lambda: InvertedResidual(6, 2, "dir_se"), 6),
    ("remove_stage", lambda: openpose.RefinementStage(4, 3, 2, 1), 9),
    ("remove_stage", lambda: lightweight_openpose.RefinementStage(9, 4, 1, 2, 2, 1), 9),
    ("remove_stage", lambda: mobile_openpose.RefinementStage(9, 4, "three_3x3", 2, 1), 9),
    ("bilinear_to_nearest", lambda: nn.Upsample(scale_factor=2, mode="bilinear"), 6),
    ("bilinear_to_nearest", lambda: nn.Upsample((14, 22), mode="bilinear", align_corners=True), 6),
    ("shuffle_to_pointwise", lambda: ChannelShuffle(3), 6),
    ("fold_batch_norm", lambda: conv_bn(6, 4, 3, 2, act="swish"), 6),
    ("fold_batch_norm", lambda: nn.Sequential(transposed(6, 4), nn.BatchNorm2d(4, affine=False)), 6),
    ("fold_batch_norm", lambda: nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, groups=2), nn.BatchNorm2d(4)), 6),
]


def awake(module: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that have seen something."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            if norm.affine:
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.normal_(norm.bias)
    return module.eval()


def carried(rule: str, given: nn.Module) -> nn.Module:
    new = RULES[rule].build(given)
    RULES[rule].carry(given, new)
    return new


def assert_same(a: nn.Module, b: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(a(x.clone()), b(x.clone()), rtol=1e-5, atol=1e-5)


def test_every_rule_has_an_example() -> None:
    assert {rule for rule, _, _ in EXAMPLES} == set(RULES)
    assert all(rule.name == name for name, rule in RULES.items())


@pytest.mark.parametrize(("name", "make", "channels"), EXAMPLES)
def test_shapes_are_kept_and_the_given_module_too(name: str, make: Callable[[], nn.Module], channels: int) -> None:
    rule, given, x = RULES[name], awake(make()), torch.randn(2, channels, 7, 11)
    assert rule.matches(given)
    assert rule.matches(make())  # in training mode
    state = copy.deepcopy(given.state_dict())
    with torch.no_grad():
        before = given(x.clone())
        new = carried(name, given)
        assert not rule.matches(new)
        after = new(x.clone())
        assert after.shape == before.shape
        assert torch.equal(given(x.clone()), before)
        assert new.train()(x.clone()).shape == before.shape
    assert not any(part.training for part in given.modules())
    assert given.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in given.state_dict().items())
    shared = {id(tensor) for tensor in given.parameters()} & {id(tensor) for tensor in new.parameters()}
    assert not shared
    if rule.exact:
        assert_same(given, new.eval(), x)


@pytest.mark.parametrize(("name", "make", "channels"), EXAMPLES)
def test_replacements_have_the_device_the_dtype_and_the_mode(
    name: str, make: Callable[[], nn.Module], channels: int
) -> None:
    rule = RULES[name]
    given = make().double()
    new = carried(name, given)
    assert all(part.training for part in new.modules())
    assert not any(part.training for part in rule.build(given.eval()).modules())
    if list(given.parameters()):
        assert all(p.dtype == torch.float64 for p in new.parameters())
    shadow = make().eval().to("meta")
    assert rule.matches(shadow)
    built = rule.build(shadow)
    assert all(tensor.is_meta for tensor in built.state_dict().values())
    with without_values():
        shape = built(torch.empty(2, channels, 7, 11)).shape
    assert shape == make().eval()(torch.zeros(2, channels, 7, 11)).shape


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("conv_to_3x3", nn.Conv2d(4, 4, 3, 1, 1)),
        ("conv_to_3x3", nn.Conv2d(4, 4, 5, 1, 4, 2)),
        ("conv_to_3x3", nn.Conv2d(4, 4, 5)),
        ("conv_to_3x3", nn.Conv2d(4, 4, (5, 7), padding="same")),
        ("conv_to_3x3", nn.Conv2d(4, 4, 4, padding="same")),
        ("conv_to_3x3", nn.Conv2d(4, 4, 13, padding="same")),
        ("conv_to_3x3", nn.Conv2d(4, 4, 5, 4, 2)),
        ("conv_to_3x3", nn.Conv2d(4, 4, 5, 1, 2, groups=2)),
        ("conv_to_3x3", nn.Conv2d(4, 4, 5, 1, 2, padding_mode="reflect")),
        ("conv_to_3x3", nn.ConvTranspose2d(4, 4, 5, 1, 2)),
        ("dilated_to_two_3x3", nn.Conv2d(4, 4, 3, 1, 3, 3)),
        ("conv_to_separable", nn.Conv2d(4, 4, 3, groups=4)),
        ("conv_to_separable", nn.Conv2d(4, 4, 1)),
        ("transposed_to_separable", nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4)),
        ("transposed_to_upsample", nn.ConvTranspose2d(4, 4, 4, 2, 0)),
        ("swish_to_relu", nn.Hardswish()),
        ("se_to_none", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.Sigmoid())),
        ("se_to_hard_sigmoid", SqueezeExcite(4, 2, gate="hard_sigmoid")),
        ("residual_to_ir", InvertedResidual(4, 2, "ir")),
        ("residual_to_ir", Bottleneck(8, 2)),
        ("remove_block", Bottleneck(4, 2)),
        ("remove_block", conv_bn(4, 4, 3)),
        ("remove_block", nn.Sequential(ResidualBlock(4), ResidualBlock(4))),
        ("remove_block", nn.ReLU()),
        ("remove_stage", openpose.Stage(4, 4, 3, 3, 4, 2, 1)),  # the initial one
        ("bilinear_to_nearest", nn.Upsample(scale_factor=2)),
        ("fold_batch_norm", nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))),
        ("fold_batch_norm", nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))),
    ],
)
def test_what_is_not_meant_does_not_match(name: str, module: nn.Module) -> None:
    assert not RULES[name].matches(module)


def test_what_only_looks_like_attention_or_a_block_does_not_match() -> None:
    class PixelAttention(SqueezeExcite):
        def forward(self, x: Tensor) -> Tensor:
            return x * self.gate(self.excite(self.act(self.squeeze(x))))  # type: ignore[no-any-return]

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = ResidualBlock(4), ResidualBlock(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))  # type: ignore[no-any-return]

    assert RULES["se_to_none"].matches(SqueezeExcite(4, 2))
    assert not RULES["se_to_none"].matches(PixelAttention(4, 2))
    assert not RULES["remove_block"].matches(Two())  # its two blocks are the sites


def test_a_gate_of_two_names_is_replaced_by_both() -> None:
    class TwoNames(SqueezeExcite):
        def __init__(self) -> None:
            super().__init__(6, 2)
            self.named_again = self.gate

        def forward(self, x: Tensor) -> Tensor:
            return x * self.named_again(self.excite(self.act(self.squeeze(self.pool(x)))))  # type: ignore[no-any-return]

    new = carried("se_to_hard_sigmoid", TwoNames().eval())
    assert isinstance(new.named_again, nn.Hardsigmoid)
    assert not RULES["se_to_hard_sigmoid"].matches(new)


# --- Convolutions ----------------------------------------------------------------------------------------------------


def response(module: nn.Module, inputs: int, reach: int, stride: int) -> Tensor:
    """[O,I,n,n]: what one output reads of every input up to `reach` cells away, by unit inputs."""
    side = 2 * reach + 1
    cells = torch.eye(inputs * side * side).view(-1, inputs, side, side)
    padding = stride * math.ceil(reach / stride) - reach  # so that the middle is a cell that the stride meets
    with torch.no_grad():
        outputs = module(functional.pad(cells, (padding,) * 4))
    middle = (padding + reach) // stride
    return outputs[:, :, middle, middle].T.view(-1, inputs, side, side)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(5, 1, 1), (7, 1, 1), (5, 2, 1), (7, 2, 1), (9, 2, 1), (3, 1, 2), (3, 2, 2)]
)
@pytest.mark.parametrize("groups", [1, 4])
def test_no_last_convolution_behind_the_blurs_is_nearer(kernel: int, stride: int, dilation: int, groups: int) -> None:
    """The gradient of the weighted squared error, computed from the stack's own responses, vanishes."""
    padding = dilation * (kernel // 2)
    given = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups, bias=False).double().eval()
    new = carried("conv_to_3x3" if dilation == 1 else "dilated_to_two_3x3", given)
    torch.set_default_dtype(torch.float64)
    try:
        last = [part for part in new.modules() if isinstance(part, nn.Conv2d)][-1]
        count = len([part for part in new.modules() if isinstance(part, nn.Conv2d)])
        reach = max(1 + stride * (count - 1), padding)
        far = (torch.arange(2 * reach + 1)[:, None] - torch.arange(2 * reach + 1)).abs()
        metric = CORRELATION**far
        rest = response(given, 4, reach, stride) - response(new, 4, reach, stride)
        weighted = torch.einsum("oikl,km,ln->oimn", rest, metric, metric)
        fitted = last.weight.detach().clone()
        for index in [(0, 0, 0, 0), (1, 0, 1, 2), (3, 0, 2, 2)]:
            last.weight.data = torch.zeros_like(fitted)
            last.weight.data[index] = 1
            change = response(new, 4, reach, stride)
            assert float((change * weighted).sum().abs()) < 1e-6 * float((change * change).sum().sqrt())
    finally:
        torch.set_default_dtype(torch.float32)


SEEN = [
    (5, 1, 2, 5),
    (7, 1, 3, 7),
    (9, 1, 4, 9),
    (11, 1, 5, 11),
    (5, 2, 2, 7),
    (7, 2, 2, 7),
    (9, 2, 3, 11),
    (11, 2, 3, 11),
]
"""Kernel, stride, 3x3 convolutions, cells that they see: behind a stride of 2 every convolution adds 4."""


@pytest.mark.parametrize(
    ("rule", "kernel", "stride", "dilation", "count", "cells"),
    [
        *(("conv_to_3x3", k, s, 1, *seen) for k, s, *seen in SEEN),
        ("dilated_to_two_3x3", 3, 1, 2, 2, 5),
        ("dilated_to_two_3x3", 3, 2, 2, 2, 7),
    ],
)
def test_a_stack_sees_as_far_as_the_convolution(
    rule: str, kernel: int, stride: int, dilation: int, count: int, cells: int
) -> None:
    given = nn.Conv2d(2, 2, kernel, stride, dilation * (kernel // 2), dilation, bias=False)
    new = RULES[rule].build(given).eval()
    convolutions = [part for part in new.modules() if isinstance(part, nn.Conv2d)]
    assert [(conv.kernel_size, conv.stride[0]) for conv in convolutions] == [
        ((3, 3), stride if n == 0 else 1) for n in range(count)
    ]
    reaches = []
    for module in (given, new):
        for conv in (part for part in module.modules() if isinstance(part, nn.Conv2d)):
            nn.init.ones_(conv.weight)
        x = torch.ones(1, 2, 33, 33, requires_grad=True)
        module(x)[0, 0, 16 // stride, 16 // stride].backward()
        seen = x.grad[0, 0].nonzero()  # type: ignore[index]
        lowest, highest = seen.min(0).values.tolist(), seen.max(0).values.tolist()
        assert lowest == [32 - high for high in highest]  # around the same cell
        reaches.append(highest[0] - 16)
    assert reaches == [dilation * (kernel // 2), cells // 2]
    assert reaches[1] - stride < reaches[0] <= reaches[1]  # one convolution less would see too little


@pytest.mark.parametrize("kernel", [5, 7, 9, 11])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("stride", "same"), [(1, False), (1, True), (2, False)])
def test_a_stack_gives_the_convolutions_shapes(kernel: int, groups: int, stride: int, same: bool) -> None:
    given = nn.Conv2d(4, 8 if groups == 1 else 4, kernel, stride, "same" if same else kernel // 2, groups=groups)
    new = carried("conv_to_3x3", given).eval()
    for height, width in ((1, 2), (7, 12), (12, 7)):
        x = torch.randn(1, 4, height, width)
        assert new(x).shape == given(x).shape


@pytest.mark.parametrize(("inputs", "outputs", "kernel"), [(8, 8, 5), (8, 8, 7), (20, 8, 7), (3, 64, 7), (50, 8, 9)])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_stack_needs_no_more_multiply_adds(inputs: int, outputs: int, kernel: int, stride: int) -> None:
    """All its convolutions run at the size of the outputs, so that weights are multiply-adds per output."""
    new = RULES["conv_to_3x3"].build(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2))
    weights = sum(part.weight.numel() for part in new.modules() if isinstance(part, nn.Conv2d))
    assert weights <= kernel**2 * inputs * outputs
    if inputs == outputs:
        assert {part.out_channels for part in new.modules() if isinstance(part, nn.Conv2d)} == {outputs}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 6])
def test_a_kernel_within_reach_of_the_last_convolution_is_carried_exactly(stride: int, groups: int) -> None:
    given = nn.Conv2d(6, 6, 7, stride, 3, groups=groups).eval()
    inside = torch.zeros(7, 7)  # taps of a last convolution behind first ones without blur
    inside[3 - stride : 4 + stride : stride, 3 - stride : 4 + stride : stride] = 1
    given.weight.data *= inside
    assert_same(given, carried("conv_to_3x3", given), torch.rand(2, 6, 12, 15))  # not negative


def test_negative_inputs_pass_where_there_is_room() -> None:
    given = nn.Conv2d(3, 64, 7, padding=3).eval()
    given.weight.data *= functional.pad(torch.ones(3, 3), (2, 2, 2, 2))
    assert_same(given, carried("conv_to_3x3", given), torch.randn(2, 3, 12, 15))


@pytest.mark.parametrize("groups", [1, 6])
def test_a_blurred_kernel_is_carried_exactly(groups: int) -> None:
    given = nn.Conv2d(6, 6, 7, 1, 3, groups=groups).eval()
    box = torch.full((1, 1, 3, 3), 1 / 9)
    small = torch.randn(36 // groups, 1, 3, 3)
    blurred = functional.conv2d(functional.conv2d(small, box, padding=2), box, padding=2)
    given.weight.data = blurred.view_as(given.weight)
    x = torch.rand(1, 6, 15, 17)
    with torch.no_grad():
        a, b = given(x)[:, :, 3:-3, 3:-3], carried("conv_to_3x3", given)(x)[:, :, 3:-3, 3:-3]  # borders are padded
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_where_not_all_inputs_can_pass_the_strongest_do() -> None:
    given = nn.Conv2d(20, 2, 11, padding=5, bias=False).eval()
    new = RULES["conv_to_3x3"].build(given)
    passing = new.get_submodule("0.conv").out_channels
    assert passing < 20
    given.weight.data *= functional.pad(torch.ones(3, 3), (4, 4, 4, 4))
    given.weight.data[:, torch.randperm(20)[passing:]] = 0
    assert_same(given, carried("conv_to_3x3", given), torch.rand(1, 20, 12, 12))


def test_a_plain_3x3_has_the_dilated_ones_weights() -> None:
    given = nn.Conv2d(4, 4, 3, 1, 2, 2)
    new = carried("dilated_to_3x3", given)
    assert torch.equal(new.get_parameter("weight"), given.weight)
    assert (new.dilation, new.padding) == ((1, 1), (1, 1))


@pytest.mark.parametrize("given", [nn.Conv2d(5, 7, 3, 2, 2, 2), nn.ConvTranspose2d(5, 7, 4, 2, 1)])
def test_separable_kernels_are_as_near_as_one_singular_value_comes(given: nn.Conv2d | nn.ConvTranspose2d) -> None:
    if isinstance(given, nn.Conv2d):
        new, weight = carried("conv_to_separable", given), given.weight.detach().transpose(0, 1)
        apart = [[2 * abs(a - b) for b in range(3)] for a in range(3)]  # dilation 2
    else:
        new, weight = carried("transposed_to_separable", given), given.weight.detach()
        apart = [[abs(a - b) / 2 if (a - b) % 2 == 0 else math.inf for b in range(4)] for a in range(4)]  # stride 2
    axis = torch.tensor([[CORRELATION**distance for distance in row] for row in apart], dtype=torch.float64)
    values, vectors = torch.linalg.eigh(torch.kron(axis, axis))
    root = vectors @ values.sqrt().diag() @ vectors.T
    product = new.pointwise.weight.detach()[..., 0, 0].T[..., None, None] * new.depthwise.weight.detach()
    found = ((product - weight).flatten(2).double() @ root).square().sum()
    rest = torch.linalg.svdvals(weight.flatten(2).double() @ root)[:, 1:].square().sum()
    assert float(found) == pytest.approx(float(rest), rel=1e-4)


def test_separable_kernels_are_carried_exactly() -> None:
    given = nn.Conv2d(5, 7, 3, 2, 1).eval()
    given.weight.data = torch.randn(7, 5, 1, 1) * torch.randn(1, 5, 3, 3)
    assert_same(given, carried("conv_to_separable", given), torch.randn(2, 5, 9, 8))


def test_separable_transposed_kernels_are_carried_exactly() -> None:
    given = nn.ConvTranspose2d(5, 7, 4, 2, 1).eval()
    given.weight.data = torch.randn(5, 7, 1, 1) * torch.randn(5, 1, 4, 4)
    assert_same(given, carried("transposed_to_separable", given), torch.randn(2, 5, 9, 8))


def test_a_transposed_convolution_that_is_an_upsampled_3x3_is_carried_exactly() -> None:
    conv, given = nn.Conv2d(5, 7, 3, 1, 1), nn.ConvTranspose2d(5, 7, 4, 2, 1).eval()
    unit = torch.zeros(5, 5, 3, 3)
    unit[torch.arange(5), torch.arange(5), 1, 1] = 1  # one input at a time: its response is the transposed kernel
    with torch.no_grad():
        response = conv(functional.interpolate(unit, scale_factor=2, mode="nearest")) - conv.bias[:, None, None]  # type: ignore[index]
    given.weight.data = response[:, :, 1:5, 1:5].clone()
    given.bias.data = conv.bias.data.clone()  # type: ignore[union-attr]
    new = carried("transposed_to_upsample", given)
    torch.testing.assert_close(new.get_parameter("conv.weight"), conv.weight)
    assert_same(given, new, torch.randn(2, 5, 6, 7))


# --- Activations -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "given", "formula"),
    [
        ("swish_to_hard_swish", nn.SiLU(), lambda x: x * min(max(x + 3, 0), 6) / 6),
        ("swish_to_hard_tanh", nn.SiLU(), lambda x: x * (max(-1, min(1, x)) + 1) / 2),
        ("swish_to_relu", nn.SiLU(), lambda x: max(x, 0)),
        ("sigmoid_to_hard_sigmoid", nn.Sigmoid(), lambda x: min(max(x + 3, 0), 6) / 6),
        ("elu_to_relu", nn.ELU(), lambda x: max(x, 0)),
        ("gelu_to_relu", nn.GELU(), lambda x: max(x, 0)),
    ],
)
def test_activations_are_their_formulas(rule: str, given: nn.Module, formula: Callable[[float], float]) -> None:
    values = [-5.0, -3.0, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0, 4.0]
    expected = torch.tensor([formula(value) for value in values])
    torch.testing.assert_close(carried(rule, given)(torch.tensor(values)), expected)


def test_a_replacement_works_in_place_only_where_the_given_one_does() -> None:
    assert RULES["swish_to_relu"].build(nn.SiLU(inplace=True)).inplace is True
    assert RULES["swish_to_relu"].build(nn.SiLU()).inplace is False
    assert RULES["gelu_to_relu"].build(nn.GELU()).inplace is False


# --- Attention -------------------------------------------------------------------------------------------------------


def test_hard_attention_has_the_given_ones_weights() -> None:
    given = SqueezeExcite(4, 2, act="swish").eval()
    x = torch.randn(2, 4, 5, 6)
    pooled = x.mean((2, 3), keepdim=True)
    gate = functional.relu6(given.excite(functional.silu(given.squeeze(pooled))) + 3) / 6
    torch.testing.assert_close(carried("se_to_hard_sigmoid", given)(x), x * gate)


def test_eca_is_a_sum_over_neighbouring_channels() -> None:
    module = EfficientChannelAttention()
    x = torch.randn(2, 9, 4, 5)
    pooled, weight = x.mean((2, 3)), module.conv.weight[0, 0]
    for b in range(2):
        for c in range(9):
            near = [(t, c + t - KERNEL // 2) for t in range(KERNEL) if 0 <= c + t - KERNEL // 2 < 9]
            gate = torch.sigmoid(sum(weight[t] * pooled[b, n] for t, n in near) + module.conv.bias[0])  # type: ignore[index,arg-type]
            torch.testing.assert_close(module(x)[b, c], x[b, c] * gate)


def test_attention_that_only_sees_neighbours_is_carried_exactly() -> None:
    given = SqueezeExcite(8, squeezed=8).eval()  # its ReLU is not reached: the weights are not negative
    bands = torch.rand(KERNEL)
    band = sum(bands[t] * torch.ones(8).diag().roll(t - KERNEL // 2, 1) for t in range(KERNEL))
    wrapped = (torch.arange(8)[:, None] - torch.arange(8)).abs() > KERNEL // 2
    given.squeeze.weight.data = torch.eye(8)[..., None, None].clone()
    given.squeeze.bias.data.zero_()  # type: ignore[union-attr]
    given.excite.weight.data = band.masked_fill(wrapped, 0)[..., None, None]  # type: ignore[union-attr]
    given.excite.bias.data.fill_(0.7)  # type: ignore[union-attr]
    new = carried("se_to_eca", given)
    with torch.no_grad():
        torch.testing.assert_close(new(x := torch.rand(2, 8, 5, 5)), given(x), rtol=2e-3, atol=0)
    torch.testing.assert_close(new.get_parameter("conv.weight")[0, 0], bands, rtol=1e-4, atol=0)


# --- Blocks, upsampling, shuffles, batch norms -----------------------------------------------------------------------


@pytest.mark.parametrize(("rule", "depthwise"), [("residual_to_ir", 1), ("residual_to_dir", 2)])
@pytest.mark.parametrize("width", [1, 4, 32])
def test_inverted_residuals_start_as_their_input_and_need_no_more_multiply_adds(
    rule: str, depthwise: int, width: int
) -> None:
    x = torch.randn(2, width, 5, 6)
    with torch.no_grad():
        assert torch.equal(carried(rule, ResidualBlock(width).eval())(x), functional.relu(x))
        assert torch.equal(carried(rule, PreactBlock(width).eval())(x), x)
    new = RULES[rule].build(ResidualBlock(width))
    expansion = max(1, min(4, math.floor(18 * width**2 / (2 * width**2 + 9 * depthwise * width))))
    weights = [part.weight.numel() for part in new.modules() if isinstance(part, nn.Conv2d)]
    assert sum(weights) == expansion * (2 * width**2 + 9 * depthwise * width)
    if width > 1:
        assert sum(weights) <= 18 * width**2


def test_what_is_left_of_a_block_is_its_relu() -> None:
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(RULES["remove_block"].build(ResidualBlock(4))(x), functional.relu(x))
    assert torch.equal(RULES["remove_block"].build(PreactBlock(4))(x), x)


def test_what_is_left_of_a_stage_are_the_maps_it_read() -> None:
    """Of two joints and a background, and x and y of a limb's field, behind four channels of features."""
    x = torch.randn(2, 9, 5, 6)
    assert torch.equal(RULES["remove_stage"].build(openpose.RefinementStage(4, 3, 2, 1))(x), x[:, -5:])


def test_a_shuffle_is_its_permutation_also_with_an_order() -> None:
    x = torch.randn(2, 6, 3, 4)
    given = ChannelShuffle(2)
    assert_same(given, carried("shuffle_to_pointwise", given), x)
    given.load_state_dict({"order": torch.tensor([[4, 0, 5, 1, 2, 3], [0] * 6])})
    new = carried("shuffle_to_pointwise", given)
    assert_same(given, new, x)
    assert torch.equal(new(x), x[:, [4, 0, 5, 1, 2, 3]])
    assert torch.equal(new.state_dict()["order"], given.state_dict()["order"])


def test_a_folded_chain_keeps_the_names_and_has_no_batch_norm() -> None:
    given = awake(conv_bn(3, 4, 3, act="elu"))
    new = carried("fold_batch_norm", given)
    assert [name for name, _ in new.named_children()] == ["conv", "bn", "act"]
    assert set(new.state_dict()) == {"conv.weight", "conv.bias"}
    assert_same(given, new, torch.randn(2, 3, 5, 6))


def chain_of(*layers: nn.Module) -> nn.Sequential:
    return awake(nn.Sequential(*layers))  # type: ignore[return-value]


def test_a_chain_whose_layer_to_fold_stands_there_twice_does_not_match() -> None:
    rule, conv, norm = RULES["fold_batch_norm"], nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    assert rule.matches(nn.Sequential(conv, norm, nn.ReLU()))
    assert not rule.matches(nn.Sequential(conv, norm, nn.ReLU(), conv, nn.BatchNorm2d(4)))
    assert not rule.matches(nn.Sequential(conv, norm, nn.ReLU(), conv))
    assert not rule.matches(nn.Sequential(conv, norm, nn.Sequential(nn.ReLU(), conv)))
    assert not rule.matches(nn.Sequential(conv, norm, nn.Conv2d(4, 4, 1), norm))


def test_convolutions_that_share_their_weights_are_folded_apart() -> None:
    one, other, third = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
    other.weight, third.weight = one.weight, one.weight
    given = chain_of(one, nn.BatchNorm2d(4), nn.ReLU(), other, nn.BatchNorm2d(4), nn.ReLU(), third)
    assert_same(given, carried("fold_batch_norm", given), torch.randn(2, 4, 5, 6))
