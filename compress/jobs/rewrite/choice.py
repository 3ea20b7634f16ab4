"""Which operators are replaced: what every replacement gains in measured time and costs in accuracy, site by site.

A *choice* is a rule and the sites that are decided together: one module, or all of a part of the network where a rule
has very many. Every choice is first priced from the latency table, then timed as a network of its own beside the given
one; its weights are carried over and fitted to what the module answered; the score with only this choice changed says
what it loses. What is taken gains most in all within the limit, and is tried together.
"""

import copy
import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import nn

from compress.artefacts.artefact import FUNCTIONS_AS_MODULES, edited, give_weights
from compress.artefacts.network import Subject
from compress.engines import ENGINES, engine
from compress.errors import EngineError, NetworkError, RecipeError
from compress.files import write_bytes
from compress.jobs import finalise as changing
from compress.measure.counting import count
from compress.measure.in_network import profile_in_networks
from compress.measure.kept_tables import complete_table, table_path
from compress.measure.kernels import detect_kernels
from compress.measure.latency_table import Identity, LatencyTable, open_table, predict
from compress.measure.timing import pinned
from compress.measure.whole_networks import time_runners
from compress.pose.estimator import first_inputs
from compress.pose.scoring import RESAMPLES, score
from compress.pruning.structured import difference
from compress.recipe import RewriteRecipe
from compress.rewriting.fitting import fit_sites
from compress.rewriting.functions import as_modules
from compress.rewriting.rules import RULES
from compress.rewriting.sites import Rewrite, rewritten, rule_named, sites, tied_modules
from compress.training.recalibration import PICTURES, enough_pictures, recalibrate

_SAME = 1e-4  # relative: x·sigmoid(x) as one operator is rounded otherwise
_LOADED_AT_ONCE = 16  # networks that are timed beside one another

Task = changing.Task[RewriteRecipe]

Row = dict[str, Any]
"""What is known of one choice, as plain data; see `price`, `weigh` and `decide`, which add to it."""


@dataclass(frozen=True)
class Choice:
    """Sites of one rule that are decided together. name: of the rule and the module or part of the network."""

    rule: str
    name: str
    at: tuple[str, ...]

    @property
    def rewrites(self) -> tuple[Rewrite, ...]:
        """As the network is changed by it."""
        return tuple(Rewrite(self.rule, path) for path in self.at)

    def overlaps(self, other: "Choice") -> bool:
        """Whether a module of one is, or lies in, a module of the other."""
        return any(f"{a}.".startswith(f"{b}.") or f"{b}.".startswith(f"{a}.") for a in self.at for b in other.at)


# --- What can be replaced --------------------------------------------------------------------------------------------


def functions_as_modules(subject: Subject, recipe: RewriteRecipe) -> tuple[Subject, dict[str, str]]:
    """An own network in Python with functions as modules, if the rules asked for then have more sites; else as it is.

    Also path → why functions called there were not looked at, or stay as they are.
    """
    if subject.architecture.family != "python":
        return subject, {}
    changed, unread = as_modules(subject.network)
    edits = (FUNCTIONS_AS_MODULES, *subject.edits)
    if FUNCTIONS_AS_MODULES in subject.edits or _site_count(changed, recipe) <= _site_count(subject.network, recipe):
        return subject, unread
    network = edited(subject.architecture.build(), edits).eval()  # as the result will be loaded
    give_weights(network, edits, subject.network.state_dict())
    failure = _failure_of(network, subject)
    return (subject, {**unread, "": failure}) if failure else (replace(subject, network=network, edits=edits), unread)


def _failure_of(network: nn.Module, subject: Subject) -> str | None:
    """Why the network does not do what the subject's does, on one picture of noise; None if it does."""
    try:
        error = _changed(subject, network)
    except Exception as raised:  # a forward that was traced wrongly may raise anything
        return f"as modules they would fail, {type(raised).__name__}: {raised}"
    return None if error < _SAME else f"as modules they would change the outputs by {error:.2g}"


def _changed(subject: Subject, network: nn.Module) -> float:
    """How far its outputs are from the subject's, relative, on one picture of noise. Raises what a forward raises."""
    image = torch.randn(1, 3, *subject.input_hw, generator=torch.Generator().manual_seed(0))
    return difference(subject.network, network, image)


def _site_count(network: nn.Module, recipe: RewriteRecipe) -> int:
    """Modules that the rules asked for replace, over all rules."""
    return sum(len(choice.at) for choice in choices_of(network, recipe))


