"""What every inference engine offers: describe itself, export a network, run the file, and prove that it is the same.

A new engine is one file with a class that inherits from `Engine`, and one line in ENGINES. It has a name, describes
itself, exports a network and loads the file again. Whatever else an engine can do, or computes in another way, is an
attribute or a method of `Engine` with a default: no code outside this folder asks which engine it has.
"""

import contextlib
import ctypes
import hashlib
import io
import os
import platform
import re
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.engines.kernel import Kernel
from compress.errors import CompressError, EngineError, NetworkError, ParityError

Image = NDArray[np.float32]
"""[1,3,H,W], normalised as the network was trained."""

PARITY_LIMIT = 1e-4
"""Relative error at which an exported network counts as another one: float32 sums in another order stay near 1e-6."""
HALF_PARITY_LIMIT = 2e-2
"""The same in float16. Rounding to its 11 bits is 2^-11 = 5e-4 a layer; over the 100 to 900 layers of a pose network
these errors add up as a random walk, to 10 to 30 times that at the most."""
CHANNEL_MULTIPLE = 8
"""Channels that engines compute at a time, where this is not known of the engine."""


@dataclass(frozen=True)
class Description:
    """Which engine on which machine. device: fingerprint, equal only where timings may be compared.

    cpu: model name; cores: logical; isa: short hash of the CPU's instruction set flags; system: kernel and machine.
    provider: what computes, where an engine has several and it is not the one that comes first.
    """

    engine: str
    version: str
    cpu: str
    cores: int
    isa: str
    system: str
    provider: str = ""

    @property
    def device(self) -> str:
        """`model, n cores, isa hash, system`, and the provider if there is one to tell."""
        machine = f"{self.cpu}, {self.cores} cores, isa {self.isa}, {self.system}"
        return f"{machine}, on {self.provider}" if self.provider else machine


class Runner(Protocol):
    """A loaded model."""

    def run(self, image: Image) -> tuple[NDArray[np.float32], ...]:
        """[1,3,H,W] of the exported size → the network's outputs, [1,C,h,w] each."""
        ...


@dataclass(frozen=True)
class Profile:
    """Timed passes of a model. kernels, names: its nodes in the order they run. times_ms: [pass][node]."""

    kernels: tuple[Kernel, ...]
    times_ms: list[list[float]]
    names: tuple[str, ...]


class Profiler(Protocol):
    """A loaded model with random inputs, that can tell the time of its nodes."""

    def run(self) -> None:
        """One pass as a user runs it."""
        ...

    def run_timed(self) -> None:
        """One pass with every node timed, which takes some time of its own at every node."""
        ...

    def finish(self) -> Profile:
        """All timed passes, at least one; the profiler cannot be used any more. Raises EngineError for control flow."""
        ...


@dataclass(frozen=True)
class BenchTimes:
    """What an engine's own program found on so many threads in this precision. times_ms: by a kernel's key."""

    threads: int
    precision: str
    times_ms: Mapping[str, float]


@dataclass(frozen=True)
class BenchRow:
    """A kernel in the engine's own program. model: its models' name. copies: few and many. kernel: its key."""

    model: str
    copies: tuple[int, int]
    kernel: str


class KernelBench(Protocol):
    """The engine's own program for a device without Python, which times models of one kernel each."""

    @property
    def program(self) -> str:
        """Its name."""
        ...

    def write(self, kernels: Iterable[Kernel], folder: Path) -> tuple[BenchRow, ...]:
        """Writes the models and a script that times them all into a new folder; what `read` needs, as plain data."""
        ...

    def read(self, output: Path, rows: Sequence[BenchRow], kernels: Mapping[str, Kernel]) -> tuple[BenchTimes, ...]:
        """Milliseconds of each kernel from what the script printed, of every number of threads.

        rows: what `write` gave. kernels: by their keys.

        Raises TableError if it was not run, or not on every model, or does not say in which precision.
        """
        ...


