"""Learning from another network's answers (Hinton et al., 2015), for heatmaps.

The heatmaps of the pupil follow the teacher's. Tags are not distilled: only differences between a picture's tags mean
something (Newell et al., 2017), so two networks that group alike may answer different tags; they keep the label loss.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from compress.errors import DataError


def heatmap_distillation(
    pupil: Sequence[Tensor], teacher: Sequence[Tensor], keypoints: int, weights: Sequence[float]
) -> Tensor:
    """Weighted sum over the scales of the mean squared difference of the heatmaps.

    pupil, teacher: outputs [B,C>=K,h,w], the first K channels of each are heatmaps. weights: one per scale.
    Raises DataError if the two networks answer in other shapes.
    """
    if [o.shape for o in pupil] != [o.shape for o in teacher]:
        raise DataError(
            "teacher and pupil must have outputs of the same shapes",
            place="distillation",
            value=([tuple(o.shape) for o in teacher], [tuple(o.shape) for o in pupil]),
            remedy="choose a teacher with the same head, joints and input size",
        )
    terms = [
        weight * (p[:, :keypoints] - t[:, :keypoints].detach()).square().mean()
        for p, t, weight in zip(pupil, teacher, weights, strict=True)
    ]
    return torch.stack(terms).sum()
