"""Drawn clothes, furniture and vehicles: the templates of 19 of the 29 keypoint definitions of MP-100.

A template `f(rng, look)` returns (parts, keypoints (K, 3), view): a scene about 1 in size, x to the right, y down, z
towards the viewer, the subject facing the viewer, so its own right at negative x. Keypoints follow MP-100's order
(DeepFashion2, Keypoint-5, CarFusion). Related definitions share their code, so that what a model learns about the neck
of a shirt or the seat of a chair carries over to coats and swivel chairs. `figures.py` turns, projects and paints:

    parts, keypoints, view = TEMPLATES["long_sleeved_shirt"](np.random.default_rng(0), {})
"""
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np

from drawings.scene import ball, limb, line, shade, sheet

TEXTURES = ("stripes", "bands", "spots", "patches", "check", "dots")
SKIN = ((255, 219, 188), (236, 188, 150), (198, 140, 100), (141, 88, 56), (92, 58, 40))
MIRROR = np.array((-1.0, 1.0, 1.0))
U15 = np.linspace(-1, 1, 15)


def paint(rng, low=20, high=245):
    """A random RGB colour; one in three is greyish, as cloth and furniture often are."""
    colour = rng.uniform(low, high, 3)
    return shade(colour if rng.random() > 0.33 else colour.mean() + 0.15 * (colour - colour.mean()), 1)


def contrast(colour, factor=0.55):
    """A tone that can be seen on the colour: darker on light cloth, lighter on dark."""
    return shade(colour, factor) if np.mean(colour) > 90 else shade(np.add(colour, 60 * (1 - factor)), 2 - factor)


def maybe_texture(rng, chance):
    return rng.choice(TEXTURES) if rng.random() < chance else None


def view(rng, yaw, pitch, roll):
    """Yaw and roll up to so many degrees to either side, pitch between two numbers of degrees from above."""
    return {"yaw": np.radians(rng.uniform(-yaw, yaw)), "pitch": np.radians(rng.uniform(*pitch)),
            "roll": np.radians(rng.uniform(-roll, roll))}


def xyz(x, y, z):
    """Points (n, 3) from coordinates that broadcast."""
    p = np.empty((*np.broadcast(x, y, z).shape, 3))
    p[..., 0], p[..., 1], p[..., 2] = x, y, z
    return p


def mirrored(parts):
    return [replace(part, points=part.points * MIRROR) for part in parts]


# Clothes. One side is built as the wearer's right (x < 0); the left is its mirror image, with a pose of its own.

def fabric(rng):
    """What all clothes have: cloth, trim, texture, the skin of a wearer (None: the piece lies flat)."""
    cloth = paint(rng)
    return SimpleNamespace(cloth=cloth, edge=contrast(cloth), lining=shade(cloth, 0.5),
                           texture=maybe_texture(rng, 0.45), other=paint(rng),
                           trim=contrast(cloth, 0.7) if rng.random() < 0.7 else paint(rng),
                           skin=SKIN[rng.integers(5)] if rng.random() < 0.65 else None)


def drape(rng, g, parts, keypoints):
    """Lean, sway and turn the finished piece: a wearer moves, cloth that lies flat is skewed and has any direction."""
    keypoints = np.concatenate(keypoints)
    sway, lean = rng.normal(0, 0.17), rng.normal(0, 0.22) / max(1, 1.3 * keypoints[:, 1].max())

    def warp(p):
        return p + xyz(sway * p[:, 1] + lean * np.maximum(p[:, 1], 0) ** 2, 0, 0)

    parts = [replace(part, points=warp(part.points)) for part in parts]
    flat = g.skin is None
    return parts, warp(keypoints), view(rng, 10 if flat else 38, (-12, 18), 180 if flat and rng.random() < 0.5 else 44)


def tube(chain, radii):
    """Outer and inner edge (n, 3) of a right sleeve or trouser leg along a chain of points (n, 3)."""
    step = np.diff(chain[:, :2], axis=0)
    normal = np.stack((-step[:, 1], step[:, 0]), 1) / np.linalg.norm(step, axis=1)[:, None]
    normal = np.concatenate((normal[:1], normal[:-1] + normal[1:], normal[-1:]))
    normal /= np.maximum(np.linalg.norm(normal, axis=1), 0.6)[:, None]
    offset = np.pad(normal * np.asarray(radii)[:, None], ((0, 0), (0, 1)))
    return chain + offset, chain - offset


def ways(angle, bend):
    """Directions (2, 3) of the two bones of a right limb: angles in degrees, outwards from straight down."""
    a = np.radians((angle, angle + bend))
    return xyz(-np.sin(a), np.cos(a), 0)


