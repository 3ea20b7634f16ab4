"""PoseNAS-Bench: trains networks of two search spaces alone, each under one fixed short recipe, and times them.

    python -m benchmarks.pose_nas_bench train --bench lspet --data ../shared/data/lspet [--workers N] [--device cuda]
    python -m benchmarks.pose_nas_bench train --bench synthetic [--workers N] [--device cuda]
    python -m benchmarks.pose_nas_bench latency --bench lspet [--engines onnxruntime ncnn mnn] [--rounds 40]
    python -m benchmarks.pose_nas_bench length --bench lspet --data ../shared/data/lspet [--epochs 2 4] [--networks 12]

`train` writes OUT/BENCH_networks.csv, which networks there are and what they cost, and adds a line to
OUT/BENCH_trainings.csv for every finished training. Every third network is trained with a second seed. Killed, it goes
on from there; the training it was at starts over. `latency` adds all networks on every engine, one thread, to
OUT/BENCH_latency.csv, in interleaved runs: nothing else may run meanwhile. Killed, it goes on as well. `length` trains
the first networks with two seeds at several numbers of epochs E, to OUT/BENCH_length_E_trainings.csv, and prints
Kendall's tau between the seeds: how well a recipe of that length orders networks. `train` takes over what `length` has
trained with its own epochs. OUT is compress/nas/pose_nas_bench by default, where `compress.bench` reads.

The recipes are short, small inputs and few epochs, so that one training takes about a minute of one core.
"""

import argparse
import csv
import io
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from lightning_fabric import Fabric

from compress.data.picture import Mask, People, Picture, PictureSet
from compress.data.sets import train_and_val
from compress.engines import engine
from compress.files import write_text
from compress.measure.counting import count
from compress.measure.latency import Latency
from compress.measure.whole_networks import time_runners
from compress.nas.bench import (
    COUNTED,
    FOLDER,
    METRICS,
    Training,
    bench_space,
    rank_correlation,
    read_networks,
    read_trainings,
)
from compress.nas.space import Pick, Space, pick_key
from compress.networks import Architecture, architecture_from_data
from compress.pose.approaches import estimator_for, objective_for
from compress.pose.codec import Codec, codec_named
from compress.pose.estimator import LabelledBoxes, PoseEstimator
from compress.pose.scoring import score
from compress.progress import Silent
from compress.recipe import Augment, Data, Decoding, DiskData, Loss, PersonAugment, SyntheticData
from compress.recipe import Training as TrainingSettings
from compress.training.loop import label_step, placed, train


@dataclass(frozen=True)
class Recipe:
    """How every network of a bench is trained and scored. networks: how many there are."""

    networks: int
    input_hw: tuple[int, int]
    data: Data
    codec: Codec
    training: TrainingSettings
    flip_test: bool


