"""The sets of pictures that a recipe names: to train on, to search with, to report on. They share no picture."""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from compress.data.coco import CocoPeople
from compress.data.keypoints import COCO_PERSON, CROWDPOSE, LSP
from compress.data.mpii import MpiiPeople
from compress.data.picture import PictureSet, part_of
from compress.data.synthetic import Difficulty, SyntheticPeople
from compress.errors import DataError, RecipeError
from compress.extensions import Extensible, is_module
from compress.recipe import Data, DiskData, data_folder


@dataclass(frozen=True)
class Sets:
    """train: labels to learn from. search: scores that choose candidates. val: scores that are reported."""

    train: PictureSet
    search: PictureSet
    val: PictureSet


Pictures = Callable[[Data, tuple[int, int], int], PictureSet]
"""A recipe's data section, the network's input size, the recipe's seed → pictures."""


@dataclass(frozen=True)
class DataKind:
    """One kind of data, which a recipe names as `data.kind`.

    train, val: what networks learn from and are reported on. search: what candidates are scored on; None holds out
    training pictures. metric: what networks are compared by, see compress.pose.scoring. crowded: AP with CrowdPose's
    constants. on_disk: whether it is read from `data.disk.folder`.
    """

    train: Pictures
    val: Pictures
    search: Pictures | None = None
    metric: Literal["AP", "PCKh", "PCK"] = "AP"
    crowded: bool = False
    on_disk: bool = False


def data_kind(named: str, place: str = "data.kind") -> DataKind:
    """The kind of that name, see compress.extensions. Raises DataError naming the nearest known one."""
    return _KINDS.find(named, place)


def kind_and_folder(text: str, place: str) -> tuple[str, str | None]:
    """What a user says of data in one text: KIND or KIND:FOLDER, where KIND may be `package.module:attribute`.

    What stands before the first colon is the kind if such a kind is known. Else the first two parts are, if a module of
    that name is found from the current folder; a folder may follow as a third. place: of the text, for errors. Raises
    DataError for a kind that is neither, RecipeError for a text of another form.
    """
    kind, _, folder = text.partition(":")
    attribute, _, rest = folder.partition(":")
    if not kind or (kind == "synthetic" and folder):
        raise RecipeError(
            "it is KIND or KIND:FOLDER, and synthetic pictures have no folder",
            place=place,
            value=text,
            remedy=f"name the kind of data in that folder: {', '.join(name for name in _KINDS.names if name != kind)}",
        )
    if kind not in _KINDS.names and _ATTRIBUTE.fullmatch(attribute) and is_module(kind):
        kind, folder = f"{kind}:{attribute}", rest
    data_kind(kind, place)
    return kind, folder or None


_ATTRIBUTE = re.compile(r"[A-Za-z_][\w.]*(\(\))?")


def check_data(data: Data, place: str) -> None:
    """Raises DataError for an unknown kind, then for a folder that is not there. place: of the kind."""
    data_kind(data.kind, place)
    if data.kind != "synthetic" and data.disk.folder is not None:
        data_folder(data.disk)


def data_of(network: str, given: Data | None, trained_on: Data | None) -> Data | None:
    """The data that a user names, else what the network was trained on; None without either.

    network: its name. Raises DataError for a kind in its metadata that is not known here.
    """
    if given is None and trained_on is not None:
        data_kind(trained_on.kind, f"{network}: metadata: data.kind")
    return given or trained_on


def validation_set(data: Data, input_hw: tuple[int, int], seed: int) -> PictureSet:
    """The recipe's validation pictures alone. Raises DataError."""
    return data_kind(data.kind).val(data, input_hw, seed)


def training_set(data: Data, input_hw: tuple[int, int], seed: int) -> PictureSet:
    """All of the recipe's training pictures that show a labelled person. Raises DataError.

    Synthetic ones are drawn at the input's size. Pictures without people are left out as in HigherHRNet's code: half of
    COCO shows none.
    """
    return data_kind(data.kind).train(data, input_hw, seed)


def train_and_val(data: Data, input_hw: tuple[int, int], seed: int) -> tuple[PictureSet, PictureSet]:
    """Training and validation pictures. Raises DataError, also where both label the same person."""
    train, val = training_set(data, input_hw, seed), validation_set(data, input_hw, seed)
    if isinstance(train, CocoPeople | MpiiPeople) and isinstance(val, CocoPeople | MpiiPeople):
        shared = _labelled(train) & _labelled(val)
        if shared:
            raise DataError(
                "training and validation pictures must differ",
                place=str(data.disk.folder),
                value=f"{len(shared)} persons in both, one in {min(shared)[0]}",
                remedy="name two splits that share none with data.disk.train and data.disk.val",
            )
    return train, val


