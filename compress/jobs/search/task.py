"""What every step of a search works with, and what is checked before any work: the space, the network that it starts
from, the baselines."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from compress.artefacts.artefact import Network, network_digest
from compress.artefacts.network import Named, open_network
from compress.artefacts.records import read_records, to_plain
from compress.artefacts.run import Run
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.samples import Samples, SeveralSizes
from compress.data.sets import Sets, data_of, notes_of, picture_sets
from compress.engines.export import ForEngine, as_it_is
from compress.errors import DataError, RecipeError, SpaceError, nearest
from compress.files import append_line, write_text
from compress.jobs.change import where_zeros_count
from compress.jobs.names import check_names
from compress.jobs.search.derived import JUDGED_ON, derive, described, no_larger
from compress.jobs.search.prior import read_prior
from compress.jobs.search.proposals import single_edits
from compress.measure.limit import Limit
from compress.nas.candidate import Candidates
from compress.nas.predictor_sampler import Learned
from compress.nas.space import INPUT_SIZE, Pick, Space, SpaceFile, expand, read_space, size_text, space_text
from compress.networks import Architecture, architecture_from_data, architecture_to_data, family_named, made_for
from compress.networks.architecture import check_input
from compress.networks.own import OWN_FAMILIES, check_learns
from compress.pose.approaches import approach_of, check_joints, check_training, estimator_for, objective_for
from compress.pose.estimator import LabelledBoxes, PoseEstimator, first_inputs
from compress.pose.objective import Objective
from compress.pose.scoring import check_metric
from compress.progress import Progress, Stage
from compress.recipe import Data, SearchRecipe, Training, find, shipped_folder
from compress.training.processes import alone, launch
from compress.training.recalibration import PICTURES

SPACE = "space.yaml"
"""A derived space, in the run folder."""
_BATCH = 32  # pictures, that single edits are recalibrated and compared on
_EXPORT = 1500  # pictures that pass through a network while it is exported


@dataclass(frozen=True)
class Task:
    """One search: its recipe, what the recipe names, and where it runs.

    start: the network that it starts from, if it does, and the name that it was given beside the recipe, if there was
    one. baselines: name → pick of every hand-made network, or of the given one. beside: another process has the run
    folder, and this one only takes part in its trials: it writes none of the run's own files.
    """

    recipe: SearchRecipe
    start: Network | None
    named: str | None
    candidates: Candidates
    baselines: Mapping[str, Pick]
    sets: Sets
    run: Run
    progress: Progress
    fabric: Fabric = field(default_factory=partial(launch, "auto"))
    beside: bool = False
    prior: Learned = ()

    @property
    def space(self) -> Space:
        """What the candidates are picked from."""
        return self.candidates.space

    @property
    def alone(self) -> "Task":
        """The same for what other processes of torchrun have no part in."""
        return replace(self, fabric=alone(self.fabric))

    @property
    def for_engine(self) -> ForEngine:
        """The form in which an engine runs the networks."""
        return where_zeros_count if self.candidates.sets_zeros else as_it_is

    @property
    def architecture(self) -> Architecture:
        """Of the largest candidate; all have the same outputs."""
        return self.candidates.architecture(self.space.largest)

    @property
    def normalisation(self) -> Normalisation:
        """Of the inputs: the given network's, if the search starts from one."""
        start = self.candidates.start
        return start.normalisation if start else IMAGENET

    def objective(self, settings: Training, input_hw: tuple[int, int] | None = None) -> Objective:
        """What candidates learn. input_hw: None is the recipe's."""
        keypoints, size, codec = self.sets.train.keypoints, input_hw or self.recipe.input_hw, self.recipe.codec
        return objective_for(self.architecture, keypoints, size, settings, codec, self.normalisation)

    def samples(self, settings: Training) -> Samples:
        """What all candidates learn from, at every input size that is a choice."""
        sizes = self.space.input_sizes or (self.recipe.input_hw,)
        of_size = tuple(self.objective(settings, size).samples(self.sets.train) for size in sizes)
        return SeveralSizes(of_size) if len(of_size) > 1 else of_size[0]

    def data_at(self, input_hw: tuple[int, int]) -> Data:
        """Names the search's pictures to a network of this input size: synthetic ones are else drawn in that size."""
        data = self.recipe.data
        if input_hw == self.recipe.input_hw or data.synthetic.picture_hw:
            return data
        synthetic = data.synthetic.model_copy(update={"picture_hw": self.recipe.input_hw})
        return data.model_copy(update={"synthetic": synthetic})

    @property
    def estimator(self) -> PoseEstimator:
        """How candidates of the recipe's input size find people; top-down ones look at the labelled boxes."""
        return self.estimator_at(self.recipe.input_hw)

    def estimator_at(self, input_hw: tuple[int, int]) -> PoseEstimator:
        """The same of another input size."""
        return _estimator(self.recipe, self.architecture, self.sets, self.normalisation, input_hw)

    def inputs(self, wanted: int, input_hw: tuple[int, int] | None = None) -> Iterator[Tensor]:
        """About the first `wanted` training pictures without augmentation, in batches [B,3,H,W]. input_hw: None is the
        recipe's."""
        estimator = self.estimator_at(input_hw or self.recipe.input_hw)
        return first_inputs(estimator, self.sets.train, wanted, self.fabric.device)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Notes how long a phase took in `seconds.jsonl`, but not what a SIGKILL cut off."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = round(time.monotonic() - start, 2)
            if not self.beside:
                append_line(self.run.path("seconds.jsonl"), to_plain(PhaseTime(phase, seconds)))


