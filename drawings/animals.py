"""Templates of the living things of MP-100: animals, their faces, birds, people, hands and insects.

Each template `f(rng, look)` draws one random individual and returns its parts, its keypoints (K, 3) in MP-100's order
and the view; `look` says how a category differs from the others of its definition. See figures.py for the axes.
"""
import numpy as np

from drawings.scene import ball, limb, line, rotation, shade, sheet

BLACK, WHITE, PINK, HORN = (35, 30, 30), (240, 238, 232), (225, 150, 150), (205, 190, 150)
BROWN, GREY, TAN, CREAM, RED = (120, 80, 50), (140, 140, 140), (195, 155, 105), (235, 220, 190), (190, 90, 40)
SIDES = (1, -1)                                  # the subject's left is at positive x


def tint(rng, colour):
    """The colour with the spread of individuals."""
    return tuple(int(c) for c in np.clip(np.array(colour) * rng.uniform(0.88, 1.1) + rng.normal(0, 5, 3), 0, 255))


def way(angle, sideways=0.0):
    """Unit vector in the subject's middle plane: 0 is down, positive towards its front; sideways: towards +x."""
    v = np.array([sideways, np.cos(angle), np.sin(angle)])
    return v / np.linalg.norm(v)


def any_yaw(rng, least, most):
    """A yaw to either side, in degrees of size least to most; returned in radians."""
    return rng.choice(SIDES) * np.radians(rng.uniform(least, most))


def unboxed(parts):
    """The parts, outside the reckoning of the object's box: MP-100 boxes a face without its ears, horns and neck."""
    for part in parts:
        part.boxed = False
    return parts


def eye(at, radius, colour=BLACK):
    """A dark eye with a light rim, so that it shows on any coat."""
    return [ball(at, [radius * 1.3] * 3, (215, 205, 190)), ball(at, [radius] * 3, colour, bias=0.01)]


# legs, neck: lengths; neck_up: angle over the horizontal; tail: length, angle over the horizontal, curl, radii
ANIMAL = dict(coat=BROWN, legs=0.36, body=0.5, girth=0.13, thick=0.045, neck=0.14, neck_up=0.7, head=0.095, snout=0.11,
              muzzle=0.55, ear=("point", 0.09), tail=(0.25, -0.6, -0.1, 0.02, 0.015), sits=0.25, hoof=None, belly=None,
              texture=None, saddle=None, limbs=None, mane=None, horn=None, face=None, mask=None, tip=None)


def quadruped(rng, look):
    """Parts, points by name, and view of a four-legged animal that walks, grazes, sits or lies."""
    look = {**ANIMAL, **look}
    legs, body, girth, thick, neck, head, snout = (
        look[k] * rng.uniform(0.86, 1.16) for k in ("legs", "body", "girth", "thick", "neck", "head", "snout"))
    coat = tint(rng, look["coat"])
    dark, texture = look["limbs"] or coat, look["texture"]
    stocking = None if look["limbs"] else texture
    pose = rng.choice(["walk", "sit", "lie"], p=[1 - look["sits"], look["sits"] * 0.6, look["sits"] * 0.4])
    tilt = {"walk": rng.normal(0, 0.17), "sit": rng.uniform(0.5, 1.1), "lie": rng.normal(0.05, 0.05)}[pose]
    frame = rotation(pitch=-tilt)
    chest, hips = frame @ [0, 0, 0.34 * body], frame @ [0, 0, -0.34 * body]
    parts = [limb(chest, hips, girth, girth * rng.uniform(0.85, 1.05), coat, texture=texture)]
    for colour, place, size in ((look["saddle"], -0.55, 0.5), (look["belly"], 0.5, 0.55)):
        if colour:
            off = frame @ [0, place * girth, 0]
            parts.append(limb(0.95 * chest + off, 0.95 * hips + off, size * girth, size * girth, colour, bias=0.002))
    points = {"tail": hips + frame @ [0, -0.6 * girth, -0.8 * girth]}

    swing, stride = rng.uniform(-1, 1), rng.uniform(0.1, 0.6)
    for side, name in zip(SIDES, ("left ", "right ")):
        for end, joints, phase in ((chest, ("shoulder", "elbow", "front paw"), 1),
                                   (hips, ("hip", "knee", "back paw"), -1)):
            root = end + frame @ [side * 0.75 * girth, 0.3 * girth, 0]
            a = stride * (swing * side * phase + rng.normal(0, 0.3))
            if pose == "walk":
                bend = abs(rng.normal(0.25, 0.25))
                first, second = (a + 0.1, a - bend + 0.1) if phase > 0 else (a + bend * 0.7, a - bend)
            elif phase < 0:
                first, second = rng.uniform(1.0, 1.6), rng.uniform(*((-0.6, 0.2) if pose == "sit" else (-1.5, -0.8)))
            else:
                first, second = (a * 0.5, a * 0.3) if pose == "sit" else (rng.uniform(-0.5, 0.6), rng.uniform(0.9, 1.7))
            splay = side * rng.uniform(0, 0.2)
            middle = root + way(first, splay) * legs * 0.52
            paw = middle + way(second, splay) * legs * 0.5
            parts += [limb(root, middle, thick * 1.5, thick * 0.9, dark, texture=stocking),
                      limb(middle, paw, thick * 0.9, thick * 0.65, dark, texture=stocking),
                      ball(paw, [thick * 0.8, thick * 0.6, thick], look["hoof"] or shade(dark, 0.85), bias=0.01)]
            points |= {name + joint: at for joint, at in zip(joints, (root, middle, paw))}

    at, angle, wag = points["tail"], look["tail"][1] + rng.normal(0, 0.6), rng.normal(0, 0.4)
    length = look["tail"][0] * np.exp(rng.normal(0, 0.2))
    radii = np.linspace(*look["tail"][3:], 5) * np.exp(rng.normal(0, 0.35))
    for i in range(4):
        after = at + length / 4 * np.array([np.sin(wag), -np.sin(angle), -np.cos(angle)])
        parts.append(limb(at, after, radii[i], radii[i + 1], look["tip"] if look["tip"] and i > 1 else coat,
                          texture=texture if texture != "patches" else None))
        at, angle = after, angle + look["tail"][2]

    turn, grazing = rng.normal(0, 0.5), pose == "walk" and rng.random() < 0.25
    up = -0.7 if grazing else look["neck_up"] + rng.normal(0, 0.25) + (0.3 if pose == "sit" else 0)
    points["neck"] = chest + frame @ [0, -0.45 * girth, 0.45 * girth]
    top = points["neck"] + neck * np.array([0.5 * np.sin(turn), -np.sin(up), np.cos(up)])
    parts.append(limb(points["neck"], top, girth * 0.62, head * 0.75, coat, bias=0.01, texture=texture))
    if look["mane"] and look["mane"][0] == "crest":
        crest = [points["neck"] + t * (top - points["neck"]) + np.array([0, -0.75, -0.5]) * head for t in (0, 0.5, 1.1)]
        parts += [limb(p, q, 0.045, 0.04, look["mane"][1], bias=-0.01) for p, q in zip(crest, crest[1:])]
    skull, more = animal_head(rng, look, coat, top, rotation(turn, rng.normal(0.9 if grazing else 0.2, 0.25)), head,
                              snout)
    yaw = any_yaw(rng, 20, 125) if rng.random() < 0.85 else rng.uniform(-0.4, 0.4)
    return parts + skull, points | more, {"yaw": yaw, "pitch": rng.normal(0.12, 0.2), "roll": rng.uniform(-0.5, 0.5)}


