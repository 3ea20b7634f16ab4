"""Recipes: one complete job per YAML file, no inheritance. Every mistake is reported before any work begins.

A recipe is found by path, or by name among the recipes that come with the package. Values are overridden from the
command line with `--set key.sub=value`, where the value is YAML; a mapping replaces the whole section.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from compress.errors import ArtefactError, CompressError, DataError, RecipeError, nearest
from compress.files import read_yaml, read_yaml_mapping
from compress.pose.codec import PRESETS, Codec, Locate

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1, le=10_000_000)]
"""Of pictures, samples, epochs, rounds: at most far more than anyone waits for, and few enough for a list."""
Persons = Annotated[int, Field(ge=1, le=100)]
Share = Annotated[float, Field(ge=0, lt=1)]  # of a teacher; the labels always have some
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
EngineName = Literal["onnxruntime", "ncnn", "mnn", "mnn_sparse", "torch"]
Side = Annotated[int, Field(ge=32, le=4096)]
InputSize = tuple[Side, Side]


def _on_this_machine(threads: int) -> int:
    if threads > (cores := len(os.sched_getaffinity(0))):
        raise ValueError(f"this machine gives {cores} cores: times of {threads} threads would be of their waiting")
    return threads


def check_threads(threads: int) -> None:
    """Raises RecipeError for more threads than this machine has cores."""
    try:
        _on_this_machine(threads)
    except ValueError as error:
        raise RecipeError(str(error), place="threads", value=threads, remedy="correct the value") from None


Threads = Annotated[Positive, AfterValidator(_on_this_machine)]
"""That something is timed on here."""


def _from_preset(given: Any) -> Any:
    """What a recipe says of a codec, with the rest of its preset."""
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, dict):
        return given
    for key in given:
        if key not in Codec.__dataclass_fields__:
            raise ValueError(f"a codec has no {key!r}; {nearest(str(key), Codec.__dataclass_fields__)}")
    name = given.get("name", "ours")
    return {**(PRESETS.get(name, {}) if isinstance(name, str) else {}), **given}


CodecSetting = Annotated[Codec, BeforeValidator(_from_preset)]


class Settings(BaseModel):
    """Frozen; unknown keys are errors; a wrong type is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


def changed(settings: Settings) -> set[str]:
    """Keys whose value is not the default. A recipe in a run folder has all keys, so what was given is not known."""
    fields = type(settings).model_fields
    return {name for name, field in fields.items() if getattr(settings, name) != field.default}


class SyntheticData(Settings):
    """Synthetic people. Pictures per set; the three sets never share a picture.

    people: fewest and most in a picture. scale: their standing height in units of the picture's. clutter: mean number
    of background shapes. pose_spread: multiplies the random part of every joint angle. tumble, truncation, occluder:
    probabilities that a person lies or stands on the head, may stick out of the picture, is hidden by an object.
    """

    train: Positive = 4096
    search: Positive = 160
    val: Positive = 256
    people: tuple[Persons, Persons] = (1, 2)
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 0.98)
    clutter: Annotated[float, Field(ge=0, le=1000)] = 3.0
    pose_spread: Annotated[float, Field(ge=0)] = 0.5
    tumble: Probability = 0.0
    truncation: Probability = 0.05
    occluder: Probability = 0.05


class DiskData(Settings):
    """Labelled people on disk; see compress.data.sets for the layouts.

    folder: holds the pictures' folders and the annotations, as the archives unpack. train, val: names of the splits;
    None finds the usual ones. search: pictures held out of the training set for the search's scores. detections: file
    of a detector's boxes of the validation pictures, in COCO's layout, for top-down networks; None takes the labels'
    boxes. heads: MPII's file with the validation people's head boxes (`gt_valid.mat`).
    """

    folder: Path | None = None
    train: str | None = None
    val: str | None = None
    search: Positive = 500
    detections: Path | None = None
    heads: Path | None = None


