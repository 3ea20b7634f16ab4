"""Recipes: one complete job per YAML file, no inheritance. Every mistake is reported before any work begins.

A recipe is found by path, or by name among the recipes that come with the package. Values are overridden from the
command line with `--set key.sub=value`, where the value is YAML; a mapping replaces the whole section.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compress.errors import CompressError, RecipeError, nearest
from compress.files import read_yaml_mapping

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
InputSize = tuple[Annotated[int, Field(ge=32)], Annotated[int, Field(ge=32)]]


class Settings(BaseModel):
    """Frozen; unknown keys are errors; a wrong type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class SyntheticData(Settings):
    """Drawn people. Pictures per set; the three sets never share a picture.

    people: fewest and most in a picture. scale: their standing height in units of the picture's. clutter: mean number
    of background shapes. pose_spread: multiplies the random part of every joint angle. tumble, truncation, occluder:
    probabilities that a person lies or stands on the head, may stick out of the picture, is hidden by an object.
    """

    train: Positive = 4096
    search: Positive = 160
    val: Positive = 256
    people: tuple[Positive, Positive] = (1, 2)
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 0.98)
    clutter: Annotated[float, Field(ge=0)] = 3.0
    pose_spread: Annotated[float, Field(ge=0)] = 0.5
    tumble: Probability = 0.0
    truncation: Probability = 0.05
    occluder: Probability = 0.05


class CocoData(Settings):
    """COCO person keypoints on disk.

    folder: holds the pictures' folders and the annotations, as COCO's archives unpack. train, val: names of the splits;
    None finds `train2017` or `train`. search: pictures held out of the training set for the search's scores.
    """

    folder: Path | None = None
    train: str | None = None
    val: str | None = None
    search: Positive = 500


class Data(Settings):
    """Which pictures. Only the section that `kind` names is used."""

    kind: Literal["synthetic", "coco"] = "synthetic"
    synthetic: SyntheticData = SyntheticData()
    coco: CocoData = CocoData()
    workers: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _coco_needs_a_folder(self) -> "Data":
        if self.kind == "coco" and self.coco.folder is None:
            raise ValueError("kind coco needs coco.folder, the folder with the pictures and annotations")
        return self


class Augment(Settings):
    """Random rotation in ±degrees, scale, translation in ±pixels at 512 input, mirroring (DIR-BHRNet, Sec. IV-A)."""

    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 30
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 1.5)
    translate_px: Annotated[float, Field(ge=0)] = 40
    flip: Probability = 0.5


class Loss(Settings):
    """Weights of the heatmaps' squared error (every scale) and of associative embedding's pull and push."""

    heatmap: Annotated[float, Field(gt=0)] = 0.99
    pull: Annotated[float, Field(ge=0)] = 0.01
    push: Annotated[float, Field(ge=0)] = 0.01


class Training(Settings):
    """How a network is trained. Adam.

    schedule: `cosine` to zero, or `step`: the rate is multiplied by 0.1 at each of `milestones` (fractions of all
    epochs). warmup_steps: linear from zero. sigma: of the Gaussian targets, in heatmap cells. exact: Gaussians around
    the joints themselves, not around their cells; decoded by their peak. clip_norm: 0 leaves gradients alone.
    """

    epochs: Positive = 10
    batch_size: Positive = 32
    learning_rate: Annotated[float, Field(gt=0)] = 1.5e-3
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[Probability, ...] = ()
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    sigma: Annotated[float, Field(gt=0)] = 2.0
    exact: bool = False
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    loss: Loss = Loss()
    augment: Augment = Augment()


class SupernetTraining(Training):
    """The shared weights. randoms: random candidates per step beside the largest and the smallest.

    pool: how many different candidates an epoch draws these from; building a candidate takes a while.
    distillation: share of the in-place distillation in the loss of all but the largest, 0..1.
    """

    randoms: Annotated[int, Field(ge=0)] = 1
    pool: Positive = 48
    distillation: Probability = 0.5


class FineTuning(Training):
    """Finalists. The best of them learns from the labels; tuned, it teaches the others.

    distillation: the teacher's share of the loss, 0..1.
    """

    distillation: Probability = 0.5


class Budget(Settings):
    """Upper limits for a candidate; None is no limit. latency_ms is the predicted one on the recipe's engine."""

    latency_ms: Annotated[float, Field(gt=0)] | None = None
    macs: Positive | None = None
    params: Positive | None = None


class Search(Settings):
    """The search loop.

    trials: candidates that are scored. pictures of the search set are scored after batch-norm recalibration on
    `calibration_pictures` training pictures. space: path, or name of one in the package. sampler: see compress.sampler;
    `guided` needs the fewest trials where there are hand-made networks. population: of NSGA-II.
    """

    space: str
    sampler: Literal["nsga2", "tpe", "random", "guided"] = "nsga2"
    trials: Positive = 100
    population: Annotated[int, Field(ge=2)] = 20
    calibration_pictures: Positive = 96
    budget: Budget = Budget()


class Measurement(Settings):
    """Where latency counts, and what finalists are exported to.

    engine: has the latency table that the search looks costs up in. rounds: interleaved timings per network.
    exports: engines the finalists are exported to, compared with torch on `parity_pictures` inputs, and timed on.
    """

    engine: Literal["onnxruntime"] = "onnxruntime"
    threads: Positive = 1
    rounds: Positive = 100
    exports: tuple[Literal["onnxruntime", "ncnn"], ...] = ("onnxruntime", "ncnn")
    parity_pictures: Positive = 4

    @model_validator(mode="after")
    def _engine_is_exported_to(self) -> "Measurement":
        if self.engine not in self.exports:
            raise ValueError(f"exports must contain the engine that latency is measured on, {self.engine}")
        return self


