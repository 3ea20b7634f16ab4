"""All approaches by name: how people are found with a network that gives maps."""

from typing import Any

from compress.data.keypoints import KeypointSet
from compress.data.normalisation import IMAGENET, Normalisation
from compress.errors import NetworkError, RecipeError
from compress.extensions import Extensible
from compress.networks import Architecture
from compress.pose.approaches.approach import Approach, Setting
from compress.pose.approaches.associative_embedding import AssociativeEmbedding
from compress.pose.approaches.part_affinity import PartAffinity
from compress.pose.approaches.sim_cc import SimCC
from compress.pose.approaches.top_down import TopDown
from compress.pose.codec import Codec
from compress.pose.estimator import Boxes, PoseEstimator
from compress.pose.objective import Objective
from compress.recipe import Decoding, Training, changed

APPROACHES: dict[str, Approach] = {
    one.name: one for one in (TopDown(), SimCC(), AssociativeEmbedding(), PartAffinity())
}


def approach_of(architecture: Architecture) -> Approach:
    """The approach of the network, see compress.extensions. Raises NetworkError naming the nearest known one."""
    return _APPROACHES.find(architecture.approach, f"{architecture.family}: approach")


def _accept(given: Any) -> Approach | None:
    """An approach, or what makes one without arguments."""
    made = given() if isinstance(given, type) else given
    return made if hasattr(made, "objective") and hasattr(made, "estimator") else None


_APPROACHES = Extensible(
    "approach",
    "compress.approaches",
    APPROACHES,
    _accept,
    "an object of a subclass of compress.pose.approaches.Approach",
    NetworkError,
)


def objective_for(
    architecture: Architecture,
    keypoints: KeypointSet,
    input_hw: tuple[int, int],
    training: Training,
    codec: Codec,
    normalisation: Normalisation = IMAGENET,
) -> Objective:
    """What a network of this architecture learns from. normalisation: of its inputs.

    Raises NetworkError unless the network has the data's joints, RecipeError for settings of another approach.
    """
    approach = approach_of(architecture)
    check_joints(architecture, keypoints, architecture.family)
    check_training(architecture, training, codec)
    return approach.objective(Setting(architecture, keypoints, input_hw, codec, normalisation), training)


def check_training(architecture: Architecture, training: Training, codec: Codec, section: str = "training") -> None:
    """Raises RecipeError for settings, or a codec, of another approach. section: of the recipe, with the settings."""
    approach = approach_of(architecture)
    given = {*changed(training), *(f"loss.{key}" for key in changed(training.loss))}
    if unread := sorted(given & approach.unread):
        raise RecipeError(
            f"a network of the approach {approach.name} does not read this key",
            place=f"recipe: {section}.{unread[0]}",
            remedy="leave it out",
        )
    _check_codec(approach, codec)


def estimator_for(
    architecture: Architecture,
    keypoints: KeypointSet,
    input_hw: tuple[int, int],
    *,
    codec: Codec,
    decoding: Decoding,
    boxes: Boxes,
    normalisation: Normalisation = IMAGENET,
) -> PoseEstimator:
    """How people are found with a network of this architecture. codec, normalisation: that it was trained with.

    Raises RecipeError for a codec of another approach.
    """
    approach = approach_of(architecture)
    _check_codec(approach, codec)
    return approach.estimator(Setting(architecture, keypoints, input_hw, codec, normalisation), decoding, boxes)


def check_joints(architecture: Architecture, keypoints: KeypointSet, place: str) -> None:
    """Raises NetworkError unless the network's maps are for the data's joints."""
    approach = approach_of(architecture)
    wanted = approach.joints(keypoints)
    found = {name: getattr(architecture, name, None) for name in wanted}
    if found != wanted:
        raise NetworkError(
            f"the network must have the data's {approach.maps_are_of}, {_shown(wanted)}",
            place=place,
            value=_shown(found),
            remedy="build it with these, or take it by its name to train it from random weights",
        )


def _shown(numbers: dict[str, int] | dict[str, int | None]) -> object:
    """One number alone, several as a tuple."""
    values = tuple(numbers.values())
    return values[0] if len(values) == 1 else values


def _check_codec(approach: Approach, codec: Codec) -> None:
    if unfit := approach.unfit_codec(codec):
        raise RecipeError(
            f"a network of the approach {approach.name} has no such codec",
            place=f"recipe: codec.{unfit[0]}",
            value=getattr(codec, unfit[0]),
            remedy=approach.codecs,
        )


__all__ = [
    "APPROACHES",
    "Approach",
    "Setting",
    "approach_of",
    "check_joints",
    "estimator_for",
    "objective_for",
]
