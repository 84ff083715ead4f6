"""Animals on four legs: AP-10K's 34 bodies, and the macaque of MacaquePose.

animal_looks.py says how the categories differ. `build_quadruped` makes one random individual that
walks, grazes, sits or lies.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from drawings.animal_looks import ANIMAL
from drawings.shapes import (
    BLACK,
    HORN,
    PINK,
    WHITE,
    Figure,
    Frame,
    Viewpoint,
    ball,
    find_direction,
    limb,
    line,
    make_eye,
    polygon,
    rotation,
    shade,
)
from drawings.variety import SIDES, pick_yaw, tint, vary_sizes


class EarShape(NamedTuple):
    """An ellipsoid, in units of the ear's size."""

    out: float  # of its middle from the ear's root
    down: float
    width: float
    height: float


EAR_SHAPES = {
    "round": EarShape(0.3, -0.3, 0.5, 0.5),
    "long": EarShape(0.15, -0.9, 0.28, 1.0),
    "fan": EarShape(0.8, 0.5, 0.8, 1.0),
    "flop": EarShape(0.35, 0.7, 0.35, 0.8),
    "side": EarShape(0.8, -0.1, 0.8, 0.35),
}


@dataclass
class Trunk:
    """What legs, tail and neck are attached to."""

    pose: str  # "walk", "sit" or "lie"
    turn: np.ndarray  # (3, 3)
    chest: np.ndarray  # (3,)
    hips: np.ndarray  # (3,)
    coat: tuple


def build_trunk(rng, look):
    """-> Trunk, parts."""
    coat = tint(rng, look.coat)
    chances = [1 - look.sits, look.sits * 0.6, look.sits * 0.4]
    pose = rng.choice(["walk", "sit", "lie"], p=chances)
    tilts = {
        "walk": rng.normal(0, 0.17),
        "sit": rng.uniform(0.5, 1.1),
        "lie": rng.normal(0.05, 0.05),
    }
    turn = rotation(pitch=-tilts[pose])
    chest, hips = turn @ [0, 0, 0.34 * look.body], turn @ [0, 0, -0.34 * look.body]
    hip_girth = look.girth * rng.uniform(0.85, 1.05)
    parts = [limb(chest, hips, look.girth, hip_girth, coat, texture=look.texture)]
    for colour, place, size in ((look.saddle, -0.55, 0.5), (look.belly, 0.5, 0.55)):
        if colour:
            offset, radius = turn @ [0, place * look.girth, 0], size * look.girth
            start, end = 0.95 * chest + offset, 0.95 * hips + offset
            parts.append(limb(start, end, radius, radius, colour, bias=0.002))
    return Trunk(pose, turn, chest, hips, coat), parts


def choose_leg_angles(rng, pose, fore, swing):
    """Angles of the upper and the lower bone. swing: of the step, if it walks."""
    if pose == "walk":
        bend = abs(rng.normal(0.25, 0.25))
        return (swing + 0.1, swing - bend + 0.1) if fore else (swing + bend * 0.7, swing - bend)
    if not fore:
        upper = rng.uniform(1.0, 1.6)
        lower = rng.uniform(-0.6, 0.2) if pose == "sit" else rng.uniform(-1.5, -0.8)
        return upper, lower
    if pose == "sit":
        return swing * 0.5, swing * 0.3
    return rng.uniform(-0.5, 0.6), rng.uniform(0.9, 1.7)


def build_leg(rng, look, trunk, side, fore, swing):
    """-> parts, the leg's three points."""
    end = trunk.chest if fore else trunk.hips
    root = end + trunk.turn @ [side * 0.75 * look.girth, 0.3 * look.girth, 0]
    upper, lower = choose_leg_angles(rng, trunk.pose, fore, swing)
    splay = side * rng.uniform(0, 0.2)
    middle = root + find_direction(upper, splay) * look.legs * 0.52
    paw = middle + find_direction(lower, splay) * look.legs * 0.5
    colour, thick = look.limbs or trunk.coat, look.thick
    texture = None if look.limbs else look.texture
    paw_radii = [thick * 0.8, thick * 0.6, thick]
    parts = [
        limb(root, middle, thick * 1.5, thick * 0.9, colour, texture=texture),
        limb(middle, paw, thick * 0.9, thick * 0.65, colour, texture=texture),
        ball(paw, paw_radii, look.hoof or shade(colour, 0.85), bias=0.01),
    ]
    return parts, (root, middle, paw)


def build_legs(rng, look, trunk):
    """-> parts, points by name."""
    parts, points = [], {}
    step, stride = rng.uniform(-1, 1), rng.uniform(0.1, 0.6)
    for side, name in zip(SIDES, ("left", "right"), strict=True):
        for fore in (True, False):
            phase = 1 if fore else -1
            swing = stride * (step * side * phase + rng.normal(0, 0.3))
            made, places = build_leg(rng, look, trunk, side, fore, swing)
            parts += made
            joints = ("shoulder", "elbow", "front paw") if fore else ("hip", "knee", "back paw")
            for joint, place in zip(joints, places, strict=True):
                points[f"{name} {joint}"] = place
    return parts, points


