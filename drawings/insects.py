"""Insects, seen from above: the desert locust and the vinegar fly. Both head towards +x."""

from typing import NamedTuple

import numpy as np

from drawings.shapes import (
    BLACK,
    Figure,
    Texture,
    Viewpoint,
    ball,
    limb,
    line,
    make_eye,
    polygon,
    shade,
)
from drawings.variety import tint

LEFT_AND_RIGHT = (-1, 1)  # its left is up in the image
LOCUST_COATS = ((150, 140, 60), (120, 150, 60), (165, 120, 75), (95, 85, 60))
FLY_COATS = ((75, 80, 90), (110, 90, 60), (60, 95, 80), (90, 70, 70))


class Segment(NamedTuple):
    length: float
    angle: float  # off straight outwards, in radians, positive to the front


class InsectLeg(NamedTuple):
    """One of a pair of legs, from its base."""

    x: float
    y: float  # to either side
    segments: tuple
    radii: tuple  # at the base and at the end of each segment


THIN = (0.018, 0.013, 0.009, 0.006)
JUMPING = (0.042, 0.016, 0.012, 0.007)
LOCUST_LEGS = (
    InsectLeg(0.16, 0.06, (Segment(0.13, 0.35), Segment(0.09, 0.9), Segment(0.06, 0.5)), THIN),
    InsectLeg(0.08, 0.065, (Segment(0.14, -0.5), Segment(0.1, -0.1), Segment(0.07, -0.4)), THIN),
    InsectLeg(0.0, 0.065, (Segment(0.32, -1.15), Segment(0.24, -0.5), Segment(0.1, -0.9)), JUMPING),
)
ROBUST = (0.018, 0.014, 0.01, 0.007)
FLY_LEGS = (
    InsectLeg(0.16, 0.06, (Segment(0.12, 0.55), Segment(0.1, 1.0), Segment(0.12, 1.15)), ROBUST),
    InsectLeg(0.06, 0.08, (Segment(0.13, -0.3), Segment(0.1, 0.2), Segment(0.14, 0.05)), ROBUST),
    InsectLeg(-0.04, 0.07, (Segment(0.15, -0.8), Segment(0.12, -1.0), Segment(0.14, -0.7)), ROBUST),
)


def build_insect_leg(rng, leg, side, coat):
    """-> parts, the leg's four joints from its base."""
    at, turn = np.array([leg.x, side * leg.y, 0.0]), rng.normal(0, 0.2)
    parts, joints = [], [at]
    for i, segment in enumerate(leg.segments):
        angle = segment.angle + (turn + rng.normal(0, 0.16))
        rise = 0.12 if i == 0 else -0.15
        direction = np.array([np.sin(angle), side * np.cos(angle), rise])
        after = at + segment.length * rng.uniform(0.88, 1.12) * direction
        colour = shade(coat, 0.75 + 0.12 * (i % 2))
        parts.append(limb(at, after, leg.radii[i], leg.radii[i + 1], colour, -0.05))
        joints.append(after)
        at = after
    parts.append(ball(at, [0.012] * 3, BLACK))
    return parts, joints


def build_insect_legs(rng, legs, coat):
    """-> parts, joints of the left and of the right side."""
    parts, joints = [], {side: [] for side in LEFT_AND_RIGHT}
    for side in LEFT_AND_RIGHT:
        for leg in legs:
            made, found = build_insect_leg(rng, leg, side, coat)
            parts += made
            joints[side] += found
    left, right = LEFT_AND_RIGHT
    return parts, joints[left], joints[right]


def choose_insect_view(rng):
    """From above; it mostly heads to the right."""
    return Viewpoint(
        yaw=rng.normal(0, 0.25),
        pitch=rng.normal(0, 0.25),
        roll=rng.uniform(-1.3, 1.3) + np.pi * (rng.random() < 0.2),
    )


def build_locust_wing(rng, side, end, coat):
    wing = [
        [0.1, side * 0.02, 0.08],
        [-0.2, side * 0.075, 0.07],
        [end * 0.85, side * 0.05, 0.05],
        [end * 0.8, 0, 0.05],
        [-0.1, 0, 0.08],
    ]
    texture = Texture("dots") if rng.random() < 0.5 else None
    return polygon(wing, shade(coat, 1.2), True, texture=texture)


