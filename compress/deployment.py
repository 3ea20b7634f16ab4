"""What ships: exports that answer like torch, and latencies predicted from the table and measured on whole networks."""

import hashlib
import json
import os
import random
import re
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from compress.data.loader import eval_batches
from compress.data.picture import PictureSet
from compress.engines import Runner, check_parity, engine
from compress.engines.engine import Image, parity_limit
from compress.errors import CompressError, TableError
from compress.files import cache_folder, replaced_together, write_json
from compress.measure.harvest import cover, harvest
from compress.measure.latency_table import FORMAT, Identity, LatencyTable, Scale, fill, fit_scale, open_table
from compress.measure.timing import Timing, pinned, reference_convolution, time_interleaved
from compress.measure.units import Unit, cut
from compress.networks import architecture_from_data
from compress.progress import Progress
from compress.recipe import Measurement
from compress.space import Pick, Space

SCALE_NETWORKS = 6
"""Whole networks that the table's scale is fitted on."""
_CORNER_LIMIT = 400
_RANDOM_PICKS = 32  # beside the corners


# --- Exports ---------------------------------------------------------------------------------------------------------


ForEngine = Callable[[nn.Module, str], nn.Module]
"""Network, engine's name → the same network in the form that this engine runs best."""


def as_it_is(network: nn.Module, engine_name: str) -> nn.Module:
    """Every engine runs the network itself."""
    return network


