"""`compress predict`: pictures in; pictures with skeletons and a COCO-style list of people out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from compress.artefact import load_artefact
from compress.data.folder import Pictures
from compress.decode.poses import coco_results
from compress.draw import draw_people
from compress.errors import DataError
from compress.evaluation import input_size, noted_keypoints
from compress.files import write_bytes, write_json
from compress.networks.architecture import check_input
from compress.objective import check_joints
from compress.people import WholePictures, find_people, finder_for
from compress.progress import Progress
from compress.recipe import PredictRecipe
from compress.training import best_device


def predict(
    artefact: Path, inputs: Sequence[Path], recipe: PredictRecipe, folder: Path, progress: Progress
) -> dict[str, Any]:
    """Writes every picture with its people drawn, and `people.json`, to `folder`. Returns what people.json holds.

    A top-down network looks for one person who fills the picture: cut persons out first.
    inputs: picture files or folders of them. Every picture is read once before any work, so a broken one stops the job.
    """
    loaded = load_artefact(artefact)
    input_hw = recipe.input_hw or input_size(loaded.facts, artefact)
    check_input(loaded.architecture, input_hw, "input_hw")
    pictures = Pictures(inputs, noted_keypoints(loaded.facts, artefact))
    check_joints(loaded.architecture, pictures.keypoints, str(artefact))
    finder = finder_for(
        loaded.architecture,
        pictures.keypoints,
        input_hw,
        exact=bool(loaded.facts.get("exact")),
        decoding=recipe.decoding,
        boxes=WholePictures(),
    )
    network = loaded.network.to(best_device())
    listed = []
    with progress.phase("predict", len(pictures)) as phase:
        for found in find_people(network, finder, pictures, flip_test=recipe.decoding.flip_test):
            index, poses = found.index, found.poses
            people = [p for p in coco_results(poses, index) if p["score"] >= recipe.min_score]
            source = pictures.files[index]
            target = folder / f"{index:04d}_{source.stem}.png"
            drawn = draw_people(pictures.image(index), people, pictures.keypoints)
            encoded, content = cv2.imencode(".png", drawn[:, :, ::-1])
            if not encoded:
                raise DataError("the picture could not be encoded", place=str(target), remedy="check the disk")
            write_bytes(target, content.tobytes())
            listed.append({"file": str(source), "drawn": target.name, "people": people})
            phase.advance(1, source.name)
    result = {"artefact": str(artefact), "folder": str(folder), "pictures": listed}
    write_json(folder / "people.json", result)
    return result
