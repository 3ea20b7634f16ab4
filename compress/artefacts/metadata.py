"""What an artefact says of its network beside its structure; written and read here and nowhere else."""

from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, with_config

from compress.artefacts.records import from_plain, to_plain
from compress.data.keypoints import COCO_PERSON, KEYPOINT_SETS, KeypointSet
from compress.data.normalisation import IMAGENET, Normalisation
from compress.errors import ArtefactError
from compress.pose.codec import Codec
from compress.pose.scoring import Score
from compress.recipe import Data

RANDOM_WEIGHTS = "random weights"
"""Provenance of the weights of a known network: its record and a seed say all of them."""

OWN_WEIGHTS = "as they came with the network"
"""Provenance of the weights of a network of the user's own, before any job."""

_OURS = Codec()


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Imported:
    """A public checkpoint that weights came from. source: the project. file: its name. backbone_only: the head was left
    random."""

    source: str
    file: str
    backbone_only: bool = False


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Metadata:
    """What must be known of a network to use it as it was trained.

    input_hw: height and width of its input. origin: the NETWORK that it was made from. keypoints: name of its joints in
    KEYPOINT_SETS; None where nobody said, which counts as COCO's. codec: that its maps are decoded with. normalisation:
    of its input. provenance: how its weights came about, such as `training of 10 epochs`. data: that it was trained
    and scored on; None without training. seed: of that run. score: on the validation pictures, the mirror image too
    with flip_test. imported: the public checkpoint that it started from.
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
    imported: Imported | None = None

    def __post_init__(self) -> None:
        known = ", ".join(KEYPOINT_SETS)
        for name, holds, rule in (
            ("input_hw", min(self.input_hw) > 0, "a height and a width above 0"),
            ("keypoints", self.keypoints is None or self.keypoints in KEYPOINT_SETS, f"one of {known}"),
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