class Engine(Protocol):
    """One inference runtime: what it must do, and what it can do."""

    @property
    def name(self) -> str:
        """Its key in ENGINES."""
        ...

    install: ClassVar[str] = ""
    """The command that installs what it needs; '' if that is not known."""

    @property
    def parity_limit(self) -> float:
        """Relative error of an output, over its largest value, up to which an exported network is the same one."""
        return PARITY_LIMIT if self.precision == "float32" else HALF_PARITY_LIMIT

    @property
    def precision(self) -> str:
        """The number format that `load` and `profiler` compute in."""
        return "float32"

    @property
    def precisions(self) -> tuple[str, ...]:
        """Number formats that it can compute in on this machine, float32 first."""
        return ("float32",)

    @property
    def provider(self) -> str:
        """What computes, where the engine has several; else ''."""
        return ""

    @property
    def providers(self) -> tuple[str, ...]:
        """What can compute as it is installed here, the usual one first; empty where there is no choice."""
        return ()

    def configured(self, precision: str = "float32", provider: str = "") -> "Engine":
        """The engine that computes in this number format, on this provider ('': the usual one).

        Raises EngineError naming those it has where it lacks one of the two.
        """
        if precision not in self.precisions:
            raise EngineError(
                f"{self.name} does not compute in this precision on this machine",
                place="precision",
                value=precision,
                remedy=f"take {' or '.join(self.precisions)}",
            )
        if provider and not self.providers:
            raise EngineError(
                f"{self.name} has no providers to choose from",
                place="provider",
                value=provider,
                remedy="leave it out, or use an engine that has",
            )
        return self

    @property
    def channel_multiple(self) -> int:
        """Channels it computes at a time on this machine: other numbers of them are padded to a multiple of this."""
        return CHANNEL_MULTIPLE

    @property
    def skips_zeros(self) -> bool:
        """Whether convolutions take less time where blocks of their weights are zero; else only smaller ones do."""
        return False

    @property
    def has_kernels(self) -> bool:
        """Whether `profiler` times a network kernel by kernel; without that, whole networks can be timed only."""
        return False

    @property
    def assembles_kernels(self) -> bool:
        """Whether `assemble` makes a model of chosen kernels; without that, they can be timed in networks only."""
        return False

    @property
    def kernel_bench(self) -> KernelBench | None:
        """Its program for devices without Python; None if it has none."""
        return None

    def describe(self) -> Description:
        """Engine, version and machine."""
        ...

    def export(self, network: nn.Module, input_hw: tuple[int, int], folder: Path, stem: str) -> tuple[Path, ...]:
        """Writes the network for one image of this size as `folder/stem.*`; the first path is what `load` takes.

        The network is left as it was; folder is made if missing; nothing is half-written. Raises EngineError with the
        reason if the engine cannot take the network.
        """
        ...

    def load(self, path: Path, threads: int = 1) -> Runner:
        """The exported model, ready to run in `precision`. Raises EngineError if it is missing or broken."""
        ...

    def left_to_cpu(self, path: Path) -> tuple[str, ...]:
        """Nodes of the exported model, operator and name, that the provider does not take and the CPU computes.

        Raises EngineError as `load` does.
        """
        return ()

    def kernels_by_part(
        self, network: nn.Module, input_hw: tuple[int, int]
    ) -> Mapping[str, Mapping[Kernel, int]] | None:
        """The kernels of one pass of a [1,3,H,W] image, found without an export, which takes a hundredth of the time.

        By the operation that they come from: `stem.0.conv:0` is the first one of that module. None where the kernels
        are not known, for the engine or for an operation of this network.
        """
        return None

    @property
    def channel_block(self) -> int | None:
        """Channels per block in which it lays maps out on this machine; None if its kernels do not depend on that."""
        return None

    def laid_out(self, channel_block: int | None) -> "Engine":
        """The engine as it cuts networks into kernels on a device with such blocks; None is this machine."""
        return self

    def write_layout_probe(self, folder: Path) -> None:
        """Writes what packed_run needs to tell the device's channel_block; nothing where there is none."""
        return

    def read_layout_probe(self, folder: Path) -> int | None:
        """The channel_block of the device that packed_run ran on; None where it told none."""
        return None

    def profiler(self, path: Path, threads: int = 1) -> Profiler:
        """The exported or assembled model, to be timed node by node.

        Raises EngineError as `load` does, and unless the engine has_kernels.
        """
        raise EngineError(
            f"{self.name} has no kernels: it does not tell the time of parts of a network",
            place="engine",
            value=self.name,
            remedy="use another engine; whole networks can be timed with this one",
        )

    def assemble(self, kernels: Sequence[Kernel], folder: Path, stem: str) -> tuple[Path, ...]:
        """Writes a model of these kernels, each behind a node that has just made its inputs; the first path is the
        model.

        Its nodes named `u0`, `u1`, ... are the kernels. Raises EngineError unless the engine assembles_kernels.
        """
        raise EngineError(
            f"kernels of {self.name} can only be timed inside whole networks",
            place="engine",
            value=self.name,
            remedy="build the table from networks that contain them",
        )


def describe_machine(engine: str, version: str) -> Description:
    """The description of this machine for the given engine."""
    source = Path("/proc/cpuinfo")
    cpuinfo = source.read_text(errors="replace").split("\n\n")[0] if source.exists() else ""
    machine = platform.processor() or platform.machine()
    return description_of(
        engine, version, cpuinfo, machine, os.cpu_count() or 1, f"{platform.system()} {platform.machine()}"
    )


