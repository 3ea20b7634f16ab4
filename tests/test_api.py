"""The Python API: networks in memory, recipes' keys as keywords, errors in its own words."""

import copy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import compress
from compress import api
from compress.artefacts.results import SearchResult, read_results
from compress.errors import ArtefactError, DataError, NetworkError, RecipeError, RunError
from compress.jobs.search import search as search_job
from compress.measure.target import Target
from compress.networks.dir_bhrnet import DirBHRNet, equal_blocks
from compress.pruning.importance import criterion_named
from compress.recipe import EvaluateRecipe, PruneRecipe, SearchRecipe, TrainRecipe

HW = (64, 64)
TOP_DOWN = DirBHRNet(width=8, blocks=equal_blocks(0), head="heatmaps")
QUICK: dict[str, Any] = {
    "data": {"synthetic": {"train": 8, "val": 4}},
    "training": {"epochs": 1, "batch_size": 4, "warmup_steps": 0},
    "targets": ["onnxruntime"],
    "rounds": 4,
}
HEAVY = ("torch", "numpy", "pydantic", "rich", "yaml", "cv2", "typer")


class Own(nn.Module):
    """A user's top-down network with a large kernel and an exponential."""

    def __init__(self, arguments: str) -> None:  # which nobody can guess from outside
        super().__init__()
        self.arguments = arguments
        self.first, self.second = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 7, 2, 3)
        self.norm, self.act, self.maps = nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 17, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.maps(self.act(self.norm(self.second(self.act(self.first(images))))))


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own for temporary files, for the cache, and to work in; the first is given."""
    temporary = tmp_path / "temporary"
    for folder in (temporary, tmp_path / "work"):
        folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "work")
    return temporary


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artefact that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("api") / "trained"
    keys = {key: QUICK[key] for key in ("data", "training")}
    compress.train(TOP_DOWN, input_hw=HW, folder=folder, decoding={"flip_test": True}, progress=False, **keys)
    return folder


def left_in(temporary: Path) -> list[Path]:
    """Ours; torch keeps an empty folder of its own."""
    return list(temporary.glob("compress-*"))


def images() -> Tensor:
    return torch.randn(1, 3, *HW, generator=torch.Generator().manual_seed(0))


# --- The package -----------------------------------------------------------------------------------------------------


def test_importing_the_package_loads_none_of_its_libraries() -> None:
    code = f"import sys, compress; print([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_the_package_has_what_it_lists_and_nothing_else() -> None:
    assert set(compress.__all__) <= set(dir(compress))
    for name in compress.__all__:
        thing = getattr(compress, name)
        assert name == "__version__" or thing.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = compress.prun


# --- A user's own module, from end to end ----------------------------------------------------------------------------


def test_a_module_is_pruned_rewritten_exported_saved_and_read_again(tmp_path: Path, places: Path) -> None:
    torch.manual_seed(0)
    module = Own("anything")
    before = copy.deepcopy(module.state_dict())

    network = compress.load(module, input_hw=HW)
    small = compress.prune(network, macs=0.6, multiple=2, targets=["onnxruntime"], rounds=4)
    fast = compress.rewrite(small, target="onnxruntime", rules=["conv_to_3x3"], min_gain=0, rounds=4)

    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert network.result is None
    assert small.result is not None
    assert small.result.goal is not None
    assert small.result.goal.reached == pytest.approx(0.6, abs=0.05)
    assert small.result.pruned.macs < small.result.given.macs
    assert "channels pruned" in small.edits
    assert small.module(images())[0].shape == (1, 17, 16, 16)
    assert fast.result is not None
    assert not left_in(places)  # nothing is left on disk
    assert not list(Path.cwd().iterdir())

    exported = fast.export(tmp_path / "out", engines=["onnxruntime"])
    assert [one.engine for one in exported.exports] == ["onnxruntime"]
    assert {file.name for file in (tmp_path / "out").iterdir()} >= set(exported.exports[0].files)
    fast.save(tmp_path / "fast")
    again = compress.load(tmp_path / "fast", module=Own("other weights"))
    assert torch.equal(again.module(images())[0], fast.module(images())[0])
    with pytest.raises(NetworkError, match=r"compress\.load\(FOLDER, module=\.\.\.\)"):
        compress.load(tmp_path / "fast")


def test_the_given_network_comes_back_where_no_replacement_pays() -> None:
    network = compress.load(nn.Conv2d(3, 17, 3, 2, 1), input_hw=HW)
    same = compress.rewrite(network, targets=["onnxruntime"], rounds=4)
    assert same.result is not None
    assert same.result.rewritten is None
    assert torch.equal(same.module(images())[0], network.module(images())[0])


@pytest.mark.parametrize("named", ["mobileposenet", TOP_DOWN])
def test_names_and_records_are_networks(named: Any) -> None:
    network = compress.load(named, input_hw=HW)
    assert compress.load(network).architecture == network.architecture
    profile = compress.profile(network)
    assert profile.input_hw == HW
    assert profile.macs == compress.profile(named, input_hw=HW).macs


# --- Trained networks ------------------------------------------------------------------------------------------------


def test_a_trained_network_is_evaluated_and_finds_people(trained: Path, tmp_path: Path, places: Path) -> None:
    network = compress.load(trained)
    assert network.input_hw == HW
    score = compress.evaluate(trained, decoding={"flip_test": True}).score
    assert score == compress.evaluate(network, recipe=EvaluateRecipe(decoding={"flip_test": True})).score
    picture = np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8)
    found = compress.predict(network, [picture, picture], min_score=0)
    assert found.pictures == found.people == 2
    assert len(found.drawn[0].people[0].keypoints) == 3 * 17
    assert not left_in(places)
    kept = compress.predict(trained, picture, min_score=0, folder=tmp_path / "drawn")
    assert (tmp_path / "drawn" / kept.drawn[0].drawn).is_file()


def test_training_in_memory_is_training_in_a_folder(trained: Path, places: Path) -> None:
    keys = {key: QUICK[key] for key in ("data", "training")}
    network = compress.train(TOP_DOWN, input_hw=HW, decoding={"flip_test": True}, **keys)
    kept = compress.load(trained)
    assert not left_in(places)
    assert network.metadata.score == kept.metadata.score
    assert all(torch.equal(a, b) for a, b in zip(network.module.parameters(), kept.module.parameters(), strict=True))


def test_a_folder_keeps_the_run_and_its_report(trained: Path, tmp_path: Path) -> None:
    goal = {"ratio": 0.3, "multiple": 2, "pictures": 2}
    small = compress.prune(trained, folder=tmp_path / "run", **goal, **QUICK)
    assert {"results.json", "report.md", "architecture.yaml"} <= {file.name for file in (tmp_path / "run").iterdir()}
    again = compress.prune(trained, folder=tmp_path / "run", **goal, **QUICK)  # which has finished
    assert again.result == small.result
    assert small.metadata.score == compress.load(tmp_path / "run").metadata.score


def test_a_search_gives_its_front_in_memory(trained: Path, monkeypatch: pytest.MonkeyPatch, places: Path) -> None:
    real = read_results(Path(__file__).parent / "report" / "search" / "results.json", "search", SearchResult)
    wanted: list[SearchRecipe] = []

    def found(recipe: SearchRecipe, folder: Path, progress: object, given: object) -> SearchResult:
        assert given is None
        wanted.append(recipe)
        for network in real.networks:
            compress.load(trained).save(folder / network.folder)
        return real

    monkeypatch.setattr(search_job, "search", found)
    outcome = compress.search(space="bhrnet_small", trials=7, finalists={"count": 2})
    assert [network.name for network in outcome.front] == list(real.best)
    assert [network.result for network in outcome.front] == list(real.front)
    assert list(outcome.networks) == [network.name for network in real.networks]
    assert outcome.front[0].module(images())[0].shape[1] == 17
    assert wanted[0].search.space == "bhrnet_small"
    assert (wanted[0].search.trials, wanted[0].finalists.count) == (7, 2)
    assert f"  {real.best[0]}" in str(outcome)
    assert not left_in(places)


# --- Keywords --------------------------------------------------------------------------------------------------------


def settings(model: Any, recipe: Any = None, section: str | None = None, **keys: Any) -> Any:
    return api._settings(model, recipe, keys, section)


def test_keywords_are_the_recipes_keys() -> None:
    found = settings(
        PruneRecipe, "prune_bhrnet", "pruning", macs=0.5, seed=7, training={"epochs": 3, "loss": {"pull": 0.5}}
    )
    shipped = settings(PruneRecipe, "prune_bhrnet", "pruning")
    assert (found.pruning.macs, found.seed, found.training.epochs, found.training.loss.pull) == (0.5, 7, 3, 0.5)
    assert found.pruning.latency is None  # the given goal instead of the recipe's
    assert shipped.pruning.latency is not None
    assert found.training.learning_rate == shipped.training.learning_rate  # a section's other keys stay
    assert found.pruning.allocate == shipped.pruning.allocate


@pytest.mark.parametrize(
    "recipe", [{"seed": 3}, PruneRecipe(seed=3), "recipe.yaml", Path("recipe.yaml")], ids=lambda one: type(one).__name__
)
def test_a_recipe_is_a_mapping_a_record_or_a_file(recipe: Any) -> None:
    Path("recipe.yaml").write_text("{seed: 3}")
    assert settings(PruneRecipe, recipe, "pruning", ratio=0.5) == PruneRecipe(seed=3, pruning={"ratio": 0.5})


def test_a_given_mapping_is_not_changed() -> None:
    recipe = {"training": {"epochs": 3}}
    settings(TrainRecipe, recipe, "training", training={"epochs": 5})
    assert recipe == {"training": {"epochs": 3}}


def test_data_is_written_as_on_the_command_line(tmp_path: Path) -> None:
    found = settings(TrainRecipe, None, "training", data=f"coco:{tmp_path}").data
    assert (found.kind, found.disk.folder) == ("coco", tmp_path)
    with pytest.raises(RecipeError, match=r"^data: it is KIND or KIND:FOLDER"):
        settings(TrainRecipe, None, "training", data="synthetic:here")
    with pytest.raises(DataError, match="the dataset folder must exist"):
        settings(TrainRecipe, None, "training", data="coco:nowhere")


def test_a_target_or_several_stand_for_the_recipes() -> None:
    assert settings(PruneRecipe, None, "pruning", **api._target("ncnn", {})).targets == (Target("ncnn"),)
    both = ["ncnn:threads=1", Target("mnn")]
    assert settings(PruneRecipe, None, "pruning", **api._target(both, {})).targets == (Target("ncnn"), Target("mnn"))
    with pytest.raises(RecipeError, match=r"^targets: target stands for targets"):
        api._target("ncnn", {"targets": "mnn"})


def mine(scored: Any) -> dict[int, float]:
    """A criterion of a user's own."""
    return {}


