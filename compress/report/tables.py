"""Tables of the commands that write no page, such as networks, doctor, profile, train, evaluate and export."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from compress.report.terminal import (
    BUSY,
    NARROW,
    add_row,
    busy,
    file_size,
    number,
    percent,
    plain_table,
    print_mapping,
    printable,
    short,
    stdout_console,
)

if TYPE_CHECKING:  # whose import takes seconds: it loads torch
    from compress.artefacts.results import (
        Concern,
        DecodingTable,
        DoctorResult,
        EvaluateResult,
        ExportResult,
        ImportResult,
        LayerRow,
        NetworkRow,
        Part,
        PassTime,
        PredictResult,
        ProfileResult,
        SiteTime,
        TargetsResult,
        TrainResult,
        WrittenReport,
    )
    from compress.data.normalisation import Normalisation
    from compress.measure.cross_check import CrossCheck
    from compress.pose.scoring import Figure, Score

_FEW, _MANY = 12, 24  # rows of a short table, and of one that is cut to its costliest
_SITES = 6  # of a concern that are listed
_PATH = 44  # longest path of a module that is shown whole
_MARKS = {"exact": "=", "reconstruction": "~", "reference only": "ref"}


# --- train, evaluate, export, predict --------------------------------------------------------------------------------


def print_trained(result: "TrainResult", console: Console | None = None) -> None:
    """Where the network lies, how the training went, the score, and what makes it faster."""
    score, folder = result.trained.score, result.run.folder
    print_mapping(
        "Trained",
        {
            "artefact": folder,
            "network": result.network,
            "input": _size(result.input_hw),
            "keypoints": result.keypoints,
            "size": f"{short(result.trained.params)} parameters, {short(result.trained.macs)} MACs",
            "loss": f"{result.loss[0]:.4g} → {result.loss[-1]:.4g} in {_plural(len(result.loss), 'epoch')}",
            "speed": f"{result.samples_per_s:.4g} samples/s, {percent(result.data_share)} of the time waiting for data",
            **(_score_lines(score, result.trained.evaluations[0].procedure) if score else {}),
            "next": f"{shlex.join(['compress', 'rewrite', folder])}, or "
            f"{shlex.join(['compress', 'prune', folder, '--latency', '60%'])}",
        },
        console,
    )


def print_evaluated(result: "EvaluateResult", console: Console | None = None) -> None:
    """The score and the metric's other figures."""
    print_mapping(
        "Evaluated",
        {
            "artefact": result.artefact,
            "input": _size(result.input_hw),
            **_score_lines(result.score, result.procedure),
            "other figures": {name: value for name, value in result.score.details.items() if _is_number(value)},
            **({"notes": result.notes} if result.notes else {}),
        },
        console,
    )


def print_imported(result: "ImportResult", console: Console | None = None) -> None:
    """What was found in the file, and what the artefact says of it."""
    found = result.found
    print_mapping(
        "Imported",
        {
            "artefact": result.folder,
            "network": found.network,
            "names of": found.source,
            "size": f"{short(result.parameters)} parameters",
            "approach": result.approach,
            "keypoints": result.keypoints,
            "input": _size(result.input_hw),
            "normalisation": _inputs(result.normalisation),
            "codec": f"{result.codec.name}, sigma {result.codec.sigma:g}",
            "unknown names": _names(found.unknown),
            "unfilled": _names(found.unfilled),
            "without a place": _plural(len(found.dropped), "tensor"),
            **({"made float32": ", ".join(found.converted)} if found.converted else {}),
            **({"beside it": ", ".join(found.beside)} if found.beside else {}),
        },
        console,
    )


def _inputs(normalisation: "Normalisation") -> str:
    """How a picture's bytes become inputs."""
    mean, spread = ([round(255 * value, 3) for value in values] for values in (normalisation.mean, normalisation.std))
    if mean == [0, 0, 0] and spread == [1, 1, 1]:
        return f"{normalisation.channels} as it is"
    if len(set(mean)) == len(set(spread)) == 1:
        return f"{normalisation.channels}, (x - {mean[0]:g}) / {spread[0]:g}"
    return f"{normalisation.channels}, (x - {_numbers(mean)}) / {_numbers(spread)}"


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"


def _names(names: Sequence[str]) -> str:
    """All of them: what a network was not given must be seen."""
    return ", ".join(names) or "none"