def arm(g, shoulder, pit, arms, pose, style):
    """A right arm and its sleeve: None, "short" or "long" -> parts, outer and inner edge (n, 3) down to the cuff."""
    length, r0, cuff, reach, z = style
    start, parts = shoulder + (0.012, r0 * 0.9, z), []
    elbow = start + length * pose[0]
    wrist = elbow + 0.92 * length * pose[1] + (0, 0, 0.12 * (pose[1][0] > 0))  # what crosses the body passes in front
    if g.skin is not None:
        parts = [limb(elbow, wrist, 0.038, 0.028, g.skin, bias=-0.01),
                 ball(wrist + 0.03 * pose[1], (0.035, 0.035, 0.025), g.skin)]
        parts += [limb(start, elbow, 0.045, 0.038, g.skin, bias=-0.02)] if arms != "long" else []
    if arms is None:
        return parts, np.zeros((0, 3)), np.zeros((0, 3))
    if arms == "long":
        end = elbow + reach * (wrist - elbow)
        chain = start, (start + elbow) / 2, elbow, (elbow + end) / 2, end
    else:
        end = start + reach * (elbow - start)
        chain = start, (start + end) / 2, end
    outer, inner = (edge[1:] for edge in tube(np.array(chain), np.linspace(r0, cuff, len(chain))))
    top, low = shoulder + (0, 0, z), pit + (0, 0, z)
    parts.append(sheet((top, *outer[:2], *inner[1::-1], low), g.cloth, texture=g.texture))
    if arms == "long":
        parts.append(sheet((*outer[1:], *inner[:0:-1]), shade(g.cloth, 0.95), texture=g.texture, bias=0.005))
    band = outer[-1], inner[-1], inner[-1] + 0.2 * (inner[-2] - inner[-1]), outer[-1] + 0.2 * (outer[-2] - outer[-1])
    armhole = top, (top + low) / 2 + (0.012, 0, 0), low
    parts += [sheet(band, g.trim, bias=0.012), line(armhole, 0.008, g.edge, bias=0.015)]
    return parts, outer, inner


class Cut:
    """The pattern of an upper-body garment: a few random measures, and the curves that panels and keypoints share."""

    def __init__(self, rng, strap, arms, dress, coat):
        s, self.h = rng.uniform(0.15, 0.25), rng.uniform(0.14, 0.26)  # half the shoulders' width, depth of the armhole
        self.length = rng.uniform(0.6, 1.3) if dress else rng.uniform(0.4, 1.1 if coat and rng.random() < 0.5 else 0.75)
        self.chest = s * rng.uniform(0.78, 0.98)
        self.waist, self.waist_at = self.chest * rng.uniform(0.65, 1.02), 0.33 if dress else 0.5
        self.hem = self.waist * rng.uniform(1.0, 3.2) if dress else self.chest * rng.uniform(0.75, 1.4)
        self.d, self.curve = 0.4 * self.chest, rng.uniform(-0.015, 0.05)
        self.power = rng.choice((1.0, 2.0, 2.6, 5.0))  # a V, a round, a wide or a square neck
        self.pit = np.array((-self.chest, self.h, 0))
        if strap:
            self.shoulder = np.array((-s * rng.uniform(0.6, 1.0), 0, 0))
            self.neck = np.array((-self.chest * rng.uniform(0.55, 0.85), self.h * rng.uniform(0.3, 0.75), 0.3 * self.d))
            self.low, self.back = rng.uniform(0.0, 0.1), rng.uniform(-0.01, 0.05)
        else:
            self.shoulder = np.array((-s, rng.uniform(0.015, 0.06), 0))
            self.neck = np.array((-s * rng.uniform(0.28, 0.6), 0, 0))
            self.low, self.back = rng.uniform(0.03, 0.24), rng.uniform(0.0, 0.03)
        q, a = np.linspace(0, 1, 6)[:, None], self.neck if strap else self.shoulder
        via = (self.shoulder + self.pit) / 2 + (0.02, 0, 0) if arms else np.array((
            0.45 * a[0] + 0.5 * self.pit[0], 0.2 * a[1] + 0.8 * self.h, 0.2 * self.d))
        hole = (1 - q) ** 2 * a + 2 * q * (1 - q) * via + q * q * self.pit
        self.side = np.concatenate((hole, self.seam(np.linspace(0.07, 1, 14))))  # shoulder, armpit, hem

    def neckline(self, u, front=1):
        """From the right neck point, u = -1, to the left, u = 1; front = -1 is the one behind the neck."""
        rise = (1 - np.abs(u) ** self.power) * self.low if front > 0 else (1 - np.square(u)) * self.back
        return xyz(-self.neck[0] * u, self.neck[1] + rise, self.neck[2] + front * self.d * (1 - np.square(u)))

    def bottom(self, u, front=1):
        return xyz(self.hem * u, self.length + self.curve * (1 - np.square(u)), front * self.d * (1 - np.square(u)))

    def seam(self, t):
        """The right side seam from the armpit, t = 0, over the waist to the hem, t = 1."""
        t, at = np.asarray(t, float), self.waist_at
        ease, flare = (1 - np.cos(np.pi * np.clip(t / at, 0, 1))) / 2, np.clip((t - at) / (1 - at), 0, 1) ** 0.9
        x = self.chest + (self.waist - self.chest) * ease + (self.hem - self.waist) * flare
        return xyz(-x, self.h + t * (self.length - self.h), 0)

    def panel(self, front, colour, **more):
        outline = self.neckline(U15, front), self.side * MIRROR, self.bottom(-U15, front), self.side[::-1]
        return sheet(np.concatenate(outline), colour, **more)


