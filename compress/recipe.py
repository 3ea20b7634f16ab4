"""Recipes: one complete job per YAML file, no inheritance. Every mistake is reported before any work begins.

A recipe is found by path, or by name among the recipes that come with the package. Values are overridden from the
command line with `--set key.sub=value`, where the value is YAML; a mapping replaces the whole section.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    WrapSerializer,
    model_validator,
)

from compress.errors import CompressError, DataError, RecipeError, nearest
from compress.extensions import name_of
from compress.files import read_yaml, read_yaml_mapping
from compress.measure.limit import Limit, Quantity
from compress.measure.limit import parse as parse_limit
from compress.measure.objective import DEFAULT_OBJECTIVES, CostObjective
from compress.measure.objective import parse as parse_objective
from compress.measure.target import Target, parse
from compress.pose.codec import PRESETS, Codec

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1, le=10_000_000)]
"""Of pictures, samples, epochs, rounds: at most far more than anyone waits for, and few enough for a list."""
Persons = Annotated[int, Field(ge=1, le=100)]
Share = Annotated[float, Field(ge=0, lt=1)]  # of a teacher; the labels always have some
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Named = Annotated[str, BeforeValidator(name_of)]
"""Something that others may add to, see compress.extensions. The job checks the name, before any work."""
EngineName = Named
Side = Annotated[int, Field(ge=32, le=4096)]
InputSize = tuple[Side, Side]
ANY_NETWORK = "any_network"
"""The shipped recipe of a search around a network."""
DEFAULT_HW = (256, 256)
"""Input size where neither the user, nor the network, nor a paper names one; a multiple of every network's stride."""


TargetSetting = Annotated[Target, BeforeValidator(parse), PlainSerializer(str)]


def _several(given: Any) -> Any:
    """One target, or several; no two of one name."""
    listed = list(given) if isinstance(given, list | tuple) else [given]
    targets = tuple(map(parse, listed))
    names = [target.name for target in targets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"each target stands once, and {twice} stands twice")
    if not targets:
        raise ValueError("there must be a target")
    return targets


Targets = Annotated[tuple[TargetSetting, ...], BeforeValidator(_several)]


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


class _Origin:
    """Where a recipe was read, and its keys → the options that gave their values. Recipes compare without it."""

    def __init__(self, file: str, typed: Mapping[str, str]) -> None:
        self.file, self.typed = file, typed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Origin)

    __hash__ = None  # type: ignore[assignment]


class Settings(BaseModel):
    """Frozen; unknown keys and wrong types are errors. Every key says what it means in its `Field(description=...)`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    _origin: "_Origin" = PrivateAttr(default_factory=lambda: _Origin("recipe", {}))

    def place(self, key: str) -> str:
        """How an error names a key of this recipe, such as `data.kind`: by the option that gave its value, else by the
        file."""
        return _typed_as(key, "", self._origin.typed) or f"{self._origin.file}: {key}"


def changed(settings: Settings) -> set[str]:
    """Keys whose value is not the default. A recipe in a run folder has all keys, so what was given is not known."""
    fields = type(settings).model_fields
    return {name for name, field in fields.items() if getattr(settings, name) != field.default}


_SEED = "Seed of everything random: pictures, weights, sampling."
_INPUT = "Height and width of the network's input in pixels, 32 to 4096 each."
_OWN_SIZE = (
    " Null takes what the artefact, the ONNX file or the own module says, else the first size in the paper of a known "
    f"network, else {DEFAULT_HW[0]}x{DEFAULT_HW[1]}."
)
_CODEC = "How joints become maps and maps joints: a preset's name, or a section (see Codec)."
DEFAULT_TARGETS = (Target("onnxruntime"), Target("ncnn"))
_TARGETS = (
    "What the networks are exported to and timed on, each a column of every table; the first decides. "
    "ENGINE[:threads=N,precision=float16][@TABLE], where TABLE is the latency table of another device, from which "
    "times are predicted then (see docs/latency.md)."
)
_AS_VALIDATED = " Null takes the one that the artefact was validated with."


class SyntheticData(Settings):
    """Synthetic people, rendered on the fly and labelled exactly. The three sets never share a picture."""

    train: Positive = Field(default=4096, description="Number of training pictures.")
    search: Positive = Field(default=160, description="Number of pictures that a search scores its candidates on.")
    val: Positive = Field(default=256, description="Number of validation pictures, which reported scores are of.")
    picture_hw: InputSize | None = Field(
        default=None, description="Height and width of the pictures; the network's input size if nothing is written."
    )
    people: tuple[Persons, Persons] = Field(default=(1, 2), description="Fewest and most people in a picture.")
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        default=(0.75, 0.98),
        description="Smallest and largest standing height of a person, as a fraction of the picture's height.",
    )
    clutter: Annotated[float, Field(ge=0, le=1000)] = Field(
        default=3.0, description="Mean number of shapes in the background."
    )
    pose_spread: Annotated[float, Field(ge=0)] = Field(
        default=0.5,
        description="Multiplies the random part of every joint angle: 0 gives ten fixed poses, 1 their full variation.",
    )
    tumble: Probability = Field(default=0.0, description="Probability that a person lies down or is upside down.")
    truncation: Probability = Field(
        default=0.05, description="Probability that a person may extend beyond the picture's border."
    )
    occluder: Probability = Field(default=0.05, description="Probability that an object covers part of a person.")


class DiskData(Settings):
    """Labelled people on disk. The layouts are described in compress/data/sets.py."""

    folder: Path | None = Field(
        default=None,
        description="Folder with the pictures' folders and the annotation files, as the archives unpack. Required for "
        "every data set on disk.",
    )
    train: str | None = Field(default=None, description="Name of the training split; null finds the usual one.")
    val: str | None = Field(default=None, description="Name of the validation split; null finds the usual one.")
    search: Positive = Field(
        default=500,
        description="Number of training pictures held out of training, which a search scores its candidates on.",
    )
    detections: Path | None = Field(
        default=None,
        description="File with a detector's boxes of the validation pictures, in COCO's results format, for top-down "
        "networks; null uses the labelled boxes.",
    )
    heads: Path | None = Field(
        default=None,
        description="MPII only: file with the validation people's head boxes (`gt_valid.mat`), which PCKh is "
        "normalised by.",
    )


class Data(Settings):
    """The pictures. Only the section that `kind` names is used: `synthetic`, or `disk` for all others."""

    kind: Named = Field(
        default="synthetic",
        description="Data set, which also decides the metric: `synthetic` and `coco` are scored by COCO's AP, "
        "`crowdpose` by AP with CrowdPose's constants, `mpii` by PCKh@0.5, `lsp` by PCK@0.2 of the torso.",
    )
    synthetic: SyntheticData = Field(default=SyntheticData(), description="Settings of the synthetic people.")
    disk: DiskData = Field(default=DiskData(), description="Location and splits of a data set on disk.")
    workers: Annotated[int, Field(ge=0, le=256)] = Field(
        default=0,
        description="Processes that load training pictures; 0 loads them in the training process. More of them lower "
        "the share of time that the progress line reports as waiting for data.",
    )

    @property
    def detections(self) -> Path | None:
        """File with a detector's boxes, of data on disk; None where the labelled boxes are used."""
        return None if self.kind == "synthetic" else self.disk.detections


