"""How long each unit takes on one machine, measured once and kept, and what that predicts for whole networks.

A unit is timed in context: many units, each behind a small convolution that has just made its input, are one model,
and a unit's own time is read from onnxruntime's profile. Timed alone it would pay for reorderings and calls that a
whole network pays once.

The profiler adds 1.9 us of its own to every node, which is more than half of what many units of a small network take.
So the same model is also timed without it, and every unit is corrected by the excess per node.

Mean error on unseen random DIR-BHRNets of 0.2-6 ms (onnxruntime 1.31.1, one thread, shared 2-core machine, factor
fitted on 8 others): width 8-16 at 128 pixels 1.6-1.9 % in a calm hour (spread of the network timings 2 %) and 5.0-5.4
% in a busy one (spread 5 %); the same tables without the correction 20-22 %. Width 8-24 at 96-160 pixels: 3.0-5.4 %,
worst 16 %. Networks with over 6 MB of weights are predicted 4-13 % too fast. A second fitted term (per node, per
network, per byte of weights) was tried and left out: the mean changes by less than 1 %, and the worst case grows (24
% for 16 %).
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from math import ceil, exp, log
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from compress.engines.engine import Description
from compress.engines.onnxruntime import session_options
from compress.errors import EngineError, TableError
from compress.files import write_text
from compress.measure.timing import Timing, reference_convolution, summarise, time_interleaved
from compress.measure.units import Unit

FORMAT = 1
BATCH = 32
"""Units per timed model; the table is saved after each."""
ROUNDS = 60
WARMUP = 3
LEAST_RATIO = 1e-3
"""A unit never takes less than this part of the reference (0.08 us): below, the profile's clock says nothing."""


@dataclass(frozen=True)
class Identity:
    """What a table's times are true for. device: Description.device."""

    engine: str
    version: str
    device: str
    threads: int = 1
    precision: str = "float32"

    @classmethod
    def of(cls, description: Description, threads: int = 1) -> "Identity":
        """Of an engine on this machine."""
        return cls(description.engine, description.version, description.device, threads)


@dataclass(frozen=True)
class Scale:
    """Whole networks over the sum of their units. networks: it was fitted on; error: mean relative error on these."""

    factor: float
    networks: int
    error: float


@dataclass
class LatencyTable:
    """units: key → timing, on the clock of reference_ms: normalised_ms = ratio x reference_ms for every entry."""

    path: Path
    identity: Identity
    reference_ms: float | None = None
    scale: Scale | None = None
    units: dict[str, Timing] = field(default_factory=dict)

    def missing(self, units: Iterable[Unit]) -> list[Unit]:
        """Those of the units that the table does not hold, each once, in a stable order."""
        return sorted({unit for unit in units if unit.key not in self.units})

    def save(self) -> None:
        """Writes the table in one step: a reader sees the old one or the new one."""
        data = {
            "format": FORMAT,
            **asdict(self.identity),
            "reference_ms": self.reference_ms,
            "scale": asdict(self.scale) if self.scale else None,
            "units": {key: asdict(self.units[key]) for key in sorted(self.units)},
        }
        write_text(self.path, _readable(data))


def open_table(path: Path, identity: Identity) -> LatencyTable:
    """The table in that file, or an empty one if there is no such file.

    Raises TableError if it is broken or of another engine, version, device, number of threads or precision.
    """
    if not path.exists():
        return LatencyTable(path, identity)
    table = load_table(path)
    for name, wanted in asdict(identity).items():
        found = getattr(table.identity, name)
        if found != wanted:
            raise TableError(
                f"times are only true for one {name}, here {wanted!r}", place=f"{path}: {name}", value=found,
                remedy="name another file, and it will be measured here",
            )  # fmt: skip
    return table


def load_table(path: Path) -> LatencyTable:
    """The table in that file, wherever it was measured. Raises TableError if it cannot be read."""
    try:
        data = json.loads(path.read_text())
        if data.pop("format") != FORMAT:
            raise ValueError("another format")
        units = {key: Timing(**value) for key, value in data.pop("units").items()}
        scale = data.pop("scale")
        return LatencyTable(path, reference_ms=data.pop("reference_ms"), scale=Scale(**scale) if scale else None,
                            units=units, identity=Identity(**data))  # fmt: skip
    except FileNotFoundError:
        raise TableError("no such latency table", place=str(path), remedy="measure it first") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(
            f"not a latency table of format {FORMAT}: {error}", place=str(path), remedy="delete it and measure again"
        ) from error


