"""Synthetic people: pictures of articulated figures with exact COCO labels, made on the spot, no download.

A figure is a small 3-D skeleton (lengths after Drillis and Contini's body proportions, head and limbs somewhat thicker
so that they survive 100-pixel pictures), posed by joint angles, turned, projected in parallel and painted limb by limb
from far to near. Left and right can be told apart only as on people: by the face, the hair, the neckline, the way knees
and feet point. Everything about picture i of a set comes from (seed, i), so pictures do not depend on the order of
drawing.

Reading order: difficulty, poses, skeleton, clothes, painting one person, placing several, background, the set, writing
it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from compress.data.keypoints import COCO_PERSON, KeypointSet
from compress.data.picture import Mask, People, Picture, PictureSet, people_of
from compress.errors import DataError

Array = npt.NDArray[np.float64]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Difficulty:
    """How hard the pictures are. Probabilities are per picture unless said otherwise.

    people: fewest and most persons in a picture. scale: standing height of a person in units of the picture's height,
    uniform between the two; with n persons the upper end shrinks by 8 % for each further one. overlap: largest IoU of
    two persons' boxes that placing tries to keep. pose_spread: multiplies the random part of every joint angle; 0 gives
    the plain poses. tilt_deg: spread of turning in the picture plane. tumble: probability that a person lies or stands
    on the head. truncation: probability that a person may stick out of the picture. occluder: probability of an object
    in front of the persons. clutter: mean number of background shapes. noise: spread of pixel noise in grey levels.
    blur: probability of a slight blur.
    """

    people: tuple[int, int] = (1, 3)
    scale: tuple[float, float] = (0.5, 0.95)
    overlap: float = 0.15
    pose_spread: float = 1.0
    tilt_deg: float = 8.0
    tumble: float = 0.03
    truncation: float = 0.15
    occluder: float = 0.2
    clutter: float = 6.0
    noise: float = 6.0
    blur: float = 0.2


# --- Poses: mean joint angles in degrees -----------------------------------------------------------------------------
# Trunk: leaning forward, leaning to the left, twist of the shoulders. Arm: swing forward, away from the body, bend of
# the elbow, further spread of the forearm. Leg: swing forward, away from the body, bend of the knee. name: (weight,
# trunk, left arm, right arm, left leg, right leg); sides are swapped at random.
_POSES: tuple[tuple[str, float, tuple[float, ...]], ...] = (
    ("stand", 0.20, (2, 0, 0, 5, 13, 14, 2, 5, 13, 14, 2, 3, 6, 4, 3, 6, 4)),
    ("walk", 0.16, (5, 0, 8, -28, 9, 25, 0, 30, 9, 30, 0, 28, 4, 8, -22, 4, 28)),
    ("run", 0.08, (14, 0, 12, -45, 12, 85, 0, 40, 12, 85, 0, 60, 4, 60, -25, 4, 60)),
    ("arms up", 0.11, (0, 0, 0, 155, 22, 20, -6, 155, 22, 20, -6, 2, 9, 4, 2, 9, 4)),
    ("one arm up", 0.10, (2, 5, 0, 145, 25, 35, -12, 5, 14, 18, 2, 3, 7, 5, 3, 7, 5)),
    ("arms out", 0.10, (0, 0, 0, 5, 78, 12, 8, 5, 78, 12, 8, 2, 14, 4, 2, 14, 4)),
    ("hands on hips", 0.06, (2, 0, 0, -12, 45, 30, -75, -12, 45, 30, -75, 2, 10, 4, 2, 10, 4)),
    ("sit", 0.09, (4, 0, 0, 30, 12, 45, 0, 30, 12, 45, 0, 82, 10, 84, 82, 10, 84)),
    ("lean", 0.05, (48, 0, 0, 60, 10, 15, 0, 60, 10, 15, 0, 18, 7, 22, 18, 7, 22)),
    ("lunge", 0.05, (8, 0, 10, 60, 25, 30, 5, -20, 25, 35, 5, 70, 10, 70, -25, 6, 20)),
)
_ANGLE_SPREAD = np.array((6, 7, 10, 18, 10, 16, 10, 18, 10, 16, 10, 9, 5, 9, 9, 5, 9), np.float64)
_SWAPPED_SIDES = np.array((0, 1, 2, 7, 8, 9, 10, 3, 4, 5, 6, 14, 15, 16, 11, 12, 13))
_SWAP_SIGN = np.array((1, -1, -1) + (1,) * 14, np.float64)
_POSE_WEIGHTS = np.cumsum([weight for _, weight, _ in _POSES])
_POSE_ANGLES = np.array([angles for _, _, angles in _POSES], np.float64)

# --- Skeleton: points in units of standing height --------------------------------------------------------------------
# fmt: off
(_PELVIS, _NECK, _HEAD, _L_SHOULDER, _R_SHOULDER, _L_ELBOW, _R_ELBOW, _L_WRIST, _R_WRIST, _L_HAND, _R_HAND,
 _L_HIP, _R_HIP, _L_KNEE, _R_KNEE, _L_ANKLE, _R_ANKLE, _L_TOE, _R_TOE, _NOSE, _L_EYE, _R_EYE, _L_EAR, _R_EAR,
 _HAIR, _CROWN, _CHIN, _L_MOUTH, _R_MOUTH, _L_SLEEVE, _R_SLEEVE, _L_HEM, _R_HEM, _L_COLLAR, _R_COLLAR,
 _CHEST) = range(36)
_COCO_POINTS = (_NOSE, _L_EYE, _R_EYE, _L_EAR, _R_EAR, _L_SHOULDER, _R_SHOULDER, _L_ELBOW, _R_ELBOW, _L_WRIST, _R_WRIST,
                _L_HIP, _R_HIP, _L_KNEE, _R_KNEE, _L_ANKLE, _R_ANKLE)
# fmt: on
_TRUNK, _SHOULDER, _HIP = 0.29, 0.105, 0.062
_UPPER_ARM, _FOREARM, _HAND_LENGTH = 0.165, 0.15, 0.05
_THIGH, _SHIN, _FOOT = 0.235, 0.225, 0.085
_NECK_LENGTH, _HEAD_RADIUS = 0.115, 0.068
# An ear is seen, and labelled, unless it lies this far (in heights) behind the middle of the head.
_EAR_DEPTH = -0.4 * _HEAD_RADIUS
# Points of the head from its middle: to the person's left, down, forward; in head radii.
_FACE_POINTS = (_NOSE, _L_EYE, _R_EYE, _L_EAR, _R_EAR, _HAIR, _CROWN, _CHIN, _L_MOUTH, _R_MOUTH)
_FACE = _HEAD_RADIUS * np.array(
    (
        (0, 0.25, 1.1),
        (0.42, -0.12, 0.85),
        (-0.42, -0.12, 0.85),
        (0.98, 0.05, -0.05),
        (-0.98, 0.05, -0.05),
        (0, -0.28, -0.3),
        (0, -0.25, 0.05),
        (0, 0.35, 0.05),
        (0.28, 0.68, 0.75),
        (-0.28, 0.68, 0.75),
    )
)


def _pose_angles(rng: np.random.Generator, spread: float) -> Array:
    """A pose at random, in radians, [17] in the order of the table."""
    pose = min(int(np.searchsorted(_POSE_WEIGHTS, rng.random() * _POSE_WEIGHTS[-1])), len(_POSES) - 1)
    angles = _POSE_ANGLES[pose] + _ANGLE_SPREAD * spread * rng.standard_normal(17)
    if rng.random() < 0.5:
        angles = angles[_SWAPPED_SIDES] * _SWAP_SIGN
    angles[[5, 9, 13, 16]] = np.maximum(angles[[5, 9, 13, 16]], 0)  # elbows and knees bend one way only
    return np.asarray(np.deg2rad(angles), np.float64)


def _skeleton(angles: Array, head_turn: float, sleeve: float, hem: float) -> Array:
    """The points [36, 3] of a person of height 1 about the pelvis: to the person's left, down, forward.

    sleeve: where the sleeve ends on the upper arm, hem: where shorts end on the thigh, 0..1.
    """
    points = np.zeros((36, 3))
    forward, left, twist = angles[:3]
    up = np.array((np.sin(left), -np.cos(forward) * np.cos(left), np.sin(forward) * np.cos(left)))
    across = np.array((np.cos(left) * np.cos(twist), np.sin(left), np.sin(twist)))
    side = np.array((1.0, -1.0))
    points[_NECK] = _TRUNK * up
    points[_HEAD] = points[_NECK] + _NECK_LENGTH * (0.7 * up + (0, -0.3, 0))
    points[[_L_SHOULDER, _R_SHOULDER]] = points[_NECK] - 0.02 * up + _SHOULDER * side[:, None] * across
    points[[_L_HIP, _R_HIP]] = _HIP * side[:, None] * (1, 0, 0)

    arms, legs = angles[3:11].reshape(2, 4), angles[11:].reshape(2, 3)
    upper_arm = _direction(arms[:, 0], arms[:, 1], side)
    forearm = _direction(arms[:, 0] + arms[:, 2], arms[:, 1] + arms[:, 3], side)
    thigh = _direction(legs[:, 0], legs[:, 1], side)
    shin = _direction(legs[:, 0] - legs[:, 2], legs[:, 1], side)
    foot = np.column_stack([0.35 * side, np.full(2, 0.3), np.full(2, 0.85)])
    points[_L_ELBOW : _R_ELBOW + 1] = points[_L_SHOULDER : _R_SHOULDER + 1] + _UPPER_ARM * upper_arm
    points[_L_WRIST : _R_WRIST + 1] = points[_L_ELBOW : _R_ELBOW + 1] + _FOREARM * forearm
    points[_L_HAND : _R_HAND + 1] = points[_L_WRIST : _R_WRIST + 1] + _HAND_LENGTH * forearm
    points[_L_KNEE : _R_KNEE + 1] = points[_L_HIP : _R_HIP + 1] + _THIGH * thigh
    points[_L_ANKLE : _R_ANKLE + 1] = points[_L_KNEE : _R_KNEE + 1] + _SHIN * shin
    points[_L_TOE : _R_TOE + 1] = points[_L_ANKLE : _R_ANKLE + 1] + _FOOT * foot
    points[_L_SLEEVE : _R_SLEEVE + 1] = points[_L_SHOULDER : _R_SHOULDER + 1] + sleeve * _UPPER_ARM * upper_arm
    points[_L_HEM : _R_HEM + 1] = points[_L_HIP : _R_HIP + 1] + hem * _THIGH * thigh
    points[[_L_COLLAR, _R_COLLAR]] = points[_NECK] + 0.045 * side[:, None] * across + (0, 0, 0.04)
    points[_CHEST] = points[_NECK] - 0.09 * up + (0, 0, 0.05)

    cos, sin = np.cos(head_turn), np.sin(head_turn)
    turned = _FACE @ np.array(((cos, 0, -sin), (0, 1, 0), (sin, 0, cos)))
    points[list(_FACE_POINTS)] = points[_HEAD] + turned
    return points


def _direction(swing: Array, spread: Array, side: Array) -> Array:
    """Unit vectors of limbs that hang down at swing = spread = 0; swing goes forward, spread to the outside."""
    return np.column_stack([side * np.sin(spread), np.cos(spread) * np.cos(swing), np.cos(spread) * np.sin(swing)])


def _project(points: Array, yaw: float, pitch: float, roll: float) -> Array:
    """The points as the camera sees them: x to the right, y down, z toward the camera. yaw 0 faces the camera."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    turn = np.array(((cy, 0, sy), (0, 1, 0), (-sy, 0, cy)))
    tip = np.array(((1, 0, 0), (0, cp, sp), (0, -sp, cp)))
    spin = np.array(((cr, -sr, 0), (sr, cr, 0), (0, 0, 1)))
    return np.asarray(points @ (spin @ tip @ turn).T)