def wearer(rng, g, cut, skirted):
    """Neck, often a head, the skin in a deep neckline, and legs."""
    neck, parts = cut.neck, [limb((0, -0.11, -0.02), (0, cut.neck[1] + 0.06, 0), 0.05, 0.055, g.skin, bias=-0.01)]
    if rng.random() < 0.6:
        parts += [ball((0, -0.2, 0), (0.075, 0.1, 0.085), g.skin, bias=-0.005),
                  ball((0, -0.24, -0.03), (0.085, 0.085, 0.08), paint(rng, 10, 120), bias=-0.02)]
    chin = np.array((neck + (0, cut.low, 0), (neck[0] * 0.9, neck[1] + cut.back + 0.008, 0)))
    parts.append(sheet((*chin, *(chin * MIRROR)[::-1]), g.skin, bias=-0.008))
    for x in (-1, 1):
        foot = x * rng.uniform(0.04, 0.14), cut.length + rng.uniform(0.02, 0.6), 0
        parts.append(limb((x * cut.waist * 0.48, cut.length - 0.12, -0.02), foot, cut.waist * 0.42, 0.045,
                          g.skin if skirted else g.other, bias=-0.1))
    return parts


def closed_front(rng, g, cut, collar, belt):
    """-> parts, the three keypoints of the front neckline, centre hem."""
    front, bow = cut.neckline(np.array((-0.62, 0, 0.62))), 1 - U15 ** 2
    parts = [cut.panel(1, g.cloth, texture=g.texture), line(cut.neckline(U15), 0.016, g.trim, bias=0.008),
             line(cut.bottom(U15) - (0, 0.02, 0), 0.006, g.edge, bias=0.006)]
    if collar:
        tips = cut.neck + (-0.035, 0.045, 0.4 * cut.d), cut.neckline(-0.3) + (-0.03, 0.04, 0)
        flap = [sheet((cut.neck, *tips, front[1]), g.trim, bias=0.012)]
        parts += flap + mirrored(flap)
    if belt:
        x, y, _ = cut.seam(0.35)
        parts.append(line(xyz(x * U15, y + 0.02 * bow, cut.d * bow), rng.choice((0.008, 0.03)), g.trim, bias=0.008))
    return parts, front, cut.bottom(0)


def open_front(rng, g, cut):
    """Two halves, buttoned or apart -> parts, right and left front neckline, right placket (4, 3) from the top."""
    gap = rng.uniform(0.008, 0.02, 2)
    if rng.random() < 0.65:
        gap += rng.uniform(0, (0.5, 0.75)) * (-cut.neck[0], cut.hem)
    head, foot = np.array((-gap[0], cut.neck[1] + cut.low, cut.d)), cut.bottom(-gap[1] / cut.hem)
    placket = np.array([head + t * (foot - head) for t in (0, 0.26, 0.63, 1)]) + (0, 0, 0.002)
    collar, hem = cut.neckline(np.linspace(-1, -0.3, 6)), cut.bottom(np.linspace(-gap[1] / cut.hem, -1, 6))
    half = *collar[:-1], *placket, *hem[1:], *cut.side[::-1]
    right = [sheet(half, g.cloth, texture=g.texture), line(placket, 0.012, g.edge, bias=0.008)]
    wide, parts = rng.uniform(0.0, 0.06), []
    if wide > 0.02:  # lapels
        outer = [cut.neck + np.array((-wide, k * cut.low, z * cut.d)) for k, z in ((0.4, 0.4), (0.7, 0.8))]
        right.append(sheet((cut.neck, *outer, placket[0], cut.neckline(-0.62)), g.trim, bias=0.01))
    if g.skin is not None:  # what the wearer has on below
        below = placket * (1, 1, 0.7) - (0.05, 0.02, 0)
        shirt = *cut.neckline(U15) * (0.9, 0.9, 0.7), *below * MIRROR, *below[::-1]
        parts.append(sheet(shirt, paint(rng), bias=-0.005))
    parts += right + mirrored(right)
    for t in np.linspace(0.08, 0.9, rng.integers(3, 7)):
        button = (head + t * (foot - head)) * MIRROR + (0.018, 0, 0.005)
        parts.append(ball(button, (0.01, 0.01, 0.006), contrast(g.cloth, 0.3), bias=0.02))
    return parts, cut.neckline(np.array((-0.62, 0.62))), placket


