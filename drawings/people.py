"""People: the faces of 300-W and AFLW, COCO's person, and a hand."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from drawings.shapes import (
    BLACK,
    MIRROR,
    WHITE,
    Figure,
    Frame,
    Texture,
    Viewpoint,
    ball,
    find_direction,
    leave_unboxed,
    limb,
    line,
    make_eye,
    mirror_parts,
    polygon,
    rotation,
    shade,
)
from drawings.variety import SIDES, tint

SKINS = ((245, 214, 190), (232, 190, 160), (205, 155, 115), (160, 110, 75), (105, 70, 50))
HAIRS = (
    (40, 30, 28),
    (90, 60, 38),
    (165, 120, 65),
    (225, 195, 130),
    (150, 70, 40),
    (190, 190, 190),
)
IRISES = ((80, 55, 30), (70, 110, 150), (85, 115, 70))


def choose_tint(rng, colours):
    return tint(rng, colours[rng.integers(len(colours))])


# Faces.

# A face of average width and height. The subject's left half where both are alike.
BROW = np.array(
    [
        [0.31, -0.20, 0.12],
        [0.26, -0.245, 0.19],
        [0.19, -0.26, 0.24],
        [0.12, -0.25, 0.27],
        [0.06, -0.225, 0.28],
    ]
)
EYE_LEVEL = -0.13
LID = np.array(
    [
        [0.25, -0.13, 0.15],
        [0.205, -0.163, 0.2],
        [0.145, -0.163, 0.22],
        [0.095, -0.125, 0.21],
        [0.145, -0.11, 0.22],
        [0.205, -0.11, 0.2],
    ]
)
NOSE = np.array(
    [
        [0, -0.14, 0.28],
        [0, -0.07, 0.33],
        [0, 0, 0.38],
        [0, 0.06, 0.42],
        [-0.075, 0.1, 0.29],
        [-0.04, 0.115, 0.33],
        [0, 0.125, 0.35],
        [0.04, 0.115, 0.33],
        [0.075, 0.1, 0.29],
    ]
)
MOUTH_LEVEL = 0.23
MOUTH = np.array(  # x of a breadth of 1, y from the mouth's level
    [
        [-1, 0],
        [-0.6, -0.03],
        [-0.22, -0.045],
        [0, -0.037],
        [0.22, -0.045],
        [0.6, -0.03],
        [1, 0],
        [0.6, 0.04],
        [0.22, 0.06],
        [0, 0.065],
        [-0.22, 0.06],
        [-0.6, 0.04],
        [-0.8, 0],
        [-0.22, -0.008],
        [0, -0.005],
        [0.22, -0.008],
        [0.8, 0],
        [0.22, 0.008],
        [0, 0.01],
        [-0.22, 0.008],
    ]
)
LOWER_LIP = (7, 8, 9, 10, 11, 17, 18, 19)  # in MOUTH
SCALP = np.array(
    [
        [0.35, -0.2, -0.1],
        [0.3, -0.42, -0.04],
        [0.15, -0.52, 0],
        [-0.15, -0.52, 0],
        [-0.3, -0.42, -0.04],
        [-0.35, -0.2, -0.1],
    ]
)


@dataclass
class Face:
    skin: tuple
    hair: tuple
    iris: tuple
    scale: np.ndarray  # (3,): how much wider and taller than the average
    points: np.ndarray  # (68, 3)
    opened: float  # how far the eyes are open, in units of the average


def choose_face(rng):
    """A face at random, with the 68 points of 300-W."""
    skin, hair = choose_tint(rng, SKINS), choose_tint(rng, HAIRS)
    iris = IRISES[rng.integers(3)]
    scale = np.array([rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15), 1])
    angle = np.linspace(-1.62, 1.62, 17)  # from the subject's right ear to the left
    depth = -0.12 + 0.3 * np.cos(angle)
    jaw = np.stack([0.36 * np.sin(angle), -0.02 + 0.43 * np.cos(angle), depth], 1)
    jaw[:, 1] += 0.05 * (np.cos(angle) > 0.9)

    brow, lid = BROW.copy(), LID.copy()
    lift, squeeze = rng.normal(0, 0.02), rng.normal(0, 0.015)
    brow[:, 1] += lift + np.linspace(-1, 1, 5) * squeeze
    opened = rng.uniform(0.4, 1.3)
    lid[:, 1] = EYE_LEVEL + (lid[:, 1] - EYE_LEVEL) * opened

    gape, smile = max(0, rng.normal(0.02, 0.05)), rng.normal(0.01, 0.025)
    breadth = rng.uniform(0.85, 1.2)
    x, y = MOUTH.T
    y = MOUTH_LEVEL + y - smile * x**2 + gape * np.isin(np.arange(20), LOWER_LIP)
    mouth = np.stack([0.145 * breadth * x, y, 0.31 - 0.09 * x**2], 1)
    jaw[:, 1] += 0.7 * gape * np.cos(angle).clip(0)

    right_brow, right_lid = brow * [-1, 1, 1], lid * [-1, 1, 1]
    left_brow, left_lid = brow[::-1], lid[[3, 2, 1, 0, 5, 4]]
    points = [jaw, right_brow, left_brow, NOSE, right_lid, left_lid, mouth]
    return Face(skin, hair, iris, scale, np.concatenate(points) * scale, opened)


def build_hair(rng, face, length):
    """What falls down behind, and a fringe with a parting."""
    wide, tall, _ = face.scale
    radii = [0.42 * wide, (0.48 + length / 2) * tall, 0.32]
    behind = ball([0, -0.16 * tall + length / 2, -0.25], radii, face.hair, bias=-0.2)
    fringe, parting = rng.uniform(-0.42, -0.3), rng.uniform(-0.2, 0.2)
    strand = [
        [-0.38, -0.12, -0.06],
        [-0.3, fringe, 0.1],
        [parting, fringe - 0.05, 0.18],
        [0.3, fringe, 0.1],
        [0.38, -0.12, -0.06],
        [0.38, -0.42, -0.1],
        [0.18, -0.62, -0.1],
        [-0.18, -0.62, -0.1],
        [-0.38, -0.42, -0.1],
    ]
    return [behind, polygon(np.array(strand) * face.scale, face.hair, True, 0.1)]


def build_skull(rng, face):
    """Everything behind the features: skull, neck, hair, shoulders, and the skin."""
    wide, tall, _ = face.scale
    hair_length, neck = rng.choice([0, 0.25, 0.5]), np.array([0, 0.75, -0.2])
    radii = [0.37 * wide, 0.45 * tall, 0.38]
    parts = [
        ball([0, -0.12 * tall, -0.08], radii, face.skin, bias=-0.1),
        limb([0, 0.2, -0.2], neck, 0.17, 0.2, shade(face.skin, 0.85), -0.25),
    ]
    if rng.random() < 0.9:
        parts += build_hair(rng, face, hair_length)
    right, left = neck + [-0.3, 0.12, 0], neck + [0.3, 0.12, 0]
    parts.append(limb(right, left, 0.2, 0.2, tint(rng, rng.integers(20, 230, 3)), -0.2))
    outline = np.concatenate([face.points[:17], SCALP * face.scale])
    parts.append(polygon(outline, face.skin, True))
    return parts


def build_eye_and_brow(rng, face, side):
    """With the ear of that side."""
    right = side < 0
    lid = face.points[36:42] if right else face.points[42:48]
    brow = face.points[17:22] if right else face.points[22:27]
    ear = [side * 0.37 * face.scale[0], 0, -0.15]
    pupil = lid.mean(0) + [rng.normal(0, 0.006), 0, 0.01]
    iris_radii = [0.03, min(0.03, 0.025 * face.opened), 0.01]
    pupil_radii = [0.014, min(0.014, 0.016 * face.opened), 0.01]
    return [
        ball(ear, [0.05, 0.1, 0.06], shade(face.skin, 0.9), bias=0),
        polygon(lid, WHITE, bias=0.05, outline=BLACK),
        ball(pupil, iris_radii, face.iris, bias=0.06),
        ball(pupil, pupil_radii, BLACK, bias=0.08),
        line(lid[:4], 0.012, BLACK, 0.09),
        line(brow, 0.026, shade(face.hair, 0.7), 0.06),
    ]


def build_nose_and_mouth(rng, face):
    skin, p = face.skin, face.points
    lips = tint(rng, (185, 85, 85)) if rng.random() < 0.6 else shade(skin, 0.72)
    nose = [p[27] + [-0.025, 0, 0], p[27] + [0.025, 0, 0], p[35], p[33], p[31]]
    return [
        polygon(nose, shade(skin, 0.93), bias=0.08, outline=shade(skin, 0.85)),
        line(p[27:31], 0.012, shade(skin, 1.1), 0.1),
        ball(p[30], [0.05, 0.045, 0.04], shade(skin, 0.98), bias=0.03),
        line(p[31:36], 0.016, shade(skin, 0.55), 0.12),
        polygon(p[48:60], lips, True, 0.07, outline=shade(lips, 0.7)),
        polygon(p[60:68], (90, 35, 35), bias=0.09, outline=shade(lips, 0.5)),
    ]


def build_human_face_68(rng):
    """300-W's 68 points."""
    face = choose_face(rng)
    parts = leave_unboxed(build_skull(rng, face))
    parts.append(line(face.points[:17], 0.012, shade(face.skin, 0.8), bias=0.02))
    for side in (-1, 1):
        parts += build_eye_and_brow(rng, face, side)
    parts += build_nose_and_mouth(rng, face)
    view = Viewpoint(
        yaw=rng.uniform(-0.75, 0.75),
        pitch=rng.normal(0, 0.22),
        roll=rng.uniform(-1, 1),
    )
    return Figure(parts, face.points, view)


