"""Times the networks in this folder on this device, node by node, as `compress latency unpack` reads it.

    python run.py [--threads 1,2,4] [--rounds 40] [--precision float32]

Needs Python, numpy and the engine that manifest.json names, and nothing else: this file is copied as it is. It writes
results.json after every network, and goes on there when it was killed; for onnxruntime, also the graph it ran of every
network: copy both back with the folder. float16: of ncnn and MNN, where the CPU computes in it.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent
PRIMING, GROUP, REFERENCES = 6, 4, 4  # as in compress/measure/timing.py
DROPPED = 2  # as in compress/measure/profiling.py

Passes = tuple[Callable[[], None], Callable[[], None], Callable[[], dict[str, Any]]]
"""A pass as users run it; one that is timed node by node; names of the nodes, and milliseconds per pass and node."""


def open_onnxruntime(entry: dict[str, Any], threads: int, precision: str) -> Passes:
    """With the profile and the optimised graph as files."""
    import onnxruntime

    path, graph = FOLDER / entry["file"], FOLDER / f"{entry['name']}.optimised.onnx"
    sessions = []
    for profiled in (False, True):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        if profiled:
            options.enable_profiling, options.profile_file_prefix = True, str(FOLDER / entry["name"])
            options.optimized_model_filepath = str(graph)
        sessions.append(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
    feed = {sessions[0].get_inputs()[0].name: image(entry)}

    def finish() -> dict[str, Any]:
        profile = Path(sessions[1].end_profiling())
        events: list[list[dict[str, Any]]] = [[]]
        for event in json.loads(profile.read_text()):
            if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
                events[-1].append(event)
            elif event["name"] == "model_run":
                events.append([])
        profile.unlink()
        times = [[(event["dur"] + 0.5) / 1000 for event in run] for run in events[:-1]]
        return {"graph": graph.name, "events": events[0], "times_ms": times}

    return lambda: sessions[0].run(None, feed), lambda: sessions[1].run(None, feed), finish


LAYOUT, OPTIMISED_LAYOUT = "layout.onnx", "layout.optimised.onnx"


def write_layout() -> None:
    """What onnxruntime makes of LAYOUT here: its size tells in what blocks of channels maps are laid out."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(FOLDER / OPTIMISED_LAYOUT)
    onnxruntime.InferenceSession(str(FOLDER / LAYOUT), options, providers=["CPUExecutionProvider"])


