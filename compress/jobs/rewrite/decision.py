"""Which choices are made: those that save most time in all, within what may be lost of the score."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from compress.artefacts.results import Decision, RewriteChoice
from compress.jobs.rewrite.choice import Task, overlap
from compress.jobs.rewrite.effect import judged, score_given, together


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