class Finalists(Settings):
    """How many of the front go on, and how they are tuned. Baselines go through the same."""

    count: Positive = 4
    training: FineTuning = FineTuning()


class SearchRecipe(Settings):
    """`compress search`: everything the job needs.

    baselines: hand-made networks, name → architecture fields over the space's fixed ones.
    """

    job: Literal["search"]
    seed: Seed = 1
    input_hw: InputSize = (128, 128)
    data: Data = Data()
    measurement: Measurement = Measurement()
    supernet: SupernetTraining = SupernetTraining()
    search: Search
    finalists: Finalists = Finalists()
    baselines: dict[Name, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _names_are_free(self) -> "SearchRecipe":
        taken = [name for name in self.baselines if name.startswith("finalist_")]
        if taken:
            raise ValueError(f"finalist_N is what the search names its own networks, not {taken[0]}")
        return self


class TrainRecipe(Settings):
    """`compress train`: one network from fresh or given weights."""

    job: Literal["train"] = "train"
    seed: Seed = 1
    input_hw: InputSize = (128, 128)
    data: Data = Data()
    training: Training = Training()


class EvaluateRecipe(Settings):
    """`compress evaluate`: the validation set, once, with or without the mirrored pass.

    seed, input_hw, data: None takes what the artefact was validated with.
    """

    job: Literal["evaluate"] = "evaluate"
    seed: Seed | None = None
    input_hw: InputSize | None = None
    data: Data | None = None
    flip_test: bool = True


class ExportRecipe(Settings):
    """`compress export`: engines to export to, and how many validation pictures the outputs are compared on.

    seed, input_hw, data: None takes what the artefact was validated with.
    """

    job: Literal["export"] = "export"
    seed: Seed | None = None
    input_hw: InputSize | None = None
    data: Data | None = None
    engines: tuple[Literal["onnxruntime", "ncnn"], ...] = ("onnxruntime", "ncnn")
    parity_pictures: Positive = 4


class NetworksRecipe(Settings):
    """`compress networks`: names of the networks to list; all if empty."""

    job: Literal["networks"] = "networks"
    names: tuple[str, ...] = ()


class ProfileRecipe(Settings):
    """`compress profile`. input_hw: None takes the artefact's, else the first that the network's paper prints."""

    job: Literal["profile"] = "profile"
    input_hw: InputSize | None = None


class PredictRecipe(Settings):
    """`compress predict`: pictures in, pictures with skeletons out. min_score: of a person to be drawn and listed."""

    job: Literal["predict"] = "predict"
    input_hw: InputSize | None = None
    flip_test: bool = False
    min_score: Probability = 0.2


AnyRecipe = TypeVar("AnyRecipe", bound=Settings)


def find(name: str, folder: str, error: type[CompressError]) -> Path:
    """The file of that path, or `NAME.yaml` of the checkout's or the installed package's `folder`."""
    given = Path(name)
    if given.suffix in (".yaml", ".yml"):
        if not given.is_file():
            raise error("no such file", place=name, remedy=_known(folder))
        return given
    if given.is_file():
        return given
    shipped = shipped_folder(folder) / f"{name}.yaml"
    if not shipped.is_file():
        raise error(f"no file and no shipped one of that name in {folder}", place=name, remedy=_known(folder))
    return shipped


def shipped_folder(folder: str) -> Path:
    """`recipes` or `search_spaces`, which lie beside the package in a checkout and in an installation alike."""
    return Path(__file__).resolve().parent.parent / folder


def read_recipe(path: Path | None, model: type[AnyRecipe], overrides: Sequence[str] = ()) -> AnyRecipe:
    """The recipe in a file (None: all defaults), with `key.sub=value` overrides applied. Raises RecipeError."""
    place = "--set" if path is None else str(path)
    data = {} if path is None else read_yaml_mapping(path, RecipeError, "a recipe")
    for override in overrides:
        _override(data, override)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _first_mistake(error, data, model, place) from None


def to_data(recipe: Settings) -> dict[str, Any]:
    """Plain data of the whole recipe with every default written out."""
    return recipe.model_dump(mode="json")


def fingerprint(recipe: Settings) -> str:
    """Equal for equal recipes, whatever file they came from."""
    return hashlib.sha256(json.dumps(to_data(recipe), sort_keys=True).encode()).hexdigest()[:16]


def _override(data: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise RecipeError("an override is key.sub=value", place="--set", value=override, remedy="write it so")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(
            "the value is not valid YAML", place=f"--set {path}", value=str(error), remedy="quote it"
        ) from None
    *parents, last = path.split(".")
    for key in parents:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise RecipeError(f"{key} has no sub-keys", place=f"--set {path}", value=data, remedy="set it whole")
    data[last] = value


def _first_mistake(error: ValidationError, data: Any, model: type[BaseModel], place: str) -> RecipeError:
    mistake = error.errors()[0]
    location = [str(part) for part in mistake["loc"]]
    key = ".".join(location)
    if mistake["type"] == "extra_forbidden":
        return RecipeError("unknown key", place=f"{place}: {key}", remedy=nearest(location[-1], _keys(model, location)))
    if mistake["type"] == "missing":
        return RecipeError("this key is required", place=f"{place}: {key}", remedy="add it")
    rule = mistake["msg"].removeprefix("Value error, ")
    value = None if mistake["type"] == "value_error" else mistake["input"]
    return RecipeError(rule, place=f"{place}: {key or 'recipe'}", value=value, remedy="correct the value")


def _keys(model: type[BaseModel], location: list[str]) -> list[str]:
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    return list(model.model_fields)


def _known(folder: str) -> str:
    names = sorted(path.stem for path in shipped_folder(folder).glob("*.yaml"))
    return f"shipped {folder}: {', '.join(names)}" if names else "check the path"