# --- Clothes ---------------------------------------------------------------------------------------------------------
_SKIN = ((244, 208, 177), (231, 183, 143), (205, 148, 105), (160, 107, 70), (110, 72, 48), (84, 54, 38))
_HAIR_COLOURS = ((28, 22, 20), (62, 40, 24), (110, 72, 36), (190, 150, 80), (150, 60, 30), (150, 150, 150))
_SHOES = ((25, 25, 28), (235, 235, 235), (150, 40, 40), (90, 60, 40), (40, 60, 130))


@dataclass(frozen=True)
class _Outfit:
    skin: Colour
    hair: Colour
    shirt: Colour
    pattern: Colour
    trousers: Colour
    shoes: Colour
    sleeves: int  # 0 none, 1 short, 2 long
    bottom: int  # 0 long trousers, 1 shorts, 2 skirt
    stripes: int  # number of bands on the shirt
    vertical: bool
    long_hair: bool


def _outfit(rng: np.random.Generator) -> _Outfit:
    shirt, pattern, trousers = (_vivid(rng) for _ in range(3))
    pick = rng.integers(0, 1 << 16, 8).tolist()
    return _Outfit(
        skin=_SKIN[pick[0] % len(_SKIN)],
        hair=_HAIR_COLOURS[pick[1] % len(_HAIR_COLOURS)],
        shirt=shirt,
        pattern=pattern,
        trousers=trousers,
        shoes=_SHOES[pick[2] % len(_SHOES)],
        sleeves=(0, 1, 1, 2, 2)[pick[3] % 5],
        bottom=(0, 0, 0, 1, 2)[pick[4] % 5],
        stripes=(0, 0, 2, 3)[pick[5] % 4],
        vertical=pick[6] % 2 == 0,
        long_hair=pick[7] % 3 == 0,
    )