class Calibration:
    """The training pictures that candidates are recalibrated and fitted on, in batches [B,3,H,W], by input size."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._known: dict[tuple[int, int], list[Tensor]] = {}

    def images(self, pick: Pick) -> list[Tensor]:
        """At the pick's input size."""
        size = self._task.candidates.input_hw(pick)
        if size not in self._known:
            self._known[size] = list(self._task.inputs(self._task.recipe.search.calibration_pictures, size))
        return self._known[size]


def prepared(recipe: SearchRecipe, folder: Path, progress: Progress, network: Named | None) -> Task:
    """The search with everything that its recipe names, read and checked. The folder is only looked at.

    network: to start from, in place of the recipe's `search.start`. Raises a CompressError if the recipe, its space,
    its network, its baselines or its data cannot be used.
    """
    check_names(recipe)
    start = read_start(recipe, network)
    recipe = settled(recipe, start)
    sets = picture_sets(recipe.data, recipe.input_hw, recipe.seed)
    for note in notes_of(sets.train, sets.search, sets.val):
        progress.say(note)
    candidates = read_candidates(recipe, start, sets, folder)
    space = candidates.space
    baselines = read_baselines(recipe, space, start)
    check_joints(candidates.architecture(space.largest), sets.train.keypoints, recipe.search.space or "data")
    check_tuning(recipe, candidates)
    check_metric(candidates.architecture(space.largest), recipe.data.kind, detected=False)
    named = str(network) if isinstance(network, str | Path) else None
    prior = read_prior(recipe, space)
    return Task(recipe, start, named, candidates, baselines, sets, Run(folder), progress, prior=prior)