RECIPES = {
    "lspet": Recipe(
        networks=216,
        input_hw=(64, 64),
        data=Data(kind="lsp"),
        codec=codec_named("exact", sigma=1.0),
        training=TrainingSettings(
            epochs=2,
            batch_size=16,
            learning_rate=0.006,
            warmup_steps=50,
            loss=Loss(heatmap=100),
            person_augment=PersonAugment(rotation_deg=20, scale=0.25, flip=0.5, half_body=0.0),
        ),
        flip_test=True,
    ),
    "synthetic": Recipe(
        networks=84,
        input_hw=(96, 96),
        data=Data(kind="synthetic", synthetic=SyntheticData(train=2400, val=300, people=(1, 1))),
        codec=codec_named("exact", sigma=1.25),
        training=TrainingSettings(
            epochs=2,
            batch_size=8,
            learning_rate=0.007,
            warmup_steps=50,
            loss=Loss(heatmap=1.0, pull=0.0005, push=0.003),
            augment=Augment(rotation_deg=5, scale=(0.95, 1.1), translate_px=10, flip=0.5),
        ),
        flip_test=False,
    ),
}
_AT_ONCE = 12
"""Networks that are timed in one interleaved run on all engines."""
TIMED = ("network", "engine", "latency_ms", "q1_ms", "q3_ms", "ratio", "reliable")
"""Columns of a table of times. ratio: to the convolution that ran beside."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["train", "latency", "length"])
    parser.add_argument("--bench", choices=list(RECIPES), default="lspet")
    parser.add_argument("--data", type=Path, help="LSPET's folder")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "ncnn", "mnn"])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument(
        "--epochs", type=int, nargs="+", help="of `length`, 2 and 4 by default; of `train`, instead of the recipe's"
    )
    parser.add_argument("--networks", type=int, default=12)
    given = parser.parse_args()
    write_networks(given.bench, given.out)
    match given.step:
        case "train":
            wanted = [(number, seed) for number in range(RECIPES[given.bench].networks) for seed in seeds_of(number)]
            wanted.sort(key=lambda one: one[1])  # every network once, before any twice
            epochs = given.epochs[0] if given.epochs else RECIPES[given.bench].training.epochs
            file = given.out / f"{given.bench}_trainings.csv"
            already = length_file(given.out, given.bench, epochs)
            if already.is_file() and not file.is_file():
                write_text(file, already.read_text(encoding="utf-8"))
            train_all(given, wanted, epochs, file)
        case "length":
            wanted = [(number, seed) for number in range(given.networks) for seed in (1, 2)]
            for epochs in given.epochs or (2, 4):
                file = length_file(given.out, given.bench, epochs)
                train_all(given, wanted, epochs, file)
                print(f"{epochs} epochs: {agreement(read_trainings(file))}", flush=True)
        case "latency":
            write_latencies(given.bench, given.out, given.engines, given.rounds)


def length_file(folder: Path, name: str, epochs: int) -> Path:
    return folder / f"{name}_length_{epochs}_trainings.csv"


# --- Networks --------------------------------------------------------------------------------------------------------


def picks_of(name: str) -> list[Pick]:
    """The bench's networks: the hand balance and HRNet's layout, the space's ends, then random ones; all different."""
    space, rng = space_of(name), random.Random(0)
    balance = [[branch + 1 for branch in range(stage + 1)] for stage in range(4)]
    layout = [[2] * (stage + 1) for stage in range(4)]
    by_us = [by_hand(space, balance), by_hand(space, layout), space.smallest, space.largest]
    drawn = [space.sample(rng) for _ in range(RECIPES[name].networks - len(by_us))]
    picks: dict[str, Pick] = {}
    for pick in [*by_us, *drawn]:
        while network_key(pick) in picks:
            pick = space.sample(rng)
        picks[network_key(pick)] = pick
    return list(picks.values())


def network_key(pick: Pick) -> str:
    """Equal for picks of one network: a branch without blocks has no kind and no expansion."""
    empty = [branch for branch in range(4) if not any(pick[f"blocks.{stage}.{branch}"] for stage in range(branch, 4))]
    unused = {f"{choice}.{branch}" for choice in ("kinds", "expansions") for branch in empty}
    return pick_key({path: value for path, value in pick.items() if path not in unused})


space_of = cache(bench_space)


def by_hand(space: Space, blocks: Sequence[Sequence[int]]) -> Pick:
    """Width 16, DIR blocks of expansion 2, everything fused."""
    counts = {f"blocks.{stage}.{branch}": n for stage, row in enumerate(blocks) for branch, n in enumerate(row)}
    rest = {path: "dir" if path.startswith("kinds") else values[-1] for path, values in space.choices.items()}
    return {**rest, "width": 16, **counts}


def architecture_of(name: str, pick: Pick) -> Architecture:
    return architecture_from_data(space_of(name).apply(pick), f"bench {name}")


def seeds_of(number: int) -> tuple[int, ...]:
    """A third of the networks is trained twice."""
    return (1, 2) if number % 3 == 0 else (1,)


def write_networks(name: str, folder: Path) -> None:
    """The table of networks, unless it is there and the same."""
    path, space, picks = folder / f"{name}_networks.csv", space_of(name), picks_of(name)
    if path.is_file():
        if [network.pick for network in read_networks(path, space)] != picks:
            raise SystemExit(f"{path} has other networks than this space and recipe: move it away")
        return
    rows = []
    for number, pick in enumerate(picks):
        with torch.device("meta"):
            network = architecture_of(name, pick).build()
        counted = count(network, RECIPES[name].input_hw)
        rows.append({"network": number, "params": counted.params, "macs": counted.macs, **pick})
    write_text(path, _lines(["network", *COUNTED, *space.choices], rows, header=True))


