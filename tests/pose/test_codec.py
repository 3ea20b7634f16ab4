"""Codecs against the published code's formulas, and from people to maps and back."""

import itertools
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from compress.artefacts.metadata import Metadata, metadata_from_data
from compress.data.boxes import box_region, crop_matrix
from compress.data.keypoints import COCO_PERSON, KeypointSet
from compress.data.synthetic import Difficulty, SyntheticPeople
from compress.data.targets import gaussian_heatmaps, joint_locations
from compress.errors import ArtefactError, RecipeError
from compress.networks.dir_bhrnet import DirBHRNet, equal_blocks
from compress.networks.lightweight_openpose import LightweightOpenPose
from compress.networks.rtmpose import RTMPose
from compress.pose.approaches import estimator_for, objective_for
from compress.pose.codec import Codec, Name, codec_named
from compress.pose.decode import top_down
from compress.pose.estimator import LabelledBoxes
from compress.recipe import (
    ChangeRecipe,
    Decoding,
    EvaluateRecipe,
    PredictRecipe,
    Training,
    TrainRecipe,
    read_recipe,
    to_data,
)

Array = NDArray[Any]
NAMES: tuple[Name, ...] = get_args(Name)
OF_HEATMAPS = [name for name in NAMES if name != "simcc"]
INPUT_HW, MAP_HW = (128, 96), (32, 24)
ONE = KeypointSet("one", ("a",), (), (), (0.1,), (0,))


# --- the published code, written from its formulas -------------------------------------------------------------------


def hrnet_target(x: float, y: float, sigma: float = 2.0) -> Array:
    """lib/dataset/JointsDataset.py: the Gaussian of 6σ+3 cells around int(x / 4 + 0.5)."""
    column, row = int(x / 4 + 0.5), int(y / 4 + 0.5)
    heat = np.zeros(MAP_HW)
    for i, j in itertools.product(range(MAP_HW[0]), range(MAP_HW[1])):
        if max(abs(i - row), abs(j - column)) <= 3 * sigma:
            heat[i, j] = np.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * sigma**2))
    return heat


def joint_target(u: float, v: float, sigma: float = 2.0) -> Array:
    """DARK's and UDP's Gaussian around the joint itself, in cells."""
    rows, columns = np.mgrid[: MAP_HW[0], : MAP_HW[1]]
    found: Array = np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * sigma**2))
    return found


def hrnet_read(heat: Array) -> Array:
    """lib/core/inference.py, get_final_preds: x, y in cells, cell i at i."""
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    place = np.array([column, row], float)
    if 1 < column < heat.shape[1] - 1 and 1 < row < heat.shape[0] - 1:
        place += 0.25 * np.sign(
            [heat[row, column + 1] - heat[row, column - 1], heat[row + 1, column] - heat[row - 1, column]]
        )
    return place


def smoothed(heat: Array, kernel: int) -> Array:
    border = (kernel - 1) // 2
    padded = np.pad(heat.astype(np.float32), border)
    blurred = cv2.GaussianBlur(padded, (kernel, kernel), 0)[border:-border, border:-border]
    found: Array = blurred * (heat.max() / blurred.max())
    return found


def dark_read(heat: Array, kernel: int = 11) -> Array:
    """DarkPose, lib/core/inference.py: gaussian_blur, log, taylor."""
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    m = np.log(np.maximum(smoothed(heat, kernel), 1e-10))
    place = np.array([column, row], float)
    if 1 < column < heat.shape[1] - 2 and 1 < row < heat.shape[0] - 2:
        dx = 0.5 * (m[row, column + 1] - m[row, column - 1])
        dy = 0.5 * (m[row + 1, column] - m[row - 1, column])
        dxx = 0.25 * (m[row, column + 2] - 2 * m[row, column] + m[row, column - 2])
        dyy = 0.25 * (m[row + 2, column] - 2 * m[row, column] + m[row - 2, column])
        dxy = 0.25 * (m[row + 1, column + 1] - m[row - 1, column + 1] - m[row + 1, column - 1] + m[row - 1, column - 1])
        hessian = np.array([[dxx, dxy], [dxy, dyy]], float)
        if dxx * dyy - dxy**2 != 0:
            place -= np.linalg.inv(hessian) @ np.array([dx, dy], float)
    return place


