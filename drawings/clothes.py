"""Clothes: the thirteen definitions of DeepFashion2, worn by somebody or lying flat.

Related definitions share their code, so that what a model learns about the neck of a shirt carries
over to coats. One side is built as the wearer's right (x < 0); the left is its mirror image, with a
pose of its own. y = 0: the shoulders, or the waist.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from drawings.shapes import (
    MIRROR,
    Figure,
    Texture,
    ball,
    choose_contrast,
    limb,
    line,
    mirror_parts,
    polygon,
    shade,
    stack_points,
)
from drawings.variety import pick_colour, pick_texture, pick_view

WEARERS_SKINS = ((255, 219, 188), (236, 188, 150), (198, 140, 100), (141, 88, 56), (92, 58, 40))
ACROSS = np.linspace(-1, 1, 15)  # from the wearer's right to the left
BOW = 1 - ACROSS**2  # 1 in the middle, 0 at the sides


@dataclass
class Cloth:
    """What all clothes have."""

    colour: tuple
    edge: tuple
    lining: tuple
    texture: Texture | None
    other: tuple  # colour of what else the wearer has on
    trim: tuple
    skin: tuple | None  # of the wearer; None: the piece lies flat


def choose_cloth(rng):
    colour, texture, other = pick_colour(rng), pick_texture(rng, 0.45), pick_colour(rng)
    trim = choose_contrast(colour, 0.7) if rng.random() < 0.7 else pick_colour(rng)
    skin = WEARERS_SKINS[rng.integers(5)] if rng.random() < 0.65 else None
    edge, lining = choose_contrast(colour), shade(colour, 0.5)
    return Cloth(colour, edge, lining, texture, other, trim, skin)


def drape(rng, cloth, parts, keypoints):
    """Lean, sway and turn the finished piece: a wearer moves, cloth that lies flat is skewed and
    has any direction. keypoints: arrays (n, 3) of them, to be joined."""
    keypoints = np.concatenate(keypoints)
    sway = rng.normal(0, 0.17)
    lean = rng.normal(0, 0.22) / max(1, 1.3 * keypoints[:, 1].max())

    def warp(points):
        y = points[:, 1]
        return points + stack_points(sway * y + lean * np.maximum(y, 0) ** 2, 0, 0)

    parts = [replace(part, points=warp(part.points)) for part in parts]
    flat = cloth.skin is None
    yaw, roll = 38, 44
    if flat:
        yaw = 10
        roll = 180 if rng.random() < 0.5 else 44
    return Figure(parts, warp(keypoints), pick_view(rng, yaw, (-12, 18), roll))


def outline_tube(chain, radii):
    """Outer and inner edge (n, 3) of a right sleeve or trouser leg along a chain (n, 3)."""
    step = np.diff(chain[:, :2], axis=0)
    length = np.linalg.norm(step, axis=1)[:, None]
    normal = np.stack((-step[:, 1], step[:, 0]), 1) / length
    normal = np.concatenate((normal[:1], normal[:-1] + normal[1:], normal[-1:]))
    normal /= np.maximum(np.linalg.norm(normal, axis=1), 0.6)[:, None]
    offset = np.pad(normal * np.asarray(radii)[:, None], ((0, 0), (0, 1)))
    return chain + offset, chain - offset


def find_bones(angle, bend):
    """Directions (2, 3) of the two bones of a right limb: angles in degrees, outwards from straight
    down."""
    radians = np.radians((angle, angle + bend))
    return stack_points(-np.sin(radians), np.cos(radians), 0)


# Arms and sleeves.


class ArmStyle(NamedTuple):
    """What both arms of a garment share."""

    length: float  # of the upper arm
    width: float  # radius of the sleeve at the shoulder
    cuff: float  # radius of its end
    reach: float  # how far it goes down the upper arm or, if long, the forearm
    depth: float  # z: in front of the trunk or behind it


UPPER_ARMS = ((6, 25), (25, 95), (90, 150))  # degrees outwards: hanging, out, up
ELBOWS = ((-15, 15), (-115, -25), (30, 110))  # degrees: straight, inwards, upwards


def choose_arm_style(rng, sleeves):
    length, width = rng.uniform(0.2, 0.34), rng.uniform(0.06, 0.085)
    cuff = rng.uniform(0.035, 0.085)
    if sleeves == "short":
        cuff += 0.02
    reach = rng.uniform(0.6, 1.0) if sleeves == "long" else rng.uniform(0.35, 0.95)
    return ArmStyle(length, width, cuff, reach, rng.choice((-0.05, 0.05)))


def choose_arm_bones(rng):
    """Directions (2, 3) of the upper arm and the forearm."""
    raised, bent = rng.choice(3, p=(0.35, 0.4, 0.25)), rng.choice(3, p=(0.45, 0.35, 0.2))
    upper = rng.uniform(*UPPER_ARMS[raised])
    lower = np.clip(upper + rng.uniform(*ELBOWS[bent]), -95, 175)
    return find_bones(upper, lower - upper)


def build_sleeve(cloth, cut, style, chain, long):
    """-> parts, outer and inner edge (n, 3) down to the cuff."""
    radii = np.linspace(style.width, style.cuff, len(chain))
    outer, inner = (edge[1:] for edge in outline_tube(np.array(chain), radii))
    top, low = cut.shoulder + (0, 0, style.depth), cut.pit + (0, 0, style.depth)
    upper = (top, *outer[:2], *inner[1::-1], low)
    parts = [polygon(upper, cloth.colour, texture=cloth.texture)]
    if long:
        lower, colour = (*outer[1:], *inner[:0:-1]), shade(cloth.colour, 0.95)
        parts.append(polygon(lower, colour, texture=cloth.texture, bias=0.005))
    band = (
        outer[-1],
        inner[-1],
        inner[-1] + 0.2 * (inner[-2] - inner[-1]),
        outer[-1] + 0.2 * (outer[-2] - outer[-1]),
    )
    armhole = top, (top + low) / 2 + (0.012, 0, 0), low
    parts += [
        polygon(band, cloth.trim, bias=0.012),
        line(armhole, 0.008, cloth.edge, bias=0.015),
    ]
    return parts, outer, inner


def build_arm(cloth, cut, sleeves, bones, style):
    """A right arm and its sleeve: None, "short" or "long" -> parts, outer and inner edge (n, 3)."""
    upper, lower = bones
    start = cut.shoulder + (0.012, style.width * 0.9, style.depth)
    elbow = start + style.length * upper
    wrist = elbow + 0.92 * style.length * lower
    if lower[0] > 0:  # what crosses the body passes in front
        wrist = wrist + (0, 0, 0.12)
    parts, skin = [], cloth.skin
    if skin is not None:
        hand = wrist + 0.03 * lower
        parts.append(limb(elbow, wrist, 0.038, 0.028, skin, bias=-0.01))
        parts.append(ball(hand, (0.035, 0.035, 0.025), skin))
        if sleeves != "long":
            parts.append(limb(start, elbow, 0.045, 0.038, skin, bias=-0.02))
    if sleeves is None:
        return parts, np.zeros((0, 3)), np.zeros((0, 3))
    if sleeves == "long":
        end = elbow + style.reach * (wrist - elbow)
        chain = start, (start + elbow) / 2, elbow, (elbow + end) / 2, end
    else:
        end = start + style.reach * (elbow - start)
        chain = start, (start + end) / 2, end
    made, outer, inner = build_sleeve(cloth, cut, style, chain, sleeves == "long")
    return parts + made, outer, inner


# The upper body.


@dataclass
class Cut:
    """The pattern of an upper-body garment: its measures, and the curves that panels and keypoints
    share. Widths are halves."""

    hole: float  # depth of the armhole
    length: float
    chest: float
    waist: float
    waist_at: float  # from the armpit, 0, to the hem, 1
    hem: float
    depth: float  # z of the front; the back is at -depth
    curve: float  # of the hem
    power: float  # of the neckline
    pit: np.ndarray  # (3,)
    shoulder: np.ndarray  # (3,)
    neck: np.ndarray  # (3,): where the neckline begins
    low: float  # how deep the neckline is in front
    back: float  # and behind
    side: np.ndarray | None = None  # (20, 3): set by cut_side

    def trace_neckline(self, u, front=1):
        """From the right neck point, u = -1, to the left, u = 1; front = -1: behind the neck."""
        bow = 1 - np.square(u)
        drop = (1 - np.abs(u) ** self.power) * self.low if front > 0 else bow * self.back
        z = self.neck[2] + front * self.depth * bow
        return stack_points(-self.neck[0] * u, self.neck[1] + drop, z)

    def trace_bottom(self, u, front=1):
        bow = 1 - np.square(u)
        y = self.length + self.curve * bow
        return stack_points(self.hem * u, y, front * self.depth * bow)

    def trace_seam(self, t):
        """The right side seam from the armpit, t = 0, over the waist to the hem, t = 1."""
        t, at = np.asarray(t, float), self.waist_at
        ease = (1 - np.cos(np.pi * np.clip(t / at, 0, 1))) / 2
        flare = np.clip((t - at) / (1 - at), 0, 1) ** 0.9
        x = self.chest + (self.waist - self.chest) * ease + (self.hem - self.waist) * flare
        return stack_points(-x, self.hole + t * (self.length - self.hole), 0)

    def cut_side(self, strap, sleeved):
        """Set the right side: from the shoulder, or the strap, round the armhole, down the seam."""
        start = self.neck if strap else self.shoulder
        if sleeved:
            via = (self.shoulder + self.pit) / 2 + (0.02, 0, 0)
        else:
            x, y = 0.45 * start[0] + 0.5 * self.pit[0], 0.2 * start[1] + 0.8 * self.hole
            via = np.array((x, y, 0.2 * self.depth))
        q = np.linspace(0, 1, 6)[:, None]
        hole = (1 - q) ** 2 * start + 2 * q * (1 - q) * via + q * q * self.pit
        self.side = np.concatenate((hole, self.trace_seam(np.linspace(0.07, 1, 14))))

    def make_panel(self, front, colour, texture=None, bias=0.0):
        outline = (
            self.trace_neckline(ACROSS, front),
            self.side * MIRROR,
            self.trace_bottom(-ACROSS, front),
            self.side[::-1],
        )
        return polygon(np.concatenate(outline), colour, texture=texture, bias=bias)


def choose_length(rng, dress, coat):
    if dress:
        return rng.uniform(0.6, 1.3)
    long = coat and rng.random() < 0.5
    return rng.uniform(0.4, 1.1 if long else 0.75)


def choose_cut(rng, strap, sleeved, dress, coat):
    half, hole = rng.uniform(0.15, 0.25), rng.uniform(0.14, 0.26)  # half: the shoulders' width
    length = choose_length(rng, dress, coat)
    chest = half * rng.uniform(0.78, 0.98)
    waist = chest * rng.uniform(0.65, 1.02)
    hem = waist * rng.uniform(1.0, 3.2) if dress else chest * rng.uniform(0.75, 1.4)
    depth, curve = 0.4 * chest, rng.uniform(-0.015, 0.05)
    power = rng.choice((1.0, 2.0, 2.6, 5.0))  # a V, a round, a wide or a square neck
    if strap:
        shoulder = np.array((-half * rng.uniform(0.6, 1.0), 0, 0))
        x, y = -chest * rng.uniform(0.55, 0.85), hole * rng.uniform(0.3, 0.75)
        neck = np.array((x, y, 0.3 * depth))
        low, back = rng.uniform(0.0, 0.1), rng.uniform(-0.01, 0.05)
    else:
        shoulder = np.array((-half, rng.uniform(0.015, 0.06), 0))
        neck = np.array((-half * rng.uniform(0.28, 0.6), 0, 0))
        low, back = rng.uniform(0.03, 0.24), rng.uniform(0.0, 0.03)
    cut = Cut(
        hole=hole,
        length=length,
        chest=chest,
        waist=waist,
        waist_at=0.33 if dress else 0.5,
        hem=hem,
        depth=depth,
        curve=curve,
        power=power,
        pit=np.array((-chest, hole, 0)),
        shoulder=shoulder,
        neck=neck,
        low=low,
        back=back,
    )
    cut.cut_side(strap, sleeved)
    return cut


def build_wearer(rng, cloth, cut, skirted):
    """Neck, often a head, the skin in a deep neckline, and legs."""
    neck, skin = cut.neck, cloth.skin
    parts = [limb((0, -0.11, -0.02), (0, neck[1] + 0.06, 0), 0.05, 0.055, skin, bias=-0.01)]
    if rng.random() < 0.6:
        hair = pick_colour(rng, 10, 120)
        parts.append(ball((0, -0.2, 0), (0.075, 0.1, 0.085), skin, bias=-0.005))
        parts.append(ball((0, -0.24, -0.03), (0.085, 0.085, 0.08), hair, bias=-0.02))
    behind = (neck[0] * 0.9, neck[1] + cut.back + 0.008, 0)
    right = np.array((neck + (0, cut.low, 0), behind))
    parts.append(polygon((*right, *(right * MIRROR)[::-1]), skin, bias=-0.008))
    for side in (-1, 1):
        foot = side * rng.uniform(0.04, 0.14), cut.length + rng.uniform(0.02, 0.6), 0
        hip = (side * cut.waist * 0.48, cut.length - 0.12, -0.02)
        colour = skin if skirted else cloth.other
        parts.append(limb(hip, foot, cut.waist * 0.42, 0.045, colour, bias=-0.1))
    return parts


def build_closed_front(rng, cloth, cut, collar, belt):
    """-> parts, the front neckline's keypoints: right, middle, left."""
    front = cut.trace_neckline(np.array((-0.62, 0, 0.62)))
    above_hem = cut.trace_bottom(ACROSS) - (0, 0.02, 0)
    parts = [
        cut.make_panel(1, cloth.colour, texture=cloth.texture),
        line(cut.trace_neckline(ACROSS), 0.016, cloth.trim, bias=0.008),
        line(above_hem, 0.006, cloth.edge, bias=0.006),
    ]
    if collar:
        outer = cut.neck + (-0.035, 0.045, 0.4 * cut.depth)
        tip = cut.trace_neckline(-0.3) + (-0.03, 0.04, 0)
        flap = [polygon((cut.neck, outer, tip, front[1]), cloth.trim, bias=0.012)]
        parts += flap + mirror_parts(flap)
    if belt:
        x, y, _ = cut.trace_seam(0.35)
        around = stack_points(x * ACROSS, y + 0.02 * BOW, cut.depth * BOW)
        parts.append(line(around, rng.choice((0.008, 0.03)), cloth.trim, bias=0.008))
    return parts, front


