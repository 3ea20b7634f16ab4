"""The command line. Imports nothing heavy until a command runs, so that help answers at once."""

import contextlib
import itertools
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from compress import __version__
from compress.errors import (
    BudgetError,
    CompressError,
    DataError,
    NetworkError,
    RecipeError,
    no_artefact,
    unknown_network,
)
from compress.files import check_writable
from compress.report.latency import print_built, print_checked, print_compared, print_shown
from compress.report.progress import Terminal
from compress.report.terminal import print_error, print_mapping, print_networks, print_note, print_profile, print_search

if TYPE_CHECKING:
    from compress.recipe import AnyRecipe

app = typer.Typer(
    help="Makes human-pose networks fast on the device they must run on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print a machine-readable result on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no tables.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.SUB=VALUE", help="Override a recipe key; the value is YAML. Repeatable."),
]
RunFolder = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Run folder; a killed run goes on from there.",
        show_default="reports/NAME-TIME",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", metavar="FILE", help="Recipe by path or by name.", show_default="the defaults"),
]
NetworkArgument = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK", help="A network's name, an artefact's folder, package.module:function or a .onnx file."
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="KIND[:FOLDER]",
        help="synthetic, or coco, crowdpose, mpii, lsp with their folder; short for data.kind and data.disk.folder.",
        show_default="the artefact's, else synthetic",
    ),
]
EngineOption = Annotated[
    str | None,
    typer.Option(help="That milliseconds are of: onnxruntime, ncnn, mnn, ...", show_default="onnxruntime"),
]
ArtefactArgument = Annotated[Path, typer.Argument(metavar="ARTEFACT", help="Folder of a trained network.")]


