"""What the ways to read a network's maps cost: every choice a user has, timed.

A network that is not trained answers noise, which takes another time to read than people do. So its maps are replaced
by those a perfect network would give for the labelled people: its training targets.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.data.boxes import person_targets
from compress.data.detections import Detections
from compress.data.limbs import layout_for
from compress.data.part_affinity_targets import part_maps
from compress.data.picture import Floats, PictureSet
from compress.data.targets import gaussian_heatmaps
from compress.data.transforms import move_keypoints, normalise
from compress.engines.engine import one_torch_thread
from compress.networks import Architecture
from compress.pose.codec import Codec
from compress.pose.estimator import Boxes, DetectedBoxes, LabelledBoxes, Maps, NetworkInputs, estimator_for
from compress.recipe import Decoding

_REPEATS = 5
_TAG_STEP = 2.0  # between the tags of two people; below 1 grouping takes them for one


def decode_table(
    architecture: Architecture,
    network: nn.Module | None,
    pictures: PictureSet,
    input_hw: tuple[int, int],
    *,
    codec: Codec,
    wanted: int = 16,
) -> list[dict[str, Any]]:
    """Milliseconds per picture of every post-processing of the network's approach, on one thread, measured.

    network: trained; None takes perfect answers. Rows: choice; mirrored, whether it needs a second pass of the network;
    median, q1, q3 over at most `wanted` pictures; people: found per picture, the mean.
    """
    indices = np.linspace(0, len(pictures) - 1, min(wanted, len(pictures))).round().astype(int).tolist()
    asker = estimator_for(
        architecture, pictures.keypoints, input_hw, codec=codec, decoding=Decoding(), boxes=LabelledBoxes()
    )
    asked = [asker.ask(pictures, index) for index in indices]
    answered = [
        perfect_answers(architecture, pictures, index, asked_inputs, input_hw, codec)
        if network is None
        else _network_answers(network, asked_inputs)
        for index, asked_inputs in zip(indices, asked, strict=True)
    ]
    rows = []
    for name, decoding in choices(architecture.approach):
        boxes: Boxes = LabelledBoxes()
        if name.endswith("suppression"):
            boxes = DetectedBoxes([Detections(asked_inputs.boxes_n4, asked_inputs.scores_n) for asked_inputs in asked])
        estimator = estimator_for(
            architecture, pictures.keypoints, input_hw, codec=codec, decoding=decoding, boxes=boxes
        )
        times, people = [], []
        with one_torch_thread():
            for asked_inputs, (outputs, mirrored) in zip(asked, answered, strict=True):
                seconds = []
                for _ in range(_REPEATS):
                    begin = time.perf_counter()
                    poses = estimator.read(asked_inputs, outputs, mirrored if decoding.flip_test else None)
                    seconds.append(time.perf_counter() - begin)
                times.append(float(np.median(seconds)) * 1000)
                people.append(len(poses))
        q1, middle, q3 = (round(float(value), 4) for value in np.percentile(times, [25, 50, 75]))
        found = round(float(np.mean(people)), 2)
        rows.append(
            {"choice": name, "mirrored": decoding.flip_test, "median": middle, "q1": q1, "q3": q3, "people": found}
        )
    return rows


def choices(approach: str) -> list[tuple[str, Decoding]]:
    """The ways to read maps that a user can choose from, by name."""
    once = Decoding(flip_test=False, suppression="none")
    match approach:
        case "PAF":
            whole = once.model_copy(update={"upsample": 8, "locate": "middle"})
            found = [("upsampled 8 times, whole pixels", whole)]
            found += [
                (f"upsampled {factor} times", once.model_copy(update={"upsample": factor})) for factor in (8, 4, 2, 1)
            ]
            return [*found, ("upsampled 2 times, mirrored pass", once.model_copy(update={"flip_test": True}))]
        case "top-down":
            found = [(f"joints at the {at}", once.model_copy(update={"locate": at})) for at in ("quarter", "peak")]
            found.append(("joints at the quarter, mirrored pass", once.model_copy(update={"flip_test": True})))
            kinds = ("hard", "soft", "parallel")
            return [
                *found,
                *((f"{kind} suppression", once.model_copy(update={"suppression": kind})) for kind in kinds),
            ]
        case _:
            plain = once.model_copy(update={"refine": False, "locate": "middle"})
            adjusted = plain.model_copy(update={"locate": "quarter"})
            refined = adjusted.model_copy(update={"refine": True})
            return [
                ("grouping", plain),
                ("grouping, adjust", adjusted),
                ("grouping, adjust, refine", refined),
                ("grouping, adjust, refine, mirrored pass", refined.model_copy(update={"flip_test": True})),
            ]


def perfect_answers(
    architecture: Architecture,
    pictures: PictureSet,
    index: int,
    asked_inputs: NetworkInputs,
    input_hw: tuple[int, int],
    codec: Codec,
) -> tuple[Maps, Maps]:
    """What the network should answer for a picture's labelled people, and for the mirrored inputs.

    Tags are constant for each person's surroundings.
    """
    joints_pk3 = pictures.people(index).keypoints_pk3
    rows, mirrored_rows = [], []
    for number, matrix in enumerate(asked_inputs.matrices):
        people = joints_pk3[number : number + 1] if architecture.approach == "top-down" else joints_pk3
        seen = move_keypoints(people, matrix, input_hw)
        rows.append(_targets(architecture, pictures, seen, input_hw, codec))
        mirrored_rows.append(_mirrored(architecture, pictures, seen, input_hw, codec))
    answers, mirrored = (
        [torch.from_numpy(np.stack(maps)) for maps in zip(*every, strict=True)] for every in (rows, mirrored_rows)
    )
    return answers, mirrored


def _mirrored(
    architecture: Architecture,
    pictures: PictureSet,
    joints_pk3: Floats,
    input_hw: tuple[int, int],
    codec: Codec,
) -> list[Floats]:
    """The answers to the mirrored input, Gaussians around joints: the mean of two cells' may have two tops."""
    seen = joints_pk3[:, list(pictures.keypoints.flip_index)]
    seen[..., 0] = np.where(seen[..., 2] > 0, input_hw[1] - 1 - seen[..., 0], 0)
    return _targets(architecture, pictures, seen, input_hw, replace(codec, targets="joint"))