class Augment(Settings):
    """Augmentation of whole pictures, for bottom-up networks. The defaults are DIR-BHRNet's (Sec. IV-A)."""

    rotation_deg: Annotated[float, Field(ge=0, le=180)] = Field(
        default=30, description="Random rotation, uniform within plus or minus this many degrees."
    )
    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        default=(0.75, 1.5),
        description="Range of the random crop's side, in units of the picture's short side; above 1 shrinks people.",
    )
    translate_px: Annotated[float, Field(ge=0)] = Field(
        default=40,
        description="Random translation, uniform within plus or minus this many pixels of an input whose short side is "
        "512; it scales with the input.",
    )
    flip: Probability = Field(default=0.5, description="Probability of mirroring.")


class PersonAugment(Settings):
    """Augmentation of cropped persons, for top-down networks. The defaults are HRNet's."""

    rotation_deg: Annotated[float, Field(ge=0, le=180)] = Field(
        default=45,
        description="Standard deviation of the rotation in degrees, cut off at twice that; 60 % of the crops are "
        "rotated.",
    )
    scale: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.35, description="Standard deviation of the crop's scale around 1, cut off at 1 ± scale."
    )
    flip: Probability = Field(default=0.5, description="Probability of mirroring.")
    half_body: Probability = Field(
        default=0.3,
        description="Probability of cropping to the upper or lower half of the body, for persons with more than eight "
        "labelled joints.",
    )


class Loss(Settings):
    """Weights of the loss terms."""

    heatmap: Annotated[float, Field(gt=0)] = Field(
        default=0.99, description="Weight of the squared error of the maps, at every output."
    )
    pull: Annotated[float, Field(ge=0)] = Field(
        default=0.01,
        description="Weight of the associative embedding's pull term: the tags of one person come together.",
    )
    push: Annotated[float, Field(ge=0)] = Field(
        default=0.01,
        description="Weight of the associative embedding's push term: the mean tags of different people move apart.",
    )
    tags: Literal["higher_hrnet", "dir_bhrnet"] = Field(
        default="higher_hrnet",
        description="Form of pull and push: as in HigherHRNet's code, or as the DIR-BHRNet paper writes them.",
    )
    hard_joints: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Top-down only: only this many joints of a person, those with the largest error, count in the loss "
        "(Chen et al., CPN, 2018); 0 counts all.",
    )


class ParameterGroup(Settings):
    """Other optimizer settings for some of the parameters; where several groups match a name, the last one counts."""

    pattern: str = Field(description="Regular expression that is searched for in the parameters' names.")
    rate: Annotated[float, Field(ge=0)] = Field(default=1.0, description="Factor on the learning rate.")
    weight_decay: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="Weight decay in place of the recipe's; null keeps the recipe's."
    )

    @model_validator(mode="after")
    def _pattern_is_one(self) -> "ParameterGroup":
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from None
        return self


