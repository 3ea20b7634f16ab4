"""The Python API: the command line's jobs as functions, with networks in memory.

    small = compress.prune("runs/openpose", macs=0.5, training={"epochs": 2})

Every function takes as `network` a known network's name, an artefact's folder, an ONNX file, `package.module:function`,
a public checkpoint's file or `NAME@FILE` of one, an `nn.Module`, an architecture record, or what another function has
returned. None of them changes the given network.

Settings are the keys of the job's recipe, as keyword arguments: those of its own section by their names alone
(`macs=0.5` is `pruning.macs`), others by the section's name and a mapping (`training={"epochs": 2}`), whose keys are
set one by one. `data` may be written as on the command line, `"coco:FOLDER"`, or be pictures: a PictureSet to validate
on, or Sets. Where a recipe names a criterion, an engine, a rule or the like, an object may stand. `recipe` gives the
settings that these keywords change: a recipe's name or path, or a mapping; all defaults without it. An unknown key is
an error that names the nearest known one.

With `folder` a job keeps its run there, as the command line does: a killed one goes on, and the report is written.
Without it nothing is left on disk, and what is returned is in memory.

`progress`: None shows bars in a terminal and in a notebook and nothing elsewhere; True and False say so; an object with
the methods of compress.progress.Progress is reported to.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import nn

from compress.artefacts.artefact import Network as Opened
from compress.artefacts.artefact import load_artefact, save_artefact
from compress.artefacts.network import Named, imported, open_network
from compress.artefacts.results import (
    EvaluateResult,
    ExportResult,
    NetworkResult,
    PredictResult,
    ProfileResult,
    PruneResult,
    RewriteResult,
    SearchResult,
    TrainResult,
)
from compress.artefacts.shown import Shown
from compress.errors import CompressError, DataError, RecipeError, RunError, nearest
from compress.files import NamedCheckpoint, check_writable, named_checkpoint, read_yaml_mapping, write_bytes
from compress.nas.bench import bench as bench
from compress.networks.checkpoints import Found
from compress.progress import Progress, Silent
from compress.recipe import (
    ANY_NETWORK,
    AnyRecipe,
    EvaluateRecipe,
    ExportRecipe,
    PredictRecipe,
    ProfileRecipe,
    PruneRecipe,
    RewriteRecipe,
    SearchRecipe,
    Settings,
    TrainRecipe,
    find,
    shown_recipe,
    validated,
)

if TYPE_CHECKING:
    from compress.engines import Engine
    from compress.measure.target import Target

    Targets = str | Target | Engine | Sequence[str | Target | Engine] | None

R = TypeVar("R")
Recipe = str | Path | Mapping[str, Any] | Settings
Picture = str | Path | NDArray[np.uint8]

_GOALS = ("ratio", "macs", "latency", "latency_ms")


@dataclass(frozen=True, eq=False)
class Network(Opened, Shown, Generic[R]):
    """A network in memory, and what the job that made it found.

    module: the nn.Module, in evaluation mode: [B,3,H,W] to a tuple of maps. input_hw, keypoints, approach,
    architecture, edits, metadata: see compress.artefacts.artefact.Network. result: the job's record; None where no job
    made the network.
    """

    result: R | None = None

    def save(self, folder: str | Path) -> None:
        """Writes the artefact, which every function and command takes. Raises RunError where nothing can be written."""
        check_writable(Path(folder))
        save_artefact(Path(folder), self.architecture, self.module, self.metadata, self.edits)

    def export(
        self,
        folder: str | Path,
        *,
        recipe: Recipe | None = None,
        progress: bool | Progress | None = None,
        **keys: Any,
    ) -> ExportResult:
        """Writes the network in the engines' formats, each compared with torch on real inputs.

        keys: of ExportRecipe, such as `engines=["ncnn"]`. An engine that refuses the network is named in the result's
        `refused`, and leaves nothing in the folder.
        """
        with _in_python():
            settings = _settings(ExportRecipe, recipe, keys)
            check_writable(Path(folder))
            from compress.jobs.export import export

            return export(self, settings, Path(folder), _progress(progress))

    def _entries(self) -> Mapping[str, Any]:
        """What it shows of itself."""
        return {
            "network": self.name,
            "approach": self.approach,
            "keypoints": self.metadata.keypoints or f"{self.architecture.keypoints} joints",
            "input": "x".join(map(str, self.input_hw)),
            "parameters": sum(parameter.numel() for parameter in self.module.parameters()),
            "edits": tuple(map(str, self.edits)),
            "weights": self.metadata.provenance,
            "score": self.metadata.score,
        }


@dataclass(frozen=True, eq=False)
class SearchOutcome(Shown):
    """Of `search`. networks: every baseline and finalist by its name, tuned, with its NetworkResult."""

    result: SearchResult
    networks: Mapping[str, Network[NetworkResult]]

    @property
    def front(self) -> tuple[Network[NetworkResult], ...]:
        """The networks that no other one beats in both accuracy and end-to-end time, fastest first."""
        return tuple(self.networks[one.name] for one in self.result.front)

    def _entries(self) -> Mapping[str, Any]:
        """What it shows of itself."""
        return self.result._entries()


def load(
    source: Named,
    *,
    network: str | None = None,
    input_hw: tuple[int, int] | None = None,
    module: nn.Module | None = None,
    backbone: bool = False,
) -> "Network[Found | None]":
    """A network to work with: see the module's docstring for what may be given. An nn.Module is copied.

    Of a public checkpoint's file (.pth, .safetensors), the result's `result` says what was found in it. network: the
    known network that it is of; None recognises it. backbone: whether a file that has the backbone alone may leave the
    head random.

    input_hw: None takes the artefact's, the module's attribute `input_hw`, the first size that its paper prints, or
    256x256. Of an nn.Module, the number of joints and how people are found are read from its attributes `keypoints`
    and `approach`, else inferred from its outputs (compress.networks.own).
    module: for the folder of an artefact that was saved of an nn.Module: the module as it was before compress changed
    it, whose structure no file keeps; its weights do not matter.

    Raises ArtefactError or NetworkError.
    """
    with _in_python():
        if module is not None:
            return _shown(load_artefact(Path(str(source)), module).overridden(input_hw=input_hw), None)
        named = named_checkpoint(str(source)) if isinstance(source, str | Path) else None
        if named is None:
            if network is not None or backbone:
                raise RecipeError(
                    "network and backbone are said of a public checkpoint's file",
                    place="network" if network is not None else "backbone",
                    value=str(source),
                    remedy="leave them out, or give a .pth or .safetensors file",
                )
            return _shown(open_network(source, input_hw), None)
        if network is not None:
            named = NamedCheckpoint(f"{network}@{named.file}", network, named.file)
        opened, found = imported(named, input_hw=input_hw, backbone=backbone)
        return _shown(opened, found)


def train(
    network: Named,
    *,
    recipe: Recipe | None = None,
    folder: str | Path | None = None,
    progress: bool | Progress | None = None,
    **keys: Any,
) -> Network[TrainResult]:
    """The network trained on labelled pictures and scored on the validation set.

    keys: of TrainRecipe, those of its section `training` by their names, such as `epochs=10`.
    """
    with _in_python(), _run(folder) as run:
        settings = _settings(TrainRecipe, recipe, keys, "training")
        from compress.jobs.train import train_network
        from compress.report.page import write_report

        given = _given(network)
        result = train_network(given, settings, run, _progress(progress))
        if result is None:
            raise RunError("of several processes the first one has the network", place="train", remedy="use its result")
        if folder is not None:
            write_report("train", result, run)
        return _read(run, given, result)


def prune(
    network: Named,
    *,
    target: "Targets" = None,
    recipe: Recipe | None = None,
    folder: str | Path | None = None,
    progress: bool | Progress | None = None,
    **keys: Any,
) -> Network[PruneResult]:
    """The network without its least important channels (or weights), fine-tuned with the given one as teacher.

    keys: of PruneRecipe, those of its section `pruning` by their names. One goal: `macs` or `latency`, the share of the
    multiply-adds or of the measured time that stays; `latency_ms`; or `ratio`, the share of the channels that is
    removed. It replaces the recipe's goal. target: what milliseconds are of, such as `"ncnn:threads=4"`; of several the
    first decides. The result says whether the goal was met.
    """
    with _in_python(), _run(folder) as run:
        settings = _settings(PruneRecipe, recipe, {**_target(target, keys), **keys}, "pruning")
        from compress.jobs.prune.prune import prune as prune_network
        from compress.report.page import write_report

        given = _given(network)
        result = prune_network(given, settings, run, _progress(progress))
        if folder is not None:
            write_report("prune", result, run)
        return _read(run, given, result)


def rewrite(
    network: Named,
    *,
    target: "Targets" = None,
    recipe: Recipe | None = None,
    folder: str | Path | None = None,
    progress: bool | Progress | None = None,
    **keys: Any,
) -> Network[RewriteResult]:
    """The network with operators replaced where that saves time, fine-tuned with the given one as teacher.

    keys: of RewriteRecipe, those of its section `rewriting` by their names, such as `min_gain=0.02`. target: what
    milliseconds are of; of several the first decides. Where no replacement pays, it is the given network, and the
    result's `rewritten` is None.
    """
    with _in_python(), _run(folder) as run:
        settings = _settings(RewriteRecipe, recipe, {**_target(target, keys), **keys}, "rewriting")
        from compress.jobs.rewrite.rewrite import rewrite as rewrite_network
        from compress.report.page import write_report

        given = _given(network)
        result = rewrite_network(given, settings, run, _progress(progress))
        if folder is not None:
            write_report("rewrite", result, run)
        if result.rewritten is None:
            return _shown(open_network(given, result.input_hw, seed=settings.seed), result)
        return _read(run, given, result)


def search(
    network: Named | None = None,
    *,
    target: "Targets" = None,
    budget: str | Mapping[str, Any] | Settings | None = None,
    recipe: Recipe | None = None,
    folder: str | Path | None = None,
    progress: bool | Progress | None = None,
    **keys: Any,
) -> SearchOutcome:
    """The networks with the best trade of accuracy against latency, around a network or of a space, tuned and measured.

    network: a trained one, from which the space is derived unless `space` names one; None searches the architectures of
    `space`. target: what milliseconds are of; of several the first decides. budget: largest predicted time, such as
    `"50%"` of the given network's or `"2.5 ms"`, or the recipe's section of limits. recipe: None takes `any_network`
    where a network is given. keys: of SearchRecipe, those of its section `search` by their names, such as
    `space="bhrnet"`, `trials=200` or `weights="scratch"`.
    """
    with _in_python(), _run(folder) as run:
        if target is not None:
            measurement = keys.get("measurement") or {}
            if isinstance(measurement, Settings):
                measurement = measurement.model_dump(exclude_unset=True)
            keys["measurement"] = {**measurement, **_target(target, measurement)}
        if budget is not None:
            keys["budget"] = budget if isinstance(budget, Mapping | Settings) else {"latency": budget}
        if network is not None and recipe is None:
            recipe = ANY_NETWORK
        settings = _settings(SearchRecipe, recipe, keys, "search")
        from compress.jobs.search.search import search_together
        from compress.report.page import write_report

        given = None if network is None else _given(network)
        result = search_together(settings, run, _progress(progress), given)
        if result is None:
            raise RunError(
                "of several processes the first one has the networks", place="search", remedy="use its result"
            )
        if folder is not None:
            write_report("search", result, run)
        module = getattr(given.architecture, "module", None) if isinstance(given, Opened) else None
        opened = {one.name: _shown(load_artefact(run / one.folder, module), one) for one in result.networks}
        return SearchOutcome(result, {name: replace(one, name=name) for name, one in opened.items()})


def profile(
    network: Named, *, recipe: Recipe | None = None, progress: bool | Progress | None = None, **keys: Any
) -> ProfileResult:
    """Where parameters, multiply-adds and memory of one pass go, and which operators mobile engines handle badly.

    keys: of ProfileRecipe: `target="ncnn"` times these operators there, `decode=True` times decoding.
    """
    with _in_python():
        settings = _settings(ProfileRecipe, recipe, keys)
        from compress.jobs.profile.profile import profile as profile_network

        return profile_network(network, settings, _progress(progress))


def evaluate(
    network: Named, *, recipe: Recipe | None = None, progress: bool | Progress | None = None, **keys: Any
) -> EvaluateResult:
    """The trained network's score on the validation set, by the metric of the data: AP, PCKh or PCK.

    keys: of EvaluateRecipe, such as `data="coco:FOLDER"`; without data, what the network was validated on.
    """
    with _in_python():
        settings = _settings(EvaluateRecipe, recipe, keys)
        from compress.jobs.evaluate import evaluate as evaluate_network

        return evaluate_network(network, settings, _progress(progress))


def predict(
    network: Named,
    pictures: Picture | Sequence[Picture] = (),
    *,
    recipe: Recipe | None = None,
    folder: str | Path | None = None,
    progress: bool | Progress | None = None,
    **keys: Any,
) -> PredictResult:
    """The people in the pictures, with the score and the pixel of every joint.

    pictures: files, folders of them, or arrays [H,W,3] of RGB bytes; none where `data` is given, whose validation
    pictures are taken then. keys: of PredictRecipe, such as `min_score=0.5`. Drawn pictures are written to `folder`;
    without one the result's file names lead nowhere.
    """
    with _in_python(), _run(folder) as run, _files_of(pictures) as files:
        settings = _settings(PredictRecipe, recipe, keys)
        from compress.jobs.predict import predict as predict_people

        return predict_people(network, files, settings, run, _progress(progress))


# --- Settings --------------------------------------------------------------------------------------------------------


def _settings(
    model: type[AnyRecipe], recipe: Recipe | None, keys: Mapping[str, Any], section: str | None = None
) -> AnyRecipe:
    """The recipe with the keywords' values. section: whose keys stand by their names alone. Raises RecipeError."""
    data, file = _recipe_data(recipe)
    if not isinstance(recipe, str | Path):
        data.setdefault("job", get_args(model.model_fields["job"].annotation)[0])
    of_section: Any = model.model_fields[section].annotation if section else None
    inside = set(of_section.model_fields) if section else set()
    given: dict[tuple[str, ...], Any] = {}
    names: dict[str, str] = {}
    for key, value in keys.items():
        if key == "job" or key not in inside | set(model.model_fields):
            known = (inside | set(model.model_fields)) - {"job"}
            raise RecipeError("unknown key", place=key, remedy=nearest(key, known))
        whole = _data_section(value) if key == "data" else value
        path: tuple[str, ...] = (key,) if key in model.model_fields else (str(section), key)
        for rest, leaf in _leaves(whole):
            given[*path, *rest] = leaf
            names[".".join((*path, *rest))] = ".".join((key, *rest))
    if any(path[0] == "pruning" and path[-1] in _GOALS for path in given):  # instead of the recipe's goal
        data["pruning"] = {key: value for key, value in data.get("pruning", {}).items() if key not in _GOALS}
    for place, leaf in given.items():
        _set(data, place, leaf)
    settings = validated(data, model, names, file)
    pictures = getattr(settings, "data", None)
    if pictures is not None:
        from compress.data.sets import check_data

        check_data(pictures, settings.place("data.kind"))
    return settings