def build_human_face_19(rng):
    """AFLW's 19 points."""
    figure = build_human_face_68(rng)
    p = figure.keypoints
    brows = [p[17], p[19], p[21], p[22], p[24], p[26]]
    right_eye, left_eye = [p[36], p[36:42].mean(0), p[39]], [p[42], p[42:48].mean(0), p[45]]
    nose = [p[31], p[33], p[35]]
    mouth = [p[48], (p[62] + p[66]) / 2, p[54]]
    chin = p[8]
    return figure._replace(keypoints=np.stack([*brows, *right_eye, *left_eye, *nose, *mouth, chin]))


# A person.

PERSON_POINTS = (
    "nose",
    "left eye", "right eye", "left ear", "right ear",
    "left shoulder", "right shoulder", "left elbow", "right elbow",
    "left wrist", "right wrist", "left hip", "right hip",
    "left knee", "right knee", "left ankle", "right ankle",
)


@dataclass
class Person:
    skin: tuple
    hair: tuple
    shirt: tuple
    trousers: tuple
    plump: float  # factors on the average
    tall: float
    lean: np.ndarray  # (3, 3): of the trunk
    chest: np.ndarray  # (3,)
    head: Frame


class Pose(NamedTuple):
    sitting: bool
    sleeves: bool  # long ones
    shorts: bool
    stride: float


