"""The tail of every job that makes networks: tune → recalibrate → score → save → export → parity → time.

    tune(tail, networks, teacher, ...)     side by side on the same batches, then their batch norms
    finish(tail, finalist)                 one network: scores, artefact, exports that compute what torch computes
    measure(tail, results)                 all of them on every engine in one interleaved run
    time_decoding(tail, results, ...)      from maps to people, if a job tells of it

Every step is kept in the run folder, so a killed job goes on behind the last one it finished.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from compress.artefacts.artefact import Edit, edit_text, load_artefact, save_artefact
from compress.artefacts.metadata import Metadata
from compress.artefacts.network import Learning
from compress.artefacts.results import Evaluation, NetworkResult, Role, RunRecord, TargetRecord
from compress.artefacts.run import Run, environment
from compress.data.loader import Batch
from compress.engines.engine import Image
from compress.engines.export import Export, ForEngine, as_it_is, export_and_check, sample_images
from compress.jobs.pictures import draw_found
from compress.measure.counting import count
from compress.measure.decoding import decode_time
from compress.measure.latency import Latency
from compress.measure.latency_model import identity_of, open_model
from compress.measure.target import Target
from compress.measure.whole_networks import time_exports
from compress.networks import Architecture, architecture_to_data
from compress.pose.estimator import PoseEstimator, first_inputs
from compress.pose.scoring import RESAMPLES, Score, procedure, score
from compress.progress import Progress
from compress.pruning.schedule import Sparsifier
from compress.recipe import Decoding, FineTuning, Settings, Training, to_data
from compress.training.loop import LossStep, batch_count, distilled_step, label_loss, label_step, train
from compress.training.recalibration import KEPT, PICTURES, recalibrate_unless_worse


class Measuring(Protocol):
    """What a recipe says of exports and timing; see compress.recipe.Measurement."""

    @property
    def targets(self) -> Sequence[Target]: ...
    @property
    def parity_pictures(self) -> int: ...
    @property
    def rounds(self) -> int: ...


@dataclass(frozen=True)
class Tail:
    """What the steps of the tail need to know of their job.

    learning: None for random weights: then nothing is tuned or scored. training: of the fine-tuning; with a teacher its
    share of the loss too. decoding: its flip_test says which procedure is scored first. measuring: None where nothing
    is exported. other_procedure: whether that is scored as well. given: of the network that all is made of, if one was
    given; module: where it was a module in memory. estimator_at: of networks of several input sizes; None where all
    have input_hw.
    """

    run: Run
    progress: Progress
    fabric: Fabric
    learning: Learning | None
    input_hw: tuple[int, int]
    seed: int
    training: Training
    decoding: Decoding
    measuring: Measuring | None
    other_procedure: bool = True
    given: Metadata | None = None
    module: nn.Module | None = None
    estimator_at: Callable[[tuple[int, int]], PoseEstimator] | None = None

    @property
    def flip_tests(self) -> tuple[bool, ...]:
        """Of the procedures that are scored, the recipe's first."""
        own = self.decoding.flip_test
        return (own, not own) if self.other_procedure else (own,)


@dataclass(frozen=True)
class Finalist:
    """A network that is finished: scored, saved, exported.

    name: also of the step. folder: inside the run folder, of artefact and exports. provenance: how its weights came
    about. made_from: the network that the user named, if one was. for_engine: the form an engine runs it in.
    """

    name: str
    role: Role
    network: nn.Module
    architecture: Architecture
    edits: tuple[Edit, ...]
    folder: str
    provenance: str
    made_from: str | None = None
    for_engine: ForEngine = as_it_is


# --- Tune and recalibrate --------------------------------------------------------------------------------------------


Sparsify = Callable[[nn.Module, int], Sparsifier]
"""Network, number of steps → what sets weights to zero during fine-tuning and keeps them zero."""