def animal_head(rng, look, coat, centre, frame, head, snout):
    """Parts and points of a head of radius `head` whose snout points along the frame's z."""
    def at(x, y, z):
        return centre + frame @ np.array([x, y, z]) * head
    face, tip = look["face"] or coat, centre + frame @ [0, 0.25 * head, 0.6 * head + snout]
    parts = [ball(centre, [head * 0.85, head * 0.9, head], coat, frame, 0.015, look["texture"]),
             limb(at(0, 0.2, 0.3), tip, head * 0.7, head * look["muzzle"], face, 0.03)]
    points = {"nose": tip + frame @ [0, -0.1, 0.75 * look["muzzle"]] * head}
    if look["horn"] == "trunk":
        a, bend = tip, rng.uniform(-0.25, 0.5)
        for i in range(5):
            b = a + frame @ way(0.35 + bend * i) * 0.1
            parts.append(limb(a, b, head * (0.45 - 0.06 * i), head * (0.4 - 0.06 * i), coat, 0.05))
            a = b
        points["nose"] = b
        parts += [line([at(s * 0.5, 0.5, 0.7), at(s * 0.65, 1.3, 1.2), at(s * 0.6, 1.4, 1.8)], 0.03, WHITE,
                       0.04) for s in SIDES]
    parts.append(ball(points["nose"], [head * 0.2, head * 0.16, head * 0.16], BLACK if sum(face) > 150 else PINK, frame,
                      0.06))
    kind, size = look["ear"]
    for side, name in zip(SIDES, ("left ", "right ")):
        points[name + "eye"] = at(side * 0.66, -0.32, 0.62)
        if look["mask"]:
            parts.append(ball(at(side * 0.6, -0.25, 0.58), [head * 0.36] * 3, look["mask"], frame, 0.02))
        parts += eye(points[name + "eye"], max(0.16 * head, 0.011))
        root, colour = at(side * 0.6, -0.7, -0.1), look.get("ears", coat)
        points[name + "ear"] = root + frame @ [side * 0.3 * size, -0.3 * size, 0]
        if kind == "point":
            parts.append(sheet([root + frame @ [-0.35 * size, 0, 0], root + frame @ [side * 0.3 * size, -size, 0],
                                root + frame @ [0.35 * size, 0.1 * size, 0]], colour,
                               bias=0.01))
        else:
            out, rise, w, h = {"round": (0.3, -0.3, 0.5, 0.5), "long": (0.15, -0.9, 0.28, 1.0),
                               "fan": (0.8, 0.5, 0.8, 1.0), "flop": (0.35, 0.7, 0.35, 0.8),
                               "side": (0.8, -0.1, 0.8, 0.35)}[kind]
            parts.append(ball(root + frame @ [side * out * size, rise * size, -0.1 * head],
                              [w * size, h * size, 0.2 * size], colour, frame, 0.01))
        if look["horn"] == "antler":
            stem = [at(side * x, y, z) for x, y, z in ((0.3, -0.8, 0), (1.1, -1.9, -0.4), (1.2, -3.1, 0.1))]
            parts += [line(stem, 0.022, HORN, 0.01), line([stem[1], at(side * 0.7, -2.7, 0.7)], 0.02, HORN, 0.01),
                      line([stem[2], at(side * 1.9, -2.6, -0.3)], 0.018, HORN, 0.01)]
        elif look["horn"] in ("curved", "upright"):
            bow = ((0.4, -0.7, 0), (1.3, -0.8, 0),
                   (1.4, -1.5,
                    0.2)) if look["horn"] == "curved" else ((0.3, -0.8, 0), (0.5, -1.9, -0.6), (0.7, -3.0, -0.7))
            a, b, c = (at(side * x, y, z) for x, y, z in bow)
            parts += [limb(a, b, 0.2 * head, 0.16 * head, HORN, 0.01), limb(b, c, 0.16 * head, 0.04 * head, HORN, 0.01)]
    if look["horn"] == "rhino":
        parts += [limb(tip + frame @ [0, -0.3, z] * head, tip + frame @ [0, -h, z + 0.3] * head, 0.25 * head,
                       0.03 * head, HORN, 0.03) for z, h in ((0.3, 1.6), (-0.5, 1.0))]
    if look["mane"] and look["mane"][0] == "ruff":
        parts.append(ball(at(0, 0.2, -0.5), [head * 1.7, head * 1.8, head * 0.9], look["mane"][1], frame))
    return parts, points


BODY_ORDER = ["left eye", "right eye", "nose", "neck", "tail", "left shoulder", "left elbow", "left front paw",
              "right shoulder", "right elbow", "right front paw", "left hip", "left knee", "left back paw", "right hip",
              "right knee", "right back paw"]
MACAQUE_ORDER = ["nose"] + [f"{side} {joint}" for joint in ("eye", "ear", "shoulder", "elbow", "front paw", "hip",
                                                            "knee", "back paw") for side in ("left", "right")]


def animal_body(rng, look):
    """AP-10K's 17 points of a quadruped."""
    parts, points, view = quadruped(rng, look)
    return parts, np.array([points[name] for name in BODY_ORDER]), view


def macaque(rng, look):
    """MacaquePose: 17 points in COCO's order."""
    parts, points, view = quadruped(rng, look)
    return parts, np.array([points[name] for name in MACAQUE_ORDER]), view

FACE = dict(coat=BROWN, width=0.3, height=0.32, muzzle=0.15, long=0.2, drop=0.16, snout=None, nose=BLACK,
            nose_size=0.06, ear=("point", 0.2), ears=None, eyes=(0.62, -0.1, 0.065), iris=(90, 55, 25), horn=None,
            mark=None, mane=None, beard=None)


def almond(centre, across, upward, iris, white=WHITE):
    """An eye whose corners lie at centre -+ across: rim, white, iris and pupil."""
    size = np.linalg.norm(across)
    frame = np.stack([across / size, upward / np.linalg.norm(upward), np.cross(across, upward) / size ** 2], 1)
    points = [centre + across, centre + 0.5 * upward, centre - across, centre - 0.5 * upward]
    return [sheet(points, white, True, 0.05, outline=BLACK),
            ball(centre, size * np.array([0.48, 0.48, 0.1]), iris, frame, 0.06),
            ball(centre, size * np.array([0.26, 0.26, 0.1]), BLACK, frame, 0.07)]


def animal_face(rng, look):
    """AnimalWeb's nine points."""
    look = {**FACE, **look}
    w, h, muzzle, long, drop = (
        look[k] * rng.uniform(0.88, 1.14) for k in ("width", "height", "muzzle", "long", "drop"))
    coat = tint(rng, look["coat"])
    face, depth = look["snout"] or coat, 0.27
    shoulder = np.array([rng.normal(0, 0.15), rng.uniform(0.5, 0.9), -0.3])
    parts = [ball([0, 0, 0], [w, h, depth], coat)]
    aside = [limb([0, 0.1, -0.15], shoulder, 0.75 * w, rng.uniform(0.8, 1.2) * w, coat, bias=-0.2)]
    if look["mane"]:
        aside.append(ball([0, 0, -0.2], [w * 1.4, h * 1.35, 0.1], look["mane"]))
    tip = np.array([0, drop, 0.1 + long])                       # middle of the muzzle's end
    parts.append(limb([0, 0.3 * drop, 0.08], tip, muzzle * 1.1, muzzle, face, bias=-0.02))
    if look["mark"] and look["mark"][0] == "blaze":
        parts.append(sheet([[-0.06, -0.6 * h, 0.23], [0.06, -0.6 * h, 0.23], tip + [0.05, -0.3 * muzzle, 0.9 * muzzle],
                            tip + [-0.05, -0.3 * muzzle, 0.9 * muzzle]], look["mark"][1],
                           bias=0.05))
    gape, smile = max(0, rng.normal(0.1, 0.25)) * muzzle, rng.uniform(0.25, 0.45)
    nose = tip + [0, -0.45 * muzzle, 0.85 * muzzle]
    right, left = (tip + np.array([x, smile, 0.5]) * muzzle for x in (-0.8, 0.8))
    upper, lower = tip + [0, 0.55 * muzzle, 0.8 * muzzle], tip + [0, 0.8 * muzzle + gape, 0.65 * muzzle]
    parts += [ball(tip + [0, 0.5 * muzzle + gape, 0], [0.75 * muzzle, 0.5 * muzzle, 0.75 * muzzle], shade(face, 0.92),
                   bias=-0.01),
              sheet([right, (right + 2 * upper) / 3 + [0, 0.04 * muzzle, 0], upper,
                     (left + 2 * upper) / 3 + [0, 0.04 * muzzle, 0], left, lower],
                    (150, 70, 70) if gape > 0.02 else shade(face, 0.7), bias=0.12, outline=BLACK),
              line([nose, upper], 0.012, BLACK, 0.15),
              ball(nose, [look["nose_size"] * 1.2, look["nose_size"] * 0.8, 0.04], look["nose"], bias=0.2)]
    if look["beard"]:
        parts.append(limb(lower + [0, 0.02, -0.1], lower + [0, 0.2, -0.1], 0.08, 0.03, look["beard"], bias=-0.1))
    keypoints = {}
    azimuth, level, size = look["eyes"]
    for side, name in zip(SIDES, ("left", "right")):
        direction = np.array([side * np.sin(azimuth), level / 0.32, np.cos(azimuth)])
        at = direction / np.linalg.norm(direction / [w, h, depth])                  # on the surface of the head
        across = np.array([side * np.cos(azimuth * 0.9), -0.15, -np.sin(azimuth * 0.9)]) * size
        if look["mark"] and look["mark"][0] == "mask":
            parts.append(ball(at * 0.93, [size * 1.7, size * 1.5, 0.06], look["mark"][1], bias=0.005))
        if look["mark"] and look["mark"][0] == "cheek":
            parts.append(ball(np.array([side * 0.72 * w, 0.35 * h, 0.12]), [0.3 * w, 0.3 * h, 0.1], look["mark"][1],
                              bias=0.01))
        parts += almond(at, across, np.array([0, -size, 0]), look["iris"], shade(look["iris"], 1.7))
        keypoints[name] = at + across, at - across
        kind, ear = look["ear"]
        root, colour = np.array([side * 0.72 * w, -0.72 * h, -0.05]), look["ears"] or coat
        if kind == "point":
            rim = root + np.array([[side * 0.45, 0.3, 0], [side * 0.35, -1, 0], [-side * 0.4, 0, 0]]) * ear
            aside += [sheet(rim, colour, bias=-0.06),
                      sheet(0.45 * rim.mean(0) + 0.55 * rim, shade(colour, 0.65), bias=-0.05)]
        elif kind != "none":
            out, rise, rx, ry, lean = {"round": (0.25, -0.15, 0.5, 0.5, 0), "long": (0.3, -0.8, 0.28, 1.0, 0.25),
                                       "flop": (0.35, 0.75, 0.33, 0.85, -0.2), "side": (0.75, 0.0, 0.85, 0.32, -0.35),
                                       "low": (0.45, 0.9, 0.45, 0.5, 0)}[kind]
            centre, spin = root + [side * out * ear, rise * ear, 0], rotation(roll=side * (lean + rng.normal(0, 0.15)))
            aside += [ball(centre, [rx * ear, ry * ear, 0.03], colour, spin, -0.06),
                      ball(centre + [0, 0, 0.02], [0.6 * rx * ear, 0.65 * ry * ear, 0.02], shade(colour, 0.7), spin,
                           -0.05)]
        bow = {"short": ((0.35, -0.9), (0.42, -1.7)), "upright": ((0.3, -0.9), (0.45, -1.6), (0.4, -2.3), (0.6, -3.0)),
               "boss": ((0.1, -0.9), (0.9, -0.85), (1.5, -0.5), (1.75, -1.2)),
               "antler": ((0.3, -0.9), (0.7, -1.6), (1.3, -2.1), (1.2, -2.7)),
               "curl": ((0.3, -0.95), (1.0, -1.15), (1.55, -0.6), (1.45, 0.15), (1.0, 0.3))}.get(look["horn"], ())
        thick = {"short": 0.05, "upright": 0.05, "boss": 0.12, "antler": 0.035, "curl": 0.11}.get(look["horn"], ())
        bow = [np.array([side * x * w, y * h, 0.0]) for x, y in bow]
        for i, (a, b) in enumerate(zip(bow, bow[1:])):
            aside.append(limb(a, b, thick * (1 - i / len(bow)), thick * (1 - (i + 1) / len(bow)) + 0.008, HORN,
                              0.03 - 0.01 * i, "bands" if look["horn"] in ("upright", "curl") else None))
        if look["horn"] == "antler":
            aside.append(sheet([bow[2], bow[3] + [side * 0.15, 0, 0], bow[3] + [0, -0.08, 0],
                                bow[3] - [side * 0.12, 0, 0]], HORN))
        if look["horn"] == "tusk":
            aside.append(limb(tip + [side * 0.7 * muzzle, 0.2 * muzzle, 0.3 * muzzle],
                              tip + [side * 1.5 * muzzle, -0.7 * muzzle, 0.6 * muzzle], 0.035, 0.01, WHITE, 0.1))
    view = {"yaw": rng.uniform(-0.9, 0.9), "pitch": rng.uniform(-0.5, 0.4), "roll": rng.uniform(-0.7, 0.7)}
    return parts + unboxed(aside), np.array([*keypoints["right"], *keypoints["left"][::-1], nose, right, left, upper,
                                             lower]), view


