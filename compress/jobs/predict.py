"""`compress predict`: pictures in; pictures with skeletons, or COCO results, out."""

import copy
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from compress.artefacts.artefact import Network
from compress.artefacts.network import Named, trained_network
from compress.artefacts.records import to_plain
from compress.artefacts.results import DrawnPicture, Person, PredictResult, write_results
from compress.data.coco import CocoPeople, category_of_persons, is_whole, read_json
from compress.data.folder import Pictures
from compress.data.keypoints import KeypointSet
from compress.data.sets import notes_of, validation_set
from compress.errors import DataError
from compress.files import write_bytes, write_json
from compress.jobs.names import check_names
from compress.pose.approaches import check_joints, estimator_for
from compress.pose.decode.poses import Poses, coco_results
from compress.pose.drawing import draw_people
from compress.pose.estimator import WholePictures, boxes_for, estimate_poses
from compress.progress import Progress
from compress.recipe import PredictRecipe, changed
from compress.training.loop import best_device

COCO_RESULTS = "results.json"
"""What the format `coco` writes."""


def predict(
    named: Named, inputs: Sequence[Path], recipe: PredictRecipe, folder: Path, progress: Progress
) -> PredictResult:
    """Writes the people found in pictures to `folder`, in the recipe's format.

    drawn: every picture with its people, and `people.json`, which holds the result. coco: `results.json`, a COCO
    keypoint detection file that COCOeval reads, with the image ids and the category of the annotation file.

    inputs: picture files or folders of them; none where the recipe has data, whose validation pictures are taken then.
    A top-down network looks for people in the data's boxes; without data, for one person who fills the picture: cut
    persons out first. Broken pictures are left out and named in `skipped`. Raises DataError if nothing is left.
    """
    check_names(recipe)
    opened = trained_network(named, input_hw=recipe.input_hw, codec=recipe.codec)
    pictures, category, skipped = _pictures(inputs, recipe, opened.keypoints, opened.input_hw)
    check_joints(opened.architecture, pictures.keypoints, opened.name)
    estimator = estimator_for(
        opened.architecture,
        pictures.keypoints,
        opened.input_hw,
        codec=opened.metadata.codec,
        decoding=recipe.decoding,
        boxes=WholePictures() if recipe.data is None else boxes_for(recipe.data.detections, pictures),
        normalisation=opened.normalisation,
    )
    notes = [*_provenance(opened), *notes_of(pictures), *(f"left out: {error}" for error in skipped)]
    for note in notes:
        progress.say(note)
    as_results = recipe.format == "coco"
    least = recipe.min_score if not as_results or "min_score" in changed(recipe) else 0.0
    network = copy.deepcopy(opened.module).to(best_device())
    drawn: list[DrawnPicture] = []
    everybody: list[Person] = []
    with progress.phase("predict", len(pictures)) as phase:
        for found in estimate_poses(network, estimator, pictures, flip_test=recipe.decoding.flip_test, finite=True):
            source = pictures.path(found.index)
            people = [p for p in people_of(found.poses, pictures.image_id(found.index), category) if p.score >= least]
            everybody += people
            if not as_results:
                target = folder / f"{found.index:04d}_{source.stem}.png"
                _draw(pictures, found.index, people, target)
                drawn.append(DrawnPicture(str(source), target.name, tuple(people)))
            phase.advance(1, source.name)
    result = PredictResult(
        artefact=opened.name,
        folder=str(folder),
        pictures=len(pictures),
        people=len(everybody),
        drawn=tuple(drawn),
        results=COCO_RESULTS if as_results else None,
        skipped=tuple(str(error) for error in skipped),
        notes=tuple(notes),
    )
    if as_results:
        write_json(folder / COCO_RESULTS, to_plain(everybody))
    else:
        write_results(folder / "people.json", "predict", result)
    return result