@app.command()
def search(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe by path, or by name such as 'bhrnet'.")],
    run: RunFolder = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search architectures for the best trade of accuracy against latency; tune, export and measure the best. Exit code
    3: no candidate reaches half of the best baseline's score."""

    def job(terminal: Terminal) -> dict[str, Any]:
        from compress.recipe import SearchRecipe, find, read_recipe

        path = find(recipe, "recipes", RecipeError)
        settings = read_recipe(path, SearchRecipe, overrides or ())
        from compress.jobs.search import search as jobs_search
        from compress.report.page import write_report

        folder = output_folder(run, path.stem)
        results = jobs_search.search(settings, folder, terminal)
        write_report(results, folder)
        return results

    def code(result: dict[str, Any]) -> int:
        return 0 if any(network["role"] == "finalist" for network in result["networks"]) else MISSED

    perform(job, print_search, as_json=as_json, quiet=quiet, code=code)


@app.command()
def networks(overrides: Overrides = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List the networks: parameters and multiply-adds, ours beside the papers'."""

    def job(terminal: Terminal) -> list[dict[str, Any]]:
        from compress.recipe import NetworksRecipe, read_recipe

        settings = read_recipe(None, NetworksRecipe, overrides or ())
        from compress.jobs.networks import list_networks

        return list_networks(settings.names)

    perform(job, print_networks, as_json=as_json, quiet=quiet)


@app.command()
def profile(
    network: NetworkArgument,
    engine: Annotated[str | None, typer.Option(help="Time what it handles badly: onnxruntime, ncnn or mnn.")] = None,
    decode: Annotated[bool, typer.Option("--decode", help="Time the ways to read people from its maps.")] = False,
    data: DataOption = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show where a network's parameters, multiply-adds and memory go, and what mobile engines handle badly."""

    def job(terminal: Terminal) -> dict[str, Any]:
        from compress.recipe import ProfileRecipe

        options = {"--decode": ["decode=true"] if decode else []}
        options["--engine"] = [] if engine is None else [f"engine={engine}"]
        check_network(network)
        settings = settings_of(ProfileRecipe, None, overrides, data, options)
        from compress.jobs.profile import profile as jobs_profile

        return jobs_profile.profile(network, settings, terminal)

    perform(job, print_profile, as_json=as_json, quiet=quiet)


@app.command()
def train(
    network: NetworkArgument,
    recipe: RecipeOption = None,
    data: DataOption = None,
    run: RunFolder = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on labelled pictures; with torchrun on several GPUs or machines."""

    def job(terminal: Terminal) -> dict[str, Any]:
        from compress.recipe import TrainRecipe

        check_network(network)
        settings = settings_of(TrainRecipe, recipe, overrides, data)
        from compress.jobs.train import train_network

        return train_network(network, settings, output_folder(run, f"train-{file_name(network)}"), terminal)

    perform(job, printer("Trained"), as_json=as_json, quiet=quiet)


@app.command()
def prune(
    network: NetworkArgument,
    ratio: Annotated[float | None, typer.Option(help="Share of the channels (or weights) that go, 0..1.")] = None,
    macs: Annotated[float | None, typer.Option(help="Share of the multiply-adds that stays, 0..1.")] = None,
    latency: Annotated[
        str | None,
        typer.Option(metavar="MS|R%", help="Measured time to reach, in milliseconds or of the network's own."),
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="channel, block, pattern, nm or unstructured.", show_default="channel")
    ] = None,
    criterion: Annotated[
        str | None, typer.Option(help="What matters: l2, taylor, fpgm, ...", show_default="l2")
    ] = None,
    allocate: Annotated[
        str | None, typer.Option(help="uniform, global, sensitivity or latency.", show_default="uniform")
    ] = None,
    engine: EngineOption = None,
    analyse: Annotated[bool, typer.Option("--analyse", help="Only measure each layer's sensitivity.")] = False,
    recipe: RecipeOption = None,
    data: DataOption = None,
    run: RunFolder = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Prune a network, fine-tune it with itself as teacher, export and measure it. Exit code 3: the goal was missed."""

    def job(terminal: Terminal) -> Any:
        from compress.recipe import PruneRecipe

        check_network(network)
        goals = {"ratio": ratio, "macs": macs, "latency": latency}
        options: dict[str, list[str]] = {}
        if any(goal is not None for goal in goals.values()):  # instead of the recipe's goal
            options["the recipe's goal"] = [f"pruning.{goal}=null" for goal in (*goals, "latency_ms")]
        asked = {"ratio": ratio, "macs": macs, "scheme": scheme, "criterion": criterion, "allocate": allocate}
        options |= {f"--{key}": [f"pruning.{key}={value}"] for key, value in asked.items() if value is not None}
        options |= {} if latency is None else {"--latency": [latency_goal(latency)]}
        options |= {"--engine": engine_settings(engine)}
        settings = settings_of(PruneRecipe, recipe, overrides, data, options)
        from compress.jobs.prune import prune as jobs_prune
        from compress.report.prune import write_analysed, write_pruned

        folder = output_folder(run, f"prune-{file_name(network)}")
        if analyse:
            analysed = jobs_prune.analyse(network, settings, folder, terminal)
            write_analysed(analysed, folder)
            return analysed
        pruned = jobs_prune.prune(network, settings, folder, terminal)
        write_pruned(pruned, folder)
        return pruned

    def show(result: Any) -> None:
        from compress.report.prune import print_analysed, print_pruned

        (print_analysed if analyse else print_pruned)(result)

    def code(result: Any) -> int:
        return MISSED if not analyse and result.goal and result.goal.met is not True else 0

    perform(job, show, as_json=as_json, quiet=quiet, code=code)


@app.command()
def rewrite(
    network: Annotated[
        str | None,
        typer.Argument(
            metavar="NETWORK", help="A network's name, an artefact's folder, package.module:function or a .onnx file."
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="NAME", help="Only this one; repeatable.", show_default="all"),
    ] = None,
    list_rules: Annotated[bool, typer.Option("--list", help="List the rules and leave.")] = False,
    engine: EngineOption = None,
    min_gain: Annotated[
        float | None,
        typer.Option(help="Share of the measured time that a replacement must save, 0..1.", show_default="0.01"),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(help="What all may lose of the score before fine-tuning, 0..1.", show_default="0.02"),
    ] = None,
    depth: Annotated[int | None, typer.Option(help="Instead: so many layers at the same multiply-adds.")] = None,
    recipe: RecipeOption = None,
    data: DataOption = None,
    run: RunFolder = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Replace operators that are slow on the engine, site by site where it pays; fine-tune, export and measure."""

    def job(terminal: Terminal) -> Any:
        if list_rules:
            from compress.jobs.rewrite.rewrite import list_rules as known_rules

            return known_rules()
        if network is None:
            raise RecipeError("a network must be given", place="compress rewrite", remedy="give NETWORK, or --list")
        from compress.recipe import RewriteRecipe

        check_network(network)
        asked = {"min_gain": min_gain, "max_loss": max_loss, "depth": depth}
        options = {
            f"--{key.replace('_', '-')}": [f"rewriting.{key}={value}"]
            for key, value in asked.items()
            if value is not None
        }
        options |= {"--rule": [f"rewriting.rules={json.dumps(rule)}"]} if rule else {}
        options |= {"--engine": engine_settings(engine)}
        settings = settings_of(RewriteRecipe, recipe, overrides, data, options)
        from compress.jobs.rewrite import rewrite as jobs_rewrite
        from compress.report.rewrite import write_rewritten

        folder = output_folder(run, f"rewrite-{file_name(network)}")
        result = jobs_rewrite.rewrite(network, settings, folder, terminal)
        write_rewritten(result, folder)
        return result

    def show(result: Any) -> None:
        from compress.report.rewrite import print_rewritten, print_rules

        (print_rules if list_rules else print_rewritten)(result)

    perform(job, show, as_json=as_json, quiet=quiet)


def engine_settings(name: str | None) -> list[str]:
    """Overrides that measure on this engine, and export to it beside the usual ones."""
    if name is None:
        return []
    from compress.recipe import ChangeRecipe

    usual = ChangeRecipe.model_fields["exports"].default
    exports = [] if name in usual else [f"exports=[{','.join((*usual, name))}]"]
    return [f"engine={name}", *exports]


def latency_goal(text: str) -> str:
    """`50%` or milliseconds, as an override of the recipe. Raises RecipeError."""
    share = text.endswith("%")
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        raise RecipeError(
            "it is milliseconds or a share such as 50%", place="--latency", value=text, remedy="write 5.2 or 50%"
        ) from None
    return f"pruning.latency={value / 100}" if share else f"pruning.latency_ms={value}"


@app.command()
def evaluate(
    artefact: ArtefactArgument,
    recipe: RecipeOption = None,
    data: DataOption = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score a trained network by the metric of the data: AP, PCKh or PCK."""

    def job(terminal: Terminal) -> dict[str, Any]:
        from compress.recipe import EvaluateRecipe

        check_artefact(artefact)
        settings = settings_of(EvaluateRecipe, recipe, overrides, data)
        from compress.jobs import evaluate as jobs_evaluate

        return jobs_evaluate.evaluate(artefact, settings, terminal)

    perform(job, printer("Evaluated"), as_json=as_json, quiet=quiet)


@app.command()
def export(
    network: NetworkArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where the exports go.",
            show_default="an artefact's folder, else reports/export-NAME-TIME",
        ),
    ] = None,
    recipe: RecipeOption = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Export a network to the engines, its outputs compared with torch's."""

    def job(terminal: Terminal) -> dict[str, Any]:
        from compress.recipe import ExportRecipe

        check_network(network)
        settings = settings_of(ExportRecipe, recipe, overrides)
        from compress.jobs import export as jobs_export

        beside = out or (Path(network) if Path(network).is_dir() else None)
        folder = output_folder(beside, f"export-{file_name(network)}")
        return jobs_export.export(network, settings, folder, terminal)

    def show(result: dict[str, Any]) -> None:
        if result["exports"]:
            print_mapping("Exported", {key: value for key, value in result.items() if key != "failed_exports"})

    perform(job, show, as_json=as_json, quiet=quiet)


@app.command()
def predict(
    artefact: ArtefactArgument,
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PICTURE", help="Picture files or folders of them; none with --data."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="KIND:FOLDER",
            help="Take the validation pictures of this data, with their ids and boxes: coco, crowdpose or lsp.",
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option("--annotations", metavar="FILE", help="COCO file that numbers the given pictures."),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="drawn|coco",
            help="Skeletons drawn into the pictures, or results.json as COCO's evaluation reads it.",
            show_default="drawn",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where synthetic pictures and people.json, or results.json, go.",
            show_default="reports/predict-TIME",
        ),
    ] = None,
    recipe: RecipeOption = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find people in pictures; draw their skeletons and list their joints. Exit code 1: broken ones were left out."""

    def job(terminal: Terminal) -> dict[str, Any]:
        from compress.recipe import PredictRecipe

        check_artefact(artefact)
        options = {
            "--annotations": [] if annotations is None else [f"annotations={json.dumps(str(annotations))}"],
            "--format": [] if form is None else [f"format={form}"],
        }
        settings = settings_of(PredictRecipe, recipe, overrides, data, options)
        if not pictures and settings.data is None:
            raise DataError(
                "there must be pictures", place="PICTURE", remedy="give files or folders, or --data KIND:FOLDER"
            )
        for path in pictures or ():
            if not path.exists():
                raise DataError("no such picture or folder", place=str(path), remedy="check the path")
        from compress.jobs import predict as jobs_predict

        return jobs_predict.predict(artefact, pictures or (), settings, output_folder(out, "predict"), terminal)

    def show(result: dict[str, Any]) -> None:
        if "results" in result:
            written = {"pictures": result["pictures"], "people": result["people"], "results": result["results"]}
            print_mapping(f"Written to {result['folder']}", written)
            return
        people = {entry["file"]: f"{len(entry['people'])} people → {entry['drawn']}" for entry in result["pictures"]}
        print_mapping(f"Drawn in {result['folder']}", people)

    def code(result: dict[str, Any]) -> int:
        for broken in result["skipped"] if quiet else ():  # else the job has said so
            print_note(f"left out: {broken}")
        return 1 if result["skipped"] else 0

    perform(job, show, as_json=as_json, quiet=quiet, code=code)


latency = typer.Typer(
    help="A table of what parts of networks take on a device, and what it predicts.", no_args_is_help=True
)
app.add_typer(latency, name="latency")

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...", help="Search spaces by name or .yaml file, and networks as for other commands."
    ),
]
TableOption = Annotated[
    Path | None,
    typer.Option(
        "--table", metavar="FILE", help="The latency table.", show_default="the one kept for this engine and machine"
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The packed folder.")]


@latency.command("build")
def latency_build(
    sources: Sources,
    table: TableOption = None,
    again: Annotated[bool, typer.Option("--again", help="Time all of the sources' kernels anew.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Time what the table lacks of the sources' kernels on this machine, or has only uncertain times of; a killed build
    goes on where it was."""

    def job(terminal: Terminal) -> dict[str, Any]:
        from compress.recipe import LatencyRecipe

        settings = settings_of(LatencyRecipe, None, overrides)
        from compress.jobs.latency import latency as jobs_latency

        return jobs_latency.build(sources, settings, table, terminal, again)

    perform(job, print_built, as_json=as_json, quiet=quiet)


@latency.command("show")
def latency_show(
    network: NetworkArgument,
    table: TableOption = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Predict a network's latency and show where it goes."""

    def job(terminal: Terminal) -> dict[str, Any]:
        from compress.recipe import LatencyRecipe

        settings = settings_of(LatencyRecipe, None, overrides)
        from compress.jobs.latency import latency as jobs_latency

        return jobs_latency.show(network, settings, table, terminal)

    perform(job, print_shown, as_json=as_json, quiet=quiet)


@latency.command("check")
def latency_check(
    sources: Sources,
    table: TableOption = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure unseen networks and compare them with what the table predicts."""

    def job(terminal: Terminal) -> dict[str, Any]:
        from compress.recipe import LatencyRecipe

        settings = settings_of(LatencyRecipe, None, overrides)
        from compress.jobs.latency import latency as jobs_latency

        return jobs_latency.check(sources, settings, table, terminal)

    perform(job, print_checked, as_json=as_json, quiet=quiet)


@latency.command("merge")
def latency_merge(
    tables: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Tables of one device and engine.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write one table with the kernels of several, such as colleagues measured on the same kind of machine."""

    def job(terminal: Terminal) -> dict[str, Any]:
        check_writable(out.parent)
        from compress.jobs.latency import latency as jobs_latency

        return jobs_latency.merge_files(tables, out)

    perform(job, printer("Merged"), as_json=as_json, quiet=quiet)


@latency.command("diff")
def latency_diff(
    first: Annotated[Path, typer.Argument(metavar="FIRST")],
    second: Annotated[Path, typer.Argument(metavar="SECOND")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show what tells two tables apart: devices, kernels, and how much the common kernels' times changed."""

    def job(terminal: Terminal) -> dict[str, Any]:
        from compress.jobs.latency import latency as jobs_latency

        return jobs_latency.compare_files(first, second)

    perform(job, print_compared, as_json=as_json, quiet=quiet)


@latency.command("pack")
def latency_pack(
    sources: Sources,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a folder that times the sources' kernels on another device: `python run.py` needs only the engine."""

    def job(terminal: Terminal) -> dict[str, Any]:
        from compress.recipe import LatencyRecipe

        settings = settings_of(LatencyRecipe, None, overrides)
        check_writable(out)
        from compress.jobs.latency import pack as jobs_pack

        return jobs_pack.pack(sources, settings, out, terminal)

    perform(job, printer("Packed"), as_json=as_json, quiet=quiet)


@latency.command("unpack")
def latency_unpack(
    folder: Folder,
    table: TableOption = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Read benchncnn's results; they are of this device.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn the results of a packed folder into a table of the device it was run on."""

    def job(terminal: Terminal) -> dict[str, Any]:
        from compress.jobs.latency import pack as jobs_pack

        return jobs_pack.unpack(folder, table, device, terminal)

    perform(job, printer("Unpacked"), as_json=as_json, quiet=quiet)


def settings_of(
    model: "type[AnyRecipe]",
    recipe: str | None,
    overrides: list[str] | None,
    data: str | None = None,
    options: Mapping[str, Sequence[str]] | None = None,
) -> "AnyRecipe":
    """The recipe of that path or name, or all defaults, with `--data`, the options and the overrides applied.

    options: the overrides that each option stands for. Raises RecipeError, and DataError for a folder of data that is
    not there.
    """
    from compress.recipe import data_folder, find, read_recipe

    path = find(recipe, "recipes", RecipeError) if recipe else None
    kind, _, folder = (data or "").partition(":")
    if data is not None and (not kind or (kind == "synthetic" and folder)):
        raise RecipeError(
            "it is KIND or KIND:FOLDER, and synthetic pictures have no folder",
            place="--data",
            value=data,
            remedy="name the kind of data in that folder: coco, crowdpose, mpii or lsp",
        )
    chosen = [f"data.kind={kind}"] if kind else []
    if folder:
        chosen.append(f"data.disk.folder={json.dumps(folder)}")
    settings = read_recipe(path, model, overrides or (), {**(options or {}), "--data": chosen})
    data_asked = getattr(settings, "data", None)
    if data_asked is not None and data_asked.kind != "synthetic":
        data_folder(data_asked.disk)
    return settings


def check_network(name: str) -> None:
    """Raises ArtefactError or NetworkError for a NETWORK that nothing can be, before anything heavy is imported to read
    it."""
    if Path(name).suffix == ".onnx" and not Path(name).is_file():
        raise NetworkError("no such file", place=name, remedy="give the path of an ONNX file")
    known = json.loads(_COUNTS.read_text(encoding="utf-8"))
    if name in known or ":" in name or Path(name).suffix in (".yaml", ".yml", ".onnx"):
        return
    if not (Path(name) / "architecture.yaml").is_file():
        raise unknown_network(name, known)


def check_artefact(folder: Path) -> None:
    """Raises ArtefactError for a folder without an architecture, before anything heavy is imported to read it."""
    if not (folder / "architecture.yaml").is_file():
        raise no_artefact(folder)


MISSED = 3
"""Exit code of a job that did its work and did not reach what it was asked for."""

_COUNTS = Path(__file__).parent / "networks" / "counts.json"


def perform(
    job: Callable[[Terminal], Any],
    show: Callable[[Any], None],
    *,
    as_json: bool,
    quiet: bool,
    code: Callable[[Any], int] = lambda result: 0,
) -> None:
    """Runs a command's job; prints its result once, as JSON or as tables. A user's mistake ends with exit code 2, also
    as JSON where that is asked for; Ctrl-C with 130, and with the command that goes on.

    code: the exit code of a result. A result that lists `failed_exports`, one line each, tells it last, with 2.

    Of several processes that torchrun started only the first one prints results; each prints its own mistake, which
    may be of a picture that no other process read.
    """
    rank = os.environ.get("RANK", "0")
    speaks = rank == "0"
    whose = "" if speaks else f"process {rank}: "
    try:
        result = job(Terminal(quiet=quiet or not speaks))
    except CompressError as error:
        fail(f"{whose}{error}", as_json and speaks, type(error).__name__, error)
    except OSError as error:
        what = f"{error.filename or 'file system'}: {error.strerror or error}"
        fail(f"{whose}{what}; check the path, its rights and the disk", as_json and speaks, type(error).__name__)
    except (MemoryError, RuntimeError) as error:  # torch has no type of its own for a CPU's memory
        words = str(error)
        if isinstance(error, RuntimeError) and not any(one in words for one in ("allocate memory", "out of memory")):
            raise
        asked = re.search(r"ried to allocate ([\d.]+ \w+)", words)
        amount = f" (asked for {asked[1]})" if asked else ""
        text = f"out of memory{amount}; take a smaller input size, batch or network"
        fail(f"{whose}{text}", as_json and speaks, "MemoryError")
    except KeyboardInterrupt as stopped:
        if speaks:
            print_note(f"stopped; {how_to_go_on(getattr(stopped, 'folder', None))}")
        raise typer.Exit(130) from None
    finally:
        while _MADE:
            with contextlib.suppress(OSError):  # something lies there
                _MADE.pop().rmdir()
    if not speaks:
        return
    refused = result.get("failed_exports") if isinstance(result, dict) else getattr(result, "failed_exports", None)
    if as_json:
        if not isinstance(result, dict):
            from compress.artefacts.records import to_plain

            result = [to_plain(one) for one in result] if isinstance(result, list) else to_plain(result)
        mistake = {"error": {"kind": "EngineError", "message": "; ".join(refused)}} if refused else {}
        told = {**result, **mistake} if mistake else result
        sys.stdout.write(json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n")
    elif not quiet:
        show(result)
    for line in refused or ():
        print_error(line)
    if number := 2 if refused else code(result):
        raise typer.Exit(number)


def fail(message: str, as_json: bool, kind: str, error: CompressError | None = None) -> NoReturn:
    """Ends with the mistake on one line of stderr, as JSON on stdout too, and exit code 2; of a missed budget 3."""
    print_error(message)
    if as_json:
        parts = {"rule": error.rule, "place": error.place, "remedy": error.remedy} if error else {}
        value = {} if error is None or error.value is None else {"value": str(error.value)}
        mistake = {"kind": kind, "message": message, **parts, **value}
        sys.stdout.write(json.dumps({"error": mistake}, ensure_ascii=False) + "\n")
    raise typer.Exit(MISSED if isinstance(error, BudgetError) else 2)


def how_to_go_on(folder: Path | None) -> str:
    """What to type after Ctrl-C. folder: the run's, if one was open."""
    if folder is None:
        return "no run folder was open yet: nothing is kept but finished files and timings"
    arguments = sys.argv[1:]
    named = any(argument == "--run" or argument.startswith("--run=") for argument in arguments)
    return "go on with: " + shlex.join(["compress", *arguments, *([] if named else ["--run", str(folder)])])


def printer(title: str) -> Callable[[dict[str, Any]], None]:
    """Prints a small result as a table."""
    return lambda result: print_mapping(title, result)


def output_folder(given: Path | None, name: str) -> Path:
    """The folder that was asked for, else a new one of that name and the time. Raises RunError or OSError where nothing
    can be written, before any work."""
    if given is None:
        return default_run(name)
    check_writable(given)
    return given


def default_run(name: str) -> Path:
    """A new folder `reports/NAME-TIME` below the current one, which no other process gets; removed if it stays empty.

    Raises OSError where it cannot be made.
    """
    reports = Path("reports")
    if not reports.exists():
        reports.mkdir(exist_ok=True)
        _MADE.append(reports)
    wanted = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in itertools.count(1):
        folder = reports / (wanted if number == 1 else f"{wanted}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            _MADE.append(folder)
            return folder
    raise AssertionError


_MADE: list[Path] = []
"""Folders that default_run made."""


def file_name(network: str) -> str:
    """A NETWORK argument as part of a folder's name."""
    return Path(network).name.replace(":", "-")


def version(show: bool) -> None:
    """Prints the version and ends."""
    if show:
        sys.stdout.write(f"compress {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Makes human-pose networks fast on the device they must run on."""


def main() -> None:
    """The console command."""
    # Before torch is loaded. Its threads spin while they wait for one another; where another program has taken one of
    # their cores, they spin for as long as that one runs. Not to spin at all costs more where nothing else runs. A
    # supernet's step of recipes/bhrnet.yaml, two threads on two cores, idle and beside a program of two threads, in
    # seconds: 300000 turns (GNU's default) .20; 20000 .20 and 1.5; 2000 .22 and .75; none (PASSIVE) .55. A user's own
    # setting stays.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if "--json" not in sys.argv:
        app()
    usage_error: Any = typer.BadParameter.__bases__[0]  # click's, which Typer does not export
    try:  # whoever reads JSON gets it for a mistyped option too
        sys.exit(app(standalone_mode=False))
    except usage_error as error:
        with contextlib.suppress(typer.Exit):
            fail(error.format_message(), True, "UsageError")
        sys.exit(2)
