"""More views of few photographs (`train.py --augmentation wide`; its parts in nano's pre-training).

The authors turn and scale an image. Forty photographs hold little else than forty poses, so here
they are also mirrored, stretched and shown in another light. How far an object may be turned, and
whether it may be mirrored, its photographs say themselves: each is turned to lie as another one of
its category does. Set squares lie at any angle, skulls stand upright. Of what bends, like an arm,
one cannot say how it lies: it is turned as the authors do.
"""

import math
import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch

import data
from capellm import Codec
from support import photos
from support.descriptions import OPPOSITE, simplify_name

# Sides, also as "l" and "r".
SIDES = re.compile(r"left|right|\b[lr]\b")
# What may tell sides apart in a name, of an animal's paws "LF" and "RH", "earL", or in another
# language: too much rather than too little, since nothing is mirrored then.
HINTS = re.compile(
    r"\b[lr][a-z]\b|(?i:\blinks\b|\brechts\b|gauche|droite?\b|izquierd|derech|sinistr|destr)"
    r"|\b[LR][A-Z]\b|[a-z0-9][LR]\b|\b[LR](?=[A-Z][a-z])"
)
# Of what does not bend, turned and scaled keypoints fit those of another photograph so well: rigid
# things and x-rays reach 0.95, a robot's arm 0.8.
RIGID = 0.9
# A line has no sides: so much better must keypoints fit a mirror image.
HANDED = 0.001
TURN = math.radians(15)  # at most, beside the pose of another photograph
STRETCH = 0.2  # at most, of the logarithm of both sides


class Pose(NamedTuple):
    """How keypoints lie beside those of another photograph."""

    angle: float  # by which they are turned, in radians, from x to y
    mirrored: bool
    fit: float  # 1: they are then the same but for size; 0: nothing is known


UNKNOWN = Pose(0.0, False, 0.0)


class WideViews:
    """Views of an instance: as the authors', in another's pose, stretched, in another light.

    A keypoint that is called left is called right in a mirror: if all that tell sides apart have a
    counterpart, half of the views are mirrored and names exchanged. Otherwise an image is mirrored
    to lie as another does that is, unless a name or description tells sides apart.
    """

    def __init__(self, instances, described):
        """described: {category id: list[Keypoint]}"""
        by_category = defaultdict(list)
        for instance in instances:
            by_category[instance.category].append(instance)
        self.exchanged, self.poses, self.others = {}, {}, {}
        for category, own in by_category.items():
            keypoints = described[category]
            self.exchanged[category] = find_counterparts(keypoints)
            has_sides = any(list_sides(k) or hints_at_side(k) for k in keypoints)
            poses = find_poses(own)
            known = [pose for pose in poses if pose != UNKNOWN]
            unknown = [pose for pose in poses if pose == UNKNOWN]
            for instance, pose in zip(own, poses, strict=True):
                others = unknown if pose == UNKNOWN else known
                if has_sides:
                    others = [p for p in others if p.mirrored == pose.mirrored]
                self.poses[identify(instance)], self.others[identify(instance)] = pose, others

    def __call__(self, instance, size, rng):
        """Pixels (3, size, size), points (K, 3): x, y relative to them, v, and their keypoints.

        Of each of the instance's points the number of the keypoint that it is called.
        """
        scale, angle = data.draw_augmentation(rng)
        own, other = self.poses[identify(instance)], rng.choice(self.others[identify(instance)])
        if own != UNKNOWN:
            angle = rng.uniform(-TURN, TURN)
        order = self.exchanged[instance.category]
        is_exchanged = order is not None and rng.random() < 0.5
        is_flipped = own.mirrored != other.mirrored
        # As complex numbers, the crop's u lies at exp(i angle) u in the image, in a mirror at
        # -exp(i angle) times the conjugate of u. What lies as own.angle shall lie as other.angle.
        if is_flipped:
            angle += own.angle + other.angle - math.pi
        else:
            angle += own.angle - other.angle
        wider = math.exp(rng.uniform(-STRETCH, STRETCH))
        side = -1 if is_flipped or is_exchanged else 1
        linear = make_turn(angle) @ np.diag([side * wider, 1 / wider])

        shown = map_keypoints(instance, data.make_affine(instance.bbox, size), size)[:, 2] > 0
        affine = frame_keypoints(instance, linear, size, scale)
        points = map_keypoints(instance, affine, size)
        while not (points[shown, 2] > 0).all():
            # It loses what the plain crop shows: not zoomed in, or a little wider.
            scale = 1.0 if scale < 1 else 1.05 * scale
            affine = frame_keypoints(instance, linear, size, scale)
            points = map_keypoints(instance, affine, size)
        image, factor = photos.open_annotated(instance, np.hypot(*affine[:, 0]) * size, size)
        pixels = data.cut_crop(image, affine * factor, size)
        pixels = change_light(exchange_colours(pixels, rng), rng)
        return pixels, points, order if is_exchanged else range(len(points))