def choose_opening(rng, cut):
    """Half the gap at the hem, and the top and the foot (3) of the right half's edge."""
    gap = rng.uniform(0.008, 0.02, 2)  # at the top and at the hem
    if rng.random() < 0.65:
        gap += rng.uniform(0, (0.5, 0.75)) * (-cut.neck[0], cut.hem)
    top = np.array((-gap[0], cut.neck[1] + cut.low, cut.depth))
    foot = cut.trace_bottom(-gap[1] / cut.hem)
    return gap[1], top, foot


def build_open_front(rng, cloth, cut):
    """Two halves, buttoned or apart -> parts, right and left front neckline, right placket (4, 3)
    from the top."""
    gap, top, foot = choose_opening(rng, cut)
    placket = np.array([top + t * (foot - top) for t in (0, 0.26, 0.63, 1)]) + (0, 0, 0.002)
    collar = cut.trace_neckline(np.linspace(-1, -0.3, 6))
    hem = cut.trace_bottom(np.linspace(-gap / cut.hem, -1, 6))
    half = *collar[:-1], *placket, *hem[1:], *cut.side[::-1]
    right = [
        polygon(half, cloth.colour, texture=cloth.texture),
        line(placket, 0.012, cloth.edge, bias=0.008),
    ]
    lapel, parts = rng.uniform(0.0, 0.06), []
    if lapel > 0.02:
        upper = cut.neck + np.array((-lapel, 0.4 * cut.low, 0.4 * cut.depth))
        lower = cut.neck + np.array((-lapel, 0.7 * cut.low, 0.8 * cut.depth))
        outline = (cut.neck, upper, lower, placket[0], cut.trace_neckline(-0.62))
        right.append(polygon(outline, cloth.trim, bias=0.01))
    if cloth.skin is not None:  # what the wearer has on below
        below = placket * (1, 1, 0.7) - (0.05, 0.02, 0)
        neckline = cut.trace_neckline(ACROSS) * (0.9, 0.9, 0.7)
        shirt = *neckline, *below * MIRROR, *below[::-1]
        parts.append(polygon(shirt, pick_colour(rng), bias=-0.005))
    parts += right + mirror_parts(right)
    for t in np.linspace(0.08, 0.9, rng.integers(3, 7)):
        button = (top + t * (foot - top)) * MIRROR + (0.018, 0, 0.005)
        dark = choose_contrast(cloth.colour, 0.3)
        parts.append(ball(button, (0.01, 0.01, 0.006), dark, bias=0.02))
    return parts, cut.trace_neckline(np.array((-0.62, 0.62))), placket