@cache
def half_on_arm() -> bool:
    """Whether this CPU is an ARM that computes in float16 (FEAT_FP16; Linux calls it asimdhp). macOS runs on no
    other."""
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    source = Path("/proc/cpuinfo")
    return source.exists() and "asimdhp" in source.read_text(errors="replace").split()


@cache
def description_of(engine: str, version: str, cpuinfo: str, machine: str, cores: int, system: str) -> Description:
    """The same from facts gathered elsewhere. cpuinfo: of one core, '' where there is none; machine: stands in then."""
    facts: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    model = facts.get("model name") or machine
    # A virtual machine may hide the model's number behind a common name: family and model tell them apart.
    if "cpu family" in facts:
        model += f" ({facts['cpu family']}-{facts.get('model', '?')}-{facts.get('stepping', '?')})"
    flags = " ".join(sorted((facts.get("flags") or facts.get("Features") or "").split()))
    isa = hashlib.sha256(flags.encode()).hexdigest()[:8]
    return Description(engine, version, model, cores, isa, system)


def network_outputs(network: nn.Module, image: Image) -> tuple[NDArray[np.float32], ...]:
    """What torch gives, in evaluation mode. The network's training flags are put back."""
    training = {name: module.training for name, module in network.named_modules()}
    network.eval()
    try:
        with torch.inference_mode():
            outputs = network(torch.tensor(image))  # a copy: the network may write into it
    finally:
        for name, module in network.named_modules():
            module.training = training[name]
    return tuple(output.cpu().numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,)))


def check_parity(network: nn.Module, runner: Runner, images: Iterable[Image], limit: float = PARITY_LIMIT) -> float:
    """Largest max|torch - engine| / max|torch| over outputs and images.

    Raises ParityError where it exceeds the limit, and for another number of outputs, another shape or a NaN;
    NetworkError where torch's own outputs are not finite; EngineError where the engine cannot run the network.
    """
    worst = 0.0
    for number, image in enumerate(images):
        expected = network_outputs(network, image)
        if not all(np.isfinite(output).all() for output in expected):
            raise NetworkError(
                "the network's outputs must be finite numbers: they are not in torch either",
                place=f"image {number}",
                remedy="its weights are: mend the layer whose values overflow",
            )
        try:
            found = runner.run(image)
        except (CompressError, OSError, MemoryError):
            raise
        except Exception as problem:  # the engines' own
            raise EngineError(
                f"the engine cannot run the exported network: {reason_of(problem)}",
                place=f"image {number}",
                remedy="use another engine for this network",
            ) from problem
        if len(expected) != len(found):
            raise _differs(f"image {number}", f"{len(found)} outputs for {len(expected)}")
        for index, (a, b) in enumerate(zip(expected, found, strict=True)):
            place = f"image {number}, output {index}"
            if a.shape != b.shape:
                raise _differs(place, f"shape {b.shape} for {a.shape}")
            error = float(np.abs(a - b).max()) / (float(np.abs(a).max()) or 1.0)
            if not error <= limit:
                raise _differs(place, f"relative error {error:.2e}, limit {limit:.0e}")
            worst = max(worst, error)
    return worst


def _differs(place: str, value: str) -> ParityError:
    return ParityError(
        "the exported network must give torch's outputs",
        place=place,
        value=value,
        remedy="use another engine for this network, or replace what this one computes otherwise",
    )


def reason_of(error: BaseException, limit: int = 300) -> str:
    """The first sentence of a library's exception, without the code around the operation that it happened in."""
    message = str(error).strip() or type(error).__name__
    first = " ".join(re.split(r"\n|\[Caused by| ?Please feel free", message, maxsplit=1)[0].split()).rstrip(".:, ")
    return first if len(first) <= limit else first[: limit - 1] + "…"


def ended(status: int) -> str:
    """How a program ended: its exit status, or the signal that ended it."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"ended by signal {-status}"


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Nothing on the standard output and error: libraries print from C, past Python, what they then raise as well."""
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    with open(os.devnull, "wb") as nowhere, contextlib.redirect_stdout(io.StringIO()):
        for number in kept:
            os.dup2(nowhere.fileno(), number)
        try:
            yield
        finally:
            libc.fflush(None)
            for number, before in kept.items():
                os.dup2(before, number)
                os.close(before)


def missing_file(path: Path, engine: str, reason: str) -> EngineError:
    """The error for a file that cannot be loaded."""
    return EngineError(
        f"{engine} cannot load the model: {reason}", place=str(path), remedy=f"export the network for {engine} again"
    )


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch on one thread while the block runs: tracing runs tiny operations, and on a busy machine threads that wait
    for each other make an export ten times slower (measured: 4-7 s instead of 0.5 s)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
