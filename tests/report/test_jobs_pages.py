"""The reports of pruning, rewriting, training and latency tables: what they recommend, and that they say all."""

import csv
import html as entities
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from compress.artefacts.results import document
from compress.measure.comparison import speed_up
from compress.report.page import PAGES, html, markdown, report_of, write_report
from compress.report.pages.changed import prune_page, rewrite_page
from compress.report.pages.train import train_page
from tests.report.records import analysed, checked, rewritten, shown, trained
from tests.report.test_prune_report import result as pruned

RESULTS = {
    "prune": pruned(scores=((0.5, 0.01), (0.49, 0.01))),
    "analyse": analysed(),
    "rewrite": rewritten(),
    "train": trained(),
    "latency check": checked(),
    "latency show": shown(),
}


def text_of(page) -> str:
    """The words of a page."""
    without = re.sub(r"<(style|script).*?</\1>", "", html(page), flags=re.DOTALL)
    inline = re.sub(r"</?(wbr|span|code)\b[^>]*>", "", without)
    return " ".join(entities.unescape(re.sub(r"<[^>]+>", " ", inline)).split())


def test_every_job_is_tested() -> None:
    assert {*RESULTS, "search"} == set(PAGES)


@pytest.mark.parametrize("job", RESULTS)
def test_every_job_has_a_page_in_both_forms(job: str, tmp_path: Path) -> None:
    written = write_report(job, RESULTS[job], tmp_path)
    names = {Path(file).name for file in written.files}
    assert names == {path.name for path in tmp_path.iterdir()}
    text = Path(written.page).read_text()
    assert "None" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert 'class="sentence"' in text
    plain, pictures = markdown(PAGES[job][1](RESULTS[job], tmp_path)[0])
    assert plain.startswith("# ")
    assert {f"({name})" for name in pictures} == set(re.findall(r"\(\w+\.png\)", plain))
    if "networks.csv" in names:
        with (tmp_path / "networks.csv").open() as file:
            assert list(csv.DictReader(file))


@pytest.mark.parametrize("job", ["latency check", "latency show"])
def test_what_a_command_printed_as_json_becomes_a_page_beside_it(job: str, tmp_path: Path) -> None:
    file = tmp_path / "printed.json"
    file.write_text(json.dumps(document(job, RESULTS[job])))
    assert report_of(file).page == str(tmp_path / "printed.html")
    assert report_of(file).files[1] == str(tmp_path / "printed.md")


def test_a_network_of_a_file_is_called_by_the_files_name() -> None:
    page, _ = train_page(replace(trained(), network="/home/me/nets/mine.yaml"), Path("runs/one"))
    assert page.title == "mine, trained"
    assert page.recommendation
    assert page.recommendation.sentence.startswith("mine reaches AP 0.400")


def test_a_faster_network_is_recommended_with_its_interval_and_its_cost() -> None:
    page, _ = prune_page(pruned(scores=((0.5, 0.01), (0.45, 0.01))), Path("runs/one"))
    assert page.recommendation
    # 2 ms over 1 ms, each ± 1 %: 2 ± sqrt(2) %
    assert "2.00× as fast on onnxruntime (95 % interval 1.97–2.03)" in page.recommendation.sentence
    assert "AP changes by -0.050 ± 0.014." in page.recommendation.sentence
    assert page.recommendation.sure == "yes"
    assert "compress export runs/one --out exports --set 'engines=[onnxruntime]'" in text_of(page)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (pruned((16.0, 0.3), (14.9, 0.2)), "too unsteady to say"),
        (pruned((1.0, 0.01), (0.99, 0.01)), "is no faster on onnxruntime"),
        (pruned((1.0, 0.01), (2.0, 0.01)), "is slower on onnxruntime"),
        (pruned(scores=((0.5, 0.01), (0.0, 0.0)), worthless=True), "scores like a constant answer"),
    ],
)
def test_the_given_network_is_kept_where_nothing_is_proven(found, said: str) -> None:
    page, _ = prune_page(found, Path("runs/one"))
    assert page.recommendation
    assert page.recommendation.sentence.startswith("Keep the given network")
    assert said in page.recommendation.sentence
    assert page.recommendation.sure == "no"


def test_without_scores_a_speed_up_is_borne_out_in_part() -> None:
    page, _ = prune_page(pruned(), Path("runs/one"))
    assert page.recommendation
    assert page.recommendation.sure == "in part"
    assert "what it costs in accuracy is not known" in page.recommendation.sentence


def test_a_predicted_speed_up_says_so() -> None:
    found = rewritten()
    assert found.given
    assert found.rewritten
    times = [replace(one.latency["onnxruntime"], provenance="predicted") for one in (found.given, found.rewritten)]
    changed = replace(found, speed_up={"onnxruntime": speed_up(*times)})
    page, _ = rewrite_page(changed, Path("runs/one"))
    assert page.recommendation
    assert "predicted and not measured" in page.recommendation.sentence
    assert page.recommendation.sure == "in part"


def test_every_site_is_told_with_why_it_was_refused() -> None:
    found = rewritten()
    page, _ = rewrite_page(found, Path("runs/one"))
    text = text_of(page)
    for choice in found.choices:
        assert choice.name in text
    assert found.decision
    for why in found.decision.refused.values():
        assert why in text


def test_where_no_replacement_pays_the_network_is_kept() -> None:
    found = replace(rewritten(), given=None, rewritten=None, speed_up={})
    page, rows = rewrite_page(found, Path("runs/one"))
    assert page.recommendation
    assert "no replacement pays" in page.recommendation.sentence
    assert rows == []


def test_a_training_that_learned_nothing_is_not_recommended() -> None:
    found = trained()
    score = found.trained.score
    assert score
    first, *others = found.trained.evaluations
    nothing = replace(first, score=replace(score, value=0.001))
    page, _ = train_page(replace(found, trained=replace(found.trained, evaluations=(nothing, *others))), Path("runs/a"))
    assert page.recommendation
    assert "no better than a constant answer" in page.recommendation.sentence
    good, _ = train_page(found, Path("runs/a"))
    assert good.recommendation
    assert "AP 0.400 ± 0.010" in good.recommendation.sentence
    assert "compress prune runs/a" in text_of(good)
