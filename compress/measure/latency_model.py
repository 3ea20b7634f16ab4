"""The latency of networks on one target, predicted from the times of their kernels: one model for every decision.

On this machine a kernel that the target's table lacks is timed when it is first asked for, and the table keeps it. Of
another device nothing can be timed here: what its table lacks is estimated from kernels of the same kind (see
`compress.measure.latency_table.predict`), named in the prediction, and widens its interval.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import nn

from compress.engines import Engine, Runner, engine
from compress.engines.kernel import Kernel
from compress.errors import EngineError, TableError
from compress.measure.in_network import kernels_of_file, profile_in_networks
from compress.measure.kept_tables import complete_table, keep, table_path
from compress.measure.kernels import with_weights
from compress.measure.latency import Latency
from compress.measure.latency_table import Identity, LatencyTable, Prediction, load_table, open_table, predict
from compress.measure.profiling import Nodes
from compress.measure.target import Target
from compress.measure.timing import pinned, reference_convolution, time_interleaved


@dataclass(frozen=True)
class LatencyModel:
    """table: of this machine, which grows; or of another device, which stays as it is."""

    target: Target
    runtime: Engine
    table: LatencyTable

    def kernels(self, network: nn.Module, input_hw: tuple[int, int]) -> Counter[Kernel]:
        """The kernels of one pass and how often each occurs. On this machine the table holds all of them afterwards.

        Raises EngineError if the engine cannot take the network.
        """
        if (parts := self.runtime.kernels_by_part(network, input_hw)) is None:
            return self._exported_kernels(network, input_hw)
        found = sum(map(Counter, parts.values()), Counter[Kernel]())
        if self.target.foreign or not self.table.missing(found):
            return found
        if self.runtime.assembles_kernels:
            complete_table(self.table, found)
            return found
        with tempfile.TemporaryDirectory() as folder:
            self._time_in(self.runtime.export(with_weights(network), input_hw, Path(folder), "network")[0])
        return found

    def _exported_kernels(self, network: nn.Module, input_hw: tuple[int, int]) -> Counter[Kernel]:
        """Of one export: another one of the same network may be optimised otherwise."""
        with tempfile.TemporaryDirectory() as folder:
            file = self.runtime.export(with_weights(network), input_hw, Path(folder), "network")[0]
            found = Counter(kernels_of_file(self.runtime, file))
            if not self.target.foreign and self.table.missing(found):
                if self.runtime.assembles_kernels:
                    complete_table(self.table, found)
                else:
                    self._time_in(file)
        return found

    def _time_in(self, file: Path) -> None:
        """Times the kernels of an exported network that the table does not know, in this network."""
        with pinned(self.target.local_threads):
            profile_in_networks(self.table, self.runtime, {"network": lambda: file})
        keep(self.table)

    def predict(self, network: nn.Module, input_hw: tuple[int, int]) -> Prediction:
        """One pass of a [1,3,H,W] picture. Raises EngineError if the engine cannot take the network."""
        return predict(self.table, self.kernels(network, input_hw))

    def latency(self, network: nn.Module, input_hw: tuple[int, int]) -> Latency:
        """`predict` as a record."""
        return self.latency_of(self.predict(network, input_hw))

    def latency_of(self, prediction: Prediction) -> Latency:
        """uncertainty: half of the interval that holds nine in ten networks, over the prediction."""
        half = None if prediction.high_ms is None else prediction.high_ms / prediction.ms - 1
        return Latency(
            prediction.ms,
            self.label,
            "predicted",
            uncertainty=half,
            reliable=None if half is None else True,
            coverage=prediction.time_coverage,
        )

    def nodes(self, network: nn.Module, input_hw: tuple[int, int]) -> Nodes:
        """The nodes of the engine's own graph in the order they run, and what the table says that each takes.

        On this machine kernels that the table lacks are timed in this network. Raises EngineError.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = self.runtime.export(with_weights(network), input_hw, Path(folder), "network")[0]
            if not self.target.foreign:
                self._time_in(file)
            profiler = self.runtime.profiler(file)
            profiler.run_timed()
            found = profiler.finish()
        ms = {kernel: predict(self.table, {kernel: 1}).ms for kernel in set(found.kernels)}
        return Nodes(found.kernels, found.names, tuple(ms[kernel] for kernel in found.kernels))

    @property
    def label(self) -> str:
        """What its times are of, such as `ncnn, 4 threads, pi5`."""
        return label(self.target, self.table.identity)

    @property
    def reference_ms(self) -> float:
        """Of the clock that its times are on."""
        assert self.table.reference_ms is not None
        return self.table.reference_ms


