"""The command line: reads options, runs a job of compress.jobs, prints its result.

Nothing heavy is imported until a command runs, so that help and mistakes in the options take no time.
"""

import contextlib
import itertools
import json
import os
import re
import shlex
import sys
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

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
    untrained,
)
from compress.extensions import NETWORK_GROUP, offered
from compress.files import check_writable, named_checkpoint, read_yaml_mapping
from compress.report.latency import (
    print_built,
    print_checked,
    print_compared,
    print_measured,
    print_merged,
    print_packed,
    print_shown,
    print_unpacked,
)
from compress.report.progress import Terminal
from compress.report.tables import (
    print_doctor,
    print_evaluated,
    print_exported,
    print_imported,
    print_networks,
    print_predicted,
    print_profile,
    print_report,
    print_targets,
    print_trained,
)
from compress.report.terminal import print_error, print_note

if TYPE_CHECKING:
    from compress.artefacts.results import (
        BuiltTable,
        CheckedTable,
        ComparedTables,
        DoctorResult,
        EvaluateResult,
        ExportResult,
        ImportResult,
        MeasuredRun,
        MergedTable,
        NetworkRow,
        PackedFolder,
        PredictResult,
        ProfileResult,
        SearchResult,
        ShownNetwork,
        TargetsResult,
        TrainResult,
        UnpackedTable,
        WrittenReport,
    )
    from compress.recipe import AnyRecipe, LatencyRecipe

T = TypeVar("T")

MISSED = 3
"""Exit code of a job that did its work and did not reach its goal."""

app = typer.Typer(
    help="Makes human-pose networks fast on the device they must run on.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

# --- What the shell completes ----------------------------------------------------------------------------------------


def networks_that_begin(incomplete: str) -> list[str]:
    """Known networks, ONNX files of the current folder, and networks that runs have left below it."""
    names = json.loads(_COUNTS.read_text(encoding="utf-8"))
    files = [str(path) for path in Path().glob("*.onnx")]
    left = [str(path.parent) for depth in ("*", "*/*") for path in Path().glob(f"runs/{depth}/architecture.yaml")]
    return [name for name in (*names, *sorted(files + left)) if name.startswith(incomplete)]


def recipes_that_begin(incomplete: str) -> list[str]:
    """The shipped recipes, and YAML files of the current folder."""
    from compress.recipe import shipped_names

    files = [path.name for path in Path().glob("*.yaml")]
    return sorted(name for name in (*shipped_names("recipes"), *files) if name.startswith(incomplete))


def networks_and_recipes_that_begin(incomplete: str) -> list[str]:
    """What a search may start from."""
    return [*networks_that_begin(incomplete), *recipes_that_begin(incomplete)]


_COUNTS = Path(__file__).parent / "networks" / "counts.json"


# --- Arguments and options of several commands -----------------------------------------------------------------------

AsJson = Annotated[
    bool,
    typer.Option(
        "--json", metavar="", help="Print the result as JSON on stdout, without tables.", rich_help_panel="Output"
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", metavar="", help="No progress and no tables.", rich_help_panel="Output")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.SUB=VALUE",
        help="Override a key of the recipe; the value is YAML. Repeatable.",
        show_default="none",
        rich_help_panel="Settings",
    ),
]
RunFolder = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Run folder; the same command continues a run that was killed there.",
        show_default="runs/NAME-TIME",
        rich_help_panel="Output",
    ),
]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        help="Recipe, by path or by its shipped name.",
        autocompletion=recipes_that_begin,
        show_default="the defaults",
        rich_help_panel="Settings",
    ),
]
NetworkArgument = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        help="A network's name, an artefact's folder, package.module:function, a .onnx file, or NAME@FILE.pth of a "
        "public checkpoint.",
        autocompletion=networks_that_begin,
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="KIND[:FOLDER]",
        help="synthetic; coco, crowdpose, mpii, lsp with a folder; or your own, package.module:attribute[:FOLDER]. "
        "Sets data.kind and data.disk.folder.",
        show_default="the artefact's, else synthetic",
        rich_help_panel="Settings",
    ),
]
TargetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        metavar="ENGINE[:threads=N][@TABLE]",
        help="What times are of; may be repeated, the first decides. See `compress targets`.",
        show_default="onnxruntime, ncnn",
    ),
]
ArtefactArgument = Annotated[
    Path,
    typer.Argument(
        metavar="ARTEFACT",
        help="Folder of a trained network, or NAME@FILE of a public checkpoint.",
        autocompletion=networks_that_begin,
    ),
]


FASTER, LOOK, USE = "Make a network faster", "Look at networks and times", "Train and use a network"
"""Groups of commands in the help."""

# --- Commands --------------------------------------------------------------------------------------------------------


