"""The score a network earns, by the metric of the data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from compress.data.mpii import MpiiPeople
from compress.data.picture import PictureSet
from compress.data.sets import data_kind
from compress.errors import DataError
from compress.networks import Architecture
from compress.pose.approaches import approach_of
from compress.pose.average_precision import AveragePrecision, crowd_pose_ap, oks_ap
from compress.pose.bootstrap import standard_error
from compress.pose.decode.poses import coco_results
from compress.pose.estimator import PicturePoses, PoseEstimator, estimate_all_poses
from compress.pose.percent_correct import PercentCorrect, pck, pckh
from compress.progress import Phase

RESAMPLES = 50
"""Bootstrap samples behind a reported standard error: enough to know it to a tenth."""


def main_figure(kind: str) -> str:
    """What networks are compared by on a kind of data: AP, PCKh or PCK."""
    return data_kind(kind).metric


WORTHLESS = {"AP": 0.02, "PCKh": 0.1, "PCK": 0.1}
"""Scores of no network that has learned something. The mean pose of the training people, put into every labelled box,
has AP 0.003 on synthetic people, 0.001 on COCO and PCK@0.2 0.05 on LSPET; this is the double of it at least."""


Figure = float | int | None | list[float | None] | dict[str, float | None]
"""A figure beside the main one: a number, a curve, or one number per joint. None: there was nothing to measure on."""


@dataclass(frozen=True)
class Score:
    """What a network earns on labelled pictures.

    metric: AP, PCKh or PCK, see main_figure. value: 0 to 1; None where there is nothing to measure on. standard_error:
    of the bootstrap over pictures or persons; None where none was drawn. resampled: value on each of its samples, None
    where one holds nobody; of two networks on the same pictures the samples are the same. provenance: how the weights
    came about, such as `training of 10 epochs`. data: the kind of data. pictures: how many were scored. details: the
    metric's other figures by name, such as AP50, or the curve and the joints of PCK.
    """

    metric: str
    value: float | None
    standard_error: float | None
    provenance: str
    data: str
    pictures: int
    details: Mapping[str, Figure]
    resampled: tuple[float | None, ...] = ()

    def __str__(self) -> str:
        """`AP 0.512 ± 0.012 on 256 synthetic pictures`: one standard error."""
        value = "not measured" if self.value is None else f"{self.value:.3f}"
        error = "" if self.standard_error is None else f" ± {self.standard_error:.3f}"
        return f"{self.metric} {value}{error} on {self.pictures} {self.data} pictures"

    @property
    def worthless(self) -> bool:
        """Whether it is near that of constant poses, or within two standard errors of nothing."""
        return (self.value or 0.0) <= max(WORTHLESS[self.metric], 2 * (self.standard_error or 0.0))

    @property
    def figures(self) -> dict[str, Any]:
        """All figures by name, the standard error as `AP_se`: the form of results that are not records yet."""
        return {self.metric: self.value, f"{self.metric}_se": self.standard_error, **self.details}

    @staticmethod
    def of_figures(metric: str, figures: Mapping[str, Any]) -> "Score":
        """The score of such figures, of which nothing else is known."""
        details = {name: value for name, value in figures.items() if name not in (metric, f"{metric}_se")}
        return Score(metric, figures[metric], figures.get(f"{metric}_se"), "", "", 0, details)


def score(
    network: nn.Module,
    estimator: PoseEstimator,
    pictures: PictureSet,
    *,
    kind: str,
    provenance: str,
    flip_test: bool,
    resamples: int = 0,
    phase: Phase | None = None,
    finite: bool = False,
) -> Score:
    """The metric of the kind of data over all pictures.

    Advances phase per picture. provenance: of the weights, see Score. resamples: bootstrap samples of pictures or
    persons for the standard error; 0 for none. finite: see estimate_poses.
    """
    listed = []
    for one in estimate_all_poses(network, estimator, pictures, flip_test=flip_test, finite=finite):
        listed.append(one)
        if phase:
            phase.advance(1)
    metric = main_figure(kind)
    figures: Mapping[str, Figure]
    found: AveragePrecision | PercentCorrect
    if metric != "AP":
        found = _percent_correct(listed, pictures, metric, resamples)
        figures = {
            metric: found.mean,
            "curve": list(found.curve),
            "area": found.area,
            "joints": {**found.joints},
            "persons": found.persons,
            "left_out": found.left_out,
        }
    else:
        results = [entry for one in listed for entry in coco_results(one.poses, pictures.image_id(one.index))]
        if data_kind(kind).crowded:
            found = crowd_pose_ap(pictures.coco, results, resamples)
        else:
            found = oks_ap(pictures.coco, results, pictures.keypoints, resamples)
        figures = found.figures
    details = {name: _plain(value) for name, value in figures.items()}
    value, error = details.pop(metric), _plain(found.standard_error)
    resampled = tuple(_plain(sample) for sample in found.samples)
    return Score(metric, value, error, provenance, kind, len(pictures), details, resampled)


def difference_error(one: Score, other: Score) -> float:
    """Standard error of the difference of two scores; an unknown one counts as 0.

    Of the same pictures the difference is known better than either score, for what is hard for one network is hard for
    the other: the spread of the differences over the samples that both have. Else as if both were independent.
    """
    of, of_other = ((score.metric, score.data, score.pictures, len(score.resampled)) for score in (one, other))
    if of == of_other:
        pairs = zip(one.resampled, other.resampled, strict=True)
        error = standard_error([a - b for a, b in pairs if a is not None and b is not None])
        if not math.isnan(error):
            return error
    return math.hypot(one.standard_error or 0.0, other.standard_error or 0.0)


def procedure(flip_test: bool) -> str:
    """How many passes a score and the time beside it are of: the picture alone, or its mirror image too."""
    return "two passes" if flip_test else "one pass"


def check_metric(architecture: Architecture, kind: str, detected: bool) -> None:
    """Raises DataError unless the metric of this kind of data can score what the network finds.

    PCK compares person by person. detected: whether the boxes are a detector's.
    """
    if main_figure(kind) == "AP" or (approach_of(architecture).per_person and not detected):
        return
    raise DataError(
        f"{main_figure(kind)} compares person by person, so every labelled box must give one pose",
        place=f"data: kind {kind}",
        value=f"a {architecture.approach} network" + (" and a detector's boxes" if detected else ""),
        remedy="use a top-down network and labelled boxes for this data",
    )


def _plain(value: Any) -> Any:
    """Rounded, and None for what is not a number, in figures and in the lists and mappings of them."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return (None if value != value else round(value, 5)) if isinstance(value, float) else value


def _percent_correct(found: list[PicturePoses], pictures: PictureSet, metric: str, resamples: int) -> PercentCorrect:
    """Every labelled person against the pose found in that person's own box."""
    people = [pictures.people(one.index) for one in found]
    for one, truth in zip(found, people, strict=True):
        if len(one.poses) != len(truth):
            raise DataError(
                "joints are compared person by person, so every labelled box must give one pose",
                place=f"picture {pictures.image_id(one.index)}",
                value=f"{len(one.poses)} poses for {len(truth)} people",
                remedy="use a top-down network and labelled boxes for this data",
            )
    predicted = np.concatenate([one.poses.keypoints_pk3[:, :, :2] for one in found])
    truth_pk3 = np.concatenate([part.keypoints_pk3 for part in people])
    if metric == "PCKh":
        assert isinstance(pictures, MpiiPeople)
        sizes = np.concatenate([pictures.head_sizes(one.index) for one in found])
        return pckh(predicted, truth_pk3[..., :2], truth_pk3[..., 2], sizes, resamples=resamples)
    return pck(predicted, truth_pk3[..., :2], truth_pk3[..., 2], pictures.keypoints, resamples=resamples)
