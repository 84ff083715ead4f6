"""Faces of animals: thirty of AnimalWeb's, with its nine points."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from drawings.shapes import (
    BLACK,
    BROWN,
    CREAM,
    GREY,
    HORN,
    PINK,
    WHITE,
    Figure,
    Texture,
    Viewpoint,
    ball,
    leave_unboxed,
    limb,
    line,
    polygon,
    rotation,
    shade,
)
from drawings.variety import SIDES, tint, vary_sizes

DEPTH = 0.27  # half that of a head


class FaceEar(NamedTuple):
    kind: str  # "none", "point", or one of FACE_EAR_SHAPES
    size: float


class FaceEarShape(NamedTuple):
    """A flat ellipse, in units of the ear's size."""

    out: float  # of its middle from the ear's root
    down: float
    width: float
    height: float
    lean: float  # in radians, to the side


FACE_EAR_SHAPES = {
    "round": FaceEarShape(0.25, -0.15, 0.5, 0.5, 0),
    "long": FaceEarShape(0.3, -0.8, 0.28, 1.0, 0.25),
    "flop": FaceEarShape(0.35, 0.75, 0.33, 0.85, -0.2),
    "side": FaceEarShape(0.75, 0.0, 0.85, 0.32, -0.35),
    "low": FaceEarShape(0.45, 0.9, 0.45, 0.5, 0),
}


class HornShape(NamedTuple):
    thick: float  # radius at its root
    bow: tuple  # its points, in units of half the head's width and height
    texture: Texture | None = None


RINGS = Texture("bands")
HORN_SHAPES = {
    "short": HornShape(0.05, ((0.35, -0.9), (0.42, -1.7))),
    "upright": HornShape(0.05, ((0.3, -0.9), (0.45, -1.6), (0.4, -2.3), (0.6, -3.0)), RINGS),
    "boss": HornShape(0.12, ((0.1, -0.9), (0.9, -0.85), (1.5, -0.5), (1.75, -1.2))),
    "antler": HornShape(0.035, ((0.3, -0.9), (0.7, -1.6), (1.3, -2.1), (1.2, -2.7))),
    "curl": HornShape(
        0.11, ((0.3, -0.95), (1.0, -1.15), (1.55, -0.6), (1.45, 0.15), (1.0, 0.3)), RINGS
    ),
}


class Eyes(NamedTuple):
    azimuth: float  # how far they look to the side, in radians
    level: float  # of the line on which they lie; negative: above the middle
    size: float  # half the distance between the corners of one


class Mark(NamedTuple):
    kind: str  # "blaze" down the nose, "mask" around the eyes, "cheek"
    colour: tuple


@dataclass(frozen=True)
class FaceLook:
    """Lengths and radii in object units. A colour of None is that of the coat, or no such thing."""

    coat: tuple = BROWN
    width: float = 0.3  # half that of the head
    height: float = 0.32  # half that of the head
    muzzle: float = 0.15  # radius
    reach: float = 0.2  # of the muzzle to the front
    drop: float = 0.16  # of the muzzle below the middle
    muzzle_colour: tuple | None = None
    nose_colour: tuple = BLACK
    nose_size: float = 0.06
    ear: FaceEar = FaceEar("point", 0.2)
    ear_colour: tuple | None = None
    eyes: Eyes = Eyes(0.62, -0.1, 0.065)
    iris: tuple = (90, 55, 25)
    horn: str | None = None  # "tusk", or one of HORN_SHAPES
    mark: Mark | None = None
    mane: tuple | None = None
    beard: tuple | None = None

    def find_mark(self, kind):
        """The colour of the mark if it is of this kind, else None."""
        return self.mark.colour if self.mark and self.mark.kind == kind else None


PLAIN_FACE = FaceLook()


def build_almond_eye(centre, across, upward, iris):
    """An eye whose corners lie at centre -+ across: rim, white, iris and pupil."""
    size = np.linalg.norm(across)
    normal = np.cross(across, upward) / size**2
    turn = np.stack([across / size, upward / np.linalg.norm(upward), normal], 1)
    rim = [centre + across, centre + 0.5 * upward, centre - across, centre - 0.5 * upward]
    return [
        polygon(rim, shade(iris, 1.7), True, 0.05, outline=BLACK),
        ball(centre, size * np.array([0.48, 0.48, 0.1]), iris, turn, 0.06),
        ball(centre, size * np.array([0.26, 0.26, 0.1]), BLACK, turn, 0.07),
    ]