def garment(rng, look, top="shoulder", arms=None, dress=False, coat=False):
    """All eleven upper-body garments: top "shoulder" or "strap", arms None, "short" or "long", a coat opens."""
    g, strap = fabric(rng), top == "strap"
    cut = Cut(rng, strap, arms, dress, coat)
    parts = [cut.panel(-1, g.lining, bias=-0.03),
             line(cut.neckline(U15, -1), 0.014, contrast(g.lining, 0.7), bias=-0.02)]
    if g.skin is not None:
        parts += wearer(rng, g, cut, dress)
    if coat:
        made, (right, left), placket = open_front(rng, g, cut)
        front, middle, rest = (right, placket[0], left), placket[3], (*placket * MIRROR, *placket[1:3])
    else:
        made, front, middle = closed_front(rng, g, cut, rng.random() < 0.25 and not strap, rng.random() < 0.5 and dress)
        rest = np.zeros((0, 3))
    parts += made
    for x, t in rng.uniform((-0.6, 0.35), (0.6, 0.75), (3, 2)):  # folds
        (_, high, _), (_, low, _) = cut.seam((t, t + 0.2))
        fold = (x * cut.waist, high, cut.d * 0.9), (1.3 * x * cut.waist, low, cut.d * 0.9)
        parts.append(line(fold, 0.006, shade(g.cloth, 0.8), bias=0.004))

    style = (rng.uniform(0.2, 0.34), rng.uniform(0.06, 0.085), rng.uniform(0.035, 0.085) + 0.02 * (arms == "short"),
             rng.uniform(0.6, 1.0) if arms == "long" else rng.uniform(0.35, 0.95), rng.choice((-0.05, 0.05)))
    heights, chains = (0.08, 0.2, 0.35, 0.67, 1) if dress else (0.1, 0.52, 1), []
    for i in (0, 1):
        raised, bent = rng.choice(3, p=(0.35, 0.4, 0.25)), rng.choice(3, p=(0.45, 0.35, 0.2))
        upper = rng.uniform((6, 25, 90)[raised], (25, 95, 150)[raised])    # hanging, out, up
        bend = rng.uniform((-15, -115, 30)[bent], (15, -25, 110)[bent])    # straight, inwards, upwards
        pose = ways(upper, np.clip(upper + bend, -95, 175) - upper)
        made, outer, inner = arm(g, cut.shoulder, cut.pit, arms, pose, style)
        for face in (1, -1) if strap else ():
            tape = np.array((cut.neck, (cut.neck + cut.shoulder) / 2 + (0, 0, 0.1 * cut.d), cut.shoulder))
            made.append(line(tape * (1, 1, face), style[3] * 0.03, g.trim if face > 0 else g.lining, bias=0.01 * face))
        seam = (cut.pit, *cut.seam(heights)) if arms else cut.seam((0, *heights[1:]))
        chain = np.array((cut.shoulder, *outer, *inner[::-1], *seam))
        parts += mirrored(made) if i else made
        chains.append(chain[::-1] * MIRROR if i else chain)
    opening = cut.neckline(0, -1), cut.neck, *front, cut.neck * MIRROR
    return drape(rng, g, parts, (opening, chains[0], [middle], chains[1], rest))


def waistband(rng, g, w, d):
    """The band with its back edge, the wearer's trunk above -> parts, waist (3, 3): right, centre, left."""
    bow, tall, up = 1 - U15 ** 2, rng.uniform(0.02, 0.06), rng.uniform(0.05, 0.45)
    front = xyz(w * U15, rng.uniform(-0.015, 0.03) * bow, d * bow)
    back = front * (1, 1, -1) - xyz(0, 0.03 * bow, 0)
    parts = [sheet((*back, *front[::-1]), g.lining, bias=-0.06),
             sheet((*front, *(front[::-1] * (1.03, 1, 1) + (0, tall, 0))), g.trim, bias=0.01)]
    if g.skin is not None:
        chest = w * rng.uniform(0.95, 1.4)
        trunk = np.array(((-w, 0.02, 0), (-0.9 * w, -0.3 * up, 0), (-chest, -up, 0)))
        parts.append(sheet((*trunk, *(trunk * MIRROR)[::-1]), g.skin if rng.random() < 0.3 else g.other, bias=-0.03))
    return parts, front[[0, 7, 14]]


def shoe(foot, colour):
    return ball(foot + np.array((0, 0.02, 0.03)), (0.042, 0.032, 0.06), colour, bias=0.01)


def skirt(rng, look):
    g, w = fabric(rng), rng.uniform(0.11, 0.19)
    length, hem, hip = rng.uniform(0.25, 0.95), w * rng.uniform(0.85, 3.2), w * rng.uniform(1.05, 1.3)
    d, tilt, bow, t = w * rng.uniform(0.3, 0.5), rng.normal(0, 0.08), 1 - U15 ** 2, np.linspace(0, 1, 9)
    x = w + (hip - w) * np.sin(np.minimum(t * 3, 1) * np.pi / 2) + (hem - hip) * t ** rng.uniform(0.7, 1.6)
    right, left = xyz(-x, t * (length - tilt), 0), xyz(x, t * (length + tilt), 0)
    bottom = xyz(hem * U15, length + rng.uniform(-0.01, 0.07) * bow + tilt * U15, d * bow)
    parts, waist = waistband(rng, g, w, d)
    parts += [sheet((*right, *bottom * (1, 1, -1), *left[::-1]), g.lining, bias=-0.03),
              sheet((*right, *bottom, *left[::-1]), g.cloth, texture=g.texture),
              line(bottom - (0, 0.02, 0), 0.007, g.edge, bias=0.01)]
    for u in np.linspace(-0.8, 0.8, rng.integers(2, 9)):  # pleats
        pleat = (u * w, 0.05, d * (1 - u * u)), (u * hem * 0.97, length - 0.02 + u * tilt, d * (1 - u * u))
        parts.append(line(pleat, 0.006, shade(g.cloth, 0.75), bias=0.006))
    for side in (-1, 1) if g.skin is not None else ():
        foot = np.array((side * rng.uniform(0.03, 0.15), length + rng.uniform(0.1, 0.5), 0))
        parts += [limb((side * 0.5 * w, length - 0.15, 0), foot, 0.06, 0.04, g.skin, bias=-0.15), shoe(foot, g.edge)]
    return drape(rng, g, parts, (waist, right[[4, 8]], bottom[[7]], left[[8, 4]]))


