"""What a network costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from compress.measure.latency import Latency


@dataclass(frozen=True)
class Cost:
    """params: trainable parameters. macs: multiply-adds of one picture.

    uncounted: operators that compute and have no counting rule; their multiply-adds are not in macs. latency: of one
    pass on each target, by its name, the one that decides first; predicted, or measured where an engine has no kernels.
    """

    params: int
    macs: int
    uncounted: tuple[str, ...] = ()
    latency: Mapping[str, Latency] = field(default_factory=dict)

    @property
    def predicted_ms(self) -> float:
        """Milliseconds on the target that decides."""
        return next(iter(self.latency.values())).ms

    @property
    def size_bytes(self) -> int:
        """Of the parameters in float32."""
        return 4 * self.params
