"""From heatmaps and tags to people: the bottom-up decoding of HigherHRNet.

Sources: Newell, Huang, Deng, "Associative Embedding" (2017, arXiv:1611.05424); Cheng et al., "HigherHRNet" (2020,
arXiv:1908.10357) and its code (lib/core/group.py, lib/core/inference.py).

merge_outputs → heatmaps and tags of one picture, flipped pass included
decode        → people, in cells of the map

Coordinates are continuous: cell i of a map with stride s covers [i, i+1) in cells and [i·s, (i+1)·s) in pixels of the
network's input. Training targets sit at cell int(x / s), so the middle of the cell, (i + 0.5)·s, is the unbiased guess.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from compress.data.keypoints import KeypointSet
from compress.errors import DataError
from compress.pose.codec import Locate
from compress.pose.decode.location import located
from compress.pose.decode.poses import Poses

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.intp]

_PAD = 1e10  # the cost of starting a new person, in the code of HigherHRNet
_REFINE_CELLS = 65536  # cells × people that refine looks at together; 256 KiB of float32 stays in the cache
_LITTLE = 4 * _REFINE_CELLS  # cells × missing joints, below which refine does not go joint by joint
_GROUPS = 256  # of a joint's cells; refine looks first at the cells above the _HOTTEST-th of their largest heats
_HOTTEST = 64
_MANY_PEOPLE = 10  # that lack the joint; for fewer, all cells are as fast


@dataclass(frozen=True)
class Grouping:
    """How detections become people (defaults: HigherHRNet's configuration for COCO).

    max_people: candidates kept per joint, people that can still gain joints, and people returned.
    detection_threshold: a candidate scores above it; not negative. tag_threshold: a joint is nearer than this to the
    mean tag of its person. nms_kernel: odd side, in cells, of the window in which a candidate is the largest.
    locate: where in its cell a found joint lies, see `location.located`; `quarter` is HigherHRNet's adjust. refine:
    fill in missing joints.
    """

    max_people: int = 30
    detection_threshold: float = 0.1
    tag_threshold: float = 1.0
    nms_kernel: int = 5
    locate: Locate = "quarter"
    refine: bool = True

    def __post_init__(self) -> None:
        for name, good, rule in (
            ("max_people", self.max_people >= 1, "must be at least 1"),
            ("detection_threshold", self.detection_threshold >= 0, "must not be negative"),
            ("tag_threshold", self.tag_threshold > 0, "must be positive"),
            ("nms_kernel", self.nms_kernel >= 1 and self.nms_kernel % 2 == 1, "must be a positive odd number"),
        ):
            if not good:
                raise DataError(f"{name} {rule}", place="grouping", value=getattr(self, name), remedy="change it")


def merge_outputs(
    outputs: Sequence[torch.Tensor],
    flipped_outputs: Sequence[torch.Tensor] | None,
    keypoints: KeypointSet,
    out_hw: tuple[int, int] | None = None,
) -> tuple[Floats, Floats]:
    """Heatmaps [K,H,W] and tags [K,H,W,T] of one picture from the network's outputs for it.

    outputs: [2K,h,w] (K heatmaps, then K tags), then optionally finer ones [K,2h,2w] of heatmaps; a leading batch axis
    of 1 is allowed. flipped_outputs: the same network's outputs for the mirrored picture, as they came; T is then 2,
    else 1. Heatmaps are the mean over scales and both passes, after bilinear resizing to the finest output; then all
    is resized to out_hw (None: the size of the finest output). DataError if the outputs do not fit the joints.

    Of two passes the tags are divided by √2, so that the distance of two tags is the root of its mean square over the
    passes and a threshold means the same in one pass and in two. HigherHRNet's code adds the squares up: joints that
    are 0.8 off in each pass are then 1.13 apart, and a person that one pass finds whole falls to pieces.
    """
    heatmaps, tags = _merge_scales(outputs, keypoints)
    passes = [tags]
    if flipped_outputs is not None:
        index = list(keypoints.flip_index)
        mirrored_heatmaps, mirrored_tags = _merge_scales(flipped_outputs, keypoints)
        heatmaps = (heatmaps + mirrored_heatmaps.flip(-1)[index]) / 2
        passes.append(mirrored_tags.flip(-1)[index])
    size = out_hw or (int(heatmaps.shape[1]), int(heatmaps.shape[2]))
    tags_tkhw = torch.stack([_resize(part, size) for part in passes]) / len(passes) ** 0.5
    return _resize(heatmaps, size).numpy(), tags_tkhw.numpy().transpose(1, 2, 3, 0)


def decode(heatmaps_khw: ArrayLike, tags_khwt: ArrayLike, keypoints: KeypointSet, grouping: Grouping) -> Poses:
    """The people of one picture, in cells of the map; both arrays are read, never changed.

    heatmaps_khw: [K,H,W]. tags_khwt: [K,H,W,T]. A cell whose heat or tag is not finite holds no detection: its heat
    counts as 0. Equal candidates are kept in the order of their flat index.

    Two rules the reference code leaves open or that differ from it: between equal neighbours adjust and refine do not
    move (the code moves -0.25, a bias), and two people may have the same tag (the code would merge them).
    Of more than max_people people those with the best scores are returned (COCO reads 20 per picture).
    DataError if the shapes do not fit each other or the joints.
    """
    heat_khw, tags_tkhw = _checked(heatmaps_khw, tags_khwt, keypoints)
    candidates = _candidates(heat_khw, tags_tkhw, grouping)
    found_pk = _group(candidates, keypoints, grouping)
    joint_pk3 = np.zeros((len(found_pk), len(keypoints), 3), np.float32)
    person_n, joint_n = np.nonzero(found_pk >= 0)
    chosen_n = found_pk[person_n, joint_n]
    y_n, x_n = candidates.y_n[chosen_n], candidates.x_n[chosen_n]
    joint_pk3[person_n, joint_n] = located(heat_khw, joint_n, y_n, x_n, grouping.locate)
    scores_p = joint_pk3[:, :, 2].mean(axis=1)
    if len(scores_p) > grouping.max_people:
        best_p = np.sort(np.argsort(-scores_p, kind="stable")[: grouping.max_people])
        found_pk, joint_pk3, scores_p = found_pk[best_p], joint_pk3[best_p], scores_p[best_p]
    if grouping.refine and len(scores_p):
        _refine(joint_pk3, found_pk, candidates, heat_khw, tags_tkhw, grouping.locate)
    return Poses(joint_pk3, scores_p)


# --- outputs to maps -------------------------------------------------------------------------------------------------


def _merge_scales(outputs: Sequence[torch.Tensor], keypoints: KeypointSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean heatmaps [K,H,W] at the finest size, and tags [K,h,w] of the first output."""
    joints = len(keypoints)
    parts = [_one_picture(torch.as_tensor(output)) for output in outputs]
    if not parts or [len(part) for part in parts] != [2 * joints] + [joints] * (len(parts) - 1):
        raise DataError(
            f"the first output must hold {joints} heatmaps and {joints} tags, the finer ones {joints} heatmaps",
            place="associative embedding",
            value=[tuple(part.shape) for part in parts],
            remedy=f"use a network with an associative-embedding head for {keypoints.name}",
        )
    finest = (int(parts[-1].shape[1]), int(parts[-1].shape[2]))
    heatmaps = _resize(parts[0][:joints], finest)
    for part in parts[1:]:
        heatmaps = heatmaps + _resize(part, finest)
    return heatmaps / len(parts), parts[0][joints:]


def _one_picture(output: torch.Tensor) -> torch.Tensor:
    if output.ndim == 4 and len(output) == 1:
        output = output[0]
    if output.ndim != 3:
        raise DataError(
            "an output must be [channels, height, width] of one picture",
            place="associative embedding",
            value=tuple(output.shape),
            remedy="decode the pictures of a batch one by one",
        )
    return output.detach().to("cpu", torch.float32)


def _resize(maps: torch.Tensor, size_hw: tuple[int, int]) -> torch.Tensor:
    if tuple(maps.shape[1:]) == size_hw:
        return maps
    return F.interpolate(maps[None], size=size_hw, mode="bilinear", align_corners=False)[0]


# --- maps to candidates ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidates:
    """Local maxima, sorted by joint, then by falling heat. Those of joint k are start_k[k]:start_k[k + 1]."""

    start_k: Integers
    y_n: Integers
    x_n: Integers
    heat_n: Doubles
    tags_nt: Doubles


def _checked(heatmaps_khw: ArrayLike, tags_khwt: ArrayLike, keypoints: KeypointSet) -> tuple[Floats, Floats]:
    """Heatmaps [K,H,W] and tags [T,K,H,W], contiguous float32, with zeros for what is not finite."""
    with np.errstate(over="ignore"):  # a double too large for float32 becomes inf, which is handled below
        heat_khw = np.ascontiguousarray(heatmaps_khw, np.float32)
        tags = np.asarray(tags_khwt, np.float32)
    if heat_khw.ndim != 3 or tags.ndim != 4 or tags.shape[:3] != heat_khw.shape or len(heat_khw) != len(keypoints):
        raise DataError(
            f"heatmaps must be [{len(keypoints)},H,W] and tags [{len(keypoints)},H,W,T]",
            place="associative embedding",
            value=(heat_khw.shape, tags.shape),
            remedy="pass what merge_outputs returns",
        )
    tags_tkhw = np.ascontiguousarray(tags.transpose(3, 0, 1, 2))
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(heat_khw.sum()) and np.isfinite(tags_tkhw.sum())
    if not finite:  # rare, or a sum that overflowed
        good_khw = np.isfinite(heat_khw) & np.isfinite(tags_tkhw).all(axis=0)
        heat_khw = np.where(good_khw, heat_khw, np.float32(0))
        tags_tkhw = np.where(good_khw, tags_tkhw, np.float32(0))
    return heat_khw, tags_tkhw


def _candidates(heat_khw: Floats, tags_tkhw: Floats, grouping: Grouping) -> _Candidates:
    joints, height, width = heat_khw.shape
    peak_khw = (heat_khw == _window_maximum(heat_khw, grouping.nms_kernel)) & (heat_khw > grouping.detection_threshold)
    flat_n = np.flatnonzero(peak_khw)
    heat_n = heat_khw.ravel()[flat_n]
    joint_n = flat_n // (height * width)
    order_n = np.lexsort((-heat_n, joint_n))  # stable: equal heat stays in flat order
    first_k = np.searchsorted(joint_n, np.arange(joints + 1))
    rank_n = np.arange(len(flat_n)) - first_k[joint_n]
    kept_n = order_n[rank_n < grouping.max_people]
    flat_n, joint_n = flat_n[kept_n], joint_n[kept_n]
    cell_n = flat_n - joint_n * (height * width)
    return _Candidates(
        start_k=np.searchsorted(joint_n, np.arange(joints + 1)),
        y_n=cell_n // width,
        x_n=cell_n % width,
        heat_n=heat_n[kept_n].astype(np.float64),
        tags_nt=tags_tkhw.reshape(len(tags_tkhw), -1)[:, flat_n].T.astype(np.float64),
    )


def _window_maximum(maps_khw: Floats, kernel: int) -> Floats:
    """The largest value in the kernel × kernel window around each cell, one axis after the other."""
    along_y = maps_khw.copy()
    for step in range(1, kernel // 2 + 1):
        np.maximum(along_y[:, step:], maps_khw[:, :-step], out=along_y[:, step:])
        np.maximum(along_y[:, :-step], maps_khw[:, step:], out=along_y[:, :-step])
    largest = along_y.copy()
    for step in range(1, kernel // 2 + 1):
        np.maximum(largest[:, :, step:], along_y[:, :, :-step], out=largest[:, :, step:])
        np.maximum(largest[:, :, :-step], along_y[:, :, step:], out=largest[:, :, :-step])
    return largest


# --- candidates to people --------------------------------------------------------------------------------------------


def _group(candidates: _Candidates, keypoints: KeypointSet, grouping: Grouping) -> Integers:
    """Index of the candidate that is joint k of person p, [P,K]; -1 where missing."""
    total, dimensions = candidates.tags_nt.shape
    found_pk = np.full((total, len(keypoints)), -1, np.intp)
    sum_pt = np.zeros((total, dimensions))
    count_p = np.zeros((total, 1))
    people = 0
    for joint in keypoints.grouping_order:
        start, stop = candidates.start_k[joint], candidates.start_k[joint + 1]
        if start == stop:
            continue
        tags_ct = candidates.tags_nt[start:stop]
        known = min(people, grouping.max_people)
        if known:
            mean_pt = sum_pt[:known] / count_p[:known]
            distance_cp = np.sqrt(np.square(tags_ct[:, None] - mean_pt).sum(axis=2))
            row_n, column_n = _match(np.rint(distance_cp) * 100 - candidates.heat_n[start:stop, None])
            joins_n = column_n < known
            joins_n[joins_n] = distance_cp[row_n[joins_n], column_n[joins_n]] < grouping.tag_threshold
            joined_n = column_n[joins_n]
            member_n = row_n[joins_n]
            found_pk[joined_n, joint] = member_n + start
            sum_pt[joined_n] += tags_ct[member_n]
            count_p[joined_n] += 1
            new_n = row_n[~joins_n]
        else:
            new_n = np.arange(stop - start)
        born = slice(people, people + len(new_n))
        found_pk[born, joint] = new_n + start
        sum_pt[born] = tags_ct[new_n]
        count_p[born] = 1
        people += len(new_n)
    return found_pk[:people]


def _match(cost_cp: Doubles) -> tuple[Integers, Integers]:
    """Row and column of the cheapest assignment; more candidates than people: columns ≥ P stand for new people."""
    surplus = cost_cp.shape[0] - cost_cp.shape[1]
    if surplus > 0:
        padded = np.full((len(cost_cp), len(cost_cp)), _PAD)
        padded[:, :-surplus] = cost_cp
        cost_cp = padded
    return cast("tuple[Integers, Integers]", linear_sum_assignment(cost_cp))


# --- joints that were missed -----------------------------------------------------------------------------------------


def _refine(
    joint_pk3: Floats,
    found_pk: Integers,
    candidates: _Candidates,
    heat_khw: Floats,
    tags_tkhw: Floats,
    locate: Locate,
) -> None:
    """Fills each missing joint with the cell where heat - round(distance of its tag to the person's mean) is largest.

    Taken only if the heat there is positive; of equal cells the first counts. Writes into joint_pk3.
    """
    mean_pt = _mean_tags(found_pk, candidates)
    joints, _, width = heat_khw.shape
    heat_kc, tags_tkc = heat_khw.reshape(joints, -1), tags_tkhw.reshape(len(tags_tkhw), joints, -1)
    joint_n, person_n = np.nonzero(found_pk.T < 0)
    if not len(joint_n):
        return
    cells = heat_kc.shape[1]
    if len(joint_n) * cells <= _LITTLE:
        rows = max(1, _REFINE_CELLS // cells)
        chunks = [slice(begin, begin + rows) for begin in range(0, len(joint_n), rows)]
        found = [
            _scored(heat_kc[joint_n[one]], tags_tkc[:, joint_n[one]], mean_pt[person_n[one]]).argmax(axis=1)
            for one in chunks
        ]
    else:
        next_n = np.flatnonzero(np.diff(joint_n)) + 1
        found = [
            _best_cells(heat_kc[joint_m[0]], tags_tkc[:, joint_m[0]], mean_pt[person_m])
            for joint_m, person_m in zip(np.split(joint_n, next_n), np.split(person_n, next_n), strict=True)
        ]
    cell_n = np.concatenate(found)
    located_n3 = located(
        heat_khw, joint_n, cell_n // width, cell_n % width, "quarter" if locate == "middle" else locate
    )
    taken_n = located_n3[:, 2] > 0
    joint_pk3[person_n[taken_n], joint_n[taken_n]] = located_n3[taken_n]


def _mean_tags(found_pk: Integers, candidates: _Candidates) -> Floats:
    """Mean tag [P,T] of the joints a person was grouped from."""
    found_pk1 = (found_pk >= 0)[:, :, None]
    sum_pt = (candidates.tags_nt[found_pk] * found_pk1).sum(axis=1)
    mean_pt: Floats = (sum_pt / found_pk1.sum(axis=1)).astype(np.float32)
    return mean_pt


def _best_cells(heat_c: Floats, tags_tc: Floats, mean_mt: Floats) -> Integers:
    """First index of the largest heat - round(‖tag - mean‖) over all cells, for each of M people.

    No value is above its cell's heat: where the best of the hottest cells is above the heat of every other cell, no
    other can win. For the other people all cells are looked at.
    """
    best_m, open_m = np.empty(len(mean_mt), np.intp), np.arange(len(mean_mt))
    if len(mean_mt) >= _MANY_PEOPLE and len(heat_c) > 2 * _GROUPS:
        whole = len(heat_c) // _GROUPS * _GROUPS
        bound = np.sort(heat_c[:whole].reshape(-1, _GROUPS).max(axis=0))[-_HOTTEST]
        hot_h = np.flatnonzero(heat_c > bound)  # in the order of their index: of equal ones the first stays the first
        if 0 < len(hot_h) < len(heat_c) // 4:
            first_m, value_m = _first_best(heat_c[hot_h], tags_tc[:, hot_h], mean_mt)
            sure_m = value_m > bound
            best_m[sure_m] = hot_h[first_m[sure_m]]
            open_m = np.flatnonzero(~sure_m)
    if len(open_m):
        best_m[open_m] = _first_best(heat_c, tags_tc, mean_mt[open_m])[0]
    return best_m


def _first_best(heat_c: Floats, tags_tc: Floats, mean_mt: Floats) -> tuple[Integers, Floats]:
    """First index of the largest value over these cells, and the value, [M] each."""
    best_m, value_m = np.empty(len(mean_mt), np.intp), np.empty(len(mean_mt), np.float32)
    rows = max(1, _REFINE_CELLS // len(heat_c))
    for begin in range(0, len(mean_mt), rows):
        value_rc = _scored(heat_c, tags_tc, mean_mt[begin : begin + rows])
        best_r = value_rc.argmax(axis=1)
        best_m[begin : begin + rows] = best_r
        value_m[begin : begin + rows] = value_rc[np.arange(len(best_r)), best_r]
    return best_m, value_m


def _scored(heat_c: Floats, tags_tc: Floats, mean_mt: Floats) -> Floats:
    """heat - round(‖tag - mean‖), [M,C]; one array, worked on in place. heat_c and tags_tc: of all rows alike, or
    [M,C] and [T,M,C]."""
    with np.errstate(over="ignore"):
        distance_mc: Floats = tags_tc[0] - mean_mt[:, 0, None]
        if len(tags_tc) == 1:
            np.abs(distance_mc, out=distance_mc)
        else:
            np.square(distance_mc, out=distance_mc)
            for tag_c, mean_m in zip(tags_tc[1:], mean_mt.T[1:], strict=True):
                step_mc = tag_c - mean_m[:, None]
                np.square(step_mc, out=step_mc)
                distance_mc += step_mc
            np.sqrt(distance_mc, out=distance_mc)
        np.rint(distance_mc, out=distance_mc)
    np.subtract(heat_c, distance_mc, out=distance_mc)
    return distance_mc