def build_folds(rng, cloth, cut):
    parts = []
    for x, t in rng.uniform((-0.6, 0.35), (0.6, 0.75), (3, 2)):
        (_, high, _), (_, low, _) = cut.trace_seam((t, t + 0.2))
        z = cut.depth * 0.9
        fold = (x * cut.waist, high, z), (1.3 * x * cut.waist, low, z)
        parts.append(line(fold, 0.006, shade(cloth.colour, 0.8), bias=0.004))
    return parts


def build_strap(cloth, cut, width):
    """Over the right shoulder, in front and behind."""
    parts = []
    middle = (cut.neck + cut.shoulder) / 2 + (0, 0, 0.1 * cut.depth)
    tape = np.array((cut.neck, middle, cut.shoulder))
    for face, colour in ((1, cloth.trim), (-1, cloth.lining)):
        parts.append(line(tape * (1, 1, face), width, colour, bias=0.01 * face))
    return parts


def build_sides(rng, cloth, cut, strap, sleeves, heights):
    """Arms, sleeves and straps -> parts, the keypoints of the right and of the left side. heights:
    of the keypoints on the seam, from the armpit, 0, to the hem, 1."""
    style, parts, chains = choose_arm_style(rng, sleeves), [], []
    if sleeves:
        seam = (cut.pit, *cut.trace_seam(heights))
    else:
        seam = cut.trace_seam((0, *heights[1:]))
    for left in (False, True):
        bones = choose_arm_bones(rng)
        made, outer, inner = build_arm(cloth, cut, sleeves, bones, style)
        if strap:
            made += build_strap(cloth, cut, style.reach * 0.03)
        chain = np.array((cut.shoulder, *outer, *inner[::-1], *seam))
        parts += mirror_parts(made) if left else made
        chains.append(chain[::-1] * MIRROR if left else chain)
    return parts, *chains


