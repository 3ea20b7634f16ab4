"""The latency table of a search space: few candidates that together have its kernels, and a scale on whole networks."""

import hashlib
import json
import random
import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from itertools import islice, product
from pathlib import Path

from torch import nn

from compress.engines import Engine
from compress.errors import TableError
from compress.files import write_json
from compress.measure.in_network import cover, cover_most, profile_in_networks
from compress.measure.kept_tables import keep, table_path, top_up
from compress.measure.kernels import Kernel, detect_kernels
from compress.measure.latency_model import LatencyModel, identity_of, load, open_model, runtime_of
from compress.measure.latency_table import LatencyTable, Scale, fit_scale, load_table, open_table
from compress.measure.target import Target
from compress.measure.timing import pinned
from compress.measure.whole_networks import time_runners
from compress.nas.space import INPUT_SIZE, Pick, Space, pick_key
from compress.networks import architecture_from_data
from compress.networks.architecture import without_values
from compress.progress import Progress

SCALE_NETWORKS = 6
"""Whole networks that the table's scale is fitted on."""
_CORNER_LIMIT = 400
_RANDOM_PICKS = 32  # beside the corners


BuildPick = Callable[[Pick], nn.Module]
"""A pick's network, of any weights, on torch's default device or on the CPU."""


def prepare_table(
    path: Path,
    target: Target,
    rounds: int,
    space: Space,
    build: BuildPick,
    input_hw: tuple[int, int],
    seed: int,
    progress: Progress,
) -> LatencyTable:
    """The table at `path` (a run's own), with every kernel the space can produce and a scale fitted on whole networks.

    A resumed run has its own table, kernels and scale. A new one starts from what this machine's kept table knows,
    measures only what is missing or uncertain, in whole candidates, and adds it to the kept one. Of another device the
    target's table is copied as it is. rounds: timings of whole networks. Raises TableError if whole networks and their
    kernels do not go together, see fit_scale.
    """
    if target.foreign:
        table = open_model(target).table if not path.exists() else load_table(path)
        table = replace(table, path=path)
        table.save()
        return table
    identity = identity_of(target)
    table = open_table(path, identity)
    if table.scale is not None:  # what the run began with; the machine's kept table may have become another
        return table
    kept = table_path(identity)
    if not path.exists() and kept.exists():
        # Without the scale of `compress latency build`: a run that is killed here would go on with it.
        table = replace(open_table(kept, identity), path=path, scale=None)
        table.save()
    top_up(table, kept)
    known_scale = _kept_scale(kept, space, build, input_hw)
    table.scale = _read_scale(known_scale, table)
    if table.scale is not None:
        table.save()
        return table
    for again in (
        False,
        True,
    ):  # where whole networks and kernels contradict each other, all kernels are timed anew, once
        _measure_kernels(table, target, space, build, input_hw, seed, progress, again)
        keep(table, again)
        try:
            fitted_on = _fit(table, target, rounds, space, build, input_hw, seed, progress)
            break
        except TableError:
            if again:
                raise
    table.save()
    assert table.scale is not None
    # What a later load of the same file was optimised to may differ: such kernels stay estimates.
    ratios = {key: table.kernels[key].timing.ratio for key in sorted(fitted_on & table.kernels.keys())}
    write_json(known_scale, {**asdict(table.scale), "reference_ms": table.reference_ms, "kernels": ratios})
    return table


def _measure_kernels(
    table: LatencyTable,
    target: Target,
    space: Space,
    build: BuildPick,
    input_hw: tuple[int, int],
    seed: int,
    progress: Progress,
    again: bool,
) -> None:
    """Times the space's kernels that the table does not know, or all of them anew."""
    runtime = runtime_of(target)
    chosen = covering(space, input_hw, seed, progress, runtime, () if again else table.known(), build)
    with (
        progress.phase("latency table", len(chosen)) as phase,
        pinned(target.local_threads),
        tempfile.TemporaryDirectory() as exports,
    ):
        files = {
            f"candidate {number} of {len(chosen)}": _exporting(
                partial(build, pick), target, space.input_hw(pick, input_hw), Path(exports)
            )
            for number, pick in enumerate(chosen, 1)
        }
        profile_in_networks(table, runtime, files, progress=lambda name: phase.advance(1, name), again=again)


