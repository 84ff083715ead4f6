"""Birds: eight of CUB-200's, with its 15 points."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from drawings.shapes import (
    BLACK,
    BROWN,
    CREAM,
    HORN,
    WHITE,
    Figure,
    Frame,
    Texture,
    Viewpoint,
    ball,
    limb,
    line,
    make_eye,
    polygon,
    rotation,
    shade,
)
from drawings.variety import SIDES, pick_yaw, tint, vary_sizes

BIRD_POINTS = (
    "back", "beak", "belly", "breast", "crown", "forehead",
    "left eye", "left leg", "left wing", "nape",
    "right eye", "right leg", "right wing", "tail", "throat",
)


class Beak(NamedTuple):
    length: float
    thick: float  # radius where it begins
    colour: tuple


class BirdTail(NamedTuple):
    length: float
    rise: float  # angle over the bird's axis, in radians
    width: float  # half the width of its end


@dataclass(frozen=True)
class BirdLook:
    """Lengths and radii in object units. A colour of None is that of what lies around it."""

    back: tuple = BROWN
    breast: tuple = CREAM
    crown: tuple | None = None
    throat: tuple | None = None
    face: tuple | None = None
    wing: tuple | None = None
    leg_colour: tuple = (170, 110, 60)
    texture: Texture | None = None  # of the wings
    body: float = 0.3  # length
    girth: float = 0.13  # radius
    upright: float = 0.5  # angle of the body over the horizontal, in radians
    neck: float = 0.09  # length
    head: float = 0.085  # radius
    beak: Beak = Beak(0.12, 0.03, HORN)
    crest: bool = False
    tail: BirdTail = BirdTail(0.22, -0.2, 0.06)
    fork: bool = False  # of the tail
    legs: float = 0.16  # length
    wing_size: float = 0.26  # length
    spread: float = 0.15  # how often the wings are spread


PLAIN_BIRD = BirdLook()


@dataclass
class BirdBody:
    """What head, wings, legs and tail of a bird are attached to, and the colours they share."""

    turn: np.ndarray  # (3, 3)
    girth: float
    length: float
    back: tuple
    wing: tuple

    def place(self, x, y, z):
        """The point at so many radii to the left and down, and so many lengths to the front."""
        return self.turn @ np.array([x * self.girth, y * self.girth, z * self.length])


def build_bird_body(rng, look):
    """-> BirdBody, parts, points by name."""
    back, breast = tint(rng, look.back), tint(rng, look.breast)
    wing = look.wing or shade(back, 0.8)
    turn = rotation(pitch=-(look.upright + rng.normal(0, 0.25)))
    girth, length = look.girth, look.body
    body = BirdBody(turn, girth, length, back, wing)
    back_radii = [0.9 * girth, girth, 0.62 * length]
    breast_radii = [0.8 * girth, 0.84 * girth, 0.54 * length]
    parts = [
        ball([0, 0, 0], back_radii, back, turn),
        ball(body.place(0, 0.22, 0.06), breast_radii, breast, turn, 0.01),
    ]
    points = {
        "back": body.place(0, -0.85, 0.05),
        "belly": body.place(0, 0.95, -0.15),
        "breast": body.place(0, 0.8, 0.42),
    }
    return body, parts, points


def build_bird_neck(rng, look, body):
    """-> parts, the Frame of the head."""
    aside, nod = rng.normal(0, 0.55), rng.normal(0, 0.22)
    neck, head = look.neck, look.head
    base = body.place(0, -0.35, 0.42)
    with_body = body.turn @ [0, -0.75 * neck, 0.8 * neck]
    upwards = np.array([0, -0.45 * neck, 0.3 * neck])
    skull = base + with_body + upwards
    parts = [limb(base, skull, 0.72 * look.girth, 0.85 * head, body.back, bias=0.012)]
    if look.throat:
        start = base + [0, 0.45 * look.girth, 0.2 * look.girth]
        end = skull + [0, 0.35 * head, 0.3 * head]
        parts.append(limb(start, end, 0.35 * look.girth, 0.5 * head, look.throat, bias=0.02))
    return parts, Frame(skull, rotation(aside, nod), head)


def build_bird_head(rng, look, body, head):
    """-> parts, points by name."""
    radius, crown = look.head, look.crown or body.back
    skull_radii = [0.9 * radius, 0.95 * radius, radius]
    crown_radii = [0.78 * radius, 0.62 * radius, 0.9 * radius]
    reach = 0.8 * radius + look.beak.length * rng.uniform(0.9, 1.15)
    beak = head.origin + head.turn @ [0, 0.1 * radius, reach]
    root, thick = head.place(0, 0.1, 0.75), look.beak.thick
    parts = [
        ball(head.origin, skull_radii, look.face or body.back, head.turn, 0.03),
        ball(head.place(0, -0.38, -0.08), crown_radii, crown, head.turn, 0.035),
        limb(root, beak, thick, 0.006, look.beak.colour, 0.05),
    ]
    if look.crest:
        crest = ((0, -0.7, 0.5), (0, -1.7, -1.0), (0, -0.3, -0.9))
        parts.append(polygon([head.place(x, y, z) for x, y, z in crest], crown, bias=0.02))
    points = {
        "beak": beak,
        "crown": head.place(0, -0.95, -0.05),
        "forehead": head.place(0, -0.45, 0.85),
        "nape": head.place(0, 0.05, -0.98),
        "throat": head.place(0, 0.85, 0.4),
    }
    return parts, points


def build_spread_wing(rng, look, body, side, flap):
    """-> part, the wing's keypoint."""
    root = body.place(side * 0.75, -0.4, 0.3)
    out = np.array([side * np.cos(flap), np.sin(flap), 0])
    size = look.wing_size * rng.uniform(1.5, 2.0)
    rear = body.turn @ [0, 0, -0.75 * body.length]
    wing = [
        root,
        root + out * size * 0.5 - rear * 0.15,
        root + out * size + rear * 0.4,
        root + out * size * 0.6 + rear * 0.8,
        root + rear,
    ]
    part = polygon(wing, body.wing, True, texture=look.texture)
    return part, root + out * size * 0.55 + rear * 0.3