def build_muzzle(look, face, tip):
    """The muzzle, whose end has its middle at `tip`, and a blaze above it."""
    muzzle = look.muzzle
    root = [0, 0.3 * look.drop, 0.08]
    parts = [limb(root, tip, muzzle * 1.1, muzzle, face, bias=-0.02)]
    blaze = look.find_mark("blaze")
    if blaze:
        top = -0.6 * look.height
        low, front = -0.3 * muzzle, 0.9 * muzzle
        corners = [[-0.06, top, 0.23], [0.06, top, 0.23]]
        corners += [tip + [0.05, low, front], tip + [-0.05, low, front]]
        parts.append(polygon(corners, blaze, bias=0.05))
    return parts


def build_mouth(rng, look, face, tip):
    """-> parts, keypoints: nose, right and left corner of the mouth, upper and lower lip."""
    muzzle = look.muzzle
    gape, smile = max(0, rng.normal(0.1, 0.25)) * muzzle, rng.uniform(0.25, 0.45)
    nose = tip + [0, -0.45 * muzzle, 0.85 * muzzle]
    right, left = (tip + np.array([x, smile, 0.5]) * muzzle for x in (-0.8, 0.8))
    upper = tip + [0, 0.55 * muzzle, 0.8 * muzzle]
    lower = tip + [0, 0.8 * muzzle + gape, 0.65 * muzzle]
    sag = [0, 0.04 * muzzle, 0]
    lips = [right, (right + 2 * upper) / 3 + sag, upper, (left + 2 * upper) / 3 + sag, left, lower]
    jaw, jaw_radii = tip + [0, 0.5 * muzzle + gape, 0], [0.75 * muzzle, 0.5 * muzzle, 0.75 * muzzle]
    nose_radii = [look.nose_size * 1.2, look.nose_size * 0.8, 0.04]
    inside = (150, 70, 70) if gape > 0.02 else shade(face, 0.7)
    parts = [
        ball(jaw, jaw_radii, shade(face, 0.92), bias=-0.01),
        polygon(lips, inside, bias=0.12, outline=BLACK),
        line([nose, upper], 0.012, BLACK, 0.15),
        ball(nose, nose_radii, look.nose_colour, bias=0.2),
    ]
    if look.beard:
        root, end = lower + [0, 0.02, -0.1], lower + [0, 0.2, -0.1]
        parts.append(limb(root, end, 0.08, 0.03, look.beard, bias=-0.1))
    return parts, [nose, right, left, upper, lower]


def build_face_eye(look, side):
    """-> parts with the marks around it, its outer and inner corner."""
    width, height, size = look.width, look.height, look.eyes.size
    azimuth = look.eyes.azimuth
    direction = np.array([side * np.sin(azimuth), look.eyes.level / 0.32, np.cos(azimuth)])
    at = direction / np.linalg.norm(direction / [width, height, DEPTH])  # on the head's surface
    aside = azimuth * 0.9
    across = np.array([side * np.cos(aside), -0.15, -np.sin(aside)]) * size
    parts, mask, cheek = [], look.find_mark("mask"), look.find_mark("cheek")
    if mask:
        parts.append(ball(at * 0.93, [size * 1.7, size * 1.5, 0.06], mask, bias=0.005))
    if cheek:
        middle = np.array([side * 0.72 * width, 0.35 * height, 0.12])
        parts.append(ball(middle, [0.3 * width, 0.3 * height, 0.1], cheek, bias=0.01))
    parts += build_almond_eye(at, across, np.array([0, -size, 0]), look.iris)
    return parts, (at + across, at - across)


def build_face_ear(rng, look, coat, side):
    """An ear with its lighter or darker inside."""
    kind, size = look.ear
    if kind == "none":
        return []
    root = np.array([side * 0.72 * look.width, -0.72 * look.height, -0.05])
    colour = look.ear_colour or coat
    if kind == "point":
        triangle = [[side * 0.45, 0.3, 0], [side * 0.35, -1, 0], [-side * 0.4, 0, 0]]
        rim = root + np.array(triangle) * size
        inside = 0.45 * rim.mean(0) + 0.55 * rim
        return [
            polygon(rim, colour, bias=-0.06),
            polygon(inside, shade(colour, 0.65), bias=-0.05),
        ]
    shape = FACE_EAR_SHAPES[kind]
    centre = root + [side * shape.out * size, shape.down * size, 0]
    turn = rotation(roll=side * (shape.lean + rng.normal(0, 0.15)))
    radii = [shape.width * size, shape.height * size, 0.03]
    inside = [0.6 * shape.width * size, 0.65 * shape.height * size, 0.02]
    return [
        ball(centre, radii, colour, turn, -0.06),
        ball(centre + [0, 0, 0.02], inside, shade(colour, 0.7), turn, -0.05),
    ]