class Data(Settings):
    """Which pictures. Only the section that `kind` names is used: `synthetic`, or `disk` for all others.

    Scored by: synthetic, coco: COCO's AP; crowdpose: AP with CrowdPose's constants; mpii: PCKh; lsp: PCK.
    """

    kind: Literal["synthetic", "coco", "crowdpose", "mpii", "lsp"] = "synthetic"
    synthetic: SyntheticData = SyntheticData()
    disk: DiskData = DiskData()
    workers: Annotated[int, Field(ge=0, le=256)] = 0

    @model_validator(mode="after")
    def _disk_needs_a_folder(self) -> "Data":
        if self.kind != "synthetic" and self.disk.folder is None:
            raise ValueError(f"kind {self.kind} needs disk.folder, the folder with the pictures and annotations")
        return self


class Augment(Settings):
    """Whole pictures: random rotation in ±degrees, scale, translation in ±pixels at 512 input, mirroring.

    The defaults are DIR-BHRNet's, Sec. IV-A. For networks that find all people of a picture.
    """

    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 30
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 1.5)
    translate_px: Annotated[float, Field(ge=0)] = 40
    flip: Probability = 0.5


class PersonAugment(Settings):
    """Cut-out persons: rotation and scale (1 ± scale), mirroring, and now and then half a body (see data.boxes).

    The defaults are HRNet's. For top-down networks.
    """

    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 45
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.35
    flip: Probability = 0.5
    half_body: Probability = 0.3


class Loss(Settings):
    """Weights of the terms.

    heatmap: squared error of the maps, at every output. pull, push: associative embedding; tags: as HigherHRNet's code
    has them, or as the DIR-BHRNet paper writes them. hard_joints: of a top-down network only so many joints of every
    person count, those with the largest error (Chen et al., CPN, 2018); 0: all.
    """

    heatmap: Annotated[float, Field(gt=0)] = 0.99
    pull: Annotated[float, Field(ge=0)] = 0.01
    push: Annotated[float, Field(ge=0)] = 0.01
    tags: Literal["higher_hrnet", "dir_bhrnet"] = "higher_hrnet"
    hard_joints: Annotated[int, Field(ge=0)] = 0


class ParameterGroup(Settings):
    """Parameters whose name contains `pattern` (a regular expression); of several groups the last one counts.

    rate: multiplies the learning rate. weight_decay: instead of the recipe's.
    """

    pattern: str
    rate: Annotated[float, Field(ge=0)] = 1.0
    weight_decay: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _pattern_is_one(self) -> "ParameterGroup":
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from None
        return self


class Training(Settings):
    """How a network is trained.

    batch_size: pictures (top-down: persons) per step, over all processes. accumulate: a step's gradients come from so
    many parts of the batch, one after the other, to save memory; batch norm sees the parts. schedule: `cosine` to zero,
    or `step`: the rate is multiplied by gamma at each of `milestones` (fractions of all epochs). warmup_steps: linear
    from warmup_from times the rate. ema: decay per step of an average of the weights, which is what training gives; 0:
    the weights themselves. precision: `auto` is bfloat16 on a GPU and float32 elsewhere. limb_width: half the width of
    part affinity fields, in cells. clip_norm: 0 leaves gradients alone.
    """

    epochs: Positive = 10
    batch_size: Positive = 32
    accumulate: Positive = 1
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 1.5e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    groups: tuple[ParameterGroup, ...] = ()
    schedule: Literal["cosine", "step"] = "cosine"
    milestones: tuple[Probability, ...] = ()
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    warmup_from: Probability = 0.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    limb_width: Annotated[float, Field(gt=0)] = 1.0
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    loss: Loss = Loss()
    augment: Augment = Augment()
    person_augment: PersonAugment = PersonAugment()

    @model_validator(mode="after")
    def _parts_are_whole(self) -> "Training":
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} must be a multiple of accumulate {self.accumulate}")
        return self

    @model_validator(mode="after")
    def _what_is_set_is_read(self) -> "Training":
        given = changed(self)
        for names, owner, holds in (
            (("milestones", "gamma"), "schedule: step", self.schedule == "step"),
            (("momentum",), "optimizer: sgd", self.optimizer == "sgd"),
            (("warmup_from",), "warmup_steps above 0", self.warmup_steps > 0),
        ):
            unread = [name for name in names if name in given]
            if unread and not holds:
                raise ValueError(f"{unread[0]} belongs to {owner}")
        return self