def _recipe_data(recipe: Recipe | None) -> tuple[dict[str, Any], str]:
    """A recipe as plain data that may be changed, and how an error names it."""
    if isinstance(recipe, str | Path):
        file = find(str(recipe), "recipes", RecipeError)
        return read_yaml_mapping(file, RecipeError, "a recipe"), shown_recipe(file)
    given = recipe.model_dump(exclude_unset=True) if isinstance(recipe, Settings) else recipe or {}
    data: dict[str, Any] = {}
    for path, leaf in _leaves(given):
        _set(data, path, leaf)
    return data, shown_recipe(None)


def _leaves(value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and value of everything in nested mappings that is no mapping with keys."""
    if not isinstance(value, Mapping) or not value:
        yield (), value
        return
    for key, part in value.items():
        yield from (((str(key), *rest), leaf) for rest, leaf in _leaves(part))


def _set(data: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Changes the nested mappings. Raises RecipeError where the recipe has a value in the place of a mapping."""
    for number, key in enumerate(path[:-1], start=1):
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            place = ".".join(path[:number])
            raise RecipeError("the recipe has a value here, not a section", place=place, value=data, remedy="give all")
    if path:
        data[path[-1]] = value


def _data_section(given: Any) -> Any:
    """A recipe's data section: as it is, of `coco:FOLDER`, or of pictures. Raises RecipeError."""
    if given is None or isinstance(given, Mapping | Settings):
        return given
    if not isinstance(given, str):
        return {"kind": given}
    from compress.data.sets import kind_and_folder

    kind, folder = kind_and_folder(given, "data")
    return {"kind": kind, **({"disk": {"folder": folder}} if folder else {})}


def _target(target: object, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's key for it."""
    if target is None:
        return {}
    if "targets" in keys:
        raise RecipeError(
            "target stands for targets", place="targets", value=keys["targets"], remedy="give one of them"
        )
    return {"targets": target}


# --- Runs ------------------------------------------------------------------------------------------------------------


@contextmanager
def _run(folder: str | Path | None) -> Iterator[Path]:
    """The run folder; without a given one a temporary one, which is removed."""
    if folder is not None:
        check_writable(Path(folder))
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="compress-") as temporary:
        yield Path(temporary, "run")


def _given(network: Named) -> Named:
    """The same; an nn.Module is read once, and the record that holds its copy rebuilds what a job makes of it."""
    return open_network(network) if isinstance(network, nn.Module) else network


def _read(run: Path, given: Named, result: R) -> Network[R]:
    """The network that a job has saved in its run folder."""
    record = given.architecture if isinstance(given, Opened) else given
    loaded = load_artefact(run, getattr(record, "module", None))
    return _shown(replace(loaded, name=loaded.metadata.origin), result)


def _shown(opened: Opened, result: R) -> Network[R]:
    """The same network with a job's record."""
    return Network(**{field.name: getattr(opened, field.name) for field in fields(Opened)}, result=result)


def _progress(given: bool | Progress | None) -> Progress:
    """Where a job reports to."""
    if given is False:
        return Silent()
    if given is None or given is True:
        from compress.report.progress import Terminal, progress_in_python

        return Terminal() if given else progress_in_python()
    return given


@contextmanager
def _files_of(pictures: Picture | Sequence[Picture]) -> Iterator[list[Path]]:
    """Paths of the pictures; arrays lie in temporary files, named by their places among the given ones."""
    listed: Sequence[Picture] = [pictures] if isinstance(pictures, str | Path | np.ndarray) else pictures
    with tempfile.TemporaryDirectory(prefix="compress-") as folder:
        files = []
        for number, picture in enumerate(listed):
            if isinstance(picture, np.ndarray):
                if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                    raise DataError(
                        "a picture is an array [H,W,3] of RGB bytes",
                        place=f"pictures[{number}]",
                        value=f"{list(picture.shape)} of {picture.dtype}",
                        remedy="convert it",
                    )
                files.append(Path(folder, f"{number:06d}.png"))
                write_bytes(files[-1], cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes())
            else:
                files.append(Path(picture))
        yield files


# --- Errors ----------------------------------------------------------------------------------------------------------

_WORDS = (
    (r"--latency \(pruning\.latency_ms\)", "latency_ms"),
    (r"--latency MS\|R%", "latency SHARE or latency_ms MS"),
    (r"(a |another )?--run folder", r"\1folder"),
    (r"--set (?=[a-z])", ""),
    (r"--data ([A-Za-z]+:[A-Z]+)", r'data="\1"'),
    (r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_")),
    (r"\bcompress (evaluate|predict|profile|prune|rewrite|search|train)\b", r"compress.\1"),
    (r"\bNETWORK\b", "network"),
    (r"\bPICTURE\b", "pictures"),
)
"""What jobs say to a user of the command line → what they say to a user of Python."""


@contextmanager
def _in_python() -> Iterator[None]:
    """Errors name keyword arguments, where jobs name the command line's options."""
    try:
        yield
    except CompressError as error:
        said = error.rule, error.place, error.remedy
        rule, place, remedy = map(_keywords, said)
        if (rule, place, remedy) == said:
            raise
        raise type(error)(rule, place=place, value=error.value, remedy=remedy) from None


def _keywords(text: str) -> str:
    """The text with keywords instead of options; commands in backticks stay as they are typed."""
    parts = text.split("`")
    for number in range(0, len(parts), 2):
        for pattern, instead in _WORDS:
            parts[number] = re.sub(pattern, instead, parts[number])
    return "`".join(parts)
