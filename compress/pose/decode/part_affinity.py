"""From part heatmaps and part affinity fields to people: the bottom-up decoding of OpenPose.

Sources: Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields" (2017, arXiv:1611.08050);
Osokin, "Lightweight OpenPose" (2018, arXiv:1811.12004) and its code (modules/keypoints.py, val.py), whose rules these
are.

merge_outputs → heatmaps and fields of one picture, flipped pass included
decode        → people, in cells of the map

The maps are upsampled, in the code by the network's stride: then pixel j of the result is pixel j of the network's
input, both with their centres at whole numbers as in training. A part found at pixel j is at j / upsample cells. Within
a cell of the border it may be some pixels off: there the upsampling has no cells on the other side to go by.

Beyond the code, a part's place is refined within its pixel (`locate`). So maps need not be upsampled so far, which is
most of the work: reports/decoding_accuracy compares accuracy and time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from compress.data.limbs import PartLayout
from compress.errors import DataError
from compress.pose.codec import Locate
from compress.pose.decode.location import located
from compress.pose.decode.poses import Poses

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.intp]
Limb = tuple[int, int, float]  # peak at either end, score

_LARGEST = 1e30  # what is larger, or no number, counts as 0: sums of what remains are finite
_OVERSHOOT = 1.9  # no bicubic pixel is more than 1.375² times the largest cell
_PIXELS_AT_ONCE = 400_000  # of upsampled heatmaps: 1.6 MB, which a cache holds
_CHANNELS_AT_ONCE = 128  # OpenCV takes no more
_POINTS_AT_ONCE = 1 << 15  # of limbs, some 2 MB of work arrays; OpenCV takes no longer rows of points
_PLACE = "part affinity"


@dataclass(frozen=True)
class PartGrouping:
    """How maps become people (defaults: Lightweight OpenPose's code, but for the first two).

    upsample: of the maps; the code's way is the network's stride, 8. locate: where in its upsampled pixel a part lies,
    see `compress.pose.decode.location`; the code's way is `middle`. heat_threshold: the least heat of a part, above 0.
    suppression: parts of a kind are at least so far apart, in cells (6 pixels of the code's 8 to a cell). points:
    places on a limb where its field is read. point_threshold: the field along the limb is above it, not negative, where
    a point succeeds. success_ratio: a limb needs more than this part of its points, 0..1. min_parts: of a person, at
    least 2. min_score: a person's least score per part. most: peaks of a part that are looked at, the hottest; more
    than people fit into a picture, so that maps of noise (hundreds of peaks a part) do not take seconds.
    """

    upsample: int = 2
    locate: Locate = "peak"
    heat_threshold: float = 0.1
    suppression: float = 0.75
    points: int = 10
    point_threshold: float = 0.05
    success_ratio: float = 0.8
    min_parts: int = 3
    min_score: float = 0.2
    most: int = 100

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("upsample", self.upsample >= 1, "must be at least 1"),
            ("heat_threshold", self.heat_threshold > 0, "must be positive"),
            ("suppression", self.suppression >= 0, "must not be negative"),
            ("points", self.points >= 2, "must be at least 2"),
            ("point_threshold", self.point_threshold >= 0, "must not be negative"),
            ("success_ratio", 0 <= self.success_ratio < 1, "must be at least 0 and below 1"),
            ("min_parts", self.min_parts >= 2, "must be at least 2"),
            ("most", self.most >= 1, "must be at least 1"),
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
    cell that is no number or beyond 1e30 counts as 0. Beside `locate`, two rules differ from the code: of equal
    neighbours the upper and left one is the peak (the code drops both, and a part just between two pixels with them);
    and beyond the border the map goes on as its border cells do (in the code nothing is there, and the dent that
    bicubic weights make beside a part that is a cell or two from the border leaves a second peak on it).
    DataError if the shapes do not fit each other or the layout.
    """
    heat_khw, field_lhw2 = _checked(heatmaps_khw, fields_lhw, layout)
    peaks_n3, part_n = _peaks(heat_khw, grouping)
    limbs = _limbs(field_lhw2, peaks_n3, part_n, layout, grouping)
    found_pk, score_p = _people(limbs, peaks_n3[:, 2].tolist(), layout)
    count_p = (found_pk >= 0).sum(axis=1)
    kept_p = (count_p >= grouping.min_parts) & (score_p / count_p >= grouping.min_score)
    score_p, count_p = score_p[kept_p], count_p[kept_p]
    found_pk = _completed(found_pk[kept_p], limbs, layout)[:, list(layout.joint_parts)]
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


def _peaks(heat_khw: Floats, grouping: PartGrouping) -> tuple[Doubles, Integers]:
    """x, y in upsampled pixels and heat, [N,3], and parts [N] of all peaks, by part, from left to right, then down."""
    part_k = np.flatnonzero(np.abs(heat_khw).max(axis=(1, 2)) * _OVERSHOOT >= grouping.heat_threshold)
    step = min(max(1, _PIXELS_AT_ONCE // (heat_khw[0].size * grouping.upsample**2)), _CHANNELS_AT_ONCE)
    blocks = [part_k[first : first + step] for first in range(0, len(part_k), step)]
    tops_n6 = np.concatenate([np.empty((0, 6)), *(_tops(heat_khw, block_k, grouping) for block_k in blocks)])
    tops_n6 = tops_n6[np.lexsort((tops_n6[:, 2], tops_n6[:, 1], tops_n6[:, 0]))]
    peaks_n6 = tops_n6[_apart(tops_n6[:, :3], grouping.suppression * grouping.upsample)]
    peaks_n6 = peaks_n6[_hottest(peaks_n6[:, 0], peaks_n6[:, 5], grouping.most)]
    return peaks_n6[:, 3:], peaks_n6[:, 0].astype(np.intp)


def _hottest(part_n: Doubles, heat_n: Doubles, most: int) -> NDArray[np.bool_]:
    """Which peaks, sorted by part, are among the hottest `most` of their part; of equal ones the first."""
    order_n = np.lexsort((-heat_n, part_n))
    rank_n = np.empty(len(part_n), np.intp)
    rank_n[order_n] = np.arange(len(part_n)) - np.searchsorted(part_n, part_n)
    return rank_n < most


def _tops(heat_khw: Floats, part_k: Integers, grouping: PartGrouping) -> Doubles:
    """Part, pixel (x, y), place (x, y) and heat, [N,6], of these parts' hot pixels that are tops in row and column.

    A top is above its left and upper and not below its right and lower neighbour; beyond the border an equal one
    counts as below. The upsampling is bicubic (OpenCV's: a = -0.75, the border repeated).
    """
    factor, parts = grouping.upsample, len(part_k)
    cells_hwk = np.ascontiguousarray(heat_khw[part_k].transpose(1, 2, 0))
    framed_hwk = cv2.copyMakeBorder(cells_hwk, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    height, width = framed_hwk.shape[0] * factor, framed_hwk.shape[1] * factor
    resized = np.asarray(cv2.resize(framed_hwk, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    fine_hwk = resized.reshape(height, width, parts)
    hot_hwk = fine_hwk >= grouping.heat_threshold
    for beyond in (slice(factor), slice(-factor, None)):
        hot_hwk[beyond] = hot_hwk[:, beyond] = False
    for border_nk in (fine_hwk[factor - 1], fine_hwk[:, factor - 1]):  # upper and left: an equal one is below
        np.nextafter(border_nk, np.float32(-np.inf), out=border_nk)
    fine, top = fine_hwk.ravel(), hot_hwk.ravel()
    for step in (parts, width * parts):
        rises = fine[step:] > fine[:-step]
        top[step:-step] &= rises[:-step] > rises[step:]
    y_n, x_n, k_n = np.unravel_index(np.flatnonzero(top), fine_hwk.shape)
    inside_khw = fine_hwk[factor:-factor, factor:-factor].transpose(2, 0, 1)
    x_n, y_n = x_n - factor, y_n - factor
    found_n3 = located(inside_khw, k_n, y_n, x_n, grouping.locate)
    found_n3[:, :2] -= 0.5  # the middle of pixel j is at j here
    return np.column_stack([part_k[k_n], x_n, y_n, found_n3])


def _apart(places_n3: Doubles, distance: float) -> NDArray[np.bool_]:
    """Which places (part, x, y, whole numbers, sorted) stay.

    Each that stays removes those after it that are of its part and nearer than the distance.
    """
    part_n, x_n, y_n = places_n3.T
    reach, own_n = math.ceil(distance), np.arange(len(x_n))
    along_n = x_n + part_n * (x_n.max(initial=0) + reach)  # parts side by side, out of each other's reach
    after_n = np.maximum(np.searchsorted(along_n, along_n + reach) - own_n - 1, 0)
    one_m = np.repeat(own_n, after_n)
    other_m = np.arange(len(one_m)) + np.repeat(own_n + 1 - np.cumsum(after_n) + after_n, after_n)
    near_m = np.square(x_n[one_m] - x_n[other_m]) + np.square(y_n[one_m] - y_n[other_m]) < distance**2
    stays_n = np.ones(len(x_n), np.bool_)
    for one, other in zip(one_m[near_m].tolist(), other_m[near_m].tolist(), strict=True):
        stays_n[other] &= not stays_n[one]
    return stays_n


# --- parts to limbs --------------------------------------------------------------------------------------------------


def _limbs(
    field_lhw2: Floats, peaks_n3: Doubles, part_n: Integers, layout: PartLayout, grouping: PartGrouping
) -> list[list[Limb]]:
    """The limbs of each kind, the best first, every peak in one of a kind at most."""
    xy_2n = np.ascontiguousarray(peaks_n3[:, :2].T)
    good = [np.empty((0, 4))]
    for kind_m, start_m, end_m in _pairs(part_n, layout, max(1, _POINTS_AT_ONCE // grouping.points)):
        score_m = _scores(field_lhw2, kind_m, xy_2n[:, start_m], xy_2n[:, end_m], grouping)
        good.append(np.stack([kind_m, start_m, end_m, score_m], axis=1)[score_m > 0])
    good_m4 = np.concatenate(good)
    good_m4 = good_m4[np.argsort(-good_m4[:, 3], kind="stable")]
    limbs: list[list[Limb]] = [[] for _ in layout.limbs]
    taken: set[tuple[int, int]] = set()
    for (kind, start, end), score in zip(good_m4[:, :3].astype(np.intp).tolist(), good_m4[:, 3].tolist(), strict=True):
        if (kind, start) not in taken and (kind, end) not in taken:
            taken |= {(kind, start), (kind, end)}
            limbs[kind].append((start, end, score))
    return limbs


def _pairs(part_n: Integers, layout: PartLayout, at_once: int) -> Iterator[tuple[Integers, Integers, Integers]]:
    """Limb kind, start and end, [M] each, of all pairs of peaks that may be limbs, sorted, so many at a time."""
    first_k = np.searchsorted(part_n, np.arange(len(layout.names) + 1))
    count_k = np.diff(first_k)
    start_l, end_l = np.array(layout.limbs).T
    pairs_l = count_k[start_l] * count_k[end_l]
    until_l = np.cumsum(pairs_l)
    for first in range(0, int(until_l[-1]), at_once):
        pair_m = np.arange(first, min(first + at_once, int(until_l[-1])))
        kind_m = np.searchsorted(until_l, pair_m, side="right")
        nth_start_m, nth_end_m = np.divmod(pair_m - (until_l - pairs_l)[kind_m], count_k[end_l][kind_m])
        yield kind_m, first_k[start_l][kind_m] + nth_start_m, first_k[end_l][kind_m] + nth_end_m


def _scores(
    field_lhw2: Floats, kind_m: Integers, start_2m: Doubles, end_2m: Doubles, grouping: PartGrouping
) -> Doubles:
    """Mean field along each limb of these kinds and ends (x, y) over the points that succeed; 0: it is no limb."""
    step_2m = end_2m - start_2m
    length_m = np.hypot(*step_2m)
    unit_2m = step_2m / np.where(length_m > 0, length_m, 1)
    share_s1 = np.arange(grouping.points)[:, None] / (grouping.points - 1)
    pixel_2sm = np.rint(start_2m[:, None] + step_2m[:, None] * share_s1)
    field_sm2 = _read(field_lhw2, kind_m, pixel_2sm, grouping.upsample)
    along_sm = field_sm2[:, :, 0] * unit_2m[0] + field_sm2[:, :, 1] * unit_2m[1]
    good_sm = along_sm > grouping.point_threshold
    count_m = good_sm.sum(axis=0)
    score_m = np.where(good_sm, along_sm, 0).sum(axis=0) / np.maximum(count_m, 1)
    return np.where(count_m / grouping.points > grouping.success_ratio, score_m, 0)


def _read(field_lhw2: Floats, kind_m: Integers, pixel_2sm: Doubles, factor: int) -> Floats:
    """The fields [S,M,2] of the limb kinds, which are sorted, at pixels (x, y) of their bicubic upsampling.

    It is not made: the cells around each place are read by the same kernel. Places are exact where the factor is a
    power of two, else within a float's rounding.
    """
    x_sm, y_sm = ((pixel_2sm + 0.5) / factor - 0.5).astype(np.float32)
    field_sm2 = np.empty((*x_sm.shape, 2), np.float32)
    bound_l = np.searchsorted(kind_m, np.arange(len(field_lhw2) + 1)).tolist()
    for field_hw2, first, end in zip(field_lhw2, bound_l, bound_l[1:], strict=False):
        if first < end:
            x_sn, y_sn = x_sm[:, first:end], y_sm[:, first:end]
            read = cv2.remap(field_hw2, x_sn, y_sn, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
            field_sm2[:, first:end] = read
    return field_sm2


# --- limbs to people -------------------------------------------------------------------------------------------------


def _people(limbs: list[list[Limb]], heats: list[float], layout: PartLayout) -> tuple[Integers, Doubles]:
    """Peak that is part k of person p, [P,K], -1 where missing; and the sum of each person's heats and limb scores.

    A limb joins the person of its start, or starts one. The limbs are a tree from its root on: an end is in no person.
    """
    found_pk: list[list[int]] = []
    score_p: list[float] = []
    owner: dict[int, int] = {}
    for limb in layout.tree:
        a, b = layout.limbs[limb]
        for start, end, score in limbs[limb]:
            if start not in owner:
                owner[start] = len(found_pk)
                found_pk.append([-1] * len(layout.names))
                found_pk[-1][a] = start
                score_p.append(heats[start])
            person = owner[end] = owner[start]
            found_pk[person][b] = end
            score_p[person] += heats[end] + score
    return np.array(found_pk, np.intp).reshape(-1, len(layout.names)), np.array(score_p, np.float64)


def _completed(found_pk: Integers, limbs: list[list[Limb]], layout: PartLayout) -> Integers:
    """People with a missing part filled in where a completing limb leads to it from a part they have.

    Another person may have that peak too.
    """
    people = found_pk.tolist()
    for limb in layout.completing:
        a, b = layout.limbs[limb]
        end_of = {start: end for start, end, _ in limbs[limb]}
        start_of = {end: start for start, end, _ in limbs[limb]}
        for person in people:
            if person[a] < 0:
                person[a] = start_of.get(person[b], -1)
            elif person[b] < 0:
                person[b] = end_of.get(person[a], -1)
    return np.array(people, np.intp).reshape(found_pk.shape)