def check_request(subject: Subject, recipe: RewriteRecipe) -> None:
    """Raises RecipeError for an unknown rule, a pattern that no module has, and an engine that prices nothing."""
    if not engine(recipe.engine).has_kernels and recipe.rewriting.depth is None:
        raise RecipeError(
            "replacements are priced by the kernels of an engine's own graph, and this one has none",
            place="engine",
            value=recipe.engine,
            remedy=f"use one of {', '.join(name for name, one in ENGINES.items() if one.has_kernels)}",
        )
    for name in recipe.rewriting.rules:
        rule_named(name)
    changing.check_patterns(subject.network, recipe.rewriting.sites, "a pattern of sites", "rewriting.sites")


def choices_of(network: nn.Module, recipe: RewriteRecipe) -> list[Choice]:
    """Every rule's sites among those asked for, in the order of rules and modules; empty where no rule has one."""
    asked = recipe.rewriting
    found = []
    for name in dict.fromkeys(asked.rules) or RULES:
        paths = [one.at for one in sites(network, rule_named(name))]
        paths = [path for path in paths if any(fnmatchcase(path, pattern) for pattern in asked.sites)]
        found += [Choice(name, group, tuple(at)) for group, at in grouped(paths, asked.groups).items()]
    return found


def tied_sites(network: nn.Module, recipe: RewriteRecipe) -> dict[str, str]:
    """Modules that a rule asked for would replace if they shared no parameter → the module they share it with."""
    rules = [rule_named(name) for name in dict.fromkeys(recipe.rewriting.rules) or RULES]
    return {
        path: other
        for path, other in tied_modules(network).items()
        if any(fnmatchcase(path, pattern) for pattern in recipe.rewriting.sites)
        and any(rule.matches(network.get_submodule(path)) for rule in rules)
    }


def grouped(paths: Sequence[str], at_most: int) -> dict[str, list[str]]:
    """The paths one by one; if that is more than at_most, by as much of their beginnings as gives no more groups."""
    longest = max((path.count(".") + 1 for path in paths), default=0)
    for depth in range(longest, -1, -1):
        groups: dict[str, list[str]] = {}
        for path in paths:
            parts = path.split(".")
            name = path if len(parts) <= depth else ".".join([*parts[:depth], "*"])
            groups.setdefault(name, []).append(path)
        if len(groups) <= at_most or depth == 0:
            return groups
    return {}


# --- What it gains ---------------------------------------------------------------------------------------------------


def price(task: Task, choices: Sequence[Choice]) -> list[Row]:
    """Per choice: macs, predicted_ms that it saves, and what `measured` adds where that is worth a measurement.

    failure: why a replacement cannot be used.
    """
    recipe, subject = task.recipe, task.subject
    given, macs = subject.network, count(subject.network, subject.input_hw).macs
    rows: list[Row] = [{"rule": choice.rule, "name": choice.name, "at": list(choice.at)} for choice in choices]
    for row, choice in zip(rows, choices, strict=True):
        row["places"] = places_of(given, choice.at)
    table = table_for(task, choices)
    with task.progress.phase("pricing replacements", len(choices)) as phase:
        before = predicted_ms(task, table, given)
        for number, choice in enumerate(choices):
            try:
                network = tried(subject, choice)
                rows[number] |= {
                    "macs": count(network, subject.input_hw).macs - macs,
                    "predicted_ms": before - predicted_ms(task, table, network),
                }
            except (EngineError, NetworkError) as error:
                rows[number]["failure"] = str(error)
            phase.advance(1, choice.name)
    worth = [n for n, row in enumerate(rows) if row.get("predicted_ms", 0.0) > recipe.rewriting.min_gain * before / 2]
    assert table.reference_ms is not None
    with task.progress.phase("timing replacements", len(worth)) as phase:
        for first in range(0, len(worth), _LOADED_AT_ONCE):
            batch = {number: choices[number] for number in worth[first : first + _LOADED_AT_ONCE]}
            predicted = {number: rows[number]["predicted_ms"] / before for number in batch}
            for number, found in measured(task, batch, predicted, table.reference_ms).items():
                rows[number] |= found
                phase.advance(1, choices[number].name)
    return rows


def places_of(network: nn.Module, paths: Sequence[str]) -> int:
    """At how many places the modules stand: one object may stand at several."""
    modules = {id(network.get_submodule(path)) for path in paths}
    return sum(id(module) in modules for _, module in network.named_modules(remove_duplicate=False))