class Decoding(Settings):
    """From a network's maps to people; each approach reads what concerns it.

    flip_test: the mirrored picture is asked too and both answers are averaged, which takes the network's time twice: so
    published accuracies are mostly told, and so no telephone runs. Accuracy and milliseconds are told of the same
    number of passes. locate: where in its cell, or upsampled pixel of a part affinity map, a joint lies, instead of
    what the codec says (None; of part affinity maps the `peak`). refine: associative embedding fills in missing joints.
    upsample: of part affinity maps before they are read. suppression: of top-down people that lie on one another, where
    they come from a detector's boxes; overlap: for hard and soft, the least OKS at which they do.
    """

    flip_test: bool = False
    locate: Locate | None = None
    refine: bool = True
    upsample: Annotated[int, Field(ge=1, le=32)] = 2
    suppression: Literal["none", "hard", "soft", "parallel"] = "hard"
    overlap: Annotated[float, Field(gt=0, lt=1)] = 0.9

    @model_validator(mode="after")
    def _overlap_is_read(self) -> "Decoding":
        if "overlap" in changed(self) and self.suppression in ("none", "parallel"):
            raise ValueError(f"overlap belongs to hard and soft suppression, not to {self.suppression}")
        return self


class SupernetTraining(Training):
    """The shared weights. randoms: random candidates per step beside the largest and the smallest.

    pool: how many different candidates an epoch draws these from; building a candidate takes a while.
    distillation: share of the in-place distillation in the loss of all but the largest, 0..1.
    """

    randoms: Annotated[int, Field(ge=0)] = 1
    pool: Positive = 48
    distillation: Share = 0.5


class FineTuning(Training):
    """Finalists. The best of them learns from the labels; tuned, it teaches the others.

    distillation: the teacher's share of the loss, 0..1.
    """

    distillation: Share = 0.5


def _from_percent(value: Any) -> Any:
    """`150%` as 1.5."""
    text = value.removesuffix("%") if isinstance(value, str) and value.endswith("%") else None
    try:
        return value if text is None else float(text) / 100
    except ValueError:
        raise ValueError("it is a share of the slowest baseline's latency, such as 150% or 1.5") from None


class Budget(Settings):
    """Upper limits for a candidate; None is no limit. Baselines are scored whatever they cost.

    latency: predicted, as a share of the slowest baseline's, such as 150%: it suits any machine. latency_ms: predicted
    on the recipe's engine, of one pass of the network.
    """

    latency: Annotated[float, Field(gt=0), BeforeValidator(_from_percent)] | None = None
    latency_ms: Annotated[float, Field(gt=0)] | None = None
    macs: Annotated[int, Field(ge=1)] | None = None
    params: Annotated[int, Field(ge=1)] | None = None


class Search(Settings):
    """The search loop.

    trials: candidates that are scored. pictures of the search set are scored after batch-norm recalibration on
    `calibration_pictures` training pictures. space: path, or name of one in the package. sampler: see
    compress.nas.sampler; `guided` needs the fewest trials where there are hand-made networks. population: of NSGA-II.
    start: an artefact whose edits are searched instead of a supernet's architectures; `supernet` is not read then.
    tuning_samples: the first so many training samples, which every trial is tuned on once before it is scored, as
    finalists are, its own network unedited being the teacher; most edits score next to nothing without it. 0: none.
    """

    space: str
    start: Path | None = None
    sampler: Literal["nsga2", "tpe", "random", "guided"] = "nsga2"
    trials: Positive = 100
    population: Annotated[int, Field(ge=2)] = 20
    calibration_pictures: Positive = 96
    tuning_samples: Annotated[int, Field(ge=0)] = 0
    budget: Budget = Budget()