def build_garment(rng, strap=False, sleeves=None, dress=False, coat=False):
    """All upper-body garments. strap: over the shoulders; sleeves: None, "short" or "long"; a coat
    opens. DeepFashion2's points: neckline, round the right side, hem, round the left side."""
    cloth = choose_cloth(rng)
    cut = choose_cut(rng, strap, sleeves is not None, dress, coat)
    parts = [
        cut.make_panel(-1, cloth.lining, bias=-0.03),
        line(cut.trace_neckline(ACROSS, -1), 0.014, choose_contrast(cloth.lining, 0.7), bias=-0.02),
    ]
    if cloth.skin is not None:
        parts += build_wearer(rng, cloth, cut, dress)
    if coat:
        made, (right, left), placket = build_open_front(rng, cloth, cut)
        front, hem = (right, placket[0], left), placket[3]
        rest = (*placket * MIRROR, *placket[1:3])
    else:
        collar, belt = rng.random() < 0.25 and not strap, rng.random() < 0.5 and dress
        made, front = build_closed_front(rng, cloth, cut, collar, belt)
        hem, rest = cut.trace_bottom(0), np.zeros((0, 3))
    parts += made + build_folds(rng, cloth, cut)
    heights = (0.08, 0.2, 0.35, 0.67, 1) if dress else (0.1, 0.52, 1)
    made, right_side, left_side = build_sides(rng, cloth, cut, strap, sleeves, heights)
    parts += made
    neckline = cut.trace_neckline(0, -1), cut.neck, *front, cut.neck * MIRROR
    return drape(rng, cloth, parts, (neckline, right_side, [hem], left_side, rest))