def udp_read(heat: Array, kernel: int = 11) -> Array:
    """MMPose's refine_keypoints_dark_udp: the map padded by its edge, differences over one cell."""
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    m = np.pad(np.log(np.clip(smoothed(heat, kernel), 1e-3, 50)), 1, mode="edge").astype(float)
    r, c = row + 1, column + 1
    i, right, left, down, up = m[r, c], m[r, c + 1], m[r, c - 1], m[r + 1, c], m[r - 1, c]
    derivative = np.array([0.5 * (right - left), 0.5 * (down - up)])
    dxy = 0.5 * (m[r + 1, c + 1] - right - down + i + i - left - up + m[r - 1, c - 1])
    hessian = np.array([[right - 2 * i + left, dxy], [dxy, down - 2 * i + up]])
    step: Array = np.linalg.inv(hessian + np.finfo(np.float32).eps * np.eye(2)) @ derivative
    return np.array([column, row], float) - step


READ = {"hrnet": hrnet_read, "mmpose": hrnet_read, "dark": dark_read, "udp": udp_read}


def published_box_to_input(box: Array, name: str) -> Array:
    """HRNet's get_affine_transform for rotation 0 (centre to the corner-counted middle), and UDP's get_warpmatrix."""
    centre, side = box[:2] + box[2:] / 2, box[2:].astype(float)
    aspect = INPUT_HW[1] / INPUT_HW[0]
    side = np.array([max(side[0], aspect * side[1]), max(side[1], side[0] / aspect)]) * 1.25
    size = np.array(INPUT_HW[::-1], float) - (name == "udp")
    factor = size[0] / side[0]
    return np.column_stack([np.eye(2) * factor, size / 2 - factor * centre])


def published_back(cells: Array, box: Array, name: str) -> Array:
    """transform_preds: with scale = side of the region, cells·scale/w + centre - scale/2; UDP divides by w - 1."""
    matrix = published_box_to_input(box, name)
    scale = (np.array(INPUT_HW[::-1]) - (name == "udp")) / matrix[0, 0]
    found: Array = cells * scale / (np.array(MAP_HW[::-1]) - (name == "udp")) + box[:2] + box[2:] / 2 - scale / 2
    return found


# --- decoding as published -------------------------------------------------------------------------------------------


def random_map(rng: np.random.Generator) -> Array:
    """A Gaussian somewhere, another one, some noise; at times noise alone."""
    heat = rng.uniform(0.3, 1) * joint_target(*rng.uniform(-1, 25, 2), sigma=rng.uniform(1, 3))
    heat = np.maximum(heat, rng.uniform(0, 0.8) * joint_target(*rng.uniform(0, 31, 2), sigma=2))
    found: Array = (heat * (rng.random() < 0.9) + rng.uniform(0, 0.03, MAP_HW)).astype(np.float32)
    return found


@pytest.mark.parametrize("name", list(READ))
@pytest.mark.parametrize("flip", [False, True])
def test_maps_and_boxes_are_read_as_the_published_code_reads_them(name: Name, flip: bool) -> None:
    """From the box to the matrix, from two passes' maps to pixels of the picture."""
    rng = np.random.default_rng(0)
    codec = codec_named(name)
    for _ in range(300):
        box = np.concatenate([rng.uniform(-20, 200, 2), rng.uniform(5, 150, 2)])
        matrix = crop_matrix(box_region(box, INPUT_HW, crop=codec.crop), INPUT_HW, crop=codec.crop)
        np.testing.assert_allclose(matrix, published_box_to_input(box, name), atol=1e-9)
        once, mirrored = random_map(rng), random_map(rng) if flip else None
        heat = once
        if mirrored is not None:
            back = mirrored[:, ::-1].copy()
            if name != "udp":
                back[:, 1:] = back[:, :-1].copy()
            heat = (once + back) * np.float32(0.5)
        expected = published_back(READ[name](heat), box, name)
        maps = top_down.merge_outputs(
            torch.from_numpy(once)[None, None],
            None if mirrored is None else torch.from_numpy(mirrored)[None, None],
            ONE,
            shift=codec.shift_mirrored,
        )
        strides = codec.strides_xy(INPUT_HW, MAP_HW)
        found = top_down.to_picture(
            top_down.decode(maps, codec.locate or "quarter", codec.blur),
            matrix[None],
            strides,
            codec.offset_xy(strides, mirrored=flip),
        )
        np.testing.assert_allclose(found[0, 0, :2], expected, atol=2e-2 / matrix[0, 0], rtol=1e-4)
        assert found[0, 0, 2] == heat.max()