def export_and_check(
    network: nn.Module, engines: Iterable[str], images: Sequence[Image], input_hw: tuple[int, int], folder: Path,
    for_engine: ForEngine = as_it_is,
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:  # fmt: skip
    """Exports to every engine and compares its outputs with torch's on the images and on a random one.

    An engine's files come to `folder` together, and only if its outputs are torch's within parity_limit; an engine that
    fails leaves the folder as it was, and the next one is tried. Returns engine → {file, files, size_bytes, parity},
    and engine → why it failed. Raises OSError where nothing can be written.
    """
    # No flat picture: norms over a map make much of what rounding leaves of it.
    noise: Image = np.random.default_rng(0).standard_normal((1, 3, *input_hw), dtype=np.float32)
    exports: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name in engines:
        try:
            with replaced_together(folder) as aside:
                of_engine = for_engine(network, name)
                files = engine(name).export(of_engine, input_hw, aside, "model")
                parity = check_parity(of_engine, engine(name).load(files[0]), [*images, noise], parity_limit(name))
                size_bytes = sum(file.stat().st_size for file in files)
        except CompressError as error:
            failed[name] = str(error).replace(f"{aside}{os.sep}", "")  # no file lies there
            continue
        names = [file.name for file in files]
        exports[name] = {"file": names[0], "files": names, "size_bytes": size_bytes, "parity": parity}
    return exports, failed


def sample_images(pictures: PictureSet, count: int, input_hw: tuple[int, int]) -> list[Image]:
    """The first pictures as a network gets them, [1,3,H,W] each."""
    images: list[Image] = []
    for batch, _, _ in eval_batches(pictures, input_hw=input_hw, batch_size=min(count, len(pictures))):
        rows: NDArray[np.float32] = np.ascontiguousarray(batch.contiguous().numpy())
        images.extend(rows[i : i + 1] for i in range(len(rows)))
        if len(images) >= count:
            break
    return images[:count]


# --- The latency table -----------------------------------------------------------------------------------------------

BuildPick = Callable[[Pick], nn.Module]
"""A pick's network, of any weights, on torch's default device or on the CPU."""


def table_path(identity: Identity) -> Path:
    """Where the table of this engine, version, device and thread count is kept between runs, see cache_folder."""
    readable = re.sub(
        r"[^A-Za-z0-9.]+", "-", f"{identity.engine}-{identity.version}-{identity.threads}-{identity.device}"
    )
    return cache_folder() / "latency" / f"{readable}-{FORMAT}.json"


def prepare_table(
    path: Path, settings: Measurement, space: Space, build: BuildPick, input_hw: tuple[int, int], seed: int,
    progress: Progress,
) -> LatencyTable:  # fmt: skip
    """The table at `path` (a run's own), with every unit the space can produce and a scale fitted on whole networks.

    A run that goes on has its own table, units and scale. A new one starts from what this machine's kept table knows,
    measures only what is missing or uncertain, in whole candidates, and adds it to the kept one. Raises TableError if
    whole networks and their units do not go together, see fit_scale.
    """
    identity = Identity.of(engine(settings.engine).describe(), settings.threads)
    table = open_table(path, identity)
    if table.scale is not None:  # what the run began with; the machine's kept table may have become another
        return table
    kept = table_path(identity)
    if not path.exists() and kept.exists():
        # Without the scale of `compress latency build`: a run that is killed here would go on with it.
        table = replace(open_table(kept, identity), path=path, scale=None)
        table.save()
    _top_up(table, kept)
    known_scale = _kept_scale(kept, space, build, input_hw)
    table.scale = _read_scale(known_scale, table)
    if table.scale is not None:
        table.save()
        return table
    for again in (False, True):  # where whole networks and units contradict each other, all units are timed anew, once
        _measure_units(table, settings, space, build, input_hw, seed, progress, again)
        _keep(table, again)
        try:
            fitted_on = _fit(table, settings, space, build, input_hw, seed, progress)
            break
        except TableError:
            if again:
                raise
    table.save()
    assert table.scale is not None
    ratios = {key: table.units[key].timing.ratio for key in sorted(fitted_on)}
    write_json(known_scale, {**asdict(table.scale), "reference_ms": table.reference_ms, "units": ratios})
    return table


def _measure_units(
    table: LatencyTable, settings: Measurement, space: Space, build: BuildPick, input_hw: tuple[int, int], seed: int,
    progress: Progress, again: bool,
) -> None:  # fmt: skip
    """Times the space's units that the table does not know, or all of them anew."""
    chosen = covering(space, input_hw, seed, progress, () if again else table.known(), build)
    with (
        progress.phase("latency table", len(chosen)) as phase,
        pinned(settings.threads),
        tempfile.TemporaryDirectory() as exports,
    ):
        files = {
            f"candidate {number} of {len(chosen)}": _exporting(partial(build, pick), settings, input_hw, Path(exports))
            for number, pick in enumerate(chosen, 1)
        }
        runtime = engine(settings.engine)
        harvest(table, runtime, files, progress=lambda name: phase.advance(1, name), again=again)


def complete_table(table: LatencyTable, units: Iterable[Unit]) -> None:
    """Measures units the covering picks have not met, in models of units; adds them to the run's and the kept table."""
    if table.missing(units):
        with pinned(table.identity.threads):
            fill(table, units)
        _keep(table)


def covering(
    space: Space, input_hw: tuple[int, int], seed: int, progress: Progress, known: Collection[str] = (),
    build: BuildPick | None = None,
) -> list[Pick]:  # fmt: skip
    """Few candidates that together have almost every unit the space can produce, but the known keys, several times.

    Units are those of onnxruntime, which other engines' go along with. What combinations of different branches alone
    produce may be missing. build: None takes the pick's architecture as it is, without edits.
    """
    build = build or (lambda pick: architecture_from_data(space.apply(pick), "search space").build())
    rng = random.Random(seed)
    asked = [*_corner_picks(space), *(space.sample(rng) for _ in range(_RANDOM_PICKS))]
    picks = list({repr(sorted(pick.items())): pick for pick in asked}.values())
    units: dict[int, set[Unit]] = {}
    with progress.phase("choosing candidates to time", len(picks)) as phase:
        for number, pick in enumerate(picks):
            with torch.device("meta"):
                network = build(pick)
            units[number] = {unit for unit in cut(network, input_hw) if unit.key not in known}
            phase.advance(1)
    return [picks[number] for number in cover(units)]


def _corner_picks(space: Space) -> Iterator[Pick]:
    """Choices that differ only in an index (the branches' block kinds, say) take the same place in their lists.

    Every combination of places is met; of counts the first and the last. Edits come one at a time, at both ends.
    """
    for pick in (space.smallest, space.largest):
        for edit in space.edits:
            yield from ({**pick, **space.unedited, edit.path: value} for value in edit.values)
    groups: dict[str, list[str]] = {}
    for path in space.architectures.choices:
        groups.setdefault(re.sub(r"\b\d+\b", "*", path), []).append(path)
    places = []
    for pattern, paths in groups.items():
        longest = max(len(space.choices[path]) for path in paths)
        ends = sorted({0, longest - 1})
        places.append(ends if pattern.startswith("blocks") else list(range(longest)))
    for combination in islice(product(*places), _CORNER_LIMIT):
        yield {
            path: space.choices[path][min(place, len(space.choices[path]) - 1)]
            for place, paths in zip(combination, groups.values(), strict=True)
            for path in paths
        } | space.unedited


def _exporting(
    build: Callable[[], nn.Module], settings: Measurement, input_hw: tuple[int, int], folder: Path
) -> Callable[[], Path]:
    return lambda: engine(settings.engine).export(build(), input_hw, folder, "candidate")[0]


def _fit(
    table: LatencyTable, settings: Measurement, space: Space, build: BuildPick, input_hw: tuple[int, int], seed: int,
    progress: Progress,
) -> set[str]:  # fmt: skip
    """Fits the scale on a few whole candidates; returns their units' keys. Raises TableError if it is beyond use."""
    rng = random.Random(seed)
    picks = [space.largest, *(space.sample(rng) for _ in range(SCALE_NETWORKS - 1))]
    samples: list[tuple[Mapping[Unit, int], float]] = []
    with progress.phase("latency scale", len(picks)) as phase, tempfile.TemporaryDirectory() as folder:
        runners, units = {}, {}
        for number, pick in enumerate(picks):
            network = build(pick)
            files = engine(settings.engine).export(network, input_hw, Path(folder), f"scale{number}")
            runners[str(number)] = engine(settings.engine).load(files[0], settings.threads)
            units[str(number)] = cut(network, input_hw)
            complete_table(table, units[str(number)])
            phase.advance(1)
        timings = time_runners(runners, input_hw, settings)
    assert table.reference_ms is not None
    for name, timing in timings.items():
        samples.append((units[name], timing.ratio * table.reference_ms))
    fit_scale(table, samples)
    return {unit.key for found in units.values() for unit in found}


# --- Whole networks --------------------------------------------------------------------------------------------------


class HowTimed(Protocol):
    """What a recipe says of timing: threads of the engine, interleaved timings per network."""

    @property
    def threads(self) -> int: ...
    @property
    def rounds(self) -> int: ...


def time_runners(
    runners: Mapping[str, Runner],
    input_hw: tuple[int, int],
    settings: HowTimed,
    progress: Callable[[int, str], None] = lambda rounds, note: None,
) -> dict[str, Timing]:
    """All networks in one interleaved run on the recipe's number of threads, on one random picture."""
    image: Image = np.random.default_rng(0).standard_normal((1, 3, *input_hw), dtype=np.float32)
    calls = {name: _call(runner, image) for name, runner in runners.items()}
    with pinned(settings.threads):
        return time_interleaved(calls, reference_convolution(), rounds=settings.rounds, progress=progress)


def measure_exports(
    folders: Mapping[str, Path], exports: Mapping[str, Mapping[str, Any]], settings: HowTimed,
    input_hw: tuple[int, int], progress: Progress,
) -> dict[str, dict[str, dict[str, Any]]]:  # fmt: skip
    """Times every exported network of every engine. Returns network → engine → timing as plain data."""
    runners = {
        (name, key): engine(key).load(folders[name] / export["file"], settings.threads)
        for name, of_engine in exports.items()
        for key, export in of_engine.items()
    }
    with progress.phase("measuring", settings.rounds) as phase:
        timings = time_runners(
            {f"{name} {key}": runner for (name, key), runner in runners.items()},
            input_hw,
            settings,
            phase.advance,
        )
    measured: dict[str, dict[str, dict[str, Any]]] = {}
    for name, key in runners:
        timing = timings[f"{name} {key}"]
        measured.setdefault(name, {})[key] = {**asdict(timing), "reliable": timing.reliable}
    return measured


def _keep(table: LatencyTable, again: bool = False) -> None:
    """Adds the table's units to this machine's kept table. What that has stays, unless it is less certain, or all was
    timed again."""
    kept = open_table(table_path(table.identity), table.identity)
    if kept.reference_ms is None:
        kept.reference_ms = table.reference_ms
    # Both are on the clock of the first reference, which a run's table has from the kept one.
    new = {
        key: entry
        for key, entry in table.units.items()
        if again
        or key not in kept.units
        or (kept.units[key].uncertain and entry.timing.uncertainty < kept.units[key].timing.uncertainty)
    }
    if new and kept.reference_ms == table.reference_ms:
        kept.units.update(new)
        kept.save()


def _top_up(table: LatencyTable, kept: Path) -> None:
    """Adds what other runs have measured since this one began; nothing from a table on another clock."""
    others = open_table(kept, table.identity)
    if others.reference_ms == table.reference_ms:
        table.units = {**others.units, **table.units}


def _kept_scale(kept: Path, space: Space, build: BuildPick, input_hw: tuple[int, int]) -> Path:
    """Where the scale for this space and input size is kept beside the table; where there are edits, for the shapes of
    what they start from as well."""
    asked = [space.base, {path: list(values) for path, values in space.choices.items()}, list(input_hw)]
    if space.edits:
        state = build({**space.largest, **space.unedited}).state_dict()
        asked += [[asdict(edit) for edit in space.edits], {name: list(one.shape) for name, one in state.items()}]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    return kept.with_name(f"{kept.stem}-scale-{key}.json")


def _read_scale(path: Path, table: LatencyTable) -> Scale | None:
    """The kept scale, if it was fitted on what the table has: the same clock, and the same ratios of its units."""
    if not path.exists() or not table.units:
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        ratios = {key: entry.timing.ratio for key, entry in table.units.items()}
        fitted_on = data.pop("units", None)  # files of older versions do not say
        same = data.pop("reference_ms") == table.reference_ms and fitted_on and fitted_on.items() <= ratios.items()
        return Scale(**data) if same else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TableError("not a latency scale", place=str(path), value=str(error), remedy="delete it") from None


def _call(runner: Runner, image: Image) -> Callable[[], object]:
    return lambda: runner.run(image)