class Measurement(Settings):
    """Where latency counts, and what finalists are exported to.

    engine: has the latency table that the search looks costs up in. rounds: interleaved timings per network.
    exports: engines the finalists are exported to, compared with torch on `parity_pictures` inputs, and timed on.
    """

    engine: Literal["onnxruntime"] = "onnxruntime"
    threads: Threads = 1
    rounds: Positive = 100
    exports: tuple[EngineName, ...] = ("onnxruntime", "ncnn")
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

    baselines: hand-made networks, name → architecture fields over the space's fixed ones. decoding: of all networks;
    candidates are asked once even where the mirrored picture is asked too.
    """

    job: Literal["search"]
    seed: Seed = 1
    input_hw: InputSize = (128, 128)
    data: Data = Data()
    measurement: Measurement = Measurement()
    codec: CodecSetting = Codec()
    supernet: SupernetTraining = SupernetTraining()
    search: Search
    finalists: Finalists = Finalists()
    decoding: Decoding = Decoding()
    baselines: dict[Name, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _names_are_free(self) -> "SearchRecipe":
        taken = [name for name in self.baselines if name.startswith("finalist_")]
        if taken:
            raise ValueError(f"finalist_N is what the search names its own networks, not {taken[0]}")
        return self

    @model_validator(mode="after")
    def _data_has_an_average_precision(self) -> "SearchRecipe":
        if self.data.kind in ("mpii", "lsp"):
            raise ValueError(
                f"a search compares networks by average precision; {self.data.kind} data has another metric"
            )
        return self


class Distillation(Settings):
    """Learning from a trained network besides the labels.

    teacher: an artefact's folder. share: the teacher's maps' part of the loss, 0..1, the labels have the rest.
    features: module of the teacher → module of the network whose output shall follow it, by their dotted names;
    feature_weight: weighs their mean squared difference, added to the loss.
    """

    teacher: Path
    share: Share = 0.5
    features: dict[str, str] = {}
    feature_weight: Annotated[float, Field(ge=0)] = 1.0


class TrainRecipe(Settings):
    """`compress train`: one network from fresh or given weights."""

    job: Literal["train"] = "train"
    seed: Seed = 1
    input_hw: InputSize = (128, 128)
    data: Data = Data()
    codec: CodecSetting = Codec()
    training: Training = Training()
    distillation: Distillation | None = None
    decoding: Decoding = Decoding()


class EvaluateRecipe(Settings):
    """`compress evaluate`: the validation set, once.

    seed, input_hw, data, codec: None takes what the artefact was validated with.
    """

    job: Literal["evaluate"] = "evaluate"
    seed: Seed | None = None
    input_hw: InputSize | None = None
    data: Data | None = None
    codec: CodecSetting | None = None
    decoding: Decoding = Decoding()


class ExportRecipe(Settings):
    """`compress export`: engines to export to, and how many validation pictures the outputs are compared on.

    seed, input_hw, data: None takes what the artefact was validated with.
    """

    job: Literal["export"] = "export"
    seed: Seed | None = None
    input_hw: InputSize | None = None
    data: Data | None = None
    engines: Annotated[tuple[EngineName, ...], Field(min_length=1)] = ("onnxruntime", "ncnn")
    parity_pictures: Positive = 4


class NetworksRecipe(Settings):
    """`compress networks`: names of the networks to list; all if empty."""

    job: Literal["networks"] = "networks"
    names: tuple[str, ...] = ()


class ProfileRecipe(Settings):
    """`compress profile`.

    input_hw: None takes the artefact's, else the first that the network's paper prints. engine: times the layers that
    mobile engines handle badly on this one, with `threads`, in `rounds` passes. decode: times the ways to read people
    from the maps, on the validation pictures of `data`, by default the artefact's or drawn ones.
    """

    job: Literal["profile"] = "profile"
    input_hw: InputSize | None = None
    engine: EngineName | None = None
    threads: Threads = 1
    rounds: Positive = 40
    decode: bool = False
    data: Data | None = None
    codec: CodecSetting | None = None
    seed: Seed | None = None

    @model_validator(mode="after")
    def _data_is_decoded(self) -> "ProfileRecipe":
        if self.data is not None and not self.decode:
            raise ValueError("data is read to time decoding only: ask for it with --decode, or leave data out")
        return self

    @model_validator(mode="after")
    def _timing_has_an_engine(self) -> "ProfileRecipe":
        unread = sorted({"threads", "rounds"} & changed(self))
        if unread and self.engine is None:
            raise ValueError(f"{unread[0]} is of the timing on an engine: name one with --engine, or leave it out")
        return self


class LatencyRecipe(Settings):
    """`compress latency`.

    networks: whole ones that a space gives to fit the table's scale on, to check it with, or to pack. rounds: timings
    of each. allow_foreign: also use a table of another version, device, number of threads or precision, and mark it.
    """

    job: Literal["latency"] = "latency"
    seed: Seed = 1
    engine: EngineName = "onnxruntime"
    threads: Positive = 1
    input_hw: InputSize = (128, 128)
    networks: Positive = 8
    rounds: Positive = 40
    allow_foreign: bool = False


class Pruning(Settings):
    """How much goes, and what.

    One goal: ratio, the share of the channels (or weights) that go; macs, the share of the multiply-adds that stays;
    latency_ms, or latency, the share of the measured time that stays. scheme: `channel` gives a smaller dense network;
    the others set weights to zero: `block` (filters of 4 share a mask), `pattern` (4 of 9 positions), `nm` (2 of 4),
    `unstructured`. criterion: see compress.pruning.importance. allocate: `uniform`, the same for every layer; `global`,
    one threshold for all; `sensitivity` and `latency`, least predicted loss per multiply-add or per millisecond.
    multiple: channels that stay divide by it; None takes what the engine computes at a time. protect: patterns of
    layers that keep all. steps: prune and tune so often, a part each time. ratios: that layers are analysed at.
    threshold: a layer is pruned only from the ratio on at which it gains this share of its time ("high or not at all").
    schedule: how weights get to zero while the network is tuned, see compress.pruning.schedule; force: admm's rho, or
    the strength of the reweighted group lasso.
    pictures: that every point of a sensitivity curve, and data-driven criteria, are judged on.
    """

    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    macs: Annotated[float, Field(gt=0, lt=1)] | None = None
    latency: Annotated[float, Field(gt=0, lt=1)] | None = None
    latency_ms: Annotated[float, Field(gt=0)] | None = None
    scheme: Literal["channel", "block", "pattern", "nm", "unstructured"] = "channel"
    criterion: Literal["l1", "l2", "fpgm", "batch_norm", "lamp", "activation", "taylor", "hessian", "random"] = "l2"
    allocate: Literal["uniform", "global", "sensitivity", "latency"] = "uniform"
    multiple: Positive | None = None
    protect: tuple[str, ...] = ()
    steps: Positive = 1
    ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.25, 0.5, 0.625, 0.75, 0.875)
    threshold: Probability = 0.1
    pictures: Positive = 100
    schedule: Literal["one_shot", "gradual", "admm", "reweighted"] = "one_shot"
    force: Annotated[float, Field(gt=0)] = 1e-4

    @model_validator(mode="after")
    def _one_goal(self) -> "Pruning":
        goals = ("ratio", "macs", "latency", "latency_ms")
        given = [name for name in goals if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"there must be one goal, not {' and '.join(given)}")
        return self

    @model_validator(mode="after")
    def _zeros_have_a_ratio(self) -> "Pruning":
        if self.scheme != "channel":
            timed = self.latency is not None or self.latency_ms is not None
            if self.steps > 1 or self.macs is not None or self.allocate != ("latency" if timed else "uniform"):
                raise ValueError(
                    "zeros come in one step: a ratio with uniform allocation, or a latency with allocation by latency"
                )
        if self.schedule != "one_shot" and self.scheme == "channel":
            raise ValueError("schedule belongs to fine-grained schemes; channels go in steps")
        if self.schedule == "gradual" and self.scheme in ("pattern", "nm"):
            raise ValueError(f"{self.scheme} has no small ratios to rise from: take one_shot, admm or reweighted")
        return self


class ChangeRecipe(Settings):
    """What every change of a given network is told: fine-tuning with it as teacher, export, measurement.

    seed, input_hw, data, codec: None takes what the artefact was validated with; a network that is no artefact counts
    as trained only where data is given. engine, threads: that milliseconds are of.
    """

    seed: Seed | None = None
    input_hw: InputSize | None = None
    data: Data | None = None
    engine: EngineName = "onnxruntime"
    threads: Threads = 1
    rounds: Positive = 60
    exports: tuple[EngineName, ...] = ("onnxruntime", "ncnn")
    parity_pictures: Positive = 4
    codec: CodecSetting | None = None
    training: FineTuning = FineTuning()
    decoding: Decoding = Decoding()

    @model_validator(mode="after")
    def _engine_is_exported_to(self) -> "ChangeRecipe":
        if self.engine not in self.exports:
            raise ValueError(f"exports must contain the engine that latency is measured on, {self.engine}")
        return self


class PruneRecipe(ChangeRecipe):
    """`compress prune`."""

    job: Literal["prune"] = "prune"
    pruning: Pruning = Pruning()


class Rewriting(Settings):
    """What is replaced, and when.

    rules: names, see `compress rewrite --list`; empty: all of them. sites: patterns of modules' paths that may change.
    min_gain: least share of the network's measured time that a replacement must save. max_loss: what all replacements
    together may lose of the score before any fine-tuning, 0..1. groups: sites of a rule beyond so many are decided
    together, by the part of the network they are in. calibration: training pictures that replacements are fitted on;
    steps: of Adam for each. pictures: that a loss is judged on. depth: instead of replacing, another number of layers
    at the same multiply-adds.
    """

    rules: tuple[str, ...] = ()
    sites: tuple[str, ...] = ("*",)
    min_gain: Annotated[float, Field(ge=0, lt=1)] = 0.01
    max_loss: Annotated[float, Field(ge=0, le=1)] = 0.02
    groups: Positive = 12
    calibration: Annotated[int, Field(ge=4)] = 64
    steps: Annotated[int, Field(ge=0)] = 150
    pictures: Positive = 100
    depth: Annotated[int, Field(ge=1, le=1000)] | None = None

    @model_validator(mode="after")
    def _depth_stands_alone(self) -> "Rewriting":
        if self.depth is not None and self.rules:
            raise ValueError("depth makes another network with random weights: there is nothing yet for rules to keep")
        return self


class RewriteRecipe(ChangeRecipe):
    """`compress rewrite`."""

    job: Literal["rewrite"] = "rewrite"
    rewriting: Rewriting = Rewriting()


class PredictRecipe(Settings):
    """`compress predict`: pictures in, pictures with skeletons or COCO results out.

    format: `drawn` draws skeletons and lists people in people.json; `coco` writes results.json, a COCO keypoint
    detection file. data: whose validation pictures are looked at, with their ids and, for top-down networks, boxes.
    annotations: a file in COCO's layout that numbers the given pictures. codec: None takes the artefact's. min_score:
    of a person to be drawn and listed; `coco` lists all unless this is changed.
    """

    job: Literal["predict"] = "predict"
    input_hw: InputSize | None = None
    format: Literal["drawn", "coco"] = "drawn"
    data: Data | None = None
    annotations: Path | None = None
    codec: CodecSetting | None = None
    decoding: Decoding = Decoding()
    min_score: Probability = 0.2

    @model_validator(mode="after")
    def _ids_are_from_one_file(self) -> "PredictRecipe":
        if self.data is not None and self.annotations is not None:
            raise ValueError("the ids are those of annotations, or of data's own file: give one of them")
        return self


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


def read_recipe(
    path: Path | None,
    model: type[AnyRecipe],
    overrides: Sequence[str] = (),
    options: Mapping[str, Sequence[str]] | None = None,
) -> AnyRecipe:
    """The recipe in a file (None: all defaults), with `key.sub=value` overrides applied. Raises RecipeError.

    options: overrides that come from other options of the command line than `--set`, such as `--ratio`, by the
    option; they come before `overrides`. An error names what was typed: the option, `--set KEY`, or the file.
    """
    data = {} if path is None else read_yaml_mapping(path, RecipeError, "a recipe")
    given = [(option, one) for option, several in (options or {}).items() for one in several]
    given += [(f"--set {one.partition('=')[0]}", one) for one in overrides]
    typed: dict[str, str] = {}
    for option, override in given:
        _override(data, override, option)
        typed[override.partition("=")[0]] = option
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _first_mistake(error, data, model, typed, shown_recipe(path)) from None


def shown_recipe(path: Path | None) -> str:
    """How an error names the recipe: a shipped one by its name, wherever it is installed."""
    if path is None:
        return "recipe"
    return f"recipe {path.stem}" if path.parent == shipped_folder("recipes") else str(path)


def data_folder(disk: DiskData) -> Path:
    """Where the labelled pictures lie. Raises DataError if nothing lies there."""
    assert disk.folder is not None  # the recipe checked it
    if not disk.folder.is_dir():
        raise DataError(
            "the dataset folder must exist",
            place=str(disk.folder),
            remedy="correct the folder of --data or data.disk.folder",
        )
    return disk.folder


def noted_data(noted: Any, place: str) -> Data:
    """The data section that an artefact's facts note. Raises ArtefactError if it is none."""
    try:
        return Data.model_validate(noted)
    except ValidationError as error:
        raise ArtefactError(
            "an artefact's facts must note a recipe's data section",
            place=place,
            value=".".join(str(part) for part in error.errors()[0]["loc"]),
            remedy="say what to validate on with --set data={kind: ...}",
        ) from None


