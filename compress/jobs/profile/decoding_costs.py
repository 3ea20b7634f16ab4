"""What every way to decode a network's maps costs, timed.

A network that is not trained gives noise, which takes another time to decode than people do. So its maps are replaced
by those a perfect network would give for the labelled people: its training targets.
"""

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from compress.artefacts.results import DecodingRow
from compress.data.detections import Detections
from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.picture import PictureSet
from compress.data.transforms import move_keypoints, normalise
from compress.engines.engine import one_torch_thread
from compress.measure.decoding import TARGET
from compress.measure.latency import Latency
from compress.networks import Architecture
from compress.pose.approaches import Setting, approach_of, estimator_for
from compress.pose.codec import Codec
from compress.pose.estimator import Boxes, DetectedBoxes, LabelledBoxes, Maps, NetworkInputs
from compress.recipe import Decoding

_REPEATS = 5


def decode_table(
    architecture: Architecture,
    network: nn.Module | None,
    pictures: PictureSet,
    input_hw: tuple[int, int],
    *,
    codec: Codec,
    normalisation: Normalisation = IMAGENET,
    wanted: int = 16,
) -> tuple[DecodingRow, ...]:
    """Times every way to decode the maps of the network's approach, on one thread.

    network: trained; None takes perfect answers. wanted: pictures, at most, over which a time's quartiles are.
    """
    indices = np.linspace(0, len(pictures) - 1, min(wanted, len(pictures))).round().astype(int).tolist()
    setting, approach = (
        Setting(architecture, pictures.keypoints, input_hw, codec, normalisation),
        approach_of(architecture),
    )
    labelled = estimator_for(
        architecture,
        pictures.keypoints,
        input_hw,
        codec=codec,
        decoding=Decoding(),
        boxes=LabelledBoxes(),
        normalisation=normalisation,
    )
    inputs = [labelled.inputs(pictures, index) for index in indices]
    outputs = [
        perfect_answers(setting, pictures, index, one)
        if network is None
        else _network_answers(network, one, normalisation)
        for index, one in zip(indices, inputs, strict=True)
    ]
    rows = []
    for name, decoded_by, decoding in approach.decodings(codec, Decoding(flip_test=False, suppression="none")):
        boxes: Boxes = LabelledBoxes()
        if decoding.suppression != "none":
            boxes = DetectedBoxes([Detections(one.boxes_n4, one.scores_n) for one in inputs])
        estimator = approach.estimator(replace(setting, codec=decoded_by), decoding, boxes)
        times, people = [], []
        with one_torch_thread():
            for one, (maps, mirrored) in zip(inputs, outputs, strict=True):
                seconds = []
                for _ in range(_REPEATS):
                    begin = time.perf_counter()
                    poses = estimator.decode(one, maps, mirrored if decoding.flip_test else None)
                    seconds.append(time.perf_counter() - begin)
                times.append(float(np.median(seconds)) * 1000)
                people.append(len(poses))
        q1, middle, q3 = (round(float(value), 4) for value in np.percentile(times, [25, 50, 75]))
        found = round(float(np.mean(people)), 2)
        latency = Latency(middle, TARGET, "measured", "stopwatch", q1, q3)
        rows.append(DecodingRow(name, 2 if decoding.flip_test else 1, latency, found))
    return tuple(rows)


def perfect_answers(setting: Setting, pictures: PictureSet, index: int, inputs: NetworkInputs) -> tuple[Maps, Maps]:
    """What a perfect network gives for a picture's labelled people, and for the mirrored inputs."""
    approach = approach_of(setting.architecture)
    # Gaussians around the joints themselves: the mean of two cells' may have two peaks.
    around_joints = replace(setting, codec=replace(setting.codec, targets="joint"))
    joints_pk3 = pictures.people(index).keypoints_pk3
    rows, mirrored_rows = [], []
    for number, matrix in enumerate(inputs.matrices):
        people = joints_pk3[number : number + 1] if approach.per_person else joints_pk3
        seen = move_keypoints(people, matrix, setting.input_hw)
        rows.append(approach.perfect_maps(setting, seen))
        mirrored = seen[:, list(setting.keypoints.flip_index)]
        mirrored[..., 0] = np.where(mirrored[..., 2] > 0, setting.input_hw[1] - 1 - mirrored[..., 0], 0)
        mirrored_rows.append(approach.perfect_maps(around_joints, mirrored))
    answers, mirrored_answers = (
        [torch.from_numpy(np.stack(maps)) for maps in zip(*every, strict=True)] for every in (rows, mirrored_rows)
    )
    return answers, mirrored_answers


def _network_answers(
    network: nn.Module, inputs: NetworkInputs, normalisation: Normalisation
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    network.eval()
    passes = []
    with torch.no_grad():
        for images in (inputs.images, inputs.images[:, :, ::-1]):
            batch = normalise(np.ascontiguousarray(images), normalisation)
            passes.append([output.float() for output in network(batch)] if len(images) else [])
    return passes[0], passes[1]
