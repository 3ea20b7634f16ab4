"""Which replacements are made: what each gains in measured time, what it costs in accuracy, and the decision by both.

Every choice is first priced from the latency table, then timed as a network of its own beside the given one; its
weights are carried over and fitted to the outputs of the replaced module; the score with only this choice made says
what it loses. Those are made that save most time in all, within what may be lost of the score.
"""

import copy
import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn

from compress.artefacts.results import Decision, RewriteChoice
from compress.engines import engine
from compress.errors import EngineError, NetworkError
from compress.files import write_bytes
from compress.jobs.change import score_candidate
from compress.jobs.rewrite.choice import SAME, Task, changed_by, overlap, rewrites_of
from compress.measure.counting import count
from compress.measure.in_network import profile_in_networks
from compress.measure.latency_model import LatencyModel, load
from compress.measure.timing import pinned
from compress.measure.whole_networks import time_runners
from compress.pose.estimator import first_inputs
from compress.pose.scoring import RESAMPLES, Score
from compress.rewriting.fitting import Fitted, fit_sites
from compress.rewriting.sites import Rewrite, rewritten, rule_named
from compress.training.recalibration import PICTURES, enough_pictures, recalibrate

_LOADED_AT_ONCE = 16  # networks that are timed beside one another

# --- What it gains ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Priced:
    """reference_ms: of the latency table's clock, which all times of the choices are on."""

    choices: tuple[RewriteChoice, ...]
    reference_ms: float


def price(task: Task, choices: Sequence[RewriteChoice]) -> Priced:
    """With macs, predicted_saved_ms, and what `measured` adds where that is worth a measurement; or failure."""
    recipe, original = task.recipe, task.original
    given, macs = original.module, count(original.module, original.input_hw).macs
    priced = list(choices)
    model = model_for(task, choices)
    with task.progress.phase("pricing replacements", len(choices)) as phase:
        before = model.latency(given, original.input_hw).ms
        for number, choice in enumerate(choices):
            try:
                network = tried(task, choice)
                priced[number] = replace(
                    choice,
                    macs=count(network, original.input_hw).macs - macs,
                    predicted_saved_ms=before - model.latency(network, original.input_hw).ms,
                )
            except (EngineError, NetworkError) as error:
                priced[number] = replace(choice, failure=str(error))
            phase.advance(1, choice.name)
    least_ms = recipe.rewriting.min_gain * before / 2
    worth = [n for n, choice in enumerate(priced) if (choice.predicted_saved_ms or 0.0) > least_ms]
    if task.target.foreign:
        for number in worth:
            gain = (priced[number].predicted_saved_ms or 0.0) / before
            priced[number] = replace(priced[number], gain=gain)
        return Priced(tuple(priced), model.reference_ms)
    with task.progress.phase("timing replacements", len(worth)) as phase:
        for first in range(0, len(worth), _LOADED_AT_ONCE):
            batch = {number: priced[number] for number in worth[first : first + _LOADED_AT_ONCE]}
            for number, choice in measured(task, batch, before, model.reference_ms).items():
                priced[number] = choice
                phase.advance(1, choice.name)
    return Priced(tuple(priced), model.reference_ms)


def tried(task: Task, choice: RewriteChoice) -> nn.Module:
    """The network with this choice, which has answered once. Raises NetworkError if it does not, or not as it must."""
    rule = rule_named(choice.rule)
    network = rewritten(task.original.module, rewrites_of([choice]), carry=rule.exact)
    try:
        error = changed_by(task.original, network)
    except Exception as raised:  # forwards of the user's may expect anything of the modules they call
        raise NetworkError(
            "the network must run with the replacement",
            place=f"{choice.rule} at {choice.name}",
            value=f"{type(raised).__name__}: {raised}",
            remedy="leave this site out",
        ) from raised
    if rule.exact and not error < SAME:
        raise NetworkError(
            "an exact replacement must not change the outputs",
            place=f"{choice.rule} at {choice.name}",
            value=f"{error:.2g} relative",
            remedy="leave this site out",
        )
    return network


