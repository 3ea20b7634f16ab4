"""Which operators are replaced: what every replacement gains in measured time and costs in accuracy, site by site.

A *choice* is a rule and the sites that are decided together: one module, or all of a part of the network where a rule
has very many. Every choice is first priced from the latency table, then timed as a network of its own beside the given
one; its weights are carried over and fitted to what the module answered; the score with only this choice changed says
what it loses. What is taken gains most per point lost, within the limit, and is tried together.
"""

import hashlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import nn

from compress import changing
from compress.artefact import FUNCTIONS_AS_MODULES, edited, give_weights
from compress.deployment import complete_table, table_path, time_runners
from compress.engines import engine
from compress.errors import EngineError, NetworkError
from compress.evaluation import MAIN_FIGURE, score
from compress.files import write_bytes
from compress.measure.counting import count
from compress.measure.harvest import harvest
from compress.measure.latency_table import Identity, LatencyTable, open_table, predict
from compress.measure.timing import pinned
from compress.measure.units import cut
from compress.people import first_inputs
from compress.prune.structured import difference
from compress.recalibration import recalibrate
from compress.recipe import RewriteRecipe
from compress.rewrite.carry import fit_sites
from compress.rewrite.functions import as_modules
from compress.rewrite.rules import RULES
from compress.rewrite.sites import Rewrite, rewritten, rule_named, sites
from compress.subject import Subject

_SAME = 1e-4  # relative: x·sigmoid(x) as one operator is rounded otherwise

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
    image = torch.randn(1, 3, *subject.input_hw, generator=torch.Generator().manual_seed(0))
    try:
        error = difference(subject.network, network, image)
    except Exception as raised:  # a forward that was traced wrongly may raise anything
        return f"as modules they would fail, {type(raised).__name__}: {raised}"
    return None if error < _SAME else f"as modules they would change the outputs by {error:.2g}"


def _site_count(network: nn.Module, recipe: RewriteRecipe) -> int:
    """Modules that the rules asked for replace, over all rules."""
    return sum(len(choice.at) for choice in choices_of(network, recipe))


def check_request(subject: Subject, recipe: RewriteRecipe) -> None:
    """Raises RecipeError for an unknown rule, and for a pattern that no module has."""
    for name in recipe.rewriting.rules:
        rule_named(name)
    changing.check_patterns(subject.network, recipe.rewriting.sites, "a pattern of sites", "rewriting.sites")


def choices_of(network: nn.Module, recipe: RewriteRecipe) -> list[Choice]:
    """Every rule's sites among those asked for, in the order of rules and modules; empty where no rule has one."""
    asked = recipe.rewriting
    found = []
    for name in asked.rules or RULES:
        paths = [one.at for one in sites(network, rule_named(name))]
        paths = [path for path in paths if any(fnmatchcase(path, pattern) for pattern in asked.sites)]
        found += [Choice(name, group, tuple(at)) for group, at in grouped(paths, asked.groups).items()]
    return found


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
    """Per choice: macs, predicted_ms that it saves, and measured_ms where the prediction is worth a measurement.

    Times are on the latency table's clock. reliable: both timings were steady. gain: share of the given network's time
    that is saved, as measured, or as predicted where the timings were not steady. failure: why a rewritten network
    cannot run on the engine.
    """
    recipe, subject = task.recipe, task.subject
    runtime = engine(recipe.engine)
    given, macs = subject.network, count(subject.network, subject.input_hw).macs
    rows: list[Row] = [{"rule": choice.rule, "name": choice.name, "at": list(choice.at)} for choice in choices]
    with task.progress.phase("pricing replacements", len(choices)) as phase:
        table = table_for(task, choices)
        before = predicted_ms(task, table, given)
        for number, choice in enumerate(choices):
            try:
                network = rewritten(given, choice.rewrites, carry=False)
                rows[number] |= {
                    "macs": count(network, subject.input_hw).macs - macs,
                    "predicted_ms": before - predicted_ms(task, table, network),
                }
            except (EngineError, NetworkError) as error:
                rows[number]["failure"] = str(error)
            phase.advance(1, choice.name)
    worth = [n for n, row in enumerate(rows) if row.get("predicted_ms", 0.0) > recipe.rewriting.min_gain * before / 2]
    if not worth:
        return rows
    with tempfile.TemporaryDirectory() as folder:
        runners = {"given": runtime.load(exported(task, given, Path(folder), "netgiven"), recipe.threads)}
        for number in worth:
            file = exported(task, rewritten(given, choices[number].rewrites), Path(folder), f"net{number}")
            runners[str(number)] = runtime.load(file, recipe.threads)
        timings = time_runners(runners, subject.input_hw, recipe)
    assert table.reference_ms is not None
    for number in worth:
        before_it, after_it = timings["given"], timings[str(number)]
        saved = before_it.ratio - after_it.ratio
        reliable = before_it.reliable and after_it.reliable
        gain = saved / before_it.ratio if reliable else rows[number]["predicted_ms"] / before
        rows[number] |= {"measured_ms": saved * table.reference_ms, "reliable": reliable, "gain": gain}
    return rows


