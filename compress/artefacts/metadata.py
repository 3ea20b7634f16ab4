"""What an artefact says of its network beside its structure; written and read here and nowhere else."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, with_config

from compress.artefacts.records import from_plain, to_plain
from compress.data.keypoints import COCO_PERSON, KEYPOINT_SETS, KeypointSet
from compress.data.transforms import IMAGENET, Normalisation
from compress.errors import ArtefactError
from compress.pose.codec import Codec
from compress.pose.scoring import Score
from compress.recipe import Data, noted_data

RANDOM_WEIGHTS = "random weights"
"""Provenance of the weights of a known network: its record and a seed say all of them."""

OWN_WEIGHTS = "as they came with the network"
"""Provenance of the weights of a network of the user's own, before any job."""

_OURS = Codec()


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Metadata:
    """What must be known of a network to use it as it was trained.

    input_hw: height and width of its input. origin: the NETWORK that it was made from. keypoints: name of its joints in
    KEYPOINT_SETS; None where nobody said, which counts as COCO's. codec: that its maps are decoded with. normalisation:
    of its input. provenance: how its weights came about, such as `training of 10 epochs`. data: that it was trained
    and scored on; None without training. seed: of that run. score: on the validation pictures, the mirror image too
    with flip_test.
    """

    input_hw: tuple[int, int]
    origin: str = ""
    keypoints: str | None = None
    codec: Codec = _OURS
    normalisation: Normalisation = IMAGENET
    provenance: str = ""
    data: Data | None = None
    seed: int = 1
    flip_test: bool = False
    score: Score | None = None

    def __post_init__(self) -> None:
        known = ", ".join(KEYPOINT_SETS)
        for name, holds, rule in (
            ("input_hw", min(self.input_hw) > 0, "a height and a width above 0"),
            ("keypoints", self.keypoints is None or self.keypoints in KEYPOINT_SETS, f"one of {known}"),
            ("normalisation", self.normalisation == IMAGENET, f"ImageNet's, {IMAGENET}"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {rule}, not {getattr(self, name)}")

    @property
    def keypoint_set(self) -> KeypointSet:
        """The joints that the network finds."""
        return KEYPOINT_SETS[self.keypoints] if self.keypoints else COCO_PERSON


def metadata_to_data(metadata: Metadata) -> dict[str, Any]:
    """Plain data for YAML, every field written out."""
    plain: dict[str, Any] = to_plain(metadata)
    return plain


def metadata_from_data(data: Any, place: str) -> Metadata:
    """The inverse of metadata_to_data. place: the file, for the error. Raises ArtefactError."""
    return from_plain(Metadata, data, place, ArtefactError, "restore the file, or make the artefact again")


# --- Until every job takes a Network: metadata as the plain data of before -------------------------------------------


def metadata_from_facts(facts: Mapping[str, Any]) -> Metadata:
    """Of the dictionaries that jobs still write."""
    known = {one.name for one in fields(Metadata)} - {"score"}
    data = {key: value for key, value in facts.items() if key in known}
    assumed = {"input_hw": [256, 256], "data": {}, "origin": facts.get("network", "")}
    return metadata_from_data({**assumed, **data}, "facts")


def facts_of(metadata: Metadata) -> dict[str, Any]:
    """As jobs still read them."""
    data = metadata_to_data(metadata)
    return {key: value for key, value in data.items() if value is not None} | {"network": metadata.origin}


def input_size(facts: dict[str, Any], artefact: Path) -> tuple[int, int]:
    """The input size noted in an artefact's facts. Raises ArtefactError if there is none."""
    noted = facts.get("input_hw")
    if not (isinstance(noted, list) and len(noted) == 2 and all(isinstance(side, int) for side in noted)):
        raise ArtefactError(
            "an artefact's facts name its input size",
            place=f"{artefact}: facts.input_hw",
            value=noted,
            remedy="give it with --set input_hw=[H,W]",
        )
    return noted[0], noted[1]


def validation_data(facts: dict[str, Any], data: Data | None, seed: int | None) -> tuple[Data, int]:
    """What is asked for, else what an artefact's facts say it was validated on, else the default drawings.

    Raises ArtefactError if the facts' data is not a recipe's or their seed no number.
    """
    seed = facts.get("seed", 1) if seed is None else seed
    if not isinstance(seed, int) or seed < 0:
        raise ArtefactError(
            "a seed is a whole number, 0 or more",
            place="artefact: facts.seed",
            value=seed,
            remedy="give it with --set seed=1",
        )
    if data is None:
        data = noted_data(facts.get("data", {}), "artefact: facts.data")
    return data, seed


def noted_keypoints(facts: dict[str, Any], artefact: Path) -> KeypointSet:
    """The joints an artefact was trained for; COCO's where the facts do not say. Raises ArtefactError."""
    name = facts.get("keypoints", "coco_person")
    if name not in KEYPOINT_SETS:
        raise ArtefactError(
            "the facts' keypoints must be a known set of joints",
            place=f"{artefact}: facts.keypoints",
            value=name,
            remedy=f"one of {', '.join(KEYPOINT_SETS)}",
        )
    return KEYPOINT_SETS[name]