def _vivid(rng: np.random.Generator) -> Colour:
    """Any colour, fully saturated to grey."""
    hue, saturation, value = rng.random(3).tolist()
    channels = [max(0.0, min(1.0, abs((hue * 6 + shift) % 6 - 3) - 1)) for shift in (0, 4, 2)]
    level = 50 + 190 * value
    red, green, blue = (int(level * (1 - saturation * 0.85 * (1 - channel))) for channel in channels)
    return red, green, blue


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = colour
    return min(255, int(red * factor)), min(255, int(green * factor)), min(255, int(blue * factor))


# --- Painting one person ---------------------------------------------------------------------------------------------
# Every limb is a capsule: two discs and what lies between. Body groups say who owns a pixel.
_TORSO, _HEAD_GROUP, _L_ARM, _R_ARM, _L_LEG, _R_LEG = 1, 2, 3, 4, 5, 6
_GROUPS = 8  # owner of a pixel = person * 8 + group; 0 background, 255 an object
_MAX_PEOPLE = 31
_COCO_GROUPS = np.array((2, 2, 2, 2, 2, 3, 4, 3, 4, 3, 4, 5, 6, 5, 6, 5, 6))
# COCO joints that count as seen where the trunk is the owner too: shoulders and hips sit under the shirt.
_ON_TORSO = np.array((0,) * 5 + (1, 1) + (0,) * 4 + (1, 1) + (0,) * 4, np.bool_)
# from, to, radius at either end
_CAPSULES: tuple[tuple[int, int, float, float], ...] = (
    (_L_SHOULDER, _L_ELBOW, 0.033, 0.028),  # _UPPER_ARMS
    (_R_SHOULDER, _R_ELBOW, 0.033, 0.028),
    (_L_SHOULDER, _L_SLEEVE, 0.039, 0.036),  # _SLEEVES
    (_R_SHOULDER, _R_SLEEVE, 0.039, 0.036),
    (_L_ELBOW, _L_WRIST, 0.029, 0.020),  # _FOREARMS
    (_R_ELBOW, _R_WRIST, 0.029, 0.020),
    (_L_WRIST, _L_HAND, 0.023, 0.022),  # _HANDS
    (_R_WRIST, _R_HAND, 0.023, 0.022),
    (_L_HIP, _L_KNEE, 0.056, 0.040),  # _THIGHS
    (_R_HIP, _R_KNEE, 0.056, 0.040),
    (_L_HIP, _L_HEM, 0.062, 0.056),  # _SHORTS
    (_R_HIP, _R_HEM, 0.062, 0.056),
    (_L_KNEE, _L_ANKLE, 0.039, 0.025),  # _SHINS
    (_R_KNEE, _R_ANKLE, 0.039, 0.025),
    (_L_ANKLE, _L_TOE, 0.029, 0.024),  # _FEET
    (_R_ANKLE, _R_TOE, 0.029, 0.024),
    (_L_SHOULDER, _L_HIP, 0.038, 0.060),  # _FLANKS
    (_R_SHOULDER, _R_HIP, 0.038, 0.060),
    (_NECK, _HEAD, 0.036, 0.034),  # _THROAT
    (_CROWN, _CHIN, 0.068, 0.056),  # _FACE_DISC
    (_HAIR, _HAIR, 0.079, 0.079),  # _HAIR_DISC
    (_HAIR, _NECK, 0.078, 0.068),  # _LONG_HAIR
    (_L_MOUTH, _R_MOUTH, 0.008, 0.008),  # _LIPS
    (_L_EYE, _L_EYE, 0.0165, 0.0165),  # _EYES
    (_R_EYE, _R_EYE, 0.0165, 0.0165),
    (_L_EAR, _L_EAR, 0.019, 0.019),  # _EARS
    (_R_EAR, _R_EAR, 0.019, 0.019),
    (_NOSE, _NOSE, 0.0135, 0.0135),  # _NOSE_TIP
    (_L_HIP, _R_HIP, 0.060, 0.060),  # _PELVIS_BAND
    (_L_KNEE, _L_KNEE, 0.034, 0.034),  # _KNEES
    (_R_KNEE, _R_KNEE, 0.034, 0.034),
    (_L_ELBOW, _L_ELBOW, 0.026, 0.026),  # _ELBOWS
    (_R_ELBOW, _R_ELBOW, 0.026, 0.026),
)
# The row of each in the table above; of pairs the left one, the right one follows.
_UPPER_ARMS, _SLEEVES, _FOREARMS, _HANDS, _THIGHS, _SHORTS, _SHINS, _FEET, _FLANKS, _THROAT = (
    0,
    2,
    4,
    6,
    8,
    10,
    12,
    14,
    16,
    18,
)
_FACE_DISC, _HAIR_DISC, _LONG_HAIR, _LIPS, _EYES, _EARS, _NOSE_TIP, _PELVIS_BAND, _KNEES, _ELBOWS = (
    19,
    20,
    21,
    22,
    23,
    25,
    27,
    28,
    29,
    31,
)
_FROM = np.array([row[0] for row in _CAPSULES])
_TO = np.array([row[1] for row in _CAPSULES])
_RADII = np.array([row[2:] for row in _CAPSULES])
_THICKENED = np.array(
    [not _THROAT <= number <= _NOSE_TIP for number in range(len(_CAPSULES))]
)  # heads do not grow with the bulk
_ARC = np.linspace(np.pi / 2, 3 * np.pi / 2, 8)
_SHIFT = 4  # OpenCV's fixed point: 1/16 of a canvas pixel
_CANVAS = 2  # the canvas has twice the picture's resolution; averaging it down smooths the edges


