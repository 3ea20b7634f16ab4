"""Zero-cost proxies on PoseNAS-Bench: Kendall's tau with the scores of networks that were trained alone.

    python -m benchmarks.zero_cost [--bench lspet] [--seeds 3] [--side 64]

For each proxy, and for multiply-adds and parameters, over all networks of the table; and of what is left of proxy and
score where a straight line over the logarithm of multiply-adds is taken away, which is what the filter of a search
goes by. Proxies are of random weights of several seeds, medians over the seeds. naswot sees pictures of noise, for the
table's pictures need not be here.
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from numpy.typing import NDArray

from compress.nas.bench import bench, rank_correlation
from compress.nas.zero_cost import PROXIES
from compress.networks import architecture_from_data

Array = NDArray[np.float64]
PICTURES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", default="lspet", choices=["lspet", "synthetic"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side", type=int, default=64)
    given = parser.parse_args()
    table = bench(given.bench)
    if len(table.networks) < 3:
        parser.error(
            f"{len(table.networks)} networks of {given.bench} are trained: python -m benchmarks.pose_nas_bench"
        )
    scores = np.array([network.score for network in table.networks])
    log_macs = np.log([network.costs["macs"] for network in table.networks])
    figures = {name: log_costs(table.points(name)) for name in ("macs", "params")}
    for name, proxy in PROXIES.items():
        by_seed = []
        for seed in range(given.seeds):
            noise = torch.Generator().manual_seed(seed)
            images = torch.randn(PICTURES, 3, given.side, given.side, generator=noise)
            values = []
            for network in table.networks:
                torch.manual_seed(seed)
                built = architecture_from_data(table.space.apply(network.pick), "bench").build()
                values.append(proxy(built, images))
            by_seed.append(values)
        figures[name] = np.median(np.array(by_seed), axis=0)
    print(f"{table.name}: {len(scores)} networks; tau between two seeds of one training: {table.seed_tau}")
    print("| figure | tau with the score | at like multiply-adds |")
    print("|---|---|---|")
    for name, values in figures.items():
        alike = "–" if name == "macs" else f"{rank_correlation(rest(values, log_macs), rest(scores, log_macs)):.2f}"
        print(f"| {name} | {rank_correlation(list(values), list(scores)):.2f} | {alike} |")


def log_costs(points: list[tuple[float, float]]) -> Array:
    """Logarithms of the costs of (cost, score)."""
    return np.log([cost for cost, _ in points])


def rest(values: Array, along: Array) -> list[float]:
    """What a straight line does not explain."""
    slope, offset = np.polyfit(along, values, 1)
    return list(values - slope * along - offset)


if __name__ == "__main__":
    main()
