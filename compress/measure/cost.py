"""What a network costs."""

from dataclasses import dataclass

from compress.measure.latency import Latency


@dataclass(frozen=True)
class Cost:
    """params: trainable parameters. macs: multiply-adds of one picture.

    uncounted: operators that compute and have no counting rule; their multiply-adds are not in macs. predicted: one
    pass of the network, by the latency table; None where no table was used.
    """

    params: int
    macs: int
    uncounted: tuple[str, ...] = ()
    predicted: Latency | None = None

    @property
    def predicted_ms(self) -> float:
        """Milliseconds of `predicted`, which must be there."""
        assert self.predicted is not None
        return self.predicted.ms