def test_an_object_stands_where_the_recipe_names_one() -> None:
    found = settings(PruneRecipe, None, "pruning", criterion=mine, ratio=0.5)
    assert criterion_named(found.pruning.criterion).score is mine


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"mac": 0.5}, "mac: unknown key; did you mean 'macs'?"),
        ({"job": "prune"}, "job: unknown key"),
        ({"training": {"epoch": 3}}, "training.epoch: unknown key; did you mean 'epochs'?"),
        ({"macs": 1.5}, "macs: it must be less than 1 (found 1.5); correct the value"),
        ({"macs": 0.5, "ratio": 0.5}, "macs, ratio: there must be one goal, not ratio and macs"),
        ({"training": {"epochs": 0}}, "training.epochs: it must be greater than or equal to 1 (found 0)"),
    ],
)
def test_mistakes_in_keywords_name_them(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        compress.prune("mobileposenet", **keys)
    assert words in str(caught.value)


# --- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: compress.load("mobilposenet"), ArtefactError, "network: "),
        (lambda: compress.prune("mobileposenet"), RecipeError, "compress.prune: there must be a goal"),
        (lambda: compress.prune("mobileposenet", macs=0.5, data="synthetic"), DataError, "data: "),
        (lambda: compress.train("mobileposenet", data="coco"), RecipeError, "data.kind: kind coco needs disk.folder"),
        (lambda: compress.prune("mobileposenet", macs=0.5, criterion="taylr"), RecipeError, "criterion: no such"),
        (lambda: compress.predict("mobileposenet"), DataError, "finds nobody; train it first (compress.train)"),
        (lambda: compress.predict("mobileposenet", np.zeros((8, 8))), DataError, "pictures[0]: a picture is an array"),
        (lambda: compress.train("mobileposenet", folder="/proc/nowhere"), RunError, "the output folder"),
    ],
)
def test_errors_name_keywords_and_no_options(call: Callable[[], object], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)
    assert "--" not in str(caught.value)
    assert isinstance(caught.value, compress.CompressError)
    assert caught.value.place in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("give it with --set input_hw=[H,W]", "give it with input_hw=[H,W]"),
        ("choose another --run folder", "choose another folder"),
        (
            "give one of --ratio R, --macs R, --latency MS|R%",
            "give one of ratio R, macs R, latency SHARE or latency_ms MS",
        ),
        ("give --min-gain", "give min_gain"),
        (
            "train it, such as --data coco:FOLDER, or leave --data out",
            'train it, such as data="coco:FOLDER", or leave data out',
        ),
        (
            "train it first (compress train) and give the run's folder",
            "train it first (compress.train) and give the run's folder",
        ),
        (
            "time them anew with `compress latency build --again`",
            "time them anew with `compress latency build --again`",
        ),
    ],
)
def test_options_become_keywords(text: str, words: str) -> None:
    assert api._keywords(text) == words


# --- What is shown ---------------------------------------------------------------------------------------------------


def test_networks_show_themselves_and_escape_names(trained: Path, tmp_path: Path) -> None:
    network = compress.load(trained)
    lines = str(network).splitlines()
    assert lines[0] == "Network"
    assert any(line.split() == ["input", "64x64"] for line in lines)
    odd = tmp_path / "<b>bold"
    network.save(odd)
    html = compress.load(odd)._repr_html_()
    assert "&lt;b&gt;bold" in html
    assert "<b>" not in html


def test_progress_goes_where_it_is_sent(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compress.evaluate(trained)
    assert capsys.readouterr() == ("", "")  # nobody looks
    compress.evaluate(trained, progress=True)
    assert "evaluate: done, 4/4" in capsys.readouterr().err
