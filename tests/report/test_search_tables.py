"""The tables at the end of a search, of a real one."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from compress.artefacts.results import PredictionError
from compress.report.page import markdown
from compress.report.pages.search import search_page
from compress.report.parts import Fold, Table
from compress.report.search import print_search


def shown(result, width=160):
    stream = io.StringIO()
    print_search(result, console=Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


def test_a_search_around_a_network_names_it(result):
    assert shown(result).startswith("dir_bhrnet · onnxruntime")
    assert shown(replace(result, start="runs/mine")).startswith("dir_bhrnet around runs/mine · onnxruntime")


def test_every_network_is_shown_and_where_it_lies(result):
    doubted = result.networks[1]
    latency = {**doubted.latency, "onnxruntime": replace(doubted.latency["onnxruntime"], reliable=False)}
    networks = tuple(replace(one, latency=latency) if one is doubted else one for one in result.networks)
    text = shown(replace(result, networks=networks))
    for network in result.networks:
        line = next(line for line in text.splitlines() if network.name in line)
        measured = network.latency["onnxruntime"]
        assert network.role in line
        assert f"{network.score.value:.3f} ± {network.score.standard_error:.3f}" in line
        assert f"{measured.ms:.2f} ± {measured.ms * measured.uncertainty:.2f}" in line
        assert f"{network.predicted['onnxruntime'].ms:.2f}" in line
        assert f"{100 * (network.predicted['onnxruntime'].ms / measured.ms - 1):+.1f} %" in line
    assert "(?)" in next(line for line in text.splitlines() if doubted.name in line)
    assert {line.split()[1] for line in text.splitlines() if line.startswith("* ") and "front" not in line} == {
        network.name for network in result.front
    }
    for place in ("report.html", "trade_off.png", "networks.csv", "results.json"):
        assert f"{result.run.folder}/{place}" in text
    assert all(character.isprintable() for character in text.replace("\n", ""))


def test_tables_that_mislead_are_named(result):
    (name, used), *_ = result.tables.items()
    quiet = replace(used, other_load=0.1, error=PredictionError(0.04, 0.3))
    assert "Predictions on" not in shown(replace(result, tables={name: quiet}))
    busy = " ".join(shown(replace(result, tables={name: replace(quiet, other_load=1.4)})).split())
    assert f"Predictions on {name} are doubtful" in busy
    assert "(load 1.4)" in busy
    wrong = replace(result, tables={name: replace(quiet, error=PredictionError(0.19, 0.3))})
    assert "are off by 19.0 % on average" in " ".join(shown(wrong).split())
    page, _ = search_page(wrong, Path(result.run.folder))
    assert "are off by 19.0 % on average" in markdown(page)[0]


def test_failed_trials_are_listed_with_their_cause(result):
    cause = "training: the loss must stay a number"
    failed = (*result.trials[:-1], replace(result.trials[-1], failure=cause))
    result = replace(result, trials=failed)
    assert f"trial {failed[-1].number}: {cause}" in " ".join(shown(result).split())
    page, _ = search_page(result, Path(result.run.folder))
    folds = [part for section in page.sections for part in section.parts if isinstance(part, Fold)]
    (fold,) = [one for one in folds if one.title == "1 failed trials, counted as 0"]
    (table,) = fold.parts
    assert isinstance(table, Table)
    assert table.rows == ((f"trial {failed[-1].number}", cause),)


def test_a_narrow_terminal_cuts_no_number(result):
    text = shown(result, width=80)
    for network in result.networks:
        assert f"{network.score.value:.3f} ± {network.score.standard_error:.3f}" in text
        assert f"{100 * result.prediction_error(network):+.1f} %" in text
    assert "…" not in text


@pytest.mark.parametrize("width", [80, 120])
def test_accuracy_and_time_are_of_one_procedure_and_the_other_stands_beside(result, width):
    text = shown(result, width=width)
    assert "AP and milliseconds of one pass" in " ".join(text.split())
    for network in result.networks:
        first, other = network.evaluations
        expected = [
            *(f"{first.score.value:.3f}", f"{first.end_to_end.ms:.2f}"),
            *(f"{other.score.value:.3f}", f"{other.end_to_end.ms:.2f}"),
        ]
        lines = [line.split() for line in text.splitlines() if network.name in line]
        assert [line for line in lines if line[-4:] == expected]


def test_two_passes_take_the_networks_time_twice(result):
    networks = tuple(replace(network, evaluations=network.evaluations[::-1]) for network in result.networks)
    text = shown(replace(result, networks=networks))
    assert "AP and milliseconds of two passes" in " ".join(text.split())
    for network in networks:
        assert f"{2 * network.latency['onnxruntime'].ms:.2f} ±" in text
        assert f"{2 * network.predicted['onnxruntime'].ms:.2f}" in text


def test_what_is_not_known_is_a_dash(result):
    network = result.networks[0]
    first = replace(network.evaluations[0], score=None, decoding=None, end_to_end=None)
    network = replace(network, evaluations=(first,), latency={}, predicted={}, exports=())
    trials = tuple(replace(trial, score=replace(trial.score, value=None)) for trial in result.trials)
    text = shown(replace(result, networks=(network,), trials=trials, comparisons=()))
    assert "None" not in text
    line = next(line for line in text.splitlines() if network.name in line)
    assert line.split()[-6:] == [network.role, *"–––––"]