class Training(Settings):
    """How a network is trained."""

    epochs: Positive = Field(default=10, description="Passes over the training set.")
    batch_size: Positive = Field(
        default=32, description="Pictures (top-down: persons) per optimizer step, summed over all processes."
    )
    accumulate: Positive = Field(
        default=1,
        description="Number of equal parts that a batch is split into to save memory; their gradients are added up. It "
        "must divide batch_size. Batch norm sees one part at a time.",
    )
    optimizer: Literal["adam", "adamw", "sgd"] = Field(default="adam", description="Optimizer.")
    learning_rate: Annotated[float, Field(gt=0)] = Field(
        default=1.5e-3, description="Peak learning rate. The default is the DIR-BHRNet paper's."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="Momentum of `sgd`.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.0, description="Weight decay of all parameters.")
    groups: tuple[ParameterGroup, ...] = Field(
        default=(), description="Groups of parameters with a learning rate or weight decay of their own."
    )
    schedule: Literal["cosine", "step"] = Field(
        default="cosine",
        description="Learning rate over the training: `cosine` falls to zero, `step` multiplies it by gamma at each "
        "milestone.",
    )
    milestones: tuple[Probability, ...] = Field(
        default=(), description="Points at which `step` lowers the learning rate, as fractions of all epochs."
    )
    gamma: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.1, description="Factor on the learning rate at each milestone of `step`."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(
        default=50, description="Optimizer steps over which the learning rate rises linearly to its peak."
    )
    warmup_from: Probability = Field(
        default=0.0, description="Learning rate at the start of the warm-up, as a fraction of the peak."
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="Decay per step of the exponential moving average of the weights, which is then what training "
        "returns; 0 returns the weights themselves.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Precision of training; `auto` is bfloat16 on a GPU and float32 elsewhere."
    )
    clip_norm: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="Largest norm of the gradients, above which they are scaled down; 0 does not clip."
    )
    loss: Loss = Field(default=Loss(), description="Weights of the loss terms.")
    augment: Augment = Field(default=Augment(), description="Augmentation for bottom-up networks.")
    person_augment: PersonAugment = Field(default=PersonAugment(), description="Augmentation for top-down networks.")

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


class NetworkTraining(Training):
    """Training of one network."""

    backbone: Path | None = Field(
        default=None,
        description="Public checkpoint whose weights the network starts from, as the papers start from ImageNet: a "
        "file that has its backbone (see docs/checkpoints.md). Null starts from random weights, or the artefact's.",
    )


class Decoding(Settings):
    """From a network's maps to people. Each approach reads the keys that concern it."""

    flip_test: bool = Field(
        default=False,
        description="Run the network on the mirrored picture too and average both outputs. It raises the score and "
        "takes the network's time twice. Most published accuracies use it; applications on a phone do not, so it is "
        "off by default. Accuracies and milliseconds are reported for the same number of passes.",
    )
    refine: bool = Field(
        default=True, description="Associative embedding only: fill in joints that a found person lacks."
    )
    suppression: Literal["none", "hard", "soft", "parallel"] = Field(
        default="hard",
        description="Top-down with a detector's boxes only: how duplicate poses are suppressed (pose NMS by OKS).",
    )
    overlap: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.9, description="OKS above which `hard` and `soft` suppression take two poses for duplicates."
    )

    @model_validator(mode="after")
    def _overlap_is_read(self) -> "Decoding":
        if "overlap" in changed(self) and self.suppression in ("none", "parallel"):
            raise ValueError(f"overlap belongs to hard and soft suppression, not to {self.suppression}")
        return self


class SupernetTraining(Training):
    """Training of the weights that all candidates share: sandwich rule with in-place distillation."""

    randoms: Annotated[int, Field(ge=0)] = Field(
        default=1, description="Random candidates trained in each step beside the largest and the smallest."
    )
    pool: Positive = Field(
        default=48,
        description="Number of different candidates that an epoch draws these from; building a candidate takes time.",
    )
    distillation: Share = Field(
        default=0.5,
        description="Weight of the distillation loss in the loss of all but the largest candidate, which is the "
        "teacher; the labels have the rest.",
    )


class CandidateTraining(Training):
    """Training of every candidate by itself on the labels (`search.method: train`), by successive halving: a cohort is
    trained for a few epochs, the better part of it on to the next rung, up to all epochs.

    Rungs are at `epochs`, at 1/`eta` of them, and so on down to `first_epochs`; at each 1/`eta` of the cohort goes on,
    by non-dominated rank of score and costs. `cohort` should be several times what the front holds.
    """

    epochs: Positive = Field(default=20, description="Epochs of a candidate that is never stopped.")
    cohort: Annotated[int, Field(ge=2)] = Field(
        default=16, description="Candidates that are trained and compared together; baselines come on top."
    )
    eta: Annotated[int, Field(ge=2)] = Field(
        default=2, description="Factor between the epochs of two rungs, and between the candidates that reach them."
    )
    first_epochs: Positive = Field(
        default=5,
        description="Fewest epochs after which a candidate may be stopped; as many as `epochs` stops none. At a rung "
        "where no candidate scores beyond a constant answer none is stopped.",
    )

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs at which candidates are scored, the last of them `epochs`."""
        found, epochs = {self.epochs}, self.epochs / self.eta
        while epochs >= self.first_epochs:
            found.add(math.ceil(epochs))
            epochs /= self.eta
        return tuple(sorted(found))

    def places(self, entered: int, rung: int) -> int:
        """How many of those that entered the cohort are trained on behind the rung, counted from 0."""
        factor: int = self.eta ** (rung + 1)
        return max(1, entered // factor)

    @model_validator(mode="after")
    def _a_rung_lies_within(self) -> "CandidateTraining":
        if self.first_epochs > self.epochs:
            raise ValueError(f"first_epochs must be no more than epochs, {self.epochs}, not {self.first_epochs}")
        return self


class FineTuning(Training):
    """Training of chosen networks. The best of them learns from the labels and then teaches the others."""

    distillation: Share = Field(default=0.5, description="Weight of the distillation loss; the labels have the rest.")


def _limit(quantity: Quantity) -> BeforeValidator:
    return BeforeValidator(lambda given: parse_limit(given, quantity))


def _in_ms(limit: Limit) -> str:
    return str(limit) if limit.relative else f"{limit} ms"


LatencyLimit = Annotated[Limit, _limit("latency"), PlainSerializer(_in_ms)]
MacsLimit = Annotated[Limit, _limit("macs"), PlainSerializer(str)]
ParamsLimit = Annotated[Limit, _limit("params"), PlainSerializer(str)]
SizeLimit = Annotated[Limit, _limit("size"), PlainSerializer(str)]
MemoryLimit = Annotated[Limit, _limit("memory"), PlainSerializer(str)]


def _objectives(given: Any) -> Any:
    """One objective, or several; none twice."""
    listed = list(given) if isinstance(given, list | tuple) else [given]
    objectives = tuple(map(parse_objective, listed))
    twice = next((one for one in objectives if objectives.count(one) > 1), None)
    if twice:
        raise ValueError(f"each objective stands once, and {twice} stands twice")
    if not objectives:
        raise ValueError("there must be an objective beside the score")
    return objectives


Objectives = Annotated[tuple[Annotated[CostObjective, PlainSerializer(str)], ...], BeforeValidator(_objectives)]


def _by_target(given: Any) -> Any:
    """Latency limits by target's name; one alone is of the first target."""
    if given is None or isinstance(given, dict):
        return given
    return {"": given}


