"""A public HRNet imported: time and memory of HRNet-W48, and HRNet-W32 pruned, rewritten and exported.

    python -m benchmarks.checkpoints w48                 seconds and memory of importing HRNet-W48
    python -m benchmarks.checkpoints w32 --run FOLDER    import, prune, rewrite, export; what each compares with

The files have the names of the authors' code and random numbers: what they compute means nothing, that it is the same
everywhere does. Every run of `prune` compares the pruned network with the masked one, and every export with torch.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from compress.artefacts.network import open_network
from compress.engines.export import export_and_check
from compress.networks import NETWORKS
from compress.networks.checkpoints import SOURCES
from compress.rewriting.sites import rewritten, rule_named, sites
from tests.networks.checkpoints.fixtures import own

FIXTURE = "official_hrnet_w32_256x192"


def write_w48(path: Path) -> None:
    """HRNet-W48 by the names of W32's file, whose modules are the same."""
    (source,) = (one for one in SOURCES if one.name == "HRNet")
    names = source.renamed([key for key, _, _ in own(FIXTURE).facts["keys"]])
    state = NETWORKS["hrnet_w48"].build().state_dict()
    torch.save({theirs: state[ours] for ours, theirs in names.ours.items()}, path)


def import_w48(path: Path) -> None:
    """In this process, which must be a fresh one: what torch itself takes is told apart."""
    import compress.artefacts.network

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    opened = compress.artefacts.network.open_network(str(path))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weights = sum(one.numel() * one.element_size() for one in opened.module.state_dict().values())
    print(
        f"{opened.name}: {seconds:.2f} s; file {path.stat().st_size / 2**20:.0f} MiB, "
        f"weights {weights / 2**20:.0f} MiB, peak {peak / 2**10:.0f} MiB, of which {before / 2**10:.0f} MiB before"
    )


def run(*arguments: str) -> dict[str, object]:
    """A command's result."""
    done = subprocess.run(
        [sys.executable, "-m", "compress", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 3), done.stderr
    found: dict[str, object] = json.loads(done.stdout)["result"]
    return found


def show_w32(folder: Path, size: str) -> None:
    """Import → prune → rewrite → export, each from the one before."""
    fixture = own(FIXTURE)
    folder.mkdir(parents=True, exist_ok=True)
    file = fixture.write(folder / f"{FIXTURE}.pth", fixture.tensors)
    few = ("--set", "rounds=3", "--set", "parity_pictures=1", "--set", "targets=[onnxruntime, ncnn]")
    imported = run("import", str(file), "--input-hw", size, "--run", str(folder / "imported"))
    print("imported", imported["found"])
    pruned: dict = run("prune", str(folder / "imported"), "--ratio", "0.3", *few, "--run", str(folder / "pruned"))  # type: ignore[type-arg]
    print("pruned", pruned["pruned"]["params"], pruned["pruned"]["macs"], pruned["pruned"]["exports"])
    show_rewritten(folder / "pruned", folder / "rewritten")
    exported = run("export", str(folder / "pruned"), "--normalisation", "inside", "--out", str(folder / "out"))
    print("exported", exported["exports"], exported["refused"])


def show_rewritten(pruned: Path, folder: Path) -> None:
    """Every batch norm folded, whether that pays or not: the rule is exact, so it computes what the pruned one does."""
    given = open_network(str(pruned))
    network = rewritten(given.module, sites(given.module, rule_named("fold_batch_norm")))
    drawn = np.random.default_rng(0).standard_normal((1, 3, *given.input_hw), dtype=np.float32)
    with torch.no_grad():
        (before,), (after,) = (one.eval()(torch.from_numpy(drawn)) for one in (given.module, network))
    change = float((after - before).abs().max() / before.abs().max())
    exports, failed = export_and_check(network, ["onnxruntime", "ncnn"], [drawn], given.input_hw, folder)
    print(f"rewritten: outputs differ by {change:.1e}", [(one.engine, one.parity) for one in exports], failed)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("w48", "w32", "import"))
    parser.add_argument("--run", type=Path)
    parser.add_argument("--input-hw", default="256x192")
    given = parser.parse_args()
    if given.what == "import":
        import_w48(given.run)
    elif given.what == "w32":
        show_w32(given.run or Path(tempfile.mkdtemp()), given.input_hw)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "pose_hrnet_w48_256x192.pth")
            write_w48(path)
            subprocess.run([sys.executable, "-m", "benchmarks.checkpoints", "import", "--run", str(path)], check=True)


if __name__ == "__main__":
    main()
