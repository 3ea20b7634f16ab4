"""Do a hundred random candidates of every shipped space hold what a space promises?

    python -m benchmarks.space_conformance [--picks 100] [--out reports/space_conformance] [SPACE ...]

Each is built on the meta device, has the outputs of all others, and no more multiply-adds and parameters than the
largest; every tenth is cut from a supernet of random weights, run, and compared with the supernet run with its choices.
Writes one line for every space into results.json and README.md, and goes on behind the spaces that are there.
"""

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.files import write_json, write_text
from compress.jobs.search.task import outputs_of
from compress.measure.counting import count
from compress.nas.space import Space, expand, read_space
from compress.nas.supernet import Supernet
from compress.networks import architecture_from_data, architecture_to_data, made_for
from compress.recipe import shipped_folder

RUN_EVERY = 10


def conformance(name: str, picks: int, seed: int = 0) -> dict[str, object]:
    """What was found of one space. Raises AssertionError at the first candidate that breaks a promise."""
    file = read_space(shipped_folder("search_spaces") / f"{name}.yaml")
    input_hw = (64, 64) if file.family == "hourglass" else (64, 96)
    base = made_for(architecture_from_data({"family": file.family, **file.fixed}, name), input_hw)
    space = expand(file, architecture_to_data(base)).architectures
    torch.manual_seed(seed)
    supernet, image, rng = Supernet(space), torch.randn(1, 3, *input_hw), random.Random(seed)
    most_macs, most_params, outputs = measured(space, space.largest, input_hw)
    least_macs = measured(space, space.smallest, input_hw)[0]
    largest_share = 0.0
    compared = 0
    for number in range(picks):
        pick = space.sample(rng)
        macs, params, found = measured(space, pick, input_hw)
        assert (macs <= most_macs, params <= most_params, found) == (True, True, outputs), (name, pick)
        largest_share = max(largest_share, macs / most_macs)
        if number % RUN_EVERY:
            continue
        network = supernet.extract(pick).eval()
        with torch.no_grad():
            shared, own = supernet.forward(pick, image, training=False), network(image)
        for a, b in zip(shared, own, strict=True):  # weights of another memory layout are summed in another order
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max())), (name, pick)
        compared += 1
    return {
        "space": name,
        "family": file.family,
        "candidates": space.size,
        "edits": [edit.name for edit in file.edits],
        "picks": picks,
        "compared_with_the_supernet": compared,
        "least_macs": least_macs,
        "most_macs": most_macs,
        "largest_share_of_a_pick": round(largest_share, 4),
    }


def measured(space: Space, pick: object, input_hw: tuple[int, int]) -> tuple[int, int, object]:
    """Multiply-adds, parameters and outputs of a candidate."""
    architecture = architecture_from_data(space.apply(pick), "search space")  # type: ignore[arg-type]
    with torch.device("meta"):
        network: nn.Module = architecture.build()
    counted = count(network, input_hw)
    return counted.macs, counted.params, outputs_of(architecture)


def main() -> None:
    """Runs the spaces that are not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spaces", nargs="*")
    parser.add_argument("--picks", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("reports/space_conformance"))
    given = parser.parse_args()
    file = given.out / "results.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    known = {row["space"] for row in rows if row["picks"] >= given.picks}
    names = given.spaces or sorted(path.stem for path in shipped_folder("search_spaces").glob("*.yaml"))
    given.out.mkdir(parents=True, exist_ok=True)
    for name in (name for name in names if name not in known):
        begun = time.monotonic()
        rows = [row for row in rows if row["space"] != name] + [conformance(name, given.picks)]
        write_json(file, rows)
        print(f"{name}: {rows[-1]}, {time.monotonic() - begun:.0f} s")
    write_text(given.out / "README.md", text(rows))


def text(rows: list[dict[str, Any]]) -> str:
    """The page."""
    lines = [
        "# Random candidates of the shipped spaces",
        "",
        "`python -m benchmarks.space_conformance`: all of these random candidates build, have the outputs of all",
        "others, and no more multiply-adds and parameters than the largest; of those that were compared, cut from a",
        "supernet of random weights, the outputs are the supernet's with their choices.",
        "",
        "| space | family | candidates | picks | compared | MACs of the smallest and largest, M |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: str(row["space"])):
        macs = f"{row['least_macs'] / 1e6:.3g}, {row['most_macs'] / 1e6:.3g}"
        cells = [row["space"], row["family"], f"{row['candidates']:.3g}", row["picks"]]
        cells += [row["compared_with_the_supernet"], macs]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