def _shortest(limits: Any, plain: SerializerFunctionWrapHandler) -> Any:
    """One limit without a target's name, as it is written."""
    written = plain(limits)
    return written[""] if isinstance(written, dict) and list(written) == [""] else written


_OF = "as a share of the costliest baseline's (`120%`) or of a named one's (`120% of hand_balance`), or"


class Budget(Settings):
    """Upper limits for a candidate; null is no limit. Baselines are scored whatever they cost."""

    latency: Annotated[dict[str, LatencyLimit], BeforeValidator(_by_target), WrapSerializer(_shortest)] | None = Field(
        default=None,
        description=f"Largest predicted latency of one pass, {_OF} absolute (`2.5 ms`). One value is for the first "
        "target; a mapping has one for each target by its name, such as `{onnxruntime: 120%, ncnn: 3 ms}`. Around a "
        "given network whose weights are inherited it is corrected by measurements, on targets of this machine.",
    )
    macs: MacsLimit | None = Field(default=None, description=f"Most multiply-adds, {_OF} absolute (`300M`).")
    params: ParamsLimit | None = Field(default=None, description=f"Most parameters, {_OF} absolute (`1.2M`).")
    size: SizeLimit | None = Field(
        default=None, description=f"Most bytes of weights in float32, {_OF} absolute (`1.5 MB`)."
    )
    memory: MemoryLimit | None = Field(
        default=None, description=f"Largest peak of one pass's activations in bytes, {_OF} absolute (`4 MB`)."
    )


class ZeroCost(Settings):
    """A filter of proposals by a figure of their untrained networks, before anything is trained or scored.

    A proposal is passed over if its figure is below the quantile among the proposals of like cost so far: figures grow
    with the network, and of all proposals together only large ones would stay.
    """

    proxy: Literal["synflow", "naswot"] | None = Field(
        default=None,
        description="The figure: `synflow` needs no pictures, `naswot` counts activations on some training pictures. "
        "The report compares both it and multiply-adds with the scores. Null filters nothing.",
    )
    quantile: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.5,
        description="Share of the proposals of like cost that one must exceed to be evaluated; 0 passes over none, and "
        "only reports.",
    )


class Search(Settings):
    """The search loop."""

    space: str | None = Field(
        default=None,
        description="Search space: path of a YAML file, or the name of one that comes with the package. Null derives "
        "it from `start`.",
    )
    start: str | None = Field(
        default=None,
        description="NETWORK to start from, trained: an artefact's folder, package.module:function, an ONNX file or "
        "NAME@FILE. Its edits are searched, in place of a supernet's architectures, and the `supernet` section is not "
        "used.",
    )
    weights: Literal["inherit", "scratch"] = Field(
        default="inherit",
        description="Where the weights of candidates around `start` come from: `inherit`, from the given network; "
        "`scratch`, from a supernet that is trained here, of architectures no larger than the given one's.",
    )
    method: Literal["shared", "train"] = Field(
        default="shared",
        description="What candidates are scored with: `shared`, weights of a supernet or of the given network; "
        "`train`, weights of their own, each trained alone as the `training` section says and stopped early by "
        "successive halving.",
    )
    groups: Positive = Field(
        default=12,
        description="Most choices of each kind in a derived space; more are finer, and take more single edits.",
    )
    sampler: Named = Field(
        default="nsga2",
        description="What proposes candidates: Optuna's `nsga2`, `tpe`, `gp` or `random`; `guided`, an "
        "additive model of the scores so far, for where there are baselines to improve on; or `predictor`, a Gaussian "
        "process with its uncertainty, which screens thousands of candidates for the largest expected gain.",
    )
    prior: str | None = Field(
        default=None,
        description="Where `predictor` has scores from before the first trial, of the same choices on other pictures: "
        "the run folder of a search, or PoseNAS-Bench's `lspet` or `synthetic`.",
    )
    trials: Positive = Field(default=100, description="Number of candidates that are scored.")
    population: Annotated[int, Field(ge=2)] = Field(
        default=20, description="Population of `nsga2`; of every sampler, the number of initial candidates."
    )
    calibration_pictures: Positive = Field(
        default=96,
        description="Training pictures that batch-norm statistics are recalibrated on before a candidate is scored.",
    )
    tuning_samples: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Training samples that every candidate is fine-tuned on, once, before it is scored, with its "
        "network without edits as teacher; most edits score next to nothing without it. 0 does not tune.",
    )
    objectives: Objectives = Field(
        default=DEFAULT_OBJECTIVES,
        description="What a candidate is to be small in, beside its score, which is to be large: one or several of "
        "`end_to_end` (all passes and the decoding), `latency` (one pass), either of the first target or `on` a named "
        "one (`latency on ncnn`), `macs`, `params`, `size` (of the weights) and `memory` (peak of the activations). "
        "Sampler, front and finalists follow all of them.",
    )
    budget: Budget = Field(default=Budget(), description="Upper limits for a candidate.")
    zero_cost: ZeroCost = Field(default=ZeroCost(), description="Filter of proposals by their untrained networks.")
    workers: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1,
        exclude=True,
        description="Processes that score candidates side by side on this machine, each with its part of the cores. "
        "One gives the same candidates for the same seed. It is no part of what a run folder belongs to: a run may go "
        "on with other workers.",
    )
    storage: str | None = Field(
        default=None,
        exclude=True,
        description="URL of the database that the trials are shared through, such as "
        "`postgresql://USER@HOST/DATABASE`; null shares them through a file in the run folder, if there are several "
        "workers. No part of what a run folder belongs to, and not written there.",
    )