def build_tail(rng, look, coat, root):
    """Four links that wag to one side and curl."""
    parts, at = [], root
    angle, wag = look.tail.rise + rng.normal(0, 0.6), rng.normal(0, 0.4)
    length = look.tail.length * np.exp(rng.normal(0, 0.2))
    radii = np.linspace(look.tail.root, look.tail.end, 5) * np.exp(rng.normal(0, 0.35))
    for i in range(4):
        after = at + length / 4 * np.array([np.sin(wag), -np.sin(angle), -np.cos(angle)])
        colour = look.tip if look.tip and i > 1 else coat
        parts.append(limb(at, after, radii[i], radii[i + 1], colour, texture=look.texture))
        at, angle = after, angle + look.tail.curl
    return parts


def build_crest(look, root, top):
    """A mane along the neck."""
    crest = []
    for t in (0, 0.5, 1.1):
        crest.append(root + t * (top - root) + np.array([0, -0.75, -0.5]) * look.head)
    pairs = zip(crest[:-1], crest[1:], strict=True)
    return [limb(a, b, 0.045, 0.04, look.mane.colour, bias=-0.01) for a, b in pairs]


def build_neck(rng, look, trunk, root):
    """-> parts, the Frame of the head."""
    aside, grazes = rng.normal(0, 0.5), trunk.pose == "walk" and rng.random() < 0.25
    up = -0.7
    if not grazes:
        up = look.neck_up + rng.normal(0, 0.25) + (0.3 if trunk.pose == "sit" else 0)
    top = root + look.neck * np.array([0.5 * np.sin(aside), -np.sin(up), np.cos(up)])
    radii = look.girth * 0.62, look.head * 0.75
    parts = [limb(root, top, *radii, trunk.coat, bias=0.01, texture=look.texture)]
    if look.mane and look.mane.kind == "crest":
        parts += build_crest(look, root, top)
    nod = rng.normal(0.9 if grazes else 0.2, 0.25)
    return parts, Frame(top, rotation(aside, nod), look.head)


def build_elephant_trunk(rng, look, coat, head, tip):
    """-> parts with the tusks, the trunk's end."""
    parts, at, bend = [], tip, rng.uniform(-0.25, 0.5)
    for i in range(5):
        after = at + head.turn @ find_direction(0.35 + bend * i) * 0.1
        radii = look.head * (0.45 - 0.06 * i), look.head * (0.4 - 0.06 * i)
        parts.append(limb(at, after, *radii, coat, 0.05))
        at = after
    for side in SIDES:
        tusk = ((0.5, 0.5, 0.7), (0.65, 1.3, 1.2), (0.6, 1.4, 1.8))
        parts.append(line([head.place(side * x, y, z) for x, y, z in tusk], 0.03, WHITE, 0.04))
    return parts, at


def build_ear(look, coat, head, side):
    """-> parts, the ear's keypoint."""
    kind, size = look.ear
    ear = Frame(head.place(side * 0.6, -0.7, -0.1), head.turn)
    colour = look.ear_colour or coat
    if kind == "point":
        rim = [
            ear.place(-0.35 * size, 0, 0),
            ear.place(side * 0.3 * size, -size, 0),
            ear.place(0.35 * size, 0.1 * size, 0),
        ]
        part = polygon(rim, colour, bias=0.01)
    else:
        shape = EAR_SHAPES[kind]
        middle = ear.place(side * shape.out * size, shape.down * size, -0.1 * look.head)
        radii = [shape.width * size, shape.height * size, 0.2 * size]
        part = ball(middle, radii, colour, head.turn, 0.01)
    return [part], ear.place(side * 0.3 * size, -0.3 * size, 0)


def build_antler(head, side):
    stem = ((0.3, -0.8, 0), (1.1, -1.9, -0.4), (1.2, -3.1, 0.1))
    stem = [head.place(side * x, y, z) for x, y, z in stem]
    return [
        line(stem, 0.022, HORN, 0.01),
        line([stem[1], head.place(side * 0.7, -2.7, 0.7)], 0.02, HORN, 0.01),
        line([stem[2], head.place(side * 1.9, -2.6, -0.3)], 0.018, HORN, 0.01),
    ]


BENT_HORNS = {
    "curved": ((0.4, -0.7, 0), (1.3, -0.8, 0), (1.4, -1.5, 0.2)),
    "upright": ((0.3, -0.8, 0), (0.5, -1.9, -0.6), (0.7, -3.0, -0.7)),
}


def build_bent_horn(kind, head, side):
    root, bend, tip = (head.place(side * x, y, z) for x, y, z in BENT_HORNS[kind])
    radius = head.unit
    return [
        limb(root, bend, 0.2 * radius, 0.16 * radius, HORN, 0.01),
        limb(bend, tip, 0.16 * radius, 0.04 * radius, HORN, 0.01),
    ]


