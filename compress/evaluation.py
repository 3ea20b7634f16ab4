"""A network's people in pictures, and the score they earn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.data.loader import eval_batches
from compress.data.picture import PictureSet
from compress.decode.associative_embedding import Grouping, decode, merge_outputs
from compress.decode.poses import Poses, coco_results, to_image
from compress.errors import ArtefactError, NetworkError
from compress.keypoints import KeypointSet
from compress.metrics import oks_ap
from compress.networks import Architecture
from compress.progress import Phase
from compress.recipe import Data

RESAMPLES = 50
"""Bootstrap samples behind a reported standard error: enough to know it to a tenth."""


def find_people(
    network: nn.Module,
    pictures: PictureSet,
    *,
    input_hw: tuple[int, int],
    flip_test: bool,
    grouping: Grouping,
    batch_size: int = 32,
) -> Iterator[tuple[int, Poses]]:
    """(index, people in picture pixels) for every picture, in order. The network is set to eval mode.

    flip_test: the mirrored picture is asked too and both answers are averaged.
    """
    network.eval()
    device = next(network.parameters()).device
    for images, matrices, indices in eval_batches(pictures, input_hw=input_hw, batch_size=batch_size):
        with torch.no_grad():
            images = images.to(device)
            outputs = [output.float().cpu() for output in network(images)]
            mirrored = [output.float().cpu() for output in network(images.flip(3))] if flip_test else None
        for row, (index, matrix) in enumerate(zip(indices, matrices, strict=True)):
            flipped = [output[row] for output in mirrored] if mirrored else None
            heatmaps, tags = merge_outputs([output[row] for output in outputs], flipped, pictures.keypoints)
            poses = decode(heatmaps, tags, pictures.keypoints, grouping)
            yield index, to_image(poses, matrix, input_hw[0] / heatmaps.shape[1])


def score(
    network: nn.Module,
    pictures: PictureSet,
    *,
    input_hw: tuple[int, int],
    flip_test: bool,
    grouping: Grouping,
    resamples: int = 0,
    phase: Phase | None = None,
) -> dict[str, float | None]:
    """COCO's AP and AR over all pictures; None where the set has no person of that size. Advances phase per picture.

    resamples: if any, AP_se is the standard error of AP from so many bootstrap samples of the pictures.
    """
    results: list[dict[str, Any]] = []
    for index, poses in find_people(network, pictures, input_hw=input_hw, flip_test=flip_test, grouping=grouping):
        results.extend(coco_results(poses, pictures.image_id(index)))
        if phase:
            phase.advance(1)
    metrics = oks_ap(pictures.coco, results, pictures.keypoints, resamples)
    return {name: None if value != value else round(value, 5) for name, value in metrics.items()}


def grouping_for(exact: bool) -> Grouping:
    """How a network's maps are decoded: by their peaks if it was trained on exact Gaussians, else as HigherHRNet's."""
    return Grouping(locate="peak" if exact else "quarter")


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
    """What is asked for, else what an artefact's facts say it was validated on, else the default drawings."""
    noted = facts.get("data")
    if data is None:
        data = Data.model_validate(noted) if isinstance(noted, dict) else Data()
    return data, int(facts.get("seed", 1)) if seed is None else seed


def check_bottom_up(architecture: Architecture, keypoints: KeypointSet, place: str) -> None:
    """Raises NetworkError unless the network finds all people of a picture and has these joints."""
    if architecture.approach != "bottom-up AE":
        raise NetworkError(
            "this version trains and decodes bottom-up networks with associative embedding",
            place=place,
            value=f"{architecture.family}, {architecture.approach}",
            remedy="take one marked 'bottom-up AE' in `compress networks`",
        )
    if architecture.keypoints != len(keypoints):
        raise NetworkError(
            f"the network must have the data's {len(keypoints)} joints",
            place=place,
            value=architecture.keypoints,
            remedy=f"set keypoints to {len(keypoints)} in the architecture",
        )
