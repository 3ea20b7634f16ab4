"""Results that COCO's own evaluation reads, with the annotation file's ids; a network of synthetic people says so
first."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from compress.artefacts.artefact import save_artefact
from compress.artefacts.metadata import Metadata
from compress.data.folder import Pictures
from compress.data.synthetic import SyntheticPeople, write_coco
from compress.errors import CompressError, DataError, RecipeError
from compress.jobs.evaluate import evaluate
from compress.jobs.predict import _numbered, predict
from compress.jobs.train import train_network
from compress.networks.dir_bhrnet import DirBHRNet, equal_blocks
from compress.progress import Silent
from compress.recipe import Data, EvaluateRecipe, PredictRecipe, TrainRecipe, read_recipe

IDS = [139, 724, 37777, 8, 5000]
CATEGORY = 7


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic pictures as a COCO folder, with ids, a category and names of its own."""
    folder = tmp_path_factory.mktemp("coco")
    for split, seed, count in (("train", 1, 8), ("val", 2, len(IDS))):
        write_coco(SyntheticPeople(count, (64, 96), seed), folder / split)
        record = json.loads((folder / split / "annotations.json").read_text())
        if split == "val":
            number = {image["id"]: IDS[index] for index, image in enumerate(record["images"])}
            record["categories"][0]["id"] = CATEGORY
            for image in record["images"]:
                renamed = f"street_{image['id']}.png"
                (folder / split / "images" / image["file_name"]).rename(folder / split / "images" / renamed)
                image |= {"id": number[image["id"]], "file_name": renamed}
            for annotation in record["annotations"]:
                annotation |= {"image_id": number[annotation["image_id"]], "category_id": CATEGORY}
        (folder / f"person_keypoints_{split}.json").write_text(json.dumps(record))
        (folder / split / "annotations.json").unlink()
        for file in (folder / split / "images").iterdir():
            file.rename(folder / split / file.name)
        (folder / split / "images").rmdir()
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, coco: Path) -> Path:
    """A top-down network that has learned next to nothing; it answers to every box."""
    folder = tmp_path_factory.mktemp("trained")
    architecture = DirBHRNet(width=8, blocks=equal_blocks(0), head="heatmaps")
    save_artefact(folder / "start", architecture, architecture.build(), Metadata((64, 64), data=Data()))
    overrides = ["input_hw=[64, 64]", "training={epochs: 1, batch_size: 4}", "data.kind=coco"]
    recipe = read_recipe(None, TrainRecipe, [*overrides, f"data.disk.folder={coco}"])
    train_network(str(folder / "start"), recipe, folder / "run", Silent())
    return folder / "run"


def found_in(out: Path) -> list[dict[str, Any]]:
    results = json.loads((out / "results.json").read_text())
    assert isinstance(results, list)
    return results


def average_precision(file: Path, results: Path) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "keypoints")
        evaluation.params.catIds = [CATEGORY]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def test_results_of_a_data_set_score_what_evaluate_says(trained: Path, coco: Path, tmp_path: Path) -> None:
    data = ["data.kind=coco", f"data.disk.folder={coco}", "decoding={flip_test: true}"]
    found = predict(trained, [], read_recipe(None, PredictRecipe, ["format=coco", *data]), tmp_path, Silent())
    results = found_in(tmp_path)
    assert found.people == len(results) > 0
    assert {entry["image_id"] for entry in results} <= set(IDS)
    for entry in results:
        assert set(entry) == {"image_id", "category_id", "keypoints", "score", "bbox"}
        assert (entry["category_id"], len(entry["keypoints"])) == (CATEGORY, 51)
        joints = np.reshape(entry["keypoints"], (17, 3))
        x, y, _ = joints[joints[:, 2] > 0].T
        assert entry["bbox"] == pytest.approx([x.min(), y.min(), np.ptp(x), np.ptp(y)])
    scored = evaluate(trained, read_recipe(None, EvaluateRecipe, data), Silent())
    file = coco / "person_keypoints_val.json"
    assert average_precision(file, tmp_path / "results.json") == pytest.approx(scored.score.value, abs=1e-5)


def test_results_of_a_folder_have_the_ids_of_its_annotation_file(trained: Path, coco: Path, tmp_path: Path) -> None:
    file = coco / "person_keypoints_val.json"
    by_file = read_recipe(None, PredictRecipe, ["format=coco", f"annotations={file}"])
    predict(trained, [coco / "val"], by_file, tmp_path / "a", Silent())
    names = {image["id"]: image["file_name"] for image in json.loads(file.read_text())["images"]}
    for entry in found_in(tmp_path / "a"):
        assert names[entry["image_id"]].startswith("street_")
        assert entry["category_id"] == CATEGORY
    assert average_precision(file, tmp_path / "a" / "results.json") >= 0
    by_data = read_recipe(None, PredictRecipe, ["format=coco", "data.kind=coco", f"data.disk.folder={coco}"])
    one = coco / "val" / names[IDS[3]]
    predict(trained, [one], by_data, tmp_path / "b", Silent())
    assert {entry["image_id"] for entry in found_in(tmp_path / "b")} <= {IDS[3]}