def print_exported(result: "ExportResult", console: Console | None = None) -> None:
    """One line per engine; nothing where every engine refused the network."""
    if not result.exports:
        return
    lines = {
        export.engine: f"{', '.join(export.files)}, {file_size(export.size_bytes)}, relative error against torch "
        f"{export.parity:.1e}"
        for export in result.exports
    }
    network = {
        "network": result.network,
        "folder": result.folder,
        "input": f"{_size(result.input_hw)}, {_inputs(result.inputs)}",
    }
    print_mapping("Exported", network | lines, console)


def print_predicted(result: "PredictResult", console: Console | None = None) -> None:
    """One line per picture drawn, or what was written."""
    if result.results is not None:
        counts = {"pictures": result.pictures, "people": result.people, "results": result.results}
        print_mapping(f"Written to {result.folder}", counts, console)
        return
    people = {one.file: f"{_plural(len(one.people), 'person', 'people')} → {one.drawn}" for one in result.drawn}
    print_mapping(f"Drawn in {result.folder}", people, console)


def print_report(result: "WrittenReport", console: Console | None = None) -> None:
    """Where the page is, and what the run folder lacks."""
    lines = {"page": result.page, "beside it": ", ".join(file for file in result.files if file != result.page)}
    print_mapping("Report", {**lines, **({"missing": list(result.missing)} if result.missing else {})}, console)


def _score_lines(score: "Score", procedure: str) -> dict[str, str]:
    error = "" if score.standard_error is None else f" ± {score.standard_error:.3f} (one standard error)"
    of = f"{_plural(score.pictures, 'picture')} of {score.data}, {procedure}, {score.provenance}"
    return {score.metric: f"{number(score.value, '.3f')}{error}", "of": of}


def _is_number(value: "Figure") -> bool:
    return value is None or isinstance(value, int | float)


def _size(input_hw: Sequence[int]) -> str:
    return "x".join(map(str, input_hw))


def _plural(count: int, one: str, several: str | None = None) -> str:
    return f"{count} {one if count == 1 else several or one + 's'}"


# --- networks --------------------------------------------------------------------------------------------------------


def print_targets(result: "TargetsResult", console: Console | None = None) -> None:
    """Engines with what they compute in, or what is missing; then the latency tables."""
    console = console or stdout_console()
    console.print(Text(printable(f"This machine: {result.device}"), style="bold"), soft_wrap=True)
    table = plain_table("engine", "version", "precisions", "providers", "")
    for one in result.engines:
        note = "" if one.installed else f"{one.missing}: {one.install}"
        add_row(table, one.engine, one.version or "–", ", ".join(one.precisions), ", ".join(one.providers), note)
    console.print(table)
    if not result.tables:
        line = (
            "No latency table is kept here: `compress latency build` makes one of this machine, `pack` one of another."
        )
        console.print(Text(line, style="dim"))
        return
    console.print(Text("\nLatency tables", style="bold"))
    for known in result.tables:
        where = known.identity.device if known.foreign else "this machine"
        identity = replace(known.identity, device=where)
        beside = f", timed {busy(known.other_load)}" if busy(known.other_load) else ""
        console.print(Text(printable(f"{identity}: {known.kernels} kernels{beside}")))
        name = f"{known.identity.engine}@{known.file}" if known.foreign else known.file
        console.print(Text(f"  {printable(name)}", style="dim"), soft_wrap=True)  # whole, to be copied


def print_doctor(result: "DoctorResult", console: Console | None = None) -> None:
    """Engines and latency tables, then versions, cores, memory, GPUs, disk and data sets; last what is missing."""
    console = console or stdout_console()
    print_targets(result.targets, console)
    cores = f"{_plural(result.cores, 'core')} may be used; torch trains with {_plural(result.torch_threads, 'thread')}"
    memory = f"{_gigabytes(result.memory_bytes)}, {_gigabytes(result.available_bytes)} available"
    lines = {
        "versions": f"compress {result.version}, Python {result.python}, torch {result.torch}",
        "cores": cores,
        "load": f"{number(result.load, '.1f')}{_busy(result.load)}",
        "memory": memory,
        "GPU": ", ".join(f"{one.name}, {_gigabytes(one.memory_bytes)}" for one in result.gpus)
        or "none that torch can use: training runs on the CPU",
        "disk": ", ".join(f"{_gigabytes(one.free_bytes)} free for {one.folder}" for one in result.disk),
        "cache": f"{result.cache}, {file_size(result.cache_bytes)}",
        "data": ", ".join(["synthetic", *(f"{one.kind}:{one.folder}" for one in result.data)]),
    }
    console.print()
    print_mapping("This installation", lines, console)
    engines = [f"the engine {one.engine}: {one.install}" for one in result.targets.engines if not one.installed]
    parts = [f"{one.name}, for {one.purpose}: {one.install}" for one in result.missing]
    console.print()
    if not engines and not parts:
        console.print("Nothing is missing.")
        return
    console.print(Text("Not installed, and only needed for what it says", style="bold"))
    for line in (*engines, *parts):
        console.print(Text(printable(f"  {line}")), soft_wrap=True)