def stages(task: Task) -> list[Stage]:
    """The phases that take their time, by the names that they are opened with.

    Work is in pictures that pass through a network forwards; a training step counts for three.
    """
    recipe, tuned = task.recipe, task.recipe.finalists
    networks = tuned.count + len(task.baselines)
    pictures = tuned.training.epochs * len(task.sets.train)
    trial = recipe.search.calibration_pictures + len(task.sets.search) + 6 * recipe.search.tuning_samples
    alone = recipe.search.method == "train"
    if alone:
        rungs, cohort = recipe.training.rungs, recipe.training.cohort
        reach = [1.0, *(recipe.training.places(cohort, rung) / cohort for rung in range(len(rungs) - 1))]
        epochs = sum((end - begin) * share for begin, end, share in zip((0, *rungs), rungs, reach, strict=False))
        trial += round(3 * epochs * len(task.sets.train))
    edits = len(edits_alone(task)) if task.candidates.start else 0
    finished = PICTURES + 3 * len(task.sets.val) + _EXPORT  # scored in one pass and in two
    supernet = recipe.supernet.epochs * len(task.sets.train) * 3 * (2 + recipe.supernet.randoms)
    return [
        *([] if task.candidates.start or alone else [Stage("supernet", supernet)]),
        *([Stage("single edits", edits * 2 * _BATCH)] if edits else []),
        Stage("search", recipe.search.trials * trial),
        Stage("fine-tuning: teacher", 3 * pictures),
        Stage("fine-tuning: finalists", (1 + 3 * (networks - 1)) * pictures),
        Stage("scoring and exporting", networks * finished),
    ]


def edits_alone(task: Task) -> list[tuple[str, Any]]:
    """(path, value) of those that are made of the given network before the trials, three times as many as these at
    most."""
    return single_edits(task.space, task.baselines["given"], 3 * task.recipe.search.trials)


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


def read_start(recipe: SearchRecipe, named: Named | None = None) -> Network | None:
    """The network to start from: the given one, else the recipe's, if it names one.

    Raises ArtefactError, NetworkError, DataError for random weights, or RecipeError for another codec than its own.
    """
    named = named or recipe.search.start
    if named is None:
        return None
    input_hw = recipe.input_hw if "input_hw" in recipe.model_fields_set else None
    start = open_network(named, input_hw, seed=recipe.seed)
    check_input(start.architecture, start.input_hw, "recipe: input_hw")
    if recipe.search.weights == "scratch":
        return start
    if not start.trained:
        raise DataError(
            "candidates inherit the given network's weights, and these are random",
            place=start.name,
            remedy="train it first (compress train) and give the run's folder, or search --from scratch",
        )
    if start.architecture.family in OWN_FAMILIES:
        check_learns(start.module, start.input_hw, start.name)
    codec = start.metadata.codec
    for key in asdict(codec) if "codec" in recipe.model_fields_set else ():
        if key != "name" and getattr(codec, key) != getattr(recipe.codec, key):
            raise RecipeError(
                "a given network is decoded and tuned as it was trained",
                place=f"recipe: codec.{key}",
                value=getattr(recipe.codec, key),
                remedy=f"use {getattr(codec, key)}, as its artefact says",
            )
    return start


def settled(recipe: SearchRecipe, start: Network | None) -> SearchRecipe:
    """With the given network's input size, codec and pictures where the recipe says nothing of them.

    Raises RecipeError for a recipe without a space or a network, DataError where nobody names pictures.
    """
    if recipe.search.weights == "scratch" and (start is None or recipe.search.space is not None):
        raise RecipeError(
            "weights: scratch searches around a network, in the space of its family",
            place=recipe.place("search.weights"),
            remedy="give a NETWORK and no space, or leave it out: a space of architectures is searched from scratch",
        )
    if start is None:
        if recipe.search.space is None:
            raise RecipeError(
                "a search has a space, or a network that one is derived from",
                place=recipe.place("search.space"),
                remedy="name a space, or give a NETWORK (search.start)",
            )
        return recipe
    known: dict[str, Any] = {"input_hw": start.input_hw}
    if recipe.search.weights == "inherit":
        known["codec"] = start.metadata.codec
        given = recipe.data if "data" in recipe.model_fields_set else None
        known["data"] = data_of(start.name, given, start.metadata.data)
        if known["data"] is None:
            raise DataError(
                "candidates are scored on labelled pictures, and the network does not say which",
                place=start.name,
                remedy="give --data KIND[:FOLDER]",
            )
    known = {key: value for key, value in known.items() if key == "data" or key not in recipe.model_fields_set}
    return recipe.model_copy(update=known)


