"""One record of every job that has a report, small and made by hand but for the search, which is a real one."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from compress.artefacts.results import (
    Accuracy,
    CheckedKernel,
    CheckedNetwork,
    CheckedTable,
    Decision,
    KernelShare,
    RewriteChoice,
    RewriteResult,
    RunRecord,
    SearchResult,
    SensitivityResult,
    ShownNetwork,
    TargetRecord,
    TrainResult,
)
from compress.measure.comparison import speed_up
from compress.measure.latency import Latency
from compress.measure.latency_table import Identity, KernelGroup, Prediction
from compress.pruning.sensitivity import DENSE, Point
from tests.report.test_prune_report import network

IDENTITY = Identity("onnxruntime", "1.32.0", "AMD EPYC, 2 cores", 1, "float32")
TARGET = TargetRecord("onnxruntime", "onnxruntime", "1.32.0", "AMD EPYC, 2 cores", 1, "float32")
RUN = RunRecord(
    "runs/one",
    ("compress", "rewrite", "openpose"),
    {"seed": 1, "data": {"kind": "synthetic"}},
    {"cpu": "AMD EPYC", "packages": {"torch": "2.13.0"}},
    (TARGET,),
    {"fine-tuning": 61.0, "measuring": 4.0},
)


def rewritten() -> RewriteResult:
    """Two sites replaced, one refused, one not usable."""
    before = network("given", (20.0, 0.01), (0.5, 0.01))
    after = network("rewritten", (12.0, 0.01), (0.49, 0.01))
    path = "refinements.0.1.trunk.0.a_module_with_a_rather_long_path.conv"
    choices = (
        RewriteChoice(
            "conv_to_3x3", "features.0.conv", ("features.0.conv",), 1, -(10**7), 3.1, 3.0, True, 0.15, {}, 0.004
        ),
        RewriteChoice("conv_to_3x3", path, (path,), 1, -(10**7), 5.2, 5.0, True, 0.25, {}, 0.012),
        RewriteChoice("silu_to_relu", "head.act", ("head.act",), 2, 0, 0.1, 0.1, False, 0.005, {}, 0.03),
        RewriteChoice("swish_to_hard", "stem.act", ("stem.act",), 1, failure="the engine does not take it"),
    )
    refused = {2: "saves less than 1.0% of the time", 3: "the engine does not take it"}
    return RewriteResult(
        network="openpose",
        input_hw=(256, 192),
        target="onnxruntime",
        rules=(),
        given=before,
        rewritten=after,
        speed_up={"onnxruntime": speed_up(before.latency["onnxruntime"], after.latency["onnxruntime"])},
        choices=choices,
        decision=Decision((0, 1), refused, 0.015, 0.01, 100),
        unread={"": "they depend on the input"},
        tied={},
        depth=None,
        run=RUN,
    )


def trained() -> TrainResult:
    """Of ten epochs."""
    loss = tuple(0.02 / epoch for epoch in range(1, 11))
    one = network("trained", (2.0, 0.01), (0.4, 0.01))
    return TrainResult("bhrnet", (128, 128), "coco", one, loss, 321.0, 0.02, RUN)


def analysed() -> SensitivityResult:
    """Three blocks at two ratios."""
    points = [Point(DENSE, 0.0, 0.0, 0.6)]
    for number, block in enumerate(("stem", "branch 1", "head")):
        points += [Point(block, ratio, ratio, 0.6 - ratio * (number + 1) / 4) for ratio in (0.25, 0.5)]
    channels = {"stem": 16, "branch 1": 32, "head": 32}
    return SensitivityResult("bhrnet", "AP", tuple(points), tuple(channels), channels, {"out": "it is the output"}, RUN)


def checked() -> CheckedTable:
    """Three networks, one of them measured unsteadily."""
    found = []
    for name, ms, error in (("hrnet_w32", 20.0, 0.02), ("lite_hrnet_18", 5.0, -0.06), ("bhrnet", 1.0, 0.01)):
        measured = Latency(ms, "onnxruntime", "measured", uncertainty=0.02, reliable=name != "bhrnet")
        promised = ms * (1 + error)
        prediction = Prediction(promised, 0.9 * promised, 1.1 * promised, 0.98, 0.99, ())
        found.append(CheckedNetwork(name, measured, prediction, error, True))
    accuracy = Accuracy(3, 0.03, 0.06, 2 / 3, 1.0, 1.0, 0.98, 0.99)
    kernel = CheckedKernel("conv 3x3 relu, 1x64x64x48, stride 1, groups 1, bias", 4, 0.31, 0.28)
    return CheckedTable(IDENTITY, "tables/onnxruntime.json", (), accuracy, tuple(found), (kernel,))


def shown() -> ShownNetwork:
    """Of two operators and three kernels."""
    prediction = Prediction(1.0, 0.9, 1.1, 0.98, 0.99, ())
    kernels = tuple(
        KernelShare(f"conv 3x3 relu, 1x{width}x64x48", "conv", 2, 0.2, 0.2, 10**6, "measured", 0.01, False)
        for width in (16, 32, 64)
    )
    shares = {"conv": 0.8, "add": 0.2}
    return ShownNetwork("bhrnet", (128, 128), IDENTITY, "tables/onnxruntime.json", prediction, None, shares, kernels)


def furnished(result: SearchResult, folder: Path) -> SearchResult:
    """The search as if on COCO val2017, every network with pictures, which are written, and parts of its time."""
    networks = []
    for number, one in enumerate(result.networks):
        pictures = ("pictures/0.jpg", "pictures/1.jpg")
        for name in pictures:
            (folder / one.folder / name).parent.mkdir(parents=True, exist_ok=True)
            grey = np.full((48, 64, 3), 40 * number, np.uint8)
            (folder / one.folder / name).write_bytes(cv2.imencode(".jpg", grey)[1].tobytes())
        conv = KernelGroup(2, "conv", 3 + number, 0.25, 0.0)
        groups = (conv, KernelGroup(4, "conv", 2, 0.5 - number / 10, 0.125), KernelGroup(0, "reshape", 1, 0.001, 0.0))
        networks.append(replace(one, pictures=pictures, times={result.target.name: groups}))
    trials = tuple(
        replace(trial, cost=replace(trial.cost, latency={name: replace(ms, coverage=0.5 if number else 0.75)}))
        for number, trial in enumerate(result.trials)
        for name, ms in list(trial.cost.latency.items())[:1]
    )
    return replace(
        result, networks=tuple(networks), trials=trials, data=replace(result.data, kind="coco", metric="AP", val=5000)
    )
