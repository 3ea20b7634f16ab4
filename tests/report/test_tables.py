"""Tables of the commands that write no page."""

import io
from dataclasses import replace

from rich.console import Console

from compress.artefacts.results import (
    Concern,
    ConcernTime,
    DiskSpace,
    DoctorResult,
    DrawnPicture,
    EvaluateResult,
    Evaluation,
    Export,
    ExportResult,
    FoundData,
    Gpu,
    KnownTable,
    LayerRow,
    MissingPart,
    NetworkResult,
    NetworkRow,
    Part,
    PassTime,
    Person,
    PredictResult,
    ProfileResult,
    RunRecord,
    SiteTime,
    TargetsResult,
    TrainResult,
    Uncounted,
)
from compress.engines import Availability
from compress.measure.cross_check import CrossCheck, Difference
from compress.measure.latency import Latency
from compress.measure.latency_table import Identity
from compress.pose.scoring import Score
from compress.report.tables import (
    print_doctor,
    print_evaluated,
    print_exported,
    print_networks,
    print_predicted,
    print_profile,
    print_targets,
    print_trained,
)


def shown(print_, result, width=160):
    stream = io.StringIO()
    print_(result, console=Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


def test_networks():
    row = NetworkRow(
        name="a[b]",
        approach="top-down",
        input_hw=(256, 192),
        keypoints=17,
        params=28_500_000,
        macs=7_645_000_000,
        paper="a paper",
        convention="hrsum",
        params_convention="plain",
        params_m=28.536,
        flops_g=7.1199,
        published_params_m=28.5,
        published_flops_g=7.1,
        published_ap=None,
        mark="exact",
        note="a note",
        uncounted=(),
    )
    reference = replace(
        row, input_hw=None, params=None, macs=None, params_m=None, flops_g=None, published_params_m=None
    )
    text = shown(print_networks, [row, replace(reference, name="RTM", mark="reference only", note="")])
    parts = ("top-down", "a[b]", "256x192", "28.5 M", "7.6", "28.54/28.5", "7.12/7.1", "hrsum", "=", "a[b]: a note")
    for expected in (*parts, "–/–", "–/7.1", "ref"):
        assert expected in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 100
    long = replace(
        row,
        name="mobile_openpose_efficientnet",
        input_hw=(1401, 1401),
        params_m=277.8,
        flops_g=405.5,
        published_params_m=277.8,
        published_flops_g=405.5,
    )
    text = shown(print_networks, [replace(long, note=f"a note {n}") for n in range(20)])
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 110
    assert "a note" not in text  # many notes go to --json


def test_profile():
    costs = {"params": 1000, "macs": 2_000_000, "share": 0.25, "activation_bytes": 4096}
    layers = [
        LayerRow(
            path=f"stages.{n}.a_very_long_name_of_a_module[x].conv{n}" * 2,
            kind="Conv2d",
            stage="stage0",
            resolution="1/4",
            output=(1, 2, 3, 4),
            **costs | {"macs": n},
        )
        for n in range(30)
    ]
    concern = Concern("dilation", "why", ("a", "b", "c"), share=0.5, activation_bytes=4096)
    result = ProfileResult(
        network="net[x]",
        family="a family",
        approach="top-down",
        input_hw=(64, 64),
        params=30_000,
        macs=8_000_000,
        activation_bytes=40_000,
        stages=tuple(Part(f"stage{n}", **costs) for n in range(40)),
        resolutions=(Part("1/4", **costs),),
        balance={"1/4": 0.4, "1/8": 0.6},
        layers=tuple(layers),
        concerns=(concern,),
        ptflops=CrossCheck(8_080_000, (Difference("ReLU", 5000, 0, "1 per element"),)),
        uncounted=(Uncounted("a.b", "Sampler", ("grid_sampler_2d",)),),
    )
    text = shown(print_profile, result)
    parts = ("net[x] at 64x64", "8.00 M MACs", "40 kB", "stage0", "… and 16 more", "1/4: 40.0 %", "1/8: 60.0 %")
    concerns = ("dilation: 3 layers, 50.0 %", "(a, b, …)", "why", "8.08 M, +1.0 %", "1 per element")
    for expected in (*parts, *concerns, "not counted: grid_sampler_2d in a.b (Sampler)"):
        assert expected in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    text = shown(print_profile, replace(result, ptflops=CrossCheck(None, (), "it broke")))
    assert "ptflops cannot count this network: it broke" in text
    sites = tuple(SiteTime(f"{'block.' * 9}{n}", 1.5, 0.1, ("first", "second")) for n in range(7))
    sites += (SiteTime("fused", None, None, ()),)
    identity = Identity("onnxruntime", "1.2", "a CPU, 2 cores", 1)
    latency = Latency(15.0, str(identity), "measured", "stopwatch", 14.0, 16.0, 0.2, reliable=False)
    timing = PassTime(identity, latency, 0.3, {"Reorder": 0.2, "Add": 0.1})
    timed = replace(concern, time=ConcernTime(10.5, 0.7, sites))
    text = shown(print_profile, replace(result, concerns=(timed,), timing=timing))
    for expected in (
        "50.0 % of the MACs, 10.50 ms or 70.0 % of the time",
        "1.50 ms  10.0 %",
        "first, second",
        "… and 2 more",
        "15.00 ms a pass (quartiles 14.00 – 16.00, unreliable), measured on onnxruntime 1.2, 1 thread",
        "No layer's: 30.0 % of the time (Reorder 20.0 %, Add 10.0 %)",
    ):
        assert expected in text
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    timed = replace(concern, time=ConcernTime(10.5, 0.7, sites[-1:]))
    text = shown(print_profile, replace(result, concerns=(timed,), timing=timing))
    assert "– ms       –  fused" in text


SCORE = Score("AP", 0.4321, 0.0123, "training of 3 epochs", "coco", 8, {"AP50": 0.7, "joints": {"nose": 0.5}})


def test_trained_and_evaluated_say_what_the_score_is_of():
    evaluations = (Evaluation("two passes", 2, SCORE),)
    network = NetworkResult("trained", "trained", ".", {}, (), 12_345_678, 1234, (), evaluations, (), {})
    run = RunRecord("runs/a", (), {}, {})
    trained = TrainResult("hrnet_w32", (64, 48), "coco_person", network, (2.0, 1.0, 0.5), 12.5, 0.25, run)
    text = shown(print_trained, trained)
    for expected in (
        "runs/a",
        "64x48",
        "0.432 ± 0.012 (one standard error)",
        "8 pictures of coco, two passes, training of 3 epochs",
        "12.3 M parameters, 1.23 k MACs",
        "2 → 0.5 in 3 epochs",
        "12.5 samples/s, 25.0 % of the time waiting for data",
    ):
        assert expected in text
    last = [line.split()[0] for line in text.splitlines()][-3:]
    assert last == [SCORE.metric, "of", "next"]
    assert "compress rewrite runs/a, or compress prune runs/a --latency 60%" in text
    evaluated = EvaluateResult("runs/a", (64, 48), "one pass", replace(SCORE, standard_error=None), ("a note",))
    text = shown(print_evaluated, evaluated)
    for expected in ("0.432\n", "one pass", "AP50", "0.7", "a note"):
        assert expected in text
    assert "±" not in text
    assert "nose" not in text  # a figure per joint is for --json


def test_exported_and_predicted():
    exports = (Export("ncnn", ("model.ncnn.param", "model.ncnn.bin"), 4_912_000, 1.234e-6),)
    exported = ExportResult("hrnet_w32", "out", (64, 64), exports, {"onnxruntime": "no such operator"})
    text = shown(print_exported, exported)
    for expected in ("hrnet_w32", "model.ncnn.param, model.ncnn.bin, 4.91 MB", "1.2e-06"):
        assert expected in text
    assert shown(print_exported, replace(exported, exports=())) == ""
    person = Person(1, 1, (1.0, 2.0, 0.5), 0.9, (0.0, 0.0, 1.0, 1.0))
    drawn = (DrawnPicture("my_pictures/a.png", "0_a.png", (person,)), DrawnPicture("b.png", "1_b.png", ()))
    predicted = PredictResult("runs/a", "out", 2, 1, drawn, None, (), ())
    text = shown(print_predicted, predicted)
    assert "1 person → 0_a.png" in text
    assert "0 people → 1_b.png" in text
    text = shown(print_predicted, replace(predicted, drawn=(), results="results.json"))
    assert "results.json" in text


def test_targets_name_what_is_missing_and_tables_whole() -> None:
    """A table's file may be copied from a narrow terminal, behind its engine where it is another device's."""
    engines = (
        Availability("ncnn", "1.0", ("float32",), (), "", ""),
        Availability("mnn", "", (), (), "MNN is not installed", "pip install it"),
    )
    file = "/a/long/folder/of/tables/that/is/wider/than/a/terminal/of/eighty/columns/phone-[1].json"
    phone = Identity("ncnn", "1.0", "a phone", 4, "float16")
    tables = (
        KnownTable(file, phone, 125, True, 2.5),
        KnownTable("here.json", Identity("ncnn", "1.0", "this"), 7, False),
    )
    text = shown(print_targets, TargetsResult(engines, "this", tables), width=80)
    assert "MNN is not installed: pip install it" in " ".join(text.split())
    assert f"ncnn@{file}" in text
    device = "ncnn 1.0, 4 threads, float16, a phone: 125 kernels, timed beside other programs (load 2.5)"
    assert device in " ".join(text.split())
    assert "ncnn 1.0, 1 thread, this machine: 7 kernels" in text
    assert "compress latency build" in shown(print_targets, TargetsResult(engines, "this", ()))


def test_doctor():
    missing = Availability("mnn", "", (), (), "MNN is not installed", "pip install mnn")
    result = DoctorResult(
        targets=TargetsResult((missing,), "a CPU, 2 cores", ()),
        version="1.2",
        python="3.11.7",
        torch="2.13",
        cores=4,
        torch_threads=1,
        load=1.25,
        memory_bytes=8_000_000_000,
        available_bytes=None,
        gpus=(Gpu("a GPU", 140_000_000_000),),
        disk=(DiskSpace("/here", 500_000_000),),
        cache="/cache",
        cache_bytes=2_000_000,
        data=(FoundData("coco", "/data/[coco]"),),
        missing=(MissingPart("a part", "a purpose", "install it"),),
    )
    text = shown(print_doctor, result, width=60)  # long lines are whole, to be copied
    for expected in (
        "compress 1.2, Python 3.11.7, torch 2.13",
        "4 cores may be used; torch trains with 1 thread",
        "1.2: other programs compute, so timings will be unsteady",
        "8.0 GB, unknown available",
        "a GPU, 140.0 GB",
        "0.5 GB free for /here",
        "/cache, 2.00 MB",
        "synthetic, coco:/data/[coco]",
        "the engine mnn: pip install mnn",
        "a part, for a purpose: install it",
    ):
        assert expected in text, expected
    whole = replace(result, targets=TargetsResult((), "a CPU", ()), missing=(), load=0.1)
    text = shown(print_doctor, whole)
    assert "Nothing is missing." in text
    assert "unsteady" not in text