def legwear(rng, look, long):
    """Shorts and trousers: two tubes with a bend at the knee, joined at the crotch."""
    g, w = fabric(rng), rng.uniform(0.11, 0.19)
    d, hip, crotch = w * rng.uniform(0.3, 0.5), w * rng.uniform(1.1, 1.4), np.array((0, rng.uniform(0.18, 0.34), 0.02))
    r0, thigh, shin, reach = hip * 0.52, rng.uniform(0.2, 0.3), rng.uniform(0.2, 0.38), rng.uniform(0.25, 1.0)
    cuff = rng.uniform(0.045, 0.13) if long else r0 * rng.uniform(0.9, 1.6)
    legs = rng.uniform((-4, -45), (55, 25), (2, 2)) if rng.random() < 0.75 else rng.uniform((0, -4), (10, 4), (2, 2))
    parts, waist = waistband(rng, g, w, d)
    edges = []
    for i, (angle, bend) in enumerate(legs):
        start, (one, two) = np.array((-hip * 0.5, crotch[1], 0)), ways(angle, bend)
        knee = start + thigh * one
        foot = knee + shin * two
        chain, last = ((start, knee, foot), two) if long else ((start, start + reach * (knee - start)), one)
        outer, inner = tube(np.array(chain), np.linspace(r0, cuff, len(chain)))
        inner[0] = crotch
        outline = (0, 0, d), (-w, 0, 0), (-hip, 0.5 * crotch[1], 0), *outer, *inner[::-1]
        made = [sheet(outline, g.cloth, texture=g.texture, bias=0.01 * i),
                line(np.array((outer[-1], inner[-1])) - 0.025 * last, 0.008, g.edge, bias=0.03),
                line(((-0.55 * w, 0.05, 0.5 * d), (-hip * 0.93, 0.45 * crotch[1], 0.1)), 0.008, g.edge, bias=0.02)]
        if g.skin is not None:
            end = foot + 0.1 * two
            made += [limb(knee, end, 0.045, 0.03, g.skin, bias=-0.15), shoe(end, g.edge)]
            made += [] if long else [limb(start, knee, 0.06, 0.048, g.skin, bias=-0.15)]
        parts += mirrored(made) if i else made
        edges.append([p * MIRROR for p in (outer, inner)] if i else (outer, inner))
    parts.append(line(((0, 0.02, d), (0, 0.7 * crotch[1], 0.8 * d), crotch), 0.008, g.edge, bias=0.03))
    (outer, inner), (outer_left, inner_left) = edges
    return drape(rng, g, parts, (waist, outer, inner[:0:-1], [crotch], inner_left[1:], outer_left[::-1]))


# Furniture

def slab(face, depth, colour, texture=None, bias=0.0):
    """A face (4, 3), corners right front, left front, left rear, right rear, and its four sides, `depth` (3) deep."""
    face = np.asarray(face, float)
    sides = [sheet((a, b, b + depth, a + depth), shade(colour, k), texture=texture, bias=bias)
             for a, b, k in zip(face, np.roll(face, -1, 0), (1, 0.82, 0.7, 0.82))]
    return [*sides, sheet(face, shade(colour, 1.12), texture=texture, bias=bias)]


def box(low, high, colour, **more):
    """What can be seen from above of a box between two corners."""
    (x, y, z), (X, Y, Z) = low, high
    return slab(((x, y, Z), (X, y, Z), (X, y, z), (x, y, z)), np.array((0, Y - y, 0)), colour, **more)


def seat_and_back(rng, colour, wood):
    """What chair and swivel chair share, the seat at y = 0 -> parts, corners (6, 3): right front, left front, left rear
    and right rear of the seat, right and left top of the backrest."""
    w, q, r = rng.uniform(0.15, 0.32), rng.uniform(0.13, 0.3), rng.uniform(0.012, 0.025)
    wr, thick, texture = w * rng.uniform(0.75, 1.0), rng.uniform(0.025, 0.08), maybe_texture(rng, 0.25)
    high, tilt, wt = rng.uniform(0.12, 0.7), rng.uniform(0.0, 0.18), wr * rng.uniform(0.6, 1.1)
    rim = np.array(((-w, 0, q), (w, 0, q), (wr, 0, -q), (-wr, 0, -q)))
    parts = slab(rim, np.array((0, thick, 0)), colour, texture)
    top = np.array(((-wt, -high, -q - tilt), (wt, -high, -q - tilt)))
    deep = np.array((0, 0, -rng.uniform(0.015, 0.05)))

    def at(u, v):  # a place on the backrest: u = -1 right, 1 left, v = 0 seat, 1 top
        right, left = rim[3] + (top[0] - rim[3]) * v, rim[2] + (top[1] - rim[2]) * v
        return right + (left - right) * (u + 1) / 2

    def board(v0, v1, tone):
        return slab((at(-1, v0), at(1, v0), at(1, v1), at(-1, v1)), deep, tone, texture)

    style = rng.integers(4)  # a full back, a pad on two posts, upright slats, cross slats
    if style < 2:
        parts += board(style * rng.uniform(0.2, 0.5), 1, colour)
    elif style == 2:
        parts += board(rng.uniform(0.75, 0.88), 1, wood)
        parts += [limb(at(u, 0.02), at(u, 0.85), r, 0.8 * r, wood) for u in np.linspace(-0.6, 0.6, rng.integers(2, 5))]
    else:
        parts += [part for v in np.linspace(0.35, 1, rng.integers(2, 4)) for part in board(v - 0.14, v, wood)]
    parts += [limb(at(u, 0), at(u, 0.97), r, r, wood, bias=-0.01) for u in (-0.93, 0.93)] if style else []
    if rng.random() < 0.35:  # armrests
        up = rng.uniform(0.12, 0.24)
        for m in (-1, 1):
            a, b = np.array((m * wr, -up, -q)), np.array((m * (w + 0.015), -up, q * rng.uniform(0.4, 1)))
            parts += [limb(a, b, 0.022, 0.022, wood), limb(b, b * (1, 0, 1) + (0, 0.02, 0), 0.014, 0.014, wood)]
    return parts, np.concatenate((rim, top))