def covering(
    space: Space,
    input_hw: tuple[int, int],
    seed: int,
    progress: Progress,
    runtime: Engine,
    known: Collection[str] = (),
    build: BuildPick | None = None,
) -> list[Pick]:
    """Few candidates that together have almost every kernel the space can produce, several times each.

    Of edited networks, whose kernels are mostly rare (shares of channels of two neighbouring parts make one each),
    those that do most of the work; see cover_most.

    runtime: whose kernels; of an engine that cannot tell them without an export of every pick, those of onnxruntime
    stand for them, as they follow the same layers. known: keys of kernels that need not be among them. Kernels that
    only combinations of different branches produce may be missing. build: None takes the pick's architecture as it is,
    without edits.
    """
    choose = cover_most if build and space.edits else cover
    build = build or (lambda pick: architecture_from_data(space.apply(pick), "search space").build())
    rng = random.Random(seed)
    drawn = [*_corner_picks(space), *(space.sample(rng) for _ in range(_RANDOM_PICKS))]
    picks = list({pick_key(pick): pick for pick in drawn}.values())
    with without_values():
        told = runtime.kernels_by_part(build(picks[0]), input_hw) is not None
    detect = partial(detect_kernels, runtime=runtime) if told else detect_kernels
    kernels: dict[int, set[Kernel]] = {}
    with progress.phase("choosing candidates to time", len(picks)) as phase:
        for number, pick in enumerate(picks):
            with without_values():
                network = build(pick)
            found = detect(network, space.input_hw(pick, input_hw))
            kernels[number] = {kernel for kernel in found if kernel.key not in known}
            phase.advance(1)
    return [picks[number] for number in choose(kernels)]


def _corner_picks(space: Space) -> Iterator[Pick]:
    """Choices that differ only in an index (the branches' block kinds, say) take the same place in their lists.

    Every combination of places is there; of counts the first and the last. Edits come one at a time, at both ends.
    """
    for pick in (space.smallest, space.largest):
        for edit in space.edits:
            yield from ({**pick, **space.unedited, edit.path: value} for value in edit.values)
    groups: dict[str, list[str]] = {}
    for path in (*space.architectures.choices, *({INPUT_SIZE} & space.choices.keys())):
        groups.setdefault(re.sub(r"\b\d+\b", "*", path), []).append(path)
    places = []
    for pattern, paths in groups.items():
        longest = max(len(space.choices[path]) for path in paths)
        ends = sorted({0, longest - 1})
        places.append(ends if pattern.startswith("blocks") else list(range(longest)))
    for combination in islice(product(*places), _CORNER_LIMIT):
        chosen = {
            path: space.choices[path][min(place, len(space.choices[path]) - 1)]
            for place, paths in zip(combination, groups.values(), strict=True)
            for path in paths
        }
        yield {**space.unedited, **chosen}


def _exporting(
    build: Callable[[], nn.Module], target: Target, input_hw: tuple[int, int], folder: Path
) -> Callable[[], Path]:
    return lambda: runtime_of(target).export(build(), input_hw, folder, "candidate")[0]


def _fit(
    table: LatencyTable,
    target: Target,
    rounds: int,
    space: Space,
    build: BuildPick,
    input_hw: tuple[int, int],
    seed: int,
    progress: Progress,
) -> set[str]:
    """Fits the scale on a few whole candidates; returns their kernels' keys. Raises TableError if it is beyond use."""
    rng = random.Random(seed)
    picks = [space.largest, *(space.sample(rng) for _ in range(SCALE_NETWORKS - 1))]
    samples: list[tuple[Mapping[Kernel, int], float]] = []
    with progress.phase("latency scale", len(picks)) as phase, tempfile.TemporaryDirectory() as folder:
        runners, kernels, sizes = {}, {}, {}
        for number, pick in enumerate(picks):
            network, size = build(pick), space.input_hw(pick, input_hw)
            files = runtime_of(target).export(network, size, Path(folder), f"scale{number}")
            runners[str(number)] = load(target, files[0])
            kernels[str(number)] = LatencyModel(target, runtime_of(target), table).kernels(network, size)
            sizes[str(number)] = size
            phase.advance(1)
        timings = time_runners(runners, sizes, target.local_threads, rounds)
    assert table.reference_ms is not None
    for name, timing in timings.items():
        samples.append((kernels[name], timing.ratio * table.reference_ms))
    fit_scale(table, samples)
    return {kernel.key for found in kernels.values() for kernel in found}


def _kept_scale(kept: Path, space: Space, build: BuildPick, input_hw: tuple[int, int]) -> Path:
    """Where the scale for this space and input size is kept beside the table; where there are edits, for the shapes of
    what they start from as well."""
    parts = [space.base, {path: list(values) for path, values in space.choices.items()}, list(input_hw)]
    if space.edits:
        state = build({**space.largest, **space.unedited}).state_dict()
        parts += [[asdict(edit) for edit in space.edits], {name: list(one.shape) for name, one in state.items()}]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
    return kept.with_name(f"{kept.stem}-scale-{key}.json")


def _read_scale(path: Path, table: LatencyTable) -> Scale | None:
    """The kept scale, if it was fitted on what the table has: the same clock, and the same ratios of its kernels."""
    if not path.exists() or not table.kernels:
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        ratios = {key: entry.timing.ratio for key, entry in table.kernels.items()}
        fitted_on = data.pop("kernels", None)  # files of older versions do not say
        same = data.pop("reference_ms") == table.reference_ms and fitted_on and fitted_on.items() <= ratios.items()
        return Scale(**data) if same else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TableError("not a latency scale", place=str(path), value=str(error), remedy="delete it") from None