def example(arguments: str) -> str:
    """The last line of a command's help."""
    return f"Example:  [bold]compress {arguments}[/bold]"


@app.command(rich_help_panel=FASTER, epilog=example("search runs/openpose --target ncnn --budget 50%"))
def search(
    what: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK|RECIPE",
            help="A trained network, named as for the other commands; or a recipe: a .yaml file with `job: search`, or "
            "a shipped one's name such as 'bhrnet'.",
            autocompletion=networks_and_recipes_that_begin,
        ),
    ],
    target: TargetsOption = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="MS|R%",
            help="Largest predicted time of a candidate: 2.5 ms, or a share of the given network's.",
            show_default="the recipe's",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="inherit|scratch",
            help="Candidates around a NETWORK inherit its weights, or are smaller ones of its family, trained here.",
            show_default="inherit",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Processes that score candidates side by side on this machine.", show_default="1"
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database to share the trials through, such as postgresql://USER@HOST/DATABASE: the same command on "
            "another machine takes part.",
            show_default="a file in the run folder",
        ),
    ] = None,
    recipe: RecipeOption = None,
    data: DataOption = None,
    run: RunFolder = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search for the best trade of accuracy against latency, around a network or in a space; tune and measure the best.

    Around a network the space is derived from it: channels, blocks, operators, and zeros where the target skips them.
    Exit code 3: no candidate reaches half of the best baseline's score.
    """

    def job(terminal: Terminal) -> "SearchResult | None":
        from compress.recipe import ANY_NETWORK, SearchRecipe, shipped_names

        around = not is_recipe(what)
        if around:
            check_network(what, "NETWORK or RECIPE", shipped_names("recipes"))
        elif recipe is not None:
            raise RecipeError(
                "there is one recipe", place="--recipe", value=recipe, remedy=f"leave it out, or leave out {what}"
            )
        options = {"--target": targets_settings(target, "measurement.targets")}
        options["--budget"] = [] if budget is None else [f"search.budget.latency={json.dumps(budget)}"]
        options["--from"] = [] if weights is None else [f"search.weights={json.dumps(weights)}"]
        options["--workers"] = [] if workers is None else [f"search.workers={workers}"]
        options["--storage"] = [] if storage is None else [f"search.storage={json.dumps(storage)}"]
        options["NETWORK"] = [f"search.start={json.dumps(what)}"] if around else []
        settings = settings_of(SearchRecipe, (recipe or ANY_NETWORK) if around else what, overrides, data, options)
        from compress.jobs.search.search import search_together
        from compress.report.page import write_report

        folder = output_folder(run, f"search-{file_name(what)}" if around else Path(what).stem)
        result = search_together(settings, folder, terminal)
        if result is not None:  # it is None in all processes but the first one
            write_report("search", result, folder)
        return result

    def code(result: "SearchResult | None") -> int:
        assert result is not None
        return 0 if any(network.role == "finalist" for network in result.networks) else MISSED

    def show(result: "SearchResult | None") -> None:
        from compress.report.search import print_search

        assert result is not None
        print_search(result)

    perform("search", job, show, as_json=as_json, quiet=quiet, code=code, refused=failed_exports)


def is_recipe(name: str) -> bool:
    """Whether the name is a recipe's rather than a network's: a shipped one's, or a YAML file that is no record of an
    architecture, which says its family."""
    from compress.recipe import shipped_names

    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return not path.is_file() or "family" not in read_yaml_mapping(path, RecipeError, "a recipe or a network")
    return name in shipped_names("recipes")


@app.command(rich_help_panel=LOOK, epilog=example("networks --json"))
def networks(overrides: Overrides = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List the known networks: parameters and multiply-adds, ours beside the papers'."""

    def job(terminal: Terminal) -> "tuple[NetworkRow, ...]":
        from compress.recipe import NetworksRecipe, read_recipe

        settings = read_recipe(None, NetworksRecipe, overrides or ())
        from compress.jobs.networks import list_networks

        return list_networks(settings.names)

    perform("networks", job, print_networks, as_json=as_json, quiet=quiet)


