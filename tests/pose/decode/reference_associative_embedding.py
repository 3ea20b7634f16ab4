"""Associative embedding's decoding as its rules read, in loops: what the fast decoder is compared with."""

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from compress.data.keypoints import KeypointSet
from compress.pose.decode.associative_embedding import Grouping

Array = NDArray[Any]


@dataclass
class Person:
    joints: dict[int, tuple[int, int]] = field(default_factory=dict)  # joint → (y, x)
    tags: list[Array] = field(default_factory=list)


def plain_decode(heat: Array, tags: Array, keypoints: KeypointSet, grouping: Grouping) -> tuple[Array, Array]:
    good = np.isfinite(heat) & np.isfinite(tags).all(-1)
    heat = np.where(good, heat, 0).astype(np.float32)
    tags = np.where(good[..., None], tags, 0).astype(np.float32)
    people: list[Person] = []
    for joint in keypoints.grouping_order:
        group_joint(people, joint, plain_candidates(heat[joint], grouping), heat, tags, grouping)
    joint_pk3 = np.zeros((len(people), len(heat), 3), np.float32)
    for person, row in zip(people, joint_pk3, strict=True):
        for joint, (y, x) in person.joints.items():
            row[joint] = plain_place(heat[joint], y, x, grouping.locate == "quarter")
    scores = np.array([row[:, 2].mean() for row in joint_pk3], np.float32)
    kept = sorted(sorted(range(len(people)), key=lambda p: -scores[p])[: grouping.max_people])
    if grouping.refine:
        for p in kept:
            plain_refine(joint_pk3[p], people[p], heat, tags)
    return joint_pk3[kept], scores[kept]


def plain_candidates(heat: Array, grouping: Grouping) -> list[tuple[int, int]]:
    height, width = heat.shape
    reach = grouping.nms_kernel // 2
    found = []
    for y, x in itertools.product(range(height), range(width)):
        window = heat[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        if heat[y, x] == window.max() and heat[y, x] > grouping.detection_threshold:
            found.append((y, x))
    return sorted(found, key=lambda cell: -heat[cell])[: grouping.max_people]


def group_joint(
    people: list[Person], joint: int, cells: list[tuple[int, int]], heat: Array, tags: Array, grouping: Grouping
) -> None:
    if not cells:
        return
    open_people = people[: grouping.max_people]
    side = max(len(cells), len(open_people))
    distance = np.full((len(cells), side), np.inf)
    cost = np.full((len(cells), side if len(cells) > len(open_people) else len(open_people)), 1e10)
    for i, cell in enumerate(cells):
        for j, person in enumerate(open_people):
            mean = np.mean(person.tags, axis=0)
            distance[i, j] = np.sqrt(((tags[joint][cell].astype(np.float64) - mean) ** 2).sum())
            cost[i, j] = np.round(distance[i, j]) * 100 - float(heat[joint][cell])
    for i, j in zip(*linear_sum_assignment(cost), strict=True):
        if j < len(open_people) and distance[i, j] < grouping.tag_threshold:
            person = open_people[j]
        else:
            person = Person()
            people.append(person)
        person.joints[joint] = cells[i]
        person.tags.append(tags[joint][cells[i]].astype(np.float64))


def plain_place(heat: Array, y: int, x: int, quarter: bool) -> tuple[float, float, float]:
    height, width = heat.shape
    px, py = x + 0.5, y + 0.5
    if quarter:
        right, left = heat[y, min(x + 1, width - 1)], heat[y, max(x - 1, 0)]
        below, above = heat[min(y + 1, height - 1), x], heat[max(y - 1, 0), x]
        px += 0.25 if right > left else -0.25 if right < left else 0
        py += 0.25 if below > above else -0.25 if below < above else 0
    return px, py, heat[y, x]


def plain_refine(row: Array, person: Person, heat: Array, tags: Array) -> None:
    mean = np.mean([tags[joint][cell].astype(np.float64) for joint, cell in sorted(person.joints.items())], axis=0)
    for joint in range(len(heat)):
        if joint in person.joints:
            continue
        distance = ((tags[joint] - mean.astype(np.float32)) ** 2).sum(-1) ** 0.5
        y, x = np.unravel_index(np.argmax(heat[joint] - np.round(distance)), distance.shape)
        if heat[joint][y, x] > 0:
            row[joint] = plain_place(heat[joint], int(y), int(x), True)
