"""Moving a picture and its joints into the network's input: one affine matrix per picture, applied once.

A matrix is float64 [2, 3] and maps picture pixels to input pixels, both with the pixel-centre convention of `picture`.
Training follows HigherHRNet (arXiv:1908.10357, official code, lib/dataset/transforms): the short side is the yardstick.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from compress.data.normalisation import IMAGENET, Normalisation
from compress.data.picture import Floats, Picture

Matrix = npt.NDArray[np.float64]

TRANSLATE_REFERENCE_PX = 512


@dataclass(frozen=True)
class Augmentation:
    """How far training pictures are moved. The defaults are HigherHRNet's and DIR-BHRNet's.

    rotation_deg: uniform in ±rotation_deg. scale: side of the cut-out in units of the picture's short side, uniform
    between the two, so that 1.5 makes persons smaller and 0.75 larger. translate_px: uniform in ±translate_px for an
    input whose short side is 512; it shrinks and grows with the input. flip: probability of mirroring, 0..1.
    """

    rotation_deg: float = 30.0
    scale: tuple[float, float] = (0.75, 1.5)
    translate_px: float = 40.0
    flip: float = 0.5


NO_AUGMENTATION = Augmentation(rotation_deg=0.0, scale=(1.0, 1.0), translate_px=0.0, flip=0.0)


def fit_matrix(image_hw: tuple[int, int], input_hw: tuple[int, int]) -> Matrix:
    """The test-time matrix: the whole picture, its proportions kept, in the middle of the input."""
    factor = min(input_hw[0] / image_hw[0], input_hw[1] / image_hw[1])
    return turned_about(_centre(image_hw), input_hw, factor)


def augment_matrix(
    rng: np.random.Generator, image_hw: tuple[int, int], input_hw: tuple[int, int], augmentation: Augmentation
) -> Matrix:
    """A random training matrix. A mirrored one has a negative determinant: see `mirrors`.

    At scale 1 the picture's short side fills the input's short side, and what sticks out is cut off.
    """
    rotation, scale, shift_x, shift_y, chance = rng.random(5)
    low, high = augmentation.scale
    factor = min(input_hw) / min(image_hw) / (low + (high - low) * scale)
    reach = augmentation.translate_px * min(input_hw) / TRANSLATE_REFERENCE_PX
    return turned_about(
        _centre(image_hw),
        input_hw,
        factor,
        angle_rad=np.deg2rad(augmentation.rotation_deg) * (2 * rotation - 1),
        mirrored=bool(chance < augmentation.flip),
        shift_xy=(reach * (2 * shift_x - 1), reach * (2 * shift_y - 1)),
    )


def mirrors(matrix: Matrix) -> bool:
    """Whether the matrix swaps left and right."""
    return bool(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0] < 0)


def warp(image: Picture, matrix: Matrix, input_hw: tuple[int, int], normalisation: Normalisation = IMAGENET) -> Picture:
    """The picture as the network sees it, uint8 RGB [H, W, 3]; bilinear. What lies outside the picture becomes the mean
    colour, that is about 0 after `normalise`."""
    height, width = input_hw
    border = normalisation.border_rgb
    warped = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=border)
    return np.asarray(warped, np.uint8)


def move_keypoints(keypoints_pk3: Floats, matrix: Matrix, input_hw: tuple[int, int]) -> Floats:
    """The joints in input pixels, [P, K, 3]. Joints that leave the input, like unlabelled ones, become (0, 0, 0)."""
    return without_joints_outside(move_all_keypoints(keypoints_pk3, matrix), input_hw)


def move_all_keypoints(keypoints_pk3: Floats, matrix: Matrix) -> Floats:
    """The joints in input pixels, [P, K, 3], those outside the input too. Unlabelled ones become (0, 0, 0)."""
    moved = np.empty_like(keypoints_pk3)
    moved[..., :2] = keypoints_pk3[..., :2] @ matrix[:, :2].T + matrix[:, 2]
    moved[..., 2] = keypoints_pk3[..., 2]
    moved[~(moved[..., 2] > 0)] = 0
    return moved


def without_joints_outside(keypoints: Floats, input_hw: tuple[int, int]) -> Floats:
    """Joints [..., 3] in input pixels; those outside the input become (0, 0, 0)."""
    x, y = keypoints[..., 0], keypoints[..., 1]
    inside = (keypoints[..., 2] > 0) & (x >= 0) & (y >= 0) & (x < input_hw[1]) & (y < input_hw[0])
    return np.where(inside[..., None], keypoints, np.zeros_like(keypoints))


def flip(keypoints_pk3: Floats, flip_index: Sequence[int]) -> Floats:
    """Left joints take the place of right ones and back (`KeypointSet.flip_index`); the coordinates stay."""
    return keypoints_pk3[:, list(flip_index)]


def normalise(images_bhwc: Picture, normalisation: Normalisation = IMAGENET) -> torch.Tensor:
    """uint8 RGB [B, H, W, 3] → float32 [B, 3, H, W] as a network of that normalisation gets it, channels_last in
    memory."""
    images = torch.from_numpy(images_bhwc).permute(0, 3, 1, 2).to(torch.float32)
    if normalisation.channels != "RGB":
        images = images[:, list(normalisation.order)].contiguous(memory_format=torch.channels_last)
    mean = torch.tensor(normalisation.mean).view(1, 3, 1, 1) * 255
    spread = torch.tensor(normalisation.std).view(1, 3, 1, 1) * 255
    return images.sub_(mean).div_(spread)


def renormalised(images_b3hw: torch.Tensor, given: Normalisation, wanted: Normalisation) -> torch.Tensor:
    """Inputs of one normalisation as a network of another one gets them: the same pictures, [B, 3, H, W]."""
    if given == wanted:
        return images_b3hw
    rgb = [given.order.index(colour) for colour in range(3)]  # red, green and blue among the given channels
    taken = [rgb[colour] for colour in wanted.order]
    scale = [given.std[source] / std for source, std in zip(taken, wanted.std, strict=True)]
    shift = [
        (given.mean[source] - mean) / std for source, mean, std in zip(taken, wanted.mean, wanted.std, strict=True)
    ]
    factors, terms = (images_b3hw.new_tensor(values).view(1, 3, 1, 1) for values in (scale, shift))
    return images_b3hw[:, taken] * factors + terms


def turned_about(
    centre_xy: tuple[float, float],
    input_hw: tuple[int, int],
    factor: float,
    *,
    angle_rad: float = 0.0,
    mirrored: bool = False,
    shift_xy: tuple[float, float] = (0.0, 0.0),
) -> Matrix:
    """Scales, turns and perhaps mirrors about a point of the picture, which lands on the input's centre plus the shift.

    A positive angle turns the picture clockwise.
    """
    cos, sin = factor * np.cos(angle_rad), factor * np.sin(angle_rad)
    linear = np.array([[cos, -sin], [sin, cos]])
    if mirrored:
        linear[0] = -linear[0]
    input_centre = np.array([(input_hw[1] - 1) / 2 + shift_xy[0], (input_hw[0] - 1) / 2 + shift_xy[1]])
    return np.column_stack([linear, input_centre - linear @ np.array(centre_xy)])


def _centre(image_hw: tuple[int, int]) -> tuple[float, float]:
    return (image_hw[1] - 1) / 2, (image_hw[0] - 1) / 2
