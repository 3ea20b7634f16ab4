"""Fills a latency table from whole networks that are run and timed node by node.

Kernels in whole networks have their real neighbours: what is in the caches, in which layout, and how many weights other
layers evict. Predictions from such times were off by half as much as from models made of kernels (BHRNet candidates,
onnxruntime and ncnn, on a busy machine: 3-4 % and 7-8 %).
"""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from compress.engines.engine import Engine
from compress.engines.kernel import Kernel
from compress.measure.latency_table import TRIES, UNCERTAIN, LatencyTable, add_in_situ
from compress.measure.profiling import ROUNDS, Profiled, time_nodes
from compress.measure.timing import other_load

TIMES = 3
"""Networks that a kernel is timed in, so that the noise of one does not count for much."""
MOST = 0.98
"""Share of the work of a space's networks whose kernels are timed, in a space of edits."""
CALL_MACS = 200_000
"""Multiply-adds that take as long as the call of a kernel does, some ten microseconds on one core."""
BATCH = 24
"""Networks after which the table is saved."""

Name = TypeVar("Name")


def cover(kernels: Mapping[Name, set[Kernel]], times: int = TIMES) -> list[Name]:
    """Few of the networks, by what kernels they have, in which every kernel occurs `times` times or as often as in all.

    Greedy: always the network with the most kernels that are still missing.
    """
    missing: dict[Kernel, int] = {}
    for found in kernels.values():
        for kernel in found:
            missing[kernel] = min(times, missing.get(kernel, 0) + 1)
    left, chosen = dict(kernels), []
    while missing:
        best = max(left, key=lambda name: len(left[name] & missing.keys()))
        for kernel in left.pop(best) & missing.keys():
            missing[kernel] -= 1
            if not missing[kernel]:
                del missing[kernel]
        chosen.append(best)
    return chosen


def cover_most(kernels: Mapping[Name, set[Kernel]], share: float = MOST, times: int = TIMES) -> list[Name]:
    """Fewer of the networks than `cover` takes, where most kernels are rare: those that do most of the work.

    Greedy, as in `cover`, with a kernel counted by its work in all networks, until `share` of the whole is timed
    `times` times or as often as it occurs. What is left is estimated from kernels of neighbouring sizes.
    """
    occurs = Counter(kernel for found in kernels.values() for kernel in found)
    missing = {kernel: min(times, count) for kernel, count in occurs.items()}
    worth = {kernel: max(kernel.macs, CALL_MACS) * occurs[kernel] / missing[kernel] for kernel in occurs}
    whole = sum(worth[kernel] * count for kernel, count in missing.items())
    left, chosen, timed = dict(kernels), [], 0.0
    while left and timed < share * whole:
        gains = {name: sum(worth[kernel] for kernel in found if missing[kernel]) for name, found in left.items()}
        best = max(gains, key=gains.__getitem__)
        for kernel in left.pop(best):
            if missing[kernel]:
                missing[kernel] -= 1
        timed += gains[best]
        chosen.append(best)
    return chosen


def profile_in_networks(
    table: LatencyTable,
    runtime: Engine,
    files: Mapping[str, Callable[[], Path]],
    rounds: int = ROUNDS,
    progress: Callable[[str], None] = lambda name: None,
    again: bool = False,
) -> None:
    """Times the networks' kernels that the table does not know; saves every few networks, so that a killed build goes
    on there.

    files: name → what exports the network and returns its file. progress: called after every network. again:
    all of their kernels are timed again, whatever the table has.
    """
    waiting: list[Profiled] = []
    renewed: set[str] = set()
    for number, (name, export) in enumerate(files.items(), 1):
        file = export()
        known = renewed if again else table.known()
        if any(kernel.key not in known for kernel in kernels_of_file(runtime, file)):
            waiting.append(_timed(runtime, file, table.identity.threads, rounds))
        if waiting and (len(waiting) == BATCH or number == len(files)):
            keys = {kernel.key for network in waiting for kernel in network.kernels} - renewed if again else set()
            add_in_situ(table, waiting, keys, other_load(table.identity.threads))
            table.save()
            renewed |= keys
            waiting.clear()
        progress(name)


def _timed(runtime: Engine, file: Path, threads: int, rounds: int) -> Profiled:
    """The network node by node: again, up to TRIES times, while what its nodes take is uncertain by UNCERTAIN on the
    average; the least uncertain time is returned."""
    tries = []
    for _ in range(TRIES):
        tries.append(time_nodes(runtime.profiler(file, threads), rounds))
        if _uncertainty(tries[-1]) <= UNCERTAIN:
            break
    return min(tries, key=_uncertainty)


def _uncertainty(network: Profiled) -> float:
    """Of the nodes' times, weighted by these."""
    total = sum(timing.ratio for timing in network.timings)
    return sum(timing.uncertainty * timing.ratio for timing in network.timings) / total


def kernels_of_file(runtime: Engine, file: Path) -> tuple[Kernel, ...]:
    """The kernels of an exported network, in the order they run."""
    profiler = runtime.profiler(file)
    profiler.run_timed()
    return profiler.finish().kernels
