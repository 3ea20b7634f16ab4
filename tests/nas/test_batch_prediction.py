"""Many candidates at once are exactly what cutting each gives."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from compress.engines.kernel import Kernel, Operand
from compress.engines.onnxruntime_fusion import kernels_by_part
from compress.measure.latency_table import Entry, Identity, LatencyTable, predict
from compress.measure.timing import summarise
from compress.nas.batch_prediction import PartTable
from compress.nas.space import Pick, Space
from compress.networks import architecture_from_data, architecture_to_data
from compress.networks.architecture import without_values
from compress.networks.dir_bhrnet import DirBHRNet

HW = (32, 32)


def toy(name: str, size: int) -> Kernel:
    return Kernel(name, (Operand((1, size)),), (Operand((1, size)),), kind=name)


def cut_toy(pick: Pick) -> dict[str, dict[Kernel, int]]:
    """Layers of block n are there if count > n; a rare effect shows only for c = 3 and kind b together."""
    kernels = {"stem.a.b.0:0": {toy("Stem", pick["width"]): 1}}
    for number in range(pick["count"]):
        kernels[f"net.blocks.x.{number}.conv:0"] = {toy(pick["kind"], pick["width"]): 1 + number % 2}
    if pick["rare"] == 3 and pick["kind"] == "b":
        kernels["net.rare:0"] = {toy("Rare", pick["count"]): 2}
    return kernels


TOY = Space(
    {"family": "toy"},
    {
        "width": (1, 2, 3),
        "count": (0, 1, 2, 5),
        "kind": ("a", "b", "c", "d"),
        "rare": (0, 1, 2, 3),
        "idle": (0, 1),
    },
)


def whole(parts: Any) -> Counter[Kernel]:
    return sum((Counter(kernels) for kernels in parts.values()), Counter())


def all_picks(space: Space) -> list[Pick]:
    picks: list[Pick] = [{}]
    for name, values in space.choices.items():
        picks = [{**pick, name: value} for pick in picks for value in values]
    return picks


def test_every_candidate_of_a_toy_space() -> None:
    asked: list[Pick] = []

    def counting(pick: Pick) -> dict[str, dict[Kernel, int]]:
        asked.append(pick)
        return cut_toy(pick)

    parts = PartTable(TOY, counting)
    assert len(asked) < TOY.size
    assert all(parts.kernels(pick) == whole(cut_toy(pick)) for pick in all_picks(TOY))


def bhrnet_space() -> Space:
    base = architecture_to_data(DirBHRNet(8, ((1,), (1, 0), (1, 0, 0), (1, 0, 0, 0)), head="single"))
    choices = {
        "blocks.0.0": (0, 1, 2),
        "blocks.3.3": (0, 1),
        "kinds.0": ("ir", "dir_se"),
        "kinds.3": ("ir", "dir"),
        "expansions.0": (1, 2),
        "reach": (1, 2, 3),
        "width": (8, 16),
    }
    return Space(base, choices)


def cut_bhrnet(pick: Pick) -> dict[str, Counter[Kernel]]:
    with without_values():
        network = architecture_from_data(bhrnet_space().apply(pick), "test").build()
    return kernels_by_part(network, HW)


def test_candidates_of_a_bhrnet_space(tmp_path: Path) -> None:
    space, rng = bhrnet_space(), random.Random(5)
    parts = PartTable(space, cut_bhrnet)
    picks = [space.sample(rng) for _ in range(500)]
    table = LatencyTable(tmp_path / "table.json", Identity("onnxruntime", "1", "a CPU"), reference_ms=1.0)
    for pick in picks:
        for kernel in parts.kernels(pick):
            ms = kernel.bytes / 1e6
            table.kernels[kernel.key] = Entry.of(kernel, summarise([ms], [1.0], 1.0), "in situ")
    predicted = parts.predict(table, picks)
    for pick, ms in list(zip(picks, predicted, strict=True))[:25]:
        kernels = whole(cut_bhrnet(pick))
        assert parts.kernels(pick) == kernels
        assert ms == pytest.approx(predict(table, kernels).ms, rel=1e-12)
