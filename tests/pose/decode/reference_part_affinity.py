"""Part affinity decoding as plain loops over whole upsampled maps, and scenes to decode; for tests and benchmarks."""

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from compress.data.keypoints import COCO_PERSON
from compress.data.limbs import PartLayout
from compress.data.part_affinity_targets import part_maps
from compress.pose.decode.location import located
from compress.pose.decode.part_affinity import PartGrouping

Array = NDArray[Any]
Peak = tuple[float, float, float]  # x, y, heat

# COCO's joints of a standing figure, x to the right and y down, one unit high.
FIGURE = np.array(
    [
        (0.00, 0.08),
        (0.03, 0.05),
        (-0.03, 0.05),
        (0.07, 0.07),
        (-0.07, 0.07),
        (0.13, 0.22),
        (-0.13, 0.22),
        (0.17, 0.37),
        (-0.17, 0.37),
        (0.19, 0.51),
        (-0.19, 0.51),
        (0.09, 0.52),
        (-0.09, 0.52),
        (0.10, 0.74),
        (-0.10, 0.74),
        (0.11, 0.96),
        (-0.11, 0.96),
    ]
)


def figures(rng: np.random.Generator, people: int, input_hw: tuple[int, int], height_px: tuple[int, int]) -> Array:
    """COCO's joints [P,17,3] in input pixels of standing figures, each with its own height, place and posture."""
    keypoints = np.zeros((people, len(COCO_PERSON), 3), np.float32)
    for person in keypoints:
        height = rng.uniform(*height_px)
        joints = (FIGURE + rng.normal(0, 0.008, FIGURE.shape)) * height
        room = np.maximum(np.array(input_hw[::-1]) - np.ptp(joints, axis=0) - 2, 1)
        person[:, :2] = joints - joints.min(axis=0) + rng.uniform(0, room)
        person[:, 2] = 2
    return keypoints


def scene(
    rng: np.random.Generator, people: int, layout: PartLayout, noise: float = 0.01, cells: int = 46
) -> tuple[Array, Array]:
    """Heatmaps [K,h,w] and fields [2L,h,w] of figures (many cross one another), as a good network gives them."""
    size = (cells * 8, cells * 8)
    maps = part_maps(figures(rng, people, size, (70, 180)), layout, size, 8)
    maps += rng.normal(0, noise, maps.shape).astype(np.float32)
    parts = len(layout.names)
    return maps[:parts], maps[parts + 1 :]


def plain_decode(heatmaps: Array, fields: Array, layout: PartLayout, grouping: PartGrouping) -> tuple[Array, Array]:
    """Joints [P,J,3] in cells and scores [P], by the rules of `compress.pose.decode.part_affinity.decode`."""
    heatmaps, fields = (np.where(np.abs(maps) < 1e30, maps, 0).astype(np.float32) for maps in (heatmaps, fields))
    peaks = [plain_peaks(heat, grouping) for heat in heatmaps]
    limbs = []
    for limb, (a, b) in enumerate(layout.limbs):
        field = plain_upsample(np.stack([fields[2 * limb], fields[2 * limb + 1]], axis=2), grouping.upsample)
        limbs.append(plain_limbs(field, peaks[a], peaks[b], grouping))
    people = plain_people(limbs, peaks, layout)
    joints, scores = [], []
    for person in people:
        if len(person.parts) < grouping.min_parts or person.score / len(person.parts) < grouping.min_score:
            continue
        scores.append(person.score * (len(person.parts) - (len(layout.names) - len(layout.keypoints))))
        complete(person, limbs, layout)
        row = np.zeros((len(layout.keypoints), 3))
        for part, sources in enumerate(layout.sources):
            if len(sources) == 1 and part in person.parts:
                x, y, heat = peaks[part][person.parts[part]]
                row[sources[0]] = x / grouping.upsample, y / grouping.upsample, heat
        joints.append(row)
    return np.array(joints, np.float32).reshape(-1, len(layout.keypoints), 3), np.array(scores, np.float32)