def choose_person(rng):
    skin, hair = choose_tint(rng, SKINS), choose_tint(rng, HAIRS)
    shirt = tint(rng, rng.integers(30, 230, 3))
    trousers = tint(rng, rng.integers(30, 200, 3))
    plump, tall = rng.uniform(0.85, 1.25), rng.uniform(0.9, 1.1)
    lean = rotation(pitch=rng.normal(0, 0.15), roll=rng.normal(0, 0.15))
    chest, skull = lean @ [0, -0.26, 0], lean @ [0, -0.42, 0.01]
    turn = rotation(rng.normal(0, 0.4), rng.normal(0, 0.2), rng.normal(0, 0.15))
    head = Frame(skull, turn)
    return Person(skin, hair, shirt, trousers, plump, tall, lean, chest, head)


def build_trunk_and_head(rng, person):
    """-> parts, the nose."""
    skin, hair, head = person.skin, person.hair, person.head
    neck, nose = person.lean @ [0, -0.33, 0], head.place(0, 0.015, 0.085)
    pattern = rng.choice([None, None, "stripes"])
    texture = Texture(pattern) if pattern else None
    trunk_radii = 0.1 * person.plump, 0.085 * person.plump
    fringe = (
        (-0.06, -0.03, 0.04),
        (0, -0.05, 0.07),
        (0.06, -0.03, 0.04),
        (0.045, -0.085, 0),
        (-0.045, -0.085, 0),
    )
    mouth = [head.place(-0.02, 0.045, 0.065), head.place(0.02, 0.045, 0.065)]
    parts = [
        limb(person.chest, [0, -0.02, 0], *trunk_radii, person.shirt, texture=texture),
        limb(neck, head.origin, 0.035, 0.035, skin),
        ball(head.origin, [0.062, 0.08, 0.07], skin, head.turn, 0.01),
        ball(head.place(0, -0.022, -0.018), [0.07, 0.075, 0.068], hair, head.turn),
        polygon([head.place(*point) for point in fringe], hair, bias=0.03),
        ball(nose, [0.012, 0.016, 0.012], shade(skin, 0.85), head.turn, 0.02),
        line(mouth, 0.01, (150, 70, 70), 0.02),
    ]
    return parts, nose


