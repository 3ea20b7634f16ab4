"""What a network costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from compress.measure.latency import Latency
from compress.measure.objective import CostObjective


@dataclass(frozen=True)
class Cost:
    """params: trainable parameters. macs: multiply-adds of one picture.

    uncounted: operators that compute and have no counting rule; their multiply-adds are not in macs. latency: of one
    pass on each target, by its name, the one that decides first; predicted, or measured where an engine has no kernels.
    memory_bytes: peak of the activations of one pass in float32, see compress.measure.peak_memory; None in results from
    before it was counted.
    """

    params: int
    macs: int
    uncounted: tuple[str, ...] = ()
    latency: Mapping[str, Latency] = field(default_factory=dict)
    memory_bytes: int | None = None

    @property
    def predicted_ms(self) -> float:
        """Milliseconds on the target that decides."""
        return next(iter(self.latency.values())).ms

    @property
    def size_bytes(self) -> int:
        """Of the parameters in float32."""
        return 4 * self.params

    def of(self, objective: CostObjective) -> float:
        """What the objective is about; of end_to_end one pass on its target, as candidates are decoded alike."""
        match objective.quantity:
            case "macs":
                return self.macs
            case "params":
                return self.params
            case "size":
                return self.size_bytes
            case "memory":
                assert self.memory_bytes is not None
                return self.memory_bytes
            case "latency" | "end_to_end":
                return self.latency[objective.target].ms if objective.target else self.predicted_ms
