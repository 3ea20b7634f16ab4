"""What an approach is: the contract that everything else has with it. A new one is one file and one line in APPROACHES.

In a file the order is that of a network's life: samples of training pictures, the loss on them, how pictures go in when
people are looked for, how the maps that come out are decoded.
"""

from dataclasses import dataclass
from typing import Protocol

from compress.data.keypoints import KeypointSet
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.picture import Floats
from compress.data.transforms import Augmentation
from compress.networks import Architecture
from compress.pose.codec import Codec
from compress.pose.estimator import Boxes, PoseEstimator
from compress.pose.objective import Objective, PoseLoss
from compress.recipe import Augment, Decoding, Loss, Training


@dataclass(frozen=True)
class Setting:
    """What objective and estimator of a network go by. input_hw, normalisation: of its input. codec: of its maps."""

    architecture: Architecture
    keypoints: KeypointSet
    input_hw: tuple[int, int]
    codec: Codec
    normalisation: Normalisation = IMAGENET

    @property
    def map_strides(self) -> tuple[int, ...]:
        """Input pixels per cell of each output, where all outputs are maps."""
        return tuple(int(stride) for stride in self.architecture.output_strides)


class Approach(Protocol):
    """One way to find people with a network that gives maps."""

    @property
    def name(self) -> str:
        """Its key in APPROACHES, and what architecture records call it."""
        ...

    @property
    def does(self) -> str:
        """One line for the user."""
        ...

    @property
    def unread(self) -> frozenset[str]:
        """Keys of a recipe's `training` that are for other approaches, such as `augment` and `loss.pull`."""
        return frozenset()

    @property
    def per_person(self) -> bool:
        """Whether an input is one person, cut out by a box, and each box gives one pose; else a whole picture is."""
        return False

    @property
    def in_stages(self) -> bool:
        """Whether every output is a better version of one map, so that networks with fewer or more of them compare."""
        return False

    @property
    def maps_are_of(self) -> str:
        """What the numbers of `joints` count, for errors."""
        return "joints"

    @property
    def codecs(self) -> str:
        """Which codecs it can have, as the remedy of an error."""
        return "use codec ours"

    def joints(self, keypoints: KeypointSet) -> dict[str, int]:
        """Fields of an architecture record → the values they must have for the joints of the data."""
        return {"keypoints": len(keypoints)}

    def parts_of_output(self, channels: int, keypoints: int) -> set[int]:
        """Numbers of channels that an output's are the sum of, if the network makes them apart. keypoints: of the
        architecture."""
        return set()

    def unfit_codec(self, codec: Codec) -> list[str]:
        """The codec's keys with a value that networks of this approach cannot be trained with or decoded by."""
        return []

    def objective(self, setting: Setting, training: Training) -> Objective:
        """What a network learns from."""
        ...

    def estimator(self, setting: Setting, decoding: Decoding, boxes: Boxes) -> PoseEstimator:
        """How people are found with a network. boxes: where persons are, read if per_person."""
        ...

    def perfect_maps(self, setting: Setting, joints_pk3: Floats) -> list[Floats]:
        """Every output that a perfect network gives for one input with these people. [P,K,3] in input pixels → [C,h,w]
        each."""
        ...

    def decodings(self, codec: Codec, plain: Decoding) -> list[tuple[str, Codec, Decoding]]:
        """The ways to decode its maps that a user can choose from, by name.

        codec: that the maps were made with; plain: one pass, nothing suppressed.
        """
        return [("as it is", codec, plain)]


def limb_keys(codec: Codec) -> list[str]:
    """The codec's keys for part affinity fields that are not the default."""
    plain = Codec()
    return [key for key in ("limb_width", "upsample") if getattr(codec, key) != getattr(plain, key)]


def loss_weights(loss: Loss, outputs: int) -> PoseLoss:
    """A recipe's loss for a network of so many outputs."""
    return PoseLoss((loss.heatmap,) * outputs, loss.pull, loss.push, paper_tags=loss.tags == "dir_bhrnet")


def picture_augmentation(augment: Augment) -> Augmentation:
    """A recipe's augmentation of whole pictures."""
    return Augmentation(augment.rotation_deg, augment.scale, augment.translate_px, augment.flip)