def build_antenna(rng, side, root):
    """Its three points, from the root."""
    bearing = side * rng.uniform(0.2, 1.1)
    direction = np.array([np.cos(bearing), np.sin(bearing), 0.1])
    tip = root + rng.uniform(0.17, 0.28) * direction
    return root, (root + tip) / 2 + [0.02, 0, 0.02], tip


def build_locust(rng):
    """35 points of a desert locust."""
    coat = tint(rng, LOCUST_COATS[rng.integers(4)])
    end = -0.52 * rng.uniform(0.9, 1.15)  # of the abdomen
    parts, left, right = build_insect_legs(rng, LOCUST_LEGS, coat)
    abdomen, stripes = shade(coat, 0.85), Texture("stripes")
    parts += [
        limb([0.02, 0, 0], [end, 0, -0.03], 0.075, 0.022, abdomen, texture=stripes),
        ball([0.1, 0, 0.02], [0.12, 0.08, 0.07], coat),
        ball([0.3, 0, 0.0], [0.075, 0.065, 0.06], shade(coat, 1.1)),
        limb([0.21, -0.03, 0.03], [0.21, 0.03, 0.03], 0.035, 0.035, shade(coat, 0.7), 0.02),
    ]
    parts += [build_locust_wing(rng, side, end, coat) for side in LEFT_AND_RIGHT]
    keypoints = [
        [0.32, 0, 0.06],
        [0.21, 0, 0.07],
        [0.08, 0, 0.09],
        [end * 0.5, 0, 0.07],
        [end - 0.015, 0, -0.02],
    ]
    for side, joints in zip(LEFT_AND_RIGHT, (left, right), strict=True):
        eye = np.array([0.33, side * 0.06, 0.03])
        root, middle, tip = build_antenna(rng, side, np.array([0.36, side * 0.025, 0.03]))
        parts += [line([root, middle, tip], 0.014, shade(coat, 0.5), 0.02), *make_eye(eye, 0.02)]
        keypoints += [tip, root, eye, *joints]
    return Figure(parts, np.array(keypoints), choose_insect_view(rng))


def build_fly_wing(rng, side, opening):
    """-> parts, the wing's end."""
    along = np.array([-np.cos(opening), side * np.sin(opening), 0.0])
    across = np.array([along[1], -along[0], 0])
    root = np.array([0.05, side * 0.06, 0.02])
    end = root + rng.uniform(0.5, 0.62) * along
    half = (root + end) / 2
    front, rear = half + 0.09 * across - 0.1 * along, half - 0.09 * across - 0.05 * along
    pane, edge = (205, 212, 220), (120, 120, 125)
    parts = [
        polygon([root, front, end, rear], pane, True, -0.2, outline=edge),
        line([root, half, end], 0.008, (130, 130, 135), -0.19),
    ]
    return parts, end


def build_fly(rng):
    """32 points of a vinegar fly."""
    coat = tint(rng, FLY_COATS[rng.integers(4)])
    parts, left, right = build_insect_legs(rng, FLY_LEGS, coat)
    length = rng.uniform(0.85, 1.2)
    abdomen, abdomen_radii = [-0.25 * length, 0, -0.02], [0.19 * length, 0.1, 0.08]
    parts += [
        ball(abdomen, abdomen_radii, shade(coat, 0.85), texture=Texture("bands")),
        ball([0.06, 0, 0.02], [0.16, 0.11, 0.09], coat),
        ball([0.29, 0, 0.0], [0.07, 0.08, 0.06], shade(coat, 1.15)),
        ball([0.205, 0, 0.03], [0.025, 0.05, 0.03], shade(coat, 0.6), bias=0.02),
    ]
    ends, opening = [], rng.uniform(0.1, 0.7)
    for side in LEFT_AND_RIGHT:
        made, end = build_fly_wing(rng, side, opening)
        parts += made
        ends.append(end)
    eyes = [np.array([0.29, side * 0.06, 0.045]) for side in LEFT_AND_RIGHT]
    parts += [ball(eye, [0.045, 0.035, 0.03], (170, 45, 40), bias=0.03) for eye in eyes]
    neck, back, rear = [0.205, 0, 0.06], [0.06, 0, 0.11], [-0.25 * length, 0, 0.06]
    keypoints = [[0.35, 0, 0.03], *eyes, neck, back, rear, *right, *left, *ends]
    return Figure(parts, np.array(keypoints), choose_insect_view(rng))