def table_for(task: Task, choices: Sequence[Choice]) -> LatencyTable:
    """This machine's table of the engine, with the units of the given network and of it with each rule everywhere."""
    recipe, subject = task.recipe, task.subject
    runtime = engine(recipe.engine)
    identity = Identity.of(runtime.describe(), recipe.threads)
    table = open_table(table_path(identity), identity)
    everywhere: dict[str, list[Rewrite]] = {"given": []}
    for choice in choices:
        everywhere.setdefault(choice.rule, []).extend(choice.rewrites)

    def export(rule: str) -> Path:
        return exported(task, rewritten(subject.network, everywhere[rule], carry=False), Path(folder), f"all_{rule}")

    with pinned(recipe.threads), tempfile.TemporaryDirectory() as folder:
        for rule in everywhere:
            try:
                harvest(table, runtime, {rule: partial(export, rule)})
            except EngineError:
                if rule == "given":
                    raise
                # else every choice of the rule is tried by itself and says why it fails
    table.save()
    return table


def exported(task: Task, network: nn.Module, folder: Path, name: str) -> Path:
    """The engine's file of the network."""
    return engine(task.recipe.engine).export(network, task.subject.input_hw, folder, name)[0]


def predicted_ms(task: Task, table: LatencyTable, network: nn.Module) -> float:
    """From the table; what it lacks is measured first. Raises EngineError if the engine cannot run the network."""
    units = cut(network, task.subject.input_hw, engine(task.recipe.engine))
    complete_table(table, units)
    return predict(table, units).ms


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
    return {"errors": errors, "loss": score_given(task) - judged(task, network)}


def fitted(task: Task, choices: Sequence[Choice]) -> tuple[nn.Module, list[Row]]:
    """The given network with these choices' replacements, fitted and recalibrated; and their output errors.

    Raises NetworkError for a module that cannot be listened to, or a replacement of another shape.
    """
    asked = task.recipe.rewriting
    pictures = list(calibration(task))
    network, errors = fit_sites(
        task.subject.network, [one for choice in choices for one in choice.rewrites], pictures,
        limit=asked.calibration, steps=asked.steps, seed=task.subject.seed,
    )  # fmt: skip
    recalibrate(network, pictures)
    return network, [{"at": path, **asdict(found)} for path, found in errors.items()]


def calibration(task: Task) -> Iterable[torch.Tensor]:
    """Training pictures as evaluation sees them."""
    learning = task.subject.learning
    assert learning is not None
    return first_inputs(learning.finder, learning.sets.train, task.recipe.rewriting.calibration, torch.device("cpu"))