# --- from joints to maps and back ------------------------------------------------------------------------------------


def errors_px(render: Any, codec: Codec, *, flip: bool) -> Array:
    """x and y errors, in input pixels, of joints anywhere but near the border. render: x, y → map."""
    rng, found = np.random.default_rng(1), []
    for x, y in rng.uniform(28, (INPUT_HW[1] - 29, INPUT_HW[0] - 29), (800, 2)):
        passes = [render(x, y), render(INPUT_HW[1] - 1 - x, y)] if flip else [render(x, y)]
        maps = [torch.from_numpy(heat.astype(np.float32))[None, None] for heat in passes]
        merged = top_down.merge_outputs(maps[0], maps[1] if flip else None, ONE, shift=codec.shift_mirrored)
        strides = codec.strides_xy(INPUT_HW, MAP_HW)
        joints = top_down.to_picture(
            top_down.decode(merged, codec.locate or "quarter", codec.blur),
            np.eye(2, 3)[None],
            strides,
            codec.offset_xy(strides, mirrored=flip),
        )
        found.append(joints[0, 0, :2] - (x, y))
    return np.array(found)


def render_with(codec: Codec) -> Any:
    def render(x: float, y: float) -> Array:
        heat: Array = gaussian_heatmaps(np.array([[[x, y, 2]]], np.float32), INPUT_HW, 4, codec)[0]
        return heat

    return render


@pytest.mark.parametrize("name", OF_HEATMAPS)
@pytest.mark.parametrize("flip", [False, True])
def test_joints_come_back_within_the_codecs_own_bound(name: Name, flip: bool) -> None:
    """Cells: half a cell of 4 pixels, without bias. Joints themselves: a hundredth of a pixel's bias, a fifth at most.

    Two passes of DARK come half a pixel too far right, as in its own code. Two of HRNet's cells too, but where they are
    neighbours the left one is taken, which makes up for half of it (and takes half a pixel from ours).
    """
    codec = codec_named(name)
    errors = errors_px(render_with(codec), codec, flip=flip)
    if codec.targets == "cell":
        assert np.abs(errors.mean(axis=0)).max() < (0.35 if flip else 0.15)  # the mean of 800 in ±2 spreads by 0.04
        assert np.abs(errors).max() < (2.8 if flip else 2.001)
    else:
        errors[:, 0] -= 0.5 if flip and name == "dark" else 0
        assert np.abs(errors.mean(axis=0)).max() < 0.02
        assert np.abs(errors).max() < 0.25


@pytest.mark.parametrize("flip", [False, True])
def test_hrnets_own_targets_have_no_bias_by_its_codec_and_half_a_cell_by_ours(flip: bool) -> None:
    """With ours every joint is 2 pixels too far right and down, and the turned-back cells do not meet."""
    right = errors_px(hrnet_target, codec_named("hrnet"), flip=flip)
    assert np.abs(right.mean(axis=0)).max() < (0.35 if flip else 0.15)
    wrong = errors_px(hrnet_target, Codec(), flip=flip)
    assert wrong.mean(axis=0)[1] == pytest.approx(2, abs=0.15)
    assert flip or wrong.mean(axis=0)[0] == pytest.approx(2, abs=0.15)
    assert np.square(wrong).mean() > 1.9 * np.square(right).mean()