BIRD = dict(back=BROWN, breast=CREAM, crown=None, throat=None, wing=None, beak=(0.12, 0.03, HORN), neck=0.09,
            head=0.085, body=0.3, girth=0.13, tail=(0.22, -0.2, 0.06), upright=0.5, legs=0.16, texture=None, fork=False,
            spread=0.15, wing_size=0.26)


def bird(rng, look):
    """CUB-200's 15 points."""
    look = {**BIRD, **look}
    body, girth, head, neck, legs = (look[k] * rng.uniform(0.88, 1.14) for k in ("body", "girth", "head", "neck",
                                                                                 "legs"))
    back, breast = tint(rng, look["back"]), tint(rng, look["breast"])
    wing_colour, crown, throat = look["wing"] or shade(back, 0.8), look["crown"] or back, look["throat"] or breast
    frame = rotation(pitch=-(look["upright"] + rng.normal(0, 0.25)))

    def at(x, y, z):
        return frame @ np.array([x * girth, y * girth, z * body])
    parts = [ball([0, 0, 0], [0.9 * girth, girth, 0.62 * body], back, frame),
             ball(at(0, 0.22, 0.06), [0.8 * girth, 0.84 * girth, 0.54 * body], breast, frame, 0.01)]
    points = {"back": at(0, -0.85, 0.05), "belly": at(0, 0.95, -0.15), "breast": at(0, 0.8, 0.42),
              "tail": at(0, -0.1, -0.55)}
    turn, nod = rng.normal(0, 0.55), rng.normal(0, 0.22)
    base = at(0, -0.35, 0.42)
    skull = base + frame @ [0, -0.75 * neck, 0.8 * neck] + np.array([0, -0.45 * neck, 0.3 * neck])
    parts.append(limb(base, skull, 0.72 * girth, 0.85 * head, back, bias=0.012))
    if look["throat"]:
        parts.append(limb(base + [0, 0.45 * girth, 0.2 * girth], skull + [0, 0.35 * head, 0.3 * head], 0.35 * girth,
                          0.5 * head, throat, bias=0.02))
    face = rotation(turn, nod)

    def on(x, y, z):
        return skull + face @ np.array([x, y, z]) * head
    length, thick, colour = look["beak"]
    beak = skull + face @ [0, 0.1 * head, 0.8 * head + length * rng.uniform(0.9, 1.15)]
    parts += [ball(skull, [0.9 * head, 0.95 * head, head], look.get("face", back), face, 0.03),
              ball(on(0, -0.38, -0.08), [0.78 * head, 0.62 * head, 0.9 * head], crown, face, 0.035),
              limb(on(0, 0.1, 0.75), beak, thick, 0.006, colour, 0.05)]
    if look.get("crest"):
        parts.append(sheet([on(0, -0.7, 0.5), on(0, -1.7, -1.0), on(0, -0.3, -0.9)], crown, bias=0.02))
    points |= {"beak": beak, "crown": on(0, -0.95, -0.05), "forehead": on(0, -0.45, 0.85), "nape": on(0, 0.05, -0.98),
               "throat": on(0, 0.85, 0.4)}
    spread, flap = rng.random() < look["spread"], rng.uniform(-1.0, 0.5)
    for side, name in zip(SIDES, ("left ", "right ")):
        points[name + "eye"] = on(side * 0.74, -0.12, 0.5)
        parts += eye(points[name + "eye"], 0.2 * head)
        root = at(side * 0.75, -0.4, 0.3)
        if spread:
            out, size = np.array([side * np.cos(flap), np.sin(flap), 0]), look["wing_size"] * rng.uniform(1.5, 2.0)
            rear = frame @ [0, 0, -0.75 * body]
            wing = [root, root + out * size * 0.5 - rear * 0.15, root + out * size + rear * 0.4,
                    root + out * size * 0.6 + rear * 0.8, root + rear]
            points[name + "wing"] = root + out * size * 0.55 + rear * 0.3
            parts.append(sheet(wing, wing_colour, True, texture=look["texture"]))
        else:
            tip = at(side * 0.6, 0.05, -0.45) + frame @ [0, 0, -look["wing_size"] * 0.4]
            wing = [root, at(side * 0.95, 0.1, 0.2), at(side * 0.98, 0.45, -0.2), tip, at(side * 0.8, -0.5, -0.25)]
            points[name + "wing"] = at(side * 0.98, 0.05, -0.05)
            parts.append(sheet(wing, wing_colour, True, 0.03, texture=look["texture"]))
        hip = at(side * 0.4, 0.75, -0.2)
        foot = hip + np.array([side * 0.02, 1, rng.normal(0, 0.3)]) * (legs + 0.25 * girth)
        points[name + "leg"] = hip + 0.6 * (foot - hip)
        ink = look.get("leg_colour", (170, 110, 60))
        parts += [limb(hip, hip + 0.3 * (foot - hip), 0.035, 0.015, back, bias=-0.01), line([hip, foot], 0.018, ink),
                  line([foot + [-0.03, 0.01, 0.05], foot, foot + [0, 0.01, 0.08]], 0.014, ink),
                  line([foot, foot + [0.03, 0.01, 0.05]], 0.014, ink)]
    length, angle, width = look["tail"]
    rise = angle + rng.normal(0, 0.15)
    end = points["tail"] + frame @ [0, -np.sin(rise), -np.cos(rise)] * length * rng.uniform(0.85, 1.2)
    start, along = points["tail"], end - points["tail"]
    middle = start + (0.45 if look["fork"] else 1.05) * along
    parts += [sheet([start - [0.03, 0, 0], end - [width, 0, 0], middle, end + [width, 0, 0], start + [0.03, 0, 0]],
                    wing_colour),
              limb(start - 0.3 * along, start + 0.75 * along, 0.05, 0.02, shade(back, 0.9), 0.005)]
    points["tail"] = start + 0.7 * along
    if rng.random() < 0.5 and not spread:                       # a perch
        level = foot[1] + 0.02
        parts.insert(0,
                     limb([-0.5, level + rng.normal(0, 0.05), foot[2]], [0.5, level + rng.normal(0, 0.05), foot[2]],
                          0.025, 0.02, (110, 85, 65), -0.05))
    names = ["back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg", "left wing", "nape",
             "right eye", "right leg", "right wing", "tail", "throat"]
    view = {"yaw": any_yaw(rng, 25, 130), "pitch": rng.normal(0.08, 0.2), "roll": rng.uniform(-0.6, 0.6)}
    return parts, np.array([points[name] for name in names]), view


