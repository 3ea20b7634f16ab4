"""HRNet's exchange between resolutions (Sun et al., CVPR 2019, Sec. 3): every output sums every branch.

Branch i has 1/2^i of branch 0's height and width. From a lower resolution: 1x1 conv, batch norm, nearest upsampling.
From a higher one: a chain of stride-2 3x3 convolutions, the last of which changes the width and has no ReLU.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from compress.networks.blocks import conv_bn


def upward(inputs: int, outputs: int, steps: int) -> nn.Sequential:
    """From `steps` resolutions below."""
    path = conv_bn(inputs, outputs, 1, act=None)
    path.add_module("up", nn.Upsample(scale_factor=2**steps, mode="nearest"))
    return path


def downward(inputs: int, outputs: int, steps: int) -> nn.Sequential:
    """From `steps` resolutions above."""
    chain = [conv_bn(inputs, inputs, 3, 2) for _ in range(steps - 1)]
    return nn.Sequential(*chain, conv_bn(inputs, outputs, 3, 2, act=None))


class Fusion(nn.Module):
    """Sums input branches into each of `outputs` branches, ReLU after the sum.

    widths: one per resolution, at least max(inputs, outputs) of them. An output beyond the inputs is a new branch.
    reach: how many resolutions down a branch sends at most; HRNet's 3 is everywhere, 1 only to the next.
    """

    def __init__(self, widths: Sequence[int], inputs: int, outputs: int, reach: int = 3) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleDict(
                {str(source): _path(widths, source, target) for source in range(inputs) if target - source <= reach}
            )
            for target in range(outputs)
        )
        self.relu = nn.ReLU()  # not in place: with a single input the sum is the input itself

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        """A list of [B,C_i,H/2^i,W/2^i], one per input branch → the same, one per output branch."""
        fused = []
        for paths in self.paths:
            total: Tensor | None = None
            for source, path in paths.items():  # type: ignore[operator]
                sent = path(branches[int(source)])
                total = sent if total is None else total + sent
            fused.append(self.relu(total))
        return fused


def _path(widths: Sequence[int], source: int, target: int) -> nn.Module:
    if source == target:
        return nn.Identity()
    if source > target:
        return upward(widths[source], widths[target], source - target)
    return downward(widths[source], widths[target], target - source)
