"""Zeros that a dense engine profits from: a smaller kernel, or fewer input channels read.

Where all filters of a convolution are zero in the outer rows or columns of their kernels, these are cut off and the
padding is adjusted; where no filter reads an input channel, the channel is not handed to the convolution. The result
is exact. It is for export: an artefact keeps the network with its zeros, in the shapes of its architecture.

For sparse engines, `without_transposed` makes ordinary convolutions of transposed ones, which none of them skips.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

READ_BELOW = 0.5
"""Share of the input channels, at most, for which passing on only these saves time: the copy takes some itself."""


class CompactConv2d(nn.Conv2d):
    """A convolution with a smaller kernel. in_channels is still what it is given.

    runs: of input channels that it reads, first and one behind the last; all if empty. As slices: ncnn has no gather,
    and in onnxruntime slices come within 15 % of one. border: zeros left, right, above and below, beside the padding.
    """

    def __init__(
        self,
        layer: nn.Conv2d,
        kernel_oihw: Tensor,
        padding: tuple[int, int],
        runs: list[tuple[int, int]],
        border: tuple[int, int, int, int],
    ) -> None:
        """The layer with this kernel, of the channels in the runs, and this padding."""
        size, stride, dilation = kernel_oihw.shape[2:], layer.stride, layer.dilation
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            (size[0], size[1]),
            (stride[0], stride[1]),
            padding,
            (dilation[0], dilation[1]),
            layer.groups,
            device="meta",
        )
        self.weight, self.bias = nn.Parameter(kernel_oihw.clone()), layer.bias
        self.runs, self.border = runs, border
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """[B,in_channels,H,W] → [B,out_channels,h,w]."""
        if self.runs:
            x = torch.cat([x[:, first:last] for first, last in self.runs], 1)
        if any(self.border):
            x = F.pad(x, self.border)
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class SubPixelConv2d(nn.Module):
    """A transposed convolution as an ordinary one that makes all `stride` x `stride` pixels of a cell.

    Output r + stride · m of a row reads inputs m + q through kernel position r + padding - stride · q. Filters of one
    pixel stand together, so that blocks of consecutive filters share their zeros: of those of a 4x4 kernel, 5 of 9.
    """

    def __init__(self, layer: nn.ConvTranspose2d) -> None:
        """The layer must make `stride` outputs per input; see `without_transposed`."""
        super().__init__()
        self.stride = layer.stride
        numbers = zip(layer.kernel_size, layer.stride, layer.padding, strict=True)
        places = [_places(kernel, stride, int(padding)) for kernel, stride, padding in numbers]  # type: ignore[call-overload]
        sizes = [len(rows[0]) for rows in places]
        weight = layer.weight.detach().transpose(0, 1)  # [O,I,kh,kw]
        padded = F.pad(weight, (0, 1, 0, 1))  # position -1: zero
        pixels = [padded[:, :, rows][:, :, :, columns] for rows in places[0] for columns in places[1]]
        self.conv = nn.Conv2d(
            layer.in_channels,
            len(pixels) * layer.out_channels,
            (sizes[0], sizes[1]),
            padding=(sizes[0] // 2, sizes[1] // 2),
            device="meta",
        )
        self.conv.weight = nn.Parameter(torch.cat(pixels))
        self.conv.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().repeat(len(pixels)))
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """[B,I,H,W] → [B,O,stride·H,stride·W]."""
        batch, _, height, width = x.shape
        rows, columns = self.stride
        made: Tensor = self.conv(x)
        cells = made.reshape(batch, rows, columns, -1, height, width).permute(0, 3, 4, 1, 5, 2)
        return cells.reshape(batch, -1, height * rows, width * columns)


def without_transposed(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy with pruned transposed convolutions as SubPixelConv2d, and which.

    Those with zeros in their weights, of one group, without dilation, that make `stride` outputs per input (4x4 with
    stride 2 and padding 1, 2x2 with stride 2, ...). Others stay as they are.
    """
    copied = copy.deepcopy(network)
    changed = [path for path, layer in copied.named_modules() if path and _spreads(layer)]
    for path in changed:
        layer = copied.get_submodule(path)
        assert isinstance(layer, nn.ConvTranspose2d)
        copied.set_submodule(path, SubPixelConv2d(layer))
    return copied, changed