# --- Trainings -------------------------------------------------------------------------------------------------------


class InMemory:
    """A PictureSet whose pictures are decoded, or drawn, once."""

    def __init__(self, pictures: PictureSet) -> None:
        self.keypoints, self.coco, self._whole = pictures.keypoints, pictures.coco, pictures
        self._images = [pictures.image(index) for index in range(len(pictures))]

    def __len__(self) -> int:
        return len(self._images)

    def image_id(self, index: int) -> int:
        return self._whole.image_id(index)

    def image(self, index: int) -> Picture:
        return self._images[index]

    def people(self, index: int) -> People:
        return self._whole.people(index)

    def ignore_mask(self, index: int) -> Mask | None:
        return self._whole.ignore_mask(index)


@cache
def pictures_of(name: str, folder: Path | None) -> tuple[PictureSet, PictureSet]:
    """To train on and to score on, read once in every process."""
    recipe = RECIPES[name]
    data = recipe.data.model_copy(update={"disk": DiskData(folder=folder)}) if folder else recipe.data
    training, validation = train_and_val(data, recipe.input_hw, seed=1)
    return InMemory(training), InMemory(validation)


def train_all(given: argparse.Namespace, wanted: Sequence[tuple[int, int]], epochs: int, file: Path) -> None:
    """Trains what the file lacks, and adds a line as soon as one is finished."""
    header = [field.name for field in fields(Training)]
    cut_to_whole_lines(file, _lines(header, [], header=True))
    known = {(training.network, training.seed) for training in read_trainings(file)}
    waiting = [one for one in wanted if one not in known]
    run = partial(one_training, given.bench, given.data, epochs, given.device)
    for number, training in enumerate(results(run, waiting, given.workers), len(wanted) - len(waiting) + 1):
        with file.open("a", encoding="utf-8", newline="") as lines:
            lines.write(_lines(header, [asdict(training)]))
            lines.flush()
            os.fsync(lines.fileno())
        print(
            f"{number} of {len(wanted)}: network {training.network} seed {training.seed}: {METRICS[given.bench]} "
            f"{training.score:.3f} after {training.cpu_s:.0f} s; {agreement(read_trainings(file))}",
            flush=True,
        )


def results(run: "partial[Training]", waiting: Sequence[tuple[int, int]], workers: int) -> Iterator[Training]:
    """Trainings as they finish; one after the other in this process, or in processes of their own."""
    if workers == 1:
        yield from (run(*one) for one in waiting)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, *one) for one in waiting]):
            yield future.result()


def one_training(name: str, folder: Path | None, epochs: int, device: str, number: int, seed: int) -> Training:
    """From random weights to a score."""
    torch.set_num_threads(1)
    recipe = RECIPES[name]
    pictures, validation = pictures_of(name, folder)
    architecture = architecture_of(name, picks_of(name)[number])
    settings = recipe.training.model_copy(update={"epochs": epochs})
    objective = objective_for(architecture, pictures.keypoints, recipe.input_hw, settings, recipe.codec)
    fabric = Fabric(accelerator=device, devices=1, precision="32-true")
    began = time.process_time()
    torch.manual_seed(seed)
    network = placed(architecture.build(), fabric.device)
    with tempfile.TemporaryDirectory() as kept:
        history = train(
            network,
            [dict(network.named_parameters())],
            label_step(network, objective, fabric),
            samples=objective.samples(pictures),
            settings=settings,
            seed=seed,
            fabric=fabric,
            workers=0,
            checkpoint=Path(kept) / "checkpoint.pt",
            phase=Silent(),
        )
    estimator = estimator_of(recipe, architecture, pictures)
    found = score(
        network,
        estimator,
        validation,
        kind=recipe.data.kind,
        provenance=f"training of {epochs} epochs",
        flip_test=recipe.flip_test,
    )
    area = found.details.get("area")
    return Training(
        number,
        seed,
        round(found.value or 0.0, 5),
        round(area, 5) if isinstance(area, float) else None,
        round(history[-1].loss, 5),
        round(time.process_time() - began, 1),
    )