def make_turn(angle):
    """The 2x2 matrix that turns by an angle in radians, from x to y."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s], [s, c]])


def frame_keypoints(instance, linear, size, scale):
    """The 2x3 matrix from crop pixels to image pixels, whose 2x2 part is like `linear`.

    Around an object that lies in another way another box would have been drawn. This guesses it:
    its side grows or shrinks as that of the keypoints' own box does, and its middle keeps its place
    beside theirs.
    """
    x, y, w, h = instance.bbox
    middle = np.array([x + w / 2, y + h / 2])
    in_image = instance.keypoints[instance.keypoints[:, 2] > 0, :2].astype(float)
    in_crop = in_image @ np.linalg.inv(linear).T
    # Few keypoints, in one line, say little about the object.
    ratio = np.clip(measure_side(in_crop) / measure_side(in_image), 0.8, 1.5)
    centre = middle + linear @ find_middle(in_crop) - find_middle(in_image)
    linear = linear * max(w, h) * ratio * scale / size
    return np.concatenate([linear, (centre - linear @ [size / 2, size / 2])[:, None]], 1)


def measure_side(points):
    """The longest side of the box of points (n, 2), at least a pixel."""
    return max(np.ptp(points, axis=0).max(), 1.0)


def find_middle(points):
    """The middle of the box of points (n, 2)."""
    return (points.min(0) + points.max(0)) / 2


def map_keypoints(instance, affine, size):
    """Keypoints (K, 3), x and y relative to a crop, v 0 of those outside."""
    points = data.map_to_crop(instance.keypoints[:, :2], affine, size)
    points = np.concatenate([points, instance.keypoints[:, 2:]], 1)
    hide_outside(points)
    return points


def identify(instance):
    """What tells an instance from others, in every process."""
    return instance.image, instance.id


def find_poses(instances) -> list[Pose]:
    """The poses of a category's instances, beside that with most keypoints."""
    reference = max(instances, key=lambda i: (i.keypoints[:, 2] > 0).sum())
    poses = [find_pose(i.keypoints, reference.keypoints) for i in instances]
    # The reference fits itself.
    others = [pose for i, pose in zip(instances, poses, strict=True) if i is not reference]
    fits = [pose.fit for pose in others if pose != UNKNOWN]
    if not fits or np.median(fits) < RIGID:
        return [UNKNOWN] * len(poses)
    return poses


def find_pose(keypoints, reference) -> Pose:
    """How keypoints (K, 3) lie beside a reference's (K, 3): least squares over those of both.

    With points as complex numbers around their centres, turning and scaling is a product with one
    number, and mirroring takes the conjugate. Fewer than three in common say nothing.
    """
    common = (keypoints[:, 2] > 0) & (reference[:, 2] > 0)
    if common.sum() < 3:
        return UNKNOWN
    z, r = (points[common, 0] + 1j * points[common, 1] for points in (keypoints, reference))
    z, r = z - z.mean(), r - r.mean()
    turned, mirrored = (z * r.conj()).sum(), (z * r).sum()
    longest = max(np.linalg.norm(z) * np.linalg.norm(r), 1e-9)
    is_mirrored = bool(abs(mirrored) > abs(turned) + HANDED * longest)
    factor = mirrored if is_mirrored else turned
    return Pose(float(np.angle(factor)), is_mirrored, float(abs(factor) / longest))


def list_sides(keypoint):
    """The sides that a keypoint's name and description mention."""
    return SIDES.findall(simplify_name(f"{keypoint.name} {keypoint.description}"))


def hints_at_side(keypoint):
    """Whether a name may tell sides apart in another way than by the words."""
    return bool(HINTS.search(keypoint.name.replace("_", " ")))


def exchange_sides(name):
    """A keypoint's name after mirroring the image: left and right exchanged."""
    return SIDES.sub(lambda side: OPPOSITE[side[0]], name)


def find_counterparts(keypoints):
    """Where each keypoint's counterpart stands; None if one has none, or no name has a side.

    One that is its own counterpart mentions both sides equally often, or none.
    """
    names = [simplify_name(keypoint.name) for keypoint in keypoints]
    index = {name: j for j, name in enumerate(names)}
    order = [index.get(exchange_sides(name)) for name in names]
    if None in order or order == list(range(len(names))):
        return None
    for j, keypoint in enumerate(keypoints):
        sides = list_sides(keypoint)
        if order[j] == j and hints_at_side(keypoint):
            return None
        if order[j] == j and sum(side.startswith("l") for side in sides) * 2 != len(sides):
            return None
    return order


def hide_outside(points):
    """Set v of points (K, 3) to 0 where the image does not show them."""
    points[:, 2] *= Codec.has_code(points[:, :2]).all(1)


def exchange_colours(pixels, rng):
    """Pixels (3, S, S), at times with their channels in another order."""
    channels = [0, 1, 2]
    if rng.random() < 0.3:
        channels = rng.sample(range(3), 3)
    return pixels[channels]


def change_light(pixels, rng):
    """Pixels brighter or darker, and by channel."""
    gain = rng.uniform(0.8, 1.25)
    gains = [rng.uniform(0.7, 1.3) * gain for _ in range(3)]
    return pixels * torch.tensor(gains).view(3, 1, 1) + rng.uniform(-0.3, 0.3)