@dataclass(frozen=True)
class _Figure:
    """A posed person before placing. points_px: [36, 3], relative to the pelvis, picture pixels, z toward the
    camera.
    """

    points_px: Array
    height_px: float
    bulk: float
    facing: float  # cosine of the angle between the chest and the camera: 1 front, 0 side, -1 back
    outfit: _Outfit


def _figure(rng: np.random.Generator, difficulty: Difficulty, height_px: float) -> _Figure:
    outfit = _outfit(rng)
    chance, tumble, around, bulk = rng.random(4).tolist()
    turn, tip, roll, head = rng.standard_normal(4).tolist()
    # half of the people look at the camera, a fifth away from it, the rest to either side
    yaw_deg = 28 * turn + (0 if chance < 0.48 else 180 if chance < 0.68 else 75 if chance < 0.84 else -75)
    roll_deg = difficulty.tilt_deg * roll
    if tumble < difficulty.tumble:
        roll_deg += (90, -90, 180)[int(around * 3)]
    yaw, sleeve = np.deg2rad(yaw_deg), 1.0 if outfit.sleeves == 2 else 0.6
    skeleton = _skeleton(_pose_angles(rng, difficulty.pose_spread), np.deg2rad(18 * head), sleeve, 0.75)
    points = _project(skeleton, yaw, np.deg2rad(5 + 6 * tip), np.deg2rad(roll_deg))
    return _Figure(points * height_px, height_px, 0.95 + 0.35 * bulk, float(np.cos(yaw)), outfit)


def _capsules(figure: _Figure, points_px: Array, grow: float) -> npt.NDArray[np.int32]:
    """Every capsule's outline in canvas fixed point, int32 [N, 16, 2]; grow: added radius in units of height."""
    start, end = points_px[_FROM, :2], points_px[_TO, :2]
    along = end - start
    heading = np.arctan2(along[:, 1], along[:, 0])[:, None] + _ARC
    cos, sin = np.cos(heading), np.sin(heading)
    radii = figure.height_px * (_RADII * np.where(_THICKENED, figure.bulk, 1)[:, None] + grow)
    outline = np.empty((len(_CAPSULES), 16, 2))
    outline[:, :8, 0] = start[:, :1] + radii[:, :1] * cos
    outline[:, :8, 1] = start[:, 1:] + radii[:, :1] * sin
    outline[:, 8:, 0] = end[:, :1] - radii[:, 1:] * cos
    outline[:, 8:, 1] = end[:, 1:] - radii[:, 1:] * sin
    return np.asarray(np.rint((outline * _CANVAS + 0.5 * (_CANVAS - 1)) * (1 << _SHIFT)), np.int32)