def _pictures(
    inputs: Sequence[Path], recipe: PredictRecipe, keypoints: KeypointSet, input_hw: tuple[int, int]
) -> tuple[CocoPeople | Pictures, int, list[DataError]]:
    """The pictures to look at, the category that their people have, and what is wrong with those left out.

    Raises DataError.
    """
    if recipe.data is not None:
        labelled = validation_set(recipe.data, input_hw, seed=1)
        if not isinstance(labelled, CocoPeople):
            raise DataError(
                "people are predicted on pictures that lie on disk, with annotations in COCO's layout",
                place="--data",
                value=recipe.data.kind,
                remedy="give coco, crowdpose or lsp with their folder, or pictures alone",
            )
        whole = Pictures(inputs or [labelled.path(index) for index in range(len(labelled))])
        return _chosen(labelled, whole.files), labelled.person_category, whole.skipped
    if not inputs:
        raise DataError("there must be pictures", place="PICTURE", remedy="give files, folders, or --data KIND:FOLDER")
    if recipe.annotations is not None:
        ids, category = _numbered(recipe.annotations)
        pictures = Pictures(inputs, keypoints, ids)
        return pictures, category, pictures.skipped
    pictures = Pictures(inputs, keypoints)
    skipped = pictures.skipped
    if recipe.format == "coco":
        stems = [file.stem for file in pictures.files]
        if not all(stem.isascii() and stem.isdigit() for stem in stems):
            raise DataError(
                "COCO results name pictures by the ids of an annotation file",
                place="--format coco",
                value=next(stem for stem in stems if not (stem.isascii() and stem.isdigit())),
                remedy="give --annotations FILE or --data coco:FOLDER; without, the files' names must be the ids",
            )
        pictures = Pictures(pictures.files, keypoints, {file.name: int(file.stem) for file in pictures.files})
    return pictures, 1, skipped


def _chosen(labelled: CocoPeople, files: Sequence[Path]) -> CocoPeople:
    """Those of the labelled pictures that lie in these files. Raises DataError for a file that is none of them."""
    places = {labelled.path(index).resolve(): index for index in range(len(labelled))}
    for file in files:
        if file.resolve() not in places:
            raise DataError(
                "every picture must be one of the data's validation pictures",
                place=str(file),
                remedy=f"give pictures of {labelled.folder}, name their split with --set data.disk.val=..., or leave "
                "--data out",
            )
    return labelled.subset([places[file.resolve()] for file in files])


def _numbered(file: Path) -> tuple[dict[str, int], int]:
    """The image ids by `file_name`, and the category of persons, of a COCO annotation file. Raises DataError."""
    record = read_json(file)
    images = record.get("images") if isinstance(record, dict) else None
    if not isinstance(images, list) or not all(
        isinstance(one, dict) and isinstance(one.get("file_name"), str) and is_whole(one.get("id")) for one in images
    ):
        raise DataError(
            "'images' must be a list of objects with a file_name and a whole number as id",
            place=str(file),
            remedy="give a file in COCO's layout",
        )
    ids: dict[str, int] = {}
    for one in images:
        if ids.setdefault(one["file_name"], one["id"]) != one["id"]:
            raise DataError(
                "a file_name must have one id",
                place=str(file),
                value=one["file_name"],
                remedy="write the folder into each file_name, or remove one of them",
            )
    return ids, category_of_persons(record)


def people_of(poses: Poses, image_id: int, category: int) -> list[Person]:
    """COCO results of one picture, each with the box around the joints that were found."""
    people = []
    for entry in coco_results(poses, image_id, category):
        joints = np.reshape(entry["keypoints"], (-1, 3))
        found = joints[joints[:, 2] > 0, :2] if (joints[:, 2] > 0).any() else joints[:, :2]
        (x, y), (width, height) = found.min(axis=0).tolist(), np.ptp(found, axis=0).tolist()
        people.append(Person(image_id, category, tuple(entry["keypoints"]), entry["score"], (x, y, width, height)))
    return people


def _draw(pictures: CocoPeople | Pictures, index: int, people: Sequence[Person], target: Path) -> None:
    drawn = draw_people(pictures.image(index), [person.keypoints for person in people], pictures.keypoints)
    encoded, content = cv2.imencode(".png", drawn[:, :, ::-1])
    if not encoded:
        raise DataError("the picture could not be encoded", place=str(target), remedy="check the disk")
    write_bytes(target, content.tobytes())


def _provenance(network: Network) -> list[str]:
    """A word of warning before anything is drawn by a network that has never seen a photograph."""
    data = network.metadata.data
    if data is None or data.kind != "synthetic":
        return []
    return [
        "the network was trained on synthetic people only: on photographs it finds people where there are none and "
        "misses those there are; train it on photographs, such as --data coco:FOLDER, before you rely on it"
    ]
