"""The report of a training: the score, its curve, and what to do next."""

import math
from pathlib import Path

from compress.artefacts.results import TrainResult
from compress.report.figures import Axis, Figure, Mark, Panel, Series
from compress.report.pages.networks import (
    Row,
    called,
    card_of,
    commands_for,
    data_option,
    detail_table,
    pictures_section,
    row_of,
    score_text,
)
from compress.report.pages.trust import run_section, trust_section
from compress.report.parts import Cards, Chart, Page, Part, Recommendation, Section
from compress.report.terminal import percent, short


def train_page(result: TrainResult, folder: Path) -> tuple[Page, list[Row]]:
    """The page and the line of networks.csv."""
    network, score = result.trained, result.trained.score
    data, artefact = data_option(result.run), str(folder / network.folder)
    commands = {
        "Make it faster: prune": f"compress prune {artefact} --macs 0.5 --data {data}",
        "Make it faster: rewrite": f"compress rewrite {artefact} --data {data}",
        **commands_for(network, folder, result.run),
    }
    sentence, sure, reasons = "The network was trained; there was nothing to score it on.", "no", []
    if score is not None and score.value is not None:
        error = score.standard_error
        spread = "" if error is None else f" ± {error:.3f} (one standard error)"
        on = f"{score.pictures:,} {score.data} pictures"
        sentence = f"{called(result.network)} reaches {score.metric} {score_text(score.value)}{spread} on {on}."
        sure = "in part"
        if score.worthless:
            sentence += " That is no better than a constant answer: train it for longer before anything else."
            sure = "no"
    if len(result.loss) > 1:
        last = result.loss[-1] / result.loss[-2] - 1
        reasons.append(f"The loss changed by {percent(last, sign=True)} in the last of {len(result.loss)} epochs.")
    lead: list[Part] = [Chart(loss_figure(result))] if result.loss else []
    facts = {
        "Data": data,
        "Input": "×".join(map(str, result.input_hw)),
        "Keypoints": result.keypoints,
        "Speed": f"{result.samples_per_s:.4g} samples/s, {percent(result.data_share)} of the time waiting for data",
        "Size": f"{short(network.params)} parameters, {short(network.macs)} MACs",
    }
    how = (
        {score.metric: f"validation pictures, {network.evaluations[0].procedure}, {score.provenance}"} if score else {}
    )
    sections = [
        Section("Scores in detail", tuple(detail_table([network]))),
        pictures_section(None, network, folder),
        Section("The network", (Cards((card_of(network, 0, folder, result.run),)),)),
        trust_section([network], result.run, how),
        run_section(result.run),
    ]
    advice = Recommendation(sentence, sure, tuple(reasons), commands, "Result")  # type: ignore[arg-type]
    kept = tuple(one for one in sections if one.parts)
    return Page("compress train", f"{called(result.network)}, trained", facts, advice, tuple(lead), kept), [
        row_of(network, None)
    ]


def loss_figure(result: TrainResult) -> Figure:
    """The mean loss of every epoch."""
    marks = tuple(Mark(epoch, loss) for epoch, loss in enumerate(result.loss, 1) if math.isfinite(loss))
    panel = Panel(Axis("loss"), (Series("", marks, 0, line="line"),))
    about = f"Loss by epoch, from {result.loss[0]:.4g} to {result.loss[-1]:.4g}"
    return Figure("Loss by epoch", about, Axis("epoch", "whole"), (panel,), 300, "loss.png")