def estimator_of(recipe: Recipe, architecture: Architecture, pictures: PictureSet) -> PoseEstimator:
    """How a bench's networks find people, in the labelled boxes."""
    return estimator_for(
        architecture,
        pictures.keypoints,
        recipe.input_hw,
        codec=recipe.codec,
        decoding=Decoding(flip_test=recipe.flip_test),
        boxes=LabelledBoxes(),
    )


def agreement(trainings: Sequence[Training]) -> str:
    """Kendall's tau between the first two seeds, of the score and, where there is one, of the area."""
    by_network: dict[int, list[Training]] = {}
    for training in trainings:
        by_network.setdefault(training.network, []).append(training)
    twice = [sorted(both, key=lambda one: one.seed)[:2] for both in by_network.values() if len(both) > 1]
    if len(twice) < 3:
        return "too few seeds for a tau"
    text = (
        f"tau between seeds {rank_correlation(*zip(*([one.score for one in both] for both in twice), strict=True)):.2f}"
    )
    areas = [[one.area for one in both if one.area is not None] for both in twice]
    if all(len(both) == 2 for both in areas):
        text += f" (of the area {rank_correlation(*zip(*areas, strict=True)):.2f})"
    return f"{text} over {len(twice)} networks"


def cut_to_whole_lines(file: Path, header: str) -> None:
    """Removes a last line that a kill has cut off; a new file gets the header."""
    if not file.is_file():
        write_text(file, header)
        return
    text = file.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_text(file, whole or header)


# --- Latency ---------------------------------------------------------------------------------------------------------


def write_latencies(name: str, folder: Path, engines: Sequence[str], rounds: int) -> None:
    """Every network on every engine: median milliseconds of one pass, one thread, with quartiles.

    Groups of networks on all engines are timed in one interleaved run each and added to the table; the convolution that
    is timed in between puts all on one clock.
    """
    hw, picks, file = RECIPES[name].input_hw, picks_of(name), folder / f"{name}_latency.csv"
    cut_to_whole_lines(file, _lines(TIMED, [], header=True))
    with file.open(encoding="utf-8", newline="") as lines:
        known = list(csv.DictReader(lines))
    if any(row["engine"] not in engines for row in known):
        raise SystemExit(f"{file} has other engines: move it away")
    reference_ms = float(known[0]["latency_ms"]) / float(known[0]["ratio"]) if known else None
    for start in range(len(known) // len(engines), len(picks), _AT_ONCE):
        with tempfile.TemporaryDirectory() as exports:
            runners = {}
            for number in range(start, min(start + _AT_ONCE, len(picks))):
                network = architecture_of(name, picks[number]).build().eval()
                for engine_name in engines:
                    runtime = engine(engine_name)
                    path = runtime.export(network, hw, Path(exports), f"{engine_name}_{number}")[0]
                    runners[f"{number} {engine_name}"] = runtime.load(path)
            timings = time_runners(runners, hw, 1, rounds)
        rows: list[dict[str, object]] = []
        for key, timing in timings.items():
            number_text, engine_name = key.split(" ")
            latency = Latency.of_timing(timing, engine_name, reference_ms)
            reference_ms = reference_ms or latency.ms / timing.ratio  # of the first: all are on one clock
            times = {"latency_ms": latency.ms, "q1_ms": latency.q1_ms, "q3_ms": latency.q3_ms, "ratio": timing.ratio}
            rows.append(
                {
                    "network": number_text,
                    "engine": engine_name,
                    **{column: f"{value:.5g}" for column, value in times.items()},
                    "reliable": int(timing.reliable),
                }
            )
        write_text(file, file.read_text(encoding="utf-8") + _lines(TIMED, rows))
        print(f"{min(start + _AT_ONCE, len(picks))} of {len(picks)} networks timed", flush=True)


def _lines(columns: Sequence[str], rows: Sequence[dict[str, object]], header: bool = False) -> str:
    """As CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    main()
