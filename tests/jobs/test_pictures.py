"""Pictures of what a network finds: a fake of an estimator finds the labelled people, so it is known what is drawn."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from torch import nn

from compress.data.normalisation import IMAGENET
from compress.data.picture import part_of
from compress.data.synthetic import SyntheticPeople
from compress.jobs.pictures import COUNT, chosen_pictures, draw_found
from compress.pose.decode.poses import Poses
from compress.pose.estimator import whole_picture


@pytest.fixture(scope="module")
def pictures() -> SyntheticPeople:
    return SyntheticPeople(9, (96, 96), 0)


@dataclass(frozen=True)
class FindsTheLabelled:
    """score: of every joint of everybody."""

    pictures: SyntheticPeople
    score: float
    normalisation = IMAGENET

    def inputs(self, pictures, index):
        return whole_picture(pictures, index, (96, 96))

    def decode(self, inputs, outputs, mirrored):
        index = next(i for i in range(len(self.pictures)) if np.array_equal(self.image(i), inputs.images[0]))
        keypoints = self.pictures.people(index).keypoints_pk3.copy()
        keypoints[..., 2] = np.where(keypoints[..., 2] > 0, self.score, 0)
        return Poses(keypoints, keypoints[..., 2].mean(1))

    def image(self, index):
        return whole_picture(self.pictures, index, (96, 96)).images[0]


def drawn(pictures: SyntheticPeople, folder: Path, score: float) -> tuple[str, ...]:
    learning = SimpleNamespace(sets=SimpleNamespace(val=pictures), estimator=FindsTheLabelled(pictures, score))
    return draw_found(nn.Conv2d(3, 1, 1), learning, folder, flip_test=False)


def test_people_are_drawn_in_the_same_pictures_for_every_network(pictures, tmp_path):
    names = drawn(pictures, tmp_path / "sure", 1.0)
    assert names == tuple(f"pictures/{number}.jpg" for number in range(COUNT))
    assert drawn(pictures, tmp_path / "unsure", 0.01) == names  # below the score from which people are drawn
    for name, index in zip(names, chosen_pictures(pictures), strict=True):
        given = cv2.resize(pictures.image(index)[:, :, ::-1], (320, 320)).astype(int)
        sure, unsure = (cv2.imread(str(tmp_path / of / name)).astype(int) for of in ("sure", "unsure"))
        assert sure.shape == given.shape
        # only JPEG tells them apart where nobody was drawn
        assert np.abs(unsure - given).mean() < 12
        joints = pictures.people(index).keypoints_pk3[0]
        x, y = (joints[joints[:, 2] > 0][0, :2] * 320 / 96).round().astype(int)
        assert np.abs(sure - unsure)[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].max() > 40


def test_pictures_are_from_all_over_the_set(pictures):
    chosen = list(chosen_pictures(pictures))
    assert len(chosen) == len(set(chosen)) == COUNT
    assert chosen[0] < len(pictures) // COUNT
    assert chosen[-1] >= len(pictures) * (COUNT - 1) // COUNT
    few = part_of(pictures, range(2))
    assert list(chosen_pictures(few)) == [0, 1]


def test_large_pictures_are_made_small(tmp_path):
    large = SyntheticPeople(1, (512, 384), 0)
    (name,) = drawn(large, tmp_path, 1.0)
    assert cv2.imread(str(tmp_path / name)).shape == (320, 240, 3)