def measured(
    task: Task, choices: Mapping[int, RewriteChoice], given_ms: float, reference_ms: float
) -> dict[int, RewriteChoice]:
    """The choices with saved_ms, reliable and gain: each alone, beside the given network in one interleaved run.

    Or with failure. given_ms: predicted for the given network. reference_ms: of the latency table's clock.
    """
    recipe, original, target = task.recipe, task.original, task.target
    found: dict[int, RewriteChoice] = {}
    with tempfile.TemporaryDirectory() as folder:
        runners = {"given": load(target, exported(task, original.module, Path(folder), "netgiven"))}
        for number, choice in choices.items():
            try:
                network = rewritten(original.module, rewrites_of([choice]))
                file = exported(task, network, Path(folder), f"net{number}")
                runners[str(number)] = load(target, file)
            except (EngineError, NetworkError) as error:
                found[number] = replace(choice, failure=str(error))
        timings = {}
        if len(runners) > 1:
            timings = time_runners(runners, original.input_hw, target.local_threads, recipe.rounds)
    for number, choice in choices.items():
        if number in found:
            continue
        before, after = timings["given"], timings[str(number)]
        saved, reliable = before.ratio - after.ratio, before.reliable and after.reliable
        gain = saved / before.ratio
        if not reliable:
            gain = min(gain, (choice.predicted_saved_ms or 0.0) / given_ms)
        found[number] = replace(choice, saved_ms=saved * reference_ms, reliable=reliable, gain=gain)
    return found


def model_for(task: Task, choices: Sequence[RewriteChoice]) -> LatencyModel:
    """The target's model. On this machine its table has the kernels of the given network, and of it with each rule
    everywhere, timed in these networks."""
    original, model = task.original, task.model
    if task.target.foreign:
        return model
    everywhere: dict[str, list[Rewrite]] = {"given": []}
    for choice in choices:
        everywhere.setdefault(choice.rule, []).extend(rewrites_of([choice]))

    def export(rule: str) -> Path:
        return exported(task, rewritten(original.module, everywhere[rule], carry=False), Path(folder), f"all_{rule}")

    with (
        task.progress.phase("latency table", len(everywhere)) as phase,
        pinned(task.target.local_threads),
        tempfile.TemporaryDirectory() as folder,
    ):
        for rule in everywhere:
            try:
                profile_in_networks(model.table, model.runtime, {rule: partial(export, rule)})
            except EngineError:
                if rule == "given":
                    raise
                # else every choice of the rule is tried by itself and says why it fails
            phase.advance(1, rule)
    model.table.save()
    return model


def exported(task: Task, network: nn.Module, folder: Path, name: str) -> Path:
    """The engine's file of the network."""
    return engine(task.target.engine).export(network, task.original.input_hw, folder, name)[0]


# --- What it costs ---------------------------------------------------------------------------------------------------


def weigh(task: Task, choices: Sequence[RewriteChoice]) -> list[RewriteChoice]:
    """Those that gain enough with errors of their sites' outputs and the loss with each alone; or with failure."""
    wanted = [n for n, choice in enumerate(choices) if (choice.gain or 0.0) >= task.recipe.rewriting.min_gain]
    found = list(choices)
    with task.progress.phase("fitting replacements", len(wanted)) as phase:
        for number in wanted:
            one = task.run.once(f"alone_{number}", partial(alone, task, choices[number]), RewriteChoice)
            lost = "" if one.loss is None else f": {one.loss:+.3f} lost"
            phase.advance(1, f"{one.name}{lost}")
            found[number] = one
    return found


def alone(task: Task, choice: RewriteChoice) -> RewriteChoice:
    """With errors and loss; or with failure, if it cannot be fitted."""
    try:
        network, errors = fitted(task, [choice])
    except NetworkError as error:
        return replace(choice, failure=str(error))
    return replace(choice, errors=errors, loss=(score_given(task).value or 0.0) - judged(task, network))