def build_rhino_horns(head, tip):
    """One behind the other on the snout."""
    parts, snout = [], Frame(tip, head.turn, head.unit)
    for z, height in ((0.3, 1.6), (-0.5, 1.0)):
        root, end = snout.place(0, -0.3, z), snout.place(0, -height, z + 0.3)
        parts.append(limb(root, end, 0.25 * head.unit, 0.03 * head.unit, HORN, 0.03))
    return parts


def build_head_side(look, coat, head, side):
    """Eye, ear and horn of one side -> parts, the eye's and the ear's keypoints."""
    parts, eye = [], head.place(side * 0.66, -0.32, 0.62)
    if look.mask:
        middle, radii = head.place(side * 0.6, -0.25, 0.58), [look.head * 0.36] * 3
        parts.append(ball(middle, radii, look.mask, head.turn, 0.02))
    parts += make_eye(eye, max(0.16 * look.head, 0.011))
    made, ear = build_ear(look, coat, head, side)
    parts += made
    if look.horn == "antler":
        parts += build_antler(head, side)
    elif look.horn in BENT_HORNS:
        parts += build_bent_horn(look.horn, head, side)
    return parts, eye, ear


def build_head(rng, look, coat, head):
    """A head whose snout points along the frame's z -> parts, points by name."""
    radius, face = look.head, look.face or coat
    tip = head.origin + head.turn @ [0, 0.25 * radius, 0.6 * radius + look.snout]
    radii = [radius * 0.85, radius * 0.9, radius]
    snout_radii = radius * 0.7, radius * look.muzzle
    parts = [
        ball(head.origin, radii, coat, head.turn, 0.015, look.texture),
        limb(head.place(0, 0.2, 0.3), tip, *snout_radii, face, 0.03),
    ]
    nose = Frame(tip, head.turn, radius).place(0, -0.1, 0.75 * look.muzzle)
    if look.horn == "trunk":
        made, nose = build_elephant_trunk(rng, look, coat, head, tip)
        parts += made
    nose_radii = [radius * 0.2, radius * 0.16, radius * 0.16]
    parts.append(ball(nose, nose_radii, BLACK if sum(face) > 150 else PINK, head.turn, 0.06))
    points = {"nose": nose}
    for side, name in zip(SIDES, ("left", "right"), strict=True):
        made, points[f"{name} eye"], points[f"{name} ear"] = build_head_side(look, coat, head, side)
        parts += made
    if look.horn == "rhino":
        parts += build_rhino_horns(head, tip)
    if look.mane and look.mane.kind == "ruff":
        radii = [radius * 1.7, radius * 1.8, radius * 0.9]
        parts.append(ball(head.place(0, 0.2, -0.5), radii, look.mane.colour, head.turn))
    return parts, points


def build_quadruped(rng, look):
    """Parts, points by name, and view of a four-legged animal."""
    sizes = ("legs", "body", "girth", "thick", "neck", "head", "snout")
    look = vary_sizes(rng, look, sizes, 0.86, 1.16)
    girth = look.girth
    trunk, parts = build_trunk(rng, look)
    made, points = build_legs(rng, look, trunk)
    points["tail"] = trunk.hips + trunk.turn @ [0, -0.6 * girth, -0.8 * girth]
    points["neck"] = trunk.chest + trunk.turn @ [0, -0.45 * girth, 0.45 * girth]
    parts += made + build_tail(rng, look, trunk.coat, points["tail"])
    made, head = build_neck(rng, look, trunk, points["neck"])
    parts += made
    made, points_of_head = build_head(rng, look, trunk.coat, head)
    parts += made
    mostly_from_the_side = rng.random() < 0.85
    yaw = pick_yaw(rng, 20, 125) if mostly_from_the_side else rng.uniform(-0.4, 0.4)
    view = Viewpoint(yaw=yaw, pitch=rng.normal(0.12, 0.2), roll=rng.uniform(-0.5, 0.5))
    return parts, points | points_of_head, view


ANIMAL_POINTS = (
    "left eye", "right eye", "nose", "neck", "tail",
    "left shoulder", "left elbow", "left front paw",
    "right shoulder", "right elbow", "right front paw",
    "left hip", "left knee", "left back paw",
    "right hip", "right knee", "right back paw",
)
MACAQUE_POINTS = (
    "nose",
    "left eye", "right eye", "left ear", "right ear",
    "left shoulder", "right shoulder", "left elbow", "right elbow",
    "left front paw", "right front paw", "left hip", "right hip",
    "left knee", "right knee", "left back paw", "right back paw",
)


def build_animal_body(rng, look=ANIMAL):
    """AP-10K's 17 points of a quadruped."""
    parts, points, view = build_quadruped(rng, look)
    return Figure(parts, np.array([points[name] for name in ANIMAL_POINTS]), view)


def build_macaque(rng, look=ANIMAL):
    """MacaquePose: 17 points in COCO's order, a hand or a foot for each paw."""
    parts, points, view = build_quadruped(rng, look)
    return Figure(parts, np.array([points[name] for name in MACAQUE_POINTS]), view)
