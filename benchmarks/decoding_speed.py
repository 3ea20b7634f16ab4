"""How long decoding takes after the network: one thread, stage by stage, beside the reference loops of the tests.

    python benchmarks/decoding_speed.py [--json FILE] [--seconds 1.0]

Associative embedding decodes 30 people from 17 heatmaps of 128x128 with tags of one dimension and of two (of a mirrored
pass); part affinity fields decode 30 people from 18 parts and 19 limbs at 46x46, as by default and as in Lightweight
OpenPose's code. Suppression looks at 300 poses of 30 people. Scenes are random with a fixed seed. Times are medians
with quartiles of as many runs as fit into the seconds (at least 5); the reference loops run 3 times.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy and torch start their threads

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "pose" / "decode"))

from reference_associative_embedding import plain_decode
from reference_part_affinity import plain_decode as paf_plain_decode
from reference_part_affinity import scene
from reference_pose_nms import plain_hard, plain_parallel, plain_soft

from compress.data.keypoints import COCO_PERSON
from compress.data.limbs import layout_for
from compress.pose.decode import associative_embedding as ae
from compress.pose.decode import part_affinity as paf
from compress.pose.decode import top_down
from compress.pose.decode.location import located
from compress.pose.decode.pose_nms import hard_nms, oks_matrix, parallel_nms, soft_nms
from compress.pose.decode.poses import Poses

Array = NDArray[Any]
JOINTS = len(COCO_PERSON)


@dataclass(frozen=True)
class Case:
    """One call to time. plain: the same result by reference loops; None: there are none. target_ms: the time budget."""

    name: str
    run: Callable[[], object]
    plain: Callable[[], object] | None = None
    target_ms: float | None = None


@dataclass(frozen=True)
class Timing:
    """Quartiles in milliseconds over that many runs."""

    low_ms: float
    median_ms: float
    high_ms: float
    runs: int


def cases() -> Iterator[Case]:
    """Everything that is timed; one line per decoder."""
    yield from associative_embedding(dimensions=1, target_ms=12)
    yield from associative_embedding(dimensions=2, target_ms=30)
    yield from part_fields()
    yield from suppression()
    yield from cut_outs()


def associative_embedding(dimensions: int, target_ms: float) -> Iterator[Case]:
    """The whole decoding and its stages, each with the true result of the one before."""
    heat, tags = tagged_people(people=30, size=128, dimensions=dimensions)
    grouping = ae.Grouping()
    name = f"associative embedding, {dimensions}-D tags"
    decode = partial(ae.decode, heat, tags, COCO_PERSON, grouping)
    people = len(decode())
    plain = partial(plain_decode, heat, tags, COCO_PERSON, grouping)
    yield Case(f"{name}: {people} people", decode, plain, target_ms)

    outputs = [torch.rand(2 * JOINTS, 64, 64), torch.rand(JOINTS, 128, 128)]
    yield Case("  before it: merge scales and passes", lambda: ae.merge_outputs(outputs, outputs, COCO_PERSON))
    heat_khw, tags_tkhw = ae._checked(heat, tags, COCO_PERSON)
    yield Case("  check and lay out", lambda: ae._checked(heat, tags, COCO_PERSON))
    found = ae._candidates(heat_khw, tags_tkhw, grouping)
    yield Case("  candidates", lambda: ae._candidates(heat_khw, tags_tkhw, grouping))
    found_pk = ae._group(found, COCO_PERSON, grouping)
    yield Case("  group", lambda: ae._group(found, COCO_PERSON, grouping))
    joint_n = np.repeat(np.arange(JOINTS), np.diff(found.start_k))
    yield Case("  adjust", lambda: located(heat_khw, joint_n, found.y_n, found.x_n, "quarter"))
    kept_pk = found_pk[: grouping.max_people]
    joint_pk3 = np.zeros((*kept_pk.shape, 3), np.float32)
    yield Case("  refine", lambda: ae._refine(joint_pk3, kept_pk, found, heat_khw, tags_tkhw, "quarter"))


def part_fields() -> Iterator[Case]:
    """Part affinity fields: the whole decoding and its stages, upsampled as by default and as in the published code."""
    layout = layout_for(COCO_PERSON)
    heatmaps, fields = scene(np.random.default_rng(0), 30, layout)
    output = torch.cat([torch.from_numpy(heatmaps), torch.zeros(1, 46, 46), torch.from_numpy(fields)])
    for grouping in (paf.PartGrouping(), paf.PartGrouping(upsample=8, locate="middle")):
        decode = partial(paf.decode, heatmaps, fields, layout, grouping)
        plain = partial(paf_plain_decode, heatmaps, fields, layout, grouping)
        name = f"part affinity fields, upsampled {grouping.upsample} times"
        yield Case(f"{name}: {len(decode())} people", decode, plain, 20)
        yield Case("  maxima of all parts", partial(paf._peaks, heatmaps, grouping))
    yield Case("  before it: merge passes", lambda: paf.merge_outputs(output, output, layout))


def suppression() -> Iterator[Case]:
    """Pose NMS in its three kinds."""
    poses, areas = strewn_poses(people=30, poses=300)
    sigmas = COCO_PERSON.sigmas
    arrays = poses.keypoints_pk3, poses.scores_p, areas, sigmas
    yield Case(
        "pose NMS, hard: 300 poses", partial(hard_nms, poses, areas, sigmas), partial(plain_hard, *arrays, 0.9), 2
    )
    soft = partial(plain_soft, *arrays, 0.9, "gaussian", 20)
    yield Case("pose NMS, soft: 300 poses", partial(soft_nms, poses, areas, sigmas), soft)
    parallel = partial(plain_parallel, *arrays, 20)
    yield Case("pose NMS, parallel: 300 poses", partial(parallel_nms, poses, areas, sigmas), parallel, 2)
    yield Case("  OKS of all pairs", partial(oks_matrix, poses.keypoints_pk3, areas, sigmas))


def cut_outs() -> Iterator[Case]:
    """Top-down decoding of a batch."""
    maps = torch.rand(30, JOINTS, 64, 48)
    matrices = np.tile(np.eye(2, 3), (30, 1, 1))
    merge = partial(top_down.merge_outputs, maps, maps, COCO_PERSON)
    merged = merge()

    def decode() -> Array:
        return top_down.to_picture(top_down.decode(merged, "quarter"), matrices, 4)

    yield Case("top-down: 30 people, 64x48 maps", decode)
    yield Case("  before it: merge passes", merge)


# --- scenes ----------------------------------------------------------------------------------------------------------


def tagged_people(people: int, size: int, dimensions: int) -> tuple[Array, Array]:
    """Heatmaps [K,size,size] and tags [K,size,size,T] of people who show 7 joints in 10, over weak noise."""
    rng = np.random.default_rng(0)
    heat = rng.uniform(0, 0.01, (JOINTS, size, size)).astype(np.float32)
    tags = rng.normal(0, 0.3, (JOINTS, size, size, dimensions)).astype(np.float32)
    rows, columns = np.mgrid[:size, :size]
    for person in range(people):
        centre = rng.uniform(8, size - 8, 2)
        for joint in np.flatnonzero(rng.random(JOINTS) < 0.7):
            x, y = np.clip(centre + rng.normal(0, size / 14, 2), 0, size - 1).astype(int)
            bell = rng.uniform(0.4, 1) * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
            tags[joint][(bell > heat[joint]) & (bell > 0.05)] = 1.5 * person + rng.normal(0, 0.05)
            heat[joint] = np.maximum(heat[joint], bell)
    return heat, tags


def strewn_poses(people: int, poses: int) -> tuple[Poses, Array]:
    """Poses around people in a picture of 640x640, and their boxes' areas."""
    rng = np.random.default_rng(0)
    bodies = rng.uniform(0, 640, (people, 1, 2)) + rng.normal(0, 40, (people, JOINTS, 2))
    keypoints = np.ones((poses, JOINTS, 3), np.float32)
    keypoints[:, :, :2] = bodies[rng.integers(0, people, poses)] + rng.normal(0, 4, (poses, JOINTS, 2))
    extent = np.ptp(keypoints[:, :, :2], axis=1)
    return Poses(keypoints, rng.random(poses).astype(np.float32)), extent.prod(axis=1)