def _paint_person(canvas: Picture, owners: Picture, person: int, figure: _Figure, points_px: Array) -> None:
    """Paint a placed figure on the canvas and its body groups on the owner map, from far to near."""
    outfit, z = figure.outfit, points_px[:, 2] / figure.height_px
    shapes, rims = _capsules(figure, points_px, 0.0), _capsules(figure, points_px, 0.009)

    def paint(outline: npt.NDArray[np.int32], colour: Colour, group: int) -> None:
        cv2.fillConvexPoly(canvas, outline, colour, cv2.LINE_8, _SHIFT)
        if group:
            cv2.fillConvexPoly(owners, outline, person * _GROUPS + group, cv2.LINE_8, _SHIFT + 1)

    def limb(numbers: Sequence[int], colours: Sequence[Colour], group: int) -> None:
        for number, colour in zip(numbers, colours, strict=True):
            cv2.fillConvexPoly(canvas, rims[number], _shade(colour, 0.55), cv2.LINE_8, _SHIFT)
        for number, colour in zip(numbers, colours, strict=True):
            paint(shapes[number], colour, group)

    def arm(side: int) -> None:
        upper = outfit.shirt if outfit.sleeves == 2 else outfit.skin
        numbers = [_UPPER_ARMS + side, _FOREARMS + side, _HANDS + side]
        colours = [upper, _shade(upper, 0.88), outfit.skin]
        if outfit.sleeves:
            numbers.append(_SLEEVES + side)
            colours.append(_shade(outfit.shirt, 0.95))
        limb([*numbers, _ELBOWS + side], [*colours, _shade(upper, 0.78)], _L_ARM + side)

    def leg(side: int) -> None:
        upper = outfit.trousers if outfit.bottom == 0 else outfit.skin
        numbers = [_SHINS + side, _THIGHS + side, _FEET + side]
        colours = [_shade(upper, 0.88), upper, outfit.shoes]
        if outfit.bottom == 1:
            numbers.append(_SHORTS + side)
            colours.append(outfit.trousers)
        limb([*numbers, _KNEES + side], [*colours, _shade(upper, 0.76)], _L_LEG + side)

    def torso() -> None:
        if outfit.bottom == 2:
            paint(_hull(*shapes[[_SHORTS, _SHORTS + 1, _PELVIS_BAND]]), _shade(outfit.trousers, 0.9), _TORSO)
        paint(_hull(*rims[_FLANKS : _FLANKS + 2]), _shade(outfit.shirt, 0.55), 0)
        paint(_hull(*shapes[_FLANKS : _FLANKS + 2]), outfit.shirt, _TORSO)
        paint(shapes[_PELVIS_BAND], outfit.trousers, _TORSO)
        corners = points_px[[_L_SHOULDER, _R_SHOULDER, _R_HIP, _L_HIP], :2]
        for band in _bands(corners, outfit.stripes, outfit.vertical):
            paint(_fixed(band), outfit.pattern, 0)
        if figure.facing > 0.15:  # an open neckline, seen from the front only
            paint(_fixed(points_px[[_L_COLLAR, _R_COLLAR, _CHEST], :2]), outfit.skin, 0)

    def long_hair() -> None:
        limb([_LONG_HAIR], [outfit.hair], _HEAD_GROUP)

    def head() -> None:
        toward = z[[_NOSE, _L_EYE, _R_EYE, _L_EAR, _R_EAR]] - z[_HEAD]
        behind = toward[0] > 0
        paint(rims[_THROAT], _shade(outfit.skin, 0.6), 0)
        paint(shapes[_THROAT], _shade(outfit.skin, 0.85), _TORSO)
        if behind:
            limb([_HAIR_DISC], [outfit.hair], _HEAD_GROUP)
        limb([_FACE_DISC], [outfit.skin], _HEAD_GROUP)
        if toward[0] > -0.02:
            for side in (0, 1):
                if toward[1 + side] > 0:
                    paint(shapes[_EYES + side], (250, 250, 250), 0)
                    student, radius = _disc(points_px[_L_EYE + side], 0.0105 * figure.height_px)
                    cv2.circle(canvas, student, radius, (20, 20, 40), -1, cv2.LINE_8, _SHIFT)
            if toward[1] > 0 and toward[2] > 0:
                paint(shapes[_LIPS], (150, 40, 50), 0)
            paint(shapes[_NOSE_TIP], _shade(outfit.skin, 0.62), _HEAD_GROUP)
        if not behind:
            hair = [_LONG_HAIR, _HAIR_DISC] if outfit.long_hair else [_HAIR_DISC]
            limb(hair, [outfit.hair] * len(hair), _HEAD_GROUP)
        for side in (0, 1):
            if toward[3 + side] > _EAR_DEPTH:
                limb([_EARS + side], [_shade(outfit.skin, 0.82)], _HEAD_GROUP)

    parts = [
        (0.0, torso),
        (float(z[_HEAD] - z[_NECK]) + 0.012, head),
        (float(z[_L_ELBOW] + z[_L_WRIST] - 2 * z[_NECK]) / 2 + 0.03, lambda: arm(0)),
        (float(z[_R_ELBOW] + z[_R_WRIST] - 2 * z[_NECK]) / 2 + 0.03, lambda: arm(1)),
        (float(z[_L_KNEE] + z[_L_HIP] - 2 * z[_PELVIS]) / 2 - 0.06, lambda: leg(0)),
        (float(z[_R_KNEE] + z[_R_HIP] - 2 * z[_PELVIS]) / 2 - 0.06, lambda: leg(1)),
    ]
    if outfit.long_hair and z[_NOSE] > z[_HEAD]:
        parts.append((-1.0, long_hair))  # falls behind the shoulders
    for _, part in sorted(parts, key=lambda pair: pair[0]):
        part()