def human_face(rng):
    """A head with the 68 points of 300-W (68, 3), its parts and view."""
    skin = tint(rng, SKINS[rng.integers(len(SKINS))])
    hair, iris = tint(rng, HAIRS[rng.integers(len(HAIRS))]), IRISES[rng.integers(3)]
    wide, tall = rng.uniform(0.85, 1.15), rng.uniform(0.85, 1.15)
    angle = np.linspace(-1.62, 1.62, 17)                        # the jaw, from the subject's right ear to the left
    jaw = np.stack([0.36 * np.sin(angle), -0.02 + 0.43 * np.cos(angle), -0.12 + 0.3 * np.cos(angle)], 1)
    jaw[:, 1] += 0.05 * (np.cos(angle) > 0.9)
    lift, squeeze = rng.normal(0, 0.02), rng.normal(0, 0.015)
    brow = np.array([[0.31, -0.20, 0.12], [0.26, -0.245, 0.19], [0.19, -0.26, 0.24], [0.12, -0.25, 0.27],
                     [0.06, -0.225, 0.28]])
    brow[:, 1] += lift + np.linspace(-1, 1, 5) * squeeze
    opened = rng.uniform(0.4, 1.3)
    lid = np.array([[0.25, -0.13, 0.15], [0.205, -0.163, 0.2], [0.145, -0.163, 0.22], [0.095, -0.125, 0.21],
                    [0.145, -0.11, 0.22], [0.205, -0.11, 0.2]])
    lid[:, 1] = -0.13 + (lid[:, 1] + 0.13) * opened
    nose = np.array([[0, -0.14, 0.28], [0, -0.07, 0.33], [0, 0, 0.38], [0, 0.06, 0.42], [-0.075, 0.1, 0.29],
                     [-0.04, 0.115, 0.33], [0, 0.125, 0.35], [0.04, 0.115, 0.33], [0.075, 0.1, 0.29]])
    gape, smile, breadth = max(0, rng.normal(0.02, 0.05)), rng.normal(0.01, 0.025), rng.uniform(0.85, 1.2)
    x = np.array([-1, -0.6, -0.22, 0, 0.22, 0.6, 1, 0.6, 0.22, 0, -0.22, -0.6, -0.8, -0.22, 0, 0.22, 0.8, 0.22, 0,
                  -0.22])
    y = np.array([0, -0.03, -0.045, -0.037, -0.045, -0.03, 0, 0.04, 0.06, 0.065, 0.06, 0.04, 0, -0.008, -0.005, -0.008,
                  0, 0.008, 0.01, 0.008])
    y = 0.23 + y - smile * x ** 2 + gape * np.isin(np.arange(20), [7, 8, 9, 10, 11, 17, 18, 19])
    mouth = np.stack([0.145 * breadth * x, y, 0.31 - 0.09 * x ** 2], 1)
    jaw[:, 1] += 0.7 * gape * np.cos(angle).clip(0)
    points = np.concatenate([jaw, brow * [-1, 1, 1], brow[::-1], nose, lid * [-1, 1, 1], lid[[3, 2, 1, 0, 5, 4]],
                             mouth]) * [wide, tall, 1]

    top = np.array([[0.35, -0.2, -0.1], [0.3, -0.42, -0.04], [0.15, -0.52, 0], [-0.15, -0.52, 0], [-0.3, -0.42, -0.04],
                    [-0.35, -0.2, -0.1]]) * [wide, tall, 1]
    long_hair, neck = rng.choice([0, 0.25, 0.5]), np.array([0, 0.75, -0.2])
    aside = [ball([0, -0.12 * tall, -0.08], [0.37 * wide, 0.45 * tall, 0.38], skin, bias=-0.1),
             limb([0, 0.2, -0.2], neck, 0.17, 0.2, shade(skin, 0.85), -0.25)]
    if rng.random() < 0.9:
        aside += [ball([0, -0.16 * tall + long_hair / 2, -0.25], [0.42 * wide, (0.48 + long_hair / 2) * tall, 0.32],
                       hair, bias=-0.2)]
        fringe, part = rng.uniform(-0.42, -0.3), rng.uniform(-0.2, 0.2)
        strand = [[-0.38, -0.12, -0.06], [-0.3, fringe, 0.1], [part, fringe - 0.05, 0.18], [0.3, fringe, 0.1],
                  [0.38, -0.12, -0.06], [0.38, -0.42, -0.1], [0.18, -0.62, -0.1], [-0.18, -0.62, -0.1],
                  [-0.38, -0.42, -0.1]]
        aside.append(sheet(np.array(strand) * [wide, tall, 1], hair, True, 0.1))
    aside += [limb(neck + [-0.3, 0.12, 0], neck + [0.3, 0.12, 0], 0.2, 0.2, tint(rng, rng.integers(20, 230, 3)), -0.2)]
    aside.append(sheet(np.concatenate([points[:17], top]), skin, True))
    parts = [*unboxed(aside), line(points[:17], 0.012, shade(skin, 0.8), bias=0.02)]
    for side, eye_points, brow_points in ((-1, points[36:42], points[17:22]), (1, points[42:48], points[22:27])):
        parts.append(ball([side * 0.37 * wide, 0, -0.15], [0.05, 0.1, 0.06], shade(skin, 0.9), bias=0))
        centre = eye_points.mean(0) + [rng.normal(0, 0.006), 0, 0.01]
        parts += [sheet(eye_points, WHITE, bias=0.05, outline=BLACK),
                  ball(centre, [0.03, min(0.03, 0.025 * opened), 0.01], iris, bias=0.06),
                  ball(centre, [0.014, min(0.014, 0.016 * opened), 0.01], BLACK, bias=0.08),
                  line(eye_points[:4], 0.012, BLACK, 0.09), line(brow_points, 0.026, shade(hair, 0.7), 0.06)]
    lips = tint(rng, (185, 85, 85)) if rng.random() < 0.6 else shade(skin, 0.72)
    parts += [sheet([points[27] + [-0.025, 0, 0], points[27] + [0.025, 0, 0], points[35], points[33], points[31]],
                    shade(skin, 0.93), bias=0.08, outline=shade(skin, 0.85)),
              line(points[27:31], 0.012, shade(skin, 1.1), 0.1),
              ball(points[30], [0.05, 0.045, 0.04], shade(skin, 0.98), bias=0.03),
              line(points[31:36], 0.016, shade(skin, 0.55), 0.12),
              sheet(points[48:60], lips, True, 0.07, outline=shade(lips, 0.7)),
              sheet(points[60:68], (90, 35, 35), bias=0.09, outline=shade(lips, 0.5))]
    view = {"yaw": rng.uniform(-0.75, 0.75), "pitch": rng.normal(0, 0.22), "roll": rng.uniform(-1, 1)}
    return parts, points, view


SKINS = [(245, 214, 190), (232, 190, 160), (205, 155, 115), (160, 110, 75), (105, 70, 50)]
HAIRS = [(40, 30, 28), (90, 60, 38), (165, 120, 65), (225, 195, 130), (150, 70, 40), (190, 190, 190)]
IRISES = [(80, 55, 30), (70, 110, 150), (85, 115, 70)]


def human_face_68(rng, look):
    """300-W's 68 points."""
    return human_face(rng)


def human_face_19(rng, look):
    """AFLW's 19 points."""
    parts, p, view = human_face(rng)
    return parts, np.stack([p[17], p[19], p[21], p[22], p[24], p[26], p[36], p[36:42].mean(0), p[39], p[42],
                            p[42:48].mean(0), p[45], p[31], p[33], p[35], p[48], (p[62] + p[66]) / 2, p[54],
                            p[8]]), view