class Measurement(Settings):
    """What latency is measured on, and what finalists are exported to."""

    targets: Targets = Field(default=DEFAULT_TARGETS, description=_TARGETS)
    predict_all: bool = Field(
        default=False,
        description="Predict candidates on every target, which takes the time of measuring each one's latency table. "
        "Without it they are predicted on the first and on those that `search.budget.latency` and "
        "`search.objectives` name.",
    )
    rounds: Positive = Field(default=100, description="Timings of each network, interleaved with the others'.")
    parity_pictures: Positive = Field(
        default=4, description="Validation pictures on which an export's outputs are compared with torch's."
    )


class Finalists(Settings):
    """The candidates that are trained further. Baselines are treated the same."""

    count: Positive = Field(default=4, description="Number of candidates that are taken from the Pareto front.")
    training: FineTuning = Field(default=FineTuning(), description="Fine-tuning of finalists and baselines.")


class SearchRecipe(Settings):
    """`compress search`: everything the job needs."""

    job: Literal["search"] = Field(description="The command that this recipe is for.")
    seed: Seed = Field(default=1, description=_SEED)
    input_hw: InputSize = Field(
        default=DEFAULT_HW, description=_INPUT + " Not given, that of `search.start`, if there is one."
    )
    data: Data = Field(
        default=Data(), description="The pictures. Not given, those that `search.start` was validated with."
    )
    measurement: Measurement = Field(default=Measurement(), description="Latency measurement and exports.")
    codec: CodecSetting = Field(
        default=Codec(), description=_CODEC + " Not given, that of `search.start`, if there is one."
    )
    supernet: SupernetTraining = Field(default=SupernetTraining(), description="Training of the shared weights.")
    training: CandidateTraining = Field(
        default=CandidateTraining(), description="Training of candidates of their own, for `search.method: train`."
    )
    search: Search = Field(description="The search loop.")
    finalists: Finalists = Field(default=Finalists(), description="The candidates that are trained further.")
    decoding: Decoding = Field(
        default=Decoding(),
        description="Decoding of all networks; candidates are scored with one pass even where `flip_test` is on.",
    )
    baselines: dict[Name, dict[str, Any]] = Field(
        default={},
        description="Hand-made networks to compare with: name, then the architecture's fields that differ from the "
        "space's fixed ones, and `input_hw` where the space has several, else the recipe's.",
    )

    @model_validator(mode="after")
    def _names_are_free(self) -> "SearchRecipe":
        taken = [name for name in self.baselines if name.startswith("finalist_")]
        if taken:
            raise ValueError(f"finalist_N is what the search names its own networks, not {taken[0]}")
        return self

    @model_validator(mode="after")
    def _training_is_read(self) -> "SearchRecipe":
        if self.search.method == "train" and self.search.tuning_samples:
            raise ValueError("search.tuning_samples belongs to search.method=shared; for `train` set it to 0")
        if self.search.method == "shared" and changed(self.training):
            raise ValueError("the training section belongs to search.method=train; it trains no shared weights")
        return self


class Distillation(Settings):
    """Learning from a trained network besides the labels."""

    teacher: Path = Field(description="Folder of the teacher's artefact.")
    share: Share = Field(
        default=0.5, description="Weight of the loss against the teacher's maps; the labels have the rest."
    )
    features: dict[str, str] = Field(
        default={},
        description="Pairs of modules, teacher's to student's, by their dotted names: the student's output is trained "
        "to follow the teacher's.",
    )
    feature_weight: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="Weight of the features' mean squared difference, which is added to the loss."
    )


class TrainRecipe(Settings):
    """`compress train`: one network, randomly initialised or from an artefact's weights."""

    job: Literal["train"] = Field(default="train", description="The command that this recipe is for.")
    seed: Seed = Field(default=1, description=_SEED)
    input_hw: InputSize | None = Field(default=None, description=_INPUT + _OWN_SIZE)
    data: Data = Field(default=Data(), description="The pictures.")
    codec: CodecSetting = Field(default=Codec(), description=_CODEC)
    training: NetworkTraining = Field(default=NetworkTraining(), description="How the network is trained.")
    distillation: Distillation | None = Field(
        default=None, description="Teacher to learn from besides the labels; null trains on the labels alone."
    )
    decoding: Decoding = Field(default=Decoding(), description="Decoding for the score.")