@app.command(rich_help_panel=LOOK, epilog=example("targets"))
def targets(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """List the engines of this machine, what is missing and how to install it, and the known latency tables."""

    def job(terminal: Terminal) -> "TargetsResult":
        from compress.jobs.targets import list_targets

        return list_targets()

    perform("targets", job, print_targets, as_json=as_json, quiet=quiet)


@app.command(rich_help_panel=LOOK, epilog=example("doctor --json"))
def doctor(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Look at this machine: engines, versions, cores, memory, GPU, disk, data sets, and what can be installed."""

    def job(terminal: Terminal) -> "DoctorResult":
        from compress.jobs.doctor import examine

        return examine()

    perform("doctor", job, print_doctor, as_json=as_json, quiet=quiet)


@app.command(rich_help_panel=LOOK, epilog=example("profile hrnet_w32 --target onnxruntime"))
def profile(
    network: NetworkArgument,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE[:threads=N][@TABLE]",
            help="Time the layers that mobile engines handle badly, on this target.",
            show_default="only count",
        ),
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", metavar="", help="Time every way to decode the network's maps.")
    ] = False,
    data: DataOption = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show where a network's parameters, multiply-adds and memory go, and what mobile engines handle badly."""

    def job(terminal: Terminal) -> "ProfileResult":
        from compress.recipe import ProfileRecipe

        options = {"--decode": ["decode=true"] if decode else []}
        options["--target"] = [] if target is None else [f"target={json.dumps(target)}"]
        check_network(network)
        settings = settings_of(ProfileRecipe, None, overrides, data, options)
        from compress.jobs.profile import profile as jobs_profile

        return jobs_profile.profile(network, settings, terminal)

    perform("profile", job, print_profile, as_json=as_json, quiet=quiet)


@app.command(rich_help_panel=USE, epilog=example("train lite_hrnet_18 --data coco:/data/coco --recipe train_hrnet"))
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

    def job(terminal: Terminal) -> "TrainResult | None":
        from compress.recipe import TrainRecipe

        check_network(network)
        settings = settings_of(TrainRecipe, recipe, overrides, data)
        from compress.jobs.train import train_network
        from compress.report.page import write_report

        folder = output_folder(run, f"train-{file_name(network)}")
        result = train_network(network, settings, folder, terminal)
        if result is not None:  # it is None in all processes but the first one
            write_report("train", result, folder)
        return result

    def show(result: "TrainResult | None") -> None:
        if result is not None:  # it is None in all processes but the first one
            print_trained(result)

    perform("train", job, show, as_json=as_json, quiet=quiet)


@app.command(rich_help_panel=FASTER, epilog=example("prune runs/openpose --macs 0.5 --target ncnn"))
def prune(
    network: NetworkArgument,
    ratio: Annotated[
        str | None,
        typer.Option(
            metavar="R",
            help="Share of the channels or weights to remove: 0.5 or 50%.",
            show_default="the recipe's goal",
        ),
    ] = None,
    macs: Annotated[
        str | None,
        typer.Option(metavar="R", help="Share of multiply-adds to keep: 0.5 or 50%.", show_default="the recipe's goal"),
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(
            metavar="MS|R%",
            help="Measured time to reach, in milliseconds or as a share of the given network's.",
            show_default="the recipe's goal",
        ),
    ] = None,
    scheme: Annotated[
        str | None,
        typer.Option(help="What is removed: channel, block, pattern, nm or unstructured.", show_default="channel"),
    ] = None,
    criterion: Annotated[
        str | None, typer.Option(help="Importance of a channel: l2, taylor, fpgm, ...", show_default="l2")
    ] = None,
    allocate: Annotated[
        str | None,
        typer.Option(help="Ratios of the layers: uniform, global, sensitivity or latency.", show_default="uniform"),
    ] = None,
    target: TargetsOption = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="PRUNER",
            help="Also prune the network with this one for the same goal: torch-pruning.",
            show_default="none",
        ),
    ] = None,
    analyse: Annotated[
        bool, typer.Option("--analyse", metavar="", help="Measure each layer's sensitivity, and prune nothing.")
    ] = False,
    recipe: RecipeOption = None,
    data: DataOption = None,
    run: RunFolder = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Prune a network, fine-tune it with the given one as teacher, export and measure it.

    Exit code 3: the goal was missed.
    """

    def job(terminal: Terminal) -> Any:
        from compress.recipe import PruneRecipe

        check_network(network)
        goals = {"ratio": ratio, "macs": macs, "latency": latency}
        options: dict[str, list[str]] = {}
        if any(goal is not None for goal in goals.values()):  # instead of the recipe's goal
            options["the recipe's goal"] = [f"pruning.{goal}=null" for goal in (*goals, "latency_ms")]
        given = {"ratio": ratio, "macs": macs, "scheme": scheme, "criterion": criterion, "allocate": allocate}
        given |= {"compare": compare}
        options |= {f"--{key}": [f"pruning.{key}={value}"] for key, value in given.items() if value is not None}
        options |= {} if latency is None else {"--latency": [latency_goal(latency)]}
        options |= {"--target": targets_settings(target)}
        settings = settings_of(PruneRecipe, recipe, overrides, data, options)
        from compress.jobs.prune import prune as jobs_prune
        from compress.report.page import write_report

        folder = output_folder(run, f"prune-{file_name(network)}")
        if analyse:
            analysed = jobs_prune.analyse(network, settings, folder, terminal)
            write_report("analyse", analysed, folder)
            return analysed
        pruned = jobs_prune.prune(network, settings, folder, terminal)
        write_report("prune", pruned, folder)
        return pruned

    def show(result: Any) -> None:
        from compress.report.prune import print_analysed, print_pruned

        (print_analysed if analyse else print_pruned)(result)

    def code(result: Any) -> int:
        return MISSED if not analyse and result.goal and result.goal.met is not True else 0

    command = "analyse" if analyse else "prune"  # as in the file that the job writes
    perform(command, job, show, as_json=as_json, quiet=quiet, code=code, refused=failed_exports)


@app.command(rich_help_panel=FASTER, epilog=example("rewrite runs/openpose --target ncnn --rule conv_to_3x3"))
def rewrite(
    network: Annotated[
        str | None,
        typer.Argument(
            metavar="NETWORK",
            help="A network's name, an artefact's folder, package.module:function, a .onnx file, or NAME@FILE.pth of "
            "a public checkpoint.",
            autocompletion=networks_that_begin,
            show_default="none, with --list",
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", metavar="NAME", help="Apply this rule only. Repeatable.", show_default="all rules"),
    ] = None,
    list_rules: Annotated[
        bool, typer.Option("--list", metavar="", help="List the rules, and rewrite nothing.")
    ] = False,
    target: TargetsOption = None,
    min_gain: Annotated[
        float | None,
        typer.Option(help="Share of the measured time that a replacement must save, 0..1.", show_default="0.01"),
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            help="Score that all replacements together may lose before fine-tuning, 0..1.", show_default="0.02"
        ),
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(
            help="Change the number of layers instead, at the same multiply-adds.", show_default="replace operators"
        ),
    ] = None,
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
            from compress.jobs.rewrite.choice import list_rules as known_rules

            return known_rules()
        if network is None:
            raise RecipeError("a network must be given", place="compress rewrite", remedy="give NETWORK, or --list")
        from compress.recipe import RewriteRecipe

        check_network(network)
        given = {"min_gain": min_gain, "max_loss": max_loss, "depth": depth}
        options = {
            f"--{key.replace('_', '-')}": [f"rewriting.{key}={value}"]
            for key, value in given.items()
            if value is not None
        }
        options |= {"--rule": [f"rewriting.rules={json.dumps(rule)}"]} if rule else {}
        options |= {"--target": targets_settings(target)}
        settings = settings_of(RewriteRecipe, recipe, overrides, data, options)
        from compress.jobs.rewrite import rewrite as jobs_rewrite
        from compress.report.page import write_report

        folder = output_folder(run, f"rewrite-{file_name(network)}")
        result = jobs_rewrite.rewrite(network, settings, folder, terminal)
        write_report("rewrite", result, folder)
        return result

    def show(result: Any) -> None:
        from compress.report.rewrite import print_rewritten, print_rules

        (print_rules if list_rules else print_rewritten)(result)

    command = "rewrite --list" if list_rules else "rewrite"
    perform(command, job, show, as_json=as_json, quiet=quiet, refused=failed_exports)


def failed_exports(result: Any) -> Sequence[str]:
    """Engines that do not take the network, one line each; of a result without exports none."""
    lines: Sequence[str] = getattr(result, "failed_exports", ())
    return lines


def targets_settings(targets: Sequence[str] | None, key: str = "targets") -> list[str]:
    """Overrides of the recipe's targets."""
    return [f"{key}={json.dumps(list(targets))}"] if targets else []


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


@app.command(rich_help_panel=USE, epilog=example("evaluate runs/openpose --data coco:/data/coco"))
def evaluate(
    artefact: ArtefactArgument,
    recipe: RecipeOption = None,
    data: DataOption = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score a trained network by the metric of the data: AP, PCKh or PCK."""

    def job(terminal: Terminal) -> "EvaluateResult":
        from compress.recipe import EvaluateRecipe

        check_artefact(artefact)
        settings = settings_of(EvaluateRecipe, recipe, overrides, data)
        from compress.jobs import evaluate as jobs_evaluate

        return jobs_evaluate.evaluate(artefact, settings, terminal)

    perform("evaluate", job, print_evaluated, as_json=as_json, quiet=quiet)


@app.command("import", rich_help_panel=USE, epilog=example("import pose_hrnet_w32_256x192.pth --run runs/hrnet"))
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Public checkpoint: .pth, .pt, .tar or .safetensors.")],
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="NETWORK", help="Network that it is of.", show_default="recognised"),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="DIR",
            help="Folder of the artefact.",
            show_default="runs/import-NAME-TIME",
            rich_help_panel="Output",
        ),
    ] = None,
    input_hw: Annotated[
        str | None,
        typer.Option(
            "--input-hw",
            metavar="HxW",
            help="Height and width of the input.",
            show_default="as in the file's name, else the paper's first",
        ),
    ] = None,
    backbone: Annotated[
        bool,
        typer.Option("--backbone", metavar="", help="Allow a file that has the backbone alone; the head is random."),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make an artefact of a public checkpoint, to prune, rewrite, train, evaluate and export it.

    Nothing in the file is run. Names that are not known and tensors that stay unfilled are listed.
    """

    def job(terminal: Terminal) -> "ImportResult":
        size = None if input_hw is None else size_of(input_hw)
        if network is not None:
            check_network(network, "--network")
        from compress.jobs import import_checkpoint as jobs_import

        folder = output_folder(run, f"import-{file.stem}")
        return jobs_import.import_checkpoint(file, folder, network=network, input_hw=size, backbone=backbone)

    perform("import", job, print_imported, as_json=as_json, quiet=quiet)


def size_of(text: str) -> tuple[int, int]:
    """`256x192` as height and width. Raises RecipeError."""
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", text)
    if found is None:
        raise RecipeError(
            "it is a height and a width in pixels", place="--input-hw", value=text, remedy="write such as 256x192"
        )
    return int(found[1]), int(found[2])


@app.command(rich_help_panel=USE, epilog=example("export runs/openpose --out exports"))
def export(
    network: NetworkArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder that the exports are written to.",
            show_default="an artefact's own, else runs/export-NAME-TIME",
            rich_help_panel="Output",
        ),
    ] = None,
    normalisation: Annotated[
        str | None,
        typer.Option(
            "--normalisation",
            metavar="WHERE",
            help="inside: the exports take a picture's bytes, red first, and normalise them.",
            show_default="outside",
        ),
    ] = None,
    recipe: RecipeOption = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Export a network to the engines, and compare its outputs with torch's."""

    def job(terminal: Terminal) -> "ExportResult":
        from compress.recipe import ExportRecipe

        check_network(network)
        options = {"--normalisation": [f"normalisation={json.dumps(normalisation)}"]} if normalisation else {}
        settings = settings_of(ExportRecipe, recipe, overrides, options=options)
        from compress.jobs import export as jobs_export

        beside = out or (Path(network) if Path(network).is_dir() else None)
        folder = output_folder(beside, f"export-{file_name(network)}")
        return jobs_export.export(network, settings, folder, terminal)

    perform("export", job, print_exported, as_json=as_json, quiet=quiet, refused=failed_exports)


@app.command(rich_help_panel=USE, epilog=example("predict runs/openpose photos --out drawn"))
def predict(
    artefact: ArtefactArgument,
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PICTURE", help="Picture files, or folders of them.", show_default="those of --data"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="KIND:FOLDER",
            help="Take the validation pictures of this data, with their ids and boxes: coco, crowdpose or lsp.",
            show_default="the pictures given",
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            metavar="FILE",
            help="COCO file with the ids of the given pictures.",
            show_default="ids by the pictures' names",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="drawn|coco",
            help="Draw skeletons into the pictures, or write results.json in COCO's format.",
            show_default="drawn",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder that the drawn pictures and people.json, or results.json, are written to.",
            show_default="runs/predict-TIME",
            rich_help_panel="Output",
        ),
    ] = None,
    recipe: RecipeOption = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find people in pictures; draw their skeletons and list their joints.

    Exit code 1: pictures that could not be read were left out.
    """

    def job(terminal: Terminal) -> "PredictResult":
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

    def code(result: "PredictResult") -> int:
        for broken in result.skipped if quiet else ():  # otherwise the job has printed them
            print_note(f"left out: {broken}")
        return 1 if result.skipped else 0

    perform("predict", job, print_predicted, as_json=as_json, quiet=quiet, code=code)


@app.command(rich_help_panel=LOOK, epilog=example("report runs/small --open"))
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="A run folder, or a file that a command printed with --json."),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="FILE", help="Page that several runs are compared in.", rich_help_panel="Output"),
    ] = Path("compare.html"),
    show: Annotated[bool, typer.Option("--open", metavar="", help="Open the page in the browser.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the report of a run anew, or one page that compares several runs.

    A run folder that lacks parts gets a page that says which.
    """

    def job(terminal: Terminal) -> "WrittenReport":
        from compress.report.page import compare, report_of

        if len(runs) > 1:
            check_writable(out.parent)
            return compare(runs, out)
        return report_of(runs[0])

    def shown(result: "WrittenReport") -> None:
        print_report(result)
        if show:
            webbrowser.open(Path(result.page).resolve().as_uri())

    perform("report", job, shown, as_json=as_json, quiet=quiet)