def human_body(rng, look):
    """COCO's 17 points of a person."""
    skin, hair = tint(rng, SKINS[rng.integers(len(SKINS))]), tint(rng, HAIRS[rng.integers(len(HAIRS))])
    shirt, trousers = tint(rng, rng.integers(30, 230, 3)), tint(rng, rng.integers(30, 200, 3))
    plump, tall = rng.uniform(0.85, 1.25), rng.uniform(0.9, 1.1)
    lean = rotation(pitch=rng.normal(0, 0.15), roll=rng.normal(0, 0.15))
    chest, neck = lean @ [0, -0.26, 0], lean @ [0, -0.33, 0]
    skull = lean @ [0, -0.42, 0.01]
    face = rotation(rng.normal(0, 0.4), rng.normal(0, 0.2), rng.normal(0, 0.15))

    def on(x, y, z):
        return skull + face @ np.array([x, y, z])
    parts = [limb(chest, [0, -0.02, 0], 0.1 * plump, 0.085 * plump, shirt, texture=rng.choice([None, None, "stripes"])),
             limb(neck, skull, 0.035, 0.035, skin), ball(skull, [0.062, 0.08, 0.07], skin, face, 0.01),
             ball(on(0, -0.022, -0.018), [0.07, 0.075, 0.068], hair, face),
             sheet([on(x, y, z) for x, y,
                    z in ((-0.06, -0.03, 0.04), (0, -0.05, 0.07), (0.06, -0.03, 0.04), (0.045, -0.085, 0),
                          (-0.045, -0.085, 0))], hair, bias=0.03)]
    points = {"nose": on(0, 0.015, 0.085)}
    parts.append(ball(points["nose"], [0.012, 0.016, 0.012], shade(skin, 0.85), face, 0.02))
    parts.append(line([on(-0.02, 0.045, 0.065), on(0.02, 0.045, 0.065)], 0.01, (150, 70, 70), 0.02))
    sitting, sleeves, shorts = rng.random(3) < [0.2, 0.5, 0.4]
    stride = rng.uniform(-0.7, 0.7)
    for side, name in zip(SIDES, ("left ", "right ")):
        points |= {name + "eye": on(side * 0.026, -0.012, 0.064), name + "ear": on(side * 0.064, 0, 0)}
        parts += [*eye(points[name + "eye"], 0.007),
                  ball(points[name + "ear"], [0.014, 0.022, 0.016], shade(skin, 0.9), face)]
        shoulder = chest + lean @ [side * 0.125 * plump, -0.01, 0]
        out, up = abs(rng.normal(0.25, 0.7)), rng.normal(0, 0.5)
        direction = np.array([side * np.sin(out), np.cos(out), np.sin(up)])
        elbow = shoulder + 0.17 * tall * direction / np.linalg.norm(direction)
        bend = rng.normal(0, 0.7, 3) * [1, 1, 0.5] + direction * 0.7 + [0, 0, 0.5]
        wrist = elbow + 0.155 * tall * bend / np.linalg.norm(bend)
        parts += [limb(shoulder, elbow, 0.042 * plump, 0.032, shirt),
                  limb(elbow, wrist, 0.03, 0.021, shirt if sleeves else skin),
                  ball(wrist + 0.03 * (wrist - elbow) / 0.155, [0.028] * 3, skin, bias=0.01)]
        hip = np.array([side * 0.062 * plump, 0.02, 0])
        swing = side * stride
        first, second = swing + abs(rng.normal(0, 0.2)), min(swing, 0.1) - abs(rng.normal(0, 0.3))
        if sitting:
            first, second = rng.uniform(1.2, 1.6), rng.uniform(-0.2, 0.4)
        knee = hip + 0.23 * tall * way(first, side * abs(rng.normal(0.08, 0.25)))
        ankle = knee + 0.22 * tall * way(second, side * rng.normal(0.02, 0.12))
        parts += [limb(hip, knee, 0.062 * plump, 0.045, trousers),
                  limb(knee, ankle, 0.042, 0.028, skin if shorts else trousers),
                  limb(ankle + [0, 0.02, 0], ankle + [0, 0.03, 0.06], 0.026, 0.022, shade(hair, 0.6), 0.01)]
        points |= {name + "shoulder": shoulder, name + "elbow": elbow, name + "wrist": wrist, name + "hip": hip,
                   name + "knee": knee, name + "ankle": ankle}
    names = ["nose"] + [f"{side} {joint}" for joint in ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee",
                                                        "ankle") for side in ("left", "right")]
    view = {"yaw": rng.uniform(-1.3, 1.3), "pitch": rng.normal(0.05, 0.12),
            "roll": rng.normal(0, 0.25) + rng.choice([0, 0, 0, 1.4, -1.4])}
    return parts, np.array([points[name] for name in names]), view


def human_hand(rng, look):
    """The wrist and four points of each finger."""
    skin, side, back = tint(rng, SKINS[rng.integers(len(SKINS))]), rng.choice(SIDES), rng.random() < 0.5
    wrist, plump = np.array([0, 0.42, 0.0]), rng.uniform(0.85, 1.2)
    spread, fist = rng.uniform(0.2, 1.3), rng.uniform(0, 1.0)
    forearm = wrist + [rng.normal(0, 0.05), 0.3, 0]
    keypoints, parts = [wrist], [limb(wrist + [0, 0.04, 0], forearm, 0.085 * plump, 0.1 * plump, skin, -0.05)]
    bases = [(-0.11, 0.27, 0.19), (-0.11, 0.02, 0.165), (-0.035, -0.01, 0.185), (0.04, 0.0, 0.17), (0.11, 0.04, 0.135)]
    for finger, (x, y, length) in enumerate(bases):
        joint = np.array([x * plump, y, 0.0])
        lean = (-0.75 - 0.35 * spread if finger == 0 else 0.16 * spread * (finger - 2.3)) + rng.normal(0, 0.06)
        bend, knuckles = 0.0, [joint]
        curl = np.clip(fist + rng.normal(0, 0.45), -0.05, 1.5) * (0.5 if finger == 0 else 0.85)
        for part in (0.95, 0.75, 0.6) if finger else (0.85, 0.7, 0.55):
            bend += curl
            joint = joint + length * part * np.array([np.sin(lean) * np.cos(bend), -np.cos(lean) * np.cos(bend),
                                                      np.sin(bend)])
            knuckles.append(joint)
        widths = np.array([0.047, 0.042, 0.037, 0.031]) * plump * (0.85 if finger == 4 else 1.1 if finger == 0 else 1)
        for i in range(3):
            parts.append(limb(knuckles[i], knuckles[i + 1], widths[i], widths[i + 1], skin, bias=0.002 * i))
        if back:
            parts.append(ball(knuckles[3] - [0, 0, 0.03], [0.02, 0.024, 0.008], shade(skin, 1.15), bias=-0.01))
        keypoints += knuckles
    k = np.array(keypoints)
    parts.append(sheet([wrist + [-0.09 * plump, 0.02, 0], k[1] + [-0.04, 0, 0], (k[1] + k[5]) / 2 + [-0.02, 0.02, 0],
                        k[5] + [-0.04, 0, 0], k[9] - [0, 0.03, 0], k[13] - [0, 0.03, 0], k[17] + [0.045, 0, 0],
                        k[17] + [0.05, 0.15, 0], wrist + [0.085 * plump, 0.02, 0]], skin, True,
                       -0.012))
    ink = shade(skin, 0.75)
    if back:
        parts += [ball(k[j] - [0, 0, 0.045], [0.022, 0.016, 0.005], shade(skin, 0.88)) for j in (5, 9, 13, 17)]
    else:
        parts += [line([k[5] + [0, 0.08, 0.01], k[9] + [0, 0.14, 0.01], k[0] + [-0.03, -0.08, 0.01]], 0.01, ink, 0.01),
                  line([k[17] + [0, 0.06, 0.01], k[9] + [-0.02, 0.09, 0.01]], 0.01, ink, 0.01)]
    for part in parts:
        part.points = part.points * [side, 1, 1]
    view = {"yaw": rng.normal(0, 0.4) + np.pi * back, "pitch": rng.normal(0, 0.25), "roll": rng.uniform(-1.1, 1.1)}
    return parts, k * [side, 1, 1], view


def insect(rng, legs, coat):
    """Jointed legs of an insect that heads towards +x, seen from above (+z): parts, and (left, right) lists of joints.

    `legs`: for the three pairs, the base x and y, then per segment the length and its angle off straight outwards."""
    parts, joints = [], ([], [])
    for side, found in zip((-1, 1), joints):                    # its left is up in the image
        for x, y, segments, width in legs:
            at, turn = np.array([x, side * y, 0.0]), rng.normal(0, 0.2)
            found.append(at)
            for i, (length, angle) in enumerate(segments):
                angle += turn + rng.normal(0, 0.16)
                after = at + length * rng.uniform(0.88, 1.12) * np.array([np.sin(angle), side * np.cos(angle),
                                                                          0.12 if i == 0 else -0.15])
                parts.append(limb(at, after, width[i], width[i + 1], shade(coat, 0.75 + 0.12 * (i % 2)), -0.05))
                at = after
                found.append(at)
            parts.append(ball(at, [0.012] * 3, BLACK))
    return parts, joints


def from_above(rng):
    """The view of an insect that mostly heads to the right."""
    return {"yaw": rng.normal(0, 0.25), "pitch": rng.normal(0, 0.25),
            "roll": rng.uniform(-1.3, 1.3) + np.pi * (rng.random() < 0.2)}