@pytest.mark.parametrize("name", ["hrnet", "mmpose"])
def test_targets_are_hrnets(name: Name) -> None:
    rng = np.random.default_rng(3)
    for x, y in rng.uniform(0, (INPUT_HW[1] - 2.1, INPUT_HW[0] - 2.1), (200, 2)):
        found = gaussian_heatmaps(np.array([[[x, y, 2]]], np.float32), INPUT_HW, 4, codec_named(name))[0]
        # HRNet's patch is 6σ + 3 cells: ±(3σ + 1)
        expected = hrnet_target(x, y)
        inner = expected > 0
        np.testing.assert_allclose(found[inner], expected[inner], atol=1e-6)
        assert (
            found.argmax()
            == joint_locations(np.array([[[x, y, 2]]], np.float32), INPUT_HW, 4, codec_named(name), max_people=1)[
                0, 0, 0
            ]
        )


@pytest.mark.parametrize(("name", "scale"), [("dark", 4.0), ("udp", None)])
def test_unbiased_targets_are_around_the_joint(name: Name, scale: float | None) -> None:
    rng = np.random.default_rng(4)
    for x, y in rng.uniform(4, (INPUT_HW[1] - 4, INPUT_HW[0] - 4), (100, 2)):
        found = gaussian_heatmaps(np.array([[[x, y, 2]]], np.float32), INPUT_HW, 4, codec_named(name))[0]
        expected = joint_target(x / (scale or 95 / 23), y / (scale or 127 / 31))
        near = expected > 0.05
        np.testing.assert_allclose(found[near], expected[near], atol=1e-5)


def test_a_map_without_a_positive_value_has_a_place_and_no_score() -> None:
    maps = np.full((1, 1, *MAP_HW), -1, np.float32)
    maps[0, 0, 5, 7] = -0.5
    for locate in ("middle", "quarter", "peak", "dark", "udp"):
        x, y, score = top_down.decode(maps, locate)[0, 0]
        assert (round(x - 0.5), round(y - 0.5), score) == (7, 5, -0.5)


def test_wild_maps_give_finite_joints() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        shape = (1, 3, int(rng.integers(1, 8)), int(rng.integers(1, 8)))
        maps = rng.normal(0, 1, shape).astype(np.float32) * rng.choice([0, 1e-20, 1, 1e20], shape).astype(np.float32)
        maps[rng.random(shape) < 0.2] = rng.choice([np.nan, np.inf, -np.inf, 0])
        for locate in ("dark", "udp"):
            assert np.isfinite(top_down.decode(maps, locate)).all()


# --- through a whole estimator, training and recipes
# --------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_HEATMAPS)
@pytest.mark.parametrize("flip", [False, True])
def test_a_finder_reads_what_training_with_the_codec_taught(name: Name, flip: bool) -> None:
    """A network that answers its training targets, for a person in the picture: boxes, inputs, maps and back."""
    architecture = DirBHRNet(width=8, blocks=equal_blocks(0), head="heatmaps")
    codec, hw = codec_named(name), (128, 96)
    pictures = SyntheticPeople(3, (160, 140), 5, difficulty=Difficulty(people=(1, 1), truncation=0, occluder=0))
    estimator = estimator_for(
        architecture, COCO_PERSON, hw, codec=codec, decoding=Decoding(flip_test=flip), boxes=LabelledBoxes()
    )
    still = Training.model_validate({"person_augment": {"rotation_deg": 0, "scale": 0, "flip": 0, "half_body": 0}})
    samples = objective_for(architecture, COCO_PERSON, hw, still, codec).samples(pictures)
    errors = []
    for index in range(len(pictures)):
        inputs = estimator.inputs(pictures, index)
        sample = samples.sample(index, np.random.default_rng(0))
        assert np.array_equal(sample.image, inputs.images[0])
        truth = pictures.people(index).keypoints_pk3[0]
        moved = truth.copy()
        moved[:, :2] = truth[:, :2] @ inputs.matrices[0][:, :2].T + inputs.matrices[0][:, 2]
        moved[:, 0] = hw[1] - 1 - moved[:, 0]
        turned = gaussian_heatmaps(moved[None, list(COCO_PERSON.flip_index)], hw, 4, codec)
        poses = estimator.decode(
            inputs, [torch.from_numpy(sample.maps[0])[None]], [torch.from_numpy(turned)[None]] if flip else None
        )
        seen = (truth[:, 2] > 0) & (sample.weights[0][:, 0, 0] > 0)
        errors.append((poses.keypoints_pk3[0] - truth)[seen, :2] @ inputs.matrices[0][:, :2].T)
    error = np.concatenate(errors)
    assert len(error) > 25
    if codec.targets == "cell":
        assert np.abs(error).max() < 2.6
    else:  # a peak in a border cell stays there
        assert np.median(np.abs(error)) < (0.6 if flip and codec.shift_mirrored else 0.1)