# Below the waist.


def build_waistband(rng, cloth, width, depth):
    """The band with its back edge, the wearer's trunk above -> parts, waist (3, 3): right, centre,
    left."""
    tall, up = rng.uniform(0.02, 0.06), rng.uniform(0.05, 0.45)
    front = stack_points(width * ACROSS, rng.uniform(-0.015, 0.03) * BOW, depth * BOW)
    back = front * (1, 1, -1) - stack_points(0, 0.03 * BOW, 0)
    lower_edge = front[::-1] * (1.03, 1, 1) + (0, tall, 0)
    parts = [
        polygon((*back, *front[::-1]), cloth.lining, bias=-0.06),
        polygon((*front, *lower_edge), cloth.trim, bias=0.01),
    ]
    if cloth.skin is not None:
        chest = width * rng.uniform(0.95, 1.4)
        right = np.array(((-width, 0.02, 0), (-0.9 * width, -0.3 * up, 0), (-chest, -up, 0)))
        colour = cloth.skin if rng.random() < 0.3 else cloth.other
        parts.append(polygon((*right, *(right * MIRROR)[::-1]), colour, bias=-0.03))
    return parts, front[[0, 7, 14]]


def build_shoe(foot, colour):
    return ball(foot + np.array((0, 0.02, 0.03)), (0.042, 0.032, 0.06), colour, bias=0.01)