def locust(rng, look):
    """35 points of a desert locust."""
    coat = tint(rng, [(150, 140, 60), (120, 150, 60), (165, 120, 75), (95, 85, 60)][rng.integers(4)])
    stretch = rng.uniform(0.9, 1.15)
    legs = [(0.16, 0.06, [(0.13, 0.35), (0.09, 0.9), (0.06, 0.5)], [0.018, 0.013, 0.009, 0.006]),
            (0.08, 0.065, [(0.14, -0.5), (0.1, -0.1), (0.07, -0.4)], [0.018, 0.013, 0.009, 0.006]),
            (0.0, 0.065, [(0.32, -1.15), (0.24, -0.5), (0.1, -0.9)], [0.042, 0.016, 0.012, 0.007])]
    parts, (left, right) = insect(rng, legs, coat)
    end = -0.52 * stretch
    parts += [limb([0.02, 0, 0], [end, 0, -0.03], 0.075, 0.022, shade(coat, 0.85), texture="stripes"),
              ball([0.1, 0, 0.02], [0.12, 0.08, 0.07], coat),
              ball([0.3, 0, 0.0], [0.075, 0.065, 0.06], shade(coat, 1.1)),
              limb([0.21, -0.03, 0.03], [0.21, 0.03, 0.03], 0.035, 0.035, shade(coat, 0.7), 0.02)]
    for side in (-1, 1):
        wing = [[0.1, side * 0.02, 0.08], [-0.2, side * 0.075, 0.07], [end * 0.85, side * 0.05, 0.05],
                [end * 0.8, 0, 0.05], [-0.1, 0, 0.08]]
        parts.append(sheet(wing, shade(coat, 1.2), True, texture="dots" if rng.random() < 0.5 else None))
    keypoints = [[0.32, 0, 0.06], [0.21, 0, 0.07], [0.08, 0, 0.09], [end * 0.5, 0, 0.07], [end - 0.015, 0, -0.02]]
    for side, joints in ((-1, left), (1, right)):
        a, b = np.array([0.36, side * 0.025, 0.03]), np.array([0.33, side * 0.06, 0.03])
        bearing = side * rng.uniform(0.2, 1.1)
        tip = a + rng.uniform(0.17, 0.28) * np.array([np.cos(bearing), np.sin(bearing), 0.1])
        parts += [line([a, (a + tip) / 2 + [0.02, 0, 0.02], tip], 0.014, shade(coat, 0.5), 0.02), *eye(b, 0.02)]
        keypoints += [tip, a, b, *joints]
    return parts, np.array(keypoints), from_above(rng)


def fly(rng, look):
    """32 points of a vinegar fly."""
    coat = tint(rng, [(75, 80, 90), (110, 90, 60), (60, 95, 80), (90, 70, 70)][rng.integers(4)])
    legs = [(0.16, 0.06, [(0.12, 0.55), (0.1, 1.0), (0.12, 1.15)], [0.018, 0.014, 0.01, 0.007]),
            (0.06, 0.08, [(0.13, -0.3), (0.1, 0.2), (0.14, 0.05)], [0.018, 0.014, 0.01, 0.007]),
            (-0.04, 0.07, [(0.15, -0.8), (0.12, -1.0), (0.14, -0.7)], [0.018, 0.014, 0.01, 0.007])]
    parts, (left, right) = insect(rng, legs, coat)
    length = rng.uniform(0.85, 1.2)
    parts += [ball([-0.25 * length, 0, -0.02], [0.19 * length, 0.1, 0.08], shade(coat, 0.85), texture="bands"),
              ball([0.06, 0, 0.02], [0.16, 0.11, 0.09], coat),
              ball([0.29, 0, 0.0], [0.07, 0.08, 0.06], shade(coat, 1.15)),
              ball([0.205, 0, 0.03], [0.025, 0.05, 0.03], shade(coat, 0.6), bias=0.02)]
    ends, open_ = [], rng.uniform(0.1, 0.7)
    for side in (-1, 1):
        along, root = np.array([-np.cos(open_), side * np.sin(open_), 0.0]), np.array([0.05, side * 0.06, 0.02])
        across = np.array([along[1], -along[0], 0])
        end = root + rng.uniform(0.5, 0.62) * along
        half = (root + end) / 2
        parts += [sheet([root, half + 0.09 * across - 0.1 * along, end, half - 0.09 * across - 0.05 * along],
                        (205, 212, 220), True, -0.2, outline=(120, 120, 125)),
                  line([root, half, end], 0.008, (130, 130, 135), -0.19)]
        ends.append(end)
    eyes = [np.array([0.29, side * 0.06, 0.045]) for side in (-1, 1)]
    for at in eyes:
        parts.append(ball(at, [0.045, 0.035, 0.03], (170, 45, 40), bias=0.03))
    keypoints = [[0.35, 0, 0.03], *eyes, [0.205, 0, 0.06], [0.06, 0, 0.11], [-0.25 * length, 0, 0.06], *right, *left,
                 *ends]
    return parts, np.array(keypoints), from_above(rng)


_CAT = dict(legs=0.28, body=0.5, girth=0.1, thick=0.036, neck=0.1, head=0.095, snout=0.035, muzzle=0.5,
            ear=("point", 0.09), tail=(0.4, -0.3, 0.25, 0.022, 0.02), sits=0.5)
_BEAR = dict(legs=0.28, body=0.5, girth=0.19, thick=0.07, neck=0.1, neck_up=0.3, head=0.13, snout=0.08,
             ear=("round", 0.09), tail=(0.04, -0.5, 0, 0.03, 0.03), sits=0.5)
_HOOFED = dict(hoof=BLACK, ear=("side", 0.08), sits=0.1)
_RODENT = dict(legs=0.14, body=0.4, girth=0.14, thick=0.03, neck=0.05, neck_up=0.4, head=0.11, snout=0.06, muzzle=0.4,
               ear=("round", 0.08), sits=0.4)
_LONG = dict(legs=0.14, body=0.6, girth=0.09, thick=0.032, neck=0.14, neck_up=0.5, head=0.08, snout=0.05,
             ear=("round", 0.05), sits=0.3)
