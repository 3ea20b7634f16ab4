"""Keypoint average precision of COCO and CrowdPose, both by pycocotools' COCOeval.

COCO: https://cocodataset.org/#keypoints-eval. CrowdPose: Li et al., "CrowdPose" (CVPR 2019, arXiv:1812.00324), as its
own crowdposetools compute it.
"""

import contextlib
import copy
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from compress.data.keypoints import CROWDPOSE, KeypointSet
from compress.errors import DataError
from compress.pose.bootstrap import resampled, standard_error

Entry = dict[str, Any]

# Place of each figure in COCOeval.stats for keypoints (summarize, _summarizeKps); 8 and 9 are AR by area.
_FIGURES = {"AP": 0, "AP50": 1, "AP75": 2, "APM": 3, "APL": 4, "AR": 5, "AR50": 6, "AR75": 7}
_NO_TRUTH = -1  # what COCOeval writes where a figure has no ground truth

# Least and first too large crowdIndex: what crowdposetools' summarize asks for. The paper's text says 0.1 and 0.8.
_CROWDING = {"AP_easy": (0.0, 0.2), "AP_medium": (0.2, 0.8), "AP_hard": (0.8, math.inf)}


@dataclass(frozen=True)
class AveragePrecision:
    """figures: by name, each 0..1, NaN without ground truth. samples: AP on bootstrap samples of the pictures, see
    compress.pose.bootstrap; NaN where one holds nobody. standard_error: of AP, their spread; NaN without samples."""

    figures: dict[str, float]
    samples: tuple[float, ...]

    @property
    def standard_error(self) -> float:
        """See compress.pose.bootstrap.standard_error."""
        return standard_error(self.samples)


def oks_ap(coco: Entry, results: list[Entry], keypoints: KeypointSet, resamples: int = 0) -> AveragePrecision:
    """AP, AP50, AP75, APM, APL, AR, AR50, AR75 in 0..1 over all pictures of `coco`, with or without detections.

    coco: ground truth as a COCO keypoint file holds it (images, annotations, categories); scored is its category
    "person", or its only one. results: entries of a COCO detection file (see decode's coco_results); none scores 0.
    M is areas of 32² to 96² pixels, L larger ones; at most 20 detections of a picture count.
    A figure whose area range has no ground truth is NaN, as are all of a ground truth without people.
    resamples: bootstrap samples of the pictures.
    Neither argument is changed and nothing is printed.
    DataError for ground truth or results that do not fit each other or the joints.
    """
    evaluation = _evaluated(coco, results, keypoints)
    figures = _figures(evaluation)
    return AveragePrecision(figures, _samples(evaluation, resamples))


def crowd_pose_ap(coco: Entry, results: list[Entry], resamples: int = 0) -> AveragePrecision:
    """AP, AP50, AP75, AR, AR50, AR75, AP_easy, AP_medium, AP_hard of CrowdPose, in 0..1; otherwise as `oks_ap`.

    A person's area is 0.53 of its box, whatever is annotated. Easy are the pictures whose `crowdIndex` is below 0.2,
    medium those below 0.8, hard the rest; a figure of a kind without people is NaN.
    DataError also for a picture without crowdIndex.
    """
    crowding = {image["id"]: _crowd_index(image) for image in coco["images"]}
    evaluation = _evaluated(coco, results, CROWDPOSE)
    figures = {name: value for name, value in _figures(evaluation).items() if name not in ("APM", "APL")}
    matches = list(zip(evaluation.params.imgIds, _matches(evaluation), strict=True))
    for name, (least, end) in _CROWDING.items():
        figures[name] = _ap(evaluation, [match for image, match in matches if least <= crowding[image] < end])
    return AveragePrecision(figures, _samples(evaluation, resamples))


