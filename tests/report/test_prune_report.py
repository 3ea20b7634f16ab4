"""What the report of a pruned network claims, and what it must not."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from compress.jobs.finalise import time_of
from compress.measure.comparison import speed_up
from compress.report.prune import print_pruned, write_pruned


def result(
    given: tuple[float, float] = (2.0, 0.01),
    pruned: tuple[float, float] = (1.0, 0.01),
    *,
    scores: tuple[tuple[float, float], tuple[float, float]] | None = None,
    goal: dict[str, Any] | None = None,
    **known: bool,
) -> dict[str, Any]:
    """Of a run with these times, uncertainties and scores; the stopwatch said something else (three times as much)."""

    def network(time: tuple[float, float], score: tuple[float, float] | None) -> dict[str, Any]:
        ms, uncertainty = time
        timing = {
            "normalised_ms": ms,
            "uncertainty": uncertainty,
            "reliable": uncertainty <= 0.03,
            "median_ms": 3 * ms,
            "q1_ms": 3 * ms,
            "q3_ms": 4 * ms,
        }
        val = {"AP": score[0], "AP_se": score[1]} if score else None
        exports = {"onnxruntime": {"size_bytes": 10**6, "parity": 1e-7}}
        return {
            "params": 10**6,
            "macs": 10**8,
            "val": val,
            "other_val": val,
            "exports": exports,
            "measured": {"onnxruntime": timing},
        }

    both = [network(time, score) for time, score in zip((given, pruned), scores or (None, None), strict=True)]
    faster = speed_up(*(time_of(one["measured"]["onnxruntime"]) for one in both), **known)
    return {
        "procedures": ["one pass", "two passes"],
        "passes": 1,
        "network": "one",
        "folder": "runs/one",
        "trained": scores is not None,
        "figure": "AP" if scores else None,
        "given": both[0],
        "pruned": both[1],
        "speed_up": {"onnxruntime": vars(faster)},
        "goal": goal,
        "choices": [{"sections": {"stem": {"channels": 16, "share": 0.5}}}],
        "engines": {},
        "environment": {"command": ["compress"]},
    }


def texts(found: dict[str, Any], folder: Path) -> list[str]:
    """The terminal's and the page's."""
    stream = io.StringIO()
    print_pruned(found, Console(file=stream, width=160))
    write_pruned(found, folder)
    return [stream.getvalue(), (folder / "report.md").read_text()]


def test_table_and_sentence_quote_the_same_times(tmp_path: Path) -> None:
    for text in texts(result(), tmp_path):
        assert "2.00x as fast (1.97–2.03)" in text
        assert "2.00 ± 0.02" in text
        assert "1.00 ± 0.01" in text
        assert "6.0" not in text


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (result((16.0, 0.3), (14.9, 0.2)), "timing unsteady"),
        (result((1.0, 0.01), (0.99, 0.01)), "no difference within"),
        (result(scores=((0.5, 0.01), (0.0, 0.0)), worthless=True), "scores like a constant answer"),
    ],
)
def test_no_speed_up_is_told_where_there_is_none(found: dict[str, Any], said: str, tmp_path: Path) -> None:
    for text in texts(found, tmp_path):
        assert "as fast" not in text
        assert said in text


def test_no_gain_is_told_between_two_networks_that_have_learned_nothing(tmp_path: Path) -> None:
    for text in texts(result(scores=((0.0, 0.0), (0.004, 0.001)), worthless=True), tmp_path):
        assert "both like a constant answer" in text
        assert "+0.004" not in text


def test_a_difference_of_scores_within_two_standard_errors_may_be_chance(tmp_path: Path) -> None:
    for text in texts(result(scores=((0.5, 0.01), (0.52, 0.01))), tmp_path):
        assert "+0.020, may be chance" in text
    for text in texts(result(scores=((0.5, 0.01), (0.53, 0.01))), tmp_path):
        assert "+0.030" in text
        assert "may be chance" not in text


@pytest.mark.parametrize(
    ("met", "said"), [(False, "GOAL MISSED"), (None, "GOAL NOT SHOWN TO BE MET"), (True, "Goal met")]
)
def test_the_goal_comes_first(met: bool | None, said: str, tmp_path: Path) -> None:
    goal = {"of": "time", "asked": 0.5, "reached": 0.689, "uncertainty": 0.014, "met": met}
    for text in texts(result(goal=goal), tmp_path):
        assert f"{said}" in "".join(text.splitlines()[1:3])
        assert "50.0% of the time asked, 68.9% of the time (± 1.4 %) reached" in text
