"""What every step of a search works with, and what is checked before any work: the space, the network that it starts
from, the baselines."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial

from lightning_fabric import Fabric
from torch import Tensor

from compress.artefacts.artefact import Network, load_artefact, network_digest
from compress.artefacts.records import read_records, to_plain
from compress.artefacts.run import Run
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.sets import Sets
from compress.errors import RecipeError, SpaceError, nearest
from compress.files import append_line
from compress.measure.limit import Limit
from compress.nas.candidate import Candidates
from compress.nas.space import Pick, Space, SpaceFile, expand, read_space
from compress.networks import Architecture, architecture_from_data, architecture_to_data, family_named, made_for
from compress.networks.architecture import check_input
from compress.pose.approaches import approach_of, estimator_for, objective_for
from compress.pose.estimator import LabelledBoxes, PoseEstimator, first_inputs
from compress.pose.objective import Objective
from compress.progress import Progress, Stage
from compress.recipe import SearchRecipe, Training, find
from compress.training.processes import launch
from compress.training.recalibration import PICTURES

_EXPORT = 1500  # pictures that pass through a network while it is exported


@dataclass(frozen=True)
class Task:
    """One search: its recipe, what the recipe names, and where it runs.

    baselines: name → pick of every hand-made network, or of the given one.
    """

    recipe: SearchRecipe
    candidates: Candidates
    baselines: Mapping[str, Pick]
    sets: Sets
    run: Run
    progress: Progress
    fabric: Fabric = field(default_factory=partial(launch, "auto"))

    @property
    def space(self) -> Space:
        """What the candidates are picked from."""
        return self.candidates.space

    @property
    def architecture(self) -> Architecture:
        """Of the largest candidate; all have the same outputs."""
        return self.candidates.architecture(self.space.largest)

    @property
    def normalisation(self) -> Normalisation:
        """Of the inputs: the given network's, if the search starts from one."""
        start = self.candidates.start
        return start.normalisation if start else IMAGENET

    def objective(self, settings: Training) -> Objective:
        """What candidates learn."""
        keypoints, recipe = self.sets.train.keypoints, self.recipe
        return objective_for(self.architecture, keypoints, recipe.input_hw, settings, recipe.codec, self.normalisation)

    @property
    def estimator(self) -> PoseEstimator:
        """How candidates find people; top-down ones look at the labelled boxes."""
        recipe = self.recipe
        return estimator_for(
            self.architecture,
            self.sets.train.keypoints,
            recipe.input_hw,
            codec=recipe.codec,
            decoding=recipe.decoding,
            boxes=LabelledBoxes(),
            normalisation=self.normalisation,
        )

    def inputs(self, wanted: int) -> Iterator[Tensor]:
        """About the first `wanted` training pictures without augmentation, in batches [B,3,H,W]."""
        return first_inputs(self.estimator, self.sets.train, wanted, self.fabric.device)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Notes how long a phase took in `seconds.jsonl`, but not what a SIGKILL cut off."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = round(time.monotonic() - start, 2)
            append_line(self.run.path("seconds.jsonl"), to_plain(PhaseTime(phase, seconds)))


def stages(task: Task) -> list[Stage]:
    """The phases that take their time, by the names that they are opened with.

    Work is in pictures that pass through a network forwards; a training step counts for three.
    """
    recipe, tuned = task.recipe, task.recipe.finalists
    networks = tuned.count + len(task.baselines)
    pictures = tuned.training.epochs * len(task.sets.train)
    trial = recipe.search.calibration_pictures + len(task.sets.search) + 6 * recipe.search.tuning_samples
    finished = PICTURES + 3 * len(task.sets.val) + _EXPORT  # scored in one pass and in two
    supernet = recipe.supernet.epochs * len(task.sets.train) * 3 * (2 + recipe.supernet.randoms)
    return [
        *([] if task.candidates.start else [Stage("supernet", supernet)]),
        Stage("search", recipe.search.trials * trial),
        Stage("fine-tuning: teacher", 3 * pictures),
        Stage("fine-tuning: finalists", (1 + 3 * (networks - 1)) * pictures),
        Stage("scoring and exporting", networks * finished),
    ]


@dataclass(frozen=True)
class PhaseTime:
    """A line of `seconds.jsonl`."""

    phase: str
    seconds: float


def seconds_per_phase(run: Run) -> dict[str, float]:
    """Wall-clock seconds, over all the times that a run was resumed. Raises RunError for a broken line."""
    seconds: dict[str, float] = {}
    for line in read_records(run.path("seconds.jsonl"), PhaseTime):
        seconds[line.phase] = round(seconds.get(line.phase, 0.0) + line.seconds, 2)
    return seconds


def read_start(recipe: SearchRecipe) -> Network | None:
    """The network to start from, if the recipe names one. Raises ArtefactError, NetworkError or RecipeError."""
    if recipe.search.start is None:
        return None
    start = load_artefact(recipe.search.start)
    check_input(start.architecture, recipe.input_hw, "recipe: input_hw")
    codec = start.metadata.codec
    for key in asdict(codec):
        if key != "name" and getattr(codec, key) != getattr(recipe.codec, key):
            raise RecipeError(
                "a given network is decoded and tuned as it was trained",
                place=f"recipe: codec.{key}",
                value=getattr(recipe.codec, key),
                remedy=f"use {getattr(codec, key)}, as its artefact says",
            )
    return start


def digest_of(start: Network | None) -> str:
    """Of the network to start from; empty without one. A run that is resumed must find the same weights."""
    return network_digest(start.architecture, start.module, start.edits, trained=True) if start else ""