def tried(subject: Subject, choice: Choice) -> nn.Module:
    """The network with this choice, which has answered once. Raises NetworkError if it does not, or not as it must."""
    rule = RULES[choice.rule]
    network = rewritten(subject.network, choice.rewrites, carry=rule.exact)
    try:
        error = _changed(subject, network)
    except Exception as raised:  # forwards of the user's may expect anything of the modules they call
        raise NetworkError(
            "the network must run with the replacement",
            place=f"{choice.rule} at {choice.name}",
            value=f"{type(raised).__name__}: {raised}",
            remedy="leave this site out",
        ) from raised
    if rule.exact and not error < _SAME:
        raise NetworkError(
            "an exact replacement must not change the outputs",
            place=f"{choice.rule} at {choice.name}",
            value=f"{error:.2g} relative",
            remedy="leave this site out",
        )
    return network


def measured(
    task: Task, choices: Mapping[int, Choice], predicted: Mapping[int, float], reference_ms: float
) -> dict[int, Row]:
    """Per choice measured_ms, reliable and gain: alone, beside the given network in one interleaved run; or failure.

    measured_ms: saved, on the latency table's clock. reliable: both timings were steady; what is not is timed once
    more. gain: share of the given network's time that is saved; where the timing stays unsteady, no more than predicted
    (share by number).
    """
    recipe, subject = task.recipe, task.subject
    runtime = engine(recipe.engine)
    found: dict[int, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        runners = {"given": runtime.load(exported(task, subject.network, Path(folder), "netgiven"), recipe.threads)}
        for number, choice in choices.items():
            try:
                file = exported(task, rewritten(subject.network, choice.rewrites), Path(folder), f"net{number}")
                runners[str(number)] = runtime.load(file, recipe.threads)
            except (EngineError, NetworkError) as error:
                found[number] = {"failure": str(error)}
        for _ in range(2):
            wanted = [n for n in choices if str(n) in runners and not found.get(n, {}).get("reliable")]
            if not wanted:
                break
            timings = time_runners({n: runners[n] for n in ("given", *map(str, wanted))}, subject.input_hw, recipe)
            for number in wanted:
                before, after = timings["given"], timings[str(number)]
                saved, reliable = before.ratio - after.ratio, before.reliable and after.reliable
                gain = saved / before.ratio
                gain = gain if reliable else min(gain, predicted[number])
                found[number] = {"measured_ms": saved * reference_ms, "reliable": reliable, "gain": gain}
    return found


def table_for(task: Task, choices: Sequence[Choice]) -> LatencyTable:
    """This machine's table of the engine, with the kernels of the given network and of it with each rule everywhere."""
    recipe, subject = task.recipe, task.subject
    runtime = engine(recipe.engine)
    identity = Identity.of(runtime.describe(), recipe.threads)
    table = open_table(table_path(identity), identity)
    everywhere: dict[str, list[Rewrite]] = {"given": []}
    for choice in choices:
        everywhere.setdefault(choice.rule, []).extend(choice.rewrites)

    def export(rule: str) -> Path:
        return exported(task, rewritten(subject.network, everywhere[rule], carry=False), Path(folder), f"all_{rule}")

    with (
        task.progress.phase("latency table", len(everywhere)) as phase,
        pinned(recipe.threads),
        tempfile.TemporaryDirectory() as folder,
    ):
        for rule in everywhere:
            try:
                profile_in_networks(table, runtime, {rule: partial(export, rule)})
            except EngineError:
                if rule == "given":
                    raise
                # else every choice of the rule is tried by itself and says why it fails
            phase.advance(1, rule)
    table.save()
    return table


def exported(task: Task, network: nn.Module, folder: Path, name: str) -> Path:
    """The engine's file of the network."""
    return engine(task.recipe.engine).export(network, task.subject.input_hw, folder, name)[0]


def predicted_ms(task: Task, table: LatencyTable, network: nn.Module) -> float:
    """From the table; what it lacks is measured first. Raises EngineError if the engine cannot run the network."""
    kernels = detect_kernels(network, task.subject.input_hw, engine(task.recipe.engine))
    complete_table(table, kernels)
    return predict(table, kernels).ms


# --- What it costs ---------------------------------------------------------------------------------------------------


def weigh(task: Task, choices: Sequence[Choice], rows: Sequence[Row]) -> list[Row]:
    """Adds to every choice that gains enough: errors of its sites' outputs, and the loss with it alone.

    failure: why a replacement cannot be fitted, instead.
    """
    wanted = [n for n, row in enumerate(rows) if row.get("gain", 0.0) >= task.recipe.rewriting.min_gain]
    found = [dict(row) for row in rows]
    with task.progress.phase("fitting replacements", len(wanted)) as phase:
        for number in wanted:
            found[number] |= task.run.once(f"alone_{number}", partial(alone, task, choices[number]))
            lost = f": {found[number]['loss']:+.3f} lost" if "loss" in found[number] else ""
            phase.advance(1, f"{choices[number].name}{lost}")
    return found


def alone(task: Task, choice: Choice) -> Row:
    """errors of the outputs of every site, and the loss, with this choice alone; or failure."""
    try:
        network, errors = fitted(task, [choice])
    except NetworkError as error:
        return {"failure": str(error)}
    return {"errors": errors, "loss": score_given(task)[0] - judged(task, network)}


def fitted(task: Task, choices: Sequence[Choice]) -> tuple[nn.Module, list[Row]]:
    """The given network with these choices' replacements, fitted and recalibrated; and their output errors.

    Raises NetworkError for a module that cannot be listened to, or a replacement of another shape.
    """
    asked = task.recipe.rewriting
    pictures = list(calibration(task))
    network, errors = fit_sites(
        task.subject.network,
        [one for choice in choices for one in choice.rewrites],
        pictures,
        limit=asked.calibration,
        steps=asked.steps,
        seed=task.subject.seed,
    )
    recalibrate(network, norm_pictures(task))
    return network, [{"at": path, **asdict(found)} for path, found in errors.items()]


def calibration(task: Task) -> Iterable[torch.Tensor]:
    """Training pictures as evaluation sees them."""
    learning = task.subject.learning
    assert learning is not None
    return first_inputs(learning.estimator, learning.sets.train, task.recipe.rewriting.calibration, torch.device("cpu"))


def together(task: Task, taken: Sequence[Choice]) -> nn.Module:
    """The given network with all of these, fitted one behind the other; kept, so that it is fitted once.

    Without trained weights their weights are only carried over.
    """
    untrained = task.subject.learning is None
    network = rewritten(task.subject.network, [one for choice in taken for one in choice.rewrites], carry=untrained)
    if untrained:
        return network
    names = repr([(choice.rule, choice.at) for choice in taken])
    path = task.run.path("steps", f"together_{hashlib.sha256(names.encode()).hexdigest()[:12]}.safetensors")
    if not path.exists():
        state = fitted(task, taken)[0].state_dict()
        write_bytes(path, save({name: value.contiguous().clone() for name, value in state.items()}))  # some are tied
    network.load_state_dict(load_file(path))
    return network.eval()


def score_given(task: Task) -> list[float]:
    """The given network's score and its standard error, found out once; recalibrated as every candidate is."""

    def scored() -> list[float]:
        network = copy.deepcopy(task.subject.network)
        recalibrate(network, norm_pictures(task))
        return _scored(task, network, RESAMPLES)

    return task.run.once("score_given", scored)


def norm_pictures(task: Task) -> Iterable[torch.Tensor]:
    """Training pictures that batch norms are recalibrated on: so many that the given network loses nothing by it.

    Where none are enough it is told, and replacements are judged on all of them: their new norms need statistics.
    """
    learning, asked = task.subject.learning, task.recipe.rewriting
    assert learning is not None

    def needed() -> int:
        inputs = first_inputs(learning.estimator, learning.sets.train, PICTURES, torch.device("cpu"))
        found = enough_pictures(task.subject.network, inputs, asked.calibration, partial(judged, task))
        if not found:
            task.progress.say(f"recalibrating batch norms on {PICTURES} training pictures costs more than a point")
        return sum(len(batch) for batch in found) or PICTURES

    wanted = task.run.once("norm_pictures", needed)
    return first_inputs(learning.estimator, learning.sets.train, wanted, torch.device("cpu"))


def judged(task: Task, network: nn.Module) -> float:
    """The main figure on the search pictures."""
    return _scored(task, network, 0)[0]


def _scored(task: Task, network: nn.Module, resamples: int) -> list[float]:
    """The main figure on the search pictures and, of so many resamples, its standard error; 0 of none."""
    learning = task.subject.learning
    assert learning is not None
    network.to(task.fabric.device)
    found = score(
        network,
        learning.estimator,
        learning.sets.search,
        kind=learning.data.kind,
        provenance="rewritten, not tuned",
        flip_test=False,
        resamples=resamples,
    )
    network.cpu()
    return [found.value or 0.0, found.standard_error or 0.0]


# --- The decision ----------------------------------------------------------------------------------------------------


def decide(task: Task, choices: Sequence[Choice], rows: Sequence[Row]) -> Row:
    """What is taken, why the others are not, and what the taken ones lose together before fine-tuning.

    taken: numbers of choices. refused: number → reason. joint_loss: None without trained weights. Where the taken lose
    more together than max_loss, the one of most loss per time saved goes, and what it displaced may come, until they
    do not. score_error: the standard error of the given network's score, on judged_on pictures.
    """
    asked, learning = task.recipe.rewriting, task.subject.learning
    refused = refusals(rows, asked.min_gain, asked.max_loss)
    open_to = sorted(set(range(len(rows))) - set(refused))
    taken = select(choices, rows, open_to, asked.max_loss)
    joint, before = None, score_given(task) if learning else [0.0, 0.0]
    while learning and taken:
        with task.progress.phase(f"trying {len(taken)} together", 1) as phase:
            joint = before[0] - judged(task, together(task, [choices[n] for n in taken]))
            phase.advance(1, f"{joint:+.3f} lost")
        if joint <= asked.max_loss:
            break
        worst = max(taken, key=lambda n: rate(rows[n]))
        refused[worst] = f"together the score lost {joint:.3f}, allowed {asked.max_loss:g}; this one most for its gain"
        open_to = [n for n in open_to if n != worst and (n in taken or choices[n].overlaps(choices[worst]))]
        taken, joint = select(choices, rows, open_to, asked.max_loss), None
    for number in set(range(len(rows))) - set(refused) - set(taken):
        rival = next((n for n in taken if choices[n].overlaps(choices[number])), None)
        refused[number] = (
            f"with {choices[rival].rule} there more is gained in all"
            if rival is not None
            else f"it loses {rows[number].get('loss', 0.0):.3f} of the score, and others gain more for what is allowed"
        )
    return {
        "taken": taken,
        "refused": {str(n): why for n, why in sorted(refused.items())},
        "joint_loss": joint,
        "score_error": before[1] if learning else None,
        "judged_on": len(learning.sets.search) if learning else 0,
    }


def refusals(rows: Sequence[Row], min_gain: float, max_loss: float) -> dict[int, str]:
    """Choices that fail by themselves → why."""
    refused = {}
    for number, row in enumerate(rows):
        if "failure" in row:
            refused[number] = row["failure"]
        elif "gain" not in row:
            refused[number] = f"predicted to save {row['predicted_ms']:.3f} ms, too little to be worth measuring"
        elif row["gain"] < min_gain:
            refused[number] = f"saves {row['gain']:.1%} of the time, asked {min_gain:.1%}"
        elif row.get("loss", 0.0) > max_loss:
            refused[number] = f"alone it loses {row['loss']:.3f} of the score, allowed {max_loss:g}"
    return refused


def select(choices: Sequence[Choice], rows: Sequence[Row], open_to: Sequence[int], max_loss: float) -> list[int]:
    """The numbers, rising, of those choices that save most in all and lose no more than max_loss in all.

    Gains and losses add up as they are of each alone; a gain in score counts as nothing lost. Overlapping choices
    exclude one another. Of equal savings the least loss is taken. Exact, by SciPy's mixed-integer program (HiGHS).
    """
    if not open_to:
        return []
    gain = np.array([rows[n]["gain"] for n in open_to])
    loss = np.array([max(0.0, rows[n].get("loss", 0.0)) for n in open_to])
    limits = [LinearConstraint(loss, ub=max_loss)]
    clashes = [
        (a, b) for (a, one), (b, other) in combinations(enumerate(open_to), 2) if choices[one].overlaps(choices[other])
    ]
    if clashes:
        excluded = np.zeros((len(clashes), len(open_to)))
        excluded[np.repeat(np.arange(len(clashes)), 2), np.ravel(clashes)] = 1
        limits.append(LinearConstraint(excluded, ub=1))
    found = milp(
        1e-6 * loss - gain, integrality=np.ones(len(open_to), np.int64), bounds=Bounds(0, 1), constraints=limits
    )
    if found.x is None:
        raise AssertionError(f"taking nothing is always possible, yet: {found.message}")
    return [n for n, taken in zip(open_to, found.x, strict=True) if taken > 0.5]


def rate(row: Row) -> float:
    """Score lost per share of the time saved; a gain in score counts as nothing lost."""
    return max(0.0, float(row.get("loss", 0.0))) / max(float(row["gain"]), 1e-6)