def tune(
    tail: Tail,
    networks: Mapping[str, nn.Module],
    teacher: nn.Module | None,
    *,
    title: str,
    checkpoint: str,
    sparsify: Sparsify | None = None,
) -> None:
    """Trains the networks on the same batches, each as if it were alone, and recalibrates them. Changes them.

    Does nothing without trained weights. teacher: None, of a single network, trains it on the labels alone. title: of
    the phase. checkpoint: the file's name under steps/, from which a killed tuning goes on. sparsify: of a single
    network; the sparsifier's state lies in the checkpoint too. Leaves all networks on the CPU, where the engines are.
    """
    learning, settings, fabric = tail.learning, tail.training, tail.fabric
    if learning is None:
        return
    objective = learning.objective
    samples = objective.samples(learning.sets.train)
    steps = batch_count(settings, samples)
    involved = [*networks.values(), *([] if teacher is None else [teacher])]
    for network in involved:
        network.to(fabric.device)
    if teacher is not None:
        assert isinstance(settings, FineTuning)
        step = distilled_step(list(networks.values()), teacher, objective, settings.distillation, fabric)
    else:
        (network,) = networks.values()
        step = label_step(network, objective, fabric)
    trained = nn.ModuleDict({f"network_{name}": network for name, network in networks.items()})  # a name may be `half`
    sparsifier = None
    if sparsify is not None:
        (network,) = networks.values()
        sparsifier = sparsify(network, steps * settings.accumulate)
        trained["sparsifier"] = sparsifier
        step = _sparsifying(step, sparsifier, fabric)
    with tail.progress.phase(title, steps) as phase:
        train(
            trained,
            [dict(network.named_parameters()) for network in networks.values()],
            step,
            samples=samples,
            settings=settings,
            seed=tail.seed,
            fabric=fabric,
            workers=learning.data.workers,
            checkpoint=tail.run.path("steps", f"{checkpoint}.pt"),
            phase=phase,
        )
    if sparsifier is not None:
        sparsifier.hold()
    with tail.progress.phase("recalibrating", len(networks)) as phase:
        for name, network in networks.items():
            recalibrate_tuned(tail, network, name)
            phase.advance(1, name)
    for network in involved:
        network.cpu()


def _sparsifying(step: LossStep, sparsifier: Sparsifier, fabric: Fabric) -> LossStep:
    """The same step under a sparsifier, with its penalty."""

    def sparsifying(batch: Batch, rng: random.Random) -> float:
        sparsifier.begin_step()
        loss = step(batch, rng)
        penalty = sparsifier.penalty()
        if penalty is not None:
            fabric.backward(penalty)
        return loss

    return sparsifying


def recalibrate_tuned(tail: Tail, network: nn.Module, name: str) -> None:
    """Batch-norm statistics of a trained network on its device; it keeps its own, and says so, where new ones lose."""
    learning = tail.learning
    assert learning is not None
    samples = learning.objective.samples(learning.sets.train)
    loss = partial(label_loss, network, learning.objective, samples, tail.training, tail.seed)
    if not recalibrate_unless_worse(network, calibration_inputs(tail), loss):
        tail.progress.say(KEPT.format(name))


def calibration_inputs(tail: Tail) -> Iterator[Tensor]:
    """About the first PICTURES training pictures as evaluation sees them, in batches [B,3,H,W] on the device."""
    assert tail.learning is not None
    return first_inputs(tail.learning.estimator, tail.learning.sets.train, PICTURES, tail.fabric.device)


# --- Score, save, export ---------------------------------------------------------------------------------------------


