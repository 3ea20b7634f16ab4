"""`torchrun ... compress search`: what the other processes do.

They train the supernet and tune the finalists in lockstep with the first process, each on its part of every batch. All
else is the first one's: latency table, trials, scores, exports, measurements. Until it is that far the others look for
its files, for a collective operation would give up waiting in minutes.
"""

import time
from dataclasses import replace

from compress.artefacts.results import Trial
from compress.jobs.search.finalists import tune_together
from compress.jobs.search.task import Task
from compress.jobs.search.trials import trained_weights
from compress.training.processes import world_size

NAMED = "named"
"""The step whose result the finalists' tuning begins with."""
_PRICED = "priced.txt"
_POLL_S = 0.2


def announce_supernet(task: Task) -> None:
    """Tells the others, if there are any, that the training of the supernet begins."""
    if world_size() > 1:
        path = task.run.path("steps", _PRICED)
        path.parent.mkdir(exist_ok=True)
        path.touch()


def assist(task: Task) -> None:
    """The part of a process that is not the first one. torchrun ends it if that one fails."""
    task, run = replace(task, beside=True), task.run
    _wait_for(task, _PRICED)
    weights, _ = trained_weights(task)
    _wait_for(task, f"{NAMED}.json")
    if not run.path("steps", "tuned.json").exists():
        tune_together(task, weights, run.once(NAMED, dict, dict[str, Trial]))


def _wait_for(task: Task, name: str) -> None:
    while not task.run.path("steps", name).exists():
        time.sleep(_POLL_S)