def build_skirt(rng):
    """DeepFashion2's eight points: the waist, then round the hem from the right."""
    cloth, width = choose_cloth(rng), rng.uniform(0.11, 0.19)
    length, hem = rng.uniform(0.25, 0.95), width * rng.uniform(0.85, 3.2)
    hip, depth = width * rng.uniform(1.05, 1.3), width * rng.uniform(0.3, 0.5)
    tilt, t = rng.normal(0, 0.08), np.linspace(0, 1, 9)  # t: from the waist to the hem
    rounding, flare = np.sin(np.minimum(t * 3, 1) * np.pi / 2), t ** rng.uniform(0.7, 1.6)
    x = width + (hip - width) * rounding + (hem - hip) * flare
    right = stack_points(-x, t * (length - tilt), 0)
    left = stack_points(x, t * (length + tilt), 0)
    y = length + rng.uniform(-0.01, 0.07) * BOW + tilt * ACROSS
    bottom = stack_points(hem * ACROSS, y, depth * BOW)
    parts, waist = build_waistband(rng, cloth, width, depth)
    behind = (*right, *bottom * (1, 1, -1), *left[::-1])
    parts += [
        polygon(behind, cloth.lining, bias=-0.03),
        polygon((*right, *bottom, *left[::-1]), cloth.colour, texture=cloth.texture),
        line(bottom - (0, 0.02, 0), 0.007, cloth.edge, bias=0.01),
    ]
    for u in np.linspace(-0.8, 0.8, rng.integers(2, 9)):
        z = depth * (1 - u * u)
        pleat = (u * width, 0.05, z), (u * hem * 0.97, length - 0.02 + u * tilt, z)
        parts.append(line(pleat, 0.006, shade(cloth.colour, 0.75), bias=0.006))
    if cloth.skin is not None:
        for side in (-1, 1):
            foot = (side * rng.uniform(0.03, 0.15), length + rng.uniform(0.1, 0.5), 0)
            hip_joint = (side * 0.5 * width, length - 0.15, 0)
            parts.append(limb(hip_joint, foot, 0.06, 0.04, cloth.skin, bias=-0.15))
            parts.append(build_shoe(foot, cloth.edge))
    return drape(rng, cloth, parts, (waist, right[[4, 8]], bottom[[7]], left[[8, 4]]))


