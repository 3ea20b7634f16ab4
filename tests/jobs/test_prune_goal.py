"""Goals of pruning: how a choice is corrected by its true cost, and what is said of the finished network."""

from types import SimpleNamespace
from typing import Any

import pytest

from compress.artefacts.results import Goal, NetworkResult
from compress.engines.export import Export
from compress.errors import BudgetError
from compress.jobs.prune.goal import TRIES, Try, meet, reached
from compress.measure.comparison import speed_up
from compress.measure.latency import Latency
from compress.measure.limit import CLOSE
from compress.progress import Silent
from compress.recipe import PruneRecipe

TASK: Any = SimpleNamespace(progress=Silent())


@pytest.mark.parametrize("power", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("goal", [0.9, 0.5, 0.2])
def test_the_true_cost_meets_the_goal_though_the_prediction_is_wrong(power: float, goal: float) -> None:
    """The choice is the share that stays; it costs a power of what is predicted."""
    start = Try(1.0, 100.0, 1.0)
    choice, search = meet(TASK, goal, "time", start, lambda aim: aim / 100, 0.0, lambda share: share**power)
    assert choice**power == search.share == pytest.approx(goal, rel=CLOSE)
    assert (search.of, search.goal) == ("time", goal)
    assert 1 <= search.tries <= TRIES


def test_beyond_the_prediction_all_that_can_be_removed_is_tried() -> None:
    def never(aim: float) -> float:
        raise BudgetError("the least is 40", place="budget", value=aim, remedy="request less")

    start = Try(1.0, 100.0, 1.0)
    choice, search = meet(TASK, 0.5, "multiply-adds", start, never, 0.45, lambda share: share)
    assert (choice, search.share, search.tries) == (0.45, 0.45, TRIES)
    with pytest.raises(BudgetError, match="the least is 40"):
        meet(TASK, 0.2, "multiply-adds", start, never, 0.45, lambda share: share)


def network(name: Any, ms: float, uncertainty: float, macs: int) -> NetworkResult:
    latency = Latency(ms, "onnxruntime, 1 thread", "measured", uncertainty=uncertainty, reliable=uncertainty <= 0.03)
    export = Export("onnxruntime", ("model.onnx",), 1, 0.0)
    return NetworkResult(name, name, ".", {}, (), 1, macs, (), (), (export,), {}, latency={"onnxruntime": latency})


@pytest.mark.parametrize(
    ("pruning", "pruned", "goal"),
    [
        ({"macs": 0.5}, (1.0, 0.2, 51), Goal("multiply-adds", 0.5, 0.51, 0.0, True)),
        ({"macs": 0.5}, (1.0, 0.01, 52), Goal("multiply-adds", 0.5, 0.52, 0.0, False)),
        ({"latency_ms": 1.0}, (1.01, 0.01, 50), Goal("ms", 1.0, 1.01, 0.01, True)),
        ({"latency_ms": 1.0}, (1.2, 0.01, 50), Goal("ms", 1.0, 1.2, 0.01, False)),
        ({"latency_ms": 1.0}, (1.0, 0.2, 50), Goal("ms", 1.0, 1.0, 0.2, None)),
        ({"latency": 0.5}, (1.0, 0.0, 50), Goal("time", 0.5, 0.5, 0.02, True)),
        ({"latency": 0.4}, (1.0, 0.0, 50), Goal("time", 0.4, 0.5, 0.02, False)),
        ({"ratio": 0.5}, (1.0, 0.0, 50), None),
    ],
)
def test_a_goal_is_met_missed_or_not_shown(
    pruning: dict[str, float], pruned: tuple[float, float, int], goal: Goal | None
) -> None:
    """Beside a network of 2 ms, known to 2 %, and 100 multiply-adds."""
    given, changed = network("given", 2.0, 0.02, 100), network("pruned", *pruned)
    faster = {"onnxruntime": speed_up(given.latency["onnxruntime"], changed.latency["onnxruntime"])}
    found = reached(PruneRecipe.model_validate({"pruning": pruning}), given, changed, faster)
    if goal is None:
        assert found is None
    else:
        assert found is not None
        assert (found.of, found.requested, found.met) == (goal.of, goal.requested, goal.met)
        assert (found.reached, found.uncertainty) == pytest.approx((goal.reached, goal.uncertainty))