def build_face_horn(look, side):
    """A chain of limbs that grow thinner; an antler ends in a blade."""
    shape = HORN_SHAPES[look.horn]
    bow = [np.array([side * x * look.width, y * look.height, 0.0]) for x, y in shape.bow]
    parts, count = [], len(bow)
    for i in range(count - 1):
        radius = shape.thick * (1 - i / count)
        after = shape.thick * (1 - (i + 1) / count) + 0.008
        bias = 0.03 - 0.01 * i
        parts.append(limb(bow[i], bow[i + 1], radius, after, HORN, bias, shape.texture))
    if look.horn == "antler":
        root, end = bow[2:]
        blade = [root, end + [side * 0.15, 0, 0], end + [0, -0.08, 0], end - [side * 0.12, 0, 0]]
        parts.append(polygon(blade, HORN))
    return parts


def build_tusk(look, tip, side):
    muzzle = look.muzzle
    root = tip + [side * 0.7 * muzzle, 0.2 * muzzle, 0.3 * muzzle]
    end = tip + [side * 1.5 * muzzle, -0.7 * muzzle, 0.6 * muzzle]
    return limb(root, end, 0.035, 0.01, WHITE, 0.1)


def build_animal_face(rng, look=PLAIN_FACE):
    """AnimalWeb's nine points."""
    look = vary_sizes(rng, look, ("width", "height", "muzzle", "reach", "drop"), 0.88, 1.14)
    width, height = look.width, look.height
    coat = tint(rng, look.coat)
    face = look.muzzle_colour or coat
    shoulder = np.array([rng.normal(0, 0.15), rng.uniform(0.5, 0.9), -0.3])
    neck = 0.75 * width, rng.uniform(0.8, 1.2) * width
    parts = [ball([0, 0, 0], [width, height, DEPTH], coat)]
    aside = [limb([0, 0.1, -0.15], shoulder, *neck, coat, bias=-0.2)]
    if look.mane:
        aside.append(ball([0, 0, -0.2], [width * 1.4, height * 1.35, 0.1], look.mane))
    tip = np.array([0, look.drop, 0.1 + look.reach])
    parts += build_muzzle(look, face, tip)
    made, mouth = build_mouth(rng, look, face, tip)
    parts += made
    corners = {}
    for side in SIDES:
        made, corners[side] = build_face_eye(look, side)
        parts += made
        aside += build_face_ear(rng, look, coat, side)
        if look.horn in HORN_SHAPES:
            aside += build_face_horn(look, side)
        if look.horn == "tusk":
            aside.append(build_tusk(look, tip, side))
    (left_outer, left_inner), (right_outer, right_inner) = corners[1], corners[-1]
    keypoints = np.array([right_outer, right_inner, left_inner, left_outer, *mouth])
    view = Viewpoint(
        yaw=rng.uniform(-0.9, 0.9),
        pitch=rng.uniform(-0.5, 0.4),
        roll=rng.uniform(-0.7, 0.7),
    )
    return Figure(parts + leave_unboxed(aside), keypoints, view)