def fitted(task: Task, choices: Sequence[RewriteChoice]) -> tuple[nn.Module, dict[str, Fitted]]:
    """The given network with these replacements, fitted and recalibrated; and path → error of its output.

    Raises NetworkError for a module whose inputs cannot be recorded, or a replacement of another shape.
    """
    settings = task.recipe.rewriting
    pictures = list(calibration(task))
    network, errors = fit_sites(
        task.original.module,
        rewrites_of(choices),
        pictures,
        limit=settings.calibration,
        steps=settings.steps,
        seed=task.original.seed,
    )
    recalibrate(network, norm_pictures(task))
    return network, dict(errors)


def calibration(task: Task) -> Iterable[torch.Tensor]:
    """Training pictures as evaluation sees them."""
    learning = task.learning
    assert learning is not None
    return first_inputs(learning.estimator, learning.sets.train, task.recipe.rewriting.calibration, torch.device("cpu"))


def together(task: Task, taken: Sequence[RewriteChoice]) -> nn.Module:
    """The given network with all of these, fitted one behind the other; kept, so that it is fitted once.

    Without trained weights their weights are only carried over.
    """
    untrained = task.learning is None
    network = rewritten(task.original.module, rewrites_of(taken), carry=untrained)
    if untrained:
        return network
    names = repr([(choice.rule, choice.at) for choice in taken])
    path = task.run.path("steps", f"together_{hashlib.sha256(names.encode()).hexdigest()[:12]}.safetensors")
    if not path.exists():
        state = fitted(task, taken)[0].state_dict()
        write_bytes(path, save({name: value.contiguous().clone() for name, value in state.items()}))  # some are tied
    network.load_state_dict(load_file(path))
    return network.eval()


def score_given(task: Task) -> Score:
    """The given network's on the search pictures, found out once; recalibrated as every candidate is."""

    def work() -> Score:
        network = copy.deepcopy(task.original.module)
        recalibrate(network, norm_pictures(task))
        return _scored(task, network, RESAMPLES)

    return task.run.once("score_given", work, Score)


def norm_pictures(task: Task) -> Iterable[torch.Tensor]:
    """Training pictures that batch norms are recalibrated on: so many that the given network loses nothing by it.

    Where none are enough, a message says so, and replacements are judged on all: their new norms need statistics.
    """
    learning, settings = task.learning, task.recipe.rewriting
    assert learning is not None

    def needed() -> int:
        inputs = first_inputs(learning.estimator, learning.sets.train, PICTURES, torch.device("cpu"))
        found = enough_pictures(task.original.module, inputs, settings.calibration, partial(judged, task))
        if not found:
            task.progress.say(f"recalibrating batch norms on {PICTURES} training pictures costs more than a point")
        return sum(len(batch) for batch in found) or PICTURES

    wanted = task.run.once("norm_pictures", needed)
    return first_inputs(learning.estimator, learning.sets.train, wanted, torch.device("cpu"))


def judged(task: Task, network: nn.Module) -> float:
    """The score on the search pictures."""
    return _scored(task, network, 0).value or 0.0


def _scored(task: Task, network: nn.Module, resamples: int) -> Score:
    found = score_candidate(task, network, "rewritten, not tuned", resamples)
    network.cpu()
    return found


# --- Which are made ---------------------------------------------------------------------------------------------------