def noted_codec(facts: Mapping[str, Any]) -> Codec:
    """The codec that an artefact's facts note, or `ours`. Raises ArtefactError if what they note is none.

    Artefacts of the time before codecs note `exact` instead, and not all that a codec says: they are refused.
    """
    if "codec" not in facts and "exact" in facts:
        raise ArtefactError(
            "an artefact's facts must note a codec",
            place="artefact: facts",
            value="exact, of an earlier version",
            remedy="say how its maps are read with --set codec=NAME",
        )
    try:
        codec: Codec = TypeAdapter(CodecSetting).validate_python(facts.get("codec", {}))
        return codec
    except ValidationError as error:
        raise ArtefactError(
            "an artefact's facts must note a codec",
            place=".".join(str(part) for part in ("artefact: facts.codec", *error.errors()[0]["loc"])),
            value=facts["codec"],
            remedy="say how its maps are read with --set codec=NAME",
        ) from None


def to_data(recipe: Settings) -> dict[str, Any]:
    """Plain data of the whole recipe with every default written out."""
    return recipe.model_dump(mode="json")


def fingerprint(recipe: Settings) -> str:
    """Equal for equal recipes, whatever file they came from."""
    return hashlib.sha256(json.dumps(to_data(recipe), sort_keys=True).encode()).hexdigest()[:16]


