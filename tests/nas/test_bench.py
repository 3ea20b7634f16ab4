"""PoseNAS-Bench: what its tables hold, and how they are made."""

import itertools
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import compress
from benchmarks import pose_nas_bench as maker
from compress.errors import DataError
from compress.measure.timing import Timing
from compress.nas.bench import (
    FOLDER,
    SPACES,
    Bench,
    bench,
    bench_space,
    beyond_cost,
    read_latencies,
    read_networks,
    read_trainings,
)
from compress.recipe import SyntheticData

NETWORKS = maker.picks_of("lspet")[:5]
SCORES = {(0, 1): 0.5, (0, 2): 0.7, (1, 1): 0.2, (2, 1): 0.1, (2, 2): 0.1, (4, 1): 0.9, (4, 2): 0.8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of five networks, of which number 3 is not trained yet."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maker, "RECIPES", {"lspet": replace(maker.RECIPES["lspet"], networks=5)})
        maker.write_networks("lspet", folder)
    lines = [f"{number},{seed},{score},,0.1,1.0" for (number, seed), score in SCORES.items()]
    (folder / "lspet_trainings.csv").write_text("\n".join(["network,seed,score,area,loss,cpu_s", *lines, ""]))
    (folder / "lspet_latency.csv").write_text(
        "network,engine,latency_ms\n" + "".join(f"{n},onnxruntime,{n + 1}\n" for n in range(5)) + "0,ncnn,3.5\n"
    )
    return folder


@pytest.fixture
def small(folder: Path) -> Bench:
    return bench("lspet", folder)


def test_networks_have_their_picks_mean_scores_and_costs(small: Bench) -> None:
    assert [network.number for network in small.networks] == [0, 1, 2, 4]
    assert [network.pick for network in small.networks] == [NETWORKS[n] for n in (0, 1, 2, 4)]
    assert [network.score for network in small.networks] == pytest.approx([0.6, 0.2, 0.1, 0.85])
    assert small.networks[0].costs["ncnn"] == 3.5
    assert small.cost_names == ("params", "macs", "onnxruntime")  # ncnn has timed one alone
    assert [cost for cost, _ in small.points("onnxruntime")] == [1, 2, 3, 5]
    with pytest.raises(DataError, match="ncnn"):
        small.points("ncnn")


def test_front_and_tau(small: Bench) -> None:
    points = small.points("onnxruntime")
    beaten = {
        a
        for a, b in itertools.permutations(range(4), 2)
        if points[b][0] <= points[a][0] and points[b][1] >= points[a][1]
    }
    assert [network.number for network in small.front("onnxruntime")] == [
        network.number for index, network in enumerate(small.networks) if index not in beaten
    ]
    assert small.seed_tau == 1.0  # 0.1 < 0.5 < 0.9 and 0.1 < 0.7 < 0.8


@pytest.mark.parametrize("name", SPACES)
def test_what_is_committed(name: str) -> None:
    """Different networks of the space, whose architectures can be built, and scores of no more than these."""
    space = bench_space(name)
    networks = read_networks(FOLDER / f"{name}_networks.csv", space)
    assert [network.pick for network in networks] == maker.picks_of(name)
    assert len({maker.network_key(network.pick) for network in networks}) == len(networks)
    assert len(networks) >= {"lspet": 200, "synthetic": 80}[name]
    trainings = read_trainings(FOLDER / f"{name}_trainings.csv")
    assert len({(one.network, one.seed) for one in trainings}) == len(trainings)
    assert {one.network for one in trainings} <= {network.number for network in networks}
    assert all(0 <= one.score <= 1 for one in trainings)
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 2e6
    assert all(network.scores for network in compress.bench(name).networks)


def test_what_costs_do_not_explain() -> None:
    """Values that are a line over log cost and a part that is orthogonal to it, which alone stays."""
    costs, left = [1.0, 10.0, 100.0, 1000.0], [1.0, -1.0, -1.0, 1.0]
    values = [0.2 + 0.1 * place + 0.01 * extra for place, extra in enumerate(left)]
    assert beyond_cost(values, costs) == pytest.approx([0.01 * extra for extra in left])


def test_wrong_names_and_broken_tables(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lspet"):
        bench("lspett")
    with pytest.raises(DataError, match=r"synthetic_networks\.csv"):
        bench("synthetic", tmp_path)
    for file in folder.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    file = tmp_path / "lspet_trainings.csv"
    file.write_text(file.read_text() + "3,1,0.")
    with pytest.raises(DataError, match="line 9"):
        bench("lspet", tmp_path)


def test_trainings_are_added_one_by_one_and_a_cut_one_starts_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = maker.RECIPES["synthetic"]
    data = tiny.data.model_copy(update={"synthetic": SyntheticData(train=8, val=4, people=(1, 1))})
    settings = tiny.training.model_copy(update={"warmup_steps": 0, "batch_size": 4})
    recipe = replace(tiny, networks=3, input_hw=(64, 64), data=data, training=settings)
    monkeypatch.setattr(maker, "RECIPES", {"synthetic": recipe})
    maker.pictures_of.cache_clear()
    given = Namespace(bench="synthetic", data=None, device="cpu", workers=1)
    file = tmp_path / "synthetic_trainings.csv"
    maker.train_all(given, [(2, 1)], 1, file)
    first = file.read_text()
    file.write_text(first + "1,1,0.")  # killed while it wrote
    maker.train_all(given, [(2, 1), (2, 2)], 1, file)
    maker.pictures_of.cache_clear()
    assert file.read_text().startswith(first)
    assert [(one.network, one.seed) for one in read_trainings(file)] == [(2, 1), (2, 2)]
    assert capsys.readouterr().out.count(" of 2: network 2 seed 2") == 1


def test_kind_and_expansion_of_a_branch_without_blocks_make_no_other_network() -> None:
    space = bench_space("lspet")
    pick = {**space.largest, "blocks.3.3": 0}
    alike = {**pick, "kinds.3": "ir", "expansions.3": 1}
    other = {**pick, "kinds.2": "ir"}
    assert maker.network_key(alike) == maker.network_key(pick) != maker.network_key(other)
    found = []
    for one in (pick, alike, other):
        torch.manual_seed(0)
        network = maker.architecture_of("lspet", one).build().eval()
        with torch.no_grad():
            found.append(network(torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64))[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_times_are_on_one_clock_and_go_on_where_they_were_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine that is twice as slow in the second call: the convolution beside is too, so the table is not."""
    slower = 1.0
    timed: list[list[str]] = []

    class Runtime:
        def export(self, network: object, hw: object, folder: Path, stem: str) -> list[Path]:
            return [folder / stem]

        def load(self, file: Path) -> float:
            return 2.0 + float(file.name.split("_")[1])  # its milliseconds

    def time_runners(runners: dict[str, float], *_: object) -> dict[str, Timing]:
        timed.append(list(runners))
        reference_ms = 0.5 * slower
        return {
            key: Timing(
                median_ms=ms * slower,
                q1_ms=0.9 * ms * slower,
                q3_ms=1.1 * ms * slower,
                ratio=ms * slower / reference_ms,
                normalised_ms=ms * slower,
                spread=0,
                uncertainty=0,
                count=9,
            )
            for key, ms in runners.items()
        }

    monkeypatch.setattr(maker, "engine", lambda name: Runtime())
    monkeypatch.setattr(maker, "time_runners", time_runners)
    monkeypatch.setattr(maker, "RECIPES", {"lspet": replace(maker.RECIPES["lspet"], networks=30)})
    file = tmp_path / "lspet_latency.csv"
    maker.write_latencies("lspet", tmp_path, ["ncnn", "mnn"], 5)
    whole = file.read_text()
    assert sum(map(len, timed)) == 60
    lines = whole.splitlines(keepends=True)
    file.write_text("".join(lines[: 1 + 24]) + "12,ncnn,1")  # the first group, and a line that was cut off
    timed.clear()
    slower = 2.0
    maker.write_latencies("lspet", tmp_path, ["ncnn", "mnn"], 5)
    assert file.read_text() == whole
    assert timed[0][0] == "12 ncnn"
    assert read_latencies(file)[7] == {"ncnn": 9.0, "mnn": 9.0}
    with pytest.raises(SystemExit, match="other engines"):
        maker.write_latencies("lspet", tmp_path, ["mnn"], 5)