def finish(tail: Tail, finalist: Finalist) -> NetworkResult:
    """Scores the network, draws what it finds, saves its artefact, counts and exports it; the result is kept with the
    run.

    A given network is the user's: it is not saved again. An engine that does not take the network is named in
    `refused`, for all other work is done.
    """

    def work() -> NetworkResult:
        network = finalist.network
        evaluations = evaluate(tail, network, finalist.provenance)
        folder = tail.run.path(finalist.folder)
        pictures: tuple[str, ...] = ()
        if tail.learning:
            pictures = draw_found(network, tail.learning, folder, flip_test=tail.decoding.flip_test)
        network.cpu()
        if finalist.role != "given":
            metadata = metadata_of(tail, finalist, evaluations[0].score)
            save_artefact(folder, finalist.architecture, network, metadata, finalist.edits)
        counted = count(network, tail.input_hw)
        exports: tuple[Export, ...] = ()
        refused: dict[str, str] = {}
        predicted: dict[str, Latency] = {}
        if tail.measuring:
            engines = dict.fromkeys(target.engine for target in tail.measuring.targets)
            exports, refused = export_and_check(
                network, engines, parity_images(tail), tail.input_hw, folder, finalist.for_engine
            )
            for target in tail.measuring.targets:
                if target.foreign and target.engine not in refused:
                    form = finalist.for_engine(network, target.engine)
                    predicted[target.name] = _promised(tail, target, form, finalist.name)
        return NetworkResult(
            name=finalist.name,
            role=finalist.role,
            folder=finalist.folder,
            architecture=architecture_to_data(finalist.architecture),
            edits=tuple(map(edit_text, finalist.edits)),
            params=counted.params,
            macs=counted.macs,
            uncounted=tuple(counted.uncounted),
            evaluations=evaluations,
            exports=exports,
            refused=refused,
            predicted=predicted,
            pictures=pictures,
            input_hw=tail.input_hw,
        )

    step = finalist.name if finalist.folder == "." else finalist.folder  # a user's name for it is no other step's
    return tail.run.once(step, work, NetworkResult)


def _promised(tail: Tail, target: Target, network: nn.Module, name: str) -> Latency:
    """The latency on another device, by its table; names how many kernels are too uncertain without timing them."""
    model = open_model(target)
    found = model.predict(network, tail.input_hw)
    if found.uncertain:
        tail.progress.say(
            f"{name}: {len(found.uncertain)} of its kernels are too uncertain on {target.name}, such as "
            f"{found.uncertain[0]}: pack this network for the device (compress latency pack) and merge the tables"
        )
    return model.latency_of(found)


def evaluate(tail: Tail, network: nn.Module, provenance: str) -> tuple[Evaluation, ...]:
    """The validation score of every procedure, the recipe's first; scores are None without trained weights.

    Leaves the network on the device.
    """
    learning = tail.learning
    if learning is None:
        return tuple(Evaluation(procedure(flip), 1 + flip, None) for flip in tail.flip_tests)
    network.to(tail.fabric.device)
    found = []
    with tail.progress.phase("scoring", len(tail.flip_tests) * len(learning.sets.val)) as phase:
        for flip in tail.flip_tests:
            scored = score(
                network,
                learning.estimator,
                learning.sets.val,
                kind=learning.data.kind,
                provenance=provenance,
                flip_test=flip,
                resamples=RESAMPLES,
                phase=phase,
            )
            found.append(Evaluation(procedure(flip), 1 + flip, scored))
    return tuple(found)


def metadata_of(tail: Tail, finalist: Finalist, score: Score | None) -> Metadata:
    """What the artefact says of its network. data, score: None without training."""
    found = replace(
        tail.given or Metadata(tail.input_hw),
        input_hw=tail.input_hw,
        origin=finalist.made_from or "",
        provenance=finalist.provenance,
        seed=tail.seed,
        data=None,
        flip_test=False,
        score=score,
    )
    learning = tail.learning
    if learning is None:
        return found
    return replace(
        found,
        keypoints=learning.sets.train.keypoints.name,
        codec=learning.codec,
        normalisation=learning.normalisation,
        data=learning.data,
        flip_test=tail.decoding.flip_test,
    )


def parity_images(tail: Tail) -> list[Image]:
    """What exports are compared with torch on: validation pictures, or noise where there are none."""
    assert tail.measuring is not None
    if tail.learning:
        learning = tail.learning
        return sample_images(learning.sets.val, tail.measuring.parity_pictures, tail.input_hw, learning.normalisation)
    return [torch.randn(1, 3, *tail.input_hw, generator=torch.Generator().manual_seed(0)).numpy()]


# --- Time ------------------------------------------------------------------------------------------------------------