LOOKS = {
    "horse_body": dict(_HOOFED, coat=(135, 75, 40), legs=0.46, girth=0.135, neck=0.27, neck_up=0.9, snout=0.17,
        head=0.08, limbs=(70, 45, 35), ear=("point", 0.07), mane=("crest", BLACK),
        tail=(0.38, -0.9, -0.15, 0.03, 0.05), tip=BLACK),
    "dog_body": dict(coat=(205, 165, 100), legs=0.32, girth=0.11, neck=0.14, head=0.1, snout=0.1, ear=("flop", 0.1),
        tail=(0.28, 0.5, 0.3, 0.025, 0.015), sits=0.5, belly=CREAM),
    "panda_body": dict(_BEAR, coat=WHITE, limbs=BLACK, ears=BLACK, mask=BLACK, girth=0.2),
    "hamster_body": dict(_RODENT, coat=(225, 170, 105), belly=WHITE, legs=0.1, girth=0.17, body=0.34,
        tail=(0.03, 0, 0, 0.015, 0.01)),
    "panther_body": dict(_CAT, coat=(42, 42, 50), ear=("round", 0.07), girth=0.12, face=(60, 60, 68)),
    "pig_body": dict(_HOOFED, coat=(235, 175, 170), legs=0.22, girth=0.18, neck=0.06, neck_up=0.2, head=0.12,
        snout=0.1, muzzle=0.6, ear=("point", 0.11), tail=(0.16, 0.9, 1.3, 0.012, 0.01), face=(225, 150, 150)),
    "cat_body": dict(_CAT, coat=(165, 150, 140), texture=("stripes", (100, 88, 80)), tail=(0.4, 0.6, 0.3, 0.02, 0.02)),
    "bobcat_body": dict(_CAT, coat=(190, 150, 105), texture=("dots", (110, 80, 50)),
        tail=(0.08, 0.1, 0.2, 0.025, 0.025), ear=("point", 0.13), legs=0.33, belly=CREAM),
    "elephant_body": dict(coat=(135, 132, 138), legs=0.42, girth=0.22, body=0.55, thick=0.085, neck=0.08, neck_up=0.4,
        head=0.15, snout=0.03, ear=("fan", 0.17), horn="trunk", tail=(0.25, -1.2, -0.1, 0.014, 0.012), sits=0),
    "deer_body": dict(_HOOFED, coat=(170, 110, 65), legs=0.46, girth=0.11, neck=0.22, neck_up=1.0, head=0.07,
        snout=0.09, horn="antler", thick=0.034, belly=CREAM, tail=(0.07, 0.2, 0, 0.025, 0.015), muzzle=0.4),
    "rabbit_body": dict(_RODENT, coat=(175, 155, 135), ear=("long", 0.14), tail=(0.03, 0.3, 0, 0.045, 0.045),
        tip=WHITE, legs=0.18, belly=CREAM, snout=0.04),
    "bison_body": dict(_HOOFED, coat=(95, 62, 40), legs=0.3, girth=0.2, neck=0.09, neck_up=-0.2, head=0.13, snout=0.1,
        mane=("ruff", (55, 36, 26)), horn="curved", tail=(0.22, -1.1, -0.1, 0.014, 0.02), limbs=(60, 40, 30)),
    "rhino_body": dict(coat=(150, 145, 140), legs=0.28, girth=0.2, body=0.6, thick=0.075, neck=0.1, neck_up=0.0,
        head=0.11, snout=0.14, horn="rhino", tail=(0.16, -1.1, 0, 0.014, 0.012), sits=0.05, ear=("point", 0.08)),
    "squirrel_body": dict(_RODENT, coat=(175, 95, 45), belly=WHITE, girth=0.1, tail=(0.55, 0.9, 0.3, 0.05, 0.1),
        ear=("point", 0.08), sits=0.7, legs=0.2),
    "gorilla_body": dict(coat=(62, 60, 66), legs=0.38, girth=0.19, body=0.42, thick=0.07, neck=0.1, neck_up=0.8,
        head=0.13, snout=0.03, muzzle=0.6, face=(40, 38, 42), ear=("round", 0.05), tail=(0.02, -0.5, 0, 0.02, 0.02),
        sits=0.5, saddle=(120, 120, 125)),
    "sheep_body": dict(_HOOFED, coat=(236, 230, 215), limbs=(60, 52, 50), face=(60, 52, 50), girth=0.2, body=0.45,
        legs=0.26, neck=0.12, neck_up=0.5, thick=0.032, tail=(0.1, -1.0, 0, 0.035, 0.03),
        texture=("dots", (215, 208, 192)), ears=(60, 52, 50)),
    "spider_monkey_body": dict(coat=(75, 55, 45), legs=0.5, girth=0.09, body=0.4, thick=0.032, neck=0.1, head=0.085,
        snout=0.02, face=(200, 165, 140), ear=("round", 0.05), tail=(0.6, 0.5, 0.7, 0.022, 0.015), sits=0.4),
    "otter_body": dict(_LONG, coat=(105, 75, 55), belly=(190, 165, 135), girth=0.11,
        tail=(0.35, -0.2, 0, 0.055, 0.015), muzzle=0.65),
    "leopard_body": dict(_CAT, coat=(220, 175, 95), texture=("spots", (70, 50, 30)), ear=("round", 0.08), girth=0.12),
    "hippo_body": dict(coat=(150, 115, 120), legs=0.17, girth=0.22, body=0.6, thick=0.08, neck=0.06, neck_up=0.1,
        head=0.12, snout=0.15, muzzle=1.0, ear=("round", 0.06), tail=(0.08, -1, 0, 0.018, 0.01), sits=0.1,
        belly=(205, 160, 155)),
    "zebra_body": dict(_HOOFED, coat=WHITE, texture=("stripes", BLACK), legs=0.42, girth=0.14, neck=0.23, neck_up=0.85,
        snout=0.14, head=0.08, face=(70, 65, 65), ear=("point", 0.07), mane=("crest", BLACK),
        tail=(0.32, -1.0, 0, 0.015, 0.03)),
    "antelope_body": dict(_HOOFED, coat=(200, 140, 80), legs=0.48, girth=0.11, neck=0.2, neck_up=0.9, head=0.07,
        snout=0.1, horn="upright", belly=WHITE, saddle=(120, 75, 45), thick=0.03, tail=(0.15, -1.0, 0, 0.012, 0.018)),
    "fox_body": dict(coat=(215, 105, 40), limbs=(60, 40, 35), belly=WHITE, legs=0.27, girth=0.085, thick=0.03,
        head=0.085, snout=0.1, muzzle=0.3, ear=("point", 0.12), tail=(0.45, -0.4, 0.1, 0.04, 0.065), tip=WHITE,
        sits=0.35),
    "skunk_body": dict(coat=(38, 36, 40), saddle=WHITE, legs=0.16, girth=0.11, body=0.42, thick=0.032, neck=0.06,
        head=0.08, snout=0.07, muzzle=0.35, ear=("round", 0.05), tail=(0.45, 0.8, 0.25, 0.05, 0.09), tip=WHITE,
        sits=0.1),
    "giraffe_body": dict(_HOOFED, coat=(230, 190, 120), texture=("patches", (150, 90, 45)), legs=0.56, body=0.4,
        girth=0.12, neck=0.55, neck_up=1.15, head=0.065, snout=0.1, thick=0.034, horn="upright",
        tail=(0.25, -1.2, 0, 0.012, 0.02)),
    "lion_body": dict(_CAT, coat=(210, 160, 95), mane=("ruff", (125, 70, 35)), girth=0.125, head=0.1,
        ear=("round", 0.08), tip=(80, 50, 35), snout=0.05, legs=0.32),
    "polar_bear_body": dict(_BEAR, coat=(240, 236, 222), neck=0.18, head=0.1, ear=("round", 0.06), legs=0.3),
    "cheetah_body": dict(_CAT, coat=(230, 190, 115), texture=("dots", BLACK), legs=0.4, girth=0.095, head=0.07,
        ear=("round", 0.06), sits=0.3),
    "cow_body": dict(_HOOFED, coat=WHITE, texture=("patches", (50, 42, 40)), legs=0.32, girth=0.18, body=0.58,
        neck=0.15, neck_up=0.5, snout=0.13, horn="curved", face=(230, 180, 170), tail=(0.35, -1.3, 0, 0.012, 0.02)),
    "rat_body": dict(_RODENT, coat=(125, 115, 110), tail=(0.5, -0.2, 0.1, 0.015, 0.008), tip=PINK, girth=0.11,
        body=0.42, snout=0.1, muzzle=0.25, hoof=PINK),
    "raccoon_body": dict(_RODENT, coat=(135, 130, 125), mask=BLACK, tail=(0.32, -0.2, 0.2, 0.05, 0.045), tip=BLACK,
        legs=0.2, limbs=(80, 75, 75), ear=("point", 0.08), muzzle=0.3, face=WHITE),
    "beaver_body": dict(_RODENT, coat=(110, 70, 42), girth=0.17, tail=(0.25, -0.3, 0.05, 0.05, 0.085),
        tip=(60, 50, 48), legs=0.12, muzzle=0.55, ear=("round", 0.04)),
    "weasel_body": dict(_LONG, coat=(165, 105, 60), belly=WHITE, girth=0.065, head=0.06,
        tail=(0.22, 0, 0.1, 0.02, 0.02), thick=0.022),
    "wolf_body": dict(coat=(150, 148, 145), saddle=(85, 85, 88), belly=(215, 212, 205), legs=0.37, girth=0.12,
        head=0.1, snout=0.12, muzzle=0.4, ear=("point", 0.1), tail=(0.32, -0.9, 0.1, 0.04, 0.05), sits=0.2),
    "macaque": dict(coat=(165, 135, 100), legs=0.36, girth=0.12, body=0.4, thick=0.038, neck=0.09, neck_up=0.8,
        head=0.105, snout=0.03, face=(225, 165, 150), ears=(215, 160, 145), ear=("round", 0.075),
        tail=(0.2, 0.3, 0.4, 0.02, 0.015), sits=0.55, hoof=(215, 160, 145)), 
    "fennecfox_face": dict(coat=(230, 200, 150), ear=("point", 0.45), muzzle=0.09, width=0.26, height=0.25,
        snout=WHITE, nose_size=0.04),
    "chipmunk_face": dict(coat=(185, 125, 70), ear=("round", 0.16), muzzle=0.11, long=0.16, mark=("cheek", WHITE),
        nose=PINK, nose_size=0.035, eyes=(0.8, -0.12, 0.07)),
    "klipspringer_face": dict(coat=(175, 150, 100), ear=("side", 0.34), horn="short", muzzle=0.1, long=0.28, drop=0.24,
        width=0.23, ears=(215, 205, 180), mark=("mask", (90, 70, 50)), eyes=(0.9, -0.1, 0.065)),
    "przewalskihorse_face": dict(coat=(190, 140, 85), ear=("point", 0.22), muzzle=0.14, long=0.3, drop=0.45,
        width=0.22, height=0.34, snout=CREAM, nose=(90, 70, 60), mane=(70, 50, 40), eyes=(1.0, -0.16, 0.06)),
    "californiansealion_face": dict(coat=(85, 65, 50), ear=("low", 0.07), muzzle=0.14, long=0.22, width=0.25,
        height=0.3, nose_size=0.055),
    "arcticwolf_face": dict(coat=(238, 236, 230), ear=("point", 0.24), muzzle=0.12, long=0.3, mane=(225, 222, 215),
        iris=(190, 150, 60)),
    "guanaco_face": dict(coat=(190, 125, 80), ear=("long", 0.22), muzzle=0.11, long=0.25, drop=0.22, width=0.19,
        height=0.26, snout=(95, 90, 90), eyes=(0.95, -0.08, 0.07)),
    "fallowdeer_face": dict(coat=(175, 115, 70), ear=("side", 0.26), horn="antler", muzzle=0.11, long=0.28, drop=0.28,
        width=0.21, eyes=(0.95, -0.1, 0.06)),
    "dassie_face": dict(coat=(125, 100, 78), ear=("round", 0.13), muzzle=0.12, long=0.18, width=0.29, height=0.26,
        nose=(60, 45, 45), mark=("mask", (195, 175, 140)), eyes=(0.75, -0.1, 0.055)),
    "greyseal_face": dict(coat=(130, 132, 138), ear=("none", 0), muzzle=0.17, long=0.22, width=0.28, height=0.27,
        eyes=(0.65, -0.14, 0.08), snout=(160, 160, 165)),
    "quokka_face": dict(coat=(150, 110, 75), ear=("round", 0.2), muzzle=0.13, long=0.16, nose_size=0.055,
        eyes=(0.75, -0.1, 0.06), snout=(180, 145, 110)),
    "camel_face": dict(coat=(205, 165, 110), ear=("round", 0.13), muzzle=0.15, long=0.32, drop=0.2, width=0.2,
        height=0.26, nose=(120, 85, 65), nose_size=0.05, beard=(150, 110, 70), eyes=(1.0, -0.12, 0.07)),
    "alpaca_face": dict(coat=(240, 225, 200), ear=("long", 0.18), muzzle=0.1, long=0.18, drop=0.16, width=0.25,
        height=0.32, mane=(228, 208, 178), snout=(250, 240, 225), nose=(110, 80, 75), nose_size=0.045),
    "goldenretriever_face": dict(coat=(220, 170, 95), ear=("flop", 0.26), muzzle=0.14, long=0.24, drop=0.14,
        snout=(230, 190, 125), nose_size=0.07),
    "onager_face": dict(coat=(205, 165, 120), ear=("long", 0.24), muzzle=0.14, long=0.3, drop=0.4, width=0.22,
        height=0.32, snout=WHITE, nose=GREY, mark=("blaze", (165, 120, 80)), eyes=(1.0, -0.16, 0.06)),
    "bonobo_face": dict(coat=(45, 42, 45), ear=("low", 0.13), muzzle=0.16, long=0.1, drop=0.14, snout=(70, 58, 55),
        mark=("mask", (75, 62, 58)), eyes=(0.42, -0.06, 0.06), nose_size=0.045, ears=(80, 65, 60)),
    "gibbons_face": dict(coat=(200, 170, 120), ear=("none", 0), muzzle=0.12, long=0.06, drop=0.12, snout=(55, 50, 50),
        mark=("mask", (50, 46, 46)), eyes=(0.42, -0.06, 0.06), nose_size=0.035, mane=(215, 190, 145)),
    "ferret_face": dict(coat=(235, 222, 200), ear=("round", 0.13), muzzle=0.09, long=0.2, width=0.24, height=0.22,
        mark=("mask", (85, 62, 52)), nose=PINK, nose_size=0.04, eyes=(0.65, -0.08, 0.05)),
    "pademelon_face": dict(coat=(120, 92, 70), ear=("long", 0.17), muzzle=0.1, long=0.24, width=0.23, height=0.27,
        eyes=(0.9, -0.1, 0.065), snout=(140, 112, 92)),
    "olivebaboon_face": dict(coat=(125, 115, 70), ear=("low", 0.1), muzzle=0.13, long=0.38, drop=0.2, width=0.24,
        snout=(70, 60, 62), mark=("mask", (90, 78, 68)), eyes=(0.4, -0.12, 0.05), mane=(140, 130, 85)),
    "germanshepherddog_face": dict(coat=(190, 140, 80), ear=("point", 0.3), ears=(75, 55, 45), muzzle=0.12, long=0.32,
        snout=(50, 42, 40), mark=("mask", (90, 62, 45)), nose=(25, 22, 22)),
    "commonwarthog_face": dict(coat=(125, 108, 100), ear=("side", 0.18), muzzle=0.17, long=0.3, drop=0.34, width=0.24,
        height=0.3, horn="tusk", nose=(165, 125, 115), nose_size=0.1, mark=("cheek", (95, 80, 75)), mane=(70, 55, 50),
        eyes=(0.75, -0.2, 0.045)),
    "grizzlybear_face": dict(coat=(120, 82, 52), ear=("round", 0.2), muzzle=0.14, long=0.24, width=0.33,
        snout=(165, 125, 85), nose_size=0.075, eyes=(0.5, -0.08, 0.045)),
    "bighornsheep_face": dict(coat=(165, 130, 100), ear=("side", 0.13), horn="curl", muzzle=0.13, long=0.26, drop=0.3,
        width=0.22, snout=WHITE, nose=(110, 90, 80), nose_size=0.05, iris=(200, 160, 60), eyes=(0.95, -0.08, 0.055)),
    "capebuffalo_face": dict(coat=(62, 54, 52), ear=("side", 0.25), horn="boss", muzzle=0.17, long=0.26, drop=0.32,
        width=0.26, nose_size=0.1, nose=(30, 28, 30), eyes=(0.9, -0.05, 0.055)),
    "proboscismonkey_face": dict(coat=(185, 105, 65), ear=("low", 0.1), muzzle=0.12, long=0.08, drop=0.18,
        snout=(225, 160, 130), mark=("mask", (222, 158, 128)), nose=(215, 140, 115), nose_size=0.13,
        eyes=(0.42, -0.1, 0.05)),
    "gerbil_face": dict(coat=(215, 165, 100), ear=("round", 0.2), ears=(225, 165, 150), muzzle=0.1, long=0.18,
        width=0.24, height=0.25, snout=WHITE, nose=PINK, nose_size=0.035, eyes=(0.85, -0.12, 0.08), iris=BLACK),
    "blackbuck_face": dict(coat=(60, 45, 42), ear=("side", 0.22), horn="upright", muzzle=0.1, long=0.28, drop=0.26,
        width=0.2, mark=("mask", WHITE), snout=(85, 65, 60), eyes=(0.9, -0.1, 0.06)),
    "gentoopenguin_face": dict(coat=(45, 45, 52), ear=("none", 0), muzzle=0.07, long=0.42, drop=0.08, width=0.24,
        height=0.25, snout=(225, 110, 50), nose=(190, 80, 35), nose_size=0.03, mark=("mask", WHITE),
        eyes=(0.85, -0.1, 0.05)),
    "capybara_face": dict(coat=(155, 112, 72), ear=("round", 0.1), muzzle=0.2, long=0.28, drop=0.16, width=0.25,
        height=0.27, nose=(70, 50, 45), nose_size=0.075, eyes=(0.9, -0.2, 0.05)),
    "Woodpecker": dict(back=BLACK, breast=(225, 215, 200), crown=(210, 40, 35), texture=("dots", WHITE), upright=0.95,
        beak=(0.13, 0.028, (70, 70, 75)), face=WHITE, crest=True, tail=(0.24, -0.15, 0.05), legs=0.1),
    "Wren": dict(back=(140, 90, 55), breast=(200, 165, 125), tail=(0.17, 1.2, 0.04), girth=0.15, body=0.27,
        texture="stripes", beak=(0.1, 0.016, (80, 65, 50)), upright=0.3, head=0.095),
    "Gull": dict(back=WHITE, breast=WHITE, wing=(165, 172, 180), beak=(0.13, 0.032, (235, 185, 40)), body=0.38,
        neck=0.12, upright=0.25, spread=0.35, wing_size=0.32, leg_colour=(235, 170, 130)),
    "Kingfisher": dict(back=(35, 115, 180), breast=(225, 125, 50), throat=WHITE, beak=(0.24, 0.034, (45, 45, 50)),
        head=0.115, neck=0.06, legs=0.08, tail=(0.12, -0.1, 0.04), upright=0.7, leg_colour=(215, 80, 50), crest=True),
    "Sparrow": dict(back=(150, 110, 75), breast=(205, 195, 180), crown=(120, 65, 40), throat=(50, 42, 40),
        texture=("stripes", (85, 60, 40)), beak=(0.075, 0.036, (75, 68, 62)), head=0.092, girth=0.14),
    "Tern": dict(back=(215, 220, 226), breast=WHITE, crown=BLACK, wing=(180, 188, 196),
        beak=(0.15, 0.022, (225, 75, 40)), fork=True, tail=(0.36, 0.0, 0.09), body=0.4, girth=0.105, legs=0.08,
        spread=0.5, wing_size=0.4, upright=0.15, leg_colour=(215, 70, 40)),
    "Grebe": dict(back=(95, 75, 65), breast=(190, 120, 80), crown=(40, 35, 35), throat=(160, 75, 45), neck=0.24,
        beak=(0.14, 0.022, (205, 175, 120)), tail=(0.07, 0.3, 0.04), body=0.42, girth=0.14, upright=0.1, crest=True,
        legs=0.09),
    "Warbler": dict(back=(150, 155, 60), breast=(240, 210, 60), crown=(95, 105, 60), beak=(0.08, 0.016, (70, 60, 50)),
        head=0.08, texture=("bands", WHITE), girth=0.115, leg_colour=(90, 70, 60)),
}
TEMPLATES = {f.__name__: f for f in (animal_body, macaque, animal_face, bird, human_face_19, human_face_68, human_body,
                                     human_hand, locust, fly)}