class EvaluateRecipe(Settings):
    """`compress evaluate`: one score on the validation set."""

    job: Literal["evaluate"] = Field(default="evaluate", description="The command that this recipe is for.")
    seed: Seed | None = Field(default=None, description=_SEED + _AS_VALIDATED)
    input_hw: InputSize | None = Field(default=None, description=_INPUT + _OWN_SIZE)
    data: Data | None = Field(default=None, description="The pictures." + _AS_VALIDATED)
    codec: CodecSetting | None = Field(default=None, description=_CODEC + _AS_VALIDATED)
    decoding: Decoding = Field(default=Decoding(), description="Decoding for the score.")


class ExportRecipe(Settings):
    """`compress export`: engines to export to, and the check of the exports."""

    job: Literal["export"] = Field(default="export", description="The command that this recipe is for.")
    seed: Seed | None = Field(default=None, description=_SEED + _AS_VALIDATED)
    input_hw: InputSize | None = Field(default=None, description=_INPUT + _OWN_SIZE)
    data: Data | None = Field(default=None, description="The pictures." + _AS_VALIDATED)
    engines: Annotated[tuple[EngineName, ...], Field(min_length=1)] = Field(
        default=("onnxruntime", "ncnn"), description="Engines to export to."
    )
    parity_pictures: Positive = Field(
        default=4, description="Validation pictures on which an export's outputs are compared with torch's."
    )
    normalisation: Literal["outside", "inside"] = Field(
        default="outside",
        description="`outside`: whoever runs the export normalises its inputs as the network was trained; `inside`: "
        "the exported graph does, and takes red, green and blue of 0 to 255.",
    )


class NetworksRecipe(Settings):
    """`compress networks`: the list of networks with their counts."""

    job: Literal["networks"] = Field(default="networks", description="The command that this recipe is for.")
    names: tuple[str, ...] = Field(default=(), description="Names of the networks to list; none lists all.")


class ProfileRecipe(Settings):
    """`compress profile`: parameters, multiply-adds, memory, and optionally times."""

    job: Literal["profile"] = Field(default="profile", description="The command that this recipe is for.")
    input_hw: InputSize | None = Field(default=None, description=_INPUT + _OWN_SIZE)
    target: TargetSetting | None = Field(
        default=None,
        description="Target on which the layers that mobile engines handle badly are timed, such as `ncnn:threads=4`; "
        "null times nothing.",
    )
    rounds: Positive = Field(default=40, description="Timings on the target.")
    decode: bool = Field(default=False, description="Time the ways to decode the network's maps.")
    data: Data | None = Field(
        default=None,
        description="Validation pictures that decoding is timed on; null takes the artefact's, or else synthetic ones.",
    )
    codec: CodecSetting | None = Field(default=None, description=_CODEC + _AS_VALIDATED)
    seed: Seed | None = Field(default=None, description=_SEED + _AS_VALIDATED)

    @model_validator(mode="after")
    def _data_is_decoded(self) -> "ProfileRecipe":
        if self.data is not None and not self.decode:
            raise ValueError("data is read to time decoding only: ask for it with --decode, or leave data out")
        return self

    @model_validator(mode="after")
    def _timing_has_a_target(self) -> "ProfileRecipe":
        if "rounds" in changed(self) and self.target is None:
            raise ValueError("rounds is of the timing on a target: name one with --target, or leave it out")
        return self


class LatencyRecipe(Settings):
    """`compress latency`: tables of kernel latencies."""

    job: Literal["latency"] = Field(default="latency", description="The command that this recipe is for.")
    seed: Seed = Field(default=1, description=_SEED)
    target: TargetSetting = Field(
        default=Target("onnxruntime"), description="What the table's times are of, such as `ncnn:threads=4`."
    )
    input_hw: InputSize | None = Field(
        default=None, description=_INPUT + _OWN_SIZE.removesuffix(".") + "; a search space takes that too."
    )
    networks: Positive = Field(
        default=8,
        description="Whole networks of a space to fit the table's scale on, to check the table with, or to pack.",
    )
    purpose: Literal["search", "prune", "rewrite"] = Field(
        default="search",
        description="Decisions that a packed folder is for: `search` packs the kernels of spaces and networks, `prune` "
        "networks at pruned widths and with sparsity where the engine skips zeros, `rewrite` networks with each rule.",
    )
    rounds: Positive = Field(default=40, description="Timings of each of them.")
    allow_foreign: bool = Field(
        default=False,
        description="Also use a table of another engine version, device, number of threads or precision, and mark its "
        "predictions as such.",
    )


def _from_percent(given: Any) -> Any:
    """`50%` as 0.5."""
    try:
        return float(given[:-1]) / 100 if isinstance(given, str) and given.endswith("%") else given
    except ValueError:
        raise ValueError(f"a share is written 0.5 or 50%, not {given!r}") from None


Part = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_from_percent)]


