"""From part heatmaps and part affinity fields to people: the bottom-up decoding of OpenPose.

Sources: Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields" (2017, arXiv:1611.08050);
Osokin, "Lightweight OpenPose" (2018, arXiv:1811.12004) and its code (modules/keypoints.py, val.py), whose rules these
are.

merge_outputs → heatmaps and fields of one picture, flipped pass included
decode        → people, in cells of the map

The maps are upsampled by the network's stride: pixel j of the result is pixel j of the network's input, both with their
centres at whole numbers as in training. A part found there is at j / upsample cells. Within a cell of the border it may
be some pixels off: there the upsampling has no cells on the other side to go by.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from compress.decode.poses import Poses
from compress.errors import DataError
from compress.part_layout import PartLayout

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Complexes = NDArray[np.complex64]
Integers = NDArray[np.intp]
Limbs = tuple[Integers, Integers, Doubles]  # peak at either end, score

_LARGEST = 1e30  # what is larger, or no number, counts as 0: sums of what remains are finite
_POINTS_AT_ONCE = 65536  # some 5 MB of work arrays
_PLACE = "part affinity"


@dataclass(frozen=True)
class PartGrouping:
    """How maps become people (defaults: Lightweight OpenPose's code).

    upsample: the network's stride. heat_threshold: the least heat of a part, above 0. suppression_px: parts of a kind
    are at least so far apart, in upsampled pixels. points: places on a limb where its field is read. point_threshold:
    the field along the limb is above it, not negative, where a point succeeds. success_ratio: a limb needs more than
    this part of its points, 0..1. min_parts: of a person, at least 2. min_score: a person's least score per part.
    """

    upsample: int = 8
    heat_threshold: float = 0.1
    suppression_px: float = 6.0
    points: int = 10
    point_threshold: float = 0.05
    success_ratio: float = 0.8
    min_parts: int = 3
    min_score: float = 0.2

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("upsample", self.upsample >= 1, "must be at least 1"),
            ("heat_threshold", self.heat_threshold > 0, "must be positive"),
            ("suppression_px", self.suppression_px >= 0, "must not be negative"),
            ("points", self.points >= 2, "must be at least 2"),
            ("point_threshold", self.point_threshold >= 0, "must not be negative"),
            ("success_ratio", 0 <= self.success_ratio < 1, "must be at least 0 and below 1"),
            ("min_parts", self.min_parts >= 2, "must be at least 2"),
        ):
            if not good:
                raise DataError(f"{name} {rule}", place="part grouping", value=getattr(self, name), remedy="change it")


def merge_outputs(
    output: torch.Tensor, flipped_output: torch.Tensor | None, layout: PartLayout
) -> tuple[Floats, Floats]:
    """Heatmaps [K,h,w] and fields [2L,h,w] of one picture, from the output of the network's last stage.

    output: [K+1+2L,h,w]; a leading batch axis of 1 is allowed; the background is left out. flipped_output: the same for
    the mirrored picture, as it came; then both are means: the mirrored maps are turned back, left and right parts and
    limbs change places, and the fields' x changes sign. DataError if the outputs do not fit the layout.
    """
    maps = _one_picture(output, layout)
    heat_khw, field_l2hw = _split(maps, layout)
    if flipped_output is not None:
        back = _one_picture(flipped_output, layout).flip(-1)
        if back.shape != maps.shape:
            raise DataError(
                "both passes must have the same size",
                place=_PLACE,
                value=(tuple(maps.shape), tuple(back.shape)),
                remedy="mirror the same input",
            )
        back_khw, back_l2hw = _split(back, layout)
        turned_l2hw = back_l2hw[list(layout.limb_flip_index)] * torch.tensor([-1.0, 1.0])[:, None, None]
        heat_khw = (heat_khw + back_khw[list(layout.flip_index)]) / 2
        field_l2hw = (field_l2hw + turned_l2hw) / 2
    return heat_khw.numpy(), field_l2hw.flatten(0, 1).numpy()


def decode(heatmaps_khw: ArrayLike, fields_lhw: ArrayLike, layout: PartLayout, grouping: PartGrouping) -> Poses:
    """The people of one picture, in cells of the map; both arrays are read, never changed.

    heatmaps_khw: [K,h,w] of the layout's parts. fields_lhw: [2L,h,w]. The joints are the data set's (the neck is left
    out), a joint's score its heat. A person's score is the sum of the heats of its parts and of the scores of its
    limbs, times the number of its parts, less one for the neck; what a completing limb adds does not count. People come
    in the order in which their first limb was found, limb kind by limb kind.

    Of peaks too near to each other the left one stays, of equal columns the upper one, whatever their heat, as in the
    code. Of equally good limbs that with the first start, then the first end, counts. Peaks at one place are no limb. A
    cell that is no number or beyond 1e30 counts as 0. Two rules differ from the code: of equal neighbours the upper and
    left one is the peak (the code drops both, and a part just between two pixels with them); and beyond the border the
    map goes on as its border cells do (in the code nothing is there, and the dent that bicubic weights make beside a
    part that is a cell or two from the border leaves a second peak on it).
    DataError if the shapes do not fit each other or the layout.
    """
    heat_khw, field_lhw2 = _checked(heatmaps_khw, fields_lhw, layout)
    peaks_kn3 = [_peaks(heat_hw, grouping) for heat_hw in heat_khw]
    start_k = np.cumsum([0, *map(len, peaks_kn3)])
    limbs = []
    for (a, b), field_hw2 in zip(layout.limbs, field_lhw2, strict=True):
        start_m, end_m, score_m = _limbs(field_hw2, peaks_kn3[a], peaks_kn3[b], grouping)
        limbs.append((start_m + start_k[a], end_m + start_k[b], score_m))
    peaks_n3 = np.concatenate(peaks_kn3)
    part_n = np.repeat(np.arange(len(peaks_kn3)), np.diff(start_k))
    found_pk, score_p = _people(limbs, peaks_n3[:, 2], part_n, layout)
    count_p = (found_pk >= 0).sum(axis=1)
    kept_p = (count_p >= grouping.min_parts) & (score_p / count_p >= grouping.min_score)
    score_p, count_p = score_p[kept_p], count_p[kept_p]
    found_pk = _completed(found_pk[kept_p], limbs, len(peaks_n3), layout)[:, list(layout.joint_parts)]
    in_cells_n3 = peaks_n3 / (grouping.upsample, grouping.upsample, 1)
    joints_pk3 = np.where(found_pk[:, :, None] >= 0, in_cells_n3[found_pk], 0)
    made_up = len(layout.names) - len(layout.keypoints)
    return Poses(joints_pk3.astype(np.float32), (score_p * (count_p - made_up)).astype(np.float32))


# --- outputs to maps -------------------------------------------------------------------------------------------------


def _one_picture(output: torch.Tensor, layout: PartLayout) -> torch.Tensor:
    maps = output[0] if output.ndim == 4 and len(output) == 1 else output
    if maps.ndim != 3 or len(maps) != layout.channels:
        raise DataError(
            f"an output must be [{layout.channels}, height, width]: {len(layout.names)} heatmaps, background, "
            f"{2 * len(layout.limbs)} fields of one picture",
            place=_PLACE,
            value=tuple(output.shape),
            remedy=f"use the last stage of a network for {layout.keypoints.name}, the pictures of a batch one by one",
        )
    return maps.detach().to("cpu", torch.float32)


def _split(maps: torch.Tensor, layout: PartLayout) -> tuple[torch.Tensor, torch.Tensor]:
    """Heatmaps [K,h,w] and fields [L,2,h,w] of an output, without the background."""
    parts = len(layout.names)
    return maps[:parts], maps[parts + 1 :].reshape(len(layout.limbs), 2, *maps.shape[1:])


def _checked(heatmaps_khw: ArrayLike, fields_lhw: ArrayLike, layout: PartLayout) -> tuple[Floats, Floats]:
    """Heatmaps [K,h,w] and fields [L,h,w,2], with zeros for what is no number or too large."""
    heat_khw, fields = np.asarray(heatmaps_khw), np.asarray(fields_lhw)
    parts, limbs = len(layout.names), len(layout.limbs)
    if (
        heat_khw.ndim != 3
        or not heat_khw.size
        or heat_khw.shape[0] != parts
        or fields.shape != (2 * limbs, *heat_khw.shape[1:])
    ):
        raise DataError(
            f"heatmaps must be [{parts},h,w] and fields [{2 * limbs},h,w]",
            place=_PLACE,
            value=(heat_khw.shape, fields.shape),
            remedy="pass what merge_outputs returns",
        )
    field_lhw2 = np.stack([_sane(fields[0::2]), _sane(fields[1::2])], axis=-1)
    return _sane(heat_khw), field_lhw2


def _sane(maps: NDArray[Any]) -> Floats:
    return np.where(np.abs(maps) < _LARGEST, maps, 0).astype(np.float32, copy=False)


# --- maps to parts ---------------------------------------------------------------------------------------------------


def _upsampled(map_hw: Floats, factor: int) -> Floats:
    """Bicubic (OpenCV's: a = -0.75, the border repeated): [h·factor, w·factor], or [h,w,2] to [..., 2]."""
    height, width = map_hw.shape[:2]
    fine = cv2.resize(map_hw, (width * factor, height * factor), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine, np.float32)


def _peaks(heat_hw: Floats, grouping: PartGrouping) -> Doubles:
    """x, y in upsampled pixels and heat, [N,3], of one part's peaks, from left to right, then from top to bottom."""
    beyond = grouping.upsample - 1  # of the repeated border one pixel stays, as the border's neighbour
    padded_hw = np.asarray(cv2.copyMakeBorder(heat_hw, 1, 1, 1, 1, cv2.BORDER_REPLICATE), np.float32)
    framed_hw = _upsampled(padded_hw, grouping.upsample)
    framed_hw = framed_hw[beyond : len(framed_hw) - beyond, beyond : framed_hw.shape[1] - beyond]
    y_n, x_n = np.divmod(np.flatnonzero(_tops(framed_hw)), framed_hw.shape[1] - 2)
    heat_n = framed_hw[y_n + 1, x_n + 1]
    peaks_n3 = np.stack([x_n, y_n, heat_n], axis=1, dtype=np.float64)[heat_n >= grouping.heat_threshold]
    sorted_n3: Doubles = peaks_n3[np.lexsort((peaks_n3[:, 1], peaks_n3[:, 0]))]
    return np.compress(_apart(sorted_n3[:, :2], grouping.suppression_px), sorted_n3, axis=0)


def _tops(framed_hw: Floats) -> NDArray[np.bool_]:
    """Where a pixel within the frame is above its left and upper and not below its right and lower neighbour.

    A frame's pixel counts as below one inside that is equal.
    """
    rises_x = framed_hw[1:-1, 1:] > framed_hw[1:-1, :-1]
    rises_y = framed_hw[1:, 1:-1] > framed_hw[:-1, 1:-1]
    rises_x[:, 0] = framed_hw[1:-1, 1] >= framed_hw[1:-1, 0]
    rises_y[0] = framed_hw[1, 1:-1] >= framed_hw[0, 1:-1]
    return (rises_x[:, :-1] > rises_x[:, 1:]) & (rises_y[:-1] > rises_y[1:])


def _apart(xy_n2: Doubles, distance: float) -> NDArray[np.bool_]:
    """Which places stay when each that stays removes those after it that are nearer than the distance."""
    near_nn = np.triu(np.square(xy_n2[:, None] - xy_n2).sum(axis=2) < distance**2, 1)
    stays_n = np.ones(len(xy_n2), np.bool_)
    for n in np.flatnonzero(near_nn.any(axis=1)):
        if stays_n[n]:
            stays_n[near_nn[n]] = False
    return stays_n


# --- parts to limbs --------------------------------------------------------------------------------------------------


def _limbs(field_hw2: Floats, starts_n3: Doubles, ends_n3: Doubles, grouping: PartGrouping) -> Limbs:
    """The limbs of one kind, the best first, every peak in one at most: index of start and end, score."""
    if not len(starts_n3) or not len(ends_n3):
        return np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0)
    fine_hw = _upsampled(field_hw2, grouping.upsample).view(np.complex64)[:, :, 0]
    rows = max(1, _POINTS_AT_ONCE // (len(ends_n3) * grouping.points))
    blocks = [starts_n3[first : first + rows] for first in range(0, len(starts_n3), rows)]
    score_ab = np.concatenate([_limb_scores(fine_hw, block_n3, ends_n3, grouping) for block_n3 in blocks])
    start_m, end_m = _matched(score_ab)
    return start_m, end_m, score_ab[start_m, end_m]


def _matched(score_ab: Doubles) -> tuple[Integers, Integers]:
    """Starts and ends of the positive scores, from the largest down, leaving out what is taken already."""
    start_m, end_m = np.nonzero(score_ab > 0)
    order_m = np.argsort(-score_ab[start_m, end_m], kind="stable")
    chosen: dict[int, int] = {}
    taken: set[int] = set()
    for start, end in zip(start_m[order_m].tolist(), end_m[order_m].tolist(), strict=True):
        if start not in chosen and end not in taken:
            chosen[start] = end
            taken.add(end)
    return np.array(list(chosen.keys()), np.intp), np.array(list(chosen.values()), np.intp)


def _limb_scores(fine_hw: Complexes, starts_n3: Doubles, ends_n3: Doubles, grouping: PartGrouping) -> Doubles:
    """Mean field along the limb over the points that succeed, [A,B]; 0 where there is no limb."""
    start_n, end_n = starts_n3[:, 0] + 1j * starts_n3[:, 1], ends_n3[:, 0] + 1j * ends_n3[:, 1]
    step_ab = end_n - start_n[:, None]
    unit_ab = step_ab / np.maximum(np.abs(step_ab), 1)  # of whole pixels: below 1 only 0
    share_s = np.arange(grouping.points) / (grouping.points - 1)
    at_abs = start_n[:, None, None] + step_ab[:, :, None] * share_s
    x_abs, y_abs = np.rint(at_abs.real).astype(np.intp), np.rint(at_abs.imag).astype(np.intp)
    field_abs = fine_hw.ravel().take(y_abs * fine_hw.shape[1] + x_abs)
    along_abs = field_abs.real * unit_ab.real[:, :, None] + field_abs.imag * unit_ab.imag[:, :, None]
    good_abs = along_abs > grouping.point_threshold
    count_ab = good_abs.sum(axis=2)
    score_ab = np.where(good_abs, along_abs, 0).sum(axis=2) / np.maximum(count_ab, 1)
    return np.where(count_ab / grouping.points > grouping.success_ratio, score_ab, 0)


# --- limbs to people -------------------------------------------------------------------------------------------------


def _people(limbs: list[Limbs], heat_n: Doubles, part_n: Integers, layout: PartLayout) -> tuple[Integers, Doubles]:
    """Peak that is part k of person p, [P,K], -1 where missing; and the sum of each person's heats and limb scores.

    A limb joins the person of its start, or starts one. The limbs are a tree from its root on: an end is in no person.
    """
    owner_n = np.full(len(heat_n), -1)
    gained_n = heat_n.copy()
    people = 0
    for start_m, end_m, score_m in (limbs[limb] for limb in layout.tree):
        new_m = start_m[owner_n[start_m] < 0]
        owner_n[new_m] = np.arange(people, people + len(new_m))
        people += len(new_m)
        owner_n[end_m] = owner_n[start_m]
        gained_n[end_m] += score_m
    member_n = np.flatnonzero(owner_n >= 0)
    found_pk = np.full((people, len(layout.names)), -1)
    found_pk[owner_n[member_n], part_n[member_n]] = member_n
    return found_pk, np.asarray(np.bincount(owner_n[member_n], gained_n[member_n], people), np.float64)


def _completed(found_pk: Integers, limbs: list[Limbs], peaks: int, layout: PartLayout) -> Integers:
    """People with a missing part filled in where a completing limb leads to it from a part they have.

    Another person may have that peak too.
    """
    found_pk = found_pk.copy()
    for limb in layout.completing:
        (a, b), (start_m, end_m, _) = layout.limbs[limb], limbs[limb]
        across_n = np.full(peaks + 1, -1)  # the last: from a missing part nowhere
        across_n[start_m], across_n[end_m] = end_m, start_m
        start_p, end_p = found_pk[:, a].copy(), found_pk[:, b].copy()
        found_pk[:, a] = np.where(start_p < 0, across_n[end_p], start_p)
        found_pk[:, b] = np.where(end_p < 0, across_n[start_p], end_p)
    return found_pk