def _override(data: dict[str, Any], override: str, option: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise RecipeError("an override is key.sub=value", place="--set", value=override, remedy="write it so")
    try:
        value = read_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError("the value is not valid YAML", place=option, value=str(error), remedy="quote it") from None
    *parents, last = path.split(".")
    for key in parents:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise RecipeError(f"{key} has no sub-keys", place=option, value=data, remedy="set it whole")
    data[last] = value


def _first_mistake(
    error: ValidationError, data: Any, model: type[BaseModel], typed: Mapping[str, str], file: str
) -> RecipeError:
    """typed: key → the option that gave its value."""
    mistakes = error.errors()  # what another job's recipe lacks for this one says less than that it is another's
    mistake = next((one for one in mistakes if one["loc"] == ("job",)), mistakes[0])
    location = [str(part) for part in mistake["loc"]]
    key = ".".join(location)
    rule = mistake["msg"].removeprefix("Value error, ")
    place = _typed_as(key, rule, typed) or f"{file}: {key or 'recipe'}".removesuffix(": recipe")
    if mistake["type"] == "extra_forbidden":
        return RecipeError("unknown key", place=place, remedy=nearest(location[-1], _keys(model, location)))
    if mistake["type"] == "missing":
        return RecipeError("this key is required", place=place, remedy="add it")
    value = None if mistake["type"] == "value_error" else mistake["input"]
    return RecipeError(rule, place=place, value=value, remedy="correct the value")


def _typed_as(key: str, rule: str, typed: Mapping[str, str]) -> str:
    """The options that the mistake at that key is about, if any: those that gave its value, a part of it, or what it is
    a part of. Of a section's rule, which is about some of its keys, those that the rule names."""
    exact = [option for name, option in typed.items() if key == name or key.startswith(f"{name}.")]
    if exact:
        return exact[-1] if key in typed or not exact[-1].startswith("--set") else f"{exact[-1]}: {key}"
    inside = {name: option for name, option in typed.items() if not key or name.startswith(f"{key}.")}
    words = set(re.findall(r"[a-z_]+", rule))
    named = [option for name, option in inside.items() if name.rpartition(".")[2] in words]
    return ", ".join(dict.fromkeys(named))


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
