"""What every edit of a given network does alone: the time it takes then, and how far its maps move.

A score would be the nearer figure, but half of a part's channels often cost less of it than some hundred pictures can
tell, and after a short tuning nearly nothing at all. The maps themselves move with every edit, need no labels, and no
pictures are lost to chance.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from compress.artefacts.records import read_records, to_plain
from compress.artefacts.results import SingleEdit
from compress.artefacts.run import Run
from compress.files import append_line
from compress.jobs.search.proposals import allocated
from compress.jobs.search.task import Calibration, Task, edits_alone
from compress.jobs.search.trials import Limits, Models, Weights, cost_of
from compress.nas.space import Pick, pick_key
from compress.pose.approaches import approach_of
from compress.training.recalibration import recalibrate

FILE = "single_edits.jsonl"
"""In the run folder."""
_MODES = {3: "linear", 4: "bilinear"}
"""Of torch's interpolation, by the dimensions of a map: vectors and pictures."""
_NOTHING = 1e-12  # in place of the power of maps that are all zero everywhere
_LEAST_POWER = 0.01
_WORST = 1e6


def first_picks(task: Task, models: Models, weights: Weights, budget: Limits) -> list[Pick]:
    """What a search around a given network tries first: see compress.jobs.search.proposals. None of another search."""
    if not task.candidates.start:
        return []
    (given,) = task.baselines.values()
    known: dict[str, float | None] = {}

    def excess(pick: Pick) -> float | None:
        key = pick_key(pick)
        if key not in known:
            known[key] = budget.excess(cost_of(task, pick, models))
        return known[key]

    return allocated(task.space, given, measured_edits(task, models, weights), excess)


def measured_edits(task: Task, models: Models, weights: Weights) -> list[SingleEdit]:
    """Every single edit that is tried; each is kept as soon as it is known, and a killed search goes on."""
    wanted, file = edits_alone(task), task.run.path(FILE)
    known = {(one.path, one.value): one for one in read_single_edits(task.run)}
    missing = [one for one in wanted if one not in known]
    with task.progress.phase("single edits", len(wanted)) as phase:
        phase.advance(len(wanted) - len(missing))
        if missing:
            alone = _Alone(task, models, weights)
            for path, value in missing:
                one = known[path, value] = alone.edit(path, value)
                append_line(file, to_plain(one))
                phase.advance(1, f"{path}, {value}: {one.share:.1%} of the time, maps {one.error:.1%} off")
    return [known[one] for one in wanted]


class _Alone:
    """The given network, and what single edits make of it."""

    def __init__(self, task: Task, models: Models, weights: Weights) -> None:
        self._task, self._model, self._calibration = task, next(iter(models.values())), Calibration(task)
        (self._given,) = task.baselines.values()
        self._network, images = weights(self._given), self._images(self._given)
        recalibrate(self._network, images)
        self._maps, self._ms = list(self._maps_of(self._network, images)), self._ms_of(self._network, self._given)

    def edit(self, path: str, value: float | str) -> SingleEdit:
        """See SingleEdit."""
        pick = {**self._given, path: value}
        images = self._images(pick)
        edited = self._task.candidates.edited(pick, self._network, images, 0, self._task.recipe.seed, check=False)
        recalibrate(edited.network, images)
        error = map_error(self._maps_of(edited.network, images), self._maps)
        return SingleEdit(path, value, self._ms_of(edited.network, pick) / self._ms, error)

    def _images(self, pick: Pick) -> list[Tensor]:
        """The first batch of the calibration pictures: statistics of one batch are exact."""
        return self._calibration.images(pick)[:1]

    def _ms_of(self, network: nn.Module, pick: Pick) -> float:
        model, size = self._model, self._task.candidates.input_hw(pick)
        return model.latency(self._task.for_engine(network, model.target.engine), size).ms

    def _maps_of(self, network: nn.Module, images: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
        """The outputs that are decoded, of one batch after the other."""
        used = slice(-1, None) if approach_of(self._task.architecture).in_stages else slice(None)
        for batch in images:
            with torch.no_grad():
                maps = tuple(one.float().cpu() for one in network(batch)[used])
            yield maps


def map_error(maps: Iterable[Sequence[Tensor]], whole: Iterable[Sequence[Tensor]]) -> float:
    """Squared difference over squared value, each summed over pictures and places, the mean over maps and outputs.

    maps: of the edited network, of every batch its outputs [B,K,...]. whole: the given network's, whose size the others
    are brought to. A map that is nearly zero everywhere is compared with a hundredth of what all of its output have in
    the mean. At most 1e6, as where numbers are no longer finite.
    """
    lost: dict[int, Tensor] = {}
    power: dict[int, Tensor] = {}
    for own, given in zip(maps, whole, strict=True):
        for number, (one, other) in enumerate(zip(own, given, strict=True)):
            if one.shape != other.shape:
                one = interpolate(one, size=other.shape[2:], mode=_MODES[one.ndim], align_corners=False)
            places = (0, *range(2, one.ndim))
            lost[number] = lost.get(number, 0.0) + (one - other).square().sum(places)
            power[number] = power.get(number, 0.0) + other.square().sum(places)
    errors = [
        (lost[number] / power[number].clamp(min=max(_NOTHING, _LEAST_POWER * float(power[number].mean())))).mean()
        for number in lost
    ]
    found = float(torch.stack(errors).mean())
    return min(found, _WORST) if math.isfinite(found) else _WORST


def read_single_edits(run: Run) -> list[SingleEdit]:
    """The lines of the run's file. Raises RunError for a broken one."""
    return read_records(run.path(FILE), SingleEdit)
