"""A score that is near nothing, or within the chance of it, is worthless."""

import pytest

from compress.artefacts.records import from_plain, to_plain
from compress.pose.scoring import WORTHLESS, Score


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


def test_figures_of_every_kind_go_to_json_and_back() -> None:
    details = {
        "AP50": 0.5,
        "persons": 3,
        "area": None,
        "curve": [0.0, None, 1.0],
        "joints": {"nose": 0.25, "neck": None},
    }
    score = Score("PCK", 0.5, None, "training of 2 epochs", "lsp", 3, details)
    assert from_plain(Score, to_plain(score), "a file") == score
    assert isinstance(from_plain(Score, to_plain(score), "a file").details["persons"], int)