def digest_of(start: Network | None) -> str:
    """Of the network to start from; empty without one. A run that is resumed must find the same weights."""
    return network_digest(start.architecture, start.module, start.edits, trained=True) if start else ""


def read_search_space(recipe: SearchRecipe, start: Network | None = None) -> Space:
    """The recipe's space, every single choice tried on the network. Raises SpaceError or NetworkError."""
    assert recipe.search.space is not None
    path = find(recipe.search.space, "search_spaces", SpaceError)
    file = read_space(path)
    if start:
        around = space_around(start, file)
        check_sizes(start.architecture, around, recipe, str(path))
        return around
    family_named(file.family, f"{path}: family")
    place = f"{path}: fixed"
    base = architecture_from_data({"family": file.family, **file.fixed}, place)
    space = expand(file, architecture_to_data(made_for(base, recipe.input_hw, "recipe: input_hw")))
    check_architectures(space, recipe, str(path))
    return space


def check_architectures(space: Space, recipe: SearchRecipe, place: str) -> None:
    """Tries every single value. Raises SpaceError or NetworkError. place: where the space is written."""
    smallest = architecture_from_data(space.apply(space.smallest), f"{place}: choices")
    check_sizes(smallest, space, recipe, place)
    for choice, values in space.architectures.choices.items():
        for value in values:
            where = f"{place}: choices.{choice}"
            architecture = architecture_from_data(space.apply({**space.smallest, choice: value}), where)
            check_input(architecture, recipe.input_hw, "recipe: input_hw")
            if outputs_of(architecture) != outputs_of(smallest):
                raise SpaceError(
                    "all candidates must have the same outputs",
                    place=where,
                    value=value,
                    remedy="fix the head and the joints instead of choosing them",
                )


def check_sizes(architecture: Architecture, space: Space, recipe: SearchRecipe, place: str) -> None:
    """Raises SpaceError unless the last of the input sizes to choose from is the recipe's, NetworkError where the
    network does not take one. place: where the space is written."""
    where = f"{place}: choices.{INPUT_SIZE}"
    for size in space.input_sizes:
        check_input(architecture, size, where)
    if space.input_sizes and space.input_sizes[-1] != recipe.input_hw:
        raise SpaceError(
            "the largest input size must be the recipe's",
            place=where,
            value=size_text(space.input_sizes[-1]),
            remedy=f"end the list with {size_text(recipe.input_hw)}, or set input_hw",
        )


def outputs_of(architecture: Architecture) -> tuple[int, tuple[float, ...]]:
    """Joints, and the strides of the maps; where outputs are stages of one map, of the last."""
    strides = architecture.output_strides
    return architecture.keypoints, strides[-1:] if approach_of(architecture).in_stages else strides


def space_around(start: Network, file: SpaceFile) -> Space:
    """Edits of a given network. Raises SpaceError unless the space has nothing but edits, of a network built so."""
    base = architecture_to_data(start.architecture)
    if file.choices.keys() - {INPUT_SIZE} or not (file.edits or file.choices):
        raise SpaceError(
            "a given network has edits and input sizes to choose from, and no other choices",
            place=f"{file.path}: choices",
            value=list(file.choices),
            remedy="write 'edits' and 'input_hw' alone, or leave search.start out of the recipe",
        )
    if file.family != base["family"]:
        raise SpaceError(
            "the space and the network to start from must be of one family",
            place=f"{file.path}: family",
            value=file.family,
            remedy=f"write {base['family']} if its edits suit it",
        )
    fixed = base
    if file.fixed:  # nothing can be built anew of a module that was given in memory
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


