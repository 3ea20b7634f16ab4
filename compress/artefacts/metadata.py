"""What an artefact notes about its network: input size, data, keypoints."""

from pathlib import Path
from typing import Any

from compress.data.keypoints import KEYPOINT_SETS, KeypointSet
from compress.errors import ArtefactError
from compress.recipe import Data, noted_data


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
