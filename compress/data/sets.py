"""The three sets of pictures a recipe asks for: to train on, to search with, to report on. They share no picture."""

from dataclasses import dataclass
from pathlib import Path

from compress.data.coco import CocoPeople
from compress.data.picture import PictureSet
from compress.data.synthetic import Difficulty, SyntheticPeople
from compress.errors import DataError
from compress.recipe import CocoData, Data


@dataclass(frozen=True)
class Sets:
    """train: labels to learn from. search: scores that choose candidates. val: scores that are reported."""

    train: PictureSet
    search: PictureSet
    val: PictureSet


def validation_set(data: Data, input_hw: tuple[int, int], seed: int) -> PictureSet:
    """The recipe's validation pictures alone. Raises DataError."""
    if data.kind == "coco":
        assert data.coco.folder is not None  # the recipe checked it
        return coco_split(data.coco.folder, data.coco.val, ("val2017", "val"))
    return _drawn(data, data.synthetic.val, 2, input_hw, seed)


def picture_sets(data: Data, input_hw: tuple[int, int], seed: int) -> Sets:
    """The recipe's sets. Synthetic pictures are drawn at the input's size. Raises DataError."""
    if data.kind == "coco":
        return _coco_sets(data.coco)
    return Sets(
        _drawn(data, data.synthetic.train, 0, input_hw, seed),
        _drawn(data, data.synthetic.search, 1, input_hw, seed),
        _drawn(data, data.synthetic.val, 2, input_hw, seed),
    )


def _drawn(data: Data, count: int, part: int, input_hw: tuple[int, int], seed: int) -> SyntheticPeople:
    settings = data.synthetic
    difficulty = Difficulty(
        people=settings.people,
        scale=settings.scale,
        clutter=settings.clutter,
        pose_spread=settings.pose_spread,
        tumble=settings.tumble,
        truncation=settings.truncation,
        occluder=settings.occluder,
    )
    # Parts of one seed: 3·seed, 3·seed+1, 3·seed+2 never meet those of another seed.
    return SyntheticPeople(count, input_hw, 3 * seed + part, difficulty=difficulty)


def coco_split(folder: Path, split: str | None, names: tuple[str, ...]) -> CocoPeople:
    """One split of a COCO folder.

    Pictures lie in SPLIT or images/SPLIT, labels in person_keypoints_SPLIT.json or annotations/ with that file.
    split None: the first of `names` that exists. Raises DataError if the folder, pictures or labels are missing.
    """
    if not folder.is_dir():
        raise DataError(
            "the dataset folder must exist", place=str(folder), remedy="set data.coco.folder to COCO's folder"
        )
    wanted = names if split is None else (split,)
    for name in wanted:
        labels = [folder / part / f"person_keypoints_{name}.json" for part in ("annotations", ".")]
        pictures = [folder / part / name for part in (".", "images")]
        found_labels = next((path for path in labels if path.is_file()), None)
        found_pictures = next((path for path in pictures if path.is_dir()), None)
        if found_labels and found_pictures:
            return CocoPeople(found_pictures, found_labels)
    raise DataError(
        f"a COCO folder holds pictures in {' or '.join(wanted)}, and person_keypoints_{wanted[0]}.json beside them or "
        "in annotations",
        place=str(folder),
        remedy="unpack COCO's archives there, or name the splits with data.coco.train and data.coco.val",
    )


def _coco_sets(settings: CocoData) -> Sets:
    assert settings.folder is not None  # the recipe checked it
    train = coco_split(settings.folder, settings.train, ("train2017", "train"))
    val = coco_split(settings.folder, settings.val, ("val2017", "val"))
    if settings.train is not None and settings.train == settings.val:
        raise DataError(
            "training and validation pictures must differ",
            place="data.coco",
            value=settings.train,
            remedy="name two splits",
        )
    held_out = settings.search
    if held_out >= len(train):
        raise DataError(
            "data.coco.search must leave pictures to train on",
            place=str(settings.folder),
            value=f"{held_out} of {len(train)}",
            remedy=f"use at most {len(train) // 4}",
        )
    # Evenly spaced, so that both parts are alike whatever the file's order.
    every = len(train) // held_out
    search = [index for index in range(len(train)) if index % every == 0][:held_out]
    rest = sorted(set(range(len(train))) - set(search))
    return Sets(train.subset(rest), train.subset(search), val)