def read_candidates(recipe: SearchRecipe, start: Network | None, sets: Sets, folder: Path) -> Candidates:
    """What the picks of the recipe's space stand for, its edits tried on the ends of the space. Raises SpaceError.

    Without a space one is derived from the given network; a run that goes on has it in its folder. Raises NetworkError
    where nothing can vary.
    """
    if recipe.search.space is not None:
        space = read_search_space(recipe, start)
        candidates = Candidates(space, recipe.input_hw, start)
        candidates.check(recipe.search.space)
        return candidates
    assert start is not None
    if recipe.search.weights == "scratch":
        files = [read_space(file) for file in sorted(shipped_folder("search_spaces").glob("*.yaml"))]
        smaller = no_larger(start, files)
        check_architectures(smaller, recipe, "the family's spaces")
        return Candidates(smaller, recipe.input_hw)
    base, path = architecture_to_data(start.architecture), folder / SPACE
    unedited = Candidates(Space(base, {}), recipe.input_hw, start)
    if path.is_file():
        return unedited.over(space_around(start, read_space(path)))
    check_joints(start.architecture, sets.train.keypoints, "data")
    estimator = _estimator(recipe, start.architecture, sets, start.normalisation, recipe.input_hw)
    images = first_inputs(estimator, sets.train, JUDGED_ON, torch.device("cpu"))
    engine_name = recipe.measurement.targets[0].engine
    return unedited.over(expand(derive(unedited, engine_name, images, recipe.search.groups, path), base))


def _estimator(
    recipe: SearchRecipe,
    architecture: Architecture,
    sets: Sets,
    normalisation: Normalisation,
    input_hw: tuple[int, int],
) -> PoseEstimator:
    return estimator_for(
        architecture,
        sets.train.keypoints,
        input_hw,
        codec=recipe.codec,
        decoding=recipe.decoding,
        boxes=LabelledBoxes(),
        normalisation=normalisation,
    )


def show_space(run: Run, recipe: SearchRecipe, space: Space, progress: Progress) -> None:
    """Writes a derived space to the run folder, and says what may vary, before any work."""
    if recipe.search.space is not None:
        return
    path = run.path(SPACE)
    if not path.is_file():
        chosen = {path: values for path, values in space.choices.items() if path not in space.edit_paths}
        fixed = {k: v for k, v in space.base.items() if k != "family"} if space.architectures.choices else {}
        write_text(path, space_text(SpaceFile(path, space.base["family"], fixed, chosen, space.edits)))
    for line in described(space):
        progress.say(line)
    progress.say(f"the space lies in {path}; changed, it is searched with --set search.space=FILE")


def check_tuning(recipe: SearchRecipe, candidates: Candidates) -> None:
    """Raises RecipeError for settings of another approach, and if trials are tuned on less than a batch."""
    architecture = candidates.architecture(candidates.space.largest)
    sections: dict[str, Training] = {"finalists.training": recipe.finalists.training}
    if recipe.search.method == "train":
        sections["training"] = recipe.training
    elif candidates.start is None:
        sections["supernet"] = recipe.supernet
    for section, settings in sections.items():
        check_training(architecture, settings, recipe.codec, section)
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


def read_baselines(recipe: SearchRecipe, space: Space, start: Network | None = None) -> dict[str, Pick]:
    """Every hand-made network as a pick of the space, or the given one. Raises SpaceError where the space lacks one."""
    if start and recipe.baselines:
        raise RecipeError(
            "the given network is the only baseline of a search that starts from one",
            place="recipe: baselines",
            value=list(recipe.baselines),
            remedy="leave them out",
        )
    picks = {"given": space.pick_of(architecture_to_data(start.architecture), start.name)} if start else {}
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
        size = fields.get(INPUT_SIZE)
        structure = {key: value for key, value in fields.items() if key != INPUT_SIZE}
        data = architecture_to_data(architecture_from_data({**space.base, **structure}, place))
        picks[name] = space.pick_of(data, place, size)
    return picks