def decide(task: Task, choices: Sequence[RewriteChoice]) -> Decision:
    """Which choices are made, why the others are not, and what they lose together before fine-tuning.

    Where they lose more together than max_loss, the one of most loss per time saved is left out, and choices that it
    excluded come into question again, until they do not.
    """
    settings, learning = task.recipe.rewriting, task.learning
    refused = refusals(choices, settings.min_gain, settings.max_loss)
    candidates = sorted(set(range(len(choices))) - set(refused))
    taken = select(choices, candidates, settings.max_loss)
    joint, before = None, score_given(task) if learning else None
    while before and taken:
        with task.progress.phase(f"trying {len(taken)} together", 1) as phase:
            joint = (before.value or 0.0) - judged(task, together(task, [choices[n] for n in taken]))
            phase.advance(1, f"{joint:+.3f} lost")
        if joint <= settings.max_loss:
            break
        worst = max(taken, key=lambda n: rate(choices[n]))
        limit = f"allowed {settings.max_loss:g}"
        refused[worst] = f"together the score lost {joint:.3f}, {limit}; this one most for its gain"
        candidates = [n for n in candidates if n != worst and (n in taken or overlap(choices[n], choices[worst]))]
        taken, joint = select(choices, candidates, settings.max_loss), None
    for number in set(range(len(choices))) - set(refused) - set(taken):
        rival = next((n for n in taken if overlap(choices[n], choices[number])), None)
        lost = choices[number].loss or 0.0
        refused[number] = (
            f"with {choices[rival].rule} there more is gained in all"
            if rival is not None
            else f"it loses {lost:.3f} of the score, and others gain more for what is allowed"
        )
    return Decision(
        taken=tuple(taken),
        refused=dict(sorted(refused.items())),
        joint_loss=joint,
        score_error=(before.standard_error or 0.0) if before else None,
        judged_on=len(learning.sets.search) if learning else 0,
    )


def refusals(choices: Sequence[RewriteChoice], min_gain: float, max_loss: float) -> dict[int, str]:
    """Choices that fail by themselves → why."""
    refused = {}
    for number, choice in enumerate(choices):
        if choice.failure is not None:
            refused[number] = choice.failure
        elif choice.gain is None:
            saved_ms = choice.predicted_saved_ms or 0.0
            refused[number] = f"predicted to save {saved_ms:.3f} ms, too little to be worth measuring"
        elif choice.gain < min_gain:
            refused[number] = f"saves {choice.gain:.1%} of the time, required {min_gain:.1%}"
        elif (choice.loss or 0.0) > max_loss:
            refused[number] = f"alone it loses {choice.loss:.3f} of the score, allowed {max_loss:g}"
    return refused


def select(choices: Sequence[RewriteChoice], candidates: Sequence[int], max_loss: float) -> list[int]:
    """The numbers, rising, of those candidates that save most in all and lose no more than max_loss in all.

    Gains and losses add up as they are of each alone; a gain in score counts as nothing lost. Overlapping choices
    exclude one another. Of equal savings the least loss is taken. Exact, by SciPy's mixed-integer program (HiGHS).
    """
    if not candidates:
        return []
    gain = np.array([choices[n].gain or 0.0 for n in candidates])
    loss = np.array([max(0.0, choices[n].loss or 0.0) for n in candidates])
    limits = [LinearConstraint(loss, ub=max_loss)]
    clashes = [
        (a, b)
        for (a, one), (b, other) in combinations(enumerate(candidates), 2)
        if overlap(choices[one], choices[other])
    ]
    if clashes:
        excluded = np.zeros((len(clashes), len(candidates)))
        excluded[np.repeat(np.arange(len(clashes)), 2), np.ravel(clashes)] = 1
        limits.append(LinearConstraint(excluded, ub=1))
    found = milp(
        1e-6 * loss - gain, integrality=np.ones(len(candidates), np.int64), bounds=Bounds(0, 1), constraints=limits
    )
    if found.x is None:
        raise AssertionError(f"taking nothing is always possible, yet: {found.message}")
    return [n for n, taken in zip(candidates, found.x, strict=True) if taken > 0.5]


def rate(choice: RewriteChoice) -> float:
    """Score lost per share of the time saved; a gain in score counts as nothing lost."""
    return max(0.0, choice.loss or 0.0) / max(choice.gain or 0.0, 1e-6)
