"""The tail of every job: what it trains, keeps, and writes down. Timings are made up; nothing depends on a clock."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compress.artefacts.artefact import load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.artefacts.network import learning_of, open_network
from compress.artefacts.run import Run
from compress.jobs import finalise
from compress.jobs.change import Task
from compress.jobs.finalise import Finalist, Tail, end_to_end, finish, measure, time_decoding, tune
from compress.measure.latency import Latency
from compress.measure.timing import Timing
from compress.networks.mobile_openpose import MobileOpenPose
from compress.progress import Silent
from compress.recipe import Data, PruneRecipe

HW = (64, 64)
RECORD = MobileOpenPose(blocks=(1, 1), width=4, features=8, refinement="one_7x7")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("finalise") / "start"
    torch.manual_seed(0)
    save_artefact(folder, RECORD, RECORD.build(), Metadata(HW, data=Data()))
    return str(folder)


def task_in(folder: Path, start: str) -> Task[PruneRecipe]:
    recipe = PruneRecipe.model_validate(
        {
            "data": {"synthetic": {"train": 8, "search": 2, "val": 2}},
            "training": {"epochs": 1, "batch_size": 4, "warmup_steps": 0},
            "targets": ["onnxruntime"],
            "rounds": 4,
        }
    )
    (folder / "steps").mkdir(parents=True)
    network = open_network(start, recipe.input_hw, seed=recipe.seed, codec=recipe.codec)
    return Task(recipe, network, learning_of(network, recipe, 2), Run(folder), Silent())


def finalist(name: str, task: Task[PruneRecipe]) -> Finalist:
    given = task.original
    folder = f"finalists/{name}"
    return Finalist(
        name, "finalist", copy.deepcopy(given.module), RECORD, (), folder, "short training", made_from=given.name
    )


def test_networks_tuned_side_by_side_come_out_as_each_does_alone(start: str, tmp_path: Path) -> None:
    def tuned(folder: str, names: list[str]) -> dict[str, dict[str, Tensor]]:
        task = task_in(tmp_path / folder, start)
        networks = {name: copy.deepcopy(task.original.module) for name in names}
        if "other" in networks:
            with torch.no_grad():
                for parameter in networks["other"].parameters():
                    parameter *= 0.9
        tune(task.tail, networks, task.original.module, title="fine-tuning", checkpoint="tuned")
        return {name: network.state_dict() for name, network in networks.items()}

    together = tuned("together", ["one", "other"])
    for name, state in together.items():
        (alone,) = tuned(name, [name]).values()
        assert all(torch.equal(state[key], alone[key]) for key in alone)
    given = load_artefact(Path(start)).module.state_dict()
    assert not all(torch.equal(together["one"][key], given[key]) for key in given)


def test_without_trained_weights_nothing_is_tuned_and_no_score_is_claimed(start: str, tmp_path: Path) -> None:
    task = task_in(tmp_path / "run", start)
    tail = replace(task.tail, learning=None)
    network = copy.deepcopy(task.original.module)
    tune(tail, {"one": network}, None, title="fine-tuning", checkpoint="tuned")
    result = finish(tail, replace(finalist("one", task), network=network))
    given = load_artefact(Path(start)).module.state_dict()
    assert all(torch.equal(tensor, given[name]) for name, tensor in network.state_dict().items())
    assert [evaluation.score for evaluation in result.evaluations] == [None, None]
    metadata = load_artefact(tmp_path / "run" / result.folder).metadata
    assert (metadata.input_hw, metadata.data, metadata.score) == (HW, None, None)


def test_what_is_finished_is_kept_and_says_how_it_came_about(
    start: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_in(tmp_path / "run", start)
    one = finalist("one", task)
    result = finish(task.tail, one)
    saved = load_artefact(tmp_path / "run" / "finalists" / "one")
    assert saved.metadata.score == result.score == result.evaluations[0].score
    assert saved.metadata.origin == start
    assert (saved.metadata.provenance, saved.metadata.data) == ("short training", task.learning.data)
    assert [evaluation.passes for evaluation in result.evaluations] == [1, 2]
    assert (tmp_path / "run" / "finalists" / "one" / result.export("onnxruntime").files[0]).is_file()

    def scored_again(*args: Any) -> Any:
        raise AssertionError("a finished step is not done again")

    monkeypatch.setattr(finalise, "evaluate", scored_again)
    assert finish(task.tail, one) == result
    with pytest.raises(AssertionError, match="not done again"):
        finish(task.tail, replace(one, name="another", folder="finalists/another"))


def test_a_given_network_is_exported_and_not_saved(start: str, tmp_path: Path) -> None:
    task = task_in(tmp_path / "run", start)
    finish(task.tail, replace(finalist("given", task), role="given", folder="given"))
    assert (tmp_path / "run" / "given" / "model.onnx").is_file()
    assert not (tmp_path / "run" / "given" / "weights.safetensors").exists()


def timing(ratio: float, uncertainty: float) -> Timing:
    """A reference of 0.1 ms beside it; the stopwatch says twice as much."""
    ms = ratio * 0.1
    return Timing(2 * ms, 1.5 * ms, 3 * ms, ratio, ms, 0.0, uncertainty, 100)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Timing]], None]:
    def say(timings: dict[str, Timing]) -> None:
        monkeypatch.setattr("compress.measure.whole_networks.time_runners", lambda runners, *others: timings)

    return say


@pytest.mark.parametrize("reference_ms", [None, 0.125])
def test_all_times_are_on_one_clock(
    reference_ms: float | None, start: str, tmp_path: Path, timed: Callable[[dict[str, Timing]], None]
) -> None:
    task = task_in(tmp_path / "run", start)
    tail: Tail = task.tail
    results = [finish(tail, finalist(name, task)) for name in ("one", "other")]
    timed({"one onnxruntime": timing(20.0, 0.01), "other onnxruntime": timing(10.0, 0.2)})
    one, other = measure(tail, results, reference_ms)
    unit = reference_ms or 0.1
    for result, ratio in ((one, 20.0), (other, 10.0)):
        latency = result.latency["onnxruntime"]
        assert latency.ms == pytest.approx(ratio * unit)
        assert latency.q1_ms == pytest.approx(0.75 * ratio * unit)  # as far from the median as on the stopwatch
        assert (latency.clock, latency.provenance) == ("reference", "measured")
        assert latency.target == "onnxruntime, 1 thread"
    assert (one.latency["onnxruntime"].reliable, other.latency["onnxruntime"].reliable) == (True, False)
    one, other = time_decoding(tail, [one, other], unit)
    for evaluation, passes in zip(one.evaluations, (1, 2), strict=True):
        assert evaluation.decoding.clock == evaluation.end_to_end.clock == "reference"
        assert evaluation.end_to_end.ms == pytest.approx(passes * 20.0 * unit + evaluation.decoding.ms)


def test_a_person_waits_for_every_pass_and_for_decoding() -> None:
    network = Latency(4.0, "onnxruntime, 1 thread", "measured", uncertainty=0.02, reliable=True)
    decoding = Latency(1.0, "decoder", "measured", uncertainty=0.3, reliable=False)
    whole = end_to_end(2, network, decoding)
    assert whole.ms == 9.0
    assert whole.uncertainty == pytest.approx(math.hypot(2 * 4.0 * 0.02, 1.0 * 0.3) / 9.0)
    assert whole.reliable
