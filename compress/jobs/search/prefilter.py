"""The zero-cost filter of a search: proposals that are not evaluated, and whether the proxy was worth its word.

A proposal's figure is compared with those of the proposals of like cost so far, each less what its cost explains there:
figures grow with the network, and small ones would all be passed over. All figures lie in `proxies.jsonl`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from compress.artefacts.records import read_records, to_plain
from compress.artefacts.results import ProxyAgreement, Trial
from compress.artefacts.run import Run
from compress.files import append_line
from compress.jobs.search.task import Calibration, Task
from compress.measure.cost import Cost
from compress.nas.bench import rank_correlation
from compress.nas.space import Pick, pick_key
from compress.nas.zero_cost import PROXIES

LIKE = 20
"""Proposals of the nearest cost that one is compared with."""
FEWEST = 8
"""Proposals before any is passed over."""
PICTURES = 16
"""Training pictures that a proxy sees."""


@dataclass(frozen=True)
class ProxyValue:
    """A line of `proxies.jsonl`: a proposal's figure."""

    pick: Mapping[str, object]
    value: float


class Prefilter:
    """Which proposals are evaluated. Deterministic in the order of proposals, so that a resumed search decides alike.

    calibration: training pictures, at the input size of every proposal.
    """

    def __init__(self, task: Task, calibration: Calibration) -> None:
        self._task, self._settings, self._calibration = task, task.recipe.search.zero_cost, calibration
        self._values = {pick_key(one.pick): one.value for one in read_proxies(task.run)}
        self._seen: dict[str, bool] = {}
        self._priced: list[tuple[float, float]] = []

    def passes(self, pick: Pick, cost: Cost, *, always: bool) -> bool:
        """Whether the proposal is evaluated. always: it is, whatever its figure, which counts for others.

        Raises NetworkError where the proxy has no figure for the network.
        """
        if self._settings.proxy is None:
            return True
        key = pick_key(pick)
        if key not in self._seen:
            own, at = self._value(pick), math.log(cost.of(self._task.recipe.search.objectives[0]))
            few = len(self._priced) < FEWEST
            self._seen[key] = always or few or share_below(at, own, self._priced) >= self._settings.quantile
            self._priced.append((at, own))
        return self._seen[key]

    def _value(self, pick: Pick) -> float:
        """The figure of the candidate's network before any training."""
        key = pick_key(pick)
        if key not in self._values:
            self._values[key] = proxy_value(self._task, pick, self._calibration)
            append_line(self._task.run.path("proxies.jsonl"), to_plain(ProxyValue(pick, self._values[key])))
        return self._values[key]


def share_below(at: float, own: float, priced: Sequence[tuple[float, float]]) -> float:
    """Which share of the LIKE proposals of nearest cost have smaller figures, each less the line through all of them.

    at, own: logarithm of the cost, and figure; priced: those of the others.
    """
    costs, values = np.array(sorted(priced, key=lambda other: abs(other[0] - at))[:LIKE]).T
    apart = costs - costs.mean()
    slope = float(apart @ values / (apart @ apart)) if apart.any() else 0.0
    return float(np.mean(values - slope * costs < own - slope * at))


def proxy_agreement(task: Task, trials: Sequence[Trial]) -> ProxyAgreement | None:
    """How the proxy, and multiply-adds, order the evaluated trials beside their scores; None without a proxy.

    Trials whose training was stopped early are left out.
    """
    name = task.recipe.search.zero_cost.proxy
    if name is None:
        return None
    values = {pick_key(one.pick): one.value for one in read_proxies(task.run)}
    whole = [trial for trial in trials if not trial.stopped]
    scores = [trial.value for trial in whole]
    return ProxyAgreement(
        name,
        proposals=len(values),
        passed_over=len(values.keys() - {pick_key(trial.pick) for trial in trials}),
        trials=len(whole),
        tau=_tau([values[pick_key(trial.pick)] for trial in whole], scores),
        tau_macs=_tau([trial.cost.macs for trial in whole], scores),
    )


def check_proxy(task: Task) -> None:
    """Raises NetworkError, before any work, where the proxy has no figure for the smallest or the largest candidate."""
    if task.recipe.search.zero_cost.proxy:
        calibration = Calibration(task)
        for pick in (task.space.smallest, task.space.largest):
            proxy_value(task, pick, calibration)


def proxy_value(task: Task, pick: Pick, calibration: Calibration) -> float:
    """The recipe's proxy of the candidate's structure with initial weights; around a given network with its own, and
    replaced operators not fitted."""
    name = task.recipe.search.zero_cost.proxy
    assert name is not None
    images = torch.cat([batch.cpu() for batch in calibration.images(pick)])[:PICTURES]
    torch.manual_seed(task.recipe.seed)
    return PROXIES[name](task.candidates.build(pick).cpu(), images)


def read_proxies(run: Run) -> list[ProxyValue]:
    """The lines of `proxies.jsonl`. Raises RunError for a broken one."""
    return read_records(run.path("proxies.jsonl"), ProxyValue)


def _tau(one: Sequence[float], other: Sequence[float]) -> float | None:
    """None where there is no order, as of fewer than three or all equal."""
    found = rank_correlation(one, other) if len(one) > 2 else math.nan
    return None if math.isnan(found) else found