def _targets(
    architecture: Architecture,
    pictures: PictureSet,
    joints_pk3: Floats,
    input_hw: tuple[int, int],
    codec: Codec,
) -> list[Floats]:
    """Every output of the network for one input."""
    strides = architecture.output_strides
    match architecture.approach:
        case "PAF":
            layout = layout_for(pictures.keypoints)
            return [part_maps(joints_pk3, layout, input_hw, stride, codec.sigma * stride) for stride in strides]
        case "top-down":
            return [person_targets(joints_pk3[0], input_hw, stride, codec)[0] for stride in strides]
        case _:
            heatmaps = [gaussian_heatmaps(joints_pk3, input_hw, stride, codec) for stride in strides]
            return [np.concatenate([heatmaps[0], _tags(joints_pk3, heatmaps[0].shape, strides[0])]), *heatmaps[1:]]


def _tags(joints_pk3: Floats, shape_khw: tuple[int, ...], stride: int) -> Floats:
    """[K,h,w]: each cell has the tag of the person whose joint is nearest."""
    joints, height, width = shape_khw
    x_w, y_h = np.arange(width) + 0.5, np.arange(height) + 0.5
    tags = np.zeros(shape_khw, np.float32)
    for joint in range(joints):
        shown = np.flatnonzero(joints_pk3[:, joint, 2] > 0)
        if len(shown):
            x_p, y_p = joints_pk3[shown, joint, 0] / stride, joints_pk3[shown, joint, 1] / stride
            far_phw = (x_w - x_p[:, None])[:, None, :] ** 2 + ((y_h - y_p[:, None]) ** 2)[:, :, None]
            tags[joint] = _TAG_STEP * shown[far_phw.argmin(axis=0)]
    return tags


def _network_answers(network: nn.Module, asked_inputs: NetworkInputs) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    network.eval()
    passes = []
    with torch.no_grad():
        for images in (asked_inputs.images, asked_inputs.images[:, :, ::-1]):
            inputs = normalise(np.ascontiguousarray(images))
            passes.append([output.float() for output in network(inputs)] if len(images) else [])
    return passes[0], passes[1]