class Pruning(Settings):
    """What is pruned, and how much of it. At most one of `ratio`, `macs`, `latency`, `latency_ms` is given."""

    ratio: Part | None = Field(default=None, description="Goal: share of the channels (or weights) that is removed.")
    macs: Part | None = Field(default=None, description="Goal: share of the multiply-adds that remains.")
    latency: Part | None = Field(default=None, description="Goal: share of the measured latency that remains.")
    latency_ms: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Goal: measured latency in milliseconds."
    )
    scheme: Literal["channel", "block", "pattern", "nm", "unstructured"] = Field(
        default="channel",
        description="`channel` removes channels and gives a smaller dense network. The others set weights to zero: "
        "`block` (4 consecutive filters share a mask), `pattern` (4 of the 9 positions of a 3x3 kernel remain), `nm` "
        "(2 of 4 consecutive input channels remain), `unstructured` (any weight).",
    )
    criterion: Named = Field(
        default="l2",
        description="Importance of a channel; formulas and papers are in compress/pruning/importance.py. `activation`, "
        "`taylor` and `hessian` need pictures.",
    )
    allocate: Literal["uniform", "global", "sensitivity", "latency"] = Field(
        default="uniform",
        description="How the goal is distributed over the layers: `uniform`, the same ratio everywhere; `global`, one "
        "threshold on the importance; `sensitivity` and `latency`, least predicted loss per multiply-add or per "
        "millisecond saved.",
    )
    multiple: Positive | None = Field(
        default=None,
        description="Remaining channels are a multiple of this; null takes what the engine computes at once.",
    )
    protect: tuple[str, ...] = Field(default=(), description="Patterns of layers' names that are not pruned.")
    steps: Positive = Field(
        default=1, description="Number of rounds of pruning and tuning, each of which prunes a part."
    )
    ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.25, 0.5, 0.625, 0.75, 0.875),
        description="Ratios at which a layer is analysed and among which allocation chooses.",
    )
    threshold: Probability = Field(
        default=0.1,
        description="Allocation by latency: a layer is pruned only from the ratio on that saves this share of its "
        "time; less would cost accuracy for no gain.",
    )
    pictures: Positive = Field(
        default=100,
        description="Pictures that every point of a sensitivity curve, and data-driven criteria, are computed on.",
    )
    schedule: Literal["one_shot", "gradual", "admm", "reweighted"] = Field(
        default="one_shot",
        description="Schemes that set weights to zero: at once, with a rising ratio, or by a penalty during the first "
        "half of the tuning (ADMM, reweighted group lasso); see compress/pruning/schedule.py.",
    )
    force: Annotated[float, Field(gt=0)] = Field(
        default=1e-4, description="Weight of the penalty: rho of `admm`, strength of `reweighted`."
    )

    compare: Literal["torch-pruning"] | None = Field(
        default=None,
        description="Another pruner that prunes the same network for the same goal; its network is tuned, scored and "
        "timed beside ours.",
    )

    @model_validator(mode="after")
    def _one_goal(self) -> "Pruning":
        goals = ("ratio", "macs", "latency", "latency_ms")
        given = [name for name in goals if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"there must be one goal, not {' and '.join(given)}")
        return self

    @model_validator(mode="after")
    def _sparsity_has_a_ratio(self) -> "Pruning":
        if self.scheme != "channel":
            timed = self.latency is not None or self.latency_ms is not None
            if self.steps > 1 or self.macs is not None or self.allocate != ("latency" if timed else "uniform"):
                raise ValueError(
                    "sparsity is applied in one step: a ratio with uniform allocation, or a latency with allocation by "
                    "latency"
                )
        if self.compare is not None and self.scheme != "channel":
            raise ValueError(f"{self.compare} removes channels: compare with it belongs to scheme channel")
        if self.schedule != "one_shot" and self.scheme == "channel":
            raise ValueError("schedule belongs to fine-grained schemes; channels go in steps")
        if self.schedule == "gradual" and self.scheme in ("pattern", "nm"):
            raise ValueError(f"{self.scheme} has no small ratios to rise from: take one_shot, admm or reweighted")
        return self


class ChangeRecipe(Settings):
    """What pruning and rewriting share: fine-tuning with the given network as teacher, export, measurement.

    A network that is not an artefact counts as trained only where data is given.
    """

    seed: Seed | None = Field(default=None, description=_SEED + _AS_VALIDATED)
    input_hw: InputSize | None = Field(default=None, description=_INPUT + _OWN_SIZE)
    data: Data | None = Field(default=None, description="The pictures." + _AS_VALIDATED)
    targets: Targets = Field(default=DEFAULT_TARGETS, description=_TARGETS)
    rounds: Positive = Field(default=60, description="Timings of each network, interleaved with the others'.")
    parity_pictures: Positive = Field(
        default=4, description="Validation pictures on which an export's outputs are compared with torch's."
    )
    codec: CodecSetting | None = Field(default=None, description=_CODEC + _AS_VALIDATED)
    training: FineTuning = Field(default=FineTuning(), description="Fine-tuning of the changed network.")
    decoding: Decoding = Field(default=Decoding(), description="Decoding for the scores.")


class PruneRecipe(ChangeRecipe):
    """`compress prune`: a smaller or sparser version of a network."""

    job: Literal["prune"] = Field(default="prune", description="The command that this recipe is for.")
    pruning: Pruning = Field(default=Pruning(), description="What is pruned, and how much of it.")