def _hull(*outlines: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    return np.asarray(cv2.convexHull(np.concatenate(outlines)), np.int32)


def _bands(corners: Array, count: int, vertical: bool) -> list[Array]:
    """Stripes on the quadrangle left shoulder, right shoulder, right hip, left hip."""
    left_top, right_top, right_bottom, left_bottom = corners
    if vertical:
        left_top, right_top, right_bottom, left_bottom = left_top, left_bottom, right_bottom, right_top
    bands = []
    for number in range(count):
        start, end = (number + 0.35) / count, (number + 0.75) / count
        bands.append(
            np.array(
                (
                    left_top + start * (left_bottom - left_top),
                    right_top + start * (right_bottom - right_top),
                    right_top + end * (right_bottom - right_top),
                    left_top + end * (left_bottom - left_top),
                )
            )
        )
    return bands


def _fixed(points_px: Array) -> npt.NDArray[np.int32]:
    """Picture pixels to canvas fixed point."""
    return np.asarray(np.rint((points_px * _CANVAS + 0.5 * (_CANVAS - 1)) * (1 << _SHIFT)), np.int32)


def _disc(centre_px: Array, radius_px: float) -> tuple[tuple[int, int], int]:
    x, y = _fixed(centre_px[:2]).tolist()
    return (x, y), max(1, round(radius_px * _CANVAS * (1 << _SHIFT)))


# --- Placing several persons -----------------------------------------------------------------------------------------
_PLACINGS = 16


def _place(
    rng: np.random.Generator, figure: _Figure, placed: list[Array], size_hw: tuple[int, int], difficulty: Difficulty
) -> Array:
    """Where the figure goes: the first of 16 random places that overlaps the others little enough, else the best one.

    Returns the figure's box x0, y0, x1, y1 in picture pixels.
    """
    height, width = size_hw
    margin = 0.05 * figure.height_px
    low, high = figure.points_px[:, :2].min(axis=0) - margin, figure.points_px[:, :2].max(axis=0) + margin
    extent = high - low
    room = np.array((width, height)) - extent
    out = 0.35 * extent if rng.random() < difficulty.truncation else np.zeros(2)
    first, last = np.minimum(0, room) - out, np.maximum(0, room) + out
    corners = first + rng.random((_PLACINGS, 2)) * (last - first)
    if not placed:
        return np.concatenate([corners[0], corners[0] + extent])
    others = np.array(placed)
    top_left = np.maximum(corners[:, None], others[None, :, :2])
    bottom_right = np.minimum(corners[:, None] + extent, others[None, :, 2:])
    common = np.clip(bottom_right - top_left, 0, None).prod(axis=2)
    union = extent.prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - common
    worst = (common / union).max(axis=1)
    good = np.flatnonzero(worst <= difficulty.overlap)
    choice = corners[good[0] if len(good) else int(worst.argmin())]
    return np.concatenate([choice, choice + extent])


# --- Background and objects ------------------------------------------------------------------------------------------
# One fixed sheet of noise, cut at random places: much cheaper than fresh noise for every picture.
_NOISE = np.clip(np.random.default_rng(0).normal(0, 32, (640, 640, 3)), -127, 127).astype(np.int8)


def _background(rng: np.random.Generator, size_hw: tuple[int, int], clutter: float) -> Picture:
    """A blotchy gradient with shapes on it, some of them like limbs and heads, at canvas resolution."""
    height, width = size_hw[0] * _CANVAS, size_hw[1] * _CANVAS
    cells = int(rng.integers(2, 7))
    coarse = rng.integers(50, 206) + rng.integers(-45, 46, 3) + rng.integers(-40, 41, (cells, cells, 3))
    coarse = np.clip(coarse, 0, 255).astype(np.uint8)
    canvas = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    for _ in range(int(rng.poisson(clutter))):
        _object(rng, canvas, 0.04, 0.3)
    return canvas


def _object(
    rng: np.random.Generator, canvas: Picture, smallest: float, largest: float
) -> tuple[npt.NDArray[np.int32], ...]:
    """Paint one shape at a random place; sizes in units of the canvas' height. Returns its outlines in fixed point."""
    height, width = canvas.shape[:2]
    u = rng.random(8).tolist()
    size = height * (smallest + (largest - smallest) * u[0])
    centre = np.array((u[1] * width, u[2] * height))
    angle = 2 * np.pi * u[3]
    colour = _SKIN[int(u[7] * 997) % len(_SKIN)] if u[7] < 0.25 else _vivid(rng)
    axis = np.array((np.cos(angle), np.sin(angle)))
    normal = np.array((-axis[1], axis[0]))
    kind = int(u[4] * 5)
    if kind == 0:  # box
        corners = np.array((axis + normal * u[5], axis - normal * u[5], -axis - normal * u[5], -axis + normal * u[5]))
        outlines = [centre + size * corners]
    elif kind == 1:  # ellipse or head
        arc = np.linspace(0, 2 * np.pi, 20, endpoint=False)[:, None]
        outlines = [centre + size * 0.7 * (np.cos(arc) * axis + np.sin(arc) * normal * (0.4 + 0.6 * u[5]))]
    elif kind == 2:  # bar or pole
        reach, half = 2.5 * size * axis, 0.012 * (1 + 3 * u[5]) * height * normal
        outlines = [centre + np.array((reach + half, reach - half, -reach - half, -reach + half))]
    else:  # one limb, bent in the middle
        bend = angle + 2.2 * (u[5] - 0.5)
        joint = centre + size * axis
        tip = joint + size * 0.9 * np.array((np.cos(bend), np.sin(bend)))
        thick = size * (0.1 + 0.14 * u[6])
        outlines = [_tube(centre, joint, thick, thick * 0.8), _tube(joint, tip, thick * 0.8, thick * 0.6)]
    fixed = tuple(np.asarray(np.rint(outline * (1 << _SHIFT)), np.int32) for outline in outlines)
    for outline in fixed:
        cv2.fillConvexPoly(canvas, outline, colour, cv2.LINE_8, _SHIFT)
    return fixed


def _tube(start: Array, end: Array, first: float, second: float) -> Array:
    """A capsule's outline [16, 2]."""
    heading = np.arctan2(end[1] - start[1], end[0] - start[0]) + _ARC
    arc = np.column_stack([np.cos(heading), np.sin(heading)])
    return np.concatenate([start + first * arc, end - second * arc])


def _finish(rng: np.random.Generator, canvas: Picture, difficulty: Difficulty) -> Picture:
    """Average the canvas down to the picture, then light, blur and noise."""
    height, width = canvas.shape[0] // _CANVAS, canvas.shape[1] // _CANVAS
    picture = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    contrast, light, blur, noise, y, x = rng.random(6).tolist()
    if blur < difficulty.blur:
        picture = cv2.GaussianBlur(picture, (3, 3), 0.4 + 0.5 * contrast)
    rows, columns = -(-height // 256) * 256, -(-width // 256) * 256
    sheet = _NOISE if max(rows, columns) <= 512 else np.tile(_NOISE, (-(-rows // 512) + 1, -(-columns // 512) + 1, 1))
    top, left = int(y * 128), int(x * 128)
    grain = sheet[top : top + height, left : left + width]
    gain = difficulty.noise / 32 * 2 * noise
    picture = cv2.addWeighted(
        picture, 0.75 + 0.5 * contrast, grain, gain, 40 * (light - 0.5) - 30 * (contrast - 0.5), dtype=cv2.CV_8U
    )
    return np.asarray(picture, np.uint8)


# --- The picture set -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scene:
    image: Picture
    annotations: list[dict[str, Any]]


def _draw(seed: int, index: int, size_hw: tuple[int, int], difficulty: Difficulty) -> _Scene:
    """Picture `index` of set `seed`, with its COCO annotations (without ids)."""
    rng = np.random.default_rng([seed, index])
    canvas = _background(rng, size_hw, difficulty.clutter)
    owners = np.zeros(size_hw, np.uint8)
    count = int(rng.integers(difficulty.people[0], difficulty.people[1] + 1))
    low, high = difficulty.scale
    high = max(low, high * (1 - 0.08 * (count - 1)))
    heights = np.sort(low + (high - low) * rng.random(count)) * size_hw[0]  # the near ones are the large ones
    placed: list[Array] = []
    joints, boxes, areas = [], [], []
    for person, height_px in enumerate(heights.tolist()):
        figure = _figure(rng, difficulty, height_px)
        box = _place(rng, figure, placed, size_hw, difficulty)
        placed.append(box)
        points = figure.points_px.copy()
        points[:, :2] += box[:2] - (points[:, :2].min(axis=0) - 0.05 * height_px)
        _paint_person(canvas, owners, person, figure, points)
        silhouette = (owners // _GROUPS == person) & (owners > 0)
        joints.append(points[list(_COCO_POINTS)])
        boxes.append(_box(silhouette))
        areas.append(int(np.count_nonzero(silhouette)))
        turned_away = _turned_away(points, height_px)
        joints[-1][turned_away, :2] = -1
    if rng.random() < difficulty.occluder:
        for outline in _object(rng, canvas, 0.08, 0.22):
            cv2.fillConvexPoly(owners, outline, 255, cv2.LINE_8, _SHIFT + 1)
    image = _finish(rng, canvas, difficulty)
    annotations = [
        _annotation(owners, person, joints[person], boxes[person], areas[person])
        for person in range(count)
        if areas[person]
    ]
    return _Scene(image, annotations)


def _turned_away(points_px: Array, height_px: float) -> Mask:
    """bool [17]: joints of the face that look away from the camera; COCO's annotators leave these unlabelled."""
    depth = (points_px[[_NOSE, _L_EYE, _R_EYE, _L_EAR, _R_EAR], 2] - points_px[_HEAD, 2]) / height_px
    away = np.zeros(17, np.bool_)
    away[:5] = depth <= (-0.02, 0, 0, _EAR_DEPTH, _EAR_DEPTH)
    return away


def _box(silhouette: Mask) -> list[float]:
    rows, columns = np.flatnonzero(silhouette.any(axis=1)), np.flatnonzero(silhouette.any(axis=0))
    if not len(rows):
        return [0.0, 0.0, 0.0, 0.0]
    top, left = int(rows[0]), int(columns[0])
    return [float(left), float(top), float(columns[-1] + 1 - left), float(rows[-1] + 1 - top)]


def _annotation(owners: Picture, person: int, joints: Array, box: list[float], area: int) -> dict[str, Any]:
    """One person in COCO's words. A person of whom less than a tenth is seen keeps the box but loses the joints."""
    height, width = owners.shape
    xy = np.round(joints[:, :2], 2)
    inside = (xy[:, 0] >= 0) & (xy[:, 1] >= 0) & (xy[:, 0] < width) & (xy[:, 1] < height)
    cells = np.where(inside[:, None], np.minimum(np.rint(xy), (width - 1, height - 1)), 0).astype(np.int64)
    owner = owners[cells[:, 1], cells[:, 0]]
    base = person * _GROUPS
    seen = (owner == base + _COCO_GROUPS) | (_ON_TORSO & (owner == base + _TORSO))
    visibility = np.where(inside, 1 + seen, 0)
    if np.count_nonzero((owners >= base + 1) & (owners < base + _GROUPS)) < 0.1 * area:
        visibility[:] = 0
    triples = [[x, y, v] if v else [0, 0, 0] for (x, y), v in zip(xy.tolist(), visibility.tolist(), strict=True)]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": box,
        "area": float(area),
        "num_keypoints": int(np.count_nonzero(visibility)),
        "keypoints": [value for triple in triples for value in triple],
    }


class SyntheticPeople:
    """`count` synthetic pictures of `size_hw` pixels; a PictureSet with COCO's 17 joints.

    The same (seed, difficulty, size_hw) gives the same picture at the same index. Pictures are drawn when asked for
    and kept in memory up to cache_bytes; beyond that they are drawn again each time. `coco` draws the whole set.
    Worker processes draw into caches of their own, which end with the epoch: read through the set once before using
    workers.

    people: shorthand for difficulty.people. A person's area is its drawn silhouette inside the picture, what others
    hide of it included. Image ids are index + 1.
    """

    def __init__(
        self,
        count: int,
        size_hw: tuple[int, int] = (128, 128),
        seed: int = 0,
        people: tuple[int, int] | None = None,
        difficulty: Difficulty | None = None,
        cache_bytes: int = 2 << 30,
    ) -> None:
        self.keypoints: KeypointSet = COCO_PERSON
        self.difficulty = _checked(count, size_hw, people, difficulty or Difficulty())
        self.size_hw, self.seed, self.cache_bytes = size_hw, seed, cache_bytes
        self._images: list[Picture | None] = [None] * count
        self._annotations: list[list[dict[str, Any]] | None] = [None] * count
        self._people: list[People | None] = [None] * count
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self._images)

    def image_id(self, index: int) -> int:
        return range(1, len(self) + 1)[index]

    def image(self, index: int) -> Picture:
        cached = self._images[index]
        return self._drawn(index).image if cached is None else cached

    def people(self, index: int) -> People:
        people = self._people[index]
        if people is None:
            people = self._people[index] = people_of(self._labels(index), len(self.keypoints))
        return people

    def ignore_mask(self, index: int) -> Mask | None:
        hidden = [a["bbox"] for a in self._labels(index) if a["num_keypoints"] == 0]
        if not hidden:
            return None
        mask = np.zeros(self.size_hw, np.bool_)
        for x, y, width, height in hidden:
            mask[int(y) : int(y + height), int(x) : int(x + width)] = True
        return mask

    @property
    def coco(self) -> dict[str, Any]:
        height, width = self.size_hw
        images = [
            {
                "id": self.image_id(index),
                "file_name": f"{self.image_id(index):012d}.png",
                "height": height,
                "width": width,
            }
            for index in range(len(self))
        ]
        labels = [
            {"image_id": self.image_id(index), **label} for index in range(len(self)) for label in self._labels(index)
        ]
        return {
            "info": {"description": f"synthetic people, seed {self.seed}, {self.difficulty}"},
            "images": images,
            "annotations": [{"id": number, **label} for number, label in enumerate(labels, start=1)],
            "categories": [coco_category(self.keypoints)],
        }

    def _labels(self, index: int) -> list[dict[str, Any]]:
        labels = self._annotations[index]
        return self._drawn(index).annotations if labels is None else labels

    def _drawn(self, index: int) -> _Scene:
        scene = _draw(self.seed, range(len(self))[index], self.size_hw, self.difficulty)
        scene.image.flags.writeable = False
        self._annotations[index] = scene.annotations
        if self._images[index] is None and self._cached_bytes + scene.image.nbytes <= self.cache_bytes:
            self._images[index] = scene.image
            self._cached_bytes += scene.image.nbytes
        return scene


def coco_category(keypoints: KeypointSet) -> dict[str, Any]:
    """The person category of a COCO record; its skeleton counts joints from 1."""
    return {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(keypoints.names),
        "skeleton": [[start + 1, end + 1] for start, end in keypoints.limbs],
    }


def write_coco(pictures: PictureSet, folder: Path) -> None:
    """Write folder/images/*.png and folder/annotations.json; CocoPeople reads the same pictures and persons back.

    Raises DataError when the folder holds pictures already or cannot be written.
    """
    images = folder / "images"
    try:
        images.mkdir(parents=True, exist_ok=False)
    except OSError as error:
        raise DataError(
            "the folder must be writable and hold no pictures yet",
            place=str(images),
            value=error.strerror,
            remedy="choose a new folder",
        ) from error
    names = {pictures.image_id(index): f"{pictures.image_id(index):012d}.png" for index in range(len(pictures))}
    for index in range(len(pictures)):
        _, encoded = cv2.imencode(".png", cv2.cvtColor(pictures.image(index), cv2.COLOR_RGB2BGR))
        (images / names[pictures.image_id(index)]).write_bytes(encoded.tobytes())
    record = pictures.coco
    entries = [{**entry, "file_name": names[entry["id"]]} for entry in record["images"]]
    (folder / "annotations.json").write_text(json.dumps({**record, "images": entries}), encoding="utf-8")


def _checked(
    count: int, size_hw: tuple[int, int], people: tuple[int, int] | None, difficulty: Difficulty
) -> Difficulty:
    """The difficulty with `people` put in, if both can be drawn."""
    if people is not None:
        difficulty = replace(difficulty, people=people)
    fewest, most = difficulty.people
    rules = (
        (count >= 1, "count must be at least 1", count),
        (min(size_hw) >= 32, "height and width must be at least 32 pixels", size_hw),
        (0 <= fewest <= most <= _MAX_PEOPLE, f"people must be a range within 0..{_MAX_PEOPLE}", difficulty.people),
        (0 < difficulty.scale[0] <= difficulty.scale[1], "scale must be a range above 0", difficulty.scale),
    )
    for holds, rule, value in rules:
        if not holds:
            raise DataError(rule, place="synthetic people", value=value, remedy="correct it")
    return difficulty