class Legwear(NamedTuple):
    """The measures of shorts or trousers. Widths are halves."""

    waist: float
    depth: float
    hip: float
    crotch: np.ndarray  # (3,)
    thigh: float  # length
    shin: float  # length
    reach: float  # of shorts, in units of the thigh
    cuff: float  # radius
    long: bool


def choose_legwear(rng, long):
    waist = rng.uniform(0.11, 0.19)
    depth, hip = waist * rng.uniform(0.3, 0.5), waist * rng.uniform(1.1, 1.4)
    crotch = np.array((0, rng.uniform(0.18, 0.34), 0.02))
    thigh, shin = rng.uniform(0.2, 0.3), rng.uniform(0.2, 0.38)
    reach = rng.uniform(0.25, 1.0)
    cuff = rng.uniform(0.045, 0.13) if long else hip * 0.52 * rng.uniform(0.9, 1.6)
    return Legwear(waist, depth, hip, crotch, thigh, shin, reach, cuff, long)


def build_trouser_leg(cloth, wear, angle, bend, bias):
    """A right leg -> parts, outer and inner edge (n, 3)."""
    crotch, hip, waist = wear.crotch, wear.hip, wear.waist
    start, (upper, lower) = np.array((-hip * 0.5, crotch[1], 0)), find_bones(angle, bend)
    knee = start + wear.thigh * upper
    foot = knee + wear.shin * lower
    chain, last = (start, start + wear.reach * (knee - start)), upper
    if wear.long:
        chain, last = (start, knee, foot), lower
    radii = np.linspace(hip * 0.52, wear.cuff, len(chain))
    outer, inner = outline_tube(np.array(chain), radii)
    inner[0] = crotch
    side = (0, 0, wear.depth), (-waist, 0, 0), (-hip, 0.5 * crotch[1], 0)
    seam = np.array((outer[-1], inner[-1])) - 0.025 * last
    pocket = (-0.55 * waist, 0.05, 0.5 * wear.depth), (-hip * 0.93, 0.45 * crotch[1], 0.1)
    outline = (*side, *outer, *inner[::-1])
    parts = [
        polygon(outline, cloth.colour, texture=cloth.texture, bias=bias),
        line(seam, 0.008, cloth.edge, bias=0.03),
        line(pocket, 0.008, cloth.edge, bias=0.02),
    ]
    if cloth.skin is not None:
        ankle = foot + 0.1 * lower
        parts.append(limb(knee, ankle, 0.045, 0.03, cloth.skin, bias=-0.15))
        parts.append(build_shoe(ankle, cloth.edge))
        if not wear.long:
            parts.append(limb(start, knee, 0.06, 0.048, cloth.skin, bias=-0.15))
    return parts, outer, inner


def build_legwear(rng, long):
    """Shorts and trousers: two tubes with a bend at the knee, joined at the crotch. DeepFashion2's
    points: the waist, round the right leg, the crotch, round the left leg."""
    cloth, wear = choose_cloth(rng), choose_legwear(rng, long)
    if rng.random() < 0.75:
        poses = rng.uniform((-4, -45), (55, 25), (2, 2))
    else:
        poses = rng.uniform((0, -4), (10, 4), (2, 2))
    parts, waist = build_waistband(rng, cloth, wear.waist, wear.depth)
    right, outer, inner = build_trouser_leg(cloth, wear, *poses[0], bias=0.0)
    left, left_outer, left_inner = build_trouser_leg(cloth, wear, *poses[1], bias=0.01)
    crotch = wear.crotch
    fly = ((0, 0.02, wear.depth), (0, 0.7 * crotch[1], 0.8 * wear.depth), crotch)
    parts += right + mirror_parts(left)
    parts.append(line(fly, 0.008, cloth.edge, bias=0.03))
    right_leg = outer, inner[:0:-1]
    left_leg = left_inner[1:] * MIRROR, left_outer[::-1] * MIRROR
    return drape(rng, cloth, parts, (waist, *right_leg, [crotch], *left_leg))