def predict(table: LatencyTable, units: Mapping[Unit, int]) -> float:
    """Milliseconds for a whole network of these units: their sum times the fitted scale (1 before fit_scale).

    Raises TableError naming the first unit that is missing.
    """
    return _sum(table, units) * (table.scale.factor if table.scale else 1.0)


def fit_scale(table: LatencyTable, samples: Sequence[tuple[Mapping[Unit, int], float]]) -> Scale:
    """Fits and stores the factor between whole networks and the sum of their units; the caller saves the table.

    samples: units and measured milliseconds, on the table's clock (Timing.ratio x table.reference_ms). The factor is
    the geometric mean of measured over summed, so that every network counts the same. Test it on other networks.
    """
    if not samples:
        raise TableError("a scale needs at least one measured network", place=str(table.path), remedy="measure some")
    factors = [measured / _sum(table, units) for units, measured in samples]
    factor = exp(fmean(map(log, factors)))
    table.scale = Scale(factor, len(samples), fmean(abs(factor / f - 1) for f in factors))
    return table.scale


def measure_units(units: Sequence[Unit], threads: int = 1, rounds: int = ROUNDS) -> tuple[dict[Unit, Timing], float]:
    """Times each unit inside one model that holds them all; also the reference's median in milliseconds."""
    reference = reference_convolution()
    model, feed = units_in_context(units)
    with tempfile.TemporaryDirectory() as folder:
        plain, profiled = session_options(threads), session_options(threads)
        profiled.enable_profiling = True
        profiled.profile_file_prefix = str(Path(folder) / "profile")
        sessions = [
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            for options in (plain, profiled)
        ]
        whole = time_interleaved({"": lambda: sessions[0].run(None, feed)}, reference, rounds)
        references: list[float] = []
        for round_ in range(-WARMUP, rounds + 1):
            reference()
            if round_ >= 0:
                references.append(_once(reference))
            if round_ < rounds:
                sessions[1].run(None, feed)
        runs = _profile(Path(sessions[1].end_profiling()))[WARMUP:]
    beside = [(a + b) / 2 for a, b in pairwise(references)]
    overall = median(references)
    # The profiler counts part of its own work into every node: about as much per node as the whole model is too slow.
    summed = _middle_mean([sum(e.ms for e in events) / r for events, r in zip(runs, beside, strict=True)])
    excess = (summed - whole[""].ratio) / len(runs[0])
    return {unit: _own_time(unit, i, runs, beside, overall, excess) for i, unit in enumerate(units)}, overall


Measure = Callable[[Sequence[Unit], int], tuple[dict[Unit, Timing], float]]
"""Units and threads → their timings and the reference's median in milliseconds."""


def fill(
    table: LatencyTable,
    units: Iterable[Unit],
    progress: Callable[[int, int], None] = lambda done, total: None,
    measure: Measure = measure_units,
    batch: int = BATCH,
) -> None:
    """Measures what the table lacks of these units and saves after every batch, so that a killed build resumes.

    progress: units done, of how many. Raises EngineError naming a unit that cannot be timed on its own.
    """
    missing = table.missing(units)
    done, batches = 0, ceil(len(missing) / batch)
    for number in range(batches):
        # Every so-many-th unit: a batch is then a mixture of small and large ones, like a network.
        chosen = missing[number::batches]
        timings, reference_ms = measure(chosen, table.identity.threads)
        table.reference_ms = table.reference_ms or reference_ms
        for unit, timing in timings.items():
            on_clock = replace(timing, normalised_ms=timing.ratio * table.reference_ms)
            table.units[unit.key] = Timing(**_rounded(asdict(on_clock)))  # as it will be read back
        table.save()
        done += len(chosen)
        progress(done, len(missing))