# --- timing ----------------------------------------------------------------------------------------------------------


def timed(run: Callable[[], object], seconds: float, fewest: int) -> Timing:
    """At least `fewest` runs, and more while the seconds last."""
    times_ms: list[float] = []
    end = time.perf_counter() + seconds
    while len(times_ms) < fewest or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times_ms.append(1000 * (time.perf_counter() - begin))
    low, median, high = np.percentile(times_ms, (25, 50, 75)).tolist()
    return Timing(low, median, high, len(times_ms))


def shown(timing: Timing | None) -> str:
    return "" if timing is None else f"{timing.median_ms:.2f} ({timing.low_ms:.2f}-{timing.high_ms:.2f})"


def machine() -> dict[str, str]:
    """The machine and versions that the times were measured with."""
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.open() if "model name" in line] if info.exists() else []
    return {
        "processor": names[0] if names else platform.processor(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "threads": "1",
    }


def main() -> None:
    """Times every case and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.manual_seed(0)

    table = Table("decoding", title=", ".join(f"{key} {value}" for key, value in machine().items()))
    for heading in ("median ms (quartiles)", "target ms", "reference loops ms", "speed-up"):
        table.add_column(heading, justify="right")
    results = []
    for case in cases():
        timed(case.run, 0, 3)  # warm caches
        fast = timed(case.run, arguments.seconds, 5)
        plain = timed(case.plain, 0, 3) if case.plain else None
        target = "" if case.target_ms is None else f"{case.target_ms:g}"
        gain = "" if plain is None else f"{plain.median_ms / fast.median_ms:.0f}"
        table.add_row(case.name, shown(fast), target, shown(plain), gain)
        results.append(
            {
                "name": case.name.strip(),
                "target_ms": case.target_ms,
                "fast": asdict(fast),
                "plain": plain and asdict(plain),
            }
        )
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "cases": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
