"""What every set of pictures with labelled persons offers, wherever it comes from.

Coordinates are pixels of the picture, x to the right and y down; the centre of the top left pixel is (0, 0), the
convention of OpenCV's warps. A joint is in the picture when 0 <= x < width and 0 <= y < height.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from compress.data.keypoints import KeypointSet

Picture = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class People:
    """The labelled persons of one picture.

    keypoints_pk3: float32 [P, K, 3], x, y and COCO's visibility: 2 visible, 1 labelled but hidden, 0 not labelled (x =
    y = 0). boxes_p4: float32 [P, 4], x, y, width, height. areas_p: float32 [P], square pixels, the area that OKS
    divides by.
    """

    keypoints_pk3: Floats
    boxes_p4: Floats
    areas_p: Floats

    def __len__(self) -> int:
        return len(self.keypoints_pk3)


class PictureSet(Protocol):
    """Pictures, their persons, and the COCO record of both; indices run from 0 to len() - 1."""

    @property
    def keypoints(self) -> KeypointSet:
        """The joints that are labelled."""
        ...

    @property
    def coco(self) -> dict[str, Any]:
        """The whole annotation record in COCO's layout: images, annotations, categories."""
        ...

    def __len__(self) -> int: ...

    def image_id(self, index: int) -> int:
        """The picture's id in `coco`."""
        ...

    def image(self, index: int) -> Picture:
        """The picture, uint8 [H, W, 3], RGB. Not to be written to: it may be shared with a cache."""
        ...

    def people(self, index: int) -> People:
        """The persons that are no crowd and have at least one labelled joint."""
        ...

    def ignore_mask(self, index: int) -> Mask | None:
        """bool [H, W], True where the loss must not look: crowds and persons without labelled joints. None: nowhere."""
        ...


@dataclass(frozen=True)
class Part:
    """Some pictures of a set, which is not copied; their annotations alone are in `coco`."""

    whole: PictureSet
    indices: tuple[int, ...]

    @property
    def keypoints(self) -> KeypointSet:
        """See PictureSet."""
        return self.whole.keypoints

    @property
    def coco(self) -> dict[str, Any]:
        """See PictureSet."""
        ids, coco = {self.image_id(index) for index in range(len(self))}, self.whole.coco
        return {
            **coco,
            "images": [image for image in coco["images"] if image["id"] in ids],
            "annotations": [one for one in coco["annotations"] if one["image_id"] in ids],
        }

    def __len__(self) -> int:
        return len(self.indices)

    def image_id(self, index: int) -> int:
        """See PictureSet."""
        return self.whole.image_id(self.indices[index])

    def image(self, index: int) -> Picture:
        """See PictureSet."""
        return self.whole.image(self.indices[index])

    def people(self, index: int) -> People:
        """See PictureSet."""
        return self.whole.people(self.indices[index])

    def ignore_mask(self, index: int) -> Mask | None:
        """See PictureSet."""
        return self.whole.ignore_mask(self.indices[index])


def part_of(pictures: PictureSet, indices: Sequence[int]) -> PictureSet:
    """These pictures of the set, by its own `subset` where it has one."""
    subset = getattr(pictures, "subset", None)
    return Part(pictures, tuple(indices)) if subset is None else subset(indices)


def people_of(annotations: Sequence[dict[str, Any]], joints: int) -> People:
    """The persons among one picture's COCO annotations that are no crowd and have at least one labelled joint."""
    chosen = [a for a in annotations if not a.get("iscrowd") and any(a.get("keypoints", ())[2::3])]
    keypoints = [a["keypoints"] for a in chosen]
    return People(
        keypoints_pk3=np.asarray(keypoints, np.float32).reshape(len(chosen), joints, 3),
        boxes_p4=np.asarray([a["bbox"] for a in chosen], np.float32).reshape(len(chosen), 4),
        areas_p=np.asarray([a["area"] for a in chosen], np.float32),
    )