def chair(rng, look):
    colour, wood = paint(rng), paint(rng, 20, 190)
    parts, corners = seat_and_back(rng, colour, wood if rng.random() < 0.6 else shade(colour, 0.85))
    tall, r, splay = rng.uniform(0.18, 0.58), rng.uniform(0.01, 0.032), rng.uniform(-0.02, 0.1, 3) * (1, 0, 1)
    tops = corners[:4] - np.sign(corners[:4]) * r + (0, 0.04, 0)
    feet = tops + np.sign(corners[:4]) * splay + (0, tall, 0)
    parts += [limb(a, b, 1.15 * r, r, wood, bias=-0.02) for a, b in zip(tops, feet)]
    if rng.random() < 0.4:  # stretchers
        half = (tops + feet) / 2
        parts += [limb(half[i], half[j], 0.6 * r, 0.6 * r, wood, bias=-0.02) for i, j in ((0, 3), (1, 2), (0, 1))]
    return parts, np.concatenate((feet + (0, r, 0), corners)), view(rng, 60, (3, 42), 32)


def swivelchair(rng, look):
    colour, metal, pose = paint(rng), paint(rng, 20, 150), view(rng, 65, (3, 42), 45)
    parts, corners = seat_and_back(rng, colour, metal)
    tall, reach, wheel = rng.uniform(0.2, 0.8), rng.uniform(0.16, 0.44), rng.uniform(0.025, 0.045)
    low, high = np.array((0, tall, 0)), np.array((0, rng.uniform(0.1, 0.18), 0))
    # MP-100 counts the wheels clockwise in the image from the lower left one, wherever the seat is turned
    a = np.radians(144 + 72 * np.arange(5) + rng.uniform(-30, 30)) + pose["yaw"]
    wheels = xyz(reach * np.cos(a), tall + rng.uniform(0.02, 0.07), reach * np.sin(a))
    parts += [limb(low, p - (0, wheel, 0), 0.03, 0.016, metal, bias=-0.01) for p in wheels]
    parts += [ball(p, (0.8 * wheel, wheel, 0.8 * wheel), (35, 35, 38)) for p in wheels]
    parts += [limb(low, high, 0.03, 0.02, shade(metal, 1.3), bias=-0.02),
              limb(high, (0, 0.05, 0), 0.035, 0.09, shade(metal, 0.7), bias=-0.02)]  # the mechanism under the seat
    return parts, np.concatenate((wheels, (low, high), corners)), pose


def sofa(rng, look):
    colour, wood, texture = paint(rng), paint(rng, 15, 140), maybe_texture(rng, 0.35)
    w, q, tall, thick = rng.uniform((0.18, 0.15, 0.03, 0.1), (0.62, 0.32, 0.16, 0.24))
    side, up, high, deep = rng.uniform((0.04, 0.07, 0.2, 0.06), (0.12, 0.22, 0.48, 0.15))
    parts = box((-w, 0, -q), (w, thick, q), colour, texture=texture)
    parts += box((-w - side * 0.9, -high, -q - deep), (w + side * 0.9, thick, -q), shade(colour, 0.95), texture=texture)
    for x in (-w - side, w):
        parts += box((x, -up, -q), (x + side, thick, q + 0.015), shade(colour, 1.05), texture=texture)
    for x in np.linspace(-w, w, rng.integers(2, 5))[1:-1]:  # between the cushions
        parts += [line(((x, 0, -q), (x, 0, q), (x, 0.5 * thick, q)), 0.01, shade(colour, 0.6), bias=0.2),
                  line(((x, -high, -q), (x, 0, -q)), 0.01, shade(colour, 0.6), bias=0.1)]
    for x in rng.uniform(-0.75, 0.75, rng.integers(0, 3)) * w:
        parts.append(ball((x, -0.07, -q + 0.08), (0.09, 0.08, 0.04), paint(rng), bias=0.05))
    r, halves = rng.uniform(0.015, 0.03), []
    for m in (-1, 1):
        feet = np.array([(m * (w + side - r), thick + tall, z) for z in (-q - deep + r, q - r)])
        parts += [limb(p - (0, tall + 0.02, 0), p - (0, r, 0), 1.2 * r, r, wood, bias=-0.05) for p in feet]
        rest = m * (w + side / 2)
        halves += [*feet, (m * w, 0, -q), (m * w, 0, q), (rest, -up, -q), (rest, -up, q + 0.015),
                   (m * (w + side * 0.9), -high, -q)]
    return parts, np.array(halves), view(rng, 58, (5, 42), 24)