def measure(tail: Tail, results: Sequence[NetworkResult], reference_ms: float | None = None) -> list[NetworkResult]:
    """The same with the latency of one pass on every target.

    On this machine all networks are timed in one interleaved run, on one clock; of another device it is predicted.

    reference_ms: of the clock that the times are on, such as a latency table's; None: of the reference timed in the
    run.
    """
    assert tail.measuring is not None
    targets = tail.measuring.targets
    files: dict[str, dict[Target, Path]] = {}
    for one in results:
        exported = {export.engine: tail.run.path(one.folder, export.files[0]) for export in one.exports}
        here = [target for target in targets if not target.foreign and target.engine in exported]
        files[one.name] = {target: exported[target.engine] for target in here}
    sizes = {one.name: one.input_hw or tail.input_hw for one in results}
    work = partial(time_exports, files, tail.measuring.rounds, sizes, tail.progress, reference_ms)
    measured = tail.run.once("measured", work, dict[str, dict[str, Latency]])

    def latency_of(one: NetworkResult) -> dict[str, Latency]:
        found = {**one.predicted, **measured.get(one.name, {})}
        wanted = (t.name for t in targets if t.foreign or t.name in measured.get(one.name, {}))
        return {name: found[name] for name in wanted if name in found}

    return [replace(one, latency=latency_of(one)) for one in results]


def time_decoding(tail: Tail, results: Sequence[NetworkResult], reference_ms: float) -> list[NetworkResult]:
    """The same with the time from maps to people, and the whole of what a person waits for, of both procedures.

    On validation pictures, with the saved artefacts; on the clock of reference_ms. Measured first: see `measure`. Where
    the target that decides is another device, decoding there is not known: the whole is without it.
    """
    learning, measuring = tail.learning, tail.measuring
    assert learning is not None
    assert measuring is not None
    first = measuring.targets[0]
    if first.foreign:
        return [with_decoding(one, first, [None] * len(one.evaluations)) for one in results]

    def work() -> dict[str, tuple[Latency, ...]]:
        found = {}
        with tail.progress.phase("decoding", len(results)) as phase:
            for one in results:
                network = load_artefact(tail.run.path(one.folder), tail.module).module
                own = tail.estimator_at(one.input_hw) if tail.estimator_at and one.input_hw else learning.estimator
                found[one.name] = tuple(
                    decode_time(network, own, learning.sets.val, flip_test=flip, reference_ms=reference_ms).latency
                    for flip in tail.flip_tests
                )
                phase.advance(1, one.name)
        return found

    decoding = tail.run.once("decoded", work, dict[str, tuple[Latency, ...]])
    return [with_decoding(one, first, decoding[one.name]) for one in results]


def with_decoding(one: NetworkResult, target: Target, decoding: Sequence[Latency | None]) -> NetworkResult:
    """The same with end-to-end times on the target. decoding: of each evaluation; None where it is not known."""
    evaluations = (
        replace(each, decoding=reading, end_to_end=end_to_end(each.passes, one.latency[target.name], reading))
        for each, reading in zip(one.evaluations, decoding, strict=True)
    )
    return replace(one, evaluations=tuple(evaluations))


def end_to_end(passes: int, network: Latency, decoding: Latency | None) -> Latency:
    """So many passes of the network, then decoding, if its time is known.

    reliable: the network's, for decoding varies with the pictures.
    """
    ms, of = passes * network.ms, f"{network.target}, {'with' if decoding else 'without'} decoding"
    error_ms = ms * (network.uncertainty or 0.0)
    if decoding:
        ms, error_ms = ms + decoding.ms, math.hypot(error_ms, decoding.ms * (decoding.uncertainty or 0.0))
    return Latency(ms, of, network.provenance, uncertainty=error_ms / ms, reliable=network.reliable)


# --- The record ------------------------------------------------------------------------------------------------------


def run_record(
    run: Run, recipe: Settings, targets: Iterable[Target] = (), seconds: Mapping[str, float] | None = None
) -> RunRecord:
    """What any number of the run depends on. targets: that times are of."""
    found = environment()
    records = tuple(map(target_record, targets))
    return RunRecord(str(run.folder), tuple(found["command"]), to_data(recipe), found, records, seconds or {})


def target_record(target: Target) -> TargetRecord:
    """What times on the target are of."""
    one = identity_of(target)
    table = str(target.table) if target.table else None
    return TargetRecord(target.name, one.engine, one.version, one.device, one.threads, one.precision, table)
