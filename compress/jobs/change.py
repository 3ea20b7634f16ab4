"""What `compress prune` and `compress rewrite` share: one network is given, another one comes out, both are measured.

The given network is the teacher and stays as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Generic, TypeVar

from lightning_fabric import Fabric
from torch import nn

from compress.artefacts.artefact import Edit
from compress.artefacts.network import Learning, Network
from compress.artefacts.results import NetworkResult, Role
from compress.artefacts.run import Run
from compress.engines import engine
from compress.engines.export import ForEngine, as_it_is
from compress.errors import EngineError, RecipeError, nearest
from compress.jobs.finalise import Finalist, Sparsify, Tail, finish, measure, tune
from compress.measure.comparison import SpeedUp, speed_up
from compress.measure.latency_model import LatencyModel, open_model
from compress.measure.target import Target
from compress.networks import Architecture
from compress.pose.scoring import Score, score
from compress.progress import Progress, Stage
from compress.pruning.compact import compact, without_transposed
from compress.recipe import ChangeRecipe
from compress.training.processes import launch

AnyRecipe = TypeVar("AnyRecipe", bound=ChangeRecipe)


@dataclass(frozen=True)
class Task(Generic[AnyRecipe]):
    """What every step of one run needs to know.

    original: the given network, which stays as it is. learning: what it learned from; None without trained weights.
    fabric: of this process, which joins others if there are any.
    """

    recipe: AnyRecipe
    original: Network
    learning: Learning | None
    run: Run
    progress: Progress
    fabric: Fabric = field(default_factory=lambda: launch("auto"))

    @property
    def target(self) -> Target:
        """The one that decides."""
        return self.recipe.targets[0]

    @cached_property
    def model(self) -> LatencyModel:
        """Of the target that decides; its table is read once. Raises as open_model."""
        return open_model(self.target)

    @property
    def tail(self) -> Tail:
        """How the job ends."""
        recipe, original = self.recipe, self.original
        return Tail(
            run=self.run,
            progress=self.progress,
            fabric=self.fabric,
            learning=self.learning,
            input_hw=original.input_hw,
            seed=original.seed,
            training=recipe.training,
            decoding=recipe.decoding,
            measuring=recipe,
            given=original.metadata,
        )


def where_zeros_count(network: nn.Module, name: str) -> nn.Module:
    """The same network in the form in which this engine gains most from weights that are zero.

    One that skips them gets ordinary convolutions only, the others smaller kernels.
    """
    return (without_transposed if engine(name).skips_zeros else compact)(network)[0]


def check_patterns(network: nn.Module, patterns: Iterable[str], what: str, key: str) -> None:
    """Raises RecipeError for a pattern that no module of the network has. what: is named so; key: of the recipe."""
    modules = [path for path, _ in network.named_modules() if path]
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in modules):
            raise RecipeError(
                f"{what} must be one the network has",
                place=f"recipe: {key}",
                value=pattern,
                remedy=nearest(pattern, (path for path in modules if path.count(".") < 2)),
            )


def finish_given(task: Task[AnyRecipe], for_engine: ForEngine = as_it_is) -> NetworkResult:
    """The given network's scores and exports, before any work on another one.

    Raises EngineError where an engine does not take it: then there is nothing to compare with.
    """
    original = task.original
    given = Finalist(
        name="given",
        role="given",
        network=original.module,
        architecture=original.architecture,
        edits=original.edits,
        folder="given",
        provenance="as given",
        for_engine=for_engine,
    )
    result = finish(task.tail, given)
    if result.refused:
        raise EngineError(
            "every target's engine must take the given network: "
            + "; ".join(f"{name}: {why}" for name, why in result.refused.items()),
            place=original.name,
            remedy="leave targets out whose engines do not",
        )
    return result


def tune_changed(
    task: Task[AnyRecipe], network: nn.Module, checkpoint: str, title: str, sparsify: Sparsify | None = None
) -> None:
    """Fine-tunes with the given network as teacher and recalibrates; see `finalise.tune`. Changes the network."""
    networks = {"the tuned network": network}
    tune(task.tail, networks, task.original.module, title=title, checkpoint=checkpoint, sparsify=sparsify)


def finish_changed(
    task: Task[AnyRecipe],
    role: Role,
    network: nn.Module,
    architecture: Architecture,
    edits: tuple[Edit, ...],
    provenance: str,
    for_engine: ForEngine = as_it_is,
) -> NetworkResult:
    """The changed network's scores, artefact and exports, which lie in the run folder itself.

    Raises EngineError if the engine that times are of does not take it.
    """
    changed = Finalist(
        name=role,
        role=role,
        network=network,
        architecture=architecture,
        edits=edits,
        folder=".",
        provenance=provenance if task.learning else f"{role}, not tuned",
        made_from=task.original.name,
        for_engine=for_engine,
    )
    result = finish(task.tail, changed)
    why = result.refused.get(task.target.engine)
    if why:
        raise EngineError(
            f"the changed network is saved, but {task.target.engine} does not take it: {why}",
            place=str(task.run.folder),
            remedy="export it to another engine (compress export), or change it otherwise",
        )
    return result


def scoring_stages(task: Task[AnyRecipe]) -> list[Stage]:
    """The scoring of one network, as a stage of the job; none without trained weights.

    Work of stages is in pictures that pass through a network forwards; a training step counts for three.
    """
    passes = sum(1 + flip for flip in task.tail.flip_tests)
    return [Stage("scoring", passes * len(task.learning.sets.val))] if task.learning else []


def tuning_stages(task: Task[AnyRecipe], title: str) -> list[Stage]:
    """Likewise `tune_changed`, whose teacher is one more pass."""
    if task.learning is None:
        return []
    return [Stage(title, (3 + 1) * task.recipe.training.epochs * len(task.learning.sets.train))]


def timing_stages(task: Task[AnyRecipe]) -> list[Stage]:
    """Likewise `measure`."""
    here = [target for target in task.recipe.targets if not target.foreign]
    return [Stage("measuring", 2 * len(here) * task.recipe.rounds)] if here else []


def measure_both(
    task: Task[AnyRecipe], given: NetworkResult, changed: NetworkResult, reference_ms: float | None = None
) -> tuple[NetworkResult, NetworkResult, dict[str, SpeedUp]]:
    """Both with latencies, and target → how many times as fast the changed one is. reference_ms: see `measure`."""
    given, changed = measure(task.tail, [given, changed], reference_ms)
    return given, changed, speed_ups(given, changed)


def score_candidate(task: Task[AnyRecipe], network: nn.Module, provenance: str, resamples: int = 0) -> Score:
    """On the search pictures, one pass each. Leaves the network on the task's device."""
    learning = task.learning
    assert learning is not None
    return score(
        network.to(task.fabric.device),
        learning.estimator,
        learning.sets.search,
        kind=learning.data.kind,
        provenance=provenance,
        flip_test=False,
        resamples=resamples,
    )


def speed_ups(given: NetworkResult, changed: NetworkResult) -> dict[str, SpeedUp]:
    """Target → how many times as fast the changed network is, of two that `measure` timed together.

    No speed-up counts of a network that scores like a constant answer.
    """
    worthless = changed.score is not None and changed.score.worthless
    return {
        name: speed_up(given.latency[name], latency, worthless=worthless) for name, latency in changed.latency.items()
    }