def plain_upsample(maps: Array, factor: int) -> Array:
    height, width = maps.shape[:2]
    return np.asarray(cv2.resize(maps, (width * factor, height * factor), interpolation=cv2.INTER_CUBIC))


def plain_peaks(heatmap: Array, grouping: PartGrouping) -> list[Peak]:
    kept: list[Peak] = []
    placed: list[Peak] = []
    factor = grouping.upsample
    height, width = heatmap.shape[0] * factor, heatmap.shape[1] * factor
    padded = plain_upsample(np.pad(heatmap, 1, mode="edge"), factor)
    # By NumPy where heat is enough, then one by one: a loop over all pixels would take seconds.
    inside = padded[factor : factor + height, factor : factor + width]
    hot = inside >= grouping.heat_threshold
    x_n, y_n = np.nonzero(hot.T)
    for x, y in zip(x_n.tolist(), y_n.tolist(), strict=True):
        column, row = x + factor, y + factor
        heat = float(padded[row, column])
        left, right = float(padded[row, column - 1]), float(padded[row, column + 1])
        above, below = float(padded[row - 1, column]), float(padded[row + 1, column])
        if heat < max(left, right, above, below) or (heat == left and x > 0) or (heat == above and y > 0):
            continue
        if any(math.hypot(x - other[0], y - other[1]) < grouping.suppression * factor for other in kept):
            continue
        kept.append((x, y, heat))
        # Places decide which pixels limbs are read at, where the last bit counts; test_top_down has a plain `located`.
        at = np.array([0]), np.array([y]), np.array([x])
        ((column, row, _),) = located(inside[None], *at, grouping.locate).tolist()
        placed.append((column - 0.5, row - 0.5, heat))
    hottest = sorted(range(len(placed)), key=lambda index: (-placed[index][2], index))[: grouping.most]
    return [placed[index] for index in sorted(hottest)]


def plain_limbs(
    field: Array, starts: list[Peak], ends: list[Peak], grouping: PartGrouping
) -> list[tuple[int, int, float]]:
    found = []
    for i, (ax, ay, _) in enumerate(starts):
        for j, (bx, by, _) in enumerate(ends):
            length = math.hypot(bx - ax, by - ay)
            if length == 0:
                continue
            passed = []
            for point in range(grouping.points):
                share = point / (grouping.points - 1)
                u, v = field[round(ay + (by - ay) * share), round(ax + (bx - ax) * share)]
                along = float(u) * ((bx - ax) / length) + float(v) * ((by - ay) / length)
                if along > grouping.point_threshold:
                    passed.append(along)
            if len(passed) / grouping.points > grouping.success_ratio:
                found.append((i, j, sum(passed) / len(passed)))
    chosen: list[tuple[int, int, float]] = []
    for i, j, score in sorted(found, key=lambda limb: -limb[2]):
        if all(i != start and j != end for start, end, _ in chosen):
            chosen.append((i, j, score))
    return chosen


class Person:
    """Part → index of its peak, and what it has gained so far."""

    def __init__(self) -> None:
        self.parts: dict[int, int] = {}
        self.score = 0.0


def plain_people(
    limbs: list[list[tuple[int, int, float]]], peaks: list[list[Peak]], layout: PartLayout
) -> list[Person]:
    people: list[Person] = []
    for limb, (a, b) in enumerate(layout.limbs):
        if limb in layout.completing:
            continue
        for i, j, score in limbs[limb]:
            joined = [person for person in people if person.parts.get(a) == i]
            if not joined:
                person = Person()
                person.parts[a] = i
                person.score = peaks[a][i][2]
                people.append(person)
                joined = [person]
            for person in joined:
                person.parts[b] = j
                person.score += peaks[b][j][2] + score
    return people


def complete(person: Person, limbs: list[list[tuple[int, int, float]]], layout: PartLayout) -> None:
    for limb in layout.completing:
        a, b = layout.limbs[limb]
        for i, j, _ in limbs[limb]:
            if person.parts.get(a) == i and b not in person.parts:
                person.parts[b] = j
            elif person.parts.get(b) == j and a not in person.parts:
                person.parts[a] = i