def build_eye_and_ear(person, side):
    """-> parts, the eye, the ear."""
    head, colour = person.head, shade(person.skin, 0.9)
    eye, ear = head.place(side * 0.026, -0.012, 0.064), head.place(side * 0.064, 0, 0)
    parts = [*make_eye(eye, 0.007), ball(ear, [0.014, 0.022, 0.016], colour, head.turn)]
    return parts, eye, ear


def build_person_arm(rng, person, pose, side):
    """-> parts, shoulder, elbow, wrist."""
    plump, tall = person.plump, person.tall
    shoulder = person.chest + person.lean @ [side * 0.125 * plump, -0.01, 0]
    out, up = abs(rng.normal(0.25, 0.7)), rng.normal(0, 0.5)
    upper = np.array([side * np.sin(out), np.cos(out), np.sin(up)])
    elbow = shoulder + 0.17 * tall * upper / np.linalg.norm(upper)
    lower = rng.normal(0, 0.7, 3) * [1, 1, 0.5] + upper * 0.7 + [0, 0, 0.5]
    wrist = elbow + 0.155 * tall * lower / np.linalg.norm(lower)
    hand = wrist + 0.03 * (wrist - elbow) / 0.155
    sleeve = person.shirt if pose.sleeves else person.skin
    parts = [
        limb(shoulder, elbow, 0.042 * plump, 0.032, person.shirt),
        limb(elbow, wrist, 0.03, 0.021, sleeve),
        ball(hand, [0.028] * 3, person.skin, bias=0.01),
    ]
    return parts, shoulder, elbow, wrist


def build_person_leg(rng, person, pose, side):
    """-> parts, hip, knee, ankle."""
    plump, tall = person.plump, person.tall
    hip = np.array([side * 0.062 * plump, 0.02, 0])
    swing = side * pose.stride
    thigh, shin = swing + abs(rng.normal(0, 0.2)), min(swing, 0.1) - abs(rng.normal(0, 0.3))
    if pose.sitting:
        thigh, shin = rng.uniform(1.2, 1.6), rng.uniform(-0.2, 0.4)
    knee = hip + 0.23 * tall * find_direction(thigh, side * abs(rng.normal(0.08, 0.25)))
    ankle = knee + 0.22 * tall * find_direction(shin, side * rng.normal(0.02, 0.12))
    heel, toes = ankle + [0, 0.02, 0], ankle + [0, 0.03, 0.06]
    below = person.skin if pose.shorts else person.trousers
    parts = [
        limb(hip, knee, 0.062 * plump, 0.045, person.trousers),
        limb(knee, ankle, 0.042, 0.028, below),
        limb(heel, toes, 0.026, 0.022, shade(person.hair, 0.6), 0.01),
    ]
    return parts, hip, knee, ankle


def build_human_body(rng):
    """COCO's 17 points of a person."""
    person = choose_person(rng)
    parts, nose = build_trunk_and_head(rng, person)
    sitting, sleeves, shorts = rng.random(3) < [0.2, 0.5, 0.4]
    pose = Pose(sitting, sleeves, shorts, stride=rng.uniform(-0.7, 0.7))
    points = {"nose": nose}
    for side, name in zip(SIDES, ("left", "right"), strict=True):
        face, eye, ear = build_eye_and_ear(person, side)
        arm, shoulder, elbow, wrist = build_person_arm(rng, person, pose, side)
        leg, hip, knee, ankle = build_person_leg(rng, person, pose, side)
        parts += [*face, *arm, *leg]
        points |= {
            f"{name} eye": eye,
            f"{name} ear": ear,
            f"{name} shoulder": shoulder,
            f"{name} elbow": elbow,
            f"{name} wrist": wrist,
            f"{name} hip": hip,
            f"{name} knee": knee,
            f"{name} ankle": ankle,
        }
    view = Viewpoint(
        yaw=rng.uniform(-1.3, 1.3),
        pitch=rng.normal(0.05, 0.12),
        roll=rng.normal(0, 0.25) + rng.choice([0, 0, 0, 1.4, -1.4]),  # two in five lie
    )
    return Figure(parts, np.array([points[name] for name in PERSON_POINTS]), view)


# A hand.


class Finger(NamedTuple):
    x: float  # of its base
    y: float
    length: float
    bones: tuple  # in units of the length
    curl: float = 0.85  # its share in the curl of the fist
    width: float = 1.0


