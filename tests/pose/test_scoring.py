"""What a score and the difference of two are worth, and how they are kept."""

import math
from dataclasses import replace

import numpy as np
import pytest

from compress.artefacts.records import from_plain, to_plain
from compress.data.keypoints import LSP
from compress.pose.percent_correct import pck
from compress.pose.scoring import WORTHLESS, Score, difference_error


def scored(metric: str, value: float | None, error: float | None) -> Score:
    return Score(metric, value, error, "short training", "synthetic", 8, {})


@pytest.mark.parametrize("metric", WORTHLESS)
def test_a_score_near_a_constant_answers_is_worthless(metric: str) -> None:
    limit = WORTHLESS[metric]
    assert scored(metric, limit, None).worthless
    assert not scored(metric, limit + 0.001, None).worthless
    assert scored(metric, None, None).worthless  # nothing to measure on


def test_a_score_within_two_standard_errors_of_nothing_is_worthless() -> None:
    assert scored("AP", 0.2, 0.1).worthless
    assert not scored("AP", 0.2, 0.0999).worthless
    assert scored("AP", 0.01, 0.001).worthless  # beyond chance, and yet no use


def test_a_difference_is_known_better_on_the_same_pictures() -> None:
    """One label each of 400 persons: half are found by both networks, a tenth by the second one alone. The difference
    is then a share of a tenth, and its error √(0.1 x 0.9 / 400); of other persons it would be that of two shares."""
    truth = np.random.default_rng(1).uniform(0, 100, (400, 14, 2))
    labelled = np.zeros((400, 14))
    labelled[:, 3] = 1
    scores = []
    for found in (200, 240):
        moved = truth.copy()
        moved[found:] += 1000
        result = pck(moved, truth, labelled, LSP, np.full(400, 10.0), resamples=400)
        score = scored("PCK", result.mean, result.standard_error)
        scores.append(replace(score, resampled=result.samples))
    first, second = scores
    assert difference_error(first, second) == pytest.approx(math.sqrt(0.1 * 0.9 / 400), rel=0.15)
    assert difference_error(second, first) == difference_error(first, second)
    unpaired = math.hypot(math.sqrt(0.25 / 400), math.sqrt(0.6 * 0.4 / 400))
    for other in (replace(second, resampled=()), replace(second, pictures=9), replace(second, data="coco")):
        assert difference_error(first, other) == pytest.approx(unpaired, rel=0.15)
    assert difference_error(first, replace(first, standard_error=None, resampled=())) == first.standard_error


def test_samples_that_hold_nobody_are_left_out_of_a_difference() -> None:
    first, second = scored("AP", 0.5, 0.1), scored("AP", 0.6, 0.1)
    first, second = (
        replace(first, resampled=(0.4, None, 0.5, 0.6)),
        replace(second, resampled=(0.5, 0.9, None, 0.8)),
    )
    assert difference_error(first, second) == pytest.approx(np.std([0.1, 0.2], ddof=1))


def test_figures_of_every_kind_go_to_json_and_back() -> None:
    details = {
        "AP50": 0.5,
        "persons": 3,
        "area": None,
        "curve": [0.0, None, 1.0],
        "joints": {"nose": 0.25, "neck": None},
    }
    score = Score("PCK", 0.5, None, "training of 2 epochs", "lsp", 3, details, (0.4, None))
    assert from_plain(Score, to_plain(score), "a file") == score
    assert isinstance(from_plain(Score, to_plain(score), "a file").details["persons"], int)