def bed(rng, look):
    wood, cloth, cover, texture = paint(rng, 30, 210), paint(rng, 150, 250), paint(rng), maybe_texture(rng, 0.5)
    w, q, tall, thick = rng.uniform((0.2, 0.34, 0.05, 0.06), (0.46, 0.56, 0.2, 0.14))
    base, high, r = thick + rng.uniform(0.05, 0.1), rng.uniform(0.12, 0.4), rng.uniform(0.015, 0.04)
    parts = box((-w, thick, -q), (w, base, q), wood) + box((-w, 0, -q), (w, thick, q), cloth)
    parts += box((-w - 0.01, -high, -q - 0.06), (w + 0.01, base, -q), shade(wood, 0.92))
    for x in np.linspace(-w, w, rng.integers(2, 7))[1:-1]:  # boards of the headboard
        parts.append(line(((x, -high, -q), (x, 0, -q)), 0.008, shade(wood, 0.6), bias=0.05))
    z, drop = rng.uniform(-0.5, 0.2) * q, rng.uniform(0.3, 1) * thick
    parts += box((-w - 0.004, -0.008, z), (w + 0.004, drop, q + 0.008), cover, texture=texture, bias=0.03)
    for x in (-0.5, 0.5) if w > 0.3 else (0,):
        parts.append(ball((x * w, -0.03, -q + 0.11), (0.36 * w + 0.03, 0.04, 0.08), shade(cloth, 1.05), bias=0.05))
    halves = []
    for m in (-1, 1):
        feet = np.array([(m * (w - r), base + tall, z) for z in (-q - 0.06 + r, q - r)])
        parts += [limb(p - (0, tall + 0.03, 0), p - (0, r, 0), r, r, wood, bias=-0.05) for p in feet]
        halves += [*feet, (m * w, 0, -q), (m * w, 0, q), (m * (w + 0.01), -high, -q)]
    return parts, np.array(halves), view(rng, 60, (8, 40), 20)


def table(rng, look):
    wood, legs = paint(rng), paint(rng, 20, 200)
    w, q, tall, thick, r = rng.uniform((0.22, 0.18, 0.2, 0.015, 0.012), (0.6, 0.4, 0.6, 0.06, 0.045))
    parts = box((-w, 0, -q), (w, thick, q), wood, texture=maybe_texture(rng, 0.2))
    # the left of a table in MP-100 is its near side, its front the right end of that (means in the annotations)
    corners = np.array([(x * w, 0, z * q) for z in (1, -1) for x in (1, -1)])
    tops = corners - np.sign(corners) * (r + rng.uniform(0.0, 0.07)) + (0, thick + r, 0)
    feet = tops + np.sign(corners) * rng.uniform(-0.02, 0.1) + (0, tall, 0)
    parts += [limb(a, b, r, 0.8 * r, legs, bias=-0.03) for a, b in zip(tops, feet)]
    if rng.random() < 0.5:  # the apron under the top
        parts += slab(tops[[1, 0, 2, 3]], np.array((0, 0.06, 0)), legs, bias=-0.03)
    if rng.random() < 0.4:
        x, z = rng.uniform(-0.5, 0.5, 2) * (w, q)
        parts.append(limb((x, -0.04, z), (x, -0.1, z), 0.035, 0.045, paint(rng), bias=0.1))
    return parts, np.concatenate((corners, feet + (0, r * 0.8, 0))), view(rng, 55, (6, 42), 20)


# Vehicles

def shrunk(outline, k):
    return np.mean(outline, 0) + k * (np.array(outline) - np.mean(outline, 0))


def between(a, b, t):
    return (1 - t) * np.array(a) + t * np.array(b)