def notes_of(*sets: PictureSet) -> list[str]:
    """What a user should know of how these sets were read from disk, each once."""
    notes = [f"{one.file}: {note}" for one in sets if isinstance(one, CocoPeople) for note in one.notes]
    return list(dict.fromkeys(notes))


def _labelled(pictures: CocoPeople | MpiiPeople) -> set[tuple[str, ...]]:
    """Every labelled person: the path of the picture, and the box."""
    folder = pictures.folder.resolve()
    paths = {image["id"]: str(folder / image["file_name"]) for image in pictures.coco["images"]}
    return {(paths[a["image_id"]], *map(str, a["bbox"])) for a in pictures.coco["annotations"]}


def picture_sets(data: Data, input_hw: tuple[int, int], seed: int, held_out_by: str = "data.disk.search") -> Sets:
    """The recipe's three sets; on disk, training pictures are held out to search with. Raises DataError.

    held_out_by: the key that says how many.
    """
    train, val = train_and_val(data, input_hw, seed)
    kind = data_kind(data.kind)
    if kind.search is not None:
        return Sets(train, kind.search(data, input_hw, seed), val)
    held_out = data.disk.search
    if held_out >= len(train):
        raise DataError(
            f"{held_out_by} must leave pictures to train on",
            place=str(data.disk.folder or data.kind),
            value=f"{held_out} of {len(train)}",
            remedy=f"--set {held_out_by}={max(1, len(train) // 4)}",
        )
    # Evenly spaced, so that the parts are alike whatever the file's order.
    every = len(train) // held_out
    search = [index for index in range(len(train)) if index % every == 0][:held_out]
    rest = sorted(set(range(len(train))) - set(search))
    return Sets(part_of(train, rest), part_of(train, search), val)


# --- Synthetic people ------------------------------------------------------------------------------------------------


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
    return SyntheticPeople(count, settings.picture_hw or input_hw, 3 * seed + part, difficulty=difficulty)


# --- Data sets on disk -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """How a data set lies on disk. train, val: usual names of the splits. labels: file names for a split S, which lie
    in one of _LABEL_FOLDERS. begins: what SPLIT.json begins with, by which kinds that share this name are told apart;
    '' where it is not told."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    labels: tuple[str, ...]
    begins: str = ""


_LAYOUTS = {
    "coco": _Layout(("train2017", "train"), ("val2017", "val"), ("person_keypoints_{}.json",)),
    "crowdpose": _Layout(("trainval", "train"), ("test", "val"), ("crowdpose_{}.json", "{}.json")),
    "mpii": _Layout(("train",), ("val", "valid"), ("mpii_{}.json", "{}.json"), begins="["),
    "lsp": _Layout(("train",), ("val", "test"), ("{}.json",), begins="{"),
}
_LABEL_FOLDERS = ("annotations", "annot", "json", ".")
_KEYPOINTS = {"coco": COCO_PERSON, "crowdpose": CROWDPOSE, "lsp": LSP}


def _train_split(data: Data, input_hw: tuple[int, int], seed: int) -> PictureSet:
    pictures = disk_split(data.kind, data.disk, data.disk.train, _LAYOUTS[data.kind].train)
    return pictures.subset([index for index in range(len(pictures)) if len(pictures.people(index))])


def _val_split(data: Data, input_hw: tuple[int, int], seed: int) -> PictureSet:
    return disk_split(data.kind, data.disk, data.disk.val, _LAYOUTS[data.kind].val)


def _val_split_with_heads(data: Data, input_hw: tuple[int, int], seed: int) -> PictureSet:
    if data.disk.heads is None:  # an error now, not after a long training
        raise DataError(
            "PCKh needs the validation people's head boxes",
            place="data.disk.heads",
            remedy="give the path of HRNet's gt_valid.mat",
        )
    return disk_split(data.kind, data.disk, data.disk.val, _LAYOUTS[data.kind].val, data.disk.heads)