def _once(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return (perf_counter() - start) * 1000


def _own_time(
    unit: Unit, index: int, runs: Sequence[Sequence["_Event"]], beside: Sequence[float], overall: float, excess: float
) -> Timing:
    times, references = [], []
    for events, reference in zip(runs, beside, strict=True):
        mine = [e.ms for e in events if e.is_of(unit, index)]
        if not mine or (len(mine) > 1 and unit.kind not in ("to_blocks", "from_blocks")):
            raise EngineError(
                f"onnxruntime must run a unit as one node, not {len(mine)}", place=unit.key,
                remedy="correct the rules in compress/measure/units.py for this version",
            )  # fmt: skip
        times.append(fmean(mine))
        references.append(reference)
    timing = summarise(times, references, overall)
    # Profiles count whole microseconds, so for small units the median is a step; the mean of the middle is not.
    ratio = max(LEAST_RATIO, _middle_mean([t / r for t, r in zip(times, references, strict=True)]) - excess)
    return replace(timing, ratio=ratio, normalised_ms=ratio * overall)


def _middle_mean(values: Sequence[float]) -> float:
    ordered = sorted(values)
    cut = len(ordered) // 4
    return fmean(ordered[cut : len(ordered) - cut])


def _sum(table: LatencyTable, units: Mapping[Unit, int]) -> float:
    missing = table.missing(units)
    if missing:
        raise TableError(
            f"the table lacks {len(missing)} of the network's units", place=str(table.path), value=missing[0].key,
            remedy="measure them first (fill)",
        )  # fmt: skip
    return sum(table.units[unit.key].normalised_ms * times for unit, times in units.items())


# Models made of units ------------------------------------------------------------------------------------------------


def units_in_context(units: Sequence[Unit]) -> tuple[ModelProto, dict[str, NDArray[np.float32]]]:
    """One model in which each unit reads what a small convolution has just made, and the input to run it with.

    Tensors and nodes of unit i are named `u<i>.*`, by which the profile's events are told apart.
    """
    build, sinks = _Build(), []
    for index, unit in enumerate(units):
        out = build.unit(unit, f"u{index}")
        sinks.append(build.node("GlobalAveragePool", [out], f"k{index}"))
    # One output, as a network has: each costs time that would be taken for the units'.
    build.node("Concat", sinks, "all", axis=1)
    inputs = [helper.make_tensor_value_info(_image(hw), TensorProto.FLOAT, (1, 3, *hw)) for hw in sorted(build.images)]
    output = helper.make_tensor_value_info("all", TensorProto.FLOAT, None)
    graph = helper.make_graph(build.nodes, "units", inputs, [output], build.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    random = np.random.default_rng(0)
    return model, {_image(hw): random.standard_normal((1, 3, *hw), dtype=np.float32) for hw in sorted(build.images)}


def _image(hw: tuple[int, int]) -> str:
    return "image{}x{}".format(*hw)


class _Build:
    """Collects the nodes of a model."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.images: set[tuple[int, int]] = set()
        self.random = np.random.default_rng(0)

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """One node with one output; returns its name."""
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{output}.node", **attributes))
        return output

    def weight(self, name: str, *shape: int) -> str:
        """A random constant, small enough that nothing overflows or becomes denormal."""
        values = self.random.standard_normal(shape, dtype=np.float32) * 0.1
        self.weights.append(helper.make_tensor(name, TensorProto.FLOAT, shape, values.tobytes(), raw=True))
        return name

    def source(self, name: str, channels: int, hw: tuple[int, int], blocked: bool) -> str:
        """A tensor fresh from a 1x1 convolution. Its ReLU keeps the unit's own sum from joining it."""
        self.images.add(hw)
        made = self.node("Conv", [_image(hw), self.weight(f"{name}.w", channels, 3, 1, 1)], f"{name}.conv")
        made = self.node("Relu", [made], f"{name}.relu")
        # Neg has no blocked form, so it leaves a plain tensor.
        return made if blocked else self.node("Neg", [made], f"{name}.plain")

    def unit(self, unit: Unit, name: str) -> str:
        """The unit behind its sources; returns its output."""
        hw = (unit.height, unit.width)
        source = f"s{name}"
        if unit.kind == "from_blocks":
            return self.node("Neg", [self.source(source, unit.inputs[0], hw, True)], f"p{name}")
        if unit.kind == "to_blocks":
            plain = self.source(source, unit.inputs[0], hw, False)
            weight = self.weight(f"p{name}.w", unit.outputs, 1, 1, 1)
            return self.node("Conv", [plain, weight], f"p{name}", group=unit.outputs)
        channels = [*unit.inputs, *unit.inputs] if unit.kind in ("add", "mul") else list(unit.inputs)
        sizes = [hw, (1, 1)] if unit.scalar else [hw] * len(channels)
        inputs = [
            self.source(f"{source}.{i}", c, size, unit.blocked)
            for i, (c, size) in enumerate(zip(channels, sizes, strict=True))
        ]
        if unit.kind in ("conv", "deconv"):
            return self.convolution(unit, name, inputs[0])
        window = {"kernel_shape": unit.kernel, "strides": unit.stride, "pads": unit.padding * 2}
        match unit.kind:
            case "upsample":
                scales = np.array([1, 1, unit.scale, unit.scale], dtype=np.float32)
                self.weights.append(helper.make_tensor(f"{name}.s", TensorProto.FLOAT, [4], scales.tobytes(), raw=True))
                nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
                return self.node("Resize", [inputs[0], "", f"{name}.s"], f"{name}.out", **nearest)
            case "concat":
                return self.node("Concat", inputs, f"{name}.out", axis=1)
            case "max_pool":
                return self.node("MaxPool", inputs, f"{name}.out", **window)
            case "avg_pool":
                return self.node("AveragePool", inputs, f"{name}.out", count_include_pad=1, **window)
            case kind:
                return self.node(_OPERATORS[kind], inputs, f"{name}.out")

    def convolution(self, unit: Unit, name: str, source: str) -> str:
        """Convolution, bias, sum and activation, as the exporter writes them."""
        shared = {"strides": unit.stride, "pads": unit.padding * 2, "group": unit.groups, "dilations": unit.dilation}
        (inputs,), outputs, groups = unit.inputs, unit.outputs, unit.groups
        bias = self.weight(f"{name}.b", outputs)
        if unit.kind == "deconv":
            weight = self.weight(f"{name}.w", inputs, outputs // groups, *unit.kernel)
            shared["output_padding"] = unit.output_padding
            out = self.node("ConvTranspose", [source, weight, bias], f"{name}.conv", **shared)
        else:
            weight = self.weight(f"{name}.w", outputs, inputs // groups, *unit.kernel)
            out = self.node("Conv", [source, weight, bias], f"{name}.conv", **shared)
        if unit.added:
            out = self.node("Add", [out, self.source(f"s{name}.add", outputs, unit.output_hw, True)], f"{name}.sum")
        if unit.activation:
            out = self.node(_OPERATORS[unit.activation], [out], f"{name}.out")
        return out


_OPERATORS = {"add": "Add", "mul": "Mul", "relu": "Relu", "sigmoid": "Sigmoid", "global_pool": "GlobalAveragePool"}


# Profiles ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Event:
    """One node in one run. name: the node's; shape: of its output."""

    name: str
    operator: str
    shape: tuple[int, ...]
    ms: float

    def is_of(self, unit: Unit, index: int) -> bool:
        """Whether this event is that unit. Reorderings have no names of ours: any of the same size will do."""
        if unit.kind == "from_blocks":
            return self.operator == "ReorderOutput" and self.shape == (1, unit.outputs, unit.height, unit.width)
        if unit.kind == "to_blocks":
            return self.operator == "ReorderInput" and self.shape[2:] == (unit.height, unit.width)
        return self.name.startswith(f"u{index}.")


def _profile(path: Path) -> list[list[_Event]]:
    """The events of each run, in order."""
    runs: list[list[_Event]] = []
    events: list[_Event] = []
    for entry in json.loads(path.read_text()):
        if entry["cat"] == "Node" and entry["name"].endswith("_kernel_time"):
            shapes = entry["args"]["output_type_shape"]
            shape = tuple(next(iter(shapes[0].values()))) if shapes else ()
            # The profiler cuts off parts of a microsecond: half of one is lost on average.
            events.append(_Event(entry["name"], entry["args"]["op_name"], shape, (entry["dur"] + 0.5) / 1000))
        elif entry["name"] == "model_run":
            runs.append(events)
            events = []
    return runs


def _readable(data: dict[str, Any]) -> str:
    """JSON with one line per unit, so that two tables can be compared line by line; six significant digits."""
    units = data.pop("units")
    head = json.dumps(data, indent=1)[:-2]
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(_rounded(value))}" for key, value in units.items())
    return f'{head},\n "units": {{\n{lines}\n }}\n}}\n'


def _rounded(timing: dict[str, Any]) -> dict[str, Any]:
    return {key: value if isinstance(value, int) else float(f"{value:.6g}") for key, value in timing.items()}


__all__ = [
    "Identity", "LatencyTable", "Scale", "fill", "fit_scale", "load_table", "measure_units", "open_table", "predict",
    "units_in_context",
]  # fmt: skip
