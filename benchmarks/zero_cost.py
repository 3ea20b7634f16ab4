"""Zero-cost proxies on PoseNAS-Bench: Kendall's tau with the scores of networks that were trained alone.

    python -m benchmarks.zero_cost [--bench lspet] [--seeds 3] [--side 64]

For each proxy, and for multiply-adds and parameters, over all networks of the table; and of what is left of proxy and
score where a straight line over the logarithm of multiply-adds is taken away, which is what the filter of a search
goes by. Proxies are of random weights of several seeds, medians over the seeds. naswot sees pictures of noise, for the
table's pictures need not be here.
"""

import argparse
import math
import os

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from compress.nas.bench import bench, beyond_cost, rank_correlation
from compress.nas.zero_cost import PROXIES
from compress.networks import architecture_from_data

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
    scores = [network.score for network in table.networks]
    macs = [network.costs["macs"] for network in table.networks]
    figures = {name: [math.log(cost) for cost, _ in table.points(name)] for name in ("macs", "params")}
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
        figures[name] = [float(value) for value in np.median(np.array(by_seed), axis=0)]
    print(f"{table.name}: {len(scores)} networks; tau between two seeds of one training: {table.seed_tau}")
    print("| figure | tau with the score | at like multiply-adds |")
    print("|---|---|---|")
    for name, values in figures.items():
        tau = rank_correlation(beyond_cost(values, macs), beyond_cost(scores, macs))
        alike = "–" if name == "macs" else f"{tau:.2f}"
        print(f"| {name} | {rank_correlation(values, scores):.2f} | {alike} |")


if __name__ == "__main__":
    main()