# --- compress latency ------------------------------------------------------------------------------------------------


latency = typer.Typer(
    help="Tables of the latency of networks' kernels on a device, and predictions from them.", no_args_is_help=True
)
app.add_typer(latency, name="latency", rich_help_panel=LOOK)

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...", help="Search spaces, by name or .yaml file, and networks, as for the other commands."
    ),
]
TableOption = Annotated[
    Path | None,
    typer.Option(
        "--table", metavar="FILE", help="The latency table.", show_default="the cached one of this engine and machine"
    ),
]
LatencyTarget = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="ENGINE[:threads=N][@TABLE]", help="What times are of.", show_default="onnxruntime"
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The packed folder.")]


@latency.command("build", epilog=example("latency build bhrnet_small"))
def latency_build(
    sources: Sources,
    table: TableOption = None,
    again: Annotated[bool, typer.Option("--again", metavar="", help="Time all of the sources' kernels again.")] = False,
    target: LatencyTarget = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Time the kernels of the sources that the table lacks, or has uncertain times of, on this machine.

    The same command continues a build that was killed.
    """

    def job(terminal: Terminal) -> "BuiltTable":
        check_sources(sources)
        settings = latency_settings(target, overrides)
        from compress.jobs.latency import latency as jobs_latency

        return jobs_latency.build(sources, settings, table, terminal, again)

    perform("latency build", job, print_built, as_json=as_json, quiet=quiet)


@latency.command("show", epilog=example("latency show hrnet_w32 --target ncnn"))
def latency_show(
    network: NetworkArgument,
    table: TableOption = None,
    target: LatencyTarget = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Predict a network's latency, and list what its kernels take of it."""

    def job(terminal: Terminal) -> "ShownNetwork":
        settings = latency_settings(target, overrides)
        from compress.jobs.latency import latency as jobs_latency

        return jobs_latency.show(network, settings, table, terminal)

    perform("latency show", job, print_shown, as_json=as_json, quiet=quiet)


@latency.command("check", epilog=example("latency check bhrnet_small"))
def latency_check(
    sources: Sources,
    table: TableOption = None,
    target: LatencyTarget = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure networks that the table was not fitted on, and compare with its predictions."""

    def job(terminal: Terminal) -> "CheckedTable":
        check_sources(sources)
        settings = latency_settings(target, overrides)
        from compress.jobs.latency import latency as jobs_latency

        return jobs_latency.check(sources, settings, table, terminal)

    perform("latency check", job, print_checked, as_json=as_json, quiet=quiet)


@latency.command("merge", epilog=example("latency merge mine.json yours.json --out merged.json"))
def latency_merge(
    tables: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Tables of one device and engine.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new file.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write one table with the kernels of several, as colleagues measured them on the same kind of machine."""

    def job(terminal: Terminal) -> "MergedTable":
        check_writable(out.parent)
        from compress.jobs.latency import latency as jobs_latency

        return jobs_latency.merge_files(tables, out)

    perform("latency merge", job, print_merged, as_json=as_json, quiet=quiet)


@latency.command("diff", epilog=example("latency diff before.json after.json"))
def latency_diff(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="A latency table.")],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="The table it is compared with.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare two tables: devices, kernels, and how much the common kernels' times changed."""

    def job(terminal: Terminal) -> "ComparedTables":
        from compress.jobs.latency import latency as jobs_latency

        return jobs_latency.compare_files(first, second)

    perform("latency diff", job, print_compared, as_json=as_json, quiet=quiet)


@latency.command("pack", epilog=example("latency pack bhrnet_small --out phone --target ncnn"))
def latency_pack(
    sources: Sources,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")],
    target: LatencyTarget = None,
    purpose: Annotated[
        str | None,
        typer.Option("--for", metavar="JOB", help="What it is for: search, prune or rewrite.", show_default="search"),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a folder that times the sources' kernels on another device, where `python run.py` needs only the engine."""

    def job(terminal: Terminal) -> "PackedFolder":
        check_sources(sources)
        settings = latency_settings(target, overrides, purpose)
        check_writable(out)
        from compress.jobs.latency import pack as jobs_pack

        return jobs_pack.pack(sources, settings, out, terminal)

    perform("latency pack", job, print_packed, as_json=as_json, quiet=quiet)


@latency.command("unpack", epilog=example("latency unpack phone --device phone"))
def latency_unpack(
    folder: Folder,
    table: TableOption = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="Read results of benchncnn, which were measured on this device.",
            show_default="read those of run.py",
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn the results of a packed folder into a table of the device it was run on."""

    def job(terminal: Terminal) -> "UnpackedTable":
        from compress.jobs.latency import pack as jobs_pack

        return jobs_pack.unpack(folder, table, device, terminal)

    perform("latency unpack", job, print_unpacked, as_json=as_json, quiet=quiet)


def latency_settings(target: str | None, overrides: list[str] | None, purpose: str | None = None) -> "LatencyRecipe":
    """The settings of a `latency` command."""
    from compress.recipe import LatencyRecipe

    options = {"--target": [] if target is None else [f"target={json.dumps(target)}"]}
    options["--for"] = [] if purpose is None else [f"purpose={json.dumps(purpose)}"]
    return settings_of(LatencyRecipe, None, overrides, options=options)


measure = typer.Typer(help="Networks of a run, measured on the device it was made for.", no_args_is_help=True)
app.add_typer(measure, name="measure", rich_help_panel=LOOK)
FinishedRun = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished search, pruning or rewriting.")]


@measure.command("pack", epilog=example("measure pack runs/small --out packed"))
def measure_pack(
    run: FinishedRun,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder.")],
    target: Annotated[
        str | None,
        typer.Option(
            "--target", metavar="NAME", help="Which of the run's targets.", show_default="the only foreign one"
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a folder that measures the networks of a run on another device."""

    def job(terminal: Terminal) -> "PackedFolder":
        check_writable(out)
        from compress.jobs import measure as jobs_measure

        return jobs_measure.pack_run(run, out, target)

    perform("measure pack", job, print_packed, as_json=as_json, quiet=quiet)


@measure.command("unpack", epilog=example("measure unpack runs/small packed"))
def measure_unpack(run: FinishedRun, folder: Folder, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Put what was measured on the device into the run's results and report, beside what was predicted."""

    def job(terminal: Terminal) -> "MeasuredRun":
        from compress.jobs import measure as jobs_measure

        name, result, found = jobs_measure.unpack_run(run, folder)
        from compress.report.page import write_report

        write_report(name, result, run)
        return found

    perform("measure unpack", job, print_measured, as_json=as_json, quiet=quiet)


# --- Reading and running ---------------------------------------------------------------------------------------------


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
    from compress.recipe import find, read_recipe

    path = find(recipe, "recipes", RecipeError) if recipe else None
    chosen = []
    if data is not None:
        from compress.data.sets import kind_and_folder

        kind, folder = kind_and_folder(data, "--data")
        chosen = [f"data.kind={json.dumps(kind)}"]
        if folder:
            chosen.append(f"data.disk.folder={json.dumps(folder)}")
    settings = read_recipe(path, model, overrides or (), {**(options or {}), "--data": chosen})
    chosen_data = getattr(settings, "data", None)
    if chosen_data is not None:
        from compress.data.sets import check_data

        check_data(chosen_data, settings.place("data.kind"))
    return settings


def check_network(name: str, place: str = "NETWORK", others: Sequence[str] = ()) -> None:
    """Raises ArtefactError or NetworkError for a NETWORK that cannot be one, before torch is imported to open it.

    place: the argument or option. others: names of what may stand there too, which a misspelt name may be near.
    """
    if Path(name).suffix == ".onnx" and not Path(name).is_file():
        raise NetworkError("no such file", place=name, remedy="give the path of an ONNX file")
    if checkpoint := named_checkpoint(name):
        if not checkpoint.file.exists():
            raise NetworkError("no such file", place=str(checkpoint.file), remedy="give the path of a checkpoint")
        return
    known = [*json.loads(_COUNTS.read_text(encoding="utf-8")), *offered(NETWORK_GROUP)]
    if name in known or ":" in name or Path(name).suffix in (".yaml", ".yml", ".onnx"):
        return
    if not (Path(name) / "architecture.yaml").is_file():
        raise unknown_network(name, [*known, *others], place)


def check_sources(sources: list[str]) -> None:
    """Raises ArtefactError or NetworkError for a SOURCE that is no search space and cannot be a network."""
    from compress.recipe import shipped_names

    spaces = shipped_names("search_spaces")
    for source in sources:
        if source not in spaces:
            check_network(source, "SOURCE", spaces)


def check_artefact(folder: Path) -> None:
    """Raises ArtefactError for a folder without an architecture, before torch is imported to open it."""
    if named_checkpoint(str(folder)):
        return
    if (folder / "architecture.yaml").is_file():
        return
    if not folder.exists() and str(folder) in json.loads(_COUNTS.read_text(encoding="utf-8")):
        raise untrained(str(folder))
    raise no_artefact(folder)


def perform(
    command: str,
    job: Callable[[Terminal], T],
    show: Callable[[T], None],
    *,
    as_json: bool,
    quiet: bool,
    code: Callable[[T], int] = lambda result: 0,
    refused: Callable[[T], Sequence[str]] = lambda result: (),
) -> None:
    """Runs a command's job and prints its result once, as JSON or as tables.

    A user's mistake ends with exit code 2, and is JSON too with `--json`; Ctrl-C ends with 130, and with the command
    that continues. code: the exit code of a result. refused: what the result lacks, one line each; printed last as
    errors, with exit code 2.

    Of several processes that torchrun started only the first one prints results. Each prints its own mistake, which may
    be about a picture that no other process has read.
    """
    rank = os.environ.get("RANK", "0")
    first = rank == "0"
    prefix = "" if first else f"process {rank}: "
    try:
        result = job(Terminal(quiet=quiet or not first))
    except CompressError as error:
        fail(f"{prefix}{error}", as_json and first, type(error).__name__, error)
    except OSError as error:
        what = f"{error.filename or 'file system'}: {error.strerror or error}"
        fail(f"{prefix}{what}; check the path, its rights and the disk", as_json and first, type(error).__name__)
    except (MemoryError, RuntimeError) as error:  # torch has no type of its own for a CPU's memory
        text = str(error)
        if isinstance(error, RuntimeError) and not any(part in text for part in ("allocate memory", "out of memory")):
            raise
        requested = re.search(r"ried to allocate ([\d.]+ \w+)", text)
        amount = f" ({requested[1]} requested)" if requested else ""
        remedy = f"out of memory{amount}; take a smaller input size, batch or network"
        fail(f"{prefix}{remedy}", as_json and first, "MemoryError")
    except KeyboardInterrupt as stopped:
        if first:
            print_note(f"stopped; {how_to_continue(getattr(stopped, 'folder', None))}")
        raise typer.Exit(130) from None
    finally:
        while _MADE:
            with contextlib.suppress(OSError):  # the folder is not empty
                _MADE.pop().rmdir()
    if not first:
        return
    lacking = refused(result)
    if as_json:
        from compress.artefacts.results import document

        mistake = {"error": {"kind": "EngineError", "message": "; ".join(lacking)}} if lacking else {}
        print_json({**document(command, result), **mistake})
    elif not quiet:
        show(result)
    for line in lacking:
        print_error(line)
    if number := 2 if lacking else code(result):
        raise typer.Exit(number)


def print_json(data: Mapping[str, Any]) -> None:
    """One line on stdout."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n")


def fail(message: str, as_json: bool, kind: str, error: CompressError | None = None) -> NoReturn:
    """Ends with the mistake on one line of stderr, as JSON on stdout too, and exit code 2, or 3 of a missed budget."""
    print_error(message)
    if as_json:
        parts = {"rule": error.rule, "place": error.place, "remedy": error.remedy} if error else {}
        value = {} if error is None or error.value is None else {"value": str(error.value)}
        mistake = {"kind": kind, "message": message, **parts, **value}
        print_json({"error": mistake})
    raise typer.Exit(MISSED if isinstance(error, BudgetError) else 2)


def how_to_continue(folder: Path | None) -> str:
    """What to type after Ctrl-C. folder: the run's, if one was open."""
    if folder is None:
        return "no run folder was open yet: only finished files and timings are kept"
    arguments = sys.argv[1:]
    named = any(argument == "--run" or argument.startswith("--run=") for argument in arguments)
    return "continue with: " + shlex.join(["compress", *arguments, *([] if named else ["--run", str(folder)])])


def output_folder(given: Path | None, name: str) -> Path:
    """The given folder, else a new one of that name and the time.

    Raises RunError or OSError where nothing can be written, before any work.
    """
    if given is None:
        return default_run(name)
    check_writable(given)
    return given


def default_run(name: str) -> Path:
    """A new folder `runs/NAME-TIME` in the current one, which no other process gets; removed if it stays empty.

    Raises OSError where it cannot be made.
    """
    runs = Path("runs")
    if not runs.exists():
        runs.mkdir(exist_ok=True)
        _MADE.append(runs)
    wanted = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in itertools.count(1):
        folder = runs / (wanted if number == 1 else f"{wanted}-{number}")
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
        bool, typer.Option("--version", metavar="", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Makes human-pose networks fast on the device they must run on."""


def main() -> None:
    """The console command."""
    # Before torch is loaded. Its threads spin while they wait for one another; where another program has taken one of
    # their cores, they spin for as long as that one runs. Not to spin at all costs more where nothing else runs. A
    # supernet's step of recipes/bhrnet.yaml, two threads on two cores, idle and beside a program of two threads, in
    # seconds: 300000 turns (GNU's default) .20; 20000 .20 and 1.5; 2000 .22 and .75; none (PASSIVE) .55. A setting of
    # the user's is kept.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    usage_error: Any = typer.BadParameter.__bases__[0]  # click's, which Typer does not export
    try:
        sys.exit(app(standalone_mode=False))
    except usage_error as error:  # a mistyped option is one line too, and JSON where that is asked for
        message = " ".join(error.format_message().split()).removesuffix(".")
        if message:  # no command at all has shown the help
            with contextlib.suppress(typer.Exit):
                fail(f"{message}; see `{error.ctx.command_path} --help`", "--json" in sys.argv, "UsageError")
        sys.exit(2)
    except typer.Abort:
        sys.exit(130)