def open_ncnn(entry: dict[str, Any], threads: int, precision: str) -> Passes:
    """ncnn computes a layer when its output is first extracted; a second extraction costs extraction alone."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads, net.opt.use_vulkan_compute = threads, False
    for option in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed"):
        if hasattr(net.opt, f"use_{option}"):
            setattr(net.opt, f"use_{option}", precision == "float16" and option.startswith("fp16"))
    path = FOLDER / entry["file"]
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))
    layers = []
    for line in path.read_text().splitlines()[2:]:
        kind, name, inputs, outputs, *blobs = line.split()
        if kind != "Input":
            layers.append((name, blobs[int(inputs) : int(inputs) + int(outputs)][0]))
    pixels = ncnn.Mat(image(entry)[0]).clone()
    rows: list[list[float]] = []

    def extractor() -> Any:
        made = net.create_extractor()
        made.input(net.input_names()[0], pixels)
        return made

    def run() -> None:
        made = extractor()
        for name in net.output_names():
            made.extract(name, 1)

    def run_timed() -> None:
        made, row = extractor(), []
        for _, blob in layers:
            start = time.perf_counter()
            output = made.extract(blob, 1)
            middle = time.perf_counter()
            del output
            again = time.perf_counter()
            output = made.extract(blob, 1)
            end = time.perf_counter()
            del output
            row.append(max(0.0, (middle - start) - (end - again)) * 1000)
        rows.append(row)

    return run, run_timed, lambda: {"names": [name for name, _ in layers], "times_ms": rows}


def open_mnn(entry: dict[str, Any], threads: int, precision: str) -> Passes:
    """MNN calls back before and after every operation."""
    import MNN

    interpreter = MNN.Interpreter(str(FOLDER / entry["file"]))
    config = {"backend": "CPU", "numThread": threads, "precision": "high" if precision == "float32" else "low"}
    session = interpreter.createSession(config)
    source, values = interpreter.getSessionInput(session, "image"), image(entry)
    host = MNN.Tensor(values.shape, MNN.Halide_Type_Float, values, MNN.Tensor_DimensionType_Caffe)
    rows: list[list[float]] = []
    names: list[str] = []
    row: list[float] = []
    started = 0.0

    def before(tensors: Any, info: Any) -> bool:
        nonlocal started
        if not rows:
            names.append(info.getName())
        started = time.perf_counter()
        return True

    def after(tensors: Any, info: Any) -> bool:
        row.append((time.perf_counter() - started) * 1000)
        return True

    def run() -> None:
        source.copyFrom(host)
        interpreter.runSession(session)

    def run_timed() -> None:
        row.clear()
        interpreter.runSessionWithCallBackInfo(session, before, after)
        rows.append(list(row))

    return run, run_timed, lambda: {"names": names, "times_ms": rows}


def open_openvino(entry: dict[str, Any], threads: int, precision: str) -> Passes:
    """Its counters hold the mean of all passes since the model was loaded, which is done again every PASSES passes."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would report to its makers
    import openvino

    core = openvino.Core()
    model = core.read_model(str(FOLDER / entry["file"]))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    settings |= {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    pixels = [image(entry)]
    names: list[str] = []
    kept: list[list[float]] = []
    counters: list[list[int]] = []

    def opened(counts: bool) -> Any:
        loaded = core.compile_model(model, "CPU", {**settings, "PERF_COUNT": counts})
        if loaded.get_property("INFERENCE_NUM_THREADS") != threads:
            raise SystemExit(f"OpenVINO starts no {threads} threads here: run it with fewer")
        return loaded.create_infer_request()

    plain, timed = opened(False), opened(True)

    def run_timed() -> None:
        nonlocal timed
        if len(counters) == PASSES:
            kept.extend(passes_ms(counters))
            counters.clear()
            timed = opened(True)
        timed.infer(pixels, share_inputs=True)
        found = {info.node_name: info for info in timed.profiling_info}
        if not names:
            names.extend(name for name, info in found.items() if info.status == type(info).Status.EXECUTED)
        counters.append([found[name].real_time // timedelta(microseconds=1) for name in names])

    def finish() -> dict[str, Any]:
        return {"names": names, "times_ms": kept + passes_ms(counters)}

    return lambda: plain.infer(pixels, share_inputs=True), run_timed, finish


PASSES = 6
"""Of OpenVINO, timed on one set of counters."""
STARTING = 2
"""The first of these, which are told from the others: after something else has run, they take longer."""


def passes_ms(counters: Sequence[Sequence[int]]) -> list[list[float]]:
    """Milliseconds [pass][node] from what the counters were after each pass: of every node, the mean over the passes
    so far, in whole microseconds. After the first STARTING passes all have their mean.

    A pass is cut off to microseconds and so is the mean, each by half of one on the average.
    """

    def total(count: int) -> NDArray[np.float64]:
        return count * (np.array(counters[count - 1], np.float64) + 1) - 0.5

    totals = [total(count) for count in range(1, min(len(counters), STARTING) + 1)]
    passes = [now - before for before, now in pairwise([np.zeros_like(totals[0]), *totals])] if totals else []
    later = len(counters) - STARTING
    if later > 0:
        passes += [(total(len(counters)) - totals[-1]) / later] * later
    return [(np.maximum(one, 0.0) / 1000).tolist() for one in passes]


OPEN = {
    "onnxruntime": open_onnxruntime,
    "ncnn": open_ncnn,
    "mnn": open_mnn,
    "mnn_sparse": open_mnn,
    "openvino": open_openvino,
}


def image(entry: dict[str, Any]) -> Any:
    """A random picture of the network's size."""
    return np.random.default_rng(0).standard_normal((1, 3, *entry["input_hw"]), dtype=np.float32)


def version_of(engine: str) -> str:
    """The installed engine's."""
    if engine.startswith("mnn"):
        import MNN

        return str(MNN.version())
    if engine == "openvino":
        import openvino

        return str(openvino.get_version()).partition("-")[0]
    return str(__import__(engine).__version__)


def measure(entry: dict[str, Any], passes: Passes, rounds: int, threads: int, reference: Callable[[], None]) -> Any:
    """One network, whole and node by node, with the reference beside."""
    run, run_timed, finish = passes

    def timed(call: Callable[[], None]) -> float:
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1000

    def timed_references() -> list[float]:
        reference()
        return [timed(reference) for _ in range(REFERENCES)]

    for _ in range(3):
        run()
    whole, beside = [], []
    for first in range(0, rounds, GROUP):
        count = min(GROUP, rounds - first)
        before = timed_references()
        for _ in range(PRIMING):
            run()
        whole += [timed(run) for _ in range(count)]
        beside += [median(before + timed_references())] * count
    references = []
    for _ in range(-(-rounds // GROUP)):
        references += timed_references()
        for _ in range(DROPPED + GROUP):
            run_timed()
    references += timed_references()
    times = {"whole_ms": whole, "beside_ms": beside, "references_ms": references}
    return {"name": entry["name"], "other_load": other_load(threads), **times, **finish()}


def other_load(threads: int) -> float | None:
    """As in compress/measure/timing.py."""
    return max(0.0, os.getloadavg()[0] - threads) if hasattr(os, "getloadavg") else None


def cpuinfo_of(text: str) -> str:
    """Of /proc/cpuinfo, the first core's lines that stay as they are: its clock's frequency does not."""
    lines = text.split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if "mhz" not in line.lower() and "bogomips" not in line.lower())


def facts(engine: str) -> dict[str, Any]:
    """Which engine on which device."""
    cpuinfo = Path("/proc/cpuinfo")
    return {
        "engine": engine,
        "version": version_of(engine),
        "cpuinfo": cpuinfo_of(cpuinfo.read_text(errors="replace")) if cpuinfo.exists() else "",
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }


def main() -> None:
    """Runs everything and writes results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", default="1", help="numbers of threads, with commas")
    parser.add_argument("--rounds", type=int, default=40, help="timed passes of each network")
    parser.add_argument("--precision", choices=("float32", "float16"), default="float32")
    arguments = parser.parse_args()
    manifest = json.loads((FOLDER / "manifest.json").read_text())
    engine, networks = manifest["engine"], manifest["networks"]
    if arguments.precision == "float16" and not engine.startswith(("ncnn", "mnn")):
        parser.error(f"{engine} computes in float32 only")
    # The reference is one of the engine's own small networks: this device need not have onnxruntime.
    reference, _, _ = OPEN[engine](manifest["reference"], 1, "float32")
    if (FOLDER / LAYOUT).exists():
        write_layout()
    path = FOLDER / "results.json"
    here = {**facts(engine), "folder": manifest["folder"], "runs": []}
    known = json.loads(path.read_text()) if path.exists() else here
    if {**known, "runs": []} != here:
        parser.error("results.json is of another device, engine or folder: move it away")
    for threads in map(int, arguments.threads.split(",")):
        wanted = {"threads": threads, "precision": arguments.precision, "rounds": arguments.rounds}
        run = next((one for one in known["runs"] if {key: one[key] for key in wanted} == wanted), None)
        if run is None:
            run = {**wanted, "networks": []}
            known["runs"].append(run)
        done = {one["name"] for one in run["networks"]}
        for number, entry in enumerate(networks, 1):
            if entry["name"] in done:
                continue
            start = time.perf_counter()
            passes = OPEN[engine](entry, threads, arguments.precision)
            run["networks"].append(measure(entry, passes, arguments.rounds, threads, reference))
            part = path.with_suffix(".part")
            part.write_text(json.dumps(known))
            os.replace(part, path)
            took = time.perf_counter() - start
            print(f"{threads} threads, {number}/{len(networks)} {entry['name']}: {took:.1f} s", flush=True)


if __name__ == "__main__":
    main()