def build_folded_wing(look, body, side):
    """-> part, the wing's keypoint."""
    tip = body.place(side * 0.6, 0.05, -0.45) + body.turn @ [0, 0, -look.wing_size * 0.4]
    wing = [
        body.place(side * 0.75, -0.4, 0.3),
        body.place(side * 0.95, 0.1, 0.2),
        body.place(side * 0.98, 0.45, -0.2),
        tip,
        body.place(side * 0.8, -0.5, -0.25),
    ]
    part = polygon(wing, body.wing, True, 0.03, texture=look.texture)
    return part, body.place(side * 0.98, 0.05, -0.05)


def build_bird_leg(rng, look, body, side):
    """-> parts, the leg's keypoint, the foot."""
    hip = body.place(side * 0.4, 0.75, -0.2)
    length = look.legs + 0.25 * look.girth
    foot = hip + np.array([side * 0.02, 1, rng.normal(0, 0.3)]) * length
    colour = look.leg_colour
    toe_right, toe_front = foot + [-0.03, 0.01, 0.05], foot + [0, 0.01, 0.08]
    toe_left = foot + [0.03, 0.01, 0.05]
    parts = [
        limb(hip, hip + 0.3 * (foot - hip), 0.035, 0.015, body.back, bias=-0.01),
        line([hip, foot], 0.018, colour),
        line([toe_right, foot, toe_front], 0.014, colour),
        line([foot, toe_left], 0.014, colour),
    ]
    return parts, hip + 0.6 * (foot - hip), foot


def build_bird_tail(rng, look, body):
    """-> parts, the tail's keypoint."""
    start = body.place(0, -0.1, -0.55)
    rise = look.tail.rise + rng.normal(0, 0.15)
    direction = body.turn @ [0, -np.sin(rise), -np.cos(rise)]
    end = start + direction * look.tail.length * rng.uniform(0.85, 1.2)
    along = end - start
    middle = start + (0.45 if look.fork else 1.05) * along
    root, half = np.array([0.03, 0, 0]), np.array([look.tail.width, 0, 0])
    feathers = [start - root, end - half, middle, end + half, start + root]
    rump, rump_end = start - 0.3 * along, start + 0.75 * along
    parts = [
        polygon(feathers, body.wing),
        limb(rump, rump_end, 0.05, 0.02, shade(body.back, 0.9), 0.005),
    ]
    return parts, start + 0.7 * along


def build_perch(rng, foot):
    level = foot[1] + 0.02
    start = [-0.5, level + rng.normal(0, 0.05), foot[2]]
    end = [0.5, level + rng.normal(0, 0.05), foot[2]]
    return limb(start, end, 0.025, 0.02, (110, 85, 65), -0.05)