def _evaluated(coco: Entry, results: list[Entry], keypoints: KeypointSet) -> COCOeval:
    """Every picture's detections matched with its people, and summarised."""
    category = _category(coco)
    images = {image["id"] for image in coco["images"]}
    truth = _indexed(coco, [_person(entry, category, keypoints) for entry in coco["annotations"]])
    found = _indexed(coco, [_detection(entry, category, images, keypoints) for entry in results])
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, found, "keypoints")
        evaluation.params.catIds = [category]
        evaluation.params.kpt_oks_sigmas = np.asarray(keypoints.sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _figures(evaluation: COCOeval) -> dict[str, float]:
    figures = {name: float(evaluation.stats[place]) for name, place in _FIGURES.items()}
    return {name: math.nan if value == _NO_TRUTH else value for name, value in figures.items()}


def _matches(evaluation: COCOeval) -> list[Entry | None]:
    """What became of each picture's detections and people of all areas, in the order of params.imgIds."""
    return list(evaluation.evalImgs[: len(evaluation.params.imgIds)])


def _ap(evaluation: COCOeval, matches: list[Entry | None]) -> float:
    """AP over these pictures' matches; NaN if they hold nobody. A picture may come more than once."""
    part = copy.copy(evaluation)
    part.params = part._paramsEval = copy.copy(evaluation.params)
    part.params.areaRng, part.params.imgIds = evaluation.params.areaRng[:1], list(range(len(matches)))
    part.evalImgs = matches
    with contextlib.redirect_stdout(io.StringIO()):
        part.accumulate()
    precision = part.eval["precision"]
    precision = precision[precision > _NO_TRUTH]
    return float(precision.mean()) if precision.size else math.nan


def _samples(evaluation: COCOeval, resamples: int) -> tuple[float, ...]:
    """AP on bootstrap samples of the pictures."""
    matches = _matches(evaluation)
    return resampled(lambda drawn: _ap(evaluation, [matches[place] for place in drawn]), len(matches), resamples)


def _crowd_index(image: Entry) -> float:
    value = image.get("crowdIndex")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise DataError(
            "a CrowdPose picture must have a crowdIndex, 0 or more",
            place=f"keypoint ground truth, image {image.get('id')}",
            value=value,
            remedy="use CrowdPose's own annotations",
        )
    return float(value)


def _category(coco: Entry) -> int:
    """The id of the category "person", or of the only category."""
    categories = coco["categories"]
    people = [entry for entry in categories if entry.get("name") == "person"] or categories
    if len(people) != 1:
        raise DataError(
            'the ground truth must have one category, or one called "person"',
            place="keypoint ground truth",
            value=[entry.get("name") for entry in categories],
            remedy="keep the category to score",
        )
    return int(people[0]["id"])


def _indexed(coco: Entry, annotations: list[Entry]) -> COCO:
    """A COCO index over fresh copies, numbered from 1: COCOeval writes into them and takes id 0 for "unmatched"."""
    index = COCO()
    index.dataset = {
        "images": coco["images"],
        "categories": coco["categories"],
        "annotations": [{**entry, "id": number} for number, entry in enumerate(annotations, start=1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        index.createIndex()
    return index


def _person(entry: Entry, category: int, keypoints: KeypointSet) -> Entry:
    """What COCOeval reads of one person of the ground truth; other categories pass as they are."""
    if entry["category_id"] != category:
        return entry
    needed = ("keypoints", "area", "bbox") if keypoints.box_area_share is None else ("keypoints", "bbox")
    missing = [key for key in needed if key not in entry]
    if missing or len(entry["keypoints"]) != 3 * len(keypoints):
        raise DataError(
            f"a person must have {', '.join(needed[1:])} and {3 * len(keypoints)} numbers in keypoints",
            place=f"keypoint ground truth, annotation {entry.get('id')}",
            value=f"missing {missing}" if missing else f"{len(entry['keypoints'])} numbers",
            remedy=f"use annotations with the joints of {keypoints.name}",
        )
    labelled = sum(visibility > 0 for visibility in entry["keypoints"][2::3])
    person = {"num_keypoints": labelled, **entry, "iscrowd": entry.get("iscrowd") or 0}
    if keypoints.box_area_share is not None:
        person["area"] = keypoints.box_area_share * entry["bbox"][2] * entry["bbox"][3]
    return person


def _detection(entry: Entry, category: int, images: set[Any], keypoints: KeypointSet) -> Entry:
    """One detection with the area and bbox that COCO.loadRes would give it: those around its joints."""
    joints = np.asarray(entry["keypoints"], np.float64)
    for good, rule, value in (
        (entry["image_id"] in images, "a result must be of a picture of the ground truth", entry["image_id"]),
        (entry["category_id"] == category, f"a result must be of category {category}", entry["category_id"]),
        (joints.shape == (3 * len(keypoints),), f"a result must have {3 * len(keypoints)} numbers", joints.shape),
        (np.isfinite(joints).all() and math.isfinite(entry["score"]), "a result must be finite", entry["score"]),
    ):
        if not good:
            raise DataError(
                rule, place="keypoint results", value=value, remedy="score what was predicted for this ground truth"
            )
    left, right = joints[0::3].min(), joints[0::3].max()
    top, bottom = joints[1::3].min(), joints[1::3].max()
    width, height = right - left, bottom - top
    return {**entry, "area": width * height, "bbox": [left, top, width, height]}