@pytest.mark.parametrize(
    ("network", "codec", "key"),
    [
        (DirBHRNet(width=8, blocks=equal_blocks(0), head="single"), codec_named("hrnet"), "codec.cells"),
        (DirBHRNet(width=8, blocks=equal_blocks(0), head="single"), Codec(locate="dark"), "codec.locate"),
        (LightweightOpenPose(width=0.25, features=16, head=16), codec_named("exact"), "codec.name"),
        (LightweightOpenPose(width=0.25, features=16, head=16), Codec(locate="udp"), "codec.locate"),
        (DirBHRNet(width=8, blocks=equal_blocks(0), head="heatmaps"), Codec(limb_width=2), "codec.limb_width"),
        (DirBHRNet(width=8, blocks=equal_blocks(0), head="single"), Codec(upsample=4), "codec.upsample"),
        (DirBHRNet(width=8, blocks=equal_blocks(0), head="heatmaps"), codec_named("simcc"), "codec.name"),
        (RTMPose(width=0.0625, input_hw=(64, 64)), codec_named("exact"), "codec.locate"),
        (RTMPose(width=0.0625, input_hw=(64, 64)), Codec(sigma=3), "codec.sigma"),
    ],
)
def test_a_codec_that_an_approach_has_not_is_refused(network: Any, codec: Codec, key: str) -> None:
    with pytest.raises(RecipeError, match=key):
        estimator_for(network, COCO_PERSON, (64, 64), codec=codec, decoding=Decoding(), boxes=LabelledBoxes())
    with pytest.raises(RecipeError, match=key):
        objective_for(network, COCO_PERSON, (64, 64), Training(), codec)


def test_a_recipe_names_a_codec_and_an_artefact_gives_it_back() -> None:
    for name in NAMES:
        assert read_recipe(None, TrainRecipe, [f"codec={name}"]).codec == codec_named(name)
        recipe = read_recipe(None, TrainRecipe, [f"codec.name={name}", "codec.sigma=3"])
        assert recipe.codec == codec_named(name, sigma=3.0)
        written = to_data(recipe)
        assert TrainRecipe.model_validate(written) == recipe
        assert metadata_from_data({"input_hw": [64, 64], "codec": written["codec"]}, "test").codec == recipe.codec
    assert Metadata((64, 64)).codec == Codec()
    for model in (EvaluateRecipe, PredictRecipe, ChangeRecipe):
        assert read_recipe(None, model).codec is None
        assert read_recipe(None, model, ["codec=udp"]).codec == codec_named("udp")
    for override, words in (
        ("codec.sgma=3", "did you mean 'sigma'"),
        ("codec=hrnt", "'hrnet'"),
        ("codec.sigma=0", "must be above 0"),
        ("codec.blur=4", "must be odd"),
        ("codec.limb_width=0", "must be above 0"),
        ("codec.upsample=33", "must be 1 to 32"),
        ("codec.locate=best", "'quarter'"),
    ):
        with pytest.raises(RecipeError, match=words):
            read_recipe(None, TrainRecipe, [override])
    with pytest.raises(ArtefactError, match="codec"):
        metadata_from_data({"input_hw": [64, 64], "codec": {"cells": "somewhere"}}, "test")