def test_names_that_are_numbers_are_the_ids(trained: Path, coco: Path, tmp_path: Path) -> None:
    """As COCO's own pictures are named."""
    for number, picture in enumerate(sorted((coco / "val").iterdir())):
        shutil.copy(picture, tmp_path / f"{IDS[number]:012d}.png")
    recipe = read_recipe(None, PredictRecipe, ["format=coco"])
    predict(trained, [tmp_path], recipe, tmp_path / "out", Silent())
    assert {entry["image_id"] for entry in found_in(tmp_path / "out")} <= set(IDS)
    assert found_in(tmp_path / "out")
    with pytest.raises(DataError, match="--annotations FILE"):
        predict(trained, [coco / "val"], recipe, tmp_path / "other", Silent())


def test_what_has_no_id_is_refused(trained: Path, coco: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "stranger.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "bad.json").write_text('{"images": [{"file_name": "stranger.png", "id": "1"}]}')
    file = coco / "person_keypoints_val.json"
    refusals: list[tuple[list[str], type[CompressError], str]] = [
        ([f"annotations={file}"], DataError, "stranger.png: every picture must have an id"),
        (["data.kind=coco", f"data.disk.folder={coco}"], DataError, "stranger.png: .*validation pictures"),
        ([f"annotations={tmp_path / 'bad.json'}"], DataError, "whole number as id"),
        (["data.kind=synthetic"], DataError, "on disk"),
    ]
    for overrides, error, words in refusals:
        recipe = read_recipe(None, PredictRecipe, ["format=coco", *overrides])
        with pytest.raises(error, match=words):
            predict(trained, [tmp_path / "stranger.png"], recipe, tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()
    with pytest.raises(RecipeError, match="one of them"):
        read_recipe(None, PredictRecipe, [f"annotations={file}", "data.kind=synthetic"])


def test_pictures_of_one_name_have_the_ids_of_their_folders(trained: Path, coco: Path, tmp_path: Path) -> None:
    pictures = sorted((coco / "val").iterdir())
    places = ["a/000000.png", "b/000000.png", "b/c/000000.png", "single.png"]
    for place, picture in zip(places, pictures, strict=False):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, tmp_path / place)
    record = json.loads((coco / "person_keypoints_val.json").read_text())
    named = {"a/000000.png": 31, "b/000000.png": 32, "c/000000.png": 33, "elsewhere/single.png": 34}
    record["images"] = [{"file_name": name, "id": number} for name, number in named.items()]
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(record))
    ids, _ = _numbered(file)
    for order in (places, places[::-1]):
        files = [tmp_path / place for place in order]
        found = Pictures(files, ids=ids)
        assert [found.image_id(n) for n in range(4)] == [
            dict(zip(places, named.values(), strict=True))[p] for p in order
        ]
    (tmp_path / "d").mkdir()
    shutil.copy(pictures[0], tmp_path / "d" / "000000.png")
    shutil.copy(pictures[0], tmp_path / "d" / "single.png")
    recipe = read_recipe(None, PredictRecipe, ["format=coco", f"annotations={file}"])
    for names, said in (
        (["d/000000.png"], "must be clear from its path.*could be"),
        (["single.png", "d/single.png"], "no two pictures may have one id.*34"),
        (["a/000000.png", "a/000000.png"], "no two pictures may have one id.*31"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            predict(trained, [tmp_path / name for name in names], recipe, tmp_path / "out", Silent())
        assert "\n" not in str(caught.value)
    by_name = read_recipe(None, PredictRecipe, ["format=coco"])
    with pytest.raises(DataError, match="no two pictures may have one id"):
        predict(trained, [tmp_path / "a", tmp_path / "b"], by_name, tmp_path / "out", Silent())
    record["images"].append({"file_name": "a/000000.png", "id": 40})
    file.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"file_name must have one id.*a/000000\.png"):
        predict(trained, [tmp_path / "a"], recipe, tmp_path / "out", Silent())
    assert not (tmp_path / "out").exists()


class Heard(Silent):
    """Keeps what a job says, and when."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, list[tuple[str, bool]]()

    def say(self, message: str) -> None:
        self.said.append((message, self.folder.exists()))


@pytest.mark.parametrize(("kind", "warned"), [("synthetic", True), ("coco", False), (None, False)])
def test_a_network_that_has_seen_drawn_people_only_says_so_first(
    tmp_path: Path, kind: str | None, warned: bool
) -> None:
    architecture = DirBHRNet(width=8, blocks=equal_blocks(0), head="heatmaps")
    data = None if kind is None else Data.model_validate({"kind": kind, "disk": {"folder": "there"}})
    save_artefact(tmp_path / "a", architecture, architecture.build(), Metadata((64, 64), data=data))
    cv2.imwrite(str(tmp_path / "street.png"), np.zeros((64, 64, 3), np.uint8))
    heard = Heard(tmp_path / "out")
    found = predict(tmp_path / "a", [tmp_path / "street.png"], PredictRecipe(), tmp_path / "out", heard)
    assert [written for message, written in heard.said if "synthetic people" in message] == [False] * warned
    assert any("synthetic people" in note for note in found.notes) == warned