@dataclass(frozen=True)
class TimedModel:
    """The latency of networks on an engine that does not tell the time of kernels: each network is measured whole.

    rounds: timings of each. reference_ms: of the clock that all its times are on.
    """

    target: Target
    runtime: Engine
    rounds: int
    reference_ms: float

    def latency(self, network: nn.Module, input_hw: tuple[int, int]) -> Latency:
        """Of one pass, measured. Raises EngineError if the engine cannot take the network."""
        threads = self.target.local_threads
        with tempfile.TemporaryDirectory() as folder, pinned(threads):
            file = self.runtime.export(with_weights(network), input_hw, Path(folder), "network")[0]
            runner = load(self.target, file)
            image = np.random.default_rng(0).standard_normal((1, 3, *input_hw), dtype=np.float32)
            timing = time_interleaved({"": lambda: runner.run(image)}, reference_convolution(), self.rounds)[""]
        return Latency.of_timing(timing, self.label, self.reference_ms)

    @property
    def label(self) -> str:
        """What its times are of."""
        return label(self.target, identity_of(self.target))


Pricing = LatencyModel | TimedModel


def reference_time() -> float:
    """Milliseconds of the reference convolution on this machine: a clock for times that belong to no table."""
    with pinned(1):
        return time_interleaved({"": reference_convolution()}, reference_convolution())[""].normalised_ms


def load(target: Target, file: Path) -> Runner:
    """The exported network on a target of this machine. Raises EngineError."""
    return runtime_of(target).load(file, target.local_threads)


def runtime_of(target: Target) -> Engine:
    """The engine with the target's precision and provider. Of another device only its exports and kernels are of use,
    the latter as that device cuts them.

    Raises EngineError for an engine that is not known, or has not what the target asks of it here.
    """
    found = engine(target.engine)
    if target.foreign:
        return found.laid_out(_foreign_table(target).channel_block)
    return found.configured(target.precision or "float32", target.provider or "")


def label(target: Target, identity: Identity) -> str:
    """What times on a target are of: `onnxruntime, 1 thread`; `ncnn, 4 threads, float16, pi5`."""
    threads = identity.threads
    precision = identity.precision if identity.precision != "float32" else ""
    device = target.table.stem if target.table else ""
    parts = [target.engine, f"{threads} thread{'' if threads == 1 else 's'}", target.provider or "", precision, device]
    return ", ".join(filter(None, parts))


def identity_of(target: Target) -> Identity:
    """What a target's times are true for. Raises EngineError, and TableError as `open_model`."""
    if target.foreign:
        return _foreign_table(target).identity
    return Identity.of(runtime_of(target).describe(), target.local_threads, target.precision or "float32")


def check_target(target: Target, place: str) -> None:
    """Raises EngineError for an engine that is not known, or has not what the target asks of it; TableError as
    `open_model`. place: where the target is named."""
    engine(target.engine, place)
    if target.foreign:
        _foreign_table(target)
    else:
        try:
            runtime_of(target)
        except EngineError as lacking:
            raise EngineError(lacking.rule, place=place, value=lacking.value, remedy=lacking.remedy) from None


def open_model(target: Target, path: Path | None = None) -> LatencyModel:
    """The model of a target. path: of a table on this machine; None takes the kept one, see table_path.

    Raises TableError for a table that cannot be read or is of something else, EngineError for an engine without
    kernels: of that one, whole networks can be timed only.
    """
    runtime = runtime_of(target)
    if not runtime.has_kernels:
        runtime.profiler(Path())  # which says why not
    if target.foreign:
        return LatencyModel(target, runtime, _foreign_table(target))
    identity = identity_of(target)
    return LatencyModel(target, runtime, open_table(path or table_path(identity), identity))


def _foreign_table(target: Target) -> LatencyTable:
    """The target's table. Raises TableError unless it is of that engine, and of the threads and precision named."""
    assert target.table is not None
    table = load_table(target.table)
    found = asdict(table.identity)
    wanted: Mapping[str, object] = {"engine": target.engine, "threads": target.threads, "precision": target.precision}
    for name, value in wanted.items():
        if value is not None and found[name] != value:
            raise TableError(
                f"a target's table must be of its {name}, {value}",
                place=f"{target.table}: {name}",
                value=found[name],
                remedy=f"take the table of {value}, or write what the table is of",
            )
    if not table.kernels:
        raise TableError("a target's table must not be empty", place=str(target.table), remedy="measure it first")
    return table