def read_search_space(recipe: SearchRecipe, start: Network | None = None) -> Space:
    """The recipe's space, every single choice tried on the network. Raises SpaceError or NetworkError."""
    path = find(recipe.search.space, "search_spaces", SpaceError)
    file = read_space(path)
    if start:
        return space_around(start, file)
    family_named(file.family, f"{path}: family")
    place = f"{path}: fixed"
    base = architecture_from_data({"family": file.family, **file.fixed}, place)
    space = expand(file, architecture_to_data(made_for(base, recipe.input_hw, "recipe: input_hw")))
    smallest = architecture_from_data(space.apply(space.smallest), f"{path}: choices")
    for choice, values in space.architectures.choices.items():
        for value in values:
            architecture = architecture_from_data(
                space.apply({**space.smallest, choice: value}), f"{path}: choices.{choice}"
            )
            check_input(architecture, recipe.input_hw, "recipe: input_hw")
            if outputs_of(architecture) != outputs_of(smallest):
                raise SpaceError(
                    "all candidates must have the same outputs",
                    place=f"{path}: choices.{choice}",
                    value=value,
                    remedy="fix the head and the joints instead of choosing them",
                )
    return space


def outputs_of(architecture: Architecture) -> tuple[int, tuple[float, ...]]:
    """Joints, and the strides of the maps; where outputs are stages of one map, of the last."""
    strides = architecture.output_strides
    return architecture.keypoints, strides[-1:] if approach_of(architecture).in_stages else strides


def space_around(start: Network, file: SpaceFile) -> Space:
    """Edits of a given network. Raises SpaceError unless the space has nothing but edits, of a network built so."""
    base = architecture_to_data(start.architecture)
    if file.choices or not file.edits:
        raise SpaceError(
            "a given network has edits to choose from, and no other choices",
            place=f"{file.path}: choices",
            value=list(file.choices),
            remedy="write 'edits' alone, or leave search.start out of the recipe",
        )
    if file.family != base["family"]:
        raise SpaceError(
            "the space and the network to start from must be of one family",
            place=f"{file.path}: family",
            value=file.family,
            remedy=f"write {base['family']} if its edits suit it",
        )
    fixed = architecture_to_data(architecture_from_data({**base, **file.fixed}, f"{file.path}: fixed"))
    for key, value in fixed.items():
        if value != base[key]:
            raise SpaceError(
                "the network to start from is built otherwise",
                place=f"{file.path}: fixed.{key}",
                value=value,
                remedy=f"it has {base[key]}; leave the field out",
            )
    return expand(file, base)


def read_candidates(recipe: SearchRecipe, space: Space, start: Network | None) -> Candidates:
    """What the space's picks stand for, its edits tried on the ends of the space. Raises SpaceError."""
    candidates = Candidates(space, recipe.input_hw, start)
    candidates.check(recipe.search.space)
    return candidates


def check_tuning(recipe: SearchRecipe) -> None:
    """Raises RecipeError if trials are tuned on less than a batch."""
    batch = recipe.finalists.training.batch_size
    if 0 < recipe.search.tuning_samples < batch:
        raise RecipeError(
            "trials are tuned on at least one batch of finalists.training",
            place="recipe: search.tuning_samples",
            value=recipe.search.tuning_samples,
            remedy=f"use at least {batch}, or 0 for none",
        )


def check_limits(recipe: SearchRecipe, baselines: Sequence[str]) -> None:
    """Raises RecipeError for an objective or a budget of a target that the recipe lacks, and for a share of a baseline
    that it lacks."""
    budget, targets = recipe.search.budget, [target.name for target in recipe.measurement.targets]
    for objective in recipe.search.objectives:
        if objective.target and objective.target not in targets:
            raise RecipeError(
                "an objective must be of one of measurement.targets",
                place=recipe.place("search.objectives"),
                value=objective.target,
                remedy=nearest(objective.target, targets),
            )
    limits: dict[str, Limit | None] = {name: getattr(budget, name) for name in ("macs", "params", "size", "memory")}
    for name, most in (budget.latency or {}).items():
        limits[f"latency.{name}" if name else "latency"] = most
        if name and name not in targets:
            raise RecipeError(
                "a budget must be of one of measurement.targets",
                place=recipe.place("search.budget.latency"),
                value=name,
                remedy=nearest(name, targets),
            )
    for name, limit in limits.items():
        if limit is None or not limit.relative or (limit.of in baselines if limit.of else baselines):
            continue
        raise RecipeError(
            "a share must be of a baseline's cost" + ("" if baselines else ", and there is no baseline"),
            place=recipe.place(f"search.budget.{name}"),
            value=str(limit),
            remedy=nearest(limit.of, baselines) if limit.of and baselines else "give baselines, or an absolute limit",
        )


def read_baselines(recipe: SearchRecipe, space: Space) -> dict[str, Pick]:
    """Every hand-made network as a pick of the space, or the given one. Raises SpaceError where the space lacks one."""
    if recipe.search.start and recipe.baselines:
        raise RecipeError(
            "the given network is the only baseline of a search that starts from one",
            place="recipe: baselines",
            value=list(recipe.baselines),
            remedy="leave them out",
        )
    picks = {"given": space.unedited} if recipe.search.start else {}
    check_limits(recipe, [*picks, *recipe.baselines])
    scored_first = len(picks) + len(recipe.baselines)
    if recipe.search.trials <= scored_first:
        raise RecipeError(
            "there must be more trials than baselines, which are scored first",
            place="recipe: search.trials",
            value=recipe.search.trials,
            remedy=f"use at least {scored_first + 1}",
        )
    for name, fields in recipe.baselines.items():
        place = f"recipe: baselines.{name}"
        data = architecture_to_data(architecture_from_data({**space.base, **fields}, place))
        picks[name] = space.pick_of(data, place)
    return picks