LOOKS = {
    "fennecfox_face": FaceLook(
        coat=(230, 200, 150), ear=FaceEar("point", 0.45), muzzle=0.09, width=0.26, height=0.25,
        muzzle_colour=WHITE, nose_size=0.04,
    ),
    "chipmunk_face": FaceLook(
        coat=(185, 125, 70), ear=FaceEar("round", 0.16), muzzle=0.11, reach=0.16,
        mark=Mark("cheek", WHITE), nose_colour=PINK, nose_size=0.035, eyes=Eyes(0.8, -0.12, 0.07),
    ),
    "klipspringer_face": FaceLook(
        coat=(175, 150, 100), ear=FaceEar("side", 0.34), horn="short", muzzle=0.1, reach=0.28,
        drop=0.24, width=0.23, ear_colour=(215, 205, 180), mark=Mark("mask", (90, 70, 50)),
        eyes=Eyes(0.9, -0.1, 0.065),
    ),
    "przewalskihorse_face": FaceLook(
        coat=(190, 140, 85), ear=FaceEar("point", 0.22), muzzle=0.14, reach=0.3, drop=0.45,
        width=0.22, height=0.34, muzzle_colour=CREAM, nose_colour=(90, 70, 60), mane=(70, 50, 40),
        eyes=Eyes(1.0, -0.16, 0.06),
    ),
    "californiansealion_face": FaceLook(
        coat=(85, 65, 50), ear=FaceEar("low", 0.07), muzzle=0.14, reach=0.22, width=0.25,
        height=0.3, nose_size=0.055,
    ),
    "arcticwolf_face": FaceLook(
        coat=(238, 236, 230), ear=FaceEar("point", 0.24), muzzle=0.12, reach=0.3,
        mane=(225, 222, 215), iris=(190, 150, 60),
    ),
    "guanaco_face": FaceLook(
        coat=(190, 125, 80), ear=FaceEar("long", 0.22), muzzle=0.11, reach=0.25, drop=0.22,
        width=0.19, height=0.26, muzzle_colour=(95, 90, 90), eyes=Eyes(0.95, -0.08, 0.07),
    ),
    "fallowdeer_face": FaceLook(
        coat=(175, 115, 70), ear=FaceEar("side", 0.26), horn="antler", muzzle=0.11, reach=0.28,
        drop=0.28, width=0.21, eyes=Eyes(0.95, -0.1, 0.06),
    ),
    "dassie_face": FaceLook(
        coat=(125, 100, 78), ear=FaceEar("round", 0.13), muzzle=0.12, reach=0.18, width=0.29,
        height=0.26, nose_colour=(60, 45, 45), mark=Mark("mask", (195, 175, 140)),
        eyes=Eyes(0.75, -0.1, 0.055),
    ),
    "greyseal_face": FaceLook(
        coat=(130, 132, 138), ear=FaceEar("none", 0), muzzle=0.17, reach=0.22, width=0.28,
        height=0.27, eyes=Eyes(0.65, -0.14, 0.08), muzzle_colour=(160, 160, 165),
    ),
    "quokka_face": FaceLook(
        coat=(150, 110, 75), ear=FaceEar("round", 0.2), muzzle=0.13, reach=0.16, nose_size=0.055,
        eyes=Eyes(0.75, -0.1, 0.06), muzzle_colour=(180, 145, 110),
    ),
    "camel_face": FaceLook(
        coat=(205, 165, 110), ear=FaceEar("round", 0.13), muzzle=0.15, reach=0.32, drop=0.2,
        width=0.2, height=0.26, nose_colour=(120, 85, 65), nose_size=0.05, beard=(150, 110, 70),
        eyes=Eyes(1.0, -0.12, 0.07),
    ),
    "alpaca_face": FaceLook(
        coat=(240, 225, 200), ear=FaceEar("long", 0.18), muzzle=0.1, reach=0.18, drop=0.16,
        width=0.25, height=0.32, mane=(228, 208, 178), muzzle_colour=(250, 240, 225),
        nose_colour=(110, 80, 75), nose_size=0.045,
    ),
    "goldenretriever_face": FaceLook(
        coat=(220, 170, 95), ear=FaceEar("flop", 0.26), muzzle=0.14, reach=0.24, drop=0.14,
        muzzle_colour=(230, 190, 125), nose_size=0.07,
    ),
    "onager_face": FaceLook(
        coat=(205, 165, 120), ear=FaceEar("long", 0.24), muzzle=0.14, reach=0.3, drop=0.4,
        width=0.22, height=0.32, muzzle_colour=WHITE, nose_colour=GREY,
        mark=Mark("blaze", (165, 120, 80)), eyes=Eyes(1.0, -0.16, 0.06),
    ),
    "bonobo_face": FaceLook(
        coat=(45, 42, 45), ear=FaceEar("low", 0.13), muzzle=0.16, reach=0.1, drop=0.14,
        muzzle_colour=(70, 58, 55), mark=Mark("mask", (75, 62, 58)), eyes=Eyes(0.42, -0.06, 0.06),
        nose_size=0.045, ear_colour=(80, 65, 60),
    ),
    "gibbons_face": FaceLook(
        coat=(200, 170, 120), ear=FaceEar("none", 0), muzzle=0.12, reach=0.06, drop=0.12,
        muzzle_colour=(55, 50, 50), mark=Mark("mask", (50, 46, 46)), eyes=Eyes(0.42, -0.06, 0.06),
        nose_size=0.035, mane=(215, 190, 145),
    ),
    "ferret_face": FaceLook(
        coat=(235, 222, 200), ear=FaceEar("round", 0.13), muzzle=0.09, reach=0.2, width=0.24,
        height=0.22, mark=Mark("mask", (85, 62, 52)), nose_colour=PINK, nose_size=0.04,
        eyes=Eyes(0.65, -0.08, 0.05),
    ),
    "pademelon_face": FaceLook(
        coat=(120, 92, 70), ear=FaceEar("long", 0.17), muzzle=0.1, reach=0.24, width=0.23,
        height=0.27, eyes=Eyes(0.9, -0.1, 0.065), muzzle_colour=(140, 112, 92),
    ),
    "olivebaboon_face": FaceLook(
        coat=(125, 115, 70), ear=FaceEar("low", 0.1), muzzle=0.13, reach=0.38, drop=0.2, width=0.24,
        muzzle_colour=(70, 60, 62), mark=Mark("mask", (90, 78, 68)), eyes=Eyes(0.4, -0.12, 0.05),
        mane=(140, 130, 85),
    ),
    "germanshepherddog_face": FaceLook(
        coat=(190, 140, 80), ear=FaceEar("point", 0.3), ear_colour=(75, 55, 45), muzzle=0.12,
        reach=0.32, muzzle_colour=(50, 42, 40), mark=Mark("mask", (90, 62, 45)),
        nose_colour=(25, 22, 22),
    ),
    "commonwarthog_face": FaceLook(
        coat=(125, 108, 100), ear=FaceEar("side", 0.18), muzzle=0.17, reach=0.3, drop=0.34,
        width=0.24, height=0.3, horn="tusk", nose_colour=(165, 125, 115), nose_size=0.1,
        mark=Mark("cheek", (95, 80, 75)), mane=(70, 55, 50), eyes=Eyes(0.75, -0.2, 0.045),
    ),
    "grizzlybear_face": FaceLook(
        coat=(120, 82, 52), ear=FaceEar("round", 0.2), muzzle=0.14, reach=0.24, width=0.33,
        muzzle_colour=(165, 125, 85), nose_size=0.075, eyes=Eyes(0.5, -0.08, 0.045),
    ),
    "bighornsheep_face": FaceLook(
        coat=(165, 130, 100), ear=FaceEar("side", 0.13), horn="curl", muzzle=0.13, reach=0.26,
        drop=0.3, width=0.22, muzzle_colour=WHITE, nose_colour=(110, 90, 80), nose_size=0.05,
        iris=(200, 160, 60), eyes=Eyes(0.95, -0.08, 0.055),
    ),
    "capebuffalo_face": FaceLook(
        coat=(62, 54, 52), ear=FaceEar("side", 0.25), horn="boss", muzzle=0.17, reach=0.26,
        drop=0.32, width=0.26, nose_size=0.1, nose_colour=(30, 28, 30),
        eyes=Eyes(0.9, -0.05, 0.055),
    ),
    "proboscismonkey_face": FaceLook(
        coat=(185, 105, 65), ear=FaceEar("low", 0.1), muzzle=0.12, reach=0.08, drop=0.18,
        muzzle_colour=(225, 160, 130), mark=Mark("mask", (222, 158, 128)),
        nose_colour=(215, 140, 115), nose_size=0.13, eyes=Eyes(0.42, -0.1, 0.05),
    ),
    "gerbil_face": FaceLook(
        coat=(215, 165, 100), ear=FaceEar("round", 0.2), ear_colour=(225, 165, 150), muzzle=0.1,
        reach=0.18, width=0.24, height=0.25, muzzle_colour=WHITE, nose_colour=PINK, nose_size=0.035,
        eyes=Eyes(0.85, -0.12, 0.08), iris=BLACK,
    ),
    "blackbuck_face": FaceLook(
        coat=(60, 45, 42), ear=FaceEar("side", 0.22), horn="upright", muzzle=0.1, reach=0.28,
        drop=0.26, width=0.2, mark=Mark("mask", WHITE), muzzle_colour=(85, 65, 60),
        eyes=Eyes(0.9, -0.1, 0.06),
    ),
    "gentoopenguin_face": FaceLook(
        coat=(45, 45, 52), ear=FaceEar("none", 0), muzzle=0.07, reach=0.42, drop=0.08, width=0.24,
        height=0.25, muzzle_colour=(225, 110, 50), nose_colour=(190, 80, 35), nose_size=0.03,
        mark=Mark("mask", WHITE), eyes=Eyes(0.85, -0.1, 0.05),
    ),
    "capybara_face": FaceLook(
        coat=(155, 112, 72), ear=FaceEar("round", 0.1), muzzle=0.2, reach=0.28, drop=0.16,
        width=0.25, height=0.27, nose_colour=(70, 50, 45), nose_size=0.075,
        eyes=Eyes(0.9, -0.2, 0.05),
    ),
}