def together(task: Task, taken: Sequence[Choice]) -> nn.Module:
    """The given network with all of these, fitted one behind the other; kept, so that it is fitted once.

    Without trained weights their weights are only carried over.
    """
    untrained = task.subject.learning is None
    network = rewritten(
        task.subject.network, [one for choice in taken for one in choice.rewrites], carry=untrained
    )  # fmt: skip
    if untrained:
        return network
    names = repr([(choice.rule, choice.at) for choice in taken])
    path = task.run.path("steps", f"together_{hashlib.sha256(names.encode()).hexdigest()[:12]}.safetensors")
    if not path.exists():
        write_bytes(
            path, save({name: value.contiguous() for name, value in fitted(task, taken)[0].state_dict().items()})
        )
    network.load_state_dict(load_file(path))
    return network.eval()


def score_given(task: Task) -> float:
    """The given network's score, found out once."""
    return task.run.once("score_given", partial(judged, task, task.subject.network))


def judged(task: Task, network: nn.Module) -> float:
    """The main figure on the search pictures."""
    learning = task.subject.learning
    assert learning is not None
    network.to(task.fabric.device)
    found = score(network, learning.finder, learning.sets.search, kind=learning.data.kind, flip_test=False)
    network.cpu()
    return float(found[MAIN_FIGURE[learning.data.kind]] or 0.0)


# --- The decision ----------------------------------------------------------------------------------------------------


def decide(task: Task, choices: Sequence[Choice], rows: Sequence[Row]) -> Row:
    """What is taken, why the others are not, and what the taken ones lose together before fine-tuning.

    taken: numbers of choices. refused: number → reason. joint_loss: None without trained weights. Where the taken lose
    more together than max_loss, the one of most loss per time saved goes, until they do not.
    """
    asked = task.recipe.rewriting
    trained = task.subject.learning is not None
    refused = refusals(rows, asked.min_gain, asked.max_loss)
    taken, clashes = select(choices, rows, refused, asked.max_loss)
    refused |= clashes
    joint = None
    before = score_given(task) if trained else 0.0
    with task.progress.phase("trying them together", max(1, len(taken))) as phase:
        while trained and taken:
            joint = before - judged(task, together(task, [choices[n] for n in sorted(taken)]))
            phase.advance(1, f"{joint:+.3f} lost by {len(taken)}")
            if joint <= asked.max_loss:
                break
            worst = max(taken, key=lambda n: rate(rows[n]))
            taken = [n for n in taken if n != worst]
            refused[worst] = (
                f"together the score lost {joint:.3f}, allowed {asked.max_loss:g}; this one most for its gain"
            )
            joint = None
    return {"taken": sorted(taken), "refused": {str(n): why for n, why in sorted(refused.items())}, "joint_loss": joint}


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


def select(
    choices: Sequence[Choice], rows: Sequence[Row], refused: Mapping[int, str], max_loss: float
) -> tuple[list[int], dict[int, str]]:
    """Choices by least loss per time saved, as long as their losses add up to no more; and why others are not.

    Of choices that lose nothing the one that saves most comes first. Overlapping ones exclude one another.
    """
    taken: list[int] = []
    left_out: dict[int, str] = {}
    spent = 0.0
    for number in sorted(set(range(len(rows))) - set(refused), key=lambda n: (rate(rows[n]), -rows[n]["gain"])):
        rival = next((n for n in taken if choices[n].overlaps(choices[number])), None)
        loss = max(0.0, rows[number].get("loss", 0.0))
        if rival is not None:
            left_out[number] = f"{choices[rival].rule} is better there"
        elif spent + loss > max_loss:
            left_out[number] = f"with those before it {spent + loss:.3f} of the score would go, allowed {max_loss:g}"
        else:
            taken.append(number)
            spent += loss
    return taken, left_out


def rate(row: Row) -> float:
    """Score lost per share of the time saved; a gain in score counts as nothing lost."""
    return max(0.0, float(row.get("loss", 0.0))) / max(float(row["gain"]), 1e-6)