def _busy(load: float | None) -> str:
    """What a machine's load means for timings."""
    return "" if load is None or load < BUSY else ": other programs compute, so timings will be unsteady"


def _gigabytes(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else f"{size_bytes / 1e9:.1f} GB"


def print_networks(rows: "Sequence[NetworkRow]", console: Console | None = None) -> None:
    """One line per row of `compress networks`: ours, then ours/the paper's as the paper counts. Fits 100 columns."""
    console = console or stdout_console()
    table = plain_table("network", "input", "params", "MACs", "params M", "FLOPs G", "as", "AP", "")
    table.collapse_padding = True
    approach = None
    for row in rows:
        if row.approach != approach:
            approach = row.approach
            table.add_section()
            table.add_row(Text(printable(approach), style="bold"))
        add_row(
            table,
            row.name,
            "–" if row.input_hw is None else _size(row.input_hw),
            short(row.params),
            short(row.macs),
            _beside(row.params_m, row.published_params_m),
            _beside(row.flops_g, row.published_flops_g),
            row.convention,
            number(row.published_ap, "g"),
            _MARKS.get(row.mark, row.mark),
        )
    console.print(table)
    lines = [
        "params, MACs: ours, each parameter and multiply-add once. params M, FLOPs G: ours/the paper's, counted as the "
        "paper does (see compress/measure/counting.py). AP: the paper's, COCO val2017, %.",
        "Last column: = our counts equal the paper's; ~ reconstruction; ref only listed, not built.",
    ]
    notes = list(dict.fromkeys(f"{row.name}: {row.note}" for row in rows if row.note))
    if len(notes) > _FEW:
        lines += ["Notes on a network: compress networks --set 'names=[NAME]', or --json."]
        notes = []
    for line in [*lines, *notes]:
        console.print(Text(printable(line), style="dim"), width=min(console.width, NARROW))


# --- profile ---------------------------------------------------------------------------------------------------------


def print_profile(result: "ProfileResult", console: Console | None = None) -> None:
    """The tables of `compress profile`: stages, resolutions, costliest layers, concerns, ptflops. 100 columns wide."""
    console = console or stdout_console()
    whole = f"{short(result.params)} parameters · {short(result.macs)} MACs"
    memory = f"{file_size(result.activation_bytes)} of activations"
    title = f"{result.network} at {_size(result.input_hw)} · {whole} · {memory}"
    console.print(Text(printable(title), style="bold"))
    layers = sorted(result.layers, key=lambda layer: -layer.macs)
    costliest = f"layer (the costliest {min(_FEW, len(layers))} of {len(layers)})"
    tables: list[tuple[str, list[tuple[str, Part | LayerRow]]]] = [
        ("stage", [(stage.name, stage) for stage in result.stages]),
        ("resolution", [(resolution.name, resolution) for resolution in result.resolutions]),
        (costliest, [(layer.path, layer) for layer in layers[:_FEW]]),
    ]
    for title, rows in tables:
        table = plain_table(title, "params", "MACs", "share", "activations")
        table.collapse_padding = True
        shown = sorted(rows, key=lambda row: -row[1].macs)[:_MANY] if len(rows) > _MANY else rows
        for name, row in shown:
            cells = short(row.params), short(row.macs), percent(row.share), file_size(row.activation_bytes)
            add_row(table, _path(name), *cells)
        if len(rows) > len(shown):
            add_row(table, f"… and {len(rows) - len(shown)} more, see --json", "", "", "", "")
        console.print(table)
        console.print()
    if result.balance:
        console.print(Text("MACs of the stages' blocks by resolution (BHRNet paper, Table I)", style="bold"))
        shares = "   ".join(f"{resolution}: {percent(share)}" for resolution, share in result.balance.items())
        console.print(Text(f"  {shares}\n"))
    _print_concerns(result.concerns, result.timing, console)
    _print_ptflops(result.ptflops, result.macs, console)
    if result.decoding:
        _print_decoding(result.decoding, console)
    for one in result.uncounted:
        place = f"{one.path or 'the network'} ({one.kind})"
        console.print(Text(printable(f"not counted: {', '.join(one.operators)} in {place}")))


def _print_decoding(decoding: "DecodingTable", console: Console) -> None:
    table = plain_table(f"decoding ({decoding.maps} maps)", "ms", "quartiles", "people", "passes")
    for row in decoding.rows:
        quartiles = f"{number(row.latency.q1_ms, '.2f')} – {number(row.latency.q3_ms, '.2f')}"
        add_row(table, row.choice, f"{row.latency.ms:.2f}", quartiles, f"{row.people:.1f}", str(row.passes))
    console.print(table)
    note = "From maps to people, per picture, one thread, measured. Passes: of the network, whose time comes on top."
    console.print(Text(note, style="dim"))
    if not any(row.people for row in decoding.rows):
        console.print(Text("Nobody was found: decoding takes longer where there are people."))


def _print_concerns(concerns: "Sequence[Concern]", timing: "PassTime | None", console: Console) -> None:
    console.print(Text("What mobile engines handle badly", style="bold"))
    for one in concerns:
        names = ", ".join(map(_path, one.layers[:2])) + (", …" if len(one.layers) > 2 else "")
        time = f", {one.time.ms:.2f} ms or {percent(one.time.time_share)} of the time" if one.time else f" ({names})"
        layers = _plural(len(one.layers), "layer")
        console.print(Text(printable(f"  {one.operator}: {layers}, {percent(one.share)} of the MACs{time}")))
        console.print(Text(printable(f"    {one.reason}"), style="dim"))
        if one.time:
            _print_sites(one.time.sites, console)
    if not concerns:
        console.print("  nothing found")
    if timing:
        _print_timing(timing, console)
    console.print()


def _print_sites(sites: "Sequence[SiteTime]", console: Console) -> None:
    """The costliest, and what replaces each."""
    for site in sites[:_SITES]:
        cost = f"{number(site.ms, '.2f'):>8} ms {percent(site.time_share):>7}"
        rules = f": {', '.join(site.rules)}" if site.rules else ""
        console.print(Text(printable(f"    {cost}  {_path(site.path)}{rules}")), width=min(console.width, NARROW))
    if len(sites) > _SITES:
        console.print(f"    … and {len(sites) - _SITES} more, see --json")


def _print_timing(timing: "PassTime", console: Console) -> None:
    latency = timing.latency
    rest = ", ".join(f"{operator} {percent(share)}" for operator, share in list(timing.rest.items())[:3])
    lines = [
        f"{latency.ms:.2f} ms a pass (quartiles {number(latency.q1_ms, '.2f')} – {number(latency.q3_ms, '.2f')}"
        f"{'' if latency.reliable else ', unreliable'}), {latency.provenance} on {latency.target}.",
        "A layer's time has in it what the engine fuses into it; – is what it fuses into another layer.",
        f"No layer's: {percent(timing.unattributed)} of the time{f' ({rest})' if rest else ''}.",
        "After the colon: the rules of `compress rewrite` that replace it.",
    ]
    for line in lines:
        console.print(Text(printable(line), style="dim"), width=min(console.width, NARROW))


def _print_ptflops(theirs: "CrossCheck", macs: int, console: Console) -> None:
    if theirs.macs is None:
        console.print(Text(printable(f"ptflops cannot count this network: {theirs.failure}")))
        return
    share = percent((theirs.macs - macs) / max(1, macs), sign=True)
    console.print(Text(f"ptflops counts {short(theirs.macs)}, {share} against ours", style="bold"))
    if theirs.failure:
        console.print(Text(printable(f"modules only, as it fails on a function: {theirs.failure}"), style="dim"))
    table = plain_table("operator", "ptflops", "ours", "note")
    table.collapse_padding = True
    for row in theirs.differences:
        add_row(table, row.operator, short(row.ptflops), short(row.ours), row.cause)
    console.print(table)


def _path(path: str) -> str:
    """A module's path, its middle left out if it is long."""
    return path or "(the network)" if len(path) <= _PATH else f"{path[: _PATH // 2 - 1]}…{path[-_PATH // 2 :]}"


def _beside(ours: float | None, paper: float | None) -> str:
    """'23.32/23.3': ours and the paper's, a dash for none; three decimals below 1."""
    decimals = ".3f" if ours is not None and ours < 1 else ".2f"
    return f"{number(ours, decimals)}/{number(paper, '.3g' if paper is not None and paper < 1 else '.4g')}"