def _spreads(layer: nn.Module) -> bool:
    """Whether it is a pruned transposed convolution that makes `stride` outputs per input: (H-1)s - 2p + k + o = sH."""
    if not isinstance(layer, nn.ConvTranspose2d) or layer.groups > 1 or set(layer.dilation) != {1}:
        return False
    if layer.weight.all():
        return False
    assert not isinstance(layer.padding, str)  # torch has no named ones here
    numbers = zip(layer.kernel_size, layer.stride, layer.padding, layer.output_padding, strict=True)
    return all(kernel + more == stride + 2 * padding for kernel, stride, padding, more in numbers)


def _places(kernel: int, stride: int, padding: int) -> list[list[int]]:
    """Per pixel r of a cell, the kernel position through which it reads each neighbour -reach .. reach; -1: none."""
    reach = max((stride - 1 + padding) // stride, (kernel - 1 - padding) // stride)
    wanted = [[r + padding - stride * q for q in range(-reach, reach + 1)] for r in range(stride)]
    return [[place if 0 <= place < kernel else -1 for place in row] for row in wanted]


def compact(network: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """A copy with smaller convolutions where zeros allow it, and what changed: layer → `3x3 → 1x3, 64 → 20 inputs`.

    Kernels are cut as far as the padding goes. Transposed convolutions, other paddings than zeros, and convolutions of
    nothing but zeros stay as they are.
    """
    copied = copy.deepcopy(network)
    smaller: dict[nn.Module, nn.Conv2d] = {}
    changed: dict[str, str] = {}
    for path, layer in list(copied.named_modules(remove_duplicate=False)):
        if type(layer) is not nn.Conv2d or layer.padding_mode != "zeros" or not layer.weight.any():
            continue
        if layer not in smaller:  # one layer may stand in several places
            smaller[layer] = _smaller(layer)
        if smaller[layer] is not layer:
            changed[path] = _told(layer.weight.shape, smaller[layer].weight.shape)
            if path:
                copied.set_submodule(path, smaller[layer])
            else:
                copied = smaller[layer]
    return copied, changed


def _smaller(layer: nn.Conv2d) -> nn.Conv2d:
    """What computes the same, the layer itself if nothing can be cut off."""
    weight = layer.weight.detach()
    used = weight != 0
    rows, (above, below) = _cut(layer, 0, used.any(3).flatten(0, 1).any(0))
    columns, (left, right) = _cut(layer, 1, used.any(2).flatten(0, 1).any(0))
    kernel = weight[:, :, rows, columns]
    runs: list[tuple[int, int]] = []
    read = used.any(0).flatten(1).any(1).nonzero().flatten().tolist()
    if layer.groups == 1 and len(read) <= READ_BELOW * layer.in_channels:
        kernel, runs = kernel[:, read], _runs(read)
    if kernel.shape == weight.shape:
        return layer
    even = min(above, below), min(left, right)
    border = left - even[1], right - even[1], above - even[0], below - even[0]
    return CompactConv2d(layer, kernel, even, runs, border)


def _cut(layer: nn.Conv2d, dim: int, used: Tensor) -> tuple[slice, tuple[int, int]]:
    """The rows (dim 0) or columns (1) to keep, and the zeros before and behind the picture that they need.

    used: bool, per row or column.
    """
    size, dilation, padding = layer.kernel_size[dim], layer.dilation[dim], layer.padding
    if padding == "same":  # the odd one behind, as torch does
        before, after = dilation * (size - 1) // 2, (dilation * (size - 1) + 1) // 2
    else:
        before = after = 0 if isinstance(padding, str) else padding[dim]
    positions = used.nonzero().flatten().tolist()
    first, last = min(positions[0], before // dilation), min(size - 1 - positions[-1], after // dilation)
    return slice(first, size - last), (before - dilation * first, after - dilation * last)


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Rising numbers as runs of consecutive ones."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n + 1 for n in numbers if n + 1 not in numbers]
    return list(zip(starts, ends, strict=True))


def _told(before: torch.Size, after: torch.Size) -> str:
    """Of weights' shapes [O,I,kh,kw]."""
    sizes = [f"{height}x{width}" for _, _, height, width in (before, after)]
    said = [" → ".join(sizes)] if sizes[0] != sizes[1] else []
    return ", ".join(said + ([f"{before[1]} → {after[1]} inputs"] if before[1] != after[1] else []))