class Rewriting(Settings):
    """What is replaced, and under which conditions."""

    rules: tuple[Named, ...] = Field(
        default=(), description="Names of the rules to apply, see `compress rewrite --list`; none applies all."
    )
    sites: tuple[str, ...] = Field(default=("*",), description="Patterns of the modules' paths that may be replaced.")
    min_gain: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.01, description="Least share of the network's measured latency that a replacement must save."
    )
    max_loss: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.02,
        description="Most that all replacements together may take from the score (0 to 1) before any fine-tuning.",
    )
    groups: Positive = Field(
        default=12,
        description="Where a rule has more sites than this, they are decided in groups by their part of the network.",
    )
    calibration: Annotated[int, Field(ge=4)] = Field(
        default=64, description="Training pictures that the weights of replacements are fitted on."
    )
    steps: Annotated[int, Field(ge=0)] = Field(
        default=150, description="Steps of Adam that reconstruct the output of each replaced module."
    )
    pictures: Positive = Field(default=100, description="Pictures on which the loss of a replacement is scored.")
    depth: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None,
        description="In place of replacing: build the network with this number of layers at the same multiply-adds.",
    )

    @model_validator(mode="after")
    def _depth_stands_alone(self) -> "Rewriting":
        if self.depth is not None and self.rules:
            raise ValueError("depth makes another network with random weights: there is nothing yet for rules to keep")
        return self


class RewriteRecipe(ChangeRecipe):
    """`compress rewrite`: a network whose slow operators are replaced."""

    job: Literal["rewrite"] = Field(default="rewrite", description="The command that this recipe is for.")
    rewriting: Rewriting = Field(default=Rewriting(), description="What is replaced, and under which conditions.")


class PredictRecipe(Settings):
    """`compress predict`: pictures in, pictures with skeletons or COCO results out."""

    job: Literal["predict"] = Field(default="predict", description="The command that this recipe is for.")
    input_hw: InputSize | None = Field(default=None, description=_INPUT + _OWN_SIZE)
    format: Literal["drawn", "coco"] = Field(
        default="drawn",
        description="`drawn` draws skeletons and lists the people in `people.json`; `coco` writes `results.json`, a "
        "COCO keypoint detection file.",
    )
    data: Data | None = Field(
        default=None,
        description="Data set whose validation pictures are used, with their ids and, for top-down networks, boxes.",
    )
    annotations: Path | None = Field(
        default=None, description="File in COCO's layout that has the ids of the given pictures."
    )
    codec: CodecSetting | None = Field(default=None, description=_CODEC + " Null takes the artefact's.")
    decoding: Decoding = Field(default=Decoding(), description="Decoding of the maps.")
    min_score: Probability = Field(
        default=0.2,
        description="Score from which on a person is drawn and listed; `coco` lists all unless this is changed.",
    )

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
    """`recipes` or `search_spaces`: inside the installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / folder
    return installed if installed.is_dir() else package.parent / folder


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
    return validated(data, model, typed, shown_recipe(path))


def validated(data: Mapping[str, Any], model: type[AnyRecipe], typed: Mapping[str, str], file: str) -> AnyRecipe:
    """The recipe of plain data. Raises RecipeError.

    typed: key such as `pruning.macs` → how the user gave its value, such as `--macs`, which is the place that an error
    names; file: the place of all other keys.
    """
    try:
        recipe = model.model_validate(data)
    except ValidationError as error:
        raise _first_mistake(error, data, model, typed, file) from None
    recipe._origin = _Origin(file, typed)
    return recipe


def shown_recipe(path: Path | None) -> str:
    """How an error names the recipe: a shipped one by its name, wherever it is installed."""
    if path is None:
        return "recipe"
    return f"recipe {path.stem}" if path.parent == shipped_folder("recipes") else str(path)


def data_folder(disk: DiskData) -> Path:
    """Where the labelled pictures lie. Raises DataError if nothing lies there."""
    if disk.folder is None or not disk.folder.is_dir():
        raise DataError(
            "the dataset folder must exist",
            place=str(disk.folder or "data.disk.folder"),
            remedy="correct the folder of --data or data.disk.folder",
        )
    return disk.folder


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
    except yaml.YAMLError:
        raise RecipeError("the value is not valid YAML", place=option, value=text, remedy="quote it") from None
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
    key = ".".join(filter(None, location))
    rule = _rule(mistake["type"], mistake["msg"])
    place = _typed_as(key, rule, typed) or f"{file}: {key or 'recipe'}".removesuffix(": recipe")
    if mistake["type"] == "extra_forbidden":
        return RecipeError("unknown key", place=place, remedy=nearest(location[-1], _keys(model, location)))
    if mistake["type"] == "missing" and location[-1].isdecimal():
        return RecipeError("the list has too few values", place=place, remedy="add what is missing")
    if mistake["type"] == "missing":
        return RecipeError("this key is required", place=place, remedy="add it")
    value = None if mistake["type"] == "value_error" else mistake["input"]
    return RecipeError(rule, place=place, value=value, remedy="correct the value")


_FORMS = {
    "tuple_type": "it must be a list, such as [1, 2]",
    "list_type": "it must be a list, such as [1, 2]",
    "dict_type": "it must be a mapping, such as {key: value}",
    "dataclass_type": "it must be a mapping, such as {key: value}",
    "model_type": "it must be a mapping, such as {key: value}",
    "model_attributes_type": "it must be a mapping, such as {key: value}",
}


def _rule(kind: str, message: str) -> str:
    """What must hold, in a recipe's words. kind, message: of pydantic's error."""
    text = message.removeprefix("Value error, ").partition(", unable to parse")[0]
    return _FORMS.get(kind) or text.replace("Input should", "it must", 1)


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


def shipped_names(folder: str) -> list[str]:
    """Names of what comes with the package in `recipes` or `search_spaces`."""
    return sorted(path.stem for path in shipped_folder(folder).glob("*.yaml"))


def _known(folder: str) -> str:
    names = shipped_names(folder)
    return f"shipped {folder}: {', '.join(names)}" if names else "check the path"
