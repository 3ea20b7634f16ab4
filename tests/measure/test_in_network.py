"""Which networks are timed for a table: few that have what candidates consist of."""

import random

from compress.engines.kernel import Kernel
from compress.measure.in_network import CALL_MACS, TIMES, cover, cover_most


def kernel(name: str, macs: int) -> Kernel:
    return Kernel(name, (), (), macs=macs)


def candidates(count: int) -> dict[int, set[Kernel]]:
    """As of a space of channels: shares of six parts, and a kernel for the shares of every two neighbouring parts."""
    rng = random.Random(0)
    found = {}
    for number in range(count):
        shares = [rng.randint(1, 6) for _ in range(6)]
        pairs = zip(range(5), shares, shares[1:], strict=False)
        found[number] = {kernel(f"{part} {a} {b}", 10_000_000 * a * b // (1 + part)) for part, a, b in pairs}
        found[number].add(kernel("head", 0))
    return found


def timed_share(kernels: dict[int, set[Kernel]], chosen: list[int]) -> float:
    """Work of all networks of which the kernels are timed often enough; a part of it for those timed less often."""
    whole = timed = 0.0
    for one in {kernel for found in kernels.values() for kernel in found}:
        occurs = sum(one in found for found in kernels.values())
        work = occurs * max(one.macs, CALL_MACS)
        whole += work
        timed += work * min(1.0, sum(one in kernels[name] for name in chosen) / min(TIMES, occurs))
    return timed / whole


def test_most_of_the_work_is_timed_in_fewer_networks() -> None:
    kernels = candidates(60)
    chosen = cover_most(kernels, 0.9)
    assert timed_share(kernels, chosen) >= 0.9 > timed_share(kernels, chosen[:-1])
    assert timed_share(kernels, cover(kernels)) > 0.999
    assert len(chosen) < 0.75 * len(cover(kernels))


def test_all_of_the_work_is_all_kernels() -> None:
    kernels = candidates(12)
    assert timed_share(kernels, cover_most(kernels, 1.0)) > 0.999
    assert cover_most({}, 1.0) == []
    same = {number: {kernel("one", 5), kernel("two", 7)} for number in range(9)}
    assert len(cover_most(same, 1.0)) == TIMES