def build_bird(rng, look=PLAIN_BIRD):
    """CUB-200's 15 points."""
    look = vary_sizes(rng, look, ("body", "girth", "head", "neck", "legs"), 0.88, 1.14)
    body, parts, points = build_bird_body(rng, look)
    made, head = build_bird_neck(rng, look, body)
    parts += made
    made, points_of_head = build_bird_head(rng, look, body, head)
    parts += made
    points |= points_of_head
    spread, flap = rng.random() < look.spread, rng.uniform(-1.0, 0.5)
    for side, name in zip(SIDES, ("left", "right"), strict=True):
        points[f"{name} eye"] = head.place(side * 0.74, -0.12, 0.5)
        parts += make_eye(points[f"{name} eye"], 0.2 * look.head)
        if spread:
            wing, points[f"{name} wing"] = build_spread_wing(rng, look, body, side, flap)
        else:
            wing, points[f"{name} wing"] = build_folded_wing(look, body, side)
        made, points[f"{name} leg"], foot = build_bird_leg(rng, look, body, side)
        parts += [wing, *made]
    made, points["tail"] = build_bird_tail(rng, look, body)
    parts += made
    if rng.random() < 0.5 and not spread:
        parts.insert(0, build_perch(rng, foot))
    view = Viewpoint(
        yaw=pick_yaw(rng, 25, 130),
        pitch=rng.normal(0.08, 0.2),
        roll=rng.uniform(-0.6, 0.6),
    )
    return Figure(parts, np.array([points[name] for name in BIRD_POINTS]), view)


LOOKS = {
    "Woodpecker": BirdLook(
        back=BLACK, breast=(225, 215, 200), crown=(210, 40, 35), texture=Texture("dots", WHITE),
        upright=0.95, beak=Beak(0.13, 0.028, (70, 70, 75)), face=WHITE, crest=True,
        tail=BirdTail(0.24, -0.15, 0.05), legs=0.1,
    ),
    "Wren": BirdLook(
        back=(140, 90, 55), breast=(200, 165, 125), tail=BirdTail(0.17, 1.2, 0.04), girth=0.15,
        body=0.27, texture=Texture("stripes"), beak=Beak(0.1, 0.016, (80, 65, 50)), upright=0.3,
        head=0.095,
    ),
    "Gull": BirdLook(
        back=WHITE, breast=WHITE, wing=(165, 172, 180), beak=Beak(0.13, 0.032, (235, 185, 40)),
        body=0.38, neck=0.12, upright=0.25, spread=0.35, wing_size=0.32, leg_colour=(235, 170, 130),
    ),
    "Kingfisher": BirdLook(
        back=(35, 115, 180), breast=(225, 125, 50), throat=WHITE,
        beak=Beak(0.24, 0.034, (45, 45, 50)), head=0.115, neck=0.06, legs=0.08,
        tail=BirdTail(0.12, -0.1, 0.04), upright=0.7, leg_colour=(215, 80, 50), crest=True,
    ),
    "Sparrow": BirdLook(
        back=(150, 110, 75), breast=(205, 195, 180), crown=(120, 65, 40), throat=(50, 42, 40),
        texture=Texture("stripes", (85, 60, 40)), beak=Beak(0.075, 0.036, (75, 68, 62)), head=0.092,
        girth=0.14,
    ),
    "Tern": BirdLook(
        back=(215, 220, 226), breast=WHITE, crown=BLACK, wing=(180, 188, 196),
        beak=Beak(0.15, 0.022, (225, 75, 40)), fork=True, tail=BirdTail(0.36, 0.0, 0.09), body=0.4,
        girth=0.105, legs=0.08, spread=0.5, wing_size=0.4, upright=0.15, leg_colour=(215, 70, 40),
    ),
    "Grebe": BirdLook(
        back=(95, 75, 65), breast=(190, 120, 80), crown=(40, 35, 35), throat=(160, 75, 45),
        neck=0.24, beak=Beak(0.14, 0.022, (205, 175, 120)), tail=BirdTail(0.07, 0.3, 0.04),
        body=0.42, girth=0.14, upright=0.1, crest=True, legs=0.09,
    ),
    "Warbler": BirdLook(
        back=(150, 155, 60), breast=(240, 210, 60), crown=(95, 105, 60),
        beak=Beak(0.08, 0.016, (70, 60, 50)), head=0.08, texture=Texture("bands", WHITE),
        girth=0.115, leg_colour=(90, 70, 60),
    ),
}