def disk_split(
    kind: str, disk: DiskData, split: str | None, names: tuple[str, ...], heads: Path | None = None
) -> CocoPeople | MpiiPeople:
    """One split of a data set's folder. Pictures lie in SPLIT, images/SPLIT, images or the folder itself.

    split None: the first of `names` that exists. Raises DataError if the folder, pictures or labels are missing.
    """
    folder = data_folder(disk)
    layout = _LAYOUTS[kind]
    wanted = names if split is None else (split,)
    for name in wanted:
        files = [file.format(name) for file in layout.labels]
        places = [folder / part / file for file in files for part in _LABEL_FOLDERS]
        labels = next((path for path in places if path.is_file()), None)
        pictures = [folder / part for part in (name, f"images/{name}", "images", ".")]
        if labels is not None:
            found = next(path for path in pictures if path.is_dir())
            if kind == "mpii":
                return MpiiPeople(found, labels, heads)
            return CocoPeople(found, labels, _KEYPOINTS[kind])
    raise DataError(
        f"a {kind} folder holds {layout.labels[0].format(wanted[0])}, there or in annotations, and the pictures in "
        f"{' or '.join(wanted)} or images",
        place=str(folder),
        remedy="unpack the archives there, or name the splits with data.disk.train and data.disk.val",
    )


def kind_of_folder(folder: Path) -> str | None:
    """The kind of data that seems to lie in a folder, by the names of its files alone; None for none that is known."""
    for kind, layout in _LAYOUTS.items():
        for split in (*layout.train, *layout.val):
            if not any((folder / part).is_dir() for part in (split, f"images/{split}", "images")):
                continue
            for name, part in itertools.product(layout.labels, _LABEL_FOLDERS):
                file = folder / part / name.format(split)
                if file.is_file() and (name != "{}.json" or _begins(file) == layout.begins):
                    return kind
    return None


def _begins(file: Path) -> str:
    """The first character that is no blank, of the first thousand."""
    with file.open(encoding="utf-8", errors="replace") as text:
        return text.read(1000).lstrip()[:1]


# --- Kinds of data ---------------------------------------------------------------------------------------------------

DATA_KINDS: dict[str, DataKind] = {
    "synthetic": DataKind(
        train=lambda data, input_hw, seed: _drawn(data, data.synthetic.train, 0, input_hw, seed),
        search=lambda data, input_hw, seed: _drawn(data, data.synthetic.search, 1, input_hw, seed),
        val=lambda data, input_hw, seed: _drawn(data, data.synthetic.val, 2, input_hw, seed),
    ),
    "coco": DataKind(_train_split, _val_split, on_disk=True),
    "crowdpose": DataKind(_train_split, _val_split, crowded=True, on_disk=True),
    "mpii": DataKind(_train_split, _val_split_with_heads, metric="PCKh", on_disk=True),
    "lsp": DataKind(_train_split, _val_split, metric="PCK", on_disk=True),
}


def _accept(given: Any) -> DataKind | None:
    """A kind; three sets; one set, for commands that only validate; or a function that gives either for a recipe."""
    if isinstance(given, DataKind):
        return given
    if isinstance(given, Sets):
        return DataKind(lambda *_: given.train, lambda *_: given.val, lambda *_: given.search)
    if all(hasattr(given, name) for name in ("keypoints", "coco", "image", "people")) and not isinstance(given, type):
        return DataKind(_nothing_to_train_on, lambda *_: given)
    if not callable(given):
        return None

    def part(name: str) -> Pictures:
        def pictures(data: Data, input_hw: tuple[int, int], seed: int) -> PictureSet:
            made = _accept(given(data, input_hw, seed))
            if made is None:
                raise DataError(
                    "the function must return compress.data.sets.Sets, or one PictureSet to validate on",
                    place=data.kind,
                    remedy="correct it",
                )
            found: Pictures = getattr(made, name)
            return found(data, input_hw, seed)

        return pictures

    return DataKind(part("train"), part("val"), part("search"))


def _nothing_to_train_on(data: Data, input_hw: tuple[int, int], seed: int) -> PictureSet:
    raise DataError(
        "this data is one set of pictures, to validate on; here others are learned from",
        place=data.kind,
        remedy="give compress.data.sets.Sets(train, search, val)",
    )


_KINDS = Extensible(
    "kind of data",
    "compress.data",
    DATA_KINDS,
    _accept,
    "a DataKind, Sets, a PictureSet, or a function of a recipe's data section, the input size and the seed",
    DataError,
)