def vehicle(rng, look):
    """A hull with a cabin on wheels; the looks say how long, how high, where the cabin stands. y = 0: the ground."""
    spans = {**LOOKS["car"], **look}.values()
    length, high, hood, tail, belt, rake, lift, axle, windows = (rng.uniform(*span) for span in spans)
    colour, glass, tyre = paint(rng), shade((70, 90, 105), rng.uniform(0.5, 1.6)), (28, 28, 30)
    w, r, half, belt, floor = rng.uniform(0.17, 0.22), rng.uniform(0.06, 0.085), length / 2, -high * belt, -lift
    front, rear, narrow = half - hood * length, tail * length - half, w * rng.uniform(0.78, 0.97)  # windscreens, roof
    nose = belt * (rng.uniform(0.75, 0.95) if hood > 0.05 else 1)
    lower = ((half, floor), (half, nose), (front, belt), (rear, belt), (-half, belt * 0.97), (-half, floor))  # (z, y)
    upper = ((front, belt), (front - rake * high, -high), (rear + 0.6 * rake * high, -high), (rear, belt))

    def side(x, outline, tone, bias=0.0, top=w):  # a sheet on the side x, which leans in to `top` above the belt
        lean = (np.sign(x) * (top - w) / (belt + high), belt) if top != w else (0, 0)
        return sheet([(x + lean[0] * (lean[1] - y), y, z) for z, y in outline], tone, bias=bias)

    def across(a, b, tone, wa=w, wb=w, bias=0.0):  # a sheet from side to side
        return sheet(((-wa, a[1], a[0]), (wa, a[1], a[0]), (wb, b[1], b[0]), (-wb, b[1], b[0])), tone, bias=bias)

    parts = [across(lower[i], lower[i + 1], shade(colour, k)) for i, k in ((0, 0.95), (1, 1.08), (3, 1.0), (4, 0.9))]
    parts += [across(upper[i], upper[i + 1], shade(colour, k), wa, wb)
              for i, k, wa, wb in ((0, 1.0, w, narrow), (1, 1.1, narrow, narrow), (2, 0.9, narrow, w))]
    for a, b in (upper[:2], upper[:1:-1]):  # windscreens
        parts.append(across(between(a, b, 0.12), between(a, b, 0.86), glass, 0.88 * w, 0.9 * narrow, bias=0.02))
    cuts, turn = np.linspace(0, 1, round(windows) + 1), np.linspace(0, 2 * np.pi, 16)
    axles = half - axle * length, axle * length - half
    for m in (-1, 1):
        parts += [side(m * w, lower, shade(colour, 0.88)), side(m * w, upper, shade(colour, 0.9), top=narrow)]
        for a, b in zip(cuts[:-1], cuts[1:]):  # side windows
            pane = [between(upper[i], upper[j], t) for i, j, t in ((0, 3, a), (1, 2, a), (1, 2, b), (0, 3, b))]
            parts.append(side(m * w, shrunk(pane, 0.8), glass, 0.03, top=narrow))
        for z in axles:
            rim = np.stack((z + r * np.cos(turn), -r + r * np.sin(turn)), 1)
            tread = [(m * (w - 0.08 * i), -r + j * r, z) for i, j in ((0, -1), (1, -1), (1, 1), (0, 1))]
            parts += [side(m * (w - 0.08), rim, tyre), sheet(tread, tyre), side(m * (w + 0.004), rim, tyre, 0.03),
                      side(m * (w + 0.006), shrunk(rim, 0.55), (150, 152, 158), 0.035)]
    lamp, levels = rng.uniform(0.018, 0.032), floor + (np.array((nose, belt)) - floor) * rng.uniform(0.5, 0.75, 2)
    lights = [(m * (w - lamp - 0.012), y, z) for y, z in zip(levels, (half, -half)) for m in (-1, 1)]
    for at, tone in zip(lights, ((250, 245, 205), (250, 245, 205), (205, 25, 25), (205, 25, 25))):
        parts.append(ball(at, (1.3 * lamp, lamp, 0.012), tone, bias=0.015))
    for z, a, b, wide, tone in ((half, 0.15, 0.4, 0.6, (40, 40, 44)), (-half, 0.2, 0.35, 0.3, (235, 235, 225))):
        low, up = floor + np.array((a, b)) * (nose - floor)  # the grille, the number plate
        parts.append(across((z, low), (z, up), tone, wide * w, wide * w, bias=0.01))
    pipe = np.array((rng.choice((-0.6, 0.6)) * w, floor + 0.005, -half - 0.02))
    parts.append(limb(pipe + (0, 0, 0.08), pipe, 0.014, 0.014, (90, 90, 95)))
    wheels = [(m * (w + 0.006), -r, z) for z in axles for m in (-1, 1)]
    roof = [(m * narrow, -high, z) for z, _ in upper[1:3] for m in (-1, 1)]
    return parts, np.array([*wheels, *lights, pipe, *roof]), view(rng, 180, (0, 25), 14)


TEMPLATES = {
    "sling": partial(garment, top="strap"),
    "sling_dress": partial(garment, top="strap", dress=True),
    "vest": garment,
    "vest_dress": partial(garment, dress=True),
    **{f"{arms}_sleeved_{name}": partial(garment, arms=arms, **more) for arms in ("short", "long")
       for name, more in (("shirt", {}), ("dress", {"dress": True}), ("outwear", {"coat": True}))},
    "skirt": skirt, "shorts": partial(legwear, long=False), "trousers": partial(legwear, long=True),
    "chair": chair, "swivelchair": swivelchair, "sofa": sofa, "bed": bed, "table": table, "vehicle": vehicle,
}
LOOKS = {  # least and most; hood, tail, axle: fractions of the length; belt, rake: of the height; windows of a side
    "car": dict(length=(0.85, 1.05), height=(0.27, 0.34), hood=(0.2, 0.3), tail=(0.02, 0.2), belt=(0.55, 0.65),
                rake=(0.3, 0.6), lift=(0.03, 0.06), axle=(0.16, 0.22), windows=(2, 3.4)),
    "suv": dict(length=(0.8, 0.98), height=(0.36, 0.44), hood=(0.16, 0.26), tail=(0.0, 0.03), belt=(0.52, 0.62),
                rake=(0.15, 0.4), lift=(0.05, 0.09), axle=(0.16, 0.22), windows=(2, 3.4)),
    "bus": dict(length=(1.0, 1.5), height=(0.45, 0.62), hood=(0.0, 0.02), tail=(0.0, 0.01), belt=(0.42, 0.55),
                rake=(0.0, 0.08), lift=(0.04, 0.08), axle=(0.14, 0.26), windows=(4, 8)),
}
