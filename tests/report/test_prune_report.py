"""What the report of a pruned network claims, and what it must not."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from compress.artefacts.results import (
    Evaluation,
    Export,
    Goal,
    GroupShare,
    NetworkResult,
    PruneResult,
    PruningChoice,
    Role,
    RunRecord,
)
from compress.measure.comparison import speed_up
from compress.measure.latency import Latency
from compress.pose.scoring import Score
from compress.report.page import write_report
from compress.report.prune import print_pruned


def network(name: Role, time: tuple[float, float], score: tuple[float, float] | None) -> NetworkResult:
    """One with this time, uncertainty and score."""
    ms, uncertainty = time
    latency = Latency(ms, "onnxruntime, 1 thread", "measured", uncertainty=uncertainty, reliable=uncertainty <= 0.03)
    scored = Score("AP", *score, "as given", "synthetic", 100, {}) if score else None
    return NetworkResult(
        name=name,
        role=name,
        folder=".",
        architecture={},
        edits=(),
        params=10**6,
        macs=10**8,
        uncounted=(),
        evaluations=(Evaluation("one pass", 1, scored), Evaluation("two passes", 2, scored)),
        exports=(Export("onnxruntime", ("model.onnx",), 10**6, 1e-7),),
        refused={},
        latency={"onnxruntime": latency},
    )


def result(
    given: tuple[float, float] = (2.0, 0.01),
    pruned: tuple[float, float] = (1.0, 0.01),
    *,
    scores: tuple[tuple[float, float], tuple[float, float]] | None = None,
    goal: Goal | None = None,
    **known: bool,
) -> PruneResult:
    """Of a run with these times, uncertainties and scores."""
    one, other = scores or (None, None)
    before, after = network("given", given, one), network("pruned", pruned, other)
    return PruneResult(
        network="one",
        input_hw=(64, 64),
        given=before,
        pruned=after,
        speed_up={"onnxruntime": speed_up(before.latency["onnxruntime"], after.latency["onnxruntime"], **known)},
        goal=goal,
        choices=(PruningChoice({"stem": GroupShare(16, 0.5)}, {}, None),),
        run=RunRecord("runs/one", ("compress",), {}, {}),
    )


def texts(found: PruneResult, folder: Path) -> list[str]:
    """The terminal's and the page's."""
    stream = io.StringIO()
    print_pruned(found, Console(file=stream, width=160))
    write_report("prune", found, folder)
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
def test_no_speed_up_is_told_where_there_is_none(found: PruneResult, said: str, tmp_path: Path) -> None:
    for text in texts(found, tmp_path):
        assert "as fast" not in text
        assert said in text


def test_no_gain_is_told_between_two_networks_that_have_learned_nothing(tmp_path: Path) -> None:
    for text in texts(result(scores=((0.0, 0.0), (0.004, 0.001)), worthless=True), tmp_path):
        assert "both like a constant answer" in text
        assert "+0.004" not in text


def test_a_difference_of_scores_within_two_standard_errors_may_be_chance(tmp_path: Path) -> None:
    for text in texts(result(scores=((0.5, 0.01), (0.52, 0.01))), tmp_path):
        assert "+0.020 ± 0.014, may be chance" in text
    for text in texts(result(scores=((0.5, 0.01), (0.53, 0.01))), tmp_path):
        assert "+0.030" in text
        assert "may be chance" not in text


@pytest.mark.parametrize(
    ("met", "said"), [(False, "GOAL MISSED"), (None, "GOAL NOT SHOWN TO BE MET"), (True, "Goal met")]
)
def test_the_goal_comes_first(met: bool | None, said: str, tmp_path: Path) -> None:
    goal = Goal("time", 0.5, 0.689, 0.014, met)
    for text in texts(result(goal=goal), tmp_path):
        assert f"{said}" in "".join(text.splitlines()[1:6])
        assert "50.0% of the time requested, 68.9% of the time (± 1.4 %) reached" in text