BONES = (0.95, 0.75, 0.6)
FINGERS = (
    Finger(-0.11, 0.27, 0.19, bones=(0.85, 0.7, 0.55), curl=0.5, width=1.1),
    Finger(-0.11, 0.02, 0.165, BONES),
    Finger(-0.035, -0.01, 0.185, BONES),
    Finger(0.04, 0.0, 0.17, BONES),
    Finger(0.11, 0.04, 0.135, BONES, width=0.85),
)
JOINT_RADII = (0.047, 0.042, 0.037, 0.031)


@dataclass
class Hand:
    """A right hand, seen from the palm."""

    skin: tuple
    plump: float
    spread: float
    fist: float  # 0 open to 1 closed
    wrist: np.ndarray  # (3,)
    back: bool  # whether its back is seen


def build_finger(rng, hand, number):
    """-> parts, its four points from the base."""
    finger = FINGERS[number]
    if number == 0:
        lean = -0.75 - 0.35 * hand.spread
    else:
        lean = 0.16 * hand.spread * (number - 2.3)
    lean += rng.normal(0, 0.06)
    curl = np.clip(hand.fist + rng.normal(0, 0.45), -0.05, 1.5) * finger.curl
    joint, bend = np.array([finger.x * hand.plump, finger.y, 0.0]), 0.0
    joints = [joint]
    for bone in finger.bones:
        bend += curl
        flat = np.cos(bend)
        direction = np.array([np.sin(lean) * flat, -np.cos(lean) * flat, np.sin(bend)])
        joint = joint + finger.length * bone * direction
        joints.append(joint)
    radii, parts = np.array(JOINT_RADII) * hand.plump * finger.width, []
    for i in range(3):
        start, end = joints[i], joints[i + 1]
        parts.append(limb(start, end, radii[i], radii[i + 1], hand.skin, bias=0.002 * i))
    if hand.back:
        nail = joints[3] - [0, 0, 0.03]
        parts.append(ball(nail, [0.02, 0.024, 0.008], shade(hand.skin, 1.15), bias=-0.01))
    return parts, joints


def build_palm(hand, points):
    """The palm between the bases of the fingers, with knuckles or lines."""
    thumb, index, middle, ring, little = points[1::4]
    wrist, plump = hand.wrist, hand.plump
    outline = [
        wrist + [-0.09 * plump, 0.02, 0],
        thumb + [-0.04, 0, 0],
        (thumb + index) / 2 + [-0.02, 0.02, 0],
        index + [-0.04, 0, 0],
        middle - [0, 0.03, 0],
        ring - [0, 0.03, 0],
        little + [0.045, 0, 0],
        little + [0.05, 0.15, 0],
        wrist + [0.085 * plump, 0.02, 0],
    ]
    parts = [polygon(outline, hand.skin, True, -0.012)]
    if hand.back:
        for knuckle in (index, middle, ring, little):
            at, radii = knuckle - [0, 0, 0.045], [0.022, 0.016, 0.005]
            parts.append(ball(at, radii, shade(hand.skin, 0.88)))
        return parts
    ink = shade(hand.skin, 0.75)
    around_thumb = [index + [0, 0.08, 0.01], middle + [0, 0.14, 0.01], wrist + [-0.03, -0.08, 0.01]]
    across = [little + [0, 0.06, 0.01], middle + [-0.02, 0.09, 0.01]]
    return [*parts, line(around_thumb, 0.01, ink, 0.01), line(across, 0.01, ink, 0.01)]


def build_human_hand(rng):
    """The wrist and four points of each finger."""
    skin, side, back = choose_tint(rng, SKINS), rng.choice(SIDES), rng.random() < 0.5
    wrist, plump = np.array([0, 0.42, 0.0]), rng.uniform(0.85, 1.2)
    hand = Hand(skin, plump, rng.uniform(0.2, 1.3), rng.uniform(0, 1.0), wrist, back)
    start, elbow = wrist + [0, 0.04, 0], wrist + [rng.normal(0, 0.05), 0.3, 0]
    parts = [limb(start, elbow, 0.085 * plump, 0.1 * plump, skin, -0.05)]
    points = [wrist]
    for number in range(len(FINGERS)):
        made, joints = build_finger(rng, hand, number)
        parts += made
        points += joints
    parts += build_palm(hand, points)
    keypoints = np.array(points)
    if side < 0:
        parts, keypoints = mirror_parts(parts), keypoints * MIRROR
    view = Viewpoint(
        yaw=rng.normal(0, 0.4) + np.pi * back,
        pitch=rng.normal(0, 0.25),
        roll=rng.uniform(-1.1, 1.1),
    )
    return Figure(parts, keypoints, view)
